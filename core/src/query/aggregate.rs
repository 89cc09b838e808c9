//! COUNT, SUM, MIN, MAX, AVG.
//!
//! NULLs are left out by all but COUNT(*); over no rows COUNT is 0 and the others are NULL. A sum
//! of integers is exact and must fit BIGINT in the end; of decimals exact; of doubles in the order
//! of the rows.

use alloc::collections::BTreeSet;

use crate::query::bind::{Aggregate, AggregateFunction};
use crate::query::decimal::Decimal;
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{compare, double_arithmetic, out_of_range, to_f64};
use crate::query::expr::ArithmeticOp;
use crate::query::value::Value;

#[derive(Debug)]
pub struct Accumulator {
    function: AggregateFunction,
    count: i64,
    /// Exact while only integers came.
    integers: i128,
    /// Takes over with the first decimal or double.
    other: Option<Value>,
    best: Value,
    /// Values seen, for DISTINCT.
    seen: Option<BTreeSet<Value>>,
}

impl Accumulator {
    #[must_use]
    pub fn new(aggregate: &Aggregate) -> Accumulator {
        Accumulator {
            function: aggregate.function,
            count: 0,
            integers: 0,
            other: None,
            best: Value::Null,
            seen: aggregate.distinct.then(BTreeSet::new),
        }
    }

    /// Adds a row's value (None: COUNT(*)). Gives the bytes of memory it keeps because of it.
    pub fn add(&mut self, value: Option<Value>) -> Result<usize, SqlError> {
        let Some(value) = value else {
            self.count += 1;
            return Ok(0);
        };
        if value.is_null() {
            return Ok(0);
        }
        let mut kept = 0;
        if let Some(seen) = &mut self.seen {
            if !seen.insert(value.clone()) {
                return Ok(0);
            }
            kept = core::mem::size_of::<Value>() + value.heap_bytes();
        }
        self.count += 1;
        match self.function {
            AggregateFunction::CountRows | AggregateFunction::Count => {}
            AggregateFunction::Sum | AggregateFunction::Average => self.sum(&value)?,
            AggregateFunction::Min | AggregateFunction::Max => {
                let better = match compare(&value, &self.best)? {
                    None => true,
                    Some(order) if self.function == AggregateFunction::Min => order.is_lt(),
                    Some(order) => order.is_gt(),
                };
                if better {
                    self.best = value;
                }
            }
        }
        Ok(kept)
    }

    fn sum(&mut self, value: &Value) -> Result<(), SqlError> {
        if !value.tag().is_numeric() {
            return Err(SqlError::new(
                SqlState::DatatypeMismatch,
                alloc::format!("SUM and AVG take numbers, not {}", value.tag().name()),
            ));
        }
        if let (None, Value::Integer(value)) = (&self.other, value) {
            // At most 2^63 rows of 2^63: fits 128 bits.
            self.integers += i128::from(*value);
            return Ok(());
        }
        let so_far = match self.other.take() {
            Some(so_far) => so_far,
            None => Value::Decimal(
                Decimal::new(self.integers, 0).ok_or_else(|| out_of_range("the sum"))?,
            ),
        };
        self.other = Some(match (&so_far, value) {
            (Value::Decimal(sum), Value::Decimal(value)) => {
                Value::Decimal(sum.checked_add(*value).ok_or_else(|| out_of_range("the sum"))?)
            }
            (Value::Decimal(sum), Value::Integer(value)) => Value::Decimal(
                sum.checked_add(Decimal::from_i64(*value))
                    .ok_or_else(|| out_of_range("the sum"))?,
            ),
            (sum, value) => double_arithmetic(ArithmeticOp::Add, to_f64(sum), to_f64(value))?,
        });
        Ok(())
    }

    pub fn finish(self) -> Result<Value, SqlError> {
        match self.function {
            AggregateFunction::CountRows | AggregateFunction::Count => {
                Ok(Value::Integer(self.count))
            }
            AggregateFunction::Min | AggregateFunction::Max => Ok(self.best),
            AggregateFunction::Sum | AggregateFunction::Average if self.count == 0 => {
                Ok(Value::Null)
            }
            AggregateFunction::Sum => match self.other {
                Some(sum) => Ok(sum),
                None => i64::try_from(self.integers)
                    .map(Value::Integer)
                    .map_err(|_| out_of_range("the sum").hint("SUM(CAST(… AS DECIMAL(38,0)))")),
            },
            AggregateFunction::Average => match self.other {
                Some(Value::Decimal(sum)) => sum
                    .checked_div(Decimal::from_i64(self.count))
                    .map(Value::Decimal)
                    .ok_or_else(|| out_of_range("the average")),
                Some(sum) => Ok(Value::Double(to_f64(&sum) / self.count as f64)),
                None => Ok(Value::Double(self.integers as f64 / self.count as f64)),
            },
        }
    }
}
