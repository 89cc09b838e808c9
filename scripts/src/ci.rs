//! What `.ci/run` does: every check there is, in order of how soon it can fail.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::steps::{
    Steps, Verdict, capture_ok, cargo, release_binary, run as run_command, run_tests,
};
use crate::{chaos, main_job, slt, tidy, vopr, zoo};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Format, lints, tidy and tests only.
    #[arg(long)]
    quick: bool,
    /// Seeds of the simulator that are always the same.
    #[arg(long, value_name = "N", default_value_t = 100)]
    fixed_seeds: u64,
    /// Seconds for seeds that nobody has tried before.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    fresh_seconds: u64,
    /// The same for clusters.
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    fresh_cluster_seconds: u64,
}

/// Seeds whose traces are compared between debug and release: with and without crashes, damage,
/// wraps and twins among them.
const TRACE_SEEDS: &[u64] = &[1, 2, 5, 7, 9, 17, 20, 25, 32, 33];

/// Fixed seeds stop here, however slow the machine.
const FIXED_SEEDS_BUDGET: Duration = Duration::from_secs(240);
/// Of core's own campaigns, by a build of tests; a seed takes a second or two.
const FRESH_STORE_SEEDS: u64 = 20;
const FRESH_TRANSACTION_SEEDS: u64 = 20;
/// Runs of a cluster, about a second each.
const CLUSTER_SEEDS: u64 = 40;
/// Each has found a bug. The first: a replica that had fetched a checkpoint said a commit number of
/// a later view under its old one, and another believed it. The next two were the model's: a
/// replica that lags behind the creation of a table answers what the log has, and it said no. The
/// fourth: headers that had rotted to zeros were taken for headers that were never written. The
/// fifth was the checker's again: as of a position that a replica has not got to, it may say that
/// there is no such table. The sixth: a page of an index was written while a load of it was in
/// flight. The seventh: a tour of scrubbing with a cold cache was taken for a standstill. The last
/// two: a state sync halted on a page that it had fetched and whose write was lost.
const CLUSTER_SEEDS_FOUND: [u64; 9] = [
    1_795_358_960_000_005,
    1_795_358_960_000_034,
    1_795_358_960_000_477,
    1_795_365_882_000_109,
    1_795_409_093_000_050,
    9_200_001,
    9_400_068,
    9_500_028,
    9_500_112,
];

pub fn run(options: &Options) -> Result<bool, String> {
    let mut steps = Steps::new();
    steps.step("format", || {
        run_command(&mut cargo(&["fmt", "--all", "--check"]))?;
        Ok(Verdict::Passed(1))
    });
    steps.step("lints", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        run_command(&mut cargo(&arguments))?;
        Ok(Verdict::Passed(1))
    });
    steps.step("tidy", || {
        if tidy::run()? { Ok(Verdict::Passed(1)) } else { Err("see above".to_string()) }
    });
    steps.step("tests", || {
        let arguments = ["test", "--workspace", "--no-fail-fast"];
        Ok(Verdict::Passed(run_tests(&mut cargo(&arguments))?))
    });
    others(&mut steps);
    if !options.quick {
        // Against an ordered map with a fault at every page, against a twin, through crashes.
        steps.step("store, fresh seeds", || fresh_of_core("store_campaign", FRESH_STORE_SEEDS));
        // Transactions of schema and rows in three kinds of memory, through crashes.
        steps.step("transactions, fresh seeds", || {
            fresh_of_core("transaction_campaign", FRESH_TRANSACTION_SEEDS)
        });
        steps.step("SQL logic tests, a part, all modes", || {
            slt::run(&slt::Options { dev: true, ..slt::Options::default() })?;
            Ok(Verdict::Passed(1))
        });
        slow(options, &mut steps);
    }
    Ok(steps.finish())
}

/// What other languages say of our proofs. Where they are not on the machine and could not be got,
/// the step is skipped, and says so.
fn others(steps: &mut Steps) {
    steps.step("second verifier of proofs", || {
        let python = std::env::var_os("VERITY_PYTHON").unwrap_or_else(|| "python3".into());
        if let Some(why) = lacks(Command::new(&python).args(["-c", "import cryptography"])) {
            println!("skipped: the second verifier needs Python and its cryptography: {why}");
            return Ok(Verdict::Skipped);
        }
        let mut check = Command::new(python);
        run_command(check.arg("docs/verifier/check.py").current_dir(tidy::root()))?;
        Ok(Verdict::Passed(1))
    });
    steps.step("other people's tools read what is signed", || {
        let dir = tidy::root().join("scripts/interop");
        let go = |arguments: &[&str]| {
            let mut command = Command::new("go");
            command.args(arguments).current_dir(&dir);
            command
        };
        if let Some(why) = lacks(&mut go(&["mod", "download"])) {
            println!("skipped: the check needs Go and its module golang.org/x/mod: {why}");
            return Ok(Verdict::Skipped);
        }
        run_command(&mut go(&["test", "-count=1", "./..."]))?;
        Ok(Verdict::Passed(1))
    });
}

/// Why a command that something needs does not run here.
fn lacks(command: &mut Command) -> Option<String> {
    capture_ok(command).err().map(|why| why.trim().replace('\n', " "))
}

/// A number that no earlier run began with.
fn fresh_base() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs()) * 1_000_000
}

/// Seeds that nobody has tried before, one after the other; a failure names its own.
fn fresh(simulator: &Path, seconds: u64, more: &[&str]) -> Result<u64, String> {
    let first = fresh_base();
    println!("fresh seeds from {first} {}", more.join(" "));
    vopr::hold(simulator, first, u64::MAX, Duration::from_secs(seconds), more)
}

/// A campaign of core's own tests over seeds that nobody has tried before.
fn fresh_of_core(campaign: &str, count: u64) -> Result<Verdict, String> {
    let first = fresh_base();
    let last = first + count;
    println!(
        "fresh seeds from {first}; again: VERITY_SEEDS={first}..{last} cargo test --workspace \
         --lib {campaign} -- --ignored --nocapture"
    );
    // As the tests before were built; of the other packages none has this name.
    let arguments = ["test", "--workspace", "--lib", campaign, "--"];
    let mut command = cargo(&arguments);
    command.args(["--ignored", "--nocapture"]);
    command.env("VERITY_SEEDS", format!("{first}..{last}"));
    Ok(Verdict::Passed(run_tests(&mut command)?))
}

fn slow(options: &Options, steps: &mut Steps) {
    steps.step("chaos, a fresh seed", || {
        let options = chaos::Options { minutes: 2, workspace: true, ..chaos::Options::default() };
        match chaos::run(&options)? {
            true => Ok(Verdict::Passed(1)),
            false => Err("a round does not hold: see above".to_string()),
        }
    });
    let built = steps.step("release build", || {
        run_command(&mut cargo(&["build", "--release", "--workspace"]))?;
        Ok(Verdict::Passed(1))
    });
    if !built {
        return;
    }
    let simulator = release_binary("vopr");
    steps.step("simulator, fixed seeds", || {
        let count = options.fixed_seeds;
        Ok(Verdict::of(vopr::hold(&simulator, 1, count, FIXED_SEEDS_BUDGET, &[])?, count))
    });
    steps.step("simulator, fixed seeds of clusters", || {
        let budget = FIXED_SEEDS_BUDGET;
        let mut held = vopr::hold(&simulator, 1, CLUSTER_SEEDS, budget, &["--cluster"])?;
        for found in CLUSTER_SEEDS_FOUND {
            held += vopr::hold(&simulator, found, 1, budget, &["--cluster"])?;
        }
        Ok(Verdict::of(held, CLUSTER_SEEDS + CLUSTER_SEEDS_FOUND.len() as u64))
    });
    steps.step("simulator, fresh seeds", || {
        Ok(Verdict::Passed(fresh(&simulator, options.fresh_seconds, &[])?))
    });
    steps.step("simulator, fresh seeds of clusters", || {
        Ok(Verdict::Passed(fresh(&simulator, options.fresh_cluster_seconds, &["--cluster"])?))
    });
    steps.step("simulator, same trace in debug and release", || {
        // With the features that the tests were built with: only this binary is missing.
        run_command(&mut cargo(&["build", "--workspace", "--tests", "--bin", "vopr"]))?;
        let debug = crate::steps::target_dir().join("debug/vopr");
        Ok(Verdict::Passed(vopr::same_traces(&simulator, &debug, TRACE_SEEDS)?))
    });
    steps.step("zoo", || {
        if zoo::run(&zoo::Options::all())? {
            Ok(Verdict::Passed(zoo::count()))
        } else {
            Err("a deliberate bug went unseen".to_string())
        }
    });
    steps.step("no zoo in the release binaries", || {
        let verity = zoo::release_is_clean(&release_binary("verity"))?;
        Ok(Verdict::Passed(verity + zoo::release_is_clean(&simulator)?))
    });
    steps.step("demo", || {
        main_job::demo(&release_binary("verity"))?;
        Ok(Verdict::Passed(1))
    });
    steps.step("main job on real data", || match main_job::run_all(&release_binary("verity"))? {
        Some(count) => Ok(Verdict::Passed(count)),
        None => Ok(Verdict::Skipped),
    });
}
