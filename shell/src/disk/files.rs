//! Descriptors of the data directory's files: a bounded table, least recently used out first.
//!
//! Invariants: an operation in flight holds its own reference, so eviction never closes a
//! descriptor under it. A file is created together with its directory, and both are durable before
//! the creation is reported.
//!
//! Fault model: the file system may refuse O_DIRECT (then I/O is buffered, said once, with the same
//! durability), be full, be read-only, or lose files behind our back.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use verity_core::io::FileId;

use super::paths;

/// Descriptors kept open at a time, besides those in use.
const OPEN_FILES_MAX: usize = 128;

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
}

#[derive(Debug)]
struct Entry {
    file: Arc<OpenFile>,
    used_at: u64,
}

impl FileTable {
    #[must_use]
    pub fn new(root: &Path) -> FileTable {
        FileTable { root: root.to_path_buf(), open: BTreeMap::new(), clock: 0, direct: true }
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
        let (fd, direct) = self.open_path(&path, OFlags::CREATE)?;
        self.direct &= direct;
        rustix::fs::fsync(&fd)?;
        self.insert(file, fd);
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
        if self.direct {
            match open(path, flags | OFlags::DIRECT, mode) {
                Ok(fd) => return Ok((fd, true)),
                Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        open(path, flags, mode).map(|fd| (fd, false))
    }

    fn insert(&mut self, file: FileId, fd: OwnedFd) -> Arc<OpenFile> {
        if self.open.len() >= OPEN_FILES_MAX {
            let oldest = self.open.iter().min_by_key(|(_, entry)| entry.used_at);
            if let Some(oldest) = oldest.map(|(file, _)| *file) {
                self.open.remove(&oldest);
            }
        }
        let open = Arc::new(OpenFile { fd });
        self.open.insert(file, Entry { file: Arc::clone(&open), used_at: self.clock });
        open
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
    fn the_table_is_bounded_and_users_keep_what_is_evicted() {
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
        assert!(!files.open.contains_key(&name(0)));
        rustix::fs::fstat(&first.fd).unwrap();
    }
}
