//! The system of record: one append-only log of sealed records per tenant.
//!
//! Purpose: [`Logs`] appends records in memory, writes whole blocks behind, makes them durable at
//! checkpoints, and reads them back checked. [`SegmentVerifier`] checks a segment with no keys and
//! in constant memory.
//!
//! Invariants: positions are dense from 0, one per record; a position is the leaf index of the
//! tenant's RFC 6962 tree; record n holds the hash of record n − 1. Nothing below a checkpointed
//! head is ever written again. The bytes of a segment are a function of the records and of the ops
//! at which checkpoints were taken, so every replica, and every replay, writes the same.
//!
//! Fault model: a crash keeps any subset of what was not synced, so bytes past the checkpointed
//! head are garbage, which replay overwrites with what belongs there. Blocks rot, tear, stray:
//! every record is checked on read by its crc, its place, and its hash in the index; the index is
//! checked by its own crc, which binds it to the data directory, and is rebuilt from the segment
//! when damaged or missing, or when it contradicts the records; blocks of a segment are repaired
//! from peers, where there are any; there what cannot be read (EIO) counts as damaged. Any other
//! device error surfaces as [`LogError`]; the node then halts.
//!
//! Start reading at `record` (bytes of a record), `segment` (bytes of a file), `tail` (append),
//! `flush` (writing and checkpoints), `read`, `rebuild` (of an index), `mend` (of a segment, with
//! the blocks of a peer), `unreadable`, `scrub`, `beyond` (what is behind a head), `verifier`,
//! `index_check`.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::crypto::ChainHash;
use crate::event::Event;
use crate::ids::{OriginId, Position, SegmentNumber, TenantId};
use crate::io::{BlockByBlock, Effects, FileId, IoError, IoId, Owner, Pages};
use crate::limits::LOG_BUFFER_SIZE_MAX;

mod beyond;
mod blame;
mod cache;
mod checkpoint_record;
mod damage;
mod flush;
mod head;
mod index;
mod index_check;
mod mend;
mod node;
mod read;
mod rebuild;
mod record;
mod scrub;
mod segment;
mod tail;
mod unreadable;
mod verifier;

#[cfg(test)]
mod tests;

pub use beyond::{Beyond, LogEdge};
pub use checkpoint_record::{CheckpointRecord, CheckpointRecordError, StateRootAt};
pub use damage::{Damage, DamageReason};
pub use flush::LogCheckpoint;
pub use head::{LogHead, LogHeadError};
pub use index::{IndexEntry, IndexOf, entry_in_page, entry_place, page_is_good};
pub use index_check::{IndexCheck, ReadPage};
pub use mend::BlocksWanted;
pub use read::{LogFault, LogPins, LogScan, OpenClaim, VerifiedRead};
pub use record::{
    HEADER_SIZE, METADATA_SIZE, Metadata, Record, RecordError, RecordKind, RecordRef, open_record,
    seal_record,
};
pub use scrub::ScrubStep;
pub use segment::{SegmentHeader, SegmentHeaderError};
pub use verifier::{RecordView, SegmentEnd, SegmentExtent, SegmentStart, SegmentVerifier};

use cache::BlockCache;
use flush::{CheckpointWork, FileState, Purpose};
use index::Layout;
use mend::Repairs;
use read::{Header, Misses};
use rebuild::Rebuild;
use scrub::Scrub;
use tail::OpenLog;

/// What an append gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub position: Position,
    pub hash: ChainHash,
}

/// A disk failed the log. The node halts: nothing more can be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogError {
    pub file: FileId,
    pub error: IoError,
}

impl core::fmt::Display for LogError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.file {
            FileId::Segment { tenant, number } => write!(f, "log/{tenant}/{number:08}.segment")?,
            FileId::Index { tenant, number } => write!(f, "log/{tenant}/{number:08}.index")?,
            FileId::Superblock
            | FileId::Journal
            | FileId::Grid
            | FileId::Keys
            | FileId::Scratch => unreachable!("not a file of the log"),
        }
        write!(f, ": {}", self.error)
    }
}

impl core::error::Error for LogError {}

/// All logs of a replica: open tails, blocks on their way to disk, and a small cache of blocks.
///
/// A log is *open* from its first append until a checkpoint finds it quiet; the caller opens it
/// with the head from its tree of heads. Reads need no open log, only its head.
#[derive(Debug)]
pub struct Logs {
    segment_positions: u64,
    /// Index pages are bound to it.
    origin: OriginId,
    layout: Layout,
    open: BTreeMap<TenantId, OpenLog>,
    /// Bytes in memory that no completed write covers yet.
    buffered_bytes: usize,
    /// Runs that are complete and wait for a write, in order.
    runs_queued: VecDeque<(TenantId, u64)>,
    run_sequence: u64,
    /// Index pages that are full and wait for a write.
    pages_queued: VecDeque<(TenantId, SegmentNumber, u32)>,
    files: BTreeMap<FileId, FileState>,
    /// Effects without a completion yet.
    in_flight: BTreeMap<u64, Purpose>,
    /// Reads that are made again, by the one in flight.
    block_by_block: BTreeMap<u64, (Purpose, BlockByBlock)>,
    io_sequence: u64,
    checkpoint: Option<CheckpointWork>,
    cache: BlockCache,
    misses: RefCell<Misses>,
    /// Headers of indexes that were read since the start, the newest of them.
    headers: RefCell<BTreeMap<(TenantId, SegmentNumber), Header>>,
    rebuilds: BTreeMap<(TenantId, SegmentNumber), Rebuild>,
    /// Segments whose index was rebuilt since the start: it is right.
    rebuilt: BTreeSet<(TenantId, SegmentNumber)>,
    /// Segments whose index cannot be rebuilt, because they are damaged themselves.
    unbuildable: BTreeMap<(TenantId, SegmentNumber), Damage>,
    repairs: Repairs,
    scrub: Scrub,
    /// Marks of calls that have no effects to put them in.
    events: Vec<Event>,
    buffers: Vec<Pages>,
    buffers_bytes: usize,
    /// Bytes of copies whose writes are in flight.
    writing_bytes: usize,
    /// Records appended since the last checkpoint began.
    appended: u64,
}

impl Logs {
    /// `segment_positions` is a cluster constant; `origin` is that of the data directory.
    #[must_use]
    pub fn new(segment_positions: u64, origin: OriginId) -> Logs {
        Logs {
            segment_positions,
            origin,
            layout: Layout::new(segment_positions),
            open: BTreeMap::new(),
            buffered_bytes: 0,
            runs_queued: VecDeque::new(),
            run_sequence: 0,
            pages_queued: VecDeque::new(),
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            block_by_block: BTreeMap::new(),
            io_sequence: 0,
            checkpoint: None,
            cache: BlockCache::new(),
            misses: RefCell::new(Misses::default()),
            headers: RefCell::new(BTreeMap::new()),
            rebuilds: BTreeMap::new(),
            rebuilt: BTreeSet::new(),
            unbuildable: BTreeMap::new(),
            repairs: Repairs::default(),
            scrub: Scrub::default(),
            events: Vec::new(),
            buffers: Vec::new(),
            buffers_bytes: 0,
            writing_bytes: 0,
            appended: 0,
        }
    }

    /// Is the log of `tenant` ready for appends?
    #[must_use]
    pub fn is_open(&self, tenant: TenantId) -> bool {
        self.open.contains_key(&tenant)
    }

    /// Makes a log ready for appends. `head` comes from the tree of heads, as of a checkpoint, or
    /// is [`LogHead::empty`]. An open log stays as it is.
    pub fn open(&mut self, tenant: TenantId, head: LogHead) {
        assert!(head.segment_first.get().is_multiple_of(self.segment_positions));
        assert!(head.frontier.size() == head.next.get());
        self.open.entry(tenant).or_insert_with(|| OpenLog::new(head));
    }

    /// Where an open log stands. None: not open, the tree of heads is right.
    #[must_use]
    pub fn head(&self, tenant: TenantId) -> Option<&LogHead> {
        self.open.get(&tenant).map(|log| &log.head)
    }

    /// Bytes that may be appended before [`Logs::flush_step`] must have made room. A transaction
    /// may pass it by `LOG_BUFFER_SLACK`.
    #[must_use]
    pub fn room(&self) -> usize {
        LOG_BUFFER_SIZE_MAX.saturating_sub(self.buffered_bytes)
    }

    /// Records appended since the last checkpoint began: what a restart would have to append again.
    #[must_use]
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Bytes held, for the memory budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let spare: usize = self
            .open
            .values()
            .flat_map(|log| &log.runs)
            .map(|run| run.bytes.capacity() - run.bytes.len())
            .sum();
        self.buffered_bytes
            + spare
            + self.writing_bytes
            + self.buffers_bytes
            + self.cache.memory_bytes()
            + self.mended_bytes()
    }

    /// Half of the buffer is taken by unfinished blocks and pages, which only a checkpoint writes.
    #[must_use]
    pub fn checkpoint_wanted(&self) -> bool {
        self.runs_queued.is_empty()
            && self.pages_queued.is_empty()
            && self.buffered_bytes > LOG_BUFFER_SIZE_MAX / 2
    }

    /// The segment that holds a position.
    #[must_use]
    pub fn segment_of(&self, position: Position) -> SegmentNumber {
        let Ok(number) = u32::try_from(position.get() / self.segment_positions) else {
            unreachable!("2^32 segments outlast any disk")
        };
        SegmentNumber::new(number)
    }

    fn index_of(&self, tenant: TenantId, segment: SegmentNumber) -> IndexOf {
        IndexOf { origin: self.origin, tenant, segment }
    }

    #[must_use]
    pub fn segment_positions(&self) -> u64 {
        self.segment_positions
    }

    /// Nothing of the log is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.checkpoint.is_none()
    }

    fn io(&mut self, purpose: Purpose) -> IoId {
        self.io_sequence += 1;
        let before = self.in_flight.insert(self.io_sequence, purpose);
        assert!(before.is_none());
        IoId { owner: Owner::Log, slot: self.io_sequence }
    }

    fn take_purpose(&mut self, io: IoId) -> Purpose {
        assert!(io.owner == Owner::Log);
        let Some(purpose) = self.in_flight.remove(&io.slot) else {
            unreachable!("a completion belongs to an effect in flight")
        };
        purpose
    }

    fn drain_events(&mut self, effects: &mut Effects) {
        for event in self.events.drain(..) {
            effects.event(event);
        }
    }

    fn pages(&mut self, count: usize) -> Pages {
        let at = self.buffers.iter().position(|pages| pages.count() == count);
        let Some(at) = at else { return Pages::zeroed(count) };
        let pages = self.buffers.swap_remove(at);
        self.buffers_bytes -= pages.size_bytes();
        pages
    }

    fn give_back(&mut self, pages: Pages) {
        if self.buffers_bytes + pages.size_bytes() <= crate::limits::LOG_BUFFERS_KEPT_BYTES {
            self.buffers_bytes += pages.size_bytes();
            self.buffers.push(pages);
        }
    }
}
