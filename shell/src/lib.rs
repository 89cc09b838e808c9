//! Verity, embedded: the database in your process.
//!
//! ```
//! # fn main() -> Result<(), verity::Error> {
//! # let dir = std::env::temp_dir().join(format!("verity-doc-{}", std::process::id()));
//! use verity::{Value, Verity};
//!
//! let database = Verity::open(&dir)?; // formats the directory when it is new
//! database.execute("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT)", &[])?;
//! let insert = database.prepare("INSERT INTO people (id, name) VALUES (?, ?)")?;
//! let reply = insert.execute(&[Value::Integer(1), Value::text("Ada")])?;
//! let before = reply.position.expect("an insert has a position");
//! database.execute("UPDATE people SET name = 'Ada Lovelace' WHERE id = 1", &[])?;
//!
//! let now = database.query("SELECT name FROM people WHERE id = ?", &[Value::Integer(1)])?;
//! assert_eq!(now.rows, vec![vec![Value::text("Ada Lovelace")]]);
//! let then = format!("SELECT name FROM people AS OF POSITION {before} WHERE id = 1");
//! assert_eq!(database.query(&then, &[])?.rows, vec![vec![Value::text("Ada")]]);
//! database.close()?;
//! # std::fs::remove_dir_all(&dir).ok();
//! # std::fs::remove_file(verity::master_key_beside(&dir)).ok();
//! # Ok(())
//! # }
//! ```
//!
//! Start reading at [`Verity`]; `driver` says which thread does the work, `disk` how files are
//! written.
//!
//! Architecture Invariant: everything that touches the operating system is in this crate, and
//! unsafe code only in `disk/ring.rs`. Architecture Invariant: this crate knows no rule of the
//! database; it carries out the core's effects.

#![deny(unsafe_code)]

mod client;
mod database;
mod disk;
mod driver;
mod error;
pub mod export;
mod format;
pub mod hardware;
mod net;
mod offline;
mod options;
pub mod proof;
mod random;
mod reads;
pub mod rebuild;
mod server;
mod statement;
mod stream;
pub mod verified;
pub mod verify;
pub mod witness;

pub use client::{Client, ClientOptions, replica_report};
pub use database::{Outcome, Rows, Verity};
pub use disk::IoBackend;
pub use disk::master_key::{
    MasterKey, MasterKeyProblem, MasterKeySource, beside as master_key_beside,
};
pub use disk::paths;
pub use error::Error;
pub use format::regain::regain as regain_secret;
pub use format::secret::{ClusterSecret, limits_by_name};
pub use format::{Formatted, Identity, is_formatted};
pub use net::payload::{LinkReport, ReplicaReport};
pub use options::Options;
pub use server::{Server, ServerOptions};
pub use statement::Statement;
pub use stream::{RowStream, StreamOutcome};

pub use verity_core::ids::{ClusterId, IdempotencyId, Op, Position, ReplicaId, TenantId};
pub use verity_core::kernel::{
    Commitment, ExpectedVersion, Operation, OperationResult, Reply, Request, RequestError,
    ResultDetail, Results, RetryReason,
};
pub use verity_core::limits::ClusterConstants;
pub use verity_core::node::Status;
pub use verity_core::query::script::split as split_statements;
pub use verity_core::query::{ColumnType, SqlError, SqlState, TableSchema, Value};
