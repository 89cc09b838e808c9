//! Restart after a kill: how long from open to ready with as much to replay as the ring may hold.
//!
//! The database is abandoned, not closed: no last checkpoint, exactly as after `kill -9`.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use serde_json::{Value as Json, json};
use verity::Options;
use verity::hardware::Limits;

use super::{BenchArgs, create_table, first_free_id, insert, open};
use crate::cli::{Failure, Output};

const TABLE: &str = "bench_restart";
/// Clients that fill the ring.
const CLIENTS: u64 = 16;

pub fn run(
    args: &BenchArgs,
    options: &Options,
    limits: &Limits,
    output: &Output,
) -> Result<Json, Failure> {
    let payload =
        usize::try_from(args.payload).map_err(|_| Failure::cannot_tell("--payload: too large"))?;
    let database = open(options, args, output)?;
    database.execute(&create_table(TABLE), &[])?;
    let first = first_free_id(&database, TABLE)?;
    let next = AtomicU64::new(first);
    let filling = Instant::now();
    insert::insert_all(&database, TABLE, &next, first + args.rows, CLIENTS, args.batch, payload)?;
    let fill_seconds = filling.elapsed().as_secs_f64();
    let behind = database
        .status()
        .map_or(0, |status| status.commit.get().saturating_sub(status.checkpoint.get()));
    database.abandon();
    let started = Instant::now();
    let database = open(options, args, output)?;
    let seconds = started.elapsed().as_secs_f64();
    let count = first_free_id(&database, TABLE)? - 1;
    database.close()?;
    if count != first + args.rows - 1 {
        return Err(Failure::Failed(format!(
            "{count} rows after the restart, {} were acknowledged",
            first + args.rows - 1
        )));
    }
    output.line(format!(
        "restart    {behind} ops behind the checkpoint, rows with 3 × {payload} B of text: \
         {seconds:.2} s from open to ready",
    ));
    Ok(json!({
        "ops_to_replay": behind,
        "payload_bytes": payload,
        "batch": args.batch,
        "rows": args.rows,
        "fill_seconds": fill_seconds,
        "seconds": seconds,
        "limit_sequential_write_mib_s": limits.sequential_write_mib_s,
    }))
}
