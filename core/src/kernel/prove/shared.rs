//! What the proofs of one attestation have in common, made once and shown in each of them.
//!
//! The path from the signed head to a tenant's state is the same in every proof of that tenant, as
//! is a table's schema in every proof of its rows: making them opens a record, asks the log for an
//! inclusion proof and hashes pages of six trees, which costs more than the row itself.
//!
//! Invariants: [`Shared`] belongs to one attestation and one tenant, and forgets all of it when
//! either changes; what it holds is bounded. How rows were committed to is of no state: each use is
//! checked against the row's commitment.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::slice;

use super::{ProveStop, Proving, Show, record_of};
use crate::ids::{Generation, KeyId, SchemaVersion, TableId, TenantId, TreeId};
use crate::kernel::Attestation;
use crate::kernel::trees::{ATTESTED, ATTESTED_TREE, CATALOG, tenant_key};
use crate::limits::{PROOF_SHARED_COMMITTED_MAX, PROOF_SHARED_PARTS_MAX};
use crate::proof::{Head, Node};
use crate::query::{CatalogKey, TableSchema};
use crate::store::{FOREST, TreeRef};

/// Made by one proof, shown by the next ones.
#[derive(Debug, Default)]
pub struct Shared {
    of: Option<(Attestation, TenantId)>,
    /// Without a link to an older head.
    head: Option<Head>,
    tables: Vec<(Arc<TableSchema>, Node)>,
    forests: Vec<(Vec<TreeId>, Node)>,
    /// The last one that was right comes first.
    committed: Vec<(TenantId, Committed)>,
}

/// What the salts of a row and its commitment are made with, beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Committed {
    pub key: KeyId,
    pub generation: Generation,
    pub schema: SchemaVersion,
}

impl Shared {
    /// What was made of another state, or of another tenant's, is of no use.
    fn belong_to(&mut self, attestation: Attestation, tenant: TenantId) {
        if self.of == Some((attestation, tenant)) {
            return;
        }
        self.of = Some((attestation, tenant));
        self.head = None;
        self.tables.clear();
        self.forests.clear();
    }

    /// How rows of this tenant that were proved lately were committed to.
    pub(in crate::kernel) fn committed(&self, tenant: TenantId) -> Vec<Committed> {
        let of_tenant = self.committed.iter().filter(|(of, _)| *of == tenant);
        of_tenant.map(|(_, committed)| *committed).collect()
    }

    pub(super) fn was_committed(&mut self, tenant: TenantId, committed: Committed) {
        let this = (tenant, committed);
        if self.committed.first() == Some(&this) {
            return;
        }
        self.committed.retain(|other| *other != this);
        self.committed.truncate(PROOF_SHARED_COMMITTED_MAX - 1);
        self.committed.insert(0, this);
    }
}

/// The oldest goes when there are too many.
fn keep<T>(parts: &mut Vec<T>, part: T) {
    if parts.len() == PROOF_SHARED_PARTS_MAX {
        parts.remove(0);
    }
    parts.push(part);
}

impl Proving<'_> {
    /// From the attested record to the tenant's head.
    pub(super) fn head(&self, tenant: TenantId, since: Option<u64>) -> Result<Head, ProveStop> {
        let Some(attestation) = self.kernel.attestation() else {
            return Err(ProveStop::NotThere("an attestation"));
        };
        self.shared.borrow_mut().belong_to(*attestation, tenant);
        let made = self.shared.borrow().head.clone();
        let mut head = match made {
            Some(head) => head,
            None => {
                let head = self.make_head(attestation, tenant)?;
                self.shared.borrow_mut().head = Some(head.clone());
                head
            }
        };
        if let Some(older) = since {
            let log = self.kernel.log_head(self.store, self.logs, TenantId::SYSTEM)?;
            head.since = Some(self.since(&log, older, attestation.size)?);
        }
        Ok(head)
    }

    fn make_head(&self, attestation: &Attestation, tenant: TenantId) -> Result<Head, ProveStop> {
        let system = TenantId::SYSTEM;
        let key = tenant_key(tenant);
        if !self.store.contains(ATTESTED_TREE, &key)? {
            return Err(ProveStop::NotThere("the tenant, or a record of it,"));
        }
        let rank = self.store.rank(ATTESTED_TREE, &key)?;
        let show = rank..rank + 1;
        let Some(heads) =
            self.cut(ATTESTED_TREE, slice::from_ref(&show), None, |_, _| Show::Plain)?
        else {
            unreachable!("it has an entry");
        };
        let event = self.event(system, attestation.record)?;
        let log = self.kernel.log_head(self.store, self.logs, system)?;
        let inclusion = self.logs.inclusion(system, &log, attestation.record, attestation.size)?;
        Ok(Head {
            forest: self.make_forest(system, &[ATTESTED])?,
            heads,
            record: record_of(&event),
            opening: self.opening(&event)?,
            inclusion,
            since: None,
        })
    }

    /// The tenant's forest with these trees shown.
    pub(super) fn forest(&self, tenant: TenantId, trees: &[TreeId]) -> Result<Node, ProveStop> {
        let made = {
            let shared = self.shared.borrow();
            let made = shared.forests.iter().find(|(of, _)| of.as_slice() == trees);
            made.map(|(_, node)| node.clone())
        };
        if let Some(node) = made {
            return Ok(node);
        }
        let node = self.make_forest(tenant, trees)?;
        keep(&mut self.shared.borrow_mut().forests, (trees.to_vec(), node.clone()));
        Ok(node)
    }

    fn make_forest(&self, tenant: TenantId, trees: &[TreeId]) -> Result<Node, ProveStop> {
        let forest = TreeRef::new(tenant, FOREST);
        let mut ranks = Vec::with_capacity(trees.len());
        for tree in trees {
            ranks.push(self.store.rank(forest, &tree.get().to_be_bytes())?);
        }
        ranks.sort_unstable();
        ranks.dedup();
        let show: Vec<core::ops::Range<u64>> = ranks.iter().map(|rank| *rank..rank + 1).collect();
        let node = self.cut(forest, &show, None, |_, _| Show::Plain)?;
        node.ok_or(ProveStop::NotThere("the tenant's state"))
    }

    /// A table's schema, and the part of the catalog that shows it.
    pub(super) fn table(
        &self,
        tenant: TenantId,
        table: TableId,
        trees: &mut Vec<TreeId>,
    ) -> Result<(Arc<TableSchema>, Node), ProveStop> {
        let made = {
            let shared = self.shared.borrow();
            shared.tables.iter().find(|(schema, _)| schema.id == table).cloned()
        };
        let (schema, node) = match made {
            Some(made) => made,
            None => {
                let made = self.make_table(tenant, table)?;
                keep(&mut self.shared.borrow_mut().tables, made.clone());
                made
            }
        };
        trees.extend([CATALOG, schema.rows, schema.history]);
        Ok((schema, node))
    }

    fn make_table(
        &self,
        tenant: TenantId,
        table: TableId,
    ) -> Result<(Arc<TableSchema>, Node), ProveStop> {
        let catalog = TreeRef::new(tenant, CATALOG);
        let key = CatalogKey::Table(table).encode();
        let Some(value) = self.store.get(catalog, &key)? else {
            return Err(ProveStop::NotThere("the table"));
        };
        let Ok(schema) = TableSchema::decode(&value) else {
            unreachable!("the catalog tree holds what records put there");
        };
        let rank = self.store.rank(catalog, &key)?;
        let show = rank..rank + 1;
        let Some(node) = self.cut(catalog, slice::from_ref(&show), None, |_, _| Show::Plain)?
        else {
            unreachable!("it has an entry");
        };
        Ok((Arc::new(schema), node))
    }
}
