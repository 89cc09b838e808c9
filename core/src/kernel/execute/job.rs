//! Slices of jobs: what one prepare does of an index build, or of freeing a dropped tree.
//!
//! The node asks for a slice when the last one is applied (`node/jobs.rs`); what a slice does is a
//! function of state and of the cluster's constants, so it does not matter who asks, or how often.
//!
//! Invariants: the rows of a slice keep within half of what a transaction may dirty and read, and
//! are fewer where the rest of the slice leaves less (`Execution::shrinks`); a build that meets
//! what cannot be indexed ends as `Failed` and its index is dropped, in the same transaction; a job
//! that is not there any more is no error, for it was cancelled.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::{Execution, ExecutionContext, Step, Stop};
use crate::ids::TreeId;
use crate::kernel::payload::{Payload, STREAM_SYSTEM, TableChange};
use crate::kernel::record::whole_row;
use crate::kernel::request::{RequestError, ResultDetail};
use crate::limits::{JOB_SLICE_LEAVES, PAGE_SIZE};
use crate::query::index::{ENTRY_SIZE, Index};
use crate::query::job::{Job, JobWork};
use crate::query::{SqlError, SqlState, TableSchema, Value};
use crate::store::{Cursor, Direction, TreeRef};

/// A slice of a build on its way.
#[derive(Debug)]
pub(super) struct Slice {
    cursor: Cursor,
    rows: Vec<(Vec<u8>, Vec<Value>)>,
    bytes: u64,
    /// How many the slice may have.
    rows_max: usize,
    at_end: bool,
    scanned: bool,
    checked: usize,
}

impl Execution {
    /// One slice of a job.
    pub(super) fn job_step(
        &mut self,
        context: &ExecutionContext<'_>,
        id: TreeId,
    ) -> Result<(u64, ResultDetail), Stop> {
        let Some(job) = context.catalog.job(id).cloned() else {
            return Ok((0, ResultDetail::Rows));
        };
        let rows = match &job.work {
            JobWork::Build { .. } => self.build_slice(context, &job)?,
            JobWork::Free { .. } => self.free_slice(context, &job)?,
            JobWork::Failed { .. } => 0,
        };
        Ok((rows, ResultDetail::Rows))
    }

    fn build_slice(&mut self, context: &ExecutionContext<'_>, job: &Job) -> Result<u64, Stop> {
        let schema = context.catalog.table(job.table);
        let Some((schema, index)) = schema.and_then(|s| s.index(job.id).map(|i| (s, i))) else {
            unreachable!("a build ends with its index, and with its table");
        };
        let mut slice = match core::mem::replace(&mut self.step, Step::Begin) {
            Step::Slice(slice) => slice,
            Step::Begin | Step::Inserting(_) | Step::Changing(_) | Step::Building(_) => {
                Slice::new(self.slice_rows(context, index)?, job)
            }
        };
        let done = match self.read_slice(context, schema, index, &mut slice) {
            Ok(()) => self.draft_slice(context, schema, index, job, &slice.rows, slice.at_end),
            Err(Stop::Refused(RequestError::Sql(error))) => {
                self.fail_build(context, schema, job, &error)
            }
            Err(stop) => Err(stop),
        };
        let rows = slice.rows.len() as u64;
        // After a fault it goes on where it is.
        self.step = Step::Slice(slice);
        done.map(|()| rows)
    }

    /// Rows that a slice can put into the index for sure.
    fn slice_rows(&self, context: &ExecutionContext<'_>, index: &Index) -> Result<usize, Stop> {
        let tree = TreeRef::new(context.drafts.tenant, index.entries);
        let most = u64::from(context.constants.transaction_pages_dirtied_max / 2);
        let mut rows = self.slice_rows_max;
        while rows > 1 && context.store.pages_at_most(tree, rows as u64, 0)? > most {
            rows /= 2;
        }
        Ok(rows)
    }

    /// The next rows, each of which can be indexed.
    fn read_slice(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        index: &Index,
        slice: &mut Slice,
    ) -> Result<(), Stop> {
        let tree = TreeRef::new(context.drafts.tenant, schema.rows);
        let bytes_max =
            u64::from(context.constants.transaction_pages_read_max) * PAGE_SIZE as u64 / 2;
        while !slice.scanned {
            let Slice { cursor, rows, bytes, rows_max, .. } = slice;
            let before = rows.len();
            let flow = context.store.scan(tree, cursor, |key, value| {
                *bytes += (key.len() + value.len()) as u64;
                rows.push((key.to_vec(), whole_row(schema, value)));
                if rows.len() < *rows_max && *bytes < bytes_max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            self.steps += (slice.rows.len() - before) as u64;
            slice.at_end = flow?.is_continue();
            slice.scanned = true;
        }
        while let Some((key, row)) = slice.rows.get(slice.checked) {
            index.check_size(schema, row, key.len())?;
            let same = |(_, other): &&(Vec<u8>, Vec<Value>)| {
                let prefix = index.unique_prefix(schema, row);
                prefix.is_some() && prefix == index.unique_prefix(schema, other)
            };
            if index.unique
                && (slice.rows[..slice.checked].iter().any(|other| same(&other))
                    || self.holder(context, schema, index, row, Some(key))?.is_some())
            {
                return Err(super::schema::duplicates(schema, index, row).into());
            }
            slice.checked += 1;
            self.steps += 1;
        }
        Ok(())
    }

    fn draft_slice(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        index: &Index,
        job: &Job,
        rows: &[(Vec<u8>, Vec<Value>)],
        at_end: bool,
    ) -> Result<(), Stop> {
        let JobWork::Build { after, rows_done, rows_total } = &job.work else {
            unreachable!("the caller matched it")
        };
        let last = rows.last().map(|(key, _)| key.clone());
        self.built.insert(index.entries);
        for _ in rows {
            self.charge_put(index.entries, ENTRY_SIZE);
        }
        let payload = Payload::IndexBuilt {
            table: schema.id,
            entries: index.entries,
            after: after.as_deref(),
            to: if at_end { None } else { last.as_deref() },
        };
        self.drafts.push(&payload, STREAM_SYSTEM, context.catalog.version);
        #[cfg(verity_zoo)]
        let at_end = at_end || crate::zoo::is("index_ready_early");
        if at_end {
            let mut altered = schema.clone();
            let position = context.drafts.next_position(&self.drafts);
            for index in altered.indexes.iter_mut().filter(|index| index.entries == job.id) {
                index.ready_at = Some(position);
            }
            self.alter(context, TableChange::IndexReady, altered)?;
            return self.change_job(context, job.id, None);
        }
        let work = JobWork::Build {
            after: last.or_else(|| after.clone()),
            rows_done: rows_done + rows.len() as u64,
            rows_total: *rows_total,
        };
        self.change_job(context, job.id, Some(Job { work, ..job.clone() }))
    }

    fn fail_build(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        job: &Job,
        error: &SqlError,
    ) -> Result<(), Stop> {
        self.drop_index(context, schema.id, job.id)?;
        let work = JobWork::Failed { error: error.to_string() };
        self.change_job(context, job.id, Some(Job { work, ..job.clone() }))
    }

    /// The entries of a tree, then the tree itself, then the next tree.
    fn free_slice(&mut self, context: &ExecutionContext<'_>, job: &Job) -> Result<u64, Stop> {
        let JobWork::Free { trees, entries_total, .. } = &job.work else {
            unreachable!("the caller matched it")
        };
        let Some(&tree) = trees.first() else { unreachable!("it ends with its last tree") };
        let of = |tree| TreeRef::new(context.drafts.tenant, tree);
        let mut left = 0;
        for tree in trees {
            left += context.store.count(of(*tree))?;
        }
        let height = context.store.pages_at_most(of(tree), 1, 0)?;
        let leaves = if context.store.count(of(tree))? == 0 { 0 } else { JOB_SLICE_LEAVES };
        self.pages_freed += u64::from(leaves) + 2 * height;
        // The root lies in the forest.
        self.charge_removal(tree);
        let payload = Payload::PagesFreed { tree, leaves };
        self.drafts.push(&payload, STREAM_SYSTEM, context.catalog.version);
        let trees = if leaves == 0 { trees[1..].to_vec() } else { trees.clone() };
        let next = (!trees.is_empty()).then(|| {
            let work = JobWork::Free { trees, entries_left: left, entries_total: *entries_total };
            Job { work, ..job.clone() }
        });
        self.change_job(context, job.id, next)?;
        Ok(u64::from(leaves))
    }

    /// Drafts what a job is from here on, and sees it so.
    pub(super) fn change_job(
        &mut self,
        context: &ExecutionContext<'_>,
        id: TreeId,
        job: Option<Job>,
    ) -> Result<(), Stop> {
        let mut catalog = self.catalog_now(context).clone();
        let state = job.as_ref().map(Job::encode);
        let payload = Payload::JobChanged { job: id, state: state.as_deref() };
        self.drafts.push(&payload, STREAM_SYSTEM, catalog.version);
        catalog.set_job(id, job);
        self.catalog = Some(catalog);
        self.check_drafts(context)
    }

    /// A build ends with its index; a failed one is forgotten. Freeing goes on: it changes nothing
    /// that anybody sees.
    pub(super) fn cancel_job(
        &mut self,
        context: &ExecutionContext<'_>,
        id: TreeId,
    ) -> Result<(), Stop> {
        let Some(job) = self.catalog_now(context).job(id).cloned() else {
            return Err(SqlError::new(
                SqlState::UndefinedTable,
                alloc::format!("there is no job {}", id.get()),
            )
            .hint("SHOW JOBS lists them; a job that is done is gone")
            .into());
        };
        match &job.work {
            JobWork::Build { .. } => self.drop_index(context, job.table, id),
            JobWork::Failed { .. } => self.change_job(context, id, None),
            JobWork::Free { .. } => Err(SqlError::new(
                SqlState::FeatureNotSupported,
                "pages that are being freed belong to nothing any more",
            )
            .hint("let the job end")
            .into()),
        }
    }
}

impl Slice {
    fn new(rows_max: usize, job: &Job) -> Slice {
        let JobWork::Build { after, .. } = &job.work else {
            unreachable!("only builds have slices of rows")
        };
        let low = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        Slice {
            cursor: Cursor::new(low, Bound::Unbounded, Direction::Forward),
            rows: Vec::new(),
            bytes: 0,
            rows_max,
            at_end: false,
            scanned: false,
            checked: 0,
        }
    }
}
