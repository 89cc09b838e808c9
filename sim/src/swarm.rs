//! What a run is like: everything drawn from the seed before the first step.
//!
//! Swarm testing: each run turns on a random part of the faults and of the workload, at random
//! rates, so that no fault hides another and rare mixes are met.

use verity_core::limits::ClusterConstants;

use crate::atlas::Mode;
use crate::clock::ClockFaults;
use crate::disk::DiskFaults;
use crate::overrides::Overrides;
use crate::random::Random;
use crate::workload::Mix;

#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub constants: ClusterConstants,
    pub disk: DiskFaults,
    /// In some runs the disk reports errors often; drawn apart, so that the others are as before.
    pub more_errors: Option<ErrorRates>,
    pub clock: ClockFaults,
    pub mix: Mix,
    pub tenants: u64,
    pub clients: u64,
    pub rounds: u64,
    pub requests_per_round: u64,
    /// Mean number of effects between two crashes; 0: none.
    pub crash_every_effects: u64,
    /// Chance, in a million, that a crash that is due waits until a write or a sync is in flight.
    pub crash_amid_write_ppm: u64,
    /// Crashes of a run: what recovery costs is bounded, and most of the run is work.
    pub crashes_max: u64,
    /// Chance, in a million, that a crash is a kill of the process only.
    pub kill_ppm: u64,
    pub keep_nothing_ppm: u64,
    /// Chance, in a million, of a graceful restart after a round.
    pub restart_ppm: u64,
    pub cache_pages_min: u64,
    pub cache_pages_max: u64,
    /// Chance, in a million and at each boot, of evict-everything.
    pub evict_everything_ppm: u64,
    /// Mean pause of a client between two requests.
    pub think_ns_mean: u64,
    /// Chance, in a million, that a client's turn is a read.
    pub read_ppm: u64,
    /// Chance, in a million, that a client loses patience and sends the request again.
    pub impatience_ppm: u64,
    /// Chance, in a million, that an answered request is sent once more.
    pub resend_ppm: u64,
    /// Chance, in a million and at the end of a round, that a copy of the disk is rebuilt.
    pub rebuild_ppm: u64,
    /// The same at a crash: the copy is what a power cut at that moment leaves.
    pub rebuild_at_crash_ppm: u64,
    /// Chance, in a million, that a client asks what an id remembers, or reads `__events`.
    pub ask_ppm: u64,
    /// Chance that a client's turn asks for a proof.
    pub prove_ppm: u64,
    /// Time after news in which the state is attested; none: only when a proof is asked for.
    pub attest_after_ns: Option<u64>,
    /// Chance, in a million, that a request has no idempotency id.
    pub anonymous_ppm: u64,
    /// Chance, in a million, that a request must follow another one.
    pub after_ppm: u64,
    /// Chance, in a million, that another request is sent under an answered id.
    pub reuse_ppm: u64,
    /// Chance, in a million, that a client's turn is the questions of an oracle.
    pub oracle_ppm: u64,
    /// Whether a twin with another cache and other timing replays a stretch of ops.
    pub twin: bool,
}

/// Overrides from the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep the trace as lines.
    pub lines: bool,
    /// Record what a page of the run shows.
    pub timeline: bool,
    /// Multiplies the work of a run; 0 means 1.
    pub scale: u64,
    /// What the run is without, and how long it is at most.
    pub overrides: Overrides,
}

impl Plan {
    #[must_use]
    pub fn draw(seed: u64, options: &Options) -> Plan {
        let mut random = Random::new(seed).stream("plan");
        let mode = if random.chance(120_000) { Mode::Damage } else { Mode::Safety };
        let mut order = Random::new(seed).stream("order plan");
        let mut oracle = Random::new(seed).stream("oracle plan");
        let mut constants = draw_constants(&mut random);
        let mut scan = Random::new(seed).stream("scan plan");
        if scan.coin() {
            // Most UPDATEs and DELETEs by a condition look at more than a transaction may read.
            constants.transaction_pages_read_max = scan.range(16, 64) as u32;
        }
        draw_records(&mut Random::new(seed).stream("records plan"), &mut constants);
        let requests = random.range(60, 240) * options.scale.max(1);
        Plan {
            mode,
            constants,
            disk: draw_disk(&mut random, mode),
            more_errors: ErrorRates::draw(&mut Random::new(seed).stream("errors plan")),
            clock: draw_clock(&mut random),
            mix: Mix::draw(&mut random),
            tenants: random.range(1, 4),
            // Few clients make small prepares and many ops, many clients large ones.
            clients: *random.pick(&[1, 2, 4, 8, 16, 24]),
            rounds: random.range(3, 9),
            requests_per_round: requests,
            crash_every_effects: match random.below(8) {
                0 => 0,
                1 => random.range(30, 200),
                2 | 3 => random.range(200, 1_000),
                _ => random.range(1_000, 8_000),
            },
            crash_amid_write_ppm: draw_amid_write(&mut Random::new(seed).stream("crash plan")),
            crashes_max: random.range(4, 80),
            kill_ppm: random.range(0, 500_000),
            keep_nothing_ppm: random.range(0, 400_000),
            restart_ppm: random.range(0, 300_000),
            cache_pages_min: random.range(128, 256),
            cache_pages_max: random.range(256, 4_096),
            evict_everything_ppm: *random.pick(&[0, 0, 200_000, 1_000_000]),
            think_ns_mean: random.range(1_000, 400_000),
            read_ppm: random.range(50_000, 500_000),
            impatience_ppm: if random.coin() { random.range(0, 60_000) } else { 0 },
            resend_ppm: if random.coin() { random.range(0, 60_000) } else { 0 },
            rebuild_ppm: *random.pick(&[0, 150_000, 500_000]),
            rebuild_at_crash_ppm: *random.pick(&[0, 20_000, 200_000]),
            ask_ppm: random.range(5_000, 80_000),
            anonymous_ppm: if random.coin() { random.range(1_000, 100_000) } else { 0 },
            after_ppm: if order.coin() { order.range(2_000, 200_000) } else { 0 },
            reuse_ppm: if order.coin() { order.range(2_000, 60_000) } else { 0 },
            twin: random.chance(150_000),
            prove_ppm: 0,
            attest_after_ns: draw_attest_after(&mut Random::new(seed).stream("attest plan")),
            oracle_ppm: oracle.range(2_000, 40_000),
        }
        .with_proofs(random)
        .within(&options.overrides)
    }

    /// Bounds say how much of what was drawn there is.
    fn within(mut self, overrides: &Overrides) -> Plan {
        self.clients = Overrides::bounded(self.clients, overrides.clients_max, 1);
        self.tenants = Overrides::bounded(self.tenants, overrides.tenants_max, 1);
        self
    }

    /// Twins are given the same requests and nothing else: nobody asks for proofs there, and none
    /// attests when its time has come.
    fn with_proofs(mut self, mut random: Random) -> Plan {
        self.attest_after_ns = self.attest_after_ns.filter(|_| !self.twin);
        self.prove_ppm = if self.twin { 0 } else { random.range(2_000, 40_000) };
        self
    }
}

/// Often enough to meet most of what goes on in a run, or once in a while.
#[must_use]
pub fn draw_attest_after(random: &mut Random) -> Option<u64> {
    random.chance(300_000).then(|| random.range(1_000_000, 1_000_000_000))
}

/// In some runs checkpoint records are many, or not every log has one at a shutdown.
pub fn draw_records(random: &mut Random, constants: &mut ClusterConstants) {
    if random.coin() {
        constants.checkpoint_record_interval = random.range(5, 300) as u32;
    }
    if random.chance(300_000) {
        constants.shutdown_records_max = random.below(3) as u32;
    }
}

fn draw_constants(random: &mut Random) -> ClusterConstants {
    let small = ClusterConstants::SMALL;
    // Few dirty pages: a checkpoint every few dozen requests.
    let dirtied = random.range(128, 256) as u32;
    let dirty_pages_max = dirtied * random.range(4, 6) as u32;
    ClusterConstants {
        // The smallest ring, mostly: so that it wraps.
        journal_ring_bytes: *random.pick(&[4, 4, 4, 5, 6, 8]) << 20,
        grid_pages_max: dirty_pages_max * random.range(16, 64) as u32,
        dirty_pages_max,
        transaction_events_max: random.range(200, 600) as u32,
        transaction_pages_read_max: random.range(128, 512) as u32,
        transaction_pages_dirtied_max: dirtied,
        ..small
    }
}

fn draw_disk(random: &mut Random, mode: Mode) -> DiskFaults {
    let mut rate = |on: u64, max: u64| {
        if random.chance(on) { random.magnitude(max) } else { 0 }
    };
    let damage = mode == Mode::Damage;
    DiskFaults {
        read_error_ppm: rate(200_000, 300),
        write_error_ppm: rate(200_000, 300),
        sync_error_ppm: rate(200_000, 2_000),
        no_space_ppm: rate(200_000, 300),
        lost_write_ppm: rate(300_000, 20_000),
        torn_write_ppm: rate(300_000, 20_000),
        misdirected_write_ppm: rate(300_000, 20_000),
        misdirected_read_ppm: rate(250_000, 1_000),
        stale_read_ppm: rate(250_000, 1_000),
        rot_ppm: rate(if damage { 800_000 } else { 400_000 }, 8_000),
        latent_error_ppm: rate(if damage { 500_000 } else { 300_000 }, 4_000),
        slow_ppm: rate(300_000, 200),
        torn_at_crash_ppm: rate(900_000, 600_000),
        slow_factor: random.range(2, 60),
        read_ns_mean: random.range(5_000, 300_000),
        write_ns_mean: random.range(10_000, 500_000),
        sync_ns_mean: random.range(10_000, 800_000),
    }
}

/// Chances, in a million of operations, of what a disk reports by itself.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRates {
    read_ppm: u64,
    write_ppm: u64,
    sync_ppm: u64,
    no_space_ppm: u64,
}

impl ErrorRates {
    /// Of the runs, some; of the kinds of errors of such a run, most. A run has a few thousand
    /// writes, fewer reads where its cache is large, and a dozen syncs or two.
    pub fn draw(random: &mut Random) -> Option<ErrorRates> {
        if !random.chance(400_000) {
            return None;
        }
        let mut rate = |low, high| if random.chance(700_000) { random.range(low, high) } else { 0 };
        Some(ErrorRates {
            read_ppm: rate(500, 4_000),
            write_ppm: rate(300, 2_500),
            sync_ppm: rate(10_000, 80_000),
            no_space_ppm: rate(300, 2_500),
        })
    }

    /// Nothing becomes rarer than it was.
    #[must_use]
    pub fn over(self, disk: DiskFaults) -> DiskFaults {
        DiskFaults {
            read_error_ppm: disk.read_error_ppm.max(self.read_ppm),
            write_error_ppm: disk.write_error_ppm.max(self.write_ppm),
            sync_error_ppm: disk.sync_error_ppm.max(self.sync_ppm),
            no_space_ppm: disk.no_space_ppm.max(self.no_space_ppm),
            ..disk
        }
    }
}

/// How many crashes, in a million, wait for a write or a sync.
#[must_use]
pub fn draw_amid_write(random: &mut Random) -> u64 {
    if random.coin() { random.range(600_000, 1_000_000) } else { 0 }
}

fn draw_clock(random: &mut Random) -> ClockFaults {
    if random.coin() {
        return ClockFaults { drift_ppm: random.signed_range(-300, 300), ..ClockFaults::NONE };
    }
    let jump_ns_max = *random.pick(&[1_000_000_000, 600_000_000_000, 5 * 24 * 3_600_000_000_000]);
    ClockFaults {
        drift_ppm: random.signed_range(-50_000, 50_000),
        jump_ppm: random.magnitude(2_000),
        freeze_ppm: random.magnitude(1_000),
        jump_ns_max,
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Plan};

    #[test]
    fn every_plan_has_valid_constants_and_is_the_seeds_alone() {
        for seed in 0..2_000 {
            let plan = Plan::draw(seed, &Options::default());
            assert_eq!(plan.constants.validate(), Ok(()), "seed {seed}");
            let again = Plan::draw(seed, &Options::default());
            assert_eq!(format!("{plan:?}"), format!("{again:?}"));
        }
    }
}
