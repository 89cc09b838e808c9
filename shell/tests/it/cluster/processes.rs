//! Three `verity start` processes, their directories and their logs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use verity::{Error, ReplicaReport, replica_report};

use super::machines::{Clocks, Disk};
use super::namespaces::Namespaces;
use crate::run::{Run, command, copy_directory, verity};

/// Clusters would only slow one another down: one test of them runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

const DISK_BYTES: u64 = 768 << 20;

pub struct Cluster {
    _alone: Option<MutexGuard<'static, ()>>,
    dir: tempfile::TempDir,
    addresses: Vec<String>,
    children: Vec<Option<Child>>,
    journal: &'static str,
    namespaces: Option<Namespaces>,
    disk: Option<Disk>,
    clocks: Option<Clocks>,
    keeps: bool,
}

pub fn report(address: &str) -> Result<ReplicaReport, Error> {
    replica_report(address, Duration::from_secs(2))
}

/// Below those that connections get by themselves: a replica that is started again must find its
/// own.
fn free_ports(count: usize) -> Vec<u16> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut at = u64::from(std::process::id()) * 7_919 + u64::from(now.subsec_nanos());
    let mut ports = Vec::new();
    while ports.len() < count {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let port = 10_000 + ((at >> 33) % 20_000) as u16;
        if !ports.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

/// A process or a thread, by its directory in `/proc`; one that is gone is not.
fn is_stopped(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat"));
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

impl Cluster {
    /// Formatted, not started. Only one at a time.
    pub fn new() -> Cluster {
        Cluster::with_journal("64MiB")
    }

    /// The same, with rings of this size.
    pub fn with_journal(journal: &'static str) -> Cluster {
        Cluster::of(3, journal, Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Another one, beside the one of this test.
    pub fn another() -> Cluster {
        Cluster::of(3, "64MiB", None)
    }

    /// In namespaces of the network, where replicas can be cut off.
    pub fn apart() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.part();
        cluster
    }

    /// With everything that can be hurt, as far as this machine allows: clocks, the disk of one
    /// replica, links if they are asked for. What cannot is said.
    pub fn to_be_hurt(journal: &'static str, disk_of: usize, apart: bool) -> Cluster {
        let alone = Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        let mut cluster = Cluster::unformatted(3, journal, alone);
        match Disk::new(cluster.dir.path(), disk_of, DISK_BYTES) {
            Ok(disk) => cluster.disk = Some(disk),
            Err(why) => eprintln!("no disk is filled: {why}"),
        }
        match Clocks::new(cluster.dir.path(), 3) {
            Ok(clocks) => cluster.clocks = Some(clocks),
            Err(why) => eprintln!("no clock is set: {why}"),
        }
        cluster.format_all();
        if apart {
            cluster.part();
        }
        cluster.keeps = true;
        cluster
    }

    fn part(&mut self) {
        let namespaces = Namespaces::new(3);
        self.addresses = (0..3).map(|at| format!("{}:7300", namespaces.host(at))).collect();
        self.namespaces = Some(namespaces);
    }

    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    pub fn clocks(&self) -> Option<&Clocks> {
        self.clocks.as_ref()
    }

    pub fn is_apart(&self) -> bool {
        self.namespaces.is_some()
    }

    /// Leaves its directory behind.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
        eprintln!("what is left of it is in {}", self.dir.path().display());
        if let Some(disk) = &self.disk {
            let name = format!("r{}", disk.replica);
            copy_directory(&disk.mount.join(&name), &self.path(&name));
        }
    }

    pub fn namespaces(&self) -> &Namespaces {
        self.namespaces.as_ref().expect("it was made apart")
    }

    fn of(count: usize, journal: &'static str, alone: Option<MutexGuard<'static, ()>>) -> Cluster {
        let cluster = Cluster::unformatted(count, journal, alone);
        cluster.format_all();
        cluster
    }

    fn unformatted(
        count: usize,
        journal: &'static str,
        alone: Option<MutexGuard<'static, ()>>,
    ) -> Cluster {
        Cluster {
            _alone: alone,
            dir: tempfile::tempdir().unwrap(),
            addresses: free_ports(count).iter().map(|port| format!("127.0.0.1:{port}")).collect(),
            children: (0..count).map(|_| None).collect(),
            journal,
            namespaces: None,
            disk: None,
            clocks: None,
            keeps: false,
        }
    }

    fn format_all(&self) {
        for replica in 0..self.addresses.len() {
            self.format(replica).ok();
        }
    }

    pub fn format(&self, replica: usize) -> Run {
        self.format_with(replica, &[])
    }

    /// An empty directory that knows what it is.
    pub fn replace(&self, replica: usize) -> Run {
        self.format_with(replica, &["--replace"])
    }

    /// The disk of a stopped replica; its master key is elsewhere.
    pub fn lose_directory(&self, replica: usize) {
        assert!(self.children[replica].is_none(), "it runs");
        std::fs::remove_dir_all(self.data(replica)).unwrap();
    }

    fn format_with(&self, replica: usize, more: &[&str]) -> Run {
        let secret = self.path("secret");
        let data = self.data(replica);
        let number = replica.to_string();
        let count = self.addresses.len().to_string();
        let mut args = vec!["format", "--replica", &number, "--secret", secret.to_str().unwrap()];
        if replica == 0 {
            args.extend(["--replica-count", &count, "--profile", "compact"]);
            args.extend(["--journal", self.journal]);
        }
        args.extend(more);
        args.push(data.to_str().unwrap());
        verity(&args)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn data(&self, replica: usize) -> PathBuf {
        let name = format!("r{replica}");
        match &self.disk {
            Some(disk) if disk.replica == replica => disk.mount.join(name),
            Some(_) | None => self.path(&name),
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// As somebody who mixes up two clusters.
    pub fn take_addresses_of(&mut self, other: &Cluster) {
        self.addresses.clone_from(&other.addresses);
    }

    fn log(&self, replica: usize) -> PathBuf {
        self.path(&format!("log{replica}"))
    }

    pub fn start_all(&mut self) {
        for replica in 0..self.addresses.len() {
            self.start(replica);
        }
        self.wait_healthy();
    }

    pub fn start(&mut self, replica: usize) {
        assert!(self.children[replica].is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(self.log(replica));
        let log = log.unwrap();
        let mut started = command();
        if let Some(namespaces) = &self.namespaces {
            let [program, args @ ..] = namespaces.enter(replica);
            let verity = std::mem::replace(&mut started, Command::new(program));
            started.args(args).arg(verity.get_program());
        }
        if let Some(clocks) = &self.clocks {
            clocks.give(replica, &mut started);
        }
        let child = started
            .args(["start", "--memory", "256MiB", "--log", "info", "--addresses"])
            .arg(self.addresses.join(","))
            .arg(self.data(replica))
            .stdout(log.try_clone().unwrap())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.children[replica] = Some(child);
    }

    pub fn signal(&self, replica: usize, signal: &str) {
        let child = self.children[replica].as_ref().expect("it runs");
        let args = [format!("-{signal}"), child.id().to_string()];
        assert!(Command::new("kill").args(args).status().unwrap().success());
    }

    /// SIGSTOP, until none of its threads runs: when `kill` returns, one of them has yet to be woken
    /// to take the signal, and on a busy machine the others go on for tens of milliseconds.
    pub fn stop(&self, replica: usize) {
        self.signal(replica, "STOP");
        let tasks = format!("/proc/{}/task", self.pid(replica));
        let end = Instant::now() + Duration::from_secs(30);
        let runs = |task: std::io::Result<std::fs::DirEntry>| !is_stopped(&task.unwrap().path());
        while std::fs::read_dir(&tasks).unwrap().any(runs) {
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Starts it again if it has ended by itself; what it ended with.
    pub fn start_if_ended(&mut self, replica: usize) -> Option<Option<i32>> {
        let ended = self.children[replica].as_mut().expect("it ran").try_wait().unwrap()?;
        self.children[replica] = None;
        self.start(replica);
        Some(ended.code())
    }

    /// By SIGSTOP, whoever sent it.
    fn is_stopped(&self, replica: usize) -> bool {
        let child = self.children[replica].as_ref();
        child.is_some_and(|child| is_stopped(format!("/proc/{}", child.id()).as_ref()))
    }

    pub fn pid(&self, replica: usize) -> u32 {
        self.children[replica].as_ref().expect("it runs").id()
    }

    /// Its exit code, when it has ended by itself.
    pub fn wait_for_end(&mut self, replica: usize) -> Option<i32> {
        let mut child = self.children[replica].take().expect("it runs");
        child.wait().unwrap().code()
    }

    pub fn kill(&mut self, replica: usize) {
        let mut child = self.children[replica].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; what it said.
    pub fn end(&mut self, replica: usize) -> String {
        self.signal(replica, "TERM");
        let mut child = self.children[replica].take().expect("it runs");
        let status = child.wait().unwrap();
        let said = self.said(replica);
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }

    /// SIGTERM to all who run.
    pub fn end_all(&mut self) {
        let run: Vec<usize> =
            (0..self.children.len()).filter(|at| self.children[*at].is_some()).collect();
        for replica in &run {
            self.signal(*replica, "TERM");
        }
        for replica in run {
            let code = self.wait_for_end(replica);
            assert_eq!(code, Some(0), "{}", self.said(replica));
        }
    }

    pub fn said(&self, replica: usize) -> String {
        std::fs::read_to_string(self.log(replica)).unwrap_or_default()
    }

    pub fn assert_running(&mut self) {
        for replica in 0..self.children.len() {
            if let Some(child) = &mut self.children[replica] {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "replica {replica} ended: {}", self.said(replica));
            }
        }
    }

    /// `verity status` of all.
    pub fn status(&self) -> Run {
        self.command(&["status", "--json"])
    }

    pub fn command(&self, args: &[&str]) -> Run {
        let addresses = self.addresses.join(",");
        let mut all = args.to_vec();
        all.extend(["--connect", &addresses]);
        verity(&all)
    }

    /// Who leads, as those who run say.
    pub fn primary(&self) -> usize {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            for (replica, address) in self.addresses.iter().enumerate() {
                if self.children[replica].is_some()
                    && report(address).is_ok_and(|report| report.phase == "primary")
                {
                    return replica;
                }
            }
            assert!(Instant::now() < end, "nobody leads:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it says when it never holds: what was waited for, and what all have said.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "{what}:\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Until one leads and all that run follow it, having applied what it had committed.
    pub fn wait_healthy(&mut self) {
        let (first, mut waited) = (Instant::now(), Duration::ZERO);
        loop {
            let begun = Instant::now();
            self.assert_running();
            let running = (0..self.addresses.len()).filter(|at| self.children[*at].is_some());
            let reports: Vec<Option<ReplicaReport>> =
                running.map(|at| report(&self.addresses[at]).ok()).collect();
            let leads = reports.iter().flatten().find(|report| report.phase == "primary");
            if let Some(leads) = leads {
                let near = |report: &Option<ReplicaReport>| {
                    report.as_ref().is_some_and(|report| {
                        (report.phase == "primary" || report.phase == "following")
                            && report.view == leads.view
                            && report.applied.get() + 50 >= leads.applied.get()
                    })
                };
                if reports.iter().all(near) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            // Somebody else may stop what runs on a machine for a while, to measure something: that
            // is no time that the replicas had.
            let stopped = (0..self.addresses.len()).any(|at| self.is_stopped(at));
            if !stopped || first.elapsed() > Duration::from_secs(600) {
                waited += begun.elapsed().min(Duration::from_secs(10));
            }
            let end = Duration::from_secs(60);
            assert!(waited < end, "not healthy: {reports:#?}\n{}", self.logs());
        }
    }

    pub fn logs(&self) -> String {
        (0..self.addresses.len())
            .map(|replica| format!("--- replica {replica}\n{}", self.said(replica)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
        if std::thread::panicking() {
            if self.keeps {
                self.keep();
            }
            eprintln!("{}", self.logs());
        } else {
            assert!(!self.logs().contains("panicked"), "{}", self.logs());
        }
        // Before its directory goes.
        self.disk = None;
    }
}
