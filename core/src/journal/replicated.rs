//! The journal of a replica in a cluster: the same ring and slots, with holes, repair and erasure.
//!
//! Purpose: what `Journal` is for one replica, for a replica that has peers. A damaged prepare does
//! not end the open: it is *rotten*, its header still stands for it, and a peer's copy is written
//! over it. The end of the log may be erased, because a later view excluded it. Prepares below the
//! durable checkpoint stay readable, for peers that are behind, until the ring needs their place.
//!
//! Invariants:
//! - **The redundant header is the word.** It is written after its prepare is durable, and a
//!   prepare is [`State::Held`] only when both are. What has a header was durable once.
//! - New prepares are appended in op order, each naming the checksum of the one before.
//! - Erasing zeroes redundant header and first page, durably, before anything is written there
//!   again: an erased prepare cannot come back, also when one of the two rots.
//! - Ring content above the durable checkpoint is never overwritten by an append.
//! - Nothing is written or erased where a prepare is being read, for a peer that is behind.
//! - Damaged slots keep their damage until they are replaced or erased on purpose: a crash in the
//!   middle of healing is seen again.
//!
//! Fault model: as `Journal`; in place of an error, rot is reported entry by entry. EIO stops the
//! replica.
//!
//! Start reading at [`ReplicaJournal::append`], then `replicated/recovery.rs`.

mod entries;
mod recovery;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::ring::{SectorIndex, to_usize};
use super::slots::{SlotState, Slots};
use super::{JournalError, Prepare, PrepareHeader, Ring, Waiting, padded};
use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::Op;
use crate::io::{Effect, Effects, IoError, IoId, Owner, Pages};
use crate::limits::{
    JOURNAL_ERASES_MAX, JOURNAL_HEADER_WRITES_MAX, PAGE_SIZE, PIPELINE_MAX, REPLAY_AHEAD_MAX,
};

use entries::{Entries, Entry};
pub use recovery::{RecoveredReplica, ReplicaJournalRecovery};

/// What this replica has of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Prepare and redundant header are durable.
    Held,
    /// Being written for the first time.
    Writing,
    /// It was held, and is damaged: to be repaired from a peer, never to be called missing.
    Rotten,
    /// It was rotten, and is being written again.
    Rewriting,
}

#[derive(Clone, Copy, Debug)]
enum InFlight {
    Prepare(PrepareHeader),
    Sector(SectorIndex),
    Read(PrepareHeader),
    Erase,
}

/// A prepare that was asked for; `Err`: it is rotten.
#[derive(Debug)]
pub struct ReadBack {
    pub header: PrepareHeader,
    pub outcome: Result<Prepare, Pages>,
}

#[derive(Debug)]
pub struct ReplicaJournal {
    ring: Ring,
    slots: Slots,
    entries: Entries,
    checkpoint_op: Op,
    checkpoint_checksum: InternalHash,
    /// Where the checkpoint's prepare ends.
    checkpoint_end: u64,
    in_flight: Vec<Option<InFlight>>,
    prepares_in_flight: usize,
    /// Durable prepares that wait for their redundant header.
    waiting: Vec<Waiting>,
    /// Sectors with erased headers that are not durable yet; whether a write covers them.
    erased_sectors: Vec<(SectorIndex, bool)>,
    /// Offsets of pages to be zeroed, and how many such writes are in flight.
    erase_queue: VecDeque<u64>,
    erases_in_flight: usize,
    durable: VecDeque<Prepare>,
    read: VecDeque<ReadBack>,
}

const IN_FLIGHT_MAX: usize =
    2 * PIPELINE_MAX + JOURNAL_HEADER_WRITES_MAX + 2 * REPLAY_AHEAD_MAX + JOURNAL_ERASES_MAX;

impl ReplicaJournal {
    /// Op of the last prepare, held, rotten or being written.
    #[must_use]
    pub fn head_op(&self) -> Op {
        self.entries.last().unwrap_or(self.checkpoint_op)
    }

    #[must_use]
    pub fn head_checksum(&self) -> InternalHash {
        let Some(checksum) = self.checksum(self.head_op()) else {
            unreachable!("the head is never a hole")
        };
        checksum
    }

    #[must_use]
    pub fn head_header(&self) -> Option<PrepareHeader> {
        self.header(self.head_op())
    }

    #[must_use]
    pub fn checkpoint_op(&self) -> Op {
        self.checkpoint_op
    }

    /// The lowest op that this journal knows anything of.
    #[must_use]
    pub fn first_op(&self) -> Op {
        if self.entries.is_empty() {
            self.checkpoint_op
        } else {
            self.entries.first().min(self.checkpoint_op)
        }
    }

    /// Checksum of an op's header, as far as it is known.
    #[must_use]
    pub fn checksum(&self, op: Op) -> Option<InternalHash> {
        if op == self.checkpoint_op {
            return Some(self.checkpoint_checksum);
        }
        self.entries.get(op)?.checksum
    }

    #[must_use]
    pub fn header(&self, op: Op) -> Option<PrepareHeader> {
        self.entries.get(op)?.header
    }

    #[must_use]
    pub fn state(&self, op: Op) -> Option<State> {
        Some(self.entries.get(op)?.state)
    }

    #[must_use]
    pub fn is_held(&self, op: Op) -> bool {
        self.state(op) == Some(State::Held)
    }

    /// The highest op such that it and all above `from` are held.
    #[must_use]
    pub fn whole_to(&self, from: Op) -> Op {
        let mut op = from;
        while self.is_held(op.next()) {
            op = op.next();
        }
        op
    }

    /// The highest op such that all to it were durable, be some of them rotten now.
    #[must_use]
    pub fn written_to(&self) -> Op {
        match self.entries.first_writing() {
            Some(op) => Op::new(op.get() - 1),
            None => self.head_op(),
        }
    }

    /// Ops above the checkpoint that are rotten, lowest first.
    pub fn rotten(&self) -> impl Iterator<Item = Op> + '_ {
        self.entries.rotten(self.checkpoint_op.next())
    }

    fn head_end(&self) -> u64 {
        match self.entries.back() {
            None => self.checkpoint_end,
            Some(entry) => {
                let Some(header) = &entry.header else { unreachable!("the head is never a hole") };
                header.journal_end()
            }
        }
    }

    /// Where a prepare of `size` bytes (header and body) would begin.
    #[must_use]
    pub fn place(&self, size: usize) -> u64 {
        self.ring.place(self.head_end(), padded(size))
    }

    /// Ring bytes that stay free when a prepare of `size` bytes is written; `None` if it does not
    /// fit above the durable checkpoint, or what lies there is being read.
    #[must_use]
    pub fn free_after(&self, size: usize) -> Option<u64> {
        let (place, padded) = (self.place(size), padded(size));
        if self.is_being_read(place, padded) {
            return None;
        }
        (self.checkpoint_end + self.ring.bytes()).checked_sub(place + padded)
    }

    /// Whether a read in flight is of these bytes of the ring.
    fn is_being_read(&self, offset: u64, bytes: u64) -> bool {
        #[cfg(verity_zoo)]
        if crate::zoo::is("ring_read_over") {
            return false;
        }
        let from = self.ring.position(offset);
        self.in_flight.iter().flatten().any(|what| match what {
            InFlight::Read(header) => {
                let at = self.ring.position(header.journal_offset);
                at < from + bytes && from < at + header.padded_bytes()
            }
            InFlight::Prepare(_) | InFlight::Sector(_) | InFlight::Erase => false,
        })
    }

    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.head_end() - self.checkpoint_end
    }

    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Whether a prepare may be appended now: it joins the head, and there is room.
    #[must_use]
    pub fn takes(&self, header: &PrepareHeader) -> bool {
        header.op == self.head_op().next()
            && header.parent == self.head_checksum()
            && header.journal_offset == self.place(header.size as usize)
            && header.journal_end() <= self.checkpoint_end + self.ring.bytes()
            && !self.is_being_read(header.journal_offset, header.padded_bytes())
            && self.prepares_in_flight + self.waiting.len() < PIPELINE_MAX
            && !self.erasing()
    }

    /// Starts the durable write of the next prepare. [`ReplicaJournal::next_durable`] gives it
    /// back.
    pub fn append(&mut self, prepare: Prepare, effects: &mut Effects) {
        let header = *prepare.header();
        assert!(self.takes(&header), "asked for by the caller");
        assert_eq!(prepare.pages().size_bytes() as u64, header.padded_bytes());
        if self.ring.position(header.journal_offset) == 0 && header.journal_offset > 0 {
            effects.event(Event::JournalWrapped { op: header.op });
        }
        self.forget_overwritten(header.journal_end());
        let checksum = Some(header.checksum);
        let entry = Entry { checksum, header: Some(header), state: State::Writing };
        self.entries.append(header.op, entry);
        self.write(prepare, effects);
    }

    /// Entries below the checkpoint whose place an append up to `end` takes.
    fn forget_overwritten(&mut self, end: u64) {
        while let Some(front) = self.entries.front() {
            let kept =
                front.header.is_some_and(|header| header.journal_offset + self.ring.bytes() >= end);
            if kept || self.entries.first() > self.checkpoint_op {
                return;
            }
            self.entries.pop_front();
        }
    }

    /// Writes a rotten prepare again, with a peer's copy of the very same bytes.
    pub fn rewrite(&mut self, prepare: Prepare, effects: &mut Effects) {
        let header = *prepare.header();
        self.set_header(&header);
        assert_eq!(self.state(header.op), Some(State::Rotten), "asked by the caller");
        self.entries.set_state(header.op, State::Rewriting);
        self.write(prepare, effects);
    }

    /// Whether [`ReplicaJournal::rewrite`] may be called for this header.
    #[must_use]
    pub fn wants(&self, header: &PrepareHeader) -> bool {
        self.entries.get(header.op).is_some_and(|entry| {
            entry.state == State::Rotten && entry.checksum == Some(header.checksum)
        }) && self.prepares_in_flight + self.waiting.len() < 2 * PIPELINE_MAX
            && !self.erasing()
    }

    /// Fills a hole with the header it is known to have.
    pub fn set_header(&mut self, header: &PrepareHeader) {
        let below = header.op.previous();
        self.entries.set_known(header.op, header.checksum, Some(*header));
        // What it says of the op below, if that is a hole too.
        if let Some(below) = below
            && self.entries.get(below).is_some_and(|entry| entry.checksum.is_none())
        {
            self.entries.set_known(below, header.parent, None);
        }
    }

    fn write(&mut self, prepare: Prepare, effects: &mut Effects) {
        let header = *prepare.header();
        self.prepares_in_flight += 1;
        let io = self.io_of(InFlight::Prepare(header));
        let at = self.ring.address(header.journal_offset);
        effects.push(Effect::Write { io, at, pages: prepare.into_pages(), durable: true });
    }

    /// Writes redundant headers that recovery restored, and erases those it dropped.
    pub fn flush_headers(&mut self, effects: &mut Effects) {
        self.issue_erases(effects);
        self.write_headers(effects);
    }

    /// Prepares being written, or durable and waiting for their redundant header.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.prepares_in_flight + self.waiting.len()
    }

    /// Whether nothing is being written: the log may be erased, and it is known what is held.
    #[must_use]
    pub fn writes_idle(&self) -> bool {
        self.prepares_in_flight == 0 && self.waiting.is_empty() && !self.erasing()
    }

    /// Whether an erasure is not durable yet.
    #[must_use]
    pub fn erasing(&self) -> bool {
        self.erases_in_flight > 0 || !self.erase_queue.is_empty() || !self.erased_sectors.is_empty()
    }

    /// Erases all ops above `op`. Nothing may be in flight; done when not [`Self::erasing`].
    pub fn truncate(&mut self, op: Op, effects: &mut Effects) {
        assert!(self.writes_idle(), "what is erased is not being written");
        assert!(op >= self.checkpoint_op, "what is checkpointed stays");
        while self.head_op() > op {
            let Some(entry) = self.entries.pop_back() else { unreachable!("the head is above") };
            if let Some(header) = entry.header {
                self.erase_at(header.journal_offset);
            }
            // A hole at the new end is no head: what lay there is erased with the damaged slots.
        }
        self.erase_damaged_tail(effects);
    }

    /// Erases damaged slots where the next prepare may begin: nothing that counts was there.
    pub fn erase_damaged_tail(&mut self, effects: &mut Effects) {
        for place in self.next_places() {
            if self.is_damaged(place) {
                self.erase_at(place);
            }
        }
        self.issue_erases(effects);
        self.write_headers(effects);
    }

    /// Whether a slot where the next prepare may begin is damaged.
    #[must_use]
    pub fn tail_is_damaged(&self) -> bool {
        self.next_places().into_iter().any(|place| self.is_damaged(place))
    }

    fn is_damaged(&self, place: u64) -> bool {
        place < self.checkpoint_end + self.ring.bytes()
            && self.slots.state(place) == SlotState::Damaged
    }

    fn next_places(&self) -> [u64; 2] {
        let end = self.head_end();
        [end, end.next_multiple_of(self.ring.bytes())]
    }

    fn erase_at(&mut self, offset: u64) {
        self.slots.erase(offset);
        let sector = self.ring.sector_of(offset);
        self.erased_sectors.push((sector, false));
        self.erase_queue.push_back(offset);
    }

    fn issue_erases(&mut self, effects: &mut Effects) {
        while self.erases_in_flight < JOURNAL_ERASES_MAX {
            let Some(&offset) = self.erase_queue.front() else { return };
            if self.is_being_read(offset, PAGE_SIZE as u64) {
                return;
            }
            self.erase_queue.pop_front();
            self.erases_in_flight += 1;
            let io = self.io_of(InFlight::Erase);
            let at = self.ring.address(offset);
            effects.push(Effect::Write { io, at, pages: Pages::zeroed(1), durable: true });
        }
    }

    /// Starts to read a prepare; [`ReplicaJournal::next_read`] gives it. False: not now.
    pub fn read(&mut self, op: Op, mut pages: Pages, effects: &mut Effects) -> bool {
        let Some(Entry { header: Some(header), state: State::Held, .. }) =
            self.entries.get(op).copied()
        else {
            return false;
        };
        if self.in_flight.iter().flatten().filter(|what| what.is_read()).count()
            >= 2 * REPLAY_AHEAD_MAX
        {
            return false;
        }
        pages.resize(to_usize(header.padded_bytes()) / PAGE_SIZE);
        let io = self.io_of(InFlight::Read(header));
        effects.push(Effect::Read { io, at: self.ring.address(header.journal_offset), pages });
        true
    }

    /// Prepares that became durable, in any order.
    pub fn next_durable(&mut self) -> Option<Prepare> {
        self.durable.pop_front()
    }

    /// Prepares that were read, in any order.
    pub fn next_read(&mut self) -> Option<ReadBack> {
        self.read.pop_front()
    }

    /// The state after `op` is durable elsewhere: its ring space may be taken by appends.
    pub fn checkpoint_durable(&mut self, op: Op) {
        assert!(op > self.checkpoint_op && op <= self.head_op());
        let Some(header) = self.header(op) else { unreachable!("what was applied is known") };
        self.checkpoint_op = op;
        self.checkpoint_checksum = header.checksum;
        self.checkpoint_end = header.journal_end();
    }

    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        let failed = |offset| move |error| JournalError::Io { error, what: "write", offset };
        match self.take_in_flight(io) {
            InFlight::Prepare(header) => {
                result.map_err(failed(self.ring.address(header.journal_offset).offset))?;
                self.prepares_in_flight -= 1;
                let sector = self.ring.sector_of(header.journal_offset);
                self.slots.set(&header);
                let prepare = Prepare::written(header, pages);
                self.waiting.push(Waiting { prepare, sector, covered: false });
            }
            InFlight::Sector(sector) => {
                result.map_err(failed(self.ring.sector_address(sector).offset))?;
                self.slots.finish_write(sector, pages);
                self.sector_durable(sector);
            }
            InFlight::Erase => {
                result.map_err(failed(0))?;
                self.erases_in_flight -= 1;
                self.issue_erases(effects);
            }
            InFlight::Read(_) => unreachable!("a read does not complete as a write"),
        }
        self.write_headers(effects);
        Ok(())
    }

    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        let InFlight::Read(header) = self.take_in_flight(io) else {
            unreachable!("a write does not complete as a read")
        };
        let offset = self.ring.address(header.journal_offset).offset;
        result.map_err(|error| JournalError::Io { error, what: "read", offset })?;
        let whole = super::prepare::check_whole(&header, pages.as_bytes());
        #[cfg(verity_zoo)]
        let whole = whole || crate::zoo::is("prepare_read_unchecked");
        let outcome = if whole { Ok(Prepare::written(header, pages)) } else { Err(pages) };
        // It may have been overwritten or erased since it was asked for.
        if outcome.is_err()
            && let Some(entry) = self.entries.get(header.op)
            && entry.checksum == Some(header.checksum)
            && entry.state == State::Held
        {
            self.entries.set_state(header.op, State::Rotten);
            effects.event(Event::JournalRottenPrepare { op: header.op });
        }
        self.issue_erases(effects);
        self.read.push_back(ReadBack { header, outcome });
        Ok(())
    }

    fn sector_durable(&mut self, sector: SectorIndex) {
        self.erased_sectors.retain(|&(erased, covered)| !(covered && erased == sector));
        let mut index = 0;
        while index < self.waiting.len() {
            if !(self.waiting[index].covered && self.waiting[index].sector == sector) {
                index += 1;
                continue;
            }
            let prepare = self.waiting.remove(index).prepare;
            let header = *prepare.header();
            let Some(entry) = self.entries.get(header.op) else {
                unreachable!("nothing is erased while it is written")
            };
            assert!(matches!(entry.state, State::Writing | State::Rewriting));
            assert_eq!(entry.checksum, Some(header.checksum));
            self.entries.set_state(header.op, State::Held);
            self.durable.push_back(prepare);
        }
    }

    fn write_headers(&mut self, effects: &mut Effects) {
        while let Some((sector, pages)) = self.slots.start_write(None) {
            for waiting in &mut self.waiting {
                waiting.covered |= waiting.sector == sector;
            }
            for (erased, covered) in &mut self.erased_sectors {
                *covered |= *erased == sector;
            }
            let io = self.io_of(InFlight::Sector(sector));
            let at = self.ring.sector_address(sector);
            effects.push(Effect::Write { io, at, pages, durable: true });
        }
    }

    fn io_of(&mut self, what: InFlight) -> IoId {
        let Some(slot) = self.in_flight.iter().position(Option::is_none) else {
            unreachable!("writes, header writes, erasures and reads are each bounded")
        };
        self.in_flight[slot] = Some(what);
        IoId { owner: Owner::Journal, slot: slot as u64 }
    }

    fn take_in_flight(&mut self, io: IoId) -> InFlight {
        assert_eq!(io.owner, Owner::Journal);
        let Some(what) = self.in_flight.get_mut(to_usize(io.slot)).and_then(Option::take) else {
            unreachable!("a completion of nothing in flight")
        };
        what
    }
}

impl InFlight {
    fn is_read(&self) -> bool {
        match self {
            InFlight::Read(_) => true,
            InFlight::Prepare(_) | InFlight::Sector(_) | InFlight::Erase => false,
        }
    }
}
