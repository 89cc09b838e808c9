//! Page number → frame: an open-addressing table of integers.
//!
//! Purpose: the one lookup that every page access pays. Linear probing, Fibonacci hashing (page
//! numbers come in runs), backward-shift deletion, so that no tombstone ever slows a hit. Invariant:
//! nothing iterates it, so its layout can steer no state; key 0 means "empty", page 0 is never
//! allocated.

use alloc::vec;
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) struct PageMap {
    /// (page, frame); page 0 is an empty slot.
    slots: Vec<(u32, u32)>,
    shift: u32,
    len: usize,
}

impl PageMap {
    pub(super) fn with_room_for(entries: usize) -> PageMap {
        let capacity = (entries.max(8) * 2).next_power_of_two();
        PageMap { slots: vec![(0, 0); capacity], shift: 32 - capacity.trailing_zeros(), len: 0 }
    }

    #[inline]
    fn home(&self, page: u32) -> usize {
        (page.wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    #[inline]
    pub(super) fn get(&self, page: u32) -> Option<u32> {
        debug_assert_ne!(page, 0);
        let mask = self.mask();
        let mut at = self.home(page);
        loop {
            let (key, frame) = self.slots[at & mask];
            if key == page {
                return Some(frame);
            }
            if key == 0 {
                return None;
            }
            at += 1;
        }
    }

    pub(super) fn insert(&mut self, page: u32, frame: u32) {
        assert_ne!(page, 0, "page 0 means none");
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let mask = self.mask();
        let mut at = self.home(page) & mask;
        while self.slots[at].0 != 0 {
            assert_ne!(self.slots[at].0, page, "a page has one frame");
            at = (at + 1) & mask;
        }
        self.slots[at] = (page, frame);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, page: u32) -> Option<u32> {
        let mask = self.mask();
        let mut at = self.home(page) & mask;
        loop {
            let (key, _) = self.slots[at];
            if key == 0 {
                return None;
            }
            if key == page {
                break;
            }
            at = (at + 1) & mask;
        }
        let frame = self.slots[at].1;
        // Pull back every follower of the cluster that may live nearer to its home.
        let mut hole = at;
        let mut next = (at + 1) & mask;
        while self.slots[next].0 != 0 {
            let home = self.home(self.slots[next].0) & mask;
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = (0, 0);
        self.len -= 1;
        Some(frame)
    }

    fn grow(&mut self) {
        let mut larger = PageMap::with_room_for(self.slots.len());
        for &(page, frame) in &self.slots {
            if page != 0 {
                larger.insert(page, frame);
            }
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::PageMap;
    use alloc::collections::BTreeMap;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    #[test]
    fn behaves_like_an_ordered_map() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut map = PageMap::with_room_for(4);
        let mut model = BTreeMap::new();
        for step in 0..200_000u32 {
            let page = random.next_u32() % 512 + 1;
            match random.next_u32() % 3 {
                0 => assert_eq!(map.get(page), model.get(&page).copied()),
                1 => assert_eq!(map.remove(page), model.remove(&page)),
                _ => {
                    if model.insert(page, step).is_some() {
                        map.remove(page);
                    }
                    map.insert(page, step);
                }
            }
        }
    }
}
