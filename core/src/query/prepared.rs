//! A statement that was parsed and bound once, and runs many times.
//!
//! A [`Prepared`] belongs to the catalog it was bound to: whoever applies its command compares the
//! table's schema version and answers `SchemaChanged`, which is retryable: prepare again.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use sqlparser::ast;

use crate::ids::{Position, SchemaVersion, TableId, TreeId};
use crate::limits::INSERT_BYTES_MAX;
use crate::query::bind::{Source, with_place};
use crate::query::bind_index::{
    bind_alter_table, bind_create_index, bind_drop_index, with_column, with_index, without_index,
};
use crate::query::bind_returning::{bind_returning, not_alone, take_returning};
use crate::query::bind_select::{OutputColumn, Select, bind_select};
use crate::query::bind_table::{bind_create_table, bind_drop};
use crate::query::bind_write::{
    BoundInsert, CellPlan, bind_delete, bind_insert, bind_update, cell_value, not_null,
};
use crate::query::command::{
    Assignment, Command, CreateIndex, Delete, Insert, InsertRows, OnConflict, Update,
};
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{Context, Env, eval};
use crate::query::expr::Expr;
use crate::query::parse::{AsOfSyntax, AsOfValue, Explain, Parsed, parse};
use crate::query::schema::{Catalog, Column, TableSchema};
use crate::query::value::{ColumnType, Value};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    CreateTable {
        schema: TableSchema,
        if_not_exists: bool,
    },
    /// None: the table does not exist, and that is fine.
    DropTable(Option<Arc<TableSchema>>),
    CreateIndex(CreateIndex),
    DropIndex(Arc<TableSchema>, TreeId),
    AddColumn {
        schema: Arc<TableSchema>,
        column: Column,
    },
    CancelJob(TreeId),
    /// IF [NOT] EXISTS found that there is nothing to do.
    Nothing,
    Insert(BoundInsert),
    Update(Arc<TableSchema>, Update),
    Delete(Arc<TableSchema>, Delete),
    Select(Box<Select>),
}

/// One statement, bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub statement: Statement,
    pub explain: Explain,
    /// Of the result; empty for writes.
    pub columns: Vec<OutputColumn>,
    /// Values it needs.
    pub parameters: u16,
    /// Of a write: the SELECT of its RETURNING clause, to be run when it has committed. Its last
    /// parameter is the last position of the transaction.
    pub returning: Option<Arc<Prepared>>,
}

/// What a read is as of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    Position(Position),
    Timestamp(Timestamp),
}

/// Parses and binds every statement of a text. A statement sees the tables that those before it
/// create and drop.
pub fn prepare(catalog: &Catalog, sql: &str) -> Result<Vec<Prepared>, SqlError> {
    let mut catalog = Cow::Borrowed(catalog);
    let mut prepared = Vec::new();
    let statements = parse(sql)?;
    let alone = statements.len() == 1;
    for parsed in statements {
        let start = parsed.start;
        let next = bind_statement(&catalog, sql, parsed)
            .map_err(|error| with_place(error, Some(start)))?;
        if next.returning.is_some() && !alone {
            return Err(not_alone(start));
        }
        if next.explain == Explain::No {
            preview(&mut catalog, &next.statement);
        }
        prepared.push(next);
    }
    Ok(prepared)
}

/// Parses and binds a text that must hold one statement.
pub fn prepare_one(catalog: &Catalog, sql: &str) -> Result<Prepared, SqlError> {
    let mut all = prepare(catalog, sql)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(SqlError::new(SqlState::SyntaxError, "there is no statement")),
        (Some(_), false) => {
            Err(SqlError::new(SqlState::SyntaxError, "one statement is expected here"))
        }
    }
}

/// What the statement will do to the catalog, for those bound after it.
fn preview(catalog: &mut Cow<'_, Catalog>, statement: &Statement) {
    match statement {
        Statement::CreateTable { schema, .. } if catalog.table_named(&schema.name).is_none() => {
            catalog.to_mut().create(schema.clone());
        }
        Statement::DropTable(Some(schema)) => {
            catalog.to_mut().drop_table(schema.id);
        }
        Statement::CreateIndex(create) => {
            let next = catalog.next_tree;
            if let Some(schema) = catalog.table(create.table) {
                let altered = with_index(schema, create, next);
                catalog.to_mut().alter(altered);
            }
        }
        Statement::DropIndex(schema, entries) => {
            if let Some(schema) = catalog.table(schema.id) {
                let altered = without_index(schema, *entries);
                catalog.to_mut().alter(altered);
            }
        }
        Statement::AddColumn { schema, column } => {
            if let Some(schema) = catalog.table(schema.id) {
                let altered = with_column(schema, column, catalog);
                catalog.to_mut().alter(altered);
            }
        }
        Statement::CreateTable { .. }
        | Statement::DropTable(None)
        | Statement::CancelJob(_)
        | Statement::Nothing
        | Statement::Insert(_)
        | Statement::Update(..)
        | Statement::Delete(..)
        | Statement::Select(_) => {}
    }
}

fn bind_statement(catalog: &Catalog, sql: &str, parsed: Parsed) -> Result<Prepared, SqlError> {
    let Parsed { mut statement, explain, as_of, start: _ } = parsed;
    if let (Some((_, place)), false) = (&as_of, matches!(statement, ast::Statement::Query(_))) {
        return Err(SqlError::new(
            SqlState::SyntaxError,
            "AS OF is for SELECT: the past cannot be changed",
        )
        .at(*place));
    }
    let clause = take_returning(&mut statement);
    let write = |statement, parameters| Prepared {
        statement,
        explain,
        columns: Vec::new(),
        parameters,
        returning: None,
    };
    let mut prepared = match statement {
        ast::Statement::Query(query) => {
            let bound = bind_select(catalog, sql, &query, as_of)?;
            Prepared {
                statement: Statement::Select(Box::new(bound.select)),
                explain,
                columns: bound.columns,
                parameters: bound.parameters,
                returning: None,
            }
        }
        ast::Statement::Insert(insert) => {
            let (bound, parameters) = bind_insert(catalog, sql, &insert)?;
            write(Statement::Insert(bound), parameters)
        }
        ast::Statement::Update(update) => {
            let (schema, bound, parameters) = bind_update(catalog, sql, &update)?;
            write(Statement::Update(schema, bound), parameters)
        }
        ast::Statement::Delete(delete) => {
            let (schema, bound, parameters) = bind_delete(catalog, sql, &delete)?;
            write(Statement::Delete(schema, bound), parameters)
        }
        ast::Statement::CreateTable(create) => {
            let (schema, if_not_exists) = bind_create_table(catalog, sql, create)?;
            write(Statement::CreateTable { schema, if_not_exists }, 0)
        }
        ast::Statement::Drop {
            object_type: ast::ObjectType::Table,
            if_exists,
            names,
            cascade: _,
            restrict: _,
            purge: false,
            temporary: false,
            table: None,
        } => write(Statement::DropTable(bind_drop(catalog, sql, &names, if_exists)?), 0),
        ast::Statement::CreateIndex(create) => {
            let bound = bind_create_index(catalog, sql, &create)?;
            let statement = bound.map(|(_, create)| Statement::CreateIndex(create));
            write(statement.unwrap_or(Statement::Nothing), 0)
        }
        ast::Statement::Drop {
            object_type: ast::ObjectType::Index,
            if_exists,
            names,
            cascade: _,
            restrict: _,
            purge: false,
            temporary: false,
            table,
        } => {
            if let Some(job) = job_named(&names) {
                return Ok(write(Statement::CancelJob(job), 0));
            }
            let bound = bind_drop_index(catalog, sql, &names, table.as_ref(), if_exists)?;
            let statement = bound.map(|(schema, entries)| Statement::DropIndex(schema, entries));
            write(statement.unwrap_or(Statement::Nothing), 0)
        }
        ast::Statement::AlterTable(alter) => {
            let bound = bind_alter_table(catalog, sql, &alter)?;
            let statement = bound.map(|(schema, column)| Statement::AddColumn { schema, column });
            write(statement.unwrap_or(Statement::Nothing), 0)
        }
        other => {
            return Err(crate::query::bind::not_supported(
                format!("the statement {} is", crate::query::bind::shorten(&format!("{other}"))),
                "see docs/SQL.md",
            ));
        }
    };
    if let Some(clause) = clause {
        let bound = bind_returning(catalog, sql, clause, prepared.parameters)?;
        prepared.returning = Some(Arc::new(Prepared {
            statement: Statement::Select(Box::new(bound.select)),
            explain: Explain::No,
            columns: bound.columns,
            parameters: bound.parameters,
            returning: None,
        }));
    }
    if prepared.explain == Explain::Analyze && !matches!(prepared.statement, Statement::Select(_)) {
        return Err(crate::query::bind::not_supported(
            "EXPLAIN ANALYZE of a write is",
            "it would have to change rows; EXPLAIN shows how they are found",
        ));
    }
    if prepared.explain != Explain::No {
        prepared.columns = Vec::from([OutputColumn {
            name: String::from("plan"),
            column_type: Some(ColumnType::Text),
        }]);
    }
    Ok(prepared)
}

/// `CANCEL JOB n`, as `parse` hands it over.
fn job_named(names: &[ast::ObjectName]) -> Option<TreeId> {
    let [name] = names else { return None };
    let name = name.to_string();
    let number = name.strip_prefix(crate::query::parse::JOB_PREFIX)?.strip_suffix('"')?;
    Some(TreeId::new(number.parse().ok()?))
}

impl Prepared {
    /// It begins with EXPLAIN.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        self.explain != Explain::No
    }

    /// It shows what the catalog says: of tables, or their names beside records.
    #[must_use]
    pub fn views_catalog(&self) -> bool {
        match &self.statement {
            Statement::Select(select) => matches!(select.source, Source::Virtual(_)),
            Statement::CreateTable { .. }
            | Statement::DropTable(_)
            | Statement::CreateIndex(_)
            | Statement::DropIndex(..)
            | Statement::AddColumn { .. }
            | Statement::CancelJob(_)
            | Statement::Nothing
            | Statement::Insert(_)
            | Statement::Update(..)
            | Statement::Delete(..) => false,
        }
    }

    /// Whether it goes through a prepare. EXPLAIN never does.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.is_explained() && !matches!(self.statement, Statement::Select(_))
    }

    /// The table it was bound to, for the check that the binding still holds.
    #[must_use]
    pub fn bound_to(&self) -> Option<(TableId, SchemaVersion)> {
        let schema = match &self.statement {
            Statement::CreateTable { .. }
            | Statement::DropTable(None)
            | Statement::CancelJob(_)
            | Statement::Nothing => return None,
            Statement::CreateIndex(create) => return Some((create.table, create.schema_version)),
            Statement::DropIndex(schema, _) | Statement::AddColumn { schema, .. } => schema,
            Statement::DropTable(Some(schema))
            | Statement::Update(schema, _)
            | Statement::Delete(schema, _) => schema,
            Statement::Insert(insert) => &insert.schema,
            Statement::Select(select) => match &select.source {
                Source::Table(schema) => schema,
                Source::Versions(versions) => &versions.schema,
                Source::One | Source::Virtual(_) => return None,
            },
        };
        Some((schema.id, schema.schema_version))
    }

    /// Whether the catalog still has the table as it was bound.
    #[must_use]
    pub fn still_holds(&self, catalog: &Catalog) -> bool {
        self.bound_to().is_none_or(|(table, version)| {
            catalog.table(table).is_some_and(|schema| schema.schema_version == version)
        })
    }

    /// Whether it would be bound the same again: the table has the same indexes, too.
    #[must_use]
    pub fn is_fresh(&self, catalog: &Catalog) -> bool {
        let schema = match &self.statement {
            Statement::Select(select) => match &select.source {
                Source::Table(schema) => Some(schema),
                Source::One | Source::Virtual(_) | Source::Versions(_) => None,
            },
            // ON CONFLICT may name an index, as DROP INDEX does.
            Statement::Insert(insert) => Some(&insert.schema),
            Statement::DropIndex(schema, _) => Some(schema),
            Statement::CreateTable { .. }
            | Statement::DropTable(_)
            | Statement::CreateIndex(_)
            | Statement::AddColumn { .. }
            | Statement::CancelJob(_)
            | Statement::Nothing
            | Statement::Update(..)
            | Statement::Delete(..) => None,
        };
        let same_indexes = schema.is_none_or(|schema| {
            catalog.table(schema.id).is_some_and(|now| now.indexes == schema.indexes)
        });
        same_indexes && self.still_holds(catalog)
    }

    pub fn check_parameters(&self, parameters: &[Value]) -> Result<(), SqlError> {
        if parameters.len() >= usize::from(self.parameters) {
            return Ok(());
        }
        Err(SqlError::new(
            SqlState::UndefinedParameter,
            format!("{} parameters are needed, {} were given", self.parameters, parameters.len()),
        ))
    }

    /// What a SELECT is as of, with its parameter filled in; None: now. `head` is the newest
    /// position that can be read.
    pub fn as_of(&self, parameters: &[Value], head: Position) -> Result<Option<AsOf>, SqlError> {
        let Statement::Select(select) = &self.statement else { return Ok(None) };
        let Some((syntax, place)) = &select.as_of else { return Ok(None) };
        self.check_parameters(parameters)?;
        let resolved = match syntax {
            AsOfSyntax::Position(value) => as_of_position(value, parameters, head),
            AsOfSyntax::Timestamp(value) => as_of_timestamp(value, parameters),
            // All versions are read as of now.
            AsOfSyntax::History => return Ok(None),
            AsOfSyntax::Diff(..) => return self.diff_between(parameters, head).map(|_| None),
            AsOfSyntax::Returning { .. } => return Ok(None),
        };
        resolved.map(Some).map_err(|error| error.at(*place))
    }

    /// The two positions of a DIFF OF; None: it is none.
    pub fn diff_between(
        &self,
        parameters: &[Value],
        head: Position,
    ) -> Result<Option<(Position, Position)>, SqlError> {
        let Statement::Select(select) = &self.statement else { return Ok(None) };
        let (from, to, place) = match &select.as_of {
            Some((AsOfSyntax::Diff(from, to), place)) => (from, to, place),
            // One transaction: both are its last position, until the log tells its first.
            Some((AsOfSyntax::Returning { at, .. }, place)) => (at, at, place),
            _ => return Ok(None),
        };
        let resolve = |value| match as_of_position(value, parameters, head) {
            Ok(AsOf::Position(position)) => Ok(position),
            Ok(AsOf::Timestamp(_)) => unreachable!("a position was asked for"),
            Err(error) => Err(error.at(*place)),
        };
        let (from, to) = (resolve(from)?, resolve(to)?);
        if from > to {
            return Err(SqlError::new(
                SqlState::InvalidPosition,
                format!("DIFF OF goes from an earlier position to a later one, not {from} to {to}"),
            )
            .at(*place)
            .hint(format!("write BETWEEN POSITION {to} AND {from}")));
        }
        Ok(Some((from, to)))
    }

    /// The command of a write. `Nothing` when there is nothing to do.
    pub fn lower(&self, parameters: &[Value]) -> Result<Command, SqlError> {
        assert!(self.is_write(), "reads are executed, not lowered");
        self.check_parameters(parameters)?;
        match &self.statement {
            Statement::CreateTable { schema, if_not_exists } => {
                Ok(Command::CreateTable { schema: schema.clone(), if_not_exists: *if_not_exists })
            }
            Statement::DropTable(None) | Statement::Nothing => Ok(Command::Nothing),
            Statement::CancelJob(job) => Ok(Command::CancelJob { job: *job }),
            Statement::CreateIndex(create) => Ok(Command::CreateIndex(create.clone())),
            Statement::DropIndex(schema, entries) => {
                Ok(Command::DropIndex { table: schema.id, entries: *entries })
            }
            Statement::AddColumn { schema, column } => Ok(Command::AddColumn {
                table: schema.id,
                schema_version: schema.schema_version,
                column: column.clone(),
            }),
            Statement::DropTable(Some(schema)) => {
                Ok(Command::DropTable { table: schema.id, schema_version: schema.schema_version })
            }
            Statement::Insert(insert) => {
                lower_insert(insert, core::iter::once(parameters)).map(Command::Insert)
            }
            Statement::Update(_, update) => Ok(Command::Update(Update {
                assignments: fill_assignments(&update.assignments, parameters)?,
                predicate: fill_option(update.predicate.as_ref(), parameters)?,
                found: None,
                ..*update
            })),
            Statement::Delete(_, delete) => Ok(Command::Delete(Delete {
                predicate: fill_option(delete.predicate.as_ref(), parameters)?,
                found: None,
                ..*delete
            })),
            Statement::Select(_) => unreachable!("SELECT is not a write"),
        }
    }

    /// One INSERT command for many rows of parameters: `INSERT INTO t VALUES (?, ?)` bound once.
    pub fn lower_rows<'p>(
        &self,
        rows: impl Iterator<Item = &'p [Value]>,
    ) -> Result<Command, SqlError> {
        match &self.statement {
            Statement::Insert(insert) if self.explain == Explain::No => {
                let rows = rows.inspect(|row| {
                    assert!(
                        row.len() >= usize::from(self.parameters),
                        "each row gives every parameter"
                    );
                });
                lower_insert(insert, rows).map(Command::Insert)
            }
            _ => Err(SqlError::new(
                SqlState::FeatureNotSupported,
                "only INSERT takes many rows of parameters",
            )),
        }
    }
}

fn invalid_position(what: &str, head: Position) -> SqlError {
    SqlError::new(SqlState::InvalidPosition, format!("AS OF POSITION cannot be {what}"))
        .hint(format!("positions are whole numbers from 0 to {head}"))
}

fn as_of_position(
    value: &AsOfValue,
    parameters: &[Value],
    head: Position,
) -> Result<AsOf, SqlError> {
    let position = match value {
        AsOfValue::Null => return Err(invalid_position("NULL", head)),
        AsOfValue::Number(text) => match text.parse::<u64>() {
            Ok(position) => position,
            Err(_) => return Err(invalid_position(text, head)),
        },
        AsOfValue::Text(text) => return Err(invalid_position(&format!("'{text}'"), head)),
        AsOfValue::Parameter(index) => match &parameters[usize::from(*index)] {
            Value::Null => return Err(invalid_position("NULL", head)),
            Value::Integer(position) if *position >= 0 => *position as u64,
            other => return Err(invalid_position(&format!("{other}"), head)),
        },
    };
    if position > head.get() {
        return Err(invalid_position(&format!("{position}, which is in the future"), head));
    }
    Ok(AsOf::Position(Position::new(position)))
}

fn as_of_timestamp(value: &AsOfValue, parameters: &[Value]) -> Result<AsOf, SqlError> {
    let value = match value {
        AsOfValue::Null => Value::Null,
        AsOfValue::Text(text) => Value::text(text),
        AsOfValue::Number(text) => Value::text(text),
        AsOfValue::Parameter(index) => parameters[usize::from(*index)].clone(),
    };
    let bad = |what: String| {
        SqlError::new(SqlState::InvalidPosition, format!("AS OF TIMESTAMP cannot be {what}"))
            .hint("write AS OF TIMESTAMP '2026-11-21 02:05:04', in UTC unless it names a zone")
    };
    if value.is_null() {
        return Err(bad(String::from("NULL")));
    }
    match crate::query::coerce::assign(value, ColumnType::Timestamp) {
        Ok(Value::Timestamp(ns)) => match u64::try_from(ns) {
            Ok(ns) => Ok(AsOf::Timestamp(Timestamp(ns))),
            Err(_) => Err(bad(String::from("before 1970"))),
        },
        Ok(_) => unreachable!("assign gives the type that was asked for"),
        Err(error) => Err(bad(format!("this: {}", error.message))),
    }
}

// INSERT -----------------------------------------------------------------------------------------

fn lower_insert<'p>(
    insert: &BoundInsert,
    parameter_rows: impl Iterator<Item = &'p [Value]>,
) -> Result<Insert, SqlError> {
    let schema = &insert.schema;
    let columns: Vec<&Column> = insert.columns.iter().map(|id| schema.column(*id)).collect();
    let mut rows = InsertRows::default();
    let mut conflict_parameters: &[Value] = &[];
    for parameters in parameter_rows {
        conflict_parameters = parameters;
        for row in &insert.rows {
            for (cell, column) in row.iter().zip(&columns) {
                push_cell(&mut rows, cell, column, parameters)
                    .map_err(|error| in_row(error, rows.count))?;
            }
            rows.count += 1;
        }
        if rows.cells.len() > INSERT_BYTES_MAX {
            return Err(SqlError::new(
                SqlState::LimitExceeded,
                format!("the rows of one INSERT take more than {INSERT_BYTES_MAX} bytes"),
            )
            .hint("send fewer rows at a time"));
        }
    }
    Ok(Insert {
        table: schema.id,
        schema_version: schema.schema_version,
        columns: insert.columns.clone(),
        rows,
        on_conflict: match &insert.on_conflict {
            OnConflict::Fail => OnConflict::Fail,
            OnConflict::DoNothing(target) => OnConflict::DoNothing(*target),
            OnConflict::DoUpdate { target, assignments, predicate } => OnConflict::DoUpdate {
                target: *target,
                assignments: fill_assignments(assignments, conflict_parameters)?,
                predicate: fill_option(predicate.as_ref(), conflict_parameters)?,
            },
        },
    })
}

fn in_row(mut error: SqlError, row: u32) -> SqlError {
    error.message = format!("row {}: {}", row + 1, error.message);
    error
}

fn push_cell(
    rows: &mut InsertRows,
    cell: &CellPlan,
    column: &Column,
    parameters: &[Value],
) -> Result<(), SqlError> {
    match cell {
        CellPlan::Value(value) => rows.push_value(value),
        CellPlan::Default => rows.push_default(),
        CellPlan::Parameter(index) => {
            let value = &parameters[usize::from(*index)];
            if fits_as_is(value, column.column_type) {
                rows.push_value(value);
            } else if value.is_null() && !column.nullable {
                return Err(not_null(column));
            } else {
                rows.push_value(&cell_value(value.clone(), column)?);
            }
        }
        CellPlan::Expr(expr) => match fill(expr, parameters)? {
            Expr::Literal(value) => rows.push_value(&cell_value(value, column)?),
            other => rows.push_expr(&other),
        },
    }
    Ok(())
}

/// The common case of a parameter that needs no conversion, so no copy.
pub(crate) fn fits_as_is(value: &Value, column_type: ColumnType) -> bool {
    match (value, column_type) {
        (Value::Integer(_), ColumnType::BigInt)
        | (Value::Boolean(_), ColumnType::Boolean)
        | (Value::Double(_), ColumnType::Double)
        | (Value::Text(_), ColumnType::Text)
        | (Value::Blob(_), ColumnType::Blob)
        | (Value::Date(_), ColumnType::Date)
        | (Value::Timestamp(_), ColumnType::Timestamp)
        | (Value::Uuid(_), ColumnType::Uuid)
        | (Value::Json(_), ColumnType::Json) => true,
        (Value::Integer(value), ColumnType::Integer) => i32::try_from(*value).is_ok(),
        (Value::Integer(value), ColumnType::SmallInt) => i16::try_from(*value).is_ok(),
        (Value::Text(text), ColumnType::Varchar(most)) => text.len() <= most as usize,
        (Value::Decimal(value), ColumnType::Decimal { precision, scale }) => {
            value.scale() == scale && value.digits() <= precision
        }
        _ => false,
    }
}

/// Puts values in the place of parameters, and folds what has become constant.
fn fill(expr: &Expr, parameters: &[Value]) -> Result<Expr, SqlError> {
    let filled = expr.clone().try_map(&mut |node| match node {
        Expr::Parameter(index) => match parameters.get(usize::from(index)) {
            Some(value) => Ok(Expr::Literal(value.clone())),
            None => Err(SqlError::new(
                SqlState::UndefinedParameter,
                format!("there is no value for parameter {}", index + 1),
            )),
        },
        other => Ok(other),
    })?;
    if filled.is_constant() && !filled.needs_context() {
        let context = Context::new(Timestamp(0), [0; 32]);
        return eval(&filled, &Env::constant(&[], &context)).map(Expr::Literal);
    }
    Ok(filled)
}

fn fill_option(expr: Option<&Expr>, parameters: &[Value]) -> Result<Option<Expr>, SqlError> {
    expr.map(|expr| fill(expr, parameters)).transpose()
}

fn fill_assignments(
    assignments: &[Assignment],
    parameters: &[Value],
) -> Result<Vec<Assignment>, SqlError> {
    assignments
        .iter()
        .map(|assignment| {
            Ok(Assignment {
                column: assignment.column,
                value: fill_option(assignment.value.as_ref(), parameters)?,
            })
        })
        .collect()
}
