//! Types, schemas and the counters of a catalog as deterministic CBOR.
//!
//! Fault model: as `codec_expr`: any bytes, bounded by their own size; what decodes is a schema
//! whose parts fit together, or it is refused.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use crate::ids::{ColumnId, Position, SchemaVersion, StreamId, TableId, TreeId};
use crate::limits::{COLUMNS_MAX, IDENTIFIER_SIZE_MAX, INDEXES_MAX};
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::codec::{decode_value, encode_value};
use crate::query::codec_expr::{decode_column_id, decode_expr, encode_expr};
use crate::query::expr::Expr;
use crate::query::index::Index;
use crate::query::schema::{Catalog, Check, Column, TableSchema};
use crate::query::value::ColumnType;

const SCHEMA_FORMAT: u64 = 2;

type Result<T> = core::result::Result<T, DecodeError>;

pub(super) fn encode_type(e: &mut Encoder<'_>, column_type: ColumnType) {
    match column_type {
        ColumnType::Boolean => e.array(1).uint(0),
        ColumnType::SmallInt => e.array(1).uint(1),
        ColumnType::Integer => e.array(1).uint(2),
        ColumnType::BigInt => e.array(1).uint(3),
        ColumnType::Double => e.array(1).uint(4),
        ColumnType::Decimal { precision, scale } => {
            e.array(3).uint(5).uint(u64::from(precision)).uint(u64::from(scale))
        }
        ColumnType::Text => e.array(1).uint(6),
        ColumnType::Varchar(size) => e.array(2).uint(7).uint(u64::from(size)),
        ColumnType::Blob => e.array(1).uint(8),
        ColumnType::Date => e.array(1).uint(9),
        ColumnType::Timestamp => e.array(1).uint(10),
        ColumnType::Uuid => e.array(1).uint(11),
        ColumnType::Json => e.array(1).uint(12),
    };
}

pub(super) fn decode_type(d: &mut Decoder<'_>) -> Result<ColumnType> {
    let fields = d.array()?;
    let (column_type, expected) = match d.uint()? {
        0 => (ColumnType::Boolean, 1),
        1 => (ColumnType::SmallInt, 1),
        2 => (ColumnType::Integer, 1),
        3 => (ColumnType::BigInt, 1),
        4 => (ColumnType::Double, 1),
        5 => {
            let (precision, scale) = (d.u8()?, d.u8()?);
            if !(1..=38).contains(&precision) || scale > precision {
                return d.error("DECIMAL is out of range");
            }
            (ColumnType::Decimal { precision, scale }, 3)
        }
        6 => (ColumnType::Text, 1),
        7 => (ColumnType::Varchar(d.u32()?), 2),
        8 => (ColumnType::Blob, 1),
        9 => (ColumnType::Date, 1),
        10 => (ColumnType::Timestamp, 1),
        11 => (ColumnType::Uuid, 1),
        12 => (ColumnType::Json, 1),
        _ => return d.error("unknown type"),
    };
    if fields == expected { Ok(column_type) } else { d.error("type has other fields") }
}

pub(super) fn decode_name(d: &mut Decoder<'_>) -> Result<alloc::string::String> {
    let name = d.text()?;
    if name.is_empty() || name.len() > IDENTIFIER_SIZE_MAX {
        return d.error("bad name");
    }
    Ok(name.to_owned())
}

impl TableSchema {
    /// Value of the catalog tree's entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut Encoder::new(&mut out));
        out
    }

    pub(super) fn encode_into(&self, e: &mut Encoder<'_>) {
        e.array(12).uint(SCHEMA_FORMAT).uint(u64::from(self.id.get())).text(&self.name);
        e.uint(u64::from(self.schema_version.get())).uint(self.created_at.get());
        e.uint(u64::from(self.stream.get()));
        e.uint(u64::from(self.rows.get())).uint(u64::from(self.history.get()));
        e.array(self.columns.len());
        for column in &self.columns {
            encode_column(e, column);
        }
        e.array(self.primary_key.len());
        for id in &self.primary_key {
            e.uint(u64::from(id.get()));
        }
        e.array(self.checks.len());
        for check in &self.checks {
            e.array(3).text(&check.name).text(&check.text);
            encode_expr(e, &check.expr);
        }
        e.array(self.indexes.len());
        for index in &self.indexes {
            e.array(6).text(&index.name).bool(index.unique);
            e.uint(u64::from(index.entries.get())).uint(u64::from(index.ended.get()));
            e.option(index.ready_at.as_ref(), |e, position| {
                e.uint(position.get());
            });
            encode_column_ids(e, &index.columns);
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<TableSchema> {
        let mut decoder = Decoder::new(bytes);
        let schema = TableSchema::decode_from(&mut decoder)?;
        decoder.finish()?;
        Ok(schema)
    }

    pub(super) fn decode_from(d: &mut Decoder<'_>) -> Result<TableSchema> {
        d.record(12)?;
        if d.uint()? != SCHEMA_FORMAT {
            return d.error("schema of another format");
        }
        let id = TableId::new(d.u32()?);
        let name = decode_name(d)?;
        let schema_version = SchemaVersion::new(d.u32()?);
        let created_at = Position::new(d.uint()?);
        let stream = StreamId::new(d.u32()?);
        let (rows, history) = (TreeId::new(d.u32()?), TreeId::new(d.u32()?));
        let count = d.array()?;
        if count == 0 || count > COLUMNS_MAX {
            return d.error("bad number of columns");
        }
        let mut columns: Vec<Column> = Vec::new();
        for id in 1..=count as u32 {
            let column = decode_column(d, ColumnId::new(id))?;
            if columns.iter().any(|other| other.name == column.name) {
                return d.error("two columns of one name");
            }
            columns.push(column);
        }
        let in_table = |id: ColumnId| id.get() >= 1 && id.get() as usize <= count;
        let mut primary_key = Vec::new();
        for _ in 0..d.array()? {
            let id = ColumnId::new(d.u32()?);
            if !in_table(id) || primary_key.contains(&id) {
                return d.error("bad primary key");
            }
            primary_key.push(id);
        }
        let mut checks = Vec::new();
        for _ in 0..d.array()? {
            d.record(3)?;
            checks.push(Check {
                name: decode_name(d)?,
                text: d.text()?.to_owned(),
                expr: decode_expr(d)?,
            });
        }
        let indexes = decode_indexes(d, count)?;
        let exprs = columns.iter().filter_map(|column| column.default.as_ref());
        for expr in exprs.chain(checks.iter().map(|check| &check.expr)) {
            if !columns_within(expr, count) {
                return d.error("an expression names another table's column");
            }
        }
        Ok(TableSchema {
            id,
            name,
            columns,
            primary_key,
            checks,
            stream,
            rows,
            history,
            indexes,
            schema_version,
            created_at,
        })
    }
}

pub(crate) fn encode_column(e: &mut Encoder<'_>, column: &Column) {
    e.array(6).text(&column.name);
    encode_type(e, column.column_type);
    e.bool(column.nullable);
    e.option(column.default.as_ref(), |e, default| encode_expr(e, default));
    encode_value(e, &column.initial);
    e.uint(column.added_at.get());
}

pub(super) fn decode_column(d: &mut Decoder<'_>, id: ColumnId) -> Result<Column> {
    d.record(6)?;
    Ok(Column {
        id,
        name: decode_name(d)?,
        column_type: decode_type(d)?,
        nullable: d.bool()?,
        default: d.option(decode_expr)?,
        initial: decode_value(d)?,
        added_at: Position::new(d.uint()?),
    })
}

pub(super) fn encode_column_ids(e: &mut Encoder<'_>, columns: &[ColumnId]) {
    e.array(columns.len());
    for id in columns {
        e.uint(u64::from(id.get()));
    }
}

/// At least one, each once.
pub(super) fn decode_index_columns(d: &mut Decoder<'_>, count: usize) -> Result<Vec<ColumnId>> {
    let mut columns = Vec::new();
    for _ in 0..d.array()? {
        let id = decode_column_id(d)?;
        if id.get() as usize > count || columns.contains(&id) {
            return d.error("bad columns of an index");
        }
        columns.push(id);
    }
    if columns.is_empty() {
        return d.error("an index without columns");
    }
    Ok(columns)
}

fn decode_indexes(d: &mut Decoder<'_>, columns: usize) -> Result<Vec<Index>> {
    let count = d.array()?;
    if count > INDEXES_MAX {
        return d.error("too many indexes");
    }
    let mut indexes = Vec::with_capacity(count);
    for _ in 0..count {
        d.record(6)?;
        indexes.push(Index {
            name: decode_name(d)?,
            unique: d.bool()?,
            entries: TreeId::new(d.u32()?),
            ended: TreeId::new(d.u32()?),
            ready_at: d.option(Decoder::uint)?.map(Position::new),
            columns: decode_index_columns(d, columns)?,
        });
    }
    Ok(indexes)
}

fn columns_within(expr: &Expr, count: usize) -> bool {
    let mut within = true;
    expr.visit(&mut |node| match node {
        Expr::Column(id) => within &= id.get() as usize <= count,
        Expr::Excluded(_) | Expr::Parameter(_) => within = false,
        _ => {}
    });
    within
}

impl Catalog {
    /// Value of the catalog tree's `Counters` entry.
    #[must_use]
    pub fn encode_counters(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut e = Encoder::new(&mut out);
        e.array(5).uint(SCHEMA_FORMAT).uint(u64::from(self.version.get()));
        e.uint(u64::from(self.next_table.get())).uint(u64::from(self.next_stream.get()));
        e.uint(u64::from(self.next_tree.get()));
        out
    }

    pub fn decode_counters(&mut self, bytes: &[u8]) -> Result<()> {
        let mut d = Decoder::new(bytes);
        d.record(5)?;
        if d.uint()? != SCHEMA_FORMAT {
            return d.error("catalog of another format");
        }
        self.version = SchemaVersion::new(d.u32()?);
        self.next_table = TableId::new(d.u32()?);
        self.next_stream = StreamId::new(d.u32()?);
        self.next_tree = TreeId::new(d.u32()?);
        d.finish()
    }
}
