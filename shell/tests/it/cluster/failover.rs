//! How long nobody can write when the primary is lost, and that load alone moves no view.
//!
//! The figures are in docs/NETWORK.md. A machine of tests is busy: what is asserted is what silence
//! alone could not give (`VSR_SUSPECT_NS` is 600 ms), with room for a machine that does other
//! things; `failover_times` prints what the figures are made from.

use std::time::{Duration, Instant};

use verity::Verity;

use super::processes::{Cluster, report};
use super::writers::Writers;

/// So many writers without a pause leave nothing of two cores to three replicas.
const FULL: i64 = 32;

/// What is done to a primary.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    /// Cut off, and no packet says so.
    Cut,
    Term,
}

/// First acknowledged write after the fault, so many times; nothing is lost, nothing doubled.
fn failovers(fault: Fault, rounds: usize) -> Vec<Duration> {
    failovers_under(fault, rounds, |cluster| Writers::start(cluster, 3))
}

fn failovers_under(
    fault: Fault,
    rounds: usize,
    load: impl Fn(&Cluster) -> Writers,
) -> Vec<Duration> {
    let mut cluster = match fault {
        Fault::Cut => Cluster::apart(),
        Fault::Kill | Fault::Stop | Fault::Term => Cluster::new(),
    };
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let writers = load(&cluster);
    let mut times = Vec::new();
    for _ in 0..rounds {
        writers.wait_for_progress(100);
        let primary = cluster.primary();
        let begun = Instant::now();
        match fault {
            Fault::Kill => cluster.kill(primary),
            Fault::Stop => cluster.stop(primary),
            Fault::Cut => cluster.namespaces().cut(primary),
            Fault::Term => cluster.signal(primary, "TERM"),
        }
        writers.wait_for_progress(1);
        times.push(begun.elapsed());
        writers.wait_for_progress(100);
        match fault {
            Fault::Kill => cluster.start(primary),
            Fault::Stop => cluster.signal(primary, "CONT"),
            Fault::Cut => cluster.namespaces().heal(primary),
            Fault::Term => {
                assert_eq!(cluster.wait_for_end(primary), Some(0));
                cluster.start(primary);
            }
        }
        cluster.wait_healthy();
    }
    writers.finish().check(&cluster);
    println!("{fault:?}: first write after {times:?}");
    times.sort_unstable();
    println!("{fault:?}: median {:?}, worst {:?}", times[rounds / 2], times[rounds - 1]);
    times
}

#[test]
fn a_killed_primary_is_replaced_before_its_silence_is_noticed() {
    let times = failovers(Fault::Kill, 5);
    // Alone: 200 to 300 ms.
    assert!(times[2] < Duration::from_millis(600), "{times:?}");
}

/// What docs/NETWORK.md quotes.
#[test]
#[ignore = "minutes, and figures of a quiet machine"]
fn failover_times() {
    for fault in [Fault::Kill, Fault::Stop, Fault::Term] {
        failovers(fault, 10);
    }
    println!("with {FULL} writers that never pause:");
    failovers_under(Fault::Kill, 10, |cluster| Writers::start_without_pause(cluster, FULL));
}

#[test]
#[ignore = "root, and figures of a quiet machine"]
fn failover_times_of_a_silent_cut() {
    failovers(Fault::Cut, 10);
}

/// As many writers as there are, without a pause, for a minute: nobody takes a busy primary for a
/// dead one.
#[test]
#[ignore = "a minute"]
fn a_minute_of_full_load_moves_no_view() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let views = |cluster: &Cluster| -> Vec<u64> {
        let view = |address: &String| report(address).unwrap().view.get();
        cluster.addresses().iter().map(view).collect()
    };
    let before = views(&cluster);
    let writers = Writers::start_without_pause(&cluster, FULL);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        writers.wait_for_progress(1_000);
    }
    let after = views(&cluster);
    println!("views {before:?}, and after a minute {after:?}");
    assert_eq!(before, after, "{}", cluster.logs());
    writers.finish().check(&cluster);
}
