//! Blocks of segments that are bad here, made whole again with a peer's (`docs/VSR.md`, "Repair of
//! segment blocks").
//!
//! Purpose: a rebuild of an index runs through a segment from its first block; where the blocks do
//! not verify, a mend begins. It takes a peer's blocks from there on, runs them through the same
//! verifier, goes on with the own blocks behind, and writes the peer's only when something that
//! this replica has itself *confirms* them: the chain hash in a whole record of its own behind
//! them, or the one that its head holds, or the one with which its next segment begins. A header
//! needs no peer: it follows from the own index of the segments before.
//!
//! Invariants: no byte of a peer is written before it is confirmed; what is written is durable, and
//! was read back, before anybody reads it or it counts as repaired; only blocks that a checkpoint
//! covers are asked for, and written. One mend at a time holds blocks of peers.
//!
//! Fault model: peers lie, are late, or have nothing: the next is asked, all in turn, until
//! patience ends; then the segment is given up for a while, and reads end with what was found.

mod header;
mod serving;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::damage::Damage;
use super::flush::Purpose;
use super::read::LogPins;
use super::rebuild::Rebuild;
use super::tail::Covered;
use super::verifier::SegmentVerifier;
use super::{LogHead, Logs};
use crate::crypto::ChainHash;
use crate::event::Event;
use crate::ids::{SegmentNumber, TenantId};
use crate::io::{Address, Effect, Effects, FileId, Page, Pages};
use crate::limits::{
    PAGE_SIZE, REPAIR_PATIENCE_NS, SEGMENT_ASKED_FIRST, SEGMENT_MENDS_MAX, SEGMENT_REPAIR_AGAIN_NS,
    SEGMENT_REPAIR_BLOCKS_MAX, SEGMENT_ROUNDS_MAX, SEGMENT_WRITES_MAX, SYNC_ANSWER_NS,
    SYNC_BLOCKS_MAX, VSR_REPAIR_NS,
};
use crate::time::Instant;

/// Where a segment's header holds the chain hash before it, and a record that of the one before.
const HEADER_CHAIN_AT: usize = 48;
const RECORD_CHAIN_AT: usize = 8;

/// Blocks that a peer is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlocksWanted {
    pub tenant: TenantId,
    pub segment: SegmentNumber,
    pub block: u64,
    pub count: u64,
    /// The answer must name it.
    pub serial: u64,
    /// Counts the requests: whom to ask.
    pub turn: u64,
}

/// What there is of repair in a log.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// There are peers to repair from.
    possible: bool,
    serial: u64,
    /// How often a segment was gone through for damage lately, and since when. What cannot be
    /// repaired is not tried without end.
    tried: BTreeMap<(TenantId, SegmentNumber), (u32, Option<Instant>)>,
    /// Reads for peers in flight.
    served: BTreeMap<(TenantId, SegmentNumber), u32>,
}

/// A stretch of bad blocks.
#[derive(Debug)]
pub(super) struct Mend {
    /// What was found, for whoever reads there when nobody can help.
    damage: Damage,
    stage: Stage,
    first: u64,
    /// The rebuild as it was before the first bad block.
    before: Box<SegmentVerifier>,
    pages: BTreeMap<u32, Box<Page>>,
    final_pages: VecDeque<u32>,
    /// A peer's blocks from `first` on.
    fetched: Vec<u8>,
    asked: Option<Asked>,
    /// When something last came of it.
    since: Option<Instant>,
    /// Answers that were no use, in all, and since blocks last came that were.
    refusals: u64,
    refused_here: u64,
    /// Whose blocks come first: another's, each time it is begun anew.
    starts: u64,
    writes: u32,
    /// What the header is made of; none while that is being looked for.
    pins: Option<LogPins>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The header, from the own index of the segments before.
    Header,
    /// Blocks from `first` on, behind those that are here, come from a peer.
    Peer,
    /// The own blocks behind the fetched ones: do they follow?
    Own,
    /// The end of the segment was reached: does this replica know of this end?
    Anchor,
    Write,
    ReadBack,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    serial: u64,
    refused: bool,
}

impl Mend {
    fn fetched_blocks(&self) -> u64 {
        (self.fetched.len() / PAGE_SIZE) as u64
    }

    /// The next peer is asked: to go on, or, when nothing is here, to begin.
    fn pass_on(&mut self) {
        if self.fetched.is_empty() {
            self.starts += 1;
            self.refused_here = 0;
        } else {
            self.refused_here += 1;
        }
    }

    fn end(&self) -> u64 {
        (self.first + self.fetched_blocks()) * PAGE_SIZE as u64
    }

    /// Its blocks are being written, or about to be: nobody else may read them now.
    pub(super) fn writes(&self) -> bool {
        matches!(self.stage, Stage::Write | Stage::ReadBack)
    }
}

impl Rebuild {
    /// As it was before anything was fetched.
    fn roll_back(&mut self) {
        let Some(mend) = &self.mend else { return };
        self.verifier = Some(SegmentVerifier::clone(&mend.before));
        self.pages = mend.pages.clone();
        self.final_pages = mend.final_pages.clone();
        self.next_block = mend.first;
    }
}

impl Logs {
    /// From now on blocks that do not verify are repaired from peers.
    pub fn repair_from_peers(&mut self) {
        self.repairs.possible = true;
    }

    pub(super) fn repairs_are_possible(&self) -> bool {
        self.repairs.possible
    }

    /// Whether a segment in which something is wrong is to be gone through, and repaired.
    pub(super) fn may_mend(&self, tenant: TenantId, segment: SegmentNumber) -> bool {
        let key = (tenant, segment);
        let tried = self.repairs.tried.get(&key).map_or(0, |(tried, _)| *tried);
        self.repairs.possible
            && !self.unbuildable.contains_key(&key)
            && (tried < SEGMENT_MENDS_MAX || self.rebuilds.contains_key(&key))
    }

    pub(super) fn note_mend(&mut self, tenant: TenantId, segment: SegmentNumber) {
        self.repairs.tried.entry((tenant, segment)).or_default().0 += 1;
    }

    /// What mends hold of their peers' blocks.
    pub(super) fn mended_bytes(&self) -> usize {
        let mends = self.rebuilds.values().filter_map(|work| work.mend.as_ref());
        mends.map(|mend| mend.fetched.capacity()).sum()
    }

    /// They take the room of as many blocks that were read.
    fn share_room(&mut self) {
        let blocks = self.mended_bytes().div_ceil(PAGE_SIZE);
        self.cache.lend(blocks);
    }

    /// Whether segments are being repaired, or were given up for now.
    #[must_use]
    pub fn is_repairing(&self) -> bool {
        let mends = self.rebuilds.values().any(|work| work.mend.is_some());
        self.repairs.possible && (mends || !self.unbuildable.is_empty())
    }

    pub(super) fn is_mending_write(&self, tenant: TenantId, segment: SegmentNumber) -> bool {
        let work = self.rebuilds.get(&(tenant, segment));
        work.and_then(|work| work.mend.as_ref()).is_some_and(|mend| mend.writes())
    }

    /// What is to be asked for now, of one of so many peers; and what nobody gave is given up.
    pub fn blocks_wanted(
        &mut self,
        now: Instant,
        peers: u64,
        effects: &mut Effects,
    ) -> Option<BlocksWanted> {
        self.forget_tries(now);
        let holds =
            |work: &Rebuild| work.mend.as_ref().is_some_and(|mend| !mend.fetched.is_empty());
        let asks = |work: &Rebuild| {
            work.mend.as_ref().is_some_and(|mend| mend.stage == Stage::Peer) && !work.reading
        };
        let holder = self.rebuilds.iter().find(|(_, work)| holds(work));
        let next = holder.or_else(|| self.rebuilds.iter().find(|(_, work)| asks(work)));
        let ((tenant, segment), work) = next?;
        if !asks(work) {
            return None;
        }
        let (tenant, segment) = (*tenant, *segment);
        let covered = self.covered(tenant, segment, &work.head) / PAGE_SIZE as u64;
        let Some(mend) = self.mend(tenant, segment) else { unreachable!("it asks") };
        let at = mend.first + mend.fetched_blocks();
        let since = *mend.since.get_or_insert(now);
        let rounds = mend.refusals / peers;
        let patience = now.since_ns(since) < REPAIR_PATIENCE_NS && rounds < SEGMENT_ROUNDS_MAX;
        if at >= covered || !patience {
            self.mend_failed(tenant, segment, effects);
            self.rebuild_step(effects);
            return None;
        }
        let full = mend.fetched_blocks() >= SEGMENT_REPAIR_BLOCKS_MAX;
        if full || (mend.refused_here >= peers && !mend.fetched.is_empty()) {
            // Nobody's blocks follow these, or nothing here confirms them: from another peer first.
            self.mend_start_over(tenant, segment, effects);
            return None;
        }
        if let Some(asked) = mend.asked {
            let pause_ns = if !asked.refused {
                SYNC_ANSWER_NS
            } else if mend.refusals.is_multiple_of(peers) {
                VSR_REPAIR_NS << rounds
            } else {
                0
            };
            if now.since_ns(asked.at) < pause_ns {
                return None;
            }
        }
        let room = SEGMENT_REPAIR_BLOCKS_MAX - mend.fetched_blocks();
        let count = mend.fetched_blocks().clamp(SEGMENT_ASKED_FIRST, SYNC_BLOCKS_MAX as u64);
        let count = count.min(covered - at).min(room);
        self.repairs.serial += 1;
        let serial = self.repairs.serial;
        let Some(mend) = self.mend(tenant, segment) else { unreachable!("it asks") };
        if mend.asked.is_some_and(|asked| !asked.refused) {
            // It did not answer.
            mend.pass_on();
        }
        let turn = mend.starts + mend.refused_here;
        mend.asked = Some(Asked { at: now, serial, refused: false });
        Some(BlocksWanted { tenant, segment, block: at, count, serial, turn })
    }

    /// After a while, what was given up is tried again when it is read.
    fn forget_tries(&mut self, now: Instant) {
        let Logs { repairs, unbuildable, .. } = self;
        if !repairs.possible {
            return;
        }
        for key in unbuildable.keys() {
            repairs.tried.entry(*key).or_default();
        }
        repairs.tried.retain(|key, (_, since)| {
            let since = *since.get_or_insert(now);
            let keep = now.since_ns(since) < SEGMENT_REPAIR_AGAIN_NS;
            if !keep {
                unbuildable.remove(key);
            }
            keep
        });
    }

    /// Blocks of a peer; none: it has them not.
    pub fn on_blocks(&mut self, serial: u64, blocks: &[u8], effects: &mut Effects) {
        let asked = |work: &Rebuild| {
            let mend = work.mend.as_ref()?;
            let asked = mend.asked.filter(|_| mend.stage == Stage::Peer)?;
            Some(asked.serial == serial && !asked.refused)
        };
        let found = self.rebuilds.iter().find(|(_, work)| asked(work) == Some(true));
        let Some((&(tenant, segment), _)) = found else { return };
        let layout = self.layout;
        let first = u64::from(segment.get()) * self.segment_positions;
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return };
        let Some(mend) = &mut work.mend else { return };
        let room = (SEGMENT_REPAIR_BLOCKS_MAX - mend.fetched_blocks()) as usize;
        let mut count = (blocks.len() / PAGE_SIZE).min(room).min(SYNC_BLOCKS_MAX);
        let before = core::mem::take(&mut mend.fetched);
        // Of a peer that is damaged farther on, what is good: half, and half again.
        let fetched = loop {
            if count == 0 {
                break None;
            }
            let Some(mend) = &work.mend else { unreachable!("a roll back leaves it") };
            let mut fetched = Vec::with_capacity(before.len() + count * PAGE_SIZE);
            fetched.extend_from_slice(&before);
            fetched.extend_from_slice(&blocks[..count * PAGE_SIZE]);
            // What was verified here needs no peer, and no second read, which may go astray.
            let prefix = mend.before.verified_prefix();
            fetched[..prefix.len()].copy_from_slice(prefix);
            #[cfg(verity_zoo)]
            if crate::zoo::is("segment_repair_unchecked") {
                break Some(fetched);
            }
            work.roll_back();
            if work.push(layout, first, &fetched, None).0.is_ok() {
                break Some(fetched);
            }
            count /= 2;
        };
        let verified = work.is_verified();
        let Some(mend) = &mut work.mend else { unreachable!("a roll back leaves it") };
        let Some(fetched) = fetched else {
            mend.fetched = before;
            mend.pass_on();
            self.mend_refused(tenant, segment, effects);
            return;
        };
        mend.fetched = fetched;
        mend.refused_here = 0;
        mend.since = None;
        mend.asked = None;
        mend.stage = if verified { Stage::Anchor } else { Stage::Own };
        #[cfg(verity_zoo)]
        if crate::zoo::is("segment_repair_unchecked") {
            mend.stage = Stage::Write;
        }
        work.next_block = mend.first + mend.fetched_blocks();
        self.share_room();
        self.rebuild_step(effects);
    }

    fn mend(&mut self, tenant: TenantId, segment: SegmentNumber) -> Option<&mut Mend> {
        self.rebuilds.get_mut(&(tenant, segment)).and_then(|work| work.mend.as_deref_mut())
    }

    /// A rebuild met blocks that do not verify. False: they are not to be repaired.
    pub(super) fn begin_mend(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        damage: &Damage,
    ) -> bool {
        let key = (tenant, segment);
        let (possible, starts) = (self.repairs.possible, self.repairs.serial);
        let covered = match self.rebuilds.get(&key) {
            Some(work) => self.covered(tenant, segment, &work.head),
            None => 0,
        };
        let Some(work) = self.rebuilds.get_mut(&key) else { return false };
        let Some(verifier) = &mut work.verifier else { return false };
        let verified = verifier.verified_bytes();
        let first = verifier.forget_unverified();
        if !possible || first * PAGE_SIZE as u64 >= covered {
            return false;
        }
        let stage = if verified == 0 { Stage::Header } else { Stage::Peer };
        work.mend = Some(Box::new(Mend {
            damage: damage.clone(),
            stage,
            first,
            before: Box::new(verifier.clone()),
            pages: work.pages.clone(),
            final_pages: work.final_pages.clone(),
            fetched: Vec::new(),
            asked: None,
            since: None,
            refusals: 0,
            refused_here: 0,
            starts,
            writes: 0,
            pins: Some(LogPins::default()),
        }));
        work.next_block = first;
        let (number, offset) = (segment.get(), damage.offset);
        self.events.push(Event::BlockCorrupt { tenant, number, offset });
        true
    }

    /// Nobody could help.
    pub(super) fn mend_failed(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) {
        let Some(work) = self.rebuilds.remove(&(tenant, segment)) else { return };
        let Some(mut mend) = work.mend else { return };
        if let Some(pins) = &mut mend.pins {
            self.release(pins);
        }
        let (number, block) = (segment.get(), mend.first);
        effects.event(Event::SegmentRepairFailed { tenant, number, block });
        self.unbuildable.insert((tenant, segment), mend.damage);
        self.share_room();
    }

    /// What a peer gave is not what belongs here.
    fn mend_refused(&mut self, tenant: TenantId, segment: SegmentNumber, effects: &mut Effects) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return };
        let Some(mend) = &mut work.mend else { return };
        mend.refusals += 1;
        mend.stage = Stage::Peer;
        if let Some(asked) = &mut mend.asked {
            asked.refused = true;
        }
        let (number, block) = (segment.get(), mend.first);
        effects.event(Event::SegmentBlocksRefused { tenant, number, block });
        self.share_room();
        #[cfg(verity_zoo)]
        if crate::zoo::is("segment_repair_one_peer") {
            self.mend_failed(tenant, segment, effects);
        }
    }

    /// Drives a mend. True: something moved without I/O, come again.
    pub(super) fn mend_one(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let Some(mend) = self.mend(tenant, segment) else { return false };
        match mend.stage {
            Stage::Peer => false,
            Stage::Header => self.mend_header(tenant, segment, effects),
            Stage::Own => self.rebuild_forward(tenant, segment, effects),
            Stage::Anchor => self.mend_anchor(tenant, segment, effects),
            Stage::Write => self.mend_write(tenant, segment, effects),
            Stage::ReadBack => {
                let (first, count) = (mend.first, mend.fetched_blocks());
                self.mend_read(tenant, segment, segment, first, count, effects);
                false
            }
        }
    }

    /// Reads blocks of this segment, or the beginning of the next, for a mend of this one.
    fn mend_read(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        from: SegmentNumber,
        block: u64,
        count: u64,
        effects: &mut Effects,
    ) {
        let at = Address::new(FileId::Segment { tenant, number: from }, block * PAGE_SIZE as u64);
        let io = self.io(Purpose::RebuildRead { tenant, segment, at });
        let pages = self.pages(count as usize);
        if let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) {
            work.reading = true;
        }
        effects.push(Effect::Read { io, at, pages });
    }

    /// What was read while a mend is under way.
    pub(super) fn mend_take(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        blocks: &[u8],
        effects: &mut Effects,
    ) {
        let Some(mend) = self.mend(tenant, segment) else { unreachable!("the caller has it") };
        match mend.stage {
            Stage::Own => self.mend_take_own(tenant, segment, blocks),
            Stage::Anchor => {
                let (header, records) = blocks.split_at(PAGE_SIZE);
                let chains =
                    [chain_at(header, HEADER_CHAIN_AT), chain_at(records, RECORD_CHAIN_AT)];
                self.mend_anchored(tenant, segment, &chains, effects);
            }
            Stage::ReadBack => {
                let equal = mend.fetched == blocks;
                #[cfg(verity_zoo)]
                let equal = equal || crate::zoo::is("segment_repair_not_read_back");
                if equal {
                    self.mend_done(tenant, segment, effects);
                } else if mend.writes < SEGMENT_WRITES_MAX {
                    mend.stage = Stage::Write;
                } else {
                    self.mend_failed(tenant, segment, effects);
                }
            }
            Stage::Header | Stage::Peer | Stage::Write => {
                unreachable!("nothing is read for these")
            }
        }
    }

    /// Own blocks behind those of a peer. A whole record in them that follows confirms all before
    /// it: it holds the hash of the record before, which holds that of the one before that.
    fn mend_take_own(&mut self, tenant: TenantId, segment: SegmentNumber, blocks: &[u8]) {
        let layout = self.layout;
        let first = u64::from(segment.get()) * self.segment_positions;
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return };
        let Some(end) = work.mend.as_ref().map(|mend| mend.end()) else { return };
        let (result, confirmed) = work.push(layout, first, blocks, Some(end));
        work.next_block += (blocks.len() / PAGE_SIZE) as u64;
        let verified = work.is_verified();
        let Some(mend) = &mut work.mend else { return };
        if confirmed {
            mend.stage = Stage::Write;
        } else if result.is_err() {
            // These are bad too, or what was fetched is not right.
            mend.stage = Stage::Peer;
        } else if verified {
            mend.stage = Stage::Anchor;
        }
    }

    /// The segment ends here: does it end as this replica knows that it does?
    fn mend_anchor(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let Some(work) = self.rebuilds.get(&(tenant, segment)) else { return false };
        if work.end == work.head.next {
            let chain = work.head.chain;
            self.mend_anchored(tenant, segment, &[chain], effects);
            return true;
        }
        let next = SegmentNumber::new(segment.get() + 1);
        let log = self.open.get(&tenant);
        let header = log.and_then(|log| log.block(next, 0)).map(|block| (block, HEADER_CHAIN_AT));
        let record = log.and_then(|log| log.block(next, PAGE_SIZE as u64));
        let known = header.or(record.map(|block| (block, RECORD_CHAIN_AT)));
        if let Some((block, at)) = known
            && block.len() >= at + 32
        {
            let chain = chain_at(block, at);
            self.mend_anchored(tenant, segment, &[chain], effects);
            return true;
        }
        if !self.is_mending_write(tenant, next) {
            self.mend_read(tenant, segment, next, 0, 2, effects);
        }
        false
    }

    fn mend_anchored(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        known: &[ChainHash],
        effects: &mut Effects,
    ) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return };
        let chain = work.verifier.as_ref().and_then(SegmentVerifier::chain);
        if chain.is_some_and(|chain| known.contains(&chain)) {
            let end = work.verifier.as_ref().map_or(0, SegmentVerifier::verified_bytes);
            let Some(mend) = &mut work.mend else { return };
            // Of a segment that ends here, no block beyond its end.
            let blocks = end.div_ceil(PAGE_SIZE as u64).saturating_sub(mend.first);
            mend.fetched.truncate(blocks as usize * PAGE_SIZE);
            mend.stage = Stage::Write;
        } else {
            self.mend_start_over(tenant, segment, effects);
        }
    }

    fn mend_start_over(&mut self, tenant: TenantId, segment: SegmentNumber, effects: &mut Effects) {
        if let Some(mend) = self.mend(tenant, segment) {
            mend.fetched = Vec::new();
            mend.pass_on();
        }
        self.mend_refused(tenant, segment, effects);
    }

    fn mend_write(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) -> bool {
        let file = FileId::Segment { tenant, number: segment };
        let Some(mend) = self.mend(tenant, segment) else { return false };
        let (first, count) = (mend.first, mend.fetched_blocks());
        let read = (first..first + count).any(|block| self.cache.is_reading(file, block));
        let served = self.repairs.served.contains_key(&(tenant, segment));
        let before = segment.get().checked_sub(1).map(SegmentNumber::new);
        let looked_at =
            before.and_then(|before| self.rebuilds.get(&(tenant, before))).is_some_and(|work| {
                work.reading && work.mend.as_ref().is_some_and(|m| m.stage == Stage::Anchor)
            });
        let scrubbed = self.scrub_reads(tenant, segment);
        if read || served || looked_at || scrubbed || !self.file_exists(file, effects) {
            return false;
        }
        let Some(mend) = self.mend(tenant, segment) else { return false };
        mend.writes += 1;
        let pages = Pages::from_bytes(&mend.fetched);
        if let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) {
            work.writing = true;
        }
        let io = self.io(Purpose::MendWrite { tenant, segment });
        let at = Address::new(file, first * PAGE_SIZE as u64);
        #[cfg(not(verity_zoo))]
        let durable = true;
        #[cfg(verity_zoo)]
        let durable = !crate::zoo::is("segment_repair_not_durable");
        effects.push(Effect::Write { io, at, pages, durable });
        false
    }

    pub(super) fn mend_written(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        effects: &mut Effects,
    ) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else {
            unreachable!("a mend stays until its writes are done")
        };
        work.writing = false;
        let Some(mend) = &mut work.mend else { unreachable!("it wrote") };
        mend.stage = Stage::ReadBack;
        self.rebuild_step(effects);
    }

    /// What was bad is good, and on the disk: the rebuild goes on behind it.
    fn mend_done(&mut self, tenant: TenantId, segment: SegmentNumber, effects: &mut Effects) {
        let Some(work) = self.rebuilds.get_mut(&(tenant, segment)) else { return };
        let Some(mend) = work.mend.take() else { return };
        if let Some(verifier) = &mut work.verifier {
            work.next_block = verifier.forget_unverified();
        }
        let file = FileId::Segment { tenant, number: segment };
        for (nth, block) in (mend.first..).zip(Pages::from_bytes(&mend.fetched).as_slice()) {
            self.cache.replace(file, nth, block);
        }
        let (number, block, count) = (segment.get(), mend.first, mend.fetched_blocks());
        effects.event(Event::SegmentBlocksRepaired { tenant, number, block, count });
        self.share_room();
    }

    /// Bytes of a segment that a checkpoint covers.
    fn covered(&self, tenant: TenantId, segment: SegmentNumber, head: &LogHead) -> u64 {
        let covered = self.covered_of(tenant, head);
        match segment.cmp(&covered.segment) {
            core::cmp::Ordering::Less => u64::MAX / 2,
            core::cmp::Ordering::Equal => covered.offset,
            core::cmp::Ordering::Greater => 0,
        }
    }

    /// How far a durable checkpoint goes; of a log that is not open, its head is of one.
    pub(super) fn covered_of(&self, tenant: TenantId, head: &LogHead) -> Covered {
        self.open.get(&tenant).map_or_else(|| Covered::of(head), |log| log.covered)
    }
}

fn chain_at(block: &[u8], at: usize) -> ChainHash {
    let mut chain = ChainHash::ZERO;
    chain.0.copy_from_slice(&block[at..at + 32]);
    chain
}
