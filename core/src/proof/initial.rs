//! A value as a schema writes it, in the CBOR of its type, made into one as commitments hold it.
//!
//! Rows from before a column was added have such a value in it, which no record ever held: the
//! proved schema is what says it. Bytes: docs/PROOFS.md, "Columns added later".
//!
//! Fault model: bytes of a stranger; what has no meaning is refused.

use alloc::vec::Vec;

use super::value::{self, Value};
use crate::stdx::cbor::{
    DecodeError, Decoder, MAJOR_BYTES, MAJOR_NEGATIVE, MAJOR_SIMPLE, MAJOR_TAG, MAJOR_TEXT,
    MAJOR_UNSIGNED, TAG_BIGNUM, TAG_DATE, TAG_DECIMAL, TAG_JSON, TAG_NEGATIVE_BIGNUM,
    TAG_TIMESTAMP, TAG_UUID,
};

const NS_PER_SECOND: i128 = 1_000_000_000;
const NAN: u64 = 0x7ff8_0000_0000_0000;

pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    let (tag, bytes) = match decoder.peek()? {
        (MAJOR_UNSIGNED | MAJOR_NEGATIVE, _) => {
            (value::INTEGER, decoder.int()?.to_be_bytes().to_vec())
        }
        (MAJOR_TEXT, _) => (value::TEXT, decoder.text()?.as_bytes().to_vec()),
        (MAJOR_BYTES, _) => (value::BLOB, decoder.bytes()?.to_vec()),
        (MAJOR_SIMPLE, 20 | 21) => (value::BOOLEAN, Vec::from([u8::from(decoder.bool()?)])),
        (MAJOR_SIMPLE, 22) => {
            decoder.null()?;
            (value::NULL, Vec::new())
        }
        (MAJOR_SIMPLE, _) => {
            let found = decoder.double()?;
            let bits = if found.is_nan() { NAN } else { found.to_bits() };
            (value::DOUBLE, bits.to_be_bytes().to_vec())
        }
        (MAJOR_TAG, _) => tagged(decoder)?,
        _ => return decoder.error("not a value"),
    };
    Ok(Value { tag, bytes })
}

fn tagged(decoder: &mut Decoder<'_>) -> Result<(u8, Vec<u8>), DecodeError> {
    Ok(match decoder.tag()? {
        TAG_DECIMAL => {
            decoder.record(2)?;
            let scale = decoder.int()?.checked_neg().and_then(|scale| u8::try_from(scale).ok());
            let Some(scale) = scale.filter(|scale| *scale <= 38) else {
                return decoder.error("a decimal of another scale");
            };
            let mut bytes = Vec::from([scale]);
            bytes.extend_from_slice(&mantissa(decoder)?.to_be_bytes());
            (value::DECIMAL, bytes)
        }
        TAG_DATE => match i32::try_from(decoder.int()?) {
            Ok(days) => (value::DATE, days.to_be_bytes().to_vec()),
            Err(_) => return decoder.error("a date out of range"),
        },
        TAG_TIMESTAMP => {
            let parts = decoder.map()?;
            let key = decoder.int()?;
            let mut ns = i128::from(decoder.int()?) * NS_PER_SECOND;
            let mut good = key == 1;
            if parts == 2 {
                good &= decoder.int()? == -9;
                ns += i128::from(decoder.int()?);
            }
            match i64::try_from(ns) {
                Ok(ns) if good && parts <= 2 => (value::TIMESTAMP, ns.to_be_bytes().to_vec()),
                Ok(_) | Err(_) => return decoder.error("not a timestamp"),
            }
        }
        TAG_UUID => (value::UUID, decoder.fixed::<16>()?.to_vec()),
        TAG_JSON => (value::JSON, decoder.bytes()?.to_vec()),
        _ => return decoder.error("not a value"),
    })
}

fn mantissa(decoder: &mut Decoder<'_>) -> Result<i128, DecodeError> {
    match decoder.head()? {
        (MAJOR_UNSIGNED, value) => Ok(i128::from(value)),
        (MAJOR_NEGATIVE, value) => Ok(!i128::from(value)),
        (MAJOR_TAG, tag @ (TAG_BIGNUM | TAG_NEGATIVE_BIGNUM)) => {
            let bytes = decoder.bytes()?;
            if bytes.len() > 16 {
                return decoder.error("a mantissa out of range");
            }
            let magnitude = bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
            match i128::try_from(magnitude) {
                Ok(value) => Ok(if tag == TAG_BIGNUM { value } else { !value }),
                Err(_) => decoder.error("a mantissa out of range"),
            }
        }
        _ => decoder.error("not a mantissa"),
    }
}
