//! Reading back the journal of a replica in a cluster: what is held, what is rotten, and whether
//! anything that was acknowledged might be missing without a trace.
//!
//! Sync, then the header area in chunks; the log is walked in memory, op by op from the checkpoint,
//! by the redundant headers. Where a slot is damaged, the ring is asked: a whole prepare there that
//! joins stands in for its header. One of an older view than the log view must be proven by what
//! joins it above: it may be one that was never acknowledged, and was left out. Last, the body of
//! every named prepare is checked.
//!
//! The walk ends at the first op of which nothing is known. A damaged slot at a place where it
//! could begin, without a whole prepare behind it, means that it may have been acknowledged: the
//! replica is not *certain*. So does a superblock that knows more as committed, and a header that
//! does not join. But the end of a log may have been erased, on the superblock's record: down to
//! the op recorded, nothing that is missing counts.
//!
//! A disk that lost nothing it was told to keep is always certain, wherever the replica crashed.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::super::prepare::check_whole;
use super::super::ring::to_usize;
use super::super::slots::{SlotState, Slots};
use super::super::{JournalError, JournalStart, PrepareHeader, Ring};
use super::{Entries, Entry, IN_FLIGHT_MAX, ReplicaJournal, State};
use crate::crypto::hash::InternalHash;
use crate::ids::{Op, View};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Owner, Pages};
use crate::limits::{
    JOURNAL_CHUNK_BYTES, PAGE_SIZE, PIPELINE_MAX, PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX,
};

/// What a journal held at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredReplica {
    /// Every op that this replica acknowledged is known to it, be it rotten.
    pub certain: bool,
    /// This op and all below are committed.
    pub floor: Op,
    pub rotten: u64,
    /// Redundant headers that are written again from their prepares.
    pub slots_repaired: u64,
}

#[derive(Debug)]
pub struct ReplicaJournalRecovery {
    start: JournalStart,
    ring: Ring,
    /// The header area.
    area: Pages,
    phase: Phase,
    /// Headers found, by op; more than one only after a lost write.
    found: BTreeMap<Op, Vec<PrepareHeader>>,
    /// The same, of ops that are checkpointed: peers may still ask for them.
    below: BTreeMap<Op, Vec<PrepareHeader>>,
    entries: Vec<Entry>,
    restored: Vec<PrepareHeader>,
    /// Where headers lie that do not count.
    dropped: Vec<u64>,
    certain: bool,
    /// Ops above this one were erased, or never acknowledged, in the superblock's log view.
    erased_to: Option<Op>,
    log_view: View,
    /// So many entries at the end stand in for their headers, and are not proven.
    unproven: usize,
    /// Entries whose bodies are still to be read, and reads in flight, by slot.
    bodies: VecDeque<PrepareHeader>,
    reading: BTreeMap<u64, PrepareHeader>,
    next_slot: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sync,
    /// Offset of the chunk in flight.
    Headers(u64),
    /// A place in the ring is being read; which of the two.
    Probe {
        place: u64,
        second: bool,
    },
    Bodies,
}

impl ReplicaJournalRecovery {
    /// Starts with a sync. `erased_to`: the superblock's record that what was acknowledged above
    /// this op does not count; it is of `log_view`, as the superblock has it.
    pub fn start(
        start: JournalStart,
        erased_to: Option<Op>,
        log_view: View,
        effects: &mut Effects,
    ) -> ReplicaJournalRecovery {
        let ring = Ring::new(start.ring_bytes);
        effects.push(Effect::Sync { io: io_id(0), file: FileId::Journal });
        ReplicaJournalRecovery {
            start,
            ring,
            area: Pages::zeroed(ring.sectors()),
            phase: Phase::Sync,
            found: BTreeMap::new(),
            below: BTreeMap::new(),
            entries: Vec::new(),
            restored: Vec::new(),
            dropped: Vec::new(),
            certain: true,
            erased_to,
            log_view,
            unproven: 0,
            bodies: VecDeque::new(),
            reading: BTreeMap::new(),
            next_slot: 1,
        }
    }

    /// The sync is done.
    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        assert_eq!((io, self.phase), (io_id(0), Phase::Sync));
        result.map_err(|error| JournalError::Io { error, what: "sync", offset: 0 })?;
        self.read_headers(0, effects);
        Ok(())
    }

    /// A read is done. The journal, once all is judged.
    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<(ReplicaJournal, RecoveredReplica)>, JournalError> {
        let offset = match self.phase {
            Phase::Headers(offset) => offset,
            Phase::Probe { place, .. } => self.ring.address(place).offset,
            Phase::Sync | Phase::Bodies => 0,
        };
        result.map_err(|error| JournalError::Io { error, what: "read", offset })?;
        match self.phase {
            Phase::Sync => unreachable!("nothing is read before the sync"),
            Phase::Headers(offset) => {
                let at = to_usize(offset);
                let end = at + pages.size_bytes();
                self.area.as_bytes_mut()[at..end].copy_from_slice(pages.as_bytes());
                if end < self.area.size_bytes() {
                    self.read_headers(end as u64, effects);
                    return Ok(None);
                }
                self.collect()?;
                self.walk(effects);
            }
            Phase::Probe { place, second } => {
                self.probed(place, second, pages.as_bytes(), effects);
            }
            Phase::Bodies => {
                let Some(header) = self.reading.remove(&io.slot) else {
                    unreachable!("a read that was not asked for")
                };
                if !check_whole(&header, pages.as_bytes()) {
                    let index = to_usize(header.op.get() - self.start.op.get() - 1);
                    self.entries[index].state = State::Rotten;
                }
            }
        }
        if self.phase != Phase::Bodies {
            return Ok(None);
        }
        while self.reading.len() < PIPELINE_MAX {
            let Some(header) = self.bodies.pop_front() else { break };
            let io = self.read(header.journal_offset, to_usize(header.padded_bytes()), effects);
            self.reading.insert(io.slot, header);
        }
        Ok(self.reading.is_empty().then(|| self.finish()))
    }

    fn read_headers(&mut self, offset: u64, effects: &mut Effects) {
        self.phase = Phase::Headers(offset);
        let left = self.ring.header_area_bytes() - offset;
        let size = to_usize(left.min(JOURNAL_CHUNK_BYTES as u64));
        let io = self.next_io();
        let at = Address::new(FileId::Journal, offset);
        effects.push(Effect::Read { io, at, pages: Pages::zeroed(size / PAGE_SIZE) });
    }

    /// Good headers of ops above the checkpoint, each in its own slot.
    fn collect(&mut self) -> Result<(), JournalError> {
        let bytes = self.area.as_bytes();
        for slot in (0..bytes.len()).step_by(PREPARE_HEADER_SIZE) {
            let Ok(header) = PrepareHeader::decode(&bytes[slot..slot + PREPARE_HEADER_SIZE]) else {
                continue;
            };
            let placed = self.ring.slot_offset(header.journal_offset) == slot;
            if !placed || header.cluster != self.start.cluster {
                continue;
            }
            if header.op <= self.start.op {
                self.below.entry(header.op).or_default().push(header);
                continue;
            }
            if header.release > self.start.release {
                let (op, known) = (header.op, self.start.release);
                return Err(JournalError::NewerRelease { op, found: header.release, known });
            }
            if header.view > self.start.view {
                return Err(JournalError::SuperblockStale {
                    op: header.op,
                    view: header.view,
                    checkpoint_durable: header.checkpoint_durable,
                });
            }
            self.found.entry(header.op).or_default().push(header);
        }
        Ok(())
    }

    /// Extends the log as far as it goes without reading the ring.
    fn walk(&mut self, effects: &mut Effects) {
        loop {
            let next = Op::new(self.start.op.get() + self.entries.len() as u64 + 1);
            let (parent, end) = self.last();
            let joins = |header: &&PrepareHeader| {
                parent.is_none_or(|parent| header.parent == parent)
                    && end.is_none_or(|end| {
                        header.journal_offset == self.ring.place(end, header.padded_bytes())
                    })
            };
            let candidates = self.found.get(&next).map_or(&[][..], Vec::as_slice);
            if let Some(header) = candidates.iter().filter(joins).max_by_key(|header| header.view) {
                let header = *header;
                self.push(Some(header), Some(header.checksum), State::Held);
                self.unproven = 0;
                self.bodies.push_back(header);
                continue;
            }
            let placed = end.is_some();
            if let Some(end) = end {
                let other = end.next_multiple_of(self.ring.bytes());
                for (place, second) in [(end, false), (other, true)] {
                    if self.is_damaged(place) {
                        self.probe(place, second, effects);
                        return;
                    }
                }
            }
            // Where it would be there is no header: it was never acknowledged, nor what follows it.
            if !placed && self.hole(next) {
                continue;
            }
            self.end_of_log();
            return;
        }
    }

    /// Nothing is known of `next` itself; a later op may prove that it was there.
    fn hole(&mut self, next: Op) -> bool {
        if self.found.range(next.next()..).next().is_none() {
            return false;
        }
        let after = self.found.get(&next.next()).and_then(|headers| headers.first());
        let checksum = after.map(|header| header.parent);
        for _ in self.take_unproven() {
            self.push(None, None, State::Rotten);
        }
        self.push(None, checksum, State::Rotten);
        true
    }

    /// What was found above is of prepares that became durable before one below them did; it is
    /// dropped, and erased. Not so a header in the very next place that does not join.
    fn end_of_log(&mut self) {
        let unproven = self.take_unproven();
        if !unproven.is_empty() {
            let head = Op::new(self.start.op.get() + self.entries.len() as u64);
            if self.erased(head) {
                self.dropped.extend(unproven.iter().map(|header| header.journal_offset));
            } else {
                self.certain = false;
            }
        }
        let head = Op::new(self.start.op.get() + self.entries.len() as u64);
        if self.found.contains_key(&head.next()) && !self.erased(head) {
            self.certain = false;
        }
        if self.start.committed > head {
            self.certain = false;
        }
        let above = self.found.split_off(&head.next());
        self.dropped.extend(above.into_values().flatten().map(|header| header.journal_offset));
        self.phase = Phase::Bodies;
    }

    /// Whether nothing above `head` counts.
    fn erased(&self, head: Op) -> bool {
        self.erased_to.is_some_and(|to| to <= head)
    }

    /// Above the op to which the log was erased, it ends at the first op that is not whole: nothing
    /// there counts, and what is half erased is with nobody to be repaired from.
    fn drop_half_erased(&mut self) {
        let Some(to) = self.erased_to else { return };
        let above = |entry: usize| self.start.op.get() + entry as u64 + 1 > to.get();
        let broken = (0..self.entries.len())
            .find(|&entry| above(entry) && self.entries[entry].state == State::Rotten);
        let Some(cut) = broken else { return };
        if cut > 0 && self.entries[cut - 1].header.is_none() {
            return; // that hole is not of our making
        }
        let half_erased = self.entries.drain(cut..).filter_map(|entry| entry.header);
        self.dropped.extend(half_erased.map(|header| header.journal_offset));
    }

    /// Damaged slots beyond the end of a log that is certain: torn headers of prepares that do not
    /// join, torn erasures. The prepare behind such a slot must not stand in for it one day.
    fn drop_damaged(&mut self) {
        let (_, Some(end)) = self.last() else { unreachable!("the head is never a hole") };
        let used = end - self.start.journal_offset;
        let places = (0..self.ring.bytes() - used).step_by(PAGE_SIZE).map(|more| end + more);
        let damaged: Vec<u64> = places.filter(|&place| self.is_damaged(place)).collect();
        self.dropped.extend(damaged);
    }

    fn probe(&mut self, place: u64, second: bool, effects: &mut Effects) {
        self.phase = Phase::Probe { place, second };
        let room = self.ring.bytes() - self.ring.position(place);
        let size = to_usize(room.min(PREPARE_SIZE_MAX as u64));
        self.read(place, size, effects);
    }

    /// The whole prepare that lies at a place, if it joins the log so far.
    fn joined(&self, place: u64, bytes: &[u8]) -> Option<PrepareHeader> {
        let next = Op::new(self.start.op.get() + self.entries.len() as u64 + 1);
        let (parent, _) = self.last();
        PrepareHeader::decode(bytes).ok().filter(|header| {
            header.op == next
                && header.cluster == self.start.cluster
                && header.journal_offset == place
                && header.view <= self.start.view
                && Some(header.parent) == parent
                && check_whole(header, bytes)
        })
    }

    /// A prepare stands in for its header.
    fn restore(&mut self, header: PrepareHeader) {
        self.restored.push(header);
        self.push(Some(header), Some(header.checksum), State::Held);
        self.unproven = if header.view < self.log_view { self.unproven + 1 } else { 0 };
    }

    /// Takes back what is not proven.
    fn take_unproven(&mut self) -> Vec<PrepareHeader> {
        let unproven = core::mem::take(&mut self.unproven);
        self.entries.truncate(self.entries.len() - unproven);
        self.restored.split_off(self.restored.len() - unproven)
    }

    /// What lies in the ring behind a damaged slot.
    fn probed(&mut self, place: u64, second: bool, bytes: &[u8], effects: &mut Effects) {
        let next = Op::new(self.start.op.get() + self.entries.len() as u64 + 1);
        if let Some(header) = self.joined(place, bytes) {
            self.restore(header);
            self.walk(effects);
            return;
        }
        let (_, end) = self.last();
        let Some(end) = end else { unreachable!("it was probed from there") };
        let other = end.next_multiple_of(self.ring.bytes());
        if !second && other != place && self.is_damaged(other) {
            self.probe(other, true, effects);
            return;
        }
        if self.hole(next) {
            self.walk(effects);
            return;
        }
        let head = Op::new(next.get() - 1);
        self.certain &= self.erased(head);
        self.end_of_log();
    }

    /// Prepares at and below the checkpoint that are still in the ring, by the checksum that the
    /// one above names. Their bodies are judged when they are read.
    fn add_below(&mut self, journal: &mut ReplicaJournal) {
        let head_end = journal.head_end();
        let (mut op, mut checksum) = (self.start.op, self.start.prepare_checksum);
        loop {
            let mut candidates = self.below.get(&op).into_iter().flatten();
            let Some(header) = candidates.find(|header| header.checksum == checksum) else { break };
            if header.journal_offset + self.ring.bytes() < head_end {
                break;
            }
            let known = Some(header.checksum);
            let entry = Entry { checksum: known, header: Some(*header), state: State::Held };
            journal.entries.push_front(op, entry);
            let Some(next) = op.previous() else { break };
            (op, checksum) = (next, header.parent);
        }
    }

    fn push(
        &mut self,
        header: Option<PrepareHeader>,
        checksum: Option<InternalHash>,
        state: State,
    ) {
        self.entries.push(Entry { checksum, header, state });
    }

    /// Checksum and end of the last op of the log so far.
    fn last(&self) -> (Option<InternalHash>, Option<u64>) {
        match self.entries.last() {
            None => (Some(self.start.prepare_checksum), Some(self.start.journal_offset)),
            Some(entry) => (entry.checksum, entry.header.map(|header| header.journal_end())),
        }
    }

    /// Whether the slot of a place where a prepare may begin is damaged. One round above the
    /// checkpoint there is none: there lies what the log itself begins with.
    fn is_damaged(&self, place: u64) -> bool {
        let (area, at) = (self.area.as_bytes(), self.ring.slot_offset(place));
        place < self.start.journal_offset + self.ring.bytes()
            && SlotState::at(area, at, self.ring, self.start.cluster) == SlotState::Damaged
    }

    fn read(&mut self, place: u64, size: usize, effects: &mut Effects) -> IoId {
        let io = self.next_io();
        let at = self.ring.address(place);
        effects.push(Effect::Read { io, at, pages: Pages::zeroed(size / PAGE_SIZE) });
        io
    }

    fn next_io(&mut self) -> IoId {
        self.next_slot += 1;
        io_id(self.next_slot)
    }

    fn finish(&mut self) -> (ReplicaJournal, RecoveredReplica) {
        self.drop_half_erased();
        if self.certain {
            self.drop_damaged();
        }
        // The head is never a hole: a hole exists only because a later op does.
        assert!(self.entries.last().is_none_or(|entry| entry.header.is_some()));
        let mut slots = Slots::new(self.ring, self.start.cluster, core::mem::take(&mut self.area));
        for header in &self.restored {
            slots.set(header);
        }
        let mut in_flight = Vec::with_capacity(IN_FLIGHT_MAX);
        in_flight.resize(IN_FLIGHT_MAX, None);
        let known = self.entries.iter().flat_map(|entry| entry.header);
        let floor = known.map(|header| header.commit).max().unwrap_or(self.start.op);
        let head = Op::new(self.start.op.get() + self.entries.len() as u64);
        let rotten = self.entries.iter().filter(|entry| entry.state == State::Rotten).count();
        let recovered = RecoveredReplica {
            certain: self.certain,
            floor: floor.max(self.start.op).max(self.start.committed.min(head)),
            rotten: rotten as u64,
            slots_repaired: self.restored.len() as u64,
        };
        let mut journal = ReplicaJournal {
            ring: self.ring,
            slots,
            entries: Entries::new(self.start.op.next(), core::mem::take(&mut self.entries)),
            checkpoint_op: self.start.op,
            checkpoint_checksum: self.start.prepare_checksum,
            checkpoint_end: self.start.journal_offset,
            in_flight,
            prepares_in_flight: 0,
            waiting: Vec::with_capacity(2 * PIPELINE_MAX),
            erased_sectors: Vec::new(),
            erase_queue: VecDeque::new(),
            erases_in_flight: 0,
            durable: VecDeque::new(),
            read: VecDeque::new(),
        };
        self.add_below(&mut journal);
        // One may be there twice: half erased, and with a damaged slot that its prepare stood for.
        self.dropped.sort_unstable();
        self.dropped.dedup();
        for offset in core::mem::take(&mut self.dropped) {
            journal.erase_at(offset);
        }
        assert!(recovered.floor <= head && journal.head_op() == head);
        (journal, recovered)
    }
}

fn io_id(slot: u64) -> IoId {
    IoId { owner: Owner::Journal, slot }
}
