//! CREATE INDEX, DROP INDEX, ALTER TABLE ADD COLUMN.
//!
//! An index over few rows is built by the request that creates it: the rows are read once, which
//! also finds duplicates before anything is drafted for good.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::row::into_column;
use super::{Execution, ExecutionContext, Step, Stop, limit, schema_changed};
use crate::ids::{TableId, TreeId};
use crate::kernel::payload::{Payload, STREAM_SYSTEM, TableChange};
use crate::kernel::record::whole_row;
use crate::kernel::request::{Limit, ResultDetail};
use crate::limits::{INDEX_ROWS_AT_ONCE_MAX, JOBS_MAX};
use crate::query::bind_index::{
    check_count, duplicate_index, with_column, with_index, without_index,
};
use crate::query::command::CreateIndex;
use crate::query::eval::{Env, eval};
use crate::query::index::{ENTRY_SIZE, Index};
use crate::query::job::{Job, JobWork};
use crate::query::{Column, SqlError, SqlState, TableSchema, Value};
use crate::store::{Cursor, Direction, TreeRef};

/// Rows that one slice visits before limits are looked at.
const SLICE: usize = 256;

/// An index on its way: its creation is drafted, its rows are being read.
#[derive(Debug)]
pub(super) struct Building {
    schema: Arc<TableSchema>,
    entries: TreeId,
    cursor: Option<Cursor>,
    /// Values that must be unique, with the keys of their rows.
    seen: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What CREATE INDEX comes to at first.
enum Begun {
    Done,
    Building(Building),
    Job(TreeId),
}

impl Execution {
    pub(super) fn create_index(
        &mut self,
        context: &ExecutionContext<'_>,
        create: &CreateIndex,
    ) -> Result<ResultDetail, Stop> {
        let mut building = match core::mem::replace(&mut self.step, Step::Begin) {
            Step::Building(building) => building,
            Step::Begin | Step::Inserting(_) | Step::Changing(_) | Step::Slice(_) => {
                match self.begin_index(context, create)? {
                    Begun::Building(building) => building,
                    Begun::Done => return Ok(ResultDetail::Schema),
                    Begun::Job(job) => return Ok(ResultDetail::Job(job)),
                }
            }
        };
        let result = self.run_building(context, &mut building);
        self.step = Step::Building(building);
        result.map(|()| ResultDetail::Schema)
    }

    fn begin_index(
        &mut self,
        context: &ExecutionContext<'_>,
        create: &CreateIndex,
    ) -> Result<Begun, Stop> {
        let schema = self.table(context, create.table, create.schema_version)?;
        let catalog = self.catalog_now(context);
        if catalog.index_named(&create.name).is_some() {
            if create.if_not_exists {
                return Ok(Begun::Done);
            }
            return Err(duplicate_index(&create.name).into());
        }
        check_count(&schema)?;
        limit(Limit::Jobs, self.catalog_now(context).jobs().count() as u64, JOBS_MAX as u32)?;
        let stored = if self.in_trees(context, &schema) {
            let rows = TreeRef::new(context.drafts.tenant, schema.rows);
            context.store.count(rows)?
        } else {
            0
        };
        let changed = self.scratch.rows.count(schema.id) as u64;
        let at_once = u64::from(context.constants.transaction_events_max / 4);
        let by_job = stored + changed > at_once.min(INDEX_ROWS_AT_ONCE_MAX);
        let entries = catalog.next_tree;
        let mut altered = with_index(&schema, create, entries);
        let empty = stored + changed == 0;
        if empty {
            let Some(index) = altered.indexes.last_mut() else { unreachable!("just added") };
            index.ready_at = Some(context.drafts.next_position(&self.drafts));
        }
        let schema = self.alter(context, TableChange::IndexCreated, altered)?;
        if empty {
            return Ok(Begun::Done);
        }
        if by_job {
            let job = Job {
                id: entries,
                table: schema.id,
                table_name: schema.name.clone(),
                index_name: create.name.clone(),
                begun_at: context.drafts.next_position(&self.drafts),
                work: JobWork::Build { after: None, rows_done: 0, rows_total: stored + changed },
            };
            self.change_job(context, entries, Some(job))?;
            return Ok(Begun::Job(entries));
        }
        Ok(Begun::Building(Building { schema, entries, cursor: None, seen: BTreeMap::new() }))
    }

    fn run_building(
        &mut self,
        context: &ExecutionContext<'_>,
        building: &mut Building,
    ) -> Result<(), Stop> {
        let schema = building.schema.clone();
        self.built.insert(building.entries);
        let Some(index) = schema.index(building.entries) else { unreachable!("just added") };
        if self.in_trees(context, &schema) {
            self.read_stored(context, &schema, index, building)?;
        }
        let seen = core::mem::take(&mut building.seen);
        self.read_changed(&schema, index, &seen)?;
        if index.unique {
            self.note_built(&schema, index, seen);
        }
        let payload =
            Payload::IndexBuilt { table: schema.id, entries: index.entries, after: None, to: None };
        let version = self.catalog_now(context).version;
        self.drafts.push(&payload, STREAM_SYSTEM, version);
        let mut altered = (*schema).clone();
        let position = context.drafts.next_position(&self.drafts);
        for index in altered.indexes.iter_mut().filter(|index| index.entries == building.entries) {
            index.ready_at = Some(position);
        }
        self.alter(context, TableChange::IndexReady, altered)?;
        Ok(())
    }

    /// The rows that were there before this request, and that it has not changed.
    fn read_stored(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        index: &Index,
        building: &mut Building,
    ) -> Result<(), Stop> {
        let tree = TreeRef::new(context.drafts.tenant, schema.rows);
        let cursor = building.cursor.get_or_insert_with(|| Cursor::all(Direction::Forward));
        loop {
            let changed = &self.scratch.rows;
            let mut failed: Option<SqlError> = None;
            let (mut visited, mut scanned) = (0, 0);
            let mut entered: Vec<usize> = Vec::new();
            let left = self.scan_left(context);
            let seen = &mut building.seen;
            let flow = context.store.scan(tree, cursor, |key, value| {
                scanned += (key.len() + value.len()) as u64;
                visited += 1;
                if !changed.contains(schema.id, key) {
                    let row = whole_row(schema, value);
                    entered.push(index.entry(schema, &row, key).key.len() + ENTRY_SIZE);
                    if let Err(error) = note_row(schema, index, &row, key, seen) {
                        failed = Some(error);
                    }
                }
                // At the very row: else a fault behind it would decide which of these it is.
                if failed.is_some() || scanned > left || visited == SLICE {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            self.bytes_scanned += scanned;
            entered.iter().for_each(|size| self.charge_built(index.entries, *size));
            self.steps += visited as u64;
            if let Some(error) = failed {
                return Err(error.into());
            }
            self.check_scan(context)?;
            if flow?.is_continue() {
                return Ok(());
            }
        }
    }

    /// The rows that this request has made or changed.
    fn read_changed(
        &mut self,
        schema: &TableSchema,
        index: &Index,
        stored: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), SqlError> {
        let mut seen: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut entered: Vec<usize> = Vec::new();
        for (key, changed) in self.scratch.rows.of(schema.id) {
            let Some(row) = changed.row else { continue };
            entered.push(index.entry(schema, row, key).key.len() + ENTRY_SIZE);
            note_row(schema, index, row, key, &mut seen)?;
            if let Some(prefix) = index.unique_prefix(schema, row)
                && stored.contains_key(&prefix)
            {
                return Err(duplicates(schema, index, row));
            }
        }
        entered.iter().for_each(|size| self.charge_built(index.entries, *size));
        Ok(())
    }

    pub(super) fn drop_index(
        &mut self,
        context: &ExecutionContext<'_>,
        table: TableId,
        entries: TreeId,
    ) -> Result<(), Stop> {
        let Some(schema) = self.catalog_now(context).table(table).cloned() else {
            return Err(schema_changed("?").into());
        };
        if schema.index(entries).is_none() {
            return Err(schema_changed(&schema.name).into());
        }
        // All that may fault comes before anything is drafted.
        let mut total = 0;
        for tree in [entries, entries.next()] {
            let tree = TreeRef::new(context.drafts.tenant, tree);
            if context.store.tree_exists(tree)? {
                total += context.store.count(tree)?;
            }
        }
        self.unique.remove(&entries);
        self.gone.push(schema.clone());
        let Some(index) = schema.index(entries).cloned() else { unreachable!("just seen") };
        self.alter(context, TableChange::IndexDropped, without_index(&schema, entries))?;
        if self.catalog_now(context).job(entries).is_some() {
            self.change_job(context, entries, None)?;
        }
        // Nobody reads its trees any more, as of no position: a table is read by the indexes that
        // it has now.
        let work = JobWork::Free {
            trees: Vec::from([index.entries, index.ended]),
            entries_left: total,
            entries_total: total,
        };
        let job = Job {
            id: index.ended,
            table,
            table_name: schema.name.clone(),
            index_name: index.name,
            begun_at: context.drafts.next_position(&self.drafts),
            work,
        };
        self.change_job(context, index.ended, Some(job))
    }

    /// The table goes, and what is being built for it.
    pub(super) fn end_builds(
        &mut self,
        context: &ExecutionContext<'_>,
        table: TableId,
    ) -> Result<(), Stop> {
        let of_table =
            |job: &&Arc<Job>| job.table == table && matches!(job.work, JobWork::Build { .. });
        let jobs: Vec<TreeId> =
            self.catalog_now(context).jobs().filter(of_table).map(|job| job.id).collect();
        for job in jobs {
            self.change_job(context, job, None)?;
        }
        Ok(())
    }

    /// The DEFAULT is computed once, here: it is what rows have that are there already.
    pub(super) fn add_column(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        column: &Column,
    ) -> Result<(), Stop> {
        let mut column = column.clone();
        if let Some(default) = &column.default {
            let value = eval(default, &Env::constant(&[], &self.context))?;
            column.initial = into_column(value, &column)?;
        }
        column.added_at = context.drafts.next_position(&self.drafts);
        let altered = with_column(schema, &column, self.catalog_now(context));
        self.alter(context, TableChange::ColumnAdded, altered)?;
        let initial = column.initial;
        self.scratch.rows.widen(schema.id, &initial);
        Ok(())
    }

    /// Drafts the change, and sees it from here on.
    pub(super) fn alter(
        &mut self,
        context: &ExecutionContext<'_>,
        change: TableChange,
        schema: TableSchema,
    ) -> Result<Arc<TableSchema>, Stop> {
        let mut catalog = self.catalog_now(context).clone();
        let id = schema.id;
        let bytes = schema.encode();
        catalog.alter(schema);
        let payload = Payload::TableAltered { table: id, change, schema: &bytes };
        self.drafts.push(&payload, STREAM_SYSTEM, catalog.version);
        let Some(altered) = catalog.table(id).cloned() else { unreachable!("just put there") };
        self.catalog = Some(catalog);
        self.check_drafts(context)?;
        Ok(altered)
    }
}

/// A row that lies already enters the index.
fn note_row(
    schema: &TableSchema,
    index: &Index,
    row: &[Value],
    key: &[u8],
    seen: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), SqlError> {
    index.check_size(schema, row, key.len())?;
    if let Some(prefix) = index.unique_prefix(schema, row)
        && seen.insert(prefix, key.to_vec()).is_some()
    {
        return Err(duplicates(schema, index, row));
    }
    Ok(())
}

pub(super) fn duplicates(schema: &TableSchema, index: &Index, row: &[Value]) -> SqlError {
    let values: Vec<_> = index
        .columns
        .iter()
        .map(|id| format!("{} = {}", schema.column(*id).name, row[schema.ordinal(*id)]))
        .collect();
    SqlError::new(
        SqlState::UniqueViolation,
        format!(
            "index \"{}\" cannot be unique: several rows of \"{}\" have {}",
            index.name,
            schema.name,
            values.join(", ")
        ),
    )
}
