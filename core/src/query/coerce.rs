//! Strict typing: what a column accepts, and the few conversions that happen without CAST.
//!
//! A number is accepted where the column can hold exactly that number (a DOUBLE takes the nearest);
//! text is read as DATE, TIMESTAMP, UUID, JSON or (`\x…`) BLOB; a DATE becomes the TIMESTAMP of its
//! midnight. Everything else needs a CAST and says so.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::query::datetime::{
    DATE_MAX, DATE_MIN, NS_PER_DAY, parse_date, parse_timestamp, split_timestamp,
};
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::json;
use crate::query::value::{ColumnType, TypeTag, Value, parse_uuid};

/// What a declared type says of the values in it. NULL passes; nullability is checked apart.
pub fn assign(value: Value, to: ColumnType) -> Result<Value, SqlError> {
    match (value, to) {
        (Value::Null, _) => Ok(Value::Null),
        (Value::Boolean(value), ColumnType::Boolean) => Ok(Value::Boolean(value)),
        (
            value @ (Value::Integer(_) | Value::Decimal(_) | Value::Double(_)),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt,
        ) => assign_integer(value, to),
        (Value::Integer(value), ColumnType::Double) => Ok(Value::Double(value as f64)),
        (Value::Decimal(value), ColumnType::Double) => Ok(Value::Double(value.to_f64())),
        (Value::Double(value), ColumnType::Double) => Ok(Value::Double(value)),
        (
            value @ (Value::Integer(_) | Value::Decimal(_) | Value::Double(_)),
            ColumnType::Decimal { precision, scale },
        ) => assign_decimal(value, precision, scale),
        (Value::Text(text), ColumnType::Text) => Ok(Value::Text(text)),
        (Value::Text(text), ColumnType::Varchar(most)) => {
            if text.len() > most as usize && text.chars().count() > most as usize {
                return Err(SqlError::new(
                    SqlState::StringTooLong,
                    format!("value of {} characters is too long for {to}", text.chars().count()),
                ));
            }
            Ok(Value::Text(text))
        }
        (Value::Blob(bytes), ColumnType::Blob) => Ok(Value::Blob(bytes)),
        (Value::Date(days), ColumnType::Date) => Ok(Value::Date(days)),
        (Value::Timestamp(ns), ColumnType::Timestamp) => Ok(Value::Timestamp(ns)),
        (Value::Date(days), ColumnType::Timestamp) => date_to_timestamp(days),
        (Value::Uuid(bytes), ColumnType::Uuid) => Ok(Value::Uuid(bytes)),
        (Value::Json(text), ColumnType::Json) => Ok(Value::Json(text)),
        (
            Value::Text(text),
            ColumnType::Date
            | ColumnType::Timestamp
            | ColumnType::Uuid
            | ColumnType::Json
            | ColumnType::Blob,
        ) => from_text(&text, to),
        (value, to) => Err(SqlError::new(
            SqlState::DatatypeMismatch,
            format!("a value of type {} does not go into {to}", value.tag().name()),
        )
        .hint(format!("write CAST(… AS {to}) if that is meant"))),
    }
}

fn assign_integer(value: Value, to: ColumnType) -> Result<Value, SqlError> {
    let integer = match &value {
        Value::Integer(value) => Some(*value),
        Value::Decimal(value) => value.rescale_exact(0).and_then(Decimal::to_i64),
        Value::Double(value) => exact_integer(*value),
        _ => None,
    };
    let Some(integer) = integer else {
        return Err(out_of_range(&value, to));
    };
    let (least, most) = match to {
        ColumnType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        ColumnType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    if integer < least || integer > most {
        return Err(out_of_range(&value, to));
    }
    Ok(Value::Integer(integer))
}

fn exact_integer(value: f64) -> Option<i64> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    ((-TWO_63..TWO_63).contains(&value) && (value as i64) as f64 == value).then_some(value as i64)
}

fn assign_decimal(value: Value, precision: u8, scale: u8) -> Result<Value, SqlError> {
    let to = ColumnType::Decimal { precision, scale };
    let decimal = match &value {
        Value::Integer(value) => Some(Decimal::from_i64(*value)),
        Value::Decimal(value) => Some(*value),
        Value::Double(value) => Decimal::from_f64(*value),
        _ => None,
    };
    let fitting = decimal.and_then(|decimal| decimal.rescale_exact(scale));
    match fitting {
        Some(fitting) if fitting.digits() <= precision => Ok(Value::Decimal(fitting)),
        _ => Err(out_of_range(&value, to)
            .hint("round it first: CAST(… AS DECIMAL(p,s)) rounds half away from zero")),
    }
}

fn out_of_range(value: &Value, to: ColumnType) -> SqlError {
    SqlError::new(SqlState::NumericOutOfRange, format!("{value} does not fit {to} exactly"))
}

fn date_to_timestamp(days: i32) -> Result<Value, SqlError> {
    i64::from(days).checked_mul(NS_PER_DAY).map(Value::Timestamp).ok_or_else(|| {
        SqlError::new(
            SqlState::DatetimeOverflow,
            format!("{} is outside TIMESTAMP (1677-09-21 to 2262-04-11)", Value::Date(days)),
        )
    })
}

/// Reads text as a value of a type: what implicit conversion and CAST share.
pub fn from_text(text: &str, to: ColumnType) -> Result<Value, SqlError> {
    let value = match to {
        ColumnType::Date => parse_date(text).map(Value::Date),
        ColumnType::Timestamp => parse_timestamp(text).map(Value::Timestamp),
        ColumnType::Uuid => parse_uuid(text).map(Value::Uuid),
        ColumnType::Json => json::validate(text).ok().map(|()| Value::Json(String::from(text))),
        ColumnType::Blob => parse_hex(text).map(Value::Blob),
        ColumnType::Boolean => parse_boolean(text).map(Value::Boolean),
        ColumnType::Text | ColumnType::Varchar(_) => Some(Value::text(text)),
        ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => {
            text.trim_ascii().parse().ok().map(Value::Integer)
        }
        ColumnType::Double => parse_double(text).map(Value::Double),
        ColumnType::Decimal { .. } => Decimal::parse(text).map(Value::Decimal),
    };
    value.ok_or_else(|| {
        let code = match to {
            ColumnType::Date | ColumnType::Timestamp => SqlState::InvalidDatetime,
            _ => SqlState::InvalidText,
        };
        let shown: String = text.chars().take(64).collect();
        let error = SqlError::new(code, format!("'{shown}' cannot be read as {to}"));
        match to {
            ColumnType::Date => error.hint("dates are written '2026-11-21'"),
            ColumnType::Timestamp => error
                .hint("timestamps are written '2026-11-21 02:05:04.5' or with a zone, '…+01:00'"),
            ColumnType::Uuid => error.hint("UUIDs are 32 hexadecimal digits, hyphens optional"),
            ColumnType::Blob => error.hint("write X'00ff' or '\\x00ff'"),
            _ => error,
        }
    })
}

fn parse_boolean(text: &str) -> Option<bool> {
    let text = text.trim_ascii().to_ascii_lowercase();
    match text.as_str() {
        "true" | "t" | "yes" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn parse_double(text: &str) -> Option<f64> {
    text.trim_ascii().parse::<f64>().ok()
}

/// `\x` and pairs of hexadecimal digits.
fn parse_hex(text: &str) -> Option<Vec<u8>> {
    hex_digits(text.strip_prefix("\\x")?)
}

/// Pairs of hexadecimal digits.
#[must_use]
pub fn hex_digits(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            Some((high * 16 + low) as u8)
        })
        .collect()
}

/// CAST: every conversion that has one meaning.
pub fn cast(value: Value, to: ColumnType) -> Result<Value, SqlError> {
    let converted = match (value, to) {
        (Value::Null, _) => return Ok(Value::Null),
        (Value::Text(text), ColumnType::Varchar(most)) => {
            return Ok(Value::Text(text.chars().take(most as usize).collect()));
        }
        // The day of a moment, where a DATE is asked for explicitly.
        (Value::Text(text), ColumnType::Date) if parse_date(&text).is_none() => {
            match parse_timestamp(&text) {
                Some(ns) => Value::Date(split_timestamp(ns).0),
                None => from_text(&text, to)?,
            }
        }
        (Value::Text(text), to) if to.tag() != TypeTag::Text => from_text(&text, to)?,
        (value, ColumnType::Text | ColumnType::Varchar(_)) if value.tag() != TypeTag::Text => {
            let text = Value::Text(value.to_string());
            return cast(text, to);
        }
        (Value::Json(text), to) if to != ColumnType::Json => match json::as_text(&text) {
            Some(text) => from_text(&text, to)?,
            None => return Ok(Value::Null),
        },
        (
            Value::Boolean(value),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt,
        ) => Value::Integer(i64::from(value)),
        (Value::Integer(value), ColumnType::Boolean) => Value::Boolean(value != 0),
        (
            value @ (Value::Double(_) | Value::Decimal(_)),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt,
        ) => {
            let rounded = match &value {
                Value::Double(value) => exact_integer(round_half_away(*value)),
                Value::Decimal(value) => value.to_i64(),
                _ => None,
            };
            Value::Integer(rounded.ok_or_else(|| out_of_range(&value, to))?)
        }
        (value, ColumnType::Decimal { precision, scale }) if value.tag().is_numeric() => {
            let decimal = match &value {
                Value::Integer(value) => Some(Decimal::from_i64(*value)),
                Value::Double(value) => Decimal::from_f64(*value),
                Value::Decimal(value) => Some(*value),
                _ => None,
            };
            match decimal.and_then(|decimal| decimal.rescale(scale)) {
                Some(decimal) if decimal.digits() <= precision => Value::Decimal(decimal),
                _ => return Err(out_of_range(&value, to)),
            }
        }
        (Value::Timestamp(ns), ColumnType::Date) => Value::Date(split_timestamp(ns).0),
        (Value::Blob(bytes), ColumnType::Uuid) => match bytes.as_slice().try_into() {
            Ok(bytes) => Value::Uuid(bytes),
            Err(_) => {
                return Err(SqlError::new(SqlState::InvalidText, "a UUID has 16 bytes"));
            }
        },
        (Value::Uuid(bytes), ColumnType::Blob) => Value::Blob(bytes.to_vec()),
        (value, _) => value,
    };
    match (converted, to) {
        (Value::Decimal(value), ColumnType::Decimal { precision, scale }) => {
            match value.rescale(scale) {
                Some(fitting) if fitting.digits() <= precision => Ok(Value::Decimal(fitting)),
                _ => Err(out_of_range(&Value::Decimal(value), to)),
            }
        }
        (converted, to) => assign(converted, to).map_err(|error| match error.code {
            SqlState::DatatypeMismatch => SqlError::new(
                SqlState::DatatypeMismatch,
                error.message.replace("does not go into", "cannot be cast to"),
            ),
            _ => error,
        }),
    }
}

/// Half away from zero, without a math library.
#[must_use]
pub fn round_half_away(value: f64) -> f64 {
    let whole = truncate(value);
    let rest = value - whole;
    if rest >= 0.5 {
        whole + 1.0
    } else if rest <= -0.5 {
        whole - 1.0
    } else {
        whole
    }
}

/// Towards zero, without a math library.
#[must_use]
pub fn truncate(value: f64) -> f64 {
    // From 2^52 on a double has no fraction; NaN and infinities stay.
    if value.is_nan() || value.abs() >= 4_503_599_627_370_496.0 {
        return value;
    }
    let whole = (value as i64) as f64;
    if whole == 0.0 && value.is_sign_negative() { -0.0 } else { whole }
}

/// For a comparison: text beside a date, timestamp or UUID is read as one.
pub fn align(left: &Value, right: &Value) -> Option<Result<Value, SqlError>> {
    let (Value::Text(text), other) = (left, right) else { return None };
    match other.tag() {
        tag @ (TypeTag::Date | TypeTag::Timestamp | TypeTag::Uuid) => {
            // '2026-11-21 10:00' beside a DATE is still a moment.
            if tag == TypeTag::Date && parse_date(text).is_none() && parse_timestamp(text).is_some()
            {
                return Some(from_text(text, ColumnType::Timestamp));
            }
            Some(from_text(text, ColumnType::of_tag(tag)))
        }
        TypeTag::Null
        | TypeTag::Boolean
        | TypeTag::Integer
        | TypeTag::Double
        | TypeTag::Decimal
        | TypeTag::Text
        | TypeTag::Blob
        | TypeTag::Json => None,
    }
}

/// Whether a date can exist.
#[must_use]
pub fn date_in_range(days: i64) -> Option<i32> {
    i32::try_from(days).ok().filter(|days| (DATE_MIN..=DATE_MAX).contains(days))
}
