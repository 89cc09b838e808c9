//! INSERT: cells → whole, checked rows → drafts; ON CONFLICT on whatever is unique.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use super::row::{CurrentRow, check_row, declared_key, into_column, unique_violation};
use super::unique::Clash;
use super::whole::WholeRows;
use super::{Execution, ExecutionContext, ExecutionScratch, Step, Stop, schema_changed};
use crate::ids::TreeId;
use crate::query::codec_command::InsertSent;
use crate::query::command::{Assignment, ConflictTarget, OnConflict};
use crate::query::eval::{Context, Env, RowView, eval, eval_truth};
use crate::query::index::Index;
use crate::query::key::hidden_key;
use crate::query::{Expr, SqlError, SqlState, TableSchema, Value};

/// Rows that are ready, and how many of them are drafted.
#[derive(Debug)]
pub(super) struct Inserting {
    rows: WholeRows,
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
            Step::Begin | Step::Changing(_) | Step::Building(_) | Step::Slice(_) => {
                let ExecutionScratch { whole, texts, .. } = &mut *self.scratch;
                let bytes_max = context.constants.transaction_bytes_max;
                whole.read(&schema, insert, &self.context, texts, bytes_max)?;
                let rows = core::mem::take(whole);
                Inserting { rows, next: 0, affected: 0, upserted: BTreeSet::new() }
            }
        };
        let result = self.insert_rows(context, &schema, insert, &mut inserting);
        if let Err(Stop::Fault(fault)) = result {
            self.prefetch(context, &schema, inserting.rows.keys_from(inserting.next));
            self.step = Step::Inserting(inserting);
            return Err(fault.into());
        }
        let ExecutionScratch { whole, texts, .. } = &mut *self.scratch;
        *whole = inserting.rows;
        whole.clear(texts);
        result.map(|()| inserting.affected)
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
            let Some(clash) = self.clash(context, schema, key, row, arbiter)? else {
                if let OnConflict::DoUpdate { .. } = &insert.on_conflict {
                    let position = context.drafts.next_position(&self.drafts);
                    let key = key.map_or_else(|| hidden_key(position).to_vec(), <[u8]>::to_vec);
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
                let taken = match (clash, key) {
                    (Clash::Index(_, holder), _) => holder,
                    (Clash::PrimaryKey, Some(key)) => key.to_vec(),
                    (Clash::PrimaryKey, None) => unreachable!("a hidden key is never taken"),
                };
                if inserting.upserted.contains(&taken) {
                    return Err(row_twice().into());
                }
                let Some(current) = self.current(context, schema, &taken)? else {
                    unreachable!("it was just seen");
                };
                let wanted = Upsert { assignments, predicate: predicate.as_ref() };
                let draws = self.context.draws();
                let upserted = self.upsert(context, schema, &wanted, &taken, current, row);
                if let Err(Stop::Fault(_)) = upserted {
                    // What it drew it draws again.
                    self.context.rewind(draws);
                }
                if upserted? {
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
        key: &[u8],
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
        let mut row = assigned(schema, wanted.assignments, &current.row, &env, &self.context)?;
        if !schema.hidden_key() && declared_key(schema, &row)? != key {
            let message = "ON CONFLICT DO UPDATE must not change the primary key";
            return Err(SqlError::new(SqlState::FeatureNotSupported, message)
                .hint("delete the row and insert it again")
                .into());
        }
        for index in schema.indexes.iter().filter(|index| index.unique) {
            if self.holder(context, schema, index, &row, Some(key))?.is_some() {
                return Err(index.violation(schema, &row).into());
            }
        }
        self.put_row(context, schema, Some(key), Some(&current), &mut row)?;
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
