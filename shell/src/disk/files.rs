//! Descriptors of the data directory's files: a bounded table, least recently used out first.
//!
//! Invariants: an operation in flight holds its own reference, and a file in use is not evicted. A
//! file is created together with its directory, and both are durable before the creation is
//! reported. Each descriptor has a lock on its file, which outlives its process until the kernel
//! has finished what the process had in flight: so nothing that a killed process wrote arrives
//! after the next one has begun to read.
//!
//! Fault model: the file system may refuse O_DIRECT (then I/O is buffered, said once, with the same
//! durability), be full, be read-only, or lose files behind our back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use verity_core::io::FileId;

use super::paths;

/// Descriptors kept open at a time, besides those in use.
const OPEN_FILES_MAX: usize = 128;
/// How long writes of a process that was killed may still be on their way.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(30);
/// How long they are waited for without a word.
const IN_FLIGHT_SILENT: Duration = Duration::from_secs(1);
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(2);

/// An open file of the data directory.
#[derive(Debug)]
pub struct OpenFile {
    pub fd: OwnedFd,
}

#[derive(Debug)]
pub struct FileTable {
    root: PathBuf,
    open: BTreeMap<FileId, Entry>,
    clock: u64,
    direct: bool,
    /// A file stayed held for as long as is waited: for the others nobody waits again.
    gave_up: Cell<bool>,
}

#[derive(Debug)]
struct Entry {
    file: Arc<OpenFile>,
    used_at: u64,
}

impl FileTable {
    #[must_use]
    pub fn new(root: &Path) -> FileTable {
        FileTable {
            root: root.to_path_buf(),
            open: BTreeMap::new(),
            clock: 0,
            direct: true,
            gave_up: Cell::new(false),
        }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn path(&self, file: FileId) -> PathBuf {
        self.root.join(paths::relative(file))
    }

    /// False once the file system has refused O_DIRECT.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The file, opened if needed; `None` when it does not exist.
    pub fn get(&mut self, file: FileId) -> Result<Option<Arc<OpenFile>>, Errno> {
        self.clock += 1;
        if let Some(entry) = self.open.get_mut(&file) {
            entry.used_at = self.clock;
            return Ok(Some(Arc::clone(&entry.file)));
        }
        match self.open_path(&self.path(file), OFlags::empty()) {
            Ok((fd, direct)) => {
                self.direct &= direct;
                Ok(Some(self.insert(file, fd)))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates the file and its directories if missing; returns when the entries are durable.
    pub fn create(&mut self, file: FileId) -> Result<(), Errno> {
        let path = self.path(file);
        let Some(directory) = path.parent() else {
            unreachable!("every file lies under the data directory");
        };
        std::fs::create_dir_all(directory).map_err(|error| to_errno(&error))?;
        match self.open.get(&file) {
            // A second descriptor would wait for the first one's lock.
            Some(known) if path.exists() => rustix::fs::fsync(&known.file.fd)?,
            Some(_) | None => {
                let (fd, direct) = self.open_path(&path, OFlags::CREATE)?;
                self.direct &= direct;
                rustix::fs::fsync(&fd)?;
                self.insert(file, fd);
            }
        }
        self.sync_directories(directory)
    }

    /// Removes the file if present; returns when that is durable.
    pub fn remove(&mut self, file: FileId) -> Result<(), Errno> {
        self.open.remove(&file);
        let path = self.path(file);
        match rustix::fs::unlink(&path) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
        match path.parent() {
            Some(directory) => self.sync_directories(directory),
            None => Ok(()),
        }
    }

    /// From the directory up to the root of the data directory, each made durable.
    fn sync_directories(&self, from: &Path) -> Result<(), Errno> {
        let mut directory = from;
        loop {
            let fd = open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            rustix::fs::fsync(&fd)?;
            match directory.parent() {
                Some(parent) if directory != self.root => directory = parent,
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn open_path(&self, path: &Path, extra: OFlags) -> Result<(OwnedFd, bool), Errno> {
        let flags = OFlags::RDWR | extra | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let direct =
            if self.direct { open(path, flags | OFlags::DIRECT, mode) } else { Err(Errno::INVAL) };
        let (fd, direct) = match direct {
            Ok(fd) => (fd, true),
            Err(Errno::INVAL) => (open(path, flags, mode)?, false),
            Err(error) => return Err(error),
        };
        self.wait_for_the_killed(&fd, path)?;
        Ok((fd, direct))
    }

    /// Locks the file. The directory's lock keeps other processes away, so who still has this one
    /// is a process that was killed: its descriptor lives until its last write is done.
    fn wait_for_the_killed(&self, fd: &OwnedFd, path: &Path) -> Result<(), Errno> {
        let began = Instant::now();
        let mut told = false;
        loop {
            match flock(fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if !self.gave_up.get() => {}
                done => return done,
            }
            if !told && began.elapsed() >= IN_FLIGHT_SILENT {
                told = true;
                tracing::warn!(
                    "waiting for {}: a process that was killed still holds it, as its last writes \
                     are not done; gives up after {} s",
                    path.display(),
                    IN_FLIGHT_WAIT.as_secs()
                );
            }
            self.gave_up.set(began.elapsed() >= IN_FLIGHT_WAIT);
            std::thread::sleep(IN_FLIGHT_PAUSE);
        }
    }

    fn insert(&mut self, file: FileId, fd: OwnedFd) -> Arc<OpenFile> {
        if self.open.len() >= OPEN_FILES_MAX {
            let unused = self.open.iter().filter(|(_, entry)| Arc::strong_count(&entry.file) == 1);
            let oldest = unused.min_by_key(|(_, entry)| entry.used_at);
            if let Some(oldest) = oldest.map(|(file, _)| *file) {
                self.open.remove(&oldest);
            }
        }
        let open = Arc::new(OpenFile { fd });
        self.open.insert(file, Entry { file: Arc::clone(&open), used_at: self.clock });
        open
    }
}

/// Why [`FileTable::get`] and [`FileTable::create`] failed, in words.
#[must_use]
pub fn words(path: &Path, what: &str, error: Errno) -> String {
    let path = path.display();
    match error {
        Errno::NODATA => format!(
            "{path} is shorter than what was written to it: somebody cut it; restore it from a copy"
        ),
        Errno::WOULDBLOCK if matches!(what, "open" | "create") => format!(
            "{path} is still held after {} s, by a process that was killed and whose last writes \
             the disk has not done, or by a program that locks it: see who holds it (`fuser -v \
             {path}`), look at the disk, and start again when it is free",
            IN_FLIGHT_WAIT.as_secs()
        ),
        error => format!("cannot {what} {path}: {}", std::io::Error::from(error)),
    }
}

/// The number behind an error of `std`; those without one (a path with a NUL byte) are EINVAL.
#[must_use]
pub fn to_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::INVAL, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use verity_core::ids::{SegmentNumber, TenantId};

    #[test]
    fn create_makes_directories_get_finds_remove_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = FileTable::new(dir.path());
        let file = FileId::Segment { tenant: TenantId::new(3), number: SegmentNumber::new(0) };
        assert!(files.get(file).unwrap().is_none());
        files.create(file).unwrap();
        assert!(files.get(file).unwrap().is_some());
        assert!(dir.path().join("log/3/00000000.segment").exists());
        files.remove(file).unwrap();
        files.remove(file).unwrap();
        assert!(files.get(file).unwrap().is_none());
    }

    #[test]
    fn the_table_is_bounded_but_for_files_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = FileTable::new(dir.path());
        let name =
            |number| FileId::Index { tenant: TenantId::new(1), number: SegmentNumber::new(number) };
        files.create(name(0)).unwrap();
        let first = files.get(name(0)).unwrap().unwrap();
        for number in 1..=u32::try_from(OPEN_FILES_MAX).unwrap() + 8 {
            files.create(name(number)).unwrap();
        }
        assert!(files.open.len() <= OPEN_FILES_MAX);
        assert!(files.open.contains_key(&name(0)), "in use");
        assert!(!files.open.contains_key(&name(1)));
        drop(first);
        files.create(name(1)).unwrap();
        assert!(!files.open.contains_key(&name(0)), "the oldest, and no longer in use");
    }

    /// As after a kill, when the kernel has not finished with the dead process's file.
    #[test]
    fn a_file_is_opened_when_what_was_in_flight_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let (mut before, mut next) = (FileTable::new(dir.path()), FileTable::new(dir.path()));
        before.create(FileId::Journal).unwrap();
        let in_flight = before.get(FileId::Journal).unwrap().unwrap();
        drop(before);
        std::thread::scope(|scope| {
            let done = scope.spawn(move || {
                std::thread::sleep(IN_FLIGHT_PAUSE * 10);
                let at = Instant::now();
                drop(in_flight);
                at
            });
            next.get(FileId::Journal).unwrap().unwrap();
            let opened = Instant::now();
            assert!(opened >= done.join().unwrap());
        });
    }
}
