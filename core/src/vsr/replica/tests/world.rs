//! A cluster: replicas, their disks and superblocks, a network, clocks, one client.
//!
//! Time goes in steps of a millisecond. What is checked at every step: one history of committed
//! ops; what was acknowledged to the client is in it; a replica whose disk lost nothing that it was
//! told to keep is certain of its log. What the caller asks: progress.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use super::Bug;
use crate::ids::{Op, ReplicaId, View};
use crate::io::Effects;
use crate::journal::fake_disk::{Completion, FakeDisk, Keep, Random};
use crate::journal::{Operation, PrepareBuffer, PrepareHeader};
use crate::superblock::{CheckpointState, SuperblockState};
use crate::time::{Clock, Instant, MILLISECOND_NS, SECOND_NS, Timestamp};
use crate::vsr::message::Message;
use crate::vsr::replica::{Lead, Phase, Replica};
use crate::wire::replica::Kind;

/// What the network does to a message, in per mille, and how late it may come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub drop: usize,
    pub duplicate: usize,
    pub corrupt: usize,
    pub delay_max_ms: u64,
}

#[derive(Clone, Debug)]
struct Packet {
    due_ms: u64,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Update {
    View,
    Checkpoint(Op),
}

pub(super) struct Member {
    pub disk: FakeDisk,
    /// What its superblock holds, and what is being written.
    pub state: SuperblockState,
    update: Option<(u64, SuperblockState, Update)>,
    checkpoint_due: Option<Op>,
    pub replica: Option<Replica>,
    pub effects: Effects,
    /// Headers of its journal when it was last looked at.
    pub headers: BTreeMap<Op, PrepareHeader>,
    /// Chance, in percent, that a disk access in flight completes in a step.
    pub disk_speed: usize,
    pub wall_offset_ms: i64,
    /// Something durable rotted, or an older disk was put back.
    pub damaged: bool,
    /// Not certain of its log, with this log view.
    uncertain: Option<View>,
    booted_ms: u64,
}

pub(super) struct World {
    pub members: Vec<Member>,
    pub random: Random,
    pub now_ms: u64,
    pub faults: Faults,
    /// `cut[from][to]`: nothing gets through.
    pub cut: Vec<Vec<bool>>,
    /// Messages of a kind that are lost on a link.
    pub dropped_kinds: BTreeSet<(usize, usize, u8)>,
    packets: Vec<Packet>,
    /// When who is told that whose link closed: `(due_ms, peer, told)`.
    closings: Vec<(u64, usize, usize)>,
    /// Whether replicas are told of links that close, truly at crashes and falsely at any time.
    pub hints: Option<Random>,
    /// Copies of every `start_view` and `do_view_change` sent, to be replayed late.
    pub recorded: Vec<(usize, usize, Vec<u8>)>,
    /// The one history.
    pub history: BTreeMap<Op, PrepareHeader>,
    /// Client requests acknowledged, by op.
    pub acknowledged: BTreeSet<Op>,
    pub client_active: bool,
    pub body_max: usize,
    pub bug: Option<Bug>,
    pub view_changes: u64,
    pub crashes: u64,
    pub crashes_in_flight: u64,
    pub truncations: u64,
    pub repairs: u64,
    pub uncertain: u64,
    pub committed: u64,
    pub checkpoints: u64,
    pub syncs: u64,
    /// Disks that were lost, and empty ones put in their places.
    pub replaced: u64,
    /// Who wants a checkpoint gets it later.
    pub fetches_held: bool,
    /// Every primary is asked now and then whether it still leads.
    pub reads: bool,
    pub reads_confirmed: u64,
    /// Who was asked, and the newest op that anybody had committed then.
    asked: Vec<(usize, Lead, Op)>,
    pub log: Vec<std::string::String>,
}

fn formatted(index: usize, count: usize) -> SuperblockState {
    let state = crate::vsr::tests::world::formatted();
    SuperblockState { replica: ReplicaId::new(index as u8), replica_count: count as u8, ..state }
}

impl World {
    pub fn new(seed: u64, count: usize) -> World {
        let member = |index| Member {
            disk: FakeDisk::formatted(),
            state: formatted(index, count),
            update: None,
            checkpoint_due: None,
            replica: None,
            effects: Effects::new(),
            headers: BTreeMap::new(),
            disk_speed: 40,
            wall_offset_ms: 0,
            damaged: false,
            uncertain: None,
            booted_ms: 0,
        };
        let mut world = World {
            members: (0..count).map(member).collect(),
            random: Random(seed),
            now_ms: 1,
            faults: Faults { delay_max_ms: 2, ..Faults::default() },
            cut: vec![vec![false; count]; count],
            dropped_kinds: BTreeSet::new(),
            packets: Vec::new(),
            closings: Vec::new(),
            hints: None,
            recorded: Vec::new(),
            history: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            client_active: true,
            body_max: 6_000,
            bug: None,
            view_changes: 0,
            crashes: 0,
            crashes_in_flight: 0,
            truncations: 0,
            repairs: 0,
            uncertain: 0,
            committed: 0,
            checkpoints: 0,
            syncs: 0,
            replaced: 0,
            fetches_held: false,
            reads: false,
            reads_confirmed: 0,
            asked: Vec::new(),
            log: Vec::new(),
        };
        for index in 0..count {
            world.start(index);
        }
        world
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.members[index].replica.is_some()
    }

    pub fn replica(&self, index: usize) -> &Replica {
        self.members[index].replica.as_ref().unwrap()
    }

    pub fn start(&mut self, index: usize) {
        let nonce = self.random.next() | 1;
        let member = &mut self.members[index];
        assert!(member.replica.is_none());
        member.booted_ms = self.now_ms;
        member.uncertain = None;
        let release = crate::vsr::tests::world::RELEASE;
        let mut replica = Replica::open(&member.state, release, nonce, &mut member.effects);
        replica.bug = self.bug;
        replica.replaced &= self.bug != Some(Bug::CountsReplaced);
        member.replica = Some(replica);
        member.disk.submit(&mut member.effects);
    }

    pub fn crash(&mut self, index: usize, mut keep: impl FnMut(&mut Random) -> Keep) {
        self.remember_headers(index);
        let random = &mut self.random;
        let member = &mut self.members[index];
        assert!(member.replica.take().is_some());
        member.effects = Effects::new();
        member.checkpoint_due = None;
        self.asked.retain(|(who, ..)| *who != index);
        self.log.push(std::format!("{} ms, replica {index} stops", self.now_ms));
        self.crashes += 1;
        self.crashes_in_flight += u64::from(member.disk.unsynced() > 0);
        if let Some((_, state, _)) = member.update.take()
            && random.chance(50)
        {
            member.state = state;
        }
        member.disk.crash(|| keep(random));
        for told in 0..self.count() {
            if let Some(hints) = &mut self.hints
                && told != index
                && hints.chance(80)
            {
                let later = hints.next() % (2 * self.faults.delay_max_ms + 1);
                self.closings.push((self.now_ms + 1 + later, index, told));
            }
        }
    }

    /// The disk of a stopped replica is lost. In its place is an empty one that says so, or (as a
    /// format for a new cluster makes it) does not.
    pub fn lose_disk(&mut self, index: usize, says_so: bool) {
        let count = self.count();
        let member = &mut self.members[index];
        assert!(member.replica.is_none());
        member.disk = FakeDisk::formatted();
        member.state = SuperblockState { replaced: says_so, ..formatted(index, count) };
        member.headers.clear();
        member.damaged = true;
        self.replaced += 1;
    }

    /// One is told that the link of another to it has closed, which may be false.
    pub fn tell_closed(&mut self, peer: usize, told: usize) {
        let now = self.clock(told);
        if let Some(replica) = &mut self.members[told].replica {
            replica.on_link_closed(now, ReplicaId::new(peer as u8));
        }
    }

    fn close_links(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<_> = self.closings.extract_if(.., |(due_ms, ..)| *due_ms <= now_ms).collect();
        for (_, peer, told) in due {
            self.tell_closed(peer, told);
        }
        let count = self.count();
        if let Some(hints) = &mut self.hints
            && hints.chance(2)
        {
            let (peer, told) = (hints.below(count), hints.below(count));
            self.tell_closed(peer, told);
        }
    }

    pub fn remember_headers(&mut self, index: usize) {
        let Some(replica) = &self.members[index].replica else { return };
        if matches!(replica.phase, Phase::Recovering | Phase::Failed) {
            return;
        }
        let journal = replica.journal();
        let mut headers = BTreeMap::new();
        for op in journal.first_op().get()..=journal.head_op().get() {
            if let Some(header) = journal.header(Op::new(op)) {
                headers.insert(header.op, header);
            }
        }
        self.members[index].headers = headers;
    }

    pub fn clock(&self, index: usize) -> Clock {
        let member = &self.members[index];
        let wall = 1_000_000 + self.now_ms as i64 + member.wall_offset_ms;
        Clock {
            monotonic: Instant((self.now_ms - member.booted_ms + 1) * MILLISECOND_NS),
            wall: Timestamp(wall as u64 * MILLISECOND_NS),
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Steps until something holds; false: it did not within so many milliseconds.
    pub fn run_until(&mut self, ms: u64, mut holds: impl FnMut(&World) -> bool) -> bool {
        for _ in 0..ms {
            if holds(self) {
                return true;
            }
            self.step();
        }
        holds(self)
    }

    pub fn step(&mut self) {
        self.now_ms += 1;
        self.deliver();
        self.close_links();
        for index in 0..self.count() {
            if self.is_up(index) {
                self.disk_step(index);
                self.superblock_step(index);
                self.tick(index);
                self.drive(index);
                self.sync(index);
                self.check_certain(index);
                if self.reads {
                    self.read(index);
                }
            }
        }
    }

    /// A linearizable read begins at whoever thinks that it leads; those that are confirmed had
    /// seen all that anybody had committed when they began.
    fn read(&mut self, index: usize) {
        let (now, last) = (self.clock(index), self.last());
        let mut confirmed = Vec::new();
        let Some(replica) = &mut self.members[index].replica else { return };
        self.asked.retain(|(who, lead, committed)| {
            if *who != index {
                return true;
            }
            match replica.confirms(lead) {
                Some(false) => true,
                Some(true) => {
                    confirmed.push((*lead, *committed));
                    false
                }
                None => false,
            }
        });
        if self.now_ms.is_multiple_of(7)
            && let Some(lead) = replica.ask_lead(now)
        {
            self.asked.push((index, lead, last));
        }
        for (lead, committed) in confirmed {
            self.reads_confirmed += 1;
            let stale = lead.commit < committed;
            assert!(
                !stale,
                "a stale read: {lead:?}, {committed} was committed\n{}",
                self.describe()
            );
        }
        self.submit(index);
    }

    /// A line for [`World::describe`].
    pub fn note(&mut self, index: usize, text: &str) {
        self.log.push(std::format!("{} ms, replica {index} {text}", self.now_ms));
    }

    /// Stands for state sync: the pages and segments of a peer's checkpoint, then its place in the
    /// superblock, then a new open.
    fn sync(&mut self, index: usize) {
        let now = self.clock(index);
        if self.fetches_held || self.members[index].update.is_some() {
            return;
        }
        let Some(wanted) = self.replica(index).sync_wanted(now) else { return };
        let peers = 0..self.count();
        let mut peers = peers.filter(|&peer| peer != index && self.is_up(peer));
        let source = peers.find_map(|peer| {
            let checkpoint = self.members[peer].state.checkpoint;
            let linked = !self.cut[peer][index] && !self.cut[index][peer];
            let view = self.replica(peer).view;
            (linked && checkpoint.op >= wanted).then_some((checkpoint, view))
        });
        let Some((checkpoint, view)) = source else { return };
        let erasure =
            self.replica(index).erasure_by_sync(checkpoint.op, checkpoint.prepare_checksum);
        self.crash(index, |_| Keep::Old);
        self.crashes -= 1;
        self.syncs += 1;
        let state = &mut self.members[index].state;
        state.checkpoint = checkpoint;
        if self.bug != Some(Bug::SyncsInOldView) {
            state.view = state.view.max(view);
        }
        state.peers[index] = erasure;
        state.committed = state.committed.max(checkpoint.op);
        self.start(index);
    }

    /// Or a cluster could stop for ever with all its data there.
    fn check_certain(&mut self, index: usize) {
        let (certain, view) = (self.replica(index).is_certain(), self.replica(index).view);
        let sound = self.members[index].damaged || certain;
        assert!(sound, "replica {index} is not certain of a sound disk\n{}", self.describe());
        let member = &mut self.members[index];
        let log_view = member.state.log_view;
        if !certain {
            member.uncertain = Some(log_view);
            return;
        }
        // Rule 2: what it is certain of is the log of the log view that its superblock names.
        let healed = member.uncertain.take().is_none_or(|old| log_view > old || log_view == view);
        assert!(healed, "replica {index} is certain too early\n{}", self.describe());
    }

    fn deliver(&mut self) {
        let mut index = 0;
        while index < self.packets.len() {
            if self.packets[index].due_ms > self.now_ms {
                index += 1;
                continue;
            }
            let packet = self.packets.swap_remove(index);
            if self.cut[packet.from][packet.to] || !self.is_up(packet.to) {
                continue;
            }
            self.receive(packet.to, &packet.frame);
        }
    }

    pub fn receive(&mut self, to: usize, frame: &[u8]) {
        let now = self.clock(to);
        let member = &mut self.members[to];
        let Some(replica) = &mut member.replica else { return };
        // Damaged frames are refused; that is all.
        let _ = replica.on_frame(now, frame, &mut member.effects);
        self.submit(to);
    }

    fn disk_step(&mut self, index: usize) {
        let now = self.clock(index);
        let pending = self.members[index].disk.pending.len();
        for _ in 0..pending {
            let member = &mut self.members[index];
            if member.disk.pending.is_empty() || !self.random.chance(member.disk_speed) {
                continue;
            }
            let at = self.random.below(member.disk.pending.len());
            let Some(replica) = &mut member.replica else { return };
            let effects = &mut member.effects;
            match member.disk.complete(at) {
                Completion::Read { io, pages, result } => {
                    replica.on_read_done(now, io, pages, result, effects).unwrap();
                }
                Completion::Write { io, pages, result } => {
                    replica.on_write_done(now, io, pages, result, effects).unwrap();
                }
                Completion::Done { io } => replica.on_done(io, Ok(()), effects).unwrap(),
            }
            self.submit(index);
        }
    }

    fn superblock_step(&mut self, index: usize) {
        let now = self.clock(index);
        let (now_ms, later) = (self.now_ms, 1 + self.random.next() % 4);
        let member = &mut self.members[index];
        let Some(replica) = &mut member.replica else { return };
        if let Some((due, state, update)) = &member.update
            && *due <= now_ms
        {
            member.state = *state;
            match *update {
                Update::View => replica.superblock_durable(now, &mut member.effects),
                Update::Checkpoint(op) => {
                    replica.checkpoint_durable(op);
                    self.checkpoints += 1;
                }
            }
            member.update = None;
        }
        if member.update.is_some() {
            return;
        }
        if let Some(op) = member.checkpoint_due.take() {
            let header = self.history[&op];
            let mut state = member.state;
            state.checkpoint = CheckpointState {
                op,
                prepare_checksum: header.checksum,
                journal_offset: header.journal_end(),
                timestamp: header.timestamp,
                generation: header.generation,
                ..state.checkpoint
            };
            state.committed = state.committed.max(op);
            member.update = Some((now_ms + 5 * later, state, Update::Checkpoint(op)));
        } else if let Some(wanted) = replica.superblock_wanted(now) {
            let mut state = member.state;
            assert!(wanted.view >= state.view && wanted.log_view >= state.log_view);
            (state.view, state.log_view) = (wanted.view, wanted.log_view);
            state.committed = state.committed.max(wanted.committed);
            state.peers = wanted.peers;
            state.replaced = wanted.replaced;
            member.update = Some((now_ms + later, state, Update::View));
        }
        self.submit(index);
    }

    fn tick(&mut self, index: usize) {
        let now = self.clock(index);
        let member = &mut self.members[index];
        let Some(replica) = &mut member.replica else { return };
        if replica.deadline().is_some_and(|at| at <= now.monotonic) {
            replica.tick(now, &mut member.effects);
        }
        self.submit(index);
    }

    /// Applies what is committed, and proposes.
    fn drive(&mut self, index: usize) {
        loop {
            let member = &mut self.members[index];
            let Some(replica) = &mut member.replica else { return };
            let Some(committed) = replica.next_committed(&mut member.effects) else { break };
            let header = committed.header;
            self.check_committed(index, header);
            let member = &mut self.members[index];
            let Some(replica) = &mut member.replica else { return };
            if !committed.replay && header.operation == Operation::Requests {
                self.acknowledged.insert(header.op);
            }
            let durable = member.state.checkpoint.op;
            assert!(header.checkpoint_durable <= durable, "its checkpoint is durable here too");
            replica.applied(header.op, committed.prepare);
            if header.operation.is_checkpoint() {
                assert!(member.checkpoint_due.is_none(), "one checkpoint at a time");
                member.checkpoint_due = Some(header.op);
            }
        }
        self.propose(index);
        self.submit(index);
    }

    fn check_committed(&mut self, index: usize, header: PrepareHeader) {
        let last = self.history.keys().next_back().copied().unwrap_or(Op::ZERO);
        match self.history.get(&header.op) {
            Some(known) => assert!(
                known.checksum == header.checksum,
                "two histories: op {} of view {} and, at replica {index}, of view {}\n{}",
                header.op,
                known.view,
                header.view,
                self.describe()
            ),
            None => {
                assert_eq!(header.op, last.next(), "the history has no gap");
                self.history.insert(header.op, header);
                self.committed += 1;
            }
        }
    }

    fn propose(&mut self, index: usize) {
        let now = self.clock(index);
        let size = 16 + self.random.below(self.body_max);
        let fill = self.random.next().to_le_bytes();
        let lively = self.client_active && self.random.chance(30);
        let member = &mut self.members[index];
        let Some(replica) = &mut member.replica else { return };
        let operation = if replica.check_propose(Operation::Recovery, 8).is_ok()
            && !replica.recovery_proposed
        {
            Operation::Recovery
        } else if replica.checkpoint_wanted(0, u32::MAX) {
            Operation::Checkpoint
        } else if lively {
            Operation::Requests
        } else {
            return;
        };
        let size = if operation == Operation::Requests { size } else { 8 };
        if replica.check_propose(operation, size).is_err() {
            return;
        }
        let mut body = PrepareBuffer::new();
        for _ in 0..size / 8 {
            body.push(&fill);
        }
        replica.propose(now, operation, body, 1, &mut member.effects);
        self.submit(index);
    }

    /// Effects to the disk, frames to the network.
    fn submit(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some(replica) = &mut member.replica else { return };
        let outbox = replica.take_outbox();
        member.disk.submit(&mut member.effects);
        for event in member.disk.events.drain(..) {
            match event.name() {
                "ViewStarted" => self.view_changes += 1,
                "LogTruncated" => self.truncations += 1,
                "PrepareRepaired" => self.repairs += 1,
                "ReplicaUncertain" => self.uncertain += 1,
                _ => {}
            }
            if self.log.len() < 100_000 && event.name() != "Committed" {
                self.log.push(std::format!("{} ms, replica {index}: {event:?}", self.now_ms));
            }
        }
        for (to, frame) in outbox {
            self.post(index, usize::from(to.get()), frame);
        }
    }

    fn post(&mut self, from: usize, to: usize, mut frame: Vec<u8>) {
        let Some(&kind) = frame.get(14 + 96) else { panic!("a frame holds a message") };
        if [Kind::StartView.code(), Kind::DoViewChange.code()].contains(&kind) {
            self.recorded.push((from, to, frame.clone()));
        }
        let faults = self.faults;
        let lost = self.random.below(1_000) < faults.drop;
        if lost || self.cut[from][to] || self.dropped_kinds.contains(&(from, to, kind)) {
            return;
        }
        if self.random.below(1_000) < faults.corrupt {
            let at = self.random.below(frame.len());
            frame[at] ^= 1 << self.random.below(8);
            let count = self.count() as u8;
            let cluster = self.members[0].state.cluster;
            assert!(Message::decode(&frame, cluster, count).is_err(), "damage is noticed");
        }
        if self.random.below(1_000) < faults.duplicate {
            let due_ms = self.now_ms + 1 + self.random.next() % (20 * faults.delay_max_ms + 1);
            self.packets.push(Packet { due_ms, from, to, frame: frame.clone() });
        }
        let due_ms = self.now_ms + 1 + self.random.next() % (faults.delay_max_ms + 1);
        self.packets.push(Packet { due_ms, from, to, frame });
    }

    /// The primary whom a quorum of replicas follow.
    pub fn primary(&self) -> Option<usize> {
        let primary = |index: &usize| self.is_up(*index) && self.replica(*index).is_primary();
        let candidates = (0..self.count()).filter(primary);
        candidates.max_by_key(|&index| self.replica(index).view)
    }

    pub fn last(&self) -> Op {
        self.history.keys().next_back().copied().unwrap_or(Op::ZERO)
    }

    /// All replicas are up, in one view, and have applied the whole history; nobody says that
    /// something is missing.
    pub fn converged(&self) -> bool {
        let last = self.last();
        let view = |member: &Member| {
            let replica = member.replica.as_ref()?;
            let settled = replica.phase == Phase::Normal
                && replica.applied == last
                && replica.is_certain()
                && replica.missing.is_none();
            settled.then_some(replica.view)
        };
        let views: Vec<Option<View>> = self.members.iter().map(view).collect();
        views[0].is_some() && views.iter().all(|view| *view == views[0])
    }

    pub fn describe(&self) -> std::string::String {
        use std::fmt::Write as _;
        let mut text = std::format!("at {} ms, history to {}\n", self.now_ms, self.last());
        for (index, member) in self.members.iter().enumerate() {
            match &member.replica {
                Some(replica) => {
                    let _ = writeln!(text, "  {index}: {:?}", replica.status());
                }
                None => {
                    let _ = writeln!(text, "  {index}: down");
                }
            }
        }
        let proposals = |line: &&std::string::String| !line.contains("PrepareProposed");
        let lines: Vec<&std::string::String> = self.log.iter().filter(proposals).collect();
        for line in &lines[lines.len().saturating_sub(60)..] {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

/// Nothing said since long ago is waited for.
pub(super) const LONG_MS: u64 = 60_000;
const _: () = assert!(LONG_MS * MILLISECOND_NS > 10 * SECOND_NS);
