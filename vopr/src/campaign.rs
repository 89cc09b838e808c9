//! Many seeds: worker processes, a summary, and how long a deliberate bug lives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Arguments, output, run_seed};

/// Seeds a worker is given at once.
const CHUNK: u64 = 16;

/// A worker: one JSON line for each seed; ends at the first failure.
pub fn work(arguments: &Arguments) -> ExitCode {
    let (from, to) = arguments.seeds.unwrap_or((0, 1));
    for seed in from..to {
        let started = Instant::now();
        output::remember(arguments, started);
        verity_sim::run::install_hook(output::last_word);
        let report = run_seed(seed, arguments);
        println!("{}", output::report_json(&report, started.elapsed().as_secs_f64()));
        let _ = std::io::stdout().flush();
        if !report.ok() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Summary {
    seeds: u64,
    failures: Vec<Value>,
    sums: BTreeMap<&'static str, u64>,
    sim_seconds: f64,
    faults: u64,
    events: BTreeMap<String, u64>,
    damage_detected: u64,
}

const SUMMED: [&str; 14] = [
    "crashes",
    "crashes_in_flight",
    "halts",
    "commits",
    "requests",
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

impl Summary {
    fn add(&mut self, verdict: &Value) {
        self.seeds += 1;
        for name in SUMMED {
            *self.sums.entry(name).or_default() += verdict[name].as_u64().unwrap_or(0);
        }
        self.sim_seconds += verdict["sim_seconds"].as_f64().unwrap_or(0.0);
        if let Some(faults) = verdict["faults"].as_object() {
            self.faults += faults.values().filter_map(Value::as_u64).sum::<u64>();
        }
        if let Some(events) = verdict["event_counts"].as_object() {
            for (name, count) in events {
                *self.events.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        self.damage_detected += u64::from(!verdict["damage_detected"].is_null());
        if verdict["ok"] != json!(true) {
            self.failures.push(verdict.clone());
        }
    }

    fn events_not_seen(&self) -> Vec<&'static str> {
        let seen: BTreeSet<&str> = self.events.keys().map(String::as_str).collect();
        let all = verity_sim::event_names().iter().copied();
        all.filter(|name| !seen.contains(name)).collect()
    }
}

/// What a reader thread tells of its worker.
enum News {
    Verdict(u64, Value),
    Ended(u64),
}

struct Worker {
    child: Child,
    next: u64,
    end: u64,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let timed = arguments.minutes.is_some();
    let (mut next, end) = match arguments.seeds {
        Some((from, _)) if timed => (from, u64::MAX),
        Some(range) => range,
        None if timed => (0, u64::MAX),
        None => (0, 100),
    };
    let stop_at =
        arguments.minutes.map(|minutes| started + Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let mut summary = Summary::default();
    let mut workers: BTreeMap<u64, Worker> = BTreeMap::new();
    let (sender, receiver) = mpsc::channel();
    let mut serial = 0;
    let mut stopping = false;
    loop {
        stopping |= stop_at.is_some_and(|stop_at| Instant::now() >= stop_at);
        while !stopping && workers.len() < arguments.jobs.max(1) as usize && next < end {
            let to = next.saturating_add(CHUNK).min(end);
            serial += 1;
            match start(arguments, next, to, serial, sender.clone()) {
                Ok(worker) => workers.insert(serial, worker),
                Err(error) => {
                    eprintln!("vopr: no worker process: {error}");
                    return ExitCode::from(2);
                }
            };
            next = to;
        }
        if workers.is_empty() {
            break;
        }
        let Ok(news) = receiver.recv() else { break };
        match news {
            News::Verdict(id, verdict) => {
                if let Some(worker) = workers.get_mut(&id) {
                    worker.next = verdict["seed"].as_u64().unwrap_or(worker.next) + 1;
                }
                let failed = verdict["ok"] != json!(true);
                if failed && !arguments.json {
                    let seed = verdict["seed"].as_u64().unwrap_or(0);
                    eprintln!("seed {seed} FAILED {}", verdict["failure"]);
                    eprintln!("replay: {}", output::replay_command(seed, arguments));
                }
                summary.add(&verdict);
                stopping |= failed && !arguments.keep_going;
                let late = stop_at.is_some_and(|stop_at| Instant::now() >= stop_at);
                if stopping || late {
                    stopping = true;
                    for worker in workers.values_mut() {
                        let _ = worker.child.kill();
                    }
                }
            }
            News::Ended(id) => {
                let Some(mut worker) = workers.remove(&id) else { continue };
                let status = worker.child.wait();
                if stopping || worker.next >= worker.end {
                    continue;
                }
                // It died without a verdict (killed, out of memory), or after a failure.
                let seed_failed = summary
                    .failures
                    .last()
                    .is_some_and(|last| last["seed"].as_u64() == worker.next.checked_sub(1));
                if !seed_failed {
                    let detail = format!("the worker ended without a verdict: {status:?}");
                    summary.add(&json!({"seed": worker.next, "ok": false, "failure": detail}));
                    worker.next += 1;
                    stopping |= !arguments.keep_going;
                }
                if !stopping && worker.next < worker.end {
                    serial += 1;
                    if let Ok(again) =
                        start(arguments, worker.next, worker.end, serial, sender.clone())
                    {
                        workers.insert(serial, again);
                    }
                }
            }
        }
    }
    print(&summary, arguments, started.elapsed().as_secs_f64());
    if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(
    arguments: &Arguments,
    from: u64,
    to: u64,
    serial: u64,
    sender: mpsc::Sender<News>,
) -> std::io::Result<Worker> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--worker").arg("--seeds").arg(format!("{from}..{to}"));
    command.arg("--scale").arg(arguments.scale.to_string());
    if arguments.twice {
        command.arg("--twice");
    }
    if arguments.cluster {
        command.arg("--cluster");
    }
    if let Some(bug) = &arguments.bug {
        command.arg("--bug").arg(bug);
    }
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let Some(stdout) = child.stdout.take() else { unreachable!("it was asked for") };
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Ok(verdict) = serde_json::from_str(&line) {
                let _ = sender.send(News::Verdict(serial, verdict));
            }
        }
        let _ = sender.send(News::Ended(serial));
    });
    Ok(Worker { child, next: from, end: to })
}

fn print(summary: &Summary, arguments: &Arguments, seconds: f64) {
    let per_minute = summary.seeds as f64 * 60.0 / seconds.max(1e-9);
    if arguments.json {
        let failures: Vec<Value> = summary
            .failures
            .iter()
            .map(|verdict| {
                let seed = verdict["seed"].as_u64().unwrap_or(0);
                json!({
                    "seed": seed,
                    "failure": verdict["failure"],
                    "replay": output::replay_command(seed, arguments),
                })
            })
            .collect();
        let mut value = json!({
            "ok": summary.failures.is_empty(),
            "seeds": summary.seeds,
            "failures": failures,
            "seeds_per_minute": per_minute,
            "wall_seconds": seconds,
            "sim_seconds": summary.sim_seconds,
            "faults": summary.faults,
            "damage_detected": summary.damage_detected,
            "events_not_seen": summary.events_not_seen(),
        });
        for (name, sum) in &summary.sums {
            value[*name] = json!(sum);
        }
        if let Some(bug) = &arguments.bug {
            value["bug"] = json!(bug);
            value["caught"] = json!(!summary.failures.is_empty());
            value["seeds_to_catch"] = json!(summary.seeds);
            value["seconds_to_catch"] = json!(seconds);
        }
        println!("{value}");
        return;
    }
    println!(
        "{} seeds in {seconds:.1} s ({per_minute:.0} a minute), {} failed, {} with damage detected",
        summary.seeds,
        summary.failures.len(),
        summary.damage_detected,
    );
    println!(
        "{:.0} s simulated, {} faults, {:?}",
        summary.sim_seconds, summary.faults, summary.sums
    );
    let not_seen = summary.events_not_seen();
    if !not_seen.is_empty() {
        println!("events not seen: {}", not_seen.join(", "));
    }
}
