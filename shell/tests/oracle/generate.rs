//! Tables, changes and queries, as text that SQLite and Verity both read the same way.
//!
//! The generator knows names and types of columns and nothing else: neither what the tables hold
//! nor which indexes they have. It keeps to what both mean the same: no division by what may be
//! zero, no sums that overflow, no mixed types, halves and quarters as fractions.

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Real,
    Text,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    /// Name and type; those of the key are the first ones.
    pub columns: Vec<(String, Kind)>,
    pub key: usize,
}

impl Table {
    pub fn new(random: &mut Random, name: &str) -> Table {
        let key = 1 + random.below(2);
        let count = key + 2 + random.below(4);
        let columns = (0..count)
            .map(|at| {
                let kind = match random.below(if at < key { 2 } else { 3 }) {
                    0 => Kind::Integer,
                    1 => Kind::Text,
                    _ => Kind::Real,
                };
                (format!("c{at}"), kind)
            })
            .collect();
        Table { name: name.to_string(), columns, key }
    }

    pub fn create(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (name, kind))| {
                let kind = match kind {
                    Kind::Integer => "BIGINT",
                    Kind::Real => "DOUBLE",
                    Kind::Text => "TEXT",
                };
                format!("{name} {kind}{}", if at < self.key { " NOT NULL" } else { "" })
            })
            .collect();
        let key = self.key_names();
        format!("CREATE TABLE {} ({}, PRIMARY KEY ({key}))", self.name, columns.join(", "))
    }

    pub fn key_names(&self) -> String {
        let names: Vec<&str> =
            self.columns[..self.key].iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    /// An index that whoever asks the queries is not told of.
    pub fn index(&self, random: &mut Random, number: usize) -> String {
        let mut names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        for at in 0..names.len() {
            names.swap(at, random.below(self.columns.len()));
        }
        names.truncate(1 + random.below(2));
        format!("CREATE INDEX i{number} ON {} ({})", self.name, names.join(", "))
    }

    pub fn insert(&self, random: &mut Random) -> String {
        let rows: Vec<String> = (0..1 + random.below(4)).map(|_| self.row(random)).collect();
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let conflict = match random.below(3) {
            0 => "DO NOTHING".to_string(),
            _ => {
                let (column, kind) = self.plain_column(random);
                let value = match random.below(2) {
                    0 => format!("excluded.{column}"),
                    _ => literal(random, kind),
                };
                format!("DO UPDATE SET {column} = {value}")
            }
        };
        // Twice the same key in one INSERT would be updated twice: refused here, fine in SQLite.
        let rows = if conflict == "DO NOTHING" { rows.join(", ") } else { rows[0].clone() };
        format!(
            "INSERT INTO {} ({}) VALUES {rows} ON CONFLICT ({}) {conflict}",
            self.name,
            names.join(", "),
            self.key_names()
        )
    }

    fn row(&self, random: &mut Random) -> String {
        let values: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (_, kind))| match at < self.key {
                true => literal_of(random, *kind),
                false => literal(random, *kind),
            })
            .collect();
        format!("({})", values.join(", "))
    }

    fn plain_column(&self, random: &mut Random) -> (&str, Kind) {
        let (name, kind) = &self.columns[self.key + random.below(self.columns.len() - self.key)];
        (name, *kind)
    }

    pub fn update(&self, random: &mut Random, predicate: &str) -> String {
        let (column, kind) = self.plain_column(random);
        let value = match kind {
            Kind::Integer => format!("({column} % 50) + {}", random.below(9)),
            Kind::Real | Kind::Text => literal(random, kind),
        };
        format!("UPDATE {} SET {column} = {value} WHERE {predicate}", self.name)
    }

    pub fn predicate(&self, random: &mut Random, depth: usize) -> String {
        if depth > 0 && random.chance(60) {
            let left = self.predicate(random, depth - 1);
            return match random.below(5) {
                0 => format!("NOT ({left})"),
                1 | 2 => format!("({left}) AND ({})", self.predicate(random, depth - 1)),
                _ => format!("({left}) OR ({})", self.predicate(random, depth - 1)),
            };
        }
        let kind = *random.pick(&[Kind::Integer, Kind::Integer, Kind::Text, Kind::Real]);
        let value = self.value(random, kind, 1);
        let not = if random.chance(25) { "NOT " } else { "" };
        match random.below(7) {
            0 => {
                let list: Vec<String> =
                    (0..1 + random.below(4)).map(|_| literal(random, kind)).collect();
                format!("{value} {not}IN ({})", list.join(", "))
            }
            1 => {
                let (low, high) = (literal(random, kind), literal(random, kind));
                format!("{value} {not}BETWEEN {low} AND {high}")
            }
            2 => format!("{value} IS {not}NULL"),
            3 if kind == Kind::Text => {
                let pattern = random.pick(&["a%", "%b", "%a%", "_", "a_", "%", "b%a", ""]);
                format!("{value} {not}LIKE '{pattern}'")
            }
            4 => format!("{value} IS {not}DISTINCT FROM {}", literal(random, kind)),
            _ => {
                let op = random.pick(&["=", "<>", "<", "<=", ">", ">=", "=", "="]);
                format!("{value} {op} {}", self.value(random, kind, 0))
            }
        }
    }

    /// An expression of a type.
    pub fn value(&self, random: &mut Random, kind: Kind, depth: usize) -> String {
        let of_kind: Vec<&str> = self
            .columns
            .iter()
            .filter(|(_, other)| *other == kind)
            .map(|(name, _)| name.as_str())
            .collect();
        if depth == 0 || random.chance(50) {
            return if of_kind.is_empty() || random.chance(30) {
                literal(random, kind)
            } else {
                (*random.pick(&of_kind)).to_string()
            };
        }
        let mut of = |kind| self.value(random, kind, depth - 1);
        let (left, right) = (of(kind), of(kind));
        let text = of(Kind::Text);
        let condition = self.predicate(random, 0);
        match (kind, random.below(6)) {
            (_, 0) => format!("COALESCE({left}, {right})"),
            (_, 1) => format!("CASE WHEN {condition} THEN {left} ELSE {right} END"),
            (_, 2) => format!("NULLIF({left}, {right})"),
            (Kind::Integer, 3) => format!("({left} + {right})"),
            (Kind::Integer, 4) => format!("LENGTH({text})"),
            (Kind::Integer, _) => format!("(({left} * 3 - {right}) % 7)"),
            (Kind::Real, 3) => format!("({left} + {right})"),
            (Kind::Real, 4) => format!("ABS({left})"),
            (Kind::Real, _) => format!("(- {left})"),
            (Kind::Text, 3) => format!("({left} || {right})"),
            (Kind::Text, 4) => format!("UPPER({left})"),
            (Kind::Text, _) => {
                format!("SUBSTR({left}, {}, {})", 1 + random.below(2), random.below(3))
            }
        }
    }

    /// A query, and whether the order of its rows is part of the answer. `where_` is its condition.
    pub fn query(&self, random: &mut Random, where_: &str) -> (String, bool) {
        let name = &self.name;
        match random.below(6) {
            0 => {
                let aggregates = self.aggregates(random);
                (format!("SELECT {aggregates} FROM {name} WHERE {where_}"), false)
            }
            1 => {
                let (column, _) = random.pick(&self.columns).clone();
                let aggregates = self.aggregates(random);
                let sql = format!(
                    "SELECT {column}, {aggregates} FROM {name} WHERE {where_} GROUP BY {column}"
                );
                if random.chance(50) {
                    (format!("{sql} ORDER BY 1 DESC"), true)
                } else {
                    (sql, false)
                }
            }
            2 => {
                let kind = *random.pick(&[Kind::Integer, Kind::Text, Kind::Real]);
                let value = self.value(random, kind, 2);
                (format!("SELECT DISTINCT {value} FROM {name} WHERE {where_}"), false)
            }
            3 => {
                let (column, _) = random.pick(&self.columns).clone();
                let direction = *random.pick(&["", " DESC", " NULLS LAST", " DESC NULLS FIRST"]);
                let backwards = if random.chance(50) { " DESC" } else { "" };
                let key: Vec<String> = self.columns[..self.key]
                    .iter()
                    .map(|(name, _)| format!("{name}{backwards}"))
                    .collect();
                let order = match random.chance(60) {
                    true => format!("{column}{direction}, {}", key.join(", ")),
                    false => key.join(", "),
                };
                let limit = match random.below(3) {
                    0 => String::new(),
                    1 => format!(" LIMIT {}", random.below(6)),
                    _ => format!(" LIMIT {} OFFSET {}", random.below(6), random.below(4)),
                };
                (format!("SELECT * FROM {name} WHERE {where_} ORDER BY {order}{limit}"), true)
            }
            _ => {
                let kind = *random.pick(&[Kind::Integer, Kind::Text, Kind::Real]);
                let value = self.value(random, kind, 2);
                (format!("SELECT {}, {value} FROM {name} WHERE {where_}", self.key_names()), false)
            }
        }
    }

    fn aggregates(&self, random: &mut Random) -> String {
        let list: Vec<String> = (0..1 + random.below(3))
            .map(|_| {
                let (name, kind) = random.pick(&self.columns).clone();
                let distinct = if random.chance(25) { "DISTINCT " } else { "" };
                match (random.below(5), kind) {
                    (0, _) => "COUNT(*)".to_string(),
                    (1, _) => format!("COUNT({distinct}{name})"),
                    (2, Kind::Integer | Kind::Real) => format!("SUM({distinct}{name})"),
                    (3, _) => format!("MIN({name})"),
                    _ => format!("MAX({name})"),
                }
            })
            .collect();
        list.join(", ")
    }
}

pub fn literal(random: &mut Random, kind: Kind) -> String {
    if random.chance(12) { "NULL".to_string() } else { literal_of(random, kind) }
}

fn literal_of(random: &mut Random, kind: Kind) -> String {
    match kind {
        Kind::Integer => {
            random.pick(&["0", "1", "2", "3", "5", "8", "-1", "-7", "40", "100"]).to_string()
        }
        Kind::Real => random.pick(&["0.0", "0.5", "1.25", "-0.75", "2.0", "100.5"]).to_string(),
        Kind::Text => {
            random.pick(&["''", "'a'", "'b'", "'ab'", "'ba'", "'A'", "'aa'", "'a b'"]).to_string()
        }
    }
}
