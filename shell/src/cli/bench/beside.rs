//! What one client that commits feels of long work beside it: a full scan, an index that is built,
//! an index that is freed. Its latency is measured before, meanwhile and after, in one run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::{Options, Statement, Value, Verity};

use super::point_read::{TABLE as LARGE, filled};
use super::{BenchArgs, TEXT_BYTES, create_table, first_free_id, insert_into, percentile_us, row};
use crate::cli::{Failure, Output, interrupt};

const TABLE: &str = "bench_beside";
const INDEX: &str = "bench_read_b";
const ALONE_FOR: Duration = Duration::from_secs(4);
const BESIDE_FOR: Duration = Duration::from_secs(8);
/// Commits between two looks at the jobs.
const LOOK_EVERY: u64 = 500;

/// One client that inserts row after row.
struct Client {
    insert: Statement,
    next: AtomicU64,
}

impl Client {
    fn new(database: &Verity) -> Result<Client, Failure> {
        database.execute(&create_table(TABLE), &[])?;
        let next = AtomicU64::new(first_free_id(database, TABLE)?);
        Ok(Client { insert: database.prepare(&insert_into(TABLE))?, next })
    }

    /// Sorted latencies of commits, one after the other, until `done`.
    fn commit_until(
        &self,
        mut done: impl FnMut(u64) -> Result<bool, Failure>,
    ) -> Result<Vec<Duration>, Failure> {
        let mut latencies = Vec::new();
        while !done(latencies.len() as u64)? {
            let rows = vec![row(self.next.fetch_add(1, Ordering::Relaxed), TEXT_BYTES)];
            let started = Instant::now();
            self.insert.execute_batch(rows)?;
            latencies.push(started.elapsed());
        }
        latencies.sort_unstable();
        Ok(latencies)
    }

    fn commit_for(&self, time: Duration) -> Result<Vec<Duration>, Failure> {
        let started = Instant::now();
        self.commit_until(|_| Ok(started.elapsed() >= time))
    }
}

/// Commits while a thread scans the large table, one scan after the other.
pub fn scan(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    let client = Client::new(&database)?;
    let mut alone = client.commit_for(ALONE_FOR)?;
    let (ended, scans) = (AtomicBool::new(false), AtomicU64::new(0));
    let scan = || -> Result<(), verity::Error> {
        let statement = database.prepare(&format!("SELECT COUNT(*) FROM {LARGE} WHERE b < ?"))?;
        while !ended.load(Ordering::Relaxed) {
            statement.query(&[Value::Integer(50)])?;
            scans.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let beside = std::thread::scope(|scope| {
        let scanner = scope.spawn(scan);
        let started = Instant::now();
        let enough = || started.elapsed() >= BESIDE_FOR && scans.load(Ordering::Relaxed) > 0;
        let beside = client.commit_until(|_| Ok(enough() || scanner.is_finished()));
        ended.store(true, Ordering::Relaxed);
        match scanner.join() {
            Ok(result) => result.map_err(Failure::from).and(beside),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    alone.extend(client.commit_for(ALONE_FOR)?);
    alone.sort_unstable();
    let scans = scans.into_inner();
    let report = compare(&alone, &beside);
    database.close()?;
    show(&format!("scan       {scans} scans of {rows} rows"), &report, output);
    Ok(json!({ "rows": rows, "scans": scans, "commits": report }))
}

/// Commits while an index of the large table is built, and while it is freed again.
pub fn jobs(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let _watch = interrupt::watch(&database);
    let client = Client::new(&database)?;
    let drop_index = format!("DROP INDEX IF EXISTS {INDEX}");
    database.execute(&drop_index, &[])?;
    while jobs_left(&database)? {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut report = json!({ "rows": rows });
    let create = format!("CREATE INDEX {INDEX} ON {LARGE} (b, a)");
    for (name, sql) in [("create_index", &create), ("drop_index", &drop_index)] {
        let mut alone = client.commit_for(ALONE_FOR)?;
        let started = Instant::now();
        database.execute(sql, &[])?;
        let first = started.elapsed();
        let beside = client
            .commit_until(|count| Ok(count.is_multiple_of(LOOK_EVERY) && !jobs_left(&database)?))?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(error) = job_error(&database)? {
            return Err(Failure::Failed(format!("the job has failed: {error}")));
        }
        alone.extend(client.commit_for(ALONE_FOR)?);
        alone.sort_unstable();
        let rows_s = rows as f64 / seconds;
        let mut figures = json!({ "seconds": seconds, "rows_per_second": rows_s });
        figures["answered_after_ms"] = json!(first.as_secs_f64() * 1e3);
        figures["commits"] = compare(&alone, &beside);
        let what = format!(
            "{name:<12} {rows} rows in {seconds:.1} s, {rows_s:.0} rows/s, answered after {:.1} ms",
            first.as_secs_f64() * 1e3
        );
        show(&what, &figures["commits"], output);
        report[name] = figures;
    }
    database.close()?;
    Ok(report)
}

fn jobs_left(database: &Verity) -> Result<bool, Failure> {
    let jobs = database.query("SELECT COUNT(*) FROM __jobs WHERE error IS NULL", &[])?;
    Ok(jobs.rows != vec![vec![Value::Integer(0)]])
}

fn job_error(database: &Verity) -> Result<Option<Value>, Failure> {
    let errors = database.query("SELECT error FROM __jobs WHERE error IS NOT NULL", &[])?;
    Ok(errors.rows.into_iter().flatten().next())
}

fn compare(alone: &[Duration], beside: &[Duration]) -> Json {
    let of = |sorted: &[Duration]| {
        json!({
            "commits": sorted.len(),
            "p50_us": percentile_us(sorted, 50),
            "p99_us": percentile_us(sorted, 99),
            "max_us": percentile_us(sorted, 100),
        })
    };
    json!({
        "alone": of(alone),
        "beside": of(beside),
        "ratio_p99": percentile_us(beside, 99) / percentile_us(alone, 99),
    })
}

fn show(what: &str, compared: &Json, output: &Output) {
    let of = |side: &str, name: &str| compared[side][name].as_f64().unwrap_or(0.0);
    output.line(format!(
        "{what}: commits alone p50 {:.0} µs, p99 {:.0}; beside it p50 {:.0}, p99 {:.0} ({:.2}×), \
         longest {:.1} ms",
        of("alone", "p50_us"),
        of("alone", "p99_us"),
        of("beside", "p50_us"),
        of("beside", "p99_us"),
        compared["ratio_p99"].as_f64().unwrap_or(0.0),
        of("beside", "max_us") / 1e3,
    ));
}
