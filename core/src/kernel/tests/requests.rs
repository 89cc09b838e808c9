//! Idempotency, streams, tenants, order, atomicity, limits.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::ids::{IdempotencyId, Position, TenantId};
use crate::kernel::{
    ExpectedVersion, Limit, Operation, PrepareKind, Request, RequestError, ResultDetail,
    RetryReason,
};
use crate::limits::{ClusterConstants, IDEMPOTENCY_AHEAD_MAX_MS, IDEMPOTENCY_KEPT_MS};
use crate::query::{SqlState, Value};

fn append(stream: &str, expected: ExpectedVersion, records: &[&[u8]]) -> Operation {
    let records = records.iter().map(|record| record.to_vec()).collect();
    Operation::Append { stream: stream.to_string(), expected, records }
}

fn with_table(memory: Memory) -> Rig {
    let mut rig = Rig::new(memory);
    let create = create_table(&rig.catalog(T1), "people", true);
    rig.commands(&[create]).unwrap();
    rig
}

#[test]
fn inserted_rows_are_there_and_sealed() {
    let mut rig = with_table(Memory::None);
    let reply = rig
        .request(&request(vec![insert_rows("people", &[(2, "canary-b", 20), (1, "canary-a", 10)])]))
        .unwrap();
    assert_eq!(reply.rows_affected(), 2);
    assert_eq!(reply.position, Some(Position::new(2)));
    assert_eq!(rig.rows("people"), ["1|canary-a|10", "2|canary-b|20"]);
    rig.checkpoint();
    assert_eq!(rig.rows("people"), ["1|canary-a|10", "2|canary-b|20"]);
    assert!(rig.disk.holds(&[0; 16]));
    assert!(!rig.disk.holds(b"canary"));
}

#[test]
fn a_request_is_all_or_nothing() {
    let mut rig = with_table(Memory::None);
    let before = rig.position(T1);
    let error = rig
        .request(&request(vec![
            append("log", ExpectedVersion::Any, &[b"x"]),
            insert_rows("people", &[(1, "a", 1), (2, "b", 2), (1, "c", 3)]),
        ]))
        .unwrap_err();
    let RequestError::Sql(error) = error else { panic!("{error}") };
    assert_eq!(error.code, SqlState::UniqueViolation);
    assert_eq!(rig.position(T1), before);
    assert_eq!(rig.rows("people"), Vec::<alloc::string::String>::new());
    let reply = rig.request(&request(vec![append("log", ExpectedVersion::None, &[b"x"])])).unwrap();
    let ResultDetail::Appended { version: 1, .. } = reply.results[0].detail else {
        panic!("{reply:?}")
    };
}

#[test]
fn a_remembered_id_gets_its_old_outcome() {
    let mut rig = with_table(Memory::None);
    let id1 = id(NOW_MS + 1_000_000, 1);
    let insert =
        Request { idempotency: id1, ..request(vec![insert_rows("people", &[(1, "a", 1)])]) };
    let first = rig.request(&insert).unwrap();
    assert!(!first.replayed);
    let again = rig.request(&insert).unwrap();
    assert!(again.replayed);
    assert_eq!(
        (first.position, first.op, first.timestamp, &first.results),
        (again.position, again.op, again.timestamp, &again.results)
    );
    // Another body under the same id.
    let other =
        Request { operations: vec![insert_rows("people", &[(2, "a", 1)])], ..insert.clone() };
    assert_eq!(rig.request(&other), Err(RequestError::IdempotencyReused { id: id1 }));
    // A failure is remembered too, in one record.
    let id2 = id(NOW_MS + 1_000_000, 2);
    let failing = Request { idempotency: id2, ..insert.clone() };
    let before = rig.position(T1);
    let error = rig.request(&failing).unwrap_err();
    assert_eq!(rig.position(T1), before + 1);
    assert_eq!(rig.request(&failing), Err(error));
    assert_eq!(rig.position(T1), before + 1);
    // And a success without events: an upsert of nothing, here no command at all.
    let id3 = id(NOW_MS + 1_000_000, 3);
    let nothing = [crate::query::Command::Nothing];
    let first = rig.commands_as(id3, &nothing).unwrap();
    assert_eq!(first.position, Some(Position::new(before + 1)));
    assert!(rig.commands_as(id3, &nothing).unwrap().replayed);
    let commitment = rig.kernel.commitment(&rig.store, T1, id1);
    assert!(commitment.is_ok_and(|found| found.unwrap().outcome.result.is_ok()));
}

#[test]
fn ids_are_used_within_their_time() {
    let mut rig = with_table(Memory::Ample);
    let ask = |rig: &mut Rig, id: IdempotencyId, key: i64| {
        let operations = vec![insert_rows("people", &[(key, "a", 1)])];
        rig.request(&Request { idempotency: id, ..request(operations) })
    };
    let late = id(NOW_MS - 1_000, 1);
    assert!(matches!(ask(&mut rig, late, 1), Err(RequestError::IdempotencyExpired { .. })));
    let ancient = id(NOW_MS - IDEMPOTENCY_KEPT_MS - 1_000, 1);
    assert!(matches!(ask(&mut rig, ancient, 1), Err(RequestError::IdempotencyUnknown { .. })));
    let far = id(NOW_MS + IDEMPOTENCY_AHEAD_MAX_MS + 60_000, 1);
    assert!(matches!(ask(&mut rig, far, 1), Err(RequestError::IdempotencyTooFarAhead { .. })));
    // None of these is remembered, none is in the log.
    let good = id(NOW_MS + 5_000, 1);
    assert!(ask(&mut rig, good, 1).is_ok());
    // Remembered however late, until it is trimmed by others.
    rig.now_ms += IDEMPOTENCY_KEPT_MS;
    assert!(ask(&mut rig, good, 1).unwrap().replayed);
    rig.now_ms += 10_000;
    assert!(ask(&mut rig, good, 1).unwrap().replayed);
    let other = id(rig.now_ms + 5_000, 2);
    assert!(ask(&mut rig, other, 2).is_ok());
    assert!(matches!(ask(&mut rig, good, 1), Err(RequestError::IdempotencyUnknown { .. })));
    assert_eq!(rig.rows("people").len(), 2);
}

#[test]
fn old_outcomes_are_trimmed_a_few_at_a_time() {
    use crate::kernel::trees::IDEMPOTENCY;
    use crate::store::TreeRef;
    let mut rig = with_table(Memory::None);
    for number in 0..50 {
        let idempotency = id(NOW_MS + 10_000, number);
        let operations = vec![append("s", ExpectedVersion::Any, &[b"x"])];
        rig.request(&Request { idempotency, ..request(operations) }).unwrap();
    }
    rig.now_ms += IDEMPOTENCY_KEPT_MS + 20_000;
    let count = |rig: &Rig| rig.store.count(TreeRef::new(T1, IDEMPOTENCY));
    for number in 0..20 {
        let idempotency = id(rig.now_ms + 10_000, number);
        let operations = vec![append("s", ExpectedVersion::Any, &[b"x"])];
        rig.request(&Request { idempotency, ..request(operations) }).unwrap();
    }
    rig.commands(&[crate::query::Command::Nothing]).unwrap();
    let left = (0..100).find_map(|_| count(&rig).ok());
    assert!(left.is_none_or(|left| left == 20), "{left:?}");
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

#[test]
fn expected_versions() {
    let mut rig = Rig::new(Memory::None);
    let mut ask = |expected, ok: bool, version| {
        let result = rig.request(&request(vec![append("s", expected, &[b"a", b"b"])]));
        match result {
            Ok(reply) => {
                assert!(ok, "{expected:?}");
                assert_eq!(reply.rows_affected(), 2);
                let ResultDetail::Appended { version: found, .. } = reply.results[0].detail else {
                    panic!("{reply:?}")
                };
                assert_eq!(found, version);
            }
            Err(RequestError::WrongExpectedVersion { actual, .. }) => {
                assert!(!ok, "{expected:?}");
                assert_eq!(actual, version);
            }
            Err(error) => panic!("{error}"),
        }
    };
    ask(ExpectedVersion::Exists, false, 0);
    ask(ExpectedVersion::Exact(1), false, 0);
    ask(ExpectedVersion::None, true, 2);
    ask(ExpectedVersion::None, false, 2);
    ask(ExpectedVersion::Exact(0), false, 2);
    ask(ExpectedVersion::Exact(2), true, 4);
    ask(ExpectedVersion::Exists, true, 6);
    ask(ExpectedVersion::Any, true, 8);
    // Within one request the second sees the first.
    let twice = request(vec![
        append("t", ExpectedVersion::None, &[b"1"]),
        append("u", ExpectedVersion::None, &[b"1"]),
        append("t", ExpectedVersion::Exact(1), &[b"2"]),
    ]);
    assert_eq!(rig.request(&twice).unwrap().results.len(), 3);
    let error = rig.request(&request(vec![append("", ExpectedVersion::Any, &[b"1"])]));
    assert!(matches!(error, Err(RequestError::StreamNameInvalid { .. })));
    let error = rig.request(&request(vec![append("s", ExpectedVersion::Any, &[])]));
    assert_eq!(error, Err(RequestError::Empty));
}

#[test]
fn requests_follow_one_another_when_asked() {
    let mut rig = with_table(Memory::None);
    let first = id(NOW_MS + 100_000, 1);
    let second =
        Request { after: Some(first), ..request(vec![insert_rows("people", &[(2, "b", 2)])]) };
    assert_eq!(rig.request(&second), Err(RequestError::AfterUnknown { after: first }));
    let one =
        Request { idempotency: first, ..request(vec![insert_rows("people", &[(1, "a", 1)])]) };
    // In one prepare, in order.
    let sealed = [rig.prepare(&one).unwrap(), rig.prepare(&second).unwrap()];
    assert!(rig.batch(&sealed).iter().all(Result::is_ok));
}

#[test]
fn tenants_are_made_and_kept_apart() {
    let mut rig = Rig::new(Memory::None);
    let t2 = TenantId::new(2);
    let in_t2 =
        Request { tenant: t2, ..request(vec![append("s", ExpectedVersion::None, &[b"x"])]) };
    assert_eq!(rig.request(&in_t2), Err(RequestError::TenantUnknown(t2)));
    let create = Operation::CreateTenant { tenant: t2, kek_hash: HASH };
    assert!(matches!(
        rig.request(&request(vec![create.clone()])),
        Err(RequestError::NotPermitted { .. })
    ));
    let create = Request { tenant: TenantId::SYSTEM, ..request(vec![create]) };
    assert_eq!(rig.request(&create).unwrap().results[0].detail, ResultDetail::TenantCreated(t2));
    assert_eq!(rig.request(&create), Err(RequestError::TenantExists(t2)));
    assert_eq!(rig.request(&in_t2).unwrap().position, Some(Position::new(1)));
    // The same stream name means another stream in another tenant.
    let in_t1 = Request { tenant: T1, ..in_t2 };
    assert_eq!(rig.request(&in_t1).unwrap().position, Some(Position::new(1)));
    assert_eq!(rig.kernel.tenants(&rig.store).ok(), Some(vec![T1, t2]).filter(|_| true));
}

#[test]
fn limits_refuse_before_any_change() {
    let mut rig = with_table(Memory::Ample);
    let before = rig.position(T1);
    let rows: Vec<(i64, &str, i64)> = (0..600).map(|at| (at, "x", at)).collect();
    let error = rig.request(&request(vec![insert_rows("people", &rows)])).unwrap_err();
    assert!(matches!(
        error,
        RequestError::LimitExceeded { limit: Limit::TransactionEvents, value: 513, max: 512 }
    ));
    let large = vec![7; 400 * 1024];
    let many = |count| {
        let records = vec![large.clone(); count];
        request(vec![Operation::Append {
            stream: "s".to_string(),
            expected: ExpectedVersion::Any,
            records,
        }])
    };
    assert!(matches!(rig.request(&many(3)), Err(RequestError::TooLarge { .. })));
    assert_eq!(rig.position(T1), before);
    assert!(rig.request(&many(1)).is_ok());
    let huge = Operation::InsertRows {
        table: "people".to_string(),
        columns: vec!["id".to_string(), "name".to_string()],
        rows: vec![vec![Value::Integer(1), Value::Text("x".repeat(600 * 1024))]],
    };
    assert!(matches!(rig.request(&request(vec![huge])), Err(RequestError::TooLarge { .. })));
}

#[test]
fn tables_that_race_get_new_ids_or_a_retry() {
    let mut rig = Rig::new(Memory::None);
    let catalog = rig.catalog(T1);
    let commands =
        [create_table(&catalog, "a", true), create_table(&catalog, "b", false)].map(|c| vec![c]);
    let sealed: Vec<_> =
        commands.iter().map(|commands| rig.seal_commands(&request(vec![]), commands)).collect();
    assert!(rig.batch(&sealed).iter().all(Result::is_ok));
    let catalog = rig.catalog(T1);
    assert_eq!(catalog.table_count(), 2);
    assert_eq!(catalog.version.get(), 2);
    // Bound to a table that is another by now.
    let stale = rig.prepare(&request(vec![insert_rows("a", &[(1, "x", 1)])])).unwrap();
    let (table, schema_version) = table_ids(&catalog, "a");
    rig.commands(&[crate::query::Command::DropTable { table, schema_version }]).unwrap();
    let error = rig.batch(&[stale]).remove(0).unwrap_err();
    assert!(error.retryable(), "{error}");
    let duplicate = create_table(&rig.catalog(T1), "b", true);
    let RequestError::Sql(error) = rig.commands(&[duplicate]).unwrap_err() else { panic!() };
    assert_eq!(error.code, SqlState::DuplicateTable);
    assert!(RequestError::Retry(RetryReason::QueueFull).retryable());
}

#[test]
fn checkpoint_records_come_every_thousand_and_at_shutdown() {
    let mut rig = Rig::with(Memory::Ample, crate::limits::ClusterConstants::SMALL);
    for batch in 0..5 {
        let records: Vec<Vec<u8>> = (0..300_u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let stream = alloc::format!("s{batch}");
        let expected = ExpectedVersion::None;
        rig.request(&request(vec![Operation::Append { stream, expected, records }])).unwrap();
    }
    // Four batches of 301, then the first checkpoint record at the fourth's end.
    let head = rig.logs.head(T1).unwrap().clone();
    assert_eq!(head.next.get(), 5 * 301 + 1);
    assert_eq!(head.last_checkpoint_record, Some(Position::new(4 * 301)));
    rig.apply(PrepareKind::Shutdown, 0, &[]);
    let end = 5 * 301 + 2;
    let head = rig.kernel.log_head(&rig.store, &rig.logs, T1);
    assert_eq!(head.map(|head| head.next.get()).unwrap(), end);
    let system = rig.kernel.log_head(&rig.store, &rig.logs, TenantId::SYSTEM).unwrap();
    assert!(!system.has_news());
    // Nothing new: nothing added.
    rig.apply(PrepareKind::Shutdown, 0, &[]);
    let head = rig.kernel.log_head(&rig.store, &rig.logs, T1);
    assert_eq!(head.map(|head| head.next.get()).unwrap(), end);
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

/// Both are cluster constants: two releases with other defaults write the same logs.
#[test]
fn how_often_checkpoint_records_come_is_the_clusters_own() {
    let mut rig = Rig::with(
        Memory::Ample,
        ClusterConstants {
            checkpoint_record_interval: 4,
            shutdown_records_max: 1,
            ..ClusterConstants::SMALL
        },
    );
    let others = [10, 11, 12].map(TenantId::new);
    rig.keys.add(others.into_iter());
    let create = |tenant: &TenantId| Operation::CreateTenant { tenant: *tenant, kek_hash: HASH };
    let create = request(others.iter().map(create).collect());
    rig.request(&Request { tenant: TenantId::SYSTEM, ..create }).unwrap();
    let append = |rig: &mut Rig, tenant| {
        let append = append("s", ExpectedVersion::Any, &[b"news"]);
        rig.request(&Request { tenant, ..request(vec![append]) }).unwrap();
    };
    let head = |rig: &Rig, tenant| rig.kernel.log_head(&rig.store, &rig.logs, tenant).unwrap();
    for tenant in others {
        // The stream and its record, then a record, three times: due after the fourth record.
        (0..4).for_each(|_| append(&mut rig, tenant));
        assert_eq!(head(&rig, tenant).last_checkpoint_record, Some(Position::new(4)));
        assert_eq!(head(&rig, tenant).next.get(), 6);
    }
    rig.apply(PrepareKind::Shutdown, 0, &[]);
    let quiet = others.iter().filter(|tenant| !head(&rig, **tenant).has_news()).count();
    assert_eq!(quiet, 1);
    assert!(!head(&rig, TenantId::SYSTEM).has_news());
    rig.rebuild().map(|report| assert_eq!(report.difference, None)).unwrap();
}

/// One op visits all tenants, and what it appends stays in memory until the checkpoint after it.
#[test]
fn a_shutdown_of_very_many_tenants_records_as_many_heads_as_fit() {
    const TENANTS: u64 = 10_000;
    let mut rig = Rig::with(Memory::Ample, ClusterConstants::DEFAULT);
    let tenants = || (10..TENANTS).map(TenantId::new);
    rig.keys.add(tenants());
    for some in tenants().collect::<Vec<_>>().chunks(60) {
        let create =
            |tenant: &TenantId| Operation::CreateTenant { tenant: *tenant, kek_hash: HASH };
        let create = request(some.iter().map(create).collect());
        rig.request(&Request { tenant: TenantId::SYSTEM, ..create }).unwrap();
        rig.checkpoint();
    }
    for tenant in tenants() {
        let append = append("s", ExpectedVersion::None, &[b"news"]);
        rig.request(&Request { tenant, ..request(vec![append]) }).unwrap();
        if tenant.get() % 500 == 0 {
            rig.checkpoint();
        }
    }
    rig.checkpoint();
    for shutdowns in 1..=3 {
        rig.apply(PrepareKind::Shutdown, 0, &[]);
        let news = |rig: &Rig, tenant| {
            rig.kernel.log_head(&rig.store, &rig.logs, tenant).unwrap().has_news()
        };
        let quiet = tenants().filter(|tenant| !news(&rig, *tenant)).count() as u32;
        assert_eq!(quiet, shutdowns * rig.constants.shutdown_records_max);
        assert!(!news(&rig, TenantId::SYSTEM));
    }
}
