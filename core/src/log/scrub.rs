//! Segments read in the background, for damage that nobody reads.
//!
//! Purpose: one log after the other is verified from its first record to what the last checkpoint
//! covers, chain and tree, a read of blocks at each step; what is damaged is repaired as for a
//! reader (`mend`), and verified again. Invariants: one read at a time; only blocks are read that a
//! checkpoint covers, so nothing writes there but a repair, which waits.
//!
//! Fault model: alone, or when nobody can help, damage is told (`BlockCorrupt`) and counted, and
//! the log is gone on with at the next segment.

use alloc::boxed::Box;

use super::damage::Damage;
use super::flush::Purpose;
use super::rebuild::Cause;
use super::tail::Covered;
use super::verifier::{SegmentEnd, SegmentExtent, SegmentStart, SegmentVerifier};
use super::{LogHead, Logs};
use crate::event::Event;
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::{Address, Effect, Effects, FileId, Pages};
use crate::limits::{LOG_READ_BLOCKS_MAX, PAGE_SIZE, SEGMENT_MENDS_MAX};

/// What scrubbing a log came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// Goes on, or waits for a read or a repair.
    More,
    /// The log was read to its end.
    Done,
}

#[derive(Debug, Default)]
pub(super) struct Scrub {
    at: Option<Box<At>>,
    reading: bool,
    /// Blocks read, and segments in which damage was found, since the start.
    blocks: u64,
    damaged: u64,
}

/// The segment that is being read.
#[derive(Debug)]
struct At {
    tenant: TenantId,
    number: SegmentNumber,
    before: Option<SegmentEnd>,
    covered: Covered,
    verifier: SegmentVerifier,
    next_block: u64,
    found: Found,
    tries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// To be repaired, when the caller comes with the log's head.
    Damage,
    Repairing,
    /// To its end; the log may go on in the next.
    End(Option<Box<SegmentEnd>>),
}

impl At {
    fn new(
        tenant: TenantId,
        number: SegmentNumber,
        before: Option<SegmentEnd>,
        covered: Covered,
    ) -> At {
        let start = SegmentStart { tenant, number, before: before.clone() };
        let verifier = SegmentVerifier::new(start, SegmentExtent::To(covered.next));
        let (found, next_block, tries) = (Found::Nothing, 0, 0);
        At { tenant, number, before, covered, verifier, next_block, found, tries }
    }

    /// From its first block again.
    fn again(self) -> At {
        let At { tenant, number, before, covered, tries, .. } = self;
        At { tries: tries + 1, ..At::new(tenant, number, before, covered) }
    }

    fn blocks_left(&self) -> u64 {
        if self.number == self.covered.segment {
            (self.covered.offset / PAGE_SIZE as u64).saturating_sub(self.next_block)
        } else {
            u64::MAX
        }
    }
}

impl Logs {
    /// One step through the log of this tenant; the step after the last of one log begins another.
    /// `head` as in [`Logs::read`].
    pub fn scrub_step(
        &mut self,
        tenant: TenantId,
        head: &LogHead,
        effects: &mut Effects,
    ) -> ScrubStep {
        let head = self.head(tenant).unwrap_or(head).clone();
        if self.scrub.reading {
            return ScrubStep::More;
        }
        let at = self.scrub.at.take().filter(|at| at.tenant == tenant);
        let covered = self.covered_of(tenant, &head);
        let at = match at {
            Some(at) => *at,
            None if covered.next == Position::ZERO => return ScrubStep::Done,
            None => At::new(tenant, SegmentNumber::ZERO, None, covered),
        };
        let key = (tenant, at.number);
        if self.rebuilds.contains_key(&key) {
            self.scrub.at = Some(Box::new(at));
            return ScrubStep::More;
        }
        #[cfg(verity_zoo)]
        if crate::zoo::is("scrub_stops_at_damage") && at.found == Found::Damage {
            return self.scrub_next(&at, None, covered);
        }
        match at.found.clone() {
            Found::Nothing => self.scrub_read(at, effects),
            Found::Damage if at.tries < SEGMENT_MENDS_MAX && self.may_mend(tenant, at.number) => {
                self.note_mend(tenant, at.number);
                let number = at.number;
                self.scrub.at = Some(Box::new(At { found: Found::Repairing, ..at }));
                self.rebuild(tenant, number, &head, Cause::Index, effects);
            }
            Found::Repairing if !self.unbuildable.contains_key(&key) => {
                self.scrub.at = Some(Box::new(at.again()));
            }
            // Nothing helps: what is behind it is looked at all the same.
            Found::Damage | Found::Repairing => return self.scrub_next(&at, None, covered),
            Found::End(end) => return self.scrub_next(&at, end.map(|end| *end), covered),
        }
        ScrubStep::More
    }

    fn scrub_next(&mut self, at: &At, end: Option<SegmentEnd>, covered: Covered) -> ScrubStep {
        if at.number >= at.covered.segment {
            return ScrubStep::Done;
        }
        let number = SegmentNumber::new(at.number.get() + 1);
        self.scrub.at = Some(Box::new(At::new(at.tenant, number, end, covered)));
        ScrubStep::More
    }

    fn scrub_read(&mut self, mut at: At, effects: &mut Effects) {
        let count = at.blocks_left().min(LOG_READ_BLOCKS_MAX as u64);
        if count == 0 {
            let damage = at.verifier.clone().finish().err();
            at.found = Found::Damage;
            self.scrub.at = Some(Box::new(at));
            self.scrub_found(damage.as_ref());
            return;
        }
        let (tenant, segment, block) = (at.tenant, at.number, at.next_block);
        self.scrub.at = Some(Box::new(at));
        self.scrub.reading = true;
        let file = FileId::Segment { tenant, number: segment };
        let at = Address::new(file, block * PAGE_SIZE as u64);
        let io = self.io(Purpose::ScrubRead { at });
        let pages = self.pages(count as usize);
        effects.push(Effect::Read { io, at, pages });
    }

    pub(super) fn scrub_taken(&mut self, pages: &Pages) {
        self.scrub.reading = false;
        self.scrub.blocks += pages.count() as u64;
        let Some(mut at) = self.scrub.at.take() else { unreachable!("it read") };
        let pushed = at.verifier.push(pages.as_bytes(), |_| Ok(()));
        at.next_block += pages.count() as u64;
        let damage = match pushed {
            Err(damage) => Some(damage),
            Ok(()) if !at.verifier.is_done() => None,
            Ok(()) => {
                let last = at.number == at.covered.segment;
                let chain = at.verifier.chain();
                if last && chain != Some(at.covered.chain) {
                    // All records are whole, and they are not those of this log.
                    Some(at.verifier.ends_otherwise())
                } else {
                    at.found = Found::End(at.verifier.clone().finish().ok().map(Box::new));
                    None
                }
            }
        };
        if damage.is_some() {
            at.found = Found::Damage;
        }
        self.scrub.at = Some(at);
        if damage.is_some() {
            self.scrub_found(damage.as_ref());
        }
    }

    fn scrub_found(&mut self, damage: Option<&Damage>) {
        self.scrub.damaged += 1;
        if let Some(damage) = damage {
            self.events.push(Event::BlockCorrupt {
                tenant: damage.tenant,
                number: damage.segment.get(),
                offset: damage.offset,
            });
        }
    }

    /// Blocks of this segment are being read: none of them may be written.
    pub(super) fn scrub_reads(&self, tenant: TenantId, segment: SegmentNumber) -> bool {
        let here = |at: &At| at.tenant == tenant && at.number == segment;
        self.scrub.reading && self.scrub.at.as_deref().is_some_and(here)
    }

    /// Blocks read by scrubbing since the start, and how often damage was found.
    #[must_use]
    pub fn scrubbed(&self) -> (u64, u64) {
        (self.scrub.blocks, self.scrub.damaged)
    }
}
