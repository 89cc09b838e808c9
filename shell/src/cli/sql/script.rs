//! Statements one after the other, from a text or from a stream, each as soon as it is complete.
//!
//! Invariants: whatever pieces a stream comes in, the statements are those that its whole text has.
//! What is held is the statement that is not complete yet, at most `STATEMENT_BYTES_MAX` and a
//! chunk. What is wrong with the text is told when everything before it was given out.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;

use verity_core::query::SqlError;
use verity_core::query::script::{split, split_complete};

/// Of one statement with the comments before it. The database takes less; it says so itself.
pub const STATEMENT_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES: usize = 64 << 10;

/// Why there is no next statement.
#[derive(Debug)]
pub enum Problem {
    Read(std::io::Error),
    NotUtf8 {
        at: u64,
    },
    TooLong,
    /// A quote or a comment that is never closed, in `text`, which begins at byte `base`.
    Sql {
        error: SqlError,
        text: String,
        base: u64,
    },
}

#[derive(Debug)]
pub struct Script<R> {
    source: Option<R>,
    /// What was read and not given out, from byte `base` of the whole on.
    bytes: Vec<u8>,
    base: u64,
    /// Complete statements in `bytes`, and how far they go.
    ready: VecDeque<Range<usize>>,
    taken: usize,
    /// Behind what is left there are bytes that are no text.
    not_utf8: bool,
}

impl Script<std::io::Empty> {
    /// All of it is here.
    pub fn of(text: &str) -> Result<Script<std::io::Empty>, SqlError> {
        let ready = split(text)?.into();
        let bytes = text.as_bytes().to_vec();
        let taken = bytes.len();
        Ok(Script { source: None, bytes, base: 0, ready, taken, not_utf8: false })
    }
}

impl<R: Read> Script<R> {
    pub fn read(source: R) -> Script<R> {
        let (bytes, ready) = (Vec::new(), VecDeque::new());
        Script { source: Some(source), bytes, base: 0, ready, taken: 0, not_utf8: false }
    }

    /// The next statement, without its semicolon; waits for it. None at the end.
    pub fn next(&mut self) -> Result<Option<String>, Problem> {
        loop {
            if let Some(range) = self.ready.pop_front() {
                let text = String::from_utf8_lossy(&self.bytes[range]);
                return Ok(Some(text.into_owned()));
            }
            self.bytes.drain(..self.taken);
            self.base += self.taken as u64;
            self.taken = 0;
            if self.not_utf8 {
                return Err(Problem::NotUtf8 { at: self.base + self.bytes.len() as u64 });
            }
            if self.source.is_none() {
                return Ok(None);
            }
            if self.bytes.len() > STATEMENT_BYTES_MAX {
                return Err(Problem::TooLong);
            }
            self.fill()?;
        }
    }

    /// One read more, and what it completes.
    fn fill(&mut self) -> Result<(), Problem> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let before = self.bytes.len();
        self.bytes.resize(before + CHUNK_BYTES, 0);
        let count = loop {
            match source.read(&mut self.bytes[before..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::Read(error)),
                Ok(count) => break count,
            }
        };
        self.bytes.truncate(before + count);
        if count == 0 {
            self.source = None;
            return self.finish();
        }
        // Nothing else completes a statement; a long text is not looked through for each chunk.
        let may_end = self.bytes[before..].contains(&b';');
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if may_end => self.take(split_complete(text)),
            Ok(_) => {}
            Err(error) => {
                let valid = error.valid_up_to();
                self.not_utf8 = error.error_len().is_some();
                if let Ok(text) = std::str::from_utf8(&self.bytes[..valid])
                    && may_end
                {
                    self.take(split_complete(text));
                }
                if self.not_utf8 {
                    self.bytes.truncate(valid);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, (ranges, taken): (Vec<Range<usize>>, usize)) {
        (self.ready, self.taken) = (ranges.into(), taken);
    }

    /// The input has ended: so has its last statement.
    fn finish(&mut self) -> Result<(), Problem> {
        let text = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            Err(error) => {
                return Err(Problem::NotUtf8 { at: self.base + error.valid_up_to() as u64 });
            }
        };
        match split(text) {
            Ok(ranges) => {
                self.take((ranges, self.bytes.len()));
                Ok(())
            }
            Err(error) => Err(Problem::Sql { error, text: text.to_string(), base: self.base }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one read after the other.
    struct Pieces<'a>(VecDeque<&'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let Some(piece) = self.0.pop_front() else { return Ok(0) };
            let count = piece.len().min(into.len());
            into[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.0.push_front(&piece[count..]);
            }
            Ok(count)
        }
    }

    fn all(pieces: &[&[u8]]) -> (Vec<String>, Option<Problem>) {
        let given = pieces.iter().copied().filter(|piece| !piece.is_empty()).collect();
        let mut script = Script::read(Pieces(given));
        let mut statements = Vec::new();
        loop {
            match script.next() {
                Ok(Some(statement)) => statements.push(statement),
                Ok(None) => return (statements, None),
                Err(problem) => return (statements, Some(problem)),
            }
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_statements_of_the_whole() {
        let text =
            "-- é;'\nSELECT 'a;''b', \"x;y\" /* ; /* ' */ */; ;; E'\\';' ;\n$t$ ; $t$;SELECT é";
        let whole: Vec<String> =
            split(text).unwrap().into_iter().map(|range| text[range].to_string()).collect();
        assert_eq!(whole.len(), 4);
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let (statements, problem) = all(&pieces);
                assert!(problem.is_none(), "{problem:?}");
                assert_eq!(statements, whole, "{first} {second}");
            }
        }
    }

    #[test]
    fn a_statement_is_given_out_before_more_is_read() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::ConnectionReset.into())
            }
        }
        let mut script = Script::read(b"SELECT 1; SELECT 2; SELECT".chain(Fails));
        assert_eq!(script.next().unwrap().as_deref(), Some("SELECT 1"));
        assert_eq!(script.next().unwrap().as_deref(), Some("SELECT 2"));
        assert!(matches!(script.next(), Err(Problem::Read(_))));
    }

    #[test]
    fn what_is_wrong_is_told_behind_what_is_right() {
        for pieces in [&[&b"SELECT 1; SELECT 'a"[..]][..], &[b"SELECT 1;", b" SELECT 'a"]] {
            let (statements, problem) = all(pieces);
            assert_eq!(statements, ["SELECT 1"]);
            let Some(Problem::Sql { error, text, base }) = problem else { panic!("{problem:?}") };
            assert_eq!(base + u64::from(error.position.unwrap()), 17);
            assert_eq!(text, " SELECT 'a");
        }
        for bad in [&b"SELECT 1; \xff;"[..], b"SELECT 1; \xc3"] {
            let (statements, problem) = all(&[bad]);
            assert_eq!(statements, ["SELECT 1"]);
            assert!(matches!(problem, Some(Problem::NotUtf8 { at: 10 })), "{problem:?}");
        }
    }

    #[test]
    fn a_statement_without_end_is_not_held() {
        let mut script = Script::read(std::io::repeat(b'x'));
        assert!(matches!(script.next(), Err(Problem::TooLong)));
        assert!(script.bytes.capacity() <= 4 * STATEMENT_BYTES_MAX);
    }
}
