//! Keys: bytes whose order is the order of the values.
//!
//! One column is `00` for NULL, else `01` and the value: integers and times big endian with the
//! sign bit flipped, doubles as their ordered bits, decimals as the mantissa at the column's scale,
//! text and blobs with `00` written as `00 ff` and closed by `00 01`. Columns follow one another,
//! so a key of the first columns is a prefix of the keys that share them.
//!
//! Invariants: for values of one column type, byte order is [`Value`]'s `Ord`; no key is a prefix
//! of another key of the same width, so a suffix (`ended_at`) can follow; a key is at most
//! `ROW_KEY_SIZE_MAX` long.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::Position;
use crate::limits::ROW_KEY_SIZE_MAX;
use crate::query::cbor::DecodeError;
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::schema::TableSchema;
use crate::query::value::{ColumnType, Value};

const NULL: u8 = 0;
pub const PRESENT: u8 = 1;
const ZERO: u8 = 0;
/// After a zero byte: the zero is part of the value.
const ESCAPED: u8 = 0xff;
/// After a zero byte: the value ends. Two bytes, so that no value's bytes begin another's.
const END: u8 = 1;
const SIGN: u64 = 1 << 63;

/// The key of a row whose table declares one.
pub fn encode_key(schema: &TableSchema, row: &[Value]) -> Result<Vec<u8>, SqlError> {
    let mut key = Vec::with_capacity(32);
    encode_key_into(schema, row, &mut key)?;
    Ok(key)
}

/// Appends the key of a row whose table declares one.
pub fn encode_key_into(
    schema: &TableSchema,
    row: &[Value],
    out: &mut Vec<u8>,
) -> Result<(), SqlError> {
    assert!(!schema.hidden_key(), "the key of such a row is its insert position");
    let start = out.len();
    for id in &schema.primary_key {
        let value = &row[schema.ordinal(*id)];
        encode_key_value(value, schema.column(*id).column_type, out);
    }
    check_size(schema, &out[start..])
}

pub fn check_size(schema: &TableSchema, key: &[u8]) -> Result<(), SqlError> {
    if key.len() <= ROW_KEY_SIZE_MAX {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::LimitExceeded,
        format!(
            "the primary key of \"{}\" takes {} bytes for this row; at most {ROW_KEY_SIZE_MAX} fit",
            schema.name,
            key.len()
        ),
    )
    .hint("use a shorter key, for example a UUID or a hash of the long value"))
}

/// The key of a row of a table without PRIMARY KEY.
#[must_use]
pub fn hidden_key(inserted_at: Position) -> [u8; 8] {
    inserted_at.get().to_be_bytes()
}

/// Key of a superseded version: the row's key, then the position that ended it.
#[must_use]
pub fn history_key(key: &[u8], ended_at: Position) -> Vec<u8> {
    let mut history = Vec::with_capacity(key.len() + 8);
    history.extend_from_slice(key);
    history.extend_from_slice(&ended_at.get().to_be_bytes());
    history
}

/// What [`history_key`] joined.
#[must_use]
pub fn split_history_key(history: &[u8]) -> (&[u8], Position) {
    assert!(history.len() >= 8, "a history key ends in a position");
    let (key, ended_at) = history.split_at(history.len() - 8);
    let Ok(ended_at) = ended_at.try_into() else { unreachable!("eight bytes were split off") };
    (key, Position::new(u64::from_be_bytes(ended_at)))
}

/// Appends one column. The value must be NULL or of the column's type.
pub fn encode_key_value(value: &Value, column_type: ColumnType, out: &mut Vec<u8>) {
    if value.is_null() {
        out.push(NULL);
        return;
    }
    assert_eq!(value.tag(), column_type.tag(), "values are coerced before they become keys");
    out.push(PRESENT);
    match value {
        Value::Null => unreachable!("handled above"),
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Integer(value) => out.extend_from_slice(&(*value as u64 ^ SIGN).to_be_bytes()),
        Value::Timestamp(value) => out.extend_from_slice(&(*value as u64 ^ SIGN).to_be_bytes()),
        Value::Date(value) => out.extend_from_slice(&(*value as u32 ^ (1 << 31)).to_be_bytes()),
        Value::Double(value) => out.extend_from_slice(&ordered_bits(*value).to_be_bytes()),
        Value::Decimal(value) => {
            let ColumnType::Decimal { scale, .. } = column_type else {
                unreachable!("the tags are equal")
            };
            assert_eq!(value.scale(), scale, "values are coerced before they become keys");
            out.extend_from_slice(&(value.mantissa() as u128 ^ (1 << 127)).to_be_bytes());
        }
        Value::Text(text) | Value::Json(text) => escape(text.as_bytes(), out),
        Value::Blob(bytes) => escape(bytes, out),
        Value::Uuid(bytes) => out.extend_from_slice(bytes),
    }
}

/// Doubles as integers of the same order; `-0.0` is `0.0`, NaN comes last.
fn ordered_bits(value: f64) -> u64 {
    let value = if value == 0.0 { 0.0 } else { value };
    let bits = if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == ZERO {
            out.push(ESCAPED);
        }
    }
    out.extend_from_slice(&[ZERO, END]);
}

/// The values of a declared key, in the order of `primary_key`.
pub fn decode_key(schema: &TableSchema, key: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let mut values = Vec::with_capacity(schema.primary_key.len());
    let mut at = 0;
    for id in &schema.primary_key {
        values.push(decode_key_value(schema.column(*id).column_type, key, &mut at)?);
    }
    if at == key.len() {
        Ok(values)
    } else {
        Err(DecodeError { offset: at, reason: "bytes follow the key" })
    }
}

/// One column of a key, from `at` on; moves `at` past it.
pub fn decode_key_value(
    column_type: ColumnType,
    key: &[u8],
    at: &mut usize,
) -> Result<Value, DecodeError> {
    match take::<1>(key, at)? {
        [NULL] => return Ok(Value::Null),
        [PRESENT] => {}
        [_] => return Err(DecodeError { offset: *at - 1, reason: "bad key marker" }),
    }
    let bad = |offset: usize, reason: &'static str| DecodeError { offset, reason };
    Ok(match column_type {
        ColumnType::Boolean => match take::<1>(key, at)? {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            [_] => return Err(bad(*at, "bad boolean")),
        },
        ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => {
            Value::Integer((u64::from_be_bytes(take(key, at)?) ^ SIGN) as i64)
        }
        ColumnType::Timestamp => {
            Value::Timestamp((u64::from_be_bytes(take(key, at)?) ^ SIGN) as i64)
        }
        ColumnType::Date => Value::Date((u32::from_be_bytes(take(key, at)?) ^ (1 << 31)) as i32),
        ColumnType::Double => {
            let bits = u64::from_be_bytes(take(key, at)?);
            let bits = if bits & SIGN == 0 { !bits } else { bits & !SIGN };
            Value::Double(f64::from_bits(bits))
        }
        ColumnType::Decimal { scale, .. } => {
            let mantissa = (u128::from_be_bytes(take(key, at)?) ^ (1 << 127)) as i128;
            let decimal = Decimal::new(mantissa, scale);
            Value::Decimal(decimal.ok_or(bad(*at, "decimal has too many digits"))?)
        }
        ColumnType::Text | ColumnType::Varchar(_) | ColumnType::Json => {
            let bytes = unescape(key, at)?;
            let text = String::from_utf8(bytes).map_err(|_| bad(*at, "text is not UTF-8"))?;
            if column_type == ColumnType::Json { Value::Json(text) } else { Value::Text(text) }
        }
        ColumnType::Blob => Value::Blob(unescape(key, at)?),
        ColumnType::Uuid => Value::Uuid(take(key, at)?),
    })
}

fn take<const SIZE: usize>(key: &[u8], at: &mut usize) -> Result<[u8; SIZE], DecodeError> {
    let taken = key.get(*at..*at + SIZE).and_then(|bytes| bytes.try_into().ok());
    *at += SIZE;
    taken.ok_or(DecodeError { offset: *at - SIZE, reason: "key ends early" })
}

fn unescape(key: &[u8], at: &mut usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    loop {
        let [byte] = take::<1>(key, at)?;
        if byte != ZERO {
            out.push(byte);
            continue;
        }
        match take::<1>(key, at)? {
            [ESCAPED] => out.push(ZERO),
            [END] => return Ok(out),
            [_] => return Err(DecodeError { offset: *at - 1, reason: "bad escape in a key" }),
        }
    }
}

/// The smallest key above every key that starts with `prefix`; None when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
