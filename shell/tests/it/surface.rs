//! What SQL gives beside rows: RETURNING, history, positions inside transactions, stable codes.

use serde_json::json;
use verity::{ClusterConstants, Options, Outcome, Rows, Value, Verity};

use crate::run::Database;

fn open() -> (tempfile::TempDir, Verity) {
    let dir = tempfile::tempdir().unwrap();
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    let database = Options::new().cluster_constants(constants).open(dir.path().join("data"));
    (dir, database.unwrap())
}

#[track_caller]
fn rows(outcome: Result<Outcome, verity::Error>) -> Rows {
    match outcome.unwrap() {
        Outcome::Rows(rows) => rows,
        Outcome::Committed(reply) => panic!("no rows: {reply:?}"),
    }
}

#[track_caller]
fn check(database: &Verity, sql: &str, expected: &str) {
    let rows = rows(database.run(sql, &[]));
    let shown: Vec<String> = rows
        .rows
        .iter()
        .map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(shown.join(", "), expected, "{sql}");
    assert_eq!(rows.position, database.position().unwrap(), "{sql}");
}

#[test]
fn returning_gives_the_rows_that_a_write_made() {
    let (_dir, database) = open();
    database
        .execute("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT DEFAULT 7, at TIMESTAMP)", &[])
        .unwrap();
    check(
        &database,
        "INSERT INTO t (id) VALUES (2), (1) RETURNING id, n * 2 AS twice",
        "1 14, 2 14",
    );
    check(&database, "UPDATE t AS x SET n = x.n + 1 WHERE id = 1 RETURNING x.n, *", "8 1 8 NULL");
    check(&database, "INSERT INTO t (id) VALUES (1), (3) ON CONFLICT DO NOTHING RETURNING id", "3");
    check(
        &database,
        "INSERT INTO t (id, n) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET n = 9 RETURNING id, n",
        "1 9",
    );
    // A key that moves is one row, and not two.
    check(&database, "UPDATE t SET id = 30 WHERE id = 3 RETURNING id", "30");
    check(&database, "DELETE FROM t WHERE id < 10 RETURNING id, n", "1 9, 2 7");
    check(&database, "DELETE FROM t WHERE id < 10 RETURNING id", "");
    check(&database, "UPDATE t SET n = 1 WHERE id = 99 RETURNING id", "");
    // Without a declared key, and with parameters.
    database.execute("CREATE TABLE h (a BIGINT)", &[]).unwrap();
    let insert = "INSERT INTO h VALUES (?), (? + 1) RETURNING a, ?1";
    let made = rows(database.run(insert, &[Value::Integer(4), Value::Integer(7)]));
    let integers = |a, b| vec![Value::Integer(a), Value::Integer(b)];
    assert_eq!(made.rows, vec![integers(4, 4), integers(8, 4)]);
    check(&database, "UPDATE h SET a = 8 WHERE a = 8 RETURNING a", "8");
    let refused = database.run("INSERT INTO h VALUES (1) RETURNING COUNT(*)", &[]).unwrap_err();
    assert_eq!(refused.sqlstate(), "42803");
    assert_eq!(
        database.query("SELECT COUNT(*) FROM h", &[]).unwrap().rows[0][0],
        Value::Integer(2)
    );
}

#[test]
fn a_position_inside_a_transaction_reads_the_one_before_and_says_so() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    database.sql("INSERT INTO t VALUES (1)").ok();
    let run = database.sql("INSERT INTO t VALUES (2), (3), (4)").ok();
    let last = run.objects()[0]["position"].as_u64().unwrap();
    for (asked, count, told) in [
        (last, 4, json!(null)),
        (last - 1, 1, json!(last - 1)),
        (last - 2, 1, json!(last - 2)),
        (last - 3, 1, json!(null)),
    ] {
        let run = database.sql(&format!("SELECT COUNT(*) FROM t AS OF POSITION {asked}")).ok();
        let object = &run.objects()[0];
        assert_eq!(object["rows"], json!([[count]]), "{object}");
        assert_eq!(object["position_asked"], told, "{object}");
        let read_at = if told.is_null() { asked } else { last - 3 };
        assert_eq!(object["position"], json!(read_at), "{object}");
    }
    // A diff of positions inside a transaction is one of the transactions before.
    let sql = format!("DIFF OF t BETWEEN POSITION {} AND {}", last - 1, last);
    assert_eq!(database.sql(&sql).ok().objects()[0]["rows"].as_array().unwrap().len(), 3);
}

#[test]
fn history_says_who_and_when() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT)").ok();
    database.sql("INSERT INTO t VALUES (1, 'x'), (2, 'y')").ok();
    database.sql("UPDATE t SET a = 'z' WHERE id = 1").ok();
    database.sql("DELETE FROM t WHERE id = 1").ok();
    let sql = "SELECT __change, a, __transaction_last - __transaction_first AS more, __ended_at, \
               __time IS NOT NULL AND __op > 0 AND __principal IS NOT NULL AS known \
               FROM HISTORY OF t WHERE id = 1";
    let run = database.sql(sql).ok();
    let rows = run.objects()[0]["rows"].clone();
    let ended = |at: usize| rows[at][3].clone();
    let expected = json!([
        ["insert", "x", 1, ended(0), true],
        ["update", "z", 0, ended(1), true],
        ["delete", null, 0, null, true],
    ]);
    assert_eq!(rows, expected);
    assert!(ended(0).as_u64() < ended(1).as_u64(), "{rows}");
}

#[test]
fn errors_have_stable_codes() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    for (sql, code, retryable) in [
        ("SELEC 1", "42601", false),
        ("SELECT nothing FROM t", "42703", false),
        ("SELECT * FROM t JOIN t AS u ON TRUE", "0A000", false),
        ("SELECT id FROM t GROUP BY id HAVING COUNT(*) > 1", "0A000", false),
        ("SELECT * FROM t AS OF POSITION 999", "VY001", false),
        ("INSERT INTO t VALUES (1), (1)", "23505", false),
        ("SELECT 1 / 0", "22012", false),
    ] {
        let run = database.sql(sql).fails(1, code);
        let object = &run.objects()[0];
        assert_eq!(object["sqlstate"], json!(code), "{object}");
        assert_eq!(object["retryable"], json!(retryable), "{object}");
    }
    let run = database.run(&["sql", "--tenant", "77", "-c", "SELECT 1"]);
    assert_eq!(run.fails(1, "").objects()[0]["sqlstate"], json!("3D000"));
}
