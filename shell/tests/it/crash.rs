//! `kill -9` at any moment: what was acknowledged is there, once.

use crate::run::{Database, command, wait_for_prepares};

const ROWS: u64 = 20_000;

#[test]
fn imports_that_are_killed_again_and_again_lose_and_double_nothing() {
    for io in ["uring", "threads"] {
        let database = Database::new();
        let file = database.path("rows.csv");
        let mut csv = "id,name,amount\n".to_string();
        (0..ROWS).for_each(|n| csv.push_str(&format!("{n},person {n},{}.25\n", n * 3)));
        std::fs::write(&file, csv).unwrap();
        // The same file once went to a table of the same name.
        let args = ["import", "--table", "rows", "--primary-key", "id", file.to_str().unwrap()];
        database.run(&args).ok();
        database.sql("DROP TABLE rows").ok();
        let spawn = || {
            command()
                .args(["import", "--table", "rows", "--primary-key", "id", "--io", io, "--data"])
                .arg(database.data())
                .arg(&file)
                .stderr(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut kills = 0;
        for attempt in 0..40usize {
            let mut child = spawn();
            // Spread over start, replay and load: 0 is before the first write of its own.
            if !wait_for_prepares(&mut child, &database.data(), attempt % 6) {
                let output = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                let refused = said.contains("io_uring is not available");
                assert!(output.status.success() || refused, "failed by itself: {said}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            if attempt % 8 == 0 {
                let run = database.verify();
                assert_eq!(run.code, Some(0), "after kill {kills}: {run:#?}");
            }
        }
        let output = spawn().wait_with_output().unwrap();
        let run = crate::run::Run::new(output);
        if run.stderr.contains("io_uring is not available") {
            continue;
        }
        run.ok();
        assert!(kills > 0, "nothing was killed: make the file larger");
        assert_eq!(database.number("SELECT COUNT(*) FROM rows"), ROWS as i64);
        let total: i64 = database.number("SELECT COUNT(*) FROM rows WHERE id >= 0 AND id < 20000");
        assert_eq!(total, ROWS as i64);
        database.verify().ok();
    }
}

#[test]
fn every_acknowledged_insert_survives() {
    use std::io::{BufRead, BufReader};
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    let mut highest = 0;
    for round in 0..8u64 {
        let first = highest + 1;
        let script: String =
            (first..first + 5_000).map(|id| format!("INSERT INTO t VALUES ({id});\n")).collect();
        let path = database.path("script.sql");
        std::fs::write(&path, script).unwrap();
        let mut child = command()
            .args(["sql", "--json", "--data"])
            .arg(database.data())
            .stdin(std::fs::File::open(&path).unwrap())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        for _ in 0..(50 + round * 211) {
            if lines.next().is_none() {
                break;
            }
            acknowledged += 1;
        }
        child.kill().unwrap();
        acknowledged +=
            lines.map_while(Result::ok).filter(|line| line.contains("position")).count();
        child.wait().unwrap();
        let count = database.number("SELECT COUNT(*) FROM t");
        let least = highest + acknowledged as u64;
        assert!(count as u64 >= least, "round {round}: {count} rows, {least} acknowledged");
        highest = count as u64;
    }
    database.verify().ok();
}
