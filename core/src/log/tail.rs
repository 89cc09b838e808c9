//! Appending: records into runs of blocks, entries and tiles into index pages, all in memory.
//!
//! A *run* is a stretch of whole blocks that will be one write; only the last run of a log grows.
//! An *index page* gathers slots; one that continues a page already on disk is filled up from there
//! before it is written (see `flush`).
//!
//! Invariants: an append reads nothing and fails never; what it writes depends on the head and the
//! record alone. Runs of a log follow each other without a gap up to the head.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::index::{self, IndexEntry, Slot, TILE_HEIGHT, TILE_LEVELS};
use super::record::{Metadata, RecordKind, encode_record};
use super::segment::{LENGTH_SIZE, SegmentHeader};
use super::{Appended, LogHead, Logs};
use crate::crypto::ChainHash;
use crate::crypto::merkle::leaf_hash;
use crate::event::Event;
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::Page;
use crate::limits::{
    LOG_BUFFER_SIZE_MAX, LOG_BUFFER_SLACK, LOG_RECORD_EXTRA_SIZE, LOG_RUN_RESERVED_SIZE,
    LOG_RUN_SIZE, LOG_RUNS_RESERVED_MAX, PAGE_SIZE,
};
use zerocopy::FromZeros;

/// A log that takes appends.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub head: LogHead,
    pub runs: VecDeque<Run>,
    pub pages: BTreeMap<(SegmentNumber, u32), IndexPage>,
    /// Appended to since the last `checkpoint_begin`.
    pub changed: bool,
    /// What of it a durable checkpoint covers, and the one under way.
    pub covered: Covered,
    pub covering: Option<Covered>,
}

/// How far a log goes in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    pub segment: SegmentNumber,
    /// Bytes of the segment.
    pub offset: u64,
    pub next: Position,
    pub chain: ChainHash,
}

impl Covered {
    pub fn of(head: &LogHead) -> Covered {
        let LogHead { segment, segment_offset, next, chain, .. } = *head;
        Covered { segment, offset: segment_offset, next, chain }
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub sequence: u64,
    pub segment: SegmentNumber,
    /// Byte of the segment where the run starts; a block boundary.
    pub start: u64,
    pub bytes: Vec<u8>,
    pub state: RunState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// The last of its log: takes more.
    Growing,
    /// Whole blocks, in the queue.
    Queued,
    Writing,
}

impl Run {
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// A page of an index that is not yet wholly on disk.
#[derive(Debug)]
pub(super) struct IndexPage {
    pub image: Box<Page>,
    pub base: PageBase,
    /// Has slots that no issued write covers.
    pub dirty: bool,
    /// In the queue of pages to write.
    pub queued: bool,
    /// A read of what the disk has is under way.
    pub loading: bool,
    pub writing: bool,
    /// No slot will be added: forgotten once written.
    pub full: bool,
}

/// What of a page is right besides the slots set since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PageBase {
    /// All of it.
    Whole,
    /// Only the slots listed (offset, size); the disk has the others.
    Patches(Vec<(u32, u32)>),
}

impl OpenLog {
    pub fn new(head: LogHead) -> OpenLog {
        OpenLog {
            covered: Covered::of(&head),
            covering: None,
            head,
            runs: VecDeque::new(),
            pages: BTreeMap::new(),
            changed: false,
        }
    }

    /// A whole block that is in memory; the growing one is cut short.
    pub fn block(&self, segment: SegmentNumber, offset: u64) -> Option<&[u8]> {
        let run = self
            .runs
            .iter()
            .find(|run| run.segment == segment && (run.start..run.end()).contains(&offset))?;
        let at = (offset - run.start) as usize;
        Some(&run.bytes[at..run.bytes.len().min(at + PAGE_SIZE)])
    }

    /// Sets one slot of one page: (the page came to be in memory, it is now full).
    fn set(&mut self, segment: SegmentNumber, slot: Slot, bytes: &[u8]) -> (bool, bool) {
        assert!(bytes.len() == slot.size as usize);
        let mut new = false;
        let page = self.pages.entry((segment, slot.page)).or_insert_with(|| {
            new = true;
            // Slots fill in order: a page that begins with a later one has its others on disk.
            let base = if slot.first { PageBase::Whole } else { PageBase::Patches(Vec::new()) };
            let image = Page::new_box_zeroed().unwrap_or_else(|_| {
                unreachable!("the allocator aborts before it fails");
            });
            IndexPage {
                image,
                base,
                dirty: false,
                queued: false,
                loading: false,
                writing: false,
                full: false,
            }
        });
        page.image.0[slot.at as usize..(slot.at + slot.size) as usize].copy_from_slice(bytes);
        if let PageBase::Patches(slots) = &mut page.base {
            slots.push((slot.at, slot.size));
        }
        page.dirty = true;
        page.full |= slot.last;
        let filled = slot.last && !page.queued;
        page.queued |= filled;
        (new, filled)
    }
}

impl Logs {
    /// Appends one sealed record to an open log. Position, tenant and data length of `metadata`
    /// must be those of this append.
    pub fn append(&mut self, metadata: &Metadata, data: &[u8]) -> Appended {
        assert!(
            self.buffered_bytes <= LOG_BUFFER_SIZE_MAX + LOG_BUFFER_SLACK,
            "the caller asks Logs::room and flushes",
        );
        let tenant = metadata.tenant;
        let Some(log) = self.open.get_mut(&tenant) else {
            unreachable!("the caller opens a log before it appends")
        };
        assert!(metadata.position == log.head.next, "positions are dense");
        assert!(metadata.transaction_first <= metadata.position);
        assert!(metadata.position <= metadata.transaction_last);
        if log.head.next.get() - log.head.segment_first.get() == self.segment_positions {
            self.rotate(tenant);
        }
        let Some(log) = self.open.get_mut(&tenant) else { unreachable!("it was there above") };
        log.changed = true;

        if !log.runs.back().is_some_and(|run| run.state == RunState::Growing) {
            assert!(log.head.segment_offset.is_multiple_of(PAGE_SIZE as u64));
            self.run_sequence += 1;
            log.runs.push_back(Run {
                sequence: self.run_sequence,
                segment: log.head.segment,
                start: log.head.segment_offset,
                bytes: Vec::new(),
                state: RunState::Growing,
            });
        }
        let Some(run) = log.runs.back_mut() else { unreachable!("pushed above") };
        assert!(run.segment == log.head.segment && run.end() == log.head.segment_offset);
        let before = run.bytes.len();
        if run.end() == 0 {
            let header = SegmentHeader::of(tenant, &log.head, self.segment_positions);
            run.bytes.extend_from_slice(&header.encode());
        }
        // No record starts where its length field would not fit the block.
        let left = run.bytes.len().next_multiple_of(PAGE_SIZE) - run.bytes.len();
        if left < LENGTH_SIZE {
            run.bytes.resize(run.bytes.len() + left, 0);
        }
        // By quarters: doubling could take twice the memory that is planned.
        let size = data.len() + LOG_RECORD_EXTRA_SIZE;
        if run.bytes.capacity() - run.bytes.len() < size {
            run.bytes.reserve_exact(size + run.bytes.len() / 4);
        }
        let offset = run.end();
        let hash = encode_record(&log.head.chain, metadata, data, &mut run.bytes);
        self.appended += 1;
        self.buffered_bytes += run.bytes.len() - before;
        let run_full = run.bytes.len() >= LOG_RUN_SIZE;

        let head = &mut log.head;
        let position = head.next;
        head.segment_offset = run.end();
        head.chain = hash;
        head.next = position.next();
        if metadata.kind == RecordKind::CheckpointRecord {
            head.records_since_checkpoint_record = 0;
            head.last_checkpoint_record = Some(position);
            self.events.push(Event::CheckpointRecord { tenant, position });
        } else {
            head.records_since_checkpoint_record += 1;
        }
        self.index_append(tenant, position, IndexEntry { offset, hash });
        if run_full {
            self.split_run(tenant);
        }
        Appended { position, hash }
    }

    /// Entry and tiles of a record that was just appended.
    fn index_append(&mut self, tenant: TenantId, position: Position, entry: IndexEntry) {
        let (layout, origin) = (self.layout, self.origin);
        let Some(log) = self.open.get_mut(&tenant) else { unreachable!("the caller has it open") };
        let segment = log.head.segment;
        let first = log.head.segment_first.get();
        let nth = position.get() - first;
        let mut tiles = [None; TILE_LEVELS as usize];
        log.head.frontier.push_leaf_hash_with(leaf_hash(&entry.hash.0), |height, index, hash| {
            let height = u32::from(height);
            let level = height / TILE_HEIGHT;
            if height.is_multiple_of(TILE_HEIGHT) && (1..=TILE_LEVELS).contains(&level) {
                tiles[level as usize - 1] = Some((level, index, *hash));
            }
        });
        let mut filled = Vec::new();
        let mut pages_new = 0;
        if nth == 0 {
            let slot = Slot { page: 0, at: 0, size: PAGE_SIZE as u32, first: true, last: true };
            let mut header = Page::new_zeroed();
            let of = index::IndexOf { origin, tenant, segment };
            index::header_page(of, self.segment_positions, &mut header.0);
            let (new, full) = log.set(segment, slot, &header.0);
            pages_new += usize::from(new);
            filled.extend(full.then_some(slot.page));
        }
        let slot = layout.entry(nth);
        let (new, full) = log.set(segment, slot, &index::encode_entry(&entry));
        pages_new += usize::from(new);
        filled.extend(full.then_some(slot.page));
        for (level, tile, hash) in tiles.into_iter().flatten() {
            let slot = layout.tile(first, level, tile);
            let (new, full) = log.set(segment, slot, &hash.0);
            pages_new += usize::from(new);
            filled.extend(full.then_some(slot.page));
        }
        self.buffered_bytes += pages_new * PAGE_SIZE;
        self.pages_queued.extend(filled.into_iter().map(|page| (tenant, segment, page)));
    }

    /// Queues the whole blocks of the growing run; what is left grows on in a new one.
    fn split_run(&mut self, tenant: TenantId) {
        let others = self.open.iter().filter(|(other, _)| **other != tenant);
        let reserved = others.filter_map(|(_, log)| log.runs.back()).filter(|run| {
            run.state == RunState::Growing && run.bytes.capacity() >= LOG_RUN_RESERVED_SIZE
        });
        let reserve = reserved.count() < LOG_RUNS_RESERVED_MAX;
        let Some(log) = self.open.get_mut(&tenant) else { unreachable!("the caller has it open") };
        let Some(run) = log.runs.back_mut() else { unreachable!("the caller has a run") };
        assert!(run.state == RunState::Growing);
        let whole = run.bytes.len() / PAGE_SIZE * PAGE_SIZE;
        let rest_size = run.bytes.len() - whole;
        let mut rest = Vec::with_capacity(if reserve { LOG_RUN_RESERVED_SIZE } else { rest_size });
        rest.extend_from_slice(&run.bytes[whole..]);
        run.bytes.truncate(whole);
        let next = (run.segment, run.end());
        run.state = RunState::Queued;
        self.runs_queued.push_back((tenant, run.sequence));
        if !rest.is_empty() {
            self.run_sequence += 1;
            log.runs.push_back(Run {
                sequence: self.run_sequence,
                segment: next.0,
                start: next.1,
                bytes: rest,
                state: RunState::Growing,
            });
        }
    }

    /// Pads the unfinished block with zeros and queues the growing run, if there is one.
    pub(super) fn pad_and_queue(&mut self, tenant: TenantId) {
        let Some(log) = self.open.get_mut(&tenant) else { unreachable!("the caller has it open") };
        let Some(run) = log.runs.back_mut() else { return };
        if run.state != RunState::Growing {
            return;
        }
        let before = run.bytes.len();
        run.bytes.resize(before.next_multiple_of(PAGE_SIZE), 0);
        self.buffered_bytes += run.bytes.len() - before;
        // It ends early: the plan of memory has no room for what it reserved and does not need.
        if run.bytes.capacity() >= LOG_RUN_RESERVED_SIZE {
            run.bytes.shrink_to_fit();
        }
        log.head.segment_offset = run.end();
        run.state = RunState::Queued;
        self.runs_queued.push_back((tenant, run.sequence));
    }

    /// The segment is full: the next record begins the next one.
    fn rotate(&mut self, tenant: TenantId) {
        self.pad_and_queue(tenant);
        let Some(log) = self.open.get_mut(&tenant) else { unreachable!("the caller has it open") };
        // Pages of the full segment that were waiting for more slots get none.
        let full = log.head.segment;
        for ((segment, number), page) in &mut log.pages {
            if *segment == full && !page.full {
                page.full = true;
            }
            if *segment == full && !page.queued {
                page.queued = true;
                self.pages_queued.push_back((tenant, *segment, *number));
            }
        }
        let head = &mut log.head;
        head.segment = SegmentNumber::new(full.get() + 1);
        head.segment_offset = 0;
        head.segment_first = head.next;
        self.events.push(Event::SegmentRotated { tenant, number: head.segment.get() });
    }
}
