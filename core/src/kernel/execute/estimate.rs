//! How many pages a request can dirty: what its limit and `Store::room_for` are asked with.
//!
//! Invariants: never less than what applying its drafts dirties (asserted in debug builds by
//! `Transaction::run`); a function of state and request alone. First a bound from counts, which
//! costs nothing; only when that is more than a transaction may have, the trees are looked at.
//!
//! Whoever lets a record change one more tree charges it here: `charge_put`, `charge_removal`, and
//! in [`Execution::tree_changes`].

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{Execution, ExecutionContext, Stop};
use crate::ids::{Position, TenantId, TreeId};
use crate::kernel::drafts::Draft;
use crate::kernel::payload::Payload;
use crate::kernel::trees::{CATALOG, IDEMPOTENCY, STREAMS, TENANTS_TREE};
use crate::limits::{IDEMPOTENCY_TRIM_MAX, RESULT_SIZE_MAX};
use crate::log::RecordKind;
use crate::query::codec::decode_row_key;
use crate::query::key::history_key;
use crate::store::{FORESTS, Fault, TreeChange, TreeRef, overflow_pages};

/// Changes of one tree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    puts: u64,
    removals: u64,
    /// At most, for values that lie in pages of their own.
    overflow_pages: u64,
}

/// Trees that one change of a catalog makes, at most.
const TREES_CREATED_MAX: u64 = 4;
/// Entries of the catalog that one change of it puts or removes, at most.
const CATALOG_ENTRIES_MAX: u64 = 4;
/// Bytes of an outcome beside its results.
const OUTCOME_FIXED: usize = 128;

impl Execution {
    /// Notes a value that will be put into a tree of a table; `size` at least.
    pub(super) fn charge_put(&mut self, tree: TreeId, size: usize) {
        let changes = self.changes.entry(tree).or_default();
        changes.puts += 1;
        changes.overflow_pages += overflow_pages(size);
    }

    /// Notes that a key of a table's tree will be removed.
    pub(super) fn charge_removal(&mut self, tree: TreeId) {
        self.changes.entry(tree).or_default().removals += 1;
    }

    pub(super) fn estimate_pages(&self, context: &ExecutionContext<'_>) -> Result<u32, Stop> {
        let tenant = context.drafts.tenant;
        let fixed = self.pages_beside_rows(context)?;
        let mut pages = fixed;
        for (&tree, changes) in &self.changes {
            let tree = TreeRef::new(tenant, tree);
            pages += context.store.pages_at_most(tree, changes.puts, changes.removals)?;
            pages += changes.overflow_pages;
        }
        if pages > u64::from(context.constants.transaction_pages_dirtied_max) {
            pages = fixed;
            for (tree, changes) in self.tree_changes(context)? {
                let tree = TreeRef::new(tenant, tree);
                pages += context.store.pages_bound(tree, &changes)?;
                let sizes = changes.iter().filter_map(|change| change.put);
                pages += sizes.map(overflow_pages).sum::<u64>();
            }
        }
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// Forests, catalog, streams, tenants, the outcome.
    fn pages_beside_rows(&self, context: &ExecutionContext<'_>) -> Result<u64, Fault> {
        let (store, tenant) = (context.store, context.drafts.tenant);
        let of = |tree| TreeRef::new(tenant, tree);
        let (mut catalog_changes, mut pages) = (0, 0);
        for at in 0..self.drafts.len() {
            let (draft, payload) = self.drafts.get(at);
            if draft.kind == RecordKind::CatalogChange {
                catalog_changes += 1;
                pages +=
                    overflow_pages(payload.len()) + self.dropped_pages(context, draft, payload);
            }
        }
        let touched = self.changes.len() as u64;
        let notes = touched + CATALOG_ENTRIES_MAX * catalog_changes;
        pages += store.pages_at_most(of(CATALOG), notes, 0)?;
        pages += store.pages_at_most(of(STREAMS), 2 * self.streams.len() as u64, 0)?;
        let trims = u64::from(IDEMPOTENCY_TRIM_MAX);
        pages += store.pages_at_most(of(IDEMPOTENCY), 1, trims)?;
        pages += overflow_pages(OUTCOME_FIXED + RESULT_SIZE_MAX * self.results.len());
        // Beside its tables' trees: catalog, streams, outcomes.
        let created = TREES_CREATED_MAX * catalog_changes;
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

    /// What applying the drafts will do to the trees of tables, tree by tree, in their order.
    fn tree_changes(
        &self,
        context: &ExecutionContext<'_>,
    ) -> Result<BTreeMap<TreeId, Vec<TreeChange>>, Fault> {
        let mut trees: BTreeMap<TreeId, Vec<TreeChange>> = BTreeMap::new();
        // Sizes of the values that earlier drafts put: later ones may supersede them.
        let mut made: BTreeMap<(TreeId, Vec<u8>), usize> = BTreeMap::new();
        for at in 0..self.drafts.len() {
            let (draft, payload) = self.drafts.get(at);
            let Ok((payload, _)) = Payload::decode(draft.kind, payload) else {
                unreachable!("a draft holds what was encoded");
            };
            let (table, replaces, key, put) = match payload {
                Payload::RowPut { table, replaces, .. } => {
                    let Some(row) = self.drafts.made_row(at) else {
                        unreachable!("each row is made with its draft");
                    };
                    (table, replaces.is_some(), Some(row.key.to_vec()), Some(row.value.len()))
                }
                Payload::RowDelete { table, .. } => (table, true, None, None),
                Payload::TableCreated { .. }
                | Payload::TableDropped { .. }
                | Payload::StreamCreated { .. }
                | Payload::Appended { .. }
                | Payload::Refused
                | Payload::Completed
                | Payload::TenantCreated { .. }
                | Payload::Recovery(_)
                | Payload::HeadAttested { .. }
                | Payload::Checkpoint(_) => continue,
            };
            let catalog = self.catalog_now(context);
            let Some(schema) = catalog.table(table).or_else(|| context.catalog.table(table)) else {
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
            if replaces {
                let old = match made.get(&(schema.rows, key.clone())) {
                    Some(size) => *size,
                    None => {
                        let rows = TreeRef::new(context.drafts.tenant, schema.rows);
                        let Some(size) = context.store.value_size(rows, &key)? else {
                            unreachable!("the record says that the row was there");
                        };
                        size
                    }
                };
                let ended_at = Position::new(context.drafts.first.get() + at as u64);
                let key = history_key(&key, ended_at);
                let change = TreeChange { key: key.to_vec(), put: Some(old) };
                trees.entry(schema.history).or_default().push(change);
            }
            if let Some(size) = put {
                made.insert((schema.rows, key.clone()), size);
            }
            trees.entry(schema.rows).or_default().push(TreeChange { key, put });
        }
        Ok(trees)
    }
}
