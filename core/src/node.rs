//! The node: what ties journal, consensus, log, store and kernel into one database.
//!
//! Start reading at `docs/NODE.md` (phases, order of a turn, invariants).
pub mod api;
pub mod format;
mod halt;
mod opening;
pub use api::{CURRENT_RELEASE, Config, Halt, Progress, Seed, Status, Ticket};
pub use format::{Format, FormatOptions};
