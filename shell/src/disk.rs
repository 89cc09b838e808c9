//! The outside world of one node: carries out [`Effect`]s on files and returns [`Input`]s.
//!
//! Start reading at [`Disk::execute`] and [`Disk::poll`]. Two backends, one meaning: io_uring where
//! the kernel allows it, plain system calls on a few threads where it does not.
//!
//! Invariants: every effect but `Event` and `Send` gets exactly one completion. A durable write is
//! done only when the device says so (RWF_DSYNC). Creation and removal are done when their
//! directory entries are durable. A read past the end of a file, or of a file that does not exist,
//! gives zeros; a write to a file that does not exist is a device error: only `Create` creates. So
//! is the first write to a segment of a log that begins behind the end of the file: blocks before
//! it were there, and somebody cut them off. Zeros that end the last block are put back.
//!
//! Fault model: EIO, ENOSPC, EDQUOT, EROFS, EACCES come back as `IoError`; the first one is kept in
//! words for the operator ([`Disk::problem`]).

mod ahead;
pub mod files;
pub mod job;
pub mod lock;
pub mod master_key;
mod padding;
pub mod paths;
mod remarks;
#[allow(unsafe_code)]
mod ring;
mod threads;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use verity_core::io::{Address, Effect, Effects, FileId, Input, IoError, IoId, Pages};
use verity_core::log::SegmentStart;

use ahead::Ahead;
use files::{FileTable, OpenFile};
use job::{Job, Kind};
use master_key::MasterKey;

use crate::net::links::Links;

/// Which backend carries out the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IoBackend {
    /// io_uring if the kernel allows it, else threads, with one line that says so.
    #[default]
    Auto,
    Uring,
    Threads,
}

impl fmt::Display for IoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoBackend::Auto => "auto",
            IoBackend::Uring => "uring",
            IoBackend::Threads => "threads",
        })
    }
}

#[derive(Debug)]
enum Backend {
    Ring(ring::Ring),
    Threads(threads::Pool),
}

/// Submits and waits without the [`Disk`] itself: what a thread holds while others use the disk.
#[derive(Clone, Debug)]
pub enum Doorbell {
    Ring(ring::Doorbell),
    Threads(threads::Doorbell),
}

impl Doorbell {
    pub fn submit(&self) {
        match self {
            Doorbell::Ring(bell) => bell.submit(),
            Doorbell::Threads(bell) => bell.submit(),
        }
    }

    /// Returns when something may be finished, or the time is up.
    pub fn submit_and_wait(&self, timeout: Duration) {
        match self {
            Doorbell::Ring(bell) => bell.submit_and_wait(timeout),
            Doorbell::Threads(bell) => bell.submit_and_wait(timeout),
        }
    }
}

/// Why the disk could not be set up.
#[derive(Debug)]
pub enum DiskError {
    /// `--io=uring` was asked for, and the kernel refuses.
    UringRefused(std::io::Error),
    Threads(std::io::Error),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::UringRefused(error) => {
                write!(f, "io_uring is not available here ({error}); use --io=threads")
            }
            DiskError::Threads(error) => write!(f, "cannot start I/O threads: {error}"),
        }
    }
}

#[derive(Debug)]
pub struct Disk {
    files: FileTable,
    backend: Backend,
    master_key: MasterKey,
    /// To the other replicas of a cluster.
    links: Option<Arc<Links>>,
    /// Completions of what was carried out at once.
    ready: VecDeque<Input>,
    finished: Vec<(Job, Result<(), Errno>)>,
    problem: Option<String>,
    direct_said: bool,
    /// Segments whose length was looked at.
    segments_seen: BTreeSet<FileId>,
    /// Jobs were pushed since the doorbell was last rung.
    unsubmitted: bool,
    ahead: Ahead,
}

impl Disk {
    pub fn open(root: &Path, backend: IoBackend, master_key: MasterKey) -> Result<Disk, DiskError> {
        Ok(Disk {
            files: FileTable::new(root),
            backend: choose(backend, ring::Ring::new)?,
            master_key,
            links: None,
            ready: VecDeque::new(),
            finished: Vec::new(),
            problem: None,
            direct_said: false,
            segments_seen: BTreeSet::new(),
            unsubmitted: false,
            ahead: Ahead::default(),
        })
    }

    /// Frames to other replicas go there.
    pub fn link(&mut self, links: Arc<Links>) {
        self.links = Some(links);
    }

    #[must_use]
    pub fn backend(&self) -> IoBackend {
        match self.backend {
            Backend::Ring(_) => IoBackend::Uring,
            Backend::Threads(_) => IoBackend::Threads,
        }
    }

    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        match &self.backend {
            Backend::Ring(ring) => Doorbell::Ring(ring.doorbell()),
            Backend::Threads(pool) => Doorbell::Threads(pool.doorbell()),
        }
    }

    /// Effects whose completion was not handed out by [`Disk::poll`] yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let backend = match &self.backend {
            Backend::Ring(ring) => ring.in_flight(),
            Backend::Threads(pool) => pool.in_flight(),
        };
        backend - self.ahead.in_flight() + self.ahead.held() + self.ready.len()
    }

    /// Completions are there already: do not wait in the kernel.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the doorbell must be rung for what was pushed; whoever asks rings it.
    pub fn take_unsubmitted(&mut self) -> bool {
        std::mem::take(&mut self.unsubmitted)
    }

    /// The first error of the file system, in words.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Free bytes on the file system, for those without privileges.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        free_bytes(self.files.root())
    }

    /// Takes all effects. What goes to the kernel leaves with the next ring of the doorbell.
    pub fn execute(&mut self, effects: &mut Effects) {
        for effect in effects.drain() {
            match effect {
                Effect::Read { io, at, pages } => self.start(io, Kind::Read, at, pages),
                Effect::Write { io, at, pages, durable } => {
                    self.start(io, Kind::Write { durable }, at, pages);
                }
                Effect::Sync { io, file } => {
                    self.start(io, Kind::Sync, Address::new(file, 0), Pages::default());
                }
                Effect::Create { io, file } => {
                    let result = self.files.create(file);
                    self.done(io, file, "create", result);
                }
                Effect::Remove { io, file } => {
                    let result = self.files.remove(file);
                    self.done(io, file, "remove", result);
                }
                Effect::Wrap { io, purpose, key } => {
                    let key = self.master_key.wrap(purpose, &key);
                    self.ready.push_back(Input::Wrapped { io, key });
                }
                Effect::Unwrap { io, purpose, key } => {
                    let key = self.master_key.unwrap(purpose, &key);
                    self.ready.push_back(Input::Unwrapped { io, key });
                }
                Effect::Send { to, frame } => match &self.links {
                    Some(links) => links.send(to, frame),
                    None => unreachable!("without links no node of several replicas is opened"),
                },
                Effect::Event(event) => remarks::trace(&event),
            }
        }
    }

    /// Moves the completions there are to `inputs`; never blocks.
    pub fn poll(&mut self, inputs: &mut Vec<Input>) {
        inputs.extend(self.ready.drain(..));
        match &mut self.backend {
            Backend::Ring(ring) => ring.reap(&mut self.finished),
            Backend::Threads(pool) => pool.reap(&mut self.finished),
        }
        let mut finished = std::mem::take(&mut self.finished);
        for (job, result) in finished.drain(..) {
            if Ahead::is_zeros(&job) {
                self.grew(job, result);
                continue;
            }
            if let Err(error) = result {
                let what = match job.kind {
                    Kind::Read => "read",
                    Kind::Write { .. } | Kind::Zeros => "write",
                    Kind::Sync => "sync",
                };
                note(&mut self.problem, &self.files.path(job.name), what, error);
            }
            inputs.push(job.into_input(result));
        }
        self.finished = finished;
    }

    fn start(&mut self, io: IoId, kind: Kind, at: Address, mut pages: Pages) {
        let opened = self.files.get(at.file);
        if !self.files.is_direct() && !self.direct_said {
            self.direct_said = true;
            tracing::warn!(
                "the file system of {} has no direct I/O; using buffered writes with the same \
                 durability",
                self.files.root().display()
            );
        }
        let write = matches!(kind, Kind::Write { .. });
        let error = match opened {
            Ok(Some(file)) if write && self.is_cut(at, &file, &pages) => Errno::NODATA,
            Ok(Some(file)) => {
                let name = at.file;
                let job = Job { io, kind, file, offset: at.offset, pages, moved: 0, name };
                if write && name == FileId::Grid {
                    self.write_grid(job);
                } else {
                    self.push(job);
                }
                return;
            }
            Ok(None) if kind == Kind::Read => {
                pages.as_bytes_mut().fill(0);
                self.ready.push_back(Input::ReadDone { io, pages, result: Ok(()) });
                return;
            }
            Ok(None) => Errno::NOENT,
            Err(error) => error,
        };
        note(&mut self.problem, &self.files.path(at.file), "open", error);
        let result: Result<(), IoError> = Err(job::to_io_error(error));
        self.ready.push_back(match kind {
            Kind::Read => Input::ReadDone { io, pages, result },
            Kind::Write { .. } => Input::WriteDone { io, pages, result },
            Kind::Sync => Input::Done { io, result },
            Kind::Zeros => unreachable!("they are no effect"),
        });
    }

    fn push(&mut self, job: Job) {
        self.unsubmitted = true;
        match &mut self.backend {
            Backend::Ring(ring) => ring.push(job),
            Backend::Threads(pool) => pool.push(job),
        }
    }

    fn write_grid(&mut self, job: Job) {
        let file = Arc::clone(&job.file);
        if let Some(job) = self.ahead.admit(job) {
            self.push(job);
        }
        self.grow(&file);
    }

    /// Zeros behind the end of the grid, if it is time.
    fn grow(&mut self, file: &Arc<OpenFile>) {
        let length = || rustix::fs::fstat(&file.fd).ok().map(|stat| stat.st_size as u64);
        let free = || free_bytes(self.files.root());
        if let Some(job) = self.ahead.next(file, length, free) {
            self.push(job);
        }
    }

    fn grew(&mut self, job: Job, result: Result<(), Errno>) {
        if let Err(error) = result {
            tracing::debug!("the grid does not grow ahead: {error}");
        }
        let file = Arc::clone(&job.file);
        for held in self.ahead.finished(job, result.is_ok()) {
            self.write_grid(held);
        }
        self.grow(&file);
    }

    /// Does the first write to a segment leave a hole? Later ones may be done in any order. Zeros
    /// that end the last block, and nothing else, are put back.
    fn is_cut(&mut self, at: Address, file: &OpenFile, pages: &Pages) -> bool {
        let FileId::Segment { tenant, number } = at.file else { return false };
        if !self.segments_seen.insert(at.file) {
            return false;
        }
        let Ok(stat) = rustix::fs::fstat(&file.fd) else { return false };
        let length = stat.st_size as u64;
        if length >= at.offset {
            return false;
        }
        let path = self.files.path(at.file);
        let start = SegmentStart { tenant, number, before: None };
        let whole = padding::is_all_that_is_missing(&path, start, at.offset, pages.as_bytes());
        if !whole || rustix::fs::ftruncate(&file.fd, at.offset).is_err() {
            return true;
        }
        let missing = at.offset - length;
        tracing::warn!(
            "{} was cut by {missing} bytes: they were zeros behind the last record, and are put \
             back",
            path.display()
        );
        false
    }

    fn done(&mut self, io: IoId, file: FileId, what: &str, result: Result<(), Errno>) {
        if let Err(error) = result {
            note(&mut self.problem, &self.files.path(file), what, error);
        }
        self.ready.push_back(Input::Done { io, result: result.map_err(job::to_io_error) });
    }
}

fn free_bytes(root: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(root).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// `ring` asks the kernel for one.
fn choose(
    backend: IoBackend,
    ring: impl FnOnce() -> std::io::Result<ring::Ring>,
) -> Result<Backend, DiskError> {
    let threads = || threads::Pool::new().map(Backend::Threads).map_err(DiskError::Threads);
    match backend {
        IoBackend::Threads => threads(),
        IoBackend::Uring => ring().map(Backend::Ring).map_err(DiskError::UringRefused),
        IoBackend::Auto => match ring() {
            Ok(ring) => Ok(Backend::Ring(ring)),
            Err(error) => {
                tracing::warn!("io_uring is not available here ({error}); using --io=threads");
                threads()
            }
        },
    }
}

/// Keeps the first problem: what follows from it only confuses.
fn note(problem: &mut Option<String>, path: &Path, what: &str, error: Errno) {
    let text = files::words(path, what, error);
    tracing::error!("{text}");
    problem.get_or_insert(text);
}

#[cfg(test)]
mod tests;
