//! Access paths: which keys a filter leaves, and in which order they lie.
//!
//! Invariant: a path only ever leaves out rows that the filter would refuse; the filter is still
//! evaluated on every row that a path gives (but for plain lookups by key, which say it all). So a
//! path can change what a statement costs, never what it answers.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::ColumnId;
use crate::limits::KEY_RANGES_MAX;
use crate::query::bind::Source;
use crate::query::bind_select::OrderKey;
use crate::query::coerce::assign;
use crate::query::error::SqlError;
use crate::query::eval::{Env, eval};
use crate::query::expr::{CompareOp, Expr};
use crate::query::key::{encode_key_value, prefix_end};
use crate::query::schema::TableSchema;
use crate::query::value::{ColumnType, Value};
use crate::query::virtual_tables::VirtualTable;

/// What a filter says about each column of the key, as constant expressions.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct KeyConditions {
    pub columns: Vec<ColumnConditions>,
    /// The filter is nothing but one equality for every column of the key.
    pub is_lookup: bool,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct ColumnConditions {
    pub equal: Option<Expr>,
    pub list: Option<Vec<Expr>>,
    /// `column op constant`.
    pub bounds: Vec<(CompareOp, Expr)>,
}

impl ColumnConditions {
    fn is_empty(&self) -> bool {
        self.equal.is_none() && self.list.is_none() && self.bounds.is_empty()
    }
}

/// The columns that rows are ordered by.
fn key_columns(source: &Source) -> Vec<ColumnId> {
    match source {
        Source::Table(schema) => schema.primary_key.clone(),
        // Events lie in order of position.
        Source::Virtual(VirtualTable::Events) => Vec::from([ColumnId::new(1)]),
        Source::One
        | Source::Versions(_)
        | Source::Virtual(VirtualTable::Tables | VirtualTable::Columns) => Vec::new(),
    }
}

impl KeyConditions {
    #[must_use]
    pub fn new(source: &Source, filter: Option<&Expr>) -> KeyConditions {
        let key = key_columns(source);
        let mut columns: Vec<ColumnConditions> = Vec::new();
        columns.resize_with(key.len(), ColumnConditions::default);
        let conjuncts: &[Expr] = match filter {
            None => &[],
            Some(Expr::And(list)) => list,
            Some(other) => core::slice::from_ref(other),
        };
        for conjunct in conjuncts {
            note(conjunct, &key, &mut columns);
        }
        let lookups = columns.iter().filter(|column| column.equal.is_some()).count();
        let is_lookup = !key.is_empty() && lookups == key.len() && conjuncts.len() == key.len();
        KeyConditions { columns, is_lookup }
    }

    /// Whether every column of the key has one value.
    #[must_use]
    pub fn is_point(&self) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|column| column.equal.is_some())
    }

    /// The ranges of keys to read, ascending and disjoint. A value that the column cannot hold
    /// exactly narrows nothing.
    pub fn ranges(&self, schema: &TableSchema, env: &Env<'_>) -> Result<Vec<KeyRange>, SqlError> {
        let mut prefixes: Vec<Vec<u8>> = Vec::from([Vec::new()]);
        let mut bound_columns = 0;
        let mut last: Option<(&ColumnConditions, ColumnType)> = None;
        for (conditions, id) in self.columns.iter().zip(&schema.primary_key) {
            let column_type = schema.column(*id).column_type;
            let values = match (&conditions.equal, &conditions.list) {
                (Some(expr), _) => {
                    constant(expr, column_type, env)?.map(|value| Vec::from([value]))
                }
                (None, Some(list)) if list.len() * prefixes.len() <= KEY_RANGES_MAX => {
                    constants(list, column_type, env)?
                }
                (None, _) => None,
            };
            let Some(values) = values else {
                last = Some((conditions, column_type));
                break;
            };
            let mut extended = Vec::with_capacity(prefixes.len() * values.len());
            for prefix in &prefixes {
                for value in &values {
                    // Nothing equals NULL.
                    if !value.is_null() {
                        let mut key = prefix.clone();
                        encode_key_value(value, column_type, &mut key);
                        extended.push(key);
                    }
                }
            }
            prefixes = extended;
            bound_columns += 1;
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        if bound_columns == schema.primary_key.len() && bound_columns > 0 {
            return Ok(prefixes.into_iter().map(KeyRange::point).collect());
        }
        let mut ranges = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let mut range = KeyRange { high: prefix_end(&prefix), low: prefix, is_point: false };
            if let Some((conditions, column_type)) = last
                && !narrow(&mut range, conditions, column_type, env)?
            {
                continue;
            }
            ranges.push(range);
        }
        Ok(ranges)
    }

    /// For people: which columns of the key are used, and how.
    #[must_use]
    pub fn describe(&self, source: &Source) -> String {
        let names = source.columns();
        let key = key_columns(source);
        let mut parts: Vec<String> = Vec::new();
        for (conditions, id) in self.columns.iter().zip(&key) {
            let name = names.get(id.get() as usize - 1).map_or("?", |(name, _)| name.as_str());
            if conditions.equal.is_some() {
                parts.push(format!("{name} ="));
            } else if let Some(list) = &conditions.list {
                parts.push(format!("{name} in {} values", list.len()));
            } else {
                for (op, _) in &conditions.bounds {
                    parts.push(format!("{name} {}", op.symbol()));
                }
                break;
            }
        }
        parts.join(", ")
    }
}

/// Notes what one term of the filter says about the key.
fn note(conjunct: &Expr, key: &[ColumnId], columns: &mut [ColumnConditions]) {
    let place = |expr: &Expr| match expr {
        Expr::Column(id) => key.iter().position(|key| key == id),
        _ => None,
    };
    match conjunct {
        Expr::Compare { op, left, right } => {
            let (at, op, value) = match (place(left), place(right)) {
                (Some(at), _) if right.is_constant() => (at, *op, right),
                (_, Some(at)) if left.is_constant() => (at, op.flipped(), left),
                _ => return,
            };
            match op {
                CompareOp::Equal if columns[at].equal.is_none() => {
                    columns[at].equal = Some((**value).clone());
                }
                CompareOp::Less
                | CompareOp::LessOrEqual
                | CompareOp::Greater
                | CompareOp::GreaterOrEqual => columns[at].bounds.push((op, (**value).clone())),
                CompareOp::Equal | CompareOp::NotEqual => {}
            }
        }
        Expr::Between { value, low, high, negated: false } => {
            if let Some(at) = place(value)
                && low.is_constant()
                && high.is_constant()
            {
                columns[at].bounds.push((CompareOp::GreaterOrEqual, (**low).clone()));
                columns[at].bounds.push((CompareOp::LessOrEqual, (**high).clone()));
            }
        }
        Expr::In { value, list, negated: false } => {
            if let Some(at) = place(value)
                && columns[at].list.is_none()
                && list.iter().all(Expr::is_constant)
            {
                columns[at].list = Some(list.clone());
            }
        }
        _ => {}
    }
}

/// The constant as a value of the column's type; None when the column cannot hold it exactly.
fn constant(
    expr: &Expr,
    column_type: ColumnType,
    env: &Env<'_>,
) -> Result<Option<Value>, SqlError> {
    let value = eval(expr, env)?;
    // A double that stands for an integer too large for it would round: leave it to the filter.
    Ok(assign(value.clone(), column_type).ok().filter(|assigned| {
        value.is_null()
            || crate::query::eval::compare(assigned, &value) == Ok(Some(core::cmp::Ordering::Equal))
    }))
}

fn constants(
    list: &[Expr],
    column_type: ColumnType,
    env: &Env<'_>,
) -> Result<Option<Vec<Value>>, SqlError> {
    let mut values = Vec::with_capacity(list.len());
    for expr in list {
        match constant(expr, column_type, env)? {
            Some(value) => values.push(value),
            None => return Ok(None),
        }
    }
    Ok(Some(values))
}

/// Applies the bounds of the column after the prefix. False: nothing is left.
fn narrow(
    range: &mut KeyRange,
    conditions: &ColumnConditions,
    column_type: ColumnType,
    env: &Env<'_>,
) -> Result<bool, SqlError> {
    let prefix = range.low.clone();
    for (op, expr) in &conditions.bounds {
        let Some(value) = constant(expr, column_type, env)? else { continue };
        if value.is_null() {
            return Ok(false);
        }
        let mut key = prefix.clone();
        encode_key_value(&value, column_type, &mut key);
        match op {
            CompareOp::GreaterOrEqual => raise(&mut range.low, key),
            CompareOp::Greater => match prefix_end(&key) {
                Some(after) => raise(&mut range.low, after),
                None => return Ok(false),
            },
            CompareOp::Less => lower(&mut range.high, Some(key)),
            CompareOp::LessOrEqual => lower(&mut range.high, prefix_end(&key)),
            CompareOp::Equal | CompareOp::NotEqual => unreachable!("not bounds"),
        }
    }
    Ok(range.high.as_ref().is_none_or(|high| range.low < *high))
}

fn raise(low: &mut Vec<u8>, to: Vec<u8>) {
    if to > *low {
        *low = to;
    }
}

fn lower(high: &mut Option<Vec<u8>>, to: Option<Vec<u8>>) {
    if let Some(to) = to
        && high.as_ref().is_none_or(|high| to < *high)
    {
        *high = Some(to);
    }
}

/// Keys from `low` (included) to `high` (excluded).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub low: Vec<u8>,
    pub high: Option<Vec<u8>>,
    /// `low` is one whole key.
    pub is_point: bool,
}

impl KeyRange {
    #[must_use]
    pub fn all() -> KeyRange {
        KeyRange { low: Vec::new(), high: None, is_point: false }
    }

    #[must_use]
    pub fn point(key: Vec<u8>) -> KeyRange {
        KeyRange { high: prefix_end(&key), low: key, is_point: true }
    }
}

/// Whether rows read in key order (Some(false)) or backwards (Some(true)) are in the wanted order.
#[must_use]
pub fn order_of_keys(
    source: &Source,
    conditions: &KeyConditions,
    order: &[OrderKey],
    outputs: &[Expr],
) -> Option<bool> {
    let key = key_columns(source);
    if order.is_empty() || key.is_empty() {
        return None;
    }
    let mut at = 0;
    let mut direction: Option<bool> = None;
    for wanted in order {
        let Expr::Column(id) = &outputs[wanted.output] else { return None };
        let fixed = |at: usize| conditions.columns[at].equal.is_some();
        // A column with one value orders nothing.
        if key.iter().position(|key| key == id).is_some_and(fixed) {
            continue;
        }
        while at < key.len() && fixed(at) {
            at += 1;
        }
        if at == key.len() {
            // All of the key is fixed or ordered: the rest cannot matter.
            break;
        }
        if key[at] != *id || direction.is_some_and(|known| known != wanted.descending) {
            return None;
        }
        direction = Some(wanted.descending);
        at += 1;
    }
    Some(direction.unwrap_or(false))
}

/// Whether the conditions narrow anything at all.
#[must_use]
pub fn narrows(conditions: &KeyConditions) -> bool {
    conditions.columns.first().is_some_and(|first| !first.is_empty())
}
