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
/// A process that was killed has its lock until the kernel has taken it apart: that is soon over,
/// and a supervisor that starts the next one at once must not be refused.
const DYING_WAIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

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
        let wait = match by {
            Some(pid) if pid == std::process::id() => CHILD_WAIT,
            Some(pid) if is_dying(pid) => DYING_WAIT,
            Some(_) | None => Duration::ZERO,
        };
        if began.elapsed() >= wait {
            return Err(LockError::Held { directory: directory.to_path_buf(), by });
        }
        std::thread::sleep(PAUSE);
    }
}

fn owner(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Has this process ended, but for what the kernel does behind it? Gone, or a zombie or dead, or a
/// deadly signal is on its way to it. Where `/proc` tells nothing it counts as alive.
fn is_dying(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => says_dying(&status),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Path::new("/proc/self").exists()
        }
        // ESRCH: it went while its file was read.
        Err(error) => error.raw_os_error() == Some(Errno::SRCH.raw_os_error()),
    }
}

/// The words of `/proc/PID/status`: `State: Z (zombie)`, and masks of signals in hexadecimal.
fn says_dying(status: &str) -> bool {
    const KILL: u64 = 1 << (9 - 1);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim())
    };
    let state = field("State:").and_then(|state| state.chars().next());
    let pending = |name| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let killed =
        ["SigPnd:", "ShdPnd:"].into_iter().filter_map(pending).any(|mask| mask & KILL != 0);
    matches!(state, Some('Z' | 'X' | 'x')) || killed
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
                std::thread::sleep(PAUSE * 5);
                drop(first);
            });
            drop(DirectoryLock::exclusive(dir.path()).unwrap());
        });
    }

    #[test]
    fn a_process_that_ends_is_known_by_what_the_kernel_says_of_it() {
        let status = |state: &str, thread: &str, all: &str| {
            format!("Name:\tverity\nState:\t{state}\nSigPnd:\t{thread}\nShdPnd:\t{all}\n")
        };
        let none = "0000000000000000";
        assert!(!says_dying(&status("S (sleeping)", none, none)));
        assert!(!says_dying(&status("D (disk sleep)", none, "0000000000004000")), "SIGTERM");
        assert!(says_dying(&status("Z (zombie)", none, none)));
        assert!(says_dying(&status("X (dead)", none, none)));
        assert!(says_dying(&status("D (disk sleep)", none, "0000000000000100")));
        assert!(says_dying(&status("R (running)", "0000000000000100", none)));
        assert!(!says_dying(""));
        assert!(!is_dying(std::process::id()));
        assert!(is_dying(u32::MAX), "no process has this number");
    }

    /// A child that is dead and not yet waited for stands for one that dies.
    fn zombie() -> std::process::Child {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        child.kill().unwrap();
        while !is_dying(child.id()) {
            std::thread::sleep(PAUSE);
        }
        child
    }

    /// As after `kill -9`: the kernel gives the lock back a little later.
    #[test]
    fn the_lock_of_a_process_that_was_killed_is_waited_for() {
        let mut killed = zombie();
        for pid in [killed.id(), u32::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let first = DirectoryLock::exclusive(dir.path()).unwrap();
            std::fs::write(dir.path().join(LOCK_FILE), format!("{pid}\n")).unwrap();
            let freed = std::thread::scope(|scope| {
                let freed = scope.spawn(move || {
                    std::thread::sleep(PAUSE * 150);
                    let at = Instant::now();
                    drop(first);
                    at
                });
                drop(DirectoryLock::exclusive(dir.path()).unwrap());
                let taken = Instant::now();
                let freed = freed.join().unwrap();
                assert!(taken >= freed, "pid {pid}");
                freed
            });
            assert!(freed.elapsed() < DYING_WAIT);
        }
        killed.wait().unwrap();
    }

    #[test]
    fn who_lives_has_its_lock_and_the_next_one_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DirectoryLock::exclusive(dir.path()).unwrap();
        let mut alive = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), format!("{}\n", alive.id())).unwrap();
        let began = Instant::now();
        let error = DirectoryLock::exclusive(dir.path()).unwrap_err();
        assert!(began.elapsed() < CHILD_WAIT, "{:?}", began.elapsed());
        assert!(error.to_string().contains(&format!("pid {}", alive.id())), "{error}");
        alive.kill().unwrap();
        alive.wait().unwrap();
    }
}
