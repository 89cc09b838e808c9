//! PostgreSQL 15 with two standbys, of which any one must have a commit on disk; `pgbench`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::members::{Members, free_ports};
use super::verity::fresh;
use super::{CLIENTS, Figures, Measured, Missing};
use crate::steps::{capture, capture_ok};

const BINARIES: &str = "/usr/lib/postgresql/15/bin";
const READY_WITHIN: Duration = Duration::from_secs(30);

const TABLE: &str = "CREATE TABLE bench_insert (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT, \
    c DOUBLE PRECISION, d TEXT, e TEXT, f TEXT, g TIMESTAMP); CREATE SEQUENCE ids";

pub fn run(folder: &Path, seconds: u64) -> Measured {
    if !Path::new(BINARIES).join("pgbench").exists() {
        return Ok(Err(Missing("apt-get install postgresql-15")));
    }
    fresh(folder)?;
    let peer = Peer { folder: folder.to_path_buf(), ports: free_ports(3)? };
    peer.give_to_user()?;
    let mut members = Members::default();
    peer.make_primary(&mut members)?;
    for standby in [1, 2] {
        peer.make_standby(standby, &mut members)?;
    }
    peer.wait(0, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'", "2")?;
    peer.ask(0, TABLE)?;
    let text = "abcdefghijklmnop".repeat(4)[..54].to_string();
    let insert = format!(
        "\\set a random(1, 1000000000)\nINSERT INTO bench_insert VALUES (nextval('ids'), :a, :a, \
         1.5, '{text}', '{text}', '{text}', '2026-01-01');\n"
    );
    let script = folder.join("insert.sql");
    std::fs::write(&script, insert).map_err(|error| error.to_string())?;
    Ok(Ok(Figures {
        one_client_us: 1e6 / peer.bench(&script, 1, seconds)?,
        clients_per_second: peer.bench(&script, CLIENTS, seconds)?,
    }))
}

struct Peer {
    folder: PathBuf,
    /// Of the primary, then of the standbys.
    ports: Vec<u16>,
}

impl Peer {
    /// PostgreSQL does not run as root: then it runs as the user its package made.
    fn command(&self, name: &str) -> Command {
        let binary = Path::new(BINARIES).join(name);
        if !is_root() {
            return Command::new(binary);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(binary).current_dir(&self.folder);
        command
    }

    fn give_to_user(&self) -> Result<(), String> {
        if is_root() {
            capture_ok(Command::new("chown").arg("postgres").arg(&self.folder))?;
        }
        Ok(())
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.join(member.to_string())
    }

    fn configure(&self, member: usize) -> Result<(), String> {
        let path = self.data(member).join("postgresql.conf");
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut text = std::fs::read_to_string(&path).map_err(failed)?;
        let _ = write!(
            text,
            "\nport = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n\
             synchronous_standby_names = 'ANY 1 (s1, s2)'\nsynchronous_commit = on\n\
             max_connections = 120\nshared_buffers = 256MB\nmax_wal_size = 4GB\n",
            self.ports[member]
        );
        std::fs::write(&path, text).map_err(failed)
    }

    fn start(&self, member: usize, members: &mut Members) -> Result<(), String> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data(member));
        members.start(&mut command, &self.folder.join(format!("log{member}")))
    }

    fn make_primary(&self, members: &mut Members) -> Result<(), String> {
        let mut make = self.command("initdb");
        capture_ok(make.args(["--auth", "trust", "--no-sync", "-D"]).arg(self.data(0)))?;
        self.configure(0)?;
        self.start(0, members)?;
        self.wait(0, "SELECT 1", "1")
    }

    fn make_standby(&self, member: usize, members: &mut Members) -> Result<(), String> {
        let mut copy = self.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-p", &self.ports[0].to_string()]);
        capture_ok(copy.args(["-R", "--no-sync", "-D"]).arg(self.data(member)))?;
        self.configure(member)?;
        let path = self.data(member).join("postgresql.auto.conf");
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut text = std::fs::read_to_string(&path).map_err(failed)?;
        let from = self.ports[0];
        let user = if is_root() { "user=postgres " } else { "" };
        let _ = write!(
            text,
            "\nprimary_conninfo = '{user}host=127.0.0.1 port={from} application_name=s{member}'\n"
        );
        std::fs::write(&path, text).map_err(failed)?;
        self.start(member, members)
    }

    fn ask(&self, member: usize, sql: &str) -> Result<String, String> {
        let mut ask = self.command("psql");
        ask.args(["-h", "127.0.0.1", "-p", &self.ports[member].to_string()]);
        Ok(capture_ok(ask.args(["-Atqc", sql, "postgres"]))?.output.trim().to_string())
    }

    fn wait(&self, member: usize, sql: &str, answer: &str) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let said = self.ask(member, sql);
            if said.as_deref() == Ok(answer) {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN {
                return Err(format!("{sql}: {said:?}, see {}", self.folder.display()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Transactions a second.
    fn bench(&self, script: &Path, clients: u64, seconds: u64) -> Result<f64, String> {
        let mut bench = self.command("pgbench");
        bench.args(["-n", "-M", "prepared", "-h", "127.0.0.1"]);
        bench.args(["-p", &self.ports[0].to_string(), "-j", &clients.min(2).to_string()]);
        bench.args(["-c", &clients.to_string(), "-T", &seconds.to_string(), "-f"]);
        let told = capture(bench.arg(script).arg("postgres"))?;
        let rate = told.output.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = rate.and_then(|line| line.split(' ').next()).and_then(|rate| rate.parse().ok());
        rate.ok_or_else(|| format!("pgbench: {}{}", told.output, told.errors))
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
