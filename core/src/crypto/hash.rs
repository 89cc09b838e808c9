//! Two hashes, by purpose, that do not mix.
//!
//! [`ChainHash`] is SHA-256, for all that leaves the system: record chains, Merkle trees of proofs,
//! commitments. [`InternalHash`] is BLAKE3, for what never does: prepare and superblock checksums,
//! fingerprints, digests that only this software compares.
//!
//! Invariants: there is no conversion between the two. Every internal hash names its domain, so the
//! same bytes hashed for two purposes differ.
//!
//! What compiles, and beside it what must not, with the same imports: a test that expects an error
//! passes for any.
//!
//! ```
//! use verity_core::crypto::hash::{ChainHash, InternalDomain, InternalHash};
//! let internal = InternalHash::of(InternalDomain::Trace, &[b"x"]);
//! let chain: ChainHash = ChainHash::of(&[b"x"]);
//! let same: InternalHash = internal;
//! assert!(chain == ChainHash::of(&[b"x"]));
//! assert!(same == InternalHash::of(InternalDomain::Trace, &[b"x"]));
//! ```
//!
//! ```compile_fail
//! use verity_core::crypto::hash::{ChainHash, InternalDomain, InternalHash};
//! let internal = InternalHash::of(InternalDomain::Trace, &[b"x"]);
//! let chain: ChainHash = internal; // a BLAKE3 hash is no link of a chain
//! ```
//!
//! ```compile_fail
//! use verity_core::crypto::hash::{ChainHash, InternalDomain, InternalHash};
//! let same = ChainHash::of(&[b"x"]) == InternalHash::of(InternalDomain::Trace, &[b"x"]);
//! ```
//!
//! ```
//! use verity_core::crypto::hash::{ChainHash, InternalDomain, InternalHash};
//! use verity_core::crypto::merkle::Frontier;
//! let _other = InternalHash::of(InternalDomain::Trace, &[b"x"]);
//! Frontier::new().push(&ChainHash::of(&[b"x"]));
//! ```
//!
//! ```compile_fail
//! use verity_core::crypto::hash::{InternalDomain, InternalHash};
//! use verity_core::crypto::merkle::Frontier;
//! Frontier::new().push(&InternalHash::of(InternalDomain::Trace, &[b"x"]));
//! ```

use core::fmt;

use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HASH_SIZE: usize = 32;

/// SHA-256, for everything that leaves the system. `ZERO` is what the first record of a log names
/// as its predecessor.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct ChainHash(pub [u8; HASH_SIZE]);

/// BLAKE3, for what never leaves the system.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct InternalHash(pub [u8; HASH_SIZE]);

macro_rules! common {
    ($($name:ident),*) => { $(
        impl $name {
            pub const ZERO: $name = $name([0; HASH_SIZE]);
        }

        /// The first eight bytes: enough to tell two apart in a trace.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..)")
            }
        }

        /// All 64 hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    )* };
}

common!(ChainHash, InternalHash);

impl ChainHash {
    /// Hash of the concatenation of `parts`.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> ChainHash {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length <= SHORT_MAX {
            return short(parts, length);
        }
        long(parts, length)
    }
}

/// What fits two blocks of SHA-256 beside the padding: a byte 0x80 and the length in bits.
const SHORT_MAX: usize = 2 * SHA_BLOCK - 9;
const SHA_BLOCK: usize = 64;

/// SHA-256's initial state (FIPS 180-4, 5.3.3).
const SHA_INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The same hash without a streaming buffer: most of what we hash is a column, a leaf or an inner
/// node, of which the buffer would cost as much as the hash. Only padding is done here.
fn short(parts: &[&[u8]], length: usize) -> ChainHash {
    let mut blocks = [[0; SHA_BLOCK]; 2];
    let bytes = blocks.as_flattened_mut();
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, length, "the parts are as long as they were");
    bytes[length] = 0x80;
    let count = if length <= SHA_BLOCK - 9 { 1 } else { 2 };
    let end = count * SHA_BLOCK;
    bytes[end - 8..end].copy_from_slice(&(8 * length as u64).to_be_bytes());
    let mut state = SHA_INITIAL;
    sha2::block_api::compress256(&mut state, &blocks[..count]);
    of_state(&state)
}

/// Blocks that are gathered before they are compressed.
const LONG_BLOCKS: usize = 8;

/// Without a streaming buffer too: what is longer than [`LONG_BLOCKS`] is compressed where it lies.
fn long(parts: &[&[u8]], length: usize) -> ChainHash {
    // One more for the padding.
    let mut blocks = [[0; SHA_BLOCK]; LONG_BLOCKS + 1];
    let mut state = SHA_INITIAL;
    let mut at = 0;
    for part in parts {
        let mut part = *part;
        while !part.is_empty() {
            let (whole, rest) = part.as_chunks::<SHA_BLOCK>();
            if at == 0 && whole.len() > LONG_BLOCKS {
                sha2::block_api::compress256(&mut state, whole);
                part = rest;
                continue;
            }
            let (now, later) = part.split_at(part.len().min(LONG_BLOCKS * SHA_BLOCK - at));
            blocks.as_flattened_mut()[at..at + now.len()].copy_from_slice(now);
            (at, part) = (at + now.len(), later);
            if at == LONG_BLOCKS * SHA_BLOCK {
                sha2::block_api::compress256(&mut state, &blocks[..LONG_BLOCKS]);
                at = 0;
            }
        }
    }
    let count = (at + 9).div_ceil(SHA_BLOCK);
    let (bytes, end) = (blocks.as_flattened_mut(), count * SHA_BLOCK);
    bytes[at] = 0x80;
    bytes[at + 1..end - 8].fill(0);
    bytes[end - 8..end].copy_from_slice(&(8 * length as u64).to_be_bytes());
    sha2::block_api::compress256(&mut state, &blocks[..count]);
    of_state(&state)
}

fn of_state(state: &[u32; 8]) -> ChainHash {
    let mut hash = ChainHash::ZERO;
    for (bytes, word) in hash.0.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}

/// SHA-256 in pieces.
#[derive(Clone)]
pub struct ChainHasher(Sha256);

impl ChainHasher {
    #[must_use]
    pub fn new() -> ChainHasher {
        ChainHasher(Sha256::new())
    }

    pub fn update(&mut self, bytes: &[u8]) -> &mut ChainHasher {
        self.0.update(bytes);
        self
    }

    #[must_use]
    pub fn finish(self) -> ChainHash {
        ChainHash(self.0.finalize().into())
    }
}

impl Default for ChainHasher {
    fn default() -> ChainHasher {
        ChainHasher::new()
    }
}

impl fmt::Debug for ChainHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainHasher(..)")
    }
}

/// What an internal hash is for. Each is BLAKE3 keyed with its own public 32-byte label, which
/// costs nothing and separates the domains as well as a secret key would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InternalDomain {
    PrepareHeader,
    PrepareBody,
    Superblock,
    KeysFile,
    /// Digest over the ordered (tree, key, value) of a state, to compare rebuilt with live.
    StateDigest,
    /// Hash of a simulated run.
    Trace,
    /// Checksum of a file that can be rebuilt, such as a segment's index.
    Index,
    /// Identity of something compared for equality only: an import file, a request.
    Fingerprint,
    /// Header, and body, of a message between replicas.
    ReplicaHeader,
    ReplicaBody,
}

impl InternalDomain {
    const fn label(self) -> &'static [u8; 32] {
        match self {
            InternalDomain::PrepareHeader => b"verity v1 internal prepareheader",
            InternalDomain::PrepareBody => b"verity v1 internal prepare  body",
            InternalDomain::Superblock => b"verity v1 internal    superblock",
            InternalDomain::KeysFile => b"verity v1 internal    keys  file",
            InternalDomain::StateDigest => b"verity v1 internal  state digest",
            InternalDomain::Trace => b"verity v1 internal         trace",
            InternalDomain::Index => b"verity v1 internal         index",
            InternalDomain::Fingerprint => b"verity v1 internal   fingerprint",
            InternalDomain::ReplicaHeader => b"verity v1 internal replicaheader",
            InternalDomain::ReplicaBody => b"verity v1 internal replica  body",
        }
    }
}

impl InternalHash {
    /// Hash of the concatenation of `parts`.
    #[must_use]
    pub fn of(domain: InternalDomain, parts: &[&[u8]]) -> InternalHash {
        if let [part] = parts {
            return InternalHash(*blake3::keyed_hash(domain.label(), part).as_bytes());
        }
        let mut hasher = InternalHasher::new(domain);
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }
}

/// BLAKE3 in pieces.
#[derive(Clone)]
pub struct InternalHasher(blake3::Hasher);

impl InternalHasher {
    #[must_use]
    pub fn new(domain: InternalDomain) -> InternalHasher {
        InternalHasher(blake3::Hasher::new_keyed(domain.label()))
    }

    pub fn update(&mut self, bytes: &[u8]) -> &mut InternalHasher {
        self.0.update(bytes);
        self
    }

    #[must_use]
    pub fn finish(&self) -> InternalHash {
        InternalHash(*self.0.finalize().as_bytes())
    }
}

impl fmt::Debug for InternalHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalHasher(..)")
    }
}

/// A secret key for hashes that a reader of the disk must not be able to guess at: idempotency
/// fingerprints of a tenant's requests.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    #[must_use]
    pub fn new(key: [u8; 32]) -> FingerprintKey {
        FingerprintKey(key)
    }

    /// Keyed hash of the concatenation of `parts`.
    #[must_use]
    pub fn of(&self, parts: &[&[u8]]) -> InternalHash {
        if let [part] = parts {
            return InternalHash(*blake3::keyed_hash(&self.0, part).as_bytes());
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        InternalHash(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const DOMAINS: [InternalDomain; 8] = [
        InternalDomain::PrepareHeader,
        InternalDomain::PrepareBody,
        InternalDomain::Superblock,
        InternalDomain::KeysFile,
        InternalDomain::StateDigest,
        InternalDomain::Trace,
        InternalDomain::Index,
        InternalDomain::Fingerprint,
    ];

    #[test]
    fn domains_differ() {
        for (at, left) in DOMAINS.iter().enumerate() {
            for right in &DOMAINS[at + 1..] {
                assert_ne!(InternalHash::of(*left, &[b"x"]), InternalHash::of(*right, &[b"x"]));
            }
        }
    }

    /// Around every edge of the padding and of the buffers, cut into parts in several ways.
    #[test]
    fn whatever_the_way_the_hash_is_the_same() {
        let bytes: alloc::vec::Vec<u8> = (0..1_400).map(|at| at as u8 ^ 0x5a).collect();
        for length in 0..=bytes.len() {
            let bytes = &bytes[..length];
            let mut hasher = ChainHasher::new();
            hasher.update(bytes);
            let expected = hasher.finish();
            assert_eq!(ChainHash::of(&[bytes]), expected, "length {length}");
            for at in [length / 3, length.min(32), length.saturating_sub(1)] {
                let (left, right) = bytes.split_at(at);
                assert_eq!(ChainHash::of(&[left, b"", right]), expected, "length {length}");
            }
        }
    }

    #[test]
    fn pieces_equal_the_whole() {
        let whole = ChainHash::of(&[b"hello world"]);
        assert_eq!(whole, ChainHash::of(&[b"hello", b"", b" world"]));
        assert_eq!(
            format!("{whole}"),
            "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
        );
        assert_eq!(format!("{whole:?}"), "ChainHash(b94d27b9934d3e08..)");
        let domain = InternalDomain::Trace;
        let whole = InternalHash::of(domain, &[b"hello world"]);
        assert_eq!(whole, InternalHash::of(domain, &[b"hello", b" world"]));
        let key = FingerprintKey::new([7; 32]);
        assert_eq!(key.of(&[b"hello world"]), key.of(&[b"hello", b" world"]));
        assert_ne!(key.of(&[b"x"]), FingerprintKey::new([8; 32]).of(&[b"x"]));
    }
}
