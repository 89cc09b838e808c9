//! What an idempotency id remembers: the outcome of a request, as part of its last record.
//!
//! Purpose: encode the results of a success, or the refusal of a failed execution, so that a retry
//! gets the same answer for as long as the id is remembered. Invariant: an outcome is a function of
//! one record alone; nothing about it is stored elsewhere but in the tree that is derived from it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::request::{
    ExpectedVersion, Limit, OperationResult, Reply, RequestError, ResultDetail, RetryReason,
};
use super::results::Results;
use crate::crypto::InternalHash;
use crate::ids::{IdempotencyId, Op, Position, StreamId, TenantId, TreeId};
use crate::query::cbor::{DecodeError, Decoder, Encoder};
use crate::query::{SqlError, SqlState};
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Keyed hash of what the client asked, under the tenant's fingerprint key.
    pub request: InternalHash,
    pub result: Result<Results, RequestError>,
}

/// An outcome with the record that made it: a leaf of the idempotency tree, and the answer of
/// `commitment(id)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Commitment {
    pub id: IdempotencyId,
    pub outcome: Outcome,
    /// Last record of the transaction, or the `Refused` or `Completed` record.
    pub position: Position,
    pub op: Op,
    pub time: Timestamp,
}

impl Outcome {
    pub fn encode(&self, encoder: &mut Encoder<'_>) {
        encoder.array(3).bytes(&self.request.0);
        match &self.result {
            Ok(results) => {
                encoder.uint(0).array(results.len());
                for result in results.iter() {
                    encode_result(result, encoder);
                }
            }
            Err(error) => {
                encoder.uint(1);
                encode_error(error, encoder);
            }
        }
    }

    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Outcome, DecodeError> {
        decoder.record(3)?;
        let request = InternalHash(decoder.fixed()?);
        let result = match decoder.uint()? {
            0 => {
                let count = decoder.array()?;
                let mut results = Results::default();
                for _ in 0..count {
                    results.push(decode_result(decoder)?);
                }
                Ok(results)
            }
            1 => Err(decode_error(decoder)?),
            2.. => return decoder.error("unknown kind of outcome"),
        };
        Ok(Outcome { request, result })
    }
}

impl Commitment {
    /// What a retry gets: the answer of the first time, if it asks the same.
    pub fn answer(self, request: &InternalHash) -> Result<Reply, RequestError> {
        let same = self.outcome.request == *request;
        #[cfg(verity_zoo)]
        let same = same || crate::zoo::is("idempotency_body_unchecked");
        if !same {
            return Err(RequestError::IdempotencyReused { id: self.id });
        }
        let results = self.outcome.result?;
        Ok(Reply {
            op: self.op,
            timestamp: self.time,
            position: Some(self.position),
            results,
            replayed: true,
        })
    }

    /// Value of the leaf; its key is the id.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = Encoder::new(out);
        encoder.array(4);
        encoder.uint(self.position.get()).uint(self.op.get()).uint(self.time.0);
        self.outcome.encode(&mut encoder);
    }

    pub fn decode(id: IdempotencyId, value: &[u8]) -> Result<Commitment, DecodeError> {
        let mut decoder = Decoder::new(value);
        decoder.record(4)?;
        let position = Position::new(decoder.uint()?);
        let op = Op::new(decoder.uint()?);
        let time = Timestamp(decoder.uint()?);
        let outcome = Outcome::decode(&mut decoder)?;
        decoder.finish()?;
        Ok(Commitment { id, outcome, position, op, time })
    }
}

fn encode_result(result: &OperationResult, encoder: &mut Encoder<'_>) {
    encoder.array(4).uint(u64::from(result.operation)).uint(result.rows_affected);
    match result.detail {
        ResultDetail::Rows => encoder.uint(0).null(),
        ResultDetail::Schema => encoder.uint(1).null(),
        ResultDetail::Appended { stream, version } => {
            encoder.uint(2).array(2).uint(u64::from(stream.get())).uint(version)
        }
        ResultDetail::TenantCreated(tenant) => encoder.uint(3).uint(tenant.get()),
        ResultDetail::Job(job) => encoder.uint(4).uint(u64::from(job.get())),
    };
}

fn decode_result(decoder: &mut Decoder<'_>) -> Result<OperationResult, DecodeError> {
    decoder.record(4)?;
    let operation = decoder.u32()?;
    let rows_affected = decoder.uint()?;
    let detail = match decoder.uint()? {
        0 => {
            decoder.null()?;
            ResultDetail::Rows
        }
        1 => {
            decoder.null()?;
            ResultDetail::Schema
        }
        2 => {
            decoder.record(2)?;
            let stream = StreamId::new(decoder.u32()?);
            ResultDetail::Appended { stream, version: decoder.uint()? }
        }
        3 => ResultDetail::TenantCreated(TenantId::new(decoder.uint()?)),
        4 => ResultDetail::Job(TreeId::new(decoder.u32()?)),
        5.. => return decoder.error("unknown kind of result"),
    };
    Ok(OperationResult { operation, rows_affected, detail })
}

/// Every refusal has a number that never changes its meaning, and its facts as an array.
fn encode_error(error: &RequestError, encoder: &mut Encoder<'_>) {
    match error {
        RequestError::Sql(error) => {
            encoder.array(5).uint(0).text(error.code.code()).text(&error.message);
            encoder.option(error.position, |encoder, position| {
                encoder.uint(u64::from(position));
            });
            encoder.option(error.hint.as_deref(), |encoder, hint| {
                encoder.text(hint);
            });
        }
        RequestError::WrongExpectedVersion { stream, expected, actual } => {
            encoder.array(4).uint(1).text(stream);
            encode_expected(*expected, encoder);
            encoder.uint(*actual);
        }
        RequestError::StreamNameInvalid { size, max } => {
            encoder.array(3).uint(2).uint(*size as u64).uint(*max as u64);
        }
        RequestError::IdempotencyExpired { id, now_ms } => {
            encoder.array(3).uint(3).bytes(&id.0).uint(*now_ms);
        }
        RequestError::IdempotencyUnknown { id, now_ms } => {
            encoder.array(3).uint(4).bytes(&id.0).uint(*now_ms);
        }
        RequestError::IdempotencyTooFarAhead { id, now_ms, max_ahead_ms } => {
            encoder.array(4).uint(5).bytes(&id.0).uint(*now_ms).uint(*max_ahead_ms);
        }
        RequestError::IdempotencyReused { id } => {
            encoder.array(2).uint(6).bytes(&id.0);
        }
        RequestError::AfterUnknown { after } => {
            encoder.array(2).uint(7).bytes(&after.0);
        }
        RequestError::LimitExceeded { limit, value, max } => {
            encoder.array(4).uint(8).uint(*limit as u64).uint(*value).uint(*max);
        }
        RequestError::TooLarge { size, max } => {
            encoder.array(3).uint(9).uint(*size as u64).uint(*max as u64);
        }
        RequestError::Empty => {
            encoder.array(1).uint(10);
        }
        RequestError::TenantUnknown(tenant) => {
            encoder.array(2).uint(11).uint(tenant.get());
        }
        RequestError::TenantExists(tenant) => {
            encoder.array(2).uint(12).uint(tenant.get());
        }
        RequestError::NotPermitted { tenant } => {
            encoder.array(2).uint(13).uint(tenant.get());
        }
        RequestError::KeyMissing(tenant) => {
            encoder.array(2).uint(14).uint(tenant.get());
        }
        RequestError::GridFull { pages, free } => {
            encoder.array(3).uint(16).uint(*pages).uint(*free);
        }
        RequestError::Retry(reason) => {
            encoder.array(2).uint(15).uint(*reason as u64);
        }
    }
}

fn decode_error(decoder: &mut Decoder<'_>) -> Result<RequestError, DecodeError> {
    let fields = decoder.array()?;
    let code = decoder.uint()?;
    let size = |decoder: &mut Decoder<'_>| Ok(decoder.u32()? as usize);
    let id = |decoder: &mut Decoder<'_>| Ok(IdempotencyId(decoder.fixed()?));
    let tenant = |decoder: &mut Decoder<'_>| Ok(TenantId::new(decoder.uint()?));
    Ok(match (code, fields) {
        (0, 5) => RequestError::Sql(decode_sql(decoder)?),
        (1, 4) => RequestError::WrongExpectedVersion {
            stream: decoder.text()?.to_string(),
            expected: decode_expected(decoder)?,
            actual: decoder.uint()?,
        },
        (2, 3) => RequestError::StreamNameInvalid { size: size(decoder)?, max: size(decoder)? },
        (3, 3) => RequestError::IdempotencyExpired { id: id(decoder)?, now_ms: decoder.uint()? },
        (4, 3) => RequestError::IdempotencyUnknown { id: id(decoder)?, now_ms: decoder.uint()? },
        (5, 4) => RequestError::IdempotencyTooFarAhead {
            id: id(decoder)?,
            now_ms: decoder.uint()?,
            max_ahead_ms: decoder.uint()?,
        },
        (6, 2) => RequestError::IdempotencyReused { id: id(decoder)? },
        (7, 2) => RequestError::AfterUnknown { after: id(decoder)? },
        (8, 4) => RequestError::LimitExceeded {
            limit: decode_limit(decoder)?,
            value: decoder.uint()?,
            max: decoder.uint()?,
        },
        (9, 3) => RequestError::TooLarge { size: size(decoder)?, max: size(decoder)? },
        (10, 1) => RequestError::Empty,
        (11, 2) => RequestError::TenantUnknown(tenant(decoder)?),
        (12, 2) => RequestError::TenantExists(tenant(decoder)?),
        (13, 2) => RequestError::NotPermitted { tenant: tenant(decoder)? },
        (14, 2) => RequestError::KeyMissing(tenant(decoder)?),
        (15, 2) => RequestError::Retry(match decoder.uint()? {
            0 => RetryReason::SchemaChanged,
            1 => RetryReason::QueueFull,
            2 => RetryReason::NotReady,
            3 => RetryReason::CheckpointBehind,
            4 => RetryReason::DiskFull,
            5 => RetryReason::NotPrimary,
            6 => RetryReason::Interrupted,
            7.. => return decoder.error("unknown reason to retry"),
        }),
        (16, 3) => RequestError::GridFull { pages: decoder.uint()?, free: decoder.uint()? },
        (_, _) => return decoder.error("unknown refusal"),
    })
}

fn decode_sql(decoder: &mut Decoder<'_>) -> Result<SqlError, DecodeError> {
    let Some(code) = SqlState::from_code(decoder.text()?) else {
        return decoder.error("unknown SQLSTATE");
    };
    Ok(SqlError {
        code,
        message: decoder.text()?.to_string(),
        position: decoder.option(Decoder::u32)?,
        hint: decoder.option(|decoder| Ok(String::from(decoder.text()?)))?,
    })
}

pub(super) fn encode_expected(expected: ExpectedVersion, encoder: &mut Encoder<'_>) {
    match expected {
        ExpectedVersion::Any => encoder.array(1).uint(0),
        ExpectedVersion::None => encoder.array(1).uint(1),
        ExpectedVersion::Exists => encoder.array(1).uint(2),
        ExpectedVersion::Exact(version) => encoder.array(2).uint(3).uint(version),
    };
}

pub(super) fn decode_expected(decoder: &mut Decoder<'_>) -> Result<ExpectedVersion, DecodeError> {
    let fields = decoder.array()?;
    Ok(match (decoder.uint()?, fields) {
        (0, 1) => ExpectedVersion::Any,
        (1, 1) => ExpectedVersion::None,
        (2, 1) => ExpectedVersion::Exists,
        (3, 2) => ExpectedVersion::Exact(decoder.uint()?),
        (_, _) => return decoder.error("unknown expected version"),
    })
}

fn decode_limit(decoder: &mut Decoder<'_>) -> Result<Limit, DecodeError> {
    Ok(match decoder.uint()? {
        0 => Limit::TransactionEvents,
        1 => Limit::TransactionPagesRead,
        2 => Limit::TransactionPagesDirtied,
        3 => Limit::TransactionBytes,
        4 => Limit::Tenants,
        5 => Limit::Tables,
        6 => Limit::Operations,
        7 => Limit::Jobs,
        8.. => return decoder.error("unknown limit"),
    })
}
