//! Headers of segments that are bad: made from the log before them, without a peer.
//!
//! Invariants: chain and frontier come from the own index of earlier segments, whose pages carry
//! their checks, and which are rebuilt when those fail; so what one header needs is always of
//! segments before it, and comes to an end. Start reading at [`Logs::mend_header`].

use super::Stage;
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::Effects;
use crate::log::read::LogFault;
use crate::log::segment::SegmentHeader;
use crate::log::{LogHead, Logs};

impl Logs {
    /// The header follows from the log before it, and this replica's own index knows that.
    pub(super) fn mend_header(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return false };
        let head = work.head.clone();
        // While they are taken nothing else drives this mend: a fetch may begin other rebuilds.
        let pins = work.mend.as_mut().and_then(|mend| mend.pins.take());
        let Some(mut pins) = pins else { return false };
        let found = if self.fetched(&pins) {
            self.header_of(tenant, segment, &head)
        } else {
            Err(LogFault::Missing)
        };
        if found == Err(LogFault::Missing) {
            self.fetch(&mut pins, effects);
        } else {
            self.release(&mut pins);
        }
        let layout = self.layout;
        let first = u64::from(segment.get()) * self.segment_positions;
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return false };
        let Some(mend) = &mut work.mend else { return false };
        mend.pins = Some(pins);
        match found {
            Err(LogFault::Missing) => return false,
            Ok(header) => {
                let block = header.encode();
                mend.fetched = block.to_vec();
                mend.stage = Stage::Write;
                if work.push(layout, first, &block, None).0.is_err() {
                    self.mend_failed(tenant, segment, effects);
                }
            }
            Err(LogFault::NoSuchPosition { .. } | LogFault::Damaged(_)) => {
                self.mend_failed(tenant, segment, effects);
            }
        }
        true
    }

    /// What the header of a segment must be.
    fn header_of(
        &self,
        tenant: TenantId,
        segment: SegmentNumber,
        head: &LogHead,
    ) -> Result<SegmentHeader, LogFault> {
        let first = Position::new(u64::from(segment.get()) * self.segment_positions);
        let (mut chain, mut frontier) = (ChainHash::ZERO, Frontier::new());
        let mut missing = false;
        if let Some(last) = first.previous() {
            match self.entry(tenant, head, last) {
                Ok(entry) => chain = entry.hash,
                Err(LogFault::Missing) => missing = true,
                Err(fault) => return Err(fault),
            }
        }
        for level in (0..u64::BITS as u8).rev() {
            if first.get() >> level & 1 == 0 {
                continue;
            }
            match self.node(tenant, head, level, frontier_at(first, level)) {
                Ok(node) if !missing => frontier.push_subtree(u32::from(level), node),
                Ok(_) => {}
                Err(LogFault::Missing) => missing = true,
                Err(fault) => return Err(fault),
            }
        }
        if missing {
            return Err(LogFault::Missing);
        }
        let segment_positions = self.segment_positions;
        Ok(SegmentHeader { tenant, number: segment, segment_positions, first, chain, frontier })
    }
}

/// Of the nodes of the frontier over all leaves before `first`, the number of the one at `level`.
fn frontier_at(first: Position, level: u8) -> u64 {
    (first.get() >> level) - 1
}
