//! Canonical queries: what exactly a proof answers, in one encoding.
//!
//! ```text
//! query  = [1, tenant, 0, table, ranges, filter, as_of, columns, descending, offset, limit | null]
//!        | [1, tenant, 1, table, ranges, filter, as_of]                                     COUNT
//!        | [1, tenant, 2, table, key]                                        history of a row
//!        | [1, tenant, 3, position]                                                  an event
//!        | [1, tenant, 4, idempotency id]                         commitment of a transaction
//! range  = [0, key] | [1, low, high | null]                                 low ≤ key < high
//! as_of  = null | position | [nanoseconds after 1970]
//! filter = null | expression
//! expression = [0, column, operator, value]       operator 0 =, 1 <>, 2 <, 3 <=, 4 >, 5 >=
//!            | [1, column, [value …]]  IN         | [2, column]         IS NULL
//!            | [3, [expression …]]     AND        | [4, [expression …]] OR
//!            | [5, expression]         NOT
//! value  = [type tag, bytes]
//! ```
//!
//! Invariants: deterministic CBOR, so equal queries are equal bytes; ranges ascend and are
//! disjoint; depth and size are bounded before anything is built.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Reject;
use super::value::{Value, compare};
use crate::ids::{ColumnId, IdempotencyId, Position, TableId, TenantId};
use crate::limits::{COLUMNS_MAX, KEY_RANGES_MAX, PROOF_FILTER_DEPTH_MAX, PROOF_FILTER_TERMS_MAX};
use crate::stdx::cbor::{DecodeError, Decoder, Encoder};

const VERSION: u64 = 1;

/// What is asked, of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalQuery {
    pub tenant: TenantId,
    pub kind: QueryKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryKind {
    Rows {
        scan: Scan,
        columns: Vec<ColumnId>,
        descending: bool,
        offset: u64,
        limit: Option<u64>,
    },
    Count {
        scan: Scan,
    },
    /// All versions of the row under a key.
    History {
        table: TableId,
        key: Vec<u8>,
    },
    Event {
        position: Position,
    },
    /// What an idempotency id remembers.
    Commitment {
        id: IdempotencyId,
    },
}

/// Rows of a table: in ranges of the primary key, that pass a filter, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub table: TableId,
    pub ranges: Vec<Range>,
    pub filter: Option<Filter>,
    pub as_of: Option<AsOf>,
}

/// The moment that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// A transaction must have ended there.
    Position(Position),
    /// After the last record that is not younger; nanoseconds after 1970.
    Timestamp(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    Point(Vec<u8>),
    /// Low included, high not.
    Span {
        low: Vec<u8>,
        high: Option<Vec<u8>>,
    },
}

impl Range {
    pub(super) fn low(&self) -> &[u8] {
        match self {
            Range::Point(key) => key,
            Range::Span { low, .. } => low,
        }
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        match self {
            Range::Point(point) => key == point,
            Range::Span { low, .. } => key >= low.as_slice() && !self.is_past(key),
        }
    }

    /// Does every key after `key` lie behind the range?
    pub(super) fn ends_by(&self, key: &[u8]) -> bool {
        match self {
            Range::Point(point) => key >= point.as_slice(),
            Range::Span { .. } => self.is_past(key),
        }
    }

    fn is_past(&self, key: &[u8]) -> bool {
        match self {
            Range::Point(point) => key > point.as_slice(),
            Range::Span { high, .. } => high.as_ref().is_some_and(|high| key >= high.as_slice()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

const COMPARISONS: [Comparison; 6] = [
    Comparison::Equal,
    Comparison::NotEqual,
    Comparison::Less,
    Comparison::LessOrEqual,
    Comparison::Greater,
    Comparison::GreaterOrEqual,
];

/// The closed language of filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    Compare { column: ColumnId, operator: Comparison, value: Value },
    In { column: ColumnId, values: Vec<Value> },
    IsNull { column: ColumnId },
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
}

impl Filter {
    /// SQL's three-valued logic; `None` is unknown, which a row does not pass.
    pub(crate) fn holds(
        &self,
        column_of: &mut impl FnMut(ColumnId) -> Result<Value, Reject>,
    ) -> Result<Option<bool>, Reject> {
        Ok(match self {
            Filter::Compare { column, operator, value } => compare(&column_of(*column)?, value)?
                .map(|order| match operator {
                    Comparison::Equal => order.is_eq(),
                    Comparison::NotEqual => order.is_ne(),
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                }),
            Filter::In { column, values } => {
                let found = column_of(*column)?;
                // All are compared, so that which refusal comes depends on no order.
                let mut result = Some(false);
                for value in values {
                    match compare(&found, value)? {
                        Some(order) if order.is_eq() => result = Some(true),
                        None if result != Some(true) => result = None,
                        Some(_) | None => {}
                    }
                }
                result
            }
            Filter::IsNull { column } => Some(column_of(*column)?.tag == super::value::NULL),
            Filter::And(terms) => {
                let mut result = Some(true);
                for term in terms {
                    match term.holds(column_of)? {
                        Some(false) => result = Some(false),
                        None if result != Some(false) => result = None,
                        Some(true) | None => {}
                    }
                }
                result
            }
            Filter::Or(terms) => {
                let mut result = Some(false);
                for term in terms {
                    match term.holds(column_of)? {
                        Some(true) => result = Some(true),
                        None if result != Some(true) => result = None,
                        Some(false) | None => {}
                    }
                }
                result
            }
            Filter::Not(term) => term.holds(column_of)?.map(|value| !value),
        })
    }

    /// Every column that it looks at.
    pub fn for_each_column(&self, visit: &mut impl FnMut(ColumnId)) {
        match self {
            Filter::Compare { column, .. }
            | Filter::In { column, .. }
            | Filter::IsNull { column } => {
                visit(*column);
            }
            Filter::And(terms) | Filter::Or(terms) => {
                terms.iter().for_each(|term| term.for_each_column(visit));
            }
            Filter::Not(term) => term.for_each_column(visit),
        }
    }

    /// How large it is: expressions, and the values of IN.
    #[must_use]
    pub fn terms(&self) -> usize {
        match self {
            Filter::Compare { .. } | Filter::IsNull { .. } => 1,
            Filter::In { values, .. } => 1 + values.len(),
            Filter::And(terms) | Filter::Or(terms) => {
                1 + terms.iter().map(Filter::terms).sum::<usize>()
            }
            Filter::Not(term) => 1 + term.terms(),
        }
    }

    fn encode(&self, encoder: &mut Encoder<'_>) {
        let column_of = |column: &ColumnId| u64::from(column.get());
        match self {
            Filter::Compare { column, operator, value } => {
                encoder.array(4).uint(0).uint(column_of(column)).uint(*operator as u64);
                value.encode(encoder);
            }
            Filter::In { column, values } => {
                encoder.array(3).uint(1).uint(column_of(column)).array(values.len());
                values.iter().for_each(|value| value.encode(encoder));
            }
            Filter::IsNull { column } => {
                encoder.array(2).uint(2).uint(column_of(column));
            }
            Filter::And(terms) | Filter::Or(terms) => {
                let kind = if matches!(self, Filter::And(_)) { 3 } else { 4 };
                encoder.array(2).uint(kind).array(terms.len());
                terms.iter().for_each(|term| term.encode(encoder));
            }
            Filter::Not(term) => {
                encoder.array(2).uint(5);
                term.encode(encoder);
            }
        }
    }

    fn decode(
        decoder: &mut Decoder<'_>,
        depth: usize,
        left: &mut usize,
    ) -> Result<Filter, DecodeError> {
        if depth == 0 || *left == 0 {
            return decoder.error("the filter is too deep or too large");
        }
        *left -= 1;
        let fields = decoder.array()?;
        let kind = decoder.uint()?;
        let (filter, expected) = match kind {
            0 => {
                let column = ColumnId::new(decoder.u32()?);
                let operator = decoder.u8()?;
                let Some(operator) = COMPARISONS.get(usize::from(operator)) else {
                    return decoder.error("unknown operator");
                };
                let value = Value::decode(decoder)?;
                (Filter::Compare { column, operator: *operator, value }, 4)
            }
            1 => {
                let column = ColumnId::new(decoder.u32()?);
                let count = decoder.array()?;
                if count > *left {
                    return decoder.error("the filter is too deep or too large");
                }
                *left -= count;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(Value::decode(decoder)?);
                }
                (Filter::In { column, values }, 3)
            }
            2 => (Filter::IsNull { column: ColumnId::new(decoder.u32()?) }, 2),
            3 | 4 => {
                let mut terms = Vec::new();
                for _ in 0..decoder.array()? {
                    terms.push(Filter::decode(decoder, depth - 1, left)?);
                }
                (if kind == 3 { Filter::And(terms) } else { Filter::Or(terms) }, 2)
            }
            5 => (Filter::Not(Box::new(Filter::decode(decoder, depth - 1, left)?)), 2),
            _ => return decoder.error("unknown expression"),
        };
        if fields == expected {
            Ok(filter)
        } else {
            decoder.error("an expression has other fields")
        }
    }
}

impl Scan {
    fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.uint(u64::from(self.table.get())).array(self.ranges.len());
        for range in &self.ranges {
            match range {
                Range::Point(key) => encoder.array(2).uint(0).bytes(key),
                Range::Span { low, high } => {
                    encoder.array(3).uint(1).bytes(low).option(high.as_ref(), |encoder, high| {
                        encoder.bytes(high);
                    })
                }
            };
        }
        encoder.option(self.filter.as_ref(), |encoder, filter| filter.encode(encoder));
        encoder.option(self.as_of, |encoder, as_of| match as_of {
            AsOf::Position(position) => {
                encoder.uint(position.get());
            }
            AsOf::Timestamp(time_ns) => {
                encoder.array(1).uint(time_ns);
            }
        });
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Scan, DecodeError> {
        let table = TableId::new(decoder.u32()?);
        let count = decoder.array()?;
        if count > KEY_RANGES_MAX {
            return decoder.error("too many ranges");
        }
        let mut ranges: Vec<Range> = Vec::new();
        for _ in 0..count {
            let fields = decoder.array()?;
            let range = match (decoder.uint()?, fields) {
                (0, 2) => Range::Point(decoder.bytes()?.to_vec()),
                (1, 3) => {
                    let low = decoder.bytes()?.to_vec();
                    let high = decoder.option(|decoder| Ok(decoder.bytes()?.to_vec()))?;
                    if high.as_ref().is_some_and(|high| *high <= low) {
                        return decoder.error("a range is empty");
                    }
                    Range::Span { low, high }
                }
                _ => return decoder.error("unknown range"),
            };
            let follows = ranges
                .last()
                .is_none_or(|last| last.low() < range.low() && last.is_past(range.low()));
            if !follows {
                return decoder.error("ranges overlap or are not in order");
            }
            ranges.push(range);
        }
        let mut left = PROOF_FILTER_TERMS_MAX;
        let filter =
            decoder.option(|decoder| Filter::decode(decoder, PROOF_FILTER_DEPTH_MAX, &mut left))?;
        let as_of = decoder.option(|decoder| {
            if decoder.is_array() {
                decoder.record(1)?;
                return Ok(AsOf::Timestamp(decoder.uint()?));
            }
            Ok(AsOf::Position(Position::new(decoder.uint()?)))
        })?;
        Ok(Scan { table, ranges, filter, as_of })
    }
}

impl CanonicalQuery {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let encoder = &mut Encoder::new(&mut out);
        let head = |encoder: &mut Encoder<'_>, fields, kind| {
            encoder.array(fields).uint(VERSION).uint(self.tenant.get()).uint(kind);
        };
        match &self.kind {
            QueryKind::Rows { scan, columns, descending, offset, limit } => {
                head(encoder, 11, 0);
                scan.encode(encoder);
                encoder.array(columns.len());
                for column in columns {
                    encoder.uint(u64::from(column.get()));
                }
                encoder.bool(*descending).uint(*offset).option(*limit, |encoder, limit| {
                    encoder.uint(limit);
                });
            }
            QueryKind::Count { scan } => {
                head(encoder, 7, 1);
                scan.encode(encoder);
            }
            QueryKind::History { table, key } => {
                head(encoder, 5, 2);
                encoder.uint(u64::from(table.get())).bytes(key);
            }
            QueryKind::Event { position } => {
                head(encoder, 4, 3);
                encoder.uint(position.get());
            }
            QueryKind::Commitment { id } => {
                head(encoder, 4, 4);
                encoder.bytes(&id.0);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<CanonicalQuery, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        let fields = decoder.array()?;
        if decoder.uint()? != VERSION {
            return decoder.error("query of another version");
        }
        let tenant = TenantId::new(decoder.uint()?);
        let (kind, expected) = match decoder.uint()? {
            0 => {
                let scan = Scan::decode(decoder)?;
                let count = decoder.array()?;
                if count > COLUMNS_MAX {
                    return decoder.error("too many columns");
                }
                let mut columns = Vec::new();
                for _ in 0..count {
                    columns.push(ColumnId::new(decoder.u32()?));
                }
                let (descending, offset) = (decoder.bool()?, decoder.uint()?);
                let limit = decoder.option(Decoder::uint)?;
                (QueryKind::Rows { scan, columns, descending, offset, limit }, 11)
            }
            1 => (QueryKind::Count { scan: Scan::decode(decoder)? }, 7),
            2 => {
                let table = TableId::new(decoder.u32()?);
                (QueryKind::History { table, key: decoder.bytes()?.to_vec() }, 5)
            }
            3 => (QueryKind::Event { position: Position::new(decoder.uint()?) }, 4),
            4 => (QueryKind::Commitment { id: IdempotencyId(decoder.fixed()?) }, 4),
            _ => return decoder.error("unknown kind of query"),
        };
        decoder.finish()?;
        if fields == expected {
            Ok(CanonicalQuery { tenant, kind })
        } else {
            decoder.error("a query has another number of fields")
        }
    }
}
