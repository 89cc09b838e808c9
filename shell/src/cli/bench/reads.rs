//! Reads beside the plain point read: ranges of an index, counts with a predicate, the past, and a
//! table that is larger than the cache.
//!
//! Each says what it compares with in the same run; those that SQLite can do are repeated by
//! `cargo x bench-sqlite`.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::{Options, Statement, Status, Value, Verity};

use super::point_read::{Random, TABLE, filled};
use super::{BenchArgs, mixed, percentile_us};
use crate::cli::{Failure, Output, interrupt};

/// Rows of a range, and the index that gives them.
const RANGE: u64 = 100;
const INDEX: &str = "bench_read_a";
const MEASURE_FOR: Duration = Duration::from_secs(3);
/// Rows that are changed after the position that is read, out of so many.
const CHANGED_ONE_IN: u64 = 2;
/// Rows changed so at most: for a large table it takes as long as the measurement.
const CHANGED_MAX: u64 = 200_000;

/// The index on column `a`, whole.
pub fn make_index(database: &Verity) -> Result<Duration, Failure> {
    let started = Instant::now();
    database.execute(&format!("CREATE INDEX IF NOT EXISTS {INDEX} ON {TABLE} (a)"), &[])?;
    let ready = format!("SELECT ready_at FROM __indexes WHERE name = '{INDEX}'");
    while database.query(&ready, &[])?.rows.iter().any(|row| row[0] == Value::Null) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(started.elapsed())
}

/// Ranges of 100 rows in the order of an index, two columns decoded.
pub fn index_range(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    make_index(&database)?;
    let sql = format!("SELECT a, d FROM {TABLE} WHERE a >= ? ORDER BY a LIMIT {RANGE}");
    let statement = database.prepare(&sql)?;
    let mut random = Random::new();
    // Ranges that begin near the end are shorter.
    let mut given = 0;
    let mut range = || -> Result<(), Failure> {
        let start = mixed(random.id(rows)) >> 8;
        given += statement.query(&[Value::Integer(start as i64)])?.rows.len() as u64;
        Ok(())
    };
    per_second(Duration::from_secs(1), &mut range)?;
    let ranges_s = per_second(MEASURE_FOR, &mut range)?;
    if given == 0 {
        return Err(Failure::Failed("the ranges gave no row".to_string()));
    }
    drop(statement);
    database.close()?;
    output.line(format!(
        "index-range {rows} rows, {RANGE} rows of an index each: {ranges_s:.0} ranges/s, {:.1} µs",
        1e6 / ranges_s
    ));
    Ok(json!({ "rows": rows, "range": RANGE, "ranges_per_second": ranges_s }))
}

/// `COUNT(*)` with a predicate that no index serves: the whole table is read.
pub fn count_where(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    let statement = database.prepare(&format!("SELECT COUNT(*) FROM {TABLE} WHERE b < ?"))?;
    let counts_s = per_second(MEASURE_FOR, &mut || {
        let counted = statement.query(&[Value::Integer(50)])?.rows;
        let expected = (1..=rows).filter(|id| id % 100 < 50).count();
        if counted != vec![vec![Value::Integer(expected as i64)]] {
            let counted = counted.first().and_then(|row| row.first()).unwrap_or(&Value::Null);
            return Err(Failure::Failed(format!("{counted} rows counted, not {expected}")));
        }
        Ok(())
    })?;
    drop(statement);
    database.close()?;
    output.line(format!(
        "count-where {rows} rows: {counts_s:.2} counts/s, {:.1} ns a row",
        1e9 / counts_s / rows as f64
    ));
    Ok(json!({ "rows": rows, "counts_per_second": counts_s }))
}

/// Point reads of now, and of a position since which half of the rows have changed.
pub fn as_of(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    let position = database.position()?;
    let changed = (rows / CHANGED_ONE_IN).min(CHANGED_MAX);
    for first in (0..changed).step_by(1_000) {
        let (low, high) = (first * CHANGED_ONE_IN, (first + 1_000) * CHANGED_ONE_IN);
        let update = format!(
            "UPDATE {TABLE} SET a = a + 1 WHERE id > {low} AND id <= {high} \
             AND id % {CHANGED_ONE_IN} = 0"
        );
        database.execute(&update, &[])?;
    }
    let now = database.prepare(&format!("SELECT a, d FROM {TABLE} WHERE id = ?"))?;
    let then = database
        .prepare(&format!("SELECT a, d FROM {TABLE} AS OF POSITION {position} WHERE id = ?"))?;
    // Keys of which every second has changed, in both.
    let keys = changed * CHANGED_ONE_IN;
    let mut figures = [0.0; 4];
    for (at, statement) in [&now, &then, &now, &then].into_iter().enumerate() {
        let mut random = Random::new();
        let mut row = Vec::new();
        let mut read = || point(statement, &mut row, random.id(keys));
        per_second(Duration::from_millis(500), &mut read)?;
        figures[at] = per_second(MEASURE_FOR, &mut read)?;
    }
    let (now_s, then_s) =
        (f64::midpoint(figures[0], figures[2]), f64::midpoint(figures[1], figures[3]));
    drop((now, then));
    database.close()?;
    output.line(format!(
        "as-of      {rows} rows, {changed} of {keys} changed since: {now_s:.0} reads/s of now, \
         {then_s:.0} as of then: {:.2}× the time",
        now_s / then_s
    ));
    Ok(json!({
        "rows": rows,
        "reads_per_second": now_s,
        "as_of_reads_per_second": then_s,
        "ratio_of_times": now_s / then_s,
    }))
}

fn point(statement: &Statement, row: &mut Vec<Value>, id: u64) -> Result<(), Failure> {
    match statement.query_row(&[Value::Integer(id as i64)], row)? {
        true => Ok(()),
        false => Err(Failure::Failed(format!("row {id} was not found"))),
    }
}

/// Point reads and updates of random rows in a table that the cache does not hold: pages read from
/// the disk for each, beside the least that would do.
pub fn cold(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    let select = database.prepare(&format!("SELECT a, d FROM {TABLE} WHERE id = ?"))?;
    let update = database.prepare(&format!("UPDATE {TABLE} SET a = ? WHERE id = ?"))?;
    let mut random = Random::new();
    let mut row = Vec::new();
    let mut read = |_: u64| point(&select, &mut row, random.id(rows));
    let reads = (args.reads / 10).clamp(1, 100_000);
    // So that the inner pages are where they will be.
    run(&database, reads / 2, &mut read)?;
    let reading = run(&database, reads, &mut read)?;
    let mut random = Random::new();
    let mut change = |nth: u64| {
        let id = random.id(rows);
        update.execute(&[Value::Integer(nth as i64), Value::Integer(id as i64)])?;
        Ok(())
    };
    let updates = reads.min(20_000);
    run(&database, updates / 2, &mut change)?;
    let updating = run(&database, updates, &mut change)?;
    let grid = status(&database)?.grid;
    drop((select, update));
    database.close()?;
    let share = f64::from(grid.clean_pages_max) / f64::from(grid.pages_in_use);
    // The leaf of the row; to change it, also the leaf of history that gets what it was.
    let (read_ratio, update_ratio) = (reading.pages, updating.pages / 2.0);
    output.line(format!(
        "cold       {rows} rows, {} MiB of pages, cache {:.2} of them: a read takes {:.2} pages \
         from the disk ({read_ratio:.2}× the one leaf), {:.0} µs p50; an update {:.2} \
         ({update_ratio:.2}× two leaves), {:.0} µs p50",
        grid.pages_in_use / 256,
        share,
        reading.pages,
        reading.p50_us,
        updating.pages,
        updating.p50_us,
    ));
    Ok(json!({
        "rows": rows,
        "grid_pages": grid.pages_in_use,
        "clean_pages_max": grid.clean_pages_max,
        "cache_share": share,
        "pages_per_read": reading.pages,
        "pages_per_update": updating.pages,
        "ratio_read": read_ratio,
        "ratio_update": update_ratio,
        "read_p50_us": reading.p50_us,
        "update_p50_us": updating.p50_us,
    }))
}

/// What one operation took.
struct Took {
    /// Read from the disk, on average.
    pages: f64,
    p50_us: f64,
}

fn run(
    database: &Verity,
    count: u64,
    work: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<Took, Failure> {
    let before = status(database)?.grid.pages_read;
    let mut latencies = Vec::new();
    for nth in 0..count {
        let started = Instant::now();
        work(nth)?;
        latencies.push(started.elapsed());
    }
    latencies.sort_unstable();
    let pages = status(database)?.grid.pages_read - before;
    Ok(Took { pages: pages as f64 / count as f64, p50_us: percentile_us(&latencies, 50) })
}

fn status(database: &Verity) -> Result<Status, Failure> {
    database.status().ok_or_else(|| Failure::Failed("the database has stopped".to_string()))
}

fn per_second(
    budget: Duration,
    work: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < budget {
        work()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}
