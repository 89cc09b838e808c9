//! One replica of a cluster: replication, view change, recovery and repair as a state machine.
//!
//! Purpose: inputs are messages, completions of the journal's I/O, time, and the word that the
//! superblock holds what was asked; outputs are journal effects, messages in an outbox, the state
//! the superblock must hold ([`Replica::superblock_wanted`]) and committed prepares in op order.
//! It knows no SQL and no sockets. `docs/VSR.md` has the protocol, its rules by number, and why a
//! committed op survives.
//!
//! Invariants: the table in `docs/VSR.md`. In one sentence each: nothing is acknowledged that is
//! not durable with its header in a durable log view; nothing is dropped that f + 1 certain
//! replicas do not nack or a later view's log excludes; what is damaged is named, never nacked.
//!
//! Fault model: any subset of messages is lost, doubled, reordered, late or damaged; the disk is
//! that of `journal::ReplicaJournal`; replicas stop anywhere, and come back, perhaps with an older
//! disk. Replicas do not lie.
//!
//! Start reading at [`Replica::on_message`] and [`Replica::tick`]; one file each for `boot`,
//! `view_change` (votes, offers), `decide` (which log), `install`, `normal` (primary and backup),
//! `repair` (who has what), `deliver` (committed prepares).

mod boot;
mod confirm;
mod decide;
mod deliver;
mod install;
mod normal;
mod repair;
mod room;
#[cfg(test)]
mod tests;
mod view_change;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::clock_sync::ClockSync;
use super::message::{DoViewChange, Message, Payload, Standing};
use super::{VsrError, VsrStatus, journal_start, quorum_replication};
use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{ClusterId, Generation, Op, Release, ReplicaId, View};
use crate::io::{Effects, IoError, IoId, Pages};
use crate::journal::{JournalError, Prepare, ReplicaJournal, ReplicaJournalRecovery};
use crate::limits::{
    REPLICA_COUNT_MAX, REPLICA_PEERS_MAX, VSR_EVIDENCE_NS, VSR_PING_NS, VSR_TICK_NS,
};
use crate::superblock::{PeerEvidence, SuperblockState};
use crate::time::{Clock, Instant, Timestamp};
use boot::Boots;

pub use crate::wire::replica::MessageError;
pub use confirm::Lead;
pub use decide::Discarded;

/// Where a replica is on its way to serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The journal is being read.
    Recovering,
    /// Peers are asked what they saw of us.
    Boot,
    /// No primary yet.
    ViewChange,
    Normal,
    /// The disk failed: nothing is done any more.
    Failed,
}

/// What the superblock must hold before this replica goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperblockWanted {
    pub view: View,
    pub log_view: View,
    /// Committed, in the log of `log_view` or an earlier one.
    pub committed: Op,
    pub peers: [PeerEvidence; REPLICA_PEERS_MAX],
    /// Nobody knows yet what the lost disk of this replica had promised.
    pub replaced: bool,
}

/// What `verity status` shows of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub phase: Phase,
    pub view: View,
    pub log_view: View,
    pub primary: bool,
    /// It names all it ever acknowledged.
    pub certain: bool,
    /// It has an empty disk in place of a lost one, and no log yet (rule 18).
    pub replaced: bool,
    /// Others that answered its boot.
    pub boot_answers: u8,
    pub head: Op,
    pub commit: Op,
    pub commit_max: Op,
    pub applied: Op,
    pub checkpoint_durable: Op,
    /// Newest checkpoint that a quorum reported.
    pub checkpoint_quorum: Op,
    /// An op whose header or body no reachable peer gives: what a stuck cluster lacks.
    pub missing: Option<Op>,
}

#[derive(Debug)]
enum Stage {
    Recovering(Box<ReplicaJournalRecovery>),
    Open(Box<ReplicaJournal>),
    Failed,
}

/// What is known of a replica (of ourselves too, at our own place).
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    evidence: PeerEvidence,
    checkpoint_durable: Op,
    /// The answer to a ping of this boot.
    boot_answer: bool,
    /// Of one that was certain of its log.
    certain_answer: bool,
    /// Those of it whose pings we answered.
    boots: Boots,
    /// Its vote for a later view, and when it came.
    vote: Option<(View, Instant)>,
    /// Highest op it acknowledged in this view, when we are its primary.
    acknowledged: Op,
    /// The newest of our heartbeats in this view that it is known to have heard.
    round: u64,
    /// Since when it says that it is in a later view than we are.
    ahead_since: Option<Instant>,
    /// When it last said that its disk has room; `None`: it said that it has none, or nothing yet.
    room_at: Option<Instant>,
    /// When it closed its link to us; nothing came of it since.
    closed_at: Option<Instant>,
}

/// The checkpoint this replica started from, or took last: what the first op above is made from.
#[derive(Clone, Copy, Debug)]
struct Base {
    op: Op,
    timestamp: Timestamp,
    generation: Generation,
}

/// When something is due; `None`: at the next tick.
#[derive(Clone, Copy, Debug, Default)]
struct Timers {
    ping: Option<Instant>,
    heartbeat: Option<Instant>,
    vote: Option<Instant>,
    repair: Option<Instant>,
    evidence: Option<Instant>,
    /// Last sign of life of the primary.
    heard: Instant,
    /// End of patience with this view change.
    patience: Instant,
    /// Since when the oldest proposal in flight waits.
    waiting_since: Option<(Op, Instant)>,
    boot: Option<Instant>,
    tick: Option<Instant>,
}

/// One replica's consensus, and the journal it owns.
#[derive(Debug)]
pub struct Replica {
    cluster: ClusterId,
    me: ReplicaId,
    replica_count: u8,
    release: Release,
    /// Names this boot: answers to an earlier one do not count.
    nonce: u64,
    stage: Stage,
    phase: Phase,
    view: View,
    /// What the superblock holds.
    durable_view: View,
    log_view: View,
    durable_committed: Op,
    durable_peers: [PeerEvidence; REPLICA_PEERS_MAX],
    writing_superblock: Option<SuperblockWanted>,
    certain: bool,
    /// The view whose log is whole on this disk, since this replica was not certain.
    whole_in: Option<View>,
    /// What the superblock says: our disk took the place of a lost one (rule 18).
    replaced: bool,
    /// Since when our own disk has no room for requests.
    full_since: Option<Instant>,
    /// The log was changed since boot: what peers saw of us no longer speaks against our disk.
    installed: bool,
    peers: [Peer; REPLICA_COUNT_MAX],
    base: Base,
    /// Known to be committed, by anybody in our view or an earlier one.
    commit_max: Op,
    /// Committed, and our own log is the right one up to here.
    floor: Op,
    /// Committed and held: may be applied.
    commit: Op,
    delivered: Op,
    applied: Op,
    /// Durable prepares in memory, to be applied or sent.
    ready: BTreeMap<Op, Prepare>,
    /// Prepares being read back: to be applied, and who else wants them.
    reads: BTreeMap<Op, repair::ReadFor>,
    /// Prepares that wait for those before them.
    bodies: BTreeMap<Op, Prepare>,
    /// Head of the log when this view began: what was inherited.
    inherited: Op,
    recovery_proposed: bool,
    /// A checkpoint op that was given to be applied; the next waits until it is durable here.
    checkpoint_delivered: Op,
    proposed_at: Option<Instant>,
    checkpoint_quorum: Op,
    /// The primary's head, as last heard.
    primary_head: Op,
    rounds: confirm::Rounds,
    voting: bool,
    /// In this view change we offer our log to its primary.
    offering: bool,
    offers: [Option<DoViewChange>; REPLICA_COUNT_MAX],
    install: Option<install::Install>,
    /// What the superblock must say of an erasure before it begins (rule 5).
    erasure_wanted: Option<PeerEvidence>,
    /// What the last choice of a log dropped.
    discarded: Option<Discarded>,
    /// View changes in a row that came to nothing.
    attempts: u32,
    /// Rounds of repair: whom to ask next.
    round: usize,
    missing: Option<Op>,
    /// The last of the next ops that were asked for: once it is in the journal, more are.
    asked_to: Option<Op>,
    /// Head and applied op, and since when they are the same.
    progress: Option<(Op, Op, Instant)>,
    timers: Timers,
    clock_sync: ClockSync,
    outbox: Vec<(ReplicaId, Vec<u8>)>,
    #[cfg(test)]
    bug: Option<tests::Bug>,
}

impl Replica {
    /// Starts to read the journal. `nonce` must differ at each boot.
    #[must_use]
    pub fn open(
        state: &SuperblockState,
        release: Release,
        nonce: u64,
        effects: &mut Effects,
    ) -> Replica {
        let own = state.peers[usize::from(state.replica.get())];
        let replaced = state.replaced;
        #[cfg(verity_zoo)]
        let replaced = replaced && !crate::zoo::is("replaced_counts");
        let erased_to = (own.log_view == state.log_view).then_some(own.op);
        let start = journal_start(state, release);
        let recovery = ReplicaJournalRecovery::start(start, erased_to, state.log_view, effects);
        let checkpoint = &state.checkpoint;
        let mut peers = [Peer::default(); REPLICA_COUNT_MAX];
        for (peer, evidence) in peers.iter_mut().zip(state.peers) {
            peer.evidence = evidence;
        }
        peers[usize::from(state.replica.get())] =
            Peer { checkpoint_durable: checkpoint.op, ..Peer::default() };
        Replica {
            cluster: state.cluster,
            me: state.replica,
            replica_count: state.replica_count,
            release,
            nonce,
            stage: Stage::Recovering(Box::new(recovery)),
            phase: Phase::Recovering,
            view: state.view,
            durable_view: state.view,
            log_view: state.log_view,
            durable_committed: state.committed,
            durable_peers: state.peers,
            writing_superblock: None,
            certain: true,
            whole_in: None,
            replaced,
            full_since: None,
            installed: false,
            peers,
            base: Base {
                op: checkpoint.op,
                timestamp: checkpoint.timestamp,
                generation: checkpoint.generation,
            },
            commit_max: state.committed,
            floor: checkpoint.op,
            commit: checkpoint.op,
            delivered: checkpoint.op,
            applied: checkpoint.op,
            ready: BTreeMap::new(),
            reads: BTreeMap::new(),
            bodies: BTreeMap::new(),
            inherited: checkpoint.op,
            recovery_proposed: false,
            checkpoint_delivered: checkpoint.op,
            proposed_at: None,
            checkpoint_quorum: Op::ZERO,
            primary_head: Op::ZERO,
            rounds: confirm::Rounds::default(),
            voting: false,
            offering: false,
            offers: [const { None }; REPLICA_COUNT_MAX],
            install: None,
            erasure_wanted: None,
            discarded: None,
            attempts: 0,
            round: 0,
            missing: None,
            asked_to: None,
            progress: None,
            timers: Timers::default(),
            clock_sync: ClockSync::new(state.replica, state.replica_count),
            outbox: Vec::new(),
            #[cfg(test)]
            bug: None,
        }
    }

    /// A frame from a peer. Some messages are not for consensus but for the node: they are given
    /// back.
    pub fn on_frame(
        &mut self,
        now: Clock,
        frame: &[u8],
        effects: &mut Effects,
    ) -> Result<Option<Message>, MessageError> {
        let message = Message::decode(frame, self.cluster, self.replica_count)?;
        if message.payload.is_for_the_node() {
            return Ok(Some(message).filter(|message| message.from != self.me));
        }
        self.on_message(now, message, effects);
        Ok(None)
    }

    /// Sends what the node has to say.
    pub fn say(&mut self, to: ReplicaId, payload: Payload) {
        assert!(payload.is_for_the_node());
        self.send(to, payload);
    }

    /// Asks everybody for the newest checkpoint.
    pub fn ask_for_checkpoints(&mut self) {
        self.broadcast(&Payload::RequestCheckpoint);
    }

    /// A message from a peer.
    pub fn on_message(&mut self, now: Clock, message: Message, effects: &mut Effects) {
        let Message { from, view, release: _, payload } = message;
        if from == self.me || matches!(self.phase, Phase::Recovering | Phase::Failed) {
            return;
        }
        #[cfg(test)]
        let believes = self.has_bug(tests::Bug::BelievesClosedLinks);
        #[cfg(not(test))]
        let believes = false;
        if !believes {
            self.peers[usize::from(from.get())].closed_at = None;
        }
        match payload {
            Payload::Ping { monotonic, nonce, standing, full } => {
                self.see(now, from, view, standing);
                self.peers[usize::from(from.get())].room_at = (!full).then_some(now.monotonic);
                self.peers[usize::from(from.get())].boots.heard(nonce);
                self.pong(now, from, monotonic, nonce);
            }
            Payload::Pong { monotonic, nonce, wall, seen, standing, certain } => {
                self.see(now, from, view, standing);
                if nonce == self.nonce {
                    self.clock_sync.sample(now, from, monotonic, wall);
                    self.peers[usize::from(from.get())].certain_answer |= certain;
                    self.on_boot_answer(now, from, seen, view, effects);
                }
            }
            Payload::Prepare { commit, bytes } => {
                self.learn_commit(view, commit);
                self.on_prepare(now, from, view, &bytes, effects);
            }
            Payload::PrepareOk { op, checksum, checkpoint_durable, round } => {
                self.on_round(now, from, view, round);
                self.on_prepare_ok(from, view, op, checksum, checkpoint_durable);
            }
            Payload::Commit { commit, head, head_checksum: _, round } => {
                self.learn_commit(view, commit);
                self.on_heartbeat(now, from, view, head, round);
            }
            Payload::StartViewChange => self.on_vote(now, from, view),
            Payload::DoViewChange(offer) => self.on_offer(now, from, view, offer),
            Payload::StartView(start) => self.on_start_view(now, from, view, start),
            Payload::RequestStartView { nonce } => self.on_request_start_view(from, view, nonce),
            Payload::RequestHeaders { op, count, checksum } => {
                self.on_request_headers(from, op, count, checksum);
            }
            Payload::Headers(headers) => self.on_headers(now, headers),
            Payload::RequestPrepare { op, checksum } => {
                self.on_request_prepare(from, view, op, checksum, effects);
            }
            Payload::RequestCheckpoint
            | Payload::Checkpoint(_)
            | Payload::RequestPages { .. }
            | Payload::Pages { .. }
            | Payload::RequestBlocks { .. }
            | Payload::Blocks { .. }
            | Payload::RequestCosignature { .. }
            | Payload::Cosignature { .. }
            | Payload::KeepKeys { .. }
            | Payload::KeysKept(_)
            | Payload::RequestKeys(_)
            | Payload::Keys { .. } => return,
        }
        self.go_on(now, effects);
    }

    /// A peer closed the link on which it sends to us: a hint that it has ended, until it says
    /// something (rule 15). What follows from it waits for a tick.
    pub fn on_link_closed(&mut self, now: Clock, peer: ReplicaId) {
        if self.others().any(|other| other == peer) {
            self.peers[usize::from(peer.get())].closed_at = Some(now.monotonic);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Clock, effects: &mut Effects) {
        if matches!(self.phase, Phase::Recovering | Phase::Failed) {
            return;
        }
        self.timers.tick = Some(now.monotonic.plus_ns(VSR_TICK_NS));
        if due(&mut self.timers.ping, now, VSR_PING_NS) {
            let standing = self.standing();
            let (monotonic, nonce) = (now.monotonic, self.nonce);
            let full = self.full_since.is_some();
            self.broadcast(&Payload::Ping { monotonic, nonce, standing, full });
        }
        match self.phase {
            Phase::Boot => self.boot_tick(now),
            Phase::ViewChange => self.view_change_tick(now),
            Phase::Normal => self.normal_tick(now),
            Phase::Recovering | Phase::Failed => {}
        }
        self.repair_tick(now);
        self.go_on(now, effects);
    }

    /// When `tick` wants to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.tick
    }

    /// Frames to be sent, each to whom.
    pub fn take_outbox(&mut self) -> Vec<(ReplicaId, Vec<u8>)> {
        core::mem::take(&mut self.outbox)
    }

    /// What the superblock must hold; asked until `None`. One at a time.
    pub fn superblock_wanted(&mut self, now: Clock) -> Option<SuperblockWanted> {
        if self.writing_superblock.is_some()
            || matches!(self.phase, Phase::Recovering | Phase::Failed)
        {
            return None;
        }
        let mut peers = self.durable_peers;
        for (index, peer) in self.peers.iter().enumerate() {
            if index != usize::from(self.me.get()) {
                peers[index] = peer.evidence;
            }
        }
        let complete = self.install_complete();
        let log_view = if complete { self.view } else { self.log_view };
        // Rule 18: the mark goes with the view whose log this is, never before.
        let replaced = self.replaced && !complete;
        #[cfg(verity_zoo)]
        let replaced = replaced && !crate::zoo::is("replaced_mark_early");
        if let Some(erasure) = self.erasure_wanted {
            assert_eq!(erasure.log_view, log_view, "erased before the new log is whole");
            peers[usize::from(self.me.get())] = erasure;
        }
        let urgent = self.view > self.durable_view
            || log_view > self.log_view
            || self.erasure_wanted.is_some();
        let news = peers != self.durable_peers;
        if !urgent {
            let timely = news && due(&mut self.timers.evidence, now, VSR_EVIDENCE_NS);
            if !timely {
                return None;
            }
        }
        // What is being written is not on this disk yet.
        let written = self.floor.min(self.journal().written_to());
        #[cfg(test)]
        let written = if self.has_bug(tests::Bug::RecordsUnwritten) { self.floor } else { written };
        let committed = written.max(self.durable_committed);
        let wanted = SuperblockWanted { view: self.view, log_view, committed, peers, replaced };
        self.writing_superblock = Some(wanted);
        Some(wanted)
    }

    /// The superblock holds what was wanted.
    pub fn superblock_durable(&mut self, now: Clock, effects: &mut Effects) {
        let Some(wanted) = self.writing_superblock.take() else {
            unreachable!("nothing was wanted")
        };
        assert!(wanted.view >= self.durable_view && wanted.log_view >= self.log_view);
        assert!(wanted.committed >= self.durable_committed && wanted.log_view <= wanted.view);
        self.durable_view = wanted.view;
        self.log_view = wanted.log_view;
        self.durable_committed = wanted.committed;
        self.durable_peers = wanted.peers;
        self.replaced = wanted.replaced;
        self.heal();
        self.go_on(now, effects);
    }

    /// The superblock holds the checkpoint after `op`.
    pub fn checkpoint_durable(&mut self, op: Op) {
        assert!(op <= self.applied, "only what was applied is checkpointed");
        let Some(header) = self.journal().header(op) else { unreachable!("it was applied") };
        self.base = Base { op, timestamp: header.timestamp, generation: generation_after(&header) };
        self.journal_mut().checkpoint_durable(op);
        self.peers[usize::from(self.me.get())].checkpoint_durable = op;
        self.count_checkpoints();
    }

    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let (head, checkpoint_durable) = match &self.stage {
            Stage::Open(journal) => (journal.head_op(), journal.checkpoint_op()),
            Stage::Recovering(_) | Stage::Failed => (self.base.op, self.base.op),
        };
        ReplicaStatus {
            phase: self.phase,
            view: self.view,
            log_view: self.log_view,
            primary: self.is_primary(),
            certain: self.is_certain(),
            replaced: self.replaced,
            boot_answers: self.boot_answers() as u8,
            head,
            commit: self.commit,
            commit_max: self.commit_max,
            applied: self.applied,
            checkpoint_durable,
            checkpoint_quorum: self.checkpoint_quorum,
            missing: self.missing,
        }
    }

    /// What the pipeline of a node asks, of one replica or of many.
    #[must_use]
    pub fn pipeline_status(&self) -> VsrStatus {
        let (timestamp, generation, checkpoint_op, _) = match &self.stage {
            Stage::Open(_) => self.head(),
            Stage::Recovering(_) | Stage::Failed => {
                (self.base.timestamp, self.base.generation, self.base.op, self.base.op)
            }
        };
        let status = self.status();
        let (used, ring) = match &self.stage {
            Stage::Open(journal) => (journal.used_bytes(), journal.ring_bytes()),
            Stage::Recovering(_) | Stage::Failed => (0, 0),
        };
        VsrStatus {
            recovering: None,
            replaying_to: None,
            view: self.view,
            log_view: self.log_view,
            generation,
            op: status.head,
            commit: self.commit,
            applied: self.applied,
            checkpoint_op,
            checkpoint_durable: status.checkpoint_durable,
            journal_used_bytes: used,
            journal_ring_bytes: ring,
            torn_tail: None,
            in_flight: (status.head.get() - self.commit.get().min(status.head.get())) as usize,
            timestamp,
            clock_ahead_ns: 0,
            clock_behind_ns: 0,
        }
    }

    /// Committed, and on this disk: what the superblock may say beside a checkpoint.
    #[must_use]
    pub fn committed_here(&self) -> Op {
        self.commit.min(self.journal().written_to())
    }

    /// Whether the journal is read: from here on peers are talked to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// The view that this replica leads, once all that the view inherited is committed.
    #[must_use]
    pub fn leads(&self) -> Option<View> {
        (self.is_primary() && self.commit >= self.inherited).then_some(self.view)
    }

    /// The cluster's time, for the plausibility of a recovery op.
    #[must_use]
    pub fn wall(&self, now: Clock) -> Timestamp {
        self.clock_sync.wall(now)
    }

    /// Bytes of prepares held in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let held = self.ready.values().chain(self.bodies.values());
        held.map(|prepare| prepare.pages().size_bytes()).sum()
    }

    /// Whether this replica is the primary of its view, and the view has begun.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.phase == Phase::Normal && self.primary_of(self.view) == self.me
    }

    /// What the choice of this view's log dropped, for the recovery record.
    #[must_use]
    pub fn discarded(&self) -> Option<Discarded> {
        self.discarded
    }

    /// Routes a completed sync of `Owner::Journal`.
    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        let outcome = match &mut self.stage {
            Stage::Recovering(recovery) => recovery.on_done(io, result, effects),
            Stage::Open(_) => unreachable!("the journal syncs only at open"),
            Stage::Failed => Ok(()),
        };
        self.fail_on(outcome)
    }

    /// Routes a completed read of `Owner::Journal`.
    pub fn on_read_done(
        &mut self,
        now: Clock,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        match &mut self.stage {
            Stage::Recovering(recovery) => {
                let outcome = recovery.on_read_done(io, pages, result, effects);
                if let Some((journal, recovered)) = self.fail_on(outcome)? {
                    self.opened(now, journal, recovered, effects);
                }
            }
            Stage::Open(journal) => {
                let outcome = journal.on_read_done(io, pages, result, effects);
                self.fail_on(outcome)?;
                self.collect_read();
                self.go_on(now, effects);
            }
            Stage::Failed => {}
        }
        Ok(())
    }

    /// Routes a completed write of `Owner::Journal`.
    pub fn on_write_done(
        &mut self,
        now: Clock,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), VsrError> {
        let outcome = match &mut self.stage {
            Stage::Open(journal) => journal.on_write_done(io, pages, result, effects),
            Stage::Recovering(_) => unreachable!("nothing is written while the journal is read"),
            Stage::Failed => return Ok(()),
        };
        self.fail_on(outcome)?;
        self.collect_durable();
        self.go_on(now, effects);
        Ok(())
    }

    /// Everything that may have become possible; each step is idempotent.
    fn go_on(&mut self, now: Clock, effects: &mut Effects) {
        match self.phase {
            Phase::Recovering | Phase::Failed | Phase::Boot => return,
            Phase::ViewChange => {
                self.offer_step(now);
                self.install_step(now, effects);
            }
            Phase::Normal => self.append_ready(effects),
        }
        self.acknowledge();
        self.advance_commit(effects);
    }

    fn journal(&self) -> &ReplicaJournal {
        let Stage::Open(journal) = &self.stage else { unreachable!("past recovery") };
        journal
    }

    fn journal_mut(&mut self) -> &mut ReplicaJournal {
        let Stage::Open(journal) = &mut self.stage else { unreachable!("past recovery") };
        journal
    }

    fn fail_on<T>(&mut self, outcome: Result<T, JournalError>) -> Result<T, VsrError> {
        outcome.map_err(|error| {
            self.stage = Stage::Failed;
            self.phase = Phase::Failed;
            VsrError::Journal(error)
        })
    }

    fn primary_of(&self, view: View) -> ReplicaId {
        let Ok(index) = u8::try_from(view.get() % u64::from(self.replica_count)) else {
            unreachable!("less than the number of replicas")
        };
        ReplicaId::new(index)
    }

    /// Rule 2: what we do not name we never acknowledged.
    fn is_certain(&self) -> bool {
        self.certain && !self.replaced
    }

    /// f + 1.
    fn quorum(&self) -> usize {
        usize::from(quorum_replication(self.replica_count))
    }

    fn others(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        (0..self.replica_count).map(ReplicaId::new).filter(move |&peer| peer != me)
    }

    fn send(&mut self, to: ReplicaId, payload: Payload) {
        self.send_in(self.view, to, payload);
    }

    fn send_in(&mut self, view: View, to: ReplicaId, payload: Payload) {
        assert_ne!(to, self.me, "nobody talks to himself");
        let message = Message { from: self.me, view, release: self.release, payload };
        self.outbox.push((to, message.encode(self.cluster)));
    }

    fn broadcast(&mut self, payload: &Payload) {
        self.broadcast_in(self.view, payload);
    }

    fn broadcast_in(&mut self, view: View, payload: &Payload) {
        let message =
            Message { from: self.me, view, release: self.release, payload: payload.clone() };
        let frame = message.encode(self.cluster);
        for peer in self.others() {
            self.outbox.push((peer, frame.clone()));
        }
    }

    fn standing(&self) -> Standing {
        let own = &self.peers[usize::from(self.me.get())];
        Standing {
            acknowledged: own.evidence,
            commit: self.commit_max,
            checkpoint_durable: own.checkpoint_durable,
        }
    }

    /// What a peer says of itself.
    fn see(&mut self, now: Clock, from: ReplicaId, view: View, standing: Standing) {
        self.learn_commit(view, standing.commit);
        let ahead = view > self.view;
        let peer = &mut self.peers[usize::from(from.get())];
        peer.ahead_since = ahead.then(|| peer.ahead_since.unwrap_or(now.monotonic));
        if ahead && peer.vote.is_none_or(|(vote, _)| vote <= view) {
            // It went there because f + 1 asked for that view; it still does.
            peer.vote = Some((view, now.monotonic));
        }
        remember(&mut peer.evidence, standing.acknowledged);
        peer.checkpoint_durable = peer.checkpoint_durable.max(standing.checkpoint_durable);
        self.count_checkpoints();
    }

    /// A commit number of somebody in `view`. Of a later view than ours it says nothing about our
    /// log: there may be another op in that place.
    fn learn_commit(&mut self, view: View, commit: Op) {
        let ours = view <= self.view;
        #[cfg(test)]
        let ours = ours || self.has_bug(tests::Bug::BelievesLaterCommits);
        if ours {
            self.commit_max = self.commit_max.max(commit);
        }
    }

    /// The (f + 1)-th highest durable checkpoint.
    fn count_checkpoints(&mut self) {
        let mut all = self.peers.map(|peer| peer.checkpoint_durable);
        let all = &mut all[..usize::from(self.replica_count)];
        all.sort_unstable();
        let quorum = all[all.len() - self.quorum()];
        self.checkpoint_quorum = self.checkpoint_quorum.max(quorum);
    }

    /// Timestamp, generation of the next op, newest checkpoint op, and durable one, at the head.
    fn head(&self) -> (Timestamp, Generation, Op, Op) {
        match self.journal().head_header() {
            Some(header) => {
                let checkpoint =
                    if header.operation.is_checkpoint() { header.op } else { header.checkpoint_op };
                let durable = header.checkpoint_durable;
                (header.timestamp, generation_after(&header), checkpoint, durable)
            }
            None => (self.base.timestamp, self.base.generation, self.base.op, Op::ZERO),
        }
    }

    fn checksum_of(&self, op: Op) -> Option<InternalHash> {
        self.journal().checksum(op)
    }

    #[cfg(test)]
    fn has_bug(&self, bug: tests::Bug) -> bool {
        self.bug == Some(bug)
    }

    fn opened(
        &mut self,
        now: Clock,
        journal: ReplicaJournal,
        recovered: crate::journal::RecoveredReplica,
        effects: &mut Effects,
    ) {
        effects.event(Event::JournalRecovered { op_max: journal.head_op() });
        if recovered.slots_repaired > 0 {
            effects.event(Event::JournalHeaderRepaired { op: journal.head_op() });
        }
        self.stage = Stage::Open(Box::new(journal));
        self.journal_mut().flush_headers(effects);
        self.certain = recovered.certain && !self.replaced;
        self.floor = self.floor.max(recovered.floor);
        self.learn_commit(self.view, self.floor);
        self.begin_boot(now, effects);
    }
}

fn generation_after(header: &crate::journal::PrepareHeader) -> Generation {
    match header.operation {
        crate::journal::Operation::Recovery => header.generation.next(),
        crate::journal::Operation::Root
        | crate::journal::Operation::Requests
        | crate::journal::Operation::Checkpoint
        | crate::journal::Operation::Shutdown => header.generation,
    }
}

/// Keeps the later of two acknowledgements.
fn remember(seen: &mut PeerEvidence, new: PeerEvidence) {
    if (new.log_view, new.op) > (seen.log_view, seen.op) {
        *seen = new;
    }
}

/// Whether a timer has run out; then it starts anew.
fn due(timer: &mut Option<Instant>, now: Clock, period_ns: u64) -> bool {
    if timer.is_some_and(|at| at > now.monotonic) {
        return false;
    }
    *timer = Some(now.monotonic.plus_ns(period_ns));
    true
}
