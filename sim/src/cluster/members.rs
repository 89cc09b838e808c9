//! One node of a cluster: its disk, its clock, its birth and death, and where its effects go.

use std::collections::VecDeque;

use verity_core::ids::ReplicaId;
use verity_core::io::{Effect, Effects, FileId, Input};
use verity_core::kernel::Request;
use verity_core::limits::{
    ClusterConstants, JOURNAL_HEADERS_PER_PAGE, KEYS_EXTENT_PAGES, PAGE_SIZE,
    SUPERBLOCK_COPY_SPACING,
};
use verity_core::node::{
    CURRENT_RELEASE, Format, FormatOptions, Halt, LeadAsked, Progress, ProofRead, Read, Seed,
};
use verity_core::superblock::{CheckpointState, CopiesReport, SuperblockState, decode_copies};
use verity_core::time::{Clock, Instant, Timestamp};
use verity_core::vsr::message::{Message, Payload};

use super::clocks::{EPOCH_NS, Wall};
use super::{CLUSTER, Cluster};
use crate::atlas::{Atlas, Layout, Mode};
use crate::disk::{Disk, DiskFaults, FaultKind, Keep, Request as DiskRequest, SectorId};
use crate::keys::MasterKey;
use crate::overrides::Switch;
use crate::random::Random;
use crate::rebuild;
use crate::replica::{BootOptions, Place, Replica};
use crate::report::{Failure, FailureKind};

#[derive(Debug)]
pub(super) struct Member {
    index: usize,
    pub disk: Disk,
    pub node: Option<Replica>,
    effects: Effects,
    /// Answers of the holder of the master key, and when they come.
    pub keys: VecDeque<(u64, Input)>,
    booted_ns: u64,
    /// What its monotonic clock showed when it was born.
    boot_monotonic_ns: u64,
    pub wall: Wall,
    pub boot_at_ns: Option<u64>,
    /// What its superblock said last.
    pub checkpoint: Option<CheckpointState>,
    /// Grid and segments are being fetched: it has nothing to say, and nothing to serve.
    fetches: bool,
    /// Writes and syncs that its disk had refused when it was born.
    refusals: u64,
    /// It dies as soon as it has a write or a sync in flight.
    pub dies_writing: bool,
}

impl Member {
    /// All members are formatted with one seed, and share origin and tenants' keys; each has a
    /// cosigning key of its own.
    pub fn format(
        index: usize,
        count: usize,
        constants: ClusterConstants,
        root: &Random,
        seed: [u8; 32],
        master: &mut MasterKey,
    ) -> Result<Member, Failure> {
        let mut random = root.stream(&format!("member {index}"));
        let own = random.stream("own").seed_bytes();
        let faults = DiskFaults {
            torn_at_crash_ppm: if random.coin() { 300_000 } else { 0 },
            write_error_ppm: *random.pick(&[0, 0, 300, 2_000]),
            write_ns_mean: random.range(20_000, 400_000),
            sync_ns_mean: random.range(20_000, 400_000),
            ..DiskFaults::NONE
        };
        let layout = Layout {
            superblock_copy: SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64,
            keys_extent: KEYS_EXTENT_PAGES as u64,
            journal_ring_from: constants.journal_ring_bytes
                / JOURNAL_HEADERS_PER_PAGE as u64
                / PAGE_SIZE as u64,
        };
        let mut member = Member {
            index,
            disk: Disk::new(random.stream("disk"), faults, Atlas::new(Mode::Peaceful, layout)),
            node: None,
            effects: Effects::new(),
            keys: VecDeque::new(),
            booted_ns: 0,
            boot_monotonic_ns: 1,
            wall: Wall::ahead(random.range(0, 200_000_000)),
            boot_at_ns: None,
            checkpoint: None,
            fetches: false,
            refusals: 0,
            dies_writing: false,
        };
        let options = FormatOptions {
            cluster: Some(CLUSTER),
            replica: member.replica(),
            replica_count: count as u8,
            release: CURRENT_RELEASE,
            constants,
        };
        member.format_disk(options, [seed, own], false, master)?;
        Ok(member)
    }

    /// Of a disk without faults, from nothing to a directory; of the seed that all share and of
    /// one that nobody else has.
    fn format_disk(
        &mut self,
        options: FormatOptions,
        [seed, own]: [[u8; 32]; 2],
        replaces: bool,
        master: &mut MasterKey,
    ) -> Result<(), Failure> {
        let failed = |halt: Halt| Failure::new(FailureKind::Halted, format!("format: {halt}"));
        let mut effects = Effects::new();
        let format = Format::start(options, &Seed(seed), &mut effects).map_err(failed)?;
        let mut format = format.with_own_seed(&Seed(own));
        if replaces {
            format = format.replacing();
        }
        loop {
            for effect in effects.drain() {
                self.execute(0, effect, master);
            }
            if format.is_done() {
                self.disk.atlas.set_mode(Mode::Safety);
                return Ok(());
            }
            let input = match self.keys.pop_front() {
                Some((_, input)) => Some(input),
                None => self.disk.complete(u64::MAX / 2),
            };
            let Some(input) = input else {
                return Err(Failure::new(FailureKind::Stuck, "a format waits for nothing"));
            };
            format.step(input, &mut effects).map_err(failed)?;
        }
    }

    pub fn replica(&self) -> ReplicaId {
        ReplicaId::new(self.index as u8)
    }

    pub fn is_primary(&self) -> bool {
        self.node.as_ref().is_some_and(Replica::is_ready)
    }

    /// Its disk is lost, and there is an empty one that says so.
    pub fn replace(
        &mut self,
        options: FormatOptions,
        seed: [u8; 32],
        random: Random,
        master: &mut MasterKey,
    ) -> Result<(), Failure> {
        assert!(self.node.is_none(), "a disk is replaced while nobody uses it");
        let seeds = [seed, random.stream("own").seed_bytes()];
        self.disk = self.disk.empty(random);
        self.checkpoint = None;
        self.format_disk(FormatOptions { replica: self.replica(), ..options }, seeds, true, master)
    }

    /// Whether its disk took the place of a lost one, and it has no log yet.
    pub fn is_replaced(&self) -> bool {
        let status = self.node.as_ref().and_then(Replica::status);
        status.is_some_and(|status| status.replaced)
    }

    /// Whether it is fetching a checkpoint.
    pub fn is_syncing(&self) -> bool {
        let status = self.node.as_ref().and_then(Replica::status);
        status.is_some_and(|status| status.syncing.is_some_and(|op| op.get() > 0))
    }

    pub fn clock(&self, now_ns: u64) -> Clock {
        Clock {
            monotonic: Instant(now_ns - self.booted_ns + self.boot_monotonic_ns),
            wall: Timestamp((EPOCH_NS + now_ns).saturating_add_signed(self.wall.ahead_ns(now_ns))),
        }
    }

    pub fn true_time_of(&self, deadline: Instant) -> u64 {
        deadline.0.saturating_sub(self.boot_monotonic_ns) + self.booted_ns
    }

    /// Hands a request to the node that runs here; its ticket.
    pub fn submit(&mut self, request: Request, clock: Clock) -> u64 {
        let Some(node) = &mut self.node else { unreachable!("asked by the caller") };
        node.submit(clock, request, &mut self.effects).0
    }

    pub fn read(&mut self, now_ns: u64, read: &mut Read) -> Progress {
        let clock = self.clock(now_ns);
        let Some(node) = &mut self.node else { unreachable!("asked of one that is up") };
        node.read(clock, read, &mut self.effects)
    }

    pub fn read_proof(&mut self, now_ns: u64, read: &mut ProofRead) -> Progress {
        let clock = self.clock(now_ns);
        let Some(node) = &mut self.node else { unreachable!("asked of one that is up") };
        node.read_proof(clock, read, &mut self.effects)
    }

    /// A proof is given up.
    pub fn cancel_proof(&mut self, read: &mut ProofRead) {
        if let Some(node) = &mut self.node {
            node.cancel_proof(read);
        }
    }

    /// A read is given up.
    pub fn cancel(&mut self, read: &mut Read) {
        if let Some(node) = &mut self.node {
            node.cancel(read);
        }
    }

    /// A linearizable read comes in.
    pub fn ask_lead(&mut self, clock: Clock) -> Option<LeadAsked> {
        self.node.as_mut()?.ask_lead(clock, &mut self.effects)
    }

    /// The effects of a node on its own machine; frames are for the caller.
    fn execute(&mut self, now_ns: u64, effect: Effect, master: &mut MasterKey) {
        let request = match effect {
            Effect::Read { io, at, pages } => DiskRequest::Read { io, at, pages },
            Effect::Write { io, at, pages, durable } => {
                DiskRequest::Write { io, at, pages, durable }
            }
            Effect::Sync { io, file } => DiskRequest::Sync { io, file },
            Effect::Create { io, file } => DiskRequest::Create { io, file },
            Effect::Remove { io, file } => DiskRequest::Remove { io, file },
            Effect::Wrap { io, purpose, key } => {
                let key = Ok(master.wrap(purpose, &key));
                self.keys.push_back((now_ns + 10_000, Input::Wrapped { io, key }));
                return;
            }
            Effect::Unwrap { io, purpose, key } => {
                let key = master.unwrap(purpose, &key);
                self.keys.push_back((now_ns + 10_000, Input::Unwrapped { io, key }));
                return;
            }
            Effect::Event(_) => return,
            Effect::Send { .. } => unreachable!("the network is the caller's"),
        };
        self.disk.submit(now_ns, request);
    }
}

impl Cluster {
    pub(super) fn boot(&mut self, index: usize) {
        let options = BootOptions {
            cache_pages: self.random.range(300, 2_000) as u32,
            evict_everything: self.random.chance(150_000)
                && self.board.lets(Switch::EvictEverything),
            attest_after_ns: self.attest_after_ns.filter(|_| self.board.lets(Switch::Attest)),
        };
        let seed = self.random.seed_bytes();
        let monotonic_ns = self.clocks.monotonic_at_boot();
        let member = &mut self.members[index];
        assert!(member.node.is_none(), "one process at a time");
        member.boot_monotonic_ns = monotonic_ns;
        member.boot_at_ns = None;
        member.booted_ns = self.now_ns;
        member.refusals = member.disk.refusals();
        member.fetches = superblock_of(&member.disk).is_some_and(|state| state.syncing);
        let place = Place { replica: member.replica(), serves_cluster: true };
        self.recorder
            .at(self.now_ns, |timeline| timeline.life(index, "boot", format!("{options:?}")));
        member.node = Some(Replica::open_at(place, options, seed, &mut member.effects));
        let _lives = self.execute(index);
    }

    pub(super) fn crash(&mut self, index: usize) -> Result<(), Failure> {
        let keep = *self.trouble.pick(&[Keep::Process, Keep::Nothing, Keep::Any, Keep::Any]);
        let syncs = self.members[index].is_syncing();
        let mean_ns = *self.trouble.pick(&[20_000_000, 400_000_000, 2_000_000_000]);
        let pause_ns = self.trouble.exponential(mean_ns);
        let member = &mut self.members[index];
        let report = member.disk.crash(keep);
        member.node = None;
        member.effects = Effects::new();
        member.keys.clear();
        member.dies_writing = false;
        let away = self.away == Some(index);
        member.boot_at_ns = (!away).then_some(self.now_ns + 1 + pause_ns);
        self.seen.crashes += 1;
        self.seen.crashes_in_flight += u64::from(report.writes_in_flight > 0);
        self.trace.note(self.now_ns, || format!("{index} crashes"));
        let text = format!("{keep:?}, {} writes in flight", report.writes_in_flight);
        self.recorder.at(self.now_ns, |timeline| timeline.life(index, "crash", text));
        if self.rotten.contains(&index)
            && self.trouble.chance(400_000)
            && self.board.lets(Switch::Rot)
        {
            self.rot(index);
        }
        self.rot_segments(index);
        self.lose_disk(index)?;
        self.perhaps_older_disk(index);
        self.lose_copies(index);
        self.close_links_of(index);
        if syncs { self.check_cut_short(index) } else { Ok(()) }
    }

    /// What a sync that was cut short leaves: the checkpoint that the superblock names, whole, or
    /// the word that there is none.
    fn check_cut_short(&self, index: usize) -> Result<(), Failure> {
        let member = &self.members[index];
        let disk = member.disk.fork(self.random.stream("cut short"), DiskFaults::NONE);
        let Some(state) = superblock_of(&disk) else { return Ok(()) };
        let none = state.syncing || state.checkpoint.free_set.root.is_none();
        if none || self.rotten.contains(&index) {
            return Ok(());
        }
        rebuild::pages_of(disk, self.master.clone()).map(drop).map_err(|text| {
            let op = state.checkpoint.op;
            let detail = format!(
                "a sync of node {index} was cut short, its superblock names the checkpoint of op \
                 {op}, and the grid is not that: {text}"
            );
            Failure::new(FailureKind::Twin, detail)
        })
    }

    /// A stopped node's journal and grid rot in a few places, and at most one sector of its
    /// superblock.
    fn rot(&mut self, index: usize) {
        let disk = &mut self.members[index].disk;
        let blank = [0; PAGE_SIZE];
        let written: Vec<SectorId> = disk
            .sectors_of(FileId::Journal)
            .filter(|(_, sector)| **sector != blank)
            .map(|(number, _)| (FileId::Journal, number))
            .collect();
        let superblock = SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64 * self.trouble.below(4);
        let mut victims = Vec::new();
        for _ in 0..self.trouble.range(1, 4) {
            if !written.is_empty() {
                victims.push(written[self.trouble.index(written.len())]);
            }
        }
        // Pages of any age: some are read soon, some never.
        let pages: Vec<SectorId> =
            disk.sectors_of(FileId::Grid).map(|(number, _)| (FileId::Grid, number)).collect();
        for _ in 0..self.trouble.range(0, 12) {
            if !pages.is_empty() {
                let victim = pages[self.trouble.index(pages.len())];
                victims.push(victim);
                self.damaged.insert((index, victim.1 as u32));
                self.seen.pages_rotten += 1;
            }
        }
        for victim in victims {
            disk.atlas.force(victim);
            disk.rot(victim);
            self.seen.rots += 1;
        }
        let victim = (FileId::Superblock, superblock);
        if self.trouble.coin() && disk.atlas.allows(FaultKind::AtRest, victim) {
            disk.rot(victim);
            self.seen.rots += 1;
        }
        self.trace.note(self.now_ns, || format!("{index} rots"));
        let counted = &self.members[index].disk.stats().faults;
        self.recorder.at(self.now_ns, |timeline| timeline.disk_faults(index, counted));
    }

    /// Blocks of a stopped node's segments rot, where enough others have them: one here and there,
    /// or a stretch, or all from somewhere on.
    fn rot_segments(&mut self, index: usize) {
        if !self.segment_rot.chance(self.segment_rot_ppm) {
            return;
        }
        let random = &mut self.segment_rot;
        let disk = &mut self.members[index].disk;
        let is_segment = |file: &FileId| matches!(file, FileId::Segment { .. });
        let files: Vec<FileId> = disk.files().filter(is_segment).collect();
        if files.is_empty() {
            return;
        }
        let mut victims = Vec::new();
        for _ in 0..random.range(1, 4) {
            let file = *random.pick(&files);
            let sectors = disk.sectors(file);
            if sectors == 0 {
                continue;
            }
            let first = random.below(sectors);
            let count = *random.pick(&[1, 1, 1, 3, 40]);
            victims.extend((first..sectors.min(first + count)).map(|sector| (file, sector)));
        }
        for victim in victims {
            if self.may_lose_block(index, victim) {
                let disk = &mut self.members[index].disk;
                disk.atlas.force(victim);
                disk.rot(victim);
                self.seen.blocks_rotten += 1;
                self.seen.rots += 1;
            }
        }
    }

    pub(super) fn give(&mut self, index: usize, input: Input) -> Result<(), Failure> {
        let now_ns = self.now_ns;
        let member = &mut self.members[index];
        let clock = member.clock(now_ns);
        let Some(node) = &mut member.node else { return Ok(()) };
        let of_network = matches!(input, Input::Received { .. } | Input::LinkClosed { .. });
        self.readers.wake(index, now_ns, !of_network);
        self.trace.note(now_ns, || format!("{index}"));
        self.trace.input(now_ns, &input);
        if now_ns.is_multiple_of(3) {
            node.hurry(clock, &mut member.effects);
            node.give_chunk();
        }
        node.slice(now_ns.is_multiple_of(2));
        node.step(clock, input, &mut member.effects);
        self.after(index)
    }

    /// Effects, replies, and what a halt means.
    pub(super) fn after(&mut self, index: usize) -> Result<(), Failure> {
        if !self.execute(index) {
            return self.crash(index);
        }
        self.record(index);
        self.check_superblock(index)?;
        self.take_replies(index)?;
        if let Some(complaint) = self.complaint.take() {
            return Err(Failure::new(FailureKind::Wrong, complaint));
        }
        let member = &self.members[index];
        if let Some(complaint) = member.disk.misuse() {
            return Err(Failure::new(FailureKind::Misuse, complaint));
        }
        match member.node.as_ref().and_then(Replica::halted) {
            None => Ok(()),
            // What cannot be read of a log is a peer's to give: it ends nobody.
            Some(halt @ Halt::Io { what: "log", .. })
                if member.disk.refusals() == member.refusals =>
            {
                let detail = format!("node {index} stopped, and no write was refused: {halt}");
                Err(Failure::new(FailureKind::Halted, detail))
            }
            // A disk that refuses a write ends the process; no outcome changes.
            Some(Halt::Io { .. }) => {
                self.recorder.at(self.now_ns, |timeline| {
                    timeline.fault(
                        index,
                        "disk stop",
                        "the disk refused a write: the process ends",
                    );
                });
                self.seen.disk_stops += 1;
                self.crash(index)
            }
            Some(halt) => {
                let detail = format!("node {index} halted on a good disk: {halt}");
                Err(Failure::new(FailureKind::Halted, detail))
            }
        }
    }

    /// What a page shows of a node.
    fn record(&self, index: usize) {
        let member = &self.members[index];
        let Some(node) = member.node.as_ref().filter(|_| self.recorder.is_on()) else { return };
        let (status, leads) = (node.status(), node.is_ready());
        self.recorder.at(self.now_ns, |timeline| {
            timeline.status(index, status.as_ref(), leads);
            timeline.disk_faults(index, &member.disk.stats().faults);
        });
    }

    /// False: the process dies here, of a crash that waited for a write.
    #[must_use]
    fn execute(&mut self, index: usize) -> bool {
        let now_ns = self.now_ns;
        let mut effects = std::mem::take(&mut self.members[index].effects);
        let mut frames = Vec::new();
        let mut lives = true;
        for effect in effects.drain() {
            match effect {
                Effect::Send { to, frame } => {
                    if self.members[index].fetches && !self.asks_for_pages_or_blocks(&frame) {
                        let detail = "has no checkpoint, and talks as if it had one";
                        self.complaint = Some(format!("node {index} {detail}"));
                    }
                    if let Err(complaint) = self.check_cosignature(index, &frame) {
                        self.complaint = Some(complaint);
                    }
                    if let Some(what) = self.tenants.check_frame(&frame) {
                        self.complaint = Some(format!("node {index} says {what} in a frame"));
                    }
                    frames.push((usize::from(to.get()), frame));
                }
                Effect::Event(event) => {
                    let name = event.name();
                    self.recorder.at(now_ns, |timeline| timeline.event(index, &event));
                    if let Err(difference) = self.histories.note(&event) {
                        self.complaint = Some(format!("node {index}: {difference}"));
                    }
                    *self.seen.events.entry(name).or_default() += 1;
                    self.seen.views += u64::from(name == "ViewStarted");
                    self.seen.truncations += u64::from(name == "LogTruncated");
                    self.seen.checkpoints += u64::from(name == "CheckpointDurable");
                    self.seen.syncs += u64::from(name == "SyncFinished");
                    match name {
                        "SyncStarted" => self.members[index].fetches = true,
                        "SyncFinished" => self.members[index].fetches = false,
                        _ => {}
                    }
                    if name == "CheckpointDurable" || name == "SyncFinished" {
                        self.members[index].checkpoint = None; // to be read again
                    }
                }
                other => {
                    self.tenants.note(&other);
                    let writes = matches!(other, Effect::Write { .. } | Effect::Sync { .. });
                    self.members[index].execute(now_ns, other, &mut self.master);
                    // Not always the first: then no other of a batch would be in flight.
                    if writes && self.members[index].dies_writing && self.amid_write.coin() {
                        lives = false;
                        break;
                    }
                }
            }
        }
        self.members[index].effects = effects;
        for (to, frame) in frames {
            self.post(index, to, frame);
        }
        lives
    }

    /// All that may be said by who fetches a checkpoint.
    fn asks_for_pages_or_blocks(&self, frame: &[u8]) -> bool {
        let message = Message::decode(frame, CLUSTER, self.members.len() as u8);
        message.is_ok_and(|message| {
            matches!(
                message.payload,
                Payload::RequestCheckpoint
                    | Payload::RequestPages { .. }
                    | Payload::RequestBlocks { .. }
                    | Payload::RequestKeys(_)
                    | Payload::Keys { .. }
            )
        })
    }

    /// What whoever boots this node now finds in its superblock.
    pub(super) fn state_on_disk(&self, index: usize) -> Option<SuperblockState> {
        superblock_of(&self.members[index].disk)
    }

    /// What everybody's superblock says now: what was noted of one that crashed may be older.
    pub(super) fn look_at_superblocks(&mut self) {
        for member in &mut self.members {
            member.checkpoint = superblock_of(&member.disk).map(|state| state.checkpoint);
        }
    }

    /// A checkpoint of an op is the same everywhere, and for ever.
    fn check_superblock(&mut self, index: usize) -> Result<(), Failure> {
        let member = &mut self.members[index];
        if member.checkpoint.is_some() {
            return Ok(());
        }
        let report = superblock_copies(&member.disk);
        let Some(state) = report.states.iter().flatten().max_by_key(|state| state.sequence) else {
            return Ok(());
        };
        let checkpoint = state.checkpoint;
        member.checkpoint = Some(checkpoint);
        let known = self.checkpoints.entry(checkpoint.op).or_insert(checkpoint);
        if *known != checkpoint {
            let detail = format!(
                "node {index} has another checkpoint of op {}: {checkpoint:?}, not {known:?}",
                checkpoint.op
            );
            return Err(Failure::new(FailureKind::Twin, detail));
        }
        Ok(())
    }
}

/// What whoever opens this disk finds in the superblock.
fn superblock_of(disk: &Disk) -> Option<SuperblockState> {
    superblock_copies(disk).decide(true).ok().map(|decision| decision.state)
}

/// What whoever opens what a power cut leaves of this disk finds.
pub(super) fn durable_superblock_of(disk: &Disk) -> Option<SuperblockState> {
    let copy = |number: u64| {
        let sector = number * SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64;
        disk.durable((FileId::Superblock, sector)).map_or(Vec::new(), |page| page.to_vec())
    };
    let copies = [copy(0), copy(1), copy(2), copy(3)];
    decode_copies(&[&copies[0], &copies[1], &copies[2], &copies[3]])
        .decide(true)
        .ok()
        .map(|decision| decision.state)
}

fn superblock_copies(disk: &Disk) -> CopiesReport {
    let bytes = disk.contents(FileId::Superblock);
    let copy = |number: usize| {
        let start = number * SUPERBLOCK_COPY_SPACING as usize;
        bytes.get(start..start + PAGE_SIZE).unwrap_or(&[])
    };
    decode_copies(&[copy(0), copy(1), copy(2), copy(3)])
}
