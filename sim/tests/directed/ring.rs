//! The ring: wraps, checkpoints that make room, crashes that take it.
#![allow(clippy::unwrap_used, reason = "tests")]

use verity_core::query::Value;
use verity_core::time::SECOND_NS;
use verity_sim::disk::{DiskFaults, Keep};
use verity_sim::random::Random;
use verity_sim::rebuild;

use crate::rig::{WARM, closed, count, insert, opened, run, sql};

#[test]
fn many_checkpoints_and_wraps_of_the_ring() {
    let mut solo = opened(51);
    run(&mut solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    let large = "x".repeat(60_000);
    for row in 0..300i64 {
        let text = "INSERT INTO t (k, v) VALUES ($1, $2)";
        let params = vec![Value::Integer(row), Value::Text(large.clone())];
        solo.request(sql(text, params, 10 + row as u64)).unwrap().unwrap();
        if row % 50 == 49 {
            solo.crash(Keep::Any);
            solo.open(WARM, [row as u8; 32]).unwrap();
        }
    }
    assert_eq!(count(&mut solo), 300);
    assert!(solo.seen("JournalWrapped") >= 3, "{:?}", solo.events);
    assert!(solo.seen("CheckpointDurable") >= 3, "{:?}", solo.events);
}

/// A request whose work was done ahead may find that the op of a checkpoint went before it.
#[test]
fn work_ahead_meets_the_ops_of_checkpoints() {
    let mut solo = opened(53);
    solo.ahead = true;
    run(&mut solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    let large = "x".repeat(30_000);
    let rows = 400;
    for row in 0..rows {
        let text = "INSERT INTO t (k, v) VALUES ($1, $2)";
        let params = vec![Value::Integer(row), Value::Text(large.clone())];
        let ticket = solo.send(sql(text, params, 10 + row as u64));
        // The background goes on while the next one is sent.
        while solo.reply(ticket).is_none() {
            assert!(solo.step(), "row {row} waits for nothing");
        }
        assert!(solo.reply(ticket).is_some_and(Result::is_ok), "{:?}", solo.reply(ticket));
    }
    assert!(solo.seen("CheckpointDurable") >= 3, "{:?}", solo.events);
    solo.crash(Keep::Nothing);
    solo.open(WARM, [77; 32]).unwrap();
    assert_eq!(count(&mut solo), rows);
    solo.shutdown().unwrap();
    let disk = solo.disk.fork(Random::new(0), DiskFaults::NONE);
    rebuild::check(disk, solo.master.clone()).unwrap();
}

/// Each boot takes room for its recovery op and dies at once; a hundred of them in a row, on a ring
/// that was full to begin with, must leave a node that serves.
#[test]
fn a_hundred_crashes_in_a_row_on_a_full_ring() {
    let mut solo = opened(52);
    run(&mut solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    let large = "x".repeat(250_000);
    let mut rows = 0;
    // As many as go without giving a checkpoint time to end.
    for row in 0..40i64 {
        let params = vec![Value::Integer(row), Value::Text(large.clone())];
        let text = "INSERT INTO t (k, v) VALUES ($1, $2)";
        let ticket = solo.send(sql(text, params, 10 + row as u64));
        for _ in 0..200 {
            if solo.reply(ticket).is_some() || !solo.step() {
                break;
            }
        }
        match solo.reply(ticket) {
            Some(Ok(_)) => rows += 1,
            Some(Err(_)) | None => break,
        }
        if solo.seen("CheckpointStarted") > solo.seen("CheckpointDurable") {
            break;
        }
    }
    assert!(rows > 4, "{rows}");
    for boot in 0..100u8 {
        solo.crash(Keep::Nothing);
        solo.open(WARM, [boot; 32]).unwrap();
    }
    assert_eq!(count(&mut solo), rows);
    solo.request(insert(1_000)).unwrap().unwrap();
    assert_eq!(count(&mut solo), rows + 1);
}

/// The wall clock goes back a day over a restart: no time of a transaction does.
#[test]
fn a_clock_that_goes_back_moves_no_transaction_back() {
    let mut solo = closed(53, 1);
    solo.open(WARM, [3; 32]).unwrap();
    let before = solo.request(insert(10)).unwrap().unwrap();
    solo.crash(Keep::Nothing);
    solo.wall.0 -= 24 * 3_600 * SECOND_NS;
    solo.open(WARM, [4; 32]).unwrap();
    let after = solo.request(insert(11)).unwrap().unwrap();
    assert!(after.timestamp >= before.timestamp, "{after:?} {before:?}");
    assert!(after.position > before.position && after.op > before.op);
}
