//! SQL text through the primary: parse, bind, lower, seal, apply.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::ids::Generation;
use crate::kernel::{Kernel, Operation, Reply, RequestError};
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
