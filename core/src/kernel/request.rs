//! What a caller asks and what it gets: typed requests, replies and refusals.
//!
//! Purpose: one shape for in-process callers, for network frames later, and for the outcome that an
//! idempotency id remembers. Invariants: a [`Reply`] and a remembered refusal are functions of
//! events alone; every refusal names the facts and tells the caller what to do next.
//! SELECT does not come through here: it is a read of a snapshot, not a request.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::results::Results;
use crate::crypto::KekHash;
use crate::ids::{IdempotencyId, Op, Position, PrincipalId, StreamId, TenantId, TreeId};
use crate::query::{SqlError, Value};
use crate::time::Timestamp;

/// One atomic transaction of one tenant: all of its operations happen, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub tenant: TenantId,
    pub principal: PrincipalId,
    /// `IdempotencyId::NONE`: the outcome is not remembered.
    pub idempotency: IdempotencyId,
    /// Applied only once the outcome of this id is remembered: order within a client's pipeline.
    pub after: Option<IdempotencyId>,
    pub operations: Vec<Operation>,
}

impl Request {
    /// Bytes it takes in memory, for limits.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let values = |values: &Vec<Value>| {
            values.iter().map(|value| size_of::<Value>() + value.heap_bytes()).sum::<usize>()
        };
        let of = |operation: &Operation| match operation {
            Operation::Sql { text, params } => text.len() + values(params),
            Operation::InsertRows { rows, .. } => {
                rows.iter().map(|row| size_of::<Vec<Value>>() + values(row)).sum()
            }
            Operation::Append { records, .. } => {
                records.iter().map(|record| size_of::<Vec<u8>>() + record.len()).sum()
            }
            Operation::CreateTenant { .. } | Operation::Attest | Operation::JobStep { .. } => 0,
        };
        let operations: usize = self.operations.iter().map(of).sum();
        size_of::<Request>() + self.operations.len() * size_of::<Operation>() + operations
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// One or several statements that write, separated by semicolons.
    Sql { text: String, params: Vec<Value> },
    /// Rows for one table, in the order of `columns`; as `INSERT INTO table (columns) VALUES …`,
    /// without text to parse.
    InsertRows { table: String, columns: Vec<String>, rows: Vec<Vec<Value>> },
    /// Raw records for a named stream, made by the first append.
    Append { stream: String, expected: ExpectedVersion, records: Vec<Vec<u8>> },
    /// A slice of a job: what the node asks for again and again while there are jobs.
    JobStep { job: TreeId },
    /// On tenant 0 only. The key of the new tenant is durable in the `keys` file before this is
    /// proposed; only its hash travels.
    CreateTenant { tenant: TenantId, kek_hash: KekHash },
    /// On tenant 0 only, alone and without an id: puts the heads of all logs and the roots of all
    /// states on the record.
    Attest,
}

/// What the version of a stream (the number of its records) must be for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    Any,
    /// The stream has no record yet.
    None,
    /// The stream has at least one record.
    Exists,
    Exact(u64),
}

impl ExpectedVersion {
    #[must_use]
    pub fn accepts(self, version: u64) -> bool {
        #[cfg(verity_zoo)]
        if let ExpectedVersion::Exact(exact) = self
            && crate::zoo::is("wrong_version_accepted")
        {
            return version >= exact;
        }
        match self {
            ExpectedVersion::Any => true,
            ExpectedVersion::None => version == 0,
            ExpectedVersion::Exists => version > 0,
            ExpectedVersion::Exact(exact) => version == exact,
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpectedVersion::Any => f.write_str("any"),
            ExpectedVersion::None => f.write_str("none"),
            ExpectedVersion::Exists => f.write_str("exists"),
            ExpectedVersion::Exact(version) => write!(f, "{version}"),
        }
    }
}

/// A committed, applied transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub op: Op,
    pub timestamp: Timestamp,
    /// Last record of the transaction; of one without records, the last of the log it saw. `None`
    /// when that log is empty.
    pub position: Option<Position>,
    /// One per statement of `Sql`, one per other operation, in order.
    pub results: Results,
    /// The outcome was remembered by an idempotency id: applied by an earlier request.
    pub replayed: bool,
}

impl Reply {
    #[must_use]
    pub fn rows_affected(&self) -> u64 {
        self.results.iter().map(|result| result.rows_affected).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// Index of the operation within the request.
    pub operation: u32,
    pub rows_affected: u64,
    pub detail: ResultDetail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultDetail {
    Rows,
    Schema,
    /// Version of the stream after the append.
    Appended {
        stream: StreamId,
        version: u64,
    },
    TenantCreated(TenantId),
    /// The index is being built by this job.
    Job(TreeId),
}

/// Why a request was not applied. Nothing of it happened, but for [`RetryReason::Interrupted`].
#[derive(Clone, Debug, PartialEq)]
pub enum RequestError {
    Sql(SqlError),
    WrongExpectedVersion {
        stream: String,
        expected: ExpectedVersion,
        actual: u64,
    },
    StreamNameInvalid {
        size: usize,
        max: usize,
    },
    /// `not_after` lies in the past and no outcome is remembered: it was never applied.
    IdempotencyExpired {
        id: IdempotencyId,
        now_ms: u64,
    },
    /// As expired, but so old that its outcome may have been forgotten.
    IdempotencyUnknown {
        id: IdempotencyId,
        now_ms: u64,
    },
    IdempotencyTooFarAhead {
        id: IdempotencyId,
        now_ms: u64,
        max_ahead_ms: u64,
    },
    /// The id was used for a request with another body.
    IdempotencyReused {
        id: IdempotencyId,
    },
    /// `after` names an id without a remembered outcome.
    AfterUnknown {
        after: IdempotencyId,
    },
    LimitExceeded {
        limit: Limit,
        value: u64,
        max: u64,
    },
    /// The grid has no room for the pages that the transaction needs.
    GridFull {
        pages: u64,
        free: u64,
    },
    TooLarge {
        size: usize,
        max: usize,
    },
    /// No operations, no rows or no records: nothing to do.
    Empty,
    TenantUnknown(TenantId),
    TenantExists(TenantId),
    /// The operation belongs to the system tenant, or must not touch it.
    NotPermitted {
        tenant: TenantId,
    },
    /// The `keys` file has no key of this tenant.
    KeyMissing(TenantId),
    /// State changed between binding and apply, or a queue is full: ask again.
    Retry(RetryReason),
}

/// A limit of one transaction, named as in `limits::ClusterConstants`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    TransactionEvents,
    TransactionPagesRead,
    TransactionPagesDirtied,
    TransactionBytes,
    Tenants,
    Tables,
    /// Of one request.
    Operations,
    Jobs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RetryReason {
    SchemaChanged,
    QueueFull,
    NotReady,
    /// Too many changes wait for a checkpoint.
    CheckpointBehind,
    /// The file system has too little room for what a checkpoint may need.
    DiskFull,
    /// Another replica of the cluster leads, or none does yet. Nothing was done.
    NotPrimary,
    /// The replica lost its lead while the request was on its way: it may have been done, or be
    /// done yet. The same request with the same idempotency id finds out; one without an id must
    /// not be sent again.
    Interrupted,
}

impl RequestError {
    /// The same request may succeed when sent again, unchanged.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            RequestError::Retry(reason) => *reason != RetryReason::Interrupted,
            RequestError::AfterUnknown { .. } | RequestError::GridFull { .. } => true,
            RequestError::Sql(error) => error.retryable(),
            RequestError::WrongExpectedVersion { .. }
            | RequestError::StreamNameInvalid { .. }
            | RequestError::IdempotencyExpired { .. }
            | RequestError::IdempotencyUnknown { .. }
            | RequestError::IdempotencyTooFarAhead { .. }
            | RequestError::IdempotencyReused { .. }
            | RequestError::LimitExceeded { .. }
            | RequestError::TooLarge { .. }
            | RequestError::Empty
            | RequestError::TenantUnknown(_)
            | RequestError::TenantExists(_)
            | RequestError::NotPermitted { .. }
            | RequestError::KeyMissing(_) => false,
        }
    }
}

impl RequestError {
    /// A stable code for programs: SQLSTATE where PostgreSQL has one, `VY…` else.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            RequestError::Sql(error) => error.code.code(),
            RequestError::WrongExpectedVersion { .. } => "VY002",
            RequestError::StreamNameInvalid { .. } => "42602",
            RequestError::IdempotencyExpired { .. } => "VY010",
            RequestError::IdempotencyUnknown { .. } => "VY011",
            RequestError::IdempotencyTooFarAhead { .. } => "VY012",
            RequestError::IdempotencyReused { .. } => "VY013",
            RequestError::AfterUnknown { .. } => "VY014",
            RequestError::LimitExceeded { .. } | RequestError::TooLarge { .. } => "54000",
            RequestError::GridFull { .. } => "53100",
            RequestError::Empty => "42601",
            RequestError::TenantUnknown(_) => "3D000",
            RequestError::TenantExists(_) => "42P04",
            RequestError::NotPermitted { .. } => "42501",
            RequestError::KeyMissing(_) => "VY020",
            RequestError::Retry(RetryReason::SchemaChanged) => "40001",
            RequestError::Retry(RetryReason::QueueFull | RetryReason::CheckpointBehind) => "53000",
            RequestError::Retry(RetryReason::DiskFull) => "53100",
            RequestError::Retry(RetryReason::NotReady) => "57P03",
            RequestError::Retry(RetryReason::NotPrimary) => "25006",
            RequestError::Retry(RetryReason::Interrupted) => "40003",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::TransactionEvents => "transaction_events_max",
            Limit::TransactionPagesRead => "transaction_pages_read_max",
            Limit::TransactionPagesDirtied => "transaction_pages_dirtied_max",
            Limit::TransactionBytes => "transaction_bytes_max",
            Limit::Tenants => "tenants_max",
            Limit::Tables => "tables_max",
            Limit::Operations => "operations_max",
            Limit::Jobs => "jobs_max",
        })
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Sql(error) => write!(f, "{error}"),
            RequestError::WrongExpectedVersion { stream, expected, actual } => write!(
                f,
                "stream \"{stream}\" is at version {actual}, expected {expected}; read it, decide \
                 again, and append with the version you saw"
            ),
            RequestError::StreamNameInvalid { size, max } => {
                write!(f, "a stream name has 1 to {max} bytes, this one has {size}")
            }
            RequestError::IdempotencyExpired { id, now_ms } => write!(
                f,
                "idempotency id {id} expired at {} ms, now is {now_ms} ms; it was never applied: \
                 send the request with a new id",
                id.not_after_ms()
            ),
            RequestError::IdempotencyUnknown { id, now_ms } => write!(
                f,
                "idempotency id {id} expired at {} ms, now is {now_ms} ms; its outcome may have \
                 been forgotten: read the data before you send it again under a new id",
                id.not_after_ms()
            ),
            RequestError::IdempotencyTooFarAhead { id, now_ms, max_ahead_ms } => write!(
                f,
                "idempotency id {id} is valid until {} ms, more than {max_ahead_ms} ms after now \
                 ({now_ms} ms); draw one that expires sooner",
                id.not_after_ms()
            ),
            RequestError::IdempotencyReused { id } => {
                write!(f, "idempotency id {id} was used for another request; draw a new id")
            }
            RequestError::AfterUnknown { after } => write!(
                f,
                "no outcome is remembered for {after}, which this request must follow; send that \
                 one first"
            ),
            RequestError::LimitExceeded { limit: Limit::TransactionPagesRead, value, max } => {
                write!(
                    f,
                    "the statement scans {value} pages or more, transaction_pages_read_max is \
                     {max}; narrow WHERE to a range of the primary key"
                )
            }
            RequestError::LimitExceeded { limit, value, max } => write!(
                f,
                "the transaction needs {value}, {limit} is {max}; split it into smaller ones"
            ),
            RequestError::GridFull { pages, free } => write!(
                f,
                "the grid is full: {pages} pages needed, {free} free; delete data or use a larger \
                 grid"
            ),
            RequestError::TooLarge { size, max } => {
                write!(f, "the request has {size} bytes, at most {max} fit; split it")
            }
            RequestError::Empty => f.write_str("the request asks for nothing"),
            RequestError::TenantUnknown(tenant) => {
                write!(f, "tenant {tenant} does not exist; `verity tenant create` makes one")
            }
            RequestError::TenantExists(tenant) => write!(f, "tenant {tenant} exists already"),
            RequestError::NotPermitted { tenant } => {
                write!(f, "this operation is not for tenant {tenant}")
            }
            RequestError::KeyMissing(tenant) => write!(
                f,
                "the keys file has no key of tenant {tenant}; restore it from where keys are kept"
            ),
            RequestError::Retry(RetryReason::SchemaChanged) => {
                f.write_str("the schema changed while the request was on its way; send it again")
            }
            RequestError::Retry(RetryReason::QueueFull) => {
                f.write_str("too many requests wait; send it again a little later")
            }
            RequestError::Retry(RetryReason::CheckpointBehind) => {
                f.write_str("a checkpoint must write changes first; send it again a little later")
            }
            RequestError::Retry(RetryReason::DiskFull) => f.write_str(
                "the disk is nearly full: nothing more is written until there is room; what was \
                 acknowledged is safe. Free space on the file system of the data directory",
            ),
            RequestError::Retry(RetryReason::NotPrimary) => {
                f.write_str("this replica does not lead; send it to the one that does")
            }
            RequestError::Retry(RetryReason::Interrupted) => f.write_str(
                "the replica lost its lead while the request was on its way: send it again with \
                 the same id, which is answered as the first time if it was done",
            ),
            RequestError::Retry(RetryReason::NotReady) => {
                f.write_str("the node is still opening; send it again a little later")
            }
        }
    }
}

impl core::error::Error for RequestError {}
