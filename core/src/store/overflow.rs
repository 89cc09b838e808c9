//! Values too long for a leaf: pages of their own.
//!
//! A value of more than [`super::VALUE_INLINE_MAX`] bytes leaves a stub in the leaf: its size and
//! one page reference. If it fits one page, that is the data page; else it is an *index page* that
//! names all data pages in order. Chosen over a chain because a cold read then takes two rounds of
//! I/O instead of one a page, and freeing reads one page instead of all.
//!
//! Invariants: pages of a value are written once and never changed; a changed value gets new ones.

use alloc::vec::Vec;

use super::cache::State;
use super::page::{self, CAPACITY, Kind, REF_SIZE, STUB_SIZE};
use super::{Fault, Store, TreeRef, VALUE_INLINE_MAX, VALUE_SIZE_MAX};
use crate::event::Event;
use crate::ids::PageNumber;
use crate::superblock::PageRef;

static_assertions::const_assert!(VALUE_SIZE_MAX.div_ceil(CAPACITY) * REF_SIZE <= CAPACITY);

/// Bytes that a value takes in its leaf.
pub(super) const fn stored_size(value_size: usize) -> usize {
    if value_size > VALUE_INLINE_MAX { STUB_SIZE } else { value_size }
}

/// Pages that a value takes outside its leaf.
pub(super) const fn pages_of(value_size: usize) -> usize {
    if value_size <= VALUE_INLINE_MAX {
        return 0;
    }
    let data = value_size.div_ceil(CAPACITY);
    if data > 1 { data + 1 } else { data }
}

impl Store {
    pub(super) fn read_overflow(
        &self,
        tree: TreeRef,
        size: usize,
        root: PageRef,
        into: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let first = self.load(tree, root.page, || root)?;
        if size <= CAPACITY {
            into.extend_from_slice(page::payload(first));
        } else {
            // All misses of a value at once.
            let mut missing = None;
            for index in 0..page::count(first) {
                let at = page::index_ref(first, index);
                match self.load(tree, at.page, || at) {
                    Ok(data) if missing.is_none() => into.extend_from_slice(page::payload(data)),
                    Ok(_) => {}
                    Err(fault) => missing = Some(fault),
                }
            }
            if let Some(fault) = missing {
                return Err(fault);
            }
        }
        assert_eq!(into.len(), size, "a stub knows the size of its value");
        Ok(())
    }

    /// The first bytes of a value, which lie in its first data page.
    pub(super) fn read_overflow_start(
        &self,
        tree: TreeRef,
        size: usize,
        root: PageRef,
        into: &mut [u8],
    ) -> Result<(), Fault> {
        let mut data = self.load(tree, root.page, || root)?;
        if size > CAPACITY {
            let at = page::index_ref(data, 0);
            data = self.load(tree, at.page, || at)?;
        }
        into.copy_from_slice(&page::payload(data)[..into.len()]);
        Ok(())
    }

    /// Loads what freeing the value will need.
    pub(super) fn plan_free_overflow(
        &self,
        tree: TreeRef,
        size: usize,
        root: PageRef,
    ) -> Result<(), Fault> {
        if size > CAPACITY {
            self.load(tree, root.page, || root)?;
        }
        Ok(())
    }

    pub(super) fn free_overflow(&mut self, size: usize, root: PageRef) {
        if size > CAPACITY {
            for index in 0..page::count(self.bytes(root.page)) {
                let data = page::index_ref(self.bytes(root.page), index);
                self.free_page(data.page);
            }
        }
        self.free_page(root.page);
    }

    /// Writes the value to pages of its own; what the leaf keeps.
    pub(super) fn write_overflow(&mut self, tree: TreeRef, value: &[u8]) -> [u8; STUB_SIZE] {
        assert!(value.len() > VALUE_INLINE_MAX);
        let root = if value.len() <= CAPACITY {
            self.write_data(tree, value)
        } else {
            let index = self.new_page(tree, Kind::OverflowIndex, 1);
            for piece in value.chunks(CAPACITY) {
                let data = self.write_data(tree, piece);
                page::push_index_ref(self.bytes_mut(index), data);
            }
            index
        };
        self.mark(Event::OverflowWritten { pages: pages_of(value.len()) as u32 });
        let mut stub = [0; STUB_SIZE];
        stub[..4].copy_from_slice(&(value.len() as u32).to_le_bytes());
        page::write_ref(&mut stub, 4, &page::pending(root));
        stub
    }

    fn write_data(&mut self, tree: TreeRef, piece: &[u8]) -> PageNumber {
        let number = self.new_page(tree, Kind::OverflowData, 0);
        page::set_payload(self.bytes_mut(number), piece);
        number
    }

    /// A fresh dirty page.
    pub(super) fn new_page(&mut self, tree: TreeRef, kind: Kind, level: u8) -> PageNumber {
        let number = self.acquire_page();
        let bytes = self.cache.insert(number, State::Dirty);
        page::init(bytes, number, kind, level, tree);
        number
    }
}
