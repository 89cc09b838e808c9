//! UPDATE and DELETE: find the rows, compute what they become, draft the changes.
//!
//! Three phases, each resumable: *find* scans the range of keys and keeps what matches; *compute*
//! needs no page; *draft* puts rows whose key stays, then removes those whose key changes, then
//! puts them under their new keys, which must be free: so `SET id = id + 1` works on any order of
//! rows.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::insert::assigned;
use super::row::{CurrentRow, declared_key, full_row, unique_violation};
use super::{Execution, ExecutionContext, Step, Stop, limit};
use crate::kernel::request::Limit;
use crate::query::access::{KeyConditions, KeyRange};
use crate::query::bind::Source;
use crate::query::command::Assignment;
use crate::query::eval::{Env, RowView, eval_truth};
use crate::query::stored::StoredRow;
use crate::query::{Expr, SqlError, TableSchema, Value};
use crate::store::{Cursor, Direction, TreeRef};

/// Entries that one slice of a scan visits before limits are looked at.
const SCAN_SLICE: usize = 256;

#[derive(Debug)]
pub(super) enum Changing {
    Find {
        ranges: Vec<KeyRange>,
        /// Of `ranges`, the one under way.
        at: usize,
        cursor: Option<Cursor>,
        found: BTreeMap<Vec<u8>, CurrentRow>,
    },
    Draft {
        changes: Vec<Change>,
        moved: Vec<Moved>,
        next: usize,
        count: u64,
    },
}

/// A row that stays under its key, or goes.
#[derive(Debug)]
pub(super) struct Change {
    key: Vec<u8>,
    current: CurrentRow,
    /// None: deleted, or moved to another key.
    row: Option<Vec<Value>>,
}

#[derive(Debug)]
pub(super) struct Moved {
    key: Vec<u8>,
    row: Vec<Value>,
}

impl Execution {
    /// `assignments` None: DELETE. Gives the number of rows.
    pub(super) fn change(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &Arc<TableSchema>,
        predicate: Option<&Expr>,
        assignments: Option<&[Assignment]>,
    ) -> Result<u64, Stop> {
        let mut changing = match core::mem::replace(&mut self.step, Step::Begin) {
            Step::Changing(changing) => changing,
            Step::Begin | Step::Inserting(_) => {
                let source = Source::Table(schema.clone());
                let env = Env::constant(&[], &self.context);
                let ranges = KeyConditions::new(&source, predicate).ranges(schema, &env)?;
                Changing::Find { ranges, at: 0, cursor: None, found: BTreeMap::new() }
            }
        };
        let result = self.run_change(context, schema, predicate, assignments, &mut changing);
        self.step = Step::Changing(changing);
        result
    }

    fn run_change(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        predicate: Option<&Expr>,
        assignments: Option<&[Assignment]>,
        changing: &mut Changing,
    ) -> Result<u64, Stop> {
        if let Changing::Find { ranges, at, cursor, found } = changing {
            while self.in_trees(context, schema)
                && let Some(range) = ranges.get(*at)
            {
                let over = cursor.get_or_insert_with(|| cursor_over(range));
                self.find_stored(context, schema, predicate, over, found)?;
                *cursor = None;
                *at += 1;
            }
            self.find_changed(schema, predicate, ranges, found)?;
            let found = core::mem::take(found);
            *changing = self.compute(schema, assignments, found)?;
        }
        let Changing::Draft { changes, moved, next, count } = changing else {
            unreachable!("just set");
        };
        while *next < changes.len() {
            let Change { key, current, row } = &mut changes[*next];
            let key = core::mem::take(key);
            match row.take() {
                Some(row) => {
                    self.put_row(context, schema, Some(key), Some(current), row)?;
                }
                None => self.delete_row(context, schema, key, current)?,
            }
            *next += 1;
        }
        while let Some(Moved { key, row }) = moved.get_mut(*next - changes.len()) {
            match self.exists(context, schema, key) {
                Ok(false) => {}
                Ok(true) => return Err(unique_violation(schema, row).into()),
                Err(fault) => {
                    let ahead = moved[*next - changes.len()..].iter();
                    self.prefetch(context, schema, ahead.map(|moved| moved.key.as_slice()));
                    return Err(fault.into());
                }
            }
            let (key, row) = (core::mem::take(key), core::mem::take(row));
            self.put_row(context, schema, Some(key), None, row)?;
            *next += 1;
        }
        Ok(*count)
    }

    /// Rows in the tree that match and that this request has not changed.
    fn find_stored(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        predicate: Option<&Expr>,
        cursor: &mut Cursor,
        found: &mut BTreeMap<Vec<u8>, CurrentRow>,
    ) -> Result<(), Stop> {
        let tree = TreeRef::new(context.drafts.tenant, schema.rows);
        let changed = self.rows.get(&schema.id);
        loop {
            let mut failed: Option<SqlError> = None;
            let (mut visited, mut bytes) = (0, 0);
            let flow = context.store.scan(tree, cursor, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                visited += 1;
                if changed.is_none_or(|changed| !changed.contains_key(key)) {
                    let stored = StoredRow::new(value);
                    let env = Env::constant(&[], &self.context);
                    match matches(predicate, &env.with_row(RowView::Stored(stored))) {
                        Ok(true) => {
                            let begun_at = stored.begun_at();
                            let row = full_row(schema, stored);
                            found.insert(key.to_vec(), CurrentRow { begun_at, row });
                        }
                        Ok(false) => {}
                        Err(error) => failed = Some(error),
                    }
                }
                if failed.is_some() || visited == SCAN_SLICE {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            // Charged before the fault is told, as the cursor has passed what was visited.
            self.bytes_scanned += bytes;
            self.steps += visited as u64;
            if let Some(error) = failed {
                return Err(error.into());
            }
            self.check_scan(context)?;
            let events = (self.drafts.len() + found.len()) as u64;
            limit(Limit::TransactionEvents, events, context.constants.transaction_events_max)?;
            if flow?.is_continue() {
                return Ok(());
            }
        }
    }

    /// Rows that earlier work of this request made or changed.
    fn find_changed(
        &self,
        schema: &TableSchema,
        predicate: Option<&Expr>,
        ranges: &[KeyRange],
        found: &mut BTreeMap<Vec<u8>, CurrentRow>,
    ) -> Result<(), SqlError> {
        let Some(changed) = self.rows.get(&schema.id) else { return Ok(()) };
        for (key, changed) in changed {
            if !ranges.iter().any(|range| within(key, range)) {
                continue;
            }
            let Some(row) = &changed.row else { continue };
            let env = Env::constant(&[], &self.context).with_row(RowView::Values(row));
            if matches(predicate, &env)? {
                let current = CurrentRow { begun_at: changed.position, row: row.clone() };
                found.insert(key.clone(), current);
            }
        }
        Ok(())
    }

    fn compute(
        &self,
        schema: &TableSchema,
        assignments: Option<&[Assignment]>,
        found: BTreeMap<Vec<u8>, CurrentRow>,
    ) -> Result<Changing, SqlError> {
        let count = found.len() as u64;
        let mut changes = Vec::with_capacity(found.len());
        let mut moved = Vec::new();
        for (key, current) in found {
            let Some(assignments) = assignments else {
                changes.push(Change { key, current, row: None });
                continue;
            };
            let env = Env::constant(&[], &self.context).with_row(RowView::Values(&current.row));
            let row = assigned(schema, assignments, &current.row, &env, &self.context)?;
            let stays = schema.hidden_key() || {
                let new_key = declared_key(schema, &row)?;
                let stays = new_key == key;
                if !stays {
                    moved.push(Moved { key: new_key, row: row.clone() });
                }
                stays
            };
            changes.push(Change { key, current, row: stays.then_some(row) });
        }
        Ok(Changing::Draft { changes, moved, next: 0, count })
    }
}

fn cursor_over(range: &KeyRange) -> Cursor {
    let high = match (&range.high, range.is_point) {
        (_, true) => Bound::Included(range.low.as_slice()),
        (Some(high), false) => Bound::Excluded(high.as_slice()),
        (None, false) => Bound::Unbounded,
    };
    Cursor::new(Bound::Included(&range.low), high, Direction::Forward)
}

fn within(key: &[u8], range: &KeyRange) -> bool {
    match (&range.high, range.is_point) {
        (_, true) => key == range.low,
        (Some(high), false) => key >= range.low.as_slice() && key < high.as_slice(),
        (None, false) => key >= range.low.as_slice(),
    }
}

fn matches(predicate: Option<&Expr>, env: &Env<'_>) -> Result<bool, SqlError> {
    match predicate {
        Some(predicate) => Ok(eval_truth(predicate, env)? == Some(true)),
        None => Ok(true),
    }
}
