//! What a directory holds before anything opens it: nothing, a format that was cut off, a
//! database, or what is left of one.
//!
//! A format leaves a mark before it writes anything, and takes it away when the superblock is on
//! disk. So files of a database without a superblock and without the mark are no format that was
//! cut off: the superblock was lost, and whoever formats over the rest loses acknowledged writes.
//! And while the mark is there nobody has opened the database: an open takes it away first. So a
//! superblock beside it, with some of its copies or with all, is a format's that was cut off.

use std::fs::File;
use std::path::{Path, PathBuf};

use verity_core::io::FileId;
use verity_core::journal::{JournalError, Ring};
use verity_core::node::Halt;
use verity_core::superblock::{CopyVerdict, SuperblockError, SuperblockState};

use crate::disk::files::{to_errno, words};
use crate::disk::paths;
use crate::error::Error;
use crate::offline::Offline;
use crate::verify::{Silent, parts};

/// There while a format is under way.
pub const MARK: &str = "formatting";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No file of a database.
    Nothing,
    /// To be run again: nobody was ever told that it is done.
    CutOff,
    /// Whole or damaged, with something of its superblock or its logs.
    Database,
    /// Journal, keys or grid, and neither superblock nor log.
    Remains,
}

pub fn look(path: &Path) -> Result<Found, Error> {
    let directory = |error| Error::Directory { path: path.to_path_buf(), error };
    let unread = |file: &Path, error: std::io::Error| {
        let words = words(file, "read", to_errno(&error));
        directory(std::io::Error::new(error.kind(), words))
    };
    // A log is never empty: where one is, there was a database.
    if paths::segments(path).is_ok_and(|segments| !segments.is_empty()) {
        return Ok(Found::Database);
    }
    if path.join(MARK).try_exists().map_err(directory)? {
        return Ok(if was_opened(path)? { Found::Database } else { Found::CutOff });
    }
    let superblock = path.join(paths::relative(FileId::Superblock));
    let has_superblock = match std::fs::read(&superblock) {
        Ok(bytes) => bytes.iter().any(|byte| *byte != 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(unread(&superblock, error)),
    };
    if has_superblock {
        return Ok(Found::Database);
    }
    for file in [FileId::Journal, FileId::Grid, FileId::Keys] {
        let file = path.join(paths::relative(file));
        match std::fs::metadata(&file) {
            Ok(found) if found.len() > 0 => return Ok(Found::Remains),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unread(&file, error)),
        }
    }
    Ok(Found::Nothing)
}

/// A superblock that a format did not leave, should a mark ever outlive its format: each open
/// counts the sequence up. One that cannot be read is not for a format to write over.
fn was_opened(path: &Path) -> Result<bool, Error> {
    let mut files = Offline::new(path, None);
    for verdict in parts::superblock_copies(&mut files).verdicts {
        match verdict {
            CopyVerdict::Good { sequence: 0..=1, .. }
            | CopyVerdict::Checksum
            | CopyVerdict::Misplaced { .. }
            | CopyVerdict::Malformed(_) => {}
            CopyVerdict::Good { .. } | CopyVerdict::NewerFormat { .. } => return Ok(true),
            CopyVerdict::Unreadable(error) => {
                let error = std::io::Error::other(files.why(FileId::Superblock, error));
                return Err(Error::Directory { path: path.to_path_buf(), error });
            }
        }
    }
    Ok(false)
}

/// Leaves the mark, durably.
pub(super) fn mark(path: &Path) -> std::io::Result<()> {
    File::create(path.join(MARK))?.sync_all()?;
    File::open(path)?.sync_all()
}

/// Takes the mark away: there is a superblock.
pub(crate) fn unmark(path: &Path) -> Result<(), Error> {
    let removed = match std::fs::remove_file(path.join(MARK)) {
        Ok(()) => File::open(path).and_then(|directory| directory.sync_all()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| Error::Directory { path: path.to_path_buf(), error })
}

/// The superblock as an open would take it.
pub(crate) fn superblock(path: &Path) -> Result<SuperblockState, SuperblockError> {
    Ok(parts::superblock_copies(&mut Offline::new(path, None)).decide(false)?.state)
}

/// A journal that is missing or shorter than it was made. What a file does not hold reads as zeros,
/// and zeros look like prepares that were never written: acknowledged writes would be gone without
/// a word.
#[derive(Debug)]
pub struct JournalCut {
    pub path: PathBuf,
    /// `None`: there is no such file.
    pub bytes: Option<u64>,
    pub expected_bytes: u64,
}

pub(crate) fn journal_cut(path: &Path, state: &SuperblockState) -> Option<JournalCut> {
    let path = path.join(paths::relative(FileId::Journal));
    let expected_bytes = Ring::new(state.constants.journal_ring_bytes).file_bytes();
    let bytes = match std::fs::metadata(&path) {
        Ok(found) if found.len() >= expected_bytes => return None,
        Ok(found) => Some(found.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        // Whoever opens it will say so.
        Err(_) => return None,
    };
    Some(JournalCut { path, bytes, expected_bytes })
}

impl std::fmt::Display for JournalCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let JournalCut { path, bytes, expected_bytes } = self;
        let path = path.display();
        match bytes {
            None => write!(f, "{path} is missing")?,
            Some(bytes) => write!(f, "{path} has {bytes} bytes of {expected_bytes}")?,
        }
        f.write_str(
            ": writes that were acknowledged may be lost. Nothing was changed; restore the \
             directory from a copy",
        )
    }
}

/// What must hold of the files before a node is opened on them, under the directory's lock.
pub(crate) fn check_before_open(path: &Path) -> Result<(), Error> {
    match superblock(path) {
        Ok(state) => {
            if let Some(cut) = journal_cut(path, &state) {
                return Err(Error::JournalCut(cut));
            }
        }
        // The node says which file, and why; until it can be read nothing is changed.
        Err(SuperblockError::Unreadable { .. }) => return Ok(()),
        // The node says what is wrong with it.
        Err(_) => {}
    }
    unmark(path)
}

/// Why an open failed, when what it stumbled over is only what follows: pages that an older
/// superblock names have been used again since, so such a one looks like a damaged grid.
pub(crate) fn stale_superblock(path: &Path, error: Error) -> Error {
    let Error::Halted { halt: Halt::Data { what: "grid" | "keys" | "journal", .. }, .. } = &error
    else {
        return error;
    };
    // Replicas of a cluster lag behind their primary, whose checkpoint the journal names.
    let Ok(state) = superblock(path) else { return error };
    if state.replica_count > 1 {
        return error;
    }
    match parts::walk(&mut Offline::new(path, None), &state, &mut Silent) {
        Ok(Err(stale @ JournalError::SuperblockStale { .. })) => Error::SuperblockStale(stale),
        Ok(Ok(_) | Err(_)) | Err(_) => error,
    }
}
