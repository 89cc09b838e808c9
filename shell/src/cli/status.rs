//! `verity status --connect`: how every replica of a cluster stands.

use std::time::Duration;

use serde_json::{Value as Json, json};
use verity::{Error, ReplicaReport, replica_report};

use super::args::StatusArgs;
use super::{Failure, Outcome, Output};

/// How long one replica is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub fn run(args: &StatusArgs, output: &Output) -> Outcome {
    let asked: Vec<(String, Result<ReplicaReport, Error>)> = std::thread::scope(|scope| {
        let ask = |address: &String| {
            let address = address.clone();
            scope.spawn(move || {
                let report = replica_report(&address, ANSWER_MAX);
                (address, report)
            })
        };
        let threads: Vec<_> = args.connect.iter().map(ask).collect();
        let panicked = || unreachable!("a thread that asks does not panic");
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    let commit = |(_, report): &(String, Result<ReplicaReport, Error>)| {
        report.as_ref().ok().map(|report| report.commit.get())
    };
    let commit_max = asked.iter().filter_map(commit).max().unwrap_or(0);
    output.line(format!(
        "{:<24} {:>7}  {:<16} {:>6} {:>7} {:>12} {:>12} {:>12} {:>8}",
        "address", "replica", "health", "view", "primary", "op", "commit", "checkpoint", "lag"
    ));
    let (mut answers, mut leads) = (0, false);
    for (address, report) in &asked {
        match report {
            Ok(report) => {
                answers += 1;
                leads |= report.phase == "primary";
                show(address, report, commit_max, output);
            }
            Err(error) => {
                let error = error.to_string();
                output.object(&json!({"address": address, "health": "silent", "error": error}));
                output.line(format!("{address:<24} {:>7}  silent: {error}", "?"));
            }
        }
    }
    if answers == asked.len() && leads {
        return Ok(());
    }
    let why = if leads { "some replicas do not answer" } else { "nobody leads" };
    output.note(why);
    Err(Failure::Told(1))
}

fn show(address: &str, report: &ReplicaReport, commit_max: u64, output: &Output) {
    let lag = commit_max.saturating_sub(report.applied.get());
    let links = report.links.iter().map(|link| {
        json!({
            "replica": link.replica.get(),
            "connected": link.connected,
            "dropped": link.dropped,
        })
    });
    output.object(&json!({
        "address": address,
        "cluster": format!("{:032x}", report.cluster.get()),
        "replica": report.replica.get(),
        "replica_count": report.replica_count,
        "release": report.release.get(),
        "health": report.phase,
        "view": report.view.get(),
        "primary": report.primary.map(|primary| primary.get()),
        "op": report.op.get(),
        "commit": report.commit.get(),
        "applied": report.applied.get(),
        "checkpoint": report.checkpoint.get(),
        "generation": report.generation.get(),
        "lag": lag,
        "missing": report.missing.map(|op| op.get()),
        "free_bytes": report.free_bytes,
        "links": links.collect::<Vec<Json>>(),
    }));
    let primary = report.primary.map_or("?".to_string(), |primary| primary.to_string());
    output.line(format!(
        "{address:<24} {:>7}  {:<16} {:>6} {primary:>7} {:>12} {:>12} {:>12} {lag:>8}",
        report.replica.get(),
        report.phase,
        report.view.get(),
        report.op.get(),
        report.commit.get(),
        report.checkpoint.get(),
    ));
    if let Some(op) = report.missing {
        output.line(format!("    no reachable replica has op {op}"));
    }
}
