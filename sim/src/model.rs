//! The independent model: what the database must answer, by plain maps.
//!
//! Purpose: an oracle written from the semantics of SQL and of `docs/`, not from the core's
//! evaluator. It is fed each transaction at its position, in order of position, and predicts rows
//! affected, refusals, and the rows of any past position. Invariants: a transaction changes all or
//! nothing; a version of a row is visible from the transaction's last position until the one that
//! supersedes it; nothing here is bounded, cached or lazy.

mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::sql::{
    Conflict, Datum, Expected, IndexSpec, Query, Select, SetTo, Statement, TableSpec,
};

/// Identifies a row: its key, or a number for a table with a hidden key.
type RowKey = Vec<Datum>;

#[derive(Clone, Debug)]
struct Version {
    begun_at: u64,
    ended_at: Option<u64>,
    row: Vec<Datum>,
}

/// What a table is at a moment.
#[derive(Clone, Debug)]
struct Shape {
    spec: TableSpec,
    indexes: Vec<IndexSpec>,
    /// Columns that came later, by place: since when, and what rows have that were there before.
    added: BTreeMap<usize, (u64, Datum)>,
}

#[derive(Clone, Debug)]
struct Table {
    shape: Shape,
    created_at: u64,
    rows: BTreeMap<RowKey, Vec<Version>>,
    hidden_next: i64,
}

/// A table that was dropped.
#[derive(Clone, Debug)]
struct Gone {
    name: String,
    /// The position from which on it is not there.
    dropped_at: u64,
    table: Table,
}

/// Everything about one tenant.
#[derive(Clone, Debug, Default)]
pub struct TenantModel {
    tables: BTreeMap<String, Table>,
    /// Records of each stream, with the position of the transaction that appended them.
    streams: BTreeMap<String, Vec<(u64, Vec<u8>)>>,
    /// Indexes that a job builds: a row that no tree can hold makes them come to nothing, later.
    doubtful: BTreeSet<String>,
    /// In the order in which they were dropped.
    gone: Vec<Gone>,
    /// Values drawn by chance so far.
    drawn: u64,
}

/// Why a transaction must be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    DuplicateTable,
    UndefinedTable,
    DuplicateColumn,
    NotNull,
    DuplicateKey,
    /// `DO UPDATE` would change a row twice.
    RowTwice,
    WrongVersion {
        actual: u64,
    },
}

/// What a statement must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Rows(u64),
    Schema,
    /// An index is being built.
    Job,
    /// Version of the stream after the append.
    Appended(u64),
}

/// What a transaction that succeeds must report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    pub effects: Vec<Effect>,
    /// Row changes and appended records: what the transaction limits count.
    pub events: u64,
}

/// The rows and appends of a transaction that is not applied yet.
#[derive(Default)]
struct Overlay {
    created: BTreeMap<String, Shape>,
    /// Tables that were there before; one of the same name may have been created since.
    dropped: BTreeSet<String>,
    /// Tables that were there, as they are made by this transaction.
    altered: BTreeMap<String, Shape>,
    /// `None`: deleted.
    rows: BTreeMap<String, BTreeMap<RowKey, Option<Vec<Datum>>>>,
    hidden: BTreeMap<String, i64>,
    appended: BTreeMap<String, Vec<Vec<u8>>>,
    events: u64,
    drawn: u64,
}

impl TenantModel {
    #[must_use]
    pub fn table_names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    #[must_use]
    pub fn spec(&self, table: &str) -> Option<&TableSpec> {
        self.tables.get(table).map(|table| &table.shape.spec)
    }

    /// Where a table begins to exist.
    #[must_use]
    pub fn created_at(&self, table: &str) -> Option<u64> {
        self.tables.get(table).map(|table| table.created_at)
    }

    #[must_use]
    pub fn stream_version(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |records| records.len() as u64)
    }

    #[must_use]
    pub fn stream_names(&self) -> Vec<String> {
        self.streams.keys().cloned().collect()
    }

    /// Current keys of a table: for the workload to hit rows that exist.
    #[must_use]
    pub fn keys(&self, table: &str) -> Vec<RowKey> {
        let known = self.tables.get(table).or_else(|| self.last_gone(table));
        let Some(table) = known else { return Vec::new() };
        table.rows.iter().filter(|row| current(row.1).is_some()).map(|row| row.0.clone()).collect()
    }

    #[must_use]
    pub fn row_count(&self, table: &str) -> u64 {
        self.keys(table).len() as u64
    }

    /// Predicts a transaction without applying it.
    pub fn predict(&self, transaction: &[Statement]) -> Result<Prediction, Refusal> {
        self.execute(transaction).map(|(prediction, _)| prediction)
    }

    /// Applies a transaction whose last record has this position.
    pub fn apply(
        &mut self,
        transaction: &[Statement],
        position: u64,
    ) -> Result<Prediction, Refusal> {
        let (prediction, overlay) = self.execute(transaction)?;
        for name in overlay.dropped {
            let Some(table) = self.tables.remove(&name) else {
                unreachable!("only what is there is dropped")
            };
            self.gone.push(Gone { name, dropped_at: position, table });
        }
        self.drawn += overlay.drawn;
        for (name, shape) in overlay.created {
            let shape = shape.added_at(position);
            let (rows, hidden_next) = (BTreeMap::new(), 0);
            self.tables.insert(name, Table { shape, created_at: position, rows, hidden_next });
        }
        for (name, shape) in overlay.altered {
            if let Some(table) = self.tables.get_mut(&name) {
                table.shape = shape.added_at(position);
            }
        }
        for (name, next) in overlay.hidden {
            if let Some(table) = self.tables.get_mut(&name) {
                table.hidden_next = next;
            }
        }
        for (name, rows) in overlay.rows {
            let Some(table) = self.tables.get_mut(&name) else {
                unreachable!("rows change only in tables that exist")
            };
            for (key, row) in rows {
                let versions = table.rows.entry(key).or_default();
                if let Some(last) = versions.last_mut()
                    && last.ended_at.is_none()
                {
                    last.ended_at = Some(position);
                }
                if let Some(row) = row {
                    versions.push(Version { begun_at: position, ended_at: None, row });
                }
            }
        }
        for (stream, records) in overlay.appended {
            let entry = self.streams.entry(stream).or_default();
            entry.extend(records.into_iter().map(|record| (position, record)));
        }
        Ok(prediction)
    }

    /// The rows of a query as of a position; sorted when the query gives no order.
    pub fn answer(&self, query: &Query, position: u64) -> Result<Vec<Vec<Datum>>, Refusal> {
        let table = self.table_at(&query.table, position);
        let selects = |row: &[Datum]| match &query.filter {
            Some(filter) => filter.selects(row),
            None => true,
        };
        let number = |position: u64| vec![Datum::Integer(position as i64)];
        match &query.select {
            // Of the log, which is there before the table: a replica may lag behind its creation.
            Select::Appends => {
                let records = self.streams.values().flatten();
                let mut seen: Vec<u64> =
                    records.map(|(at, _)| *at).filter(|at| *at <= position).collect();
                seen.sort_unstable();
                return Ok(seen.into_iter().map(number).collect());
            }
            Select::Changes => {
                let versions = table.into_iter().flat_map(|table| table.rows.values().flatten());
                let ends = versions.flat_map(|version| [Some(version.begun_at), version.ended_at]);
                let ends: BTreeSet<u64> = ends.flatten().filter(|end| *end <= position).collect();
                return Ok(ends.into_iter().map(number).collect());
            }
            Select::Count | Select::Truth(_) | Select::Columns { .. } => {}
        }
        let table = table.ok_or(Refusal::UndefinedTable)?;
        let rows = table
            .rows
            .values()
            .filter_map(|versions| at(versions, position))
            .map(|row| table.shape.whole(row, Some(position)))
            .filter(|row| selects(row));
        Ok(match &query.select {
            Select::Appends | Select::Changes => unreachable!("answered above"),
            Select::Truth(predicate) => {
                let mut truths: Vec<Vec<Datum>> =
                    rows.map(|row| vec![Datum::Boolean(predicate.selects(&row))]).collect();
                truths.sort();
                truths
            }
            Select::Count => vec![vec![Datum::Integer(rows.count() as i64)]],
            Select::Columns { columns, order, by, limit } => {
                let of = |row: &Vec<Datum>, places: &[usize]| -> Vec<Datum> {
                    places.iter().map(|place| row[*place].clone()).collect()
                };
                // The map's order is the key's.
                let mut rows: Vec<Vec<Datum>> = rows.collect();
                if order.is_some() {
                    rows.sort_by_cached_key(|row| of(row, by));
                }
                let mut rows: Vec<Vec<Datum>> = rows.iter().map(|row| of(row, columns)).collect();
                match order {
                    None => rows.sort(),
                    Some(true) => rows.reverse(),
                    Some(false) => {}
                }
                rows.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
                rows
            }
        })
    }

    fn execute(&self, transaction: &[Statement]) -> Result<(Prediction, Overlay), Refusal> {
        let mut overlay = Overlay::default();
        let mut effects = Vec::new();
        for statement in transaction {
            effects.push(match statement {
                Statement::Create(spec) => {
                    if self.find(&overlay, &spec.name).is_some() {
                        return Err(Refusal::DuplicateTable);
                    }
                    overlay.created.insert(spec.name.clone(), Shape::new(spec.clone()));
                    overlay.events += 1;
                    Effect::Schema
                }
                Statement::Drop { table } => {
                    self.drop_table(&mut overlay, table)?;
                    Effect::Schema
                }
                Statement::CreateIndex { table, index } => {
                    self.create_index(&mut overlay, table, index)?;
                    Effect::Schema
                }
                Statement::DropIndex { index } => {
                    self.drop_index(&mut overlay, index)?;
                    Effect::Schema
                }
                Statement::AddColumn { table, column } => {
                    self.add_column(&mut overlay, table, column)?;
                    Effect::Schema
                }
                Statement::Insert { table, columns, rows, bulk: _, conflict } => {
                    Effect::Rows(self.insert(&mut overlay, table, columns, rows, conflict)?)
                }
                Statement::Update { table, assignments, filter } => {
                    let shape = self.find(&overlay, table).ok_or(Refusal::UndefinedTable)?.clone();
                    let spec = &shape.spec;
                    let mut changed = 0;
                    let mut keys = Vec::new();
                    for (key, mut row) in self.current_rows(&overlay, table) {
                        if filter.as_ref().is_some_and(|filter| !filter.selects(&row)) {
                            continue;
                        }
                        let old = row.clone();
                        for assignment in assignments {
                            row[assignment.column] = match &assignment.to {
                                SetTo::Value(datum) => self.drawn(&mut overlay, datum),
                                SetTo::Plus(number) => plus(&old[assignment.column], *number),
                            };
                        }
                        check_not_null(spec, &row)?;
                        keys.push((key.clone(), row.clone()));
                        overlay.put(table, key, Some(row));
                        changed += 1;
                    }
                    // When all are changed: values may move from row to row.
                    for (key, row) in keys {
                        if self.clashes(&overlay, table, &shape, &key, &row) {
                            return Err(Refusal::DuplicateKey);
                        }
                    }
                    Effect::Rows(changed)
                }
                Statement::Delete { table, filter } => {
                    self.find(&overlay, table).ok_or(Refusal::UndefinedTable)?;
                    let mut deleted = 0;
                    for (key, row) in self.current_rows(&overlay, table) {
                        if filter.as_ref().is_none_or(|filter| filter.selects(&row)) {
                            overlay.put(table, key, None);
                            deleted += 1;
                        }
                    }
                    Effect::Rows(deleted)
                }
                Statement::Append { stream, expected, records } => {
                    let mut version = self.stream_version(stream);
                    version += overlay.appended.get(stream).map_or(0, |list| list.len() as u64);
                    let accepted = match expected {
                        Expected::Any => true,
                        Expected::None => version == 0,
                        Expected::Exists => version > 0,
                        Expected::Exact(exact) => version == *exact,
                    };
                    if !accepted {
                        return Err(Refusal::WrongVersion { actual: version });
                    }
                    overlay.events += records.len() as u64;
                    let list = overlay.appended.entry(stream.clone()).or_default();
                    list.extend(records.iter().cloned());
                    Effect::Appended(version + records.len() as u64)
                }
            });
        }
        Ok((Prediction { effects, events: overlay.events }, overlay))
    }

    fn insert(
        &self,
        overlay: &mut Overlay,
        name: &str,
        columns: &[usize],
        rows: &[Vec<Datum>],
        conflict: &Conflict,
    ) -> Result<u64, Refusal> {
        let shape = self.find(overlay, name).ok_or(Refusal::UndefinedTable)?.clone();
        let stored = self.stored(overlay, name);
        let spec = &shape.spec;
        let mut touched = BTreeSet::new();
        let mut changed = 0;
        for given in rows {
            let mut row: Vec<Datum> = spec
                .columns
                .iter()
                .map(|column| column.default.clone().unwrap_or(Datum::Null))
                .collect();
            for (place, datum) in columns.iter().zip(given) {
                row[*place] = self.drawn(overlay, datum);
            }
            check_not_null(spec, &row)?;
            let key = if spec.key.is_empty() {
                let next = overlay
                    .hidden
                    .entry(name.to_owned())
                    .or_insert_with(|| stored.map_or(0, |table| table.hidden_next));
                *next += 1;
                vec![Datum::Integer(*next)]
            } else {
                spec.key.iter().map(|place| row[*place].clone()).collect()
            };
            if let Some(mut old) = self.current_row(overlay, name, &key) {
                match conflict {
                    Conflict::Fail => return Err(Refusal::DuplicateKey),
                    Conflict::Nothing => continue,
                    Conflict::Update(_) if touched.contains(&key) => {
                        return Err(Refusal::RowTwice);
                    }
                    Conflict::Update(places) => {
                        for place in places {
                            old[*place] = match spec.columns[*place].chance() {
                                Some(chance) => self.drawn(overlay, &chance),
                                None => row[*place].clone(),
                            };
                        }
                        row = old;
                    }
                }
                check_not_null(spec, &row)?;
            }
            if self.clashes(overlay, name, &shape, &key, &row) {
                match conflict {
                    Conflict::Nothing => continue,
                    Conflict::Fail | Conflict::Update(_) => return Err(Refusal::DuplicateKey),
                }
            }
            touched.insert(key.clone());
            overlay.put(name, key, Some(row));
            changed += 1;
        }
        Ok(changed)
    }

    /// What chance gives is another value each time.
    fn drawn(&self, overlay: &mut Overlay, datum: &Datum) -> Datum {
        let Datum::Chance { uuid, .. } = datum else { return datum.clone() };
        overlay.drawn += 1;
        Datum::Chance { uuid: *uuid, number: self.drawn + overlay.drawn }
    }

    fn find<'a>(&'a self, overlay: &'a Overlay, name: &str) -> Option<&'a Shape> {
        let known = || self.stored(overlay, name).map(|table| &table.shape);
        overlay.created.get(name).or_else(|| overlay.altered.get(name)).or_else(known)
    }

    fn current_row(&self, overlay: &Overlay, table: &str, key: &RowKey) -> Option<Vec<Datum>> {
        let shape = self.find(overlay, table)?;
        if let Some(row) = overlay.rows.get(table).and_then(|rows| rows.get(key)) {
            return row.as_ref().map(|row| shape.whole(row, None));
        }
        current(self.stored(overlay, table)?.rows.get(key)?).map(|row| shape.whole(row, None))
    }

    fn current_rows(&self, overlay: &Overlay, table: &str) -> Vec<(RowKey, Vec<Datum>)> {
        let mut keys = BTreeSet::new();
        if let Some(table) = self.stored(overlay, table) {
            keys.extend(table.rows.keys().cloned());
        }
        if let Some(rows) = overlay.rows.get(table) {
            keys.extend(rows.keys().cloned());
        }
        let row = |key: RowKey| self.current_row(overlay, table, &key).map(|row| (key, row));
        keys.into_iter().filter_map(row).collect()
    }
}

impl Overlay {
    fn put(&mut self, table: &str, key: RowKey, row: Option<Vec<Datum>>) {
        self.events += 1;
        self.rows.entry(table.to_owned()).or_default().insert(key, row);
    }
}

fn current(versions: &[Version]) -> Option<&Vec<Datum>> {
    versions.last().filter(|version| version.ended_at.is_none()).map(|version| &version.row)
}

fn at(versions: &[Version], position: u64) -> Option<&Vec<Datum>> {
    let covers = |version: &&Version| {
        version.begun_at <= position && version.ended_at.is_none_or(|ended| ended > position)
    };
    versions.iter().find(covers).map(|version| &version.row)
}

fn plus(datum: &Datum, number: i64) -> Datum {
    match datum {
        Datum::Integer(value) => Datum::Integer(value + number),
        other => other.clone(),
    }
}

fn check_not_null(spec: &TableSpec, row: &[Datum]) -> Result<(), Refusal> {
    for (place, column) in spec.columns.iter().enumerate() {
        let required = !column.nullable || spec.key.contains(&place);
        if required && row[place].is_null() {
            return Err(Refusal::NotNull);
        }
    }
    Ok(())
}
