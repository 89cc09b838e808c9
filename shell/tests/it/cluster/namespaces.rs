//! Replicas on machines of their own, as far as the network goes: a namespace each, on one bridge
//! with whoever runs the test, so that one can be cut off without a packet that says so.
//!
//! It needs `ip` and the rights of root, as only tests that are ignored do.

use std::path::Path;
use std::process::Command;

const OWN: &str = "10.213.77.1/24";
/// Everybody, said more precisely than the route that leads there.
const HALF: &str = "10.213.77.0/25";
const REPLICAS_MAX: usize = 5;

pub struct Namespaces {
    bridge: String,
    names: Vec<String>,
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// As `ip`, of what may be gone already.
fn ip_if_there(words: &str) {
    let _gone_already = Command::new("ip").args(words.split_whitespace()).output();
}

/// A run that was killed leaves its bridge, which has our address: replicas would seem dead.
fn sweep() {
    for entry in std::fs::read_dir("/sys/class/net").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let id = name.strip_prefix("vy").and_then(|rest| rest.strip_suffix("br"));
        let Some(id) = id.filter(|id| !Path::new("/proc").join(id).exists()) else { continue };
        ip_if_there(&format!("link del {name}"));
        for number in 0..REPLICAS_MAX {
            ip_if_there(&format!("netns del vy{id}n{number}"));
        }
    }
}

impl Namespaces {
    pub fn new(count: usize) -> Namespaces {
        sweep();
        let id = std::process::id() % 100_000;
        let names = (0..count).map(|number| format!("vy{id}n{number}")).collect();
        let all = Namespaces { bridge: format!("vy{id}br"), names };
        let bridge = &all.bridge;
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add {OWN} dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        for (number, name) in all.names.iter().enumerate() {
            ip(&format!("netns add {name}"));
            ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
            ip(&format!("link set {name} master {bridge} up"));
            ip(&format!("-n {name} addr add {}/24 dev eth0", all.host(number)));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        all
    }

    pub fn host(&self, number: usize) -> String {
        format!("10.213.77.{}", number + 10)
    }

    /// What a command is begun with to run there.
    pub fn enter(&self, number: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[number]]
    }

    /// From now on nothing it sends arrives, and nothing reaches it; nobody is told.
    pub fn cut(&self, number: usize) {
        ip(&format!("link set {} nomaster", self.names[number]));
    }

    pub fn heal(&self, number: usize) {
        ip(&format!("link set {} master {}", self.names[number], self.bridge));
    }

    /// Why there can be none here; none if there can.
    pub fn why_not() -> Option<String> {
        let name = format!("vy{}try", std::process::id() % 100_000);
        let tried = Command::new("ip").args(["netns", "add", &name]).output();
        let _never_there = Command::new("ip").args(["netns", "del", &name]).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
            Err(error) => Some(format!("ip: {error}")),
        }
    }

    /// From now on nothing it sends leaves it; what others send arrives.
    pub fn mute(&self, number: usize) {
        ip(&format!("-n {} route add blackhole {HALF}", self.names[number]));
    }

    pub fn unmute(&self, number: usize) {
        ip(&format!("-n {} route del blackhole {HALF}", self.names[number]));
    }

    /// From now on nobody else can send to it; what it sends arrives.
    pub fn deafen(&self, number: usize) {
        for other in (0..self.names.len()).filter(|other| *other != number) {
            self.cut_pair(other, number);
        }
        ip(&format!("route add blackhole {}/32", self.host(number)));
    }

    pub fn undeafen(&self, number: usize) {
        for other in (0..self.names.len()).filter(|other| *other != number) {
            self.heal_pair(other, number);
        }
        ip(&format!("route del blackhole {}/32", self.host(number)));
    }

    /// From now on nothing that one sends leaves it for the other.
    pub fn cut_pair(&self, from: usize, to: usize) {
        ip(&format!("-n {} route add blackhole {}/32", self.names[from], self.host(to)));
    }

    pub fn heal_pair(&self, from: usize, to: usize) {
        ip(&format!("-n {} route del blackhole {}/32", self.names[from], self.host(to)));
    }

    /// From now on what it sends queues before a narrow pipe, and is thrown away where the queue is
    /// full.
    pub fn narrow(&self, number: usize) {
        let name = &self.names[number];
        let shape = "root tbf rate 800kbit burst 4kb limit 16kb";
        ip(&format!("netns exec {name} tc qdisc add dev eth0 {shape}"));
    }

    pub fn widen(&self, number: usize) {
        ip(&format!("netns exec {} tc qdisc del dev eth0 root", self.names[number]));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            ip_if_there(&format!("netns del {name}"));
            ip_if_there(&format!("link del {name}"));
        }
        ip_if_there(&format!("link del {}", self.bridge));
    }
}
