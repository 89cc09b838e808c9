//! What a run says about itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::overrides::Switches;
use crate::timeline::Timeline;

/// What went wrong. The kind is stable: campaigns group failures by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// An assertion of the core (or of the simulator) failed.
    Panic,
    /// The core broke the contract of the boundary.
    Misuse,
    /// An answer, refusal or position that the model does not give.
    Wrong,
    /// Something acknowledged is not there any more.
    Lost,
    /// Log, chain, tree or records do not hold.
    Log,
    /// Plaintext of a tenant reached a disk.
    Canary,
    /// A nonce was used twice under one key.
    Nonce,
    /// State rebuilt from the log differs from the live one.
    Rebuild,
    /// Two nodes with the same ops differ in their bytes.
    Twin,
    /// The node gave up although nothing unrecoverable was damaged.
    Halted,
    /// No progress though faults stopped.
    Stuck,
    /// A budget of memory or of buffers was passed.
    Budget,
    /// The same seed gave two traces.
    Nondeterminism,
}

impl FailureKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Panic => "panic",
            FailureKind::Misuse => "misuse",
            FailureKind::Wrong => "wrong",
            FailureKind::Lost => "lost",
            FailureKind::Log => "log",
            FailureKind::Canary => "canary",
            FailureKind::Nonce => "nonce",
            FailureKind::Rebuild => "rebuild",
            FailureKind::Twin => "twin",
            FailureKind::Halted => "halted",
            FailureKind::Stuck => "stuck",
            FailureKind::Budget => "budget",
            FailureKind::Nondeterminism => "nondeterminism",
        }
    }
}

impl Failure {
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Failure {
        Failure { kind, detail: detail.into() }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub failure: Option<Failure>,
    pub trace_hash: [u8; 32],
    /// Inputs given to the core.
    pub ticks: u64,
    pub sim_ns: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub crashes: u64,
    /// Crashes that hit writes in flight.
    pub crashes_in_flight: u64,
    pub restarts: u64,
    pub halts: u64,
    /// Transactions acknowledged.
    pub commits: u64,
    pub requests: u64,
    /// Requests that were drawn before the faults stopped: what a bound of them counts.
    pub asked: u64,
    pub refusals: u64,
    pub reads: u64,
    /// Lookups of idempotency ids that were answered.
    pub commitments: u64,
    /// Requests that named another one to follow, and whose order was checked.
    pub orders: u64,
    /// Other requests under a used id that were refused as such.
    pub reused_ids: u64,
    /// Proofs that were answered, checked, and tried to be forged.
    pub proofs: u64,
    /// Proofs of what has none.
    pub proofs_refused: u64,
    /// Comparisons of the live state with one rebuilt from the logs.
    pub rebuilds: u64,
    /// Oracles that were asked, by name.
    pub oracles: BTreeMap<&'static str, u64>,
    /// Transactions without an id whose fate the log had to tell.
    pub doubts: u64,
    /// Trouble that was drawn, whether it was switched off or not; unknown where a panic ended all.
    pub met: Option<Switches>,
    pub events_seen: BTreeSet<&'static str>,
    pub event_counts: BTreeMap<&'static str, u64>,
    /// A run in damage mode ended because the damage was detected.
    pub damage_detected: Option<String>,
    pub lines: Vec<String>,
    /// When it was asked for.
    pub timeline: Option<Box<Timeline>>,
}

impl Report {
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failure.is_none()
    }

    #[must_use]
    pub fn trace_hash_hex(&self) -> String {
        self.trace_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
