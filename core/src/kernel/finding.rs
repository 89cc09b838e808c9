//! The rows that a large UPDATE or DELETE means, found before it is proposed.
//!
//! A write whose WHERE looks at more than a transaction may read finds its rows on the primary: a
//! read in slices, between which commits go on, at one position. The keys travel with the command.
//! Apply takes them only while nothing has changed a row of the table since that position; else it
//! looks itself, as for any write, and refuses what is more than it may read, retryably.
//!
//! Invariants: what a [`Finding`] gives is exactly the rows whose predicate holds at its position:
//! a table that changed meanwhile is told (`Changed`), never patched up. A predicate that needs the
//! time or the seed of the prepare has no answer before it: such writes are not looked for here.
//! Memory: keys of rows, within [`Finding::limit_bytes`].

use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use super::Kernel;
use crate::ids::{Position, SchemaVersion, TableId, TenantId, TreeId};
use crate::limits::{FIND_SLICE_ROWS, PAGE_SIZE, ROW_SIZE_MAX};
use crate::log::Logs;
use crate::query::access::KeyRange;
use crate::query::bind::Source;
use crate::query::command::{Command, FoundRows};
use crate::query::eval::{Context, Env, RowView, eval_truth};
use crate::query::index::row_key_of;
use crate::query::plan::{Candidates, PlanWorld, choose, entries_of};
use crate::query::source::{RowScan, RowSource};
use crate::query::stored::StoredRow;
use crate::query::{Catalog, Expr, SqlError, TableSchema};
use crate::store::{Fault, Store};
use crate::time::Timestamp;

/// What was found of the writes of a request, in their order.
#[derive(Debug, Default)]
pub struct Found {
    /// `None`: the write was looked at, and finds its rows itself.
    list: Vec<Option<FoundRows>>,
    /// Nothing more is looked for.
    given_up: bool,
}

/// Where writes are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub store: &'a Store,
    pub tenant: TenantId,
    pub catalog: &'a Catalog,
    /// `transaction_pages_read_max`
    pub pages_max: u32,
}

impl Found {
    /// For whoever does not look for rows: every write finds its own.
    #[must_use]
    pub fn given_up() -> Found {
        Found { list: Vec::new(), given_up: true }
    }

    /// The rows of the next write.
    pub fn push(&mut self, rows: FoundRows) {
        assert!(!self.given_up, "nobody looks any more");
        self.list.push(Some(rows));
    }

    /// Throws away what was found.
    pub fn give_up(&mut self) {
        *self = Found::given_up();
    }

    /// Bytes of the keys.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.list.iter().flatten().map(FoundRows::memory_bytes).sum()
    }

    /// What goes with the `nth` write of the request: rows, or what must be looked for first.
    pub(super) fn of(
        &mut self,
        nth: usize,
        place: &Place<'_>,
        command: &mut Command,
    ) -> Result<Option<Finding>, Fault> {
        let (table, schema_version, predicate, found) = match command {
            Command::Update(update) => {
                let found = &mut update.found;
                (update.table, update.schema_version, &update.predicate, found)
            }
            Command::Delete(delete) => {
                let found = &mut delete.found;
                (delete.table, delete.schema_version, &delete.predicate, found)
            }
            Command::Nothing
            | Command::CreateTable { .. }
            | Command::DropTable { .. }
            | Command::CreateIndex(_)
            | Command::DropIndex { .. }
            | Command::CancelJob { .. }
            | Command::AddColumn { .. }
            | Command::Insert(_) => return Ok(None),
        };
        if self.given_up {
            return Ok(None);
        }
        if let Some(known) = self.list.get(nth) {
            found.clone_from(known);
            return Ok(None);
        }
        assert_eq!(nth, self.list.len(), "one write after the other");
        let schema = place.catalog.table(table);
        let large = match schema.filter(|schema| schema.schema_version == schema_version) {
            Some(schema) => is_large(place, schema, predicate.as_ref())?,
            // Made or altered by the request itself.
            None => false,
        };
        if !large {
            self.list.push(None);
            return Ok(None);
        }
        let predicate = predicate.clone();
        Ok(Some(Finding {
            tenant: place.tenant,
            table,
            schema_version,
            predicate,
            position: None,
            stage: Stage::Plan,
            found: FoundRows { position: Position::ZERO, keys: Vec::new() },
            bytes: 0,
            visited: 0,
        }))
    }
}

/// May the write look at more than a transaction may read? By its entries, taking each for the
/// largest row there is.
fn is_large(
    place: &Place<'_>,
    schema: &Arc<TableSchema>,
    predicate: Option<&Expr>,
) -> Result<bool, Fault> {
    if predicate.is_some_and(Expr::needs_context) {
        return Ok(false);
    }
    let source = Source::Table(schema.clone());
    let candidates = Candidates::of_write(&source, predicate);
    if candidates.primary().lookups[0].conditions.is_point() {
        return Ok(false);
    }
    let (store, tenant) = (place.store, place.tenant);
    let world = PlanWorld { store, tenant, schema, position: Position::new(u64::MAX) };
    let context = no_context();
    let plan = match choose(&candidates, &world, &Env::constant(&[], &context), false, None, false)
    {
        Ok(plan) => plan,
        Err(crate::query::Stop::Fault(fault)) => return Err(fault),
        // Whoever applies it will say so.
        Err(crate::query::Stop::Sql(_)) => return Ok(false),
        Err(crate::query::Stop::EventFault) => unreachable!("plans read no records"),
    };
    let entries = entries_of(&plan, &world)?;
    let bytes = u64::from(place.pages_max) * PAGE_SIZE as u64;
    Ok(entries > bytes / (2 * ROW_SIZE_MAX as u64))
}

/// Predicates that need one are not looked for.
fn no_context() -> Context {
    Context::new(Timestamp(0), [0; 32])
}

/// How a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindStep {
    More,
    /// [`Finding::into_rows`] has the answer.
    Done,
    /// A row of the table, or the table, is not what it was: begin again, or give up.
    Changed,
    /// It cannot be found beforehand: whoever applies the write looks for itself.
    Hopeless,
}

/// One write whose rows are being looked for.
#[derive(Debug)]
pub struct Finding {
    tenant: TenantId,
    table: TableId,
    schema_version: SchemaVersion,
    predicate: Option<Expr>,
    /// Once it has begun.
    position: Option<Position>,
    stage: Stage,
    found: FoundRows,
    /// Of keys that are held.
    bytes: usize,
    visited: u64,
}

#[derive(Debug)]
enum Stage {
    Plan,
    /// Keys of rows that may match, by the entries of indexes.
    Gather {
        sides: VecDeque<(Option<TreeId>, RowScan)>,
        keys: BTreeSet<Vec<u8>>,
    },
    Lookup {
        keys: BTreeSet<Vec<u8>>,
    },
    Scan(RowScan),
    Done,
}

impl Finding {
    /// From the start, at a newer position.
    pub fn restart(&mut self) {
        self.position = None;
        self.stage = Stage::Plan;
        self.found.keys.clear();
        self.bytes = 0;
    }

    /// Bytes of keys that it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Grows with every entry: two faults without a change between them need the same pages.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.visited
    }

    #[must_use]
    pub fn into_rows(self) -> FoundRows {
        assert!(matches!(self.stage, Stage::Done), "it was found");
        self.found
    }

    fn matches(&self, row: StoredRow<'_>, context: &Context) -> Result<bool, SqlError> {
        let Some(predicate) = &self.predicate else { return Ok(true) };
        let env = Env::constant(&[], context).with_row(RowView::Stored(row));
        Ok(eval_truth(predicate, &env)? == Some(true))
    }
}

impl Kernel {
    /// One slice of the search. `max_bytes`: of keys, whose number is bounded by what a transaction
    /// may change: of more than that one more is found, so that apply refuses it for that reason.
    /// Restartable, and never at the same place twice.
    pub fn find_step(
        &mut self,
        store: &Store,
        logs: &Logs,
        finding: &mut Finding,
        max_bytes: usize,
    ) -> Result<FindStep, Fault> {
        let tenant = finding.tenant;
        let Some(catalog) = self.catalog(store, tenant)? else { return Ok(FindStep::Hopeless) };
        let Some(schema) = catalog.table(finding.table).cloned() else {
            return Ok(FindStep::Hopeless);
        };
        if schema.schema_version != finding.schema_version {
            return Ok(FindStep::Hopeless);
        }
        let Some(newest) = self.snapshot(store, logs, tenant)? else {
            return Ok(FindStep::Hopeless);
        };
        let changed_at = catalog.changed_at(finding.table);
        if finding.position.is_none() && changed_at > newest {
            // A transaction that changes it is half applied.
            return Ok(FindStep::More);
        }
        let position = *finding.position.get_or_insert(newest);
        if changed_at > position {
            return Ok(FindStep::Changed);
        }
        finding.found.position = position;
        let source = RowSource { store, tenant, catalog: &catalog, position };
        let most = self.constants().transaction_events_max as usize + 1;
        let step = match &mut finding.stage {
            Stage::Plan => finding.plan(&source, &schema),
            Stage::Gather { .. } => finding.gather(&source, &schema, max_bytes),
            Stage::Lookup { .. } => finding.look_up(&source, &schema),
            Stage::Scan(_) => finding.scan(&source, &schema, most),
            Stage::Done => Ok(FindStep::Done),
        }?;
        if step != FindStep::More {
            return Ok(step);
        }
        // What was found so far is not all of it, and must never be taken for that: apply refuses
        // so many rows, whichever they are.
        if finding.found.keys.len() >= most {
            finding.stage = Stage::Done;
        } else if finding.bytes > max_bytes {
            return Ok(FindStep::Hopeless);
        }
        let done = matches!(finding.stage, Stage::Done);
        Ok(if done { FindStep::Done } else { FindStep::More })
    }
}

impl Finding {
    fn plan(
        &mut self,
        source: &RowSource<'_>,
        schema: &Arc<TableSchema>,
    ) -> Result<FindStep, Fault> {
        let of = Source::Table(schema.clone());
        let candidates = Candidates::of_write(&of, self.predicate.as_ref());
        let (store, tenant, position) = (source.store, source.tenant, source.position);
        let world = PlanWorld { store, tenant, schema, position };
        let context = no_context();
        let env = Env::constant(&[], &context);
        let plan = match choose(&candidates, &world, &env, false, None, false) {
            Ok(plan) => plan,
            Err(crate::query::Stop::Fault(fault)) => return Err(fault),
            Err(crate::query::Stop::Sql(_)) => return Ok(FindStep::Hopeless),
            Err(crate::query::Stop::EventFault) => unreachable!("plans read no records"),
        };
        let sides = plan.candidate.lookups.iter().zip(plan.ranges);
        let sides = sides.map(|(lookup, ranges)| (lookup.index, RowScan::new(ranges.list, false)));
        let mut sides: VecDeque<(Option<TreeId>, RowScan)> = sides.collect();
        self.stage = match sides.pop_front() {
            Some((None, scan)) if sides.is_empty() => Stage::Scan(scan),
            Some(first) => {
                sides.push_front(first);
                Stage::Gather { sides, keys: BTreeSet::new() }
            }
            None => unreachable!("a plan has a lookup"),
        };
        Ok(FindStep::More)
    }

    /// Keys by entries; when they are too many to hold, the rows are scanned instead.
    fn gather(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
        max_bytes: usize,
    ) -> Result<FindStep, Fault> {
        let Stage::Gather { sides, keys } = &mut self.stage else { unreachable!("just seen") };
        let (bytes, visited) = (&mut self.bytes, &mut self.visited);
        let mut note = |key: &[u8]| {
            *visited += 1;
            if keys.insert(key.to_vec()) {
                *bytes += FoundRows::key_bytes(key);
            }
            if *bytes > max_bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if let Some((index, scan)) = sides.front_mut() {
            let flow = match index {
                None => source.scan(schema, scan, &mut |key, _| note(key))?,
                Some(entries) => {
                    let Some(index) = schema.index(*entries) else {
                        // Dropped since.
                        return Ok(FindStep::Changed);
                    };
                    let visit = &mut |key: &[u8], value: &[u8]| note(row_key_of(key, value));
                    source.scan_index(schema, index, scan, FIND_SLICE_ROWS, visit)?
                }
            };
            if flow.is_continue() {
                sides.pop_front();
            }
        }
        if self.bytes > max_bytes {
            self.bytes = 0;
            self.stage = Stage::Scan(RowScan::new(Vec::from([KeyRange::all()]), false));
        } else if sides.is_empty() {
            self.stage = Stage::Lookup { keys: core::mem::take(keys) };
        }
        Ok(FindStep::More)
    }

    fn look_up(&mut self, source: &RowSource<'_>, schema: &TableSchema) -> Result<FindStep, Fault> {
        let Stage::Lookup { keys } = &mut self.stage else { unreachable!("just seen") };
        let mut keys = core::mem::take(keys);
        let context = no_context();
        let initial = schema.initial_values(source.position);
        let mut outcome = Ok(FindStep::More);
        for _ in 0..FIND_SLICE_ROWS {
            let Some(key) = keys.first() else { break };
            let bytes = match source.get(schema, key) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => unreachable!("an entry has its row"),
                Err(fault) => {
                    let ahead = keys.iter().take(crate::limits::READ_LOOKUPS);
                    source.prefetch(schema, ahead.map(Vec::as_slice));
                    outcome = Err(fault);
                    break;
                }
            };
            let selected = self.matches(StoredRow::new(&bytes).with_initial(&initial), &context);
            let Some(key) = keys.pop_first() else { unreachable!("just seen") };
            self.visited += 1;
            match selected {
                Ok(true) => self.found.keys.push(key),
                Ok(false) => self.bytes -= FoundRows::key_bytes(&key),
                Err(_) => outcome = Ok(FindStep::Hopeless),
            }
            if outcome != Ok(FindStep::More) {
                break;
            }
        }
        self.stage = if keys.is_empty() { Stage::Done } else { Stage::Lookup { keys } };
        outcome
    }

    fn scan(
        &mut self,
        source: &RowSource<'_>,
        schema: &TableSchema,
        most: usize,
    ) -> Result<FindStep, Fault> {
        let Stage::Scan(mut scan) = core::mem::replace(&mut self.stage, Stage::Done) else {
            unreachable!("just seen");
        };
        let context = no_context();
        let (mut failed, mut visited) = (false, 0);
        let (mut keys, mut bytes) = (core::mem::take(&mut self.found.keys), self.bytes);
        let flow = source.scan(schema, &mut scan, &mut |key, row| {
            visited += 1;
            match self.matches(row, &context) {
                Ok(true) => {
                    keys.push(key.to_vec());
                    bytes += FoundRows::key_bytes(key);
                }
                Ok(false) => {}
                Err(_) => failed = true,
            }
            if failed || visited == FIND_SLICE_ROWS || keys.len() >= most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        #[cfg(verity_zoo)]
        let flow = if flow.is_err() && crate::zoo::is("find_ends_at_fault") {
            Ok(ControlFlow::Continue(()))
        } else {
            flow
        };
        self.bytes = bytes;
        self.visited += visited as u64;
        self.found.keys = keys;
        let at_end = matches!(flow, Ok(ControlFlow::Continue(())));
        if !at_end {
            self.stage = Stage::Scan(scan);
        }
        let _ = flow?;
        Ok(if failed { FindStep::Hopeless } else { FindStep::More })
    }
}
