//! Committed prepares, in op order, each once, to be applied.
//!
//! Invariant: an op that counts on a checkpoint being durable on a quorum is applied only when that
//! checkpoint is durable here too, and so is the next checkpoint op. So no page of the checkpoint
//! that this replica would restart from is ever given away, however slow its own disk is.

use super::{Phase, Replica};
use crate::ids::Op;
use crate::io::Effects;
use crate::journal::Prepare;
use crate::limits::{PREPARE_BUFFERS_MAX, REPLAY_AHEAD_MAX};
use crate::vsr::Committed;

impl Replica {
    /// The next committed op, in op order; reads back what is not in memory.
    pub fn next_committed(&mut self, effects: &mut Effects) -> Option<Committed> {
        if matches!(self.phase, Phase::Recovering | Phase::Failed) {
            return None;
        }
        let next = self.delivered.next();
        let outstanding = self.delivered.get() - self.applied.get();
        if next > self.commit || outstanding >= REPLAY_AHEAD_MAX as u64 {
            return None;
        }
        let known = self.checksum_of(next);
        let ready =
            self.ready.get(&next).is_some_and(|prepare| Some(prepare.header().checksum) == known);
        if !ready {
            self.read_back(next, effects, |read| read.deliver = true);
            return None;
        }
        let Some(prepare) = self.ready.get(&next) else { unreachable!("just seen") };
        let header = *prepare.header();
        let durable = self.journal().checkpoint_op();
        let behind = header.checkpoint_durable > durable
            || (header.operation.is_checkpoint() && self.checkpoint_delivered > durable);
        #[cfg(test)]
        let behind = behind && !self.has_bug(super::tests::Bug::AppliesAhead);
        #[cfg(verity_zoo)]
        let behind = behind && !crate::zoo::is("cluster_applies_ahead");
        if behind {
            return None;
        }
        if header.operation.is_checkpoint() {
            self.checkpoint_delivered = next;
        }
        let Some(prepare) = self.ready.remove(&next) else { unreachable!("just seen") };
        assert_eq!(header.op, next, "committed ops leave in op order, each once");
        self.delivered = next;
        // Nobody here waits for what another primary, or an earlier view, proposed.
        let ours = self.is_primary() && header.view == self.view && header.replica == self.me;
        Some(Committed { header, prepare, replay: !ours })
    }

    /// `op` is applied.
    pub fn applied(&mut self, op: Op, prepare: Prepare) {
        assert_eq!(op, self.applied.next(), "applied in op order");
        assert!(op <= self.delivered && prepare.header().op == op);
        self.applied = op;
    }

    /// Prepares that became durable stay in memory until they are applied, a bounded number.
    pub(super) fn collect_durable(&mut self) {
        while let Some(prepare) = self.journal_mut().next_durable() {
            let op = prepare.header().op;
            if op > self.delivered && self.ready.len() < PREPARE_BUFFERS_MAX {
                self.ready.insert(op, prepare);
            }
        }
    }
}
