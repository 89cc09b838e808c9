//! Replicas on machines of their own, as far as the network goes: a namespace each, on one bridge
//! with whoever runs the test, so that one can be cut off without a packet that says so.
//!
//! It needs `ip` and the rights of root, as only tests that are ignored do.

use std::process::Command;

const OWN: &str = "10.213.77.1/24";

pub struct Namespaces {
    bridge: String,
    names: Vec<String>,
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Namespaces {
    pub fn new(count: usize) -> Namespaces {
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
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let gone = |args: &[&str]| {
            let _gone_already = Command::new("ip").args(args).output();
        };
        for name in &self.names {
            gone(&["netns", "del", name]);
            gone(&["link", "del", name]);
        }
        gone(&["link", "del", &self.bridge]);
    }
}
