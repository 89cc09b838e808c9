//! `HISTORY OF t` and `DIFF OF t BETWEEN POSITION a AND b`: rows as they changed.
//!
//! History gives one row a version, by key, oldest first, and one for each end that nothing
//! followed at once: a delete. Who and when come from the log record that began (or ended) it. A
//! diff gives, for each key whose row differs between two positions, the row before, the row after,
//! or both; which keys to look at, the log between the two says.
//!
//! Invariants: the answer is a function of the snapshot position and the statement; a scan that is
//! cut in slices gives every version once. Memory: one version, or the keys of a diff, at most
//! `READ_MEMORY_MAX`. State changes only after the last fault of a row.
//!
//! The table's columns come first among the columns of such a source, with the ids they have in the
//! table, so that whatever WHERE says about the key narrows as it does for the table itself.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use crate::ids::{Position, TenantId};
use crate::limits::{READ_MEMORY_MAX, READ_SLICE_ROWS};
use crate::query::access::{KeyConditions, KeyRange, narrows};
use crate::query::bind::Source;
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::Env;
use crate::query::expr::Expr;
use crate::query::key::{encode_key, hidden_key, history_key, split_history_key};
use crate::query::read::{EventRead, ReadWorld, Stop};
use crate::query::schema::{HIDDEN_KEY_COLUMN, TableSchema};
use crate::query::source::RowSource;
use crate::query::stored::StoredRow;
use crate::query::value::{ColumnType, Value};
use crate::query::virtual_tables::EventRow;
use crate::store::{Cursor, Direction, Fault, TreeRef};

/// Of a row at some position: where its version began, its columns then, and those of today.
type RowAt = (Position, Vec<Value>, Vec<Value>);

/// Takes a row; `Break` when it wants no more.
type Visit<'a> = dyn FnMut(&[Value]) -> Result<ControlFlow<()>, SqlError> + 'a;

/// Versions of the rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Versions {
    pub schema: Arc<TableSchema>,
    pub kind: VersionsKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionsKind {
    History,
    Diff,
    /// What one transaction inserted or updated, as it is then; or deleted, as it was before.
    Returning {
        deleted: bool,
    },
}

const HISTORY_COLUMNS: &[(&str, ColumnType)] = &[
    ("__change", ColumnType::Text),
    ("__position", ColumnType::BigInt),
    ("__ended_at", ColumnType::BigInt),
    ("__time", ColumnType::Timestamp),
    ("__principal", ColumnType::BigInt),
    ("__transaction_first", ColumnType::BigInt),
    ("__transaction_last", ColumnType::BigInt),
    ("__op", ColumnType::BigInt),
];

const DIFF_COLUMNS: &[(&str, ColumnType)] = &[
    ("__change", ColumnType::Text),
    ("__side", ColumnType::Text),
    ("__position", ColumnType::BigInt),
];

impl Versions {
    /// What is known of a version beside the row.
    #[must_use]
    pub fn own_columns(&self) -> &'static [(&'static str, ColumnType)] {
        match self.kind {
            VersionsKind::History => HISTORY_COLUMNS,
            VersionsKind::Diff => DIFF_COLUMNS,
            VersionsKind::Returning { .. } => &[],
        }
    }

    /// The table's columns, then its own.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        let of_table = self.schema.columns.iter().map(|c| (c.name.clone(), c.column_type));
        let own = self.own_columns().iter().map(|(name, kind)| ((*name).to_owned(), *kind));
        of_table.chain(own).collect()
    }

    /// For EXPLAIN.
    #[must_use]
    pub fn describe(&self, filter: Option<&Expr>) -> String {
        let source = Source::Table(self.schema.clone());
        let conditions = KeyConditions::new(&source, filter);
        let name = &self.schema.name;
        let what = match self.kind {
            VersionsKind::History => "all versions",
            VersionsKind::Diff => "rows that differ, by the log between the positions,",
            VersionsKind::Returning { .. } => "rows that were changed, by the log,",
        };
        if narrows(&conditions) {
            format!("{what} of {name} by primary key ({})", conditions.describe(&source))
        } else {
            format!("{what} of {name}")
        }
    }
}

/// A scan under way.
#[derive(Debug)]
pub struct VersionScan {
    versions: Versions,
    tenant: TenantId,
    position: Position,
    /// Keys left to look at, ascending and disjoint.
    ranges: VecDeque<KeyRange>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The last key of the first range that is finished.
    BetweenKeys {
        after: Option<Vec<u8>>,
    },
    /// Within the versions of a key: those that ended up to here are given.
    WithinKey {
        key: Vec<u8>,
        ended_at: Position,
        pending: Pending,
    },
    /// A diff finds the ends of its two transactions: `to` is found first.
    Resolving {
        from: Position,
        to: Position,
        done: u8,
    },
    /// A diff reads the log for keys: positions from `next` up to and with `to`.
    Gathering {
        from: Position,
        to: Position,
        next: Position,
        keys: BTreeSet<Vec<u8>>,
        bytes: usize,
    },
    Comparing {
        from: Position,
        to: Position,
        keys: BTreeSet<Vec<u8>>,
    },
}

/// What was seen at the end of the last version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// The version ended there; whether by a delete, the next one tells.
    End,
}

/// One version of a key.
struct Version {
    begun_at: Position,
    /// None: it is the row as of the scan's position.
    ended_at: Option<Position>,
    row: Vec<Value>,
}

fn number(position: Position) -> Value {
    Value::Integer(i64::try_from(position.get()).unwrap_or(i64::MAX))
}

impl VersionScan {
    /// `between`: the positions of a diff.
    pub fn new(
        versions: &Versions,
        tenant: TenantId,
        position: Position,
        between: Option<(Position, Position)>,
        filter: Option<&Expr>,
        env: &Env<'_>,
    ) -> Result<VersionScan, SqlError> {
        let conditions = KeyConditions::new(&Source::Table(versions.schema.clone()), filter);
        let ranges = if narrows(&conditions) {
            conditions.ranges(&versions.schema, env)?
        } else {
            Vec::from([KeyRange::all()])
        };
        let state = match between {
            None => State::BetweenKeys { after: None },
            Some((from, to)) => State::Resolving { from, to, done: 0 },
        };
        Ok(VersionScan {
            versions: versions.clone(),
            tenant,
            position,
            ranges: ranges.into(),
            state,
        })
    }

    /// Visits at most a slice of what is left. `Continue`: the scan is at its end.
    pub fn scan(
        &mut self,
        world: &mut ReadWorld<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, Stop> {
        for _ in 0..READ_SLICE_ROWS {
            let flow = match &self.state {
                State::BetweenKeys { .. } => self.next_key(world)?,
                State::WithinKey { .. } => self.next_version(world, visit)?,
                State::Resolving { .. } => self.resolve(world)?,
                State::Gathering { .. } => self.gather(world)?,
                State::Comparing { .. } => self.compare(world, visit)?,
            };
            match flow {
                Flow::On => {}
                Flow::Enough => return Ok(ControlFlow::Continue(())),
                Flow::AtEnd => return Ok(ControlFlow::Continue(())),
            }
        }
        Ok(ControlFlow::Break(()))
    }

    fn source<'w>(&self, world: &ReadWorld<'w>, position: Position) -> RowSource<'w> {
        RowSource { store: world.store, tenant: self.tenant, catalog: world.catalog, position }
    }

    // History ------------------------------------------------------------------------------------

    /// The next key that has or had a row.
    fn next_key(&mut self, world: &ReadWorld<'_>) -> Result<Flow, Stop> {
        let State::BetweenKeys { after } = &self.state else {
            unreachable!("the caller matched the state")
        };
        let Some(range) = self.ranges.front() else { return Ok(Flow::AtEnd) };
        let current = self.first_key(world, range, after.as_deref(), false)?;
        let ended = self.first_key(world, range, after.as_deref(), true)?;
        let next = match (current, ended) {
            (Some(current), Some(ended)) => Some(current.min(ended)),
            (current, ended) => current.or(ended),
        };
        self.state = match next {
            Some(key) => {
                State::WithinKey { key, ended_at: Position::ZERO, pending: Pending::Nothing }
            }
            None => {
                self.ranges.pop_front();
                State::BetweenKeys { after: None }
            }
        };
        Ok(Flow::On)
    }

    fn first_key(
        &self,
        world: &ReadWorld<'_>,
        range: &KeyRange,
        after: Option<&[u8]>,
        in_history: bool,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let schema = &self.versions.schema;
        let tree = if in_history { schema.history } else { schema.rows };
        // All versions of a key lie before the next key, as no key is the prefix of another.
        let last = after.map(|after| match in_history {
            true => history_key(after, Position::new(u64::MAX)),
            false => after.to_vec(),
        });
        let low = match &last {
            Some(last) => Bound::Excluded(last.as_slice()),
            None => Bound::Included(range.low.as_slice()),
        };
        let high = range.high.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut cursor = Cursor::new(low, high, Direction::Forward);
        let mut found = None;
        let tree = TreeRef::new(self.tenant, tree);
        let _ = world.store.scan(tree, &mut cursor, |key, _| {
            let key = if in_history { split_history_key(key).0 } else { key };
            found = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    fn next_version(
        &mut self,
        world: &mut ReadWorld<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<Flow, Stop> {
        let State::WithinKey { key, ended_at, pending } = &self.state else {
            unreachable!("the caller matched the state")
        };
        let (ended_at, pending) = (*ended_at, *pending);
        let next = self.version_after(world, key, ended_at)?;
        // A version that does not begin where the last one ended: a delete stands between them.
        let deleted = pending == Pending::End
            && next.as_ref().is_none_or(|version| version.begun_at != ended_at);
        let (row, state) = if deleted {
            let until = next.as_ref().map(|version| version.begun_at);
            let columns = self.key_columns(key);
            let row = self.history_row(world, None, columns, ended_at, until)?;
            let key = key.clone();
            (row, State::WithinKey { key, ended_at, pending: Pending::Nothing })
        } else {
            let Some(version) = next else {
                self.state = State::BetweenKeys { after: Some(key.clone()) };
                return Ok(Flow::On);
            };
            let (begun_at, until) = (version.begun_at, version.ended_at);
            let row = self.history_row(world, Some(()), version.row, begun_at, until)?;
            let key = key.clone();
            let state = match until {
                Some(ended_at) => State::WithinKey { key, ended_at, pending: Pending::End },
                None => State::BetweenKeys { after: Some(key) },
            };
            (row, state)
        };
        self.state = state;
        Ok(if visit(&row)?.is_break() { Flow::Enough } else { Flow::On })
    }

    /// The version of a key that follows the one that ended there, as of the scan's position.
    fn version_after(
        &self,
        world: &ReadWorld<'_>,
        key: &[u8],
        ended_at: Position,
    ) -> Result<Option<Version>, Fault> {
        let schema = &self.versions.schema;
        let low = history_key(key, ended_at);
        let high = history_key(key, Position::new(u64::MAX));
        let mut cursor =
            Cursor::new(Bound::Excluded(&low), Bound::Included(&high), Direction::Forward);
        let mut found = None;
        let tree = TreeRef::new(self.tenant, schema.history);
        let _ = world.store.scan(tree, &mut cursor, |history, bytes| {
            let stored = StoredRow::new(bytes);
            let ended_at = split_history_key(history).1;
            // As it was when it ended, or as the scan sees it.
            let last = ended_at.previous().unwrap_or(Position::ZERO).min(self.position);
            found = Some(Version {
                begun_at: stored.begun_at(),
                ended_at: Some(ended_at),
                row: table_columns(schema, stored, last),
            });
            ControlFlow::Break(())
        })?;
        if found.is_none() {
            let bytes = world.store.get(TreeRef::new(self.tenant, schema.rows), key)?;
            found = bytes.map(|bytes| {
                let stored = StoredRow::new(&bytes);
                let row = table_columns(schema, stored, self.position);
                Version { begun_at: stored.begun_at(), ended_at: None, row }
            });
        }
        // What happened after the snapshot has not happened.
        Ok(found.filter(|version| version.begun_at <= self.position).map(|mut version| {
            version.ended_at = version.ended_at.filter(|ended| *ended <= self.position);
            version
        }))
    }

    /// Who and when of the record at `at`; `version` None: the row ended there.
    fn history_row(
        &self,
        world: &mut ReadWorld<'_>,
        version: Option<()>,
        mut row: Vec<Value>,
        at: Position,
        until: Option<Position>,
    ) -> Result<Vec<Value>, Stop> {
        let event = match (world.events)(at) {
            EventRead::Fault => return Err(Stop::EventFault),
            EventRead::Row(event) => Some(event),
            EventRead::Absent => None,
        };
        let change = match (version, &event) {
            (None, _) => String::from("delete"),
            (Some(()), Some(event)) => event.kind.clone(),
            (Some(()), None) => String::from("put"),
        };
        let of = |value: fn(&EventRow) -> Value| event.as_ref().map_or(Value::Null, value);
        row.extend([
            Value::Text(change),
            number(at),
            until.map_or(Value::Null, number),
            of(|event| Value::Timestamp(i64::try_from(event.timestamp.0).unwrap_or(i64::MAX))),
            of(|event| Value::Integer(i64::try_from(event.principal.get()).unwrap_or(i64::MAX))),
            of(|event| number(event.transaction_first)),
            of(|event| number(event.transaction_last)),
            of(|event| Value::Integer(i64::try_from(event.op.get()).unwrap_or(i64::MAX))),
        ]);
        Ok(row)
    }

    /// The columns of a row of which only the key is left.
    fn key_columns(&self, key: &[u8]) -> Vec<Value> {
        let schema = &self.versions.schema;
        let mut row: Vec<Value> = schema.columns.iter().map(|_| Value::Null).collect();
        if !schema.hidden_key() {
            let Ok(values) = crate::query::key::decode_key(schema, key) else {
                unreachable!("keys in trees were encoded by this schema")
            };
            for (id, value) in schema.primary_key.iter().zip(values) {
                row[schema.ordinal(*id)] = value;
            }
        }
        row
    }

    // Diff ---------------------------------------------------------------------------------------

    /// A position inside a transaction stands for the end of the one before.
    fn resolve(&mut self, world: &mut ReadWorld<'_>) -> Result<Flow, Stop> {
        let State::Resolving { from, to, done } = &self.state else {
            unreachable!("the caller matched the state")
        };
        let (mut from, mut to, done) = (*from, *to, *done);
        let one = matches!(self.versions.kind, VersionsKind::Returning { .. });
        let asked = if done == 0 { &mut to } else { &mut from };
        match (world.events)(*asked) {
            EventRead::Fault => return Err(Stop::EventFault),
            EventRead::Row(event) if event.transaction_last != *asked => {
                let before = event.transaction_first.previous();
                *asked = before.unwrap_or(Position::ZERO);
            }
            // All of one transaction: from before its first record.
            EventRead::Row(event) if one && done == 1 => {
                from = event.transaction_first.previous().unwrap_or(Position::ZERO);
            }
            EventRead::Row(_) | EventRead::Absent => {}
        }
        self.state = if done == 0 {
            State::Resolving { from, to, done: 1 }
        } else {
            State::Gathering { from, to, next: from.next(), keys: BTreeSet::new(), bytes: 0 }
        };
        Ok(Flow::On)
    }

    /// Notes the key of one record.
    fn gather(&mut self, world: &mut ReadWorld<'_>) -> Result<Flow, Stop> {
        let schema = self.versions.schema.clone();
        let State::Gathering { from, to, next, keys, bytes } = &mut self.state else {
            unreachable!("the caller matched the state")
        };
        if *next > *to {
            let (from, to, keys) = (*from, *to, core::mem::take(keys));
            self.state = State::Comparing { from, to, keys };
            return Ok(Flow::On);
        }
        let event = match (world.events)(*next) {
            EventRead::Fault => return Err(Stop::EventFault),
            EventRead::Row(event) => Some(event),
            EventRead::Absent => None,
        };
        *next = next.next();
        let Some(key) = event.and_then(|event| key_of(&schema, &event)) else {
            return Ok(Flow::On);
        };
        let wanted = self
            .ranges
            .iter()
            .any(|range| key >= range.low && range.high.as_ref().is_none_or(|high| key < *high));
        if wanted {
            *bytes += key.len() + 64;
            if *bytes > READ_MEMORY_MAX {
                return Err(SqlError::new(
                    SqlState::LimitExceeded,
                    format!("the rows that differ need more than {} MiB", READ_MEMORY_MAX >> 20),
                )
                .hint("take positions that lie closer, or name the primary key in WHERE")
                .into());
            }
            keys.insert(key);
        }
        Ok(Flow::On)
    }

    /// Compares one row at the two positions.
    fn compare(&mut self, world: &ReadWorld<'_>, visit: &mut Visit<'_>) -> Result<Flow, Stop> {
        let State::Comparing { from, to, keys } = &self.state else {
            unreachable!("the caller matched the state")
        };
        let Some(key) = keys.first() else { return Ok(Flow::AtEnd) };
        let schema = &self.versions.schema;
        let row_at = |position| -> Result<Option<RowAt>, Fault> {
            let bytes = self.source(world, position).get(schema, key)?;
            Ok(bytes.map(|bytes| {
                let stored = StoredRow::new(&bytes);
                // A column that came between the two changed no row.
                let whole = table_columns(schema, stored, *to);
                (stored.begun_at(), table_columns(schema, stored, position), whole)
            }))
        };
        let (before, after) = (row_at(*from)?, row_at(*to)?);
        let change = match (&before, &after) {
            (None, None) => None,
            (None, Some(_)) => Some("insert"),
            (Some(_), None) => Some("delete"),
            (Some((.., before)), Some((.., after))) => (before != after).then_some("update"),
        };
        let seen = |row: Option<(Position, Vec<Value>, Vec<Value>)>| {
            row.map(|(begun_at, columns, _)| (begun_at, columns))
        };
        let (before, after) = (seen(before), seen(after));
        let State::Comparing { keys, .. } = &mut self.state else {
            unreachable!("the state was matched above")
        };
        keys.pop_first();
        if let VersionsKind::Returning { deleted } = self.versions.kind {
            let row = match (deleted, before, after) {
                (true, Some((_, row)), None) | (false, _, Some((_, row))) => row,
                (true, _, _) | (false, _, None) => return Ok(Flow::On),
            };
            return Ok(if visit(&row)?.is_break() { Flow::Enough } else { Flow::On });
        }
        let Some(change) = change else { return Ok(Flow::On) };
        for (side, version) in [("before", before), ("after", after)] {
            let Some((begun_at, mut row)) = version else { continue };
            row.extend([Value::text(change), Value::text(side), number(begun_at)]);
            if visit(&row)?.is_break() {
                return Ok(Flow::Enough);
            }
        }
        Ok(Flow::On)
    }
}

enum Flow {
    On,
    /// The visitor wants no more.
    Enough,
    AtEnd,
}

/// The columns of a version as of a position while it was there.
fn table_columns(schema: &TableSchema, row: StoredRow<'_>, position: Position) -> Vec<Value> {
    let initial = schema.initial_values(position);
    let row = row.with_initial(&initial);
    (0..schema.columns.len()).map(|ordinal| row.column(ordinal).to_value()).collect()
}

/// The key of the row that a record is about, if it is of this table.
fn key_of(schema: &TableSchema, event: &EventRow) -> Option<Vec<u8>> {
    let columns = event.columns.as_ref().filter(|_| event.stream == schema.stream)?;
    let value_of = |id| columns.iter().find(|(of, _)| *of == id).map(|(_, value)| value);
    if schema.hidden_key() {
        // The row of an insert has no key yet but the insert's own position.
        return match value_of(HIDDEN_KEY_COLUMN) {
            Some(Value::Integer(position)) => {
                Some(hidden_key(Position::new(u64::try_from(*position).ok()?)).to_vec())
            }
            Some(_) => None,
            None => Some(hidden_key(event.position).to_vec()),
        };
    }
    let mut row: Vec<Value> = schema.columns.iter().map(|_| Value::Null).collect();
    for id in &schema.primary_key {
        row[schema.ordinal(*id)] = value_of(*id)?.clone();
    }
    encode_key(schema, &row).ok()
}
