//! `verity bench`: what Verity does on this machine beside what the machine can do, in one run.
//!
//! Every figure has its limit beside it, measured a moment before through the same backend, and the
//! ratio of the two: that is the number to compare between machines.

mod beside;
mod checkpoints;
mod cluster;
mod insert;
mod point_read;
mod reads;
mod restart;

use std::time::Duration;

use serde_json::{Value as Json, json};
use verity::hardware::{self, Limits, RowFloor};
use verity::{ClusterConstants, Options, Value};

use super::args::{BenchArgs, Global, Workload};
use super::{Failure, Outcome, Output, open_or_make};

pub fn run(args: &BenchArgs, global: &Global, output: &Output) -> Outcome {
    let options = global.options().cluster_constants(ClusterConstants::DEFAULT);
    if !args.connect.is_empty() {
        return cluster::run(args, &options, output);
    }
    output.note("measuring the machine …");
    let limits = hardware::measure(data(args)?, &options)?;
    let mut report = json!({ "limits": limits_json(&limits) });
    show_limits(&limits, output);
    let default = [Workload::Insert, Workload::PointRead];
    let workloads = if args.workload.is_empty() { &default[..] } else { &args.workload[..] };
    for workload in workloads {
        let (name, figures) = match workload {
            Workload::Insert => ("insert", insert::run(args, &options, output)?),
            Workload::PointRead => ("point_read", point_read::run(args, &options, output)?),
            Workload::Checkpoints => ("checkpoints", checkpoints::run(args, &options, output)?),
            Workload::Count => ("count", point_read::count(args, &options, output)?),
            Workload::RowFloor => ("row_floor", row_floor(output)),
            Workload::IndexRange => ("index_range", reads::index_range(args, &options, output)?),
            Workload::CountWhere => ("count_where", reads::count_where(args, &options, output)?),
            Workload::AsOf => ("as_of", reads::as_of(args, &options, output)?),
            Workload::Cold => ("cold", reads::cold(args, &options, output)?),
            Workload::Scan => ("scan", beside::scan(args, &options, output)?),
            Workload::Jobs => ("jobs", beside::jobs(args, &options, output)?),
            Workload::Restart => ("restart", restart::run(args, &options, &limits, output)?),
        };
        report[name] = figures;
    }
    output.object(&report);
    Ok(())
}

fn row_floor(output: &Output) -> Json {
    let floor = RowFloor::measure(&row(12_345_678, TEXT_BYTES));
    let total_ns = floor.total_ns();
    output.line(format!(
        "row-floor  hashes and seals alone: {total_ns:.0} ns a row ({:.0} rows/s on one core): \
         columns {:.0}, record's seal {:.0}, chain and tree {:.0}, request {:.0}, entry {:.0}, \
         page's seal {:.0}",
        1e9 / total_ns,
        floor.commitment_ns,
        floor.record_seal_ns,
        floor.chain_ns,
        floor.request_ns,
        floor.entry_ns,
        floor.page_seal_ns,
    ));
    json!({
        "total_ns": total_ns,
        "rows_per_second_one_core": 1e9 / total_ns,
        "commitment_ns": floor.commitment_ns,
        "record_seal_ns": floor.record_seal_ns,
        "chain_ns": floor.chain_ns,
        "request_ns": floor.request_ns,
        "entry_ns": floor.entry_ns,
        "page_seal_ns": floor.page_seal_ns,
        "record_bytes": floor.record_bytes,
        "entry_bytes": floor.entry_bytes,
    })
}

fn limits_json(limits: &Limits) -> Json {
    json!({
        "durable_write_4k_us": limits.durable_write_us,
        "durable_write_4k_p99_us": limits.durable_write_p99_us,
        "sequential_write_mib_s": limits.sequential_write_mib_s,
        "sha256_mib_s": limits.sha256_mib_s,
        "sha256_200_ns": limits.sha256_200_ns,
        "seal_200_ns": limits.seal_200_ns,
    })
}

fn show_limits(limits: &Limits, output: &Output) {
    output.line(format!(
        "limits     durable 4 KiB write {:.0} µs (p99 {:.0}), sequential write {:.0} MiB/s, \
         SHA-256 {:.0} MiB/s, 200 B: hash {:.0} ns, seal {:.0} ns",
        limits.durable_write_us,
        limits.durable_write_p99_us,
        limits.sequential_write_mib_s,
        limits.sha256_mib_s,
        limits.sha256_200_ns,
        limits.seal_200_ns,
    ));
}

/// Columns of the tables that are measured: about 200 bytes a row.
const COLUMNS: &[&str] = &["id", "a", "b", "c", "d", "e", "f", "g"];

fn create_table(name: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT, c DOUBLE, \
         d TEXT, e TEXT, f TEXT, g TIMESTAMP)"
    )
}

/// What is prepared to fill it.
fn insert_into(name: &str) -> String {
    let parameters = vec!["?"; COLUMNS.len()].join(", ");
    format!("INSERT INTO {name} ({}) VALUES ({parameters})", COLUMNS.join(", "))
}

/// A number that looks random, another for each key.
fn mixed(id: u64) -> u64 {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A row of about 200 bytes, from its key.
fn row(id: u64, payload: usize) -> Vec<Value> {
    let mixed = mixed(id);
    let text = |salt: u64| {
        let mut text = format!("{:016x}", mixed ^ salt);
        while text.len() < payload {
            text.push_str("abcdefghijklmnop");
        }
        text.truncate(payload.max(1));
        Value::Text(text)
    };
    vec![
        Value::Integer(id as i64),
        Value::Integer((mixed >> 8) as i64),
        Value::Integer((id % 100) as i64),
        Value::Double(id as f64 / 3.0),
        text(1),
        text(2),
        text(3),
        Value::Timestamp(1_700_000_000_000_000_000 + id as i64),
    ]
}

/// Bytes of each of the three texts so that a row has about 200.
const TEXT_BYTES: usize = 54;

/// A value within a sorted list.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    match sorted.len() {
        0 => 0.0,
        count => sorted[(count * percent / 100).min(count - 1)].as_secs_f64() * 1e6,
    }
}

/// First key that a table does not have yet, so that runs can follow each other.
fn first_free_id(database: &verity::Verity, table: &str) -> Result<u64, verity::Error> {
    Ok(first_free(&database.query(&count_of(table), &[])?))
}

fn count_of(table: &str) -> String {
    format!("SELECT COUNT(*) FROM {table}")
}

/// From the answer to [`count_of`]: keys are given without gaps, from 1 on.
fn first_free(counted: &verity::Rows) -> u64 {
    match counted.rows.first().and_then(|row| row.first()) {
        Some(Value::Integer(count)) => u64::try_from(*count).unwrap_or(0) + 1,
        Some(_) | None => 1,
    }
}

fn open(options: &Options, args: &BenchArgs, output: &Output) -> Result<verity::Verity, Failure> {
    open_or_make(options, data(args)?, output)
}

fn data(args: &BenchArgs) -> Result<&std::path::Path, Failure> {
    let missing = || Failure::CannotTell("--data DIR: where?".to_string());
    args.data.as_deref().ok_or_else(missing)
}
