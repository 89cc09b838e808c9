//! From a seed to a report, whatever happens on the way: also a failed assertion is a verdict.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use crate::cluster;
use crate::report::{Failure, FailureKind, Report};
use crate::swarm::Options;
use crate::timeline::Recorder;
use crate::world::{SharedProgress, World};

thread_local! {
    /// The run of this thread, for a panic that cannot be unwound.
    static CURRENT: RefCell<Option<SharedProgress>> = const { RefCell::new(None) };
    /// The seed of a cluster that runs on this thread.
    static CLUSTER: Cell<Option<u64>> = const { Cell::new(None) };
    /// What is recorded of it.
    static RECORDER: RefCell<Recorder> = const { RefCell::new(Recorder::OFF) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs one seed. A panic becomes a failure where the build unwinds; where it aborts, the hook of
/// [`install_hook`] has the last word.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    let recorder = recorder(options);
    let mut world = World::new(seed, options, recorder.clone());
    CURRENT.with(|current| *current.borrow_mut() = Some(world.progress()));
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    CURRENT.with(|current| *current.borrow_mut() = None);
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(_) => {
            let text = LAST_PANIC.with(|last| last.borrow_mut().take());
            let text = text.unwrap_or_else(|| "no message".to_owned());
            Err(Failure::new(FailureKind::Panic, text))
        }
    };
    recorded(world.finish(outcome), &recorder)
}

/// The recorder of the run that begins on this thread.
fn recorder(options: &Options) -> Recorder {
    let recorder = Recorder::new(options.timeline);
    RECORDER.with(|current| *current.borrow_mut() = recorder.clone());
    recorder
}

fn recorded(mut report: Report, recorder: &Recorder) -> Report {
    report.timeline = recorder.so_far().map(Box::new);
    report
}

/// As [`run`], of a cluster of nodes.
#[must_use]
pub fn run_cluster(seed: u64, options: &Options) -> Report {
    CLUSTER.set(Some(seed));
    let recorder = recorder(options);
    let outcome = catch_unwind(AssertUnwindSafe(|| cluster::report(seed, options, &recorder)));
    CLUSTER.set(None);
    let report = outcome.unwrap_or_else(|_| {
        let text = LAST_PANIC.with(|last| last.borrow_mut().take());
        panicked(seed, text.as_deref().unwrap_or("no message"))
    });
    recorded(report, &recorder)
}

fn panicked(seed: u64, text: &str) -> Report {
    let failure = Some(Failure::new(FailureKind::Panic, text));
    Report { seed, failure, ..Report::default() }
}

/// As [`run_twice`], of a cluster of nodes.
#[must_use]
pub fn run_cluster_twice(seed: u64, options: &Options) -> Report {
    compare(run_cluster(seed, options), || run_cluster(seed, options))
}

/// Runs a seed twice; a difference between the traces is a failure of its own.
#[must_use]
pub fn run_twice(seed: u64, options: &Options) -> Report {
    compare(run(seed, options), || run(seed, options))
}

fn compare(first: Report, again: impl FnOnce() -> Report) -> Report {
    if !first.ok() {
        return first;
    }
    let mut second = again();
    if second.ok() && second.trace_hash != first.trace_hash {
        let detail = format!("{} then {}", first.trace_hash_hex(), second.trace_hash_hex());
        second.failure = Some(Failure::new(FailureKind::Nondeterminism, detail));
    }
    second
}

/// Remembers what a panic said. Where panics abort, `last_word` gets the report before the end.
pub fn install_hook(last_word: fn(Report)) {
    std::panic::set_hook(Box::new(move |info| {
        let text = describe(info);
        if cfg!(panic = "abort")
            && let Some(report) = partial_report(&text)
        {
            let recorder = RECORDER.with(|current| current.borrow().clone());
            last_word(recorded(report, &recorder));
        }
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(text));
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info
        .location()
        .map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    format!("{}{place}", info.payload_as_str().unwrap_or("a panic without words"))
}

fn partial_report(text: &str) -> Option<Report> {
    if let Some(seed) = CLUSTER.get() {
        return Some(panicked(seed, text));
    }
    let progress = CURRENT.with(|current| current.borrow().clone())?;
    let progress = progress.try_borrow().ok()?;
    let mut report = progress.report.clone();
    report.failure = Some(Failure::new(FailureKind::Panic, text));
    report.trace_hash = progress.trace.hash();
    report.ticks = progress.trace.ticks;
    report.events_seen = progress.trace.events_seen();
    report.lines = progress.trace.lines().to_vec();
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::{run, run_cluster, run_twice};
    use crate::overrides::{Overrides, Switch, Switches};
    use crate::report::Report;
    use crate::swarm::{Options, Plan};

    fn hold(seed: u64) {
        let report = run(seed, &Options::default());
        assert!(report.ok(), "seed {seed}: {:?}", report.failure);
    }

    #[test]
    fn a_few_seeds_hold() {
        (1..=3).for_each(hold);
    }

    #[test]
    fn seeds_that_once_failed_hold() {
        for line in include_str!("../seeds.txt").lines() {
            let first = line.split_whitespace().next().unwrap_or("#");
            if let Ok(seed) = first.parse() {
                hold(seed);
                hold_as_found(seed);
            }
        }
    }

    /// Most were found before a run could have many errors, and crashes that wait for writes.
    fn hold_as_found(seed: u64) {
        let plan = Plan::draw(seed, &Options::default());
        if plan.more_errors.is_some() || plan.crash_amid_write_ppm > 0 {
            let later = [Switch::MoreErrors, Switch::CrashAmidWrite];
            let report = run(seed, &off(later.into_iter().collect()));
            assert!(report.ok(), "seed {seed} without {later:?}: {:?}", report.failure);
        }
    }

    fn with(overrides: Overrides) -> Options {
        Options { overrides, ..Options::default() }
    }

    fn off(off: Switches) -> Options {
        with(Overrides { off, ..Overrides::default() })
    }

    /// Trouble that does not come can be switched off; trouble that comes makes a difference.
    fn check_switches(run: fn(u64, &Options) -> Report, seed: u64) {
        let whole = run(seed, &Options::default());
        let Some(met) = whole.met else { panic!("seed {seed}: {:?}", whole.failure) };
        let idle = Switch::ALL.into_iter().filter(|switch| !met.contains(*switch)).collect();
        let same = run(seed, &off(idle));
        assert_eq!(same.trace_hash, whole.trace_hash, "seed {seed} without {idle:?}");
        let quiet = run(seed, &off(Switch::ALL.into_iter().collect()));
        assert!(quiet.ok(), "seed {seed}: {:?}", quiet.failure);
        assert_ne!(quiet.trace_hash, whole.trace_hash, "seed {seed} without {met:?}");
        assert_eq!(quiet.crashes, 0, "seed {seed}");
        assert!(!met.is_empty());
    }

    #[test]
    fn what_does_not_come_can_be_switched_off_and_nothing_changes() {
        check_switches(run, 1);
        check_switches(run, 2);
        check_switches(run_cluster, 3);
    }

    #[test]
    fn a_run_that_is_cut_short_is_the_same_up_to_there() {
        // Neither is ended by damage, before it has asked all that a round is for.
        for (run, seed) in [(run as fn(u64, &Options) -> Report, 8), (run_cluster, 2)] {
            let lines = |requests_max| {
                let overrides = Overrides { requests_max, ..Overrides::default() };
                let report = run(seed, &Options { lines: true, ..with(overrides) });
                assert!(report.ok(), "{:?}", report.failure);
                report
            };
            let whole = lines(None);
            assert_eq!(lines(Some(whole.asked)).trace_hash, whole.trace_hash, "seed {seed}");
            let short = lines(Some(40));
            assert!(short.asked < whole.asked, "{} of {}", short.asked, whole.asked);
            let same = short.lines.iter().zip(&whole.lines).take_while(|(a, b)| a == b).count();
            // Forty requests, and all that they moved.
            assert!(same > 400, "the same for {same} of {} lines", short.lines.len());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        let report = run_twice(5, &Options::default());
        assert!(report.ok(), "{:?}", report.failure);
        let other = run(6, &Options::default());
        assert_ne!(report.trace_hash, other.trace_hash);
    }
}
