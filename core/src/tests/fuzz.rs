//! Fuzz targets of everything that reads bytes from outside: never a panic, never a lie.
//!
//! They run as ordinary tests, a bounded number of rounds with bolero's random engine; `cargo bolero`
//! takes the same targets as long as it likes. A target has valid encodings as seeds, and the
//! fuzzer's bytes say what to do to one of them: blind bytes would die at the first checksum.
//! Invariants asserted beside "no panic": what decodes encodes to the same bytes again, and what has
//! a checksum is refused unless nothing was changed.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::ids::{
    ClusterId, Op, OriginId, Position, SchemaVersion, StreamId, TableId, TenantId, View,
};
use crate::journal::{PrepareBuffer, PrepareHeader, check_body};
use crate::kernel::{Payload, RecoveryEvidence, RecoveryReason, batch};
use crate::keyring::format::Image;
use crate::limits::{PAGE_SIZE, SUPERBLOCK_COPIES};
use crate::log::{CheckpointRecord, LogHead, RecordKind, SegmentHeader, StateRootAt};
use crate::query::codec::{decode_columns, decode_row, decode_row_key, encode_row, encode_row_key};
use crate::query::key::{decode_key, encode_key};
use crate::query::stored::{StoredPrefix, StoredRow, encode_stored};
use crate::query::{Catalog, Command, TableSchema, Value, prepare};
use crate::superblock::decode_copies;
use crate::time::Timestamp;

const ROUNDS: usize = 3_000;

/// Does to a seed what the script says: four bytes a step.
fn mutated(seed: &[u8], script: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for step in script.chunks_exact(4).take(8) {
        let at = usize::from(u16::from_le_bytes([step[1], step[2]])) % (bytes.len() + 1);
        match step[0] % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (step[3] % 8),
            1 if at < bytes.len() => bytes[at] = step[3],
            2 => bytes.insert(at, step[3]),
            3 => drop(bytes.drain(at..(at + usize::from(step[3] % 16)).min(bytes.len()))),
            4 => {
                let end = (at + usize::from(step[3])).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}

/// Runs a target over the seeds, each changed by what the fuzzer gives.
fn run(seeds: &[Vec<u8>], target: impl Fn(&[u8], bool) + core::panic::RefUnwindSafe) {
    assert!(!seeds.is_empty());
    for seed in seeds {
        target(seed, true);
    }
    bolero::check!().with_iterations(ROUNDS).with_max_len(33).for_each(|script: &[u8]| {
        let (pick, script) = script.split_first().unwrap_or((&0, &[]));
        let seed = &seeds[usize::from(*pick) % seeds.len()];
        let bytes = mutated(seed, script);
        target(&bytes, bytes == *seed);
    });
}

const STATEMENTS: &[&str] = &[
    "CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT NOT NULL, born DATE, w DOUBLE, s BIGINT)",
    "CREATE TABLE IF NOT EXISTS q (a DECIMAL(10,2) DEFAULT 0 CHECK (a >= 0), c JSON, u UUID)",
    "INSERT INTO p (id, name, born) VALUES (1, 'é', DATE '2026-01-01'), (2, 'b', NULL)",
    "INSERT INTO p VALUES (1, 'a', NULL, 1.5, 2) ON CONFLICT (id) DO UPDATE SET name = 'x'",
    "UPDATE p SET name = name || 'x', s = DEFAULT WHERE id BETWEEN 1 AND 5 OR id IN (7, 8)",
    "DELETE FROM p WHERE NOT (born IS NULL) AND w <> 1.0e3 -- comment\n",
    "SELECT id, name AS n FROM p WHERE name LIKE 'a%' ORDER BY n DESC LIMIT 3 OFFSET 1",
    "SELECT COUNT(*), MIN(born) FROM p AS OF POSITION 3 GROUP BY s ORDER BY 1",
    "SELECT CASE WHEN s > 1 THEN 'x' ELSE upper(name) END FROM p WHERE (s + 1) * 2 > -3",
    "DROP TABLE IF EXISTS p; EXPLAIN SELECT * FROM __events WHERE position > 5",
];

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    for text in &STATEMENTS[..2] {
        for prepared in prepare(&catalog.clone(), text).unwrap() {
            let Ok(Command::CreateTable { schema, .. }) = prepared.lower(&[]) else { continue };
            catalog.create(schema);
        }
    }
    catalog
}

#[test]
fn sql_texts() {
    let catalog = catalog();
    let seeds: Vec<Vec<u8>> = STATEMENTS.iter().map(|text| text.as_bytes().to_vec()).collect();
    run(&seeds, |bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        match prepare(&catalog, &text) {
            Err(error) => {
                let place = error.position.unwrap_or(0) as usize;
                assert!(place <= text.len(), "{error} points past the end of {text:?}");
                let _ = error.render(&text);
            }
            Ok(all) => {
                for prepared in all.iter().filter(|prepared| prepared.is_write()) {
                    let Ok(command) = prepared.lower(&[]) else { continue };
                    let mut encoded = Vec::new();
                    command.encode(&mut encoded);
                    assert_eq!(Command::decode(&encoded).as_ref(), Ok(&command), "{text:?}");
                }
            }
        }
    });
}

#[test]
fn lowered_commands() {
    let catalog = catalog();
    let mut seeds = Vec::new();
    for text in STATEMENTS {
        let known = prepare(&catalog, text).or_else(|_| prepare(&Catalog::new(), text)).unwrap();
        for prepared in known {
            if prepared.is_write()
                && let Ok(command) = prepared.lower(&[])
            {
                let mut encoded = Vec::new();
                command.encode(&mut encoded);
                seeds.push(encoded);
            }
        }
    }
    run(&seeds, |bytes, _| {
        if let Ok(command) = Command::decode(bytes) {
            let mut again = Vec::new();
            command.encode(&mut again);
            assert_eq!(again, bytes, "one command, one encoding: {command:?}");
        }
    });
    let schemas: Vec<Vec<u8>> = catalog.tables().map(|schema| schema.encode()).collect();
    run(&schemas, |bytes, _| {
        if let Ok(schema) = TableSchema::decode(bytes) {
            assert_eq!(schema.encode(), bytes);
        }
    });
}

#[test]
fn rows_and_keys() {
    let catalog = catalog();
    let keyed = catalog.table_named("p").unwrap().clone();
    let hidden = catalog.table_named("q").unwrap().clone();
    let row = vec![
        Value::Integer(-7),
        Value::text("naïve"),
        Value::Date(20_000),
        Value::Double(-1.5),
        Value::Null,
    ];
    let (mut one, mut two, mut key) = (Vec::new(), Vec::new(), Vec::new());
    encode_row(None, &row, &mut one);
    encode_row(Some(Position::new(77)), &[Value::Null, Value::Null, Value::Null], &mut two);
    encode_row_key(&keyed, None, &row, &mut key);
    run(&[one, two, key], |bytes, _| {
        for schema in [&keyed, &hidden] {
            if let Ok((position, row)) = decode_row(schema, bytes) {
                let mut again = Vec::new();
                encode_row(position, &row, &mut again);
                assert_eq!(again, bytes, "one row, one encoding");
            }
            let _ = decode_row_key(schema, bytes);
        }
        let _ = decode_columns(bytes);
    });
}

/// Rows as trees hold them, and their keys: any values, every column by itself; a changed key is
/// refused or is that of other values.
#[test]
fn stored_rows_and_key_bytes() {
    let catalog = catalog();
    let schema = catalog.table_named("p").unwrap().clone();
    bolero::check!().with_iterations(ROUNDS).with_max_len(300).for_each(|script: &[u8]| {
        let mut left = script;
        let mut take = |count: usize| {
            let (first, rest) = left.split_at(count.min(left.len()));
            left = rest;
            first
        };
        let number =
            |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let mut row = Vec::new();
        for _ in 0..take(1).first().map_or(0, |count| count % 12) {
            let kind = number(take(1));
            row.push(match kind % 8 {
                0 => Value::Null,
                1 => Value::Boolean(kind > 99),
                2 => Value::Integer(number(take(8)) as i64),
                3 => Value::Double(f64::from_bits(number(take(8)))),
                4 => Value::Blob(take(kind as usize % 40).to_vec()),
                5 => Value::Timestamp(number(take(8)) as i64),
                6 => Value::Date(number(take(2)) as i32),
                _ => Value::Text(String::from_utf8_lossy(take(kind as usize % 40)).into_owned()),
            });
        }
        let prefix =
            StoredPrefix { begun_at: Position::new(number(take(8))), ..Default::default() };
        let mut bytes = Vec::new();
        encode_stored(&prefix, &row, &mut bytes);
        let stored = StoredRow::new(&bytes);
        assert_eq!((stored.prefix(), stored.column_count()), (prefix, row.len()));
        for (ordinal, value) in row.iter().enumerate() {
            let found = stored.column(ordinal).to_value();
            let nan = matches!(value, Value::Double(number) if number.is_nan());
            let (found, value) = (alloc::format!("{found:?}"), alloc::format!("{value:?}"));
            // Equal zeros and NaNs are stored in one form each.
            assert!(nan || found.replace("-0.0", "0.0") == value.replace("-0.0", "0.0"));
        }
        let id = Value::Integer(number(take(8)) as i64);
        let rest = vec![Value::Null; schema.columns.len() - 1];
        let key = encode_key(&schema, &[vec![id.clone()], rest].concat()).unwrap();
        assert_eq!(decode_key(&schema, &key).unwrap(), [id]);
        let changed = mutated(&key, take(16));
        if let Ok(values) = decode_key(&schema, &changed) {
            let rest = vec![Value::Null; schema.columns.len() - values.len()];
            assert_eq!(encode_key(&schema, &[values, rest].concat()).unwrap(), changed);
        }
    });
}

#[test]
fn journal_headers() {
    let cluster = ClusterId::new(7);
    let mut buffer = PrepareBuffer::new();
    buffer.push(&[9; 300]);
    let header = PrepareHeader {
        op: Op::new(5),
        view: View::new(2),
        commit: Op::new(4),
        ..PrepareHeader::root(cluster)
    };
    let prepare = buffer.finish(header);
    let header = *prepare.header();
    let whole = prepare.into_pages().as_bytes().to_vec();
    run(core::slice::from_ref(&whole), |bytes, same| {
        let decoded = PrepareHeader::decode(bytes);
        let good = decoded.is_ok_and(|found| check_body(&found, bytes).is_ok());
        assert!(!same || good);
        let prefix = bytes.get(..whole.len()) == Some(whole.as_slice());
        assert!(!good || prefix, "a changed prepare is not whole");
    });
    // Past the checksum: any header whose checksum is right decodes to itself or is malformed.
    run(&[header.encode().to_vec()], |bytes, _| {
        if let Ok(mut found) = PrepareHeader::decode(bytes) {
            found.seal();
            assert_eq!(found.encode().as_slice(), &bytes[..found.encode().len()]);
        }
    });
}

#[test]
fn superblock_copies() {
    let copies = crate::superblock::tests::encoded_copies();
    let seeds: Vec<Vec<u8>> = copies.iter().map(|pages| pages.as_bytes().to_vec()).collect();
    for target in 0..SUPERBLOCK_COPIES {
        run(&seeds[target..=target], |bytes, same| {
            let mut page = bytes.to_vec();
            page.resize(seeds[target].len(), 0);
            let unchanged = same || page == seeds[target];
            let mut all: [&[u8]; SUPERBLOCK_COPIES] = core::array::from_fn(|copy| &*seeds[copy]);
            all[target] = &page;
            let report = decode_copies(&all);
            for (copy, verdict) in report.verdicts.iter().enumerate() {
                assert_eq!(verdict.is_good(), copy != target || unchanged, "copy {copy}");
            }
            assert!(report.decide(false).is_ok(), "three copies are a quorum");
        });
    }
}

#[test]
fn records_and_what_names_them() {
    let hash = crate::crypto::ChainHash([3; 32]);
    let position = Position::new(41);
    let record = CheckpointRecord {
        position,
        chain_hash: hash,
        tree_root: hash,
        record_count: 42,
        time: Timestamp(5),
        state_root: Some(StateRootAt { root: hash, position }),
    };
    let record = record.encode();
    let head = LogHead::empty();
    let segment = SegmentHeader::of(TenantId::new(3), &head, 100).encode().to_vec();
    run(&[record, head.encode(), segment.clone(), vec![0; 300]], |bytes, _| {
        if let Ok(found) = CheckpointRecord::decode(bytes) {
            assert_eq!(found.encode(), bytes);
        }
        if let Ok(found) = LogHead::decode(bytes) {
            assert_eq!(found.encode(), bytes);
        }
        let mut block = [0; PAGE_SIZE];
        let size = bytes.len().min(PAGE_SIZE);
        block[..size].copy_from_slice(&bytes[..size]);
        if let Ok(found) = SegmentHeader::decode(&block) {
            assert_eq!(found.encode(), block);
        }
    });
    let image = Image {
        cluster: ClusterId::new(7),
        origin: OriginId::new(8),
        sequence: 9,
        entries: Vec::new(),
    };
    let image = image.encode();
    run(core::slice::from_ref(&image), |bytes, _| {
        // As its reader does: the first page tells how much to read.
        let mut read = bytes.to_vec();
        read.resize(read.len().max(PAGE_SIZE), 0);
        let Ok(size) = Image::peek_size(&read) else { return };
        read.resize(size, 0);
        assert_eq!(Image::decode(&read).is_ok(), read == image);
    });
}

#[test]
fn payloads_and_batches() {
    let evidence = RecoveryEvidence {
        view: View::new(3),
        committed: Op::new(9),
        recovery_point: Op::new(4),
        discarded: Some((Op::new(10), Op::new(11))),
        unrecorded_views: 1,
        reason: RecoveryReason::Restart,
        tenants: vec![(TenantId::new(1), crate::crypto::KekHash([6; 32]))],
        last_time: Timestamp(17),
        clock_accepted: true,
    };
    run(&[evidence.to_body()], |bytes, _| {
        if let Ok(found) = RecoveryEvidence::from_body(bytes) {
            assert_eq!(found.to_body(), bytes);
        }
        for requests in 0..3 {
            let _ = batch::validate(bytes, requests);
        }
    });
    let table = TableId::new(4);
    let (row, key) = ([0xa1, 1, 5], [0xa1, 1, 5]);
    let payloads = [
        Payload::RowPut { table, replaces: Some(Position::new(7)), row: &row },
        Payload::RowDelete { table, replaces: Position::new(8), key: &key },
        Payload::TableDropped { table, schema_version: SchemaVersion::new(2) },
        Payload::StreamCreated { stream: StreamId::new(9), name: "visits" },
        Payload::Appended { stream: StreamId::new(9), version: 3, record: b"abc" },
        Payload::Completed,
    ];
    let seeds: Vec<Vec<u8>> = payloads
        .iter()
        .map(|payload| {
            let mut bytes = Vec::new();
            payload.encode(&mut bytes);
            bytes
        })
        .collect();
    let kinds = payloads.each_ref().map(Payload::kind);
    run(&seeds, |bytes, _| {
        for kind in
            kinds.into_iter().chain([RecordKind::CheckpointRecord, RecordKind::RecoveryRecord])
        {
            if let Ok((payload, None)) = Payload::decode(kind, bytes) {
                let mut again = Vec::new();
                payload.encode(&mut again);
                assert_eq!(again, bytes, "one payload, one encoding: {payload:?}");
            }
        }
    });
}
