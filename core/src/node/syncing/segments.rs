//! The segments of the logs, up to the heads that the checkpoint holds.
//!
//! Each segment is verified from its first block on: what the own disk has, as far as the chain
//! holds, and from there on a peer's blocks. What a peer has not is looked for on the own disk
//! again: there may be whole blocks behind a damaged one. Indexes are removed: they are made anew
//! from the segments when they are needed, because slots of positions that were never replayed here
//! may be empty, or stale.
//!
//! Invariants: a log is done only when its chain and tree end at the head. Of a peer's blocks those
//! are written that verify, so that none of the own is lost to a damaged one; but for records
//! longer than what is asked for at a time.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Purpose, Stage, Syncing, damaged, is_late};
use crate::event::Event;
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::{Address, BlockByBlock, Effect, Effects, FileId, Pages};
use crate::limits::{PAGE_SIZE, SYNC_BLOCKS_MAX, SYNC_READ_BLOCKS, VSR_REPAIR_NS};
use crate::log::{LogHead, SegmentEnd, SegmentExtent, SegmentStart, SegmentVerifier};
use crate::node::api::Halt;
use crate::time::{Clock, Instant};
use crate::vsr::message::{BlockPlace, Payload};

/// What an effect of a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentStep {
    RemoveIndex,
    Create,
    LookAt,
    Write,
    Sync,
}

#[derive(Debug)]
pub(super) struct Segments {
    logs: VecDeque<(TenantId, LogHead)>,
    at: Option<Box<Segment>>,
}

/// The segment being made whole.
#[derive(Debug)]
struct Segment {
    tenant: TenantId,
    head: LogHead,
    number: SegmentNumber,
    verifier: SegmentVerifier,
    /// The next block to be verified.
    block: u64,
    waits: Waits,
    /// What the peer gave was no use: it is not asked again at once.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// For the disk.
    Disk,
    /// To ask a peer; not before this moment.
    Peer { from: Option<Instant> },
    /// A peer gave what is no use.
    Refused,
    /// For the answer to this request.
    Answer { serial: u64, at: Instant },
}

impl Segment {
    /// Blocks that the checkpoint may have of it; of a full segment the end shows by itself.
    fn blocks_max(&self) -> u64 {
        if self.number == self.head.segment {
            self.head.segment_offset / PAGE_SIZE as u64
        } else {
            u64::MAX
        }
    }

    /// The own block of which the beginning is verified, a peer's perhaps, begins otherwise.
    fn misses_prefix(&self, pages: &Pages) -> bool {
        !pages.as_bytes().starts_with(self.verifier.verified_prefix())
    }

    fn file(&self) -> FileId {
        FileId::Segment { tenant: self.tenant, number: self.number }
    }
}

impl Syncing {
    pub(super) fn begin_segments(
        &mut self,
        heads: Vec<(TenantId, LogHead)>,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        #[cfg(verity_zoo)]
        let heads = if crate::zoo::is("sync_forgets_logs") { Vec::new() } else { heads };
        let begun = |(_, head): &(TenantId, LogHead)| head.next > Position::ZERO;
        let logs = heads.into_iter().filter(begun).collect();
        self.stage = Stage::Segments(Segments { logs, at: None });
        self.next_log(effects);
        Ok(())
    }

    fn segment(&mut self) -> &mut Segment {
        let Stage::Segments(Segments { at: Some(segment), .. }) = &mut self.stage else {
            unreachable!("a segment is being fetched")
        };
        segment
    }

    fn next_log(&mut self, effects: &mut Effects) {
        let Stage::Segments(segments) = &mut self.stage else { unreachable!("just set") };
        match segments.logs.pop_front() {
            Some((tenant, head)) => self.begin_segment(tenant, head, None, effects),
            None => self.stage = Stage::Weighing,
        }
    }

    fn begin_segment(
        &mut self,
        tenant: TenantId,
        head: LogHead,
        before: Option<(SegmentNumber, SegmentEnd)>,
        effects: &mut Effects,
    ) {
        let (number, before) = match before {
            None => (SegmentNumber::ZERO, None),
            Some((number, end)) => (SegmentNumber::new(number.get() + 1), Some(end)),
        };
        let start = SegmentStart { tenant, number, before };
        let verifier = SegmentVerifier::new(start, SegmentExtent::To(head.next));
        let (block, waits, refused) = (0, Waits::Disk, false);
        let segment = Segment { tenant, head, number, verifier, block, waits, refused };
        let Stage::Segments(segments) = &mut self.stage else {
            unreachable!("asked by the caller")
        };
        segments.at = Some(Box::new(segment));
        let io = self.io(Purpose::Segment(SegmentStep::RemoveIndex));
        effects.push(Effect::Remove { io, file: FileId::Index { tenant, number } });
    }

    /// Creates, writes and the like are done.
    pub(super) fn on_segment_done(
        &mut self,
        step: SegmentStep,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        match step {
            SegmentStep::RemoveIndex => {
                let file = self.segment().file();
                let io = self.io(Purpose::Segment(SegmentStep::Create));
                effects.push(Effect::Create { io, file });
                Ok(())
            }
            SegmentStep::Create => {
                self.look_at_blocks(effects);
                Ok(())
            }
            SegmentStep::Write => {
                self.go_on(effects);
                Ok(())
            }
            SegmentStep::Sync => self.segment_synced(effects),
            SegmentStep::LookAt => unreachable!("this is a read"),
        }
    }

    fn look_at_blocks(&mut self, effects: &mut Effects) {
        let segment = self.segment();
        let left = segment.blocks_max().saturating_sub(segment.block);
        let count = left.min(SYNC_READ_BLOCKS as u64);
        if count == 0 {
            self.ask_from_here();
            return;
        }
        let at = Address::new(segment.file(), segment.block * PAGE_SIZE as u64);
        let io = self.io(Purpose::Segment(SegmentStep::LookAt));
        effects.push(Effect::Read { io, at, pages: Pages::zeroed(count as usize) });
    }

    /// The own blocks cannot be read all at once: each alone.
    pub(super) fn look_again(&mut self, pages: Pages, effects: &mut Effects) {
        let segment = self.segment();
        let at = Address::new(segment.file(), segment.block * PAGE_SIZE as u64);
        let blocks = BlockByBlock::new(at, pages);
        // Of one block it is known by now.
        match blocks.next() {
            Some(_) => self.look_at_one(blocks, effects),
            None => self.ask_from_here(),
        }
    }

    fn look_at_one(&mut self, blocks: BlockByBlock, effects: &mut Effects) {
        let Some(at) = blocks.next() else { unreachable!("asked by the caller") };
        let io = self.io(Purpose::OneBlock(Box::new(blocks)));
        effects.push(Effect::Read { io, at, pages: Pages::zeroed(1) });
    }

    pub(super) fn block_looked_at(
        &mut self,
        blocks: BlockByBlock,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        if blocks.next().is_some() {
            self.look_at_one(blocks, effects);
            return Ok(());
        }
        let (pages, _unreadable) = blocks.finish();
        self.on_segment_read(SegmentStep::LookAt, &pages, effects)
    }

    pub(super) fn on_segment_read(
        &mut self,
        step: SegmentStep,
        pages: &Pages,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let segment = self.segment();
        match step {
            SegmentStep::LookAt => {
                let before = segment.verifier.proven_bytes();
                if segment.misses_prefix(pages) {
                    self.ask_from_here();
                    return Ok(());
                }
                let pushed = segment.verifier.push(pages.as_bytes(), |_| Ok(()));
                segment.block += pages.count() as u64;
                if segment.verifier.proven_bytes() > before {
                    segment.refused = false;
                }
                match pushed {
                    Ok(()) if segment.verifier.is_done() => self.sync_segment(effects),
                    Ok(()) => self.look_at_blocks(effects),
                    Err(_) => self.ask_from_here(),
                }
            }
            SegmentStep::RemoveIndex
            | SegmentStep::Create
            | SegmentStep::Write
            | SegmentStep::Sync => unreachable!("these are no reads"),
        }
        Ok(())
    }

    /// What is not verified yet comes from a peer, from the block where it begins.
    fn ask_from_here(&mut self) {
        let segment = self.segment();
        segment.block = segment.verifier.forget_unproven();
        let refused = core::mem::take(&mut segment.refused);
        segment.waits = if refused { Waits::Refused } else { Waits::Peer { from: None } };
    }

    pub(super) fn run_segments(&mut self, now: Clock) -> Result<(), Halt> {
        let (to, checkpoint) = {
            let target = self.fetched();
            (target.from, target.offer.checkpoint.op)
        };
        let mut doubt = self.doubt;
        let serial = self.serial + 1;
        let Stage::Segments(Segments { at: Some(segment), .. }) = &mut self.stage else {
            return Ok(());
        };
        match segment.waits {
            Waits::Disk => return Ok(()),
            Waits::Answer { at, .. } if is_late(now, at) => doubt = true,
            Waits::Answer { .. } => return Ok(()),
            Waits::Refused => {
                doubt = true;
                let from = Some(now.monotonic.plus_ns(VSR_REPAIR_NS));
                segment.waits = Waits::Peer { from };
            }
            Waits::Peer { .. } => {}
        }
        self.doubt = doubt;
        if let Waits::Peer { from: Some(from) } = segment.waits
            && now.monotonic < from
        {
            return Ok(());
        }
        let left = segment.blocks_max().saturating_sub(segment.block);
        let count = left.min(SYNC_BLOCKS_MAX as u64);
        if count == 0 {
            return Err(damaged("log", "a log ends before the head that its checkpoint holds"));
        }
        let (tenant, number, block) = (segment.tenant, segment.number, segment.block);
        segment.waits = Waits::Answer { serial, at: now.monotonic };
        self.serial = serial;
        let place = BlockPlace { tenant, segment: number, block };
        self.outbox.push((to, Payload::RequestBlocks { serial, checkpoint, place, count }));
        Ok(())
    }

    /// Blocks of a peer.
    pub(super) fn on_blocks(
        &mut self,
        serial: u64,
        blocks: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let checkpoint = self.target();
        let Stage::Segments(Segments { at: Some(segment), .. }) = &mut self.stage else {
            return Ok(());
        };
        if !matches!(segment.waits, Waits::Answer { serial: asked, .. } if asked == serial) {
            return Ok(()); // late, or twice
        }
        let left = segment.blocks_max().saturating_sub(segment.block);
        let count = ((blocks.len() / PAGE_SIZE) as u64).min(left) as usize;
        let mut pages = Pages::from_bytes(&blocks[..count * PAGE_SIZE]);
        let prefix = segment.verifier.verified_prefix();
        if count > 0 {
            // It may not be on the disk, if it was a peer's.
            pages.as_bytes_mut()[..prefix.len()].copy_from_slice(prefix);
        }
        let mut verifier = segment.verifier.clone();
        let pushed = count > 0 && verifier.push(pages.as_bytes(), |_| Ok(())).is_ok();
        // A damaged length may say that more is to come, where there is no more.
        let good = pushed && (verifier.is_done() || (count as u64) < left);
        let verified = (verifier.proven_bytes() / PAGE_SIZE as u64).saturating_sub(segment.block);
        if !good && verified == 0 {
            if let Some(op) = checkpoint {
                effects.event(Event::SyncRefused { op });
            }
            // What came before may not have been right to its end.
            segment.block = segment.verifier.forget_unproven();
            (segment.refused, segment.waits) = (true, Waits::Disk);
            self.doubt = true;
            self.look_at_blocks(effects);
            return Ok(());
        }
        segment.verifier = verifier;
        let (tenant, number, block) = (segment.tenant, segment.number, segment.block);
        effects.event(Event::SyncBlocksFetched { tenant, number: number.get(), block });
        segment.waits = Waits::Disk;
        if segment.verifier.is_done() {
            // Of a segment that ends here, no block beyond its end.
            let end = segment.verifier.verified_bytes().div_ceil(PAGE_SIZE as u64);
            pages.resize((end - block) as usize);
        } else if verified > 0 {
            segment.block = segment.verifier.forget_unproven();
            pages.resize(verified as usize);
        } else {
            segment.block += pages.count() as u64;
        }
        let at = Address::new(segment.file(), block * PAGE_SIZE as u64);
        let io = self.io(Purpose::Segment(SegmentStep::Write));
        effects.push(Effect::Write { io, at, pages, durable: false });
        Ok(())
    }

    fn go_on(&mut self, effects: &mut Effects) {
        let segment = self.segment();
        if segment.verifier.is_done() {
            self.sync_segment(effects);
        } else {
            segment.waits = Waits::Peer { from: None };
        }
    }

    fn sync_segment(&mut self, effects: &mut Effects) {
        let file = self.segment().file();
        let io = self.io(Purpose::Segment(SegmentStep::Sync));
        effects.push(Effect::Sync { io, file });
    }

    fn segment_synced(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        let Stage::Segments(segments) = &mut self.stage else {
            unreachable!("a segment was synced")
        };
        let Some(segment) = segments.at.take() else { unreachable!("a segment was synced") };
        let Segment { tenant, head, number, verifier, .. } = *segment;
        let end = verifier.finish().map_err(|damage| damaged("log", damage))?;
        if number < head.segment {
            self.begin_segment(tenant, head, Some((number, end)), effects);
            return Ok(());
        }
        if !end.matches(&head) {
            return Err(damaged("log", "a log is not the one that the checkpoint's head ends"));
        }
        self.next_log(effects);
        Ok(())
    }
}
