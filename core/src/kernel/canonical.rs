//! From a bound SELECT to the canonical query that a proof answers.
//!
//! Run by clients and by servers, on the same proved schema, so that both come to the same bytes.
//! `None`: the statement lies outside what can be proved (docs/PROOFS.md, "Canonical queries").

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ColumnId, TenantId};
use crate::limits::PROOF_FILTER_TERMS_MAX;
use crate::proof::{
    AsOf as ProofAsOf, CanonicalQuery, Comparison, Filter, QueryKind, Range, Scan,
    Value as ProofValue,
};
use crate::query::bind::{AggregateFunction, Source};
use crate::query::coerce::assign;
use crate::query::eval::{Context, Env, compare, eval};
use crate::query::expr::CompareOp;
use crate::query::parse::{AsOfSyntax, Explain};
use crate::query::{AsOf, Decimal, Expr, Prepared, Statement, TableSchema, Value};
use crate::time::Timestamp;

/// A value as commitments and proofs hold it.
#[must_use]
pub fn proof_value(value: &Value) -> ProofValue {
    let mut bytes = Vec::new();
    let tag = value.commitment_bytes(&mut bytes) as u8;
    ProofValue { tag, bytes }
}

/// A value of a proof as SQL has it; `None`: a decimal out of range.
#[must_use]
pub fn value_of(value: &ProofValue) -> Option<Value> {
    let bytes = value.bytes.as_slice();
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let eight = || bytes.try_into().ok().map(i64::from_be_bytes);
    Some(match value.tag {
        0 => Value::Null,
        1 => Value::Boolean(bytes == [1]),
        2 => Value::Integer(eight()?),
        3 => Value::Double(f64::from_bits(eight()? as u64)),
        4 => {
            let (scale, mantissa) = bytes.split_first()?;
            Value::Decimal(Decimal::new(i128::from_be_bytes(mantissa.try_into().ok()?), *scale)?)
        }
        5 => Value::Text(text()),
        6 => Value::Blob(bytes.to_vec()),
        7 => Value::Date(i32::from_be_bytes(bytes.try_into().ok()?)),
        8 => Value::Timestamp(eight()?),
        9 => Value::Uuid(bytes.try_into().ok()?),
        10 => Value::Json(text()),
        _ => return None,
    })
}

/// `as_of`: what `Prepared::as_of` gave for the same parameters.
#[must_use]
pub fn canonical_query(
    tenant: TenantId,
    prepared: &Prepared,
    parameters: &[Value],
    as_of: Option<AsOf>,
) -> Option<CanonicalQuery> {
    let Statement::Select(select) = &prepared.statement else { return None };
    let Source::Table(schema) = &select.source else { return None };
    if select.distinct || prepared.explain != Explain::No {
        return None;
    }
    match (&select.as_of, as_of) {
        (None, None) => {}
        (Some((AsOfSyntax::Position(_) | AsOfSyntax::Timestamp(_), _)), Some(_)) => {}
        // Other rows than a table's own; or a moment that is not the statement's.
        (Some(_), _) | (None, Some(_)) => return None,
    }
    let as_of = as_of.map(|as_of| match as_of {
        AsOf::Position(position) => ProofAsOf::Position(position),
        AsOf::Timestamp(time) => ProofAsOf::Timestamp(time.0),
    });
    // No clock and no randomness: what a query means must not depend on when it is asked.
    let context = Context::new(Timestamp(0), [0; 32]);
    let env = Env::constant(parameters, &context);
    let ranges = select.conditions.key_ranges(schema, &env).ok()?;
    // Ranges that say all that the filter does need none beside them: so COUNT is proved by counts.
    let filter = match &select.filter {
        None => None,
        Some(_) if ranges.exact => None,
        Some(filter) => Some(filter_of(filter, schema, &env)?),
    };
    if filter.as_ref().is_some_and(|filter| filter.terms() > PROOF_FILTER_TERMS_MAX) {
        return None;
    }
    let ranges = ranges
        .list
        .into_iter()
        .map(|range| {
            if range.is_point {
                Range::Point(range.low)
            } else {
                Range::Span { low: range.low, high: range.high }
            }
        })
        .collect();
    let scan = Scan { table: schema.id, ranges, filter, as_of };
    if let Some(grouping) = &select.grouping {
        let [aggregate] = grouping.aggregates.as_slice() else { return None };
        let counts = aggregate.function == AggregateFunction::CountRows
            && grouping.keys.is_empty()
            && select.visible == 1
            && matches!(select.outputs.as_slice(), [Expr::Column(_)])
            && select.limit.is_none()
            && select.offset.is_none();
        return counts.then_some(CanonicalQuery { tenant, kind: QueryKind::Count { scan } });
    }
    let mut columns = Vec::with_capacity(select.visible);
    for output in &select.outputs[..select.visible] {
        let Expr::Column(id) = output else { return None };
        columns.push(*id);
    }
    let descending = match (select.order.is_empty(), select.order_by_key) {
        (true, _) => false,
        (false, Some(descending)) => descending,
        (false, None) => return None,
    };
    let number = |expr: &Expr| match eval(expr, &env).ok()? {
        Value::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    };
    let limit = match &select.limit {
        None => None,
        Some(limit) => Some(number(limit)?),
    };
    let offset = match &select.offset {
        None => 0,
        Some(offset) => number(offset)?,
    };
    let kind = QueryKind::Rows { scan, columns, descending, offset, limit };
    Some(CanonicalQuery { tenant, kind })
}

/// The history of the one row that a query names by its whole key; `None`: it names other rows.
#[must_use]
pub fn history_query(query: &CanonicalQuery) -> Option<CanonicalQuery> {
    let QueryKind::Rows { scan: Scan { table, ranges, as_of: None, .. }, .. } = &query.kind else {
        return None;
    };
    let [Range::Point(key)] = ranges.as_slice() else { return None };
    let kind = QueryKind::History { table: *table, key: key.clone() };
    Some(CanonicalQuery { tenant: query.tenant, kind })
}

/// The closed language's form of an expression. As deep as the binder lets expressions be.
fn filter_of(expr: &Expr, schema: &TableSchema, env: &Env<'_>) -> Option<Filter> {
    let all = |terms: &[Expr]| -> Option<Vec<Filter>> {
        terms.iter().map(|term| filter_of(term, schema, env)).collect()
    };
    let negate = |filter, negated| {
        if negated { Filter::Not(Box::new(filter)) } else { filter }
    };
    Some(match expr {
        Expr::And(terms) => Filter::And(all(terms)?),
        Expr::Or(terms) => Filter::Or(all(terms)?),
        Expr::Not(term) => Filter::Not(Box::new(filter_of(term, schema, env)?)),
        Expr::Compare { op, left, right } => {
            let (column, op, constant) = match (&**left, &**right) {
                (Expr::Column(column), constant) if constant.is_constant() => {
                    (*column, *op, constant)
                }
                (constant, Expr::Column(column)) if constant.is_constant() => {
                    (*column, op.flipped(), constant)
                }
                _ => return None,
            };
            let value = constant_of(constant, column, schema, env)?;
            Filter::Compare { column, operator: operator_of(op), value }
        }
        Expr::Between { value, low, high, negated } => {
            let Expr::Column(column) = **value else { return None };
            let bound = |operator, expr: &Expr| {
                let value = constant_of(expr, column, schema, env)?;
                Some(Filter::Compare { column, operator, value })
            };
            let low = bound(Comparison::GreaterOrEqual, low)?;
            let high = bound(Comparison::LessOrEqual, high)?;
            negate(Filter::And(Vec::from([low, high])), *negated)
        }
        Expr::In { value, list, negated } => {
            let Expr::Column(column) = **value else { return None };
            let values: Option<Vec<ProofValue>> =
                list.iter().map(|expr| constant_of(expr, column, schema, env)).collect();
            negate(Filter::In { column, values: values? }, *negated)
        }
        Expr::IsNull { value, negated } => {
            let Expr::Column(column) = **value else { return None };
            negate(Filter::IsNull { column }, *negated)
        }
        _ => return None,
    })
}

const fn operator_of(op: CompareOp) -> Comparison {
    match op {
        CompareOp::Equal => Comparison::Equal,
        CompareOp::NotEqual => Comparison::NotEqual,
        CompareOp::Less => Comparison::Less,
        CompareOp::LessOrEqual => Comparison::LessOrEqual,
        CompareOp::Greater => Comparison::Greater,
        CompareOp::GreaterOrEqual => Comparison::GreaterOrEqual,
    }
}

/// The constant in the column's own type; `None` if that loses anything.
fn constant_of(
    expr: &Expr,
    column: ColumnId,
    schema: &TableSchema,
    env: &Env<'_>,
) -> Option<ProofValue> {
    if !expr.is_constant() {
        return None;
    }
    let value = eval(expr, env).ok()?;
    let assigned = assign(value.clone(), schema.column(column).column_type).ok()?;
    let same =
        value.is_null() || compare(&assigned, &value) == Ok(Some(core::cmp::Ordering::Equal));
    (same && !matches!(assigned, Value::Json(_))).then(|| proof_value(&assigned))
}
