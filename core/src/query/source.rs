//! Rows of a table at a position: the current row when it had begun by then, else the version in
//! history that covers the position.
//!
//! Invariants: the answer is a function of the position, never of later writes: a scan that is cut
//! in slices, between which commits go on, sees what one uncut scan would have seen. A scan holds
//! keys, never pages; what it has delivered it does not deliver again after a fault.
//!
//! When nothing of the table changed after the position (`changed_at`), history need not be looked
//! at: that is the fast path.

use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use crate::ids::{Position, TenantId, TreeId};
use crate::limits::{READ_BATCH_ROWS, READ_LOOKUPS, READ_SLICE_ROWS};
use crate::query::access::KeyRange;
use crate::query::index::{Index, begun_at};
use crate::query::key::{history_key, split_history_key};
use crate::query::schema::{Catalog, TableSchema};
use crate::query::stored::StoredRow;
use crate::store::{Cursor, Direction, Fault, Store, TreeRef};

/// Is shown entries of a tree, and says whether it wants more.
type Visitor<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A tenant's tables as of a position.
#[derive(Clone, Copy, Debug)]
pub struct RowSource<'a> {
    pub store: &'a Store,
    pub tenant: TenantId,
    /// Of the position, but `changed_at` is told of the store's trees as they are now.
    pub catalog: &'a Catalog,
    pub position: Position,
}

impl<'a> RowSource<'a> {
    fn tree(&self, tree: TreeId) -> TreeRef {
        TreeRef::new(self.tenant, tree)
    }

    /// Whether the current rows are the rows at the position.
    #[must_use]
    pub fn is_current(&self, schema: &TableSchema) -> bool {
        self.catalog.changed_at(schema.id) <= self.position
    }

    fn table_trees(schema: &TableSchema) -> Versions {
        Versions { current: schema.rows, ended: schema.history }
    }

    /// The stored row of a key.
    #[inline]
    pub fn get(&self, schema: &TableSchema, key: &[u8]) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        let current = self.store.get(self.tree(schema.rows), key);
        #[cfg(verity_zoo)]
        let current =
            if crate::zoo::is("fault_leaks") && current.is_err() { Ok(None) } else { current };
        let current = current?;
        let is_current = self.is_current(schema);
        if let Some(bytes) = current {
            if begun_at(&bytes) <= self.position {
                return Ok(Some(bytes));
            }
            assert!(!is_current, "`changed_at` is not before any row of the table began");
        }
        if is_current { Ok(None) } else { self.version(schema.history, key) }
    }

    /// The superseded version of a key that covers the position.
    fn version(&self, ended: TreeId, key: &[u8]) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        let low = history_key(key, self.position.next());
        #[cfg(verity_zoo)]
        let low =
            if crate::zoo::is("as_of_off_by_one") { history_key(key, self.position) } else { low };
        let high = history_key(key, Position::new(u64::MAX));
        let mut cursor =
            Cursor::new(Bound::Included(&low), Bound::Included(&high), Direction::Forward);
        let mut found = None;
        // The first version that ended after the position is the only one that can cover it.
        let _ = self.store.scan(self.tree(ended), &mut cursor, |_, bytes| {
            let begun = begun_at(bytes) <= self.position;
            #[cfg(verity_zoo)]
            let begun = begun
                && (begun_at(bytes) < self.position || !crate::zoo::is("history_begins_late"));
            if begun {
                found = Some(bytes.to_vec());
            }
            ControlFlow::Break(())
        })?;
        Ok(found.map(Cow::Owned))
    }

    /// After a fault: notes what the rows of these keys miss, so that one fetch serves many.
    pub fn prefetch<'k>(&self, schema: &TableSchema, keys: impl Iterator<Item = &'k [u8]>) {
        for key in keys {
            // Only the note that the store takes of a miss matters here.
            let _ = self.store.prefetch(self.tree(schema.rows), key);
        }
    }

    /// Rows of the table at its newest state, without reading them. None: they must be counted.
    pub fn count(&self, schema: &TableSchema) -> Result<Option<u64>, Fault> {
        if !self.is_current(schema) {
            return Ok(None);
        }
        self.store.count(self.tree(schema.rows)).map(Some)
    }

    /// Visits what is left of a scan, at most a slice of it. `Continue`: the scan is at its end.
    pub fn scan(
        &self,
        schema: &TableSchema,
        scan: &mut RowScan,
        visit: &mut dyn FnMut(&[u8], StoredRow<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let initial = schema.initial_values(self.position);
        self.scan_versions(
            schema,
            RowSource::table_trees(schema),
            scan,
            READ_SLICE_ROWS,
            &mut |key, bytes| visit(key, StoredRow::new(bytes).with_initial(&initial)),
        )
    }

    /// Visits entries of an index as of the position, as `scan` visits rows: at most `most` of
    /// them.
    pub fn scan_index(
        &self,
        schema: &TableSchema,
        index: &Index,
        scan: &mut RowScan,
        most: usize,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Fault> {
        assert!(index.serves(self.position), "an index is not read before it was whole");
        let trees = Versions { current: index.entries, ended: index.ended };
        self.scan_versions(schema, trees, scan, most, visit)
    }

    fn scan_versions(
        &self,
        schema: &TableSchema,
        trees: Versions,
        scan: &mut RowScan,
        most: usize,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Fault> {
        let mut budget = most;
        while let Some(range) = scan.ranges.front() {
            let flow = if range.is_point {
                let visited = self.visit_point(schema, &range.low, visit, &mut budget);
                if visited.is_err() {
                    let points = scan.ranges.iter().skip(1).take_while(|range| range.is_point);
                    let keys = points.take(READ_LOOKUPS).map(|range| range.low.as_slice());
                    self.prefetch(schema, keys);
                }
                visited?
            } else if self.is_current(schema) {
                self.visit_current(trees, range, scan.reverse, &mut scan.after, visit, &mut budget)?
            } else {
                self.visit_versions(
                    trees,
                    range,
                    scan.reverse,
                    &mut scan.after,
                    visit,
                    &mut budget,
                )?
            };
            match flow {
                Visit::RangeDone => {
                    scan.ranges.pop_front();
                    scan.after = None;
                }
                Visit::PointThenStop => {
                    scan.ranges.pop_front();
                    return Ok(ControlFlow::Break(()));
                }
                Visit::Stopped => return Ok(ControlFlow::Break(())),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn visit_point(
        &self,
        schema: &TableSchema,
        key: &[u8],
        visit: &mut Visitor<'_>,
        budget: &mut usize,
    ) -> Result<Visit, Fault> {
        let found = self.get(schema, key)?;
        *budget = budget.saturating_sub(1);
        let wants_more = found.is_none_or(|bytes| visit(key, &bytes).is_continue());
        Ok(if wants_more && *budget > 0 { Visit::RangeDone } else { Visit::PointThenStop })
    }

    /// Current versions only: nothing changed after the position.
    fn visit_current(
        &self,
        trees: Versions,
        range: &KeyRange,
        reverse: bool,
        after: &mut Option<Vec<u8>>,
        visit: &mut Visitor<'_>,
        budget: &mut usize,
    ) -> Result<Visit, Fault> {
        let mut cursor = row_cursor(range, reverse, after.as_deref());
        let mut last = after.take().unwrap_or_default();
        let mut visited = false;
        let outcome = self.store.scan(self.tree(trees.current), &mut cursor, |key, bytes| {
            last.clear();
            last.extend_from_slice(key);
            visited = true;
            *budget -= 1;
            let begun = begun_at(bytes) <= self.position;
            assert!(begun, "`changed_at` is not before any row of the table began");
            match visit(key, bytes) {
                ControlFlow::Continue(()) if *budget > 0 => ControlFlow::Continue(()),
                ControlFlow::Continue(()) | ControlFlow::Break(()) => ControlFlow::Break(()),
            }
        });
        // An empty key is no key: nothing was visited in this range yet.
        *after = (visited || !last.is_empty()).then_some(last);
        Ok(if outcome?.is_break() { Visit::Stopped } else { Visit::RangeDone })
    }

    /// Merges current versions with those that ended, by key.
    fn visit_versions(
        &self,
        trees: Versions,
        range: &KeyRange,
        reverse: bool,
        after: &mut Option<Vec<u8>>,
        visit: &mut Visitor<'_>,
        budget: &mut usize,
    ) -> Result<Visit, Fault> {
        let mut current = Current {
            cursor: row_cursor(range, reverse, after.as_deref()),
            buffer: VecDeque::new(),
            at_end: false,
        };
        let mut ended = Ended {
            cursor: history_cursor(range, reverse, after.as_deref()),
            next: None,
            at_end: false,
        };
        #[cfg(verity_zoo)]
        if crate::zoo::is("ended_rows_skipped") {
            ended.at_end = true;
        }
        loop {
            current.fill(self, trees.current)?;
            ended.fill(self, trees.ended, range, reverse)?;
            let from_current = match (current.buffer.front(), &ended.next) {
                (None, None) => return Ok(Visit::RangeDone),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((current, _)), Some((ended, _))) => {
                    if current == ended {
                        // One key in both: the current row counts if it had begun.
                        true
                    } else {
                        (current < ended) != reverse
                    }
                }
            };
            let (key, row) = if from_current {
                let Some((key, bytes)) = current.buffer.pop_front() else {
                    unreachable!("the buffer was just seen to have a row")
                };
                let of_history = match &ended.next {
                    Some((ended_key, _)) if *ended_key == key => ended.next.take(),
                    Some(_) | None => None,
                };
                if begun_at(&bytes) <= self.position {
                    (key, Some(bytes))
                } else {
                    (key, of_history.and_then(|(_, row)| row))
                }
            } else {
                let Some((key, row)) = ended.next.take() else {
                    unreachable!("one of both was just seen")
                };
                (key, row)
            };
            *budget -= 1;
            let flow = match &row {
                Some(bytes) => visit(&key, bytes),
                None => ControlFlow::Continue(()),
            };
            *after = Some(key);
            if flow.is_break() || *budget == 0 {
                return Ok(Visit::Stopped);
            }
        }
    }
}

/// The two trees of versioned entries: of a table, or of an index.
#[derive(Clone, Copy, Debug)]
struct Versions {
    current: TreeId,
    ended: TreeId,
}

enum Visit {
    RangeDone,
    /// The one key of the range was delivered, and the slice is full.
    PointThenStop,
    Stopped,
}

/// Where a scan stands.
#[derive(Clone, Debug)]
pub struct RowScan {
    /// Left to read, in reading order; the first one is under way.
    ranges: VecDeque<KeyRange>,
    reverse: bool,
    /// The last key of the first range that was delivered.
    after: Option<Vec<u8>>,
}

impl RowScan {
    /// `ranges` ascend and are disjoint; `reverse` reads them from the end.
    #[must_use]
    pub fn new(ranges: Vec<KeyRange>, reverse: bool) -> RowScan {
        let mut ranges: VecDeque<KeyRange> = ranges.into();
        if reverse {
            ranges.make_contiguous().reverse();
        }
        RowScan { ranges, reverse, after: None }
    }
}

fn row_cursor(range: &KeyRange, reverse: bool, after: Option<&[u8]>) -> Cursor {
    let low = Bound::Included(range.low.as_slice());
    let high = range.high.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    match (after, reverse) {
        (None, false) => Cursor::new(low, high, Direction::Forward),
        (None, true) => Cursor::new(low, high, Direction::Reverse),
        (Some(after), false) => Cursor::new(Bound::Excluded(after), high, Direction::Forward),
        (Some(after), true) => Cursor::new(low, Bound::Excluded(after), Direction::Reverse),
    }
}

/// All versions of the keys of a range lie between the same two ends, as no key is the prefix of
/// another.
fn history_cursor(range: &KeyRange, reverse: bool, after: Option<&[u8]>) -> Cursor {
    match (after, reverse) {
        (Some(after), false) => {
            let last = history_key(after, Position::new(u64::MAX));
            let high = range.high.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            Cursor::new(Bound::Excluded(&last), high, Direction::Forward)
        }
        (_, true) | (None, false) => row_cursor(range, reverse, after),
    }
}

/// Current rows, a few at a time.
struct Current {
    cursor: Cursor,
    buffer: VecDeque<(Vec<u8>, Vec<u8>)>,
    at_end: bool,
}

impl Current {
    fn fill(&mut self, source: &RowSource<'_>, current: TreeId) -> Result<(), Fault> {
        if !self.buffer.is_empty() || self.at_end {
            return Ok(());
        }
        let buffer = &mut self.buffer;
        let flow = source.store.scan(source.tree(current), &mut self.cursor, |key, bytes| {
            buffer.push_back((key.to_vec(), bytes.to_vec()));
            if buffer.len() < READ_BATCH_ROWS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        match flow {
            Ok(flow) => self.at_end = flow.is_continue(),
            Err(fault) if self.buffer.is_empty() => return Err(fault),
            // What is there is delivered first: the pages of a whole batch of large rows may be
            // more than memory has at once, and it would begin anew for ever.
            Err(_) => source.store.forget_misses(),
        }
        Ok(())
    }
}

/// Keys that have superseded versions, each with the version that covers the position, if any.
struct Ended {
    cursor: Cursor,
    next: Option<(Vec<u8>, Option<Vec<u8>>)>,
    at_end: bool,
}

impl Ended {
    fn fill(
        &mut self,
        source: &RowSource<'_>,
        ended: TreeId,
        range: &KeyRange,
        reverse: bool,
    ) -> Result<(), Fault> {
        if self.next.is_some() || self.at_end {
            return Ok(());
        }
        let mut found: Option<Vec<u8>> = None;
        let tree = source.tree(ended);
        let _ = source.store.scan(tree, &mut self.cursor, |history, _| {
            found = Some(split_history_key(history).0.to_vec());
            ControlFlow::Break(())
        })?;
        let Some(key) = found else {
            self.at_end = true;
            return Ok(());
        };
        let version = source.version(ended, &key)?;
        // On to the next key, past all versions of this one.
        self.cursor = history_cursor(range, reverse, Some(&key));
        self.next = Some((key, version.map(Cow::into_owned)));
        Ok(())
    }
}
