//! The zoo: deliberate bugs, compiled only under `--cfg verity_zoo` into a target directory of
//! their own. The simulator must catch each; a build without the cfg must hold none.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::steps::{cargo, run as run_command, target_dir};
use crate::vopr;

/// The list itself is the core's: it is compiled in here too, so that the two cannot differ.
#[allow(dead_code, missing_debug_implementations, reason = "only the list is used here")]
#[path = "../../core/src/zoo.rs"]
mod core_zoo;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Name the bugs and run nothing.
    #[arg(long)]
    list: bool,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Only this bug.
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Seeds to try for each bug before it counts as missed.
    #[arg(long, value_name = "N", default_value_t = 400)]
    seeds: u64,
}

impl Options {
    pub fn all(seeds: u64) -> Options {
        Options { list: false, json: false, bug: None, seeds }
    }
}

#[derive(Debug, serde::Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
}

#[derive(Debug, serde::Serialize)]
struct Outcome {
    name: &'static str,
    caught: bool,
    /// The seed that caught it.
    seed: Option<u64>,
    seeds_tried: u64,
    seconds: f64,
    failure: String,
}

#[derive(Debug, serde::Serialize)]
struct Summary {
    bugs: Vec<Outcome>,
    caught: usize,
    missed: usize,
    median_seeds: u64,
}

pub fn run(options: &Options) -> Result<bool, String> {
    let wanted = |name: &str| options.bug.as_ref().is_none_or(|bug| bug == name);
    let bugs: Vec<_> = core_zoo::BUGS.iter().filter(|bug| wanted(bug.name)).collect();
    if let (true, Some(name)) = (bugs.is_empty(), &options.bug) {
        return Err(format!("no bug named `{name}`: see `cargo x zoo --list`"));
    }
    if options.list {
        let list: Vec<Listed> = bugs
            .iter()
            .map(|bug| Listed { name: bug.name, description: bug.description })
            .collect();
        if options.json {
            print_json(&list)?;
        } else {
            for bug in list {
                println!("{:<32} {}", bug.name, bug.description);
            }
        }
        return Ok(true);
    }

    let binary = build(options.json)?;
    // Without a bug the same build must hold, or "caught" would mean nothing.
    for seed in 1..=5 {
        let report = vopr::seed(&binary, seed, &[])?;
        if !report.ok {
            return Err(format!("seed {seed} fails without a bug: {:?}", report.failure));
        }
    }
    let mut outcomes = Vec::new();
    for bug in bugs {
        let outcome = hunt(&binary, bug.name, options.seeds)?;
        if !options.json {
            let Outcome { name, seeds_tried, seconds, failure, .. } = &outcome;
            match outcome.seed {
                Some(seed) => println!(
                    "caught  {name:<32} seed {seed}, {seeds_tried} tried, {seconds:.1} s: {failure}"
                ),
                None => println!("MISSED  {name:<32} {seeds_tried} seeds, {seconds:.1} s"),
            }
        }
        outcomes.push(outcome);
    }
    let mut tried: Vec<u64> = outcomes.iter().map(|outcome| outcome.seeds_tried).collect();
    tried.sort_unstable();
    let caught = outcomes.iter().filter(|outcome| outcome.caught).count();
    let missed = outcomes.len() - caught;
    let median_seeds = tried.get(tried.len() / 2).copied().unwrap_or(0);
    if options.json {
        print_json(&Summary { bugs: outcomes, caught, missed, median_seeds })?;
    } else {
        println!("zoo: {caught} caught, {missed} missed, median {median_seeds} seeds to catch");
    }
    Ok(missed == 0)
}

/// How many bugs there are.
pub fn count() -> u64 {
    core_zoo::BUGS.len() as u64
}

/// Builds the simulator with the bugs in it.
fn build(quiet: bool) -> Result<PathBuf, String> {
    let target = zoo_target();
    let mut command = cargo(&["build", "--release", "--package", "vopr"]);
    command.arg("--target-dir").arg(&target).env("RUSTFLAGS", "--cfg verity_zoo");
    if quiet {
        crate::steps::capture_ok(&mut command)?;
    } else {
        run_command(&mut command)?;
    }
    Ok(target.join("release/vopr"))
}

fn zoo_target() -> PathBuf {
    target_dir().join("zoo")
}

/// Seeds from 1 on until one fails.
fn hunt(binary: &Path, name: &'static str, seeds: u64) -> Result<Outcome, String> {
    let started = Instant::now();
    for seed in 1..=seeds {
        let report = vopr::seed(binary, seed, &["--bug", name])?;
        if !report.ok {
            let failure = report.failure.unwrap_or_default();
            let failure = failure.as_str().map_or_else(|| failure.to_string(), str::to_string);
            let seconds = started.elapsed().as_secs_f64();
            return Ok(Outcome {
                name,
                caught: true,
                seed: Some(seed),
                seeds_tried: seed,
                seconds,
                failure,
            });
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let failure = String::new();
    Ok(Outcome { name, caught: false, seed: None, seeds_tried: seeds, seconds, failure })
}

/// What a binary with the zoo in it shows: the module's mangled path, and the bugs' names.
fn traces(binary: &Path) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    let mut wanted = vec!["11verity_core3zoo".to_string()];
    wanted.extend(core_zoo::BUGS.iter().map(|bug| bug.name.to_string()));
    wanted.retain(|word| bytes.windows(word.len()).any(|window| window == word.as_bytes()));
    Ok(wanted)
}

/// The release binary holds nothing of the zoo; the zoo's own does, so the search is no sham.
pub fn release_is_clean(release: &Path) -> Result<u64, String> {
    let found = traces(release)?;
    if !found.is_empty() {
        return Err(format!("{} holds {}", release.display(), found.join(", ")));
    }
    let zoo = zoo_target().join("release/vopr");
    if zoo.exists() && traces(&zoo)?.len() < core_zoo::BUGS.len() {
        return Err(format!("{} should hold every bug", zoo.display()));
    }
    Ok(1)
}

fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::core_zoo::BUGS;

    #[test]
    fn names_are_unique_and_described() {
        for (at, bug) in BUGS.iter().enumerate() {
            assert!(!bug.description.is_empty(), "{}", bug.name);
            assert!(BUGS[at + 1..].iter().all(|other| other.name != bug.name), "{}", bug.name);
        }
    }
}
