//! From a bound SELECT to the canonical query that a proof answers.
//!
//! Run by clients and by servers, on the same proved schema, so that both come to the same bytes.
//! `None`: the statement lies outside what can be proved (docs/PROOFS.md, "Canonical queries").

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, TenantId};
use crate::proof::{
    CanonicalQuery, Comparison, Filter, QueryKind, Range, Scan, Value as ProofValue,
};
use crate::query::bind::{AggregateFunction, Source};
use crate::query::coerce::assign;
use crate::query::eval::{Context, Env, compare, eval};
use crate::query::expr::CompareOp;
use crate::query::{Expr, Prepared, Statement, TableSchema, Value};
use crate::time::Timestamp;

/// A value as commitments and proofs hold it.
#[must_use]
pub fn proof_value(value: &Value) -> ProofValue {
    let mut bytes = Vec::new();
    let tag = value.commitment_bytes(&mut bytes) as u8;
    ProofValue { tag, bytes }
}

/// `as_of`: the position that AS OF resolved to.
#[must_use]
pub fn canonical_query(
    tenant: TenantId,
    prepared: &Prepared,
    parameters: &[Value],
    as_of: Option<Position>,
) -> Option<CanonicalQuery> {
    let Statement::Select(select) = &prepared.statement else { return None };
    let Source::Table(schema) = &select.source else { return None };
    if select.distinct || prepared.explain {
        return None;
    }
    // No clock and no randomness: what a query means must not depend on when it is asked.
    let context = Context::new(Timestamp(0), [0; 32]);
    let env = Env::constant(parameters, &context);
    let filter = match &select.filter {
        None => None,
        Some(filter) => Some(filter_of(filter, schema, &env)?),
    };
    let ranges = select.conditions.ranges(schema, &env).ok()?;
    let ranges = ranges
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
