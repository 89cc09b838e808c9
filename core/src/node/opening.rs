//! From a data directory to the parts of a running node: superblock, keyring, grid, journal.
//!
//! Each part is opened only when the one it is checked against is: the superblock names cluster and
//! origin (keys), the checkpoint (grid) and where the journal begins. Nothing is written here but
//! damaged copies of superblock and keys that are good elsewhere. Any error ends the open.

use crate::io::{Effects, FileId, Input, IoError, IoId, Owner};
use crate::keyring::{Keyring, KeyringError, KeyringEvent};
use crate::node::api::{Config, Halt};
use crate::node::consensus::Consensus;
use crate::node::halt::{keyring_halt, store_halt, superblock_halt, vsr_halt};
use crate::node::memory::MemoryPlan;
use crate::store::{Store, StoreCheckpoint, StoreConfig, StoreError};
use crate::superblock::{
    OpenOptions, Superblock, SuperblockError, SuperblockEvent, SuperblockState,
};
use crate::time::Clock;

/// What a running node is made of.
#[derive(Debug)]
pub(super) struct Opened {
    pub superblock: Superblock,
    pub keyring: Keyring,
    pub store: Store,
    pub vsr: Consensus,
    pub memory: MemoryPlan,
}

#[derive(Debug)]
pub(super) struct Opening {
    superblock: Option<Superblock>,
    keyring: Option<Keyring>,
    store: Option<Store>,
    vsr: Option<Consensus>,
    /// Names this boot.
    nonce: u64,
    memory: Option<MemoryPlan>,
    /// Grid and segments are to be fetched from a peer.
    sync: bool,
    keys_open: bool,
}

impl Opening {
    /// `sync`: a peer has a checkpoint that this replica needs.
    pub fn start(config: &Config, nonce: u64, sync: bool, effects: &mut Effects) -> Opening {
        let options = OpenOptions {
            cluster: config.cluster,
            replica: Some(config.replica),
            release: config.release,
            accept_single_copy: config.accept_single_superblock_copy,
        };
        Opening {
            superblock: Some(Superblock::open(options, effects)),
            keyring: None,
            store: None,
            vsr: None,
            nonce,
            memory: None,
            sync,
            keys_open: false,
        }
    }

    /// Once the superblock is known.
    pub fn state(&self) -> Option<&SuperblockState> {
        self.superblock.as_ref().and_then(Superblock::state)
    }

    /// All is open: the parts, once.
    pub fn finish(&mut self) -> Option<Opened> {
        if !self.vsr.as_ref()?.is_open() {
            return None;
        }
        let Opening { superblock, keyring, store, vsr, memory, nonce: _, sync: _, keys_open: _ } =
            self;
        let (Some(superblock), Some(keyring), Some(store), Some(vsr), Some(memory)) =
            (superblock.take(), keyring.take(), store.take(), vsr.take(), memory.take())
        else {
            unreachable!("the journal is opened last")
        };
        Some(Opened { superblock, keyring, store, vsr, memory })
    }

    /// Superblock and keys are open, and what the grid holds is not for opening: they are given
    /// away, with the nonce of this boot.
    pub fn finish_to_sync(&mut self) -> Option<(Superblock, Keyring, u64)> {
        if !self.keys_open || !self.sync {
            return None;
        }
        let (Some(superblock), Some(keyring)) = (self.superblock.take(), self.keyring.take())
        else {
            unreachable!("they are opened first")
        };
        Some((superblock, keyring, self.nonce))
    }

    pub fn step(
        &mut self,
        now: Clock,
        config: &Config,
        input: Input,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match input {
            // Peers say everything again.
            Input::Tick
            | Input::Space { .. }
            | Input::Received { .. }
            | Input::LinkClosed { .. } => Ok(()),
            Input::ReadDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock().on_read_done(io, pages, result, effects);
                    self.on_superblock(config, event, effects)
                }
                Owner::Keyring => {
                    let event = self.keyring(io).on_read_done(io, pages, result, effects);
                    self.on_keyring(config, event, effects)
                }
                Owner::Store => {
                    let (Some(store), Some(keyring)) = (&mut self.store, &self.keyring) else {
                        unreachable!("the grid opens after the keys")
                    };
                    let read = store.on_read_done(keyring, io, pages, result, effects);
                    let several = self.opened_state().replica_count > 1 && config.serves_cluster;
                    let damaged = matches!(
                        read,
                        Err(StoreError::Corrupt { .. } | StoreError::Io(IoError::Device))
                    );
                    if several && damaged {
                        // Peers have what is damaged, or cannot be read: all is looked through.
                        (self.store, self.sync) = (None, true);
                        return Ok(());
                    }
                    read.map_err(store_halt)?;
                    self.open_journal(config, effects)
                }
                Owner::Journal => {
                    self.vsr(io).on_read_done(now, io, pages, result, effects).map_err(vsr_halt)
                }
                Owner::Log | Owner::Node => unreachable!("nothing of {io:?} runs while opening"),
            },
            Input::WriteDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock().on_write_done(io, pages, result, effects);
                    self.on_superblock(config, event, effects)
                }
                Owner::Keyring => {
                    let event = self.keyring(io).on_write_done(io, pages, result, effects);
                    self.on_keyring(config, event, effects)
                }
                // Redundant headers that were damaged are written again.
                Owner::Journal => {
                    self.vsr(io).on_write_done(now, io, pages, result, effects).map_err(vsr_halt)
                }
                Owner::Store | Owner::Log | Owner::Node => {
                    unreachable!("nothing of {io:?} is written while opening")
                }
            },
            Input::Done { io, result } => match io.owner {
                Owner::Keyring => {
                    let event = self.keyring(io).on_done(io, result, effects);
                    self.on_keyring(config, event, effects)
                }
                Owner::Journal => self.vsr(io).on_done(io, result, effects).map_err(vsr_halt),
                Owner::Superblock | Owner::Store | Owner::Log | Owner::Node => {
                    unreachable!("nothing of {io:?} is synced while opening")
                }
            },
            Input::Unwrapped { io, key } => {
                let event = self.keyring(io).on_unwrapped(io, key, effects);
                self.on_keyring(config, event, effects)
            }
            Input::Wrapped { io, .. } => unreachable!("nothing is wrapped while opening: {io:?}"),
        }
    }

    fn keyring(&mut self, io: IoId) -> &mut Keyring {
        let Some(keyring) = &mut self.keyring else {
            unreachable!("a completion for keys that are not being opened: {io:?}")
        };
        keyring
    }

    fn superblock(&mut self) -> &mut Superblock {
        let Some(superblock) = &mut self.superblock else { unreachable!("taken when all is open") };
        superblock
    }

    fn vsr(&mut self, io: IoId) -> &mut Consensus {
        let Some(vsr) = &mut self.vsr else {
            unreachable!("a completion for a journal that is not being opened: {io:?}")
        };
        vsr
    }

    fn opened_state(&self) -> SuperblockState {
        let Some(state) = self.state() else { unreachable!("the superblock is opened first") };
        *state
    }

    fn on_superblock(
        &mut self,
        config: &Config,
        event: Result<Option<SuperblockEvent>, SuperblockError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match event.map_err(superblock_halt)? {
            None => Ok(()),
            Some(SuperblockEvent::Opened) => {
                let state = self.opened_state();
                if state.syncing && !config.serves_cluster {
                    return Err(Halt::Syncing);
                }
                let syncing = state.syncing;
                #[cfg(verity_zoo)]
                let syncing = syncing && !crate::zoo::is("sync_mark_ignored");
                self.sync |= syncing;
                // Keys of the generation to come are derived when the recovery op is applied.
                let generation = state.checkpoint.generation;
                let keyring = Keyring::open(state.cluster, state.origin, generation, effects);
                self.keyring = Some(keyring.of_grid(state.grid));
                Ok(())
            }
            Some(SuperblockEvent::Updated) => unreachable!("opening updates nothing"),
        }
    }

    fn on_keyring(
        &mut self,
        config: &Config,
        event: Result<KeyringEvent, KeyringError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match event.map_err(keyring_halt)? {
            KeyringEvent::Pending => Ok(()),
            KeyringEvent::Opened { heal_wanted: true } => {
                self.keyring(IoId { owner: Owner::Keyring, slot: 0 }).heal(effects);
                Ok(())
            }
            KeyringEvent::Opened { heal_wanted: false } | KeyringEvent::Healed => {
                self.keys_open = true;
                if self.sync {
                    return Ok(());
                }
                self.open_store(config, effects)
            }
            KeyringEvent::Created | KeyringEvent::Minted { .. } | KeyringEvent::Kept { .. } => {
                unreachable!("opening creates no keys")
            }
        }
    }

    fn open_store(&mut self, config: &Config, effects: &mut Effects) -> Result<(), Halt> {
        let state = self.opened_state();
        let plan = MemoryPlan::new(config.memory, &state.constants).map_err(Halt::Memory)?;
        self.memory = Some(plan);
        let store_config = StoreConfig::new(FileId::Grid, &state.constants, plan.clean_pages);
        self.store = Some(match store_checkpoint(&state) {
            None => Store::new(store_config),
            Some(checkpoint) => Store::open(store_config, &checkpoint, effects),
        });
        self.open_journal(config, effects)
    }

    /// Once the grid is open, and only once.
    fn open_journal(&mut self, config: &Config, effects: &mut Effects) -> Result<(), Halt> {
        if self.vsr.is_none() && self.store.as_ref().is_some_and(Store::is_open) {
            let state = self.opened_state();
            let (release, serves) = (config.release, config.serves_cluster);
            let vsr = Consensus::open(&state, release, serves, self.nonce, effects);
            self.vsr = Some(vsr.map_err(vsr_halt)?);
        }
        Ok(())
    }
}

/// What the superblock holds of the grid; `None` before the first checkpoint.
fn store_checkpoint(state: &SuperblockState) -> Option<StoreCheckpoint> {
    let checkpoint = &state.checkpoint;
    (!checkpoint.free_set.root.is_none()).then_some(StoreCheckpoint {
        op: checkpoint.op,
        system_forest: checkpoint.system_forest,
        free_set: checkpoint.free_set,
        grid_pages: checkpoint.grid_pages,
    })
}
