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
use crate::query::key::{PRESENT, encode_key_value, prefix_end};
use crate::query::schema::TableSchema;
use crate::query::value::{ColumnType, Value};
use crate::query::virtual_tables::VirtualTable;

/// What a filter says about each column of the key, as constant expressions.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct KeyConditions {
    /// The columns that the tree is ordered by, each once.
    pub key: Vec<ColumnId>,
    /// For each of them.
    pub columns: Vec<ColumnConditions>,
    /// The filter is nothing but one equality for every column of the key.
    pub is_lookup: bool,
    /// The columns tell every two rows apart, so an order by all of them is whole.
    pub complete: bool,
    /// Every term of the filter is in `columns`.
    all_noted: bool,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct ColumnConditions {
    /// An equality, or IS NULL.
    pub equal: Option<Expr>,
    /// `equal` is NULL, and means it.
    pub is_null: bool,
    pub list: Option<Vec<Expr>>,
    /// `column op constant`.
    pub bounds: Vec<(CompareOp, Expr)>,
}

impl ColumnConditions {
    fn is_empty(&self) -> bool {
        self.equal.is_none() && self.list.is_none() && self.bounds.is_empty()
    }

    /// Do all rows that pass have one value in this column? Compared as doubles, several decimals
    /// may equal one double; what a parameter is, binding does not know.
    fn fixes(&self, kind: KeyColumn) -> bool {
        match &self.equal {
            None => false,
            Some(Expr::Literal(value)) => !kind.is_decimal || !matches!(value, Value::Double(_)),
            Some(_) => !kind.is_decimal,
        }
    }

    /// At most one of equality, list and bounds: then a range can say all of it.
    fn is_one_kind(&self) -> bool {
        let kinds = [self.equal.is_some(), self.list.is_some(), !self.bounds.is_empty()];
        kinds.into_iter().filter(|kind| *kind).count() <= 1
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
        | Source::Virtual(
            VirtualTable::Tables
            | VirtualTable::Columns
            | VirtualTable::Indexes
            | VirtualTable::Jobs,
        ) => Vec::new(),
    }
}

impl KeyConditions {
    #[must_use]
    pub fn new(source: &Source, filter: Option<&Expr>) -> KeyConditions {
        let terms: Vec<&Expr> = conjuncts(filter).iter().collect();
        let key = key_columns(source);
        let complete = !key.is_empty();
        KeyConditions::over(key, complete, &terms)
    }

    /// What the terms, all of which must hold, say about these columns.
    #[must_use]
    pub fn over(key: Vec<ColumnId>, complete: bool, terms: &[&Expr]) -> KeyConditions {
        let mut columns: Vec<ColumnConditions> = Vec::new();
        columns.resize_with(key.len(), ColumnConditions::default);
        let mut all_noted = true;
        for term in terms {
            all_noted &= note(term, &key, &mut columns);
        }
        let lookups =
            columns.iter().filter(|column| column.equal.is_some() && !column.is_null).count();
        let is_lookup = !key.is_empty() && lookups == key.len() && terms.len() == key.len();
        KeyConditions { key, columns, is_lookup, complete, all_noted }
    }

    /// Whether every column of the key has one value.
    #[must_use]
    pub fn is_point(&self) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|column| column.equal.is_some())
    }

    /// The ranges of keys to read, ascending and disjoint. A value that the column cannot hold
    /// exactly narrows nothing.
    pub fn ranges(&self, schema: &TableSchema, env: &Env<'_>) -> Result<Vec<KeyRange>, SqlError> {
        self.key_ranges(schema, env).map(|ranges| ranges.list)
    }

    /// As `ranges`, and whether they say all that the filter does.
    pub fn key_ranges(&self, schema: &TableSchema, env: &Env<'_>) -> Result<KeyRanges, SqlError> {
        let mut prefixes: Vec<Vec<u8>> = Vec::from([Vec::new()]);
        let mut bound_columns = 0;
        let mut exact = self.all_noted;
        let mut last: Option<(&ColumnConditions, ColumnType)> = None;
        for (conditions, id) in self.columns.iter().zip(&self.key) {
            let column_type = schema.column(*id).column_type;
            exact &= conditions.is_one_kind();
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
                exact &= conditions.equal.is_none() && conditions.list.is_none();
                last = Some((conditions, column_type));
                break;
            };
            let mut extended = Vec::with_capacity(prefixes.len() * values.len());
            for prefix in &prefixes {
                for value in &values {
                    // Nothing equals NULL, but IS NULL finds it.
                    if !value.is_null() || conditions.is_null {
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
        let beyond = bound_columns + usize::from(last.is_some());
        exact &= self.columns[beyond..].iter().all(ColumnConditions::is_empty);
        if bound_columns == self.key.len() && bound_columns > 0 {
            let point = |key| KeyRange { is_point: self.complete, ..KeyRange::point(key) };
            return Ok(KeyRanges { list: prefixes.into_iter().map(point).collect(), exact });
        }
        let mut list = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let mut range = KeyRange { high: prefix_end(&prefix), low: prefix, is_point: false };
            if let Some((conditions, column_type)) = last {
                match narrow(&mut range, conditions, column_type, env)? {
                    Narrowed::Nothing => continue,
                    Narrowed::Whole => {}
                    Narrowed::Partly => exact = false,
                }
            }
            list.push(range);
        }
        Ok(KeyRanges { list, exact })
    }

    /// For people: which columns of the key are used, and how.
    #[must_use]
    pub fn describe(&self, source: &Source) -> String {
        let names = source.columns();
        let mut parts: Vec<String> = Vec::new();
        for (conditions, id) in self.columns.iter().zip(&self.key) {
            let name = names.get(id.get() as usize - 1).map_or("?", |(name, _)| name.as_str());
            if conditions.is_null {
                parts.push(format!("{name} is null"));
            } else if conditions.equal.is_some() {
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

/// The terms of a filter that must all hold.
#[must_use]
pub fn conjuncts(filter: Option<&Expr>) -> &[Expr] {
    match filter {
        None => &[],
        Some(Expr::And(list)) => list,
        Some(other) => core::slice::from_ref(other),
    }
}

/// Notes what one term of the filter says about the key. False: not all of it is noted.
fn note(conjunct: &Expr, key: &[ColumnId], columns: &mut [ColumnConditions]) -> bool {
    let place = |expr: &Expr| match expr {
        Expr::Column(id) => key.iter().position(|key| key == id),
        _ => None,
    };
    match conjunct {
        Expr::Compare { op, left, right } => {
            let (at, op, value) = match (place(left), place(right)) {
                (Some(at), _) if right.is_constant() => (at, *op, right),
                (_, Some(at)) if left.is_constant() => (at, op.flipped(), left),
                _ => return false,
            };
            match op {
                CompareOp::Equal if columns[at].equal.is_none() => {
                    columns[at].equal = Some((**value).clone());
                    true
                }
                CompareOp::Less
                | CompareOp::LessOrEqual
                | CompareOp::Greater
                | CompareOp::GreaterOrEqual => {
                    columns[at].bounds.push((op, (**value).clone()));
                    true
                }
                CompareOp::Equal | CompareOp::NotEqual => false,
            }
        }
        Expr::IsNull { value, negated: false } => match place(value) {
            Some(at) if columns[at].equal.is_none() => {
                columns[at].equal = Some(Expr::Literal(Value::Null));
                columns[at].is_null = true;
                true
            }
            Some(_) | None => false,
        },
        Expr::Between { value, low, high, negated: false } => {
            if let Some(at) = place(value)
                && low.is_constant()
                && high.is_constant()
            {
                columns[at].bounds.push((CompareOp::GreaterOrEqual, (**low).clone()));
                columns[at].bounds.push((CompareOp::LessOrEqual, (**high).clone()));
                return true;
            }
            false
        }
        Expr::In { value, list, negated: false } => {
            if let Some(at) = place(value)
                && columns[at].list.is_none()
                && list.iter().all(Expr::is_constant)
            {
                columns[at].list = Some(list.clone());
                return true;
            }
            false
        }
        _ => false,
    }
}

/// The constant as a value of the column's type; None when the column cannot hold it exactly.
fn constant(
    expr: &Expr,
    column_type: ColumnType,
    env: &Env<'_>,
) -> Result<Option<Value>, SqlError> {
    let value = eval(expr, env)?;
    // Compared as doubles, several decimals may equal one double: leave them to the filter.
    if matches!((&value, column_type), (Value::Double(_), ColumnType::Decimal { .. })) {
        return Ok(None);
    }
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

/// What the bounds of a column left of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrowed {
    Nothing,
    /// Some bound could not be applied.
    Partly,
    Whole,
}

/// Applies the bounds of the column after the prefix.
fn narrow(
    range: &mut KeyRange,
    conditions: &ColumnConditions,
    column_type: ColumnType,
    env: &Env<'_>,
) -> Result<Narrowed, SqlError> {
    let prefix = range.low.clone();
    let mut narrowed = Narrowed::Whole;
    if !conditions.bounds.is_empty() {
        // No comparison holds for NULL.
        range.low.push(PRESENT);
    }
    for (op, expr) in &conditions.bounds {
        let Some(value) = constant(expr, column_type, env)? else {
            narrowed = Narrowed::Partly;
            continue;
        };
        if value.is_null() {
            return Ok(Narrowed::Nothing);
        }
        let mut key = prefix.clone();
        encode_key_value(&value, column_type, &mut key);
        match op {
            CompareOp::GreaterOrEqual => raise(&mut range.low, key),
            CompareOp::Greater => match prefix_end(&key) {
                Some(after) => raise(&mut range.low, after),
                None => return Ok(Narrowed::Nothing),
            },
            #[cfg(verity_zoo)]
            CompareOp::Less if crate::zoo::is("range_end_included") => {
                lower(&mut range.high, prefix_end(&key));
            }
            CompareOp::Less => lower(&mut range.high, Some(key)),
            CompareOp::LessOrEqual => lower(&mut range.high, prefix_end(&key)),
            CompareOp::Equal | CompareOp::NotEqual => unreachable!("not bounds"),
        }
    }
    let left = range.high.as_ref().is_none_or(|high| range.low < *high);
    Ok(if left { narrowed } else { Narrowed::Nothing })
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

/// Ranges of keys, ascending and disjoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRanges {
    pub list: Vec<KeyRange>,
    /// Every row in them passes the filter.
    pub exact: bool,
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

/// What an order must know of a column.
#[derive(Clone, Copy, Debug)]
pub struct KeyColumn {
    pub nullable: bool,
    pub is_decimal: bool,
}

/// Whether rows read in key order (Some(false)) or backwards (Some(true)) are in the wanted order.
#[must_use]
pub fn order_of_keys(
    conditions: &KeyConditions,
    order: &[OrderKey],
    outputs: &[Expr],
    kind: impl Fn(ColumnId) -> KeyColumn,
) -> Option<bool> {
    let key = &conditions.key;
    if order.is_empty() || key.is_empty() {
        return None;
    }
    let mut at = 0;
    let mut direction: Option<bool> = None;
    for wanted in order {
        let Expr::Column(id) = &outputs[wanted.output] else { return None };
        let fixed = |at: usize| conditions.columns[at].fixes(kind(key[at]));
        // A column with one value orders nothing.
        if key.iter().position(|key| key == id).is_some_and(fixed) {
            continue;
        }
        while at < key.len() && fixed(at) {
            at += 1;
        }
        if at == key.len() {
            // All of the key is fixed or ordered: the rest cannot matter, if no two rows share it.
            if conditions.complete {
                break;
            }
            return None;
        }
        // NULL is the lowest key.
        if kind(*id).nullable && wanted.nulls_first == wanted.descending {
            return None;
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
