//! What is done to a cluster, as a seed says.
//!
//! Never more than a quorum's worth of damage: the files of one replica alone are damaged, the
//! *victim* of the round; everything else takes nothing from a disk. Each fault is over before the
//! next begins, though the cluster may not be over it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Random;
use crate::cluster::processes::{Cluster, report};
use crate::run::copy_directory;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillPrimary,
    KillBackup,
    KillTwo,
    KillAll,
    StopPrimary,
    StopBackup,
    /// One stopped, one killed: for a while there is no quorum.
    StopAndKill,
    Term,
    /// Of the victim: some bits of one file, while it is stopped or runs.
    FlipStopped,
    FlipRunning,
    /// Of the victim: its directory as it was a while ago.
    OlderCopy,
    /// Of the victim: all of its directory; an empty one takes the place.
    LoseDisk,
    /// In namespaces only. Off the network altogether.
    Cut,
    /// It sends nothing, or is sent nothing, or one peer is not sent anything.
    Mute,
    Deaf,
    CutPair,
    /// What it sends goes through a pipe so narrow that much of it is thrown away.
    Narrow,
    /// Where a replica has a disk of its own: nothing fits on it, or next to nothing.
    DiskFull,
    /// Where clocks can be set: one replica's goes hours ahead or back, and stays there.
    ClockStep,
}

/// Seconds that a clock may be off: what a time zone, a dead battery of a night or a slow drift
/// make. All of it within what idempotency ids allow.
const CLOCKS: &[i64] = &[0, 0, 1, -1, 60, -60, 7_200, -7_200, 36_000, -36_000];

const ANYWHERE: &[Fault] = &[
    Fault::KillPrimary,
    Fault::KillPrimary,
    Fault::KillBackup,
    Fault::KillTwo,
    Fault::KillAll,
    Fault::StopPrimary,
    Fault::StopBackup,
    Fault::StopAndKill,
    Fault::Term,
    Fault::FlipStopped,
    Fault::FlipStopped,
    Fault::FlipRunning,
    Fault::FlipRunning,
    Fault::OlderCopy,
    Fault::LoseDisk,
];

const APART: &[Fault] = &[
    Fault::Cut,
    Fault::Cut,
    Fault::Mute,
    Fault::Deaf,
    Fault::CutPair,
    Fault::CutPair,
    Fault::Narrow,
];

pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    random: Random,
    victim: usize,
    damaged: bool,
    ended: Vec<String>,
    older: Option<PathBuf>,
    begun: Instant,
    trace: std::fs::File,
    faults: BTreeMap<String, u32>,
}

/// What was done.
pub struct Hurt {
    pub faults: BTreeMap<String, u32>,
    /// Whose files were damaged.
    pub victim: Option<usize>,
    /// What processes ended with that nobody had ended.
    pub ended: Vec<String>,
}

impl Nemesis<'_> {
    pub fn new(cluster: &mut Cluster, seed: u64) -> Nemesis<'_> {
        let mut random = Random::new(seed);
        let trace = std::fs::File::create(cluster.path("nemesis")).unwrap();
        Nemesis {
            victim: random.below(3) as usize,
            random,
            damaged: false,
            ended: Vec::new(),
            older: None,
            begun: Instant::now(),
            trace,
            faults: BTreeMap::new(),
            cluster,
        }
    }

    /// All that this machine allows, or of that only what is named.
    pub fn run(&mut self, length: Duration, only: Option<&str>) {
        let mut all = ANYWHERE.to_vec();
        if self.cluster.is_apart() {
            all.extend(APART);
        }
        all.extend(self.cluster.disk().map(|_| Fault::DiskFull));
        all.extend(self.cluster.clocks().map(|_| [Fault::ClockStep; 2]).into_iter().flatten());
        if let Some(only) = only {
            all.retain(|fault| only.split(',').any(|name| name == format!("{fault:?}")));
        }
        assert!(!all.is_empty(), "no fault is left of {only:?}");
        while self.begun.elapsed() < length {
            self.pause(100, 1_000);
            let fault = self.random.of(&all);
            *self.faults.entry(format!("{fault:?}")).or_default() += 1;
            self.inflict(fault);
            if self.random.below(3) > 0 {
                self.cluster.wait_healthy();
            }
            self.cluster.assert_running();
        }
    }

    pub fn finish(self) -> Hurt {
        let victim = self.damaged.then_some(self.victim);
        Hurt { faults: self.faults, victim, ended: self.ended }
    }

    /// Planted: all three forget two seconds.
    pub fn forget(&mut self) {
        let both =
            |cluster: &Cluster, at: usize| (cluster.data(at), cluster.path(&format!("older{at}")));
        self.pause(1_000, 2_000);
        for put_back in [false, true] {
            (0..3).for_each(|at| self.cluster.kill(at));
            for at in 0..3 {
                let (data, copy) = both(self.cluster, at);
                match put_back {
                    false => copy_directory(&data, &copy),
                    true => replace(&copy, &data),
                }
            }
            self.cluster.start_all();
            self.pause(2_000, 3_000);
        }
    }

    fn say(&mut self, what: &str) {
        writeln!(self.trace, "{:8.3} {what}", self.begun.elapsed().as_secs_f64()).unwrap();
    }

    fn pause(&mut self, low_ms: u64, high_ms: u64) {
        let time = self.random.between(low_ms, high_ms);
        std::thread::sleep(time);
    }

    /// Who leads by its own word, else anybody.
    fn primary(&mut self) -> usize {
        let anybody = self.random.below(3) as usize;
        let leads = |address: &String| report(address).is_ok_and(|told| told.phase == "primary");
        self.cluster.addresses().iter().position(leads).unwrap_or(anybody)
    }

    /// One that does not.
    fn backup(&mut self) -> usize {
        let ahead = 1 + self.random.below(2) as usize;
        (self.primary() + ahead) % 3
    }

    fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::KillPrimary => {
                let primary = self.primary();
                self.kill(fault, &[primary]);
            }
            Fault::KillBackup => {
                let backup = self.backup();
                self.kill(fault, &[backup]);
            }
            Fault::KillTwo => {
                let two = [self.primary(), self.backup()];
                self.kill(fault, &two[..if two[0] == two[1] { 1 } else { 2 }]);
            }
            Fault::KillAll => self.kill(fault, &[0, 1, 2]),
            Fault::StopPrimary => {
                let primary = self.primary();
                self.stop(fault, primary);
            }
            Fault::StopBackup => {
                let backup = self.backup();
                self.stop(fault, backup);
            }
            Fault::StopAndKill => {
                let primary = self.primary();
                let other = (primary + 1 + self.random.below(2) as usize) % 3;
                self.say(&format!("{fault:?}: {other} stopped, {primary} killed"));
                self.cluster.stop(other);
                self.cluster.kill(primary);
                self.pause(200, 4_000);
                self.cluster.signal(other, "CONT");
                self.pause(1, 1_000);
                self.cluster.start(primary);
            }
            Fault::Term => {
                let replica = self.random.below(3) as usize;
                // Without a quorum it would wait for one, and end with another word.
                self.cluster.wait_healthy();
                self.say(&format!("{fault:?} {replica}"));
                self.cluster.end(replica);
                self.pause(1, 1_500);
                self.cluster.start(replica);
            }
            Fault::FlipStopped => {
                self.cluster.wait_healthy();
                self.cluster.kill(self.victim);
                self.flip(fault);
                self.pause(1, 1_500);
                self.cluster.start(self.victim);
                self.cluster.wait_healthy();
            }
            Fault::FlipRunning => self.flip(fault),
            Fault::OlderCopy => self.older_copy(),
            Fault::LoseDisk => self.lose_disk(),
            Fault::Cut | Fault::Mute | Fault::Deaf | Fault::CutPair | Fault::Narrow => {
                self.cut(fault);
            }
            Fault::DiskFull => self.fill_disk(),
            Fault::ClockStep => {
                let replica = self.random.below(3) as usize;
                let seconds = self.random.of(CLOCKS);
                self.say(&format!("{fault:?}: {replica} to {seconds} s"));
                self.cluster.clocks().expect("there are clocks").set(replica, seconds);
                self.pause(1, 1_000);
            }
        }
    }

    fn fill_disk(&mut self) {
        let left = [0, 64 << 10, 1 << 20, 8 << 20, 64 << 20];
        let left = self.random.of(&left);
        let disk = self.cluster.disk().expect("there is one");
        let replica = disk.replica;
        disk.fill(left);
        self.say(&format!("{:?}: {left} bytes are left to {replica}", Fault::DiskFull));
        self.pause(500, 6_000);
        self.cluster.disk().expect("there is one").empty();
        // It may have ended: what was acknowledged is on its disk.
        self.pause(200, 201);
        if let Some(code) = self.cluster.start_if_ended(replica) {
            let word = format!("{replica} had ended with {code:?} for want of room");
            self.say(&word);
            assert_eq!(code, Some(1), "{}", self.cluster.said(replica));
            self.ended.push(word);
        }
    }

    fn kill(&mut self, fault: Fault, replicas: &[usize]) {
        self.say(&format!("{fault:?} {replicas:?}"));
        for replica in replicas {
            self.cluster.kill(*replica);
        }
        self.pause(1, 2_000);
        for replica in replicas {
            self.cluster.start(*replica);
        }
    }

    fn stop(&mut self, fault: Fault, replica: usize) {
        self.say(&format!("{fault:?} {replica}"));
        self.cluster.stop(replica);
        self.pause(100, 4_000);
        self.cluster.signal(replica, "CONT");
    }

    /// Takes a copy of the victim's directory, or puts back the one that was taken.
    fn older_copy(&mut self) {
        self.cluster.wait_healthy();
        let data = self.cluster.data(self.victim);
        let copy = self.cluster.path("older");
        self.cluster.kill(self.victim);
        match self.older.take() {
            None => {
                self.say(&format!("a copy of {} is taken", self.victim));
                copy_directory(&data, &copy);
                self.older = Some(copy);
            }
            Some(copy) => {
                // The others know by then what it had acknowledged.
                self.pause(300, 1_000);
                self.say(&format!("the copy of {} is put back", self.victim));
                replace(&copy, &data);
                self.damaged = true;
            }
        }
        self.cluster.start(self.victim);
        self.cluster.wait_healthy();
    }

    /// Nothing is left of the victim's directory. What it was before is never put back: it would be
    /// an older disk of what the new one said since.
    fn lose_disk(&mut self) {
        self.cluster.wait_healthy();
        self.cluster.kill(self.victim);
        self.cluster.lose_directory(self.victim);
        self.say(&format!("{:?}: the directory of {}", Fault::LoseDisk, self.victim));
        self.pause(1, 1_500);
        self.cluster.replace(self.victim).ok();
        self.cluster.start(self.victim);
        if self.random.below(2) == 0 {
            self.pause(1, 500);
            self.cluster.kill(self.victim);
            self.cluster.start(self.victim);
        }
        self.cluster.wait_healthy();
    }

    /// Bits of one file of the victim. What a process that runs cannot do without are its copies of
    /// superblock and keys: of those only one, while it is stopped.
    fn flip(&mut self, fault: Fault) {
        let mut files = Vec::new();
        files_of(&self.cluster.data(self.victim), &mut files);
        let alone = |path: &Path| path.ends_with("superblock") || path.ends_with("keys");
        files.retain(|path| {
            std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)
                && !path.ends_with("lock")
                && (fault == Fault::FlipStopped || !alone(path))
        });
        files.sort();
        let path = files[self.random.below(files.len() as u64) as usize].clone();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        let bound = if alone(&path) { 4096.min(length) } else { length };
        self.damaged = true;
        for _ in 0..1 + self.random.below(3) {
            let mut byte = [0];
            let mut at = 0;
            // Most of a file of a young database is zeros that nobody reads.
            for _ in 0..50 {
                at = self.random.below(bound);
                file.read_exact_at(&mut byte, at).unwrap();
                if byte != [0] {
                    break;
                }
            }
            let bit = 1 << self.random.below(8);
            file.write_all_at(&[byte[0] ^ bit], at).unwrap();
            self.say(&format!("{fault:?} {}: byte {at}", path.display()));
        }
        file.sync_all().unwrap();
    }

    fn cut(&mut self, fault: Fault) {
        let replica = if self.random.below(2) == 0 { self.primary() } else { self.backup() };
        let peer = (replica + 1 + self.random.below(2) as usize) % 3;
        self.say(&format!("{fault:?} {replica} (or to {peer})"));
        let namespaces = self.cluster.namespaces();
        match fault {
            Fault::Cut => namespaces.cut(replica),
            Fault::Mute => namespaces.mute(replica),
            Fault::Deaf => namespaces.deafen(replica),
            Fault::CutPair => namespaces.cut_pair(replica, peer),
            Fault::Narrow => namespaces.narrow(replica),
            other => unreachable!("{other:?} is not of the network"),
        }
        self.pause(200, 6_000);
        let namespaces = self.cluster.namespaces();
        match fault {
            Fault::Cut => namespaces.heal(replica),
            Fault::Mute => namespaces.unmute(replica),
            Fault::Deaf => namespaces.undeafen(replica),
            Fault::CutPair => namespaces.heal_pair(replica, peer),
            Fault::Narrow => namespaces.widen(replica),
            other => unreachable!("{other:?} is not of the network"),
        }
    }
}

/// What is in one directory as the other.
fn replace(copy: &Path, data: &Path) {
    std::fs::remove_dir_all(data).unwrap();
    copy_directory(copy, data);
    std::fs::remove_dir_all(copy).unwrap();
}

fn files_of(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        // Files come and go while it runs.
        let Ok(entry) = entry else { continue };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_of(&entry.path(), files),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
}
