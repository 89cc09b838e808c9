//! Three replicas of Verity, measured by `verity bench --connect`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::members::{Members, free_ports};
use super::{CLIENTS, Figures};
use crate::steps::{capture, capture_ok};

const READY_WITHIN: Duration = Duration::from_secs(30);
const BATCH_ROWS: u64 = 400_000;

pub struct Ours {
    pub figures: Figures,
    pub batch_rows_per_second: f64,
    /// CPU-seconds per million rows in batches, of each replica.
    pub cpu: Vec<f64>,
    pub json: Value,
}

impl Ours {
    pub fn cpu_words(&self) -> String {
        self.cpu.iter().map(|seconds| format!("{seconds:.1}")).collect::<Vec<_>>().join(", ")
    }
}

pub fn run(binary: &Path, folder: &Path) -> Result<Ours, String> {
    let addresses: Vec<String> =
        free_ports(3)?.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let addresses = addresses.join(",");
    fresh(folder)?;
    let mut members = Members::default();
    for replica in ["0", "1", "2"] {
        let data = folder.join(replica);
        let mut format = Command::new(binary);
        format.args(["format", "--cluster", "be", "--replica-count", "3"]);
        format.args(["--replica", replica, "--secret"]).arg(folder.join("secret")).arg(&data);
        capture_ok(&mut format)?;
    }
    for replica in ["0", "1", "2"] {
        let mut start = Command::new(binary);
        start.args(["start", "--addresses", &addresses]).arg(folder.join(replica));
        members.start(&mut start, &folder.join(format!("log{replica}")))?;
    }
    let started = Instant::now();
    loop {
        let mut status = Command::new(binary);
        status.args(["status", "--connect", &addresses]);
        if capture(&mut status)?.code == Some(0) {
            break;
        }
        if started.elapsed() > READY_WITHIN {
            return Err(format!("nobody leads {addresses}: see {}", folder.display()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let bench = |arguments: &[&str]| -> Result<Value, String> {
        let mut bench = Command::new(binary);
        bench.args(["bench", "--json", "--connect", &addresses, "--data"]);
        bench.arg(folder.join("probe")).args(arguments);
        let told = capture_ok(&mut bench)?.output;
        let report: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        Ok(report["insert"].clone())
    };
    let one = bench(&["--rows", "6000"])?;
    let many = bench(&["--clients", &CLIENTS.to_string(), "--rows", "100000"])?;
    let before = members.cpu_seconds();
    let rows = BATCH_ROWS.to_string();
    let batches = bench(&["--clients", "4", "--batch", "1000", "--rows", &rows])?;
    let millions = BATCH_ROWS as f64 / 1e6;
    let after = members.cpu_seconds();
    let cpu: Vec<f64> =
        after.iter().zip(before).map(|(after, before)| (after - before) / millions).collect();
    let number = |report: &Value, name: &str| {
        report[name].as_f64().ok_or_else(|| format!("no {name} in {report}"))
    };
    Ok(Ours {
        figures: Figures {
            one_client_us: 1e6 / number(&one, "calls_per_second")?,
            clients_per_second: number(&many, "rows_per_second")?,
        },
        batch_rows_per_second: number(&batches, "rows_per_second")?,
        json: json!({
            "one_client": one,
            "clients": many,
            "batches": batches,
            "cpu_seconds_per_million_rows": cpu,
        }),
        cpu,
    })
}

/// An empty folder.
pub fn fresh(folder: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(failed)?;
    }
    std::fs::create_dir_all(folder).map_err(failed)
}
