//! The Verity database as a deterministic state machine: messages and a virtual clock in, effects
//! out.
//!
//! Start reading at `io` (the boundary), then `node` (what ties the rest), then the module you
//! need. `docs/ARCHITECTURE.md` has the map and the arrows that the tidy test holds.
//!
//! Architecture Invariant: no I/O, no clock, no threads, no unsafe, no randomness but the seed.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod crypto;
pub mod event;
pub mod ids;
pub mod io;
pub mod journal;
pub mod kernel;
pub mod keyring;
pub mod limits;
pub mod log;
pub mod node;
pub mod proof;
pub mod query;
pub mod stdx;
pub mod store;
pub mod superblock;
#[cfg(test)]
mod tests;
pub mod time;
pub mod vsr;
pub mod wire;
#[cfg(verity_zoo)]
pub mod zoo;
