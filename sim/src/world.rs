//! One run: the real core in a fake world, from one number.
//!
//! Purpose: owns time, disk, keys, clients and the node; moves one thing at a time; crashes between
//! any two effects. Invariants: everything that happens is drawn from the seed and noted in the
//! trace; nothing is checked by looking into the core. Start reading at [`World::run`], then
//! `turn`. What clients do is in `clients`, what must hold in `audit` and [`crate::ledger`].

mod asking;
mod audit;
mod boot;
pub(crate) mod clients;
mod doubt;
mod oracles;
mod order;
mod proving;
mod turn;
mod twin;
mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use verity_core::io::{Effects, Input};
use verity_core::limits::{
    JOURNAL_HEADERS_PER_PAGE, KEYS_EXTENT_PAGES, PAGE_SIZE, SUPERBLOCK_COPY_SPACING,
};
use verity_core::proof::Seen;

use crate::atlas::{Atlas, Layout, Mode};
use crate::canary::{self, Search};
use crate::clock::{ClockFaults, SimClock};
use crate::disk::{Disk, DiskFaults};
use crate::histories::Histories;
use crate::keys::MasterKey;
use crate::ledger::Ledger;
use crate::overrides::{Board, Switch, Switches};
use crate::random::Random;
use crate::replica::Replica;
use crate::report::{Failure, FailureKind, Report};
use crate::sql::{Query, Statement};
use crate::swarm::{Options, Plan};
use crate::timeline::{Recorder, Timeline};
use crate::trace::Trace;
use crate::workload::Workload;
use asking::{Asking, Told};
use clients::{Client, Pending, Reading};
use oracles::Oracle;
use order::Order;
use proving::Proving;
use watch::Watch;

/// What is counted while a run goes on; shared with a panic hook, which has nothing else.
#[derive(Debug)]
pub struct Progress {
    pub seed: u64,
    pub trace: Trace,
    pub report: Report,
}

pub type SharedProgress = Rc<RefCell<Progress>>;

pub struct World {
    plan: Plan,
    board: Board,
    /// Of the requests that a run may have before its faults stop.
    requests_left: u64,
    progress: SharedProgress,
    recorder: Recorder,
    random: Random,
    crash_random: Random,
    order_random: Random,
    oracle_random: Random,
    /// Draws predicates only.
    oracle_workload: Workload,
    clock: SimClock,
    disk: Disk,
    master: MasterKey,
    search: Search,
    workload: Workload,
    ledgers: Vec<Ledger>,
    node: Option<Replica>,
    effects: Effects,
    /// Answers of the holder of the master key, by due time.
    key_answers: BTreeMap<(u64, u64), Input>,
    serial: u64,
    clients: Vec<Client>,
    pending: BTreeMap<u64, Pending>,
    tickets: BTreeMap<u64, u64>,
    readings: Vec<Reading>,
    /// Looking up what ids remember.
    askings: Vec<Asking>,
    provings: Vec<Proving>,
    prove_random: Random,
    /// The newest head of the cluster's log that a client saw.
    seen_head: Option<Seen>,
    /// Some of what each tenant's clients were told, to be asked for again.
    told: Vec<Vec<Told>>,
    /// Which requests must follow which; both without a final answer, or one of them.
    orders: Vec<Order>,
    oracles: BTreeMap<u64, Oracle>,
    /// Of each tenant: a transaction without an id that was lost on its way.
    doubts: Vec<Option<Vec<Statement>>>,
    /// Reads of no client that found no node: asked again.
    unread: Vec<(usize, Query)>,
    /// Transactions still to be sent in this round.
    quota: u64,
    /// Effects until the next crash.
    crash_in: Option<u64>,
    /// The crash that is due then waits for a write or a sync.
    crash_amid_write: bool,
    /// Which crashes wait, and for how many writes.
    amid_random: Random,
    crashes_drawn: u64,
    /// Processes in a row that died before they answered anything.
    fruitless_boots: u32,
    /// When a dead process comes back.
    boot_at_ns: Option<u64>,
    /// Time at which a node with unfinished reads is called again.
    poke_at_ns: Option<u64>,
    /// Faults that a halt may be blamed on, counted at boot.
    faults_at_boot: u64,
    crashed: bool,
    /// No more crashes, faults or lies.
    healed: bool,
    last_progress_ns: u64,
    /// The latest time that the wall clock ever showed.
    wall_ms_max: u64,
    /// Before the next boot, what is on the disk is rebuilt from its logs.
    rebuild_wanted: bool,
    ended_by_damage: bool,
    tenants_ready: BTreeSet<usize>,
    tenants_asked: BTreeSet<usize>,
    shutting_down: bool,
    watch: Watch,
    histories: Histories,
}

/// Without any answer for so long the run is stuck.
const STUCK_NS: u64 = 600 * 1_000_000_000;
const TURNS_MAX: u64 = 40_000_000;

impl World {
    #[must_use]
    pub fn new(seed: u64, options: &Options, recorder: Recorder) -> World {
        recorder.at(0, |timeline| timeline.lanes = vec!["node".to_owned()]);
        let plan = Plan::draw(seed, options);
        let root = Random::new(seed);
        let mut names = root.stream("canaries");
        let canaries: Vec<String> = (0..plan.tenants).map(|_| canary::draw(&mut names)).collect();
        let search = Search::new(&canaries);
        let layout = Layout {
            superblock_copy: SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64,
            keys_extent: KEYS_EXTENT_PAGES as u64,
            journal_ring_from: plan.constants.journal_ring_bytes
                / JOURNAL_HEADERS_PER_PAGE as u64
                / PAGE_SIZE as u64,
        };
        // Format and first boot happen in peace; `begin_faults` changes that.
        let mut disk = Disk::new(
            root.stream("disk"),
            DiskFaults { torn_at_crash_ppm: plan.disk.torn_at_crash_ppm, ..DiskFaults::NONE },
            Atlas::new(Mode::Peaceful, layout),
        );
        let off = options.overrides.off;
        disk.switch_off(off);
        let mut clock = SimClock::new(root.stream("clock"), ClockFaults::NONE);
        clock.switch_off(off);
        let trace = Trace::new(options.lines);
        let report = Report { seed, ..Report::default() };
        World {
            clock,
            recorder,
            board: Board::new(off),
            requests_left: options.overrides.requests_max.unwrap_or(u64::MAX),
            master: MasterKey::new(root.stream("master key")),
            oracle_random: root.stream("oracles"),
            oracle_workload: Workload::new(
                root.stream("oracle predicates"),
                plan.mix,
                canaries.clone(),
            ),
            workload: Workload::new(root.stream("workload"), plan.mix, canaries),
            ledgers: (0..plan.tenants).map(|_| Ledger::default()).collect(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            crash_random: root.stream("crash"),
            order_random: root.stream("order"),
            random: root.stream("world"),
            progress: Rc::new(RefCell::new(Progress { seed, trace, report })),
            disk,
            search,
            node: None,
            effects: Effects::new(),
            key_answers: BTreeMap::new(),
            serial: 0,
            pending: BTreeMap::new(),
            tickets: BTreeMap::new(),
            readings: Vec::new(),
            askings: Vec::new(),
            provings: Vec::new(),
            prove_random: root.stream("proofs"),
            seen_head: None,
            told: (0..plan.tenants).map(|_| Vec::new()).collect(),
            orders: Vec::new(),
            oracles: BTreeMap::new(),
            doubts: (0..plan.tenants).map(|_| None).collect(),
            unread: Vec::new(),
            quota: 0,
            crash_in: None,
            crash_amid_write: false,
            amid_random: root.stream("crash amid write"),
            crashes_drawn: 0,
            fruitless_boots: 0,
            boot_at_ns: None,
            poke_at_ns: None,
            faults_at_boot: 0,
            crashed: false,
            healed: false,
            last_progress_ns: 0,
            wall_ms_max: 0,
            rebuild_wanted: false,
            ended_by_damage: false,
            // Tenant 1 is there from the start.
            tenants_ready: BTreeSet::from([0]),
            tenants_asked: BTreeSet::from([0]),
            shutting_down: false,
            watch: Watch::default(),
            histories: Histories::default(),
            plan,
        }
    }

    #[must_use]
    pub fn progress(&self) -> SharedProgress {
        Rc::clone(&self.progress)
    }

    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The whole life of one world.
    pub fn run(&mut self) -> Result<(), Failure> {
        self.format()?;
        self.boot();
        self.after_step()?;
        self.drive(|world| world.node.as_ref().is_some_and(Replica::is_ready))?;
        self.begin_faults();
        for round in 0..self.plan.rounds {
            if self.requests_left == 0 {
                break;
            }
            self.note(|| format!("round {round}"));
            self.record(|timeline| timeline.note(format!("round {round}")));
            self.quota = self.plan.requests_per_round.min(self.requests_left);
            self.requests_left -= self.quota;
            self.drive_until_settled()?;
            if self.ended_by_damage {
                return Ok(());
            }
            self.settle()?;
            if self.random.chance(self.plan.rebuild_ppm) && self.board.lets(Switch::Rebuild) {
                self.rebuild_copy()?;
            }
            let restarts = self.random.chance(self.plan.restart_ppm);
            if self.board.also(Switch::GracefulRestart, restarts) {
                self.restart_gracefully()?;
            }
        }
        self.heal();
        self.final_reads()?;
        if self.ended_by_damage {
            return Ok(());
        }
        self.last_restart_and_audit()
    }

    /// The report so far; complete after [`World::run`].
    pub fn finish(&mut self, outcome: Result<(), Failure>) -> Report {
        let mut progress = self.progress.borrow_mut();
        let mut report = progress.report.clone();
        report.failure = outcome.err();
        let boards = [self.board.met(), self.disk.met(), self.clock.met()];
        report.met = Some(boards.into_iter().flat_map(Switches::iter).collect());
        report.sim_ns = self.clock.now_ns();
        report.trace_hash = progress.trace.hash();
        report.ticks = progress.trace.ticks;
        report.events_seen = progress.trace.events_seen();
        report.event_counts = progress.trace.events.clone();
        report.lines = progress.trace.lines().to_vec();
        report.faults = self.disk.stats().faults.clone();
        for (name, count) in &progress.report.faults {
            *report.faults.entry(name).or_default() += count;
        }
        report.refusals = self.ledgers.iter().map(|ledger| ledger.refusals).sum();
        report.reads = self.ledgers.iter().map(|ledger| ledger.reads).sum();
        progress.report = report.clone();
        report
    }

    fn begin_faults(&mut self) {
        let mut faults = self.plan.disk;
        if let Some(errors) = self.plan.more_errors
            && self.board.lets(Switch::MoreErrors)
        {
            faults = errors.over(faults);
        }
        self.disk.set_faults(faults);
        self.disk.atlas.set_mode(self.plan.mode);
        self.clock.set_faults(self.plan.clock);
        self.draw_crash();
    }

    /// Faults stop; what is damaged stays damaged. From now on everything must converge.
    fn heal(&mut self) {
        self.note(|| "heal".to_owned());
        self.record(|timeline| timeline.note("faults stop"));
        self.healed = true;
        self.disk.heal();
        self.clock.heal();
        self.crash_in = None;
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.resolve_doubts()?;
        for (tenant, ledger) in self.ledgers.iter_mut().enumerate() {
            ledger.settle().map_err(|text| {
                Failure::new(FailureKind::Wrong, format!("tenant {}: {text}", tenant + 1))
            })?;
        }
        Ok(())
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let now_ns = self.clock.now_ns();
        self.progress.borrow_mut().trace.note(now_ns, text);
    }

    /// For the page of the run, if there is to be one.
    fn record(&self, record: impl FnOnce(&mut Timeline)) {
        self.recorder.at(self.clock.now_ns(), record);
    }

    fn count(&mut self, update: impl FnOnce(&mut Report)) {
        update(&mut self.progress.borrow_mut().report);
    }

    fn count_fault(&mut self, name: &'static str) {
        self.count(|report| *report.faults.entry(name).or_default() += 1);
    }
}

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "World({})", self.progress.borrow().seed)
    }
}
