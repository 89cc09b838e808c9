//! One operation on a file, in flight: what both backends carry out, and how each answer of the
//! kernel moves it on. One implementation, so that both backends have the same semantics.
//!
//! Invariants: the job owns its pages until it is finished. A read past the end of the file leaves
//! zeros. A short write goes on where it stopped. `advance` never reports success before every byte
//! moved.

use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};
use verity_core::io::{Input, IoError, IoId, Pages};

use super::files::OpenFile;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write {
        durable: bool,
    },
    /// See `ahead`; has no completion.
    Zeros,
    Sync,
}

impl Kind {
    /// Of a write.
    #[must_use]
    pub fn flags(self) -> ReadWriteFlags {
        match self {
            Kind::Write { durable: true } => ReadWriteFlags::DSYNC,
            Kind::Write { durable: false } | Kind::Zeros | Kind::Read | Kind::Sync => {
                ReadWriteFlags::empty()
            }
        }
    }
}

#[derive(Debug)]
pub struct Job {
    pub io: IoId,
    pub kind: Kind,
    pub file: Arc<OpenFile>,
    pub offset: u64,
    pub pages: Pages,
    /// Bytes moved so far.
    pub moved: usize,
    /// For messages: what this was done to.
    pub name: verity_core::io::FileId,
}

/// What follows an answer of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again for the rest.
    Again,
    Finished(Result<(), Errno>),
}

impl Job {
    /// Where the rest begins in the file.
    #[must_use]
    pub fn rest_offset(&self) -> u64 {
        self.offset + self.moved as u64
    }

    /// Takes the kernel's answer to one attempt.
    pub fn advance(&mut self, result: Result<usize, Errno>) -> Step {
        let count = match result {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Step::Again,
            Err(error) => return Step::Finished(Err(error)),
        };
        match self.kind {
            Kind::Sync => Step::Finished(Ok(())),
            Kind::Read => {
                self.moved += count;
                assert!(self.moved <= self.pages.size_bytes(), "no more was read than asked for");
                if self.moved == self.pages.size_bytes() {
                    return Step::Finished(Ok(()));
                }
                // The end of the file, or just before it: what direct I/O cannot continue from a
                // place between sectors is the end, too.
                if count == 0 || !self.moved.is_multiple_of(verity_core::limits::PAGE_SIZE) {
                    let moved = self.moved;
                    self.pages.as_bytes_mut()[moved..].fill(0);
                    return Step::Finished(Ok(()));
                }
                Step::Again
            }
            Kind::Write { .. } | Kind::Zeros => {
                let before = self.moved;
                self.moved += count;
                assert!(self.moved <= self.pages.size_bytes(), "no more was written than given");
                if self.moved == self.pages.size_bytes() {
                    return Step::Finished(Ok(()));
                }
                // What direct I/O left between sectors is written again from the sector's start.
                self.moved -= self.moved % verity_core::limits::PAGE_SIZE;
                // Not one page more: asking again would give the same.
                if self.moved == before {
                    return Step::Finished(Err(Errno::NOSPC));
                }
                Step::Again
            }
        }
    }

    /// The completion as the core sees it.
    #[must_use]
    pub fn into_input(self, result: Result<(), Errno>) -> Input {
        let Job { io, kind, pages, .. } = self;
        let result = result.map_err(to_io_error);
        match kind {
            Kind::Read => Input::ReadDone { io, pages, result },
            Kind::Write { .. } => Input::WriteDone { io, pages, result },
            Kind::Sync => Input::Done { io, result },
            Kind::Zeros => unreachable!("nobody asked for them"),
        }
    }
}

/// What the core needs to know of an errno.
#[must_use]
pub fn to_io_error(error: Errno) -> IoError {
    match error {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => IoError::NoSpace,
        Errno::ROFS | Errno::ACCESS | Errno::PERM => IoError::ReadOnly,
        _ => IoError::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing else tells: without the flag all tests pass, until the power fails.
    #[test]
    fn a_durable_write_asks_the_device() {
        for (kind, flags) in [
            (Kind::Write { durable: true }, ReadWriteFlags::DSYNC),
            (Kind::Write { durable: false }, ReadWriteFlags::empty()),
            (Kind::Zeros, ReadWriteFlags::empty()),
            (Kind::Read, ReadWriteFlags::empty()),
            (Kind::Sync, ReadWriteFlags::empty()),
        ] {
            assert_eq!(kind.flags(), flags, "{kind:?}");
        }
        // As Linux numbers it: RWF_DSYNC.
        assert_eq!(Kind::Write { durable: true }.flags().bits(), 2);
    }
}
