//! A data directory looked at from outside: nothing is ever written to it.
//!
//! Purpose: `verify`, `inspect` and `rebuild --check` run the core's own readers over the files as
//! they are. Effects are carried out at once, on this thread; what the core would write lies over
//! the files ([`overlay`]), and is gone afterwards.
//!
//! Invariants: no file is opened for writing. A read past the end of a file, or of a file that does
//! not exist, gives zeros, as with the live disk.
//!
//! Fault model: files may be missing, short, unreadable or hold anything.

mod overlay;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use verity_core::event::Event;
use verity_core::io::{Address, Effect, Effects, FileId, Input, IoError, KeyError};
use verity_core::limits::PAGE_SIZE;

use crate::disk::files::{to_errno, words};
use crate::disk::job::to_io_error;
use crate::disk::master_key::MasterKey;
use crate::disk::paths;
use overlay::Overlay;

#[derive(Debug)]
pub struct Offline {
    root: PathBuf,
    /// Without it whatever needs a key answers "unavailable".
    master_key: Option<MasterKey>,
    files: BTreeMap<FileId, Option<File>>,
    /// Why files could not be opened or read, in words.
    troubles: BTreeMap<FileId, String>,
    written: Overlay,
    /// What the core remarked on, for the report.
    pub events: Vec<Event>,
    /// Pages that the core wanted to write.
    pub writes: u64,
}

/// Files open at a time.
const OPEN_MAX: usize = 64;
/// Files whose trouble is kept in words.
const TROUBLES_MAX: usize = 64;

impl Offline {
    #[must_use]
    pub fn new(root: &Path, master_key: Option<MasterKey>) -> Offline {
        Offline {
            root: root.to_path_buf(),
            master_key,
            files: BTreeMap::new(),
            troubles: BTreeMap::new(),
            written: Overlay::default(),
            events: Vec::new(),
            writes: 0,
        }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Why something could not be written over the files.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.written.problem.as_deref()
    }

    /// Length of a file; `None` when it does not exist.
    pub fn size(&mut self, file: FileId) -> Result<Option<u64>, IoError> {
        let path = self.root.join(paths::relative(file));
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.trouble(file, "open", &error)),
        }
    }

    /// What is wrong with a file that cannot be read: its name and the cause.
    #[must_use]
    pub fn why(&self, file: FileId, error: IoError) -> String {
        match self.troubles.get(&file) {
            Some(words) => words.clone(),
            None => format!("{}: {error}", paths::relative(file).display()),
        }
    }

    /// A file that could not be read, if there was one.
    #[must_use]
    pub fn trouble_of_any(&self) -> Option<String> {
        self.troubles.values().next().cloned()
    }

    fn trouble(&mut self, file: FileId, what: &str, error: &std::io::Error) -> IoError {
        let errno = to_errno(error);
        if self.troubles.len() < TROUBLES_MAX {
            let words = words(&self.root.join(paths::relative(file)), what, errno);
            self.troubles.insert(file, words);
        }
        to_io_error(errno)
    }

    /// Carries out all effects; completions in the order of issue.
    pub fn execute(&mut self, effects: &mut Effects, inputs: &mut Vec<Input>) {
        for effect in effects.drain() {
            match effect {
                Effect::Read { io, at, mut pages } => {
                    let result = self.read(at, pages.as_bytes_mut());
                    inputs.push(Input::ReadDone { io, pages, result });
                }
                Effect::Write { io, at, pages, durable: _ } => {
                    self.writes += pages.count() as u64;
                    let mut each = pages.as_slice().iter().enumerate();
                    let result = each.try_for_each(|(number, page)| {
                        let offset = at.offset + (number * PAGE_SIZE) as u64;
                        self.written.write(Address::new(at.file, offset), page)
                    });
                    inputs.push(Input::WriteDone { io, pages, result });
                }
                Effect::Sync { io, .. } | Effect::Create { io, .. } => {
                    inputs.push(Input::Done { io, result: Ok(()) });
                }
                Effect::Remove { io, file } => {
                    self.written.remove(file);
                    self.files.insert(file, None);
                    inputs.push(Input::Done { io, result: Ok(()) });
                }
                Effect::Wrap { io, purpose, key } => {
                    let key = match &self.master_key {
                        Some(master) => master.wrap(purpose, &key),
                        None => Err(KeyError::Unavailable),
                    };
                    inputs.push(Input::Wrapped { io, key });
                }
                Effect::Unwrap { io, purpose, key } => {
                    let key = match &self.master_key {
                        Some(master) => master.unwrap(purpose, &key),
                        None => Err(KeyError::Unavailable),
                    };
                    inputs.push(Input::Unwrapped { io, key });
                }
                Effect::Send { .. } => unreachable!("what is offline sends nothing"),
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    /// Fills `bytes`, a whole number of pages, from the file and what was written over it.
    pub fn read(&mut self, at: Address, bytes: &mut [u8]) -> Result<(), IoError> {
        let result = match self.open(at.file)? {
            Some(file) => read_or_zeros(file, at.offset, bytes),
            None => {
                bytes.fill(0);
                Ok(())
            }
        };
        let result = result.map_err(|error| self.trouble(at.file, "read", &error));
        for (number, page) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
            let offset = at.offset + (number * PAGE_SIZE) as u64;
            self.written.read(Address::new(at.file, offset), page)?;
        }
        result
    }

    fn open(&mut self, file: FileId) -> Result<Option<&File>, IoError> {
        if self.files.len() >= OPEN_MAX && !self.files.contains_key(&file) {
            self.files.retain(|_, open| open.is_none());
        }
        if !self.files.contains_key(&file) {
            let opened = match File::open(self.root.join(paths::relative(file))) {
                Ok(open) => Some(open),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.trouble(file, "open", &error)),
            };
            self.files.insert(file, opened);
        }
        Ok(self.files.get(&file).and_then(Option::as_ref))
    }
}

/// A read past the end of the file gives zeros.
pub fn read_or_zeros(file: &File, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut moved = 0;
    while moved < bytes.len() {
        match file.read_at(&mut bytes[moved..], offset + moved as u64) {
            Ok(0) => {
                bytes[moved..].fill(0);
                return Ok(());
            }
            Ok(count) => moved += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
