//! Other people's SQL tests: SQLite's logic tests through the `sqllogictest` crate, in six modes.
//!
//! Purpose: 161,000 queries whose answers another database gave, asked of the real library: plainly,
//! as of the newest position, as of a position whose rows are all deleted since, after a crash, with
//! a cache that forgets everything, and of a state derived from the logs alone. The files lie in
//! `slt` of the corpora. `VERITY_SLT_QUERIES` is how many queries of each file are asked.
//!
//! Invariant: a query counts as passed only when its answer was compared. What is refused on
//! purpose (HAVING) must be refused with 0A000, and is counted apart.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

#[path = "../../../tests/corpora.rs"]
mod corpora;
mod engine;
mod modes;

use std::path::PathBuf;
use std::time::Instant;

use corpora::corpus;
use modes::{Mode, Tally, play};

/// Queries of each file when nothing is said: what fits an ordinary test run.
const QUERIES_OF_A_FILE: usize = 8;

/// All test files, in order; empty when the corpus is not on this machine.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for tier in ["t1_strict", "t1_orderby", "t1_limit_derived", "t2_predicates", "t3_aggregates"] {
        let Some(folder) = corpus(&format!("slt/{tier}")) else { continue };
        let entries = std::fs::read_dir(folder).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    files
}

fn check(mode: Mode) {
    let files = files();
    if files.is_empty() {
        // `corpus` has said so.
        return;
    }
    let limit = match std::env::var("VERITY_SLT_QUERIES") {
        Ok(text) => text.parse().expect("VERITY_SLT_QUERIES is a number"),
        Err(_) => QUERIES_OF_A_FILE,
    };
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for file in &files {
        if let Err(failure) = play(mode, file, limit, &mut tally) {
            eprintln!("slt {mode:?}: {failure}");
            failures.push(failure);
        }
    }
    eprintln!(
        "slt {mode:?}: {} files, {} queries answered as expected, {} statements, {} CREATE INDEX \
         refused, {} HAVING refused, {} files failed, {:.1} s",
        files.len(),
        tally.queries,
        tally.statements,
        tally.indexes_refused,
        tally.having_refused,
        failures.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(failures.is_empty(), "{} files failed, the first: {}", failures.len(), failures[0]);
    assert!(tally.queries > 0, "something was asked");
}

#[test]
fn plain() {
    check(Mode::Plain);
}

#[test]
fn as_of_head() {
    check(Mode::AsOfHead);
}

#[test]
fn deleted_since() {
    check(Mode::DeletedSince);
}

#[test]
fn crashed_between() {
    check(Mode::Crashed);
}

#[test]
fn evict_everything() {
    check(Mode::Evicting);
}

#[test]
fn rebuilt_from_log() {
    check(Mode::Rebuilt);
}

/// The harness itself must be able to fail.
#[test]
fn a_wrong_answer_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.slt");
    let load =
        "statement ok\nCREATE TABLE t (a INTEGER)\n\nstatement ok\nINSERT INTO t VALUES (1)\n";
    for (answer, right) in [("1", true), ("2", false)] {
        let text = format!("{load}\nquery I nosort\nSELECT a FROM t\n----\n{answer}\n");
        std::fs::write(&file, text).unwrap();
        for mode in Mode::ALL {
            let outcome = play(mode, &file, usize::MAX, &mut Tally::default());
            assert_eq!(outcome.is_ok(), right, "{mode:?} {outcome:?}");
        }
    }
}
