//! Applying a prepare: request by request, each a transaction, restartable anywhere.
//!
//! Per request: open the seal → idempotency → `after` → execute over an overlay → records and tree
//! changes → reply; then a checkpoint record if one is due. The machine keeps what it has done, so
//! a [`Stall`] (a page is missing, the log must flush) suspends it and the same call resumes it.
//!
//! Invariants: two kernels that apply the same prepares make the same records, whatever faults they
//! meet; nothing of a request that is refused is in any log, but for the one `Refused` record that
//! remembers why, when it has an idempotency id.

mod ahead;
mod attest;
mod system;

use alloc::vec::Vec;

use super::batch::{self, RequestHeader, SEAL_TAG_SIZE};
use super::drafts::{DraftContext, Drafts};
use super::envelope::{Envelope, Work};
use super::execute::{Execution, ExecutionContext};
use super::outcome::{Commitment, Outcome};
use super::payload::{Payload, STREAM_SYSTEM};
use super::record::{forgettable, put_head};
use super::recovery::{RecoveryEvidence, RecoveryRecord};
use super::request::{Reply, RequestError, RetryReason};
use super::results::Results;
use super::transaction::{Origin, Transaction};
use super::trees::{self, HEADS_TREE};
use super::{Applied, Kernel, KernelError, Prepare, PrepareKind, Stall, World};
use crate::crypto::{KekHash, Tag};
use crate::event::Event;
use crate::ids::{IdempotencyId, Op, Position, TenantId};
use crate::io::Effects;
use crate::limits::{IDEMPOTENCY_AHEAD_MAX_MS, PAGES_DIRTIED_MARGIN};
use crate::log::LogHead;
use crate::store::{Cursor, Direction, Fault, RoomError, Store, TreeRef};

pub(super) use ahead::Ahead;
use attest::Attest;
use system::Visit;

pub use attest::EntrySalts;

/// Pages that remembering an outcome, and forgetting old ones, can dirty.
const OUTCOME_PAGES: u32 = 16;

/// Requests after which a caller that wants to may look around, and whoever is answered comes back:
/// applying them takes some 25 µs, where writing the next prepare takes 40 to 150.
const SLICE_REQUESTS: usize = 3;

/// A prepare under way.
#[derive(Debug)]
pub(super) struct Task {
    prepare: Op,
    /// Requests that are applied.
    done: usize,
    /// Of those, what nobody took yet.
    replies: Vec<Result<Reply, RequestError>>,
    work: TaskWork,
}

#[derive(Debug)]
enum TaskWork {
    Requests {
        offset: usize,
        current: Option<Running>,
    },
    Recovery {
        record: RecoveryRecord,
        committed: bool,
        committing: Option<Transaction>,
    },
    /// A shutdown first visits every tenant; a checkpoint starts with `heads`.
    Checkpoint {
        visiting: Option<Visit>,
        heads: Option<(Vec<(TenantId, LogHead)>, usize)>,
    },
}

/// A request under way.
#[derive(Debug)]
struct Running {
    header: RequestHeader,
    envelope: Envelope,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Lookup,
    Execute(Execution),
    /// Executed over an overlay; nothing has happened to state or log.
    Executed {
        drafts: Drafts,
        pages_dirtied: u32,
        answer: Result<Results, RequestError>,
    },
    Attest {
        attest: Attest,
        operation: u32,
    },
    Commit {
        transaction: Transaction,
        answer: Result<Results, RequestError>,
    },
    /// The transaction is complete; a checkpoint record may be due.
    Checkpoint {
        reply: Result<Reply, RequestError>,
        transaction: Option<Transaction>,
    },
}

impl Kernel {
    /// Applies one prepare. On [`Stall`] do what it asks and call again with the same prepare. The
    /// replies that nobody took meanwhile come when the whole prepare is applied.
    pub fn apply(
        &mut self,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<Applied, Stall> {
        let mut task = match self.task.take() {
            Some(task) => {
                assert_eq!(task.prepare, prepare.op, "one prepare at a time");
                task
            }
            None => self.begin(world, prepare)?,
        };
        match self.run(&mut task, world, prepare, effects) {
            Ok(()) => {
                let checkpoint =
                    matches!(prepare.kind, PrepareKind::Checkpoint | PrepareKind::Shutdown);
                Ok(Applied { replies: task.replies, checkpoint })
            }
            Err(stall) => {
                self.task = Some(task);
                Err(stall)
            }
        }
    }

    /// Replies to requests of the prepare at hand that are applied whole, in order; each is given
    /// once. What they say is as true as at the end: it is committed, and reads see it.
    pub fn take_replies(&mut self) -> Vec<Result<Reply, RequestError>> {
        let Some(task) = &mut self.task else { return Vec::new() };
        core::mem::replace(&mut task.replies, core::mem::take(&mut self.replies))
    }

    /// Takes back what replies came in, once all of them are with who asked.
    pub fn reuse_replies(&mut self, replies: Vec<Result<Reply, RequestError>>) {
        assert!(replies.is_empty(), "an answer is given once");
        self.replies = replies;
    }

    fn begin(&mut self, world: &mut World<'_>, prepare: &Prepare<'_>) -> Result<Task, Stall> {
        world.store.checkpoint_durable_applied(prepare.checkpoint_durable);
        let work = match prepare.kind {
            PrepareKind::Requests => {
                batch::validate(prepare.body, prepare.requests).map_err(KernelError::Batch)?;
                TaskWork::Requests { offset: 0, current: None }
            }
            PrepareKind::Recovery => {
                let evidence = RecoveryEvidence::from_body(prepare.body)
                    .map_err(|error| KernelError::Body { op: prepare.op, error })?;
                let previous = self.generation;
                self.generation = previous.next();
                #[cfg(verity_zoo)]
                if crate::zoo::is("generation_not_raised") {
                    self.generation = previous;
                }
                let record = RecoveryRecord {
                    generation: self.generation,
                    previous,
                    evidence,
                    time: prepare.timestamp,
                };
                TaskWork::Recovery { record, committed: false, committing: None }
            }
            PrepareKind::Checkpoint => TaskWork::Checkpoint { visiting: None, heads: None },
            PrepareKind::Shutdown => {
                let cursor = Cursor::all(Direction::Forward);
                let visit =
                    Visit { cursor, tenant: None, committing: None, visited: 0, recorded: 0 };
                TaskWork::Checkpoint { visiting: Some(visit), heads: None }
            }
        };
        let replies = core::mem::take(&mut self.replies);
        assert!(replies.is_empty(), "what the last prepare answered is with who asked");
        Ok(Task { prepare: prepare.op, done: 0, replies, work })
    }

    fn run(
        &mut self,
        task: &mut Task,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        match &mut task.work {
            TaskWork::Requests { offset, current } => loop {
                let Some(running) = current else {
                    if *offset == prepare.body.len() {
                        return Ok(());
                    }
                    let (running, next) = match self.take_ahead(world.store, prepare) {
                        Some(ahead) => ahead,
                        None => self.open_request(world, prepare, *offset)?,
                    };
                    (*current, *offset) = (Some(running), next);
                    continue;
                };
                let reply = self.run_request(running, task.done, world, prepare, effects)?;
                self.stages += 1;
                task.done += 1;
                task.replies.push(reply);
                if let Some(done) = current.take() {
                    self.envelope = done.envelope;
                    self.envelope.clear();
                }
                if self.stops_at_tenants && !self.created.is_empty() {
                    return Err(Stall::Created);
                }
                let slice_ends = task.done.is_multiple_of(SLICE_REQUESTS);
                if self.sliced && slice_ends && *offset < prepare.body.len() {
                    return Err(Stall::Slice);
                }
            },
            TaskWork::Recovery { record, committed, committing } => {
                if !*committed {
                    self.run_recovery(record, committing, world, prepare, effects)?;
                    *committed = true;
                }
                let tenant = TenantId::SYSTEM;
                self.commit_checkpoint_record(tenant, false, committing, world, prepare, effects)
            }
            TaskWork::Checkpoint { visiting, heads } => {
                if let Some(visit) = visiting {
                    self.run_visit(visit, world, prepare, effects)?;
                    *visiting = None;
                }
                let (heads, next) =
                    heads.get_or_insert_with(|| (world.logs.checkpoint_begin(prepare.op), 0));
                while let Some((tenant, head)) = heads.get(*next) {
                    put_head(world.store, *tenant, &head.encode())?;
                    *next += 1;
                }
                // What this froze is hashed before it is sealed: whoever writes it sees to that.
                Ok(())
            }
        }
    }

    /// Opens the seal of the request at `offset`.
    fn open_request(
        &mut self,
        world: &World<'_>,
        prepare: &Prepare<'_>,
        offset: usize,
    ) -> Result<(Running, usize), Stall> {
        let (header, sealed, next) =
            batch::unpack_at(prepare.body, offset).map_err(KernelError::Batch)?;
        let tenant = header.tenant;
        let Some(keys) = world.keys.named(tenant, header.key) else {
            return Err(KernelError::KeyMissing { tenant }.into());
        };
        let Some((cipher, tag)) = sealed.split_last_chunk::<SEAL_TAG_SIZE>() else {
            unreachable!("validated: longer than a tag");
        };
        let mut envelope = core::mem::take(&mut self.envelope);
        assert!(envelope.is_empty(), "nothing of another request");
        let plain = envelope.plain();
        plain.extend_from_slice(cipher);
        let request_key = keys.request();
        #[cfg(verity_zoo)]
        if crate::zoo::is("request_not_sealed") {
            // The other half of the bug: what is opened here was written in clear.
            let _ = request_key.seal(header.nonce, &header.encode(), plain);
        }
        request_key
            .open(header.nonce, &header.encode(), plain, &Tag(*tag))
            .map_err(|_| KernelError::Seal { op: prepare.op, tenant })?;
        envelope.decode().map_err(|error| KernelError::Body { op: prepare.op, error })?;
        Ok((Running { header, envelope, stage: Stage::Lookup }, next))
    }

    fn run_request(
        &mut self,
        running: &mut Running,
        index: usize,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<Result<Reply, RequestError>, Stall> {
        let tenant = running.header.tenant;
        if !matches!(running.stage, Stage::Lookup) {
            // A checkpoint that ended while this request waited has forgotten the quiet logs.
            let known = self.enter_tenant(world, tenant)?;
            assert!(known, "a tenant does not vanish while its request is applied");
        }
        loop {
            match &mut running.stage {
                Stage::Lookup => {
                    // What only a checkpoint can write must not be waited for: it comes later.
                    if world.logs.room() == 0 && !world.logs.checkpoint_wanted() {
                        return Err(Stall::LogRoom);
                    }
                    if !self.enter_tenant(world, tenant)? {
                        return Ok(Err(RequestError::TenantUnknown(tenant)));
                    }
                    if let Some(answer) = self.answer_early(running, world, prepare, effects)? {
                        return Ok(answer);
                    }
                    if let [(operation, Work::Attest)] = *running.envelope.work.as_slice()
                        && tenant == TenantId::SYSTEM
                        && running.header.idempotency.is_none()
                    {
                        running.stage = Stage::Attest { attest: Attest::new(), operation };
                        continue;
                    }
                    self.begin_execution(running, prepare, index);
                }
                Stage::Execute(_) => self.execute(running, world)?,
                Stage::Executed { pages_dirtied, .. }
                    if world.store.must_wait_for_writes(*pages_dirtied + PAGES_DIRTIED_MARGIN) =>
                {
                    return Err(Stall::PageRoom);
                }
                Stage::Executed { .. } => {
                    let stage = core::mem::replace(&mut running.stage, Stage::Lookup);
                    let Stage::Executed { drafts, pages_dirtied, answer } = stage else {
                        unreachable!("matched above");
                    };
                    let answer = answer
                        .and_then(|results| room_for(world.store, pages_dirtied).map(|()| results));
                    let accepted = answer.is_ok();
                    let mut stage = self.conclude(running, drafts, answer, world, prepare, effects);
                    if let Stage::Commit { transaction, .. } = &mut stage {
                        // A refusal, or nothing to do, leaves a mark of its own at most.
                        transaction.estimated(if accepted {
                            pages_dirtied.saturating_add(PAGES_DIRTIED_MARGIN)
                        } else {
                            OUTCOME_PAGES + PAGES_DIRTIED_MARGIN
                        });
                    }
                    running.stage = stage;
                }
                Stage::Attest { attest, operation } => {
                    return self.run_attest(attest, *operation, world, prepare, effects);
                }
                Stage::Commit { transaction, answer } => {
                    self.commit(transaction, world, effects)?;
                    let position = Some(transaction.last());
                    let answer = core::mem::replace(answer, Ok(Results::default()));
                    self.note_created(&running.envelope.work, answer.is_ok());
                    let reply = answer.map(|results| Reply {
                        op: prepare.op,
                        timestamp: prepare.timestamp,
                        position,
                        results,
                        replayed: false,
                    });
                    let mut stage = Stage::Checkpoint { reply, transaction: None };
                    core::mem::swap(&mut running.stage, &mut stage);
                    if let Stage::Commit { transaction, .. } = stage {
                        self.scratch.drafts = transaction.into_drafts();
                    }
                }
                Stage::Checkpoint { transaction, .. } => {
                    self.commit_checkpoint_record(
                        tenant,
                        false,
                        transaction,
                        world,
                        prepare,
                        effects,
                    )?;
                    let stage = core::mem::replace(&mut running.stage, Stage::Lookup);
                    let Stage::Checkpoint { reply, .. } = stage else {
                        unreachable!("matched above");
                    };
                    return Ok(reply);
                }
            }
        }
    }

    /// Tenants that a transaction has created, for a caller that stops at them.
    fn note_created(&mut self, work: &[(u32, Work)], committed: bool) {
        if committed && self.stops_at_tenants {
            self.created.extend(work.iter().filter_map(created_by));
        }
    }

    fn begin_execution(&mut self, running: &mut Running, prepare: &Prepare<'_>, index: usize) {
        let drafts = core::mem::take(&mut self.scratch.drafts);
        let scratch = self.execution.take().unwrap_or_default();
        let seed = seed_of(prepare, index);
        running.stage = Stage::Execute(Execution::new(drafts, scratch, prepare.timestamp, seed));
    }

    /// Reads state, changes only the request at hand.
    fn execute(&mut self, running: &mut Running, world: &World<'_>) -> Result<(), Stall> {
        let tenant = running.header.tenant;
        let Some(keys) = world.keys.newest(tenant) else {
            return Err(KernelError::KeyMissing { tenant }.into());
        };
        let salt = keys.salt(self.generation);
        let first = self.head(world, tenant).next;
        let context = ExecutionContext {
            store: world.store,
            catalog: self.catalog_in_memory(tenant),
            constants: &self.constants,
            drafts: DraftContext { tenant, first, salt: &salt },
        };
        let Stage::Execute(execution) = &mut running.stage else {
            unreachable!("called in this stage");
        };
        let result = execution.run(&context, &running.envelope)?;
        self.found_stale += execution.found_stale;
        let stage = core::mem::replace(&mut running.stage, Stage::Lookup);
        let Stage::Execute(Execution { drafts, results, pages_dirtied, scratch, .. }) = stage
        else {
            unreachable!("matched above");
        };
        self.execution.insert(scratch).clear();
        let answer = result.map(|()| results);
        running.stage = Stage::Executed { drafts, pages_dirtied, answer };
        Ok(())
    }

    /// What can be answered without executing: a remembered outcome, an id out of its time, an
    /// unmet order.
    fn answer_early(
        &self,
        running: &Running,
        world: &World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<Option<Result<Reply, RequestError>>, Stall> {
        let (tenant, id) = (running.header.tenant, running.header.idempotency);
        if !id.is_none() {
            if let Some(commitment) = self.commitment(world.store, tenant, id)? {
                effects.event(Event::IdempotentReplay { tenant, op: prepare.op });
                return Ok(Some(commitment.answer(&running.envelope.request)));
            }
            if let Some(error) = out_of_time(id, prepare.timestamp.as_ms()) {
                return Ok(Some(Err(error)));
            }
        }
        let after = running.envelope.after;
        #[cfg(verity_zoo)]
        let after = after.filter(|_| !crate::zoo::is("order_ignored"));
        if let Some(after) = after
            && self.commitment(world.store, tenant, after)?.is_none()
        {
            return Ok(Some(Err(RequestError::AfterUnknown { after })));
        }
        Ok(None)
    }

    /// From the result of an execution to what is left to do.
    fn conclude(
        &mut self,
        running: &Running,
        mut drafts: Drafts,
        mut answer: Result<Results, RequestError>,
        world: &World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Stage {
        let (tenant, id) = (running.header.tenant, running.header.idempotency);
        let head = self.head(world, tenant);
        let schema_version = self.catalog_in_memory(tenant).version;
        if answer.is_err() {
            effects.event(Event::TransactionRefused { tenant, op: prepare.op });
            #[cfg(verity_zoo)]
            let kept = crate::zoo::is("transaction_half_applied");
            #[cfg(not(verity_zoo))]
            let kept = false;
            if !kept {
                drafts.clear();
            }
        }
        // What an outcome without other records would be remembered by.
        let marker = match &answer {
            Ok(_) if drafts.is_empty() => Some(Payload::Completed),
            Err(error) if !error.retryable() => Some(Payload::Refused),
            Ok(_) | Err(_) => None,
        };
        if let Some(marker) = marker
            && !id.is_none()
        {
            match room_for(world.store, OUTCOME_PAGES) {
                Ok(()) => drafts.push(&marker, STREAM_SYSTEM, schema_version),
                Err(error) => answer = Err(error),
            }
        }
        if drafts.is_empty() {
            self.scratch.drafts = drafts;
            let reply = answer.map(|results| Reply {
                op: prepare.op,
                timestamp: prepare.timestamp,
                position: head.last(),
                results,
                replayed: false,
            });
            return Stage::Checkpoint { reply, transaction: None };
        }
        if !id.is_none() {
            let outcome = Outcome { request: running.envelope.request, result: answer };
            drafts.set_outcome(&outcome);
            answer = outcome.result;
        }
        let origin = Origin {
            tenant,
            op: prepare.op,
            generation: self.generation,
            timestamp: prepare.timestamp,
            principal: running.header.principal,
            idempotency: id,
        };
        Stage::Commit { transaction: Transaction::new(origin, head.next, drafts), answer }
    }

    /// Outcome, position and time of the request that used this id.
    pub fn commitment(
        &self,
        store: &Store,
        tenant: TenantId,
        id: IdempotencyId,
    ) -> Result<Option<Commitment>, Fault> {
        let tree = TreeRef::new(tenant, trees::IDEMPOTENCY);
        if !store.tree_exists(tree)? {
            return Ok(None);
        }
        let found = store.get(tree, &id.0);
        #[cfg(verity_zoo)]
        let found =
            if crate::zoo::is("idempotency_fault_is_absent") { found.or(Ok(None)) } else { found };
        let Some(value) = found? else { return Ok(None) };
        let Ok(commitment) = Commitment::decode(id, &value) else {
            unreachable!("the tree holds what records put there");
        };
        Ok(Some(commitment))
    }

    /// The head of a log as of the last checkpoint that changed it.
    pub(super) fn stored_head(&self, store: &Store, tenant: TenantId) -> Result<LogHead, Fault> {
        if !store.tree_exists(HEADS_TREE)? {
            return Ok(LogHead::empty());
        }
        let Some(bytes) = store.get(HEADS_TREE, &trees::tenant_key(tenant))? else {
            return Ok(LogHead::empty());
        };
        let Ok(head) = LogHead::decode(&bytes) else {
            unreachable!("the tree holds what checkpoints put there");
        };
        Ok(head)
    }
}

fn created_by((_, work): &(u32, Work)) -> Option<(TenantId, KekHash)> {
    match work {
        Work::CreateTenant { tenant, kek_hash } => Some((*tenant, *kek_hash)),
        Work::Command(_)
        | Work::Insert(_)
        | Work::Append(_)
        | Work::Attest
        | Work::JobStep { .. } => None,
    }
}

/// A transaction that fits its own limits may still not fit what the ops before it left.
fn room_for(store: &Store, pages: u32) -> Result<(), RequestError> {
    match store.room_for(pages.saturating_add(PAGES_DIRTIED_MARGIN)) {
        Ok(()) => Ok(()),
        Err(RoomError::DirtyBudget { .. }) => {
            Err(RequestError::Retry(RetryReason::CheckpointBehind))
        }
        Err(RoomError::GridFull { pages_free }) => {
            Err(RequestError::GridFull { pages: u64::from(pages), free: u64::from(pages_free) })
        }
    }
}

/// Randomness of a request: what the prepare carries and the request's place in it.
fn seed_of(prepare: &Prepare<'_>, index: usize) -> [u8; 32] {
    use crate::crypto::{InternalDomain, InternalHash};
    let index = (index as u64).to_le_bytes();
    InternalHash::of(InternalDomain::Fingerprint, &[&prepare.seed, &index]).0
}

/// Why an id without a remembered outcome must not be used now.
fn out_of_time(id: IdempotencyId, now_ms: u64) -> Option<RequestError> {
    let not_after = id.not_after_ms();
    if forgettable(id, now_ms) {
        Some(RequestError::IdempotencyUnknown { id, now_ms })
    } else if not_after < now_ms {
        Some(RequestError::IdempotencyExpired { id, now_ms })
    } else if not_after > now_ms + IDEMPOTENCY_AHEAD_MAX_MS {
        let max_ahead_ms = IDEMPOTENCY_AHEAD_MAX_MS;
        Some(RequestError::IdempotencyTooFarAhead { id, now_ms, max_ahead_ms })
    } else {
        None
    }
}

impl Task {
    /// Grows with everything that will not be done again.
    pub(super) fn steps(&self) -> u64 {
        match &self.work {
            TaskWork::Requests { current, .. } => current.as_ref().map_or(0, Running::steps),
            TaskWork::Recovery { committing, committed, .. } => {
                u64::from(*committed) << 32 | committing.as_ref().map_or(0, Transaction::steps)
            }
            TaskWork::Checkpoint { heads, visiting } => {
                let visited = visiting.as_ref().map_or(1 << 40, |visit| {
                    visit.visited << 32 | visit.committing.as_ref().map_or(0, Transaction::steps)
                });
                visited + heads.as_ref().map_or(0, |(_, next)| *next as u64 + 1)
            }
        }
    }

    /// First position of the transaction under way in this tenant's log, if there is one.
    pub(super) fn first_of(&self, tenant: TenantId) -> Option<Position> {
        let transaction = match &self.work {
            TaskWork::Requests { current, .. } => match &current.as_ref()?.stage {
                Stage::Commit { transaction, .. } => transaction,
                Stage::Checkpoint { transaction, .. } => transaction.as_ref()?,
                Stage::Attest { attest, .. } => {
                    return attest.first().filter(|_| tenant == TenantId::SYSTEM);
                }
                Stage::Lookup | Stage::Execute(_) | Stage::Executed { .. } => return None,
            },
            TaskWork::Recovery { committing, .. } => committing.as_ref()?,
            TaskWork::Checkpoint { visiting, .. } => visiting.as_ref()?.committing.as_ref()?,
        };
        (transaction.tenant() == tenant).then(|| transaction.first())
    }
}

impl Running {
    fn steps(&self) -> u64 {
        match &self.stage {
            Stage::Lookup => 0,
            Stage::Execute(execution) => 1 << 40 | execution.steps,
            Stage::Executed { .. } => (1 << 40) + (1 << 39),
            Stage::Attest { attest, .. } => attest.steps(),
            Stage::Commit { transaction, .. } => 2 << 40 | transaction.steps(),
            Stage::Checkpoint { transaction, .. } => {
                3 << 40 | transaction.as_ref().map_or(0, Transaction::steps)
            }
        }
    }
}
