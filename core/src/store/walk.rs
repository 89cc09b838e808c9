//! The offline walker: reads every page that a checkpoint reaches and checks it against its parent.
//!
//! The caller supplies pages, in any order, as they come from disk; the walker needs no store, no
//! cache and no journal. It checks: tag, header (tenant, tree, kind, level), layout, key order
//! within and across pages, entry counts, sizes of overflow values, and that no page is reached
//! twice. It repairs nothing. Memory: the references not yet read (depth times fan-out) and a bit
//! per page.

use alloc::vec;
use alloc::vec::Vec;

use super::checkpoint::FREE_SET;
use super::fetch::open_page;
use super::forest::{FOREST, FORESTS, TreeRoot, holds_roots};
use super::page::{self, Bytes, CAPACITY, Kind, Stored};
use super::{PageKeys, StoreCheckpoint, StoreError, TreeRef};
use crate::ids::{PageNumber, TenantId, TreeId};
use crate::io::Page;
use crate::stdx::BitSet;
use crate::superblock::PageRef;

/// Something does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The page does not verify, or its keys are missing.
    Page(StoreError),
    /// The page verifies, and yet breaks a rule: a bug wrote it.
    Rule { tenant: TenantId, tree: TreeId, page: PageNumber, rule: &'static str },
}

impl core::fmt::Display for Damage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Damage::Page(error) => write!(f, "{error}"),
            Damage::Rule { tenant, tree, page, rule } => {
                write!(f, "grid page {page} (tree {tree} of tenant {tenant}): {rule}")
            }
        }
    }
}

impl core::error::Error for Damage {}

/// A page to read, and what its parent said of it.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub at: PageRef,
    pub tree: TreeRef,
    expect: Expect,
}

#[derive(Clone, Debug)]
enum Expect {
    /// A page of a tree: its level, the entries below, the keys it may hold (from, before).
    Node {
        level: u8,
        count: u64,
        low: Vec<u8>,
        high: Option<Vec<u8>>,
    },
    /// Overflow pages that hold so many bytes of value.
    Index {
        size: usize,
    },
    Data {
        size: usize,
    },
    FreeSet {
        pages_left: u32,
    },
}

#[derive(Debug)]
pub struct Walker {
    stack: Vec<Wanted>,
    seen: BitSet,
    pages: u64,
    entries: u64,
}

impl Walker {
    #[must_use]
    pub fn new(from: &StoreCheckpoint) -> Walker {
        let mut walker = Walker {
            stack: Vec::new(),
            seen: BitSet::new(from.grid_pages as usize),
            pages: 0,
            entries: 0,
        };
        let forest = &from.system_forest;
        if !forest.root.is_none() {
            walker.stack.push(Wanted {
                at: forest.root,
                tree: TreeRef::new(TenantId::SYSTEM, FOREST),
                expect: whole_tree(forest.height, forest.count),
            });
        }
        if !from.free_set.root.is_none() {
            walker.stack.push(Wanted {
                at: from.free_set.root,
                tree: FREE_SET,
                expect: Expect::FreeSet { pages_left: from.free_set.pages },
            });
        }
        walker
    }

    /// The next page to read; `None`: all have been given out.
    pub fn wanted(&mut self) -> Option<Wanted> {
        self.stack.pop()
    }

    /// Every page that was reached was given out.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stack.is_empty()
    }

    /// Pages and entries that held so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.pages, self.entries)
    }

    /// Was the page reached? After the walk: is it part of the checkpoint?
    #[must_use]
    pub fn reached(&self, page: PageNumber) -> bool {
        (page.get() as usize) < self.seen.len() && self.seen.get(page.get() as usize)
    }

    /// Whether a page, as it is on a disk, is the one that its parent names. Changes nothing.
    #[must_use]
    pub fn holds(keys: &dyn PageKeys, wanted: &Wanted, page: &Page) -> bool {
        let mut copy = page.clone();
        open_page(keys, wanted.tree, &wanted.at, &mut copy).is_ok()
    }

    /// Checks a page as read from disk; decrypts it in place. Damage hides what is below the page;
    /// the walk goes on elsewhere.
    pub fn give(
        &mut self,
        keys: &dyn PageKeys,
        wanted: &Wanted,
        page: &mut Page,
    ) -> Result<(), Damage> {
        let rule = |rule| Damage::Rule {
            tenant: wanted.tree.tenant,
            tree: wanted.tree.tree,
            page: wanted.at.page,
            rule,
        };
        let number = wanted.at.page.get() as usize;
        if number >= self.seen.len() {
            return Err(rule("the page lies past the end of the grid"));
        }
        if self.seen.get(number) {
            return Err(rule("the page is part of two trees"));
        }
        self.seen.set(number);
        open_page(keys, wanted.tree, &wanted.at, page).map_err(Damage::Page)?;
        page::check(&page.0).map_err(rule)?;
        self.check(wanted, &page.0).map_err(rule)?;
        self.pages += 1;
        Ok(())
    }

    fn check(&mut self, wanted: &Wanted, bytes: &Bytes) -> Result<(), &'static str> {
        let Some(header) = page::header(bytes) else { return Err("not a page of the grid") };
        match (&wanted.expect, header.kind) {
            (Expect::Node { level, count, low, high }, Kind::Leaf | Kind::Inner) => {
                if header.level != *level || (*level == 0) != (header.kind == Kind::Leaf) {
                    return Err("the page is of another level than its parent says");
                }
                if page::count(bytes) == 0 {
                    return Err("a page of a tree has no entry");
                }
                if page::entries_below(bytes) != *count {
                    return Err("the entry count differs from what the parent says");
                }
                if header.kind == Kind::Leaf {
                    self.check_leaf(wanted.tree, bytes, low, high.as_deref())
                } else {
                    self.check_inner(wanted.tree, bytes, low, high.as_ref())
                }
            }
            (Expect::Index { size }, Kind::OverflowIndex) => {
                let pages = page::count(bytes);
                if pages != size.div_ceil(CAPACITY) {
                    return Err("an overflow index has another size than its value");
                }
                for index in 0..pages {
                    let size = (size - index * CAPACITY).min(CAPACITY);
                    let at = page::index_ref(bytes, index);
                    let expect = Expect::Data { size };
                    self.stack.push(Wanted { at, tree: wanted.tree, expect });
                }
                Ok(())
            }
            (Expect::Data { size }, Kind::OverflowData) if page::payload(bytes).len() == *size => {
                Ok(())
            }
            (Expect::FreeSet { pages_left }, Kind::FreeSet) => {
                let Some((next, _)) = page::payload(bytes).split_at_checked(page::REF_SIZE) else {
                    return Err("a free set page is too short");
                };
                let at = page::read_ref(next, 0);
                let Some(pages_left) = pages_left.checked_sub(1) else {
                    return Err("the free set has another length than the superblock says");
                };
                if at.is_none() != (pages_left == 0) {
                    return Err("the free set has another length than the superblock says");
                }
                if pages_left > 0 {
                    let expect = Expect::FreeSet { pages_left };
                    self.stack.push(Wanted { at, tree: wanted.tree, expect });
                }
                Ok(())
            }
            (
                Expect::Node { .. }
                | Expect::Index { .. }
                | Expect::Data { .. }
                | Expect::FreeSet { .. },
                _,
            ) => Err("the page is of another kind than its parent says"),
        }
    }

    fn check_inner(
        &mut self,
        tree: TreeRef,
        bytes: &Bytes,
        low: &[u8],
        high: Option<&Vec<u8>>,
    ) -> Result<(), &'static str> {
        let entries = page::count(bytes);
        let level = page::level(bytes) - 1;
        for index in (0..entries).rev() {
            let key = page::key(bytes, index);
            if index > 0 && (key <= low || high.is_some_and(|high| key >= high.as_slice())) {
                return Err("a separator lies outside the page's range");
            }
            let from = if index == 0 { low } else { key };
            let before = if index + 1 < entries {
                Some(page::key(bytes, index + 1).to_vec())
            } else {
                high.cloned()
            };
            let count = page::child_count(bytes, index);
            let expect = Expect::Node { level, count, low: from.to_vec(), high: before };
            self.stack.push(Wanted { at: page::child_ref(bytes, index), tree, expect });
        }
        Ok(())
    }

    fn check_leaf(
        &mut self,
        tree: TreeRef,
        bytes: &Bytes,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> Result<(), &'static str> {
        for index in 0..page::count(bytes) {
            let key = page::key(bytes, index);
            if key < low || high.is_some_and(|high| key >= high) {
                return Err("a key lies outside the page's range");
            }
            match page::stored(bytes, index) {
                Stored::Inline(value) if holds_roots(tree) => {
                    self.check_root(tree, key, value)?;
                }
                Stored::Inline(_) => {}
                Stored::Overflow { .. } if holds_roots(tree) => {
                    return Err("a forest holds something else than a tree's root");
                }
                Stored::Overflow { size, root } => {
                    let expect = if size > CAPACITY {
                        Expect::Index { size }
                    } else {
                        Expect::Data { size }
                    };
                    self.stack.push(Wanted { at: root, tree, expect });
                }
            }
            self.entries += 1;
        }
        Ok(())
    }

    /// An entry of a forest: the tree it names is walked too.
    fn check_root(
        &mut self,
        forest: TreeRef,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), &'static str> {
        let Some(root) = TreeRoot::decode(value) else {
            return Err("a forest holds something else than a tree's root");
        };
        let tree = if forest.tree == FORESTS {
            let Ok(tenant) = key.try_into() else { return Err("a forest key has a wrong size") };
            TreeRef::new(TenantId::new(u64::from_be_bytes(tenant)), FOREST)
        } else {
            let Ok(tree) = key.try_into() else { return Err("a forest key has a wrong size") };
            TreeRef::new(forest.tenant, TreeId::new(u32::from_be_bytes(tree)))
        };
        if root.root.is_none() {
            return if root.count == 0 { Ok(()) } else { Err("an empty tree counts entries") };
        }
        let expect = whole_tree(root.height, root.count);
        self.stack.push(Wanted { at: root.root, tree, expect });
        Ok(())
    }
}

/// What lies inline in a leaf that was opened; nothing, of a page of another kind.
pub fn leaf_entries(page: &Page) -> impl Iterator<Item = (&[u8], &[u8])> {
    let leaf = page::header(&page.0).is_some_and(|header| header.kind == Kind::Leaf);
    let count = if leaf { page::count(&page.0) } else { 0 };
    (0..count).filter_map(|index| match page::stored(&page.0, index) {
        Stored::Inline(value) => Some((page::key(&page.0, index), value)),
        Stored::Overflow { .. } => None,
    })
}

fn whole_tree(height: u8, count: u64) -> Expect {
    Expect::Node { level: height, count, low: vec![], high: None }
}
