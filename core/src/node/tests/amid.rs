//! Reads while a transaction is applied that changes tables, at every moment of it: what they are
//! bound to is what their snapshot shows.

use alloc::sync::Arc;

use super::*;
use crate::ids::Position;

/// What there is before, in tables that the transaction changes.
const BEFORE: [&str; 8] = [
    "CREATE TABLE wards (id BIGINT PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE INDEX wards_name ON wards (name)",
    "INSERT INTO wards VALUES (1, 'north'), (2, 'south')",
    "CREATE TABLE beds (id BIGINT PRIMARY KEY)",
    "INSERT INTO beds VALUES (1), (2), (3)",
    "CREATE TABLE rooms (id BIGINT PRIMARY KEY)",
    "INSERT INTO rooms VALUES (7)",
    "CREATE TABLE seen (id BIGINT PRIMARY KEY, name TEXT)",
];

/// One transaction.
const CHANGES: [&str; 13] = [
    "ALTER TABLE wards ADD COLUMN floor BIGINT DEFAULT 3",
    "CREATE TABLE nurses (id BIGINT PRIMARY KEY, name TEXT)",
    "INSERT INTO nurses VALUES (1, 'Ana')",
    "UPDATE wards SET name = 'east' WHERE id = 2",
    "DROP TABLE beds",
    "INSERT INTO wards VALUES (3, 'west', 4)",
    "DROP INDEX wards_name",
    "UPDATE wards SET name = 'attic' WHERE id = 1",
    "DROP TABLE rooms",
    "CREATE INDEX seen_name ON seen (name)",
    "CREATE TABLE rooms (id TEXT PRIMARY KEY, beds BIGINT)",
    "INSERT INTO rooms VALUES ('a', 4)",
    "INSERT INTO seen VALUES (1000, 'y'), (2000, 'y')",
];

const READS: [&str; 18] = [
    "SELECT * FROM nurses",
    "SELECT COUNT(*) FROM beds",
    "SELECT * FROM wards ORDER BY id DESC",
    "SELECT id FROM wards WHERE name = 'north'",
    "EXPLAIN SELECT id FROM wards WHERE name = 'north'",
    "SELECT floor FROM wards WHERE id = 1",
    "SELECT * FROM rooms",
    "SELECT COUNT(*) FROM seen WHERE name = 'y'",
    "EXPLAIN SELECT id FROM seen WHERE name = 'y'",
    "SELECT __change, __position, __ended_at, name FROM HISTORY OF wards",
    "SELECT __change, __position, id FROM HISTORY OF beds",
    "SELECT id FROM rooms AS OF POSITION 8",
    "SELECT * FROM wards AS OF POSITION 8",
    "SELECT * FROM __tables",
    "SELECT * FROM __columns",
    "SELECT * FROM __indexes",
    "SELECT * FROM __jobs",
    "SELECT position, kind, table_name, columns FROM __events",
];

/// Bound only.
const BINDS: [&str; 3] = [
    "INSERT INTO wards VALUES (5, 'x')",
    "DROP TABLE IF EXISTS nurses",
    "INSERT INTO beds VALUES (9) RETURNING *",
];

/// What a read told: columns and rows, as of where; or why not.
type Told = Result<(String, Position), ReadError>;

fn told(read: Read) -> Told {
    let ReadResult { prepared, rows, position, .. } = read.finish()?;
    let bound = if prepared.is_write() { format!("{prepared:?}") } else { String::new() };
    Ok((format!("{:?} {rows:?} {bound}", prepared.columns), position))
}

/// All that is read: a statement that was bound before is the last one.
fn reads(prepared: &Arc<Prepared>) -> Vec<Read> {
    let tenant = TenantId::DEFAULT;
    let texts = READS.iter().map(|text| Read::sql(tenant, text, Vec::new()));
    let binds = BINDS.iter().map(|text| Read::bind(tenant, text));
    let bound = Read::prepared(tenant, prepared.clone(), vec![Value::Integer(1)]);
    texts.chain(binds).chain([bound]).collect()
}

fn name_of(at: usize) -> &'static str {
    READS.iter().chain(&BINDS).nth(at).unwrap_or(&"a lookup that was bound before")
}

/// What they tell when nothing is under way.
fn all(disk: &mut Disk, node: &mut Node, prepared: &Arc<Prepared>) -> Vec<Told> {
    reads(prepared).into_iter().map(|read| told(finished(disk, node, read))).collect()
}

fn finished(disk: &mut Disk, node: &mut Node, mut read: Read) -> Read {
    let mut effects = Effects::new();
    while node.read(disk.now, &mut read, &mut effects) != Progress::Ready {
        disk.take(&mut effects);
        disk.settle(node);
    }
    read
}

fn lookup(disk: &mut Disk, node: &mut Node) -> Arc<Prepared> {
    let bind = Read::bind(TenantId::DEFAULT, "SELECT id, name FROM wards WHERE id = $1");
    finished(disk, node, bind).finish().unwrap().prepared
}

fn operations(texts: &[&str]) -> Request {
    let of = |text: &&str| Operation::Sql { text: text.to_string(), params: Vec::new() };
    Request { operations: texts.iter().map(of).collect(), ..sql("-", &[]) }
}

fn prepared_disk() -> Disk {
    let mut disk = Disk::new();
    disk.format(ClusterConstants::SMALL);
    let mut node = disk.open(&config());
    for text in BEFORE {
        disk.ask(&mut node, sql(text, &[])).unwrap();
    }
    for id in 0..120 {
        disk.ask(&mut node, insert_row("seen", id, &"x".repeat(450))).unwrap();
    }
    disk.shut_down(node);
    disk
}

/// The same, for a run of its own.
fn copy(disk: &Disk) -> Disk {
    let (files, wraps, now) = (disk.files.clone(), disk.wraps, disk.now);
    Disk { files, wraps, now, ..Disk::new() }
}

fn is_amid_schema(node: &Node) -> bool {
    let State::Running(running) = &node.state else { panic!("it runs") };
    running.kernel.is_amid_schema(TenantId::DEFAULT)
}

/// What a read may tell.
struct Expected {
    before: Vec<Told>,
    after: Vec<Told>,
}

fn expected(disk: &Disk) -> Expected {
    let mut disk = copy(disk);
    let mut node = disk.open(&config());
    let prepared = lookup(&mut disk, &mut node);
    let before = all(&mut disk, &mut node, &prepared);
    disk.ask(&mut node, operations(&CHANGES)).unwrap();
    let after = all(&mut disk, &mut node, &prepared);
    let same = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    assert_eq!(same, 1, "of a table that is dropped the past stays");
    Expected { before, after }
}

/// All reads begin so many turns after the transaction; was it whole by then? Counts the turns at
/// whose end it had changed some of its tables.
fn read_amid(disk: &Disk, expected: &Expected, turns: usize, evict: bool, amid: &mut u32) -> bool {
    let mut disk = copy(disk);
    let mut node = disk.open(&Config { evict_everything: evict, ..config() });
    let prepared = lookup(&mut disk, &mut node);
    let one = Read::prepared(TenantId::DEFAULT, prepared.clone(), vec![Value::Integer(1)]);
    finished(&mut disk, &mut node, one);
    let mut effects = Effects::new();
    node.submit(disk.now, operations(&CHANGES), &mut effects);
    disk.take(&mut effects);
    let mut whole = false;
    for _ in 0..turns {
        retries::turn(&mut disk, &mut node);
        whole |= node.next_reply().is_some();
    }
    let was_whole = whole;
    let mut waiting: Vec<(usize, Read)> = reads(&prepared).into_iter().enumerate().collect();
    while !waiting.is_empty() {
        *amid += u32::from(is_amid_schema(&node));
        if !evict && !whole {
            look_up(&mut node, &prepared, turns);
        }
        for (at, mut read) in core::mem::take(&mut waiting) {
            let progress = node.read(disk.now, &mut read, &mut effects);
            disk.take(&mut effects);
            if progress != Progress::Ready {
                waiting.push((at, read));
                continue;
            }
            let told = told(read);
            let (before, after) = (&expected.before[at], &expected.after[at]);
            let right = told == *before || (whole && is_after(&told, before, after));
            let name = name_of(at);
            assert!(right, "turn {turns}, {name}, {whole}: {told:?}\n{before:?}\n{after:?}");
        }
        retries::turn(&mut disk, &mut node);
        whole |= node.next_reply().is_some();
    }
    was_whole
}

/// Is that the answer behind the transaction, or behind what its jobs have done since?
fn is_after(told: &Told, before: &Told, after: &Told) -> bool {
    match (told, before, after) {
        // A position that is not newer is one of the past, that was asked for.
        (Ok((told, position)), Ok((_, before)), Ok((after, newest))) => {
            let newer = position > before || newest == before;
            newer && (told == after || told.contains("\"kind\""))
        }
        (Ok((told, _)), Err(_), Ok((after, _))) => told == after,
        (Err(ReadError::Sql(error)), ..) if error.code == SqlState::SchemaChanged => true,
        _ => told == after,
    }
}

/// The hot path gives what it gave before: its page stays in memory.
fn look_up(node: &mut Node, prepared: &Prepared, turns: usize) {
    let (mut scratch, mut row) = (PointScratch::default(), Vec::new());
    let parameters = [Value::Integer(1)];
    let tenant = TenantId::DEFAULT;
    let read = node.read_point(tenant, prepared, &parameters, &mut scratch, &mut row);
    assert!(read.is_some_and(|read| read.found), "turn {turns}: {read:?}");
    assert_eq!(row, [Value::Integer(1), Value::text("north")], "turn {turns}");
}

#[test]
fn reads_amid_a_change_of_tables_see_the_tables_of_before() {
    let disk = prepared_disk();
    let expected = expected(&disk);
    for (evict, least) in [(true, 50), (false, 3)] {
        let mut amid = 0;
        let end = (0..10_000).find(|turns| read_amid(&disk, &expected, *turns, evict, &mut amid));
        assert!(end.is_some() && amid >= least, "{amid} times amid, of {end:?} turns");
    }
}

/// A table that is dropped and created anew is always there for whoever writes, too.
#[test]
fn writes_amid_a_change_of_tables_are_bound_to_what_is_there_behind_it() {
    let disk = prepared_disk();
    let (mut end, mut amid) = (false, 0);
    for turns in 0..10_000 {
        let mut disk = copy(&disk);
        let mut node = disk.open(&Config { evict_everything: true, ..config() });
        let mut effects = Effects::new();
        node.submit(disk.now, operations(&CHANGES), &mut effects);
        disk.take(&mut effects);
        for _ in 0..turns {
            retries::turn(&mut disk, &mut node);
        }
        end = node.next_reply().is_some();
        amid += u32::from(is_amid_schema(&node));
        node.submit(disk.now, sql("DROP TABLE IF EXISTS rooms", &[]), &mut effects);
        disk.take(&mut effects);
        disk.settle(&mut node);
        while let Some((_, reply)) = node.next_reply() {
            // It may have met the first table of the name, which is no more.
            let again = |error: &RequestError| matches!(error, RequestError::Sql(error) if error.code == SqlState::SchemaChanged);
            assert!(reply.as_ref().is_ok() || reply.as_ref().is_err_and(again), "{reply:?}");
            if reply.is_err() {
                disk.ask(&mut node, sql("DROP TABLE rooms", &[])).unwrap();
            }
        }
        let rooms = select(&mut disk, &mut node, "SELECT * FROM rooms");
        assert!(rooms.is_err(), "turn {turns}: it was dropped: {rooms:?}");
        if end {
            break;
        }
    }
    assert!(end && amid >= 3, "{amid} times amid");
}
