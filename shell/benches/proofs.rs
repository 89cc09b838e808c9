//! What proofs cost: sizes and times, each beside its limit. `cargo bench -p verity --bench proofs`.
//!
//! One table of `VERITY_BENCH_ROWS` rows (1,000,000) with a history: one key with 100,000 versions.
//! Ratios compare what was measured in the same run. Exit code 1: a limit was passed.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use std::time::Instant;

use verity::proof::{Policy, Proved, verify};
use verity::{Options, Value, Verity};

const VERSIONS: u64 = 100_000;
const BATCH: u64 = 1_000;

struct Bench {
    database: Verity,
    failed: bool,
}

fn main() {
    let rows: u64 = std::env::var("VERITY_BENCH_ROWS")
        .ok()
        .map_or(1_000_000, |text| text.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    let database = Options::new().memory(1 << 30).open(&path).expect("a database");
    let mut bench = Bench { database, failed: false };
    bench.fill(rows);
    bench.point(rows);
    bench.range(rows);
    bench.past(rows);
    bench.batch(rows);
    bench.database.close().expect("a clean end");
    std::process::exit(i32::from(bench.failed));
}

impl Bench {
    fn fill(&mut self, rows: u64) {
        let started = Instant::now();
        self.execute(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, email TEXT, amount BIGINT)",
        );
        self.execute("CREATE TABLE versions (id BIGINT PRIMARY KEY, amount BIGINT)");
        for first in (0..rows).step_by(BATCH as usize) {
            let values = (first..(first + BATCH).min(rows)).map(|id| {
                format!("({id}, 'customer {id}', 'customer.{id}@mail.example', {})", id * 7)
            });
            let values: Vec<String> = values.collect();
            self.execute(&format!("INSERT INTO t VALUES {}", values.join(", ")));
        }
        self.execute("INSERT INTO versions VALUES (1, 0), (2, 0), (3, 0)");
        for first in (0..VERSIONS).step_by(100) {
            let updates: Vec<String> = (first..first + 100)
                .map(|at| format!("UPDATE versions SET amount = {at} WHERE id = 2"))
                .collect();
            self.execute(&updates.join("; "));
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{rows} rows and {VERSIONS} versions of one row written in {seconds:.1} s");
    }

    /// A point of a million rows: at most 6 KiB, verified in at most 200 µs.
    fn point(&mut self, rows: u64) {
        let mut bytes = Vec::new();
        let mut verify_us = Vec::new();
        for at in 0..200 {
            let key = (at * 7_919_317) % rows;
            let proved = self.prove(&format!("SELECT * FROM t WHERE id = {key}"));
            bytes.push(proved.file.len() as f64);
            verify_us.push(verify_us_of(&proved));
        }
        self.limit("point proof, bytes (largest of 200)", largest(&bytes), 6_144.0);
        self.limit("point proof verified, µs (median)", median(&mut verify_us), 200.0);
        let proved = self.prove("SELECT * FROM t WHERE id = -1");
        self.limit("absence proof, bytes", proved.file.len() as f64, 6_144.0);
    }

    /// 100 rows by primary key: at most three times what the rows are.
    fn range(&mut self, rows: u64) {
        let mut ratios = Vec::new();
        for at in 0..20 {
            let first = (at * 7_919_317) % (rows - 100);
            let sql = format!("SELECT * FROM t WHERE id >= {first} AND id < {}", first + 100);
            let proved = self.prove(&sql);
            let found = self.database.query(&sql, &[]).expect("rows");
            let size: usize = found.rows.iter().flatten().map(size_of_value).sum();
            ratios.push(proved.file.len() as f64 / size as f64);
        }
        self.limit("range proof of 100 rows ÷ their values", median(&mut ratios), 3.0);
        let proved = self.prove("SELECT COUNT(*) FROM t");
        println!("COUNT(*) of all rows: {} bytes", proved.file.len());
    }

    /// One key as of a moment: 100,000 versions against one.
    fn past(&mut self, _rows: u64) {
        let position = self.database.position().expect("a position").get() - VERSIONS / 2;
        let of =
            |key: u64| format!("SELECT * FROM versions AS OF POSITION {position} WHERE id = {key}");
        let (one, many) = (self.prove(&of(1)), self.prove(&of(2)));
        let ratio = many.file.len() as f64 / one.file.len() as f64;
        self.limit("AS OF of a key, 100,000 versions ÷ one, bytes", ratio, 2.0);
        let time = |bench: &Bench, key: u64| {
            let mut times: Vec<f64> = (0..100)
                .map(|_| {
                    let started = Instant::now();
                    bench.prove(&of(key));
                    started.elapsed().as_secs_f64()
                })
                .collect();
            median(&mut times)
        };
        let (one, many) = (time(self, 1), time(self, 2));
        self.limit("AS OF of a key, 100,000 versions ÷ one, time", many / one, 2.0);
    }

    /// Proved point reads of one state: one attestation for all.
    fn batch(&mut self, rows: u64) {
        let count = 5_000;
        let started = Instant::now();
        for at in 0..count {
            self.prove(&format!("SELECT * FROM t WHERE id = {}", (at * 104_729) % rows));
        }
        let rate = f64::from(count as u32) / started.elapsed().as_secs_f64();
        self.limit("5,000/s ÷ proved point reads/s", 5_000.0 / rate, 1.0);
        println!("proved point reads: {rate:.0}/s");
    }

    fn execute(&self, sql: &str) {
        self.database.execute(sql, &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    fn prove(&self, sql: &str) -> Proved {
        self.database.prove(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn limit(&mut self, what: &str, found: f64, limit: f64) {
        let verdict = if found <= limit { "ok" } else { "PASSED" };
        self.failed |= found > limit;
        println!("{what}: {found:.2}, limit {limit:.2}: {verdict}");
    }
}

/// Time to verify, best of five.
fn verify_us_of(proved: &Proved) -> f64 {
    let policy = Policy::parse(&proved.policy).expect("a policy");
    let times = (0..5).map(|_| {
        let started = Instant::now();
        verify(&proved.query, &proved.file, &policy).expect("it holds");
        started.elapsed().as_secs_f64() * 1e6
    });
    times.fold(f64::INFINITY, f64::min)
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Text(text) => text.len(),
        _ => 8,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
