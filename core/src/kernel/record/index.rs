//! Indexes follow their rows.
//!
//! Invariants: as in `record`: single tree operations in a fixed order, each all or nothing; an
//! entry enters the tree of those that ended before it leaves that of current ones, so a reader at
//! an older position finds it in one of both. The order is: indexes in the order of their creation,
//! for each of them the old entry out, the new one in; a build goes by row key.

use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use super::{RecordProgress, Steps};
use crate::ids::{Position, TenantId, TreeId};
use crate::limits::{INDEX_BUILD_BATCH, ROW_KEY_SIZE_MAX};
use crate::log::Metadata;
use crate::query::index::{ENTRY_SIZE, Index};
use crate::query::key::history_key;
use crate::query::stored::StoredRow;
use crate::query::{TableSchema, Value};
use crate::store::{Cursor, Direction, Fault, Store, TreeRef};

/// What a row's change does to the indexes of its table. `before`: the position of the version that
/// ends, which is in history already; `after`: the new row, if there is one.
pub(super) fn follow(
    steps: &mut Steps<'_>,
    store: &mut Store,
    schema: &TableSchema,
    metadata: &Metadata,
    key: &[u8],
    before: Option<Position>,
    after: Option<&[Value]>,
) -> Result<(), Fault> {
    if schema.indexes.is_empty() {
        return Ok(());
    }
    let before = match before {
        Some(_) => Some(ended_row(store, schema, metadata, key)?),
        None => None,
    };
    for index in &schema.indexes {
        if let (Some(before), Some(after)) = (&before, after)
            && index.same_entry(schema, before, after)
        {
            continue;
        }
        if let Some(before) = &before {
            end_entry(steps, store, schema, index, metadata, key, before)?;
        }
        if let Some(after) = after {
            let entry = index.entry(schema, after, key);
            steps.step(|| {
                let tree = TreeRef::new(metadata.tenant, index.entries);
                let replaced = store.put(tree, &entry.key, &entry.value(metadata.position))?;
                assert!(!replaced, "a row has one entry in an index");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The version that this record ended: it is in history since an earlier step, whatever steps are
/// done.
fn ended_row(
    store: &Store,
    schema: &TableSchema,
    metadata: &Metadata,
    key: &[u8],
) -> Result<Vec<Value>, Fault> {
    let history = TreeRef::new(metadata.tenant, schema.history);
    let Some(value) = store.get(history, &history_key(key, metadata.position))? else {
        unreachable!("the version was superseded first");
    };
    Ok(whole_row(schema, &value))
}

/// All columns of a stored row, those it gained since it was written included.
pub fn whole_row(schema: &TableSchema, stored: &[u8]) -> Vec<Value> {
    let initial = schema.initial_values(Position::new(u64::MAX));
    let row = StoredRow::new(stored).with_initial(&initial);
    (0..schema.columns.len()).map(|ordinal| row.column(ordinal).to_value()).collect()
}

fn end_entry(
    steps: &mut Steps<'_>,
    store: &mut Store,
    schema: &TableSchema,
    index: &Index,
    metadata: &Metadata,
    key: &[u8],
    before: &[Value],
) -> Result<(), Fault> {
    let entry = index.entry(schema, before, key).key;
    if entry.len() > ROW_KEY_SIZE_MAX {
        // The row is older than the index, whose build would have ended with an error there.
        assert!(index.ready_at.is_none(), "rows that no index can hold are refused");
        return Ok(());
    }
    let entries = TreeRef::new(metadata.tenant, index.entries);
    let ended = TreeRef::new(metadata.tenant, index.ended);
    steps.step(|| {
        let Some(value) = store.get(entries, &entry)? else {
            assert!(index.ready_at.is_none(), "every row has its entry, once the index is ready");
            return Ok(());
        };
        let Ok(value) = <[u8; ENTRY_SIZE]>::try_from(&*value) else {
            unreachable!("entries have one size")
        };
        let replaced = store.put(ended, &history_key(&entry, metadata.position), &value)?;
        assert!(!replaced, "a position ends an entry once");
        Ok(())
    })?;
    steps.step(|| {
        #[cfg(verity_zoo)]
        if crate::zoo::is("index_entry_left") {
            return Ok(());
        }
        store.remove(entries, &entry).map(drop)
    })
}

/// Rows of a range of keys enter an index.
pub(super) fn build(
    progress: &mut RecordProgress,
    store: &mut Store,
    tenant: TenantId,
    schema: &TableSchema,
    entries: TreeId,
    after: Option<&[u8]>,
    to: Option<&[u8]>,
) -> Result<(), Fault> {
    let Some(index) = schema.index(entries) else {
        unreachable!("an index is built between its creation and its end");
    };
    let rows = TreeRef::new(tenant, schema.rows);
    let tree = TreeRef::new(tenant, entries);
    loop {
        let from = progress.built_to.as_deref().or(after);
        let low = from.map_or(Bound::Unbounded, Bound::Excluded);
        let high = to.map_or(Bound::Unbounded, Bound::Included);
        let mut cursor = Cursor::new(low, high, Direction::Forward);
        let mut batch: Vec<(Vec<u8>, Vec<u8>, [u8; ENTRY_SIZE])> = Vec::new();
        // On a fault the rows before it are a batch, too.
        let scanned = store.scan(rows, &mut cursor, |key, value| {
            let entry = index.entry(schema, &whole_row(schema, value), key);
            let begun_at = StoredRow::new(value).begun_at();
            let value = entry.value(begun_at);
            batch.push((key.to_vec(), entry.key, value));
            if batch.len() < INDEX_BUILD_BATCH {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        for at in 0..batch.len() {
            let (key, entry, value) = &batch[at];
            if let Err(fault) = put_absent(store, tree, entry, value) {
                for (_, entry, _) in &batch[at + 1..] {
                    // Only the note that the store takes of a miss matters here.
                    let _ = store.prefetch(tree, entry);
                }
                return Err(fault);
            }
            progress.built_to = Some(key.clone());
            progress.built += 1;
        }
        if scanned?.is_continue() {
            return Ok(());
        }
    }
}

fn put_absent(store: &mut Store, tree: TreeRef, key: &[u8], value: &[u8]) -> Result<(), Fault> {
    if store.contains(tree, key)? {
        return Ok(());
    }
    store.put(tree, key, value).map(drop)
}

/// Touches what `follow` will read.
pub(super) fn prefetch(
    store: &Store,
    tenant: TenantId,
    schema: &TableSchema,
    key: &[u8],
    after: Option<&[Value]>,
) {
    if schema.indexes.is_empty() {
        return;
    }
    let before = match store.get(TreeRef::new(tenant, schema.rows), key) {
        Ok(value) => value.map(|value| whole_row(schema, &value)),
        Err(_) => None,
    };
    for index in &schema.indexes {
        let tree = TreeRef::new(tenant, index.entries);
        for row in before.as_deref().into_iter().chain(after) {
            let _ = store.prefetch(tree, &index.entry(schema, row, key).key);
        }
    }
}
