//! Faults of disks that a cluster survives because others have what one of them lost.
//!
//! Purpose: sectors that answer EIO until they are written. Invariants: of a block of a segment
//! that is alike on all nodes fewer than a quorum lose their copy, in the whole of a run
//! ([`Copies`](crate::atlas::Copies)); pages of grids only of nodes whose disks may rot. Nothing of
//! this happens once faults have stopped.

use verity_core::io::FileId;

use super::Cluster;
use crate::disk::SectorId;
use crate::overrides::Switch;
use crate::random::Random;

/// What disks do beside what each of them does by itself.
#[derive(Debug)]
pub(super) struct DiskTrouble {
    random: Random,
    /// Chance of a node, each time there is trouble, that sectors of it turn unreadable.
    unreadable_ppm: u64,
}

impl DiskTrouble {
    pub fn draw(mut random: Random) -> DiskTrouble {
        let unreadable_ppm = *random.pick(&[0, 0, 10_000, 60_000]);
        DiskTrouble { random, unreadable_ppm }
    }

    pub fn none(random: Random) -> DiskTrouble {
        DiskTrouble { random, unreadable_ppm: 0 }
    }
}

impl Cluster {
    /// Of some node, be it up or down, a few sectors next to each other turn unreadable.
    pub(super) fn turn_unreadable(&mut self) {
        for index in 0..self.members.len() {
            if !self.disks.random.chance(self.disks.unreadable_ppm) {
                continue;
            }
            let rots = self.rotten.contains(&index);
            let files: Vec<FileId> = self.members[index].disk.files().collect();
            let may = |file: &&FileId| match file {
                FileId::Segment { .. } | FileId::Index { .. } => true,
                FileId::Grid => rots,
                FileId::Superblock | FileId::Journal | FileId::Keys | FileId::Scratch => false,
            };
            let files: Vec<FileId> = files.iter().filter(may).copied().collect();
            if files.is_empty() {
                continue;
            }
            let file = *self.disks.random.pick(&files);
            let sectors = self.members[index].disk.sectors(file);
            if sectors == 0 {
                continue;
            }
            let first = self.disks.random.below(sectors);
            let count = *self.disks.random.pick(&[1, 1, 2, 5]);
            for sector in first..sectors.min(first + count) {
                self.make_unreadable(index, (file, sector));
            }
        }
    }

    fn make_unreadable(&mut self, index: usize, id: SectorId) {
        let is_segment = matches!(id.0, FileId::Segment { .. });
        if is_segment && !self.may_lose_block(index, id) {
            return;
        }
        let disk = &mut self.members[index].disk;
        if disk.durable(id).is_none() || !self.board.lets(Switch::LatentError) {
            return;
        }
        disk.make_unreadable(id);
        self.seen.blocks_rotten += u64::from(is_segment);
        self.seen.rots += 1;
    }

    /// Whether a block of a segment may be lost here: all others have the same, or lost it too, and
    /// those are few. What somebody else has not yet, or not any more, is not alike on all of them:
    /// who has it not would fetch it; whoever fetches a checkpoint serves nobody, and two of three
    /// may do so at a time.
    pub(super) fn may_lose_block(&mut self, index: usize, id: SectorId) -> bool {
        let here = self.members[index].disk.durable(id);
        let lost = self.copies.lost_by(id);
        let held = self.members.iter().enumerate().all(|(other, member)| {
            other == index || lost.contains(&other) || member.disk.durable(id) == here
        });
        here.is_some() && held && self.copies.allows(index, id)
    }
}
