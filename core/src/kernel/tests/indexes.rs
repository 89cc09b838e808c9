//! Indexes against a model that knows none: every query by whatever plan, by the primary key alone,
//! and by the model's rows must agree, now and at every earlier position, whatever the memory.

use alloc::collections::VecDeque;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::cmp::Ordering;
use core::panic::AssertUnwindSafe;

use super::rig::*;
use crate::ids::Position;
use crate::kernel::{Operation, Reply, RequestError};
use crate::limits::ClusterConstants;
use crate::query::eval::Context;
use crate::query::{
    EventRead, ReadProgress, ReadTask, ReadWorld, SqlError, SqlState, Stop, Value, prepare_one,
};
use crate::store::Pins;
use crate::time::Timestamp;

impl Rig {
    fn run_sql(&mut self, text: &str) -> Result<Reply, RequestError> {
        self.request(&request(vec![Operation::Sql { text: text.to_string(), params: vec![] }]))
    }

    fn refused(&mut self, text: &str) -> SqlError {
        match self.run_sql(text) {
            Err(RequestError::Sql(error)) => error,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn last(&mut self) -> u64 {
        self.head(T1).next.get() - 1
    }

    /// Rows of a SELECT or EXPLAIN at a position.
    pub(super) fn select(
        &mut self,
        sql: &str,
        at: u64,
        forced: bool,
    ) -> Result<Vec<Vec<Value>>, SqlError> {
        let catalog = self.catalog(T1);
        let prepared = Arc::new(prepare_one(&catalog, sql)?);
        let context = Context::new(Timestamp(1_795_226_704_500_000_000), [7; 32]);
        let position = Position::new(at);
        let mut task = ReadTask::new(prepared, T1, vec![], position, context)?;
        if forced {
            task = task.without_indexes();
        }
        let mut rows = Vec::new();
        let mut pins = Pins::new();
        for steps in 0.. {
            assert!(steps < 20_000, "it needs more pages at once than there are: {sql}");
            let mut events = |_| EventRead::Absent;
            let mut world =
                ReadWorld { store: &self.store, catalog: &catalog, events: &mut events };
            let step = task.step(&mut world);
            rows.extend(task.take_rows());
            match step {
                Ok(ReadProgress::Done) => break,
                Ok(ReadProgress::More) => {
                    self.store.unpin(&mut pins);
                    self.maybe_evict();
                }
                Err(Stop::Fault(_)) => self.fetch(&mut pins),
                Err(Stop::EventFault) => unreachable!("no events"),
                Err(Stop::Sql(error)) => {
                    self.store.unpin(&mut pins);
                    return Err(error);
                }
            }
        }
        self.store.unpin(&mut pins);
        Ok(rows)
    }

    fn plan(&mut self, sql: &str) -> Vec<String> {
        let at = self.last();
        let rows = self.select(&format!("EXPLAIN {sql}"), at, false).unwrap();
        rows.into_iter().map(|row| row[0].to_string()).collect()
    }
}

/// A stream of numbers that is the same everywhere: a fuzzer's bytes, then drawn ones.
struct Numbers(u64, VecDeque<u8>);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed, VecDeque::new())
    }

    fn of(script: &[u8]) -> Numbers {
        Numbers(1, script.iter().copied().collect())
    }

    fn below(&mut self, limit: u64) -> u64 {
        if let Some(byte) = self.1.pop_front() {
            return u64::from(byte) % limit;
        }
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }
}

const COLUMNS: [&str; 5] = ["id", "a", "b", "c", "d"];

/// A row of the model, its values in the order of `COLUMNS`.
type Row = Vec<Value>;

/// A condition, as SQL and as the model sees it.
#[derive(Clone, Debug)]
enum Condition {
    Compare(usize, &'static str, Value),
    Between(usize, Value, Value),
    In(usize, Vec<Value>),
    IsNull(usize),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(alloc::boxed::Box<Condition>),
}

fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("'{text}'"),
        Value::Double(number) => format!("{number:e}"),
        other => other.to_string(),
    }
}

impl Condition {
    fn sql(&self) -> String {
        let join = |list: &[Condition], word: &str| {
            let parts: Vec<String> = list.iter().map(|one| format!("({})", one.sql())).collect();
            parts.join(word)
        };
        match self {
            Condition::Compare(at, op, value) => {
                format!("{} {op} {}", COLUMNS[*at], literal(value))
            }
            Condition::Between(at, low, high) => {
                format!("{} BETWEEN {} AND {}", COLUMNS[*at], literal(low), literal(high))
            }
            Condition::In(at, list) => {
                let list: Vec<String> = list.iter().map(literal).collect();
                format!("{} IN ({})", COLUMNS[*at], list.join(", "))
            }
            Condition::IsNull(at) => format!("{} IS NULL", COLUMNS[*at]),
            Condition::And(list) => join(list, " AND "),
            Condition::Or(list) => join(list, " OR "),
            Condition::Not(inner) => format!("NOT ({})", inner.sql()),
        }
    }

    fn holds(&self, row: &Row) -> Option<bool> {
        let compare = |at: usize, value: &Value| row[at].compare(value).unwrap();
        let op = |at: usize, op: &str, value: &Value| {
            compare(at, value).map(|order| match op {
                "=" => order == Ordering::Equal,
                "<" => order == Ordering::Less,
                "<=" => order != Ordering::Greater,
                ">" => order == Ordering::Greater,
                ">=" => order != Ordering::Less,
                "<>" => order != Ordering::Equal,
                _ => panic!("{op}"),
            })
        };
        match self {
            Condition::Compare(at, name, value) => op(*at, name, value),
            Condition::Between(at, low, high) => and([op(*at, ">=", low), op(*at, "<=", high)]),
            Condition::In(at, list) => {
                let sides = list.iter().map(|value| op(*at, "=", value).map(|is| !is));
                and(sides).map(|none| !none)
            }
            Condition::IsNull(at) => Some(row[*at].is_null()),
            Condition::And(list) => and(list.iter().map(|one| one.holds(row))),
            Condition::Or(list) => {
                let sides = list.iter().map(|one| one.holds(row).map(|is| !is));
                and(sides).map(|none| !none)
            }
            Condition::Not(inner) => inner.holds(row).map(|is| !is),
        }
    }
}

fn and(sides: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for side in sides {
        match side {
            Some(false) => return Some(false),
            None => all = None,
            Some(true) => {}
        }
    }
    all
}

fn value(numbers: &mut Numbers, at: usize) -> Value {
    let text = ["", "a", "ab", "b", "bé", "zz"];
    match at {
        0 => Value::Integer(numbers.below(120) as i64),
        1 => Value::Integer(numbers.below(12) as i64 - 5),
        2 => Value::text(numbers.pick(&text)),
        3 => Value::Decimal(
            crate::query::Decimal::new(i128::from(numbers.below(9)) * 25 - 100, 2).unwrap(),
        ),
        _ => Value::Double(numbers.below(9) as f64 / 2.0 - 2.0),
    }
}

/// A value to compare with: now and then of another type, or NULL.
fn probe(numbers: &mut Numbers, at: usize) -> Value {
    match numbers.below(12) {
        0 => Value::Null,
        1 if at != 2 => Value::Double(numbers.below(9) as f64 / 2.0 - 2.0),
        2 if at != 2 => Value::Integer(numbers.below(6) as i64 - 2),
        _ => value(numbers, at),
    }
}

fn condition(numbers: &mut Numbers, depth: u64) -> Condition {
    let at = numbers.below(5) as usize;
    let ops = ["=", "=", "=", "<", "<=", ">", ">=", "<>"];
    match numbers.below(if depth == 0 { 6 } else { 12 }) {
        0..=2 => {
            let op = ops[numbers.below(8) as usize];
            Condition::Compare(at, op, probe(numbers, at))
        }
        3 => {
            let (low, high) = (probe(numbers, at), probe(numbers, at));
            Condition::Between(at, low, high)
        }
        4 => {
            let count = 1 + numbers.below(4);
            Condition::In(at, (0..count).map(|_| probe(numbers, at)).collect())
        }
        5 => Condition::IsNull(at),
        6..=8 => {
            let count = 2 + numbers.below(2);
            Condition::And((0..count).map(|_| condition(numbers, depth - 1)).collect())
        }
        9 | 10 => {
            let count = 2 + numbers.below(2);
            Condition::Or((0..count).map(|_| condition(numbers, depth - 1)).collect())
        }
        _ => Condition::Not(condition(numbers, depth - 1).into()),
    }
}

/// What a table should hold.
#[derive(Clone, Default)]
struct Model {
    rows: alloc::collections::BTreeMap<i64, Row>,
}

fn key_of(row: &Row) -> i64 {
    let Value::Integer(key) = row[0] else { panic!("{row:?}") };
    key
}

fn random_row(numbers: &mut Numbers, id: i64) -> Row {
    let mut row = vec![Value::Integer(id)];
    for at in 1..5 {
        let null = numbers.below(5) == 0;
        row.push(if null { Value::Null } else { value(numbers, at) });
    }
    row
}

/// A statement that the model follows.
fn write(numbers: &mut Numbers, model: &mut Model) -> String {
    let filter = condition(numbers, 1);
    let matching: Vec<i64> = model
        .rows
        .iter()
        .filter(|(_, row)| filter.holds(row) == Some(true))
        .map(|(key, _)| *key)
        .collect();
    match numbers.below(10) {
        0..=4 => {
            let mut values = Vec::new();
            for _ in 0..=numbers.below(12) {
                let id = numbers.below(120) as i64;
                if let Entry::Vacant(place) = model.rows.entry(id) {
                    let row = place.insert(random_row(numbers, id));
                    let cells: Vec<String> = row.iter().map(literal).collect();
                    values.push(format!("({})", cells.join(", ")));
                }
            }
            if values.is_empty() {
                return String::from("DELETE FROM t WHERE id = -1");
            }
            format!("INSERT INTO t (id, a, b, c, d) VALUES {}", values.join(", "))
        }
        5 | 6 => {
            let at = 1 + numbers.below(4) as usize;
            let new = if numbers.below(5) == 0 { Value::Null } else { value(numbers, at) };
            for key in matching {
                model.rows.get_mut(&key).unwrap()[at] = new.clone();
            }
            format!("UPDATE t SET {} = {} WHERE {}", COLUMNS[at], literal(&new), filter.sql())
        }
        7 => {
            // Keys move: every row to a place that no other has.
            let moved: Vec<Row> = matching.iter().map(|k| model.rows[k].clone()).collect();
            matching.iter().for_each(|key| drop(model.rows.remove(key)));
            let shift = 1_000;
            for mut row in moved {
                row[0] = Value::Integer(key_of(&row) + shift);
                if model.rows.insert(key_of(&row), row).is_some() {
                    // It would clash: start over with something harmless.
                    return String::from("SELECT");
                }
            }
            format!("UPDATE t SET id = id + {shift} WHERE {}", filter.sql())
        }
        _ => {
            matching.iter().for_each(|key| drop(model.rows.remove(key)));
            format!("DELETE FROM t WHERE {}", filter.sql())
        }
    }
}

const INDEXES: [&str; 6] = [
    "CREATE INDEX by_a ON t (a)",
    "CREATE INDEX by_b_c ON t (b, c)",
    "CREATE INDEX by_c_a ON t (c, a DESC)",
    "CREATE INDEX by_d ON t (d)",
    "CREATE UNIQUE INDEX by_id_a ON t (a, id)",
    "CREATE INDEX by_b_id ON t (b, id)",
];

fn check_query(rig: &mut Rig, numbers: &mut Numbers, model: &Model, at: u64) -> Vec<String> {
    let filter = condition(numbers, 2);
    let mut expected: Vec<Row> =
        model.rows.values().filter(|row| filter.holds(row) == Some(true)).cloned().collect();
    let count = Value::Integer(expected.len() as i64);
    let sql = format!("SELECT id, a, b, c, d FROM t WHERE {}", filter.sql());
    let mut by_plan = rig.select(&sql, at, false).unwrap();
    by_plan.sort();
    expected.sort();
    assert_eq!(by_plan, expected, "as of {at}: {sql}\n{:?}", rig.plan(&sql));
    let mut forced = rig.select(&sql, at, true).unwrap();
    forced.sort();
    assert_eq!(forced, expected, "as of {at}, by primary key: {sql}");
    let counted = format!("SELECT COUNT(*) FROM t WHERE {}", filter.sql());
    assert_eq!(rig.select(&counted, at, false).unwrap(), [[count]], "as of {at}: {counted}");
    // Few columns: index-only, if an index holds them.
    let pair = [numbers.below(5) as usize, numbers.below(5) as usize];
    let few =
        format!("SELECT {}, {} FROM t WHERE {}", COLUMNS[pair[0]], COLUMNS[pair[1]], filter.sql());
    let mut found = rig.select(&few, at, false).unwrap();
    found.sort();
    let mut wanted: Vec<Row> =
        expected.iter().map(|row| pair.iter().map(|at| row[*at].clone()).collect()).collect();
    wanted.sort();
    assert_eq!(found, wanted, "as of {at}: {few}\n{:?}", rig.plan(&few));
    // In order, cut off.
    let down = numbers.below(2) == 0;
    let word = if down { "DESC" } else { "ASC" };
    let (first, second) = (numbers.below(5) as usize, numbers.below(5) as usize);
    let (limit, skip) = (1 + numbers.below(9) as usize, numbers.below(3) as usize);
    let ordered = format!(
        "{sql} ORDER BY {} {word}, {} {word}, id {word} LIMIT {limit} OFFSET {skip}",
        COLUMNS[first], COLUMNS[second]
    );
    expected.sort_by(|left, right| {
        let key = |row: &Row| (row[first].clone(), row[second].clone(), row[0].clone());
        let order = key(left).cmp(&key(right));
        if down { order.reverse() } else { order }
    });
    let wanted: Vec<Row> = expected.into_iter().skip(skip).take(limit).collect();
    let found = rig.select(&ordered, at, false).unwrap();
    let plan = rig.plan(&ordered);
    assert_eq!(found, wanted, "as of {at}: {ordered}\n{plan:?}");
    let mut plans = vec![rig.plan(&sql)[0].clone(), plan[0].clone()];
    plans.push(rig.plan(&few)[0].clone());
    plans
}

/// Several indexes make more pages dirty than the smallest limits allow.
const ROOMY: ClusterConstants = ClusterConstants {
    dirty_pages_max: 4 << 10,
    transaction_pages_dirtied_max: 1 << 10,
    ..ClusterConstants::SMALL
};

fn random_run(memory: Memory, seed: u64, steps: u64, queries: u64) -> Vec<String> {
    let mut rig = Rig::with(memory, ROOMY);
    let mut numbers = Numbers::new(seed * 7_919 + 1);
    rig.run_sql(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT, c DECIMAL(6, 2), d DOUBLE)",
    )
    .unwrap();
    let mut model = Model::default();
    let mut past: Vec<(u64, Model)> = Vec::new();
    let mut plans = Vec::new();
    let mut refused = 0;
    for step in 0..steps {
        // Indexes come over rows that are there, and go again.
        if numbers.below(8) == 0 {
            let create = INDEXES[numbers.below(6) as usize];
            let name = create.split(" ON").next().unwrap().split(' ').next_back().unwrap();
            if rig.catalog(T1).index_named(name).is_some() {
                rig.run_sql(&format!("DROP INDEX {name}")).unwrap();
            } else {
                rig.run_sql(create).unwrap();
            }
        }
        if numbers.below(2) == 0 {
            rig.job_slice();
        }
        let before = model.clone();
        let sql = write(&mut numbers, &mut model);
        if sql == "SELECT" {
            model = before;
        } else {
            match rig.run_sql(&sql) {
                Ok(_) => {}
                // The bound of dirtied pages is generous where leaves may merge.
                Err(error) if error.to_string().contains("transaction_pages_dirtied_max") => {
                    model = before;
                    refused += 1;
                }
                Err(error) => panic!("{sql}: {error}"),
            }
        }
        past.push((rig.last(), model.clone()));
        if step % 40 == 39 {
            rig.checkpoint();
        }
        for _ in 0..queries {
            let back = numbers.below(past.len() as u64) as usize;
            let (at, then) = if numbers.below(2) == 0 {
                past[past.len() - 1].clone()
            } else {
                past[back].clone()
            };
            plans.extend(check_query(&mut rig, &mut numbers, &then, at));
        }
    }
    let report = rig.rebuild().unwrap();
    assert_eq!(report.difference, None);
    assert!(refused * 10 <= steps, "{refused} of {steps} writes were refused");
    plans
}

/// A table with every index and a past: the positions, and what was there then.
fn world_of_plans() -> (Rig, Vec<(u64, Model)>) {
    let mut rig = Rig::with(Memory::Ample, ROOMY);
    rig.run_sql(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT, c DECIMAL(6, 2), d DOUBLE)",
    )
    .unwrap();
    INDEXES.iter().for_each(|create| drop(rig.run_sql(create).unwrap()));
    let (mut numbers, mut model, mut past) = (Numbers::new(5), Model::default(), Vec::new());
    while past.len() < 40 {
        let before = model.clone();
        let sql = write(&mut numbers, &mut model);
        if sql == "SELECT" || model.rows.is_empty() || rig.run_sql(&sql).is_err() {
            model = before;
            continue;
        }
        past.push((rig.last(), model.clone()));
    }
    (rig, past)
}

/// The same queries, from a fuzzer's bytes: `cargo bolero` takes this target as long as it likes.
#[test]
fn plans_of_any_script() {
    let world = AssertUnwindSafe(RefCell::new(world_of_plans()));
    bolero::check!().with_iterations(2_000).with_max_len(64).for_each(|script: &[u8]| {
        let (rig, past) = &mut *world.borrow_mut();
        let mut numbers = Numbers::of(script);
        let (at, model) = past[numbers.below(past.len() as u64) as usize].clone();
        check_query(rig, &mut numbers, &model, at);
    });
}

#[test]
fn every_plan_gives_the_rows_of_the_model() {
    let mut plans = Vec::new();
    for seed in 1..=6 {
        plans.extend(random_run(Memory::Ample, seed, 120, 3));
    }
    // It was not all full scans.
    for kind in ["by index", "by only index", "union of", "full scan of t", "by primary key"] {
        let seen = plans.iter().filter(|plan| plan.contains(kind)).count();
        assert!(seen > 20, "{kind}: {seen} of {}", plans.len());
    }
}

#[test]
fn faults_change_no_plan_and_no_row() {
    for memory in [Memory::None, Memory::Random(3)] {
        random_run(memory, 11, 50, 2);
    }
}

#[test]
fn faults_and_crashes_change_no_index_tree() {
    let run = |memory, crash: bool| {
        let mut rig = Rig::with(memory, ROOMY);
        let mut numbers = Numbers::new(5);
        rig.run_sql(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT, c DECIMAL(6, 2), d DOUBLE, \
             UNIQUE (id, a))",
        )
        .unwrap();
        rig.checkpoint();
        let mut model = Model::default();
        for step in 0..60 {
            let before = model.clone();
            let sql = write(&mut numbers, &mut model);
            if sql == "SELECT" {
                model = before;
            } else {
                rig.run_sql(&sql).unwrap();
            }
            if step % 10 == 3 {
                rig.run_sql(INDEXES[step / 10]).unwrap();
            }
            if crash && step % 7 == 4 {
                rig.crash();
            }
        }
        let report = rig.rebuild().unwrap();
        assert_eq!(report.difference, None);
        (report.digest, report.entries)
    };
    let (digest, entries) = run(Memory::Ample, false);
    assert!(entries > 500, "{entries}");
    for (memory, crash) in [(Memory::None, false), (Memory::Random(9), true)] {
        assert_eq!(run(memory, crash), (digest, entries), "{memory:?}");
    }
}

#[test]
fn unique_indexes_are_unique() {
    let mut rig = Rig::new(Memory::None);
    rig.run_sql("CREATE TABLE u (id BIGINT PRIMARY KEY, mail TEXT UNIQUE, n BIGINT)").unwrap();
    rig.run_sql("INSERT INTO u VALUES (1, 'a', 1), (2, 'b', 2), (3, NULL, 3), (4, NULL, 4)")
        .unwrap();
    let error = rig.refused("INSERT INTO u VALUES (5, 'a', 5)");
    assert_eq!(error.code, SqlState::UniqueViolation);
    assert!(error.message.contains("u_mail_key") && error.message.contains("mail = a"), "{error}");
    // Within one statement, and against what the request did before.
    for text in [
        "INSERT INTO u VALUES (5, 'c', 5), (6, 'c', 6)",
        "INSERT INTO u VALUES (5, 'c', 5); INSERT INTO u VALUES (6, 'c', 6)",
        "UPDATE u SET mail = 'z'",
        "UPDATE u SET mail = 'b' WHERE id = 1",
        "INSERT INTO u VALUES (5, 'c', 5); UPDATE u SET mail = 'c' WHERE id = 2",
    ] {
        assert_eq!(rig.refused(text).code, SqlState::UniqueViolation, "{text}");
    }
    // What leaves makes room, whatever the order of rows.
    rig.run_sql("DELETE FROM u WHERE id = 1; INSERT INTO u VALUES (7, 'a', 7)").unwrap();
    rig.run_sql(
        "UPDATE u SET mail = CASE mail WHEN 'a' THEN 'b' ELSE 'a' END WHERE mail IS NOT NULL",
    )
    .unwrap();
    assert_eq!(rig.rows("u"), ["2|a|2", "3|NULL|3", "4|NULL|4", "7|b|7"]);
    // ON CONFLICT by the index, by the key, by any.
    rig.run_sql("INSERT INTO u VALUES (9, 'a', 9) ON CONFLICT (mail) DO UPDATE SET n = excluded.n")
        .unwrap();
    rig.run_sql("INSERT INTO u VALUES (8, 'b', 8), (2, 'q', 0) ON CONFLICT DO NOTHING").unwrap();
    let text = "INSERT INTO u VALUES (2, 'b', 8) ON CONFLICT (id) DO UPDATE SET mail = 'b'";
    assert_eq!(rig.refused(text).code, SqlState::UniqueViolation);
    let text = "INSERT INTO u VALUES (8, 'b', 8) ON CONFLICT (id) DO NOTHING";
    assert_eq!(rig.refused(text).code, SqlState::UniqueViolation);
    assert_eq!(rig.rows("u"), ["2|a|9", "3|NULL|3", "4|NULL|4", "7|b|7"]);
    // An index over rows that are not unique is refused, and leaves nothing.
    rig.run_sql("INSERT INTO u VALUES (10, 'x', 9)").unwrap();
    let error = rig.refused("CREATE UNIQUE INDEX by_n ON u (n)");
    assert!(error.code == SqlState::UniqueViolation && error.message.contains("n = 9"), "{error}");
    assert!(rig.catalog(T1).index_named("by_n").is_none());
    // The request that makes an index is held by it, too.
    let text = "DELETE FROM u WHERE id = 10; CREATE UNIQUE INDEX by_n ON u (n); \
                INSERT INTO u VALUES (11, 'y', 9)";
    assert_eq!(rig.refused(text).code, SqlState::UniqueViolation);
    rig.run_sql(
        "DELETE FROM u WHERE id = 10; CREATE UNIQUE INDEX by_n ON u (n); \
         INSERT INTO u VALUES (11, 'y', 11)",
    )
    .unwrap();
    assert_eq!(rig.refused("INSERT INTO u VALUES (12, 'p', 11)").code, SqlState::UniqueViolation);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn what_cannot_be_indexed_is_refused() {
    let mut rig = Rig::new(Memory::Ample);
    rig.run_sql("CREATE TABLE t (id BIGINT PRIMARY KEY, j JSON, b TEXT)").unwrap();
    for (text, code) in [
        ("CREATE INDEX i ON t (j)", SqlState::InvalidDefinition),
        ("CREATE INDEX i ON t (nope)", SqlState::UndefinedColumn),
        ("CREATE INDEX i ON nope (b)", SqlState::UndefinedTable),
        ("CREATE INDEX i ON t (b, b)", SqlState::DuplicateColumn),
        ("CREATE INDEX i ON t (lower(b))", SqlState::FeatureNotSupported),
        ("CREATE INDEX i ON t (b) WHERE id > 1", SqlState::FeatureNotSupported),
        ("CREATE INDEX __i ON t (b)", SqlState::ReservedName),
        ("CREATE INDEX i ON __tables (name)", SqlState::ReservedName),
        ("DROP INDEX i", SqlState::UndefinedTable),
        ("ALTER TABLE t DROP COLUMN b", SqlState::FeatureNotSupported),
    ] {
        assert_eq!(rig.refused(text).code, code, "{text}");
    }
    rig.run_sql("CREATE INDEX i ON t (b)").unwrap();
    assert_eq!(rig.refused("CREATE INDEX i ON t (id)").code, SqlState::DuplicateTable);
    rig.run_sql("CREATE INDEX IF NOT EXISTS i ON t (b); DROP INDEX IF EXISTS nope").unwrap();
    let long = "x".repeat(600);
    let text = format!("INSERT INTO t VALUES (1, NULL, '{long}')");
    let error = rig.refused(&text);
    assert!(error.code == SqlState::LimitExceeded && error.message.contains("\"i\""), "{error}");
    rig.run_sql("DROP INDEX i").unwrap();
    rig.run_sql(&text).unwrap();
    assert_eq!(rig.refused("CREATE INDEX i ON t (b)").code, SqlState::LimitExceeded);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

/// So many that pages are counted tree by tree, those of the dropped index too.
#[test]
fn rows_may_be_too_long_for_an_index_that_their_transaction_dropped() {
    let mut rig = Rig::with(Memory::Ample, ClusterConstants::DEFAULT);
    rig.run_sql("CREATE TABLE t (id BIGINT PRIMARY KEY, b TEXT)").unwrap();
    for first in (0..4_000).step_by(500) {
        let row = |id| format!("({id}, '{}')", id * 7_919 % 100_003);
        let rows: Vec<String> = (first..first + 500).map(row).collect();
        rig.run_sql(&format!("INSERT INTO t VALUES {}", rows.join(", "))).unwrap();
    }
    rig.run_sql("CREATE INDEX i ON t (b)").unwrap();
    rig.finish_jobs();
    let update = format!("UPDATE t SET b = '{}' || b WHERE id < 500", "x".repeat(700));
    assert_eq!(rig.refused(&format!("{update}; DROP INDEX i")).code, SqlState::LimitExceeded);
    rig.run_sql(&format!("DROP INDEX i; {update}")).unwrap();
    let (text, last) = ("SELECT COUNT(*) FROM t WHERE length(b) > 700", rig.last());
    assert_eq!(rig.select(text, last, false).unwrap(), [[Value::Integer(500)]]);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

#[test]
fn a_column_that_is_added_is_there_from_then_on() {
    let mut rig = Rig::new(Memory::None);
    rig.run_sql("CREATE TABLE t (id BIGINT PRIMARY KEY, a TEXT)").unwrap();
    rig.run_sql("INSERT INTO t VALUES (1, 'x'), (2, 'y')").unwrap();
    let before = rig.last();
    rig.run_sql("ALTER TABLE t ADD COLUMN n BIGINT NOT NULL DEFAULT 7").unwrap();
    let after = rig.last();
    rig.run_sql("INSERT INTO t (id, a) VALUES (3, 'z')").unwrap();
    rig.run_sql("UPDATE t SET n = n + 1 WHERE id = 2 AND n = 7").unwrap();
    rig.run_sql("CREATE INDEX by_n ON t (n)").unwrap();
    let head = rig.last();
    let read = |rig: &mut Rig, sql: &str, at| -> Vec<String> {
        let rows = rig.select(sql, at, false).unwrap();
        let text = |row: Vec<Value>| row.iter().map(Value::to_string).collect::<Vec<_>>().join("|");
        rows.into_iter().map(text).collect()
    };
    let all = "SELECT id, a, n FROM t ORDER BY id";
    assert_eq!(read(&mut rig, all, before), ["1|x|NULL", "2|y|NULL"]);
    assert_eq!(read(&mut rig, all, after), ["1|x|7", "2|y|7"]);
    assert_eq!(read(&mut rig, all, head), ["1|x|7", "2|y|8", "3|z|7"]);
    let by_n = "SELECT id FROM t WHERE n = 7 ORDER BY id";
    assert_eq!(read(&mut rig, by_n, head), ["1", "3"]);
    assert_eq!(read(&mut rig, by_n, after), ["1", "2"]);
    assert_eq!(read(&mut rig, by_n, before), Vec::<String>::new());
    // History tells what each version had while it was there.
    rig.run_sql("DELETE FROM t WHERE id = 1").unwrap();
    let deleted = rig.last();
    let versions = "SELECT id, n FROM HISTORY OF t WHERE __change = 'put' ORDER BY id, __position";
    assert_eq!(read(&mut rig, versions, before), ["1|NULL", "2|NULL"]);
    assert_eq!(read(&mut rig, versions, after), ["1|7", "2|7"]);
    assert_eq!(read(&mut rig, versions, deleted), ["1|7", "2|7", "2|8", "3|7"]);
    rig.run_sql("INSERT INTO t VALUES (1, 'x', 7)").unwrap();
    // One request can do all of it.
    rig.run_sql(
        "ALTER TABLE t ADD COLUMN m TEXT DEFAULT 'q'; UPDATE t SET m = m || a WHERE id = 1; \
         CREATE INDEX by_m ON t (m); ALTER TABLE t ADD COLUMN o DATE; \
         INSERT INTO t VALUES (4, 'w', 1, 'm', NULL)",
    )
    .unwrap();
    let head = rig.last();
    let all = "SELECT id, m FROM t ORDER BY id";
    assert_eq!(read(&mut rig, all, head), ["1|qx", "2|q", "3|q", "4|m"]);
    assert_eq!(read(&mut rig, "SELECT id FROM t WHERE m = 'q'", head).len(), 2);
    for (text, code) in [
        ("ALTER TABLE t ADD COLUMN m TEXT", SqlState::DuplicateColumn),
        ("ALTER TABLE t ADD COLUMN k TEXT NOT NULL", SqlState::NotNullViolation),
        (
            "ALTER TABLE t ADD COLUMN k UUID DEFAULT gen_random_uuid()",
            SqlState::FeatureNotSupported,
        ),
        ("ALTER TABLE t ADD COLUMN k TEXT UNIQUE", SqlState::FeatureNotSupported),
        ("ALTER TABLE nope ADD COLUMN k TEXT", SqlState::UndefinedTable),
    ] {
        assert_eq!(rig.refused(text).code, code, "{text}");
    }
    assert_eq!(rig.rebuild().unwrap().difference, None);
}

/// Decimals that equal one double are still several values, so an index on them orders nothing.
#[test]
fn an_order_behind_an_inexact_equality_is_sorted() {
    let mut rig = Rig::new(Memory::Ample);
    rig.run_sql("CREATE TABLE o (id BIGINT PRIMARY KEY, c DECIMAL(38, 20), d BIGINT)").unwrap();
    rig.run_sql("INSERT INTO o VALUES (1, 0.1, 9), (2, 0.10000000000000000001, 1), (3, 0.2, 0)")
        .unwrap();
    rig.run_sql("CREATE INDEX by_c_d ON o (c, d)").unwrap();
    let head = rig.last();
    let sql = "SELECT id, d FROM o WHERE c = 1e-1 ORDER BY d";
    let rows = rig.select(sql, head, false).unwrap();
    let ids: Vec<String> = rows.iter().map(|row| row[0].to_string()).collect();
    assert_eq!(ids, ["2", "1"], "{:?}", rig.plan(sql));
    // An exact equality does order what follows.
    let sql = "SELECT id, d FROM o WHERE c = 0.1 ORDER BY d";
    assert!(!rig.plan(sql).iter().any(|line| line.contains("sort")), "{:?}", rig.plan(sql));
}

/// A write that scans too much names the index that would help, and with it goes through.
#[test]
fn a_large_scan_is_refused_with_the_index_to_create() {
    let constants = ClusterConstants { transaction_pages_read_max: 8, ..ROOMY };
    let mut rig = Rig::with(Memory::Ample, constants);
    rig.run_sql("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT)").unwrap();
    rig.run_sql("CREATE INDEX by_b ON t (b)").unwrap();
    let text = "x".repeat(200);
    for from in (0..400).step_by(100) {
        let cells: Vec<String> =
            (from..from + 100).map(|id| format!("({id}, {}, '{id} {text}')", id % 50)).collect();
        rig.run_sql(&format!("INSERT INTO t VALUES {}", cells.join(", "))).unwrap();
    }
    let error = rig.refused("UPDATE t SET b = '' WHERE a = 7");
    assert_eq!(error.code, SqlState::LimitExceeded);
    assert_eq!(error.hint.as_deref(), Some("CREATE INDEX t_a_index ON t (a)"));
    assert_eq!(rig.refused("DELETE FROM t").code, SqlState::LimitExceeded);
    let reply = rig.run_sql(&format!("DELETE FROM t WHERE b = '9 {text}' OR id < 3")).unwrap();
    assert_eq!(reply.rows_affected(), 4);
}

/// What the trees count decides, and what is decided is told.
#[test]
fn plans_follow_the_counts_of_trees() {
    let mut rig = Rig::with(Memory::Ample, ClusterConstants::DEFAULT);
    rig.run_sql("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT)").unwrap();
    let mut numbers = Numbers::new(1);
    for from in (0..6_000).step_by(1_000) {
        let cells: Vec<String> = (from..from + 1_000)
            .map(|id| format!("({id}, {}, 'name {}')", id % 1_000, numbers.below(1 << 30)))
            .collect();
        rig.run_sql(&format!("INSERT INTO t VALUES {}", cells.join(", "))).unwrap();
    }
    rig.run_sql("CREATE INDEX by_a ON t (a); CREATE INDEX by_b ON t (b)").unwrap();
    assert!(rig.finish_jobs() > 100, "so many rows are a job's work");
    let mut first = |sql: &str| rig.plan(sql)[0].clone();
    assert_eq!(first("SELECT * FROM t WHERE a = 5"), "range of t by index by_a (a =)");
    assert_eq!(first("SELECT * FROM t WHERE a >= 5"), "full scan of t");
    assert_eq!(first("SELECT id FROM t WHERE a >= 5"), "range of t by only index by_a (a >=)");
    assert_eq!(
        first("SELECT * FROM t WHERE a = 5 AND id = 5"),
        "lookup in t by primary key (id =)"
    );
    assert_eq!(
        first("SELECT * FROM t WHERE a = 5 OR id IN (1, 2)"),
        "union of range of t by index by_a (a =) and range of t by primary key (id in 2 values)"
    );
    assert_eq!(first("SELECT * FROM t ORDER BY b LIMIT 3"), "full scan of t by index by_b");
    assert_eq!(
        first("DELETE FROM t WHERE a BETWEEN 3 AND 4"),
        "range of t by index by_a (a >=, a <=)"
    );
    assert_eq!(
        first("UPDATE t SET b = '' WHERE b IS NULL"),
        "range of t by index by_b (b is null)"
    );
    // What running it took.
    let mut measured = |sql: &str| rig.plan(&format!("ANALYZE {sql}"));
    let lines = measured("SELECT b FROM t WHERE a = 5 AND b > 'name 5'");
    assert_eq!(lines[..2], ["range of t by index by_a (a =)", "filter rows by WHERE"]);
    assert_eq!(lines[2], "expected: 6 entries in 1 ranges");
    assert!(lines[3].starts_with("rows: 6 read, ") && lines[3].ends_with(" given"), "{lines:?}");
    assert!(lines[4].starts_with("pages: ") && lines[4].ends_with("0 of them not in memory"));
    let lines = measured("SELECT id FROM t WHERE b IS NOT NULL ORDER BY a LIMIT 7");
    assert!(lines.contains(&String::from("rows: 6000 read, 7 given")), "{lines:?}");
    let lines = measured("SELECT COUNT(*) FROM t WHERE a < 10");
    assert!(lines.contains(&String::from("rows: none read, counted in the tree")), "{lines:?}");
    assert_eq!(rig.refused("EXPLAIN ANALYZE DELETE FROM t").code, SqlState::FeatureNotSupported);
    let head = rig.last();
    let count = rig.select("SELECT COUNT(*) FROM t WHERE a < 10", head, false).unwrap();
    assert_eq!(count, [[Value::Integer(60)]]);
    let reply = rig.run_sql("UPDATE t SET a = a + 1 WHERE a IN (3, 4) OR id = 7").unwrap();
    assert_eq!(reply.rows_affected(), 13);
    assert_eq!(rig.rebuild().unwrap().difference, None);
}
