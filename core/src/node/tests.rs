//! The node on a disk that keeps every completed write: format, serve, stop, crash, open again.
//! Faults are the simulator's business; here the phases and their order are.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::crypto::MasterKey;
use crate::crypto::seal::{unwrap_key, wrap_key};
use crate::ids::{IdempotencyId, PrincipalId, ReplicaId, TenantId};
use crate::io::{Effect, FileId};
use crate::kernel::{ExpectedVersion, Operation};
use crate::limits::ClusterConstants;
use crate::query::{PointScratch, SqlState, Value};
use crate::time::{Instant, Timestamp};

mod amid;
mod attesting;
mod crowd;
mod jobs;
mod retries;

struct Disk {
    files: BTreeMap<FileId, Vec<u8>>,
    master: MasterKey,
    wraps: u8,
    pending: VecDeque<Input>,
    events: Vec<&'static str>,
    now: Clock,
}

impl Disk {
    fn new() -> Disk {
        Disk {
            files: BTreeMap::new(),
            master: MasterKey::parse(&[7; 32]).unwrap(),
            wraps: 0,
            pending: VecDeque::new(),
            events: Vec::new(),
            now: Clock {
                monotonic: Instant(1),
                wall: Timestamp(1_800_000_000 * crate::time::SECOND_NS),
            },
        }
    }

    fn take(&mut self, effects: &mut Effects) {
        for effect in effects.drain() {
            let input = match effect {
                Effect::Read { io, at, mut pages } => {
                    let file = &self.files[&at.file];
                    let bytes = pages.as_bytes_mut();
                    bytes.fill(0);
                    let start = (at.offset as usize).min(file.len());
                    let end = (start + bytes.len()).min(file.len());
                    bytes[..end - start].copy_from_slice(&file[start..end]);
                    Input::ReadDone { io, pages, result: Ok(()) }
                }
                Effect::Write { io, at, pages, durable: _ } => {
                    let file = self.files.get_mut(&at.file).unwrap();
                    let end = at.offset as usize + pages.size_bytes();
                    if file.len() < end {
                        file.resize(end, 0);
                    }
                    file[at.offset as usize..end].copy_from_slice(pages.as_bytes());
                    Input::WriteDone { io, pages, result: Ok(()) }
                }
                Effect::Create { io, file } => {
                    self.files.entry(file).or_default();
                    Input::Done { io, result: Ok(()) }
                }
                Effect::Sync { io, .. } => Input::Done { io, result: Ok(()) },
                Effect::Remove { io, file } => {
                    self.files.remove(&file);
                    Input::Done { io, result: Ok(()) }
                }
                Effect::Wrap { io, purpose, key } => {
                    self.wraps += 1;
                    let key = wrap_key(&self.master, [self.wraps; 12], purpose, &key);
                    Input::Wrapped { io, key: Ok(key) }
                }
                Effect::Unwrap { io, purpose, key } => {
                    Input::Unwrapped { io, key: unwrap_key(&self.master, purpose, &key) }
                }
                Effect::Send { .. } => panic!("one replica has no peers"),
                Effect::Event(event) => {
                    self.events.push(event.name());
                    continue;
                }
            };
            self.pending.push_back(input);
        }
    }

    fn format(&mut self, constants: ClusterConstants) {
        let mut effects = Effects::new();
        let options = FormatOptions {
            cluster: None,
            replica: ReplicaId::ZERO,
            replica_count: 1,
            release: CURRENT_RELEASE,
            constants,
        };
        let mut format = Format::start(options, &Seed([1; 32]), &mut effects).unwrap();
        self.take(&mut effects);
        while let Some(input) = self.pending.pop_front() {
            format.step(input, &mut effects).unwrap();
            self.take(&mut effects);
        }
        assert!(format.is_done());
    }

    fn open(&mut self, config: &Config) -> Node {
        self.pending.clear();
        let mut effects = Effects::new();
        let mut node = Node::open(config, &Seed([2; 32]), &mut effects);
        self.take(&mut effects);
        self.settle(&mut node);
        node
    }

    /// Feeds completions and ticks until nothing is pending.
    fn settle(&mut self, node: &mut Node) {
        let mut effects = Effects::new();
        for _ in 0..200_000 {
            self.now.monotonic = self.now.monotonic.plus_ns(10_000);
            self.now.wall = self.now.wall.plus_ns(10_000);
            match self.pending.pop_front() {
                Some(input) => node.step(self.now, input, &mut effects),
                None => {
                    let Some(deadline) = node.deadline() else { return };
                    self.now.monotonic = self.now.monotonic.max(deadline);
                    node.step(self.now, Input::Tick, &mut effects);
                }
            }
            self.take(&mut effects);
        }
        panic!("the node does not come to rest");
    }

    fn ask(&mut self, node: &mut Node, request: Request) -> Result<Reply, RequestError> {
        let mut effects = Effects::new();
        let ticket = node.submit(self.now, request, &mut effects);
        self.take(&mut effects);
        self.settle(node);
        let (answered, reply) = node.next_reply().expect("a reply");
        assert_eq!(answered, ticket);
        reply
    }

    fn shut_down(&mut self, mut node: Node) {
        let mut effects = Effects::new();
        node.shutdown(self.now, &mut effects);
        self.take(&mut effects);
        self.settle(&mut node);
        assert_eq!(node.halted(), Some(&Halt::Shutdown), "{:?}", self.events);
    }
}

fn config() -> Config {
    Config { memory: Memory::CleanPages(256), ..Config::new(ReplicaId::ZERO) }
}

fn append(stream: &str, expected: ExpectedVersion, records: &[&str]) -> Request {
    Request {
        tenant: TenantId::DEFAULT,
        principal: PrincipalId::ZERO,
        idempotency: IdempotencyId::NONE,
        after: None,
        operations: vec![Operation::Append {
            stream: stream.to_string(),
            expected,
            records: records.iter().map(|record| record.as_bytes().to_vec()).collect(),
        }],
    }
}

fn sql(text: &str, params: &[Value]) -> Request {
    let operation = Operation::Sql { text: String::from(text), params: params.to_vec() };
    Request { operations: vec![operation], ..append("-", ExpectedVersion::Any, &["-"]) }
}

#[test]
fn what_was_acknowledged_survives_a_stop_and_a_crash() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    assert!(node.is_ready(), "{:?} {:?}", node.halted(), disk.events);
    for version in 0..5 {
        let request = append("visits", ExpectedVersion::Exact(version), &["a visit"]);
        assert!(disk.ask(&mut node, request).is_ok());
    }
    disk.shut_down(node);

    let mut node = disk.open(&config());
    assert!(node.is_ready(), "{:?} {:?}", node.halted(), disk.events);
    let stale = append("visits", ExpectedVersion::Exact(4), &["too late"]);
    assert!(matches!(
        disk.ask(&mut node, stale),
        Err(RequestError::WrongExpectedVersion { actual: 5, .. })
    ));
    assert!(disk.ask(&mut node, append("visits", ExpectedVersion::Exact(5), &["b"])).is_ok());
    drop(node); // a crash: no shutdown, the journal has it

    let mut node = disk.open(&config());
    assert!(node.is_ready(), "{:?} {:?}", node.halted(), disk.events);
    assert!(disk.ask(&mut node, append("visits", ExpectedVersion::Exact(6), &["c"])).is_ok());
}

#[test]
fn checkpoints_and_wraps_of_the_ring_lose_nothing() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut version = 0;
    for round in 0..6 {
        let evict_everything = round % 2 == 1;
        let mut node = disk.open(&Config { evict_everything, ..config() });
        assert!(node.is_ready(), "round {round}: {:?}", node.halted());
        for _ in 0..20 {
            let large = "x".repeat(100_000);
            let request = append("large", ExpectedVersion::Exact(version), &[&large]);
            assert_eq!(disk.ask(&mut node, request).map(|_| ()), Ok(()), "round {round}");
            version += 1;
        }
        if round % 3 == 0 {
            disk.shut_down(node);
        }
    }
    assert!(disk.events.contains(&"CheckpointDurable"), "{:?}", disk.events);
}

#[test]
fn a_wrong_master_key_changes_nothing() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let before = disk.files.clone();
    disk.master = MasterKey::parse(&[8; 32]).unwrap();
    let node = disk.open(&config());
    assert_eq!(node.halted(), Some(&Halt::Key(crate::io::KeyError::WrongMasterKey)));
    assert!(disk.files == before);
    disk.master = MasterKey::parse(&[7; 32]).unwrap();
    assert!(disk.open(&config()).is_ready());
}

#[test]
fn sql_writes_are_transactions() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let create = "CREATE TABLE patients (id BIGINT PRIMARY KEY, name TEXT NOT NULL)";
    assert_eq!(disk.ask(&mut node, sql(create, &[])).map(|_| ()), Ok(()));
    let insert = "INSERT INTO patients VALUES (1, 'Ana'), (2, 'Bo')";
    assert_eq!(disk.ask(&mut node, sql(insert, &[])).unwrap().rows_affected(), 2);
    let doubled = "INSERT INTO patients VALUES (3, 'Cy'), (1, 'again')";
    assert!(matches!(disk.ask(&mut node, sql(doubled, &[])), Err(RequestError::Sql(_))));
    let update = "UPDATE patients SET name = 'Bob' WHERE id = 2";
    assert_eq!(disk.ask(&mut node, sql(update, &[])).unwrap().rows_affected(), 1);
    let delete = "DELETE FROM patients WHERE name = 'Ana'";
    assert_eq!(disk.ask(&mut node, sql(delete, &[])).unwrap().rows_affected(), 1);
    drop(node);
    let mut node = disk.open(&config());
    assert_eq!(disk.ask(&mut node, sql("DELETE FROM patients", &[])).unwrap().rows_affected(), 1);
}

impl Disk {
    fn ask_sealed(
        &mut self,
        node: &mut Node,
        sealed: SealedRequest,
    ) -> Result<Reply, RequestError> {
        let mut effects = Effects::new();
        let ticket = node.enqueue_sealed(sealed);
        node.run(self.now, &mut effects);
        self.take(&mut effects);
        // The record is sealed while the disk works; what follows must find it right.
        node.work_ahead();
        self.settle(node);
        let (answered, reply) = node.next_reply().expect("a reply");
        assert_eq!(answered, ticket);
        reply
    }
}

fn insert_row(table: &str, id: i64, name: &str) -> Request {
    let operation = Operation::InsertRows {
        table: table.to_string(),
        columns: vec!["id".to_string(), "name".to_string()],
        rows: vec![vec![Value::Integer(id), Value::text(name)]],
    };
    Request { operations: vec![operation], ..append("-", ExpectedVersion::Any, &["-"]) }
}

#[test]
fn callers_seal_what_the_node_would_seal_and_nothing_else() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let create = "CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL)";
    disk.ask(&mut node, sql(create, &[])).unwrap();
    let sealer = node.sealer(TenantId::DEFAULT).expect("the schema is at hand");
    assert!(node.sealer_holds(&sealer));
    let now = disk.now.wall;
    let seal = |request: &Request, nonce: u8| sealer.seal(request, now, [nonce; 12]);

    let id = dated(&disk, 1).idempotency;
    let row = Request { idempotency: id, ..insert_row("p", 1, "Ana") };
    let first = disk.ask_sealed(&mut node, seal(&row, 1).unwrap()).unwrap();
    assert_eq!(first.rows_affected(), 1);
    // The same request, sealed by the node: the same fingerprint, so it is known.
    let again = disk.ask(&mut node, row).unwrap();
    assert!(again.replayed && again.position == first.position);
    // A duplicate is refused when it is applied.
    let doubled = disk.ask_sealed(&mut node, seal(&insert_row("p", 1, "Bo"), 2).unwrap());
    assert!(matches!(doubled, Err(RequestError::Sql(_))), "{doubled:?}");
    let record = append("visits", ExpectedVersion::Exact(0), &["a"]);
    assert!(disk.ask_sealed(&mut node, seal(&record, 3).unwrap()).is_ok());
    // What must be refused, or parsed, is the node's business.
    assert!(seal(&insert_row("nowhere", 1, "x"), 4).is_none());
    assert!(seal(&sql("DELETE FROM p", &[]), 5).is_none());
    assert!(seal(&Request { operations: Vec::new(), ..record }, 6).is_none());
    let rows = select(&mut disk, &mut node, "SELECT name FROM p").unwrap();
    assert_eq!(rows.rows, vec![vec![Value::text("Ana")]]);

    // After a change of schema it is told, and does no harm.
    let stale = seal(&insert_row("p", 2, "Cy"), 7).unwrap();
    disk.ask(&mut node, sql("DROP TABLE p", &[])).unwrap();
    disk.ask(&mut node, sql(create, &[])).unwrap();
    assert!(!node.sealer_holds(&sealer));
    let Err(RequestError::Sql(error)) = disk.ask_sealed(&mut node, stale) else {
        panic!("a row of a table that is gone")
    };
    assert_eq!(error.code, SqlState::SchemaChanged);
    let count = select(&mut disk, &mut node, "SELECT COUNT(*) FROM p").unwrap();
    assert_eq!(count.rows, vec![vec![Value::Integer(0)]]);

    assert!(node.sealer(TenantId::new(77)).is_none());
    disk.shut_down(node);
}

fn select(disk: &mut Disk, node: &mut Node, text: &str) -> Result<ReadResult, ReadError> {
    let mut read = Read::sql(TenantId::DEFAULT, text, Vec::new());
    let mut effects = Effects::new();
    for _ in 0..10_000 {
        let progress = node.read(disk.now, &mut read, &mut effects);
        disk.take(&mut effects);
        match progress {
            Progress::Ready => return read.finish(),
            Progress::Yielded | Progress::Behind | Progress::Waiting => disk.settle(node),
        }
    }
    panic!("the read does not end");
}

#[test]
fn reads_see_snapshots_and_the_past() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    for evict_everything in [false, true] {
        let mut node = disk.open(&Config { evict_everything, ..config() });
        let create = "CREATE TABLE IF NOT EXISTS t (id BIGINT PRIMARY KEY, v TEXT)";
        disk.ask(&mut node, sql(create, &[])).unwrap();
        disk.ask(&mut node, sql("DELETE FROM t", &[])).unwrap();
        let one = disk.ask(&mut node, sql("INSERT INTO t VALUES (1, 'a'), (2, 'b')", &[])).unwrap();
        let two = disk.ask(&mut node, sql("UPDATE t SET v = 'c' WHERE id = 2", &[])).unwrap();
        let rows = select(&mut disk, &mut node, "SELECT v FROM t WHERE id = 2").unwrap();
        assert_eq!(rows.rows, vec![vec![Value::text("c")]]);
        assert_eq!(Some(rows.position), two.position);
        let old = format!("SELECT v FROM t AS OF POSITION {} WHERE id = 2", one.position.unwrap());
        let rows = select(&mut disk, &mut node, &old).unwrap();
        assert_eq!(rows.rows, vec![vec![Value::text("b")]]);
        let inside = one.position.unwrap().get() - 1;
        let inside = format!("SELECT COUNT(*) FROM t AS OF POSITION {inside}");
        let rows = select(&mut disk, &mut node, &inside).unwrap();
        assert_eq!(rows.rows, vec![vec![Value::Integer(0)]]);
        let count = select(&mut disk, &mut node, "SELECT COUNT(*) FROM t").unwrap();
        assert_eq!(count.rows, vec![vec![Value::Integer(2)]]);
        let events = select(&mut disk, &mut node, "SELECT position, kind FROM __events").unwrap();
        assert!(events.rows.len() >= 4, "{:?}", events.rows);
        let future = select(&mut disk, &mut node, "SELECT * FROM t AS OF POSITION 99999");
        assert!(matches!(future, Err(ReadError::Sql(_))));
        disk.shut_down(node);
    }
}

/// A table had columns that the one which has its name now does not have.
#[test]
fn the_past_is_read_by_the_columns_it_had() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let mut ask = |disk: &mut Disk, text: &str| {
        disk.ask(&mut node, sql(text, &[])).unwrap().position.unwrap()
    };
    let mut positions = Vec::new();
    for of in ["a BIGINT, b TEXT", "c TEXT", "a BIGINT"] {
        ask(&mut disk, &format!("CREATE TABLE t (id BIGINT PRIMARY KEY, {of})"));
        positions.push(ask(&mut disk, "INSERT INTO t (id) VALUES (1)"));
        if positions.len() < 3 {
            ask(&mut disk, "DROP TABLE t");
        }
    }
    let read = |disk: &mut Disk, node: &mut Node, text: &str, at: usize| {
        let (what, filter) = text.split_once(" FROM t").unwrap();
        let text = format!("{what} FROM t AS OF POSITION {}{filter}", positions[at]);
        select(disk, node, &text)
    };
    for (text, there) in [
        ("SELECT b FROM t", [true, false, false]),
        ("SELECT id FROM t WHERE b IS NULL", [true, false, false]),
        ("SELECT a + 1 FROM t", [true, false, true]),
        ("SELECT c || 'x' FROM t WHERE c IS NULL", [false, true, false]),
        ("SELECT id FROM t WHERE d = 1", [false, false, false]),
    ] {
        let was: Vec<bool> =
            (0..3).map(|at| read(&mut disk, &mut node, text, at).is_ok()).collect();
        assert_eq!(was, there, "{text}");
    }
    assert!(select(&mut disk, &mut node, "SELECT b FROM t").is_err(), "not as of now");
}

/// The hot path of AS OF serves once the long way has seen a transaction end there, and only then;
/// both give the same rows at every position.
#[test]
fn hot_reads_of_the_past_equal_the_long_way() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    for text in [
        "CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "UPDATE t SET v = v || 'x' WHERE id < 3",
        "DELETE FROM t WHERE id = 2",
        "ALTER TABLE t ADD COLUMN n BIGINT DEFAULT 7",
        "INSERT INTO t VALUES (2, 'd', 8), (4, 'e', 9)",
        "UPDATE t SET n = n + 1",
    ] {
        disk.ask(&mut node, sql(text, &[])).unwrap();
    }
    let mut bind =
        Read::bind(TenantId::DEFAULT, "SELECT v, n FROM t AS OF POSITION $1 WHERE id = $2");
    assert_eq!(node.read(disk.now, &mut bind, &mut Effects::new()), Progress::Ready);
    let prepared = bind.finish().unwrap().prepared;
    let first = select(&mut disk, &mut node, "SELECT created_at FROM __tables").unwrap();
    let Value::Integer(first) = first.rows[0][0] else { panic!("a position") };
    let newest = select(&mut disk, &mut node, "SELECT 1").unwrap().position.get() as i64;
    let (mut scratch, mut row) = (PointScratch::default(), Vec::new());
    let (mut inside, mut found) = (0, 0);
    for position in first..=newest {
        for id in 1..=5 {
            let parameters = [Value::Integer(position), Value::Integer(id)];
            let mut hot = |node: &mut Node, row: &mut Vec<Value>| {
                node.read_point(TenantId::DEFAULT, &prepared, &parameters, &mut scratch, row)
            };
            let early = hot(&mut node, &mut row);
            assert!(early.is_none() || id > 1 || position == newest, "nobody has looked yet");
            let text = format!("SELECT v, n FROM t AS OF POSITION {position} WHERE id = {id}");
            let long = select(&mut disk, &mut node, &text).unwrap();
            let Some(read) = hot(&mut node, &mut row) else {
                assert!(long.asked.is_some(), "position {position}");
                inside += 1;
                continue;
            };
            assert_eq!((read.position, long.asked), (long.position, None));
            assert_eq!(read.found, !long.rows.is_empty());
            assert_eq!(Vec::from_iter(read.found.then(|| row.clone())), long.rows);
            found += u32::from(read.found);
        }
    }
    assert!(inside >= 10 && found >= 15, "{inside} inside a transaction, {found} found");
    disk.shut_down(node);
}

#[test]
fn a_disk_that_is_nearly_full_refuses_writes_and_serves_reads() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let mut effects = Effects::new();
    node.step(disk.now, Input::Space { free_bytes: 1 << 20 }, &mut effects);
    let refused = disk.ask(&mut node, append("a", ExpectedVersion::Any, &["x"]));
    assert_eq!(refused, Err(RequestError::Retry(RetryReason::DiskFull)));
    assert!(select(&mut disk, &mut node, "SELECT COUNT(*) FROM __tables").is_ok());
    node.step(disk.now, Input::Space { free_bytes: 1 << 40 }, &mut effects);
    assert!(disk.ask(&mut node, append("a", ExpectedVersion::Any, &["x"])).is_ok());
}

#[test]
fn a_full_disk_gives_what_is_on_record() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    let (done, new) = (dated(&disk, 1), dated(&disk, 2));
    let first = disk.ask(&mut node, done.clone()).unwrap();
    let refusal = || Err(RequestError::Retry(RetryReason::DiskFull));
    let other = Request { idempotency: done.idempotency, ..sql("DROP TABLE nothing", &[]) };
    for _ in 0..2 {
        node.step(disk.now, Input::Space { free_bytes: 1 << 20 }, &mut Effects::new());
        let again = disk.ask(&mut node, done.clone()).unwrap();
        assert_eq!((again.position, again.replayed), (first.position, true));
        assert_eq!(disk.ask(&mut node, new.clone()), refusal());
        let reused = Err(RequestError::IdempotencyReused { id: done.idempotency });
        assert_eq!(disk.ask(&mut node, other.clone()), reused);
        // The same of those who seal for themselves.
        let sealer = node.sealer(TenantId::DEFAULT).expect("the schema is at hand");
        let seal = |request: &Request| sealer.seal(request, disk.now.wall, [7; 12]).unwrap();
        let (done_sealed, new_sealed) = (seal(&done), seal(&new));
        let again = disk.ask_sealed(&mut node, done_sealed).unwrap();
        assert_eq!((again.position, again.replayed), (first.position, true));
        assert_eq!(disk.ask_sealed(&mut node, new_sealed), refusal());
        // And after a crash, by whoever asks again.
        drop(node);
        node = disk.open(&config());
    }
    node.step(disk.now, Input::Space { free_bytes: 1 << 40 }, &mut Effects::new());
    assert!(!disk.ask(&mut node, new).unwrap().replayed);
}

/// A request whose id may be used for one day from now on.
fn dated(disk: &Disk, serial: u8) -> Request {
    let not_after_ms = disk.now.wall.as_ms() + 24 * 3_600_000;
    let idempotency = IdempotencyId::new(not_after_ms, [serial; 10]);
    Request { idempotency, ..append("dated", ExpectedVersion::Any, &["x"]) }
}

#[test]
fn a_database_that_was_closed_for_months_serves_at_once() {
    let day_ns = 24 * 3600 * crate::time::SECOND_NS;
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let node = disk.open(&config());
    disk.shut_down(node);
    for (serial, days) in [10, 100, 179].into_iter().enumerate() {
        disk.now.wall = disk.now.wall.plus_ns(days * day_ns);
        let mut node = disk.open(&config());
        assert!(node.is_ready(), "{:?}", node.halted());
        let request = dated(&disk, serial as u8);
        assert!(disk.ask(&mut node, request.clone()).is_ok(), "after {days} days");
        drop(node);
        // What was answered is remembered across the next stop.
        let mut node = disk.open(&config());
        assert!(disk.ask(&mut node, request).is_ok());
    }
}

#[test]
fn an_absurd_clock_is_refused_until_the_operator_accepts_it() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    // The first open has nothing to compare with but the calendar.
    let right = disk.now.wall;
    disk.now.wall = Timestamp(7_258_118_400 * crate::time::SECOND_NS); // 2200-01-01
    let node = disk.open(&config());
    let text = node.halted().map(ToString::to_string).unwrap();
    assert!(text.contains("2200-01-01") && text.contains("2100-01-01"), "{text}");
    disk.now.wall = right;
    let mut node = disk.open(&config());
    let request = dated(&disk, 0);
    assert!(disk.ask(&mut node, request).is_ok());
    disk.shut_down(node);

    let far = right.plus_ns(181 * 24 * 3600 * crate::time::SECOND_NS);
    disk.now.wall = far;
    let node = disk.open(&config());
    assert!(
        matches!(node.halted(), Some(Halt::Clock { last: Some(_), .. })),
        "{:?}",
        node.halted()
    );
    let text = node.halted().map(ToString::to_string).unwrap();
    assert!(text.contains("2027-01-15") && text.contains("--accept-clock"), "{text}");
    // The clock is set right: nothing was harmed.
    disk.now.wall = right.plus_ns(crate::time::SECOND_NS);
    let mut node = disk.open(&config());
    let request = dated(&disk, 1);
    assert!(disk.ask(&mut node, request).is_ok());
    disk.shut_down(node);
    // The clock is right: the operator says so, once.
    disk.now.wall = far;
    let mut node = disk.open(&Config { accept_clock: true, ..config() });
    let request = dated(&disk, 2);
    assert!(disk.ask(&mut node, request).is_ok());
    drop(node);
    assert!(disk.open(&config()).is_ready());
}

/// The process dies right after each recovery op, a thousand times.
#[test]
fn crashes_after_every_recovery_never_lock_a_node_out() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants {
        journal_ring_bytes: crate::limits::JOURNAL_RING_BYTES_MIN,
        ..ClusterConstants::SMALL
    });
    for _ in 0..1_100 {
        disk.pending.clear();
        disk.events.clear();
        let mut effects = Effects::new();
        let mut node = Node::open(&config(), &Seed([2; 32]), &mut effects);
        disk.take(&mut effects);
        while !disk.events.contains(&"PrepareProposed") {
            let input = disk.pending.pop_front().expect("the node goes on");
            node.step(disk.now, input, &mut effects);
            disk.take(&mut effects);
        }
    }
    let mut node = disk.open(&config());
    assert!(node.is_ready(), "{:?} {:?}", node.halted(), disk.events);
    assert!(disk.ask(&mut node, append("a", ExpectedVersion::Any, &["x"])).is_ok());
}

#[test]
fn dropped_tables_are_read_as_of_before() {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    for evict_everything in [false, true] {
        let mut node = disk.open(&Config { evict_everything, ..config() });
        let ask = |disk: &mut Disk, node: &mut Node, text: &str| {
            disk.ask(node, sql(text, &[])).unwrap().position.unwrap().get()
        };
        let texts = |rows: ReadResult| -> Vec<String> {
            rows.rows.iter().map(|row| format!("{}", row[0])).collect()
        };
        let other = "CREATE TABLE IF NOT EXISTS other (id BIGINT PRIMARY KEY)";
        let before = ask(&mut disk, &mut node, other);
        ask(&mut disk, &mut node, "CREATE TABLE d (id BIGINT PRIMARY KEY, v TEXT)");
        let one = ask(&mut disk, &mut node, "INSERT INTO d VALUES (1, 'a'), (2, 'b')");
        let two = ask(&mut disk, &mut node, "UPDATE d SET v = 'c' WHERE id = 2");
        let dropped = ask(&mut disk, &mut node, "DROP TABLE d");
        let at = |position: u64| format!("SELECT v FROM d AS OF POSITION {position} ORDER BY id");
        let then = |disk: &mut Disk, node: &mut Node, position| {
            select(disk, node, &at(position)).map(texts)
        };
        assert_eq!(then(&mut disk, &mut node, one).unwrap(), ["a", "b"]);
        assert_eq!(then(&mut disk, &mut node, two).unwrap(), ["a", "c"]);
        let count = format!("SELECT COUNT(*) FROM d AS OF POSITION {one} WHERE v = 'b'");
        assert_eq!(select(&mut disk, &mut node, &count).map(texts).unwrap(), ["1"]);
        for gone in ["SELECT v FROM d", &at(dropped), &at(before)] {
            let Err(ReadError::Sql(error)) = select(&mut disk, &mut node, gone) else {
                panic!("{gone}")
            };
            assert_eq!(error.code, SqlState::UndefinedTable, "{gone}: {error}");
        }
        // Another table of that name, of another shape.
        ask(&mut disk, &mut node, "CREATE TABLE d (v BIGINT, id BIGINT PRIMARY KEY)");
        let three = ask(&mut disk, &mut node, "INSERT INTO d VALUES (7, 1)");
        assert_eq!(then(&mut disk, &mut node, one).unwrap(), ["a", "b"]);
        assert_eq!(then(&mut disk, &mut node, three).unwrap(), ["7"]);
        assert_eq!(select(&mut disk, &mut node, "SELECT v FROM d").map(texts).unwrap(), ["7"]);
        ask(&mut disk, &mut node, "DROP TABLE d");
        // By time, and after a checkpoint and a restart.
        disk.shut_down(node);
        let mut node = disk.open(&Config { evict_everything, ..config() });
        assert_eq!(then(&mut disk, &mut node, two).unwrap(), ["a", "c"]);
        assert_eq!(then(&mut disk, &mut node, three).unwrap(), ["7"]);
        disk.shut_down(node);
    }
}

/// Pages that change while a checkpoint's are not written wait for those, so that both together keep
/// to their memory; nothing is refused for it, and nothing waits for ever.
#[test]
fn changes_wait_for_the_writes_of_a_checkpoint() {
    let mut disk = Disk::new();
    // Little room between the pages that ask for a checkpoint and those that are too many.
    let constants = ClusterConstants {
        dirty_pages_max: 1_280,
        transaction_pages_dirtied_max: 320,
        ..ClusterConstants::SMALL
    };
    disk.format(constants);
    let mut node = disk.open(&config());
    assert!(
        disk.ask(&mut node, sql("CREATE TABLE t (id BIGINT PRIMARY KEY, d TEXT)", &[])).is_ok()
    );
    let mut effects = Effects::new();
    let (mut held, mut next, mut waited) = (Vec::new(), 0, 0);
    for _ in 0..4_000 {
        // Values in overflow pages: hundreds of pages by a few requests.
        let values: Vec<String> = (0..10)
            .map(|_| {
                next += 1;
                format!("({next}, '{}')", "x".repeat(30_000))
            })
            .collect();
        let insert = format!("INSERT INTO t VALUES {}", values.join(", "));
        node.submit(disk.now, sql(&insert, &[]), &mut effects);
        disk.take(&mut effects);
        // All but the writes of the grid complete.
        for _ in 0..1_000 {
            let Some(input) = disk.pending.pop_front() else { break };
            match input {
                Input::WriteDone { io, .. } if io.owner == crate::io::Owner::Store => {
                    held.push(input);
                }
                input => node.step(disk.now, input, &mut effects),
            }
            disk.take(&mut effects);
            let plan = node.memory_plan().unwrap();
            assert_eq!(plan.exceeded_by(&node.memory_use()), None);
        }
        if disk.events.contains(&"CheckpointAwaited") {
            waited += 1;
            disk.pending.extend(held.drain(..));
            disk.settle(&mut node);
            disk.events.clear();
            if waited == 3 {
                break;
            }
        } else if held.len() > 200 {
            disk.pending.extend(held.drain(..));
        }
    }
    assert_eq!(waited, 3, "the checkpoint was waited for");
    disk.pending.extend(held);
    disk.settle(&mut node);
    let (mut replies, mut refused) = (0, 0);
    while let Some((_, reply)) = node.next_reply() {
        replies += 1;
        refused += i64::from(reply.is_err());
    }
    assert_eq!((replies, refused), (next / 10, 0));
    disk.shut_down(node);
}
