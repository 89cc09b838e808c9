//! Statements and queries as data, and their text.

use verity_core::query::Value;

use super::datum::{Datum, DatumType};
use super::predicate::Predicate;

#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSpec {
    pub name: String,
    pub column_type: DatumType,
    pub nullable: bool,
    pub default: Option<Datum>,
    /// Its values are drawn by the database, mostly: no predicate names it, and no order.
    pub by_chance: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TableSpec {
    pub name: String,
    pub columns: Vec<ColumnSpec>,
    /// Places of the key's columns; empty: a hidden key.
    pub key: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SetTo {
    Value(Datum),
    /// The column's own value plus a small number; NULL stays NULL.
    Plus(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub column: usize,
    pub to: SetTo,
}

/// What the version of a stream must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Any,
    None,
    Exists,
    Exact(u64),
}

/// What an INSERT does with a row whose key is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    Fail,
    Nothing,
    /// `DO UPDATE SET c = excluded.c` of these places; what chance gives is drawn anew.
    Update(Vec<usize>),
}

/// A secondary index: by places of columns.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexSpec {
    pub name: String,
    pub columns: Vec<usize>,
    pub unique: bool,
}

/// One thing a transaction does.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Create(TableSpec),
    Drop {
        table: String,
    },
    CreateIndex {
        table: String,
        index: IndexSpec,
    },
    DropIndex {
        index: String,
    },
    AddColumn {
        table: String,
        column: ColumnSpec,
    },
    Insert {
        table: String,
        /// Places of the columns that are given.
        columns: Vec<usize>,
        rows: Vec<Vec<Datum>>,
        /// As typed rows, not as text; such an insert cannot solve conflicts.
        bulk: bool,
        conflict: Conflict,
    },
    Update {
        table: String,
        assignments: Vec<Assignment>,
        filter: Option<Predicate>,
    },
    Delete {
        table: String,
        filter: Option<Predicate>,
    },
    Append {
        stream: String,
        expected: Expected,
        records: Vec<Vec<u8>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Select {
    Count,
    /// For every row whether the predicate is true.
    Truth(Predicate),
    Columns {
        columns: Vec<usize>,
        /// By `by`, then the primary key; all of it descending when true.
        order: Option<bool>,
        /// Columns before the key; only with an order.
        by: Vec<usize>,
        /// Only with an order.
        limit: Option<u64>,
    },
    /// From the log: ends of the transactions that appended, once for each record.
    Appends,
    /// From the log: ends of the transactions that changed rows of the table.
    Changes,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub table: String,
    pub select: Select,
    pub filter: Option<Predicate>,
    pub as_of: Option<u64>,
}

/// Values that go beside the text. Each place is a literal or `$n`.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    pub values: Vec<Value>,
    /// Also for types that have a literal.
    pub always: bool,
}

impl Parameters {
    #[must_use]
    pub fn new(always: bool) -> Parameters {
        Parameters { values: Vec::new(), always }
    }

    pub fn place(&mut self, datum: &Datum) -> String {
        if (!self.always || datum.is_chance())
            && let Some(literal) = datum.literal()
        {
            return literal;
        }
        self.values.push(datum.to_core());
        format!("${}", self.values.len())
    }
}

impl ColumnSpec {
    /// What the database is told to draw for it.
    #[must_use]
    pub fn chance(&self) -> Option<Datum> {
        let uuid = self.column_type == DatumType::Uuid;
        self.by_chance.then_some(Datum::Chance { uuid, number: 0 })
    }

    fn sql(&self, in_key: bool) -> String {
        let mut item = format!("{} {}", self.name, self.column_type.sql());
        if !self.nullable && !in_key {
            item.push_str(" NOT NULL");
        }
        if let Some(literal) = self.default.as_ref().and_then(Datum::literal) {
            item.push_str(" DEFAULT ");
            item.push_str(&literal);
        }
        item
    }
}

impl TableSpec {
    /// Places of the columns whose values a predicate can know.
    #[must_use]
    pub fn known(&self) -> Vec<usize> {
        (0..self.columns.len()).filter(|place| !self.columns[*place].by_chance).collect()
    }

    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    #[must_use]
    pub fn sql(&self) -> String {
        let mut items = Vec::new();
        for (place, column) in self.columns.iter().enumerate() {
            items.push(column.sql(self.key.contains(&place)));
        }
        if !self.key.is_empty() {
            let names: Vec<&str> =
                self.key.iter().map(|place| self.columns[*place].name.as_str()).collect();
            items.push(format!("PRIMARY KEY ({})", names.join(", ")));
        }
        format!("CREATE TABLE {} ({})", self.name, items.join(", "))
    }
}

impl Statement {
    /// `None` for what is no SQL: bulk rows and appends. `spec` is the table's.
    #[must_use]
    pub fn sql(&self, spec: Option<&TableSpec>, parameters: &mut Parameters) -> Option<String> {
        let names = spec.map(TableSpec::names).unwrap_or_default();
        match self {
            Statement::Create(spec) => Some(spec.sql()),
            Statement::Drop { table } => Some(format!("DROP TABLE {table}")),
            Statement::CreateIndex { table, index } => {
                let columns: Vec<&str> =
                    index.columns.iter().map(|place| names[*place].as_str()).collect();
                let unique = if index.unique { "UNIQUE " } else { "" };
                let columns = columns.join(", ");
                Some(format!("CREATE {unique}INDEX {} ON {table} ({columns})", index.name))
            }
            Statement::DropIndex { index } => Some(format!("DROP INDEX {index}")),
            Statement::AddColumn { table, column } => {
                Some(format!("ALTER TABLE {table} ADD COLUMN {}", column.sql(false)))
            }
            Statement::Insert { bulk: true, .. } | Statement::Append { .. } => None,
            Statement::Insert { table, columns, rows, bulk: false, conflict } => {
                let places: Vec<&str> =
                    columns.iter().map(|place| names[*place].as_str()).collect();
                let rows: Vec<String> = rows
                    .iter()
                    .map(|row| {
                        let row: Vec<String> =
                            row.iter().map(|datum| parameters.place(datum)).collect();
                        format!("({})", row.join(", "))
                    })
                    .collect();
                let places = places.join(", ");
                let tail = match conflict {
                    Conflict::Fail => String::new(),
                    Conflict::Nothing => " ON CONFLICT DO NOTHING".to_owned(),
                    Conflict::Update(columns) => {
                        let key: Vec<&str> = spec
                            .map(|spec| spec.key.iter().map(|place| names[*place].as_str()))
                            .into_iter()
                            .flatten()
                            .collect();
                        let set = |place: &usize| {
                            let name = &names[*place];
                            let chance = spec.and_then(|spec| spec.columns[*place].chance());
                            match chance.and_then(|chance| chance.literal()) {
                                Some(drawn) => format!("{name} = {drawn}"),
                                None => format!("{name} = excluded.{name}"),
                            }
                        };
                        let sets: Vec<String> = columns.iter().map(set).collect();
                        format!(
                            " ON CONFLICT ({}) DO UPDATE SET {}",
                            key.join(", "),
                            sets.join(", ")
                        )
                    }
                };
                Some(format!("INSERT INTO {table} ({places}) VALUES {}{tail}", rows.join(", ")))
            }
            Statement::Update { table, assignments, filter } => {
                let sets: Vec<String> = assignments
                    .iter()
                    .map(|assignment| {
                        let name = &names[assignment.column];
                        match &assignment.to {
                            SetTo::Value(datum) => format!("{name} = {}", parameters.place(datum)),
                            SetTo::Plus(number) => format!("{name} = {name} + ({number})"),
                        }
                    })
                    .collect();
                let sets = sets.join(", ");
                let filter = filter_sql(filter.as_ref(), &names, parameters);
                Some(format!("UPDATE {table} SET {sets}{filter}"))
            }
            Statement::Delete { table, filter } => {
                let filter = filter_sql(filter.as_ref(), &names, parameters);
                Some(format!("DELETE FROM {table}{filter}"))
            }
        }
    }

    /// The table it touches.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        match self {
            Statement::Create(spec) => Some(&spec.name),
            Statement::Insert { table, .. }
            | Statement::Drop { table }
            | Statement::CreateIndex { table, .. }
            | Statement::AddColumn { table, .. }
            | Statement::Update { table, .. }
            | Statement::Delete { table, .. } => Some(table),
            Statement::Append { .. } | Statement::DropIndex { .. } => None,
        }
    }

    /// Leaves no row in the log by which it would be found there.
    #[must_use]
    pub fn changes_schema(&self) -> bool {
        match self {
            Statement::Create(_)
            | Statement::Drop { .. }
            | Statement::CreateIndex { .. }
            | Statement::DropIndex { .. }
            | Statement::AddColumn { .. } => true,
            Statement::Insert { .. }
            | Statement::Update { .. }
            | Statement::Delete { .. }
            | Statement::Append { .. } => false,
        }
    }
}

impl Query {
    /// Whether rows come in an order that the query asks for.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        match &self.select {
            Select::Columns { order, .. } => order.is_some(),
            Select::Count => true,
            Select::Truth(_) | Select::Appends | Select::Changes => false,
        }
    }

    #[must_use]
    pub fn sql(&self, spec: &TableSpec, parameters: &mut Parameters) -> String {
        let names = spec.names();
        let mut tail = String::new();
        let selected = match &self.select {
            Select::Appends => {
                return "SELECT transaction_last FROM __events WHERE kind = 'append'".to_owned();
            }
            Select::Changes => {
                return format!(
                    "SELECT DISTINCT transaction_last FROM __events \
                     WHERE kind IN ('insert', 'update', 'delete') AND table_name = '{}'",
                    self.table
                );
            }
            Select::Count => "COUNT(*)".to_owned(),
            Select::Truth(predicate) => {
                format!("({}) IS TRUE", predicate.sql(&names, parameters))
            }
            Select::Columns { columns, order, by, limit } => {
                if let Some(descending) = order {
                    let keys: Vec<String> = by
                        .iter()
                        .chain(&spec.key)
                        .map(|place| {
                            let direction = if *descending { " DESC" } else { "" };
                            format!("{}{direction}", names[*place])
                        })
                        .collect();
                    tail.push_str(&format!(" ORDER BY {}", keys.join(", ")));
                }
                if let Some(limit) = limit {
                    tail.push_str(&format!(" LIMIT {limit}"));
                }
                let selected: Vec<&str> =
                    columns.iter().map(|place| names[*place].as_str()).collect();
                selected.join(", ")
            }
        };
        let filter = filter_sql(self.filter.as_ref(), &names, parameters);
        let as_of = match self.as_of {
            Some(position) => format!(" AS OF POSITION {position}"),
            None => String::new(),
        };
        format!("SELECT {selected} FROM {}{as_of}{filter}{tail}", self.table)
    }
}

fn filter_sql(filter: Option<&Predicate>, names: &[String], places: &mut Parameters) -> String {
    match filter {
        Some(filter) => format!(" WHERE {}", filter.sql(names, places)),
        None => String::new(),
    }
}
