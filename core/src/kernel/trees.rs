//! The trees of a tenant: their ids, keys and values.
//!
//! ```text
//! tree  tenants  key                          value
//!    0  all      (forest: the store's own)
//!    1  all      `CatalogKey`                 table schema; counters          (query's codec)
//!    2  all      idempotency id [16]          [position, op, time, outcome]   (CBOR)
//!    3  all      01 ‖ name                    stream id                       (CBOR)
//!                02 ‖ stream id, big endian   records in the stream           (CBOR)
//!    4  0        tenant, big endian           [created at, KEK hash]          (CBOR)
//!    5  0        tenant, big endian           head of its log at a checkpoint (`LogHead`)
//!    6  0        tenant, big endian           its attested head               (CBOR)
//!   15  0        (forests: the store's own)
//!  16…  all      row key                      stored row                      (query's codec)
//!                row key ‖ ended at, big endian                               (history)
//! ```
//!
//! Invariant: all but trees 0, 5 and 15 are functions of the records of their tenant.

use alloc::vec::Vec;

use crate::crypto::{ChainHash, KekHash};
use crate::ids::{IdempotencyId, Position, StreamId, TenantId, TreeId};
use crate::limits::STREAM_NAME_SIZE_MAX;
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::store::TreeRef;

pub const CATALOG: TreeId = TreeId::new(1);
pub const IDEMPOTENCY: TreeId = TreeId::new(2);
pub const STREAMS: TreeId = TreeId::new(3);
pub const TENANTS: TreeId = TreeId::new(4);
pub const HEADS: TreeId = TreeId::new(5);
pub const ATTESTED: TreeId = TreeId::new(6);

/// Every tenant has them from its first record on.
pub const OF_EVERY_TENANT: [TreeId; 3] = [CATALOG, IDEMPOTENCY, STREAMS];
/// Only the system tenant has them.
pub const OF_THE_SYSTEM: [TreeId; 3] = [TENANTS, HEADS, ATTESTED];

pub const TENANTS_TREE: TreeRef = TreeRef::new(TenantId::SYSTEM, TENANTS);
pub const HEADS_TREE: TreeRef = TreeRef::new(TenantId::SYSTEM, HEADS);
pub const ATTESTED_TREE: TreeRef = TreeRef::new(TenantId::SYSTEM, ATTESTED);

const NAME: u8 = 1;
const VERSION: u8 = 2;

#[must_use]
pub fn tenant_key(tenant: TenantId) -> [u8; 8] {
    tenant.get().to_be_bytes()
}

#[must_use]
pub fn tenant_of_key(key: &[u8]) -> TenantId {
    let Ok(key) = key.try_into() else { unreachable!("keys of this tree have eight bytes") };
    TenantId::new(u64::from_be_bytes(key))
}

/// A leaf of the tree of tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantEntry {
    pub created_at: Position,
    pub kek_hash: KekHash,
}

impl TenantEntry {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        Encoder::new(&mut out).array(2).uint(self.created_at.get()).bytes(&self.kek_hash.0);
        out
    }

    pub fn decode(value: &[u8]) -> Result<TenantEntry, DecodeError> {
        let mut decoder = Decoder::new(value);
        decoder.record(2)?;
        let created_at = Position::new(decoder.uint()?);
        let kek_hash = KekHash(decoder.fixed()?);
        decoder.finish()?;
        Ok(TenantEntry { created_at, kek_hash })
    }
}

/// A leaf of the tree of attested heads: `[size, log root, chain hash, state root]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttestedHead {
    /// Records in the tenant's log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: ChainHash,
    /// Hash of the last of them.
    pub chain: ChainHash,
    /// Of the tenant's state after all of them.
    pub state: ChainHash,
}

impl AttestedHead {
    pub fn encode_to(&self, encoder: &mut Encoder<'_>) {
        encoder.array(4).uint(self.size);
        encoder.bytes(&self.root.0).bytes(&self.chain.0).bytes(&self.state.0);
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(112);
        self.encode_to(&mut Encoder::new(&mut out));
        out
    }

    pub fn decode(decoder: &mut Decoder<'_>) -> Result<AttestedHead, DecodeError> {
        decoder.record(4)?;
        Ok(AttestedHead {
            size: decoder.uint()?,
            root: ChainHash(decoder.fixed()?),
            chain: ChainHash(decoder.fixed()?),
            state: ChainHash(decoder.fixed()?),
        })
    }

    /// Of a leaf's value.
    #[must_use]
    pub fn of_value(value: &[u8]) -> AttestedHead {
        let Ok(head) = AttestedHead::decode(&mut Decoder::new(value)) else {
            unreachable!("the tree holds what records put there");
        };
        head
    }
}

/// The key is made in `out`, which is used again.
pub fn stream_name_key<'o>(name: &str, out: &'o mut Vec<u8>) -> &'o [u8] {
    assert!(!name.is_empty() && name.len() <= STREAM_NAME_SIZE_MAX, "checked by the executor");
    out.clear();
    out.push(NAME);
    out.extend_from_slice(name.as_bytes());
    out
}

#[must_use]
pub fn stream_version_key(stream: StreamId) -> [u8; 5] {
    let mut key = [VERSION; 5];
    key[1..].copy_from_slice(&stream.get().to_be_bytes());
    key
}

/// The value is made in `out`, which is used again.
pub fn number(value: u64, out: &mut Vec<u8>) -> &[u8] {
    out.clear();
    Encoder::new(out).uint(value);
    out
}

#[must_use]
pub fn decode_number(value: &[u8]) -> u64 {
    let Ok(number) = Decoder::new(value).uint() else { unreachable!("written by `number`") };
    number
}

#[must_use]
pub fn stream_of_value(value: &[u8]) -> StreamId {
    let Ok(id) = u32::try_from(decode_number(value)) else { unreachable!("stream ids are u32") };
    StreamId::new(id)
}

#[must_use]
pub fn id_of_key(key: &[u8]) -> IdempotencyId {
    let Ok(id) = key.try_into() else { unreachable!("keys of this tree have sixteen bytes") };
    IdempotencyId(id)
}
