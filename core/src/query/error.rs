//! What SQL can answer instead of rows: a stable code, a sentence, a place for the caret, a way
//! out.
//!
//! Invariants: every code is a five-character SQLSTATE that never changes its meaning; `retryable`
//! is a function of the code; `position` is a byte offset into the statement's own text.

use crate::limits::ERROR_MESSAGE_SIZE_MAX;
use alloc::string::String;
use core::fmt;

macro_rules! states {
    ($( $(#[$doc:meta])* $name:ident = $code:literal ),* $(,)?) => {
        /// SQLSTATE, as PostgreSQL uses them where it has one; `VY…` are our own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum SqlState { $( $(#[$doc])* $name ),* }

        impl SqlState {
            pub const ALL: &'static [SqlState] = &[$(SqlState::$name),*];

            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $( SqlState::$name => $code ),* }
            }

            #[must_use]
            pub fn from_code(code: &str) -> Option<SqlState> {
                match code { $( $code => Some(SqlState::$name), )* _ => None }
            }
        }
    };
}

states! {
    SyntaxError = "42601",
    UndefinedTable = "42P01",
    UndefinedColumn = "42703",
    UndefinedFunction = "42883",
    UndefinedParameter = "42P02",
    DuplicateTable = "42P07",
    DuplicateColumn = "42701",
    DatatypeMismatch = "42804",
    GroupingError = "42803",
    InvalidDefinition = "42P16",
    InvalidColumnReference = "42P10",
    ReservedName = "42939",
    /// Understood, and deliberately (or not yet) not done; the hint names the alternative.
    FeatureNotSupported = "0A000",
    NumericOutOfRange = "22003",
    StringTooLong = "22001",
    DivisionByZero = "22012",
    InvalidText = "22P02",
    InvalidDatetime = "22007",
    DatetimeOverflow = "22008",
    InvalidParameterValue = "22023",
    InvalidEscape = "22025",
    CardinalityViolation = "21000",
    NotNullViolation = "23502",
    UniqueViolation = "23505",
    CheckViolation = "23514",
    /// A statement passes one of the written limits; nothing was changed.
    LimitExceeded = "54000",
    /// More bytes, tokens, nesting or parameters than a statement may have.
    StatementTooComplex = "54001",
    TooManyColumns = "54011",
    /// What the statement was bound to has changed since; binding it again will do.
    SchemaChanged = "40001",
    /// `AS OF` names a position or time that the log does not hold.
    InvalidPosition = "VY001",
    /// Bytes that should hold a command, row or schema do not.
    CorruptEncoding = "XX001",
}

impl SqlState {
    /// Whether the same request may succeed when simply sent again.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, SqlState::SchemaChanged)
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A message may quote what a client sent, and an outcome keeps it for good: it has its bound.
fn capped(mut message: String) -> String {
    if message.len() > ERROR_MESSAGE_SIZE_MAX {
        let end = (0..=ERROR_MESSAGE_SIZE_MAX).rev().find(|&at| message.is_char_boundary(at));
        message.truncate(end.unwrap_or(0));
        message.push('…');
    }
    message
}

/// Why a statement was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    pub code: SqlState,
    pub message: String,
    /// Byte offset into the SQL text, for the caret.
    pub position: Option<u32>,
    /// What to do instead.
    pub hint: Option<String>,
}

impl SqlError {
    #[must_use]
    pub fn new(code: SqlState, message: impl Into<String>) -> SqlError {
        SqlError { code, message: capped(message.into()), position: None, hint: None }
    }

    #[must_use]
    pub fn at(mut self, position: u32) -> SqlError {
        self.position.get_or_insert(position);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(capped(hint.into()));
        self
    }

    #[must_use]
    pub fn retryable(&self) -> bool {
        self.code.retryable()
    }

    /// The error with the line it is about and a caret under the place, for people.
    #[must_use]
    pub fn render(&self, sql: &str) -> String {
        use core::fmt::Write;
        let mut out = String::new();
        let _ = write!(out, "error {}: {}", self.code, self.message);
        if let Some(position) = self.position {
            let mut position = (position as usize).min(sql.len());
            while !sql.is_char_boundary(position) {
                position -= 1;
            }
            let start = sql[..position].rfind('\n').map_or(0, |newline| newline + 1);
            let end = sql[position..].find('\n').map_or(sql.len(), |newline| position + newline);
            let number = sql[..position].matches('\n').count() + 1;
            // A long line (bulk INSERT) is shown only around the caret.
            let from =
                sql[start..position].char_indices().rev().nth(59).map_or(start, |c| start + c.0);
            let to = sql[position..end].char_indices().nth(40).map_or(end, |c| position + c.0);
            let label = alloc::format!("line {number}: ");
            let _ = write!(out, "\n{label}{}\n", sql[from..to].replace('\t', " "));
            let indent = label.len() + sql[from..position].chars().count();
            out.extend(core::iter::repeat_n(' ', indent));
            out.push('^');
        }
        if let Some(hint) = &self.hint {
            let _ = write!(out, "\nhint: {hint}");
        }
        out
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for SqlError {}
