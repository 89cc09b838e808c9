//! One record of a tenant's log: its bytes, its hash, its sealing.
//!
//! ```text
//! offset size field
//!      0    4 length        of the whole record, this field included: 178 + data_length
//!      4    4 crc32         of all that follows
//!      8   32 prev_hash     hash of the record before; zeros before position 0
//!     40  138 metadata      see `Metadata`
//!    178    n data          ciphertext ‖ tag [16]
//! ```
//!
//! `hash = SHA-256(prev_hash ‖ metadata ‖ data)` is the chain, and the leaf data of the tenant's
//! RFC 6962 tree. All integers are little endian.
//!
//! Invariants: decode accepts exactly what encode makes. Fault model: bytes come from a disk that
//! rots, so every field is checked and no length is believed before it is bounded; `crc32` is a
//! fast damage check, the hash is the proof.

use alloc::vec::Vec;

use static_assertions::const_assert;

use crate::crypto::ChainHash;
use crate::crypto::seal::{RecordKey, SealError, TAG_SIZE, Tag};
use crate::ids::{
    Generation, IdempotencyId, KeyId, Op, Position, PrincipalId, SchemaVersion, StreamId, TenantId,
};
use crate::limits::{LOG_RECORD_DATA_SIZE_MAX, PAGE_SIZE};
use crate::time::Timestamp;

/// Encoded size of [`Metadata`].
pub const METADATA_SIZE: usize = 138;
/// length ‖ crc32 ‖ prev_hash.
pub const PREFIX_SIZE: usize = 40;
/// Everything of a record but its data.
pub const HEADER_SIZE: usize = PREFIX_SIZE + METADATA_SIZE;
pub const RECORD_SIZE_MAX: usize = HEADER_SIZE + LOG_RECORD_DATA_SIZE_MAX;
/// `caused_by` of a record that no other record caused.
const CAUSED_BY_NONE: u64 = u64::MAX;

const_assert!(METADATA_SIZE == 8 * 7 + 4 + 2 + 4 + 8 + 8 + 16 + 4 + 32 + 4);
const_assert!(RECORD_SIZE_MAX < u32::MAX as usize);
const_assert!(HEADER_SIZE < PAGE_SIZE);

/// What a record is. Numbers are forever: they are on disk and under the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum RecordKind {
    /// A row came to be or changed: data is its full after-image.
    RowPut = 1,
    /// A row ceased to be: data is its key.
    RowDelete = 2,
    /// A client appended to a stream.
    Append = 3,
    /// A request failed in execution, and its outcome must be remembered.
    Refused = 4,
    /// A request succeeded, changed nothing, and its outcome must be remembered.
    Completed = 5,
    /// A [`super::CheckpointRecord`]: bounds every verification.
    CheckpointRecord = 6,
    /// System log: the first op of a view.
    RecoveryRecord = 7,
    /// System log: a tenant came to be.
    TenantCreated = 8,
    /// The schema of a tenant changed.
    CatalogChange = 9,
    /// System log: size and root of a tenant's log, root of its state.
    HeadAttested = 10,
}

impl RecordKind {
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    #[must_use]
    pub const fn from_number(number: u16) -> Option<RecordKind> {
        Some(match number {
            1 => RecordKind::RowPut,
            2 => RecordKind::RowDelete,
            3 => RecordKind::Append,
            4 => RecordKind::Refused,
            5 => RecordKind::Completed,
            6 => RecordKind::CheckpointRecord,
            7 => RecordKind::RecoveryRecord,
            8 => RecordKind::TenantCreated,
            9 => RecordKind::CatalogChange,
            10 => RecordKind::HeadAttested,
            _ => return None,
        })
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RecordKind::RowPut => "row_put",
            RecordKind::RowDelete => "row_delete",
            RecordKind::Append => "append",
            RecordKind::Refused => "refused",
            RecordKind::Completed => "completed",
            RecordKind::CheckpointRecord => "checkpoint_record",
            RecordKind::RecoveryRecord => "recovery_record",
            RecordKind::TenantCreated => "tenant_created",
            RecordKind::CatalogChange => "catalog_change",
            RecordKind::HeadAttested => "head_attested",
        }
    }
}

/// What a record says about itself in clear. It outlives erasure: nothing personal belongs here.
///
/// ```text
/// offset size field
///      0    8 position           dense from 0, also the leaf index
///      8    8 tenant
///     16    8 op                 the prepare that made it
///     24    8 generation
///     32    8 timestamp          ns since the Unix epoch, from the prepare
///     40    8 transaction_first  first position of its transaction
///     48    8 transaction_last   last position of its transaction
///     56    4 stream
///     60    2 kind               `RecordKind`
///     62    4 key                data key that sealed `data`
///     66    8 principal          who asked
///     74    8 caused_by          position of the record that caused it; all ones for none
///     82   16 idempotency        all zeros for none
///     98    4 schema_version
///    102   32 commitment         over the salted column hashes
///    134    4 data_length        tag included
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub position: Position,
    pub tenant: TenantId,
    pub op: Op,
    pub generation: Generation,
    pub timestamp: Timestamp,
    pub transaction_first: Position,
    pub transaction_last: Position,
    pub stream: StreamId,
    pub kind: RecordKind,
    pub key: KeyId,
    pub principal: PrincipalId,
    pub caused_by: Option<Position>,
    pub idempotency: IdempotencyId,
    pub schema_version: SchemaVersion,
    pub commitment: ChainHash,
    pub data_length: u32,
}

impl Metadata {
    #[must_use]
    pub fn encode(&self) -> [u8; METADATA_SIZE] {
        assert!(self.caused_by.is_none_or(|position| position.get() != CAUSED_BY_NONE));
        let mut bytes = [0; METADATA_SIZE];
        let mut out = Writer { bytes: &mut bytes, at: 0 };
        out.u64(self.position.get());
        out.u64(self.tenant.get());
        out.u64(self.op.get());
        out.u64(self.generation.get());
        out.u64(self.timestamp.0);
        out.u64(self.transaction_first.get());
        out.u64(self.transaction_last.get());
        out.u32(self.stream.get());
        out.put(&self.kind.number().to_le_bytes());
        out.u32(self.key.get());
        out.u64(self.principal.get());
        out.u64(self.caused_by.map_or(CAUSED_BY_NONE, Position::get));
        out.put(&self.idempotency.0);
        out.u32(self.schema_version.get());
        out.put(&self.commitment.0);
        out.u32(self.data_length);
        assert!(out.at == METADATA_SIZE);
        bytes
    }

    /// The fields, if `kind` is known; nothing else can be wrong with them alone.
    #[must_use]
    pub fn decode(bytes: &[u8; METADATA_SIZE]) -> Option<Metadata> {
        let mut from = Reader { bytes, at: 0 };
        let metadata = Metadata {
            position: Position::new(from.u64()),
            tenant: TenantId::new(from.u64()),
            op: Op::new(from.u64()),
            generation: Generation::new(from.u64()),
            timestamp: Timestamp(from.u64()),
            transaction_first: Position::new(from.u64()),
            transaction_last: Position::new(from.u64()),
            stream: StreamId::new(from.u32()),
            kind: RecordKind::from_number(u16::from_le_bytes(from.take()))?,
            key: KeyId::new(from.u32()),
            principal: PrincipalId::new(from.u64()),
            caused_by: Some(from.u64()).filter(|&at| at != CAUSED_BY_NONE).map(Position::new),
            idempotency: IdempotencyId(from.take()),
            schema_version: SchemaVersion::new(from.u32()),
            commitment: ChainHash(from.take()),
            data_length: from.u32(),
        };
        assert!(from.at == METADATA_SIZE);
        Some(metadata)
    }

    /// Bytes of the whole record on disk.
    #[must_use]
    pub fn record_size(&self) -> usize {
        HEADER_SIZE + self.data_length as usize
    }
}

/// A record, owned. `data` is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub prev_hash: ChainHash,
    pub metadata: Metadata,
    pub data: Vec<u8>,
}

impl Record {
    /// The link of the chain, and the leaf data of the tree.
    #[must_use]
    pub fn hash(&self) -> ChainHash {
        record_hash(&self.prev_hash, &self.metadata.encode(), &self.data)
    }
}

/// A record within a buffer, checked as far as it alone can be.
#[derive(Clone, Debug)]
pub struct RecordRef<'a> {
    pub prev_hash: ChainHash,
    pub metadata: Metadata,
    pub data: &'a [u8],
    /// Computed from the bytes just read.
    pub hash: ChainHash,
}

impl RecordRef<'_> {
    #[must_use]
    pub fn to_record(&self) -> Record {
        Record {
            prev_hash: self.prev_hash,
            metadata: self.metadata.clone(),
            data: self.data.to_vec(),
        }
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// `length` is below the smallest or above the largest record.
    Length { length: u32 },
    /// `length` and `data_length` contradict each other.
    DataLength { length: u32, data_length: u32 },
    /// The bytes are not those that were written.
    Crc { stored: u32, computed: u32 },
    /// A kind that this release does not know.
    Kind { kind: u16 },
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RecordError::Length { length } => write!(f, "impossible record length {length}"),
            RecordError::DataLength { length, data_length } => {
                write!(f, "record length {length} contradicts data length {data_length}")
            }
            RecordError::Crc { stored, computed } => {
                write!(f, "crc32 is {computed:08x}, recorded {stored:08x}")
            }
            RecordError::Kind { kind } => write!(f, "unknown record kind {kind}"),
        }
    }
}

/// SHA-256(prev_hash ‖ metadata ‖ data).
#[must_use]
pub fn record_hash(
    prev_hash: &ChainHash,
    metadata: &[u8; METADATA_SIZE],
    data: &[u8],
) -> ChainHash {
    ChainHash::of(&[&prev_hash.0, metadata, data])
}

/// Appends the record's bytes to `out`; gives its hash.
pub fn encode_record(
    prev_hash: &ChainHash,
    metadata: &Metadata,
    data: &[u8],
    out: &mut Vec<u8>,
) -> ChainHash {
    assert!(metadata.data_length as usize == data.len());
    assert!(data.len() <= LOG_RECORD_DATA_SIZE_MAX);
    let fields = metadata.encode();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&prev_hash.0);
    crc.update(&fields);
    crc.update(data);
    let Ok(length) = u32::try_from(metadata.record_size()) else {
        unreachable!("bounded by RECORD_SIZE_MAX")
    };
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&prev_hash.0);
    out.extend_from_slice(&fields);
    out.extend_from_slice(data);
    record_hash(prev_hash, &fields, data)
}

/// Size of the record that starts with these four bytes.
pub fn decode_length(bytes: [u8; 4]) -> Result<usize, RecordError> {
    let length = u32::from_le_bytes(bytes);
    let size = length as usize;
    if (HEADER_SIZE..=RECORD_SIZE_MAX).contains(&size) {
        Ok(size)
    } else {
        Err(RecordError::Length { length })
    }
}

/// A record from exactly its bytes, as many as [`decode_length`] says.
pub fn decode_record(bytes: &[u8]) -> Result<RecordRef<'_>, RecordError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_SIZE>() else {
        return Err(RecordError::Length { length: 0 });
    };
    let Some((fields, data)) = rest.split_first_chunk::<METADATA_SIZE>() else {
        return Err(RecordError::Length { length: 0 });
    };
    let mut from = Reader { bytes: prefix, at: 0 };
    let (length, stored, prev) = (from.u32(), from.u32(), from.take());
    let computed = crc32fast::hash(&bytes[8..]);
    #[cfg(verity_zoo)]
    let computed = if crate::zoo::is("crc_skipped") { stored } else { computed };
    if stored != computed {
        return Err(RecordError::Crc { stored, computed });
    }
    let Some(metadata) = Metadata::decode(fields) else {
        let kind = u16::from_le_bytes([fields[60], fields[61]]);
        return Err(RecordError::Kind { kind });
    };
    // `length` is not under the crc: it is checked against what is.
    let size = metadata.record_size();
    if size != bytes.len() || size != length as usize {
        return Err(RecordError::DataLength { length, data_length: metadata.data_length });
    }
    let prev_hash = ChainHash(prev);
    let hash = record_hash(&prev_hash, fields, data);
    Ok(RecordRef { prev_hash, metadata, data, hash })
}

/// What the beginning of a record says, however much of it follows; unchecked.
pub fn decode_prefix(bytes: &[u8]) -> Option<(ChainHash, Metadata)> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_SIZE>()?;
    let prev_hash = ChainHash(Reader { bytes: prefix, at: 8 }.take());
    Some((prev_hash, Metadata::decode(rest.first_chunk::<METADATA_SIZE>()?)?))
}

/// Seals `plain` in place into `data` (ciphertext ‖ tag) and sets `metadata.data_length`.
///
/// The nonce is the position, the additional data is the metadata as encoded: a record opens only
/// at its own place with its own metadata. Sealing is deterministic.
pub fn seal_record(key: &RecordKey, metadata: &mut Metadata, plain: &mut Vec<u8>) {
    assert!(plain.len() + TAG_SIZE <= LOG_RECORD_DATA_SIZE_MAX);
    let Ok(length) = u32::try_from(plain.len() + TAG_SIZE) else {
        unreachable!("bounded by LOG_RECORD_DATA_SIZE_MAX")
    };
    metadata.data_length = length;
    let tag = key.seal(metadata.position, &metadata.encode(), plain);
    plain.extend_from_slice(&tag.0);
}

/// The plaintext of a record's data.
pub fn open_record(
    key: &RecordKey,
    metadata: &Metadata,
    data: &[u8],
) -> Result<Vec<u8>, SealError> {
    let Some((cipher, tag)) = data.split_last_chunk::<TAG_SIZE>() else {
        return Err(SealError);
    };
    let mut plain = cipher.to_vec();
    key.open(metadata.position, &metadata.encode(), &mut plain, &Tag(*tag))?;
    Ok(plain)
}

/// Fills a fixed array front to back.
pub(super) struct Writer<'a> {
    pub bytes: &'a mut [u8],
    pub at: usize,
}

impl Writer<'_> {
    pub fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    pub fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

/// Reads a slice front to back; the caller has checked that it is long enough.
pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Reader<'_> {
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        field
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
