//! Three members of etcd, and its Go client (`scripts/peers/etcd`).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::members::{Members, free_ports};
use super::verity::fresh;
use super::{CLIENTS, Figures, Measured, Missing};
use crate::steps::{capture, capture_ok};

const READY_WITHIN: Duration = Duration::from_secs(30);

pub fn run(folder: &Path, seconds: u64) -> Measured {
    let runs = |name: &str| {
        Command::new(name).arg(if name == "go" { "version" } else { "--version" }).output().is_ok()
    };
    if !runs("etcd") {
        return Ok(Err(Missing("apt-get install etcd-server")));
    }
    if !runs("go") {
        return Ok(Err(Missing("its client needs Go")));
    }
    fresh(folder)?;
    let client = folder.join("client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&client).arg(".");
    capture_ok(build.current_dir(crate::tidy::root().join("scripts/peers/etcd")))?;
    let ports = free_ports(6)?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let peers: Vec<String> =
        (0..3).map(|member| format!("m{member}={}", url(ports[3 + member]))).collect();
    let mut members = Members::default();
    for member in 0..3 {
        let mut start = Command::new("etcd");
        start.args(["--name", &format!("m{member}"), "--data-dir"]);
        start.arg(folder.join(member.to_string()));
        for (flag, port) in [
            ("--listen-client-urls", ports[member]),
            ("--advertise-client-urls", ports[member]),
            ("--listen-peer-urls", ports[3 + member]),
            ("--initial-advertise-peer-urls", ports[3 + member]),
        ] {
            start.args([flag, &url(port)]);
        }
        start.args(["--initial-cluster-state", "new", "--initial-cluster", &peers.join(",")]);
        members.start(&mut start, &folder.join(format!("log{member}")))?;
    }
    let endpoints: Vec<String> =
        ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let endpoints = endpoints.join(",");
    let bench = |clients: u64, seconds: u64| -> Result<Value, String> {
        let mut bench = Command::new(&client);
        bench.args(["-endpoints", &endpoints, "-clients", &clients.to_string()]);
        let told = capture(bench.args(["-seconds", &seconds.to_string()]))?;
        serde_json::from_str(&told.output).map_err(|_| format!("etcd: {}", told.errors))
    };
    let started = Instant::now();
    while let Err(error) = bench(1, 1) {
        if started.elapsed() > READY_WITHIN {
            return Err(format!("{error}, see {}", folder.display()));
        }
    }
    let rate = |report: Value| {
        let rate = report["writes_per_second"].as_f64();
        rate.ok_or_else(|| format!("etcd's client said {report}"))
    };
    Ok(Ok(Figures {
        one_client_us: 1e6 / rate(bench(1, seconds)?)?,
        clients_per_second: rate(bench(CLIENTS, seconds)?)?,
    }))
}
