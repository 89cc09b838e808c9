//! Lowered writes: what travels in a prepare instead of SQL.
//!
//! Invariants: a command is self-contained and versioned; it names tables by id together with the
//! schema version it was bound to, and whoever applies it answers `SchemaChanged` (retryable) when
//! that no longer holds; no `Expr::Parameter` is left in it. Its encoding is deterministic CBOR
//! (`codec.rs`), one command one encoding.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, SchemaVersion, TableId, TreeId};
use crate::query::expr::Expr;
use crate::query::schema::{Column, TableSchema};

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// With the ids it will get; they must still be the catalog's next ones when applied.
    CreateTable {
        schema: TableSchema,
        if_not_exists: bool,
    },
    DropTable {
        table: TableId,
        schema_version: SchemaVersion,
    },
    CreateIndex(CreateIndex),
    /// By the tree that names it.
    DropIndex {
        table: TableId,
        entries: TreeId,
    },
    /// By its id.
    CancelJob {
        job: TreeId,
    },
    /// The column's id and `added_at` are given when it is applied.
    AddColumn {
        table: TableId,
        schema_version: SchemaVersion,
        column: Column,
    },
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    /// A statement with nothing to do, such as DROP TABLE IF EXISTS of none.
    Nothing,
}

/// Its trees get their ids when it is applied: nothing else in a request names them.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    pub table: TableId,
    pub schema_version: SchemaVersion,
    pub name: String,
    pub columns: Vec<ColumnId>,
    pub unique: bool,
    pub if_not_exists: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub table: TableId,
    pub schema_version: SchemaVersion,
    /// Columns given, in the order of each row; the others take their defaults.
    pub columns: Vec<ColumnId>,
    pub rows: InsertRows,
    pub on_conflict: OnConflict,
}

/// Rows of an INSERT, kept as CBOR: encoded once when bound, decoded one by one when applied.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InsertRows {
    pub count: u32,
    /// `count` × `columns` cells, one after the other.
    pub cells: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OnConflict {
    Fail,
    DoNothing(ConflictTarget),
    DoUpdate { target: ConflictTarget, assignments: Vec<Assignment>, predicate: Option<Expr> },
}

/// Which key a row must clash with for ON CONFLICT to apply; other clashes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictTarget {
    /// Whatever is unique.
    Any,
    PrimaryKey,
    /// A unique index, by the tree that names it.
    Index(TreeId),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub column: ColumnId,
    /// None: the column's default.
    pub value: Option<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub table: TableId,
    pub schema_version: SchemaVersion,
    pub assignments: Vec<Assignment>,
    pub predicate: Option<Expr>,
    /// Of a write that looks at more than a transaction may read.
    pub found: Option<FoundRows>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    pub table: TableId,
    pub schema_version: SchemaVersion,
    pub predicate: Option<Expr>,
    /// Of a write that looks at more than a transaction may read.
    pub found: Option<FoundRows>,
}

/// The rows whose predicate held at a position, all of them; true as long as no row of the table
/// has changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRows {
    pub position: Position,
    /// Ascending.
    pub keys: Vec<Vec<u8>>,
}

impl FoundRows {
    /// Memory that a key takes.
    #[must_use]
    pub fn key_bytes(key: &[u8]) -> usize {
        size_of::<Vec<u8>>() + key.len()
    }

    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.keys.iter().map(|key| FoundRows::key_bytes(key)).sum()
    }
}
