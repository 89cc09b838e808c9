//! Logical hashes of trees, made lazily: `docs/PROOFS.md`, "Hashes of trees".
//!
//! Each inner entry holds the hash of its child, each root that of its tree; zeros say "not known".
//! A change makes the hashes on its path unknown, [`Store::hash_step`] computes what is unknown, a
//! bounded number of pages at a time, and [`Store::state_root`] gives a tenant's once all is known.
//!
//! Invariants: an unknown hash is that of a dirty page, or of one that a checkpoint froze before it
//! was hashed. [`Store::hash_frozen`] hashes those, children first, before they are sealed: so
//! hashing reads no page of a tree, only values in overflow pages, and the pages of a checkpoint
//! hold the same hashes on every replica, whenever they were computed. Hashing changes no shape and
//! no count.
//!
//! [`Store::prune`] cuts out of a tree what a proof of some entries needs.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use super::cache::State;
use super::forest::{FOREST, FORESTS, TreeRoot};
use super::page::{self, Bytes, Kind, Stored};
use super::{Fault, SHAPE_VERSION, Store, TreeRef};
use crate::crypto::commitment::Salt;
use crate::crypto::{ChainHash, LeafSaltKey, merkle, tree};
use crate::ids::{PageNumber, Position, TenantId, TreeId};

/// Who knows the keys that entries are salted with.
pub trait LeafSalts {
    fn leaf_salt_key(&self, tenant: TenantId) -> Option<&LeafSaltKey>;
}

/// Why hashing stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashStop {
    /// A value in overflow pages is not here: fetch, and call again.
    Fault(Fault),
    KeyMissing {
        tenant: TenantId,
    },
}

impl From<Fault> for HashStop {
    fn from(fault: Fault) -> HashStop {
        HashStop::Fault(fault)
    }
}

/// Trees of the system tenant that are functions of checkpoints and of other tenants' pages, not of
/// records: heads of logs at checkpoints, and forests. They count as empty.
const OF_CHECKPOINTS: [TreeId; 2] = [TreeId::new(5), FORESTS];

/// Bytes of a stored row that its digest is made of: begun_at, record hash, commitment.
pub(super) const ROW_PREFIX: usize = 8 + 32 + 32;

/// Is the tree part of its tenant's state root?
pub(super) fn counts(tree: TreeRef) -> bool {
    tree.tenant != TenantId::SYSTEM || !OF_CHECKPOINTS.contains(&tree.tree)
}

/// What a state root knows of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHash {
    pub height: u8,
    pub entries: u64,
    pub hash: ChainHash,
}

impl TreeHash {
    fn of(root: &TreeRoot) -> TreeHash {
        if root.root.is_none() || root.dropping {
            return TreeHash { height: 0, entries: 0, hash: tree::empty_tree() };
        }
        assert_ne!(root.hash, [0; 32], "a tree is hashed before its forest");
        TreeHash { height: root.height, entries: root.count, hash: ChainHash(root.hash) }
    }

    fn digest(&self) -> ChainHash {
        tree::tree_digest(SHAPE_VERSION, self.height, self.entries, &self.hash)
    }

    /// What the digest in the forest is made of, as proofs show it.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(43);
        bytes.extend_from_slice(&SHAPE_VERSION.to_le_bytes());
        bytes.push(self.height);
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.hash.0);
        bytes
    }
}

/// A page with some entries shown: what proves them, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedPage {
    pub level: u8,
    pub entries: u16,
    /// By place in the page, ascending.
    pub shown: Vec<(u16, PrunedItem)>,
    /// Roots of the RFC 6962 subtrees in which nothing is shown, from left to right.
    pub hashes: Vec<ChainHash>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrunedItem {
    /// `value`: as stored; in a forest, what the tree's digest is made of.
    Entry {
        salt: Salt,
        value_salt: Salt,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Shown as a count alone.
    Counted {
        hash: ChainHash,
        count: u64,
    },
    Child {
        count: u64,
        page: Box<PrunedPage>,
    },
}

impl Store {
    /// Goes on with hashing what has changed, by at most `pages_max` pages; true: all is hashed.
    pub fn hash_step(&mut self, salts: &dyn LeafSalts, pages_max: usize) -> Result<bool, HashStop> {
        assert!(!self.unhashed, "all checkpoints of a store are hashed, or none is");
        let mut left = pages_max;
        if !self.hash_frozen_by(salts, &mut left)? {
            return Ok(false);
        }
        while let Some(tree) = self.next_stale() {
            let tenant = tree.tenant;
            let Some(key) = salts.leaf_salt_key(tenant) else {
                return Err(HashStop::KeyMissing { tenant });
            };
            if !self.hash_tree(tree, key, &mut left)? {
                return Ok(false);
            }
            self.stale.remove(&tree);
            if let Some(state) = self.trees.get_mut().get_mut(&tree) {
                state.stale = false;
            }
        }
        Ok(true)
    }

    /// Goes on with hashing the checkpoint under way, by at most `pages_max` pages; true: all of it
    /// is hashed.
    pub fn hash_frozen(
        &mut self,
        salts: &dyn LeafSalts,
        pages_max: usize,
    ) -> Result<bool, HashStop> {
        self.hash_frozen_by(salts, &mut { pages_max })
    }

    fn hash_frozen_by(
        &mut self,
        salts: &dyn LeafSalts,
        left: &mut usize,
    ) -> Result<bool, HashStop> {
        if self.checkpoints.unhashed().is_none() {
            return Ok(true);
        }
        while let Some(number) = self.checkpoints.unhashed() {
            if *left == 0 {
                return Ok(false);
            }
            self.resolve_page(number);
            let Some(header) = page::header(self.bytes(number)) else {
                unreachable!("we initialised it");
            };
            let tree = TreeRef::new(header.tenant, header.tree);
            let hash = match header.kind {
                Kind::Leaf | Kind::Inner if counts(tree) => {
                    *left -= 1;
                    let tenant = tree.tenant;
                    let Some(key) = salts.leaf_salt_key(tenant) else {
                        return Err(HashStop::KeyMissing { tenant });
                    };
                    let bytes = self.bytes(number);
                    let whole = header.level == 0
                        || (0..page::count(bytes)).all(|index| page::child_hashed(bytes, index));
                    assert!(whole, "children are hashed first");
                    let rows = self.checkpoints.has_rows(tree);
                    let mut hashes = core::mem::take(&mut self.entry_hashes);
                    let bytes = self.bytes(number);
                    let hash = self.page_hash(tree, rows, Roots::AsStored, key, bytes, &mut hashes);
                    self.entry_hashes = hashes;
                    Some(hash?.0)
                }
                Kind::Leaf | Kind::Inner => None,
                Kind::OverflowData | Kind::OverflowIndex => None,
                Kind::FreeSet => unreachable!("the free set's pages have no frames"),
            };
            self.checkpoints.set_hash(number, hash);
        }
        self.resolve_roots();
        Ok(true)
    }

    /// Is every hash known?
    #[must_use]
    pub fn all_hashed(&self) -> bool {
        self.stale.is_empty() && !self.unhashed && self.checkpoints.unhashed().is_none()
    }

    /// The root of a tenant's state; everything must be hashed.
    pub fn state_root(&self, tenant: TenantId) -> Result<ChainHash, Fault> {
        Ok(self.tree_hash(TreeRef::new(tenant, FOREST))?.hash)
    }

    /// What the state root holds of a tree; everything must be hashed.
    pub fn tree_hash(&self, tree: TreeRef) -> Result<TreeHash, Fault> {
        assert!(self.all_hashed(), "hashes are asked for after hashing");
        Ok(TreeHash::of(&self.tree_root(tree)?))
    }

    /// A forest comes after the trees it holds.
    fn next_stale(&self) -> Option<TreeRef> {
        let first = *self.stale.first()?;
        if first.tree != FOREST {
            return Some(first);
        }
        let above = TreeRef::new(first.tenant, TreeId::new(u32::MAX));
        Some(self.stale.range(first..=above).nth(1).copied().unwrap_or(first))
    }

    /// Children first, from left to right. A slice that ends early leaves what it has done.
    fn hash_tree(
        &mut self,
        tree: TreeRef,
        key: &LeafSaltKey,
        left: &mut usize,
    ) -> Result<bool, HashStop> {
        let root = self.tree_root(tree)?;
        if root.root.is_none() || root.hash != [0; 32] {
            return Ok(true);
        }
        let mut stack: Vec<(PageNumber, usize)> = Vec::with_capacity(super::HEIGHT_MAX);
        stack.push((root.root.page, 0));
        let mut hashes = core::mem::take(&mut self.entry_hashes);
        while let Some((number, from)) = stack.last_mut() {
            let bytes = self.bytes(*number);
            if page::level(bytes) > 0
                && let Some(index) =
                    (*from..page::count(bytes)).find(|&index| !page::child_hashed(bytes, index))
            {
                *from = index;
                let (number, child) = (*number, page::child_page(bytes, index));
                match self.checkpoints.hash(child) {
                    Some(hash) => page::set_child_hash(self.bytes_mut(number), index, &hash),
                    None => stack.push((child, 0)),
                }
                continue;
            }
            if *left == 0 {
                self.entry_hashes = hashes;
                return Ok(false);
            }
            *left -= 1;
            assert_eq!(self.cache.state(*number), Some(State::Dirty), "others are hashed already");
            let hash = self.page_hash(tree, root.rows, Roots::Live, key, bytes, &mut hashes)?;
            stack.pop();
            match stack.last() {
                Some(&(above, index)) => {
                    page::set_child_hash(self.bytes_mut(above), index, &hash.0);
                }
                None => self.root_mut(tree).hash = hash.0,
            }
        }
        self.entry_hashes = hashes;
        Ok(true)
    }

    pub(super) fn page_hash(
        &self,
        tree: TreeRef,
        rows: bool,
        roots: Roots,
        key: &LeafSaltKey,
        bytes: &Bytes,
        hashes: &mut Vec<ChainHash>,
    ) -> Result<ChainHash, Fault> {
        self.entry_hashes(tree, rows, roots, key, bytes, hashes)?;
        let root = merkle::root_of(hashes);
        Ok(tree::node_hash(page::level(bytes), hashes.len() as u16, &root))
    }

    fn entry_hashes(
        &self,
        tree: TreeRef,
        rows: bool,
        roots: Roots,
        key: &LeafSaltKey,
        bytes: &Bytes,
        hashes: &mut Vec<ChainHash>,
    ) -> Result<(), Fault> {
        hashes.clear();
        for index in 0..page::count(bytes) {
            hashes.push(if page::level(bytes) == 0 {
                let (salt, value_salt) = key.salts(tree.tree, page::key(bytes, index));
                let digest = self.entry_digest(tree, rows, roots, bytes, index, &value_salt)?;
                tree::entry_hash(&salt, tree.tree, page::key(bytes, index), &digest)
            } else {
                let child = ChainHash(page::child_hash(bytes, index));
                tree::inner_hash(&child, page::child_count(bytes, index))
            });
        }
        Ok(())
    }

    fn entry_digest(
        &self,
        tree: TreeRef,
        rows: bool,
        roots: Roots,
        bytes: &Bytes,
        index: usize,
        value_salt: &Salt,
    ) -> Result<ChainHash, Fault> {
        if tree.tree == FOREST {
            return Ok(self.hash_in_forest(tree, roots, bytes, index)?.digest());
        }
        if !rows {
            let value = self.value_at(tree, bytes, index)?;
            return Ok(tree::value_digest(value_salt, &value));
        }
        let mut prefix = [0; ROW_PREFIX];
        match page::stored(bytes, index) {
            Stored::Inline(value) => prefix.copy_from_slice(&value[..ROW_PREFIX]),
            Stored::Overflow { size, root } => {
                self.read_overflow_start(tree, size, root, &mut prefix)?;
            }
        }
        Ok(row_digest(&prefix))
    }

    /// The tree that the entry of a forest names.
    fn hash_in_forest(
        &self,
        forest: TreeRef,
        roots: Roots,
        bytes: &Bytes,
        index: usize,
    ) -> Result<TreeHash, Fault> {
        let Ok(id) = page::key(bytes, index).try_into() else {
            unreachable!("keys of a forest that counts have four bytes");
        };
        let tree = TreeRef::new(forest.tenant, TreeId::new(u32::from_be_bytes(id)));
        if !counts(tree) {
            return Ok(TreeHash::of(&TreeRoot::EMPTY));
        }
        match roots {
            Roots::Live => Ok(TreeHash::of(&self.tree_root(tree)?)),
            Roots::AsStored => {
                let Some(root) = TreeRoot::decode(&bytes[page::value_range(bytes, index)]) else {
                    unreachable!("forests hold what we encoded");
                };
                Ok(TreeHash::of(&root))
            }
        }
    }

    /// The tree with the entries of these ranks shown, ascending and disjoint. Subtrees that lie
    /// within `counted` and show nothing are shown as counts, entries there by themselves. `None`:
    /// the tree is empty. Everything must be hashed.
    pub fn prune(
        &self,
        key: &LeafSaltKey,
        tree: TreeRef,
        show: &[Range<u64>],
        counted: Option<Range<u64>>,
    ) -> Result<Option<PrunedPage>, Fault> {
        assert!(self.all_hashed(), "proofs are made after hashing");
        let root = self.tree_root(tree)?;
        if root.root.is_none() || root.dropping {
            return Ok(None);
        }
        let bytes = self.load(tree, root.root.page, || root.root)?;
        let cut = Cut { tree, rows: root.rows, key, show, counted: counted.unwrap_or(0..0) };
        self.prune_page(&cut, bytes, 0).map(Some)
    }

    /// As deep as the tree is high.
    fn prune_page(&self, cut: &Cut<'_>, bytes: &Bytes, first: u64) -> Result<PrunedPage, Fault> {
        let mut hashes = Vec::with_capacity(page::count(bytes));
        self.entry_hashes(cut.tree, cut.rows, Roots::Live, cut.key, bytes, &mut hashes)?;
        let level = page::level(bytes);
        let mut shown = Vec::new();
        let mut rank = first;
        let mut missing = None;
        for index in 0..page::count(bytes) {
            let count = if level == 0 { 1 } else { page::child_count(bytes, index) };
            let below = rank..rank + count;
            rank += count;
            let wanted = cut.show.iter().any(|range| meets(range, &below));
            let in_counted = meets(&cut.counted, &below);
            if !wanted && !in_counted {
                continue;
            }
            let item = if level == 0 {
                self.pruned_entry(cut, bytes, index)
            } else if wanted || below.start < cut.counted.start || below.end > cut.counted.end {
                let number = page::child_page(bytes, index);
                self.load(cut.tree, number, || page::child_ref(bytes, index)).and_then(|child| {
                    let page = Box::new(self.prune_page(cut, child, below.start)?);
                    Ok(PrunedItem::Child { count, page })
                })
            } else {
                let hash = ChainHash(page::child_hash(bytes, index));
                Ok(PrunedItem::Counted { hash, count })
            };
            // Every page that is missing is noted, then all are read at once.
            match item {
                Ok(item) => shown.push((index as u16, item)),
                Err(fault) => missing = Some(fault),
            }
        }
        if let Some(fault) = missing {
            return Err(fault);
        }
        let mut rest = Vec::new();
        hide(&hashes, 0, &shown, &mut rest);
        Ok(PrunedPage { level, entries: hashes.len() as u16, shown, hashes: rest })
    }

    fn pruned_entry(
        &self,
        cut: &Cut<'_>,
        bytes: &Bytes,
        index: usize,
    ) -> Result<PrunedItem, Fault> {
        let key = page::key(bytes, index).to_vec();
        let (salt, value_salt) = cut.key.salts(cut.tree.tree, &key);
        let value = if cut.tree.tree == FOREST {
            self.hash_in_forest(cut.tree, Roots::Live, bytes, index)?.encode()
        } else {
            self.value_at(cut.tree, bytes, index)?.into_owned()
        };
        Ok(PrunedItem::Entry { salt, value_salt, key, value })
    }
}

/// Which roots the entries of a forest stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of now: the leaf may hold older ones.
    Live,
    /// Those in the leaf, which a checkpoint froze.
    AsStored,
}

/// What a proof cuts out of a tree.
struct Cut<'a> {
    tree: TreeRef,
    rows: bool,
    key: &'a LeafSaltKey,
    show: &'a [Range<u64>],
    counted: Range<u64>,
}

fn meets(left: &Range<u64>, right: &Range<u64>) -> bool {
    left.start.max(right.start) < left.end.min(right.end)
}

/// The roots of all subtrees in which nothing is shown, from left to right. `hashes` are those of
/// the leaves from `first` on.
fn hide(hashes: &[ChainHash], first: u16, shown: &[(u16, PrunedItem)], into: &mut Vec<ChainHash>) {
    if hashes.is_empty() {
        return;
    }
    let end = first + hashes.len() as u16;
    if !shown.iter().any(|(index, _)| (first..end).contains(index)) {
        into.push(merkle::root_of(hashes));
    } else if hashes.len() > 1 {
        // Where RFC 6962 splits; the depth is the logarithm of a page's entries.
        let left = 1 << (hashes.len() - 1).ilog2();
        hide(&hashes[..left], first, shown, into);
        hide(&hashes[left..], first + left as u16, shown, into);
    }
}

/// Of the first bytes of a stored row: begun_at u64 ‖ record hash [32] ‖ commitment [32].
fn row_digest(prefix: &[u8; ROW_PREFIX]) -> ChainHash {
    let (begun_at, rest) = prefix.split_at(8);
    let (mut record, mut commitment) = (ChainHash::ZERO, ChainHash::ZERO);
    record.0.copy_from_slice(&rest[..32]);
    commitment.0.copy_from_slice(&rest[32..]);
    tree::row_digest(&commitment, Position::new(page::u64_at(begun_at, 0)), &record)
}
