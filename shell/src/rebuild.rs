//! Derives all state again from the logs: to compare it with the live state, or to replace it.
//!
//! Comparing: a node opens the directory over an overlay ([`Offline`]), so the prepares after the
//! last checkpoint are replayed and a checkpoint is taken, all in memory: no file is changed. Then
//! every record of every log is read, opened and applied to an empty store by the same code that
//! applied it live, and the two states are compared. Replacing is in `replace`.
//!
//! Invariants: a comparison writes nothing to the directory. Memory is bounded: what replay changes
//! and what is derived lies in a temporary file without a name. Start reading at [`check`] and
//! [`replace`].

mod heads;
mod indexes;
mod replace;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use verity_core::crypto::seal::PageKey;
use verity_core::ids::{Position, ReplicaId, TenantId};
use verity_core::io::{Effects, FileId, Input};
use verity_core::kernel::{Kernel, RebuildError, RebuildReport, RequestError, SideError, Sides};
use verity_core::keyring::Keyring;
use verity_core::limits::ClusterConstants;
use verity_core::log::LogHead;
use verity_core::node::{Config, Halt, Node, Seed};
use verity_core::query::eval::Context;
use verity_core::query::read::Row;
use verity_core::query::{
    AsOf, EventRead, ReadProgress, ReadTask, ReadWorld, SqlError, Stop, prepare_one,
};
use verity_core::store::{Store, StoreConfig};
use verity_core::superblock::SuperblockState;
use verity_core::time::{Clock, Instant, Timestamp};

use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::{self, MasterKey};
use crate::error::Error;
use crate::offline::Offline;
use crate::verify::{self, grid};

pub use replace::{HeadsFrom, Replaced, replace};

/// Clean pages of each of the two stores.
const CLEAN_PAGES: u32 = 16 << 10;
/// What is thrown away afterwards is not limited by what the grid may hold.
const SCRATCH_PAGES_MAX: u32 = (1 << 30) - 1;

/// Why nothing was derived.
#[derive(Debug)]
pub enum Problem {
    Open(Error),
    /// The master key is missing or another one.
    Key(String),
    /// Written by a newer release, or not readable: nothing can be said of the state.
    CannotTell(String),
    /// The directory does not verify, so there is nothing to derive from.
    Damaged(String),
    Rebuild(RebuildError),
    /// The disk failed while the new state was written beside the old one.
    Disk(String),
}

impl From<SideError> for Problem {
    fn from(error: SideError) -> Problem {
        match error {
            SideError::Rebuild(error) => Problem::Rebuild(error),
            SideError::Store(_) | SideError::Log(_) | SideError::Heads => {
                Problem::Damaged(error.to_string())
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Open(error) => write!(f, "{error}"),
            Problem::Key(what) | Problem::CannotTell(what) => f.write_str(what),
            Problem::Disk(what) => write!(f, "{what}; the directory is as it was"),
            Problem::Damaged(what) => {
                write!(f, "{what}; `verity verify` tells what else is damaged")
            }
            Problem::Rebuild(error) => write!(f, "{error}"),
        }
    }
}

/// Compares; `told` hears of records replayed and entries compared so far.
pub fn check(
    root: &Path,
    master_key: MasterKey,
    told: impl FnMut(u64, u64),
) -> Result<RebuildReport, Problem> {
    derive(root, master_key, told).map(|derived| derived.report)
}

/// State that was derived from the logs alone, to be asked. The live state answers nothing here.
pub struct Derived {
    sides: Sides,
    files: Offline,
    scratch_keys: ScratchKeys,
    report: RebuildReport,
    _lock: Option<DirectoryLock>,
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Derived {
    pub fn open(root: &Path, master_key: MasterKey) -> Result<Derived, Problem> {
        let lock = DirectoryLock::shared(root).map_err(|e| Problem::Open(Error::Lock(e)))?;
        let mut derived = derive(root, master_key, |_, _| {})?;
        derived._lock = lock;
        Ok(derived)
    }

    #[must_use]
    pub fn report(&self) -> &RebuildReport {
        &self.report
    }

    /// Runs one SELECT of tables and catalog views, as of the position it names or the newest one.
    pub fn query(&mut self, tenant: TenantId, sql: &str) -> Result<Vec<Row>, Problem> {
        let to_problem = |error: SqlError| Problem::Open(Error::from(error));
        let catalog = loop {
            let (kernel, store) = self.sides.scratch();
            match kernel.catalog(store, tenant) {
                Ok(catalog) => break catalog,
                Err(_fault) => self.fetch()?,
            }
        };
        let unknown = || Problem::Open(Error::Request(RequestError::TenantUnknown(tenant)));
        let catalog = catalog.ok_or_else(unknown)?;
        let prepared = Arc::new(prepare_one(&catalog, sql).map_err(to_problem)?);
        if prepared.is_write() {
            return Err(Problem::Open(Error::WrongKind("derived state is only read")));
        }
        let newest = self.sides.logs().head(tenant).and_then(LogHead::last);
        let head = newest.unwrap_or(Position::ZERO);
        let position = match prepared.as_of(&[], head).map_err(to_problem)? {
            None => head,
            Some(AsOf::Position(position)) => position,
            Some(AsOf::Timestamp(_)) => {
                return Err(Problem::Open(Error::WrongKind("derived state is asked by position")));
            }
        };
        let context = Context::new(Timestamp(0), [0; 32]);
        let mut task =
            ReadTask::new(prepared, tenant, Vec::new(), position, context).map_err(to_problem)?;
        let mut rows = Vec::new();
        loop {
            let mut events = |_| EventRead::Absent;
            let (_, store) = self.sides.scratch();
            let mut world = ReadWorld { store, catalog: &catalog, events: &mut events };
            match task.step(&mut world) {
                Ok(progress) => {
                    rows.append(&mut task.take_rows());
                    if progress == ReadProgress::Done {
                        self.sides.release();
                        return Ok(rows);
                    }
                }
                Err(Stop::Fault(_)) => self.fetch()?,
                Err(Stop::EventFault) => unreachable!("no event is missing: none is there"),
                Err(Stop::Sql(error)) => {
                    self.sides.release();
                    return Err(to_problem(error));
                }
            }
        }
    }

    fn fetch(&mut self) -> Result<(), Problem> {
        let Derived { sides, files, scratch_keys, .. } = self;
        let mut execute = |effects: &mut Effects, inputs: &mut Vec<Input>| {
            files.execute(effects, inputs);
        };
        Ok(sides.fetch_scratch(scratch_keys, &mut execute)?)
    }
}

/// Of one rebuild alone: what they seal shares no key with anything before or after it.
type ScratchKeys = BTreeMap<TenantId, PageKey>;

fn derive(
    root: &Path,
    master_key: MasterKey,
    mut told: impl FnMut(u64, u64),
) -> Result<Derived, Problem> {
    if !crate::format::is_formatted(root).map_err(Problem::Open)? {
        return Err(Problem::Open(Error::NotFormatted { path: root.to_path_buf() }));
    }
    let _lock = DirectoryLock::shared(root).map_err(|e| Problem::Open(Error::Lock(e)))?;
    let mut files = Offline::new(root, Some(master_key));
    replay(&mut files)
        .map_err(|error| Problem::Open(crate::format::found::stale_superblock(root, error)))?;
    let (state, keyring) = roots(&mut files)?;
    let mut effects = Effects::new();
    let config =
        |file, constants: &ClusterConstants| StoreConfig::new(file, constants, CLEAN_PAGES);
    let live = match grid::checkpoint(&state) {
        Some(from) => Store::open(config(FileId::Grid, &state.constants), &from, &mut effects),
        None => Store::new(config(FileId::Grid, &state.constants)),
    };
    let random = master_key::random().map_err(|e| Problem::Open(Error::MasterKey(e)))?;
    let scratch_keys: ScratchKeys = keyring
        .tenants()
        .filter_map(|tenant| Some((tenant, keyring.tenant(tenant)?.scratch_page(&random))))
        .collect();
    let unlimited = ClusterConstants { grid_pages_max: SCRATCH_PAGES_MAX, ..state.constants };
    let scratch = Store::new(config(FileId::Scratch, &unlimited));
    let kernel = Kernel::new(state.constants, state.checkpoint.generation);
    let mut sides = Sides::to_compare(kernel, keyring, (live, effects), scratch);
    let mut compare = || -> Result<RebuildReport, SideError> {
        let mut execute = |effects: &mut Effects, inputs: &mut Vec<Input>| {
            files.execute(effects, inputs);
        };
        sides.open(&mut execute)?;
        loop {
            let (records, entries) = sides.progress();
            told(records, entries);
            if let Some(report) = sides.step(&scratch_keys, &mut execute)? {
                return Ok(report);
            }
        }
    };
    let compared = compare();
    match (compared, files.problem().map(str::to_string).or_else(|| files.trouble_of_any())) {
        (Ok(report), _) => Ok(Derived { sides, files, scratch_keys, report, _lock: None }),
        // Says nothing of the directory.
        (Err(_), Some(problem)) => Err(Problem::CannotTell(problem)),
        (Err(error), None) => Err(error.into()),
    }
}

/// Superblock and keys, without which nothing can be read.
fn roots(files: &mut Offline) -> Result<(SuperblockState, Keyring), Problem> {
    let mut report = verify::Report::default();
    let state = verify::parts::superblock(files, &mut report);
    let Some(state) = state else { return Err(problem_of(&report)) };
    match verify::parts::keys(files, &state, None, &mut report) {
        Some(keyring) => Ok((state, keyring)),
        None => Err(problem_of(&report)),
    }
}

/// The worst that was found, in words.
fn problem_of(report: &verify::Report) -> Problem {
    let worst = report.findings.iter().max_by_key(|finding| finding.severity);
    let words = worst.map(ToString::to_string).unwrap_or_default();
    match worst.map(|finding| finding.severity) {
        Some(verify::Severity::Unknown) => Problem::CannotTell(words),
        Some(verify::Severity::Damage | verify::Severity::Note) | None => Problem::Damaged(words),
    }
}

/// Opens and closes a node over the overlay: its last checkpoint then covers everything.
pub(crate) fn replay(files: &mut Offline) -> Result<(), Error> {
    let seed = Seed(master_key::random().map_err(Error::MasterKey)?);
    let mut effects = Effects::new();
    let mut node = Node::open(&Config::new(ReplicaId::new(0)), &seed, &mut effects);
    let mut inputs: Vec<Input> = Vec::new();
    let mut ticks = 0;
    let mut asked = false;
    loop {
        ticks += 1;
        let now = clock(ticks);
        files.execute(&mut effects, &mut inputs);
        if inputs.is_empty() {
            inputs.push(Input::Tick);
        }
        for input in std::mem::take(&mut inputs) {
            node.step(now, input, &mut effects);
        }
        if node.is_ready() && !asked {
            asked = true;
            node.shutdown(now, &mut effects);
        }
        match node.halted() {
            None => {}
            Some(Halt::Shutdown) => return Ok(()),
            Some(halt) => {
                let problem = files.problem().map(str::to_string);
                let problem = problem.or_else(|| files.trouble_of_any());
                return Err(Error::Halted { halt: halt.clone(), problem });
            }
        }
    }
}

/// Time goes on by a millisecond a turn: timers must run out, and nobody else reads this clock.
fn clock(ticks: u64) -> Clock {
    let wall = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let wall = u64::try_from(wall.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
    Clock { monotonic: Instant(ticks * 1_000_000), wall: Timestamp(wall) }
}
