//! The interactive shell: `verity sql` on a terminal.
//!
//! Invariants: nothing typed ends it but `.quit` and Ctrl-D; an error shows its place and the shell
//! goes on; between BEGIN and COMMIT statements are gathered and sent as one transaction.
//! Start reading at [`Shell::run`].

use std::path::Path;
use std::time::Instant;

use verity::{RowStream, StreamOutcome, Verity};
use verity_core::query::parse::with_as_of;

use super::control::{Control, control, joined};
use super::input::{Input, Line};
use super::rows::{self, Mode, Writer};
use super::running::{Ended, Interrupt, next_row, run as run_statement};
use super::schema::create_table;
use super::{keyword, show_reply};
use crate::cli::{Failure, Outcome, Output, table};

const HELP: &str = "\
Statements end with a semicolon and may span lines. BEGIN; … COMMIT; sends several as one.
Ctrl-C clears the line, or cancels the query that runs. Ctrl-D leaves.

.help                      this text
.tables                    names of the tables
.schema [TABLE]            tables as CREATE TABLE statements
.mode table|line|csv|json  how rows are shown
.timer on|off              how long statements take
.explain on|off            show the plan before the rows
.asof N | 'TIME' | off     read every table as of a position or a time
.read FILE                 run the statements of a file
.quit                      leave";

struct Shell<'a> {
    database: &'a Verity,
    output: &'a Output,
    interrupt: Interrupt,
    mode: Mode,
    timer: bool,
    explain: bool,
    /// `POSITION n` or `TIMESTAMP '…'`.
    as_of: Option<String>,
    /// Statements since BEGIN.
    transaction: Option<Vec<String>>,
}

/// Whether the shell goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    Quit,
}

pub fn run(database: &Verity, data: &Path, output: &Output) -> Outcome {
    let interrupt = Interrupt::install()
        .map_err(|error| Failure::cannot_tell(format!("cannot handle Ctrl-C: {error}")))?;
    let mut shell = Shell {
        database,
        output,
        interrupt,
        mode: Mode::Table,
        timer: false,
        explain: false,
        as_of: None,
        transaction: None,
    };
    shell.run(data)
}

impl Shell<'_> {
    fn run(&mut self, data: &Path) -> Outcome {
        let mut input = Input::new()
            .map_err(|error| Failure::cannot_tell(format!("cannot use the terminal: {error}")))?;
        let position = self.database.position()?;
        let version = env!("CARGO_PKG_VERSION");
        self.output.line(format!(
            "verity {version}, {} at position {position}. .help shows commands, .quit leaves.",
            data.display()
        ));
        loop {
            match input.read(&self.prompt()).map_err(Failure::cannot_tell)? {
                Line::Text(text) => {
                    if self.take(&text) == Next::Quit {
                        break;
                    }
                }
                Line::Cancelled => {}
                Line::End => break,
            }
        }
        if self.transaction.is_some() {
            self.output.note("the transaction has no COMMIT; nothing of it was done");
        }
        Ok(())
    }

    fn prompt(&self) -> String {
        let as_of = self.as_of.as_ref().map_or(String::new(), |as_of| format!(" ({as_of})"));
        let star = if self.transaction.is_some() { "*" } else { "" };
        format!("verity{as_of}{star}> ")
    }

    fn take(&mut self, text: &str) -> Next {
        let text = text.trim();
        if let Some(command) = text.strip_prefix('.') {
            return self.command(command);
        }
        self.statements(text);
        Next::Prompt
    }

    /// Runs statements one after the other; false: one of them failed, the rest was left out.
    fn statements(&mut self, text: &str) -> bool {
        let ranges = match verity::split_statements(text) {
            Ok(ranges) => ranges,
            Err(error) => {
                self.output.note(&error.render(text));
                return false;
            }
        };
        ranges.into_iter().all(|range| self.statement(&text[range]))
    }

    fn statement(&mut self, statement: &str) -> bool {
        let control = match control(statement) {
            Ok(control) => control,
            Err(error) => {
                self.output.note(&error.render(statement));
                return false;
            }
        };
        match (control, &mut self.transaction) {
            (Control::Begin, None) => self.transaction = Some(Vec::new()),
            (Control::Begin, Some(_)) => {
                self.output.note("error: BEGIN within a transaction; COMMIT or ROLLBACK it first");
                return false;
            }
            (Control::Commit, Some(gathered)) => {
                let text = joined(gathered);
                self.transaction = None;
                if text.is_empty() {
                    self.output.note("the transaction was empty");
                    return true;
                }
                return self.execute(&text);
            }
            (Control::Rollback, Some(_)) => {
                self.transaction = None;
                self.output.note("nothing of the transaction was done");
            }
            (Control::Commit | Control::Rollback, None) => {
                self.output.note("error: there is no transaction; BEGIN starts one");
                return false;
            }
            (Control::None, Some(gathered)) => gathered.push(statement.to_string()),
            // The database refuses a savepoint in its own words.
            (Control::Savepoint, _) | (Control::None, None) => return self.run_one(statement),
        }
        true
    }

    /// A gathered transaction.
    fn execute(&mut self, text: &str) -> bool {
        let started = Instant::now();
        let outcome = self.database.execute(text, &[]);
        self.told_time(started);
        match outcome {
            Ok(reply) => {
                show_reply(&reply, self.output);
                true
            }
            Err(error) => {
                self.output.note(&error.render(text));
                false
            }
        }
    }

    fn run_one(&mut self, statement: &str) -> bool {
        let with_as_of = self.as_of.as_ref().and_then(|as_of| with_as_of(statement, as_of));
        let statement = with_as_of.as_deref().unwrap_or(statement);
        if self.explain && keyword(statement) != "EXPLAIN" {
            // What cannot be explained fails below, with its place.
            if let Ok(plan) = self.database.query(&format!("EXPLAIN {statement}"), &[]) {
                for line in &plan.rows {
                    self.output.line(self.output.dim(&format!("-- {}", line[0])));
                }
            }
        }
        let started = Instant::now();
        let ended = run_statement(self.database, statement, &self.interrupt);
        let fine = match ended {
            Ended::Done(outcome) => match *outcome {
                StreamOutcome::Rows(rows) => self.show(rows, statement),
                StreamOutcome::Committed(reply) => {
                    show_reply(&reply, self.output);
                    true
                }
            },
            Ended::Failed(error) => {
                self.output.note(&error.render(statement));
                false
            }
            Ended::Cancelled => {
                self.output.note("cancelled");
                false
            }
        };
        self.told_time(started);
        fine
    }

    fn told_time(&self, started: Instant) {
        if self.timer {
            let elapsed = started.elapsed();
            self.output
                .line(self.output.dim(&format!("{:.3} ms", elapsed.as_secs_f64() * 1_000.0)));
        }
    }

    /// Shows rows as they come; false: they did not come to their end.
    fn show(&self, mut rows: RowStream, statement: &str) -> bool {
        let mut writer = Writer::new(self.mode, &rows, self.output);
        loop {
            match next_row(&mut rows, &self.interrupt) {
                Some(Some(Ok(row))) => writer.row(&row),
                Some(Some(Err(error))) => {
                    writer.end(&rows::Ended::Failed(&error));
                    self.output.note(&error.render(statement));
                    return false;
                }
                Some(None) => {
                    writer.end(&rows::Ended::Done);
                    return true;
                }
                None => {
                    writer.end(&rows::Ended::Cancelled);
                    self.output.note("cancelled");
                    return false;
                }
            }
            if rows.at_hand() == 0 {
                writer.pause();
            }
        }
    }

    // Commands -----------------------------------------------------------------------------------

    fn command(&mut self, text: &str) -> Next {
        let text = text.trim().trim_end_matches(';').trim_end();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let done = match (name, rest) {
            ("help", _) => {
                self.output.line(HELP);
                Ok(())
            }
            ("quit" | "exit" | "q", "") => return Next::Quit,
            ("tables", "") => self.tables(),
            ("schema", table) => self.schema(table),
            ("mode", mode) => self.set_mode(mode),
            ("timer", word) => on_or_off(word).map(|on| self.timer = on),
            ("explain", word) => on_or_off(word).map(|on| self.explain = on),
            ("asof", position) => self.set_as_of(position),
            ("read", file) => self.read(file),
            _ => Err(format!("there is no command .{text}; .help lists them")),
        };
        if let Err(message) = done {
            self.output.note(&format!("error: {message}"));
        }
        Next::Prompt
    }

    fn table_names(&self) -> Result<Vec<String>, String> {
        let rows = self.database.query("SELECT name FROM __tables ORDER BY name", &[]);
        let rows = rows.map_err(|error| error.to_string())?;
        Ok(rows.rows.iter().map(|row| table::text(&row[0])).collect())
    }

    fn tables(&self) -> Result<(), String> {
        let names = self.table_names()?;
        if names.is_empty() {
            self.output.line("there are no tables yet; CREATE TABLE makes one");
        }
        for name in names {
            self.output.line(table::printable(&name));
        }
        Ok(())
    }

    fn schema(&self, wanted: &str) -> Result<(), String> {
        let wanted = wanted.trim_matches('"');
        let names = match wanted {
            "" => self.table_names()?,
            name => vec![name.to_string()],
        };
        for name in names {
            match self.database.table(&name).map_err(|error| error.to_string())? {
                Some(schema) => self.output.line(create_table(&schema)),
                None => return Err(format!("there is no table \"{name}\"; .tables lists them")),
            }
        }
        Ok(())
    }

    fn set_mode(&mut self, mode: &str) -> Result<(), String> {
        self.mode = match mode {
            "table" => Mode::Table,
            "line" => Mode::Line,
            "csv" => Mode::Csv,
            "json" => Mode::Json,
            _ => return Err("modes are table, line, csv and json".to_string()),
        };
        Ok(())
    }

    fn set_as_of(&mut self, text: &str) -> Result<(), String> {
        let as_of = match text {
            "off" | "" => {
                self.as_of = None;
                return Ok(());
            }
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => format!("POSITION {text}"),
            text => format!("TIMESTAMP '{}'", text.trim_matches('\'').replace('\'', "''")),
        };
        // Asked once now, so that a wrong one is refused here and not at every statement.
        let names = self.table_names()?;
        if let Some(name) = names.first() {
            let name = name.replace('"', "\"\"");
            let sql = format!("SELECT 1 FROM \"{name}\" AS OF {as_of} LIMIT 0");
            if let Err(error) = self.database.query(&sql, &[]) {
                let before = error.sql().is_some_and(|sql| sql.message.contains("did not exist"));
                if !before {
                    return Err(error.to_string());
                }
            }
        }
        self.as_of = Some(as_of);
        Ok(())
    }

    fn read(&mut self, file: &str) -> Result<(), String> {
        if file.is_empty() {
            return Err(".read needs a file".to_string());
        }
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        if self.statements(&text) {
            Ok(())
        } else {
            Err(format!("{file}: stopped at the first error; what committed before it stays"))
        }
    }
}

fn on_or_off(word: &str) -> Result<bool, String> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("say on or off".to_string()),
    }
}
