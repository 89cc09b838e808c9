//! An open node: applies what is committed, checkpoints, proposes, answers.
//!
//! One turn runs these in a loop until nothing moves; see `docs/NODE.md` for the order and why.
//! Fault model: any device error, or state that cannot be trusted, ends the turn with a [`Halt`];
//! what was acknowledged before is durable, and nothing is acknowledged after.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use rand_chacha::ChaCha20Rng;

use crate::event::Event;
use crate::ids::{Op, Position, TenantId, View};
use crate::io::{Effects, Input, IoError, IoId, Owner};
use crate::journal::Operation;
use crate::kernel::{
    Kernel, RecoveryEvidence, RecoveryReason, Reply, RequestError, RetryReason, SealedRequest,
};
use crate::keyring::Keyring;
use crate::limits::{REQUEST_QUEUE_MAX, SEALED_BYTES_MAX, SPACE_RESERVE_BYTES, TICKETS_MAX};
use crate::log::Logs;
use crate::node::api::{Config, Halt, Ticket};
use crate::node::apply::Applying;
use crate::node::attesting::Attesting;
use crate::node::checkpoint::CheckpointTask;
use crate::node::consensus::Consensus;
use crate::node::cosigning::Cosigning;
use crate::node::finding::Search;
use crate::node::halt::{log_halt, store_halt, superblock_halt, vsr_halt};
use crate::node::jobs::Jobs;
use crate::node::memory::{MemoryPlan, MemoryUse};
use crate::node::opening::Opened;
use crate::node::proofs::Proofs;
use crate::node::requests::{Queued, Waiting, Work};
use crate::node::scrubbing::Scrubbing;
use crate::node::serving::Serving;
use crate::node::tenants::TenantKeysWork;
use crate::store::Store;
use crate::superblock::{Superblock, SuperblockError, SuperblockEvent, SuperblockState};
use crate::time::{Clock, Instant, Timestamp};

/// Where an open node is on its way from replay to shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Committed prepares of before this open are applied.
    Replay,
    /// The next view is being written to the superblock.
    View,
    /// One of a cluster that another leads, or nobody yet: what is committed is applied.
    Following,
    /// The first op of the view is on its way.
    Recovery {
        op: Option<Op>,
    },
    Serving,
    /// No new requests; those that wait are served, then `Operation::Shutdown`.
    ShuttingDown {
        op: Option<Op>,
    },
    Stopped,
}

/// What the superblock is being written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SuperblockUse {
    Idle,
    View,
    Checkpoint,
    /// The head that this replica is about to cosign.
    Cosigned,
}

#[derive(Debug)]
pub(super) struct Running {
    pub config: Config,
    pub memory: MemoryPlan,
    pub random: ChaCha20Rng,
    pub superblock: Superblock,
    pub superblock_use: SuperblockUse,
    pub keyring: Keyring,
    pub store: Store,
    pub logs: Logs,
    pub kernel: Kernel,
    pub vsr: Consensus,
    /// The view that this node leads, of a cluster.
    pub leading: Option<View>,
    pub phase: Phase,
    /// Where replay started from.
    pub recovery_point: Op,
    pub applying: Option<Applying>,
    /// Apply could go on, and lets its caller look around first; since when.
    pub paused_at: Option<Instant>,
    pub checkpoint: Option<CheckpointTask>,
    #[cfg(verity_zoo)]
    pub checkpoint_due: Option<CheckpointTask>,
    /// Submitted, not in the queue yet: to be sealed, or pages or keys are missing for that.
    pub waiting: VecDeque<Waiting>,
    pub waiting_bytes: usize,
    /// Requests whose rows are being looked for, one after the other.
    pub searches: VecDeque<Search>,
    pub search_at: Option<Instant>,
    /// What all reads together sort and group.
    pub reads_bytes: usize,
    /// The last position that `AS OF` named and at which a transaction was seen to end.
    pub ended_at: Option<(TenantId, Position)>,
    /// Sealed, not proposed yet.
    pub queue: VecDeque<Queued>,
    pub queue_bytes: usize,
    /// What waits goes out at once; see [`Running::hurry`].
    pub hurry: bool,
    /// The only request of the newest prepare, if it can be executed while that is written.
    pub ahead: Option<(Op, SealedRequest)>,
    /// Who waits for which prepare, in the order of its requests.
    pub proposed: BTreeMap<Op, Vec<Ticket>>,
    pub replies: VecDeque<(Ticket, Result<Reply, RequestError>)>,
    pub jobs: Jobs,
    pub free_bytes: Option<u64>,
    pub attesting: Attesting,
    pub proofs: Proofs,
    pub cosigning: Cosigning,
    /// What peers ask for.
    pub serving: Serving,
    pub scrubbing: Scrubbing,
    pub tenant_keys: TenantKeysWork,
    /// A peer has a checkpoint that this replica needs: the node is to fetch it.
    pub sync_offered: bool,
}

impl Running {
    pub fn new(config: &Config, random: ChaCha20Rng, opened: Opened) -> Running {
        let Opened { superblock, keyring, mut store, vsr, memory } = opened;
        let Some(state) = superblock.state() else { unreachable!("it was opened") };
        let mut logs = Logs::new(state.constants.segment_positions, state.origin);
        if vsr.is_cluster() {
            store.repair_from_peers();
            logs.repair_from_peers();
        }
        let mut kernel = Kernel::new(state.constants, state.checkpoint.generation);
        if vsr.is_cluster() {
            kernel.stop_at_tenants();
        }
        Running {
            config: config.clone(),
            memory,
            random,
            logs,
            recovery_point: state.checkpoint.op,
            superblock,
            superblock_use: SuperblockUse::Idle,
            keyring,
            store,
            kernel,
            phase: if vsr.is_cluster() { Phase::Following } else { Phase::Replay },
            vsr,
            leading: None,
            applying: None,
            paused_at: None,
            checkpoint: None,
            #[cfg(verity_zoo)]
            checkpoint_due: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            searches: VecDeque::new(),
            search_at: None,
            reads_bytes: 0,
            ended_at: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            hurry: false,
            ahead: None,
            proposed: BTreeMap::new(),
            replies: VecDeque::new(),
            jobs: Jobs::default(),
            free_bytes: None,
            attesting: Attesting::default(),
            proofs: Proofs::default(),
            cosigning: Cosigning::default(),
            serving: Serving::default(),
            scrubbing: Scrubbing::default(),
            tenant_keys: TenantKeysWork::default(),
            sync_offered: false,
        }
    }

    pub fn superblock_state(&self) -> SuperblockState {
        let Some(state) = self.superblock.state() else { unreachable!("it was opened") };
        *state
    }

    /// Whether requests may be submitted.
    pub fn accepts(&self) -> bool {
        match self.phase {
            Phase::Replay | Phase::View | Phase::Recovery { .. } | Phase::Serving => true,
            Phase::Following | Phase::ShuttingDown { .. } | Phase::Stopped => false,
        }
    }

    /// Before the recovery op there may be committed ops that are not applied yet. One that follows
    /// answers as of what it has applied.
    pub fn serves_reads(&self) -> bool {
        match self.phase {
            Phase::Following | Phase::Serving | Phase::ShuttingDown { .. } => {
                self.keys_are_complete()
            }
            Phase::Replay | Phase::View | Phase::Recovery { .. } | Phase::Stopped => false,
        }
    }

    /// What is left is for a checkpoint: nothing else may write.
    pub fn disk_is_full(&self) -> bool {
        self.free_bytes.is_some_and(|free| free < SPACE_RESERVE_BYTES)
    }

    pub fn submit(&mut self, ticket: Ticket, work: Work) {
        let bytes = work.memory_bytes();
        // The two prepares' worth that are sealed already have a share of their own.
        let room = self.memory.requests as usize - SEALED_BYTES_MAX;
        let waiting = self.waiting_bytes + self.searches_bytes();
        let alone = self.waiting.is_empty() && self.searches.is_empty();
        let crowded = !alone && waiting + bytes > room;
        let refusal = if self.phase == Phase::Following {
            Some(RetryReason::NotPrimary)
        } else if !self.accepts() {
            Some(RetryReason::NotReady)
        } else if self.disk_is_full() && work.idempotency().is_none() {
            // With an id an earlier try may be on record: that is looked up first.
            Some(RetryReason::DiskFull)
        } else if self.waiting.len() + self.searches.len() + self.queue.len() >= REQUEST_QUEUE_MAX
            || self.replies.len() >= TICKETS_MAX
            || crowded
        {
            Some(RetryReason::QueueFull)
        } else {
            None
        };
        match refusal {
            Some(reason) => self.answer(ticket, Err(RequestError::Retry(reason))),
            None => {
                self.waiting_bytes += bytes;
                self.waiting.push_back(Waiting::new(ticket, work, bytes));
            }
        }
    }

    /// What is held now of each part of the memory plan.
    pub fn memory_use(&self) -> MemoryUse {
        // A request that found none waiting was taken whatever its size: it is its caller's.
        let alone = match (self.searches.front(), self.waiting.front()) {
            (Some(search), _) => search.bytes,
            (None, Some(waiting)) => waiting.bytes,
            (None, None) => 0,
        };
        let waiting = self.waiting_bytes + self.searches_bytes();
        MemoryUse {
            pages: self.store.memory_bytes() as u64,
            grid: self.store.memory_bytes_beside() as u64,
            logs: self.logs.memory_bytes() as u64,
            journal: self.vsr.memory_bytes() as u64,
            requests: (waiting - alone + self.queue_bytes) as u64,
            reads: self.reads_bytes as u64,
        }
    }

    pub fn shut_down(&mut self) {
        if self.phase == Phase::Serving || self.phase == Phase::Following {
            self.phase = Phase::ShuttingDown { op: None };
        }
    }

    pub fn step(&mut self, now: Clock, input: Input, effects: &mut Effects) -> Result<(), Halt> {
        self.route(now, input, effects)?;
        self.vsr.tick(now, effects);
        self.drive_search(now, effects)?;
        self.turn(now, effects)
    }

    /// Runs until nothing moves, or apply pauses: the rest is then for the next turn. Each loop
    /// either applies a prepare, proposes one, or ends.
    pub fn turn(&mut self, now: Clock, effects: &mut Effects) -> Result<(), Halt> {
        self.step_down_if_deposed();
        if self.vsr.is_cluster() {
            self.check_tenants(effects)?;
        }
        let mut busy = false;
        loop {
            let mut moved = self.apply_committed(now, effects)?;
            if self.paused_at.is_some() {
                return Ok(());
            }
            moved |= self.attest_in_time(now);
            moved |= self.advance_phase(now, effects)?;
            moved |= self.drive_jobs(now, effects)?;
            moved |= self.seal_waiting(now, effects)?;
            moved |= self.propose(now, effects);
            if !moved {
                break;
            }
            busy = true;
        }
        self.checkpoint_step(busy, effects)?;
        self.drive_scrub(now, effects);
        self.logs.flush_step(effects);
        self.drive_cosigning(now, effects);
        if self.vsr.is_cluster() {
            self.talk(now, effects);
        }
        if self.config.evict_everything {
            self.store.evict_all();
            self.logs.evict_all();
        }
        Ok(())
    }

    fn route(&mut self, now: Clock, input: Input, effects: &mut Effects) -> Result<(), Halt> {
        match input {
            Input::Tick => Ok(()),
            Input::Received { from: _, frame } => {
                match self.vsr.on_frame(now, &frame, effects) {
                    Ok(None) => {}
                    Ok(Some(message)) => self.on_peer(now, message, effects),
                    Err(_) => effects.event(Event::FrameRefused),
                }
                Ok(())
            }
            Input::LinkClosed { peer } => {
                self.vsr.on_link_closed(now, peer);
                Ok(())
            }
            Input::Space { free_bytes } => {
                self.free_bytes = Some(free_bytes);
                self.vsr.set_full(now, self.disk_is_full());
                Ok(())
            }
            Input::ReadDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock.on_read_done(io, pages, result, effects);
                    self.on_superblock(now, event, effects)
                }
                Owner::Keyring => {
                    let event = self.keyring.on_read_done(io, pages, result, effects);
                    self.on_keyring(event)
                }
                Owner::Store => {
                    if self.on_served_page(io, &pages, result)? {
                        return Ok(());
                    }
                    let store = &mut self.store;
                    store
                        .on_read_done(&self.keyring, io, pages, result, effects)
                        .map_err(store_halt)
                }
                Owner::Journal => {
                    self.vsr.on_read_done(now, io, pages, result, effects).map_err(vsr_halt)
                }
                Owner::Log => self.logs.on_read_done(io, pages, result, effects).map_err(log_halt),
                Owner::Node => self.on_served_blocks(io, pages, result, effects),
            },
            Input::WriteDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock.on_write_done(io, pages, result, effects);
                    self.on_superblock(now, event, effects)
                }
                Owner::Keyring => {
                    let event = self.keyring.on_write_done(io, pages, result, effects);
                    self.on_keyring(event)
                }
                Owner::Store => self.store.on_write_done(io, pages, result).map_err(store_halt),
                Owner::Journal => {
                    self.vsr.on_write_done(now, io, pages, result, effects).map_err(vsr_halt)
                }
                Owner::Log => self.logs.on_write_done(io, pages, result, effects).map_err(log_halt),
                Owner::Node => unreachable!("the node itself writes nothing"),
            },
            Input::Done { io, result } => self.on_done(io, result, effects),
            Input::Wrapped { io, key } => {
                let event = self.keyring.on_wrapped(io, key, effects);
                self.on_keyring(event)
            }
            Input::Unwrapped { io, key } if io.owner == Owner::Node => {
                self.on_cosigner(io, key);
                Ok(())
            }
            Input::Unwrapped { io, key } => {
                let event = self.keyring.on_unwrapped(io, key, effects);
                self.on_keyring(event)
            }
        }
    }

    fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match io.owner {
            Owner::Journal => self.vsr.on_done(io, result, effects).map_err(vsr_halt),
            Owner::Log => self.logs.on_done(io, result, effects).map_err(log_halt),
            Owner::Keyring => {
                let event = self.keyring.on_done(io, result, effects);
                self.on_keyring(event)
            }
            Owner::Node => self.on_grid_synced(result),
            Owner::Superblock | Owner::Store => unreachable!("{io:?} syncs nothing"),
        }
    }

    fn on_superblock(
        &mut self,
        now: Clock,
        event: Result<Option<SuperblockEvent>, SuperblockError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match event.map_err(superblock_halt)? {
            None => {}
            Some(SuperblockEvent::Opened) => unreachable!("it is open already"),
            Some(SuperblockEvent::Updated) => {
                match core::mem::replace(&mut self.superblock_use, SuperblockUse::Idle) {
                    SuperblockUse::View => {
                        let view = self.superblock_state().view;
                        self.vsr.view_durable(now, view, effects);
                    }
                    SuperblockUse::Checkpoint => self.on_checkpoint_durable(effects),
                    SuperblockUse::Cosigned => {}
                    SuperblockUse::Idle => unreachable!("somebody asked for the update"),
                }
            }
        }
        Ok(())
    }

    /// From replay to serving, and from serving to the end.
    fn advance_phase(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        match self.phase {
            Phase::Replay => self.begin_view(now, effects),
            Phase::View if self.vsr.ready_to_propose() => {
                self.phase = Phase::Recovery { op: None };
                Ok(true)
            }
            Phase::View => Ok(false),
            Phase::Following => Ok(self.lead_if_elected()),
            Phase::Recovery { op: None } if self.vsr.checkpoint_first() => {
                Ok(self.propose_first_checkpoint(now, effects))
            }
            Phase::Recovery { op: None } => self.propose_recovery(now, effects),
            Phase::Recovery { op: Some(op) } if self.vsr.status().applied >= op => {
                self.phase = Phase::Serving;
                Ok(true)
            }
            Phase::Recovery { .. } | Phase::Serving | Phase::Stopped => Ok(false),
            Phase::ShuttingDown { .. } if self.vsr.is_cluster() => {
                if self.stop_following() {
                    effects.event(Event::ShutdownComplete);
                }
                Ok(false)
            }
            Phase::ShuttingDown { op: None } => Ok(self.propose_shutdown(now, effects)),
            Phase::ShuttingDown { op: Some(op) } => {
                let done = self.vsr.status().checkpoint_durable >= op && self.logs.is_idle();
                if done && self.superblock_use == SuperblockUse::Idle {
                    self.phase = Phase::Stopped;
                    effects.event(Event::ShutdownComplete);
                }
                Ok(false)
            }
        }
    }

    /// All that was committed is applied: the next view goes to the superblock.
    fn begin_view(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        let status = self.vsr.status();
        if status.replaying_to.is_some() || self.applying.is_some() {
            return Ok(false);
        }
        // A checkpoint met in replay has the superblock first.
        if self.superblock_use != SuperblockUse::Idle || self.checkpoint.is_some() {
            return Ok(false);
        }
        self.check_clock(now)?;
        let Some(wanted) = self.vsr.view_wanted() else {
            unreachable!("a view is wanted until it is durable");
        };
        effects.event(Event::ReplayFinished { op: status.applied });
        let last = self.superblock_state();
        let state = SuperblockState {
            view: wanted.view,
            log_view: wanted.log_view,
            committed: wanted.committed.max(last.committed),
            generation: self.vsr.generation().max(last.generation),
            release: self.config.release,
            ..last
        };
        self.superblock.update(state, effects);
        self.superblock_use = SuperblockUse::View;
        self.phase = Phase::View;
        Ok(true)
    }

    /// The recovery op takes time to the wall clock, however far: a clock that is absurd is refused
    /// before it is on the record. True: it is believed on the operator's word only.
    fn check_clock(&self, now: Clock) -> Result<bool, Halt> {
        if self.vsr.clock_is_plausible(now) {
            return Ok(false);
        }
        if self.config.accept_clock {
            return Ok(true);
        }
        let last = Some(self.vsr.status().timestamp).filter(|last| *last != Timestamp(0));
        Err(Halt::Clock { last, wall: now.wall })
    }

    fn propose_recovery(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        let state = self.superblock_state();
        let known = |tenant| Some((tenant, self.keyring.kek_hash(tenant)?));
        // Of a cluster many views may pass before one gets so far.
        let first =
            state.view.get() == 1 || (self.vsr.is_cluster() && self.vsr.generation().get() == 0);
        let evidence = RecoveryEvidence {
            view: state.view,
            committed: state.committed,
            recovery_point: self.recovery_point,
            discarded: self.vsr.discarded().map(|range| (range.first, range.last)),
            unrecorded_views: state.view.get() - 1 - self.vsr.generation().get(),
            reason: if first { RecoveryReason::Format } else { RecoveryReason::Restart },
            tenants: known(TenantId::DEFAULT).into_iter().collect(),
            last_time: self.vsr.status().timestamp,
            clock_accepted: self.check_clock(now)?,
        };
        let body = evidence.to_body();
        if !self.vsr.can_propose(Operation::Recovery, body.len()) {
            return Ok(false);
        }
        let Some(mut buffer) = self.vsr.buffer() else { return Ok(false) };
        buffer.push(&body);
        let op = self.vsr.propose(now, Operation::Recovery, buffer, 0, effects);
        self.phase = Phase::Recovery { op: Some(op) };
        Ok(true)
    }

    /// The ring is so full of recoveries that a checkpoint must make room for the next one.
    fn propose_first_checkpoint(&mut self, now: Clock, effects: &mut Effects) -> bool {
        if self.checkpoint.is_some() || !self.vsr.can_propose(Operation::Checkpoint, 0) {
            return false;
        }
        let Some(buffer) = self.vsr.buffer() else { return false };
        self.vsr.propose(now, Operation::Checkpoint, buffer, 0, effects);
        true
    }

    /// Is every request answered?
    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.waiting.is_empty() && self.searches.is_empty();
        waiting && self.queue.is_empty() && self.proposed.is_empty()
    }

    fn propose_shutdown(&mut self, now: Clock, effects: &mut Effects) -> bool {
        if !self.is_idle()
            || self.checkpoint.is_some()
            || !self.vsr.can_propose(Operation::Shutdown, 0)
        {
            return false;
        }
        let Some(buffer) = self.vsr.buffer() else { return false };
        let op = self.vsr.propose(now, Operation::Shutdown, buffer, 0, effects);
        self.phase = Phase::ShuttingDown { op: Some(op) };
        true
    }
}
