//! A table as its proved catalog entry describes it: what a verifier needs to read rows.
//!
//! ```text
//! [ format, table, name, schema version, created at, stream, rows tree, history tree
//! , [ [name, type, nullable, default, initial, added at] … ], [key column …], checks
//! , [ [name, unique, entries tree, ended tree, ready at | null, [column …]] … ] ]
//! type = [number] | [5, precision, scale] | [7, size]
//! ```
//!
//! Fault model: bytes of a stranger until the proof of the entry holds, and bounded before that.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::value::{self, Value, push_key};
use super::{Reject, initial};
use crate::ids::{ColumnId, Position, TableId, TreeId};
use crate::limits::COLUMNS_MAX;
use crate::stdx::cbor::{DecodeError, Decoder};

/// The format that this reads; of another one nothing may be assumed.
const FORMAT: u64 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub table: TableId,
    pub name: String,
    /// Position of the event that made the table.
    pub created_at: Position,
    pub rows: TreeId,
    pub history: TreeId,
    pub columns: Vec<Column>,
    /// Empty: the key is hidden, the position of the row's insert.
    pub primary_key: Vec<ColumnId>,
    pub indexes: Vec<Index>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Type tag of its values.
    pub tag: u8,
    /// Of a DECIMAL column.
    pub scale: u8,
    /// What rows have that were written before the column was added,
    pub initial: Value,
    /// from this position on; NULL before it.
    pub added_at: Position,
}

/// An index that has an entry for every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Tree of the entries of current rows.
    pub entries: TreeId,
    pub columns: Vec<ColumnId>,
}

impl Schema {
    pub fn decode(bytes: &[u8]) -> Result<Schema, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        let fields = decoder.array()?;
        if fields != 12 || decoder.uint()? != FORMAT {
            return decoder.error("a schema of another format");
        }
        let table = TableId::new(decoder.u32()?);
        let name = decoder.text()?.to_owned();
        decoder.uint()?;
        let created_at = Position::new(decoder.uint()?);
        decoder.uint()?;
        let (rows, history) = (TreeId::new(decoder.u32()?), TreeId::new(decoder.u32()?));
        let count = decoder.array()?;
        if count == 0 || count > COLUMNS_MAX {
            return decoder.error("a bad number of columns");
        }
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            decoder.record(6)?;
            let name = decoder.text()?.to_owned();
            let (tag, scale) = decode_type(decoder)?;
            decoder.skip()?;
            decoder.skip()?;
            let (initial, added_at) = (initial::decode(decoder)?, Position::new(decoder.uint()?));
            columns.push(Column { name, tag, scale, initial, added_at });
        }
        let primary_key = decode_columns(decoder, count)?;
        decoder.skip()?;
        let mut indexes = Vec::new();
        for _ in 0..decoder.array()? {
            decoder.record(6)?;
            let (_name, _unique) = (decoder.text()?, decoder.bool()?);
            let (entries, _ended) = (TreeId::new(decoder.u32()?), decoder.u32()?);
            let ready = decoder.option(Decoder::uint)?.is_some();
            let columns = decode_columns(decoder, count)?;
            if ready {
                indexes.push(Index { entries, columns });
            }
        }
        decoder.finish()?;
        Ok(Schema { table, name, created_at, rows, history, columns, primary_key, indexes })
    }

    pub(super) fn column(&self, id: ColumnId) -> Result<&Column, Reject> {
        let ordinal = (id.get() as usize).checked_sub(1);
        ordinal
            .and_then(|at| self.columns.get(at))
            .ok_or(Reject::QueryMeaningless { reason: "the table has no such column" })
    }

    /// The bytes of a key of these columns: a row's own, or what an index has before it.
    pub(super) fn keys_of(
        &self,
        columns: &[ColumnId],
        mut value_of: impl FnMut(ColumnId) -> Result<Value, Reject>,
    ) -> Result<Vec<u8>, Reject> {
        let mut key = Vec::new();
        for id in columns {
            let column = self.column(*id)?;
            push_key(&value_of(*id)?, column.tag, column.scale, &mut key)?;
        }
        Ok(key)
    }
}

fn decode_columns(decoder: &mut Decoder<'_>, count: usize) -> Result<Vec<ColumnId>, DecodeError> {
    let mut columns = Vec::new();
    for _ in 0..decoder.array()? {
        let id = ColumnId::new(decoder.u32()?);
        if id.get() == 0 || id.get() as usize > count {
            return decoder.error("no such column");
        }
        columns.push(id);
    }
    Ok(columns)
}

fn decode_type(decoder: &mut Decoder<'_>) -> Result<(u8, u8), DecodeError> {
    let fields = decoder.array()?;
    let (tag, scale, expected) = match decoder.uint()? {
        0 => (value::BOOLEAN, 0, 1),
        1..=3 => (value::INTEGER, 0, 1),
        4 => (value::DOUBLE, 0, 1),
        5 => {
            decoder.u8()?;
            (value::DECIMAL, decoder.u8()?, 3)
        }
        6 => (value::TEXT, 0, 1),
        7 => {
            decoder.u32()?;
            (value::TEXT, 0, 2)
        }
        8 => (value::BLOB, 0, 1),
        9 => (value::DATE, 0, 1),
        10 => (value::TIMESTAMP, 0, 1),
        11 => (value::UUID, 0, 1),
        12 => (value::JSON, 0, 1),
        _ => return decoder.error("unknown type"),
    };
    if fields == expected { Ok((tag, scale)) } else { decoder.error("a type has other fields") }
}
