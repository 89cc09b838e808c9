//! A replica that fetches a peer's newest checkpoint (`docs/VSR.md`, "State sync").
//!
//! Purpose: what a replica needs is in nobody's journal any more. It takes a durable checkpoint of
//! a peer as it lies on the disk: the description that its superblock holds, the pages that the
//! roots reach, the blocks of the segments up to the heads of the logs. Then it opens anew.
//!
//! Order, and why: *ask* until a peer offers a checkpoint; *mark* in the superblock that grid and
//! segments are none any more; *pages* (each looked for on the own disk first, then asked for,
//! checked by the tag that its parent holds, written), *sync*; *heads* of the logs from the new
//! grid; *segments*, each verified along its chain to its head; *install*: the superblock names the
//! checkpoint, and the mark is gone. A crash before the mark leaves the old checkpoint; after it, a
//! directory that opens here again, and asks what peers have *then*: which checkpoint was being
//! fetched is on no disk.
//!
//! Keys of tenants that came to be meanwhile are asked for as soon as the tree of tenants is there;
//! until they are durable here, what they seal waits.
//!
//! Invariants: nothing is said in consensus meanwhile, and nothing is served but keys; nothing is
//! written before the mark is durable, and the mark goes only when all is durable. What was fetched
//! for a checkpoint that was given up stays, and is found on the own disk by its tag.
//!
//! Fault model: messages are lost, late, doubled; peers take newer checkpoints, and write over
//! pages of older ones; pages and blocks of a peer, and our own, are rotten. Replicas do not lie.
//! A device error stops the replica.
//!
//! Start reading at [`Syncing::run`].

mod grid;
mod keys;
mod segments;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use rand_chacha::ChaCha20Rng;

use crate::event::Event;
use crate::ids::{Op, ReplicaId, View};
use crate::io::{BlockByBlock, Effect, Effects, Input, IoError, IoId, Owner, Pages};
use crate::keyring::Keyring;
use crate::limits::{SYNC_ANSWER_NS, SYNC_ASK_NS, SYNC_PATIENCE_NS, VSR_TICK_NS};
use crate::node::api::{Config, Halt};
use crate::node::consensus::Consensus;
use crate::node::halt::{superblock_halt, vsr_halt};
use crate::node::memory::MemoryPlan;
use crate::store::StoreCheckpoint;
use crate::superblock::{Superblock, SuperblockError, SuperblockEvent, SuperblockState};
use crate::time::{Clock, Instant};
use crate::vsr::message::{Message, Offer, Payload};

use grid::{Grid, Heads};
use keys::KeysWanted;
use segments::{SegmentStep, Segments};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The superblock names the checkpoint.
    Installed,
    /// Nobody offers one, and nothing was written: the replica opens as it was.
    GivenUp,
}

/// What is being fetched, and from whom.
#[derive(Clone, Copy, Debug)]
struct Target {
    offer: Offer,
    from: ReplicaId,
    /// In which the peer was: what its checkpoint covers may be of this view.
    view: View,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Stage {
    Asking,
    Marking,
    Pages(Grid),
    SyncingGrid,
    Heads(Heads),
    Segments(Segments),
    /// The journal says what the superblock must say beside the checkpoint.
    Weighing,
    Installing,
    Done(Outcome),
}

/// What an effect in flight is for.
#[derive(Debug)]
enum Purpose {
    LookAt(Box<crate::store::walk::Wanted>),
    WritePage,
    SyncGrid,
    Segment(SegmentStep),
    /// Of a look at own blocks that ended with EIO.
    OneBlock(Box<BlockByBlock>),
}

#[derive(Debug)]
pub(super) struct Syncing {
    config: Config,
    superblock: Superblock,
    keyring: Option<Keyring>,
    /// Nonces of keys that peers lack.
    random: ChaCha20Rng,
    keys: KeysWanted,
    /// Its journal, to know what of it the checkpoint contradicts; it says nothing.
    journal: Consensus,
    plan: MemoryPlan,
    target: Option<Target>,
    /// Taken once nothing of the one before is in flight.
    next: Option<Target>,
    stage: Stage,
    io: BTreeMap<u64, Purpose>,
    slot: u64,
    serial: u64,
    /// Peers are asked for checkpoints: there is none yet, or the source does not give what it
    /// should.
    doubt: bool,
    started_at: Option<Instant>,
    asked_at: Option<Instant>,
    tick_at: Option<Instant>,
    outbox: Vec<(ReplicaId, Payload)>,
}

impl Syncing {
    /// Of a directory whose superblock and keys are open.
    pub fn start(
        config: &Config,
        superblock: Superblock,
        keyring: Keyring,
        nonce: u64,
        random: ChaCha20Rng,
        effects: &mut Effects,
    ) -> Result<Syncing, Halt> {
        let Some(state) = superblock.state().copied() else { unreachable!("it is open") };
        let plan = MemoryPlan::new(config.memory, &state.constants).map_err(Halt::Memory)?;
        let journal = Consensus::open(&state, config.release, true, nonce, effects);
        Ok(Syncing {
            config: config.clone(),
            superblock,
            keyring: Some(keyring),
            random,
            keys: KeysWanted::default(),
            journal: journal.map_err(vsr_halt)?,
            plan,
            target: None,
            next: None,
            stage: Stage::Asking,
            io: BTreeMap::new(),
            slot: 0,
            serial: 0,
            doubt: true,
            started_at: None,
            asked_at: None,
            tick_at: Some(Instant(0)),
            outbox: Vec::new(),
        })
    }

    pub fn state(&self) -> &SuperblockState {
        let Some(state) = self.superblock.state() else { unreachable!("it was opened") };
        state
    }

    /// The checkpoint that is being fetched.
    pub fn target(&self) -> Option<Op> {
        self.target.as_ref().map(|target| target.offer.checkpoint.op)
    }

    pub fn outcome(&self) -> Option<Outcome> {
        match self.stage {
            Stage::Done(outcome) => Some(outcome),
            Stage::Asking
            | Stage::Marking
            | Stage::Pages(_)
            | Stage::SyncingGrid
            | Stage::Heads(_)
            | Stage::Segments(_)
            | Stage::Weighing
            | Stage::Installing => None,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.tick_at
    }

    pub fn step(&mut self, now: Clock, input: Input, effects: &mut Effects) -> Result<(), Halt> {
        match input {
            Input::Tick | Input::Space { .. } | Input::LinkClosed { .. } => {}
            Input::Received { from: _, frame } => self.on_frame(&frame, effects)?,
            Input::ReadDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock.on_read_done(io, pages, result, effects);
                    self.on_superblock(event, effects)?;
                }
                Owner::Journal => {
                    let read = self.journal.on_read_done(now, io, pages, result, effects);
                    read.map_err(vsr_halt)?;
                }
                Owner::Store => self.on_store_read(io, pages, result, effects)?,
                Owner::Node => self.on_read(io, pages, result, effects)?,
                Owner::Keyring => {
                    let event = self.keyring().on_read_done(io, pages, result, effects);
                    self.on_keyring(event)?;
                }
                Owner::Log => unreachable!("nothing of {io:?} runs in a sync"),
            },
            Input::WriteDone { io, pages, result } => match io.owner {
                Owner::Superblock => {
                    let event = self.superblock.on_write_done(io, pages, result, effects);
                    self.on_superblock(event, effects)?;
                }
                Owner::Journal => {
                    let write = self.journal.on_write_done(now, io, pages, result, effects);
                    write.map_err(vsr_halt)?;
                }
                Owner::Node => self.on_written(io, result, effects)?,
                Owner::Keyring => {
                    let event = self.keyring().on_write_done(io, pages, result, effects);
                    self.on_keyring(event)?;
                }
                Owner::Store | Owner::Log => {
                    unreachable!("nothing of {io:?} runs in a sync")
                }
            },
            Input::Done { io, result } => match io.owner {
                Owner::Journal => self.journal.on_done(io, result, effects).map_err(vsr_halt)?,
                Owner::Node => self.on_done(io, result, effects)?,
                Owner::Superblock | Owner::Keyring | Owner::Store | Owner::Log => {
                    unreachable!("nothing of {io:?} runs in a sync")
                }
            },
            Input::Wrapped { io, key } => {
                let event = self.keyring().on_wrapped(io, key, effects);
                self.on_keyring(event)?;
            }
            Input::Unwrapped { io, .. } => unreachable!("no keys are opened in a sync: {io:?}"),
        }
        self.run(now, effects)
    }

    /// Does what can be done.
    pub fn run(&mut self, now: Clock, effects: &mut Effects) -> Result<(), Halt> {
        let started_at = *self.started_at.get_or_insert(now.monotonic);
        self.tick_at = Some(now.monotonic.plus_ns(VSR_TICK_NS));
        // What the journal would say is said when it opens anew.
        drop(self.journal.take_outbox());
        if self.doubt {
            self.ask(now);
        }
        if self.next.is_some() && self.io.is_empty() {
            self.take_next(effects);
        }
        match &mut self.stage {
            Stage::Asking => {
                let waited_ns = now.monotonic.since_ns(started_at);
                if !self.state().syncing && waited_ns > SYNC_PATIENCE_NS {
                    self.stage = Stage::Done(Outcome::GivenUp);
                }
            }
            Stage::Pages(_) => self.run_pages(now, effects)?,
            Stage::Heads(_) => self.run_heads(effects)?,
            Stage::Segments(_) => self.run_segments(now)?,
            Stage::Weighing => self.weigh(effects),
            Stage::Marking | Stage::SyncingGrid | Stage::Installing | Stage::Done(_) => {}
        }
        let state = *self.state();
        for (to, payload) in self.outbox.drain(..) {
            let message = Message {
                from: state.replica,
                view: state.view,
                release: self.config.release,
                payload,
            };
            effects.push(Effect::Send { to, frame: message.encode(state.cluster) });
        }
        Ok(())
    }

    fn ask(&mut self, now: Clock) {
        let asked = self.asked_at;
        if asked.is_some_and(|at| now.monotonic.since_ns(at) < SYNC_ASK_NS) {
            return;
        }
        self.asked_at = Some(now.monotonic);
        let state = *self.state();
        for peer in (0..state.replica_count).map(ReplicaId::new) {
            if peer != state.replica {
                self.outbox.push((peer, Payload::RequestCheckpoint));
            }
        }
    }

    fn on_frame(&mut self, frame: &[u8], effects: &mut Effects) -> Result<(), Halt> {
        let state = self.state();
        let Ok(message) = Message::decode(frame, state.cluster, state.replica_count) else {
            effects.event(Event::FrameRefused);
            return Ok(());
        };
        if message.from == state.replica {
            return Ok(());
        }
        let (from, view) = (message.from, message.view);
        match message.payload {
            Payload::Checkpoint(offer) => self.on_offer(Target { offer: *offer, from, view }),
            Payload::Pages { serial, checkpoint_durable: _, pages } => {
                self.on_pages(serial, pages, effects)?;
            }
            Payload::Blocks { serial, checkpoint_durable: _, blocks } => {
                self.on_blocks(serial, &blocks, effects)?;
            }
            // Whoever lacks them may have nobody else.
            Payload::RequestKeys(keys) => self.on_request_keys(from, keys),
            Payload::Keys { keys, entries } => self.on_keys(keys, &entries, effects),
            // Nobody can count on this replica now.
            Payload::KeepKeys { .. }
            | Payload::RequestCosignature { .. }
            | Payload::Cosignature { .. }
            | Payload::KeysKept(_)
            | Payload::RequestCheckpoint
            | Payload::RequestPages { .. }
            | Payload::RequestBlocks { .. }
            | Payload::Ping { .. }
            | Payload::Pong { .. }
            | Payload::Prepare { .. }
            | Payload::PrepareOk { .. }
            | Payload::Commit { .. }
            | Payload::StartViewChange
            | Payload::DoViewChange(_)
            | Payload::StartView(_)
            | Payload::RequestStartView { .. }
            | Payload::RequestHeaders { .. }
            | Payload::Headers(_)
            | Payload::RequestPrepare { .. } => {}
        }
        Ok(())
    }

    /// A peer's newest checkpoint. One below our own is of no use; while what is being fetched
    /// comes in, nothing else is of interest.
    fn on_offer(&mut self, offered: Target) {
        let state = self.state();
        let checkpoint = &offered.offer.checkpoint;
        let fits = checkpoint.op >= state.checkpoint.op
            && checkpoint.grid_pages <= state.constants.grid_pages_max.saturating_add(1);
        if !self.doubt || !fits {
            return;
        }
        #[cfg(verity_zoo)]
        if self.target.is_some() && crate::zoo::is("sync_keeps_target") {
            return;
        }
        match (&mut self.target, &self.stage) {
            (None, _) => {
                self.doubt = false;
                self.next = Some(offered);
            }
            (Some(target), _) if target.offer == offered.offer => {
                // Somebody else rather than the one who gave the reason to doubt.
                self.doubt = self.doubt && target.from == offered.from;
                target.from = offered.from;
            }
            (Some(target), Stage::Pages(_)) => {
                if checkpoint.op >= target.offer.checkpoint.op {
                    self.doubt = false;
                    self.next = Some(offered);
                }
            }
            // Segments only grow: whoever has a newer checkpoint has the blocks of this one.
            (Some(target), _) => {
                if checkpoint.op >= target.offer.checkpoint.op {
                    self.doubt = false;
                    target.from = offered.from;
                }
            }
        }
    }

    /// From the checkpoint being fetched, if any, to another one.
    fn take_next(&mut self, effects: &mut Effects) {
        let Some(next) = self.next.take() else { return };
        if let Some(op) = self.target() {
            effects.event(Event::SyncGivenUp { op });
        }
        effects.event(Event::SyncStarted { op: next.offer.checkpoint.op });
        self.target = Some(next);
        self.keyring = self.keyring.take().map(|keyring| keyring.of_grid(next.offer.grid));
        let marked = self.state().syncing;
        #[cfg(verity_zoo)]
        let marked = marked || crate::zoo::is("sync_unmarked");
        if marked {
            self.begin_pages();
            return;
        }
        let state = SuperblockState { syncing: true, ..*self.state() };
        self.superblock.update(state, effects);
        self.stage = Stage::Marking;
    }

    fn begin_pages(&mut self) {
        let from = store_checkpoint(&self.fetched().offer);
        self.keys = KeysWanted::default();
        self.stage = Stage::Pages(Grid::new(&from));
    }

    fn keyring(&mut self) -> &mut Keyring {
        let Some(keyring) = &mut self.keyring else { unreachable!("only lent for a moment") };
        keyring
    }

    fn fetched(&self) -> &Target {
        let Some(target) = &self.target else { unreachable!("past asking there is one") };
        target
    }

    fn on_superblock(
        &mut self,
        event: Result<Option<SuperblockEvent>, SuperblockError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match event.map_err(superblock_halt)? {
            None => {}
            Some(SuperblockEvent::Opened) => unreachable!("it is open already"),
            Some(SuperblockEvent::Updated) => match self.stage {
                Stage::Marking => self.begin_pages(),
                Stage::Installing => {
                    effects.event(Event::SyncFinished { op: self.state().checkpoint.op });
                    self.stage = Stage::Done(Outcome::Installed);
                }
                Stage::Asking
                | Stage::Pages(_)
                | Stage::SyncingGrid
                | Stage::Heads(_)
                | Stage::Segments(_)
                | Stage::Weighing
                | Stage::Done(_) => unreachable!("nobody asked for an update"),
            },
        }
        Ok(())
    }

    /// Once the journal is read: what of it the checkpoint contradicts goes on record with it.
    fn weigh(&mut self, effects: &mut Effects) {
        if !self.journal.is_open() || !self.superblock.is_idle() {
            return;
        }
        let Offer { checkpoint, grid, .. } = self.fetched().offer;
        let state = *self.state();
        let mut peers = state.peers;
        let own = self.journal.erasure_by_sync(checkpoint.op, checkpoint.prepare_checksum);
        if let Some(own) = own {
            peers[usize::from(state.replica.get())] = own;
        }
        let state = SuperblockState {
            checkpoint,
            grid,
            peers,
            syncing: false,
            committed: state.committed.max(checkpoint.op),
            generation: state.generation.max(checkpoint.generation),
            release: self.config.release,
            view: state.view.max(self.fetched().view),
            ..state
        };
        self.superblock.update(state, effects);
        self.stage = Stage::Installing;
    }

    fn io(&mut self, purpose: Purpose) -> IoId {
        self.slot += 1;
        self.io.insert(self.slot, purpose);
        IoId { owner: Owner::Node, slot: self.slot }
    }

    fn purpose(&mut self, io: IoId) -> Purpose {
        let Some(purpose) = self.io.remove(&io.slot) else {
            unreachable!("a completion of nothing in flight: {io:?}")
        };
        purpose
    }

    fn on_read(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let failed = |error| Halt::Io { error, what: "reading in a sync" };
        let unreadable = result == Err(IoError::Device);
        match self.purpose(io) {
            // What the device does not give is asked of a peer, as what is damaged.
            Purpose::LookAt(wanted) if unreadable => self.on_looked_at(*wanted, None, effects),
            Purpose::Segment(SegmentStep::LookAt) if unreadable => {
                self.look_again(pages, effects);
                Ok(())
            }
            Purpose::OneBlock(mut blocks) if unreadable || result.is_ok() => {
                blocks.take(&pages, result);
                self.block_looked_at(*blocks, effects)
            }
            Purpose::LookAt(wanted) => {
                result.map_err(failed)?;
                self.on_looked_at(*wanted, pages.as_slice().first(), effects)
            }
            Purpose::Segment(step) => {
                result.map_err(failed)?;
                self.on_segment_read(step, &pages, effects)
            }
            Purpose::OneBlock(_) => result.map_err(failed),
            Purpose::WritePage | Purpose::SyncGrid => unreachable!("a read: {io:?}"),
        }
    }

    fn on_written(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        result.map_err(|error| Halt::Io { error, what: "writing in a sync" })?;
        match self.purpose(io) {
            Purpose::WritePage => Ok(()),
            Purpose::Segment(step) => self.on_segment_done(step, effects),
            Purpose::LookAt(_) | Purpose::OneBlock(_) | Purpose::SyncGrid => {
                unreachable!("a write: {io:?}")
            }
        }
    }

    fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        result.map_err(|error| Halt::Io { error, what: "syncing in a sync" })?;
        match self.purpose(io) {
            Purpose::SyncGrid => {
                self.begin_heads(effects);
                Ok(())
            }
            Purpose::Segment(step) => self.on_segment_done(step, effects),
            Purpose::LookAt(_) | Purpose::OneBlock(_) | Purpose::WritePage => {
                unreachable!("a sync: {io:?}")
            }
        }
    }
}

/// An answer is late.
fn is_late(now: Clock, asked_at: Instant) -> bool {
    now.monotonic.since_ns(asked_at) > SYNC_ANSWER_NS
}

fn store_checkpoint(offer: &Offer) -> StoreCheckpoint {
    let checkpoint = &offer.checkpoint;
    StoreCheckpoint {
        op: checkpoint.op,
        system_forest: checkpoint.system_forest,
        free_set: checkpoint.free_set,
        grid_pages: checkpoint.grid_pages,
    }
}

fn damaged(what: &'static str, detail: impl ToString) -> Halt {
    Halt::Data { what, detail: detail.to_string() }
}
