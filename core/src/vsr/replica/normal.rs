//! Normal operation: a primary proposes, backups append and acknowledge, a quorum commits.

use super::{Phase, Replica, Stage, due, generation_after, remember};
use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{Op, ReplicaId, View};
use crate::io::Effects;
use crate::journal::{Operation, Prepare, PrepareBuffer, PrepareHeader};
use crate::limits::{
    CLOCK_STEP_MAX_NS, JOURNAL_RESERVE_BYTES, PAGE_SIZE, PIPELINE_MAX, PREPARE_HEADER_SIZE,
    PREPARE_SIZE_MAX, REPLICA_COUNT_MAX, VSR_ABDICATE_NS, VSR_GONE_NS, VSR_HEARTBEAT_NS,
    VSR_REPAIRS_MAX, VSR_SUSPECT_NS,
};
use crate::superblock::PeerEvidence;
use crate::time::{Clock, Timestamp};
use crate::vsr::message::{Payload, bytes_of, prepare_of};
use crate::vsr::{Busy, quorum};

impl Replica {
    /// Whether an operation with a body of this many bytes may be proposed now; if not, why.
    pub fn check_propose(&self, operation: Operation, body_bytes: usize) -> Result<(), Busy> {
        let Stage::Open(journal) = &self.stage else { return Err(Busy::NotReady) };
        // Rule 7: what was inherited is committed in this view first.
        if !self.is_primary() || self.commit < self.inherited {
            return Err(Busy::NotReady);
        }
        if !self.recovery_proposed && operation != Operation::Recovery {
            return Err(Busy::RecoveryFirst);
        }
        let uncommitted = journal.head_op().get() - self.commit.get();
        if uncommitted >= PIPELINE_MAX as u64 || journal.writes_in_flight() >= PIPELINE_MAX {
            return Err(Busy::PipelineFull);
        }
        let (_, _, checkpoint_op, durable) = self.head();
        let durable = durable.max(self.checkpoint_quorum);
        if operation.is_checkpoint()
            && (checkpoint_op > durable || checkpoint_op > journal.checkpoint_op())
        {
            return Err(Busy::CheckpointPending);
        }
        let page = PAGE_SIZE as u64;
        let reserve = match operation {
            Operation::Requests => JOURNAL_RESERVE_BYTES,
            Operation::Recovery => 2 * page,
            Operation::Checkpoint => page,
            Operation::Shutdown => 0,
            Operation::Root => unreachable!("the root is never proposed"),
        };
        match journal.free_after(PREPARE_HEADER_SIZE + body_bytes) {
            Some(free) if free >= reserve && !journal.erasing() => Ok(()),
            Some(_) | None => Err(Busy::JournalFull),
        }
    }

    /// Whether a checkpoint should be proposed: ring or dirty pages at half their budget, and the
    /// last checkpoint durable on a quorum.
    #[must_use]
    pub fn checkpoint_wanted(&self, dirty_pages: u32, dirty_pages_max: u32) -> bool {
        let Stage::Open(journal) = &self.stage else { return false };
        let used = journal.used_bytes();
        let free = journal.ring_bytes() - used;
        // The largest prepare may waste as much again at the end of the ring.
        let wanted = used >= journal.ring_bytes() / 2
            || free < 2 * PREPARE_SIZE_MAX as u64 + JOURNAL_RESERVE_BYTES
            || dirty_pages >= dirty_pages_max / 2;
        wanted && self.check_propose(Operation::Checkpoint, 0) == Ok(())
    }

    /// Proposes the next op; the caller has asked [`Replica::check_propose`].
    pub fn propose(
        &mut self,
        now: Clock,
        operation: Operation,
        body: PrepareBuffer,
        requests: u16,
        effects: &mut Effects,
    ) -> Op {
        assert_eq!(self.check_propose(operation, body.len()), Ok(()));
        assert_eq!(operation == Operation::Recovery, !self.recovery_proposed, "once, and first");
        let small = PREPARE_HEADER_SIZE + body.len() <= PAGE_SIZE;
        assert!(operation == Operation::Requests || small, "the reserve counts on one page");
        let (last, generation, checkpoint_op, checkpoint_durable) = self.head();
        let journal = self.journal();
        let header = PrepareHeader {
            checksum: InternalHash::ZERO,
            checksum_body: InternalHash::ZERO,
            parent: journal.head_checksum(),
            cluster: self.cluster,
            op: journal.head_op().next(),
            view: self.view,
            commit: self.commit,
            checkpoint_op,
            checkpoint_durable: checkpoint_durable.max(self.checkpoint_quorum.min(checkpoint_op)),
            timestamp: self.timestamp(now, last, operation),
            generation,
            journal_offset: journal.place(PREPARE_HEADER_SIZE + body.len()),
            size: 0,
            requests,
            operation,
            replica: self.me,
            release: self.release,
        };
        let prepare = body.finish(header);
        let op = prepare.header().op;
        assert!(prepare.header().timestamp > last, "time never goes back");
        self.recovery_proposed = true;
        self.proposed_at = Some(now.monotonic);
        if self.timers.waiting_since.is_none() {
            self.timers.waiting_since = Some((op, now.monotonic));
        }
        let (commit, bytes) = (self.commit, bytes_of(&prepare));
        self.broadcast(&Payload::Prepare { commit, bytes });
        self.append(prepare, effects);
        effects.event(Event::PrepareProposed { op, requests: u32::from(requests) });
        op
    }

    /// The cluster's time, never back; only a recovery op steps further than one limit ahead of the
    /// time that passed.
    fn timestamp(&self, now: Clock, last: Timestamp, operation: Operation) -> Timestamp {
        let wall = self.clock_sync.wall(now);
        let latest = match (operation, self.proposed_at) {
            (Operation::Recovery, _) => wall,
            (_, Some(at)) => last.plus_ns(CLOCK_STEP_MAX_NS).plus_ns(now.monotonic.since_ns(at)),
            (_, None) => unreachable!("the recovery op comes first"),
        };
        wall.min(latest).max(last.plus_ns(1))
    }

    fn append(&mut self, prepare: Prepare, effects: &mut Effects) {
        assert!(prepare.header().view <= self.durable_view, "a view is durable before its ops");
        self.journal_mut().append(prepare, effects);
    }

    pub(super) fn normal_tick(&mut self, now: Clock) {
        if self.is_primary() {
            if self.is_stuck(now) || self.stands_down(now) {
                // Rules 10 and 17: no heartbeat any more, and a vote.
                if due(&mut self.timers.vote, now, crate::limits::VSR_VOTE_NS) {
                    self.vote(now);
                }
                return;
            }
            self.voting = self.sees_stranded(now);
            if self.voting && due(&mut self.timers.vote, now, crate::limits::VSR_VOTE_NS) {
                self.vote(now);
                if !self.is_primary() {
                    return;
                }
            }
            if due(&mut self.timers.heartbeat, now, VSR_HEARTBEAT_NS) {
                self.heartbeat();
            }
            return;
        }
        let patience = VSR_SUSPECT_NS + VSR_SUSPECT_NS / 8 * u64::from(self.me.get());
        let suspects = now.monotonic.since_ns(self.timers.heard) > patience
            || self.is_gone(now, self.primary_of(self.view));
        if (suspects || self.sees_stranded(now))
            && due(&mut self.timers.vote, now, crate::limits::VSR_VOTE_NS)
        {
            self.vote(now);
        }
    }

    /// Whether a peer closed its link to us, and has said nothing on another since (rule 15).
    pub(super) fn is_gone(&self, now: Clock, peer: ReplicaId) -> bool {
        let patience = VSR_GONE_NS + VSR_GONE_NS / 8 * u64::from(self.me.get());
        let closed_at = self.peers[usize::from(peer.get())].closed_at;
        closed_at.is_some_and(|at| now.monotonic.since_ns(at) > patience)
    }

    pub(super) fn is_stuck(&self, now: Clock) -> bool {
        self.timers
            .waiting_since
            .is_some_and(|(_, since)| now.monotonic.since_ns(since) > VSR_ABDICATE_NS)
    }

    /// Whether a peer has been in a later view for long, alone: it went there with the vote of one
    /// that then heard its primary again, and cannot come back (rule 13).
    fn sees_stranded(&self, now: Clock) -> bool {
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::LeavesStranded) {
            return false;
        }
        let long = |since| now.monotonic.since_ns(since) > VSR_ABDICATE_NS;
        self.peers.iter().any(|peer| peer.ahead_since.is_some_and(long))
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Clock,
        from: ReplicaId,
        view: View,
        head: Op,
        round: u64,
    ) {
        if self.primary_of(view) != from || view < self.view || self.phase == Phase::Boot {
            return;
        }
        if view > self.view || (self.phase == Phase::ViewChange && self.install.is_none()) {
            if due(&mut self.timers.repair, now, crate::limits::VSR_REPAIR_NS) {
                let nonce = self.nonce;
                self.send_in(view, from, Payload::RequestStartView { nonce });
            }
            return;
        }
        self.timers.heard = now.monotonic;
        if self.phase == Phase::Normal {
            self.voting = self.sees_stranded(now);
            self.primary_head = self.primary_head.max(head);
            self.rounds.heard(round);
            self.send_prepare_ok();
        } else {
            // It lives: we are still installing its log.
            self.timers.patience = now.monotonic.plus_ns(crate::limits::VSR_VIEW_CHANGE_MAX_NS);
        }
    }

    /// A prepare: the next one of this view, or one that was asked for.
    pub(super) fn on_prepare(
        &mut self,
        now: Clock,
        from: ReplicaId,
        view: View,
        bytes: &[u8],
        effects: &mut Effects,
    ) {
        let Some(prepare) = prepare_of(bytes, self.cluster) else { return };
        let header = *prepare.header();
        if header.release > self.release || self.phase == Phase::Boot {
            return;
        }
        if header.view <= self.durable_view && self.journal().wants(&header) {
            effects.event(Event::PrepareRepaired { op: header.op });
            self.journal_mut().rewrite(prepare, effects);
            return;
        }
        match self.phase {
            Phase::Recovering | Phase::Boot | Phase::Failed => {}
            Phase::ViewChange => {
                let wanted =
                    self.install.as_ref().and_then(|install| install.wanted.get(&header.op));
                let wanted = wanted.is_some_and(|wanted| wanted.checksum == header.checksum);
                if wanted && self.holds_room(header.op) {
                    self.bodies.insert(header.op, prepare);
                }
            }
            Phase::Normal => {
                if view > self.view && self.primary_of(view) == from {
                    let nonce = self.nonce;
                    self.send_in(view, from, Payload::RequestStartView { nonce });
                }
                if self.is_primary() || header.view != self.view {
                    return;
                }
                if self.primary_of(self.view) == from {
                    self.timers.heard = now.monotonic;
                    self.voting = self.sees_stranded(now);
                    self.primary_head = self.primary_head.max(header.op);
                }
                if self.holds_room(header.op) {
                    self.bodies.insert(header.op, prepare);
                }
            }
        }
    }

    /// Whether a prepare that waits for those before it may be held.
    fn holds_room(&self, op: Op) -> bool {
        let head = self.journal().head_op();
        op > head && op.get() <= head.get() + VSR_REPAIRS_MAX as u64
    }

    /// Appends what joins the head.
    pub(super) fn append_ready(&mut self, effects: &mut Effects) {
        if self.is_primary() {
            return;
        }
        loop {
            let next = self.journal().head_op().next();
            self.bodies.retain(|&op, _| op >= next);
            let Some(body) = self.bodies.get(&next) else { return };
            let header = *body.header();
            let expected = match (self.phase, &self.install) {
                (Phase::Normal, _) => header.view == self.view,
                (Phase::ViewChange, Some(install)) => {
                    install.is_appending()
                        && install.wanted.get(&next).is_some_and(|wanted| *wanted == header)
                }
                (Phase::ViewChange, None) => false,
                (Phase::Recovering | Phase::Boot | Phase::Failed, _) => false,
            };
            if !expected || header.parent != self.journal().head_checksum() {
                self.bodies.remove(&next);
                return;
            }
            if !self.journal().takes(&header) || header.view > self.durable_view {
                return;
            }
            let Some(prepare) = self.bodies.remove(&next) else { unreachable!("just seen") };
            self.append(prepare, effects);
        }
    }

    /// All ops to this one are durable here; one that is committed may have rotted since.
    fn durable_to(&self) -> Op {
        let journal = self.journal();
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::CountsUnsynced) {
            return journal.head_op();
        }
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::AcknowledgesCommitted) {
            return journal.whole_to(self.commit_max.min(journal.head_op()).max(self.floor));
        }
        // What is being written is not acknowledged, be it committed by others: a crash would lose
        // it, and a peer would remember our word.
        journal.whole_to(self.commit_max.max(self.floor).min(journal.written_to()))
    }

    /// What became durable is acknowledged: to the primary, or to ourselves.
    pub(super) fn acknowledge(&mut self) {
        if self.phase != Phase::Normal {
            return;
        }
        self.raise_floor();
        let op = self.durable_to();
        let new = PeerEvidence { log_view: self.log_view, op };
        let own = &mut self.peers[usize::from(self.me.get())];
        let news = (new.log_view, new.op) > (own.evidence.log_view, own.evidence.op);
        remember(&mut own.evidence, new);
        own.acknowledged = own.acknowledged.max(op);
        if news && !self.is_primary() {
            self.send_prepare_ok();
        }
    }

    pub(super) fn send_prepare_ok(&mut self) {
        assert!(self.phase == Phase::Normal && self.log_view == self.view);
        let op = self.durable_to();
        let Some(checksum) = self.checksum_of(op) else { return };
        let checkpoint_durable = self.journal().checkpoint_op();
        let primary = self.primary_of(self.view);
        let round = self.rounds.newest_heard();
        self.send(primary, Payload::PrepareOk { op, checksum, checkpoint_durable, round });
    }

    pub(super) fn on_prepare_ok(
        &mut self,
        from: ReplicaId,
        view: View,
        op: Op,
        checksum: InternalHash,
        checkpoint_durable: Op,
    ) {
        let peer = &mut self.peers[usize::from(from.get())];
        remember(&mut peer.evidence, PeerEvidence { log_view: view, op });
        peer.checkpoint_durable = peer.checkpoint_durable.max(checkpoint_durable);
        self.count_checkpoints();
        if view != self.view || !self.is_primary() {
            return;
        }
        // It counts only for the very ops we have.
        if self.checksum_of(op) != Some(checksum) {
            return;
        }
        let peer = &mut self.peers[usize::from(from.get())];
        peer.acknowledged = peer.acknowledged.max(op);
    }

    /// Commits what a quorum has, and makes ready to apply what is held here.
    pub(super) fn advance_commit(&mut self, effects: &mut Effects) {
        if self.is_primary() {
            let mut acknowledged = [Op::ZERO; REPLICA_COUNT_MAX];
            for (op, peer) in acknowledged.iter_mut().zip(&self.peers) {
                *op = peer.acknowledged;
            }
            let committed = quorum::committed(&acknowledged, self.replica_count);
            #[cfg(verity_zoo)]
            let committed = if crate::zoo::is("cluster_commits_alone") {
                acknowledged[usize::from(self.me.get())]
            } else {
                committed
            };
            assert!(committed <= self.journal().head_op());
            self.learn_commit(self.view, committed);
            self.raise_floor();
        }
        let limit = self.floor.min(self.commit_max);
        while self.commit < limit && self.journal().header(self.commit.next()).is_some() {
            self.commit = self.commit.next();
            effects.event(Event::Committed { op: self.commit });
        }
        if let Some((op, since)) = self.timers.waiting_since
            && op <= self.commit
        {
            let next = self.commit.next();
            let more = self.is_primary() && self.journal().head_op() > self.commit;
            self.timers.waiting_since = more.then_some((next, since));
            if more && let Some(last) = self.proposed_at {
                self.timers.waiting_since = Some((next, last));
            }
        }
    }

    /// Generation of the next op: recovery ops so far.
    #[must_use]
    pub fn generation(&self) -> crate::ids::Generation {
        match self.journal().head_header() {
            Some(header) => generation_after(&header),
            None => self.base.generation,
        }
    }
}
