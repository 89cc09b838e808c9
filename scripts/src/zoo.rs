//! The zoo: deliberate bugs, compiled only under `--cfg verity_zoo` into a target directory of
//! their own. Each must be caught, by seeds of the simulator or by the directed check that the list
//! names; a build without the cfg must hold none of them.
//!
//! What counts as caught: the run failed with the bug, and the same seed or check holds on the same
//! binary without it. A run that is cut off for its time has no verdict and catches nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::steps::{capture, capture_ok, cargo, run as run_command, scratch, target_dir};

/// The list itself is the core's: it is compiled in here too, so that the two cannot differ.
#[allow(dead_code, missing_debug_implementations, reason = "only the list is used here")]
#[path = "../../core/src/zoo.rs"]
mod core_zoo;

use core_zoo::{BUGS, Bug, Catcher};

/// Longest run of one seed, of one check, and of all checks.
const RUN_SECONDS_MAX: &str = "20";
const CHECK_SECONDS_MAX: &str = "90";
const CHECKS_SECONDS_MAX: &str = "400";

/// Seeds to try for each bug before it counts as missed, and the time for that.
const SEEDS: u64 = 120;
const SECONDS: u64 = 150;

/// It fails in half of the first seeds, soon.
const CAMPAIGN_BUG: &str = "wrong_version_accepted";

/// An assertion of the core sees it in seed 1.
const PANIC_BUG: &str = "page_reused_early";

/// Seeds that must hold without a bug, before anything else.
const SEEDS_WITHOUT_BUG: u64 = 5;

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
    #[arg(long, value_name = "N", default_value_t = SEEDS)]
    seeds: u64,
    /// Seconds to try seeds for, for each bug.
    #[arg(long, value_name = "N", default_value_t = SECONDS)]
    seconds: u64,
}

impl Options {
    pub fn all() -> Options {
        Options { list: false, json: false, bug: None, seeds: SEEDS, seconds: SECONDS }
    }
}

#[derive(Debug, serde::Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
    /// `seeds`, or the directed check.
    catcher: String,
}

#[derive(Debug, serde::Serialize)]
struct Outcome {
    name: &'static str,
    caught: bool,
    /// The checker of the simulator that saw it, or the directed check.
    by: String,
    /// Seeds it took, those without a verdict included; none for a directed check.
    seeds: Option<u64>,
    seconds: f64,
    failure: String,
}

#[derive(Debug, serde::Serialize)]
struct Summary {
    bugs: Vec<Outcome>,
    caught: usize,
    missed: usize,
    /// Of the bugs that seeds must catch.
    median_seeds: u64,
}

pub fn run(options: &Options) -> Result<bool, String> {
    let wanted = |name: &str| options.bug.as_ref().is_none_or(|bug| bug == name);
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| wanted(bug.name)).collect();
    if let (true, Some(name)) = (bugs.is_empty(), &options.bug) {
        return Err(format!("no bug named `{name}`: see `cargo x zoo --list`"));
    }
    if options.list {
        list(&bugs, options.json)?;
        return Ok(true);
    }
    let keeper = Keeper {
        binary: build(options.json)?,
        seeds: options.seeds,
        budget: Duration::from_secs(options.seconds),
        innocent: Mutex::new(BTreeMap::new()),
    };
    keeper.holds_without_bug()?;
    if options.bug.is_none() {
        keeper.campaign_of_a_bug(options.json)?;
    }
    let outcomes = keeper.hunt_all(&bugs, options.json)?;
    let by_seeds = |name: &str| {
        BUGS.iter().any(|bug| bug.name == name && matches!(bug.catcher, Catcher::Seeds))
    };
    let mut tried: Vec<u64> = outcomes
        .iter()
        .filter(|outcome| by_seeds(outcome.name))
        .filter_map(|outcome| outcome.seeds)
        .collect();
    tried.sort_unstable();
    let caught = outcomes.iter().filter(|outcome| outcome.caught).count();
    let missed = outcomes.len() - caught;
    let median_seeds = tried.get(tried.len() / 2).copied().unwrap_or(0);
    if options.json {
        print_json(&Summary { bugs: outcomes, caught, missed, median_seeds })?;
    } else {
        println!(
            "zoo: {caught} caught, {missed} missed; median {median_seeds} seeds to catch, of the \
             {} bugs that seeds catch",
            tried.len()
        );
    }
    Ok(missed == 0)
}

fn list(bugs: &[&Bug], json: bool) -> Result<(), String> {
    let catcher = |bug: &Bug| match bug.catcher {
        Catcher::Seeds => "seeds".to_string(),
        Catcher::Check(check) => format!("check {check}"),
    };
    let listed = bugs.iter().map(|bug| Listed {
        name: bug.name,
        description: bug.description,
        catcher: catcher(bug),
    });
    if json {
        return print_json(&listed.collect::<Vec<_>>());
    }
    for bug in listed {
        println!("{:<30} {}; {}", bug.name, bug.description, bug.catcher);
    }
    Ok(())
}

/// How many bugs there are.
pub fn count() -> u64 {
    BUGS.len() as u64
}

/// Builds the simulator with the bugs in it. Soon built matters more here than fast.
fn build(quiet: bool) -> Result<PathBuf, String> {
    let target = zoo_target();
    let mut command = cargo(&["build", "--release", "--package", "vopr"]);
    command.arg("--target-dir").arg(&target).env("RUSTFLAGS", "--cfg verity_zoo");
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    if quiet {
        capture_ok(&mut command)?;
    } else {
        run_command(&mut command)?;
    }
    Ok(target.join("release/vopr"))
}

fn zoo_target() -> PathBuf {
    target_dir().join("zoo")
}

/// How one run ended.
enum Ended {
    Held,
    Failed {
        checker: String,
        failure: String,
    },
    /// Cut off.
    NoVerdict,
}

/// Goes round with the binary.
struct Keeper {
    binary: PathBuf,
    seeds: u64,
    budget: Duration,
    /// Seeds that were run without a bug: whether they held.
    innocent: Mutex<BTreeMap<u64, bool>>,
}

impl Keeper {
    fn holds_without_bug(&self) -> Result<(), String> {
        match self.once(CHECKS_SECONDS_MAX, &["--check", "all"])? {
            Ended::Held => {}
            Ended::Failed { failure, .. } => {
                return Err(format!("a directed check fails without a bug: {failure}"));
            }
            Ended::NoVerdict => {
                return Err(format!("the directed checks take more than {CHECKS_SECONDS_MAX} s"));
            }
        }
        for seed in 1..=SEEDS_WITHOUT_BUG {
            if !self.holds_alone(seed)? {
                return Err(format!("seed {seed} does not hold without a bug"));
            }
        }
        Ok(())
    }

    /// A campaign meets a bug in several seeds, tells that it is one, makes it smaller, writes it
    /// down, and what is written fails the same way again.
    fn campaign_of_a_bug(&self, quiet: bool) -> Result<(), String> {
        let folder = scratch("zoo-campaign")?;
        let mut command = Command::new(&self.binary);
        command.args(["--campaign", "--json", "--seeds", "1..7", "--jobs", "2"]);
        command.args(["--bug", CAMPAIGN_BUG, "--shrink-seconds", "20", "--failures"]);
        let finished = capture(command.arg(&folder))?;
        let told: serde_json::Value =
            serde_json::from_str(&finished.output).map_err(|error| error.to_string())?;
        let failure = &told["failures"][0];
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
        let (met, left) = (number(&failure["asked"]), number(&failure["shrunk"]["asked"]));
        let off = failure["shrunk"]["overrides"]["off"].as_array().map_or(0, Vec::len);
        let found = finished.code == Some(1) && number(&failure["count"]) > 1;
        if !found || left == 0 || left > met || off == 0 {
            return Err(format!("a campaign of {CAMPAIGN_BUG}: {}", finished.output));
        }
        let path = failure["file"].as_str().unwrap_or("");
        let again = capture(Command::new(&self.binary).args(["--json", "--replay", path]))?;
        let verdict: serde_json::Value =
            serde_json::from_str(&again.output).map_err(|error| error.to_string())?;
        let same = verdict["same_signature"] == true && verdict["same_trace"] == true;
        if again.code != Some(1) || !same {
            return Err(format!("{path} does not fail the same way: {}", again.output));
        }
        self.page_of_a_panic(&folder)?;
        if !quiet {
            println!(
                "a campaign met {CAMPAIGN_BUG} in {} of 6 seeds, shrank {met} requests to {left} \
                 and switched {off} kinds of trouble off; replayed",
                number(&failure["count"])
            );
        }
        Ok(())
    }

    /// A page is there also when a failed assertion ended the process.
    fn page_of_a_panic(&self, folder: &Path) -> Result<(), String> {
        let page = folder.join("page.html");
        let mut command = Command::new(&self.binary);
        command.args(["--seed", "1", "--bug", PANIC_BUG, "--timeline"]);
        let finished = capture(command.arg(&page))?;
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        if finished.code != Some(1) || !text.contains("\"failure\":\"panic: ") {
            return Err(format!("no page of the panic of {PANIC_BUG}: {}", finished.errors));
        }
        Ok(())
    }

    /// Whether the seed holds without any bug; asked once.
    fn holds_alone(&self, seed: u64) -> Result<bool, String> {
        let known = self.innocent.lock().ok().and_then(|known| known.get(&seed).copied());
        if let Some(held) = known {
            return Ok(held);
        }
        let text = seed.to_string();
        let held = matches!(self.once(RUN_SECONDS_MAX, &["--seed", &text])?, Ended::Held);
        if let Ok(mut known) = self.innocent.lock() {
            known.insert(seed, held);
        }
        Ok(held)
    }

    /// All bugs, on all cores; outcomes in the order of the list.
    fn hunt_all(&self, bugs: &[&'static Bug], quiet: bool) -> Result<Vec<Outcome>, String> {
        let next = AtomicUsize::new(0);
        let found: Mutex<BTreeMap<usize, Result<Outcome, String>>> = Mutex::new(BTreeMap::new());
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.hunt(bug);
                        if let (false, Ok(outcome)) = (quiet, &outcome) {
                            println!("{}", described(outcome));
                        }
                        let at = bugs.iter().position(|other| other.name == bug.name);
                        if let (Ok(mut found), Some(at)) = (found.lock(), at) {
                            found.insert(at, outcome);
                        }
                    }
                });
            }
        });
        found.into_inner().unwrap_or_default().into_values().collect()
    }

    fn hunt(&self, bug: &'static Bug) -> Result<Outcome, String> {
        let started = Instant::now();
        let mut outcome = Outcome {
            name: bug.name,
            caught: false,
            by: String::new(),
            seeds: None,
            seconds: 0.0,
            failure: String::new(),
        };
        match bug.catcher {
            Catcher::Check(check) => {
                outcome.by = format!("check {check}");
                let ended = self.once(CHECK_SECONDS_MAX, &["--check", check, "--bug", bug.name])?;
                if let Ended::Failed { failure, .. } = ended {
                    (outcome.caught, outcome.failure) = (true, failure);
                }
            }
            Catcher::Seeds => {
                for seed in 1..=self.seeds {
                    if started.elapsed() > self.budget {
                        break;
                    }
                    outcome.seeds = Some(seed);
                    let text = seed.to_string();
                    let arguments = ["--seed", &text, "--bug", bug.name];
                    let ended = self.once(RUN_SECONDS_MAX, &arguments)?;
                    if let Ended::Failed { checker, failure } = ended
                        && self.holds_alone(seed)?
                    {
                        outcome.by = format!("seed {seed}, {checker}");
                        (outcome.caught, outcome.failure) = (true, failure);
                        break;
                    }
                }
            }
        }
        outcome.seconds = started.elapsed().as_secs_f64();
        Ok(outcome)
    }

    fn once(&self, seconds_max: &str, arguments: &[&str]) -> Result<Ended, String> {
        let mut command = Command::new("timeout");
        command.arg(seconds_max).arg(&self.binary).arg("--json").args(arguments);
        let finished = capture(&mut command)?;
        let verdict = finished.output.lines().rev().find(|line| line.starts_with('{'));
        let verdict = verdict.and_then(|line| serde_json::from_str::<Verdict>(line).ok());
        match (finished.code, verdict) {
            (Some(0), _) => Ok(Ended::Held),
            // By `timeout`.
            (Some(124), _) => Ok(Ended::NoVerdict),
            (Some(2 | 125 | 126 | 127), _) => {
                Err(format!("{arguments:?}: {}{}", finished.output, finished.errors))
            }
            (_, Some(Verdict { failure: Some(failure), failure_kind })) => {
                let checker = failure_kind.unwrap_or_default();
                let words = failure.strip_prefix(&checker).and_then(|rest| rest.strip_prefix(": "));
                let failure = words.unwrap_or(&failure).to_string();
                Ok(Ended::Failed { checker, failure })
            }
            // A failed assertion of the core ends the process at once.
            (_, _) => {
                let words = finished.errors.lines().skip_while(|line| !line.contains("panicked"));
                let failure = words.take(2).collect::<Vec<_>>().join(" ");
                Ok(Ended::Failed { checker: "panic".to_string(), failure })
            }
        }
    }
}

/// The part of a verdict that is used here.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Verdict {
    failure: Option<String>,
    failure_kind: Option<String>,
}

fn described(outcome: &Outcome) -> String {
    let Outcome { name, by, seeds, seconds, failure, .. } = outcome;
    let short: String = failure.replace('\n', " ").chars().take(120).collect();
    match (outcome.caught, seeds) {
        (true, Some(seeds)) => {
            format!("caught  {name:<30} {seeds} seeds, {seconds:.1} s; {by}: {short}")
        }
        (true, None) => format!("caught  {name:<30} {seconds:.1} s; {by}: {short}"),
        (false, seeds) => {
            let seeds = seeds.unwrap_or(0);
            format!("MISSED  {name:<30} {seeds} seeds, {seconds:.1} s; {by}")
        }
    }
}

/// What a binary with the zoo in it shows: the module's mangled path, and the bugs' names.
fn traces(binary: &Path) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    let mut wanted = vec!["11verity_core3zoo".to_string()];
    wanted.extend(BUGS.iter().map(|bug| bug.name.to_string()));
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
    if !zoo.exists() {
        return Err(format!("{} is not built: this search could not fail", zoo.display()));
    }
    if traces(&zoo)?.len() != BUGS.len() + 1 {
        return Err(format!("{} should hold the module and every bug", zoo.display()));
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
    use super::{BUGS, traces};

    #[test]
    fn names_are_unique_and_described() {
        for (at, bug) in BUGS.iter().enumerate() {
            assert!(!bug.description.is_empty(), "{}", bug.name);
            assert!(BUGS[at + 1..].iter().all(|other| other.name != bug.name), "{}", bug.name);
        }
    }

    #[test]
    fn the_documentation_names_each() {
        let text = std::fs::read_to_string(crate::tidy::root().join("docs/TESTING.md")).unwrap();
        for bug in BUGS {
            assert!(text.contains(&format!("| `{}` |", bug.name)), "{}", bug.name);
            if let super::Catcher::Check(check) = bug.catcher {
                assert!(text.contains(&format!("check `{check}`")), "{check}");
            }
        }
    }

    #[test]
    fn traces_of_the_zoo_are_found_and_nothing_else() {
        let folder = crate::steps::scratch("zoo-traces").unwrap();
        let file = folder.join("binary");
        let mut bytes = b"\x7fELF _ZN11verity_core5store3get17h \0 page".to_vec();
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(traces(&file), Ok(Vec::new()));
        bytes.extend_from_slice(b"_ZN11verity_core3zoo4HITS17h");
        bytes.extend_from_slice(BUGS[3].name.as_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let expected = ["11verity_core3zoo".to_string(), BUGS[3].name.to_string()];
        assert_eq!(traces(&file), Ok(expected.to_vec()));
    }
}
