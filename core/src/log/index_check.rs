//! Does an index say what its segment does? Held against the records as they stream by.
//!
//! Purpose: `verify` reads every segment anyway; this compares each record's entry, and each tile
//! that it completes, with the pages of the index file. Whether a page is whole is told by its
//! checksum, and is somebody else's question: a page that is not is passed over here.
//!
//! Invariants: an index is derived, so nothing here is damage of the log. Two pages are held.

use alloc::boxed::Box;

use super::RecordView;
use super::index::{self, IndexEntry, IndexOf, Layout, Slot};
use super::rebuild::tiles;
use crate::ids::Position;
use crate::io::Page;
use zerocopy::FromZeros;

/// Reads a page of the index; false: it cannot be read. Past the end of the file there are zeros.
pub type ReadPage<'a> = &'a mut dyn FnMut(u32, &mut Page) -> bool;

/// One index, while its segment is gone through.
#[derive(Debug)]
pub struct IndexCheck {
    of: IndexOf,
    layout: Layout,
    first: u64,
    entries: Held,
    tiles: Held,
    wrong: u64,
    wrong_first: Option<Position>,
}

/// The page of a kind that was looked at last; none of it if it is not whole.
#[derive(Debug, Default)]
struct Held {
    number: Option<u32>,
    page: Option<Box<Page>>,
}

impl IndexCheck {
    #[must_use]
    pub fn new(of: IndexOf, segment_positions: u64) -> IndexCheck {
        IndexCheck {
            of,
            layout: Layout::new(segment_positions),
            first: u64::from(of.segment.get()) * segment_positions,
            entries: Held::default(),
            tiles: Held::default(),
            wrong: 0,
            wrong_first: None,
        }
    }

    /// A record that the segment holds.
    pub fn record(&mut self, view: &RecordView<'_>, read: ReadPage<'_>) {
        let IndexCheck { of, layout, first, entries, tiles: upper, .. } = self;
        let position = view.record.metadata.position;
        let entry = IndexEntry { offset: view.offset, hash: view.record.hash };
        let slot = layout.entry(position.get() - *first);
        let mut right = entries.holds(*of, slot, &index::encode_entry(&entry), read);
        tiles(*layout, *first, view, |slot, hash| right &= upper.holds(*of, slot, hash, read));
        if !right {
            self.wrong += 1;
            self.wrong_first.get_or_insert(position);
        }
    }

    /// Records of which the index says something else, or nothing; and the first of them.
    #[must_use]
    pub fn wrong(&self) -> Option<(u64, Position)> {
        self.wrong_first.map(|first| (self.wrong, first))
    }
}

impl Held {
    /// Also true where the page is not whole.
    fn holds(&mut self, of: IndexOf, slot: Slot, bytes: &[u8], read: ReadPage<'_>) -> bool {
        if self.number != Some(slot.page) {
            let mut page = self.page.take().unwrap_or_else(|| Box::new(Page::new_zeroed()));
            let there = read(slot.page, &mut page);
            let blank = page.0.iter().all(|byte| *byte == 0);
            let whole = there && (blank || index::page_is_good(of, slot.page, &page.0));
            self.number = Some(slot.page);
            self.page = whole.then_some(page);
        }
        let at = slot.at as usize..(slot.at + slot.size) as usize;
        self.page.as_ref().is_none_or(|page| page.0[at] == *bytes)
    }
}
