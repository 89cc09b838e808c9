//! A read that ended with EIO, made again block by block.
//!
//! Purpose: a device error on a read of many blocks says nothing of each of them. Who can have a
//! block from a peer reads each alone, and takes those that fail for damaged ones. Invariant: what
//! stands for such a block is no block of ours: no length, no checksum and no header has its bytes.
//!
//! Fault model: EIO comes and goes, or stays until the block is written. No other error is for
//! here.

use zerocopy::FromZeros;

use crate::io::{Address, IoError, Page, Pages};
use crate::limits::PAGE_SIZE;

/// In place of each byte of a block that cannot be read.
const UNREADABLE: u8 = 0xEE;

/// The blocks of a read, each on its own.
#[derive(Debug)]
pub struct BlockByBlock {
    at: Address,
    pages: Pages,
    next: usize,
    unreadable: usize,
}

impl BlockByBlock {
    /// Of a read that ended with EIO. Of one block it is known already which.
    #[must_use]
    pub fn new(at: Address, pages: Pages) -> BlockByBlock {
        let mut blocks = BlockByBlock { at, pages, next: 0, unreadable: 0 };
        if blocks.pages.count() == 1 {
            blocks.take(&Pages::zeroed(1), Err(IoError::Device));
        }
        blocks
    }

    /// Where to read next, one block; none: all were.
    #[must_use]
    pub fn next(&self) -> Option<Address> {
        let left = self.next < self.pages.count();
        left.then(|| Address::new(self.at.file, self.at.offset + (self.next * PAGE_SIZE) as u64))
    }

    /// What the read of the next block came to.
    pub fn take(&mut self, page: &Pages, result: Result<(), IoError>) {
        let bad = Page([UNREADABLE; PAGE_SIZE]);
        let page = match result {
            Ok(()) => page.as_slice().first().cloned().unwrap_or_else(Page::new_zeroed),
            Err(_) => bad,
        };
        self.unreadable += usize::from(result.is_err());
        let Some(place) = self.pages.as_mut_slice().get_mut(self.next) else {
            unreachable!("nothing is read behind the last block")
        };
        *place = page;
        self.next += 1;
    }

    /// All blocks, and how many of them could not be read.
    #[must_use]
    pub fn finish(self) -> (Pages, usize) {
        assert!(self.next == self.pages.count(), "every block was read, or could not be");
        (self.pages, self.unreadable)
    }
}
