//! Replica messages: 224 bytes of header, then the body.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 32 | checksum: BLAKE3 (domain replica header) over bytes 32..224 |
//! | 32 | 32 | checksum of the body: BLAKE3 (domain replica body) |
//! | 64 | 16 | cluster |
//! | 80 | 8 | view of the sender |
//! | 88 | 4 | size of the body |
//! | 92 | 4 | release of the sender |
//! | 96 | 1 | kind |
//! | 97 | 1 | sender |
//! | 98 | 6 | zeros |
//! | 104 | 32 | hash; its meaning is the kind's |
//! | 136 | 88 | eleven numbers; their meaning is the kind's |
//!
//! Which fields a kind uses is one table, [`Kind::shape`]; the rest must be zero. What the fields
//! say is parsed by `vsr::message`.

use alloc::vec::Vec;

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::{self, FrameError};
use crate::crypto::hash::{InternalDomain, InternalHash};
use crate::crypto::signature::SIGNATURE_SIZE;
use crate::ids::{ClusterId, Release, ReplicaId, View};
use crate::limits::{
    FRAME_PAYLOAD_SIZE_MAX, KEY_ENTRY_SIZE, KEYS_PER_TENANT_MAX, MESSAGE_HEADERS_MAX, PAGE_SIZE,
    PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX, REPLICA_COUNT_MAX, REPLICA_MESSAGE_HEADER_SIZE,
    SYNC_BLOCKS_MAX, SYNC_CHECKPOINT_SIZE, SYNC_PAGES_MAX,
};

/// Numbers in the header of a message.
pub const NUMBERS: usize = 11;

/// What a message is for; see `docs/VSR.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ping,
    Pong,
    Prepare,
    PrepareOk,
    Commit,
    StartViewChange,
    DoViewChange,
    StartView,
    RequestStartView,
    RequestHeaders,
    Headers,
    RequestPrepare,
    RequestCheckpoint,
    Checkpoint,
    RequestPages,
    Pages,
    RequestBlocks,
    Blocks,
    KeepKeys,
    KeysKept,
    RequestKeys,
    Keys,
    RequestCosignature,
    Cosignature,
}

/// As the protocol's papers write it: `do-view-change`.
impl core::fmt::Display for Kind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Prepare => "prepare",
            Kind::PrepareOk => "prepare-ok",
            Kind::Commit => "commit",
            Kind::StartViewChange => "start-view-change",
            Kind::DoViewChange => "do-view-change",
            Kind::StartView => "start-view",
            Kind::RequestStartView => "request-start-view",
            Kind::RequestHeaders => "request-headers",
            Kind::Headers => "headers",
            Kind::RequestPrepare => "request-prepare",
            Kind::RequestCheckpoint => "request-checkpoint",
            Kind::Checkpoint => "checkpoint",
            Kind::RequestPages => "request-pages",
            Kind::Pages => "pages",
            Kind::RequestBlocks => "request-blocks",
            Kind::Blocks => "blocks",
            Kind::KeepKeys => "keep-keys",
            Kind::KeysKept => "keys-kept",
            Kind::RequestKeys => "request-keys",
            Kind::Keys => "keys",
            Kind::RequestCosignature => "request-cosignature",
            Kind::Cosignature => "cosignature",
        })
    }
}

/// What the body of a kind must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyShape {
    Empty,
    /// One prepare: header and body, without padding.
    Prepare,
    /// Prepare headers, one after the other; perhaps none.
    Headers,
    /// One checkpoint, as `superblock::encode_checkpoint` makes it.
    Checkpoint,
    /// Names of pages, one after the other, at least one: page u32, zeros u32, checkpoint op u64.
    PageNames,
    /// Each page behind its name; perhaps none.
    Pages,
    /// Blocks of a segment, one after the other; perhaps none.
    Blocks,
    /// Entries as in the keys file: a KEK, sealed for the way, and data keys.
    Keys,
    /// An Ed25519 key and its signature.
    Cosignature,
}

/// Bytes of a public key and a signature.
pub const COSIGNATURE_SIZE: usize = 32 + SIGNATURE_SIZE;

/// Bytes of a page's name.
pub const PAGE_NAME_SIZE: usize = 16;

/// Which fields of the header a kind uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The first so many numbers.
    pub numbers: usize,
    pub hash: bool,
    pub body: BodyShape,
}

impl Kind {
    pub const ALL: [Kind; 24] = [
        Kind::Ping,
        Kind::Pong,
        Kind::Prepare,
        Kind::PrepareOk,
        Kind::Commit,
        Kind::StartViewChange,
        Kind::DoViewChange,
        Kind::StartView,
        Kind::RequestStartView,
        Kind::RequestHeaders,
        Kind::Headers,
        Kind::RequestPrepare,
        Kind::RequestCheckpoint,
        Kind::Checkpoint,
        Kind::RequestPages,
        Kind::Pages,
        Kind::RequestBlocks,
        Kind::Blocks,
        Kind::KeepKeys,
        Kind::KeysKept,
        Kind::RequestKeys,
        Kind::Keys,
        Kind::RequestCosignature,
        Kind::Cosignature,
    ];

    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Kind::Ping => 1,
            Kind::Pong => 2,
            Kind::Prepare => 3,
            Kind::PrepareOk => 4,
            Kind::Commit => 5,
            Kind::StartViewChange => 6,
            Kind::DoViewChange => 7,
            Kind::StartView => 8,
            Kind::RequestStartView => 9,
            Kind::RequestHeaders => 10,
            Kind::Headers => 11,
            Kind::RequestPrepare => 12,
            Kind::RequestCheckpoint => 13,
            Kind::Checkpoint => 14,
            Kind::RequestPages => 15,
            Kind::Pages => 16,
            Kind::RequestBlocks => 17,
            Kind::Blocks => 18,
            Kind::KeepKeys => 19,
            Kind::KeysKept => 20,
            Kind::RequestKeys => 21,
            Kind::Keys => 22,
            Kind::RequestCosignature => 23,
            Kind::Cosignature => 24,
        }
    }

    #[must_use]
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    #[must_use]
    pub const fn shape(self) -> Shape {
        let (numbers, hash, body) = match self {
            Kind::Ping => (7, false, BodyShape::Empty),
            Kind::Pong => (10, false, BodyShape::Empty),
            Kind::Prepare => (1, false, BodyShape::Prepare),
            Kind::PrepareOk => (3, true, BodyShape::Empty),
            Kind::Commit => (3, true, BodyShape::Empty),
            Kind::StartViewChange => (0, false, BodyShape::Empty),
            Kind::DoViewChange => (11, true, BodyShape::Headers),
            Kind::StartView => (3, true, BodyShape::Headers),
            Kind::RequestStartView => (1, false, BodyShape::Empty),
            Kind::RequestHeaders => (2, true, BodyShape::Empty),
            Kind::Headers => (0, false, BodyShape::Headers),
            Kind::RequestPrepare => (1, true, BodyShape::Empty),
            Kind::RequestCheckpoint => (0, false, BodyShape::Empty),
            Kind::Checkpoint => (0, false, BodyShape::Checkpoint),
            Kind::RequestPages => (1, false, BodyShape::PageNames),
            Kind::Pages => (2, false, BodyShape::Pages),
            Kind::RequestBlocks => (6, false, BodyShape::Empty),
            Kind::Blocks => (2, false, BodyShape::Blocks),
            Kind::KeepKeys | Kind::Keys => (1, true, BodyShape::Keys),
            Kind::KeysKept | Kind::RequestKeys => (1, true, BodyShape::Empty),
            Kind::RequestCosignature => (2, true, BodyShape::Empty),
            Kind::Cosignature => (2, true, BodyShape::Cosignature),
        };
        Shape { numbers, hash, body }
    }
}

/// A message between replicas; the meaning of hash, numbers and body is the kind's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaMessage<'a> {
    pub kind: Kind,
    pub from: ReplicaId,
    pub cluster: ClusterId,
    pub view: View,
    pub release: Release,
    pub hash: InternalHash,
    pub numbers: [u64; NUMBERS],
    pub body: &'a [u8],
}

/// Why bytes are no replica message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    Frame(FrameError),
    /// The frame is not whole, or something follows it.
    FrameSize,
    Short {
        found: usize,
    },
    HeaderChecksum,
    BodyChecksum,
    /// The body is not as long as the header says.
    BodySize {
        found: usize,
        expected: u32,
    },
    UnknownKind {
        code: u8,
    },
    NoSuchReplica {
        replica: u8,
    },
    /// Of another cluster: a wrong address.
    OtherCluster {
        found: ClusterId,
    },
    /// The kind does not use this field, and it is not zero.
    Unused {
        kind: Kind,
        field: &'static str,
    },
    /// The body cannot be one of this kind.
    BodyShape {
        kind: Kind,
    },
    /// The values of a field cannot be.
    Value {
        kind: Kind,
        what: &'static str,
    },
}

impl core::fmt::Display for MessageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            MessageError::Frame(error) => error.fmt(f),
            MessageError::FrameSize => f.write_str("not one whole frame"),
            MessageError::Short { found } => write!(f, "a message of only {found} bytes"),
            MessageError::HeaderChecksum => f.write_str("header checksum"),
            MessageError::BodyChecksum => f.write_str("body checksum"),
            MessageError::BodySize { found, expected } => {
                write!(f, "a body of {found} bytes, the header says {expected}")
            }
            MessageError::UnknownKind { code } => write!(f, "unknown kind {code}"),
            MessageError::NoSuchReplica { replica } => write!(f, "no replica {replica}"),
            MessageError::OtherCluster { found } => write!(
                f,
                "from a replica of cluster {:032x}: one of the addresses is of another cluster",
                found.get(),
            ),
            MessageError::Unused { kind, field } => write!(f, "a message {kind} has no {field}"),
            MessageError::BodyShape { kind } => write!(f, "no body of a message {kind}"),
            MessageError::Value { kind, what } => write!(f, "a message {kind}: {what}"),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawMessage {
    checksum: [u8; 32],
    checksum_body: [u8; 32],
    cluster: U128,
    view: U64,
    size: U32,
    release: U32,
    kind: u8,
    from: u8,
    zeros: [u8; 6],
    hash: [u8; 32],
    numbers: [U64; NUMBERS],
}

const_assert_eq!(size_of::<RawMessage>(), REPLICA_MESSAGE_HEADER_SIZE);
const_assert_eq!(core::mem::offset_of!(RawMessage, checksum_body), COVERED_FROM);
const_assert_eq!(core::mem::offset_of!(RawMessage, numbers), 136);
const_assert_eq!(FRAME_PAYLOAD_SIZE_MAX, REPLICA_MESSAGE_HEADER_SIZE + PREPARE_SIZE_MAX);

/// Where the header checksum's coverage begins.
const COVERED_FROM: usize = 32;

/// The message in a frame, ready to send.
#[must_use]
pub fn encode(message: &ReplicaMessage<'_>) -> Vec<u8> {
    assert_eq!(check_shape(message), Ok(()), "only what could be decoded is sent");
    let Ok(size) = u32::try_from(message.body.len()) else { unreachable!("checked above") };
    let mut raw = RawMessage {
        checksum: [0; 32],
        checksum_body: InternalHash::of(InternalDomain::ReplicaBody, &[message.body]).0,
        cluster: U128::new(message.cluster.get()),
        view: U64::new(message.view.get()),
        size: U32::new(size),
        release: U32::new(message.release.get()),
        kind: message.kind.code(),
        from: message.from.get(),
        zeros: [0; 6],
        hash: message.hash.0,
        numbers: message.numbers.map(U64::new),
    };
    raw.checksum = covered_hash(&raw).0;
    let mut bytes = frame::begin(REPLICA_MESSAGE_HEADER_SIZE + message.body.len());
    bytes.extend_from_slice(raw.as_bytes());
    bytes.extend_from_slice(message.body);
    frame::seal(&mut bytes);
    bytes
}

/// The message of exactly one frame.
pub fn decode_frame(
    bytes: &[u8],
    cluster: ClusterId,
    replica_count: u8,
) -> Result<ReplicaMessage<'_>, MessageError> {
    match frame::decode(bytes).map_err(MessageError::Frame)? {
        Some(frame) if frame.size == bytes.len() => decode(frame.payload, cluster, replica_count),
        Some(_) | None => Err(MessageError::FrameSize),
    }
}

/// The message in the payload of a frame, from a replica of this cluster.
pub fn decode(
    payload: &[u8],
    cluster: ClusterId,
    replica_count: u8,
) -> Result<ReplicaMessage<'_>, MessageError> {
    let Ok((raw, body)) = RawMessage::ref_from_prefix(payload) else {
        return Err(MessageError::Short { found: payload.len() });
    };
    if covered_hash(raw).0 != raw.checksum {
        return Err(MessageError::HeaderChecksum);
    }
    if body.len() != raw.size.get() as usize {
        return Err(MessageError::BodySize { found: body.len(), expected: raw.size.get() });
    }
    if InternalHash::of(InternalDomain::ReplicaBody, &[body]).0 != raw.checksum_body {
        return Err(MessageError::BodyChecksum);
    }
    let found = ClusterId::new(raw.cluster.get());
    if found != cluster {
        return Err(MessageError::OtherCluster { found });
    }
    let Some(kind) = Kind::from_code(raw.kind) else {
        return Err(MessageError::UnknownKind { code: raw.kind });
    };
    if raw.from >= replica_count {
        return Err(MessageError::NoSuchReplica { replica: raw.from });
    }
    if raw.zeros != [0; 6] {
        return Err(MessageError::Unused { kind, field: "reserved bytes" });
    }
    let message = ReplicaMessage {
        kind,
        from: ReplicaId::new(raw.from),
        cluster,
        view: View::new(raw.view.get()),
        release: Release::new(raw.release.get()),
        hash: InternalHash(raw.hash),
        numbers: raw.numbers.map(U64::get),
        body,
    };
    check_shape(&message)?;
    Ok(message)
}

/// Whom the payload of a frame says it is from, before anything of it is checked: a link that hears
/// of another than its own peer is closed.
#[must_use]
pub fn claimed_sender(payload: &[u8]) -> Option<ReplicaId> {
    let (raw, _) = RawMessage::ref_from_prefix(payload).ok()?;
    Some(ReplicaId::new(raw.from))
}

fn check_shape(message: &ReplicaMessage<'_>) -> Result<(), MessageError> {
    let (kind, shape) = (message.kind, message.kind.shape());
    if usize::from(message.from.get()) >= REPLICA_COUNT_MAX {
        return Err(MessageError::NoSuchReplica { replica: message.from.get() });
    }
    if message.numbers[shape.numbers..].iter().any(|&number| number != 0) {
        return Err(MessageError::Unused { kind, field: "more numbers" });
    }
    if !shape.hash && message.hash != InternalHash::ZERO {
        return Err(MessageError::Unused { kind, field: "hash" });
    }
    let size = message.body.len();
    let fits = match shape.body {
        BodyShape::Empty => size == 0,
        BodyShape::Prepare => (PREPARE_HEADER_SIZE..=PREPARE_SIZE_MAX).contains(&size),
        BodyShape::Headers => {
            size.is_multiple_of(PREPARE_HEADER_SIZE)
                && size / PREPARE_HEADER_SIZE <= MESSAGE_HEADERS_MAX
        }
        BodyShape::Checkpoint => size == SYNC_CHECKPOINT_SIZE,
        BodyShape::PageNames => size > 0 && fits_units(size, PAGE_NAME_SIZE, SYNC_PAGES_MAX),
        BodyShape::Pages => fits_units(size, PAGE_NAME_SIZE + PAGE_SIZE, SYNC_PAGES_MAX),
        BodyShape::Blocks => fits_units(size, PAGE_SIZE, SYNC_BLOCKS_MAX),
        BodyShape::Cosignature => size == COSIGNATURE_SIZE,
        BodyShape::Keys => {
            size > KEY_ENTRY_SIZE && fits_units(size, KEY_ENTRY_SIZE, KEYS_PER_TENANT_MAX)
        }
    };
    if fits { Ok(()) } else { Err(MessageError::BodyShape { kind }) }
}

fn fits_units(size: usize, unit: usize, max: usize) -> bool {
    size.is_multiple_of(unit) && size / unit <= max
}

fn covered_hash(raw: &RawMessage) -> InternalHash {
    InternalHash::of(InternalDomain::ReplicaHeader, &[&raw.as_bytes()[COVERED_FROM..]])
}
