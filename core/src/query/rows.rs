//! Rows on their way out of trees, by whatever plan: a scan, an index, or a union of both.
//!
//! Invariants: each row comes once; what was delivered is not delivered again after a fault; memory
//! is one batch of entries, or for a union the keys of its rows, at most `READ_MEMORY_MAX` of them:
//! beyond, it becomes a full scan before anything was delivered.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::ids::TreeId;
use crate::limits::{READ_LOOKUPS, READ_MEMORY_MAX, READ_SLICE_ROWS};
use crate::query::access::KeyRange;
use crate::query::eval::RowView;
use crate::query::index::row_key_of;
use crate::query::plan::{Plan, entry_row};
use crate::query::schema::TableSchema;
use crate::query::source::{RowScan, RowSource};
use crate::query::stored::StoredRow;
use crate::query::value::Value;
use crate::store::Fault;

#[derive(Debug)]
pub enum Rows {
    Primary(RowScan),
    Index(IndexRows),
    Union(UnionRows),
}

/// Rows by the entries of an index.
#[derive(Debug)]
pub struct IndexRows {
    entries: TreeId,
    scan: RowScan,
    /// Entries are rows enough.
    covering: bool,
    batch: Keys,
    /// Keys of the batch that are delivered.
    next: usize,
    at_end: bool,
    /// Rows wanted in all; a batch need not be larger.
    wanted: u64,
}

/// Keys of rows, gathered from every side, then read in their order.
#[derive(Debug)]
pub struct UnionRows {
    sides: VecDeque<(Option<TreeId>, RowScan)>,
    keys: BTreeSet<Vec<u8>>,
    bytes: usize,
    reverse: bool,
}

/// Keys back to back.
#[derive(Debug, Default)]
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }
}

impl Rows {
    /// `wanted`: rows after which the reader stops, if it knows.
    #[must_use]
    pub fn new(plan: &Plan, wanted: u64) -> Rows {
        let reverse = plan.candidate.order == Some(true);
        let mut sides: VecDeque<(Option<TreeId>, RowScan)> = plan
            .candidate
            .lookups
            .iter()
            .zip(&plan.ranges)
            .map(|(lookup, ranges)| (lookup.index, RowScan::new(ranges.list.clone(), reverse)))
            .collect();
        if sides.len() > 1 {
            return Rows::Union(UnionRows { sides, keys: BTreeSet::new(), bytes: 0, reverse });
        }
        let Some((index, scan)) = sides.pop_front() else { unreachable!("a plan has a lookup") };
        match index {
            None => Rows::Primary(scan),
            Some(entries) => Rows::Index(IndexRows {
                entries,
                scan,
                covering: plan.candidate.covering,
                batch: Keys::default(),
                next: 0,
                at_end: false,
                wanted,
            }),
        }
    }

    /// The indexes that are still to be read.
    #[must_use]
    pub fn indexes(&self) -> Vec<TreeId> {
        match self {
            Rows::Primary(_) => Vec::new(),
            Rows::Index(rows) => Vec::from([rows.entries]),
            Rows::Union(union) => union.sides.iter().filter_map(|(index, _)| *index).collect(),
        }
    }

    /// Visits what is left, at most a slice of it. `Continue`: there is no more.
    pub fn step(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
        visit: &mut dyn FnMut(RowView<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        match self {
            Rows::Primary(scan) => {
                source.scan(schema, scan, &mut |_, row| visit(RowView::Stored(row)))
            }
            Rows::Index(rows) if rows.covering => rows.entries(source, schema, visit),
            Rows::Index(rows) => rows.step(source, schema, visit),
            Rows::Union(union) => {
                let Some(scan) = union.gather(source, schema)? else {
                    return Ok(ControlFlow::Break(()));
                };
                *self = Rows::Primary(scan);
                Ok(ControlFlow::Break(()))
            }
        }
    }
}

impl IndexRows {
    /// Entries alone say all that is asked.
    fn entries(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
        visit: &mut dyn FnMut(RowView<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let Some(index) = schema.index(self.entries) else { unreachable!("the plan knew it") };
        let mut row: Vec<Value> = Vec::new();
        source.scan_index(schema, index, &mut self.scan, READ_SLICE_ROWS, &mut |entry, _| {
            entry_row(schema, index, entry, &mut row);
            visit(RowView::Values(&row))
        })
    }

    fn step(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
        visit: &mut dyn FnMut(RowView<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Fault> {
        let initial = schema.initial_values(source.position);
        for _ in 0..READ_SLICE_ROWS {
            if self.next == self.batch.ends.len() {
                if self.at_end {
                    return Ok(ControlFlow::Continue(()));
                }
                self.fill(source, schema)?;
                continue;
            }
            let key = self.batch.get(self.next);
            let bytes = match source.get(schema, key) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => unreachable!("an entry covers the position: so does its row"),
                Err(fault) => {
                    let ahead = self.next + 1..self.batch.ends.len();
                    source.prefetch(schema, ahead.map(|at| self.batch.get(at)));
                    return Err(fault);
                }
            };
            self.next += 1;
            let row = StoredRow::new(&bytes).with_initial(&initial);
            if visit(RowView::Stored(row)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Break(()))
    }

    fn fill(&mut self, source: &RowSource<'_>, schema: &TableSchema) -> Result<(), Fault> {
        let Some(index) = schema.index(self.entries) else { unreachable!("the plan knew it") };
        self.batch.clear();
        self.next = 0;
        let most = usize::try_from(self.wanted).unwrap_or(usize::MAX).clamp(1, READ_LOOKUPS);
        let batch = &mut self.batch;
        let flow =
            source.scan_index(schema, index, &mut self.scan, most, &mut |entry, value| {
                batch.push(row_key_of(entry, value));
                ControlFlow::Continue(())
            })?;
        self.at_end = flow.is_continue();
        Ok(())
    }
}

impl UnionRows {
    /// A slice of gathering; when all is there, the scan of the rows.
    fn gather(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
    ) -> Result<Option<RowScan>, Fault> {
        let UnionRows { sides, keys, bytes, reverse } = self;
        let mut add = |key: &[u8]| {
            if keys.insert(key.to_vec()) {
                *bytes += key.len() + 64;
            }
            ControlFlow::Continue(())
        };
        let Some((index, scan)) = sides.front_mut() else {
            let points = core::mem::take(keys).into_iter().map(KeyRange::point).collect();
            return Ok(Some(RowScan::new(points, *reverse)));
        };
        let flow = match index {
            None => source.scan(schema, scan, &mut |key, _| add(key))?,
            Some(entries) => {
                let Some(index) = schema.index(*entries) else { unreachable!("the plan knew it") };
                source.scan_index(schema, index, scan, READ_SLICE_ROWS, &mut |entry, value| {
                    add(row_key_of(entry, value))
                })?
            }
        };
        if flow.is_continue() {
            sides.pop_front();
            #[cfg(verity_zoo)]
            if crate::zoo::is("union_forgets_side") {
                sides.clear();
            }
        }
        if *bytes > READ_MEMORY_MAX {
            return Ok(Some(RowScan::new(Vec::from([KeyRange::all()]), *reverse)));
        }
        Ok(None)
    }
}
