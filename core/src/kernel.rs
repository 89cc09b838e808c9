//! The kernel: committed request → records → new state.
//!
//! Purpose: tenants, transactions, idempotency, streams; it turns what consensus committed into
//! records of tenants' logs and those into trees, and gives replies.
//!
//! Invariants: state is a function of records alone, records are a function of committed prepares
//! alone. A request is one transaction: all of its records, or none. No clock but the prepare's
//! timestamp, no randomness but what the prepare carries.
//!
//! Fault model: prepares are checked by their checksums below this, and seals here; a page that is
//! not in memory suspends an apply, never changes it. Start reading at `request` (what callers see),
//! then `docs/KERNEL.md` (formats).

pub mod batch;
mod outcome;
mod recovery;
mod request;

pub use batch::{BatchError, RequestHeader, SealedRequest, pack};
pub use outcome::{Commitment, Outcome};
pub use recovery::{RecoveryEvidence, RecoveryReason, RecoveryRecord};
pub use request::{
    ExpectedVersion, Limit, Operation, OperationResult, Reply, Request, RequestError, ResultDetail,
    RetryReason,
};
