//! Sealing: AES-256-GCM-SIV, in place, with the tag kept apart.
//!
//! Purpose: one type per thing that is sealed, so that a page key cannot seal a record. Sealing is
//! deterministic in (key, nonce, metadata, plaintext): every replica writes the same bytes.
//!
//! Nonces (12 bytes, little endian), and why none repeats, in full in `docs/CRYPTO.md`:
//!
//! | what    | nonce                                   | tag lives                        |
//! | ------- | --------------------------------------- | -------------------------------- |
//! | record  | position u64 ‖ zeros [4]                | after the sealed data, in `data` |
//! | page    | page number u32 ‖ checkpoint op u64     | in the parent page               |
//! | request | random, carried beside the body         | after the sealed body            |
//! | key     | random, first 12 bytes of the wrapped   | last 16 bytes of the wrapped     |
//!
//! Fault model: a failed tag is [`SealError`]; the buffer then holds ciphertext, never plaintext
//! that was not authenticated.
//!
//! What compiles, and beside it what must not, with the same imports:
//!
//! ```
//! use verity_core::crypto::seal::{PageKey, RecordKey};
//! let key = PageKey::new(&[0; 32]);
//! let page: &PageKey = &key;
//! let record: &RecordKey = &RecordKey::new(&[0; 32]);
//! ```
//!
//! ```compile_fail
//! use verity_core::crypto::seal::{PageKey, RecordKey};
//! let key = PageKey::new(&[0; 32]);
//! let record: &RecordKey = &key; // a page key seals no record
//! ```

use core::fmt;

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crypto::keys::MasterKey;
use crate::ids::{Op, PageNumber, Position};
use crate::io::{KeyError, KeyPurpose, Page, SecretKey, WrappedKey};

pub const NONCE_SIZE: usize = 12;
pub const TAG_SIZE: usize = 16;

/// What proves that a ciphertext is the one that was sealed.
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
pub struct Tag(pub [u8; TAG_SIZE]);

impl Tag {
    pub const ZERO: Tag = Tag([0; TAG_SIZE]);
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(")?;
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// The tag does not fit: another key, another place, or changed bytes. Which one cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sealed data does not open: it was changed, moved, or sealed by another key")
    }
}

impl core::error::Error for SealError {}

/// The one place that meets the library.
#[derive(Clone)]
struct Cipher(Aes256GcmSiv);

impl Cipher {
    fn new(key: &[u8; 32]) -> Cipher {
        Cipher(Aes256GcmSiv::new(key.into()))
    }

    fn seal(&self, nonce: &[u8; NONCE_SIZE], metadata: &[u8], data: &mut [u8]) -> Tag {
        let Ok(tag) = self.0.encrypt_inout_detached(nonce.into(), metadata, InOutBuf::from(data))
        else {
            unreachable!("the library refuses only inputs of 64 GiB; ours are below 1 MiB");
        };
        Tag(tag.into())
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_SIZE],
        metadata: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealError> {
        let buffer = InOutBuf::from(data);
        let result = self.0.decrypt_inout_detached(nonce.into(), metadata, buffer, (&tag.0).into());
        result.map_err(|_| SealError)
    }
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Cipher);

        impl $name {
            #[must_use]
            pub fn new(key: &[u8; 32]) -> $name {
                $name(Cipher::new(key))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

key_type!(
    /// Seals the data of records, of one tenant and generation.
    RecordKey
);
key_type!(
    /// Seals pages of the grid, of one tenant.
    PageKey
);
key_type!(
    /// Seals requests on their way through journal and network, of one tenant.
    RequestKey
);

impl RecordKey {
    /// `metadata` is the record's, as written to the segment: it is authenticated, not hidden.
    #[must_use]
    pub fn seal(&self, position: Position, metadata: &[u8], data: &mut [u8]) -> Tag {
        self.0.seal(&record_nonce(position), metadata, data)
    }

    pub fn open(
        &self,
        position: Position,
        metadata: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealError> {
        self.0.open(&record_nonce(position), metadata, data, tag)
    }
}

impl PageKey {
    #[must_use]
    pub fn seal(&self, number: PageNumber, checkpoint_op: Op, page: &mut Page) -> Tag {
        self.0.seal(&page_nonce(number, checkpoint_op), &[], &mut page.0)
    }

    pub fn open(
        &self,
        number: PageNumber,
        checkpoint_op: Op,
        page: &mut Page,
        tag: &Tag,
    ) -> Result<(), SealError> {
        self.0.open(&page_nonce(number, checkpoint_op), &[], &mut page.0, tag)
    }
}

impl RequestKey {
    /// The nonce is random, drawn once per request and carried beside it.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_SIZE], metadata: &[u8], data: &mut [u8]) -> Tag {
        self.0.seal(&nonce, metadata, data)
    }

    pub fn open(
        &self,
        nonce: [u8; NONCE_SIZE],
        metadata: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), SealError> {
        self.0.open(&nonce, metadata, data, tag)
    }
}

/// What is authenticated beside a key that the master key wraps. The holder of the master key knows
/// nothing of tenants: the binding of a KEK to tenant and key id is its hash, kept beside it.
fn master_context(purpose: KeyPurpose) -> &'static [u8] {
    match purpose {
        KeyPurpose::Kek => b"verity v1 kek wrapped by master key",
        KeyPurpose::Cosigning => b"verity v1 cosigning key wrapped by master key",
    }
}

/// For the holder of the master key, in answer to `Effect::Wrap`. The nonce must be random.
#[must_use]
pub fn wrap_key(
    master: &MasterKey,
    nonce: [u8; NONCE_SIZE],
    purpose: KeyPurpose,
    key: &SecretKey,
) -> WrappedKey {
    wrap_under(&master.wrapping_key(), nonce, master_context(purpose), key)
}

/// For the holder of the master key, in answer to `Effect::Unwrap`.
pub fn unwrap_key(
    master: &MasterKey,
    purpose: KeyPurpose,
    wrapped: &WrappedKey,
) -> Result<SecretKey, KeyError> {
    unwrap_under(&master.wrapping_key(), master_context(purpose), wrapped)
        .map_err(|_| KeyError::WrongMasterKey)
}

pub(in crate::crypto) fn wrap_under(
    wrapping: &SecretKey,
    nonce: [u8; NONCE_SIZE],
    context: &[u8],
    key: &SecretKey,
) -> WrappedKey {
    let mut sealed = key.clone();
    let tag = Cipher::new(&wrapping.0).seal(&nonce, context, &mut sealed.0);
    let mut bytes = [0; 60];
    bytes[..12].copy_from_slice(&nonce);
    bytes[12..44].copy_from_slice(&sealed.0);
    bytes[44..].copy_from_slice(&tag.0);
    WrappedKey(bytes)
}

pub(in crate::crypto) fn unwrap_under(
    wrapping: &SecretKey,
    context: &[u8],
    wrapped: &WrappedKey,
) -> Result<SecretKey, SealError> {
    let mut nonce = [0; NONCE_SIZE];
    nonce.copy_from_slice(&wrapped.0[..12]);
    let mut key = SecretKey([0; 32]);
    key.0.copy_from_slice(&wrapped.0[12..44]);
    let mut tag = Tag::ZERO;
    tag.0.copy_from_slice(&wrapped.0[44..]);
    Cipher::new(&wrapping.0).open(&nonce, context, &mut key.0, &tag)?;
    Ok(key)
}

fn record_nonce(position: Position) -> [u8; NONCE_SIZE] {
    let mut nonce = [0; NONCE_SIZE];
    nonce[..8].copy_from_slice(&position.get().to_le_bytes());
    nonce
}

fn page_nonce(number: PageNumber, checkpoint_op: Op) -> [u8; NONCE_SIZE] {
    let mut nonce = [0; NONCE_SIZE];
    nonce[..4].copy_from_slice(&number.get().to_le_bytes());
    nonce[4..].copy_from_slice(&checkpoint_op.get().to_le_bytes());
    #[cfg(verity_zoo)]
    if crate::zoo::is("page_nonce_reused") {
        nonce[4..].fill(0);
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn record_opens_only_where_it_was_sealed() {
        let key = RecordKey::new(&[1; 32]);
        let mut data = *b"plain text of a patient";
        let tag = key.seal(Position::new(7), b"metadata", &mut data);
        assert_ne!(&data, b"plain text of a patient");
        let sealed = data;
        assert_eq!(key.open(Position::new(8), b"metadata", &mut data, &tag), Err(SealError));
        assert_eq!(data, sealed, "nothing unauthenticated is left in the buffer");
        assert_eq!(key.open(Position::new(7), b"Metadata", &mut data, &tag), Err(SealError));
        let other = RecordKey::new(&[2; 32]);
        assert_eq!(other.open(Position::new(7), b"metadata", &mut data, &tag), Err(SealError));
        let mut wrong = tag;
        wrong.0[15] ^= 0x80;
        assert_eq!(key.open(Position::new(7), b"metadata", &mut data, &wrong), Err(SealError));
        assert_eq!(key.open(Position::new(7), b"metadata", &mut data, &tag), Ok(()));
        assert_eq!(&data, b"plain text of a patient");
    }

    #[test]
    fn every_bit_of_a_page_counts() {
        let key = PageKey::new(&[1; 32]);
        let mut page = Page::new_zeroed();
        page.0[100] = 9;
        let tag = key.seal(PageNumber::new(3), Op::new(5), &mut page);
        for at in (0..4096).step_by(97) {
            page.0[at] ^= 1 << (at % 8);
            assert!(key.open(PageNumber::new(3), Op::new(5), &mut page, &tag).is_err());
            page.0[at] ^= 1 << (at % 8);
        }
        assert!(key.open(PageNumber::new(5), Op::new(3), &mut page, &tag).is_err());
        assert_eq!(key.open(PageNumber::new(3), Op::new(5), &mut page, &tag), Ok(()));
        assert_eq!(page.0[100], 9);
    }

    #[test]
    fn empty_data_is_still_authenticated() {
        let key = RequestKey::new(&[1; 32]);
        let tag = key.seal([3; 12], b"a", &mut []);
        assert_eq!(key.open([3; 12], b"a", &mut [], &tag), Ok(()));
        assert_eq!(key.open([3; 12], b"b", &mut [], &tag), Err(SealError));
        assert_eq!(key.open([4; 12], b"a", &mut [], &tag), Err(SealError));
    }

    #[test]
    fn wrapped_keys_open_under_their_master_key_only() {
        let Ok(master) = MasterKey::parse(&[5; 32]) else { panic!("32 bytes") };
        let Ok(other) = MasterKey::parse(&[6; 32]) else { panic!("32 bytes") };
        let key = SecretKey([9; 32]);
        let wrapped = wrap_key(&master, [1; 12], KeyPurpose::Kek, &key);
        assert_eq!(unwrap_key(&master, KeyPurpose::Kek, &wrapped), Ok(key));
        let refused = Err(KeyError::WrongMasterKey);
        assert_eq!(unwrap_key(&other, KeyPurpose::Kek, &wrapped), refused);
        assert_eq!(unwrap_key(&master, KeyPurpose::Cosigning, &wrapped), refused);
        for at in 0..60 {
            let mut bad = wrapped;
            bad.0[at] ^= 1;
            assert_eq!(unwrap_key(&master, KeyPurpose::Kek, &bad), refused, "byte {at}");
        }
    }
}
