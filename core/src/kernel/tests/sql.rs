//! SQL text through the primary: parse, bind, lower, seal, apply.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::ids::Generation;
use crate::kernel::{Kernel, Limit, Operation, Reply, RequestError};
use crate::query::{SqlState, Value};

impl Rig {
    fn sql(&mut self, text: &str, params: Vec<Value>) -> Result<Reply, RequestError> {
        self.request(&request(vec![Operation::Sql { text: text.to_string(), params }]))
    }
}

const CREATE: &str = "CREATE TABLE visits (id BIGINT PRIMARY KEY, who TEXT NOT NULL, \
                      cost DECIMAL(10,2) DEFAULT 1.50, at TIMESTAMP DEFAULT now(), \
                      CHECK (cost >= 0))";

#[test]
fn statements_of_one_text_are_one_transaction() {
    let mut rig = Rig::new(Memory::None);
    let text = alloc::format!(
        "{CREATE}; INSERT INTO visits (id, who) VALUES (1, 'ada'), (2, 'bob'); \
         UPDATE visits SET cost = cost * 2 WHERE id = 2; DELETE FROM visits WHERE id = 1"
    );
    let reply = rig.sql(&text, vec![]).unwrap();
    let affected: Vec<u64> = reply.results.iter().map(|result| result.rows_affected).collect();
    assert_eq!(affected, [0, 2, 1, 1]);
    let rows = rig.rows("visits");
    assert!(rows.len() == 1 && rows[0].starts_with("2|bob|3.00|2026-11-1"), "{rows:?}");
    // The last statement fails: nothing of the text happened.
    let text = "INSERT INTO visits (id, who) VALUES (3, 'eve'); UPDATE visits SET cost = -1";
    let RequestError::Sql(error) = rig.sql(text, vec![]).unwrap_err() else { panic!() };
    assert_eq!(error.code, SqlState::CheckViolation);
    assert_eq!(rig.rows("visits"), rows);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn statements_are_bound_again_when_the_schema_changed() {
    let mut rig = Rig::new(Memory::Ample);
    rig.sql(CREATE, vec![]).unwrap();
    let insert = "INSERT INTO visits (id, who) VALUES ($1, $2)";
    for id in 0..3 {
        rig.sql(insert, vec![Value::Integer(id), Value::text("x")]).unwrap();
    }
    rig.sql("DROP TABLE visits", vec![]).unwrap();
    let RequestError::Sql(error) =
        rig.sql(insert, vec![Value::Integer(9), Value::text("x")]).unwrap_err()
    else {
        panic!()
    };
    assert_eq!(error.code, SqlState::UndefinedTable);
    rig.sql("CREATE TABLE visits (who TEXT, id TEXT)", vec![]).unwrap();
    rig.sql(insert, vec![Value::text("9"), Value::text("x")]).unwrap();
    assert_eq!(rig.rows("visits"), ["x|9"]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

/// The ids of a table that a request makes are known when it is made: until then they may become
/// another's, and so may the numbers of its columns.
#[test]
fn what_is_bound_to_a_table_that_came_to_nothing_is_bound_again() {
    let sql = |text: &str| Operation::Sql { text: text.to_string(), params: vec![] };
    let mut rig = Rig::new(Memory::Ample);
    let wanted = request(vec![
        sql("CREATE TABLE a (id BIGINT PRIMARY KEY, x TEXT)"),
        sql("INSERT INTO a VALUES (1, 'of a')"),
    ]);
    let late = rig.prepare(&wanted).unwrap();
    rig.sql("CREATE TABLE b (id BIGINT PRIMARY KEY, x TEXT)", vec![]).unwrap();
    assert!(rig.batch(&[late]).remove(0).unwrap_err().retryable());
    rig.request(&wanted).unwrap();
    assert_eq!((rig.rows("a"), rig.rows("b").len()), (vec!["1|of a".to_string()], 0));

    let wanted = request(vec![
        sql("ALTER TABLE a ADD COLUMN y TEXT"),
        sql("INSERT INTO a (id, y) VALUES (2, 'of y')"),
    ]);
    let late = rig.prepare(&wanted).unwrap();
    rig.sql("ALTER TABLE a ADD COLUMN z TEXT", vec![]).unwrap();
    assert!(rig.batch(&[late]).remove(0).unwrap_err().retryable());
    rig.request(&wanted).unwrap();
    assert_eq!(rig.rows("a")[1], "2|NULL|NULL|of y");
}

#[test]
fn reads_and_nonsense_are_refused_at_the_primary() {
    let mut rig = Rig::new(Memory::Ample);
    rig.sql(CREATE, vec![]).unwrap();
    let before = rig.position(T1);
    for (text, code) in [
        ("SELECT * FROM visits", SqlState::FeatureNotSupported),
        ("INSERT INTO nowhere VALUES (1)", SqlState::UndefinedTable),
        ("INSERT INTO visits (id, who) VALUES ($1, $2)", SqlState::UndefinedParameter),
        ("DELETE FROM visits WHERE", SqlState::SyntaxError),
    ] {
        let RequestError::Sql(error) = rig.sql(text, vec![]).unwrap_err() else { panic!("{text}") };
        assert_eq!(error.code, code, "{text}");
    }
    assert_eq!(rig.position(T1), before);
}

/// A committed op that cannot be read back stops every replica, at each open.
#[test]
fn what_could_not_be_read_back_is_refused_before_it_is_proposed() {
    let mut rig = Rig::new(Memory::Ample);
    // Names that are made up fit, whatever they are made of.
    let long = "t".repeat(128);
    rig.sql(&alloc::format!("CREATE TABLE {long} (a INT CHECK (a > 0))"), vec![]).unwrap();
    let wide = "\u{1F600}".repeat(32);
    rig.sql(&alloc::format!("CREATE TABLE \"{wide}\" (\"{wide}\" INT UNIQUE)"), vec![]).unwrap();
    rig.sql(&alloc::format!("CREATE INDEX ON \"{wide}\" (\"{wide}\")"), vec![]).unwrap();
    // Casts that nobody wrote make an expression deeper than its text.
    rig.sql("CREATE TABLE deep (a INT PRIMARY KEY, d DOUBLE)", vec![]).unwrap();
    let ones = "+1".repeat(90);
    let (open, close) = ("coalesce(cast(".repeat(28), " as int), 1e0)".repeat(28));
    let text = alloc::format!("UPDATE deep SET d = {open}((d{ones}){ones}){close}");
    let RequestError::Sql(error) = rig.sql(&text, vec![]).unwrap_err() else { panic!() };
    assert_eq!(error.code, SqlState::StatementTooComplex, "{}", error.message);
    rig.sql("INSERT INTO deep VALUES (1, 1)", vec![]).unwrap();
}

/// What a statement makes of few bytes is counted row by row, not when all of it is made.
#[test]
fn rows_that_are_made_large_are_counted_as_they_are_made() {
    let mut rig = Rig::new(Memory::Ample);
    let create = "CREATE TABLE big (a INT PRIMARY KEY, b TEXT DEFAULT repeat('x', 300000))";
    rig.sql(create, vec![]).unwrap();
    let rows: Vec<_> = (0..500).map(|a| alloc::format!("({a})")).collect();
    let most = u64::from(rig.constants.transaction_bytes_max) + 300_000;
    let refused = |rig: &mut Rig, text: &str| match rig.sql(text, vec![]).unwrap_err() {
        RequestError::LimitExceeded { limit: Limit::TransactionBytes, value, .. } => {
            assert!(value <= most, "{value} bytes were made");
        }
        other => panic!("{other:?}"),
    };
    refused(&mut rig, &alloc::format!("INSERT INTO big (a) VALUES {}", rows.join(", ")));
    let small: Vec<_> = (0..500).map(|a| alloc::format!("({a}, '')")).collect();
    rig.sql(&alloc::format!("INSERT INTO big VALUES {}", small.join(", ")), vec![]).unwrap();
    refused(&mut rig, "UPDATE big SET b = repeat('x', 300000) WHERE a >= 0");
}

/// The DEFAULT of a column that was added counts in each row that is found, where it is in memory.
#[test]
fn a_default_that_is_filled_into_many_rows_is_counted() {
    let mut rig = Rig::new(Memory::Ample);
    rig.sql("CREATE TABLE t (a INT PRIMARY KEY)", vec![]).unwrap();
    let rows: Vec<_> = (0..500).map(|a| alloc::format!("({a})")).collect();
    rig.sql(&alloc::format!("INSERT INTO t VALUES {}", rows.join(", ")), vec![]).unwrap();
    let text = "x".repeat(250_000);
    rig.sql(&alloc::format!("ALTER TABLE t ADD COLUMN b TEXT DEFAULT '{text}'"), vec![]).unwrap();
    for where_ in ["a >= 0", "a IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)"] {
        let text = alloc::format!("DELETE FROM t WHERE {where_}");
        let RequestError::Sql(error) = rig.sql(&text, vec![]).unwrap_err() else { panic!() };
        assert_eq!(error.code, SqlState::LimitExceeded, "{}", error.message);
        let hint = error.hint.unwrap_or_default();
        assert_eq!(hint, "narrow WHERE to ranges of the primary key");
    }
    rig.sql("DELETE FROM t WHERE a = 3", vec![]).unwrap();
}

/// What a kernel knows after an open is what it knew before.
#[test]
fn the_catalog_is_loaded_as_it_was() {
    let mut rig = Rig::new(Memory::Ample);
    rig.sql(CREATE, vec![]).unwrap();
    rig.sql("CREATE TABLE other (a TEXT)", vec![]).unwrap();
    rig.sql("INSERT INTO other VALUES ('x'), ('y')", vec![]).unwrap();
    rig.sql("CREATE TABLE third (a TEXT)", vec![]).unwrap();
    rig.sql("DROP TABLE other", vec![]).unwrap();
    rig.sql("INSERT INTO third VALUES ('x'); UPDATE third SET a = 'y'", vec![]).unwrap();
    let live = rig.catalog(T1);
    let third = live.table_named("third").unwrap().id;
    assert_eq!(live.changed_at(third).get() + 1, rig.position(T1));
    rig.kernel = Kernel::new(rig.constants, Generation::new(1));
    assert_eq!(rig.catalog(T1), live);
}

#[test]
fn random_draws_are_those_of_the_prepare() {
    let run = |memory| {
        let mut rig = Rig::new(memory);
        rig.sql("CREATE TABLE t (id UUID DEFAULT gen_random_uuid(), n BIGINT)", vec![])?;
        for n in 0..30 {
            rig.sql("INSERT INTO t (n) VALUES ($1), ($1)", vec![Value::Integer(n)])?;
        }
        let rows = rig.rows("t");
        let mut unique = rows.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 60);
        Ok::<_, RequestError>(rows)
    };
    assert_eq!(run(Memory::Ample).unwrap(), run(Memory::None).unwrap());
}
