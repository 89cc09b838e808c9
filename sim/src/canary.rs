//! Markers in every tenant's plaintext, and the search for them in bytes that reach a disk.
//!
//! A canary is one random unit of four bytes, repeated four times; texts repeat it further. The
//! search looks at every eighth byte only, which no run of sixteen can slip through, so that every
//! write can be searched as it is issued: also what is overwritten later, or torn, is seen.

use crate::random::Random;

pub const UNIT: usize = 4;
pub const CANARY_SIZE: usize = 16;
/// A run at least this long is no accident.
const RUN_MIN: usize = 12;
const STRIDE: usize = 8;

const ALPHABET: &[u8; 32] = b"ABCDEFGHJKMNPQRSTVWXYZ0123456789";

/// A canary for one tenant; its four characters are not all the same.
pub fn draw(random: &mut Random) -> String {
    let mut unit = String::new();
    for place in 0..UNIT {
        let from = ALPHABET.len() as u64 / UNIT as u64 * place as u64;
        let index = from + random.below(ALPHABET.len() as u64 / UNIT as u64);
        unit.push(char::from(ALPHABET[index as usize]));
    }
    unit.repeat(CANARY_SIZE / UNIT)
}

#[derive(Clone, Debug)]
pub struct Search {
    /// Every rotation of every tenant's unit, sorted.
    rotations: Vec<[u8; UNIT]>,
}

impl Search {
    #[must_use]
    pub fn new(canaries: &[String]) -> Search {
        let mut rotations = Vec::new();
        for canary in canaries {
            let bytes = canary.as_bytes();
            for start in 0..UNIT {
                let mut rotation = [0; UNIT];
                rotation.copy_from_slice(&bytes[start..start + UNIT]);
                rotations.push(rotation);
            }
        }
        rotations.sort_unstable();
        rotations.dedup();
        Search { rotations }
    }

    /// Offset of the first canary in the bytes.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at + UNIT <= bytes.len() {
            let window = &bytes[at..at + UNIT];
            // Cheap first: the alphabet is ASCII.
            if window[0].is_ascii()
                && self.rotations.iter().any(|rotation| rotation == window)
                && run_length(bytes, at) >= RUN_MIN
            {
                return Some(at);
            }
            at += STRIDE;
        }
        None
    }
}

/// Length of the longest stretch around `at` that repeats every four bytes.
fn run_length(bytes: &[u8], at: usize) -> usize {
    let mut start = at;
    while start > 0 && bytes[start - 1] == bytes[start - 1 + UNIT] {
        start -= 1;
    }
    let mut end = at + UNIT;
    while end < bytes.len() && bytes[end] == bytes[end - UNIT] {
        end += 1;
    }
    end - start
}

#[cfg(test)]
mod tests {
    use super::{CANARY_SIZE, Search, draw};
    use crate::random::Random;

    #[test]
    fn a_canary_is_found_at_every_offset_and_noise_is_not() {
        let mut random = Random::new(5);
        let canaries = [draw(&mut random), draw(&mut random)];
        let search = Search::new(&canaries);
        let mut noise = vec![0; 4096];
        for canary in &canaries {
            assert_eq!(canary.len(), CANARY_SIZE);
            for offset in 0..64 {
                random.fill(&mut noise);
                assert_eq!(search.find(&noise), None);
                noise[offset..offset + CANARY_SIZE].copy_from_slice(canary.as_bytes());
                assert!(search.find(&noise).is_some(), "offset {offset}");
            }
        }
        assert_eq!(search.find(&[b'A'; 64]), None);
    }
}
