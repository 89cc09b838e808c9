//! A table as the statement that would create it.

use verity::{TableSchema, Value};
use verity_core::query::Expr;

/// `CREATE TABLE …;`, one column a line.
#[must_use]
pub fn create_table(schema: &TableSchema) -> String {
    let mut lines: Vec<String> = Vec::new();
    for column in &schema.columns {
        let mut line = format!("  {} {}", quoted(&column.name), column.column_type);
        if !column.nullable {
            line.push_str(" NOT NULL");
        }
        if let Some(default) = &column.default {
            line.push_str(&format!(" DEFAULT {}", default_text(default)));
        }
        lines.push(line);
    }
    if !schema.hidden_key() {
        let key: Vec<String> =
            schema.primary_key.iter().map(|id| quoted(&schema.column(*id).name)).collect();
        lines.push(format!("  PRIMARY KEY ({})", key.join(", ")));
    }
    for check in &schema.checks {
        lines.push(format!("  CHECK ({})", check.text));
    }
    format!("CREATE TABLE {} (\n{}\n);", quoted(&schema.name), lines.join(",\n"))
}

/// A name as it must be written to mean the same.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn default_text(default: &Expr) -> String {
    match default {
        Expr::Literal(value) => literal(value),
        Expr::Call { function, arguments } if arguments.is_empty() => {
            format!("{}()", function.name())
        }
        _ => "/* an expression */ NULL".to_string(),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Json(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Date(_) | Value::Timestamp(_) | Value::Uuid(_) => format!("'{value}'"),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("X'{digits}'")
        }
        Value::Null
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Double(_)
        | Value::Decimal(_) => value.to_string(),
    }
}
