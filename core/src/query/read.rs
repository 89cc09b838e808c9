//! Executing a SELECT at a position, in bounded slices.
//!
//! Purpose: [`ReadTask`] is what an embedded caller or the node holds between two slices; each
//! [`ReadTask::step`] visits at most `READ_SLICE_ROWS` rows and never blocks. `Stop::Fault`: fetch
//! the missing pages and step again; nothing is lost or doubled. Rows come out with
//! [`ReadTask::take_rows`] after any step, in order.
//!
//! Invariants: memory is bounded by `READ_MEMORY_MAX` (sorts, groups, DISTINCT) and by one slice of
//! rows; beyond, the statement is refused and the error says what would help. The result is a
//! function of the position, the statement and its parameters.
//!
//! What a step needs: the store, the tenant's catalog as snapshots show it now (same call, same
//! state), and for `__events` a reader of records. The task carries the position.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::ids::{Position, TenantId};
use crate::limits::{READ_MEMORY_MAX, READ_SLICE_ROWS};
use crate::query::aggregate::Accumulator;
use crate::query::bind::Source;
use crate::query::bind_select::Select;
use crate::query::error::{SqlError, SqlState};
use crate::query::eval::{Context, Env, RowView, eval, eval_truth};
use crate::query::explain::{explain, measured_lines};
use crate::query::expr::{CompareOp, Expr};
use crate::query::parse::Explain;
use crate::query::plan::{Candidates, Plan, PlanWorld, choose, count_range};
use crate::query::prepared::{Prepared, Statement};
use crate::query::rows::Rows;
use crate::query::schema::{Catalog, TableSchema};
use crate::query::sink::Sink;
use crate::query::source::RowSource;
use crate::query::value::Value;
use crate::query::versions::VersionScan;
use crate::query::virtual_tables::{EventRow, VirtualTable, catalog_rows};
use crate::store::{Fault, Store, TreeRef};

/// Why a step did not get to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// A page is not here: `store.fetch`, then step again.
    Fault(Fault),
    /// The log record that `events` was asked for is not in memory: read it, then step again.
    EventFault,
    Sql(SqlError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Stop {
        Stop::Sql(error)
    }
}

/// What a step got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProgress {
    /// Rows may be ready; there is more to do.
    More,
    Done,
}

/// What the reader of records answers for one position.
#[derive(Clone, Debug, PartialEq)]
pub enum EventRead {
    Row(EventRow),
    /// Not shown, or not there.
    Absent,
    /// Not in memory yet.
    Fault,
}

/// All that a step may read.
pub struct ReadWorld<'a> {
    pub store: &'a Store,
    pub catalog: &'a Catalog,
    /// Records of the tenant's log, for `__events`.
    pub events: &'a mut dyn FnMut(Position) -> EventRead,
}

impl core::fmt::Debug for ReadWorld<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ReadWorld")
    }
}

/// Result row.
pub type Row = Vec<Value>;

/// A SELECT under way.
#[derive(Debug)]
pub struct ReadTask {
    prepared: Arc<Prepared>,
    tenant: TenantId,
    parameters: Vec<Value>,
    position: Position,
    context: Context,
    stage: Stage,
    sink: Sink,
    ready: Vec<Row>,
    /// The plan's ranges say all that the filter does.
    unfiltered: bool,
    /// Use no index: for tests of those that do.
    forced: bool,
    /// EXPLAIN ANALYZE.
    measured: Measured,
}

/// What running a statement took.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub plan: Option<Plan>,
    /// It was answered by counts that trees keep.
    pub counted: bool,
    /// Rows, or entries of an index that are rows enough, before the filter.
    pub rows_read: u64,
    pub rows_given: u64,
    /// Looks at pages, also at one again.
    pub pages: u64,
    /// Pages that were not in memory.
    pub pages_missed: u64,
}

#[derive(Debug)]
enum Stage {
    Start,
    Rows(Rows),
    Events {
        /// Positions left to read: from `low` up to and with `high`.
        low: u64,
        high: u64,
        reverse: bool,
    },
    Versions(VersionScan),
    /// All rows were read; results come out.
    Output,
    Done,
}

impl ReadTask {
    /// `prepared` must be a SELECT or an EXPLAIN. `position` is where it reads: the transaction end
    /// that `Prepared::as_of` was resolved to, or the newest one.
    pub fn new(
        prepared: Arc<Prepared>,
        tenant: TenantId,
        parameters: Vec<Value>,
        position: Position,
        context: Context,
    ) -> Result<ReadTask, SqlError> {
        assert!(!prepared.is_write(), "writes go through a prepare");
        prepared.check_parameters(&parameters)?;
        let mut task = ReadTask {
            prepared,
            tenant,
            parameters,
            position,
            context,
            stage: Stage::Start,
            sink: Sink::default(),
            ready: Vec::new(),
            unfiltered: false,
            forced: false,
            measured: Measured::default(),
        };
        if let Statement::Select(select) = &task.prepared.statement {
            let env = Env::constant(&task.parameters, &task.context);
            let skip = count_of(select.offset.as_ref(), &env)?.unwrap_or(0);
            let limit = count_of(select.limit.as_ref(), &env)?;
            task.sink.bytes_max = READ_MEMORY_MAX;
            task.sink.skip = skip;
            task.sink.left = limit.unwrap_or(u64::MAX);
            task.sink.keep =
                limit.and_then(|limit| usize::try_from(limit.saturating_add(skip)).ok());
        }
        Ok(task)
    }

    /// Reads by the primary key whatever it costs: the same rows, perhaps in another order.
    #[must_use]
    pub fn without_indexes(mut self) -> ReadTask {
        self.forced = true;
        self
    }

    #[must_use]
    pub fn prepared(&self) -> &Arc<Prepared> {
        &self.prepared
    }

    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes that it holds to sort, group or tell apart.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.sink.bytes
    }

    /// From now on it may hold no more than that, and never more than `READ_MEMORY_MAX`.
    pub fn limit_memory(&mut self, bytes: usize) {
        self.sink.bytes_max = bytes.min(READ_MEMORY_MAX);
    }

    /// Rows that are ready, in order. Take them after every step.
    pub fn take_rows(&mut self) -> Vec<Row> {
        core::mem::take(&mut self.ready)
    }

    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// One slice.
    pub fn step(&mut self, world: &mut ReadWorld<'_>) -> Result<ReadProgress, Stop> {
        match self.prepared.explain {
            Explain::No => self.run(world),
            Explain::Plan => self.explain(world),
            Explain::Analyze => self.analyze(world),
        }
    }

    fn explain(&mut self, world: &mut ReadWorld<'_>) -> Result<ReadProgress, Stop> {
        if !self.is_done() {
            let prepared = self.prepared.clone();
            let plan = self.plan_to_explain(&prepared, world)?;
            self.ready = as_rows(explain(&prepared, plan.as_ref()));
            self.stage = Stage::Done;
        }
        Ok(ReadProgress::Done)
    }

    /// Runs the statement, and counts its rows in place of giving them.
    fn analyze(&mut self, world: &mut ReadWorld<'_>) -> Result<ReadProgress, Stop> {
        if self.is_done() {
            return Ok(ReadProgress::Done);
        }
        let before = world.store.pages_looked_at();
        let step = self.run(world);
        self.measured.pages += world.store.pages_looked_at() - before;
        if let Err(Stop::Fault(_)) = &step {
            self.measured.pages_missed += world.store.pages_missed() as u64;
        }
        self.measured.rows_given += self.ready.len() as u64;
        self.ready.clear();
        if let Ok(ReadProgress::Done) = &step {
            let mut lines = explain(&self.prepared, self.measured.plan.as_ref());
            lines.extend(measured_lines(&self.measured));
            self.ready = as_rows(lines);
        }
        step
    }

    fn run(&mut self, world: &mut ReadWorld<'_>) -> Result<ReadProgress, Stop> {
        let prepared = self.prepared.clone();
        let Statement::Select(select) = &prepared.statement else {
            unreachable!("`new` refuses writes")
        };
        if !prepared.still_holds(world.catalog) {
            return Err(changed().into());
        }
        match &mut self.stage {
            Stage::Start => self.start(select, world)?,
            Stage::Rows(_) => self.read_rows(select, world)?,
            Stage::Events { .. } => self.read_events(select, world)?,
            Stage::Versions(_) => self.read_versions(select, world)?,
            Stage::Output => self.output(select)?,
            Stage::Done => {}
        }
        Ok(if self.is_done() { ReadProgress::Done } else { ReadProgress::More })
    }

    fn read_versions(&mut self, select: &Select, world: &mut ReadWorld<'_>) -> Result<(), Stop> {
        let Stage::Versions(mut scan) = core::mem::replace(&mut self.stage, Stage::Done) else {
            unreachable!("the caller matched the stage")
        };
        let outcome = scan.scan(world, &mut |row| self.take(select, RowView::Values(row)));
        match outcome {
            Ok(ControlFlow::Continue(())) => self.finish(select)?,
            Ok(ControlFlow::Break(())) => self.stage = Stage::Versions(scan),
            Err(stop) => {
                self.stage = Stage::Versions(scan);
                return Err(stop);
            }
        }
        Ok(())
    }

    fn start(&mut self, select: &Select, world: &mut ReadWorld<'_>) -> Result<(), Stop> {
        let prepared = self.prepared.clone();
        let reverse = select.order_by_key == Some(true);
        self.sink.sorts = !select.order.is_empty() && select.order_by_key.is_none();
        match &select.source {
            Source::One => {
                let _ = self.take(select, RowView::Values(&[]))?;
                self.stage = Stage::Output;
            }
            Source::Virtual(VirtualTable::Events) => {
                let (low, high) = self.event_bounds(select)?;
                self.stage = Stage::Events { low, high, reverse };
                self.read_events(select, world)?;
            }
            Source::Virtual(table) => {
                for row in catalog_rows(*table, world.catalog) {
                    if self.take(select, RowView::Values(&row))?.is_break() {
                        break;
                    }
                }
                self.stage = Stage::Output;
            }
            Source::Versions(versions) => {
                let between = prepared.diff_between(&self.parameters, self.position)?;
                let env = Env::constant(&self.parameters, &self.context);
                let filter = select.filter.as_ref();
                let (tenant, position) = (self.tenant, self.position);
                let scan = VersionScan::new(versions, tenant, position, between, filter, &env)?;
                self.stage = Stage::Versions(scan);
                self.read_versions(select, world)?;
            }
            Source::Table(schema) => {
                if schema.created_at > self.position {
                    return Err(SqlError::new(
                        SqlState::InvalidPosition,
                        format!(
                            "table \"{}\" did not exist at position {}",
                            schema.name, self.position
                        ),
                    )
                    .hint(format!("it was created at position {}", schema.created_at))
                    .into());
                }
                if is_count_of_all(select) {
                    let source = self.source(world);
                    if let Some(count) = source.count(schema)? {
                        self.measured.counted = true;
                        let count = i64::try_from(count).unwrap_or(i64::MAX);
                        let grouped = Vec::from([Value::Integer(count)]);
                        self.sink.closed = true;
                        self.emit_grouped(select, &grouped)?;
                        self.stage = Stage::Output;
                        return Ok(());
                    }
                }
                let plan = self.plan(&select.candidates, schema, Some(select), world)?;
                if prepared.is_explained() {
                    self.measured.plan = Some(plan.clone());
                }
                if counts_only(select)
                    && let Some(count) = self.count_of_ranges(&plan, schema, world)?
                {
                    self.measured.counted = true;
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    self.sink.closed = true;
                    self.emit_grouped(select, &[Value::Integer(count)])?;
                    self.stage = Stage::Output;
                    return Ok(());
                }
                self.sink.sorts = !select.order.is_empty() && plan.candidate.order.is_none();
                self.unfiltered = plan.ranges.iter().all(|ranges| ranges.exact);
                let wanted = if self.sink.sorts || select.grouping.is_some() || select.distinct {
                    u64::MAX
                } else {
                    self.sink.left.saturating_add(self.sink.skip)
                };
                self.stage = Stage::Rows(Rows::new(&plan, wanted));
                self.read_rows(select, world)?;
            }
        }
        Ok(())
    }

    /// What the statement does, as its tables are now.
    fn plan(
        &self,
        candidates: &Candidates,
        schema: &TableSchema,
        select: Option<&Select>,
        world: &ReadWorld<'_>,
    ) -> Result<Plan, Stop> {
        let Some(now) = world.catalog.table(schema.id) else {
            unreachable!("the statement still holds")
        };
        let env = Env::constant(&self.parameters, &self.context);
        let (tenant, position) = (self.tenant, self.position);
        let plan_world = PlanWorld { store: world.store, tenant, schema: now, position };
        let ordered = select.filter(|select| select.grouping.is_none() && !select.distinct);
        let sorted = ordered.is_some_and(|select| !select.order.is_empty());
        let limit = ordered.map(|_| self.sink.left.saturating_add(self.sink.skip));
        let limit = limit.filter(|limit| *limit < u64::MAX);
        choose(candidates, &plan_world, &env, sorted, limit, self.forced)
    }

    fn plan_to_explain(
        &self,
        prepared: &Prepared,
        world: &ReadWorld<'_>,
    ) -> Result<Option<Plan>, Stop> {
        let version = prepared.bound_to().map(|(_, version)| version);
        // Of a version that is still to come, the statements before it in the text make the table.
        if !prepared.still_holds(world.catalog) && version <= Some(world.catalog.version) {
            return Err(changed().into());
        }
        let (schema, filter) = match &prepared.statement {
            Statement::Select(select) => {
                let Source::Table(schema) = &select.source else { return Ok(None) };
                if !prepared.still_holds(world.catalog) {
                    return Ok(None);
                }
                return self.plan(&select.candidates, schema, Some(select), world).map(Some);
            }
            Statement::Update(schema, update) => (schema, update.predicate.as_ref()),
            Statement::Delete(schema, delete) => (schema, delete.predicate.as_ref()),
            Statement::CreateTable { .. }
            | Statement::DropTable(_)
            | Statement::CreateIndex(_)
            | Statement::DropIndex(..)
            | Statement::CancelJob(_)
            | Statement::AddColumn { .. }
            | Statement::Nothing
            | Statement::Insert(_) => return Ok(None),
        };
        if !prepared.still_holds(world.catalog) {
            return Ok(None);
        }
        let candidates = Candidates::of_write(&Source::Table(schema.clone()), filter);
        self.plan(&candidates, schema, None, world).map(Some)
    }

    /// What the trees count in the ranges of a plan, if that is the answer.
    fn count_of_ranges(
        &self,
        plan: &Plan,
        schema: &TableSchema,
        world: &ReadWorld<'_>,
    ) -> Result<Option<u64>, Fault> {
        let ([lookup], [ranges]) = (plan.candidate.lookups.as_slice(), plan.ranges.as_slice())
        else {
            return Ok(None);
        };
        let points = ranges.list.iter().any(|range| range.is_point);
        if points || !ranges.exact || !self.source(world).is_current(schema) {
            return Ok(None);
        }
        let tree = TreeRef::new(self.tenant, lookup.index.unwrap_or(schema.rows));
        let mut count = 0;
        for range in &ranges.list {
            count += count_range(world.store, tree, range)?;
        }
        Ok(Some(count))
    }

    fn source<'w>(&self, world: &ReadWorld<'w>) -> RowSource<'w> {
        RowSource {
            store: world.store,
            tenant: self.tenant,
            catalog: world.catalog,
            position: self.position,
        }
    }

    fn read_rows(&mut self, select: &Select, world: &mut ReadWorld<'_>) -> Result<(), Stop> {
        let source = self.source(world);
        let Source::Table(schema) = &select.source else { unreachable!("rows are of a table") };
        // The table as it is now, which may have lost the index that rows come by.
        let Some(schema) = world.catalog.table(schema.id) else {
            unreachable!("the statement still holds")
        };
        if let Stage::Rows(rows) = &self.stage
            && !rows.indexes().iter().all(|entries| schema.index(*entries).is_some())
        {
            return Err(SqlError::new(
                SqlState::SchemaChanged,
                "an index that the statement reads by was dropped meanwhile",
            )
            .hint("send it again")
            .into());
        }
        let Stage::Rows(mut scan) = core::mem::replace(&mut self.stage, Stage::Done) else {
            unreachable!("the caller matched the stage")
        };
        let mut failure = None;
        let mut enough = false;
        let outcome = scan.step(&source, schema, &mut |row| match self.take(select, row) {
            Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
            Ok(ControlFlow::Break(())) => {
                enough = true;
                ControlFlow::Break(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        match outcome {
            Err(fault) => {
                self.stage = Stage::Rows(scan);
                Err(fault.into())
            }
            Ok(ControlFlow::Break(())) if !enough => {
                self.stage = Stage::Rows(scan);
                Ok(())
            }
            Ok(ControlFlow::Continue(()) | ControlFlow::Break(())) => {
                self.finish(select)?;
                Ok(())
            }
        }
    }

    /// The positions that the filter on `position` leaves.
    fn event_bounds(&self, select: &Select) -> Result<(u64, u64), SqlError> {
        let env = Env::constant(&self.parameters, &self.context);
        let (mut low, mut high) = (0_i64, i64::try_from(self.position.get()).unwrap_or(i64::MAX));
        let Some(conditions) = select.conditions.columns.first() else {
            return Ok((0, self.position.get()));
        };
        let mut bounds: Vec<(CompareOp, &Expr)> =
            conditions.bounds.iter().map(|(op, expr)| (*op, expr)).collect();
        if let Some(expr) = &conditions.equal {
            bounds.push((CompareOp::GreaterOrEqual, expr));
            bounds.push((CompareOp::LessOrEqual, expr));
        }
        for (op, expr) in bounds {
            let Value::Integer(value) = eval(expr, &env)? else { continue };
            match op {
                CompareOp::Greater => low = low.max(value.saturating_add(1)),
                CompareOp::GreaterOrEqual => low = low.max(value),
                CompareOp::Less => high = high.min(value.saturating_sub(1)),
                CompareOp::LessOrEqual => high = high.min(value),
                CompareOp::Equal | CompareOp::NotEqual => unreachable!("not bounds"),
            }
        }
        if low > high {
            // Nothing: an empty range is one past its end.
            return Ok((1, 0));
        }
        Ok((low.unsigned_abs(), high.unsigned_abs()))
    }

    fn read_events(&mut self, select: &Select, world: &mut ReadWorld<'_>) -> Result<(), Stop> {
        for _ in 0..READ_SLICE_ROWS {
            let Stage::Events { low, high, reverse } = &self.stage else {
                unreachable!("the caller matched the stage")
            };
            let (low, high, reverse) = (*low, *high, *reverse);
            if low > high {
                self.finish(select)?;
                return Ok(());
            }
            let at = if reverse { high } else { low };
            let flow = match (world.events)(Position::new(at)) {
                EventRead::Fault => return Err(Stop::EventFault),
                EventRead::Absent => ControlFlow::Continue(()),
                EventRead::Row(event) => {
                    let row = event.to_row(world.catalog);
                    self.take(select, RowView::Values(&row))?
                }
            };
            self.stage = match (reverse, high.checked_sub(1)) {
                (false, _) => Stage::Events { low: low + 1, high, reverse },
                (true, Some(high)) => Stage::Events { low, high, reverse },
                (true, None) => Stage::Events { low: 1, high: 0, reverse },
            };
            if flow.is_break() {
                self.finish(select)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Filters one row and passes it on. `Break`: no more rows are wanted.
    fn take(&mut self, select: &Select, row: RowView<'_>) -> Result<ControlFlow<()>, SqlError> {
        self.measured.rows_read += 1;
        let env = Env { row, ..Env::constant(&self.parameters, &self.context) };
        if let Some(filter) = &select.filter
            && !self.unfiltered
            && eval_truth(filter, &env)? != Some(true)
        {
            #[cfg(verity_zoo)]
            if select.limit.is_some() && crate::zoo::is("limit_before_filter") {
                self.sink.left = self.sink.left.saturating_sub(1);
            }
            return Ok(ControlFlow::Continue(()));
        }
        match &select.grouping {
            Some(_) => {
                self.sink.group(select, &env)?;
                Ok(ControlFlow::Continue(()))
            }
            None => {
                let values = outputs(select, row, &env)?;
                self.sink.push(select, values, &mut self.ready)
            }
        }
    }

    fn finish(&mut self, select: &Select) -> Result<(), SqlError> {
        self.stage = Stage::Output;
        // Without sorting or grouping all rows are out already.
        if select.grouping.is_none() && !self.sink.sorts {
            self.stage = Stage::Done;
        }
        Ok(())
    }

    fn emit_grouped(&mut self, select: &Select, grouped: &[Value]) -> Result<(), SqlError> {
        let row = RowView::Values(grouped);
        let env = Env { row, ..Env::constant(&self.parameters, &self.context) };
        let values: Row =
            select.outputs.iter().map(|output| eval(output, &env)).collect::<Result<_, _>>()?;
        let _ = self.sink.push(select, values, &mut self.ready)?;
        Ok(())
    }

    /// Groups become rows, sorted rows come out: a slice of either.
    fn output(&mut self, select: &Select) -> Result<(), SqlError> {
        if let Some(grouping) = &select.grouping {
            // Aggregates over no rows still give one row, unless there is a GROUP BY.
            let empty = self.sink.groups.is_empty() && grouping.keys.is_empty();
            if !core::mem::replace(&mut self.sink.closed, true) && empty {
                let accumulators = grouping.aggregates.iter().map(Accumulator::new).collect();
                self.sink.groups.insert(Vec::new(), accumulators);
            }
            for _ in 0..READ_SLICE_ROWS {
                let Some((mut grouped, accumulators)) = self.sink.groups.pop_first() else { break };
                for accumulator in accumulators {
                    grouped.push(accumulator.finish()?);
                }
                self.emit_grouped(select, &grouped)?;
            }
            if !self.sink.groups.is_empty() {
                return Ok(());
            }
        }
        if self.sink.sorts {
            if !self.sink.sorted {
                self.sink.sort(&select.order);
                self.sink.sorted = true;
                self.sink.sorting.reverse();
            }
            for _ in 0..READ_SLICE_ROWS {
                let Some(row) = self.sink.sorting.pop() else { break };
                if self.sink.deliver(select, row, &mut self.ready).is_break() {
                    self.sink.sorting.clear();
                }
            }
            if !self.sink.sorting.is_empty() {
                return Ok(());
            }
        }
        self.stage = Stage::Done;
        Ok(())
    }
}

fn changed() -> SqlError {
    let message = "the table has changed since the statement was prepared";
    SqlError::new(SqlState::SchemaChanged, message).hint("prepare it again")
}

/// COUNT(*) of a whole table: the tree knows.
fn is_count_of_all(select: &Select) -> bool {
    select.filter.is_none() && counts_only(select)
}

/// COUNT(*) and nothing else.
fn counts_only(select: &Select) -> bool {
    use crate::query::bind::{Aggregate, AggregateFunction};
    let all = Aggregate { function: AggregateFunction::CountRows, argument: None, distinct: false };
    select
        .grouping
        .as_ref()
        .is_some_and(|grouping| grouping.keys.is_empty() && grouping.aggregates == [all])
}

fn count_of(expr: Option<&Expr>, env: &Env<'_>) -> Result<Option<u64>, SqlError> {
    let Some(expr) = expr else { return Ok(None) };
    match eval(expr, env)? {
        Value::Null => Ok(None),
        Value::Integer(count) if count >= 0 => Ok(Some(count.unsigned_abs())),
        other => Err(SqlError::new(
            SqlState::InvalidParameterValue,
            format!("LIMIT and OFFSET take a whole number from 0, not {other}"),
        )),
    }
}

fn outputs(select: &Select, row: RowView<'_>, env: &Env<'_>) -> Result<Row, SqlError> {
    if let (Some(plain), RowView::Stored(stored)) = (&select.plain, row) {
        return Ok(plain.iter().map(|ordinal| stored.column(*ordinal).to_value()).collect());
    }
    select.outputs.iter().map(|output| eval(output, env)).collect()
}

fn as_rows(lines: Vec<String>) -> Vec<Row> {
    lines.into_iter().map(|line| Vec::from([Value::Text(line)])).collect()
}
