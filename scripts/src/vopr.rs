//! Running seeds of the simulator, as processes, two at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::steps::capture;

/// What `vopr --seed N --json` says, as far as it is used here.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Report {
    pub seed: u64,
    pub ok: bool,
    pub failure: Option<serde_json::Value>,
    pub trace_hash: String,
    pub crashes: u64,
    pub commits: u64,
    pub requests: u64,
}

/// Longest run of one seed. The slowest of clusters take a few seconds, and 25 beside other work.
const SEED_SECONDS_MAX: &str = "90";

/// One run of one seed.
pub fn seed(binary: &Path, seed: u64, more: &[&str]) -> Result<Report, String> {
    // A run that hangs is a failure like any other.
    let mut command = Command::new("timeout");
    command.arg(SEED_SECONDS_MAX).arg(binary);
    command.args(["--seed", &seed.to_string(), "--json"]).args(more);
    let finished = capture(&mut command)?;
    let parsed = finished.output.lines().rev().find(|line| line.starts_with('{'));
    let parsed = parsed.map(serde_json::from_str::<Report>);
    match (finished.code, parsed) {
        (Some(0), Some(Ok(report))) if report.ok => Ok(report),
        (Some(1), Some(Ok(report))) if !report.ok => Ok(report),
        // A panic is caught too: the process dies of it, with no report.
        (code, _) if code != Some(0) && code != Some(2) => {
            let failure = finished.errors.lines().last().unwrap_or("died").to_string();
            Ok(Report { seed, failure: Some(failure.into()), ..Report::default() })
        }
        (code, _) => Err(format!(
            "vopr --seed {seed} ended with {code:?} and no verdict:\n{}{}",
            finished.output, finished.errors
        )),
    }
}

/// Runs seeds `first..` until `count` ran or the time is over; all that ran must hold, and half of
/// `count` must have run. Returns how many did. `count` of `u64::MAX`: as many as there is time
/// for. `more`: other arguments of each.
pub fn hold(
    binary: &Path,
    first: u64,
    count: u64,
    budget: Duration,
    more: &[&str],
) -> Result<u64, String> {
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let done = AtomicU64::new(0);
    let (commits, crashes) = (AtomicU64::new(0), AtomicU64::new(0));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && started.elapsed() < budget {
                    let this = next.fetch_add(1, Ordering::Relaxed);
                    if this >= first.saturating_add(count) {
                        break;
                    }
                    let verdict = match seed(binary, this, more) {
                        Ok(report) if report.ok => {
                            commits.fetch_add(report.commits, Ordering::Relaxed);
                            crashes.fetch_add(report.crashes, Ordering::Relaxed);
                            done.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Ok(report) => {
                            let why = report.failure.unwrap_or_default();
                            let more = more.join(" ");
                            format!("seed {this}: {why}; replay: vopr --seed {this} {more}")
                        }
                        Err(error) => error,
                    };
                    stop.store(true, Ordering::Relaxed);
                    if let Ok(mut failures) = failures.lock() {
                        failures.push(verdict);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    let done = done.into_inner();
    let of = if count == u64::MAX { String::new() } else { format!(" of {count}") };
    println!(
        "{done}{of} seeds from {first} held in {:.0} s: {} commits, {} crashes",
        started.elapsed().as_secs_f64(),
        commits.into_inner(),
        crashes.into_inner(),
    );
    if failures.is_empty() { enough(done, count) } else { Err(failures.join("\n")) }
}

/// Whether so many of the seeds that were asked for say anything.
fn enough(done: u64, count: u64) -> Result<u64, String> {
    match (done, count) {
        (0, _) => Err("no seed ran to its end in time".to_string()),
        (done, u64::MAX) => Ok(done),
        (done, count) if done < count.div_ceil(2) => {
            Err(format!("only {done} of {count} seeds ran to their end in time"))
        }
        (done, _) => Ok(done),
    }
}

/// The same seeds in two builds must leave the same trace.
pub fn same_traces(one: &Path, other: &Path, seeds: &[u64]) -> Result<u64, String> {
    let mut hashes: BTreeMap<u64, String> = BTreeMap::new();
    for (binary, first) in [(one, true), (other, false)] {
        for this in seeds {
            let report = seed(binary, *this, &[])?;
            if report.trace_hash.is_empty() {
                return Err(format!("seed {this} left no trace hash: {:?}", report.failure));
            }
            if first {
                hashes.insert(*this, report.trace_hash);
            } else if hashes.get(this) != Some(&report.trace_hash) {
                let before = hashes.get(this);
                return Err(format!("seed {this}: {before:?} is now {}", report.trace_hash));
            }
        }
    }
    Ok(seeds.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::enough;

    #[test]
    fn a_step_of_many_seeds_does_not_hold_for_one() {
        assert_eq!(enough(100, 100), Ok(100));
        assert_eq!(enough(50, 100), Ok(50));
        assert_eq!(enough(1, 1), Ok(1));
        assert_eq!(enough(1, u64::MAX), Ok(1));
        assert!(enough(49, 100).is_err_and(|why| why.contains("49 of 100")));
        assert!(enough(1, 100).is_err());
        assert!(enough(0, u64::MAX).is_err());
    }
}
