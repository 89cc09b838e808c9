//! The client against servers that do what servers do on bad days.

use std::time::{Duration, Instant};

use verity_core::crypto::InternalHash;
use verity_core::ids::{IdempotencyId, Op, Position};
use verity_core::kernel::{Commitment, Outcome, Reply, RequestError, Results, RetryReason};
use verity_core::limits::PROOF_SERVED_BYTES_MAX;
use verity_core::node::ProofOf;
use verity_core::query::{SqlError, SqlState, Value};
use verity_core::time::Timestamp;

use super::fake::{Fake, Step};
use super::{Client, ClientOptions, changes_data, sql_operation};
use crate::error::Error;
use crate::net::payload::{Answer, Ask, ProofPart, Refusal, RowsPart};
use crate::stream::Head;

#[test]
fn writes_are_told_by_their_first_word() {
    for write in ["insert into t", " \n-- no\n/* no */ UPDATE t", "CREATE\nTABLE", "drop"] {
        assert!(changes_data(write), "{write}");
    }
    for read in ["SELECT 1", "-- INSERT", "", "EXPLAIN INSERT INTO t", "inserts", "/* DROP"] {
        assert!(!changes_data(read), "{read}");
    }
}

fn client(fake: &Fake, deadline_ms: u64) -> Client {
    let options = ClientOptions::new().deadline(Duration::from_millis(deadline_ms));
    options.connect([&fake.address]).unwrap()
}

fn refused(error: RequestError) -> Vec<Step> {
    vec![Step::Answer(Answer::Refused(Refusal::of(&error, None)))]
}

fn retry(reason: RetryReason) -> RequestError {
    RequestError::Retry(reason)
}

fn progress() -> Step {
    Step::Answer(Answer::Rows(RowsPart { more: true, ..RowsPart::default() }))
}

fn reply() -> Reply {
    Reply {
        op: Op::new(9),
        timestamp: Timestamp(10),
        position: Some(Position::new(11)),
        results: Results::default(),
        replayed: false,
    }
}

fn remembered(result: Result<(), RequestError>) -> Vec<Step> {
    let outcome =
        Outcome { request: InternalHash([0; 32]), result: result.map(|()| Results::default()) };
    let (op, time) = (Op::new(9), Timestamp(10));
    let (id, position) = (IdempotencyId::NONE, Position::new(11));
    vec![Step::Answer(Answer::Commitment(Commitment { id, outcome, position, op, time }))]
}

fn undefined() -> RequestError {
    RequestError::Sql(SqlError::new(SqlState::UndefinedTable, "no table t"))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Done,
    Refused,
    Nothing,
}

/// Refusals that say nothing of the try before them.
fn refusals() -> Vec<RequestError> {
    vec![
        retry(RetryReason::DiskFull),
        RequestError::GridFull { pages: 2, free: 1 },
        undefined(),
        RequestError::Empty,
    ]
}

#[test]
fn a_refusal_after_a_lost_try_says_what_is_on_record() {
    for refusal in refusals() {
        for found in [Found::Done, Found::Refused, Found::Nothing] {
            let refusal = refusal.clone();
            let said = refusal.clone();
            let fake = Fake::start(move |number, ask| match (number, ask) {
                // Whether this one was applied, nobody says.
                (0, Ask::Execute(_)) => vec![Step::HangUp],
                (1, Ask::Execute(_)) => refused(refusal.clone()),
                (2, Ask::Commitment { .. }) => match found {
                    Found::Done => remembered(Ok(())),
                    Found::Refused => remembered(Err(RequestError::Empty)),
                    Found::Nothing => vec![Step::Answer(Answer::Unknown)],
                },
                other => panic!("{other:?}"),
            });
            let client = client(&fake, 30_000);
            let id = client.new_id().unwrap();
            let told = client.transaction_with_id(id, vec![sql_operation("DELETE FROM t", &[])]);
            match (found, told) {
                (Found::Done, Ok(told)) => assert_eq!(told, Reply { replayed: true, ..reply() }),
                (Found::Refused, Err(Error::Request(RequestError::Empty))) => {}
                (Found::Nothing, Err(Error::OutcomeUnknown { id: of, why })) => {
                    assert_eq!((of, why), (id, said.to_string()));
                }
                (found, told) => panic!("{found:?}: {told:?}"),
            }
            let heard = fake.heard();
            let Ask::Commitment { id: asked, .. } = &heard[2] else { panic!("{heard:?}") };
            assert_eq!((heard.len(), *asked), (3, id));
        }
    }
}

#[test]
fn a_refusal_of_the_only_try_is_final() {
    for refusal in refusals() {
        let said = refusal.clone();
        let fake = Fake::start(move |_, _| refused(refusal.clone()));
        let told = client(&fake, 30_000).execute("DELETE FROM t", &[]);
        assert!(matches!(&told, Err(Error::Request(error)) if *error == said), "{told:?}");
        assert_eq!(fake.heard().len(), 1);
    }
    // And one which says that the id is another write's, whatever was tried before.
    let fake = Fake::start(|number, ask| match (number, ask) {
        (0, _) => vec![Step::HangUp],
        (_, Ask::Execute(request)) => {
            refused(RequestError::IdempotencyReused { id: request.idempotency })
        }
        other => panic!("{other:?}"),
    });
    let told = client(&fake, 30_000).execute("DELETE FROM t", &[]);
    let reused = matches!(told, Err(Error::Request(RequestError::IdempotencyReused { .. })));
    assert!(reused && fake.heard().len() == 2);
}

#[test]
fn a_lookup_that_fails_leaves_the_outcome_unknown() {
    for never in [true, false] {
        let fake = Fake::start(move |number, _| match number {
            0 => vec![Step::HangUp],
            1 => refused(retry(RetryReason::DiskFull)),
            _ if never => refused(undefined()),
            _ => refused(retry(RetryReason::NotReady)),
        });
        let told = client(&fake, 500).execute("DELETE FROM t", &[]);
        assert!(matches!(told, Err(Error::OutcomeUnknown { .. })), "{told:?}");
    }
}

#[test]
fn a_write_without_an_id_is_sent_once() {
    let lost: fn() -> Vec<Step> = || vec![Step::HangUp];
    let interrupted: fn() -> Vec<Step> = || refused(retry(RetryReason::Interrupted));
    for end in [lost, interrupted] {
        let fake = Fake::start(move |_, _| end());
        let client = client(&fake, 2_000);
        let write = vec![sql_operation("DELETE FROM t", &[])];
        let told = client.transaction_with_id(IdempotencyId::NONE, write);
        let Err(error @ Error::OutcomeUnknown { id: IdempotencyId::NONE, .. }) = told else {
            panic!("{told:?}")
        };
        assert!(error.to_string().contains("only the data can tell"), "{error}");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(fake.heard().len(), 1);
    }
    // Refused, and so not done: it may go again.
    let fake = Fake::start(|number, _| match number {
        0 => refused(retry(RetryReason::NotReady)),
        1 => refused(retry(RetryReason::QueueFull)),
        _ => vec![Step::Answer(Answer::Reply(reply()))],
    });
    let write = vec![sql_operation("DELETE FROM t", &[])];
    client(&fake, 30_000).transaction_with_id(IdempotencyId::NONE, write).unwrap();
    assert_eq!(fake.heard().len(), 3);
}

#[test]
fn deadlines_hold_though_the_server_always_says_something() {
    let chatty = || (0..3_000).flat_map(|_| [progress(), Step::Pause(Duration::from_millis(10))]);
    let fake = Fake::start(move |_, _| chatty().collect());
    let client = client(&fake, 400);
    let begun = Instant::now();
    let told = client.query("SELECT 1", &[]);
    assert!(matches!(told, Err(Error::Unreachable { .. })), "{told:?}");
    let told = futures_executor::block_on(client.execute_async("DELETE FROM t", &[]));
    assert!(matches!(told, Err(Error::OutcomeUnknown { .. })), "{told:?}");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_deadline_holds_though_no_server_answers() {
    // One that lets nobody in: the agent waits for its welcome.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = ClientOptions::new().deadline(Duration::from_millis(100));
    let client = options.connect([address]).unwrap();
    // The agent waits for its welcome for half a second. A busy machine gets more than one try.
    let in_time = (0..10).any(|_| {
        let begun = Instant::now();
        let told = client.execute("DELETE FROM t", &[]);
        assert!(matches!(told, Err(Error::Unreachable { .. })), "{told:?}");
        begun.elapsed() < Duration::from_millis(250)
    });
    assert!(in_time, "callers wait for the agent");
}

/// Backups name a primary whose silence they have not noticed; the client has.
#[test]
fn a_primary_that_was_silent_is_not_asked_again_on_the_word_of_a_backup() {
    // Dialled, and never heard of again, as one that is stopped.
    let stopped = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let backup = Fake::start_as(1, 2, |number, _| match number {
        0..6 => {
            let named = Some(verity_core::ids::ReplicaId::new(0));
            vec![Step::Answer(Answer::Refused(Refusal::of(&retry(RetryReason::NotPrimary), named)))]
        }
        _ => vec![Step::Answer(Answer::Reply(reply()))],
    });
    let addresses = [stopped.local_addr().unwrap().to_string(), backup.address.clone()];
    let client = ClientOptions::new().connect(addresses).unwrap();
    let begun = Instant::now();
    assert_eq!(client.execute("DELETE FROM t", &[]).unwrap(), reply());
    // The first try takes half a second; one for each refusal would take three more.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(backup.heard().len(), 7);
}

#[test]
fn a_write_that_is_being_worked_on_is_not_sent_again() {
    let slow = || (0..10).flat_map(|_| [Step::Pause(Duration::from_millis(200)), progress()]);
    // A machine that stands still for a second gets another try.
    let sent_once = (0..5).any(|_| {
        let fake = Fake::start(move |_, _| {
            slow().chain([Step::Answer(Answer::Reply(reply()))]).collect::<Vec<_>>()
        });
        assert_eq!(client(&fake, 30_000).execute("DELETE FROM t", &[]).unwrap(), reply());
        fake.heard().len() == 1
    });
    assert!(sent_once);
}

#[test]
fn one_that_refuses_again_and_again_is_asked_less_and_less() {
    let fake = Fake::start(|_, _| refused(retry(RetryReason::QueueFull)));
    let told = client(&fake, 1_000).execute("DELETE FROM t", &[]);
    assert!(matches!(told, Err(Error::Request(RequestError::Retry(RetryReason::QueueFull)))));
    let tries = fake.heard().len();
    assert!((2..=12).contains(&tries), "{tries} tries in a second");
}

#[test]
fn why_a_server_hung_up_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use crate::net::handshake;
        use std::io::Write;
        use verity_core::wire::hello::{Hello, Role};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let me = Hello {
                role: Role::Replica,
                replica_count: 1,
                cluster: verity_core::ids::ClusterId::new(7),
                ..Hello::of_client(verity_core::node::CURRENT_RELEASE)
            };
            handshake::welcome(&stream, &me, |_| true).unwrap();
            let mut refusal = Refusal::of(&RequestError::Empty, None);
            refusal.message = "no room for you".to_string();
            let frame = Answer::Refused(refusal).encode(crate::net::guest::GOODBYE).unwrap();
            stream.write_all(&frame).unwrap();
        }
    });
    let options = ClientOptions::new().deadline(Duration::from_secs(2));
    let told = options.connect([address]).unwrap().query("SELECT 1", &[]);
    let Err(Error::Unreachable { why }) = told else { panic!("{told:?}") };
    assert!(why.contains("no room for you"), "{why}");
}

fn part(byte: u8, size: usize, more: bool) -> Step {
    Step::Answer(Answer::Proof(ProofPart { file: vec![byte; size], more, ..ProofPart::default() }))
}

fn of_sql() -> ProofOf {
    ProofOf::Sql { text: "SELECT id FROM t".to_string(), parameters: Vec::new() }
}

/// Parts of a try that was cut off, or refused, are no part of the next.
#[test]
fn a_proof_is_of_one_try() {
    let fake = Fake::start(|number, _| match number {
        0 => vec![part(1, 9, true), Step::HangUp],
        1 => vec![part(2, 9, true), refused(retry(RetryReason::QueueFull)).remove(0)],
        _ => vec![part(3, 9, true), progress(), part(4, 3, true), part(5, 0, false)],
    });
    let file = client(&fake, 5_000).prove_of(of_sql(), None).unwrap().file;
    assert_eq!(file, [[3; 9].as_slice(), &[4; 3]].concat());
    assert_eq!(fake.heard().len(), 3);
}

#[test]
fn a_server_that_never_ends_a_proof_fills_no_memory() {
    let parts = 2 * PROOF_SERVED_BYTES_MAX / (1 << 19);
    let fake = Fake::start(move |_, _| (0..parts).map(|_| part(1, 1 << 19, true)).collect());
    let failed = client(&fake, 5_000).prove_of(of_sql(), None).unwrap_err();
    assert!(failed.to_string().contains("more than a proof may have"), "{failed}");
    assert_eq!(fake.heard().len(), 1);
    // Rows in place of a proof.
    let rows = |_: usize, _: &Ask| vec![Step::Answer(Answer::Rows(RowsPart::default()))];
    let failed = client(&Fake::start(rows), 5_000).prove_of(of_sql(), None).unwrap_err();
    assert!(matches!(failed, Error::Unreachable { .. }), "{failed}");
}

fn rows(head: bool, first: i64, count: i64, more: bool) -> Step {
    let columns = vec!["id".to_string()];
    let head = head.then(|| Head { columns, position: Position::new(7), asked: None });
    let rows = (first..first + count).map(|id| vec![Value::Integer(id)]).collect();
    Step::Answer(Answer::Rows(RowsPart { head, rows, more }))
}

/// Rows of two tries never mix: before the first one a stream is asked for again, after it it ends.
#[test]
fn a_stream_is_of_one_try() {
    let fake = Fake::start(|number, _| match number {
        0 => vec![progress(), Step::HangUp],
        1 => refused(retry(RetryReason::QueueFull)),
        _ => vec![rows(true, 0, 5, true), progress(), rows(false, 5, 5, true), Step::HangUp],
    });
    let client = client(&fake, 5_000);
    let mut stream = client.query_stream("SELECT id FROM t", &[]).unwrap();
    assert_eq!((stream.columns(), stream.position()), (&["id".to_string()][..], Position::new(7)));
    // The second part may go down with the connection.
    let mut came = Vec::new();
    let cut = loop {
        match stream.next().unwrap() {
            Ok(row) => came.extend(row),
            Err(error) => break error,
        }
    };
    let expected: Vec<Value> = (0..came.len() as i64).map(Value::Integer).collect();
    assert!(came == expected && matches!(came.len(), 5 | 10), "{came:?}");
    assert!(matches!(cut, Error::RowsCut { .. }) && cut.retryable(), "{cut}");
    assert!(stream.next().is_none());
    // What a server says amid rows is their end, too.
    let fake = Fake::start(|_, _| {
        let refusal = refused(retry(RetryReason::NotPrimary)).remove(0);
        vec![rows(true, 0, 5, true), refusal]
    });
    let stream = self::client(&fake, 5_000).query_stream("SELECT id FROM t", &[]).unwrap();
    let last = stream.last().unwrap().unwrap_err();
    assert!(matches!(last, Error::Request(RequestError::Retry(RetryReason::NotPrimary))), "{last}");
}

/// A server may not run ahead, and may not begin twice; one that falls silent is not waited for.
#[test]
fn servers_that_send_what_they_should_not_are_not_believed() {
    let flood = || (0..100).map(|n| rows(n == 0, n, 1, true)).collect::<Vec<_>>();
    let fake = Fake::start(move |_, _| flood());
    let client = client(&fake, 5_000);
    let mut stream = client.query_stream("SELECT id FROM t", &[]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let got = stream.by_ref().take_while(Result::is_ok).count();
    assert!(got <= 10, "{got} parts were kept for who takes none");
    for (script, told) in [
        (vec![rows(true, 0, 1, true), rows(true, 1, 1, false)], "two answers"),
        (vec![rows(false, 0, 1, false)], "two answers"),
    ] {
        let script = std::sync::Mutex::new(script);
        let fake = Fake::start(move |_, _| std::mem::take(&mut *script.lock().unwrap()));
        let client = self::client(&fake, 2_000);
        let told_us = match client.query_stream("SELECT id FROM t", &[]) {
            Ok(stream) => stream.last().unwrap().unwrap_err(),
            Err(error) => error,
        };
        assert!(told_us.to_string().contains(told), "{told_us}");
    }
    let chatty = || (0..3_000).flat_map(|_| [progress(), Step::Pause(Duration::from_millis(10))]);
    let fake = Fake::start(move |_, _| {
        [rows(true, 0, 1, true)].into_iter().chain(chatty()).collect::<Vec<_>>()
    });
    let begun = Instant::now();
    let stream = self::client(&fake, 400).query_stream("SELECT id FROM t", &[]).unwrap();
    let last = stream.last().unwrap().unwrap_err();
    assert!(matches!(last, Error::RowsCut { .. }), "{last}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
