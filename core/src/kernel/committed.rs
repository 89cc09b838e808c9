//! Rows of a tenant's trees against what their records committed to.
//!
//! A stored row begins with the commitment of the record that made it, and that is what the state
//! root stands for; its columns lie beside it. Whoever holds the keys of a directory could change
//! the columns alone, and every hash would still be right. This makes the commitment of the columns
//! anew: the salts follow from the keys and from the record's position, key and generation; table
//! and schema from the catalog's tree.
//!
//! Invariants: memory is bounded by tables, and by generations, keys and schema versions of a log,
//! not by rows or records. Fault model: catalog and rows hold anything; a verdict is all they get.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::ControlFlow;

use super::Keys;
use super::trees::CATALOG;
use crate::crypto::ChainHash;
use crate::crypto::commitment::RowCommitment;
use crate::ids::{ColumnId, Generation, KeyId, Position, SchemaVersion, TableId, TenantId, TreeId};
use crate::log::{Metadata, RecordKind};
use crate::query::past::{DROPPED, DroppedTable};
use crate::query::schema::{CatalogKey, TableSchema};
use crate::query::stored::{StoredRow, is_stored_row};
use crate::store::{Cursor, Direction, Fault, Store, StoredRows, TreeRef};

/// What the records of a log say of how their rows were committed to.
#[derive(Clone, Debug, Default)]
pub struct RecordsSeen {
    /// From this position on, until the next.
    sealed: Vec<(Position, KeyId, Generation)>,
    schemas: BTreeSet<SchemaVersion>,
}

impl RecordsSeen {
    /// Records come in the order of the log.
    pub fn pass(&mut self, metadata: &Metadata) {
        let this = (metadata.key, metadata.generation);
        if self.sealed.last().is_none_or(|(_, key, generation)| (*key, *generation) != this) {
            self.sealed.push((metadata.position, metadata.key, metadata.generation));
        }
        if metadata.kind == RecordKind::RowPut {
            self.schemas.insert(metadata.schema_version);
        }
    }

    fn sealed(&self, position: Position) -> Option<(KeyId, Generation)> {
        let after = self.sealed.partition_point(|(from, _, _)| *from <= position);
        let (_, key, generation) = self.sealed.get(after.checked_sub(1)?)?;
        Some((*key, *generation))
    }
}

/// Which table's rows a tree holds, current or superseded; of dropped tables too.
#[derive(Clone, Debug, Default)]
pub struct TreesOfRows(BTreeMap<TreeId, TableId>);

impl TreesOfRows {
    /// A stage: on a fault, fetch and call again. `None`: the catalog's tree holds something else.
    pub fn read(store: &Store, tenant: TenantId) -> Result<Option<TreesOfRows>, Fault> {
        let catalog = TreeRef::new(tenant, CATALOG);
        if !store.tree_exists(catalog)? {
            return Ok(None);
        }
        let mut trees = TreesOfRows::default();
        let mut sound = true;
        let mut cursor = Cursor::all(Direction::Forward);
        let _ended: ControlFlow<()> = store.scan(catalog, &mut cursor, |key, value| {
            let schema = match (CatalogKey::decode(key), key.first()) {
                (Some(CatalogKey::Table(_)), _) => TableSchema::decode(value).map(Some),
                (_, Some(&DROPPED)) => {
                    DroppedTable::decode(value).map(|dropped| Some(dropped.schema))
                }
                (_, _) => Ok(None),
            };
            match schema {
                Ok(None) => {}
                Ok(Some(schema)) => {
                    trees.0.insert(schema.rows, schema.id);
                    trees.0.insert(schema.history, schema.id);
                }
                Err(_) => sound = false,
            }
            ControlFlow::Continue(())
        })?;
        Ok(sound.then_some(trees))
    }
}

/// Judges rows for [`Store::audit_step`].
pub struct CommittedRows<'a> {
    keys: &'a dyn Keys,
    seen: &'a RecordsSeen,
    trees: TreesOfRows,
    scratch: RefCell<Scratch>,
}

#[derive(Default)]
struct Scratch {
    value: Vec<u8>,
    /// Of the row before: most rows of a table are of one schema.
    schema: BTreeMap<TreeId, SchemaVersion>,
}

impl<'a> CommittedRows<'a> {
    #[must_use]
    pub fn new(keys: &'a dyn Keys, seen: &'a RecordsSeen, trees: TreesOfRows) -> Self {
        CommittedRows { keys, seen, trees, scratch: RefCell::default() }
    }

    fn commitment(
        &self,
        tree: TreeRef,
        stored: StoredRow<'_>,
        schema: SchemaVersion,
        value: &mut Vec<u8>,
    ) -> Option<ChainHash> {
        let table = *self.trees.0.get(&tree.tree)?;
        let begun_at = stored.begun_at();
        let (key, generation) = self.seen.sealed(begun_at)?;
        let keys = self.keys.named(tree.tenant, key)?;
        let salt = keys.salt(generation);
        let mut commitment = RowCommitment::new(&salt, tree.tenant, begun_at, table, schema);
        for (column, id) in (0..stored.column_count()).zip(1..) {
            value.clear();
            let tag = stored.column(column).to_value().commitment_bytes(value);
            commitment.column(ColumnId::new(id), tag as u8, value);
        }
        Some(commitment.finish())
    }
}

impl StoredRows for CommittedRows<'_> {
    fn holds(&self, tree: TreeRef, stored: &[u8]) -> bool {
        if !is_stored_row(stored) {
            return false;
        }
        let stored = StoredRow::new(stored);
        let wanted = Some(ChainHash(stored.prefix().commitment));
        let mut scratch = self.scratch.borrow_mut();
        let Scratch { value, schema: known } = &mut *scratch;
        let guess = known.get(&tree.tree).copied();
        if guess.is_some_and(|schema| self.commitment(tree, stored, schema, value) == wanted) {
            return true;
        }
        let found = self.seen.schemas.iter().copied().rev().find(|schema| {
            Some(*schema) != guess && self.commitment(tree, stored, *schema, value) == wanted
        });
        known.extend(found.map(|schema| (tree.tree, schema)));
        found.is_some()
    }
}

impl fmt::Debug for CommittedRows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommittedRows {{ trees: {} }}", self.trees.0.len())
    }
}
