//! Where faults may fall.
//!
//! Purpose: in *safety* mode every datum stays recoverable by a single replica, so that each
//! checker may demand everything; in *damage* mode the system of record itself is hit, and what is
//! demanded is detection: a clear typed error, never a wrong answer. Invariants of safety mode: at
//! most [`SUPERBLOCK_DAMAGED_MAX`] of the four superblock copies and one of the two key copies are
//! damaged at once; of an op only the redundant header, never the prepare; index files freely;
//! grid and segments never at rest. What is torn or lost at a crash is not the atlas's business:
//! that is unlimited.

use std::collections::{BTreeMap, BTreeSet};

use verity_core::io::{Address, FileId};
use verity_core::limits::PAGE_SIZE;

use crate::disk::{FaultKind, SectorId};

/// One more may be torn by a crash in the middle of an update.
pub const SUPERBLOCK_DAMAGED_MAX: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No fault at all.
    Peaceful,
    Safety,
    /// Also the zones whose loss one replica cannot repair.
    Damage,
}

/// Where the zones of the files lie, in sectors.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub superblock_copy: u64,
    /// The two copies of the keys alternate, extent by extent.
    pub keys_extent: u64,
    /// The redundant headers are the sectors before this, the ring those from it.
    pub journal_ring_from: u64,
}

/// What a sector is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    SuperblockCopy(u64),
    KeysCopy(u64),
    JournalRing,
    JournalHeaders,
    Grid,
    Segment,
    Index,
    Scratch,
}

#[derive(Clone, Debug)]
pub struct Atlas {
    mode: Mode,
    layout: Layout,
    /// Sectors whose bytes at rest are known to be wrong.
    damaged: BTreeSet<SectorId>,
    /// Kept for the whole run, also after a rewrite: what a verdict may blame.
    ever_damaged: BTreeSet<Zone>,
}

impl Atlas {
    #[must_use]
    pub fn new(mode: Mode, layout: Layout) -> Atlas {
        Atlas { mode, layout, damaged: BTreeSet::new(), ever_damaged: BTreeSet::new() }
    }

    /// Of an empty disk in place of this one, which works until something is on it.
    #[must_use]
    pub fn emptied(&self) -> Atlas {
        Atlas::new(Mode::Peaceful, self.layout)
    }

    #[must_use]
    pub fn peaceful() -> Atlas {
        let layout = Layout { superblock_copy: 1, keys_extent: 1, journal_ring_from: u64::MAX };
        Atlas::new(Mode::Peaceful, layout)
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    #[must_use]
    pub fn zone(&self, id: SectorId) -> Zone {
        match id.0 {
            FileId::Superblock => Zone::SuperblockCopy(id.1 / self.layout.superblock_copy),
            FileId::Keys => Zone::KeysCopy(id.1 / self.layout.keys_extent % 2),
            FileId::Journal if id.1 < self.layout.journal_ring_from => Zone::JournalHeaders,
            FileId::Journal => Zone::JournalRing,
            FileId::Grid => Zone::Grid,
            FileId::Segment { .. } => Zone::Segment,
            FileId::Index { .. } => Zone::Index,
            FileId::Scratch => Zone::Scratch,
        }
    }

    /// Zones whose loss a single replica cannot repair and that were damaged in this run.
    pub fn fatal_zones(&self) -> impl Iterator<Item = Zone> + '_ {
        self.ever_damaged.iter().copied().filter(|zone| match zone {
            Zone::JournalRing | Zone::Grid | Zone::Segment => true,
            Zone::SuperblockCopy(_)
            | Zone::KeysCopy(_)
            | Zone::JournalHeaders
            | Zone::Index
            | Zone::Scratch => false,
        })
    }

    /// Whether bytes of this file are wrong at rest, as far as is known.
    #[must_use]
    pub fn is_damaged(&self, file: FileId) -> bool {
        self.damaged.range((file, 0)..=(file, u64::MAX)).next().is_some()
    }

    /// Whether this fault may happen here now; damage at rest is remembered when it may.
    pub fn allows(&mut self, kind: FaultKind, id: SectorId) -> bool {
        self.allows_range(kind, id.0, id.1, 1)
    }

    pub fn allows_range(&mut self, kind: FaultKind, file: FileId, first: u64, count: u64) -> bool {
        if count == 0 || !(first..first + count).all(|sector| self.may(kind, (file, sector))) {
            return false;
        }
        self.remember(kind, file, first, count);
        true
    }

    /// A write misdirected from `at` to `other` damages both places.
    pub fn allows_both(&mut self, at: Address, other: Address, count: u64) -> bool {
        let (first, other_first) = (sector_of(at), sector_of(other));
        let each = |from: u64| from..from + count;
        let here = each(first).all(|sector| self.may(FaultKind::InWrite, (at.file, sector)));
        if count == 0 || !here {
            return false;
        }
        // The second place is judged with the first one already damaged.
        let added: Vec<SectorId> = each(first)
            .map(|sector| (at.file, sector))
            .filter(|id| self.damaged.insert(*id))
            .collect();
        let allowed =
            each(other_first).all(|sector| self.may(FaultKind::AtRest, (other.file, sector)));
        for id in added {
            self.damaged.remove(&id);
        }
        if allowed {
            self.remember(FaultKind::InWrite, at.file, first, count);
            self.remember(FaultKind::AtRest, other.file, other_first, count);
        }
        allowed
    }

    /// Whether EIO may stay on a sector. Not in headers and indexes: a device error on them stops
    /// a replica by design, it never decides what counts, so that it would never come back.
    #[must_use]
    pub fn may_be_unreadable(&self, id: SectorId) -> bool {
        match self.zone(id) {
            Zone::SuperblockCopy(_) | Zone::KeysCopy(_) | Zone::Grid | Zone::Segment => true,
            Zone::JournalRing | Zone::JournalHeaders | Zone::Index | Zone::Scratch => false,
        }
    }

    /// Damage that the world decided on by itself.
    pub fn force(&mut self, id: SectorId) {
        self.remember(FaultKind::AtRest, id.0, id.1, 1);
    }

    /// Whether a crash may tear this sector: of files kept as copies, only while others are good.
    pub fn allows_tear(&mut self, id: SectorId) -> bool {
        match self.zone(id) {
            Zone::SuperblockCopy(_) | Zone::KeysCopy(_) => {
                let allowed = self.may_damage(Mode::Safety, id);
                if allowed {
                    self.damaged.insert(id);
                }
                allowed
            }
            Zone::JournalRing
            | Zone::JournalHeaders
            | Zone::Grid
            | Zone::Segment
            | Zone::Index
            | Zone::Scratch => true,
        }
    }

    /// The core wrote the sector again: whatever was wrong with it is gone.
    pub fn rewritten(&mut self, id: SectorId) {
        self.damaged.remove(&id);
    }

    fn remember(&mut self, kind: FaultKind, file: FileId, first: u64, count: u64) {
        match kind {
            FaultKind::AtRest | FaultKind::InWrite => {
                for sector in first..first + count {
                    let zone = self.zone((file, sector));
                    self.damaged.insert((file, sector));
                    self.ever_damaged.insert(zone);
                }
            }
            FaultKind::InRead | FaultKind::WriteError => {}
        }
    }

    fn may(&self, kind: FaultKind, id: SectorId) -> bool {
        match (self.mode, kind) {
            (Mode::Peaceful, _) => false,
            // A reported error stops the replica; nothing was acknowledged.
            (_, FaultKind::WriteError) => true,
            (mode, FaultKind::AtRest | FaultKind::InWrite) => self.may_damage(mode, id),
            (_, FaultKind::InRead) => match self.zone(id) {
                // Once, and detected: the replica halts, and a new process reads well.
                Zone::Grid | Zone::Segment | Zone::Index | Zone::Scratch => true,
                // Nothing bounds how many copies one open would misread.
                Zone::SuperblockCopy(_) | Zone::KeysCopy(_) => false,
                // Recovery would take an acknowledged tail for a torn one.
                Zone::JournalRing => false,
                Zone::JournalHeaders => true,
            },
        }
    }

    fn may_damage(&self, mode: Mode, id: SectorId) -> bool {
        match self.zone(id) {
            Zone::SuperblockCopy(copy) => {
                self.others_damaged(FileId::Superblock, Zone::SuperblockCopy(copy))
                    < SUPERBLOCK_DAMAGED_MAX
            }
            Zone::KeysCopy(copy) => self.others_damaged(FileId::Keys, Zone::KeysCopy(copy)) == 0,
            Zone::JournalHeaders | Zone::Index | Zone::Scratch => true,
            Zone::Grid | Zone::Segment => mode == Mode::Damage,
            // Decided by the world, which knows which prepares have a witness.
            Zone::JournalRing => false,
        }
    }

    /// How many copies other than this one are damaged.
    fn others_damaged(&self, file: FileId, copy: Zone) -> usize {
        let copies: BTreeSet<Zone> = self
            .damaged
            .range((file, 0)..=(file, u64::MAX))
            .map(|id| self.zone(*id))
            .filter(|other| *other != copy)
            .collect();
        copies.len()
    }
}

/// Which blocks rotted on which member of a cluster. What is alike on all of them may be lost by
/// fewer than a quorum: then the others have it, whoever is up. A block that was repaired counts as
/// rotten for the rest of the run.
#[derive(Clone, Debug)]
pub struct Copies {
    members: usize,
    rotten: BTreeMap<SectorId, BTreeSet<usize>>,
    /// Members whose disks were lost at some time, with every block on them.
    lost: BTreeSet<usize>,
}

impl Copies {
    #[must_use]
    pub fn new(members: usize) -> Copies {
        Copies { members, rotten: BTreeMap::new(), lost: BTreeSet::new() }
    }

    /// Whether this member may lose the block; it counts as lost then.
    pub fn allows(&mut self, member: usize, id: SectorId) -> bool {
        let rotten = self.rotten.entry(id).or_default();
        let others = self.lost.union(rotten).filter(|other| **other != member).count();
        let lost = rotten.contains(&member) || self.lost.contains(&member);
        let allowed = lost || 2 * (others + 1) < self.members;
        if allowed {
            rotten.insert(member);
        }
        allowed
    }

    /// Members that lost the block at some time.
    #[must_use]
    pub fn lost_by(&self, id: SectorId) -> Vec<usize> {
        let rotten = self.rotten.get(&id).into_iter().flatten();
        rotten.chain(&self.lost).copied().collect()
    }

    /// Blocks that this member lost at some time, one by one.
    pub fn lost_of(&self, member: usize) -> impl Iterator<Item = SectorId> + '_ {
        let of = move |(id, rotten): (&SectorId, &BTreeSet<usize>)| {
            rotten.contains(&member).then_some(*id)
        };
        self.rotten.iter().filter_map(of)
    }

    /// Whether this member may lose every block.
    #[must_use]
    pub fn allows_all(&self, member: usize) -> bool {
        let few = |rotten: &BTreeSet<usize>| {
            let others = self.lost.union(rotten).filter(|other| **other != member).count();
            2 * (others + 1) < self.members
        };
        self.lost.contains(&member) || (few(&BTreeSet::new()) && self.rotten.values().all(few))
    }

    /// This member lost every block.
    pub fn lose_all(&mut self, member: usize) {
        self.lost.insert(member);
    }
}

fn sector_of(at: Address) -> u64 {
    at.offset / PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use super::{Atlas, Copies, Layout, Mode, SUPERBLOCK_DAMAGED_MAX};
    use crate::disk::FaultKind;
    use verity_core::io::{Address, FileId};

    fn atlas(mode: Mode) -> Atlas {
        Atlas::new(mode, Layout { superblock_copy: 2, keys_extent: 4, journal_ring_from: 100 })
    }

    #[test]
    fn a_block_rots_on_fewer_than_a_quorum() {
        for (members, most) in [(3, 1), (5, 2)] {
            let mut copies = Copies::new(members);
            let id = (FileId::Grid, 4);
            let allowed = (0..members).filter(|member| copies.allows(*member, id)).count();
            assert_eq!(allowed, most);
            assert!(copies.allows(0, id), "again on the same");
            assert!(copies.allows(members - 1, (FileId::Grid, 5)));
            // With a disk that is lost as a whole one fewer may lose a block of its own.
            let mut copies = Copies::new(members);
            assert!(copies.allows_all(1));
            copies.lose_all(1);
            let allowed = (0..members).filter(|member| copies.allows(*member, id)).count();
            assert_eq!(allowed, most, "one of them is the one that lost all");
            let none_left = (0..members).filter(|member| copies.allows_all(*member)).count();
            assert_eq!(none_left, most, "who lost the block, and who lost all");
        }
    }

    #[test]
    fn superblock_keeps_a_quorum_of_copies() {
        let mut atlas = atlas(Mode::Safety);
        let mut damaged = 0;
        for sector in 0..8 {
            if atlas.allows(FaultKind::AtRest, (FileId::Superblock, sector)) {
                damaged += 1;
            }
        }
        assert_eq!(damaged, 2 * SUPERBLOCK_DAMAGED_MAX, "two sectors a copy");
        atlas.rewritten((FileId::Superblock, 0));
        assert!(!atlas.allows(FaultKind::AtRest, (FileId::Superblock, 7)), "half a copy");
        atlas.rewritten((FileId::Superblock, 1));
        assert!(atlas.allows(FaultKind::AtRest, (FileId::Superblock, 7)));
    }

    #[test]
    fn the_record_itself_is_hit_only_in_damage_mode() {
        for (mode, expected) in
            [(Mode::Peaceful, false), (Mode::Safety, false), (Mode::Damage, true)]
        {
            let mut atlas = atlas(mode);
            assert_eq!(atlas.allows(FaultKind::AtRest, (FileId::Grid, 9)), expected);
            assert_eq!(atlas.fatal_zones().count(), usize::from(expected));
            assert!(!atlas.allows(FaultKind::AtRest, (FileId::Journal, 100)));
            let header = atlas.allows(FaultKind::AtRest, (FileId::Journal, 9));
            assert_eq!(header, mode != Mode::Peaceful);
        }
    }

    #[test]
    fn a_misdirected_write_needs_leave_at_both_ends() {
        let mut atlas = atlas(Mode::Safety);
        let superblock = Address::new(FileId::Superblock, 0);
        let grid = Address::new(FileId::Grid, 0);
        let keys = Address::new(FileId::Keys, 0);
        assert!(!atlas.allows_both(superblock, grid, 1));
        assert!(atlas.allows_both(superblock, keys, 1));
        assert!(!atlas.allows(FaultKind::AtRest, (FileId::Keys, 4)), "the other copy of the keys");
    }
}
