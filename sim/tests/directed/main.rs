//! Rare conjunctions, on purpose: one node, one disk, one thing broken at a time.
//!
//! Where seeds would need luck, these enumerate: a crash after every completion, an error at every
//! read, write and sync, every zone torn or lost. Invariants: what was acknowledged is there, what
//! was not is there once or not at all, and whatever cannot be served is told by a typed error.
//! Start reading at [`rig`].

mod crashes;
mod damage;
mod errors;
mod rig;
mod ring;
