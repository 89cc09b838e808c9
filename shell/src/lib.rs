//! Verity, embedded: the database in your process.
//!
//!
//! Start reading at [`Verity`]; `driver` says which thread does the work, `disk` how files are
//! written.
//!
//! Architecture Invariant: everything that touches the operating system is in this crate, and unsafe
//! code only in `disk/ring.rs`. Architecture Invariant: this crate knows no rule of the database; it
//! carries out the core's effects.

#![deny(unsafe_code)]

mod disk;
mod error;
mod format;
pub mod hardware;
mod offline;
mod options;
pub mod verify;

pub use disk::IoBackend;
pub use disk::master_key::{MasterKey, MasterKeySource, beside as master_key_beside};
pub use disk::paths;
pub use error::Error;
pub use format::Formatted;
pub use options::Options;

pub use verity_core::ids::{IdempotencyId, Op, Position, TenantId};
pub use verity_core::kernel::{
    Commitment, ExpectedVersion, Operation, OperationResult, Reply, Request, RequestError,
    ResultDetail, RetryReason,
};
pub use verity_core::limits::ClusterConstants;
pub use verity_core::node::Status;
pub use verity_core::query::{ColumnType, SqlError, SqlState, TableSchema, Value};
