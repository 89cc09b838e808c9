//! The Verity library: the embedded database over `verity-core`.
//!
//! Architecture Invariant: everything that touches the operating system is in this crate, and
//! unsafe code only in `disk/ring.rs`.

#![deny(unsafe_code)]

pub mod disk;

pub use disk::{Disk, DiskError, IoBackend};
