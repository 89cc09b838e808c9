//! Trees of trees: where the root of each tree is kept.
//!
//! Invariants: a tree's entry in its forest has a fixed size, so that writing new roots at a
//! checkpoint never changes a shape. A tree whose root changed since the last checkpoint has its
//! forest leaf dirty already (and so on up to the system forest), so that a checkpoint never
//! faults.

use super::page::{self, REF_SIZE, ROOT_HASH_AT, read_ref, u64_at, write_ref};
use super::{Fault, HEIGHT_MAX, SHAPE_VERSION, Store, TreeRef};
use crate::ids::{TenantId, TreeId};
use crate::limits::STORE_ROOTS_CACHED_MAX;
use crate::superblock::PageRef;

/// Of the system tenant: the forests of all other tenants, by tenant id.
pub const FORESTS: TreeId = TreeId::new(15);
/// Of every tenant: its trees, by tree id.
pub const FOREST: TreeId = TreeId::ZERO;

const SYSTEM_FOREST: TreeRef = TreeRef::new(TenantId::SYSTEM, FOREST);

/// Encoded: reference [28], height u8, flags u8 (1 dropping, 2 rows), shape version u16, count u64,
/// hash [32], zeros [8].
pub(super) const ROOT_SIZE: usize = 80;

/// What a forest keeps of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// `PageRef::NONE`: the tree is empty.
    pub root: PageRef,
    /// Levels above the leaves.
    pub height: u8,
    /// Entries in the tree.
    pub count: u64,
    /// Logical (Merkle) hash of the root page; zeros: not computed.
    pub hash: [u8; 32],
    /// Being dropped slice by slice: no longer readable.
    pub dropping: bool,
    /// Its values are stored rows: what they hash by is the record that made them.
    pub rows: bool,
}

const FLAG_DROPPING: u8 = 1;
const FLAG_ROWS: u8 = 2;

impl TreeRoot {
    pub const EMPTY: TreeRoot = TreeRoot {
        root: PageRef::NONE,
        height: 0,
        count: 0,
        hash: [0; 32],
        dropping: false,
        rows: false,
    };

    pub(super) fn encode(&self) -> [u8; ROOT_SIZE] {
        let mut bytes = [0; ROOT_SIZE];
        write_ref(&mut bytes, 0, &self.root);
        bytes[REF_SIZE] = self.height;
        bytes[29] = u8::from(self.dropping) * FLAG_DROPPING + u8::from(self.rows) * FLAG_ROWS;
        bytes[30..32].copy_from_slice(&SHAPE_VERSION.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.count.to_le_bytes());
        bytes[ROOT_HASH_AT..ROOT_HASH_AT + 32].copy_from_slice(&self.hash);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<TreeRoot> {
        if bytes.len() != ROOT_SIZE || bytes[30..32] != SHAPE_VERSION.to_le_bytes() {
            return None;
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[ROOT_HASH_AT..ROOT_HASH_AT + 32]);
        Some(TreeRoot {
            root: read_ref(bytes, 0),
            height: bytes[REF_SIZE],
            count: u64_at(bytes, 32),
            hash,
            dropping: bytes[29] & FLAG_DROPPING != 0,
            rows: bytes[29] & FLAG_ROWS != 0,
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct TreeState {
    pub root: TreeRoot,
    /// Changed since the last checkpoint began.
    pub dirty: bool,
    /// Changed since it was last hashed; then it is dirty too.
    pub stale: bool,
}

/// The key of an entry in a forest: a big-endian number.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForestKey {
    bytes: [u8; 8],
    size: usize,
}

impl ForestKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// Do the values of this tree hold tree roots?
pub(super) fn holds_roots(tree: TreeRef) -> bool {
    tree.tree == FOREST || (tree.tenant == TenantId::SYSTEM && tree.tree == FORESTS)
}

/// Where a tree's root is kept; `None`: in the superblock.
pub(super) fn parent(tree: TreeRef) -> Option<(TreeRef, ForestKey)> {
    if tree == SYSTEM_FOREST {
        return None;
    }
    if tree.tree == FOREST {
        let key = ForestKey { bytes: tree.tenant.get().to_be_bytes(), size: 8 };
        return Some((TreeRef::new(TenantId::SYSTEM, FORESTS), key));
    }
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&tree.tree.get().to_be_bytes());
    Some((TreeRef::new(tree.tenant, FOREST), ForestKey { bytes, size: 4 }))
}

/// Order in which a checkpoint seals trees: what holds references comes after what they name.
pub(super) fn seal_rank(tree: TreeRef) -> u8 {
    match parent(tree) {
        None => 4,
        Some(_) if tree.tenant == TenantId::SYSTEM && tree.tree == FORESTS => 3,
        Some(_) if tree.tree == FOREST => 2,
        Some(_) => 1,
    }
}

impl Store {
    /// The first trees, in an empty grid.
    pub(super) fn create_system(&mut self) {
        let state = TreeState { root: TreeRoot::EMPTY, dirty: true, stale: true };
        self.trees.get_mut().insert(SYSTEM_FOREST, state);
        self.stale.insert(SYSTEM_FOREST);
        let Ok(()) = self.create_tree(TreeRef::new(TenantId::SYSTEM, FORESTS)) else {
            unreachable!("an empty tree has no page to miss");
        };
    }

    /// The root of a tree that exists: the caller's catalog says so.
    #[inline]
    pub(super) fn tree_root(&self, tree: TreeRef) -> Result<TreeRoot, Fault> {
        let Some(root) = self.find_root(tree)? else {
            unreachable!("{tree:?} was never created: the caller's catalog is wrong");
        };
        Ok(root)
    }

    pub(super) fn find_root(&self, tree: TreeRef) -> Result<Option<TreeRoot>, Fault> {
        if let Some(state) = self.trees.borrow().get(&tree) {
            return Ok(Some(state.root));
        }
        self.find_root_in_forest(tree)
    }

    #[cold]
    fn find_root_in_forest(&self, tree: TreeRef) -> Result<Option<TreeRoot>, Fault> {
        let Some((forest, key)) = parent(tree) else {
            unreachable!("the system forest is always known");
        };
        // One more level of the three, so the recursion is bounded.
        if self.find_root(forest)?.is_none() {
            return Ok(None);
        }
        let Some((bytes, index)) = self.find(forest, key.as_bytes())? else { return Ok(None) };
        let range = page::value_range(bytes, index);
        let Some(mut root) = TreeRoot::decode(&bytes[range]) else {
            unreachable!("forests hold what we encoded, under a tag that verified");
        };
        self.resolve_root(&mut root);
        // A plan, which comes after a trim, always finds room for the few roots it needs.
        let mut trees = self.trees.borrow_mut();
        if trees.len() < self.roots_max + 8 {
            trees.insert(tree, TreeState { root, dirty: false, stale: false });
        }
        Ok(Some(root))
    }

    /// Keeps the roots in memory few: those that changed, and some more.
    pub(super) fn trim_roots(&mut self) {
        if self.trees.get_mut().len() >= self.roots_max {
            self.forget_clean_roots();
        }
    }

    pub(super) fn forget_clean_roots(&mut self) {
        let trees = self.trees.get_mut();
        trees.retain(|&tree, state| state.dirty || tree == SYSTEM_FOREST);
        self.roots_max = trees.len() + STORE_ROOTS_CACHED_MAX;
    }

    /// Is there such a tree, fit to be read?
    pub fn tree_exists(&self, tree: TreeRef) -> Result<bool, Fault> {
        Ok(self.find_root(tree)?.is_some_and(|root| !root.dropping))
    }

    /// A tenant's forest: comes before its first tree.
    pub fn create_tenant(&mut self, tenant: TenantId) -> Result<(), Fault> {
        assert_ne!(tenant, TenantId::SYSTEM, "the system tenant is there from the start");
        self.create_tree(TreeRef::new(tenant, FOREST))
    }

    /// An empty tree. All or nothing.
    pub fn create_tree(&mut self, tree: TreeRef) -> Result<(), Fault> {
        self.create(tree, TreeRoot::EMPTY)
    }

    /// An empty tree whose values will be stored rows. All or nothing.
    pub fn create_rows_tree(&mut self, tree: TreeRef) -> Result<(), Fault> {
        self.create(tree, TreeRoot { rows: true, ..TreeRoot::EMPTY })
    }

    fn create(&mut self, tree: TreeRef, root: TreeRoot) -> Result<(), Fault> {
        let Some((forest, key)) = parent(tree) else {
            unreachable!("the system forest is there from the start");
        };
        let exists = self.find_root(tree)?.is_some();
        assert!(!exists, "{tree:?} exists: the caller's catalog is wrong");
        let replaced = self.put(forest, key.as_bytes(), &root.encode())?;
        assert!(!replaced);
        // Its forest leaf is dirty, as a dirty tree's must be.
        self.trees.get_mut().insert(tree, TreeState { root, dirty: true, stale: true });
        self.note_stale(tree);
        Ok(())
    }

    /// The tree is empty and leaves its forest. All or nothing.
    pub(super) fn forget_tree(&mut self, tree: TreeRef) -> Result<(), Fault> {
        assert!(self.tree_root(tree)?.root.is_none());
        let Some((forest, key)) = parent(tree) else { unreachable!("it is never dropped") };
        let removed = self.remove(forest, key.as_bytes())?;
        assert!(removed);
        self.trees.get_mut().remove(&tree);
        self.stale.remove(&tree);
        Ok(())
    }

    /// Reads, changing nothing, all that `dirty_forests` will touch.
    pub(super) fn plan_forests(&self, tree: TreeRef) -> Result<(), Fault> {
        let mut tree = tree;
        for _ in 0..3 {
            self.tree_root(tree)?;
            if self.trees.borrow().get(&tree).is_some_and(|state| state.dirty) {
                return Ok(());
            }
            let Some((forest, key)) = parent(tree) else { return Ok(()) };
            let found = self.find(forest, key.as_bytes())?;
            assert!(found.is_some());
            tree = forest;
        }
        Ok(())
    }

    /// The tree is about to change: so will its entry in its forest, at the checkpoint.
    pub(super) fn dirty_forests(&mut self, tree: TreeRef) {
        let Some(state) = self.trees.get_mut().get_mut(&tree) else {
            unreachable!("planned roots are in memory");
        };
        if state.dirty && state.stale {
            return;
        }
        (state.dirty, state.stale) = (true, true);
        self.note_stale(tree);
        if let Some((forest, key)) = parent(tree) {
            self.dirty_forests(forest); // Three levels at most.
            let path = self.path_in_memory(forest, key.as_bytes());
            self.dirty_path(forest, &path);
        }
    }

    /// Writes the roots of changed trees into the forests' leaves, which are dirty already.
    pub(super) fn write_roots(&mut self) {
        // Forests after the trees they hold: their roots are final only then. Values change, pages
        // do not move: any order gives the same bytes.
        let dirty: alloc::vec::Vec<(TreeRef, TreeRoot)> = self
            .trees
            .get_mut()
            .iter()
            .filter(|(_, state)| state.dirty)
            .map(|(&tree, state)| (tree, state.root))
            .collect();
        for (tree, root) in dirty {
            if let Some((forest, key)) = parent(tree) {
                let path = self.path_in_memory(forest, key.as_bytes());
                assert!(path.exact, "every tree has its place in its forest");
                let (leaf, index) = path.leaf();
                assert_eq!(self.cache.state(leaf), Some(super::cache::State::Dirty));
                let bytes = self.bytes_mut(leaf);
                let range = page::value_range(bytes, index);
                bytes[range].copy_from_slice(&root.encode());
            }
        }
        // A store that is never hashed (a rebuild's, a test's) has no hashes, rather than wrong
        // ones.
        self.unhashed |= !self.stale.is_empty();
        self.stale.clear();
        for state in self.trees.get_mut().values_mut() {
            (state.dirty, state.stale) = (false, false);
        }
    }

    /// Trees of stored rows that a checkpoint which begins now holds pages of.
    pub(super) fn trees_of_rows_changed(&mut self) -> alloc::collections::BTreeSet<TreeRef> {
        let changed = self.trees.get_mut().iter();
        let changed = changed.filter(|(_, state)| state.dirty && state.root.rows);
        changed.map(|(&tree, _)| tree).collect()
    }

    fn note_stale(&mut self, tree: TreeRef) {
        if super::merkle::counts(tree) {
            self.stale.insert(tree);
        }
    }

    pub(super) fn system_forest(&self) -> TreeRoot {
        let trees = self.trees.borrow();
        let Some(state) = trees.get(&SYSTEM_FOREST) else {
            unreachable!("the system forest is always known");
        };
        state.root
    }

    pub(super) fn set_system_forest(&mut self, root: TreeRoot) {
        let state = TreeState { root, dirty: false, stale: false };
        self.trees.get_mut().insert(SYSTEM_FOREST, state);
    }

    pub(super) fn root_mut(&mut self, tree: TreeRef) -> &mut TreeRoot {
        let Some(state) = self.trees.get_mut().get_mut(&tree) else {
            unreachable!("planned roots are in memory");
        };
        assert!(state.dirty);
        assert!((state.root.height as usize) < HEIGHT_MAX);
        &mut state.root
    }
}
