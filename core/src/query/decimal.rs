//! DECIMAL: an integer of up to 38 digits and how many of them stand behind the point.
//!
//! Invariants: |mantissa| < 10^38 and scale ≤ 38, so every value prints exactly and no operation
//! rounds silently but division (half away from zero) and casts to a smaller scale (the same).

use alloc::string::{String, ToString};
use core::cmp::Ordering;
use core::fmt;

pub const DECIMAL_DIGITS_MAX: u8 = 38;

#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    mantissa: i128,
    scale: u8,
}

/// 10^exponent; `exponent` ≤ 38.
fn power(exponent: u8) -> i128 {
    10_i128.pow(u32::from(exponent))
}

impl Decimal {
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };

    /// None when it has more than 38 digits or the scale is above 38.
    #[must_use]
    pub fn new(mantissa: i128, scale: u8) -> Option<Decimal> {
        let fits = scale <= DECIMAL_DIGITS_MAX
            && mantissa.unsigned_abs() < power(DECIMAL_DIGITS_MAX).unsigned_abs();
        fits.then_some(Decimal { mantissa, scale })
    }

    #[must_use]
    pub fn from_i64(value: i64) -> Decimal {
        Decimal { mantissa: i128::from(value), scale: 0 }
    }

    #[must_use]
    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    #[must_use]
    pub fn scale(self) -> u8 {
        self.scale
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// Digits, without sign, point and leading zeros.
    #[must_use]
    pub fn digits(self) -> u8 {
        self.mantissa.unsigned_abs().checked_ilog10().map_or(0, |digits| digits as u8 + 1)
    }

    /// The same number with another scale; rounds half away from zero. None when it does not fit.
    #[must_use]
    pub fn rescale(self, scale: u8) -> Option<Decimal> {
        if scale > DECIMAL_DIGITS_MAX {
            return None;
        }
        if scale >= self.scale {
            let mantissa = self.mantissa.checked_mul(power(scale - self.scale))?;
            return Decimal::new(mantissa, scale);
        }
        let mantissa = divide_rounding(self.mantissa, power(self.scale - scale));
        Decimal::new(mantissa, scale)
    }

    /// The same number with another scale, only if no digit is lost.
    #[must_use]
    pub fn rescale_exact(self, scale: u8) -> Option<Decimal> {
        let rescaled = self.rescale(scale)?;
        (rescaled.compare(self) == Ordering::Equal).then_some(rescaled)
    }

    /// Without trailing zeros behind the point.
    #[must_use]
    pub fn normalize(self) -> Decimal {
        let mut decimal = self;
        while decimal.scale > 0 && decimal.mantissa % 10 == 0 {
            decimal.mantissa /= 10;
            decimal.scale -= 1;
        }
        decimal
    }

    #[must_use]
    pub fn compare(self, other: Decimal) -> Ordering {
        if self.scale == other.scale {
            return self.mantissa.cmp(&other.mantissa);
        }
        // Whole parts first: scaling up the one with fewer places might overflow.
        let (whole, part) = self.split();
        let (other_whole, other_part) = other.split();
        whole.cmp(&other_whole).then_with(|| {
            let scale = self.scale.max(other.scale);
            let part = part * power(scale - self.scale);
            let other_part = other_part * power(scale - other.scale);
            part.cmp(&other_part)
        })
    }

    fn split(self) -> (i128, i128) {
        (self.mantissa / power(self.scale), self.mantissa % power(self.scale))
    }

    #[must_use]
    pub fn checked_add(self, other: Decimal) -> Option<Decimal> {
        let scale = self.scale.max(other.scale);
        let sum = self.rescale(scale)?.mantissa.checked_add(other.rescale(scale)?.mantissa)?;
        Decimal::new(sum, scale)
    }

    #[must_use]
    pub fn checked_neg(self) -> Decimal {
        Decimal { mantissa: -self.mantissa, scale: self.scale }
    }

    /// Scale is the sum of both; when that passes 38 digits, places are rounded away.
    #[must_use]
    pub fn checked_mul(self, other: Decimal) -> Option<Decimal> {
        if let Some(product) = self.mantissa.checked_mul(other.mantissa)
            && self.scale + other.scale <= DECIMAL_DIGITS_MAX
        {
            return Decimal::new(product, self.scale + other.scale);
        }
        let (left, right) = (self.normalize(), other.normalize());
        let product = left.mantissa.checked_mul(right.mantissa)?;
        let scale = left.scale + right.scale;
        if scale <= DECIMAL_DIGITS_MAX {
            return Decimal::new(product, scale);
        }
        let mantissa = divide_rounding(product, power((scale - DECIMAL_DIGITS_MAX).min(38)));
        Decimal::new(mantissa, DECIMAL_DIGITS_MAX)
    }

    /// At least six places more than the inputs have, as far as 38 digits go. None on overflow;
    /// the caller has excluded zero.
    #[must_use]
    pub fn checked_div(self, other: Decimal) -> Option<Decimal> {
        assert!(other.mantissa != 0, "division by zero is refused before");
        let least = self.scale.max(other.scale);
        let mut scale = (least + 6).clamp(16.min(DECIMAL_DIGITS_MAX), DECIMAL_DIGITS_MAX);
        // quotient = (m1 / 10^s1) / (m2 / 10^s2), wanted at `scale` places.
        loop {
            let shift = i32::from(scale) + i32::from(other.scale) - i32::from(self.scale);
            let up = if shift >= 0 { shift as u32 } else { 0 };
            let numerator = 10_i128.checked_pow(up).and_then(|up| self.mantissa.checked_mul(up));
            if let Some(numerator) = numerator {
                let denominator = if shift < 0 {
                    other.mantissa.checked_mul(10_i128.checked_pow((-shift) as u32)?)?
                } else {
                    other.mantissa
                };
                return Decimal::new(divide_rounding(numerator, denominator), scale);
            }
            if scale == 0 {
                return None;
            }
            scale -= 1;
        }
    }

    /// Remainder with the sign of the dividend; the caller has excluded zero.
    #[must_use]
    pub fn checked_rem(self, other: Decimal) -> Option<Decimal> {
        assert!(other.mantissa != 0, "division by zero is refused before");
        let scale = self.scale.max(other.scale);
        let rest = self.rescale(scale)?.mantissa % other.rescale(scale)?.mantissa;
        Decimal::new(rest, scale)
    }

    #[must_use]
    pub fn to_f64(self) -> f64 {
        // Through text: correctly rounded, the same everywhere.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// Exact when it can be; None for NaN, infinities and what does not fit 38 digits.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Decimal> {
        if !value.is_finite() {
            return None;
        }
        Decimal::parse(&alloc::format!("{value}"))
    }

    /// Rounds half away from zero.
    #[must_use]
    pub fn to_i64(self) -> Option<i64> {
        i64::try_from(self.rescale(0)?.mantissa).ok()
    }

    /// `[+-]digits[.digits][e[+-]digits]`, surrounding blanks allowed. None if it is not that, or
    /// does not fit.
    #[must_use]
    pub fn parse(text: &str) -> Option<Decimal> {
        let text = text.trim_ascii();
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (number, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let mut mantissa: i128 = 0;
        for byte in whole.bytes().chain(part.bytes()) {
            if !byte.is_ascii_digit() {
                return None;
            }
            mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(byte - b'0'))?;
        }
        let scale = i64::try_from(part.len()).ok()? - i64::from(exponent);
        let mantissa = if negative { -mantissa } else { mantissa };
        if scale < 0 {
            if mantissa == 0 {
                return Some(Decimal::ZERO);
            }
            let up = 10_i128.checked_pow(u32::try_from(-scale).ok()?)?;
            return Decimal::new(mantissa.checked_mul(up)?, 0);
        }
        Decimal::new(mantissa, u8::try_from(scale).ok()?)
    }
}

fn divide_rounding(numerator: i128, denominator: i128) -> i128 {
    let quotient = numerator / denominator;
    let rest = (numerator % denominator).unsigned_abs();
    if rest >= denominator.unsigned_abs() - rest {
        quotient + if (numerator < 0) == (denominator < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.unsigned_abs().to_string();
        if self.mantissa < 0 {
            f.write_str("-")?;
        }
        let scale = usize::from(self.scale);
        if scale == 0 {
            return f.write_str(&digits);
        }
        let mut padded = String::new();
        padded.extend(core::iter::repeat_n('0', (scale + 1).saturating_sub(digits.len())));
        padded.push_str(&digits);
        let (whole, part) = padded.split_at(padded.len() - scale);
        write!(f, "{whole}.{part}")
    }
}

#[cfg(test)]
mod tests {
    use super::Decimal;
    use alloc::string::ToString;
    use core::cmp::Ordering;

    fn d(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn prints_what_it_reads() {
        for text in
            ["0", "1", "-1", "0.5", "-0.05", "12.340", "99999999999999999999999999999999999999"]
        {
            assert_eq!(d(text).to_string(), text);
        }
        assert_eq!(d("1e3").to_string(), "1000");
        assert_eq!(d("1.5e-3").to_string(), "0.0015");
        for text in
            ["", ".", "-", "1.2.3", "1e", "abc", "1e99", "100000000000000000000000000000000000000"]
        {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        assert_eq!(d("1.10").checked_add(d("2.2")).unwrap().to_string(), "3.30");
        assert_eq!(d("1.5").checked_mul(d("-2.25")).unwrap().to_string(), "-3.375");
        assert_eq!(d("1").checked_div(d("3")).unwrap().to_string(), "0.3333333333333333");
        assert_eq!(d("2").checked_div(d("3")).unwrap().to_string(), "0.6666666666666667");
        assert_eq!(d("7.5").checked_rem(d("2")).unwrap().to_string(), "1.5");
        assert_eq!(d("2.5").rescale(0).unwrap().to_string(), "3");
        assert_eq!(d("-2.5").rescale(0).unwrap().to_string(), "-3");
        assert!(d("99999999999999999999999999999999999999").checked_add(d("1")).is_none());
        assert_eq!(d("1.50").compare(d("1.5")), Ordering::Equal);
        assert_eq!(d("-1.51").compare(d("-1.5")), Ordering::Less);
        assert_eq!(
            d("99999999999999999999999999999999999999")
                .compare(d("0.00000000000000000000000000000000000001")),
            Ordering::Greater
        );
    }
}
