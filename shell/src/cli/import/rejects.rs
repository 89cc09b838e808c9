//! Rows that could not be imported: as they stood in the file, with line and reason.
//!
//! Every run writes the whole file anew, under another name until all rows are in it and on the
//! disk: rows of earlier runs come from what the database has on record of them (`record`). So it
//! does not matter whether the file of an earlier run is still there.
//!
//! Invariants: no file but a rejects file is ever written over, and without `--rejects` only the
//! one of the same content: its name has the content's hash. It is made only when there is
//! something in it.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Writer};
use verity_core::crypto::ChainHash;

use super::{io_code, refused};
use crate::cli::args::ImportArgs;
use crate::cli::{Failure, Outcome};

#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    /// Where it is until it is whole.
    partial: PathBuf,
    header: Vec<String>,
    writer: Option<Writer<File>>,
}

/// Where rejects go: as told, or `FILE.HASH.rejects.csv` in the current directory, with the first
/// eight digits of the hash of what is imported.
#[must_use]
pub fn path(args: &ImportArgs, hash: &ChainHash) -> PathBuf {
    if let Some(path) = &args.rejects {
        return path.clone();
    }
    let stem = args.file.file_stem().unwrap_or(args.file.as_os_str());
    let mut name = stem.to_os_string();
    let digits: String = hash.0[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    name.push(format!(".{digits}.rejects.csv"));
    PathBuf::from(name)
}

impl Rejects {
    /// `asked`: somebody named the file, so that it cannot be written is told now, not when rows
    /// are in the database.
    pub fn new(path: &Path, asked: bool, header: &[String]) -> Result<Rejects, Failure> {
        let mut partial = path.as_os_str().to_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        refuse_other_files(path)?;
        refuse_other_files(&partial)?;
        if asked {
            try_to_write(&partial).map_err(|error| failed(&partial, &error))?;
        }
        let header = header.to_vec();
        Ok(Rejects { path: path.to_path_buf(), partial, header, writer: None })
    }

    /// Rows come in the order of their lines.
    pub fn add(&mut self, line: u64, fields: &ByteRecord, reason: &str) -> Result<(), Failure> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                // What is in it is what the directory keeps sealed.
                let mut options = File::options();
                options.write(true).create(true).truncate(true).mode(0o600);
                let file = options.open(&self.partial);
                let file = file.map_err(|error| failed(&self.partial, &error))?;
                let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
                let header = ["line", "reason"].into_iter();
                let header = header.chain(self.header.iter().map(String::as_str));
                writer.write_record(header).map_err(|error| failed(&self.partial, &error))?;
                self.writer.insert(writer)
            }
        };
        let number = line.to_string();
        let row = [number.as_bytes(), reason.as_bytes()].into_iter().chain(fields.iter());
        writer.write_record(row).map_err(|error| failed(&self.partial, &error))?;
        Ok(())
    }

    /// Returns when all rows are in the file and on the disk.
    pub fn finish(self) -> Outcome {
        let Some(writer) = self.writer else { return Ok(()) };
        let file = writer.into_inner().map_err(|error| failed(&self.partial, &error))?;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        file.sync_all()
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| failed(&self.path, &error))
    }
}

/// Leaves what is there as it is.
fn try_to_write(path: &Path) -> std::io::Result<()> {
    match File::options().write(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            File::options().write(true).open(path).map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Any file that is no rejects file is somebody's and is left alone: the imported one, for example,
/// when it is named by mistake.
fn refuse_other_files(path: &Path) -> Result<(), Failure> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
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
        return Ok(());
    }
    Err(refused(
        "58P02",
        format!(
            "{} is there and is no rejects file; name another with --rejects FILE",
            path.display()
        ),
    ))
}

/// What a rejects file begins with.
const BEGINNING: &[u8] = b"line,reason";

fn failed(path: &Path, error: &(dyn Error + 'static)) -> Failure {
    let why = format!(
        "cannot write the rejects file {}: {error}; name another with --rejects FILE",
        path.display(),
    );
    let system = error.downcast_ref::<std::io::Error>().or_else(|| error.source()?.downcast_ref());
    super::failed(system.map_or("58030", io_code), why)
}
