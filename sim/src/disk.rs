//! A disk that lies: sparse files of 4 KiB sectors, seeded latency, every fault of the model.
//!
//! Purpose: answers the core's file effects as the worst disk does that the design still allows.
//! A completed write that is neither `durable` nor covered by a `Sync` lives in a volatile layer;
//! reads see the newest version; a crash keeps, for each sector on its own, any version written
//! since the last durable one, or a mix of two at a 512-byte border. `Create` and `Remove` are
//! durable only when done.
//!
//! Fault model: latent sector errors, rot, torn, lost and misdirected writes (also across files),
//! misdirected and stale reads, EIO and ENOSPC on write, short files, slow spells. Where a fault
//! may fall is for the [`Atlas`] to say. Start reading at [`Disk::submit`] and [`Disk::complete`].

mod crash;
mod faults;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use verity_core::io::{Address, FileId, Input, IoError, IoId, Pages};
use verity_core::limits::PAGE_SIZE;

use crate::atlas::Atlas;
use crate::overrides::{Board, Switch, Switches};
use crate::random::Random;

pub use crash::{CrashReport, Keep};
pub use faults::{DiskFaults, FaultKind};

/// What the device keeps whole: a torn write is a mix at this border.
pub const TEAR_UNIT: usize = 512;

/// A sector's address: file and number within it.
pub type SectorId = (FileId, u64);
pub type Sector = Arc<[u8; PAGE_SIZE]>;

/// An operation the disk was asked for and has not answered.
#[derive(Debug)]
enum Operation {
    Read {
        io: IoId,
        at: Address,
        pages: Pages,
    },
    Write {
        io: IoId,
        at: Address,
        pages: Pages,
        durable: bool,
    },
    /// Covers the writes that had completed when it was issued.
    Sync {
        io: IoId,
        file: FileId,
        covers: u64,
    },
    Create {
        io: IoId,
        file: FileId,
    },
    Remove {
        io: IoId,
        file: FileId,
    },
}

/// What the disk is asked for; the file part of `Effect`.
#[derive(Debug)]
pub enum Request {
    Read { io: IoId, at: Address, pages: Pages },
    Write { io: IoId, at: Address, pages: Pages, durable: bool },
    Sync { io: IoId, file: FileId },
    Create { io: IoId, file: FileId },
    Remove { io: IoId, file: FileId },
}

/// Kinds of operations that a directed test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    Read,
    Write,
    Sync,
}

/// What is about to be carried out on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueIo {
    pub at: Address,
    pub count: u64,
    pub writes: bool,
}

impl DueIo {
    pub fn sectors(self) -> impl Iterator<Item = SectorId> {
        let first = self.at.offset / PAGE_SIZE as u64;
        (first..first + self.count).map(move |sector| (self.at.file, sector))
    }
}

/// What becomes of a read or a write in place of what was asked for; it is answered all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Astray {
    /// A write that never happens.
    Lost,
    /// A read or a write of as many sectors from this one on.
    To(SectorId),
}

/// A completed write of one sector that a crash may still undo.
#[derive(Clone, Debug)]
struct Version {
    sequence: u64,
    sector: Sector,
}

/// What was on a disk, once.
#[derive(Clone, Debug)]
pub struct Snapshot {
    files: BTreeSet<FileId>,
    platter: BTreeMap<SectorId, Sector>,
    unreadable: BTreeSet<SectorId>,
    atlas: Atlas,
}

/// How many of each fault was injected, and how much work was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    pub bytes_written: u64,
    pub faults: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub struct Disk {
    random: Random,
    faults: DiskFaults,
    /// What is drawn and does not happen.
    board: Board,
    pub atlas: Atlas,
    files: BTreeSet<FileId>,
    /// What a crash can no longer undo.
    platter: BTreeMap<SectorId, Sector>,
    /// The version each durable sector replaced: what a stale read returns.
    stale: BTreeMap<SectorId, Sector>,
    /// Completed, not yet durable; oldest first.
    volatile: BTreeMap<SectorId, Vec<Version>>,
    /// Sectors that answer EIO until they are written again.
    unreadable: BTreeSet<SectorId>,
    inflight: BTreeMap<u64, Operation>,
    queue: BTreeSet<(u64, u64)>,
    sequence: u64,
    ticket: u64,
    slow_until_ns: u64,
    /// The operation of this kind, so many of them from now, fails with this error.
    planned: Option<(Planned, u64, IoError)>,
    /// What becomes of the operation that is carried out next.
    astray: Option<Astray>,
    stats: DiskStats,
    /// The core broke the contract of the boundary: a bug, whatever else happens.
    misuse: Option<String>,
}

impl Disk {
    #[must_use]
    pub fn new(random: Random, faults: DiskFaults, atlas: Atlas) -> Disk {
        Disk {
            random,
            faults,
            board: Board::default(),
            atlas,
            files: BTreeSet::new(),
            platter: BTreeMap::new(),
            stale: BTreeMap::new(),
            volatile: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            inflight: BTreeMap::new(),
            queue: BTreeSet::new(),
            sequence: 0,
            ticket: 0,
            slow_until_ns: 0,
            planned: None,
            astray: None,
            stats: DiskStats::default(),
            misuse: None,
        }
    }

    /// Faults that are drawn and do not happen.
    pub fn switch_off(&mut self, off: Switches) {
        self.board = Board::new(off);
    }

    /// Faults that were drawn, whether they happened or not.
    #[must_use]
    pub fn met(&self) -> Switches {
        self.board.met()
    }

    /// Takes an operation; it completes later, in any order relative to others.
    pub fn submit(&mut self, now_ns: u64, request: Request) {
        self.check_contract(&request);
        let operation = match request {
            Request::Read { io, at, pages } => Operation::Read { io, at, pages },
            Request::Write { io, at, pages, durable } => {
                self.stats.bytes_written += pages.size_bytes() as u64;
                Operation::Write { io, at, pages, durable }
            }
            Request::Sync { io, file } => Operation::Sync { io, file, covers: self.sequence },
            Request::Create { io, file } => Operation::Create { io, file },
            Request::Remove { io, file } => Operation::Remove { io, file },
        };
        let due_ns = now_ns + self.latency(now_ns, &operation);
        self.ticket += 1;
        self.queue.insert((due_ns, self.ticket));
        self.inflight.insert(self.ticket, operation);
    }

    /// When the next completion is due.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.queue.first().map(|(due_ns, _)| *due_ns)
    }

    #[must_use]
    pub fn idle(&self) -> bool {
        self.inflight.is_empty()
    }

    /// Makes one operation fail: the `nth` of its kind from now, counted from 0.
    pub fn plan_failure(&mut self, kind: Planned, nth: u64, error: IoError) {
        self.planned = Some((kind, nth, error));
    }

    /// Whether the planned failure is still to come.
    #[must_use]
    pub fn failure_is_planned(&self) -> bool {
        self.planned.is_some()
    }

    fn planned_failure(&mut self, kind: Planned) -> Option<IoError> {
        let (planned, left, error) = self.planned.as_mut()?;
        if *planned != kind {
            return None;
        }
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let error = *error;
        self.planned = None;
        if kind != Planned::Read {
            self.count("planned");
        }
        Some(error)
    }

    /// Whether a write to this file is in flight.
    #[must_use]
    pub fn is_writing(&self, file: FileId) -> bool {
        self.inflight
            .values()
            .any(|operation| matches!(operation, Operation::Write { at, .. } if at.file == file))
    }

    #[must_use]
    pub fn writes_in_flight(&self) -> u64 {
        let is_write = |operation: &&Operation| matches!(operation, Operation::Write { .. });
        self.inflight.values().filter(is_write).count() as u64
    }

    /// The read or write that is carried out next.
    #[must_use]
    pub fn next_io(&self) -> Option<DueIo> {
        let (_, ticket) = self.queue.first()?;
        match self.inflight.get(ticket)? {
            Operation::Read { at, pages, .. } => {
                Some(DueIo { at: *at, count: pages.count() as u64, writes: false })
            }
            Operation::Write { at, pages, .. } => {
                Some(DueIo { at: *at, count: pages.count() as u64, writes: true })
            }
            Operation::Sync { .. } | Operation::Create { .. } | Operation::Remove { .. } => None,
        }
    }

    /// That one goes astray, unless it fails.
    pub fn lead_astray(&mut self, astray: Astray) {
        assert!(self.next_io().is_some(), "there is something to lead astray");
        self.astray = Some(astray);
    }

    /// Carries out the operation that is due first, and answers it.
    pub fn complete(&mut self, now_ns: u64) -> Option<Input> {
        let (due_ns, ticket) = *self.queue.first()?;
        if due_ns > now_ns {
            return None;
        }
        self.queue.remove(&(due_ns, ticket));
        let Some(operation) = self.inflight.remove(&ticket) else {
            unreachable!("what is queued is in flight");
        };
        let astray = self.astray.take();
        Some(match operation {
            Operation::Read { io, at, mut pages } => {
                self.stats.reads += 1;
                let planned = self.planned_failure(Planned::Read);
                let result = planned.map_or_else(|| self.read(at, astray, &mut pages), Err);
                Input::ReadDone { io, pages, result }
            }
            Operation::Write { io, at, pages, durable } => {
                self.stats.writes += 1;
                let planned = self.planned_failure(Planned::Write);
                let result = planned.map_or_else(|| self.write(at, astray, &pages, durable), Err);
                Input::WriteDone { io, pages, result }
            }
            Operation::Sync { io, file, covers } => {
                self.stats.syncs += 1;
                let planned = self.planned_failure(Planned::Sync);
                let result = planned.map_or_else(|| self.sync(file, covers), Err);
                Input::Done { io, result }
            }
            Operation::Create { io, file } => {
                self.files.insert(file);
                Input::Done { io, result: Ok(()) }
            }
            Operation::Remove { io, file } => {
                self.erase(file);
                Input::Done { io, result: Ok(()) }
            }
        })
    }

    #[must_use]
    pub fn stats(&self) -> &DiskStats {
        &self.stats
    }

    #[must_use]
    pub fn misuse(&self) -> Option<&str> {
        self.misuse.as_deref()
    }

    /// What a reader without faults would see now.
    #[must_use]
    pub fn newest(&self, id: SectorId) -> Option<&Sector> {
        match self.volatile.get(&id).and_then(|versions| versions.last()) {
            Some(version) => Some(&version.sector),
            None => self.platter.get(&id),
        }
    }

    /// What a power cut now leaves.
    #[must_use]
    pub fn durable(&self, id: SectorId) -> Option<&Sector> {
        self.platter.get(&id)
    }

    /// Files that exist, in order.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.files.iter().copied()
    }

    #[must_use]
    pub fn exists(&self, file: FileId) -> bool {
        self.files.contains(&file)
    }

    /// Sectors of a file that answer EIO.
    pub fn unreadable(&self, file: FileId) -> impl Iterator<Item = u64> + '_ {
        self.unreadable.range((file, 0)..=(file, u64::MAX)).map(|id| id.1)
    }

    /// Writes and syncs that were refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        let names = ["write_error", "sync_error", "no_space", "planned"];
        names.iter().filter_map(|name| self.stats.faults.get(name)).sum()
    }

    /// Number of sectors up to the last one ever written.
    #[must_use]
    pub fn sectors(&self, file: FileId) -> u64 {
        let range = (file, 0)..=(file, u64::MAX);
        let durable = self.platter.range(range.clone()).next_back().map_or(0, |(id, _)| id.1 + 1);
        let volatile = self.volatile.range(range).next_back().map_or(0, |(id, _)| id.1 + 1);
        durable.max(volatile)
    }

    /// Every sector that holds bytes, as a reader would see it.
    pub fn sectors_of(&self, file: FileId) -> impl Iterator<Item = (u64, Sector)> + '_ {
        let range = (file, 0)..=(file, u64::MAX);
        let mut numbers: BTreeSet<u64> = BTreeSet::new();
        numbers.extend(self.platter.range(range.clone()).map(|(id, _)| id.1));
        numbers.extend(self.volatile.range(range).map(|(id, _)| id.1));
        numbers.into_iter().filter_map(move |number| {
            self.newest((file, number)).map(|sector| (number, Arc::clone(sector)))
        })
    }

    /// The bytes of a whole file as a reader would see them; holes are zeros.
    #[must_use]
    pub fn contents(&self, file: FileId) -> Vec<u8> {
        let mut bytes = vec![0; self.sectors(file) as usize * PAGE_SIZE];
        for (number, sector) in self.sectors_of(file) {
            let start = number as usize * PAGE_SIZE;
            bytes[start..start + PAGE_SIZE].copy_from_slice(&sector[..]);
        }
        bytes
    }

    /// A new one of the same kind, with nothing on it.
    #[must_use]
    pub fn empty(&self, random: Random) -> Disk {
        Disk::new(random, self.faults(), self.atlas.emptied())
    }

    /// A copy of what is on the platter, without faults: a second machine with the same disk.
    #[must_use]
    pub fn fork(&self, random: Random, faults: DiskFaults) -> Disk {
        let mut disk = Disk::new(random, faults, Atlas::peaceful());
        disk.files = self.files.clone();
        disk.platter = self.platter.clone();
        disk
    }

    /// What a power cut now would leave, to be put back some day.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            files: self.files.clone(),
            platter: self.platter.clone(),
            unreadable: self.unreadable.clone(),
            atlas: self.atlas.clone(),
        }
    }

    /// All is as it was then.
    pub fn put_back(&mut self, snapshot: Snapshot) {
        assert!(self.inflight.is_empty(), "a disk is put back while nobody uses it");
        let Snapshot { files, platter, unreadable, atlas } = snapshot;
        (self.files, self.platter, self.unreadable, self.atlas) =
            (files, platter, unreadable, atlas);
        self.stale.clear();
        self.volatile.clear();
        self.count("older_disk");
    }

    /// Puts bytes on the platter: for tests that build a disk by hand.
    pub fn put(&mut self, id: SectorId, sector: Sector) {
        self.files.insert(id.0);
        self.platter.insert(id, sector);
    }

    fn read(
        &mut self,
        at: Address,
        astray: Option<Astray>,
        pages: &mut Pages,
    ) -> Result<(), IoError> {
        if let Some(error) = self.read_fault(at, pages.count() as u64) {
            return Err(error);
        }
        let other = self.misdirect_read(at, pages.count() as u64);
        let from = self.led_astray(astray, "misdirected_read").or(other).unwrap_or(at);
        let stale = self.stale_read(at, pages.count() as u64);
        let first = from.offset / PAGE_SIZE as u64;
        let range = (from.file, first)..(from.file, first + pages.count() as u64);
        let pages = pages.as_mut_slice();
        // Oldest layer first; one walk of each, because opening reads whole rings.
        let mut holes: Vec<bool> = vec![true; pages.len()];
        let mut lay = |id: &SectorId, sector: &Sector| {
            let index = (id.1 - first) as usize;
            pages[index].0.copy_from_slice(&sector[..]);
            holes[index] = false;
        };
        for (id, sector) in self.platter.range(range.clone()) {
            lay(id, sector);
        }
        for (id, versions) in self.volatile.range(range.clone()) {
            if let Some(version) = versions.last() {
                lay(id, &version.sector);
            }
        }
        if stale {
            for (id, sector) in self.stale.range(range) {
                lay(id, sector);
            }
        }
        for (page, hole) in pages.iter_mut().zip(holes) {
            if hole {
                page.0.fill(0);
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        at: Address,
        astray: Option<Astray>,
        pages: &Pages,
        durable: bool,
    ) -> Result<(), IoError> {
        if let Some(error) = self.write_fault(at, pages) {
            return Err(error);
        }
        if astray == Some(Astray::Lost) {
            self.count("lost_write");
            return Ok(());
        }
        let Some(target) = self.redirect_write(at, pages) else {
            return Ok(()); // lost: acknowledged, never written
        };
        let target = self.led_astray(astray, "misdirected_write").unwrap_or(target);
        let first = target.offset / PAGE_SIZE as u64;
        for (index, page) in pages.as_slice().iter().enumerate() {
            self.store((target.file, first + index as u64), Arc::new(page.0), durable);
            if target != at {
                // The core did not write this: what lies here now is wrong.
                self.atlas.force((target.file, first + index as u64));
            }
        }
        Ok(())
    }

    /// Where an operation goes in place of where it should.
    fn led_astray(&mut self, astray: Option<Astray>, name: &'static str) -> Option<Address> {
        match astray {
            Some(Astray::To((file, sector))) => {
                self.count(name);
                Some(Address::new(file, sector * PAGE_SIZE as u64))
            }
            Some(Astray::Lost) | None => None,
        }
    }

    /// One sector arrives.
    fn store(&mut self, id: SectorId, sector: Sector, durable: bool) {
        self.sequence += 1;
        self.unreadable.remove(&id);
        if durable {
            self.volatile.remove(&id);
            self.settle(id, sector);
        } else {
            let version = Version { sequence: self.sequence, sector };
            self.volatile.entry(id).or_default().push(version);
        }
        self.atlas.rewritten(id);
    }

    /// One sector becomes durable.
    fn settle(&mut self, id: SectorId, sector: Sector) {
        if let Some(old) = self.platter.insert(id, sector) {
            self.stale.insert(id, old);
        }
    }

    fn sync(&mut self, file: FileId, covers: u64) -> Result<(), IoError> {
        if self.hits(self.faults.sync_error_ppm, Switch::SyncError)
            && self.atlas.allows(FaultKind::WriteError, (file, 0))
        {
            self.count("sync_error");
            return Err(IoError::Device);
        }
        let range = (file, 0)..=(file, u64::MAX);
        let ids: Vec<SectorId> = self.volatile.range(range).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(versions) = self.volatile.get_mut(&id) else { continue };
            let covered = versions.iter().filter(|version| version.sequence <= covers).count();
            let newest = versions.drain(..covered).next_back();
            if versions.is_empty() {
                self.volatile.remove(&id);
            }
            if let Some(version) = newest {
                self.settle(id, version.sector);
            }
        }
        Ok(())
    }

    fn erase(&mut self, file: FileId) {
        self.files.remove(&file);
        self.platter.retain(|id, _| id.0 != file);
        self.stale.retain(|id, _| id.0 != file);
        self.volatile.retain(|id, _| id.0 != file);
        self.unreadable.retain(|id| id.0 != file);
    }

    /// What the boundary forbids: overlapping writes in flight, reads and writes of one sector at
    /// once, writes to files that were not created.
    fn check_contract(&mut self, request: &Request) {
        let complaint = match request {
            Request::Write { at, pages, .. } => {
                if !self.files.contains(&at.file) {
                    Some(format!("write to {:?}, which does not exist", at.file))
                } else {
                    self.overlap(*at, pages.count() as u64, false)
                }
            }
            Request::Read { at, pages, .. } => self.overlap(*at, pages.count() as u64, true),
            Request::Sync { file, .. } if !self.files.contains(file) => {
                Some(format!("sync of {file:?}, which does not exist"))
            }
            Request::Sync { .. } | Request::Create { .. } | Request::Remove { .. } => None,
        };
        if self.misuse.is_none() {
            self.misuse = complaint;
        }
    }

    fn overlap(&self, at: Address, count: u64, reading: bool) -> Option<String> {
        let end = at.offset + count * PAGE_SIZE as u64;
        for operation in self.inflight.values() {
            let (other, pages, writes) = match operation {
                Operation::Read { at, pages, .. } => (at, pages, false),
                Operation::Write { at, pages, .. } => (at, pages, true),
                Operation::Sync { .. } | Operation::Create { .. } | Operation::Remove { .. } => {
                    continue;
                }
            };
            let apart = other.file != at.file
                || other.offset >= end
                || at.offset >= other.offset + pages.size_bytes() as u64;
            if apart || (reading && !writes) {
                continue;
            }
            let what = if reading { "read" } else { "write" };
            return Some(format!("{what} at {at:?} overlaps an operation in flight at {other:?}"));
        }
        None
    }

    fn count(&mut self, fault: &'static str) {
        *self.stats.faults.entry(fault).or_default() += 1;
    }
}
