//! Rebuild equals live, over a bare disk: `State = Apply(Initial, Log)`.
//!
//! Purpose: takes what a power cut would leave of a disk, lets a process open it and shut down (so
//! that the journal after the checkpoint is replayed and checkpointed), then derives every tenant's
//! state from the segments alone and compares tree by tree, entry by entry, with the state that the
//! grid holds. Invariants: works on a copy of the disk; nothing in the world changes. Start reading
//! at [`check`].

use std::collections::{BTreeMap, VecDeque};

use verity_core::io::{Address, Effect, Effects, FileId, Input, Page, Pages};
use verity_core::kernel::{Kernel, RebuildReport, Sides};
use verity_core::keyring::{Keyring, KeyringEvent};
use verity_core::limits::{ClusterConstants, PAGE_SIZE, SUPERBLOCK_COPIES};
use verity_core::store::walk::Walker;
use verity_core::store::{Store, StoreCheckpoint, StoreConfig};
use verity_core::superblock::{SuperblockState, copy_offset, decode_copies};

use crate::disk::Disk;
use crate::keys::MasterKey;

const CLEAN_PAGES: u32 = 2_048;
const SCRATCH_PAGES_MAX: u32 = (1 << 30) - 1;
const STEPS_MAX: u64 = 10_000_000;

/// Compares the grid with the logs of a disk whose last process shut down. `Err`: in words, why
/// they differ or cannot be compared.
pub fn check(disk: Disk, master: MasterKey) -> Result<RebuildReport, String> {
    let mut files = Files { disk, master };
    let state = files.superblock()?;
    let keyring = files.keyring(&state)?;
    let scratch_keys = files.keyring(&state)?;
    let kernel = Kernel::new(state.constants, state.checkpoint.generation);
    // Thrown away, so no limit of the grid is its own.
    let unlimited = ClusterConstants { grid_pages_max: SCRATCH_PAGES_MAX, ..state.constants };
    let scratch = Store::new(config(FileId::Scratch, &unlimited));
    let mut sides = Sides::to_compare(kernel, keyring, live(&state), scratch);
    let mut execute = |effects: &mut Effects, inputs: &mut Vec<Input>| {
        let mut queue = VecDeque::new();
        files.execute(effects, &mut queue);
        inputs.extend(queue);
    };
    sides.open(&mut execute).map_err(words)?;
    for _ in 0..STEPS_MAX {
        let Some(report) = sides.step(&scratch_keys, &mut execute).map_err(words)? else {
            continue;
        };
        return match &report.difference {
            None => Ok(report),
            Some(difference) => Err(format!("{difference:?}")),
        };
    }
    Err("the rebuild never ends".to_owned())
}

/// Every page that a disk's checkpoint reaches, as it lies there; each is checked against its
/// parent.
pub fn pages_of(disk: Disk, master: MasterKey) -> Result<BTreeMap<u32, Page>, String> {
    let mut files = Files { disk, master };
    let state = files.superblock()?;
    let keyring = files.keyring(&state)?;
    let checkpoint = &state.checkpoint;
    let mut walker = Walker::new(&StoreCheckpoint {
        op: checkpoint.op,
        system_forest: checkpoint.system_forest,
        free_set: checkpoint.free_set,
        grid_pages: checkpoint.grid_pages,
    });
    let mut found = BTreeMap::new();
    while let Some(wanted) = walker.wanted() {
        let number = wanted.at.page.get();
        let mut pages = Pages::zeroed(1);
        files.read(Address::new(FileId::Grid, u64::from(number) * PAGE_SIZE as u64), &mut pages);
        let [page] = pages.as_mut_slice() else { unreachable!("one page was asked for") };
        found.insert(number, page.clone());
        walker.give(&keyring, &wanted, page).map_err(words)?;
    }
    Ok(found)
}

/// The state that the checkpoint holds.
fn live(state: &SuperblockState) -> (Store, Effects) {
    let mut effects = Effects::new();
    let checkpoint = &state.checkpoint;
    let config = config(FileId::Grid, &state.constants);
    if checkpoint.free_set.root.is_none() {
        return (Store::new(config), effects);
    }
    let from = StoreCheckpoint {
        op: checkpoint.op,
        system_forest: checkpoint.system_forest,
        free_set: checkpoint.free_set,
        grid_pages: checkpoint.grid_pages,
    };
    (Store::open(config, &from, &mut effects), effects)
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
                Effect::Send { .. } => unreachable!("a rebuild sends nothing"),
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
        let keyring = Keyring::open(state.cluster, state.origin, generation, &mut effects);
        let mut keyring = keyring.of_grid(state.grid);
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

fn config(file: FileId, constants: &ClusterConstants) -> StoreConfig {
    StoreConfig::new(file, constants, CLEAN_PAGES)
}
