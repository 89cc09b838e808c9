//! SQL: values, schema, parse, bind, lower, plan, evaluate, execute.
//!
//! Start reading at `value`, then `schema`, `expr`, `command`. Writes go SQL → [`Prepared`] →
//! [`Command`] (what a prepare carries) → row changes; reads go SQL → [`Prepared`] → `ReadTask`,
//! executed in bounded slices at a position. `docs/SQL.md` is the language.
//!
//! Invariants: nothing here knows consensus or a tenant other than the one it is given; the result
//! of a statement is a function of committed state, parameters and context, never of what a cache
//! holds; what is not supported is refused with a typed error, never ignored.
//!
//! Fault model: SQL text and encoded commands may be anything; both are bounded before recursion.

pub mod access;
pub mod aggregate;
pub mod bind;
mod bind_call;
pub mod bind_index;
pub mod bind_returning;
pub mod bind_select;
pub mod bind_table;
pub mod bind_types;
pub mod bind_write;
pub use crate::stdx::cbor;
pub mod codec;
pub mod codec_command;
mod codec_expr;
mod codec_schema;
pub mod coerce;
pub mod command;
pub mod datetime;
pub mod decimal;
pub mod error;
pub mod eval;
pub mod explain;
pub mod expr;
pub mod functions;
pub mod index;
pub mod job;
pub mod json;
pub mod key;
pub mod like;
pub mod parse;
pub mod past;
pub mod plan;
pub mod point;
pub mod prepared;
pub mod read;
pub mod rows;
pub mod schema;
pub mod script;
mod sink;
pub mod source;
pub mod stored;
pub mod texts;
pub mod value;
pub mod versions;
pub mod virtual_tables;

pub use command::{
    Assignment, Command, ConflictTarget, CreateIndex, Delete, Insert, InsertRows, OnConflict,
    Update,
};
pub use decimal::Decimal;
pub use error::{SqlError, SqlState};
pub use expr::Expr;
pub use index::Index;
pub use point::{PointScratch, read_point};
pub use prepared::{AsOf, Prepared, Statement, prepare, prepare_one};
pub use read::{EventRead, ReadProgress, ReadTask, ReadWorld, Stop};
pub use schema::{Catalog, CatalogKey, Check, Column, HIDDEN_KEY_COLUMN, TableSchema};
pub use source::RowSource;
pub use value::{ColumnType, TypeTag, Value};
pub use virtual_tables::EventRow;

#[cfg(test)]
mod tests;
