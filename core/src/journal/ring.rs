//! Arithmetic of the journal file: header slots, then the ring.
//!
//! A *journal offset* counts the bytes of an endless journal; its remainder by the size of the ring
//! is the place in the ring. A prepare never wraps inside itself: it begins where the one before
//! ends or, if it does not fit before the end of the ring, at the next multiple of the ring's size.
//! So there are at most two places to look for the next prepare.

use crate::io::{Address, FileId};
use crate::limits::{
    JOURNAL_HEADERS_PER_PAGE, JOURNAL_RING_BYTES_MIN, PAGE_SIZE, PREPARE_HEADER_SIZE,
    PREPARE_SIZE_MAX,
};

/// Number of a 4 KiB sector of the header area.
pub type SectorIndex = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    bytes: u64,
}

impl Ring {
    #[must_use]
    pub fn new(bytes: u64) -> Ring {
        assert!(bytes >= JOURNAL_RING_BYTES_MIN && bytes.is_multiple_of(PREPARE_SIZE_MAX as u64));
        Ring { bytes }
    }

    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// One slot of 256 bytes for each page of the ring.
    #[must_use]
    pub fn header_area_bytes(self) -> u64 {
        self.bytes / JOURNAL_HEADERS_PER_PAGE as u64
    }

    #[must_use]
    pub fn file_bytes(self) -> u64 {
        self.header_area_bytes() + self.bytes
    }

    #[must_use]
    pub fn sectors(self) -> usize {
        to_usize(self.header_area_bytes()) / PAGE_SIZE
    }

    /// Place in the ring of a journal offset.
    #[must_use]
    pub fn position(self, offset: u64) -> u64 {
        offset % self.bytes
    }

    /// Where in the file the ring's byte at a journal offset is.
    #[must_use]
    pub fn address(self, offset: u64) -> Address {
        Address::new(FileId::Journal, self.header_area_bytes() + self.position(offset))
    }

    #[must_use]
    pub fn sector_address(self, sector: SectorIndex) -> Address {
        Address::new(FileId::Journal, u64::from(sector) * PAGE_SIZE as u64)
    }

    /// Byte offset in the header area of the slot for the prepare that begins at `offset`.
    #[must_use]
    pub fn slot_offset(self, offset: u64) -> usize {
        to_usize(self.position(offset)) / PAGE_SIZE * PREPARE_HEADER_SIZE
    }

    #[must_use]
    pub fn sector_of(self, offset: u64) -> SectorIndex {
        (self.slot_offset(offset) / PAGE_SIZE) as SectorIndex
    }

    /// Where a prepare of `padded` bytes begins when the one before ends at `end`.
    #[must_use]
    pub fn place(self, end: u64, padded: u64) -> u64 {
        if self.fits_at(end, padded) { end } else { end.next_multiple_of(self.bytes) }
    }

    #[must_use]
    pub fn fits_at(self, offset: u64, padded: u64) -> bool {
        self.position(offset) + padded <= self.bytes
    }
}

pub fn to_usize(value: u64) -> usize {
    let Ok(value) = usize::try_from(value) else { unreachable!("memory sizes fit a usize") };
    value
}
