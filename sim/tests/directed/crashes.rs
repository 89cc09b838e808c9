//! A crash after every single completion of a script.
#![allow(clippy::unwrap_used, reason = "tests")]

use verity_core::ids::TenantId;
use verity_core::io::FileId;
use verity_sim::disk::{DiskFaults, Keep};
use verity_sim::replica::BootOptions;
use verity_sim::solo::Solo;

use crate::rig::{
    ALL_TORN, COLD, KEEPS, WARM, again, closed, create_tenant, insert_and_step, opened, recovers,
    run, sql, sql_of,
};

const ROWS: [u64; 4] = [10, 11, 12, 13];

fn crash_after_every_completion(seed: u64, options: BootOptions, faults: DiskFaults) {
    let base = closed(seed, 3);
    let mut crash_after = 0;
    loop {
        let mut solo = again(&base, crash_after, faults);
        solo.open(options, [3; 32]).unwrap();
        let (told, more) = insert_and_step(&mut solo, &ROWS, crash_after);
        solo.crash(KEEPS[crash_after as usize % 3]);
        recovers(&mut solo, options, 3, &ROWS, &told);
        if !more {
            assert_eq!(told.len(), ROWS.len());
            break;
        }
        crash_after += 1;
    }
    assert!(crash_after >= 2, "the script has steps: {crash_after}");
}

#[test]
fn of_inserts() {
    crash_after_every_completion(1, WARM, DiskFaults::NONE);
}

#[test]
fn of_inserts_with_no_page_in_memory() {
    crash_after_every_completion(2, COLD, DiskFaults::NONE);
}

#[test]
fn of_inserts_with_every_sector_torn() {
    crash_after_every_completion(3, WARM, ALL_TORN);
}

/// A shutdown is a checkpoint: pages, segments, syncs, four copies of the superblock. Crashes at
/// every completion of it that `at` selects.
fn crash_in_shutdown(
    seed: u64,
    options: BootOptions,
    faults: DiskFaults,
    at: impl Fn(&Solo, u64) -> bool,
) -> u64 {
    let base = closed(seed, 3);
    let mut hits = 0;
    for crash_after in 0.. {
        let mut solo = again(&base, crash_after, faults);
        solo.open(options, [3; 32]).unwrap();
        let (told, _) = insert_and_step(&mut solo, &ROWS, u64::MAX);
        assert_eq!(told.len(), ROWS.len());
        let superblocks = solo.seen("SuperblockUpdated");
        solo.begin_shutdown();
        let mut steps = 0;
        while steps < crash_after && solo.halted().is_none() && solo.step() {
            steps += 1;
        }
        let ended = solo.halted().is_some();
        if at(&solo, superblocks) {
            solo.crash(KEEPS[hits as usize % 3]);
            recovers(&mut solo, options, 3, &ROWS, &told);
            hits += 1;
        }
        if ended {
            break;
        }
    }
    hits
}

#[test]
fn of_a_checkpoint() {
    assert!(crash_in_shutdown(4, WARM, DiskFaults::NONE, |_, _| true) > 10);
}

#[test]
fn of_a_checkpoint_with_no_page_in_memory() {
    assert!(crash_in_shutdown(5, COLD, DiskFaults::NONE, |_, _| true) > 10);
}

#[test]
fn of_a_checkpoint_with_every_sector_torn() {
    assert!(crash_in_shutdown(6, WARM, ALL_TORN, |_, _| true) > 10);
}

/// Grid and segments are synced; no, one, two or three copies of the superblock are new.
#[test]
fn between_the_sync_of_the_segments_and_the_last_copy_of_the_superblock() {
    for luck in 0..6 {
        let hits = crash_in_shutdown(70 + luck, WARM, ALL_TORN, |solo, superblocks| {
            solo.disk.is_writing(FileId::Superblock)
                && solo.seen("SuperblockUpdated") == superblocks
        });
        assert!(hits >= 4, "one crash at each copy: {hits}");
    }
}

#[test]
fn in_every_completion_of_an_open() {
    let mut base = closed(8, 3);
    base.open(WARM, [3; 32]).unwrap();
    let (told, _) = insert_and_step(&mut base, &ROWS, u64::MAX);
    base.crash(Keep::Any);
    let mut crash_after = 0;
    loop {
        let mut solo = again(&base, crash_after, ALL_TORN);
        solo.boot(WARM, [4; 32]);
        let mut steps = 0;
        while steps < crash_after && solo.step() {
            steps += 1;
        }
        let more = steps == crash_after;
        solo.crash(KEEPS[crash_after as usize % 3]);
        recovers(&mut solo, WARM, 3, &ROWS, &told);
        if !more {
            break;
        }
        crash_after += 1;
    }
    assert!(crash_after > 20, "an open has steps: {crash_after}");
}

/// A tenant whose creation survives has its keys, whenever the crash comes and whatever it keeps of
/// the writes in flight.
#[test]
fn while_a_tenant_is_made_twice_at_once() {
    let base = closed(9, 1);
    let tenant = TenantId::new(2);
    let mut crash_after = 0;
    loop {
        let mut more = true;
        for luck in 0..16 {
            let mut solo = again(&base, luck, DiskFaults::NONE);
            solo.open(WARM, [3; 32]).unwrap();
            solo.send(create_tenant(tenant, 50));
            let mut steps = 0;
            while steps < crash_after && solo.step() {
                steps += 1;
                // A copy at each moment: it must not see keys that are not durable.
                if steps <= 40 {
                    solo.send(create_tenant(tenant, 50));
                }
            }
            more = steps == crash_after;
            solo.crash(Keep::Any);
            solo.open(WARM, [4; 32]).unwrap();
            solo.request(create_tenant(tenant, 50)).unwrap().unwrap();
            let table = sql_of(tenant, "CREATE TABLE u (k BIGINT PRIMARY KEY)", Vec::new(), 51);
            solo.request(table).unwrap().unwrap();
        }
        if !more || crash_after > 20 {
            break;
        }
        crash_after += 1;
    }
    assert!(crash_after > 4, "making a tenant has steps: {crash_after}");
}

#[test]
fn a_retry_gets_the_answer_of_the_first_time() {
    let mut solo = opened(10);
    crate::rig::fill(&mut solo, 2);
    let first = run(&mut solo, "UPDATE t SET v = 'x' WHERE k < 5", 900);
    assert_eq!(first.rows_affected(), 2);
    run(&mut solo, "INSERT INTO t (k, v) VALUES (3, 'y')", 901);
    solo.crash(Keep::Nothing);
    solo.open(COLD, [5; 32]).unwrap();
    let again = run(&mut solo, "UPDATE t SET v = 'x' WHERE k < 5", 900);
    assert!(again.replayed);
    assert_eq!((again.position, again.results), (first.position, first.results));
    assert!(solo.request(sql("DELETE FROM t", Vec::new(), 900)).unwrap().is_err(), "another body");
    assert_eq!(crate::rig::count(&mut solo), 3);
}
