//! What is wrong with a segment, and where: for the person on call, and for repair.

use super::record::RecordError;
use super::segment::SegmentHeaderError;
use crate::ids::{Position, SegmentNumber, TenantId};

/// The first thing found wrong in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub tenant: TenantId,
    pub segment: SegmentNumber,
    /// Byte of the segment.
    pub offset: u64,
    /// The record that should be there.
    pub position: Position,
    pub reason: DamageReason,
    /// True: the bytes were checkpointed, so this is damage. False: how far the log goes was not
    /// known, so this may be its end, with garbage behind.
    pub checkpointed: bool,
}

impl core::fmt::Display for Damage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Damage { tenant, segment, offset, position, reason, checkpointed } = self;
        let what = if *checkpointed { "damaged" } else { "ends or is damaged" };
        write!(
            f,
            "log of tenant {tenant} {what} at position {position} \
             (segment {segment}, byte {offset}): {reason}"
        )
    }
}

impl core::error::Error for Damage {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageReason {
    Header(SegmentHeaderError),
    /// The header is whole but belongs to another tenant, segment, or history.
    HeaderMisplaced,
    Record(RecordError),
    /// A whole record that belongs elsewhere.
    Misplaced {
        tenant: TenantId,
        position: Position,
    },
    /// `prev_hash` is not the hash of the record before.
    Chain,
    /// Padding that is not zeros, or a block that begins with padding.
    Padding,
    /// Transaction bounds, op, generation or time contradict the records before.
    Transaction,
    /// The hash is not the one that the index holds, and the index is right.
    Hash,
    /// A checkpoint record does not open, or claims what is not so.
    CheckpointRecord,
    /// The file ends before the log does.
    Truncated,
    /// The log ends with another chain hash or tree root than the head says.
    Head,
}

impl core::fmt::Display for DamageReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            DamageReason::Header(error) => write!(f, "segment header: {error}"),
            DamageReason::HeaderMisplaced => {
                f.write_str("the segment header belongs to another place or history")
            }
            DamageReason::Record(error) => write!(f, "{error}"),
            DamageReason::Misplaced { tenant, position } => {
                write!(f, "found the record of tenant {tenant}, position {position}")
            }
            DamageReason::Chain => {
                f.write_str("the chain breaks: not the hash of the record before")
            }
            DamageReason::Padding => f.write_str("padding is not zeros"),
            DamageReason::Transaction => {
                f.write_str("transaction bounds, op or time contradict the record before")
            }
            DamageReason::Hash => f.write_str("the record's hash is not the recorded one"),
            DamageReason::CheckpointRecord => {
                f.write_str("a checkpoint record does not open or claims what is not so")
            }
            DamageReason::Truncated => f.write_str("the file ends before the log does"),
            DamageReason::Head => {
                f.write_str("chain hash or tree root differ from the recorded head")
            }
        }
    }
}
