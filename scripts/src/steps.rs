//! Running things: one step after the other, each with its time and its verdict.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many checks held.
    Passed(u64),
    /// For more there was no time.
    PassedOf { passed: u64, asked: u64 },
    /// It could not run here; the reason is printed.
    Skipped,
}

/// All steps of one run.
#[derive(Debug)]
pub struct Steps {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    started: Instant,
    failures: Vec<String>,
}

impl Verdict {
    /// So many of those that were asked for held, and the others did not run.
    pub fn of(passed: u64, asked: u64) -> Verdict {
        if passed == asked { Verdict::Passed(passed) } else { Verdict::PassedOf { passed, asked } }
    }
}

impl Steps {
    pub fn new() -> Steps {
        Steps { passed: 0, failed: 0, skipped: 0, started: Instant::now(), failures: Vec::new() }
    }

    /// Runs one step; a failed one does not stop the others.
    pub fn step(&mut self, name: &str, run: impl FnOnce() -> Result<Verdict, String>) -> bool {
        println!("\n==> {name}");
        let started = Instant::now();
        let result = run();
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(Verdict::Passed(count)) => {
                self.passed += count;
                println!("<== {name}: ok, {count} passed, {seconds:.1} s");
                true
            }
            Ok(Verdict::PassedOf { passed, asked }) => {
                self.passed += passed;
                println!("<== {name}: ok, ONLY {passed} of {asked} passed in time, {seconds:.1} s");
                true
            }
            Ok(Verdict::Skipped) => {
                self.skipped += 1;
                println!("<== {name}: SKIPPED, {seconds:.1} s");
                true
            }
            Err(error) => {
                self.failed += 1;
                self.failures.push(format!("{name}: {error}"));
                println!("<== {name}: FAILED, {seconds:.1} s: {error}");
                false
            }
        }
    }

    /// The closing lines. True: nothing failed.
    pub fn finish(self) -> bool {
        println!("\nall steps: {:.0} s", self.started.elapsed().as_secs_f64());
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        let not_tested = std::mem::take(&mut *not_tested());
        for line in &not_tested {
            println!("{line}");
        }
        let skipped = match self.skipped + not_tested.len() as u64 {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        println!("{} passed, {} failed{skipped}", self.passed, self.failed);
        self.failed == 0
    }
}

/// `cargo` with arguments, in the repository's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(crate::tidy::root());
    command
}

/// Runs a command to its end; its output is shown.
pub fn run(command: &mut Command) -> Result<(), String> {
    println!("$ {}", shown(command));
    let status = command.status().map_err(|error| format!("{}: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", shown(command))) }
}

/// Begins the line of something that could not be tested here, and says why.
pub const SKIPPED: &str = "SKIPPED: ";

/// Such lines of the tests that ran, for the end of the run.
static NOT_TESTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn not_tested() -> MutexGuard<'static, Vec<String>> {
    NOT_TESTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows what tests say on standard error; gives what they did not test.
fn relay(errors: impl Read) -> Vec<String> {
    let mut kept = Vec::new();
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        // Behind what the test runner has begun to write, perhaps.
        if let Some(at) = line.find(SKIPPED) {
            kept.push(line[at..].to_string());
        }
        eprintln!("{line}");
    }
    kept
}

/// Runs `cargo test …`; gives the number of tests that passed.
pub fn run_tests(command: &mut Command) -> Result<u64, String> {
    println!("$ {}", shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", shown(command)))?;
    let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("no output of cargo test".to_string());
    };
    let relayed = std::thread::spawn(move || relay(errors));
    let mut passed = 0;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("output of cargo test: {error}"))?;
        if let Some(count) = passed_in(&line) {
            passed += count;
        }
        // One line a test is too much to read; what failed and the sums are not.
        if !line.starts_with("test ") || !line.ends_with("... ok") {
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|error| format!("cargo test: {error}"))?;
    match relayed.join() {
        Ok(kept) => not_tested().extend(kept),
        Err(_) => return Err("cargo test: its error output was not read".to_string()),
    }
    match (status.success(), passed) {
        (true, 0) => Err("no test ran".to_string()),
        (true, passed) => Ok(passed),
        (false, _) => Err(format!("{}: {status}", shown(command))),
    }
}

/// `test result: ok. 24 passed; …`
fn passed_in(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    rest.split(' ').next()?.parse().ok()
}

/// What a command printed and how it ended; its error output is kept too.
#[derive(Debug)]
pub struct Finished {
    /// None: ended by a signal.
    pub code: Option<i32>,
    pub output: String,
    pub errors: String,
    pub took: Duration,
}

/// Runs a command quietly.
pub fn capture(command: &mut Command) -> Result<Finished, String> {
    let started = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", shown(command)))?;
    Ok(Finished {
        code: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    })
}

/// As [`capture`], demanding exit code 0.
pub fn capture_ok(command: &mut Command) -> Result<Finished, String> {
    let finished = capture(command)?;
    if finished.code == Some(0) {
        Ok(finished)
    } else {
        let Finished { code, output, errors, .. } = finished;
        Err(format!("{} ended with {code:?}\n{output}{errors}", shown(command)))
    }
}

pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let root = crate::tidy::root();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

pub fn release_binary(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// An empty folder for files of a run.
pub fn scratch(name: &str) -> Result<PathBuf, String> {
    let folder = target_dir().join("scratch").join(name);
    remove(&folder)?;
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

pub fn remove(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_test_runs_are_read() {
        let line = "test result: ok. 24 passed; 0 failed; 0 ignored; 0 measured; 46 filtered out";
        assert_eq!(passed_in(line), Some(24));
        assert_eq!(passed_in("test result: FAILED. 3 passed; 1 failed"), Some(3));
        assert_eq!(passed_in("running 24 tests"), None);
    }

    #[test]
    fn what_was_not_tested_is_kept_for_the_end() {
        let said = b"Running tests\nSKIPPED: a: no data\ntest b ... SKIPPED: b: no rights\n";
        let kept = relay(&said[..]);
        assert_eq!(kept, ["SKIPPED: a: no data", "SKIPPED: b: no rights"]);
    }

    #[test]
    fn a_failed_step_fails_the_run() {
        let mut steps = Steps::new();
        assert!(steps.step("good", || Ok(Verdict::Passed(2))));
        assert!(!steps.step("bad", || Err("broken".to_string())));
        assert_eq!((steps.passed, steps.failed), (2, 1));
        assert!(!steps.finish());
    }
}
