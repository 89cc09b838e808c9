//! Answers of any size: rows are shown as they come, and no process holds all of them.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use verity::{ClusterConstants, Options, Server, ServerOptions, StreamOutcome, Value, Verity};

use crate::run::{Database, Run, command, verity};

/// 200 MB of rows, from a table of almost nothing.
const ROWS: usize = 20_000;
const WIDE: &str = "SELECT id, repeat('0123456789', 1000) AS wide FROM t ORDER BY id";
const BYTES: usize = ROWS * 10_000;

fn fill(database: &Verity) {
    database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    for batch in 0..20 {
        let ids = batch * ROWS as i64 / 20..(batch + 1) * ROWS as i64 / 20;
        database
            .insert_rows("t", &["id"], ids.map(|id| vec![Value::Integer(id)]).collect())
            .unwrap();
    }
}

fn options() -> Options {
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    Options::new().cluster_constants(constants)
}

struct Served {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Served {
    fn new() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let database = options().open(&data).unwrap();
        fill(&database);
        database.close().unwrap();
        let at = ServerOptions { addresses: vec!["127.0.0.1:0".to_string()], listen: None };
        Served { server: Server::start(&options(), &data, &at).unwrap(), _dir: dir }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// Runs it, and gives the bytes that it printed and the most memory that it had, in KiB.
fn drain(command: &mut Command) -> (usize, u64) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut stdout = child.stdout.take().unwrap();
    let (mut some, mut bytes, mut peak_kib) = (vec![0; 1 << 20], 0, 0);
    loop {
        // While there is more to read it cannot have ended.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        match stdout.read(&mut some).unwrap() {
            0 => break,
            count => bytes += count,
        }
    }
    assert!(child.wait().unwrap().success());
    (bytes, peak_kib)
}

#[test]
fn an_answer_of_any_size_takes_no_memory() {
    let database = Database::new();
    let opened = options().open(database.data()).unwrap();
    fill(&opened);
    opened.close().unwrap();
    for format in [&["--json"][..], &[]] {
        let mut sql = command();
        sql.args(["sql", "--memory", "256MiB", "-c", WIDE, "--data"]).arg(database.data());
        let (bytes, peak_kib) = drain(sql.args(format));
        // A table shows what fits into a cell.
        assert!(bytes > if format.is_empty() { ROWS * 40 } else { BYTES }, "{bytes}");
        assert!((1..=128 << 10).contains(&peak_kib), "{format:?}: {} MiB", peak_kib >> 10);
        eprintln!("{format:?}: {} MiB", peak_kib >> 10);
    }
}

#[test]
fn an_answer_of_any_size_takes_no_memory_of_a_client() {
    let served = Served::new();
    let mut sql = command();
    sql.args(["sql", "--json", "-c", WIDE, "--connect"]).arg(served.address().to_string());
    let (bytes, peak_kib) = drain(&mut sql);
    assert!(bytes > BYTES, "{bytes}");
    assert!((1..=48 << 10).contains(&peak_kib), "{} MiB", peak_kib >> 10);
    eprintln!("{} MiB", peak_kib >> 10);
}

#[test]
fn a_small_answer_is_the_object_that_it_was() {
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT)").ok();
    database.sql("INSERT INTO t VALUES (1, 'a'), (2, NULL)").ok();
    for (sql, printed) in [
        (
            "SELECT * FROM t ORDER BY id",
            r#"{"columns":["id","name"],"position":4,"position_asked":null,"rows":[[1,"a"],[2,null]]}"#,
        ),
        (
            "SELECT id FROM t WHERE id > 5",
            r#"{"columns":["id"],"position":4,"position_asked":null,"rows":[]}"#,
        ),
        (
            "DELETE FROM t WHERE id = 1 RETURNING id",
            r#"{"columns":["id"],"position":5,"position_asked":null,"rows":[[1]]}"#,
        ),
    ] {
        let told = database.sql(sql).ok();
        assert_eq!(told.stdout.trim_end(), printed, "{sql}");
    }
    let told = database.sql("SELECT 1 / 0").fails(1, "division by zero");
    assert!(told.objects()[0].get("rows").is_none(), "{told:#?}");
}

/// Rows up to 249, then an error.
const FAILS: &str = "SELECT id, 1 / (id - 250) FROM t ORDER BY id";

#[test]
fn an_error_amid_rows_ends_one_whole_object() {
    let database = Database::new();
    let opened = options().open(database.data()).unwrap();
    fill(&opened);
    opened.close().unwrap();
    let both = format!("{FAILS}; SELECT 1");
    let told = database.sql(&both).fails(1, "division by zero");
    let objects = told.objects();
    assert_eq!(objects.len(), 1, "the first error ends the run");
    let Json::Object(object) = &objects[0] else { panic!("{objects:?}") };
    assert_eq!(object["sqlstate"], "22012");
    assert_eq!(
        (&object["columns"][0], object["rows"].as_array().unwrap().len()),
        (&json!("id"), 200)
    );
    // For people: what came, without the line that says that it is all.
    let told = verity(&["sql", "-c", FAILS, "--data", database.data().to_str().unwrap()]);
    let told = told.fails(1, "division by zero");
    assert!(told.stdout.lines().count() == 202 && !told.stdout.contains("rows at"), "{told:#?}");
}

#[test]
fn what_is_wider_than_the_first_rows_overflows() {
    let database = Database::new();
    let opened = options().open(database.data()).unwrap();
    fill(&opened);
    opened.close().unwrap();
    let sql = "SELECT id, id * 1000000 AS wide FROM t WHERE id < 1500 ORDER BY id";
    let told: Run = verity(&["sql", "-c", sql, "--data", database.data().to_str().unwrap()]).ok();
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines[..2], ["id  │ wide", "────┼──────────"]);
    assert_eq!((lines[2], lines[1_001]), ("  0 │         0", "999 │ 999000000"));
    assert_eq!(lines[1_002], "1000 │ 1000000000");
    assert!(lines[1_502].starts_with("(1500 rows at position"), "{}", lines[1_502]);
}

#[test]
fn both_kinds_of_streams_give_what_a_query_gives() {
    let served = Served::new();
    let client = Verity::connect([served.address().to_string()]).unwrap();
    let sql = "SELECT id, repeat('x', 100) FROM t WHERE id < ? ORDER BY id";
    let whole = client.query(sql, &[Value::Integer(15_000)]).unwrap();
    assert_eq!(whole.rows.len(), 15_000);
    let stream = || client.query_stream(sql, &[Value::Integer(15_000)]);
    assert_eq!(stream().unwrap().gather().unwrap(), whole);
    // Without blocking, and with others of the same connection in between.
    let gathered = futures_executor::block_on(async {
        let mut stream = client.query_stream_async(sql, &[Value::Integer(15_000)]).await.unwrap();
        let mut rows = Vec::new();
        while let Some(row) = std::future::poll_fn(|context| stream.poll_next(context)).await {
            if rows.len() % 5_000 == 0 {
                assert_eq!(client.query("SELECT 1", &[]).unwrap().rows.len(), 1);
            }
            rows.push(row.unwrap());
        }
        rows
    });
    assert_eq!(gathered, whole.rows);
    // More of them are begun and dropped than may run at a time.
    for _ in 0..20 {
        let mut stream = client.query_stream(WIDE, &[]).unwrap();
        assert!(stream.next().unwrap().is_ok());
    }
    assert!(client.query_stream("DELETE FROM t", &[]).is_err());
    let returning = "DELETE FROM t WHERE id < 3 RETURNING id";
    let StreamOutcome::Rows(deleted) = client.run_stream(returning, &[]).unwrap() else {
        panic!("rows")
    };
    assert_eq!(deleted.columns(), ["id"]);
    assert_eq!(deleted.count(), 3);
    let StreamOutcome::Rows(nothing) = client.run_stream(returning, &[]).unwrap() else {
        panic!("rows")
    };
    assert_eq!(nothing.columns(), ["id"]);
    assert_eq!(nothing.count(), 0);
}

#[test]
fn a_stream_reads_one_snapshot_and_is_given_up_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let database = options().open(dir.path().join("data")).unwrap();
    fill(&database);
    let mut stream = database.query_stream("SELECT id FROM t ORDER BY id", &[]).unwrap();
    assert_eq!(stream.next().unwrap().unwrap(), [Value::Integer(0)]);
    let before = database.position().unwrap();
    database.execute("DELETE FROM t WHERE id >= 10000", &[]).unwrap();
    assert_eq!(stream.position(), before);
    assert_eq!(stream.count(), ROWS - 1);
    drop(database.query_stream("SELECT id FROM t", &[]).unwrap());
    let error = database.query_stream("DELETE FROM t", &[]).unwrap_err();
    assert_eq!(error.sqlstate(), "42809");
    let mut stream = database.query_stream("SELECT id FROM t", &[]).unwrap();
    stream.next().unwrap().unwrap();
    // Its rows end with an error, once.
    database.clone().close().unwrap();
    let rest: Vec<_> = stream.collect();
    assert!(rest.len() < 1_000 && rest.last().unwrap().is_err(), "{}", rest.len());
    assert_eq!(rest.iter().filter(|row| row.is_err()).count(), 1);
}
