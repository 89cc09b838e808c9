//! Bytes of `data/keys`, little endian.
//!
//! The file holds two copies of the same image. Copies are interleaved in extents of 64 KiB, so
//! that the file is as small as its content: extent `i` of copy `c` is at `(2i + c) × 64 KiB`. An
//! image is padded with zeros to whole pages; bytes of an extent past them mean nothing.
//!
//! ```text
//! header, 128 bytes
//!   0  checksum      [32]  BLAKE3 (domain: keys file) over all that follows, padding included
//!  32  magic         [8]   "VRTYKEYS"
//!  40  version       u32   1
//!  44  entry_count   u32
//!  48  sequence      u64   one more with each change
//!  56  cluster       u128
//!  72  origin        u128
//!  88  reserved      [40]  zeros
//! entry, 128 bytes, by tenant, then key id
//!   0  tenant        u64
//!   8  key           u32   0 = the tenant's KEK, 1.. = its data keys
//!  12  kind          u8    1 = KEK wrapped by the master key, 2 = data key wrapped by the KEK;
//!                          3 = KEK sealed for the way between replicas, never in a file
//!  13  reserved      [3]   zeros
//!  16  origin        u128  the origin that the key's subkeys are bound to
//!  32  kek_hash      [32]  names the KEK
//!  64  wrapped       [60]  nonce [12] ‖ ciphertext [32] ‖ tag [16]
//! 124  reserved      [4]   zeros
//! ```
//!
//! Checksum, magic, version and entry count keep their places in every later version.

use alloc::vec::Vec;

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::CopyFault;
use crate::crypto::hash::{InternalDomain, InternalHash};
use crate::crypto::keys::KekHash;
use crate::ids::{ClusterId, KeyId, OriginId, TenantId};
use crate::io::WrappedKey;
use crate::limits::{KEY_ENTRY_SIZE, KEYS_EXTENT_PAGES, KEYS_MAX, PAGE_SIZE};

pub const EXTENT_SIZE: usize = KEYS_EXTENT_PAGES * PAGE_SIZE;
const MAGIC: [u8; 8] = *b"VRTYKEYS";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 128;
const ENTRY_SIZE: usize = KEY_ENTRY_SIZE;
const CHECKSUM_SIZE: usize = 32;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    checksum: [u8; CHECKSUM_SIZE],
    magic: [u8; 8],
    version: U32,
    entry_count: U32,
    sequence: U64,
    cluster: U128,
    origin: U128,
    reserved: [u8; 40],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    tenant: U64,
    key: U32,
    kind: u8,
    reserved: [u8; 3],
    origin: U128,
    kek_hash: [u8; 32],
    wrapped: [u8; 60],
    reserved_end: [u8; 4],
}

const_assert_eq!(size_of::<RawHeader>(), HEADER_SIZE);
const_assert_eq!(size_of::<RawEntry>(), ENTRY_SIZE);

/// What a key wraps, or is wrapped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Wrapped by the master key.
    Kek,
    /// Wrapped by the tenant's KEK.
    DataKey,
    /// Sealed for the way to another replica; never in a file.
    KekOnTheWay,
}

/// One wrapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tenant: TenantId,
    pub key: KeyId,
    pub kind: KeyKind,
    pub origin: OriginId,
    pub kek_hash: KekHash,
    pub wrapped: WrappedKey,
}

/// All that a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub cluster: ClusterId,
    pub origin: OriginId,
    pub sequence: u64,
    pub entries: Vec<Entry>,
}

/// Bytes of an image of so many entries, padded to whole pages.
#[must_use]
pub fn image_size(entry_count: usize) -> usize {
    (HEADER_SIZE + entry_count * ENTRY_SIZE).next_multiple_of(PAGE_SIZE)
}

/// Where an extent of a copy begins in the file.
#[must_use]
pub fn extent_offset(copy: usize, extent: usize) -> u64 {
    assert!(copy < 2, "there are two copies");
    ((2 * extent + copy) * EXTENT_SIZE) as u64
}

impl Image {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.entries.len() <= KEYS_MAX, "checked before minting");
        let mut bytes = Vec::with_capacity(image_size(self.entries.len()));
        let mut header = RawHeader {
            checksum: [0; CHECKSUM_SIZE],
            magic: MAGIC,
            version: U32::new(VERSION),
            entry_count: U32::new(self.entries.len() as u32),
            sequence: U64::new(self.sequence),
            cluster: U128::new(self.cluster.get()),
            origin: U128::new(self.origin.get()),
            reserved: [0; 40],
        };
        bytes.extend_from_slice(header.as_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(RawEntry::from(entry).as_bytes());
        }
        bytes.resize(image_size(self.entries.len()), 0);
        header.checksum = checksum(&bytes);
        bytes[..CHECKSUM_SIZE].copy_from_slice(&header.checksum);
        bytes
    }

    /// How many bytes to read for the image whose first page this is; nothing of it is trusted yet.
    pub fn peek_size(first_page: &[u8]) -> Result<usize, CopyFault> {
        let Ok((header, _)) = RawHeader::ref_from_prefix(first_page) else {
            unreachable!("a page holds a header");
        };
        if header.magic != MAGIC {
            return Err(CopyFault::NotKeys);
        }
        let count = header.entry_count.get();
        if count as usize > KEYS_MAX {
            return Err(CopyFault::TooManyKeys { count });
        }
        Ok(image_size(count as usize))
    }

    /// `bytes` are exactly as many as [`Image::peek_size`] said.
    pub fn decode(bytes: &[u8]) -> Result<Image, CopyFault> {
        let size = Image::peek_size(bytes)?;
        assert_eq!(bytes.len(), size, "the reader reads the whole image");
        let Ok((header, rest)) = RawHeader::ref_from_prefix(bytes) else {
            unreachable!("a page holds a header");
        };
        if header.checksum != checksum(bytes) {
            return Err(CopyFault::Checksum);
        }
        if header.version.get() != VERSION {
            return Err(CopyFault::NewerFormat { version: header.version.get() });
        }
        let count = header.entry_count.get() as usize;
        let Ok((raw, _padding)) = <[RawEntry]>::ref_from_prefix_with_elems(rest, count) else {
            unreachable!("the size was computed from the count");
        };
        let mut entries = Vec::with_capacity(count);
        for (at, entry) in raw.iter().enumerate() {
            let entry = entry.parse().filter(|entry| entry.kind != KeyKind::KekOnTheWay);
            let Some(entry) = entry else {
                return Err(CopyFault::BadEntry { at: at as u32 });
            };
            entries.push(entry);
        }
        Ok(Image {
            cluster: ClusterId::new(header.cluster.get()),
            origin: OriginId::new(header.origin.get()),
            sequence: header.sequence.get(),
            entries,
        })
    }
}

/// Entries as they travel, one after the other.
#[must_use]
pub fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| RawEntry::from(entry).as_bytes().to_vec()).collect()
}

/// Entries that came; `None`: one of them makes no sense.
#[must_use]
pub fn decode_entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let raw = <[RawEntry]>::ref_from_bytes(bytes).ok()?;
    raw.iter().map(RawEntry::parse).collect()
}

fn checksum(image: &[u8]) -> [u8; CHECKSUM_SIZE] {
    InternalHash::of(InternalDomain::KeysFile, &[&image[CHECKSUM_SIZE..]]).0
}

impl From<&Entry> for RawEntry {
    fn from(entry: &Entry) -> RawEntry {
        RawEntry {
            tenant: U64::new(entry.tenant.get()),
            key: U32::new(entry.key.get()),
            kind: match entry.kind {
                KeyKind::Kek => 1,
                KeyKind::DataKey => 2,
                KeyKind::KekOnTheWay => 3,
            },
            reserved: [0; 3],
            origin: U128::new(entry.origin.get()),
            kek_hash: entry.kek_hash.0,
            wrapped: entry.wrapped.0,
            reserved_end: [0; 4],
        }
    }
}

impl RawEntry {
    fn parse(&self) -> Option<Entry> {
        let kind = match self.kind {
            1 => KeyKind::Kek,
            2 => KeyKind::DataKey,
            3 => KeyKind::KekOnTheWay,
            _ => return None,
        };
        let key = KeyId::new(self.key.get());
        if (kind != KeyKind::DataKey) != (key == KeyId::ZERO) {
            return None;
        }
        if self.reserved != [0; 3] || self.reserved_end != [0; 4] {
            return None;
        }
        Some(Entry {
            tenant: TenantId::new(self.tenant.get()),
            key,
            kind,
            origin: OriginId::new(self.origin.get()),
            kek_hash: KekHash(self.kek_hash),
            wrapped: WrappedKey(self.wrapped),
        })
    }
}
