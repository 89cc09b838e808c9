//! The grid grows ahead: zeros are written behind its end before pages are.
//!
//! Purpose: a write that makes a file longer is slow (the file system does it under a lock, in a
//! thread of its own), and makes others slow: it changes the inode, and where the file system has
//! no journal each durable write to a file whose inode shares that block (our journal's does) has
//! to carry the block along, a third operation of the device in place of two.
//!
//! Invariants: zeros go only where nothing was ever written. A write that begins or ends where
//! zeros are on their way is held until they are done. At most one write of zeros at a time.
//!
//! Fault model: zeros that cannot be written (a full disk) are given up without a word, for pages
//! go on to be written as they were: behind the end. On a disk with little room nothing is written
//! ahead. A kill leaves a longer file whose end is zeros or a hole, which nothing refers to.

use std::collections::VecDeque;
use std::sync::Arc;

use verity_core::io::{FileId, IoId, Owner, Pages};
use verity_core::limits::PAGE_SIZE;

use super::files::OpenFile;
use super::job::{Job, Kind};

/// Pages written at a time: long enough that they are few, short enough not to be waited for.
const CHUNK_PAGES: usize = 64;
const CHUNK_BYTES: u64 = (CHUNK_PAGES * PAGE_SIZE) as u64;
/// How far behind the last page there are zeros.
const AHEAD_BYTES: u64 = 8 << 20;
/// With less free than this nothing is written ahead: it is left to what must be written.
const FREE_MIN_BYTES: u64 = 1 << 30;

#[derive(Debug, Default)]
pub struct Ahead {
    /// End of what was written to the grid, as far as is known: its length, and every write since.
    end: u64,
    /// End of the last page, so that it is known how far ahead the zeros are.
    pages_end: u64,
    zeros: Zeros,
    /// Writes that wait for the zeros, in order.
    held: VecDeque<Job>,
}

#[derive(Debug)]
enum Zeros {
    /// At hand: the buffer, which is empty before it is first needed.
    Idle(Pages),
    /// On their way.
    Writing { from: u64, to: u64 },
    /// There is no room, or the file system does not want them.
    GivenUp,
}

impl Default for Zeros {
    fn default() -> Zeros {
        Zeros::Idle(Pages::default())
    }
}

impl Ahead {
    /// Whether a job is one of those that [`Ahead::next`] gave out.
    pub fn is_zeros(job: &Job) -> bool {
        job.kind == Kind::Zeros
    }

    /// Zeros that are on their way, of which no one else knows.
    pub fn in_flight(&self) -> usize {
        usize::from(matches!(self.zeros, Zeros::Writing { .. }))
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// A write of pages to the grid. `None`: it waits for zeros.
    pub fn admit(&mut self, job: Job) -> Option<Job> {
        let (begin, end) = (job.offset, job.offset + job.pages.size_bytes() as u64);
        self.pages_end = self.pages_end.max(end);
        if let Zeros::Writing { from, to } = self.zeros
            && begin < to
            && from < end
        {
            self.held.push_back(job);
            return None;
        }
        self.end = self.end.max(end);
        Some(job)
    }

    /// Zeros to write now, if any. `length` is that of the file.
    pub fn next(
        &mut self,
        file: &Arc<OpenFile>,
        length: impl FnOnce() -> Option<u64>,
        free_bytes: impl FnOnce() -> Option<u64>,
    ) -> Option<Job> {
        if self.end >= self.pages_end + AHEAD_BYTES {
            return None;
        }
        let Zeros::Idle(pages) = &mut self.zeros else { return None };
        // Also what others wrote, before this process or behind its back.
        let from = self.end.max(length()?).next_multiple_of(PAGE_SIZE as u64);
        self.end = from;
        if from >= self.pages_end + AHEAD_BYTES
            || free_bytes().is_none_or(|free| free < FREE_MIN_BYTES)
        {
            return None;
        }
        let mut pages = std::mem::take(pages);
        pages.resize(CHUNK_PAGES);
        self.zeros = Zeros::Writing { from, to: from + CHUNK_BYTES };
        Some(Job {
            io: IoId { owner: Owner::Store, slot: u64::MAX },
            kind: Kind::Zeros,
            file: Arc::clone(file),
            offset: from,
            pages,
            moved: 0,
            name: FileId::Grid,
        })
    }

    /// The zeros are there, or not; what waited for them may go.
    pub fn finished(&mut self, job: Job, worked: bool) -> VecDeque<Job> {
        let Zeros::Writing { to, .. } = self.zeros else {
            unreachable!("zeros that were on their way have come");
        };
        self.zeros = if worked { Zeros::Idle(job.pages) } else { Zeros::GivenUp };
        self.end = self.end.max(to);
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests;
