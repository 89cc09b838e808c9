//! Whether we still lead: what a linearizable read asks before it is answered (DESIGN §7).
//!
//! Heartbeats are numbered, and a backup repeats with its acknowledgement the newest one that it
//! heard in the view. A read that comes in waits for the next number: when f backups have repeated
//! it, f + 1 replicas were in this view after the read came in. A later view needs f + 1, one of
//! them among these, so it began after that, too: all that was committed before the read came in
//! was committed in this view or an earlier one, and the primary knows of it.
//!
//! Invariants: a number is sent once; a backup repeats only numbers of the view it is in, and only
//! while it would acknowledge prepares of it. At most one round is sent because of reads before an
//! answer to it: reads that come meanwhile share the next.
//!
//! Fault model: that of `vsr::replica`. A lost heartbeat is made good by the next, which goes out
//! by time.

use super::Replica;
use crate::ids::{Op, ReplicaId, View};
use crate::limits::REPLICA_COUNT_MAX;
use crate::time::{Clock, Instant};
use crate::vsr::message::Payload;

/// What a read waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    pub view: View,
    /// This heartbeat, or a later one, is to be repeated by a quorum.
    round: u64,
    /// Committed when the read came in: to be applied before it is answered.
    pub commit: Op,
}

/// Heartbeats: as a primary, and as a backup.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rounds {
    /// The last one sent; never goes back.
    sent: u64,
    /// A read waits for this one.
    wanted: u64,
    /// The newest heard of the primary of this view.
    heard: u64,
    /// When a quorum last repeated one of this view.
    confirmed_at: Option<Instant>,
}

impl Rounds {
    pub fn begin_view(&mut self) {
        *self = Rounds { sent: self.sent, ..Rounds::default() };
    }

    pub fn heard(&mut self, round: u64) {
        self.heard = self.heard.max(round);
    }

    pub fn newest_heard(&self) -> u64 {
        self.heard
    }
}

impl Replica {
    /// A read comes in: what it must wait for. `None`: this replica does not lead, or is about to
    /// give up the lead.
    pub fn ask_lead(&mut self, now: Clock) -> Option<Lead> {
        let view = self.leads()?;
        if self.is_stuck(now) {
            return None;
        }
        let lead = Lead { view, round: self.rounds.sent + 1, commit: self.commit };
        if self.confirmed_round() == self.rounds.sent {
            self.heartbeat();
        } else {
            self.rounds.wanted = lead.round;
        }
        Some(lead)
    }

    /// Whether it is confirmed; `None`: the lead is lost.
    #[must_use]
    pub fn confirms(&self, lead: &Lead) -> Option<bool> {
        #[cfg(verity_zoo)]
        if crate::zoo::is("lead_unconfirmed") {
            return (self.leads() == Some(lead.view)).then_some(true);
        }
        (self.leads() == Some(lead.view)).then(|| self.confirmed_round() >= lead.round)
    }

    /// When a quorum was last known to follow this replica; `None`: not in this view.
    #[must_use]
    pub fn lead_confirmed_at(&self) -> Option<Instant> {
        self.rounds.confirmed_at
    }

    pub(super) fn heartbeat(&mut self) {
        self.rounds.sent += 1;
        let (head, head_checksum) = (self.journal().head_op(), self.journal().head_checksum());
        let (commit, round) = (self.commit, self.rounds.sent);
        self.broadcast(&Payload::Commit { commit, head, head_checksum, round });
    }

    /// A backup repeats a heartbeat.
    pub(super) fn on_round(&mut self, now: Clock, from: ReplicaId, view: View, round: u64) {
        if view != self.view || !self.is_primary() || round > self.rounds.sent {
            return;
        }
        let before = self.confirmed_round();
        let peer = &mut self.peers[usize::from(from.get())];
        peer.round = peer.round.max(round);
        let confirmed = self.confirmed_round();
        if confirmed > before {
            self.rounds.confirmed_at = Some(now.monotonic);
        }
        let asked = self.rounds.wanted > self.rounds.sent && confirmed == self.rounds.sent;
        if asked && !self.is_stuck(now) {
            self.heartbeat();
        }
    }

    /// The newest heartbeat that f backups have repeated: the f-th highest of theirs.
    fn confirmed_round(&self) -> u64 {
        #[cfg(test)]
        if self.has_bug(super::tests::Bug::ConfirmsAlone) {
            return u64::MAX;
        }
        let mut all = [0; REPLICA_COUNT_MAX];
        for (round, peer) in all.iter_mut().zip(&self.peers) {
            *round = peer.round;
        }
        // Our own place is 0 and does not count.
        let all = &mut all[..usize::from(self.replica_count)];
        all.sort_unstable();
        all[all.len() - (self.quorum() - 1)]
    }
}
