//! Plans: every way to find the rows of a statement, and which one it takes.
//!
//! Purpose: binding lists the [`Candidate`]s, which depends on statement and schema alone; when a
//! statement starts, [`choose`] weighs them by the counts that trees keep (a descent or two each),
//! and what it chose is what is done and what EXPLAIN tells. Reads, UPDATE and DELETE share this.
//!
//! Invariants: every candidate gives a superset of the rows that pass the filter, once each; so the
//! choice changes what a statement costs, and the order of rows without ORDER BY, never which rows.
//! For writes the choice is a function of committed state: counts are exact.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, TenantId, TreeId};
use crate::limits::{PLAN_RANGES_COUNTED, PLAN_SORT_ROWS, UNION_BRANCHES_MAX};
use crate::query::access::{
    KeyColumn, KeyConditions, KeyRange, KeyRanges, conjuncts, narrows, order_of_keys,
};
use crate::query::bind::Source;
use crate::query::bind_select::OrderKey;
use crate::query::eval::Env;
use crate::query::expr::Expr;
use crate::query::index::Index;
use crate::query::read::Stop;
use crate::query::schema::TableSchema;
use crate::query::value::{TypeTag, Value};
use crate::store::{Fault, Store, TreeRef};

/// One tree that finds rows: the table's own, or an index.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// The index, by its tree; `None`: the primary key.
    pub index: Option<TreeId>,
    pub conditions: KeyConditions,
}

/// One way to find a superset of the rows that pass the filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// One, or one for each side of an OR.
    pub lookups: Vec<Lookup>,
    /// The entries of the index hold every column that the statement looks at.
    pub covering: bool,
    /// Rows come in the wanted order (false), or in it when read backwards (true).
    pub order: Option<bool>,
}

/// What one statement can do.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Candidates {
    /// The primary key first, whatever the filter says about it.
    pub list: Vec<Candidate>,
}

/// What it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub candidate: Candidate,
    /// For each lookup.
    pub ranges: Vec<KeyRanges>,
    /// Entries in those ranges, as far as they were counted.
    pub entries: u64,
}

/// What binding knows of a statement.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub filter: Option<&'a Expr>,
    pub order: &'a [OrderKey],
    pub outputs: &'a [Expr],
    /// Every expression that looks at a row, the filter aside. `None`: all columns are looked at.
    pub looked_at: Option<Vec<&'a Expr>>,
}

impl Candidate {
    #[must_use]
    pub fn is_primary(&self) -> bool {
        matches!(self.lookups.as_slice(), [Lookup { index: None, .. }])
    }

    /// The index that gives the rows, if it is one alone.
    #[must_use]
    pub fn index(&self) -> Option<TreeId> {
        match self.lookups.as_slice() {
            [lookup] => lookup.index,
            _ => None,
        }
    }
}

impl Candidates {
    /// By the primary key: always possible.
    #[must_use]
    pub fn primary(&self) -> &Candidate {
        &self.list[0]
    }

    /// The ways of an UPDATE or DELETE.
    #[must_use]
    pub fn of_write(source: &Source, filter: Option<&Expr>) -> Candidates {
        let wanted = Wanted { filter, order: &[], outputs: &[], looked_at: None };
        Candidates::new(source, &wanted)
    }

    #[must_use]
    pub fn new(source: &Source, wanted: &Wanted<'_>) -> Candidates {
        let conditions = KeyConditions::new(source, wanted.filter);
        let order = |conditions: &KeyConditions| {
            order_of_keys(conditions, wanted.order, wanted.outputs, |id| source.key_column(id))
        };
        let primary = Candidate {
            order: order(&conditions),
            lookups: Vec::from([Lookup { index: None, conditions }]),
            covering: false,
        };
        let mut list = Vec::from([primary]);
        if let Source::Table(schema) = source {
            let terms: Vec<&Expr> = conjuncts(wanted.filter).iter().collect();
            let point = list[0].lookups[0].conditions.is_point();
            for index in schema.indexes.iter().filter(|_| !point) {
                let lookup = over_index(schema, index, &terms);
                let order = order(&lookup.conditions);
                let covering = covers(schema, index, wanted);
                if narrows(&lookup.conditions) || order.is_some() || covering {
                    list.push(Candidate { lookups: Vec::from([lookup]), covering, order });
                }
            }
            for (at, term) in terms.iter().enumerate().filter(|_| !point) {
                if let Expr::Or(sides) = term
                    && let Some(lookups) = union(schema, &terms, at, sides)
                {
                    // Rows are gathered by key first, so they come in the order of the key.
                    let by_key = KeyConditions::over(schema.primary_key.clone(), true, &[]);
                    let order = if schema.hidden_key() { None } else { order(&by_key) };
                    list.push(Candidate { lookups, covering: false, order });
                }
            }
        }
        Candidates { list }
    }
}

impl Source {
    /// What an order must know of one of its columns.
    #[must_use]
    pub fn key_column(&self, id: ColumnId) -> KeyColumn {
        match self {
            Source::Table(schema) => {
                let column = schema.column(id);
                let is_decimal = column.column_type.tag() == TypeTag::Decimal;
                KeyColumn { nullable: column.nullable, is_decimal }
            }
            Source::One | Source::Virtual(_) | Source::Versions(_) => {
                KeyColumn { nullable: false, is_decimal: false }
            }
        }
    }
}

/// What the terms say about the columns of an index, and about the row key behind them.
fn over_index(schema: &TableSchema, index: &Index, terms: &[&Expr]) -> Lookup {
    let mut key = index.columns.clone();
    let mut complete = !schema.hidden_key();
    for id in &schema.primary_key {
        if key.contains(id) {
            // A second copy of a column narrows nothing, and hides what follows it.
            complete = false;
            break;
        }
        key.push(*id);
    }
    Lookup { index: Some(index.entries), conditions: KeyConditions::over(key, complete, terms) }
}

/// Do the entries of the index hold every column that the statement looks at?
fn covers(schema: &TableSchema, index: &Index, wanted: &Wanted<'_>) -> bool {
    let Some(looked_at) = &wanted.looked_at else { return false };
    let mut covered = true;
    let held = |id: ColumnId| {
        // A key knows no negative zero.
        (index.columns.contains(&id) || schema.is_key(id))
            && schema.column(id).column_type.tag() != TypeTag::Double
    };
    for expr in looked_at.iter().copied().chain(wanted.filter) {
        expr.visit(&mut |node| {
            if let Expr::Column(id) = node {
                covered &= held(*id);
            }
        });
    }
    covered
}

/// A lookup for each side of an OR, if each side has one that narrows.
fn union(schema: &TableSchema, terms: &[&Expr], at: usize, sides: &[Expr]) -> Option<Vec<Lookup>> {
    if sides.len() > UNION_BRANCHES_MAX {
        return None;
    }
    let mut lookups = Vec::with_capacity(sides.len());
    for side in sides {
        let mut all: Vec<&Expr> = conjuncts(Some(side)).iter().collect();
        all.extend(terms.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, e)| *e));
        let primary = KeyConditions::over(schema.primary_key.clone(), !schema.hidden_key(), &all);
        let by_index = schema.indexes.iter().map(|index| over_index(schema, index, &all));
        let best = core::iter::once(Lookup { index: None, conditions: primary })
            .chain(by_index)
            .filter(|lookup| narrows(&lookup.conditions))
            .max_by_key(|lookup| strength(&lookup.conditions))?;
        lookups.push(best);
    }
    Some(lookups)
}

/// How much conditions narrow, by their looks alone.
fn strength(conditions: &KeyConditions) -> usize {
    let mut strength = 0;
    for column in &conditions.columns {
        if column.equal.is_some() {
            strength += 100;
        } else if column.list.is_some() {
            strength += 50;
        } else {
            return strength + 10 * column.bounds.len().min(2);
        }
    }
    strength
}

/// Where a statement runs.
#[derive(Clone, Copy, Debug)]
pub struct PlanWorld<'a> {
    pub store: &'a Store,
    pub tenant: TenantId,
    /// The table as the store has it now: an index that it does not have any more is not used.
    pub schema: &'a TableSchema,
    pub position: Position,
}

/// Weighs the candidates by what the trees count now. `limit`: rows that are wanted at most.
/// `forced`: take the primary key whatever it costs.
pub fn choose(
    candidates: &Candidates,
    world: &PlanWorld<'_>,
    env: &Env<'_>,
    sorted: bool,
    limit: Option<u64>,
    forced: bool,
) -> Result<Plan, Stop> {
    let usable = |candidate: &&Candidate| {
        candidate.lookups.iter().all(|lookup| match lookup.index {
            None => true,
            Some(entries) => {
                world.schema.index(entries).is_some_and(|index| index.serves(world.position))
            }
        })
    };
    let mut best: Option<(u64, Plan)> = None;
    let count = if forced { 1 } else { candidates.list.len() };
    for candidate in candidates.list.iter().take(count).filter(usable) {
        let mut ranges = Vec::with_capacity(candidate.lookups.len());
        for lookup in &candidate.lookups {
            let mut found = lookup.conditions.key_ranges(world.schema, env)?;
            if lookup.index.is_some() {
                // What a whole entry equals is still a range: its row key follows.
                found.list.iter_mut().for_each(|range| range.is_point = false);
            }
            ranges.push(found);
        }
        let mut plan = Plan { candidate: candidate.clone(), ranges, entries: 0 };
        // With nothing to weigh it against, nothing need be counted.
        let alone = count == 1 || plan.is_few_points();
        if !alone {
            plan.entries = entries_of(&plan, world)?;
        }
        if alone {
            return Ok(plan);
        }
        let cost = cost_of(&plan, sorted, limit);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, plan));
        }
    }
    let Some((_, plan)) = best else { unreachable!("the primary key is always usable") };
    Ok(plan)
}

impl Plan {
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.ranges.iter().map(|ranges| ranges.list.len()).sum()
    }

    /// A lookup by the primary key can hardly be beaten.
    fn is_few_points(&self) -> bool {
        self.candidate.is_primary()
            && self.ranges[0].list.len() <= PLAN_RANGES_COUNTED
            && self.ranges[0].list.iter().all(|range| range.is_point)
    }
}

/// Reading a row through an index costs a descent of its own.
const COST_ROW: u64 = 2;
const COST_LOOKUP: u64 = 8;

fn cost_of(plan: &Plan, sorted: bool, limit: Option<u64>) -> u64 {
    let candidate = &plan.candidate;
    let per_row = match candidate.lookups.as_slice() {
        [Lookup { index: None, .. }] => COST_ROW,
        // A little less than a row: entries are small.
        [Lookup { index: Some(_), .. }] if candidate.covering => COST_ROW - 1,
        [_] => COST_LOOKUP,
        _ => COST_LOOKUP + COST_ROW,
    };
    let mut entries = plan.entries;
    let in_order = !sorted || candidate.order.is_some();
    if in_order
        && plan.ranges.iter().all(|ranges| ranges.exact)
        && let Some(limit) = limit
    {
        entries = entries.min(limit);
    }
    let descents = plan.ranges.iter().map(|ranges| ranges.list.len() as u64).sum::<u64>();
    let mut cost = entries.saturating_mul(per_row).saturating_add(descents * COST_LOOKUP);
    if !in_order {
        cost = cost.saturating_add(entries);
        if limit.is_none() && entries > PLAN_SORT_ROWS {
            // It may not fit into memory, and then there is no answer at all.
            cost = cost.saturating_mul(16);
        }
    }
    cost
}

/// Entries in the ranges of a plan; of many ranges, by the first ones.
pub fn entries_of(plan: &Plan, world: &PlanWorld<'_>) -> Result<u64, Fault> {
    let mut all = 0_u64;
    for (lookup, ranges) in plan.candidate.lookups.iter().zip(&plan.ranges) {
        let tree = match lookup.index {
            None => world.schema.rows,
            Some(entries) => entries,
        };
        let tree = TreeRef::new(world.tenant, tree);
        let mut entries = 0;
        let counted = ranges.list.len().min(PLAN_RANGES_COUNTED);
        for range in &ranges.list[..counted] {
            entries += count_range(world.store, tree, range)?;
        }
        if counted > 0 {
            entries = entries.saturating_mul(ranges.list.len() as u64) / counted as u64;
        }
        all = all.saturating_add(entries);
    }
    Ok(all)
}

/// Entries of a tree in a range: two descents.
pub fn count_range(store: &Store, tree: TreeRef, range: &KeyRange) -> Result<u64, Fault> {
    if range.is_point {
        return Ok(1);
    }
    let low = if range.low.is_empty() { 0 } else { store.rank(tree, &range.low)? };
    let high = match &range.high {
        Some(high) => store.rank(tree, high)?,
        None => store.count(tree)?,
    };
    Ok(high.saturating_sub(low))
}

/// For people: one line for what is read.
#[must_use]
pub fn describe(plan: &Plan, source: &Source, reverse: bool) -> String {
    let Source::Table(schema) = source else { unreachable!("plans are of tables") };
    let backwards = if reverse { ", backwards" } else { "" };
    let parts: Vec<String> = plan
        .candidate
        .lookups
        .iter()
        .map(|lookup| describe_lookup(lookup, plan, source, schema))
        .collect();
    match parts.as_slice() {
        [one] => format!("{one}{backwards}"),
        several => format!("union of {}", several.join(" and ")),
    }
}

fn describe_lookup(lookup: &Lookup, plan: &Plan, source: &Source, schema: &TableSchema) -> String {
    let conditions = lookup.conditions.describe(source);
    let table = &schema.name;
    match lookup.index.and_then(|entries| schema.index(entries)) {
        Some(index) => {
            let only = if plan.candidate.covering { "only " } else { "" };
            let name = &index.name;
            if narrows(&lookup.conditions) {
                format!("range of {table} by {only}index {name} ({conditions})")
            } else {
                format!("full scan of {table} by {only}index {name}")
            }
        }
        None if lookup.conditions.is_point() => {
            format!("lookup in {table} by primary key ({conditions})")
        }
        None if narrows(&lookup.conditions) => {
            format!("range of {table} by primary key ({conditions})")
        }
        None => format!("full scan of {table}"),
    }
}

/// The columns that an index should have for this filter and order, for hints: those of
/// equalities, then one of a range, then those of the order.
#[must_use]
pub fn index_hint(source: &Source, filter: Option<&Expr>, order: &[ColumnId]) -> Option<String> {
    let Source::Table(schema) = source else { return None };
    let all: Vec<ColumnId> = schema.columns.iter().map(|column| column.id).collect();
    let terms: Vec<&Expr> = conjuncts(filter).iter().collect();
    let conditions = KeyConditions::over(all, false, &terms);
    let indexable = |id: &ColumnId| schema.column(*id).column_type.tag() != TypeTag::Json;
    let with = |wanted: fn(&crate::query::access::ColumnConditions) -> bool| {
        let columns = conditions.key.iter().zip(&conditions.columns);
        columns.filter(move |(_, c)| wanted(c)).map(|(id, _)| *id).filter(indexable)
    };
    let mut columns: Vec<ColumnId> =
        with(|column| column.equal.is_some() || column.list.is_some()).collect();
    if order.is_empty() {
        columns.extend(with(|column| !column.bounds.is_empty()).take(1));
    }
    columns.extend(order.iter().copied().filter(indexable));
    let mut seen = BTreeSet::new();
    columns.retain(|id| seen.insert(*id));
    // The primary key serves these already.
    if columns.is_empty() || schema.primary_key.starts_with(&columns) {
        return None;
    }
    let names: Vec<&str> = columns.iter().map(|id| schema.column(*id).name.as_str()).collect();
    Some(format!(
        "CREATE INDEX {}_{}_index ON {} ({})",
        schema.name,
        names.join("_"),
        schema.name,
        names.join(", ")
    ))
}

/// The values of an index entry in the places of their columns; the others are NULL.
pub fn entry_row(schema: &TableSchema, index: &Index, entry: &[u8], row: &mut Vec<Value>) {
    row.clear();
    row.resize(schema.columns.len(), Value::Null);
    let mut at = 0;
    for id in index.columns.iter().chain(&schema.primary_key) {
        let column_type = schema.column(*id).column_type;
        let Ok(value) = crate::query::key::decode_key_value(column_type, entry, &mut at) else {
            unreachable!("entries hold what rows were encoded to");
        };
        row[schema.ordinal(*id)] = value;
    }
}
