//! BEGIN, COMMIT and ROLLBACK: words of the command and of the shell, not of the database, which
//! takes a transaction as one request.
//!
//! Invariant: nothing is accepted and ignored: words behind them that are not theirs are refused at
//! their place, and ROLLBACK TO is no ROLLBACK.

use verity_core::query::{SqlError, SqlState};

/// What a statement is to whoever gathers transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Begin,
    Commit,
    Rollback,
    /// Refused by the database, wherever it stands.
    Savepoint,
    /// Any other statement.
    None,
}

pub fn control(statement: &str) -> Result<Control, SqlError> {
    let mut words = statement.split_whitespace();
    let first = words.next().unwrap_or_default();
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let control = match first.to_ascii_uppercase().as_str() {
        "BEGIN" | "START" => Control::Begin,
        "COMMIT" | "END" => Control::Commit,
        "ROLLBACK" | "ABORT" => Control::Rollback,
        "SAVEPOINT" | "RELEASE" => return Ok(Control::Savepoint),
        _ => return Ok(Control::None),
    };
    let mut rest = words.peekable();
    let noise = rest.next_if(|word| is(word, "TRANSACTION") || is(word, "WORK"));
    if is(first, "START") && !noise.is_some_and(|word| is(word, "TRANSACTION")) {
        // Another statement, if it is one.
        return Ok(Control::None);
    }
    let Some(next) = rest.next() else { return Ok(control) };
    if control == Control::Rollback && is(next, "TO") {
        return Ok(Control::Savepoint);
    }
    let place = next.as_ptr() as usize - statement.as_ptr() as usize;
    let first = first.to_ascii_uppercase();
    Err(SqlError::new(SqlState::FeatureNotSupported, format!("{first} takes no options"))
        .at(u32::try_from(place).unwrap_or(u32::MAX))
        .hint(format!(
            "write {first} alone: a transaction is serializable, and runs as one request at COMMIT"
        )))
}

/// Between the statements of a transaction that are sent as one text.
const BETWEEN: &str = ";\n";

pub fn joined(statements: &[impl AsRef<str>]) -> String {
    let all: Vec<&str> = statements.iter().map(AsRef::as_ref).collect();
    all.join(BETWEEN)
}

/// The statement of a joined text that a byte lies in, from 0, and where in it.
pub fn place_in(statements: &[impl AsRef<str>], offset: usize) -> (usize, usize) {
    let mut start = 0;
    for (nth, statement) in statements.iter().enumerate() {
        let end = start + statement.as_ref().len() + BETWEEN.len();
        if offset < end || nth + 1 == statements.len() {
            return (nth, offset - start);
        }
        start = end;
    }
    (0, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_transactions_are_known_and_no_others() {
        for (text, wanted) in [
            ("BEGIN", Control::Begin),
            ("begin  work", Control::Begin),
            ("START TRANSACTION", Control::Begin),
            ("START", Control::None),
            ("COMMIT", Control::Commit),
            ("End Transaction", Control::Commit),
            ("ROLLBACK", Control::Rollback),
            ("ABORT WORK", Control::Rollback),
            ("ROLLBACK TO a", Control::Savepoint),
            ("ROLLBACK WORK\nTO SAVEPOINT a", Control::Savepoint),
            ("SAVEPOINT a", Control::Savepoint),
            ("RELEASE a", Control::Savepoint),
            ("BEGINNING", Control::None),
            ("INSERT INTO t VALUES (1)", Control::None),
        ] {
            assert_eq!(control(text), Ok(wanted), "{text}");
        }
        for (text, place) in [
            ("BEGIN READ ONLY", 6),
            ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE", 18),
            ("COMMIT AND CHAIN", 7),
            ("ROLLBACK AND CHAIN", 9),
        ] {
            assert_eq!(control(text).unwrap_err().position, Some(place), "{text}");
        }
    }

    #[test]
    fn a_place_in_the_joined_text_is_one_in_a_statement() {
        let statements = ["ab", "", "cdé"];
        assert_eq!(joined(&statements), "ab;\n;\ncdé");
        let places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 1)];
        for (offset, place) in places.into_iter().enumerate() {
            assert_eq!(place_in(&statements, offset), place, "{offset}");
        }
    }
}
