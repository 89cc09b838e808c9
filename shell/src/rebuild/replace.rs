//! `verity rebuild`: a new grid and new indexes from the logs alone, in place of damaged ones.
//!
//! How: the logs are checked up to the checkpoint that the superblock names. Every record is
//! applied to a second store whose pages lie in `data/grid` behind all that the first one ever
//! used, sealed under keys of a grid of their own. When they are durable and read back whole, the
//! indexes take their places, and the superblock names the new grid. The prepares after the
//! checkpoint stay in the journal; the next open replays them.
//!
//! Invariants: until the superblock is written nothing that the old state needs is changed, so a
//! crash at any moment leaves the old state or the new one; the old grid's pages are free once the
//! new state is the last durable checkpoint. What does not verify is not derived from: damage in
//! superblock, keys, journal or logs is a refusal. Grids of a cluster's replicas are the same
//! bytes, which one made alone is not: a replica of a cluster is repaired by its peers instead.
//!
//! Fault model: a grid in any condition, or none.

use std::path::Path;
use std::time::Duration;

use verity_core::ids::{GridId, Op, TenantId};
use verity_core::io::{Effect, Effects, FileId, Input, IoId, Owner};
use verity_core::kernel::{Kernel, RebuildReport, Sides};
use verity_core::log::LogHead;
use verity_core::node::CURRENT_RELEASE;
use verity_core::store::{Store, StoreCheckpoint, StoreConfig};
use verity_core::superblock::{
    CheckpointState, OpenOptions, Superblock, SuperblockError, SuperblockEvent, SuperblockState,
};

use super::{CLEAN_PAGES, Problem, heads, indexes, problem_of, roots};
use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::{self, MasterKey, MasterKeySource};
use crate::disk::{Disk, IoBackend};
use crate::error::Error;
use crate::offline::Offline;
use crate::verify::{self, Heads, Progress, Report, Severity, grid};

/// Where it was read how far the logs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadsFrom {
    /// In the old grid, whose tree of heads is whole.
    Grid,
    /// From records and indexes.
    Logs,
}

/// What was done.
#[derive(Debug)]
pub enum Replaced {
    /// No checkpoint was taken yet: there is no derived state, the journal has it all.
    Nothing,
    Done {
        report: RebuildReport,
        checkpoint: Op,
        heads_from: HeadsFrom,
        /// Index files made.
        indexes: u64,
        /// Pages that the new state has, and what the old one ever had.
        pages: u64,
        pages_before: u64,
        /// Prepares after the checkpoint, which the next open replays.
        prepares: u64,
    },
}

/// Replaces grid and indexes of a directory by what its logs give. `accept_missing_logs`: the
/// operator's word, for when the grid cannot say it, that no file of a log is gone as a whole.
pub fn replace(
    root: &Path,
    backend: IoBackend,
    master_key: &MasterKeySource,
    accept_missing_logs: bool,
    progress: &mut dyn Progress,
) -> Result<Replaced, Problem> {
    if !crate::format::is_formatted(root).map_err(Problem::Open)? {
        return Err(Problem::Open(Error::NotFormatted { path: root.to_path_buf() }));
    }
    let load = || MasterKey::load(master_key, root).map_err(|e| Problem::Key(e.to_string()));
    let key = load()?;
    let _lock = DirectoryLock::exclusive(root).map_err(|e| Problem::Open(Error::Lock(e)))?;
    let mut files = Offline::new(root, Some(key));
    let (state, keyring) = roots(&mut files)?;
    if state.replica_count > 1 {
        return Err(Problem::CannotTell(format!(
            "this is replica {} of {}: a grid made alone is not the one that its peers have. Start \
             the replica, its peers repair it; or format it anew",
            state.replica, state.replica_count
        )));
    }
    let mut report = Report::default();
    verify::parts::journal(root, &mut files, &state, &mut report, progress);
    refuse_damage(&report)?;
    let prepares = report.prepares;
    if grid::checkpoint(&state).is_none() {
        return Ok(Replaced::Nothing);
    }
    let (heads, heads_from) = heads_of(&mut files, &state, &keyring, progress)?;
    let mut work = Work {
        disk: Disk::open(root, backend, load()?).map_err(|e| Problem::Open(Error::Disk(e)))?,
        files,
    };
    let grid = GridId::new(u128::from_le_bytes(random()?));
    let proven = heads_from == HeadsFrom::Grid;
    if !proven && !accept_missing_logs {
        heads::refuse_full(&heads, state.constants.segment_positions)?;
    }
    let certain = proven || accept_missing_logs;
    let (report, checkpoint) = work.derive(&state, grid, &heads, (proven, certain), progress)?;
    let new = with_grid(&state, grid, &checkpoint);
    let pages = read_back(&mut Offline::new(root, Some(load()?)), &new, &heads, progress)?;
    let mut made = 0;
    for (tenant, head) in &heads {
        made += indexes::make(&mut work.files, &state, *tenant, head).map_err(Problem::Disk)?;
    }
    work.switch(&state, grid, &checkpoint)?;
    Ok(Replaced::Done {
        report,
        checkpoint: checkpoint.op,
        heads_from,
        indexes: made,
        pages,
        pages_before: u64::from(state.checkpoint.grid_pages),
        prepares,
    })
}

fn random() -> Result<[u8; 16], Problem> {
    master_key::random().map_err(|error| Problem::Open(Error::MasterKey(error)))
}

fn refuse_damage(report: &Report) -> Result<(), Problem> {
    match report.findings.iter().map(|finding| finding.severity).max() {
        Some(Severity::Damage | Severity::Unknown) => Err(problem_of(report)),
        Some(Severity::Note) | None => Ok(()),
    }
}

/// How far the logs go at the checkpoint; they hold up to there.
fn heads_of(
    files: &mut Offline,
    state: &SuperblockState,
    keyring: &verity_core::keyring::Keyring,
    progress: &mut dyn Progress,
) -> Result<(Heads, HeadsFrom), Problem> {
    let (heads, heads_from) = match grid::heads(files, state, keyring) {
        Ok(heads) => (heads, HeadsFrom::Grid),
        Err(_damage) => {
            let heads = heads::at(files, state, progress);
            (heads.map_err(Problem::Damaged)?, HeadsFrom::Logs)
        }
    };
    let mut report = Report::default();
    let roots = &mut verify::Roots::default();
    verify::logs::check_all(files, state, &heads, Some(keyring), roots, &mut report, progress);
    refuse_damage(&report)?;
    Ok((heads, heads_from))
}

/// The superblock that names the new grid; all else is as it was.
fn with_grid(
    state: &SuperblockState,
    grid: GridId,
    checkpoint: &StoreCheckpoint,
) -> SuperblockState {
    let StoreCheckpoint { op, system_forest, free_set, grid_pages } = *checkpoint;
    assert!(op == state.checkpoint.op, "the same checkpoint, made again");
    let checkpoint = CheckpointState { system_forest, free_set, grid_pages, ..state.checkpoint };
    SuperblockState { grid, checkpoint, ..*state }
}

/// What was written, as any reader would find it; gives its pages.
fn read_back(
    files: &mut Offline,
    state: &SuperblockState,
    heads: &Heads,
    progress: &mut dyn Progress,
) -> Result<u64, Problem> {
    let mut report = Report::default();
    let Some(keyring) = verify::parts::keys(files, state, None, &mut report) else {
        return Err(problem_of(&report));
    };
    // A copy of the keys may be damaged: that was there before.
    let mut report = Report::default();
    let found = grid::check(files, state, &keyring, &mut report, progress);
    let lies = |what: String| {
        Problem::Disk(format!("what was written does not read back: {what}. Check the disk"))
    };
    if let Err(problem) = refuse_damage(&report) {
        return Err(lies(problem.to_string()));
    }
    if found.as_ref() != Some(heads) {
        return Err(lies("the heads of the logs are others".to_string()));
    }
    Ok(report.pages)
}

/// The files: the new grid and the superblock through the disk, the logs as they lie.
struct Work {
    disk: Disk,
    files: Offline,
}

impl Work {
    fn derive(
        &mut self,
        state: &SuperblockState,
        grid: GridId,
        heads: &[(TenantId, LogHead)],
        (proven, certain): (bool, bool),
        progress: &mut dyn Progress,
    ) -> Result<(RebuildReport, StoreCheckpoint), Problem> {
        self.create_grid()?;
        let (_, keyring) = roots(&mut self.files)?;
        let (_, seals) = roots(&mut self.files)?;
        let seals = seals.of_grid(grid);
        let kept = state.checkpoint.grid_pages;
        let config = StoreConfig::new(FileId::Grid, &state.constants, CLEAN_PAGES);
        let kernel = Kernel::new(state.constants, state.checkpoint.generation);
        let mut sides = Sides::to_keep(kernel, keyring, heads, Store::behind(config, kept));
        let records: u64 = heads.iter().map(|(_, head)| head.next.get()).sum();
        progress.part(verify::RECORDS, records);
        let mut told = 0;
        let report = loop {
            let stepped = sides.step(&seals, &mut |effects, inputs| self.execute(effects, inputs));
            let (records, _) = sides.progress();
            progress.bytes(records - told);
            told = records;
            if let Some(report) = stepped.map_err(|error| self.problem(error.into()))? {
                break report;
            }
        };
        let has_log = |tenant| heads.iter().any(|(of, _)| *of == tenant);
        if !certain
            && let Some((tenant, _)) = report.roots.iter().find(|(tenant, _)| !has_log(*tenant))
        {
            return Err(heads::missing(&format!("tenant {tenant} has no log")));
        }
        if !proven {
            let attested = sides
                .attested(&seals, &mut |effects, inputs| self.execute(effects, inputs))
                .map_err(|error| self.problem(error.into()))?;
            for (tenant, size) in attested {
                let head = heads.iter().find(|(of, _)| *of == tenant);
                if head.map_or(0, |(_, head)| head.next.get()) < size {
                    return Err(Problem::Damaged(format!(
                        "the log of tenant {tenant} is shorter than the {size} records that were \
                         attested"
                    )));
                }
            }
        }
        let checkpoint = sides
            .finish(heads, kept, state.checkpoint.op, &seals, &mut |effects, inputs| {
                self.execute(effects, inputs);
            })
            .map_err(|error| self.problem(error.into()))?;
        let mut effects = Effects::new();
        effects.push(Effect::Sync { io: own(), file: FileId::Grid });
        self.done(effects, "syncing the grid")?;
        Ok((report, checkpoint))
    }

    /// A grid that is gone is begun anew.
    fn create_grid(&mut self) -> Result<(), Problem> {
        if self.files.size(FileId::Grid) != Ok(None) {
            return Ok(());
        }
        let mut effects = Effects::new();
        effects.push(Effect::Create { io: own(), file: FileId::Grid });
        self.done(effects, "creating the grid")
    }

    /// All four copies of the superblock, one after the other, name the new grid.
    fn switch(
        &mut self,
        state: &SuperblockState,
        grid: GridId,
        checkpoint: &StoreCheckpoint,
    ) -> Result<(), Problem> {
        let options = OpenOptions {
            cluster: Some(state.cluster),
            replica: Some(state.replica),
            release: CURRENT_RELEASE,
            accept_single_copy: false,
        };
        let mut effects = Effects::new();
        let mut superblock = Superblock::open(options, &mut effects);
        let mut inputs = Vec::new();
        loop {
            self.carry_out(&mut effects, &mut inputs);
            assert!(!inputs.is_empty(), "a superblock waits for something until it is written");
            for input in inputs.drain(..) {
                let event = match input {
                    Input::ReadDone { io, pages, result } => {
                        superblock.on_read_done(io, pages, result, &mut effects)
                    }
                    Input::WriteDone { io, pages, result } => {
                        superblock.on_write_done(io, pages, result, &mut effects)
                    }
                    other => unreachable!("a superblock reads and writes: {other:?}"),
                };
                let failed = |error: SuperblockError| Problem::Damaged(error.to_string());
                match event.map_err(failed)? {
                    None => {}
                    Some(SuperblockEvent::Opened) => {
                        let Some(found) = superblock.state() else {
                            unreachable!("it was just opened")
                        };
                        assert!(found.sequence == state.sequence, "the directory is locked");
                        superblock.update(with_grid(found, grid, checkpoint), &mut effects);
                    }
                    Some(SuperblockEvent::Updated) => return Ok(()),
                }
            }
        }
    }

    fn execute(&mut self, effects: &mut Effects, inputs: &mut Vec<Input>) {
        let (mut of_grid, mut others) = (Effects::new(), Effects::new());
        for effect in effects.drain() {
            let is_grid = match &effect {
                Effect::Read { at, .. } | Effect::Write { at, .. } => at.file == FileId::Grid,
                Effect::Sync { file, .. }
                | Effect::Create { file, .. }
                | Effect::Remove { file, .. } => *file == FileId::Grid,
                Effect::Wrap { .. }
                | Effect::Unwrap { .. }
                | Effect::Send { .. }
                | Effect::Event(_) => false,
            };
            if is_grid { of_grid.push(effect) } else { others.push(effect) }
        }
        self.carry_out(&mut of_grid, inputs);
        self.files.execute(&mut others, inputs);
    }

    /// On the disk; returns when all of it is done.
    fn carry_out(&mut self, effects: &mut Effects, inputs: &mut Vec<Input>) {
        let bell = self.disk.doorbell();
        self.disk.execute(effects);
        bell.submit();
        self.disk.poll(inputs);
        while self.disk.in_flight() > 0 {
            bell.submit_and_wait(Duration::from_millis(50));
            self.disk.poll(inputs);
        }
    }

    fn done(&mut self, mut effects: Effects, what: &str) -> Result<(), Problem> {
        let mut inputs = Vec::new();
        self.carry_out(&mut effects, &mut inputs);
        for input in inputs {
            if let Input::Done { result: Err(error), .. } = input {
                return Err(self.problem(Problem::Disk(format!("{what}: {error}"))));
            }
        }
        Ok(())
    }

    /// In the operating system's words, if the disk failed.
    fn problem(&self, other: Problem) -> Problem {
        match self.disk.problem() {
            Some(problem) => Problem::Disk(problem.to_string()),
            None => other,
        }
    }
}

fn own() -> IoId {
    IoId { owner: Owner::Node, slot: 0 }
}
