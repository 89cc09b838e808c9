//! `cargo x chaos`: three real processes, hurt as seeds say, for minutes or hours.
//!
//! The rounds are a test (`shell/tests/it/cluster/chaos.rs`); this runs it, sums up what its rounds
//! say, and ends with 0 if all held, 1 if one did not, 2 if nobody could tell.

use serde_json::{Map, Value, json};

use crate::steps::{capture, cargo, run as run_command, scratch};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub minutes: u64,
    /// The seed of the first round; each further round has the next one.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// The summary as one object.
    #[arg(long)]
    pub json: bool,
    /// An optimised build; else that of an ordinary `cargo test`.
    #[arg(long)]
    pub release: bool,
    /// Something wrong on purpose, which must be seen: `eventual-reads` (clients believe any
    /// replica) or `forgotten-writes` (all three directories are put back as they were before).
    #[arg(long, value_name = "NAME")]
    pub plant: Option<String>,
    /// Only these faults, by name: `KillPrimary,ClockStep`.
    #[arg(long, value_name = "NAMES")]
    pub only: Option<String>,
    /// With the features of `cargo test --workspace`: where that was built, nothing is built anew.
    #[arg(skip)]
    pub workspace: bool,
}

pub fn run(options: &Options) -> Result<bool, String> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_secs());
    let seed = options.seed.unwrap_or(now);
    let report = scratch("chaos")?.join("rounds.jsonl");
    let mut command = cargo(&["test", "--quiet", "--test", "it"]);
    command.arg(if options.workspace { "--workspace" } else { "--package=verity" });
    command.args(options.release.then_some("--release"));
    command.args(["--", "--ignored", "--exact", "cluster::chaos::for_minutes", "--nocapture"]);
    command.env("VERITY_CHAOS_SECONDS", (options.minutes * 60).to_string());
    command.env("VERITY_CHAOS_SEED", seed.to_string());
    command.env("VERITY_CHAOS_REPORT", &report);
    if let Some(plant) = &options.plant {
        command.env("VERITY_CHAOS_PLANT", plant);
    }
    if let Some(only) = &options.only {
        command.env("VERITY_CHAOS_ONLY", only);
    }
    // What is read by programs has nothing else beside it.
    let ended = match options.json {
        true => match capture(&mut command)? {
            finished if finished.code == Some(0) => Ok(()),
            finished => Err(finished.errors),
        },
        false => run_command(&mut command),
    };
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let rounds: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}")))
        .collect::<Result<_, String>>()?;
    let summary = summed(&rounds);
    match options.json {
        true => println!("{summary}"),
        false => println!("chaos from seed {seed}: {summary:#}"),
    }
    let count = |name: &str| summary[name].as_u64().unwrap_or(0);
    match (count("broken"), count("could_not_tell"), ended) {
        (1.., ..) => Ok(false),
        (0, 1.., _) => Err("a history was too much for the checker".to_string()),
        (0, 0, Err(error)) => Err(error),
        (0, 0, Ok(())) if rounds.is_empty() => Err("no round ran".to_string()),
        (0, 0, Ok(())) => Ok(true),
    }
}

/// Figures of all rounds together.
fn summed(rounds: &[Value]) -> Value {
    let verdicts = |name: &str| rounds.iter().filter(|round| round["verdict"] == name).count();
    let sum = |name: &str| rounds.iter().filter_map(|round| round[name].as_u64()).sum::<u64>();
    let worst =
        |name: &str| rounds.iter().filter_map(|round| round[name].as_f64()).fold(0.0, f64::max);
    let each = |name: &str| {
        let mut all = Map::new();
        for (key, count) in rounds.iter().filter_map(|round| round[name].as_object()).flatten() {
            let before = all.get(key).and_then(Value::as_u64).unwrap_or(0);
            all.insert(key.clone(), (before + count.as_u64().unwrap_or(0)).into());
        }
        all
    };
    let broken: Vec<&Value> = rounds.iter().filter(|round| round["verdict"] != "holds").collect();
    json!({
        "rounds": rounds.len(),
        "held": verdicts("holds"),
        "broken": verdicts("broken"),
        "could_not_tell": verdicts("could_not_tell"),
        "operations": sum("operations"),
        "unknown": sum("unknown"),
        "told_later": sum("told_later"),
        "refused": each("refused"),
        "rows": sum("rows"),
        "faults": each("faults"),
        "felt": each("felt"),
        "ended_by_themselves": sum("ended_by_themselves"),
        "longest_stall_s": worst("longest_stall_s"),
        "slowest_convergence_s": worst("converged_s"),
        "slowest_check_s": worst("checked_s"),
        "grid_pages_not_found_yet": sum("grid_pages_not_found_yet"),
        "not_held": broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_summed_up() {
        let held = json!({ "verdict": "holds", "operations": 3, "faults": { "Cut": 2 },
            "longest_stall_s": 0.5 });
        let broken = json!({ "verdict": "broken", "seed": 9, "why": "lost" });
        let summary = summed(&[held.clone(), held, broken.clone()]);
        assert_eq!((&summary["held"], &summary["broken"]), (&json!(2), &json!(1)));
        assert_eq!((&summary["operations"], &summary["faults"]["Cut"]), (&json!(6), &json!(4)));
        assert_eq!(summary["longest_stall_s"], json!(0.5));
        assert_eq!(summary["not_held"], json!([broken]));
    }
}
