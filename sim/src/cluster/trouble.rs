//! What goes wrong: who crashes, who cannot reach whom, and what becomes of a frame on its way.

use verity_core::vsr::message::Message;

use super::{CLUSTER, Cluster, Packet, TROUBLE_NS};
use crate::overrides::Switch;
use crate::report::Failure;

impl Cluster {
    /// Crashes and cuts, now and then; never so many that all is down for good.
    pub(super) fn make_trouble(&mut self) -> Result<(), Failure> {
        self.next_trouble_ns = Some(self.now_ns + 1 + self.trouble.exponential(TROUBLE_NS));
        for index in 0..self.members.len() {
            if self.members[index].node.is_some()
                && self.trouble.chance(self.crash_ppm)
                && self.board.lets(Switch::Crash)
            {
                let waits = self.amid_write.chance(self.amid_write_ppm);
                if self.board.also(Switch::CrashAmidWrite, waits) {
                    self.members[index].dies_writing = true;
                } else {
                    self.crash(index)?;
                }
            }
        }
        for index in 0..self.members.len() {
            let syncs = self.members[index].is_syncing();
            if syncs
                && self.trouble.chance(self.sync_crash_ppm)
                && self.board.lets(Switch::CrashAmidSync)
            {
                self.seen.sync_crashes += 1;
                self.crash(index)?;
            }
        }
        let all = self.crash_ppm > 0 && self.trouble.chance(8_000);
        if self.board.also(Switch::CrashAll, all) {
            for index in 0..self.members.len() {
                if self.members[index].node.is_some() {
                    self.crash(index)?;
                }
            }
        }
        self.turn_unreadable();
        self.mislead_clocks();
        self.isolate_somebody();
        self.break_links();
        for from in 0..self.members.len() {
            for to in 0..self.members.len() {
                let cut = if self.isolated.is_some_and(|(who, _)| who == from || who == to) {
                    from != to
                } else if self.cut[from][to] {
                    self.trouble.chance(700_000)
                } else {
                    from != to && self.trouble.chance(self.cut_ppm) && self.board.lets(Switch::Cut)
                };
                self.seen.cuts += u64::from(cut && !self.cut[from][to]);
                self.cut[from][to] = cut;
            }
        }
        self.record_links();
        Ok(())
    }

    pub(super) fn post(&mut self, from: usize, to: usize, mut frame: Vec<u8>) {
        self.seen.messages += 1;
        let lost = self.network.chance(self.net.drop_ppm);
        if self.cut[from][to] || self.board.also(Switch::Drop, lost) {
            self.seen.messages_lost += 1;
            if self.recorder.is_on() {
                let kind = self.kind_of(&frame);
                self.recorder.at(self.now_ns, |timeline| timeline.lost(from, to, kind));
            }
            return;
        }
        let kind = if self.recorder.is_on() { self.kind_of(&frame) } else { String::new() };
        let mut damaged = false;
        if self.network.chance(self.net.corrupt_ppm) && self.board.lets(Switch::Corrupt) {
            let at = self.network.index(frame.len());
            frame[at] ^= 1 << self.network.below(8);
            self.seen.messages_damaged += 1;
            damaged = true;
        }
        let doubled = self.network.chance(self.net.duplicate_ppm);
        let doubled = self.board.also(Switch::Duplicate, doubled);
        self.seen.messages_doubled += u64::from(doubled);
        let copies = 1 + u64::from(doubled);
        for _ in 0..copies {
            self.serial += 1;
            let at_ns = self.now_ns + 1 + self.network.exponential(self.net.delay_ns_mean);
            let serial = self.serial;
            self.recorder.at(self.now_ns, |timeline| {
                timeline.sent(serial, from, to, kind.clone(), damaged);
            });
            let packet = Packet::Frame(frame.clone());
            self.packets.insert((at_ns, self.serial), (from, to, packet));
        }
    }

    /// What a frame is, in a word.
    fn kind_of(&self, frame: &[u8]) -> String {
        let Ok(message) = Message::decode(frame, CLUSTER, self.members.len() as u8) else {
            return "damaged before it left".to_owned();
        };
        let text = format!("{:?}", message.payload);
        text.chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    /// Which links are cut now, and who is isolated.
    pub(super) fn record_links(&self) {
        let isolated = self.isolated.map(|(who, _)| who);
        self.recorder.at(self.now_ns, |timeline| {
            timeline.isolated(isolated);
            for (from, row) in self.cut.iter().enumerate() {
                for (to, cut) in row.iter().enumerate() {
                    timeline.cut(from, to, *cut);
                }
            }
        });
    }
}
