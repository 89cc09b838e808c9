//! What becomes of links: of a node that is cut off, of a process that ended, of those that break.

use super::{Cluster, Packet};
use crate::cluster::members::Member;
use crate::overrides::Switch;

impl Cluster {
    /// Now and then one node, the primary as likely as all others together, hears nobody and is
    /// heard by nobody, for long enough that the others go on without it.
    pub(super) fn isolate_somebody(&mut self) {
        if let Some((_, until_ns)) = self.isolated {
            if until_ns <= self.now_ns {
                self.isolated = None;
            }
        } else if self.trouble.chance(self.isolate_ppm) && self.board.lets(Switch::Isolate) {
            let primary = self.members.iter().position(Member::is_primary);
            let anybody = self.trouble.index(self.members.len());
            let who = primary.filter(|_| self.trouble.coin()).unwrap_or(anybody);
            let until_ns = self.now_ns + self.trouble.exponential(1_500_000_000);
            self.isolated = Some((who, until_ns));
            self.trace.note(self.now_ns, || format!("{who} is isolated"));
            self.seen.isolations += 1;
        }
    }

    /// A process that ends closes its links; the others hear of it, or do not.
    pub(super) fn close_links_of(&mut self, from: usize) {
        for to in 0..self.members.len() {
            if to != from && self.closes.chance(900_000) && self.board.lets(Switch::CloseLinks) {
                self.close_link(from, to);
            }
        }
    }

    fn close_link(&mut self, from: usize, to: usize) {
        self.serial += 1;
        let at_ns = self.now_ns + 1 + self.closes.exponential(self.net.delay_ns_mean);
        self.packets.insert((at_ns, self.serial), (from, to, Packet::Closed));
        self.seen.links_closed += 1;
    }

    /// Links of living processes break, of one pair or of all at once, and are dialled anew.
    pub(super) fn break_links(&mut self) {
        let all = self.closes.chance(self.close_ppm / 10);
        let all = self.board.also(Switch::CloseLinks, all);
        for from in 0..self.members.len() {
            for to in 0..self.members.len() {
                if from == to {
                    continue;
                }
                let closes = all || self.closes.chance(self.close_ppm);
                if self.board.also(Switch::CloseLinks, closes) {
                    self.close_link(from, to);
                }
            }
        }
    }
}
