//! Durable inserts over the network: each call returns when a quorum of the replicas can no longer
//! lose its rows.
//!
//! Beside them stands what they cannot do without: one durable write (`--data` says on which file
//! system) and two round trips between processes of this machine, client to primary and primary to
//! a backup. Both limits are of this machine, so they say nothing of replicas elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};
use verity::hardware::{DurableWrites, round_trip_us};
use verity::{Options, Verity};

use super::insert::{Inserts, Load};
use super::{BenchArgs, count_of, create_table, first_free, percentile_us};
use crate::cli::{Outcome, Output};

const TABLE: &str = "bench_insert";
/// Pieces of the work, and what is measured before and after each.
const PIECES: u64 = 10;
const DURABLE_WRITES: u32 = 300;
const ROUND_TRIPS: u32 = 500;
/// Calls before the clock starts: connections are made and the primary is found.
const WARM_UP: u64 = 16;

pub fn run(args: &BenchArgs, options: &Options, output: &Output) -> Outcome {
    let connect = |_| Verity::connect(&args.connect);
    let clients =
        (0..args.threads.clamp(1, args.clients)).map(connect).collect::<Result<Vec<_>, _>>()?;
    clients[0].execute(&create_table(TABLE), &[])?;
    let first = first_free(&clients[0].query(&count_of(TABLE), &[])?);
    let next = AtomicU64::new(first);
    let insert = Inserts::There { clients: &clients, table: TABLE };
    let load = |end| Load { insert, next: &next, end, batch: args.batch };
    load(first + WARM_UP * args.clients).run(args.clients, args.threads)?;
    let first = first + WARM_UP * args.clients;
    let mut writes =
        args.data.as_deref().map(|data| DurableWrites::open(data, options)).transpose()?;
    let (mut latencies, mut elapsed, mut round_trips) = (Vec::new(), Duration::ZERO, Vec::new());
    for piece in 1..=PIECES {
        if let Some(writes) = &mut writes {
            writes.measure(DURABLE_WRITES)?;
        }
        round_trips.push(round_trip_us(ROUND_TRIPS)?);
        next.store(first + args.rows * (piece - 1) / PIECES, Ordering::Relaxed);
        let end = first + args.rows * piece / PIECES;
        let (calls, time) = load(end).run(args.clients, args.threads)?;
        latencies.extend(calls);
        elapsed += time;
    }
    latencies.sort_unstable();
    let limits = Limits {
        durable_write_us: writes.map(|writes| writes.mean_us()),
        round_trip_us: round_trips.iter().sum::<f64>() / round_trips.len() as f64,
    };
    output.object(&report(args, &latencies, elapsed, &limits, output));
    Ok(())
}

struct Limits {
    durable_write_us: Option<f64>,
    round_trip_us: f64,
}

fn report(
    args: &BenchArgs,
    sorted: &[Duration],
    elapsed: Duration,
    limits: &Limits,
    output: &Output,
) -> Json {
    let seconds = elapsed.as_secs_f64();
    let rows_s = args.rows as f64 / seconds;
    let (p50, p99) = (percentile_us(sorted, 50), percentile_us(sorted, 99));
    let least_us = limits.durable_write_us.map(|write| write + 2.0 * limits.round_trip_us);
    let ratio = least_us.map(|least| p50 / least);
    output.line(format!(
        "insert     {} client(s) on {} connection(s), batch {}: {rows_s:.0} rows/s, latency \
         {p50:.0} µs p50, {p99:.0} p99",
        args.clients,
        args.threads.clamp(1, args.clients),
        args.batch,
    ));
    match (limits.durable_write_us, least_us, ratio) {
        (Some(write), Some(least), Some(ratio)) => output.line(format!(
            "           p50 is {ratio:.2}× of one durable write ({write:.1} µs) and two loopback \
             round trips ({:.1} µs each), together {least:.1} µs",
            limits.round_trip_us
        )),
        _ => output.line(format!(
            "           loopback round trip {:.1} µs; give --data DIR to measure the disk there",
            limits.round_trip_us
        )),
    }
    json!({ "insert": {
        "clients": args.clients,
        "connections": args.threads.clamp(1, args.clients),
        "batch": args.batch,
        "rows": args.rows,
        "seconds": seconds,
        "rows_per_second": rows_s,
        "calls_per_second": sorted.len() as f64 / seconds,
        "latency_us": { "p50": p50, "p99": p99, "max": percentile_us(sorted, 100) },
        "durable_write_4k_us_meanwhile": limits.durable_write_us,
        "loopback_round_trip_us_meanwhile": limits.round_trip_us,
        "durable_write_and_two_round_trips_us": least_us,
        "ratio_p50_to_durable_write_and_two_round_trips": ratio,
    }})
}
