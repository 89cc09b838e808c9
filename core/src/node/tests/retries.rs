//! A retry that comes while its first copy is under way, at every moment.

use super::*;

const STATEMENTS: [&str; 3] = [
    "CREATE TABLE wards (id BIGINT PRIMARY KEY, name TEXT NOT NULL)",
    "INSERT INTO wards VALUES (1, 'north'), (2, 'south')",
    "CREATE TABLE beds (id BIGINT PRIMARY KEY)",
];

/// Its statements are refused once a part of them is applied: only what is on record answers them.
fn creates(disk: &Disk) -> Request {
    let operations = STATEMENTS
        .map(|text| Operation::Sql { text: text.to_string(), params: Vec::new() })
        .to_vec();
    Request { operations, idempotency: id(disk, 255), ..sql("-", &[]) }
}

fn id(disk: &Disk, serial: u8) -> IdempotencyId {
    IdempotencyId::new(disk.now.wall.as_ms() + 24 * 3_600_000, [serial; 10])
}

/// One input, or a tick.
pub(super) fn turn(disk: &mut Disk, node: &mut Node) {
    let mut effects = Effects::new();
    disk.now.monotonic = disk.now.monotonic.plus_ns(10_000);
    let input = disk.pending.pop_front().unwrap_or(Input::Tick);
    if let (Input::Tick, Some(deadline)) = (&input, node.deadline()) {
        disk.now.monotonic = disk.now.monotonic.max(deadline);
    }
    node.step(disk.now, input, &mut effects);
    disk.take(&mut effects);
}

/// Submits the request and, `turns` later, the same again. Had the first been answered by then?
fn ask_twice(turns: usize, full: bool) -> bool {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    // Trees of some height, on the disk.
    disk.ask(&mut node, sql("CREATE TABLE seen (id BIGINT PRIMARY KEY, name TEXT)", &[])).unwrap();
    for serial in 0..200 {
        disk.ask(
            &mut node,
            Request {
                idempotency: id(&disk, serial),
                ..insert_row("seen", i64::from(serial), "x")
            },
        )
        .unwrap();
    }
    disk.shut_down(node);
    let mut node = disk.open(&Config { evict_everything: true, ..config() });
    let (request, mut effects) = (creates(&disk), Effects::new());
    let first = node.submit(disk.now, request.clone(), &mut effects);
    disk.take(&mut effects);
    for _ in 0..turns {
        turn(&mut disk, &mut node);
    }
    if full {
        node.step(disk.now, Input::Space { free_bytes: 1 << 20 }, &mut effects);
    }
    let answered = node.next_reply();
    let was_answered = answered.is_some();
    let second = node.submit(disk.now, request, &mut effects);
    disk.take(&mut effects);
    disk.settle(&mut node);
    // What is acknowledged can be read at once: so nobody is told before the first copy is.
    let (ticket, reply) = answered.or_else(|| node.next_reply()).expect("the first reply");
    assert_eq!(ticket, first, "turn {turns}: the retry is answered first");
    let first = reply.unwrap_or_else(|error| panic!("turn {turns}: {error}"));
    let (ticket, reply) = node.next_reply().expect("the second reply");
    assert_eq!(ticket, second);
    let again = reply.unwrap_or_else(|error| panic!("turn {turns}: the retry: {error}"));
    assert_eq!((again.position, again.replayed), (first.position, true), "turn {turns}");
    was_answered
}

#[test]
fn a_retry_amid_its_first_copy_gets_the_same_answer_and_not_before_it() {
    let turns = (0..10_000).find(|turns| ask_twice(*turns, false)).expect("an end");
    assert!(turns > 10, "the first copy met few faults: {turns} turns");
}

#[test]
fn a_retry_on_a_disk_that_filled_amid_its_first_copy_gets_the_same_answer() {
    // From the turn on in which the first copy is on its way: before, both are refused.
    let turns = (0..10_000).find(|turns| ask_twice(*turns, false)).expect("an end");
    for turns in (0..=turns).rev().take(turns / 2) {
        ask_twice(turns, true);
    }
}
