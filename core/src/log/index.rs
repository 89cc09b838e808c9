//! Layout of a segment's index file: by position, where a record is, its hash, and Merkle tiles.
//!
//! ```text
//! page 0              header
//! pages 1 ..          entries: one of 40 bytes a position, 102 a page
//!                       offset u64   byte of the segment where the record starts; 0 for none
//!                       hash   [32]  of the record
//! then                tiles: one hash for each full, aligned subtree of 256 leaves that ends in
//!                     this segment, in order, 127 a page
//! last page           upper tiles: the same for 256^2 leaves, then 256^3 … 256^7
//!
//! every page
//!      0    4 crc32 over origin u128 ‖ tenant u64 ‖ segment u32 ‖ page number u32 ‖ bytes 4.. of
//!             the page
//!      4    4 magic "VIX1"
//!      8    8 zeros
//!     16 4080 slots; zeros where there is none yet
//!
//! header page
//!     16    8 tenant   24  4 segment   28  4 zeros   32  8 segment_positions
//! ```
//!
//! Where a slot is follows from its position alone, so a record is found with one page read, and a
//! proof of inclusion with one page a level.
//!
//! Invariants: an index says nothing that its segment does not; it is written in place and may be
//! lost, torn or stale, and is then rebuilt. The checksum binds the origin of the directory, the
//! tenant, segment and page, so that a misdirected page, or one of another directory, is damage.
//! Slots past the checkpointed length are garbage until replayed.

use crate::crypto::ChainHash;
use crate::ids::{OriginId, Position, SegmentNumber, TenantId};
use crate::limits::PAGE_SIZE;

const MAGIC: [u8; 4] = *b"VIX1";
const PAGE_HEADER_SIZE: usize = 16;
const ENTRY_SIZE: usize = 40;
const HASH_SIZE: usize = 32;
pub(super) const ENTRIES_PER_PAGE: u64 = ((PAGE_SIZE - PAGE_HEADER_SIZE) / ENTRY_SIZE) as u64;
pub(super) const TILES_PER_PAGE: u64 = ((PAGE_SIZE - PAGE_HEADER_SIZE) / HASH_SIZE) as u64;
/// Leaves under one tile: 2^8, so level l covers 2^(8 l).
pub(super) const TILE_HEIGHT: u32 = 8;
pub(super) const TILE_LEVELS: u32 = 7;

/// Whose pages they are: every page is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOf {
    /// Of the data directory, as its superblock names it.
    pub origin: OriginId,
    pub tenant: TenantId,
    pub segment: SegmentNumber,
}

/// Where one record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Byte of the segment where the record starts; the header block makes it never zero.
    pub offset: u64,
    pub hash: ChainHash,
}

/// One slot of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub page: u32,
    pub at: u32,
    pub size: u32,
    /// First and last slot of its page.
    pub first: bool,
    pub last: bool,
}

/// Which page and slot holds what, for segments of a given number of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    segment_positions: u64,
}

impl Layout {
    pub fn new(segment_positions: u64) -> Layout {
        assert!(segment_positions > 0);
        let layout = Layout { segment_positions };
        assert!(
            (2..=TILE_LEVELS).map(|level| layout.tiles_max(level)).sum::<u64>() <= TILES_PER_PAGE
        );
        layout
    }

    fn entry_pages(self) -> u64 {
        self.segment_positions.div_ceil(ENTRIES_PER_PAGE)
    }

    /// Slots that level `level` may need in one segment.
    fn tiles_max(self, level: u32) -> u64 {
        (self.segment_positions >> (TILE_HEIGHT * level)) + 1
    }

    /// Are all slots taken that a page of the segment from `first` on has in a log of `next`
    /// records, but for those in `set` (offset, size)? A page that missed a write fails this.
    pub fn is_filled(
        self,
        first: u64,
        next: u64,
        number: u32,
        page: &[u8],
        set: &[(u32, u32)],
    ) -> bool {
        let upper = 1 + self.entry_pages() + self.tiles_max(1).div_ceil(TILES_PER_PAGE);
        let taken = |at: usize, size: usize| page[at..at + size].iter().any(|&byte| byte != 0);
        if number == 0 {
            return true;
        }
        if u64::from(number) < upper {
            // Slots are taken in order.
            let end = set.iter().map(|(at, _)| *at as usize).min().unwrap_or(PAGE_HEADER_SIZE);
            let entries = u64::from(number) <= self.entry_pages();
            let size = if entries { ENTRY_SIZE } else { HASH_SIZE };
            return (PAGE_HEADER_SIZE..end).step_by(size).all(|at| taken(at, size));
        }
        let next = next.min(first + self.segment_positions);
        (2..=TILE_LEVELS).all(|level| {
            let height = TILE_HEIGHT * level;
            (first >> height..next >> height).all(|tile| {
                let slot = self.tile(first, level, tile);
                taken(slot.at as usize, HASH_SIZE) || set.contains(&(slot.at, slot.size))
            })
        })
    }

    /// Of the `nth` position of a segment.
    pub fn entry(self, nth: u64) -> Slot {
        assert!(nth < self.segment_positions);
        let within = nth % ENTRIES_PER_PAGE;
        Slot {
            page: page_number(1 + nth / ENTRIES_PER_PAGE),
            at: (PAGE_HEADER_SIZE as u64 + within * ENTRY_SIZE as u64) as u32,
            size: ENTRY_SIZE as u32,
            first: within == 0,
            last: within == ENTRIES_PER_PAGE - 1 || nth == self.segment_positions - 1,
        }
    }

    /// Of the subtree number `tile` of `level`, in the segment where its last leaf is.
    pub fn tile(self, segment_first: u64, level: u32, tile: u64) -> Slot {
        assert!((1..=TILE_LEVELS).contains(&level));
        let nth = tile - (segment_first >> (TILE_HEIGHT * level));
        assert!(nth < self.tiles_max(level));
        let mut base = 1 + self.entry_pages();
        let mut slot = nth;
        if level > 1 {
            base += self.tiles_max(1).div_ceil(TILES_PER_PAGE);
            slot += (2..level).map(|below| self.tiles_max(below)).sum::<u64>();
        }
        let within = slot % TILES_PER_PAGE;
        Slot {
            page: page_number(base + slot / TILES_PER_PAGE),
            at: (PAGE_HEADER_SIZE as u64 + within * HASH_SIZE as u64) as u32,
            size: HASH_SIZE as u32,
            // Levels from 2 up share one page. Whenever a tile of a level above completes, one of
            // level 2 has just done so: it is the one that finds the page new.
            first: level <= 2 && within == 0,
            last: level == 1 && within == TILES_PER_PAGE - 1,
        }
    }
}

fn page_number(number: u64) -> u32 {
    let Ok(number) = u32::try_from(number) else {
        unreachable!("segment_positions is at most 1,000,000")
    };
    number
}

pub(super) fn encode_entry(entry: &IndexEntry) -> [u8; ENTRY_SIZE] {
    let mut bytes = [0; ENTRY_SIZE];
    bytes[..8].copy_from_slice(&entry.offset.to_le_bytes());
    bytes[8..].copy_from_slice(&entry.hash.0);
    bytes
}

/// None: the slot is empty.
pub(super) fn decode_entry(page: &[u8], slot: Slot) -> Option<IndexEntry> {
    let at = slot.at as usize;
    let bytes = &page[at..at + ENTRY_SIZE];
    let (offset, hash) = bytes.split_first_chunk::<8>()?;
    let offset = u64::from_le_bytes(*offset);
    let hash = ChainHash(hash.try_into().ok()?);
    (offset != 0).then_some(IndexEntry { offset, hash })
}

/// The header page, not yet stamped.
pub(super) fn header_page(of: IndexOf, segment_positions: u64, page: &mut [u8]) {
    page[16..24].copy_from_slice(&of.tenant.get().to_le_bytes());
    page[24..28].copy_from_slice(&of.segment.get().to_le_bytes());
    page[32..40].copy_from_slice(&segment_positions.to_le_bytes());
}

/// Makes a page whole before it is written.
pub(super) fn stamp(of: IndexOf, number: u32, page: &mut [u8]) {
    assert!(page.len() == PAGE_SIZE);
    page[4..8].copy_from_slice(&MAGIC);
    page[8..16].fill(0);
    let crc = checksum(of, number, page);
    page[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The page of an index file that has the entry of a position, and which entry of it.
#[must_use]
pub fn entry_place(segment_positions: u64, position: Position) -> (u32, u64) {
    let nth = position.get() % segment_positions;
    (Layout::new(segment_positions).entry(nth).page, nth % ENTRIES_PER_PAGE)
}

/// What a good page says of a position; None: nothing was appended there when it was written.
#[must_use]
pub fn entry_in_page(
    page: &[u8],
    segment_positions: u64,
    position: Position,
) -> Option<IndexEntry> {
    let slot = Layout::new(segment_positions).entry(position.get() % segment_positions);
    decode_entry(page, slot)
}

/// Is this the page that was written there?
#[must_use]
pub fn page_is_good(of: IndexOf, number: u32, page: &[u8]) -> bool {
    page.len() == PAGE_SIZE
        && page[4..8] == MAGIC
        && page[8..16] == [0; 8]
        && page[..4] == checksum(of, number, page).to_le_bytes()
}

/// Is page 0 what was written when the segment began?
pub(super) fn header_is_good(of: IndexOf, segment_positions: u64, page: &[u8]) -> bool {
    let mut good = [0; PAGE_SIZE];
    header_page(of, segment_positions, &mut good);
    stamp(of, 0, &mut good);
    page == good
}

fn checksum(of: IndexOf, number: u32, page: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&of.origin.get().to_le_bytes());
    crc.update(&of.tenant.get().to_le_bytes());
    crc.update(&of.segment.get().to_le_bytes());
    crc.update(&number.to_le_bytes());
    crc.update(&page[4..]);
    crc.finalize()
}
