//! The fake outside of Verity: seeded disk, clocks, clients, faults, checkers.
//!
//! Purpose: one number decides everything about a run of the real core in a hostile world; the same
//! number gives the same trace. Start reading at [`run`], then [`world`] (what moves), [`disk`]
//! (what the world does to data), [`atlas`] (where it may), [`ledger`] and [`model`] (what must
//! hold).

#![forbid(unsafe_code)]

pub mod atlas;
pub mod canary;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod keys;
pub mod ledger;
pub mod model;
pub mod random;
pub mod rebuild;
pub mod replica;
pub mod report;
pub mod run;
pub mod solo;
pub mod sql;
pub mod swarm;
pub mod trace;
pub mod workload;
pub mod world;
pub mod zoo_checks;

#[cfg(verity_zoo)]
pub use verity_core::zoo;

/// Every mark the core can leave; a campaign prints those it did not see.
#[must_use]
pub fn event_names() -> &'static [&'static str] {
    verity_core::event::Event::NAMES
}
