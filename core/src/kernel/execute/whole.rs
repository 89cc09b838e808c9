//! The rows of an INSERT, whole and checked before the first of them is drafted.
//!
//! They lie one after the other, in buffers that requests use in turn. Needs no page.

use alloc::vec::Vec;
use core::ops::Range;

use super::overlay::{COLUMNS_KEPT, KEY_BYTES_KEPT, ROWS_KEPT};
use super::row::{check_row, into_column};
use super::{Stop, limit};
use crate::ids::ColumnId;
use crate::kernel::request::Limit;
use crate::query::codec_command::{Cell, InsertSent};
use crate::query::eval::{Context, Env, eval};
use crate::query::key::encode_key_into;
use crate::query::texts::Texts;
use crate::query::{SqlError, SqlState, TableSchema, Value};

#[derive(Debug, Default)]
pub(super) struct WholeRows {
    /// Columns of a row.
    width: usize,
    columns: Vec<Value>,
    keys: Vec<u8>,
    /// Of each row, where its key is; None: hidden, given by the row's own position.
    rows: Vec<Option<Range<usize>>>,
    /// Columns that the statement gives, and places of those that it does not.
    given: Vec<ColumnId>,
    others: Vec<usize>,
}

impl WholeRows {
    /// Every row of the statement, complete and checked, with its key.
    pub fn read(
        &mut self,
        schema: &TableSchema,
        insert: &InsertSent<'_>,
        context: &Context,
        texts: &mut Texts,
        bytes_max: u32,
    ) -> Result<(), Stop> {
        assert!(self.is_empty(), "nothing of another statement");
        let corrupt = |_| SqlError::new(SqlState::CorruptEncoding, "cells of an INSERT");
        self.width = schema.columns.len();
        self.given.extend(insert.columns());
        if self.given.iter().any(|id| id.get() == 0 || id.get() as usize > self.width) {
            return Err(SqlError::new(SqlState::CorruptEncoding, "columns of an INSERT").into());
        }
        let is_other = |at: &usize| !self.given.contains(&schema.columns[*at].id);
        self.others.extend((0..self.width).filter(is_other));
        let mut cells = insert.reader();
        let mut bytes = 0;
        for _ in 0..insert.count {
            let start = self.columns.len();
            self.columns.resize(start + self.width, Value::Null);
            let row = &mut self.columns[start..];
            for id in &self.given {
                let column = schema.column(*id);
                let value = match (cells.cell(texts).map_err(corrupt)?, &column.default) {
                    (Cell::Value(value), _) => value,
                    (Cell::Expr(expr), _) => eval(&expr, &Env::constant(&[], context))?,
                    (Cell::Default, Some(default)) => eval(default, &Env::constant(&[], context))?,
                    (Cell::Default, None) => Value::Null,
                };
                row[schema.ordinal(*id)] = into_column(value, column)?;
            }
            for at in &self.others {
                let column = &schema.columns[*at];
                let value = match &column.default {
                    Some(default) => eval(default, &Env::constant(&[], context))?,
                    None => Value::Null,
                };
                row[*at] = into_column(value, column)?;
            }
            check_row(schema, row, context)?;
            // Before the next is made: a DEFAULT may be large, and rows are many.
            bytes += row.iter().map(Value::heap_bytes).sum::<usize>();
            limit(Limit::TransactionBytes, bytes as u64, bytes_max)?;
            let start = self.keys.len();
            if !schema.hidden_key() {
                encode_key_into(schema, row, &mut self.keys)?;
            }
            self.rows.push((!schema.hidden_key()).then_some(start..self.keys.len()));
        }
        Ok(cells.finish().map_err(corrupt)?)
    }

    pub fn get_mut(&mut self, at: usize) -> Option<(Option<&[u8]>, &mut [Value])> {
        let key = self.rows.get(at)?.clone().map(|key| &self.keys[key]);
        Some((key, &mut self.columns[at * self.width..][..self.width]))
    }

    /// Keys of a row and those after it.
    pub fn keys_from(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        self.rows[at..].iter().flatten().map(|key| &self.keys[key.clone()])
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.columns.is_empty() && self.given.is_empty()
    }

    pub fn clear(&mut self, texts: &mut Texts) {
        self.columns.drain(..).for_each(|value| texts.reuse(value));
        self.columns.shrink_to(ROWS_KEPT * COLUMNS_KEPT);
        self.keys.clear();
        self.keys.shrink_to(ROWS_KEPT * KEY_BYTES_KEPT);
        self.rows.clear();
        self.rows.shrink_to(ROWS_KEPT);
        self.given.clear();
        self.others.clear();
    }
}
