//! What many runs add up to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Counters of a verdict.
const SUMMED: [&str; 16] = [
    "crashes",
    "crashes_in_flight",
    "restarts",
    "halts",
    "commits",
    "requests",
    "asked",
    "refusals",
    "reads",
    "commitments",
    "orders",
    "reused_ids",
    "proofs",
    "rebuilds",
    "doubts",
    "oracles",
];

/// Those of them that runs of a cluster count; there the others are always zero.
const OF_CLUSTERS: [&str; 5] = ["crashes", "crashes_in_flight", "commits", "asked", "rebuilds"];

#[derive(Default)]
pub struct Summary {
    pub seeds: u64,
    pub failures: Vec<Value>,
    pub sums: BTreeMap<&'static str, u64>,
    pub sim_seconds: f64,
    /// Of all runs, each on its core.
    run_seconds: f64,
    pub faults: u64,
    faults_by_name: BTreeMap<String, u64>,
    events: BTreeMap<String, u64>,
    /// Runs that saw a mark at least so often.
    wrapped_after_checkpoints: u64,
    pub damage_detected: u64,
}

impl Summary {
    pub fn add(&mut self, verdict: &Value) {
        self.seeds += 1;
        for name in SUMMED {
            *self.sums.entry(name).or_default() += verdict[name].as_u64().unwrap_or(0);
        }
        self.sim_seconds += verdict["sim_seconds"].as_f64().unwrap_or(0.0);
        self.run_seconds += verdict["wall_seconds"].as_f64().unwrap_or(0.0);
        for (name, count) in counts(&verdict["faults"]) {
            self.faults += count;
            *self.faults_by_name.entry(name.to_owned()).or_default() += count;
        }
        for (name, count) in counts(&verdict["event_counts"]) {
            *self.events.entry(name.to_owned()).or_default() += count;
        }
        let events = &verdict["event_counts"];
        let at_least = |name: &str, least| events[name].as_u64().unwrap_or(0) >= least;
        let went_round = at_least("CheckpointDurable", 3) && at_least("JournalWrapped", 1);
        self.wrapped_after_checkpoints += u64::from(went_round);
        self.damage_detected += u64::from(!verdict["damage_detected"].is_null());
        if verdict["ok"] != json!(true) {
            self.failures.push(verdict.clone());
        }
    }

    pub fn events_not_seen(&self) -> Vec<&'static str> {
        let seen: BTreeSet<&str> = self.events.keys().map(String::as_str).collect();
        let all = verity_sim::event_names().iter().copied();
        all.filter(|name| !seen.contains(name)).collect()
    }

    /// Means of what was counted, per seed and per minute of one core. What is not counted is not
    /// here: pages that a write dirties, for one. In a cluster a mark is counted by every node.
    pub fn density(&self, cluster: bool) -> Value {
        let mut per_seed = Map::new();
        let mut per_minute = Map::new();
        let prepares = self.events.get("PrepareProposed").copied().unwrap_or(0);
        let checkpoints = self.events.get("CheckpointDurable").copied().unwrap_or(0);
        let more = [
            ("faults", self.faults),
            ("prepares_proposed", prepares),
            ("checkpoints", checkpoints),
        ];
        let sums = self.sums.iter().map(|(name, sum)| (*name, *sum));
        let sums = sums.filter(|(name, _)| !cluster || OF_CLUSTERS.contains(name));
        for (name, sum) in sums.chain(more) {
            let mean = sum as f64 / self.seeds.max(1) as f64;
            per_seed.insert(name.to_owned(), json!(mean));
            let rate = sum as f64 * 60.0 / self.run_seconds.max(1e-9);
            per_minute.insert(name.to_owned(), json!(rate));
        }
        let share = self.wrapped_after_checkpoints as f64 / self.seeds.max(1) as f64;
        json!({
            "per_seed": per_seed,
            "per_core_minute": per_minute,
            "three_checkpoints_and_wrap": (!cluster).then_some(share),
        })
    }

    pub fn events_seen(&self) -> &BTreeMap<String, u64> {
        &self.events
    }

    pub fn faults_by_name(&self) -> &BTreeMap<String, u64> {
        &self.faults_by_name
    }
}

fn counts(map: &Value) -> impl Iterator<Item = (&str, u64)> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)))
}

#[cfg(test)]
mod tests {
    use super::Summary;
    use serde_json::json;

    #[test]
    fn means_are_of_all_seeds_and_marks_are_all_or_not_seen() {
        let mut summary = Summary::default();
        summary.add(&json!({
            "ok": true, "commits": 30, "crashes": 2, "wall_seconds": 2.0, "sim_seconds": 5.0,
            "faults": {"rot": 3, "cuts": 1},
            "event_counts": {"CheckpointDurable": 3, "JournalWrapped": 1, "PrepareProposed": 8},
        }));
        summary
            .add(&json!({"ok": false, "commits": 10, "wall_seconds": 2.0, "faults": {"rot": 1}}));
        let density = summary.density(false);
        assert_eq!(density["per_seed"]["commits"], json!(20.0));
        assert_eq!(density["per_core_minute"]["commits"], json!(600.0));
        assert_eq!(density["per_seed"]["faults"], json!(2.5));
        assert_eq!(density["per_seed"]["prepares_proposed"], json!(4.0));
        assert_eq!(density["three_checkpoints_and_wrap"], json!(0.5));
        assert!(summary.density(true)["per_seed"]["reads"].is_null(), "nobody counts them there");
        assert!(summary.density(true)["three_checkpoints_and_wrap"].is_null());
        assert_eq!(summary.failures.len(), 1);
        let (seen, not_seen) = (summary.events_seen().len(), summary.events_not_seen().len());
        assert_eq!(seen + not_seen, verity_sim::event_names().len());
        assert!(!summary.events_not_seen().contains(&"JournalWrapped"));
    }
}
