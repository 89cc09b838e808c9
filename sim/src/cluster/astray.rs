//! Reads and writes that go to another place than the one asked for, and writes that go nowhere.
//!
//! Purpose: a disk answers that all is well, and it is not. Invariants: writes go astray only on
//! nodes whose disks may rot, which are fewer than a quorum; of a block of a segment, be it the one
//! that was to be written or the one that was hit, fewer than a quorum lose their copy in the whole
//! of a run ([`Copies`](crate::atlas::Copies)); of superblock and keys copies are hit as the atlas
//! allows for one node. Redundant headers of the journal are hit, but no write of them is lost
//! here: that makes a disk older than the word of its node. Reads go astray once and leave nothing
//! behind: of segments and indexes on any node, of what an open or a vote counts on only where
//! disks may rot. Nothing of this happens once faults have stopped.

use verity_core::io::FileId;

use super::Cluster;
use crate::atlas::Zone;
use crate::disk::{Astray, DueIo, FaultKind, SectorId};
use crate::overrides::Switch;
use crate::random::Random;

#[derive(Debug)]
pub(super) struct AstrayIo {
    random: Random,
    /// What a scene wants.
    pub plan: Option<Plan>,
    read_ppm: u64,
    lost_ppm: u64,
    write_ppm: u64,
}

/// So many of a node's next reads, or writes, of some zones.
#[derive(Debug)]
pub(super) struct Plan {
    pub who: usize,
    pub zones: fn(Zone) -> bool,
    pub writes: bool,
    /// They go nowhere.
    pub lost: bool,
    /// Of so many, one.
    pub every: u64,
    pub left: u64,
    pub met: u64,
}

impl AstrayIo {
    pub fn none(random: Random) -> AstrayIo {
        AstrayIo { random, plan: None, read_ppm: 0, lost_ppm: 0, write_ppm: 0 }
    }

    pub fn draw(mut random: Random) -> AstrayIo {
        let mut rate = || *random.pick(&[0, 0, 1_000, 10_000]);
        let (read_ppm, lost_ppm, write_ppm) = (rate(), rate(), rate());
        AstrayIo { random, plan: None, read_ppm, lost_ppm, write_ppm }
    }
}

impl Cluster {
    /// What a node's disk carries out next goes astray, perhaps.
    pub(super) fn lead_astray(&mut self, index: usize) {
        if self.next_trouble_ns.is_none() && self.astray.plan.is_none() {
            return;
        }
        let Some(io) = self.members[index].disk.next_io() else { return };
        if self.astray.plan.is_some() {
            self.as_planned(index, io);
            return;
        }
        let (lost_ppm, write_ppm) = (self.astray.lost_ppm, self.astray.write_ppm);
        if !io.writes {
            if self.astray.random.chance(self.astray.read_ppm) {
                self.misread(index, io);
            }
        } else if self.astray.random.chance(lost_ppm) {
            self.lose_write(index, io);
        } else if self.astray.random.chance(write_ppm) {
            self.miswrite(index, io);
        }
    }

    /// Whatever the atlas says: a scene knows what it may ask for.
    fn as_planned(&mut self, index: usize, io: DueIo) {
        let disk = &self.members[index].disk;
        let Some(plan) = &self.astray.plan else { return };
        let Some(first) = io.sectors().next() else { return };
        let meant = plan.left > 0 && plan.who == index && plan.writes == io.writes;
        if !meant || !(plan.zones)(disk.atlas.zone(first)) {
            return;
        }
        let (lost, every) = (plan.lost, plan.every);
        if every > 1 && !self.astray.random.chance(1_000_000 / every) {
            return;
        }
        let astray = if lost {
            Astray::Lost
        } else {
            let Some((file, first)) = self.other_place(index, io) else { return };
            let disk = &self.members[index].disk;
            let there = || (first..first + io.count).map(|sector| (file, sector));
            let is_copy =
                |id| matches!(disk.atlas.zone(id), Zone::SuperblockCopy(_) | Zone::KeysCopy(_));
            if there().any(|id| disk.durable(id).is_none() || is_copy(id)) {
                return;
            }
            if io.writes {
                there().for_each(|id| self.note_lost(index, id));
            }
            Astray::To((file, first))
        };
        if io.writes {
            self.lose(index, io);
        }
        self.members[index].disk.lead_astray(astray);
        if let Some(plan) = &mut self.astray.plan {
            plan.left -= 1;
            plan.met += 1;
        }
    }

    fn misread(&mut self, index: usize, io: DueIo) {
        let rots = self.rotten.contains(&index);
        let may = match io.at.file {
            FileId::Segment { .. } | FileId::Index { .. } => true,
            FileId::Grid | FileId::Journal => rots,
            FileId::Superblock | FileId::Keys | FileId::Scratch => false,
        };
        let Some(other) = self.other_place(index, io) else { return };
        if may && self.board.lets(Switch::MisdirectedRead) {
            self.seen.blocks_rotten += u64::from(is_segment(io.at.file));
            self.members[index].disk.lead_astray(Astray::To(other));
        }
    }

    fn lose_write(&mut self, index: usize, io: DueIo) {
        if self.may_go_astray(index, io) && self.board.lets(Switch::LostWrite) {
            self.lose(index, io);
            self.members[index].disk.lead_astray(Astray::Lost);
        }
    }

    /// What was to be written is lost, and what lies elsewhere, too.
    fn miswrite(&mut self, index: usize, io: DueIo) {
        let Some((file, first)) = self.other_place(index, io) else { return };
        let hit = || (first..first + io.count).map(|sector| (file, sector));
        // The first place is judged, and counted, before the second.
        if !self.may_go_astray(index, io)
            || !hit().all(|id| self.may_be_hit(index, id))
            || !self.board.lets(Switch::MisdirectedWrite)
        {
            return;
        }
        self.lose(index, io);
        for id in hit() {
            self.note_lost(index, id);
        }
        self.members[index].disk.lead_astray(Astray::To((file, first)));
    }

    /// Another place on the same disk, in the same file more often than not.
    fn other_place(&mut self, index: usize, io: DueIo) -> Option<SectorId> {
        let disk = &self.members[index].disk;
        let random = &mut self.astray.random;
        let files: Vec<FileId> = disk.files().collect();
        let file = if random.coin() { io.at.file } else { *random.pick(&files) };
        let other = disk.some_sector(file, random)?;
        io.sectors().all(|id| id != other).then_some(other)
    }

    /// Whether what was to be written here may be lost.
    fn may_go_astray(&mut self, index: usize, io: DueIo) -> bool {
        let rots = self.rotten.contains(&index);
        rots && io.sectors().all(|id| {
            match self.members[index].disk.atlas.zone(id) {
                Zone::Segment => self.copies.allows(index, id),
                Zone::JournalRing | Zone::Grid | Zone::Index => true,
                // The disk would be older than what its node said.
                Zone::JournalHeaders => false,
                Zone::SuperblockCopy(_) | Zone::KeysCopy(_) | Zone::Scratch => false,
            }
        })
    }

    /// Whether what lies here may be written over.
    fn may_be_hit(&mut self, index: usize, id: SectorId) -> bool {
        let disk = &mut self.members[index].disk;
        if disk.durable(id).is_none() {
            return false;
        }
        match disk.atlas.zone(id) {
            Zone::Segment => self.may_lose_block(index, id),
            Zone::JournalRing | Zone::JournalHeaders | Zone::Grid | Zone::Index => true,
            Zone::SuperblockCopy(_) | Zone::KeysCopy(_) => disk.atlas.allows(FaultKind::AtRest, id),
            Zone::Scratch => false,
        }
    }

    fn lose(&mut self, index: usize, io: DueIo) {
        for id in io.sectors() {
            self.note_lost(index, id);
        }
    }

    fn note_lost(&mut self, index: usize, id: SectorId) {
        if id.0 == FileId::Grid {
            self.damaged.insert((index, id.1 as u32));
            self.seen.pages_rotten += 1;
        }
        self.seen.blocks_rotten += u64::from(is_segment(id.0));
    }
}

fn is_segment(file: FileId) -> bool {
    matches!(file, FileId::Segment { .. })
}
