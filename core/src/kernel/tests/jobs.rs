//! Jobs: indexes over many rows, in slices, beside writes, over crashes; and what they leave.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::ids::Position;
use crate::kernel::{Operation, Reply, RequestError, ResultDetail};
use crate::limits::ClusterConstants;
use crate::query::eval::Context;
use crate::query::{EventRead, ReadProgress, ReadTask, ReadWorld, SqlState, Stop, prepare_one};
use crate::store::Pins;
use crate::time::Timestamp;

const ROWS: i64 = 900;

fn run(rig: &mut Rig, text: &str) -> Result<Reply, RequestError> {
    rig.request(&request(vec![Operation::Sql { text: text.to_string(), params: vec![] }]))
}

fn query(rig: &mut Rig, sql: &str) -> Vec<String> {
    let catalog = rig.catalog(T1);
    let prepared = Arc::new(prepare_one(&catalog, sql).unwrap());
    let head = Position::new(rig.head(T1).next.get() - 1);
    let context = Context::new(Timestamp(1_795_226_704_500_000_000), [7; 32]);
    let mut task = ReadTask::new(prepared, T1, vec![], head, context).unwrap();
    let mut rows = Vec::new();
    let mut pins = Pins::new();
    loop {
        let mut events = |_| EventRead::Absent;
        let mut world = ReadWorld { store: &rig.store, catalog: &catalog, events: &mut events };
        let step = task.step(&mut world);
        rows.extend(task.take_rows());
        match step {
            Ok(ReadProgress::Done) => break,
            Ok(ReadProgress::More) => {}
            Err(Stop::Fault(_)) => rig.fetch(&mut pins),
            Err(stop) => panic!("{sql}: {stop:?}"),
        }
    }
    rig.store.unpin(&mut pins);
    let text = |row: Vec<crate::query::Value>| {
        row.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
    };
    rows.into_iter().map(text).collect()
}

/// A table of so many rows that its indexes are jobs.
fn table(memory: Memory) -> Rig {
    let mut rig = Rig::with(memory, ClusterConstants::SMALL);
    run(&mut rig, "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT)").unwrap();
    for from in (0..ROWS).step_by(100) {
        let cells: Vec<String> =
            (from..from + 100).map(|id| format!("({id}, {}, 'b{id}')", id % 90)).collect();
        run(&mut rig, &format!("INSERT INTO t VALUES {}", cells.join(", "))).unwrap();
    }
    rig.checkpoint();
    rig
}

#[test]
fn an_index_over_many_rows_is_built_in_slices() {
    let mut rig = table(Memory::Random(5));
    let reply = run(&mut rig, "CREATE INDEX by_a ON t (a)").unwrap();
    let ResultDetail::Job(job) = reply.results[0].detail else { panic!("{reply:?}") };
    let shown = query(&mut rig, "SHOW JOBS");
    assert_eq!(shown.len(), 1);
    assert!(shown[0].starts_with(&format!("{}|build index|t|by_a|", job.get())), "{shown:?}");
    assert!(shown[0].ends_with("|0|900|NULL"), "{shown:?}");
    let by_a = "SELECT id FROM t WHERE a = 7 ORDER BY id";
    let rows = query(&mut rig, by_a);
    assert_eq!(rows.len(), 10);
    // Not used before it is whole; rows change on both sides of where it stands.
    let mut slices = 0;
    while rig.job_slice() {
        slices += 1;
        assert_eq!(query(&mut rig, by_a).len(), 10);
        match slices {
            3 => {
                run(&mut rig, "UPDATE t SET a = 1000 WHERE id IN (2, 899)").unwrap();
                run(&mut rig, "DELETE FROM t WHERE id IN (3, 898)").unwrap();
                run(&mut rig, "INSERT INTO t VALUES (-1, 1000, 'x'), (5000, 1000, 'x')").unwrap();
            }
            6 => rig.crash(),
            9 => {
                let shown = query(&mut rig, "SELECT done > 0, done < total FROM __jobs");
                assert_eq!(shown, ["true|true"]);
            }
            _ => {}
        }
        assert!(slices < 1_000);
    }
    assert!(slices > 10, "{slices}");
    assert_eq!(query(&mut rig, "SHOW JOBS"), Vec::<String>::new());
    let plan = query(&mut rig, &format!("EXPLAIN {by_a}"));
    assert!(plan[0].contains("index by_a"), "{plan:?}");
    assert_eq!(query(&mut rig, by_a), rows);
    assert_eq!(
        query(&mut rig, "SELECT id FROM t WHERE a = 1000 ORDER BY id"),
        ["-1", "2", "899", "5000"]
    );
    assert_eq!(query(&mut rig, "SELECT COUNT(*) FROM t WHERE a >= 0"), ["900"]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn a_dropped_index_gives_its_pages_back() {
    let mut rig = table(Memory::None);
    let before = rig.pages_in_use();
    run(&mut rig, "CREATE INDEX by_b ON t (b)").unwrap();
    rig.finish_jobs();
    run(&mut rig, "UPDATE t SET b = b || 'x' WHERE id < 100").unwrap();
    let head = rig.head(T1).next.get() - 1;
    let with = rig.pages_in_use();
    assert!(with > before + 10, "{before} {with}");
    run(&mut rig, "DROP INDEX by_b").unwrap();
    let shown = query(&mut rig, "SELECT kind, index_name, done, total FROM __jobs");
    assert_eq!(shown, ["free pages|by_b|0|1000"]);
    let cancel = format!("CANCEL JOB {}", job_id(&mut rig));
    let error = run(&mut rig, &cancel).unwrap_err();
    assert!(error.to_string().contains("belong to nothing"), "{error}");
    rig.job_slice();
    rig.crash();
    assert!(rig.finish_jobs() > 1);
    let after = rig.pages_in_use();
    assert!(after <= before + 8, "{before} {with} {after}");
    // The past is read as before.
    let sql = format!("SELECT COUNT(*) FROM t AS OF POSITION {head} WHERE b LIKE '%x'");
    assert_eq!(query(&mut rig, &sql), ["100"]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

fn job_id(rig: &mut Rig) -> String {
    query(rig, "SELECT id FROM __jobs ORDER BY id LIMIT 1").remove(0)
}

#[test]
fn a_build_is_cancelled_or_fails_and_leaves_nothing() {
    let mut rig = table(Memory::Ample);
    run(&mut rig, "CREATE INDEX by_b ON t (b)").unwrap();
    rig.job_slice();
    let cancel = format!("CANCEL JOB {}", job_id(&mut rig));
    run(&mut rig, &cancel).unwrap();
    assert!(rig.catalog(T1).index_named("by_b").is_none());
    assert_eq!(query(&mut rig, "SELECT kind FROM __jobs"), ["free pages"]);
    rig.finish_jobs();
    // Values that are there twice, far apart: found when a slice comes to the second one.
    run(&mut rig, "CREATE UNIQUE INDEX u ON t (b)").unwrap();
    rig.job_slice();
    run(&mut rig, "INSERT INTO t VALUES (-5, 1, 'b880')").unwrap();
    let error = run(&mut rig, "INSERT INTO t VALUES (-6, 1, 'b880')").unwrap_err();
    assert!(matches!(error, RequestError::Sql(error) if error.code == SqlState::UniqueViolation));
    rig.finish_jobs();
    assert!(rig.catalog(T1).index_named("u").is_none());
    let shown = query(&mut rig, "SELECT kind, error FROM __jobs");
    assert!(shown.len() == 1 && shown[0].contains("b = b880"), "{shown:?}");
    let cancel = format!("CANCEL JOB {}", job_id(&mut rig));
    run(&mut rig, &cancel).unwrap();
    assert!(run(&mut rig, &cancel).unwrap_err().to_string().contains("no job"));
    // What no tree could index.
    run(&mut rig, &format!("UPDATE t SET b = '{}' WHERE id = 890", "y".repeat(600))).unwrap();
    run(&mut rig, "CREATE INDEX by_b ON t (b)").unwrap();
    rig.finish_jobs();
    let shown = query(&mut rig, "SELECT error FROM __jobs");
    assert!(shown.len() == 1 && shown[0].contains("bytes"), "{shown:?}");
    // A table that goes takes its builds along.
    run(&mut rig, "CREATE INDEX by_a ON t (a)").unwrap();
    rig.job_slice();
    run(&mut rig, "DROP TABLE t").unwrap();
    rig.finish_jobs();
    let shown = query(&mut rig, "SELECT kind FROM __jobs");
    assert_eq!(shown, ["failed"]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn slices_depend_on_state_alone() {
    let digest = |memory, crash: bool| {
        let mut rig = table(memory);
        run(&mut rig, "CREATE INDEX by_a ON t (a, b); CREATE UNIQUE INDEX by_b ON t (b)").unwrap();
        for step in 0..400 {
            if crash && step % 13 == 5 {
                rig.crash();
            }
            if !rig.job_slice() {
                break;
            }
        }
        run(&mut rig, "DROP INDEX by_a").unwrap();
        rig.finish_jobs();
        let report = rig.rebuild().unwrap();
        assert_eq!(report.difference, None);
        (report.digest, report.roots)
    };
    let calm = digest(Memory::Ample, false);
    assert_eq!(digest(Memory::None, false), calm);
    assert_eq!(digest(Memory::Random(2), true), calm);
}

#[test]
fn on_conflict_does_not_use_an_index_that_is_being_built() {
    let mut rig = table(Memory::Ample);
    run(&mut rig, "CREATE UNIQUE INDEX by_b ON t (b)").unwrap();
    assert!(rig.job_slice(), "the first rows are in it, the last ones are not");
    // Row 899 holds the value and is not in the index yet: nothing may be inserted beside it.
    for action in ["NOTHING", "UPDATE SET a = 1"] {
        let text = format!("INSERT INTO t VALUES (5000, 1, 'b899') ON CONFLICT (b) DO {action}");
        let RequestError::Sql(error) = run(&mut rig, &text).unwrap_err() else { panic!() };
        assert_eq!(error.code, SqlState::InvalidColumnReference, "{error}");
        assert!(error.message.contains("by_b"), "{error}");
    }
    while rig.job_slice() {}
    let text = "INSERT INTO t VALUES (5000, 1, 'b899') ON CONFLICT (b) DO UPDATE SET a = 77";
    assert_eq!(run(&mut rig, text).unwrap().rows_affected(), 1);
    assert_eq!(query(&mut rig, "SELECT id FROM t WHERE b = 'b899' AND a = 77"), ["899"]);
}

/// Rows that are older than the index, and too long for it, may go before the build comes to them.
#[test]
fn rows_that_no_index_can_hold_leave_while_it_is_built() {
    let mut rig = table(Memory::Ample);
    for id in [888, 890] {
        let long = "y".repeat(600);
        run(&mut rig, &format!("UPDATE t SET b = '{long}' WHERE id = {id}")).unwrap();
    }
    run(&mut rig, "CREATE INDEX by_b ON t (b)").unwrap();
    assert!(rig.job_slice(), "the first rows are in it, the last ones are not");
    run(&mut rig, "DELETE FROM t WHERE id = 888").unwrap();
    run(&mut rig, "UPDATE t SET b = 'short' WHERE id = 890").unwrap();
    rig.finish_jobs();
    assert!(rig.catalog(T1).index_named("by_b").is_some());
    assert_eq!(query(&mut rig, "SELECT id FROM t WHERE b = 'short'"), ["890"]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

/// The same, of so many at once, and in no order of theirs, that their pages are counted one by one.
#[test]
fn many_rows_that_no_index_can_hold_leave_while_it_is_built() {
    let mut rig = table(Memory::Ample);
    let counts = [4, 8, 16, 24, 32, 48];
    let mut from = 700;
    for count in counts {
        for id in from..from + count {
            let first = if id % 3 == 0 { "a" } else { "z" };
            let long = format!("{first}{}", "y".repeat(600));
            run(&mut rig, &format!("UPDATE t SET b = '{long}' WHERE id = {id}")).unwrap();
        }
        from += count;
    }
    run(&mut rig, "CREATE INDEX by_b ON t (b)").unwrap();
    assert!(rig.job_slice(), "the first rows are in it, the last ones are not");
    let mut from = 700;
    for count in counts {
        let to = from + count;
        let range = format!("id >= {from} AND id < {to}");
        // The largest may be too much at once: what matters is that they are answered.
        let _answer = run(&mut rig, &format!("DELETE FROM t WHERE {range}"));
        let _answer = run(&mut rig, &format!("UPDATE t SET b = 'short' WHERE {range}"));
        for id in from..to {
            run(&mut rig, &format!("UPDATE t SET b = 'short' WHERE id = {id}")).unwrap();
        }
        from = to;
    }
    rig.finish_jobs();
    assert!(rig.catalog(T1).index_named("by_b").is_some());
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

/// The slice that ends a build changes the catalog, too: with rows for half of what a transaction
/// may dirty and a wide table it would be refused, for ever.
#[test]
fn a_build_ends_however_little_a_transaction_may_dirty() {
    let mut ended = 0;
    for transaction_pages_dirtied_max in (60..170).step_by(4) {
        let constants =
            ClusterConstants { transaction_pages_dirtied_max, ..ClusterConstants::SMALL };
        let mut rig = Rig::with(Memory::None, constants);
        let columns: Vec<String> =
            (0..120).map(|at| format!("a_column_with_a_long_name_{at:04} BIGINT")).collect();
        for other in 0..40 {
            let text = format!("CREATE TABLE o{other} (id BIGINT PRIMARY KEY)");
            let _may_be_too_large = run(&mut rig, &text);
        }
        let create = format!("CREATE TABLE t (id BIGINT PRIMARY KEY, {})", columns.join(", "));
        let inserted =
            |rig: &mut Rig, id: i32| run(rig, &format!("INSERT INTO t (id) VALUES ({id})")).is_ok();
        if run(&mut rig, &create).is_err() || !(0..150).all(|id| inserted(&mut rig, id)) {
            continue;
        }
        match run(&mut rig, "CREATE INDEX by_a ON t (a_column_with_a_long_name_0000)") {
            Ok(reply) if matches!(reply.results[0].detail, ResultDetail::Job(_)) => {}
            Ok(_) | Err(_) => continue,
        }
        rig.finish_jobs();
        ended += 1;
    }
    assert!(ended > 5, "{ended}");
}
