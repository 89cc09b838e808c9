//! The fake outside of Verity: seeded disk, clocks, clients, faults, checkers.
//!
//! Purpose: one number decides everything about a run of the real core in a hostile world; the same
//! number gives the same trace. Start reading at [`disk`] (what the world does to data) and
//! [`atlas`] (where it may).

#![forbid(unsafe_code)]

pub mod atlas;
pub mod canary;
pub mod clock;
pub mod disk;
pub mod keys;
pub mod ledger;
pub mod model;
pub mod random;
pub mod sql;
pub mod trace;
pub mod workload;
