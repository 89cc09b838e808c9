//! Secondary indexes: what one is, and the keys of its trees.
//!
//! An index has two trees, shaped as a table's own two are:
//!
//! ```text
//! tree     key                                     value
//! entries  columns ‖ row key                       begun at u64 ‖ where the row key begins u16
//! ended    columns ‖ row key ‖ ended at, big endian  the same
//! ```
//!
//! Little endian but for keys. An entry says: from `begun at` on (until `ended at`) the row had
//! these values in these columns. So a read at a position through an index sees exactly the rows
//! that had the values then, and what is done for a table's rows at a position is done for an
//! index's entries, too. A row that changes other columns leaves its entry alone.
//!
//! Invariants: for an index that is ready, a row's entry is there if and only if the row is, for
//! every position from `ready_at` on; NULLs are entries like others; UNIQUE counts only entries
//! without NULL. Fault model: as `stored`: a malformed entry is a bug and asserted.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, TreeId};
use crate::limits::ROW_KEY_SIZE_MAX;
use crate::query::error::{SqlError, SqlState};
use crate::query::key::encode_key_value;
use crate::query::schema::TableSchema;
use crate::query::value::Value;

/// Bytes of an entry's value.
pub const ENTRY_SIZE: usize = 8 + 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Unique among the indexes of a tenant.
    pub name: String,
    /// In order; the row key follows them.
    pub columns: Vec<ColumnId>,
    pub unique: bool,
    /// Tree of the entries of current rows; it also names the index, as trees are never reused.
    pub entries: TreeId,
    /// Tree of entries that ended, keyed (entry, ended at).
    pub ended: TreeId,
    /// Reads at this position and later may use it; `None`: it is being built.
    pub ready_at: Option<Position>,
}

impl Index {
    #[must_use]
    pub fn serves(&self, position: Position) -> bool {
        #[cfg(verity_zoo)]
        if crate::zoo::is("index_before_ready") {
            return self.ready_at.is_some();
        }
        self.ready_at.is_some_and(|ready_at| ready_at <= position)
    }

    /// Appends the values of the index's columns in order, as key bytes.
    fn encode_columns(&self, schema: &TableSchema, row: &[Value], out: &mut Vec<u8>) {
        for id in &self.columns {
            encode_key_value(&row[schema.ordinal(*id)], schema.column(*id).column_type, out);
        }
    }

    /// The key of the row's entry, and where the row key begins in it.
    #[must_use]
    pub fn entry(&self, schema: &TableSchema, row: &[Value], row_key: &[u8]) -> EntryKey {
        let mut key = Vec::with_capacity(row_key.len() + 24);
        self.encode_columns(schema, row, &mut key);
        let split = key.len() as u16;
        key.extend_from_slice(row_key);
        EntryKey { key, split }
    }

    /// What must be unique: the key bytes of the columns; `None`: nothing, as one is NULL.
    #[must_use]
    pub fn unique_prefix(&self, schema: &TableSchema, row: &[Value]) -> Option<Vec<u8>> {
        let null = |id: &ColumnId| row[schema.ordinal(*id)].is_null();
        #[cfg(verity_zoo)]
        let null = |id: &ColumnId| null(id) && !crate::zoo::is("unique_null_clashes");
        if !self.unique || self.columns.iter().any(null) {
            return None;
        }
        let mut prefix = Vec::with_capacity(24);
        self.encode_columns(schema, row, &mut prefix);
        Some(prefix)
    }

    /// Do both rows have the same entry, their key being the same?
    #[must_use]
    pub fn same_entry(&self, schema: &TableSchema, before: &[Value], after: &[Value]) -> bool {
        // Equal values have equal key bytes; a zero and a negative zero too.
        self.columns.iter().all(|id| {
            let at = schema.ordinal(*id);
            before[at] == after[at]
        })
    }

    /// Rows that no tree could index are refused before they are drafted.
    pub fn check_size(
        &self,
        schema: &TableSchema,
        row: &[Value],
        key_size: usize,
    ) -> Result<(), SqlError> {
        let mut bytes = Vec::new();
        self.encode_columns(schema, row, &mut bytes);
        let size = bytes.len() + key_size;
        if size <= ROW_KEY_SIZE_MAX {
            return Ok(());
        }
        Err(SqlError::new(
            SqlState::LimitExceeded,
            format!(
                "the entry of index \"{}\" takes {size} bytes for this row, its key included; at \
                 most {ROW_KEY_SIZE_MAX} fit",
                self.name
            ),
        )
        .hint("index a shorter column, for example a hash of the long value"))
    }

    #[must_use]
    pub fn column_names<'s>(&self, schema: &'s TableSchema) -> Vec<&'s str> {
        self.columns.iter().map(|id| schema.column(*id).name.as_str()).collect()
    }

    #[must_use]
    pub fn violation(&self, schema: &TableSchema, row: &[Value]) -> SqlError {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|id| format!("{} = {}", schema.column(*id).name, row[schema.ordinal(*id)]))
            .collect();
        let message = format!(
            "a row of \"{}\" with {} exists: index \"{}\" is unique",
            schema.name,
            columns.join(", "),
            self.name
        );
        SqlError::new(SqlState::UniqueViolation, message)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryKey {
    pub key: Vec<u8>,
    pub split: u16,
}

impl EntryKey {
    /// The value beside the key.
    #[must_use]
    pub fn value(&self, begun_at: Position) -> [u8; ENTRY_SIZE] {
        let mut value = [0; ENTRY_SIZE];
        value[..8].copy_from_slice(&begun_at.get().to_le_bytes());
        value[8..].copy_from_slice(&self.split.to_le_bytes());
        value
    }
}

/// The row key of an entry. `value` is the entry's own.
#[must_use]
pub fn row_key_of<'k>(entry: &'k [u8], value: &[u8]) -> &'k [u8] {
    assert!(value.len() == ENTRY_SIZE, "entries have one size");
    &entry[usize::from(u16::from_le_bytes([value[8], value[9]]))..]
}

/// Where a version begins: of a stored row and of an entry, the first eight bytes.
#[must_use]
pub fn begun_at(value: &[u8]) -> Position {
    let Some(begun_at) = value.first_chunk() else {
        unreachable!("versions begin with their position")
    };
    Position::new(u64::from_le_bytes(*begun_at))
}
