//! Tests that look at the whole crate from above.

mod fuzz;
pub(crate) mod golden;
