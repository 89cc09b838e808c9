//! Any transaction that SQL can say, schema and rows mixed in any order, is applied or refused:
//! never a panic, which would come again at each replay, and never a difference by what is in
//! memory, where it stalls, or whether it is a replay.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::kernel::{Operation, Request, RequestError};
use crate::limits::ClusterConstants;

/// A stream of numbers that is the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// What the generator believes there is; a refused transaction gives back what was before.
#[derive(Clone, Default)]
struct Believed {
    /// Columns beside `id`, by name of the table: is it a number?
    tables: BTreeMap<String, Vec<bool>>,
    /// Of which table.
    indexes: BTreeMap<String, String>,
    made: u64,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Believed {
    fn table(&self, numbers: &mut Numbers) -> Option<(String, Vec<bool>)> {
        let tables: Vec<_> = self.tables.iter().collect();
        let (name, columns) = (!tables.is_empty()).then(|| *numbers.pick(&tables))?;
        Some((name.clone(), columns.clone()))
    }

    fn statement(&mut self, numbers: &mut Numbers) -> String {
        let Some((table, columns)) = self.table(numbers).filter(|_| numbers.below(12) > 0) else {
            return self.create_table(numbers);
        };
        match numbers.below(20) {
            0 => {
                self.tables.remove(&table);
                self.indexes.retain(|_, of| *of != table);
                format!("DROP TABLE {table}")
            }
            1 | 2 => self.create_index(numbers, &table, &columns),
            3 => match self.indexes.pop_first() {
                Some((index, _)) => format!("DROP INDEX {index}"),
                None => self.create_index(numbers, &table, &columns),
            },
            4 => {
                let number = numbers.below(2) == 0;
                let (of, default) = match (number, numbers.below(2)) {
                    (true, 0) => ("BIGINT", " DEFAULT 7"),
                    (true, _) => ("BIGINT", ""),
                    (false, 0) => ("TEXT", " NOT NULL DEFAULT 'since'"),
                    (false, _) => ("TEXT", ""),
                };
                let column = columns.len();
                if let Some(columns) = self.tables.get_mut(&table) {
                    columns.push(number);
                }
                format!("ALTER TABLE {table} ADD COLUMN c{column} {of}{default}")
            }
            5..=7 => change(numbers, &table, &columns),
            8 | 9 => match numbers.below(3) {
                0 => format!("UPDATE {table} SET id = id + {}", 1 + numbers.below(400)),
                1 => format!("UPDATE {table} SET id = id + 1 WHERE {}", condition(numbers)),
                _ => format!("UPDATE {table} SET id = {} - id", numbers.below(1_000)),
            },
            10..=12 => format!("DELETE FROM {table} WHERE {}", condition(numbers)),
            _ => insert(numbers, &table, &columns),
        }
    }

    fn create_table(&mut self, numbers: &mut Numbers) -> String {
        let name = *numbers.pick(&NAMES);
        let columns: Vec<bool> = (0..1 + numbers.below(3)).map(|_| numbers.below(2) == 0).collect();
        let declared = columns.iter().enumerate().map(|(at, number)| {
            let of = if *number { "BIGINT" } else { "TEXT" };
            format!(", c{at} {of}")
        });
        let declared: String = declared.collect();
        let key = numbers.pick(&["PRIMARY KEY", "PRIMARY KEY", "NOT NULL"]);
        self.tables.insert(name.to_string(), columns);
        format!("CREATE TABLE {name} (id BIGINT {key}{declared})")
    }

    fn create_index(&mut self, numbers: &mut Numbers, table: &str, columns: &[bool]) -> String {
        self.made += 1;
        let index = format!("i{}", self.made);
        self.indexes.insert(index.clone(), table.to_string());
        let unique = numbers.pick(&["", "", "UNIQUE "]);
        let first = numbers.below(columns.len() as u64);
        let of = match numbers.below(3) {
            0 => format!("c{first}"),
            1 => format!("c{first}, id"),
            _ => (0..columns.len()).map(|at| format!("c{at}")).collect::<Vec<_>>().join(", "),
        };
        format!("CREATE {unique}INDEX {index} ON {table} ({of})")
    }
}

fn condition(numbers: &mut Numbers) -> String {
    let from = numbers.below(600);
    match numbers.below(6) {
        0 => format!("id = {from}"),
        1 => "id >= 0".to_string(),
        2 => format!("c0 IS NULL OR id > {from}"),
        3 => format!("id % 3 = {}", from % 3),
        4 => format!("id BETWEEN {from} AND {} AND 100 / (id - {}) < 50", from + 200, from + 450),
        _ => format!("id BETWEEN {from} AND {}", from + numbers.below(300)),
    }
}

fn value(numbers: &mut Numbers, number: bool) -> String {
    match (number, numbers.below(8)) {
        (_, 0) => "NULL".to_string(),
        (true, 1) => "floor(random() * 1000)::BIGINT".to_string(),
        (true, _) => numbers.below(500).to_string(),
        (false, 1) => "gen_random_uuid()::TEXT".to_string(),
        (false, kind) => {
            let sizes = [0, 5, 40, 300, 470, 520, 1_500, 3_000];
            let size = sizes[(numbers.below(kind.min(5) + 3)) as usize];
            format!("'{}{}'", numbers.below(1_000), "x".repeat(size))
        }
    }
}

fn change(numbers: &mut Numbers, table: &str, columns: &[bool]) -> String {
    let at = numbers.below(columns.len() as u64) as usize;
    let to = match (columns[at], numbers.below(3)) {
        (true, 0) => format!("c{at} + 1"),
        (false, 0) => format!("coalesce(c{at}, '') || c{at}"),
        (number, _) => value(numbers, number),
    };
    format!("UPDATE {table} SET c{at} = {to} WHERE {}", condition(numbers))
}

fn insert(numbers: &mut Numbers, table: &str, columns: &[bool]) -> String {
    let from = numbers.below(600);
    let rows = *numbers.pick(&[1, 3, 12, 40, 120, 250]);
    let rows = (0..rows).map(|row| {
        let id = (from + row * 7) % 1_009;
        let values = columns.iter().map(|number| format!(", {}", value(numbers, *number)));
        format!("({id}{})", values.collect::<String>())
    });
    let rows: Vec<String> = rows.collect();
    let conflict = match numbers.below(6) {
        0 => " ON CONFLICT DO NOTHING".to_string(),
        1 | 2 => {
            let to = value(numbers, columns[0]);
            format!(" ON CONFLICT (id) DO UPDATE SET c0 = {to}")
        }
        3 => " ON CONFLICT (id) DO UPDATE SET c0 = excluded.c0".to_string(),
        _ => String::new(),
    };
    format!("INSERT INTO {table} VALUES {}{conflict}", rows.join(", "))
}

/// What a transaction came to, and all that a reader of the log sees of it.
type Outcome = (Result<String, RequestError>, [u8; 32]);

/// Runs `text` of number `at` as all runs do; jobs and checkpoints come at fixed times.
fn step(rig: &mut Rig, at: usize, text: &str) -> Outcome {
    let sql = Operation::Sql { text: text.to_string(), params: vec![] };
    let idempotency = id(NOW_MS + 1_000_000, (at % 250) as u8);
    let reply = rig.request(&Request { idempotency, ..request(vec![sql]) });
    if at.is_multiple_of(3) {
        rig.job_slice();
    }
    if at % 5 == 4 {
        rig.checkpoint();
    }
    (reply.map(|reply| format!("{:?}", reply.results)), rig.head(T1).chain.0)
}

fn constants(numbers: &mut Numbers) -> ClusterConstants {
    ClusterConstants {
        transaction_pages_read_max: *numbers.pick(&[16, 64, 128]),
        transaction_events_max: *numbers.pick(&[120, 512]),
        ..ClusterConstants::SMALL
    }
}

/// Gives how many transactions were applied, and how many refused.
fn play(seed: u64, transactions: usize) -> (usize, usize) {
    let mut numbers = Numbers(seed);
    let constants = constants(&mut numbers);
    let mut believed = Believed::default();
    let mut texts = Vec::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut rig = Rig::with(Memory::Ample, constants);
    for at in 0..transactions {
        let before = believed.clone();
        let statements = 1 + numbers.below(*[1, 3, 7].get(at % 3).unwrap_or(&1));
        let statements = (0..statements).map(|_| believed.statement(&mut numbers));
        let text = statements.collect::<Vec<_>>().join("; ");
        let outcome = step(&mut rig, at, &text);
        if outcome.0.is_err() {
            believed = Believed { made: believed.made, ..before };
        }
        texts.push(text);
        outcomes.push(outcome);
    }
    rig.finish_jobs();
    assert_eq!(rig.rebuild().unwrap().difference, None, "seed {seed}");
    let chain = rig.head(T1).chain.0;
    for memory in [Memory::None, Memory::Random(seed)] {
        let mut rig = Rig::with(memory, constants);
        for (at, (text, expected)) in texts.iter().zip(&outcomes).enumerate() {
            let outcome = step(&mut rig, at, text);
            assert_eq!(&outcome, expected, "seed {seed}, {memory:?}, transaction {at}: {text}");
            if at % 40 == 39 {
                rig.crash();
                assert_eq!(rig.head(T1).chain.0, expected.1, "seed {seed}: the replay of {at}");
            }
        }
        rig.finish_jobs();
        assert_eq!(rig.head(T1).chain.0, chain, "seed {seed}, {memory:?}");
    }
    let applied = outcomes.iter().filter(|(outcome, _)| outcome.is_ok()).count();
    (applied, transactions - applied)
}

#[test]
fn any_transaction_is_applied_or_refused_and_everywhere_the_same() {
    let (mut applied, mut refused) = (0, 0);
    // Of 1008 the bound of pages needs more of them than memory may hold at once; of 3008 a row
    // with its indexes needs some, and those of the next rows were read ahead in their place.
    for seed in [1, 2, 3, 4, 5, 6, 1_008, 3_008] {
        let (some, others) = play(seed, 120);
        (applied, refused) = (applied + some, refused + others);
    }
    assert!(applied > 200 && refused > 100, "{applied} applied, {refused} refused");
}

/// `VERITY_SEEDS=A..B cargo test -p verity-core --lib transaction_campaign -- --ignored --nocapture`
#[test]
#[ignore = "a campaign: as many seeds as one has time for"]
fn transaction_campaign() {
    let seeds = std::env::var("VERITY_SEEDS").unwrap_or_default();
    let mut ends = seeds.split("..").map(|end| end.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        panic!("VERITY_SEEDS=A..B");
    };
    for seed in first..last {
        let (applied, refused) = play(seed, 120);
        std::println!("seed {seed}: {applied} applied, {refused} refused");
    }
}
