//! `--memory` is the budget of the whole process, as the kernel counts it: a child process loads,
//! changes, scans, checkpoints, is killed and replays, and tells its own `VmHWM`, which counts code
//! and stacks too.

use std::path::Path;
use std::process::Command;

use verity::{ClusterConstants, Options, Value, Verity};
use verity_core::node::MemoryPlan;

use crate::run::{Database, Run};

/// Says that this process is the child: what to do, where, with how much memory, which constants.
const CHILD: &str = "VERITY_MEMORY_CHILD";
const ROWS: i64 = 160_000;
const BATCH: i64 = 100;
/// Four rows a page; what an update makes of it lies in overflow pages.
const PAD: usize = 850;

#[test]
fn the_least_memory_is_kept_with_default_constants() {
    check("default", MemoryPlan::least(&ClusterConstants::DEFAULT).total());
}

#[test]
fn half_a_gibibyte_is_kept_with_default_constants() {
    check("default", 512 << 20);
}

#[test]
fn the_least_memory_is_kept_with_compact_constants() {
    check("compact", MemoryPlan::least(&ClusterConstants::COMPACT).total());
}

#[test]
fn too_little_memory_is_refused_and_the_least_is_named() {
    let least = |constants| MemoryPlan::least(&constants).total().div_ceil(1 << 20);
    let database = Database::new();
    database.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)").ok();
    let told = database.run(&["sql", "--memory", "100MiB", "-c", "SELECT 1"]).fails(2, "MiB");
    let ring_of_16 = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    let exact = format!("give at least {} MiB", least(ring_of_16));
    assert!(told.stderr.contains(&exact), "expected {exact:?}: {told:#?}");
    // What it names is enough, and nothing was harmed.
    let enough = format!("{}MiB", least(ring_of_16));
    database.run(&["sql", "--memory", &enough, "-c", "SELECT COUNT(*) FROM t"]).ok();
    database.verify().ok();
}

#[test]
fn a_limit_below_the_memory_is_refused_and_not_an_abort() {
    let database = Database::new();
    let csv = database.path("rows.csv");
    let rows: String = (0..20_000).map(|n| format!("{n},person number {n}\n")).collect();
    std::fs::write(&csv, format!("id,name\n{rows}")).unwrap();
    let limited = |limit: &str, command: &str, data: &Path| {
        let script = format!("ulimit {limit}; exec \"$@\"");
        let verity = env!("CARGO_BIN_EXE_verity");
        let mut all = Command::new("bash");
        all.args(["-c", &script, "bash", verity, command, "--memory", "1GiB", "--data"]).arg(data);
        match command {
            "import" => all.arg(&csv).args(["--table", "rows"]),
            "start" => all.args(["--addresses", "127.0.0.1:0"]),
            _ => all.args(["-c", "SELECT 1"]),
        };
        Run::new(all.output().unwrap())
    };
    let data = database.data();
    for command in ["sql", "import", "start"] {
        let told = limited("-v 600000", command, &data).fails(2, "ulimit -v 1179648");
        assert!(told.stderr.contains("at most 457 MiB"), "{told:#?}");
        limited("-d 600000", command, &data).fails(2, "ulimit -d");
    }
    // A directory that is not there is not made first.
    let new = database.path("new");
    limited("-v 600000", "sql", &new).fails(2, "ulimit -v");
    assert!(!new.exists());
    // What it names is enough.
    limited("-v 1179648", "import", &data).ok();
    assert_eq!(database.number("SELECT COUNT(*) FROM rows"), 20_000);
}

fn check(profile: &str, memory: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for phase in ["load", "replay", "read"] {
        let kib = child(phase, profile, memory, dir.path());
        told.push(format!("{phase} {} MiB", kib >> 10));
        assert!(
            kib <= memory >> 10,
            "{phase} ({profile}): {} MiB of {} MiB; {told:?}",
            kib >> 10,
            memory >> 20
        );
    }
    eprintln!("{profile}, {} MiB allowed: {}", memory >> 20, told.join(", "));
}

/// The peak of a process that does this alone.
fn child(phase: &str, profile: &str, memory: u64, dir: &Path) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::child_process", "--nocapture"])
        .env(CHILD, format!("{phase} {profile} {memory} {}", dir.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().find_map(|line| line.strip_prefix("peak_kib "));
    let told = told.unwrap_or_else(|| panic!("{phase}: {text}\n{output:?}"));
    assert!(output.status.success());
    told.parse().unwrap()
}

/// Does nothing when run as a test of its own.
#[test]
fn child_process() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = what.splitn(4, ' ').collect();
    let [phase, profile, memory, dir] = words.as_slice() else { panic!("{what}") };
    let constants = match *profile {
        "default" => ClusterConstants { journal_ring_bytes: 64 << 20, ..ClusterConstants::DEFAULT },
        _compact => ClusterConstants::COMPACT,
    };
    let options = Options::new().memory(memory.parse().unwrap()).cluster_constants(constants);
    let database = options.open(Path::new(dir).join("data")).unwrap();
    match *phase {
        "load" => load(&database),
        "replay" => assert!(count(&database) > ROWS),
        _read => read(&database, 40),
    }
    println!("\npeak_kib {}", peak_kib());
    if *phase == "read" { database.close().unwrap() } else { database.abandon() }
}

fn load(database: &Verity) {
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, kind BIGINT, pad TEXT)";
    database.execute(create, &[]).unwrap();
    let insert = database.prepare("INSERT INTO t (id, kind, pad) VALUES (?, ?, ?)").unwrap();
    let update = database.prepare("UPDATE t SET pad = ? WHERE id >= ? AND id < ?").unwrap();
    let mut used_max = 0;
    let some_rows = |batch: i64| {
        let rows: Vec<Vec<Value>> = (0..BATCH).map(|n| row(batch * BATCH + n)).collect();
        insert.execute_batch(rows).unwrap();
        database.status().unwrap().journal_used_bytes
    };
    for batch in 0..ROWS / BATCH {
        used_max = used_max.max(some_rows(batch));
        if batch % 8 == 7 {
            let from = scattered(batch * BATCH / 2);
            let pad = Value::Text("u".repeat(2 * PAD));
            update.execute(&[pad, Value::Integer(from), Value::Integer(from + 50)]).unwrap();
        }
        if batch % 400 == 399 {
            read(database, 5);
        }
    }
    assert_eq!(count(database), ROWS);
    assert!(database.status().unwrap().checkpoint.get() > 0, "the load met checkpoints");
    // Killed when the journal is as full as it gets, nearly.
    let mut batch = ROWS / BATCH;
    while some_rows(batch) < used_max / 10 * 7 {
        batch += 1;
        assert!(batch < 2 * ROWS / BATCH, "the journal fills again");
    }
}

fn read(database: &Verity, points: i64) {
    let grouped = "SELECT kind, COUNT(*), MAX(pad) FROM t GROUP BY kind ORDER BY kind";
    assert_eq!(database.query(grouped, &[]).unwrap().rows.len(), 16);
    let sorted = "SELECT id FROM t WHERE kind < 8 ORDER BY pad, id DESC LIMIT 10";
    assert_eq!(database.query(sorted, &[]).unwrap().rows.len(), 10);
    for n in 0..points {
        let sql = "SELECT kind FROM t WHERE id = ?";
        assert_eq!(database.query(sql, &[Value::Integer(scattered(n))]).unwrap().rows.len(), 1);
    }
}

fn count(database: &Verity) -> i64 {
    match database.query("SELECT COUNT(*) FROM t", &[]).unwrap().rows[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("{other:?}"),
    }
}

/// All keys, each once, in no order: the factor and the number of rows have no divisor in common.
fn scattered(n: i64) -> i64 {
    (n * 40_503) % ROWS
}

fn row(n: i64) -> Vec<Value> {
    let pad: String =
        (0..PAD).map(|at| char::from(b'a' + ((n as usize + at) % 23) as u8)).collect();
    let id = if n < ROWS { scattered(n) } else { n };
    vec![Value::Integer(id), Value::Integer(n % 16), Value::Text(pad)]
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
