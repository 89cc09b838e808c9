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
//!
//! Rows and records, most of what travels, are checked when an envelope is opened and stay where
//! they are in it: work names the place, and whoever does it reads them from there. So an opened
//! envelope asks nothing of the allocator, and its buffers are used again for the next one.

use alloc::vec::Vec;
use core::ops::Range;

use super::outcome::{decode_expected, encode_expected};
use super::request::{ExpectedVersion, Operation, Request};
use crate::crypto::{InternalHash, KekHash};
use crate::ids::{IdempotencyId, TenantId, TreeId};
use crate::query::Command;
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::codec::encode_value;
use crate::query::codec_command::{InsertSent, SentCommand};
use crate::query::command::OnConflict;

const VERSION: u64 = 1;
const WORK_COMMAND: u64 = 0;
const WORK_APPEND: u64 = 1;
const WORK_CREATE_TENANT: u64 = 2;
const WORK_ATTEST: u64 = 3;
const WORK_JOB_STEP: u64 = 4;

/// One piece of work of a request, lowered.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Anything but an INSERT.
    Command(Command),
    /// Where it is: [`Envelope::insert`].
    Insert(Range<usize>),
    /// Where it is: [`Envelope::append`].
    Append(Range<usize>),
    CreateTenant {
        tenant: TenantId,
        kek_hash: KekHash,
    },
    Attest,
    JobStep {
        job: TreeId,
    },
}

/// A request as it travels, its seal open.
#[derive(Debug)]
pub struct Envelope {
    pub request: InternalHash,
    pub after: Option<IdempotencyId>,
    /// With the index of the operation that each belongs to.
    pub work: Vec<(u32, Work)>,
    /// All of it, as it was sealed.
    plain: Vec<u8>,
}

/// An append as it travels.
#[derive(Clone, Debug)]
pub struct AppendSent<'a> {
    pub stream: &'a str,
    pub expected: ExpectedVersion,
    records: Decoder<'a>,
    count: usize,
}

/// Encodes an envelope piece by piece, so that commands need not be gathered first.
#[derive(Debug)]
pub struct EnvelopeWriter {
    work: Vec<u8>,
    count: usize,
    /// It holds names, schemas or expressions.
    intricate: bool,
}

impl EnvelopeWriter {
    #[must_use]
    pub fn new() -> EnvelopeWriter {
        EnvelopeWriter { work: Vec::with_capacity(1_024), count: 0, intricate: false }
    }

    pub fn command(&mut self, operation: u32, command: &Command) {
        self.head(operation, WORK_COMMAND);
        command.encode(&mut self.work);
        self.intricate |= match command {
            Command::Insert(insert) => matches!(insert.on_conflict, OnConflict::DoUpdate { .. }),
            Command::CreateTable { .. }
            | Command::DropTable { .. }
            | Command::CreateIndex(_)
            | Command::DropIndex { .. }
            | Command::AddColumn { .. }
            | Command::CancelJob { .. }
            | Command::Update(_)
            | Command::Delete(_)
            | Command::Nothing => true,
        };
    }

    /// Must what was written be read back before it is proposed? Values are read as they are
    /// written; names that were made up and expressions may pass a bound that the reader has, and
    /// a committed op that nobody can read stops every replica, at each open.
    #[must_use]
    pub fn is_intricate(&self) -> bool {
        self.intricate
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

impl Default for Envelope {
    fn default() -> Envelope {
        Envelope {
            request: InternalHash([0; 32]),
            after: None,
            work: Vec::new(),
            plain: Vec::new(),
        }
    }
}

impl Envelope {
    /// Holds nothing of any request, but may have room for one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && self.plain.is_empty()
    }

    pub fn clear(&mut self) {
        self.work.clear();
        self.plain.clear();
        (self.request, self.after) = (InternalHash([0; 32]), None);
    }

    /// For whoever opens the seal; then [`Envelope::decode`].
    pub fn plain(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    pub fn decode(&mut self) -> Result<(), DecodeError> {
        let decoder = &mut Decoder::new(&self.plain);
        decoder.record(4)?;
        if decoder.uint()? != VERSION {
            return decoder.error("envelope of another version");
        }
        self.request = InternalHash(decoder.fixed()?);
        self.after = decoder.option(|decoder| Ok(IdempotencyId(decoder.fixed()?)))?;
        let count = decoder.array()?;
        assert!(self.work.is_empty(), "decoded once");
        for _ in 0..count {
            decoder.record(3)?;
            let operation = decoder.u32()?;
            self.work.push((operation, decode_work(decoder)?));
        }
        decoder.finish()
    }

    /// What [`Work::Insert`] stands for.
    #[must_use]
    pub fn insert(&self, at: &Range<usize>) -> InsertSent<'_> {
        match SentCommand::decode_from(&mut Decoder::new(&self.plain[at.clone()])) {
            Ok(SentCommand::Insert(insert)) => insert,
            Ok(SentCommand::Other(_)) | Err(_) => unreachable!("it was decoded before"),
        }
    }

    /// What [`Work::Append`] stands for.
    #[must_use]
    pub fn append(&self, at: &Range<usize>) -> AppendSent<'_> {
        let Ok(append) = AppendSent::decode_from(&mut Decoder::new(&self.plain[at.clone()])) else {
            unreachable!("it was decoded before")
        };
        append
    }
}

impl<'a> AppendSent<'a> {
    fn decode_from(decoder: &mut Decoder<'a>) -> Result<AppendSent<'a>, DecodeError> {
        decoder.record(3)?;
        let stream = decoder.text()?;
        let expected = decode_expected(decoder)?;
        let count = decoder.array()?;
        let records = decoder.clone();
        for _ in 0..count {
            decoder.bytes()?;
        }
        Ok(AppendSent { stream, expected, records, count })
    }

    #[must_use]
    pub fn records(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let mut records = self.records.clone();
        (0..self.count).map(move |_| {
            let Ok(record) = records.bytes() else { unreachable!("decoded before") };
            record
        })
    }
}

fn decode_work(decoder: &mut Decoder<'_>) -> Result<Work, DecodeError> {
    match decoder.uint()? {
        WORK_COMMAND => {
            let start = decoder.offset();
            match SentCommand::decode_from(decoder)? {
                SentCommand::Insert(_) => Ok(Work::Insert(start..decoder.offset())),
                SentCommand::Other(command) => Ok(Work::Command(command)),
            }
        }
        WORK_APPEND => {
            let start = decoder.offset();
            AppendSent::decode_from(decoder)?;
            Ok(Work::Append(start..decoder.offset()))
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
            // Whoever leads chooses the keys, and a retry may come to another one.
            Operation::CreateTenant { tenant, kek_hash: _ } => {
                encoder.array(2).uint(3).uint(tenant.get());
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
