//! Clocks of nodes that drift, step forward and back, freeze, and so differ.
//!
//! Fault model: that of the single-node world (`clock.rs`): wall clocks lie, in some runs those of
//! fewer than a quorum, in others all; the monotonic clock of a process begins anywhere and never
//! goes back. Invariants: no wall clock is farther from the truth than [`WRONG_NS_MAX`], so that
//! ids of honest clients stay valid; what was acknowledged is never later than the farthest clock.

use verity_core::limits::CLOCK_SAMPLE_AGE_MAX_NS;
use verity_core::time::{MILLISECOND_NS, SECOND_NS, Timestamp};

use super::Cluster;
use crate::overrides::Switch;
use crate::random::Random;
use crate::report::{Failure, FailureKind};

pub(super) const EPOCH_NS: u64 = 1_800_000_000 * SECOND_NS;

/// Ids of requests are a day ahead.
pub(super) const WRONG_NS_MAX: i64 = 12 * 3_600 * SECOND_NS as i64;
/// Samples of a clock count for so long, be it frozen since.
const AHEAD_NS_MAX: i64 = CLOCK_SAMPLE_AGE_MAX_NS as i64 + SECOND_NS as i64;

/// A wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    /// How far ahead of the truth it was at the moment `since_ns`.
    ahead_ns: i64,
    since_ns: u64,
    drift_ppm: i64,
    frozen_until_ns: u64,
}

impl Wall {
    pub fn ahead(ahead_ns: u64) -> Wall {
        Wall { ahead_ns: ahead_ns as i64, since_ns: 0, drift_ppm: 0, frozen_until_ns: 0 }
    }

    /// How far ahead of the truth it is.
    pub fn ahead_ns(&self, now_ns: u64) -> i64 {
        let frozen_ns = now_ns.min(self.frozen_until_ns).saturating_sub(self.since_ns) as i64;
        let runs_ns = now_ns.saturating_sub(self.since_ns) as i64 - frozen_ns;
        let drift_ns = i128::from(runs_ns) * i128::from(self.drift_ppm) / 1_000_000;
        (self.ahead_ns - frozen_ns + drift_ns as i64).clamp(-WRONG_NS_MAX, WRONG_NS_MAX)
    }

    fn rebase(&mut self, now_ns: u64) {
        self.ahead_ns = self.ahead_ns(now_ns);
        self.since_ns = now_ns;
    }

    pub fn drift(&mut self, now_ns: u64, ppm: i64) {
        self.rebase(now_ns);
        self.drift_ppm = ppm;
    }

    pub fn step(&mut self, now_ns: u64, step_ns: i64) {
        self.rebase(now_ns);
        self.ahead_ns = (self.ahead_ns + step_ns).clamp(-WRONG_NS_MAX, WRONG_NS_MAX);
    }

    pub fn freeze(&mut self, now_ns: u64, for_ns: u64) {
        self.rebase(now_ns);
        self.frozen_until_ns = now_ns + for_ns;
    }

    /// It goes as it should from now on, from where it is.
    fn heal(&mut self, now_ns: u64) {
        self.rebase(now_ns);
        (self.drift_ppm, self.frozen_until_ns) = (0, now_ns);
    }
}

/// Which clocks go wrong, and how often.
#[derive(Debug)]
pub(super) struct ClockTrouble {
    random: Random,
    wrong: Vec<usize>,
    drifts: bool,
    step_ppm: u64,
    freeze_ppm: u64,
    step_ns_max: u64,
    /// Where monotonic clocks begin.
    pub boots: bool,
    /// How far ahead of the truth any clock ever was.
    farthest_ns: i64,
}

impl ClockTrouble {
    pub fn none(random: Random) -> ClockTrouble {
        ClockTrouble {
            random,
            wrong: Vec::new(),
            drifts: false,
            step_ppm: 0,
            freeze_ppm: 0,
            step_ns_max: 0,
            boots: false,
            farthest_ns: 0,
        }
    }

    pub fn draw(mut random: Random, members: usize) -> ClockTrouble {
        let first = random.index(members);
        let wrong = match random.below(4) {
            0 => 0,
            1 | 2 => (members - 1) / 2,
            _ => members,
        };
        let hour_ns = 3_600 * SECOND_NS;
        ClockTrouble {
            wrong: (0..wrong).map(|more| (first + more) % members).collect(),
            drifts: random.coin(),
            step_ppm: *random.pick(&[0, 5_000, 40_000]),
            freeze_ppm: *random.pick(&[0, 5_000, 40_000]),
            step_ns_max: *random.pick(&[500 * MILLISECOND_NS, 60 * SECOND_NS, 12 * hour_ns]),
            boots: random.coin(),
            farthest_ns: 0,
            random,
        }
    }

    /// What the monotonic clock of a new process shows.
    pub fn monotonic_at_boot(&mut self) -> u64 {
        let from_ns = self.random.range(0, 1_000 * SECOND_NS);
        if self.boots { 1 + from_ns } else { 1 }
    }
}

impl Cluster {
    /// What time it is for clients, whose clocks are right.
    pub(super) fn true_ms(&self) -> u64 {
        Timestamp(EPOCH_NS + self.now_ns).as_ms()
    }

    /// Clocks that go wrong begin to drift.
    pub(super) fn begin_clocks(&mut self) {
        for index in self.clocks.wrong.clone() {
            let ppm = self.clocks.random.signed_range(-50_000, 50_000);
            if self.clocks.drifts && self.board.lets(Switch::ClockDrift) {
                self.members[index].wall.drift(self.now_ns, ppm);
            }
        }
    }

    /// Some of them step or freeze.
    pub(super) fn mislead_clocks(&mut self) {
        let now_ns = self.now_ns;
        for index in self.clocks.wrong.clone() {
            let random = &mut self.clocks.random;
            let (steps, freezes) =
                (random.chance(self.clocks.step_ppm), random.chance(self.clocks.freeze_ppm));
            let step_ns = random.magnitude(self.clocks.step_ns_max) as i64;
            let step_ns = if random.coin() { step_ns } else { -step_ns };
            let freeze_ns = random.range(1, 5_000) * MILLISECOND_NS;
            let wall = &mut self.members[index].wall;
            if self.board.also(Switch::ClockJump, steps) {
                wall.step(now_ns, step_ns);
                self.seen.clock_steps += 1;
                self.trace.note(now_ns, || format!("the clock of {index} steps by {step_ns}"));
                self.recorder.at(now_ns, |timeline| {
                    timeline.fault(index, "clock", format!("steps by {step_ns} ns"));
                });
            }
            if self.board.also(Switch::ClockFreeze, freezes) {
                wall.freeze(now_ns, freeze_ns);
                self.seen.clock_freezes += 1;
                self.trace.note(now_ns, || format!("the clock of {index} freezes"));
                self.recorder.at(now_ns, |timeline| timeline.fault(index, "clock", "freezes"));
            }
        }
        self.note_clocks();
    }

    pub(super) fn heal_clocks(&mut self) {
        self.note_clocks();
        for member in &mut self.members {
            member.wall.heal(self.now_ns);
        }
    }

    fn note_clocks(&mut self) {
        let ahead = self.members.iter().map(|member| member.wall.ahead_ns(self.now_ns)).max();
        self.clocks.farthest_ns = self.clocks.farthest_ns.max(ahead.unwrap_or(0));
    }

    /// No time is made up: what was acknowledged is not later than any clock ever said it was.
    pub(super) fn check_time(&mut self, timestamp_ns: u64) -> Result<(), Failure> {
        self.note_clocks();
        let ahead_ns = timestamp_ns as i64 - (EPOCH_NS + self.now_ns) as i64;
        self.seen.time_ahead_ns = ahead_ns;
        if ahead_ns <= self.clocks.farthest_ns + AHEAD_NS_MAX {
            return Ok(());
        }
        let detail = format!(
            "the cluster's time is {ahead_ns} ns ahead, no clock was more than {}",
            self.clocks.farthest_ns
        );
        Err(Failure::new(FailureKind::Wrong, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::Wall;

    #[test]
    fn a_wall_clock_steps_drifts_and_freezes() {
        let mut wall = Wall::ahead(100);
        assert_eq!(wall.ahead_ns(1_000), 100);
        wall.step(1_000, -600);
        assert_eq!(wall.ahead_ns(2_000), -500);
        wall.drift(2_000, 50_000);
        assert_eq!(wall.ahead_ns(3_000), -450);
        wall.freeze(3_000, 400);
        assert_eq!(wall.ahead_ns(3_300), -750);
        assert_eq!(wall.ahead_ns(4_400), -800);
        wall.heal(4_400);
        assert_eq!(wall.ahead_ns(9_000), -800);
    }
}
