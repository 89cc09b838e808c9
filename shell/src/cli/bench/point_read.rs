//! Hot point reads by primary key: random keys, two columns decoded, a prepared statement.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use verity::{Options, Value, Verity};

use super::insert::{Inserts, Load};
use super::{BenchArgs, create_table, first_free_id, insert_into, open, percentile_us};
use crate::cli::{Failure, Output};

pub const TABLE: &str = "bench_read";
/// Rows of one insert while the table is filled.
const FILL_BATCH: u64 = 1_000;
const COUNT_FOR: Duration = Duration::from_secs(1);

/// A database whose table has at least so many rows as asked for, and how many.
pub fn filled(
    args: &BenchArgs,
    options: &Options,
    output: &Output,
) -> Result<(Verity, u64), Failure> {
    let database = open(options, args, output)?;
    database.execute(&create_table(TABLE), &[])?;
    let have = first_free_id(&database, TABLE)? - 1;
    if have < args.rows {
        let next = AtomicU64::new(have + 1);
        let insert = &database.prepare(&insert_into(TABLE))?;
        Load { insert: Inserts::Here(insert), next: &next, end: args.rows + 1, batch: FILL_BATCH }
            .run(1, 1)?;
    }
    Ok((database, args.rows.max(have)))
}

/// Keys as they come.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        Random(0x2545_F491_4F6C_DD1D)
    }

    /// One of the keys 1 to `rows`.
    pub fn id(&mut self, rows: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % rows + 1
    }
}

/// `SELECT COUNT(*)` of the whole table, for a second.
pub fn count(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let statement = database.prepare(&format!("SELECT COUNT(*) FROM {TABLE}"))?;
    let started = Instant::now();
    let mut counts = 0u32;
    while started.elapsed() < COUNT_FOR {
        let counted = statement.query(&[])?.rows;
        if counted != vec![vec![Value::Integer(rows as i64)]] {
            let counted = counted.first().and_then(|row| row.first()).unwrap_or(&Value::Null);
            return Err(Failure::Failed(format!("{counted} rows counted, {rows} are there")));
        }
        counts += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(statement);
    database.close()?;
    let counts_s = f64::from(counts) / seconds;
    output.line(format!("count      {rows} rows: {counts_s:.0} counts/s"));
    Ok(json!({ "rows": rows, "counts_per_second": counts_s }))
}

pub fn run(args: &BenchArgs, options: &Options, output: &Output) -> Result<Json, Failure> {
    let (database, rows) = filled(args, options, output)?;
    let statement = database.prepare(&format!("SELECT a, d FROM {TABLE} WHERE id = ?"))?;
    let mut random = Random::new();
    let mut random_id = || Value::Integer(random.id(rows) as i64);
    // Once over the table, so that what fits the cache is in it.
    for _ in 0..rows.min(args.reads) {
        statement.query(&[random_id()])?;
    }
    let started = Instant::now();
    let (mut found, mut row) = (0, Vec::new());
    for _ in 0..args.reads {
        found += u64::from(statement.query_row(&[random_id()], &mut row)?);
    }
    let seconds = started.elapsed().as_secs_f64();
    if found != args.reads {
        return Err(Failure::Failed(format!(
            "{} of {} keys were not found",
            args.reads - found,
            args.reads
        )));
    }
    let mut sample = Vec::new();
    for _ in 0..args.reads.min(20_000) {
        let id = random_id();
        let one = Instant::now();
        statement.query_row(&[id], &mut row)?;
        sample.push(one.elapsed());
    }
    sample.sort_unstable();
    drop(statement);
    database.close()?;
    let reads_s = args.reads as f64 / seconds;
    let mean = Duration::from_secs_f64(seconds / args.reads as f64);
    output.line(format!(
        "point-read {rows} rows, random keys: {reads_s:.0} reads/s, {:.2} µs each, p99 {:.2} µs",
        mean.as_secs_f64() * 1e6,
        percentile_us(&sample, 99),
    ));
    Ok(json!({
        "rows": rows,
        "reads": args.reads,
        "seconds": seconds,
        "reads_per_second": reads_s,
        "mean_us": mean.as_secs_f64() * 1e6,
        "p50_us": percentile_us(&sample, 50),
        "p99_us": percentile_us(&sample, 99),
    }))
}
