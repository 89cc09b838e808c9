//! Which pages of the grid are in use: deterministic allocation and two-step release.
//!
//! Purpose: `acquire` gives the lowest free page number, a function of the ops applied and of
//! nothing else. A page that some durable checkpoint may still need is not freed but *staged*;
//! staged pages become free when the checkpoint that no longer needs them is known to be durable
//! on a quorum, which the kernel learns from a prepare's header, so again from ops alone.
//!
//! Invariants: page 0 is never given out; a page is acquired, free or staged (staged pages stay
//! acquired); releasing what is not acquired is a bug and asserted.
//!
//! Encoding (inside the free set chain of a checkpoint), LEB128 numbers: page count, then runs of
//! (pages to skip, pages acquired) until the count is reached, then the count of staged pages and
//! runs of (pages to skip, pages staged).

use alloc::vec::Vec;

use crate::ids::{Op, PageNumber};

#[derive(Debug, Default)]
pub(super) struct FreeSet {
    /// `levels[0]` has a bit per page (set: acquired); a bit of a higher level says that the word
    /// below is full. Page numbers start at 1: bit 0 of level 0 is always set.
    levels: [Vec<u64>; LEVELS],
    acquired: u32,
    /// One more than the highest page ever acquired: the file's length in pages.
    pages: u32,
    /// Freed since the last checkpoint began, though part of it.
    staged: Vec<PageNumber>,
    /// Freed before the checkpoint `op` began: free once that checkpoint is durable on a quorum.
    pending: Option<(Op, Vec<PageNumber>)>,
}

const LEVELS: usize = 5;

impl FreeSet {
    pub(super) fn new() -> FreeSet {
        let mut set = FreeSet::default();
        let zero = set.acquire();
        assert_eq!(zero, PageNumber::ZERO);
        set.acquired = 0;
        set
    }

    /// All pages below `pages` are acquired.
    pub(super) fn behind(pages: u32) -> FreeSet {
        if pages <= 1 {
            return FreeSet::new();
        }
        let mut set = FreeSet::default();
        set.set_run(0, pages);
        set.acquired = pages - 1;
        set.pages = pages;
        set
    }

    /// The lowest free page. The caller has checked that the grid may grow that far.
    pub(super) fn acquire(&mut self) -> PageNumber {
        let mut index = 0;
        for level in (0..LEVELS).rev() {
            let words = &mut self.levels[level];
            if words.len() == index {
                words.push(0);
            }
            assert!(index < words.len(), "levels grow together");
            let bit = words[index].trailing_ones() as usize;
            assert!(bit < 64, "the summary said that this word has room");
            index = index * 64 + bit;
        }
        self.set(index);
        self.acquired += 1;
        self.pages = self.pages.max(index as u32 + 1);
        PageNumber::new(index as u32)
    }

    fn set(&mut self, mut index: usize) {
        for words in &mut self.levels {
            let (word, bit) = (index / 64, index % 64);
            while words.len() <= word {
                words.push(0);
            }
            words[word] |= 1 << bit;
            if words[word] != u64::MAX {
                break;
            }
            index = word;
        }
    }

    /// Of a page that no checkpoint knows: free at once.
    pub(super) fn release(&mut self, page: PageNumber) {
        assert_ne!(page, PageNumber::ZERO);
        let mut index = page.get() as usize;
        assert!(self.is_acquired(page), "released twice: {page:?}");
        for words in &mut self.levels {
            let (word, bit) = (index / 64, index % 64);
            let was_full = words[word] == u64::MAX;
            words[word] &= !(1 << bit);
            if !was_full {
                break;
            }
            index = word;
        }
        self.acquired -= 1;
    }

    /// Of a page that the last checkpoint holds: free when the next one is durable.
    pub(super) fn stage(&mut self, page: PageNumber) {
        assert!(self.is_acquired(page), "staged a free page: {page:?}");
        #[cfg(verity_zoo)]
        if crate::zoo::is("page_reused_early") {
            self.release(page);
            return;
        }
        self.staged.push(page);
    }

    pub(super) fn is_acquired(&self, page: PageNumber) -> bool {
        let index = page.get() as usize;
        self.levels[0].get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let words: usize = self.levels.iter().map(Vec::len).sum();
        let pending = self.pending.as_ref().map_or(0, |(_, pages)| pages.len());
        words * size_of::<u64>() + (self.staged.len() + pending) * size_of::<PageNumber>()
    }

    pub(super) fn acquired(&self) -> u32 {
        self.acquired
    }

    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    #[cfg(test)]
    pub(super) fn staged(&self) -> impl Iterator<Item = PageNumber> + '_ {
        let pending = self.pending.iter().flat_map(|(_, pages)| pages.iter());
        self.staged.iter().chain(pending).copied()
    }

    /// Staged pages are from now on waiting for checkpoint `op` to be durable. What still waited
    /// for an older checkpoint waits for this one: later is always safe.
    pub(super) fn begin(&mut self, op: Op) {
        let mut pages = core::mem::take(&mut self.staged);
        if let Some((older, mut waiting)) = self.pending.take() {
            assert!(older < op, "checkpoints go forward");
            pages.append(&mut waiting);
        }
        pages.sort_unstable();
        self.pending = Some((op, pages));
    }

    /// Checkpoint `op` is durable on a quorum.
    pub(super) fn durable(&mut self, op: Op) {
        let Some((waiting_for, pages)) = self.pending.take() else { return };
        if waiting_for > op {
            self.pending = Some((waiting_for, pages));
            return;
        }
        for page in pages {
            self.release(page);
        }
    }

    /// Tells how many runs of free pages there are.
    pub(super) fn encode(&self, into: &mut Vec<u8>) -> u64 {
        into.clear();
        write_number(into, u64::from(self.pages));
        let mut free_runs = 0;
        let mut at = 0u32;
        while at < self.pages {
            let free = self.run(at, false);
            free_runs += u64::from(free > 0);
            let used = self.run(at + free, true);
            write_number(into, u64::from(free));
            write_number(into, u64::from(used));
            at += free + used;
        }
        let pending: &[PageNumber] = self.pending.as_ref().map_or(&[], |(_, pages)| pages);
        write_number(into, pending.len() as u64);
        let mut at = 0;
        let mut index = 0;
        while index < pending.len() {
            let first = pending[index].get();
            let mut run = 1;
            while index + run < pending.len() && pending[index + run].get() == first + run as u32 {
                run += 1;
            }
            write_number(into, u64::from(first - at));
            write_number(into, run as u64);
            at = first + run as u32;
            index += run;
        }
        free_runs
    }

    /// Length of the run of equal bits from `at`, never past `pages`.
    fn run(&self, at: u32, acquired: bool) -> u32 {
        let mut length = 0;
        while at + length < self.pages {
            let index = (at + length) as usize;
            let word = self.levels[0].get(index / 64).copied().unwrap_or(0);
            let word = if acquired { !word } else { word } >> (index % 64);
            let left_in_word = 64 - (index % 64) as u32;
            let same = word.trailing_zeros().min(left_in_word);
            length += same;
            if same < left_in_word {
                break;
            }
        }
        length.min(self.pages - at)
    }

    /// `None`: not an encoding that `encode` makes. `op`: the checkpoint it was part of.
    pub(super) fn decode(mut bytes: &[u8], op: Op) -> Option<FreeSet> {
        let mut set = FreeSet::default();
        let pages = u32::try_from(read_number(&mut bytes)?).ok()?;
        let mut at = 0u32;
        while at < pages {
            let free = u32::try_from(read_number(&mut bytes)?).ok()?;
            let used = u32::try_from(read_number(&mut bytes)?).ok()?;
            let first = at.checked_add(free)?;
            let end = first.checked_add(used)?;
            if end > pages || end == at {
                return None;
            }
            set.set_run(first, end);
            set.acquired += used;
            at = end;
        }
        if !set.is_acquired(PageNumber::ZERO) {
            return None;
        }
        set.acquired -= 1;
        set.pages = pages;
        let count = usize::try_from(read_number(&mut bytes)?).ok()?;
        if count > pages as usize {
            return None;
        }
        let mut staged = Vec::with_capacity(count);
        let mut at = 0u32;
        while staged.len() < count {
            let first = at.checked_add(u32::try_from(read_number(&mut bytes)?).ok()?)?;
            let run = u32::try_from(read_number(&mut bytes)?).ok()?;
            let end = first.checked_add(run)?;
            if run == 0 || end > pages || staged.len() + run as usize > count {
                return None;
            }
            staged.extend((first..end).map(PageNumber::new));
            at = end;
        }
        if !bytes.is_empty() || staged.iter().any(|&page| !set.is_acquired(page)) {
            return None;
        }
        set.pending = Some((op, staged));
        Some(set)
    }

    fn set_run(&mut self, first: u32, end: u32) {
        for index in first..end {
            self.set(index as usize);
        }
        // The summary levels must exist even where the last run leaves their words empty.
        let mut index = end.saturating_sub(1) as usize;
        for words in &mut self.levels {
            while words.len() <= index / 64 {
                words.push(0);
            }
            index /= 64;
        }
    }
}

fn write_number(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::FreeSet;
    use crate::ids::{Op, PageNumber};
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    #[test]
    fn gives_the_lowest_free_page_and_survives_encoding() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut set = FreeSet::new();
        let mut model: BTreeSet<u32> = BTreeSet::from([0]);
        let mut bytes = Vec::new();
        for step in 1..30_000u64 {
            if random.next_u32() % 5 < 3 || model.len() == 1 {
                let lowest = (0..).find(|page| !model.contains(page)).unwrap();
                assert_eq!(set.acquire().get(), lowest);
                model.insert(lowest);
            } else {
                let nth = 1 + random.next_u32() as usize % (model.len() - 1);
                let page = *model.iter().nth(nth).unwrap();
                model.remove(&page);
                set.release(PageNumber::new(page));
            }
            assert_eq!(set.acquired() as usize, model.len() - 1);
            if step % 1_000 == 0 {
                set.begin(Op::new(step));
                set.encode(&mut bytes);
                let again = FreeSet::decode(&bytes, Op::new(step)).unwrap();
                assert_eq!(again.acquired(), set.acquired());
                assert_eq!(again.pages(), set.pages());
                set = again;
                for cut in 0..bytes.len() {
                    assert!(FreeSet::decode(&bytes[..cut], Op::new(step)).is_none());
                }
            }
        }
    }

    #[test]
    fn behind_pages_that_are_kept() {
        for kept in [0, 1, 2, 63, 64, 65, 4_095, 4_096, 4_097, 300_000] {
            let mut set = FreeSet::behind(kept);
            assert_eq!(set.acquired(), kept.saturating_sub(1));
            assert_eq!(set.acquire().get(), kept.max(1));
            for page in 1..kept {
                set.stage(PageNumber::new(page));
            }
            set.begin(Op::new(5));
            let mut bytes = Vec::new();
            set.encode(&mut bytes);
            let mut set = FreeSet::decode(&bytes, Op::new(5)).unwrap();
            set.durable(Op::new(5));
            assert_eq!(set.acquired(), 1, "{kept}");
            assert_eq!(set.acquire().get(), if kept > 1 { 1 } else { 2 }, "{kept}");
        }
    }

    #[test]
    fn staged_pages_wait_for_the_checkpoint() {
        let mut set = FreeSet::new();
        let pages: Vec<_> = (0..300).map(|_| set.acquire()).collect();
        set.stage(pages[3]);
        assert_eq!(set.acquire().get(), 301);
        set.begin(Op::new(9));
        set.stage(pages[4]);
        set.durable(Op::new(8));
        assert_eq!(set.acquire().get(), 302);
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        let mut again = FreeSet::decode(&bytes, Op::new(9)).unwrap();
        again.durable(Op::new(9));
        assert_eq!(again.acquire(), pages[3]);
        set.durable(Op::new(9));
        assert_eq!(set.acquire(), pages[3]);
        assert_eq!(set.acquire().get(), 303);
    }
}
