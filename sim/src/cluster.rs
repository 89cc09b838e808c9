//! Several real nodes, each on its own disk, over a hostile network: one run from one number.
//!
//! Purpose: what the simulation of the protocol shows of headers, this shows of the database: whole
//! nodes replicate SQL, change views, crash, come back and agree. Drawn from the seed: how many
//! nodes, the network, who crashes when, who is cut off, how slow each disk is, the workload.
//!
//! Checked: every acknowledged transaction is one that the model accepts at its position, once,
//! with the same results, whichever node answered and however often it was sent; at the end every
//! node gives the same rows as the model; checkpoints of the same op are the same on all nodes, in
//! the superblock and byte by byte in the grid; every node's log rebuilds the state of its
//! checkpoint, and all logs are one; the cluster answers again when faults have stopped.
//!
//! Disks: writes and syncs fail, which ends a process; crashes tear what was in flight; of fewer
//! than a quorum of the nodes, journals, grids and copies of the superblock rot while they are
//! down. A damaged page that is read is repaired; one that nobody reads may stay.
//! Blocks of segments rot on any node that is down, and turn unreadable (EIO) on any node, each on
//! fewer than a quorum; in the end none is. What cannot be read of a log ends no process. Reads and
//! writes go to another place than was asked for, or nowhere.
//!
//! In half of the runs where data may rot, disks of the same nodes are lost as a whole: an empty
//! one takes the place, which knows that it does, or are put back as they were before.
//!
//! In most runs further tenants are created, sometimes by two clients at once, and written to; no
//! key and no text of them may be seen in frames and on disks.
//!
//! In most runs a node stays away until nobody's journal reaches back to what it has: it fetches a
//! peer's checkpoint, and is stopped amid that too.
//!
//! In most runs some who read want proof, which must hold under the signatures of f + 1 nodes; and
//! no node cosigns a head of another history, one that it did not apply, or one that its superblock
//! could forget.
//!
//! Wall clocks drift, step and freeze, in some runs of a minority, in others of all: time goes on,
//! and is never later than any of them said.
//!
//! Nodes are told of links that close: of those of a process that ended, mostly, and now and then
//! of those of one that lives.
//!
//! Start reading at [`run`], then [`Cluster::turn`].

mod agreement;
mod astray;
mod clocks;
mod cosigning;
pub(crate) mod directed;
mod disks;
mod links;
mod members;
mod older;
mod people;
mod provers;
mod readers;
mod replacing;
mod seen;
mod tenants;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use verity_core::ids::{ClusterId, Op};
use verity_core::io::{Input, Page};
use verity_core::limits::ClusterConstants;
use verity_core::superblock::CheckpointState;

use crate::atlas::Copies;
use crate::histories::Histories;
use crate::keys::MasterKey;
use crate::ledger::Ledger;
use crate::overrides::{Board, Overrides, Switch, Switches};
use crate::random::Random;
use crate::report::{Failure, FailureKind};
use crate::swarm::{ErrorRates, Options, draw_amid_write, draw_attest_after, draw_records};
use crate::timeline::Recorder;
use crate::trace::Trace;
use crate::workload::{Mix, Workload};
use astray::AstrayIo;
use clocks::ClockTrouble;
use cosigning::Heads;
use disks::DiskTrouble;
use members::Member;
use older::OlderDisks;
use people::Pending;
use provers::Provers;
use readers::Readers;
pub use seen::{Seen, report};
use tenants::Tenants;

/// What the network does, in a million.
#[derive(Clone, Copy, Debug)]
struct Net {
    drop_ppm: u64,
    duplicate_ppm: u64,
    corrupt_ppm: u64,
    delay_ns_mean: u64,
}

/// A grid for each checkpoint, and whose it is.
type Grids = BTreeMap<Op, (usize, BTreeMap<u32, Page>)>;

/// What is due next; the order breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Packet((u64, u64)),
    Disk(usize),
    Key(usize),
    Tick(usize),
    Boot(usize),
    Send(u64),
    Client,
    Reading(u64),
    Reader,
    Trouble,
}

#[derive(Clone, Debug)]
enum Packet {
    Frame(Vec<u8>),
    /// The sender's link to the receiver has closed.
    Closed,
}

#[derive(Debug)]
pub struct Cluster {
    seed: u64,
    attest_after_ns: Option<u64>,
    /// What is not drawn from one of those below.
    random: Random,
    network: Random,
    trouble: Random,
    people: Random,
    overrides: Overrides,
    board: Board,
    recorder: Recorder,
    now_ns: u64,
    members: Vec<Member>,
    master: MasterKey,
    net: Net,
    /// `cut[from][to]`: nothing gets through.
    cut: Vec<Vec<bool>>,
    packets: BTreeMap<(u64, u64), (usize, usize, Packet)>,
    serial: u64,
    workload: Workload,
    ledger: Ledger,
    readers: Readers,
    provers: Provers,
    heads: Heads,
    /// What readers ask: drawn apart from what is written.
    queries: Workload,
    pending: BTreeMap<u64, Pending>,
    /// Others than the one that the model knows.
    tenants: Tenants,
    /// Tables that somebody asked to drop.
    dropping: BTreeSet<String>,
    /// Who waits for which ticket of which member.
    tickets: BTreeMap<(usize, u64), u64>,
    /// The member that answered last.
    favourite: usize,
    ring_bytes: u64,
    quota: u64,
    /// Of the requests that a run may have before its faults stop.
    requests_left: u64,
    next_client_ns: u64,
    next_trouble_ns: Option<u64>,
    crash_ppm: u64,
    /// Which crashes wait for a write, and how often that is so.
    amid_write: Random,
    amid_write_ppm: u64,
    cut_ppm: u64,
    isolate_ppm: u64,
    close_ppm: u64,
    /// When links close, which has a source of its own.
    closes: Random,
    /// Who is cut off from all others, and until when.
    isolated: Option<(usize, u64)>,
    /// Every checkpoint that any node made durable.
    checkpoints: BTreeMap<Op, CheckpointState>,
    last_progress_ns: u64,
    /// Pages that rotted, of which node.
    damaged: BTreeSet<(usize, u32)>,
    /// Members whose disks may lose what was durable: fewer than a quorum.
    rotten: Vec<usize>,
    /// It stays away until it is called.
    away: Option<usize>,
    sync_crash_ppm: u64,
    /// Blocks of segments that rotted, and what else may.
    copies: Copies,
    segment_rot: Random,
    segment_rot_ppm: u64,
    disks: DiskTrouble,
    astray: AstrayIo,
    clocks: ClockTrouble,
    older: OlderDisks,
    /// The highest op that anybody was answered with.
    highest_op: Op,
    /// What a node did that none may do.
    complaint: Option<String>,
    /// Which disks are lost, and how often one is.
    replacing: Random,
    replace_ppm: u64,
    /// What directories are made from.
    constants: ClusterConstants,
    format_seed: [u8; 32],
    /// What disks did that are lost.
    lost_faults: BTreeMap<&'static str, u64>,
    lost_met: Switches,
    histories: Histories,
    trace: Trace,
    seen: Seen,
}

const CLUSTER: ClusterId = ClusterId::new(77);
const CLIENTS: u64 = 6;
const TROUBLE_NS: u64 = 60_000_000;
/// Without an answer for so long, while somebody waits and faults have stopped, the run is stuck.
const STUCK_NS: u64 = 120_000_000_000;
const TURNS_MAX: u64 = 30_000_000;
/// Rounds of requests for which a node stays away at most.
const ABSENCE_ROUNDS_MAX: u64 = 30;

/// One run. A failed assertion of the core panics.
pub fn run(seed: u64) -> Result<Seen, Failure> {
    let (seen, outcome) = run_and_tell(seed, &Options::default(), &Recorder::OFF);
    outcome.map(|()| seen)
}

/// One run, and what it saw whatever became of it.
pub fn run_and_tell(
    seed: u64,
    options: &Options,
    recorder: &Recorder,
) -> (Seen, Result<(), Failure>) {
    let mut cluster = match Cluster::new(seed, options) {
        Ok(cluster) => cluster,
        Err(failure) => return (Seen::default(), Err(failure)),
    };
    cluster.recorder = recorder.clone();
    let outcome = cluster.life().map_err(|failure| {
        let detail = format!("seed {seed}: {}\n{}", failure.detail, cluster.describe());
        Failure::new(failure.kind, detail)
    });
    cluster.seen.met = cluster.met();
    cluster.seen.disk_faults = cluster.disk_faults();
    cluster.seen.sim_ns = cluster.now_ns;
    cluster.seen.trace = cluster.trace.hash();
    cluster.seen.lines = cluster.trace.lines().to_vec();
    (cluster.seen, outcome)
}

/// Of rings of so many MiB, and of checkpoints that are due after so many large transactions.
fn constants(ring_mib: u64, transactions: u32) -> ClusterConstants {
    let dirtied = 128;
    ClusterConstants {
        journal_ring_bytes: ring_mib << 20,
        dirty_pages_max: dirtied * transactions,
        grid_pages_max: dirtied * 200,
        transaction_events_max: 300,
        transaction_pages_read_max: 256,
        transaction_pages_dirtied_max: dirtied,
        ..ClusterConstants::SMALL
    }
}

impl Cluster {
    fn new(seed: u64, options: &Options) -> Result<Cluster, Failure> {
        let root = Random::new(seed).stream("cluster");
        let mut random = root.stream("plan");
        let count = if random.chance(700_000) { 3 } else { 5 };
        // A quorum of two is one of three.
        let count = Overrides::bounded(count, options.overrides.nodes_max, 3) as usize;
        let ring_mib = *random.pick(&[4, 4, 8]);
        let constants = constants(ring_mib, random.range(4, 6) as u32);
        let segment_positions =
            *root.stream("segments").pick(&[300, 2_000, constants.segment_positions]);
        let mut constants = ClusterConstants { segment_positions, ..constants };
        draw_records(&mut root.stream("records plan"), &mut constants);
        let mut cluster = Cluster::of(seed, count, constants, options, &root, random)?;
        cluster.draw_errors(&root);
        cluster.disks = DiskTrouble::draw(root.stream("disk trouble"));
        cluster.astray = AstrayIo::draw(root.stream("astray"));
        cluster.clocks = ClockTrouble::draw(root.stream("clocks"), count);
        cluster.older = OlderDisks::draw(root.stream("older disks"));
        cluster.tenants.draw();
        cluster.provers = Provers::draw(root.stream("provers"));
        Ok(cluster)
    }

    /// In some runs disks report errors often, and crashes wait for writes; drawn apart, so that
    /// the others are as they were.
    fn draw_errors(&mut self, root: &Random) {
        let mut plan = root.stream("errors plan");
        if let Some(errors) = ErrorRates::draw(&mut plan) {
            for member in &mut self.members {
                if plan.coin() && self.board.lets(Switch::MoreErrors) {
                    member.disk.set_faults(errors.over(member.disk.faults()));
                }
            }
        }
        self.amid_write_ppm = draw_amid_write(&mut root.stream("crash plan"));
    }

    fn of(
        seed: u64,
        count: usize,
        constants: ClusterConstants,
        options: &Options,
        root: &Random,
        mut random: Random,
    ) -> Result<Cluster, Failure> {
        let mut closes = root.stream("closes");
        let mut segment_rot = root.stream("segment rot");
        let mut replacing = root.stream("replacing");
        let mut mix = Mix::draw(&mut random);
        mix.huge_ppm = 0;
        mix.rows_per_bulk_max = mix.rows_per_bulk_max.min(60);
        let mut master = MasterKey::new(root.stream("master key"));
        let format = random.seed_bytes();
        let mut members = (0..count)
            .map(|index| Member::format(index, count, constants, root, format, &mut master))
            .collect::<Result<Vec<Member>, Failure>>()?;
        for member in &mut members {
            member.disk.switch_off(options.overrides.off);
        }
        Ok(Cluster {
            seed,
            attest_after_ns: draw_attest_after(&mut root.stream("attest plan")),
            now_ns: 0,
            master,
            net: Net {
                drop_ppm: *random.pick(&[0, 5_000, 50_000, 150_000]),
                duplicate_ppm: *random.pick(&[0, 20_000, 100_000]),
                corrupt_ppm: *random.pick(&[0, 2_000, 20_000]),
                delay_ns_mean: *random.pick(&[20_000, 200_000, 2_000_000]),
            },
            cut: vec![vec![false; count]; count],
            packets: BTreeMap::new(),
            serial: 0,
            workload: Workload::new(root.stream("workload"), mix, vec!["canary".to_owned()]),
            ledger: Ledger::default(),
            readers: Readers::new(root.stream("readers")),
            provers: Provers::none(root.stream("provers")),
            heads: Heads::default(),
            queries: Workload::new(root.stream("queries"), mix, vec!["canary".to_owned()]),
            pending: BTreeMap::new(),
            tenants: Tenants::none(root.stream("tenants")),
            dropping: BTreeSet::new(),
            tickets: BTreeMap::new(),
            favourite: 0,
            ring_bytes: constants.journal_ring_bytes,
            quota: 0,
            requests_left: options.overrides.requests_max.unwrap_or(u64::MAX),
            next_client_ns: 0,
            next_trouble_ns: None,
            crash_ppm: *random.pick(&[0, 20_000, 60_000]),
            amid_write: root.stream("crash amid write"),
            amid_write_ppm: 0,
            cut_ppm: *random.pick(&[0, 20_000, 60_000]),
            isolate_ppm: *random.pick(&[0, 10_000, 40_000]),
            close_ppm: *closes.pick(&[0, 20_000, 200_000]),
            closes,
            isolated: None,
            checkpoints: BTreeMap::new(),
            last_progress_ns: 0,
            damaged: BTreeSet::new(),
            rotten: if random.coin() {
                let first = random.index(count);
                (0..(count - 1) / 2).map(|more| (first + more) % count).collect()
            } else {
                Vec::new()
            },
            away: None,
            sync_crash_ppm: *random.pick(&[0, 100_000, 300_000]),
            copies: Copies::new(count),
            segment_rot_ppm: *segment_rot.pick(&[0, 300_000, 800_000]),
            segment_rot,
            disks: DiskTrouble::none(root.stream("disk trouble")),
            astray: AstrayIo::none(root.stream("astray")),
            clocks: ClockTrouble::none(root.stream("clocks")),
            older: OlderDisks::none(root.stream("older disks")),
            highest_op: Op::ZERO,
            complaint: None,
            replace_ppm: *replacing.pick(&[0, 0, 200_000, 500_000]),
            replacing,
            constants,
            format_seed: format,
            lost_faults: BTreeMap::new(),
            lost_met: Switches::default(),
            histories: Histories::default(),
            trace: Trace::new(options.lines),
            seen: Seen { nodes: count as u64, ..Seen::default() },
            members,
            network: root.stream("network"),
            trouble: root.stream("trouble"),
            people: root.stream("people"),
            overrides: options.overrides,
            board: Board::new(options.overrides.off),
            recorder: Recorder::OFF,
            random,
        })
    }

    fn life(&mut self) -> Result<(), Failure> {
        let lanes = (0..self.members.len()).map(|index| format!("node {index}")).collect();
        self.recorder.at(0, |timeline| timeline.lanes = lanes);
        for index in 0..self.members.len() {
            self.boot(index);
        }
        self.next_trouble_ns = Some(TROUBLE_NS);
        self.begin_clocks();
        let rounds = self.random.range(3, 8);
        let absence = self.random.chance(600_000).then(|| self.random.below(rounds));
        for round in 0..rounds {
            if self.requests_left == 0 {
                break;
            }
            if absence == Some(round) && self.board.lets(Switch::Absence) {
                self.long_absence()?;
            }
            self.round()?;
        }
        self.end_trouble();
        self.recorder.at(self.now_ns, |timeline| timeline.note("last requests, in peace"));
        self.quota = 20;
        self.drive(|cluster| cluster.quota == 0 && cluster.pending.is_empty())?;
        self.drive(|cluster| cluster.readers.asked.is_empty())?;
        self.drive(Cluster::converged)?;
        self.scrub()?;
        self.agree()
    }

    /// In the end all have the same, and answer.
    fn agree(&mut self) -> Result<(), Failure> {
        self.drive(Cluster::converged)?;
        self.recorder.at(self.now_ns, |timeline| timeline.note("last checks"));
        // What tables there are is known from here on.
        self.settle()?;
        self.final_reads()?;
        self.settle()?;
        self.read_tenants()?;
        self.search_disks()?;
        self.look_at_superblocks();
        let grids = self.compare_grids()?;
        self.compare_segments()?;
        self.compare_heads()?;
        self.compare_logs(&grids)
    }

    fn round(&mut self) -> Result<(), Failure> {
        self.quota = self.random.range(60, 240).min(self.requests_left);
        self.requests_left -= self.quota;
        let quota = self.quota;
        self.recorder.at(self.now_ns, |timeline| timeline.note(format!("round of {quota}")));
        self.drive(|cluster| cluster.quota == 0 && cluster.pending.is_empty())?;
        self.settle()
    }

    /// A node stays away until the others' rings have gone round since. Not once faults had to
    /// stop: another may be uncertain or amid a sync then, and nobody is called back for its sake.
    fn long_absence(&mut self) -> Result<(), Failure> {
        if self.next_trouble_ns.is_none() {
            return Ok(());
        }
        let who = self.random.index(self.members.len());
        self.send_away(who)?;
        let round = self.ring_bytes + self.random.range(0, self.ring_bytes);
        let until = self.checkpoints_end() + round;
        for _ in 0..ABSENCE_ROUNDS_MAX {
            let enough = self.checkpoints_end() >= until || self.away.is_none();
            if enough || self.requests_left == 0 {
                break;
            }
            self.round()?;
        }
        self.seen.absences += u64::from(self.checkpoints_end() >= until);
        self.call_back();
        Ok(())
    }

    /// It stops, and stays away until it is called back.
    fn send_away(&mut self, who: usize) -> Result<(), Failure> {
        if self.members[who].node.is_some() {
            self.crash(who)?;
        }
        self.members[who].boot_at_ns = None;
        let note = format!("node {who} stays away");
        self.recorder.at(self.now_ns, |timeline| timeline.note(note));
        self.away = Some(who);
        Ok(())
    }

    /// Faults stop: everybody is up and can be reached.
    fn end_trouble(&mut self) {
        self.next_trouble_ns = None;
        self.isolated = None;
        self.away = None;
        self.net = Net { drop_ppm: 0, duplicate_ppm: 0, corrupt_ppm: 0, delay_ns_mean: 50_000 };
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        self.record_links();
        self.heal_clocks();
        self.recorder.at(self.now_ns, |timeline| timeline.note("faults stop"));
        for member in &mut self.members {
            member.disk.heal();
            member.dies_writing = false;
            if member.node.is_none() {
                member.boot_at_ns = Some(self.now_ns + 1);
            }
        }
        self.last_progress_ns = self.now_ns;
    }

    fn drive(&mut self, done: impl Fn(&Cluster) -> bool) -> Result<(), Failure> {
        self.last_progress_ns = self.now_ns;
        for _ in 0..TURNS_MAX {
            if done(self) {
                return Ok(());
            }
            self.turn()?;
            let quiet_ns = self.now_ns.saturating_sub(self.last_progress_ns);
            if self.next_trouble_ns.is_none() && quiet_ns > STUCK_NS {
                return Err(Failure::new(FailureKind::Stuck, "nothing moves any more"));
            }
            if self.next_trouble_ns.is_some() && quiet_ns > STUCK_NS / 4 {
                // No rate of faults may keep a run from its end.
                self.end_trouble();
            }
        }
        Err(Failure::new(FailureKind::Stuck, "too many turns"))
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let Some((at_ns, due)) = self.next_due() else {
            return Err(Failure::new(FailureKind::Stuck, "nothing will ever happen again"));
        };
        self.now_ns = self.now_ns.max(at_ns);
        match due {
            Due::Packet(key) => {
                let Some((from, to, packet)) = self.packets.remove(&key) else {
                    unreachable!("it was due")
                };
                let (cut, up) = (self.cut[from][to], self.members[to].node.is_some());
                self.recorder.at(at_ns, |timeline| timeline.arrived(key.1, cut, up));
                if !cut {
                    let from = self.members[from].replica();
                    let input = match packet {
                        Packet::Frame(frame) => Input::Received { from, frame },
                        Packet::Closed => Input::LinkClosed { peer: from },
                    };
                    self.give(to, input)?;
                }
            }
            Due::Disk(index) => {
                let now_ns = self.now_ns;
                self.lead_astray(index);
                if let Some(input) = self.members[index].disk.complete(now_ns) {
                    self.give(index, input)?;
                }
            }
            Due::Key(index) => {
                if let Some((_, input)) = self.members[index].keys.pop_front() {
                    self.give(index, input)?;
                }
            }
            Due::Tick(index) => self.give(index, Input::Tick)?,
            Due::Boot(index) => self.boot(index),
            Due::Send(serial) => self.send(serial)?,
            Due::Client => self.new_request(),
            Due::Reading(serial) => self.go_on_reading(serial)?,
            Due::Reader => self.new_reading(),
            Due::Trouble => self.make_trouble()?,
        }
        Ok(())
    }

    fn next_due(&self) -> Option<(u64, Due)> {
        let mut best: Option<(u64, Due)> = None;
        let mut offer = |at_ns: u64, due: Due| {
            if best.is_none_or(|best| (at_ns, due) < best) {
                best = Some((at_ns, due));
            }
        };
        if let Some((key, _)) = self.packets.first_key_value() {
            offer(key.0, Due::Packet(*key));
        }
        for (index, member) in self.members.iter().enumerate() {
            if let Some(at_ns) = member.boot_at_ns {
                offer(at_ns, Due::Boot(index));
            }
            let Some(node) = &member.node else { continue };
            if let Some(at_ns) = member.disk.next_due_ns() {
                offer(at_ns, Due::Disk(index));
            }
            if let Some((at_ns, _)) = member.keys.front() {
                offer(*at_ns, Due::Key(index));
            }
            if let Some(deadline) = node.deadline() {
                offer(member.true_time_of(deadline), Due::Tick(index));
            }
        }
        for (serial, pending) in &self.pending {
            if let Some(at_ns) = pending.send_at_ns {
                offer(at_ns, Due::Send(*serial));
            }
        }
        let clients = Overrides::bounded(CLIENTS, self.overrides.clients_max, 1);
        if self.quota > 0 && (self.pending.len() as u64) < clients {
            offer(self.next_client_ns, Due::Client);
        }
        if let Some((at_ns, serial)) = self.readers.due() {
            offer(at_ns, Due::Reading(serial));
        }
        if self.quota > 0
            && let Some(at_ns) = self.readers.next_ns()
        {
            offer(at_ns, Due::Reader);
        }
        if let Some(at_ns) = self.next_trouble_ns {
            offer(at_ns, Due::Trouble);
        }
        best
    }

    /// What the disks of all did, by name.
    fn disk_faults(&self) -> BTreeMap<&'static str, u64> {
        let mut sum = self.lost_faults.clone();
        for (name, count) in self.members.iter().flat_map(|member| &member.disk.stats().faults) {
            *sum.entry(*name).or_default() += count;
        }
        sum
    }

    fn met(&self) -> Switches {
        let disks = self.members.iter().map(|member| member.disk.met());
        disks.chain([self.board.met(), self.lost_met]).flat_map(Switches::iter).collect()
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.ledger.settle().map_err(|text| Failure::new(FailureKind::Wrong, text))
    }
}
