//! `verity sql`: statements from `-c` or standard input, one after the other; on a terminal a shell
//! (`interactive`).
//!
//! Each statement is a transaction of its own, unless it stands between BEGIN and COMMIT: those run
//! as one atomic request at COMMIT. The first error ends the run with exit code 1; what committed
//! before it stays. With `--json` every statement prints one object, those of a transaction when it
//! has committed; BEGIN, COMMIT and ROLLBACK print none (`control`).

mod control;
mod input;
mod interactive;
mod running;
mod schema;

use std::io::{IsTerminal, Read};

use serde_json::{Value as Json, json};
use verity::{Outcome as SqlOutcome, Reply, Rows, TenantId, Value};

use super::args::{Global, SqlArgs};
use super::session::Session;
use super::{Failure, Outcome, Output, interrupt, open_or_make, table};
use control::{Control, control, joined, place_in};

/// Standard input is read whole, up to this.
const INPUT_BYTES_MAX: u64 = 256 << 20;

pub fn run(args: &SqlArgs, global: &Global, output: &Output) -> Outcome {
    if !args.connect.is_empty() {
        return run_remote(args, output);
    }
    let Some(data) = &args.data else { unreachable!("one of both is required") };
    let on_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.command.is_none() && on_terminal && !output.is_json() {
        let database = open_or_make(&global.options(), data, output)?;
        let tenant = database.tenant(TenantId::new(args.tenant));
        let result = interactive::run(&tenant, data, output);
        drop(tenant);
        let closed = database.close();
        result?;
        return closed.map_err(Failure::from);
    }
    let text = input(args)?;
    let statements = split(&text, output)?;
    let database = open_or_make(&global.options(), data, output)?;
    let watch = interrupt::watch(&database);
    let tenant = database.tenant(TenantId::new(args.tenant));
    let session = Session::Local(tenant);
    let result = run_all(&session, &statements, output);
    drop(session);
    interrupt::wait_if_interrupted();
    drop(watch);
    // A failed statement is the news; a failed checkpoint only if all statements went well.
    let closed = database.close();
    result?;
    closed.map_err(Failure::from)
}

/// Statements for the servers of a cluster. There is no shell for them yet: on a terminal they are
/// read to the end of the input.
fn run_remote(args: &SqlArgs, output: &Output) -> Outcome {
    let text = input(args)?;
    let statements = split(&text, output)?;
    run_all(&Session::connect(&args.connect, args.tenant)?, &statements, output)
}

fn input(args: &SqlArgs) -> Result<String, Failure> {
    match &args.command {
        Some(text) => Ok(text.clone()),
        None => read_input(),
    }
}

fn split<'a>(text: &'a str, output: &Output) -> Result<Vec<&'a str>, Failure> {
    match verity::split_statements(text) {
        Ok(ranges) => Ok(ranges.into_iter().map(|range| &text[range]).collect()),
        Err(error) => Err(tell_error(&verity::Error::from(error), text, output)),
    }
}

fn read_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::cannot_tell(format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::cannot_tell(
            "standard input has more than 256 MiB of SQL; use `verity import` for data",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::cannot_tell(format!("standard input is not UTF-8 (byte {at})"))
    })
}

fn run_all(session: &Session, statements: &[&str], output: &Output) -> Outcome {
    let mut transaction: Option<Vec<&str>> = None;
    for statement in statements {
        let control = control(statement)
            .map_err(|error| tell_error(&verity::Error::from(error), statement, output))?;
        match (control, &mut transaction) {
            (Control::Begin, None) => transaction = Some(Vec::new()),
            (Control::Begin, Some(_)) => {
                return Err(Failure::failed("BEGIN within a transaction; COMMIT it first"));
            }
            (Control::Commit, Some(gathered)) => {
                commit(session, gathered, output)?;
                transaction = None;
            }
            (Control::Rollback, Some(_)) => transaction = None,
            (Control::Commit | Control::Rollback, None) => {
                return Err(Failure::failed("there is no transaction; BEGIN starts one"));
            }
            (Control::None, Some(gathered)) => gathered.push(statement),
            // The database refuses a savepoint in its own words.
            (Control::Savepoint, _) | (Control::None, None) => {
                run_one(session, statement, output)?;
            }
        }
    }
    match transaction {
        None => Ok(()),
        Some(_) => Err(Failure::failed("the transaction has no COMMIT; nothing of it was done")),
    }
}

/// Sends what stood between BEGIN and COMMIT as one request.
fn commit(session: &Session, statements: &[&str], output: &Output) -> Outcome {
    if statements.is_empty() {
        return Ok(());
    }
    let text = joined(statements);
    match session.execute(&text) {
        Ok(reply) if output.is_json() => {
            for nth in 0..statements.len() {
                let rows = reply.results.get(nth).map_or(0, |result| result.rows_affected);
                output.object(&reply_object(&reply, rows));
            }
            Ok(())
        }
        Ok(reply) => {
            show_reply(&reply, output);
            Ok(())
        }
        Err(error) => {
            let mut object = error_object(&error);
            if let Some(offset) = error.sql().and_then(|sql| sql.position) {
                let (nth, place) = place_in(statements, offset as usize);
                object["statement"] = json!(nth + 1);
                object["offset"] = json!(place);
            }
            output.object(&object);
            output.note(&error.render(&text));
            Err(Failure::Told(1))
        }
    }
}

fn keyword(statement: &str) -> String {
    let word: String = statement.chars().take_while(char::is_ascii_alphabetic).take(16).collect();
    word.to_ascii_uppercase()
}

fn run_one(session: &Session, statement: &str, output: &Output) -> Outcome {
    match session.run(statement) {
        Ok(SqlOutcome::Rows(rows)) => {
            show_rows(&rows, output);
            Ok(())
        }
        Ok(SqlOutcome::Committed(reply)) => {
            show_reply(&reply, output);
            Ok(())
        }
        Err(error) => Err(tell_error(&error, statement, output)),
    }
}

/// The error with its place in the statement.
fn tell_error(error: &verity::Error, statement: &str, output: &Output) -> Failure {
    output.object(&error_object(error));
    output.note(&error.render(statement));
    Failure::Told(1)
}

fn error_object(error: &verity::Error) -> Json {
    match error.sql() {
        Some(sql) => json!({
            "error": sql.message,
            "sqlstate": error.sqlstate(),
            "offset": sql.position,
            "hint": sql.hint,
            "retryable": sql.retryable(),
        }),
        None => json!({
            "error": error.to_string(),
            "sqlstate": error.sqlstate(),
            "retryable": error.retryable(),
        }),
    }
}

pub fn show_rows(rows: &Rows, output: &Output) {
    if output.is_json() {
        let cells: Vec<Vec<Json>> =
            rows.rows.iter().map(|row| row.iter().map(to_json).collect()).collect();
        output.object(&json!({
            "columns": rows.columns,
            "rows": cells,
            "position": rows.position.get(),
            // Where AS OF named a position inside a transaction: `position` is the one before.
            "position_asked": rows.asked.map(|asked| asked.get()),
        }));
        return;
    }
    for line in table::render(&rows.columns, &rows.rows) {
        output.line(line);
    }
    let count = rows.rows.len();
    let asked = rows.asked.map_or(String::new(), |asked| {
        format!("; {asked} lies inside a transaction, so this is the one before")
    });
    let note =
        format!("({count} row{} at position {}{asked})", plural(count as u64), rows.position);
    output.line(output.dim(&note));
}

fn show_reply(reply: &Reply, output: &Output) {
    let count = reply.rows_affected();
    if output.is_json() {
        output.object(&reply_object(reply, count));
        return;
    }
    let at = reply.position.map_or(String::new(), |position| format!(" at position {position}"));
    output.line(format!("ok: {count} row{} changed{at}", plural(count)));
}

fn reply_object(reply: &Reply, rows_affected: u64) -> Json {
    json!({
        "columns": [],
        "rows": [],
        "rows_affected": rows_affected,
        "position": reply.position.map(|position| position.get()),
    })
}

pub fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Numbers as JSON numbers where those are exact, everything else as text.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Double(value) if value.is_finite() => json!(value),
        Value::Json(text) => {
            serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.clone()))
        }
        Value::Double(_)
        | Value::Decimal(_)
        | Value::Text(_)
        | Value::Blob(_)
        | Value::Date(_)
        | Value::Timestamp(_)
        | Value::Uuid(_) => Json::String(value.to_string()),
    }
}
