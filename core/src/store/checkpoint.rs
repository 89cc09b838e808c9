//! Checkpoints of the grid: freeze, seal children first, write, tell the root.
//!
//! `checkpoint_begin(op)` freezes every dirty page: from then on a change copies it. Freezing costs
//! a sort, no I/O. `checkpoint_step` seals and writes some of them, in an order in which a page
//! comes after every page it names, because it holds their tags. Neighbours go in one write. When
//! all writes are done, `checkpoint_done` gives what the superblock needs; the node syncs the grid
//! first.
//!
//! **Tags not yet known.** While changed, a page names an unsealed child with checkpoint op 0. A
//! frozen page gets the tags of its children when it is sealed itself. A copy made of a frozen page
//! meanwhile may keep such references past the child's sealing and even its eviction. So the tags
//! of the checkpoint under way and of the one before are kept by page number (`sealed`), and used
//! wherever such a reference is followed, copied or sealed. Two are enough: a copy resolves all it
//! can when it is made, so after checkpoint C + 1 begins no page can hold an unresolved reference
//! to a page sealed at C − 1.
//!
//! **Hashes not yet known** (`merkle`) are treated as the tags are: a page is hashed before it is
//! sealed, in the same order, and what names it is filled in then.
//!
//! **Free set.** Encoded at `checkpoint_begin` (so it holds exactly the pages of this checkpoint,
//! and those that wait for it) into a chain of pages of the system tenant: `next reference [28] ‖
//! bytes`. Its own pages are counted in it; the chain of the checkpoint before is staged.
//!
//! Fault model: a crash at any time leaves the last checkpoint whole, for none of its pages has
//! been given out again: they are staged until this checkpoint is durable on a quorum.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::cache::State;
use super::fetch::open_page;
use super::forest::{self, TreeRoot};
use super::free_set::FreeSet;
use super::page::{self, CAPACITY, Kind, REF_SIZE};
use super::{PageKeys, REBUILD_OPS, Store, StoreConfig, StoreError, TreeRef};
use crate::crypto::ChainHash;
use crate::event::Event;
use crate::ids::{Op, PageNumber, TenantId, TreeId};
use crate::io::{Effect, Effects, IoError, IoId, Page, Pages};
use crate::limits::{
    PAGE_SIZE, STORE_BUFFERS_KEPT_PAGES, STORE_CHECKPOINT_STEP_PAGES, STORE_IO_PAGES_MAX,
    STORE_WRITE_CALLS_IN_FLIGHT_MAX, STORE_WRITES_IN_FLIGHT_MAX,
};
use crate::superblock::{ForestRoot, FreeSetRoot, PageRef};

/// What pages of the free set's chain name as their tree.
pub(super) const FREE_SET: TreeRef = TreeRef::new(TenantId::SYSTEM, TreeId::new(u32::MAX));
const CHUNK: usize = CAPACITY - REF_SIZE;

/// What the superblock must hold of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCheckpoint {
    pub op: Op,
    pub system_forest: ForestRoot,
    pub free_set: FreeSetRoot,
    /// One more than the highest page number ever used: the length of the file in pages.
    pub grid_pages: u32,
}

/// How far a checkpoint is: of so many pages, those of the free set's chain among them, those
/// hashed (or in no need of it) and those sealed; and the writes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointProgress {
    pub pages: usize,
    pub hashed: usize,
    pub sealed: usize,
    pub writes: usize,
}

/// Why a transaction must not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomError {
    /// So many pages are free of the dirty budget; a checkpoint makes room.
    DirtyBudget { pages_free: u32 },
    /// So many pages are free of the grid; only deleting, or a larger grid, makes room.
    GridFull { pages_free: u32 },
}

impl core::fmt::Display for RoomError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RoomError::DirtyBudget { pages_free } => {
                write!(f, "too many changes since the last checkpoint ({pages_free} pages left)")
            }
            RoomError::GridFull { pages_free } => {
                write!(f, "the grid is full ({pages_free} pages left)")
            }
        }
    }
}

impl core::error::Error for RoomError {}

#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// The last one begun.
    op: Op,
    under_way: bool,
    /// Frozen pages in sealing order: rank u8 ‖ level u8 ‖ zeros ‖ page u32.
    order: Vec<u64>,
    next: usize,
    /// Tags of pages sealed at the checkpoint under way (or last done), and at the one before.
    sealed: BTreeMap<PageNumber, PageRef>,
    sealed_before: BTreeMap<PageNumber, PageRef>,
    /// First page and count of each write in flight.
    writes: BTreeMap<u64, (PageNumber, usize)>,
    writes_pages: usize,
    /// Pages of the free set's chain, in order, and what they hold.
    chain: Vec<PageNumber>,
    chain_left: usize,
    chain_next: Option<PageRef>,
    encoded: Vec<u8>,
    /// Numbers for `StoreCheckpoint`, taken when it began.
    grid_pages: u32,
    free_runs: u64,
    forest: Option<TreeRoot>,
    buffers: Vec<Pages>,
    buffers_pages: usize,
    /// Pages that are frozen or being written.
    unwritten: usize,
    /// So many pages of `order` are hashed, or need not be: no other is sealed.
    hashed: usize,
    /// Hashes of pages of the checkpoint under way (or last done), and of the one before: as the
    /// tags, for entries that were made before they were known.
    hashes: BTreeMap<PageNumber, [u8; 32]>,
    hashes_before: BTreeMap<PageNumber, [u8; 32]>,
    /// Trees of the checkpoint whose values are stored rows.
    rows: BTreeSet<TreeRef>,
}

impl Checkpoints {
    pub(super) fn sealed(&self, page: PageNumber) -> Option<PageRef> {
        self.sealed.get(&page).or_else(|| self.sealed_before.get(&page)).copied()
    }

    pub(super) fn hash(&self, page: PageNumber) -> Option<[u8; 32]> {
        self.hashes.get(&page).or_else(|| self.hashes_before.get(&page)).copied()
    }

    /// The next page to be hashed.
    pub(super) fn unhashed(&self) -> Option<PageNumber> {
        self.order.get(self.hashed).map(|&place| PageNumber::new(place as u32))
    }

    /// The page that `unhashed` gave has this hash; none: its tree is part of no state root.
    pub(super) fn set_hash(&mut self, page: PageNumber, hash: Option<[u8; 32]>) {
        if let Some(hash) = hash {
            let other = self.hashes.insert(page, hash);
            assert!(other.is_none(), "a page is hashed once");
        }
        self.hashed += 1;
    }

    pub(super) fn has_rows(&self, tree: TreeRef) -> bool {
        self.rows.contains(&tree)
    }

    /// The number is given to a new page; what it was before has no reference left.
    pub(super) fn forget(&mut self, page: PageNumber) {
        self.sealed.remove(&page);
        self.sealed_before.remove(&page);
        self.hashes.remove(&page);
        self.hashes_before.remove(&page);
    }

    /// Part of a checkpoint under way, and without a frame or being written: a page of the free
    /// set's chain, or one whose write is in flight.
    pub(super) fn is_to_be_written(&self, page: PageNumber) -> bool {
        let writes = self.writes.values();
        let mut writing = writes.map(|&(first, count)| first.get()..first.get() + count as u32);
        writing.any(|pages| pages.contains(&page.get()))
            || (self.under_way && self.chain[..self.chain_left].contains(&page))
    }

    pub(super) fn take_buffer(&mut self, pages: usize) -> Pages {
        let found = self.buffers.iter().position(|buffer| buffer.count() == pages);
        let Some(at) = found else { return Pages::zeroed(pages) };
        self.buffers_pages -= pages;
        self.buffers.swap_remove(at)
    }

    pub(super) fn give_buffer(&mut self, pages: Pages) {
        if self.buffers_pages + pages.count() <= STORE_BUFFERS_KEPT_PAGES {
            self.buffers_pages += pages.count();
            self.buffers.push(pages);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let tags = self.sealed.len() + self.sealed_before.len();
        let pages = self.writes_pages + self.buffers_pages;
        pages * PAGE_SIZE
            + tags * (size_of::<PageNumber>() + size_of::<PageRef>())
            + (self.hashes.len() + self.hashes_before.len()) * (size_of::<PageNumber>() + 32)
            + self.order.len() * size_of::<u64>()
            + self.encoded.len()
    }
}

/// Reading the free set at open.
#[derive(Debug)]
pub(super) struct Opening {
    from: StoreCheckpoint,
    next: PageRef,
    chain: Vec<PageNumber>,
    encoded: Vec<u8>,
}

impl Store {
    /// May `pages` more pages become dirty? A function of the ops applied, so every replica refuses
    /// the same transaction. A margin is kept for the free set itself.
    pub fn room_for(&self, pages: u32) -> Result<(), RoomError> {
        let dirty = self.dirty_pages();
        let pages_free = self.config.dirty_pages_max.saturating_sub(dirty);
        if pages > pages_free {
            return Err(RoomError::DirtyBudget { pages_free });
        }
        let pages_free = self.grid_pages_free();
        if pages > pages_free {
            return Err(RoomError::GridFull { pages_free });
        }
        Ok(())
    }

    /// Pages that may be taken before the grid is full, but for the margin.
    #[must_use]
    pub fn grid_pages_free(&self) -> u32 {
        let StoreConfig { grid_pages_max, .. } = self.config;
        let margin = 16 + grid_pages_max / 256;
        grid_pages_max.saturating_sub(self.free_set.acquired() + margin)
    }

    /// Would `pages` more changed pages pass the memory that changed and frozen pages share? Only
    /// while a checkpoint is being written, and its writes make room: wait for them. A matter of
    /// memory and time, never of results.
    #[must_use]
    pub fn must_wait_for_writes(&self, pages: u32) -> bool {
        let unwritten = self.checkpoints.unwritten as u64;
        let busy = u64::from(self.dirty_pages()) + unwritten + u64::from(pages);
        unwritten > 0 && busy > u64::from(self.config.dirty_pages_max)
    }

    /// Freezes the state after `op`. The checkpoint before must be done.
    pub fn checkpoint_begin(&mut self, op: Op) {
        self.begin(op, false);
    }

    /// As `checkpoint_begin`; the pages are hashed afterwards, by [`Store::hash_frozen`], and none
    /// is sealed before: what changed often is hashed once, and the freeze costs no hash.
    pub fn checkpoint_begin_then_hash(&mut self, op: Op) {
        self.begin(op, true);
    }

    fn begin(&mut self, op: Op, hash: bool) {
        assert!(self.is_open());
        assert!(!self.checkpoints.under_way, "one checkpoint at a time");
        let before = self.checkpoints.op;
        let ends_rebuild = before.get() >= REBUILD_OPS && op.get() < REBUILD_OPS;
        assert!(op > before || ends_rebuild, "checkpoints go forward");
        let hash = hash && !self.stale.is_empty();
        let unhashed = self.unhashed;
        assert!(!(hash && unhashed), "all checkpoints of a store are hashed, or none is");
        self.resolve_roots();
        self.checkpoints.rows = self.trees_of_rows_changed();
        self.write_roots();
        self.unhashed &= unhashed || !hash;
        let this = &mut self.checkpoints;
        this.hashes_before = core::mem::take(&mut this.hashes);
        this.op = op;
        this.under_way = true;
        this.next = 0;
        this.order.clear();
        self.cache.freeze(|page, bytes| {
            let Some(header) = page::header(bytes) else { unreachable!("we initialised it") };
            let tree = TreeRef::new(header.tenant, header.tree);
            let rank = match header.kind {
                Kind::OverflowData | Kind::OverflowIndex => 0,
                Kind::Leaf | Kind::Inner => forest::seal_rank(tree),
                Kind::FreeSet => unreachable!("the free set's pages have no frames"),
            };
            let order = u64::from(rank) << 56 | u64::from(header.level) << 48;
            this.order.push(order | u64::from(page.get()));
        });
        this.order.sort_unstable();
        this.unwritten = this.order.len();
        this.hashed = if hash { 0 } else { this.order.len() };
        this.sealed_before = core::mem::take(&mut this.sealed);
        self.checkpoints.forest = Some(self.system_forest());
        self.encode_free_set(op);
    }

    fn encode_free_set(&mut self, op: Op) {
        for page in core::mem::take(&mut self.checkpoints.chain) {
            self.free_set.stage(page);
        }
        self.free_set.begin(op);
        let mut chain = Vec::new();
        let mut encoded = core::mem::take(&mut self.checkpoints.encoded);
        // Each page added changes the set by a few bytes: a handful of rounds.
        loop {
            self.checkpoints.free_runs = self.free_set.encode(&mut encoded);
            if chain.len() >= encoded.len().div_ceil(CHUNK) {
                break;
            }
            chain.push(self.acquire_page());
        }
        let this = &mut self.checkpoints;
        this.chain_left = chain.len();
        this.chain_next = None;
        this.chain = chain;
        this.encoded = encoded;
        this.grid_pages = self.free_set.pages();
    }

    /// Seals and writes some pages of the checkpoint under way. Call it again, turn by turn.
    pub fn checkpoint_step(
        &mut self,
        keys: &dyn PageKeys,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        self.checkpoint_step_by(STORE_CHECKPOINT_STEP_PAGES, keys, effects)
    }

    /// As `checkpoint_step`, at most so many pages.
    pub fn checkpoint_step_by(
        &mut self,
        pages_max: usize,
        keys: &dyn PageKeys,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        self.flush_marks(effects);
        if !self.checkpoints.under_way {
            return Ok(());
        }
        let mut budget = pages_max;
        while budget > 0
            && self.checkpoints.writes_pages < STORE_WRITES_IN_FLIGHT_MAX
            && self.checkpoints.writes.len() < STORE_WRITE_CALLS_IN_FLIGHT_MAX
        {
            if self.next_is_being_served() {
                break;
            }
            let done = if self.checkpoints.next < self.checkpoints.hashed {
                self.seal_run(keys, budget, effects)?
            } else if self.checkpoints.next < self.checkpoints.order.len() {
                break;
            } else if self.checkpoints.chain_left > 0 {
                self.seal_chain_page(keys, effects)?
            } else {
                break;
            };
            budget = budget.saturating_sub(done);
        }
        Ok(())
    }

    fn next_is_being_served(&self) -> bool {
        let Checkpoints { order, next, hashed, chain, chain_left, .. } = &self.checkpoints;
        let page = if next < hashed {
            PageNumber::new(order[*next] as u32)
        } else {
            let Some(last) = chain_left.checked_sub(1) else { return false };
            chain[last]
        };
        self.is_being_served(page)
    }

    /// Neighbours that follow each other in the order, in one write.
    fn seal_run(
        &mut self,
        keys: &dyn PageKeys,
        budget: usize,
        effects: &mut Effects,
    ) -> Result<usize, StoreError> {
        let order = &self.checkpoints.order[self.checkpoints.next..self.checkpoints.hashed];
        let limit = budget.min(STORE_IO_PAGES_MAX).min(order.len());
        let follow = order[..limit].windows(2).take_while(|pair| pair[0] + 1 == pair[1]).count();
        let first = PageNumber::new(order[0] as u32);
        let free = |nth: &usize| !self.is_being_served(PageNumber::new(order[*nth] as u32));
        let run = 1 + (1..=follow).take_while(free).count();
        let mut pages = self.checkpoints.take_buffer(run);
        for (at, into) in pages.as_mut_slice().iter_mut().enumerate() {
            self.seal_page(keys, PageNumber::new(first.get() + at as u32), into)?;
        }
        self.checkpoints.next += run;
        self.start_write(first, pages, effects);
        Ok(run)
    }

    fn seal_page(
        &mut self,
        keys: &dyn PageKeys,
        number: PageNumber,
        into: &mut Page,
    ) -> Result<(), StoreError> {
        let op = self.checkpoints.op;
        let Some(header) = page::header(self.bytes(number)) else {
            unreachable!("we initialised it");
        };
        let Some(key) = keys.page_key(header.tenant) else {
            return Err(StoreError::KeyMissing { tenant: header.tenant });
        };
        self.resolve_page(number);
        into.0.copy_from_slice(self.bytes(number));
        let roots = forest::holds_roots(TreeRef::new(header.tenant, header.tree));
        page::for_each_ref(&mut into.0, roots, |bytes, at| {
            let to = page::read_ref(bytes, at);
            assert!(to.is_none() || to.checkpoint_op.get() != 0, "children are sealed first");
            assert!(to.checkpoint_op <= op || to.checkpoint_op.get() >= REBUILD_OPS);
        });
        let tag = key.seal(number, op, into);
        let other = self
            .checkpoints
            .sealed
            .insert(number, PageRef { page: number, checkpoint_op: op, tag });
        assert!(other.is_none(), "(page, checkpoint op) is a nonce: sealed once");
        self.cache.set_state(number, State::Frozen, State::Writing);
        Ok(())
    }

    /// The last page of the chain that is left: each names the one after it.
    fn seal_chain_page(
        &mut self,
        keys: &dyn PageKeys,
        effects: &mut Effects,
    ) -> Result<usize, StoreError> {
        let tenant = FREE_SET.tenant;
        let Some(key) = keys.page_key(tenant) else {
            return Err(StoreError::KeyMissing { tenant });
        };
        let this = &mut self.checkpoints;
        let at = this.chain_left - 1;
        let number = this.chain[at];
        let mut pages = this.take_buffer(1);
        let bytes = &mut pages.as_mut_slice()[0];
        page::init(&mut bytes.0, number, Kind::FreeSet, 0, FREE_SET);
        let mut payload = [0; CAPACITY];
        page::write_ref(&mut payload, 0, &this.chain_next.unwrap_or(PageRef::NONE));
        let end = this.encoded.len().min((at + 1) * CHUNK);
        let chunk = &this.encoded[(at * CHUNK).min(end)..end];
        payload[REF_SIZE..REF_SIZE + chunk.len()].copy_from_slice(chunk);
        page::set_payload(&mut bytes.0, &payload[..REF_SIZE + chunk.len()]);
        let tag = key.seal(number, this.op, bytes);
        this.chain_next = Some(PageRef { page: number, checkpoint_op: this.op, tag });
        this.chain_left = at;
        self.start_write(number, pages, effects);
        Ok(1)
    }

    fn start_write(&mut self, first: PageNumber, pages: Pages, effects: &mut Effects) {
        let io = self.take_io();
        let count = pages.count();
        self.checkpoints.writes.insert(io.slot, (first, count));
        self.checkpoints.writes_pages += count;
        let at = self.address(first);
        effects.push(Effect::Write { io, at, pages, durable: false });
    }

    /// Takes back the buffer of a write. An error stops the replica.
    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
    ) -> Result<(), StoreError> {
        let Some((first, count)) = self.checkpoints.writes.remove(&io.slot) else {
            result.map_err(StoreError::Io)?;
            assert!(self.repaired(io.slot), "a completion answers a write in flight");
            return Ok(());
        };
        assert_eq!(count, pages.count());
        self.checkpoints.writes_pages -= count;
        self.checkpoints.give_buffer(pages);
        result.map_err(StoreError::Io)?;
        if self.checkpoints.sealed.contains_key(&first) {
            self.checkpoints.unwritten -= count;
            for page in first.get()..first.get() + count as u32 {
                self.cache.set_state(PageNumber::new(page), State::Writing, State::Clean);
            }
        }
        Ok(())
    }

    /// Is a checkpoint begun and not yet given by `checkpoint_done`?
    #[must_use]
    pub fn checkpoint_under_way(&self) -> bool {
        self.checkpoints.under_way
    }

    /// Once, when every page of the checkpoint is written: what the superblock must hold. Sync the
    /// grid before it does.
    pub fn checkpoint_done(&mut self) -> Option<StoreCheckpoint> {
        let this = &mut self.checkpoints;
        let written =
            this.next == this.order.len() && this.chain_left == 0 && this.writes.is_empty();
        if !this.under_way || !written {
            return None;
        }
        this.under_way = false;
        let Some(mut forest) = this.forest.take() else { unreachable!("taken at the beginning") };
        let free_set = FreeSetRoot {
            root: this.chain_next.unwrap_or(PageRef::NONE),
            pages: this.chain.len() as u32,
            runs: this.free_runs,
        };
        let (op, grid_pages) = (this.op, this.grid_pages);
        self.resolve_root(&mut forest);
        self.resolve_roots();
        let system_forest = ForestRoot {
            root: forest.root,
            height: forest.height,
            count: forest.count,
            hash: ChainHash(forest.hash),
        };
        Some(StoreCheckpoint { op, system_forest, free_set, grid_pages })
    }

    /// How far the checkpoint under way is.
    #[must_use]
    pub fn checkpoint_progress(&self) -> CheckpointProgress {
        let Checkpoints { order, hashed, next, writes, chain, chain_left, .. } = &self.checkpoints;
        let pages = order.len() + chain.len();
        let hashed = if *hashed < order.len() { *hashed } else { pages };
        let sealed = next + (chain.len() - chain_left);
        CheckpointProgress { pages, hashed, sealed, writes: writes.len() }
    }

    /// A prepare's header says that checkpoint `op` is durable on a quorum: what only the
    /// checkpoint before needed is free. Called while applying, so a function of ops.
    pub fn checkpoint_durable_applied(&mut self, op: Op) {
        self.free_set.durable(op);
    }

    // ---- open ----

    pub(super) fn begin_open(&mut self, from: &StoreCheckpoint, effects: &mut Effects) {
        self.checkpoints.op = from.op;
        self.set_system_forest(TreeRoot {
            root: from.system_forest.root,
            height: from.system_forest.height,
            count: from.system_forest.count,
            hash: from.system_forest.hash.0,
            dropping: false,
            rows: false,
        });
        let next = from.free_set.root;
        self.opening = Some(Opening { from: *from, next, chain: Vec::new(), encoded: Vec::new() });
        self.read_chain(next, effects);
    }

    fn read_chain(&mut self, next: PageRef, effects: &mut Effects) {
        let io = self.take_io();
        let at = self.address(next.page);
        let pages = self.checkpoints.take_buffer(1);
        effects.push(Effect::Read { io, at, pages });
    }

    pub(super) fn on_open_read(
        &mut self,
        keys: &dyn PageKeys,
        io: IoId,
        mut pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        assert_eq!(io.slot, self.next_io, "one read at a time while opening");
        result.map_err(StoreError::Io)?;
        let Some(opening) = &mut self.opening else { unreachable!("the caller saw it") };
        let at = opening.next;
        let corrupt = StoreError::Corrupt {
            tenant: FREE_SET.tenant,
            tree: FREE_SET.tree,
            page: at.page,
            checkpoint_op: at.checkpoint_op,
        };
        let bytes = &mut pages.as_mut_slice()[0];
        if let Err(error) = open_page(keys, FREE_SET, &at, bytes) {
            effects.event(Event::PageCorrupt { page: at.page.get() });
            return Err(error);
        }
        let Some((next, chunk)) = page::payload(&bytes.0).split_at_checked(REF_SIZE) else {
            return Err(corrupt);
        };
        opening.encoded.extend_from_slice(chunk);
        opening.chain.push(at.page);
        opening.next = page::read_ref(next, 0);
        let (next, pages_read) = (opening.next, opening.chain.len() as u32);
        self.checkpoints.give_buffer(pages);
        let expected = opening.from.free_set.pages;
        if next.is_none() != (pages_read == expected) {
            return Err(corrupt);
        }
        if !next.is_none() {
            self.read_chain(next, effects);
            return Ok(());
        }
        let Some(opening) = self.opening.take() else { unreachable!("just used") };
        let Some(free_set) = FreeSet::decode(&opening.encoded, opening.from.op) else {
            return Err(corrupt);
        };
        if free_set.pages() != opening.from.grid_pages {
            return Err(corrupt);
        }
        self.free_set = free_set;
        self.checkpoints.chain = opening.chain;
        self.checkpoints.encoded = opening.encoded;
        Ok(())
    }
}
