//! Restart after a kill: how long from open to ready with as much to replay as the ring comes to
//! hold, filled once with the smallest requests and once with the largest.
//!
//! The database is abandoned, not closed: no last checkpoint, exactly as after `kill -9`. How full
//! the ring gets is found by filling it through one whole checkpoint; the kill comes when it is as
//! full again, just before the next checkpoint is durable.

use std::time::Instant;

use serde_json::{Value as Json, json};
use verity::hardware::Limits;
use verity::{Operation, Options, Value, Verity};

use super::{BenchArgs, first_free_id, open};
use crate::cli::{Failure, Output};

/// What the ring is filled with.
#[derive(Clone, Copy)]
enum Shape {
    /// One row of one number a request, thousands of requests in flight, so that they lie dense.
    Smallest,
    /// One request as large as a request may be.
    Largest,
}

/// Requests in flight while the ring is filled.
const SMALL_IN_FLIGHT: usize = 4_096;
const LARGE_IN_FLIGHT: usize = 8;
/// Rows of a large request, and bytes of each.
const LARGE_ROWS: u64 = 16;
const LARGE_ROW_BYTES: usize = 60_000;

pub fn run(
    args: &BenchArgs,
    options: &Options,
    limits: &Limits,
    output: &Output,
) -> Result<Json, Failure> {
    let smallest = one(args, options, output, Shape::Smallest)?;
    let largest = one(args, options, output, Shape::Largest)?;
    Ok(json!({
        "smallest": smallest,
        "largest": largest,
        "limit_sequential_write_mib_s": limits.sequential_write_mib_s,
    }))
}

fn one(
    args: &BenchArgs,
    options: &Options,
    output: &Output,
    shape: Shape,
) -> Result<Json, Failure> {
    let (name, table) = match shape {
        Shape::Smallest => ("smallest", "bench_restart_smallest"),
        Shape::Largest => ("largest", "bench_restart_largest"),
    };
    let database = open(options, args, output)?;
    database.execute(
        &format!("CREATE TABLE IF NOT EXISTS {table} (id BIGINT PRIMARY KEY, d TEXT)"),
        &[],
    )?;
    let next = first_free_id(&database, table)?;
    let mut fill = Fill { database, table, shape, next };
    let before = fill.status()?;
    let mut peak = 0;
    let mut status = before.clone();
    while status.checkpoint == before.checkpoint {
        peak = peak.max(status.journal_used_bytes);
        fill.some()?;
        status = fill.status()?;
    }
    let mut checkpoint = status.checkpoint;
    let mut wanted = peak / 100 * 95;
    while status.journal_used_bytes < wanted {
        fill.some()?;
        status = fill.status()?;
        if status.checkpoint != checkpoint {
            // It came a little earlier this time.
            checkpoint = status.checkpoint;
            wanted = wanted / 100 * 95;
        }
    }
    let rows = fill.next - 1;
    let (used, ring) = (status.journal_used_bytes, status.journal_ring_bytes);
    let behind = status.commit.get() - status.checkpoint.get();
    fill.database.abandon();

    let started = Instant::now();
    let database = options.open(&args.data)?;
    let seconds = started.elapsed().as_secs_f64();
    let count = first_free_id(&database, table)? - 1;
    database.close()?;
    if count != rows {
        return Err(Failure::Failed(format!(
            "{count} rows after the restart, {rows} were acknowledged"
        )));
    }
    let mib = used as f64 / f64::from(1 << 20);
    let share = used as f64 / ring as f64;
    output.line(format!(
        "restart    {name} requests: {seconds:.2} s from open to ready, {behind} ops, {mib:.0} MiB \
         in the ring ({share:.2} of it), {:.0} MiB/s",
        mib / seconds,
    ));
    Ok(json!({
        "seconds": seconds,
        "ops_to_replay": behind,
        "ring_used_bytes": used,
        "ring_bytes": ring,
        "rows": rows,
    }))
}

struct Fill<'a> {
    database: Verity,
    table: &'a str,
    shape: Shape,
    next: u64,
}

impl Fill<'_> {
    fn status(&self) -> Result<verity::Status, Failure> {
        let status = self.database.status();
        status.ok_or_else(|| Failure::Failed("the database is closed".to_string()))
    }

    /// Some requests, all in flight together; returns when all are acknowledged.
    fn some(&mut self) -> Result<(), Failure> {
        let count = match self.shape {
            Shape::Smallest => SMALL_IN_FLIGHT,
            Shape::Largest => LARGE_IN_FLIGHT,
        };
        let mut flying = Vec::with_capacity(count);
        for _ in 0..count {
            let (columns, rows) = match self.shape {
                Shape::Smallest => (vec!["id".to_string()], vec![vec![self.id()]]),
                Shape::Largest => {
                    let text = "x".repeat(LARGE_ROW_BYTES);
                    let row = |id| vec![id, Value::Text(text.clone())];
                    let rows = (0..LARGE_ROWS).map(|_| row(self.id())).collect();
                    (vec!["id".to_string(), "d".to_string()], rows)
                }
            };
            let operation = Operation::InsertRows { table: self.table.to_string(), columns, rows };
            flying.push(Box::pin(self.database.transaction_async(vec![operation])));
        }
        for reply in flying {
            futures_executor::block_on(reply)?;
        }
        Ok(())
    }

    fn id(&mut self) -> Value {
        self.next += 1;
        Value::Integer((self.next - 1) as i64)
    }
}
