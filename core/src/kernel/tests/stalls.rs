//! Where a statement stalls for a page changes nothing of what it comes to: not what it is refused
//! for, not the number in the message, not what it draws. Each of these is on the record.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::kernel::{Limit, Operation, Request, RequestError};
use crate::limits::ClusterConstants;
use crate::query::{SqlState, Value};

/// Scans end after sixteen pages, transactions after sixty events.
const NARROW: ClusterConstants = ClusterConstants {
    transaction_pages_read_max: 16,
    transaction_events_max: 60,
    ..ClusterConstants::SMALL
};

/// Runs each text under an id, so that a refusal is a record, too; gives the outcomes and the hash
/// of the last record.
fn outcomes(
    memory: Memory,
    texts: &[String],
) -> (Vec<Result<String, RequestError>>, [u8; 32], u64) {
    let mut rig = Rig::with(memory, NARROW);
    let outcomes = texts.iter().zip(0..).map(|(text, number)| {
        let sql = Operation::Sql { text: text.clone(), params: vec![] };
        let idempotency = id(NOW_MS + 1_000_000, number);
        // Only clean pages are evicted.
        rig.checkpoint();
        let reply = rig.request(&Request { idempotency, ..request(vec![sql]) });
        reply.map(|reply| format!("{:?}", reply.results))
    });
    let outcomes = outcomes.collect();
    assert_eq!(rig.rebuild().unwrap().difference, None);
    (outcomes, rig.head(T1).chain.0, rig.stalls)
}

/// The outcomes, which are the same whatever is in memory.
fn same_everywhere(texts: &[String]) -> Vec<Result<String, RequestError>> {
    let (expected, chain, few) = outcomes(Memory::Ample, texts);
    let evicted = core::iter::once(Memory::None).chain((1..6).map(Memory::Random));
    for memory in evicted {
        let (others, other_chain, stalls) = outcomes(memory, texts);
        for ((text, other), expected) in texts.iter().zip(&others).zip(&expected) {
            assert_eq!(other, expected, "{memory:?}: {text}");
        }
        assert_eq!(chain, other_chain, "{memory:?}");
        assert!(stalls > few + 10, "pages were missed: {stalls}");
    }
    expected
}

/// A table of 48 rows of half a page each, with `n` counting from 0.
fn wide_table() -> Vec<String> {
    let create = "CREATE TABLE wide (id BIGINT PRIMARY KEY, n BIGINT, pad TEXT, other BIGINT)";
    let mut texts = vec![create.to_string()];
    for first in (0..48).step_by(12) {
        let rows = (first..first + 12).map(|n| format!("({n}, {n}, '{}', 1)", "p".repeat(2_000)));
        texts.push(format!("INSERT INTO wide VALUES {}", rows.collect::<Vec<_>>().join(", ")));
    }
    texts
}

/// Runs the statement on the wide table; gives what it was refused with.
fn refused(before: &[&str], text: &str) -> RequestError {
    let mut texts = wide_table();
    texts.extend(before.iter().map(ToString::to_string));
    texts.push(text.to_string());
    let mut outcomes = same_everywhere(&texts);
    let last = outcomes.pop();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    last.unwrap().unwrap_err()
}

#[test]
fn a_scan_that_is_too_large_is_refused_at_the_same_row() {
    let RequestError::Sql(error) = refused(&[], "UPDATE wide SET n = 0 WHERE other = 2") else {
        panic!()
    };
    assert_eq!(error.code, SqlState::LimitExceeded);
    assert!(error.message.contains("scans 17 pages"), "{}", error.message);
}

#[test]
fn an_index_over_too_much_is_refused_at_the_same_row() {
    // So few rows that no job builds it.
    let few = ["DELETE FROM wide WHERE id >= 31", "DELETE FROM wide WHERE id >= 14"];
    let longer = "UPDATE wide SET pad = pad || pad || pad WHERE id < 7";
    let longest = "UPDATE wide SET pad = pad || pad || pad WHERE id >= 7 AND id < 14";
    let refusal = refused(&[few[0], few[1], longer, longest], "CREATE INDEX by_n ON wide (n)");
    let RequestError::LimitExceeded { limit: Limit::TransactionPagesRead, value, max: 16 } =
        refusal
    else {
        panic!("{refusal:?}")
    };
    assert!(value == 17 || value == 18, "at the first row beyond: {value}");
}

#[test]
fn what_comes_first_is_told_a_row_that_fails_or_a_scan_that_is_too_large() {
    let RequestError::Sql(early) = refused(&[], "DELETE FROM wide WHERE 1 / (n - 20) > 5") else {
        panic!()
    };
    assert_eq!(early.code, SqlState::DivisionByZero);
    let RequestError::Sql(late) = refused(&[], "DELETE FROM wide WHERE 1 / (n - 40) > 5") else {
        panic!()
    };
    assert_eq!(late.code, SqlState::LimitExceeded);
}

#[test]
fn rows_of_an_index_that_are_too_many_are_refused_at_the_same_one() {
    let mut texts = vec!["CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT, pad TEXT)".to_string()];
    texts.push("CREATE INDEX by_n ON t (n, pad)".to_string());
    for first in (0..200).step_by(20) {
        let rows = (first..first + 20).map(|n| format!("({n}, {}, '{}')", n % 2, "p".repeat(400)));
        texts.push(format!("INSERT INTO t VALUES {}", rows.collect::<Vec<_>>().join(", ")));
    }
    texts.push("UPDATE t SET pad = 'q' WHERE n = 1".to_string());
    texts.push("DELETE FROM t WHERE id >= 50 AND id < 150".to_string());
    texts.push("DELETE FROM t WHERE id >= 50 AND id < 150 AND 1 / (n - 2 + id / 112) < 9".into());
    let outcomes = same_everywhere(&texts);
    let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(refused, 3, "{outcomes:?}");
}

#[test]
fn what_a_statement_draws_it_draws_once() {
    let mut texts: Vec<String> = [
        "CREATE TABLE d (id BIGINT PRIMARY KEY, u UUID DEFAULT gen_random_uuid(), n BIGINT, \
         r DOUBLE PRECISION, pad TEXT)",
        "CREATE UNIQUE INDEX by_n ON d (n)",
        "CREATE UNIQUE INDEX by_pad ON d (pad, id)",
    ]
    .map(ToString::to_string)
    .to_vec();
    for first in (0..200).step_by(20) {
        let rows =
            (first..first + 20).map(|n| format!("({n}, {n}, random(), '{}{n}')", "p".repeat(300)));
        let rows: Vec<String> = rows.collect();
        texts.push(format!("INSERT INTO d (id, n, r, pad) VALUES {}", rows.join(", ")));
    }
    texts.push(
        "INSERT INTO d (id, n, pad) VALUES (3, 1003, 'a'), (90, 1090, 'b'), (180, 1180, 'c') \
         ON CONFLICT (id) DO UPDATE SET u = gen_random_uuid(), n = excluded.n, r = random(), \
         pad = excluded.pad WHERE random() < 2"
            .to_string(),
    );
    texts.push(
        "UPDATE d SET u = gen_random_uuid(), r = random() WHERE id < 40 AND random() < 0.5"
            .to_string(),
    );
    let outcomes = same_everywhere(&texts);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

/// Of rows of before, a batch is read at once; its pages may be more than memory has.
#[test]
fn a_read_of_before_needs_no_more_memory_than_a_row() {
    let mut rig = Rig::with(Memory::None, ClusterConstants::SMALL);
    let mut run = |text: &str| {
        let sql = Operation::Sql { text: text.to_string(), params: vec![] };
        rig.request(&request(vec![sql])).unwrap();
        rig.checkpoint();
    };
    run("CREATE TABLE large (id BIGINT PRIMARY KEY, pad TEXT)");
    for id in 0..60 {
        run(&format!("INSERT INTO large VALUES ({id}, '{}')", "p".repeat(200_000)));
    }
    let before = rig.head(T1).next.get() - 1;
    let text = "UPDATE large SET pad = 'short' WHERE id = 50".to_string();
    rig.request(&request(vec![Operation::Sql { text, params: vec![] }])).unwrap();
    rig.checkpoint();
    let rows = rig.select("SELECT id, length(pad) FROM large", before, false).unwrap();
    let expected = |id| [Value::Integer(id), Value::Integer(200_000)];
    assert_eq!(rows, (0..60).map(expected).collect::<Vec<_>>());
}
