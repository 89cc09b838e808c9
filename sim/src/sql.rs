//! The simulator's own SQL: values, schemas, predicates and statements it can render as text.
//!
//! Purpose: what clients ask is built here as data, so that the model can answer it without the
//! core's parser, binder or evaluator. Invariants: rendering loses nothing; every construct has one
//! meaning, written in [`predicate`] from the SQL standard's three-valued logic.

mod datum;
mod predicate;
mod statement;

pub use datum::{Datum, DatumType};
pub use predicate::{Compare, Predicate};
pub use statement::{
    Assignment, ColumnSpec, Conflict, Expected, IndexSpec, Parameters, Query, Select, SetTo,
    Statement, TableSpec,
};
