//! Virtual time: a monotonic clock that only the simulator moves, and a wall clock that lies.
//!
//! Fault model: the wall clock drifts, jumps forward and back, and freezes; the monotonic clock of
//! a process starts at an arbitrary value at each boot and never goes back.

use verity_core::time::{Clock, Instant, MILLISECOND_NS, SECOND_NS, Timestamp};

use crate::overrides::{Board, Switch, Switches};
use crate::random::Random;

/// 2026-01-01T00:00:00Z.
const EPOCH_NS: u64 = 1_767_225_600 * SECOND_NS;

/// How the wall clock misbehaves, drawn per run.
#[derive(Clone, Copy, Debug)]
pub struct ClockFaults {
    /// Parts per million that the wall clock runs too fast or too slow.
    pub drift_ppm: i64,
    /// Chance, in a million, of a jump or freeze at each call of [`SimClock::misbehave`].
    pub jump_ppm: u64,
    pub freeze_ppm: u64,
    /// Largest jump, either way.
    pub jump_ns_max: u64,
}

impl ClockFaults {
    pub const NONE: ClockFaults =
        ClockFaults { drift_ppm: 0, jump_ppm: 0, freeze_ppm: 0, jump_ns_max: 0 };
}

#[derive(Debug)]
pub struct SimClock {
    random: Random,
    faults: ClockFaults,
    board: Board,
    /// True time since the start of the run; the order of all things.
    now_ns: u64,
    /// What the process's monotonic clock said at its boot, minus true time then.
    boot_offset_ns: u64,
    wall_ns: u64,
    frozen_until_ns: u64,
    jumps: u64,
    freezes: u64,
}

impl SimClock {
    #[must_use]
    pub fn new(mut random: Random, faults: ClockFaults) -> SimClock {
        let wall_ns = EPOCH_NS + random.range(0, 365 * 24 * 3600) * SECOND_NS;
        SimClock {
            random,
            faults,
            board: Board::default(),
            now_ns: 0,
            boot_offset_ns: 0,
            wall_ns,
            frozen_until_ns: 0,
            jumps: 0,
            freezes: 0,
        }
    }

    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What a process sees.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock {
            monotonic: Instant(self.boot_offset_ns + self.now_ns),
            wall: Timestamp(self.wall_ns),
        }
    }

    /// True time at which the process's monotonic clock shows `instant`.
    #[must_use]
    pub fn true_time_of(&self, instant: Instant) -> u64 {
        instant.0.saturating_sub(self.boot_offset_ns)
    }

    /// Moves true time forward; going back is a bug of the simulator.
    pub fn advance_to(&mut self, now_ns: u64) {
        assert!(now_ns >= self.now_ns, "true time never goes back");
        let elapsed = now_ns - self.now_ns;
        self.now_ns = now_ns;
        if self.now_ns < self.frozen_until_ns {
            return;
        }
        let drift_ppm = match self.faults.drift_ppm {
            0 => 0,
            ppm if self.board.lets(Switch::ClockDrift) => ppm,
            _ => 0,
        };
        let drift = i128::from(elapsed) * i128::from(drift_ppm) / 1_000_000;
        let step = (i128::from(elapsed) + drift).max(0) as u64;
        self.wall_ns = self.wall_ns.saturating_add(step);
    }

    /// A new process: its monotonic clock starts elsewhere.
    pub fn reboot(&mut self) {
        self.boot_offset_ns = self.random.range(0, 1_000 * SECOND_NS);
    }

    /// Perhaps jumps or freezes the wall clock. Returns what it did, for the trace.
    pub fn misbehave(&mut self) -> Option<&'static str> {
        if self.hits(self.faults.jump_ppm, Switch::ClockJump) {
            let jump = self.random.magnitude(self.faults.jump_ns_max);
            self.jumps += 1;
            if self.random.coin() {
                self.wall_ns = self.wall_ns.saturating_add(jump);
                return Some("clock_jump_forward");
            }
            self.wall_ns = self.wall_ns.saturating_sub(jump).max(EPOCH_NS);
            return Some("clock_jump_back");
        }
        if self.hits(self.faults.freeze_ppm, Switch::ClockFreeze) {
            self.frozen_until_ns = self.now_ns + self.random.range(1, 5_000) * MILLISECOND_NS;
            self.freezes += 1;
            return Some("clock_freeze");
        }
        None
    }

    /// Whether a fault of this rate strikes now. One that is switched off is drawn all the same.
    fn hits(&mut self, ppm: u64, switch: Switch) -> bool {
        ppm > 0 && self.random.chance(ppm) && self.board.lets(switch)
    }

    /// Faults that are drawn and do not happen.
    pub fn switch_off(&mut self, off: Switches) {
        self.board = Board::new(off);
    }

    /// Faults that were drawn, whether they happened or not.
    #[must_use]
    pub fn met(&self) -> Switches {
        self.board.met()
    }

    pub fn set_faults(&mut self, faults: ClockFaults) {
        self.faults = faults;
    }

    /// From now on the wall clock behaves.
    pub fn heal(&mut self) {
        self.faults = ClockFaults::NONE;
        self.frozen_until_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockFaults, SimClock};
    use crate::random::Random;

    #[test]
    fn monotonic_time_never_goes_back_and_wall_time_does() {
        let faults = ClockFaults {
            drift_ppm: 500,
            jump_ppm: 200_000,
            freeze_ppm: 100_000,
            jump_ns_max: 1 << 44,
        };
        let mut clock = SimClock::new(Random::new(3), faults);
        let mut before = clock.clock();
        let mut went_back = false;
        for step in 1..2_000 {
            clock.advance_to(step * 1_000_000);
            clock.misbehave();
            let now = clock.clock();
            assert!(now.monotonic >= before.monotonic);
            went_back |= now.wall < before.wall;
            before = now;
        }
        assert!(went_back);
    }
}
