//! Deterministic CBOR (RFC 8949 §4.2.1): the one encoding of commands, schemas and record payloads.
//!
//! Invariants: the encoder writes only shortest heads, definite lengths and shortest floats; the
//! decoder accepts *only* that, so one value has one encoding and `encode(decode(x)) == x`. General
//! libraries decode leniently, which is why this strict reader is our own.
//!
//! Fault model: input may be any bytes. Every answer is a typed error; no length is believed before
//! it is compared with the bytes that remain, so nothing is allocated on a sender's word.

use alloc::vec::Vec;
use core::fmt;

pub const MAJOR_UNSIGNED: u8 = 0;
pub const MAJOR_NEGATIVE: u8 = 1;
pub const MAJOR_BYTES: u8 = 2;
pub const MAJOR_TEXT: u8 = 3;
pub const MAJOR_ARRAY: u8 = 4;
pub const MAJOR_MAP: u8 = 5;
pub const MAJOR_TAG: u8 = 6;
pub const MAJOR_SIMPLE: u8 = 7;

/// Tags of values that CBOR has no type of its own for (IANA, "CBOR Tags").
pub const TAG_BIGNUM: u64 = 2;
pub const TAG_NEGATIVE_BIGNUM: u64 = 3;
pub const TAG_DECIMAL: u64 = 4;
pub const TAG_UUID: u64 = 37;
pub const TAG_DATE: u64 = 100;
pub const TAG_JSON: u64 = 262;
pub const TAG_TIMESTAMP: u64 = 1001;

const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const HALF: u8 = 0xf9;
const SINGLE: u8 = 0xfa;
const DOUBLE: u8 = 0xfb;

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where in the input.
    pub offset: usize,
    pub reason: &'static str,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.reason)
    }
}

impl core::error::Error for DecodeError {}

/// Appends CBOR to a buffer.
#[derive(Debug)]
pub struct Encoder<'a> {
    pub out: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Encoder<'a> {
        Encoder { out }
    }

    #[inline]
    pub fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        if value < 24 {
            self.out.push(major | value as u8);
        } else if value <= 0xff {
            self.out.extend_from_slice(&[major | 24, value as u8]);
        } else if value <= 0xffff {
            self.out.push(major | 25);
            self.out.extend_from_slice(&(value as u16).to_be_bytes());
        } else if value <= 0xffff_ffff {
            self.out.push(major | 26);
            self.out.extend_from_slice(&(value as u32).to_be_bytes());
        } else {
            self.out.push(major | 27);
            self.out.extend_from_slice(&value.to_be_bytes());
        }
        self
    }

    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(MAJOR_UNSIGNED, value)
    }

    pub fn int(&mut self, value: i64) -> &mut Self {
        if value >= 0 {
            self.head(MAJOR_UNSIGNED, value as u64)
        } else {
            self.head(MAJOR_NEGATIVE, !value as u64)
        }
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(MAJOR_BYTES, value.len() as u64);
        self.out.extend_from_slice(value);
        self
    }

    pub fn text(&mut self, value: &str) -> &mut Self {
        self.head(MAJOR_TEXT, value.len() as u64);
        self.out.extend_from_slice(value.as_bytes());
        self
    }

    pub fn array(&mut self, count: usize) -> &mut Self {
        self.head(MAJOR_ARRAY, count as u64)
    }

    pub fn map(&mut self, count: usize) -> &mut Self {
        self.head(MAJOR_MAP, count as u64)
    }

    pub fn tag(&mut self, tag: u64) -> &mut Self {
        self.head(MAJOR_TAG, tag)
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.out.push(if value { TRUE } else { FALSE });
        self
    }

    pub fn null(&mut self) -> &mut Self {
        self.out.push(NULL);
        self
    }

    /// The shortest of half, single and double that keeps the value; NaN is `f97e00`.
    pub fn double(&mut self, value: f64) -> &mut Self {
        match shortest(value) {
            Float::Half(bits) => {
                self.out.push(HALF);
                self.out.extend_from_slice(&bits.to_be_bytes());
            }
            Float::Single(bits) => {
                self.out.push(SINGLE);
                self.out.extend_from_slice(&bits.to_be_bytes());
            }
            Float::Double(bits) => {
                self.out.push(DOUBLE);
                self.out.extend_from_slice(&bits.to_be_bytes());
            }
        }
        self
    }

    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.null();
            }
        }
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Float {
    Half(u16),
    Single(u32),
    Double(u64),
}

fn shortest(value: f64) -> Float {
    if value.is_nan() {
        return Float::Half(0x7e00);
    }
    let single = value as f32;
    if f64::from(single).to_bits() != value.to_bits() {
        return Float::Double(value.to_bits());
    }
    let bits = single.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let exponent = ((bits >> 23) & 0xff) as i32 - 127;
    let mantissa = bits & 0x7f_ffff;
    match exponent {
        -127 if mantissa == 0 => Float::Half(sign),
        128 => Float::Half(sign | 0x7c00),
        -14..=15 if mantissa & 0x1fff == 0 => {
            Float::Half(sign | (((exponent + 15) as u16) << 10) | (mantissa >> 13) as u16)
        }
        -24..=-15 => {
            // A subnormal half: the implicit one becomes explicit and moves right.
            let shift = (-exponent - 1) as u32;
            let full = mantissa | 0x80_0000;
            if full.trailing_zeros() >= shift {
                Float::Half(sign | (full >> shift) as u16)
            } else {
                Float::Single(bits)
            }
        }
        _ => Float::Single(bits),
    }
}

fn half_to_double(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = u64::from((bits >> 10) & 0x1f);
    let mantissa = u64::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => mantissa as f64 / 16_777_216.0,
        31 if mantissa == 0 => f64::INFINITY,
        31 => f64::NAN,
        _ => f64::from_bits(((exponent + 1008) << 52) | (mantissa << 42)),
    };
    sign * magnitude
}

/// Reads deterministic CBOR and nothing else.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { bytes, at: 0 }
    }

    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What lies between an earlier [`Decoder::offset`] and here.
    #[must_use]
    pub fn since(&self, offset: usize) -> &'a [u8] {
        &self.bytes[offset..self.at]
    }

    pub fn error<T>(&self, reason: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { offset: self.at, reason })
    }

    /// Everything must have been read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { self.error("bytes follow the end") }
    }

    /// Major type and the low five bits of the next item.
    pub fn peek(&self) -> Result<(u8, u8), DecodeError> {
        match self.bytes.get(self.at) {
            Some(byte) => Ok((byte >> 5, byte & 0x1f)),
            None => self.error("input ends early"),
        }
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        self.bytes.get(self.at) == Some(&NULL)
    }

    #[must_use]
    pub fn is_bytes(&self) -> bool {
        self.bytes.get(self.at).is_some_and(|byte| byte >> 5 == MAJOR_BYTES)
    }

    /// Does an array begin here?
    #[must_use]
    pub fn is_array(&self) -> bool {
        self.bytes.get(self.at).is_some_and(|byte| byte >> 5 == MAJOR_ARRAY)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        if count > self.remaining() {
            return self.error("input ends early");
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    #[inline]
    pub fn head(&mut self) -> Result<(u8, u64), DecodeError> {
        let start = self.at;
        let (major, low) = self.peek()?;
        self.at += 1;
        let size = match low {
            0..24 => return Ok((major, u64::from(low))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            28.. => return Err(DecodeError { offset: start, reason: "indefinite or reserved" }),
        };
        let value = self.take(size)?.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let minimum = match size {
            1 => 24,
            2 => 0x100,
            4 => 0x1_0000,
            _ => 0x1_0000_0000,
        };
        if major != MAJOR_SIMPLE && value < minimum {
            return Err(DecodeError { offset: start, reason: "head is not the shortest" });
        }
        Ok((major, value))
    }

    fn expect(&mut self, major: u8, reason: &'static str) -> Result<u64, DecodeError> {
        let start = self.at;
        let (found, value) = self.head()?;
        if found == major { Ok(value) } else { Err(DecodeError { offset: start, reason }) }
    }

    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        self.expect(MAJOR_UNSIGNED, "expected an unsigned integer")
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let start = self.at;
        u32::try_from(self.uint()?).map_err(|_| DecodeError { offset: start, reason: "above u32" })
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        let start = self.at;
        u16::try_from(self.uint()?).map_err(|_| DecodeError { offset: start, reason: "above u16" })
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let start = self.at;
        u8::try_from(self.uint()?).map_err(|_| DecodeError { offset: start, reason: "above u8" })
    }

    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let start = self.at;
        let (major, value) = self.head()?;
        let value =
            i64::try_from(value).map_err(|_| DecodeError { offset: start, reason: "above i64" })?;
        match major {
            MAJOR_UNSIGNED => Ok(value),
            MAJOR_NEGATIVE => Ok(!value),
            _ => Err(DecodeError { offset: start, reason: "expected an integer" }),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = self.expect(MAJOR_BYTES, "expected a byte string")?;
        self.take(usize::try_from(size).unwrap_or(usize::MAX))
    }

    pub fn fixed<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], DecodeError> {
        let start = self.at;
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| DecodeError { offset: start, reason: "wrong size" })
    }

    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let size = self.expect(MAJOR_TEXT, "expected a text string")?;
        let start = self.at;
        let bytes = self.take(usize::try_from(size).unwrap_or(usize::MAX))?;
        core::str::from_utf8(bytes)
            .map_err(|_| DecodeError { offset: start, reason: "text is not UTF-8" })
    }

    /// Number of items; each takes at least one byte, so this never exceeds what remains.
    pub fn array(&mut self) -> Result<usize, DecodeError> {
        let count = self.expect(MAJOR_ARRAY, "expected an array")?;
        self.count(count)
    }

    /// Number of pairs.
    pub fn map(&mut self) -> Result<usize, DecodeError> {
        let count = self.expect(MAJOR_MAP, "expected a map")?;
        self.count(count.saturating_mul(2)).map(|items| items / 2)
    }

    fn count(&self, count: u64) -> Result<usize, DecodeError> {
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() => Ok(count),
            _ => self.error("more items than bytes"),
        }
    }

    /// An array of exactly this many items: a record.
    pub fn record(&mut self, count: usize) -> Result<(), DecodeError> {
        let start = self.at;
        if self.array()? == count {
            Ok(())
        } else {
            Err(DecodeError { offset: start, reason: "record has another number of fields" })
        }
    }

    pub fn tag(&mut self) -> Result<u64, DecodeError> {
        self.expect(MAJOR_TAG, "expected a tag")
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.bytes.get(self.at) {
            Some(&FALSE) => {
                self.at += 1;
                Ok(false)
            }
            Some(&TRUE) => {
                self.at += 1;
                Ok(true)
            }
            Some(_) | None => self.error("expected a boolean"),
        }
    }

    pub fn null(&mut self) -> Result<(), DecodeError> {
        if self.is_null() {
            self.at += 1;
            Ok(())
        } else {
            self.error("expected null")
        }
    }

    pub fn double(&mut self) -> Result<f64, DecodeError> {
        let start = self.at;
        let first = *self.take(1)?.first().unwrap_or(&0);
        let (value, found) = match first {
            HALF => {
                let bits = u16::from_be_bytes(self.array_of()?);
                (half_to_double(bits), Float::Half(bits))
            }
            SINGLE => {
                let bits = u32::from_be_bytes(self.array_of()?);
                (f64::from(f32::from_bits(bits)), Float::Single(bits))
            }
            DOUBLE => {
                let bits = u64::from_be_bytes(self.array_of()?);
                (f64::from_bits(bits), Float::Double(bits))
            }
            _ => return Err(DecodeError { offset: start, reason: "expected a float" }),
        };
        if shortest(value) == found {
            Ok(value)
        } else {
            Err(DecodeError { offset: start, reason: "float is not the shortest" })
        }
    }

    fn array_of<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], DecodeError> {
        let bytes = self.take(SIZE)?;
        let Ok(array) = bytes.try_into() else { unreachable!("take gives what was asked") };
        Ok(array)
    }

    /// Passes over one item and all in it, without recursion.
    pub fn skip(&mut self) -> Result<(), DecodeError> {
        let mut left = 1_usize;
        while left > 0 {
            left -= 1;
            match self.peek()? {
                (MAJOR_BYTES, _) => drop(self.bytes()?),
                (MAJOR_TEXT, _) => drop(self.text()?),
                (MAJOR_ARRAY, _) => left += self.array()?,
                (MAJOR_MAP, _) => left += 2 * self.map()?,
                (MAJOR_TAG, _) => {
                    self.tag()?;
                    left += 1;
                }
                (MAJOR_SIMPLE, 24..) => drop(self.double()?),
                (_, _) => drop(self.head()?),
            }
        }
        Ok(())
    }

    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.is_null() {
            self.at += 1;
            Ok(None)
        } else {
            read(self).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Encoder};
    use alloc::vec::Vec;

    fn double(value: f64) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out).double(value);
        out
    }

    /// RFC 8949, appendix A.
    #[test]
    fn floats_are_the_shortest() {
        assert_eq!(double(0.0), [0xf9, 0, 0]);
        assert_eq!(double(-0.0), [0xf9, 0x80, 0]);
        assert_eq!(double(1.0), [0xf9, 0x3c, 0]);
        assert_eq!(double(1.5), [0xf9, 0x3e, 0]);
        assert_eq!(double(65504.0), [0xf9, 0x7b, 0xff]);
        assert_eq!(double(100_000.0), [0xfa, 0x47, 0xc3, 0x50, 0]);
        assert_eq!(double(5.960_464_477_539_063e-8), [0xf9, 0, 1]);
        assert_eq!(double(0.000_061_035_156_25), [0xf9, 4, 0]);
        assert_eq!(double(1.1), [0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a]);
        assert_eq!(double(f64::INFINITY), [0xf9, 0x7c, 0]);
        assert_eq!(double(f64::NAN), [0xf9, 0x7e, 0]);
        for bits in 0..=u16::MAX {
            let value = super::half_to_double(bits);
            if !value.is_nan() {
                assert_eq!(double(value)[1..], bits.to_be_bytes());
                assert_eq!(
                    Decoder::new(&double(value)).double().unwrap().to_bits(),
                    value.to_bits()
                );
            }
        }
    }

    #[test]
    fn lenient_encodings_are_refused() {
        assert!(Decoder::new(&[0x18, 23]).uint().is_err());
        assert!(Decoder::new(&[0x19, 0, 255]).uint().is_err());
        assert!(Decoder::new(&[0x5f]).bytes().is_err());
        assert!(Decoder::new(&[0x9a, 255, 255, 255, 255]).array().is_err());
        assert!(Decoder::new(&[0xfa, 0x3f, 0x80, 0, 0]).double().is_err());
        assert!(Decoder::new(&[0x62, 0xff, 0xff]).text().is_err());
        assert!(Decoder::new(&[0x3b, 0xff, 255, 255, 255, 255, 255, 255, 255]).int().is_err());
    }

    #[test]
    fn integers_round_trip() {
        for value in [0, 1, -1, 23, 24, -24, -25, 255, 256, 65_535, 65_536, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            Encoder::new(&mut out).int(value);
            assert_eq!(Decoder::new(&out).int(), Ok(value));
        }
    }
}
