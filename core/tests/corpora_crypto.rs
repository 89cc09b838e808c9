//! Other people's vectors against our cryptography.
//!
//! Purpose: RFC 6962 trees and proofs, Ed25519's edge cases, SHA-256, BLAKE3, AES-256-GCM-SIV and
//! HKDF agree with everybody else's.
//!
//! Through our own functions: trees, proofs, Ed25519, SHA-256; AES-256-GCM-SIV as requests are
//! sealed, which is the one place that takes any nonce and additional data; BLAKE3's keyed hash as
//! fingerprints use it. HKDF and BLAKE3's other modes are not reachable from outside: what is
//! tested for those is the library that we pin.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../tests/corpora.rs"]
mod corpora;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use corpora::corpus;
use serde_json::Value;
use verity_core::crypto::hash::{ChainHash, ChainHasher, FingerprintKey};
use verity_core::crypto::merkle::{
    Frontier, ProofError, empty_root, leaf_hash, range_root, root_of, verify_consistency,
    verify_inclusion, verify_subtree_consistency, verify_subtree_inclusion,
};
use verity_core::crypto::seal::{RequestKey, Tag};
use verity_core::crypto::signature::{Signature, VerifyingKey};

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn hex_of(value: &Value, name: &str) -> Vec<u8> {
    unhex(value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")))
}

fn base64(text: &str) -> Vec<u8> {
    let mut output = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes().filter(|character| *character != b'=') {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("{other} is no base64"),
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            output.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    output
}

/// Probes that do not care write a text where a hash belongs; its own hash stands in for it.
fn chain_hash(bytes: &[u8]) -> Option<ChainHash> {
    if bytes.starts_with(b"don't care") {
        return Some(ChainHash::of(&[bytes]));
    }
    bytes.try_into().ok().map(ChainHash)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
}

#[test]
fn reference_tree() {
    let Some(path) = corpus("merkle/rfc6962_reference_tree.json") else { return };
    let tree = json(&path);
    let strings = |value: &Value| -> Vec<Vec<u8>> {
        value.as_array().unwrap().iter().map(|hex| unhex(hex.as_str().unwrap())).collect()
    };
    let leaves: Vec<ChainHash> =
        strings(&tree["leaf_inputs_hex"]).iter().map(|data| leaf_hash(data)).collect();
    let roots = strings(&tree["root_hash_by_size_hex"]);
    assert_eq!((leaves.len(), roots.len()), (8, 9));
    let mut frontier = Frontier::new();
    let mut complete = BTreeMap::new();
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(frontier.root().0[..], root[..], "size {size}");
        assert_eq!(root_of(&leaves[..size]).0[..], root[..], "size {size}");
        if let Some(leaf) = leaves.get(size) {
            frontier.push_leaf_hash_with(*leaf, |level, index, hash| {
                complete.insert((level, index), *hash);
            });
        }
    }
    let node = |level, index| complete.get(&(level, index)).copied().ok_or((level, index));
    let levels = tree["node_hashes_by_level_hex"].as_array().unwrap();
    let mut checked = 0;
    for (level, nodes) in levels.iter().enumerate() {
        for (index, hash) in strings(nodes).iter().enumerate() {
            // A level's last node may cover fewer leaves than the others.
            let (begin, end) = (index << level, (index + 1) << level);
            let root = range_root(begin as u64, end.min(leaves.len()) as u64, node);
            assert_eq!(root.unwrap().0[..], hash[..], "level {level}, node {index}");
            checked += 1;
        }
    }
    assert_eq!(checked, 15);
}

/// One probe's fields; `None` where hashes are no hashes, which no typed caller can even ask.
struct Probe<'a> {
    value: &'a Value,
    proof: Vec<ChainHash>,
}

impl Probe<'_> {
    fn new(value: &Value) -> Option<Probe<'_>> {
        let hashes = value["proof"].as_array().map(Vec::as_slice).unwrap_or_default();
        let proof = hashes.iter().map(|hash| chain_hash(&base64(hash.as_str()?)));
        Some(Probe { value, proof: proof.collect::<Option<_>>()? })
    }

    fn hash(&self, name: &str) -> Option<ChainHash> {
        chain_hash(&base64(self.value[name].as_str().unwrap_or_default()))
    }

    fn number(&self, name: &str) -> u64 {
        self.value[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.value))
    }
}

/// Runs every probe of a folder; counts those that must hold and those that must not.
fn probes(
    folder: &str,
    check: impl Fn(&Probe<'_>) -> Option<Result<(), ProofError>>,
) -> Option<(usize, usize)> {
    let folder = corpus("merkle/transparency-dev-merkle/testdata")?.join(folder);
    let mut files = Vec::new();
    files_below(&folder, &mut files);
    let (mut held, mut refused) = (0, 0);
    for file in files {
        let value = json(&file);
        let wanted = !value["wantErr"].as_bool().unwrap();
        // A hash of another length than 32 is refused when it is parsed.
        let result = Probe::new(&value).and_then(|probe| check(&probe));
        let holds = result.is_some_and(|result| result.is_ok());
        assert_eq!(holds, wanted, "{}: {result:?}", file.display());
        if holds { held += 1 } else { refused += 1 }
    }
    Some((held, refused))
}

#[test]
fn inclusion_probes() {
    let counts = probes("inclusion", |probe| {
        let (leaf, root) = (probe.hash("leafHash")?, probe.hash("root")?);
        let (index, size) = (probe.number("leafIdx"), probe.number("treeSize"));
        Some(verify_inclusion(&leaf, index, size, &probe.proof, &root))
    });
    assert!(counts.is_none_or(|counts| counts == (6, 92)), "{counts:?}");
}

#[test]
fn consistency_probes() {
    let counts = probes("consistency", |probe| {
        let (older, newer) = (probe.number("size1"), probe.number("size2"));
        let (older_root, newer_root) = (probe.hash("root1")?, probe.hash("root2")?);
        Some(verify_consistency(older, newer, &older_root, &newer_root, &probe.proof))
    });
    assert!(counts.is_none_or(|counts| counts == (6, 92)), "{counts:?}");
}

#[test]
fn subtree_inclusion_probes() {
    let counts = probes("subtreeinclusion", |probe| {
        let (leaf, root) = (probe.hash("leafHash")?, probe.hash("root")?);
        let index = probe.number("leafIdx");
        let (start, end) = (probe.number("start"), probe.number("end"));
        Some(verify_subtree_inclusion(&leaf, index, start, end, &probe.proof, &root))
    });
    assert!(counts.is_none_or(|counts| counts == (12, 192)), "{counts:?}");
}

#[test]
fn subtree_consistency_probes() {
    let counts = probes("subtreeconsistency", |probe| {
        let (start, end, size) = (probe.number("start"), probe.number("end"), probe.number("size"));
        let (subtree, root) = (probe.hash("root1")?, probe.hash("root2")?);
        Some(verify_subtree_consistency(start, end, size, &subtree, &root, &probe.proof))
    });
    assert!(counts.is_none_or(|counts| counts == (12, 106)), "{counts:?}");
}

/// Rules that the probes only touch: what is the same for every proof of these sizes.
#[test]
fn empty_trees_and_equal_sizes() {
    let root = leaf_hash(b"x");
    assert_eq!(verify_consistency(1, 1, &root, &root, &[]), Ok(()));
    assert_eq!(verify_consistency(0, 0, &empty_root(), &empty_root(), &[]), Ok(()));
    assert!(verify_consistency(0, 1, &empty_root(), &root, &[]).is_err());
    assert!(verify_consistency(1, 1, &root, &root, &[root]).is_err());
    assert!(verify_inclusion(&root, 0, 0, &[], &empty_root()).is_err());
}

fn verifies(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (key.try_into(), signature.try_into()) else { return false };
    let Ok(key) = VerifyingKey::new(key) else { return false };
    key.verify(message, &Signature(signature)).is_ok()
}

fn tests_of(file: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    file["testGroups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["tests"].as_array().unwrap().iter().map(move |test| (group, test)))
}

#[test]
fn ed25519_wycheproof() {
    let Some(path) = corpus("crypto/wycheproof/ed25519_test.json") else { return };
    let file = json(&path);
    let (mut valid, mut invalid) = (0, 0);
    for (group, test) in tests_of(&file) {
        let key = hex_of(&group["publicKey"], "pk");
        let holds = verifies(&key, &hex_of(test, "msg"), &hex_of(test, "sig"));
        assert_eq!(holds, test["result"] == "valid", "{test}");
        if holds { valid += 1 } else { invalid += 1 }
    }
    assert_eq!((valid, invalid), (88, 63));
}

/// The rule we chose, by edge case: points of small order are refused as A and as R, and so is what
/// holds only times the cofactor. A small-order *component* does not matter if the equation holds.
#[test]
fn ed25519_edge_cases_pin_the_rule() {
    let Some(path) = corpus("crypto/cctv-ed25519/ed25519vectors.json") else { return };
    let file = json(&path);
    let mut passing: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let vectors = file.as_array().unwrap();
    for vector in vectors {
        let flags = vector["flags"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut flags: Vec<String> =
            flags.iter().map(|flag| flag.as_str().unwrap().to_string()).collect();
        let refused = ["low_order_A", "low_order_R", "low_order_residue"];
        let wanted = !flags.iter().any(|flag| refused.contains(&flag.as_str()));
        let message = vector["msg"].as_str().unwrap().as_bytes();
        let holds = verifies(&hex_of(vector, "key"), message, &hex_of(vector, "sig"));
        assert_eq!(holds, wanted, "{vector}");
        if holds {
            flags.sort();
            *passing.entry(flags).or_default() += 1;
        }
    }
    let both = vec!["low_order_component_A".to_string(), "low_order_component_R".to_string()];
    let expected = [(vec![], 1), (vec![both[0].clone()], 7), (both, 35)];
    assert_eq!(passing, BTreeMap::from(expected));
    assert_eq!(vectors.len(), 914);
}

/// As requests are sealed: the one key type that takes any nonce and any additional data.
#[test]
fn aes_256_gcm_siv_wycheproof() {
    let Some(path) = corpus("crypto/wycheproof/aes_gcm_siv_test.json") else { return };
    let file = json(&path);
    let (mut valid, mut invalid) = (0, 0);
    for (_, test) in tests_of(&file).filter(|(group, _)| group["keySize"] == 256) {
        let key = RequestKey::new(&hex_of(test, "key").try_into().unwrap());
        let nonce: [u8; 12] = hex_of(test, "iv").try_into().unwrap();
        let (metadata, plain) = (hex_of(test, "aad"), hex_of(test, "msg"));
        let sealed = hex_of(test, "ct");
        let tag = Tag(hex_of(test, "tag").try_into().unwrap());
        let mut data = sealed.clone();
        let opened = key.open(nonce, &metadata, &mut data, &tag);
        assert_eq!(opened.is_ok(), test["result"] == "valid", "{test}");
        if opened.is_err() {
            assert_eq!(data, sealed, "nothing unauthenticated is left: {test}");
            invalid += 1;
            continue;
        }
        assert_eq!(data, plain, "{test}");
        assert_eq!(key.seal(nonce, &metadata, &mut data), tag, "{test}");
        assert_eq!(data, sealed, "{test}");
        valid += 1;
    }
    assert_eq!((valid, invalid), (69, 34));
}

/// Of the library: our derivations take no salt or info from outside.
#[test]
fn hkdf_sha_256_wycheproof() {
    let Some(path) = corpus("crypto/wycheproof/hkdf_sha256_test.json") else { return };
    let file = json(&path);
    let (mut valid, mut invalid) = (0, 0);
    for (_, test) in tests_of(&file) {
        let (salt, key) = (hex_of(test, "salt"), hex_of(test, "ikm"));
        let mut output = vec![0; test["size"].as_u64().unwrap() as usize];
        let hkdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), &key);
        let expanded = hkdf.expand(&hex_of(test, "info"), &mut output);
        assert_eq!(expanded.is_ok(), test["result"] == "valid", "{test}");
        if expanded.is_ok() {
            assert_eq!(output, hex_of(test, "okm"), "{test}");
            valid += 1;
        } else {
            invalid += 1;
        }
    }
    assert_eq!((valid, invalid), (83, 3));
}

/// `name = value` of a CAVS response file, in order.
fn cavs(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let pairs = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let pairs = pairs.filter_map(|line| line.split_once(" = "));
    pairs.map(|(name, value)| (name.to_string(), value.trim().to_string())).collect()
}

#[test]
fn sha_256_cavs_messages() {
    for (name, count) in [("SHA256ShortMsg.rsp", 65), ("SHA256LongMsg.rsp", 64)] {
        let Some(path) = corpus("crypto/sha") else { return };
        let pairs = cavs(&path.join(name));
        assert_eq!(pairs.len(), 3 * count, "{name}");
        for case in pairs.chunks(3) {
            let names = [&case[0].0, &case[1].0, &case[2].0];
            assert_eq!(names, ["Len", "Msg", "MD"]);
            let length: usize = case[0].1.parse().unwrap();
            let message = unhex(&case[1].1);
            let message = &message[..length / 8];
            let digest = unhex(&case[2].1);
            assert_eq!(ChainHash::of(&[message]).0[..], digest[..], "{name}, {length} bits");
            let (left, right) = message.split_at(message.len() / 3);
            let mut hasher = ChainHasher::new();
            hasher.update(left).update(right);
            assert_eq!(hasher.finish().0[..], digest[..], "{name}, {length} bits");
        }
    }
}

#[test]
fn sha_256_cavs_monte_carlo() {
    let Some(path) = corpus("crypto/sha/SHA256Monte.rsp") else { return };
    let pairs = cavs(&path);
    assert_eq!((pairs[0].0.as_str(), pairs.len()), ("Seed", 201));
    let mut seed = chain_hash(&unhex(&pairs[0].1)).unwrap();
    for case in pairs[1..].chunks(2) {
        let mut last = [seed; 3];
        for _ in 0..1000 {
            let next = ChainHash::of(&[&last[0].0, &last[1].0, &last[2].0]);
            last = [last[1], last[2], next];
        }
        seed = last[2];
        assert_eq!(seed.0[..], unhex(&case[1].1)[..], "count {}", case[0].1);
    }
}

#[test]
fn blake3_vectors() {
    let Some(path) = corpus("crypto/blake3/test_vectors.json") else { return };
    let file = json(&path);
    let key: [u8; 32] = file["key"].as_str().unwrap().as_bytes().try_into().unwrap();
    let context = file["context_string"].as_str().unwrap();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        let length = case["input_len"].as_u64().unwrap() as usize;
        let input: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let keyed = hex_of(case, "keyed_hash");
        // Ours, whole and in parts.
        let fingerprint = FingerprintKey::new(key);
        let (left, right) = input.split_at(length / 3);
        assert_eq!(fingerprint.of(&[&input]).0[..], keyed[..32], "{length} bytes");
        assert_eq!(fingerprint.of(&[left, right]).0[..], keyed[..32], "{length} bytes");
        // The library's extended output, which salts are made of, and its other modes.
        let modes = [
            (blake3::Hasher::new(), "hash"),
            (blake3::Hasher::new_keyed(&key), "keyed_hash"),
            (blake3::Hasher::new_derive_key(context), "derive_key"),
        ];
        for (mut hasher, name) in modes {
            let expected = hex_of(case, name);
            let mut output = vec![0; expected.len()];
            hasher.update(&input).finalize_xof().fill(&mut output);
            assert_eq!(output, expected, "{name} of {length} bytes");
        }
    }
    assert_eq!(cases.len(), 35);
}
