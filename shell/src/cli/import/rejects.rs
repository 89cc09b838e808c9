//! Rows that could not be imported: as they stood in the file, with line and reason.
//!
//! Invariants: no file but a rejects file is ever written over. It is made only when there is
//! something in it. A rejected row is in the file before the batch without it commits, so an import
//! that was cut off and run again ends with every rejected row in the file, once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Writer};

use crate::cli::Failure;
use crate::cli::args::ImportArgs;

#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    header: Vec<String>,
    writer: Option<Writer<File>>,
    /// Lines of the imported file that are in the rejects file.
    lines: BTreeSet<u64>,
}

/// Where rejects go: as told, or `FILE.rejects.csv` in the current directory.
#[must_use]
pub fn path(args: &ImportArgs) -> PathBuf {
    if let Some(path) = &args.rejects {
        return path.clone();
    }
    let stem = args.file.file_stem().unwrap_or(args.file.as_os_str());
    let mut name = stem.to_os_string();
    name.push(".rejects.csv");
    PathBuf::from(name)
}

impl Rejects {
    /// Goes on with the file of an earlier run of the same import, or starts anew.
    pub fn open(path: &Path, header: &[String], resume: bool) -> Result<Rejects, Failure> {
        let there = refuse_other_files(path)?;
        let lines = match (there, resume) {
            (true, true) => lines_of(path)?,
            (true, false) => {
                std::fs::remove_file(path).map_err(|error| failed(path, &error))?;
                BTreeSet::new()
            }
            (false, _) => BTreeSet::new(),
        };
        Ok(Rejects { path: path.to_path_buf(), header: header.to_vec(), writer: None, lines })
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.lines.len() as u64
    }

    #[must_use]
    pub fn contains(&self, line: u64) -> bool {
        self.lines.contains(&line)
    }

    /// Returns when the row is in the file; once is enough.
    pub fn add(&mut self, line: u64, fields: &ByteRecord, reason: &str) -> Result<(), Failure> {
        if self.contains(line) {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let new = self.lines.is_empty();
                let file = File::options().create(true).append(true).open(&self.path);
                let file = file.map_err(|error| failed(&self.path, &error))?;
                let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
                if new {
                    let header = ["line", "reason"].into_iter();
                    let header = header.chain(self.header.iter().map(String::as_str));
                    writer.write_record(header).map_err(|error| failed(&self.path, &error))?;
                }
                self.writer.insert(writer)
            }
        };
        let number = line.to_string();
        let row = [number.as_bytes(), reason.as_bytes()].into_iter().chain(fields.iter());
        writer.write_record(row).map_err(|error| failed(&self.path, &error))?;
        writer.flush().map_err(|error| failed(&self.path, &error))?;
        self.lines.insert(line);
        Ok(())
    }
}

/// Whether a rejects file is there. Any other file is somebody's and is left alone: the imported
/// one, for example, when it is named by mistake.
fn refuse_other_files(path: &Path) -> Result<bool, Failure> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(path, &error)),
    };
    let mut first = [0; BEGINNING.len()];
    let mut size = 0;
    while let Some(count) =
        NonZero::new(file.read(&mut first[size..]).map_err(|error| failed(path, &error))?)
    {
        size += count.get();
    }
    if size == 0 || first[..] == *BEGINNING {
        return Ok(true);
    }
    Err(Failure::CannotTell(format!(
        "{} is there and is no rejects file; name another with --rejects FILE",
        path.display()
    )))
}

/// What a rejects file begins with.
const BEGINNING: &[u8] = b"line,reason";

/// Line numbers in a rejects file; none when it is gone.
fn lines_of(path: &Path) -> Result<BTreeSet<u64>, Failure> {
    let mut lines = BTreeSet::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(lines),
        Err(error) => return Err(failed(path, &error)),
    };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    for record in reader.byte_records() {
        let record = record.map_err(|error| failed(path, &error))?;
        let line = record.get(0).and_then(|field| std::str::from_utf8(field).ok());
        lines.extend(line.and_then(|line| line.parse::<u64>().ok()));
    }
    Ok(lines)
}

fn failed(path: &Path, error: &impl ToString) -> Failure {
    Failure::Failed(format!(
        "cannot write the rejects file {}: {}; name another with --rejects FILE",
        path.display(),
        error.to_string()
    ))
}
