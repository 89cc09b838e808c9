//! Is the answer right? Oracles that need no expected answers, and SQLite beside us.
//!
//! Purpose: random tables, changes and queries (`generate`) through the real library, in every step
//! checked by: the same through SQLite (differential); TLP (a query is the union of its three parts
//! by a predicate); NoREC (a filter finds as many rows as the predicate evaluated on all of them
//! says); PQS (a row for which SQLite says that the predicate holds is found); DQE (SELECT, UPDATE
//! and DELETE mean the same rows by one predicate); and time travel (what was answered once is
//! answered again `AS OF` its position, whatever happened since).
//!
//! The generator knows neither the indexes nor the data. `VERITY_ORACLE_SEEDS=a..b` chooses other
//! seeds, for long runs by hand. What it finds gets a test of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

mod generate;
mod random;

use std::collections::BTreeMap;
use std::fmt::Write;

use generate::Table;
use random::Random;
use rusqlite::types::ValueRef;
use verity::{ClusterConstants, Options, Position, SqlState, Value, Verity};

/// Changes and rounds of queries of one seed.
const STEPS: usize = 40;

struct Both {
    verity: Verity,
    sqlite: rusqlite::Connection,
    /// Everything that was said, for the report of a failure.
    said: String,
    /// Answers to be asked for again: the query with its table, the position, the answer.
    past: Vec<(String, String, Position, Vec<String>)>,
    /// Of answers to queries with this text in them the last row is kept back.
    lie: Option<&'static str>,
    checks: BTreeMap<&'static str, u64>,
    _dir: tempfile::TempDir,
}

type Answer = Vec<String>;

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_string(),
        Value::Boolean(value) => i64::from(*value).to_string(),
        Value::Decimal(value) => real(value.to_f64()),
        Value::Double(value) => real(*value),
        other => format!("'{other}'").trim_matches(|c| c == '\'' && !is_text(other)).to_string(),
    }
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::Text(_))
}

/// Zero has one sign here: SQLite does not keep it.
fn real(value: f64) -> String {
    format!("{:.6}", if value == 0.0 { 0.0 } else { value })
}

impl Both {
    fn new(lie: Option<&'static str>) -> Both {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().cluster_constants(ClusterConstants::SMALL);
        let options = options.memory(128 << 20);
        let verity = options.open(dir.path().join("data")).unwrap();
        let sqlite = rusqlite::Connection::open_in_memory().unwrap();
        sqlite.execute_batch("PRAGMA case_sensitive_like = ON").unwrap();
        let (past, checks) = (Vec::new(), BTreeMap::new());
        Both { verity, sqlite, said: String::new(), past, lie, checks, _dir: dir }
    }

    fn passed(&mut self, check: &'static str) {
        *self.checks.entry(check).or_default() += 1;
    }

    /// A change, of both. Gives the rows that it changed.
    fn change(&mut self, sql: &str) -> u64 {
        writeln!(self.said, "{sql};").unwrap();
        let theirs = self.sqlite.execute(sql, []).unwrap_or_else(|e| panic!("{e}\n{}", self.said));
        let ours = self.verity.execute(sql, &[]);
        let ours = ours.unwrap_or_else(|e| panic!("{e}\n{}", self.said)).rows_affected();
        if !sql.starts_with("CREATE") {
            assert_eq!(ours, theirs as u64, "rows changed, in\n{}", self.said);
        }
        ours
    }

    fn ours(&self, sql: &str) -> Answer {
        let rows = self.verity.query(sql, &[]);
        let rows = rows.unwrap_or_else(|e| panic!("{e}\n{sql}\nafter\n{}", self.said));
        let shown = |row: &Vec<Value>| row.iter().map(shown).collect::<Vec<_>>().join("|");
        let mut answer: Answer = rows.rows.iter().map(shown).collect();
        if self.lie.is_some_and(|lie| sql.contains(lie)) {
            answer.pop();
        }
        answer
    }

    fn theirs(&self, sql: &str) -> Answer {
        let mut statement = self.sqlite.prepare(sql).unwrap_or_else(|e| panic!("{e}: {sql}"));
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells: Vec<String> = (0..columns)
                .map(|at| match row.get_ref(at).unwrap() {
                    ValueRef::Null => "NULL".to_string(),
                    ValueRef::Integer(value) => value.to_string(),
                    ValueRef::Real(value) => real(value),
                    ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
                    ValueRef::Blob(_) => unreachable!("no column holds bytes"),
                })
                .collect();
            Ok(cells.join("|"))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[track_caller]
    fn same(&mut self, check: &'static str, what: &str, left: Answer, right: Answer, order: bool) {
        let (mut left, mut right) = (left, right);
        if !order {
            left.sort();
            right.sort();
        }
        assert_eq!(left, right, "{check}: {what}\nafter\n{}", self.said);
        self.passed(check);
    }
}

fn keys(table: &Table, both: &Both, condition: &str) -> Answer {
    both.ours(&format!("SELECT {} FROM {} WHERE {condition}", table.key_names(), table.name))
}

fn differential(both: &mut Both, table: &Table, random: &mut Random) {
    let predicate = table.predicate(random, 2);
    let (query, ordered) = table.query(random, &predicate);
    let (ours, theirs) = (both.ours(&query), both.theirs(&query));
    both.same("differential", &query, ours.clone(), theirs, ordered);
    if ordered && both.past.len() < 60 {
        let position = both.verity.position().unwrap();
        both.past.push((query, table.name.clone(), position, ours));
    }
}

fn tlp(both: &mut Both, table: &Table, random: &mut Random) {
    let (base, predicate) = (table.predicate(random, 1), table.predicate(random, 2));
    let all = both.ours(&format!("SELECT * FROM {} WHERE {base}", table.name));
    let mut parts = Vec::new();
    for part in [
        format!("({base}) AND ({predicate})"),
        format!("({base}) AND NOT ({predicate})"),
        format!("({base}) AND ({predicate}) IS NULL"),
    ] {
        parts.extend(both.ours(&format!("SELECT * FROM {} WHERE {part}", table.name)));
    }
    both.same("TLP", &format!("{base} by {predicate}"), all, parts, false);
}

fn norec(both: &mut Both, table: &Table, random: &mut Random) {
    let predicate = table.predicate(random, 2);
    let name = &table.name;
    let optimised = both.ours(&format!("SELECT COUNT(*) FROM {name} WHERE {predicate}"));
    let each = both.ours(&format!("SELECT ({predicate}) IS TRUE FROM {name}"));
    let count = each.iter().filter(|truth| *truth == "1").count().to_string();
    both.same("NoREC", &predicate, optimised, vec![count], false);
}

fn pqs(both: &mut Both, table: &Table, random: &mut Random) {
    let (key, name) = (table.key_names(), &table.name);
    let pivots = both.theirs(&format!("SELECT {key} FROM {name} ORDER BY {key}"));
    if pivots.is_empty() {
        return;
    }
    let pivot = random.pick(&pivots).clone();
    let is_pivot: Vec<String> = table.columns[..table.key]
        .iter()
        .zip(pivot.split('|'))
        .map(|((name, _), value)| format!("{name} = {value}"))
        .collect();
    let is_pivot = is_pivot.join(" AND ");
    let predicate = table.predicate(random, 3);
    // What holds for the pivot, as SQLite sees it.
    let truth = both.theirs(&format!("SELECT ({predicate}) FROM {name} WHERE {is_pivot}"));
    let rectified = match truth[0].as_str() {
        "NULL" => format!("({predicate}) IS NULL"),
        "0" => format!("NOT ({predicate})"),
        _ => predicate,
    };
    let found = keys(table, both, &rectified);
    assert!(found.contains(&pivot), "PQS: {pivot} by {rectified}\nafter\n{}", both.said);
    both.passed("PQS");
}

fn dqe(both: &mut Both, table: &Table, random: &mut Random) {
    let predicate = table.predicate(random, 2);
    let mut selected = keys(table, both, &predicate);
    selected.sort();
    let count = selected.len() as u64;
    let update = table.update(random, &predicate);
    assert_eq!(both.change(&update), count, "DQE: {update}\nafter\n{}", both.said);
    // The update may have changed what the predicate says: ask again for the DELETE.
    let mut all = keys(table, both, "TRUE");
    let doomed = keys(table, both, &predicate);
    if doomed.len() * 2 < all.len() {
        both.change(&format!("DELETE FROM {} WHERE {predicate}", table.name));
        let left = keys(table, both, "TRUE");
        all.retain(|key| !doomed.contains(key));
        both.same("DQE", &predicate, left, all, false);
    }
    both.passed("DQE");
}

type Check = fn(&mut Both, &Table, &mut Random);

/// What is asked after every change.
const EVERY_STEP: [(&str, Check); 4] =
    [("differential", differential), ("TLP", tlp), ("NoREC", norec), ("PQS", pqs)];

/// `only`: this check alone.
fn run(seed: u64, only: Option<&str>, lie: Option<&'static str>) -> BTreeMap<&'static str, u64> {
    let wanted = |check: &str| only.is_none_or(|only| only == check);
    let mut random = Random::new(seed);
    let mut both = Both::new(lie);
    writeln!(both.said, "-- seed {seed}").unwrap();
    let tables = [Table::new(&mut random, "t0"), Table::new(&mut random, "t1")];
    for table in &tables {
        both.change(&table.create());
    }
    // Indexes come from a stream of their own: with and without them, the queries are the same.
    let mut hidden = Random::new(seed ^ 0xD1CE);
    for step in 0..STEPS {
        let table = &tables[random.below(tables.len())].clone();
        if hidden.chance(15) {
            let index = table.index(&mut hidden, step);
            writeln!(both.said, "{index};").unwrap();
            match both.verity.execute(&index, &[]) {
                Ok(_) => {}
                Err(error) => {
                    let code = error.sql().map(|error| error.code);
                    assert_eq!(code, Some(SqlState::FeatureNotSupported), "{error}: {index}");
                }
            }
        }
        match random.below(10) {
            0 => {
                let predicate = table.predicate(&mut random, 1);
                let update = table.update(&mut random, &predicate);
                both.change(&update);
            }
            _ => {
                let insert = table.insert(&mut random);
                both.change(&insert);
            }
        }
        for (_, check) in EVERY_STEP.iter().cycle().take(12).filter(|(name, _)| wanted(name)) {
            check(&mut both, table, &mut random);
        }
        if only == Some("AS OF") {
            differential(&mut both, table, &mut random);
        }
        if wanted("DQE") && random.chance(20) {
            dqe(&mut both, table, &mut random);
        }
    }
    for (query, table, position, answer) in std::mem::take(&mut both.past) {
        let from = format!("FROM {table}");
        let then = query.replacen(&from, &format!("{from} AS OF POSITION {position}"), 1);
        let again = both.ours(&then);
        both.same("AS OF", &then, answer, again, true);
    }
    both.checks
}

#[test]
fn answers_are_right() {
    let seeds = std::env::var("VERITY_ORACLE_SEEDS").unwrap_or_else(|_| "1..25".to_string());
    let (first, last) = seeds.split_once("..").expect("VERITY_ORACLE_SEEDS is a..b");
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    let mut checks: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in first..last {
        // Each failure is told by its panic; the other seeds are of interest as well.
        match std::panic::catch_unwind(|| run(seed, None, None)) {
            Ok(of_seed) => {
                for (check, count) in of_seed {
                    *checks.entry(check).or_default() += count;
                }
            }
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "seeds that found something: {failed:?}");
    eprintln!("oracles, seeds {seeds}: {checks:?}");
    for check in ["differential", "TLP", "NoREC", "PQS", "DQE", "AS OF"] {
        assert!(checks.get(check).is_some_and(|count| *count > 0), "{check} was never checked");
    }
}

/// A row that is kept back is noticed, by each of them alone.
#[test]
fn each_oracle_can_fail() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut blind = Vec::new();
    for (check, lie) in [
        ("differential", "WHERE"),
        ("TLP", "WHERE"),
        ("NoREC", "WHERE"),
        ("PQS", "WHERE"),
        ("DQE", "WHERE"),
        ("AS OF", "AS OF"),
    ] {
        let honest = std::panic::catch_unwind(|| run(1, Some(check), None));
        let lying = std::panic::catch_unwind(|| run(1, Some(check), Some(lie)));
        if honest.is_err() || lying.is_ok() {
            blind.push(check);
        }
    }
    std::panic::set_hook(told);
    assert!(blind.is_empty(), "{blind:?}");
}
