//! `verity sql`: statements from `-c` or standard input, one after the other; on a terminal a shell
//! (`interactive`).
//!
//! Each statement is a transaction of its own, unless it stands between BEGIN and COMMIT: those run
//! as one atomic request at COMMIT. The first error ends the run with exit code 1; what committed
//! before it stays. Standard input is run as it comes: who writes into a pipe sees the answer to a
//! statement before writing the next. With `--json` every statement prints one object, those of a
//! transaction when it has committed; BEGIN, COMMIT and ROLLBACK print none (`control`).

mod control;
mod input;
mod interactive;
mod rows;
mod running;
mod schema;
mod script;

use std::io::IsTerminal;

use serde_json::{Value as Json, json};
use verity::{Reply, RowStream, StreamOutcome, TenantId, Value};

use super::args::{Global, SqlArgs};
use super::session::Session;
use super::{Failure, Outcome, Output, interrupt, open_or_make};
use control::{Control, control, joined, place_in};
use rows::{Ended, Mode, Writer};
use script::{Problem, STATEMENT_BYTES_MAX, Script};

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
    let mut statements = statements(args, output)?;
    // Until there is something to do, or the end, nothing is opened and nothing made.
    let first = statements()?;
    let database = open_or_make(&global.options(), data, output)?;
    let watch = interrupt::watch(&database);
    let tenant = database.tenant(TenantId::new(args.tenant));
    let session = Session::Local(tenant);
    let result = run_all(&session, first, &mut *statements, output);
    drop(session);
    interrupt::wait_if_interrupted();
    drop(watch);
    // A failed statement is the news; a failed checkpoint only if all statements went well.
    let closed = database.close();
    result?;
    closed.map_err(Failure::from)
}

/// Statements for the servers of a cluster. There is no shell for them yet.
fn run_remote(args: &SqlArgs, output: &Output) -> Outcome {
    let mut statements = statements(args, output)?;
    let first = statements()?;
    let session = Session::connect(&args.connect, args.tenant)?;
    run_all(&session, first, &mut *statements, output)
}

/// Gives one statement after the other, and none at the end.
type Statements<'a> = dyn FnMut() -> Result<Option<String>, Failure> + 'a;

/// Those of `-c`, or of standard input as they come.
fn statements<'a>(args: &SqlArgs, output: &'a Output) -> Result<Box<Statements<'a>>, Failure> {
    match &args.command {
        Some(text) => {
            let mut script = Script::of(text)
                .map_err(|error| tell_error(&verity::Error::from(error), text, output))?;
            Ok(Box::new(move || script.next().map_err(|problem| tell_problem(problem, output))))
        }
        None => {
            let mut script = Script::read(std::io::stdin().lock());
            Ok(Box::new(move || script.next().map_err(|problem| tell_problem(problem, output))))
        }
    }
}

fn tell_problem(problem: Problem, output: &Output) -> Failure {
    match problem {
        Problem::Read(error) => {
            Failure::cannot_tell(format!("cannot read standard input: {error}"))
        }
        Problem::NotUtf8 { at } => {
            Failure::cannot_tell(format!("standard input is not UTF-8 (byte {at})"))
        }
        Problem::TooLong => Failure::cannot_tell(format!(
            "a statement of standard input has more than {} MiB; use `verity import` for data",
            STATEMENT_BYTES_MAX >> 20
        )),
        Problem::Sql { error, text, base } => {
            let mut object = error_object(&verity::Error::from(error.clone()));
            // In all of the input, not in what is left of it.
            object["offset"] = json!(error.position.map(|place| base + u64::from(place)));
            output.object(&object);
            output.note(&verity::Error::from(error).render(&text));
            Failure::Told(1)
        }
    }
}

fn run_all(
    session: &Session,
    first: Option<String>,
    statements: &mut Statements<'_>,
    output: &Output,
) -> Outcome {
    let mut transaction: Option<Vec<String>> = None;
    let mut gathered_bytes = 0;
    let mut next = first;
    while let Some(statement) = next {
        let control = control(&statement)
            .map_err(|error| tell_error(&verity::Error::from(error), &statement, output))?;
        match (control, &mut transaction) {
            (Control::Begin, None) => (transaction, gathered_bytes) = (Some(Vec::new()), 0),
            (Control::Begin, Some(_)) => {
                return Err(refused(ACTIVE, "BEGIN within a transaction; COMMIT it first"));
            }
            (Control::Commit, Some(gathered)) => {
                commit(session, gathered, output)?;
                transaction = None;
            }
            (Control::Rollback, Some(_)) => transaction = None,
            (Control::Commit | Control::Rollback, None) => {
                return Err(refused(NOT_ACTIVE, "there is no transaction; BEGIN starts one"));
            }
            (Control::None, Some(gathered)) => {
                gathered_bytes += statement.len() + size_of::<String>();
                if gathered_bytes > STATEMENT_BYTES_MAX {
                    let why = format!(
                        "the statements of a transaction have more than {} MiB; nothing of it was \
                         done. Use `verity import` for data",
                        STATEMENT_BYTES_MAX >> 20
                    );
                    return Err(refused(TOO_LARGE, &why));
                }
                gathered.push(statement);
            }
            // The database refuses a savepoint in its own words.
            (Control::Savepoint, _) | (Control::None, None) => {
                run_one(session, &statement, output)?;
            }
        }
        next = statements()?;
    }
    match transaction {
        None => Ok(()),
        Some(_) => Err(refused(NO_END, "the transaction has no COMMIT; nothing of it was done")),
    }
}

/// SQLSTATEs of what this command refuses itself.
const ACTIVE: &str = "25001";
const NOT_ACTIVE: &str = "25P01";
const NO_END: &str = "2D000";
const TOO_LARGE: &str = "54000";

fn refused(sqlstate: &'static str, why: &str) -> Failure {
    Failure::Coded { code: 1, sqlstate, message: why.to_string() }
}

/// Sends what stood between BEGIN and COMMIT as one request.
fn commit(session: &Session, statements: &[String], output: &Output) -> Outcome {
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
        Ok(StreamOutcome::Rows(rows)) => show_rows(rows, statement, output),
        Ok(StreamOutcome::Committed(reply)) => {
            show_reply(&reply, output);
            Ok(())
        }
        Err(error) => Err(tell_error(&error, statement, output)),
    }
}

/// The error with its place in the statement.
pub fn tell_error(error: &verity::Error, statement: &str, output: &Output) -> Failure {
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

/// Shows rows as they come.
fn show_rows(mut rows: RowStream, statement: &str, output: &Output) -> Outcome {
    let mode = if output.is_json() { Mode::Object } else { Mode::Table };
    let mut writer = Writer::new(mode, &rows, output);
    while let Some(row) = rows.next() {
        match row {
            Ok(row) => writer.row(&row),
            Err(error) => {
                writer.end(&Ended::Failed(&error));
                output.note(&error.render(statement));
                return Err(Failure::Told(1));
            }
        }
        if rows.at_hand() == 0 {
            writer.pause();
        }
    }
    writer.end(&Ended::Done);
    Ok(())
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
