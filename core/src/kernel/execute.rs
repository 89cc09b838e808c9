//! Executing a request over an overlay: nothing happens to trees or logs here.
//!
//! Purpose: commands, in order, become drafts of records. What earlier commands of the request did
//! is seen through the overlay, so several statements are one transaction; when any of them fails
//! the whole execution is thrown away.
//!
//! Faults: each piece of work goes in steps that keep what they have done, so a page fault repeats
//! at most one row. Execution reads only; the state cannot change while it is suspended.
//!
//! Invariants: the result is a function of state, commands and the prepare's time and seed; every
//! limit of a transaction is counted in things that no cache can change (drafts, bytes, entries
//! visited); draft `n` will be the record at `first + n`.

mod change;
mod estimate;
mod insert;
mod job;
mod overlay;
mod row;
mod schema;
mod stream;
mod unique;
mod whole;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::drafts::{DraftContext, Drafts};
use super::envelope::{Envelope, Work};
use super::payload::{Payload, STREAM_SYSTEM};
use super::request::{Limit, OperationResult, RequestError, ResultDetail};
use super::results::Results;
use super::trees::{self, TENANTS_TREE};
use crate::crypto::KekHash;
use crate::ids::{SchemaVersion, TableId, TenantId, TreeId};
use crate::limits::{
    ClusterConstants, JOB_SLICE_ROWS, OPERATIONS_MAX, PAGE_SIZE, ROW_SIZE_MAX, TABLES_MAX,
    TENANTS_MAX,
};
use crate::query::bind_index::duplicate_index;
use crate::query::command::Command;
use crate::query::eval::Context;
use crate::query::texts::Texts;
use crate::query::{Catalog, SqlError, SqlState, TableSchema};
use crate::store::{Fault, Store};
use crate::time::Timestamp;

use change::Changing;
use estimate::{Changes, Estimating};
use insert::Inserting;
use job::Slice;
use overlay::OverlayRows;
use schema::Building;
use stream::OverlayStreams;
pub use stream::check_append;
use unique::UniqueOverlay;
use whole::WholeRows;

/// Why a step did not get to its end.
#[derive(Debug)]
pub(super) enum Stop {
    Fault(Fault),
    Refused(RequestError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Stop {
        Stop::Refused(error)
    }
}

impl From<crate::query::Stop> for Stop {
    fn from(stop: crate::query::Stop) -> Stop {
        match stop {
            crate::query::Stop::Fault(fault) => Stop::Fault(fault),
            crate::query::Stop::Sql(error) => error.into(),
            crate::query::Stop::EventFault => unreachable!("plans read no records"),
        }
    }
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Stop {
        Stop::Refused(RequestError::Sql(error))
    }
}

/// The state that a request sees beside its own overlay.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionContext<'a> {
    pub store: &'a Store,
    pub catalog: &'a Catalog,
    pub constants: &'a ClusterConstants,
    pub drafts: DraftContext<'a>,
}

/// What the work at hand has done so far; each piece of work begins with `Begin`.
#[derive(Debug)]
enum Step {
    Begin,
    Inserting(Inserting),
    Changing(Changing),
    Building(Building),
    Slice(Slice),
}

/// What requests use one after the other: empty between two, its room kept.
#[derive(Debug, Default)]
pub struct ExecutionScratch {
    rows: OverlayRows,
    streams: OverlayStreams,
    /// Of the INSERT whose turn it is.
    whole: WholeRows,
    texts: Texts,
    /// Changes of the table's trees so far, for the estimate of pages. In the order of trees.
    changes: Vec<(TreeId, Changes)>,
    /// One at a time.
    key: Vec<u8>,
}

impl ExecutionScratch {
    /// Nothing of a request is left for the next one.
    pub fn clear(&mut self) {
        self.rows.clear(&mut self.texts);
        self.whole.clear(&mut self.texts);
        self.streams.clear();
        self.changes.clear();
        self.key.clear();
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.streams.len() == 0
            && self.whole.is_empty()
            && self.changes.is_empty()
            && self.key.is_empty()
    }
}

#[derive(Debug)]
pub struct Execution {
    pub drafts: Drafts,
    pub results: Results,
    /// Upper bound of the pages that the drafts can dirty. Right when `run` succeeded.
    pub pages_dirtied: u32,
    /// Writes whose rows were found beforehand, and are not those of the table any more.
    pub found_stale: u32,
    /// Grows with everything done: two stalls without a change between them need the same pages.
    pub steps: u64,
    context: Context,
    at: usize,
    step: Step,
    unique: BTreeMap<TreeId, UniqueOverlay>,
    tenants: BTreeMap<TenantId, KekHash>,
    /// Set once the request changed the schema.
    catalog: Option<Catalog>,
    bytes_scanned: u64,
    /// Tables as they were when this request dropped them, or an index of theirs: rows that it put
    /// before are of these.
    gone: Vec<Arc<TableSchema>>,
    /// Indexes that this request builds.
    built: BTreeSet<TreeId>,
    /// Bound of the pages that freeing leaves touches.
    pages_freed: u64,
    /// Set while the trees are looked at for the bound of pages.
    estimating: Option<Box<Estimating>>,
    /// Rows that a slice of a job may take on.
    slice_rows_max: usize,
    pub scratch: Box<ExecutionScratch>,
}

impl Execution {
    #[must_use]
    pub fn new(
        drafts: Drafts,
        scratch: Box<ExecutionScratch>,
        timestamp: Timestamp,
        seed: [u8; 32],
    ) -> Execution {
        assert!(drafts.is_empty() && scratch.is_empty(), "nothing of another request");
        Execution {
            drafts,
            results: Results::default(),
            pages_dirtied: 0,
            found_stale: 0,
            steps: 0,
            context: Context::new(timestamp, seed),
            at: 0,
            step: Step::Begin,
            unique: BTreeMap::new(),
            tenants: BTreeMap::new(),
            catalog: None,
            bytes_scanned: 0,
            gone: Vec::new(),
            built: BTreeSet::new(),
            pages_freed: 0,
            estimating: None,
            slice_rows_max: JOB_SLICE_ROWS,
            scratch,
        }
    }

    /// Goes on to the end of the work. `Ok(Err)`: refused, throw this away.
    pub fn run(
        &mut self,
        context: &ExecutionContext<'_>,
        envelope: &Envelope,
    ) -> Result<Result<(), RequestError>, Fault> {
        loop {
            let error = match self.run_to_stop(context, envelope) {
                Ok(()) => return Ok(Ok(())),
                Err(Stop::Fault(fault)) => return Err(fault),
                Err(Stop::Refused(error)) => error,
            };
            if !self.shrinks(&envelope.work, &error) {
                return Ok(Err(error));
            }
        }
    }

    /// A slice of a job may be smaller: beside its rows it changes the catalog, and that takes as
    /// many pages as the schemas are large. True: everything begins again.
    fn shrinks(&mut self, work: &[(u32, Work)], error: &RequestError) -> bool {
        let too_many_pages = matches!(
            error,
            RequestError::LimitExceeded { limit: Limit::TransactionPagesDirtied, .. }
        );
        let slice = matches!(work, [(_, Work::JobStep { .. })]);
        if !too_many_pages || !slice || self.slice_rows_max == 1 {
            return false;
        }
        self.slice_rows_max /= 2;
        self.drafts.clear();
        self.results.clear();
        self.catalog = None;
        self.scratch.changes.clear();
        self.gone.clear();
        self.built.clear();
        self.pages_freed = 0;
        self.estimating = None;
        self.bytes_scanned = 0;
        (self.at, self.step) = (0, Step::Begin);
        true
    }

    fn run_to_stop(
        &mut self,
        context: &ExecutionContext<'_>,
        envelope: &Envelope,
    ) -> Result<(), Stop> {
        limit(Limit::Operations, envelope.work.len() as u64, OPERATIONS_MAX as u32)?;
        while let Some((operation, work)) = envelope.work.get(self.at) {
            let (rows_affected, detail) = self.run_work(context, envelope, work)?;
            self.results.push(OperationResult { operation: *operation, rows_affected, detail });
            self.step = Step::Begin;
            self.at += 1;
            self.steps += 1;
        }
        self.pages_dirtied = self.estimate_pages(context)?;
        limit(
            Limit::TransactionPagesDirtied,
            u64::from(self.pages_dirtied),
            context.constants.transaction_pages_dirtied_max,
        )?;
        Ok(())
    }

    fn run_work(
        &mut self,
        context: &ExecutionContext<'_>,
        envelope: &Envelope,
        work: &Work,
    ) -> Result<(u64, ResultDetail), Stop> {
        let tenant = context.drafts.tenant;
        let of_the_system = matches!(work, Work::CreateTenant { .. } | Work::Attest);
        if of_the_system != (tenant == TenantId::SYSTEM) {
            return Err(RequestError::NotPermitted { tenant }.into());
        }
        match work {
            Work::Command(command) => {
                let alone = envelope.work.len() == 1;
                self.run_command(context, command, alone)
            }
            Work::Insert(at) => {
                let rows = self.insert(context, &envelope.insert(at))?;
                Ok((rows, ResultDetail::Rows))
            }
            Work::Append(at) => self.append(context, &envelope.append(at)),
            Work::CreateTenant { tenant, kek_hash } => {
                self.create_tenant(context, *tenant, *kek_hash)
            }
            Work::JobStep { job } => self.job_step(context, *job),
            // Alone it never gets here: `apply::attest`.
            Work::Attest => Err(RequestError::NotPermitted { tenant }.into()),
        }
    }

    fn run_command(
        &mut self,
        context: &ExecutionContext<'_>,
        command: &Command,
        alone: bool,
    ) -> Result<(u64, ResultDetail), Stop> {
        match command {
            Command::Nothing => Ok((0, ResultDetail::Rows)),
            Command::CreateTable { schema, if_not_exists } => {
                self.create_table(context, schema, *if_not_exists, alone)?;
                Ok((0, ResultDetail::Schema))
            }
            Command::DropTable { table, schema_version } => {
                let schema = self.table(context, *table, *schema_version)?;
                self.end_builds(context, schema.id)?;
                let mut catalog = self.catalog_now(context).clone();
                catalog.drop_table(schema.id);
                self.gone.push(schema.clone());
                let schema_version = catalog.version;
                let payload = Payload::TableDropped { table: schema.id, schema_version };
                self.drafts.push(&payload, STREAM_SYSTEM, schema_version);
                self.catalog = Some(catalog);
                self.check_drafts(context)?;
                Ok((0, ResultDetail::Schema))
            }
            Command::CreateIndex(create) => Ok((0, self.create_index(context, create)?)),
            Command::CancelJob { job } => {
                self.cancel_job(context, *job)?;
                Ok((0, ResultDetail::Schema))
            }
            Command::DropIndex { table, entries } => {
                self.drop_index(context, *table, *entries)?;
                Ok((0, ResultDetail::Schema))
            }
            Command::AddColumn { table, schema_version, column } => {
                let schema = self.table(context, *table, *schema_version)?;
                self.add_column(context, &schema, column)?;
                Ok((0, ResultDetail::Schema))
            }
            Command::Insert(_) => unreachable!("its rows stay as they came: `Work::Insert`"),
            Command::Update(update) => {
                let schema = self.table(context, update.table, update.schema_version)?;
                let assignments = Some(update.assignments.as_slice());
                let (predicate, found) = (update.predicate.as_ref(), update.found.as_ref());
                let rows = self.change(context, &schema, predicate, assignments, found)?;
                Ok((rows, ResultDetail::Rows))
            }
            Command::Delete(delete) => {
                let schema = self.table(context, delete.table, delete.schema_version)?;
                let (predicate, found) = (delete.predicate.as_ref(), delete.found.as_ref());
                let rows = self.change(context, &schema, predicate, None, found)?;
                Ok((rows, ResultDetail::Rows))
            }
        }
    }

    fn create_table(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        if_not_exists: bool,
        alone: bool,
    ) -> Result<(), Stop> {
        let catalog = self.catalog_now(context);
        if catalog.table_named(&schema.name).is_some() {
            if if_not_exists {
                return Ok(());
            }
            let message = alloc::format!("table \"{}\" exists already", schema.name);
            return Err(SqlError::new(SqlState::DuplicateTable, message).into());
        }
        limit(Limit::Tables, catalog.table_count() as u64 + 1, TABLES_MAX as u32)?;
        let bound_to_this = schema.id == catalog.next_table
            && schema.stream >= catalog.next_stream
            && schema.rows >= catalog.next_tree
            && schema.history > schema.rows
            && schema.schema_version == catalog.version.next();
        let mut schema = schema.clone();
        if !bound_to_this {
            // Another request came first. Nothing else here names these ids, so new ones will do.
            if !alone {
                return Err(schema_changed(&schema.name).into());
            }
            schema.id = catalog.next_table;
            schema.stream = catalog.next_stream;
            schema.rows = catalog.next_tree;
            schema.history = schema.rows.next();
            schema.schema_version = catalog.version.next();
        }
        schema.created_at = context.drafts.next_position(&self.drafts);
        for column in &mut schema.columns {
            column.added_at = schema.created_at;
        }
        let mut tree = schema.history.next();
        for index in &mut schema.indexes {
            if catalog.index_named(&index.name).is_some() {
                return Err(duplicate_index(&index.name).into());
            }
            (index.entries, index.ended) = (tree, tree.next());
            tree = index.ended.next();
            index.ready_at = Some(schema.created_at);
        }
        let mut catalog = catalog.clone();
        let bytes = schema.encode();
        let payload = Payload::TableCreated { table: schema.id, schema: &bytes };
        self.drafts.push(&payload, STREAM_SYSTEM, schema.schema_version);
        catalog.create(schema);
        self.catalog = Some(catalog);
        self.check_drafts(context)
    }

    fn create_tenant(
        &mut self,
        context: &ExecutionContext<'_>,
        tenant: TenantId,
        kek_hash: KekHash,
    ) -> Result<(u64, ResultDetail), Stop> {
        let exists = tenant == TenantId::SYSTEM
            || self.tenants.contains_key(&tenant)
            || context.store.contains(TENANTS_TREE, &trees::tenant_key(tenant))?;
        if exists {
            return Err(RequestError::TenantExists(tenant).into());
        }
        let count = context.store.count(TENANTS_TREE)? + self.tenants.len() as u64 + 1;
        limit(Limit::Tenants, count, TENANTS_MAX as u32)?;
        let payload = Payload::TenantCreated { tenant, kek_hash };
        self.drafts.push(&payload, STREAM_SYSTEM, context.catalog.version);
        self.tenants.insert(tenant, kek_hash);
        self.check_drafts(context)?;
        Ok((0, ResultDetail::TenantCreated(tenant)))
    }

    /// The catalog as this request sees it.
    fn catalog_now<'a>(&'a self, context: &ExecutionContext<'a>) -> &'a Catalog {
        self.catalog.as_ref().unwrap_or(context.catalog)
    }

    /// The table that a command was bound to, if it is still the same.
    fn table(
        &self,
        context: &ExecutionContext<'_>,
        table: TableId,
        schema_version: SchemaVersion,
    ) -> Result<Arc<TableSchema>, Stop> {
        match self.catalog_now(context).table(table) {
            Some(schema) if schema.schema_version == schema_version => Ok(schema.clone()),
            Some(schema) => Err(schema_changed(&schema.name).into()),
            None => Err(schema_changed("?").into()),
        }
    }

    /// Did the table exist before this request?
    fn in_trees(&self, context: &ExecutionContext<'_>, schema: &TableSchema) -> bool {
        self.catalog.is_none() || context.catalog.table(schema.id).is_some()
    }

    /// Limits on what was drafted; after each draft or each small batch of them.
    fn check_drafts(&self, context: &ExecutionContext<'_>) -> Result<(), Stop> {
        #[cfg(verity_zoo)]
        if crate::zoo::is("transaction_limit_ignored") {
            return Ok(());
        }
        let constants = context.constants;
        limit(
            Limit::TransactionEvents,
            self.drafts.len() as u64,
            constants.transaction_events_max,
        )?;
        limit(
            Limit::TransactionBytes,
            self.drafts.size_bytes() as u64,
            constants.transaction_bytes_max,
        )?;
        // A schema, which nobody has measured: rows and records of clients were.
        let last = self.drafts.len().checked_sub(1).map(|last| self.drafts.get(last).1.len());
        match last {
            Some(size) if size > ROW_SIZE_MAX + PAYLOAD_EXTRA_MAX => {
                Err(RequestError::TooLarge { size, max: ROW_SIZE_MAX }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes that scans may visit before [`Execution::check_scan`] refuses. A scan stops at the row
    /// that passes it: a fault may stop it anywhere, and must not decide what is refused.
    fn scan_left(&self, context: &ExecutionContext<'_>) -> u64 {
        let max = u64::from(context.constants.transaction_pages_read_max) * PAGE_SIZE as u64;
        max.saturating_sub(self.bytes_scanned)
    }

    /// Limit on what scans visited.
    fn check_scan(&self, context: &ExecutionContext<'_>) -> Result<(), Stop> {
        let pages = self.bytes_scanned.div_ceil(PAGE_SIZE as u64);
        limit(Limit::TransactionPagesRead, pages, context.constants.transaction_pages_read_max)
    }
}

/// What a payload has beside the row or record in it.
const PAYLOAD_EXTRA_MAX: usize = 1_024;

pub(super) fn limit(limit: Limit, value: u64, max: u32) -> Result<(), Stop> {
    let max = u64::from(max);
    if value <= max {
        return Ok(());
    }
    Err(RequestError::LimitExceeded { limit, value, max }.into())
}

fn schema_changed(table: &str) -> SqlError {
    let message = alloc::format!("table \"{table}\" changed while the request was on its way");
    SqlError::new(SqlState::SchemaChanged, message)
}
