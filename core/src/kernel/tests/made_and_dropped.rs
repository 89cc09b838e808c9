//! Tables and indexes that one transaction makes, fills and drops: the pages that it dirties are
//! bounded beforehand by schemas that are in no catalog any more.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::kernel::{Operation, Reply, RequestError};
use crate::limits::ClusterConstants;

/// So many rows that the first bound, by which each splits every level, is too large.
const ROWS: i64 = 240;

fn run(rig: &mut Rig, texts: &[&str]) -> Result<Reply, RequestError> {
    let text = texts.join("; ");
    rig.request(&request(vec![Operation::Sql { text, params: vec![] }]))
}

/// Rows in no order, with a text of `size` bytes.
fn insert(table: &str, size: usize) -> String {
    let row = |n: i64| {
        format!("({}, '{:07}{}')", n * 7_919 % 1_009, n * 104_729 % 999_983, "x".repeat(size))
    };
    let rows: Vec<String> = (0..ROWS).map(row).collect();
    format!("INSERT INTO {table} VALUES {}", rows.join(", "))
}

/// All of the texts in one transaction, on a disk of small pages' worth; then everything holds.
fn holds(before: &[&str], texts: &[&str]) {
    for memory in [Memory::Ample, Memory::None] {
        let mut rig = Rig::with(memory, ClusterConstants::SMALL);
        run(&mut rig, &["CREATE TABLE other (id BIGINT PRIMARY KEY, b TEXT)"]).unwrap();
        for text in before {
            run(&mut rig, &[text]).unwrap();
        }
        run(&mut rig, texts).unwrap();
        run(&mut rig, &["INSERT INTO other VALUES (1, 'still there')"]).unwrap();
        assert_eq!(rig.rows("other").last().unwrap(), &"1|still there".to_string());
        assert_eq!(rig.rebuild().unwrap().difference, None);
        rig.checkpoint();
        rig.recover();
    }
}

const CREATE: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, b TEXT)";
const INDEX: &str = "CREATE INDEX i ON t (b)";

#[test]
fn a_table_that_its_transaction_made_and_dropped() {
    holds(&[], &[CREATE, &insert("t", 20), "DROP TABLE t"]);
    holds(&[], &[CREATE, INDEX, &insert("t", 20), "DROP TABLE t"]);
    holds(&[], &[CREATE, &insert("t", 20), "DELETE FROM t WHERE id < 500", "DROP TABLE t"]);
    let again = "CREATE TABLE t (id BIGINT PRIMARY KEY, b TEXT)";
    holds(&[], &[CREATE, &insert("t", 20), "DROP TABLE t", again, "INSERT INTO t VALUES (1, 'z')"]);
}

#[test]
fn an_index_that_its_transaction_made_and_dropped() {
    holds(&[CREATE], &[INDEX, &insert("t", 440), "DROP INDEX i"]);
    holds(&[CREATE], &[INDEX, &insert("t", 440), "DROP INDEX i", "DROP TABLE t"]);
    holds(&[CREATE, INDEX], &[&insert("t", 440), "DROP INDEX i", "DROP TABLE t"]);
    let small = insert("t", 20);
    let update = "UPDATE t SET b = b || b WHERE id < 300";
    holds(
        &[CREATE, INDEX, &small],
        &[update, "DROP INDEX i", INDEX, "DROP INDEX i", "DROP TABLE t"],
    );
}

/// The index is over a column that the table of before the request lacks.
#[test]
fn an_index_over_a_column_that_its_transaction_added() {
    let (alter, index) = ("ALTER TABLE t ADD COLUMN c TEXT", "CREATE INDEX i ON t (c)");
    let change = "UPDATE t SET b = b || b, c = 'q' WHERE id < 400";
    let gone = ["DELETE FROM t WHERE id < 400", "DROP TABLE t"];
    let insert = insert("t", 20).replace("INTO t ", "INTO t (id, b) ");
    holds(&[CREATE], &[alter, index, &insert, change, gone[0], gone[1]]);
    holds(&[CREATE], &[alter, index, &insert, change, "DROP INDEX i", gone[0], gone[1]]);
}
