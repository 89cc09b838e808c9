//! Scalar functions. A NULL argument gives NULL unless the function says otherwise.
//!
//! Invariant: no result is longer than a row may be, whatever the arguments ask for.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::limits::ROW_SIZE_MAX;
use crate::query::coerce::{round_half_away, truncate};
use crate::query::datetime::{Civil, NS_PER_DAY, NS_PER_SECOND, SECONDS_PER_DAY, split_timestamp};
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{Env, compare, eval, moment, out_of_range, to_f64};
use crate::query::expr::{Expr, Function};
use crate::query::json;
use crate::query::value::{TypeTag, Value};

pub fn call(function: Function, arguments: &[Expr], env: &Env<'_>) -> Result<Value, SqlError> {
    // Those that look at their arguments one by one.
    match function {
        Function::Coalesce => {
            for argument in arguments {
                let value = eval(argument, env)?;
                if !value.is_null() {
                    return Ok(value);
                }
            }
            return Ok(Value::Null);
        }
        Function::Greatest => return extreme(arguments, env, Ordering::Greater),
        Function::Least => return extreme(arguments, env, Ordering::Less),
        Function::Concat => {
            let mut out = String::new();
            for argument in arguments {
                let value = eval(argument, env)?;
                if !value.is_null() {
                    out.push_str(&value.to_string());
                }
                too_long(out.len())?;
            }
            return Ok(Value::Text(out));
        }
        Function::Now => return Ok(Value::Timestamp(env.context.now_ns())),
        Function::CurrentDate => {
            return Ok(Value::Date(split_timestamp(env.context.now_ns()).0));
        }
        Function::Random => {
            // The top 53 bits: every value a multiple of 2^-53 in [0, 1).
            let [a, b, c, d, e, f, g, h, ..] = env.context.draw();
            let bits = u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 11;
            return Ok(Value::Double(bits as f64 / 9_007_199_254_740_992.0));
        }
        Function::RandomUuid => {
            let mut bytes = env.context.draw();
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            return Ok(Value::Uuid(bytes));
        }
        _ => {}
    }
    let values: Vec<Value> =
        arguments.iter().map(|argument| eval(argument, env)).collect::<Result<_, _>>()?;
    match function {
        Function::NullIf => {
            let equal = compare(&values[0], &values[1])? == Some(Ordering::Equal);
            return Ok(if equal { Value::Null } else { values[0].clone() });
        }
        Function::TypeOf => {
            return Ok(Value::Text(values[0].tag().name().to_ascii_lowercase()));
        }
        _ => {}
    }
    if values.iter().any(Value::is_null) {
        return Ok(Value::Null);
    }
    strict(function, &values)
}

fn extreme(arguments: &[Expr], env: &Env<'_>, wanted: Ordering) -> Result<Value, SqlError> {
    let mut best = Value::Null;
    for argument in arguments {
        let value = eval(argument, env)?;
        if !value.is_null() && (best.is_null() || compare(&value, &best)? == Some(wanted)) {
            best = value;
        }
    }
    Ok(best)
}

/// Functions whose arguments are all present.
fn strict(function: Function, values: &[Value]) -> Result<Value, SqlError> {
    match function {
        Function::Length => match &values[0] {
            Value::Blob(bytes) => Ok(Value::Integer(bytes.len() as i64)),
            other => Ok(Value::Integer(text(function, other)?.chars().count() as i64)),
        },
        Function::OctetLength => match &values[0] {
            Value::Blob(bytes) => Ok(Value::Integer(bytes.len() as i64)),
            other => Ok(Value::Integer(text(function, other)?.len() as i64)),
        },
        Function::Upper => bounded(Value::Text(text(function, &values[0])?.to_uppercase())),
        Function::Lower => bounded(Value::Text(text(function, &values[0])?.to_lowercase())),
        Function::Trim | Function::LeftTrim | Function::RightTrim => trim(function, values),
        Function::Substring => substring(values),
        Function::Replace => {
            let whole = text(function, &values[0])?;
            let (from, to) = (text(function, &values[1])?, text(function, &values[2])?);
            if from.is_empty() {
                return Ok(values[0].clone());
            }
            let times = whole.matches(from).count();
            too_long(whole.len().saturating_add(times.saturating_mul(to.len())))?;
            Ok(Value::Text(whole.replace(from, to)))
        }
        Function::StringPosition => {
            let whole = text(function, &values[0])?;
            let found = whole.find(text(function, &values[1])?);
            let position = found.map_or(0, |at| whole[..at].chars().count() as i64 + 1);
            Ok(Value::Integer(position))
        }
        Function::Left | Function::Right => left_right(function, values),
        Function::StartsWith => {
            let starts = text(function, &values[0])?.starts_with(text(function, &values[1])?);
            Ok(Value::Boolean(starts))
        }
        Function::Repeat => {
            let whole = text(function, &values[0])?;
            let times = usize::try_from(integer(function, &values[1])?).unwrap_or(0);
            too_long(whole.len().saturating_mul(times))?;
            Ok(Value::Text(whole.repeat(times)))
        }
        Function::Reverse => Ok(Value::Text(text(function, &values[0])?.chars().rev().collect())),
        Function::LeftPad | Function::RightPad => pad(function, values),
        Function::Abs => match &values[0] {
            Value::Integer(value) => {
                value.checked_abs().map(Value::Integer).ok_or_else(|| out_of_range("the BIGINT"))
            }
            Value::Double(value) => Ok(Value::Double(value.abs())),
            Value::Decimal(value) if value.mantissa() < 0 => {
                Ok(Value::Decimal(value.checked_neg()))
            }
            Value::Decimal(value) => Ok(Value::Decimal(*value)),
            other => Err(wrong(function, other)),
        },
        Function::Sign => match &values[0] {
            Value::Integer(value) => Ok(Value::Integer(value.signum())),
            Value::Double(value) if value.is_nan() => Ok(Value::Double(*value)),
            Value::Double(value) if *value == 0.0 => Ok(Value::Integer(0)),
            Value::Double(value) => Ok(Value::Integer(if *value > 0.0 { 1 } else { -1 })),
            Value::Decimal(value) => Ok(Value::Integer(value.mantissa().signum() as i64)),
            other => Err(wrong(function, other)),
        },
        Function::Floor | Function::Ceil => floor_ceil(function, &values[0]),
        Function::Round | Function::Truncate => round(function, values),
        Function::Modulo => modulo(values),
        Function::Extract => extract(text(function, &values[0])?, &values[1]),
        Function::DateTruncate => date_truncate(text(function, &values[0])?, &values[1]),
        Function::Hex => match &values[0] {
            Value::Blob(bytes) => {
                too_long(bytes.len() * 2)?;
                Ok(Value::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
            }
            other => Err(wrong(function, other)),
        },
        Function::JsonArrayLength => {
            match &values[0] {
                Value::Json(document) => Ok(json::length(document)
                    .map_or(Value::Null, |length| Value::Integer(length as i64))),
                other => Err(wrong(function, other)),
            }
        }
        Function::SquareRoot => {
            if !values[0].tag().is_numeric() {
                return Err(wrong(function, &values[0]));
            }
            let value = to_f64(&values[0]);
            if value < 0.0 {
                return Err(SqlError::new(
                    SqlState::InvalidParameterValue,
                    "there is no square root of a negative number",
                ));
            }
            Ok(Value::Double(square_root(value)))
        }
        Function::Coalesce
        | Function::NullIf
        | Function::Concat
        | Function::Greatest
        | Function::Least
        | Function::Now
        | Function::CurrentDate
        | Function::Random
        | Function::RandomUuid
        | Function::TypeOf => unreachable!("answered before"),
    }
}

fn wrong(function: Function, value: &Value) -> SqlError {
    SqlError::new(
        SqlState::DatatypeMismatch,
        format!("{}() does not take {}", function.name(), value.tag().name()),
    )
}

fn text(function: Function, value: &Value) -> Result<&str, SqlError> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong(function, other).hint("CAST it to TEXT")),
    }
}

fn integer(function: Function, value: &Value) -> Result<i64, SqlError> {
    match value {
        Value::Integer(value) => Ok(*value),
        other => Err(wrong(function, other)),
    }
}

fn too_long(bytes: usize) -> Result<(), SqlError> {
    if bytes <= ROW_SIZE_MAX {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::LimitExceeded,
        format!("a value of {bytes} bytes is larger than a row may be ({ROW_SIZE_MAX})"),
    ))
}

/// The value, unless it is larger than a row may be.
pub fn bounded(value: Value) -> Result<Value, SqlError> {
    too_long(value.heap_bytes())?;
    Ok(value)
}

fn trim(function: Function, values: &[Value]) -> Result<Value, SqlError> {
    let whole = text(function, &values[0])?;
    let set = match values.get(1) {
        Some(set) => text(function, set)?,
        None => " ",
    };
    let set: BTreeSet<char> = set.chars().collect();
    let within = |character: char| set.contains(&character);
    let trimmed = match function {
        Function::LeftTrim => whole.trim_start_matches(within),
        Function::RightTrim => whole.trim_end_matches(within),
        _ => whole.trim_matches(within),
    };
    Ok(Value::text(trimmed))
}

/// `substr(text, from [, count])`, from 1; what lies before the start counts, as in PostgreSQL.
fn substring(values: &[Value]) -> Result<Value, SqlError> {
    let from = integer(Function::Substring, &values[1])?;
    let end = match values.get(2) {
        Some(count) => {
            let count = integer(Function::Substring, count)?;
            if count < 0 {
                return Err(SqlError::new(
                    SqlState::InvalidParameterValue,
                    "substr() takes no negative count",
                ));
            }
            from.saturating_add(count)
        }
        None => i64::MAX,
    };
    let skip = usize::try_from(from.max(1) - 1).unwrap_or(usize::MAX);
    let take = usize::try_from(end.saturating_sub(from.max(1))).unwrap_or(0);
    match &values[0] {
        Value::Blob(bytes) => {
            let start = skip.min(bytes.len());
            Ok(Value::Blob(bytes[start..start + take.min(bytes.len() - start)].to_vec()))
        }
        other => {
            let whole = text(Function::Substring, other)?;
            Ok(Value::Text(whole.chars().skip(skip).take(take).collect()))
        }
    }
}

/// A negative count leaves out that many at the other end.
fn left_right(function: Function, values: &[Value]) -> Result<Value, SqlError> {
    let whole = text(function, &values[0])?;
    let count = integer(function, &values[1])?;
    let size = whole.chars().count();
    let kept = match usize::try_from(count.unsigned_abs()) {
        Ok(magnitude) if count >= 0 => magnitude.min(size),
        Ok(magnitude) => size.saturating_sub(magnitude),
        Err(_) => 0,
    };
    Ok(Value::Text(if function == Function::Left {
        whole.chars().take(kept).collect()
    } else {
        whole.chars().skip(size - kept).collect()
    }))
}

fn pad(function: Function, values: &[Value]) -> Result<Value, SqlError> {
    let whole = text(function, &values[0])?;
    let wanted = usize::try_from(integer(function, &values[1])?).unwrap_or(0);
    let fill = match values.get(2) {
        Some(fill) => text(function, fill)?,
        None => " ",
    };
    let size = whole.chars().count();
    if wanted <= size || fill.is_empty() {
        return Ok(Value::Text(whole.chars().take(wanted).collect()));
    }
    too_long(whole.len().saturating_add((wanted - size).saturating_mul(4)))?;
    let filling = fill.chars().cycle().take(wanted - size);
    Ok(Value::Text(if function == Function::LeftPad {
        filling.chain(whole.chars()).collect()
    } else {
        whole.chars().chain(filling).collect()
    }))
}

fn floor_ceil(function: Function, value: &Value) -> Result<Value, SqlError> {
    let up = function == Function::Ceil;
    match value {
        Value::Integer(value) => Ok(Value::Integer(*value)),
        Value::Double(value) => {
            let whole = truncate(*value);
            Ok(Value::Double(match (up, whole < *value, whole > *value) {
                (true, true, _) => whole + 1.0,
                (false, _, true) => whole - 1.0,
                _ => whole,
            }))
        }
        Value::Decimal(value) => {
            let unit = 10_i128.pow(u32::from(value.scale()));
            let whole = value.mantissa().div_euclid(unit);
            let exact = value.mantissa().rem_euclid(unit) == 0;
            let whole = if up && !exact { whole + 1 } else { whole };
            let whole = Decimal::new(whole, 0).ok_or_else(|| out_of_range("the DECIMAL"))?;
            Ok(Value::Decimal(whole))
        }
        other => Err(wrong(function, other)),
    }
}

/// `round(x [, places])`: half away from zero; `trunc`: towards zero. Negative places round left
/// of the point.
fn round(function: Function, values: &[Value]) -> Result<Value, SqlError> {
    let places = match values.get(1) {
        Some(places) => integer(function, places)?.clamp(-38, 38) as i32,
        None => 0,
    };
    let decimal = match &values[0] {
        Value::Integer(value) if places >= 0 => return Ok(Value::Integer(*value)),
        Value::Integer(value) => Decimal::from_i64(*value),
        Value::Decimal(value) => *value,
        Value::Double(value) if places == 0 => {
            return Ok(Value::Double(if function == Function::Round {
                round_half_away(*value)
            } else {
                truncate(*value)
            }));
        }
        // By the decimal digits that the double prints as: what people mean.
        Value::Double(value) => match Decimal::from_f64(*value) {
            Some(decimal) => decimal,
            None => return Ok(values[0].clone()),
        },
        other => return Err(wrong(function, other)),
    };
    let rounded = round_decimal(decimal, places, function == Function::Truncate)
        .ok_or_else(|| out_of_range("the number"))?;
    Ok(match &values[0] {
        Value::Integer(_) => {
            Value::Integer(rounded.to_i64().ok_or_else(|| out_of_range("the BIGINT"))?)
        }
        Value::Double(_) => Value::Double(rounded.to_f64()),
        _ => Value::Decimal(rounded),
    })
}

fn round_decimal(decimal: Decimal, places: i32, towards_zero: bool) -> Option<Decimal> {
    let scale = i32::from(decimal.scale());
    if places >= scale {
        return Some(decimal);
    }
    let drop = u32::try_from(scale - places).ok()?;
    let Some(unit) = 10_i128.checked_pow(drop) else { return Some(Decimal::ZERO) };
    let mut quotient = decimal.mantissa() / unit;
    let rest = (decimal.mantissa() % unit).unsigned_abs();
    if !towards_zero && rest >= unit.unsigned_abs() - rest {
        quotient += decimal.mantissa().signum();
    }
    if places >= 0 {
        return Decimal::new(quotient, places as u8);
    }
    Decimal::new(quotient.checked_mul(10_i128.checked_pow(places.unsigned_abs())?)?, 0)
}

fn modulo(values: &[Value]) -> Result<Value, SqlError> {
    let literal = |value: &Value| alloc::boxed::Box::new(Expr::Literal(value.clone()));
    let context = crate::query::eval::Context::new(crate::time::Timestamp(0), [0; 32]);
    let remainder = Expr::Arithmetic {
        op: crate::query::expr::ArithmeticOp::Remainder,
        left: literal(&values[0]),
        right: literal(&values[1]),
    };
    eval(&remainder, &Env::constant(&[], &context))
}

/// Correctly rounded, by integers: no platform math.
fn square_root(value: f64) -> f64 {
    if value == 0.0 || value.is_nan() || value.is_infinite() {
        return value;
    }
    let bits = value.to_bits();
    let raw = ((bits >> 52) & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let (mut mantissa, mut exponent) = if raw == 0 {
        (u128::from(fraction), -1074)
    } else {
        (u128::from(fraction | 1 << 52), raw - 1075)
    };
    // value = mantissa · 2^exponent; widen to at least 113 bits with an even exponent, so that the
    // root has 57 bits: more than a double keeps, the rest becomes a sticky bit.
    let shift = mantissa.leading_zeros() as i32 - 14;
    let shift = shift - i32::from((exponent - shift) % 2 != 0);
    mantissa <<= shift;
    exponent -= shift;
    let root = mantissa.isqrt();
    let sticky = u128::from(root * root != mantissa);
    let rounded = ((root << 1) | sticky) as f64;
    // 2^(exponent/2 - 1) is a normal double: exact.
    let power = exponent / 2 - 1;
    rounded * f64::from_bits(((power + 1023) as u64) << 52)
}

/// Fields of a DATE or TIMESTAMP that EXTRACT knows.
const FIELDS: &str =
    "year, quarter, month, week, day, doy, dow, isodow, hour, minute, second, epoch";

fn unknown_field(field: &str) -> SqlError {
    SqlError::new(SqlState::InvalidParameterValue, format!("there is no date field \"{field}\""))
        .hint(format!("fields are {FIELDS}"))
}

fn extract(field: &str, value: &Value) -> Result<Value, SqlError> {
    let ns = moment(value)?;
    let day = ns.div_euclid(i128::from(NS_PER_DAY)) as i32;
    let within = ns.rem_euclid(i128::from(NS_PER_DAY)) as i64;
    let civil = Civil::from_days(day);
    let seconds = within / NS_PER_SECOND;
    let isodow = (day + 3).rem_euclid(7) + 1;
    let number = match field.to_ascii_lowercase().as_str() {
        "year" => i64::from(civil.year),
        "quarter" => i64::from((civil.month - 1) / 3 + 1),
        "month" => i64::from(civil.month),
        "week" => iso_week(day),
        "day" => i64::from(civil.day),
        "doy" => i64::from(day - Civil { year: civil.year, month: 1, day: 1 }.to_days() + 1),
        "dow" => i64::from(isodow % 7),
        "isodow" => i64::from(isodow),
        "hour" => seconds / 3600,
        "minute" => seconds / 60 % 60,
        "second" => {
            let ns = i128::from(seconds % 60 * NS_PER_SECOND + within % NS_PER_SECOND);
            return seconds_value(ns);
        }
        "epoch" => return seconds_value(ns),
        _ => return Err(unknown_field(field)),
    };
    Ok(Value::Integer(number))
}

/// Nanoseconds as DECIMAL seconds.
fn seconds_value(ns: i128) -> Result<Value, SqlError> {
    let seconds = Decimal::new(ns, 9).ok_or_else(|| out_of_range("the time"))?;
    Ok(Value::Decimal(seconds.normalize()))
}

/// ISO 8601: the week of a day is the week of its Thursday.
fn iso_week(day: i32) -> i64 {
    let thursday = day - (day + 3).rem_euclid(7) + 3;
    let year = Civil::from_days(thursday).year;
    i64::from((thursday - Civil { year, month: 1, day: 1 }.to_days()) / 7 + 1)
}

/// Keeps the type: a DATE gives a DATE.
fn date_truncate(field: &str, value: &Value) -> Result<Value, SqlError> {
    let ns = moment(value)?;
    let day = ns.div_euclid(i128::from(NS_PER_DAY)) as i32;
    let within = ns.rem_euclid(i128::from(NS_PER_DAY)) as i64;
    let civil = Civil::from_days(day);
    let first = |month| Civil { year: civil.year, month, day: 1 }.to_days();
    let keep = |unit: i64| (day, within - within % unit);
    let (day, within) = match field.to_ascii_lowercase().as_str() {
        "year" => (first(1), 0),
        "quarter" => (first((civil.month - 1) / 3 * 3 + 1), 0),
        "month" => (first(civil.month), 0),
        "week" => (day - (day + 3).rem_euclid(7), 0),
        "day" => (day, 0),
        "hour" => keep(3600 * NS_PER_SECOND),
        "minute" => keep(60 * NS_PER_SECOND),
        "second" => keep(NS_PER_SECOND),
        _ => return Err(unknown_field(field)),
    };
    if value.tag() == TypeTag::Date {
        return Ok(Value::Date(day));
    }
    let ns = i128::from(day) * i128::from(SECONDS_PER_DAY * NS_PER_SECOND) + i128::from(within);
    i64::try_from(ns).map(Value::Timestamp).map_err(|_| {
        SqlError::new(SqlState::DatetimeOverflow, "the start of it is outside TIMESTAMP")
    })
}

/// The stream of [`crate::query::eval::Context::draw`]: keyed BLAKE3 of a counter.
#[must_use]
pub fn draw_hash(seed: &[u8; 32], number: u64) -> [u8; 32] {
    *blake3::keyed_hash(seed, &number.to_le_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::square_root;

    #[test]
    fn square_root_is_correctly_rounded() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(state >> 1);
            if value.is_finite() {
                assert_eq!(square_root(value).to_bits(), value.sqrt().to_bits(), "{value:e}");
            }
        }
        for value in [0.0, -0.0, 1.0, 2.0, 4.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::INFINITY]
        {
            assert_eq!(square_root(value).to_bits(), value.sqrt().to_bits(), "{value:e}");
        }
    }
}
