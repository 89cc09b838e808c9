//! The rules of the cluster protocol, small enough that every state of them can be visited.
//!
//! Purpose: `docs/VSR.md` says by which rules views change and logs are recovered (rules 1 to 9, 16
//! and 18). The simulation runs the code of these rules and tries some of what may happen; here the
//! rules alone are tried with *all* that may happen to three replicas, within bounds: every order
//! of messages, each of them lost, late or doubled, crashes between any two writes, rot, older
//! disks and lost ones.
//!
//! Start reading at [`World`]; what one replica does is in [`replica`], how a new primary chooses
//! its log in [`choose`]. [`Rules`] can break one rule at a time: tests show that each of them is
//! needed, which shows that the model sees it broken.
//!
//! What is left out: voting for a view (any replica may go to the next one at any time, which is
//! more than the protocol allows), checkpoints and state sync, prepares that are written
//! concurrently, clocks. A body is fetched in one step from whoever has it: it is named by its
//! checksum, so it is the same whenever it comes.

#![forbid(unsafe_code)]

pub mod choose;
pub mod replica;
pub mod rules;
pub mod world;

pub use rules::{Bounds, Rules};
pub use world::World;

/// Replicas, and how many of them may be lost.
pub const REPLICAS: usize = 3;
pub const F: usize = 1;
/// Most ops of a log.
pub const OPS: usize = 3;
