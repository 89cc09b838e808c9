//! Connections of clients: what many of them leave, who answers a read without a quorum, and a port
//! that is taken.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use verity::proof::ProofOf;
use verity::{ClientOptions, Error, RequestError, RetryReason, Value, Verity};

use super::processes::Cluster;

#[test]
fn a_primary_without_a_quorum_answers_no_linearizable_read() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    client.execute("INSERT INTO t (id) VALUES (1)", &[]).unwrap();
    let primary = cluster.primary();
    let others: Vec<usize> = (0..3).filter(|replica| *replica != primary).collect();
    for other in &others {
        cluster.stop(*other);
    }
    let alone = ClientOptions::new().deadline(Duration::from_secs(2));
    let alone = alone.connect([&cluster.addresses()[primary]]).unwrap();
    let begun = Instant::now();
    let refused = alone.query("SELECT COUNT(*) FROM t", &[]).unwrap_err();
    let not_primary = RequestError::Retry(RetryReason::NotPrimary);
    assert!(matches!(&refused, Error::Request(error) if *error == not_primary), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let refused = alone.commitment(alone.new_id().unwrap());
    assert!(refused.is_err(), "{refused:?}");
    let all = ProofOf::Sql { text: "SELECT id FROM t".to_string(), parameters: Vec::new() };
    let refused = alone.prove_of(all.clone(), None);
    assert!(refused.is_err(), "{refused:?}");
    // Whoever asks for less gets it.
    let one = vec![vec![Value::Integer(1)]];
    let eventual = alone.read_anywhere().query("SELECT COUNT(*) FROM t", &[]).unwrap();
    assert_eq!(eventual.rows, one);
    for other in &others {
        cluster.signal(*other, "CONT");
    }
    let count = client.query("SELECT COUNT(*) FROM t", &[]).unwrap();
    assert_eq!(count.rows, one);
    client.prove_of(all, None).unwrap();
}

#[test]
fn many_clients_leave_nothing_behind() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    client.query("SELECT COUNT(*) FROM t", &[]).unwrap();
    let primary = cluster.primary();
    let held = |cluster: &Cluster| {
        let count = |what| {
            let path = format!("/proc/{}/{what}", cluster.pid(primary));
            std::fs::read_dir(path).unwrap().count()
        };
        (count("task"), count("fd"))
    };
    let before = held(&cluster);
    for round in 0..5 {
        let clients = (0..40).map(|_| Verity::connect([&cluster.addresses()[primary]]).unwrap());
        let clients: Vec<_> = clients.collect();
        for (number, client) in clients.iter().enumerate() {
            let id = Value::Integer(round * 100 + number as i64);
            client.execute("INSERT INTO t (id) VALUES (?)", &[id]).unwrap();
            client.query("SELECT COUNT(*) FROM t", &[]).unwrap();
        }
        assert!(held(&cluster).0 >= before.0 + 80, "they are served by threads of their own");
    }
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let after = held(&cluster);
        // The links of peers come and go.
        if after.0 <= before.0 + 2 && after.1 <= before.1 + 2 {
            break;
        }
        assert!(Instant::now() < end, "threads and descriptors: {before:?}, then {after:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let mut cluster = Cluster::new();
    let address = cluster.addresses()[0].clone();
    let taken = TcpListener::bind(&address).unwrap();
    let begun = Instant::now();
    cluster.start(0);
    let code = cluster.wait_for_end(0);
    assert_eq!(code, Some(2), "{}", cluster.said(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let said = cluster.said(0);
    assert!(said.contains(&format!("cannot listen at {address}")), "{said}");
    drop(taken);
    cluster.start_all();
}

#[test]
fn an_import_goes_over_the_network_and_may_be_run_again() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let csv = cluster.path("people.csv");
    let mut text = "Id,born,Name,height\n".to_string();
    for id in 0..3_000 {
        text.push_str(&format!("{id},19{:02}-01-02,name {id},1.{:02}\n", id % 100, id % 90));
    }
    text.push_str("7,2000-01-01,twice,1.5\n");
    std::fs::write(&csv, text).unwrap();
    let rejects = cluster.path("rejects.csv");
    let import = |cluster: &Cluster| {
        let mut args = vec!["import", csv.to_str().unwrap(), "--table", "people", "--json"];
        args.extend(["--primary-key", "id", "--rejects", rejects.to_str().unwrap()]);
        args.extend(["--types", "height=DECIMAL(5,2)"]);
        cluster.command(&args)
    };
    let first = import(&cluster).fails(1, "1 row was rejected");
    let object = &first.objects()[0];
    assert_eq!((&object["imported"], &object["rejected"]), (&3_000.into(), &1.into()), "{object}");
    let said = std::fs::read_to_string(&rejects).unwrap();
    assert!(said.contains("twice"), "{said}");
    // Whoever leads by now: nothing is done twice.
    let primary = cluster.primary();
    cluster.kill(primary);
    let again = import(&cluster).fails(1, "1 row was rejected");
    let object = &again.objects()[0];
    assert_eq!((&object["imported"], &object["already_there"]), (&0.into(), &3_000.into()));
    cluster.start(primary);
    let client = Verity::connect(cluster.addresses()).unwrap();
    let sum = client.query("SELECT COUNT(*), SUM(height) FROM people WHERE id < 2", &[]).unwrap();
    assert_eq!(sum.rows[0][0], Value::Integer(2));
    assert_eq!(sum.rows[0][1].to_string(), "2.01");
}
