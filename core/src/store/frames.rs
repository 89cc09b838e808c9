//! The bytes of the frames, in chunks that grow one by one.
//!
//! Memory that nobody has touched yet costs its first user a fault of the processor for each page,
//! and on a virtual machine the host's besides: milliseconds for a chunk, in the middle of a
//! commit. So whoever drives the node is told when the next chunk is wanted
//! ([`Frames::chunk_wanted`]), makes it where nobody waits, and hands it in. Nothing depends on
//! whether it does: a chunk that is needed and not there is made here.
//!
//! Invariants: frames are numbered from 0 without a gap and never leave. All chunks have the same
//! length. What is handed in ahead keeps to `frames_max`; what is made here is touched only as it
//! is used, so the unused end of a chunk costs no memory. At most one chunk is in reserve.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use zerocopy::FromZeros;

use crate::io::Page;

/// Frames of a chunk, at most: 2 MiB, a page of the processor's larger size.
const CHUNK_MAX: usize = 512;
/// A cache has at least so many chunks, if they are not smaller than `CHUNK_MIN` for it.
const CHUNKS_MIN: usize = 32;
const CHUNK_MIN: usize = 8;

/// Zeroed pages that will be frames.
#[derive(Debug)]
pub struct Chunk(Box<[Page]>);

impl Chunk {
    #[must_use]
    pub fn zeroed(pages: usize) -> Chunk {
        match <[Page]>::new_box_zeroed_with_elems(pages) {
            Ok(pages) => Chunk(pages),
            Err(_) => unreachable!("the allocator aborts before it fails"),
        }
    }

    /// Writes to each page, so that it is there when it is used.
    pub fn touch(&mut self) {
        for page in &mut self.0 {
            // Zeros over what is known to be zeros would be left out.
            core::hint::black_box(&mut page.0)[0] = 0;
        }
        core::hint::black_box(&mut self.0);
    }
}

#[derive(Debug)]
pub(super) struct Frames {
    chunks: Vec<Chunk>,
    reserve: Option<Chunk>,
    /// Frames in use, of those that the chunks have.
    count: usize,
    frames_max: usize,
    /// Frames of a chunk: a power of two.
    chunk_bits: u32,
}

impl Frames {
    pub fn new(frames_max: usize) -> Frames {
        let chunk = (frames_max / CHUNKS_MIN).clamp(CHUNK_MIN, CHUNK_MAX);
        let chunk_bits = chunk.ilog2();
        Frames {
            chunks: Vec::with_capacity(frames_max.div_ceil(1 << chunk_bits)),
            reserve: None,
            count: 0,
            frames_max,
            chunk_bits,
        }
    }

    /// Frames that are in memory, used or not.
    pub fn touched_max(&self) -> usize {
        let chunks = self.chunks.len() + usize::from(self.reserve.is_some());
        (chunks << self.chunk_bits).min(self.frames_max).max(self.count)
    }

    /// Pages of the chunk that should be handed in, if one should. Not before the first is in use:
    /// most of the small databases need no second one.
    pub fn chunk_wanted(&self) -> Option<usize> {
        let next = (self.chunks.len() + 1) << self.chunk_bits;
        let wanted = self.reserve.is_none() && self.count > 0 && next <= self.frames_max;
        wanted.then_some(1 << self.chunk_bits)
    }

    /// Takes a chunk; one that is not wanted now is dropped.
    pub fn give(&mut self, chunk: Chunk) {
        if self.chunk_wanted() == Some(chunk.0.len()) {
            self.reserve = Some(chunk);
        }
    }

    /// One more frame, zeroed.
    pub fn grow(&mut self) -> usize {
        if self.count == self.chunks.len() << self.chunk_bits {
            let chunk = self.reserve.take();
            self.chunks.push(chunk.unwrap_or_else(|| Chunk::zeroed(1 << self.chunk_bits)));
        }
        self.count += 1;
        self.count - 1
    }

    #[inline]
    pub fn get(&self, frame: usize) -> Option<&Page> {
        let (chunk, at) = self.place(frame);
        self.chunks.get(chunk)?.0.get(at)
    }

    /// Two different frames at once.
    pub fn two_mut(&mut self, one: usize, other: usize) -> Option<(&mut Page, &mut Page)> {
        let ((chunk_one, at_one), (chunk_other, at_other)) = (self.place(one), self.place(other));
        if chunk_one == chunk_other {
            let chunk = &mut self.chunks.get_mut(chunk_one)?.0;
            let [one, other] = chunk.get_disjoint_mut([at_one, at_other]).ok()?;
            return Some((one, other));
        }
        let [one, other] = self.chunks.get_disjoint_mut([chunk_one, chunk_other]).ok()?;
        Some((one.0.get_mut(at_one)?, other.0.get_mut(at_other)?))
    }

    #[inline]
    fn place(&self, frame: usize) -> (usize, usize) {
        (frame >> self.chunk_bits, frame & ((1 << self.chunk_bits) - 1))
    }
}

impl Index<usize> for Frames {
    type Output = Page;

    fn index(&self, frame: usize) -> &Page {
        let (chunk, at) = self.place(frame);
        &self.chunks[chunk].0[at]
    }
}

impl IndexMut<usize> for Frames {
    fn index_mut(&mut self, frame: usize) -> &mut Page {
        let (chunk, at) = self.place(frame);
        &mut self.chunks[chunk].0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames keep their content and their zeros, with chunks handed in at some times, never, or
    /// always, and of wrong sizes.
    #[test]
    fn frames_are_the_same_whoever_makes_the_chunks() {
        for (frames_max, every) in [(300, 0), (300, 1), (300, 7), (9, 1), (9, 0), (5_000, 3)] {
            let mut frames = Frames::new(frames_max);
            assert_eq!(frames.chunk_wanted(), None, "none is in use");
            let mut given = 0;
            for at in 0..frames_max + 20 {
                assert_eq!(frames.grow(), at);
                assert!(frames[at].0.iter().all(|byte| *byte == 0), "a new frame is zeroed");
                frames[at].0[7] = at as u8 | 1;
                if every > 0 && at % every == 0 {
                    frames.give(Chunk::zeroed(3));
                    if let Some(pages) = frames.chunk_wanted() {
                        let mut chunk = Chunk::zeroed(pages);
                        chunk.touch();
                        frames.give(chunk);
                        given += 1;
                        assert_eq!(frames.chunk_wanted(), None, "one is enough");
                    }
                }
                assert!(frames.touched_max() <= frames_max.max(at + 1));
            }
            assert_eq!(given > 0, every > 0 && frames_max > 9, "{frames_max} {every}");
            for at in 0..frames_max + 20 {
                assert_eq!(frames.get(at).unwrap().0[7], at as u8 | 1);
            }
            assert!(frames.get(u32::MAX as usize).is_none());
        }
    }

    #[test]
    fn two_frames_at_once_are_two() {
        let mut frames = Frames::new(64);
        while frames.count < 40 {
            let at = frames.grow();
            frames[at].0[0] = at as u8;
        }
        for (one, other) in [(0, 1), (1, 0), (0, 39), (39, 0), (7, 8)] {
            let (a, b) = frames.two_mut(one, other).unwrap();
            assert_eq!((a.0[0] as usize, b.0[0] as usize), (one, other));
        }
        assert!(frames.two_mut(3, 3).is_none());
        assert!(frames.two_mut(3, 4_000).is_none());
    }
}
