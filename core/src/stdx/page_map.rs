//! Page number → slot: the one hash map of the core.
//!
//! Purpose: find a page in a cache in a few nanoseconds. Open addressing with linear probing at a
//! load of at most one half; removal shifts entries back, so that there are no tombstones and a
//! long-lived map stays as fast as a fresh one.
//!
//! Invariants: the hash is fixed and has no seed; there is no iteration. Page 0 is never a key: it
//! marks an empty place, as in the grid.

use alloc::vec;
use alloc::vec::Vec;

use crate::ids::PageNumber;

#[derive(Debug)]
pub struct PageMap {
    entries: Vec<Entry>,
    length: usize,
    length_max: usize,
    /// Bits of a hash to drop so that the rest is an index.
    shift: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    page: u32,
    slot: u32,
}

const EMPTY: Entry = Entry { page: 0, slot: 0 };

impl PageMap {
    /// Room for `length_max` pages, for good.
    #[must_use]
    pub fn new(length_max: usize) -> PageMap {
        let places = (length_max.max(1) * 2).next_power_of_two();
        assert!(places <= 1 << 31, "a page number has 32 bits");
        let shift = 32 - places.trailing_zeros();
        PageMap { entries: vec![EMPTY; places], length: 0, length_max, shift }
    }

    #[must_use]
    pub fn get(&self, page: PageNumber) -> Option<u32> {
        let entry = self.entries[self.find(page)];
        (entry != EMPTY).then_some(entry.slot)
    }

    #[must_use]
    pub fn contains(&self, page: PageNumber) -> bool {
        self.get(page).is_some()
    }

    /// Gives the slot that the page had before. Putting more than `length_max` pages is a bug of
    /// the caller.
    pub fn insert(&mut self, page: PageNumber, slot: u32) -> Option<u32> {
        let at = self.find(page);
        let before = self.entries[at];
        if before == EMPTY {
            assert!(self.length < self.length_max, "a page map is never overfilled");
            self.length += 1;
        }
        self.entries[at] = Entry { page: page.get(), slot };
        (before != EMPTY).then_some(before.slot)
    }

    /// Gives the slot that the page had.
    pub fn remove(&mut self, page: PageNumber) -> Option<u32> {
        let mut hole = self.find(page);
        let removed = self.entries[hole];
        if removed == EMPTY {
            return None;
        }
        // Entries that probed past the hole move back into it, until the run ends.
        let mask = self.entries.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry == EMPTY {
                break;
            }
            let distance_home = at.wrapping_sub(self.home(entry.page)) & mask;
            let distance_hole = at.wrapping_sub(hole) & mask;
            if distance_home >= distance_hole {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = EMPTY;
        self.length -= 1;
        Some(removed.slot)
    }

    pub fn clear(&mut self) {
        self.entries.fill(EMPTY);
        self.length = 0;
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the page is, or the empty place where it would go. Ends because half is empty.
    fn find(&self, page: PageNumber) -> usize {
        let page = page.get();
        assert_ne!(page, EMPTY.page, "page 0 is never allocated");
        let mask = self.entries.len() - 1;
        let mut at = self.home(page);
        while self.entries[at].page != page && self.entries[at].page != EMPTY.page {
            at = (at + 1) & mask;
        }
        at
    }

    /// Fibonacci hashing: neighbours in the grid land far apart, and the high bits are the mixed
    /// ones.
    fn home(&self, page: u32) -> usize {
        (page.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Against an ordered map, crowded, with every kind of collision and wrap.
    #[test]
    fn equals_an_ordered_map() {
        for (length_max, pages) in [(1, 3), (5, 9), (64, 100), (300, 100_000)] {
            let mut map = PageMap::new(length_max);
            let mut model = BTreeMap::new();
            let mut state = 1u64;
            for step in 0..20_000u32 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let page = (state >> 33) as u32 % pages + 1;
                let number = PageNumber::new(page);
                assert_eq!(map.get(number), model.get(&page).copied());
                let full = model.len() == length_max && !model.contains_key(&page);
                if full || state >> 20 & 3 == 0 {
                    assert_eq!(map.remove(number), model.remove(&page));
                } else {
                    assert_eq!(map.insert(number, step), model.insert(page, step));
                }
                assert_eq!(map.len(), model.len());
                if step % 1_000 == 0 {
                    for page in 1..pages.min(2_000) + 1 {
                        assert_eq!(map.get(PageNumber::new(page)), model.get(&page).copied());
                    }
                }
            }
            map.clear();
            assert!(map.is_empty());
            assert!(!map.contains(PageNumber::new(1)));
        }
    }

    #[test]
    #[should_panic(expected = "never overfilled")]
    fn overfilling_is_a_bug() {
        let mut map = PageMap::new(1);
        map.insert(PageNumber::new(1), 0);
        map.insert(PageNumber::new(2), 0);
    }
}
