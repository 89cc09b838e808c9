//! What proofs cost: sizes and times, each beside its limit.
//!
//! ```sh
//! cargo bench -p verity --bench proofs                       # all of it, some minutes
//! VERITY_BENCH_DIR=./bench cargo bench -p verity --bench proofs -- fill
//! VERITY_BENCH_DIR=./bench cargo bench -p verity --bench proofs -- point range index past batch
//! cargo bench -p verity --bench proofs -- sequential random-indexed
//! ```
//!
//! One table of `VERITY_BENCH_ROWS` rows (1,000,000), with an index; one with a history: one key
//! with 100,000 versions. Ratios compare what was measured in the same run, in turns. Exit code 1:
//! a limit was passed.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use verity::proof::{
    LogStart, LogVerifier, Policy, ProofFile, ProofOf, Proved, QueryKind, SignedHeads, verify,
};
use verity::verify::Silent;
use verity::{Options, Position, TenantId, Value, Verity};
use verity_core::crypto::ChainHasher;

/// That of the command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VERSIONS: u64 = 100_000;
/// With three indexes, a transaction of many more could change more pages than one may.
const BATCH: u64 = 100;
/// Rows of one owner, far apart from each other in the table.
const OWNED: u64 = 20;
const SECTIONS: [&str; 7] = ["fill", "point", "range", "index", "past", "batch", "log"];
/// Inserts with attestation beside inserts without: random keys, three indexes, what must be left.
const INSERTS: [(&str, bool, bool, Option<f64>); 4] = [
    ("sequential", false, false, Some(0.7)),
    ("sequential-indexed", false, true, None),
    ("random", true, false, None),
    ("random-indexed", true, true, Some(0.4)),
];

struct Bench {
    database: Verity,
    failed: bool,
}

fn main() {
    let rows: u64 = std::env::var("VERITY_BENCH_ROWS")
        .ok()
        .map_or(1_000_000, |text| text.parse().expect("a number"));
    let named: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let of_proofs = |name: &str| SECTIONS.contains(&name);
    for name in &named {
        let known = of_proofs(name) || INSERTS.iter().any(|(known, ..)| known == name);
        assert!(known, "sections are {SECTIONS:?} and {INSERTS:?}");
    }
    let wanted = |name: &str| named.is_empty() || named.iter().any(|word| word == name);
    let own = tempfile::tempdir().expect("a directory");
    let dir = std::env::var_os("VERITY_BENCH_DIR").map_or(own.path().to_path_buf(), Into::into);
    std::fs::create_dir_all(&dir).expect("a directory");
    let mut failed = false;
    if named.is_empty() || named.iter().any(|name| of_proofs(name)) {
        let path = dir.join("data");
        let database = Options::new().memory(1 << 30).open(&path).expect("a database");
        let mut bench = Bench { database, failed: false };
        bench.fill(rows);
        type Section = fn(&mut Bench, u64);
        let sections: [(&str, Section); 5] = [
            ("point", Bench::point),
            ("range", Bench::range),
            ("index", Bench::index),
            ("past", Bench::past),
            ("batch", Bench::batch),
        ];
        for (name, section) in sections {
            if wanted(name) {
                section(&mut bench, rows);
            }
        }
        if wanted("log") {
            failed |= bench.log(&path, &dir);
        } else {
            failed |= bench.failed;
            bench.close();
        }
    }
    for (name, random, indexed, limit) in INSERTS {
        if wanted(name) {
            failed |= inserts(own.path(), name, random, indexed, limit);
        }
    }
    std::process::exit(i32::from(failed));
}

impl Bench {
    fn fill(&mut self, rows: u64) {
        if self.database.table("versions").expect("a schema").is_some() {
            return;
        }
        let started = Instant::now();
        self.execute(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, email TEXT, amount BIGINT, \
             owner BIGINT)",
        );
        self.execute("CREATE INDEX by_owner ON t (owner)");
        let columns = ["id", "name", "email", "amount", "owner"];
        for first in (0..rows).step_by(BATCH as usize) {
            let values = (first..(first + BATCH).min(rows)).map(|id| row_of(id, rows)).collect();
            self.database.insert_rows("t", &columns, values).expect("rows");
        }
        self.execute("CREATE TABLE versions (id BIGINT PRIMARY KEY, amount BIGINT)");
        self.execute("INSERT INTO versions VALUES (1, 0), (2, 0), (3, 0)");
        for first in (0..VERSIONS).step_by(100) {
            let updates: Vec<String> = (first..first + 100)
                .map(|at| format!("UPDATE versions SET amount = {at} WHERE id = 2"))
                .collect();
            self.execute(&updates.join("; "));
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{rows} rows and {VERSIONS} versions of one row written in {seconds:.1} s");
    }

    /// A point of a million rows: at most 6 KiB, verified in at most 200 µs.
    fn point(&mut self, rows: u64) {
        let mut bytes = Vec::new();
        let mut verify_us = Vec::new();
        for at in 0..200 {
            let key = (at * 7_919_317) % rows;
            let proved = self.prove(&format!("SELECT * FROM t WHERE id = {key}"));
            bytes.push(proved.file.len() as f64);
            verify_us.push(verify_us_of(&proved));
        }
        println!("point proof, bytes (median of 200): {:.0}", median(&mut bytes));
        self.limit("point proof, bytes (largest of 200)", largest(&bytes), 6_144.0);
        self.limit("point proof verified, µs (median)", median(&mut verify_us), 200.0);
        let proved = self.prove("SELECT * FROM t WHERE id = -1");
        self.limit("absence proof, bytes", proved.file.len() as f64, 6_144.0);
    }

    /// 100 rows by primary key: at most three times what the rows are.
    fn range(&mut self, rows: u64) {
        let mut ratios = Vec::new();
        for at in 0..20 {
            let first = (at * 7_919_317) % (rows - 100);
            let sql = format!("SELECT * FROM t WHERE id >= {first} AND id < {}", first + 100);
            let proved = self.prove(&sql);
            let found = self.database.query(&sql, &[]).expect("rows");
            let size: usize = found.rows.iter().flatten().map(size_of_value).sum();
            ratios.push(proved.file.len() as f64 / size as f64);
        }
        self.limit("range proof of 100 rows ÷ their values", median(&mut ratios), 3.0);
        let proved = self.prove("SELECT COUNT(*) FROM t");
        println!("COUNT(*) of all rows: {} bytes", proved.file.len());
    }

    /// The rows of one owner, by an index: at most 2 KiB a row.
    fn index(&mut self, rows: u64) {
        let (mut a_row, mut verify_us) = (Vec::new(), Vec::new());
        for at in 0..20 {
            let owner = (at * 7_919) % (rows / OWNED);
            let proved = self.prove(&format!("SELECT * FROM t WHERE owner = {owner}"));
            a_row.push(proved.file.len() as f64 / OWNED as f64);
            verify_us.push(verify_us_of(&proved));
        }
        self.limit("range of 20 rows by an index, bytes a row", largest(&a_row), 2_048.0);
        println!("the same verified, µs (median): {:.0}", median(&mut verify_us));
    }

    /// One key as of a moment: 100,000 versions against one.
    fn past(&mut self, _rows: u64) {
        let position = self.database.position().expect("a position").get() - VERSIONS / 2;
        let of =
            |key: u64| format!("SELECT * FROM versions AS OF POSITION {position} WHERE id = {key}");
        let (one, many) = (self.prove(&of(1)), self.prove(&of(2)));
        let ratio = many.file.len() as f64 / one.file.len() as f64;
        self.limit("AS OF of a key, 100,000 versions ÷ one, bytes", ratio, 2.0);
        let time = |bench: &Bench, key: u64| {
            let mut times: Vec<f64> = (0..100)
                .map(|_| {
                    let started = Instant::now();
                    bench.prove(&of(key));
                    started.elapsed().as_secs_f64()
                })
                .collect();
            median(&mut times)
        };
        let (one, many) = (time(self, 1), time(self, 2));
        self.limit("AS OF of a key, 100,000 versions ÷ one, time", many / one, 2.0);
    }

    /// Proved point reads of one state: one attestation for all.
    fn batch(&mut self, rows: u64) {
        let count = 5_000;
        // The first round reads what the cache does not hold yet.
        for name in ["pages read first", "again"] {
            let started = Instant::now();
            for at in 0..count {
                self.prove(&format!("SELECT * FROM t WHERE id = {}", (at * 104_729) % rows));
            }
            let rate = count as f64 / started.elapsed().as_secs_f64();
            println!("proved point reads, one a proof, {name}: {rate:.0}/s");
        }
        let (files, a_file) = (50, 100);
        // Other rows than above, then the same once more.
        for name in ["pages read first", "again"] {
            let (started, mut bytes) = (Instant::now(), 0);
            for file in 0..files {
                let key = |at: u64| ((file * a_file + at) * 104_729 + 50_021) % rows;
                let keys: Vec<String> = (0..a_file).map(|at| key(at).to_string()).collect();
                bytes += self
                    .prove(&format!("SELECT * FROM t WHERE id IN ({})", keys.join(", ")))
                    .file
                    .len();
            }
            let rate = (files * a_file) as f64 / started.elapsed().as_secs_f64();
            println!(
                "proved point reads, 100 a proof, {name}: {rate:.0}/s, {} bytes each",
                bytes as u64 / (files * a_file)
            );
            let what = format!("5,000/s ÷ proved point reads/s, 100 a proof, {name}");
            self.limit(&what, 5_000.0 / rate, 1.0);
        }
    }

    /// Records verified offline, from a file that proves them, beside SHA-256 of the same bytes.
    fn log(self, data: &Path, dir: &Path) -> bool {
        let of = ProofOf::Query(QueryKind::Event { position: Position::ZERO });
        let Bench { database, mut failed } = self;
        let proved = database.prove_of(of, None).expect("a proof");
        database.close().expect("a clean end");
        let policy = Policy::parse(&proved.policy).expect("a policy");
        let heads = SignedHeads::read(&proved.file, &policy).expect("it holds");
        let (tenant, head) = heads.tenant.expect("of a tenant");
        let proof = ProofFile::decode(&proved.file).expect("a proof");
        let start = LogStart { tenant, head: Some(proof.head), note: proof.note };
        let path = dir.join("exported");
        let file = std::fs::File::create(&path).expect("a file");
        let mut out = std::io::BufWriter::new(file);
        verity::export::export(data, &start, head.size, &head.root, &mut Silent, &mut out)
            .expect("an export");
        drop(out);
        let mut verifier = LogVerifier::new(policy, tenant);
        let (mut hashing, mut verifying) = (Duration::ZERO, Duration::ZERO);
        let mut file = std::fs::File::open(&path).expect("a file");
        let mut hasher = ChainHasher::new();
        let mut chunk = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut chunk).expect("bytes");
            if count == 0 {
                break;
            }
            bytes += count;
            let started = Instant::now();
            hasher.update(&chunk[..count]);
            hashing += started.elapsed();
            let started = Instant::now();
            verifier.push(&chunk[..count]).expect("it holds");
            verifying += started.elapsed();
        }
        let log = verifier.finish().expect("it holds");
        std::hint::black_box(hasher.finish());
        println!(
            "exported log: {} records, {} bytes each, verified at {:.0} MB/s",
            log.records,
            bytes as u64 / log.records,
            bytes as f64 / verifying.as_secs_f64() / 1e6,
        );
        let ratio = hashing.as_secs_f64() / verifying.as_secs_f64();
        let what = "verified log ÷ SHA-256 of its bytes, one core";
        failed |= !told(what, ratio, "at least", 0.5, ratio >= 0.5);
        let mut ratios: Vec<f64> = (0..7).map(|_| threads(&path, &proved, tenant)).collect();
        let what = "the same with the file read, as `verity verify` does it: other threads help";
        let ratio = median(&mut ratios);
        failed |= !told(what, ratio, "at least", 0.5, ratio >= 0.5);
        std::fs::remove_file(path).expect("it is there");
        failed
    }

    fn close(self) {
        self.database.close().expect("a clean end");
    }

    fn execute(&self, sql: &str) {
        self.database.execute(sql, &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    fn prove(&self, sql: &str) -> Proved {
        self.database.prove(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn limit(&mut self, what: &str, found: f64, limit: f64) {
        self.failed |= !told(what, found, "at most", limit, found <= limit);
    }
}

/// Time to hash the file on one thread ÷ time to verify it.
fn threads(path: &Path, proved: &Proved, tenant: TenantId) -> f64 {
    let policy = Policy::parse(&proved.policy).expect("a policy");
    let mut file = std::fs::File::open(path).expect("a file");
    let (mut hasher, mut chunk) = (ChainHasher::new(), vec![0; 1 << 20]);
    let started = Instant::now();
    loop {
        let count = file.read(&mut chunk).expect("bytes");
        if count == 0 {
            break;
        }
        hasher.update(&chunk[..count]);
    }
    std::hint::black_box(hasher.finish());
    let hashing = started.elapsed();
    let mut file = std::fs::File::open(path).expect("a file");
    let started = Instant::now();
    let log = verity::export::verify(&mut file, policy, tenant, &mut Silent).expect("bytes");
    log.expect("it holds");
    hashing.as_secs_f64() / started.elapsed().as_secs_f64()
}

fn told(what: &str, found: f64, bound: &str, limit: f64, ok: bool) -> bool {
    let verdict = if ok { "ok" } else { "MISSED" };
    println!("{what}: {found:.2}, {bound} {limit:.2}: {verdict}");
    ok
}

fn row_of(id: u64, rows: u64) -> Vec<Value> {
    let integer = |number: u64| Value::Integer(number as i64);
    let (name, email) = (format!("customer {id}"), format!("customer.{id}@mail.example"));
    let owner = id % (rows / OWNED);
    vec![integer(id), Value::text(&name), Value::text(&email), integer(id * 7), integer(owner)]
}

/// Clients of one thread that insert single rows, each waiting for its answer.
const CLIENTS: usize = 32;
/// Turns, each of one piece without and one with attestation.
const ROUNDS: usize = 3;
const PIECE: Duration = Duration::from_millis(2_500);
const FILLED: u64 = 100_000;

/// What is left of the rate of inserts when the state is attested every second.
fn inserts(dir: &Path, name: &str, random: bool, indexed: bool, limit: Option<f64>) -> bool {
    let mut sides = [None, Some(Duration::from_secs(1))].map(|every| {
        let path = dir.join(format!("{name}-{}", every.is_some()));
        Inserting::open(&path, random, indexed, every)
    });
    // The first of each pays for buffers that grow.
    for side in &mut sides {
        side.piece(Duration::from_millis(500));
    }
    let mut ratios = Vec::new();
    let mut waits: [Vec<Duration>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let mut rates = [0.0; 2];
        for (at, side) in sides.iter_mut().enumerate() {
            let calls = side.piece(PIECE);
            rates[at] = calls.len() as f64 / PIECE.as_secs_f64();
            waits[at].extend(calls);
        }
        println!("{name}: {:.0} rows/s, with attestation {:.0} rows/s", rates[0], rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    for (waits, what) in waits.iter_mut().zip(["without", "with"]) {
        waits.sort_unstable();
        let ms = |part: usize| {
            let at = (waits.len() * part / 10_000).min(waits.len() - 1);
            waits[at].as_secs_f64() * 1e3
        };
        println!(
            "{name}, {what} attestation: an insert waits {:.2} ms p50, {:.2} p99, {:.2} p99.99, \
             {:.2} at most",
            ms(5_000),
            ms(9_900),
            ms(9_999),
            ms(10_000),
        );
    }
    for side in sides {
        side.database.close().expect("a clean end");
    }
    let what = format!("inserts with attestation ÷ without, {name}");
    let ratio = median(&mut ratios);
    if let Some(limit) = limit {
        return !told(&what, ratio, "at least", limit, ratio >= limit);
    }
    println!("{what}: {ratio:.2}");
    false
}

struct Inserting {
    database: Verity,
    random: bool,
    next: u64,
}

const COLUMNS: [&str; 5] = ["id", "name", "email", "amount", "owner"];

impl Inserting {
    fn open(path: &Path, random: bool, indexed: bool, every: Option<Duration>) -> Inserting {
        let options = Options::new().memory(1 << 30).attest_after(every);
        let database = options.open(path).expect("a database");
        let columns = "id BIGINT PRIMARY KEY, name TEXT, email TEXT, amount BIGINT, owner BIGINT";
        let execute = |sql: &str| database.execute(sql, &[]).expect("a schema");
        execute(&format!("CREATE TABLE t ({columns})"));
        if indexed {
            for column in ["name", "amount", "owner"] {
                execute(&format!("CREATE INDEX by_{column} ON t ({column})"));
            }
        }
        let mut inserting = Inserting { database, random, next: 0 };
        for _ in (0..FILLED).step_by(BATCH as usize) {
            let rows = (0..BATCH).map(|_| inserting.row()).collect();
            inserting.database.insert_rows("t", &COLUMNS, rows).expect("rows");
        }
        inserting
    }

    fn row(&mut self) -> Vec<Value> {
        let at = self.next;
        self.next += 1;
        // All over the range; the multipliers are odd, so no two are alike.
        let mixed = |odd: u64| at.wrapping_mul(odd).rotate_left(29) as i64;
        let mut row = row_of(at, u64::MAX);
        if self.random {
            row[0] = Value::Integer(mixed(0x9e37_79b9_7f4a_7c15));
            row[1] = Value::text(&format!("{:016x}", mixed(0xbf58_476d_1ce4_e5b9)));
            row[3] = Value::Integer(mixed(0x94d0_49bb_1331_11eb));
            row[4] = Value::Integer(mixed(0xd6e8_feb8_6659_fd93));
        }
        row
    }

    /// How long each insert waited.
    fn piece(&mut self, length: Duration) -> Vec<Duration> {
        let until = Instant::now() + length;
        let this = std::cell::RefCell::new(self);
        let clients = (0..CLIENTS).map(async |_| {
            let mut waits = Vec::new();
            loop {
                let started = Instant::now();
                if started >= until {
                    return waits;
                }
                let sent = {
                    let mut this = this.borrow_mut();
                    let row = this.row();
                    this.database.insert_rows_async("t", &COLUMNS, vec![row])
                };
                sent.await.expect("a row");
                waits.push(started.elapsed());
            }
        });
        futures_executor::block_on(futures_util::future::join_all(clients)).concat()
    }
}

/// Time to verify, best of five.
fn verify_us_of(proved: &Proved) -> f64 {
    let policy = Policy::parse(&proved.policy).expect("a policy");
    let times = (0..5).map(|_| {
        let started = Instant::now();
        verify(&proved.query, &proved.file, &policy).expect("it holds");
        started.elapsed().as_secs_f64() * 1e6
    });
    times.fold(f64::INFINITY, f64::min)
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Text(text) => text.len(),
        _ => 8,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
