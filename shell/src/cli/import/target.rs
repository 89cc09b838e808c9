//! The table an import goes to: as it is, or made from the file's header and types.
//!
//! Invariants: names are folded to lower case, as SQL does with names that are not quoted, so that
//! `SELECT code FROM conditions` works whatever the header says. A column of the file that the
//! table does not have is an error before anything is imported.

use verity::{ColumnType, Error, Verity};

use super::batches::Survey;
use super::infer::parse_type;
use crate::cli::Failure;
use crate::cli::args::ImportArgs;

/// Table, and for each column of the file its name and type there.
#[derive(Debug)]
pub struct Target {
    pub table: String,
    pub columns: Vec<String>,
    pub types: Vec<ColumnType>,
}

pub fn resolve(database: &Verity, args: &ImportArgs, survey: &Survey) -> Result<Target, Failure> {
    let table = args.table.to_lowercase();
    if let Some(target) = existing(database, &table, survey)? {
        return Ok(target);
    }
    let statement = match &args.schema {
        Some(statement) => statement.clone(),
        None => create_table(&table, args, survey)?,
    };
    if let Err(error) = database.execute(&statement, &[]) {
        return Err(Failure::Failed(format!(
            "cannot create table {table}\n{}",
            error.render(&statement)
        )));
    }
    existing(database, &table, survey)?.ok_or_else(|| {
        Failure::CannotTell(format!("the statement of --schema does not create table {table}"))
    })
}

fn existing(database: &Verity, table: &str, survey: &Survey) -> Result<Option<Target>, Failure> {
    let Some(schema) = database.table(table).map_err(|error: Error| Failure::from(error))? else {
        return Ok(None);
    };
    let mut target = Target { table: table.to_string(), columns: Vec::new(), types: Vec::new() };
    for name in &survey.header {
        let column = schema
            .columns
            .iter()
            .find(|column| column.name == *name)
            .or_else(|| schema.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)));
        let Some(column) = column else {
            let known: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
            return Err(Failure::CannotTell(format!(
                "table {table} has no column \"{name}\"; it has {}. Rename it in the first line of \
                 the file, or import into another table",
                known.join(", ")
            )));
        };
        target.columns.push(column.name.clone());
        target.types.push(column.column_type);
    }
    Ok(Some(target))
}

fn create_table(table: &str, args: &ImportArgs, survey: &Survey) -> Result<String, Failure> {
    let given = parse_types(args.types.as_deref().unwrap_or_default(), &survey.header)?;
    let position = |name: &str| survey.header.iter().position(|c| c.eq_ignore_ascii_case(name));
    let mut lines = Vec::new();
    for (number, name) in survey.header.iter().enumerate() {
        let column_type = given[number].unwrap_or_else(|| survey.candidates[number].choose());
        lines.push(format!("  {} {column_type}", quote(&name.to_lowercase())));
    }
    let mut key = Vec::new();
    for name in &args.primary_key {
        let name = name.trim();
        if position(name).is_none() {
            return Err(Failure::CannotTell(format!(
                "--primary-key {name}: the file has no such column; it has {}",
                survey.header.join(", ")
            )));
        }
        key.push(quote(&name.to_lowercase()));
    }
    if !key.is_empty() {
        lines.push(format!("  PRIMARY KEY ({})", key.join(", ")));
    }
    Ok(format!("CREATE TABLE {} (\n{}\n)", quote(table), lines.join(",\n")))
}

/// `name=TYPE,name=TYPE`; commas within parentheses belong to a type.
fn parse_types(text: &str, header: &[String]) -> Result<Vec<Option<ColumnType>>, Failure> {
    let mut types = vec![None; header.len()];
    let mut depth = 0;
    let parts = text.split(|c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    for part in parts.filter(|part| !part.trim().is_empty()) {
        let Some((name, type_name)) = part.split_once('=') else {
            return Err(Failure::CannotTell(format!(
                "--types {part}: write name=TYPE, for example zip=TEXT"
            )));
        };
        let name = name.trim();
        let Some(number) = header.iter().position(|c| c.eq_ignore_ascii_case(name)) else {
            return Err(Failure::CannotTell(format!(
                "--types {name}: the file has no such column; it has {}",
                header.join(", ")
            )));
        };
        let Some(column_type) = parse_type(type_name) else {
            return Err(Failure::CannotTell(format!(
                "--types {name}: \"{type_name}\" is no type; use BIGINT, DOUBLE, DECIMAL(p,s), \
                 BOOLEAN, DATE, TIMESTAMP, UUID, JSON or TEXT"
            )));
        };
        types[number] = Some(column_type);
    }
    Ok(types)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_may_hold_commas() {
        let header = ["a".to_string(), "b".to_string(), "c".to_string()];
        let types = parse_types("A=decimal(10,2), c=TEXT", &header).unwrap();
        let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
        assert_eq!(types, vec![Some(decimal), None, Some(ColumnType::Text)]);
        for bad in ["a", "x=TEXT", "a=SERIAL"] {
            assert!(parse_types(bad, &header).is_err(), "{bad}");
        }
    }
}
