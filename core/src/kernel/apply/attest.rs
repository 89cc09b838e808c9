//! Attestation: what the heads of all logs and the states of all tenants are, on the record.
//!
//! One op, two transactions of the system tenant: a record for each tenant whose log has grown
//! since it was last attested (log size, root and hash, state root; they become the tree of
//! attested heads), then, with that tree hashed, a checkpoint record with the system's own state
//! root. So two proofs that exist anyway, a path in a tree and an inclusion in a log, lead from any
//! row of any tenant to the head of the system's log, which is signed.
//!
//! Invariant: the records are functions of the state; the state roots are those after the last
//! record before.

use crate::crypto::{LeafSaltKey, TenantKeys};
use crate::ids::{KeyId, Position, TenantId};
use crate::io::Effects;
use crate::kernel::drafts::Drafts;
use crate::kernel::payload::{Payload, STREAM_SYSTEM};
use crate::kernel::request::{OperationResult, Reply, RequestError, ResultDetail};
use crate::kernel::results::Results;
use crate::kernel::transaction::Transaction;
use crate::kernel::trees::{self, ATTESTED_TREE, AttestedHead, TENANTS_TREE};
use crate::kernel::{Attestation, Kernel, KernelError, Keys, Prepare, Stall, World};
use crate::log::{CheckpointRecord, StateRootAt};
use crate::store::{Cursor, Direction, HashStop, LeafSalts, Store};

/// Pages that a head's record dirties in the tree of attested heads, at most.
const PAGES_PER_HEAD: u32 = 3;

/// An attestation under way.
#[derive(Debug)]
pub(super) struct Attest {
    stage: Stage,
    heads: u64,
    steps: u64,
}

#[derive(Debug)]
enum Stage {
    /// Every tree of every tenant.
    Hash,
    /// Tenant by tenant: has its log grown?
    Visit {
        cursor: Cursor,
        tenant: Option<TenantId>,
        drafts: Drafts,
    },
    Heads(Transaction),
    /// The heads are in their tree: the system's own state.
    HashSystem,
    Record(Transaction),
}

impl Attest {
    pub fn new() -> Attest {
        Attest { stage: Stage::Hash, heads: 0, steps: 0 }
    }

    pub fn steps(&self) -> u64 {
        (self.steps << 32)
            + match &self.stage {
                Stage::Hash | Stage::Visit { .. } | Stage::HashSystem => 0,
                Stage::Heads(transaction) | Stage::Record(transaction) => transaction.steps(),
            }
    }

    pub fn first(&self) -> Option<Position> {
        match &self.stage {
            Stage::Hash | Stage::Visit { .. } | Stage::HashSystem => None,
            Stage::Heads(transaction) | Stage::Record(transaction) => Some(transaction.first()),
        }
    }
}

impl Kernel {
    /// Goes on with an attestation until it is done.
    pub(super) fn run_attest(
        &mut self,
        attest: &mut Attest,
        operation: u32,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<Result<Reply, RequestError>, Stall> {
        let system = TenantId::SYSTEM;
        loop {
            let next = match &mut attest.stage {
                Stage::Hash => {
                    hash_all(world.store, world.keys)?;
                    let cursor = Cursor::all(Direction::Forward);
                    let drafts = core::mem::take(&mut self.scratch.drafts);
                    Stage::Visit { cursor, tenant: None, drafts }
                }
                Stage::Visit { cursor, tenant, drafts } => {
                    if tenant.is_none() {
                        let _ = world.store.scan(TENANTS_TREE, cursor, |key, _| {
                            *tenant = Some(trees::tenant_of_key(key));
                            core::ops::ControlFlow::Break(())
                        })?;
                    }
                    // What does not fit this one is found by the next.
                    let events_max = self.constants.transaction_events_max as usize;
                    let pages = drafts.len() as u32 * PAGES_PER_HEAD;
                    let full =
                        drafts.len() == events_max || super::room_for(world.store, pages).is_err();
                    if let Some(visited) = tenant.filter(|_| !full) {
                        if let Some(head) = self.news(world, visited)? {
                            let version = self.catalog_in_memory(system).version;
                            let payload = Payload::HeadAttested { tenant: visited, head };
                            drafts.push(&payload, STREAM_SYSTEM, version);
                            attest.heads += 1;
                        }
                        *tenant = None;
                        attest.steps += 1;
                        continue;
                    }
                    let drafts = core::mem::take(drafts);
                    if drafts.is_empty() {
                        self.scratch.drafts = drafts;
                        Stage::HashSystem
                    } else {
                        let first = self.head(world, system).next;
                        let origin = self.system_origin(system, prepare);
                        Stage::Heads(Transaction::new(origin, first, drafts))
                    }
                }
                Stage::Heads(transaction) => {
                    self.commit(transaction, world, effects)?;
                    Stage::HashSystem
                }
                Stage::HashSystem => {
                    hash_all(world.store, world.keys)?;
                    let root = world.store.state_root(system)?;
                    let head = self.head(world, system);
                    let Some(position) = head.last() else {
                        unreachable!("the system's log begins with a recovery record");
                    };
                    let state = StateRootAt { root, position };
                    let record = CheckpointRecord::of(head, prepare.timestamp, Some(state));
                    let first = head.next;
                    let mut drafts = core::mem::take(&mut self.scratch.drafts);
                    let version = self.catalog_in_memory(system).version;
                    drafts.push(&Payload::Checkpoint(record), STREAM_SYSTEM, version);
                    let origin = self.system_origin(system, prepare);
                    Stage::Record(Transaction::new(origin, first, drafts))
                }
                Stage::Record(transaction) => {
                    self.commit(transaction, world, effects)?;
                    let head = self.head(world, system);
                    let attestation = Attestation {
                        op: prepare.op,
                        timestamp: prepare.timestamp,
                        record: transaction.last(),
                        size: head.next.get(),
                        root: head.frontier.root(),
                    };
                    self.attestation = Some(attestation);
                    let detail = ResultDetail::Rows;
                    let result = OperationResult { operation, rows_affected: attest.heads, detail };
                    return Ok(Ok(Reply {
                        op: prepare.op,
                        timestamp: prepare.timestamp,
                        position: Some(attestation.record),
                        results: Results::from_iter([result]),
                        replayed: false,
                    }));
                }
            };
            let before = core::mem::replace(&mut attest.stage, next);
            if let Stage::Heads(transaction) = before {
                self.scratch.drafts = transaction.into_drafts();
            }
            attest.steps += 1;
        }
    }

    /// The head of a tenant's log, if it is not the one last attested.
    fn news(&self, world: &World<'_>, tenant: TenantId) -> Result<Option<AttestedHead>, Stall> {
        let head = self.log_head(world.store, world.logs, tenant)?;
        let size = head.next.get();
        let known = world.store.get(ATTESTED_TREE, &trees::tenant_key(tenant))?;
        if known.is_some_and(|known| AttestedHead::of_value(&known).size == size) {
            return Ok(None);
        }
        Ok(Some(AttestedHead {
            size,
            root: head.frontier.root(),
            chain: head.chain,
            state: world.store.state_root(tenant)?,
        }))
    }
}

/// Every hash that is not known.
fn hash_all(store: &mut Store, keys: &dyn Keys) -> Result<(), Stall> {
    match store.hash_step(&EntrySalts(keys), usize::MAX) {
        Ok(done) => {
            assert!(done, "nothing bounds it");
            Ok(())
        }
        Err(HashStop::Fault(fault)) => Err(fault.into()),
        Err(HashStop::KeyMissing { tenant }) => Err(KernelError::KeyMissing { tenant }.into()),
    }
}

/// Entries of trees are salted under the tenant's first data key, whatever was rotated since.
pub struct EntrySalts<'a>(pub &'a dyn Keys);

impl LeafSalts for EntrySalts<'_> {
    fn leaf_salt_key(&self, tenant: TenantId) -> Option<&LeafSaltKey> {
        self.0.named(tenant, KeyId::new(1)).map(TenantKeys::leaf_salt)
    }
}

impl core::fmt::Debug for EntrySalts<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("EntrySalts")
    }
}
