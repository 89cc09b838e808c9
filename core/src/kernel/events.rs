//! Reading records back: what `__events`, `verity inspect` and rebuild see of one.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use super::payload::{Payload, RowChange, Subject};
use super::{Keys, Outcome};
use crate::ids::{KeyId, Position, TenantId};
use crate::log::{Record, RecordKind, open_record};
use crate::query::EventRow;
use crate::query::cbor::{DecodeError, Decoder};
use crate::query::codec::decode_columns;

/// A record whose seal is open.
#[derive(Clone, Debug)]
pub struct OpenedEvent {
    pub record: Record,
    plaintext: Vec<u8>,
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventError {
    KeyMissing {
        tenant: TenantId,
        key: KeyId,
    },
    /// It was changed, or sealed under another key.
    Seal {
        tenant: TenantId,
        position: Position,
    },
    Payload {
        position: Position,
        error: DecodeError,
    },
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::KeyMissing { tenant, key } => {
                write!(f, "the keys file has no key {key} of tenant {tenant}")
            }
            EventError::Seal { tenant, position } => {
                write!(f, "the record at {position} of tenant {tenant} does not open with its key")
            }
            EventError::Payload { position, error } => {
                write!(f, "the payload of the record at {position} does not decode: {error}")
            }
        }
    }
}

impl core::error::Error for EventError {}

/// Opens a record's seal with the key it names.
pub fn open_event(keys: &dyn Keys, record: Record) -> Result<OpenedEvent, EventError> {
    let metadata = &record.metadata;
    let (tenant, position) = (metadata.tenant, metadata.position);
    let Some(tenant_keys) = keys.named(tenant, metadata.key) else {
        return Err(EventError::KeyMissing { tenant, key: metadata.key });
    };
    let key = tenant_keys.record(metadata.generation);
    let plaintext = open_record(&key, metadata, &record.data)
        .map_err(|_| EventError::Seal { tenant, position })?;
    let event = OpenedEvent { record, plaintext };
    event.payload()?;
    Ok(event)
}

impl OpenedEvent {
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        self.record.metadata.kind
    }

    /// The plaintext: deterministic CBOR.
    #[must_use]
    pub fn plaintext(&self) -> &[u8] {
        &self.plaintext
    }

    /// What it says, and the encoded outcome that it carries.
    pub fn payload(&self) -> Result<(Payload<'_>, Option<&[u8]>), EventError> {
        let position = self.record.metadata.position;
        Payload::decode(self.kind(), &self.plaintext)
            .map_err(|error| EventError::Payload { position, error })
    }

    /// A row of `__events`.
    pub fn to_row(&self) -> Result<EventRow, EventError> {
        let metadata = &self.record.metadata;
        let position = metadata.position;
        let (payload, _) = self.payload()?;
        let columns = match payload.row_change() {
            Some(RowChange::Put { row: columns, .. } | RowChange::Delete { key: columns, .. }) => {
                let columns = decode_columns(columns);
                Some(columns.map_err(|error| EventError::Payload { position, error })?)
            }
            None => None,
        };
        let bytes = match payload.subject() {
            Subject::Appended { record, .. } => record,
            Subject::Row { .. } | Subject::Plaintext => self.plaintext(),
        };
        Ok(EventRow {
            position,
            transaction_first: metadata.transaction_first,
            transaction_last: metadata.transaction_last,
            kind: payload.name().to_string(),
            stream: metadata.stream,
            timestamp: metadata.timestamp,
            op: metadata.op,
            principal: metadata.principal,
            schema_version: metadata.schema_version,
            payload: columns.is_none().then(|| bytes.to_vec()),
            columns,
        })
    }

    /// The outcome that it makes an idempotency id remember.
    pub fn outcome(&self) -> Result<Option<Outcome>, EventError> {
        let position = self.record.metadata.position;
        let Some(bytes) = self.payload()?.1 else { return Ok(None) };
        let outcome = Outcome::decode(&mut Decoder::new(bytes));
        outcome.map(Some).map_err(|error| EventError::Payload { position, error })
    }
}
