//! What may be taken away from a run of a seed: kinds of trouble, one by one, and its length.
//!
//! Purpose: a failing run is made smaller while it still fails. Invariants: a run is a function of
//! seed and overrides; without overrides it is the seed's own run, to the last byte. What is
//! switched off is still drawn, and then does not happen, so that a switch whose trouble would not
//! have come changes nothing at all. A bound cuts a run short: up to there it is the same.

use core::fmt;

/// One kind of trouble that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switch {
    Crash,
    /// All nodes at once.
    CrashAll,
    CrashAmidSync,
    /// A node stays away until the others' rings have gone round.
    Absence,
    GracefulRestart,
    Isolate,
    Cut,
    CloseLinks,
    Drop,
    Duplicate,
    Corrupt,
    ReadError,
    WriteError,
    SyncError,
    NoSpace,
    LostWrite,
    TornWrite,
    MisdirectedWrite,
    MisdirectedRead,
    StaleRead,
    Rot,
    LatentError,
    SlowSpell,
    TornAtCrash,
    /// A committed prepare rots at a crash.
    RotOfPrepares,
    ClockJump,
    ClockFreeze,
    ClockDrift,
    EvictEverything,
    Impatience,
    Resend,
    Anonymous,
    After,
    Reuse,
    Ask,
    Prove,
    Oracle,
    Read,
    Rebuild,
    Twin,
    Attest,
    /// A crash waits for a write or a sync to be in flight.
    CrashAmidWrite,
    /// Errors of the disk come as often as a run of many errors has them.
    MoreErrors,
    /// A disk is lost as a whole, and an empty one takes its place.
    LoseDisk,
    /// A disk is put back as it was some time ago.
    OlderDisk,
}

impl Switch {
    pub const ALL: [Switch; 45] = [
        Switch::Crash,
        Switch::CrashAll,
        Switch::CrashAmidSync,
        Switch::Absence,
        Switch::GracefulRestart,
        Switch::Isolate,
        Switch::Cut,
        Switch::CloseLinks,
        Switch::Drop,
        Switch::Duplicate,
        Switch::Corrupt,
        Switch::ReadError,
        Switch::WriteError,
        Switch::SyncError,
        Switch::NoSpace,
        Switch::LostWrite,
        Switch::TornWrite,
        Switch::MisdirectedWrite,
        Switch::MisdirectedRead,
        Switch::StaleRead,
        Switch::Rot,
        Switch::LatentError,
        Switch::SlowSpell,
        Switch::TornAtCrash,
        Switch::RotOfPrepares,
        Switch::ClockJump,
        Switch::ClockFreeze,
        Switch::ClockDrift,
        Switch::EvictEverything,
        Switch::Impatience,
        Switch::Resend,
        Switch::Anonymous,
        Switch::After,
        Switch::Reuse,
        Switch::Ask,
        Switch::Prove,
        Switch::Oracle,
        Switch::Read,
        Switch::Rebuild,
        Switch::Twin,
        Switch::Attest,
        Switch::CrashAmidWrite,
        Switch::MoreErrors,
        Switch::LoseDisk,
        Switch::OlderDisk,
    ];

    /// As it stands on a command line and in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Switch::Crash => "crash",
            Switch::CrashAll => "crash_all",
            Switch::CrashAmidSync => "crash_amid_sync",
            Switch::Absence => "absence",
            Switch::GracefulRestart => "graceful_restart",
            Switch::Isolate => "isolate",
            Switch::Cut => "cut",
            Switch::CloseLinks => "close_links",
            Switch::Drop => "drop",
            Switch::Duplicate => "duplicate",
            Switch::Corrupt => "corrupt",
            Switch::ReadError => "read_error",
            Switch::WriteError => "write_error",
            Switch::SyncError => "sync_error",
            Switch::NoSpace => "no_space",
            Switch::LostWrite => "lost_write",
            Switch::TornWrite => "torn_write",
            Switch::MisdirectedWrite => "misdirected_write",
            Switch::MisdirectedRead => "misdirected_read",
            Switch::StaleRead => "stale_read",
            Switch::Rot => "rot",
            Switch::LatentError => "latent_error",
            Switch::SlowSpell => "slow_spell",
            Switch::TornAtCrash => "torn_at_crash",
            Switch::RotOfPrepares => "rot_of_prepares",
            Switch::ClockJump => "clock_jump",
            Switch::ClockFreeze => "clock_freeze",
            Switch::ClockDrift => "clock_drift",
            Switch::EvictEverything => "evict_everything",
            Switch::Impatience => "impatience",
            Switch::Resend => "resend",
            Switch::Anonymous => "anonymous",
            Switch::After => "after",
            Switch::Reuse => "reuse",
            Switch::Ask => "ask",
            Switch::Prove => "prove",
            Switch::Oracle => "oracle",
            Switch::Read => "read",
            Switch::Rebuild => "rebuild",
            Switch::Twin => "twin",
            Switch::Attest => "attest",
            Switch::CrashAmidWrite => "crash_amid_write",
            Switch::MoreErrors => "more_errors",
            Switch::LoseDisk => "lose_disk",
            Switch::OlderDisk => "older_disk",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Switch> {
        Switch::ALL.into_iter().find(|switch| switch.name() == name)
    }

    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// A set of switches.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches(u64);

impl Switches {
    #[must_use]
    pub fn contains(self, switch: Switch) -> bool {
        self.0 & switch.bit() != 0
    }

    #[must_use]
    pub fn with(self, switch: Switch) -> Switches {
        Switches(self.0 | switch.bit())
    }

    pub fn iter(self) -> impl Iterator<Item = Switch> {
        Switch::ALL.into_iter().filter(move |switch| self.contains(*switch))
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Switch> for Switches {
    fn from_iter<I: IntoIterator<Item = Switch>>(switches: I) -> Switches {
        switches.into_iter().fold(Switches::default(), Switches::with)
    }
}

impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Switch::name)).finish()
    }
}

/// What a run is without, and how long it is at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub off: Switches,
    /// Requests of clients before the faults stop.
    pub requests_max: Option<u64>,
    pub clients_max: Option<u64>,
    /// Of one node.
    pub tenants_max: Option<u64>,
    /// Of a cluster; not below three.
    pub nodes_max: Option<u64>,
}

impl Overrides {
    /// A drawn count under its bound, which is at least `low`.
    #[must_use]
    pub fn bounded(drawn: u64, max: Option<u64>, low: u64) -> u64 {
        drawn.min(max.unwrap_or(u64::MAX).max(low))
    }
}

/// What is off, and what would have come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Board {
    off: Switches,
    met: Switches,
}

impl Board {
    #[must_use]
    pub fn new(off: Switches) -> Board {
        Board { off, met: Switches::default() }
    }

    /// Whether trouble that was drawn happens. Asked only when it was drawn.
    pub fn lets(&mut self, switch: Switch) -> bool {
        self.met = self.met.with(switch);
        !self.off.contains(switch)
    }

    /// As [`Board::lets`], of a draw that may have come out either way.
    pub fn also(&mut self, switch: Switch, drawn: bool) -> bool {
        drawn && self.lets(switch)
    }

    #[must_use]
    pub fn off(&self) -> Switches {
        self.off
    }

    /// Which switches mattered: their trouble was drawn at least once.
    #[must_use]
    pub fn met(&self) -> Switches {
        self.met
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, Overrides, Switch, Switches};

    #[test]
    fn names_are_unique_and_every_switch_has_a_bit_of_its_own() {
        for (at, switch) in Switch::ALL.into_iter().enumerate() {
            assert_eq!(Switch::named(switch.name()), Some(switch));
            assert_eq!(switch as usize, at, "{switch:?} stands in its place");
            assert_eq!(Switches::default().with(switch).iter().collect::<Vec<_>>(), [switch]);
        }
        assert_eq!(Switch::named("weather"), None);
    }

    #[test]
    fn a_board_remembers_what_would_have_come() {
        let mut board = Board::new([Switch::Crash].into_iter().collect());
        assert!(!board.also(Switch::Rot, false));
        assert!(!board.lets(Switch::Crash));
        assert!(board.also(Switch::Drop, true));
        assert_eq!(board.met().iter().collect::<Vec<_>>(), [Switch::Crash, Switch::Drop]);
    }

    #[test]
    fn a_bound_never_raises_and_never_goes_below_the_least() {
        assert_eq!(Overrides::bounded(5, None, 1), 5);
        assert_eq!(Overrides::bounded(5, Some(9), 1), 5);
        assert_eq!(Overrides::bounded(5, Some(2), 3), 3);
        assert_eq!(Overrides::bounded(5, Some(0), 1), 1);
    }
}
