//! An error of the disk at every read, write and sync: the node stops, says why, and a new process
//! has everything that was acknowledged.
#![allow(clippy::unwrap_used, reason = "tests")]

use verity_core::io::IoError;
use verity_core::node::Halt;
use verity_sim::disk::{DiskFaults, Keep, Planned};

use crate::rig::{COLD, KEEPS, WARM, again, closed, insert_and_step, recovers};

const ROWS: [u64; 4] = [10, 11, 12, 13];

/// The nth operation of a kind fails, for every n, in a script of inserts and a shutdown.
fn fail_each(seed: u64, kind: Planned, error: IoError) {
    let base = closed(seed, 3);
    for nth in 0.. {
        let mut solo = again(&base, nth, DiskFaults::NONE);
        solo.open(if nth % 2 == 0 { WARM } else { COLD }, [3; 32]).unwrap();
        solo.disk.plan_failure(kind, nth, error);
        let (told, _) = insert_and_step(&mut solo, &ROWS, u64::MAX);
        if solo.halted().is_none() {
            solo.begin_shutdown();
            while solo.halted().is_none() && solo.step() {}
        }
        let failed = !solo.disk.failure_is_planned();
        solo.disk.plan_failure(kind, u64::MAX, error);
        match solo.halted() {
            Some(Halt::Shutdown) => assert!(!failed, "an error of the disk was swallowed"),
            Some(Halt::Io { error: told, .. }) => assert_eq!((told, failed), (error, true)),
            // A damaged copy or page is data, however it came to be.
            Some(Halt::Data { .. }) => assert!(failed),
            other => panic!("{kind:?} {nth}: {other:?}"),
        }
        solo.crash(KEEPS[nth as usize % 3]);
        recovers(&mut solo, WARM, 3, &ROWS, &told);
        if !failed {
            assert!(nth > 2, "the script has such operations: {nth}");
            return;
        }
    }
}

#[test]
fn no_space_at_every_write() {
    fail_each(21, Planned::Write, IoError::NoSpace);
}

#[test]
fn a_device_error_at_every_write() {
    fail_each(22, Planned::Write, IoError::Device);
}

#[test]
fn a_device_error_at_every_sync() {
    fail_each(23, Planned::Sync, IoError::Device);
}

/// While opening: it opens all the same, from another copy, or stops with words; the next one opens.
#[test]
fn a_device_error_at_every_read_of_an_open() {
    let mut base = closed(24, 3);
    base.open(WARM, [3; 32]).unwrap();
    let (told, _) = insert_and_step(&mut base, &ROWS, u64::MAX);
    base.crash(Keep::Nothing);
    let mut refused = 0;
    for nth in 0.. {
        let mut solo = again(&base, nth, DiskFaults::NONE);
        solo.disk.plan_failure(Planned::Read, nth, IoError::Device);
        match solo.open(COLD, [4; 32]) {
            Ok(()) => {}
            Err(Halt::Io { .. } | Halt::Data { .. }) => refused += 1,
            Err(other) => panic!("read {nth}: {other:?}"),
        }
        let failed = !solo.disk.failure_is_planned();
        solo.disk.plan_failure(Planned::Read, u64::MAX, IoError::Device);
        solo.crash(Keep::Process);
        recovers(&mut solo, WARM, 3, &ROWS, &told);
        if !failed {
            assert!(nth > 8, "an open reads: {nth}");
            break;
        }
    }
    assert!(refused > 0, "some reads cannot be done without");
}
