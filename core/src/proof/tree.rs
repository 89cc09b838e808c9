//! Trees with some entries shown: their encoding, their hash, and what they leave open.
//!
//! ```text
//! node  = [level, entries in the page, [shown …], hashes]
//! shown = [place, salt 16, key, value]           at level 0
//!       | [place, count, hash 32]                counted: nothing else of the child is shown
//!       | [place, count, node]                   a child
//! value = [0, digest 32] | [1, value salt 16, bytes] | [2, begun at, record hash 32, row]
//!       | [3, shape, height, entries, hash 32]
//! row   = commitment 32 | [schema version, [column …]]
//! column = hash 32 | [salt 16, type tag, bytes]
//! ```
//!
//! `hashes`: 32 bytes each, the roots of the RFC 6962 subtrees of the page in which nothing is
//! shown, from left to right.
//!
//! Invariants: a node is as deep as its level, which falls by one at each step, so recursion is
//! bounded by the level of the top; every hash given is used. In [`Shown`] what is hidden between
//! two entries is a gap, wherever in the tree it lies.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Reject;
use super::value::Value;
use crate::crypto::commitment::{Column, Salt};
use crate::crypto::{ChainHash, commitment, merkle, tree};
use crate::ids::{ColumnId, Position, SchemaVersion, TableId, TreeId};
use crate::limits::{COLUMNS_MAX, KEY_SIZE_MAX, PROOF_LEVELS_MAX};
use crate::stdx::cbor::{DecodeError, Decoder, Encoder};

/// The shape rule that trees follow.
const SHAPE: u16 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub level: u8,
    pub entries: u16,
    pub shown: Vec<(u16, Item)>,
    pub hashes: Vec<ChainHash>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Entry(Entry),
    Counted { count: u64, hash: ChainHash },
    Child { count: u64, node: Box<Node> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub salt: Salt,
    pub key: Vec<u8>,
    pub value: EntryValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryValue {
    Hidden(ChainHash),
    Plain { salt: Salt, bytes: Vec<u8> },
    Row { begun_at: Position, record: ChainHash, row: Row },
    Tree(TreeHash),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Hidden(ChainHash),
    Columns { schema: SchemaVersion, columns: Vec<Cell> },
}

/// A column of a row, in the order of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Hidden(ChainHash),
    Shown { salt: Salt, value: Value },
}

/// A tree as its forest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHash {
    pub height: u8,
    pub entries: u64,
    pub hash: ChainHash,
}

/// Entries of a tree in order, and where something is hidden between them.
#[derive(Debug)]
pub enum Shown<'a> {
    /// One entry or more.
    Gap,
    /// So many entries, and nothing else.
    Counted(u64),
    Entry(&'a Entry),
}

impl Node {
    /// The node's hash; appends what it shows. `table`: whose rows its entries are.
    pub(super) fn hash<'a>(
        &'a self,
        id: TreeId,
        table: Option<TableId>,
        into: &mut Vec<Shown<'a>>,
    ) -> Result<ChainHash, Reject> {
        if self.entries == 0 {
            return Err(Reject::Tree { reason: "a page without entries" });
        }
        let mut hashes = self.hashes.iter();
        let mut shown = self.shown.as_slice();
        let root = self.subtree(id, table, 0..self.entries, &mut shown, &mut hashes, into)?;
        if !shown.is_empty() || hashes.next().is_some() {
            return Err(Reject::Tree { reason: "a page shows more than it has" });
        }
        Ok(tree::node_hash(self.level, self.entries, &root))
    }

    /// Root over a range of the page's entries, split as RFC 6962 splits; `shown` and `hashes` are
    /// consumed from left to right. The depth is the logarithm of a page's entries.
    fn subtree<'a>(
        &'a self,
        id: TreeId,
        table: Option<TableId>,
        range: core::ops::Range<u16>,
        shown: &mut &'a [(u16, Item)],
        hashes: &mut core::slice::Iter<'a, ChainHash>,
        into: &mut Vec<Shown<'a>>,
    ) -> Result<ChainHash, Reject> {
        let (first, rest) = match shown.split_first() {
            Some((first, rest)) if first.0 < range.end => (first, rest),
            Some(_) | None => {
                if !matches!(into.last(), Some(Shown::Gap)) {
                    into.push(Shown::Gap);
                }
                let hash = hashes.next().ok_or(Reject::Tree { reason: "a hash is missing" })?;
                return Ok(*hash);
            }
        };
        if first.0 < range.start {
            return Err(Reject::Tree { reason: "what a page shows is not in order" });
        }
        let width = range.end - range.start;
        if width > 1 {
            let middle = range.start + (1 << (width - 1).ilog2());
            let left = self.subtree(id, table, range.start..middle, shown, hashes, into)?;
            let right = self.subtree(id, table, middle..range.end, shown, hashes, into)?;
            return Ok(merkle::node_hash(&left, &right));
        }
        *shown = rest;
        match (&first.1, self.level) {
            (Item::Entry(entry), 0) => {
                into.push(Shown::Entry(entry));
                let digest = entry.value.digest(table)?;
                Ok(tree::entry_hash(&entry.salt, id, &entry.key, &digest))
            }
            (Item::Counted { count, hash }, 1..) => {
                into.push(Shown::Counted(*count));
                Ok(tree::inner_hash(hash, *count))
            }
            (Item::Child { count, node }, 1..) => {
                // The level falls at each step: that is what bounds this recursion.
                if node.level + 1 != self.level {
                    return Err(Reject::Tree {
                        reason: "a child is not one level below its parent",
                    });
                }
                if node.level == 0 && u64::from(node.entries) != *count {
                    return Err(Reject::Tree {
                        reason: "a leaf has another count than its parent says",
                    });
                }
                let hash = node.hash(id, table, into)?;
                Ok(tree::inner_hash(&hash, *count))
            }
            (Item::Entry(_), 1..) | (Item::Counted { .. } | Item::Child { .. }, 0) => {
                Err(Reject::Tree { reason: "an entry is of another level" })
            }
        }
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(4).uint(u64::from(self.level)).uint(u64::from(self.entries));
        encoder.array(self.shown.len());
        for (place, item) in &self.shown {
            let place = u64::from(*place);
            match item {
                Item::Entry(entry) => {
                    encoder.array(4).uint(place).bytes(&entry.salt.0).bytes(&entry.key);
                    entry.value.encode(encoder);
                }
                Item::Counted { count, hash } => {
                    encoder.array(3).uint(place).uint(*count).bytes(&hash.0);
                }
                Item::Child { count, node } => {
                    encoder.array(3).uint(place).uint(*count);
                    node.encode(encoder); // As deep as the tree is high.
                }
            }
        }
        encode_hashes(&self.hashes, encoder);
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Node, DecodeError> {
        Node::decode_below(decoder, PROOF_LEVELS_MAX)
    }

    fn decode_below(decoder: &mut Decoder<'_>, levels: u8) -> Result<Node, DecodeError> {
        decoder.record(4)?;
        let level = decoder.u8()?;
        if level >= levels {
            return decoder.error("a tree is too deep");
        }
        let entries = decoder.u16()?;
        let count = decoder.array()?;
        if count > usize::from(entries) {
            return decoder.error("a page shows more entries than it has");
        }
        let mut shown = Vec::new();
        for _ in 0..count {
            if level == 0 {
                decoder.record(4)?;
                let place = decoder.u16()?;
                let salt = Salt(decoder.fixed()?);
                let key = decoder.bytes()?;
                if key.len() > KEY_SIZE_MAX {
                    return decoder.error("a key is too long");
                }
                let value = EntryValue::decode(decoder)?;
                shown.push((place, Item::Entry(Entry { salt, key: key.to_vec(), value })));
            } else {
                decoder.record(3)?;
                let (place, count) = (decoder.u16()?, decoder.uint()?);
                let item = if decoder.is_bytes() {
                    Item::Counted { count, hash: ChainHash(decoder.fixed()?) }
                } else {
                    let node = Box::new(Node::decode_below(decoder, level)?);
                    Item::Child { count, node }
                };
                shown.push((place, item));
            }
        }
        let hashes = decode_hashes(decoder)?;
        Ok(Node { level, entries, shown, hashes })
    }
}

impl EntryValue {
    fn digest(&self, table: Option<TableId>) -> Result<ChainHash, Reject> {
        Ok(match self {
            EntryValue::Hidden(digest) => *digest,
            EntryValue::Plain { salt, bytes } => tree::value_digest(salt, bytes),
            EntryValue::Row { begun_at, record, row } => {
                let commitment = match (row, table) {
                    (Row::Hidden(commitment), Some(_)) => *commitment,
                    (Row::Columns { schema, columns }, Some(table)) => {
                        row_commitment(table, *schema, columns)
                    }
                    (_, None) => return Err(Reject::Tree { reason: "a row where none belongs" }),
                };
                tree::row_digest(&commitment, *begun_at, record)
            }
            EntryValue::Tree(root) => {
                tree::tree_digest(SHAPE, root.height, root.entries, &root.hash)
            }
        })
    }

    fn encode(&self, encoder: &mut Encoder<'_>) {
        match self {
            EntryValue::Hidden(digest) => encoder.array(2).uint(0).bytes(&digest.0),
            EntryValue::Plain { salt, bytes } => {
                encoder.array(3).uint(1).bytes(&salt.0).bytes(bytes)
            }
            EntryValue::Row { begun_at, record, row } => {
                encoder.array(4).uint(2).uint(begun_at.get()).bytes(&record.0);
                row.encode(encoder);
                encoder
            }
            EntryValue::Tree(root) => {
                encoder.array(5).uint(3).uint(u64::from(SHAPE)).uint(u64::from(root.height));
                encoder.uint(root.entries).bytes(&root.hash.0)
            }
        };
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<EntryValue, DecodeError> {
        let fields = decoder.array()?;
        match (decoder.uint()?, fields) {
            (0, 2) => Ok(EntryValue::Hidden(ChainHash(decoder.fixed()?))),
            (1, 3) => {
                let salt = Salt(decoder.fixed()?);
                Ok(EntryValue::Plain { salt, bytes: decoder.bytes()?.to_vec() })
            }
            (2, 4) => {
                let begun_at = Position::new(decoder.uint()?);
                let record = ChainHash(decoder.fixed()?);
                Ok(EntryValue::Row { begun_at, record, row: Row::decode(decoder)? })
            }
            (3, 5) => {
                if decoder.u16()? != SHAPE {
                    return decoder.error("a tree of another shape");
                }
                let (height, entries) = (decoder.u8()?, decoder.uint()?);
                let hash = ChainHash(decoder.fixed()?);
                Ok(EntryValue::Tree(TreeHash { height, entries, hash }))
            }
            _ => decoder.error("unknown value of an entry"),
        }
    }
}

impl Row {
    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) {
        match self {
            Row::Hidden(commitment) => {
                encoder.bytes(&commitment.0);
            }
            Row::Columns { schema, columns } => {
                encoder.array(2).uint(u64::from(schema.get())).array(columns.len());
                for cell in columns {
                    match cell {
                        Cell::Hidden(hash) => encoder.bytes(&hash.0),
                        Cell::Shown { salt, value } => encoder
                            .array(3)
                            .bytes(&salt.0)
                            .uint(u64::from(value.tag))
                            .bytes(&value.bytes),
                    };
                }
            }
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Row, DecodeError> {
        if decoder.is_bytes() {
            return Ok(Row::Hidden(ChainHash(decoder.fixed()?)));
        }
        decoder.record(2)?;
        let schema = SchemaVersion::new(decoder.u32()?);
        let count = decoder.array()?;
        if count > COLUMNS_MAX {
            return decoder.error("a row has too many columns");
        }
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            columns.push(if decoder.is_bytes() {
                Cell::Hidden(ChainHash(decoder.fixed()?))
            } else {
                decoder.record(3)?;
                let salt = Salt(decoder.fixed()?);
                Cell::Shown { salt, value: Value::decode_fields(decoder)? }
            });
        }
        Ok(Row::Columns { schema, columns })
    }

    /// What the record's metadata hold.
    #[must_use]
    pub fn commitment(&self, table: TableId) -> ChainHash {
        match self {
            Row::Hidden(commitment) => *commitment,
            Row::Columns { schema, columns } => row_commitment(table, *schema, columns),
        }
    }
}

impl Cell {
    /// Leaves the hash alone: the value can no longer be read, and still is committed to.
    pub(super) fn hide(&mut self, table: TableId, column: ColumnId) {
        if let Cell::Shown { salt, value } = self {
            let hash = commitment::column_hash(salt, table, column, value.tag, &value.bytes);
            *self = Cell::Hidden(hash);
        }
    }
}

fn row_commitment(table: TableId, schema: SchemaVersion, cells: &[Cell]) -> ChainHash {
    let columns: Vec<Column<'_>> = cells
        .iter()
        .zip(1..)
        .map(|(cell, id)| match cell {
            Cell::Hidden(hash) => Column::Hidden(*hash),
            Cell::Shown { salt, value } => Column::Shown {
                salt: *salt,
                column: ColumnId::new(id),
                type_tag: value.tag,
                value: &value.bytes,
            },
        })
        .collect();
    commitment::row_commitment_of(table, schema, &columns)
}

pub(super) fn encode_hashes(hashes: &[ChainHash], encoder: &mut Encoder<'_>) {
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
    encoder.bytes(&bytes);
}

pub(super) fn decode_hashes(decoder: &mut Decoder<'_>) -> Result<Vec<ChainHash>, DecodeError> {
    let (hashes, []) = decoder.bytes()?.as_chunks::<32>() else {
        return decoder.error("hashes have 32 bytes each");
    };
    Ok(hashes.iter().map(|hash| ChainHash(*hash)).collect())
}
