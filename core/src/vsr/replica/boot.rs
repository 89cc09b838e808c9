//! Boot: what peers saw of us before we vote or nack (§4, rules 9 and 16).
//!
//! A disk that is older than our word shows here: a peer remembers an acknowledgement that our
//! journal does not hold. Such a replica is *not certain* until it has installed a log.

use super::{Phase, Replica};
use crate::event::Event;
use crate::ids::{ReplicaId, View};
use crate::io::Effects;
use crate::limits::{VSR_BOOT_TIMEOUT_NS, VSR_VIEW_CHANGE_NS};
use crate::superblock::PeerEvidence;
use crate::time::{Clock, Instant};

use super::super::message::Payload;

/// Boots of a peer, by their nonces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boots {
    newest: Option<u64>,
    /// Those before it: a late ping of one of them does not bring it back.
    past: [Option<u64>; PAST_BOOTS],
}

const PAST_BOOTS: usize = 4;

impl Boots {
    pub fn heard(&mut self, nonce: u64) {
        if self.newest == Some(nonce) || self.past.contains(&Some(nonce)) {
            return;
        }
        self.past.rotate_right(1);
        self.past[0] = self.newest;
        self.newest = Some(nonce);
    }

    pub fn is_newest(&self, nonce: u64) -> bool {
        self.newest == Some(nonce)
    }
}

impl Replica {
    pub(super) fn begin_boot(&mut self, now: Clock, effects: &mut Effects) {
        self.phase = Phase::Boot;
        if !self.certain {
            effects.event(Event::ReplicaUncertain { op: self.journal().head_op() });
        }
        self.timers.boot = Some(now.monotonic.plus_ns(VSR_BOOT_TIMEOUT_NS));
        self.tick(now, effects);
    }

    pub(super) fn pong(&mut self, now: Clock, to: ReplicaId, monotonic: Instant, nonce: u64) {
        let seen = self.peers[usize::from(to.get())].evidence;
        let promised = self.peers[usize::from(to.get())].promised;
        let standing = self.standing();
        let wall = now.wall;
        self.send(to, Payload::Pong { monotonic, nonce, wall, seen, promised, standing });
    }

    /// A peer answered a ping of this boot; `view` is the higher one of its own and of what we
    /// promised it.
    pub(super) fn on_boot_answer(
        &mut self,
        now: Clock,
        from: ReplicaId,
        seen: PeerEvidence,
        view: View,
    ) {
        self.peers[usize::from(from.get())].boot_answer = true;
        if !self.installed && matches!(self.phase, Phase::Boot | Phase::ViewChange) {
            self.weigh(seen);
        }
        if self.phase == Phase::Boot {
            #[cfg(test)]
            let view =
                if self.has_bug(super::tests::Bug::ForgetsPromises) { self.view } else { view };
            // Rule 16: what we promised may have been on a newer disk than this one.
            self.view = self.view.max(view);
            self.boot_tick(now);
        }
    }

    /// Compares what a peer saw us acknowledge with what our disk holds.
    fn weigh(&mut self, seen: PeerEvidence) {
        let older = seen.log_view > self.log_view
            || (seen.log_view == self.log_view && seen.op > self.journal().head_op());
        // It was erased on purpose, because a later view excluded it.
        let older = older && !self.erasure_explains(seen.log_view, self.journal().head_op());
        #[cfg(test)]
        let older = older && !self.has_bug(super::tests::Bug::TrustsOldDisk);
        if older {
            self.certain = false;
            super::remember(&mut self.peers[usize::from(self.me.get())].evidence, seen);
            self.view = self.view.max(seen.log_view);
        }
    }

    pub(super) fn boot_tick(&mut self, now: Clock) {
        let answers =
            self.others().filter(|peer| self.peers[usize::from(peer.get())].boot_answer).count();
        let (replicas, faults) = (usize::from(self.replica_count), self.quorum() - 1);
        let all = (replicas - faults).min(replicas - 1);
        let late = self.timers.boot.is_some_and(|at| at <= now.monotonic);
        if answers < all && !(late && answers >= faults) {
            return;
        }
        self.phase = Phase::ViewChange;
        self.offering = false;
        self.timers.patience = now.monotonic.plus_ns(VSR_VIEW_CHANGE_NS);
        self.timers.vote = None;
        // Nobody proposes twice in one view.
        if self.primary_of(self.view) == self.me {
            self.timers.patience = now.monotonic;
        }
    }
}
