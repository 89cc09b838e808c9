//! When the state is attested, and what is hashed before.

use super::*;
use crate::time::SECOND_NS;

fn attested(node: &Node) -> Option<u64> {
    match &node.state {
        State::Running(running) => running.kernel.attestation().map(|last| last.size),
        State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => None,
    }
}

/// Records in the system's log.
fn system_records(node: &Node) -> u64 {
    let State::Running(running) = &node.state else { panic!("it runs") };
    let (store, logs) = (&running.store, &running.logs);
    running.kernel.log_head(store, logs, TenantId::SYSTEM).unwrap().next.get()
}

#[test]
fn news_are_attested_in_time_and_before_the_end() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let second = SECOND_NS;
    let config = Config { attest_after_ns: Some(second), ..config() };
    let mut node = disk.open(&config);
    assert_eq!((attested(&node), node.deadline()), (None, None), "there is no news");
    let before = disk.now.monotonic;
    disk.ask(&mut node, append("a", ExpectedVersion::Any, &["one"])).unwrap();
    let first = attested(&node).expect("time went on until nothing was due");
    assert!(disk.now.monotonic >= before.plus_ns(second));
    assert_eq!(node.deadline(), None, "an attestation is no news");
    disk.ask(&mut node, append("a", ExpectedVersion::Any, &["two"])).unwrap();
    assert!(attested(&node).unwrap() > first);
    // A request right before the end is attested, and the attestation is not the callers' affair.
    let mut effects = Effects::new();
    node.submit(disk.now, append("a", ExpectedVersion::Any, &["three"]), &mut effects);
    disk.take(&mut effects);
    let records = system_records(&node);
    disk.shut_down(node);
    let mut node = disk.open(&config);
    // Head of the tenant, checkpoint of the attestation, recovery; the shutdown finds a log that
    // ends with a checkpoint.
    assert_eq!(system_records(&node), records + 3);
    assert!(node.next_reply().is_none());
    // On demand only.
    disk.shut_down(node);
    let mut node = disk.open(&Config { attest_after_ns: None, ..config });
    disk.ask(&mut node, append("a", ExpectedVersion::Any, &["four"])).unwrap();
    assert_eq!((attested(&node), node.deadline()), (None, None));
}

#[test]
fn a_full_disk_is_not_attested_and_more_room_lets_it_go_on() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let config = Config { attest_after_ns: Some(SECOND_NS), ..config() };
    let space = |free_bytes| Input::Space { free_bytes };
    let mut node = disk.open(&config);
    let mut effects = Effects::new();
    node.submit(disk.now, append("a", ExpectedVersion::Any, &["one"]), &mut effects);
    // The disk fills up between the write and its attestation: no deadline wakes the driver for it.
    node.step(disk.now, space(1 << 20), &mut effects);
    disk.take(&mut effects);
    disk.settle(&mut node);
    let records = system_records(&node);
    assert_eq!((attested(&node), node.deadline()), (None, None));
    disk.now.monotonic = disk.now.monotonic.plus_ns(10 * SECOND_NS);
    node.step(disk.now, Input::Tick, &mut effects);
    disk.take(&mut effects);
    disk.settle(&mut node);
    assert_eq!((attested(&node), system_records(&node)), (None, records));
    node.step(disk.now, space(1 << 40), &mut effects);
    disk.take(&mut effects);
    disk.settle(&mut node);
    assert!(attested(&node).is_some(), "there is room again");
    // And the end of a node on a full disk adds no attestation.
    node.submit(disk.now, append("a", ExpectedVersion::Any, &["two"]), &mut effects);
    node.step(disk.now, space(1 << 20), &mut effects);
    disk.take(&mut effects);
    let before = system_records(&node);
    disk.shut_down(node);
    let node = disk.open(&config);
    // The recovery; the system's log ended with a checkpoint record already.
    assert_eq!(system_records(&node), before + 1);
    disk.shut_down(node);
}

fn running(node: &Node) -> &Running {
    let State::Running(running) = &node.state else { panic!("it runs") };
    running
}

/// Completions, and no time passes.
fn complete(disk: &mut Disk, node: &mut Node) {
    let mut effects = Effects::new();
    while let Some(input) = disk.pending.pop_front() {
        node.step(disk.now, input, &mut effects);
        disk.take(&mut effects);
    }
}

/// 20 rows all over the table.
fn insert(disk: &mut Disk, node: &mut Node, round: u32) {
    let row = |at: u32| {
        let key = (round * 20 + at).wrapping_mul(0x9e37_79b1);
        format!("({key}, '{}')", "x".repeat(700))
    };
    let rows: Vec<String> = (0..20).map(row).collect();
    let insert = format!("INSERT INTO t VALUES {}", rows.join(", "));
    let mut effects = Effects::new();
    node.submit(disk.now, sql(&insert, &[]), &mut effects);
    disk.take(&mut effects);
    complete(disk, node);
    let (_, reply) = node.next_reply().expect("a commit waits for no attestation");
    reply.unwrap();
}

/// A node with so many pages that are not hashed, and an attestation that is due now.
fn due(disk: &mut Disk) -> (Node, u32) {
    disk.format(ClusterConstants::SMALL);
    let config = Config { attest_after_ns: Some(SECOND_NS), ..config() };
    let mut node = disk.open(&config);
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, note TEXT)";
    disk.ask(&mut node, sql(create, &[])).unwrap();
    for round in 0..20 {
        insert(disk, &mut node, round);
    }
    let pages = running(&node).store.dirty_pages();
    assert!(pages > 80, "{pages}");
    assert!(running(&node).checkpoint.is_none());
    disk.now.monotonic = disk.now.monotonic.plus_ns(2 * SECOND_NS);
    (node, pages)
}

/// One turn of a driver that has nothing else to do; false: it would sleep.
fn tick(disk: &mut Disk, node: &mut Node) -> bool {
    let mut effects = Effects::new();
    if node.deadline().is_none_or(|deadline| deadline > disk.now.monotonic) {
        return false;
    }
    node.step(disk.now, Input::Tick, &mut effects);
    disk.take(&mut effects);
    true
}

#[test]
fn pages_are_hashed_before_an_attestation_while_commits_go_on() {
    let mut disk = Disk::new();
    let (mut node, pages) = due(&mut disk);
    let before = attested(&node);
    assert!(tick(&mut disk, &mut node));
    assert!(!running(&node).store.all_hashed(), "a few pages in a turn");
    insert(&mut disk, &mut node, 20);
    assert_eq!(attested(&node), before);
    let mut ticks = 0;
    while !running(&node).store.all_hashed() {
        assert_eq!(attested(&node), before);
        assert!(tick(&mut disk, &mut node), "the driver does not sleep over it");
        ticks += 1;
    }
    assert!((pages / 16..pages).contains(&ticks), "{ticks} turns for {pages} pages");
    // It was proposed in the same turn, and has nothing to hash.
    complete(&mut disk, &mut node);
    assert!(attested(&node) > before);
    assert_eq!(node.deadline().filter(|deadline| *deadline <= disk.now.monotonic), None);
}

/// What is hashed may be changed again, faster than it is hashed: there is an end to it.
#[test]
fn an_attestation_comes_although_not_all_is_hashed() {
    let mut disk = Disk::new();
    let (mut node, pages) = due(&mut disk);
    let before = attested(&node);
    let mut left = 2 * pages as usize + 1;
    for _ in 0..3 {
        assert!(tick(&mut disk, &mut node));
        let State::Running(running) = &mut node.state else { panic!("it runs") };
        let ahead = running.attesting.ahead.replace(9).expect("hashing has begun");
        assert!(ahead < left, "{ahead} of {left} pages left");
        left = 9;
    }
    while running(&node).attesting.ahead.is_some() {
        assert!(tick(&mut disk, &mut node));
    }
    assert!(!running(&node).store.all_hashed());
    complete(&mut disk, &mut node);
    assert!(attested(&node) > before);
}

#[test]
fn a_value_that_is_not_in_memory_is_left_to_the_attestation() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let config = Config { attest_after_ns: Some(SECOND_NS), evict_everything: true, ..config() };
    let mut node = disk.open(&config);
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT, note TEXT)";
    disk.ask(&mut node, sql(create, &[])).unwrap();
    let large = format!("INSERT INTO t VALUES (1, 1, '{}')", "x".repeat(50_000));
    disk.ask(&mut node, sql(&large, &[])).unwrap();
    let first = attested(&node).expect("time went on until nothing was due");
    disk.ask(&mut node, sql("INSERT INTO t VALUES (2, 2, 'small')", &[])).unwrap();
    assert!(attested(&node).unwrap() > first);
}
