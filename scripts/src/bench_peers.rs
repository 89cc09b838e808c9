//! Durable inserts through a cluster of three on this machine, and the same work through PostgreSQL
//! and etcd, in one run, as ratios.
//!
//! Each system has three members on loopback and on one disk, runs alone, and acknowledges a write
//! when two of the three have it on disk: Verity by its quorum, etcd by its own, PostgreSQL with
//! `synchronous_standby_names = 'ANY 1 (s1, s2)'`. Clients wait for one answer each. Verity and
//! PostgreSQL insert the same rows of about 200 bytes, etcd puts 200 bytes under a key; clients are
//! those of the peers' own makers (`pgbench`, etcd's Go client), which cost less than ours.

mod etcd;
mod members;
mod postgres;
mod verity;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::steps::{cargo, release_binary};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where all data go; a scratch folder beside the build if not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seconds for each workload of a peer.
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    seconds: u64,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Clients of the workload with many.
const CLIENTS: u64 = 64;

/// What a peer did.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Mean latency of one client alone, µs.
    one_client_us: f64,
    /// Single-row writes a second of [`CLIENTS`].
    clients_per_second: f64,
}

/// A peer that is not on this machine, and how it comes there.
struct Missing(&'static str);

type Measured = Result<Result<Figures, Missing>, String>;

pub fn run(options: &Options) -> Result<bool, String> {
    let built = cargo(&["build", "--quiet", "--release", "--package", "verity"]).status();
    if !built.map_err(|error| format!("cargo: {error}"))?.success() {
        return Err("verity cannot be built".to_string());
    }
    let folder = match &options.data {
        Some(folder) => folder.clone(),
        None => crate::steps::scratch("bench-peers")?,
    };
    let ours = verity::run(&release_binary("verity"), &folder.join("verity"))?;
    let postgres = postgres::run(&folder.join("postgres"), options.seconds)?;
    let etcd = etcd::run(&folder.join("etcd"), options.seconds)?;
    let mut report = json!({ "verity": ours.json });
    let say = |line: String| {
        if !options.json {
            println!("{line}");
        }
    };
    say(format!(
        "verity       one client {:.0} µs, {CLIENTS} clients {:.0} rows/s, batches of 1,000 {:.0} \
         rows/s ({} CPU-seconds per million rows, each replica)",
        ours.figures.one_client_us,
        ours.figures.clients_per_second,
        ours.batch_rows_per_second,
        ours.cpu_words(),
    ));
    let mut missing = Vec::new();
    for (name, peer) in [("postgresql", postgres), ("etcd", etcd)] {
        match peer {
            Ok(figures) => {
                let (line, value) = beside(name, &ours.figures, &figures);
                say(line);
                report[name] = value;
            }
            Err(Missing(how)) => missing.push(format!("{name} is not here ({how})")),
        }
    }
    if options.json {
        println!("{report}");
    }
    if missing.is_empty() { Ok(true) } else { Err(missing.join("; ")) }
}

fn beside(name: &str, ours: &Figures, peer: &Figures) -> (String, Value) {
    let latency = peer.one_client_us / ours.one_client_us;
    let rate = ours.clients_per_second / peer.clients_per_second;
    let line = format!(
        "{name:<12} one client {:.0} µs (verity takes 1/{latency:.2} of it), {CLIENTS} clients \
         {:.0} writes/s (verity does {rate:.2}× as many)",
        peer.one_client_us, peer.clients_per_second,
    );
    let value = json!({
        "one_client_us": peer.one_client_us,
        "clients_per_second": peer.clients_per_second,
        "ratio_latency_one_client": latency,
        "ratio_writes_per_second": rate,
    });
    (line, value)
}
