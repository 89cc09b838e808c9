//! Checks a segment from its bytes alone: streaming, in constant memory, without keys.
//!
//! What it proves: every record is whole (crc), in its place (tenant, dense positions), follows the
//! one before (chain), lies within a transaction that is whole, and padding is zeros; the tree is
//! recomputed. What it cannot: that `data` opens. A caller with keys opens checkpoint records in
//! the callback and holds their claims against [`RecordView::claim_holds`].
//!
//! Invariants: accepts exactly what the writer writes. Memory is bounded by one record and what is
//! pushed at once. The first fault ends it.

use alloc::vec::Vec;

use super::checkpoint_record::CheckpointRecord;
use super::damage::{Damage, DamageReason};
use super::head::LogHead;
use super::record::{RecordRef, decode_length, decode_record};
use super::segment::{LENGTH_SIZE, SegmentHeader};
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Generation, Op, Position, SegmentNumber, TenantId};
use crate::limits::PAGE_SIZE;
use crate::time::Timestamp;

/// How far a segment is to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentExtent {
    /// All records before this position, or all of the segment if it ends first.
    To(Position),
    /// The same of a log that goes on: its next record may be in the very block.
    Through(Position),
    /// Not known: until the segment is full or something is no record.
    Unknown,
}

/// Where a segment should begin.
#[derive(Clone, Debug)]
pub struct SegmentStart {
    pub tenant: TenantId,
    pub number: SegmentNumber,
    /// The end of the segment before. None: the header is believed, unless it is segment 0, whose
    /// beginning everyone knows.
    pub before: Option<SegmentEnd>,
}

/// How a segment ended, as recomputed from its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    pub next: Position,
    pub chain: ChainHash,
    pub frontier: Frontier,
    /// Bytes of the segment, padding included.
    pub size_bytes: u64,
    last: Option<Last>,
}

/// What the next record must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    transaction_first: Position,
    transaction_last: Position,
    op: Op,
    generation: Generation,
    timestamp: Timestamp,
}

impl SegmentEnd {
    /// Before the first record of a log.
    #[must_use]
    pub fn genesis() -> SegmentEnd {
        SegmentEnd {
            next: Position::ZERO,
            chain: ChainHash::ZERO,
            frontier: Frontier::new(),
            size_bytes: 0,
            last: None,
        }
    }

    /// Is this the log that the head stands for?
    #[must_use]
    pub fn matches(&self, head: &LogHead) -> bool {
        self.next == head.next && self.chain == head.chain && self.frontier == head.frontier
    }
}

/// One record on its way past.
#[derive(Debug)]
pub struct RecordView<'a> {
    /// Byte of the segment.
    pub offset: u64,
    pub record: RecordRef<'a>,
    /// The tree before this record.
    pub frontier: &'a Frontier,
}

impl RecordView<'_> {
    /// Is what this checkpoint record claims of the log before it true?
    pub fn claim_holds(&self, claim: &CheckpointRecord) -> Result<(), DamageReason> {
        let holds = claim.record_count == self.record.metadata.position.get()
            && claim.chain_hash == self.record.prev_hash
            && claim.tree_root == self.frontier.root()
            && claim.time == self.record.metadata.timestamp;
        if holds { Ok(()) } else { Err(DamageReason::CheckpointRecord) }
    }
}

#[derive(Clone, Debug)]
pub struct SegmentVerifier {
    tenant: TenantId,
    number: SegmentNumber,
    extent: SegmentExtent,
    /// None: believe the header.
    end: Option<SegmentEnd>,
    header: Option<SegmentHeader>,
    /// First position that is not to be checked; known with the header.
    stop: Position,
    /// Bytes not yet taken, from `offset` of the segment on.
    buffer: Vec<u8>,
    offset: u64,
    /// Where the last record ends: behind it may be padding, or zeros that should be a record.
    proven: u64,
    /// The beginning of the block in which the last record ends, up to there.
    prefix: Vec<u8>,
    /// Bytes of the next block that were taken already.
    skip: usize,
    done: bool,
}

enum Step {
    More,
    NeedBytes,
}

impl SegmentVerifier {
    #[must_use]
    pub fn new(start: SegmentStart, extent: SegmentExtent) -> SegmentVerifier {
        let end = match start.before {
            None if start.number == SegmentNumber::ZERO => Some(SegmentEnd::genesis()),
            before => before,
        };
        SegmentVerifier {
            tenant: start.tenant,
            number: start.number,
            extent,
            end,
            header: None,
            stop: Position::ZERO,
            buffer: Vec::new(),
            offset: 0,
            proven: 0,
            prefix: Vec::new(),
            skip: 0,
            done: false,
        }
    }

    /// All that was asked for has been seen; more blocks are ignored.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Forgets what is not verified yet, so that it can be pushed again, from the block that this
    /// gives on. What that block holds of verified records is not looked at again: it is
    /// [`SegmentVerifier::verified_prefix`], whatever another read of it would give.
    pub fn forget_unverified(&mut self) -> u64 {
        self.buffer.clear();
        self.skip = (self.offset % PAGE_SIZE as u64) as usize;
        self.offset / PAGE_SIZE as u64
    }

    /// How the next block begins that is pushed, as far as it is verified already.
    #[must_use]
    pub fn verified_prefix(&self) -> &[u8] {
        assert!(self.skip == 0 || self.skip == self.prefix.len(), "a block ends in its padding");
        &self.prefix[..self.skip]
    }

    /// As [`SegmentVerifier::forget_unverified`], but for padding that no record follows, too: that
    /// may be a damaged record, of which zeros are left.
    pub fn forget_unproven(&mut self) -> u64 {
        if !self.done {
            self.offset = self.proven;
        }
        self.forget_unverified()
    }

    /// Bytes of the segment that can be nothing else: to the last record, or all when it is done.
    #[must_use]
    pub fn proven_bytes(&self) -> u64 {
        if self.done { self.offset } else { self.proven }
    }

    /// Bytes of the segment that are verified.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        self.offset
    }

    /// It was to end elsewhere.
    pub(super) fn ends_otherwise(&self) -> Damage {
        self.damage(DamageReason::Head)
    }

    /// Hash of the last record that is verified; zeros before the first.
    #[must_use]
    pub fn chain(&self) -> Option<ChainHash> {
        self.end.as_ref().map(|end| end.chain)
    }

    #[must_use]
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Takes the next whole blocks of the file, in order; tells of each record in them.
    pub fn push(
        &mut self,
        blocks: &[u8],
        mut each: impl FnMut(&RecordView<'_>) -> Result<(), DamageReason>,
    ) -> Result<(), Damage> {
        assert!(blocks.len().is_multiple_of(PAGE_SIZE), "segments are whole blocks");
        if self.done {
            return Ok(());
        }
        self.buffer.extend_from_slice(&blocks[self.skip.min(blocks.len())..]);
        if !blocks.is_empty() {
            self.skip = 0;
        }
        let (mut taken, from) = (0, self.offset);
        let result = loop {
            match self.step(&mut taken, &mut each) {
                Ok(Step::More) => {}
                Ok(Step::NeedBytes) => break Ok(()),
                Err(reason) => break Err(self.damage(reason)),
            }
        };
        self.keep_prefix(from);
        self.buffer.drain(..taken);
        result
    }

    /// Of what was taken, which the buffer still has from this byte of the segment on.
    fn keep_prefix(&mut self, from: u64) {
        let block = self.proven - self.proven % PAGE_SIZE as u64;
        let Some(proven) = self.proven.checked_sub(from) else { return };
        let first = block.saturating_sub(from);
        if block >= from {
            self.prefix.clear();
        }
        self.prefix.extend_from_slice(&self.buffer[first as usize..proven as usize]);
    }

    /// The end of the segment, if all that was asked for was there.
    pub fn finish(self) -> Result<SegmentEnd, Damage> {
        let complete = self.done || self.extent == SegmentExtent::Unknown;
        match &self.end {
            Some(end) if complete && self.header.is_some() => {
                Ok(SegmentEnd { size_bytes: self.offset, ..end.clone() })
            }
            Some(_) | None => Err(self.damage(DamageReason::Truncated)),
        }
    }

    fn damage(&self, reason: DamageReason) -> Damage {
        Damage {
            tenant: self.tenant,
            segment: self.number,
            offset: self.offset,
            position: self.end.as_ref().map_or(Position::ZERO, |end| end.next),
            reason,
            checkpointed: self.extent != SegmentExtent::Unknown,
        }
    }

    fn step(
        &mut self,
        taken: &mut usize,
        each: &mut impl FnMut(&RecordView<'_>) -> Result<(), DamageReason>,
    ) -> Result<Step, DamageReason> {
        let available = self.buffer.len() - *taken;
        let complete =
            self.header.is_some() && self.end.as_ref().is_some_and(|end| end.next >= self.stop);
        if self.done || (available == 0 && !complete) {
            return Ok(Step::NeedBytes);
        }
        if self.offset == 0 {
            let block = *taken..*taken + PAGE_SIZE;
            self.take_header(block.start)?;
            *taken = block.end;
            self.offset = PAGE_SIZE as u64;
            self.proven = self.offset;
            return Ok(Step::More);
        }
        let Some(end) = &self.end else { unreachable!("known since the header") };
        let in_block = (self.offset % PAGE_SIZE as u64) as usize;
        let left = if in_block == 0 { 0 } else { PAGE_SIZE - in_block };
        if end.next >= self.stop {
            // Full segments end in padding however they are asked for.
            let goes_on = match self.extent {
                SegmentExtent::Through(position) => end.next >= position,
                SegmentExtent::To(_) | SegmentExtent::Unknown => false,
            };
            if !goes_on {
                self.take_padding(taken, left)?;
            }
            self.done = true;
            return Ok(Step::NeedBytes);
        }
        if left > 0 && left < LENGTH_SIZE {
            self.take_padding(taken, left)?;
            return Ok(Step::More);
        }
        let Some(length) = self.buffer[*taken..].first_chunk::<LENGTH_SIZE>() else {
            return Ok(Step::NeedBytes);
        };
        if *length == [0; LENGTH_SIZE] {
            if left > 0 {
                self.take_padding(taken, left)?;
                return Ok(Step::More);
            }
            if self.extent == SegmentExtent::Unknown {
                self.done = true;
                return Ok(Step::NeedBytes);
            }
            return Err(DamageReason::Padding);
        }
        let size = decode_length(*length).map_err(DamageReason::Record)?;
        if available < size {
            return Ok(Step::NeedBytes);
        }
        self.take_record(*taken, size, each)?;
        *taken += size;
        self.offset += size as u64;
        self.proven = self.offset;
        Ok(Step::More)
    }

    fn take_header(&mut self, at: usize) -> Result<(), DamageReason> {
        let Some(block) = self.buffer[at..].first_chunk::<PAGE_SIZE>() else {
            unreachable!("whole blocks are pushed")
        };
        let header = SegmentHeader::decode(block).map_err(DamageReason::Header)?;
        let mine = header.tenant == self.tenant && header.number == self.number;
        let follows = self.end.as_ref().is_none_or(|end| {
            end.next == header.first && end.chain == header.chain && end.frontier == header.frontier
        });
        if !mine || !follows {
            return Err(DamageReason::HeaderMisplaced);
        }
        let full = Position::new(header.first.get().saturating_add(header.segment_positions));
        self.stop = match self.extent {
            SegmentExtent::To(position) | SegmentExtent::Through(position) => full.min(position),
            SegmentExtent::Unknown => full,
        };
        self.end.get_or_insert_with(|| SegmentEnd {
            next: header.first,
            chain: header.chain,
            frontier: header.frontier.clone(),
            size_bytes: 0,
            last: None,
        });
        self.header = Some(header);
        Ok(())
    }

    fn take_padding(&mut self, taken: &mut usize, size: usize) -> Result<(), DamageReason> {
        // Blocks are pushed whole, so the rest of one is always here.
        if self.buffer[*taken..*taken + size].iter().any(|&byte| byte != 0) {
            return Err(DamageReason::Padding);
        }
        *taken += size;
        self.offset += size as u64;
        Ok(())
    }

    fn take_record(
        &mut self,
        at: usize,
        size: usize,
        each: &mut impl FnMut(&RecordView<'_>) -> Result<(), DamageReason>,
    ) -> Result<(), DamageReason> {
        let record = decode_record(&self.buffer[at..at + size]).map_err(DamageReason::Record)?;
        let Some(end) = &mut self.end else { unreachable!("known since the header") };
        let metadata = &record.metadata;
        if metadata.tenant != self.tenant || metadata.position != end.next {
            return Err(DamageReason::Misplaced {
                tenant: metadata.tenant,
                position: metadata.position,
            });
        }
        if record.prev_hash != end.chain {
            return Err(DamageReason::Chain);
        }
        let last = Last {
            transaction_first: metadata.transaction_first,
            transaction_last: metadata.transaction_last,
            op: metadata.op,
            generation: metadata.generation,
            timestamp: metadata.timestamp,
        };
        if !follows(end.last.as_ref(), &last, end.next) {
            return Err(DamageReason::Transaction);
        }
        let hash = record.hash;
        each(&RecordView { offset: self.offset, record, frontier: &end.frontier })?;
        end.next = end.next.next();
        end.chain = hash;
        end.frontier.push(&hash);
        end.last = Some(last);
        Ok(())
    }
}

/// May a record at `position` stand where the one before it was `before`?
fn follows(before: Option<&Last>, this: &Last, position: Position) -> bool {
    if this.transaction_first > position || position > this.transaction_last {
        return false;
    }
    let Some(before) = before else {
        // The first that is seen of a later segment may be amid its transaction.
        return position > Position::ZERO || this.transaction_first == position;
    };
    let within = position <= before.transaction_last;
    let bounds = if within {
        this.transaction_first == before.transaction_first
            && this.transaction_last == before.transaction_last
            && this.op == before.op
    } else {
        this.transaction_first == position
    };
    bounds
        && before.op <= this.op
        && before.generation <= this.generation
        && before.timestamp <= this.timestamp
}
