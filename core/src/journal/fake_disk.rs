//! A tiny disk for tests: sectors, durable or in flight, and crashes that keep any subset.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::Ring;
use super::slots::vacant_area;
use crate::event::Event;
use crate::io::{Effect, Effects, FileId, IoError, IoId, Pages};
use crate::limits::{JOURNAL_RING_BYTES_MIN, PAGE_SIZE};

/// SplitMix64: small, seeded, good enough to shuffle.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

type Sector = Rc<[u8; PAGE_SIZE]>;

#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Read { io: IoId, offset: u64, pages: Pages },
    Write { io: IoId, offset: u64, pages: Pages },
    Sync { io: IoId },
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Completion {
    Read { io: IoId, pages: Pages, result: Result<(), IoError> },
    Write { io: IoId, pages: Pages, result: Result<(), IoError> },
    Done { io: IoId },
}

/// How much of one sector of a write in flight a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Old,
    New,
    /// The first so many bytes are new.
    Torn(usize),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk {
    sectors: BTreeMap<u64, Sector>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) events: Vec<Event>,
    /// File offset of a sector whose reads fail.
    pub(crate) unreadable: Option<u64>,
    /// Every write acknowledged from now on fails.
    pub(crate) write_error: Option<IoError>,
}

impl FakeDisk {
    /// A new journal with the smallest ring.
    pub(crate) fn formatted() -> FakeDisk {
        let mut disk = FakeDisk::default();
        let area = vacant_area(Ring::new(JOURNAL_RING_BYTES_MIN));
        for (sector, bytes) in area.as_bytes().chunks_exact(PAGE_SIZE).enumerate() {
            let Ok(bytes) = bytes.try_into() else { unreachable!("a page is a sector") };
            disk.put((sector * PAGE_SIZE) as u64, bytes);
        }
        disk
    }

    pub(crate) fn submit(&mut self, effects: &mut Effects) {
        for effect in effects.drain() {
            match effect {
                Effect::Read { io, at, pages } => {
                    assert_eq!(at.file, FileId::Journal);
                    self.pending.push(Pending::Read { io, offset: at.offset, pages });
                }
                Effect::Write { io, at, pages, .. } => {
                    assert_eq!(at.file, FileId::Journal);
                    self.check_alone(at.offset, pages.size_bytes());
                    self.pending.push(Pending::Write { io, offset: at.offset, pages });
                }
                Effect::Sync { io, file } => {
                    assert_eq!(file, FileId::Journal);
                    self.pending.push(Pending::Sync { io });
                }
                Effect::Event(event) => self.events.push(event),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// No sector is ever in two writes at once: their order would be the disk's choice.
    fn check_alone(&self, offset: u64, size: usize) {
        let new = offset..offset + size as u64;
        for pending in &self.pending {
            if let Pending::Write { offset, pages, .. } = pending {
                let old = *offset..*offset + pages.size_bytes() as u64;
                assert!(old.end <= new.start || new.end <= old.start, "two writes of a sector");
            }
        }
    }

    pub(crate) fn complete(&mut self, index: usize) -> Completion {
        match self.pending.remove(index) {
            Pending::Read { io, offset, mut pages } => {
                let size = pages.size_bytes() as u64;
                self.read(offset, pages.as_bytes_mut());
                let bad = self.unreadable.is_some_and(|bad| (offset..offset + size).contains(&bad));
                let result = if bad { Err(IoError::Device) } else { Ok(()) };
                Completion::Read { io, pages, result }
            }
            Pending::Write { io, offset, pages } => {
                if let Some(error) = self.write_error {
                    return Completion::Write { io, pages, result: Err(error) };
                }
                for (index, page) in pages.as_slice().iter().enumerate() {
                    self.put(offset + (index * PAGE_SIZE) as u64, page.0);
                }
                Completion::Write { io, pages, result: Ok(()) }
            }
            Pending::Sync { io } => Completion::Done { io },
        }
    }

    /// Sectors of writes in flight.
    pub(crate) fn unsynced(&self) -> usize {
        self.pending
            .iter()
            .map(|pending| match pending {
                Pending::Write { pages, .. } => pages.count(),
                Pending::Read { .. } | Pending::Sync { .. } => 0,
            })
            .sum()
    }

    /// The machine stops; `keep` decides for each sector of each write in flight.
    pub(crate) fn crash(&mut self, mut keep: impl FnMut() -> Keep) {
        self.crash_at(|_| keep());
    }

    /// The same; `keep` is told where in the file the sector is.
    pub(crate) fn crash_at(&mut self, mut keep: impl FnMut(u64) -> Keep) {
        for pending in core::mem::take(&mut self.pending) {
            let Pending::Write { offset, pages, .. } = pending else { continue };
            for (index, page) in pages.as_slice().iter().enumerate() {
                let at = offset + (index * PAGE_SIZE) as u64;
                match keep(at) {
                    Keep::Old => {}
                    Keep::New => self.put(at, page.0),
                    Keep::Torn(bytes) => {
                        let mut mixed = self.sector(at);
                        mixed[..bytes].copy_from_slice(&page.0[..bytes]);
                        self.put(at, mixed);
                    }
                }
            }
        }
        self.events.clear();
    }

    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) {
        assert!(bytes.len().is_multiple_of(PAGE_SIZE));
        for (index, bytes) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
            match self.sectors.get(&(offset + (index * PAGE_SIZE) as u64)) {
                Some(sector) => bytes.copy_from_slice(&sector[..]),
                None => bytes.fill(0),
            }
        }
    }

    pub(crate) fn sector(&self, offset: u64) -> [u8; PAGE_SIZE] {
        self.sectors.get(&offset).map_or([0; PAGE_SIZE], |sector| **sector)
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: [u8; PAGE_SIZE]) {
        self.sectors.insert(offset, Rc::new(bytes));
    }

    pub(crate) fn flip(&mut self, byte: u64) {
        let at = byte / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        let mut bytes = self.sector(at);
        bytes[(byte - at) as usize] ^= 0x10;
        self.put(at, bytes);
    }
}
