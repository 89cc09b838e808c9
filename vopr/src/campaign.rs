//! Many seeds: worker processes, a summary, and how long a deliberate bug lives.
//!
//! A campaign (`--campaign`) is that of seeds that nobody has tried, does not stop at a failure,
//! and has [`Findings`]. Start reading at [`run`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::child::{self, Spec};
use crate::findings::Findings;
use crate::signature::Signature;
use crate::summary::Summary;
use crate::{Arguments, output, run_seed};

/// Seeds a worker is given at once.
const CHUNK: u64 = 16;
/// Of one seed; the worst that held took half a minute.
const SEED_SECONDS_MAX: u64 = 600;
/// How often the clock is looked at.
const GLANCE: Duration = Duration::from_millis(500);

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

/// What a reader thread tells of its worker.
enum News {
    Verdict(u64, Value),
    Ended(u64),
}

struct Worker {
    child: Child,
    next: u64,
    end: u64,
    /// When it began with `next`.
    since: Instant,
    /// Its last seed failed, which ends it.
    failed: bool,
}

/// Many seeds, as they are under way.
struct Campaign<'a> {
    arguments: &'a Arguments,
    summary: Summary,
    findings: Option<Findings>,
    workers: BTreeMap<u64, Worker>,
    sender: mpsc::Sender<News>,
    serial: u64,
    next: u64,
    end: u64,
    stop_at: Option<Instant>,
    stopping: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let (sender, receiver) = mpsc::channel();
    let (next, end) = range(arguments);
    let minutes = arguments.minutes;
    let mut campaign = Campaign {
        arguments,
        summary: Summary::default(),
        findings: arguments.campaign.then(|| Findings::new(&arguments.failures)),
        workers: BTreeMap::new(),
        sender,
        serial: 0,
        next,
        end,
        stop_at: minutes.map(|minutes| started + Duration::from_secs_f64(minutes * 60.0)),
        stopping: false,
    };
    let outcome = campaign.go(&receiver);
    for worker in campaign.workers.values_mut() {
        let _ = worker.child.kill();
        let _ = worker.child.wait();
    }
    let seconds = started.elapsed().as_secs_f64();
    let shrunk = campaign.findings.as_mut().map_or(Ok(()), |found| found.shrink_all(arguments));
    if let Err(error) = outcome.and(shrunk) {
        eprintln!("vopr: the campaign cannot go on: {error}");
        return ExitCode::from(2);
    }
    campaign.print(next, seconds, started.elapsed().as_secs_f64());
    if campaign.summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed, and the one behind the last. Those of a campaign are numbered from its second
/// on, as CI's are: nobody has tried them.
fn range(arguments: &Arguments) -> (u64, u64) {
    let timed = arguments.minutes.is_some();
    match arguments.seeds {
        Some((from, _)) if timed => (from, u64::MAX),
        Some(range) => range,
        None if arguments.campaign => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            (now.map_or(0, |now| now.as_secs()) * 1_000_000, u64::MAX)
        }
        None => (0, u64::MAX),
    }
}

impl Campaign<'_> {
    fn go(&mut self, receiver: &mpsc::Receiver<News>) -> std::io::Result<()> {
        loop {
            let late = self.stop_at.is_some_and(|stop_at| Instant::now() >= stop_at);
            self.stopping |= late;
            if self.stopping {
                return Ok(());
            }
            while self.workers.len() < self.arguments.jobs as usize && self.next < self.end {
                let to = self.next.saturating_add(CHUNK).min(self.end);
                self.start(self.next, to)?;
                self.next = to;
            }
            if self.workers.is_empty() {
                return Ok(());
            }
            match receiver.recv_timeout(GLANCE) {
                Ok(News::Verdict(id, verdict)) => self.verdict(id, &verdict)?,
                Ok(News::Ended(id)) => self.ended(id)?,
                Err(RecvTimeoutError::Timeout) => self.end_the_hung()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn verdict(&mut self, id: u64, verdict: &Value) -> std::io::Result<()> {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.next = verdict["seed"].as_u64().unwrap_or(worker.next) + 1;
            worker.since = Instant::now();
            worker.failed = verdict["ok"] != json!(true);
        }
        self.take(verdict)
    }

    fn take(&mut self, verdict: &Value) -> std::io::Result<()> {
        self.summary.add(verdict);
        if verdict["ok"] == json!(true) {
            return Ok(());
        }
        if !self.arguments.json {
            let seed = verdict["seed"].as_u64().unwrap_or(0);
            match Signature::of(verdict).filter(|_| self.arguments.campaign) {
                Some(signature) => eprintln!("seed {seed} FAILED {}", signature.text()),
                None => eprintln!("seed {seed} FAILED {}", verdict["failure"]),
            }
            eprintln!("replay: {}", output::replay_command(seed, self.arguments));
        }
        self.stopping |= !self.arguments.keep_going && !self.arguments.campaign;
        match &mut self.findings {
            Some(findings) => findings.add(verdict, self.arguments),
            None => Ok(()),
        }
    }

    /// A worker is gone: with its work done, after a failure, or without a word about its seed.
    fn ended(&mut self, id: u64) -> std::io::Result<()> {
        let Some(mut worker) = self.workers.remove(&id) else { return Ok(()) };
        let status = worker.child.wait()?;
        if worker.next >= worker.end {
            return Ok(());
        }
        if !worker.failed {
            self.take(&child::died(worker.next, status))?;
            worker.next += 1;
        }
        self.go_on(&worker)
    }

    /// A seed that takes so long will take for ever.
    fn end_the_hung(&mut self) -> std::io::Result<()> {
        let most = Duration::from_secs(SEED_SECONDS_MAX);
        let hangs = |worker: &Worker| worker.since.elapsed() > most;
        let Some(id) = self.workers.iter().find(|(_, worker)| hangs(worker)).map(|(id, _)| *id)
        else {
            return Ok(());
        };
        let Some(mut worker) = self.workers.remove(&id) else { return Ok(()) };
        worker.child.kill()?;
        worker.child.wait()?;
        self.take(&child::hung(worker.next, most))?;
        worker.next += 1;
        self.go_on(&worker)
    }

    /// Another process for the seeds that are left of a worker's.
    fn go_on(&mut self, worker: &Worker) -> std::io::Result<()> {
        if self.stopping || worker.next >= worker.end {
            return Ok(());
        }
        self.start(worker.next, worker.end)
    }

    fn start(&mut self, from: u64, to: u64) -> std::io::Result<()> {
        self.serial += 1;
        let serial = self.serial;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--worker").arg("--seeds").arg(format!("{from}..{to}"));
        command.args(Spec::of(from, self.arguments).flags());
        if self.arguments.twice {
            command.arg("--twice");
        }
        if self.arguments.campaign {
            // A campaign tells what it saw at its end, and a worker's verdict has the words.
            command.stderr(Stdio::null());
        }
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let Some(stdout) = child.stdout.take() else { unreachable!("it was asked for") };
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(verdict) = serde_json::from_str(&line) {
                    let _ = sender.send(News::Verdict(serial, verdict));
                }
            }
            let _ = sender.send(News::Ended(serial));
        });
        let worker = Worker { child, next: from, end: to, since: Instant::now(), failed: false };
        self.workers.insert(serial, worker);
        Ok(())
    }

    /// `seconds`: without what shrinking took.
    fn print(&self, first_seed: u64, seconds: f64, all_seconds: f64) {
        let (summary, arguments) = (&self.summary, self.arguments);
        let per_minute = summary.seeds as f64 * 60.0 / seconds.max(1e-9);
        if arguments.json {
            println!("{}", self.json(first_seed, seconds, all_seconds));
            return;
        }
        println!(
            "{} seeds from {first_seed} in {seconds:.1} s ({per_minute:.0} a minute), {} failed, \
             {} with damage detected",
            summary.seeds,
            summary.failures.len(),
            summary.damage_detected,
        );
        println!(
            "{:.0} s simulated, {} faults, {:?}",
            summary.sim_seconds, summary.faults, summary.sums
        );
        if let Some(findings) = &self.findings {
            println!("means: {}", summary.density(arguments.cluster));
            findings.print(arguments);
        }
        let not_seen = summary.events_not_seen();
        if !not_seen.is_empty() {
            println!("events not seen: {}", not_seen.join(", "));
        }
    }

    fn json(&self, first_seed: u64, seconds: f64, all_seconds: f64) -> Value {
        let (summary, arguments) = (&self.summary, self.arguments);
        let failure = |verdict: &Value| {
            let seed = verdict["seed"].as_u64().unwrap_or(0);
            let replay = output::replay_command(seed, arguments);
            json!({"seed": seed, "failure": verdict["failure"], "replay": replay})
        };
        let failures = match &self.findings {
            Some(findings) => findings.json(arguments),
            None => summary.failures.iter().map(failure).collect(),
        };
        let mut value = json!({
            "ok": summary.failures.is_empty(),
            "seeds": summary.seeds,
            "first_seed": first_seed,
            "failures": failures,
            "seeds_per_minute": summary.seeds as f64 * 60.0 / seconds.max(1e-9),
            "wall_seconds": seconds,
            "sim_seconds": summary.sim_seconds,
            "faults": summary.faults,
            "damage_detected": summary.damage_detected,
            "events_not_seen": summary.events_not_seen(),
        });
        for (name, sum) in &summary.sums {
            value[*name] = json!(sum);
        }
        if self.findings.is_some() {
            value["version"] = json!(crate::VERSION);
            value["world"] = json!(verity_sim::world_hash_hex());
            value["commit"] = json!(output::commit());
            value["jobs"] = json!(arguments.jobs);
            value["mode"] = json!(if arguments.cluster { "cluster" } else { "node" });
            value["seeds_failed"] = json!(summary.failures.len());
            value["shrink_seconds"] = json!(all_seconds - seconds);
            value["events_seen"] = json!(summary.events_seen());
            value["faults_by_name"] = json!(summary.faults_by_name());
            value["density"] = summary.density(arguments.cluster);
        }
        if let Some(bug) = &arguments.bug {
            value["bug"] = json!(bug);
            value["caught"] = json!(!summary.failures.is_empty());
            value["seeds_to_catch"] = json!(summary.seeds);
            value["seconds_to_catch"] = json!(seconds);
        }
        value
    }
}
