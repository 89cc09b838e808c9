//! Reading records back, checked: one by position, a range, one verified against its chain.
//!
//! Everything here is a restartable stage: [`LogFault::Missing`] means that blocks are not here;
//! the driver calls [`Logs::fetch`], waits until [`Logs::fetched`], and runs the stage again. Pins
//! gather until the stage succeeds, then [`Logs::release`] gives them back, so progress is certain
//! even if everything else is evicted at once.
//!
//! Invariants: what is returned passed its crc, stands at its place, and hashes to what index or
//! chain say. Blocks not yet written are read from memory, so a record can be read from the moment
//! it was appended.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::cache::BlockKey;
use super::checkpoint_record::CheckpointRecord;
use super::damage::{Damage, DamageReason};
use super::flush::Purpose;
use super::head::LogHead;
use super::index::{self, IndexEntry, Slot};
use super::rebuild::Cause;
use super::record::{Metadata, Record, RecordKind, RecordRef, decode_length, decode_record};
use super::segment::LENGTH_SIZE;
use super::tail::PageBase;
use super::{LogError, Logs};
use crate::crypto::ChainHash;
use crate::event::Event;
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Page, Pages};
use crate::limits::{LOG_HEADERS_KNOWN_MAX, LOG_READ_BLOCKS_MAX, PAGE_SIZE};

/// Why a stage stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFault {
    /// Blocks are not here: fetch, wait, run again.
    Missing,
    /// The log does not go so far.
    NoSuchPosition { position: Position, next: Position },
    /// The disk does not hold what was written. Boxed: it is rare.
    Damaged(alloc::boxed::Box<Damage>),
}

impl core::fmt::Display for LogFault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LogFault::Missing => f.write_str("blocks are not in memory"),
            LogFault::NoSuchPosition { position, next } => {
                write!(f, "there is no position {position}: the next is {next}")
            }
            LogFault::Damaged(damage) => write!(f, "{damage}"),
        }
    }
}

impl core::error::Error for LogFault {}

/// What one task keeps in memory until its stage succeeds.
#[derive(Debug, Default)]
pub struct LogPins {
    blocks: Vec<BlockKey>,
    rebuilds: Vec<(TenantId, SegmentNumber)>,
}

impl LogPins {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.rebuilds.is_empty()
    }
}

/// What is known of page 0 of an index that is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Being read before a page of the index is written.
    Loading,
    Good,
}

/// What stages found missing since the last fetch.
#[derive(Debug, Default)]
pub(super) struct Misses {
    blocks: BTreeSet<BlockKey>,
    /// Indexes that must be rebuilt, up to these heads.
    pub rebuilds: BTreeMap<(TenantId, SegmentNumber), LogHead>,
    /// Of these, for damage.
    pub mends: BTreeSet<(TenantId, SegmentNumber)>,
    /// And for damage that may be the index's alone.
    pub suspects: BTreeSet<(TenantId, SegmentNumber)>,
    pub events: Vec<Event>,
}

impl Logs {
    /// One record. `head` is the head of the log's tree of heads; that of an open log is newer and
    /// is used instead.
    pub fn read(
        &self,
        tenant: TenantId,
        head: &LogHead,
        position: Position,
    ) -> Result<Record, LogFault> {
        let head = self.head(tenant).unwrap_or(head);
        if position >= head.next {
            return Err(LogFault::NoSuchPosition { position, next: head.next });
        }
        let entry = self.entry(tenant, head, position)?;
        let segment = self.segment_of(position);
        let at = Place { tenant, segment, offset: entry.offset, position };
        let bytes = self.record_bytes(&at, head, 0)?;
        let record = self.check(&at, head, &bytes)?;
        if record.hash != entry.hash {
            // The record is whole; either it or the index is not what was appended.
            return Err(self.distrust_index(&at, head, DamageReason::Hash));
        }
        Ok(record.to_record())
    }

    /// Where a record is and what it hashes to.
    pub fn entry(
        &self,
        tenant: TenantId,
        head: &LogHead,
        position: Position,
    ) -> Result<IndexEntry, LogFault> {
        let head = self.head(tenant).unwrap_or(head);
        if position >= head.next {
            return Err(LogFault::NoSuchPosition { position, next: head.next });
        }
        let segment = self.segment_of(position);
        let slot = self.layout.entry(position.get() % self.segment_positions);
        if let Some(entry) = self.entry_in_memory(tenant, segment, slot) {
            return Ok(entry);
        }
        let at = Place { tenant, segment, offset: 0, position };
        let page = self.index_page(&at, head, slot.page)?;
        let entry = if index::page_is_good(self.index_of(tenant, segment), slot.page, &page.0) {
            index::decode_entry(&page.0, slot)
        } else {
            None
        };
        let sane = entry.filter(|entry| {
            let in_block = entry.offset as usize % PAGE_SIZE;
            let ends = if segment == head.segment { head.segment_offset } else { u64::MAX };
            entry.offset >= PAGE_SIZE as u64
                && entry.offset < ends
                && in_block <= PAGE_SIZE - LENGTH_SIZE
        });
        sane.ok_or_else(|| self.distrust_index(&at, head, DamageReason::Hash))
    }

    /// A page of an index that is not in memory, unchecked; the header with the first of a file.
    fn index_page(&self, at: &Place, head: &LogHead, number: u32) -> Result<&Page, LogFault> {
        let Place { tenant, segment, .. } = *at;
        let file = FileId::Index { tenant, number: segment };
        let page = self.cache.get(file, u64::from(number));
        if page.is_none() {
            self.misses.borrow_mut().blocks.insert((file, u64::from(number)));
        }
        if !self.header_is_known(tenant, segment) {
            match self.cache.get(file, 0) {
                None => {
                    self.misses.borrow_mut().blocks.insert((file, 0));
                    return Err(LogFault::Missing);
                }
                Some(header) if self.check_header(tenant, segment, &header.0) => {}
                Some(_) => return Err(self.distrust_index(at, head, DamageReason::Hash)),
            }
        }
        page.ok_or(LogFault::Missing)
    }

    /// Was the header of this index read before, or is reading it of no use? No lookup needs what
    /// it says, but an index that is damaged there alone is to be made whole, too.
    pub(super) fn header_is_known(&self, tenant: TenantId, segment: SegmentNumber) -> bool {
        let key = (tenant, segment);
        self.headers.borrow().contains_key(&key)
            || self.rebuilt.contains(&key)
            || self.unbuildable.contains_key(&key)
            || self.open.get(&tenant).is_some_and(|log| log.pages.contains_key(&(segment, 0)))
    }

    /// True: it is good, and need not be read again.
    pub(super) fn check_header(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        header: &[u8],
    ) -> bool {
        let positions = self.segment_positions;
        let good = index::header_is_good(self.index_of(tenant, segment), positions, header);
        if good {
            let mut headers = self.headers.borrow_mut();
            if headers.len() >= LOG_HEADERS_KNOWN_MAX {
                headers.retain(|_, header| *header == Header::Loading);
            }
            headers.insert((tenant, segment), Header::Good);
        }
        good
    }

    /// A page that has tiles; `position` is in its segment.
    pub(super) fn tile_page(
        &self,
        tenant: TenantId,
        head: &LogHead,
        position: Position,
        number: u32,
    ) -> Result<&Page, LogFault> {
        let head = self.head(tenant).unwrap_or(head);
        let at = Place { tenant, segment: self.segment_of(position), offset: 0, position };
        self.index_page(&at, head, number)
    }

    /// What is in the cache stays there while it is pinned: only a rebuild of the index mends it.
    pub(super) fn tile_damaged(
        &self,
        tenant: TenantId,
        head: &LogHead,
        position: Position,
    ) -> LogFault {
        let head = self.head(tenant).unwrap_or(head);
        let at = Place { tenant, segment: self.segment_of(position), offset: 0, position };
        self.distrust_index(&at, head, DamageReason::Hash)
    }

    fn entry_in_memory(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        slot: Slot,
    ) -> Option<IndexEntry> {
        let page = self.open.get(&tenant)?.pages.get(&(segment, slot.page))?;
        let here = match &page.base {
            PageBase::Whole => true,
            PageBase::Patches(slots) => slots.iter().any(|(at, _)| *at == slot.at),
        };
        if here { index::decode_entry(&page.image.0, slot) } else { None }
    }

    pub(super) fn rebuild_end(&self, segment: SegmentNumber, head: &LogHead) -> Position {
        let full = (u64::from(segment.get()) + 1) * self.segment_positions;
        head.next.min(Position::new(full))
    }

    /// The bytes of the record that starts at a place. `ahead`: how many blocks behind it a reader
    /// in order will want soon.
    fn record_bytes(&self, at: &Place, head: &LogHead, ahead: u64) -> Result<Vec<u8>, LogFault> {
        let mut bytes = Vec::new();
        self.collect(at, head, LENGTH_SIZE, ahead, &mut bytes)?;
        let Some(length) = bytes.first_chunk::<LENGTH_SIZE>() else {
            unreachable!("as many bytes as asked for")
        };
        let size = decode_length(*length)
            .map_err(|error| self.damaged(at, head, DamageReason::Record(error)))?;
        bytes.clear();
        self.collect(at, head, size, ahead, &mut bytes)?;
        Ok(bytes)
    }

    /// A record whose crc and place are right.
    fn check<'a>(
        &self,
        at: &Place,
        head: &LogHead,
        bytes: &'a [u8],
    ) -> Result<RecordRef<'a>, LogFault> {
        let record = decode_record(bytes)
            .map_err(|error| self.damaged(at, head, DamageReason::Record(error)))?;
        let Metadata { tenant, position, .. } = record.metadata;
        if tenant != at.tenant || position != at.position {
            return Err(self.damaged(at, head, DamageReason::Misplaced { tenant, position }));
        }
        Ok(record)
    }

    /// `size` bytes of a segment, over block borders; notes every block that is not here.
    fn collect(
        &self,
        at: &Place,
        head: &LogHead,
        size: usize,
        ahead: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), LogFault> {
        let block_size = PAGE_SIZE as u64;
        let end = at.offset + size as u64;
        let mut block = at.offset / block_size * block_size;
        let mut missing = false;
        while block < end {
            let from = at.offset.max(block) - block;
            let to = (end - block).min(block_size);
            match self.block(at.tenant, at.segment, block) {
                Some(block) if block.len() as u64 >= to => {
                    bytes.extend_from_slice(&block[from as usize..to as usize]);
                }
                // The tail in memory ends here: the length was not that of a record.
                Some(_) => return Err(self.damaged(at, head, DamageReason::Truncated)),
                None => missing |= self.miss(at, head, block),
            }
            block += block_size;
        }
        if !missing && bytes.len() == size {
            return Ok(());
        }
        if !missing {
            return Err(self.damaged(at, head, DamageReason::Truncated));
        }
        for nth in 0..ahead {
            let block = block + nth * block_size;
            if self.block(at.tenant, at.segment, block).is_none() {
                self.miss(at, head, block);
            }
        }
        Err(LogFault::Missing)
    }

    /// Notes a block as missing, if the log goes so far.
    fn miss(&self, at: &Place, head: &LogHead, block: u64) -> bool {
        if at.segment == head.segment && block >= head.segment_offset {
            return false;
        }
        let file = FileId::Segment { tenant: at.tenant, number: at.segment };
        self.misses.borrow_mut().blocks.insert((file, block / PAGE_SIZE as u64));
        true
    }

    /// A block from memory or the cache.
    pub(super) fn block(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        offset: u64,
    ) -> Option<&[u8]> {
        if let Some(block) = self.open.get(&tenant).and_then(|log| log.block(segment, offset)) {
            return Some(block);
        }
        let file = FileId::Segment { tenant, number: segment };
        self.cache.get(file, offset / PAGE_SIZE as u64).map(|page| page.0.as_slice())
    }

    /// Whether blocks of a segment are on the disk as they will stay, so that they may be read for
    /// a peer, whose checkpoint goes so far.
    #[must_use]
    pub fn are_on_disk(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        block: u64,
        count: u64,
    ) -> bool {
        let Some(log) = self.open.get(&tenant) else { return true };
        let size = PAGE_SIZE as u64;
        let end = (block + count) * size;
        let ends = segment < log.head.segment
            || (segment == log.head.segment && end <= log.head.segment_offset);
        ends && (block..block + count).all(|block| log.block(segment, block * size).is_none())
    }

    /// Reads what the last stage missed, and pins it.
    pub fn fetch(&mut self, pins: &mut LogPins, effects: &mut Effects) {
        let Misses { blocks, rebuilds, mends, suspects, events } = self.misses.take();
        for event in events {
            effects.event(event);
        }
        let mut run: Option<(FileId, u64, u64)> = None;
        for key in blocks {
            if let FileId::Index { tenant, number } = key.0
                && self.rebuilds.contains_key(&(tenant, number))
            {
                // Its pages are being written: wait, and look again.
                pins.rebuilds.push((tenant, number));
                continue;
            }
            if let FileId::Segment { tenant, number } = key.0
                && self.is_mending_write(tenant, number)
            {
                pins.rebuilds.push((tenant, number));
                continue;
            }
            pins.blocks.push(key);
            if !self.cache.pin(key) {
                continue;
            }
            run = match run {
                Some((file, first, count))
                    if (file, first + count) == key && count < LOG_READ_BLOCKS_MAX as u64 =>
                {
                    Some((file, first, count + 1))
                }
                other => {
                    self.read_blocks(other, effects);
                    Some((key.0, key.1, 1))
                }
            };
        }
        self.read_blocks(run, effects);
        for (key, head) in rebuilds {
            pins.rebuilds.push(key);
            if mends.contains(&key) && !self.rebuilds.contains_key(&key) {
                self.note_mend(key.0, key.1);
            }
            let cause = if suspects.contains(&key) { Cause::Suspicion } else { Cause::Index };
            self.rebuild(key.0, key.1, &head, cause, effects);
        }
    }

    /// Has all come that was fetched?
    #[must_use]
    pub fn fetched(&self, pins: &LogPins) -> bool {
        pins.rebuilds.iter().all(|key| !self.rebuilds.contains_key(key))
            && pins.blocks.iter().all(|(file, number)| self.cache.get(*file, *number).is_some())
    }

    pub fn release(&mut self, pins: &mut LogPins) {
        pins.rebuilds.clear();
        for key in pins.blocks.drain(..) {
            self.cache.unpin(key);
        }
    }

    /// Drops every cached block that is not pinned, as if memory were that small.
    pub fn evict_all(&mut self) {
        self.cache.evict_all();
    }

    fn read_blocks(&mut self, run: Option<(FileId, u64, u64)>, effects: &mut Effects) {
        let Some((file, first, count)) = run else { return };
        let io = self.io(Purpose::ReadBlocks { file, first });
        let pages = self.pages(count as usize);
        let at = Address::new(file, first * PAGE_SIZE as u64);
        effects.push(Effect::Read { io, at, pages });
    }

    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), LogError> {
        let read = self.read_again(io, pages, result, effects)?;
        let Some((purpose, pages)) = read else { return Ok(()) };
        match purpose {
            Purpose::ReadBlocks { file, first } => {
                for (nth, page) in pages.as_slice().iter().enumerate() {
                    let key = (file, first + nth as u64);
                    if !self.cache.fill(key, page) {
                        self.read_blocks(Some((file, key.1, 1)), effects);
                    }
                }
                self.give_back(pages);
                self.rebuild_step(effects);
            }
            Purpose::LoadPage { tenant, segment, number } => {
                self.page_loaded(tenant, segment, number, &pages, effects);
                self.give_back(pages);
                self.rebuild_step(effects);
            }
            Purpose::RebuildRead { tenant, segment, .. } => {
                self.rebuild_read(tenant, segment, &pages, effects);
                self.give_back(pages);
            }
            Purpose::ScrubRead { .. } => {
                self.scrub_taken(&pages);
                self.give_back(pages);
                self.rebuild_step(effects);
            }
            Purpose::Create(_)
            | Purpose::Sync(_)
            | Purpose::WriteRun { .. }
            | Purpose::WritePages { .. }
            | Purpose::RebuildWrite { .. }
            | Purpose::MendWrite { .. }
            | Purpose::OneBlock => unreachable!("only reads complete here"),
        }
        self.flush_step(effects);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub tenant: TenantId,
    pub segment: SegmentNumber,
    pub offset: u64,
    pub position: Position,
}

/// Records of one log in order of position. The index is asked once, the chain is checked along.
#[derive(Clone, Debug)]
pub struct LogScan {
    tenant: TenantId,
    next: Position,
    end: Position,
    /// Where the next record starts, and the hash of the one before; None: ask the index.
    at: Option<(SegmentNumber, u64, ChainHash)>,
}

/// Blocks that a scan reads at once.
const SCAN_AHEAD: u64 = 32;

impl LogScan {
    /// From `from` up to but without `end`.
    #[must_use]
    pub fn new(tenant: TenantId, from: Position, end: Position) -> LogScan {
        LogScan { tenant, next: from, end, at: None }
    }

    /// The position that the next call gives.
    #[must_use]
    pub fn position(&self) -> Position {
        self.next
    }

    /// The next record; None at the end. A stage: on a fault nothing has changed.
    pub fn next(&mut self, logs: &Logs, head: &LogHead) -> Result<Option<Record>, LogFault> {
        let tenant = self.tenant;
        let head = logs.head(tenant).unwrap_or(head);
        if self.next >= self.end.min(head.next) {
            return Ok(None);
        }
        let segment = logs.segment_of(self.next);
        let (mut offset, chain) = match self.at {
            Some((at, offset, chain)) if at == segment => (offset, Some(chain)),
            // Into the next segment: its records start behind the header block.
            Some((_, _, chain)) => (PAGE_SIZE as u64, Some(chain)),
            None => (logs.entry(tenant, head, self.next)?.offset, None),
        };
        let block_size = PAGE_SIZE as u64;
        let mut at = Place { tenant, segment, offset, position: self.next };
        // At most once: a block never begins with padding.
        if !offset.is_multiple_of(block_size) {
            let left = block_size - offset % block_size;
            let mut padding = left < LENGTH_SIZE as u64;
            if !padding {
                let mut length = Vec::new();
                logs.collect(&at, head, LENGTH_SIZE, SCAN_AHEAD, &mut length)?;
                padding = length == [0; LENGTH_SIZE];
            }
            if padding {
                offset += left;
                at.offset = offset;
            }
        }
        let bytes = logs.record_bytes(&at, head, SCAN_AHEAD)?;
        let record = logs.check(&at, head, &bytes)?;
        if chain.is_some_and(|chain| chain != record.prev_hash) {
            return Err(logs.damaged(&at, head, DamageReason::Chain));
        }
        self.at = Some((segment, offset + bytes.len() as u64, record.hash));
        self.next = self.next.next();
        Ok(Some(record.to_record()))
    }
}

/// A read that trusts neither index nor record: it follows the chain back to the nearest checkpoint
/// record (or the log's beginning) and forward to the next (or the log's head).
///
/// A checkpoint record is an anchor because it opens only under the tenant's key, at its own
/// position; the head because it is part of the state.
#[derive(Clone, Debug)]
pub struct VerifiedRead {
    tenant: TenantId,
    position: Position,
    record: Option<Record>,
    /// Going back: the record below the target looked at next, and the hash it must have.
    back: Option<(Position, ChainHash)>,
    /// Going forward: the record above the target looked at next, and the `prev_hash` it must hold.
    forward: Option<(Position, ChainHash)>,
}

/// Opens the data of a checkpoint record; None if it does not open.
pub type OpenClaim<'a> = &'a mut dyn FnMut(&Metadata, &[u8]) -> Option<CheckpointRecord>;

impl VerifiedRead {
    #[must_use]
    pub fn new(tenant: TenantId, position: Position) -> VerifiedRead {
        VerifiedRead { tenant, position, record: None, back: None, forward: None }
    }

    /// One record further; the record once it is verified. A stage: on a fault nothing has changed.
    pub fn step(
        &mut self,
        logs: &Logs,
        head: &LogHead,
        open: OpenClaim<'_>,
    ) -> Result<Option<Record>, LogFault> {
        let head = logs.head(self.tenant).unwrap_or(head);
        if self.record.is_none() {
            let record = logs.read(self.tenant, head, self.position)?;
            let anchored = self.is_anchor(logs, head, &record, open)?;
            self.back = self.position.previous().map(|below| (below, record.prev_hash));
            if anchored {
                self.back = None;
            }
            self.forward = Some((self.position.next(), record.hash()));
            self.record = Some(record);
        } else if let Some((position, hash)) = self.back {
            let record = logs.read(self.tenant, head, position)?;
            if record.hash() != hash {
                return Err(self.broken(logs, head, position, DamageReason::Chain));
            }
            let anchored = self.is_anchor(logs, head, &record, open)?;
            self.back = position.previous().map(|below| (below, record.prev_hash));
            if anchored {
                self.back = None;
            }
        } else if let Some((position, hash)) = self.forward {
            if position >= head.next {
                if hash != head.chain {
                    return Err(self.broken(logs, head, position, DamageReason::Head));
                }
                self.forward = None;
            } else {
                let record = logs.read(self.tenant, head, position)?;
                if record.prev_hash != hash {
                    return Err(self.broken(logs, head, position, DamageReason::Chain));
                }
                let anchored = self.is_anchor(logs, head, &record, open)?;
                self.forward = Some((position.next(), record.hash())).filter(|_| !anchored);
            }
        }
        let done = self.back.is_none() && self.forward.is_none();
        Ok(if done { self.record.clone() } else { None })
    }

    /// A checkpoint record that opens and claims what is so, or the log's beginning.
    fn is_anchor(
        &self,
        logs: &Logs,
        head: &LogHead,
        record: &Record,
        open: OpenClaim<'_>,
    ) -> Result<bool, LogFault> {
        let position = record.metadata.position;
        let Some(before) = position.previous() else {
            if record.prev_hash != ChainHash::ZERO {
                return Err(self.broken(logs, head, position, DamageReason::Chain));
            }
            return Ok(record.metadata.kind == RecordKind::CheckpointRecord);
        };
        if record.metadata.kind != RecordKind::CheckpointRecord {
            return Ok(false);
        }
        let claim = open(&record.metadata, &record.data);
        let holds = claim
            .is_some_and(|claim| claim.position == before && claim.chain_hash == record.prev_hash);
        if holds {
            Ok(true)
        } else {
            Err(self.broken(logs, head, position, DamageReason::CheckpointRecord))
        }
    }

    fn broken(
        &self,
        logs: &Logs,
        head: &LogHead,
        position: Position,
        reason: DamageReason,
    ) -> LogFault {
        let segment = logs.segment_of(position);
        let at = Place { tenant: self.tenant, segment, offset: 0, position };
        logs.damaged(&at, head, reason)
    }
}
