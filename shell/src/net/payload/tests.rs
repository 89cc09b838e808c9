//! Round trips, and messages mutated at random: a value or an error, never a panic.

use verity_core::ids::{IdempotencyId, Op, Position, PrincipalId, ReplicaId, StreamId, TenantId};
use verity_core::kernel::{
    ExpectedVersion, Operation, OperationResult, Reply, Request, RequestError, ResultDetail,
    RetryReason,
};
use verity_core::node::ProofOf;
use verity_core::proof::QueryKind;
use verity_core::query::{Decimal, SqlError, SqlState, Value};
use verity_core::time::Timestamp;

use super::*;
use crate::net::frames::payload;
use crate::stream::Head;

fn values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Boolean(true),
        Value::Integer(i64::MIN),
        Value::Double(-0.5),
        Value::Decimal(Decimal::new(-123_456_789_012_345_678_901_234_567_890, 7).unwrap()),
        Value::text("Grüße"),
        Value::Blob(vec![0, 255]),
        Value::Date(-1),
        Value::Timestamp(1),
        Value::Uuid([9; 16]),
        Value::Json("{\"a\": [1]}".to_string()),
    ]
}

fn asks() -> Vec<Asked> {
    let append = |expected| Operation::Append {
        stream: "s".to_string(),
        expected,
        records: vec![vec![1, 2], Vec::new()],
    };
    let expected = [
        ExpectedVersion::Any,
        ExpectedVersion::None,
        ExpectedVersion::Exists,
        ExpectedVersion::Exact(7),
    ];
    let mut operations: Vec<Operation> = expected.into_iter().map(append).collect();
    operations.push(Operation::Sql { text: "INSERT …".to_string(), params: values() });
    operations.push(Operation::InsertRows {
        table: "t".to_string(),
        columns: vec!["a".to_string(), "b".to_string()],
        rows: vec![values(), Vec::new(), values()],
    });
    let kek_hash = verity_core::crypto::KekHash([0; 32]);
    operations.push(Operation::CreateTenant { tenant: TenantId::new(u64::MAX), kek_hash });
    let request = Request {
        tenant: TenantId::new(1),
        principal: PrincipalId::ZERO,
        idempotency: IdempotencyId([3; 16]),
        after: Some(IdempotencyId([4; 16])),
        operations,
    };
    let query = Query {
        tenant: TenantId::new(2),
        text: "SELECT 1".to_string(),
        params: values(),
        seen: 77,
        anywhere: true,
        returning: 5,
        window: 6,
    };
    let commitment = Ask::Commitment { tenant: TenantId::new(1), id: IdempotencyId([5; 16]) };
    let sql = || ("SELECT 1".to_string(), values());
    let position = Position::new(u64::MAX);
    let of = [
        ProofOf::Sql { text: sql().0, parameters: sql().1 },
        ProofOf::HistoryOf { text: sql().0, parameters: sql().1 },
        ProofOf::Query(QueryKind::Event { position }),
        ProofOf::Query(QueryKind::Commitment { id: IdempotencyId([6; 16]) }),
    ];
    let proofs = of.into_iter().zip([None, Some(1), Some(u64::MAX), None]);
    let prove = |(of, since)| Ask::Prove(Prove { tenant: TenantId::new(3), of, since });
    let short = [Ask::Status, Ask::Taken(u32::MAX), Ask::Cancel];
    [Ask::Execute(request), Ask::Query(query), commitment]
        .into_iter()
        .chain(short)
        .chain(proofs.map(prove))
        .map(|ask| Asked { id: 12, ask })
        .collect()
}

fn answers() -> Vec<Answer> {
    let details = [
        ResultDetail::Rows,
        ResultDetail::Schema,
        ResultDetail::Appended { stream: StreamId::new(3), version: 4 },
        ResultDetail::TenantCreated(TenantId::new(5)),
        ResultDetail::Job(verity_core::ids::TreeId::new(6)),
    ];
    let result = |detail| OperationResult { operation: 1, rows_affected: 2, detail };
    let reply = |position| Reply {
        op: Op::new(9),
        timestamp: Timestamp(10),
        position,
        results: details.into_iter().map(result).collect(),
        replayed: true,
    };
    let (columns, asked) = (vec!["a".to_string()], Some(Position::new(4)));
    let head = Some(Head { columns, position: Position::new(3), asked });
    let part = RowsPart { head, rows: vec![values(), values()], more: true };
    let sql = SqlError::new(SqlState::UndefinedTable, "no table x").at(3).hint("create it");
    let refusals = [
        RequestError::Sql(sql),
        RequestError::Retry(RetryReason::NotPrimary),
        RequestError::Retry(RetryReason::Interrupted),
        RequestError::Empty,
    ];
    let mut all = vec![
        Answer::Reply(reply(Some(Position::ZERO))),
        Answer::Reply(reply(None)),
        Answer::Rows(part),
        Answer::Rows(RowsPart { head: Some(Head::default()), ..RowsPart::default() }),
        Answer::Rows(RowsPart { rows: vec![values()], ..RowsPart::default() }),
        Answer::Unknown,
        Answer::Proof(ProofPart { file: vec![7; 300], more: true, ..ProofPart::default() }),
        Answer::Proof(ProofPart {
            query: vec![1],
            policy: "quorum all".to_string(),
            ..ProofPart::default()
        }),
    ];
    for error in refusals {
        let refusal = Refusal::of(&error, Some(ReplicaId::new(2)));
        assert_eq!(refusal.typed(), Some(error));
        all.push(Answer::Refused(refusal));
    }
    all
}

#[test]
fn round_trips() {
    for asked in asks() {
        let frame = asked.encode().unwrap();
        assert_eq!(Asked::decode(payload(&frame)).unwrap(), asked);
    }
    for answer in answers() {
        let frame = answer.encode(5).unwrap();
        assert_eq!(Answer::decode(payload(&frame)).unwrap(), (5, answer));
    }
}

#[test]
fn mutated_messages_are_refused_or_understood() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let frames = asks().iter().map(|asked| asked.encode().unwrap()).collect::<Vec<_>>();
    let more = answers().iter().map(|answer| answer.encode(1).unwrap()).collect::<Vec<_>>();
    let (mut refused, mut understood) = (0, 0);
    for frame in frames.iter().chain(&more) {
        for _ in 0..3_000 {
            let mut bytes = payload(frame).to_vec();
            for _ in 0..=random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            if random().is_multiple_of(8) {
                bytes.truncate(random() % bytes.len());
            }
            for outcome in [Asked::decode(&bytes).is_ok(), Answer::decode(&bytes).is_ok()] {
                if outcome { understood += 1 } else { refused += 1 }
            }
        }
    }
    assert!(refused > 1_000 && understood > 1_000, "{refused} refused, {understood} understood");
}

/// A request that begins a transaction whose list of operations is this pointer and these words.
fn with_operations(pointer: u64, list: &[u64]) -> Vec<u8> {
    let id = 2 << 2 | 1 | (16 << 3 | 2) << 32;
    // Request: three words of data, a pointer to execute, which is three pointers; then the id.
    let mut words = vec![1 << 48 | 3 << 32, 0, 0, 0, 3 << 48, id, 0, 2 << 2 | pointer, 0, 0];
    words.extend(list);
    words.insert(0, (words.len() as u64) << 32);
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[test]
fn lists_that_cost_their_sender_nothing_are_refused() {
    let list = |element_size: u64, count: u64| 1 | (count << 3 | element_size) << 32;
    let decode = |pointer, words: &[u64]| Asked::decode(&with_operations(pointer, words));
    // One operation of each shape a list may have, to see that the message is what it should be.
    for (element_size, words) in [(0, vec![]), (2, vec![0]), (5, vec![0])] {
        let asked = decode(list(element_size, 1), &words).unwrap();
        let Ask::Execute(request) = asked.ask else { panic!("{asked:?}") };
        assert_eq!(request.operations.len(), 1);
    }
    let composite = |count: u64| vec![count << 2];
    assert!(decode(list(7, 0), &composite(20)).is_ok());
    // A million of no size, of one byte, of nothing but a tag.
    let million = vec![0; 1_000_000 / 8];
    assert!(decode(list(0, 1_000_000), &[]).is_err());
    assert!(decode(list(2, 1_000_000), &million).is_err());
    assert!(decode(list(0, 200_000), &million).is_err());
    assert!(decode(list(7, 0), &composite(1_000_000)).is_err());
    let mut both = composite(200_000);
    both.extend(&million);
    assert!(decode(list(7, million.len() as u64), &both).is_err());
}

#[test]
fn what_fits_no_frame_is_told() {
    let request = Request {
        tenant: TenantId::new(1),
        principal: PrincipalId::ZERO,
        idempotency: IdempotencyId::NONE,
        after: None,
        operations: vec![Operation::Sql { text: "x".repeat(2 << 20), params: Vec::new() }],
    };
    assert!(Asked { id: 1, ask: Ask::Execute(request) }.encode().is_err());
}
