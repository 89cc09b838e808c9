//! Opening: the journal is read, its ops are replayed, in bounded steps.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Head, Stage, Vsr, VsrError, place, quorum_replication};
use crate::event::Event;
use crate::ids::{Op, Release};
use crate::io::{Effects, IoError, IoId, Pages};
use crate::journal::{JournalError, JournalRecovery, JournalStart, PrepareBuffer, Recovered};
use crate::limits::{PREPARE_BUFFERS_MAX, REPLAY_AHEAD_MAX, REPLICA_COUNT_MAX};
use crate::superblock::SuperblockState;

/// What the superblock says of the journal; also for offline readers. `release` is this software's.
#[must_use]
pub fn journal_start(state: &SuperblockState, release: Release) -> JournalStart {
    JournalStart {
        cluster: state.cluster,
        ring_bytes: state.constants.journal_ring_bytes,
        release,
        op: state.checkpoint.op,
        prepare_checksum: state.checkpoint.prepare_checksum,
        journal_offset: state.checkpoint.journal_offset,
        view: state.view,
        committed: state.committed,
    }
}

impl Vsr {
    /// Starts to read the journal. `release` is this software's.
    pub fn open(
        state: &SuperblockState,
        release: Release,
        effects: &mut Effects,
    ) -> Result<Vsr, VsrError> {
        let replica_count = state.replica_count;
        if quorum_replication(replica_count) > 1 {
            return Err(VsrError::NoPeers { replica_count });
        }
        let checkpoint = &state.checkpoint;
        let recovery =
            JournalRecovery::start(journal_start(state, release), replica_count, effects);
        let mut buffers = Vec::with_capacity(PREPARE_BUFFERS_MAX);
        buffers.resize_with(PREPARE_BUFFERS_MAX, PrepareBuffer::new);
        Ok(Vsr {
            cluster: state.cluster,
            replica: state.replica,
            replica_count,
            release,
            stage: Stage::Recovering(Box::new(recovery)),
            view: state.view,
            log_view: state.log_view,
            view_is_durable: false,
            recovery_proposed: false,
            head: Head {
                op: checkpoint.op,
                checksum: checkpoint.prepare_checksum,
                timestamp: checkpoint.timestamp,
                generation: checkpoint.generation,
                checkpoint_op: checkpoint.op,
                shutdown: false,
            },
            checkpoint_durable: checkpoint.op,
            replay_to: checkpoint.op,
            acknowledged: [Op::ZERO; REPLICA_COUNT_MAX],
            commit: checkpoint.op,
            delivered: checkpoint.op,
            applied: checkpoint.op,
            queue: VecDeque::with_capacity(PREPARE_BUFFERS_MAX),
            buffers,
            clock_ahead_ns: 0,
            clock_behind_ns: 0,
            proposed_at: None,
            proposed_last: None,
            headers_due: None,
            torn_tail: None,
        })
    }

    /// Routes a completed sync of `Owner::Journal`.
    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        let outcome = match &mut self.stage {
            Stage::Recovering(recovery) => recovery.on_done(io, result, effects),
            Stage::Open(_) => unreachable!("the journal syncs only at open"),
            Stage::Failed => Ok(()),
        };
        self.fail_on(outcome)
    }

    /// Routes a completed read of `Owner::Journal`.
    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        match &mut self.stage {
            Stage::Recovering(recovery) => {
                let outcome = recovery.on_read_done(io, pages, result, effects);
                report_damage(&outcome, effects);
                if let Some((journal, recovered)) = self.fail_on(outcome)? {
                    self.stage = Stage::Open(Box::new(journal));
                    self.recovered(&recovered, effects);
                }
            }
            Stage::Open(journal) => {
                let outcome = journal.on_read_done(io, pages, result, effects);
                self.fail_on(outcome)?;
                self.collect_read();
                self.replay_ahead(effects);
            }
            Stage::Failed => {}
        }
        Ok(())
    }

    /// The journal is open: what it holds is durable, so with a quorum of one it is committed.
    fn recovered(&mut self, recovered: &Recovered, effects: &mut Effects) {
        let mut checkpoints = 0;
        for header in &recovered.headers {
            self.head = self.head.after(header);
            assert!(header.view <= self.view, "a view is durable before it is used");
            assert!(header.checkpoint_durable <= self.checkpoint_durable);
            checkpoints += usize::from(header.operation.is_checkpoint());
        }
        assert!(checkpoints <= 1, "a checkpoint is proposed when the last one is durable");
        self.replay_to = self.head.op;
        self.acknowledged[usize::from(self.replica.get())] = self.head.op;
        self.commit = super::quorum::committed(&self.acknowledged, self.replica_count);
        effects.event(Event::JournalRecovered { op_max: self.head.op });
        self.torn_tail = recovered.torn;
        if let Some(torn) = recovered.torn {
            effects.event(Event::JournalTornTail { op: torn.op });
        }
        if recovered.slots_repaired > 0 {
            effects.event(Event::JournalHeaderRepaired { op: self.head.op });
        }
        if let Stage::Open(journal) = &mut self.stage {
            journal.flush_headers(effects);
            journal.restore_next(effects);
        }
        self.replay_ahead(effects);
    }

    /// Reads prepares to be replayed, a few ahead of what was delivered.
    pub(super) fn replay_ahead(&mut self, effects: &mut Effects) {
        let Stage::Open(journal) = &mut self.stage else { return };
        if journal.is_restoring() {
            return;
        }
        loop {
            let next = Op::new(self.delivered.get() + self.queue.len() as u64 + 1);
            if next > self.replay_to || self.queue.len() >= REPLAY_AHEAD_MAX {
                return;
            }
            let Some(buffer) = self.buffers.pop() else { return };
            journal.read(next, buffer.into_pages(), effects);
            self.queue.push_back(None);
        }
    }

    fn collect_read(&mut self) {
        let Stage::Open(journal) = &mut self.stage else { return };
        while let Some(prepare) = journal.next_read() {
            place(&mut self.queue, self.delivered, prepare.header().op, prepare);
        }
    }
}

fn report_damage<T>(outcome: &Result<T, JournalError>, effects: &mut Effects) {
    if let Err(JournalError::Rotten { op, .. }) = outcome {
        effects.event(Event::JournalRottenPrepare { op: *op });
    }
}
