//! A tenant's log as one file that proves itself: `proof::LogVerifier` checks it.
//!
//! Reads the segments as they lie on disk, without a key; what is written are the records up to the
//! head that was signed for, each checked on its way. Memory is constant.
//!
//! Fault model: segments may hold anything; the file is whole, or an error says why not.

use std::fmt;
use std::io::Write;
use std::path::Path;

use verity_core::crypto::ChainHash;
use verity_core::ids::{Position, SegmentNumber};
use verity_core::io::IoError;
use verity_core::log::{Damage, SegmentEnd, SegmentExtent, SegmentStart};
use verity_core::proof::LogStart;

use crate::disk::lock::{DirectoryLock, LockError};
use crate::disk::paths;
use crate::offline::Offline;
use crate::verify::Progress;
use crate::verify::logs::{StreamError, log_bytes, stream};

/// Why there is no file.
#[derive(Debug)]
pub enum ExportError {
    Lock(LockError),
    /// A segment cannot be read.
    Unreadable(IoError),
    Damage(Damage),
    /// The log on disk is not the one that was signed for.
    AnotherLog,
    Write(std::io::Error),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExportError::Lock(error) => write!(f, "{error}"),
            ExportError::Unreadable(error) => write!(f, "a segment cannot be read: {error}"),
            ExportError::Damage(damage) => write!(f, "{damage}"),
            ExportError::AnotherLog => {
                f.write_str("the log on disk is not the one that was signed for")
            }
            ExportError::Write(error) => write!(f, "cannot write: {error}"),
        }
    }
}

impl std::error::Error for ExportError {}

/// Writes the first `size` records of the tenant that `start` names; `root` is the tree over them.
/// The database must be closed, with a checkpoint at or after the last of them.
pub fn export(
    data: &Path,
    start: &LogStart,
    size: u64,
    root: &ChainHash,
    progress: &mut dyn Progress,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let _lock = DirectoryLock::shared(data).map_err(ExportError::Lock)?;
    let mut files = Offline::new(data, None);
    let tenant = start.tenant;
    let segments = paths::segments(data).unwrap_or_default().into_iter();
    let last = segments.filter(|(of, _)| *of == tenant).map(|(_, number)| number).max();
    let bytes = last.map_or(0, |last| log_bytes(&files, tenant, last));
    progress.part(&format!("log of tenant {tenant}"), bytes);
    out.write_all(&start.encode()).map_err(ExportError::Write)?;
    let mut end = SegmentEnd::genesis();
    let mut number = SegmentNumber::ZERO;
    while end.next.get() < size {
        let before = (number != SegmentNumber::ZERO).then(|| end.clone());
        let from = SegmentStart { tenant, number, before };
        let extent = SegmentExtent::Through(Position::new(size));
        let mut written = Ok(());
        let streamed = stream(&mut files, from, extent, progress, |view| {
            if written.is_ok() {
                written = out.write_all(&view.record.metadata.encode());
            }
            if written.is_ok() {
                written = out.write_all(view.record.data);
            }
            Ok(())
        });
        written.map_err(ExportError::Write)?;
        end = streamed.map_err(|error| match error {
            StreamError::Unreadable { error, .. } => ExportError::Unreadable(error),
            StreamError::Damage(damage) => ExportError::Damage(damage),
        })?;
        number = SegmentNumber::new(number.get() + 1);
    }
    if end.frontier.root() != *root || end.next.get() != size {
        return Err(ExportError::AnotherLog);
    }
    out.flush().map_err(ExportError::Write)
}
