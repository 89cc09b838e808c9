//! Rows: checking them, finding their current version, drafting their changes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Execution, ExecutionContext, Stop};
use crate::ids::Position;
use crate::kernel::payload::Payload;
use crate::kernel::record::whole_row;
use crate::kernel::request::RequestError;
use crate::limits::ROW_SIZE_MAX;
use crate::query::bind_write::cell_value;
use crate::query::codec::{encode_row, encode_row_key};
use crate::query::eval::{Context, Env, RowView, eval_truth};
use crate::query::key::{encode_key, hidden_key};
use crate::query::stored::StoredRow;
use crate::query::{Column, SqlError, SqlState, TableSchema, Value};
use crate::store::{Fault, TreeRef};

/// A version of a row that is there now.
#[derive(Clone, Debug)]
pub(super) struct CurrentRow {
    pub begun_at: Position,
    pub row: Vec<Value>,
}

/// A value on its way into a column: its declared type and NOT NULL hold.
pub(super) fn into_column(value: Value, column: &Column) -> Result<Value, SqlError> {
    cell_value(value, column)
}

/// The table's CHECKs: what is false is refused, what is unknown passes.
pub(super) fn check_row(
    schema: &TableSchema,
    row: &[Value],
    context: &Context,
) -> Result<(), SqlError> {
    for check in &schema.checks {
        let env = Env::constant(&[], context).with_row(RowView::Values(row));
        if eval_truth(&check.expr, &env)? == Some(false) {
            let message = format!(
                "row of \"{}\" violates check \"{}\": {}",
                schema.name, check.name, check.text
            );
            return Err(SqlError::new(SqlState::CheckViolation, message));
        }
    }
    Ok(())
}

pub(super) fn unique_violation(schema: &TableSchema, row: &[Value]) -> SqlError {
    let columns: Vec<String> = schema
        .primary_key
        .iter()
        .map(|id| format!("{} = {}", schema.column(*id).name, row[schema.ordinal(*id)]))
        .collect();
    let message = format!("a row of \"{}\" with {} exists", schema.name, columns.join(", "));
    SqlError::new(SqlState::UniqueViolation, message)
}

/// The key of a row, but for hidden ones.
pub(super) fn declared_key(schema: &TableSchema, row: &[Value]) -> Result<Vec<u8>, SqlError> {
    encode_key(schema, row)
}

impl Execution {
    /// Is there a row with this key? Overlay first.
    pub(super) fn exists(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: &[u8],
    ) -> Result<bool, Fault> {
        if let Some(changed) = self.scratch.rows.get(schema.id, key) {
            return Ok(changed.row.is_some());
        }
        if !self.in_trees(context, schema) {
            return Ok(false);
        }
        let found = context.store.contains(TreeRef::new(context.drafts.tenant, schema.rows), key);
        #[cfg(verity_zoo)]
        let found = if crate::zoo::is("fault_in_apply") { found.or(Ok(false)) } else { found };
        found
    }

    pub(super) fn current(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: &[u8],
    ) -> Result<Option<CurrentRow>, Fault> {
        if let Some(changed) = self.scratch.rows.get(schema.id, key) {
            let begun_at = changed.position;
            return Ok(changed.row.map(|row| CurrentRow { begun_at, row: row.to_vec() }));
        }
        if !self.in_trees(context, schema) {
            return Ok(None);
        }
        let rows = TreeRef::new(context.drafts.tenant, schema.rows);
        let Some(value) = context.store.get(rows, key)? else { return Ok(None) };
        let stored = StoredRow::new(&value);
        Ok(Some(CurrentRow { begun_at: stored.begun_at(), row: whole_row(schema, &value) }))
    }

    /// Reads on after a fault what the next rows will need, so that one fetch serves many.
    pub(super) fn prefetch<'k>(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        keys: impl Iterator<Item = &'k [u8]>,
    ) {
        if self.in_trees(context, schema) {
            let rows = TreeRef::new(context.drafts.tenant, schema.rows);
            for key in keys {
                // Only the note that the store takes of a miss matters here.
                let _ = context.store.prefetch(rows, key);
            }
        }
    }

    /// Drafts a row's after-image. `key` is None for a new row with a hidden key: it will be the
    /// position of this very draft. The columns are taken: the overlay has them then.
    pub(super) fn put_row(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: Option<&[u8]>,
        before: Option<&CurrentRow>,
        row: &mut [Value],
    ) -> Result<(), Stop> {
        let replaces = before.map(|before| before.begun_at);
        if let Some(before) = before {
            self.charge_put(schema.history, stored_size(&before.row));
        }
        let position = context.drafts.next_position(&self.drafts);
        let hidden = hidden_key(position);
        let key = key.unwrap_or(&hidden);
        for index in &schema.indexes {
            index.check_size(schema, row, key.len())?;
        }
        let old = before.map(|before| before.row.as_slice());
        self.note_unique(schema, key, old, Some(row));
        self.charge_indexes(context, schema, old, Some(row));
        let mut encoded = core::mem::take(&mut self.drafts.encoded);
        encoded.clear();
        encode_row(hidden_position(schema, key), row, &mut encoded);
        if encoded.len() > ROW_SIZE_MAX {
            let (size, max) = (encoded.len(), ROW_SIZE_MAX);
            return Err(RequestError::TooLarge { size, max }.into());
        }
        self.charge_put(schema.rows, stored_size(row));
        let payload = Payload::RowPut { table: schema.id, replaces, row: &encoded };
        self.drafts.push_row(&context.drafts, schema, &payload, key, row);
        self.drafts.encoded = encoded;
        self.scratch.rows.put(schema.id, key, position, Some(row));
        self.steps += 1;
        self.check_drafts(context)
    }

    pub(super) fn delete_row(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: &[u8],
        current: &CurrentRow,
    ) -> Result<(), Stop> {
        let position = context.drafts.next_position(&self.drafts);
        self.note_unique(schema, key, Some(&current.row), None);
        self.charge_indexes(context, schema, Some(&current.row), None);
        let mut encoded = core::mem::take(&mut self.drafts.encoded);
        encoded.clear();
        let hidden = hidden_position(schema, key);
        encode_row_key(schema, hidden, &current.row, &mut encoded);
        self.charge_put(schema.history, stored_size(&current.row));
        self.charge_removal(schema.rows);
        let payload =
            Payload::RowDelete { table: schema.id, replaces: current.begun_at, key: &encoded };
        self.drafts.push(&payload, schema.stream, schema.schema_version);
        self.drafts.encoded = encoded;
        self.scratch.rows.put(schema.id, key, position, None);
        self.steps += 1;
        self.check_drafts(context)
    }
}

/// About what the row takes in a tree, never less.
fn stored_size(row: &[Value]) -> usize {
    /// The prefix and the header of a stored row.
    const FIXED: usize = 80;
    FIXED + row.iter().map(|value| value.heap_bytes() + 22).sum::<usize>()
}

fn hidden_position(schema: &TableSchema, key: &[u8]) -> Option<Position> {
    schema.hidden_key().then(|| {
        let Ok(key) = key.try_into() else { unreachable!("a hidden key is a position") };
        Position::new(u64::from_be_bytes(key))
    })
}
