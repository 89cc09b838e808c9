//! Expressions as deterministic CBOR: an array whose first item is a code that is never reused.
//!
//! Fault model: any bytes; decoding is bounded by the input's own size and by
//! `EXPRESSION_DEPTH_MAX`, and never panics (fuzzed).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::ids::ColumnId;
use crate::limits::{COLUMNS_MAX, EXPRESSION_DEPTH_MAX};
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::codec::{decode_value, encode_value};
use crate::query::codec_schema::{decode_type, encode_type};
use crate::query::expr::{ArithmeticOp, CompareOp, Expr, Function};

type Result<T> = core::result::Result<T, DecodeError>;

mod code {
    pub const LITERAL: u64 = 0;
    pub const COLUMN: u64 = 1;
    pub const PARAMETER: u64 = 2;
    pub const EXCLUDED: u64 = 3;
    pub const NOT: u64 = 4;
    pub const NEGATE: u64 = 5;
    pub const AND: u64 = 6;
    pub const OR: u64 = 7;
    pub const COMPARE: u64 = 8;
    pub const ARITHMETIC: u64 = 9;
    pub const IS_NULL: u64 = 10;
    pub const IS_TRUTH: u64 = 11;
    pub const IS_DISTINCT: u64 = 12;
    pub const BETWEEN: u64 = 13;
    pub const IN: u64 = 14;
    pub const LIKE: u64 = 15;
    pub const CASE: u64 = 16;
    pub const CAST: u64 = 17;
    pub const CALL: u64 = 18;
}

pub fn encode_expr(e: &mut Encoder<'_>, expr: &Expr) {
    match expr {
        Expr::Literal(value) => {
            e.array(2).uint(code::LITERAL);
            encode_value(e, value);
        }
        Expr::Column(id) => {
            e.array(2).uint(code::COLUMN).uint(u64::from(id.get()));
        }
        Expr::Parameter(index) => {
            e.array(2).uint(code::PARAMETER).uint(u64::from(*index));
        }
        Expr::Excluded(id) => {
            e.array(2).uint(code::EXCLUDED).uint(u64::from(id.get()));
        }
        Expr::Not(value) => {
            e.array(2).uint(code::NOT);
            encode_expr(e, value);
        }
        Expr::Negate(value) => {
            e.array(2).uint(code::NEGATE);
            encode_expr(e, value);
        }
        Expr::And(list) => {
            e.array(2).uint(code::AND);
            encode_list(e, list);
        }
        Expr::Or(list) => {
            e.array(2).uint(code::OR);
            encode_list(e, list);
        }
        Expr::Compare { op, left, right } => {
            e.array(4).uint(code::COMPARE).uint(*op as u64);
            encode_expr(e, left);
            encode_expr(e, right);
        }
        Expr::Arithmetic { op, left, right } => {
            e.array(4).uint(code::ARITHMETIC).uint(*op as u64);
            encode_expr(e, left);
            encode_expr(e, right);
        }
        Expr::IsNull { value, negated } => {
            e.array(3).uint(code::IS_NULL);
            encode_expr(e, value);
            e.bool(*negated);
        }
        Expr::IsTruth { value, truth, negated } => {
            e.array(4).uint(code::IS_TRUTH);
            encode_expr(e, value);
            e.option(*truth, |e, truth| {
                e.bool(truth);
            });
            e.bool(*negated);
        }
        Expr::IsDistinct { left, right, negated } => {
            e.array(4).uint(code::IS_DISTINCT);
            encode_expr(e, left);
            encode_expr(e, right);
            e.bool(*negated);
        }
        Expr::Between { value, low, high, negated } => {
            e.array(5).uint(code::BETWEEN);
            encode_expr(e, value);
            encode_expr(e, low);
            encode_expr(e, high);
            e.bool(*negated);
        }
        Expr::In { value, list, negated } => {
            e.array(4).uint(code::IN);
            encode_expr(e, value);
            encode_list(e, list);
            e.bool(*negated);
        }
        Expr::Like { value, pattern, escape, ignore_case, negated } => {
            e.array(6).uint(code::LIKE);
            encode_expr(e, value);
            encode_expr(e, pattern);
            e.option(*escape, |e, escape| {
                e.uint(u64::from(u32::from(escape)));
            });
            e.bool(*ignore_case).bool(*negated);
        }
        Expr::Case { operand, whens, otherwise } => {
            e.array(4).uint(code::CASE);
            e.option(operand.as_ref(), |e, operand| encode_expr(e, operand));
            e.array(whens.len() * 2);
            for (when, then) in whens {
                encode_expr(e, when);
                encode_expr(e, then);
            }
            e.option(otherwise.as_ref(), |e, otherwise| encode_expr(e, otherwise));
        }
        Expr::Cast { value, to } => {
            e.array(3).uint(code::CAST);
            encode_expr(e, value);
            encode_type(e, *to);
        }
        Expr::Call { function, arguments } => {
            e.array(3).uint(code::CALL).uint(*function as u64);
            encode_list(e, arguments);
        }
    }
}

fn encode_list(e: &mut Encoder<'_>, list: &[Expr]) {
    e.array(list.len());
    list.iter().for_each(|item| encode_expr(e, item));
}

pub fn decode_expr(d: &mut Decoder<'_>) -> Result<Expr> {
    decode_expr_at(d, 0)
}

fn decode_expr_at(d: &mut Decoder<'_>, depth: usize) -> Result<Expr> {
    if depth == EXPRESSION_DEPTH_MAX {
        return d.error("expression is nested too deep");
    }
    let below = depth + 1;
    let fields = d.array()?;
    let code = d.uint()?;
    let expected = match code {
        code::LITERAL..=code::OR => 2,
        code::IS_NULL | code::CAST | code::CALL => 3,
        code::BETWEEN => 5,
        code::LIKE => 6,
        code::COMPARE..=code::CASE => 4,
        _ => return d.error("unknown expression"),
    };
    if fields != expected {
        return d.error("expression has another number of fields");
    }
    let one = |d: &mut Decoder<'_>| decode_expr_at(d, below).map(Box::new);
    Ok(match code {
        code::LITERAL => Expr::Literal(decode_value(d)?),
        code::COLUMN => Expr::Column(decode_column_id(d)?),
        code::PARAMETER => Expr::Parameter(d.u16()?),
        code::EXCLUDED => Expr::Excluded(decode_column_id(d)?),
        code::NOT => Expr::Not(one(d)?),
        code::NEGATE => Expr::Negate(one(d)?),
        code::AND => Expr::And(decode_list(d, below, 2)?),
        code::OR => Expr::Or(decode_list(d, below, 2)?),
        code::COMPARE => {
            Expr::Compare { op: decode_code(d, &CompareOp::ALL)?, left: one(d)?, right: one(d)? }
        }
        code::ARITHMETIC => Expr::Arithmetic {
            op: decode_code(d, &ArithmeticOp::ALL)?,
            left: one(d)?,
            right: one(d)?,
        },
        code::IS_NULL => Expr::IsNull { value: one(d)?, negated: d.bool()? },
        code::IS_TRUTH => {
            Expr::IsTruth { value: one(d)?, truth: d.option(Decoder::bool)?, negated: d.bool()? }
        }
        code::IS_DISTINCT => Expr::IsDistinct { left: one(d)?, right: one(d)?, negated: d.bool()? },
        code::BETWEEN => {
            Expr::Between { value: one(d)?, low: one(d)?, high: one(d)?, negated: d.bool()? }
        }
        code::IN => {
            Expr::In { value: one(d)?, list: decode_list(d, below, 1)?, negated: d.bool()? }
        }
        code::LIKE => Expr::Like {
            value: one(d)?,
            pattern: one(d)?,
            escape: d.option(|d| match char::from_u32(d.u32()?) {
                Some(escape) => Ok(escape),
                None => d.error("not a character"),
            })?,
            ignore_case: d.bool()?,
            negated: d.bool()?,
        },
        code::CASE => {
            let operand = d.option(one)?;
            let count = d.array()?;
            if count == 0 || !count.is_multiple_of(2) {
                return d.error("CASE needs pairs");
            }
            let mut whens = Vec::new();
            for _ in 0..count / 2 {
                whens.push((decode_expr_at(d, below)?, decode_expr_at(d, below)?));
            }
            Expr::Case { operand, whens, otherwise: d.option(one)? }
        }
        code::CAST => Expr::Cast { value: one(d)?, to: decode_type(d)? },
        code::CALL => {
            let Some(function) = Function::from_code(d.u8()?) else {
                return d.error("unknown function");
            };
            let (least, most) = function.arity();
            let arguments = decode_list(d, below, least)?;
            if arguments.len() > most {
                return d.error("too many arguments");
            }
            Expr::Call { function, arguments }
        }
        _ => unreachable!("codes were checked above"),
    })
}

fn decode_list(d: &mut Decoder<'_>, depth: usize, least: usize) -> Result<Vec<Expr>> {
    let count = d.array()?;
    if count < least {
        return d.error("too few items");
    }
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(decode_expr_at(d, depth)?);
    }
    Ok(list)
}

fn decode_code<T: Copy>(d: &mut Decoder<'_>, all: &[T]) -> Result<T> {
    let code = d.u8()?;
    match all.get(usize::from(code)) {
        Some(value) => Ok(*value),
        None => d.error("unknown code"),
    }
}

/// Column 0 is the hidden key, which no expression can name.
pub(super) fn decode_column_id(d: &mut Decoder<'_>) -> Result<ColumnId> {
    let id = d.u32()?;
    if id == 0 || id as usize > COLUMNS_MAX {
        return d.error("column id is out of range");
    }
    Ok(ColumnId::new(id))
}
