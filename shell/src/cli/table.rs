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
    let header: Vec<String> = columns.iter().map(|name| clean(name)).collect();
    let cells: Vec<Vec<(String, bool)>> = rows
        .iter()
        .map(|row| row.iter().map(|value| (clean(&text(value)), is_number(value))).collect())
        .collect();
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in &cells {
        for (column, (cell, _)) in row.iter().enumerate() {
            if let Some(width) = widths.get_mut(column) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let pad = |cell: &str, width: usize, right: bool| {
        let space = " ".repeat(width.saturating_sub(cell.chars().count()));
        if right { format!("{space}{cell}") } else { format!("{cell}{space}") }
    };
    let mut lines = Vec::with_capacity(rows.len() + 2);
    let join = |cells: Vec<String>| cells.join(" │ ").trim_end().to_string();
    lines.push(join(header.iter().zip(&widths).map(|(c, w)| pad(c, *w, false)).collect()));
    lines.push(widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().join("─┼─"));
    for row in &cells {
        lines.push(join(
            row.iter().zip(&widths).map(|((cell, right), w)| pad(cell, *w, *right)).collect(),
        ));
    }
    lines
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
