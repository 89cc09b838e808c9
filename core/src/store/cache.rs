//! Frames: the pages that are in memory, in the clear, and which of them may leave.
//!
//! Invariants: memory is `frames_max` frames at most, taken in chunks as it is used (`frames`). A
//! frame is *free*, *clean* (equal to its page on disk: may be evicted when nobody pins it),
//! *dirty* (changed since the last checkpoint began, in memory only), *frozen* (part of the
//! checkpoint under way, not yet sealed) or *writing* (sealed, its write not yet done). Only clean
//! frames leave. Eviction is CLOCK with `Cell` reference bits, so a read needs `&self` only; what
//! it evicts can never change a result, only cost a fault.
//!
//! `frames_max` holds a dirty budget (dirty and frozen together: apply waits for the checkpoint
//! before it passes that) and the clean frames besides; what readers pin is bounded by 7/8 of the
//! latter (`Cache::room_to_pin`). A change reserves its
//! frames *before* it plans what it will touch, so that nothing is evicted between plan and deed.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use super::frames::{Chunk, Frames};
use super::page::{self, Bytes};
use crate::ids::PageNumber;
use crate::limits::{BUSY_PAGES_MARGIN, FRAME_BYTES};
use crate::stdx::PageMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Clean,
    Dirty,
    Frozen,
    Writing,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    page: PageNumber,
    state: State,
    pins: u32,
    /// Changes whenever the frame gets another page, so that a late unpin hits nobody else.
    incarnation: u64,
    /// Place in `Cache::dirty` while dirty.
    dirty_slot: u32,
}

/// One pin that a task holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    frame: u32,
    incarnation: u64,
}

#[derive(Debug)]
pub(super) struct Cache {
    pages: Frames,
    frames: Vec<Frame>,
    referenced: Vec<Cell<bool>>,
    map: PageMap,
    /// Page number, cut to the table's size → the frame where such a page was last found.
    guesses: Vec<Cell<u32>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    hand: usize,
    frames_max: usize,
    pinned_max: usize,
    pinned: usize,
    incarnation: u64,
    pub(super) evictions: u64,
}

impl Cache {
    pub(super) fn new(frames_max: u32, dirty_pages_max: u32) -> Cache {
        let frames_max = frames_max as usize;
        let busy = (dirty_pages_max + BUSY_PAGES_MARGIN) as usize;
        assert!(frames_max > busy, "the cache holds a dirty budget and clean pages besides");
        let clean = frames_max - busy;
        Cache {
            pages: Frames::new(frames_max),
            frames: Vec::with_capacity(frames_max),
            referenced: Vec::with_capacity(frames_max),
            map: PageMap::new(frames_max + frames_max / 4 + 1_024),
            guesses: vec![Cell::new(u32::MAX); frames_max.next_power_of_two()],
            free: Vec::with_capacity(frames_max),
            dirty: Vec::with_capacity(dirty_pages_max as usize),
            hand: 0,
            frames_max,
            pinned_max: (clean - clean / 8).max(1),
            pinned: 0,
            incarnation: 0,
            evictions: 0,
        }
    }

    /// A frame is believed when its page says that it is the one wanted: so a hit touches neither
    /// the map nor the frame's state, only a guess (4 bytes) and the page itself.
    #[inline]
    pub(super) fn get(&self, page: PageNumber) -> Option<&Bytes> {
        let frame = self.guesses[page.get() as usize & (self.guesses.len() - 1)].get() as usize;
        match self.pages.get(frame) {
            Some(bytes) if page::number(&bytes.0) == page.get() => {
                let referenced = &self.referenced[frame];
                if !referenced.get() {
                    referenced.set(true);
                }
                Some(&bytes.0)
            }
            Some(_) | None => self.get_by_map(page),
        }
    }

    #[inline(never)]
    fn get_by_map(&self, page: PageNumber) -> Option<&Bytes> {
        let frame = self.map.get(page)?;
        self.guesses[page.get() as usize & (self.guesses.len() - 1)].set(frame);
        let frame = frame as usize;
        self.referenced[frame].set(true);
        Some(&self.pages[frame].0)
    }

    pub(super) fn get_mut(&mut self, page: PageNumber) -> Option<&mut Bytes> {
        let frame = self.map.get(page)? as usize;
        self.referenced[frame].set(true);
        Some(&mut self.pages[frame].0)
    }

    /// Two different pages at once, the first to change.
    pub(super) fn get_two(
        &mut self,
        change: PageNumber,
        read: PageNumber,
    ) -> Option<(&mut Bytes, &Bytes)> {
        let change = self.map.get(change)? as usize;
        let read = self.map.get(read)? as usize;
        let Some((change, read)) = self.pages.two_mut(change, read) else {
            unreachable!("two pages have two frames");
        };
        Some((&mut change.0, &read.0))
    }

    pub(super) fn state(&self, page: PageNumber) -> Option<State> {
        let frame = self.map.get(page)? as usize;
        Some(self.frames[frame].state)
    }

    pub(super) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// How many more pages readers may pin (reads in flight count as pinned).
    pub(super) fn room_to_pin(&self) -> usize {
        self.pinned_max.saturating_sub(self.pinned)
    }

    pub(super) fn pinned_max(&self) -> usize {
        self.pinned_max
    }

    /// A frame for a page that is not in memory; the caller fills it at once, the page's number
    /// included.
    pub(super) fn insert(&mut self, page: PageNumber, state: State) -> &mut Bytes {
        let frame = self.take_frame();
        let other = self.map.insert(page, frame);
        assert!(other.is_none(), "a page has one frame");
        self.incarnation += 1;
        let dirty_slot = self.dirty.len() as u32;
        if state == State::Dirty {
            self.dirty.push(frame);
        }
        self.frames[frame as usize] =
            Frame { page, state, pins: 0, incarnation: self.incarnation, dirty_slot };
        self.referenced[frame as usize].set(true);
        &mut self.pages[frame as usize].0
    }

    fn take_frame(&mut self) -> u32 {
        if let Some(frame) = self.free.pop() {
            return frame;
        }
        if self.frames.len() < self.frames_max {
            return self.grow();
        }
        // Only a caller that broke its dirty budget finds nothing to evict: going over the memory
        // budget once is better than stopping every replica at the same op, again at each replay.
        self.evict_one().unwrap_or_else(|| self.grow())
    }

    /// Frames for what the coming change will add, so that it evicts nothing midway.
    pub(super) fn reserve(&mut self, frames: usize) {
        while self.free.len() + self.frames_max.saturating_sub(self.frames.len()) < frames {
            let Some(frame) = self.evict_one() else { return };
            self.free.push(frame);
        }
    }

    fn evict_one(&mut self) -> Option<u32> {
        // Two turns of the hand: the first may only clear reference bits.
        for _ in 0..2 * self.frames.len() {
            let at = self.hand;
            self.hand = if at + 1 == self.frames.len() { 0 } else { at + 1 };
            let frame = self.frames[at];
            if frame.state == State::Clean && frame.pins == 0 && !self.referenced[at].replace(false)
            {
                self.evictions += 1;
                self.map.remove(frame.page);
                self.disown(at);
                return Some(at as u32);
            }
        }
        None
    }

    fn grow(&mut self) -> u32 {
        let frame = self.pages.grow() as u32;
        assert_eq!(frame as usize, self.frames.len());
        self.frames.push(Frame {
            page: PageNumber::ZERO,
            state: State::Free,
            pins: 0,
            incarnation: 0,
            dirty_slot: 0,
        });
        self.referenced.push(Cell::new(false));
        frame
    }

    /// The page leaves memory, whatever it was.
    pub(super) fn drop_page(&mut self, page: PageNumber) {
        let Some(frame) = self.map.remove(page) else { return };
        self.retire(frame);
        self.disown(frame as usize);
        self.free.push(frame);
    }

    /// The frame holds no page: its bytes must not claim to be one.
    fn disown(&mut self, frame: usize) {
        self.frames[frame].state = State::Free;
        page::set_number(&mut self.pages[frame].0, PageNumber::ZERO);
    }

    /// Ends the frame's present life: out of the dirty list, and its pins count no more.
    fn retire(&mut self, frame: u32) {
        let Frame { state, pins, dirty_slot, .. } = self.frames[frame as usize];
        if state == State::Dirty {
            let slot = dirty_slot as usize;
            assert_eq!(self.dirty.swap_remove(slot), frame);
            if let Some(&moved) = self.dirty.get(slot) {
                self.frames[moved as usize].dirty_slot = slot as u32;
            }
        }
        if pins > 0 {
            self.pinned -= 1;
            self.frames[frame as usize].pins = 0;
        }
        self.incarnation += 1;
        self.frames[frame as usize].incarnation = self.incarnation;
    }

    /// A clean page becomes a dirty one under another number, in its frame: the old one is on disk.
    pub(super) fn rename_to_dirty(&mut self, from: PageNumber, to: PageNumber) {
        let Some(frame) = self.map.remove(from) else {
            unreachable!("the caller holds the page in memory");
        };
        assert_eq!(self.frames[frame as usize].state, State::Clean);
        self.retire(frame);
        let other = self.map.insert(to, frame);
        assert!(other.is_none(), "a page has one frame");
        let dirty_slot = self.dirty.len() as u32;
        self.dirty.push(frame);
        let this = &mut self.frames[frame as usize];
        this.page = to;
        this.state = State::Dirty;
        this.dirty_slot = dirty_slot;
        page::set_number(&mut self.pages[frame as usize].0, to);
        self.referenced[frame as usize].set(true);
    }

    /// All dirty pages become frozen; `visit` gets each, in no particular order.
    pub(super) fn freeze(&mut self, mut visit: impl FnMut(PageNumber, &Bytes)) {
        for frame in self.dirty.drain(..) {
            let this = &mut self.frames[frame as usize];
            assert_eq!(this.state, State::Dirty);
            this.state = State::Frozen;
            visit(this.page, &self.pages[frame as usize].0);
        }
    }

    pub(super) fn set_state(&mut self, page: PageNumber, from: State, to: State) {
        let Some(frame) = self.map.get(page) else {
            unreachable!("a page under checkpoint stays in memory");
        };
        let this = &mut self.frames[frame as usize];
        assert_eq!(this.state, from, "{page:?}");
        this.state = to;
    }

    pub(super) fn pin(&mut self, page: PageNumber) -> Option<Pin> {
        let frame = self.map.get(page)?;
        let this = &mut self.frames[frame as usize];
        if this.pins == 0 {
            self.pinned += 1;
        }
        this.pins += 1;
        Some(Pin { frame, incarnation: this.incarnation })
    }

    /// Gives the page, if it is what it was.
    pub(super) fn unpin(&mut self, pin: Pin) -> Option<PageNumber> {
        let this = &mut self.frames[pin.frame as usize];
        if this.incarnation != pin.incarnation {
            return None; // The page was changed or freed since; its frame has another life.
        }
        assert!(this.pins > 0);
        this.pins -= 1;
        if this.pins == 0 {
            self.pinned -= 1;
        }
        Some(this.page)
    }

    /// Drops every clean page that nobody pins: the simulator's worst cache.
    pub(super) fn evict_all(&mut self) {
        for at in 0..self.frames.len() {
            let frame = self.frames[at];
            if frame.state == State::Clean && frame.pins == 0 {
                self.evictions += 1;
                self.drop_page(frame.page);
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // Reserved tables are memory only where they were written.
        self.pages.touched_max() * FRAME_BYTES as usize
    }

    /// Pages of the chunk of frames that should be handed in, if one should.
    pub(super) fn chunk_wanted(&self) -> Option<usize> {
        self.pages.chunk_wanted()
    }

    pub(super) fn give_chunk(&mut self, chunk: Chunk) {
        self.pages.give(chunk);
    }
}

/// Of the map: at most five places of 8 bytes a frame.
const MAP_BYTES: usize = 5 * 8;
/// Free list, dirty list, reference bit; two guesses.
const LISTS_BYTES: usize = 4 + 4 + 1 + 8;

static_assertions::const_assert!(
    crate::limits::PAGE_SIZE + size_of::<Frame>() + MAP_BYTES + LISTS_BYTES <= FRAME_BYTES as usize
);
