//! The kernel: committed request → records → new state.
//!
//! Purpose: tenants, transactions, idempotency, streams; it turns what consensus committed into
//! records of tenants' logs and those into trees, and gives replies. [`Kernel::prepare_request`]
//! lowers and seals on the primary; [`Kernel::apply`] runs on every replica.
//!
//! Invariants: state is a function of records alone, records are a function of committed prepares
//! alone. A request is one transaction: all of its records, or none. Only `record::apply_record`
//! turns a record into tree changes, live and in [`Rebuild`]. No clock but the prepare's timestamp,
//! no randomness but what the prepare carries.
//!
//! Fault model: prepares are checked by their checksums below this, and by seals here; a page that
//! is not in memory suspends an apply ([`Stall`]), never changes it; a missing key or a broken seal
//! stops the replica. Start reading at `request` (what callers see), `apply` (the machine), then
//! `record`; `docs/KERNEL.md` has the formats.

mod apply;
pub mod batch;
pub mod canonical;
mod catalogs;
mod committed;
mod drafts;
mod envelope;
mod events;
mod execute;
mod finding;
mod outcome;
mod payload;
mod prepare;
pub mod prove;
mod rebuild;
mod record;
mod recovery;
mod request;
mod results;
mod sealer;
#[cfg(test)]
mod tests;
mod transaction;
pub mod trees;

pub use batch::{BatchError, RequestHeader, SealedRequest, pack};
pub use canonical::{canonical_query, history_query, value_of};
pub use committed::{CommittedRows, RecordsSeen, TreesOfRows};
pub use events::{EventError, OpenedEvent, open_event};
pub use finding::{FindStep, Finding, Found};
pub use outcome::{Commitment, Outcome};
pub use payload::{Payload, STREAM_SYSTEM};
pub use prepare::PrepareError;
pub use prove::{ProveStop, Proving, Shared as SharedOfProofs};
pub use rebuild::{
    Difference, Rebuild, RebuildError, RebuildReport, RebuildStall, SideError, Sides,
};
pub use recovery::{RecoveryEvidence, RecoveryReason, RecoveryRecord};
pub use request::{
    ExpectedVersion, Limit, Operation, OperationResult, Reply, Request, RequestError, ResultDetail,
    RetryReason,
};
pub use results::Results;
pub use sealer::Sealer;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::crypto::{ChainHash, KekHash, TenantKeys};
use crate::ids::{Generation, KeyId, Op, Position, TenantId, TreeId};
use crate::keyring::Keyring;
use crate::limits::ClusterConstants;
use crate::log::{LogHead, Logs};
use crate::query::cbor::DecodeError;
use crate::query::job::{JOBS, Job};
use crate::query::past::DROPPED;
use crate::query::{Catalog, CatalogKey, TableSchema};
use crate::store::{Cursor, Direction, Fault, Store, TreeRef};
use crate::time::Timestamp;

pub use apply::EntrySalts;
use apply::{Ahead, Task};
use catalogs::Catalogs;
use envelope::Envelope;
use execute::ExecutionScratch;
use prepare::Statements;
use transaction::TransactionScratch;
use trees::{CATALOG, TENANTS_TREE};

/// Who knows the keys of tenants: the keyring, or a test.
pub trait Keys {
    /// What new bytes are sealed with.
    fn newest(&self, tenant: TenantId) -> Option<&TenantKeys>;
    /// What a record or a request names.
    fn named(&self, tenant: TenantId, key: KeyId) -> Option<&TenantKeys>;
}

impl Keys for Keyring {
    fn newest(&self, tenant: TenantId) -> Option<&TenantKeys> {
        self.tenant(tenant)
    }

    fn named(&self, tenant: TenantId, key: KeyId) -> Option<&TenantKeys> {
        self.tenant_key(tenant, key)
    }
}

impl Keys for BTreeMap<TenantId, TenantKeys> {
    fn newest(&self, tenant: TenantId) -> Option<&TenantKeys> {
        self.get(&tenant)
    }

    fn named(&self, tenant: TenantId, key: KeyId) -> Option<&TenantKeys> {
        self.get(&tenant).filter(|keys| keys.id() == key)
    }
}

/// What the kernel works on; it belongs to the node.
pub struct World<'a> {
    pub store: &'a mut Store,
    pub logs: &'a mut Logs,
    pub keys: &'a dyn Keys,
}

impl fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// All of a committed prepare that apply may know.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    pub op: Op,
    pub timestamp: Timestamp,
    pub kind: PrepareKind,
    /// Requests in the body.
    pub requests: u32,
    /// Newest checkpoint that the header says is durable on a quorum.
    pub checkpoint_durable: Op,
    /// The source of `random()` and uuids: a hash of the prepare.
    pub seed: [u8; 32],
    pub body: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareKind {
    Recovery,
    Requests,
    Checkpoint,
    Shutdown,
}

/// A prepare is applied.
#[derive(Debug)]
pub struct Applied {
    /// One for each request, in order.
    pub replies: Vec<Result<Reply, RequestError>>,
    /// It was a checkpoint: freeze store and write the logs now, before the next prepare. The logs'
    /// `checkpoint_begin` is done.
    pub checkpoint: bool,
}

/// Why apply stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Pages are missing: fetch them, then call again. Pins may be given back when
    /// [`Kernel::progress`] has grown since the last stall.
    Fault(Fault),
    /// The logs hold too much that is not written: let them flush, then call again.
    LogRoom,
    /// The pages of the checkpoint under way take the memory that this transaction needs: let some
    /// be written, then call again.
    PageRoom,
    /// Nothing is missing: so many requests were applied that the caller may look around, as asked
    /// by [`Kernel::slice`]; then call again.
    Slice,
    /// Nothing is missing yet: a tenant was created, and its keys may be; as asked by
    /// [`Kernel::stop_at_tenants`]; then call again.
    Created,
    /// The replica must stop.
    Halt(KernelError),
}

/// What no replica can go on from. Nothing was acknowledged that is lost by stopping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelError {
    Batch(BatchError),
    /// Body of a recovery, or a request's envelope, is not what a primary makes.
    Body {
        op: Op,
        error: DecodeError,
    },
    /// The `keys` file lacks a key of a tenant that has work to do.
    KeyMissing {
        tenant: TenantId,
    },
    /// A request does not open with its tenant's key.
    Seal {
        op: Op,
        tenant: TenantId,
    },
}

impl From<Fault> for Stall {
    fn from(fault: Fault) -> Stall {
        Stall::Fault(fault)
    }
}

impl From<KernelError> for Stall {
    fn from(error: KernelError) -> Stall {
        Stall::Halt(error)
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::Batch(error) => write!(f, "{error}"),
            KernelError::Body { op, error } => {
                write!(f, "the body of op {op} does not decode: {error}")
            }
            KernelError::KeyMissing { tenant } => write!(
                f,
                "the keys file has no key of tenant {tenant}; restore it from where keys are kept"
            ),
            KernelError::Seal { op, tenant } => write!(
                f,
                "a request of tenant {tenant} in op {op} does not open with the tenant's key; the \
                 keys file is not the one it was sealed with"
            ),
        }
    }
}

impl core::error::Error for KernelError {}

/// The head of the cluster log that an attestation made, fit to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    pub op: Op,
    pub timestamp: Timestamp,
    /// The checkpoint record with the system's state root: the last leaf of the tree.
    pub record: Position,
    /// Records in the system's log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: ChainHash,
}

/// What is kept in memory of a tenant.
#[derive(Debug)]
struct Tenant {
    catalogs: Catalogs,
    /// Last position of its log, while that is not open: known since a read asked.
    quiet_last: Option<Position>,
}

/// The state machine above store and logs. What it keeps is a cache of them, but for the prepare
/// under way and the generation.
#[derive(Debug)]
pub struct Kernel {
    constants: ClusterConstants,
    generation: Generation,
    /// The newest of this process: every replica that applied it has the same.
    attestation: Option<Attestation>,
    tenants: BTreeMap<TenantId, Tenant>,
    /// Tenants in memory that have a job to do.
    working: BTreeSet<TenantId>,
    task: Option<Task>,
    ahead: Option<Ahead>,
    /// See [`Kernel::slice`].
    sliced: bool,
    /// Writes that came with rows which are not those of their tables any more; for the marks.
    found_stale: u32,
    /// See [`Kernel::stop_at_tenants`].
    stops_at_tenants: bool,
    /// Tenants that came to be since they were last taken.
    created: Vec<(TenantId, KekHash)>,
    /// Requests answered, for [`Kernel::progress`].
    stages: u64,
    /// Of the last request, taken and given back.
    envelope: Envelope,
    execution: Option<Box<ExecutionScratch>>,
    /// Of the last prepare, taken and given back.
    replies: Vec<Result<Reply, RequestError>>,
    scratch: TransactionScratch,
    statements: Statements,
}

impl Kernel {
    /// `generation` as the superblock has it: of the checkpoint that replay starts from.
    #[must_use]
    pub fn new(constants: ClusterConstants, generation: Generation) -> Kernel {
        Kernel {
            constants,
            generation,
            attestation: None,
            tenants: BTreeMap::new(),
            working: BTreeSet::new(),
            task: None,
            ahead: None,
            sliced: false,
            found_stale: 0,
            stops_at_tenants: false,
            created: Vec::new(),
            stages: 0,
            envelope: Envelope::default(),
            execution: None,
            replies: Vec::new(),
            scratch: TransactionScratch::default(),
            statements: Statements::default(),
        }
    }

    /// Recovery records applied so far. Keys of this generation should be kept ready.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The newest attestation applied since the node opened.
    #[must_use]
    pub fn attestation(&self) -> Option<&Attestation> {
        self.attestation.as_ref()
    }

    /// A prepare is under way, stalled.
    #[must_use]
    pub fn is_applying(&self) -> bool {
        self.task.is_some()
    }

    /// Grows with everything that a stalled apply will not do again.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.stages, self.task.as_ref().map_or(0, Task::steps))
    }

    /// The tenant's catalog as far as records are applied; None: no such tenant. Restartable. For
    /// what goes behind them; a read takes [`Kernel::catalog_shown`].
    pub fn catalog(
        &mut self,
        store: &Store,
        tenant: TenantId,
    ) -> Result<Option<Arc<Catalog>>, Fault> {
        Ok(self.catalogs(store, tenant)?.map(|catalogs| catalogs.applied().clone()))
    }

    /// The tenant's catalog as [`Kernel::snapshot`] shows it: nothing of a transaction that is
    /// applied in part, but for when rows have last changed. Restartable.
    pub fn catalog_shown(
        &mut self,
        store: &Store,
        tenant: TenantId,
    ) -> Result<Option<Arc<Catalog>>, Fault> {
        Ok(self.catalogs(store, tenant)?.map(|catalogs| catalogs.shown().clone()))
    }

    /// As [`Kernel::catalog_shown`], wholly: for who is shown the catalog itself, and reads no rows
    /// by it. Restartable.
    pub fn catalog_viewed(
        &mut self,
        store: &Store,
        tenant: TenantId,
    ) -> Result<Option<Arc<Catalog>>, Fault> {
        Ok(self.catalogs(store, tenant)?.map(Catalogs::viewed))
    }

    fn catalogs(&mut self, store: &Store, tenant: TenantId) -> Result<Option<&Catalogs>, Fault> {
        self.load_tenant(store, tenant)?;
        Ok(self.tenants.get(&tenant).map(|state| &state.catalogs))
    }

    /// The newest position of a tenant's log whose transaction is wholly applied; None: empty.
    /// Restartable.
    pub fn snapshot(
        &self,
        store: &Store,
        logs: &Logs,
        tenant: TenantId,
    ) -> Result<Option<Position>, Fault> {
        if let Some(first) = self.task.as_ref().and_then(|task| task.first_of(tenant)) {
            return Ok(first.previous());
        }
        match logs.head(tenant) {
            Some(head) => Ok(head.last()),
            None => Ok(self.stored_head(store, tenant)?.last()),
        }
    }

    /// Whether apply stops after every few requests, with [`Stall::Slice`]. Changes no result.
    pub fn slice(&mut self, sliced: bool) {
        self.sliced = sliced;
    }

    #[must_use]
    pub fn is_sliced(&self) -> bool {
        self.sliced
    }

    /// Is a transaction of the tenant applied in part? Snapshots do not show it then, but
    /// [`Kernel::catalog`] and the outcomes on record may.
    #[must_use]
    pub fn is_amid(&self, tenant: TenantId) -> bool {
        self.task.as_ref().and_then(|task| task.first_of(tenant)).is_some()
    }

    /// Has it changed tables? What is bound to [`Kernel::catalog`] then may be bound to what no
    /// request ever sees: of a table that it drops and creates anew, that there is none.
    #[must_use]
    pub fn is_amid_schema(&self, tenant: TenantId) -> bool {
        self.tenants.get(&tenant).is_some_and(|state| state.catalogs.is_amid())
    }

    /// As [`Kernel::snapshot`], without a look into trees when the answer is known. None: neither
    /// the answer nor the tenant's catalog is at hand.
    pub fn snapshot_at_hand(
        &mut self,
        store: &Store,
        logs: &Logs,
        tenant: TenantId,
    ) -> Option<(Position, &Catalog)> {
        let under_way = self.task.as_ref().and_then(|task| task.first_of(tenant));
        let state = self.tenants.get(&tenant)?;
        let newest = match (under_way, logs.head(tenant), state.quiet_last) {
            (Some(first), _, _) => first.previous()?,
            (None, Some(head), _) => head.last()?,
            (None, None, Some(last)) => last,
            (None, None, None) => {
                let last = self.stored_head(store, tenant).ok()?.last()?;
                self.tenants.get_mut(&tenant)?.quiet_last = Some(last);
                last
            }
        };
        Some((newest, self.tenants.get(&tenant)?.catalogs.shown()))
    }

    /// Where a tenant's log stands, open or not. Restartable.
    pub fn log_head(&self, store: &Store, logs: &Logs, tenant: TenantId) -> Result<LogHead, Fault> {
        match logs.head(tenant) {
            Some(head) => Ok(head.clone()),
            None => self.stored_head(store, tenant),
        }
    }

    /// Writes of what was applied last that came with rows which were not those of their tables.
    pub fn take_found_stale(&mut self) -> u32 {
        core::mem::take(&mut self.found_stale)
    }

    /// Apply stops behind each request that created a tenant, with [`Stall::Created`]: what comes
    /// next may hash what its keys salt. Changes no result.
    pub fn stop_at_tenants(&mut self) {
        self.stops_at_tenants = true;
    }

    /// Tenants that what was applied last created, with the hashes of their KEKs.
    pub fn take_created(&mut self) -> Vec<(TenantId, KekHash)> {
        core::mem::take(&mut self.created)
    }

    #[must_use]
    pub fn constants(&self) -> &ClusterConstants {
        &self.constants
    }

    /// All tenants but the system's, in order. Restartable.
    pub fn tenants(&self, store: &Store) -> Result<Vec<TenantId>, Fault> {
        let mut tenants = Vec::new();
        if store.tree_exists(TENANTS_TREE)? {
            let _ = store.scan(TENANTS_TREE, &mut Cursor::all(Direction::Forward), |key, _| {
                tenants.push(trees::tenant_of_key(key));
                core::ops::ControlFlow::Continue(())
            })?;
        }
        Ok(tenants)
    }

    /// Makes a tenant ready for work: catalog in memory, log open. False: no such tenant.
    fn enter_tenant(&mut self, world: &mut World<'_>, tenant: TenantId) -> Result<bool, Fault> {
        if !self.load_tenant(world.store, tenant)? {
            return Ok(false);
        }
        if !world.logs.is_open(tenant) {
            let head = self.stored_head(world.store, tenant)?;
            world.logs.open(tenant, head);
            if let Some(state) = self.tenants.get_mut(&tenant) {
                state.quiet_last = None;
            }
        }
        Ok(true)
    }

    fn load_tenant(&mut self, store: &Store, tenant: TenantId) -> Result<bool, Fault> {
        if self.tenants.contains_key(&tenant) {
            return Ok(true);
        }
        if tenant != TenantId::SYSTEM
            && !(store.tree_exists(TENANTS_TREE)?
                && store.contains(TENANTS_TREE, &trees::tenant_key(tenant))?)
        {
            return Ok(false);
        }
        let catalogs = Catalogs::new(load_catalog(store, tenant)?);
        self.tenants.insert(tenant, Tenant { catalogs, quiet_last: None });
        self.note_jobs(tenant);
        Ok(true)
    }

    /// Loads the tenant if it has a job, and says whether it has. Restartable.
    pub fn find_jobs(&mut self, store: &Store, tenant: TenantId) -> Result<bool, Fault> {
        let tree = TreeRef::new(tenant, CATALOG);
        let mut cursor = jobs_cursor();
        let mut found = false;
        let _ = store.scan(tree, &mut cursor, |_, _| {
            found = true;
            core::ops::ControlFlow::Break(())
        })?;
        if found {
            self.load_tenant(store, tenant)?;
        }
        Ok(found)
    }

    /// The job whose turn it is after that one, of the tenants in memory.
    #[must_use]
    pub fn next_job(&self, after: Option<(TenantId, TreeId)>) -> Option<(TenantId, TreeId)> {
        let all = || {
            self.working.iter().flat_map(|tenant| {
                let jobs = self.catalog_in_memory(*tenant).jobs();
                jobs.filter(|job| job.is_running()).map(|job| (*tenant, job.id))
            })
        };
        all().find(|job| Some(*job) > after).or_else(|| all().next())
    }

    fn note_jobs(&mut self, tenant: TenantId) {
        if self.catalog_in_memory(tenant).jobs().any(|job| job.is_running()) {
            self.working.insert(tenant);
        } else {
            self.working.remove(&tenant);
        }
    }

    fn catalog_in_memory(&self, tenant: TenantId) -> &Arc<Catalog> {
        let Some(state) = self.tenants.get(&tenant) else {
            unreachable!("the tenant was loaded before its work began");
        };
        state.catalogs.applied()
    }

    fn head<'a>(&self, world: &'a World<'_>, tenant: TenantId) -> &'a LogHead {
        let Some(head) = world.logs.head(tenant) else {
            unreachable!("the log was opened before its tenant's work began");
        };
        head
    }
}

fn jobs_cursor() -> Cursor {
    let low = core::ops::Bound::Included([JOBS].as_slice());
    Cursor::new(low, core::ops::Bound::Unbounded, Direction::Forward)
}

/// The whole catalog of a tenant. All or nothing.
fn load_catalog(store: &Store, tenant: TenantId) -> Result<Catalog, Fault> {
    let mut catalog = Catalog::new();
    let tree = TreeRef::new(tenant, CATALOG);
    if !store.tree_exists(tree)? {
        // The system tenant before its first record.
        return Ok(catalog);
    }
    // Dropped tables come last, and are looked up when they are asked for.
    let high = core::ops::Bound::Excluded([DROPPED].as_slice());
    let mut cursor = Cursor::new(core::ops::Bound::Unbounded, high, Direction::Forward);
    let _ = store.scan(tree, &mut cursor, |key, value| {
        let loaded = match CatalogKey::decode(key) {
            Some(CatalogKey::Counters) => catalog.decode_counters(value),
            Some(CatalogKey::Table(_)) => {
                TableSchema::decode(value).map(|schema| catalog.insert(schema))
            }
            Some(CatalogKey::ChangedAt(table)) => {
                let position = Position::new(trees::decode_number(value));
                catalog.set_changed_at(table, position);
                Ok(())
            }
            None => unreachable!("no such entry is written"),
        };
        assert!(loaded.is_ok(), "the catalog tree holds what records put there");
        core::ops::ControlFlow::Continue(())
    })?;
    let _ = store.scan(tree, &mut jobs_cursor(), |_, value| {
        let Ok(job) = Job::decode(value) else {
            unreachable!("the catalog tree holds what records put there");
        };
        catalog.set_job(job.id, Some(job));
        core::ops::ControlFlow::Continue(())
    })?;
    Ok(catalog)
}
