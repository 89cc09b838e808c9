//! UPDATE and DELETE: find the rows, compute what they become, draft the changes.
//!
//! Four phases, each resumable: *gather*, if the plan goes by an index or a union, collects the
//! keys of rows that may match (those of a large write came with it, and count as gathered while no
//! row of the table has changed since they were found); *find* reads those, or scans ranges of the
//! primary key, and keeps what matches; *compute* needs no page; *draft* puts rows whose key stays,
//! then removes those whose key changes, then puts them under their new keys, which must be free:
//! so `SET id = id + 1` works on any order of rows. What must be unique is looked at when all rows
//! are drafted, for the same reason.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::insert::assigned;
use super::row::{CurrentRow, declared_key, unique_violation};
use super::{Execution, ExecutionContext, Step, Stop, limit};
use crate::ids::{Position, TreeId};
use crate::kernel::record::whole_row;
use crate::kernel::request::{Limit, RequestError};
use crate::limits::READ_LOOKUPS;
use crate::query::access::KeyRange;
use crate::query::bind::Source;
use crate::query::command::{Assignment, FoundRows};
use crate::query::eval::{Env, RowView, eval_truth};
use crate::query::index::row_key_of;
use crate::query::plan::{Candidates, PlanWorld, choose, index_hint};
use crate::query::stored::StoredRow;
use crate::query::{Expr, SqlError, SqlState, TableSchema, Value};
use crate::store::{Cursor, Direction, TreeRef};

/// Entries that one slice of a scan visits before limits are looked at.
const SCAN_SLICE: usize = 256;

#[derive(Debug)]
pub(super) enum Changing {
    Find(Find),
    Draft {
        changes: Vec<Change>,
        moved: Vec<Moved>,
        next: usize,
        count: u64,
        /// Keys of rows that must hold what is unique alone.
        unique: Vec<Vec<u8>>,
        checked: usize,
    },
}

/// How it is known where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Planned,
    /// The keys came with the write.
    Found,
    /// They did, and the table has changed since: planned.
    Stale,
}

#[derive(Debug)]
pub(super) struct Find {
    origin: Origin,
    /// Trees whose entries name rows that may match, with the ranges to look at.
    gather: VecDeque<(Option<TreeId>, VecDeque<KeyRange>)>,
    /// Keys that were gathered, in order, and how many of them were read.
    keys: BTreeSet<Vec<u8>>,
    /// Ranges of the primary key, when rows are not gathered.
    ranges: VecDeque<KeyRange>,
    /// All of them; `None`: rows may have any key.
    within: Option<Vec<KeyRange>>,
    cursor: Option<Cursor>,
    found: BTreeMap<Vec<u8>, CurrentRow>,
}

impl Find {
    fn nothing() -> Find {
        Find {
            origin: Origin::Planned,
            gather: VecDeque::new(),
            keys: BTreeSet::new(),
            ranges: VecDeque::new(),
            within: None,
            cursor: None,
            found: BTreeMap::new(),
        }
    }
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
        found: Option<&FoundRows>,
    ) -> Result<u64, Stop> {
        let mut changing = match core::mem::replace(&mut self.step, Step::Begin) {
            Step::Changing(changing) => changing,
            Step::Begin | Step::Inserting(_) | Step::Building(_) | Step::Slice(_) => {
                Changing::Find(self.begin_find(context, schema, predicate, found)?)
            }
        };
        let result = self.run_change(context, schema, predicate, assignments, &mut changing);
        let origin = match &changing {
            Changing::Find(find) => find.origin,
            Changing::Draft { .. } => Origin::Planned,
        };
        self.step = Step::Changing(changing);
        result.map_err(|stop| name_an_index(stop, schema, predicate, origin))
    }

    /// By the rows that came with the write, if they are still those of the table; else as planned.
    fn begin_find(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &Arc<TableSchema>,
        predicate: Option<&Expr>,
        found: Option<&FoundRows>,
    ) -> Result<Find, Stop> {
        let Some(found) = found else { return self.plan_find(context, schema, predicate) };
        let unchanged = context.catalog.table(schema.id).is_some()
            && context.catalog.changed_at(schema.id) <= found.position;
        #[cfg(verity_zoo)]
        let unchanged = unchanged || crate::zoo::is("found_rows_stale");
        if !unchanged {
            self.found_stale += 1;
            let planned = self.plan_find(context, schema, predicate)?;
            return Ok(Find { origin: Origin::Stale, ..planned });
        }
        let count = found.keys.len() as u64;
        limit(Limit::TransactionEvents, count, context.constants.transaction_events_max)?;
        let keys = found.keys.iter().cloned().collect();
        Ok(Find { origin: Origin::Found, keys, ..Find::nothing() })
    }

    fn run_change(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        predicate: Option<&Expr>,
        assignments: Option<&[Assignment]>,
        changing: &mut Changing,
    ) -> Result<u64, Stop> {
        if let Changing::Find(find) = changing {
            self.gather(context, schema, find)?;
            self.find_gathered(context, schema, predicate, find)?;
            while let Some(range) = find.ranges.front() {
                let over = find.cursor.get_or_insert_with(|| cursor_over(range));
                self.find_stored(context, schema, predicate, over, &mut find.found)?;
                find.cursor = None;
                find.ranges.pop_front();
            }
            self.find_changed(schema, predicate, find.within.as_deref(), &mut find.found)?;
            let found = core::mem::take(&mut find.found);
            *changing = self.compute(context, schema, assignments, found)?;
        }
        let Changing::Draft { changes, moved, next, count, unique, checked } = changing else {
            unreachable!("just set");
        };
        while *next < changes.len() {
            let Change { key, current, row } = &mut changes[*next];
            match row.take() {
                Some(mut row) => {
                    self.put_row(context, schema, Some(key), Some(current), &mut row)?
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
            let mut row = core::mem::take(row);
            self.put_row(context, schema, Some(key), None, &mut row)?;
            *next += 1;
        }
        while let Some(key) = unique.get(*checked) {
            self.check_unique(context, schema, key)?;
            *checked += 1;
            self.steps += 1;
        }
        Ok(*count)
    }

    /// Where rows that may match are to be looked for, in the trees as they are.
    fn plan_find(
        &self,
        context: &ExecutionContext<'_>,
        schema: &Arc<TableSchema>,
        predicate: Option<&Expr>,
    ) -> Result<Find, Stop> {
        let mut find = Find::nothing();
        // As the trees have it: without what this request did to its indexes.
        let Some(stored) = context.catalog.table(schema.id) else { return Ok(find) };
        let source = Source::Table(schema.clone());
        let env = Env::constant(&[], &self.context);
        let world = PlanWorld {
            store: context.store,
            tenant: context.drafts.tenant,
            schema: stored,
            position: Position::new(u64::MAX),
        };
        let candidates = Candidates::of_write(&source, predicate);
        let plan = choose(&candidates, &world, &env, false, None, false)?;
        let sides = plan.candidate.lookups.iter().zip(plan.ranges);
        let mut sides: VecDeque<(Option<TreeId>, VecDeque<KeyRange>)> =
            sides.map(|(lookup, ranges)| (lookup.index, ranges.list.into())).collect();
        match sides.pop_front() {
            Some((None, ranges)) if sides.is_empty() => {
                find.within = Some(ranges.iter().cloned().collect());
                find.ranges = ranges;
            }
            Some(first) => {
                sides.push_front(first);
                find.gather = sides;
            }
            None => unreachable!("a plan has a lookup"),
        }
        Ok(find)
    }

    /// Keys of rows that may match, by the entries of indexes.
    fn gather(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        find: &mut Find,
    ) -> Result<(), Stop> {
        while let Some((index, ranges)) = find.gather.front_mut() {
            let Some(range) = ranges.front() else {
                find.gather.pop_front();
                continue;
            };
            let tree = TreeRef::new(context.drafts.tenant, index.unwrap_or(schema.rows));
            let cursor = find.cursor.get_or_insert_with(|| cursor_over(range));
            let (mut visited, mut bytes) = (0, 0);
            let left = self.scan_left(context);
            let keys = &mut find.keys;
            let flow = context.store.scan(tree, cursor, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                visited += 1;
                let row_key = if index.is_some() { row_key_of(key, value) } else { key };
                keys.insert(row_key.to_vec());
                if visited == SCAN_SLICE || bytes > left {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            self.bytes_scanned += bytes;
            self.steps += visited as u64;
            self.check_scan(context)?;
            if flow?.is_continue() {
                find.cursor = None;
                ranges.pop_front();
            }
        }
        Ok(())
    }

    /// Reads the rows that were gathered.
    fn find_gathered(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        predicate: Option<&Expr>,
        find: &mut Find,
    ) -> Result<(), Stop> {
        let tree = TreeRef::new(context.drafts.tenant, schema.rows);
        let initial = schema.initial_values(Position::new(u64::MAX));
        while let Some(key) = find.keys.first() {
            if !self.scratch.rows.contains(schema.id, key) {
                let value = match context.store.get(tree, key) {
                    Ok(Some(value)) => value,
                    Ok(None) if find.origin == Origin::Found => {
                        let message = "a row that was found for the statement is not there";
                        return Err(SqlError::new(SqlState::CorruptEncoding, message).into());
                    }
                    Ok(None) => unreachable!("an entry has its row"),
                    Err(fault) => {
                        let ahead = find.keys.iter().take(READ_LOOKUPS);
                        self.prefetch(context, schema, ahead.map(Vec::as_slice));
                        return Err(fault.into());
                    }
                };
                self.bytes_scanned += (key.len() + value.len()) as u64;
                let stored = StoredRow::new(&value).with_initial(&initial);
                let env = Env::constant(&[], &self.context).with_row(RowView::Stored(stored));
                if matches(predicate, &env)? {
                    let row = whole_row(schema, &value);
                    self.bytes_scanned += filled_in(&row, &value);
                    let current = CurrentRow { begun_at: stored.begun_at(), row };
                    find.found.insert(key.clone(), current);
                }
            }
            find.keys.pop_first();
            self.steps += 1;
            self.check_scan(context)?;
            let events = (self.drafts.len() + find.found.len()) as u64;
            limit(Limit::TransactionEvents, events, context.constants.transaction_events_max)?;
        }
        Ok(())
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
        let changed = &self.scratch.rows;
        let initial = schema.initial_values(Position::new(u64::MAX));
        loop {
            let mut failed: Option<SqlError> = None;
            let (mut visited, mut bytes) = (0, 0);
            let left = self.scan_left(context);
            let events_max = context.constants.transaction_events_max as usize;
            let flow = context.store.scan(tree, cursor, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                visited += 1;
                if !changed.contains(schema.id, key) {
                    let stored = StoredRow::new(value).with_initial(&initial);
                    let env = Env::constant(&[], &self.context);
                    match matches(predicate, &env.with_row(RowView::Stored(stored))) {
                        Ok(true) => {
                            let begun_at = stored.begun_at();
                            let row = whole_row(schema, value);
                            bytes += filled_in(&row, value);
                            found.insert(key.to_vec(), CurrentRow { begun_at, row });
                        }
                        Ok(false) => {}
                        Err(error) => failed = Some(error),
                    }
                }
                // At the very row: else a fault behind it would decide which of these it is.
                let over = bytes > left || self.drafts.len() + found.len() > events_max;
                if failed.is_some() || over || visited == SCAN_SLICE {
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
        ranges: Option<&[KeyRange]>,
        found: &mut BTreeMap<Vec<u8>, CurrentRow>,
    ) -> Result<(), SqlError> {
        for (key, changed) in self.scratch.rows.of(schema.id) {
            if ranges.is_some_and(|ranges| !ranges.iter().any(|range| within(key, range))) {
                continue;
            }
            let Some(row) = changed.row else { continue };
            let env = Env::constant(&[], &self.context).with_row(RowView::Values(row));
            if matches(predicate, &env)? {
                let current = CurrentRow { begun_at: changed.position, row: row.to_vec() };
                found.insert(key.to_vec(), current);
            }
        }
        Ok(())
    }

    fn compute(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        assignments: Option<&[Assignment]>,
        found: BTreeMap<Vec<u8>, CurrentRow>,
    ) -> Result<Changing, Stop> {
        let (count, mut bytes) = (found.len() as u64, 0);
        let mut changes = Vec::with_capacity(found.len());
        let mut moved = Vec::new();
        let mut unique = Vec::new();
        let watched = assignments.is_some_and(|assignments| {
            let assigned = |id| assignments.iter().any(|assignment| assignment.column == id);
            let mut indexes = schema.indexes.iter().filter(|index| index.unique);
            indexes.any(|index| index.columns.iter().any(|id| assigned(*id)))
        });
        #[cfg(verity_zoo)]
        let watched = watched && !crate::zoo::is("unique_skipped_on_update");
        for (key, current) in found {
            let Some(assignments) = assignments else {
                changes.push(Change { key, current, row: None });
                continue;
            };
            let env = Env::constant(&[], &self.context).with_row(RowView::Values(&current.row));
            let row = assigned(schema, assignments, &current.row, &env, &self.context)?;
            // Before the next is made: what is assigned may be large, and rows are many.
            bytes += row.iter().map(Value::heap_bytes).sum::<usize>();
            limit(Limit::TransactionBytes, bytes as u64, context.constants.transaction_bytes_max)?;
            let stays = schema.hidden_key() || {
                let new_key = declared_key(schema, &row)?;
                let stays = new_key == key;
                if !stays {
                    if watched {
                        unique.push(new_key.clone());
                    }
                    moved.push(Moved { key: new_key, row: row.clone() });
                }
                stays
            };
            if watched && stays {
                unique.push(key.clone());
            }
            changes.push(Change { key, current, row: stays.then_some(row) });
        }
        Ok(Changing::Draft { changes, moved, next: 0, count, unique, checked: 0 })
    }
}

/// Bytes of a row in memory beyond those that are stored: the DEFAULT of a column that was added
/// since, which may be large, and is in every row that is found.
fn filled_in(row: &[Value], stored: &[u8]) -> u64 {
    row.iter().map(Value::heap_bytes).sum::<usize>().saturating_sub(stored.len()) as u64
}

/// A scan that is too large is refused with the index that would make it small.
fn name_an_index(
    stop: Stop,
    schema: &Arc<TableSchema>,
    predicate: Option<&Expr>,
    origin: Origin,
) -> Stop {
    let Stop::Refused(RequestError::LimitExceeded {
        limit: Limit::TransactionPagesRead,
        value,
        max,
    }) = stop
    else {
        return stop;
    };
    let name = &schema.name;
    let index = index_hint(&Source::Table(schema.clone()), predicate, &[]);
    match origin {
        Origin::Planned => {
            let message = format!(
                "the statement scans {value} pages of \"{name}\" or more, \
                 transaction_pages_read_max is {max}"
            );
            let volatile = predicate.is_some_and(Expr::needs_context);
            let hint = match index {
                Some(index) => index,
                None if volatile => String::from(
                    "write the time as a literal: now(), random() and uuids are known only when \
                     the statement is applied, so its rows cannot be looked for before",
                ),
                None => String::from("narrow WHERE to ranges of the primary key"),
            };
            SqlError::new(SqlState::LimitExceeded, message).hint(hint).into()
        }
        Origin::Found => {
            let message = format!(
                "the rows that the statement changes fill {value} pages of \"{name}\" or more, \
                 transaction_pages_read_max is {max}"
            );
            let hint = "change them in several transactions";
            SqlError::new(SqlState::LimitExceeded, message).hint(hint).into()
        }
        Origin::Stale => {
            let message = format!(
                "rows of \"{name}\" changed while the statement looked for its own, and it scans \
                 more than the {max} pages that a transaction may read"
            );
            let hint = match index {
                Some(index) => format!("send it again, or let it scan less: {index}"),
                None => String::from("send it again, or narrow WHERE to ranges of the primary key"),
            };
            SqlError::new(SqlState::SchemaChanged, message).hint(hint).into()
        }
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
