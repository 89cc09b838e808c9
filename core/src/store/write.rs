//! Changes of a tree: put, remove, drop; each plans first, reading only, then cannot fail.
//!
//! The shape rule ("shape 2", `docs/PROOFS.md`) is here: where a page splits, when pages merge,
//! what separates them. It counts logical sizes only, never what the cache or a checkpoint did.
//!
//! Invariant: between the last `?` of a plan and the end of its deed nothing is read from disk and
//! nothing is evicted (`Cache::reserve` comes before the plan).

use super::forest;
use super::overflow;
use super::page::{self, Bytes, CAPACITY, Entry, Kind, Stored};
use super::{Fault, HEIGHT_MAX, Store, TreeRef, VALUE_INLINE_MAX};
use crate::event::Event;
use crate::ids::PageNumber;
use crate::limits::KEY_SIZE_MAX;
use crate::superblock::PageRef;

/// A page with fewer bytes used looks for a neighbour to merge with.
pub(super) const USED_MIN: usize = CAPACITY / 4;

// Two pages hold what one page and one more entry hold, wherever the split falls.
static_assertions::const_assert!(
    page::SLOT + 2 + KEY_SIZE_MAX + VALUE_INLINE_MAX <= CAPACITY / 2
        && page::SLOT + page::INNER_FIXED + KEY_SIZE_MAX <= CAPACITY / 2
);

/// What one step of dropping a tree did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The tree is gone.
    Done,
    /// One leaf is gone, with its overflow pages: so many pages.
    More { pages: u32 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) page: PageNumber,
    /// Of an inner page: the child taken. Of the leaf: where the key is, or would be.
    pub(super) index: usize,
}

/// The way from the root to a key.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) steps: [Step; HEIGHT_MAX],
    /// Levels above the leaf; `None`: the tree is empty.
    height: Option<usize>,
    pub(super) exact: bool,
}

impl Path {
    pub(super) fn leaf(&self) -> (PageNumber, usize) {
        let Some(height) = self.height else { unreachable!("the caller saw that it is not empty") };
        (self.steps[height].page, self.steps[height].index)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    None,
    /// The page is empty and goes.
    Vanish,
    /// The page goes into its left neighbour.
    Left,
    /// The right neighbour goes into the page.
    Right,
}

/// A separator on its way from one page to another.
pub(super) struct Key {
    bytes: [u8; KEY_SIZE_MAX],
    size: usize,
}

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut bytes = [0; KEY_SIZE_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Key { bytes, size: key.len() }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

impl Store {
    /// Sets the value of a key; tells whether it had one. All or nothing. The caller has asked
    /// [`Store::room_for`].
    pub fn put(&mut self, tree: TreeRef, key: &[u8], value: &[u8]) -> Result<bool, Fault> {
        Store::check_sizes(key, value.len());
        self.reserve(tree, overflow::pages_of(value.len()))?;
        self.plan_forests(tree)?;
        let path = self.path(tree, key);
        #[cfg(verity_zoo)]
        if path.is_err() && crate::zoo::is("page_leaks_on_fault") {
            // Taken before the last `?`, and forgotten.
            let _ = self.free_set.acquire();
        }
        let path = path?;
        let stored = overflow::stored_size(value.len());
        let size = page::SLOT + 2 + key.len() + stored;
        if path.height.is_some() {
            let after = self.plan_leaf(tree, &path, Some(size))?;
            let (leaf, _) = path.leaf();
            if after < page::used(self.bytes(leaf)) {
                self.plan_shrink(tree, &path, after, false)?;
            }
        }

        self.fetches.forget_misses();
        self.dirty_forests(tree);
        let path = self.dirty_path(tree, &path);
        if path.exact {
            self.free_value(&path);
        }
        if value.len() > VALUE_INLINE_MAX {
            let stub = self.write_overflow(tree, value);
            let fixed = page::leaf_fixed(true, stub.len());
            self.put_entry(tree, &path, &Entry { fixed: &fixed, key, tail: &stub });
        } else {
            let fixed = page::leaf_fixed(false, value.len());
            self.put_entry(tree, &path, &Entry { fixed: &fixed, key, tail: value });
        }
        Ok(path.exact)
    }

    /// Removes a key; tells whether it was there. All or nothing.
    pub fn remove(&mut self, tree: TreeRef, key: &[u8]) -> Result<bool, Fault> {
        Store::check_sizes(key, 0);
        self.reserve(tree, 0)?;
        let path = self.path(tree, key)?;
        if !path.exact {
            return Ok(false);
        }
        self.plan_forests(tree)?;
        let after = self.plan_leaf(tree, &path, None)?;
        let (leaf, _) = path.leaf();
        let empty = page::count(self.bytes(leaf)) == 1;
        self.plan_shrink(tree, &path, after, empty)?;

        self.fetches.forget_misses();
        self.dirty_forests(tree);
        let path = self.dirty_path(tree, &path);
        self.free_value(&path);
        let (leaf, index) = path.leaf();
        page::remove(self.bytes_mut(leaf), index);
        self.add_to_counts(tree, &path, -1);
        self.shrink(tree, &path);
        Ok(true)
    }

    /// Frees one leaf of a tree, or forgets the tree when none is left. The caller counts the pages
    /// and spreads the work over ops. From the first step on the tree can no longer be read.
    pub fn drop_step(&mut self, tree: TreeRef) -> Result<Dropped, Fault> {
        let root = self.tree_root(tree)?;
        if root.root.is_none() {
            self.forget_tree(tree)?;
            return Ok(Dropped::Done);
        }
        self.reserve(tree, 0)?;
        self.plan_forests(tree)?;
        let path = self.path(tree, &[])?;
        let (leaf, _) = path.leaf();
        let entries = page::count(self.bytes(leaf));
        let mut missing = None;
        for index in 0..entries {
            if let Stored::Overflow { size, root } = page::stored(self.bytes(leaf), index)
                && let Err(fault) = self.plan_free_overflow(tree, size, root)
            {
                missing = Some(fault);
            }
        }
        if let Some(fault) = missing {
            return Err(fault);
        }

        self.fetches.forget_misses();
        self.dirty_forests(tree);
        let path = self.dirty_path(tree, &path);
        let mut pages = 1;
        let (leaf, _) = path.leaf();
        for index in 0..entries {
            if let Stored::Overflow { size, root } = page::stored(self.bytes(leaf), index) {
                self.free_overflow(size, root);
                pages += overflow::pages_of(size) as u32;
            }
        }
        self.add_to_counts(tree, &path, -(entries as i64));
        self.root_mut(tree).dropping = true;
        self.drop_leaf(tree, &path);
        Ok(Dropped::More { pages })
    }

    fn drop_leaf(&mut self, tree: TreeRef, path: &Path) {
        let Some(height) = path.height else { unreachable!("the tree has a leaf") };
        for depth in (0..=height).rev() {
            self.free_page(path.steps[depth].page);
            if depth == 0 {
                self.root_mut(tree).root = PageRef::NONE;
                self.root_mut(tree).height = 0;
                return;
            }
            let above = path.steps[depth - 1];
            page::remove(self.bytes_mut(above.page), above.index);
            if page::count(self.bytes(above.page)) > 0 {
                return;
            }
        }
    }

    // ---- plan ----

    /// Room in memory for every page that one change may add.
    fn reserve(&mut self, tree: TreeRef, overflow_pages: usize) -> Result<(), Fault> {
        let mut frames = overflow_pages + 3;
        let mut at = tree;
        loop {
            let height = self.tree_root(at)?.height as usize;
            // The path and its left neighbours copied, or the path copied and split.
            frames += 2 * (height + 2);
            if self.trees.borrow().get(&at).is_some_and(|state| state.dirty) {
                break;
            }
            let Some((forest, _)) = forest::parent(at) else { break };
            at = forest;
        }
        self.cache.reserve(frames);
        self.trim_roots();
        Ok(())
    }

    pub(super) fn path(&self, tree: TreeRef, key: &[u8]) -> Result<Path, Fault> {
        let root = self.tree_root(tree)?;
        let none = Step { page: PageNumber::ZERO, index: 0 };
        let mut path = Path { steps: [none; HEIGHT_MAX], height: None, exact: false };
        if root.root.is_none() {
            return Ok(path);
        }
        let height = root.height as usize;
        path.height = Some(height);
        let mut bytes = self.load(tree, root.root.page, || root.root)?;
        let mut number = root.root.page;
        for depth in 0..height {
            let parent = bytes;
            let index = page::child_index(parent, key);
            path.steps[depth] = Step { page: number, index };
            number = page::child_page(parent, index);
            bytes = self.load(tree, number, || page::child_ref(parent, index))?;
        }
        let (index, exact) = page::lower_bound(bytes, key);
        path.steps[height] = Step { page: number, index };
        path.exact = exact;
        Ok(path)
    }

    pub(super) fn path_in_memory(&self, tree: TreeRef, key: &[u8]) -> Path {
        let Ok(path) = self.path(tree, key) else { unreachable!("planned pages are in memory") };
        path
    }

    /// Loads what the change of the leaf needs; bytes the leaf will use. `size`: of the new entry.
    fn plan_leaf(&self, tree: TreeRef, path: &Path, size: Option<usize>) -> Result<usize, Fault> {
        let (leaf, index) = path.leaf();
        let bytes = self.bytes(leaf);
        let mut used = page::used(bytes) + size.unwrap_or(0);
        if path.exact {
            used -= page::entry_size(bytes, index);
            if let Stored::Overflow { size, root } = page::stored(bytes, index) {
                self.plan_free_overflow(tree, size, root)?;
            }
        }
        Ok(used)
    }

    /// Loads every neighbour that `shrink` will look at.
    fn plan_shrink(
        &self,
        tree: TreeRef,
        path: &Path,
        mut used: usize,
        mut empty: bool,
    ) -> Result<(), Fault> {
        let Some(height) = path.height else { return Ok(()) };
        for depth in (1..=height).rev() {
            let above = path.steps[depth - 1];
            let parent = self.bytes(above.page);
            let gone = match self.choose_merge(tree, parent, above.index, used, empty)? {
                Merge::None => return Ok(()),
                Merge::Vanish | Merge::Left => above.index,
                Merge::Right => above.index + 1,
            };
            used = page::used(parent) - page::entry_size(parent, gone);
            empty = page::count(parent) == 1;
            if gone == 0 && !empty {
                used -= page::key(parent, 1).len();
            }
        }
        Ok(())
    }

    /// The merge rule: a page below `USED_MIN` goes into its left neighbour under the same parent
    /// if both fit one page, else takes in its right neighbour if both fit, else stays as it is.
    pub(super) fn choose_merge(
        &self,
        tree: TreeRef,
        parent: &Bytes,
        index: usize,
        used: usize,
        empty: bool,
    ) -> Result<Merge, Fault> {
        if used >= USED_MIN {
            return Ok(Merge::None);
        }
        if empty {
            return Ok(Merge::Vanish);
        }
        // Two inner pages joined: the first key of the right one comes back from the parent.
        let inner = page::level(parent) > 1;
        let separator = |index| if inner { page::key(parent, index).len() } else { 0 };
        if index > 0 {
            let left = page::child_ref(parent, index - 1);
            let left = self.load(tree, left.page, || left)?;
            if page::used(left) + used + separator(index) <= CAPACITY {
                return Ok(Merge::Left);
            }
        }
        if index + 1 < page::count(parent) {
            let right = page::child_ref(parent, index + 1);
            let right = self.load(tree, right.page, || right)?;
            if page::used(right) + used + separator(index + 1) <= CAPACITY {
                return Ok(Merge::Right);
            }
        }
        Ok(Merge::None)
    }

    // ---- deed ----

    /// Every page of the path becomes changeable, and its hash unknown.
    pub(super) fn dirty_path(&mut self, tree: TreeRef, path: &Path) -> Path {
        let mut path = path.clone();
        let Some(height) = path.height else { return path };
        for depth in 0..=height {
            let old = path.steps[depth].page;
            let new = self.make_dirty(old);
            if new != old {
                path.steps[depth].page = new;
                self.set_child(tree, &path, depth, new);
            } else if depth == 0 {
                self.root_mut(tree).hash = [0; 32];
            } else {
                let above = path.steps[depth - 1];
                page::set_child_hash(self.bytes_mut(above.page), above.index, &[0; 32]);
            }
        }
        path
    }

    /// The page at `depth` of the path has a new number: tells its parent.
    fn set_child(&mut self, tree: TreeRef, path: &Path, depth: usize, page: PageNumber) {
        if depth == 0 {
            let root = self.root_mut(tree);
            root.root = page::pending(page);
            root.hash = [0; 32];
        } else {
            let above = path.steps[depth - 1];
            page::set_child_pending(self.bytes_mut(above.page), above.index, page);
        }
    }

    fn free_value(&mut self, path: &Path) {
        let (leaf, index) = path.leaf();
        if let Stored::Overflow { size, root } = page::stored(self.bytes(leaf), index) {
            self.free_overflow(size, root);
        }
    }

    fn add_to_counts(&mut self, tree: TreeRef, path: &Path, change: i64) {
        let root = self.root_mut(tree);
        root.count = root.count.wrapping_add_signed(change);
        for depth in 0..path.height.unwrap_or(0) {
            let step = path.steps[depth];
            let bytes = self.bytes_mut(step.page);
            let count = page::child_count(bytes, step.index).wrapping_add_signed(change);
            page::set_child_count(bytes, step.index, count);
        }
    }

    fn put_entry(&mut self, tree: TreeRef, path: &Path, entry: &Entry<'_>) {
        let Some(height) = path.height else {
            let leaf = self.new_page(tree, Kind::Leaf, 0);
            page::insert(self.bytes_mut(leaf), 0, entry);
            let root = self.root_mut(tree);
            root.root = page::pending(leaf);
            root.hash = [0; 32];
            root.height = 0;
            root.count = 1;
            return;
        };
        let (leaf, index) = path.leaf();
        let bytes = self.bytes_mut(leaf);
        let used = page::used(bytes);
        if path.exact {
            if page::entry_size(bytes, index) == entry.size() {
                return page::overwrite(bytes, index, entry);
            }
            page::remove(bytes, index);
        } else {
            self.add_to_counts(tree, path, 1);
        }
        let split = self.insert_entry(tree, path, height, index, entry);
        // What grows merges with nobody: keys that only come never move what is there.
        if !split && page::used(self.bytes(leaf)) < used {
            self.shrink(tree, path);
        }
    }

    /// Puts an entry into the page at `depth` of the path; splits it, and its parents, as needed.
    /// Tells whether it split, after which the path is no longer true.
    fn insert_entry(
        &mut self,
        tree: TreeRef,
        path: &Path,
        depth: usize,
        index: usize,
        entry: &Entry<'_>,
    ) -> bool {
        let left = path.steps[depth].page;
        if page::used(self.bytes(left)) + entry.size() <= CAPACITY {
            page::insert(self.bytes_mut(left), index, entry);
            return false;
        }
        let replaced = depth == path.height.unwrap_or(0) && path.exact;
        let (right, separator) = self.split(tree, left, index, entry, !replaced);
        let left_count = page::entries_below(self.bytes(left));
        let right_count = page::entries_below(self.bytes(right));
        if depth == 0 {
            let level = page::level(self.bytes(left)) + 1;
            assert!((level as usize) < HEIGHT_MAX);
            let top = self.new_page(tree, Kind::Inner, level);
            let bytes = self.bytes_mut(top);
            let fixed = page::inner_fixed(left, left_count);
            page::insert(bytes, 0, &Entry { fixed: &fixed, key: &[], tail: &[] });
            let fixed = page::inner_fixed(right, right_count);
            let key = separator.as_bytes();
            page::insert(bytes, 1, &Entry { fixed: &fixed, key, tail: &[] });
            let root = self.root_mut(tree);
            root.root = page::pending(top);
            root.hash = [0; 32];
            root.height = level;
            return true;
        }
        let above = path.steps[depth - 1];
        #[cfg(verity_zoo)]
        let left_count = if crate::zoo::is("inner_count_stale") {
            page::child_count(self.bytes(above.page), above.index)
        } else {
            left_count
        };
        page::set_child_count(self.bytes_mut(above.page), above.index, left_count);
        let fixed = page::inner_fixed(right, right_count);
        let entry = Entry { fixed: &fixed, key: separator.as_bytes(), tail: &[] };
        self.insert_entry(tree, path, depth - 1, above.index + 1, &entry);
        true
    }

    /// The split rule. An entry new at the very end goes to a page of its own (`append`):
    /// sequential keys leave full pages behind. Else the split is where the fuller half is least
    /// full; of two such places the later.
    fn split(
        &mut self,
        tree: TreeRef,
        left: PageNumber,
        index: usize,
        entry: &Entry<'_>,
        append: bool,
    ) -> (PageNumber, Key) {
        let old = *self.bytes(left);
        let entries = page::count(&old);
        let level = page::level(&old);
        let kind = if level == 0 { Kind::Leaf } else { Kind::Inner };
        self.mark(Event::PageSplit { level });
        let right = self.new_page(tree, kind, level);
        // The page as it would be, were it larger.
        let nth = |at: usize| match at.cmp(&index) {
            core::cmp::Ordering::Less => page::entry(&old, at),
            core::cmp::Ordering::Equal => *entry,
            core::cmp::Ordering::Greater => page::entry(&old, at - 1),
        };
        let at = if append && index == entries {
            entries
        } else {
            split_point(entries + 1, page::used(&old) + entry.size(), |at| nth(at).size())
        };
        let first = nth(at);
        let separator = match kind {
            Kind::Leaf => shortest_separator(nth(at - 1).key, first.key),
            Kind::Inner | Kind::OverflowData | Kind::OverflowIndex | Kind::FreeSet => {
                Key::new(first.key)
            }
        };
        if at < entries || index < entries {
            let bytes = self.bytes_mut(left);
            page::init(bytes, left, kind, level, tree);
            #[cfg(not(verity_zoo))]
            let kept = at;
            #[cfg(verity_zoo)]
            let kept = if at > 1 && level == 0 && crate::zoo::is("split_loses_entry") {
                at - 1
            } else {
                at
            };
            for place in 0..kept {
                page::insert(bytes, place, &nth(place));
            }
        }
        let bytes = self.bytes_mut(right);
        for place in at..=entries {
            let mut moved = nth(place);
            if place == at && kind == Kind::Inner {
                moved.key = &[];
            }
            page::insert(bytes, place - at, &moved);
        }
        (right, separator)
    }

    /// Merges upwards from the leaf, as far as the merge rule says.
    fn shrink(&mut self, tree: TreeRef, path: &Path) {
        let Some(height) = path.height else { return };
        for depth in (1..=height).rev() {
            let page = path.steps[depth].page;
            let above = path.steps[depth - 1];
            let bytes = self.bytes(page);
            let (used, empty) = (page::used(bytes), page::count(bytes) == 0);
            let parent = self.bytes(above.page);
            let Ok(merge) = self.choose_merge(tree, parent, above.index, used, empty) else {
                unreachable!("`plan_shrink` loaded every neighbour");
            };
            match merge {
                Merge::None => return,
                Merge::Vanish => {
                    self.free_page(page);
                    page::remove(self.bytes_mut(above.page), above.index);
                }
                Merge::Left => {
                    let old = page::child_page(parent, above.index - 1);
                    let left = self.make_dirty(old);
                    if left != old {
                        let parent = self.bytes_mut(above.page);
                        page::set_child_pending(parent, above.index - 1, left);
                    }
                    self.join(above.page, above.index - 1, left, page);
                }
                Merge::Right => {
                    let right = page::child_page(parent, above.index + 1);
                    self.join(above.page, above.index, page, right);
                }
            }
        }
        self.shrink_root(tree, path.steps[0].page);
    }

    /// The child after `index` goes into the child at `index`.
    fn join(&mut self, parent: PageNumber, index: usize, left: PageNumber, right: PageNumber) {
        let separator = Key::new(page::key(self.bytes(parent), index + 1));
        let Some((into, from)) = self.cache.get_two(left, right) else {
            unreachable!("planned pages are in memory");
        };
        let level = page::level(into);
        let first_key = (level > 0).then_some(separator.as_bytes());
        page::append(into, from, 0..page::count(from), first_key);
        let count = page::entries_below(into);
        // The right page may be frozen: what it names must not stay unresolved for longer than in
        // a copy of it (`checkpoint`).
        self.resolve_page(left);
        self.mark(Event::PageMerged { level });
        self.free_page(right);
        let parent = self.bytes_mut(parent);
        page::remove(parent, index + 1);
        page::set_child_count(parent, index, count);
        page::set_child_hash(parent, index, &[0; 32]);
    }

    /// A root that lost an entry: an empty one goes, an inner one with one child gives way to it.
    fn shrink_root(&mut self, tree: TreeRef, page: PageNumber) {
        let bytes = self.bytes(page);
        let entries = page::count(bytes);
        let level = page::level(bytes);
        if entries == 0 {
            self.free_page(page);
            let root = self.root_mut(tree);
            assert_eq!(root.count, 0);
            root.root = PageRef::NONE;
            root.hash = [0; 32];
            root.height = 0;
        } else if entries == 1 && level > 0 {
            let child = page::child_ref(bytes, 0);
            let hash = page::child_hash(bytes, 0);
            self.free_page(page);
            let root = self.root_mut(tree);
            root.root = child;
            root.hash = hash;
            root.height = level - 1;
        }
    }
}

/// Entries of the left half.
pub(super) fn split_point(entries: usize, total: usize, size: impl Fn(usize) -> usize) -> usize {
    let mut left = 0;
    let mut best = (usize::MAX, 1);
    for at in 1..entries {
        left += size(at - 1);
        let fuller = left.max(total - left);
        if fuller <= best.0 {
            best = (fuller, at);
        }
    }
    best.1
}

/// The shortest prefix of `right` that is above `left`.
pub(super) fn shortest_separator(left: &[u8], right: &[u8]) -> Key {
    debug_assert!(left < right);
    let shared = page::common_prefix(left, right);
    Key::new(&right[..=shared])
}
