//! `apply_record`: the one function that turns a record into changes of trees.
//!
//! Purpose: state is a function of records alone. Live apply calls this right after it appended a
//! record; rebuild calls it for every record it reads from the log; nothing else writes the trees
//! of a tenant, but for the heads of logs, which a checkpoint notes in tenant 0.
//!
//! Invariants: one record is a fixed sequence of single tree operations, each all or nothing;
//! [`RecordProgress`] says how many of them are done, so a page fault between two of them loses and
//! repeats nothing. The superseded version enters history before the current one is replaced: a
//! reader at an older position finds one of the two at any moment.

mod index;

pub use index::whole_row;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::drafts::MadeRow;
use super::payload::{Payload, RowChange};
use super::trees::{
    self, ATTESTED_TREE, CATALOG, HEADS_TREE, IDEMPOTENCY, OF_EVERY_TENANT, OF_THE_SYSTEM, STREAMS,
    TENANTS_TREE, TenantEntry,
};
use crate::crypto::ChainHash;
use crate::ids::{IdempotencyId, Position, SchemaVersion, TableId, TenantId};
use crate::limits::{IDEMPOTENCY_KEPT_MS, IDEMPOTENCY_TRIM_MAX};
use crate::log::Metadata;
use crate::query::cbor::Encoder;
use crate::query::codec::{decode_row, decode_row_key};
use crate::query::job::Job;
use crate::query::key::{encode_key, hidden_key, history_key};
use crate::query::past::{DroppedTable, dropped_key};
use crate::query::schema::CatalogKey;
use crate::query::stored::{StoredPrefix, StoredRow, encode_stored, set_record_hash};
use crate::query::{Catalog, TableSchema, Value};
use crate::store::{Dropped, Fault, Store, TreeRef};

/// A record, its seal open.
#[derive(Clone, Copy, Debug)]
pub struct OpenRecord<'a> {
    pub metadata: &'a Metadata,
    pub hash: ChainHash,
    pub payload: &'a Payload<'a>,
    /// The row that it puts, as known since the record was made; else it is made from the payload.
    pub made: Option<MadeRow<'a>>,
    /// Encoded outcome of the request that it ends.
    pub outcome: Option<&'a [u8]>,
}

/// How much of one record has become tree changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordProgress {
    done: u32,
    trimmed: u32,
    /// Of a record that builds an index: the last row that is in it.
    built_to: Option<Vec<u8>>,
    built: u32,
}

/// Buffers that are used again for every record.
#[derive(Debug, Default)]
pub struct RecordScratch {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// One run over the operations of a record: those done in earlier runs are passed over.
struct Steps<'a> {
    progress: &'a mut RecordProgress,
    at: u32,
}

impl Steps<'_> {
    fn step(&mut self, change: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        if self.at == self.progress.done {
            change()?;
            self.progress.done += 1;
        }
        self.at += 1;
        Ok(())
    }
}

/// Makes the changes that the record stands for. `catalog` is that of the state before it. After a
/// fault call it again, all else the same.
pub fn apply_record(
    store: &mut Store,
    catalog: &Catalog,
    record: &OpenRecord<'_>,
    progress: &mut RecordProgress,
    scratch: &mut RecordScratch,
) -> Result<(), Fault> {
    let mut steps = Steps { progress, at: 0 };
    let metadata = record.metadata;
    let tenant = metadata.tenant;
    match *record.payload {
        Payload::RowPut { table, replaces, row } => {
            let schema = schema_of(catalog, table);
            let opened = record.made.is_none().then(|| open_row(schema, row));
            let key = match (&record.made, &opened) {
                (Some(made), _) => made.key,
                (None, Some((key, _))) => key,
                (None, None) => unreachable!("opened when it was not made"),
            };
            steps.step(|| note_change(store, metadata, table, scratch))?;
            if let Some(replaces) = replaces {
                steps.step(|| supersede(store, schema, metadata, key, replaces, scratch))?;
            }
            if !schema.indexes.is_empty() {
                let made = record.made.as_ref().map(|made| whole_row(schema, made.value));
                let opened = opened.as_ref().map(|(_, row)| row.as_slice());
                let after = made.as_deref().or(opened);
                index::follow(&mut steps, store, schema, metadata, key, replaces, after)?;
            }
            steps.step(|| {
                scratch.value.clear();
                match (&record.made, &opened) {
                    (Some(made), _) => {
                        scratch.value.extend_from_slice(made.value);
                        set_record_hash(&mut scratch.value, &record.hash.0);
                    }
                    (None, opened) => {
                        let prefix = StoredPrefix {
                            begun_at: metadata.position,
                            record_hash: record.hash.0,
                            commitment: metadata.commitment.0,
                        };
                        let row = opened.as_ref().map_or(&[][..], |(_, row)| row);
                        encode_stored(&prefix, row, &mut scratch.value);
                    }
                }
                let rows = TreeRef::new(tenant, schema.rows);
                let replaced = store.put(rows, key, &scratch.value)?;
                assert_eq!(replaced, replaces.is_some(), "the record says what it supersedes");
                Ok(())
            })?;
        }
        Payload::RowDelete { table, replaces, key } => {
            let schema = schema_of(catalog, table);
            let Ok(key) = decode_row_key(schema, key) else {
                unreachable!("what passed its seal holds a key of its table");
            };
            steps.step(|| note_change(store, metadata, table, scratch))?;
            steps.step(|| {
                #[cfg(verity_zoo)]
                if crate::zoo::is("history_lost_on_delete") {
                    return Ok(());
                }
                supersede(store, schema, metadata, &key, replaces, scratch)
            })?;
            index::follow(&mut steps, store, schema, metadata, &key, Some(replaces), None)?;
            steps.step(|| {
                let removed = store.remove(TreeRef::new(tenant, schema.rows), &key)?;
                assert!(removed, "the record says that the row was there");
                Ok(())
            })?;
        }
        Payload::TableCreated { table, schema } => {
            create_table(&mut steps, store, catalog, tenant, table, schema)?;
        }
        Payload::TableDropped { table, schema_version } => {
            drop_table(&mut steps, store, catalog, metadata, table, schema_version)?;
        }
        Payload::TableAltered { table, change: _, schema } => {
            alter_table(&mut steps, store, catalog, tenant, table, schema)?;
        }
        Payload::IndexBuilt { table, entries, after, to } => {
            let schema = schema_of(catalog, table);
            index::build(steps.progress, store, tenant, schema, entries, after, to)?;
        }
        Payload::JobChanged { job, state } => {
            let tree = TreeRef::new(tenant, CATALOG);
            let key = Job::key(job);
            steps.step(|| match state {
                Some(state) => store.put(tree, &key, state).map(drop),
                None => store.remove(tree, &key).map(drop),
            })?;
        }
        Payload::PagesFreed { tree, leaves } => {
            free_pages(&mut steps, store, TreeRef::new(tenant, tree), leaves)?;
        }
        Payload::StreamCreated { stream, name } => {
            let tree = TreeRef::new(tenant, STREAMS);
            let key = trees::stream_name_key(name, &mut scratch.key);
            let value = trees::number(stream.get().into(), &mut scratch.value);
            steps.step(|| store.put(tree, key, value).map(drop))?;
        }
        Payload::Appended { stream, version, record: _ } => {
            let tree = TreeRef::new(tenant, STREAMS);
            let key = trees::stream_version_key(stream);
            let value = trees::number(version, &mut scratch.value);
            steps.step(|| store.put(tree, &key, value).map(drop))?;
        }
        Payload::TenantCreated { tenant: created, kek_hash } => {
            assert_eq!(tenant, TenantId::SYSTEM);
            let entry = TenantEntry { created_at: metadata.position, kek_hash };
            steps.step(|| store.create_tenant(created))?;
            for tree in OF_EVERY_TENANT {
                steps.step(|| store.create_tree(TreeRef::new(created, tree)))?;
            }
            let key = trees::tenant_key(created);
            steps.step(|| store.put(TENANTS_TREE, &key, &entry.encode()).map(drop))?;
        }
        Payload::Recovery(_) => {
            assert_eq!(tenant, TenantId::SYSTEM);
            if metadata.position == Position::ZERO {
                for tree in OF_EVERY_TENANT.into_iter().chain(OF_THE_SYSTEM) {
                    steps.step(|| store.create_tree(TreeRef::new(tenant, tree)))?;
                }
            }
        }
        Payload::HeadAttested { tenant: attested, head } => {
            assert_eq!(tenant, TenantId::SYSTEM);
            let key = trees::tenant_key(attested);
            steps.step(|| store.put(ATTESTED_TREE, &key, &head.encode()).map(drop))?;
        }
        Payload::Refused | Payload::Completed | Payload::Checkpoint(_) => {}
    }
    if let Some(outcome) = record.outcome {
        steps.step(|| remember(store, metadata, outcome, scratch))?;
        trim_outcomes(store, metadata, progress)?;
    }
    Ok(())
}

/// What must be known of a record in the catalog in memory before `apply_record` changes trees: a
/// reader between two of its steps must not take the table's current rows for those of its
/// position. Gives what was known until then, if that was something else.
pub fn announce(
    catalog: &mut Arc<Catalog>,
    metadata: &Metadata,
    payload: &Payload<'_>,
) -> Option<(TableId, Position)> {
    let (Payload::RowPut { table, .. } | Payload::RowDelete { table, .. }) = payload else {
        return None;
    };
    let known = catalog.changed_at(*table);
    if known == metadata.transaction_last {
        return None;
    }
    Arc::make_mut(catalog).set_changed_at(*table, metadata.transaction_last);
    Some((*table, known))
}

/// What the record changes in the catalog that the kernel keeps in memory. After `apply_record`.
pub fn apply_to_catalog(catalog: &mut Catalog, payload: &Payload<'_>) {
    match payload {
        Payload::TableCreated { schema, .. } => catalog.create(open_schema(schema)),
        Payload::TableDropped { table, .. } => {
            catalog.drop_table(*table);
        }
        Payload::TableAltered { schema, .. } => catalog.alter(open_schema(schema)),
        Payload::JobChanged { job, state } => catalog.set_job(*job, state.map(open_job)),
        Payload::IndexBuilt { .. }
        | Payload::PagesFreed { .. }
        | Payload::RowPut { .. }
        | Payload::RowDelete { .. }
        | Payload::StreamCreated { .. }
        | Payload::Appended { .. }
        | Payload::Refused
        | Payload::Completed
        | Payload::TenantCreated { .. }
        | Payload::Recovery(_)
        | Payload::HeadAttested { .. }
        | Payload::Checkpoint(_) => {}
    }
}

/// Has the id been kept for as long as it is promised? `now_ms` is a prepare's time, or a record's.
#[must_use]
pub fn forgettable(id: IdempotencyId, now_ms: u64) -> bool {
    id.not_after_ms().saturating_add(IDEMPOTENCY_KEPT_MS) < now_ms
}

fn create_table(
    steps: &mut Steps<'_>,
    store: &mut Store,
    catalog: &Catalog,
    tenant: TenantId,
    table: TableId,
    bytes: &[u8],
) -> Result<(), Fault> {
    let schema = open_schema(bytes);
    assert_eq!(schema.id, table);
    let tree = TreeRef::new(tenant, CATALOG);
    steps.step(|| store.create_rows_tree(TreeRef::new(tenant, schema.rows)))?;
    steps.step(|| store.create_rows_tree(TreeRef::new(tenant, schema.history)))?;
    for tree in schema.trees().into_iter().skip(2) {
        steps.step(|| store.create_tree(TreeRef::new(tenant, tree)))?;
    }
    steps.step(|| {
        let mut after = catalog.clone();
        after.create(schema.clone());
        store.put(tree, &CatalogKey::Counters.encode(), &after.encode_counters()).map(drop)
    })?;
    steps.step(|| store.put(tree, &CatalogKey::Table(table).encode(), bytes).map(drop))
}

/// The schema becomes another one; trees that it names anew are created.
fn alter_table(
    steps: &mut Steps<'_>,
    store: &mut Store,
    catalog: &Catalog,
    tenant: TenantId,
    table: TableId,
    bytes: &[u8],
) -> Result<(), Fault> {
    let schema = open_schema(bytes);
    assert_eq!(schema.id, table);
    let known = schema_of(catalog, table).trees();
    for new in schema.trees().into_iter().filter(|tree| !known.contains(tree)) {
        steps.step(|| store.create_tree(TreeRef::new(tenant, new)))?;
    }
    let tree = TreeRef::new(tenant, CATALOG);
    steps.step(|| {
        let mut after = catalog.clone();
        after.alter(schema.clone());
        store.put(tree, &CatalogKey::Counters.encode(), &after.encode_counters()).map(drop)
    })?;
    steps.step(|| store.put(tree, &CatalogKey::Table(table).encode(), bytes).map(drop))
}

/// Leaves of a dropped tree go, one step each.
fn free_pages(
    steps: &mut Steps<'_>,
    store: &mut Store,
    tree: TreeRef,
    leaves: u32,
) -> Result<(), Fault> {
    if leaves == 0 {
        return steps.step(|| {
            let dropped = store.drop_step(tree)?;
            assert_eq!(dropped, Dropped::Done, "the record says that it is empty");
            Ok(())
        });
    }
    for _ in 0..leaves {
        steps.step(|| {
            if store.count(tree)? > 0 {
                store.drop_step(tree)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn drop_table(
    steps: &mut Steps<'_>,
    store: &mut Store,
    catalog: &Catalog,
    metadata: &Metadata,
    table: TableId,
    schema_version: SchemaVersion,
) -> Result<(), Fault> {
    let tree = TreeRef::new(metadata.tenant, CATALOG);
    // Its trees stay, and what they meant: AS OF a position before this one reads them.
    steps.step(|| {
        let schema = schema_of(catalog, table).clone();
        let key = dropped_key(&schema.name, metadata.position);
        let dropped = DroppedTable { schema, changed_at: catalog.changed_at(table) };
        store.put(tree, &key, &dropped.encode()).map(drop)
    })?;
    steps.step(|| {
        let mut after = catalog.clone();
        after.drop_table(table);
        assert_eq!(after.version, schema_version);
        store.put(tree, &CatalogKey::Counters.encode(), &after.encode_counters()).map(drop)
    })?;
    steps.step(|| store.remove(tree, &CatalogKey::ChangedAt(table).encode()).map(drop))?;
    steps.step(|| store.remove(tree, &CatalogKey::Table(table).encode()).map(drop))
}

/// A leaf for the idempotency id: a `Commitment`, encoded.
fn remember(
    store: &mut Store,
    metadata: &Metadata,
    outcome: &[u8],
    scratch: &mut RecordScratch,
) -> Result<(), Fault> {
    scratch.value.clear();
    let mut encoder = Encoder::new(&mut scratch.value);
    encoder.array(4).uint(metadata.position.get()).uint(metadata.op.get());
    encoder.uint(metadata.timestamp.0).out.extend_from_slice(outcome);
    let tree = TreeRef::new(metadata.tenant, IDEMPOTENCY);
    let replaced = store.put(tree, &metadata.idempotency.0, &scratch.value)?;
    assert!(!replaced, "a remembered outcome is never replaced");
    Ok(())
}

/// Notes the end of the newest transaction that changed a row of the table: reads at or after it
/// need no history.
fn note_change(
    store: &mut Store,
    metadata: &Metadata,
    table: TableId,
    scratch: &mut RecordScratch,
) -> Result<(), Fault> {
    let tree = TreeRef::new(metadata.tenant, CATALOG);
    let key = CatalogKey::changed_at(table);
    let value = trees::number(metadata.transaction_last.get(), &mut scratch.value);
    if store.get(tree, &key)?.is_some_and(|noted| *noted == *value) {
        return Ok(());
    }
    store.put(tree, &key, value).map(drop)
}

/// The current version goes to history, as ended by this record.
fn supersede(
    store: &mut Store,
    schema: &TableSchema,
    metadata: &Metadata,
    key: &[u8],
    replaces: Position,
    scratch: &mut RecordScratch,
) -> Result<(), Fault> {
    let Some(value) = store.get(TreeRef::new(metadata.tenant, schema.rows), key)? else {
        unreachable!("the record says that the row was there");
    };
    assert_eq!(StoredRow::new(&value).begun_at(), replaces, "the record names the version");
    scratch.value.clear();
    scratch.value.extend_from_slice(&value);
    let history = TreeRef::new(metadata.tenant, schema.history);
    let replaced = store.put(history, &history_key(key, metadata.position), &scratch.value)?;
    assert!(!replaced, "a position ends a version once");
    Ok(())
}

/// Forgets the oldest outcomes whose time is over, a few for every new one: a function of records,
/// and enough that the tree does not outgrow what must be kept.
fn trim_outcomes(
    store: &mut Store,
    metadata: &Metadata,
    progress: &mut RecordProgress,
) -> Result<(), Fault> {
    let tree = TreeRef::new(metadata.tenant, IDEMPOTENCY);
    while progress.trimmed < IDEMPOTENCY_TRIM_MAX {
        let Some((key, _)) = store.nth(tree, 0)? else { unreachable!("one was just put") };
        let id = trees::id_of_key(key);
        let over = forgettable(id, metadata.timestamp.as_ms());
        #[cfg(verity_zoo)]
        let over = over
            || (crate::zoo::is("idempotency_trimmed_early")
                && id.not_after_ms() < metadata.timestamp.as_ms());
        if !over {
            break;
        }
        let removed = store.remove(tree, &id.0)?;
        assert!(removed);
        progress.trimmed += 1;
    }
    Ok(())
}

impl RecordProgress {
    #[must_use]
    pub fn steps(&self) -> u64 {
        u64::from(self.done + self.trimmed) + u64::from(self.built)
    }

    /// Outcomes forgotten by this record.
    #[must_use]
    pub fn trimmed(&self) -> u32 {
        self.trimmed
    }
}

/// Touches what `apply_record` will read, so that the store notes what is missing.
pub fn prefetch_record(
    store: &Store,
    catalog: &Catalog,
    tenant: TenantId,
    position: Position,
    payload: &Payload<'_>,
) {
    let (table, key, replaces) = match payload.row_change() {
        Some(RowChange::Put { table, replaces, row }) => {
            let Some(schema) = catalog.table(table) else { return };
            // A record between here and there may give the table a column.
            let Some((key, row)) = decode_keyed_row(schema, row) else { return };
            index::prefetch(store, tenant, schema, &key, Some(&row));
            (schema, key, replaces.is_some())
        }
        Some(RowChange::Delete { table, key }) => {
            let Some(schema) = catalog.table(table) else { return };
            let Ok(key) = decode_row_key(schema, key) else { return };
            index::prefetch(store, tenant, schema, &key, None);
            (schema, key, true)
        }
        None => return,
    };
    // Only the note that the store takes of a miss matters here.
    let _ = store.prefetch(TreeRef::new(tenant, table.rows), &key);
    if replaces {
        let history = TreeRef::new(tenant, table.history);
        let _ = store.prefetch(history, &history_key(&key, position));
    }
}

fn schema_of(catalog: &Catalog, table: TableId) -> &TableSchema {
    let Some(schema) = catalog.table(table) else {
        unreachable!("records of a table lie between its creation and its end");
    };
    schema
}

fn open_job(bytes: &[u8]) -> Job {
    let Ok(job) = Job::decode(bytes) else {
        unreachable!("what passed its seal holds a job");
    };
    job
}

fn open_schema(bytes: &[u8]) -> TableSchema {
    let Ok(schema) = TableSchema::decode(bytes) else {
        unreachable!("what passed its seal holds a schema");
    };
    schema
}

/// The columns of a row's payload; None: not a row of this table.
#[must_use]
pub fn decode_row_of(schema: &TableSchema, bytes: &[u8]) -> Option<Vec<Value>> {
    decode_row(schema, bytes).ok().map(|(_, row)| row)
}

fn open_row(schema: &TableSchema, bytes: &[u8]) -> (Vec<u8>, Vec<Value>) {
    let Some(opened) = decode_keyed_row(schema, bytes) else {
        unreachable!("what passed its seal holds a row of its table");
    };
    opened
}

/// A row and its key; `None`: not a row of the table as it is now.
fn decode_keyed_row(schema: &TableSchema, bytes: &[u8]) -> Option<(Vec<u8>, Vec<Value>)> {
    let (hidden, row) = decode_row(schema, bytes).ok()?;
    let key = match hidden {
        Some(inserted_at) => hidden_key(inserted_at).to_vec(),
        None => {
            let Ok(key) = encode_key(schema, &row) else {
                unreachable!("the key was checked before the record was made");
            };
            key
        }
    };
    Some((key, row))
}

/// Notes the head of a log; only a checkpoint does.
pub fn put_head(store: &mut Store, tenant: TenantId, head: &[u8]) -> Result<(), Fault> {
    store.put(HEADS_TREE, &trees::tenant_key(tenant), head).map(drop)
}
