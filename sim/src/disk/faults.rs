//! Faults at the moment of an operation, and rot between operations.
//!
//! Every fault asks the [`Atlas`](crate::atlas::Atlas) first, so that a run in safety mode stays
//! recoverable; each is counted by name.

use std::sync::Arc;

use verity_core::io::{Address, FileId, IoError, Pages};
use verity_core::limits::PAGE_SIZE;

use super::{Disk, Operation, SectorId, TEAR_UNIT};
use crate::overrides::Switch;
use crate::random::Random;

/// Rates in parts per million of operations, and latencies; drawn per run.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    pub read_ns_mean: u64,
    pub write_ns_mean: u64,
    pub sync_ns_mean: u64,
    /// Chance that a spell of slowness begins, and how much slower it is.
    pub slow_ppm: u64,
    pub slow_factor: u64,
    pub torn_at_crash_ppm: u64,
    pub read_error_ppm: u64,
    pub write_error_ppm: u64,
    pub sync_error_ppm: u64,
    pub no_space_ppm: u64,
    pub lost_write_ppm: u64,
    pub torn_write_ppm: u64,
    pub misdirected_write_ppm: u64,
    pub misdirected_read_ppm: u64,
    pub stale_read_ppm: u64,
    /// Per call of [`Disk::decay`].
    pub rot_ppm: u64,
    pub latent_error_ppm: u64,
}

impl DiskFaults {
    /// A disk that works, with some latency.
    pub const NONE: DiskFaults = DiskFaults {
        read_ns_mean: 60_000,
        write_ns_mean: 90_000,
        sync_ns_mean: 110_000,
        slow_ppm: 0,
        slow_factor: 1,
        torn_at_crash_ppm: 0,
        read_error_ppm: 0,
        write_error_ppm: 0,
        sync_error_ppm: 0,
        no_space_ppm: 0,
        lost_write_ppm: 0,
        torn_write_ppm: 0,
        misdirected_write_ppm: 0,
        misdirected_read_ppm: 0,
        stale_read_ppm: 0,
        rot_ppm: 0,
        latent_error_ppm: 0,
    };
}

/// What the atlas is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The bytes at rest are wrong or unreadable from now on.
    AtRest,
    /// A read returns other bytes, or EIO, once.
    InRead,
    /// A write is acknowledged and did not happen as asked.
    InWrite,
    /// A write reports an error.
    WriteError,
}

impl Disk {
    #[must_use]
    pub fn faults(&self) -> DiskFaults {
        self.faults
    }

    pub fn set_faults(&mut self, faults: DiskFaults) {
        self.faults = faults;
    }

    /// From now on the disk behaves; what is damaged at rest stays so.
    pub fn heal(&mut self) {
        self.faults = DiskFaults {
            read_ns_mean: self.faults.read_ns_mean,
            write_ns_mean: self.faults.write_ns_mean,
            sync_ns_mean: self.faults.sync_ns_mean,
            ..DiskFaults::NONE
        };
        self.slow_until_ns = 0;
    }

    pub(super) fn latency(&mut self, now_ns: u64, operation: &Operation) -> u64 {
        let mean = match operation {
            Operation::Read { .. } => self.faults.read_ns_mean,
            Operation::Write { .. } => self.faults.write_ns_mean,
            Operation::Sync { .. } | Operation::Create { .. } | Operation::Remove { .. } => {
                self.faults.sync_ns_mean
            }
        };
        let slows = self.random.chance(self.faults.slow_ppm);
        if self.board.also(Switch::SlowSpell, slows) {
            self.slow_until_ns = now_ns + self.random.exponential(50_000_000);
            self.count("slow_spell");
        }
        let factor = if now_ns < self.slow_until_ns { self.faults.slow_factor } else { 1 };
        1 + self.random.exponential(mean) * factor
    }

    /// Whether a fault of this rate strikes now. One that is switched off is drawn all the same.
    pub(super) fn hits(&mut self, ppm: u64, switch: Switch) -> bool {
        ppm > 0 && self.random.chance(ppm) && self.board.lets(switch)
    }

    /// Time passes over data at rest: perhaps a sector rots or turns unreadable.
    pub fn decay(&mut self) {
        if self.hits(self.faults.rot_ppm, Switch::Rot)
            && let Some(id) = self.victim()
            && self.atlas.allows(FaultKind::AtRest, id)
        {
            self.rot(id);
        }
        if self.hits(self.faults.latent_error_ppm, Switch::LatentError)
            && let Some(id) = self.victim()
            && self.atlas.may_be_unreadable(id)
            && self.atlas.allows(FaultKind::AtRest, id)
        {
            self.make_unreadable(id);
        }
    }

    /// Damages the bytes of a sector at rest: one bit, a few bytes, a unit, or all of it.
    pub fn rot(&mut self, id: SectorId) {
        let Some(old) = self.platter.get(&id) else { return };
        let mut sector = **old;
        match self.random.below(4) {
            0 => {
                let bit = self.random.below(PAGE_SIZE as u64 * 8);
                sector[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            1 => {
                let start = self.random.below(PAGE_SIZE as u64 - 8) as usize;
                let mut noise = [0; 8];
                self.random.fill(&mut noise);
                noise[0] |= 1;
                for (byte, noise) in sector[start..start + 8].iter_mut().zip(noise) {
                    *byte ^= noise;
                }
            }
            2 => {
                let unit = self.random.below((PAGE_SIZE / TEAR_UNIT) as u64) as usize;
                self.random.fill(&mut sector[unit * TEAR_UNIT..(unit + 1) * TEAR_UNIT]);
            }
            _ => sector.fill(0),
        }
        if sector == **old {
            return;
        }
        self.platter.insert(id, Arc::new(sector));
        self.count("rot");
    }

    pub fn make_unreadable(&mut self, id: SectorId) {
        self.unreadable.insert(id);
        self.count("latent_error");
    }

    /// A file that lost its end.
    pub fn shorten(&mut self, file: FileId, sectors: u64) {
        self.platter.retain(|id, _| id.0 != file || id.1 < sectors);
        self.volatile.retain(|id, _| id.0 != file || id.1 < sectors);
        self.count("short_file");
    }

    /// A sector that holds bytes at rest: first a file, so that small files are hit too.
    fn victim(&mut self) -> Option<SectorId> {
        let files: Vec<FileId> = self.files.iter().copied().collect();
        if files.is_empty() {
            return None;
        }
        let file = *self.random.pick(&files);
        let mut random = self.random.clone();
        let victim = self.some_sector(file, &mut random);
        self.random = random;
        victim
    }

    /// A sector of a file that holds bytes at rest.
    pub fn some_sector(&self, file: FileId, random: &mut Random) -> Option<SectorId> {
        let last = self.platter.range((file, 0)..=(file, u64::MAX)).next_back()?.0.1;
        let from = random.range(0, last);
        self.platter.range((file, from)..=(file, u64::MAX)).next().map(|(id, _)| *id)
    }

    pub(super) fn read_fault(&mut self, at: Address, count: u64) -> Option<IoError> {
        let first = at.offset / PAGE_SIZE as u64;
        let range = (at.file, first)..(at.file, first + count);
        if self.unreadable.range(range).next().is_some() {
            return Some(IoError::Device);
        }
        let happens = self.hits(self.faults.read_error_ppm, Switch::ReadError)
            && self.allowed(FaultKind::InRead, at, count);
        if happens {
            self.count("read_error");
            return Some(IoError::Device);
        }
        None
    }

    pub(super) fn misdirect_read(&mut self, at: Address, count: u64) -> Option<Address> {
        let happens = self.hits(self.faults.misdirected_read_ppm, Switch::MisdirectedRead)
            && self.allowed(FaultKind::InRead, at, count);
        if !happens {
            return None;
        }
        let (file, sector) = self.victim()?;
        let other = Address::new(file, sector * PAGE_SIZE as u64);
        if other == at {
            return None;
        }
        self.count("misdirected_read");
        Some(other)
    }

    pub(super) fn stale_read(&mut self, at: Address, count: u64) -> bool {
        let happens = self.hits(self.faults.stale_read_ppm, Switch::StaleRead)
            && self.allowed(FaultKind::InRead, at, count);
        if happens {
            self.count("stale_read");
        }
        happens
    }

    pub(super) fn write_fault(&mut self, at: Address, pages: &Pages) -> Option<IoError> {
        let count = pages.count() as u64;
        if self.hits(self.faults.no_space_ppm, Switch::NoSpace)
            && self.allowed(FaultKind::WriteError, at, count)
        {
            self.count("no_space");
            return Some(IoError::NoSpace);
        }
        if self.hits(self.faults.write_error_ppm, Switch::WriteError)
            && self.allowed(FaultKind::WriteError, at, count)
        {
            self.count("write_error");
            // Part of it may have arrived.
            let first = at.offset / PAGE_SIZE as u64;
            for (index, page) in pages.as_slice().iter().enumerate() {
                if self.random.coin() {
                    self.store((at.file, first + index as u64), Arc::new(page.0), false);
                }
            }
            return Some(IoError::Device);
        }
        None
    }

    /// Where a write really goes: `None` when nowhere.
    pub(super) fn redirect_write(&mut self, at: Address, pages: &Pages) -> Option<Address> {
        let count = pages.count() as u64;
        if self.hits(self.faults.lost_write_ppm, Switch::LostWrite)
            && self.allowed(FaultKind::InWrite, at, count)
        {
            self.count("lost_write");
            return None;
        }
        if count > 0
            && self.hits(self.faults.torn_write_ppm, Switch::TornWrite)
            && self.allowed(FaultKind::InWrite, at, count)
        {
            self.count("torn_write");
            let first = at.offset / PAGE_SIZE as u64;
            let torn = self.random.below(count);
            for index in 0..torn {
                let page = &pages.as_slice()[index as usize];
                self.store((at.file, first + index), Arc::new(page.0), true);
            }
            return None;
        }
        if self.hits(self.faults.misdirected_write_ppm, Switch::MisdirectedWrite)
            && let Some((file, sector)) = self.victim()
            && (file, sector) != (at.file, at.offset / PAGE_SIZE as u64)
        {
            let other = Address::new(file, sector * PAGE_SIZE as u64);
            if self.atlas.allows_both(at, other, count) {
                self.count("misdirected_write");
                return Some(other);
            }
        }
        Some(at)
    }

    fn allowed(&mut self, kind: FaultKind, at: Address, count: u64) -> bool {
        let first = at.offset / PAGE_SIZE as u64;
        self.atlas.allows_range(kind, at.file, first, count)
    }
}
