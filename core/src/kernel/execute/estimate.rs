//! How many pages a request can dirty: what its limit and `Store::room_for` are asked with.
//!
//! Invariants: never less than what applying its drafts dirties (asserted in debug builds by
//! `Transaction::run`); a function of state and request alone. First a bound from counts, which
//! costs nothing; only when that is more than a transaction may have, the trees are looked at.
//!
//! Whoever lets a record change one more tree charges it here: `charge_put`, `charge_removal`, and
//! in [`Execution::tree_changes`].

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Execution, ExecutionContext, Stop};
use crate::ids::{Position, TableId, TenantId, TreeId};
use crate::kernel::drafts::Draft;
use crate::kernel::payload::{Payload, RowChange};
use crate::kernel::record::whole_row;
use crate::kernel::trees::{CATALOG, IDEMPOTENCY, STREAMS, TENANTS_TREE};
use crate::limits::{IDEMPOTENCY_TRIM_MAX, RESULT_SIZE_MAX, ROW_KEY_SIZE_MAX};
use crate::log::RecordKind;
use crate::query::codec::decode_row_key;
use crate::query::index::{ENTRY_SIZE, Index};
use crate::query::key::history_key;
use crate::query::{TableSchema, Value};
use crate::store::{BoundWalk, FORESTS, Fault, TreeChange, TreeRef, overflow_pages};

/// Changes of one tree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    puts: u64,
    removals: u64,
    /// At most, for values that lie in pages of their own.
    overflow_pages: u64,
    /// Of entries that a new index is built of, which are nothing else of this.
    built_bytes: u64,
}

/// Where the look at the trees is. It reads a page for each row that is replaced and for each leaf:
/// all of them at once may be more than memory holds.
#[derive(Debug, Default)]
pub(super) struct Estimating {
    /// The draft that comes next.
    at: usize,
    /// The drafts that put a key last: later ones may supersede them.
    made: BTreeMap<(TreeId, Vec<u8>), usize>,
    /// What the drafts will do, tree by tree, in their order; trees that were counted are gone.
    trees: BTreeMap<TreeId, Vec<TreeChange>>,
    /// Of the first of these trees.
    walk: BoundWalk,
    /// Of the trees that were counted.
    pages: u64,
    /// Grows with everything done.
    steps: u64,
}

/// What a leaf keeps beside an entry.
const SLOT_SIZE: usize = 12;
/// Bytes that a page of a tree that only grew holds on average, at least: two halves of a split
/// have more, and a page that begins with one entry follows a full one.
const BUILT_PAGE_BYTES: u64 = 1_000;

impl Changes {
    fn built_pages(&self) -> u64 {
        if self.built_bytes == 0 { 0 } else { self.built_bytes.div_ceil(BUILT_PAGE_BYTES) + 4 }
    }
}

/// Entries of the catalog that one change of it puts or removes, at most.
const CATALOG_ENTRIES_MAX: u64 = 4;
/// Bytes of an outcome beside its results.
const OUTCOME_FIXED: usize = 128;

impl Execution {
    fn changes_of(&mut self, tree: TreeId) -> &mut Changes {
        let all = &mut self.scratch.changes;
        let at = all.binary_search_by_key(&tree, |(known, _)| *known).unwrap_or_else(|at| {
            all.insert(at, (tree, Changes::default()));
            at
        });
        &mut all[at].1
    }

    /// Notes a value that will be put into a tree of a table; `size` at least.
    pub(super) fn charge_put(&mut self, tree: TreeId, size: usize) {
        let changes = self.changes_of(tree);
        changes.puts += 1;
        changes.overflow_pages += overflow_pages(size);
    }

    /// Notes that a key of a table's tree will be removed.
    pub(super) fn charge_removal(&mut self, tree: TreeId) {
        self.changes_of(tree).removals += 1;
    }

    /// Notes an entry that a new index is built of.
    pub(super) fn charge_built(&mut self, tree: TreeId, entry_size: usize) {
        self.changes_of(tree).built_bytes += (entry_size + SLOT_SIZE) as u64;
    }

    /// Notes what a row's change will do to the indexes of its table: those that it has now, and
    /// those that it had before this request.
    pub(super) fn charge_indexes(
        &mut self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        before: Option<&[Value]>,
        after: Option<&[Value]>,
    ) {
        for index in self.indexes_of(context, schema) {
            if let (Some(before), Some(after)) = (before, after)
                && index.same_entry(schema, before, after)
            {
                continue;
            }
            if before.is_some() {
                self.charge_put(index.ended, ENTRY_SIZE);
                self.charge_removal(index.entries);
            }
            if after.is_some() {
                self.charge_put(index.entries, ENTRY_SIZE);
            }
        }
    }

    pub(super) fn estimate_pages(&mut self, context: &ExecutionContext<'_>) -> Result<u32, Stop> {
        let tenant = context.drafts.tenant;
        let fixed = self.pages_beside_rows(context)?;
        let fixed = fixed + self.pages_freed;
        let mut pages = fixed;
        for (tree, changes) in &self.scratch.changes {
            let tree = TreeRef::new(tenant, *tree);
            pages += context.store.pages_at_most(tree, changes.puts, changes.removals)?;
            pages += changes.overflow_pages + changes.built_pages();
        }
        if pages > u64::from(context.constants.transaction_pages_dirtied_max) {
            pages = fixed;
            for (tree, changes) in &self.scratch.changes {
                // What a build puts is known by its number alone.
                if self.built.contains(tree) {
                    let tree = TreeRef::new(tenant, *tree);
                    pages += context.store.pages_at_most(tree, changes.puts, changes.removals)?;
                    pages += changes.built_pages();
                }
            }
            let mut estimating = self.estimating.take().unwrap_or_default();
            let before = estimating.steps;
            let looked_at = self.look_at_trees(context, &mut estimating);
            // A fault comes back with more done: what it needs next is little, and something else.
            self.steps += estimating.steps - before;
            pages += estimating.pages;
            self.estimating = Some(estimating);
            looked_at?;
        }
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// The second bound, of all trees that are not built: row by row, then leaf by leaf.
    fn look_at_trees(
        &self,
        context: &ExecutionContext<'_>,
        estimating: &mut Estimating,
    ) -> Result<(), Fault> {
        while estimating.at < self.drafts.len() {
            self.tree_changes(context, estimating)?;
            estimating.at += 1;
            estimating.steps += 1;
        }
        while let Some((tree, changes)) = estimating.trees.first_key_value() {
            if !self.built.contains(tree) {
                let tree = TreeRef::new(context.drafts.tenant, *tree);
                let before = estimating.walk.counted();
                let bound = context.store.pages_bound(tree, changes, &mut estimating.walk);
                estimating.steps += estimating.walk.counted() - before;
                let sizes = changes.iter().filter_map(|change| change.put);
                estimating.pages += bound? + sizes.map(overflow_pages).sum::<u64>();
            }
            estimating.trees.pop_first();
            estimating.walk = BoundWalk::default();
        }
        Ok(())
    }

    /// Forests, catalog, streams, tenants, the outcome.
    fn pages_beside_rows(&self, context: &ExecutionContext<'_>) -> Result<u64, Fault> {
        let (store, tenant) = (context.store, context.drafts.tenant);
        let of = |tree| TreeRef::new(tenant, tree);
        let (mut catalog_changes, mut pages, mut created) = (0, 0, 0);
        for at in 0..self.drafts.len() {
            let (draft, payload) = self.drafts.get(at);
            if draft.kind == RecordKind::CatalogChange {
                catalog_changes += 1;
                pages +=
                    overflow_pages(payload.len()) + self.dropped_pages(context, draft, payload);
                created += trees_named(draft.kind, payload);
            }
        }
        let touched = self.scratch.changes.len() as u64;
        let notes = touched + CATALOG_ENTRIES_MAX * catalog_changes;
        pages += store.pages_at_most(of(CATALOG), notes, 0)?;
        pages += store.pages_at_most(of(STREAMS), 2 * self.scratch.streams.len() as u64, 0)?;
        let trims = u64::from(IDEMPOTENCY_TRIM_MAX);
        pages += store.pages_at_most(of(IDEMPOTENCY), 1, trims)?;
        pages += overflow_pages(OUTCOME_FIXED + RESULT_SIZE_MAX * self.results.len());
        // Beside its tables' trees: catalog, streams, outcomes.
        pages += store.forest_pages_at_most(tenant, touched + 3, created)?;
        if !self.tenants.is_empty() {
            let tenants = self.tenants.len() as u64;
            pages += store.pages_at_most(TENANTS_TREE, tenants, 0)?;
            let forests = TreeRef::new(TenantId::SYSTEM, FORESTS);
            // A new forest is one page.
            pages += store.pages_at_most(forests, tenants, 0)? + 2 * tenants;
        }
        Ok(pages)
    }

    /// Pages of the schema that a drop leaves behind.
    fn dropped_pages(&self, context: &ExecutionContext<'_>, draft: &Draft, payload: &[u8]) -> u64 {
        let Ok((Payload::TableDropped { table, .. }, _)) = Payload::decode(draft.kind, payload)
        else {
            return 0;
        };
        // One that this request made itself is in another of its drafts.
        let schema = context.catalog.table(table);
        schema.map_or(0, |schema| overflow_pages(schema.encode().len() + 64))
    }

    /// Notes what applying the draft at hand will do to the trees of tables.
    fn tree_changes(
        &self,
        context: &ExecutionContext<'_>,
        estimating: &mut Estimating,
    ) -> Result<(), Fault> {
        let Estimating { at, made, trees, .. } = estimating;
        let at = *at;
        let (draft, payload) = self.drafts.get(at);
        let Ok((payload, _)) = Payload::decode(draft.kind, payload) else {
            unreachable!("a draft holds what was encoded");
        };
        let (table, replaces, key, put) = match payload.row_change() {
            Some(RowChange::Put { table, replaces, .. }) => {
                let Some(row) = self.drafts.made_row(at) else {
                    unreachable!("each row is made with its draft");
                };
                (table, replaces.is_some(), Some(row.key.to_vec()), Some(row.value.len()))
            }
            Some(RowChange::Delete { table, .. }) => (table, true, None, None),
            None => return Ok(()),
        };
        let Some(schema) = self.schemas_of(context, table).next() else {
            unreachable!("a row is of a table");
        };
        let key = match (key, payload) {
            (Some(key), _) => key,
            (None, Payload::RowDelete { key, .. }) => {
                let Ok(key) = decode_row_key(schema, key) else {
                    unreachable!("a draft holds a key of its table");
                };
                key
            }
            (None, _) => unreachable!("puts have their key"),
        };
        let (old, size) = match (replaces, made.get(&(schema.rows, key.clone()))) {
            (false, _) => (None, None),
            (true, Some(at)) => {
                let Some(row) = self.drafts.made_row(*at) else {
                    unreachable!("only puts are noted")
                };
                (Some(Cow::Borrowed(row.value)), Some(row.value.len()))
            }
            (true, None) if schema.indexes.is_empty() => {
                let rows = TreeRef::new(context.drafts.tenant, schema.rows);
                let Some(size) = context.store.value_size(rows, &key)? else {
                    unreachable!("the record says that the row was there");
                };
                (None, Some(size))
            }
            (true, None) => {
                let rows = TreeRef::new(context.drafts.tenant, schema.rows);
                let Some(value) = context.store.get(rows, &key)? else {
                    unreachable!("the record says that the row was there");
                };
                let size = value.len();
                (Some(value), Some(size))
            }
        };
        let position = Position::new(context.drafts.first.get() + at as u64);
        if let Some(size) = size {
            let change = TreeChange { key: history_key(&key, position).to_vec(), put: Some(size) };
            trees.entry(schema.history).or_default().push(change);
        }
        let before = old.map(|old| whole_row(schema, &old));
        let new = self.drafts.made_row(at).filter(|_| put.is_some());
        let after = new.map(|row| whole_row(schema, row.value));
        let indexes = self.indexes_of(context, schema);
        index_changes(&indexes, schema, &key, position, before, after, trees);
        if put.is_some() {
            made.insert((schema.rows, key.clone()), at);
        }
        trees.entry(schema.rows).or_default().push(TreeChange { key, put });
        Ok(())
    }

    /// A table as it is, as the request dropped it or its indexes, the last time first, and as it
    /// was before: so the first one has all columns that rows of the request have.
    fn schemas_of<'a>(
        &'a self,
        context: &ExecutionContext<'a>,
        table: TableId,
    ) -> impl Iterator<Item = &'a Arc<TableSchema>> {
        let gone = self.gone.iter().rev().filter(move |schema| schema.id == table);
        let now = self.catalog_now(context).table(table).into_iter();
        now.chain(gone).chain(context.catalog.table(table))
    }

    /// The indexes that a row of the table may enter or leave: those it has now, and those that
    /// this request has dropped since.
    fn indexes_of(&self, context: &ExecutionContext<'_>, schema: &TableSchema) -> Vec<Index> {
        let mut indexes = schema.indexes.clone();
        for index in self.schemas_of(context, schema.id).flat_map(|known| &known.indexes) {
            if !indexes.iter().any(|known| known.entries == index.entries) {
                indexes.push(index.clone());
            }
        }
        indexes
    }
}

/// What one record does to the trees of indexes.
fn index_changes(
    indexes: &[Index],
    schema: &TableSchema,
    key: &[u8],
    position: Position,
    before: Option<Vec<Value>>,
    after: Option<Vec<Value>>,
    trees: &mut BTreeMap<TreeId, Vec<TreeChange>>,
) {
    for index in indexes {
        if let (Some(before), Some(after)) = (&before, &after)
            && index.same_entry(schema, before, after)
        {
            continue;
        }
        let mut change = |tree, key, put| {
            trees.entry(tree).or_default().push(TreeChange { key, put });
        };
        if let Some(before) = &before {
            let entry = index.entry(schema, before, key).key;
            // A row that is older than the index, whose build ends with an error there: no entry.
            if entry.len() <= ROW_KEY_SIZE_MAX {
                change(index.ended, history_key(&entry, position).to_vec(), Some(ENTRY_SIZE));
                change(index.entries, entry, None);
            }
        }
        if let Some(after) = &after {
            let entry = index.entry(schema, after, key).key;
            // Too large where the request has dropped the index before it put the row: no entry.
            if entry.len() <= ROW_KEY_SIZE_MAX {
                change(index.entries, entry, Some(ENTRY_SIZE));
            }
        }
    }
}

/// Trees that a change of the catalog may create, at most.
fn trees_named(kind: RecordKind, payload: &[u8]) -> u64 {
    let Ok((payload, _)) = Payload::decode(kind, payload) else {
        unreachable!("a draft holds what was encoded");
    };
    match payload {
        Payload::TableCreated { schema, .. } => {
            TableSchema::decode(schema).map_or(0, |schema| schema.trees().len() as u64)
        }
        Payload::TableAltered { .. } => 2,
        Payload::RowPut { .. }
        | Payload::RowDelete { .. }
        | Payload::TableDropped { .. }
        | Payload::IndexBuilt { .. }
        | Payload::JobChanged { .. }
        | Payload::PagesFreed { .. }
        | Payload::StreamCreated { .. }
        | Payload::Appended { .. }
        | Payload::Refused
        | Payload::Completed
        | Payload::TenantCreated { .. }
        | Payload::Recovery(_)
        | Payload::HeadAttested { .. }
        | Payload::Checkpoint(_) => 0,
    }
}
