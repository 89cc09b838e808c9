//! Types as far as binding knows them: declared ones, those of expressions, and one for branches.
//!
//! Invariants: whatever branch of CASE, COALESCE, GREATEST or LEAST gives the value, it is of one
//! type, so that DISTINCT, GROUP BY and ORDER BY compare like with like. The type of a parameter is
//! not known here: it keeps its own.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use sqlparser::ast;

use crate::query::bind::{Aggregate, AggregateFunction, Source, not_supported, shorten};
use crate::query::coerce::cast;
use crate::query::error::SqlError;
use crate::query::expr::{ArithmeticOp, Expr, Function};
use crate::query::value::{ColumnType, TypeTag, Value};

/// Gives branches of several numeric types the widest of them, dates beside timestamps their
/// midnight.
pub fn of_one_type(mut branches: Vec<&mut Expr>, source: &Source, aggregates: &[Aggregate]) {
    let tags: Vec<Option<TypeTag>> = branches
        .iter()
        .map(|branch| infer_over(branch, source, aggregates).map(ColumnType::tag))
        .collect();
    let has = |tag| tags.contains(&Some(tag));
    let wanted = if has(TypeTag::Double) {
        ColumnType::Double
    } else if has(TypeTag::Decimal) {
        ColumnType::Decimal { precision: 38, scale: 0 }
    } else if has(TypeTag::Timestamp) {
        ColumnType::Timestamp
    } else {
        return;
    };
    for (branch, tag) in branches.iter_mut().zip(&tags) {
        let narrower = match tag {
            Some(TypeTag::Integer) => {
                matches!(wanted.tag(), TypeTag::Double | TypeTag::Decimal)
            }
            Some(TypeTag::Decimal) => wanted.tag() == TypeTag::Double,
            Some(TypeTag::Date) => wanted.tag() == TypeTag::Timestamp,
            Some(
                TypeTag::Null
                | TypeTag::Boolean
                | TypeTag::Double
                | TypeTag::Text
                | TypeTag::Blob
                | TypeTag::Timestamp
                | TypeTag::Uuid
                | TypeTag::Json,
            )
            | None => false,
        };
        if !narrower {
            continue;
        }
        let value = core::mem::replace(&mut **branch, Expr::Literal(Value::Null));
        **branch = match value {
            Expr::Literal(value) => match cast(value.clone(), wanted) {
                Ok(value) => Expr::Literal(value),
                Err(_) => Expr::Literal(value),
            },
            value => Expr::Cast { value: Box::new(value), to: wanted },
        };
    }
}

/// Declared types, by the names that people know from elsewhere.
pub fn column_type(data_type: &ast::DataType) -> Result<ColumnType, SqlError> {
    use ast::DataType as D;
    let refuse = |hint: &str| {
        Err(not_supported(format!("the type {} is", shorten(&data_type.to_string())), hint))
    };
    Ok(match data_type {
        D::Boolean | D::Bool => ColumnType::Boolean,
        D::SmallInt(None) | D::Int2(None) | D::TinyInt(None) => ColumnType::SmallInt,
        D::Integer(None) | D::Int(None) | D::Int4(None) | D::MediumInt(None) => ColumnType::Integer,
        D::BigInt(None) | D::Int8(None) => ColumnType::BigInt,
        D::Double(ast::ExactNumberInfo::None)
        | D::DoublePrecision
        | D::Real
        | D::Float(_)
        | D::Float4
        | D::Float8 => ColumnType::Double,
        D::Decimal(info) | D::Numeric(info) | D::Dec(info) => {
            let (precision, scale) = match info {
                ast::ExactNumberInfo::None => (38, 10),
                ast::ExactNumberInfo::Precision(precision) => (*precision, 0),
                ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
            };
            match (u8::try_from(precision), u8::try_from(scale)) {
                (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => {
                    ColumnType::Decimal { precision, scale }
                }
                _ => {
                    return refuse("DECIMAL(p, s) has 1 <= p <= 38 and 0 <= s <= p");
                }
            }
        }
        D::Text | D::String(None) | D::Clob(None) => ColumnType::Text,
        D::Varchar(size) | D::CharacterVarying(size) | D::CharVarying(size) | D::Nvarchar(size) => {
            match size {
                None => ColumnType::Text,
                Some(size) => varchar(size).map_or_else(|| refuse("write VARCHAR(n)"), Ok)?,
            }
        }
        D::Char(size) | D::Character(size) => match size {
            None => ColumnType::Varchar(1),
            Some(size) => varchar(size).map_or_else(|| refuse("write VARCHAR(n)"), Ok)?,
        },
        D::Blob(None) | D::Bytea | D::Bytes(None) | D::Binary(None) | D::Varbinary(None) => {
            ColumnType::Blob
        }
        D::Date => ColumnType::Date,
        D::Timestamp(None, _) | D::Datetime(None) => ColumnType::Timestamp,
        D::Uuid => ColumnType::Uuid,
        D::JSON | D::JSONB => ColumnType::Json,
        D::Time(..) => return refuse("store a TIMESTAMP, or TEXT"),
        D::Interval { .. } => return refuse("store a number of seconds or days"),
        D::Array(_) => return refuse("store JSON"),
        _ => {
            return refuse(
                "types are BOOLEAN, SMALLINT, INTEGER, BIGINT, DOUBLE, DECIMAL(p,s), TEXT, \
                 VARCHAR(n), BLOB, DATE, TIMESTAMP, UUID, JSON",
            );
        }
    })
}

fn varchar(size: &ast::CharacterLength) -> Option<ColumnType> {
    match size {
        ast::CharacterLength::IntegerLength { length, unit: None } => {
            u32::try_from(*length).ok().filter(|length| *length > 0).map(ColumnType::Varchar)
        }
        _ => None,
    }
}

/// The type of an expression, where it can be told without a row.
#[must_use]
pub fn infer(expr: &Expr, source: &Source) -> Option<ColumnType> {
    infer_over(expr, source, &[])
}

/// As `infer`, where `Excluded` may stand for one of these aggregates.
#[must_use]
pub fn infer_over(expr: &Expr, source: &Source, aggregates: &[Aggregate]) -> Option<ColumnType> {
    let infer = |expr, source| infer_over(expr, source, aggregates);
    match expr {
        Expr::Literal(Value::Null) | Expr::Parameter(_) => None,
        Expr::Excluded(at) => infer_aggregate(aggregates.get(at.get() as usize - 1)?, source),
        Expr::Literal(value) => Some(match value {
            Value::Decimal(value) => ColumnType::Decimal { precision: 38, scale: value.scale() },
            other => ColumnType::of_tag(other.tag()),
        }),
        Expr::Column(id) => source.column_type(*id),
        Expr::Not(_)
        | Expr::And(_)
        | Expr::Or(_)
        | Expr::Compare { .. }
        | Expr::IsNull { .. }
        | Expr::IsTruth { .. }
        | Expr::IsDistinct { .. }
        | Expr::Between { .. }
        | Expr::In { .. }
        | Expr::Like { .. } => Some(ColumnType::Boolean),
        Expr::Negate(value) => infer(value, source),
        Expr::Arithmetic { op, left, right } => match op {
            ArithmeticOp::Concat | ArithmeticOp::JsonGetText => Some(ColumnType::Text),
            ArithmeticOp::JsonGet => Some(ColumnType::Json),
            ArithmeticOp::Add
            | ArithmeticOp::Subtract
            | ArithmeticOp::Multiply
            | ArithmeticOp::Divide
            | ArithmeticOp::Remainder => {
                infer_arithmetic(*op, infer(left, source)?, infer(right, source)?)
            }
        },
        Expr::Case { whens, otherwise, .. } => whens
            .iter()
            .map(|(_, then)| then)
            .chain(otherwise.as_deref())
            .find_map(|branch| infer(branch, source)),
        Expr::Cast { to, .. } => Some(*to),
        Expr::Call { function, arguments } => infer_call(*function, arguments, source, aggregates),
    }
}

fn infer_arithmetic(op: ArithmeticOp, left: ColumnType, right: ColumnType) -> Option<ColumnType> {
    match (left.tag(), right.tag()) {
        (TypeTag::Integer, TypeTag::Integer) => Some(ColumnType::BigInt),
        (TypeTag::Date, TypeTag::Date) if op == ArithmeticOp::Subtract => Some(ColumnType::BigInt),
        (TypeTag::Date, _) | (_, TypeTag::Date) => Some(ColumnType::Date),
        (TypeTag::Double, _) | (_, TypeTag::Double) => Some(ColumnType::Double),
        (TypeTag::Decimal, _) | (_, TypeTag::Decimal) => Some(ColumnType::of_tag(TypeTag::Decimal)),
        _ => None,
    }
}

fn infer_aggregate(aggregate: &Aggregate, source: &Source) -> Option<ColumnType> {
    let argument = aggregate.argument.as_ref().and_then(|argument| infer(argument, source));
    match aggregate.function {
        AggregateFunction::CountRows | AggregateFunction::Count => Some(ColumnType::BigInt),
        AggregateFunction::Min | AggregateFunction::Max => argument,
        AggregateFunction::Sum => match argument?.tag() {
            TypeTag::Integer => Some(ColumnType::BigInt),
            tag => Some(ColumnType::of_tag(tag)),
        },
        AggregateFunction::Average => match argument?.tag() {
            TypeTag::Decimal => Some(ColumnType::of_tag(TypeTag::Decimal)),
            _ => Some(ColumnType::Double),
        },
    }
}

fn infer_call(
    function: Function,
    arguments: &[Expr],
    source: &Source,
    aggregates: &[Aggregate],
) -> Option<ColumnType> {
    let infer = |expr, source| infer_over(expr, source, aggregates);
    match function {
        Function::Coalesce | Function::NullIf | Function::Greatest | Function::Least => {
            arguments.iter().find_map(|argument| infer(argument, source))
        }
        Function::Abs
        | Function::Floor
        | Function::Ceil
        | Function::Round
        | Function::Truncate
        | Function::Modulo => infer(arguments.first()?, source),
        Function::Length
        | Function::OctetLength
        | Function::StringPosition
        | Function::Sign
        | Function::JsonArrayLength => Some(ColumnType::BigInt),
        Function::Upper
        | Function::Lower
        | Function::Trim
        | Function::LeftTrim
        | Function::RightTrim
        | Function::Replace
        | Function::Left
        | Function::Right
        | Function::Concat
        | Function::Repeat
        | Function::Reverse
        | Function::LeftPad
        | Function::RightPad
        | Function::Hex
        | Function::TypeOf => Some(ColumnType::Text),
        Function::Substring => infer(arguments.first()?, source),
        Function::StartsWith => Some(ColumnType::Boolean),
        Function::Now => Some(ColumnType::Timestamp),
        Function::CurrentDate => Some(ColumnType::Date),
        Function::DateTruncate => infer(arguments.get(1)?, source),
        Function::Extract => match arguments.first() {
            Some(Expr::Literal(Value::Text(field))) if field == "second" || field == "epoch" => {
                Some(ColumnType::Decimal { precision: 38, scale: 9 })
            }
            _ => Some(ColumnType::BigInt),
        },
        Function::Random | Function::SquareRoot => Some(ColumnType::Double),
        Function::RandomUuid => Some(ColumnType::Uuid),
    }
}
