//! Blocks of segments and pages of indexes that were read: a small pool with pins.
//!
//! Invariants: what is here equals what is on disk, for blocks that are no more in memory; a block
//! that is written while its read is in flight is read again. Unpinned blocks may go at any moment
//! without a change in any result.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};

use crate::io::{FileId, Page};
use crate::limits::LOG_CACHE_BLOCKS;

/// A block of a file, by number.
pub(super) type BlockKey = (FileId, u64);

#[derive(Debug)]
pub(super) struct BlockCache {
    blocks: BTreeMap<BlockKey, Entry>,
    /// Every key once, oldest first.
    order: VecDeque<BlockKey>,
    /// Blocks' worth of its room that something else takes.
    lent: usize,
}

#[derive(Debug)]
struct Entry {
    /// None: the read is in flight.
    page: Option<Box<Page>>,
    pins: u32,
    /// Written since the read was issued.
    stale: bool,
}

impl BlockCache {
    pub fn new() -> BlockCache {
        BlockCache { blocks: BTreeMap::new(), order: VecDeque::new(), lent: 0 }
    }

    pub fn memory_bytes(&self) -> usize {
        self.blocks.len() * crate::limits::PAGE_SIZE
    }

    pub fn get(&self, file: FileId, number: u64) -> Option<&Page> {
        self.blocks.get(&(file, number))?.page.as_deref()
    }

    /// Is a read of it in flight? Then it must not be written: the read could be of both.
    pub fn is_reading(&self, file: FileId, number: u64) -> bool {
        self.blocks.get(&(file, number)).is_some_and(|entry| entry.page.is_none())
    }

    /// Pins a block. True: it must be read, and the caller does so now.
    pub fn pin(&mut self, key: BlockKey) -> bool {
        if let Some(entry) = self.blocks.get_mut(&key) {
            entry.pins += 1;
            return false;
        }
        self.blocks.insert(key, Entry { page: None, pins: 1, stale: false });
        self.order.push_back(key);
        true
    }

    pub fn unpin(&mut self, key: BlockKey) {
        let Some(entry) = self.blocks.get_mut(&key) else { unreachable!("a pinned block stays") };
        assert!(entry.pins > 0);
        entry.pins -= 1;
    }

    /// A read came back. False: it must be read again.
    pub fn fill(&mut self, key: BlockKey, page: &Page) -> bool {
        let Some(entry) = self.blocks.get_mut(&key) else {
            unreachable!("a block in flight stays")
        };
        assert!(entry.page.is_none());
        if entry.stale {
            entry.stale = false;
            return false;
        }
        entry.page = Some(Box::new(page.clone()));
        self.evict();
        true
    }

    /// Something else takes so much of its room.
    pub fn lend(&mut self, blocks: usize) {
        self.lent = blocks;
        self.evict();
    }

    /// The block was written.
    pub fn replace(&mut self, file: FileId, number: u64, page: &Page) {
        let Some(entry) = self.blocks.get_mut(&(file, number)) else { return };
        match &mut entry.page {
            Some(old) => old.0.copy_from_slice(&page.0),
            None => entry.stale = true,
        }
    }

    /// Drops all that is not pinned, as if memory were that small.
    pub fn evict_all(&mut self) {
        let blocks = &mut self.blocks;
        self.order.retain(|key| {
            let Some(entry) = blocks.get(key) else { unreachable!("each key is in both") };
            let keep = entry.pins > 0 || entry.page.is_none();
            if !keep {
                blocks.remove(key);
            }
            keep
        });
    }

    fn evict(&mut self) {
        let mut tries = self.order.len();
        while self.order.len() + self.lent > LOG_CACHE_BLOCKS && tries > 0 {
            tries -= 1;
            let Some(key) = self.order.pop_front() else { return };
            let Some(entry) = self.blocks.get(&key) else { unreachable!("each key is in both") };
            if entry.pins > 0 || entry.page.is_none() {
                self.order.push_back(key);
            } else {
                self.blocks.remove(&key);
            }
        }
    }
}
