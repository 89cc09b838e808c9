//! A value as the simulator knows it.
//!
//! Doubles are multiples of 1/8 and decimals have four digits behind the point, so that every value
//! prints and compares exactly. The order is SQL's within one type; NULL comes first.

use core::cmp::Ordering;

use verity_core::query::{Decimal, Value};

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DatumType {
    Boolean,
    BigInt,
    Integer,
    /// Eighths.
    Double,
    /// `DECIMAL(18, 4)`, in units of 1/10000.
    Decimal,
    Text,
    Blob,
    Date,
    Timestamp,
    Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    Null,
    Boolean(bool),
    Integer(i64),
    /// Eighths.
    Double(i64),
    /// Ten-thousandths.
    Decimal(i64),
    Text(String),
    Blob(Vec<u8>),
    Date(i32),
    Timestamp(i64),
    Uuid([u8; 16]),
    /// A double that is no multiple of 1/8, which only chance makes: its bits.
    Fraction(u64),
    /// Drawn by the database: a UUID, or a double. In a statement the number is 0, in the model it
    /// says which draw it was; what it came to is known once it was read.
    Chance {
        uuid: bool,
        number: u64,
    },
}

impl DatumType {
    pub const ALL: [DatumType; 10] = [
        DatumType::Boolean,
        DatumType::BigInt,
        DatumType::Integer,
        DatumType::Double,
        DatumType::Decimal,
        DatumType::Text,
        DatumType::Blob,
        DatumType::Date,
        DatumType::Timestamp,
        DatumType::Uuid,
    ];

    /// As in CREATE TABLE.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            DatumType::Boolean => "BOOLEAN",
            DatumType::BigInt => "BIGINT",
            DatumType::Integer => "INTEGER",
            DatumType::Double => "DOUBLE",
            DatumType::Decimal => "DECIMAL(18, 4)",
            DatumType::Text => "TEXT",
            DatumType::Blob => "BLOB",
            DatumType::Date => "DATE",
            DatumType::Timestamp => "TIMESTAMP",
            DatumType::Uuid => "UUID",
        }
    }

    /// A value of this type; small domains, so that predicates and keys meet.
    pub fn draw(self, random: &mut Random, canary: &str) -> Datum {
        match self {
            DatumType::Boolean => Datum::Boolean(random.coin()),
            DatumType::BigInt if random.chance(50_000) => {
                Datum::Integer(*random.pick(&[i64::MIN + 1_000_000, -1, 0, i64::MAX - 1_000_000]))
            }
            DatumType::BigInt => Datum::Integer(random.signed_range(-40, 400)),
            DatumType::Integer => Datum::Integer(random.signed_range(-20, 60)),
            DatumType::Double => Datum::Double(random.signed_range(-80, 800)),
            DatumType::Decimal => Datum::Decimal(random.signed_range(-500_000, 5_000_000)),
            DatumType::Text => Datum::Text(draw_text(random, canary)),
            DatumType::Blob => {
                let size = random.magnitude(64) as usize;
                let mut bytes = vec![0; size];
                random.fill(&mut bytes);
                Datum::Blob(bytes)
            }
            DatumType::Date => Datum::Date(random.signed_range(-30_000, 30_000) as i32),
            DatumType::Timestamp => {
                // Whole milliseconds: every precision keeps them.
                Datum::Timestamp(random.signed_range(-2_000_000_000, 4_000_000_000) * 1_000_000)
            }
            DatumType::Uuid => {
                let mut bytes = [0; 16];
                bytes[15] = random.below(64) as u8;
                bytes[0] = random.below(4) as u8;
                Datum::Uuid(bytes)
            }
        }
    }
}

/// Mostly canary and some noise; sometimes short and ordinary, sometimes large.
fn draw_text(random: &mut Random, canary: &str) -> String {
    const WORDS: [&str; 8] =
        ["", "a", "O'Neil", "Łódź", "100%", "under_score", "naïve \"quote\"", "zz"];
    match random.weighted(&[40, 50, 8, 2]) {
        0 => (*random.pick(&WORDS)).to_owned(),
        1 => format!("{}-{canary}", random.below(300)),
        2 => {
            let count = random.range(2, 12);
            (0..count).map(|_| canary).collect::<Vec<_>>().join("/")
        }
        _ => {
            let count = random.range(30, 400);
            let tail = random.u64();
            format!("{}{tail:016x}", canary.repeat(count as usize))
        }
    }
}

impl Datum {
    /// As a literal, where the type has one that needs no cast.
    #[must_use]
    pub fn literal(&self) -> Option<String> {
        match self {
            Datum::Null => Some("NULL".to_owned()),
            Datum::Boolean(value) => Some(if *value { "TRUE" } else { "FALSE" }.to_owned()),
            Datum::Integer(value) => Some(value.to_string()),
            Datum::Text(value) => Some(format!("'{}'", value.replace('\'', "''"))),
            Datum::Chance { uuid: true, .. } => Some("gen_random_uuid()".to_owned()),
            Datum::Chance { uuid: false, .. } => Some("random()".to_owned()),
            Datum::Double(_)
            | Datum::Fraction(_)
            | Datum::Decimal(_)
            | Datum::Blob(_)
            | Datum::Date(_)
            | Datum::Timestamp(_)
            | Datum::Uuid(_) => None,
        }
    }

    /// As the core takes it for a parameter.
    #[must_use]
    pub fn to_core(&self) -> Value {
        match self {
            Datum::Null => Value::Null,
            Datum::Boolean(value) => Value::Boolean(*value),
            Datum::Integer(value) => Value::Integer(*value),
            Datum::Double(eighths) => Value::Double(*eighths as f64 / 8.0),
            Datum::Decimal(units) => match Decimal::new(i128::from(*units), 4) {
                Some(decimal) => Value::Decimal(decimal),
                None => unreachable!("19 digits fit"),
            },
            Datum::Text(value) => Value::Text(value.clone()),
            Datum::Blob(value) => Value::Blob(value.clone()),
            Datum::Date(days) => Value::Date(*days),
            Datum::Timestamp(ns) => Value::Timestamp(*ns),
            Datum::Uuid(bytes) => Value::Uuid(*bytes),
            Datum::Fraction(bits) => Value::Double(f64::from_bits(*bits)),
            Datum::Chance { .. } => unreachable!("only a text draws by chance"),
        }
    }

    /// As the core answers it; an error for what this simulator never stored.
    pub fn from_core(value: &Value) -> Result<Datum, String> {
        Ok(match value {
            Value::Null => Datum::Null,
            Value::Boolean(value) => Datum::Boolean(*value),
            Value::Integer(value) => Datum::Integer(*value),
            Value::Double(value) => {
                let eighths = value * 8.0;
                if eighths.trunc().total_cmp(&eighths) == Ordering::Equal {
                    Datum::Double(eighths as i64)
                } else {
                    Datum::Fraction(value.to_bits())
                }
            }
            Value::Decimal(decimal) => match decimal.rescale_exact(4) {
                Some(decimal) => Datum::Decimal(
                    i64::try_from(decimal.mantissa()).map_err(|error| error.to_string())?,
                ),
                None => return Err(format!("decimal {decimal} has more than four digits")),
            },
            Value::Text(value) => Datum::Text(value.clone()),
            Value::Blob(value) => Datum::Blob(value.clone()),
            Value::Date(days) => Datum::Date(*days),
            Value::Timestamp(ns) => Datum::Timestamp(*ns),
            Value::Uuid(bytes) => Datum::Uuid(*bytes),
            Value::Json(text) => return Err(format!("JSON {text} was never stored")),
        })
    }

    #[must_use]
    pub fn is_chance(&self) -> bool {
        matches!(self, Datum::Chance { .. })
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Datum::Null
    }

    /// SQL's comparison: unknown when either side is NULL.
    #[must_use]
    pub fn compare(&self, other: &Datum) -> Option<Ordering> {
        if self.is_null() || other.is_null() {
            return None;
        }
        Some(self.cmp(other))
    }
}
