//! Many clients in a loop: one half of them is written while the other is applied.

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
