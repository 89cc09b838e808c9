//! The measuring half, compiled with SQLite.
//!
//! The table has eight columns and rows of about 200 bytes, as that of `verity bench`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::Options;
use crate::steps::{capture_ok, cargo, release_binary, run as run_command, scratch};

const BATCH: u64 = 1_000;

pub fn run(options: &Options) -> Result<bool, String> {
    let folder = match &options.data {
        Some(folder) => folder.clone(),
        None => scratch("bench-sqlite")?,
    };
    let budget = Duration::from_secs(options.seconds);
    let sqlite = sqlite(&folder, options.rows, budget)
        .map_err(|error| format!("SQLite in {}: {error}", folder.display()))?;
    let verity = verity(&folder, options)?;
    let mut rows = Vec::new();
    for (workload, unit, sqlite) in sqlite {
        let verity = rate(&verity, workload)
            .ok_or_else(|| format!("`verity bench` says nothing of {workload}: {verity}"))?;
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

type Measured = (&'static str, &'static str, f64);

fn sqlite(folder: &Path, rows: u64, budget: Duration) -> rusqlite::Result<Vec<Measured>> {
    let file = folder.join("sqlite.db");
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("sqlite.db{ending}")));
    }
    let mut connection = Connection::open(&file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // As much memory as `verity bench` gets by default.
    connection.pragma_update(None, "cache_size", -(256 << 10))?;
    connection.execute_batch(
        "CREATE TABLE bench (id INTEGER PRIMARY KEY, name TEXT, city TEXT, born TEXT, \
         amount REAL, active INTEGER, note TEXT, code INTEGER)",
    )?;
    let mut id: i64 = 0;
    let single = per_second(budget, || {
        id += 1;
        insert(&connection, id)?;
        Ok(1)
    })?;
    let batched = per_second(budget, || {
        let transaction = connection.transaction()?;
        for _ in 0..BATCH {
            id += 1;
            insert(&transaction, id)?;
        }
        transaction.commit()?;
        Ok(BATCH)
    })?;
    while (id as u64) < rows {
        let transaction = connection.transaction()?;
        for _ in 0..BATCH {
            id += 1;
            insert(&transaction, id)?;
        }
        transaction.commit()?;
    }
    let mut select = connection.prepare("SELECT name, code FROM bench WHERE id = ?1")?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut bytes = 0;
    let reads = per_second(budget, || {
        for _ in 0..1_000 {
            let key = 1 + random.below(rows.min(id as u64)) as i64;
            bytes += select.query_row([key], |row| {
                let name = row.get_ref(0)?.as_str()?.len() as i64;
                Ok(name + row.get::<_, i64>(1)? % 2)
            })?;
        }
        Ok(1_000)
    })?;
    assert!(bytes > 0, "the reads are not optimised away");
    Ok(vec![
        ("insert, 1 client", "rows/s", single),
        ("insert, batch 1000", "rows/s", batched),
        ("point read", "reads/s", reads),
    ])
}

fn insert(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT INTO bench VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    let note = "a note of about a hundred and twenty bytes, as long as what a clinician writes \
                about one visit of one patient, more or less";
    statement.execute(params![
        id,
        format!("patient {id:012}"),
        "Leominster",
        "1989-05-25",
        id as f64 / 7.0,
        id % 2 == 0,
        note,
        id * 31
    ])?;
    Ok(())
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

/// Everything that `verity bench` measures, as its JSON.
fn verity(folder: &Path, options: &Options) -> Result<Value, String> {
    run_command(&mut cargo(&["build", "--quiet", "--release", "--package", "verity"]))?;
    let mut command = Command::new(release_binary("verity"));
    command.arg("bench").arg("--data").arg(folder.join("verity")).arg("--json");
    command.args(["--seconds", &options.seconds.to_string()]);
    let finished = capture_ok(&mut command)?;
    let start = finished.output.find('{').unwrap_or(0);
    serde_json::from_str(&finished.output[start..])
        .map_err(|error| format!("verity bench --json: {error}: {}", finished.output))
}

/// The figure of one workload, by its name here.
fn rate(bench: &Value, workload: &str) -> Option<f64> {
    let wanted = |entry: &Value| -> bool {
        let number = |name: &str| entry[name].as_u64();
        match workload {
            "insert, 1 client" => {
                entry["workload"] == "insert"
                    && number("clients") == Some(1)
                    && number("batch") == Some(1)
            }
            "insert, batch 1000" => entry["workload"] == "insert" && number("batch") == Some(BATCH),
            "point read" => entry["workload"] == "point-read",
            _ => false,
        }
    };
    let results = bench["results"].as_array()?;
    results.iter().find(|entry| wanted(entry))?["per_second"].as_f64()
}
