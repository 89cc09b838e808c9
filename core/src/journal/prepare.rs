//! A prepare: 256 bytes of header, then the body, padded with zeros to whole pages.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 32 | checksum: BLAKE3 (domain prepare header) over bytes 32..256 |
//! | 32 | 32 | checksum of the body: BLAKE3 (domain prepare body) |
//! | 64 | 32 | parent: checksum of the header of op - 1 |
//! | 96 | 16 | cluster |
//! | 112 | 8 | op |
//! | 120 | 8 | view it was proposed in |
//! | 128 | 8 | commit: highest op committed when it was proposed |
//! | 136 | 8 | checkpoint op: newest checkpoint or shutdown op before this one |
//! | 144 | 8 | checkpoint durable: newest checkpoint that a quorum had durable |
//! | 152 | 8 | timestamp, ns since 1970 |
//! | 160 | 8 | generation: recovery ops before this one |
//! | 168 | 8 | journal offset: where it begins in the journal's endless sequence of bytes |
//! | 176 | 4 | size of header and body |
//! | 180 | 2 | requests in the body |
//! | 182 | 1 | operation |
//! | 183 | 1 | replica that proposed it |
//! | 184 | 4 | release that proposed it |
//! | 188 | 68 | zeros |
//!
//! Invariants: decode and encode are inverse; a decoded [`PrepareHeader`] has a right checksum and
//! values that can be; `parent` chains every prepare to the one before it, so that a prepare of
//! another history never joins.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crypto::hash::{InternalDomain, InternalHash};
use crate::ids::{ClusterId, Generation, Op, Release, ReplicaId, View};
use crate::io::Pages;
use crate::limits::{
    PAGE_SIZE, PREPARE_HEADER_SIZE, PREPARE_REQUESTS_MAX, PREPARE_SIZE_MAX, REPLICA_COUNT_MAX,
};
use crate::time::Timestamp;

/// What a prepare asks the state machine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Op 0, never written: the parent of op 1.
    Root,
    /// First op of every view (with one replica: of every open).
    Recovery,
    /// Lowered, sealed requests of clients.
    Requests,
    /// Write the state after this op to the grid and the segments.
    Checkpoint,
    /// A checkpoint that first appends a checkpoint record to every log that has news.
    Shutdown,
}

impl Operation {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Operation::Root => 0,
            Operation::Recovery => 1,
            Operation::Requests => 2,
            Operation::Checkpoint => 3,
            Operation::Shutdown => 4,
        }
    }

    #[must_use]
    pub const fn from_code(code: u8) -> Option<Operation> {
        match code {
            0 => Some(Operation::Root),
            1 => Some(Operation::Recovery),
            2 => Some(Operation::Requests),
            3 => Some(Operation::Checkpoint),
            4 => Some(Operation::Shutdown),
            5.. => None,
        }
    }

    /// Whether a checkpoint is taken after it.
    #[must_use]
    pub const fn is_checkpoint(self) -> bool {
        match self {
            Operation::Checkpoint | Operation::Shutdown => true,
            Operation::Root | Operation::Recovery | Operation::Requests => false,
        }
    }
}

/// All that apply may know besides the body. Plain values; [`PrepareHeader::decode`] is the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareHeader {
    pub checksum: InternalHash,
    pub checksum_body: InternalHash,
    pub parent: InternalHash,
    pub cluster: ClusterId,
    pub op: Op,
    pub view: View,
    pub commit: Op,
    pub checkpoint_op: Op,
    pub checkpoint_durable: Op,
    pub timestamp: Timestamp,
    pub generation: Generation,
    pub journal_offset: u64,
    /// Bytes of header and body, without padding.
    pub size: u32,
    pub requests: u16,
    pub operation: Operation,
    pub replica: ReplicaId,
    pub release: Release,
}

/// Why bytes are no prepare, or not the one that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareError {
    HeaderChecksum,
    /// The checksum is right but the values cannot be.
    HeaderMalformed(&'static str),
    /// A good header, but not the one that its parent names.
    OtherPrepare {
        found: Op,
    },
    BodyChecksum,
    /// The rest of the last page is not zero.
    Padding,
    /// Fewer bytes than the header says.
    Short,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    checksum: [u8; 32],
    checksum_body: [u8; 32],
    parent: [u8; 32],
    cluster: U128,
    op: U64,
    view: U64,
    commit: U64,
    checkpoint_op: U64,
    checkpoint_durable: U64,
    timestamp: U64,
    generation: U64,
    journal_offset: U64,
    size: U32,
    requests: U16,
    operation: u8,
    replica: u8,
    release: U32,
    zeros: [u8; 68],
}

const_assert_eq!(size_of::<RawHeader>(), PREPARE_HEADER_SIZE);
const_assert_eq!(align_of::<RawHeader>(), 1);
const_assert_eq!(core::mem::offset_of!(RawHeader, checksum_body), COVERED_FROM);
const_assert_eq!(core::mem::offset_of!(RawHeader, size), 176);

/// Where the header checksum's coverage begins.
const COVERED_FROM: usize = 32;

impl PrepareHeader {
    /// The header of op 0 of a cluster: it is in no ring, but op 1 names it as its parent.
    #[must_use]
    pub fn root(cluster: ClusterId) -> PrepareHeader {
        let mut header = PrepareHeader {
            checksum: InternalHash::ZERO,
            checksum_body: InternalHash::of(InternalDomain::PrepareBody, &[]),
            parent: InternalHash::ZERO,
            cluster,
            op: Op::ZERO,
            view: View::ZERO,
            commit: Op::ZERO,
            checkpoint_op: Op::ZERO,
            checkpoint_durable: Op::ZERO,
            timestamp: Timestamp(0),
            generation: Generation::ZERO,
            journal_offset: 0,
            size: PREPARE_HEADER_SIZE as u32,
            requests: 0,
            operation: Operation::Root,
            replica: ReplicaId::ZERO,
            release: Release::ZERO,
        };
        header.seal();
        header
    }

    /// Computes the checksum, once all other fields are right.
    pub fn seal(&mut self) {
        self.checksum = covered_hash(&raw_of(self));
    }

    /// Bytes in the ring: whole pages.
    #[must_use]
    pub fn padded_bytes(&self) -> u64 {
        u64::from(self.size).next_multiple_of(PAGE_SIZE as u64)
    }

    /// Where it ends, and the next may begin.
    #[must_use]
    pub fn journal_end(&self) -> u64 {
        self.journal_offset + self.padded_bytes()
    }

    #[must_use]
    pub fn encode(&self) -> [u8; PREPARE_HEADER_SIZE] {
        let raw = raw_of(self);
        debug_assert_eq!(covered_hash(&raw), self.checksum, "sealed before it is written");
        let mut bytes = [0; PREPARE_HEADER_SIZE];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Parses the first 256 bytes.
    pub fn decode(bytes: &[u8]) -> Result<PrepareHeader, PrepareError> {
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else {
            return Err(PrepareError::Short);
        };
        if covered_hash(raw).0 != raw.checksum {
            return Err(PrepareError::HeaderChecksum);
        }
        if raw.zeros.iter().any(|&byte| byte != 0) {
            return Err(PrepareError::HeaderMalformed("reserved bytes are not zero"));
        }
        let Some(operation) = Operation::from_code(raw.operation) else {
            return Err(PrepareError::HeaderMalformed("unknown operation"));
        };
        let header = header_of(raw, operation);
        header.check_values()?;
        Ok(header)
    }

    /// Are these the bytes of a prepare of this op at this place, or what damage left of them? What
    /// flips bits leaves most of a header as it was: the parent's checksum, or op and place.
    pub(super) fn resembles(
        bytes: &[u8],
        cluster: ClusterId,
        op: Op,
        parent: &InternalHash,
        offset: u64,
    ) -> bool {
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else { return false };
        let same_place = raw.op.get() == op.get() && raw.journal_offset.get() == offset;
        raw.parent == parent.0 || (same_place && raw.cluster.get() == cluster.get())
    }

    fn check_values(&self) -> Result<(), PrepareError> {
        let size = self.size as usize;
        if !(PREPARE_HEADER_SIZE..=PREPARE_SIZE_MAX).contains(&size) {
            return Err(PrepareError::HeaderMalformed("size out of range"));
        }
        if !self.journal_offset.is_multiple_of(PAGE_SIZE as u64) {
            return Err(PrepareError::HeaderMalformed("journal offset is not page aligned"));
        }
        if self.op != Op::ZERO && self.commit >= self.op {
            return Err(PrepareError::HeaderMalformed("commit is not below op"));
        }
        if self.checkpoint_durable > self.checkpoint_op || self.checkpoint_op > self.op {
            return Err(PrepareError::HeaderMalformed("checkpoints out of order"));
        }
        if usize::from(self.requests) > PREPARE_REQUESTS_MAX {
            return Err(PrepareError::HeaderMalformed("too many requests"));
        }
        if usize::from(self.replica.get()) >= REPLICA_COUNT_MAX {
            return Err(PrepareError::HeaderMalformed("no such replica"));
        }
        Ok(())
    }
}

/// A header and the pages that begin with it.
#[derive(Debug)]
pub struct Prepare {
    header: PrepareHeader,
    pages: Pages,
}

impl Prepare {
    /// Takes what was read where `header` says: the very same prepare, or an error.
    pub fn from_pages(header: &PrepareHeader, pages: Pages) -> Result<Prepare, PrepareError> {
        let found = PrepareHeader::decode(pages.as_bytes())?;
        if found != *header {
            return Err(PrepareError::OtherPrepare { found: found.op });
        }
        check_body(header, pages.as_bytes())?;
        Ok(Prepare { header: found, pages })
    }

    /// What was written, back from the disk's driver.
    pub(super) fn written(header: PrepareHeader, pages: Pages) -> Prepare {
        assert_eq!(pages.size_bytes() as u64, header.padded_bytes());
        Prepare { header, pages }
    }

    #[must_use]
    pub fn header(&self) -> &PrepareHeader {
        &self.header
    }

    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.pages.as_bytes()[PREPARE_HEADER_SIZE..self.header.size as usize]
    }

    #[must_use]
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    #[must_use]
    pub fn into_pages(self) -> Pages {
        self.pages
    }
}

/// Checks body and padding of a prepare whose header is known, in bytes that begin with it.
pub fn check_body(header: &PrepareHeader, bytes: &[u8]) -> Result<(), PrepareError> {
    let Ok(padded) = usize::try_from(header.padded_bytes()) else {
        unreachable!("prepares are small")
    };
    let size = header.size as usize;
    let Some(bytes) = bytes.get(..padded) else {
        return Err(PrepareError::Short);
    };
    let body = &bytes[PREPARE_HEADER_SIZE..size];
    if InternalHash::of(InternalDomain::PrepareBody, &[body]) != header.checksum_body {
        return Err(PrepareError::BodyChecksum);
    }
    if bytes[size..].iter().any(|&byte| byte != 0) {
        return Err(PrepareError::Padding);
    }
    Ok(())
}

/// Whether the bytes begin with the very prepare of this header, whole.
pub(super) fn check_whole(header: &PrepareHeader, bytes: &[u8]) -> bool {
    PrepareHeader::decode(bytes) == Ok(*header) && check_body(header, bytes).is_ok()
}

/// A reusable buffer in which the body of a prepare grows, with room for the header before it.
#[derive(Debug)]
pub struct PrepareBuffer {
    pages: Pages,
    size: usize,
}

impl PrepareBuffer {
    /// An empty body; never allocates again.
    #[must_use]
    pub fn new() -> PrepareBuffer {
        PrepareBuffer::reuse(Pages::with_capacity(PREPARE_SIZE_MAX / PAGE_SIZE))
    }

    /// An empty body in pages that came back.
    #[must_use]
    pub fn reuse(mut pages: Pages) -> PrepareBuffer {
        pages.resize(1);
        PrepareBuffer { pages, size: PREPARE_HEADER_SIZE }
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        PREPARE_SIZE_MAX - self.size
    }

    /// Bytes of the body.
    #[must_use]
    pub fn len(&self) -> usize {
        self.size - PREPARE_HEADER_SIZE
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends to the body; the caller has asked for `room`.
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the body is full");
        let end = self.size + bytes.len();
        if end > self.pages.size_bytes() {
            self.pages.resize(end.div_ceil(PAGE_SIZE));
        }
        self.pages.as_bytes_mut()[self.size..end].copy_from_slice(bytes);
        self.size = end;
    }

    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.pages.as_bytes()[PREPARE_HEADER_SIZE..self.size]
    }

    pub fn body_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_bytes_mut()[PREPARE_HEADER_SIZE..self.size]
    }

    /// Drops what was pushed after the body had `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len());
        self.size = PREPARE_HEADER_SIZE + len;
    }

    #[must_use]
    pub fn into_pages(self) -> Pages {
        self.pages
    }

    /// Completes the prepare: sets size and both checksums, writes the header, zeroes the padding.
    #[must_use]
    pub fn finish(mut self, mut header: PrepareHeader) -> Prepare {
        let Ok(size) = u32::try_from(self.size) else { unreachable!("prepares are small") };
        header.size = size;
        header.checksum_body = InternalHash::of(InternalDomain::PrepareBody, &[self.body()]);
        header.seal();
        assert_eq!(header.check_values(), Ok(()));
        self.pages.resize(self.size.div_ceil(PAGE_SIZE));
        let bytes = self.pages.as_bytes_mut();
        bytes[..PREPARE_HEADER_SIZE].copy_from_slice(&header.encode());
        bytes[self.size..].fill(0);
        Prepare { header, pages: self.pages }
    }
}

impl Default for PrepareBuffer {
    fn default() -> PrepareBuffer {
        PrepareBuffer::new()
    }
}

fn covered_hash(raw: &RawHeader) -> InternalHash {
    InternalHash::of(InternalDomain::PrepareHeader, &[&raw.as_bytes()[COVERED_FROM..]])
}

fn raw_of(header: &PrepareHeader) -> RawHeader {
    RawHeader {
        checksum: header.checksum.0,
        checksum_body: header.checksum_body.0,
        parent: header.parent.0,
        cluster: U128::new(header.cluster.get()),
        op: U64::new(header.op.get()),
        view: U64::new(header.view.get()),
        commit: U64::new(header.commit.get()),
        checkpoint_op: U64::new(header.checkpoint_op.get()),
        checkpoint_durable: U64::new(header.checkpoint_durable.get()),
        timestamp: U64::new(header.timestamp.0),
        generation: U64::new(header.generation.get()),
        journal_offset: U64::new(header.journal_offset),
        size: U32::new(header.size),
        requests: U16::new(header.requests),
        operation: header.operation.code(),
        replica: header.replica.get(),
        release: U32::new(header.release.get()),
        ..RawHeader::new_zeroed()
    }
}

fn header_of(raw: &RawHeader, operation: Operation) -> PrepareHeader {
    PrepareHeader {
        checksum: InternalHash(raw.checksum),
        checksum_body: InternalHash(raw.checksum_body),
        parent: InternalHash(raw.parent),
        cluster: ClusterId::new(raw.cluster.get()),
        op: Op::new(raw.op.get()),
        view: View::new(raw.view.get()),
        commit: Op::new(raw.commit.get()),
        checkpoint_op: Op::new(raw.checkpoint_op.get()),
        checkpoint_durable: Op::new(raw.checkpoint_durable.get()),
        timestamp: Timestamp(raw.timestamp.get()),
        generation: Generation::new(raw.generation.get()),
        journal_offset: raw.journal_offset.get(),
        size: raw.size.get(),
        requests: raw.requests.get(),
        operation,
        replica: ReplicaId::new(raw.replica),
        release: Release::new(raw.release.get()),
    }
}
