//! Verdicts as text and as JSON.

use std::cell::RefCell;
use std::time::Instant;

use serde_json::{Value, json};
use verity_sim::overrides::Switch;
use verity_sim::report::Report;
use verity_sim::zoo_checks::Check;

use crate::Arguments;
use crate::child::Spec;
use crate::timeline;

thread_local! {
    /// What a panic hook needs to print a verdict.
    static ASKED: RefCell<Option<(Arguments, Instant)>> = const { RefCell::new(None) };
}

pub fn remember(arguments: &Arguments, started: Instant) {
    ASKED.with(|asked| *asked.borrow_mut() = Some((arguments.clone(), started)));
}

/// Called where a panic ends the process: prints the verdict and ends it with 1.
pub fn last_word(report: Report) {
    let asked = ASKED.with(|asked| asked.borrow().clone());
    if let Some((arguments, started)) = asked {
        let seconds = started.elapsed().as_secs_f64();
        if arguments.worker {
            println!("{}", report_json(&report, seconds));
        } else {
            print_report(&report, &arguments, seconds);
            if !write_timeline(&report, &arguments) {
                std::process::exit(2);
            }
        }
    }
    std::process::exit(1);
}

/// Writes the page of a run when one was asked for; false when it could not be written.
pub fn write_timeline(report: &Report, arguments: &Arguments) -> bool {
    let Some(path) = &arguments.timeline else { return true };
    match timeline::write(path, report, arguments) {
        Ok(()) => {
            eprintln!("timeline: {}", path.display());
            true
        }
        Err(error) => {
            eprintln!("vopr: {}: {error}", path.display());
            false
        }
    }
}

pub fn report_json(report: &Report, seconds: f64) -> Value {
    json!({
        "seed": report.seed,
        "ok": report.ok(),
        "failure": report.failure.as_ref().map(ToString::to_string),
        "failure_kind": report.failure.as_ref().map(|failure| failure.kind.name()),
        "trace_hash": report.trace_hash_hex(),
        "ticks": report.ticks,
        "sim_seconds": report.sim_ns as f64 / 1e9,
        "wall_seconds": seconds,
        "faults": report.faults,
        "crashes": report.crashes,
        "crashes_in_flight": report.crashes_in_flight,
        "restarts": report.restarts,
        "halts": report.halts,
        "commits": report.commits,
        "requests": report.requests,
        "asked": report.asked,
        "refusals": report.refusals,
        "reads": report.reads,
        "commitments": report.commitments,
        "orders": report.orders,
        "reused_ids": report.reused_ids,
        "proofs": report.proofs,
        "rebuilds": report.rebuilds,
        "doubts": report.doubts,
        "oracles": report.oracles.values().sum::<u64>(),
        "damage_detected": report.damage_detected,
        "met": report.met.map(|met| met.iter().map(Switch::name).collect::<Vec<_>>()),
        "events_seen": report.events_seen,
        "event_counts": report.event_counts,
    })
}

pub fn print_report(report: &Report, arguments: &Arguments, seconds: f64) {
    for line in &report.lines {
        eprintln!("{line}");
    }
    if arguments.json {
        let mut value = report_json(report, seconds);
        if !report.ok() {
            value["replay"] = Value::from(replay_command(report.seed, arguments));
        }
        println!("{value}");
        return;
    }
    let faults: u64 = report.faults.values().sum();
    println!(
        "seed {}: {} commits of {} requests, {} reads, {} crashes, {faults} faults, {:.1} s \
         simulated in {seconds:.2} s, trace {}",
        report.seed,
        report.commits,
        report.requests,
        report.reads,
        report.crashes,
        report.sim_ns as f64 / 1e9,
        &report.trace_hash_hex()[..16],
    );
    match (&report.failure, &report.damage_detected) {
        (Some(failure), _) => {
            println!("FAILED {failure}");
            println!("replay: {}", replay_command(report.seed, arguments));
        }
        (None, Some(damage)) => println!("ok: damage was detected ({damage})"),
        (None, None) => println!("ok"),
    }
}

/// The one command that shows a failure again.
pub fn replay_command(seed: u64, arguments: &Arguments) -> String {
    replay_command_of(&Spec::of(seed, arguments))
}

pub fn replay_command_of(spec: &Spec) -> String {
    let zoo = match spec.bug {
        Some(_) => "RUSTFLAGS='--cfg verity_zoo' CARGO_TARGET_DIR=target/zoo ",
        None => "",
    };
    let flags: String = spec.flags().iter().map(|flag| format!(" {flag}")).collect();
    let run = format!("{zoo}cargo run --release -p vopr -- --seed {}{flags}", spec.seed);
    at_commit(commit(), &run)
}

/// The command on the code that this binary was built from, as far as that is known.
fn at_commit(commit: Option<&str>, run: &str) -> String {
    match commit.map(|commit| (commit, commit.strip_suffix("-dirty"))) {
        None => run.to_owned(),
        Some((commit, None)) => format!("git checkout {commit} && {run}"),
        Some((_, Some(commit))) => {
            format!("git checkout {commit} && {run} # built with changes that are in no commit")
        }
    }
}

/// What this binary was built from, with `-dirty` behind it if not from that alone; `None`: nobody
/// knew when it was built.
pub fn commit() -> Option<&'static str> {
    Some(env!("VOPR_COMMIT")).filter(|commit| !commit.is_empty())
}

pub fn print_check(check: &Check, failure: Option<&String>, json: bool) {
    if json {
        println!("{}", json!({"check": check.name, "ok": failure.is_none(), "failure": failure}));
        return;
    }
    match failure {
        None => println!("held   {:20} {}", check.name, check.demands),
        Some(failure) => println!("FAILED {:20} {failure}", check.name),
    }
}

pub fn print_zoo(json: bool) {
    let bugs = zoo();
    if json {
        let list: Vec<Value> = bugs
            .iter()
            .map(|(name, description)| json!({"name": name, "description": description}))
            .collect();
        println!("{}", Value::from(list));
        return;
    }
    for (name, description) in bugs {
        println!("{name:32} {description}");
    }
}

#[cfg(verity_zoo)]
pub fn zoo() -> Vec<(&'static str, &'static str)> {
    verity_sim::zoo::BUGS.iter().map(|bug| (bug.name, bug.description)).collect()
}

#[cfg(not(verity_zoo))]
pub fn zoo() -> Vec<(&'static str, &'static str)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::at_commit;

    #[test]
    fn a_replay_names_the_commit_that_was_built() {
        assert_eq!(at_commit(None, "run"), "run");
        assert_eq!(at_commit(Some("0123abc"), "run"), "git checkout 0123abc && run");
        let dirty = at_commit(Some("0123abc-dirty"), "run");
        assert!(dirty.starts_with("git checkout 0123abc && run # "), "{dirty}");
    }
}
