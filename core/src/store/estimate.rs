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
//! - Where a page might be merged, entries move to where they were not counted: then only
//!   "once a put and level" holds, for that whole tree; but removals alone split nothing, wherever
//!   entries move.

use alloc::vec::Vec;

use super::overflow;
use super::page::{self, CAPACITY, Stored};
use super::write::{Merge, USED_MIN, shortest_separator, split_point};
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
    /// Bytes that removals and smaller values may take.
    lost: usize,
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
            lost: 0,
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
    /// pages not counted. Faults on pages that the changes will need too.
    pub fn pages_bound(&self, tree: TreeRef, changes: &[TreeChange]) -> Result<u64, Fault> {
        let worst = self.pages_at_most(
            tree,
            changes.iter().filter(|change| change.put.is_some()).count() as u64,
            changes.iter().filter(|change| change.put.is_none()).count() as u64,
        )?;
        let mut sorted: Vec<(usize, &TreeChange)> = changes.iter().enumerate().collect();
        sorted.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        let puts = changes.iter().any(|change| change.put.is_some());
        let ascending = changes.is_sorted_by(|a, b| a.key < b.key);
        let Some(root) = self.find_root(tree)?.filter(|root| !root.root.is_none()) else {
            let mut leaf = Gain::none(PageNumber::ZERO);
            sorted.iter().for_each(|(_, change)| leaf.add_change(change, None));
            if !ascending && leaf.bytes > CAPACITY {
                leaf.thought = Some(split_in_thought(None, changes.iter()));
            }
            let splits = leaf.splits(ascending);
            return Ok((1 + splits + inner_of_new(splits)).min(worst));
        };
        let mut bound = Bound {
            tree,
            ascending,
            height: root.height as usize,
            path: Vec::new(),
            pages: 0,
            merges: false,
            sparse: false,
            smaller: false,
            of_leaf: Vec::new(),
            changes,
        };
        // All misses at once, so that one fetch serves them.
        let mut missing = None;
        for (at, change) in &sorted {
            match self.path(tree, &change.key) {
                Ok(path) if missing.is_none() => {
                    missing = bound.add(self, &path, *at, change).err();
                }
                Ok(_) => {}
                Err(fault) => missing = Some(fault),
            }
        }
        if let Some(fault) = missing {
            return Err(fault);
        }
        let splits = bound.close(self, 0)?;
        let existing = bound.pages;
        if puts && (bound.merges || bound.sparse && bound.smaller) {
            return Ok(worst);
        }
        // The root's splits make a new root, perhaps more.
        Ok((existing + inner_of_new(splits)).min(worst))
    }
}

/// Inner pages above so many new pages at the top of a tree.
fn inner_of_new(splits: u64) -> u64 {
    if splits == 0 { 0 } else { 1 + splits }
}

struct Bound<'c> {
    tree: TreeRef,
    ascending: bool,
    height: usize,
    /// The path at hand, from the root: what its pages have gained so far.
    path: Vec<Gain>,
    /// Existing pages seen, and new ones counted.
    pages: u64,
    merges: bool,
    /// Some leaf is sparse enough to look for a neighbour; some leaf gets smaller.
    sparse: bool,
    smaller: bool,
    /// Changes of the leaf at hand, by their place.
    of_leaf: Vec<usize>,
    changes: &'c [TreeChange],
}

impl Bound<'_> {
    fn add(
        &mut self,
        store: &Store,
        path: &super::write::Path,
        place: usize,
        change: &TreeChange,
    ) -> Result<(), Fault> {
        let same = self
            .path
            .iter()
            .zip(&path.steps)
            .take_while(|(gain, step)| gain.page == step.page)
            .count();
        if same <= self.height {
            if same < self.path.len() {
                self.close(store, same)?;
            }
            for step in &path.steps[same..=self.height] {
                self.path.push(Gain::of(step.page, store.bytes(step.page)));
                self.pages += 1;
            }
        }
        self.of_leaf.push(place);
        let Some(leaf) = self.path.last_mut() else { unreachable!("the path has a leaf") };
        let (page, index) = path.leaf();
        let old = path.exact.then(|| page::entry_size(store.bytes(page), index));
        leaf.after_last &= index == leaf.entries && !path.exact;
        leaf.add_change(change, old);
        Ok(())
    }

    /// Ends the pages of the path from `depth` down: counts what they are split into. Gives the
    /// splits of the page at `depth`.
    fn close(&mut self, store: &Store, depth: usize) -> Result<u64, Fault> {
        let mut splits = 0;
        while self.path.len() > depth {
            let Some(mut gain) = self.path.pop() else { unreachable!("just seen") };
            let at = self.path.len();
            if at == self.height {
                let mut places = core::mem::take(&mut self.of_leaf);
                if !self.ascending && gain.used + gain.bytes > CAPACITY {
                    places.sort_unstable();
                    let changes = places.iter().map(|place| &self.changes[*place]);
                    let leaf = store.bytes(gain.page);
                    gain.thought = Some(split_in_thought(Some(leaf), changes));
                }
            }
            splits = gain.splits(self.ascending);
            self.pages += splits;
            let Some(parent) = self.path.last_mut() else { break };
            let level_bytes = store.bytes(parent.page);
            self.smaller |= gain.lost > 0;
            if at == self.height && gain.used.saturating_sub(gain.lost) < USED_MIN {
                // Might the leaf merge with a neighbour as it is?
                self.sparse = true;
                let index = (0..page::count(level_bytes))
                    .find(|&index| page::child_page(level_bytes, index) == gain.page);
                let Some(index) = index else { unreachable!("it is on the path") };
                let merge = store.choose_merge(self.tree, level_bytes, index, gain.used, false)?;
                self.merges |= merge != Merge::None;
            }
            // Separators are prefixes of keys, of those here or of those that come.
            let key = match at == self.height {
                true => gain.largest.max(gain.largest_new).min(KEY_SIZE_MAX),
                false => gain.largest.max(gain.largest_new).saturating_sub(INNER_ENTRY),
            };
            let entry = INNER_ENTRY + key;
            let last = (0..page::count(level_bytes)).next_back();
            let is_last =
                last.is_some_and(|index| page::child_page(level_bytes, index) == gain.page);
            if splits > 0 {
                parent.puts += splits;
                parent.bytes += splits as usize * entry;
                parent.largest_new = parent.largest_new.max(entry);
                parent.after_last &= is_last;
            }
        }
        Ok(splits)
    }
}

/// How often a leaf splits, and what it is split into, if these changes come in this order: the
/// rule of `write`, on keys and sizes alone. What is split off nearly empty may go into its right
/// neighbour and fill that sooner: once more for each of those.
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
        let Some(value) = change.put else { continue };
        let size = page::SLOT + 2 + change.key.len() + overflow::stored_size(value);
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

/// An entry of an inner page, but for its separator.
const INNER_ENTRY: usize = page::SLOT + page::INNER_FIXED;

impl Gain {
    /// `old`: size of the entry that is there now.
    fn add_change(&mut self, change: &TreeChange, old: Option<usize>) {
        let old = old.unwrap_or(0);
        let Some(value) = change.put else {
            // Also what this transaction put there before.
            self.lost += old.max(self.largest_new);
            return;
        };
        let entry = page::SLOT + 2 + change.key.len() + overflow::stored_size(value);
        // A key that changes twice is counted as if it were two: the sum is more than either.
        self.bytes += if entry > old { entry } else { 0 };
        self.puts += u64::from(entry != old);
        self.lost += old.saturating_sub(entry);
        self.largest_new = self.largest_new.max(entry);
    }
}
