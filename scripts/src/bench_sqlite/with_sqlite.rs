//! The measuring half, compiled with SQLite.
//!
//! Table, rows and statements are those of `verity bench`: eight columns, about 200 bytes a row.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::Options;
use crate::steps::{capture_ok, cargo, release_binary, remove, run as run_command, scratch};

const BATCH: u64 = 1_000;
const CLIENTS: u64 = 32;
/// Of each of the three texts of a row.
const TEXT_BYTES: usize = 54;

pub fn run(options: &Options) -> Result<bool, String> {
    let folder = match &options.data {
        Some(folder) => folder.clone(),
        None => scratch("bench-sqlite")?,
    };
    let budget = Duration::from_secs(options.seconds);
    run_command(&mut cargo(&["build", "--quiet", "--release", "--package", "verity"]))?;
    let sqlite = sqlite(&folder, options.rows, budget)
        .map_err(|error| format!("SQLite in {}: {error}", folder.display()))?;
    let mut rows = Vec::new();
    for (workload, unit, sqlite) in sqlite {
        let verity = verity(&folder, options, workload)?;
        let workload = workload.name();
        rows.push(json!({
            "workload": workload,
            "unit": unit,
            "verity": verity,
            "sqlite": sqlite,
            "ratio": verity / sqlite,
        }));
    }
    if options.json {
        println!("{}", json!({ "sqlite_version": rusqlite::version(), "workloads": rows }));
        return Ok(true);
    }
    println!("SQLite {}, WAL, synchronous=FULL; both in {}", rusqlite::version(), folder.display());
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or(0.0);
        println!(
            "{:<24} verity {:>12.0} {unit}   sqlite {:>12.0} {unit}   ratio {:>6.2}",
            row["workload"].as_str().unwrap_or_default(),
            number("verity"),
            number("sqlite"),
            number("ratio"),
            unit = row["unit"].as_str().unwrap_or_default(),
        );
    }
    Ok(true)
}

#[derive(Clone, Copy, Debug)]
enum Workload {
    InsertOne,
    InsertMany,
    InsertBatch,
    PointRead,
    IndexRange,
    CountWhere,
    Count,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::InsertOne => "insert, 1 client",
            Workload::InsertMany => "insert, 32 clients",
            Workload::InsertBatch => "insert, batch 1000",
            Workload::PointRead => "point-read",
            Workload::IndexRange => "index range of 100",
            Workload::CountWhere => "count with predicate",
            Workload::Count => "count",
        }
    }
}

type Measured = (Workload, &'static str, f64);

fn sqlite(folder: &Path, rows: u64, budget: Duration) -> rusqlite::Result<Vec<Measured>> {
    let file = folder.join("sqlite.db");
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("sqlite.db{ending}")));
    }
    let mut connection = Connection::open(&file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Room for the whole table, as Verity's cache has by default.
    connection.pragma_update(None, "cache_size", -(256 << 10))?;
    connection.execute_batch(
        "CREATE TABLE bench (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, c REAL, \
         d TEXT, e TEXT, f TEXT, g INTEGER)",
    )?;
    let mut id: i64 = 0;
    let single = rows_per_second(budget, || one_row(&mut id), |rows| insert(&connection, rows))?;
    // Writers of SQLite wait for each other: each has a connection of its own.
    let next = AtomicI64::new(id);
    let many = inserts_of_many(&file, &next, budget)?;
    id = next.load(Ordering::Relaxed);
    let mut commit = |rows: &[Row]| {
        let transaction = connection.transaction()?;
        insert(&transaction, rows)?;
        transaction.commit()
    };
    let batched = rows_per_second(budget, || batch(&mut id), &mut commit)?;
    while (id as u64) < rows {
        commit(&batch(&mut id))?;
    }
    connection.execute("DELETE FROM bench WHERE id > ?1", [rows as i64])?;
    // Once over the table, as `verity bench` does, so that what fits the cache is in it.
    let mut warm = connection.prepare("SELECT SUM(LENGTH(d)) FROM bench")?;
    let warmed: i64 = warm.query_row([], |row| row.get(0))?;
    assert!(warmed > 0, "the table has rows");
    let mut select = connection.prepare("SELECT a, d FROM bench WHERE id = ?1")?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut bytes: u64 = 0;
    let reads = per_second(budget, || {
        for _ in 0..1_000 {
            let key = 1 + random.below(rows.min(id as u64)) as i64;
            bytes += select.query_row([key], |row| {
                let number: i64 = row.get(0)?;
                let text: String = row.get(1)?;
                Ok(text.len() as u64 + u64::from(number == 0))
            })?;
        }
        Ok(1_000)
    })?;
    assert!(bytes > 0, "the reads are not optimised away");
    drop(select);
    let (ranges, counts_where) = scans(&connection, rows, &mut random, budget)?;
    let mut count = connection.prepare("SELECT COUNT(*) FROM bench")?;
    let counts = per_second(budget, || {
        let counted: i64 = count.query_row([], |row| row.get(0))?;
        assert_eq!(counted as u64, rows, "all rows are counted");
        Ok(1)
    })?;
    Ok(vec![
        (Workload::InsertOne, "rows/s", single),
        (Workload::InsertMany, "rows/s", many),
        (Workload::InsertBatch, "rows/s", batched),
        (Workload::PointRead, "reads/s", reads),
        (Workload::IndexRange, "ranges/s", ranges),
        (Workload::CountWhere, "counts/s", counts_where),
        (Workload::Count, "counts/s", counts),
    ])
}

/// Ranges of 100 rows of an index, and counts with a predicate that no index serves, a second.
fn scans(
    connection: &Connection,
    rows: u64,
    random: &mut Random,
    budget: Duration,
) -> rusqlite::Result<(f64, f64)> {
    connection.execute_batch("CREATE INDEX bench_a ON bench (a)")?;
    let mut range =
        connection.prepare("SELECT a, d FROM bench WHERE a >= ?1 ORDER BY a LIMIT 100")?;
    let mut given: usize = 0;
    let mut one = || {
        let start = mixed(1 + random.below(rows)) >> 8;
        let all = range.query_map([start as i64], |row| {
            let pair: (i64, String) = (row.get(0)?, row.get(1)?);
            Ok(pair)
        })?;
        given += all.collect::<rusqlite::Result<Vec<(i64, String)>>>()?.len();
        Ok(1)
    };
    // Once, so that what fits the cache is in it.
    per_second(Duration::from_secs(1), &mut one)?;
    let ranges = per_second(budget, &mut one)?;
    assert!(given > 0, "the ranges have rows");
    let mut count = connection.prepare("SELECT COUNT(*) FROM bench WHERE b < ?1")?;
    let expected = (1..=rows).filter(|id| id % 100 < 50).count() as i64;
    let counts = per_second(budget, || {
        let counted: i64 = count.query_row([50], |row| row.get(0))?;
        assert_eq!(counted, expected, "all rows are looked at");
        Ok(1)
    })?;
    Ok((ranges, counts))
}

fn inserts_of_many(file: &Path, next: &AtomicI64, budget: Duration) -> rusqlite::Result<f64> {
    let client = || -> rusqlite::Result<f64> {
        let connection = Connection::open(file)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::from_secs(30))?;
        let make = || one_row(&mut next.fetch_add(1, Ordering::Relaxed));
        rows_per_second(budget, make, |rows| insert(&connection, rows))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(rate) => rate,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.sum()
    })
}

/// A row of about 200 bytes, from its key: the one that `verity bench` makes of it.
struct Row {
    id: i64,
    mixed: u64,
    texts: [String; 3],
}

impl Row {
    fn new(id: i64) -> Row {
        let mixed = mixed(id as u64);
        let text = |salt: u64| {
            let mut text = format!("{:016x}", mixed ^ salt);
            while text.len() < TEXT_BYTES {
                text.push_str("abcdefghijklmnop");
            }
            text.truncate(TEXT_BYTES);
            text
        };
        Row { id, mixed, texts: [text(1), text(2), text(3)] }
    }
}

/// The row after key `id`, which counts up.
fn one_row(id: &mut i64) -> Vec<Row> {
    *id += 1;
    vec![Row::new(*id)]
}

fn batch(id: &mut i64) -> Vec<Row> {
    (0..BATCH).flat_map(|_| one_row(id)).collect()
}

fn insert(connection: &Connection, rows: &[Row]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT INTO bench VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for row in rows {
        let [d, e, f] = &row.texts;
        statement.execute(params![
            row.id,
            (row.mixed >> 8) as i64,
            row.id % 100,
            row.id as f64 / 3.0,
            d,
            e,
            f,
            1_700_000_000_000_000_000 + row.id
        ])?;
    }
    Ok(())
}

/// Rows a second. The clock stands while they are made, as it does in `verity bench`.
fn rows_per_second(
    budget: Duration,
    mut make: impl FnMut() -> Vec<Row>,
    mut insert: impl FnMut(&[Row]) -> rusqlite::Result<()>,
) -> rusqlite::Result<f64> {
    let (mut count, mut elapsed) = (0, Duration::ZERO);
    while elapsed < budget {
        let rows = make();
        let started = Instant::now();
        insert(&rows)?;
        elapsed += started.elapsed();
        count += rows.len();
    }
    Ok(count as f64 / elapsed.as_secs_f64())
}

fn mixed(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn per_second(
    budget: Duration,
    mut work: impl FnMut() -> rusqlite::Result<u64>,
) -> rusqlite::Result<f64> {
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < budget {
        count += work()?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What `verity bench` measures for one workload, a second.
fn verity(folder: &Path, options: &Options, workload: Workload) -> Result<f64, String> {
    // A directory of its own for each: the workloads must not warm each other.
    let data = folder.join(format!("verity-{workload:?}"));
    remove(&data)?;
    let mut command = Command::new(release_binary("verity"));
    command.arg("bench").arg("--data").arg(&data).arg("--json");
    let (group, figure) = match workload {
        Workload::InsertOne => {
            command.args(["--workload", "insert", "--rows", "30000"]);
            ("insert", "rows_per_second")
        }
        Workload::InsertMany => {
            let clients = CLIENTS.to_string();
            command.args(["--workload", "insert", "--clients", &clients, "--rows", "300000"]);
            ("insert", "rows_per_second")
        }
        Workload::InsertBatch => {
            command.args(["--workload", "insert", "--batch", "1000", "--rows", "500000"]);
            ("insert", "rows_per_second")
        }
        Workload::PointRead => {
            let rows = options.rows.to_string();
            command.args(["--workload", "point-read", "--reads", "1000000", "--rows", &rows]);
            ("point_read", "reads_per_second")
        }
        Workload::IndexRange => {
            let rows = options.rows.to_string();
            command.args(["--workload", "index-range", "--rows", &rows]);
            ("index_range", "ranges_per_second")
        }
        Workload::CountWhere => {
            let rows = options.rows.to_string();
            command.args(["--workload", "count-where", "--rows", &rows]);
            ("count_where", "counts_per_second")
        }
        Workload::Count => {
            let rows = options.rows.to_string();
            command.args(["--workload", "count", "--rows", &rows]);
            ("count", "counts_per_second")
        }
    };
    let finished = capture_ok(&mut command)?;
    let line = finished.output.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let bench: Value = serde_json::from_str(line)
        .map_err(|error| format!("verity bench --json: {error}: {}", finished.output))?;
    let rate = bench[group][figure].as_f64();
    rate.ok_or_else(|| format!("verity bench says nothing of {group} {figure}: {bench}"))
}
