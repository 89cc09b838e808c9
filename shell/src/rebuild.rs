//! Derives all state again from the logs and compares it with the live state, entry by entry.
//!
//! How: a node opens the directory over an overlay ([`Offline`]), so the prepares after the last
//! checkpoint are replayed and a checkpoint is taken, all in memory: no file is changed. Then every
//! record of every log is read, opened and applied to an empty store by the same code that applied
//! it live, and the two states are compared.
//!
//! Invariants: nothing is written to the directory. Memory: the pages that replay changes, and the
//! rebuilt state. Start reading at [`check`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use verity_core::crypto::seal::PageKey;
use verity_core::ids::{Generation, Op, Position, ReplicaId, TenantId};
use verity_core::io::{Effects, FileId, Input};
use verity_core::kernel::{
    Kernel, Rebuild, RebuildError, RebuildReport, RebuildStall, RequestError,
};
use verity_core::keyring::Keyring;
use verity_core::limits::ClusterConstants;
use verity_core::log::{LogHead, LogPins, Logs};
use verity_core::node::{Config, Halt, Node, Seed};
use verity_core::query::eval::Context;
use verity_core::query::read::Row;
use verity_core::query::{
    AsOf, EventRead, ReadProgress, ReadTask, ReadWorld, SqlError, Stop, prepare_one,
};
use verity_core::store::{PageKeys, Pins, Store, StoreConfig};
use verity_core::superblock::SuperblockState;
use verity_core::time::{Clock, Instant, Timestamp};

use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::{self, MasterKey};
use crate::error::Error;
use crate::offline::Offline;
use crate::verify::{self, grid};

/// Clean pages of each of the two stores.
const CLEAN_PAGES: u32 = 16 << 10;

/// Why the comparison could not be made.
#[derive(Debug)]
pub enum Problem {
    Open(Error),
    /// The directory does not verify, so there is nothing to derive from.
    Damaged(String),
    Rebuild(RebuildError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Open(error) => write!(f, "{error}"),
            Problem::Damaged(what) => {
                write!(f, "{what}; `verity verify` tells what else is damaged")
            }
            Problem::Rebuild(RebuildError::Log { tenant, position, fault }) => {
                write!(
                    f,
                    "the log of tenant {tenant} cannot be read at position {position}: {fault:?}"
                )
            }
            Problem::Rebuild(RebuildError::Event(error)) => write!(f, "{error:?}"),
            Problem::Rebuild(RebuildError::Commitment { tenant, position }) => {
                write!(f, "record {position} of tenant {tenant} does not hold what it commits to")
            }
        }
    }
}

/// Compares; `told` hears of records replayed and entries compared so far.
pub fn check(
    root: &Path,
    master_key: MasterKey,
    told: impl FnMut(u64, u64),
) -> Result<RebuildReport, Problem> {
    derive(root, master_key, told).map(|(_, report)| report)
}

/// State that was derived from the logs alone, to be asked. The live state answers nothing here.
pub struct Derived {
    sides: Sides,
    /// Reads the catalog of the derived state.
    kernel: Kernel,
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
        let (sides, report) = derive(root, master_key, |_, _| {})?;
        let kernel = Kernel::new(sides.constants, sides.generation);
        Ok(Derived { sides, kernel, report, _lock: lock })
    }

    #[must_use]
    pub fn report(&self) -> &RebuildReport {
        &self.report
    }

    /// Runs one SELECT of tables and catalog views, as of the position it names or the newest one.
    pub fn query(&mut self, tenant: TenantId, sql: &str) -> Result<Vec<Row>, Problem> {
        let to_problem = |error: SqlError| Problem::Open(Error::from(error));
        let catalog = loop {
            match self.kernel.catalog(&self.sides.scratch.store, tenant) {
                Ok(catalog) => break catalog,
                Err(_fault) => self.sides.fetch_scratch()?,
            }
        };
        let unknown = || Problem::Open(Error::Request(RequestError::TenantUnknown(tenant)));
        let catalog = catalog.ok_or_else(unknown)?;
        let prepared = Arc::new(prepare_one(&catalog, sql).map_err(to_problem)?);
        if prepared.is_write() {
            return Err(Problem::Open(Error::WrongKind("derived state is only read")));
        }
        let newest = self.sides.logs.head(tenant).and_then(LogHead::last);
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
            let store = &self.sides.scratch.store;
            let mut world = ReadWorld { store, catalog: &catalog, events: &mut events };
            match task.step(&mut world) {
                Ok(progress) => {
                    rows.append(&mut task.take_rows());
                    if progress == ReadProgress::Done {
                        self.sides.release();
                        return Ok(rows);
                    }
                }
                Err(Stop::Fault(_)) => self.sides.fetch_scratch()?,
                Err(Stop::EventFault) => unreachable!("no event is missing: none is there"),
                Err(Stop::Sql(error)) => {
                    self.sides.release();
                    return Err(to_problem(error));
                }
            }
        }
    }
}

fn derive(
    root: &Path,
    master_key: MasterKey,
    mut told: impl FnMut(u64, u64),
) -> Result<(Sides, RebuildReport), Problem> {
    if !crate::format::is_formatted(root).map_err(Problem::Open)? {
        return Err(Problem::Open(Error::NotFormatted { path: root.to_path_buf() }));
    }
    let _lock = DirectoryLock::shared(root).map_err(|e| Problem::Open(Error::Lock(e)))?;
    let mut files = Offline::new(root, Some(master_key));
    replay(&mut files).map_err(Problem::Open)?;
    let mut told_of = verify::Report::default();
    let state = verify::parts::superblock(&mut files, &mut told_of);
    let damaged = |report: &verify::Report| {
        Problem::Damaged(report.findings.first().map(ToString::to_string).unwrap_or_default())
    };
    let Some(state) = state else { return Err(damaged(&told_of)) };
    let Some(keyring) = verify::parts::keys(&mut files, &state, true, &mut told_of) else {
        return Err(damaged(&told_of));
    };
    let mut sides = Sides::open(files, &state, keyring)?;
    let mut rebuild = Rebuild::new();
    loop {
        let (records, entries) = rebuild.progress();
        told(records, entries);
        let Sides { kernel, live, logs, keyring, scratch, .. } = &mut sides;
        match rebuild.step(kernel, &live.store, logs, keyring, &mut scratch.store) {
            Ok(Some(report)) => {
                sides.release();
                return Ok((sides, report));
            }
            Ok(None) => sides.release(),
            Err(RebuildStall::Live) => sides.fetch_live()?,
            Err(RebuildStall::Scratch) => sides.fetch_scratch()?,
            Err(RebuildStall::Log) => sides.fetch_log()?,
            Err(RebuildStall::ScratchCheckpoint(op)) => sides.checkpoint_scratch(op)?,
            Err(RebuildStall::Failed(error)) => return Err(Problem::Rebuild(error)),
        }
    }
}

/// Opens and closes a node over the overlay: its last checkpoint then covers everything.
fn replay(files: &mut Offline) -> Result<(), Error> {
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
            Some(halt) => return Err(Error::Halted { halt: halt.clone(), problem: None }),
        }
    }
}

/// Time goes on by a millisecond a turn: timers must run out, and nobody else reads this clock.
fn clock(ticks: u64) -> Clock {
    let wall = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let wall = u64::try_from(wall.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
    Clock { monotonic: Instant(ticks * 1_000_000), wall: Timestamp(wall) }
}

/// One store and what it waits for.
struct Side {
    store: Store,
    pins: Pins,
    effects: Effects,
}

struct Sides {
    constants: ClusterConstants,
    generation: Generation,
    files: Offline,
    keyring: Keyring,
    /// Of this rebuild alone: what it seals shares no key with anything before or after it.
    scratch_keys: BTreeMap<TenantId, PageKey>,
    kernel: Kernel,
    live: Side,
    scratch: Side,
    logs: Logs,
    log_pins: LogPins,
    log_effects: Effects,
}

impl Sides {
    fn open(
        mut files: Offline,
        state: &SuperblockState,
        keyring: Keyring,
    ) -> Result<Sides, Problem> {
        let heads = grid::heads(&mut files, state, &keyring).map_err(Problem::Damaged)?;
        let mut effects = Effects::new();
        let config = |file| StoreConfig::new(file, &state.constants, CLEAN_PAGES);
        let store = match grid::checkpoint(state) {
            Some(from) => Store::open(config(FileId::Grid), &from, &mut effects),
            None => Store::new(config(FileId::Grid)),
        };
        let mut logs = Logs::new(state.constants.segment_positions);
        for (tenant, head) in heads {
            open_log(&mut logs, tenant, head);
        }
        let scratch = Store::new(config(FileId::Scratch));
        let random =
            master_key::random().map_err(|error| Problem::Open(Error::MasterKey(error)))?;
        let scratch_keys = keyring
            .tenants()
            .filter_map(|tenant| Some((tenant, keyring.tenant(tenant)?.scratch_page(&random))))
            .collect();
        let mut sides = Sides {
            constants: state.constants,
            generation: state.checkpoint.generation,
            files,
            keyring,
            scratch_keys,
            kernel: Kernel::new(state.constants, state.checkpoint.generation),
            live: Side { store, pins: Pins::new(), effects },
            scratch: Side { store: scratch, pins: Pins::new(), effects: Effects::new() },
            logs,
            log_pins: LogPins::default(),
            log_effects: Effects::new(),
        };
        sides.settle()?;
        Ok(sides)
    }

    fn fetch_live(&mut self) -> Result<(), Problem> {
        self.live.store.fetch(&mut self.live.pins, &mut self.live.effects);
        self.settle()
    }

    fn fetch_scratch(&mut self) -> Result<(), Problem> {
        self.scratch.store.fetch(&mut self.scratch.pins, &mut self.scratch.effects);
        self.settle()
    }

    fn fetch_log(&mut self) -> Result<(), Problem> {
        self.logs.fetch(&mut self.log_pins, &mut self.log_effects);
        self.settle()
    }

    fn release(&mut self) {
        self.live.store.unpin(&mut self.live.pins);
        self.scratch.store.unpin(&mut self.scratch.pins);
        self.logs.release(&mut self.log_pins);
    }

    fn checkpoint_scratch(&mut self, op: Op) -> Result<(), Problem> {
        self.scratch.store.checkpoint_begin(op);
        loop {
            let Side { store, effects, .. } = &mut self.scratch;
            store
                .checkpoint_step(&self.scratch_keys, effects)
                .map_err(|error| Problem::Damaged(error.to_string()))?;
            self.settle()?;
            if self.scratch.store.checkpoint_done().is_some() {
                self.scratch.store.checkpoint_durable_applied(op);
                return Ok(());
            }
        }
    }

    /// Carries out what was asked for, until nothing is.
    fn settle(&mut self) -> Result<(), Problem> {
        let told = |error: &dyn fmt::Display| Problem::Damaged(error.to_string());
        let mut inputs = Vec::new();
        loop {
            let mut quiet = true;
            let sides: [(&mut Side, &dyn PageKeys); 2] =
                [(&mut self.live, &self.keyring), (&mut self.scratch, &self.scratch_keys)];
            for (side, keys) in sides {
                self.files.execute(&mut side.effects, &mut inputs);
                quiet &= inputs.is_empty();
                for input in inputs.drain(..) {
                    let store = &mut side.store;
                    match input {
                        Input::ReadDone { io, pages, result } => store
                            .on_read_done(keys, io, pages, result, &mut side.effects)
                            .map_err(|error| told(&error))?,
                        Input::WriteDone { io, pages, result } => {
                            store.on_write_done(io, pages, result).map_err(|error| told(&error))?
                        }
                        other => unreachable!("a store asks for reads and writes: {other:?}"),
                    }
                }
                side.store.ready(&side.pins).map_err(|error| told(&error))?;
            }
            self.files.execute(&mut self.log_effects, &mut inputs);
            quiet &= inputs.is_empty();
            for input in inputs.drain(..) {
                let (logs, effects) = (&mut self.logs, &mut self.log_effects);
                let done = match input {
                    Input::ReadDone { io, pages, result } => {
                        logs.on_read_done(io, pages, result, effects)
                    }
                    Input::WriteDone { io, pages, result } => {
                        logs.on_write_done(io, pages, result, effects)
                    }
                    Input::Done { io, result } => logs.on_done(io, result, effects),
                    other => unreachable!("a log asks for files only: {other:?}"),
                };
                done.map_err(|error| Problem::Damaged(format!("{error:?}")))?;
            }
            if quiet {
                return Ok(());
            }
        }
    }
}

fn open_log(logs: &mut Logs, tenant: TenantId, head: LogHead) {
    if !logs.is_open(tenant) {
        logs.open(tenant, head);
    }
}
