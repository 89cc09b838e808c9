//! What a request's seal covers: lowered commands, ready to apply.
//!
//! ```text
//! [ 1                       version of this encoding
//! , request  bytes 32       keyed hash of what the client asked
//! , after    bytes 16|null  apply only once this id's outcome is remembered
//! , [ [operation, 0, command]                         lowered SQL, in query's codec
//!   | [operation, 1, [name, expected, [record …]]]    append to a stream
//!   | [operation, 2, [tenant, KEK hash]]              create a tenant
//!   | [operation, 3, []]                              attest
//!   | [operation, 4, job]                             a slice of a job
//!   , … ] ]
//! ```
//!
//! Deterministic CBOR. `operation` is the index of the client's operation; one of SQL may give
//! several commands. Invariant: replicas never parse SQL; all that a command depends on beside
//! state is in it or in the prepare's header.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::outcome::{decode_expected, encode_expected};
use super::request::{ExpectedVersion, Operation, Request};
use crate::crypto::{InternalHash, KekHash};
use crate::ids::{IdempotencyId, TenantId, TreeId};
use crate::query::Command;
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::codec::encode_value;

const VERSION: u64 = 1;
const WORK_COMMAND: u64 = 0;
const WORK_APPEND: u64 = 1;
const WORK_CREATE_TENANT: u64 = 2;
const WORK_ATTEST: u64 = 3;
const WORK_JOB_STEP: u64 = 4;

/// One piece of work of a request, lowered.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Command(Command),
    Append { stream: String, expected: ExpectedVersion, records: Vec<Vec<u8>> },
    CreateTenant { tenant: TenantId, kek_hash: KekHash },
    Attest,
    JobStep { job: TreeId },
}

/// A request as it travels, its seal open.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub request: InternalHash,
    pub after: Option<IdempotencyId>,
    /// With the index of the operation that each belongs to.
    pub work: Vec<(u32, Work)>,
}

/// Encodes an envelope piece by piece, so that commands need not be gathered first.
#[derive(Debug)]
pub struct EnvelopeWriter {
    work: Vec<u8>,
    count: usize,
}

impl EnvelopeWriter {
    #[must_use]
    pub fn new() -> EnvelopeWriter {
        EnvelopeWriter { work: Vec::with_capacity(1_024), count: 0 }
    }

    pub fn command(&mut self, operation: u32, command: &Command) {
        self.head(operation, WORK_COMMAND);
        command.encode(&mut self.work);
    }

    pub fn append(
        &mut self,
        operation: u32,
        stream: &str,
        expected: ExpectedVersion,
        records: &[Vec<u8>],
    ) {
        let encoder = &mut self.head(operation, WORK_APPEND);
        encoder.array(3).text(stream);
        encode_expected(expected, encoder);
        encoder.array(records.len());
        for record in records {
            encoder.bytes(record);
        }
    }

    pub fn create_tenant(&mut self, operation: u32, tenant: TenantId, kek_hash: &KekHash) {
        let encoder = &mut self.head(operation, WORK_CREATE_TENANT);
        encoder.array(2).uint(tenant.get()).bytes(&kek_hash.0);
    }

    pub fn attest(&mut self, operation: u32) {
        self.head(operation, WORK_ATTEST).array(0);
    }

    pub fn job_step(&mut self, operation: u32, job: TreeId) {
        self.head(operation, WORK_JOB_STEP).uint(u64::from(job.get()));
    }

    fn head(&mut self, operation: u32, kind: u64) -> Encoder<'_> {
        self.count += 1;
        let mut encoder = Encoder::new(&mut self.work);
        encoder.array(3).uint(u64::from(operation)).uint(kind);
        encoder
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.work.len()
    }

    /// Appends the whole envelope to `out`.
    pub fn finish(self, request: &InternalHash, after: Option<IdempotencyId>, out: &mut Vec<u8>) {
        let mut encoder = Encoder::new(out);
        encoder.array(4).uint(VERSION).bytes(&request.0);
        encoder.option(after, |encoder, after| {
            encoder.bytes(&after.0);
        });
        encoder.array(self.count);
        out.extend_from_slice(&self.work);
    }
}

impl Envelope {
    pub fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        decoder.record(4)?;
        if decoder.uint()? != VERSION {
            return decoder.error("envelope of another version");
        }
        let request = InternalHash(decoder.fixed()?);
        let after = decoder.option(|decoder| Ok(IdempotencyId(decoder.fixed()?)))?;
        let count = decoder.array()?;
        let mut work = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            decoder.record(3)?;
            let operation = decoder.u32()?;
            work.push((operation, decode_work(decoder)?));
        }
        decoder.finish()?;
        Ok(Envelope { request, after, work })
    }
}

fn decode_work(decoder: &mut Decoder<'_>) -> Result<Work, DecodeError> {
    match decoder.uint()? {
        WORK_COMMAND => Ok(Work::Command(Command::decode_from(decoder)?)),
        WORK_APPEND => {
            decoder.record(3)?;
            let stream = decoder.text()?.to_owned();
            let expected = decode_expected(decoder)?;
            let count = decoder.array()?;
            let mut records = Vec::with_capacity(count.min(1_024));
            for _ in 0..count {
                records.push(decoder.bytes()?.to_owned());
            }
            Ok(Work::Append { stream, expected, records })
        }
        WORK_CREATE_TENANT => {
            decoder.record(2)?;
            let tenant = TenantId::new(decoder.uint()?);
            Ok(Work::CreateTenant { tenant, kek_hash: KekHash(decoder.fixed()?) })
        }
        WORK_ATTEST => {
            decoder.record(0)?;
            Ok(Work::Attest)
        }
        WORK_JOB_STEP => Ok(Work::JobStep { job: TreeId::new(decoder.u32()?) }),
        _ => decoder.error("unknown work"),
    }
}

/// The bytes that an idempotency id stands for: what the client asked, as it asked, so that a retry
/// hashes the same even when the schema has changed in between.
pub fn fingerprint_bytes(request: &Request, out: &mut Vec<u8>) {
    let encoder = &mut Encoder::new(out);
    encoder.array(3).uint(request.tenant.get()).uint(request.principal.get());
    encoder.array(request.operations.len());
    for operation in &request.operations {
        match operation {
            Operation::Sql { text, params } => {
                encoder.array(3).uint(0).text(text).array(params.len());
                params.iter().for_each(|value| encode_value(encoder, value));
            }
            Operation::InsertRows { table, columns, rows } => {
                encoder.array(4).uint(1).text(table).array(columns.len());
                for column in columns {
                    encoder.text(column);
                }
                encoder.array(rows.len());
                for row in rows {
                    encoder.array(row.len());
                    row.iter().for_each(|value| encode_value(encoder, value));
                }
            }
            Operation::Append { stream, expected, records } => {
                encoder.array(4).uint(2).text(stream);
                encode_expected(*expected, encoder);
                encoder.array(records.len());
                for record in records {
                    encoder.bytes(record);
                }
            }
            Operation::CreateTenant { tenant, kek_hash } => {
                encoder.array(3).uint(3).uint(tenant.get()).bytes(&kek_hash.0);
            }
            Operation::Attest => {
                encoder.array(1).uint(4);
            }
            Operation::JobStep { job } => {
                encoder.array(2).uint(5).uint(u64::from(job.get()));
            }
        }
    }
}
