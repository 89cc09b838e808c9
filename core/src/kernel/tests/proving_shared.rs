//! What proofs of one attestation share is shared by no others; what a proof misses is read at
//! once.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::proving::{canonical, note, policy, prove, world};
use super::rig::*;
use crate::ids::TenantId;
use crate::kernel::prove::{ProveStop, Proving};
use crate::kernel::{Operation, Request};
use crate::limits::PROOF_SHARED_PARTS_MAX;
use crate::log::LogPins;
use crate::proof::{Answer, AnswerCell, CanonicalQuery, QueryKind, verify};
use crate::query::Value;
use crate::store::Pins;

fn sql(rig: &mut Rig, text: &str) {
    let operation = Operation::Sql { text: text.to_string(), params: vec![] };
    rig.request(&request(vec![operation])).unwrap();
}

/// The values of the one row that is found.
fn proved(rig: &mut Rig, text: &str) -> Vec<AnswerCell> {
    let query = canonical(rig, text, None);
    let file = prove(rig, &query).unwrap().encode();
    let verified = verify(&query.encode(), &file, &policy(rig)).unwrap();
    assert!(verified.fresh, "{text}");
    let Answer::Rows(mut rows) = verified.answer else { panic!("{text}") };
    rows.pop().unwrap()
}

#[test]
fn each_attestation_and_each_tenant_has_its_own() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let two = TenantId::new(2);
    for round in 0..4 {
        sql(
            &mut rig,
            &format!("INSERT INTO people (id, name, age) VALUES ({}, 'one', {round})", 900 + round),
        );
        // The schema, and which trees there are, change as well.
        sql(&mut rig, &format!("ALTER TABLE people ADD COLUMN c{round} BIGINT DEFAULT {round}"));
        rig.attest();
        for again in 0..2 {
            let row = proved(&mut rig, &format!("SELECT * FROM people WHERE id = {}", 900 + round));
            assert_eq!(row.len(), 4 + round, "{again}");
            let last = crate::kernel::canonical::proof_value(&Value::Integer(round as i64));
            assert_eq!(row.last(), Some(&AnswerCell::Value(last)));
            proved(&mut rig, "SELECT * FROM other WHERE id = 1");
            // Another tenant's between those of this one.
            let kind = QueryKind::Event { position: crate::ids::Position::new(0) };
            let query = CanonicalQuery { tenant: two, kind };
            let file = prove(&mut rig, &query).unwrap().encode();
            let verified = verify(&query.encode(), &file, &policy(&rig)).unwrap();
            assert!(matches!(verified.answer, Answer::Event(_)));
        }
        let append = Operation::Append {
            stream: "s".to_string(),
            expected: crate::kernel::ExpectedVersion::Any,
            records: vec![b"more".to_vec()],
        };
        rig.request(&Request { tenant: two, ..request(vec![append]) }).unwrap();
    }
}

/// Rows of several generations and schemas, in an order that no memory of the last one serves.
#[test]
fn rows_of_any_generation_are_proved() {
    let (mut rig, _) = world(Memory::None, 8);
    for round in 0..12 {
        rig.recover();
        sql(
            &mut rig,
            &format!("INSERT INTO people (id, name, age) VALUES ({}, 'new', {round})", 900 + round),
        );
        if round % 4 == 0 {
            sql(&mut rig, &format!("ALTER TABLE people ADD COLUMN c{round} TEXT"));
        }
    }
    rig.attest();
    for round in 0..40 {
        let key = 900 + round * 5 % 12;
        proved(&mut rig, &format!("SELECT name FROM people WHERE id = {key}"));
    }
    let shared = rig.shared.borrow();
    let known = shared.committed(T1).len();
    assert!((2..=crate::limits::PROOF_SHARED_COMMITTED_MAX).contains(&known), "{known}");
}

/// More tables than are kept.
#[test]
fn many_tables_are_proved_in_turns() {
    let (mut rig, _) = world(Memory::Ample, 8);
    let count = PROOF_SHARED_PARTS_MAX + 3;
    for table in 0..count {
        sql(&mut rig, &format!("CREATE TABLE t{table} (id BIGINT PRIMARY KEY)"));
        sql(&mut rig, &format!("INSERT INTO t{table} VALUES ({table})"));
    }
    rig.attest();
    for table in (0..count).chain((0..count).rev()) {
        proved(&mut rig, &format!("SELECT id FROM t{table}"));
    }
}

/// One fetch for each level of the trees, not one for each key.
#[test]
fn what_many_keys_need_is_read_at_once() {
    let (mut rig, _) = world(Memory::Ample, 8);
    for first in (0..3_000).step_by(100) {
        // Two small ones are there.
        let keys = first + 10..first + 110;
        let rows: Vec<_> = keys.map(|key| format!("({key}, 'row {key}', {key})")).collect();
        sql(&mut rig, &format!("INSERT INTO other VALUES {}", rows.join(", ")));
    }
    rig.attest();
    let keys: Vec<_> = (0..60).map(|at| (10 + at * 47).to_string()).collect();
    let query = canonical(
        &mut rig,
        &format!("SELECT * FROM other WHERE id IN ({})", keys.join(", ")),
        None,
    );
    rig.checkpoint();
    rig.attest();
    rig.store.evict_all();
    rig.logs.evict_all();
    let (mut pins, mut log_pins) = (Pins::new(), LogPins::default());
    let note = note(&rig);
    let mut fetches = 0;
    let file = loop {
        let Rig { kernel, store, logs, keys, shared, .. } = &mut rig;
        let proving = Proving { kernel, store, logs, keys, shared };
        match proving.prove(&query, note.clone(), None) {
            Ok(file) => break file,
            Err(ProveStop::Fault | ProveStop::LogFault) => {
                fetches += 1;
                rig.fetch_both(&mut pins, &mut log_pins);
            }
            Err(error) => panic!("{error}"),
        }
    };
    rig.store.unpin(&mut pins);
    rig.logs.release(&mut log_pins);
    assert!((2..=16).contains(&fetches), "{fetches} fetches for 60 rows");
    let verified = verify(&query.encode(), &file.encode(), &policy(&rig)).unwrap();
    let Answer::Rows(rows) = verified.answer else { panic!() };
    assert_eq!(rows.len(), 60);
}
