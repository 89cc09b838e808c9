//! INSERT: cells → whole, checked rows → drafts; ON CONFLICT on whatever is unique.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use super::row::{CurrentRow, check_row, declared_key, into_column, unique_violation};
use super::unique::Clash;
use super::{Execution, ExecutionContext, Step, Stop, schema_changed};
use crate::ids::{ColumnId, TreeId};
use crate::query::codec_command::{Cell, InsertSent};
use crate::query::command::{Assignment, ConflictTarget, OnConflict};
use crate::query::eval::{Context, Env, RowView, eval, eval_truth};
use crate::query::index::Index;
use crate::query::key::hidden_key;
use crate::query::{Expr, SqlError, SqlState, TableSchema, Value};

/// A complete, checked row and its key; None: hidden, given by the row's own position.
type KeyedRow = (Option<Vec<u8>>, Vec<Value>);

/// Rows that are ready, and how many of them are drafted.
#[derive(Debug)]
pub(super) struct Inserting {
    rows: Vec<KeyedRow>,
    next: usize,
    affected: u64,
    /// Keys that an upsert inserted or changed: none of them may be hit again.
    upserted: BTreeSet<Vec<u8>>,
}

impl Execution {
    pub(super) fn insert(
        &mut self,
        context: &ExecutionContext<'_>,
        insert: &InsertSent<'_>,
    ) -> Result<u64, Stop> {
        let schema = self.table(context, insert.table, insert.schema_version)?;
        let mut inserting = match core::mem::replace(&mut self.step, Step::Begin) {
            Step::Inserting(inserting) => inserting,
            Step::Begin | Step::Changing(_) | Step::Building(_) | Step::Slice(_) => Inserting {
                rows: whole_rows(&schema, insert, &self.context)?,
                next: 0,
                affected: 0,
                upserted: BTreeSet::new(),
            },
        };
        let result = self.insert_rows(context, &schema, insert, &mut inserting);
        if let Err(Stop::Fault(_)) = &result {
            let ahead = inserting.rows[inserting.next..].iter();
            self.prefetch(context, &schema, ahead.filter_map(|(key, _)| key.as_deref()));
        }
        let affected = inserting.affected;
        self.step = Step::Inserting(inserting);
        result.map(|()| affected)
    }

    fn insert_rows(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        insert: &InsertSent<'_>,
        inserting: &mut Inserting,
    ) -> Result<(), Stop> {
        while let Some((key, row)) = inserting.rows.get_mut(inserting.next) {
            let (target, arbiter) = match &insert.on_conflict {
                OnConflict::Fail => (None, None),
                OnConflict::DoNothing(target) | OnConflict::DoUpdate { target, .. } => {
                    (Some(*target), arbiter_of(schema, *target)?)
                }
            };
            let Some(clash) = self.clash(context, schema, key.as_deref(), row, arbiter)? else {
                let (key, row) = (key.take(), core::mem::take(row));
                if let OnConflict::DoUpdate { .. } = &insert.on_conflict {
                    let position = context.drafts.next_position(&self.drafts);
                    let key = key.clone().unwrap_or_else(|| hidden_key(position).to_vec());
                    inserting.upserted.insert(key);
                }
                self.put_row(context, schema, key, None, row)?;
                inserting.affected += 1;
                inserting.next += 1;
                self.steps += 1;
                continue;
            };
            let expected = match (&clash, target) {
                (_, None) => false,
                (_, Some(ConflictTarget::Any)) => true,
                (Clash::PrimaryKey, Some(target)) => target == ConflictTarget::PrimaryKey,
                (Clash::Index(entries, _), Some(target)) => {
                    target == ConflictTarget::Index(*entries)
                }
            };
            if !expected {
                return Err(violation(schema, &clash, row).into());
            }
            if let OnConflict::DoUpdate { assignments, predicate, .. } = &insert.on_conflict {
                let taken = match (clash, &*key) {
                    (Clash::Index(_, holder), _) => holder,
                    (Clash::PrimaryKey, Some(key)) => key.clone(),
                    (Clash::PrimaryKey, None) => unreachable!("a hidden key is never taken"),
                };
                if inserting.upserted.contains(&taken) {
                    return Err(row_twice().into());
                }
                let Some(current) = self.current(context, schema, &taken)? else {
                    unreachable!("it was just seen");
                };
                let wanted = Upsert { assignments, predicate: predicate.as_ref() };
                if self.upsert(context, schema, &wanted, taken.clone(), current, row)? {
                    inserting.upserted.insert(taken);
                    inserting.affected += 1;
                }
            }
            inserting.next += 1;
            self.steps += 1;
        }
        Ok(())
    }

    /// The row that is there takes the assignments, seeing the one that was proposed.
    fn upsert(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        wanted: &Upsert<'_>,
        key: Vec<u8>,
        current: CurrentRow,
        proposed: &[Value],
    ) -> Result<bool, Stop> {
        let excluded = RowView::Values(proposed);
        let row = RowView::Values(&current.row);
        let env = Env { row, excluded, ..Env::constant(&[], &self.context) };
        if let Some(predicate) = wanted.predicate
            && eval_truth(predicate, &env)? != Some(true)
        {
            return Ok(false);
        }
        let row = assigned(schema, wanted.assignments, &current.row, &env, &self.context)?;
        if !schema.hidden_key() && declared_key(schema, &row)? != key {
            let message = "ON CONFLICT DO UPDATE must not change the primary key";
            return Err(SqlError::new(SqlState::FeatureNotSupported, message)
                .hint("delete the row and insert it again")
                .into());
        }
        for index in schema.indexes.iter().filter(|index| index.unique) {
            if self.holder(context, schema, index, &row, Some(&key))?.is_some() {
                return Err(index.violation(schema, &row).into());
            }
        }
        self.put_row(context, schema, Some(key), Some(&current), row)?;
        Ok(true)
    }
}

/// As the standard says of MERGE: the outcome must not depend on the order of rows.
fn row_twice() -> SqlError {
    let message = "ON CONFLICT DO UPDATE would change one row twice";
    SqlError::new(SqlState::CardinalityViolation, message)
        .hint("no two rows of one INSERT may have the same key")
}

/// The index that ON CONFLICT names: it is asked first.
fn arbiter_of(schema: &TableSchema, target: ConflictTarget) -> Result<Option<TreeId>, SqlError> {
    match target {
        ConflictTarget::Any | ConflictTarget::PrimaryKey => Ok(None),
        ConflictTarget::Index(entries) => match schema.index(entries) {
            Some(index) if index.ready_at.is_some() => Ok(Some(entries)),
            Some(index) => Err(being_built(index)),
            None => Err(schema_changed(&schema.name)),
        },
    }
}

/// A row that the build has not reached yet would be inserted beside, and not be updated.
fn being_built(index: &Index) -> SqlError {
    let message =
        format!("index \"{}\" is still being built: ON CONFLICT cannot use it", index.name);
    SqlError::new(SqlState::InvalidColumnReference, message)
        .hint("wait until __indexes says when it was ready (SHOW JOBS tells how far it is)")
}

fn violation(schema: &TableSchema, clash: &Clash, row: &[Value]) -> SqlError {
    match clash {
        Clash::PrimaryKey => unique_violation(schema, row),
        Clash::Index(entries, _) => match schema.index(*entries) {
            Some(index) => index.violation(schema, row),
            None => unreachable!("the clash is with an index of the table"),
        },
    }
}

#[derive(Clone, Copy)]
struct Upsert<'a> {
    assignments: &'a [Assignment],
    predicate: Option<&'a Expr>,
}

/// The row after the assignments, checked. All of them see the row as it was.
pub(super) fn assigned(
    schema: &TableSchema,
    assignments: &[Assignment],
    before: &[Value],
    env: &Env<'_>,
    context: &Context,
) -> Result<Vec<Value>, SqlError> {
    let mut row = before.to_vec();
    for assignment in assignments {
        let column = schema.column(assignment.column);
        let value = match (&assignment.value, &column.default) {
            (Some(expr), _) => eval(expr, env)?,
            (None, Some(default)) => eval(default, &Env::constant(&[], context))?,
            (None, None) => Value::Null,
        };
        row[schema.ordinal(assignment.column)] = into_column(value, column)?;
    }
    check_row(schema, &row, context)?;
    Ok(row)
}

/// Every row of the statement, complete and checked, with its key. Needs no page.
fn whole_rows(
    schema: &TableSchema,
    insert: &InsertSent<'_>,
    context: &Context,
) -> Result<Vec<KeyedRow>, SqlError> {
    let corrupt = |_| SqlError::new(SqlState::CorruptEncoding, "cells of an INSERT");
    let width = schema.columns.len();
    let columns: Vec<ColumnId> = insert.columns().collect();
    if columns.iter().any(|id| id.get() == 0 || id.get() as usize > width) {
        return Err(SqlError::new(SqlState::CorruptEncoding, "columns of an INSERT"));
    }
    let defaults: Vec<usize> =
        (0..width).filter(|at| !columns.contains(&schema.columns[*at].id)).collect();
    let mut rows = Vec::with_capacity((insert.count as usize).min(insert.cells.len()));
    let mut cells = insert.reader();
    for _ in 0..insert.count {
        let mut row = alloc::vec![Value::Null; width];
        for id in &columns {
            let column = schema.column(*id);
            let value = match (cells.cell().map_err(corrupt)?, &column.default) {
                (Cell::Value(value), _) => value,
                (Cell::Expr(expr), _) => eval(&expr, &Env::constant(&[], context))?,
                (Cell::Default, Some(default)) => eval(default, &Env::constant(&[], context))?,
                (Cell::Default, None) => Value::Null,
            };
            row[schema.ordinal(*id)] = into_column(value, column)?;
        }
        for at in &defaults {
            let column = &schema.columns[*at];
            let value = match &column.default {
                Some(default) => eval(default, &Env::constant(&[], context))?,
                None => Value::Null,
            };
            row[*at] = into_column(value, column)?;
        }
        check_row(schema, &row, context)?;
        let key = if schema.hidden_key() { None } else { Some(declared_key(schema, &row)?) };
        rows.push((key, row));
    }
    cells.finish().map_err(corrupt)?;
    Ok(rows)
}
