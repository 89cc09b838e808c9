//! What can be asked: every command, flag and help text.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use verity::{ClusterId, IoBackend, MasterKeySource, Options, Position, TenantId};

use super::Failure;

#[derive(Debug, Parser)]
#[command(
    name = "verity",
    version,
    about = "A system of record for people who must prove what their data says.",
    long_about = "A system of record for people who must prove what their data says.\n\n\
        All data is an immutable, ordered, hash-chained log; SQL tables are a view derived from \
        it. Start with `verity demo`.",
    after_help = "Exit codes: 0 done and holds, 1 failed or broken, 2 could not tell (arguments, \
        unreadable files).\n\nA new data directory needs 310 MiB of its disk, 72 MiB with `format \
        --profile compact`: its journal is written whole at once."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Print JSON, one object a line, instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// How files are read and written: auto uses io_uring where the kernel allows it
    #[arg(long, global = true, value_enum, default_value_t = Io::Auto, value_name = "BACKEND")]
    pub io: Io,
    /// Memory for the whole process, at least 256MiB (128MiB with `format --profile compact`); the
    /// page cache gets what is left of it
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_memory)]
    #[arg(default_value = "1GiB")]
    pub memory: u64,
    /// File with the master key: 32 raw bytes or 64 hexadecimal digits [default: <DIR>.master-key]
    #[arg(long, global = true, value_name = "FILE", env = "VERITY_MASTER_KEY_FILE")]
    pub master_key: Option<PathBuf>,
    /// The master key itself, 64 hexadecimal digits; only from the environment
    #[arg(long, global = true, hide = true, env = "VERITY_MASTER_KEY", hide_env_values = true)]
    pub master_key_content: Option<String>,
    /// The clock of this machine is right, though it is half a year or more ahead of the last time
    /// on record
    #[arg(long, global = true)]
    pub accept_clock: bool,
    /// No newer data can exist than what the only copy of the superblock that is left names
    #[arg(long, global = true)]
    pub accept_single_superblock_copy: bool,
    /// Seconds after a write in which the state is attested, so that proofs are ready; and at the
    /// end. 0: only when a proof is asked for
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 1)]
    pub attest_after: u64,
    /// What to log on standard error: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL", env = "VERITY_LOG", default_value = "warn")]
    pub log: String,
}

impl Global {
    /// The options that all commands share.
    pub fn options(&self) -> Options {
        Options::new()
            .memory(self.memory)
            .io(self.io.into())
            .master_key(self.master_key())
            .accept_clock(self.accept_clock)
            .accept_single_superblock_copy(self.accept_single_superblock_copy)
            .attest_after((self.attest_after > 0).then(|| Duration::from_secs(self.attest_after)))
    }

    pub fn master_key(&self) -> MasterKeySource {
        match (&self.master_key, &self.master_key_content) {
            (Some(path), _) => MasterKeySource::File(path.clone()),
            (None, Some(content)) => MasterKeySource::Content(content.clone().into_bytes()),
            (None, None) => MasterKeySource::Beside,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Io {
    Auto,
    Uring,
    Threads,
}

impl From<Io> for IoBackend {
    fn from(io: Io) -> IoBackend {
        match io {
            Io::Auto => IoBackend::Auto,
            Io::Uring => IoBackend::Uring,
            Io::Threads => IoBackend::Threads,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything in a minute: load a clinic, query it, travel in time, catch a forger
    Demo(DemoArgs),
    /// Run SQL statements from -c or standard input
    Sql(SqlArgs),
    /// Load a CSV file with a header into a table; safe to run again after a crash
    #[command(
        long_about = "Loads a CSV file with a header into a table; safe to run again after a \
        crash.\n\n\
        The same file into the same table is one import: rows that it imported before \
        (`already_there` in JSON) are not imported again, not even when they were deleted since. \
        A table that was dropped and made again is another one.\n\n\
        Of a table that is there --types, --primary-key and --schema must say what it has.\n\n\
        Exit codes: 0 all rows are imported, 1 failed or some were rejected, 2 could not tell."
    )]
    Import(ImportArgs),
    /// Check a proof or an exported log offline, or every file of a data directory; changes nothing
    #[command(long_about = "Checks a proof or an exported log offline, or every file of a data \
        directory. Changes nothing, and repairs nothing.\n\n\
        Exit codes: 0 holds, 1 broken or refused, 2 could not tell.")]
    Verify(VerifyArgs),
    /// Write a tenant's whole log to one file that proves itself
    Export(ExportArgs),
    /// Answer a SELECT with a file that proves the answer
    Prove(ProveArgs),
    /// Take columns out of a proof; what is left still verifies
    Redact(RedactArgs),
    /// Cosign heads of logs that continue those seen before (C2SP tlog-witness)
    Witness(WitnessArgs),
    /// Show what a data directory holds, or one record of it
    #[command(long_about = "Shows what a data directory holds, and what is wrong with it; with \
        --record one record, read through its chain from the nearest checkpoint records. Changes \
        nothing.\n\n\
        Exit codes: 0 holds, 1 damage was found, 2 could not tell.")]
    Inspect(InspectArgs),
    /// Derive all state again from the logs: in place of a damaged one, or to compare
    #[command(long_about = "Derives all state again from the logs alone.\n\n\
        Without --check a new grid and new indexes take the place of those there are, damaged or \
        not: the way back when `verify` finds damage in the grid and there is no copy to restore. \
        A crash at any moment leaves the old state or the new one. Damage in superblock, keys, \
        journal or logs is a refusal: from those nothing can be derived.\n\n\
        Exit codes: 0 rebuilt (or equal), 1 refused or different, 2 could not tell.")]
    Rebuild(RebuildArgs),
    /// Measure this machine and Verity on it, in one run
    Bench(BenchArgs),
    /// Make a new data directory
    #[command(long_about = "Makes a new data directory: a database of its own, or one replica of \
        a cluster.\n\n\
        The replicas of a cluster share its number, its limits and the keys of its tenants. \
        --secret FILE carries them: the first format makes the file, the others read a copy of \
        it. Carry it like a master key, and destroy it when all replicas are formatted. Never \
        make two clusters from one secret.\n\n\
        --replace takes the place of a replica whose disk is lost, in a cluster that lives: the \
        directory knows that it is empty in place of another, and `verity start` fetches \
        everything from the other replicas. Without --replace such a replica could vote away \
        what the lost disk had acknowledged. Never start the lost directory again beside it.")]
    Format(FormatArgs),
    /// Write the file that the replicas of a cluster share anew, from one of them
    #[command(long_about = "Writes the file that `verity format --secret` needs anew, from the \
        directory of a living replica and its master key, for a replica that is to be replaced \
        when the file was destroyed. The replica may be running; nothing of it is changed.\n\n\
        The file holds the keys of tenants 0 and 1 in the clear: carry it like a master key, and \
        destroy it when the replica is formatted.\n\n\
        Exit codes: 0 written, 2 could not.")]
    Secret(SecretArgs),
    /// Serve a data directory to clients, as one replica of its cluster
    #[command(long_about = "Serves a data directory to clients and to the other replicas of its \
        cluster.\n\n\
        The addresses are those of all replicas, in the order of their numbers, the same list \
        everywhere; a database of one replica has one. SIGTERM ends it gracefully. There is no \
        TLS yet: the ports belong in a private network.")]
    Start(StartArgs),
    /// Ask every replica of a cluster how it stands
    #[command(long_about = "Asks every replica of a cluster how it stands.\n\n\
        Exit codes: 0 all answer and one leads, 1 some do not answer or nobody leads.")]
    Status(StatusArgs),
    /// Manage tenants
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant with a log, tables and keys of its own
    Create(TenantCreateArgs),
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to put the demo's files [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many patients to make up
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub patients: u64,
    /// Keep the temporary directory
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// Data directory; made with a new database when it is missing, and its parents too
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    #[arg(required_unless_present = "connect")]
    pub data: Option<PathBuf>,
    /// Servers to ask instead of a directory: host:port of replicas
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub connect: Vec<String>,
    /// Statements to run; without it they are read from standard input
    #[arg(short = 'c', long = "command", value_name = "SQL", allow_hyphen_values = true)]
    pub command: Option<String>,
    /// Whose data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tenant: u64,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The CSV file; its first line names the columns
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Data directory; made with a new database when it is missing, and its parents too
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    #[arg(required_unless_present = "connect")]
    pub data: Option<PathBuf>,
    /// Instead of a directory: host:port of the replicas of a cluster
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub connect: Vec<String>,
    /// Table to load into; created when missing
    #[arg(long, value_name = "NAME")]
    pub table: String,
    /// Types of columns instead of inferred ones: name=TYPE,name=TYPE
    #[arg(long, value_name = "LIST", conflicts_with = "schema")]
    pub types: Option<String>,
    /// A CREATE TABLE statement for --table, to use when it is missing
    #[arg(long, value_name = "SQL")]
    pub schema: Option<String>,
    /// Columns of the primary key, comma separated; without it a hidden one is used
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', conflicts_with = "schema")]
    pub primary_key: Vec<String>,
    /// Where bad rows go, with a reason each [default: FILE.HASH.rejects.csv in the
    /// current directory, by the hash of what FILE holds]
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Whose data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tenant: u64,
}

/// A data directory, named by its place on the line or by `--data`.
#[derive(Clone, Debug, Args)]
pub struct Directory {
    /// Data directory
    #[arg(value_name = "DIR", conflicts_with = "data")]
    place: Option<PathBuf>,
    /// The same, where other commands have it [env: VERITY_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Directory {
    pub fn path(&self) -> Result<PathBuf, Failure> {
        let named = self.place.clone().or_else(|| self.data.clone());
        let named = named.or_else(|| std::env::var_os("VERITY_DATA_DIR").map(PathBuf::from));
        named.ok_or_else(|| {
            Failure::cannot_tell("which data directory? Name it last on the line, or with --data")
        })
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A proof, as `verity prove` writes it, or a log, as `verity export` does
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Data directory
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    pub data: Option<PathBuf>,
    /// Hold the directory's logs against a signed head: a proof, an exported log, or a signed note;
    /// needs --policy
    #[arg(long, value_name = "FILE", requires = "policy", conflicts_with = "file")]
    pub head: Option<PathBuf>,
    /// Whose signatures the proof needs (C2SP tlog-policy)
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    #[command(flatten)]
    pub asked: Asked,
    /// Where the newest head that was seen is kept: an older one, or a fork, is refused
    #[arg(long, value_name = "FILE")]
    pub pin: Option<PathBuf>,
    /// Whose data, or whose log, was asked for
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tenant: u64,
    /// Call the proof, or the head, fresh only if its cosignatures are at most so many seconds old
    #[arg(long, value_name = "SECONDS")]
    pub max_age: Option<u64>,
}

/// What a proof answers, or must answer.
#[derive(Debug, Args)]
pub struct Asked {
    /// The SELECT
    #[arg(short = 'c', long, value_name = "SQL", visible_alias = "command")]
    pub sql: Option<String>,
    /// All versions of the one row that the SELECT names by its whole key
    #[arg(long, requires = "sql")]
    pub history: bool,
    /// The record at this position
    #[arg(long, value_name = "POSITION", conflicts_with_all = ["sql", "id"])]
    pub event: Option<u64>,
    /// What became of the transaction with this idempotency id
    #[arg(long, value_name = "HEX", conflicts_with = "sql")]
    pub id: Option<String>,
}

impl Asked {
    pub const fn is_given(&self) -> bool {
        self.sql.is_some() || self.event.is_some() || self.id.is_some()
    }
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["sql", "event", "id"])))]
pub struct ProveArgs {
    /// Data directory
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    #[arg(required_unless_present = "connect")]
    pub data: Option<PathBuf>,
    /// Servers to ask instead of a directory: host:port of replicas
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub connect: Vec<String>,
    #[command(flatten)]
    pub asked: Asked,
    /// Size of the head that the reader has seen: show that the newest continues it
    #[arg(long, value_name = "SIZE")]
    pub since: Option<u64>,
    /// Witnesses that cosign the head (http://host:port), besides this replica
    #[arg(long, value_name = "URL")]
    pub witness: Vec<String>,
    /// Whose data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tenant: u64,
    /// Where the proof goes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Where the policy goes: public keys that the reader must get another way than the proof
    #[arg(long, value_name = "FILE")]
    pub policy_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Data directory
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    pub data: PathBuf,
    /// Whose log; 0: the cluster's, whose tenant 1 must have records
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub tenant: u64,
    /// Size of the head that the reader has seen: show that the newest continues it
    #[arg(long, value_name = "SIZE")]
    pub since: Option<u64>,
    /// Witnesses that cosign the head (http://host:port), besides this replica
    #[arg(long, value_name = "URL")]
    pub witness: Vec<String>,
    /// Where the log goes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Where the policy goes: public keys that the reader must get another way than the log
    #[arg(long, value_name = "FILE")]
    pub policy_out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WitnessArgs {
    /// Where the witness keeps its key and what it saw
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Name of its key, as policies list it
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Keys of the logs that it knows: the `log` line of their policies
    #[arg(long = "log-key", value_name = "KEY", required = true)]
    pub logs: Vec<String>,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7380")]
    pub listen: std::net::SocketAddr,
}

#[derive(Debug, Args)]
pub struct RedactArgs {
    /// A proof of rows, a row's history or a row's record
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Columns to take out
    #[arg(long, value_name = "NAME", required = true, value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Where the copy goes
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub data: Directory,
    /// One record by its position in a tenant's log, believed only when its chain holds
    #[arg(long, value_name = "TENANT:POSITION", value_parser = parse_place)]
    pub record: Option<(TenantId, Position)>,
}

#[derive(Debug, Args)]
pub struct RebuildArgs {
    #[command(flatten)]
    pub data: Directory,
    /// Only compare the rebuilt state with the live one; change nothing
    #[arg(long)]
    pub check: bool,
    /// When the grid is too damaged to say how far the logs go: no file of a log is gone as a whole
    #[arg(long, conflicts_with = "check")]
    pub accept_missing_logs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    Insert,
    PointRead,
    Count,
    Restart,
    /// Latency of one client's updates across checkpoints
    Checkpoints,
    /// Hashes and seals alone of one inserted row: the floor of a bulk load
    RowFloor,
    /// Ranges of 100 rows in the order of an index
    IndexRange,
    /// COUNT with a predicate that no index serves
    CountWhere,
    /// Point reads as of an old position, beside those of now
    AsOf,
    /// Point reads and updates in a table larger than --memory: pages read
    Cold,
    /// Latency of one client's commits while another scans the table
    Scan,
    /// The same while an index of the table is built, and freed
    Jobs,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Data directory; made when missing. The benchmark writes to tables of its own
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    #[arg(required_unless_present = "connect")]
    pub data: Option<PathBuf>,
    /// Instead of a directory: host:port of the replicas of a cluster. Inserts only; with --data
    /// the disk there is measured, which should be the one that the replicas write to
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', conflicts_with = "workload")]
    pub connect: Vec<String>,
    /// What to measure; may be given several times [default: insert and point-read]
    #[arg(long, value_enum, value_name = "WORKLOAD")]
    pub workload: Vec<Workload>,
    /// Clients that insert or read at the same time, each waiting for one answer
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub clients: u64,
    /// Threads that the inserting clients share as tasks; a client alone on its thread blocks it.
    /// With --connect, each thread has a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub threads: u64,
    /// Rows per insert
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// Rows to insert in all; also the size of the table that is read
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rows: u64,
    /// Point reads to do
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub reads: u64,
}

#[derive(Debug, Args)]
pub struct FormatArgs {
    #[command(flatten)]
    pub data: Directory,
    /// Number of the cluster, 1 to 32 hexadecimal digits; without it one is drawn
    #[arg(long, value_name = "C", value_parser = parse_cluster)]
    pub cluster: Option<ClusterId>,
    /// Which replica of the cluster this is, from 0
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub replica: u8,
    /// Replicas of the cluster: 1, 3 or 5 [default: 1, or what the secret says]
    #[arg(long, value_name = "N")]
    pub replica_count: Option<u8>,
    /// File with what all replicas of a cluster share; made when it is missing
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// Take the place of a replica of a living cluster whose disk is lost; needs --secret
    #[arg(long, requires = "secret")]
    pub replace: bool,
    /// Limits that steer state: they last as long as the directory, and decide how much memory the
    /// process needs at least [default: default]
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub profile: Option<Profile>,
    /// Bytes of the journal ring; a new directory needs a sixteenth more than that, and 38MiB, on
    /// its disk [default: 256MiB, 32MiB with the profile compact]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub journal: Option<u64>,
    /// Bytes the grid may grow to
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub grid_max: Option<u64>,
}

#[derive(Debug, Args)]
pub struct SecretArgs {
    #[command(flatten)]
    pub data: Directory,
    /// The file to be written; it must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Profile {
    /// Works from 256MiB of memory on
    Default,
    /// Works from 128MiB on; smaller transactions, a smaller journal, a grid of 32 GiB at most
    Compact,
}

#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    pub data: Directory,
    /// host:port of every replica, in the order of their numbers
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', required = true)]
    pub addresses: Vec<String>,
    /// Where to listen, if not at this replica's own place in --addresses
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// host:port of every replica
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', required = true)]
    pub connect: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TenantCreateArgs {
    /// Number of the new tenant
    #[arg(value_name = "N")]
    pub tenant: u64,
    /// Data directory
    #[arg(long, value_name = "DIR", env = "VERITY_DATA_DIR")]
    #[arg(required_unless_present = "connect")]
    pub data: Option<PathBuf>,
    /// Instead of a directory: host:port of the replicas of a cluster
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub connect: Vec<String>,
}

/// `1:4711`.
fn parse_place(text: &str) -> Result<(TenantId, Position), String> {
    let parsed = text.split_once(':').and_then(|(tenant, position)| {
        Some((TenantId::new(tenant.parse().ok()?), Position::new(position.parse().ok()?)))
    });
    parsed.ok_or_else(|| "a tenant and a position, such as 1:4711".to_string())
}

/// A size that a machine may have.
fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes > MEMORY_MAX { Err("at most 4096 GiB".to_string()) } else { Ok(bytes) }
}

const MEMORY_MAX: u64 = 4 << 40;

/// As `inspect` prints it; leading zeros may be left out.
pub fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    let valid = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = if valid { u128::from_str_radix(text, 16).unwrap_or(0) } else { 0 };
    if number == 0 {
        return Err("a cluster's number has 1 to 32 hexadecimal digits and is not 0".to_string());
    }
    Ok(ClusterId::new(number))
}

/// `123`, `64KiB`, `256MiB`, `1GiB`; also `K`, `M`, `G`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unknown unit in \"{text}\"; use KiB, MiB or GiB")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("\"{text}\" is no size; try 256MiB"))?;
    count.checked_mul(1 << shift).ok_or_else(|| format!("\"{text}\" is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn clusters() {
        assert_eq!(parse_cluster("7"), Ok(ClusterId::new(7)));
        assert_eq!(parse_cluster("000fF"), Ok(ClusterId::new(255)));
        for bad in ["", "0", "0x7", "-1", "+1", "one", "100000000000000000000000000000000"] {
            assert!(parse_cluster(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64KiB"), Ok(65536));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
        for bad in ["", "x", "1TiB", "-1", "99999999999999999999", "99999999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
