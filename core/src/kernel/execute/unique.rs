//! UNIQUE: which row, if any, holds the values that another one wants.
//!
//! Invariants: what a request has changed counts as it is now, everything else as the trees have
//! it; INSERT looks before each row, UPDATE when all of its rows are drafted, so the order of rows
//! never matters; a value with a NULL in it clashes with nothing.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::{Execution, ExecutionContext, Stop};
use crate::ids::TreeId;
use crate::query::index::{Index, row_key_of};
use crate::query::key::prefix_end;
use crate::query::{TableSchema, Value};
use crate::store::{Cursor, Direction, Fault, TreeRef};

/// What a request has done to one unique index.
#[derive(Debug, Default)]
pub(super) struct UniqueOverlay {
    /// Values of rows that the request made or changed, with their keys.
    changed: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Of an index that the request itself built: values of the rows before it.
    built: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// What a new row clashes with.
#[derive(Debug)]
pub(super) enum Clash {
    PrimaryKey,
    /// The index, and the key of the row that holds the values.
    Index(TreeId, Vec<u8>),
}

impl Execution {
    /// A row changes: what of it must be unique changes, too.
    pub(super) fn note_unique(
        &mut self,
        schema: &TableSchema,
        key: &[u8],
        before: Option<&[Value]>,
        after: Option<&[Value]>,
    ) {
        for index in schema.indexes.iter().filter(|index| index.unique) {
            let overlay = self.unique.entry(index.entries).or_default();
            if let Some(prefix) = before.and_then(|row| index.unique_prefix(schema, row))
                && let Some(keys) = overlay.changed.get_mut(&prefix)
            {
                keys.remove(key);
                if keys.is_empty() {
                    overlay.changed.remove(&prefix);
                }
            }
            if let Some(prefix) = after.and_then(|row| index.unique_prefix(schema, row)) {
                overlay.changed.entry(prefix).or_default().insert(key.to_vec());
            }
        }
    }

    /// An index that this request made of rows that were there.
    pub(super) fn note_built(
        &mut self,
        schema: &TableSchema,
        index: &Index,
        built: BTreeMap<Vec<u8>, Vec<u8>>,
    ) {
        let mut overlay = UniqueOverlay { changed: BTreeMap::new(), built: Some(built) };
        for (key, changed) in self.scratch.rows.of(schema.id) {
            let prefix = changed.row.and_then(|row| index.unique_prefix(schema, row));
            if let Some(prefix) = prefix {
                overlay.changed.entry(prefix).or_default().insert(key.to_vec());
            }
        }
        self.unique.insert(index.entries, overlay);
    }

    /// The key of another row that holds the values that `row` wants. `own`: the row's key.
    pub(super) fn holder(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        index: &Index,
        row: &[Value],
        own: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(prefix) = index.unique_prefix(schema, row) else { return Ok(None) };
        let overlay = self.unique.get(&index.entries);
        if let Some(keys) = overlay.and_then(|overlay| overlay.changed.get(&prefix))
            && let Some(key) = keys.iter().find(|key| Some(key.as_slice()) != own)
        {
            return Ok(Some(key.clone()));
        }
        let changed = &self.scratch.rows;
        let counts = |key: &[u8]| Some(key) != own && !changed.contains(schema.id, key);
        if let Some(built) = overlay.and_then(|overlay| overlay.built.as_ref()) {
            return Ok(built.get(&prefix).filter(|key| counts(key)).cloned());
        }
        let known = context.catalog.table(schema.id);
        if known.is_none_or(|known| known.index(index.entries).is_none()) {
            // Made by this request, of no rows.
            return Ok(None);
        }
        let tree = TreeRef::new(context.drafts.tenant, index.entries);
        let low = Bound::Included(prefix.as_slice());
        let end = prefix_end(&prefix);
        let high = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = None;
        let _ = context.store.scan(
            tree,
            &mut Cursor::new(low, high, Direction::Forward),
            |entry, value| {
                let key = row_key_of(entry, value);
                if counts(key) {
                    found = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(found)
    }

    /// The first clash of a row that is to be inserted, the wanted kind first.
    pub(super) fn clash(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: Option<&[u8]>,
        row: &[Value],
        wanted: Option<TreeId>,
    ) -> Result<Option<Clash>, Fault> {
        let unique = |first: bool| {
            let is_wanted = move |index: &&Index| (Some(index.entries) == wanted) == first;
            schema.indexes.iter().filter(|index| index.unique).filter(is_wanted)
        };
        for index in unique(true) {
            if let Some(holder) = self.holder(context, schema, index, row, key)? {
                return Ok(Some(Clash::Index(index.entries, holder)));
            }
        }
        if let Some(key) = key
            && self.exists(context, schema, key)?
        {
            return Ok(Some(Clash::PrimaryKey));
        }
        for index in unique(false) {
            if let Some(holder) = self.holder(context, schema, index, row, key)? {
                return Ok(Some(Clash::Index(index.entries, holder)));
            }
        }
        Ok(None)
    }

    /// A row that was changed must hold its values alone.
    pub(super) fn check_unique(
        &self,
        context: &ExecutionContext<'_>,
        schema: &TableSchema,
        key: &[u8],
    ) -> Result<(), Stop> {
        let changed = self.scratch.rows.get(schema.id, key);
        let Some(row) = changed.and_then(|changed| changed.row) else { return Ok(()) };
        for index in schema.indexes.iter().filter(|index| index.unique) {
            if self.holder(context, schema, index, row, Some(key))?.is_some() {
                return Err(index.violation(schema, row).into());
            }
        }
        Ok(())
    }
}
