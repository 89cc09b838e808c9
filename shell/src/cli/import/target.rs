//! The table an import goes to: as it is, or made from the file's header and types.
//!
//! Invariants: names of what is made are folded to lower case, as SQL does with names that are not
//! quoted, so that `SELECT code FROM conditions` works whatever the header says. A name of what is
//! there already is taken as it stands, else folded, else in any case if only one fits: quoted
//! names of mixed case are found. A column of the file that the table does not have, or that two
//! columns of the file mean, is an error before anything is imported. So is what a flag asks for
//! and a table that is there already does not have.

mod agree;

use verity::ColumnType;

use super::batches::Survey;
use super::infer::parse_type;
use super::{failed, refused};
use crate::cli::Failure;
use crate::cli::args::ImportArgs;
use crate::cli::session::Session;

/// Table, and for each column of the file its name and type there.
#[derive(Debug)]
pub struct Target {
    pub table: String,
    pub columns: Vec<String>,
    pub types: Vec<ColumnType>,
}

/// Arguments that cannot be meant, also where they are not needed.
pub fn check(args: &ImportArgs, survey: &Survey) -> Result<(), Failure> {
    parse_types(args.types.as_deref().unwrap_or_default(), &survey.header)?;
    let Some(statement) = &args.schema else { return Ok(()) };
    let Some(name) = created_table(statement) else {
        return Err(refused("42601", "--schema takes one CREATE TABLE statement and no other"));
    };
    if name != args.table && name != args.table.to_lowercase() {
        return Err(refused(
            "22023",
            format!(
                "--schema creates table {name}, --table is {}; name the same table in both",
                args.table
            ),
        ));
    }
    Ok(())
}

pub fn resolve(session: &Session, args: &ImportArgs, survey: &Survey) -> Result<Target, Failure> {
    // As it is written: a quoted name may have capitals.
    let table = args.table.to_lowercase();
    for name in [&args.table, &table] {
        if let Some(target) = existing(session, name, survey)? {
            agree::check(session, args, survey, &target)?;
            return Ok(target);
        }
    }
    let statement = match &args.schema {
        Some(statement) => statement.clone(),
        None => create_table(&table, args, survey)?,
    };
    if let Err(error) = session.execute(&statement) {
        let why = format!("cannot create table {table}\n{}", error.render(&statement));
        return Err(failed(error.sqlstate(), why));
    }
    for made in [&args.table, &table] {
        if let Some(target) = existing(session, made, survey)? {
            return Ok(target);
        }
    }
    Err(refused("22023", format!("the statement of --schema does not create table {table}")))
}

fn existing(session: &Session, table: &str, survey: &Survey) -> Result<Option<Target>, Failure> {
    let Some(columns) = session.columns(table)? else { return Ok(None) };
    let mut target = Target { table: table.to_string(), columns: Vec::new(), types: Vec::new() };
    let known: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    for name in &survey.header {
        let Some((column, column_type)) = find(&known, name).map(|number| &columns[number]) else {
            return Err(refused(
                "42703",
                format!(
                    "table {table} has no column \"{name}\"; it has {}. Rename it in the first \
                     line of the file, or import into another table",
                    known.join(", ")
                ),
            ));
        };
        if target.columns.contains(column) {
            return Err(refused(
                "42701",
                format!(
                    "two columns of the file mean column \"{column}\" of table {table}; rename one \
                     in the first line of the file"
                ),
            ));
        }
        target.columns.push(column.clone());
        target.types.push(*column_type);
    }
    Ok(Some(target))
}

/// The table that a text makes, if it is one CREATE TABLE statement: one that can do no harm.
fn created_table(text: &str) -> Option<String> {
    let statements = verity::split_statements(text).ok()?;
    let [range] = &statements[..] else { return None };
    let rest = text.get(range.clone())?;
    let mut rest = after_word(after_word(rest, "CREATE")?, "TABLE")?;
    let if_not_exists = ["IF", "NOT", "EXISTS"];
    if let Some(after) = if_not_exists.iter().try_fold(rest, |rest, word| after_word(rest, word)) {
        rest = after;
    }
    let rest = rest.trim_start();
    let name = match rest.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut letters = quoted.chars().peekable();
            loop {
                match letters.next()? {
                    '"' if letters.next_if_eq(&'"').is_none() => break name,
                    letter => name.push(letter),
                }
            }
        }
        None => {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
            rest[..end.unwrap_or(rest.len())].to_lowercase()
        }
    };
    (!name.is_empty()).then_some(name)
}

/// What is behind a word that the text must begin with.
fn after_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let text = text.trim_start();
    let (first, rest) = text.split_at_checked(word.len())?;
    let ends = rest.starts_with(char::is_whitespace) || rest.starts_with('"') || rest.is_empty();
    (first.eq_ignore_ascii_case(word) && ends).then_some(rest)
}

/// Which name is meant: the very one, the one in lower case, or the only one in any case.
fn find(names: &[&str], wanted: &str) -> Option<usize> {
    let folded = wanted.to_lowercase();
    let place = |fits: &dyn Fn(&str) -> bool| names.iter().position(|name| fits(name));
    place(&|name| name == wanted).or_else(|| place(&|name| name == folded)).or_else(|| {
        let mut fitting = (0..names.len()).filter(|number| names[*number].to_lowercase() == folded);
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    })
}

fn create_table(table: &str, args: &ImportArgs, survey: &Survey) -> Result<String, Failure> {
    let given = parse_types(args.types.as_deref().unwrap_or_default(), &survey.header)?;
    let header: Vec<&str> = survey.header.iter().map(String::as_str).collect();
    let mut lines = Vec::new();
    for (number, name) in survey.header.iter().enumerate() {
        let folded = name.to_lowercase();
        if survey.header[..number].iter().any(|other| other.to_lowercase() == folded) {
            return Err(refused(
                "42701",
                format!(
                    "column name \"{name}\" appears twice in the first line but for its case; \
                     rename one, or create the table first"
                ),
            ));
        }
        let column_type = given[number].unwrap_or_else(|| survey.candidates[number].choose());
        lines.push(format!("  {} {column_type}", quote(&name.to_lowercase())));
    }
    let mut key = Vec::new();
    for name in &args.primary_key {
        let name = name.trim();
        let Some(number) = find(&header, name) else {
            return Err(refused(
                "42703",
                format!(
                    "--primary-key {name}: the file has no such column; it has {}",
                    survey.header.join(", ")
                ),
            ));
        };
        key.push(quote(&header[number].to_lowercase()));
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
            return Err(refused(
                "42601",
                format!("--types {part}: write name=TYPE, for example zip=TEXT"),
            ));
        };
        let name = name.trim();
        let names: Vec<&str> = header.iter().map(String::as_str).collect();
        let Some(number) = find(&names, name) else {
            return Err(refused(
                "42703",
                format!(
                    "--types {name}: the file has no such column; it has {}",
                    header.join(", ")
                ),
            ));
        };
        let Some(column_type) = parse_type(type_name) else {
            return Err(refused(
                "0A000",
                format!(
                    "--types {name}: \"{type_name}\" is no type; use BIGINT, DOUBLE, DECIMAL(p,s), \
                     BOOLEAN, DATE, TIMESTAMP, UUID, JSON or TEXT"
                ),
            ));
        };
        if types[number].replace(column_type).is_some() {
            return Err(refused("42701", format!("--types {name}: the column is named twice")));
        }
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
    fn names_are_found_as_written_then_folded_then_in_any_case() {
        let names = ["Id", "id", "First Name", "ÄRA", "Both", "BOTH"];
        for (wanted, found) in [
            ("Id", Some(0)),
            ("id", Some(1)),
            ("ID", Some(1)),
            ("first name", Some(2)),
            ("ära", Some(3)),
            ("both", None),
            ("nothing", None),
        ] {
            assert_eq!(find(&names, wanted), found, "{wanted}");
        }
    }

    #[test]
    fn a_statement_that_makes_a_table_names_it() {
        for (text, name) in [
            ("CREATE TABLE t (id BIGINT)", Some("t")),
            ("create\n table T(id BIGINT);", Some("t")),
            ("CREATE TABLE IF NOT EXISTS t (id BIGINT)", Some("t")),
            ("CREATE TABLE if_not (id BIGINT)", Some("if_not")),
            ("CREATE TABLE \"A \"\"b\"\"\" (id BIGINT)", Some("A \"b\"")),
            ("CREATE TABLE\"A\" (id BIGINT)", Some("A")),
            ("CREATE TABLE \u{c4}ra (id BIGINT)", Some("\u{e4}ra")),
            ("CREATE TABLE", None),
            ("CREATE TABLE \"t", None),
            ("CREATE TABLES t (id BIGINT)", None),
            ("CREATE TABLE t (id BIGINT); DROP TABLE t", None),
            ("DROP TABLE t", None),
            ("CR\u{c9}ATE TABLE t", None),
            ("", None),
        ] {
            assert_eq!(created_table(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn types_may_hold_commas() {
        let header = ["a".to_string(), "b".to_string(), "c".to_string()];
        let types = parse_types("A=decimal(10,2), c=TEXT", &header).unwrap();
        let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
        assert_eq!(types, vec![Some(decimal), None, Some(ColumnType::Text)]);
        for bad in ["a", "x=TEXT", "a=SERIAL", "a=TEXT,A=TEXT"] {
            assert!(parse_types(bad, &header).is_err(), "{bad}");
        }
    }
}
