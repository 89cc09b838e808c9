//! INSERT, UPDATE, DELETE.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use sqlparser::ast;

use crate::ids::ColumnId;
use crate::query::bind::{
    Scope, Source, fold, not_supported, position_of, simple_name, undefined_column, with_place,
};
use crate::query::bind_index::unique_index_over;
use crate::query::bind_select::{bind_table, find_source, must_be_condition};
use crate::query::bind_table::as_table;
use crate::query::bind_types::infer;
use crate::query::coerce::assign;
use crate::query::command::{Assignment, ConflictTarget, Delete, OnConflict, Update};
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::Expr;
use crate::query::schema::{Catalog, Column, TableSchema};
use crate::query::value::Value;

/// One cell of a bound INSERT.
#[derive(Clone, Debug, PartialEq)]
pub enum CellPlan {
    /// Already of the column's type.
    Value(Value),
    Parameter(u16),
    Expr(Expr),
    Default,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BoundInsert {
    pub schema: Arc<TableSchema>,
    pub columns: Vec<ColumnId>,
    pub rows: Vec<Vec<CellPlan>>,
    pub on_conflict: OnConflict,
}

// INSERT -----------------------------------------------------------------------------------------

pub fn bind_insert(
    catalog: &Catalog,
    sql: &str,
    insert: &ast::Insert,
) -> Result<(BoundInsert, u16), SqlError> {
    let (name, alias) = refuse_insert_clauses(sql, insert)?;
    let place = position_of(sql, name);
    let schema = as_table(find_source(catalog, sql, name)?, place)?;
    let columns = insert_columns(sql, &schema, &insert.columns)?;
    let source = Source::Table(schema.clone());
    let mut parameters = 0;
    let rows = match &insert.source {
        None => Vec::from([Vec::new()]),
        Some(query) => {
            let values = insert_values(sql, query)?;
            let mut rows = Vec::with_capacity(values.rows.len());
            for row in &values.rows {
                rows.push(bind_row(sql, &schema, &columns, &row.content, &mut parameters)?);
            }
            rows
        }
    };
    // Without VALUES every column takes its default.
    let columns = if insert.source.is_none() { Vec::new() } else { columns };
    let on_conflict = match &insert.on {
        None => OnConflict::Fail,
        Some(ast::OnInsert::OnConflict(on_conflict)) => {
            bind_on_conflict(sql, &schema, &source, alias, on_conflict, &mut parameters)?
        }
        Some(_) => {
            return Err(not_supported(
                "ON DUPLICATE KEY is",
                "write ON CONFLICT (key) DO UPDATE SET …",
            ));
        }
    };
    Ok((BoundInsert { schema, columns, rows, on_conflict }, parameters))
}

fn returning_refused(sql: &str, items: Option<&[ast::SelectItem]>) -> SqlError {
    let place = items.and_then(|items| items.first()).and_then(|item| position_of(sql, item));
    let error = not_supported("RETURNING is", "the reply names the position: SELECT by key");
    with_place(error, place)
}

fn refuse_insert_clauses<'i>(
    sql: &str,
    insert: &'i ast::Insert,
) -> Result<(&'i ast::ObjectName, Option<String>), SqlError> {
    let ast::Insert {
        insert_token: _,
        optimizer_hints,
        or,
        ignore,
        into: _,
        table,
        table_alias,
        columns: _,
        overwrite,
        source: _,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword,
        on: _,
        returning,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        ..
    } = insert;
    if or.is_some() || *ignore || *replace_into {
        return Err(not_supported(
            "INSERT OR … is",
            "write INSERT … ON CONFLICT DO NOTHING, or DO UPDATE SET …",
        ));
    }
    if returning.is_some() || output.is_some() {
        return Err(returning_refused(sql, returning.as_deref()));
    }
    let others = !optimizer_hints.is_empty()
        || *overwrite
        || !assignments.is_empty()
        || partitioned.is_some()
        || !after_columns.is_empty()
        || *has_table_keyword
        || priority.is_some()
        || insert_alias.is_some()
        || settings.is_some()
        || format_clause.is_some()
        || multi_table_insert_type.is_some();
    let ast::TableObject::TableName(name) = table else {
        return Err(not_supported("this form of INSERT is", "write INSERT INTO t (…) VALUES (…)"));
    };
    if others {
        return Err(not_supported("this form of INSERT is", "write INSERT INTO t (…) VALUES (…)"));
    }
    let alias = table_alias.as_ref().map(|alias| fold(&alias.alias)).transpose()?;
    Ok((name, alias))
}

/// Those named, or all in order.
fn insert_columns(
    sql: &str,
    schema: &TableSchema,
    names: &[ast::ObjectName],
) -> Result<Vec<ColumnId>, SqlError> {
    if names.is_empty() {
        return Ok(schema.columns.iter().map(|column| column.id).collect());
    }
    let mut columns: Vec<ColumnId> = Vec::with_capacity(names.len());
    for name in names {
        let id = target_column(sql, schema, name)?;
        if columns.contains(&id) {
            return Err(with_place(
                SqlError::new(SqlState::DuplicateColumn, "a column is named twice"),
                position_of(sql, name),
            ));
        }
        columns.push(id);
    }
    Ok(columns)
}

fn target_column(
    sql: &str,
    schema: &TableSchema,
    name: &ast::ObjectName,
) -> Result<ColumnId, SqlError> {
    let folded = simple_name(sql, name)?;
    match schema.column_named(&folded) {
        Some(column) => Ok(column.id),
        None => {
            let names = schema.columns.iter().map(|column| column.name.as_str());
            let error = undefined_column(&folded, &schema.name, names);
            Err(with_place(error, position_of(sql, name)))
        }
    }
}

fn insert_values<'q>(sql: &str, query: &'q ast::Query) -> Result<&'q ast::Values, SqlError> {
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty();
    match query.body.as_ref() {
        ast::SetExpr::Values(values) if plain && !values.explicit_row => Ok(values),
        _ => Err(with_place(
            not_supported("INSERT … SELECT is", "read the rows first, then INSERT … VALUES"),
            position_of(sql, query),
        )),
    }
}

fn bind_row(
    sql: &str,
    schema: &Arc<TableSchema>,
    columns: &[ColumnId],
    cells: &[ast::Expr],
    parameters: &mut u16,
) -> Result<Vec<CellPlan>, SqlError> {
    if cells.len() != columns.len() {
        return Err(with_place(
            SqlError::new(
                SqlState::SyntaxError,
                format!("{} columns but {} values", columns.len(), cells.len()),
            ),
            cells.first().and_then(|cell| position_of(sql, cell)),
        ));
    }
    let mut scope = Scope::new(sql, &Source::One, Err("VALUES"));
    let mut plans = Vec::with_capacity(cells.len());
    for (cell, id) in cells.iter().zip(columns) {
        if is_default(cell) {
            plans.push(CellPlan::Default);
            continue;
        }
        let column = schema.column(*id);
        plans.push(match scope.bind(cell)? {
            Expr::Literal(value) => CellPlan::Value(
                cell_value(value, column)
                    .map_err(|error| with_place(error, position_of(sql, cell)))?,
            ),
            Expr::Parameter(index) => CellPlan::Parameter(index),
            other => CellPlan::Expr(other),
        });
    }
    *parameters = (*parameters).max(scope.parameters);
    Ok(plans)
}

/// What a column says of a value: its type, its bounds, NOT NULL.
pub fn cell_value(value: Value, column: &Column) -> Result<Value, SqlError> {
    if value.is_null() {
        return if column.nullable { Ok(value) } else { Err(not_null(column)) };
    }
    assign(value, column.column_type).map_err(|error| of_column(error, column))
}

#[must_use]
pub fn not_null(column: &Column) -> SqlError {
    SqlError::new(SqlState::NotNullViolation, format!("column \"{}\" cannot be NULL", column.name))
}

#[must_use]
pub fn of_column(mut error: SqlError, column: &Column) -> SqlError {
    error.message = format!("column \"{}\": {}", column.name, error.message);
    error
}

fn is_default(cell: &ast::Expr) -> bool {
    matches!(cell, ast::Expr::Identifier(ident)
        if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

fn bind_on_conflict(
    sql: &str,
    schema: &Arc<TableSchema>,
    source: &Source,
    alias: Option<String>,
    on_conflict: &ast::OnConflict,
    parameters: &mut u16,
) -> Result<OnConflict, SqlError> {
    let target = match &on_conflict.conflict_target {
        None => ConflictTarget::Any,
        Some(ast::ConflictTarget::Columns(idents)) => {
            let mut ids = Vec::with_capacity(idents.len());
            for ident in idents {
                let name = fold(ident)?;
                let names = schema.columns.iter().map(|column| column.name.as_str());
                let column = schema.column_named(&name).ok_or_else(|| {
                    with_place(
                        undefined_column(&name, &schema.name, names),
                        crate::query::parse::offset(sql, ident.span.start),
                    )
                })?;
                ids.push(column.id);
            }
            let mut key = schema.primary_key.clone();
            key.sort_unstable();
            ids.sort_unstable();
            match unique_index_over(schema, &ids) {
                _ if ids == key => ConflictTarget::PrimaryKey,
                Some(entries) => ConflictTarget::Index(entries),
                None => {
                    let place = idents
                        .first()
                        .and_then(|ident| crate::query::parse::offset(sql, ident.span.start));
                    return Err(with_place(
                        SqlError::new(
                            SqlState::InvalidColumnReference,
                            "ON CONFLICT must name the columns of the primary key or of a unique \
                             index",
                        ),
                        place,
                    ));
                }
            }
        }
        Some(ast::ConflictTarget::OnConstraint(_)) => {
            return Err(not_supported("ON CONFLICT ON CONSTRAINT is", "name the key's columns"));
        }
    };
    match &on_conflict.action {
        ast::OnConflictAction::DoNothing => Ok(OnConflict::DoNothing(target)),
        ast::OnConflictAction::DoUpdate(update) => {
            // Without a target it is the primary key's conflict, or the only other one's.
            let target = match target {
                ConflictTarget::Any if !schema.hidden_key() => ConflictTarget::PrimaryKey,
                ConflictTarget::Any => {
                    let mut unique = schema.indexes.iter().filter(|index| index.unique);
                    match (unique.next(), unique.next()) {
                        (Some(index), None) => ConflictTarget::Index(index.entries),
                        (Some(_), Some(_)) | (None, _) => {
                            return Err(SqlError::new(
                                SqlState::InvalidColumnReference,
                                format!("\"{}\" has no one key that could conflict", schema.name),
                            )
                            .hint("name the columns: ON CONFLICT (column) DO UPDATE SET …"));
                        }
                    }
                }
                ConflictTarget::PrimaryKey | ConflictTarget::Index(_) => target,
            };
            let mut scope = Scope::new(sql, source, Err("ON CONFLICT"));
            scope.alias = alias;
            scope.excluded = true;
            let assignments = bind_assignments(&mut scope, schema, &update.assignments)?;
            let predicate =
                update.selection.as_ref().map(|filter| scope.bind(filter)).transpose()?;
            *parameters = (*parameters).max(scope.parameters);
            Ok(OnConflict::DoUpdate { target, assignments, predicate })
        }
    }
}

// UPDATE and DELETE ------------------------------------------------------------------------------

fn bind_assignments(
    scope: &mut Scope<'_>,
    schema: &TableSchema,
    syntaxes: &[ast::Assignment],
) -> Result<Vec<Assignment>, SqlError> {
    let sql = scope.sql;
    let mut assignments: Vec<Assignment> = Vec::with_capacity(syntaxes.len());
    for syntax in syntaxes {
        let ast::AssignmentTarget::ColumnName(name) = &syntax.target else {
            return Err(not_supported("SET (a, b) = … is", "write SET a = …, b = …"));
        };
        let id = target_column(sql, schema, name)?;
        if assignments.iter().any(|assignment| assignment.column == id) {
            return Err(with_place(
                SqlError::new(SqlState::DuplicateColumn, "a column is set twice"),
                position_of(sql, name),
            ));
        }
        let place = position_of(sql, &syntax.value);
        let value = if is_default(&syntax.value) {
            None
        } else {
            let column = schema.column(id);
            let bound = match scope.bind(&syntax.value)? {
                Expr::Literal(value) => Expr::Literal(
                    cell_value(value, column).map_err(|error| with_place(error, place))?,
                ),
                other => other,
            };
            assignable(&bound, scope.source, column).map_err(|error| with_place(error, place))?;
            Some(bound)
        };
        assignments.push(Assignment { column: id, value });
    }
    Ok(assignments)
}

/// Types known to never fit are refused before any row is read.
fn assignable(expr: &Expr, source: &Source, column: &Column) -> Result<(), SqlError> {
    let Some(found) = infer(expr, source) else { return Ok(()) };
    let (from, to) = (found.tag(), column.column_type.tag());
    use crate::query::value::TypeTag as T;
    let fits = from == to
        || (from.is_numeric() && to.is_numeric())
        || (from == T::Text && matches!(to, T::Date | T::Timestamp | T::Uuid | T::Json | T::Blob))
        || (from == T::Date && to == T::Timestamp);
    if fits {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::DatatypeMismatch,
        format!("column \"{}\" is {}, this is {found}", column.name, column.column_type),
    )
    .hint(format!("write CAST(… AS {}) if that is meant", column.column_type)))
}

pub fn bind_update(
    catalog: &Catalog,
    sql: &str,
    update: &ast::Update,
) -> Result<(Arc<TableSchema>, Update, u16), SqlError> {
    let ast::Update {
        update_token: _,
        optimizer_hints,
        table,
        assignments,
        from,
        selection,
        returning,
        output,
        or,
        order_by,
        limit,
    } = update;
    if let Some(
        ast::UpdateTableFromKind::BeforeSet(tables) | ast::UpdateTableFromKind::AfterSet(tables),
    ) = from
    {
        return Err(with_place(
            not_supported("UPDATE … FROM is", "update by key, one table at a time"),
            tables.first().and_then(|table| position_of(sql, &table.relation)),
        ));
    }
    if returning.is_some() || output.is_some() {
        return Err(returning_refused(sql, returning.as_deref()));
    }
    if or.is_some() || limit.is_some() || !order_by.is_empty() || !optimizer_hints.is_empty() {
        return Err(not_supported("this form of UPDATE is", "write UPDATE t SET … WHERE …"));
    }
    let place = position_of(sql, &table.relation);
    let (source, alias) = bind_table(catalog, sql, table)?;
    let schema = as_table(source, place)?;
    let source = Source::Table(schema.clone());
    let mut scope = Scope::new(sql, &source, Err("UPDATE"));
    scope.alias = alias;
    let assignments = bind_assignments(&mut scope, &schema, assignments)?;
    let predicate = bind_predicate(&mut scope, selection.as_ref())?;
    let parameters = scope.parameters;
    let (table, schema_version) = (schema.id, schema.schema_version);
    let update = Update { table, schema_version, assignments, predicate, found: None };
    Ok((schema, update, parameters))
}

pub fn bind_delete(
    catalog: &Catalog,
    sql: &str,
    delete: &ast::Delete,
) -> Result<(Arc<TableSchema>, Delete, u16), SqlError> {
    let ast::Delete {
        delete_token: _,
        optimizer_hints,
        tables,
        from,
        using,
        selection,
        returning,
        output,
        order_by,
        limit,
    } = delete;
    if returning.is_some() || output.is_some() {
        return Err(returning_refused(sql, returning.as_deref()));
    }
    let refused = !tables.is_empty()
        || using.is_some()
        || limit.is_some()
        || !order_by.is_empty()
        || !optimizer_hints.is_empty();
    let [table] = (match from {
        ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables) => {
            tables.as_slice()
        }
    }) else {
        return Err(not_supported("DELETE from several tables is", "send one DELETE a table"));
    };
    if refused {
        return Err(not_supported("this form of DELETE is", "write DELETE FROM t WHERE …"));
    }
    let place = position_of(sql, &table.relation);
    let (source, alias) = bind_table(catalog, sql, table)?;
    let schema = as_table(source, place)?;
    let source = Source::Table(schema.clone());
    let mut scope = Scope::new(sql, &source, Err("DELETE"));
    scope.alias = alias;
    let predicate = bind_predicate(&mut scope, selection.as_ref())?;
    let parameters = scope.parameters;
    let (table, schema_version) = (schema.id, schema.schema_version);
    let delete = Delete { table, schema_version, predicate, found: None };
    Ok((schema, delete, parameters))
}

fn bind_predicate(
    scope: &mut Scope<'_>,
    selection: Option<&ast::Expr>,
) -> Result<Option<Expr>, SqlError> {
    let Some(selection) = selection else { return Ok(None) };
    scope.aggregates = Err("WHERE");
    let bound = scope.bind(selection)?;
    must_be_condition(&bound, scope.source, "WHERE")
        .map_err(|error| with_place(error, position_of(scope.sql, selection)))?;
    Ok(Some(bound))
}
