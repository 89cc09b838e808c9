//! Values and rows as deterministic CBOR: record payloads that an auditor reads with any library.
//!
//! ```text
//! NULL null · BOOLEAN true/false · integers int · DOUBLE float · TEXT text · BLOB bytes
//! DECIMAL   tag 4 [-scale, mantissa (int or bignum tag 2/3)]     RFC 8949 §3.4.4
//! DATE      tag 100 (days since 1970-01-01)                      RFC 8943
//! TIMESTAMP tag 1001 {1: seconds, -9: nanoseconds if not 0}      RFC 9581
//! UUID      tag 37 (16 bytes) · JSON tag 262 (bytes of the text) IANA registry
//! row       map {column id: value}, ids ascending; id 0 is the hidden key
//! ```
//!
//! Invariant: one value, one encoding; the decoder refuses everything else.

use alloc::vec::Vec;

use crate::ids::{ColumnId, Position};
use crate::limits::COLUMNS_MAX;
use crate::query::cbor::{
    DecodeError, Decoder, Encoder, MAJOR_BYTES, MAJOR_NEGATIVE, MAJOR_SIMPLE, MAJOR_TAG,
    MAJOR_TEXT, MAJOR_UNSIGNED, TAG_BIGNUM, TAG_DATE, TAG_DECIMAL, TAG_JSON, TAG_NEGATIVE_BIGNUM,
    TAG_TIMESTAMP, TAG_UUID,
};
use crate::query::coerce::date_in_range;
use crate::query::datetime::NS_PER_SECOND;
use crate::query::decimal::Decimal;
use crate::query::json;
use crate::query::schema::{HIDDEN_KEY_COLUMN, TableSchema};
use crate::query::texts::Texts;
use crate::query::value::Value;

pub fn encode_value(encoder: &mut Encoder<'_>, value: &Value) {
    match value {
        Value::Null => encoder.null(),
        Value::Boolean(value) => encoder.bool(*value),
        Value::Integer(value) => encoder.int(*value),
        Value::Double(value) => encoder.double(*value),
        Value::Decimal(value) => {
            encoder.tag(TAG_DECIMAL).array(2).int(-i64::from(value.scale()));
            encode_mantissa(encoder, value.mantissa());
            encoder
        }
        Value::Text(text) => encoder.text(text),
        Value::Blob(bytes) => encoder.bytes(bytes),
        Value::Date(days) => encoder.tag(TAG_DATE).int(i64::from(*days)),
        Value::Timestamp(ns) => {
            let (seconds, rest) = (ns.div_euclid(NS_PER_SECOND), ns.rem_euclid(NS_PER_SECOND));
            encoder.tag(TAG_TIMESTAMP).map(if rest == 0 { 1 } else { 2 });
            encoder.int(1).int(seconds);
            if rest != 0 {
                encoder.int(-9).int(rest);
            }
            encoder
        }
        Value::Uuid(bytes) => encoder.tag(TAG_UUID).bytes(bytes),
        Value::Json(text) => encoder.tag(TAG_JSON).bytes(text.as_bytes()),
    };
}

fn encode_mantissa(encoder: &mut Encoder<'_>, mantissa: i128) {
    let magnitude = if mantissa >= 0 { mantissa as u128 } else { !mantissa as u128 };
    match u64::try_from(magnitude) {
        Ok(small) => {
            encoder.head(if mantissa >= 0 { MAJOR_UNSIGNED } else { MAJOR_NEGATIVE }, small);
        }
        Err(_) => {
            let bytes = magnitude.to_be_bytes();
            let zeros = (magnitude.leading_zeros() / 8) as usize;
            encoder.tag(if mantissa >= 0 { TAG_BIGNUM } else { TAG_NEGATIVE_BIGNUM });
            encoder.bytes(&bytes[zeros..]);
        }
    }
}

fn decode_mantissa(decoder: &mut Decoder<'_>) -> Result<i128, DecodeError> {
    let start = decoder.offset();
    let bad = |reason| DecodeError { offset: start, reason };
    match decoder.head()? {
        (MAJOR_UNSIGNED, value) => Ok(i128::from(value)),
        (MAJOR_NEGATIVE, value) => Ok(!i128::from(value)),
        (MAJOR_TAG, tag @ (TAG_BIGNUM | TAG_NEGATIVE_BIGNUM)) => {
            let bytes = decoder.bytes()?;
            if bytes.len() > 16 || bytes.len() <= 8 || bytes[0] == 0 {
                return Err(bad("bignum is not the shortest form"));
            }
            let magnitude = bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
            let value = i128::try_from(magnitude).map_err(|_| bad("bignum is too large"))?;
            Ok(if tag == TAG_BIGNUM { value } else { !value })
        }
        _ => Err(bad("expected a mantissa")),
    }
}

pub fn decode_value(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    decode_value_with(decoder, &mut Texts::default())
}

/// As [`decode_value`]; texts and blobs take room that others had.
pub fn decode_value_with(
    decoder: &mut Decoder<'_>,
    texts: &mut Texts,
) -> Result<Value, DecodeError> {
    let start = decoder.offset();
    let bad = |reason| DecodeError { offset: start, reason };
    match decoder.peek()? {
        (MAJOR_UNSIGNED | MAJOR_NEGATIVE, _) => Ok(Value::Integer(decoder.int()?)),
        (MAJOR_TEXT, _) => Ok(Value::Text(texts.text(decoder.text()?))),
        (MAJOR_BYTES, _) => Ok(Value::Blob(texts.blob(decoder.bytes()?))),
        (MAJOR_SIMPLE, 20 | 21) => Ok(Value::Boolean(decoder.bool()?)),
        (MAJOR_SIMPLE, 22) => {
            decoder.null()?;
            Ok(Value::Null)
        }
        (MAJOR_SIMPLE, _) => Ok(Value::Double(decoder.double()?)),
        (MAJOR_TAG, _) => match decoder.tag()? {
            TAG_DECIMAL => {
                decoder.record(2)?;
                let scale = decoder.int()?.checked_neg().and_then(|scale| u8::try_from(scale).ok());
                let mantissa = decode_mantissa(decoder)?;
                scale
                    .and_then(|scale| Decimal::new(mantissa, scale))
                    .map(Value::Decimal)
                    .ok_or(bad("decimal is out of range"))
            }
            TAG_DATE => {
                let days = date_in_range(decoder.int()?);
                days.map(Value::Date).ok_or(bad("date is out of range"))
            }
            TAG_TIMESTAMP => decode_timestamp(decoder),
            TAG_UUID => Ok(Value::Uuid(decoder.fixed()?)),
            TAG_JSON => {
                let text =
                    core::str::from_utf8(decoder.bytes()?).map_err(|_| bad("JSON is not UTF-8"))?;
                json::validate(text).map_err(|_| bad("not JSON"))?;
                Ok(Value::Json(texts.text(text)))
            }
            _ => Err(bad("unknown tag")),
        },
        _ => Err(bad("expected a value")),
    }
}

fn decode_timestamp(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    let start = decoder.offset();
    let bad = |reason| DecodeError { offset: start, reason };
    let parts = decoder.map()?;
    if !(1..=2).contains(&parts) || decoder.int()? != 1 {
        return Err(bad("expected {1: seconds}"));
    }
    let seconds = decoder.int()?;
    let mut rest = 0;
    if parts == 2 {
        if decoder.int()? != -9 {
            return Err(bad("expected {-9: nanoseconds}"));
        }
        rest = decoder.int()?;
        if !(1..NS_PER_SECOND).contains(&rest) {
            return Err(bad("nanoseconds are out of range"));
        }
    }
    let ns = i128::from(seconds) * i128::from(NS_PER_SECOND) + i128::from(rest);
    i64::try_from(ns).map(Value::Timestamp).map_err(|_| bad("timestamp is out of range"))
}

/// A map of `count` columns, ids ascending.
pub fn encode_columns<'v>(
    count: usize,
    columns: impl Iterator<Item = (ColumnId, &'v Value)>,
    out: &mut Vec<u8>,
) {
    let mut encoder = Encoder::new(out);
    encoder.map(count);
    let mut written = 0;
    let mut previous = None;
    for (id, value) in columns {
        assert!(previous < Some(id), "columns are encoded in order of id, each once");
        previous = Some(id);
        written += 1;
        encoder.uint(u64::from(id.get()));
        encode_value(&mut encoder, value);
    }
    assert_eq!(written, count, "as many columns as were told");
}

pub fn decode_columns(bytes: &[u8]) -> Result<Vec<(ColumnId, Value)>, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let count = decoder.map()?;
    if count > COLUMNS_MAX + 1 {
        return decoder.error("too many columns");
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ColumnId::new(decoder.u32()?);
        if columns.last().is_some_and(|(last, _)| *last >= id) {
            return decoder.error("column ids do not ascend");
        }
        columns.push((id, decode_value(&mut decoder)?));
    }
    decoder.finish()?;
    Ok(columns)
}

/// Payload of a row event: the whole after-image; for a hidden key, with the position that the row
/// was inserted at as column 0.
pub fn encode_row(hidden_key: Option<Position>, row: &[Value], out: &mut Vec<u8>) {
    let hidden = hidden_key.map(|position| {
        let Ok(position) = i64::try_from(position.get()) else {
            unreachable!("positions stay far below 2^63")
        };
        (HIDDEN_KEY_COLUMN, Value::Integer(position))
    });
    let first = hidden.as_ref().map(|(id, value)| (*id, value));
    let declared = row.iter().zip(1..).map(|(value, id)| (ColumnId::new(id), value));
    let count = usize::from(first.is_some()) + row.len();
    encode_columns(count, first.into_iter().chain(declared), out);
}

/// What [`encode_row`] wrote: the hidden key if there is one, and every column.
pub fn decode_row(
    schema: &TableSchema,
    bytes: &[u8],
) -> Result<(Option<Position>, Vec<Value>), DecodeError> {
    let columns = decode_columns(bytes)?;
    let bad = |reason| DecodeError { offset: 0, reason };
    let mut hidden = None;
    let mut row = Vec::with_capacity(schema.columns.len());
    for (id, value) in columns {
        if id == HIDDEN_KEY_COLUMN {
            hidden = Some(hidden_position(&value).ok_or(bad("bad hidden key"))?);
        } else if id.get() as usize == row.len() + 1 {
            row.push(value);
        } else {
            return Err(bad("a column is missing"));
        }
    }
    if row.len() != schema.columns.len() || hidden.is_some() != schema.hidden_key() {
        return Err(bad("row does not have the shape of its table"));
    }
    Ok((hidden, row))
}

fn hidden_position(value: &Value) -> Option<Position> {
    match value {
        Value::Integer(position) => u64::try_from(*position).ok().map(Position::new),
        _ => None,
    }
}

/// Payload of a delete event: the columns of the key, enough to find the row again.
pub fn encode_row_key(
    schema: &TableSchema,
    hidden_key: Option<Position>,
    row: &[Value],
    out: &mut Vec<u8>,
) {
    match hidden_key {
        Some(_) => encode_row(hidden_key, &[], out),
        None => {
            let mut ids = schema.primary_key.clone();
            ids.sort_unstable();
            let columns = ids.iter().map(|id| (*id, &row[schema.ordinal(*id)]));
            encode_columns(ids.len(), columns, out);
        }
    }
}

/// The key bytes that [`encode_row_key`]'s payload names.
pub fn decode_row_key(schema: &TableSchema, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let columns = decode_columns(bytes)?;
    let bad = |reason| DecodeError { offset: 0, reason };
    if schema.hidden_key() {
        return match columns.as_slice() {
            [(HIDDEN_KEY_COLUMN, value)] => hidden_position(value)
                .map(|position| crate::query::key::hidden_key(position).to_vec())
                .ok_or(bad("bad hidden key")),
            _ => Err(bad("expected the hidden key alone")),
        };
    }
    if columns.len() != schema.primary_key.len() {
        return Err(bad("expected the columns of the primary key"));
    }
    let mut key = Vec::new();
    for id in &schema.primary_key {
        let found = columns.iter().find(|(column, _)| column == id);
        let (_, value) = found.ok_or(bad("a key column is missing"))?;
        let column_type = schema.column(*id).column_type;
        if value.tag() != column_type.tag() {
            return Err(bad("a key column has another type"));
        }
        crate::query::key::encode_key_value(value, column_type, &mut key);
    }
    Ok(key)
}
