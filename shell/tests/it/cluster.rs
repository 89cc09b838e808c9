//! Three real processes on loopback: killed, stopped, ended and lied to, under writes. Nothing that
//! was acknowledged is lost, nothing is done twice, and all three answer the same at the end.

mod away;
mod chaos;
mod failover;
mod hostile;
mod machines;
mod namespaces;
mod net;
mod processes;
mod proofs;
mod replaced;
mod tenants;
mod writers;

use std::time::{Duration, Instant};

use verity::{ClientOptions, Value, Verity};

use processes::{Cluster, report};
use writers::Writers;

#[test]
fn three_replicas_agree_and_anybody_may_be_killed() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let first = Instant::now();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    println!("first write after {:?}", first.elapsed());
    let writers = Writers::start(&cluster, 3);
    let mut failovers = Vec::new();
    for round in 0..3 {
        let primary = cluster.primary();
        cluster.kill(primary);
        failovers.push(writers.wait_for_progress(1));
        // The others go on without it for a while.
        writers.wait_for_progress(200);
        cluster.start(primary);
        cluster.wait_healthy();
        let backup = (cluster.primary() + 1 + round % 2) % 3;
        cluster.kill(backup);
        writers.wait_for_progress(100);
        cluster.start(backup);
        cluster.wait_healthy();
    }
    println!("first write after kill -9 of the primary: {failovers:?}");
    let written = writers.finish();
    written.check(&cluster);
}

#[test]
fn a_stopped_primary_is_replaced_and_catches_up() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let writers = Writers::start(&cluster, 2);
    let mut failovers = Vec::new();
    for _ in 0..2 {
        writers.wait_for_progress(20);
        let primary = cluster.primary();
        cluster.stop(primary);
        failovers.push(writers.wait_for_progress(1));
        writers.wait_for_progress(100);
        cluster.signal(primary, "CONT");
        cluster.wait_healthy();
    }
    println!("first write after SIGSTOP of the primary: {failovers:?}");
    writers.finish().check(&cluster);
}

#[test]
fn a_rolling_restart_fails_no_write() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let writers = Writers::start(&cluster, 2);
    let mut pauses = Vec::new();
    for replica in 0..3 {
        writers.wait_for_progress(50);
        let said = cluster.end(replica);
        assert!(said.contains("stopped: all that was acknowledged is on disk"), "{said}");
        pauses.push(writers.wait_for_progress(1));
        cluster.start(replica);
        cluster.wait_healthy();
    }
    println!("first write after SIGTERM of each: {pauses:?}");
    let written = writers.finish();
    assert_eq!(written.unknown(), 0, "a write failed");
    written.check(&cluster);
}

#[test]
fn a_majority_is_needed_and_a_lone_server_serves_clients() {
    let mut cluster = Cluster::new();
    cluster.start(0);
    let client = ClientOptions::new().deadline(Duration::from_secs(2));
    let client = client.connect(cluster.addresses()).unwrap();
    let alone = client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]);
    assert!(alone.is_err(), "{alone:?}");
    let told = cluster.status();
    assert_eq!(told.code, Some(1), "{told:?}");
    let said = told.objects();
    let health = |at: usize| said[at]["health"].as_str().unwrap().to_string();
    assert!(health(0) != "primary" && health(1) == "silent" && health(2) == "silent", "{told:?}");
    cluster.start(2);
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    client.execute("INSERT INTO t (id) VALUES (1)", &[]).unwrap();
    let one = client.query("SELECT id FROM t", &[]).unwrap();
    assert_eq!(one.rows, vec![vec![Value::Integer(1)]]);
    cluster.start(1);
    cluster.wait_healthy();
    let of = report(&cluster.addresses()[1]).unwrap();
    assert_eq!((of.replica.get(), of.replica_count), (1, 3));
    let told = cluster.status().ok();
    assert_eq!(told.objects().len(), 3);
    // The command finds the primary, whomever it is told first.
    let sql = "SELECT COUNT(*) FROM t; INSERT INTO t (id) VALUES (2); SELECT COUNT(*) FROM t";
    let run = cluster.command(&["sql", "--json", "-c", sql]).ok();
    let count = |at: usize| run.objects()[at]["rows"][0][0].as_i64();
    assert_eq!((count(0), count(2)), (Some(1), Some(2)), "{run:?}");
    cluster.command(&["sql", "-c", "SELECT nothing FROM nowhere"]).fails(1, "42P01");
}

#[test]
fn results_of_every_kind_come_over_the_network() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, j JSON)", &[]).unwrap();
    let rows: Vec<Vec<Value>> = (0..3_000)
        .map(|n| vec![Value::Integer(n), Value::text(&"x".repeat(200)), Value::Null])
        .collect();
    let reply = client.insert_rows("t", &["id", "name", "j"], rows.clone()).unwrap();
    assert_eq!(reply.rows_affected(), 3_000);
    // More than one frame of rows, in order, and whole.
    let all = client.query("SELECT id, name, j FROM t ORDER BY id", &[]).unwrap();
    assert_eq!(all.columns, ["id", "name", "j"]);
    assert!(all.rows == rows, "{} rows", all.rows.len());
    let past = format!("SELECT COUNT(*) FROM t AS OF POSITION {}", reply.position.unwrap());
    assert_eq!(client.query(&past, &[]).unwrap().rows[0][0], Value::Integer(3_000));
    // Twice under one id is once; what became of it is known everywhere.
    let id = client.new_id().unwrap();
    let append = || verity::Operation::Append {
        stream: "s".to_string(),
        expected: verity::ExpectedVersion::None,
        records: vec![b"one".to_vec()],
    };
    let first = client.transaction_with_id(id, vec![append()]).unwrap();
    let again = client.transaction_with_id(id, vec![append()]).unwrap();
    assert_eq!((first.position, again.replayed), (again.position, true));
    let found = client.commitment(id).unwrap().unwrap();
    assert_eq!(Some(found.position), first.position);
    assert_eq!(client.commitment(client.new_id().unwrap()).unwrap(), None);
    // Refusals are typed, with the place of the error.
    let error = client.execute("INSERT INTO t (id) VALUES (1)", &[]).unwrap_err();
    assert_eq!(error.sqlstate(), "23505", "{error}");
    let error = client.query("SELECT * FORM t", &[]).unwrap_err();
    assert!(error.sql().is_some_and(|sql| sql.position.is_some()), "{error}");
    let error = client.append("s", verity::ExpectedVersion::None, vec![vec![1]]).unwrap_err();
    assert_eq!(error.sqlstate(), "VY002", "{error}");
    // A write with RETURNING gives the rows that it made, whatever came after it.
    let returned = |sql: &str, params: &[Value]| match client.run(sql, params).unwrap() {
        verity::Outcome::Rows(rows) => (rows.columns, rows.rows),
        verity::Outcome::Committed(reply) => panic!("{reply:?}"),
    };
    let (columns, made) = returned(
        "INSERT INTO t (id, name) VALUES (?, 'a'), (9001, 'b') RETURNING name, id * 2 AS twice",
        &[Value::Integer(9_000)],
    );
    assert_eq!(columns, ["name", "twice"]);
    let row = |name: &str, twice| vec![Value::text(name), Value::Integer(twice)];
    assert_eq!(made, vec![row("a", 18_000), row("b", 18_002)]);
    let (_, gone) = returned("DELETE FROM t WHERE id IN (9000, 9001) RETURNING id", &[]);
    assert_eq!(gone.len(), 2);
    let (columns, none) = returned("DELETE FROM t WHERE id = 9000 RETURNING id", &[]);
    assert_eq!((columns.len(), none.len()), (1, 0));
    let word = "UPDATE t SET name = 'returning' WHERE id = -1";
    assert!(matches!(client.run(word, &[]).unwrap(), verity::Outcome::Committed(_)));
    // Without blocking, many at once.
    let insert =
        |n: i64| client.execute_async("INSERT INTO t (id) VALUES (?)", &[Value::Integer(n)]);
    let all: Vec<_> = (10_000..10_300).map(insert).collect();
    for reply in futures_executor::block_on(futures_util::future::join_all(all)) {
        reply.unwrap();
    }
    let count = client.query_async("SELECT COUNT(*) FROM t", &[]);
    let count = futures_executor::block_on(count).unwrap();
    assert_eq!(count.rows[0][0], Value::Integer(3_300));
    // Each replica has what this client has seen, when it is asked for it.
    for address in cluster.addresses() {
        let reader = Verity::connect([address]).unwrap().read_anywhere();
        let end = Instant::now() + Duration::from_secs(30);
        while reader.query("SELECT COUNT(*) FROM t", &[]).unwrap().rows[0] != count.rows[0] {
            assert!(Instant::now() < end, "a replica does not catch up");
        }
    }
}
