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
pub mod histories;
pub mod keys;
pub mod ledger;
pub mod model;
pub mod overrides;
mod proofs;
pub mod random;
pub mod rebuild;
pub mod replica;
pub mod report;
pub mod run;
pub mod solo;
pub mod sql;
pub mod swarm;
pub mod timeline;
pub mod trace;
pub mod workload;
pub mod world;
pub mod zoo_checks;

#[cfg(verity_zoo)]
pub use verity_core::zoo;

/// Raised when the same seed and overrides mean another run for a reason that no plan shows, such
/// as a new stream of draws.
const WORLD: u32 = 3;

/// Changes when a seed means another run: what it draws, or what can be switched off. Failures that
/// were written down under another one cannot be replayed.
#[must_use]
pub fn world_hash_hex() -> String {
    let mut hasher = blake3::Hasher::new_derive_key("verity sim world");
    hasher.update(&WORLD.to_le_bytes());
    for seed in 0..8 {
        let plan = swarm::Plan::draw(seed, &swarm::Options::default());
        hasher.update(format!("{plan:?}").as_bytes());
    }
    for switch in overrides::Switch::ALL {
        hasher.update(switch.name().as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Every mark the core can leave; a campaign prints those it did not see.
#[must_use]
pub fn event_names() -> &'static [&'static str] {
    verity_core::event::Event::NAMES
}
