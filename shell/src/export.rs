//! A tenant's log as one file that proves itself, and the check of such a file.
//!
//! [`verify`] runs `proof::LogVerifier`, the tree of the log apart from its chain: the chain is one
//! hash after the other, and what needs not wait for it (reading, leaves, inner nodes) is done by
//! other threads meanwhile. The verdict is that of one thread.
//!
//! [`export`] reads the segments as they lie on disk, without a key; what is written are the
//! records up to the head that was signed for, each checked on its way. Memory is constant.
//!
//! Fault model: segments may hold anything; the file is whole, or an error says why not.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, Builder};

use verity_core::crypto::ChainHash;
use verity_core::ids::{Position, SegmentNumber, TenantId};
use verity_core::io::IoError;
use verity_core::log::{Damage, SegmentEnd, SegmentExtent, SegmentStart};
use verity_core::proof::{LogStart, LogTree, LogVerifier, Policy, Reject, VerifiedLog};

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

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Chunks that are read ahead, and batches of hashes that wait for the tree.
const AHEAD: usize = 2;

/// Is the file the whole log of this tenant, and does the policy stand behind it? The outer error:
/// it cannot be read. Memory is constant.
pub fn verify(
    file: &mut (dyn Read + Send),
    policy: Policy,
    tenant: TenantId,
    progress: &mut dyn Progress,
) -> io::Result<Result<VerifiedLog, Reject>> {
    let (mut verifier, tree) = LogVerifier::apart(policy, tenant);
    thread::scope(|scope| {
        let (read, chunks) = sync_channel(AHEAD);
        let (spent, empty) = channel();
        Builder::new()
            .name("log-read".into())
            .spawn_scoped(scope, move || read_ahead(file, &read, &empty))?;
        let (hashed, leaves) = sync_channel(AHEAD);
        let tree = Builder::new()
            .name("log-tree".into())
            .spawn_scoped(scope, move || grow(tree, &leaves))?;
        for chunk in chunks {
            let chunk: Vec<u8> = chunk?;
            progress.bytes(chunk.len() as u64);
            if let Err(reject) = verifier.push(&chunk) {
                return Ok(Err(reject));
            }
            let leaves = verifier.take_leaves();
            if hashed.send(leaves).is_err() {
                unreachable!("the tree takes leaves until there are no more");
            }
            // Nobody reads on: then it is of no use.
            let _no_more_is_read = spent.send(chunk);
        }
        drop(hashed);
        let Ok(tree) = tree.join() else { unreachable!("a panic aborts the process") };
        Ok(verifier.finish_with(&tree))
    })
}

/// Until the end of the file, or until nobody wants more.
fn read_ahead(
    file: &mut dyn Read,
    chunks: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let read = match file.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        if chunks.send(read).is_err() {
            return;
        }
    }
}

fn grow(mut tree: LogTree, leaves: &Receiver<Vec<ChainHash>>) -> LogTree {
    for leaves in leaves {
        tree.extend(&leaves);
    }
    tree
}

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
    let bytes = last.map_or(0, |last| log_bytes(&mut files, tenant, last));
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
