//! Layout of a segment file, and its first block.
//!
//! A segment holds `segment_positions` consecutive positions of one tenant: segment n begins at
//! position n × segment_positions. Block 0 is the header, records follow back to back and run
//! through block borders freely. Two rules tell padding from a record, at every record boundary:
//!
//! 1. fewer than four bytes remain in the block: they are zeros, the record starts the next block;
//! 2. the four bytes there (`length`) are zero: the rest of the block is zeros, likewise.
//!
//! A block never *begins* with padding. Rule 2 happens only where a checkpoint or the end of the
//! segment cut a block short.
//!
//! ```text
//! header block
//! offset size field
//!      0    8 magic "VRTYSEGM"
//!      8    4 format version, 1
//!     12    4 crc32 of the block from byte 16
//!     16    8 tenant
//!     24    4 segment number
//!     28    4 block size, 4096
//!     32    8 segment_positions
//!     40    8 first position
//!     48   32 chain hash before the first position
//!     80    4 frontier length
//!     84    n frontier of the tree before the first position; zeros to the end of the block
//! ```
//!
//! Invariants: the header is a function of the log before it, so every replica writes the same. It
//! lets one segment be verified alone; beside its neighbours it must equal what they say.

use alloc::vec::Vec;

use super::head::LogHead;
use super::record::{Reader, Writer};
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::limits::{PAGE_SIZE, SEGMENT_POSITIONS};

pub const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"VRTYSEGM";
const FIXED_SIZE: usize = 84;

/// Bytes of a `length` field: fewer than these before a block's end hold no record's start.
pub(super) const LENGTH_SIZE: usize = 4;

/// What block 0 of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub tenant: TenantId,
    pub number: SegmentNumber,
    pub segment_positions: u64,
    pub first: Position,
    /// Hash of the record before the first; zeros for none.
    pub chain: ChainHash,
    /// The tree over all records before the first.
    pub frontier: Frontier,
}

/// Why a block is not a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentHeaderError {
    Magic,
    /// Written by a newer release.
    Version {
        version: u32,
    },
    Crc {
        stored: u32,
        computed: u32,
    },
    /// The checksum holds but the fields contradict each other.
    Fields,
}

impl core::fmt::Display for SegmentHeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SegmentHeaderError::Magic => f.write_str("not a segment file"),
            SegmentHeaderError::Version { version } => {
                write!(f, "segment format {version} is newer than this release")
            }
            SegmentHeaderError::Crc { stored, computed } => {
                write!(f, "header crc32 is {computed:08x}, recorded {stored:08x}")
            }
            SegmentHeaderError::Fields => f.write_str("header fields contradict each other"),
        }
    }
}

impl SegmentHeader {
    /// The header of the segment that the next record of `head` begins.
    #[must_use]
    pub fn of(tenant: TenantId, head: &LogHead, segment_positions: u64) -> SegmentHeader {
        assert!(head.segment_first == head.next);
        SegmentHeader {
            tenant,
            number: head.segment,
            segment_positions,
            first: head.next,
            chain: head.chain,
            frontier: head.frontier.clone(),
        }
    }

    #[must_use]
    pub fn encode(&self) -> [u8; PAGE_SIZE] {
        let mut block = [0; PAGE_SIZE];
        let mut frontier = Vec::with_capacity(self.frontier.encoded_size());
        self.frontier.encode(&mut frontier);
        let mut out = Writer { bytes: &mut block, at: 16 };
        out.u64(self.tenant.get());
        out.u32(self.number.get());
        out.u32(PAGE_SIZE as u32);
        out.u64(self.segment_positions);
        out.u64(self.first.get());
        out.put(&self.chain.0);
        out.u32(frontier.len() as u32);
        assert!(out.at == FIXED_SIZE);
        out.put(&frontier);
        let crc = crc32fast::hash(&block[16..]);
        let mut out = Writer { bytes: &mut block, at: 0 };
        out.put(&MAGIC);
        out.u32(FORMAT_VERSION);
        out.u32(crc);
        block
    }

    pub fn decode(block: &[u8; PAGE_SIZE]) -> Result<SegmentHeader, SegmentHeaderError> {
        let mut from = Reader { bytes: block, at: 0 };
        if from.take() != MAGIC {
            return Err(SegmentHeaderError::Magic);
        }
        let (version, stored) = (from.u32(), from.u32());
        if version != FORMAT_VERSION {
            return Err(SegmentHeaderError::Version { version });
        }
        let computed = crc32fast::hash(&block[16..]);
        if stored != computed {
            return Err(SegmentHeaderError::Crc { stored, computed });
        }
        let tenant = TenantId::new(from.u64());
        let number = SegmentNumber::new(from.u32());
        let block_size = from.u32();
        let segment_positions = from.u64();
        let first = Position::new(from.u64());
        let chain = ChainHash(from.take());
        let length = from.u32() as usize;
        let rest = &block[FIXED_SIZE..];
        if length > rest.len() || rest[length..].iter().any(|&byte| byte != 0) {
            return Err(SegmentHeaderError::Fields);
        }
        let Ok((frontier, [])) = Frontier::decode(&rest[..length]) else {
            return Err(SegmentHeaderError::Fields);
        };
        let sane = block_size == PAGE_SIZE as u32
            && (1..=SEGMENT_POSITIONS).contains(&segment_positions)
            && segment_positions.checked_mul(u64::from(number.get())) == Some(first.get())
            && frontier.size() == first.get();
        if !sane {
            return Err(SegmentHeaderError::Fields);
        }
        Ok(SegmentHeader { tenant, number, segment_positions, first, chain, frontier })
    }
}
