//! Tables and the catalog of a tenant.
//!
//! Invariants: ids are never reused; the columns of a table have the ids 1, 2, 3 … in order (id 0
//! stands for the hidden key in record payloads); names are unique per tenant and per table; every
//! schema change raises the catalog's `schema_version` by one, and a table remembers the version
//! that last changed it. One catalog-tree entry per table, one for when its rows last changed
//! (apart, because it changes with every write), one for the counters: see [`CatalogKey`].

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, SchemaVersion, StreamId, TableId, TreeId};
use crate::query::expr::Expr;
use crate::query::index::Index;
use crate::query::job::Job;
use crate::query::value::{ColumnType, Value};

/// Stands for the hidden key (the insert position) in record payloads.
pub const HIDDEN_KEY_COLUMN: ColumnId = ColumnId::new(0);

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub id: ColumnId,
    pub name: String,
    pub column_type: ColumnType,
    pub nullable: bool,
    pub default: Option<Expr>,
    /// What rows have that were written before the column was added; NULL in tables' first columns.
    pub initial: Value,
    /// Position of the event that added it; that of the table's creation for its first columns.
    /// Before it, the column is NULL.
    pub added_at: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    /// As written, for error messages and `__columns`.
    pub text: String,
    pub expr: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    pub id: TableId,
    pub name: String,
    pub columns: Vec<Column>,
    /// Empty: the key is hidden, the position of the row's insert as u64.
    pub primary_key: Vec<ColumnId>,
    pub checks: Vec<Check>,
    pub stream: StreamId,
    /// Tree of current rows.
    pub rows: TreeId,
    /// Tree of superseded versions, keyed (key, ended_at).
    pub history: TreeId,
    /// In order of creation.
    pub indexes: Vec<Index>,
    /// Catalog version that last changed the columns: what commands and rows are bound to. Indexes
    /// come and go without it.
    pub schema_version: SchemaVersion,
    /// Position of the event that created the table.
    pub created_at: Position,
}

impl TableSchema {
    #[must_use]
    pub fn hidden_key(&self) -> bool {
        self.primary_key.is_empty()
    }

    /// Place of a column in a row.
    #[must_use]
    pub fn ordinal(&self, id: ColumnId) -> usize {
        let ordinal = (id.get() as usize).wrapping_sub(1);
        assert!(ordinal < self.columns.len(), "column ids of a table are 1 to its width");
        ordinal
    }

    #[must_use]
    pub fn column(&self, id: ColumnId) -> &Column {
        &self.columns[self.ordinal(id)]
    }

    #[must_use]
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    #[must_use]
    pub fn is_key(&self, id: ColumnId) -> bool {
        self.primary_key.contains(&id)
    }

    #[must_use]
    pub fn index(&self, entries: TreeId) -> Option<&Index> {
        self.indexes.iter().find(|index| index.entries == entries)
    }

    /// What rows that lack the last columns have in them at a position, by place; empty when no
    /// column was added since the table was created.
    #[must_use]
    pub fn initial_values(&self, position: Position) -> Vec<Value> {
        if self.columns.last().is_none_or(|last| last.added_at == self.created_at) {
            return Vec::new();
        }
        #[cfg(verity_zoo)]
        if crate::zoo::is("initial_ignored") {
            return Vec::new();
        }
        let known = |column: &Column| column.added_at <= position;
        let of = |column: &Column| if known(column) { column.initial.clone() } else { Value::Null };
        self.columns.iter().map(of).collect()
    }

    /// All trees of the table, in the order in which they got their ids.
    #[must_use]
    pub fn trees(&self) -> Vec<TreeId> {
        let of_indexes = self.indexes.iter().flat_map(|index| [index.entries, index.ended]);
        [self.rows, self.history].into_iter().chain(of_indexes).collect()
    }
}

/// All tables of a tenant, and the next ids. Cheap to clone: tables are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    tables: BTreeMap<TableId, Arc<TableSchema>>,
    by_name: BTreeMap<String, TableId>,
    changed_at: BTreeMap<TableId, Position>,
    jobs: BTreeMap<TreeId, Arc<Job>>,
    pub version: SchemaVersion,
    pub next_table: TableId,
    pub next_stream: StreamId,
    pub next_tree: TreeId,
}

/// First tree of a tenant that holds rows; those below are the system's.
pub const FIRST_TABLE_TREE: TreeId = TreeId::new(16);

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog::new()
    }
}

impl Catalog {
    #[must_use]
    pub fn new() -> Catalog {
        Catalog {
            tables: BTreeMap::new(),
            by_name: BTreeMap::new(),
            changed_at: BTreeMap::new(),
            jobs: BTreeMap::new(),
            version: SchemaVersion::ZERO,
            next_table: TableId::new(1),
            next_stream: StreamId::new(1),
            next_tree: FIRST_TABLE_TREE,
        }
    }

    #[must_use]
    pub fn table(&self, id: TableId) -> Option<&Arc<TableSchema>> {
        self.tables.get(&id)
    }

    /// `name` as the binder folds it: lower case unless quoted.
    #[must_use]
    pub fn table_named(&self, name: &str) -> Option<&Arc<TableSchema>> {
        self.tables.get(self.by_name.get(name)?)
    }

    /// In order of id.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableSchema>> {
        self.tables.values()
    }

    #[must_use]
    pub fn table_count(&self) -> usize {
        self.tables.len()
    }

    /// Adds a table whose ids this catalog has just given out, and moves its counters past them.
    /// The version becomes the table's.
    pub fn create(&mut self, schema: TableSchema) {
        assert_eq!(schema.id, self.next_table, "ids come from this catalog");
        self.next_table = schema.id.next();
        self.next_stream = self.next_stream.max(schema.stream.next());
        self.version = schema.schema_version;
        self.pass_trees(&schema);
        self.insert(schema);
    }

    /// Replaces a table by what a change made of it. Columns that changed have a new version;
    /// indexes come and go without one.
    pub fn alter(&mut self, schema: TableSchema) {
        assert!(self.tables.contains_key(&schema.id), "only a table can be altered");
        self.version = self.version.max(schema.schema_version);
        self.pass_trees(&schema);
        self.insert(schema);
    }

    fn pass_trees(&mut self, schema: &TableSchema) {
        for tree in schema.trees() {
            self.next_tree = self.next_tree.max(tree.next());
        }
    }

    /// The index of that name, and its table.
    #[must_use]
    pub fn index_named(&self, name: &str) -> Option<(&Arc<TableSchema>, &Index)> {
        self.tables.values().find_map(|schema| {
            schema.indexes.iter().find(|index| index.name == name).map(|index| (schema, index))
        })
    }

    /// In order of id.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    #[must_use]
    pub fn job(&self, id: TreeId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// What a job is now; `None`: it is no more.
    pub fn set_job(&mut self, id: TreeId, job: Option<Job>) {
        match job {
            Some(job) => {
                assert_eq!(job.id, id);
                self.jobs.insert(id, Arc::new(job));
            }
            None => {
                self.jobs.remove(&id);
            }
        }
    }

    /// Puts a table in as read from the catalog tree, or replaces it; counters stay.
    pub fn insert(&mut self, schema: TableSchema) {
        if let Some(old) = self.tables.get(&schema.id) {
            self.by_name.remove(&old.name);
        }
        let other = self.by_name.insert(schema.name.to_owned(), schema.id);
        assert!(other.is_none(), "table names are unique");
        self.tables.insert(schema.id, Arc::new(schema));
    }

    pub fn drop_table(&mut self, id: TableId) -> Option<Arc<TableSchema>> {
        let schema = self.tables.remove(&id)?;
        self.by_name.remove(&schema.name);
        self.changed_at.remove(&id);
        self.version = self.version.next();
        Some(schema)
    }

    /// Position of the last event that changed a row of the table, or created it: for scan-writes
    /// whose keys were found earlier.
    #[must_use]
    pub fn changed_at(&self, id: TableId) -> Position {
        let created_at = self.tables.get(&id).map_or(Position::ZERO, |schema| schema.created_at);
        self.changed_at.get(&id).copied().unwrap_or(created_at)
    }

    /// Notes that an event at `position` changed a row of the table.
    pub fn set_changed_at(&mut self, id: TableId, position: Position) {
        assert!(self.tables.contains_key(&id), "rows have a table");
        self.changed_at.insert(id, position);
    }
}

/// Keys of the catalog tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogKey {
    /// `00`: version and next ids.
    Counters,
    /// `01` ‖ table id, big endian: its schema.
    Table(TableId),
    /// `02` ‖ table id, big endian: position of the last change of a row, as CBOR.
    ChangedAt(TableId),
}

const TABLE: u8 = 1;
const CHANGED_AT: u8 = 2;

impl CatalogKey {
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let (kind, table) = match self {
            CatalogKey::Counters => return alloc::vec![0],
            CatalogKey::Table(table) => (TABLE, table),
            CatalogKey::ChangedAt(table) => (CHANGED_AT, table),
        };
        CatalogKey::of_table(kind, table).to_vec()
    }

    /// [`CatalogKey::ChangedAt`], encoded in place: it is asked for with every row.
    #[must_use]
    pub fn changed_at(table: TableId) -> [u8; 5] {
        CatalogKey::of_table(CHANGED_AT, table)
    }

    fn of_table(kind: u8, table: TableId) -> [u8; 5] {
        let mut key = [kind; 5];
        key[1..].copy_from_slice(&table.get().to_be_bytes());
        key
    }

    #[must_use]
    pub fn decode(key: &[u8]) -> Option<CatalogKey> {
        match key {
            [0] => Some(CatalogKey::Counters),
            [kind @ (TABLE | CHANGED_AT), id @ ..] => {
                let table = TableId::new(u32::from_be_bytes(id.try_into().ok()?));
                Some(if *kind == TABLE {
                    CatalogKey::Table(table)
                } else {
                    CatalogKey::ChangedAt(table)
                })
            }
            _ => None,
        }
    }
}
