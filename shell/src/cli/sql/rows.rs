//! Rows of an answer as they are shown: one after the other, never all of them in memory.
//!
//! Invariants: what is shown of a small answer does not depend on how it came. With `--json` an
//! answer is one object, whatever happens amid it: rows that were written already stay in it, and
//! behind them it says what went wrong.

use std::io::Write as _;

use serde_json::{Value as Json, json};
use verity::{RowStream, Value};

use super::{error_object, plural, to_json};
use crate::cli::Output;
use crate::cli::output::Sink;
use crate::cli::table::{self, Cells, Layout};

/// The columns of a table are as wide as the first rows need.
const PAGE_ROWS: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Table,
    Line,
    Csv,
    /// An object for each row.
    Json,
    /// `--json`: one for all of them.
    Object,
}

/// How the rows ended.
#[derive(Debug)]
pub enum Ended<'a> {
    Done,
    Failed(&'a verity::Error),
    Cancelled,
}

/// Writes the rows of one answer.
pub struct Writer<'a> {
    output: &'a Output,
    sink: Sink,
    columns: Vec<String>,
    count: u64,
    form: Form,
    footer: String,
}

enum Form {
    Table { layout: Option<Layout>, page: Vec<Cells>, bytes: usize },
    Line { width: usize },
    Csv,
    Json,
    Object,
}

impl<'a> Writer<'a> {
    pub fn new(mode: Mode, rows: &RowStream, output: &'a Output) -> Writer<'a> {
        let (columns, position) = (rows.columns().to_vec(), rows.position());
        let mut sink = output.sink();
        let form = match mode {
            Mode::Table => Form::Table { layout: None, page: Vec::new(), bytes: 0 },
            Mode::Line => {
                let width = columns.iter().map(|name| name.chars().count()).max();
                Form::Line { width: width.unwrap_or(0) }
            }
            Mode::Csv => {
                sink.text(&csv_line(&columns));
                Form::Csv
            }
            Mode::Json => Form::Json,
            Mode::Object => {
                let head = json!({
                    "columns": columns,
                    "position": position.get(),
                    // Where AS OF named a position inside a transaction: `position` is the one
                    // before.
                    "position_asked": rows.asked().map(|asked| asked.get()),
                });
                sink.text(head.to_string().trim_end_matches('}'));
                sink.text(",\"rows\":[");
                Form::Object
            }
        };
        let asked = rows.asked().map_or(String::new(), |asked| {
            format!("; {asked} lies inside a transaction, so this is the one before")
        });
        let footer = format!("at position {position}{asked})");
        Writer { output, sink, columns, count: 0, form, footer }
    }

    pub fn row(&mut self, row: &[Value]) {
        self.count += 1;
        match &mut self.form {
            Form::Table { layout: Some(layout), .. } => {
                self.sink.line(&layout.line(&Cells::of(row)));
            }
            Form::Table { layout: None, page, bytes } => {
                let cells = Cells::of(row);
                *bytes += cells.bytes();
                page.push(cells);
                if page.len() == PAGE_ROWS || *bytes >= PAGE_BYTES {
                    self.first_page();
                }
            }
            Form::Line { width } => {
                if self.count > 1 {
                    self.sink.line("");
                }
                for (name, value) in self.columns.iter().zip(row) {
                    let space = width.saturating_sub(name.chars().count());
                    let text = table::printable(&table::text(value));
                    self.sink.line(&format!("{}{name} = {text}", " ".repeat(space)));
                }
            }
            Form::Csv => {
                let cell = |value: &Value| match value {
                    Value::Null => String::new(),
                    other => table::text(other),
                };
                self.sink.text(&csv_line(&row.iter().map(cell).collect::<Vec<_>>()));
            }
            Form::Json => {
                let cells = self.columns.iter().cloned().zip(row.iter().map(to_json));
                let object = Json::Object(serde_json::Map::from_iter(cells));
                self.sink.line(&object.to_string());
            }
            Form::Object => {
                self.sink.text(if self.count > 1 { ",[" } else { "[" });
                for (nth, value) in row.iter().enumerate() {
                    if nth > 0 {
                        self.sink.text(",");
                    }
                    self.sink.json(&to_json(value));
                }
                self.sink.text("]");
            }
        }
    }

    /// The next row may take its time.
    pub fn pause(&mut self) {
        self.sink.pause();
    }

    pub fn end(mut self, how: &Ended<'_>) {
        match &mut self.form {
            Form::Table { layout, .. } => {
                if layout.is_none() {
                    self.first_page();
                }
                if let Ended::Done = how {
                    let (count, footer) = (self.count, &self.footer);
                    let note = format!("({count} row{} {footer}", plural(count));
                    self.sink.line(&self.output.dim(&note));
                }
            }
            Form::Line { .. } | Form::Csv | Form::Json => {}
            Form::Object => {
                self.sink.text("]");
                if let Ended::Failed(error) = how {
                    // Members behind those that are written already.
                    let object = error_object(error).to_string();
                    self.sink.text(",");
                    self.sink.text(object.trim_start_matches('{').trim_end_matches('}'));
                }
                self.sink.line("}");
            }
        }
        let Ok(()) = self.sink.flush() else { unreachable!("failure ends the process") };
    }

    fn first_page(&mut self) {
        let Form::Table { layout, page, .. } = &mut self.form else { return };
        let layout = layout.insert(Layout::of(&self.columns, page));
        for line in layout.head() {
            self.sink.line(&line);
        }
        for row in std::mem::take(page) {
            self.sink.line(&layout.line(&row));
        }
    }
}

/// With its line end.
fn csv_line(cells: &[String]) -> String {
    let mut bytes = Vec::new();
    let mut writer = csv::WriterBuilder::new().buffer_capacity(1 << 10).from_writer(&mut bytes);
    let written = writer.write_record(cells).is_ok() && writer.flush().is_ok();
    assert!(written, "memory takes it all");
    drop(writer);
    String::from_utf8_lossy(&bytes).into_owned()
}
