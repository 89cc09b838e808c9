//! What a segment holds behind the head of its log.
//!
//! A record reaches a segment only after its prepare was durable and applied. Where one replica is
//! all there is, nobody else knows of it: once all that checkpoint and journal hold is counted in,
//! a record that follows the head proves that they are older than the log. Somebody put a file
//! back, or the newest of the journal is lost.
//!
//! Invariants: garbage, and blocks of another history, are no record: position and `prev_hash` must
//! be those of this very head. Nothing is written here.

use super::LogHead;
use super::record::{Metadata, decode_length, decode_prefix, decode_record};
use super::segment::LENGTH_SIZE;
use crate::crypto::ChainHash;
use crate::ids::{Op, Position, SegmentNumber, TenantId};
use crate::io::{Address, FileId};
use crate::limits::PAGE_SIZE;

/// Where the next record of a log would stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEdge {
    pub tenant: TenantId,
    pub segment: SegmentNumber,
    pub offset: u64,
    pub next: Position,
    pub chain: ChainHash,
}

/// A record that a log has behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    pub tenant: TenantId,
    pub position: Position,
    /// The prepare that appended it.
    pub op: Op,
}

impl core::fmt::Display for Beyond {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Beyond { tenant, position, op } = self;
        write!(
            f,
            "the log of tenant {tenant} goes on at position {position} with a record of op {op}, \
             of which neither checkpoint nor journal knows: was an older journal, superblock or \
             grid put back? What the log says was acknowledged would be lost"
        )
    }
}

impl core::error::Error for Beyond {}

impl LogEdge {
    #[must_use]
    pub fn of(tenant: TenantId, head: &LogHead, segment_positions: u64) -> LogEdge {
        let LogHead { mut segment, segment_offset: mut offset, next, chain, .. } = *head;
        if next.get() - head.segment_first.get() == segment_positions {
            segment = SegmentNumber::new(segment.get() + 1);
            offset = 0;
        }
        // Behind the header.
        offset = offset.max(PAGE_SIZE as u64);
        LogEdge { tenant, segment, offset, next, chain }
    }

    /// The block to read from, two of them, for [`LogEdge::beyond`].
    #[must_use]
    pub fn block(&self) -> Address {
        let file = FileId::Segment { tenant: self.tenant, number: self.segment };
        Address::new(file, self.offset / PAGE_SIZE as u64 * PAGE_SIZE as u64)
    }

    /// The record that follows, if one does; bytes are those from [`LogEdge::block`] on. A
    /// checkpoint may have cut the block short: then it begins the next one.
    #[must_use]
    pub fn beyond(&self, bytes: &[u8]) -> Option<Beyond> {
        let at = (self.offset % PAGE_SIZE as u64) as usize;
        let here = self.record_at(bytes.get(at..)?);
        let behind = || self.record_at(bytes.get(PAGE_SIZE..)?);
        let metadata = here.or_else(|| if at > 0 { behind() } else { None })?;
        Some(Beyond { tenant: self.tenant, position: self.next, op: metadata.op })
    }

    /// The chain tells whose record it is; the crc is asked if all of it is there.
    fn record_at(&self, bytes: &[u8]) -> Option<Metadata> {
        let size = decode_length(*bytes.first_chunk::<LENGTH_SIZE>()?).ok()?;
        if let Some(whole) = bytes.get(..size) {
            decode_record(whole).ok()?;
        }
        let (prev_hash, metadata) = decode_prefix(bytes)?;
        let follows = prev_hash == self.chain
            && metadata.tenant == self.tenant
            && metadata.position == self.next;
        follows.then_some(metadata)
    }
}
