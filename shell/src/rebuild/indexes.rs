//! The index files, made anew from their segments.
//!
//! Invariants: an index is written whole beside the old one and takes its place by a rename, so a
//! crash leaves the one or the other, and either is right or known to be damaged. What a log does
//! not hold at its checkpoint is in no index; replay adds it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use verity_core::ids::{Position, SegmentNumber, TenantId};
use verity_core::io::{Effect, Effects, FileId, Input, IoError};
use verity_core::log::{LogFault, LogHead, LogPins, Logs};
use verity_core::superblock::SuperblockState;

use crate::disk::paths;
use crate::offline::Offline;

/// Makes the indexes of all segments of one log; gives how many.
pub fn make(
    files: &mut Offline,
    state: &SuperblockState,
    tenant: TenantId,
    head: &LogHead,
) -> Result<u64, String> {
    for number in 0..=head.segment.get() {
        one(files, state, tenant, head, SegmentNumber::new(number))?;
    }
    Ok(u64::from(head.segment.get()) + 1)
}

fn one(
    files: &mut Offline,
    state: &SuperblockState,
    tenant: TenantId,
    head: &LogHead,
    number: SegmentNumber,
) -> Result<(), String> {
    let segment_positions = state.constants.segment_positions;
    let path = files.root().join(paths::relative(FileId::Index { tenant, number }));
    let mut new = New::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Whoever looks for an entry in an index that is empty has it made.
    let end = (u64::from(number.get()) + 1) * segment_positions;
    let Some(last) = head.next.min(Position::new(end)).previous() else { return Ok(()) };
    let mut logs = Logs::new(segment_positions, state.origin);
    let mut pins = LogPins::default();
    let mut effects = Effects::new();
    loop {
        match logs.read(tenant, head, last) {
            Ok(_) => break,
            Err(LogFault::Missing) => {
                logs.fetch(&mut pins, &mut effects);
                settle(files, &mut new, &mut logs, &mut effects)?;
            }
            Err(fault @ (LogFault::NoSuchPosition { .. } | LogFault::Damaged(_))) => {
                return Err(format!("log of tenant {tenant}: {fault}"));
            }
        }
    }
    logs.release(&mut pins);
    new.take_place().map_err(|error| format!("{}: {error}", path.display()))
}

fn settle(
    files: &mut Offline,
    new: &mut New,
    logs: &mut Logs,
    effects: &mut Effects,
) -> Result<(), String> {
    let mut inputs = Vec::new();
    loop {
        let mut others = Effects::new();
        for effect in effects.drain() {
            match new.execute(effect) {
                Ok(input) => inputs.push(input),
                Err(effect) => others.push(effect),
            }
        }
        files.execute(&mut others, &mut inputs);
        if inputs.is_empty() {
            return Ok(());
        }
        for input in inputs.drain(..) {
            let taken = match input {
                Input::ReadDone { io, pages, result } => {
                    logs.on_read_done(io, pages, result, effects)
                }
                Input::WriteDone { io, pages, result } => {
                    logs.on_write_done(io, pages, result, effects)
                }
                Input::Done { io, result } => logs.on_done(io, result, effects),
                other => unreachable!("a log asks for files only: {other:?}"),
            };
            taken.map_err(|error| match &new.problem {
                Some(problem) => problem.clone(),
                None => error.to_string(),
            })?;
        }
    }
}

/// An index under way, beside the one it replaces.
struct New {
    place: PathBuf,
    path: PathBuf,
    file: File,
    problem: Option<String>,
    placed: bool,
}

impl New {
    fn create(place: &Path) -> std::io::Result<New> {
        let path = place.with_extension("index.new");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path)?;
        Ok(New { place: place.to_path_buf(), path, file, problem: None, placed: false })
    }

    /// Serves what is about the index; gives everything else back.
    fn execute(&mut self, effect: Effect) -> Result<Input, Effect> {
        match effect {
            Effect::Read { io, at, mut pages } if is_index(at.file) => {
                pages.as_bytes_mut().fill(0);
                let mut moved = 0;
                while let Ok(count @ 1..) =
                    self.file.read_at(&mut pages.as_bytes_mut()[moved..], at.offset + moved as u64)
                {
                    moved += count;
                }
                Ok(Input::ReadDone { io, pages, result: Ok(()) })
            }
            Effect::Write { io, at, pages, .. } if is_index(at.file) => {
                let result = match self.file.write_all_at(pages.as_bytes(), at.offset) {
                    Ok(()) => Ok(()),
                    Err(error) => {
                        self.problem = Some(format!("{}: {error}", self.path.display()));
                        Err(IoError::Device)
                    }
                };
                Ok(Input::WriteDone { io, pages, result })
            }
            Effect::Create { io, file } | Effect::Sync { io, file } if is_index(file) => {
                Ok(Input::Done { io, result: Ok(()) })
            }
            other => Err(other),
        }
    }

    fn take_place(mut self) -> std::io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.place)?;
        self.placed = true;
        let Some(directory) = self.place.parent() else {
            unreachable!("an index lies in the directory of its tenant")
        };
        File::open(directory)?.sync_all()
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.placed {
            // Only a left-over: the next rebuild begins it anew.
            let _left_over = std::fs::remove_file(&self.path);
        }
    }
}

fn is_index(file: FileId) -> bool {
    match file {
        FileId::Index { .. } => true,
        FileId::Superblock
        | FileId::Journal
        | FileId::Grid
        | FileId::Keys
        | FileId::Scratch
        | FileId::Segment { .. } => false,
    }
}
