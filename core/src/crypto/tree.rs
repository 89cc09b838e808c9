//! Hashes of trees' entries and pages: the rules of `docs/PROOFS.md`, "Hashes of trees".
//!
//! ```text
//! leaf entry    = SHA-256(0x00 ‖ salt [16] ‖ tree u32 ‖ key ‖ value digest [32])
//! inner entry   = SHA-256(0x06 ‖ child hash [32] ‖ entries below the child u64)
//! node (a page) = SHA-256(0x07 ‖ level u8 ‖ entries in the page u16 ‖ R)
//! row digest    = SHA-256(0x08 ‖ commitment [32] ‖ begun_at u64 ‖ record hash [32])
//! value digest  = SHA-256(0x09 ‖ value salt [16] ‖ value)
//! tree digest   = SHA-256(0x0a ‖ shape version u16 ‖ height u8 ‖ entries u64 ‖ hash of the tree)
//! ```
//!
//! Invariant: the store, which makes them, and `proof`, which checks them, use only what is here.

use crate::crypto::commitment::Salt;
use crate::crypto::hash::ChainHash;
use crate::crypto::merkle;
use crate::ids::{Position, TreeId};

const ENTRY_DOMAIN: u8 = 0x00;
const INNER_DOMAIN: u8 = 0x06;
const NODE_DOMAIN: u8 = 0x07;
const ROW_DOMAIN: u8 = 0x08;
const VALUE_DOMAIN: u8 = 0x09;
const TREE_DOMAIN: u8 = 0x0a;

#[must_use]
pub fn entry_hash(salt: &Salt, tree: TreeId, key: &[u8], digest: &ChainHash) -> ChainHash {
    ChainHash::of(&[&[ENTRY_DOMAIN], &salt.0, &tree.get().to_le_bytes(), key, &digest.0])
}

#[must_use]
pub fn inner_hash(child: &ChainHash, count: u64) -> ChainHash {
    ChainHash::of(&[&[INNER_DOMAIN], &child.0, &count.to_le_bytes()])
}

/// `root`: of the RFC 6962 tree whose leaf hashes are the page's entry hashes.
#[must_use]
pub fn node_hash(level: u8, entries: u16, root: &ChainHash) -> ChainHash {
    ChainHash::of(&[&[NODE_DOMAIN, level], &entries.to_le_bytes(), &root.0])
}

#[must_use]
pub fn row_digest(commitment: &ChainHash, begun_at: Position, record: &ChainHash) -> ChainHash {
    let begun_at = begun_at.get().to_le_bytes();
    ChainHash::of(&[&[ROW_DOMAIN], &commitment.0, &begun_at, &record.0])
}

#[must_use]
pub fn value_digest(salt: &Salt, value: &[u8]) -> ChainHash {
    ChainHash::of(&[&[VALUE_DOMAIN], &salt.0, value])
}

#[must_use]
pub fn tree_digest(shape: u16, height: u8, entries: u64, hash: &ChainHash) -> ChainHash {
    let (shape, entries) = (shape.to_le_bytes(), entries.to_le_bytes());
    ChainHash::of(&[&[TREE_DOMAIN], &shape, &[height], &entries, &hash.0])
}

/// Of a tree without entries.
#[must_use]
pub fn empty_tree() -> ChainHash {
    node_hash(0, 0, &merkle::empty_root())
}
