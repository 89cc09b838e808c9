//! Names become column ids, syntax becomes [`Expr`]: what cannot be bound is refused, with a caret.
//!
//! Invariants: everything of the syntax tree is looked at; a part that is not understood is an
//! error, never ignored. Recursion is bounded by `EXPRESSION_DEPTH_MAX`.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use sqlparser::ast::{self, Spanned};

use crate::ids::ColumnId;
use crate::limits::{EXPRESSION_DEPTH_MAX, IDENTIFIER_SIZE_MAX};
use crate::query::bind_types::{column_type, infer, of_one_type};
use crate::query::coerce::{from_text, hex_digits};
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{Context, Env, eval};
use crate::query::expr::{ArithmeticOp, CompareOp, Expr, Function};
use crate::query::parse::{offset, parameter_index};
use crate::query::schema::TableSchema;
use crate::query::value::{ColumnType, TypeTag, Value};
use crate::query::versions::Versions;
use crate::query::virtual_tables::VirtualTable;
use crate::time::Timestamp;

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// SELECT without FROM: one row of no columns.
    One,
    Table(Arc<TableSchema>),
    Virtual(VirtualTable),
    Versions(Versions),
}

impl Source {
    /// Name and type of each column; the id of a column is its place plus one.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        match self {
            Source::One => Vec::new(),
            Source::Table(schema) => schema
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.column_type))
                .collect(),
            Source::Virtual(table) => table
                .columns()
                .iter()
                .map(|(name, column_type)| ((*name).to_owned(), *column_type))
                .collect(),
            Source::Versions(versions) => versions.columns(),
        }
    }

    #[must_use]
    pub fn find(&self, name: &str) -> Option<ColumnId> {
        let at = match self {
            Source::One => None,
            Source::Table(schema) => schema.columns.iter().position(|column| column.name == name),
            Source::Virtual(table) => table.columns().iter().position(|column| column.0 == name),
            Source::Versions(versions) => {
                versions.columns().iter().position(|column| column.0 == name)
            }
        };
        at.map(|at| ColumnId::new(at as u32 + 1))
    }

    #[must_use]
    pub fn column_type(&self, id: ColumnId) -> Option<ColumnType> {
        let at = (id.get() as usize).checked_sub(1)?;
        match self {
            Source::One => None,
            Source::Table(schema) => schema.columns.get(at).map(|column| column.column_type),
            Source::Virtual(table) => table.columns().get(at).map(|column| column.1),
            Source::Versions(versions) => versions.columns().get(at).map(|column| column.1),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Source::One => "",
            Source::Table(schema) => &schema.name,
            Source::Virtual(table) => table.name(),
            Source::Versions(versions) => &versions.schema.name,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    CountRows,
    Count,
    Sum,
    Min,
    Max,
    Average,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    /// None for COUNT(*).
    pub argument: Option<Expr>,
    pub distinct: bool,
}

/// What names mean where an expression stands.
#[derive(Debug)]
pub struct Scope<'a> {
    pub sql: &'a str,
    pub source: &'a Source,
    /// What the statement calls the table instead of its name.
    pub alias: Option<String>,
    /// `excluded.column` is known: in ON CONFLICT DO UPDATE.
    pub excluded: bool,
    /// Aggregates found so far; None where they are not allowed, with the clause that forbids them.
    pub aggregates: Result<Vec<Aggregate>, &'static str>,
    /// Parameters seen: the largest number.
    pub parameters: u16,
    depth: usize,
}

/// Unquoted identifiers fold to lower case; quoted ones stay as written.
pub fn fold(ident: &ast::Ident) -> Result<String, SqlError> {
    let name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    if name.is_empty() || name.len() > IDENTIFIER_SIZE_MAX {
        return Err(SqlError::new(
            SqlState::SyntaxError,
            format!("a name has 1 to {IDENTIFIER_SIZE_MAX} bytes"),
        ));
    }
    Ok(name)
}

/// A name of one part.
pub fn simple_name(sql: &str, name: &ast::ObjectName) -> Result<String, SqlError> {
    // Places cost a walk through the text: only errors have one.
    let place = || position_of(sql, name);
    match name.0.as_slice() {
        [ast::ObjectNamePart::Identifier(ident)] => {
            fold(ident).map_err(|error| with_place(error, place()))
        }
        _ => Err(with_place(
            SqlError::new(
                SqlState::FeatureNotSupported,
                format!("\"{name}\": names have one part, there are no schemas"),
            ),
            place(),
        )),
    }
}

pub fn position_of(sql: &str, node: &impl Spanned) -> Option<u32> {
    offset(sql, node.span().start)
}

#[must_use]
pub fn with_place(error: SqlError, place: Option<u32>) -> SqlError {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

pub fn not_supported(what: impl Into<String>, hint: &str) -> SqlError {
    SqlError::new(SqlState::FeatureNotSupported, format!("{} not supported", what.into()))
        .hint(hint)
}

pub const SUBQUERY_HINT: &str = "run the inner SELECT first and send its result as parameters";

impl<'a> Scope<'a> {
    #[must_use]
    pub fn new(
        sql: &'a str,
        source: &'a Source,
        aggregates: Result<Vec<Aggregate>, &'static str>,
    ) -> Scope<'a> {
        Scope { sql, source, alias: None, excluded: false, aggregates, parameters: 0, depth: 0 }
    }

    /// Binds and folds constants.
    pub fn bind(&mut self, syntax: &ast::Expr) -> Result<Expr, SqlError> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX - 8 {
            self.depth = 0;
            let message = format!("expressions nest deeper than {}", EXPRESSION_DEPTH_MAX - 8);
            return Err(with_place(
                SqlError::new(SqlState::StatementTooComplex, message),
                position_of(self.sql, syntax),
            ));
        }
        let bound = self
            .bind_node(syntax)
            .map_err(|error| match error.position {
                Some(_) => error,
                None => with_place(error, position_of(self.sql, syntax)),
            })
            .map(fold_constant);
        self.depth = self.depth.saturating_sub(1);
        bound
    }

    fn boxed(&mut self, syntax: &ast::Expr) -> Result<Box<Expr>, SqlError> {
        self.bind(syntax).map(Box::new)
    }

    fn list(&mut self, list: &[ast::Expr]) -> Result<Vec<Expr>, SqlError> {
        list.iter().map(|item| self.bind(item)).collect()
    }

    fn bind_node(&mut self, syntax: &ast::Expr) -> Result<Expr, SqlError> {
        use ast::Expr as Ast;
        match syntax {
            Ast::Identifier(ident) => self.column(None, ident),
            Ast::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] => self.column(Some(table), column),
                _ => Err(not_supported("names of more than two parts are", "write table.column")),
            },
            Ast::Value(value) => self.literal(&value.value),
            Ast::TypedString(typed) => {
                let Some(text) = text_of(&typed.value.value) else {
                    return Err(SqlError::new(SqlState::SyntaxError, "a quoted text must follow"));
                };
                from_text(text, column_type(&typed.data_type)?).map(Expr::Literal)
            }
            Ast::Nested(inner) => self.bind(inner),
            Ast::UnaryOp { op, expr } => match op {
                ast::UnaryOperator::Not => Ok(Expr::Not(self.boxed(expr)?)),
                ast::UnaryOperator::Minus => Ok(negated(self.bind(expr)?)),
                ast::UnaryOperator::Plus => self.bind(expr),
                _ => Err(not_supported(format!("the operator {op} is"), "see docs/SQL.md")),
            },
            Ast::BinaryOp { left, op, right } => self.binary(syntax, left, op, right),
            Ast::IsNull(value) => Ok(Expr::IsNull { value: self.boxed(value)?, negated: false }),
            Ast::IsNotNull(value) => Ok(Expr::IsNull { value: self.boxed(value)?, negated: true }),
            Ast::IsTrue(value) => self.is_truth(value, Some(true), false),
            Ast::IsNotTrue(value) => self.is_truth(value, Some(true), true),
            Ast::IsFalse(value) => self.is_truth(value, Some(false), false),
            Ast::IsNotFalse(value) => self.is_truth(value, Some(false), true),
            Ast::IsUnknown(value) => self.is_truth(value, None, false),
            Ast::IsNotUnknown(value) => self.is_truth(value, None, true),
            Ast::IsDistinctFrom(left, right) => self.is_distinct(left, right, false),
            Ast::IsNotDistinctFrom(left, right) => self.is_distinct(left, right, true),
            Ast::InList { expr, list, negated } => {
                if list.is_empty() {
                    return Err(SqlError::new(
                        SqlState::SyntaxError,
                        "IN needs at least one value",
                    ));
                }
                let mut value = self.boxed(expr)?;
                let mut items = self.list(list)?;
                for (item, syntax) in items.iter_mut().zip(list) {
                    // Only a literal can become another type; what else it is, is told once.
                    if !matches!(*value, Expr::Literal(_)) {
                        break;
                    }
                    self.align(&mut value, item, (expr, syntax))?;
                }
                let known = infer(&value, self.source);
                for (item, syntax) in items.iter_mut().zip(list) {
                    read_text_as(item, known)
                        .map_err(|error| with_place(error, position_of(self.sql, syntax)))?;
                }
                Ok(Expr::In { value, list: items, negated: *negated })
            }
            Ast::Between { expr, negated, low, high } => {
                let mut value = self.boxed(expr)?;
                let (mut least, mut most) = (self.boxed(low)?, self.boxed(high)?);
                self.align(&mut value, &mut least, (expr, low))?;
                self.align(&mut value, &mut most, (expr, high))?;
                Ok(Expr::Between { value, low: least, high: most, negated: *negated })
            }
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), false, *negated)
            }
            Ast::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), true, *negated)
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                let operand = operand.as_ref().map(|operand| self.boxed(operand)).transpose()?;
                let mut whens = Vec::with_capacity(conditions.len());
                for when in conditions {
                    whens.push((self.bind(&when.condition)?, self.bind(&when.result)?));
                }
                let mut otherwise =
                    else_result.as_ref().map(|value| self.boxed(value)).transpose()?;
                let results = whens.iter_mut().map(|(_, then)| then);
                let results = results.chain(otherwise.as_deref_mut()).collect();
                of_one_type(results, self.source, self.aggregates.as_deref().unwrap_or_default());
                Ok(Expr::Case { operand, whens, otherwise })
            }
            Ast::Cast {
                kind: ast::CastKind::Cast | ast::CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => Ok(Expr::Cast { value: self.boxed(expr)?, to: column_type(data_type)? }),
            Ast::Extract { field, expr, .. } => {
                let field = Expr::Literal(Value::Text(field.to_string().to_lowercase()));
                Ok(Expr::Call {
                    function: Function::Extract,
                    arguments: [field, self.bind(expr)?].into(),
                })
            }
            Ast::Ceil { expr, field } => self.rounding(Function::Ceil, expr, field),
            Ast::Floor { expr, field } => self.rounding(Function::Floor, expr, field),
            Ast::Position { expr, r#in } => Ok(Expr::Call {
                function: Function::StringPosition,
                arguments: [self.bind(r#in)?, self.bind(expr)?].into(),
            }),
            Ast::Substring { expr, substring_from, substring_for, .. } => {
                let mut arguments = Vec::from([self.bind(expr)?]);
                arguments.push(match substring_from {
                    Some(from) => self.bind(from)?,
                    None => Expr::Literal(Value::Integer(1)),
                });
                if let Some(count) = substring_for {
                    arguments.push(self.bind(count)?);
                }
                Ok(Expr::Call { function: Function::Substring, arguments })
            }
            Ast::Trim { expr, trim_where, trim_what, trim_characters } => {
                let function = match trim_where {
                    None | Some(ast::TrimWhereField::Both) => Function::Trim,
                    Some(ast::TrimWhereField::Leading) => Function::LeftTrim,
                    Some(ast::TrimWhereField::Trailing) => Function::RightTrim,
                };
                let mut arguments = Vec::from([self.bind(expr)?]);
                if let Some(what) = trim_what {
                    arguments.push(self.bind(what)?);
                }
                arguments.extend(self.list(trim_characters.as_deref().unwrap_or_default())?);
                if arguments.len() > 2 {
                    return Err(SqlError::new(SqlState::SyntaxError, "trim takes one set"));
                }
                Ok(Expr::Call { function, arguments })
            }
            Ast::Function(function) => self.call(function),
            Ast::Subquery(_) | Ast::Exists { .. } | Ast::InSubquery { .. } => {
                Err(not_supported("subqueries are", SUBQUERY_HINT))
            }
            Ast::Interval(_) => Err(not_supported(
                "INTERVAL is",
                "add days to a DATE with +; compute timestamps outside",
            )),
            Ast::Collate { .. } => {
                Err(not_supported("COLLATE is", "text compares byte by byte (UTF-8)"))
            }
            Ast::AnyOp { .. } | Ast::AllOp { .. } => {
                Err(not_supported("ANY and ALL are", "write IN (…)"))
            }
            Ast::SimilarTo { .. } | Ast::RLike { .. } => {
                Err(not_supported("regular expressions are", "use LIKE"))
            }
            Ast::AtTimeZone { .. } => {
                Err(not_supported("AT TIME ZONE is", "all timestamps are UTC"))
            }
            Ast::Tuple(_) => {
                Err(not_supported("row values are", "compare the columns one by one with AND"))
            }
            Ast::Wildcard(_) | Ast::QualifiedWildcard(..) => {
                Err(SqlError::new(SqlState::SyntaxError, "* stands only in SELECT * and COUNT(*)"))
            }
            other => Err(not_supported(
                format!("the expression {} is", shorten(&other.to_string())),
                "see docs/SQL.md",
            )),
        }
    }

    fn is_truth(
        &mut self,
        value: &ast::Expr,
        truth: Option<bool>,
        negated: bool,
    ) -> Result<Expr, SqlError> {
        Ok(Expr::IsTruth { value: self.boxed(value)?, truth, negated })
    }

    fn is_distinct(
        &mut self,
        left: &ast::Expr,
        right: &ast::Expr,
        negated: bool,
    ) -> Result<Expr, SqlError> {
        let syntaxes = (left, right);
        let (mut left, mut right) = (self.boxed(left)?, self.boxed(right)?);
        self.align(&mut left, &mut right, syntaxes)?;
        Ok(Expr::IsDistinct { left, right, negated })
    }

    fn column(&mut self, table: Option<&ast::Ident>, ident: &ast::Ident) -> Result<Expr, SqlError> {
        let name = fold(ident)?;
        let place = || offset(self.sql, ident.span.start);
        let mut excluded = false;
        if let Some(table) = table {
            let table_name = fold(table)?;
            excluded = self.excluded && table_name == "excluded";
            let known = self.alias.as_deref().unwrap_or(self.source.name());
            if !excluded && table_name != known {
                return Err(with_place(
                    SqlError::new(
                        SqlState::UndefinedTable,
                        format!("there is no table \"{table_name}\" in this statement"),
                    ),
                    offset(self.sql, table.span.start),
                ));
            }
        }
        if let Some(id) = self.source.find(&name) {
            return Ok(if excluded { Expr::Excluded(id) } else { Expr::Column(id) });
        }
        let columns = self.source.columns();
        let names = columns.iter().map(|(column, _)| column.as_str());
        Err(with_place(undefined_column(&name, self.source.name(), names), place()))
    }

    fn literal(&mut self, value: &ast::Value) -> Result<Expr, SqlError> {
        if let Some(text) = text_of(value) {
            return Ok(Expr::Literal(Value::text(text)));
        }
        match value {
            ast::Value::Number(text, _) => number(text).map(Expr::Literal),
            ast::Value::Boolean(value) => Ok(Expr::Literal(Value::Boolean(*value))),
            ast::Value::Null => Ok(Expr::Literal(Value::Null)),
            ast::Value::HexStringLiteral(digits) => match hex_digits(digits) {
                Some(bytes) => Ok(Expr::Literal(Value::Blob(bytes))),
                None => Err(SqlError::new(
                    SqlState::InvalidText,
                    "X'…' holds pairs of hexadecimal digits",
                )),
            },
            ast::Value::Placeholder(text) => match parameter_index(text) {
                Some(index) => {
                    self.parameters = self.parameters.max(index + 1);
                    Ok(Expr::Parameter(index))
                }
                None => Err(SqlError::new(SqlState::SyntaxError, format!("bad parameter {text}"))),
            },
            other => Err(not_supported(
                format!("the literal {} is", shorten(&other.to_string())),
                "write '…'",
            )),
        }
    }

    fn binary(
        &mut self,
        syntax: &ast::Expr,
        left: &ast::Expr,
        op: &ast::BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Expr, SqlError> {
        use ast::BinaryOperator as Op;
        let compare = match op {
            Op::Eq => Some(CompareOp::Equal),
            Op::NotEq => Some(CompareOp::NotEqual),
            Op::Lt => Some(CompareOp::Less),
            Op::LtEq => Some(CompareOp::LessOrEqual),
            Op::Gt => Some(CompareOp::Greater),
            Op::GtEq => Some(CompareOp::GreaterOrEqual),
            _ => None,
        };
        if let Some(op) = compare {
            let syntaxes = (left, right);
            let (mut left, mut right) = (self.boxed(left)?, self.boxed(right)?);
            self.align(&mut left, &mut right, syntaxes)?;
            self.comparable(&left, &right)?;
            return Ok(Expr::Compare { op, left, right });
        }
        let arithmetic = match op {
            Op::Plus => ArithmeticOp::Add,
            Op::Minus => ArithmeticOp::Subtract,
            Op::Multiply => ArithmeticOp::Multiply,
            Op::Divide => ArithmeticOp::Divide,
            Op::Modulo => ArithmeticOp::Remainder,
            Op::StringConcat => ArithmeticOp::Concat,
            Op::Arrow => ArithmeticOp::JsonGet,
            Op::LongArrow => ArithmeticOp::JsonGetText,
            Op::And | Op::Or => return self.logic(syntax, matches!(op, Op::And)),
            _ => {
                return Err(not_supported(format!("the operator {op} is"), "see docs/SQL.md"));
            }
        };
        Ok(Expr::Arithmetic { op: arithmetic, left: self.boxed(left)?, right: self.boxed(right)? })
    }

    /// A chain of ANDs (or ORs) leans to the left as deep as it is long: walked, not recursed.
    fn logic(&mut self, syntax: &ast::Expr, is_and: bool) -> Result<Expr, SqlError> {
        let mut terms = Vec::new();
        let mut rest = syntax;
        loop {
            match rest {
                ast::Expr::BinaryOp { left, op, right }
                    if matches!(op, ast::BinaryOperator::And) == is_and
                        && matches!(op, ast::BinaryOperator::And | ast::BinaryOperator::Or) =>
                {
                    terms.push(right.as_ref());
                    rest = left;
                }
                other => {
                    terms.push(other);
                    break;
                }
            }
        }
        let mut list = Vec::with_capacity(terms.len());
        for term in terms.into_iter().rev() {
            match self.bind(term)? {
                Expr::And(inner) if is_and => list.extend(inner),
                Expr::Or(inner) if !is_and => list.extend(inner),
                other => list.push(other),
            }
        }
        Ok(if is_and { Expr::And(list) } else { Expr::Or(list) })
    }

    fn like(
        &mut self,
        value: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::Expr>,
        ignore_case: bool,
        negated: bool,
    ) -> Result<Expr, SqlError> {
        let escape = match escape {
            None => None,
            Some(ast::Expr::Value(value)) => {
                let mut characters = text_of(&value.value).unwrap_or_default().chars();
                match (characters.next(), characters.next()) {
                    (Some(escape), None) => Some(escape),
                    _ => {
                        return Err(SqlError::new(
                            SqlState::InvalidEscape,
                            "ESCAPE takes one character",
                        ));
                    }
                }
            }
            Some(_) => return Err(not_supported("a computed ESCAPE is", "write a literal")),
        };
        let (value, pattern) = (self.boxed(value)?, self.boxed(pattern)?);
        Ok(Expr::Like { value, pattern, escape, ignore_case, negated })
    }

    fn rounding(
        &mut self,
        function: Function,
        value: &ast::Expr,
        field: &ast::CeilFloorKind,
    ) -> Result<Expr, SqlError> {
        match field {
            ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime) => {
                Ok(Expr::Call { function, arguments: [self.bind(value)?].into() })
            }
            _ => Err(not_supported("floor and ceil with a second argument are", "use round(x, n)")),
        }
    }

    /// Text literals beside dates, timestamps and UUIDs are read as such, once, here.
    fn align(
        &self,
        left: &mut Expr,
        right: &mut Expr,
        syntaxes: (&ast::Expr, &ast::Expr),
    ) -> Result<(), SqlError> {
        read_text_as(left, infer(right, self.source))
            .map_err(|error| with_place(error, position_of(self.sql, syntaxes.0)))?;
        read_text_as(right, infer(left, self.source))
            .map_err(|error| with_place(error, position_of(self.sql, syntaxes.1)))
    }

    /// Types known to be incomparable are refused now, with a caret, and not at the first row.
    fn comparable(&self, left: &Expr, right: &Expr) -> Result<(), SqlError> {
        let sample = |expr| infer(expr, self.source).and_then(|known| sample_of(known.tag()));
        if let (Some(left), Some(right)) = (sample(left), sample(right)) {
            // Text beside a date is read at run time.
            let textual = left.tag() == TypeTag::Text || right.tag() == TypeTag::Text;
            let readable = |tag| {
                matches!(tag, TypeTag::Date | TypeTag::Timestamp | TypeTag::Uuid | TypeTag::Text)
            };
            if !(textual && readable(left.tag()) && readable(right.tag())) {
                crate::query::eval::compare(&left, &right)?;
            }
        }
        Ok(())
    }
}

fn read_text_as(text: &mut Expr, beside: Option<ColumnType>) -> Result<(), SqlError> {
    let (Expr::Literal(value), Some(beside)) = (&*text, beside) else { return Ok(()) };
    let Some(sample) = sample_of(beside.tag()) else { return Ok(()) };
    if let Some(aligned) = crate::query::coerce::align(value, &sample) {
        *text = Expr::Literal(aligned?);
    }
    Ok(())
}

fn sample_of(tag: TypeTag) -> Option<Value> {
    match tag {
        TypeTag::Null => None,
        TypeTag::Boolean => Some(Value::Boolean(false)),
        TypeTag::Integer => Some(Value::Integer(0)),
        TypeTag::Double => Some(Value::Double(0.0)),
        TypeTag::Decimal => Some(Value::Decimal(Decimal::ZERO)),
        TypeTag::Text => Some(Value::text("")),
        TypeTag::Blob => Some(Value::Blob(Vec::new())),
        TypeTag::Date => Some(Value::Date(0)),
        TypeTag::Timestamp => Some(Value::Timestamp(0)),
        TypeTag::Uuid => Some(Value::Uuid([0; 16])),
        TypeTag::Json => Some(Value::Json("null".to_owned())),
    }
}

pub fn undefined_column<'n>(
    name: &str,
    table: &str,
    known: impl Iterator<Item = &'n str>,
) -> SqlError {
    let known: Vec<&str> = known.collect();
    let error = if table.is_empty() {
        SqlError::new(SqlState::UndefinedColumn, format!("there is no column \"{name}\" here"))
    } else {
        SqlError::new(
            SqlState::UndefinedColumn,
            format!("table \"{table}\" has no column \"{name}\""),
        )
    };
    match known.iter().find(|column| column.eq_ignore_ascii_case(name)) {
        Some(column) => error.hint(format!("there is \"{column}\", with the quotes")),
        None if known.is_empty() => error.hint("texts are written 'in single quotes'"),
        None => error.hint(format!("columns are {}", shorten(&known.join(", ")))),
    }
}

#[must_use]
pub fn shorten(text: &str) -> String {
    if text.chars().count() <= 200 {
        return text.to_owned();
    }
    text.chars().take(200).chain("…".chars()).collect()
}

fn text_of(value: &ast::Value) -> Option<&str> {
    match value {
        ast::Value::SingleQuotedString(text)
        | ast::Value::EscapedStringLiteral(text)
        | ast::Value::NationalStringLiteral(text) => Some(text),
        ast::Value::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

/// Digits are BIGINT (DECIMAL when larger), with a point DECIMAL, with an exponent DOUBLE.
fn number(text: &str) -> Result<Value, SqlError> {
    let bad = || {
        SqlError::new(
            SqlState::NumericOutOfRange,
            format!("the number {} is out of range", shorten(text)),
        )
    };
    if text.contains(['e', 'E']) {
        return match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Value::Double(value)),
            _ => Err(bad()),
        };
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(Value::Integer(integer));
    }
    Decimal::parse(text).map(Value::Decimal).ok_or_else(bad)
}

fn negated(expr: Expr) -> Expr {
    match expr {
        // -9223372036854775808 is read as minus a DECIMAL.
        Expr::Literal(Value::Decimal(value)) if value.scale() == 0 => {
            let negative = value.checked_neg();
            Expr::Literal(match negative.to_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Decimal(negative),
            })
        }
        other => Expr::Negate(Box::new(other)),
    }
}

/// Operations on constants are done once. Those that fail wait until a row needs them.
fn fold_constant(expr: Expr) -> Expr {
    let leaf =
        matches!(expr, Expr::Literal(_) | Expr::Column(_) | Expr::Parameter(_) | Expr::Excluded(_));
    if leaf {
        return expr;
    }
    let mut children = 0;
    let mut literals = 0;
    let mut volatile = false;
    expr.visit(&mut |node| {
        match node {
            Expr::Literal(_) => literals += 1,
            Expr::Column(_) | Expr::Parameter(_) | Expr::Excluded(_) => children += 1,
            Expr::Call { function, .. } => volatile |= function.needs_context(),
            _ => {}
        };
    });
    if children > 0 || volatile || literals > 64 {
        return expr;
    }
    let context = Context::new(Timestamp(0), [0; 32]);
    match eval(&expr, &Env::constant(&[], &context)) {
        Ok(value) => Expr::Literal(value),
        Err(_) => expr,
    }
}
