//! Tables that are views of the system: `__tables`, `__columns`, `__indexes`, `__jobs`, `__events`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Op, Position, PrincipalId, SchemaVersion, StreamId};
use crate::query::job::{Job, JobWork};
use crate::query::json::write_string;
use crate::query::schema::{Catalog, HIDDEN_KEY_COLUMN, TableSchema};
use crate::query::value::{ColumnType, Value};
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualTable {
    Tables,
    Columns,
    Indexes,
    Jobs,
    Events,
}

impl VirtualTable {
    #[must_use]
    pub fn named(name: &str) -> Option<VirtualTable> {
        use VirtualTable::{Columns, Events, Indexes, Jobs, Tables};
        [Tables, Columns, Indexes, Jobs, Events].into_iter().find(|table| table.name() == name)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            VirtualTable::Tables => "__tables",
            VirtualTable::Columns => "__columns",
            VirtualTable::Indexes => "__indexes",
            VirtualTable::Jobs => "__jobs",
            VirtualTable::Events => "__events",
        }
    }

    #[must_use]
    pub const fn columns(self) -> &'static [(&'static str, ColumnType)] {
        match self {
            VirtualTable::Tables => &[
                ("name", ColumnType::Text),
                ("id", ColumnType::BigInt),
                ("column_count", ColumnType::BigInt),
                ("primary_key", ColumnType::Text),
                ("schema_version", ColumnType::BigInt),
                ("created_at", ColumnType::BigInt),
                ("changed_at", ColumnType::BigInt),
            ],
            VirtualTable::Columns => &[
                ("table_name", ColumnType::Text),
                ("ordinal", ColumnType::BigInt),
                ("name", ColumnType::Text),
                ("type", ColumnType::Text),
                ("nullable", ColumnType::Boolean),
                ("has_default", ColumnType::Boolean),
                ("key_ordinal", ColumnType::BigInt),
            ],
            VirtualTable::Indexes => &[
                ("name", ColumnType::Text),
                ("table_name", ColumnType::Text),
                ("columns", ColumnType::Text),
                ("is_unique", ColumnType::Boolean),
                ("ready_at", ColumnType::BigInt),
            ],
            VirtualTable::Jobs => &[
                ("id", ColumnType::BigInt),
                ("kind", ColumnType::Text),
                ("table_name", ColumnType::Text),
                ("index_name", ColumnType::Text),
                ("begun_at", ColumnType::BigInt),
                ("done", ColumnType::BigInt),
                ("total", ColumnType::BigInt),
                ("error", ColumnType::Text),
            ],
            VirtualTable::Events => &[
                ("position", ColumnType::BigInt),
                ("transaction_first", ColumnType::BigInt),
                ("transaction_last", ColumnType::BigInt),
                ("kind", ColumnType::Text),
                ("table_name", ColumnType::Text),
                ("stream", ColumnType::BigInt),
                ("key", ColumnType::Json),
                ("columns", ColumnType::Json),
                ("time", ColumnType::Timestamp),
                ("op", ColumnType::BigInt),
                ("principal", ColumnType::BigInt),
                ("schema_version", ColumnType::BigInt),
            ],
        }
    }
}

/// One record of the tenant's log, as whoever reads the log hands it over.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    pub position: Position,
    pub transaction_first: Position,
    pub transaction_last: Position,
    /// `insert`, `update`, `delete`, `create table`, `append`, `checkpoint`, …
    pub kind: String,
    pub stream: StreamId,
    pub timestamp: Timestamp,
    pub op: Op,
    pub principal: PrincipalId,
    pub schema_version: SchemaVersion,
    /// Of row events: the decoded payload (`codec::decode_columns`).
    pub columns: Option<Vec<(ColumnId, Value)>>,
    /// Of other records: the payload, shown as JSON text of its hexadecimal digits.
    pub payload: Option<Vec<u8>>,
}

fn count(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

impl EventRow {
    /// Values in the order of `VirtualTable::Events`.
    #[must_use]
    pub fn to_row(&self, catalog: &Catalog) -> Vec<Value> {
        let table = catalog.tables().find(|table| table.stream == self.stream);
        let is_row = self.columns.is_some();
        let table = table.filter(|_| is_row).map(|table| &**table);
        let all: &[(ColumnId, Value)] = self.columns.as_deref().unwrap_or_default();
        let key = table.map(|table| {
            let of_key = |id: ColumnId| id == HIDDEN_KEY_COLUMN || table.is_key(id);
            to_json(all.iter().filter(|(id, _)| of_key(*id)), Some(table))
        });
        let columns = match (&self.columns, &self.payload) {
            (Some(columns), _) => Value::Json(to_json(columns.iter(), table)),
            (None, Some(payload)) => {
                let digits: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                Value::Json(format!("\"{digits}\""))
            }
            (None, None) => Value::Null,
        };
        [
            count(self.position.get()),
            count(self.transaction_first.get()),
            count(self.transaction_last.get()),
            Value::Text(self.kind.clone()),
            table.map_or(Value::Null, |table| Value::Text(table.name.clone())),
            count(u64::from(self.stream.get())),
            key.map_or(Value::Null, Value::Json),
            columns,
            Value::Timestamp(i64::try_from(self.timestamp.0).unwrap_or(i64::MAX)),
            count(self.op.get()),
            count(self.principal.get()),
            count(u64::from(self.schema_version.get())),
        ]
        .into()
    }
}

fn to_json<'v>(
    columns: impl Iterator<Item = &'v (ColumnId, Value)>,
    table: Option<&TableSchema>,
) -> String {
    let mut out = String::from("{");
    for (id, value) in columns {
        if out.len() > 1 {
            out.push(',');
        }
        let named = table.and_then(|table| table.columns.get((id.get() as usize).wrapping_sub(1)));
        match named {
            Some(column) => write_string(&column.name, &mut out),
            None if *id == HIDDEN_KEY_COLUMN => out.push_str("\"__position\""),
            None => write_string(&id.to_string(), &mut out),
        }
        out.push(':');
        write_json(value, &mut out);
    }
    out.push('}');
    out
}

/// A value as JSON: numbers where JSON's reader keeps them exact, else strings.
pub fn write_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Boolean(_) | Value::Integer(_) => out.push_str(&value.to_string()),
        Value::Double(number) if number.is_finite() => out.push_str(&value.to_string()),
        Value::Json(text) => out.push_str(text),
        Value::Double(_)
        | Value::Decimal(_)
        | Value::Text(_)
        | Value::Blob(_)
        | Value::Date(_)
        | Value::Timestamp(_)
        | Value::Uuid(_) => write_string(&value.to_string(), out),
    }
}

/// Rows of `__jobs`.
fn job_rows(catalog: &Catalog) -> Vec<Vec<Value>> {
    let row = |job: &Arc<Job>| {
        let (done, total) = match job.progress() {
            Some((done, total)) => (count(done), count(total)),
            None => (Value::Null, Value::Null),
        };
        let error = match &job.work {
            JobWork::Failed { error } => Value::Text(error.clone()),
            JobWork::Build { .. } | JobWork::Free { .. } => Value::Null,
        };
        Vec::from([
            count(u64::from(job.id.get())),
            Value::text(job.kind()),
            Value::Text(job.table_name.clone()),
            Value::Text(job.index_name.clone()),
            count(job.begun_at.get()),
            done,
            total,
            error,
        ])
    };
    catalog.jobs().map(row).collect()
}

/// Rows of the views of the catalog; those of `__events` come from the log.
#[must_use]
pub fn catalog_rows(table: VirtualTable, catalog: &Catalog) -> Vec<Vec<Value>> {
    if table == VirtualTable::Jobs {
        return job_rows(catalog);
    }
    let mut rows = Vec::new();
    for schema in catalog.tables() {
        match table {
            VirtualTable::Tables => {
                let key: Vec<&str> =
                    schema.primary_key.iter().map(|id| schema.column(*id).name.as_str()).collect();
                let key = key.join(", ");
                rows.push(
                    [
                        Value::Text(schema.name.clone()),
                        count(u64::from(schema.id.get())),
                        count(schema.columns.len() as u64),
                        if schema.hidden_key() { Value::Null } else { Value::Text(key) },
                        count(u64::from(schema.schema_version.get())),
                        count(schema.created_at.get()),
                        count(catalog.changed_at(schema.id).get()),
                    ]
                    .into(),
                );
            }
            VirtualTable::Columns => {
                for column in &schema.columns {
                    let key = schema.primary_key.iter().position(|id| *id == column.id);
                    rows.push(
                        [
                            Value::Text(schema.name.clone()),
                            count(u64::from(column.id.get())),
                            Value::Text(column.name.clone()),
                            Value::Text(column.column_type.to_string()),
                            Value::Boolean(column.nullable),
                            Value::Boolean(column.default.is_some()),
                            key.map_or(Value::Null, |at| count(at as u64 + 1)),
                        ]
                        .into(),
                    );
                }
            }
            VirtualTable::Indexes => {
                for index in &schema.indexes {
                    rows.push(
                        [
                            Value::Text(index.name.clone()),
                            Value::Text(schema.name.clone()),
                            Value::Text(index.column_names(schema).join(", ")),
                            Value::Boolean(index.unique),
                            index.ready_at.map_or(Value::Null, |at| count(at.get())),
                        ]
                        .into(),
                    );
                }
            }
            VirtualTable::Jobs => unreachable!("given above"),
            VirtualTable::Events => unreachable!("events are read from the log"),
        }
    }
    rows
}
