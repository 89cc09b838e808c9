//! Real processes, real files: what no simulator sees. One binary; each module a theme.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

mod cli;
mod cluster;
mod crash;
mod damage;
mod derived;
mod embedded;
mod full_disk;
mod import;
mod interactive;
mod journal;
mod keys;
mod memory;
mod proofs;
mod readme;
mod rebuild;
mod run;
mod signals;
mod streaming;
mod surface;
mod synthea;
mod verified;

/// That of the command: what is measured of memory here must be true there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
