//! The journal: the ring of prepares that consensus writes ahead.

mod prepare;

pub use prepare::{Operation, Prepare, PrepareBuffer, PrepareError, PrepareHeader};
