//! Rebuild equals live, over a bare disk: `State = Apply(Initial, Log)`.
//!
//! Purpose: takes what a power cut would leave of a disk, lets a process open it and shut down (so
//! that the journal after the checkpoint is replayed and checkpointed), then derives every tenant's
//! state from the segments alone and compares tree by tree, entry by entry, with the state that the
//! grid holds. Invariants: works on a copy of the disk; nothing in the world changes. Start reading
//! at [`check`].

use std::collections::VecDeque;
use std::ops::ControlFlow;

use verity_core::ids::{TenantId, TreeId};
use verity_core::io::{Address, Effect, Effects, FileId, Input, Pages};
use verity_core::kernel::{Kernel, Rebuild, RebuildReport, RebuildStall};
use verity_core::keyring::{Keyring, KeyringEvent};
use verity_core::limits::{ClusterConstants, PAGE_SIZE, SUPERBLOCK_COPIES};
use verity_core::log::{LogHead, LogPins, Logs};
use verity_core::store::{Cursor, Direction, Pins, Store, StoreCheckpoint, StoreConfig, TreeRef};
use verity_core::superblock::{SuperblockState, copy_offset, decode_copies};

use crate::disk::Disk;
use crate::keys::MasterKey;

const HEADS_TREE: TreeRef = TreeRef::new(TenantId::SYSTEM, TreeId::new(5));
const CLEAN_PAGES: u32 = 2_048;
const STEPS_MAX: u64 = 10_000_000;

/// Compares the grid with the logs of a disk whose last process shut down. `Err`: in words, why
/// they differ or cannot be compared.
pub fn check(disk: Disk, master: MasterKey) -> Result<RebuildReport, String> {
    let mut files = Files { disk, master };
    let state = files.superblock()?;
    let keyring = files.keyring(&state)?;
    let mut sides = Sides::open(files, &state, keyring)?;
    let mut rebuild = Rebuild::new();
    for _ in 0..STEPS_MAX {
        let Sides { kernel, live, logs, keyring, scratch, .. } = &mut sides;
        match rebuild.step(kernel, &live.store, logs, keyring, &mut scratch.store) {
            Ok(Some(report)) => {
                return match &report.difference {
                    None => Ok(report),
                    Some(difference) => Err(format!("{difference:?}")),
                };
            }
            Ok(None) => sides.release(),
            Err(RebuildStall::Live) => sides.live.fetch(),
            Err(RebuildStall::Scratch) => sides.scratch.fetch(),
            Err(RebuildStall::Log) => sides.logs.fetch(&mut sides.log_pins, &mut sides.log_effects),
            Err(RebuildStall::ScratchCheckpoint(op)) => {
                sides.scratch.store.checkpoint_begin(op);
                while sides.scratch.store.checkpoint_done().is_none() {
                    let Side { store, effects, .. } = &mut sides.scratch;
                    store.checkpoint_step(&sides.keyring, effects).map_err(words)?;
                    sides.settle()?;
                }
                sides.scratch.store.checkpoint_durable_applied(op);
            }
            Err(RebuildStall::Failed(error)) => return Err(format!("{error:?}")),
        }
        sides.settle()?;
    }
    Err("the rebuild never ends".to_owned())
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A disk that answers at once and never fails.
struct Files {
    disk: Disk,
    master: MasterKey,
}

impl Files {
    fn execute(&mut self, effects: &mut Effects, inputs: &mut VecDeque<Input>) {
        for effect in effects.drain() {
            match effect {
                Effect::Read { io, at, mut pages } => {
                    self.read(at, &mut pages);
                    inputs.push_back(Input::ReadDone { io, pages, result: Ok(()) });
                }
                Effect::Write { io, at, pages, durable: _ } => {
                    let first = at.offset / PAGE_SIZE as u64;
                    for (nth, page) in pages.as_slice().iter().enumerate() {
                        self.disk.put((at.file, first + nth as u64), page.0.into());
                    }
                    inputs.push_back(Input::WriteDone { io, pages, result: Ok(()) });
                }
                Effect::Sync { io, .. } | Effect::Create { io, .. } | Effect::Remove { io, .. } => {
                    inputs.push_back(Input::Done { io, result: Ok(()) });
                }
                Effect::Wrap { io, purpose, key } => {
                    let key = Ok(self.master.wrap(purpose, &key));
                    inputs.push_back(Input::Wrapped { io, key });
                }
                Effect::Unwrap { io, purpose, key } => {
                    let key = self.master.unwrap(purpose, &key);
                    inputs.push_back(Input::Unwrapped { io, key });
                }
                Effect::Event(_) => {}
            }
        }
    }

    fn read(&self, at: Address, pages: &mut Pages) {
        let first = at.offset / PAGE_SIZE as u64;
        for (nth, page) in pages.as_mut_slice().iter_mut().enumerate() {
            match self.disk.newest((at.file, first + nth as u64)) {
                Some(sector) => page.0.copy_from_slice(&sector[..]),
                None => page.0.fill(0),
            }
        }
    }

    fn superblock(&self) -> Result<SuperblockState, String> {
        let zeros = [0; PAGE_SIZE];
        let copies: [&[u8]; SUPERBLOCK_COPIES] = std::array::from_fn(|copy| {
            let offset = copy_offset(copy as u8);
            let id = (FileId::Superblock, offset / PAGE_SIZE as u64);
            self.disk.newest(id).map_or(&zeros[..], |sector| &sector[..])
        });
        Ok(decode_copies(&copies).decide(false).map_err(words)?.state)
    }

    fn keyring(&mut self, state: &SuperblockState) -> Result<Keyring, String> {
        let mut effects = Effects::new();
        let generation = state.checkpoint.generation;
        let mut keyring = Keyring::open(state.cluster, state.origin, generation, &mut effects);
        let mut inputs = VecDeque::new();
        loop {
            self.execute(&mut effects, &mut inputs);
            let Some(input) = inputs.pop_front() else {
                return Err("the keyring waits for nothing".to_owned());
            };
            let event = match input {
                Input::ReadDone { io, pages, result } => {
                    keyring.on_read_done(io, pages, result, &mut effects)
                }
                Input::Unwrapped { io, key } => keyring.on_unwrapped(io, key, &mut effects),
                other => unreachable!("an opening keyring reads and unwraps: {other:?}"),
            };
            if let KeyringEvent::Opened { .. } = event.map_err(words)? {
                return Ok(keyring);
            }
        }
    }
}

/// A store and what it waits for.
struct Side {
    store: Store,
    pins: Pins,
    effects: Effects,
}

impl Side {
    fn fetch(&mut self) {
        self.store.fetch(&mut self.pins, &mut self.effects);
    }

    fn settle(&mut self, files: &mut Files, keyring: &Keyring) -> Result<(), String> {
        let mut inputs = VecDeque::new();
        files.execute(&mut self.effects, &mut inputs);
        while let Some(input) = inputs.pop_front() {
            match input {
                Input::ReadDone { io, pages, result } => self
                    .store
                    .on_read_done(keyring, io, pages, result, &mut self.effects)
                    .map_err(words)?,
                Input::WriteDone { io, pages, result } => {
                    self.store.on_write_done(io, pages, result).map_err(words)?;
                }
                other => unreachable!("a store reads and writes: {other:?}"),
            }
            files.execute(&mut self.effects, &mut inputs);
        }
        self.store.ready(&self.pins).map(drop).map_err(words)
    }
}

struct Sides {
    files: Files,
    keyring: Keyring,
    kernel: Kernel,
    live: Side,
    scratch: Side,
    logs: Logs,
    log_pins: LogPins,
    log_effects: Effects,
}

impl Sides {
    fn open(files: Files, state: &SuperblockState, keyring: Keyring) -> Result<Sides, String> {
        let constants = &state.constants;
        let mut effects = Effects::new();
        let checkpoint = &state.checkpoint;
        let live = if checkpoint.free_set.root.is_none() {
            Store::new(config(FileId::Grid, constants))
        } else {
            let from = StoreCheckpoint {
                op: checkpoint.op,
                system_forest: checkpoint.system_forest,
                free_set: checkpoint.free_set,
                grid_pages: checkpoint.grid_pages,
            };
            Store::open(config(FileId::Grid, constants), &from, &mut effects)
        };
        let scratch = Store::new(config(FileId::Scratch, constants));
        let mut sides = Sides {
            files,
            keyring,
            kernel: Kernel::new(*constants, checkpoint.generation),
            live: Side { store: live, pins: Pins::new(), effects },
            scratch: Side { store: scratch, pins: Pins::new(), effects: Effects::new() },
            logs: Logs::new(constants.segment_positions),
            log_pins: LogPins::default(),
            log_effects: Effects::new(),
        };
        sides.settle()?;
        for (tenant, head) in sides.heads()? {
            if !sides.logs.is_open(tenant) {
                sides.logs.open(tenant, head);
            }
        }
        Ok(sides)
    }

    fn heads(&mut self) -> Result<Vec<(TenantId, LogHead)>, String> {
        let mut heads = Vec::new();
        let mut cursor = Cursor::all(Direction::Forward);
        loop {
            let scanned = self.live.store.scan(HEADS_TREE, &mut cursor, |key, value| {
                if let (Ok(key), Ok(head)) = (<[u8; 8]>::try_from(key), LogHead::decode(value)) {
                    heads.push((TenantId::new(u64::from_be_bytes(key)), head));
                }
                ControlFlow::Continue(())
            });
            match scanned {
                Ok(_) => break,
                Err(_fault) => {
                    self.live.fetch();
                    self.settle()?;
                }
            }
        }
        self.release();
        Ok(heads)
    }

    fn release(&mut self) {
        self.live.store.unpin(&mut self.live.pins);
        self.scratch.store.unpin(&mut self.scratch.pins);
        self.logs.release(&mut self.log_pins);
    }

    fn settle(&mut self) -> Result<(), String> {
        self.live.settle(&mut self.files, &self.keyring)?;
        self.scratch.settle(&mut self.files, &self.keyring)?;
        let mut inputs = VecDeque::new();
        self.files.execute(&mut self.log_effects, &mut inputs);
        while let Some(input) = inputs.pop_front() {
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
            done.map_err(|error| format!("{error:?}"))?;
            self.files.execute(&mut self.log_effects, &mut inputs);
        }
        Ok(())
    }
}

fn config(file: FileId, constants: &ClusterConstants) -> StoreConfig {
    StoreConfig::new(file, constants, CLEAN_PAGES)
}
