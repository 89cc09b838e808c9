//! Durable inserts: each call returns when its rows can survive a power cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::hardware::Limits;
use verity::{Error, Options, Verity};

use super::{
    BenchArgs, COLUMNS, TEXT_BYTES, create_table, first_free_id, open, percentile_us, row,
};
use crate::cli::{Failure, Output, interrupt};

const TABLE: &str = "bench_insert";

pub fn run(
    args: &BenchArgs,
    options: &Options,
    limits: &Limits,
    output: &Output,
) -> Result<Json, Failure> {
    let database = open(options, args, output)?;
    let _watch = interrupt::watch(&database);
    database.execute(&create_table(TABLE), &[])?;
    let next = AtomicU64::new(first_free_id(&database, TABLE)?);
    let end = next.load(Ordering::Relaxed) + args.rows;
    let started = Instant::now();
    let latencies = insert_all(&database, TABLE, &next, end, args.clients, args.batch, TEXT_BYTES)?;
    let seconds = started.elapsed().as_secs_f64();
    database.close()?;
    let mut sorted = latencies;
    sorted.sort_unstable();
    let rows_s = args.rows as f64 / seconds;
    let calls_s = sorted.len() as f64 / seconds;
    let mean_us = sorted.iter().sum::<Duration>().as_secs_f64() * 1e6 / sorted.len() as f64;
    let disk_calls_s = 1e6 / limits.durable_write_us;
    output.line(format!(
        "insert     {} client(s), batch {}: {rows_s:.0} rows/s, {calls_s:.0} calls/s \
         ({:.2}× of one durable write after the other), latency {mean_us:.0} µs mean, {:.0} p50, \
         {:.0} p99",
        args.clients,
        args.batch,
        calls_s / disk_calls_s,
        percentile_us(&sorted, 50),
        percentile_us(&sorted, 99),
    ));
    Ok(json!({
        "clients": args.clients,
        "batch": args.batch,
        "rows": args.rows,
        "seconds": seconds,
        "rows_per_second": rows_s,
        "calls_per_second": calls_s,
        "latency_us": {
            "mean": mean_us,
            "p50": percentile_us(&sorted, 50),
            "p99": percentile_us(&sorted, 99),
            "max": percentile_us(&sorted, 100),
        },
        "limit_calls_per_second_one_client": disk_calls_s,
        "ratio_to_one_durable_write": calls_s / disk_calls_s,
    }))
}

/// Inserts the keys from `next` to `end`; the time of every call.
pub fn insert_all(
    database: &Verity,
    table: &str,
    next: &AtomicU64,
    end: u64,
    clients: u64,
    batch: u64,
    text_bytes: usize,
) -> Result<Vec<Duration>, Error> {
    let client = || {
        let mut latencies = Vec::new();
        loop {
            let first = next.fetch_add(batch, Ordering::Relaxed);
            if first >= end {
                return Ok(latencies);
            }
            let rows = (first..(first + batch).min(end)).map(|id| row(id, text_bytes)).collect();
            let started = Instant::now();
            database.insert_rows(table, COLUMNS, rows)?;
            latencies.push(started.elapsed());
        }
    };
    if clients == 1 {
        return client();
    }
    let results: Vec<Result<Vec<Duration>, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let mut all = Vec::new();
    for result in results {
        all.extend(result?);
    }
    Ok(all)
}
