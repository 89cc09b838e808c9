//! What clients ask: drawn schemas, transactions and queries.
//!
//! Purpose: dense, colliding work. Keys come partly from rows that exist, so that inserts collide
//! and updates hit; predicates come partly from stored values. The generator looks at the model,
//! which lags behind the database by up to a round, so it also asks for what is no longer so.
//! Every text carries the tenant's canary; a byte search of all disks must never find it.

use crate::model::TenantModel;
use crate::random::Random;
use crate::sql::{
    Assignment, ColumnSpec, Compare, Conflict, Datum, DatumType, Expected, IndexSpec, Predicate,
    Query, Select, SetTo, Statement, TableSpec,
};

/// Weights, drawn per run.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub insert: u64,
    pub bulk: u64,
    pub update: u64,
    pub delete: u64,
    pub append: u64,
    /// Several statements in one transaction.
    pub several: u64,
    /// Indexes come and go, tables gain columns. Queries know nothing of it.
    pub schema: u64,
    /// Chance, in a million, that an index is unique.
    pub unique_ppm: u64,
    pub rows_per_insert_max: u64,
    pub rows_per_bulk_max: u64,
    /// Chance, in a million, that a filter names the whole key.
    pub by_key_ppm: u64,
    /// Chance, in a million, of a row near the size limit.
    pub huge_ppm: u64,
    /// Chance, in a million, that an INSERT as text solves conflicts.
    pub conflict_ppm: u64,
    /// Chance, in a million, that several statements end with one that must be refused.
    pub fail_ppm: u64,
    /// Chance, in a million, that a read is of the log.
    pub events_ppm: u64,
    /// Fresh integer keys come from `0..key_space`.
    pub key_space: u64,
    /// Chance, in a million, that a key is one that exists.
    pub collide_ppm: u64,
}

impl Mix {
    pub fn draw(random: &mut Random) -> Mix {
        Mix {
            insert: random.range(10, 60),
            bulk: random.range(0, 20),
            update: random.range(0, 40),
            delete: random.range(0, 20),
            append: random.range(0, 20),
            several: random.range(0, 20),
            rows_per_insert_max: random.range(1, 8),
            rows_per_bulk_max: random.range(2, 120),
            by_key_ppm: random.range(300_000, 950_000),
            huge_ppm: if random.chance(600_000) { random.range(2_000, 40_000) } else { 0 },
            conflict_ppm: if random.coin() { random.range(10_000, 500_000) } else { 0 },
            fail_ppm: random.range(0, 300_000),
            events_ppm: random.magnitude(60_000),
            key_space: 1 << random.range(5, 40),
            collide_ppm: random.range(0, 150_000),
            schema: if random.chance(700_000) { random.range(1, 8) } else { 0 },
            unique_ppm: random.range(50_000, 500_000),
        }
    }
}

#[derive(Debug)]
pub struct Workload {
    random: Random,
    mix: Mix,
    /// One per tenant, by its place.
    canaries: Vec<String>,
    tables: Vec<u64>,
    indexes: Vec<u64>,
    rare: Rare,
}

/// What most runs have little of; drawn apart, so that all else is as it would be without.
#[derive(Debug)]
struct Rare {
    random: Random,
    /// Chance, in a million, that a transaction drops a table, or makes one of that name again.
    drop_ppm: u64,
    /// Chance, in a million, that a new table has columns that are drawn by chance.
    chance_ppm: u64,
    /// Nothing is drawn by chance any more.
    certain: bool,
}

impl Rare {
    fn draw(mut random: Random) -> Rare {
        let drop_ppm = if random.chance(600_000) { random.range(2_000, 25_000) } else { 0 };
        let chance_ppm = if random.coin() { random.range(300_000, 900_000) } else { 0 };
        Rare { random, drop_ppm, chance_ppm, certain: false }
    }
}

/// Columns of a table, at most.
const COLUMNS_MAX: usize = 12;
/// Indexes of a tenant, at most.
const INDEXES_MAX: usize = 12;

impl Workload {
    #[must_use]
    pub fn new(random: Random, mix: Mix, canaries: Vec<String>) -> Workload {
        let (tables, indexes) = (vec![0; canaries.len()], vec![0; canaries.len()]);
        let rare = Rare::draw(random.stream("rare"));
        Workload { random, mix, canaries, tables, indexes, rare }
    }

    /// No more indexes and columns, no table less; and nothing that a node draws.
    pub fn keep_schema(&mut self) {
        self.mix.schema = 0;
        self.rare.drop_ppm = 0;
        self.rare.certain = true;
    }

    /// A table with a name never used before.
    pub fn create_table(&mut self, tenant: usize) -> Statement {
        self.tables[tenant] += 1;
        let name = format!("t{}", self.tables[tenant]);
        let count = self.random.range(2, 7) as usize;
        let mut columns = Vec::new();
        for place in 0..count {
            let column_type = if place == 0 {
                *self.random.pick(&[
                    DatumType::BigInt,
                    DatumType::BigInt,
                    DatumType::Text,
                    DatumType::Uuid,
                    DatumType::Timestamp,
                ])
            } else if place == 1 {
                DatumType::Text
            } else {
                *self.random.pick(&DatumType::ALL)
            };
            let nullable = place > 0 && self.random.chance(700_000);
            let default = if place > 1 && self.random.chance(200_000) {
                self.default_of(tenant, column_type)
            } else {
                None
            };
            let name = format!("c{place}");
            columns.push(ColumnSpec { name, column_type, nullable, default, by_chance: false });
        }
        let key = match self.random.weighted(&[6, 2, 2]) {
            0 => vec![0],
            1 => {
                let second = self.random.range(1, count as u64 - 1) as usize;
                vec![0, second]
            }
            _ => Vec::new(),
        };
        if !key.is_empty() && self.rare.random.chance(self.rare.chance_ppm) {
            for _ in 0..self.rare.random.range(1, 2) {
                let uuid = self.rare.random.coin();
                columns.push(ColumnSpec {
                    name: format!("c{}", columns.len()),
                    column_type: if uuid { DatumType::Uuid } else { DatumType::Double },
                    nullable: self.rare.random.coin(),
                    default: None,
                    by_chance: true,
                });
            }
        }
        Statement::Create(TableSpec { name, columns, key })
    }

    /// A table is dropped, or one of a name that was dropped is made again, as it was: what was
    /// asked before of the one means the same of the other.
    fn drop_or_make_again(&mut self, tenant: usize, model: &TenantModel) -> Option<Vec<Statement>> {
        if !self.rare.random.chance(self.rare.drop_ppm) {
            return None;
        }
        let tables = model.table_names();
        let gone: Vec<String> = model.gone().into_iter().map(|(name, _, _)| name).collect();
        let gone: Vec<String> = gone.into_iter().filter(|name| !tables.contains(name)).collect();
        let again = if gone.is_empty() { 0 } else { 4 };
        let (name, kind) = match self.rare.random.weighted(&[again, 3, 2, 2]) {
            0 => (self.rare.random.pick(&gone).clone(), 0),
            _ if tables.is_empty() => return None,
            kind => (self.rare.random.pick(&tables).clone(), kind),
        };
        let spec = model.spec_at(&name, None)?.clone();
        let drop = Statement::Drop { table: name };
        Some(match kind {
            0 if self.rare.random.coin() => {
                let insert = self.insert(tenant, model, &spec, false);
                vec![Statement::Create(spec), insert]
            }
            0 => vec![Statement::Create(spec)],
            1 => vec![drop],
            2 => vec![drop, Statement::Create(spec)],
            _ => {
                let before = match self.rare.random.coin() {
                    true => self.insert(tenant, model, &spec, false),
                    false => self.update(tenant, model, &spec),
                };
                vec![before, drop]
            }
        })
    }

    /// What must be unique is said while the table is empty.
    fn unique_index(&mut self, tenant: usize, table: &Statement) -> Option<Statement> {
        let Statement::Create(spec) = table else { return None };
        if self.mix.schema == 0 || !self.random.chance(self.mix.unique_ppm) {
            return None;
        }
        self.indexes[tenant] += 1;
        let name = format!("x{}", self.indexes[tenant]);
        let first = self.random.index(spec.columns.len());
        let second = self.random.index(spec.columns.len());
        let mut columns = vec![first];
        if second != first && self.random.coin() {
            columns.push(second);
        }
        let index = IndexSpec { name, columns, unique: true };
        Some(Statement::CreateIndex { table: spec.name.clone(), index })
    }

    fn default_of(&mut self, tenant: usize, column_type: DatumType) -> Option<Datum> {
        let datum = self.datum(tenant, column_type);
        // Defaults are schema: they must hold no personal data, so no canary.
        let plain = datum.literal().is_some() && column_type != DatumType::Text;
        plain.then_some(datum)
    }

    /// An index, the end of one, or a column.
    fn change_schema(&mut self, tenant: usize, model: &TenantModel, spec: &TableSpec) -> Statement {
        let table = spec.name.clone();
        let indexes = model.index_names();
        let drop = if indexes.len() < INDEXES_MAX { 2 } else { 20 };
        let add = if spec.columns.len() < COLUMNS_MAX { 3 } else { 0 };
        match self.random.weighted(&[8, drop, add]) {
            1 if !indexes.is_empty() => {
                Statement::DropIndex { index: self.random.pick(&indexes).clone() }
            }
            2 => {
                let column_type = *self.random.pick(&DatumType::ALL);
                let default =
                    if self.random.coin() { self.default_of(tenant, column_type) } else { None };
                let nullable = default.is_none() || self.random.coin();
                let name = format!("c{}", spec.columns.len());
                let column = ColumnSpec { name, column_type, nullable, default, by_chance: false };
                Statement::AddColumn { table, column }
            }
            _ => {
                self.indexes[tenant] += 1;
                let last = self.indexes[tenant];
                // Now and then a name that was given before.
                let number =
                    if self.random.chance(50_000) { self.random.range(1, last) } else { last };
                let mut places: Vec<usize> = (0..spec.columns.len()).collect();
                let count = self.random.range(1, 3).min(places.len() as u64);
                // Not unique: over many rows a job would find out, later, and until then nobody
                // knows which rows it holds.
                let columns = (0..count)
                    .map(|_| {
                        let at = self.random.index(places.len());
                        places.swap_remove(at)
                    })
                    .collect();
                let index = IndexSpec { name: format!("x{number}"), columns, unique: false };
                Statement::CreateIndex { table, index }
            }
        }
    }

    /// A transaction of one tenant; not empty.
    pub fn transaction(&mut self, tenant: usize, model: &TenantModel) -> Vec<Statement> {
        if let Some(statements) = self.drop_or_make_again(tenant, model) {
            return statements;
        }
        if model.table_names().is_empty() || self.random.chance(4_000) {
            let table = self.create_table(tenant);
            return match self.unique_index(tenant, &table) {
                Some(index) => vec![table, index],
                None => vec![table],
            };
        }
        let mix = self.mix;
        let kinds =
            [mix.insert, mix.bulk, mix.update, mix.delete, mix.append, mix.schema, mix.several];
        let kind = self.random.weighted(&kinds);
        if kind < 6 {
            return vec![self.statement(tenant, model, kind)];
        }
        let count = self.random.range(2, 5);
        let mut statements: Vec<Statement> = (0..count)
            .map(|_| {
                let kind = self.random.weighted(&kinds[..6]);
                self.statement(tenant, model, kind)
            })
            .collect();
        // The middle of it must leave nothing behind: mostly the same rows once more.
        if self.random.chance(mix.fail_ppm)
            && let Some(again) = statements.iter().rev().find(|statement| {
                matches!(statement, Statement::Insert { conflict: Conflict::Fail, .. })
            })
        {
            statements.push(again.clone());
        }
        statements
    }

    /// A read, as of now or of a position up to `head`.
    pub fn query(&mut self, tenant: usize, model: &TenantModel, head: u64) -> Option<Query> {
        let tables = model.table_names();
        if tables.is_empty() {
            return None;
        }
        let gone = model.gone();
        if !gone.is_empty() && self.rare.random.chance(150_000) {
            let (table, created, dropped) = self.rare.random.pick(&gone).clone();
            let last = (dropped - 1).min(head);
            if created <= last {
                let as_of = self.rare.random.range(created, last);
                let spec = model.spec_at(&table, Some(as_of))?.clone();
                let filter = self.random.coin().then(|| self.filter(tenant, model, &spec));
                let select = self.select(&spec);
                return Some(Query { table, select, filter, as_of: Some(as_of) });
            }
        }
        let table = self.random.pick(&tables).clone();
        let spec = model.spec(&table)?.clone();
        if self.random.chance(self.mix.events_ppm) {
            let select = if self.random.coin() { Select::Appends } else { Select::Changes };
            return Some(Query { table, select, filter: None, as_of: None });
        }
        let filter = if self.random.chance(750_000) {
            Some(self.filter(tenant, model, &spec))
        } else {
            None
        };
        let select = self.select(&spec);
        let created = model.created_at(&table)?;
        let as_of = if created <= head && self.random.chance(350_000) {
            Some(self.random.range(created, head))
        } else {
            None
        };
        Some(Query { table, select, filter, as_of })
    }

    fn select(&mut self, spec: &TableSpec) -> Select {
        if self.random.chance(200_000) {
            return Select::Count;
        }
        let known = spec.known();
        let count = self.random.range(1, spec.columns.len() as u64);
        let columns = (0..count).map(|_| self.random.index(spec.columns.len())).collect();
        let order = (!spec.key.is_empty() && self.random.coin()).then(|| self.random.coin());
        let count = if order.is_some() { self.random.below(3) } else { 0 };
        let by = (0..count).map(|_| *self.random.pick(&known)).collect();
        let limited = order.is_some() && self.random.coin();
        let limit = limited.then(|| self.random.magnitude(50));
        Select::Columns { columns, order, by, limit }
    }

    /// The whole table: what the last checks read.
    #[must_use]
    pub fn whole(spec: &TableSpec, as_of: Option<u64>) -> Query {
        let columns = (0..spec.columns.len()).collect();
        let select = Select::Columns { columns, order: None, by: Vec::new(), limit: None };
        Query { table: spec.name.clone(), select, filter: None, as_of }
    }

    fn statement(&mut self, tenant: usize, model: &TenantModel, kind: usize) -> Statement {
        if kind == 4 {
            return self.append(tenant, model);
        }
        let tables = model.table_names();
        let table = self.random.pick(&tables).clone();
        let Some(spec) = model.spec(&table).cloned() else {
            unreachable!("the name came from the model")
        };
        match kind {
            0 => self.insert(tenant, model, &spec, false),
            1 => self.insert(tenant, model, &spec, true),
            2 => self.update(tenant, model, &spec),
            5 => self.change_schema(tenant, model, &spec),
            _ => {
                let filter = Some(self.filter(tenant, model, &spec));
                Statement::Delete { table, filter }
            }
        }
    }

    fn insert(
        &mut self,
        tenant: usize,
        model: &TenantModel,
        spec: &TableSpec,
        bulk: bool,
    ) -> Statement {
        let max = if bulk { self.mix.rows_per_bulk_max } else { self.mix.rows_per_insert_max };
        let count =
            if bulk { self.random.range(1, max) } else { self.random.magnitude(max).max(1) };
        let mut columns = Vec::new();
        for (place, column) in spec.columns.iter().enumerate() {
            let needed = spec.key.contains(&place) || !column.nullable;
            if needed || self.random.chance(850_000) {
                columns.push(place);
            }
        }
        if columns.is_empty() {
            columns.push(0);
        }
        let taken = model.keys(&spec.name);
        let mut rows = Vec::new();
        for _ in 0..count {
            let old = (!taken.is_empty() && self.random.chance(self.mix.collide_ppm))
                .then(|| self.random.pick(&taken).clone());
            let mut row = Vec::new();
            for place in &columns {
                let column = &spec.columns[*place];
                let in_key = spec.key.iter().position(|key| key == place);
                row.push(match (in_key, &old) {
                    (Some(nth), Some(old)) => old[nth].clone(),
                    (Some(_), None) => self.fresh_key(tenant, column.column_type),
                    (None, _) if column.nullable && self.random.chance(120_000) => Datum::Null,
                    (None, _) if !column.nullable && self.random.chance(3_000) => Datum::Null,
                    (None, _) => self.value(tenant, column, bulk),
                });
            }
            rows.push(row);
        }
        let conflict = self.conflict(spec, bulk);
        Statement::Insert { table: spec.name.clone(), columns, rows, bulk, conflict }
    }

    fn conflict(&mut self, spec: &TableSpec, bulk: bool) -> Conflict {
        if bulk || spec.key.is_empty() || !self.random.chance(self.mix.conflict_ppm) {
            return Conflict::Fail;
        }
        let certain = self.rare.certain;
        let free = (0..spec.columns.len()).filter(|place| {
            !(spec.key.contains(place) || certain && spec.columns[*place].by_chance)
        });
        let set: Vec<usize> = free.filter(|_| self.random.coin()).collect();
        if set.is_empty() { Conflict::Nothing } else { Conflict::Update(set) }
    }

    fn update(&mut self, tenant: usize, model: &TenantModel, spec: &TableSpec) -> Statement {
        let free: Vec<usize> =
            (0..spec.columns.len()).filter(|place| !spec.key.contains(place)).collect();
        let filter = Some(self.filter(tenant, model, spec));
        let table = spec.name.clone();
        if free.is_empty() {
            return Statement::Delete { table, filter };
        }
        let first = self.random.index(free.len());
        let count = self.random.range(1, 2).min((free.len() - first) as u64) as usize;
        let assignments = free[first..first + count]
            .iter()
            .map(|place| {
                let column = &spec.columns[*place];
                let to = if column.column_type == DatumType::BigInt && self.random.coin() {
                    SetTo::Plus(self.random.signed_range(-3, 3))
                } else if column.nullable && self.random.chance(100_000) {
                    SetTo::Value(Datum::Null)
                } else {
                    SetTo::Value(self.value(tenant, column, false))
                };
                Assignment { column: *place, to }
            })
            .collect();
        Statement::Update { table, assignments, filter }
    }

    fn append(&mut self, tenant: usize, model: &TenantModel) -> Statement {
        let stream = format!("s{}", self.random.below(4));
        let version = model.stream_version(&stream);
        let expected = match self.random.weighted(&[4, 1, 2, 4]) {
            0 => Expected::Any,
            1 => Expected::None,
            2 => Expected::Exists,
            _ => Expected::Exact(version + self.random.magnitude(2)),
        };
        let count = self.random.range(1, 4);
        let records = (0..count)
            .map(|_| match self.datum(tenant, DatumType::Text) {
                Datum::Text(text) => text.into_bytes(),
                _ => unreachable!("a text draws a text"),
            })
            .collect();
        Statement::Append { stream, expected, records }
    }

    fn filter(&mut self, tenant: usize, model: &TenantModel, spec: &TableSpec) -> Predicate {
        if !spec.key.is_empty() && self.random.chance(self.mix.by_key_ppm) {
            let taken = model.keys(&spec.name);
            let hit = !taken.is_empty() && self.random.chance(900_000);
            let key: Vec<Datum> = if hit {
                self.random.pick(&taken).clone()
            } else {
                let types: Vec<DatumType> =
                    spec.key.iter().map(|place| spec.columns[*place].column_type).collect();
                types.into_iter().map(|kind| self.fresh_key(tenant, kind)).collect()
            };
            return self.key_filter(tenant, spec, key);
        }
        self.predicate(tenant, spec, 0)
    }

    /// Equality on every column of the key, or a range that starts there.
    fn key_filter(&mut self, tenant: usize, spec: &TableSpec, key: Vec<Datum>) -> Predicate {
        if spec.key.len() == 1 && self.random.chance(150_000) {
            let column = spec.key[0];
            let high = self.fresh_key(tenant, spec.columns[column].column_type);
            let low = key[0].clone();
            return Predicate::Between { column, low, high, negated: false };
        }
        if spec.key.len() == 1 && self.random.chance(150_000) {
            let column = spec.key[0];
            let mut list = vec![key[0].clone()];
            for _ in 0..self.random.range(1, 3) {
                list.push(self.fresh_key(tenant, spec.columns[column].column_type));
            }
            return Predicate::In { column, list, negated: false };
        }
        let equal = |(column, value): (&usize, Datum)| Predicate::Compare {
            column: *column,
            compare: Compare::Equal,
            value,
        };
        let mut parts = spec.key.iter().zip(key).map(equal);
        let Some(first) = parts.next() else { unreachable!("the key has columns") };
        let whole = parts.fold(first, |all, part| Predicate::And(Box::new(all), Box::new(part)));
        if self.random.chance(100_000) {
            let more = self.predicate(tenant, spec, 2);
            return Predicate::And(Box::new(whole), Box::new(more));
        }
        whole
    }

    /// A predicate that knows nothing of what the table holds.
    pub fn blind_predicate(&mut self, tenant: usize, spec: &TableSpec) -> Predicate {
        self.predicate(tenant, spec, 0)
    }

    fn predicate(&mut self, tenant: usize, spec: &TableSpec, depth: u32) -> Predicate {
        if depth < 2 && self.random.chance(300_000) {
            let left = Box::new(self.predicate(tenant, spec, depth + 1));
            return match self.random.below(3) {
                0 => Predicate::Not(left),
                1 => Predicate::And(left, Box::new(self.predicate(tenant, spec, depth + 1))),
                _ => Predicate::Or(left, Box::new(self.predicate(tenant, spec, depth + 1))),
            };
        }
        let column = *self.random.pick(&spec.known());
        let column_type = spec.columns[column].column_type;
        let negated = self.random.chance(250_000);
        match self.random.below(6) {
            0 => Predicate::IsNull { column, negated },
            1 => {
                let one = self.datum(tenant, column_type);
                let two = self.datum(tenant, column_type);
                let (low, high) = if one <= two { (one, two) } else { (two, one) };
                Predicate::Between { column, low, high, negated }
            }
            2 => {
                let count = self.random.range(1, 4);
                let list = (0..count).map(|_| self.datum(tenant, column_type)).collect();
                Predicate::In { column, list, negated }
            }
            3 if column_type == DatumType::Text => {
                let unit = self.canaries[tenant][..4].to_owned();
                let pattern = match self.random.below(4) {
                    0 => format!("{}%", self.random.below(30)),
                    1 => format!("%{unit}"),
                    2 => "%_%_%".to_owned(),
                    _ => format!("_{}-%", self.random.below(10)),
                };
                Predicate::Like { column, pattern, negated }
            }
            4 => {
                let mut same = spec.known();
                same.retain(|place| spec.columns[*place].column_type == column_type);
                let right = *self.random.pick(&same);
                let compare = *self.random.pick(&Compare::ALL);
                Predicate::Columns { left: column, compare, right }
            }
            _ => {
                let compare = *self.random.pick(&Compare::ALL);
                Predicate::Compare { column, compare, value: self.datum(tenant, column_type) }
            }
        }
    }

    /// For a column of a row that is written; `bulk` rows come with all their values.
    fn value(&mut self, tenant: usize, column: &ColumnSpec, bulk: bool) -> Datum {
        match column.chance().filter(|_| !bulk && !self.rare.certain) {
            Some(chance) => chance,
            None => self.datum(tenant, column.column_type),
        }
    }

    fn datum(&mut self, tenant: usize, column_type: DatumType) -> Datum {
        let canary = &self.canaries[tenant];
        if column_type == DatumType::Text && self.random.chance(self.mix.huge_ppm) {
            // Some overflow pages, mostly; sometimes near the limit of a row.
            let max = if self.random.chance(700_000) { 800 } else { 12_000 };
            let count = self.random.range(60, max) as usize;
            return Datum::Text(canary.repeat(count));
        }
        column_type.draw(&mut self.random, canary)
    }

    fn fresh_key(&mut self, tenant: usize, column_type: DatumType) -> Datum {
        match column_type {
            DatumType::BigInt => Datum::Integer(self.random.below(self.mix.key_space) as i64),
            DatumType::Text => {
                let number = self.random.below(self.mix.key_space);
                Datum::Text(format!("k{number}-{}", self.canaries[tenant]))
            }
            DatumType::Uuid => {
                let mut bytes = [0; 16];
                let number = self.random.below(self.mix.key_space);
                bytes[8..].copy_from_slice(&number.to_be_bytes());
                Datum::Uuid(bytes)
            }
            DatumType::Boolean
            | DatumType::Integer
            | DatumType::Double
            | DatumType::Decimal
            | DatumType::Blob
            | DatumType::Date
            | DatumType::Timestamp => column_type.draw(&mut self.random, &self.canaries[tenant]),
        }
    }
}
