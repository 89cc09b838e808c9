//! CREATE [UNIQUE] INDEX, DROP INDEX, ALTER TABLE ADD COLUMN.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use sqlparser::ast;

use crate::ids::{ColumnId, Position, TreeId};
use crate::limits::{COLUMNS_MAX, INDEX_COLUMNS_MAX, INDEXES_MAX, MADE_UP_NAME_BYTES};
use crate::query::bind::{fold, not_supported, position_of, simple_name, with_place};
use crate::query::bind_select::find_source;
use crate::query::bind_table::{as_table, bind_column, key_columns};
use crate::query::command::CreateIndex;
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::Expr;
use crate::query::index::Index;
use crate::query::schema::{Catalog, Column, TableSchema};
use crate::query::value::ColumnType;

/// None: it exists, and that is fine.
pub fn bind_create_index(
    catalog: &Catalog,
    sql: &str,
    create: &ast::CreateIndex,
) -> Result<Option<(Arc<TableSchema>, CreateIndex)>, SqlError> {
    let ast::CreateIndex {
        name,
        table_name,
        using,
        columns,
        unique,
        concurrently,
        r#async,
        if_not_exists,
        include,
        nulls_distinct,
        with,
        predicate,
        index_options,
        alter_options,
    } = create;
    let place = position_of(sql, table_name);
    if let Some(predicate) = predicate {
        return Err(with_place(
            not_supported("a partial index is", "index all rows; NULLs cost little"),
            position_of(sql, predicate),
        ));
    }
    let others = using.is_some()
        || *concurrently
        || *r#async
        || !include.is_empty()
        || *nulls_distinct == Some(false)
        || !with.is_empty()
        || !index_options.is_empty()
        || !alter_options.is_empty();
    if others {
        return Err(with_place(
            not_supported(
                "an option of this CREATE INDEX is",
                "write CREATE [UNIQUE] INDEX name ON table (columns); large tables are indexed in \
                 the background anyhow",
            ),
            place,
        ));
    }
    let schema = as_table(find_source(catalog, sql, table_name)?, place)?;
    let columns = key_columns(sql, &schema, columns, true)?;
    check_columns(&schema, &columns).map_err(|error| with_place(error, place))?;
    let name = match name {
        Some(name) => {
            let folded = simple_name(sql, name)?;
            if folded.starts_with("__") {
                return Err(with_place(
                    SqlError::new(
                        SqlState::ReservedName,
                        "names that begin with __ are the system's",
                    ),
                    position_of(sql, name),
                ));
            }
            folded
        }
        None => free_name(catalog, &schema, &columns, "index"),
    };
    if catalog.index_named(&name).is_some() {
        if *if_not_exists {
            return Ok(None);
        }
        return Err(with_place(duplicate_index(&name), place));
    }
    check_count(&schema).map_err(|error| with_place(error, place))?;
    let create = CreateIndex {
        table: schema.id,
        schema_version: schema.schema_version,
        name,
        columns,
        unique: *unique,
        if_not_exists: *if_not_exists,
    };
    Ok(Some((schema, create)))
}

#[must_use]
pub fn duplicate_index(name: &str) -> SqlError {
    SqlError::new(SqlState::DuplicateTable, format!("index \"{name}\" exists already"))
        .hint("write CREATE INDEX IF NOT EXISTS if that is fine")
}

pub fn check_count(schema: &TableSchema) -> Result<(), SqlError> {
    if schema.indexes.len() < INDEXES_MAX {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::LimitExceeded,
        format!("\"{}\" has {INDEXES_MAX} indexes, the most there can be", schema.name),
    )
    .hint("drop one that is not used"))
}

fn check_columns(schema: &TableSchema, columns: &[ColumnId]) -> Result<(), SqlError> {
    if columns.is_empty() || columns.len() > INDEX_COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState::InvalidDefinition,
            format!("an index has 1 to {INDEX_COLUMNS_MAX} columns"),
        ));
    }
    for id in columns {
        let column = schema.column(*id);
        if column.column_type == ColumnType::Json {
            return Err(SqlError::new(
                SqlState::InvalidDefinition,
                format!("column \"{}\": JSON has no order, so no index", column.name),
            )
            .hint("store the member that is looked for in a column of its own"));
        }
    }
    Ok(())
}

/// `table_a_b_index`, with a number if that is taken.
fn free_name(catalog: &Catalog, schema: &TableSchema, columns: &[ColumnId], end: &str) -> String {
    let names: Vec<&str> = columns.iter().map(|id| schema.column(*id).name.as_str()).collect();
    let mut base: String =
        format!("{}_{}", schema.name, names.join("_")).chars().take(48).collect();
    base.truncate(base.floor_char_boundary(MADE_UP_NAME_BYTES));
    let mut name = format!("{base}_{end}");
    let mut number = 1;
    let taken = |name: &str| {
        catalog.index_named(name).is_some() || schema.indexes.iter().any(|i| i.name == name)
    };
    while taken(&name) {
        number += 1;
        name = format!("{base}_{end}{number}");
    }
    name
}

/// The index that a UNIQUE constraint of CREATE TABLE stands for. Its trees follow those that the
/// table has already.
pub fn unique_constraint(
    catalog: &Catalog,
    schema: &mut TableSchema,
    columns: Vec<ColumnId>,
    name: Option<String>,
) -> Result<(), SqlError> {
    check_columns(schema, &columns)?;
    check_count(schema)?;
    let name = match name {
        Some(name) if catalog.index_named(&name).is_some() => return Err(duplicate_index(&name)),
        Some(name) => name,
        None => free_name(catalog, schema, &columns, "key"),
    };
    let entries = next_tree(schema);
    schema.indexes.push(Index {
        name,
        columns,
        unique: true,
        entries,
        ended: entries.next(),
        // When the table's creation has its position.
        ready_at: Some(Position::ZERO),
    });
    Ok(())
}

/// The tree id after those of the table.
#[must_use]
pub fn next_tree(schema: &TableSchema) -> TreeId {
    let Some(last) = schema.trees().into_iter().max() else { unreachable!("it has two") };
    last.next()
}

/// None: it does not exist, and that is fine.
pub fn bind_drop_index(
    catalog: &Catalog,
    sql: &str,
    names: &[ast::ObjectName],
    table: Option<&ast::ObjectName>,
    if_exists: bool,
) -> Result<Option<(Arc<TableSchema>, TreeId)>, SqlError> {
    let [name] = names else {
        return Err(not_supported("DROP of several indexes at once is", "send one DROP an index"));
    };
    let place = position_of(sql, name);
    let folded = simple_name(sql, name)?;
    let of_table = match table {
        None => None,
        Some(table) => {
            let place = position_of(sql, table);
            Some(as_table(find_source(catalog, sql, table)?, place)?.id)
        }
    };
    match catalog.index_named(&folded) {
        Some((schema, index)) if of_table.is_none_or(|table| table == schema.id) => {
            Ok(Some((schema.clone(), index.entries)))
        }
        Some(_) | None if if_exists => Ok(None),
        Some(_) | None => Err(with_place(
            SqlError::new(SqlState::UndefinedTable, format!("there is no index \"{folded}\""))
                .hint("SELECT name FROM __indexes lists them"),
            place,
        )),
    }
}

/// None: it is there, and that is fine.
pub fn bind_alter_table(
    catalog: &Catalog,
    sql: &str,
    alter: &ast::AlterTable,
) -> Result<Option<(Arc<TableSchema>, Column)>, SqlError> {
    const HINT: &str = "ALTER TABLE t ADD COLUMN c type [NOT NULL] [DEFAULT value]";
    let place = position_of(sql, &alter.name);
    let plain = !alter.only && alter.location.is_none() && alter.on_cluster.is_none();
    let [
        ast::AlterTableOperation::AddColumn {
            column_keyword: _,
            if_not_exists,
            column_def,
            column_position: None,
        },
    ] = alter.operations.as_slice()
    else {
        return Err(with_place(not_supported("this ALTER TABLE is", HINT), place));
    };
    if !plain || alter.table_type.is_some() {
        return Err(with_place(not_supported("this ALTER TABLE is", HINT), place));
    }
    let schema = match find_source(catalog, sql, &alter.name) {
        Err(error) if error.code == SqlState::UndefinedTable && alter.if_exists => return Ok(None),
        found => as_table(found?, place)?,
    };
    let at = crate::query::parse::offset(sql, column_def.name.span.start);
    let name = fold(&column_def.name).map_err(|error| with_place(error, at))?;
    if schema.column_named(&name).is_some() {
        if *if_not_exists {
            return Ok(None);
        }
        return Err(with_place(
            SqlError::new(
                SqlState::DuplicateColumn,
                format!("table \"{}\" has a column \"{name}\" already", schema.name),
            ),
            at,
        ));
    }
    if schema.columns.len() >= COLUMNS_MAX {
        return Err(with_place(
            SqlError::new(
                SqlState::TooManyColumns,
                format!("a table has at most {COLUMNS_MAX} columns"),
            ),
            at,
        ));
    }
    for option in &column_def.options {
        let constraint = match &option.option {
            ast::ColumnOption::PrimaryKey(_) => "PRIMARY KEY",
            ast::ColumnOption::Unique(_) => "UNIQUE",
            ast::ColumnOption::Check(_) => "CHECK",
            _ => continue,
        };
        return Err(with_place(
            not_supported(
                format!("{constraint} on a column that is added is"),
                "add the column, fill it, then CREATE UNIQUE INDEX; CHECK belongs to CREATE TABLE",
            ),
            at,
        ));
    }
    let id = ColumnId::new(schema.columns.len() as u32 + 1);
    let column = bind_column(sql, column_def, id)?;
    if !column.nullable && column.default.is_none() {
        return Err(with_place(
            SqlError::new(
                SqlState::NotNullViolation,
                format!("column \"{name}\" is NOT NULL: rows that exist need a DEFAULT"),
            )
            .hint("ADD COLUMN … NOT NULL DEFAULT value"),
            at,
        ));
    }
    if let Some(default) = &column.default
        && default_is_volatile(default)
    {
        return Err(with_place(
            not_supported(
                "a DEFAULT that differs from row to row, on a column that is added, is",
                "add the column without it, then UPDATE the rows",
            ),
            at,
        ));
    }
    Ok(Some((schema, column)))
}

fn default_is_volatile(default: &Expr) -> bool {
    let mut volatile = false;
    default.visit(&mut |node| {
        if let Expr::Call { function, .. } = node {
            volatile |= function.is_volatile();
        }
    });
    volatile
}

/// What a schema will be once the index is made, as far as binding needs to know.
#[must_use]
pub fn with_index(schema: &TableSchema, create: &CreateIndex, next: TreeId) -> TableSchema {
    let mut schema = schema.clone();
    schema.indexes.push(Index {
        name: create.name.clone(),
        columns: create.columns.clone(),
        unique: create.unique,
        entries: next,
        ended: next.next(),
        ready_at: None,
    });
    schema
}

#[must_use]
pub fn without_index(schema: &TableSchema, entries: TreeId) -> TableSchema {
    let mut schema = schema.clone();
    schema.indexes.retain(|index| index.entries != entries);
    schema
}

/// The table with one column more; `version` is the catalog's next.
#[must_use]
pub fn with_column(schema: &TableSchema, column: &Column, catalog: &Catalog) -> TableSchema {
    let mut schema = schema.clone();
    let mut column = column.clone();
    column.id = ColumnId::new(schema.columns.len() as u32 + 1);
    schema.columns.push(column);
    schema.schema_version = catalog.version.next();
    schema
}

/// Can these columns be the target of ON CONFLICT? Then which index it is.
#[must_use]
pub fn unique_index_over(schema: &TableSchema, sorted: &[ColumnId]) -> Option<TreeId> {
    let over = |index: &&Index| {
        let mut columns = index.columns.clone();
        columns.sort_unstable();
        index.unique && columns == sorted
    };
    // One that is whole rather than one that is being built.
    let indexes = schema.indexes.iter().filter(over);
    indexes.max_by_key(|index| index.ready_at.is_some()).map(|index| index.entries)
}
