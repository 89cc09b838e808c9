//! Processes that are killed when they go out of scope, and where they listen.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Members of one cluster.
#[derive(Debug, Default)]
pub struct Members(Vec<Child>);

impl Members {
    /// Starts one more; what it prints goes to `log`.
    pub fn start(&mut self, command: &mut Command, log: &Path) -> Result<(), String> {
        let file = std::fs::File::create(log).map_err(|error| format!("{log:?}: {error}"))?;
        let errors = file.try_clone().map_err(|error| format!("{log:?}: {error}"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        self.0.push(child);
        Ok(())
    }

    /// Processor time of each so far, in seconds.
    pub fn cpu_seconds(&self) -> Vec<f64> {
        self.0.iter().map(|child| cpu_seconds(child.id()).unwrap_or(f64::NAN)).collect()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// User and system time of a process, in seconds (proc(5): fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// Ports that nobody listens at.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = (0..count).map(listen).collect::<Result<Vec<_>, _>>();
    let listeners = listeners.map_err(|error| format!("loopback: {error}"))?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    listeners.iter().map(port).collect::<Result<_, _>>().map_err(|error| error.to_string())
}
