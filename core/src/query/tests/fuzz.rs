//! Any text: an answer or a typed error, never a panic; errors point inside the text.

use alloc::string::String;
use alloc::vec::Vec;

use super::database::Database;
use super::random::Random;
use crate::query::eval::{Context, Env, RowView, eval};
use crate::query::{Command, Value, prepare};
use crate::time::Timestamp;

const SEEDS: &[&str] = &[
    "SELECT id, name AS n FROM p WHERE id = ?1 AND name LIKE 'a%' ORDER BY n DESC LIMIT 3 OFFSET 1",
    "SELECT COUNT(*), MIN(born), AVG(w) FROM p GROUP BY s ORDER BY 1 NULLS LAST",
    "SELECT DISTINCT CASE WHEN s > 1 THEN 'x' ELSE upper(name) END FROM p AS OF POSITION 3",
    "INSERT INTO p (id, name, born) VALUES (1, 'é', DATE '2026-01-01'), ($1, DEFAULT, NULL)",
    "INSERT INTO p VALUES (1, 'a', NULL, 1.5, 2, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "UPDATE p SET name = name || 'x', s = DEFAULT WHERE id BETWEEN 1 AND 5 OR id IN (7, 8)",
    "DELETE FROM p WHERE NOT (born IS NULL) AND w <> 1.0e3 -- comment\n",
    "CREATE TABLE IF NOT EXISTS t (a BIGINT PRIMARY KEY, b DECIMAL(10,2) DEFAULT 0 CHECK (b >= 0), c JSON)",
    "DROP TABLE IF EXISTS p; EXPLAIN SELECT * FROM __events WHERE position > 5",
    "SELECT CAST(c AS JSON) -> 'a' ->> 0, extract(year FROM born), substr(name, 2) FROM p /* x */",
];

const PIECES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "(",
    ")",
    ",",
    "'",
    "\"",
    "AND",
    "NOT",
    "NULL",
    "p",
    "id",
    "name",
    "1",
    "1.5",
    "-",
    "*",
    "CASE",
    "END",
    "WHEN",
    "AS OF POSITION",
    "?",
    "$1",
    ";",
    "é",
    "😀",
    "\0",
    "x'",
    "IN",
    "BETWEEN",
    "LIKE",
    "CAST(",
    "::",
    "->",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "COUNT(*)",
    "--",
    "/*",
    "VALUES",
    "SET",
    "=",
    "<",
    "E'\\",
    "$$",
    "INTERVAL",
    "ARRAY[",
    "UNION",
    "[",
    "{",
    "@",
    "#",
    "OVER (",
    "EXISTS (",
    "9223372036854775808",
    "1e999",
    "DEFAULT",
    "excluded.",
    "\n",
    "\t",
    "JOIN",
];

fn mutate(random: &mut Random, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(characters.len() + 1);
        match random.below(4) {
            0 if at < characters.len() => {
                characters.remove(at);
            }
            1 => {
                let piece = random.pick(PIECES);
                characters.splice(at..at, piece.chars());
            }
            2 => {
                let to = (at + random.below(20)).min(characters.len());
                characters.drain(at..to);
            }
            _ => {
                let to = (at + random.below(30)).min(characters.len());
                let copy: Vec<char> = characters[at..to].to_vec();
                characters.splice(at..at, copy);
            }
        }
    }
    characters.into_iter().collect()
}

fn try_sql(database: &mut Database, sql: &str) {
    let parameters = [Value::Integer(1), Value::Null, Value::text("x")];
    match prepare(&database.catalog, sql) {
        Err(error) => {
            assert!(error.position.is_none_or(|at| at as usize <= sql.len()), "{sql}");
            let _ = error.render(sql);
        }
        Ok(all) => {
            for prepared in all {
                if prepared.is_write() {
                    if let Ok(command) = prepared.lower(&parameters) {
                        let mut bytes = Vec::new();
                        command.encode(&mut bytes);
                        assert_eq!(Command::decode(&bytes).as_ref(), Ok(&command), "{sql}");
                    }
                } else if prepared.parameters <= 3 {
                    let _ = prepared.as_of(&parameters, database.head());
                }
            }
        }
    }
}

fn database() -> Database {
    let mut database = Database::new();
    database
        .query("CREATE TABLE p (id BIGINT PRIMARY KEY, name TEXT DEFAULT 'n', born DATE, w DECIMAL(5,2), s SMALLINT, c TEXT)")
        .unwrap();
    database
}

#[test]
fn seeds_are_good_sql() {
    let database = database();
    for seed in SEEDS {
        prepare(&database.catalog, seed).unwrap_or_else(|error| panic!("{}", error.render(seed)));
    }
}

#[test]
fn mutated_sql_never_panics() {
    let mut random = Random::new(11);
    let mut database = database();
    for turn in 0..20_000 {
        let seed = SEEDS[turn % SEEDS.len()];
        let sql = mutate(&mut random, seed);
        try_sql(&mut database, &sql);
    }
}

#[test]
fn random_pieces_never_panic() {
    let mut random = Random::new(12);
    let mut database = database();
    for _ in 0..20_000 {
        let sql: Vec<&str> = (0..random.below(20)).map(|_| random.pick(PIECES)).collect();
        try_sql(&mut database, &sql.join(" "));
        try_sql(&mut database, &["SELECT ", &sql.join(" ")].concat());
    }
}

#[test]
fn any_expression_evaluates_or_errs_and_always_the_same() {
    let mut random = Random::new(13);
    for _ in 0..30_000 {
        let expr = random.expr(4);
        let row: Vec<Value> = (0..3).map(|_| random.value()).collect();
        let run = || {
            let context = Context::new(Timestamp(1_000_000_007), [3; 32]);
            let env = Env::constant(&[], &context).with_row(RowView::Values(&row));
            alloc::format!("{:?}", eval(&expr, &env))
        };
        assert_eq!(run(), run());
    }
}
