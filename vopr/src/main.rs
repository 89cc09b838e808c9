//! The campaign runner: seeds in, verdicts out.
//!
//! `vopr --seed N` runs one world from one number; ranges run in worker processes, because a failed
//! assertion of the core may end a process and must not end the campaign. Exit: 0 when every seed
//! held, 1 when one failed (or the bug of `--bug` was caught), 2 for wrong arguments.
//!
//! `--campaign` runs seeds that nobody has tried, tells failures apart by their signature, makes
//! each smaller and writes it to a file; `--replay` runs such a file.

#![forbid(unsafe_code)]

#[macro_use]
#[path = "../../scripts/src/print.rs"]
mod print;

mod campaign;
mod child;
mod failure;
mod findings;
mod output;
mod replay;
mod shrink;
mod signature;
mod summary;
mod timeline;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use verity_sim::overrides::{Overrides, Switch};
use verity_sim::run;
use verity_sim::swarm::Options;
use verity_sim::zoo_checks::CHECKS;

/// Tries to break Verity: the real core in a fake world, everything drawn from a seed.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    /// Run this one seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    pub seed: Option<u64>,
    /// Run a range of seeds, `A..B`, or the first N, `N`.
    #[arg(long, value_parser = parse_seeds)]
    pub seeds: Option<(u64, u64)>,
    /// Run as many seeds as fit into so many minutes, from the start of `--seeds` or from 0.
    #[arg(long, value_parser = parse_minutes)]
    pub minutes: Option<f64>,
    /// Seeds that nobody has tried (or those of `--seeds`); failures are told apart, shrunk and
    /// written to files, and nothing stops at them.
    #[arg(long, conflicts_with_all = ["seed", "check", "trace"])]
    pub campaign: bool,
    /// Folder for the failures of a campaign.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "failures",
        requires = "campaign",
        conflicts_with = "seed"
    )]
    pub failures: PathBuf,
    /// Seconds to make each distinct failure of a campaign smaller.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        requires = "campaign",
        conflicts_with = "seed"
    )]
    pub shrink_seconds: u64,
    /// Run what a failure file describes: does it fail, and the same way?
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "seed", "seeds", "minutes", "campaign", "check", "trace", "twice", "cluster", "bug", "off",
        "scale", "requests_max", "clients_max", "tenants_max", "nodes_max",
    ])]
    pub replay: Option<PathBuf>,
    /// Worker processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub jobs: u64,
    /// Trouble that must not come, by name, with commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_switch)]
    pub off: Vec<Switch>,
    /// Requests of clients at most, before the faults stop.
    #[arg(long, value_name = "N")]
    pub requests_max: Option<u64>,
    /// Clients at most.
    #[arg(long, value_name = "N")]
    pub clients_max: Option<u64>,
    /// Tenants at most; of one node.
    #[arg(long, value_name = "N")]
    pub tenants_max: Option<u64>,
    /// Nodes of a cluster at most, not below three.
    #[arg(long, value_name = "N")]
    pub nodes_max: Option<u64>,
    /// Go on after a failure.
    #[arg(long)]
    pub keep_going: bool,
    /// Run each seed twice and compare the traces.
    #[arg(long)]
    pub twice: bool,
    /// Multiply the work of a run.
    #[arg(long, default_value_t = 1)]
    pub scale: u64,
    /// Several nodes over a hostile network, in place of one.
    #[arg(long, conflicts_with = "check")]
    pub cluster: bool,
    /// Print results as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the trace, line by line (with --seed).
    #[arg(long)]
    pub trace: bool,
    /// Write a page that shows the run, also when it fails (with --seed).
    #[arg(long, value_name = "FILE", requires = "seed", conflicts_with_all = [
        "seeds", "minutes", "campaign", "check", "replay",
    ])]
    pub timeline: Option<PathBuf>,
    /// Bring this deliberate bug to life (only in a build with `--cfg verity_zoo`).
    #[arg(long)]
    pub bug: Option<String>,
    /// List the deliberate bugs of this build.
    #[arg(long)]
    pub zoo_list: bool,
    /// Run one directed check instead of a seed; `all` runs every one.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seed", "seeds", "minutes"])]
    pub check: Option<String>,
    /// Internal: print one JSON line for each seed.
    #[arg(long, hide = true)]
    pub worker: bool,
}

/// As failure files name it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Arguments {
    pub fn overrides(&self) -> Overrides {
        Overrides {
            off: self.off.iter().copied().collect(),
            requests_max: self.requests_max,
            clients_max: self.clients_max,
            tenants_max: self.tenants_max,
            nodes_max: self.nodes_max,
        }
    }
}

fn parse_switch(name: &str) -> Result<Switch, String> {
    Switch::named(name).ok_or_else(|| {
        let names: Vec<&str> = Switch::ALL.into_iter().map(Switch::name).collect();
        format!("there are {}", names.join(", "))
    })
}

/// A year is enough.
const MINUTES_MAX: f64 = 527_040.0;

fn parse_minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if minutes > 0.0 && minutes <= MINUTES_MAX {
        return Ok(minutes);
    }
    Err(format!("not above 0 and at most {MINUTES_MAX}; a run without a seed tells nothing"))
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (0, number(text)?),
    };
    if from < to { Ok((from, to)) } else { Err(format!("{from}..{to} has no seed")) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.zoo_list {
        output::print_zoo(arguments.json);
        return ExitCode::SUCCESS;
    }
    if let Some(path) = &arguments.replay {
        return replay::run(path, arguments.json);
    }
    if let Some(bug) = &arguments.bug
        && !select_bug(bug)
    {
        eprintln!("vopr: no bug {bug:?} in this build; `vopr --zoo-list` names those there are");
        return ExitCode::from(2);
    }
    if let Some(name) = &arguments.check {
        return check(name, arguments.json);
    }
    if arguments.worker {
        return campaign::work(&arguments);
    }
    if let Some(seed) = arguments.seed {
        return one(seed, &arguments);
    }
    if arguments.seeds.is_none() && arguments.minutes.is_none() {
        let told = if arguments.campaign {
            "a campaign needs --minutes or --seeds"
        } else {
            "what is to be run? --seed N, --seeds A..B, --minutes M, --campaign, --check NAME, or \
             --replay FILE; `vopr --help` tells what each does"
        };
        eprintln!("vopr: {told}");
        return ExitCode::from(2);
    }
    campaign::run(&arguments)
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    output::remember(arguments, Instant::now());
    run::install_hook(output::last_word);
    let started = Instant::now();
    let report = run_seed(seed, arguments);
    output::print_report(&report, arguments, started.elapsed().as_secs_f64());
    if !output::write_timeline(&report, arguments) {
        return ExitCode::from(2);
    }
    if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A failed assertion of the core ends the process, with the panic's words as the verdict.
fn check(name: &str, json: bool) -> ExitCode {
    let wanted: Vec<_> =
        CHECKS.iter().filter(|check| name == "all" || check.name == name).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        eprintln!("vopr: no check {name:?}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut held = true;
    for check in wanted {
        let verdict = (check.run)();
        output::print_check(check, verdict.as_ref().err(), json);
        held &= verdict.is_ok();
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub fn run_seed(seed: u64, arguments: &Arguments) -> verity_sim::report::Report {
    let options = Options {
        lines: arguments.trace,
        timeline: arguments.timeline.is_some(),
        scale: arguments.scale,
        overrides: arguments.overrides(),
    };
    match (arguments.cluster, arguments.twice) {
        (false, false) => run::run(seed, &options),
        (false, true) => run::run_twice(seed, &options),
        (true, false) => run::run_cluster(seed, &options),
        (true, true) => run::run_cluster_twice(seed, &options),
    }
}

/// Whether this build has this deliberate bug.
pub fn knows_bug(name: &str) -> bool {
    output::zoo().iter().any(|bug| bug.0 == name)
}

#[cfg(verity_zoo)]
fn select_bug(name: &str) -> bool {
    verity_sim::zoo::select(name)
}

#[cfg(not(verity_zoo))]
fn select_bug(_name: &str) -> bool {
    false
}
