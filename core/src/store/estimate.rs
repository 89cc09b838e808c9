//! How many pages a transaction can dirty, known before it changes anything.
//!
//! Purpose: a transaction that does not fit its limit, or what is left of the dirty budget, is
//! refused before the first change. Both bounds here are functions of the trees' shape and of the
//! changes, so every replica gets the same; what the cache holds decides only whether it faults.
//!
//! Two bounds, because the common case must cost nothing: [`Store::pages_at_most`] counts every
//! change as if no two shared a page and each split every level; when that is too much,
//! [`Store::pages_bound`] walks the changes in key order and looks at the pages they meet.
//!
//! Why the second one holds, level by level from the leaves:
//! - Existing pages: those on the paths, each once. A merge adds none: the page that it makes dirty
//!   takes the place of one that is freed and was dirty.
//! - New pages: a put splits a page at most once. If all that a page may gain fits, there are none.
//!   If keys come in ascending order, a page that was just split must gain at least
//!   `CAPACITY / 2 - E` bytes before it splits again (`E`: the largest entry there), because halves
//!   are chosen even and a full page that was left behind gains nothing more; if they all come
//!   after its last key, new pages are filled to `CAPACITY - E`. A leaf whose keys come in another
//!   order is split in thought, entry by entry (`split_in_thought`).
//! - Each split of a page is one more entry for its parent: the same count again, a level higher.
//! - A leaf merges when it gets smaller and is small then, also what it was split into. Where one
//!   may, entries move to where they were not counted: then only "once a level for each put that
//!   grows" holds, for that whole tree. Where nothing grows nothing is split, wherever entries
//!   move.

use alloc::vec::Vec;

use super::overflow;
use super::page::{self, CAPACITY, Stored};
use super::write::{Path, USED_MIN, shortest_separator, split_point};
use super::{Fault, Store, TreeRef, forest};
use crate::ids::{PageNumber, TenantId};
use crate::limits::KEY_SIZE_MAX;

/// One change that a transaction is about to make, in the order of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChange {
    pub key: Vec<u8>,
    /// Size of the value to put; `None`: the key is removed.
    pub put: Option<usize>,
}

impl TreeChange {
    /// Bytes of its leaf that the key's entry takes then.
    fn entry_size(&self) -> usize {
        self.put.map_or(0, |value| page::SLOT + 2 + self.key.len() + overflow::stored_size(value))
    }
}

/// Pages that a value takes outside its leaf.
#[must_use]
pub fn overflow_pages(value_size: usize) -> u64 {
    overflow::pages_of(value_size) as u64
}

/// What a page of one level gains.
#[derive(Clone, Copy, Debug)]
struct Gain {
    page: PageNumber,
    /// Bytes and entries there now, and the largest entry.
    used: usize,
    entries: usize,
    largest: usize,
    /// Bytes by which puts may grow it, and how many of them may.
    bytes: usize,
    puts: u64,
    /// Puts that may leave the page larger than they met it.
    grows: u64,
    /// Bytes that removals and smaller values may take.
    lost: usize,
    /// Some of them of what comes with these changes.
    loses_new: bool,
    /// The largest new entry.
    largest_new: usize,
    /// Everything comes after its last entry.
    after_last: bool,
    /// Of a leaf that no ascending keys fill: how often it splits.
    thought: Option<u64>,
}

impl Gain {
    fn none(page: PageNumber) -> Gain {
        Gain {
            page,
            used: 0,
            entries: 0,
            largest: 0,
            bytes: 0,
            puts: 0,
            grows: 0,
            lost: 0,
            loses_new: false,
            largest_new: 0,
            after_last: true,
            thought: None,
        }
    }

    fn of(page: PageNumber, bytes: &page::Bytes) -> Gain {
        let entries = page::count(bytes);
        let largest = (0..entries).map(|index| page::entry_size(bytes, index)).max();
        Gain { used: page::used(bytes), entries, largest: largest.unwrap_or(0), ..Gain::none(page) }
    }

    /// May a leaf, or what it is split into, get smaller and be small then?
    fn may_merge(&self, is_root: bool) -> bool {
        let splits = self.used + self.bytes > CAPACITY;
        if is_root && !splits {
            return false; // It has no neighbour.
        }
        // Halves are even but for an entry; what is new at the end is split off alone.
        let half = (CAPACITY - self.largest.max(self.largest_new)) / 2;
        let of_half = splits && (self.loses_new || half.saturating_sub(self.lost) < USED_MIN);
        self.lost > 0 && (self.used.saturating_sub(self.lost) < USED_MIN || of_half)
    }

    /// Splits of the page and of what it is split into.
    fn splits(&self, ascending: bool) -> u64 {
        if self.puts == 0 || self.used + self.bytes <= CAPACITY {
            return 0;
        }
        let largest = self.largest.max(self.largest_new);
        let room = match (ascending, self.after_last) {
            (true, true) => CAPACITY - self.largest_new,
            (true, false) => CAPACITY / 2 - largest,
            (false, _) => return self.thought.unwrap_or(self.puts),
        };
        (1 + (self.bytes / room) as u64).min(self.puts)
    }
}

impl Store {
    /// Pages that so many changes of one tree dirty at most, whatever their keys; overflow pages
    /// not counted. The tree need not exist yet.
    pub fn pages_at_most(&self, tree: TreeRef, puts: u64, removals: u64) -> Result<u64, Fault> {
        if puts + removals == 0 {
            return Ok(0);
        }
        let height = self.height_or_none(tree)?;
        // The path to the root, which all share; a split of each level, and a new root.
        Ok(1 + (puts + removals) * height + puts * (height + 2))
    }

    /// Pages of forests that change with so many trees of a tenant, of which some are new.
    pub fn forest_pages_at_most(
        &self,
        tenant: TenantId,
        touched: u64,
        created: u64,
    ) -> Result<u64, Fault> {
        let mut tree = TreeRef::new(tenant, forest::FOREST);
        let mut pages = self.pages_at_most(tree, created, touched)?;
        // The forest's own root lies in a forest, and that one's in the last.
        while let Some((above, _)) = forest::parent(tree) {
            tree = above;
            pages += self.pages_at_most(tree, 0, 1)?;
        }
        Ok(pages)
    }

    /// Size of a key's value, without reading it.
    pub fn value_size(&self, tree: TreeRef, key: &[u8]) -> Result<Option<usize>, Fault> {
        let Some((leaf, index)) = self.find(tree, key)? else { return Ok(None) };
        Ok(Some(match page::stored(leaf, index) {
            Stored::Overflow { size, .. } => size,
            Stored::Inline(value) => value.len(),
        }))
    }

    fn height_or_none(&self, tree: TreeRef) -> Result<u64, Fault> {
        Ok(self.find_root(tree)?.map_or(0, |root| u64::from(root.height)))
    }

    /// Pages that these changes of one tree, given in the order of events, dirty at most; overflow
    /// pages not counted. Faults on pages that the changes will need too, a few at a time: `walk`
    /// keeps what was counted, so that it goes on after a fault with the same changes.
    pub fn pages_bound(
        &self,
        tree: TreeRef,
        changes: &[TreeChange],
        walk: &mut BoundWalk,
    ) -> Result<u64, Fault> {
        let puts = changes.iter().filter(|change| change.put.is_some()).count() as u64;
        let worst = self.pages_at_most(tree, puts, changes.len() as u64 - puts)?;
        let ascending = changes.is_sorted_by(|a, b| a.key < b.key);
        if walk.order.is_empty() {
            walk.order = (0..changes.len()).collect();
            walk.order.sort_by(|a, b| changes[*a].key.cmp(&changes[*b].key));
        }
        assert_eq!(walk.order.len(), changes.len(), "a walk is of the same changes to its end");
        let Some(root) = self.find_root(tree)?.filter(|root| !root.root.is_none()) else {
            let mut leaf = Gain::none(PageNumber::ZERO);
            let mut before = None;
            for at in &walk.order {
                leaf.add_change(&changes[*at], 0, before);
                before = Some(&changes[*at]);
            }
            if !ascending && leaf.bytes > CAPACITY {
                leaf.thought = Some(split_in_thought(None, changes.iter()));
            }
            let mut splits = leaf.splits(ascending);
            // Every page of a new tree is counted, so what merges is one less; it may be split
            // again where the two would not have been, into pages at least a third full.
            if leaf.may_merge(true) {
                splits *= 3;
            }
            return Ok((1 + splits + inner_of_new(splits)).min(worst));
        };
        let bound = Bound { store: self, tree, changes, ascending, height: root.height as usize };
        while walk.next < changes.len() {
            bound.leaf(walk)?;
        }
        walk.close(0, ascending);
        if walk.merges && walk.grows > 0 {
            let split = walk.grows * (u64::from(root.height) + 2);
            return Ok((1 + walk.existing + split).min(worst));
        }
        // The root's splits make a new root, perhaps more.
        Ok((walk.pages + inner_of_new(walk.root_splits)).min(worst))
    }
}

/// Inner pages above so many new pages at the top of a tree.
fn inner_of_new(splits: u64) -> u64 {
    if splits == 0 { 0 } else { 1 + splits }
}

/// Where a count of pages is, leaf by leaf.
#[derive(Debug, Default)]
pub struct BoundWalk {
    /// The changes in the order of their keys, and how many of them are counted.
    order: Vec<usize>,
    next: usize,
    /// The inner pages on the path at hand, from the root: what they have gained so far.
    path: Vec<Inner>,
    /// Existing pages seen; and these with the new ones counted.
    existing: u64,
    pages: u64,
    /// Puts that make a page larger.
    grows: u64,
    /// Some leaf may get so small that it is merged.
    merges: bool,
    root_splits: u64,
}

#[derive(Debug)]
struct Inner {
    gain: Gain,
    /// It is its parent's last child.
    is_last: bool,
}

impl BoundWalk {
    /// Changes that are counted: a walk that was continued has counted more.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.next as u64
    }

    /// Ends the inner pages of the path from `depth` down: counts what they are split into.
    fn close(&mut self, depth: usize, ascending: bool) {
        while self.path.len() > depth {
            let Some(Inner { gain, is_last }) = self.path.pop() else { unreachable!("just seen") };
            let separator = gain.largest.max(gain.largest_new).saturating_sub(INNER_ENTRY);
            self.split(gain.splits(ascending), separator, is_last);
        }
    }

    /// A child of the last page of the path, or the root where that is empty, splits so often.
    fn split(&mut self, splits: u64, separator: usize, is_last: bool) {
        self.pages += splits;
        let Some(Inner { gain: parent, .. }) = self.path.last_mut() else {
            self.root_splits = splits;
            return;
        };
        if splits > 0 {
            let entry = INNER_ENTRY + separator;
            parent.puts += splits;
            parent.bytes += splits as usize * entry;
            parent.largest_new = parent.largest_new.max(entry);
            parent.after_last &= is_last;
        }
    }
}

struct Bound<'a> {
    store: &'a Store,
    tree: TreeRef,
    changes: &'a [TreeChange],
    ascending: bool,
    height: usize,
}

impl Bound<'_> {
    /// Counts all changes of the next leaf, or none.
    fn leaf(&self, walk: &mut BoundWalk) -> Result<(), Fault> {
        let key = |at: usize| self.changes[walk.order[at]].key.as_slice();
        let path = match self.store.path(self.tree, key(walk.next)) {
            Ok(path) => path,
            Err(fault) => {
                // What comes next misses, too, as likely: one fetch serves several.
                let ahead = walk.next + 1..(walk.next + READ_AHEAD).min(walk.order.len());
                ahead.for_each(|at| drop(self.store.path(self.tree, key(at))));
                return Err(fault);
            }
        };
        let (page, _) = path.leaf();
        let bytes = self.store.bytes(page);
        let beyond = self.end_of(&path);
        let rest = &walk.order[walk.next..];
        let of_leaf = rest.partition_point(|at| {
            beyond.is_none_or(|beyond| self.changes[*at].key.as_slice() < beyond)
        });
        let mut gain = Gain::of(page, bytes);
        let mut before: Option<&TreeChange> = None;
        for at in &rest[..of_leaf] {
            let change = &self.changes[*at];
            let (index, exact) = page::lower_bound(bytes, &change.key);
            gain.after_last &= index == gain.entries && !exact;
            let old = if exact { page::entry_size(bytes, index) } else { 0 };
            gain.add_change(change, old, before);
            before = Some(change);
        }
        if !self.ascending && gain.used + gain.bytes > CAPACITY {
            let mut places = rest[..of_leaf].to_vec();
            places.sort_unstable();
            let changes = places.iter().map(|place| &self.changes[*place]);
            gain.thought = Some(split_in_thought(Some(bytes), changes));
        }
        self.enter(walk, &path);
        walk.pages += 1;
        walk.existing += 1;
        walk.grows += gain.grows;
        walk.merges |= gain.may_merge(self.height == 0);
        let is_last = self.is_last(&path, self.height);
        // Separators are prefixes of keys, of those here or of those that come.
        let separator = gain.largest.max(gain.largest_new).min(KEY_SIZE_MAX);
        walk.split(gain.splits(self.ascending), separator, is_last);
        walk.next += of_leaf;
        Ok(())
    }

    /// The inner pages of a path become those of the walk.
    fn enter(&self, walk: &mut BoundWalk, path: &Path) {
        let inner = &path.steps[..self.height];
        let same =
            walk.path.iter().zip(inner).take_while(|(known, step)| known.gain.page == step.page);
        let same = same.count();
        walk.close(same, self.ascending);
        for (depth, step) in inner.iter().enumerate().skip(same) {
            let gain = Gain::of(step.page, self.store.bytes(step.page));
            walk.path.push(Inner { gain, is_last: self.is_last(path, depth) });
            walk.pages += 1;
            walk.existing += 1;
        }
    }

    /// Is the page at this depth of the path its parent's last child?
    fn is_last(&self, path: &Path, depth: usize) -> bool {
        depth.checked_sub(1).is_none_or(|above| {
            let above = path.steps[above];
            above.index + 1 == page::count(self.store.bytes(above.page))
        })
    }

    /// The first key that is in no leaf up to that of the path.
    fn end_of(&self, path: &Path) -> Option<&[u8]> {
        path.steps[..self.height].iter().rev().find_map(|step| {
            let bytes = self.store.bytes(step.page);
            (step.index + 1 < page::count(bytes)).then(|| page::key(bytes, step.index + 1))
        })
    }
}

/// How often a leaf splits, and what it is split into, if these changes come in this order: the
/// rule of `write`, on keys and sizes alone. What is split off nearly empty may get smaller still,
/// go into its right neighbour and fill that sooner: once more for each of those.
fn split_in_thought<'c>(
    leaf: Option<&page::Bytes>,
    changes: impl Iterator<Item = &'c TreeChange>,
) -> u64 {
    struct Thought {
        /// Keys from here on.
        from: Vec<u8>,
        used: usize,
        entries: Vec<(Vec<u8>, usize)>,
    }
    let mut first = Thought { from: Vec::new(), used: 0, entries: Vec::new() };
    if let Some(bytes) = leaf {
        first.used = page::used(bytes);
        let entry = |at| (page::key(bytes, at).to_vec(), page::entry_size(bytes, at));
        first.entries = (0..page::count(bytes)).map(entry).collect();
    }
    let mut pages = Vec::from([first]);
    let mut lonely = 0;
    for change in changes {
        let at = pages.partition_point(|page| page.from <= change.key).max(1) - 1;
        let page = &mut pages[at];
        let found = page.entries.binary_search_by(|(key, _)| key.cmp(&change.key));
        if let Ok(index) = found {
            page.used -= page.entries.remove(index).1;
        }
        if change.put.is_none() {
            continue;
        }
        let size = change.entry_size();
        let (Ok(index) | Err(index)) = found;
        let appends = found.is_err() && index == page.entries.len();
        page.entries.insert(index, (change.key.clone(), size));
        page.used += size;
        if page.used <= CAPACITY {
            continue;
        }
        let split = match appends {
            true => index,
            false => split_point(page.entries.len(), page.used, |at| page.entries[at].1),
        };
        lonely += u64::from(appends);
        let right = page.entries.split_off(split);
        let used = right.iter().map(|(_, size)| size).sum();
        page.used -= used;
        let from = shortest_separator(&page.entries[split - 1].0, &right[0].0);
        let from = from.as_bytes().to_vec();
        pages.insert(at + 1, Thought { from, used, entries: right });
    }
    pages.len() as u64 - 1 + lonely
}

/// Changes that are looked at behind one that misses a page.
const READ_AHEAD: usize = 32;

/// An entry of an inner page, but for its separator.
const INNER_ENTRY: usize = page::SLOT + page::INNER_FIXED;

impl Gain {
    /// `old`: size of the entry that is there now. `before`: the change that came before it in the
    /// order of keys.
    fn add_change(&mut self, change: &TreeChange, old: usize, before: Option<&TreeChange>) {
        let entry = change.entry_size();
        let before = before.filter(|before| before.key == change.key);
        let made = before.map_or(old, TreeChange::entry_size);
        self.grows += u64::from(entry > old.min(made));
        self.lost += made.saturating_sub(entry);
        self.loses_new |= before.is_some() && made > entry;
        if change.put.is_none() {
            return;
        }
        // A key that changes twice is counted as if it were two: the sum is more than either.
        self.bytes += if entry > old { entry } else { 0 };
        self.puts += u64::from(entry != old);
        self.largest_new = self.largest_new.max(entry);
    }
}
