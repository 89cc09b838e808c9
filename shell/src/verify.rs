//! Checks a data directory as it lies on disk: every byte that counts, none changed, nothing
//! replayed or repaired first.
//!
//! What is checked: the four superblock copies; both copies of the keys; the journal after the
//! checkpoint; every page the checkpoint reaches, against its parent; every block of every log up
//! to its checkpointed head: checksums, chain, dense positions, padding, tree, and the claims of
//! checkpoint records. Index files are derived: a bad one is a note, as it is rebuilt. With a
//! signed head ([`check_signed`]) also that these are the very logs that were signed for.
//!
//! Three answers: it holds, it is broken (where, and why), or it could not be told (a key is
//! missing, a file cannot be read, a checkpoint is being fetched from peers). The logs need no key
//! to be checked; the pages do.
//!
//! Invariants: constant memory but for the pages of one path; what is damaged never stops the rest
//! from being checked. Start reading at [`check`].

pub(crate) mod grid;
pub(crate) mod logs;
pub(crate) mod parts;
mod record;
mod roots;

use std::fmt;
use std::path::Path;

use verity_core::ids::{Op, Position, SegmentNumber, TenantId};
use verity_core::journal::TornTail;
use verity_core::log::LogHead;
use verity_core::node::Halt;
use verity_core::proof::SignedHeads;
use verity_core::superblock::SuperblockState;

use crate::disk::lock::{DirectoryLock, LockError};
use crate::disk::master_key::{MasterKey, MasterKeyProblem};
use crate::offline::Offline;

pub use record::{RecordRead, VerifiedRecord, read_record};
pub(crate) use roots::Roots;

/// How bad one finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is wrong with the data.
    Note,
    /// Part of the question has no answer.
    Unknown,
    /// Bytes are not what was written.
    Damage,
}

/// One thing found.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// The file or structure it is about.
    pub part: &'static str,
    /// The record it is about.
    pub place: Option<(TenantId, Position)>,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.what)
    }
}

/// One tenant's log, up to its checkpointed head.
#[derive(Clone, Debug)]
pub struct CheckedLog {
    pub tenant: TenantId,
    pub records: u64,
    pub segments: u32,
    pub bytes: u64,
    pub checkpoint_records: u64,
    /// Chain hash and tree root as recomputed, hexadecimal.
    pub chain: String,
    pub root: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    Broken,
    CouldNotTell,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub superblock: Option<Box<SuperblockState>>,
    pub prepares: u64,
    /// What the next open drops from the end of the journal.
    pub torn_tail: Option<TornTail>,
    pub pages: u64,
    pub logs: Vec<CheckedLog>,
    /// With a signed head: logs that are the ones that were signed for, up to so many records.
    pub signed: Vec<(TenantId, u64)>,
    /// And states of which every page is what was signed for.
    pub signed_states: Vec<TenantId>,
}

impl Report {
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Damage) => Verdict::Broken,
            Some(Severity::Unknown) => Verdict::CouldNotTell,
            Some(Severity::Note) | None => Verdict::Holds,
        }
    }

    /// None also where one is being fetched from peers.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Op> {
        let state = self.superblock.as_ref().filter(|state| !state.syncing);
        state.map(|state| state.checkpoint.op)
    }

    #[must_use]
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|log| log.records).sum()
    }

    fn add(&mut self, severity: Severity, part: &'static str, what: impl ToString) {
        let what = what.to_string();
        self.findings.push(Finding { severity, part, place: None, what });
    }

    fn damage(&mut self, part: &'static str, what: impl ToString) {
        self.add(Severity::Damage, part, what);
    }

    fn unknown(&mut self, part: &'static str, what: impl ToString) {
        self.add(Severity::Unknown, part, what);
    }

    fn note(&mut self, part: &'static str, what: impl ToString) {
        self.add(Severity::Note, part, what);
    }
}

/// Name of the part that is counted in records.
pub const RECORDS: &str = "records";

/// What is being read, for a progress bar.
pub trait Progress {
    /// A new part begins, of `total` bytes (or of records, if that is its name).
    fn part(&mut self, name: &str, total: u64);
    /// So many more of them were read.
    fn bytes(&mut self, count: u64);
}

/// A progress that nobody sees.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn part(&mut self, _name: &str, _total: u64) {}
    fn bytes(&mut self, _count: u64) {}
}

/// Why the directory could not be looked at.
#[derive(Debug)]
pub enum CannotCheck {
    NoDirectory { path: String, error: std::io::Error },
    NoDatabase { path: String },
    Lock(LockError),
}

impl fmt::Display for CannotCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotCheck::NoDirectory { path, error } => write!(f, "cannot read {path}: {error}"),
            CannotCheck::NoDatabase { path } => {
                write!(f, "{path} holds no database: it has neither a superblock nor a log")
            }
            CannotCheck::Lock(error) => write!(f, "{error}"),
        }
    }
}

/// Checks the directory. Where there is no master key, the report says why, and pages cannot be
/// checked.
pub fn check(
    root: &Path,
    master_key: Result<MasterKey, MasterKeyProblem>,
    progress: &mut dyn Progress,
) -> Result<Report, CannotCheck> {
    check_signed(root, master_key, None, progress)
}

/// As [`check`]; and are the logs those that `signed` stands for? Without a master key that is told
/// of the cluster's log and of the one tenant whose head the proof shows.
pub fn check_signed(
    root: &Path,
    master_key: Result<MasterKey, MasterKeyProblem>,
    signed: Option<&SignedHeads>,
    progress: &mut dyn Progress,
) -> Result<Report, CannotCheck> {
    let mut roots = Roots::new(signed);
    let roots = &mut roots;
    let path = || root.display().to_string();
    if let Err(error) = std::fs::read_dir(root) {
        return Err(CannotCheck::NoDirectory { path: path(), error });
    }
    if !crate::format::is_formatted(root).unwrap_or(true) {
        return Err(CannotCheck::NoDatabase { path: path() });
    }
    let _lock = DirectoryLock::shared(root).map_err(CannotCheck::Lock)?;
    let mut report = Report::default();
    let (master_key, no_key) = match master_key {
        Ok(key) => (Some(key), None),
        Err(problem) => (None, Some(problem)),
    };
    let mut files = Offline::new(root, master_key);
    let state = parts::superblock(&mut files, &mut report);
    let Some(state) = state else {
        if let Some(problem) = &no_key {
            report.unknown("keys", problem);
        }
        // Without the root nothing says how far the logs go; what they hold can still be checked.
        logs::check_unbounded(&mut files, roots, &mut report, progress);
        return Ok(report);
    };
    report.superblock = Some(Box::new(state));
    let keyring = parts::keys(&mut files, &state, no_key.as_ref(), &mut report);
    let newest = parts::journal(root, &mut files, &state, &mut report, progress);
    if state.syncing {
        // Pages and segments are those of two checkpoints; what has arrived is checked by who
        // fetches.
        report.unknown("checkpoint", Halt::Syncing);
        return Ok(report);
    }
    let heads = match &keyring {
        Some(keyring) => grid::check(&mut files, &state, keyring, &mut report, progress),
        None => {
            let missing = if no_key.is_some() { "the master key" } else { "the keys file" };
            report.unknown("grid", format!("its pages cannot be opened without {missing}"));
            None
        }
    };
    match heads {
        Some(heads) => {
            let keyring = keyring.as_ref();
            logs::check_all(&mut files, &state, &heads, keyring, roots, &mut report, progress);
            let checkpoint = state.checkpoint.op;
            let new = logs::check_strays(&mut files, checkpoint, &heads, newest, &mut report);
            // Of several replicas a log may be ahead of what its own knows to be committed.
            if let Some(newest) = newest
                && state.replica_count == 1
            {
                let positions = state.constants.segment_positions;
                let new = new.into_iter().map(|tenant| (tenant, LogHead::empty()));
                let all: Heads = heads.iter().cloned().chain(new).collect();
                logs::check_beyond(&mut files, &all, positions, newest, &mut report);
            }
            if let Some(keyring) = keyring
                && report.verdict() != Verdict::Broken
            {
                grid::check_states(&mut files, &state, keyring, roots, &mut report, progress);
            }
        }
        None => logs::check_unbounded(&mut files, roots, &mut report, progress),
    }
    Ok(report)
}

/// Heads of the logs at the checkpoint, by tenant.
pub(crate) type Heads = Vec<(TenantId, LogHead)>;

/// Where in which log.
fn segment_name(tenant: TenantId, number: SegmentNumber) -> String {
    format!("log/{tenant}/{:08}.segment", number.get())
}
