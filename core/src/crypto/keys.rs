//! The key hierarchy: master key → KEK per tenant → data keys → subkeys by purpose.
//!
//! Purpose: derive, from one data key, every key that a tenant's bytes are sealed, salted or
//! fingerprinted with. Subkeys are HKDF-SHA-256 (RFC 5869) with
//! `info = label ‖ origin u128 ‖ tenant u64 ‖ key id u32 ‖ generation u64`, little endian; the part
//! after the label has a fixed size, so no two infos are equal by accident.
//!
//! Invariants: secrets are wiped when dropped and never printed. Keys are minted once, from random
//! bytes that the caller hands in; nothing here draws any.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::commitment::{LeafSaltKey, SaltKey};
use crate::crypto::hash::FingerprintKey;
use crate::crypto::seal::{self, NONCE_SIZE, PageKey, RecordKey, RequestKey, SealError};
use crate::crypto::signature::SigningKey;
use crate::ids::{Generation, GridId, KeyId, OriginId, TenantId};
use crate::io::{SecretKey, WrappedKey};

/// HKDF's salt: public, fixed, names the system and the version of these rules.
const EXTRACT_SALT: &[u8] = b"verity v1 key hierarchy";

/// The root of all keys; held by the shell, never by the core, never on disk beside the data.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

/// Why some bytes are no master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterKeyError {
    /// Neither 32 raw bytes nor 64 hexadecimal digits (with at most one line end).
    Length { length_bytes: usize },
    /// 64 characters, but the one at `offset` is no hexadecimal digit.
    NotHexadecimal { offset: usize },
    /// All bytes zero: an empty or wiped file, not a key.
    Zero,
}

impl fmt::Display for MasterKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterKeyError::Length { length_bytes } => write!(
                f,
                "a master key is 32 raw bytes or 64 hexadecimal digits, \
                 this has {length_bytes} bytes"
            ),
            MasterKeyError::NotHexadecimal { offset } => {
                write!(f, "the master key's character {offset} is no hexadecimal digit")
            }
            MasterKeyError::Zero => f.write_str("the master key is all zeros"),
        }
    }
}

impl core::error::Error for MasterKeyError {}

impl MasterKey {
    /// From the content of a key file or of an environment variable.
    pub fn parse(bytes: &[u8]) -> Result<MasterKey, MasterKeyError> {
        let mut key = MasterKey([0; 32]);
        if bytes.len() == 32 {
            key.0.copy_from_slice(bytes);
        } else {
            let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
            if digits.len() != 64 {
                return Err(MasterKeyError::Length { length_bytes: bytes.len() });
            }
            for (at, digit) in digits.iter().enumerate() {
                let Some(nibble) = (*digit as char).to_digit(16) else {
                    return Err(MasterKeyError::NotHexadecimal { offset: at });
                };
                key.0[at / 2] = key.0[at / 2] << 4 | nibble as u8;
            }
        }
        if key.0 == [0; 32] {
            return Err(MasterKeyError::Zero);
        }
        Ok(key)
    }

    /// The key that wraps KEKs. The master key itself encrypts nothing.
    pub(in crate::crypto) fn wrapping_key(&self) -> SecretKey {
        let mut key = SecretKey([0; 32]);
        expand(&Hkdf::new(Some(EXTRACT_SALT), &self.0), &[b"kek wrapping"], &mut key.0);
        key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Key encryption key of one tenant: wraps its data keys. Destroying it erases the tenant.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Kek(SecretKey);

/// Names a KEK without telling anything of it: HKDF of the KEK, bound to its tenant. Safe to be
/// public; a replica fetches a missing key by it, and a wrong key is known by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekHash(pub [u8; 32]);

impl fmt::Debug for KekHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KekHash(")?;
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

impl Kek {
    #[must_use]
    pub fn new(key: SecretKey) -> Kek {
        Kek(key)
    }

    #[must_use]
    pub fn secret(&self) -> &SecretKey {
        &self.0
    }

    #[must_use]
    pub fn hash(&self, tenant: TenantId) -> KekHash {
        let mut hash = KekHash([0; 32]);
        let info: [&[u8]; 2] = [b"kek hash", &tenant.get().to_le_bytes()];
        expand(&self.extract(), &info, &mut hash.0);
        hash
    }

    /// Wraps a data key; the nonce must be random.
    #[must_use]
    pub fn wrap(
        &self,
        nonce: [u8; NONCE_SIZE],
        origin: OriginId,
        tenant: TenantId,
        id: KeyId,
        key: &DataKey,
    ) -> WrappedKey {
        let context = data_key_context(origin, tenant, id);
        seal::wrap_under(&self.wrapping_key(), nonce, &context, &key.0)
    }

    pub fn unwrap(
        &self,
        origin: OriginId,
        tenant: TenantId,
        id: KeyId,
        wrapped: &WrappedKey,
    ) -> Result<DataKey, SealError> {
        let context = data_key_context(origin, tenant, id);
        seal::unwrap_under(&self.wrapping_key(), &context, wrapped).map(DataKey)
    }

    fn wrapping_key(&self) -> SecretKey {
        let mut key = SecretKey([0; 32]);
        expand(&self.extract(), &[b"data key wrapping"], &mut key.0);
        key
    }

    fn extract(&self) -> Hkdf<Sha256> {
        Hkdf::new(Some(EXTRACT_SALT), &self.0.0)
    }
}

/// Seals KEKs on their way from one replica of a cluster to another: all have it, and it is of the
/// system tenant's data key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TransferKey(SecretKey);

impl TransferKey {
    /// Seals a KEK for the way; the nonce must be random.
    #[must_use]
    pub fn wrap(
        &self,
        nonce: [u8; NONCE_SIZE],
        origin: OriginId,
        tenant: TenantId,
        hash: &KekHash,
        kek: &Kek,
    ) -> WrappedKey {
        seal::wrap_under(&self.0, nonce, &transfer_context(origin, tenant, hash), &kek.0)
    }

    /// A KEK that opens and has another hash than it is named by does not open either.
    pub fn unwrap(
        &self,
        origin: OriginId,
        tenant: TenantId,
        hash: &KekHash,
        wrapped: &WrappedKey,
    ) -> Result<Kek, SealError> {
        let context = transfer_context(origin, tenant, hash);
        let kek = seal::unwrap_under(&self.0, &context, wrapped).map(Kek)?;
        if kek.hash(tenant) == *hash { Ok(kek) } else { Err(SealError) }
    }
}

impl fmt::Debug for TransferKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransferKey(..)")
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// What subkeys are derived from; wrapped by the tenant's KEK.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct DataKey(SecretKey);

impl DataKey {
    #[must_use]
    pub fn new(key: SecretKey) -> DataKey {
        DataKey(key)
    }

    #[must_use]
    pub fn secret(&self) -> &SecretKey {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

/// What a subkey is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Record,
    Salt,
    Page,
    Request,
    Fingerprint,
    LeafSalt,
    ClusterSigning,
    Transfer,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Purpose::Record => b"record",
            Purpose::Salt => b"salt",
            Purpose::Page => b"page",
            Purpose::Request => b"request",
            Purpose::Fingerprint => b"fingerprint",
            Purpose::LeafSalt => b"leaf salt",
            Purpose::ClusterSigning => b"cluster signing",
            Purpose::Transfer => b"key transfer",
        }
    }
}

/// All subkeys of one data key of one tenant, ready for use.
///
/// Record and salt keys are of a generation: a position that a recovery hands out again is sealed
/// and salted under other keys. The rest are not (`docs/CRYPTO.md` says why each may).
#[derive(Debug)]
pub struct TenantKeys {
    origin: OriginId,
    tenant: TenantId,
    id: KeyId,
    root: SubkeyRoot,
    generation: Generation,
    record: RecordKey,
    salt: SaltKey,
    page: PageKey,
    requests: Arc<RequestKeys>,
    leaf_salt: LeafSaltKey,
}

/// What of a tenant's keys a request is sealed with: all that a caller needs to seal its own.
#[derive(Debug)]
pub struct RequestKeys {
    id: KeyId,
    request: RequestKey,
    fingerprint: FingerprintKey,
}

impl RequestKeys {
    /// The id that sealed requests name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    #[must_use]
    pub fn request(&self) -> &RequestKey {
        &self.request
    }

    /// Keyed hash of request bodies: an idempotency id with another body is told by it, and nobody
    /// without the key can guess at bodies.
    #[must_use]
    pub fn fingerprint(&self) -> &FingerprintKey {
        &self.fingerprint
    }
}

/// HKDF's pseudorandom key: what `expand` needs of a data key.
#[derive(Zeroize, ZeroizeOnDrop)]
struct SubkeyRoot([u8; 32]);

impl fmt::Debug for SubkeyRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubkeyRoot(..)")
    }
}

/// A key of some generation: borrowed when it is the current one, derived on the spot when not.
#[derive(Debug)]
pub enum OfGeneration<'a, K> {
    Current(&'a K),
    Derived(K),
}

impl<K> Deref for OfGeneration<'_, K> {
    type Target = K;

    fn deref(&self) -> &K {
        match self {
            OfGeneration::Current(key) => key,
            OfGeneration::Derived(key) => key,
        }
    }
}

impl TenantKeys {
    /// `generation` is the one to keep ready; see [`TenantKeys::enter`].
    #[must_use]
    pub fn derive(
        origin: OriginId,
        tenant: TenantId,
        id: KeyId,
        key: &DataKey,
        generation: Generation,
    ) -> TenantKeys {
        let mut root = SubkeyRoot([0; 32]);
        let (extracted, _) = Hkdf::<Sha256>::extract(Some(EXTRACT_SALT), &key.0.0);
        root.0.copy_from_slice(&extracted);
        let subkey = |purpose, generation| subkey(&root, purpose, origin, tenant, id, generation);
        let timeless = Generation::ZERO;
        TenantKeys {
            record: RecordKey::new(&subkey(Purpose::Record, generation).0),
            salt: SaltKey::new(subkey(Purpose::Salt, generation).0),
            page: PageKey::new(&subkey(Purpose::Page, timeless).0),
            requests: Arc::new(RequestKeys {
                id,
                request: RequestKey::new(&subkey(Purpose::Request, timeless).0),
                fingerprint: FingerprintKey::new(subkey(Purpose::Fingerprint, timeless).0),
            }),
            leaf_salt: LeafSaltKey::new(subkey(Purpose::LeafSalt, timeless).0),
            origin,
            tenant,
            id,
            root,
            generation,
        }
    }

    /// Makes the keys of `generation` the ready ones. Any generation works without it, slower.
    pub fn enter(&mut self, generation: Generation) {
        if generation != self.generation {
            self.record = RecordKey::new(&self.subkey(Purpose::Record, generation).0);
            self.salt = SaltKey::new(self.subkey(Purpose::Salt, generation).0);
            self.generation = generation;
        }
    }

    /// The id that records sealed under these keys name in their metadata.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Seals the data of records appended in `generation`.
    #[must_use]
    pub fn record(&self, generation: Generation) -> OfGeneration<'_, RecordKey> {
        if generation == self.generation {
            return OfGeneration::Current(&self.record);
        }
        OfGeneration::Derived(RecordKey::new(&self.subkey(Purpose::Record, generation).0))
    }

    /// Salts the commitments of records appended in `generation`.
    #[must_use]
    pub fn salt(&self, generation: Generation) -> OfGeneration<'_, SaltKey> {
        if generation == self.generation {
            return OfGeneration::Current(&self.salt);
        }
        OfGeneration::Derived(SaltKey::new(self.subkey(Purpose::Salt, generation).0))
    }

    #[must_use]
    pub fn request(&self) -> &RequestKey {
        &self.requests.request
    }

    /// What requests are sealed with, for callers that seal their own.
    #[must_use]
    pub fn requests(&self) -> &Arc<RequestKeys> {
        &self.requests
    }

    #[must_use]
    pub fn page(&self) -> &PageKey {
        &self.page
    }

    /// Seals the pages of one rebuild's second store, which nothing else ever reads. `rebuild` is
    /// random: no two of them share a key, and none shares the live grid's.
    #[must_use]
    pub fn scratch_page(&self, rebuild: &[u8; 16]) -> PageKey {
        self.random_page(b"scratch page", rebuild)
    }

    /// The same keys, but the page key is that of a grid that a rebuild made.
    #[must_use]
    pub fn of_grid(mut self, grid: GridId) -> TenantKeys {
        assert!(grid != GridId::ZERO, "the grid of format has the page key of `derive`");
        self.page = self.random_page(b"rebuilt page", &grid.get().to_le_bytes());
        self
    }

    fn random_page(&self, label: &[u8; 12], random: &[u8; 16]) -> PageKey {
        let info: [&[u8]; 5] = [
            label,
            &self.origin.get().to_le_bytes(),
            &self.tenant.get().to_le_bytes(),
            &self.id.get().to_le_bytes(),
            random,
        ];
        let mut key = SecretKey([0; 32]);
        expand(&prk(&self.root), &info, &mut key.0);
        PageKey::new(&key.0)
    }

    /// See [`RequestKeys::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> &FingerprintKey {
        &self.requests.fingerprint
    }

    /// Salts the hashes of entries in the tenant's trees.
    #[must_use]
    pub fn leaf_salt(&self) -> &LeafSaltKey {
        &self.leaf_salt
    }

    /// The key that signs heads of the cluster log, of the system tenant's keys: all replicas have
    /// it, so it says which cluster, not who.
    #[must_use]
    pub fn cluster_signing(&self) -> SigningKey {
        assert_eq!(self.tenant, TenantId::SYSTEM, "heads are those of the system's log");
        SigningKey::new(&self.subkey(Purpose::ClusterSigning, Generation::ZERO).0)
    }

    /// What keys of other tenants travel under, of the system tenant's keys.
    #[must_use]
    pub fn transfer(&self) -> TransferKey {
        assert_eq!(self.tenant, TenantId::SYSTEM, "all replicas have the system's keys");
        TransferKey(self.subkey(Purpose::Transfer, Generation::ZERO))
    }

    fn subkey(&self, purpose: Purpose, generation: Generation) -> SecretKey {
        subkey(&self.root, purpose, self.origin, self.tenant, self.id, generation)
    }
}

fn subkey(
    root: &SubkeyRoot,
    purpose: Purpose,
    origin: OriginId,
    tenant: TenantId,
    id: KeyId,
    generation: Generation,
) -> SecretKey {
    let hkdf = prk(root);
    let mut key = SecretKey([0; 32]);
    let info: [&[u8]; 5] = [
        purpose.label(),
        &origin.get().to_le_bytes(),
        &tenant.get().to_le_bytes(),
        &id.get().to_le_bytes(),
        &generation.get().to_le_bytes(),
    ];
    expand(&hkdf, &info, &mut key.0);
    key
}

fn prk(root: &SubkeyRoot) -> Hkdf<Sha256> {
    let Ok(hkdf) = Hkdf::<Sha256>::from_prk(&root.0) else {
        unreachable!("a pseudorandom key of 32 bytes is as long as SHA-256's output");
    };
    hkdf
}

fn expand(hkdf: &Hkdf<Sha256>, info: &[&[u8]], output: &mut [u8; 32]) {
    let Ok(()) = hkdf.expand_multi_info(info, output) else {
        unreachable!("32 bytes are within HKDF-SHA-256's 8,160");
    };
}

/// What is authenticated beside a wrapped data key: it opens only as what it was minted for.
fn data_key_context(origin: OriginId, tenant: TenantId, id: KeyId) -> [u8; 48] {
    let mut context = [0; 48];
    context[..20].copy_from_slice(b"verity v1 data key  ");
    context[20..36].copy_from_slice(&origin.get().to_le_bytes());
    context[36..44].copy_from_slice(&tenant.get().to_le_bytes());
    context[44..].copy_from_slice(&id.get().to_le_bytes());
    context
}

/// What is authenticated beside a KEK on its way; its key id is 0.
fn transfer_context(origin: OriginId, tenant: TenantId, hash: &KekHash) -> [u8; 84] {
    let mut context = [0; 84];
    context[..24].copy_from_slice(b"verity v1 kek on the way");
    context[24..40].copy_from_slice(&origin.get().to_le_bytes());
    context[40..48].copy_from_slice(&tenant.get().to_le_bytes());
    context[48..52].copy_from_slice(&KeyId::ZERO.get().to_le_bytes());
    context[52..].copy_from_slice(&hash.0);
    context
}

#[cfg(test)]
mod tests;
