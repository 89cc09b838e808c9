//! Index pages from disk: completing one that is continued, and rebuilding an index that is damaged
//! or missing from its segment.
//!
//! A rebuild reads the segment in order through [`SegmentVerifier`], so it also proves the segment,
//! and writes page after page; it holds one stretch of blocks and the pages that are not full.
//!
//! Invariants: one warning (`IndexRebuilt`) for one rebuild; pages that an open log has in memory
//! get their missing slots there and are written with the next checkpoint. A segment that is itself
//! damaged is remembered with what is wrong.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::damage::Damage;
use super::flush::Purpose;
use super::index::{self, IndexEntry, Layout, Slot, TILE_HEIGHT, TILE_LEVELS};
use super::mend::Mend;
use super::read::Header;
use super::tail::PageBase;
use super::verifier::{SegmentExtent, SegmentStart, SegmentVerifier};
use super::{LogHead, Logs};
use crate::crypto::merkle::leaf_hash;
use crate::event::Event;
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::{Address, Effect, Effects, FileId, Page, Pages};
use crate::limits::{LOG_READ_BLOCKS_MAX, PAGE_SIZE};
use zerocopy::FromZeros;

/// Why an index is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is damaged, missing, or contradicts a record.
    Index,
    /// A record was not found whole where it leads to: either the segment is damaged, or it is not
    /// the segment's index. That is told when the segment was gone through.
    Suspicion,
}

/// An index being made anew.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub verifier: Option<SegmentVerifier>,
    pub cause: Cause,
    /// The log's head when it began, and up to where it goes.
    pub head: LogHead,
    pub end: Position,
    /// Pages by number, not yet handed over.
    pub pages: BTreeMap<u32, Box<Page>>,
    /// Pages that are final, in the order they are to be written.
    pub final_pages: VecDeque<u32>,
    pub next_block: u64,
    pub reading: bool,
    pub writing: bool,
    /// Blocks of the segment are bad, and are being repaired.
    pub mend: Option<Box<Mend>>,
}

impl Rebuild {
    /// Runs blocks through the verifier and takes entries and tiles from it. True: a whole record
    /// at `confirms_from` or behind it followed.
    pub fn push(
        &mut self,
        layout: Layout,
        first: u64,
        blocks: &[u8],
        confirms_from: Option<u64>,
    ) -> (Result<(), Damage>, bool) {
        let Rebuild { verifier: Some(verifier), pages, final_pages, .. } = self else {
            unreachable!("blocks come only while verifying")
        };
        let mut confirmed = false;
        let result = verifier.push(blocks, |view| {
            confirmed |= confirms_from.is_some_and(|from| view.offset >= from);
            let position = view.record.metadata.position.get();
            let entry = IndexEntry { offset: view.offset, hash: view.record.hash };
            let slot = layout.entry(position - first);
            set(pages, final_pages, slot, &index::encode_entry(&entry));
            tiles(layout, first, view, |slot, hash| set(pages, final_pages, slot, hash));
            Ok(())
        });
        (result, confirmed)
    }

    pub fn is_verified(&self) -> bool {
        self.verifier.as_ref().is_none_or(SegmentVerifier::is_done)
    }
}

impl Logs {
    /// Starts to rebuild an index up to `end`, unless that is under way or known to be in vain.
    pub(super) fn rebuild(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        head: &LogHead,
        cause: Cause,
        effects: &mut Effects,
    ) {
        let key = (tenant, segment);
        let end = self.rebuild_end(segment, head);
        if self.rebuilds.contains_key(&key) || self.unbuildable.contains_key(&key) {
            return;
        }
        if cause == Cause::Index {
            effects.event(Event::IndexRebuilt { tenant, number: segment.get() });
        }
        let start = SegmentStart { tenant, number: segment, before: None };
        // What a checkpoint covers ends in padding, which is repaired, too; alone nobody minds it.
        // Behind that, the next record may follow at once.
        let covered = self.covered_of(tenant, head);
        let padded = segment < covered.segment || end == covered.next;
        let padded = padded && self.repairs_are_possible();
        let extent = if padded { SegmentExtent::To(end) } else { SegmentExtent::Through(end) };
        let mut header = Page::new_zeroed();
        index::header_page(self.index_of(tenant, segment), self.segment_positions, &mut header.0);
        self.rebuilds.insert(
            key,
            Rebuild {
                verifier: Some(SegmentVerifier::new(start, extent)),
                cause,
                pages: BTreeMap::from([(0, Box::new(header))]),
                final_pages: VecDeque::from([0]),
                head: head.clone(),
                end,
                next_block: 0,
                reading: false,
                writing: false,
                mend: None,
            },
        );
        self.rebuild_step(effects);
    }

    /// Drives every rebuild as far as it goes without waiting.
    pub(super) fn rebuild_step(&mut self, effects: &mut Effects) {
        let keys: Vec<_> = self.rebuilds.keys().copied().collect();
        for (tenant, segment) in keys {
            while self.rebuild_one(tenant, segment, effects) {}
        }
    }

    /// True: something moved without I/O, come again.
    fn rebuild_one(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let key = (tenant, segment);
        let Some(work) = self.rebuilds.get_mut(&key) else { return false };
        if work.reading || work.writing {
            return false;
        }
        if work.mend.is_some() {
            return self.mend_one(tenant, segment, effects);
        }
        if let Some(number) = work.final_pages.pop_front() {
            return self.rebuild_page(tenant, segment, number, effects);
        }
        if work.is_verified() {
            if work.verifier.take().is_some() {
                work.final_pages.extend(work.pages.keys().copied());
                return true;
            }
            let done = self.rebuilds.remove(&key);
            self.rebuilt.insert(key);
            if done.is_some_and(|work| work.cause == Cause::Suspicion) {
                effects.event(Event::IndexRebuilt { tenant, number: segment.get() });
            }
            return false;
        }
        self.rebuild_forward(tenant, segment, effects)
    }

    /// The next own blocks, from memory or from the disk.
    pub(super) fn rebuild_forward(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let key = (tenant, segment);
        let Some(work) = self.rebuilds.get(&key) else { return false };
        let offset = work.next_block * PAGE_SIZE as u64;
        // Blocks that are not written yet are nowhere else.
        if let Some(block) = self.open.get(&tenant).and_then(|log| log.block(segment, offset)) {
            let mut page = Box::new(Page::new_zeroed());
            page.0[..block.len()].copy_from_slice(block);
            self.rebuild_take(tenant, segment, &page.0, effects);
            return true;
        }
        // Blocks in memory, and those behind the log's end, may be written meanwhile.
        let on_disk = |offset: u64| {
            self.open.get(&tenant).is_none_or(|log| {
                let behind = log.head.segment == segment && offset >= log.head.segment_offset;
                !behind && log.block(segment, offset).is_none()
            })
        };
        let mut count = 1;
        while count < LOG_READ_BLOCKS_MAX && on_disk(offset + (count * PAGE_SIZE) as u64) {
            count += 1;
        }
        let at = Address::new(FileId::Segment { tenant, number: segment }, offset);
        let io = self.io(Purpose::RebuildRead { tenant, segment, at });
        let pages = self.pages(count);
        if let Some(work) = self.rebuilds.get_mut(&key) {
            work.reading = true;
        }
        effects.push(Effect::Read { io, at, pages });
        false
    }

    pub(super) fn rebuild_read(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        pages: &Pages,
        effects: &mut Effects,
    ) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else {
            unreachable!("a rebuild stays until its reads are done")
        };
        work.reading = false;
        self.rebuild_take(tenant, segment, pages.as_bytes(), effects);
        self.rebuild_step(effects);
    }

    fn rebuild_take(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        blocks: &[u8],
        effects: &mut Effects,
    ) {
        let layout = self.layout;
        let first = u64::from(segment.get()) * self.segment_positions;
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else {
            unreachable!("the caller has it")
        };
        if work.mend.is_some() {
            self.mend_take(tenant, segment, blocks, effects);
            return;
        }
        let from = work.next_block;
        let (result, _) = work.push(layout, first, blocks, None);
        work.next_block += (blocks.len() / PAGE_SIZE) as u64;
        match result {
            // Whoever read one of them before may have got what is not there.
            Ok(()) => self.refresh(FileId::Segment { tenant, number: segment }, from, blocks),
            Err(damage) if self.begin_mend(tenant, segment, &damage) => {}
            Err(damage) => self.rebuild_failed(tenant, segment, damage),
        }
    }

    /// Blocks that were just read take the place of what is in memory of them.
    fn refresh(&mut self, file: FileId, from: u64, blocks: &[u8]) {
        for (block, bytes) in (from..).zip(blocks.as_chunks::<PAGE_SIZE>().0) {
            if self.cache.get(file, block).is_some_and(|known| known.0 != *bytes) {
                self.cache.replace(file, block, &Page(*bytes));
            }
        }
    }

    fn rebuild_failed(&mut self, tenant: TenantId, segment: SegmentNumber, damage: Damage) {
        self.rebuilds.remove(&(tenant, segment));
        self.events.push(Event::BlockCorrupt {
            tenant,
            number: segment.get(),
            offset: damage.offset,
        });
        self.unbuildable.insert((tenant, segment), damage);
    }

    /// Hands one final page over: to the open log that has it in memory, or to the disk.
    fn rebuild_page(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
        effects: &mut Effects,
    ) -> bool {
        let key = (tenant, segment);
        let file = FileId::Index { tenant, number: segment };
        if let Some(page) =
            self.open.get_mut(&tenant).and_then(|log| log.pages.get_mut(&(segment, number)))
        {
            let Some(work) = self.rebuilds.get_mut(&key) else { unreachable!("the caller has it") };
            let Some(image) = work.pages.remove(&number) else {
                unreachable!("each page is final once")
            };
            complete(&mut page.image.0, &mut page.base, &image.0);
            page.dirty = true;
            if page.full && !page.queued {
                page.queued = true;
                self.pages_queued.push_back((tenant, segment, number));
            }
            return true;
        }
        let header = self.headers.borrow().get(&key).copied();
        let reading = self.cache.is_reading(file, u64::from(number))
            || (number == 0 && header == Some(Header::Loading));
        if reading || !self.file_exists(file, effects) {
            if let Some(work) = self.rebuilds.get_mut(&key) {
                work.final_pages.push_front(number);
            }
            return false;
        }
        let (of, mut pages) = (self.index_of(tenant, segment), self.pages(1));
        let Some(work) = self.rebuilds.get_mut(&key) else { unreachable!("the caller has it") };
        let Some(image) = work.pages.remove(&number) else {
            unreachable!("each page is final once")
        };
        work.writing = true;
        pages.as_bytes_mut().copy_from_slice(&image.0);
        index::stamp(of, number, pages.as_bytes_mut());
        self.cache.replace(file, u64::from(number), &pages.as_slice()[0]);
        let io = self.io(Purpose::RebuildWrite { tenant, segment });
        let at = Address::new(file, u64::from(number) * PAGE_SIZE as u64);
        effects.push(Effect::Write { io, at, pages, durable: false });
        false
    }

    pub(super) fn rebuild_written(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else {
            unreachable!("a rebuild stays until its writes are done")
        };
        work.writing = false;
        self.rebuild_step(effects);
    }

    /// What the disk has of a page that an open log continues.
    pub(super) fn page_loaded(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
        pages: &Pages,
        effects: &mut Effects,
    ) {
        let (layout, of) = (self.layout, self.index_of(tenant, segment));
        let disk = pages.as_bytes();
        let Some(log) = self.open.get_mut(&tenant) else {
            unreachable!("a log with pages to write stays open")
        };
        if number == 0 {
            let head = log.head.clone();
            self.headers.borrow_mut().remove(&(tenant, segment));
            if !self.check_header(tenant, segment, disk) {
                self.rebuild(tenant, segment, &head, Cause::Index, effects);
            }
            return;
        }
        let end = log.head.next;
        let Some(page) = log.pages.get_mut(&(segment, number)) else {
            unreachable!("a page stays until it is written")
        };
        page.loading = false;
        let PageBase::Patches(slots) = &page.base else {
            // A rebuild was faster.
            return;
        };
        let first = u64::from(segment.get()) * self.segment_positions;
        let good = index::page_is_good(of, number, disk)
            && layout.is_filled(first, end.get(), number, disk, slots);
        if good {
            complete(&mut page.image.0, &mut page.base, disk);
        } else if self.unbuildable.contains_key(&(tenant, segment)) {
            // What it had is lost with its segment.
            page.base = PageBase::Whole;
        } else {
            let head = log.head.clone();
            self.rebuild(tenant, segment, &head, Cause::Index, effects);
        }
    }
}

/// Fills the slots of `image` that were not set since from `disk`.
fn complete(image: &mut [u8], base: &mut PageBase, disk: &[u8]) {
    if let PageBase::Patches(slots) = base {
        let mut whole = disk.to_vec();
        for (at, size) in slots.iter() {
            let slot = *at as usize..(at + size) as usize;
            whole[slot.clone()].copy_from_slice(&image[slot]);
        }
        image.copy_from_slice(&whole);
        *base = PageBase::Whole;
    }
}

fn set(
    pages: &mut BTreeMap<u32, Box<Page>>,
    final_pages: &mut VecDeque<u32>,
    slot: Slot,
    bytes: &[u8],
) {
    let page = pages.entry(slot.page).or_insert_with(|| Box::new(Page::new_zeroed()));
    page.0[slot.at as usize..(slot.at + slot.size) as usize].copy_from_slice(bytes);
    if slot.last {
        final_pages.push_back(slot.page);
    }
}

/// The tiles that a record completes.
pub(super) fn tiles(
    layout: Layout,
    first: u64,
    view: &super::RecordView<'_>,
    mut each: impl FnMut(Slot, &[u8]),
) {
    // Only a last leaf of 256 completes any: the frontier need not be copied for the others.
    if !(view.frontier.size() + 1).is_multiple_of(1 << TILE_HEIGHT) {
        return;
    }
    let mut frontier = view.frontier.clone();
    frontier.push_leaf_hash_with(leaf_hash(&view.record.hash.0), |height, tile, hash| {
        let height = u32::from(height);
        let level = height / TILE_HEIGHT;
        if height.is_multiple_of(TILE_HEIGHT) && (1..=TILE_LEVELS).contains(&level) {
            each(layout.tile(first, level, tile), &hash.0);
        }
    });
}
