//! What the data of a record says: kinds and payloads, deterministic CBOR inside the seal.
//!
//! Purpose: the one encoding of every event. A payload is a map with small integer keys in
//! ascending order (`docs/KERNEL.md` has the table), so any CBOR library reads it. Key 15, always
//! last, is the outcome that an idempotency id remembers; only the last record of a transaction has
//! it, and adding it changes the first byte and appends, nothing else.
//!
//! Invariants: `encode(decode(x)) == x`; what is decoded here passed the seal, so bytes that do not
//! decode are damage or a bug, never an input.

use alloc::vec::Vec;

use super::outcome::Outcome;
use super::recovery::RecoveryRecord;
use super::trees::AttestedHead;
use crate::crypto::KekHash;
use crate::ids::{Position, SchemaVersion, StreamId, TableId, TenantId, TreeId};
use crate::log::{CheckpointRecord, RecordKind};
use crate::query::cbor::{
    DecodeError, Decoder, Encoder, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_MAP, MAJOR_SIMPLE, MAJOR_TAG,
    MAJOR_TEXT,
};

/// The catalog gives streams of tables their ids, from 1; streams that clients name have the high
/// bit; 0 is the system's own (schema, outcomes, tenants, recovery, checkpoints).
pub const STREAM_SYSTEM: StreamId = StreamId::ZERO;
const STREAM_NAMED: u32 = 1 << 31;

/// The nth stream that clients named, from 0.
#[must_use]
pub fn stream_named(ordinal: u32) -> StreamId {
    assert!(ordinal < STREAM_NAMED, "streams run out of ids");
    StreamId::new(STREAM_NAMED | ordinal)
}

const KEY_OUTCOME: u64 = 15;
const CHANGE_TABLE_CREATED: u64 = 1;
const CHANGE_STREAM_CREATED: u64 = 2;
const CHANGE_TABLE_DROPPED: u64 = 3;
const CHANGE_INDEX_BUILT: u64 = 8;
const CHANGE_JOB: u64 = 9;
const CHANGE_PAGES_FREED: u64 = 10;

/// What became of a table's schema. The codes are changes of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TableChange {
    /// Its trees are there, and rows that change enter it; those that lie still do not yet.
    IndexCreated = 4,
    /// Every row has its entry.
    IndexReady = 5,
    IndexDropped = 6,
    ColumnAdded = 7,
}

impl TableChange {
    const ALL: [TableChange; 4] = [
        TableChange::IndexCreated,
        TableChange::IndexReady,
        TableChange::IndexDropped,
        TableChange::ColumnAdded,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TableChange::IndexCreated => "create index",
            TableChange::IndexReady => "index ready",
            TableChange::IndexDropped => "drop index",
            TableChange::ColumnAdded => "add column",
        }
    }
}

/// A decoded payload; borrows from the record's plaintext.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload<'a> {
    RowPut {
        table: TableId,
        /// Position of the version that this one supersedes.
        replaces: Option<Position>,
        /// The row, whole, in the codec of `query`.
        row: &'a [u8],
    },
    RowDelete {
        table: TableId,
        /// Position of the version that ends here: the before-image.
        replaces: Position,
        /// The columns of the row's key, in the codec of `query`.
        key: &'a [u8],
    },
    /// Kind `CatalogChange`, change 1.
    TableCreated {
        table: TableId,
        /// The table's schema in the codec of `query`.
        schema: &'a [u8],
    },
    /// Change 3: the table is no more; its versions stay in the log.
    TableDropped {
        table: TableId,
        schema_version: SchemaVersion,
    },
    /// Changes 4 to 7.
    TableAltered {
        table: TableId,
        change: TableChange,
        /// The table's schema after it.
        schema: &'a [u8],
    },
    /// Change 8: the rows of a range of keys enter an index, in the order of their keys, unless
    /// they are in it already.
    IndexBuilt {
        table: TableId,
        /// The index, by its tree.
        entries: TreeId,
        /// Rows above this key; `None`: from the first one on.
        after: Option<&'a [u8]>,
        /// Rows up to this key, which is one of them; `None`: all the rest.
        to: Option<&'a [u8]>,
    },
    /// Change 9: what a job is from here on.
    JobChanged {
        job: TreeId,
        /// In the codec of `query`; `None`: it is no more.
        state: Option<&'a [u8]>,
    },
    /// Change 10: leaves of a tree that nobody can read any more are freed, the first ones first.
    PagesFreed {
        tree: TreeId,
        /// At most; 0: it is empty, and the tree is forgotten.
        leaves: u32,
    },
    /// Change 2: a name got a stream.
    StreamCreated {
        stream: StreamId,
        name: &'a str,
    },
    Appended {
        stream: StreamId,
        /// Records in the stream, this one included.
        version: u64,
        record: &'a [u8],
    },
    Refused,
    Completed,
    TenantCreated {
        tenant: TenantId,
        kek_hash: KekHash,
    },
    Recovery(RecoveryRecord),
    /// The head of a tenant's log, and its state.
    HeadAttested {
        tenant: TenantId,
        head: AttestedHead,
    },
    Checkpoint(CheckpointRecord),
}

/// What the commitment in a record's metadata is over.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// The columns of a row, one by one.
    Row { table: TableId, row: &'a [u8] },
    /// What the caller appended, without our envelope.
    Appended { stream: StreamId, record: &'a [u8] },
    /// The whole plaintext.
    Plaintext,
}

/// What a record changes of the rows of a table.
#[derive(Clone, Copy, Debug)]
pub enum RowChange<'a> {
    Put { table: TableId, replaces: Option<Position>, row: &'a [u8] },
    Delete { table: TableId, key: &'a [u8] },
}

impl<'a> Payload<'a> {
    #[must_use]
    pub fn row_change(&self) -> Option<RowChange<'a>> {
        match *self {
            Payload::RowPut { table, replaces, row } => {
                Some(RowChange::Put { table, replaces, row })
            }
            Payload::RowDelete { table, key, .. } => Some(RowChange::Delete { table, key }),
            Payload::TableCreated { .. }
            | Payload::TableDropped { .. }
            | Payload::TableAltered { .. }
            | Payload::IndexBuilt { .. }
            | Payload::JobChanged { .. }
            | Payload::PagesFreed { .. }
            | Payload::StreamCreated { .. }
            | Payload::Appended { .. }
            | Payload::Refused
            | Payload::Completed
            | Payload::TenantCreated { .. }
            | Payload::Recovery(_)
            | Payload::HeadAttested { .. }
            | Payload::Checkpoint(_) => None,
        }
    }

    #[must_use]
    pub fn subject(&self) -> Subject<'a> {
        match *self {
            Payload::RowPut { table, row, .. } => Subject::Row { table, row },
            Payload::Appended { stream, record, .. } => Subject::Appended { stream, record },
            Payload::RowDelete { .. }
            | Payload::TableCreated { .. }
            | Payload::TableDropped { .. }
            | Payload::TableAltered { .. }
            | Payload::IndexBuilt { .. }
            | Payload::JobChanged { .. }
            | Payload::PagesFreed { .. }
            | Payload::StreamCreated { .. }
            | Payload::Refused
            | Payload::Completed
            | Payload::TenantCreated { .. }
            | Payload::Recovery(_)
            | Payload::HeadAttested { .. }
            | Payload::Checkpoint(_) => Subject::Plaintext,
        }
    }

    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Payload::RowPut { .. } => RecordKind::RowPut,
            Payload::RowDelete { .. } => RecordKind::RowDelete,
            Payload::TableCreated { .. }
            | Payload::TableDropped { .. }
            | Payload::TableAltered { .. }
            | Payload::IndexBuilt { .. }
            | Payload::JobChanged { .. }
            | Payload::PagesFreed { .. }
            | Payload::StreamCreated { .. } => RecordKind::CatalogChange,
            Payload::Appended { .. } => RecordKind::Append,
            Payload::Refused => RecordKind::Refused,
            Payload::Completed => RecordKind::Completed,
            Payload::TenantCreated { .. } => RecordKind::TenantCreated,
            Payload::Recovery(_) => RecordKind::RecoveryRecord,
            Payload::HeadAttested { .. } => RecordKind::HeadAttested,
            Payload::Checkpoint(_) => RecordKind::CheckpointRecord,
        }
    }

    /// What `__events` calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Payload::RowPut { replaces: None, .. } => "insert",
            Payload::RowPut { replaces: Some(_), .. } => "update",
            Payload::RowDelete { .. } => "delete",
            Payload::TableCreated { .. } => "create table",
            Payload::TableDropped { .. } => "drop table",
            Payload::TableAltered { change, .. } => change.name(),
            Payload::IndexBuilt { .. } => "index built",
            Payload::JobChanged { .. } => "job",
            Payload::PagesFreed { .. } => "pages freed",
            Payload::StreamCreated { .. } => "create stream",
            Payload::Appended { .. } => "append",
            Payload::Refused => "refused",
            Payload::Completed => "completed",
            Payload::TenantCreated { .. } => "create tenant",
            Payload::Recovery(_) => "recovery",
            Payload::HeadAttested { .. } => "attest head",
            Payload::Checkpoint(_) => "checkpoint",
        }
    }

    /// Must the catalog in memory follow?
    #[must_use]
    pub fn changes_catalog(&self) -> bool {
        matches!(
            self,
            Payload::TableCreated { .. }
                | Payload::TableDropped { .. }
                | Payload::TableAltered { .. }
                | Payload::JobChanged { .. }
        )
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = Encoder::new(out);
        match self {
            Payload::RowPut { table, replaces, row } => {
                encoder.map(if replaces.is_some() { 3 } else { 2 });
                encoder.uint(1).uint(u64::from(table.get()));
                if let Some(replaces) = replaces {
                    encoder.uint(2).uint(replaces.get());
                }
                encoder.uint(3).out.extend_from_slice(row);
            }
            Payload::RowDelete { table, replaces, key } => {
                encoder.map(3);
                encoder.uint(1).uint(u64::from(table.get())).uint(2).uint(replaces.get());
                encoder.uint(3).out.extend_from_slice(key);
            }
            Payload::TableCreated { table, schema } => {
                encoder.map(3);
                encoder.uint(0).uint(CHANGE_TABLE_CREATED);
                encoder.uint(1).uint(u64::from(table.get()));
                encoder.uint(2).out.extend_from_slice(schema);
            }
            Payload::TableDropped { table, schema_version } => {
                encoder.map(3);
                encoder.uint(0).uint(CHANGE_TABLE_DROPPED);
                encoder.uint(1).uint(u64::from(table.get()));
                encoder.uint(2).uint(u64::from(schema_version.get()));
            }
            Payload::TableAltered { table, change, schema } => {
                encoder.map(3);
                encoder.uint(0).uint(u64::from(*change as u8));
                encoder.uint(1).uint(u64::from(table.get()));
                encoder.uint(2).out.extend_from_slice(schema);
            }
            Payload::IndexBuilt { table, entries, after, to } => {
                encoder.map(5);
                encoder.uint(0).uint(CHANGE_INDEX_BUILT);
                encoder.uint(1).uint(u64::from(table.get()));
                encoder.uint(2).uint(u64::from(entries.get()));
                for (field, key) in [(3, after), (4, to)] {
                    encoder.uint(field).option(*key, |encoder, key| {
                        encoder.bytes(key);
                    });
                }
            }
            Payload::JobChanged { job, state } => {
                encoder.map(3);
                encoder.uint(0).uint(CHANGE_JOB).uint(1).uint(u64::from(job.get()));
                encoder.uint(2).option(*state, |encoder, state| {
                    encoder.bytes(state);
                });
            }
            Payload::PagesFreed { tree, leaves } => {
                encoder.map(3);
                encoder.uint(0).uint(CHANGE_PAGES_FREED).uint(1).uint(u64::from(tree.get()));
                encoder.uint(2).uint(u64::from(*leaves));
            }
            Payload::StreamCreated { stream, name } => {
                encoder.map(3);
                encoder.uint(0).uint(CHANGE_STREAM_CREATED);
                encoder.uint(1).uint(u64::from(stream.get())).uint(2).text(name);
            }
            Payload::Appended { stream, version, record } => {
                encoder.map(3);
                encoder.uint(1).uint(u64::from(stream.get())).uint(2).uint(*version);
                encoder.uint(3).bytes(record);
            }
            Payload::Refused | Payload::Completed => {
                encoder.map(0);
            }
            Payload::TenantCreated { tenant, kek_hash } => {
                encoder.map(2);
                encoder.uint(1).uint(tenant.get()).uint(2).bytes(&kek_hash.0);
            }
            Payload::Recovery(record) => {
                encoder.map(1).uint(1);
                record.encode(&mut encoder);
            }
            Payload::HeadAttested { tenant, head } => {
                head.encode_to(encoder.map(2).uint(1).uint(tenant.get()).uint(2));
            }
            Payload::Checkpoint(record) => out.extend_from_slice(&record.encode()),
        }
    }

    /// The payload, and the encoded outcome that goes with it.
    pub fn decode(
        kind: RecordKind,
        plaintext: &[u8],
    ) -> Result<(Payload<'_>, Option<&[u8]>), DecodeError> {
        if kind == RecordKind::CheckpointRecord {
            let Ok(record) = CheckpointRecord::decode(plaintext) else {
                return Decoder::new(plaintext).error("not a checkpoint record");
            };
            return Ok((Payload::Checkpoint(record), None));
        }
        let mut fields = Fields::new(plaintext)?;
        let payload = match kind {
            RecordKind::RowPut => Payload::RowPut {
                table: TableId::new(fields.need(1)?.u32()?),
                replaces: match fields.maybe(2)? {
                    Some(decoder) => Some(Position::new(decoder.uint()?)),
                    None => None,
                },
                row: item(fields.need(3)?)?,
            },
            RecordKind::RowDelete => Payload::RowDelete {
                table: TableId::new(fields.need(1)?.u32()?),
                replaces: Position::new(fields.need(2)?.uint()?),
                key: item(fields.need(3)?)?,
            },
            RecordKind::CatalogChange => match fields.need(0)?.uint()? {
                CHANGE_TABLE_CREATED => Payload::TableCreated {
                    table: TableId::new(fields.need(1)?.u32()?),
                    schema: item(fields.need(2)?)?,
                },
                CHANGE_STREAM_CREATED => Payload::StreamCreated {
                    stream: StreamId::new(fields.need(1)?.u32()?),
                    name: fields.need(2)?.text()?,
                },
                CHANGE_TABLE_DROPPED => Payload::TableDropped {
                    table: TableId::new(fields.need(1)?.u32()?),
                    schema_version: SchemaVersion::new(fields.need(2)?.u32()?),
                },
                CHANGE_INDEX_BUILT => Payload::IndexBuilt {
                    table: TableId::new(fields.need(1)?.u32()?),
                    entries: TreeId::new(fields.need(2)?.u32()?),
                    after: fields.need(3)?.option(Decoder::bytes)?,
                    to: fields.need(4)?.option(Decoder::bytes)?,
                },
                CHANGE_JOB => Payload::JobChanged {
                    job: TreeId::new(fields.need(1)?.u32()?),
                    state: fields.need(2)?.option(Decoder::bytes)?,
                },
                CHANGE_PAGES_FREED => Payload::PagesFreed {
                    tree: TreeId::new(fields.need(1)?.u32()?),
                    leaves: fields.need(2)?.u32()?,
                },
                code => {
                    let mut all = TableChange::ALL.into_iter();
                    let Some(change) = all.find(|change| u64::from(*change as u8) == code) else {
                        return fields.decoder.error("unknown change of the catalog");
                    };
                    Payload::TableAltered {
                        table: TableId::new(fields.need(1)?.u32()?),
                        change,
                        schema: item(fields.need(2)?)?,
                    }
                }
            },
            RecordKind::Append => Payload::Appended {
                stream: StreamId::new(fields.need(1)?.u32()?),
                version: fields.need(2)?.uint()?,
                record: fields.need(3)?.bytes()?,
            },
            RecordKind::Refused => Payload::Refused,
            RecordKind::Completed => Payload::Completed,
            RecordKind::TenantCreated => Payload::TenantCreated {
                tenant: TenantId::new(fields.need(1)?.uint()?),
                kek_hash: KekHash(fields.need(2)?.fixed()?),
            },
            RecordKind::RecoveryRecord => {
                Payload::Recovery(RecoveryRecord::decode(fields.need(1)?)?)
            }
            RecordKind::HeadAttested => Payload::HeadAttested {
                tenant: TenantId::new(fields.need(1)?.uint()?),
                head: AttestedHead::decode(fields.need(2)?)?,
            },
            RecordKind::CheckpointRecord => unreachable!("decoded above"),
        };
        let outcome = match fields.maybe(KEY_OUTCOME)? {
            Some(decoder) => Some(item(decoder)?),
            None => None,
        };
        fields.finish()?;
        Ok((payload, outcome))
    }
}

/// Adds the outcome to the payload, encoded without one, that takes the rest of `bytes` from
/// `start`.
pub fn add_outcome(bytes: &mut Vec<u8>, start: usize, outcome: &Outcome) {
    let first = &mut bytes[start];
    assert!(*first & 0xe0 == 0xa0 && *first & 0x1f < 22, "a payload is a map of few pairs");
    *first += 1;
    let mut encoder = Encoder::new(bytes);
    encoder.uint(KEY_OUTCOME);
    outcome.encode(&mut encoder);
}

/// Reads a map with ascending integer keys, in order.
struct Fields<'a> {
    decoder: Decoder<'a>,
    left: usize,
    next: Option<u64>,
}

impl<'a> Fields<'a> {
    fn new(plaintext: &'a [u8]) -> Result<Fields<'a>, DecodeError> {
        let mut decoder = Decoder::new(plaintext);
        let left = decoder.map()?;
        Ok(Fields { decoder, left, next: None })
    }

    fn maybe(&mut self, key: u64) -> Result<Option<&mut Decoder<'a>>, DecodeError> {
        if self.next.is_none() && self.left > 0 {
            self.next = Some(self.decoder.uint()?);
            self.left -= 1;
        }
        if self.next == Some(key) {
            self.next = None;
            Ok(Some(&mut self.decoder))
        } else {
            Ok(None)
        }
    }

    fn need(&mut self, key: u64) -> Result<&mut Decoder<'a>, DecodeError> {
        if self.maybe(key)?.is_none() {
            return self.decoder.error("a field is missing");
        }
        Ok(&mut self.decoder)
    }

    fn finish(&self) -> Result<(), DecodeError> {
        if self.left > 0 || self.next.is_some() {
            return self.decoder.error("unknown field");
        }
        self.decoder.finish()
    }
}

/// Passes over one item and gives its bytes.
fn item<'a>(decoder: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let start = decoder.offset();
    // Each item takes at least a byte, and counts are checked against what remains.
    let mut left = 1_usize;
    while left > 0 {
        left -= 1;
        match decoder.peek()? {
            (MAJOR_BYTES, _) => {
                decoder.bytes()?;
            }
            (MAJOR_TEXT, _) => {
                decoder.text()?;
            }
            (MAJOR_ARRAY, _) => left += decoder.array()?,
            (MAJOR_MAP, _) => left += 2 * decoder.map()?,
            (MAJOR_TAG, _) => {
                decoder.tag()?;
                left += 1;
            }
            (MAJOR_SIMPLE, 24..) => {
                decoder.double()?;
            }
            (_, _) => {
                decoder.head()?;
            }
        }
    }
    Ok(decoder.since(start))
}
