//! A fixed number of bits, with a search for the first clear one.
//!
//! Purpose: which pages of the grid are in use. Invariants: bits past the end are clear and stay
//! so; `count` is always the number of set bits.

use alloc::vec;
use alloc::vec::Vec;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitSet {
    words: Vec<u64>,
    length: usize,
    count: usize,
}

impl BitSet {
    /// All clear.
    #[must_use]
    pub fn new(length: usize) -> BitSet {
        BitSet { words: vec![0; length.div_ceil(64)], length, count: 0 }
    }

    #[must_use]
    pub fn get(&self, at: usize) -> bool {
        assert!(at < self.length, "bit {at} of {}", self.length);
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// Gives whether the bit was set before.
    pub fn set(&mut self, at: usize) -> bool {
        let before = self.get(at);
        self.words[at / 64] |= 1 << (at % 64);
        self.count += usize::from(!before);
        before
    }

    /// Gives whether the bit was set before.
    pub fn clear(&mut self, at: usize) -> bool {
        let before = self.get(at);
        self.words[at / 64] &= !(1 << (at % 64));
        self.count -= usize::from(before);
        before
    }

    pub fn clear_all(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// The first clear bit at or after `from`.
    #[must_use]
    pub fn first_clear(&self, from: usize) -> Option<usize> {
        self.first(from, |word| !word)
    }

    /// The first set bit at or after `from`.
    #[must_use]
    pub fn first_set(&self, from: usize) -> Option<usize> {
        self.first(from, |word| word)
    }

    /// Number of set bits.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of bits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bit `i` is bit `i % 64` of word `i / 64`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// From [`BitSet::words`]; nothing if their number is wrong or a bit past the end is set.
    #[must_use]
    pub fn from_words(words: Vec<u64>, length: usize) -> Option<BitSet> {
        if words.len() != length.div_ceil(64) {
            return None;
        }
        if let Some(last) = words.last()
            && !length.is_multiple_of(64)
            && last >> (length % 64) != 0
        {
            return None;
        }
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Some(BitSet { words, length, count })
    }

    fn first(&self, from: usize, wanted: impl Fn(u64) -> u64) -> Option<usize> {
        if from >= self.length {
            return None;
        }
        let mut at = from / 64;
        let mut word = wanted(self.words[at]) & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = wanted(*self.words.get(at)?);
        }
        let found = at * 64 + word.trailing_zeros() as usize;
        (found < self.length).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_a_vector_of_booleans() {
        for length in [0, 1, 63, 64, 65, 200] {
            let mut set = BitSet::new(length);
            let mut model = vec![false; length];
            let mut state = 7u64;
            for _ in 0..if length == 0 { 0 } else { 3_000 } {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % length;
                // Seldom clears, so that full words occur.
                if state >> 20 & 7 == 0 {
                    assert_eq!(set.clear(at), core::mem::replace(&mut model[at], false));
                } else {
                    assert_eq!(set.set(at), core::mem::replace(&mut model[at], true));
                }
                assert_eq!(set.get(at), model[at]);
                assert_eq!(set.count(), model.iter().filter(|bit| **bit).count());
                let find = |bit| (at..length).find(|index| model[*index] == bit);
                assert_eq!(set.first_clear(at), find(false));
                assert_eq!(set.first_set(at), find(true));
            }
            assert_eq!(set.first_clear(length), None);
            assert_eq!(BitSet::from_words(set.words().to_vec(), length), Some(set.clone()));
            set.clear_all();
            assert_eq!((set.count(), set.len()), (0, length));
        }
    }

    #[test]
    fn words_that_are_no_set_are_refused() {
        assert_eq!(BitSet::from_words(vec![1 << 3], 3), None);
        assert_eq!(BitSet::from_words(vec![0, 0], 64), None);
        assert_eq!(BitSet::from_words(vec![], 1), None);
    }
}
