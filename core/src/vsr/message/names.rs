//! What messages name beside the log: heads, keys, pages, blocks; and how they lie in a message.

use alloc::vec::Vec;

use zerocopy::FromZeros;

use crate::crypto::KekHash;
use crate::crypto::hash::{ChainHash, InternalHash};
use crate::crypto::note::Cosignature;
use crate::crypto::signature::{Signature, VerifyingKey};
use crate::ids::{Op, PageNumber, SegmentNumber, TenantId};
use crate::io::Page;
use crate::limits::PAGE_SIZE;
use crate::wire::replica::{Kind, MessageError, PAGE_NAME_SIZE, ReplicaMessage};

/// A head of the cluster log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadName {
    /// Records.
    pub size: u64,
    pub root: ChainHash,
}

/// Keys of a tenant, by the hash of its KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeysName {
    pub tenant: TenantId,
    pub kek_hash: KekHash,
}

/// A page of the grid, by what its parent says of it but for the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageName {
    pub page: PageNumber,
    pub checkpoint_op: Op,
}

/// A block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockPlace {
    pub tenant: TenantId,
    pub segment: SegmentNumber,
    /// Number of the block in its segment.
    pub block: u64,
}

impl HeadName {
    pub(super) fn parse(raw: &ReplicaMessage<'_>) -> HeadName {
        HeadName { size: raw.numbers[0], root: ChainHash(raw.hash.0) }
    }
}

/// Public key and signature.
pub(super) fn encode_cosignature(cosignature: &Cosignature) -> Vec<u8> {
    [&cosignature.key.to_bytes()[..], &cosignature.signature.0].concat()
}

/// A point of the curve and a signature, which is not checked here.
pub(super) fn parse_cosignature(raw: &ReplicaMessage<'_>) -> Result<Cosignature, MessageError> {
    let what = |what| MessageError::Value { kind: raw.kind, what };
    let (Some(key), Some(signature)) = (raw.body.first_chunk(), raw.body.last_chunk()) else {
        return Err(what("too short"));
    };
    let key = VerifyingKey::new(key).map_err(|_| what("no key"))?;
    Ok(Cosignature { key, time_s: raw.numbers[1], signature: Signature(*signature) })
}

impl KeysName {
    pub(super) fn fields(&self, kind: Kind) -> (Kind, InternalHash, Vec<u64>) {
        (kind, InternalHash(self.kek_hash.0), Vec::from([self.tenant.get()]))
    }

    pub(super) fn parse(raw: &ReplicaMessage<'_>) -> KeysName {
        KeysName { tenant: TenantId::new(raw.numbers[0]), kek_hash: KekHash(raw.hash.0) }
    }
}

impl PageName {
    pub(super) fn encode(&self) -> [u8; PAGE_NAME_SIZE] {
        let mut bytes = [0; PAGE_NAME_SIZE];
        bytes[..4].copy_from_slice(&self.page.get().to_le_bytes());
        bytes[8..].copy_from_slice(&self.checkpoint_op.get().to_le_bytes());
        bytes
    }

    pub(super) fn parse(raw: &ReplicaMessage<'_>, bytes: &[u8]) -> Result<PageName, MessageError> {
        let what = |what| MessageError::Value { kind: raw.kind, what };
        let (Some(page), Some(op)) = (bytes.first_chunk(), bytes.last_chunk()) else {
            return Err(what("too short"));
        };
        let page = u32::from_le_bytes(*page);
        if page == 0 || bytes[4..8] != [0; 4] {
            return Err(what("no such page"));
        }
        let checkpoint_op = Op::new(u64::from_le_bytes(*op));
        Ok(PageName { page: PageNumber::new(page), checkpoint_op })
    }
}

pub(super) fn encode_pages(pages: &[(PageName, Page)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pages.len() * (PAGE_NAME_SIZE + PAGE_SIZE));
    for (name, page) in pages {
        bytes.extend_from_slice(&name.encode());
        bytes.extend_from_slice(&page.0);
    }
    bytes
}

pub(super) fn parse_pages(raw: &ReplicaMessage<'_>) -> Result<Vec<(PageName, Page)>, MessageError> {
    let mut pages = Vec::with_capacity(raw.body.len() / (PAGE_NAME_SIZE + PAGE_SIZE));
    for bytes in raw.body.chunks_exact(PAGE_NAME_SIZE + PAGE_SIZE) {
        let (name, bytes) = bytes.split_at(PAGE_NAME_SIZE);
        let mut page = Page::new_zeroed();
        page.0.copy_from_slice(bytes);
        pages.push((PageName::parse(raw, name)?, page));
    }
    Ok(pages)
}
