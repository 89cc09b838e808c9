//! Leaving a view: votes, offers, and how the next one begins.
//!
//! A vote costs nothing and binds nobody; f + 1 of them (our own while we suspect) move us to a
//! view. The move is made durable before the log is offered to the view's primary: from then on
//! this replica acknowledges nothing of an earlier view.

use alloc::vec::Vec;

use super::decide::{Choice, decide};
use super::install::Install;
use super::{Phase, Replica};
use crate::event::Event;
use crate::ids::{ReplicaId, View};
use crate::io::Effects;
use crate::limits::{
    MESSAGE_HEADERS_MAX, REPLICA_COUNT_MAX, VSR_VIEW_CHANGE_MAX_NS, VSR_VIEW_CHANGE_NS, VSR_VOTE_NS,
};
use crate::time::Clock;

use super::super::message::{DoViewChange, Payload, StartView};

impl Replica {
    pub(super) fn view_change_tick(&mut self, now: Clock) {
        let late = self.timers.patience <= now.monotonic;
        if !self.voting && (late || self.is_gone(now, self.primary_of(self.view))) {
            self.attempts += u32::from(late);
            self.vote(now);
        }
        if !due_vote(self, now) {
            return;
        }
        if self.voting {
            self.send_vote();
            self.count_votes(now);
        }
        let primary = self.primary_of(self.view);
        if primary != self.me && self.install.is_none() {
            let nonce = self.nonce;
            self.send(primary, Payload::RequestStartView { nonce });
        }
    }

    /// Asks for the next view, until its primary is heard.
    pub(super) fn vote(&mut self, now: Clock) {
        self.voting = true;
        self.send_vote();
        self.count_votes(now);
    }

    fn send_vote(&mut self) {
        self.broadcast_in(self.view.next(), &Payload::StartViewChange);
    }

    pub(super) fn on_vote(&mut self, now: Clock, from: ReplicaId, view: View) {
        if view <= self.view || self.phase == Phase::Boot {
            return;
        }
        self.peers[usize::from(from.get())].vote = Some((view, now.monotonic));
        self.count_votes(now);
    }

    /// The highest view that f + 1 ask for; while we vote, we ask for any that f others do.
    fn count_votes(&mut self, now: Clock) {
        let fresh = |(view, at): (View, crate::time::Instant)| {
            (now.monotonic.since_ns(at) <= 3 * VSR_VOTE_NS).then_some(view)
        };
        let mut votes: Vec<View> = self
            .others()
            .filter_map(|peer| self.peers[usize::from(peer.get())].vote.and_then(fresh))
            .collect();
        votes.sort_unstable_by(|a, b| b.cmp(a));
        let needed = self.quorum() - usize::from(self.voting);
        let view = if needed == 0 {
            Some(self.view.next())
        } else {
            votes.get(needed - 1).copied().filter(|&view| view > self.view)
        };
        if let Some(view) = view {
            self.enter_view(now, view);
        }
    }

    /// Moves to a view that has no log yet.
    pub(super) fn enter_view(&mut self, now: Clock, view: View) {
        assert!(view > self.view && self.phase != Phase::Boot);
        self.view = view;
        self.phase = Phase::ViewChange;
        self.leave_old_view();
        self.offering = true;
        let patience = (VSR_VIEW_CHANGE_NS << self.attempts.min(4)).min(VSR_VIEW_CHANGE_MAX_NS);
        // Staggered, so that not all give up in the same instant again and again.
        let stagger = patience / 8 * u64::from(self.me.get());
        self.timers.patience = now.monotonic.plus_ns(patience + stagger);
        // So that those who did not vote come along.
        self.broadcast(&Payload::StartViewChange);
    }

    fn leave_old_view(&mut self) {
        self.voting = false;
        self.install = None;
        self.erasure_wanted = None;
        for peer in &mut self.peers {
            peer.ahead_since = None;
        }
        self.offers = [const { None }; crate::limits::REPLICA_COUNT_MAX];
        self.bodies.clear();
        self.discarded = None;
        self.timers.vote = None;
        self.timers.heartbeat = None;
        self.timers.waiting_since = None;
        self.missing = None;
        self.asked_to = None;
    }

    /// Offers our log to the primary of the view, once the view is durable and nothing is in
    /// flight.
    pub(super) fn offer_step(&mut self, now: Clock) {
        let ready = self.offering
            && self.install.is_none()
            && self.durable_view == self.view
            && self.writing_superblock.is_none()
            && self.journal().writes_idle();
        if !ready {
            return;
        }
        let primary = self.primary_of(self.view);
        if primary == self.me {
            let own = self.offer();
            self.offers[usize::from(self.me.get())] = Some(own);
            self.choose(now);
        } else if super::due(&mut self.timers.heartbeat, now, VSR_VOTE_NS) {
            let offer = self.offer();
            self.send(primary, Payload::DoViewChange(offer));
        }
    }

    fn offer(&self) -> DoViewChange {
        let journal = self.journal();
        // The floor's own checksum may be unknown in a hole: then one further down.
        let mut floor = self.floor;
        let floor_checksum = loop {
            match journal.checksum(floor) {
                Some(checksum) => break checksum,
                None => {
                    let Some(below) = floor.previous() else {
                        unreachable!("above the checkpoint")
                    };
                    floor = below;
                }
            }
        };
        let mut offer = DoViewChange {
            log_view: self.log_view,
            commit: self.commit_max.max(floor),
            floor,
            floor_checksum,
            head: journal.head_op(),
            certain: self.is_certain(),
            present: 0,
            boots: self.boots(),
            headers: Vec::new(),
        };
        let mut op = floor.next();
        while op <= offer.head {
            let held = journal.is_held(op);
            #[cfg(test)]
            if !held && self.has_bug(super::tests::Bug::NacksRotten) {
                offer.head = offer.headers.last().map_or(floor, |header| header.op);
                break;
            }
            if let Some(header) = journal.header(op) {
                assert!(offer.headers.len() < MESSAGE_HEADERS_MAX, "a pipeline above the floor");
                offer.present |= u64::from(held) << offer.headers.len();
                offer.headers.push(header);
            }
            op = op.next();
        }
        offer
    }

    /// The boots of all replicas as far as they are known here.
    fn boots(&self) -> [u64; REPLICA_COUNT_MAX] {
        let mut boots = self.peers.map(|peer| peer.boots.newest());
        boots[usize::from(self.me.get())] = self.nonce;
        boots
    }

    /// Rule 16: the offers that are counted together, as many certain ones as agree on their boots.
    /// One of a boot that is over may be of a disk that is lost; the boot that followed is known
    /// here, or, of five, to another whose offer is counted.
    fn agreeing(&self) -> Vec<&DoViewChange> {
        let every = (0..1_u8 << self.replica_count).filter(|&set| self.agree(set));
        let certain = |set: u8| self.offers_of(set).filter(|(_, offer)| offer.certain).count();
        let best = every.max_by_key(|&set| (certain(set), set.count_ones()));
        let Some(best) = best else { unreachable!("nobody contradicts himself") };
        self.offers_of(best).map(|(_, offer)| offer).collect()
    }

    fn offers_of(&self, set: u8) -> impl Iterator<Item = (usize, &DoViewChange)> {
        let all = self.offers.iter().enumerate();
        all.filter(move |(of, _)| set >> of & 1 == 1)
            .filter_map(|(of, offer)| Some((of, offer.as_ref()?)))
    }

    /// Whether our own offer is in a set, and the boots that these replicas and we know are the
    /// same.
    fn agree(&self, set: u8) -> bool {
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::CountsOldVotes) {
            return set.count_ones() == u32::from(self.replica_count);
        }
        let (me, known) = (usize::from(self.me.get()), self.boots());
        // Of three, all others answered whoever came back with an empty disk.
        let several = self.replica_count > 3;
        #[cfg(test)]
        let several = several && !self.has_bug(super::tests::Bug::CountsUnheardVotes);
        let own = set >> me & 1 == 1;
        own && self.offers_of(set).all(|(of, offer)| {
            let heard = |(by, other): (usize, &DoViewChange)| {
                let unasked = of == me || by == me || by == of || !several;
                unasked || other.boots[of] == offer.boots[of]
            };
            known[of] == offer.boots[of] && self.offers_of(set).all(heard)
        })
    }

    pub(super) fn on_offer(
        &mut self,
        now: Clock,
        from: ReplicaId,
        view: View,
        offer: DoViewChange,
    ) {
        if self.primary_of(view) != self.me || self.phase == Phase::Boot {
            return;
        }
        // Rule 16: one of an earlier boot is of a disk that may not be there any more.
        #[cfg(test)]
        let believes = self.has_bug(super::tests::Bug::CountsOldVotes);
        #[cfg(not(test))]
        let believes = false;
        // So may one that does not know our boot: its sender may have started again since, unheard.
        let (own, nonce) = (usize::from(self.me.get()), self.nonce);
        let peer = &self.peers[usize::from(from.get())];
        let newest = offer.boots[usize::from(from.get())] == peer.boots.newest();
        let of_now = newest && offer.boots[own] == nonce;
        if !(of_now || believes) {
            return;
        }
        if view > self.view {
            self.enter_view(now, view);
        }
        self.learn_commit(view, offer.commit);
        if view < self.view {
            return;
        }
        if self.phase == Phase::Normal {
            self.send_start_view(from, 0);
            return;
        }
        if self.offering && self.install.is_none() {
            self.offers[usize::from(from.get())] = Some(offer);
            self.choose(now);
        }
    }

    /// As the primary of the view: which log it begins with.
    fn choose(&mut self, now: Clock) {
        // Our own view is durable before anybody may count on it.
        if self.offers[usize::from(self.me.get())].is_none() {
            return;
        }
        let offers = self.agreeing();
        #[cfg(test)]
        let choice = decide(&offers, self.quorum(), self.bug);
        #[cfg(not(test))]
        let choice = decide(&offers, self.quorum());
        match choice {
            Choice::Wait { missing } => self.missing = missing,
            Choice::Log(log) => {
                self.missing = None;
                self.discarded = log.discarded;
                self.learn_commit(self.view, log.commit);
                #[cfg(test)]
                if self.has_bug(super::tests::Bug::CommitsInherited) {
                    self.commit_max = log.head;
                }
                self.install = Some(Install::new(
                    log.head,
                    log.head_checksum,
                    log.commit,
                    log.headers.into_iter(),
                ));
                self.timers.patience = now.monotonic.plus_ns(VSR_VIEW_CHANGE_MAX_NS);
            }
        }
    }

    /// The primary of a view says which log it begins with.
    pub(super) fn on_start_view(
        &mut self,
        now: Clock,
        from: ReplicaId,
        view: View,
        start: StartView,
    ) {
        let stale = view < self.view || self.phase == Phase::Boot;
        if stale || self.primary_of(view) != from || from == self.me {
            return;
        }
        if view == self.view && self.phase == Phase::Normal {
            self.learn_commit(view, start.commit);
            return;
        }
        // Rule 2: an old start_view of a view we acknowledged in may end below what we said.
        let spoken = self.peers[usize::from(self.me.get())].evidence.log_view.max(self.log_view);
        let spoken = if self.replaced { view } else { spoken };
        if !self.is_certain() && view <= spoken && start.nonce != self.nonce {
            return;
        }
        if let Some(install) = &self.install
            && view == self.view
            && start.head <= install.head
        {
            return;
        }
        if view > self.view {
            self.view = view;
            self.phase = Phase::ViewChange;
        }
        self.learn_commit(view, start.commit);
        self.leave_old_view();
        self.offering = false;
        self.install = Some(Install::new(
            start.head,
            start.head_checksum,
            start.commit,
            start.headers.into_iter(),
        ));
        self.timers.heard = now.monotonic;
        self.timers.patience = now.monotonic.plus_ns(VSR_VIEW_CHANGE_MAX_NS);
    }

    pub(super) fn on_request_start_view(&mut self, from: ReplicaId, view: View, nonce: u64) {
        if view <= self.view && self.is_primary() {
            self.send_start_view(from, nonce);
        }
    }

    /// The log as it is now.
    pub(super) fn send_start_view(&mut self, to: ReplicaId, nonce: u64) {
        assert!(self.is_primary());
        let journal = self.journal();
        let head = journal.head_op();
        let head_checksum = journal.head_checksum();
        let headers = self.headers_to(head, MESSAGE_HEADERS_MAX / 2);
        let commit = self.commit_max.min(head);
        let start = StartView { head, head_checksum, commit, nonce, headers };
        self.send(to, Payload::StartView(start));
    }

    /// The log of the view is here and durable: serve in it.
    pub(super) fn enter_normal(&mut self, now: Clock, effects: &mut Effects) {
        assert!(self.log_view == self.view && self.durable_view == self.view, "durable first");
        assert!(self.is_certain(), "an installed log heals");
        self.phase = Phase::Normal;
        self.leave_old_view_installed();
        self.attempts = 0;
        self.timers.heard = now.monotonic;
        self.timers.heartbeat = None;
        self.inherited = self.journal().head_op();
        self.primary_head = self.inherited;
        self.recovery_proposed = false;
        self.proposed_at = None;
        for peer in &mut self.peers {
            peer.acknowledged = crate::ids::Op::ZERO;
            peer.round = 0;
        }
        self.rounds.begin_view();
        self.raise_floor();
        effects.event(Event::ViewStarted { view: self.view.get(), op: self.inherited });
        if self.is_primary() {
            for peer in self.others() {
                self.send_start_view(peer, 0);
            }
        }
    }

    fn leave_old_view_installed(&mut self) {
        let discarded = self.discarded;
        self.leave_old_view();
        self.discarded = discarded;
    }
}

fn due_vote(replica: &mut Replica, now: Clock) -> bool {
    super::due(&mut replica.timers.vote, now, VSR_VOTE_NS)
}
