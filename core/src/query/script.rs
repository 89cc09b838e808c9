//! A script cut into statements, however long it is: one walk, nothing kept but where they lie.
//!
//! What quotes and comments are is what the tokenizer of `parse` says; a statement is looked at by
//! that one only when it runs, so a script may hold any number of them.
//!
//! Invariant: on any text that the tokenizer takes, the ranges are those between its semicolons
//! (tested on random texts).

use alloc::vec::Vec;
use core::ops::Range;

use crate::query::error::{SqlError, SqlState};

/// Byte ranges of the statements of a script, without their semicolons and the comments around
/// them.
pub fn split(sql: &str) -> Result<Vec<Range<usize>>, SqlError> {
    let mut statements = Vec::new();
    let mut current: Option<Range<usize>> = None;
    let mut scan = Scan { sql, at: 0 };
    loop {
        let from = scan.at;
        match scan.next()? {
            None => break,
            Some(Piece::Gap) => {}
            Some(Piece::End) => statements.extend(current.take()),
            Some(Piece::Text) => {
                let start = current.map_or(from, |range| range.start);
                current = Some(start..scan.at);
            }
        }
    }
    statements.extend(current);
    Ok(statements)
}

/// Of a text of which more may follow: byte ranges of the statements that a semicolon has ended,
/// and where the rest begins. What comes behind does not change them.
#[must_use]
pub fn split_complete(sql: &str) -> (Vec<Range<usize>>, usize) {
    let (mut statements, mut rest) = (Vec::new(), 0);
    let mut current: Option<Range<usize>> = None;
    let mut scan = Scan { sql, at: 0 };
    loop {
        let from = scan.at;
        match scan.next() {
            // What is not closed yet may be.
            Ok(None) | Err(_) => return (statements, rest),
            Ok(Some(Piece::Gap)) => {}
            Ok(Some(Piece::End)) => {
                statements.extend(current.take());
                rest = scan.at;
            }
            Ok(Some(Piece::Text)) => {
                let start = current.map_or(from, |range| range.start);
                current = Some(start..scan.at);
            }
        }
    }
}

enum Piece {
    /// White space or a comment.
    Gap,
    /// A semicolon.
    End,
    Text,
}

struct Scan<'a> {
    sql: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn next(&mut self) -> Result<Option<Piece>, SqlError> {
        let rest = &self.sql[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let (size, piece) = match first {
            ';' => (1, Piece::End),
            '-' if rest.starts_with("--") => {
                (rest.find('\n').map_or(rest.len(), |newline| newline + 1), Piece::Gap)
            }
            '/' if rest.starts_with("/*") => (self.comment(rest)?, Piece::Gap),
            '\'' => (self.quoted(rest, 0, false)?, Piece::Text),
            '"' => (self.quoted(rest, 0, false)?, Piece::Text),
            'e' | 'E' if rest[1..].starts_with('\'') => (self.quoted(rest, 1, true)?, Piece::Text),
            '$' => (self.dollar(rest)?, Piece::Text),
            _ if first.is_whitespace() => (first.len_utf8(), Piece::Gap),
            // A number ends where its digits do: `1E'…'` is a number and a text.
            '0'..='9' => {
                (rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()), Piece::Text)
            }
            _ if is_word(first) => (rest.find(|c| !is_word(c)).unwrap_or(rest.len()), Piece::Text),
            _ => (first.len_utf8(), Piece::Text),
        };
        self.at += size;
        Ok(Some(piece))
    }

    fn unterminated(&self, what: &str) -> SqlError {
        let place = u32::try_from(self.at).unwrap_or(u32::MAX);
        SqlError::new(SqlState::SyntaxError, alloc::format!("Unterminated {what}")).at(place)
    }

    /// Comments nest.
    fn comment(&self, rest: &str) -> Result<usize, SqlError> {
        let bytes = rest.as_bytes();
        let (mut at, mut depth) = (2, 1_usize);
        while depth > 0 {
            match bytes.get(at..at + 2) {
                Some(b"/*") => (at, depth) = (at + 2, depth + 1),
                Some(b"*/") => (at, depth) = (at + 2, depth - 1),
                Some(_) => at += 1,
                None => return Err(self.unterminated("multi-line comment")),
            }
        }
        Ok(at)
    }

    /// Up to the closing quote, which is like the one at `open`; a doubled one stands for itself.
    fn quoted(&self, rest: &str, open: usize, escapes: bool) -> Result<usize, SqlError> {
        let bytes = rest.as_bytes();
        let quote = bytes[open];
        let mut at = open + 1;
        loop {
            match bytes.get(at) {
                Some(b'\\') if escapes => at += 2,
                Some(byte) if *byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
                Some(byte) if *byte == quote => return Ok(at + 1),
                Some(_) => at += 1,
                None if quote == b'"' => return Err(self.unterminated("quoted name")),
                None => return Err(self.unterminated("string literal")),
            }
        }
    }

    /// `$tag$ … $tag$`, or a parameter.
    fn dollar(&self, rest: &str) -> Result<usize, SqlError> {
        let tag = rest[1..].find(|c| !is_word(c)).map_or(rest.len(), |end| end + 1);
        if !rest[tag..].starts_with('$') {
            return Ok(tag);
        }
        let fence = &rest[..=tag];
        match rest[fence.len()..].find(fence) {
            Some(end) => Ok(end + 2 * fence.len()),
            None => Err(self.unterminated("dollar-quoted string")),
        }
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::{split, split_complete};
    use alloc::string::String;
    use alloc::vec::Vec;

    #[test]
    fn statements_lie_where_the_tokenizer_says() {
        let pieces = [
            "SELECT ",
            "1",
            ";",
            ";",
            " ",
            "\n",
            "'a;b'",
            "'it''s;'",
            "\"a;b\"",
            "-- c;'\n",
            "/* ; ' */",
            "/* a /* ; */ b */",
            "E'\\';'",
            "e'\\\\'",
            "nameE",
            "'x'",
            "$1",
            "$$ ; $$",
            "$t$ ;'$$ $t$",
            "é",
            ",",
            "(",
            ")",
            "x'0a'",
            "N'a;'",
            "::",
            "-",
            "/",
            "*",
            "?",
            "\t",
            "_",
            "12.5",
            "'",
            "\"",
            "/*",
        ];
        let mut state = 7_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (state >> 33) as usize % below
        };
        let (mut compared, mut statements) = (0, 0);
        for _ in 0..60_000 {
            let count = 1 + draw(12);
            let text: String = (0..count).map(|_| pieces[draw(pieces.len())]).collect();
            let Ok(expected) = crate::query::parse::split(&text) else { continue };
            assert_eq!(split(&text).as_ref(), Ok(&expected), "{text}");
            // Any beginning of it gives a beginning of these.
            let cut = (0..=draw(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at));
            let (complete, rest) = split_complete(&text[..cut.unwrap_or(0)]);
            assert_eq!(complete, expected[..complete.len()], "{text}");
            assert!(complete.last().is_none_or(|last| last.end < rest), "{text}");
            assert!(expected.get(complete.len()).is_none_or(|next| next.start >= rest), "{text}");
            compared += 1;
            statements += expected.len();
        }
        assert!(compared > 20_000 && statements > 30_000, "{compared} {statements}");
    }

    #[test]
    fn a_script_may_be_long() {
        let statement = "INSERT INTO t VALUES (1, 'x;y');\n";
        let text = statement.repeat(100_000);
        let ranges = split(&text).unwrap();
        assert_eq!(ranges.len(), 100_000);
        let all: Vec<&str> = ranges.iter().map(|range| &text[range.clone()]).collect();
        assert!(all.iter().all(|one| *one == statement.trim_end().trim_end_matches(';')));
    }

    #[test]
    fn what_is_never_closed_has_its_place() {
        for text in ["SELECT 1; SELECT 'a", "SELECT 1; SELECT \"", "SELECT 1; SELECT /* /* */"] {
            assert_eq!(split(text).unwrap_err().position, Some(17), "{text}");
        }
    }
}
