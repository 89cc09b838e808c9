//! One process at a time on a data directory.
//!
//! Invariant: while a [`DirectoryLock`] lives, no other process holds one on the same directory
//! (an advisory `flock`, released by the kernel however this process ends). The file also holds
//! the owner's process id, for the message that the second one prints.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::paths::LOCK_FILE;

/// A child of this process has its descriptors, and so a lock that was given back meanwhile, from
/// its fork to its exec: a lock that is our own is asked for again, for so long.
const CHILD_WAIT: Duration = Duration::from_millis(200);
const CHILD_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Why the directory could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it; its id, when it could be read.
    Held {
        directory: PathBuf,
        by: Option<u32>,
    },
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { directory, by } => {
                write!(f, "{} is in use by another process", directory.display())?;
                if let Some(pid) = by {
                    write!(f, " (pid {pid})")?;
                }
                f.write_str("; stop it first, or work on a copy")
            }
            LockError::Io { path, error } => write!(f, "cannot lock {}: {error}", path.display()),
        }
    }
}

impl DirectoryLock {
    /// For a process that will change the directory.
    pub fn exclusive(directory: &Path) -> Result<DirectoryLock, LockError> {
        let path = directory.join(LOCK_FILE);
        let io_error = |error| LockError::Io { path: path.clone(), error };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = open(options, &path).map_err(io_error)?;
        take(&file, directory, FlockOperation::NonBlockingLockExclusive, &path)?;
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        match written {
            // The lock is what counts; the number only helps the reader of a message.
            Ok(()) => {}
            Err(error) if to_io_kind_is_full(&error) => {}
            Err(error) => return Err(io_error(error)),
        }
        Ok(DirectoryLock { _file: file })
    }

    /// For a process that only reads; changes nothing. `None` when the directory was never opened
    /// (a copy without its lock file).
    pub fn shared(directory: &Path) -> Result<Option<DirectoryLock>, LockError> {
        let path = directory.join(LOCK_FILE);
        let mut options = File::options();
        options.read(true);
        let file = match open(options, &path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LockError::Io { path, error }),
        };
        take(&file, directory, FlockOperation::NonBlockingLockShared, &path)?;
        Ok(Some(DirectoryLock { _file: file }))
    }
}

/// What is no file of our own is never written to, whoever put it there: a link may lead to
/// anything, and a pipe would wait for its other end.
fn open(mut options: OpenOptions, path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| match error
            .raw_os_error()
        {
            Some(number) if number == Errno::LOOP.raw_os_error() => {
                std::io::Error::new(error.kind(), "it is a symbolic link")
            }
            _ => error,
        })?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    Ok(file)
}

fn take(
    file: &File,
    directory: &Path,
    operation: FlockOperation,
    path: &Path,
) -> Result<(), LockError> {
    let began = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => {
                return Err(LockError::Io { path: path.to_path_buf(), error: error.into() });
            }
        }
        let by = owner(path);
        if by != Some(std::process::id()) || began.elapsed() > CHILD_WAIT {
            return Err(LockError::Held { directory: directory.to_path_buf(), by });
        }
        std::thread::sleep(CHILD_PAUSE);
    }
}

fn owner(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn to_io_kind_is_full(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::StorageFull
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DirectoryLock::shared(dir.path()).unwrap().is_none());
        let first = DirectoryLock::exclusive(dir.path()).unwrap();
        let second = DirectoryLock::exclusive(dir.path()).unwrap_err();
        let LockError::Held { by, .. } = &second else { panic!("{second}") };
        assert_eq!(*by, Some(std::process::id()));
        assert!(DirectoryLock::shared(dir.path()).is_err());
        drop(first);
        let reader = DirectoryLock::shared(dir.path()).unwrap();
        assert!(reader.is_some());
        assert!(DirectoryLock::exclusive(dir.path()).is_err());
    }

    #[test]
    fn what_is_no_file_of_ours_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join(LOCK_FILE), dir.path().join("somebody's"));
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let told = DirectoryLock::exclusive(dir.path()).unwrap_err().to_string();
        assert!(told.ends_with("lock: it is a symbolic link"), "{told}");
        assert!(DirectoryLock::shared(dir.path()).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        let told = DirectoryLock::exclusive(dir.path()).unwrap_err().to_string();
        assert!(told.ends_with("lock: it is no regular file"), "{told}");
        assert!(DirectoryLock::shared(dir.path()).is_err());
    }

    /// As by a child that is between fork and exec: it ends by itself.
    #[test]
    fn a_lock_of_this_process_that_ends_soon_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::exclusive(dir.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(CHILD_PAUSE * 5);
                drop(first);
            });
            drop(DirectoryLock::exclusive(dir.path()).unwrap());
        });
    }
}
