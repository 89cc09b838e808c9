//! A bound expression: no names left, only columns by id, constants and parameters.
//!
//! It travels inside lowered commands (UPDATE, DELETE, CHECK, DEFAULT), so it has a deterministic
//! CBOR form, and evaluating it is a total, deterministic function of row, parameters and context.
//! Invariant: nested at most `EXPRESSION_DEPTH_MAX` deep, checked by the binder and the decoder, so
//! recursion over it is bounded.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::ids::ColumnId;
use crate::query::value::{ColumnType, Value};

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Literal(Value),
    Column(ColumnId),
    /// From 0. Never in a lowered command: lowering replaces it by its value.
    Parameter(u16),
    /// Of the row that INSERT … ON CONFLICT proposed.
    Excluded(ColumnId),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// At least two.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare {
        op: CompareOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    Arithmetic {
        op: ArithmeticOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// IS [NOT] NULL.
    IsNull {
        value: Box<Expr>,
        negated: bool,
    },
    /// IS [NOT] TRUE | FALSE | UNKNOWN (`truth` None).
    IsTruth {
        value: Box<Expr>,
        truth: Option<bool>,
        negated: bool,
    },
    /// IS [NOT] DISTINCT FROM.
    IsDistinct {
        left: Box<Expr>,
        right: Box<Expr>,
        negated: bool,
    },
    Between {
        value: Box<Expr>,
        low: Box<Expr>,
        high: Box<Expr>,
        negated: bool,
    },
    In {
        value: Box<Expr>,
        list: Vec<Expr>,
        negated: bool,
    },
    Like {
        value: Box<Expr>,
        pattern: Box<Expr>,
        escape: Option<char>,
        ignore_case: bool,
        negated: bool,
    },
    /// `operand` None: searched CASE.
    Case {
        operand: Option<Box<Expr>>,
        whens: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    Cast {
        value: Box<Expr>,
        to: ColumnType,
    },
    Call {
        function: Function,
        arguments: Vec<Expr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CompareOp {
    Equal = 0,
    NotEqual = 1,
    Less = 2,
    LessOrEqual = 3,
    Greater = 4,
    GreaterOrEqual = 5,
}

impl CompareOp {
    pub const ALL: [CompareOp; 6] = [
        CompareOp::Equal,
        CompareOp::NotEqual,
        CompareOp::Less,
        CompareOp::LessOrEqual,
        CompareOp::Greater,
        CompareOp::GreaterOrEqual,
    ];

    /// The same comparison with its sides exchanged.
    #[must_use]
    pub const fn flipped(self) -> CompareOp {
        match self {
            CompareOp::Equal | CompareOp::NotEqual => self,
            CompareOp::Less => CompareOp::Greater,
            CompareOp::LessOrEqual => CompareOp::GreaterOrEqual,
            CompareOp::Greater => CompareOp::Less,
            CompareOp::GreaterOrEqual => CompareOp::LessOrEqual,
        }
    }

    #[must_use]
    pub const fn holds(self, order: core::cmp::Ordering) -> bool {
        match self {
            CompareOp::Equal => order.is_eq(),
            CompareOp::NotEqual => order.is_ne(),
            CompareOp::Less => order.is_lt(),
            CompareOp::LessOrEqual => order.is_le(),
            CompareOp::Greater => order.is_gt(),
            CompareOp::GreaterOrEqual => order.is_ge(),
        }
    }

    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "<>",
            CompareOp::Less => "<",
            CompareOp::LessOrEqual => "<=",
            CompareOp::Greater => ">",
            CompareOp::GreaterOrEqual => ">=",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ArithmeticOp {
    Add = 0,
    Subtract = 1,
    Multiply = 2,
    Divide = 3,
    Remainder = 4,
    Concat = 5,
    /// `->`
    JsonGet = 6,
    /// `->>`
    JsonGetText = 7,
}

impl ArithmeticOp {
    pub const ALL: [ArithmeticOp; 8] = [
        ArithmeticOp::Add,
        ArithmeticOp::Subtract,
        ArithmeticOp::Multiply,
        ArithmeticOp::Divide,
        ArithmeticOp::Remainder,
        ArithmeticOp::Concat,
        ArithmeticOp::JsonGet,
        ArithmeticOp::JsonGetText,
    ];

    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            ArithmeticOp::Add => "+",
            ArithmeticOp::Subtract => "-",
            ArithmeticOp::Multiply => "*",
            ArithmeticOp::Divide => "/",
            ArithmeticOp::Remainder => "%",
            ArithmeticOp::Concat => "||",
            ArithmeticOp::JsonGet => "->",
            ArithmeticOp::JsonGetText => "->>",
        }
    }
}

macro_rules! functions {
    ($( $name:ident = $code:literal, $least:literal ..= $most:literal, $text:literal; )*) => {
        /// Scalar functions. The codes are in lowered commands: never reuse one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Function { $( $name = $code ),* }

        impl Function {
            pub const ALL: &'static [Function] = &[$(Function::$name),*];

            #[must_use]
            pub fn from_code(code: u8) -> Option<Function> {
                match code { $( $code => Some(Function::$name), )* _ => None }
            }

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Function::$name => $text ),* }
            }

            /// Fewest and most arguments.
            #[must_use]
            pub const fn arity(self) -> (usize, usize) {
                match self { $( Function::$name => ($least, $most) ),* }
            }
        }
    };
}

functions! {
    Coalesce = 0, 1..=255, "coalesce";
    NullIf = 1, 2..=2, "nullif";
    Length = 2, 1..=1, "length";
    OctetLength = 3, 1..=1, "octet_length";
    Upper = 4, 1..=1, "upper";
    Lower = 5, 1..=1, "lower";
    Trim = 6, 1..=2, "trim";
    LeftTrim = 7, 1..=2, "ltrim";
    RightTrim = 8, 1..=2, "rtrim";
    Substring = 9, 2..=3, "substr";
    Replace = 10, 3..=3, "replace";
    StringPosition = 11, 2..=2, "strpos";
    Left = 12, 2..=2, "left";
    Right = 13, 2..=2, "right";
    Concat = 14, 1..=255, "concat";
    StartsWith = 15, 2..=2, "starts_with";
    Repeat = 16, 2..=2, "repeat";
    Reverse = 17, 1..=1, "reverse";
    LeftPad = 18, 2..=3, "lpad";
    RightPad = 19, 2..=3, "rpad";
    Abs = 20, 1..=1, "abs";
    Sign = 21, 1..=1, "sign";
    Floor = 22, 1..=1, "floor";
    Ceil = 23, 1..=1, "ceil";
    Round = 24, 1..=2, "round";
    Truncate = 25, 1..=2, "trunc";
    Modulo = 26, 2..=2, "mod";
    Greatest = 27, 1..=255, "greatest";
    Least = 28, 1..=255, "least";
    Now = 29, 0..=0, "now";
    CurrentDate = 30, 0..=0, "current_date";
    Extract = 31, 2..=2, "date_part";
    DateTruncate = 32, 2..=2, "date_trunc";
    Random = 33, 0..=0, "random";
    RandomUuid = 34, 0..=0, "gen_random_uuid";
    Hex = 35, 1..=1, "hex";
    JsonArrayLength = 36, 1..=1, "json_array_length";
    TypeOf = 37, 1..=1, "typeof";
    SquareRoot = 38, 1..=1, "sqrt";
}

impl Function {
    /// Whether two evaluations over the same row may differ.
    #[must_use]
    pub const fn is_volatile(self) -> bool {
        matches!(self, Function::Random | Function::RandomUuid)
    }

    /// Whether it needs the time or the seed of the prepare.
    #[must_use]
    pub const fn needs_context(self) -> bool {
        matches!(
            self,
            Function::Now | Function::CurrentDate | Function::Random | Function::RandomUuid
        )
    }
}

impl Expr {
    /// Visits every node, parents first.
    pub fn visit<'e>(&'e self, visitor: &mut dyn FnMut(&'e Expr)) {
        visitor(self);
        match self {
            Expr::Literal(_) | Expr::Column(_) | Expr::Parameter(_) | Expr::Excluded(_) => {}
            Expr::Not(value)
            | Expr::Negate(value)
            | Expr::IsNull { value, .. }
            | Expr::IsTruth { value, .. }
            | Expr::Cast { value, .. } => value.visit(visitor),
            Expr::And(list) | Expr::Or(list) | Expr::Call { arguments: list, .. } => {
                list.iter().for_each(|item| item.visit(visitor));
            }
            Expr::Compare { left, right, .. }
            | Expr::Arithmetic { left, right, .. }
            | Expr::IsDistinct { left, right, .. } => {
                left.visit(visitor);
                right.visit(visitor);
            }
            Expr::Between { value, low, high, .. } => {
                value.visit(visitor);
                low.visit(visitor);
                high.visit(visitor);
            }
            Expr::In { value, list, .. } => {
                value.visit(visitor);
                list.iter().for_each(|item| item.visit(visitor));
            }
            Expr::Like { value, pattern, .. } => {
                value.visit(visitor);
                pattern.visit(visitor);
            }
            Expr::Case { operand, whens, otherwise } => {
                if let Some(operand) = operand {
                    operand.visit(visitor);
                }
                for (when, then) in whens {
                    when.visit(visitor);
                    then.visit(visitor);
                }
                if let Some(otherwise) = otherwise {
                    otherwise.visit(visitor);
                }
            }
        }
    }

    /// The same node with every child replaced.
    pub fn try_map_children<E>(
        self,
        f: &mut dyn FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<Expr, E> {
        Ok(match self {
            Expr::Literal(_) | Expr::Column(_) | Expr::Parameter(_) | Expr::Excluded(_) => self,
            Expr::Not(value) => Expr::Not(boxed(value, f)?),
            Expr::Negate(value) => Expr::Negate(boxed(value, f)?),
            Expr::And(list) => Expr::And(map_list(list, f)?),
            Expr::Or(list) => Expr::Or(map_list(list, f)?),
            Expr::Compare { op, left, right } => {
                Expr::Compare { op, left: boxed(left, f)?, right: boxed(right, f)? }
            }
            Expr::Arithmetic { op, left, right } => {
                Expr::Arithmetic { op, left: boxed(left, f)?, right: boxed(right, f)? }
            }
            Expr::IsNull { value, negated } => Expr::IsNull { value: boxed(value, f)?, negated },
            Expr::IsTruth { value, truth, negated } => {
                Expr::IsTruth { value: boxed(value, f)?, truth, negated }
            }
            Expr::IsDistinct { left, right, negated } => {
                Expr::IsDistinct { left: boxed(left, f)?, right: boxed(right, f)?, negated }
            }
            Expr::Between { value, low, high, negated } => Expr::Between {
                value: boxed(value, f)?,
                low: boxed(low, f)?,
                high: boxed(high, f)?,
                negated,
            },
            Expr::In { value, list, negated } => {
                Expr::In { value: boxed(value, f)?, list: map_list(list, f)?, negated }
            }
            Expr::Like { value, pattern, escape, ignore_case, negated } => Expr::Like {
                value: boxed(value, f)?,
                pattern: boxed(pattern, f)?,
                escape,
                ignore_case,
                negated,
            },
            Expr::Case { operand, whens, otherwise } => {
                let operand = operand.map(|operand| boxed(operand, f)).transpose()?;
                let mut mapped = Vec::with_capacity(whens.len());
                for (when, then) in whens {
                    mapped.push((f(when)?, f(then)?));
                }
                let otherwise = otherwise.map(|otherwise| boxed(otherwise, f)).transpose()?;
                Expr::Case { operand, whens: mapped, otherwise }
            }
            Expr::Cast { value, to } => Expr::Cast { value: boxed(value, f)?, to },
            Expr::Call { function, arguments } => {
                Expr::Call { function, arguments: map_list(arguments, f)? }
            }
        })
    }

    /// Replaces nodes bottom-up.
    pub fn try_map<E>(self, replace: &mut dyn FnMut(Expr) -> Result<Expr, E>) -> Result<Expr, E> {
        let mapped = self.try_map_children(&mut |child| child.try_map(replace))?;
        replace(mapped)
    }

    /// Whether it needs no row: constants, parameters and functions of them.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        let mut constant = true;
        self.visit(&mut |node| {
            constant &= match node {
                Expr::Column(_) | Expr::Excluded(_) => false,
                Expr::Call { function, .. } => !function.is_volatile(),
                Expr::Literal(_)
                | Expr::Parameter(_)
                | Expr::Not(_)
                | Expr::Negate(_)
                | Expr::And(_)
                | Expr::Or(_)
                | Expr::Compare { .. }
                | Expr::Arithmetic { .. }
                | Expr::IsNull { .. }
                | Expr::IsTruth { .. }
                | Expr::IsDistinct { .. }
                | Expr::Between { .. }
                | Expr::In { .. }
                | Expr::Like { .. }
                | Expr::Case { .. }
                | Expr::Cast { .. } => true,
            };
        });
        constant
    }

    /// Whether it needs the time or the seed of the prepare.
    #[must_use]
    pub fn needs_context(&self) -> bool {
        let mut needs = false;
        self.visit(&mut |node| {
            if let Expr::Call { function, .. } = node {
                needs |= function.needs_context();
            }
        });
        needs
    }
}

#[allow(clippy::boxed_local, reason = "children are boxed")]
fn boxed<E>(value: Box<Expr>, f: &mut dyn FnMut(Expr) -> Result<Expr, E>) -> Result<Box<Expr>, E> {
    Ok(Box::new(f(*value)?))
}

fn map_list<E>(
    list: Vec<Expr>,
    f: &mut dyn FnMut(Expr) -> Result<Expr, E>,
) -> Result<Vec<Expr>, E> {
    list.into_iter().map(f).collect()
}
