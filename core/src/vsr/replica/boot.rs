//! Boot: what peers saw of us before we vote or nack (§4, rules 9 and 16).
//!
//! A disk that took the place of a lost one knows nothing of what that one promised: it waits for
//! more of its peers, and for no less however long it takes (rule 18).
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

    /// 0: none was heard yet.
    pub fn newest(&self) -> u64 {
        self.newest.unwrap_or(0)
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
        // Rule 18: what a lost disk saw of them nobody shall take for all that there was.
        #[cfg(test)]
        let speaks = !self.replaced || self.has_bug(super::tests::Bug::AnswersReplaced);
        #[cfg(not(test))]
        let speaks = !self.replaced;
        if !speaks {
            return;
        }
        let certain = self.is_certain() && self.phase != Phase::Boot;
        let seen = self.peers[usize::from(to.get())].evidence;
        let standing = self.standing();
        let wall = now.wall;
        let pong = Payload::Pong { monotonic, nonce, wall, seen, standing, certain };
        self.send(to, pong);
    }

    /// A peer answered a ping of this boot; it is in `view`.
    pub(super) fn on_boot_answer(
        &mut self,
        now: Clock,
        from: ReplicaId,
        seen: PeerEvidence,
        view: View,
        effects: &mut Effects,
    ) {
        self.peers[usize::from(from.get())].boot_answer = true;
        if !self.installed && matches!(self.phase, Phase::Boot | Phase::ViewChange) {
            self.weigh(seen, effects);
        }
        if self.phase == Phase::Boot {
            #[cfg(test)]
            let view =
                if self.has_bug(super::tests::Bug::ForgetsPromises) { self.view } else { view };
            // Rule 16: it may have begun this view with a promise that our disk forgot.
            self.view = self.view.max(view);
            self.boot_tick(now);
        }
    }

    /// Compares what a peer saw us acknowledge with what our disk holds.
    fn weigh(&mut self, seen: PeerEvidence, effects: &mut Effects) {
        let older = seen.log_view > self.log_view
            || (seen.log_view == self.log_view && seen.op > self.journal().head_op());
        // It was erased on purpose, because a later view excluded it.
        let older = older && !self.erasure_explains(seen.log_view, self.journal().head_op());
        #[cfg(test)]
        let older = older && !self.has_bug(super::tests::Bug::TrustsOldDisk);
        #[cfg(verity_zoo)]
        let older = older && !crate::zoo::is("old_disk_trusted");
        if older {
            if self.certain {
                effects.event(Event::ReplicaUncertain { op: self.journal().head_op() });
            }
            self.certain = false;
            super::remember(&mut self.peers[usize::from(self.me.get())].evidence, seen);
            self.view = self.view.max(seen.log_view);
        }
    }

    pub(super) fn boot_tick(&mut self, now: Clock) {
        if self.replaced {
            // None of f + 1 replicas less would know all that we may have acknowledged and
            // promised; no patience makes up for one.
            #[cfg(test)]
            let enough = self.boot_answers() >= self.answers_that_do();
            #[cfg(not(test))]
            let enough = self.boot_answers() >= self.quorum();
            if enough {
                self.end_boot(now);
            }
            return;
        }
        let answers = self.boot_answers();
        let (replicas, faults) = (usize::from(self.replica_count), self.quorum() - 1);
        let all = (replicas - faults).min(replicas - 1);
        let late = self.timers.boot.is_some_and(|at| at <= now.monotonic);
        if answers >= all || (late && answers >= faults) {
            self.end_boot(now);
        }
    }

    /// Others that answered this boot; of a disk that took the place of a lost one: that were
    /// certain of their logs.
    pub(super) fn boot_answers(&self) -> usize {
        let answered = |peer: &ReplicaId| {
            let peer = &self.peers[usize::from(peer.get())];
            if self.replaced { peer.certain_answer } else { peer.boot_answer }
        };
        self.others().filter(answered).count()
    }

    #[cfg(test)]
    fn answers_that_do(&self) -> usize {
        if self.has_bug(super::tests::Bug::ReplacedByOne) { 1 } else { self.quorum() }
    }

    fn end_boot(&mut self, now: Clock) {
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
