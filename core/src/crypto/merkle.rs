//! RFC 6962 (and 9162) Merkle trees: SHA-256, leaves prefixed 0x00, inner nodes 0x01.
//!
//! Purpose: the tree over a tenant's log. [`Frontier`] holds what an append needs; `proof` makes
//! and checks inclusion and consistency proofs.
//!
//! Invariants: nothing bespoke: any RFC 6962 verifier accepts our roots and proofs. A frontier of
//! `size` leaves holds one node per set bit of `size`.
//!
//! Fault model: an encoded frontier or a proof may be anything; both are refused with a reason.

use alloc::vec::Vec;
use core::fmt;

use crate::crypto::hash::{ChainHash, HASH_SIZE};

pub mod proof;

pub use proof::{
    ProofError, consistency_proof, inclusion_proof, range_root, verify_consistency,
    verify_inclusion, verify_subtree_consistency, verify_subtree_inclusion,
};

/// Levels of a tree of 2^64 leaves.
pub const LEVELS_MAX: usize = 64;

/// Root of the tree with no leaves: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> ChainHash {
    ChainHash::of(&[])
}

/// Hash of a leaf whose data is any bytes.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> ChainHash {
    ChainHash::of(&[&[0x00], data])
}

/// Hash of an inner node.
#[must_use]
pub fn node_hash(left: &ChainHash, right: &ChainHash) -> ChainHash {
    let mut bytes = [0; 1 + 2 * HASH_SIZE];
    bytes[0] = 0x01;
    bytes[1..=HASH_SIZE].copy_from_slice(&left.0);
    bytes[1 + HASH_SIZE..].copy_from_slice(&right.0);
    ChainHash::of(&[&bytes])
}

/// Root over leaf hashes that are all at hand. Level by level, where no hash waits for the one made
/// just before it: a processor works at several of them at once.
#[must_use]
pub fn root_of(leaf_hashes: &[ChainHash]) -> ChainHash {
    let count = leaf_hashes.len();
    if count == 0 {
        return empty_root();
    }
    if count > LEVEL_MAX {
        // Where RFC 6962 splits; the depth is the logarithm of the count.
        let left = 1 << (count - 1).ilog2();
        return node_hash(&root_of(&leaf_hashes[..left]), &root_of(&leaf_hashes[left..]));
    }
    let mut level = [ChainHash::ZERO; LEVEL_MAX];
    level[..count].copy_from_slice(leaf_hashes);
    let mut count = count;
    while count > 1 {
        for pair in 0..count / 2 {
            level[pair] = node_hash(&level[2 * pair], &level[2 * pair + 1]);
        }
        // Who has no neighbour on the right is its own parent.
        if count % 2 == 1 {
            level[count / 2] = level[count - 1];
        }
        count = count.div_ceil(2);
    }
    level[0]
}

/// Hashes of one level that are kept beside each other.
const LEVEL_MAX: usize = 64;

/// The right edge of a growing tree (a "compact range"): all that appending and the root need.
#[derive(Clone)]
pub struct Frontier {
    size: u64,
    /// `nodes[level]` is a node of the frontier if bit `level` of `size` is set, else meaningless.
    nodes: [ChainHash; LEVELS_MAX],
}

impl Frontier {
    #[must_use]
    pub fn new() -> Frontier {
        Frontier { size: 0, nodes: [ChainHash::ZERO; LEVELS_MAX] }
    }

    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf whose *data* is the 32 bytes of a record's hash.
    pub fn push(&mut self, record: &ChainHash) {
        self.push_leaf_hash(leaf_hash(&record.0));
    }

    pub fn push_leaf_hash(&mut self, leaf: ChainHash) {
        self.push_leaf_hash_with(leaf, |_, _, _| {});
    }

    /// As [`Frontier::push_leaf_hash`], telling of every node that is now complete: its level (0 =
    /// leaves), its index within the level, its hash. That is what tiles are made of.
    pub fn push_leaf_hash_with(
        &mut self,
        leaf: ChainHash,
        mut complete: impl FnMut(u8, u64, &ChainHash),
    ) {
        assert!(self.size < u64::MAX, "a log never holds 2^64 records");
        let mut node = leaf;
        let mut level = 0;
        complete(0, self.size, &node);
        while self.size >> level & 1 == 1 {
            node = node_hash(&self.nodes[level], &node);
            level += 1;
            complete(level as u8, self.size >> level, &node);
        }
        self.nodes[level] = node;
        self.size += 1;
    }

    /// Appends the 2^height leaves of a subtree with this root. Only where such a one begins.
    pub fn push_subtree(&mut self, height: u32, root: ChainHash) {
        let width = 1_u64 << height;
        assert!(self.size.is_multiple_of(width), "a subtree begins at a multiple of its width");
        assert!(self.size < u64::MAX - width, "a log never holds 2^64 records");
        let mut node = root;
        let mut level = height as usize;
        while self.size >> level & 1 == 1 {
            node = node_hash(&self.nodes[level], &node);
            level += 1;
        }
        self.nodes[level] = node;
        self.size += width;
    }

    #[must_use]
    pub fn root(&self) -> ChainHash {
        if self.size == 0 {
            return empty_root();
        }
        let mut level = self.size.trailing_zeros() as usize;
        let mut root = self.nodes[level];
        level += 1;
        while level < LEVELS_MAX {
            if self.size >> level & 1 == 1 {
                root = node_hash(&self.nodes[level], &root);
            }
            level += 1;
        }
        root
    }

    /// The nodes, from the largest subtree (leftmost) to the smallest.
    pub fn nodes(&self) -> impl Iterator<Item = &ChainHash> {
        (0..LEVELS_MAX).rev().filter(|level| self.size >> level & 1 == 1).map(|at| &self.nodes[at])
    }

    #[must_use]
    pub fn encoded_size(&self) -> usize {
        8 + HASH_SIZE * self.size.count_ones() as usize
    }

    /// `size u64`, little endian, then one node per set bit of `size`, largest subtree first.
    pub fn encode(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.size.to_le_bytes());
        for node in self.nodes() {
            output.extend_from_slice(&node.0);
        }
    }

    /// Reads what [`Frontier::encode`] wrote from the start of `bytes`; gives what follows it.
    pub fn decode(bytes: &[u8]) -> Result<(Frontier, &[u8]), FrontierError> {
        let Some((size, mut rest)) = bytes.split_first_chunk::<8>() else {
            return Err(FrontierError::Truncated { have: bytes.len(), want: 8 });
        };
        let mut frontier = Frontier::new();
        frontier.size = u64::from_le_bytes(*size);
        for level in (0..LEVELS_MAX).rev().filter(|level| frontier.size >> level & 1 == 1) {
            let Some((node, after)) = rest.split_first_chunk::<HASH_SIZE>() else {
                let want = frontier.encoded_size();
                return Err(FrontierError::Truncated { have: bytes.len(), want });
            };
            frontier.nodes[level] = ChainHash(*node);
            rest = after;
        }
        Ok((frontier, rest))
    }
}

impl Default for Frontier {
    fn default() -> Frontier {
        Frontier::new()
    }
}

impl PartialEq for Frontier {
    fn eq(&self, other: &Frontier) -> bool {
        self.size == other.size && self.nodes().eq(other.nodes())
    }
}

impl Eq for Frontier {}

impl fmt::Debug for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frontier {{ size: {}, root: {:?} }}", self.size, self.root())
    }
}

/// Why bytes are no frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontierError {
    Truncated { have: usize, want: usize },
}

impl fmt::Display for FrontierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrontierError::Truncated { have, want } => {
                write!(f, "a tree's frontier needs {want} bytes, there are {have}")
            }
        }
    }
}

impl core::error::Error for FrontierError {}

#[cfg(test)]
mod tests;
