//! Rows as they lie in the trees of current rows and of history: any column without the others.
//!
//! ```text
//! begun_at u64 | record_hash [32] | commitment [32] | wide u8 | columns u16
//! | ends: (u16 or, when wide, u32) x columns | bytes of column 0 | bytes of column 1 | …
//! ```
//!
//! Little endian. `ends[i]` is where column i ends, counted from the first column's byte. A column
//! of no bytes is NULL; else its first byte is its [`TypeTag`]. Integers and decimals drop the
//! leading bytes that only repeat the sign.
//!
//! Fault model: pages are authenticated before they get here, so a malformed row is a bug and
//! asserted.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::ids::Position;
use crate::limits::COLUMNS_MAX;
use crate::query::decimal::Decimal;
use crate::query::value::{Incomparable, TypeTag, Value, canonical_bits};

pub const STORED_PREFIX_SIZE: usize = 8 + 32 + 32;
const HEADER_SIZE: usize = STORED_PREFIX_SIZE + 1 + 2;

/// What a row knows of the event that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoredPrefix {
    /// Position of that event.
    pub begun_at: Position,
    /// Its chain hash.
    pub record_hash: [u8; 32],
    pub commitment: [u8; 32],
}

/// Appends a row. `columns` are its values in the order of the schema.
pub fn encode_stored(prefix: &StoredPrefix, columns: &[Value], out: &mut Vec<u8>) {
    assert!(columns.len() <= COLUMNS_MAX, "the schema is bounded");
    out.extend_from_slice(&prefix.begun_at.get().to_le_bytes());
    out.extend_from_slice(&prefix.record_hash);
    out.extend_from_slice(&prefix.commitment);
    let most: usize = columns.iter().map(|value| 18 + value.heap_bytes()).sum();
    let wide = most > usize::from(u16::MAX);
    out.push(u8::from(wide));
    out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
    let width = if wide { 4 } else { 2 };
    let mut slot = out.len();
    out.resize(slot + width * columns.len(), 0);
    let start = out.len();
    for value in columns {
        encode_column(value, out);
        let end = out.len() - start;
        if wide {
            out[slot..slot + 4].copy_from_slice(&(end as u32).to_le_bytes());
        } else {
            out[slot..slot + 2].copy_from_slice(&(end as u16).to_le_bytes());
        }
        slot += width;
    }
}

/// Sets what was not known when the row was encoded.
pub fn set_record_hash(stored: &mut [u8], hash: &[u8; 32]) {
    stored[8..40].copy_from_slice(hash);
}

fn encode_column(value: &Value, out: &mut Vec<u8>) {
    if value.is_null() {
        return;
    }
    out.push(value.tag() as u8);
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Integer(value) | Value::Timestamp(value) => {
            out.extend_from_slice(trim_sign(&value.to_le_bytes()));
        }
        Value::Double(value) => out.extend_from_slice(&canonical_bits(*value).to_le_bytes()),
        Value::Decimal(value) => {
            out.push(value.scale());
            out.extend_from_slice(trim_sign(&value.mantissa().to_le_bytes()));
        }
        Value::Text(text) | Value::Json(text) => out.extend_from_slice(text.as_bytes()),
        Value::Blob(bytes) => out.extend_from_slice(bytes),
        Value::Date(days) => out.extend_from_slice(&days.to_le_bytes()),
        Value::Uuid(bytes) => out.extend_from_slice(bytes),
    }
}

/// Without the high bytes that the sign implies.
fn trim_sign(bytes: &[u8]) -> &[u8] {
    let mut size = bytes.len();
    while size > 1 {
        let (high, next) = (bytes[size - 1], bytes[size - 2]);
        let implied = if next & 0x80 == 0 { 0 } else { 0xff };
        if high != implied {
            break;
        }
        size -= 1;
    }
    &bytes[..size]
}

fn extend_sign<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let Some(high) = bytes.last() else { unreachable!("an integer has a byte") };
    let mut out = if high & 0x80 == 0 { [0; SIZE] } else { [0xff; SIZE] };
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// Are these bytes those of a row? Then [`StoredRow`] reads any column of it. For pages that
/// whoever sealed them may have made up.
#[must_use]
pub fn is_stored_row(bytes: &[u8]) -> bool {
    let Some((fixed, rest)) = bytes.split_at_checked(HEADER_SIZE) else { return false };
    let columns = usize::from(u16::from_le_bytes([
        fixed[STORED_PREFIX_SIZE + 1],
        fixed[STORED_PREFIX_SIZE + 2],
    ]));
    let width = match fixed[STORED_PREFIX_SIZE] {
        0 => 2,
        1 => 4,
        _ => return false,
    };
    let Some((ends, rest)) = rest.split_at_checked(width * columns) else { return false };
    let mut from = 0;
    for end in ends.chunks_exact(width) {
        let end = end.iter().rev().fold(0, |end, byte| (end << 8) | usize::from(*byte));
        if !rest.get(from..end).is_some_and(is_column) {
            return false;
        }
        from = end;
    }
    columns <= COLUMNS_MAX && from == rest.len()
}

fn is_column(bytes: &[u8]) -> bool {
    let Some((tag, bytes)) = bytes.split_first() else { return true };
    match TypeTag::from_u8(*tag) {
        None | Some(TypeTag::Null) => false,
        Some(TypeTag::Boolean) => bytes.len() == 1,
        Some(TypeTag::Integer | TypeTag::Timestamp) => (1..=8).contains(&bytes.len()),
        Some(TypeTag::Double) => bytes.len() == 8,
        Some(TypeTag::Decimal) => bytes.split_first().is_some_and(|(scale, mantissa)| {
            (1..=16).contains(&mantissa.len())
                && Decimal::new(i128::from_le_bytes(extend_sign(mantissa)), *scale).is_some()
        }),
        Some(TypeTag::Text | TypeTag::Json) => core::str::from_utf8(bytes).is_ok(),
        Some(TypeTag::Blob) => true,
        Some(TypeTag::Date) => bytes.len() == 4,
        Some(TypeTag::Uuid) => bytes.len() == 16,
    }
}

/// A row in a tree's page.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    bytes: &'a [u8],
    /// What columns have that the table gained since the row was written, by place.
    initial: &'a [Value],
}

impl<'a> StoredRow<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> StoredRow<'a> {
        assert!(bytes.len() >= HEADER_SIZE, "a stored row has its header");
        StoredRow { bytes, initial: &[] }
    }

    /// `TableSchema::initial_values`.
    #[must_use]
    pub fn with_initial(self, initial: &'a [Value]) -> StoredRow<'a> {
        StoredRow { initial, ..self }
    }

    #[must_use]
    pub fn begun_at(self) -> Position {
        Position::new(u64::from_le_bytes(self.array(0)))
    }

    #[must_use]
    pub fn prefix(self) -> StoredPrefix {
        StoredPrefix {
            begun_at: self.begun_at(),
            record_hash: self.array(8),
            commitment: self.array(40),
        }
    }

    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    fn array<const SIZE: usize>(self, at: usize) -> [u8; SIZE] {
        let Ok(array) = self.bytes[at..at + SIZE].try_into() else {
            unreachable!("the slice has that size")
        };
        array
    }

    fn wide(self) -> bool {
        self.bytes[STORED_PREFIX_SIZE] != 0
    }

    /// Columns it was written with; the table may have gained some since.
    #[must_use]
    pub fn column_count(self) -> usize {
        usize::from(u16::from_le_bytes(self.array(STORED_PREFIX_SIZE + 1)))
    }

    fn end(self, ordinal: usize) -> usize {
        if self.wide() {
            u32::from_le_bytes(self.array(HEADER_SIZE + 4 * ordinal)) as usize
        } else {
            usize::from(u16::from_le_bytes(self.array(HEADER_SIZE + 2 * ordinal)))
        }
    }

    /// One column, without looking at the others. Beyond those it was written with, what the table
    /// gave such rows, or NULL.
    #[must_use]
    pub fn column(self, ordinal: usize) -> ValueRef<'a> {
        let count = self.column_count();
        if ordinal >= count {
            return self.initial.get(ordinal).map_or(ValueRef::Null, ValueRef::of);
        }
        let width = if self.wide() { 4 } else { 2 };
        let start = HEADER_SIZE + width * count;
        let from = if ordinal == 0 { 0 } else { self.end(ordinal - 1) };
        decode_column(&self.bytes[start + from..start + self.end(ordinal)])
    }

    /// All columns.
    #[must_use]
    pub fn values(self) -> Vec<Value> {
        (0..self.column_count()).map(|ordinal| self.column(ordinal).to_value()).collect()
    }
}

/// A value that borrows from a page.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Decimal(Decimal),
    Text(&'a str),
    Blob(&'a [u8]),
    Date(i32),
    Timestamp(i64),
    Uuid([u8; 16]),
    Json(&'a str),
}

fn decode_column(bytes: &[u8]) -> ValueRef<'_> {
    let Some((tag, bytes)) = bytes.split_first() else { return ValueRef::Null };
    let Some(tag) = TypeTag::from_u8(*tag) else {
        unreachable!("stored columns have a known type")
    };
    let text = |bytes| match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => unreachable!("text is UTF-8 before it is stored"),
    };
    match tag {
        TypeTag::Null => ValueRef::Null,
        TypeTag::Boolean => ValueRef::Boolean(bytes[0] != 0),
        TypeTag::Integer => ValueRef::Integer(i64::from_le_bytes(extend_sign(bytes))),
        TypeTag::Timestamp => ValueRef::Timestamp(i64::from_le_bytes(extend_sign(bytes))),
        TypeTag::Double => ValueRef::Double(f64::from_bits(u64::from_le_bytes(exact(bytes)))),
        TypeTag::Decimal => {
            let mantissa = i128::from_le_bytes(extend_sign(&bytes[1..]));
            let Some(decimal) = Decimal::new(mantissa, bytes[0]) else {
                unreachable!("decimals fit before they are stored")
            };
            ValueRef::Decimal(decimal)
        }
        TypeTag::Text => ValueRef::Text(text(bytes)),
        TypeTag::Json => ValueRef::Json(text(bytes)),
        TypeTag::Blob => ValueRef::Blob(bytes),
        TypeTag::Date => ValueRef::Date(i32::from_le_bytes(exact(bytes))),
        TypeTag::Uuid => ValueRef::Uuid(exact(bytes)),
    }
}

fn exact<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let Ok(array) = bytes.try_into() else { unreachable!("stored columns have their size") };
    array
}

impl<'a> ValueRef<'a> {
    #[must_use]
    pub fn of(value: &'a Value) -> ValueRef<'a> {
        match value {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Boolean(*value),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Double(value) => ValueRef::Double(*value),
            Value::Decimal(value) => ValueRef::Decimal(*value),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
            Value::Date(days) => ValueRef::Date(*days),
            Value::Timestamp(ns) => ValueRef::Timestamp(*ns),
            Value::Uuid(bytes) => ValueRef::Uuid(*bytes),
            Value::Json(text) => ValueRef::Json(text),
        }
    }
}

impl ValueRef<'_> {
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Boolean(value) => Value::Boolean(value),
            ValueRef::Integer(value) => Value::Integer(value),
            ValueRef::Double(value) => Value::Double(value),
            ValueRef::Decimal(value) => Value::Decimal(value),
            ValueRef::Text(text) => Value::Text(text.to_owned()),
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
            ValueRef::Date(days) => Value::Date(days),
            ValueRef::Timestamp(ns) => Value::Timestamp(ns),
            ValueRef::Uuid(bytes) => Value::Uuid(bytes),
            ValueRef::Json(text) => Value::Json(text.to_owned()),
        }
    }

    #[must_use]
    pub fn is_null(self) -> bool {
        matches!(self, ValueRef::Null)
    }

    /// As [`Value::compare`], without a copy in the common cases.
    pub fn compare(self, other: &Value) -> Result<Option<Ordering>, Incomparable> {
        match (self, other) {
            (ValueRef::Null, _) | (_, Value::Null) => Ok(None),
            (ValueRef::Integer(left), Value::Integer(right)) => Ok(Some(left.cmp(right))),
            (ValueRef::Text(left), Value::Text(right)) => Ok(Some(left.cmp(right.as_str()))),
            (ValueRef::Blob(left), Value::Blob(right)) => Ok(Some(left.cmp(right.as_slice()))),
            (left, right) => left.to_value().compare(right),
        }
    }
}
