//! The grid: 4 KiB pages, their cache, B+trees over them, copy-on-write checkpoints.
//!
//! Purpose: ordered maps of bytes, one per (tenant, tree), larger than memory, whose pages at a
//! checkpoint are the same bytes on every replica that applied the same ops.
//!
//! **Trees of trees.** Tree 0 of a tenant is its *forest*: tree id → [`TreeRoot`]. The forests' own
//! roots live in tree [`FORESTS`] of the system tenant; that tree's root, and those of the system
//! tenant's other trees, in the system tenant's forest, whose root the superblock holds. A tree
//! that changes dirties its way up to there at once, so that a checkpoint can never fault.
//!
//! **Faults.** Reads take `&self` and return [`Fault`] when a page is not in memory; the store
//! notes which. The driver calls [`Store::fetch`], waits till [`Store::ready`], and runs its stage
//! again. Every change ([`Store::put`], [`Store::remove`], …) is all or nothing: it first walks,
//! reading only, everything it will need, and changes nothing before its last `?`.
//!
//! **Copy on write.** A page that a checkpoint holds is never changed in place: its first change
//! gives it a new number (the lowest free), and its parents too. References to a page that no
//! checkpoint has sealed have checkpoint op 0; sealing goes children first and fills them in.
//!
//! Invariants: contents of the cache, eviction, timing of I/O and pace of flushing change no
//! result, no page number and no page byte. A page read from disk enters memory only when its tag,
//! which its parent holds, verifies and its header names the tenant and tree that asked.
//!
//! Fault model: the disk returns anything, or an error; a damaged page is [`StoreError::Corrupt`]
//! for the task that needs it, and names what is lost. Start reading at [`Store`], then `page`,
//! `write`, `checkpoint`.

mod audit;
mod cache;
mod checkpoint;
mod estimate;
mod fetch;
mod forest;
mod frames;
mod free_set;
mod merkle;
mod overflow;
mod page;
mod read;
mod repair;
mod scan;
mod serve;
#[cfg(test)]
mod tests;
pub mod walk;
mod write;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::crypto::{ChainHash, LeafSaltKey, PageKey, TenantKeys};
use crate::event::Event;
use crate::ids::{Op, PageNumber, TenantId, TreeId};
use crate::io::{Effects, FileId, IoError};
use crate::keyring::Keyring;
use crate::limits::{
    ClusterConstants, KEY_SIZE_MAX, ROW_SIZE_MAX, STORE_ROOTS_CACHED_MAX, VALUE_EXTRA_MAX,
};
use crate::superblock::PageRef;

pub use audit::{Audit, AuditStop, StoredRows};
pub use checkpoint::{CheckpointProgress, RoomError, StoreCheckpoint};
pub use estimate::{BoundWalk, TreeChange, overflow_pages};
pub use fetch::Pins;
pub use forest::{FOREST, FORESTS, TreeRoot};
pub use frames::Chunk;
pub use merkle::{HashStop, LeafSalts, PrunedItem, PrunedPage, TreeHash};
pub use read::Value;
pub use scan::{Cursor, DigestTask, Direction};
pub use write::Dropped;

/// Names one tree of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeRef {
    pub tenant: TenantId,
    pub tree: TreeId,
}

impl TreeRef {
    #[must_use]
    pub const fn new(tenant: TenantId, tree: TreeId) -> TreeRef {
        TreeRef { tenant, tree }
    }
}

/// A page is not here. The store noted which: `fetch`, wait, run the stage again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(());

/// What a reader or the checkpoint can meet beside a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The page does not verify against its parent: what it held of this tree is lost here.
    Corrupt { tenant: TenantId, tree: TreeId, page: PageNumber, checkpoint_op: Op },
    /// The disk failed; the replica stops.
    Io(IoError),
    /// The tenant's keys are not in memory (erased, or its wrapped key was not yet opened).
    KeyMissing { tenant: TenantId },
}

impl core::fmt::Display for StoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            StoreError::Corrupt { tenant, tree, page, checkpoint_op } => write!(
                f,
                "grid page {page} (tree {tree} of tenant {tenant}, written at checkpoint \
                 {checkpoint_op}) is damaged: `verity rebuild` makes the grid anew from the log; \
                 or restore a copy"
            ),
            StoreError::Io(error) => write!(f, "grid: {error}"),
            StoreError::KeyMissing { tenant } => {
                write!(f, "grid: the keys of tenant {tenant} are not available")
            }
        }
    }
}

impl core::error::Error for StoreError {}

/// Who knows the page keys: the keyring, or a test.
pub trait PageKeys {
    fn page_key(&self, tenant: TenantId) -> Option<&PageKey>;
}

impl PageKeys for Keyring {
    fn page_key(&self, tenant: TenantId) -> Option<&PageKey> {
        self.tenant(tenant).map(TenantKeys::page)
    }
}

impl PageKeys for BTreeMap<TenantId, PageKey> {
    fn page_key(&self, tenant: TenantId) -> Option<&PageKey> {
        self.get(&tenant)
    }
}

impl LeafSalts for Keyring {
    fn leaf_salt_key(&self, tenant: TenantId) -> Option<&LeafSaltKey> {
        self.tenant(tenant).map(TenantKeys::leaf_salt)
    }
}

/// Values up to this many bytes lie in the leaf; longer ones in pages of their own. Part of the
/// shape rule: never change it without a new shape version.
pub const VALUE_INLINE_MAX: usize = 1_024;
/// A value: an encoded row and what the kernel keeps beside it.
pub const VALUE_SIZE_MAX: usize = ROW_SIZE_MAX + VALUE_EXTRA_MAX;
/// Version of the rule that `docs/PROOFS.md` writes down.
pub const SHAPE_VERSION: u16 = 2;
/// Checkpoints of a rebuild, but for its last one, are numbered from here: no op of a log gets so
/// far, so no page has the nonce of another, however many of them a rebuild takes.
pub const REBUILD_OPS: u64 = 1 << 63;
/// Levels of a tree: 16 levels of at least 6 children hold more than the grid has pages.
const HEIGHT_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// `FileId::Grid`, or `FileId::Scratch` for a rebuild.
    pub file: FileId,
    /// Pages in memory, all told.
    pub frames_max: u32,
    pub dirty_pages_max: u32,
    pub grid_pages_max: u32,
}

impl StoreConfig {
    /// `clean_pages`: the cache proper, what `--memory` leaves. It must hold what the tasks that
    /// run at once may pin; pages changed or under checkpoint come on top.
    #[must_use]
    pub fn new(file: FileId, constants: &ClusterConstants, clean_pages: u32) -> StoreConfig {
        let clean = clean_pages.max(constants.clean_pages_min());
        StoreConfig {
            file,
            frames_max: clean.saturating_add(constants.busy_pages_max()),
            dirty_pages_max: constants.dirty_pages_max,
            grid_pages_max: constants.grid_pages_max,
        }
    }
}

/// The grid and every tree in it.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    cache: cache::Cache,
    free_set: free_set::FreeSet,
    /// Roots known in memory; a changed one stays until its checkpoint.
    trees: RefCell<BTreeMap<TreeRef, forest::TreeState>>,
    /// Trees that changed since they were last hashed.
    stale: BTreeSet<TreeRef>,
    /// A checkpoint was taken of trees that were not hashed.
    unhashed: bool,
    /// Of the page being hashed.
    entry_hashes: Vec<ChainHash>,
    /// Roots in memory beyond which clean ones are forgotten.
    roots_max: usize,
    fetches: fetch::Fetches,
    checkpoints: checkpoint::Checkpoints,
    opening: Option<checkpoint::Opening>,
    repairs: repair::Repairs,
    /// Pages that are being read for peers.
    served: BTreeMap<u64, PageNumber>,
    /// Marks that arose where no `Effects` was at hand.
    events: Vec<Event>,
    next_io: u64,
    /// How often a page was looked at: what EXPLAIN ANALYZE takes differences of.
    looked_at: Cell<u64>,
}

impl Store {
    /// An empty grid: what format leaves, and what replay from op 0 starts from.
    #[must_use]
    pub fn new(config: StoreConfig) -> Store {
        let mut store = Store::without_trees(config);
        store.create_system();
        store
    }

    /// Reads the free set of a checkpoint; usable once [`Store::is_open`].
    #[must_use]
    pub fn open(config: StoreConfig, from: &StoreCheckpoint, effects: &mut Effects) -> Store {
        let mut store = Store::without_trees(config);
        store.begin_open(from, effects);
        store
    }

    /// An empty store whose pages come after the first `pages` of the file, which stay as they are:
    /// a rebuild beside the grid that it is to replace.
    #[must_use]
    pub fn behind(config: StoreConfig, pages: u32) -> Store {
        let mut store = Store::without_trees(config);
        store.free_set = free_set::FreeSet::behind(pages);
        store.create_system();
        store
    }

    /// What [`Store::behind`] kept is free once the next checkpoint is durable.
    pub fn give_up(&mut self, pages: u32) {
        for page in 1..pages {
            self.free_set.stage(PageNumber::new(page));
        }
    }

    fn without_trees(config: StoreConfig) -> Store {
        assert!(config.grid_pages_max < 1 << 30, "a page number has 30 bits");
        Store {
            config,
            cache: cache::Cache::new(config.frames_max, config.dirty_pages_max),
            free_set: free_set::FreeSet::new(),
            trees: RefCell::new(BTreeMap::new()),
            stale: BTreeSet::new(),
            unhashed: false,
            entry_hashes: Vec::new(),
            roots_max: STORE_ROOTS_CACHED_MAX,
            fetches: fetch::Fetches::default(),
            checkpoints: checkpoint::Checkpoints::default(),
            opening: None,
            repairs: repair::Repairs::default(),
            served: BTreeMap::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            next_io: 0,
            looked_at: Cell::new(0),
        }
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    /// Bytes of the cache now in use, for the memory budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.cache.memory_bytes()
    }

    /// See [`frames`].
    #[must_use]
    pub fn chunk_wanted(&self) -> Option<usize> {
        self.cache.chunk_wanted()
    }

    /// See [`frames`].
    pub fn give_chunk(&mut self, chunk: Chunk) {
        self.cache.give_chunk(chunk);
    }

    /// What is held beside the cache: pages on their way, buffers, tags.
    #[must_use]
    pub fn memory_bytes_beside(&self) -> usize {
        self.checkpoints.memory_bytes()
            + self.fetches.pages_in_flight() * crate::limits::PAGE_SIZE
            + self.free_set.memory_bytes()
    }

    /// Pages changed since the last checkpoint began: a function of the ops applied.
    #[must_use]
    pub fn dirty_pages(&self) -> u32 {
        self.cache.dirty_count() as u32
    }

    /// Simulator mode: forget all that need not be remembered.
    pub fn evict_all(&mut self) {
        self.cache.evict_all();
        self.forget_clean_roots();
    }

    /// What a given-up look into trees has missed need not be fetched.
    pub fn forget_misses(&self) {
        self.fetches.forget_misses();
    }

    /// Grows by one whenever a page is looked at, in memory or not.
    #[must_use]
    pub fn pages_looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    /// Pages of the grid in use, those that the last checkpoint still needs included.
    #[must_use]
    pub fn pages_in_use(&self) -> u32 {
        self.free_set.acquired()
    }

    /// Pages that were read from the grid since it was opened.
    #[must_use]
    pub fn pages_read(&self) -> u64 {
        self.fetches.pages_read
    }

    /// Pages that were missed since the last fetch.
    #[must_use]
    pub fn pages_missed(&self) -> usize {
        self.fetches.missed()
    }

    fn mark(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    fn flush_marks(&mut self, effects: &mut Effects) {
        for event in self.events.drain(..) {
            effects.event(event);
        }
    }

    fn check_sizes(key: &[u8], value_size: usize) {
        assert!(key.len() <= KEY_SIZE_MAX, "callers refuse longer keys");
        assert!(value_size <= VALUE_SIZE_MAX, "callers refuse longer values");
    }

    /// A number for a page that is born now.
    fn acquire_page(&mut self) -> PageNumber {
        let page = self.free_set.acquire();
        assert!(page.get() <= self.config.grid_pages_max, "callers ask `room_for` first");
        // A page of that number may still be cached, or even be on its way in; but no checkpoint
        // under way may hold it.
        let state = self.cache.state(page);
        assert!(matches!(state, None | Some(cache::State::Clean)), "{page:?} is still {state:?}");
        self.cache.drop_page(page);
        self.fetches.abandon(page);
        let waiting = self.repairs.abandon(page);
        self.fetches.run_again(&waiting);
        self.checkpoints.forget(page);
        page
    }

    /// The page is part of the state no more.
    fn free_page(&mut self, page: PageNumber) {
        match self.cache.state(page) {
            Some(cache::State::Dirty) => {
                self.cache.drop_page(page);
                self.free_set.release(page);
            }
            Some(cache::State::Clean) => {
                self.cache.drop_page(page);
                self.free_set.stage(page);
            }
            // It is part of the checkpoint under way, and must still be written.
            Some(cache::State::Frozen | cache::State::Writing) | None => self.free_set.stage(page),
            Some(cache::State::Free) => unreachable!("a free frame has no page"),
        }
    }

    /// The page under `from` becomes changeable. Gives its number from now on.
    fn make_dirty(&mut self, from: PageNumber) -> PageNumber {
        match self.cache.state(from) {
            Some(cache::State::Dirty) => from,
            Some(cache::State::Clean) => {
                let to = self.acquire_page();
                self.cache.rename_to_dirty(from, to);
                self.free_set.stage(from);
                to
            }
            Some(cache::State::Frozen | cache::State::Writing) => {
                let to = self.acquire_page();
                self.cache.insert(to, cache::State::Dirty);
                let Some((copy, old)) = self.cache.get_two(to, from) else {
                    unreachable!("both were just seen");
                };
                copy.copy_from_slice(old);
                page::set_number(copy, to);
                self.resolve_page(to);
                self.free_set.stage(from);
                to
            }
            Some(cache::State::Free) | None => unreachable!("planned pages are in memory"),
        }
    }

    fn bytes(&self, page: PageNumber) -> &page::Bytes {
        let Some(bytes) = self.cache.get(page) else {
            unreachable!("planned pages are in memory: {page:?}");
        };
        bytes
    }

    fn bytes_mut(&mut self, page: PageNumber) -> &mut page::Bytes {
        let Some(bytes) = self.cache.get_mut(page) else {
            unreachable!("planned pages are in memory: {page:?}");
        };
        bytes
    }

    /// The page that `from` names, or a fault. `tree` says whose it is, should it have to be read.
    #[inline]
    fn load(&self, tree: TreeRef, page: PageNumber, from: impl FnOnce() -> PageRef) -> Loaded<'_> {
        self.looked_at.set(self.looked_at.get().wrapping_add(1));
        match self.cache.get(page) {
            Some(bytes) => Ok(bytes),
            None => Err(self.miss(tree, from())),
        }
    }
}

type Loaded<'a> = Result<&'a page::Bytes, Fault>;

/// Marks kept between two calls that can emit them; more are dropped, they are only marks.
const EVENTS_MAX: usize = 64;
