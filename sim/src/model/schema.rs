//! Indexes, UNIQUE and columns that come later, as they show: an index answers nothing by itself.
//!
//! Invariants: of an index the model knows only that its name is taken, and what must be unique. A
//! row is kept with the columns it was written with; what it lacks depends on the position.

use std::collections::BTreeMap;

use super::{Gone, Overlay, Refusal, RowKey, Shape, Table, TenantModel, current};
use crate::sql::{ColumnSpec, Datum, IndexSpec, Statement, TableSpec};

impl Shape {
    pub(super) fn new(spec: TableSpec) -> Shape {
        Shape { spec, indexes: Vec::new(), added: BTreeMap::new() }
    }

    /// Columns that this transaction added are there from its position on.
    pub(super) fn added_at(mut self, position: u64) -> Shape {
        for (since, _) in self.added.values_mut().filter(|(since, _)| *since == u64::MAX) {
            *since = position;
        }
        self
    }

    /// All columns of a row as of a position; `None`: now.
    pub(super) fn whole(&self, row: &[Datum], position: Option<u64>) -> Vec<Datum> {
        let lacking =
            (row.len()..self.spec.columns.len()).map(|place| match self.added.get(&place) {
                Some((since, initial)) if position.is_none_or(|position| *since <= position) => {
                    initial.clone()
                }
                Some(_) | None => Datum::Null,
            });
        row.iter().cloned().chain(lacking).collect()
    }

    /// One column of a row now.
    fn cell<'a>(&'a self, row: &'a [Datum], place: usize) -> &'a Datum {
        match (row.get(place), self.added.get(&place)) {
            (Some(datum), _) | (None, Some((_, datum))) => datum,
            (None, None) => &Datum::Null,
        }
    }

    /// Do two rows hold the same values where they must not?
    fn clash(&self, left: &[Datum], right: &[Datum]) -> bool {
        let same = |index: &IndexSpec| {
            index.columns.iter().all(|place| {
                let datum = self.cell(left, *place);
                !datum.is_null() && datum == self.cell(right, *place)
            })
        };
        self.indexes.iter().filter(|index| index.unique).any(same)
    }
}

impl TenantModel {
    /// The table of this name as a position shows it.
    pub(super) fn table_at(&self, name: &str, position: u64) -> Option<&Table> {
        let gone = self.gone.iter().filter(|gone| gone.name == name && position < gone.dropped_at);
        let mut ever = gone.map(|gone| &gone.table).chain(self.tables.get(name));
        ever.find(|table| table.created_at <= position)
    }

    pub(super) fn last_gone(&self, name: &str) -> Option<&Table> {
        self.gone.iter().rfind(|gone| gone.name == name).map(|gone| &gone.table)
    }

    /// The table as it was before this transaction, if that is the one which is meant.
    pub(super) fn stored(&self, overlay: &Overlay, name: &str) -> Option<&Table> {
        self.tables.get(name).filter(|_| !overlay.dropped.contains(name))
    }

    pub(super) fn drop_table(&self, overlay: &mut Overlay, name: &str) -> Result<(), Refusal> {
        self.find(overlay, name).ok_or(Refusal::UndefinedTable)?;
        if overlay.created.remove(name).is_none() {
            overlay.dropped.insert(name.to_owned());
        }
        overlay.altered.remove(name);
        overlay.rows.remove(name);
        overlay.hidden.remove(name);
        Ok(())
    }

    /// Columns of the table that a query names: of its position, of now, or of the last one.
    #[must_use]
    pub fn spec_at(&self, table: &str, as_of: Option<u64>) -> Option<&TableSpec> {
        let then = as_of.and_then(|position| self.table_at(table, position));
        let known = then.or_else(|| self.tables.get(table)).or_else(|| self.last_gone(table));
        known.map(|table| &table.shape.spec)
    }

    /// Tables that were dropped: name, where each began to exist, and where it no longer did.
    #[must_use]
    pub fn gone(&self) -> Vec<(String, u64, u64)> {
        let of = |gone: &Gone| (gone.name.clone(), gone.table.created_at, gone.dropped_at);
        self.gone.iter().map(of).collect()
    }

    /// Was there, behind this position, one at which no table had a name that one had before?
    #[must_use]
    pub fn was_missing(&self, name: &str, since: Option<u64>) -> bool {
        let of_name = || self.gone.iter().filter(|gone| gone.name == name);
        let made = || of_name().map(|gone| &gone.table).chain(self.tables.get(name));
        of_name().any(|gone| {
            let later = made().map(|table| table.created_at).filter(|at| *at >= gone.dropped_at);
            later.min().is_none_or(|end| end > gone.dropped_at && Some(end) > since)
        })
    }

    /// Does another row hold what this one must hold alone?
    pub(super) fn clashes(
        &self,
        overlay: &Overlay,
        table: &str,
        shape: &Shape,
        key: &RowKey,
        row: &[Datum],
    ) -> bool {
        if !shape.indexes.iter().any(|index| index.unique) {
            return false;
        }
        let changed = overlay.rows.get(table);
        let others = changed.into_iter().flatten().filter(|(other, _)| *other != key);
        if others.filter_map(|(_, other)| other.as_ref()).any(|other| shape.clash(row, other)) {
            return true;
        }
        let is_changed = |other| changed.is_some_and(|changed| changed.contains_key(other));
        let stored = self.stored(overlay, table).into_iter().flat_map(|table| &table.rows);
        stored
            .filter(|(other, _)| *other != key && !is_changed(*other))
            .filter_map(|(_, versions)| current(versions))
            .any(|other| shape.clash(row, other))
    }

    pub(super) fn create_index(
        &self,
        overlay: &mut Overlay,
        table: &str,
        index: &IndexSpec,
    ) -> Result<(), Refusal> {
        let mut shape = self.find(overlay, table).ok_or(Refusal::UndefinedTable)?.clone();
        match self.table_of_index(overlay, &index.name) {
            Some(_) if !self.doubtful.contains(&index.name) => return Err(Refusal::DuplicateTable),
            Some(_) => {
                self.drop_index(overlay, &index.name)?;
                shape.indexes.retain(|known| known.name != index.name);
            }
            None => {}
        }
        shape.indexes.push(index.clone());
        self.alter(overlay, table, shape.clone());
        if index.unique {
            for (key, row) in self.current_rows(overlay, table) {
                if self.clashes(overlay, table, &shape, &key, &row) {
                    return Err(Refusal::DuplicateKey);
                }
            }
        }
        Ok(())
    }

    pub(super) fn drop_index(&self, overlay: &mut Overlay, index: &str) -> Result<(), Refusal> {
        let table = self.table_of_index(overlay, index).ok_or(Refusal::UndefinedTable)?;
        let Some(mut shape) = self.find(overlay, &table).cloned() else {
            unreachable!("the index is on a table")
        };
        shape.indexes.retain(|known| known.name != index);
        self.alter(overlay, &table, shape);
        Ok(())
    }

    pub(super) fn add_column(
        &self,
        overlay: &mut Overlay,
        table: &str,
        column: &ColumnSpec,
    ) -> Result<(), Refusal> {
        let mut shape = self.find(overlay, table).ok_or(Refusal::UndefinedTable)?.clone();
        if shape.spec.columns.iter().any(|known| known.name == column.name) {
            return Err(Refusal::DuplicateColumn);
        }
        if !column.nullable && column.default.is_none() {
            return Err(Refusal::NotNull);
        }
        let initial = column.default.clone().unwrap_or(Datum::Null);
        shape.added.insert(shape.spec.columns.len(), (u64::MAX, initial));
        shape.spec.columns.push(column.clone());
        self.alter(overlay, table, shape);
        Ok(())
    }

    fn alter(&self, overlay: &mut Overlay, table: &str, shape: Shape) {
        let shapes = match overlay.created.contains_key(table) {
            true => &mut overlay.created,
            false => &mut overlay.altered,
        };
        shapes.insert(table.to_owned(), shape);
    }

    fn table_of_index(&self, overlay: &Overlay, index: &str) -> Option<String> {
        let has = |name: &String| {
            let shape = self.find(overlay, name);
            shape.is_some_and(|shape| shape.indexes.iter().any(|known| known.name == index))
        };
        overlay.created.keys().chain(self.tables.keys()).find(|name| has(name)).cloned()
    }

    /// A job builds that index.
    pub fn doubt_index(&mut self, name: &str) {
        self.doubtful.insert(name.to_owned());
    }

    /// May an index that one of these names be gone, or be there after all?
    #[must_use]
    pub fn doubts(&self, statements: &[Statement]) -> bool {
        statements.iter().any(|statement| match statement {
            Statement::CreateIndex { index, .. } => self.doubtful.contains(&index.name),
            Statement::DropIndex { index } => self.doubtful.contains(index),
            Statement::Create(_)
            | Statement::Drop { .. }
            | Statement::AddColumn { .. }
            | Statement::Insert { .. }
            | Statement::Update { .. }
            | Statement::Delete { .. }
            | Statement::Append { .. } => false,
        })
    }

    /// Is there a statement of a table that neither is there nor is made by these?
    #[must_use]
    pub fn lacks_table(&self, statements: &[Statement]) -> bool {
        let made = |name: &str| {
            let is = |statement: &Statement| match statement {
                Statement::Create(spec) => spec.name == name,
                _ => false,
            };
            statements.iter().any(is)
        };
        let mut tables = statements.iter().filter_map(Statement::table);
        tables.any(|name| !self.tables.contains_key(name) && !made(name))
    }

    /// Names of the indexes there are: for the workload to drop some.
    #[must_use]
    pub fn index_names(&self) -> Vec<String> {
        let indexes = self.tables.values().flat_map(|table| &table.shape.indexes);
        indexes.map(|index| index.name.clone()).collect()
    }
}
