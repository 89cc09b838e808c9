//! Slices of jobs that are refused.

use super::*;
use crate::time::SECOND_NS;

fn refusals(node: &Node) -> u32 {
    let State::Running(running) = &node.state else { panic!("it runs") };
    running.jobs.refusals
}

#[test]
fn a_slice_that_is_refused_is_asked_for_again_but_ever_less_often() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)";
    disk.ask(&mut node, sql(create, &[])).unwrap();
    for hundred in 0..22 {
        let rows: Vec<String> =
            (0..100).map(|at| format!("({}, {at})", hundred * 100 + at)).collect();
        let insert = format!("INSERT INTO t VALUES {}", rows.join(", "));
        disk.ask(&mut node, sql(&insert, &[])).unwrap();
    }
    let mut effects = Effects::new();
    node.submit(disk.now, sql("CREATE INDEX by_n ON t (n)", &[]), &mut effects);
    disk.take(&mut effects);
    while node.next_reply().is_none() {
        let input = disk.pending.pop_front().expect("the index is being created");
        node.step(disk.now, input, &mut effects);
        disk.take(&mut effects);
    }
    assert!(!node.jobs_idle(), "a job builds it");
    // A minute on a full disk, with something going on all the time.
    node.step(disk.now, Input::Space { free_bytes: 1 << 20 }, &mut effects);
    let end = disk.now.monotonic.plus_ns(60 * SECOND_NS);
    let (mut turns, mut most) = (0, 0);
    while disk.now.monotonic < end {
        disk.now.monotonic = disk.now.monotonic.plus_ns(SECOND_NS / 1_000);
        disk.take(&mut effects);
        let input = disk.pending.pop_front().unwrap_or(Input::Tick);
        node.step(disk.now, input, &mut effects);
        assert!(node.deadline().is_none_or(|due| due > disk.now.monotonic), "no driver spins");
        turns += 1;
        most = most.max(refusals(&node));
    }
    assert!((5..20).contains(&most), "{most} refusals in {turns} turns");
    node.step(disk.now, Input::Space { free_bytes: 1 << 40 }, &mut effects);
    disk.take(&mut effects);
    disk.settle(&mut node);
    assert!(node.jobs_idle() && refusals(&node) == 0, "it was built when there was room");
    disk.shut_down(node);
}
