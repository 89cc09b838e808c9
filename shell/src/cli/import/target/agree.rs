//! What flags ask for, held against a table that is there already.
//!
//! Invariant: what was asked for is what there is, or nothing is imported: a flag without effect
//! would leave somebody believing in a type or a key that the table does not have.

use verity::{ColumnType, Value};
use verity_core::query::{Catalog, Statement, TableSchema, prepare_one};

use super::super::batches::Survey;
use super::super::infer::parse_type;
use super::super::refused;
use super::{Target, find, parse_types};
use crate::cli::Failure;
use crate::cli::args::ImportArgs;
use crate::cli::session::Session;

/// A column as the table has it.
#[derive(Debug, PartialEq)]
struct Column {
    name: String,
    column_type: ColumnType,
    nullable: bool,
}

/// The table as it is: columns and key, in order.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<Column>,
    key: Vec<String>,
}

pub fn check(
    session: &Session,
    args: &ImportArgs,
    survey: &Survey,
    target: &Target,
) -> Result<(), Failure> {
    let given = parse_types(args.types.as_deref().unwrap_or_default(), &survey.header)?;
    for (given, (column, there)) in given.iter().zip(target.columns.iter().zip(&target.types)) {
        if let Some(given) = given.filter(|given| given != there) {
            return Err(refused(
                "42804",
                format!(
                    "--types: column \"{column}\" of table {} is {there}, not {given}; leave it \
                     out, or import into another table",
                    target.table
                ),
            ));
        }
    }
    if args.primary_key.is_empty() && args.schema.is_none() {
        return Ok(());
    }
    let table = read(session, &target.table)?;
    if !args.primary_key.is_empty() {
        table.has_key(&args.primary_key)?;
    }
    if let Some(statement) = &args.schema {
        table.is_made_by(statement)?;
    }
    Ok(())
}

fn read(session: &Session, table: &str) -> Result<Table, Failure> {
    let sql = "SELECT name, type, nullable, key_ordinal FROM __columns WHERE table_name = ? \
               ORDER BY ordinal";
    let rows = session.query(sql, &[Value::text(table)])?.rows;
    let mut read = Table { name: table.to_string(), columns: Vec::new(), key: Vec::new() };
    let mut key = Vec::new();
    for row in &rows {
        let [Value::Text(name), Value::Text(of), Value::Boolean(nullable), place] = &row[..] else {
            return Err(refused(
                "0A000",
                format!(
                    "the server describes table {table} in a way that this release does not know"
                ),
            ));
        };
        let Some(column_type) = parse_type(of) else {
            return Err(refused(
                "0A000",
                format!(
                    "column \"{name}\" of table {table} is {of}, which this release does not know"
                ),
            ));
        };
        if let Value::Integer(place) = place {
            key.push((*place, name.to_string()));
        }
        read.columns.push(Column { name: name.to_string(), column_type, nullable: *nullable });
    }
    key.sort();
    read.key = key.into_iter().map(|(_, name)| name).collect();
    Ok(read)
}

impl Table {
    fn has_key(&self, wanted: &[String]) -> Result<(), Failure> {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let mut key = Vec::new();
        for name in wanted.iter().map(|name| name.trim()) {
            let Some(number) = find(&names, name) else {
                return Err(refused(
                    "42703",
                    format!(
                        "--primary-key {name}: table {} has no such column; it has {}",
                        self.name,
                        names.join(", ")
                    ),
                ));
            };
            key.push(names[number]);
        }
        self.key_is(&format!("--primary-key {}", wanted.join(", ")), &key)
    }

    fn key_is(&self, flag: &str, key: &[&str]) -> Result<(), Failure> {
        if self.key.iter().eq(key) {
            return Ok(());
        }
        let there = match &self.key[..] {
            [] => format!("table {} has no primary key", self.name),
            key => format!("the primary key of table {} is {}", self.name, key.join(", ")),
        };
        Err(refused(
            "42P16",
            format!("{flag}: {there}; leave it out, or import into another table"),
        ))
    }

    /// Would the statement make columns and a key like these? Constraints and defaults are not
    /// looked at: they decide about each row, whoever wrote them.
    fn is_made_by(&self, statement: &str) -> Result<(), Failure> {
        let prepared = prepare_one(&Catalog::new(), statement);
        let prepared = prepared.map_err(|error| {
            refused(error.code.code(), format!("--schema: {}", error.render(statement)))
        })?;
        let Statement::CreateTable { schema, .. } = prepared.statement else {
            unreachable!("the arguments were checked: it is one CREATE TABLE");
        };
        let unlike = |what: String| {
            Err(refused(
                "42P16",
                format!("--schema: {what}; leave it out, or import into another table"),
            ))
        };
        let TableSchema { columns: wanted, .. } = &schema;
        for column in &self.columns {
            let Column { name, column_type, .. } = column;
            let Some(wanted) = wanted.iter().find(|wanted| wanted.name == *name) else {
                return unlike(format!(
                    "table {} has a column \"{name}\" that the statement does not name",
                    self.name
                ));
            };
            if wanted.column_type != *column_type {
                return unlike(format!(
                    "column \"{name}\" of table {} is {column_type}, not {}",
                    self.name, wanted.column_type
                ));
            }
        }
        let missing = |name: &str| !self.columns.iter().any(|column| column.name == name);
        if let Some(column) = wanted.iter().find(|column| missing(&column.name)) {
            return unlike(format!("table {} has no column \"{}\"", self.name, column.name));
        }
        let key = schema.primary_key.iter().map(|id| schema.column(*id).name.as_str());
        self.key_is("--schema", &key.collect::<Vec<_>>())?;
        // Columns of a key are NOT NULL by themselves, so the key comes first.
        let differs = |column: &&Column| {
            wanted.iter().any(|one| one.name == column.name && one.nullable != column.nullable)
        };
        let Some(Column { name, nullable, .. }) = self.columns.iter().find(differs) else {
            return Ok(());
        };
        let (there, asked) = if *nullable { ("not ", "") } else { ("", " not") };
        unlike(format!(
            "column \"{name}\" of table {} is {there}NOT NULL, in the statement it is{asked}",
            self.name
        ))
    }
}
