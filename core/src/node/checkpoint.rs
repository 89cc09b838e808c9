//! A checkpoint from its op to the superblock.
//!
//! Order, and why: the kernel padded the logs and put their heads into the tree of heads (so the
//! frozen grid names them); the grid freezes; pages and blocks are written a few a turn while later
//! ops go on; the logs sync themselves, the node syncs the grid; only then the superblock is
//! written, because it may name only what is durable; only when all four copies are, consensus
//! frees ring space and says so in later prepares.

use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{Generation, Op};
use crate::io::{Effect, Effects, FileId, IoError};
use crate::journal::{Operation, PrepareHeader};
use crate::kernel::EntrySalts;
use crate::limits::{CHECKPOINT_RECORDS, JOURNAL_ROOM_BYTES, STORE_CHECKPOINT_STEP_PAGES};
use crate::log::LogCheckpoint;
use crate::node::api::Halt;
use crate::node::format::own;
use crate::node::halt::store_halt;
use crate::node::running::{Phase, Running, SuperblockUse};
use crate::store::{CheckpointProgress, HashStop, Pins, StoreCheckpoint, StoreError};
use crate::superblock::{CheckpointState, SuperblockState};
use crate::time::{Clock, Timestamp};

const GRID_SYNC_SLOT: u64 = 1;
/// Pages that a turn hashes (about 10 µs each) and seals (5 µs) when nobody waits.
const IDLE: Pace = Pace { hashed: 1, sealed: 4 };
/// The same while somebody waits and no page is on its way: the completion of its write brings the
/// next turn, so that a checkpoint always goes on.
const ALIVE: Pace = Pace { hashed: 1, sealed: 1 };
/// The same outside of serving, where nobody waits for a commit.
const FAST: Pace =
    Pace { hashed: STORE_CHECKPOINT_STEP_PAGES, sealed: STORE_CHECKPOINT_STEP_PAGES };
/// Most pages that one turn hashes or seals because the checkpoint is late.
const LATE_PAGES_MAX: usize = 256;
/// Fewer pages than these are not begun while many wait together: none of them notices the pause,
/// and a write of many pages costs little more than that of one.
const CROWDED_PAGES: usize = 32;
/// Pages that are hashed while a lone caller's write is on its way.
const HASHED_AHEAD: usize = 3;

/// Pages of a checkpoint that one turn hashes and seals.
#[derive(Clone, Copy, Debug)]
struct Pace {
    hashed: usize,
    sealed: usize,
}

/// One checkpoint under way.
#[derive(Debug)]
pub(super) struct CheckpointTask {
    op: Op,
    prepare_checksum: InternalHash,
    journal_offset: u64,
    timestamp: Timestamp,
    generation: Generation,
    /// What the superblock must hold of the grid, once its pages are written.
    store: Option<StoreCheckpoint>,
    /// Values in overflow pages that hashing needs.
    pins: Pins,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Writing,
    SyncingGrid,
    WaitingForLogs,
    WritingSuperblock,
}

impl CheckpointTask {
    /// The checkpoint that the op of this header asks for.
    pub fn after(header: &PrepareHeader) -> CheckpointTask {
        assert!(header.operation.is_checkpoint());
        CheckpointTask {
            op: header.op,
            prepare_checksum: header.checksum,
            journal_offset: header.journal_end(),
            timestamp: header.timestamp,
            generation: header.generation,
            store: None,
            pins: Pins::new(),
            stage: Stage::Writing,
        }
    }
}

impl Running {
    pub(super) fn begin_checkpoint(&mut self, task: CheckpointTask, effects: &mut Effects) {
        assert!(self.checkpoint.is_none(), "one checkpoint at a time");
        self.store.checkpoint_begin_then_hash(task.op);
        effects.event(Event::CheckpointStarted { op: task.op });
        self.checkpoint = Some(task);
    }

    /// What this turn does of the checkpoint: what is late, for whatever a turn costs is what the
    /// next commit waits longer; a few pages when nobody waits. `busy`: this turn applied or
    /// proposed something.
    fn checkpoint_pace(&self, busy: bool) -> Pace {
        if self.phase != Phase::Serving {
            return FAST;
        }
        let CheckpointProgress { pages, hashed, sealed, writes } = self.store.checkpoint_progress();
        let due = self.checkpoint_pages_due(pages);
        let crowded = self.is_crowded();
        // The completion of a crowd's prepare brings a turn, too: no page need go alone for that.
        let brought = writes > 0 || (crowded && self.vsr.status().in_flight > 0);
        let least = match (busy || !self.is_idle(), brought) {
            (false, _) => IDLE,
            (true, false) => ALIVE,
            (true, true) => Pace { hashed: 0, sealed: 0 },
        };
        let batch = if crowded { CROWDED_PAGES } else { 1 };
        let late = |done: usize| match due.saturating_sub(done) {
            few if few < batch && due < pages => 0,
            late => late.min(LATE_PAGES_MAX),
        };
        Pace { hashed: late(hashed).max(least.hashed), sealed: late(sealed).max(least.sealed) }
    }

    /// Are prepares shared?
    fn is_crowded(&self) -> bool {
        self.queue.len() > 1 || self.proposed.values().any(|tickets| tickets.len() > 1)
    }

    /// How many of its pages should be sealed by now: all when three quarters of what asks for the
    /// next checkpoint are there, be it changed pages, records or the ring; and at once when the
    /// memory is needed that only it can free, or a small ring has no room for the largest prepare.
    fn checkpoint_pages_due(&self, pages: usize) -> usize {
        let constants = self.superblock_state().constants;
        let largest = constants.transaction_pages_dirtied_max;
        if self.store.must_wait_for_writes(largest) || self.logs.checkpoint_wanted() {
            return pages;
        }
        let status = self.vsr.status();
        let ring = status.journal_ring_bytes;
        if ring - status.journal_used_bytes < JOURNAL_ROOM_BYTES {
            return pages;
        }
        let parts = [
            (u64::from(self.store.dirty_pages()), u64::from(constants.dirty_pages_max) / 8 * 3),
            (self.logs.appended(), CHECKPOINT_RECORDS / 4 * 3),
            // It stays half full until this checkpoint is durable.
            (status.journal_used_bytes.saturating_sub(ring / 2), ring / 8),
        ];
        let due = |(done, all): (u64, u64)| pages as u64 * done.min(all) / all.max(1);
        parts.into_iter().map(due).max().unwrap_or(0) as usize
    }

    /// Hashes pages of the checkpoint while there is nothing else to do. A value that is not in
    /// memory is left to the checkpoint.
    pub(super) fn hash_ahead(&mut self) {
        if self.checkpoint.as_ref().is_some_and(|task| task.stage == Stage::Writing) {
            let _ = self.store.hash_frozen(&EntrySalts(&self.keyring), HASHED_AHEAD);
            self.store.forget_misses();
        }
    }

    /// Hashes and seals pages of the checkpoint.
    fn checkpoint_pages(&mut self, busy: bool, effects: &mut Effects) -> Result<(), Halt> {
        let pace = self.checkpoint_pace(busy);
        let Some(task) = &mut self.checkpoint else { unreachable!("the caller saw one") };
        if self.store.ready(&task.pins).map_err(store_halt)? {
            let salts = EntrySalts(&self.keyring);
            match self.store.hash_frozen(&salts, pace.hashed) {
                Ok(_) => self.store.unpin(&mut task.pins),
                Err(HashStop::Fault(_)) => self.store.fetch(&mut task.pins, effects),
                Err(HashStop::KeyMissing { tenant }) => {
                    return Err(store_halt(StoreError::KeyMissing { tenant }));
                }
            }
        }
        self.store.checkpoint_step_by(pace.sealed, &self.keyring, effects).map_err(store_halt)
    }

    /// Goes on with the checkpoint under way by a bounded amount. `busy`: see `checkpoint_pace`.
    pub(super) fn checkpoint_step(
        &mut self,
        busy: bool,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        #[cfg(verity_zoo)]
        if let Some(task) = self.checkpoint_due.take() {
            self.begin_checkpoint(task, effects);
        }
        let Some(stage) = self.checkpoint.as_ref().map(|task| task.stage) else { return Ok(()) };
        if stage == Stage::WritingSuperblock {
            return Ok(());
        }
        let logs = self.logs.checkpoint_step(effects);
        if stage == Stage::Writing {
            self.checkpoint_pages(busy, effects)?;
        }
        let Some(task) = &mut self.checkpoint else { unreachable!("seen above") };
        if task.stage == Stage::Writing {
            let Some(store) = self.store.checkpoint_done() else { return Ok(()) };
            assert_eq!(store.op, task.op);
            task.store = Some(store);
            self.store.unpin(&mut task.pins);
            #[cfg(verity_zoo)]
            if crate::zoo::is("superblock_before_sync") {
                task.stage = Stage::WaitingForLogs;
                return Ok(());
            }
            task.stage = Stage::SyncingGrid;
            effects.push(Effect::Sync { io: own(GRID_SYNC_SLOT), file: FileId::Grid });
        }
        let ready = task.stage == Stage::WaitingForLogs && logs == LogCheckpoint::Durable;
        if ready && self.superblock_use == SuperblockUse::Idle {
            self.write_superblock(effects);
        }
        Ok(())
    }

    /// Op of the last checkpoint begun.
    pub(super) fn checkpoint_begun(&self) -> Op {
        self.checkpoint.as_ref().map_or(self.vsr.status().checkpoint_durable, |task| task.op)
    }

    pub(super) fn on_grid_synced(&mut self, result: Result<(), IoError>) -> Result<(), Halt> {
        let Some(task) = &mut self.checkpoint else {
            unreachable!("only a checkpoint syncs the grid");
        };
        assert_eq!(task.stage, Stage::SyncingGrid);
        result.map_err(|error| Halt::Io { error, what: "syncing the grid" })?;
        task.stage = Stage::WaitingForLogs;
        Ok(())
    }

    fn write_superblock(&mut self, effects: &mut Effects) {
        let last = self.superblock_state();
        let committed = self.vsr.commit().max(last.committed);
        let Some(task) = &mut self.checkpoint else { unreachable!("checked by the caller") };
        let Some(store) = task.store else { unreachable!("its pages are written") };
        let checkpoint = CheckpointState {
            op: task.op,
            prepare_checksum: task.prepare_checksum,
            journal_offset: task.journal_offset,
            timestamp: task.timestamp,
            generation: task.generation,
            recovery_count: task.generation.get(),
            system_forest: store.system_forest,
            free_set: store.free_set,
            grid_pages: store.grid_pages,
        };
        task.stage = Stage::WritingSuperblock;
        let generation = self.vsr.generation().max(last.generation);
        let state = SuperblockState { committed, generation, checkpoint, ..last };
        self.superblock.update(state, effects);
        self.superblock_use = SuperblockUse::Checkpoint;
    }

    pub(super) fn on_checkpoint_durable(&mut self, effects: &mut Effects) {
        let Some(task) = self.checkpoint.take() else {
            unreachable!("the superblock was written for it");
        };
        self.logs.checkpoint_done(task.op);
        self.vsr.checkpoint_durable(task.op);
        effects.event(Event::CheckpointDurable { op: task.op });
    }

    /// Log buffers are half full of what only a checkpoint writes, or a restart would have so many
    /// records to append again.
    fn checkpoint_wanted_by_logs(&self) -> bool {
        self.logs.checkpoint_wanted() || self.logs.appended() >= CHECKPOINT_RECORDS
    }

    /// Proposes a checkpoint when ring, dirty pages or log buffers are half full, or after so many
    /// records that replaying more would take long.
    pub(super) fn propose_checkpoint(&mut self, now: Clock, effects: &mut Effects) -> bool {
        if self.phase != Phase::Serving || self.checkpoint.is_some() {
            return false;
        }
        let dirty_max = self.superblock_state().constants.dirty_pages_max;
        let wanted = self.vsr.checkpoint_wanted(self.store.dirty_pages(), dirty_max)
            || self.checkpoint_wanted_by_logs();
        if !wanted || !self.vsr.can_propose(Operation::Checkpoint, 0) {
            return false;
        }
        let Some(buffer) = self.vsr.buffer() else { return false };
        self.vsr.propose(now, Operation::Checkpoint, buffer, 0, effects);
        true
    }
}
