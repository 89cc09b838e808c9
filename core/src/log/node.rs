//! Nodes of a log's RFC 6962 tree, from entries and tiles: what proofs of inclusion are made of.

use super::index::{self, Slot, TILE_HEIGHT};
use super::read::LogFault;
use super::tail::PageBase;
use super::{LogHead, Logs};
use crate::crypto::merkle::{Frontier, leaf_hash};
use crate::crypto::{ChainHash, merkle};
use crate::ids::{Position, SegmentNumber, TenantId};

impl Logs {
    /// The hash of a complete node: `level` 0 are the leaves. `head` as in [`Logs::read`]. What is
    /// read here is checked by whoever compares the result with a root.
    pub fn node(
        &self,
        tenant: TenantId,
        head: &LogHead,
        level: u8,
        at: u64,
    ) -> Result<ChainHash, LogFault> {
        let height = u32::from(level);
        if height == 0 {
            return Ok(leaf_hash(&self.entry(tenant, head, Position::new(at))?.hash.0));
        }
        if height.is_multiple_of(TILE_HEIGHT) {
            return self.tile(tenant, head, height / TILE_HEIGHT, at);
        }
        // The stored level below; at most seven levels, 128 nodes, on a page or two.
        let stored = height / TILE_HEIGHT * TILE_HEIGHT;
        let width = 1_u64 << (height - stored);
        let mut frontier = Frontier::new();
        let mut missing = false;
        for nth in at * width..(at + 1) * width {
            match self.node(tenant, head, stored as u8, nth) {
                Ok(hash) => frontier.push_leaf_hash(hash),
                Err(LogFault::Missing) => missing = true,
                Err(error) => return Err(error),
            }
        }
        if missing { Err(LogFault::Missing) } else { Ok(frontier.root()) }
    }

    /// The proof that a record is in the log as it was at `size`.
    pub fn inclusion(
        &self,
        tenant: TenantId,
        head: &LogHead,
        position: Position,
        size: u64,
    ) -> Result<alloc::vec::Vec<ChainHash>, LogFault> {
        merkle::inclusion_proof(position.get(), size, |level, at| {
            self.node(tenant, head, level, at)
        })
    }

    fn tile(
        &self,
        tenant: TenantId,
        head: &LogHead,
        level: u32,
        tile: u64,
    ) -> Result<ChainHash, LogFault> {
        let last = ((tile + 1) << (TILE_HEIGHT * level)) - 1;
        let segment = self.segment_of(Position::new(last));
        let first = u64::from(segment.get()) * self.segment_positions();
        let slot = self.layout.tile(first, level, tile);
        if let Some(hash) = self.tile_in_memory(tenant, segment, slot) {
            return Ok(hash);
        }
        let page = self.tile_page(tenant, head, Position::new(last), slot.page)?;
        let hash = hash_at(&page.0, slot);
        // Zeros: a write of the page was lost.
        if !index::page_is_good(self.index_of(tenant, segment), slot.page, &page.0)
            || hash == ChainHash::ZERO
        {
            return Err(self.tile_damaged(tenant, head, Position::new(last)));
        }
        Ok(hash)
    }

    fn tile_in_memory(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        slot: Slot,
    ) -> Option<ChainHash> {
        let page = self.open.get(&tenant)?.pages.get(&(segment, slot.page))?;
        let here = match &page.base {
            PageBase::Whole => true,
            PageBase::Patches(slots) => slots.iter().any(|(at, _)| *at == slot.at),
        };
        let hash = hash_at(&page.image.0, slot);
        (here && hash != ChainHash::ZERO).then_some(hash)
    }
}

fn hash_at(page: &[u8], slot: Slot) -> ChainHash {
    let mut hash = ChainHash::ZERO;
    let at = slot.at as usize;
    hash.0.copy_from_slice(&page[at..at + 32]);
    hash
}
