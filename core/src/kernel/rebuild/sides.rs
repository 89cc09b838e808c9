//! A rebuild and all it works on: the live state, the second store, the logs, and what each of them
//! waits for.
//!
//! Purpose: whoever has the files carries out effects and hands back completions, at once or later;
//! the rest of a rebuild is here, the same for the shell and for the simulator. Offline: no prepare
//! is applied meanwhile.
//!
//! Invariant: the three owners have effects of their own, so no completion goes astray.
//! Start reading at [`Sides::step`].

use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use super::{Rebuild, RebuildError, RebuildReport, RebuildStall};
use crate::ids::{Op, TenantId};
use crate::io::{Effects, Input};
use crate::kernel::Kernel;
use crate::kernel::trees::{ATTESTED_TREE, AttestedHead, HEADS_TREE, tenant_of_key};
use crate::keyring::Keyring;
use crate::log::{LogError, LogHead, LogPins, Logs};
use crate::store::{Cursor, Direction, PageKeys, Pins, Store, StoreCheckpoint, StoreError};

/// Why a rebuild ended early.
#[derive(Debug)]
pub enum SideError {
    Store(StoreError),
    Log(LogError),
    /// An entry of the tree of heads is none.
    Heads,
    Rebuild(RebuildError),
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SideError::Store(error) => write!(f, "{error}"),
            SideError::Log(error) => write!(f, "{error}"),
            SideError::Heads => f.write_str("an entry of the tree of heads is none"),
            SideError::Rebuild(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for SideError {}

/// Carries out all effects and pushes their completions, in any order.
pub type Files<'a> = dyn FnMut(&mut Effects, &mut Vec<Input>) + 'a;

/// One store and what it waits for.
#[derive(Debug)]
struct Side {
    store: Store,
    pins: Pins,
    effects: Effects,
}

impl Side {
    fn new(store: Store, effects: Effects) -> Side {
        Side { store, pins: Pins::new(), effects }
    }

    fn fetch(&mut self) {
        self.store.fetch(&mut self.pins, &mut self.effects);
    }

    fn settle(&mut self, keys: &dyn PageKeys, files: &mut Files<'_>) -> Result<(), SideError> {
        let mut inputs = Vec::new();
        loop {
            files(&mut self.effects, &mut inputs);
            if inputs.is_empty() {
                return self.store.ready(&self.pins).map(drop).map_err(SideError::Store);
            }
            for input in inputs.drain(..) {
                let taken = match input {
                    Input::ReadDone { io, pages, result } => {
                        self.store.on_read_done(keys, io, pages, result, &mut self.effects)
                    }
                    Input::WriteDone { io, pages, result } => {
                        self.store.on_write_done(io, pages, result)
                    }
                    other => unreachable!("a store asks for reads and writes: {other:?}"),
                };
                taken.map_err(SideError::Store)?;
            }
        }
    }
}

#[derive(Debug)]
pub struct Sides {
    rebuild: Rebuild,
    kernel: Kernel,
    keyring: Keyring,
    live: Option<Side>,
    scratch: Side,
    logs: Logs,
    log_pins: LogPins,
    log_effects: Effects,
}

impl Sides {
    /// A rebuild to compare: `live` as it was opened, with the effects of its opening.
    #[must_use]
    pub fn to_compare(
        kernel: Kernel,
        keyring: Keyring,
        live: (Store, Effects),
        scratch: Store,
    ) -> Sides {
        let live = Side::new(live.0, live.1);
        Sides::with(Rebuild::new(), kernel, keyring, Some(live), scratch)
    }

    /// A rebuild to keep, with the heads that its logs have.
    #[must_use]
    pub fn to_keep(
        kernel: Kernel,
        keyring: Keyring,
        heads: &[(TenantId, LogHead)],
        scratch: Store,
    ) -> Sides {
        let rebuild = Rebuild::to_keep(kernel.constants());
        let mut sides = Sides::with(rebuild, kernel, keyring, None, scratch);
        sides.open_logs(heads);
        sides
    }

    fn with(
        rebuild: Rebuild,
        kernel: Kernel,
        keyring: Keyring,
        live: Option<Side>,
        scratch: Store,
    ) -> Sides {
        let logs = Logs::new(kernel.constants().segment_positions, keyring.origin());
        Sides {
            rebuild,
            kernel,
            keyring,
            live,
            scratch: Side::new(scratch, Effects::new()),
            logs,
            log_pins: LogPins::default(),
            log_effects: Effects::new(),
        }
    }

    fn open_logs(&mut self, heads: &[(TenantId, LogHead)]) {
        for (tenant, head) in heads {
            if !self.logs.is_open(*tenant) {
                self.logs.open(*tenant, head.clone());
            }
        }
    }

    /// First of all, when there is a live state: opens the logs with the heads that it holds.
    pub fn open(&mut self, files: &mut Files<'_>) -> Result<(), SideError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.settle(&self.keyring, files)?;
        let mut heads = Vec::new();
        let mut cursor = Cursor::all(Direction::Forward);
        let mut bad = false;
        loop {
            let scanned = live.store.scan(HEADS_TREE, &mut cursor, |key, value| {
                match (key.len(), LogHead::decode(value)) {
                    (8, Ok(head)) => {
                        heads.push((tenant_of_key(key), head));
                        ControlFlow::Continue(())
                    }
                    (_, _) => {
                        bad = true;
                        ControlFlow::Break(())
                    }
                }
            });
            match scanned {
                Ok(_) => break,
                Err(_fault) => {
                    live.fetch();
                    live.settle(&self.keyring, files)?;
                }
            }
        }
        if bad {
            return Err(SideError::Heads);
        }
        self.open_logs(&heads);
        self.release();
        Ok(())
    }

    /// Records replayed and entries compared so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.rebuild.progress()
    }

    /// The derived state, and who reads its catalogs.
    #[must_use]
    pub fn scratch(&mut self) -> (&mut Kernel, &Store) {
        (&mut self.kernel, &self.scratch.store)
    }

    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// A bounded slice of work, and all the I/O it asks for. `scratch_keys` seal the second store.
    pub fn step(
        &mut self,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<Option<RebuildReport>, SideError> {
        let live = self.live.as_ref().map(|side| &side.store);
        let scratch = &mut self.scratch.store;
        let stepped = self.rebuild.step(&self.kernel, live, &self.logs, &self.keyring, scratch);
        match stepped {
            Ok(report) => {
                self.release();
                Ok(report)
            }
            Err(stall) => self.serve(stall, scratch_keys, files).map(|()| None),
        }
    }

    /// Records that each tenant's log had when it was last attested, in the derived state.
    pub fn attested(
        &mut self,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<Vec<(TenantId, u64)>, SideError> {
        let mut found = Vec::new();
        let mut cursor = Cursor::all(Direction::Forward);
        loop {
            let scanned = self.scratch.store.scan(ATTESTED_TREE, &mut cursor, |key, value| {
                found.push((tenant_of_key(key), AttestedHead::of_value(value).size));
                ControlFlow::Continue(())
            });
            match scanned {
                Ok(_) => break,
                Err(_fault) => self.fetch_scratch(scratch_keys, files)?,
            }
        }
        self.release();
        Ok(found)
    }

    /// The last checkpoint of a rebuild to keep, which also gives up the first `pages` of the file.
    pub fn finish(
        &mut self,
        heads: &[(TenantId, LogHead)],
        pages: u32,
        op: Op,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<StoreCheckpoint, SideError> {
        loop {
            let (kernel, scratch) = (&self.kernel, &mut self.scratch.store);
            match self.rebuild.finish(kernel, heads, &self.keyring, scratch) {
                Ok(()) => break,
                Err(stall) => self.serve(stall, scratch_keys, files)?,
            }
        }
        self.release();
        self.scratch.store.give_up(pages);
        self.checkpoint(op, scratch_keys, files)
    }

    /// Fetches what the derived state misses; for reads of it.
    pub fn fetch_scratch(
        &mut self,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<(), SideError> {
        self.scratch.fetch();
        self.scratch.settle(scratch_keys, files)
    }

    /// What was fetched may be forgotten.
    pub fn release(&mut self) {
        if let Some(live) = &mut self.live {
            live.store.unpin(&mut live.pins);
        }
        self.scratch.store.unpin(&mut self.scratch.pins);
        self.logs.release(&mut self.log_pins);
    }

    fn serve(
        &mut self,
        stall: RebuildStall,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<(), SideError> {
        match stall {
            RebuildStall::Live => {
                let Some(live) = &mut self.live else {
                    unreachable!("without a live state nothing of it is missed")
                };
                live.fetch();
                live.settle(&self.keyring, files)
            }
            RebuildStall::Scratch => self.fetch_scratch(scratch_keys, files),
            RebuildStall::Log => {
                self.logs.fetch(&mut self.log_pins, &mut self.log_effects);
                self.settle_logs(files)
            }
            RebuildStall::ScratchCheckpoint(op) => {
                self.checkpoint(op, scratch_keys, files)?;
                self.scratch.store.checkpoint_durable_applied(op);
                Ok(())
            }
            RebuildStall::Failed(error) => Err(SideError::Rebuild(error)),
        }
    }

    fn checkpoint(
        &mut self,
        op: Op,
        scratch_keys: &dyn PageKeys,
        files: &mut Files<'_>,
    ) -> Result<StoreCheckpoint, SideError> {
        self.scratch.store.checkpoint_begin(op);
        loop {
            let Side { store, effects, .. } = &mut self.scratch;
            store.checkpoint_step(scratch_keys, effects).map_err(SideError::Store)?;
            self.scratch.settle(scratch_keys, files)?;
            if let Some(checkpoint) = self.scratch.store.checkpoint_done() {
                return Ok(checkpoint);
            }
        }
    }

    fn settle_logs(&mut self, files: &mut Files<'_>) -> Result<(), SideError> {
        let mut inputs = Vec::new();
        loop {
            files(&mut self.log_effects, &mut inputs);
            if inputs.is_empty() {
                return Ok(());
            }
            for input in inputs.drain(..) {
                let (logs, effects) = (&mut self.logs, &mut self.log_effects);
                let taken = match input {
                    Input::ReadDone { io, pages, result } => {
                        logs.on_read_done(io, pages, result, effects)
                    }
                    Input::WriteDone { io, pages, result } => {
                        logs.on_write_done(io, pages, result, effects)
                    }
                    Input::Done { io, result } => logs.on_done(io, result, effects),
                    other => unreachable!("a log asks for files only: {other:?}"),
                };
                taken.map_err(SideError::Log)?;
            }
        }
    }
}
