//! Many clients in a loop: one half of them is written while the other is applied.

use alloc::collections::BTreeSet;

use super::*;

const CLIENTS: usize = 32;

#[test]
fn a_crowd_falls_into_two_halves() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let mut effects = Effects::new();
    let mut ask_again = CLIENTS;
    let mut answered_at_once = Vec::new();
    while answered_at_once.len() < 40 {
        for _ in 0..core::mem::take(&mut ask_again) {
            node.enqueue(append("visits", ExpectedVersion::Any, &["a visit"]));
        }
        node.run(disk.now, &mut effects);
        disk.take(&mut effects);
        let input = disk.pending.pop_front().expect("somebody waits");
        disk.now.monotonic = disk.now.monotonic.plus_ns(10_000);
        node.hurry(disk.now, &mut effects);
        disk.take(&mut effects);
        node.step(disk.now, input, &mut effects);
        disk.take(&mut effects);
        while let Some((_, reply)) = node.next_reply() {
            reply.unwrap();
            ask_again += 1;
        }
        if ask_again > 0 {
            answered_at_once.push(ask_again);
        }
    }
    let settled = &answered_at_once[8..];
    let halves = CLIENTS / 4..=CLIENTS / 4 * 3;
    assert!(settled.iter().all(|count| halves.contains(count)), "{answered_at_once:?}");
}

/// So few that one prepare takes them all.
const SEVEN: usize = 7;

/// A node that has a prepare of seven appends on its way to the disk.
fn with_a_prepare_of_seven() -> (Disk, Node, Effects) {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let mut effects = Effects::new();
    // Alone on its way, so that the next ones gather.
    node.submit(disk.now, append("visits", ExpectedVersion::Any, &["first"]), &mut effects);
    for _ in 0..SEVEN {
        node.enqueue(append("visits", ExpectedVersion::Any, &["a visit"]));
    }
    node.run(disk.now, &mut effects);
    disk.take(&mut effects);
    assert_eq!(disk.pending.len(), 1);
    let input = disk.pending.pop_front().expect("the first is being written");
    node.step(disk.now, input, &mut effects);
    disk.take(&mut effects);
    assert_eq!(replies(&mut node), 1);
    (disk, node, effects)
}

fn replies(node: &mut Node) -> usize {
    core::iter::from_fn(|| node.next_reply()).inspect(|(_, reply)| assert!(reply.is_ok())).count()
}

fn head(node: &mut Node) -> crate::ids::Op {
    node.status().expect("it runs").op
}

/// Positions of the answers that are there.
fn answered(node: &mut Node) -> Vec<u64> {
    core::iter::from_fn(|| node.next_reply())
        .map(|(_, reply)| reply.unwrap().position.expect("it appended").get())
        .collect()
}

/// What a read of this moment shows: all that it needs is in memory.
fn shown(disk: &Disk, node: &mut Node) -> u64 {
    let mut read = Read::sql(TenantId::DEFAULT, "SELECT COUNT(*) FROM __events", Vec::new());
    let mut progress = Progress::Yielded;
    while progress == Progress::Yielded {
        progress = node.read(disk.now, &mut read, &mut Effects::new());
    }
    assert_eq!(progress, Progress::Ready);
    read.finish().unwrap().position.get()
}

/// Who is answered amid a prepare reads what it wrote, and finds it after a crash.
#[test]
fn a_prepare_is_applied_and_answered_in_slices_for_who_asks() {
    for crash_after in 1..=3 {
        let (mut disk, mut node, mut effects) = with_a_prepare_of_seven();
        node.slice(true);
        let mut slices = Vec::new();
        let mut last = 0;
        while slices.len() < crash_after {
            if node.is_paused_amid() {
                assert_eq!(node.deadline(), Some(disk.now.monotonic), "the rest waits for nothing");
                node.run(disk.now, &mut effects);
            } else {
                let input = disk.pending.pop_front().expect("it is being written");
                node.step(disk.now, input, &mut effects);
            }
            disk.take(&mut effects);
            let positions = answered(&mut node);
            if let Some(position) = positions.last() {
                assert!(positions.is_sorted() && positions[0] > last, "in order, each once");
                last = *position;
                assert_eq!(shown(&disk, &mut node), last, "what is answered is shown, and no more");
                slices.push(positions.len());
            }
        }
        assert_eq!(slices, [3, 3, 1][..crash_after]);
        assert_eq!(node.is_paused(), crash_after < 3);
        drop(node);
        disk.pending.clear();
        let mut node = disk.open(&config());
        let found = select(&mut disk, &mut node, "SELECT COUNT(*) FROM __events").unwrap();
        assert!(found.position.get() >= last);
    }
}

#[test]
fn a_crowd_goes_out_between_two_slices_and_a_few_do_not() {
    for (gathered, goes) in [(2, false), (3, true)] {
        let (mut disk, mut node, mut effects) = with_a_prepare_of_seven();
        node.slice(true);
        while !node.is_paused() {
            let input = disk.pending.pop_front().expect("it is being written");
            node.step(disk.now, input, &mut effects);
            disk.take(&mut effects);
        }
        assert!(!node.gathers(), "nothing is on its way to the disk");
        let before = head(&mut node);
        for _ in 0..gathered {
            node.enqueue(append("visits", ExpectedVersion::Any, &["another"]));
        }
        node.hurry(disk.now, &mut effects);
        assert_eq!(head(&mut node) > before, goes, "{gathered}");
        disk.take(&mut effects);
        // Whatever was done amid: all are answered.
        let mut answered = 0;
        while answered < SEVEN + gathered {
            match disk.pending.pop_front() {
                Some(input) => node.step(disk.now, input, &mut effects),
                None => node.step(disk.now, Input::Tick, &mut effects),
            }
            disk.take(&mut effects);
            answered += replies(&mut node);
        }
    }
}

#[test]
fn who_is_answered_is_not_kept_waiting_for_the_next_prepare() {
    let (mut disk, mut node, mut effects) = with_a_prepare_of_seven();
    // The next prepare is written before the completion of this one is looked at.
    for _ in 0..SEVEN {
        node.enqueue(append("visits", ExpectedVersion::Any, &["another"]));
    }
    node.hurry(disk.now, &mut effects);
    disk.take(&mut effects);
    let both = disk.pending.len();
    assert!(both >= 2, "two prepares are being written");
    node.slice(true);
    for input in disk.pending.drain(..).collect::<Vec<_>>() {
        node.step(disk.now, input, &mut effects);
    }
    while replies(&mut node) == 0 {
        node.run(disk.now, &mut effects);
    }
    assert!(node.is_paused(), "the next prepare is still to be applied");
}

/// What is random is drawn for each request of a prepare, and the same whatever the slices.
#[test]
fn slices_draw_what_a_whole_prepare_draws() {
    let drawn = |sliced: bool| {
        let mut disk = Disk::new();
        disk.format(ClusterConstants::SMALL);
        let mut node = disk.open(&config());
        disk.ask(&mut node, sql("CREATE TABLE t (id BIGINT PRIMARY KEY, drawn UUID)", &[]))
            .unwrap();
        let mut effects = Effects::new();
        // Alone on its way, so that the others share a prepare.
        for id in 0..=SEVEN {
            let text = format!("INSERT INTO t VALUES ({id}, gen_random_uuid())");
            node.submit(disk.now, sql(&text, &[]), &mut effects);
        }
        disk.take(&mut effects);
        let mut answered = 0;
        while answered <= SEVEN {
            node.slice(sliced);
            match disk.pending.pop_front() {
                Some(input) => node.step(disk.now, input, &mut effects),
                None => node.step(disk.now, Input::Tick, &mut effects),
            }
            disk.take(&mut effects);
            answered += replies(&mut node);
        }
        node.slice(false);
        let rows = select(&mut disk, &mut node, "SELECT drawn FROM t").unwrap().rows;
        rows.into_iter().map(|row| format!("{row:?}")).collect::<Vec<_>>()
    };
    let whole = drawn(false);
    assert_eq!(drawn(true), whole);
    let distinct: BTreeSet<_> = whole.iter().collect();
    assert_eq!(distinct.len(), SEVEN + 1);
}
