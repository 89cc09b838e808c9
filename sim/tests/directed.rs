//! Rare conjunctions, on purpose: one node, one disk, one thing broken at a time.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use verity_core::ids::{ClusterId, IdempotencyId, PrincipalId, ReplicaId, SegmentNumber, TenantId};
use verity_core::io::{FileId, KeyError};
use verity_core::kernel::{Operation, Reply, Request};
use verity_core::limits::{ClusterConstants, KEYS_EXTENT_PAGES, PAGE_SIZE};
use verity_core::node::{CURRENT_RELEASE, FormatOptions, Halt};
use verity_core::query::Value;

use verity_sim::atlas::Atlas;
use verity_sim::disk::{Disk, DiskFaults, Keep};
use verity_sim::keys::MasterKey;
use verity_sim::random::Random;
use verity_sim::replica::BootOptions;
use verity_sim::solo::Solo;

const BOOT: BootOptions = BootOptions { cache_pages: 1_024, evict_everything: false };

fn formatted(seed: u64) -> Solo {
    let random = Random::new(seed);
    let disk = Disk::new(random.stream("disk"), DiskFaults::NONE, Atlas::peaceful());
    let mut solo = Solo::new(disk, MasterKey::new(random.stream("master")));
    let options = FormatOptions {
        cluster: Some(ClusterId::new(7)),
        replica: ReplicaId::ZERO,
        replica_count: 1,
        release: CURRENT_RELEASE,
        constants: ClusterConstants { journal_ring_bytes: 4 << 20, ..ClusterConstants::SMALL },
    };
    solo.format(options, [1; 32]).unwrap();
    solo
}

fn opened(seed: u64) -> Solo {
    let mut solo = formatted(seed);
    solo.open(BOOT, [2; 32]).unwrap();
    solo
}

fn sql(text: &str, params: Vec<Value>, id: u64) -> Request {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&id.to_be_bytes());
    Request {
        tenant: TenantId::DEFAULT,
        principal: PrincipalId::new(1),
        idempotency: IdempotencyId::new(1_800_000_000_000 + 3_600_000, random),
        after: None,
        operations: vec![Operation::Sql { text: text.to_owned(), params }],
    }
}

fn run(solo: &mut Solo, text: &str, id: u64) -> Reply {
    solo.request(sql(text, Vec::new(), id)).unwrap().unwrap()
}

fn fill(solo: &mut Solo, rows: u64) {
    run(solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    for row in 0..rows {
        run(solo, &format!("INSERT INTO t (k, v) VALUES ({row}, 'value {row}')"), 100 + row);
    }
}

fn count(solo: &mut Solo) -> i64 {
    let (_, rows) = solo.query(TenantId::DEFAULT, "SELECT COUNT(*) FROM t", Vec::new()).unwrap();
    match rows[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("a count is an integer, not {other:?}"),
    }
}

/// Crashes after every single completion of a script; what was answered must be there.
#[test]
fn a_crash_between_any_two_completions_loses_nothing_acknowledged() {
    let mut base = opened(1);
    fill(&mut base, 3);
    base.shutdown().unwrap();
    let mut crash_after = 0;
    loop {
        let fork = base.disk.fork(Random::new(crash_after), DiskFaults::NONE);
        let mut solo = Solo::new(fork, base.master.clone());
        solo.open(BOOT, [3; 32]).unwrap();
        let mut tickets = Vec::new();
        for row in 10..14u64 {
            let text = format!("INSERT INTO t (k, v) VALUES ({row}, 'v')");
            tickets.push((row, solo.send(sql(&text, Vec::new(), 1_000 + row))));
        }
        let mut steps = 0;
        while steps < crash_after && solo.step() {
            steps += 1;
        }
        let acknowledged: Vec<u64> = tickets
            .iter()
            .filter(|(_, ticket)| solo.reply(*ticket).is_some_and(Result::is_ok))
            .map(|(row, _)| *row)
            .collect();
        let keep = [Keep::Nothing, Keep::Any, Keep::Process][crash_after as usize % 3];
        solo.crash(keep);
        solo.open(BOOT, [4; 32]).unwrap();
        for row in 0..3 {
            let found = format!("SELECT v FROM t WHERE k = {row}");
            assert_eq!(solo.query(TenantId::DEFAULT, &found, Vec::new()).unwrap().1.len(), 1);
        }
        for row in &acknowledged {
            let found = format!("SELECT v FROM t WHERE k = {row}");
            let rows = solo.query(TenantId::DEFAULT, &found, Vec::new()).unwrap().1;
            assert_eq!(rows.len(), 1, "row {row} was acknowledged, then step {crash_after}");
        }
        // Retries with the same ids: each row exactly once.
        for row in 10..14 {
            let text = format!("INSERT INTO t (k, v) VALUES ({row}, 'v')");
            solo.request(sql(&text, Vec::new(), 1_000 + row)).unwrap().unwrap();
        }
        assert_eq!(count(&mut solo), 7);
        if steps < crash_after {
            assert_eq!(acknowledged.len(), 4);
            break;
        }
        crash_after += 1;
    }
    assert!(crash_after >= 2, "the script has steps: {crash_after}");
}

#[test]
fn a_retry_gets_the_answer_of_the_first_time() {
    let mut solo = opened(2);
    fill(&mut solo, 2);
    let first = run(&mut solo, "UPDATE t SET v = 'x' WHERE k < 5", 900);
    assert_eq!(first.rows_affected(), 2);
    run(&mut solo, "INSERT INTO t (k, v) VALUES (3, 'y')", 901);
    solo.crash(Keep::Nothing);
    solo.open(BOOT, [5; 32]).unwrap();
    let again = run(&mut solo, "UPDATE t SET v = 'x' WHERE k < 5", 900);
    assert!(again.replayed);
    assert_eq!((again.position, again.results), (first.position, first.results));
    assert!(solo.request(sql("DELETE FROM t", Vec::new(), 900)).unwrap().is_err(), "another body");
    assert_eq!(count(&mut solo), 3);
}

#[test]
fn any_one_superblock_copy_and_any_one_copy_of_the_keys_may_be_lost() {
    let mut base = opened(3);
    fill(&mut base, 2);
    base.shutdown().unwrap();
    let spacing = verity_core::limits::SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64;
    let superblocks = (0..4).map(|copy| (FileId::Superblock, copy * spacing));
    let keys = (0..2).map(|copy| (FileId::Keys, copy * KEYS_EXTENT_PAGES as u64));
    for id in superblocks.chain(keys) {
        for unreadable in [false, true] {
            let mut solo =
                Solo::new(base.disk.fork(Random::new(1), DiskFaults::NONE), base.master.clone());
            if unreadable {
                solo.disk.make_unreadable(id);
            } else {
                solo.disk.rot(id);
            }
            solo.open(BOOT, [3; 32]).unwrap();
            assert_eq!(count(&mut solo), 2, "{id:?}");
            // It was repaired: the next one may be lost too.
            solo.shutdown().unwrap();
        }
    }
}

#[test]
fn both_copies_of_the_keys_or_all_superblocks_lost_is_a_clear_error() {
    let mut base = opened(4);
    fill(&mut base, 1);
    base.shutdown().unwrap();
    for file in [FileId::Superblock, FileId::Keys] {
        let mut solo =
            Solo::new(base.disk.fork(Random::new(1), DiskFaults::NONE), base.master.clone());
        for sector in 0..solo.disk.sectors(file) {
            solo.disk.make_unreadable((file, sector));
        }
        match solo.open(BOOT, [3; 32]) {
            Err(Halt::Data { detail, .. }) => assert!(!detail.is_empty()),
            other => panic!("{file:?} is lost, and the answer is {other:?}"),
        }
    }
}

#[test]
fn a_wrong_master_key_is_named_and_damages_nothing() {
    let mut base = opened(5);
    fill(&mut base, 1);
    base.shutdown().unwrap();
    let before = base.disk.contents(FileId::Keys);
    let wrong = MasterKey::new(Random::new(99));
    let mut solo = Solo::new(base.disk.fork(Random::new(1), DiskFaults::NONE), wrong);
    assert_eq!(solo.open(BOOT, [3; 32]), Err(Halt::Key(KeyError::WrongMasterKey)));
    solo.crash(Keep::Process);
    assert_eq!(solo.disk.contents(FileId::Keys), before);
    solo.master = base.master.clone();
    solo.open(BOOT, [3; 32]).unwrap();
    assert_eq!(count(&mut solo), 1);
}

#[test]
fn a_lost_index_is_rebuilt_with_one_warning() {
    let mut base = opened(6);
    fill(&mut base, 20);
    base.shutdown().unwrap();
    let file = FileId::Index { tenant: TenantId::DEFAULT, number: SegmentNumber::ZERO };
    base.disk.shorten(file, 0);
    base.open(BOOT, [3; 32]).unwrap();
    let text = "SELECT COUNT(*) FROM __events";
    let (_, rows) = base.query(TenantId::DEFAULT, text, Vec::new()).unwrap();
    assert!(matches!(rows[0][0], Value::Integer(count) if count >= 21), "{rows:?}");
    assert_eq!(base.seen("IndexRebuilt"), 1);
}

#[test]
fn many_checkpoints_and_wraps_of_the_ring() {
    let mut solo = opened(7);
    run(&mut solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    let large = "x".repeat(60_000);
    for row in 0..300i64 {
        let text = "INSERT INTO t (k, v) VALUES ($1, $2)";
        let params = vec![Value::Integer(row), Value::Text(large.clone())];
        solo.request(sql(text, params, 10 + row as u64)).unwrap().unwrap();
        if row % 50 == 49 {
            solo.crash(Keep::Any);
            solo.open(BOOT, [row as u8; 32]).unwrap();
        }
    }
    assert_eq!(count(&mut solo), 300);
    assert!(solo.seen("JournalWrapped") >= 3, "{:?}", solo.events);
    assert!(solo.seen("CheckpointDurable") >= 3, "{:?}", solo.events);
}
