//! Making and checking proofs of RFC 6962 trees.
//!
//! Purpose: inclusion and consistency proofs (RFC 9162, 2.1.3 and 2.1.4), and the same for
//! subtrees (`draft-ietf-plants-merkle-tree-certs`, "subtrees"), of which the former are the case
//! that begins at leaf 0.
//!
//! Invariants: the makers ask only for nodes that are complete in the tree of the size given, so
//! stored nodes never change. Checkers use constant memory and at most 64 steps.
//!
//! Fault model: proofs come from strangers. A checker trusts only the roots it is given.

use alloc::vec::Vec;
use core::fmt;

use crate::crypto::hash::ChainHash;
use crate::crypto::merkle::{LEVELS_MAX, empty_root, node_hash};

/// Why a proof shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// The leaf asked about is not in a tree of this size.
    IndexBeyondSize { index: u64, size: u64 },
    /// The older size is larger than the newer.
    SizesSwapped { older: u64, newer: u64 },
    /// Nothing is consistent with nothing: an older tree without leaves proves no history.
    OlderTreeEmpty,
    /// `[start, end)` is no subtree: `start` is no multiple of its width rounded up to a power of
    /// 2.
    NotASubtree { start: u64, end: u64 },
    /// More or fewer hashes than a proof of these sizes has.
    WrongLength { length: usize },
    /// The hashes do not lead to the root given.
    RootMismatch,
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProofError::IndexBeyondSize { index, size } => {
                write!(f, "leaf {index} is not in a tree of {size} leaves")
            }
            ProofError::SizesSwapped { older, newer } => {
                write!(f, "the older tree ({older} leaves) is larger than the newer ({newer})")
            }
            ProofError::OlderTreeEmpty => f.write_str("the older tree has no leaves"),
            ProofError::NotASubtree { start, end } => {
                write!(f, "leaves {start} to {end} are no subtree")
            }
            ProofError::WrongLength { length } => {
                write!(f, "a proof of these sizes does not have {length} hashes")
            }
            ProofError::RootMismatch => f.write_str("the proof does not lead to the root"),
        }
    }
}

impl core::error::Error for ProofError {}

/// Checks that `leaf` (a leaf hash) is leaf `index` of the tree of `size` leaves with `root`.
pub fn verify_inclusion(
    leaf: &ChainHash,
    index: u64,
    size: u64,
    proof: &[ChainHash],
    root: &ChainHash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let wrong_length = ProofError::WrongLength { length: proof.len() };
    let mut node = index;
    let mut last = size - 1;
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // Levels at which the right edge has no sibling are skipped: their node is its own
            // parent.
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(wrong_length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Checks that the tree of `newer` leaves with `newer_root` begins with the `older` leaves that
/// have `older_root`. Equal sizes take an empty proof: only the roots are compared, and those of
/// two empty trees must be the empty root.
pub fn verify_consistency(
    older: u64,
    newer: u64,
    older_root: &ChainHash,
    newer_root: &ChainHash,
    proof: &[ChainHash],
) -> Result<(), ProofError> {
    if older > newer {
        return Err(ProofError::SizesSwapped { older, newer });
    }
    if older == 0 && newer > 0 {
        return Err(ProofError::OlderTreeEmpty);
    }
    if older == newer {
        if !proof.is_empty() {
            return Err(ProofError::WrongLength { length: proof.len() });
        }
        // There is one empty tree, and it has one root.
        let known = older > 0 || *older_root == empty_root();
        let same = known && older_root == newer_root;
        return if same { Ok(()) } else { Err(ProofError::RootMismatch) };
    }
    verify_subtree_consistency(0, older, newer, older_root, newer_root, proof)
}

/// Checks that `leaf` is leaf `index` of the tree, within the subtree `[start, end)` with `root`.
pub fn verify_subtree_inclusion(
    leaf: &ChainHash,
    index: u64,
    start: u64,
    end: u64,
    proof: &[ChainHash],
    root: &ChainHash,
) -> Result<(), ProofError> {
    check_subtree(start, end)?;
    let Some(offset) = index.checked_sub(start) else {
        return Err(ProofError::IndexBeyondSize { index, size: end });
    };
    verify_inclusion(leaf, offset, end - start, proof, root)
}

/// Checks that leaves `[start, end)` of the tree of `size` leaves with `root` have `subtree_root`.
/// The empty subtree has the empty root, in whatever tree.
pub fn verify_subtree_consistency(
    start: u64,
    end: u64,
    size: u64,
    subtree_root: &ChainHash,
    root: &ChainHash,
    proof: &[ChainHash],
) -> Result<(), ProofError> {
    check_subtree(start, end)?;
    if end > size {
        return Err(ProofError::SizesSwapped { older: end, newer: size });
    }
    let wrong_length = ProofError::WrongLength { length: proof.len() };
    if start == end {
        if !proof.is_empty() {
            return Err(wrong_length);
        }
        let valid = *subtree_root == empty_root();
        return if valid { Ok(()) } else { Err(ProofError::RootMismatch) };
    }
    // `first` and `last` bound the subtree's nodes at the current level, `edge` the tree's.
    let (mut first, mut last, mut edge) = (start, end - 1, size - 1);
    let to_edge = last == edge;
    while first != last && (to_edge || last & 1 == 1) {
        first >>= 1;
        last >>= 1;
        edge >>= 1;
    }
    let (mut subtree, mut tree, rest) = if first == last {
        (*subtree_root, *subtree_root, proof)
    } else {
        let Some((node, rest)) = proof.split_first() else { return Err(wrong_length) };
        (*node, *node, rest)
    };
    for sibling in rest {
        if edge == 0 {
            return Err(wrong_length);
        }
        if last & 1 == 1 || last == edge {
            if first < last {
                subtree = node_hash(sibling, &subtree);
            }
            tree = node_hash(sibling, &tree);
            while last & 1 == 0 && last != 0 {
                first >>= 1;
                last >>= 1;
                edge >>= 1;
            }
        } else {
            tree = node_hash(&tree, sibling);
        }
        first >>= 1;
        last >>= 1;
        edge >>= 1;
    }
    if edge != 0 {
        return Err(wrong_length);
    }
    if subtree == *subtree_root && tree == *root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Hashes that show leaf `index` to be in the tree of `size` leaves, from the leaf up. `node(level,
/// index)` gives the hash of a complete node; its error passes through.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u8, u64) -> Result<ChainHash, E>,
) -> Result<Vec<ChainHash>, E> {
    assert!(index < size, "a proof is asked for a leaf that exists");
    let mut proof = Vec::with_capacity(LEVELS_MAX);
    let (mut begin, mut end) = (0, size);
    while end - begin > 1 {
        let middle = split(begin, end);
        if index < middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, &mut node)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Hashes that show the tree of `older` leaves to begin the tree of `newer`. `node` as in
/// [`inclusion_proof`].
pub fn consistency_proof<E>(
    older: u64,
    newer: u64,
    mut node: impl FnMut(u8, u64) -> Result<ChainHash, E>,
) -> Result<Vec<ChainHash>, E> {
    assert!(0 < older && older <= newer, "a proof is asked for sizes in order");
    let mut proof = Vec::with_capacity(LEVELS_MAX + 1);
    let (mut begin, mut end) = (0, newer);
    while end != older {
        let middle = split(begin, end);
        if older <= middle {
            proof.push(range_root(middle, end, &mut node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, &mut node)?);
            begin = middle;
        }
    }
    // The older root itself is known to who checks; anything smaller must be told.
    if begin != 0 {
        proof.push(range_root(begin, end, &mut node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Root of leaves `[begin, end)` as the RFC splits them; `begin` must be a multiple of the width
/// rounded up to a power of two. Asks for at most 64 complete nodes.
pub fn range_root<E>(
    begin: u64,
    end: u64,
    mut node: impl FnMut(u8, u64) -> Result<ChainHash, E>,
) -> Result<ChainHash, E> {
    assert!(check_subtree(begin, end).is_ok(), "a range is a subtree");
    if begin == end {
        return Ok(empty_root());
    }
    // One complete node per set bit of the width, largest first; joined from the right.
    let width = end - begin;
    let mut right: Option<ChainHash> = None;
    let mut edge = end;
    for level in 0..LEVELS_MAX as u32 {
        if width >> level & 1 == 1 {
            edge -= 1 << level;
            let left = node(level as u8, edge >> level)?;
            right = Some(match right {
                Some(right) => node_hash(&left, &right),
                None => left,
            });
        }
    }
    assert_eq!(edge, begin, "the bits of a number sum up to it");
    let Some(root) = right else { unreachable!("a width above zero has a bit set") };
    Ok(root)
}

/// Where the RFC splits a range: at the largest power of two below its width.
fn split(begin: u64, end: u64) -> u64 {
    let width = end - begin;
    assert!(width > 1, "a leaf is not split");
    begin + (1 << (width - 1).ilog2())
}

fn check_subtree(start: u64, end: u64) -> Result<(), ProofError> {
    let error = ProofError::NotASubtree { start, end };
    let Some(width) = end.checked_sub(start) else { return Err(error) };
    let Some(aligned) = width.checked_next_power_of_two() else {
        return if start == 0 { Ok(()) } else { Err(error) };
    };
    if start.is_multiple_of(aligned) { Ok(()) } else { Err(error) }
}
