//! One seed, many independent streams.
//!
//! Purpose: everything that is drawn in a run comes from one number. Invariant: each consumer has
//! its own named stream, so a draw added in one place does not reshuffle the others. Nothing here
//! depends on the width of `usize` or on the build profile.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A named stream of draws.
#[derive(Clone, Debug)]
pub struct Random {
    seed: [u8; 32],
    rng: ChaCha8Rng,
}

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Random {
        let seed = *blake3::Hasher::new_derive_key("verity sim seed")
            .update(&seed.to_le_bytes())
            .finalize()
            .as_bytes();
        Random::from_bytes(seed)
    }

    fn from_bytes(seed: [u8; 32]) -> Random {
        Random { seed, rng: ChaCha8Rng::from_seed(seed) }
    }

    /// A stream that depends on this one's seed and on the name, not on what was drawn so far.
    #[must_use]
    pub fn stream(&self, name: &str) -> Random {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(name.as_bytes());
        Random::from_bytes(*hasher.finalize().as_bytes())
    }

    /// 32 bytes for those who take a seed of their own.
    pub fn seed_bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.fill(&mut bytes);
        bytes
    }

    pub fn u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }

    /// Uniform in `0..bound`; `bound` is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no element");
        let product = u128::from(self.rng.next_u64()) * u128::from(bound);
        (product >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range has no element");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.u64(),
        }
    }

    pub fn signed_range(&mut self, low: i64, high: i64) -> i64 {
        assert!(low <= high, "an empty range has no element");
        let width = high.wrapping_sub(low) as u64;
        low.wrapping_add(self.range(0, width) as i64)
    }

    /// True with probability `ppm` in a million.
    pub fn chance(&mut self, ppm: u64) -> bool {
        self.below(1_000_000) < ppm
    }

    pub fn coin(&mut self) -> bool {
        self.u64() & 1 == 1
    }

    /// An index into `items`.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// An index drawn in proportion to the weights; at least one is not zero.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let total: u64 = weights.iter().sum();
        let mut point = self.below(total);
        for (index, weight) in weights.iter().enumerate() {
            if point < *weight {
                return index;
            }
            point -= weight;
        }
        unreachable!("the point lies below the total")
    }

    /// Geometric stand-in for an exponential draw: integers only, so that no platform's `ln` can
    /// change a trace. Mean about `mean`, capped at `16 * mean`.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let mut sum = 0;
        for _ in 0..16 {
            sum += self.range(0, mean);
            if self.coin() {
                break;
            }
        }
        sum
    }

    /// A number of any magnitude up to `max`: small ones as likely as large ones.
    pub fn magnitude(&mut self, max: u64) -> u64 {
        let bits = 64 - u64::from(max.leading_zeros());
        let width = self.range(0, bits);
        let high = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
        self.range(0, high.min(max))
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn streams_are_independent_of_draws() {
        let mut one = Random::new(7);
        let untouched = one.stream("disk").u64();
        one.u64();
        assert_eq!(one.stream("disk").u64(), untouched);
        assert_ne!(one.stream("clock").u64(), untouched);
        assert_ne!(Random::new(8).stream("disk").u64(), untouched);
    }

    #[test]
    fn draws_stay_in_range_and_reach_the_ends() {
        let mut random = Random::new(1);
        let mut seen = [false; 5];
        for _ in 0..1_000 {
            seen[random.below(5) as usize] = true;
            assert!((3..=9).contains(&random.range(3, 9)));
            assert!((-3..=3).contains(&random.signed_range(-3, 3)));
            assert!(random.magnitude(1_000) <= 1_000);
            assert_ne!(random.weighted(&[1, 0, 1]), 1);
        }
        assert_eq!(seen, [true; 5]);
        assert!(!random.chance(0));
        assert!(random.chance(1_000_000));
    }
}
