//! Proofs of a real state: they hold, they say what a model says, and no lie made of them holds.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};

use super::rig::*;
use crate::crypto::ChainHash;
use crate::crypto::note::{Checkpoint, KeyKind, Verifier};
use crate::crypto::signature::SigningKey;
use crate::ids::{IdempotencyId, Position, TenantId};
use crate::kernel::canonical::proof_value;
use crate::kernel::prove::{ProveStop, Proving};
use crate::kernel::{ExpectedVersion, Operation, Request, canonical_query};
use crate::log::LogPins;
use crate::proof::{
    Answer, AnswerCell, CanonicalQuery, Cell, EntryValue, Evidence, Item, Node, Opening, Policy,
    ProofFile, QueryKind, Reject, Row, Seen, Verified, redact, verify, verify_file,
};
use crate::query::{AsOf, Value, prepare_one};
use crate::stdx::cbor::Encoder;
use crate::store::Pins;
use crate::time::Timestamp;

const ORIGIN: &str = "verity.test/cluster/1";
pub(super) const COSIGNED_S: u64 = 1_795_000_000;

fn cosigner(at: u8) -> SigningKey {
    SigningKey::new(&[100 + at; 32])
}

pub(super) fn policy(rig: &Rig) -> Policy {
    let log = rig.keys.0[&TenantId::SYSTEM].cluster_signing().verifying_key();
    let mut text = format!("log {}\n", Verifier::new(ORIGIN, KeyKind::Log, log));
    for at in 0..3 {
        let name = format!("replica-{at}");
        let key = Verifier::new(&name, KeyKind::Cosigner, cosigner(at).verifying_key());
        text += &format!("witness {name} {key}\n");
    }
    Policy::parse(&(text + "group replicas 2 replica-0 replica-1 replica-2\nquorum replicas\n"))
        .unwrap()
}

/// The signed head of the last attestation, by exactly as many as the policy wants.
pub(super) fn note(rig: &Rig) -> String {
    let attestation = rig.kernel.attestation().unwrap();
    note_of(rig, attestation.size, attestation.root)
}

/// Cosigned at [`COSIGNED_S`].
pub(super) fn note_of(rig: &Rig, size: u64, root: ChainHash) -> String {
    let head = Checkpoint { origin: ORIGIN.to_string(), size, root };
    let log = rig.keys.0[&TenantId::SYSTEM].cluster_signing();
    let mut note = format!("{}\n{}", head.text(), head.sign(&log));
    for at in 0..2 {
        note += &head.cosign(&format!("replica-{at}"), &cosigner(at), COSIGNED_S);
    }
    note
}

pub(super) fn prove(rig: &mut Rig, query: &CanonicalQuery) -> Result<ProofFile, ProveStop> {
    prove_since(rig, query, None)
}

fn prove_since(
    rig: &mut Rig,
    query: &CanonicalQuery,
    since: Option<u64>,
) -> Result<ProofFile, ProveStop> {
    let (mut pins, mut log_pins) = (Pins::new(), LogPins::default());
    let note = note(rig);
    let result = loop {
        let Rig { kernel, store, logs, keys, shared, .. } = rig;
        let proving = Proving { kernel, store, logs, keys, shared };
        match proving.prove(query, note.clone(), since) {
            Err(ProveStop::Fault | ProveStop::LogFault) => {
                rig.fetch_both(&mut pins, &mut log_pins);
            }
            result => break result,
        }
    };
    rig.store.unpin(&mut pins);
    rig.logs.release(&mut log_pins);
    result
}

/// What a row was, from when to when.
#[derive(Clone, Debug)]
pub(super) struct Version {
    begun: u64,
    ended: u64,
    name: String,
    age: Option<i64>,
}

pub(super) type Model = BTreeMap<i64, Vec<Version>>;

/// A table with a past: inserts, updates, deletes, rows that come back.
pub(super) fn world(memory: Memory, rows: i64) -> (Rig, Model) {
    let mut rig = Rig::new(memory);
    let create = create_table(&rig.catalog(T1), "people", true);
    rig.commands(&[create]).unwrap();
    let create = create_table(&rig.catalog(T1), "other", true);
    rig.commands(&[create]).unwrap();
    let create = Operation::CreateTenant { tenant: TenantId::new(2), kek_hash: HASH };
    rig.request(&Request { tenant: TenantId::SYSTEM, ..request(vec![create]) }).unwrap();
    let append = Operation::Append {
        stream: "s".to_string(),
        expected: ExpectedVersion::Any,
        records: vec![b"appended".to_vec()],
    };
    rig.request(&Request { tenant: TenantId::new(2), ..request(vec![append.clone()]) }).unwrap();
    rig.request(&request(vec![append])).unwrap();
    rig.request(&request(vec![insert_rows("other", &[(1, "x", 1), (2, "y", 2)])])).unwrap();
    let mut model = Model::new();
    let mut remembered = false;
    let mut sql = |rig: &mut Rig, text: String| {
        let operation = Operation::Sql { text, params: vec![] };
        let idempotency = id(NOW_MS + 1_000_000, 7);
        let idempotency = if remembered { IdempotencyId::NONE } else { idempotency };
        remembered = true;
        let reply = rig.request(&Request { idempotency, ..request(vec![operation]) }).unwrap();
        reply.position.unwrap().get()
    };
    for round in 0..4_i64 {
        for key in 0..rows {
            rig.now_ms += u64::from(key % 3 == 0);
            let current = model.get(&key).and_then(|versions| versions.last());
            let live = current.is_some_and(|version| version.ended == u64::MAX);
            let name = format!("n{}", (key * 7 + round) % 11);
            let age = (key % 5 != round).then_some(key * 10 + round);
            let text = age.map_or("NULL".to_string(), |age| age.to_string());
            let position = match (live, (key + round) % 4) {
                (false, 0 | 1) => {
                    sql(&mut rig, format!("INSERT INTO people VALUES ({key}, '{name}', {text})"))
                }
                (true, 2 | 3) => sql(
                    &mut rig,
                    format!("UPDATE people SET name = '{name}', age = {text} WHERE id = {key}"),
                ),
                (true, 0) => sql(&mut rig, format!("DELETE FROM people WHERE id = {key}")),
                _ => continue,
            };
            let versions = model.entry(key).or_default();
            if let Some(last) = versions.last_mut()
                && last.ended == u64::MAX
            {
                last.ended = position;
            }
            if !live || (key + round) % 4 != 0 {
                versions.push(Version { begun: position, ended: u64::MAX, name, age });
            }
        }
        if round == 1 {
            rig.checkpoint();
            rig.recover();
        }
    }
    rig.now_ms += 1;
    rig.attest();
    (rig, model)
}

/// Statements, and what their AS OF means.
fn corpus(rig: &mut Rig) -> Vec<(String, Option<AsOf>)> {
    let newest = rig.position(T1) - 1;
    let mut corpus: Vec<(String, Option<AsOf>)> = [
        "SELECT * FROM people WHERE id = 3",
        "SELECT * FROM people WHERE id = 5",
        "SELECT name FROM people WHERE id = 3",
        "SELECT * FROM people WHERE id = 1000000",
        "SELECT * FROM people WHERE id = -1",
        "SELECT * FROM people",
        "SELECT id, name FROM people WHERE id >= 3 AND id < 9",
        "SELECT id, name FROM people WHERE id >= 2 AND id < 10",
        "SELECT id, name FROM people WHERE id > 3 AND id <= 9 ORDER BY id DESC",
        "SELECT id FROM people WHERE id IN (1, 2, 4, 5)",
        "SELECT id FROM people WHERE id BETWEEN 1 AND 5",
        "SELECT id, age FROM people WHERE age IS NULL",
        "SELECT id FROM people WHERE name = 'n3' OR age > 70 AND NOT name <> 'n5'",
        "SELECT id FROM people WHERE age NOT BETWEEN 20 AND 60 AND id > 2",
        "SELECT id, name FROM people ORDER BY id LIMIT 4",
        "SELECT id, name FROM people ORDER BY id LIMIT 5",
        "SELECT id, name FROM people ORDER BY id DESC LIMIT 4 OFFSET 2",
        "SELECT id FROM people WHERE name = 'n3' ORDER BY id LIMIT 1",
        "SELECT id FROM people LIMIT 0",
        "SELECT COUNT(*) FROM people",
        "SELECT COUNT(*) FROM people WHERE id >= 4",
        "SELECT COUNT(*) FROM people WHERE id < 12 AND id > 2",
        "SELECT COUNT(*) FROM people WHERE id = 3",
        "SELECT COUNT(*) FROM people WHERE age > 40",
        "SELECT COUNT(*) FROM other",
        "SELECT * FROM other",
    ]
    .iter()
    .map(|sql| ((*sql).to_string(), None))
    .collect();
    let time =
        |rig: &mut Rig, at: u64| rig.event(T1, Position::new(at)).record.metadata.timestamp.0;
    let (first, middle) = (time(rig, 9), time(rig, newest / 2));
    let last = rig.kernel.attestation().unwrap().timestamp.0;
    let moments = [
        AsOf::Position(Position::new(5)),
        AsOf::Position(Position::new(12)),
        AsOf::Position(Position::new(newest / 3)),
        AsOf::Position(Position::new(newest / 2)),
        AsOf::Position(Position::new(newest - 5)),
        AsOf::Position(Position::new(newest)),
        AsOf::Timestamp(Timestamp(first + 1)),
        AsOf::Timestamp(Timestamp(middle - 1)),
        AsOf::Timestamp(Timestamp(middle)),
        AsOf::Timestamp(Timestamp(last - 1)),
    ];
    for as_of in moments {
        let moment = match as_of {
            AsOf::Position(position) => format!("AS OF POSITION {position}"),
            AsOf::Timestamp(_) => "AS OF TIMESTAMP $1".to_string(),
        };
        for sql in [
            "SELECT * FROM people WHERE id = 3",
            "SELECT * FROM people WHERE id = 6",
            "SELECT id, name, age FROM people",
            "SELECT id FROM people WHERE id > 2 AND id < 11 AND name <> 'n2' ORDER BY id DESC",
            "SELECT COUNT(*) FROM people WHERE age >= 10",
        ] {
            let sql = sql.replacen("people", &format!("people {moment}"), 1);
            corpus.push((sql, Some(as_of)));
        }
    }
    corpus
}

pub(super) fn canonical(rig: &mut Rig, sql: &str, as_of: Option<AsOf>) -> CanonicalQuery {
    let prepared = prepare_one(&rig.catalog(T1), sql).unwrap();
    let parameters = match as_of {
        Some(AsOf::Timestamp(time)) => vec![Value::Timestamp(time.0 as i64)],
        Some(AsOf::Position(_)) | None => vec![],
    };
    let newest = Position::new(rig.position(T1) - 1);
    assert_eq!(prepared.as_of(&parameters, newest).unwrap(), as_of);
    canonical_query(T1, &prepared, &parameters, as_of).expect(sql)
}

/// The last position that a moment lets one see.
fn position_of(rig: &mut Rig, query: &CanonicalQuery) -> u64 {
    let (QueryKind::Rows { scan, .. } | QueryKind::Count { scan }) = &query.kind else { panic!() };
    match scan.as_of {
        None => u64::MAX - 1,
        Some(crate::proof::AsOf::Position(position)) => position.get(),
        Some(crate::proof::AsOf::Timestamp(time)) => {
            let times = (0..rig.position(T1)).rev().map(Position::new);
            let mut times =
                times.filter(|at| rig.event(T1, *at).record.metadata.timestamp.0 <= time);
            times.next().unwrap().get()
        }
    }
}

/// What the query engine's own answer would be: filter, order and limit done by hand here.
fn expected(rig: &mut Rig, model: &Model, query: &CanonicalQuery) -> Answer {
    let (scan, rows) = match &query.kind {
        QueryKind::Rows { scan, columns, descending, offset, limit } => {
            (scan, Some((columns, *descending, *offset, *limit)))
        }
        QueryKind::Count { scan } => (scan, None),
        other => panic!("{other:?}"),
    };
    let at = position_of(rig, query);
    let mut found = Vec::new();
    for (key, versions) in model {
        for version in versions.iter().filter(|one| one.begun <= at && at < one.ended) {
            let mut encoded = vec![1];
            encoded.extend((*key as u64 ^ 1 << 63).to_be_bytes());
            let inside = scan.ranges.iter().any(|range| match range {
                crate::proof::Range::Point(point) => *point == encoded,
                crate::proof::Range::Span { low, high } => {
                    encoded >= *low && high.as_ref().is_none_or(|high| encoded < *high)
                }
            });
            let age = version.age.map_or(Value::Null, Value::Integer);
            let cells =
                [Value::Integer(*key), Value::text(&version.name), age].map(|v| proof_value(&v));
            let passes = scan.filter.as_ref().is_none_or(|filter| {
                filter.holds(&mut |id| Ok(cells[id.get() as usize - 1].clone())) == Ok(Some(true))
            });
            if inside && passes {
                found.push(cells);
            }
        }
    }
    let Some((columns, descending, offset, limit)) = rows else {
        return Answer::Count(found.len() as u64);
    };
    if descending {
        found.reverse();
    }
    let rows = found.iter().skip(offset as usize).take(limit.unwrap_or(u64::MAX) as usize);
    Answer::Rows(
        rows.map(|row| {
            let cell = |id: &crate::ids::ColumnId| row[id.get() as usize - 1].clone();
            columns.iter().map(|id| AnswerCell::Value(cell(id))).collect()
        })
        .collect(),
    )
}

/// A table with indexes, one of them of two columns, and columns that were added later.
fn indexed_world(memory: Memory) -> (Rig, u64) {
    let mut rig = Rig::new(memory);
    let mut sql = |text: &str| {
        let operation = Operation::Sql { text: text.to_string(), params: vec![] };
        rig.request(&request(vec![operation])).unwrap().position.unwrap().get()
    };
    sql("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT, age BIGINT, score DOUBLE)");
    sql("CREATE INDEX by_age ON people (age)");
    for key in 0..300_i64 {
        let age = if key % 9 == 0 { "NULL".to_string() } else { (key * 7 % 83 - 20).to_string() };
        let (name, score) = (format!("n{}", key % 29), (key % 7) as f64 - 3.5);
        sql(&format!("INSERT INTO people VALUES ({key}, '{name}', {age}, {score})"));
    }
    sql("CREATE INDEX by_name_age ON people (name, age)");
    sql("CREATE UNIQUE INDEX by_id_again ON people (score, id)");
    let added = sql("ALTER TABLE people ADD COLUMN city TEXT DEFAULT 'unknown';
         ALTER TABLE people ADD COLUMN paid DECIMAL(12, 2) DEFAULT -12.50;
         ALTER TABLE people ADD COLUMN born TIMESTAMP DEFAULT TIMESTAMP '1969-12-31 23:59:58.5';
         ALTER TABLE people ADD COLUMN rank BIGINT DEFAULT -3;
         ALTER TABLE people ADD COLUMN live BOOLEAN DEFAULT TRUE;
         ALTER TABLE people ADD COLUMN day DATE DEFAULT DATE '1960-02-29';
         ALTER TABLE people ADD COLUMN half DOUBLE DEFAULT 0.25;
         ALTER TABLE people ADD COLUMN none TEXT");
    sql("CREATE INDEX by_rank ON people (rank)");
    for key in (0..300_i64).step_by(11) {
        sql(&format!("UPDATE people SET age = {key}, rank = {key} WHERE id = {key}"));
    }
    for key in (5..300_i64).step_by(31) {
        sql(&format!("DELETE FROM people WHERE id = {key}"));
    }
    rig.finish_jobs();
    rig.attest();
    (rig, added)
}

/// What an index proves.
const INDEXED: [&str; 14] = [
    "SELECT id, age FROM people WHERE age = 33",
    "SELECT id FROM people WHERE age = 33 AND id > 100 AND name <> 'n4'",
    "SELECT id, name FROM people WHERE age > 60 ORDER BY id DESC",
    "SELECT id FROM people WHERE age < -15",
    "SELECT id FROM people WHERE age >= 10 AND age <= 12 AND age > 10",
    "SELECT id FROM people WHERE age BETWEEN 40 AND 43 LIMIT 3 OFFSET 2",
    "SELECT id FROM people WHERE age = 1000",
    "SELECT COUNT(*) FROM people WHERE age = 8",
    "SELECT id, city FROM people WHERE name = 'n7' AND age > 5",
    "SELECT id, paid, born FROM people WHERE name = 'n3'",
    "SELECT id, score FROM people WHERE score = 0.5 AND id > 250",
    "SELECT id, rank, city, live, day, half, none FROM people WHERE rank > 200",
    "SELECT id FROM people WHERE score < -3.0 AND age = 3",
    "SELECT * FROM people WHERE age = 17",
];

/// Rows of the past: before their columns were added, and right after.
fn indexed_past(rig: &mut Rig) -> Vec<(CanonicalQuery, u64)> {
    let newest = rig.position(T1) - 1;
    let at = [newest / 2, newest - 45, newest - 8];
    at.into_iter()
        .map(|at| {
            let sql = format!("SELECT * FROM people AS OF POSITION {at} WHERE id IN (7, 11, 22)");
            (canonical(rig, &sql, Some(AsOf::Position(Position::new(at)))), at)
        })
        .collect()
}

/// Every row that the query engine has, then filter, order and limit by the proof's own query.
fn read_all(rig: &mut Rig, query: &CanonicalQuery) -> Answer {
    let schema = rig.catalog(T1).table_named("people").unwrap().clone();
    let initial = schema.initial_values(Position::new(u64::MAX));
    let tree = crate::store::TreeRef::new(T1, schema.rows);
    let rows: Vec<(Vec<u8>, Vec<u8>)> = rig.read(|store| {
        let mut rows = Vec::new();
        let mut cursor = crate::store::Cursor::all(crate::store::Direction::Forward);
        let _ = store.scan(tree, &mut cursor, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            core::ops::ControlFlow::Continue(())
        })?;
        Ok(rows)
    });
    let (QueryKind::Rows { scan, .. } | QueryKind::Count { scan }) = &query.kind else { panic!() };
    let filter = scan.filter.as_ref().unwrap();
    let mut found = Vec::new();
    for (key, value) in &rows {
        let row = crate::query::stored::StoredRow::new(value).with_initial(&initial);
        let cells: Vec<_> =
            (0..schema.columns.len()).map(|at| proof_value(&row.column(at).to_value())).collect();
        let inside = scan.ranges.iter().any(|range| range.holds(key));
        let passes =
            filter.holds(&mut |id| Ok(cells[id.get() as usize - 1].clone())) == Ok(Some(true));
        if inside && passes {
            found.push(cells);
        }
    }
    let QueryKind::Rows { columns, descending, offset, limit, .. } = &query.kind else {
        return Answer::Count(found.len() as u64);
    };
    if *descending {
        found.reverse();
    }
    let rows = found.iter().skip(*offset as usize).take(limit.unwrap_or(u64::MAX) as usize);
    let cells = |row: &Vec<crate::proof::Value>| {
        columns.iter().map(|id| AnswerCell::Value(row[id.get() as usize - 1].clone())).collect()
    };
    Answer::Rows(rows.map(cells).collect())
}

#[test]
fn an_index_proves_what_it_finds_and_columns_added_later_have_their_first_value() {
    for memory in [Memory::Ample, Memory::None] {
        let (mut rig, added) = indexed_world(memory);
        let policy = policy(&rig);
        let mut found = 0;
        for sql in INDEXED {
            let query = canonical(&mut rig, sql, None);
            let file = prove(&mut rig, &query).unwrap();
            let Evidence::Index { .. } = &file.evidence else { panic!("{sql}: no index") };
            let bytes = file.encode();
            assert_eq!(ProofFile::decode(&bytes).unwrap(), file);
            let verified = verify(&query.encode(), &bytes, &policy)
                .unwrap_or_else(|reject| panic!("{sql}: {reject}"));
            assert_eq!(verified.answer, read_all(&mut rig, &query), "{sql}");
            if let Answer::Rows(rows) = &verified.answer {
                found += rows.len();
                // About half a kilobyte a row more than a proof of none.
                assert!(bytes.len() <= 4_096 + 2_048 * rows.len(), "{sql}: {}", bytes.len());
            }
            // No bit of it can be turned.
            for bit in (0..bytes.len() * 8).step_by(37) {
                let mut lie = bytes.clone();
                lie[bit / 8] ^= 1 << (bit % 8);
                assert!(verify(&query.encode(), &lie, &policy).is_err(), "{sql}: bit {bit}");
            }
            // The evidence of another query shows this one's answer or nothing.
            for other in INDEXED {
                let query = canonical(&mut rig, other, None);
                let lie = ProofFile { query: query.clone(), ..file.clone() };
                if let Ok(verified) = verify(&query.encode(), &lie.encode(), &policy)
                    && !verified.redacted
                {
                    assert_eq!(verified.answer, read_all(&mut rig, &query), "{other} by {sql}");
                }
            }
        }
        assert!(found > 40, "{found}");
        // A column of the index cannot be taken out, another can.
        let query = canonical(&mut rig, INDEXED[8], None);
        let file = prove(&mut rig, &query).unwrap();
        let column = crate::ids::ColumnId::new;
        assert!(redact(&file, &[column(3)], &[column(1)]).is_none(), "the index needs it");
        let copy = redact(&file, &[column(5)], &[column(1)]).unwrap();
        let verified = verify(&query.encode(), &copy.encode(), &policy).unwrap();
        // Rows from before the column was added have nothing to take out.
        assert!(!verified.redacted || copy != file);
        for (query, at) in indexed_past(&mut rig) {
            let file = prove(&mut rig, &query).unwrap();
            let verified = verify(&query.encode(), &file.encode(), &policy).unwrap();
            let Answer::Rows(rows) = verified.answer else { panic!() };
            assert!(!rows.is_empty());
            let city = proof_value(&if at >= added { Value::text("unknown") } else { Value::Null });
            assert!(rows.iter().all(|row| row[4] == AnswerCell::Value(city.clone())), "at {at}");
        }
    }
}

#[test]
fn proofs_hold_and_say_what_a_model_says() {
    for (memory, rows) in [(Memory::Ample, 24), (Memory::None, 24), (Memory::Ample, 400)] {
        let (mut rig, model) = world(memory, rows);
        let policy = policy(&rig);
        for (sql, as_of) in corpus(&mut rig) {
            let query = canonical(&mut rig, &sql, as_of);
            let file = prove(&mut rig, &query).unwrap();
            let bytes = file.encode();
            let verified = verify(&query.encode(), &bytes, &policy)
                .unwrap_or_else(|reject| panic!("{sql} as of {as_of:?}: {reject}"));
            assert!(verified.fresh && !verified.redacted);
            if !sql.contains("other") {
                let wanted = expected(&mut rig, &model, &query);
                assert_eq!(verified.answer, wanted, "{sql} as of {as_of:?}");
            }
            assert_eq!(ProofFile::decode(&bytes).unwrap(), file);
        }
    }
}

fn all_others(rig: &mut Rig) -> Vec<CanonicalQuery> {
    let table = rig.catalog(T1).table_named("people").unwrap().id;
    let key = |key: u64| [&[1][..], &(key ^ 1 << 63).to_be_bytes()].concat();
    let mut kinds = vec![
        QueryKind::Commitment { id: id(NOW_MS + 1_000_000, 7) },
        QueryKind::Commitment { id: id(NOW_MS + 1_000_000, 8) },
    ];
    for at in [3, 6, 1_000] {
        kinds.push(QueryKind::History { table, key: key(at) });
    }
    for position in 0..rig.position(T1).min(20) {
        kinds.push(QueryKind::Event { position: Position::new(position) });
    }
    kinds.into_iter().map(|kind| CanonicalQuery { tenant: T1, kind }).collect()
}

#[test]
fn histories_events_and_outcomes_are_proved() {
    let (mut rig, model) = world(Memory::None, 24);
    let policy = policy(&rig);
    let mut kinds = alloc::collections::BTreeSet::new();
    for query in all_others(&mut rig) {
        let file = prove(&mut rig, &query).unwrap();
        let verified = verify(&query.encode(), &file.encode(), &policy).unwrap();
        match (&query.kind, verified.answer) {
            (QueryKind::History { key, .. }, Answer::History(versions)) => {
                let number = i64::from_be_bytes(key[1..].try_into().unwrap()) ^ i64::MIN;
                let wanted: Vec<(u64, Option<u64>)> = model
                    .get(&number)
                    .into_iter()
                    .flatten()
                    .map(|one| (one.begun, (one.ended < u64::MAX).then_some(one.ended)))
                    .collect();
                let found: Vec<(u64, Option<u64>)> = versions
                    .iter()
                    .map(|one| (one.begun_at.get(), one.ended_at.map(Position::get)))
                    .collect();
                assert_eq!(found, wanted);
            }
            (QueryKind::Event { position }, Answer::Event(event)) => {
                assert_eq!(event.position, *position);
                assert!(event.payload.is_some() != event.row.is_some());
                kinds.insert(event.kind);
            }
            (QueryKind::Commitment { id: asked }, Answer::Commitment(outcome)) => {
                let known = *asked == id(NOW_MS + 1_000_000, 7);
                assert_eq!(outcome.is_some(), known);
                assert!(outcome.is_none_or(|outcome| !outcome.refused));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(kinds.len() >= 3, "{kinds:?}");
}

/// A proof under another query's name holds only if it shows that query's answer.
#[test]
fn a_proof_of_one_query_proves_no_other() {
    let (mut rig, model) = world(Memory::Ample, 24);
    let policy = policy(&rig);
    let mut queries: Vec<CanonicalQuery> = corpus(&mut rig)
        .iter()
        .filter(|(sql, _)| !sql.contains("other"))
        .map(|(sql, as_of)| canonical(&mut rig, sql, *as_of))
        .collect();
    let proved = queries.len();
    queries.extend(all_others(&mut rig));
    let files: Vec<ProofFile> =
        queries.iter().map(|query| prove(&mut rig, query).unwrap()).collect();
    let (mut relabelled, mut refused) = (0, 0);
    for (left, file) in files.iter().enumerate() {
        let bytes = file.encode();
        for (right, query) in queries.iter().enumerate() {
            if queries[left] == *query {
                continue;
            }
            assert_eq!(verify(&query.encode(), &bytes, &policy), Err(Reject::AnotherQuery));
            let lie = ProofFile { query: query.clone(), ..file.clone() };
            match verify(&query.encode(), &lie.encode(), &policy) {
                Err(_) => refused += 1,
                // A column that is asked for and hidden is said to be.
                Ok(verified) if verified.redacted => relabelled += 1,
                Ok(verified) if right < proved => {
                    let wanted = expected(&mut rig, &model, query);
                    assert_eq!(verified.answer, wanted, "{query:?} by {left}");
                    relabelled += 1;
                }
                // A tree that is shown whole shows that another id is not there, too.
                Ok(verified) => {
                    let honest = verify_file(&files[right], &policy).unwrap();
                    assert_eq!(verified.answer, honest.answer, "{query:?} by {left}");
                    relabelled += 1;
                }
            }
        }
        // Of another tenant.
        let query = CanonicalQuery { tenant: TenantId::new(2), ..file.query.clone() };
        let lie = ProofFile { query: query.clone(), ..file.clone() };
        let Err(_) = verify(&query.encode(), &lie.encode(), &policy) else { panic!("a tenant") };
    }
    assert!(refused > 50 * relabelled / 10, "{refused} refused, {relabelled} told the truth");
}

fn as_of_30(rig: &mut Rig) -> CanonicalQuery {
    let sql = "SELECT id FROM people AS OF POSITION 30 WHERE id > 2 AND id < 5";
    canonical(rig, sql, Some(AsOf::Position(Position::new(30))))
}

#[test]
fn no_bit_can_be_turned_and_nothing_cut_off() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let policy = policy(&rig);
    let mut queries = vec![
        canonical(&mut rig, "SELECT id, name FROM people WHERE id = 3", None),
        as_of_30(&mut rig),
    ];
    queries.push(all_others(&mut rig).remove(4));
    for query in queries {
        let bytes = prove(&mut rig, &query).unwrap().encode();
        let wanted = query.encode();
        assert!(verify(&wanted, &bytes, &policy).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut lie = bytes.clone();
            lie[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&wanted, &lie, &policy).is_err(), "bit {bit} of {:?}", query.kind);
        }
        for size in 0..bytes.len() {
            assert!(verify(&wanted, &bytes[..size], &policy).is_err(), "cut at {size}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(verify(&wanted, &longer, &policy).is_err());
    }
}

/// All places where something is shown, top page first.
fn with_leaves(node: &mut Node, visit: &mut impl FnMut(&mut Node)) {
    if node.level == 0 {
        return visit(node);
    }
    for (_, item) in &mut node.shown {
        if let Item::Child { node, .. } = item {
            with_leaves(node, visit);
        }
    }
}

fn rows_of(file: &mut ProofFile) -> &mut Node {
    let Evidence::Scan { rows, .. } = &mut file.evidence else { panic!() };
    rows[0].as_mut().unwrap()
}

fn attack(file: &ProofFile, policy: &Policy, change: impl FnOnce(&mut ProofFile)) -> Reject {
    let mut lie = file.clone();
    change(&mut lie);
    assert_ne!(lie, *file, "the attack changed something");
    let result: Result<Verified, Reject> = verify(&lie.query.encode(), &lie.encode(), policy);
    assert_eq!(result.as_ref().err(), verify_file(&lie, policy).as_ref().err());
    result.expect_err("the lie holds")
}

#[test]
fn lies_are_refused_for_what_they_are() {
    let (mut rig, _) = world(Memory::Ample, 24);
    let policy = policy(&rig);
    let query = canonical(&mut rig, "SELECT id, name FROM people WHERE id >= 3 AND id < 9", None);
    let file = prove(&mut rig, &query).unwrap();
    let shown = {
        let mut count = 0;
        with_leaves(rows_of(&mut file.clone()), &mut |leaf| count += leaf.shown.len());
        count
    };
    assert!(shown >= 6, "{shown} entries shown");
    // Hide each entry in turn, as a hash that does not change the root: a hole in the range.
    let mut gaps = 0;
    for at in 0..shown {
        for place in 0..8 {
            let reject = attack(&file, &policy, |lie| {
                let mut nth = 0;
                with_leaves(rows_of(lie), &mut |leaf| {
                    if (nth..nth + leaf.shown.len()).contains(&at) {
                        let (_, item) = leaf.shown.remove(at - nth);
                        let Item::Entry(entry) = item else { panic!() };
                        let hash = entry_hash(&entry);
                        leaf.hashes.insert(place.min(leaf.hashes.len()), hash);
                        nth = usize::MAX / 2;
                    } else {
                        nth += leaf.shown.len();
                    }
                });
            });
            gaps += usize::from(reject == Reject::Gap);
        }
    }
    assert!(gaps > 0, "a hole that fits the tree is called one");
    // A row without its columns.
    let reject = attack(&file, &policy, |lie| {
        with_leaves(rows_of(lie), &mut |leaf| {
            let (_, Item::Entry(entry)) = &mut leaf.shown[2] else { panic!() };
            let EntryValue::Row { row, .. } = &mut entry.value else { return };
            *row = Row::Hidden(row.commitment(crate::ids::TableId::new(1)));
        });
    });
    assert_eq!(reject, Reject::EntryNotShown { what: "a row in the range" });
    // A value, a type, a row shown twice.
    let change_cell = |lie: &mut ProofFile, change: &dyn Fn(&mut Cell)| {
        with_leaves(rows_of(lie), &mut |leaf| {
            let (_, Item::Entry(entry)) = &mut leaf.shown[2] else { panic!() };
            let EntryValue::Row { row: Row::Columns { columns, .. }, .. } = &mut entry.value else {
                return;
            };
            change(&mut columns[1]);
        });
    };
    for change in [
        (&|cell: &mut Cell| {
            let Cell::Shown { value, .. } = cell else { panic!() };
            value.bytes = b"forged".to_vec();
        }) as &dyn Fn(&mut Cell),
        &|cell| {
            let Cell::Shown { value, .. } = cell else { panic!() };
            value.tag = 6;
        },
        &|cell| {
            let Cell::Shown { salt, .. } = cell else { panic!() };
            salt.0[0] ^= 1;
        },
    ] {
        let reject = attack(&file, &policy, |lie| change_cell(lie, change));
        assert!(matches!(reject, Reject::TreeMismatch { .. }), "{reject}");
    }
    let reject = attack(&file, &policy, |lie| {
        with_leaves(rows_of(lie), &mut |leaf| {
            let twin = leaf.shown[2].clone();
            leaf.shown.insert(2, twin);
        });
    });
    assert!(matches!(reject, Reject::Tree { .. }), "{reject}");
    // The schema: another name for a column.
    let reject = attack(&file, &policy, |lie| {
        let Evidence::Scan { catalog, .. } = &mut lie.evidence else { panic!() };
        with_leaves(catalog, &mut |leaf| {
            let (_, Item::Entry(entry)) = &mut leaf.shown[0] else { panic!() };
            let EntryValue::Plain { bytes, .. } = &mut entry.value else { panic!() };
            let at = bytes.windows(4).position(|at| at == b"name").unwrap();
            bytes[at] = b'm';
        });
    });
    assert!(matches!(reject, Reject::TreeMismatch { .. }), "{reject}");
    // An empty answer: the tree is not there.
    let reject = attack(&file, &policy, |lie| {
        let Evidence::Scan { rows, .. } = &mut lie.evidence else { panic!() };
        rows[0] = None;
    });
    assert!(matches!(reject, Reject::EmptyMismatch { .. }), "{reject}");
    let reject = attack(&file, &policy, |lie| lie.state = None);
    assert!(matches!(reject, Reject::TreeNotShown { .. }), "{reject}");
    // Of an older state, with a newer head: its record is not the one signed for.
    rig.request(&request(vec![insert_rows("people", &[(777, "new", 1)])])).unwrap();
    rig.attest();
    let newer = prove(&mut rig, &query).unwrap();
    let old_in_new = ProofFile { note: newer.note.clone(), ..file.clone() };
    let Err(reject) = verify_file(&old_in_new, &policy) else { panic!() };
    assert!(matches!(reject, Reject::NotInLog(_)), "{reject}");
    let mixed = ProofFile { head: newer.head.clone(), note: newer.note.clone(), ..file.clone() };
    let Err(reject) = verify_file(&mixed, &policy) else { panic!() };
    assert!(matches!(reject, Reject::TreeMismatch { .. }), "{reject}");
    // A head that was seen: a newer one must show that it continues it.
    let first = verify_file(&file, &policy).unwrap();
    let mut pinned = policy.clone();
    pinned.seen = Some(Seen { size: first.size, root: first.root });
    let fork = Reject::Fork { seen: first.size, size: verify_file(&newer, &policy).unwrap().size };
    assert_eq!(verify_file(&newer, &pinned), Err(fork.clone()));
    let continued = prove_since(&mut rig, &query, Some(first.size)).unwrap();
    assert!(verify_file(&continued, &pinned).is_ok());
    let other = prove_since(&mut rig, &query, Some(first.size - 1)).unwrap();
    assert_eq!(verify_file(&other, &pinned), Err(fork));
    let reject = attack(&continued, &pinned, |lie| {
        lie.head.since.as_mut().unwrap().root.0[3] ^= 1;
    });
    assert!(matches!(reject, Reject::NotInLog(_)), "{reject}");
    let mut forked = pinned.clone();
    forked.seen.as_mut().unwrap().root.0[3] ^= 1;
    assert!(matches!(verify_file(&continued, &forked), Err(Reject::Fork { .. })));
    for since in [0, 1_000_000] {
        let refused = prove_since(&mut rig, &query, Some(since));
        assert_eq!(refused, Err(ProveStop::NotThere("the older head")));
    }
    // A head that was seen: an older one is a rollback, another one of the same size a fork.
    let seen = verify_file(&newer, &policy).unwrap();
    let mut pinned = policy.clone();
    pinned.seen = Some(Seen { size: seen.size, root: seen.root });
    assert!(verify_file(&newer, &pinned).is_ok());
    let Err(reject) = verify_file(&file, &pinned) else { panic!() };
    assert!(matches!(reject, Reject::Rollback { .. }), "{reject}");
    let mut root = seen.root;
    root.0[0] ^= 1;
    let mut forked = policy.clone();
    forked.seen = Some(Seen { size: seen.size, root });
    assert!(matches!(verify_file(&newer, &forked), Err(Reject::Rollback { .. })));
    // Too few who stand behind it; another cluster.
    let lines: Vec<&str> = file.note.lines().collect();
    let fewer = lines[..lines.len() - 1].join("\n") + "\n";
    let reject = attack(&file, &policy, |lie| lie.note = fewer);
    assert_eq!(reject, Reject::TooFewCosigners { cosigners: 1 });
    let reject = attack(&file, &policy, |lie| lie.note = lie.note.replacen("/1\n", "/2\n", 1));
    assert_eq!(reject, Reject::AnotherCluster);
    let twice = file.note.clone() + lines[lines.len() - 1] + "\n";
    let once = Policy::parse(&policy_text_of_three(&rig)).unwrap();
    let lie = ProofFile { note: twice, ..file.clone() };
    assert_eq!(verify_file(&lie, &once), Err(Reject::TooFewCosigners { cosigners: 2 }));
}

fn policy_text_of_three(rig: &Rig) -> String {
    let log = rig.keys.0[&TenantId::SYSTEM].cluster_signing().verifying_key();
    let mut text = format!("log {}\n", Verifier::new(ORIGIN, KeyKind::Log, log));
    for at in 0..3 {
        let name = format!("replica-{at}");
        let key = Verifier::new(&name, KeyKind::Cosigner, cosigner(at).verifying_key());
        text += &format!("witness {name} {key}\n");
    }
    text + "group all all replica-0 replica-1 replica-2\nquorum all\n"
}

fn entry_hash(entry: &crate::proof::Entry) -> crate::crypto::ChainHash {
    use crate::crypto::tree;
    let digest = match &entry.value {
        EntryValue::Hidden(digest) => *digest,
        EntryValue::Row { begun_at, record, row } => {
            tree::row_digest(&row.commitment(crate::ids::TableId::new(1)), *begun_at, record)
        }
        other => panic!("{other:?}"),
    };
    tree::entry_hash(&entry.salt, crate::ids::TreeId::new(16), &entry.key, &digest)
}

#[test]
fn a_redacted_copy_holds_for_what_is_left() {
    let (mut rig, _) = world(Memory::Ample, 24);
    let policy = policy(&rig);
    let column = crate::ids::ColumnId::new;
    let query = canonical(&mut rig, "SELECT * FROM people WHERE age >= 0", None);
    let file = prove(&mut rig, &query).unwrap();
    let whole = verify_file(&file, &policy).unwrap();
    let copy = redact(&file, &[column(2)], &[column(1)]).unwrap();
    let verified = verify(&query.encode(), &copy.encode(), &policy).unwrap();
    assert!(verified.redacted);
    let (Answer::Rows(whole), Answer::Rows(left)) = (whole.answer, verified.answer) else {
        panic!()
    };
    assert_eq!(whole.len(), left.len());
    for (whole, left) in whole.iter().zip(&left) {
        assert_eq!((&whole[0], &whole[2]), (&left[0], &left[2]));
        assert_eq!(left[1], AnswerCell::Redacted);
    }
    let AnswerCell::Value(name) = &whole[0][1] else { panic!() };
    let bytes = copy.encode();
    let name = &[&[0x62][..], &name.bytes].concat();
    assert!(!bytes.windows(name.len()).any(|at| at == name), "the value is gone");
    assert!(redact(&file, &[column(3)], &[column(1)]).is_none(), "the filter needs it");
    assert!(redact(&file, &[column(1)], &[column(1)]).is_none(), "the key needs it");
    // Of an event.
    let position = (0..rig.position(T1)).map(Position::new).find(|position| {
        let position = *position;
        let kind = QueryKind::Event { position };
        let query = CanonicalQuery { tenant: T1, kind };
        let file = prove(&mut rig, &query).unwrap();
        let Evidence::Event { opening: Some(Opening::Row { .. }), .. } = &file.evidence else {
            return false;
        };
        let copy = redact(&file, &[column(2), column(3)], &[]).unwrap();
        let verified = verify(&query.encode(), &copy.encode(), &policy).unwrap();
        assert!(verified.redacted);
        true
    });
    assert!(position.is_some());
}

/// Who holds a redacted copy, knows the table and has a list of all names: no guess can be checked,
/// as the salt of what was taken out is nowhere in the copy.
#[test]
fn hidden_columns_cannot_be_guessed() {
    use crate::crypto::commitment::{Salt, column_hash};
    let (mut rig, _) = world(Memory::Ample, 24);
    let column = crate::ids::ColumnId::new;
    let table = crate::ids::TableId::new(1);
    let query = canonical(&mut rig, "SELECT * FROM people WHERE id < 8", None);
    let file = prove(&mut rig, &query).unwrap();
    let copy = redact(&file, &[column(2)], &[column(1)]).unwrap();
    let cells = |file: &ProofFile, at: usize| {
        let mut found = Vec::new();
        with_leaves(rows_of(&mut file.clone()), &mut |leaf| {
            for (_, item) in &leaf.shown {
                if let Item::Entry(entry) = item
                    && let EntryValue::Row { row: Row::Columns { columns, .. }, .. } = &entry.value
                {
                    found.push(columns[at].clone());
                }
            }
        });
        found
    };
    let names: Vec<String> = (0..11).map(|at| format!("n{at}")).collect();
    let guesses = |salt: &Salt, hash: &crate::crypto::ChainHash| {
        names
            .iter()
            .filter(|name| column_hash(salt, table, column(2), 5, name.as_bytes()) == *hash)
            .count()
    };
    // All sixteen-byte strings of the copy could be the salt; but for the one that was taken out.
    let bytes = copy.encode();
    let salts: Vec<Salt> = bytes.windows(16).map(|at| Salt(at.try_into().unwrap())).collect();
    let (mut hidden, mut known) = (0, 0);
    for (whole, left) in cells(&file, 1).iter().zip(cells(&copy, 1)) {
        let Cell::Hidden(hash) = left else { panic!("it was taken out") };
        let Cell::Shown { salt, .. } = whole else { panic!("it was shown") };
        known += guesses(salt, &hash);
        hidden += 1;
        assert!(salts.iter().all(|salt| guesses(salt, &hash) == 0), "a name was guessed");
    }
    assert!(hidden > 3 && known == hidden, "{known} of {hidden} are guessed with the salt");
}

#[test]
fn deep_and_huge_proofs_are_refused_before_they_cost() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let policy = policy(&rig);
    let query = canonical(&mut rig, "SELECT id FROM people WHERE id = 3", None);
    let file = prove(&mut rig, &query).unwrap();
    let deep = |levels: u8| {
        let mut lie = file.clone();
        let node = rows_of(&mut lie);
        for level in node.level + 1..levels {
            let inner =
                core::mem::replace(node, Node { level, entries: 1, shown: vec![], hashes: vec![] });
            node.shown.push((0, Item::Child { count: 1, node: alloc::boxed::Box::new(inner) }));
        }
        lie.encode()
    };
    assert!(matches!(verify(&query.encode(), &deep(16), &policy), Err(Reject::Tree { .. })));
    assert!(matches!(verify(&query.encode(), &deep(200), &policy), Err(Reject::Malformed(_))));
    // Arrays that claim more than there is; nesting without end.
    for head in [[0x9a, 0xff, 0xff, 0xff, 0xff], [0x81; 5]] {
        let mut bytes = Vec::new();
        Encoder::new(&mut bytes).array(7).text("verity proof").uint(1).bytes(&query.encode());
        for _ in 0..100_000 {
            bytes.extend(head);
        }
        assert!(matches!(verify(&query.encode(), &bytes, &policy), Err(Reject::Malformed(_))));
    }
    let huge = vec![0; crate::limits::PROOF_SIZE_MAX + 1];
    let size = huge.len();
    assert_eq!(verify(&query.encode(), &huge, &policy), Err(Reject::TooLarge { size }));
    let mut nested = query.encode();
    nested.truncate(4);
    let _ = nested.to_owned();
}

/// What other implementations of the format are held against: `VERITY_BLESS=1` writes it. Each line
/// of `verdicts` makes another file of one: a bit turned, or the query of a third written into it.
#[test]
fn golden_proofs_verify() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let mut queries: Vec<CanonicalQuery> = Vec::new();
    for (at, (sql, as_of)) in corpus(&mut rig).into_iter().enumerate() {
        if as_of.is_none() || at % 3 == 0 {
            queries.push(canonical(&mut rig, &sql, as_of));
        }
    }
    queries.extend(all_others(&mut rig));
    let (mut indexed, _) = indexed_world(Memory::Ample);
    let first_indexed = queries.len();
    queries.extend(INDEXED.iter().map(|sql| canonical(&mut indexed, sql, None)));
    queries.extend(indexed_past(&mut indexed).into_iter().map(|(query, _)| query));
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proofs");
    let write = std::env::var_os("VERITY_BLESS").is_some();
    let text = policy_text_of_two(&rig);
    let policy = Policy::parse(&text).unwrap();
    let golden = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        if write {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name} changed");
    };
    golden("policy", text.as_bytes());
    let (mut random, mut verdicts) = (1_u64, String::new());
    let mut files = Vec::new();
    for (at, query) in queries.iter().enumerate() {
        let since = (at % 5 == 3).then_some(at as u64 / 5 % 4 + 1);
        let rig = if at < first_indexed { &mut rig } else { &mut indexed };
        let file = prove_since(rig, query, since).unwrap();
        let bytes = file.encode();
        assert!(verify(&query.encode(), &bytes, &policy).is_ok());
        golden(&format!("{at:02}.proof"), &bytes);
        if at == 0 {
            golden("head.tlog-proof", file.tlog_proof().as_bytes());
            golden("head.leaf", format!("{}\n", file.head.record.hash()).as_bytes());
        }
        for _ in 0..16 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let mut lie = bytes.clone();
            let bit = (random >> 20) as usize % (lie.len() * 8);
            lie[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&query.encode(), &lie, &policy).is_err());
            verdicts += &format!("{at:02} bit {bit} refused\n");
        }
        files.push(file);
    }
    for (left, file) in files.iter().enumerate() {
        for (right, query) in queries.iter().enumerate().filter(|(right, _)| *right != left) {
            let lie = ProofFile { query: query.clone(), ..file.clone() };
            let holds = verify(&query.encode(), &lie.encode(), &policy).is_ok();
            if holds || (left * 5 + right * 3).is_multiple_of(11) {
                let verdict = if holds { "valid" } else { "refused" };
                verdicts += &format!("{left:02} query {right:02} {verdict}\n");
            }
        }
    }
    golden("verdicts", verdicts.as_bytes());
}

fn policy_text_of_two(rig: &Rig) -> String {
    policy_text_of_three(rig).replace("group all all", "group all 2")
}
