//! What checkpoints do to the latency of one client: random single-row updates, each of which
//! changes pages of its own, so that checkpoints follow one another.
//!
//! A commit is *across* a checkpoint when one was begun and not yet durable just before or just
//! after it. Both figures are given: over all commits, and over those alone.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::{Options, Value, Verity};

use super::insert::{Inserts, Load};
use super::{BenchArgs, create_table, first_free_id, insert_into, open, percentile_us};
use crate::cli::{Failure, Output, interrupt};

const TABLE: &str = "bench_checkpoints";
/// Checkpoints that the run goes on for, unless the time is up.
const CHECKPOINTS: u64 = 6;
const SECONDS_MAX: u64 = 45;

pub fn run(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let database = open(options, args, output)?;
    let _watch = interrupt::watch(&database);
    database.execute(&create_table(TABLE), &[])?;
    let first = first_free_id(&database, TABLE)?;
    let next = std::sync::atomic::AtomicU64::new(first);
    if first <= args.rows {
        let insert = &database.prepare(&insert_into(TABLE))?;
        Load { insert: Inserts::Here(insert), next: &next, end: args.rows + 1, batch: 1_000 }
            .run(1, 1)?;
    }
    let (all, across, checkpoints) = update(&database, args.rows)?;
    database.close()?;
    if all.is_empty() || across.is_empty() {
        return Err(Failure::Failed("no checkpoint was met: give more --rows".to_string()));
    }
    let median = percentile_us(&all, 50);
    let ratio = |sorted: &[Duration]| percentile_us(sorted, 99) / median;
    output.line(format!(
        "checkpoints {checkpoints} met by {} of {} commits: median {median:.0} µs; p99 {:.0} µs \
         ({:.2}× the median), across checkpoints p99 {:.0} µs ({:.2}×), longest {:.1} ms",
        across.len(),
        all.len(),
        percentile_us(&all, 99),
        ratio(&all),
        percentile_us(&across, 99),
        ratio(&across),
        percentile_us(&all, 100) / 1e3,
    ));
    Ok(json!({
        "checkpoints": checkpoints,
        "commits": all.len(),
        "commits_across": across.len(),
        "p50_us": median,
        "p99_us": percentile_us(&all, 99),
        "p99_across_us": percentile_us(&across, 99),
        "max_us": percentile_us(&all, 100),
        "ratio_p99_to_median": ratio(&all),
        "ratio_p99_across_to_median": ratio(&across),
    }))
}

/// Sorted latencies of all commits and of those across checkpoints, and checkpoints finished.
fn update(database: &Verity, rows: u64) -> Result<(Vec<Duration>, Vec<Duration>, u64), Failure> {
    let statement = database.prepare(&format!("UPDATE {TABLE} SET a = ?, g = ? WHERE id = ?"))?;
    let state = || match database.status() {
        Some(status) => Ok((status.checkpoint, status.checkpoint_begun > status.checkpoint)),
        None => Err(Failure::Failed("the database has stopped".to_string())),
    };
    let started = Instant::now();
    let (mut all, mut across, mut finished, mut random) = (Vec::new(), Vec::new(), 0, 1_u64);
    let (mut durable, mut under_way) = state()?;
    while finished < CHECKPOINTS && started.elapsed().as_secs() < SECONDS_MAX {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let id = (random >> 33) % rows + 1;
        let values = [
            Value::Integer((random >> 40) as i64),
            Value::Timestamp(id as i64),
            Value::Integer(id as i64),
        ];
        let before = Instant::now();
        statement.execute(&values)?;
        let latency = before.elapsed();
        all.push(latency);
        let (now_durable, now_under_way) = state()?;
        if under_way || now_under_way || now_durable != durable {
            across.push(latency);
        }
        finished += u64::from(now_durable != durable);
        (durable, under_way) = (now_durable, now_under_way);
    }
    all.sort_unstable();
    across.sort_unstable();
    Ok((all, across, finished))
}
