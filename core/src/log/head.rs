//! Where a tenant's log stands: all that is needed to append the next record.
//!
//! Invariants: `frontier.size() == next`; `segment = ⌊position / segment_positions⌋` of the last
//! record; `segment_offset` is a block boundary whenever the head has been checkpointed. The kernel
//! keeps the encoded head of every tenant in a tree of the system tenant, so a head that is read
//! back is as trusted as the state.
//!
//! ```text
//! offset size field
//!      0    8 next                        position of the next record
//!      8   32 chain                       hash of the last record; zeros for none
//!     40    4 segment
//!     44    8 segment_offset              bytes of the segment that are taken
//!     52    8 segment_first               first position of the segment
//!     60    8 records_since_checkpoint_record
//!     68    8 last_checkpoint_record      position; all ones for none
//!     76    n frontier                    size u64 = next, 32 bytes for each one bit of it
//! ```

use alloc::vec::Vec;

use super::record::{Reader, Writer};
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, SegmentNumber};

const FIXED_SIZE: usize = 76;
const NONE: u64 = u64::MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    pub next: Position,
    pub chain: ChainHash,
    pub frontier: Frontier,
    pub segment: SegmentNumber,
    pub segment_offset: u64,
    pub segment_first: Position,
    pub records_since_checkpoint_record: u64,
    pub last_checkpoint_record: Option<Position>,
}

/// The bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHeadError;

impl LogHead {
    /// The head of a log without records.
    #[must_use]
    pub fn empty() -> LogHead {
        LogHead {
            next: Position::ZERO,
            chain: ChainHash::ZERO,
            frontier: Frontier::new(),
            segment: SegmentNumber::ZERO,
            segment_offset: 0,
            segment_first: Position::ZERO,
            records_since_checkpoint_record: 0,
            last_checkpoint_record: None,
        }
    }

    /// The position of the last record.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.next.previous()
    }

    /// A checkpoint record belongs at the next transaction end; `interval` is a cluster constant.
    #[must_use]
    pub fn checkpoint_record_due(&self, interval: u32) -> bool {
        self.records_since_checkpoint_record >= u64::from(interval)
    }

    /// A shutdown would append a checkpoint record: there are records after the last one.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.records_since_checkpoint_record > 0
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut fixed = [0; FIXED_SIZE];
        let mut out = Writer { bytes: &mut fixed, at: 0 };
        out.u64(self.next.get());
        out.put(&self.chain.0);
        out.u32(self.segment.get());
        out.u64(self.segment_offset);
        out.u64(self.segment_first.get());
        out.u64(self.records_since_checkpoint_record);
        out.u64(self.last_checkpoint_record.map_or(NONE, Position::get));
        assert!(out.at == FIXED_SIZE);
        let mut bytes = fixed.to_vec();
        self.frontier.encode(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<LogHead, LogHeadError> {
        let Some((fixed, frontier)) = bytes.split_first_chunk::<FIXED_SIZE>() else {
            return Err(LogHeadError);
        };
        let Ok((frontier, [])) = Frontier::decode(frontier) else {
            return Err(LogHeadError);
        };
        let mut from = Reader { bytes: fixed, at: 0 };
        let head = LogHead {
            next: Position::new(from.u64()),
            chain: ChainHash(from.take()),
            segment: SegmentNumber::new(from.u32()),
            segment_offset: from.u64(),
            segment_first: Position::new(from.u64()),
            records_since_checkpoint_record: from.u64(),
            last_checkpoint_record: Some(from.u64()).filter(|&at| at != NONE).map(Position::new),
            frontier,
        };
        let sane = head.frontier.size() == head.next.get()
            && head.segment_first <= head.next
            && head.records_since_checkpoint_record <= head.next.get()
            && head.last_checkpoint_record.is_none_or(|position| position < head.next);
        if sane { Ok(head) } else { Err(LogHeadError) }
    }
}
