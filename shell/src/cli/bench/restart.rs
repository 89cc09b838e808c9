//! Restart after a kill: how long from open to ready with as much to replay as the ring comes to
//! hold, filled with the smallest requests and with the largest, each in two ways.
//!
//! Four things ask for a checkpoint: half of the ring, 32 MiB of changed pages, 250,000 records,
//! half of the logs' buffers. Rows in dense prepares meet records or pages long before the ring is
//! half full. One client's requests meet the ring first, as each has a prepare of a page or more to
//! itself; and so do raw appends, which change next to no pages.
//!
//! The database is abandoned, not closed: no last checkpoint, exactly as after `kill -9`. How full
//! the ring gets is found by filling it through one whole checkpoint; the kill comes when it is as
//! full again, just before the next checkpoint is durable.

use std::time::Instant;

use serde_json::{Value as Json, json};
use verity::hardware::Limits;
use verity::{Error, ExpectedVersion, Operation, Options, RequestError, Value, Verity};

use super::{BenchArgs, first_free_id, open};
use crate::cli::{Failure, Output};

/// What the ring is filled with.
#[derive(Clone, Copy)]
enum Shape {
    /// One row of one number a request, thousands of requests in flight, so that they lie dense.
    Smallest,
    /// The same from one client, one after the other.
    SmallestAlone,
    /// Rows, in requests as large as a request may be.
    Largest,
    /// Raw records, as many bytes in a request.
    LargestAppended,
}

/// Requests in flight while the ring is filled.
const SMALL_IN_FLIGHT: usize = 4_096;
/// Between two looks at the ring.
const ALONE_AT_ONCE: u64 = 256;
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
    Ok(json!({
        "smallest": one(args, options, output, Shape::Smallest)?,
        "smallest_alone": one(args, options, output, Shape::SmallestAlone)?,
        "largest": one(args, options, output, Shape::Largest)?,
        "largest_appended": one(args, options, output, Shape::LargestAppended)?,
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
        Shape::SmallestAlone => ("smallest, one client's,", "bench_restart_alone"),
        Shape::Largest => ("largest", "bench_restart_largest"),
        Shape::LargestAppended => ("largest, appended,", "bench_restart_appended"),
    };
    let database = open(options, args, output)?;
    database.execute(
        &format!("CREATE TABLE IF NOT EXISTS {table} (id BIGINT PRIMARY KEY, d TEXT)"),
        &[],
    )?;
    let next = first_free(&database, table, shape)?;
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
    let (used, ring) = (status.journal_used_bytes, status.journal_ring_bytes);
    let behind = status.commit.get() - status.checkpoint.get();
    let Fill { database, next, .. } = fill;
    database.abandon();

    let started = Instant::now();
    let database = options.open(super::data(args)?)?;
    let seconds = started.elapsed().as_secs_f64();
    let first_free = first_free(&database, table, shape)?;
    database.close()?;
    if first_free != next {
        return Err(Failure::Failed(format!(
            "{first_free} comes next after the restart, {next} did before"
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
        "rows": next - 1,
    }))
}

/// Number of the first row or record that is not there yet.
fn first_free(database: &Verity, name: &str, shape: Shape) -> Result<u64, Failure> {
    match shape {
        Shape::Smallest | Shape::SmallestAlone | Shape::Largest => {
            Ok(first_free_id(database, name)?)
        }
        Shape::LargestAppended => {
            // A version that no stream has: the refusal names the right one.
            let expected = ExpectedVersion::Exact(u64::MAX);
            match database.append(name, expected, vec![vec![0]]) {
                Err(Error::Request(RequestError::WrongExpectedVersion { actual, .. })) => {
                    Ok(actual + 1)
                }
                Err(error) => Err(error.into()),
                Ok(_) => Err(Failure::failed("an append at a version that is not there was taken")),
            }
        }
    }
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
            Shape::SmallestAlone => return self.some_alone(),
            Shape::Largest | Shape::LargestAppended => LARGE_IN_FLIGHT,
        };
        let mut flying = Vec::with_capacity(count);
        for _ in 0..count {
            let operation = self.request();
            flying.push(Box::pin(self.database.transaction_async(vec![operation])));
        }
        for reply in flying {
            futures_executor::block_on(reply)?;
        }
        Ok(())
    }

    fn some_alone(&mut self) -> Result<(), Failure> {
        for _ in 0..ALONE_AT_ONCE {
            let operation = self.request();
            self.database.transaction(vec![operation])?;
        }
        Ok(())
    }

    fn request(&mut self) -> Operation {
        let table = self.table.to_string();
        match self.shape {
            Shape::Smallest | Shape::SmallestAlone => Operation::InsertRows {
                table,
                columns: vec!["id".to_string()],
                rows: vec![vec![self.id()]],
            },
            Shape::Largest => {
                let row = |id| vec![id, Value::Text("x".repeat(LARGE_ROW_BYTES))];
                Operation::InsertRows {
                    table,
                    columns: vec!["id".to_string(), "d".to_string()],
                    rows: (0..LARGE_ROWS).map(|_| row(self.id())).collect(),
                }
            }
            Shape::LargestAppended => {
                self.next += LARGE_ROWS;
                let records = (0..LARGE_ROWS).map(|_| vec![b'x'; LARGE_ROW_BYTES]).collect();
                Operation::Append { stream: table, expected: ExpectedVersion::Any, records }
            }
        }
    }

    fn id(&mut self) -> Value {
        self.next += 1;
        Value::Integer((self.next - 1) as i64)
    }
}
