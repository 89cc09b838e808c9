//! What a run of a cluster saw, and its report.

use std::collections::BTreeMap;

use super::run_and_tell;
use crate::overrides::Switches;
use crate::report::Report;
use crate::swarm::Options;
use crate::timeline::Recorder;

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub nodes: u64,
    /// Requests that were drawn and acknowledged.
    pub asked: u64,
    pub acknowledged: u64,
    /// Reads that were answered while the run went on, by what they promise.
    pub reads_linearizable: u64,
    pub reads_causal: u64,
    pub reads_eventual: u64,
    /// Proofs that were checked, those that too few cosigned in time, and what has no proof.
    pub proofs: u64,
    pub proofs_uncosigned: u64,
    pub proofs_refused: u64,
    /// Cosignatures that nodes sent to others, and named heads that were held against the log.
    pub cosignatures: u64,
    pub heads_compared: u64,
    /// Tenants that were created, read on a node in the end.
    pub tenants_read: u64,
    pub crashes: u64,
    pub crashes_in_flight: u64,
    pub cuts: u64,
    pub isolations: u64,
    /// Links that closed, because a process ended or for nothing.
    pub links_closed: u64,
    pub messages: u64,
    pub messages_lost: u64,
    pub messages_doubled: u64,
    pub messages_damaged: u64,
    /// Views that began, on any node.
    pub views: u64,
    pub checkpoints: u64,
    pub truncations: u64,
    pub interrupted: u64,
    /// Damaged sectors of journals, grids and superblocks.
    pub rots: u64,
    /// Pages of grids among them.
    pub pages_rotten: u64,
    /// Blocks of segments among them.
    pub blocks_rotten: u64,
    /// Logs that gave the state of their checkpoint again.
    pub rebuilds: u64,
    /// Processes that ended because their disk refused a write.
    pub disk_stops: u64,
    /// What disks did by themselves, by name.
    pub disk_faults: BTreeMap<&'static str, u64>,
    /// Nodes that stayed away for longer than any ring; checkpoints that were fetched whole, and
    /// processes that ended amid that.
    pub absences: u64,
    pub syncs: u64,
    pub sync_crashes: u64,
    /// Wall clocks that stepped or froze, and how far ahead of the truth the newest answer was.
    pub clock_steps: u64,
    pub clock_freezes: u64,
    pub time_ahead_ns: i64,
    /// Disks that were put back as they were.
    pub older_disks: u64,
    /// Disks that were lost as a whole.
    pub replaced: u64,
    /// Trouble that was drawn, whether it was switched off or not.
    pub met: Switches,
    /// Of all frames, replies and faults, in order.
    pub trace: [u8; 32],
    /// Marks of the core, by name.
    pub events: BTreeMap<&'static str, u64>,
    pub sim_ns: u64,
    pub lines: Vec<String>,
}

impl Seen {
    /// How often a mark of the core was seen.
    #[must_use]
    pub fn event(&self, name: &str) -> u64 {
        self.events.get(name).copied().unwrap_or(0)
    }
}

/// One run as a report, as `vopr` prints it.
#[must_use]
pub fn report(seed: u64, options: &Options, recorder: &Recorder) -> Report {
    let (seen, outcome) = run_and_tell(seed, options, recorder);
    let faults = [
        ("messages lost", seen.messages_lost),
        ("messages doubled", seen.messages_doubled),
        ("messages damaged", seen.messages_damaged),
        ("cuts", seen.cuts),
        ("isolations", seen.isolations),
        ("links closed", seen.links_closed),
        ("absences", seen.absences),
        ("disks lost", seen.replaced),
        ("clock steps", seen.clock_steps),
        ("clock freezes", seen.clock_freezes),
        ("older disks", seen.older_disks),
        ("rots", seen.rots),
        ("disk stops", seen.disk_stops),
    ];
    // Rot is counted above, of whatever file.
    let of_disks = seen.disk_faults.into_iter().filter(|(name, _)| *name != "rot");
    Report {
        seed,
        failure: outcome.err(),
        trace_hash: seen.trace,
        ticks: seen.messages,
        sim_ns: seen.sim_ns,
        faults: faults.into_iter().chain(of_disks).filter(|(_, count)| *count > 0).collect(),
        crashes: seen.crashes,
        crashes_in_flight: seen.crashes_in_flight,
        commits: seen.acknowledged,
        requests: seen.acknowledged,
        reads: seen.reads_linearizable + seen.reads_causal + seen.reads_eventual,
        proofs: seen.proofs,
        proofs_refused: seen.proofs_refused,
        asked: seen.asked,
        met: Some(seen.met),
        rebuilds: seen.rebuilds,
        events_seen: seen.events.keys().copied().collect(),
        event_counts: seen.events,
        lines: seen.lines,
        ..Report::default()
    }
}
