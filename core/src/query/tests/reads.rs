//! SELECT: results, access paths, slices, and the past against a model.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use expect_test::expect;

use super::database::{Database, TENANT};
use super::random::Random;
use crate::query::eval::Context;
use crate::query::{PointScratch, ReadProgress, ReadTask, Value, prepare_one, read_point};
use crate::time::Timestamp;

fn show(rows: &[Vec<Value>]) -> String {
    let line =
        |row: &Vec<Value>| row.iter().map(Value::to_string).collect::<Vec<_>>().join("|") + "\n";
    rows.iter().map(line).collect()
}

fn clinic() -> Database {
    let mut database = Database::new();
    database
        .query(
            "CREATE TABLE visit (ward TEXT, day DATE, nr INTEGER, cost DECIMAL(8,2), note TEXT,
                                 PRIMARY KEY (ward, day, nr));
             INSERT INTO visit VALUES
               ('a', '2026-01-01', 1, 10.50, 'x'), ('a', '2026-01-01', 2, 20, NULL),
               ('a', '2026-01-02', 1, 5.25, 'y'), ('b', '2026-01-01', 1, NULL, 'z'),
               ('b', '2026-01-03', 1, 100, 'x')",
        )
        .unwrap();
    database
}

#[test]
fn selects() {
    let mut database = clinic();
    let mut run = |sql: &str| match database.query(sql) {
        Ok(rows) => format!("> {sql}\n{}", show(&rows)),
        Err(error) => panic!("{}", error.render(sql)),
    };
    let out: String = [
        "SELECT * FROM visit WHERE ward = 'a' AND day = '2026-01-01' AND nr = 2",
        "SELECT ward, nr FROM visit WHERE ward = 'a' AND day >= '2026-01-02'",
        "SELECT ward, day FROM visit WHERE ward IN ('b', 'zz', 'a') AND day = '2026-01-01'",
        "SELECT nr FROM visit WHERE ward = NULL",
        "SELECT COUNT(*) FROM visit",
        "SELECT COUNT(*), COUNT(cost), SUM(cost), MIN(note), MAX(day), AVG(cost) FROM visit",
        "SELECT COUNT(*), SUM(cost) FROM visit WHERE ward = 'none'",
        "SELECT ward, COUNT(*) AS n, SUM(cost) FROM visit GROUP BY ward ORDER BY n, ward",
        "SELECT upper(ward) AS w, COUNT(DISTINCT note) FROM visit GROUP BY w ORDER BY 1 DESC",
        "SELECT ward FROM visit WHERE cost > 7 GROUP BY ward",
        "SELECT DISTINCT note FROM visit ORDER BY note",
        "SELECT note FROM visit ORDER BY note DESC NULLS LAST, nr LIMIT 2 OFFSET 1",
        "SELECT ward, day, nr FROM visit ORDER BY ward DESC, day DESC, nr DESC LIMIT 2",
        "SELECT cost * 2 AS twice FROM visit WHERE cost IS NOT NULL ORDER BY cost DESC LIMIT 1",
        "SELECT v.note FROM visit v WHERE v.nr = 2 OR v.cost BETWEEN 90 AND 110",
        "SELECT note FROM visit LIMIT 1, 2",
        "SELECT name, primary_key FROM __tables",
        "SELECT name, type, nullable, key_ordinal FROM __columns WHERE table_name = 'visit'",
        "SELECT position, kind, time FROM __events WHERE position >= 3 AND position < 5",
        "SELECT MAX(position), COUNT(*) FROM __events",
        "SELECT position FROM __events ORDER BY position DESC LIMIT 2",
        "SELECT 1 + 1 AS two, 'x'",
    ]
    .into_iter()
    .map(&mut run)
    .collect();
    expect![[r#"
        > SELECT * FROM visit WHERE ward = 'a' AND day = '2026-01-01' AND nr = 2
        a|2026-01-01|2|20.00|NULL
        > SELECT ward, nr FROM visit WHERE ward = 'a' AND day >= '2026-01-02'
        a|1
        > SELECT ward, day FROM visit WHERE ward IN ('b', 'zz', 'a') AND day = '2026-01-01'
        a|2026-01-01
        a|2026-01-01
        b|2026-01-01
        > SELECT nr FROM visit WHERE ward = NULL
        > SELECT COUNT(*) FROM visit
        5
        > SELECT COUNT(*), COUNT(cost), SUM(cost), MIN(note), MAX(day), AVG(cost) FROM visit
        5|4|135.75|x|2026-01-03|33.9375000000000000
        > SELECT COUNT(*), SUM(cost) FROM visit WHERE ward = 'none'
        0|NULL
        > SELECT ward, COUNT(*) AS n, SUM(cost) FROM visit GROUP BY ward ORDER BY n, ward
        b|2|100.00
        a|3|35.75
        > SELECT upper(ward) AS w, COUNT(DISTINCT note) FROM visit GROUP BY w ORDER BY 1 DESC
        B|2
        A|2
        > SELECT ward FROM visit WHERE cost > 7 GROUP BY ward
        a
        b
        > SELECT DISTINCT note FROM visit ORDER BY note
        NULL
        x
        y
        z
        > SELECT note FROM visit ORDER BY note DESC NULLS LAST, nr LIMIT 2 OFFSET 1
        y
        x
        > SELECT ward, day, nr FROM visit ORDER BY ward DESC, day DESC, nr DESC LIMIT 2
        b|2026-01-03|1
        b|2026-01-01|1
        > SELECT cost * 2 AS twice FROM visit WHERE cost IS NOT NULL ORDER BY cost DESC LIMIT 1
        200.00
        > SELECT v.note FROM visit v WHERE v.nr = 2 OR v.cost BETWEEN 90 AND 110
        NULL
        x
        > SELECT note FROM visit LIMIT 1, 2
        NULL
        y
        > SELECT name, primary_key FROM __tables
        visit|ward, day, nr
        > SELECT name, type, nullable, key_ordinal FROM __columns WHERE table_name = 'visit'
        ward|TEXT|false|1
        day|DATE|false|2
        nr|INTEGER|false|3
        cost|DECIMAL(8,2)|true|NULL
        note|TEXT|true|NULL
        > SELECT position, kind, time FROM __events WHERE position >= 3 AND position < 5
        3|insert|1970-01-01 00:00:03
        4|insert|1970-01-01 00:00:04
        > SELECT MAX(position), COUNT(*) FROM __events
        6|6
        > SELECT position FROM __events ORDER BY position DESC LIMIT 2
        6
        5
        > SELECT 1 + 1 AS two, 'x'
        2|x
    "#]]
    .assert_eq(&out);
}

#[test]
fn plans() {
    let mut database = clinic();
    let mut run = |sql: &str| {
        format!("> {sql}\n{}", show(&database.query(&format!("EXPLAIN {sql}")).unwrap()))
    };
    let out: String = [
        "SELECT note FROM visit WHERE ward = 'a' AND day = '2026-01-01' AND nr = 1",
        "SELECT note FROM visit WHERE ward = 'a' AND day > '2026-01-01' ORDER BY day DESC",
        "SELECT note FROM visit WHERE day > '2026-01-01' ORDER BY note LIMIT 1",
        "SELECT ward, COUNT(*) FROM visit AS OF POSITION 3 GROUP BY ward",
        "UPDATE visit SET note = 'x' WHERE ward = 'a'",
        "SELECT * FROM __events WHERE position > 5",
    ]
    .into_iter()
    .map(&mut run)
    .collect();
    expect![[r#"
        > SELECT note FROM visit WHERE ward = 'a' AND day = '2026-01-01' AND nr = 1
        lookup in visit by primary key (ward =, day =, nr =)
        > SELECT note FROM visit WHERE ward = 'a' AND day > '2026-01-01' ORDER BY day DESC
        range of visit by primary key (ward =, day >), backwards
        order: as read, by primary key
        > SELECT note FROM visit WHERE day > '2026-01-01' ORDER BY note LIMIT 1
        full scan of visit
        filter rows by WHERE
        sort by 1 expressions, in memory
        limit and offset
        > SELECT ward, COUNT(*) FROM visit AS OF POSITION 3 GROUP BY ward
        full scan of visit
        as of an earlier position: versions from history
        group by 1 expressions, 1 aggregates
        > UPDATE visit SET note = 'x' WHERE ward = 'a'
        range of visit by primary key (ward =)
        update those rows
        > SELECT * FROM __events WHERE position > 5
        log records by position (position >)
        filter rows by WHERE
    "#]]
    .assert_eq(&out);
}

#[test]
fn a_table_without_key_keeps_insert_order() {
    let mut database = Database::new();
    database.query("CREATE TABLE l (x BIGINT); INSERT INTO l VALUES (3), (1), (2)").unwrap();
    assert_eq!(show(&database.query("SELECT x FROM l").unwrap()), "3\n1\n2\n");
    database.query("UPDATE l SET x = 9 WHERE x = 3").unwrap();
    assert_eq!(show(&database.query("SELECT x FROM l").unwrap()), "9\n1\n2\n");
}

#[test]
fn inserts_fill_defaults() {
    let mut database = Database::new();
    database
        .query(
            "CREATE TABLE d (a BIGINT DEFAULT 7, b TIMESTAMP DEFAULT now(), c TEXT);
             INSERT INTO d DEFAULT VALUES;
             INSERT INTO d (c) VALUES ('x');
             INSERT INTO d (c, a) VALUES (upper('y') || 1, DEFAULT), (NULL, 2 * 3)",
        )
        .unwrap();
    expect![[r#"
        7|2026-11-21 02:05:04.5|NULL
        7|2026-11-21 02:05:04.5|x
        7|2026-11-21 02:05:04.5|Y1
        6|2026-11-21 02:05:04.5|NULL
    "#]]
    .assert_eq(&show(&database.query("SELECT * FROM d").unwrap()));
}

#[test]
fn parameters() {
    let mut database = clinic();
    let sql = "SELECT note FROM visit WHERE ward = ? AND cost > ?2 LIMIT $3";
    let rows = database
        .query_with(sql, &[Value::text("a"), Value::Integer(6), Value::Integer(1)])
        .unwrap();
    assert_eq!(show(&rows), "x\n");
    assert!(database.query_with(sql, &[Value::text("a")]).is_err());
    let prepared =
        prepare_one(&database.catalog, "INSERT INTO visit VALUES (?, ?, ?, ?, ?)").unwrap();
    let rows: Vec<Vec<Value>> = (0..10)
        .map(|nr| {
            [
                Value::text("c"),
                Value::text("2026-05-01"),
                Value::Integer(nr),
                Value::Integer(nr),
                Value::Null,
            ]
            .into()
        })
        .collect();
    let command = prepared.lower_rows(rows.iter().map(Vec::as_slice)).unwrap();
    database.apply(&command).unwrap();
    let count = database.query("SELECT COUNT(*), SUM(cost) FROM visit WHERE ward = 'c'").unwrap();
    assert_eq!(show(&count), "10|45.00\n");
}

#[test]
fn a_schema_change_is_noticed() {
    let mut database = clinic();
    let prepared = Arc::new(prepare_one(&database.catalog, "SELECT * FROM visit").unwrap());
    database.query("DROP TABLE visit; CREATE TABLE visit (x BIGINT)").unwrap();
    let context = Context::new(Timestamp(0), [0; 32]);
    let mut task = ReadTask::new(prepared, TENANT, Vec::new(), database.head(), context).unwrap();
    let error = database.finish(&mut task).unwrap_err();
    assert!(error.retryable());
}

#[test]
fn hot_point_read() {
    let database = clinic();
    let sql = "SELECT note, cost FROM visit WHERE ward = ? AND day = ? AND nr = ?";
    let prepared = prepare_one(&database.catalog, sql).unwrap();
    let source = database.source(database.head());
    let (mut scratch, mut out) = (PointScratch::default(), Vec::new());
    let day = Value::Date(20_454);
    let parameters = [Value::text("a"), day.clone(), Value::Integer(1)];
    let found = read_point(&prepared, &source, &parameters, &mut scratch, &mut out).unwrap();
    assert_eq!(found, Some(true));
    assert_eq!(show(&[out.clone()]), "x|10.50\n");
    let parameters = [Value::text("a"), day, Value::Integer(9)];
    let found = read_point(&prepared, &source, &parameters, &mut scratch, &mut out).unwrap();
    assert_eq!(found, Some(false));
    let scan = prepare_one(&database.catalog, "SELECT note FROM visit").unwrap();
    assert_eq!(read_point(&scan, &source, &[], &mut scratch, &mut out).unwrap(), None);
}

/// Random writes; then every query at every position must equal the model of that position.
#[test]
fn the_past_is_as_it_was() {
    for seed in 0..6 {
        let mut random = Random::new(100 + seed);
        let mut database = Database::new();
        database.keep_past = true;
        database.query("CREATE TABLE t (a TEXT, b BIGINT, c BIGINT, PRIMARY KEY (a, b))").unwrap();
        let table = database.catalog.table_named("t").unwrap().id;
        for _ in 0..300 {
            let a = random.pick(&["", "x", "xy", "y"]);
            let b = random.below(8) as i64 - 4;
            let sql = match random.below(4) {
                0 => format!("DELETE FROM t WHERE a = '{a}' AND b = {b}"),
                1 => format!("UPDATE t SET c = c + 1 WHERE a = '{a}' AND b >= {b}"),
                2 => format!("DELETE FROM t WHERE c = {}", random.below(6)),
                _ => {
                    let c = random.below(6);
                    let known = database
                        .query(&format!("SELECT 1 FROM t WHERE a = '{a}' AND b = {b}"))
                        .unwrap();
                    if !known.is_empty() {
                        continue;
                    }
                    format!("INSERT INTO t VALUES ('{a}', {b}, {c})")
                }
            };
            database.query(&sql).unwrap();
        }
        let past = database.past.clone();
        // The last seeds read with an empty cache before every slice: the answers are the same.
        if seed >= 4 {
            database.checkpoint(1);
            database.evict = true;
        }
        type Keep = fn(&[Value]) -> bool;
        let filters: &[(&str, Keep)] = &[
            ("", |_| true),
            ("WHERE a = 'x' AND b = 1", |row| {
                row[0] == Value::text("x") && row[1] == Value::Integer(1)
            }),
            ("WHERE a = 'x' AND b > -2 AND b <= 2", |row| {
                row[0] == Value::text("x")
                    && row[1] > Value::Integer(-2)
                    && row[1] <= Value::Integer(2)
            }),
            ("WHERE a >= 'x'", |row| row[0] >= Value::text("x")),
            ("WHERE a IN ('y', '', 'q') AND b IN (0, 3)", |row| {
                (row[0] == Value::text("y") || row[0] == Value::text(""))
                    && (row[1] == Value::Integer(0) || row[1] == Value::Integer(3))
            }),
            ("WHERE c = 2", |row| row[2] == Value::Integer(2)),
        ];
        for (position, model) in &past {
            for (filter, keep) in filters {
                let mut expected: Vec<Vec<Value>> = model
                    .iter()
                    .filter(|((id, _), row)| *id == table && keep(row))
                    .map(|(_, row)| row.clone())
                    .collect();
                let sql = format!("SELECT * FROM t AS OF POSITION {position} {filter}");
                assert_eq!(database.query(&sql).unwrap(), expected, "{sql}");
                expected.reverse();
                let sql = sql + " ORDER BY a DESC, b DESC";
                assert_eq!(database.query(&sql).unwrap(), expected, "{sql}");
            }
            let sql = format!("SELECT COUNT(*) FROM t AS OF POSITION {position}");
            let count = Value::Integer(model.len() as i64);
            assert_eq!(database.query(&sql).unwrap(), [[count]]);
        }
        assert_eq!(database.faults > 1_000, seed >= 4, "{}", database.faults);
    }
}

/// Sorts, groups and long scans of more pages than one slice sees, all of them missing at first.
#[test]
fn faults_change_no_answer() {
    let mut database = Database::new();
    database.query("CREATE TABLE t (id BIGINT PRIMARY KEY, g INTEGER, note TEXT)").unwrap();
    for from in (0..6_000).step_by(200) {
        let rows: Vec<String> = (from..from + 200)
            .map(|id| format!("({id}, {}, '{}')", id * 7 % 13, "x".repeat((id % 90) as usize * 30)))
            .collect();
        database.query(&format!("INSERT INTO t VALUES {}", rows.join(","))).unwrap();
    }
    let queries = [
        "SELECT g, COUNT(*), MAX(length(note)) FROM t GROUP BY g",
        "SELECT id, g FROM t ORDER BY g DESC, id LIMIT 7 OFFSET 3",
        "SELECT SUM(length(note)) FROM t WHERE id > 1000 AND g <> 5",
        "SELECT id, random() FROM t WHERE id >= 900 AND id < 3100 AND g = 2",
        "SELECT DISTINCT g FROM t ORDER BY 1",
        "SELECT COUNT(*) FROM t",
        "SELECT id FROM t WHERE id IN (5, 5999, 77) ORDER BY id DESC",
    ];
    let warm: Vec<String> = queries.map(|sql| show(&database.query(sql).unwrap())).into();
    assert_eq!(database.faults, 0);
    database.checkpoint(1);
    database.evict = true;
    for (sql, warm) in queries.iter().zip(&warm) {
        let before = database.faults;
        assert_eq!(show(&database.query(sql).unwrap()), *warm, "{sql}");
        assert!(database.faults > before, "{sql}");
    }
}

/// A scan cut in slices, with writes between them, sees one position.
#[test]
fn writes_between_slices_change_nothing() {
    for (order, reverse) in [("", false), (" ORDER BY id DESC", true)] {
        let mut database = Database::new();
        database.query("CREATE TABLE t (id BIGINT PRIMARY KEY, x BIGINT)").unwrap();
        for from in (0..5_000).step_by(500) {
            let rows: Vec<String> =
                (from..from + 500).map(|id| format!("({}, {id})", id * 2)).collect();
            database.query(&format!("INSERT INTO t VALUES {}", rows.join(","))).unwrap();
        }
        let mut expected: Vec<Vec<Value>> = database.now.values().cloned().collect();
        if reverse {
            expected.reverse();
        }
        let prepared =
            Arc::new(prepare_one(&database.catalog, &format!("SELECT * FROM t{order}")).unwrap());
        let context = Context::new(Timestamp(0), [0; 32]);
        let mut task =
            ReadTask::new(prepared, TENANT, Vec::new(), database.head(), context).unwrap();
        let mut random = Random::new(9);
        let mut rows = Vec::new();
        let mut slices = 0;
        loop {
            let progress = database.step(&mut task).unwrap();
            rows.extend(task.take_rows());
            slices += 1;
            if progress == ReadProgress::Done {
                break;
            }
            for _ in 0..20 {
                let id = random.below(10_000) as i64;
                let sql = match random.below(3) {
                    0 => format!("DELETE FROM t WHERE id = {}", id / 2 * 2),
                    1 => format!("UPDATE t SET x = -1 WHERE id = {}", id / 2 * 2),
                    _ => {
                        let id = id / 2 * 2 + 1;
                        let sql = format!("SELECT 1 FROM t WHERE id = {id}");
                        if !database.query(&sql).unwrap().is_empty() {
                            continue;
                        }
                        format!("INSERT INTO t VALUES ({id}, 0)")
                    }
                };
                database.query(&sql).unwrap();
            }
        }
        assert!(slices > 4, "{slices}");
        assert_eq!(rows, expected);
    }
}

/// Found by the differential oracle: branches of two numeric types, equal by value, were distinct.
#[test]
fn branches_of_several_types_give_one_type() {
    let mut database = Database::new();
    database
        .query(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, d DOUBLE, n BIGINT, day DATE, at TIMESTAMP);
             INSERT INTO t VALUES (1, -0.75, 2, '2026-01-01', NULL), (2, NULL, NULL, NULL,
               '2026-01-01 00:00:00'), (3, 2.0, NULL, NULL, NULL)",
        )
        .unwrap();
    let mut check = |sql: &str, expected: &str| {
        let rows = database.query(sql).unwrap_or_else(|error| panic!("{}", error.render(sql)));
        assert_eq!(show(&rows), expected, "{sql}");
    };
    check("SELECT DISTINCT COALESCE(d, -0.75) FROM t WHERE id < 3", "-0.75\n");
    check("SELECT DISTINCT COALESCE(n, d, 2) FROM t WHERE id <> 2", "2.0\n");
    check("SELECT DISTINCT CASE WHEN id = 1 THEN n ELSE 2.0 END FROM t WHERE id <> 3", "2\n");
    check("SELECT COUNT(DISTINCT COALESCE(n, 2.0)) FROM t", "1\n");
    check("SELECT GREATEST(n, 1.5), COUNT(*) FROM t GROUP BY 1 ORDER BY 1", "1.5|2\n2|1\n");
    check("SELECT DISTINCT COALESCE(at, day) FROM t WHERE id < 3", "2026-01-01 00:00:00\n");
}
