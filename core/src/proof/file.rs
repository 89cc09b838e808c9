//! The proof file: one answer, all that proves it, in deterministic CBOR.
//!
//! ```text
//! file     = ["verity proof", 1, query bytes, evidence, state | null, head, note text]
//! evidence = [0, catalog node, [node | null …], [node | null …] | null, moment | null]
//!                                           rows and COUNT: current rows, and with AS OF history,
//!                                           one node per range of the query; what as_of means
//!          | [1, catalog node, node | null, node | null]             history: current, superseded
//!          | [2, record, [hash …], opening]                                               an event
//!          | [3, node | null]                                       commitment of a transaction
//!          | [4, catalog node, index tree, node | null, node | null]
//!                                           rows and COUNT by an index: its entries, current rows
//! state    = node                           the tenant's forest, with the trees used shown
//! moment   = [record, hashes] | [record, hashes, record, hashes]
//!                                           the last record read, and the one after it
//! head     = [forest node, heads node, record, payload opening, hashes, since | null]
//!                                           of tenant 0; the record's inclusion in its log
//! since    = [size, root 32, hashes]        an older head, and that this one continues it
//! record   = [previous hash 32, metadata 138, data]
//! opening  = null | [0, salt 16, payload] | [1, table, row]
//! ```
//!
//! Fault model: bytes of a stranger, at most [`PROOF_SIZE_MAX`] of them; nothing is allocated on
//! their word.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::query::CanonicalQuery;
use super::tree::{Node, Row, decode_hashes, encode_hashes};
use super::{Record, Reject};
use crate::crypto::ChainHash;
use crate::crypto::commitment::Salt;
use crate::ids::{TableId, TreeId};
use crate::limits::{KEY_RANGES_MAX, PROOF_SIZE_MAX};
use crate::stdx::base64;
use crate::stdx::cbor::{DecodeError, Decoder, Encoder};

const MAGIC: &str = "verity proof";
const VERSION: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFile {
    pub query: CanonicalQuery,
    pub evidence: Evidence,
    pub state: Option<Node>,
    pub head: Head,
    /// C2SP signed note.
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one of them is a file")]
pub enum Evidence {
    Scan {
        catalog: Node,
        rows: Vec<Option<Node>>,
        history: Option<Vec<Option<Node>>>,
        moment: Option<Moment>,
    },
    History {
        catalog: Node,
        row: Option<Node>,
        versions: Option<Node>,
    },
    Event {
        record: Record,
        inclusion: Vec<ChainHash>,
        opening: Option<Opening>,
    },
    Commitment {
        node: Option<Node>,
    },
    /// Rows found by an index that is named by its tree of entries.
    Index {
        catalog: Node,
        index: TreeId,
        entries: Option<Node>,
        rows: Option<Node>,
    },
}

/// With `AS OF`: the last record that is read, and, for a time, the one after it if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub last: Included,
    pub next: Option<Included>,
}

/// A record and its inclusion in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Included {
    pub record: Record,
    pub inclusion: Vec<ChainHash>,
}

/// What shows the plaintext of a record, whole or by columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    Payload { salt: Salt, payload: Vec<u8> },
    Row { table: TableId, row: Row },
}

/// From the signed head of the cluster log to the tenant's head and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub forest: Node,
    pub heads: Node,
    pub record: Record,
    pub opening: Opening,
    pub inclusion: Vec<ChainHash>,
    pub since: Option<Since>,
}

/// An older head of the cluster log, and the RFC 6962 proof that the newer one continues it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    pub size: u64,
    pub root: ChainHash,
    pub consistency: Vec<ChainHash>,
}

impl ProofFile {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let encoder = &mut Encoder::new(&mut out);
        encoder.array(7).text(MAGIC).uint(VERSION).bytes(&self.query.encode());
        match &self.evidence {
            Evidence::Scan { catalog, rows, history, moment } => {
                encoder.array(5).uint(0);
                catalog.encode(encoder);
                encode_nodes(rows, encoder);
                encoder.option(history.as_ref(), |encoder, history| encode_nodes(history, encoder));
                encoder.option(moment.as_ref(), |encoder, moment| moment.encode(encoder));
            }
            Evidence::History { catalog, row, versions } => {
                encoder.array(4).uint(1);
                catalog.encode(encoder);
                encode_node(row.as_ref(), encoder);
                encode_node(versions.as_ref(), encoder);
            }
            Evidence::Event { record, inclusion, opening } => {
                encoder.array(4).uint(2);
                record.encode(encoder);
                encode_hashes(inclusion, encoder);
                encoder.option(opening.as_ref(), |encoder, opening| opening.encode(encoder));
            }
            Evidence::Commitment { node } => {
                encoder.array(2).uint(3);
                encode_node(node.as_ref(), encoder);
            }
            Evidence::Index { catalog, index, entries, rows } => {
                encoder.array(5).uint(4);
                catalog.encode(encoder);
                encoder.uint(u64::from(index.get()));
                encode_node(entries.as_ref(), encoder);
                encode_node(rows.as_ref(), encoder);
            }
        }
        encode_node(self.state.as_ref(), encoder);
        self.head.encode(encoder);
        encoder.text(&self.note);
        out
    }

    /// The attested record's inclusion in the cluster log, as C2SP `tlog-proof` text, for other
    /// people's tools; the leaf's data is the record's hash.
    #[must_use]
    pub fn tlog_proof(&self) -> String {
        let index = self.head.record.position();
        let mut text = alloc::format!("c2sp.org/tlog-proof@v1\nindex {index}\n");
        for hash in &self.head.inclusion {
            text += &base64::encode(&hash.0);
            text.push('\n');
        }
        text + "\n" + &self.note
    }

    pub fn decode(bytes: &[u8]) -> Result<ProofFile, Reject> {
        if bytes.len() > PROOF_SIZE_MAX {
            return Err(Reject::TooLarge { size: bytes.len() });
        }
        ProofFile::parse(bytes).map_err(Reject::Malformed)
    }

    fn parse(bytes: &[u8]) -> Result<ProofFile, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        decoder.record(7)?;
        if decoder.text()? != MAGIC {
            return decoder.error("not a Verity proof");
        }
        if decoder.uint()? != VERSION {
            return decoder.error("a proof of another version");
        }
        let query = CanonicalQuery::decode(decoder.bytes()?)?;
        let fields = decoder.array()?;
        let evidence = match (decoder.uint()?, fields) {
            (0, 5) => Evidence::Scan {
                catalog: Node::decode(decoder)?,
                rows: decode_nodes(decoder)?,
                history: decoder.option(decode_nodes)?,
                moment: decoder.option(Moment::decode)?,
            },
            (1, 4) => Evidence::History {
                catalog: Node::decode(decoder)?,
                row: decoder.option(Node::decode)?,
                versions: decoder.option(Node::decode)?,
            },
            (2, 4) => Evidence::Event {
                record: Record::decode(decoder)?,
                inclusion: decode_hashes(decoder)?,
                opening: decoder.option(Opening::decode)?,
            },
            (3, 2) => Evidence::Commitment { node: decoder.option(Node::decode)? },
            (4, 5) => Evidence::Index {
                catalog: Node::decode(decoder)?,
                index: TreeId::new(decoder.u32()?),
                entries: decoder.option(Node::decode)?,
                rows: decoder.option(Node::decode)?,
            },
            _ => return decoder.error("unknown evidence"),
        };
        let state = decoder.option(Node::decode)?;
        let head = Head::decode(decoder)?;
        let note = decoder.text()?.to_owned();
        decoder.finish()?;
        Ok(ProofFile { query, evidence, state, head, note })
    }
}

impl Head {
    pub(super) fn encode(&self, encoder: &mut Encoder<'_>) {
        let Head { forest, heads, record, opening, inclusion, since } = self;
        encoder.array(6);
        forest.encode(encoder);
        heads.encode(encoder);
        record.encode(encoder);
        opening.encode(encoder);
        encode_hashes(inclusion, encoder);
        encoder.option(since.as_ref(), |encoder, since| {
            encoder.array(3).uint(since.size).bytes(&since.root.0);
            encode_hashes(&since.consistency, encoder);
        });
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Head, DecodeError> {
        decoder.record(6)?;
        Ok(Head {
            forest: Node::decode(decoder)?,
            heads: Node::decode(decoder)?,
            record: Record::decode(decoder)?,
            opening: Opening::decode(decoder)?,
            inclusion: decode_hashes(decoder)?,
            since: decoder.option(|decoder| {
                decoder.record(3)?;
                Ok(Since {
                    size: decoder.uint()?,
                    root: ChainHash(decoder.fixed()?),
                    consistency: decode_hashes(decoder)?,
                })
            })?,
        })
    }
}

impl Record {
    fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(3).bytes(&self.previous.0).bytes(&self.metadata).bytes(&self.data);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Record, DecodeError> {
        decoder.record(3)?;
        Ok(Record {
            previous: ChainHash(decoder.fixed()?),
            metadata: decoder.fixed()?,
            data: decoder.bytes()?.to_vec(),
        })
    }
}

impl Moment {
    fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(if self.next.is_some() { 4 } else { 2 });
        self.last.encode(encoder);
        if let Some(next) = &self.next {
            next.encode(encoder);
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Moment, DecodeError> {
        let fields = decoder.array()?;
        if fields != 2 && fields != 4 {
            return decoder.error("a moment has other fields");
        }
        let last = Included::decode(decoder)?;
        let next = if fields == 4 { Some(Included::decode(decoder)?) } else { None };
        Ok(Moment { last, next })
    }
}

impl Included {
    fn encode(&self, encoder: &mut Encoder<'_>) {
        self.record.encode(encoder);
        encode_hashes(&self.inclusion, encoder);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Included, DecodeError> {
        Ok(Included { record: Record::decode(decoder)?, inclusion: decode_hashes(decoder)? })
    }
}

impl Opening {
    fn encode(&self, encoder: &mut Encoder<'_>) {
        match self {
            Opening::Payload { salt, payload } => {
                encoder.array(3).uint(0).bytes(&salt.0).bytes(payload);
            }
            Opening::Row { table, row } => {
                encoder.array(3).uint(1).uint(u64::from(table.get()));
                row.encode(encoder);
            }
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Opening, DecodeError> {
        decoder.record(3)?;
        match decoder.uint()? {
            0 => {
                let salt = Salt(decoder.fixed()?);
                Ok(Opening::Payload { salt, payload: decoder.bytes()?.to_vec() })
            }
            1 => {
                let table = TableId::new(decoder.u32()?);
                Ok(Opening::Row { table, row: Row::decode(decoder)? })
            }
            _ => decoder.error("unknown opening"),
        }
    }
}

fn encode_node(node: Option<&Node>, encoder: &mut Encoder<'_>) {
    encoder.option(node, |encoder, node| node.encode(encoder));
}

fn encode_nodes(nodes: &[Option<Node>], encoder: &mut Encoder<'_>) {
    encoder.array(nodes.len());
    nodes.iter().for_each(|node| encode_node(node.as_ref(), encoder));
}

fn decode_nodes(decoder: &mut Decoder<'_>) -> Result<Vec<Option<Node>>, DecodeError> {
    let count = decoder.array()?;
    if count > KEY_RANGES_MAX {
        return decoder.error("more nodes than ranges");
    }
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(decoder.option(Node::decode)?);
    }
    Ok(nodes)
}
