//! Consensus: pipeline, commit, replay and checkpoint proposal; today with a quorum of one.
//!
//! Purpose: gives every prepare its op, view, parent, time and place; writes it ahead; commits it
//! when a quorum has it durable; hands committed prepares to the state machine in op order. Replay
//! after a restart goes through the same queue as live traffic. `vsr` knows no SQL: the body of a
//! prepare is bytes to it.
//!
//! Order of an open: [`Vsr::open`] reads the journal → committed ops above the checkpoint come out
//! of [`Vsr::next_committed`] with `replay: true` → [`Vsr::view_wanted`] asks the node to put the
//! next view in the superblock → [`Vsr::view_durable`] → the node proposes [`Operation::Recovery`],
//! the first op of the view → requests.
//!
//! Invariants (see `docs/VSR.md` for where each is asserted):
//! - Ops are dense; a prepare names the checksum of the one before.
//! - No prepare of a view exists before the superblock holds that view.
//! - An op commits only when a quorum has it durable, and all before it.
//! - Committed ops leave in op order, each once; a bounded number is outstanding.
//! - Timestamps grow strictly and never jump more than `CLOCK_STEP_MAX_NS` ahead of the time that
//!   passed; but a recovery op, which says so on the record, goes to the wall clock.
//! - At most one checkpoint op lies above the durable checkpoint.
//! - Checkpoint and shutdown always find room in the ring.
//!
//! Fault model: that of the journal. Clocks may jump, freeze and go back.
//!
//! Start reading at [`Vsr::propose`], then [`Vsr::next_committed`].

mod clock_sync;
pub mod message;
mod open;
mod quorum;
pub mod replica;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{ClusterId, Generation, Op, Release, ReplicaId, View};
use crate::io::{Effects, IoError, IoId, Pages};
use crate::journal::{
    Journal, JournalError, JournalRecovery, Operation, Prepare, PrepareBuffer, PrepareHeader,
    TornTail,
};
use crate::limits::{
    CLOCK_FIRST_MAX_NS, CLOCK_JUMP_MAX_NS, CLOCK_STEP_MAX_NS, JOURNAL_HEADER_DELAY_NS,
    JOURNAL_RESERVE_BYTES, JOURNAL_ROOM_BYTES, PAGE_SIZE, PIPELINE_MAX, PREPARE_BUFFERS_MAX,
    PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX, REPLAY_AHEAD_MAX, REPLICA_COUNT_MAX,
};
use crate::time::{Clock, Instant, Timestamp};

pub use open::journal_start;
pub use quorum::quorum_replication;

/// A committed prepare, to be applied. Its buffer comes back with [`Vsr::applied`].
#[derive(Debug)]
pub struct Committed {
    pub header: PrepareHeader,
    pub prepare: Prepare,
    /// It was committed before this open: nobody waits for the outcome.
    pub replay: bool,
}

/// What the superblock must hold before the first proposal of this open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewWanted {
    pub view: View,
    pub log_view: View,
    /// The last op of the recovered journal: from now on it may not be missing.
    pub committed: Op,
}

/// Why nothing can be proposed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Recovery, replay or the new view's durability is not finished, or a shutdown has begun.
    NotReady,
    /// The first op of a view is its recovery.
    RecoveryFirst,
    /// `PIPELINE_MAX` prepares are in flight.
    PipelineFull,
    /// The ring has no room above the durable checkpoint.
    JournalFull,
    /// The last checkpoint is not durable yet.
    CheckpointPending,
}

/// Why consensus stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VsrError {
    Journal(JournalError),
    /// The directory is of a cluster, and nobody carries frames to its other replicas.
    NoPeers {
        replica_count: u8,
    },
}

impl core::fmt::Display for VsrError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            VsrError::Journal(error) => error.fmt(f),
            VsrError::NoPeers { replica_count } => write!(
                f,
                "the directory is one of {replica_count} replicas: serve it with `verity start`, \
                 the others beside it, and connect to them",
            ),
        }
    }
}

impl From<JournalError> for VsrError {
    fn from(error: JournalError) -> VsrError {
        VsrError::Journal(error)
    }
}

/// What `verity status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsrStatus {
    /// Still reading the journal: bytes judged, bytes in all.
    pub recovering: Option<(u64, u64)>,
    /// Last op to be replayed, while replay goes on.
    pub replaying_to: Option<Op>,
    pub view: View,
    pub log_view: View,
    pub generation: Generation,
    /// Last op proposed.
    pub op: Op,
    pub commit: Op,
    pub applied: Op,
    /// Last checkpoint op proposed, and last one durable.
    pub checkpoint_op: Op,
    pub checkpoint_durable: Op,
    pub journal_used_bytes: u64,
    pub journal_ring_bytes: u64,
    /// What the open dropped from the end of the journal.
    pub torn_tail: Option<TornTail>,
    /// Prepares proposed and not committed.
    pub in_flight: usize,
    /// Timestamp of the last proposal.
    pub timestamp: Timestamp,
    /// How far the wall clock was ahead of what the last proposal was allowed to say: the operator
    /// should look at the clock, or wait for time to catch up by `CLOCK_STEP_MAX_NS` an op.
    pub clock_ahead_ns: u64,
    /// How far the wall clock was behind the last proposal's timestamp.
    pub clock_behind_ns: u64,
}

/// The last prepare of the log: what the next one is made from.
#[derive(Clone, Copy, Debug)]
struct Head {
    op: Op,
    checksum: InternalHash,
    timestamp: Timestamp,
    /// Recovery ops up to and including it: the generation of the next op.
    generation: Generation,
    /// Newest checkpoint or shutdown op up to and including it.
    checkpoint_op: Op,
    /// It is a shutdown of this open: nothing follows.
    shutdown: bool,
}

#[derive(Debug)]
enum Stage {
    /// The journal is being read.
    Recovering(Box<JournalRecovery>),
    Open(Box<Journal>),
    Failed,
}

/// The consensus of one replica, and the journal it owns.
#[derive(Debug)]
pub struct Vsr {
    cluster: ClusterId,
    replica: ReplicaId,
    replica_count: u8,
    release: Release,
    stage: Stage,
    /// View of the superblock; after `view_durable`, the one this open proposes in.
    view: View,
    log_view: View,
    view_is_durable: bool,
    recovery_proposed: bool,
    head: Head,
    checkpoint_durable: Op,
    /// Last op that was in the journal at open.
    replay_to: Op,
    /// Highest op such that each replica has it, and all before it, durable.
    acknowledged: [Op; REPLICA_COUNT_MAX],
    commit: Op,
    /// Last op that `next_committed` gave away, and last that came back.
    delivered: Op,
    applied: Op,
    /// Ops `delivered + 1 ..`: durable (or read back) prepares at their place, `None` in flight.
    queue: VecDeque<Option<Prepare>>,
    buffers: Vec<PrepareBuffer>,
    clock_ahead_ns: u64,
    clock_behind_ns: u64,
    /// When the last proposal of this open was made.
    proposed_at: Option<Instant>,
    /// The last prepare of this open.
    proposed_last: Option<PrepareHeader>,
    /// When redundant headers that wait for company are written all the same.
    headers_due: Option<Instant>,
    /// What the open dropped from the end of the journal.
    torn_tail: Option<TornTail>,
}

impl Vsr {
    /// A buffer for the body of the next prepare; `None` while all are in use.
    #[must_use]
    pub fn buffer(&mut self) -> Option<PrepareBuffer> {
        self.buffers.pop()
    }

    /// Gives back a buffer that was not proposed.
    pub fn recycle(&mut self, buffer: PrepareBuffer) {
        assert!(self.buffers.len() < PREPARE_BUFFERS_MAX);
        self.buffers.push(PrepareBuffer::reuse(buffer.into_pages()));
    }

    /// Replay is applied and the view is durable: proposals may begin (with a recovery).
    #[must_use]
    pub fn ready_to_propose(&self) -> bool {
        self.view_is_durable && self.applied >= self.replay_to && !self.head.shutdown
    }

    /// Whether the recovery op of this open was proposed.
    #[must_use]
    pub fn recovery_proposed(&self) -> bool {
        self.recovery_proposed
    }

    /// Whether an operation with a body of this many bytes may be proposed now; if not, why.
    pub fn check_propose(&self, operation: Operation, body_bytes: usize) -> Result<(), Busy> {
        let Stage::Open(journal) = &self.stage else {
            return Err(Busy::NotReady);
        };
        if !self.ready_to_propose() {
            return Err(Busy::NotReady);
        }
        let first = operation == Operation::Recovery
            || (operation == Operation::Checkpoint && self.checkpoint_first());
        if !self.recovery_proposed && !first {
            return Err(Busy::RecoveryFirst);
        }
        if self.in_flight() >= PIPELINE_MAX {
            return Err(Busy::PipelineFull);
        }
        if operation.is_checkpoint() && self.checkpoint_pending() {
            return Err(Busy::CheckpointPending);
        }
        // What must stay free for those that may not fail: recovery leaves room for checkpoint and
        // shutdown, checkpoint for shutdown.
        let page = PAGE_SIZE as u64;
        let reserve = match operation {
            Operation::Requests => JOURNAL_RESERVE_BYTES,
            Operation::Recovery => 2 * page,
            Operation::Checkpoint => page,
            Operation::Shutdown => 0,
            Operation::Root => unreachable!("the root is never proposed"),
        };
        match journal.free_after(PREPARE_HEADER_SIZE + body_bytes) {
            Some(free) if free >= reserve => Ok(()),
            Some(_) | None => Err(Busy::JournalFull),
        }
    }

    /// Short for [`Vsr::check_propose`].
    #[must_use]
    pub fn can_propose(&self, operation: Operation, body_bytes: usize) -> bool {
        self.check_propose(operation, body_bytes).is_ok()
    }

    /// Proposes the next op; the caller has asked [`Vsr::check_propose`]. `requests` is how many
    /// the body holds. The op commits when [`Vsr::next_committed`] gives it.
    pub fn propose(
        &mut self,
        now: Clock,
        operation: Operation,
        body: PrepareBuffer,
        requests: u16,
        effects: &mut Effects,
    ) -> Op {
        assert_eq!(self.check_propose(operation, body.len()), Ok(()));
        let first = self.checkpoint_first() && operation == Operation::Checkpoint;
        let recovery = operation == Operation::Recovery;
        assert_eq!(recovery, !self.recovery_proposed && !first, "once, and first");
        let small = PREPARE_HEADER_SIZE + body.len() <= PAGE_SIZE;
        assert!(operation == Operation::Requests || small, "the reserve counts on one page");
        let op = self.head.op.next();
        let timestamp = self.timestamp(now, op, operation, effects);
        let Stage::Open(journal) = &mut self.stage else { unreachable!("checked above") };
        let header = PrepareHeader {
            checksum: InternalHash::ZERO,
            checksum_body: InternalHash::ZERO,
            parent: self.head.checksum,
            cluster: self.cluster,
            op,
            view: self.view,
            commit: self.commit,
            checkpoint_op: self.head.checkpoint_op,
            checkpoint_durable: self.checkpoint_durable,
            timestamp,
            generation: self.head.generation,
            journal_offset: journal.place(PREPARE_HEADER_SIZE + body.len()),
            size: 0,
            requests,
            operation,
            replica: self.replica,
            release: self.release,
        };
        let prepare = body.finish(header);
        let header = *prepare.header();
        assert!(header.timestamp > self.head.timestamp, "time never goes back");
        self.head = self.head.after(&header);
        self.head.shutdown = operation == Operation::Shutdown;
        self.recovery_proposed |= recovery;
        self.queue.push_back(None);
        self.proposed_last = Some(header);
        journal.write(prepare, effects);
        let due = now.monotonic.plus_ns(JOURNAL_HEADER_DELAY_NS);
        self.headers_due = Some(self.headers_due.unwrap_or(due));
        effects.event(Event::PrepareProposed { op, requests: u32::from(requests) });
        op
    }

    /// The header of the last prepare that was proposed here.
    #[must_use]
    pub fn head_header(&self) -> Option<&PrepareHeader> {
        self.proposed_last.as_ref()
    }

    /// The next committed op, in op order. Reads ahead while it replays.
    pub fn next_committed(&mut self, effects: &mut Effects) -> Option<Committed> {
        self.replay_ahead(effects);
        let next = self.delivered.next();
        if next > self.commit || self.outstanding() >= REPLAY_AHEAD_MAX {
            return None;
        }
        let prepare = self.queue.front_mut()?.take()?;
        self.queue.pop_front();
        let header = *prepare.header();
        assert_eq!(header.op, next, "committed ops leave in op order, each once");
        self.delivered = next;
        Some(Committed { header, prepare, replay: next <= self.replay_to })
    }

    /// The op was applied; its buffer is free again.
    pub fn applied(&mut self, op: Op, prepare: Prepare) {
        assert_eq!(op, self.applied.next(), "ops are applied in order");
        assert!(op <= self.delivered);
        assert_eq!(prepare.header().op, op);
        self.applied = op;
        self.recycle(PrepareBuffer::reuse(prepare.into_pages()));
    }

    /// Whether a checkpoint should be proposed: ring or dirty pages at half their budget, and the
    /// last checkpoint durable.
    #[must_use]
    pub fn checkpoint_wanted(&self, dirty_pages: u32, dirty_pages_max: u32) -> bool {
        let Stage::Open(journal) = &self.stage else {
            return false;
        };
        if !self.ready_to_propose() || !self.recovery_proposed || self.checkpoint_pending() {
            return false;
        }
        let used = journal.used_bytes();
        let free = journal.ring_bytes() - used;
        // Without the second condition a small ring could be too full for the largest prepare and
        // not full enough for a checkpoint.
        used >= journal.ring_bytes() / 2
            || free < JOURNAL_ROOM_BYTES
            || dirty_pages >= dirty_pages_max / 2
    }

    /// Whether a checkpoint must come before the recovery op of this open: crashes in a row, each
    /// after its recovery op and before the checkpoint that this asks for was on disk, have used up
    /// half of the reserve. Without it some sixty of them would leave no room for a recovery, ever.
    /// A crash after it costs no more room: replay takes the checkpoint before the next view.
    #[must_use]
    pub fn checkpoint_first(&self) -> bool {
        let Stage::Open(journal) = &self.stage else {
            return false;
        };
        let free = journal.ring_bytes() - journal.used_bytes();
        !self.recovery_proposed
            && self.head.op > self.checkpoint_durable
            && free < JOURNAL_RESERVE_BYTES / 2
    }

    /// The superblock holds the checkpoint after `op`: its ring space is free, and later prepares
    /// say so.
    pub fn checkpoint_durable(&mut self, op: Op) {
        assert!(self.checkpoint_pending(), "no checkpoint was proposed");
        assert_eq!(op, self.head.checkpoint_op, "one checkpoint at a time");
        assert!(op <= self.applied.max(self.delivered), "only what was applied is checkpointed");
        let Stage::Open(journal) = &mut self.stage else {
            unreachable!("a checkpoint needs applied ops, and they need a journal")
        };
        journal.checkpoint_durable(op);
        self.checkpoint_durable = op;
    }

    /// What the superblock must hold before this open may propose; `None` once it does, and while
    /// the journal is being read.
    #[must_use]
    pub fn view_wanted(&self) -> Option<ViewWanted> {
        match &self.stage {
            Stage::Open(journal) if !self.view_is_durable && !journal.is_restoring() => {
                let view = self.view.next();
                Some(ViewWanted { view, log_view: view, committed: self.replay_to })
            }
            Stage::Open(_) | Stage::Recovering(_) | Stage::Failed => None,
        }
    }

    /// The superblock holds `view`.
    pub fn view_durable(&mut self, view: View) {
        assert_eq!(self.view_wanted().map(|wanted| wanted.view), Some(view));
        self.view = view;
        self.log_view = view;
        self.view_is_durable = true;
    }

    /// Highest committed op: the superblock's `committed` in its next update.
    #[must_use]
    pub fn commit(&self) -> Op {
        self.commit
    }

    /// Generation of the next op: recovery ops so far.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.head.generation
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Clock, effects: &mut Effects) {
        if self.headers_due.is_none_or(|due| due > now.monotonic) {
            return;
        }
        self.headers_due = None;
        if let Stage::Open(journal) = &mut self.stage {
            journal.flush_headers(effects);
            if journal.writes_in_flight() > 0 {
                self.headers_due = Some(now.monotonic.plus_ns(JOURNAL_HEADER_DELAY_NS));
            }
        }
    }

    /// When `tick` wants to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.headers_due
    }

    #[must_use]
    pub fn status(&self) -> VsrStatus {
        let (used, ring) = match &self.stage {
            Stage::Open(journal) => (journal.used_bytes(), journal.ring_bytes()),
            Stage::Recovering(_) | Stage::Failed => (0, 0),
        };
        let recovering = match &self.stage {
            Stage::Recovering(recovery) => Some(recovery.progress()),
            Stage::Open(_) | Stage::Failed => None,
        };
        VsrStatus {
            recovering,
            replaying_to: (self.applied < self.replay_to).then_some(self.replay_to),
            view: self.view,
            log_view: self.log_view,
            generation: self.head.generation,
            op: self.head.op,
            commit: self.commit,
            applied: self.applied,
            checkpoint_op: self.head.checkpoint_op,
            checkpoint_durable: self.checkpoint_durable,
            journal_used_bytes: used,
            journal_ring_bytes: ring,
            torn_tail: self.torn_tail,
            in_flight: self.in_flight(),
            timestamp: self.head.timestamp,
            clock_ahead_ns: self.clock_ahead_ns,
            clock_behind_ns: self.clock_behind_ns,
        }
    }

    /// Routes a completed write of `Owner::Journal`.
    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        let journal = match &mut self.stage {
            Stage::Open(journal) => journal,
            Stage::Recovering(_) => unreachable!("nothing is written while the journal is read"),
            Stage::Failed => return Ok(()),
        };
        let outcome = journal.on_write_done(io, pages, result, effects);
        self.fail_on(outcome)?;
        self.collect_durable(effects);
        self.replay_ahead(effects);
        Ok(())
    }

    /// Bytes held, for the memory budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let journal = match &self.stage {
            Stage::Open(journal) => journal.memory_bytes(),
            Stage::Recovering(_) | Stage::Failed => 0,
        };
        // Those that are not here are with the disk, or being applied.
        assert!(self.buffers.len() <= PREPARE_BUFFERS_MAX);
        journal + PREPARE_BUFFERS_MAX * PREPARE_SIZE_MAX
    }

    fn collect_durable(&mut self, effects: &mut Effects) {
        let Stage::Open(journal) = &mut self.stage else { return };
        let mut arrived = false;
        while let Some(prepare) = journal.next_durable() {
            let op = prepare.header().op;
            assert!(op > self.replay_to, "what is replayed was durable at open");
            place(&mut self.queue, self.delivered, op, prepare);
            arrived = true;
        }
        // A redundant header may become durable while the queue holds prepares being read back.
        if !arrived {
            return;
        }
        // This replica acknowledges up to the first prepare that is still in flight.
        let missing = self.queue.iter().position(Option::is_none);
        let durable = Op::new(self.delivered.get() + missing.unwrap_or(self.queue.len()) as u64);
        let own = &mut self.acknowledged[usize::from(self.replica.get())];
        assert!(durable >= *own, "what is durable stays so");
        *own = durable;
        self.advance_commit(effects);
    }

    fn advance_commit(&mut self, effects: &mut Effects) {
        let commit = quorum::committed(&self.acknowledged, self.replica_count);
        assert!(commit >= self.commit && commit <= self.head.op, "commits never go back");
        while self.commit < commit {
            self.commit = self.commit.next();
            effects.event(Event::Committed { op: self.commit });
        }
    }

    /// Whether the wall clock may be believed by a recovery op without the operator's word.
    #[must_use]
    pub fn clock_is_plausible(&self, now: Clock) -> bool {
        let last = self.head.timestamp;
        let latest = if last == Timestamp(0) {
            Timestamp(CLOCK_FIRST_MAX_NS)
        } else {
            last.plus_ns(CLOCK_JUMP_MAX_NS)
        };
        now.wall <= latest
    }

    /// max(last + 1, wall), but never more than one step ahead of the last and the time that passed
    /// since. Nobody knows how long the database was closed: the recovery op goes to the wall
    /// clock, after its proposer asked [`Vsr::clock_is_plausible`].
    fn timestamp(
        &mut self,
        now: Clock,
        op: Op,
        operation: Operation,
        effects: &mut Effects,
    ) -> Timestamp {
        let last = self.head.timestamp;
        let latest = match (operation, self.proposed_at) {
            (Operation::Recovery, _) => now.wall,
            (_, Some(at)) => last.plus_ns(CLOCK_STEP_MAX_NS).plus_ns(now.monotonic.since_ns(at)),
            // A checkpoint before the recovery op.
            (_, None) => last.plus_ns(CLOCK_STEP_MAX_NS),
        };
        self.proposed_at = Some(now.monotonic);
        let ahead_ns = now.wall.0.saturating_sub(latest.0);
        if ahead_ns > 0 && self.clock_ahead_ns == 0 {
            effects.event(Event::ClockStepLimited { op, ahead_ns });
        }
        self.clock_ahead_ns = ahead_ns;
        self.clock_behind_ns = last.0.saturating_sub(now.wall.0);
        #[cfg(verity_zoo)]
        if crate::zoo::is("clock_goes_back") {
            return now.wall.min(latest);
        }
        #[cfg(verity_zoo)]
        if crate::zoo::is("clock_step_unlimited") {
            return now.wall.max(last.plus_ns(1));
        }
        now.wall.min(latest).max(last.plus_ns(1))
    }

    /// Prepares proposed and not committed.
    fn in_flight(&self) -> usize {
        (self.head.op.get() - self.commit.get().min(self.head.op.get())) as usize
    }

    fn outstanding(&self) -> usize {
        (self.delivered.get() - self.applied.get()) as usize
    }

    fn checkpoint_pending(&self) -> bool {
        self.head.checkpoint_op > self.checkpoint_durable
    }

    fn fail_on<T>(&mut self, outcome: Result<T, JournalError>) -> Result<T, VsrError> {
        outcome.map_err(|error| {
            self.stage = Stage::Failed;
            VsrError::Journal(error)
        })
    }
}

impl Head {
    fn after(&self, header: &PrepareHeader) -> Head {
        assert_eq!(header.op, self.op.next());
        assert_eq!(header.parent, self.checksum, "each prepare names the one before");
        assert_eq!(header.generation, self.generation, "recovery ops are counted");
        assert_eq!(header.checkpoint_op, self.checkpoint_op);
        assert!(header.timestamp > self.timestamp, "time never goes back");
        let recovery = header.operation == Operation::Recovery;
        let checkpoint = header.operation.is_checkpoint();
        Head {
            op: header.op,
            checksum: header.checksum,
            timestamp: header.timestamp,
            generation: if recovery { self.generation.next() } else { self.generation },
            checkpoint_op: if checkpoint { header.op } else { self.checkpoint_op },
            shutdown: false,
        }
    }
}

/// Puts a prepare that became available at its place in the queue that begins at `delivered` + 1.
fn place(queue: &mut VecDeque<Option<Prepare>>, delivered: Op, op: Op, prepare: Prepare) {
    let Some(slot) =
        op.get().checked_sub(delivered.get() + 1).and_then(|index| queue.get_mut(index as usize))
    else {
        unreachable!("only what is awaited arrives")
    };
    assert!(slot.is_none(), "each op arrives once");
    *slot = Some(prepare);
}
