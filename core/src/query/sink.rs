//! Where rows go that passed the filter: groups, DISTINCT, ORDER BY, LIMIT, in bounded memory.
//!
//! Invariants: what is held is counted in `bytes` and stays within `bytes_max`, else the statement
//! is refused with what would help; a sort is stable.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::ControlFlow;

use crate::limits::READ_SLICE_ROWS;
use crate::query::aggregate::Accumulator;
use crate::query::bind_select::{OrderKey, Select};
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{Env, eval};
use crate::query::expr::Expr;
use crate::query::plan::index_hint;
use crate::query::read::Row;
use crate::query::value::Value;

/// Where rows go that passed the filter.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) groups: BTreeMap<Row, Vec<Accumulator>>,
    pub(super) seen: BTreeSet<Row>,
    /// Rows to sort, with hidden sort columns; and how many bytes they take.
    pub(super) sorting: Vec<Row>,
    pub(super) bytes: usize,
    /// What `bytes` may come to; beyond, the statement is refused.
    pub(super) bytes_max: usize,
    pub(super) skip: u64,
    pub(super) left: u64,
    /// What `sorting` may be cut down to: LIMIT + OFFSET.
    pub(super) keep: Option<usize>,
    pub(super) sorted: bool,
    /// Rows do not come in the wanted order.
    pub(super) sorts: bool,
    /// The groups are final: the one that no rows make was added if it had to be.
    pub(super) closed: bool,
}

impl Sink {
    pub(super) fn group(&mut self, select: &Select, env: &Env<'_>) -> Result<(), SqlError> {
        let Some(grouping) = &select.grouping else { unreachable!("the caller matched it") };
        let accumulators = if grouping.keys.is_empty() && !self.groups.is_empty() {
            // One group of all rows needs no search.
            self.groups.values_mut().next()
        } else {
            let key: Row =
                grouping.keys.iter().map(|key| eval(key, env)).collect::<Result<_, _>>()?;
            if !self.groups.contains_key(&key) {
                self.bytes += size_of_row(&key) + grouping.aggregates.len() * 64;
                let accumulators = grouping.aggregates.iter().map(Accumulator::new).collect();
                self.groups.insert(key.clone(), accumulators);
            }
            self.groups.get_mut(&key)
        };
        let Some(accumulators) = accumulators else { unreachable!("it was just inserted") };
        for (accumulator, aggregate) in accumulators.iter_mut().zip(&grouping.aggregates) {
            let value =
                aggregate.argument.as_ref().map(|argument| eval(argument, env)).transpose()?;
            self.bytes += accumulator.add(value)?;
        }
        if self.bytes > self.bytes_max {
            return Err(too_much("GROUP BY or DISTINCT", self.bytes_max)
                .hint("narrow the WHERE, so that fewer groups are left"));
        }
        Ok(())
    }

    /// A row of outputs, hidden sort columns included.
    pub(super) fn push(
        &mut self,
        select: &Select,
        row: Row,
        ready: &mut Vec<Row>,
    ) -> Result<ControlFlow<()>, SqlError> {
        if select.distinct {
            if self.seen.contains(&row) {
                return Ok(ControlFlow::Continue(()));
            }
            self.bytes += size_of_row(&row);
            if self.bytes > self.bytes_max {
                return Err(too_much("DISTINCT", self.bytes_max).hint("narrow the WHERE"));
            }
            self.seen.insert(row.clone());
        }
        if !self.sorts {
            return Ok(self.deliver(select, row, ready));
        }
        self.bytes += size_of_row(&row);
        self.sorting.push(row);
        if let Some(keep) = self.keep
            && self.sorting.len() >= keep.saturating_mul(2).max(READ_SLICE_ROWS)
        {
            self.sort(&select.order);
            for dropped in self.sorting.drain(keep..) {
                self.bytes -= size_of_row(&dropped);
            }
        }
        if self.bytes > self.bytes_max {
            return Err(too_much("ORDER BY", self.bytes_max).hint(order_hint(select)));
        }
        Ok(ControlFlow::Continue(()))
    }

    pub(super) fn deliver(
        &mut self,
        select: &Select,
        mut row: Row,
        ready: &mut Vec<Row>,
    ) -> ControlFlow<()> {
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        if self.skip > 0 {
            self.skip -= 1;
            return ControlFlow::Continue(());
        }
        row.truncate(select.visible);
        ready.push(row);
        self.left -= 1;
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Stable: rows that compare equal stay in the order of their keys.
    pub(super) fn sort(&mut self, order: &[OrderKey]) {
        self.sorting.sort_by(|left, right| compare_rows(left, right, order));
    }
}

fn order_hint(select: &Select) -> String {
    let column = |key: &OrderKey| match &select.outputs[key.output] {
        Expr::Column(id) if select.grouping.is_none() => Some(*id),
        _ => None,
    };
    let columns: Option<Vec<_>> = select.order.iter().map(column).collect();
    let index =
        columns.and_then(|columns| index_hint(&select.source, select.filter.as_ref(), &columns));
    match index {
        Some(index) => {
            format!("add LIMIT, narrow the WHERE, or {index}, so that nothing is sorted")
        }
        None => String::from("add LIMIT, or narrow the WHERE"),
    }
}

fn compare_rows(left: &[Value], right: &[Value], order: &[OrderKey]) -> Ordering {
    for key in order {
        let (left, right) = (&left[key.output], &right[key.output]);
        let ordering = match (left.is_null(), right.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if key.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if key.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if key.descending => right.cmp(left),
            (false, false) => left.cmp(right),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
    Ordering::Equal
}

fn size_of_row(row: &[Value]) -> usize {
    row.iter().map(|value| core::mem::size_of::<Value>() + value.heap_bytes()).sum::<usize>() + 32
}

fn too_much(what: &str, bytes_max: usize) -> SqlError {
    SqlError::new(
        SqlState::LimitExceeded,
        format!("{what} needs more than {} MiB of memory, beside other reads", bytes_max >> 20),
    )
}
