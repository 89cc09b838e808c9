//! Do the hashes in a checkpoint's pages say what the pages hold?
//!
//! Pages are sealed, so nobody without the keys changes one. Who has them could: this reads every
//! page that a state root stands for, computes its hash from its entries and holds it against the
//! one its parent names, from the forest's root down. So the root of the forest is the root of all
//! that lies below. Of a row this is its prefix: position, record hash and the commitment to its
//! columns; that the columns are those committed to says [`StoredRows`], who has schema and salts.
//!
//! Invariant: memory is the references not yet read, depth times fan-out. Fault model: pages are
//! those that the walker found whole (`walk`); any hash, flag or value in them may be a lie.

use alloc::vec::Vec;

use super::forest::{FOREST, TreeRoot};
use super::merkle::{LeafSalts, ROW_PREFIX, Roots, counts};
use super::page::{self, Stored};
use super::{Fault, Store, TreeRef};
use crate::crypto::{ChainHash, LeafSaltKey, tree};
use crate::ids::{PageNumber, TenantId, TreeId};
use crate::superblock::PageRef;

/// Who knows what rows were committed to.
pub trait StoredRows {
    /// Are the columns of a stored row, which has its prefix, those that its commitment is of?
    fn holds(&self, tree: TreeRef, stored: &[u8]) -> bool;
}

/// One tenant's state on its way.
#[derive(Debug)]
pub struct Audit {
    tenant: TenantId,
    /// `None`: the forest was not looked at yet.
    root: Option<ChainHash>,
    stack: Vec<Todo>,
    hashes: Vec<ChainHash>,
}

#[derive(Debug)]
struct Todo {
    tree: TreeRef,
    rows: bool,
    at: PageRef,
    /// As its parent names it.
    hash: ChainHash,
}

/// Why an audit stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditStop {
    /// A page is not here: fetch, and call again.
    Fault(Fault),
    KeyMissing {
        tenant: TenantId,
    },
    /// The page does not hold what its hash says.
    Mismatch {
        tree: TreeRef,
        page: PageNumber,
    },
}

impl From<Fault> for AuditStop {
    fn from(fault: Fault) -> AuditStop {
        AuditStop::Fault(fault)
    }
}

impl Audit {
    #[must_use]
    pub fn of(tenant: TenantId) -> Audit {
        Audit { tenant, root: None, stack: Vec::new(), hashes: Vec::new() }
    }

    /// The state root, as computed.
    #[must_use]
    pub fn root(&self) -> Option<ChainHash> {
        self.root.filter(|_| self.stack.is_empty())
    }
}

impl Store {
    /// One page further; true: all of the tenant's state was read. The store must be as it opened.
    pub fn audit_step(
        &self,
        audit: &mut Audit,
        salts: &dyn LeafSalts,
        committed: &dyn StoredRows,
    ) -> Result<bool, AuditStop> {
        let tenant = audit.tenant;
        let Some(key) = salts.leaf_salt_key(tenant) else {
            return Err(AuditStop::KeyMissing { tenant });
        };
        let begins = audit.root.is_none();
        let todo = if begins {
            let forest = TreeRef::new(tenant, FOREST);
            let Some(root) = self.find_root(forest)? else {
                return Err(AuditStop::Mismatch { tree: forest, page: PageRef::NONE.page });
            };
            if root.root.is_none() {
                audit.root = Some(tree::empty_tree());
                return Ok(true);
            }
            Todo { tree: forest, rows: false, at: root.root, hash: ChainHash(root.hash) }
        } else {
            let Some(todo) = audit.stack.pop() else { return Ok(true) };
            todo
        };
        match self.audit_page(&todo, key, committed, audit) {
            Ok(hash) => {
                if begins {
                    audit.root = Some(hash);
                }
                Ok(audit.stack.is_empty())
            }
            Err(stop) => {
                if !begins {
                    audit.stack.push(todo);
                }
                Err(stop)
            }
        }
    }

    /// All or nothing: what is below goes on the stack after the last fault.
    fn audit_page(
        &self,
        todo: &Todo,
        key: &LeafSaltKey,
        committed: &dyn StoredRows,
        audit: &mut Audit,
    ) -> Result<ChainHash, AuditStop> {
        let Todo { tree, rows, at, hash } = todo;
        let mismatch = AuditStop::Mismatch { tree: *tree, page: at.page };
        let bytes = self.load(*tree, at.page, || *at)?;
        let mut below = Vec::new();
        for index in 0..page::count(bytes) {
            if page::level(bytes) > 0 {
                let hash = ChainHash(page::child_hash(bytes, index));
                let at = page::child_ref(bytes, index);
                below.push(Todo { tree: *tree, rows: *rows, at, hash });
            } else if tree.tree == FOREST {
                let Stored::Inline(value) = page::stored(bytes, index) else {
                    return Err(mismatch);
                };
                let (Some(root), Ok(id)) =
                    (TreeRoot::decode(value), page::key(bytes, index).try_into())
                else {
                    return Err(mismatch);
                };
                let tree = TreeRef::new(tree.tenant, TreeId::new(u32::from_be_bytes(id)));
                if !counts(tree) || root.root.is_none() || root.dropping {
                    continue;
                }
                if root.hash == [0; 32] {
                    return Err(mismatch);
                }
                let hash = ChainHash(root.hash);
                below.push(Todo { tree, rows: root.rows, at: root.root, hash });
            } else if *rows {
                // That these are rows is the forest's word.
                let value = self.value_at(*tree, bytes, index)?;
                if value.len() < ROW_PREFIX || !committed.holds(*tree, &value) {
                    return Err(mismatch);
                }
            }
        }
        let found = self.page_hash(*tree, *rows, Roots::AsStored, key, bytes, &mut audit.hashes)?;
        // The system forest has no parent page that names its hash.
        let unnamed = tree.tree == FOREST && tree.tenant == TenantId::SYSTEM;
        if found != *hash && !(unnamed && *hash == ChainHash::ZERO) {
            return Err(mismatch);
        }
        audit.stack.append(&mut below);
        Ok(found)
    }
}
