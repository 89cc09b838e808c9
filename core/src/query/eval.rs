//! Evaluating an expression: a total, deterministic function of row, parameters and context.
//!
//! Three-valued logic: a comparison with NULL is unknown; AND, OR, NOT follow Kleene; WHERE keeps
//! what is true, CHECK refuses what is false. AND and OR go from left to right and stop when the
//! answer is known.
//!
//! Invariants: no platform math (only IEEE add, subtract, multiply, divide and exact integer work);
//! recursion is bounded by `EXPRESSION_DEPTH_MAX`; overflow is an error, never a wrap or infinity.

use alloc::format;
use core::cell::Cell;
use core::cmp::Ordering;

use crate::ids::ColumnId;
use crate::query::coerce::{align, cast};
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::expr::{ArithmeticOp, CompareOp, Expr};
use crate::query::functions::call;
use crate::query::like::like;
use crate::query::stored::{StoredRow, ValueRef};
use crate::query::value::{Incomparable, TypeTag, Value};
use crate::query::{datetime, json};
use crate::time::Timestamp;

/// What a statement may know of the world: the prepare's time, and its seed.
#[derive(Debug)]
pub struct Context {
    pub timestamp: Timestamp,
    pub seed: [u8; 32],
    draws: Cell<u64>,
}

impl Context {
    /// A restarted stage must start from a fresh context, so that it draws the same numbers.
    #[must_use]
    pub fn new(timestamp: Timestamp, seed: [u8; 32]) -> Context {
        Context { timestamp, seed, draws: Cell::new(0) }
    }

    /// Sixteen bytes that no one can guess without the seed, the same on every replica.
    pub fn draw(&self) -> [u8; 16] {
        let number = self.draws.get();
        self.draws.set(number + 1);
        let hash = crate::query::functions::draw_hash(&self.seed, number);
        let Ok(bytes) = hash[..16].try_into() else { unreachable!("a hash has 32 bytes") };
        bytes
    }

    /// How far the seed is used up; a statement that was restarted returns to where it began.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws.get()
    }

    pub fn rewind(&self, draws: u64) {
        self.draws.set(draws);
    }

    #[must_use]
    pub fn now_ns(&self) -> i64 {
        i64::try_from(self.timestamp.0).unwrap_or(i64::MAX)
    }
}

/// Where columns come from.
#[derive(Clone, Copy, Debug)]
pub enum RowView<'a> {
    None,
    Values(&'a [Value]),
    Stored(StoredRow<'a>),
}

impl RowView<'_> {
    fn column(&self, id: ColumnId) -> Value {
        let ordinal = (id.get() as usize).wrapping_sub(1);
        match self {
            RowView::None => unreachable!("the binder allows columns only where there is a row"),
            RowView::Values(values) => values[ordinal].clone(),
            RowView::Stored(row) => row.column(ordinal).to_value(),
        }
    }
}

/// All an expression can see.
#[derive(Clone, Copy, Debug)]
pub struct Env<'a> {
    pub row: RowView<'a>,
    /// The row that INSERT … ON CONFLICT proposed.
    pub excluded: RowView<'a>,
    pub parameters: &'a [Value],
    pub context: &'a Context,
}

impl<'a> Env<'a> {
    #[must_use]
    pub fn constant(parameters: &'a [Value], context: &'a Context) -> Env<'a> {
        Env { row: RowView::None, excluded: RowView::None, parameters, context }
    }

    #[must_use]
    pub fn with_row(self, row: RowView<'a>) -> Env<'a> {
        Env { row, ..self }
    }
}

pub fn eval(expr: &Expr, env: &Env<'_>) -> Result<Value, SqlError> {
    match expr {
        Expr::Literal(value) => Ok(value.clone()),
        Expr::Column(id) => Ok(env.row.column(*id)),
        Expr::Excluded(id) => Ok(env.excluded.column(*id)),
        Expr::Parameter(index) => match env.parameters.get(usize::from(*index)) {
            Some(value) => Ok(value.clone()),
            None => Err(SqlError::new(
                SqlState::UndefinedParameter,
                format!("there is no value for parameter {}", index + 1),
            )),
        },
        Expr::Negate(value) => negate(eval(value, env)?),
        Expr::Arithmetic { op, left, right } => {
            let left = eval(left, env)?;
            let right = eval(right, env)?;
            arithmetic(*op, &left, &right)
        }
        Expr::Case { operand, whens, otherwise } => {
            eval_case(operand.as_deref(), whens, otherwise.as_deref(), env)
        }
        Expr::Cast { value, to } => cast(eval(value, env)?, *to),
        Expr::Call { function, arguments } => call(*function, arguments, env),
        Expr::Not(_)
        | Expr::And(_)
        | Expr::Or(_)
        | Expr::Compare { .. }
        | Expr::IsNull { .. }
        | Expr::IsTruth { .. }
        | Expr::IsDistinct { .. }
        | Expr::Between { .. }
        | Expr::In { .. }
        | Expr::Like { .. } => Ok(from_truth(eval_truth(expr, env)?)),
    }
}

fn from_truth(truth: Option<bool>) -> Value {
    truth.map_or(Value::Null, Value::Boolean)
}

/// The truth of a condition; None is unknown.
pub fn eval_truth(expr: &Expr, env: &Env<'_>) -> Result<Option<bool>, SqlError> {
    match expr {
        #[cfg(verity_zoo)]
        Expr::Not(value) if crate::zoo::is("not_unknown_is_true") => {
            Ok(Some(eval_truth(value, env)? != Some(true)))
        }
        Expr::Not(value) => Ok(eval_truth(value, env)?.map(|truth| !truth)),
        Expr::And(list) => {
            let mut truth = Some(true);
            for item in list {
                match eval_truth(item, env)? {
                    Some(false) => return Ok(Some(false)),
                    None => truth = None,
                    Some(true) => {}
                }
            }
            Ok(truth)
        }
        Expr::Or(list) => {
            let mut truth = Some(false);
            for item in list {
                match eval_truth(item, env)? {
                    Some(true) => return Ok(Some(true)),
                    None => truth = None,
                    Some(false) => {}
                }
            }
            Ok(truth)
        }
        Expr::Compare { op, left, right } => eval_compare(*op, left, right, env),
        Expr::IsNull { value, negated } => Ok(Some(eval(value, env)?.is_null() != *negated)),
        Expr::IsTruth { value, truth, negated } => {
            Ok(Some((eval_truth(value, env)? == *truth) != *negated))
        }
        Expr::IsDistinct { left, right, negated } => {
            let (left, right) = (eval(left, env)?, eval(right, env)?);
            let distinct = match (left.is_null(), right.is_null()) {
                (true, true) => false,
                (true, false) | (false, true) => true,
                (false, false) => compare(&left, &right)? != Some(Ordering::Equal),
            };
            Ok(Some(distinct != *negated))
        }
        Expr::Between { value, low, high, negated } => {
            let value = eval(value, env)?;
            let above = compare(&value, &eval(low, env)?)?.map(Ordering::is_ge);
            let below = compare(&value, &eval(high, env)?)?.map(Ordering::is_le);
            let within = match (above, below) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                (None, Some(true) | None) | (Some(true), None) => None,
            };
            Ok(within.map(|within| within != *negated))
        }
        Expr::In { value, list, negated } => {
            let value = eval(value, env)?;
            let mut found = Some(false);
            for item in list {
                match compare(&value, &eval(item, env)?)? {
                    Some(Ordering::Equal) => return Ok(Some(!*negated)),
                    Some(Ordering::Less | Ordering::Greater) => {}
                    None => found = None,
                }
            }
            Ok(found.map(|found| found != *negated))
        }
        Expr::Like { value, pattern, escape, ignore_case, negated } => {
            let value = eval(value, env)?;
            let pattern = eval(pattern, env)?;
            match (&value, &pattern) {
                (Value::Null, _) | (_, Value::Null) => Ok(None),
                (Value::Text(text), Value::Text(pattern)) => {
                    let matches = like(text, pattern, *escape, *ignore_case)?;
                    Ok(Some(matches != *negated))
                }
                _ => Err(mismatch("LIKE", value.tag(), pattern.tag())),
            }
        }
        Expr::Literal(_)
        | Expr::Column(_)
        | Expr::Parameter(_)
        | Expr::Excluded(_)
        | Expr::Negate(_)
        | Expr::Arithmetic { .. }
        | Expr::Case { .. }
        | Expr::Cast { .. }
        | Expr::Call { .. } => match eval(expr, env)? {
            Value::Null => Ok(None),
            Value::Boolean(truth) => Ok(Some(truth)),
            other => Err(SqlError::new(
                SqlState::DatatypeMismatch,
                format!("a condition must be BOOLEAN, this is {}", other.tag().name()),
            )),
        },
    }
}

fn eval_compare(
    op: CompareOp,
    left: &Expr,
    right: &Expr,
    env: &Env<'_>,
) -> Result<Option<bool>, SqlError> {
    // A stored column beside a constant is the inner loop of scans: no copy.
    if let (Expr::Column(id), RowView::Stored(row)) = (left, env.row) {
        let column = row.column(id.get() as usize - 1);
        let borrowed = match right {
            Expr::Literal(value) => Some(value),
            Expr::Parameter(index) => env.parameters.get(usize::from(*index)),
            _ => None,
        };
        if let Some(value) = borrowed {
            return match compare_ref(column, value) {
                Ok(order) => Ok(order.map(|order| op.holds(order))),
                Err(_) => Ok(compare(&column.to_value(), value)?.map(|order| op.holds(order))),
            };
        }
    }
    let order = compare(&eval(left, env)?, &eval(right, env)?)?;
    Ok(order.map(|order| op.holds(order)))
}

fn compare_ref(column: ValueRef<'_>, value: &Value) -> Result<Option<Ordering>, Incomparable> {
    column.compare(value)
}

/// SQL comparison with the implicit conversions of `coerce::align`.
pub fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, SqlError> {
    match left.compare(right) {
        Ok(order) => Ok(order),
        Err(Incomparable(left_tag, right_tag)) => {
            let order = if let Some(aligned) = align(left, right) {
                aligned?.compare(right)
            } else if let Some(aligned) = align(right, left) {
                left.compare(&aligned?)
            } else {
                Err(Incomparable(left_tag, right_tag))
            };
            order.map_err(|_| {
                let error = SqlError::new(
                    SqlState::DatatypeMismatch,
                    format!("{} and {} do not compare", left_tag.name(), right_tag.name()),
                );
                if left_tag == TypeTag::Json || right_tag == TypeTag::Json {
                    error.hint("take a member out as text with ->>, then CAST it")
                } else {
                    error.hint("CAST one of them to the type of the other")
                }
            })
        }
    }
}

fn eval_case(
    operand: Option<&Expr>,
    whens: &[(Expr, Expr)],
    otherwise: Option<&Expr>,
    env: &Env<'_>,
) -> Result<Value, SqlError> {
    let operand = operand.map(|operand| eval(operand, env)).transpose()?;
    for (when, then) in whens {
        let holds = match &operand {
            Some(operand) => compare(operand, &eval(when, env)?)? == Some(Ordering::Equal),
            None => eval_truth(when, env)? == Some(true),
        };
        if holds {
            return eval(then, env);
        }
    }
    otherwise.map_or(Ok(Value::Null), |otherwise| eval(otherwise, env))
}

#[must_use]
pub fn out_of_range(what: &str) -> SqlError {
    SqlError::new(SqlState::NumericOutOfRange, format!("{what} is out of range"))
}

#[must_use]
pub fn mismatch(what: &str, left: TypeTag, right: TypeTag) -> SqlError {
    SqlError::new(
        SqlState::DatatypeMismatch,
        format!("{what} does not work on {} and {}", left.name(), right.name()),
    )
}

fn negate(value: Value) -> Result<Value, SqlError> {
    match value {
        Value::Null => Ok(Value::Null),
        Value::Integer(value) => {
            value.checked_neg().map(Value::Integer).ok_or_else(|| out_of_range("the BIGINT"))
        }
        Value::Double(value) => Ok(Value::Double(-value)),
        Value::Decimal(value) => Ok(Value::Decimal(value.checked_neg())),
        other => Err(SqlError::new(
            SqlState::DatatypeMismatch,
            format!("- does not work on {}", other.tag().name()),
        )),
    }
}

fn arithmetic(op: ArithmeticOp, left: &Value, right: &Value) -> Result<Value, SqlError> {
    if left.is_null() || right.is_null() {
        return Ok(Value::Null);
    }
    match op {
        ArithmeticOp::Concat => return concat(left, right),
        ArithmeticOp::JsonGet | ArithmeticOp::JsonGetText => {
            return json_get(left, right, op == ArithmeticOp::JsonGetText);
        }
        ArithmeticOp::Add
        | ArithmeticOp::Subtract
        | ArithmeticOp::Multiply
        | ArithmeticOp::Divide
        | ArithmeticOp::Remainder => {}
    }
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => integer_arithmetic(op, *left, *right),
        (Value::Double(_), right) if right.tag().is_numeric() => {
            double_arithmetic(op, to_f64(left), to_f64(right))
        }
        (left, Value::Double(_)) if left.tag().is_numeric() => {
            double_arithmetic(op, to_f64(left), to_f64(right))
        }
        (Value::Decimal(left), Value::Decimal(right)) => decimal_arithmetic(op, *left, *right),
        (Value::Decimal(left), Value::Integer(right)) => {
            decimal_arithmetic(op, *left, Decimal::from_i64(*right))
        }
        (Value::Integer(left), Value::Decimal(right)) => {
            decimal_arithmetic(op, Decimal::from_i64(*left), *right)
        }
        (Value::Date(left), Value::Date(right)) if op == ArithmeticOp::Subtract => {
            Ok(Value::Integer(i64::from(*left) - i64::from(*right)))
        }
        (Value::Date(date), Value::Integer(days)) if op == ArithmeticOp::Add => {
            shift_date(*date, Some(*days))
        }
        (Value::Integer(days), Value::Date(date)) if op == ArithmeticOp::Add => {
            shift_date(*date, Some(*days))
        }
        (Value::Date(date), Value::Integer(days)) if op == ArithmeticOp::Subtract => {
            shift_date(*date, days.checked_neg())
        }
        (left, right) => {
            let error = mismatch(op.symbol(), left.tag(), right.tag());
            if left.tag() == TypeTag::Timestamp || right.tag() == TypeTag::Timestamp {
                return Err(error.hint("compute with EXTRACT(EPOCH FROM …), in seconds"));
            }
            Err(error)
        }
    }
}

fn shift_date(date: i32, days: Option<i64>) -> Result<Value, SqlError> {
    days.and_then(|days| i64::from(date).checked_add(days))
        .and_then(crate::query::coerce::date_in_range)
        .map(Value::Date)
        .ok_or_else(|| {
            SqlError::new(
                SqlState::DatetimeOverflow,
                "the date is outside 0001-01-01 to 9999-12-31",
            )
        })
}

/// The nearest double of a number.
#[must_use]
pub fn to_f64(value: &Value) -> f64 {
    match value {
        Value::Integer(value) => *value as f64,
        Value::Double(value) => *value,
        Value::Decimal(value) => value.to_f64(),
        _ => unreachable!("the caller has seen a number"),
    }
}

fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DivisionByZero, "division by zero")
        .hint("write x / NULLIF(y, 0) to get NULL instead")
}

fn integer_arithmetic(op: ArithmeticOp, left: i64, right: i64) -> Result<Value, SqlError> {
    let result = match op {
        ArithmeticOp::Add => left.checked_add(right),
        ArithmeticOp::Subtract => left.checked_sub(right),
        ArithmeticOp::Multiply => left.checked_mul(right),
        ArithmeticOp::Divide | ArithmeticOp::Remainder if right == 0 => {
            return Err(division_by_zero());
        }
        ArithmeticOp::Divide => left.checked_div(right),
        ArithmeticOp::Remainder => Some(left.checked_rem(right).unwrap_or(0)),
        ArithmeticOp::Concat | ArithmeticOp::JsonGet | ArithmeticOp::JsonGetText => {
            unreachable!("not arithmetic")
        }
    };
    result
        .map(Value::Integer)
        .ok_or_else(|| out_of_range("the BIGINT").hint("CAST one side to DECIMAL or DOUBLE"))
}

pub fn double_arithmetic(op: ArithmeticOp, left: f64, right: f64) -> Result<Value, SqlError> {
    let result = match op {
        ArithmeticOp::Add => left + right,
        ArithmeticOp::Subtract => left - right,
        ArithmeticOp::Multiply => left * right,
        ArithmeticOp::Divide | ArithmeticOp::Remainder if right == 0.0 => {
            return Err(division_by_zero());
        }
        ArithmeticOp::Divide => left / right,
        ArithmeticOp::Remainder => left % right,
        ArithmeticOp::Concat | ArithmeticOp::JsonGet | ArithmeticOp::JsonGetText => {
            unreachable!("not arithmetic")
        }
    };
    if result.is_infinite() && left.is_finite() && right.is_finite() {
        return Err(out_of_range("the DOUBLE"));
    }
    Ok(Value::Double(result))
}

fn decimal_arithmetic(op: ArithmeticOp, left: Decimal, right: Decimal) -> Result<Value, SqlError> {
    let result = match op {
        ArithmeticOp::Add => left.checked_add(right),
        ArithmeticOp::Subtract => left.checked_add(right.checked_neg()),
        ArithmeticOp::Multiply => left.checked_mul(right),
        ArithmeticOp::Divide | ArithmeticOp::Remainder if right.is_zero() => {
            return Err(division_by_zero());
        }
        ArithmeticOp::Divide => left.checked_div(right),
        ArithmeticOp::Remainder => left.checked_rem(right),
        ArithmeticOp::Concat | ArithmeticOp::JsonGet | ArithmeticOp::JsonGetText => {
            unreachable!("not arithmetic")
        }
    };
    result.map(Value::Decimal).ok_or_else(|| out_of_range("the DECIMAL (38 digits)"))
}

fn concat(left: &Value, right: &Value) -> Result<Value, SqlError> {
    match (left, right) {
        (Value::Blob(left), Value::Blob(right)) => {
            let mut bytes = left.clone();
            bytes.extend_from_slice(right);
            crate::query::functions::bounded(Value::Blob(bytes))
        }
        (Value::Blob(_), _) | (_, Value::Blob(_)) => Err(mismatch("||", left.tag(), right.tag())),
        _ => crate::query::functions::bounded(Value::Text(format!("{left}{right}"))),
    }
}

fn json_get(left: &Value, right: &Value, as_text: bool) -> Result<Value, SqlError> {
    let Value::Json(document) = left else {
        return Err(mismatch("->", left.tag(), right.tag())
            .hint("the left side must be JSON: CAST(… AS JSON)"));
    };
    let found = match right {
        Value::Text(name) => json::member(document, name),
        Value::Integer(index) => json::element(document, *index),
        _ => {
            return Err(mismatch("->", left.tag(), right.tag())
                .hint("the right side is a member's name or an element's number"));
        }
    };
    Ok(match found {
        None => Value::Null,
        Some(raw) if as_text => json::as_text(raw).map_or(Value::Null, Value::Text),
        Some(raw) => Value::Json(raw.into()),
    })
}

/// Nanoseconds of a date's midnight or of a timestamp.
pub fn moment(value: &Value) -> Result<i128, SqlError> {
    match value {
        Value::Date(days) => Ok(i128::from(*days) * i128::from(datetime::NS_PER_DAY)),
        Value::Timestamp(ns) => Ok(i128::from(*ns)),
        other => Err(SqlError::new(
            SqlState::DatatypeMismatch,
            format!("a DATE or TIMESTAMP is needed, this is {}", other.tag().name()),
        )),
    }
}
