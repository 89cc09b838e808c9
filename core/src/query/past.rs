//! Tables of the past: what `AS OF` reads when a table of that name was dropped, or made anew.
//!
//! A dropped table leaves its trees where they are, and its schema in the catalog tree under
//! `03` ‖ size of its name u16 ‖ name ‖ position of the drop, big endian. The tables that ever
//! had one name were there one after the other, so the first entry after a position is the only one
//! that can have been there at it. Nothing of it is kept in memory: a past is looked up when it is
//! asked.
//!
//! Invariants: entries are functions of records; a past never changes.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Bound, ControlFlow};

use sqlparser::ast;

use crate::ids::Position;
use crate::query::bind::simple_name;
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::parse::parse;
use crate::query::schema::{Catalog, TableSchema};
use crate::store::{Cursor, Direction, Fault, Store, TreeRef};

/// First byte of the keys of dropped tables in the catalog tree; only jobs come after them.
pub const DROPPED: u8 = 3;

/// A table that was dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct DroppedTable {
    pub schema: TableSchema,
    /// The last change of one of its rows, or its creation.
    pub changed_at: Position,
}

#[must_use]
pub fn dropped_key(name: &str, dropped_at: Position) -> Vec<u8> {
    let mut key = Vec::with_capacity(11 + name.len());
    key.push(DROPPED);
    key.extend_from_slice(&(name.len() as u16).to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&dropped_at.get().to_be_bytes());
    key
}

impl DroppedTable {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out).array(2).uint(self.changed_at.get()).bytes(&self.schema.encode());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<DroppedTable, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        decoder.record(2)?;
        let changed_at = Position::new(decoder.uint()?);
        let schema = TableSchema::decode(decoder.bytes()?)?;
        decoder.finish()?;
        Ok(DroppedTable { schema, changed_at })
    }
}

/// The dropped table that had this name at a position.
pub fn dropped_table_at(
    store: &Store,
    catalog_tree: TreeRef,
    name: &str,
    position: Position,
) -> Result<Option<DroppedTable>, Fault> {
    let low = dropped_key(name, position);
    let high = dropped_key(name, Position::new(u64::MAX));
    let cursor = Cursor::new(Bound::Excluded(&low), Bound::Included(&high), Direction::Forward);
    let found = read(store, catalog_tree, cursor, 1)?.pop();
    Ok(found.filter(|dropped| dropped.schema.created_at <= position))
}

/// The dropped tables of this name, the newest first; so many at most.
pub fn last_dropped(
    store: &Store,
    catalog_tree: TreeRef,
    name: &str,
    most: usize,
) -> Result<Vec<DroppedTable>, Fault> {
    let low = dropped_key(name, Position::ZERO);
    let high = dropped_key(name, Position::new(u64::MAX));
    let cursor = Cursor::new(Bound::Included(&low), Bound::Included(&high), Direction::Reverse);
    read(store, catalog_tree, cursor, most)
}

fn read(
    store: &Store,
    catalog_tree: TreeRef,
    mut cursor: Cursor,
    most: usize,
) -> Result<Vec<DroppedTable>, Fault> {
    let mut found = Vec::new();
    let _ = store.scan(catalog_tree, &mut cursor, |_, value| {
        let Ok(dropped) = DroppedTable::decode(value) else {
            unreachable!("the catalog tree holds what records put there");
        };
        found.push(dropped);
        if found.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// The name of the table that a SELECT reads, if the text is one SELECT of one table.
#[must_use]
pub fn table_read(sql: &str) -> Option<String> {
    let mut statements = parse(sql).ok()?;
    let (Some(parsed), true) = (statements.pop(), statements.is_empty()) else { return None };
    let ast::Statement::Query(query) = parsed.statement else { return None };
    let ast::SetExpr::Select(select) = *query.body else { return None };
    let [from] = select.from.as_slice() else { return None };
    let ast::TableFactor::Table { name, .. } = &from.relation else { return None };
    simple_name(sql, name).ok()
}

impl Catalog {
    /// This catalog as if a dropped table was there, in place of the one that has its name now.
    #[must_use]
    pub fn with_past(&self, dropped: DroppedTable) -> Catalog {
        let mut catalog = self.clone();
        let now = catalog.table_named(&dropped.schema.name).map(|now| now.id);
        if let Some(now) = now {
            catalog.drop_table(now);
        }
        let id = dropped.schema.id;
        catalog.insert(dropped.schema);
        catalog.set_changed_at(id, dropped.changed_at);
        catalog
    }
}
