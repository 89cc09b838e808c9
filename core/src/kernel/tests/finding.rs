//! Writes that look at more than a transaction may read: their rows are found beforehand.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::kernel::{Found, Operation, PrepareError, Reply, Request, RequestError, SealedRequest};
use crate::limits::ClusterConstants;
use crate::query::{SqlError, SqlState};
use crate::store::Pins;
use crate::time::Timestamp;

const ROWS: i64 = 600;

fn sql(text: &str) -> Request {
    request(vec![Operation::Sql { text: text.to_string(), params: vec![] }])
}

fn run(rig: &mut Rig, text: &str) -> Result<Reply, RequestError> {
    rig.request(&sql(text))
}

#[track_caller]
fn refused(answer: Result<Reply, RequestError>) -> SqlError {
    match answer {
        Err(RequestError::Sql(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// 600 rows of about 300 bytes, of which a transaction may read eight pages.
fn table(memory: Memory) -> Rig {
    let constants = ClusterConstants { transaction_pages_read_max: 8, ..ClusterConstants::SMALL };
    let mut rig = Rig::with(memory, constants);
    run(&mut rig, "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT)").unwrap();
    for from in (0..ROWS).step_by(100) {
        let pad = "x".repeat(200);
        let cells: Vec<String> =
            (from..from + 100).map(|id| format!("({id}, {}, '{pad}')", id % 60)).collect();
        run(&mut rig, &format!("INSERT INTO t VALUES {}", cells.join(", "))).unwrap();
    }
    rig.finds = true;
    rig
}

fn count(rig: &mut Rig, a: i64) -> usize {
    rig.rows("t").iter().filter(|row| row.split('|').nth(1) == Some(&a.to_string())).count()
}

/// The request of which the rows were found, not applied yet.
fn found(rig: &mut Rig, text: &str) -> SealedRequest {
    rig.prepare(&sql(text)).unwrap()
}

#[test]
fn a_scan_of_any_size_changes_the_rows_that_it_means() {
    for memory in [Memory::Ample, Memory::None, Memory::Random(3)] {
        let mut rig = table(memory);
        assert_eq!(run(&mut rig, "UPDATE t SET a = 1000 WHERE a = 7").unwrap().rows_affected(), 10);
        assert_eq!((count(&mut rig, 7), count(&mut rig, 1000)), (0, 10));
        assert_eq!(run(&mut rig, "DELETE FROM t WHERE a % 60 = 8").unwrap().rows_affected(), 10);
        // By an index of which few rows pass, and by two.
        run(&mut rig, "CREATE INDEX by_a ON t (a)").unwrap();
        let text = "UPDATE t SET b = 'small' WHERE a BETWEEN 9 AND 30 AND id % 10 = 9";
        assert_eq!(run(&mut rig, text).unwrap().rows_affected(), 30);
        let text = "DELETE FROM t WHERE a = 9 OR id < 20";
        assert_eq!(run(&mut rig, text).unwrap().rows_affected(), 10 + 20 - 1 - 1);
        // What a statement did is seen by those after it.
        let text = "UPDATE t SET a = 2000 WHERE a = 40; UPDATE t SET a = 3000 WHERE a = 2000; \
                    DELETE FROM t WHERE a = 3000";
        let reply = run(&mut rig, text).unwrap();
        let rows: Vec<u64> = reply.results.iter().map(|result| result.rows_affected).collect();
        assert_eq!(rows, [10, 10, 10]);
        assert_eq!(rig.rebuild().unwrap().difference, None);
    }
}

#[test]
fn rows_that_changed_meanwhile_are_looked_for_again() {
    let mut rig = table(Memory::Ample);
    let text = "UPDATE t SET a = 1000 WHERE a = 7";
    // A phantom, and a row that is gone: what was found is not what it means any more.
    let early = found(&mut rig, text);
    run(&mut rig, "UPDATE t SET a = 7 WHERE id = 0; DELETE FROM t WHERE id = 67").unwrap();
    let error = refused(rig.batch(&[early]).remove(0));
    assert_eq!(error.code, SqlState::SchemaChanged);
    assert!(error.retryable());
    let hint = error.hint.unwrap();
    assert!(hint.contains("CREATE INDEX t_a_index ON t (a)"), "{hint}");
    assert_eq!(count(&mut rig, 7), 10);
    assert_eq!(run(&mut rig, text).unwrap().rows_affected(), 10);
    // Other tables may change as they like.
    let early = found(&mut rig, "DELETE FROM t WHERE a = 1000");
    run(&mut rig, "CREATE TABLE u (id BIGINT PRIMARY KEY); INSERT INTO u VALUES (1)").unwrap();
    assert_eq!(rig.batch(&[early]).remove(0).unwrap().rows_affected(), 10);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn a_small_scan_does_not_mind_what_changed_meanwhile() {
    let mut rig = table(Memory::Ample);
    let early = found(&mut rig, "UPDATE t SET a = 1000 WHERE id < 30");
    run(&mut rig, "DELETE FROM t WHERE id = 29").unwrap();
    assert_eq!(rig.batch(&[early]).remove(0).unwrap().rows_affected(), 29);
}

#[test]
fn a_change_during_the_search_is_told() {
    let mut rig = table(Memory::Ample);
    let nonce = [9; 12];
    let request = sql("UPDATE t SET a = 1000 WHERE a = 7");
    let mut list = Found::default();
    let now = Timestamp(NOW_MS * 1_000_000);
    let prepared =
        rig.kernel.prepare_request(&rig.store, &rig.keys, &request, now, nonce, &mut list);
    let Err(PrepareError::Find(finding)) = prepared else { panic!("{prepared:?}") };
    let mut finding = *finding;
    let mut pins = Pins::new();
    // The plan, and the first slice of two.
    assert!(!rig.find(&mut finding, &mut pins));
    assert!(!rig.find(&mut finding, &mut pins));
    run(&mut rig, "UPDATE t SET a = 7 WHERE id = 0").unwrap();
    let step = rig.kernel.find_step(&rig.store, &rig.logs, &mut finding, usize::MAX);
    assert_eq!(step, Ok(crate::kernel::FindStep::Changed));
    finding.restart();
    while !rig.find(&mut finding, &mut pins) {}
    assert_eq!(finding.into_rows().keys.len(), 11);
}

#[test]
fn what_cannot_be_found_beforehand_is_refused_with_a_way_out() {
    let mut rig = table(Memory::Ample);
    let error = refused(run(&mut rig, "DELETE FROM t WHERE length(b) > extract(year FROM now())"));
    assert_eq!(error.code, SqlState::LimitExceeded);
    assert!(error.hint.unwrap().contains("as a literal"));
    // More rows than a transaction may change: for that reason, and not for the scan.
    let constants = ClusterConstants { transaction_events_max: 50, ..rig.constants };
    let mut rig = Rig::with(Memory::Ample, constants);
    run(&mut rig, "CREATE TABLE t (id BIGINT PRIMARY KEY)").unwrap();
    for from in [0, 40, 80] {
        let cells: Vec<String> = (from..from + 40).map(|id| format!("({id})")).collect();
        run(&mut rig, &format!("INSERT INTO t VALUES {}", cells.join(", "))).unwrap();
    }
    rig.finds = true;
    let error = run(&mut rig, "DELETE FROM t WHERE id % 2 < 9").unwrap_err();
    let RequestError::LimitExceeded { limit, value, max } = error else { panic!("{error:?}") };
    assert_eq!((limit, value, max), (crate::kernel::Limit::TransactionEvents, 51, 50));
    assert_eq!(rig.rows("t").len(), 120);
}
