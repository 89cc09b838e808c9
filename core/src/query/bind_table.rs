//! CREATE TABLE and DROP TABLE: columns, keys, constraints.
//!
//! Invariants: every clause of the syntax is looked at; what is not understood is refused. A CHECK
//! and a DEFAULT hold no parameter.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use sqlparser::ast;
use sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;

use crate::ids::{ColumnId, Position};
use crate::limits::{COLUMNS_MAX, CONSTRAINTS_MAX, MADE_UP_NAME_BYTES, TABLES_MAX};
use crate::query::bind::{
    Scope, Source, fold, not_supported, position_of, simple_name, undefined_column, with_place,
};
use crate::query::bind_index::unique_constraint;
use crate::query::bind_select::{find_source, must_be_condition};
use crate::query::bind_types::column_type;
use crate::query::coerce::assign;
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::Expr;
use crate::query::schema::{Catalog, Check, Column, TableSchema};
use crate::query::value::{ColumnType, Value};

pub fn bind_create_table(
    catalog: &Catalog,
    sql: &str,
    create: ast::CreateTable,
) -> Result<(TableSchema, bool), SqlError> {
    let place = position_of(sql, &create.name);
    // What the builder makes of the parts we know must be the whole statement.
    let known = CreateTableBuilder::new(create.name.clone())
        .if_not_exists(create.if_not_exists)
        .columns(create.columns.clone())
        .constraints(create.constraints.clone())
        .hive_formats(create.hive_formats.clone())
        .build();
    if known != create || has_hive_formats(&create) {
        return Err(with_place(
            not_supported("an option of this CREATE TABLE is", "columns and constraints are"),
            place,
        ));
    }
    let name = simple_name(sql, &create.name)?;
    if name.starts_with("__") {
        return Err(with_place(
            SqlError::new(SqlState::ReservedName, "names that begin with __ are the system's"),
            place,
        ));
    }
    if catalog.table_named(&name).is_some() && !create.if_not_exists {
        return Err(with_place(
            SqlError::new(SqlState::DuplicateTable, format!("table \"{name}\" exists already"))
                .hint("write CREATE TABLE IF NOT EXISTS if that is fine"),
            place,
        ));
    }
    if catalog.table_count() >= TABLES_MAX {
        return Err(SqlError::new(
            SqlState::LimitExceeded,
            format!("a tenant has at most {TABLES_MAX} tables"),
        ));
    }
    let schema = Table { sql, name, create: &create }.bind(catalog)?;
    Ok((schema, create.if_not_exists))
}

fn has_hive_formats(create: &ast::CreateTable) -> bool {
    create.hive_formats.as_ref().is_some_and(|formats| *formats != ast::HiveFormat::default())
}

struct Table<'a> {
    sql: &'a str,
    name: String,
    create: &'a ast::CreateTable,
}

impl Table<'_> {
    fn bind(self, catalog: &Catalog) -> Result<TableSchema, SqlError> {
        let count = self.create.columns.len();
        if count == 0 || count > COLUMNS_MAX {
            return Err(SqlError::new(
                SqlState::TooManyColumns,
                format!("a table has 1 to {COLUMNS_MAX} columns, not {count}"),
            ));
        }
        let constraints = self.create.constraints.len();
        let options = self.create.columns.iter().map(|column| column.options.len()).sum::<usize>();
        if constraints + options > CONSTRAINTS_MAX {
            return Err(SqlError::new(
                SqlState::StatementTooComplex,
                format!("more than {CONSTRAINTS_MAX} constraints and column options in one table"),
            ));
        }
        let mut schema = TableSchema {
            id: catalog.next_table,
            name: self.name.clone(),
            columns: Vec::with_capacity(count),
            primary_key: Vec::new(),
            checks: Vec::new(),
            stream: catalog.next_stream,
            rows: catalog.next_tree,
            history: catalog.next_tree.next(),
            indexes: Vec::new(),
            schema_version: catalog.version.next(),
            // Known when the event that creates it has its position.
            created_at: Position::ZERO,
        };
        for (definition, id) in self.create.columns.iter().zip(1..) {
            let column = bind_column(self.sql, definition, ColumnId::new(id))?;
            if schema.column_named(&column.name).is_some() {
                return Err(with_place(
                    SqlError::new(
                        SqlState::DuplicateColumn,
                        format!("column \"{}\" is there twice", column.name),
                    ),
                    crate::query::parse::offset(self.sql, definition.name.span.start),
                ));
            }
            schema.columns.push(column);
        }
        self.constraints(catalog, &mut schema)?;
        for id in schema.primary_key.clone() {
            let ordinal = schema.ordinal(id);
            let column = &mut schema.columns[ordinal];
            if column.column_type == ColumnType::Json {
                return Err(SqlError::new(
                    SqlState::InvalidDefinition,
                    format!("column \"{}\": JSON cannot be a key", column.name),
                )
                .hint("store the member that identifies the row in a column of its own"));
            }
            column.nullable = false;
        }
        Ok(schema)
    }

    fn constraints(&self, catalog: &Catalog, schema: &mut TableSchema) -> Result<(), SqlError> {
        type Unique = (Vec<ColumnId>, Option<String>, Option<u32>);
        let mut uniques: Vec<Unique> = Vec::new();
        let mut checks: Vec<(&ast::CheckConstraint, Option<&ast::Ident>)> = Vec::new();
        for (definition, id) in self.create.columns.iter().zip(1..) {
            let place = crate::query::parse::offset(self.sql, definition.name.span.start);
            for option in &definition.options {
                match &option.option {
                    ast::ColumnOption::PrimaryKey(_) => {
                        self.primary_key(schema, [ColumnId::new(id)].into(), place)?;
                    }
                    ast::ColumnOption::Unique(_) => {
                        let name = option.name.as_ref().map(fold).transpose()?;
                        uniques.push(([ColumnId::new(id)].into(), name, place));
                    }
                    ast::ColumnOption::Check(check) => checks.push((check, option.name.as_ref())),
                    _ => {}
                }
            }
        }
        for constraint in &self.create.constraints {
            let place = position_of(self.sql, constraint);
            match constraint {
                ast::TableConstraint::PrimaryKey(key) => {
                    let columns = key_columns(self.sql, schema, &key.columns, false)?;
                    self.primary_key(schema, columns, place)?;
                }
                ast::TableConstraint::Unique(unique) => {
                    let columns = key_columns(self.sql, schema, &unique.columns, false)?;
                    let name = unique.name.as_ref().map(fold).transpose()?;
                    uniques.push((columns, name, place));
                }
                ast::TableConstraint::Check(check) => checks.push((check, None)),
                ast::TableConstraint::ForeignKey(_) => {
                    return Err(with_place(foreign_key(), place));
                }
                other => {
                    return Err(with_place(
                        not_supported(
                            format!("\"{other}\" is"),
                            "table constraints are PRIMARY KEY and CHECK",
                        ),
                        place,
                    ));
                }
            }
        }
        for (columns, name, place) in uniques {
            let mut sorted = (columns.clone(), schema.primary_key.clone());
            sorted.0.sort_unstable();
            sorted.1.sort_unstable();
            // The primary key is unique already.
            if sorted.0 != sorted.1 {
                unique_constraint(catalog, schema, columns, name)
                    .map_err(|error| with_place(error, place))?;
            }
        }
        for (check, name) in checks {
            self.check(schema, check, name)?;
        }
        Ok(())
    }

    fn primary_key(
        &self,
        schema: &mut TableSchema,
        columns: Vec<ColumnId>,
        place: Option<u32>,
    ) -> Result<(), SqlError> {
        if !schema.primary_key.is_empty() {
            return Err(with_place(
                SqlError::new(SqlState::InvalidDefinition, "a table has one PRIMARY KEY")
                    .hint("name all its columns together: PRIMARY KEY (a, b)"),
                place,
            ));
        }
        schema.primary_key = columns;
        Ok(())
    }

    fn check(
        &self,
        schema: &mut TableSchema,
        check: &ast::CheckConstraint,
        option_name: Option<&ast::Ident>,
    ) -> Result<(), SqlError> {
        let place = position_of(self.sql, check.expr.as_ref());
        if check.no_inherit || check.enforced.is_some() {
            return Err(with_place(
                not_supported("an option of CHECK is", "write CHECK (condition)"),
                place,
            ));
        }
        let source = Source::Table(Arc::new(schema.clone()));
        let mut scope = Scope::new(self.sql, &source, Err("CHECK"));
        let expr = scope.bind(&check.expr)?;
        if scope.parameters > 0 {
            return Err(with_place(no_parameters("CHECK"), place));
        }
        if expr.needs_context() {
            return Err(with_place(
                SqlError::new(
                    SqlState::InvalidDefinition,
                    "CHECK must depend on the row alone, not on the time or on chance",
                ),
                place,
            ));
        }
        must_be_condition(&expr, &source, "CHECK").map_err(|error| with_place(error, place))?;
        let name = match check.name.as_ref().or(option_name) {
            Some(name) => fold(name)?,
            None => {
                let table = &schema.name[..schema.name.floor_char_boundary(MADE_UP_NAME_BYTES)];
                format!("{table}_check_{}", schema.checks.len() + 1)
            }
        };
        schema.checks.push(Check { name, text: check.expr.to_string(), expr });
        Ok(())
    }
}

/// A column of CREATE TABLE or ALTER TABLE, its constraints aside.
pub fn bind_column(
    sql: &str,
    definition: &ast::ColumnDef,
    id: ColumnId,
) -> Result<Column, SqlError> {
    let place = crate::query::parse::offset(sql, definition.name.span.start);
    let wrap = |error| with_place(error, place);
    let mut column = Column {
        id,
        name: fold(&definition.name).map_err(wrap)?,
        column_type: column_type(&definition.data_type).map_err(wrap)?,
        nullable: true,
        default: None,
        initial: Value::Null,
        added_at: Position::ZERO,
    };
    for option in &definition.options {
        match &option.option {
            ast::ColumnOption::Null => {}
            ast::ColumnOption::NotNull => column.nullable = false,
            ast::ColumnOption::Default(syntax) => {
                column.default = Some(bind_default(sql, syntax, &column)?);
            }
            // Constraints are bound when all columns are known.
            ast::ColumnOption::PrimaryKey(_)
            | ast::ColumnOption::Unique(_)
            | ast::ColumnOption::Check(_) => {}
            ast::ColumnOption::ForeignKey(_) => return Err(wrap(foreign_key())),
            other => {
                return Err(wrap(not_supported(
                    format!("\"{other}\" of column \"{}\" is", column.name),
                    "column options are NOT NULL, DEFAULT, PRIMARY KEY, CHECK",
                )));
            }
        }
    }
    Ok(column)
}

fn bind_default(sql: &str, syntax: &ast::Expr, column: &Column) -> Result<Expr, SqlError> {
    let place = position_of(sql, syntax);
    let mut scope = Scope::new(sql, &Source::One, Err("DEFAULT"));
    let bound = scope.bind(syntax)?;
    if scope.parameters > 0 {
        return Err(with_place(no_parameters("DEFAULT"), place));
    }
    match bound {
        Expr::Literal(value) => assign(value, column.column_type)
            .map(Expr::Literal)
            .map_err(|error| with_place(error, place)),
        other => Ok(other),
    }
}

/// The columns of a key, in order. `directions`: ASC and DESC may follow them; a key is read both
/// ways, so they change nothing.
pub fn key_columns(
    sql: &str,
    schema: &TableSchema,
    columns: &[ast::IndexColumn],
    directions: bool,
) -> Result<Vec<ColumnId>, SqlError> {
    if columns.len() > COLUMNS_MAX {
        return Err(SqlError::new(
            SqlState::TooManyColumns,
            format!("a key has at most {COLUMNS_MAX} columns, not {}", columns.len()),
        ));
    }
    let mut ids: Vec<ColumnId> = Vec::with_capacity(columns.len());
    for column in columns {
        let place = position_of(sql, &column.column.expr);
        let plain = column.operator_class.is_none()
            && (column.column.options == ast::OrderByOptions::default()
                || directions && column.column.options.nulls_first.is_none())
            && column.column.with_fill.is_none();
        let ast::Expr::Identifier(ident) = &column.column.expr else {
            return Err(with_place(
                not_supported("an expression in a key is", "name columns"),
                place,
            ));
        };
        if !plain {
            return Err(with_place(
                not_supported("an order within a key is", "ORDER BY … DESC reads it backwards"),
                place,
            ));
        }
        let name = fold(ident)?;
        let Some(found) = schema.column_named(&name) else {
            let names = schema.columns.iter().map(|column| column.name.as_str());
            return Err(with_place(undefined_column(&name, &schema.name, names), place));
        };
        if ids.contains(&found.id) {
            return Err(with_place(
                SqlError::new(SqlState::DuplicateColumn, "a column is in the key twice"),
                place,
            ));
        }
        ids.push(found.id);
    }
    Ok(ids)
}

fn foreign_key() -> SqlError {
    not_supported("FOREIGN KEY is", "check the other row in the same request before you insert")
}

fn no_parameters(clause: &str) -> SqlError {
    SqlError::new(SqlState::SyntaxError, format!("{clause} cannot hold a parameter"))
}

/// None: it does not exist, and that is fine.
pub fn bind_drop(
    catalog: &Catalog,
    sql: &str,
    names: &[ast::ObjectName],
    if_exists: bool,
) -> Result<Option<Arc<TableSchema>>, SqlError> {
    let [name] = names else {
        return Err(not_supported("DROP of several tables at once is", "send one DROP a table"));
    };
    match find_source(catalog, sql, name) {
        Ok(Source::Table(schema)) => Ok(Some(schema)),
        Ok(Source::One | Source::Virtual(_) | Source::Versions(_)) => {
            Err(with_place(read_only(), position_of(sql, name)))
        }
        Err(error) if error.code == SqlState::UndefinedTable && if_exists => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_only() -> SqlError {
    SqlError::new(SqlState::ReservedName, "tables that begin with __ are views of the system")
}

pub fn as_table(source: Source, place: Option<u32>) -> Result<Arc<TableSchema>, SqlError> {
    match source {
        Source::Table(schema) => Ok(schema),
        Source::One | Source::Virtual(_) | Source::Versions(_) => {
            Err(with_place(read_only(), place))
        }
    }
}
