//! Disks that are put back as they were some time ago.
//!
//! Purpose: a disk that is older than the word of its node must vote nothing away (`docs/VSR.md`,
//! rules 9 and 16). Invariants: only of nodes whose disks may lose data, which are fewer than a
//! quorum, and only where every block has a copy left elsewhere, as for a disk that is lost; only
//! while all others, but for those, have *on their disks* a word of the node that its older disk
//! does not hold. That is the claim: whoever answers its boot can notice. What nobody alive could
//! know is outside of the model.

use verity_core::ids::{Op, View};

use super::Cluster;
use crate::disk::Snapshot;
use crate::overrides::Switch;
use crate::random::Random;

/// Ops that are on their way to a disk when nobody has counted them yet.
const ON_THEIR_WAY: u64 = 16;

#[derive(Debug)]
pub(super) struct OlderDisks {
    random: Random,
    keep_ppm: u64,
    put_back_ppm: u64,
    kept: Option<Kept>,
}

/// A disk as it was.
#[derive(Debug)]
struct Kept {
    who: usize,
    disk: Snapshot,
    log_view: View,
    /// It has no op above this one.
    head_max: Op,
}

impl OlderDisks {
    pub fn none(random: Random) -> OlderDisks {
        OlderDisks { random, keep_ppm: 0, put_back_ppm: 0, kept: None }
    }

    pub fn draw(mut random: Random) -> OlderDisks {
        let put_back_ppm = *random.pick(&[0, 0, 300_000, 700_000]);
        OlderDisks { random, keep_ppm: 200_000, put_back_ppm, kept: None }
    }
}

impl Cluster {
    /// A node just stopped: its disk is kept as it is now, or one that was kept is put back.
    pub(super) fn perhaps_older_disk(&mut self, index: usize) {
        if !self.rotten.contains(&index) || self.next_trouble_ns.is_none() {
            return;
        }
        let puts_back = self.older.random.chance(self.older.put_back_ppm);
        let keeps = self.older.random.chance(self.older.keep_ppm);
        let kept = self.older.kept.as_ref().is_some_and(|kept| kept.who == index);
        if kept
            && puts_back
            && self.all_know_more()
            && self.copies.allows_all(index)
            && self.board.lets(Switch::OlderDisk)
        {
            self.put_back(index);
        } else if self.older.put_back_ppm > 0 && (keeps || self.older.kept.is_none()) {
            self.keep_disk(index);
        }
    }

    /// As it is now, without what a power cut would take.
    pub(super) fn keep_disk(&mut self, who: usize) {
        let Some(state) = self.state_on_disk(who) else { return };
        let heads = self.members.iter().filter_map(|member| member.node.as_ref()?.status());
        // What it had acknowledged was proposed, and whoever proposed may be gone, too.
        let known = heads.map(|status| status.op).max().unwrap_or(Op::ZERO);
        let head_max = Op::new(known.max(self.highest_op).get() + ON_THEIR_WAY);
        let disk = self.members[who].disk.snapshot();
        self.older.kept = Some(Kept { who, disk, log_view: state.log_view, head_max });
    }

    /// Whether each of the others whose disks are good remembers, on its disk, that the node said
    /// more than its older disk holds.
    fn all_know_more(&self) -> bool {
        let Some(kept) = &self.older.kept else { return false };
        let others = (0..self.members.len()).filter(|index| !self.rotten.contains(index));
        let knows = |other: usize| {
            self.state_on_disk(other).is_some_and(|state| {
                let word = state.peers[kept.who];
                word.log_view > kept.log_view
                    || (word.log_view == kept.log_view && word.op > kept.head_max)
            })
        };
        others.filter(|other| *other != kept.who).all(knows)
    }

    pub(super) fn put_back(&mut self, index: usize) {
        let Some(kept) = self.older.kept.take() else { return };
        assert!(kept.who == index && self.members[index].node.is_none());
        self.copies.lose_all(index);
        self.members[index].disk.put_back(kept.disk);
        self.heads.forget(index);
        self.members[index].checkpoint = None;
        self.seen.older_disks += 1;
        self.trace.note(self.now_ns, || format!("{index} has an older disk"));
        self.recorder.at(self.now_ns, |timeline| {
            timeline.fault(index, "older disk", "it is put back as it was some time ago");
        });
    }
}
