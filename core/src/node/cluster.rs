//! A node among others: what a turn does beside the work of one replica.
//!
//! Purpose: frames go out, what consensus wants of the superblock is written, and the node leads or
//! follows. A node that follows applies what is committed and answers reads as of what it applied;
//! it refuses requests, and says who asks again elsewhere. Invariants: a node seals and proposes
//! only in the view that it leads, after the recovery op of that view is applied; what it had
//! proposed when it lost its view is answered "ask again by its id", because its fate is not known
//! here.
//!
//! Fault model: that of `vsr::replica`.

use alloc::vec::Vec;

use crate::io::{Effect, Effects};
use crate::kernel::{RequestError, RetryReason};
use crate::node::running::{Phase, Running, SuperblockUse};
use crate::superblock::SuperblockState;
use crate::time::Clock;

impl Running {
    /// Before anything is applied in a turn: a view that is lost is lost at once, so that no
    /// outcome of another primary's op is taken for one of ours.
    pub(super) fn step_down_if_deposed(&mut self) {
        if self.leading.is_none() || self.vsr.leads() == self.leading {
            return;
        }
        self.leading = None;
        #[cfg(verity_zoo)]
        if crate::zoo::is("cluster_deposed_silent") {
            self.proposed.clear();
        }
        match self.phase {
            Phase::Following | Phase::Stopped => return,
            Phase::ShuttingDown { .. } => {}
            Phase::Replay | Phase::View => unreachable!("phases of a single replica"),
            Phase::Recovery { .. } | Phase::Serving => self.phase = Phase::Following,
        }
        self.refuse_all(RetryReason::NotPrimary);
        if let Some(applying) = &mut self.applying {
            applying.disown();
        }
        self.interrupt_proposed();
    }

    /// What became of them is not known here.
    pub(super) fn interrupt_proposed(&mut self) {
        let proposed: Vec<_> =
            core::mem::take(&mut self.proposed).into_values().flatten().collect();
        for ticket in proposed {
            self.answer(ticket, Err(RequestError::Retry(RetryReason::Interrupted)));
        }
    }

    /// Takes the lead of a view that began with us.
    pub(super) fn lead_if_elected(&mut self) -> bool {
        assert_eq!(self.phase, Phase::Following);
        self.leading = self.vsr.leads();
        if self.leading.is_some() {
            self.phase = Phase::Recovery { op: None };
        }
        self.leading.is_some()
    }

    /// Whether a node that shuts down can still have an op of its own.
    pub(super) fn may_propose_in_the_end(&self) -> bool {
        !self.vsr.is_cluster() || self.leading.is_some()
    }

    /// A graceful end of one replica of many: what was submitted is answered (refused, once the
    /// lead is lost), the others go on, and its journal holds what it said.
    pub(super) fn stop_following(&mut self) -> bool {
        let idle = self.is_idle()
            && self.superblock_use == SuperblockUse::Idle
            && self.checkpoint.is_none()
            && self.logs.is_idle();
        if idle {
            self.phase = Phase::Stopped;
        }
        idle
    }

    /// After the work of a turn: what the superblock must hold, and what is to be sent.
    pub(super) fn talk(&mut self, now: Clock, effects: &mut Effects) {
        if self.superblock_use == SuperblockUse::Idle
            && let Some(wanted) = self.vsr.superblock_wanted(now)
        {
            let last = self.superblock_state();
            let state = SuperblockState {
                view: wanted.view,
                log_view: wanted.log_view,
                committed: wanted.committed.max(last.committed),
                generation: self.vsr.generation().max(last.generation),
                release: self.config.release,
                peers: wanted.peers,
                replaced: wanted.replaced,
                ..last
            };
            self.superblock.update(state, effects);
            self.superblock_use = SuperblockUse::View;
        }
        self.ask_for_checkpoints(now);
        self.ask_for_keys(now);
        self.repair_pages(now);
        self.repair_segments(now, effects);
        for (to, frame) in self.vsr.take_outbox() {
            effects.push(Effect::Send { to, frame });
        }
    }
}
