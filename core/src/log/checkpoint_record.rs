//! The payload of a checkpoint record: what the log claims about itself so far.
//!
//! Deterministic CBOR (RFC 8949 §4.2), an array, so that an auditor reads it with any library:
//!
//! ```text
//! [ position     uint      last record covered: the one before this record
//! , chain_hash   bytes 32  hash of that record
//! , tree_root    bytes 32  RFC 6962 root over record_count leaves
//! , record_count uint      position + 1
//! , time         uint      ns since the Unix epoch, of the op that appended it
//! , state_root   bytes 32 or null   the last attested state root
//! , state_root_position uint or null ]
//! ```
//!
//! Invariants: one value has one encoding, and decode refuses any other. It bounds every
//! verification: whoever trusts one checkpoint record need not look behind it.

use alloc::vec::Vec;

use minicbor::{Decoder, Encoder};

use super::head::LogHead;
use crate::crypto::ChainHash;
use crate::ids::Position;
use crate::time::Timestamp;

const FIELDS: u64 = 7;

/// What a checkpoint record claims of all records before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    pub position: Position,
    pub chain_hash: ChainHash,
    pub tree_root: ChainHash,
    pub record_count: u64,
    pub time: Timestamp,
    pub state_root: Option<StateRootAt>,
}

/// An attested state root and the position whose state it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRootAt {
    pub root: ChainHash,
    pub position: Position,
}

/// The payload is not a checkpoint record in its one encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRecordError;

impl CheckpointRecord {
    /// The claim that is true of `head` now. A log never begins with a checkpoint record.
    #[must_use]
    pub fn of(head: &LogHead, time: Timestamp, state_root: Option<StateRootAt>) -> Self {
        let Some(position) = head.next.previous() else {
            unreachable!("a log never begins with a checkpoint record")
        };
        CheckpointRecord {
            position,
            chain_hash: head.chain,
            tree_root: head.frontier.root(),
            record_count: head.next.get(),
            time,
            state_root,
        }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(160);
        let mut cbor = Encoder::new(&mut bytes);
        let done = (|| {
            cbor.array(FIELDS)?.u64(self.position.get())?;
            cbor.bytes(&self.chain_hash.0)?.bytes(&self.tree_root.0)?;
            cbor.u64(self.record_count)?.u64(self.time.0)?;
            match &self.state_root {
                Some(at) => cbor.bytes(&at.root.0)?.u64(at.position.get())?,
                None => cbor.null()?.null()?,
            };
            Ok::<(), minicbor::encode::Error<core::convert::Infallible>>(())
        })();
        assert!(done.is_ok(), "writing to memory cannot fail");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<CheckpointRecord, CheckpointRecordError> {
        let record = parse(bytes).ok_or(CheckpointRecordError)?;
        // One value, one encoding: anything longer, shorter or otherwise spelt is refused.
        if record.encode() != bytes
            || record.position.get().checked_add(1) != Some(record.record_count)
        {
            return Err(CheckpointRecordError);
        }
        Ok(record)
    }
}

fn parse(bytes: &[u8]) -> Option<CheckpointRecord> {
    let mut cbor = Decoder::new(bytes);
    if cbor.array().ok()? != Some(FIELDS) {
        return None;
    }
    let position = Position::new(cbor.u64().ok()?);
    let chain_hash = hash(&mut cbor)?;
    let tree_root = hash(&mut cbor)?;
    let record_count = cbor.u64().ok()?;
    let time = Timestamp(cbor.u64().ok()?);
    let state_root = if cbor.datatype().ok()? == minicbor::data::Type::Null {
        cbor.null().ok()?;
        cbor.null().ok()?;
        None
    } else {
        let root = hash(&mut cbor)?;
        Some(StateRootAt { root, position: Position::new(cbor.u64().ok()?) })
    };
    Some(CheckpointRecord { position, chain_hash, tree_root, record_count, time, state_root })
}

fn hash(cbor: &mut Decoder<'_>) -> Option<ChainHash> {
    let bytes: [u8; 32] = cbor.bytes().ok()?.try_into().ok()?;
    Some(ChainHash(bytes))
}
