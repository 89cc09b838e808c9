//! Column types from the text of a whole CSV file.
//!
//! Invariants: a type is chosen only if *every* non-empty field of the column reads as it and
//! writes back as what a person would call the same value: digits with a leading zero (postal
//! codes, codes of any kind) stay TEXT. An empty field is NULL and decides nothing; a column of
//! empty fields is TEXT. Inference reads everything once and keeps a few bytes a column.

use verity::{ColumnType, Value};
use verity_core::query::datetime::{parse_date, parse_timestamp};
use verity_core::query::decimal::Decimal;
use verity_core::query::value::parse_uuid;

/// Significant digits that every double keeps: written back, they are the same.
const DOUBLE_DIGITS_MAX: usize = 15;

/// From `--types`; the names of SQL.
pub fn parse_type(name: &str) -> Option<ColumnType> {
    let upper = name.trim().to_ascii_uppercase();
    if let Some(arguments) = upper.strip_prefix("DECIMAL(").and_then(|rest| rest.strip_suffix(')'))
    {
        let (precision, scale) = arguments.split_once(',')?;
        let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        let valid = (1..=38).contains(&precision) && scale <= precision;
        return valid.then_some(ColumnType::Decimal { precision, scale });
    }
    Some(match upper.as_str() {
        "BOOLEAN" | "BOOL" => ColumnType::Boolean,
        "SMALLINT" => ColumnType::SmallInt,
        "INTEGER" | "INT" => ColumnType::Integer,
        "BIGINT" => ColumnType::BigInt,
        "DOUBLE" | "FLOAT" | "REAL" | "DOUBLE PRECISION" => ColumnType::Double,
        "DATE" => ColumnType::Date,
        "TIMESTAMP" => ColumnType::Timestamp,
        "UUID" => ColumnType::Uuid,
        "JSON" => ColumnType::Json,
        "TEXT" | "VARCHAR" => ColumnType::Text,
        _ => return None,
    })
}

/// A field as a value of a column's type; an empty one is NULL. The error says what was expected.
pub fn convert(field: &str, column: ColumnType) -> Result<Value, String> {
    if field.is_empty() {
        return Ok(Value::Null);
    }
    let integer = |low: i64, high: i64| {
        field.parse::<i64>().ok().filter(|v| (low..=high).contains(v)).map(Value::Integer)
    };
    let value = match column {
        ColumnType::Boolean => match field.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Some(Value::Boolean(true)),
            "false" | "f" | "no" | "n" | "0" => Some(Value::Boolean(false)),
            _ => None,
        },
        ColumnType::SmallInt => integer(i16::MIN.into(), i16::MAX.into()),
        ColumnType::Integer => integer(i32::MIN.into(), i32::MAX.into()),
        ColumnType::BigInt => integer(i64::MIN, i64::MAX),
        ColumnType::Double => {
            field.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::Double)
        }
        ColumnType::Decimal { .. } => Decimal::parse(field).map(Value::Decimal),
        ColumnType::Text => Some(Value::text(field)),
        ColumnType::Varchar(size) => {
            (field.chars().count() <= size as usize).then(|| Value::text(field))
        }
        ColumnType::Blob => blob(field).map(Value::Blob),
        ColumnType::Date => parse_date(field).map(Value::Date),
        ColumnType::Timestamp => parse_timestamp(field).map(Value::Timestamp),
        ColumnType::Uuid => parse_uuid(field).map(Value::Uuid),
        ColumnType::Json => verity_core::query::json::validate(field)
            .is_ok()
            .then(|| Value::Json(field.to_string())),
    };
    value.ok_or_else(|| {
        let shown: String = field.chars().take(40).collect();
        format!("\"{shown}\" is no {column}")
    })
}

/// `\\x` and hexadecimal digits.
fn blob(field: &str) -> Option<Vec<u8>> {
    let digits = field.strip_prefix("\\x")?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What the fields of one column allow so far.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    seen: u64,
    boolean: bool,
    bigint: bool,
    double: bool,
    date: bool,
    timestamp: bool,
    uuid: bool,
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates {
            seen: 0,
            boolean: true,
            bigint: true,
            double: true,
            date: true,
            timestamp: true,
            uuid: true,
        }
    }
}

impl Candidates {
    pub fn observe(&mut self, field: &str) {
        if field.is_empty() {
            return;
        }
        self.seen += 1;
        self.boolean = self.boolean && is_boolean(field);
        self.bigint = self.bigint && is_bigint(field);
        self.double = self.double && is_double(field);
        self.date = self.date && is_date(field);
        self.timestamp = self.timestamp && (is_timestamp(field) || is_date(field));
        self.uuid = self.uuid && is_uuid(field);
    }

    #[must_use]
    pub fn choose(&self) -> ColumnType {
        if self.seen == 0 {
            ColumnType::Text
        } else if self.boolean {
            ColumnType::Boolean
        } else if self.bigint {
            ColumnType::BigInt
        } else if self.double {
            ColumnType::Double
        } else if self.date {
            ColumnType::Date
        } else if self.timestamp {
            ColumnType::Timestamp
        } else if self.uuid {
            ColumnType::Uuid
        } else {
            ColumnType::Text
        }
    }
}

/// Spelled out only: `0` and `1`, `y` and `n` are more often codes than truths.
pub fn is_boolean(field: &str) -> bool {
    matches!(field, "true" | "false" | "TRUE" | "FALSE" | "True" | "False")
}

/// Digits that an integer would print again: no plus, no leading zeros, in range.
pub fn is_bigint(field: &str) -> bool {
    let digits = field.strip_prefix('-').unwrap_or(field);
    let canonical = digits == "0" && field == "0"
        || !digits.is_empty()
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit());
    canonical && field.parse::<i64>().is_ok()
}

/// Decimal notation; no leading zeros before a digit, no exponent (`1E5` may be a code), no NaN, no
/// infinity. More digits than a double keeps are not to be rounded: they stay TEXT.
pub fn is_double(field: &str) -> bool {
    let unsigned = field.strip_prefix('-').unwrap_or(field);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let digits = whole.len() + fraction.map_or(0, str::len);
    // Zeros in front of the first other digit only say where the point is.
    let zeros = unsigned.bytes().take_while(|byte| matches!(byte, b'0' | b'.'));
    let significant = digits - zeros.filter(|byte| *byte == b'0').count();
    all_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(all_digits)
        && significant <= DOUBLE_DIGITS_MAX
        && field.parse::<f64>().is_ok_and(|value| value == 0.0 || value.is_normal())
}

/// `YYYY-MM-DD`, a day that exists.
pub fn is_date(field: &str) -> bool {
    field.len() == 10 && field.as_bytes()[4] == b'-' && parse_date(field).is_some()
}

/// A date, `T` or a space, a time of day, and `Z`, an offset, or nothing.
pub fn is_timestamp(field: &str) -> bool {
    field.len() >= 16
        && field.is_char_boundary(10)
        && is_date(&field[..10])
        && matches!(field.as_bytes()[10], b'T' | b' ')
        && parse_timestamp(field).is_some()
}

/// `8-4-4-4-12` hexadecimal digits.
pub fn is_uuid(field: &str) -> bool {
    field.len() == 36 && parse_uuid(field).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[&str], expected: ColumnType) {
        let mut candidates = Candidates::default();
        fields.iter().for_each(|field| candidates.observe(field));
        assert_eq!(candidates.choose(), expected, "{fields:?}");
    }

    #[test]
    fn types_are_what_a_person_would_say() {
        check(&["1", "", "-7", "0"], ColumnType::BigInt);
        check(&["9223372036854775807"], ColumnType::BigInt);
        check(&["1", "2.5"], ColumnType::Double);
        check(&["198002.280000004", "-71.12", "0.000123456789012345"], ColumnType::Double);
        check(&["true", "FALSE"], ColumnType::Boolean);
        check(&["2010-01-23", ""], ColumnType::Date);
        check(&["2014-07-08T15:35:36Z", "2010-01-23"], ColumnType::Timestamp);
        check(&["2014-07-08 15:35:36.123+02:00"], ColumnType::Timestamp);
        check(&["1d604da9-9a81-4ba9-80c2-de3375d59b40"], ColumnType::Uuid);
    }

    #[test]
    fn what_would_lose_something_stays_text() {
        check(&["01013", "02143"], ColumnType::Text);
        check(&["1", "01"], ColumnType::Text);
        check(&["+1"], ColumnType::Text);
        check(&["-0"], ColumnType::Double);
        check(&["9223372036854775808"], ColumnType::Text);
        check(&["NaN"], ColumnType::Text);
        check(&["1e999"], ColumnType::Text);
        check(&["2010-02-30"], ColumnType::Text);
        check(&["2010-01-23", "yesterday"], ColumnType::Text);
        check(&["2010-01-23T25:00:00Z"], ColumnType::Text);
        check(&["y", "n"], ColumnType::Text);
        check(&["", ""], ColumnType::Text);
        check(&[" 1"], ColumnType::Text);
        // Digits that a double does not keep, and codes that only look like numbers.
        check(&["99999999999999.99"], ColumnType::Text);
        check(&["9007199254740993", "0.5"], ColumnType::Text);
        check(&["198002.28000000442"], ColumnType::Text);
        check(&["1E5", "2E3"], ColumnType::Text);
        check(&["0.5", "1e-3"], ColumnType::Text);
    }

    #[test]
    fn what_is_a_double_is_written_back_as_it_was() {
        let mut state = 11_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut doubles = 0;
        for _ in 0..200_000 {
            let digits = 1 + draw(17) as usize;
            let text: String = (0..digits).map(|_| char::from(b'0' + draw(10) as u8)).collect();
            let point = draw(digits as u64 + 1) as usize;
            let text = match (&text[..point], &text[point..]) {
                ("", fraction) => format!("0.{fraction}"),
                (whole, "") => whole.to_string(),
                (whole, fraction) => format!("{whole}.{fraction}"),
            };
            if !is_double(&text) {
                continue;
            }
            doubles += 1;
            let trimmed = match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.'),
                false => text.as_str(),
            };
            assert_eq!(text.parse::<f64>().unwrap().to_string(), trimmed, "{text}");
        }
        assert!(doubles > 50_000, "{doubles}");
    }

    #[test]
    fn type_names_of_the_command_line() {
        let decimal = ColumnType::Decimal { precision: 12, scale: 2 };
        assert_eq!(parse_type("decimal(12, 2)"), Some(decimal));
        assert_eq!(parse_type("decimal(2, 12)"), None);
        assert_eq!(parse_type("varchar"), Some(ColumnType::Text));
        assert_eq!(parse_type("serial"), None);
    }

    #[test]
    fn fields_become_values_or_a_reason() {
        assert_eq!(convert("", ColumnType::BigInt), Ok(Value::Null));
        assert_eq!(convert("-7", ColumnType::BigInt), Ok(Value::Integer(-7)));
        assert!(convert("70000", ColumnType::SmallInt).is_err());
        assert_eq!(convert("\\x01ff", ColumnType::Blob), Ok(Value::Blob(vec![1, 255])));
        assert!(convert("\\x01f", ColumnType::Blob).is_err());
        let reason = convert("gestern", ColumnType::Date).unwrap_err();
        assert_eq!(reason, "\"gestern\" is no DATE");
    }
}
