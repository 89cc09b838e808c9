//! A tenant's catalog in memory, and that of before while a transaction is applied.
//!
//! Purpose: a transaction is applied in slices, and reads run between them. What they are bound to
//! must be what their snapshot shows: a table that it creates is not there yet, one that it drops
//! still is. No read waits for that.
//!
//! Invariants: there is a catalog of before only within a transaction, from its first change of
//! tables that another record follows, so rows that change copy nothing. Both catalogs tell the
//! newest change of a table's rows, because trees show it at once: whoever reads current rows must
//! know that they are not those of their position. What was told before is kept for who asks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::payload::Payload;
use super::record::{announce, apply_to_catalog};
use crate::ids::{Position, TableId};
use crate::log::Metadata;
use crate::query::Catalog;

#[derive(Debug)]
pub(super) struct Catalogs {
    applied: Arc<Catalog>,
    before: Option<Arc<Catalog>>,
    /// Tables whose rows the transaction under way changes, and when they had last changed.
    changed_before: Vec<(TableId, Position)>,
}

impl Catalogs {
    pub fn new(catalog: Catalog) -> Catalogs {
        Catalogs { applied: Arc::new(catalog), before: None, changed_before: Vec::new() }
    }

    /// As all records left it that are applied.
    pub fn applied(&self) -> &Arc<Catalog> {
        &self.applied
    }

    /// As the last whole transaction left it, but for the newest changes of rows.
    pub fn shown(&self) -> &Arc<Catalog> {
        #[cfg(verity_zoo)]
        if crate::zoo::is("bound_amid") {
            return &self.applied;
        }
        self.before.as_ref().unwrap_or(&self.applied)
    }

    /// As the last whole transaction left it: to be shown itself.
    pub fn viewed(&self) -> Arc<Catalog> {
        let mut catalog = self.shown().clone();
        for (table, changed_at) in &self.changed_before {
            if catalog.table(*table).is_some() {
                Arc::make_mut(&mut catalog).set_changed_at(*table, *changed_at);
            }
        }
        catalog
    }

    /// Has the transaction under way changed tables?
    pub fn is_amid(&self) -> bool {
        self.before.is_some()
    }

    /// The trees are about to follow a record.
    pub fn announce(&mut self, metadata: &Metadata, payload: &Payload<'_>) {
        let Some((table, changed_at)) = announce(&mut self.applied, metadata, payload) else {
            return;
        };
        self.changed_before.push((table, changed_at));
        if let Some(before) = &mut self.before
            && before.table(table).is_some()
        {
            announce(before, metadata, payload);
        }
    }

    /// The trees have followed a record. `ends`: the last one of its transaction.
    pub fn follow(&mut self, payload: &Payload<'_>, ends: bool) {
        if payload.changes_catalog() {
            if self.before.is_none() && !ends {
                self.before = Some(self.applied.clone());
            }
            apply_to_catalog(Arc::make_mut(&mut self.applied), payload);
        }
        if ends {
            self.before = None;
            self.changed_before.clear();
        }
    }
}
