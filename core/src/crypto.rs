//! Hashes by purpose, RFC 6962 trees, sealing, the key hierarchy, commitments, signatures.
//!
//! Purpose: every cryptographic rule of the system, each behind a type that cannot be used for
//! another purpose. `docs/CRYPTO.md` lists every key and nonce; `docs/PROOFS.md` every hash that a
//! proof depends on.
//!
//! Invariants: nothing here does I/O or draws randomness; nonces and secret keys come in as
//! arguments. Sealing is deterministic. [`hash::ChainHash`] (SHA-256) and [`hash::InternalHash`]
//! (BLAKE3) never convert into each other.
//!
//! Fault model: ciphertexts, tags, proofs, wrapped keys and signatures come from disks and
//! strangers: a wrong one is a typed error, never a panic.
//!
//! Start reading at `hash`, then `keys`.

pub mod commitment;
pub mod hash;
pub mod keys;
pub mod merkle;
pub mod note;
pub mod seal;
pub mod signature;
pub mod tree;

pub use commitment::{LeafSaltKey, RowCommitment, RowSeed, SaltKey};
pub use hash::{ChainHash, ChainHasher, InternalDomain, InternalHash, InternalHasher};
pub use keys::{DataKey, Kek, KekHash, MasterKey, RequestKeys, TenantKeys};
pub use merkle::Frontier;
pub use seal::{PageKey, RecordKey, RequestKey, Tag};
