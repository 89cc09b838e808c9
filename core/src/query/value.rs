//! A SQL value, its types, and what "equal" and "less" mean.
//!
//! Two orders, on purpose. [`Value::compare`] is SQL's: NULL with anything is unknown, types that
//! do not compare are an error, numbers compare by value. [`Ord`] is total and never fails, for
//! sorting, grouping and DISTINCT: NULL first, then by type, numbers by value, `-0.0 = 0.0`, NaN
//! equal to itself and above every number. Where both are defined they agree; the key codec agrees
//! with `Ord` within one type.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

use crate::query::datetime::{Civil, write_timestamp};
use crate::query::decimal::Decimal;

#[derive(Clone, Debug, Default)]
pub enum Value {
    #[default]
    Null,
    Boolean(bool),
    /// SMALLINT, INTEGER and BIGINT: the declared range is checked when stored.
    Integer(i64),
    Double(f64),
    Decimal(Decimal),
    Text(String),
    Blob(Vec<u8>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Nanoseconds since 1970-01-01 UTC: 1677-09-21 to 2262-04-11.
    Timestamp(i64),
    Uuid([u8; 16]),
    /// Text as it was written, known to be JSON.
    Json(String),
}

/// Type of a value without its bounds. The numbers are in stored rows and commitments: never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TypeTag {
    Null = 0,
    Boolean = 1,
    Integer = 2,
    Double = 3,
    Decimal = 4,
    Text = 5,
    Blob = 6,
    Date = 7,
    Timestamp = 8,
    Uuid = 9,
    Json = 10,
}

impl TypeTag {
    #[must_use]
    pub fn from_u8(tag: u8) -> Option<TypeTag> {
        const TAGS: [TypeTag; 11] = [
            TypeTag::Null,
            TypeTag::Boolean,
            TypeTag::Integer,
            TypeTag::Double,
            TypeTag::Decimal,
            TypeTag::Text,
            TypeTag::Blob,
            TypeTag::Date,
            TypeTag::Timestamp,
            TypeTag::Uuid,
            TypeTag::Json,
        ];
        TAGS.get(usize::from(tag)).copied()
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TypeTag::Null => "NULL",
            TypeTag::Boolean => "BOOLEAN",
            TypeTag::Integer => "BIGINT",
            TypeTag::Double => "DOUBLE",
            TypeTag::Decimal => "DECIMAL",
            TypeTag::Text => "TEXT",
            TypeTag::Blob => "BLOB",
            TypeTag::Date => "DATE",
            TypeTag::Timestamp => "TIMESTAMP",
            TypeTag::Uuid => "UUID",
            TypeTag::Json => "JSON",
        }
    }

    #[must_use]
    pub const fn is_numeric(self) -> bool {
        matches!(self, TypeTag::Integer | TypeTag::Double | TypeTag::Decimal)
    }
}

/// Declared type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Boolean,
    SmallInt,
    Integer,
    BigInt,
    Double,
    /// 1 ≤ precision ≤ 38, scale ≤ precision.
    Decimal {
        precision: u8,
        scale: u8,
    },
    Text,
    /// At most this many characters.
    Varchar(u32),
    Blob,
    Date,
    Timestamp,
    Uuid,
    Json,
}

impl ColumnType {
    #[must_use]
    pub const fn tag(self) -> TypeTag {
        match self {
            ColumnType::Boolean => TypeTag::Boolean,
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => TypeTag::Integer,
            ColumnType::Double => TypeTag::Double,
            ColumnType::Decimal { .. } => TypeTag::Decimal,
            ColumnType::Text | ColumnType::Varchar(_) => TypeTag::Text,
            ColumnType::Blob => TypeTag::Blob,
            ColumnType::Date => TypeTag::Date,
            ColumnType::Timestamp => TypeTag::Timestamp,
            ColumnType::Uuid => TypeTag::Uuid,
            ColumnType::Json => TypeTag::Json,
        }
    }

    /// The widest declared type of a tag: of expressions, and of tables made from files.
    #[must_use]
    pub const fn of_tag(tag: TypeTag) -> ColumnType {
        match tag {
            TypeTag::Null | TypeTag::Text => ColumnType::Text,
            TypeTag::Boolean => ColumnType::Boolean,
            TypeTag::Integer => ColumnType::BigInt,
            TypeTag::Double => ColumnType::Double,
            TypeTag::Decimal => ColumnType::Decimal { precision: 38, scale: 10 },
            TypeTag::Blob => ColumnType::Blob,
            TypeTag::Date => ColumnType::Date,
            TypeTag::Timestamp => ColumnType::Timestamp,
            TypeTag::Uuid => ColumnType::Uuid,
            TypeTag::Json => ColumnType::Json,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnType::Boolean => f.write_str("BOOLEAN"),
            ColumnType::SmallInt => f.write_str("SMALLINT"),
            ColumnType::Integer => f.write_str("INTEGER"),
            ColumnType::BigInt => f.write_str("BIGINT"),
            ColumnType::Double => f.write_str("DOUBLE"),
            ColumnType::Decimal { precision, scale } => write!(f, "DECIMAL({precision},{scale})"),
            ColumnType::Text => f.write_str("TEXT"),
            ColumnType::Varchar(size) => write!(f, "VARCHAR({size})"),
            ColumnType::Blob => f.write_str("BLOB"),
            ColumnType::Date => f.write_str("DATE"),
            ColumnType::Timestamp => f.write_str("TIMESTAMP"),
            ColumnType::Uuid => f.write_str("UUID"),
            ColumnType::Json => f.write_str("JSON"),
        }
    }
}

impl Value {
    #[must_use]
    pub fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    #[must_use]
    pub const fn tag(&self) -> TypeTag {
        match self {
            Value::Null => TypeTag::Null,
            Value::Boolean(_) => TypeTag::Boolean,
            Value::Integer(_) => TypeTag::Integer,
            Value::Double(_) => TypeTag::Double,
            Value::Decimal(_) => TypeTag::Decimal,
            Value::Text(_) => TypeTag::Text,
            Value::Blob(_) => TypeTag::Blob,
            Value::Date(_) => TypeTag::Date,
            Value::Timestamp(_) => TypeTag::Timestamp,
            Value::Uuid(_) => TypeTag::Uuid,
            Value::Json(_) => TypeTag::Json,
        }
    }

    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Bytes it takes in memory beyond its own size, for limits.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Value::Text(text) | Value::Json(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            Value::Null
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Double(_)
            | Value::Decimal(_)
            | Value::Date(_)
            | Value::Timestamp(_)
            | Value::Uuid(_) => 0,
        }
    }

    /// SQL comparison: `Ok(None)` is unknown (one side is NULL); `Err` when the types do not
    /// compare. Dates compare with timestamps as their midnight.
    pub fn compare(&self, other: &Value) -> Result<Option<Ordering>, Incomparable> {
        let order = match (self, other) {
            (Value::Null, _) | (_, Value::Null) => return Ok(None),
            (Value::Date(days), Value::Timestamp(ns)) => midnight(*days).cmp(&i128::from(*ns)),
            (Value::Timestamp(ns), Value::Date(days)) => i128::from(*ns).cmp(&midnight(*days)),
            (Value::Json(_), _) | (_, Value::Json(_)) => {
                return Err(Incomparable(self.tag(), other.tag()));
            }
            (left, right) => {
                let (left_tag, right_tag) = (left.tag(), right.tag());
                if left_tag == right_tag || (left_tag.is_numeric() && right_tag.is_numeric()) {
                    compare_numbers_by_value(left, right).unwrap_or_else(|| left.cmp(right))
                } else {
                    return Err(Incomparable(left_tag, right_tag));
                }
            }
        };
        Ok(Some(order))
    }

    /// Bytes that a column commitment covers; appended to `out`. The tag goes beside them.
    pub fn commitment_bytes(&self, out: &mut Vec<u8>) -> TypeTag {
        match self {
            Value::Null => {}
            Value::Boolean(value) => out.push(u8::from(*value)),
            Value::Integer(value) => out.extend_from_slice(&value.to_be_bytes()),
            Value::Double(value) => out.extend_from_slice(&canonical_bits(*value).to_be_bytes()),
            Value::Decimal(value) => {
                out.push(value.scale());
                out.extend_from_slice(&value.mantissa().to_be_bytes());
            }
            Value::Text(text) | Value::Json(text) => out.extend_from_slice(text.as_bytes()),
            Value::Blob(bytes) => out.extend_from_slice(bytes),
            Value::Date(days) => out.extend_from_slice(&days.to_be_bytes()),
            Value::Timestamp(ns) => out.extend_from_slice(&ns.to_be_bytes()),
            Value::Uuid(bytes) => out.extend_from_slice(bytes),
        }
        self.tag()
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Integer(value) => Some(*value as f64),
            Value::Double(value) => Some(*value),
            Value::Decimal(value) => Some(value.to_f64()),
            Value::Null
            | Value::Boolean(_)
            | Value::Text(_)
            | Value::Blob(_)
            | Value::Date(_)
            | Value::Timestamp(_)
            | Value::Uuid(_)
            | Value::Json(_) => None,
        }
    }
}

/// Two types between which `<` means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomparable(pub TypeTag, pub TypeTag);

fn midnight(days: i32) -> i128 {
    i128::from(days) * i128::from(crate::query::datetime::NS_PER_DAY)
}

/// NaN in one form only; the sign of zero stays, as it is part of the value.
#[must_use]
pub fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() { 0x7ff8_0000_0000_0000 } else { value.to_bits() }
}

/// `-0.0 = 0.0`, NaN above all and equal to itself.
#[must_use]
pub fn compare_doubles(left: f64, right: f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => left.partial_cmp(&right).unwrap_or(Ordering::Equal),
    }
}

/// Exact, without rounding the integer.
fn compare_integer_with_double(integer: i64, double: f64) -> Ordering {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() || double >= TWO_63 {
        return Ordering::Less;
    }
    if double < -TWO_63 {
        return Ordering::Greater;
    }
    let whole = double as i64;
    integer.cmp(&whole).then_with(|| compare_doubles(0.0, double - whole as f64))
}

/// Mixed numbers by value: integers exactly; a decimal beside a double is taken as the nearest
/// double, as in PostgreSQL. None when neither side asks for that.
fn compare_numbers_by_value(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Integer(left), Value::Double(right)) => {
            Some(compare_integer_with_double(*left, *right))
        }
        (Value::Double(left), Value::Integer(right)) => {
            Some(compare_integer_with_double(*right, *left).reverse())
        }
        (Value::Decimal(left), Value::Double(right)) => {
            Some(compare_doubles(left.to_f64(), *right))
        }
        (Value::Double(left), Value::Decimal(right)) => {
            Some(compare_doubles(*left, right.to_f64()))
        }
        _ => None,
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Boolean(left), Value::Boolean(right)) => left.cmp(right),
            (Value::Integer(left), Value::Integer(right)) => left.cmp(right),
            (Value::Double(left), Value::Double(right)) => compare_doubles(*left, *right),
            (Value::Decimal(left), Value::Decimal(right)) => left.compare(*right),
            (Value::Integer(left), Value::Decimal(right)) => {
                Decimal::from_i64(*left).compare(*right)
            }
            (Value::Decimal(left), Value::Integer(right)) => {
                left.compare(Decimal::from_i64(*right))
            }
            (Value::Text(left), Value::Text(right)) | (Value::Json(left), Value::Json(right)) => {
                left.cmp(right)
            }
            (Value::Blob(left), Value::Blob(right)) => left.cmp(right),
            (Value::Date(left), Value::Date(right)) => left.cmp(right),
            (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(right),
            (Value::Uuid(left), Value::Uuid(right)) => left.cmp(right),
            (left, right) => match (left.as_f64(), right.as_f64()) {
                // A double beside an exact number. Rounding is monotone, so ordering by the
                // rounded value and then exact-before-double is total; SQL's `=` may still call
                // two neighbours equal.
                (Some(left_f64), Some(right_f64)) => {
                    let exact = matches!(left, Value::Integer(_) | Value::Decimal(_));
                    let exact_other = matches!(right, Value::Integer(_) | Value::Decimal(_));
                    compare_doubles(left_f64, right_f64).then(exact_other.cmp(&exact))
                }
                _ => left.tag().cmp(&right.tag()),
            },
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

/// As `CAST(… AS TEXT)` and the command line show it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("NULL"),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Double(value) => f.write_str(&double_text(*value)),
            Value::Decimal(value) => write!(f, "{value}"),
            Value::Text(text) | Value::Json(text) => f.write_str(text),
            Value::Blob(bytes) => {
                f.write_str("\\x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Value::Date(days) => write!(f, "{}", Civil::from_days(*days)),
            Value::Timestamp(ns) => write_timestamp(*ns, f),
            Value::Uuid(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

/// Shortest digits that read back as the same double.
fn double_text(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_string()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string()
    } else {
        alloc::format!("{value:?}")
    }
}

/// `8-4-4-4-12` hexadecimal digits, hyphens optional.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.trim_ascii().as_bytes();
    let hyphens = match text.len() {
        32 => false,
        36 => true,
        _ => return None,
    };
    let mut bytes = [0; 16];
    let mut nibbles = 0;
    for (at, byte) in text.iter().enumerate() {
        if hyphens && matches!(at, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(*byte).to_digit(16)? as u8;
        bytes[nibbles / 2] = bytes[nibbles / 2] << 4 | digit;
        nibbles += 1;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Decimal, Value, parse_uuid};
    use alloc::string::ToString;
    use alloc::vec;
    use core::cmp::Ordering;

    #[test]
    fn the_total_order_is_total() {
        let big = 9_007_199_254_740_993_i64;
        let values = vec![
            Value::Null,
            Value::Boolean(false),
            Value::Boolean(true),
            Value::Integer(i64::MIN),
            Value::Integer(big - 1),
            Value::Integer(big),
            Value::Integer(big + 1),
            Value::Integer(i64::MAX),
            Value::Double(big as f64),
            Value::Double(-0.0),
            Value::Double(0.0),
            Value::Double(f64::NAN),
            Value::Double(f64::INFINITY),
            Value::Decimal(Decimal::parse("9007199254740993.5").unwrap()),
            Value::Decimal(Decimal::parse("0.00").unwrap()),
            Value::text(""),
            Value::text("a"),
            Value::Blob(vec![0]),
            Value::Date(0),
            Value::Timestamp(0),
            Value::Uuid([0; 16]),
            Value::Json("1".to_string()),
        ];
        for a in &values {
            assert_eq!(a.cmp(a), Ordering::Equal);
            for b in &values {
                assert_eq!(a.cmp(b), b.cmp(a).reverse(), "{a:?} {b:?}");
                for c in &values {
                    if a.cmp(b) != Ordering::Greater && b.cmp(c) != Ordering::Greater {
                        assert_ne!(a.cmp(c), Ordering::Greater, "{a:?} {b:?} {c:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn sql_comparison() {
        let one = Value::Integer(1);
        assert_eq!(one.compare(&Value::Null), Ok(None));
        assert_eq!(one.compare(&Value::Double(1.0)), Ok(Some(Ordering::Equal)));
        assert_eq!(
            Value::Integer(9_007_199_254_740_993).compare(&Value::Double(9_007_199_254_740_992.0)),
            Ok(Some(Ordering::Greater))
        );
        assert!(one.compare(&Value::text("1")).is_err());
        assert!(Value::Json("1".to_string()).compare(&Value::Json("1".to_string())).is_err());
        assert_eq!(Value::Date(1).compare(&Value::Timestamp(5)), Ok(Some(Ordering::Greater)));
    }

    #[test]
    fn text_form() {
        assert_eq!(Value::Double(1.0).to_string(), "1.0");
        assert_eq!(Value::Double(1e300).to_string(), "1e300");
        assert_eq!(Value::Blob(vec![1, 255]).to_string(), "\\x01ff");
        let uuid = "c94c9adc-2a42-0b19-7f5a-1d3c6a2e9f00";
        assert_eq!(Value::Uuid(parse_uuid(uuid).unwrap()).to_string(), uuid);
        assert_eq!(parse_uuid("c94c9adc"), None);
    }
}
