//! Durable inserts: each call returns when its rows can survive a power cut.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::hardware::DurableWrites;
use verity::{Client, Error, Operation, Options, Statement, Value};

use super::{
    BenchArgs, COLUMNS, TEXT_BYTES, create_table, first_free_id, insert_into, open, percentile_us,
    row,
};
use crate::cli::{Failure, Output, interrupt};

const TABLE: &str = "bench_insert";
/// Pieces of the work, and durable writes measured before and after each.
const PIECES: u64 = 10;
const DURABLE_WRITES: u32 = 500;

pub fn run(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let database = open(options, args, output)?;
    let _watch = interrupt::watch(&database);
    database.execute(&create_table(TABLE), &[])?;
    let next = AtomicU64::new(first_free_id(&database, TABLE)?);
    let insert = database.prepare(&insert_into(TABLE))?;
    // A disk is not the same from one second to the next: what it can do is measured between pieces
    // of the work, with the clock of the work stopped.
    let mut writes = DurableWrites::open(super::data(args)?, options)?;
    writes.measure(DURABLE_WRITES)?;
    let (mut latencies, mut elapsed) = (Vec::new(), Duration::ZERO);
    let first = next.load(Ordering::Relaxed);
    for piece in 1..=PIECES {
        let end = first + args.rows * piece / PIECES;
        next.store(first + args.rows * (piece - 1) / PIECES, Ordering::Relaxed);
        let load = Load { insert: Inserts::Here(&insert), next: &next, end, batch: args.batch };
        let (calls, time) = load.run(args.clients, args.threads)?;
        latencies.extend(calls);
        elapsed += time;
        writes.measure(DURABLE_WRITES)?;
    }
    let seconds = elapsed.as_secs_f64();
    let durable_write_us = writes.mean_us();
    drop(writes);
    drop(insert);
    database.close()?;
    let mut sorted = latencies;
    sorted.sort_unstable();
    let rows_s = args.rows as f64 / seconds;
    let calls_s = sorted.len() as f64 / seconds;
    let mean_us = sorted.iter().sum::<Duration>().as_secs_f64() * 1e6 / sorted.len() as f64;
    let disk_calls_s = 1e6 / durable_write_us;
    output.line(format!(
        "insert     {} client(s) on {} thread(s), batch {}: {rows_s:.0} rows/s, \
         {calls_s:.0} calls/s ({:.2}× of one durable write after the other, \
         {durable_write_us:.1} µs meanwhile), latency {mean_us:.0} µs mean, {:.0} p50, {:.0} p99",
        args.clients,
        args.threads.clamp(1, args.clients),
        args.batch,
        calls_s / disk_calls_s,
        percentile_us(&sorted, 50),
        percentile_us(&sorted, 99),
    ));
    Ok(json!({
        "clients": args.clients,
        "threads": args.threads.clamp(1, args.clients),
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
        "durable_write_4k_us_meanwhile": durable_write_us,
        "limit_calls_per_second_one_client": disk_calls_s,
        "ratio_to_one_durable_write": calls_s / disk_calls_s,
    }))
}

/// Rows made before the clock starts, by all clients together: what they cost is not the
/// database's.
const ROWS_READY_BYTES: u64 = 256 << 20;
/// Memory of a row besides its three texts.
const ROW_BYTES: u64 = 512;

/// What clients do together: they insert the keys from `next` to `end`.
#[derive(Debug)]
pub struct Load<'a> {
    pub insert: Inserts<'a>,
    pub next: &'a AtomicU64,
    pub end: u64,
    /// Rows of a call.
    pub batch: u64,
}

impl Load<'_> {
    /// The time of every call, and of all together. Clients share the threads; one that has a
    /// thread to itself blocks it, the others of a thread are its tasks.
    pub fn run(&self, clients: u64, threads: u64) -> Result<(Vec<Duration>, Duration), Error> {
        let threads = threads.clamp(1, clients);
        let calls = (self.end - self.next.load(Ordering::Relaxed)).div_ceil(self.batch);
        let row_bytes = ROW_BYTES + 3 * TEXT_BYTES as u64;
        let ready = (ROWS_READY_BYTES / (row_bytes * self.batch * clients)).min(calls / clients);
        let barrier = Barrier::new(threads as usize + 1);
        let thread = |nth: u64, clients_here: u64| {
            let made: Vec<Vec<Rows>> = (0..clients_here)
                .map(|_| (0..ready).filter_map(|_| self.next_rows()).collect())
                .collect();
            barrier.wait();
            let mut clients = made.into_iter();
            match (clients_here, clients.next()) {
                (1, Some(made)) => self.block(made, nth),
                (_, first) => {
                    let tasks = first.into_iter().chain(clients).map(|made| self.wait(made, nth));
                    let all = futures_util::future::try_join_all(tasks);
                    Ok(futures_executor::block_on(all)?.concat())
                }
            }
        };
        let thread = &thread;
        let mut started = Instant::now();
        let results: Vec<Result<Vec<Duration>, Error>> = std::thread::scope(|scope| {
            let here = |nth| clients * (nth + 1) / threads - clients * nth / threads;
            let threads: Vec<_> =
                (0..threads).map(|nth| scope.spawn(move || thread(nth, here(nth)))).collect();
            barrier.wait();
            started = Instant::now();
            let joined = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        });
        let elapsed = started.elapsed();
        let mut all = Vec::new();
        for result in results {
            all.extend(result?);
        }
        Ok((all, elapsed))
    }

    fn next_rows(&self) -> Option<Rows> {
        let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let ids = first..(first + self.batch).min(self.end);
        (!ids.is_empty()).then(|| ids.map(|id| row(id, TEXT_BYTES)).collect())
    }

    fn block(&self, made: Vec<Rows>, thread: u64) -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        let mut made = made.into_iter();
        while let Some(rows) = made.next().or_else(|| self.next_rows()) {
            let started = Instant::now();
            self.insert.insert(thread, rows)?;
            latencies.push(started.elapsed());
        }
        Ok(latencies)
    }

    async fn wait(&self, made: Vec<Rows>, thread: u64) -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        let mut made = made.into_iter();
        while let Some(rows) = made.next().or_else(|| self.next_rows()) {
            let started = Instant::now();
            self.insert.insert_async(thread, rows).await?;
            latencies.push(started.elapsed());
        }
        Ok(latencies)
    }
}

type Rows = Vec<Vec<Value>>;

/// Where the rows go.
#[derive(Clone, Copy, Debug)]
pub enum Inserts<'a> {
    /// Prepared once for all clients; rows are its parameters.
    Here(&'a Statement),
    /// Connections, of which each thread uses one.
    There { clients: &'a [Client], table: &'a str },
}

impl<'a> Inserts<'a> {
    fn insert(&self, thread: u64, rows: Rows) -> Result<(), Error> {
        match self {
            Inserts::Here(statement) => statement.execute_batch(rows).map(drop),
            Inserts::There { clients, table } => {
                connection(clients, thread).insert_rows(table, COLUMNS, rows).map(drop)
            }
        }
    }

    async fn insert_async(&self, thread: u64, rows: Rows) -> Result<(), Error> {
        match self {
            Inserts::Here(statement) => statement.execute_batch_async(rows).await.map(drop),
            Inserts::There { clients, table } => {
                let columns = COLUMNS.iter().map(|name| (*name).to_string()).collect();
                let insert = Operation::InsertRows { table: (*table).to_string(), columns, rows };
                connection(clients, thread).transaction_async(vec![insert]).await.map(drop)
            }
        }
    }
}

fn connection(clients: &[Client], thread: u64) -> &Client {
    &clients[thread as usize % clients.len()]
}
