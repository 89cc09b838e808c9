//! Scans: ordered, restartable, either way; they hold keys, never pages.
//!
//! A [`Cursor`] is the part of the range not yet visited. It moves past an entry when the visitor
//! has had it, so after a [`Fault`] the same call goes on where it stopped.

use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::page::{self, Bytes};
use super::{Fault, HEIGHT_MAX, Store, TreeRef};
use crate::crypto::{InternalDomain, InternalHash, InternalHasher};
use crate::limits::STORE_READ_AHEAD;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Reverse,
}

/// What is left of a range.
#[derive(Clone, Debug)]
pub struct Cursor {
    low: Bound<Vec<u8>>,
    high: Bound<Vec<u8>>,
    direction: Direction,
}

impl Cursor {
    #[must_use]
    pub fn new(low: Bound<&[u8]>, high: Bound<&[u8]>, direction: Direction) -> Cursor {
        Cursor { low: low.map(<[u8]>::to_vec), high: high.map(<[u8]>::to_vec), direction }
    }

    /// The whole tree.
    #[must_use]
    pub fn all(direction: Direction) -> Cursor {
        Cursor { low: Bound::Unbounded, high: Bound::Unbounded, direction }
    }

    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8], direction: Direction) -> Cursor {
        let mut after = prefix.to_vec();
        while after.last() == Some(&0xFF) {
            after.pop();
        }
        let high = match after.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(after)
            }
            None => Bound::Unbounded,
        };
        Cursor { low: Bound::Included(prefix.to_vec()), high, direction }
    }

    fn pass(&mut self, key: &[u8]) {
        let end = match self.direction {
            Direction::Forward => &mut self.low,
            Direction::Reverse => &mut self.high,
        };
        let mut buffer = match core::mem::replace(end, Bound::Unbounded) {
            Bound::Included(buffer) | Bound::Excluded(buffer) => buffer,
            Bound::Unbounded => Vec::new(),
        };
        buffer.clear();
        buffer.extend_from_slice(key);
        *end = Bound::Excluded(buffer);
    }

    /// Is the key within the far end of the range?
    fn admits(&self, key: &[u8]) -> bool {
        match self.direction {
            Direction::Forward => match &self.high {
                Bound::Included(high) => key <= high.as_slice(),
                Bound::Excluded(high) => key < high.as_slice(),
                Bound::Unbounded => true,
            },
            Direction::Reverse => match &self.low {
                Bound::Included(low) => key >= low.as_slice(),
                Bound::Excluded(low) => key > low.as_slice(),
                Bound::Unbounded => true,
            },
        }
    }
}

/// Where a scan stands; lives only while the store is borrowed.
struct Place<'a> {
    pages: [Option<&'a Bytes>; HEIGHT_MAX],
    index: [usize; HEIGHT_MAX],
    height: usize,
}

impl<'a> Place<'a> {
    fn page(&self, depth: usize) -> &'a Bytes {
        let Some(bytes) = self.pages[depth] else { unreachable!("filled from the root down") };
        bytes
    }
}

impl Store {
    /// Visits what is left of the cursor's range, in order. `Continue`: the range is exhausted.
    /// `Break`: the visitor had enough. On a fault the cursor stands after the last entry visited.
    pub fn scan(
        &self,
        tree: TreeRef,
        cursor: &mut Cursor,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let mut last: Option<&[u8]> = None;
        let outcome = self.scan_from(tree, cursor, &mut last, &mut visit);
        if let Some(key) = last {
            cursor.pass(key);
        }
        outcome
    }

    fn scan_from<'a>(
        &'a self,
        tree: TreeRef,
        cursor: &Cursor,
        last: &mut Option<&'a [u8]>,
        visit: &mut impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let Some(mut place) = self.start(tree, cursor)? else {
            return Ok(ControlFlow::Continue(()));
        };
        loop {
            let leaf = place.page(place.height);
            let at = &mut place.index[place.height];
            // `at` counts what lies before the place, in key order: the next entry is at `at`
            // going forward, at `at - 1` going back.
            let index = match cursor.direction {
                Direction::Forward if *at < page::count(leaf) => *at,
                Direction::Reverse if *at > 0 => *at - 1,
                Direction::Forward | Direction::Reverse => {
                    if self.next_leaf(tree, cursor, &mut place)? {
                        continue;
                    }
                    return Ok(ControlFlow::Continue(()));
                }
            };
            let key = page::key(leaf, index);
            if !cursor.admits(key) {
                return Ok(ControlFlow::Continue(()));
            }
            let value = self.value_at(tree, leaf, index)?;
            *at = match cursor.direction {
                Direction::Forward => index + 1,
                Direction::Reverse => index,
            };
            let flow = visit(key, &value);
            *last = Some(key);
            if flow.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn start(&self, tree: TreeRef, cursor: &Cursor) -> Result<Option<Place<'_>>, Fault> {
        let root = self.tree_root(tree)?;
        if root.root.is_none() {
            return Ok(None);
        }
        let from = match cursor.direction {
            Direction::Forward => &cursor.low,
            Direction::Reverse => &cursor.high,
        };
        let (key, past) = match (from, cursor.direction) {
            (Bound::Included(key), Direction::Forward) => (Some(key), false),
            (Bound::Excluded(key), Direction::Forward) => (Some(key), true),
            (Bound::Included(key), Direction::Reverse) => (Some(key), true),
            (Bound::Excluded(key), Direction::Reverse) => (Some(key), false),
            (Bound::Unbounded, _) => (None, false),
        };
        let height = root.height as usize;
        let mut place = Place { pages: [None; HEIGHT_MAX], index: [0; HEIGHT_MAX], height };
        let mut bytes = self.load(tree, root.root.page, || root.root)?;
        for depth in 0..height {
            let parent = bytes;
            let index = match (key, cursor.direction) {
                (Some(key), _) => page::child_index(parent, key),
                (None, Direction::Forward) => 0,
                (None, Direction::Reverse) => page::count(parent) - 1,
            };
            place.pages[depth] = Some(parent);
            place.index[depth] = index;
            bytes = self.child(tree, cursor, parent, index)?;
        }
        place.pages[height] = Some(bytes);
        place.index[height] = match (key, cursor.direction) {
            (Some(key), _) => {
                let (index, exact) = page::lower_bound(bytes, key);
                index + usize::from(exact && past)
            }
            (None, Direction::Forward) => 0,
            (None, Direction::Reverse) => page::count(bytes),
        };
        Ok(Some(place))
    }

    /// Moves to the next leaf in the scan's direction; `false`: there is none.
    fn next_leaf<'a>(
        &'a self,
        tree: TreeRef,
        cursor: &Cursor,
        place: &mut Place<'a>,
    ) -> Result<bool, Fault> {
        let mut depth = place.height;
        loop {
            if depth == 0 {
                return Ok(false);
            }
            depth -= 1;
            let index = place.index[depth];
            match cursor.direction {
                Direction::Forward if index + 1 < page::count(place.page(depth)) => {
                    place.index[depth] = index + 1;
                    break;
                }
                Direction::Reverse if index > 0 => {
                    place.index[depth] = index - 1;
                    break;
                }
                Direction::Forward | Direction::Reverse => {}
            }
        }
        for depth in depth..place.height {
            let bytes = self.child(tree, cursor, place.page(depth), place.index[depth])?;
            let last = depth + 1 == place.height;
            place.pages[depth + 1] = Some(bytes);
            place.index[depth + 1] = match cursor.direction {
                Direction::Forward => 0,
                Direction::Reverse if last => page::count(bytes),
                Direction::Reverse => page::count(bytes) - 1,
            };
        }
        Ok(true)
    }

    /// One child; if it is not here, notes the leaves that the scan will want next, too.
    fn child<'a>(
        &'a self,
        tree: TreeRef,
        cursor: &Cursor,
        parent: &'a Bytes,
        index: usize,
    ) -> Result<&'a Bytes, Fault> {
        let load = |index| {
            self.load(tree, page::child_page(parent, index), || page::child_ref(parent, index))
        };
        let fault = match load(index) {
            Ok(bytes) => return Ok(bytes),
            Err(fault) => fault,
        };
        if page::level(parent) == 1 {
            for ahead in 1..=STORE_READ_AHEAD {
                let next = match cursor.direction {
                    // The separator bounds the leaf from below.
                    Direction::Forward => Some(index + ahead).filter(|&next| {
                        next < page::count(parent) && cursor.admits(page::key(parent, next))
                    }),
                    // The separator after the leaf bounds it from above.
                    Direction::Reverse => index
                        .checked_sub(ahead)
                        .filter(|&next| cursor.admits(page::key(parent, next + 1))),
                };
                let Some(next) = next else { break };
                // Misses are noted by the load itself.
                if load(next).is_ok() {
                    continue;
                }
            }
        }
        Err(fault)
    }

    /// Goes on with a digest, by at most `entries_max` entries; the hash when the tree is done.
    pub fn digest(
        &self,
        task: &mut DigestTask,
        entries_max: usize,
    ) -> Result<Option<InternalHash>, Fault> {
        let DigestTask { tree, cursor, hasher } = task;
        let mut left = entries_max.max(1);
        let flow = self.scan(*tree, cursor, |key, value| {
            hasher.update(&(key.len() as u32).to_le_bytes());
            hasher.update(key);
            hasher.update(&(value.len() as u32).to_le_bytes());
            hasher.update(value);
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(flow.is_continue().then(|| hasher.finish()))
    }
}

/// A digest of one tree under way: `InternalHash(tenant ‖ tree ‖ (key size ‖ key ‖ value size ‖
/// value)*)`, in key order, sizes u32 little endian. It covers contents, not shape.
#[derive(Clone, Debug)]
pub struct DigestTask {
    tree: TreeRef,
    cursor: Cursor,
    hasher: InternalHasher,
}

impl DigestTask {
    #[must_use]
    pub fn new(tree: TreeRef) -> DigestTask {
        let mut hasher = InternalHasher::new(InternalDomain::StateDigest);
        hasher.update(&tree.tenant.get().to_le_bytes());
        hasher.update(&tree.tree.get().to_le_bytes());
        DigestTask { tree, cursor: Cursor::all(Direction::Forward), hasher }
    }
}
