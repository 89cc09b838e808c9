//! One run in a process of its own: a failed assertion ends a process, a run may never end, and
//! neither must end whoever asked.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};
use verity_sim::overrides::Overrides;

use crate::Arguments;

/// All that a run is a function of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub seed: u64,
    pub cluster: bool,
    pub scale: u64,
    pub bug: Option<String>,
    pub overrides: Overrides,
}

impl Spec {
    pub fn of(seed: u64, arguments: &Arguments) -> Spec {
        Spec {
            seed,
            cluster: arguments.cluster,
            scale: arguments.scale,
            bug: arguments.bug.clone(),
            overrides: arguments.overrides(),
        }
    }

    /// What `vopr` must be told beside the seed.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        if self.cluster {
            flags.push("--cluster".to_owned());
        }
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        if self.scale > 1 {
            flag("--scale", self.scale.to_string());
        }
        let off: Vec<&str> = self.overrides.off.iter().map(|switch| switch.name()).collect();
        if !off.is_empty() {
            flag("--off", off.join(","));
        }
        let bounds = [
            ("--requests-max", self.overrides.requests_max),
            ("--clients-max", self.overrides.clients_max),
            ("--tenants-max", self.overrides.tenants_max),
            ("--nodes-max", self.overrides.nodes_max),
        ];
        for (name, bound) in bounds {
            if let Some(bound) = bound {
                flag(name, bound.to_string());
            }
        }
        if let Some(bug) = &self.bug {
            flag("--bug", bug.clone());
        }
        flags
    }

    /// Runs it; what became of it as a verdict, also when the process died or took too long.
    pub fn run(&self, at_most: Duration) -> std::io::Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--worker").arg("--seeds").arg(format!("{}..{}", self.seed, self.seed + 1));
        command.args(self.flags());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn()?;
        let Some(mut stdout) = child.stdout.take() else { unreachable!("it was asked for") };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text).map(|_| text);
            let _ = sender.send(read);
        });
        match receiver.recv_timeout(at_most) {
            Ok(text) => {
                let status = child.wait()?;
                let text = text?;
                let verdict = text.lines().find_map(|line| serde_json::from_str(line).ok());
                Ok(verdict.unwrap_or_else(|| died(self.seed, status)))
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let _ = child.kill();
                let _ = child.wait();
                Ok(hung(self.seed, at_most))
            }
        }
    }
}

/// A process that ended without a word: killed, out of memory, out of stack.
pub fn died(seed: u64, status: ExitStatus) -> Value {
    let failure = format!("the worker ended without a verdict: {status}");
    json!({"seed": seed, "ok": false, "failure_kind": "died", "failure": failure})
}

pub fn hung(seed: u64, after: Duration) -> Value {
    let failure = format!("no verdict after {} s", after.as_secs());
    json!({"seed": seed, "ok": false, "failure_kind": "hung", "failure": failure})
}
