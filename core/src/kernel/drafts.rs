//! Records in the making: what a request will append, before anything of it happened.
//!
//! Purpose: execution adds drafts, commit turns them into records. Payloads lie back to back in one
//! buffer that is used again for every transaction. Invariant: draft `n` becomes the record at
//! `first + n`; that is known while executing, because nothing else appends to the log meanwhile.

use alloc::vec::Vec;
use core::ops::Range;

use super::outcome::Outcome;
use super::payload::{Payload, add_outcome};
use crate::crypto::commitment::{SaltKey, record_commitment};
use crate::crypto::{ChainHash, RowCommitment};
use crate::ids::{Position, SchemaVersion, StreamId, TenantId};
use crate::log::RecordKind;
use crate::query::stored::{StoredPrefix, encode_stored};
use crate::query::{TableSchema, Value};

#[derive(Clone, Debug)]
pub struct Draft {
    pub kind: RecordKind,
    pub stream: StreamId,
    pub schema_version: SchemaVersion,
    payload: Range<usize>,
    /// Key and value of the row that it puts, in `Drafts::rows`.
    made: Option<(Range<usize>, Range<usize>)>,
    /// None: over the whole payload, once it is final.
    commitment: Option<ChainHash>,
}

#[derive(Debug, Default)]
pub struct Drafts {
    bytes: Vec<u8>,
    list: Vec<Draft>,
    /// Keys and values of rows to put, as trees will hold them but for the record's hash.
    rows: Vec<u8>,
    /// Bytes of column values, one at a time.
    value: Vec<u8>,
    /// For whoever encodes what a draft will hold; lent and given back.
    pub encoded: Vec<u8>,
}

/// What `apply_record` would make of a row's record again.
#[derive(Clone, Copy, Debug)]
pub struct MadeRow<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// What commitments need to know of the log that the drafts are for.
#[derive(Clone, Copy, Debug)]
pub struct DraftContext<'a> {
    pub tenant: TenantId,
    /// Position of the first draft.
    pub first: Position,
    pub salt: &'a SaltKey,
}

impl DraftContext<'_> {
    /// Position that the next draft will get.
    #[must_use]
    pub fn next_position(&self, drafts: &Drafts) -> Position {
        Position::new(self.first.get() + drafts.len() as u64)
    }
}

impl Drafts {
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.rows.clear();
    }

    /// Key and value of the row that draft `at` puts, made while its columns were at hand. The
    /// value has no record hash yet. `None`: not known, or no such draft.
    #[must_use]
    pub fn made_row(&self, at: usize) -> Option<MadeRow<'_>> {
        let (key, value) = self.list[at].made.clone()?;
        Some(MadeRow { key: &self.rows[key], value: &self.rows[value] })
    }

    #[must_use]
    pub fn get(&self, at: usize) -> (&Draft, &[u8]) {
        let draft = &self.list[at];
        (draft, &self.bytes[draft.payload.clone()])
    }

    /// A row's whole after-image; its commitment covers each column under its own salt.
    pub fn push_row(
        &mut self,
        context: &DraftContext<'_>,
        schema: &TableSchema,
        payload: &Payload<'_>,
        key: &[u8],
        row: &[Value],
    ) {
        let position = context.next_position(self);
        let commitment = row_commitment(context, position, schema, row, &mut self.value);
        self.push_with(payload, schema.stream, schema.schema_version, Some(commitment));
        let start = self.rows.len();
        self.rows.extend_from_slice(key);
        let middle = self.rows.len();
        let prefix =
            StoredPrefix { begun_at: position, record_hash: [0; 32], commitment: commitment.0 };
        encode_stored(&prefix, row, &mut self.rows);
        let Some(last) = self.list.last_mut() else { unreachable!("just pushed") };
        last.made = Some((start..middle, middle..self.rows.len()));
    }

    /// A record of a client, committed to as the client gave it.
    pub fn push_appended(
        &mut self,
        context: &DraftContext<'_>,
        stream: StreamId,
        schema_version: SchemaVersion,
        version: u64,
        record: &[u8],
    ) {
        let position = context.next_position(self);
        let commitment = record_commitment(context.salt, context.tenant, position, stream, record);
        let payload = Payload::Appended { stream, version, record };
        self.push_with(&payload, stream, schema_version, Some(commitment));
    }

    /// Anything else: its commitment covers the whole payload.
    pub fn push(&mut self, payload: &Payload<'_>, stream: StreamId, schema_version: SchemaVersion) {
        self.push_with(payload, stream, schema_version, None);
    }

    fn push_with(
        &mut self,
        payload: &Payload<'_>,
        stream: StreamId,
        schema_version: SchemaVersion,
        commitment: Option<ChainHash>,
    ) {
        let start = self.bytes.len();
        payload.encode(&mut self.bytes);
        let range = start..self.bytes.len();
        let kind = payload.kind();
        self.list.push(Draft {
            kind,
            stream,
            schema_version,
            payload: range,
            made: None,
            commitment,
        });
    }

    /// The last draft carries what its request's id will remember.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        let Some(last) = self.list.last_mut() else { unreachable!("an outcome has a record") };
        assert_eq!(last.payload.end, self.bytes.len());
        add_outcome(&mut self.bytes, last.payload.start, outcome);
        last.payload.end = self.bytes.len();
    }

    /// Commitment of the record that draft `at` becomes.
    #[must_use]
    pub fn commitment(&self, context: &DraftContext<'_>, at: usize) -> ChainHash {
        let (draft, payload) = self.get(at);
        draft.commitment.unwrap_or_else(|| {
            let position = Position::new(context.first.get() + at as u64);
            record_commitment(context.salt, context.tenant, position, draft.stream, payload)
        })
    }
}

/// The commitment of a row, as apply makes it and rebuild checks it.
#[must_use]
pub fn row_commitment(
    context: &DraftContext<'_>,
    position: Position,
    schema: &TableSchema,
    row: &[Value],
    value: &mut Vec<u8>,
) -> ChainHash {
    let mut commitment = RowCommitment::new(
        context.salt,
        context.tenant,
        position,
        schema.id,
        schema.schema_version,
    );
    for (column, cell) in schema.columns.iter().zip(row) {
        value.clear();
        let tag = cell.commitment_bytes(value);
        commitment.column(column.id, tag as u8, value);
    }
    commitment.finish()
}
