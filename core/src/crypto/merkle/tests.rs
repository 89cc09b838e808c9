//! Tests of RFC 6962 trees and proofs.

use alloc::vec::Vec;
use core::convert::Infallible;

use super::*;

/// The definition of RFC 6962, 2.1, word by word: slow, and independent of the rest.
fn reference_root(leaves: &[ChainHash]) -> ChainHash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            node_hash(&reference_root(&leaves[..split]), &reference_root(&leaves[split..]))
        }
    }
}

fn leaves(count: u64) -> Vec<ChainHash> {
    (0..count).map(|at| leaf_hash(&at.to_le_bytes())).collect()
}

fn nodes(leaves: &[ChainHash]) -> impl Fn(u8, u64) -> Result<ChainHash, Infallible> {
    move |level, index| {
        let begin = (index << level) as usize;
        let end = begin + (1 << level);
        assert!(end <= leaves.len(), "only complete nodes are asked for");
        Ok(reference_root(&leaves[begin..end]))
    }
}

/// Subtrees of any height where they may begin, single leaves between them.
#[test]
fn subtrees_are_appended_as_their_leaves_are() {
    let leaves = leaves(200);
    for height in 0..6 {
        let width = 1 << height;
        for first in (0..leaves.len() - width).step_by(width) {
            let (mut one_by_one, mut at_once) = (Frontier::new(), Frontier::new());
            for leaf in &leaves[..first] {
                one_by_one.push_leaf_hash(*leaf);
                at_once.push_leaf_hash(*leaf);
            }
            at_once.push_subtree(height, root_of(&leaves[first..first + width]));
            for leaf in &leaves[first..first + width] {
                one_by_one.push_leaf_hash(*leaf);
            }
            assert_eq!(at_once, one_by_one);
            for leaf in &leaves[first + width..] {
                at_once.push_leaf_hash(*leaf);
            }
            assert_eq!(at_once.root(), reference_root(&leaves), "height {height} at {first}");
        }
    }
}

#[test]
fn frontier_equals_the_definition() {
    let leaves = leaves(130);
    let mut frontier = Frontier::new();
    for size in 0..=leaves.len() {
        assert_eq!(frontier.size(), size as u64);
        assert_eq!(frontier.root(), reference_root(&leaves[..size]), "size {size}");
        assert_eq!(root_of(&leaves[..size]), frontier.root());
        let Ok(range) = range_root(0, size as u64, nodes(&leaves));
        assert_eq!(range, frontier.root());
        let mut bytes = Vec::new();
        frontier.encode(&mut bytes);
        assert_eq!(bytes.len(), frontier.encoded_size());
        bytes.extend_from_slice(b"after");
        let (decoded, rest) = Frontier::decode(&bytes).unwrap();
        assert_eq!(decoded, frontier);
        assert_eq!(rest, b"after");
        for cut in 0..bytes.len() - 5 {
            assert!(Frontier::decode(&bytes[..cut]).is_err());
        }
        if size < leaves.len() {
            let mut told = Vec::new();
            frontier.push_leaf_hash_with(leaves[size], |level, index, hash| {
                told.push((level, index, *hash));
            });
            for (level, index, hash) in told {
                let Ok(expected) = nodes(&leaves)(level, index);
                assert_eq!(hash, expected);
            }
        }
    }
}

#[test]
fn push_takes_the_record_hash_as_leaf_data() {
    let record = ChainHash::of(&[b"record"]);
    let mut frontier = Frontier::new();
    frontier.push(&record);
    assert_eq!(frontier.root(), ChainHash::of(&[&[0], &record.0]));
}

#[test]
fn proofs_made_are_proofs_accepted_and_nothing_else_is() {
    let leaves = leaves(40);
    for size in 1..=leaves.len() as u64 {
        let root = reference_root(&leaves[..size as usize]);
        for index in 0..size {
            let leaf = &leaves[index as usize];
            let Ok(proof) = inclusion_proof(index, size, nodes(&leaves[..size as usize]));
            assert_eq!(verify_inclusion(leaf, index, size, &proof, &root), Ok(()));
            assert!(verify_inclusion(leaf, index + 1, size, &proof, &root).is_err());
            assert!(verify_inclusion(leaf, index, size, &proof, leaf).is_err() || size == 1);
            check_tampering(&proof, |bad| verify_inclusion(leaf, index, size, bad, &root));
        }
        for older in 1..=size {
            let older_root = reference_root(&leaves[..older as usize]);
            let Ok(proof) = consistency_proof(older, size, nodes(&leaves[..size as usize]));
            let verify =
                |proof: &[ChainHash]| verify_consistency(older, size, &older_root, &root, proof);
            assert_eq!(verify(&proof), Ok(()), "{older} to {size}");
            check_tampering(&proof, verify);
        }
    }
}

/// Every proof that differs in one hash, or by one hash more or fewer, is refused.
fn check_tampering(proof: &[ChainHash], verify: impl Fn(&[ChainHash]) -> Result<(), ProofError>) {
    for at in 0..proof.len() {
        let mut bad = proof.to_vec();
        bad[at].0[at % 32] ^= 1;
        assert!(verify(&bad).is_err());
        bad = proof.to_vec();
        bad.remove(at);
        assert!(verify(&bad).is_err());
    }
    let mut bad = proof.to_vec();
    bad.push(ChainHash::ZERO);
    assert!(verify(&bad).is_err());
    bad.rotate_right(1);
    assert!(verify(&bad).is_err());
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let root = ChainHash::of(&[b"root"]);
    assert!(verify_inclusion(&root, 0, 0, &[], &root).is_err());
    assert!(verify_inclusion(&root, u64::MAX, u64::MAX, &[], &root).is_err());
    assert!(verify_consistency(0, 0, &root, &root, &[]).is_err(), "no root of an empty tree");
    assert_eq!(verify_consistency(0, 0, &empty_root(), &empty_root(), &[]), Ok(()));
    assert!(verify_consistency(2, 1, &root, &root, &[]).is_err());
    assert!(verify_consistency(0, 1, &root, &root, &[]).is_err());
    assert!(verify_consistency(u64::MAX - 1, u64::MAX, &root, &root, &[]).is_err());
    assert!(verify_subtree_consistency(1, 3, 8, &root, &root, &[]).is_err());
    assert!(verify_subtree_consistency(3, 1, 8, &root, &root, &[]).is_err());
    assert!(verify_subtree_inclusion(&root, 1, 2, 4, &[], &root).is_err());
}

#[test]
fn subtrees_of_a_tree_are_proved_by_its_nodes() {
    let leaves = leaves(21);
    let size = leaves.len() as u64;
    let root = reference_root(&leaves);
    for (start, end) in [(0, 8), (8, 16), (8, 13), (16, 21), (16, 20), (4, 6), (20, 21), (0, 21)] {
        let subtree = reference_root(&leaves[start as usize..end as usize]);
        let proof = subtree_proof(start, end, &leaves);
        let verify = |proof: &[ChainHash]| {
            verify_subtree_consistency(start, end, size, &subtree, &root, proof)
        };
        assert_eq!(verify(&proof), Ok(()), "{start} to {end}");
        check_tampering(&proof, verify);
    }
}

/// The draft's definition, kept in the test: the product makes no such proofs.
fn subtree_proof(start: u64, end: u64, leaves: &[ChainHash]) -> Vec<ChainHash> {
    fn walk(start: u64, end: u64, leaves: &[ChainHash], known: bool) -> Vec<ChainHash> {
        let size = leaves.len() as u64;
        if start == 0 && end == size {
            return if known { Vec::new() } else { [reference_root(leaves)].to_vec() };
        }
        let middle = size.next_power_of_two() / 2;
        let (left, right) = leaves.split_at(middle as usize);
        let mut proof;
        if end <= middle {
            proof = walk(start, end, left, known);
            proof.push(reference_root(right));
        } else if middle <= start {
            proof = walk(start - middle, end - middle, right, known);
            proof.push(reference_root(left));
        } else {
            assert_eq!(start, 0);
            proof = walk(0, end - middle, right, false);
            proof.push(reference_root(left));
        }
        proof
    }
    walk(start, end, leaves, true)
}
