//! Rows as a table for people.
//!
//! Invariants: NULL is shown as `NULL`; control characters never reach the terminal (data could
//! otherwise repaint it); a cell is cut at the width limit and says so with `…`.

use verity::Value;

/// Characters of a cell that are shown.
const CELL_WIDTH_MAX: usize = 48;

/// Lines of the table: header, rule, rows.
#[must_use]
pub fn render(columns: &[String], rows: &[Vec<Value>]) -> Vec<String> {
    let rows: Vec<Cells> = rows.iter().map(|row| Cells::of(row)).collect();
    let layout = Layout::of(columns, &rows);
    let lines = rows.iter().map(|row| layout.line(row));
    layout.head().into_iter().chain(lines).collect()
}

/// A row as it is shown, but for the space around its cells.
#[derive(Debug)]
pub struct Cells(Vec<(String, bool)>);

impl Cells {
    #[must_use]
    pub fn of(row: &[Value]) -> Cells {
        Cells(row.iter().map(|value| (clean(&text(value)), is_number(value))).collect())
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(cell, _)| cell.len() + size_of::<(String, bool)>()).sum()
    }
}

/// Widths of columns, by some of the rows; what is wider in others pushes the rest of its line to
/// the right.
#[derive(Debug)]
pub struct Layout {
    header: Vec<String>,
    widths: Vec<usize>,
}

impl Layout {
    #[must_use]
    pub fn of(columns: &[String], rows: &[Cells]) -> Layout {
        let header: Vec<String> = columns.iter().map(|name| clean(name)).collect();
        let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
        for Cells(row) in rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        Layout { header, widths }
    }

    /// Header and rule.
    #[must_use]
    pub fn head(&self) -> [String; 2] {
        let names = self.header.iter().map(|name| (name.as_str(), false));
        let rule = self.widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>();
        [self.join(names), rule.join("─┼─")]
    }

    #[must_use]
    pub fn line(&self, row: &Cells) -> String {
        self.join(row.0.iter().map(|(cell, is_number)| (cell.as_str(), *is_number)))
    }

    fn join<'a>(&self, cells: impl Iterator<Item = (&'a str, bool)>) -> String {
        let pad = |((cell, right), width): ((&str, bool), &usize)| {
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            if right { format!("{space}{cell}") } else { format!("{cell}{space}") }
        };
        let cells: Vec<String> = cells.zip(&self.widths).map(pad).collect();
        cells.join(" │ ").trim_end().to_string()
    }
}

/// A value as text.
#[must_use]
pub fn text(value: &Value) -> String {
    value.to_string()
}

fn is_number(value: &Value) -> bool {
    matches!(value, Value::Integer(_) | Value::Double(_) | Value::Decimal(_))
}

/// Without control characters, which could repaint the terminal; line ends stay.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect()
}

fn clean(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == CELL_WIDTH_MAX {
            out.pop();
            out.push('…');
            break;
        }
        out.push(if c.is_control() { '·' } else { c });
    }
    out
}
