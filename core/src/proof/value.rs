//! Values as commitments hold them: a type tag and bytes. Compared, and made into keys.
//!
//! Invariants: one value has one encoding, and what is not that encoding is refused; the order of
//! [`compare`] is that of keys.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::Reject;
use crate::limits::ROW_SIZE_MAX;
use crate::stdx::cbor::{DecodeError, Decoder, Encoder};

pub const NULL: u8 = 0;
pub const BOOLEAN: u8 = 1;
pub const INTEGER: u8 = 2;
pub const DOUBLE: u8 = 3;
pub const DECIMAL: u8 = 4;
pub const TEXT: u8 = 5;
pub const BLOB: u8 = 6;
pub const DATE: u8 = 7;
pub const TIMESTAMP: u8 = 8;
pub const UUID: u8 = 9;
pub const JSON: u8 = 10;

/// `docs/PROOFS.md`, "Commitments", has the bytes of each type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub tag: u8,
    pub bytes: Vec<u8>,
}

impl Value {
    #[must_use]
    pub const fn null() -> Value {
        Value { tag: NULL, bytes: Vec::new() }
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(2).uint(u64::from(self.tag)).bytes(&self.bytes);
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        decoder.record(2)?;
        Value::decode_fields(decoder)
    }

    /// Tag and bytes, without the array around them.
    pub(super) fn decode_fields(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        let tag = decoder.u8()?;
        let bytes = decoder.bytes()?;
        if !well_formed(tag, bytes) {
            return decoder.error("not a value of its type");
        }
        Ok(Value { tag, bytes: bytes.to_vec() })
    }
}

fn well_formed(tag: u8, bytes: &[u8]) -> bool {
    match tag {
        NULL => bytes.is_empty(),
        BOOLEAN => matches!(bytes, [0 | 1]),
        INTEGER | TIMESTAMP => bytes.len() == 8,
        DOUBLE => <[u8; 8]>::try_from(bytes).is_ok_and(|bytes| {
            let bits = u64::from_be_bytes(bytes);
            !f64::from_bits(bits).is_nan() || bits == 0x7ff8_0000_0000_0000
        }),
        DECIMAL => bytes.len() == 17 && bytes[0] <= 38,
        TEXT | JSON => bytes.len() <= ROW_SIZE_MAX && core::str::from_utf8(bytes).is_ok(),
        BLOB => bytes.len() <= ROW_SIZE_MAX,
        DATE => bytes.len() == 4,
        UUID => bytes.len() == 16,
        _ => false,
    }
}

/// `None`: one of them is NULL. Both must have one type that compares, decimals one scale.
pub(super) fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, Reject> {
    if left.tag == NULL || right.tag == NULL {
        return Ok(None);
    }
    let scales = left.tag == DECIMAL && left.bytes[0] != right.bytes.first().copied().unwrap_or(0);
    if left.tag != right.tag || left.tag == JSON || scales {
        return Err(Reject::QueryMeaningless { reason: "values of two types are compared" });
    }
    Ok(Some(sortable(left).cmp(&sortable(right))))
}

/// Bytes whose order is that of the values of one type.
fn sortable(value: &Value) -> Vec<u8> {
    let mut bytes = value.bytes.clone();
    match value.tag {
        INTEGER | TIMESTAMP | DATE => bytes[0] ^= 0x80,
        DECIMAL => {
            bytes.remove(0);
            bytes[0] ^= 0x80;
        }
        DOUBLE => {
            let mut raw = [0; 8];
            raw.copy_from_slice(&bytes);
            let mut bits = u64::from_be_bytes(raw);
            if f64::from_bits(bits).is_nan() {
                bits = 0x7fff_ffff_ffff_ffff;
            } else if bits == 1 << 63 {
                bits = 0; // −0.0 compares as 0.0.
            }
            let ordered = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
            bytes = ordered.to_be_bytes().to_vec();
        }
        _ => {}
    }
    bytes
}

/// Appends a column of a key: `docs/PROOFS.md`, "Keys of rows". `scale`: of a DECIMAL column.
pub(super) fn push_key(value: &Value, tag: u8, scale: u8, key: &mut Vec<u8>) -> Result<(), Reject> {
    if value.tag == NULL {
        key.push(0);
        return Ok(());
    }
    if value.tag != tag || (tag == DECIMAL && value.bytes[0] != scale) {
        return Err(Reject::WrongType);
    }
    key.push(1);
    match tag {
        TEXT | BLOB | JSON => {
            for byte in &value.bytes {
                key.push(*byte);
                if *byte == 0 {
                    key.push(0xff);
                }
            }
            key.extend_from_slice(&[0, 1]);
        }
        _ => key.extend_from_slice(&sortable(value)),
    }
    Ok(())
}
