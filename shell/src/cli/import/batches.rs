//! A CSV file as a sequence of batches, and what one pass over it tells.
//!
//! Invariant: batches are a function of the file's bytes alone: the same file is cut the same way
//! on every run, whatever the options.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder};
use verity_core::crypto::{ChainHash, ChainHasher};
use verity_core::limits::COLUMNS_MAX;

use super::infer::Candidates;
use super::{BYTES_MAX, ROWS_MAX, go_on, io_code, refused};
use crate::cli::{Failure, Output};

/// What the whole file says.
#[derive(Debug)]
pub struct Survey {
    pub header: Vec<String>,
    pub candidates: Vec<Candidates>,
    pub rows: u64,
    /// SHA-256 of the file's bytes.
    pub hash: ChainHash,
    pub empty_lines: EmptyLines,
}

/// Lines with nothing on them are no rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmptyLines {
    pub count: u64,
    /// Number of the first one.
    pub first: u64,
}

/// One row and where it stands.
#[derive(Debug)]
pub struct CsvRow {
    pub line: u64,
    pub fields: ByteRecord,
}

/// Reads the file once: hash, header, types.
pub fn survey(path: &Path, output: &Output) -> Result<Survey, Failure> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "no regular file" };
        return Err(refused(
            "42809",
            format!(
                "{} is {what}; import reads a file several times, so it must be a regular one",
                path.display()
            ),
        ));
    }
    let bytes = metadata.len();
    let (hash, empty_lines) = read_whole(path)?;
    let mut reader = open(path)?;
    let header = header(path, &mut reader)?;
    let mut candidates = vec![Candidates::default(); header.len()];
    let bar = output.progress(bytes, "bytes", "reading");
    let mut record = ByteRecord::new();
    let mut rows = 0;
    while read(path, &mut reader, &mut record)? {
        rows += 1;
        if record.len() == header.len() {
            for (field, candidate) in record.iter().zip(&mut candidates) {
                if let Ok(text) = std::str::from_utf8(field) {
                    candidate.observe(text);
                }
            }
        }
        if rows % 4096 == 0 {
            go_on()?;
            bar.set_position(record.position().map_or(0, csv::Position::byte));
        }
    }
    bar.finish_and_clear();
    Ok(Survey { header, candidates, rows, hash, empty_lines })
}

/// Hands out the file batch by batch.
#[derive(Debug)]
pub struct Batches<'a> {
    path: &'a Path,
    reader: Reader<BufReader<File>>,
    lines: Lines,
    /// Read, but of the next batch.
    held: Option<CsvRow>,
}

impl<'a> Batches<'a> {
    pub fn open(path: &'a Path) -> Result<Batches<'a>, Failure> {
        let mut reader = open(path)?;
        header(path, &mut reader)?;
        let lines = Lines::open(path).map_err(|error| unreadable(path, &error))?;
        Ok(Batches { path, reader, lines, held: None })
    }

    /// The next batch; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Vec<CsvRow>>, Failure> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        loop {
            let row = match self.held.take() {
                Some(row) => row,
                None => {
                    let mut fields = ByteRecord::new();
                    if !read(self.path, &mut self.reader, &mut fields)? {
                        break;
                    }
                    let byte = fields.position().map_or(0, csv::Position::byte);
                    let line = self.lines.at(byte);
                    let line = line.map_err(|error| unreadable(self.path, &error))?;
                    CsvRow { line, fields }
                }
            };
            let size = row.fields.as_slice().len();
            if !rows.is_empty() && (rows.len() >= ROWS_MAX || bytes + size > BYTES_MAX) {
                self.held = Some(row);
                break;
            }
            bytes += size;
            rows.push(row);
        }
        Ok((!rows.is_empty()).then_some(rows))
    }
}

/// Counts lines beside the reader, whose own count is off where lines end with a carriage return.
/// A line names a row in the rejects file, so no two rows may have the same one.
#[derive(Debug)]
struct Lines {
    input: BufReader<File>,
    /// Byte behind the byte order mark.
    byte: u64,
    line: u64,
    /// The last byte was a carriage return: a line feed right behind it ends the same line.
    returned: bool,
}

impl Lines {
    fn open(path: &Path) -> std::io::Result<Lines> {
        let mut input = BufReader::with_capacity(256 * 1024, File::open(path)?);
        skip_byte_order_mark(&mut input)?;
        Ok(Lines { input, byte: 0, line: 1, returned: false })
    }

    /// The line of the row that the reader found at a byte, where ends of lines before the row may
    /// still lie. Bytes only grow.
    fn at(&mut self, byte: u64) -> std::io::Result<u64> {
        use std::io::BufRead;
        loop {
            let buffer = self.input.fill_buf()?;
            let Some(next) = buffer.first().copied() else { return Ok(self.line) };
            let ends_line = matches!(next, b'\r' | b'\n');
            if self.byte >= byte && !ends_line {
                return Ok(self.line);
            }
            self.line += u64::from(ends_line && !(next == b'\n' && self.returned));
            self.returned = next == b'\r';
            self.byte += 1;
            self.input.consume(1);
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    refused(io_code(error), format!("cannot read {}: {error}", path.display()))
}

fn open(path: &Path) -> Result<Reader<BufReader<File>>, Failure> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut input = BufReader::with_capacity(256 * 1024, file);
    skip_byte_order_mark(&mut input).map_err(|error| unreadable(path, &error))?;
    // Rows with another number of fields are rejected one by one, not by the reader.
    Ok(ReaderBuilder::new().flexible(true).has_headers(false).from_reader(input))
}

fn skip_byte_order_mark(input: &mut BufReader<File>) -> std::io::Result<()> {
    use std::io::BufRead;
    if input.fill_buf()?.starts_with(b"\xEF\xBB\xBF") {
        input.consume(3);
    }
    Ok(())
}

fn read(
    path: &Path,
    reader: &mut Reader<BufReader<File>>,
    record: &mut ByteRecord,
) -> Result<bool, Failure> {
    reader.read_byte_record(record).map_err(|error| {
        let code = match error.kind() {
            csv::ErrorKind::Io(error) => io_code(error),
            _malformed => "22P04",
        };
        refused(code, format!("cannot read {}: {error}", path.display()))
    })
}

fn header(path: &Path, reader: &mut Reader<BufReader<File>>) -> Result<Vec<String>, Failure> {
    let mut record = ByteRecord::new();
    if !read(path, reader, &mut record)? {
        return Err(refused(
            "22P04",
            format!("{} is empty; the first line must name the columns", path.display()),
        ));
    }
    if record.len() > COLUMNS_MAX {
        return Err(refused(
            "54011",
            format!(
                "{}: the first line names {} columns; a table has 1 to {COLUMNS_MAX} columns",
                path.display(),
                record.len()
            ),
        ));
    }
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for (number, field) in record.iter().enumerate() {
        let number = number + 1;
        let name = match std::str::from_utf8(field) {
            Ok(name) => name.trim().to_string(),
            Err(_) => {
                return Err(refused(
                    "22021",
                    format!("{}: the name of column {number} is not UTF-8", path.display()),
                ));
            }
        };
        if name.is_empty() {
            return Err(refused(
                "22P04",
                format!("{}: column {number} has no name in the first line", path.display()),
            ));
        }
        if names.contains(&name) {
            return Err(refused(
                "42701",
                format!(
                    "{}: column name \"{name}\" appears twice in the first line",
                    path.display()
                ),
            ));
        }
        names.push(name);
    }
    Ok(names)
}

/// The file's hash, and what is between its rows. Its quotes are looked at on the way: where nobody
/// can say which of them close a field, rows swallow each other, so such a file is refused.
fn read_whole(path: &Path) -> Result<(ChainHash, EmptyLines), Failure> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut hasher = ChainHasher::new();
    let mut quotes = Quotes::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        go_on()?;
        match file.read(&mut buffer) {
            Ok(0) if quotes.place == Place::Quoted => {
                return Err(refused(
                    "22P04",
                    format!(
                        "{}: the quoted field that begins in line {} is never closed",
                        path.display(),
                        quotes.opened
                    ),
                ));
            }
            Ok(0) => return Ok((hasher.finish(), quotes.empty)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                quotes.take(&buffer[..count]).map_err(|follows| behind_quote(path, follows))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
}

fn behind_quote(path: &Path, follows: Follows) -> Failure {
    let Follows { byte, line, opened } = follows;
    let began =
        if opened == line { String::new() } else { format!(" that begins in line {opened}") };
    refused(
        "22P04",
        format!(
            "{}: line {line}: '{}' follows the closing quote of a field{began}; behind it where \
             rows end is a guess, so nothing of the file is imported. A quote within a quoted \
             field is written twice",
            path.display(),
            byte.escape_ascii()
        ),
    )
}

/// Where in the grammar of CSV a byte stands, as the reader sees it.
struct Quotes {
    place: Place,
    line: u64,
    /// Line of the last quote that opened a field.
    opened: u64,
    /// The last byte was a carriage return: a line feed right behind it ends the same line.
    returned: bool,
    /// What may be left of a byte order mark: the reader does not see it.
    mark: &'static [u8],
    empty: EmptyLines,
}

/// A byte behind a closing quote that is none of those that may be there.
#[derive(Debug, PartialEq, Eq)]
struct Follows {
    byte: u8,
    line: u64,
    /// Line of the quote that opened the field.
    opened: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    FieldStart,
    Field,
    Quoted,
    /// Behind a quote within quotes: another one is a quote, else the field ends there.
    QuoteInQuoted,
}

impl Quotes {
    const fn new() -> Quotes {
        Quotes {
            place: Place::LineStart,
            line: 1,
            opened: 1,
            returned: false,
            mark: b"\xEF\xBB\xBF",
            empty: EmptyLines { count: 0, first: 0 },
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Follows> {
        for byte in bytes {
            if let Some((first, rest)) = self.mark.split_first() {
                self.mark = if first == byte { rest } else { &[] };
                if first == byte {
                    continue;
                }
            }
            let same_end = *byte == b'\n' && self.returned;
            let ends_line = matches!(byte, b'\r' | b'\n');
            if ends_line && !same_end && self.place == Place::LineStart {
                self.empty.count += 1;
                self.empty.first = if self.empty.count == 1 { self.line } else { self.empty.first };
            }
            self.place = match (self.place, byte) {
                (Place::LineStart | Place::FieldStart, b'"') => {
                    self.opened = self.line;
                    Place::Quoted
                }
                (Place::Quoted, b'"') => Place::QuoteInQuoted,
                (Place::Quoted, _) | (Place::QuoteInQuoted, b'"') => Place::Quoted,
                (_, b',') => Place::FieldStart,
                (_, b'\n' | b'\r') => Place::LineStart,
                (Place::QuoteInQuoted, byte) => {
                    return Err(Follows { byte: *byte, line: self.line, opened: self.opened });
                }
                (Place::LineStart | Place::FieldStart | Place::Field, _) => Place::Field,
            };
            self.line += u64::from(ends_line && !same_end);
            self.returned = *byte == b'\r';
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_file_is_cut_by_rows_and_by_bytes() {
        let mut text = b"a,b\n".to_vec();
        for row in 0..ROWS_MAX + 3 {
            text.extend_from_slice(format!("{row},x\n").as_bytes());
        }
        let long = "y".repeat(BYTES_MAX);
        text.extend_from_slice(format!("1,{long}\n2,{long}\n").as_bytes());
        let file = file(&text);
        let mut batches = Batches::open(file.path()).unwrap();
        let mut sizes = Vec::new();
        while let Some(batch) = batches.next().unwrap() {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, vec![ROWS_MAX, 3, 1, 1]);
    }

    #[test]
    fn a_row_knows_its_line_however_lines_end() {
        for (text, lines) in [
            ("a,b\n1,2\n3,4\n", vec![2, 3]),
            ("a,b\r\n1,2\r\n3,4\r\n", vec![2, 3]),
            ("a,b\r1,2\r3,4\r", vec![2, 3]),
            ("a,b\n\n\n1,2\n\n3,4", vec![4, 6]),
            ("\u{feff}a,b\r\n1,\"x\r\ny\"\r\n\r\n3,4\n5,6\r\n", vec![2, 5, 6]),
        ] {
            let file = file(text.as_bytes());
            let mut batches = Batches::open(file.path()).unwrap();
            let batch = batches.next().unwrap().unwrap();
            let found: Vec<u64> = batch.iter().map(|row| row.line).collect();
            assert_eq!(found, lines, "{text:?}");
        }
    }

    #[test]
    fn headers_must_name_every_column_once() {
        for bad in ["", "a,,b\n", "a,a\n", "a,\u{fffd}\n"] {
            let mut bytes = bad.as_bytes().to_vec();
            if bad.contains('\u{fffd}') {
                bytes = b"a,\xff\n".to_vec();
            }
            let file = file(&bytes);
            assert!(Batches::open(file.path()).is_err(), "{bad:?}");
        }
        let file = file(b"\xEF\xBB\xBFId,NAME\n1,x\n");
        let survey = survey(file.path(), &Output::new(true)).unwrap();
        assert_eq!(survey.header, vec!["Id", "NAME"]);
        assert_eq!(survey.rows, 1);
    }
}
