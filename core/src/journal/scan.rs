//! Reading a journal back: which prepares count, and whether what is missing was ever acknowledged.
//!
//! A pure function over the bytes of the header area and of the ring, fed in chunks in the order of
//! journal offsets from the checkpoint on. Used by the replica at open and offline by `verify`.
//! The reasoning is in the door file, under "Recovery".

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::prepare::{PrepareHeader, check_body};
use super::ring::{Ring, to_usize};
use super::slots::{SlotState, Slots, vacant_area};
use super::{Evidence, JournalError, JournalStart, Recovered, TornTail};
use crate::ids::Op;
use crate::io::{IoError, Pages};
use crate::limits::{JOURNAL_CHUNK_BYTES, PAGE_SIZE, PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX};

#[derive(Debug)]
pub struct Scan {
    start: JournalStart,
    ring: Ring,
    /// The header area as read.
    headers_found: Pages,
    /// The chain: prepares `start.op + 1 ..`, each valid and joined to the one before.
    joined: Vec<PrepareHeader>,
    /// Bytes fed and not yet judged; `window[0]` is at journal offset `window_offset`.
    window: Vec<u8>,
    window_offset: u64,
    /// The header that knows the highest commit number.
    commit_witness: Option<PrepareHeader>,
    /// A header that knows more than the superblock does.
    ahead_of_superblock: Option<PrepareHeader>,
    newer_release: Option<PrepareHeader>,
    /// Good headers of ops above the chain, or of a prepare with a bad body, by op and view.
    dropped: Option<PrepareHeader>,
    /// The last header in the ring that joined, with a bad body.
    broken: Option<PrepareHeader>,
    /// The op after the chain, when something lies where it may begin that may be what is left of
    /// it.
    resembled: Option<Op>,
    /// The newest op of which there is a good header of this cluster, anywhere.
    newest: Op,
    /// File offsets of pages that the device could not read; they were fed as zeros.
    unreadable: BTreeMap<u64, IoError>,
    /// Prepares of the chain whose header in the ring is damaged, and their first page as it should
    /// be: their redundant header is whole, and so is their body.
    restored: Vec<RestoredPage>,
}

/// The first page of a prepare, with its header put back.
#[derive(Debug)]
pub(super) struct RestoredPage {
    pub op: Op,
    pub journal_offset: u64,
    pub page: Pages,
}

impl Scan {
    #[must_use]
    pub fn new(start: JournalStart) -> Scan {
        let ring = Ring::new(start.ring_bytes);
        assert!(start.journal_offset.is_multiple_of(PAGE_SIZE as u64));
        Scan {
            start,
            ring,
            headers_found: Pages::zeroed(ring.sectors()),
            joined: Vec::new(),
            window: Vec::with_capacity(PREPARE_SIZE_MAX + JOURNAL_CHUNK_BYTES),
            window_offset: start.journal_offset,
            commit_witness: None,
            ahead_of_superblock: None,
            newer_release: None,
            dropped: None,
            broken: None,
            resembled: None,
            newest: Op::ZERO,
            unreadable: BTreeMap::new(),
            restored: Vec::new(),
        }
    }

    /// The device could not read this page of the file; it is fed as zeros.
    pub fn unreadable(&mut self, file_offset: u64, error: IoError) {
        self.unreadable.insert(file_offset, error);
    }

    /// Takes bytes of the header area. All of it must be fed before the ring.
    pub fn feed_headers(&mut self, area_offset: u64, bytes: &[u8]) {
        let at = to_usize(area_offset);
        self.headers_found.as_bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        for slot in (at..at + bytes.len()).step_by(PREPARE_HEADER_SIZE) {
            if let Some(header) = self.slot(slot)
                && self.ring.slot_offset(header.journal_offset) == slot
            {
                self.note(&header);
            }
        }
    }

    /// Journal offset of the next bytes that [`Scan::feed`] expects, and how many may come at once
    /// without passing the end of the ring; `None` when the whole ring was fed.
    #[must_use]
    pub fn wants(&self) -> Option<(u64, usize)> {
        let offset = self.window_offset + self.window.len() as u64;
        chunk_at(&self.start, offset)
    }

    /// Takes the next bytes of the ring.
    pub fn feed(&mut self, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(PAGE_SIZE));
        self.window.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(step) = self.judge(used) {
            used += step;
        }
        self.window.drain(..used);
        self.window_offset += used as u64;
    }

    /// Judges what is at `window[used..]`; returns how far to go on, or `None` for more bytes.
    fn judge(&mut self, used: usize) -> Option<usize> {
        let bytes = self.window.get(used..).filter(|bytes| bytes.len() >= PAGE_SIZE)?;
        let offset = self.window_offset + used as u64;
        let Ok(header) = PrepareHeader::decode(bytes) else {
            return self.judge_redundant(used, offset);
        };
        if self.ring.position(header.journal_offset) != self.ring.position(offset) {
            return self.judge_redundant(used, offset);
        }
        let joins = header.journal_offset == offset && self.joins(&header);
        let padded = to_usize(header.padded_bytes());
        if joins && bytes.len() < padded {
            return None;
        }
        let whole = joins && check_body(&header, bytes).is_ok();
        if joins && !whole {
            self.broken = Some(header);
        }
        #[cfg(verity_zoo)]
        let whole = whole || (joins && crate::zoo::is("torn_write_ignored"));
        self.note(&header);
        if whole {
            self.join(header);
            return Some(padded);
        }
        self.judge_redundant(used, offset)
    }

    /// Nothing at `window[used..]` joins as it is. Is it the next prepare of the chain, with only
    /// its header damaged? Its redundant header says so: it joins, and the body has its checksum.
    fn judge_redundant(&mut self, used: usize, offset: u64) -> Option<usize> {
        // Only where the next prepare may begin: most pages end here.
        let (parent, end) = self.before(self.joined.len());
        if offset != end && self.ring.position(offset) != 0 {
            return Some(PAGE_SIZE);
        }
        let (cluster, next) = (self.start.cluster, self.head_op().next());
        let page = &self.window[used..];
        let slot_offset = self.ring.slot_offset(offset);
        // At the start of the ring only if it may not have fitted before its end.
        let may_be_here = offset == end || !self.ring.fits_at(end, PREPARE_SIZE_MAX as u64);
        let area = self.headers_found.as_bytes();
        let slot = SlotState::at(area, slot_offset, self.ring, cluster);
        if (may_be_here && slot == SlotState::Damaged)
            || PrepareHeader::resembles(page, cluster, next, &parent, offset)
        {
            self.resembled = Some(next);
        }
        let found = self.slot(slot_offset);
        let joins = |header: &PrepareHeader| header.journal_offset == offset && self.joins(header);
        let Some(header) = found.filter(joins) else { return Some(PAGE_SIZE) };
        let padded = to_usize(header.padded_bytes());
        let bytes = &self.window[used..];
        if bytes.len() < padded {
            return None;
        }
        if self.is_unreadable(offset, header.padded_bytes()) || check_body(&header, bytes).is_err()
        {
            return Some(PAGE_SIZE);
        }
        let mut page = Pages::from_bytes(&bytes[..PAGE_SIZE]);
        page.as_bytes_mut()[..PREPARE_HEADER_SIZE].copy_from_slice(&header.encode());
        self.join(header);
        self.restored.push(RestoredPage { op: header.op, journal_offset: offset, page });
        Some(padded)
    }

    fn join(&mut self, header: PrepareHeader) {
        self.joined.truncate(to_usize(header.op.get() - self.start.op.get() - 1));
        self.restored.retain(|restored| restored.op < header.op);
        self.joined.push(header);
    }

    /// Whether the device could not read some page of this part of the journal.
    fn is_unreadable(&self, offset: u64, bytes: u64) -> bool {
        self.first_unreadable(offset, bytes).is_some()
    }

    fn first_unreadable(&self, offset: u64, bytes: u64) -> Option<(u64, IoError)> {
        let start = self.ring.address(offset).offset;
        self.unreadable.range(start..start + bytes).next().map(|(at, error)| (*at, *error))
    }

    /// Whether a header is that of the next prepare of the chain, or of a later view's version of
    /// one that the chain holds already (see "Two places" in the door file).
    fn joins(&self, header: &PrepareHeader) -> bool {
        if header.cluster != self.start.cluster
            || header.op <= self.start.op
            || header.op > self.head_op().next()
        {
            return false;
        }
        let index = to_usize(header.op.get() - self.start.op.get() - 1);
        let (parent, end) = self.before(index);
        header.parent == parent
            && header.journal_offset == self.ring.place(end, header.padded_bytes())
            && header.journal_end() <= self.start.journal_offset + self.ring.bytes()
            && self.joined.get(index).is_none_or(|older| header.view > older.view)
    }

    /// Checksum and end of the prepare before `joined[index]`.
    fn before(&self, index: usize) -> (crate::crypto::hash::InternalHash, u64) {
        match index.checked_sub(1) {
            None => (self.start.prepare_checksum, self.start.journal_offset),
            Some(previous) => {
                let header = &self.joined[previous];
                (header.checksum, header.journal_end())
            }
        }
    }

    fn head_op(&self) -> Op {
        Op::new(self.start.op.get() + self.joined.len() as u64)
    }

    fn slot(&self, slot_offset: usize) -> Option<PrepareHeader> {
        let bytes = self.headers_found.as_bytes();
        PrepareHeader::decode(&bytes[slot_offset..slot_offset + PREPARE_HEADER_SIZE]).ok()
    }

    /// Remembers what a good header, wherever it came from, proves.
    fn note(&mut self, header: &PrepareHeader) {
        if header.cluster != self.start.cluster {
            return;
        }
        self.newest = self.newest.max(header.op);
        if self.commit_witness.is_none_or(|witness| header.commit > witness.commit) {
            self.commit_witness = Some(*header);
        }
        if header.view > self.start.view || header.checkpoint_durable > self.start.op {
            self.ahead_of_superblock = Some(*header);
        }
        if header.release > self.start.release {
            self.newer_release = Some(*header);
        }
        let newer = |dropped: &PrepareHeader| (header.view, header.op) > (dropped.view, dropped.op);
        if header.op > self.start.op && self.dropped.as_ref().is_none_or(newer) {
            self.dropped = Some(*header);
        }
    }

    /// The verdict, once everything was fed.
    pub fn finish(self) -> Result<Recovered, JournalError> {
        assert!(self.wants().is_none(), "the whole ring was fed");
        if let Some(found) = self.newer_release {
            let (op, known) = (found.op, self.start.release);
            return Err(JournalError::NewerRelease { op, found: found.release, known });
        }
        let ahead_of_superblock = self.ahead_of_superblock;
        #[cfg(verity_zoo)]
        let ahead_of_superblock =
            ahead_of_superblock.filter(|_| !crate::zoo::is("stale_superblock_accepted"));
        if let Some(found) = ahead_of_superblock {
            return Err(JournalError::SuperblockStale {
                op: found.op,
                view: found.view,
                checkpoint_durable: found.checkpoint_durable,
            });
        }
        self.check_unreadable()?;
        self.check_rotten()?;
        let torn = self.torn_tail();
        let (slots, slots_repaired) = self.rebuild_slots();
        Ok(Recovered {
            headers: self.joined,
            torn,
            slots_repaired,
            pages_unreadable: self.unreadable.len() as u32,
            restored: self.restored,
            slots: Some(slots),
        })
    }

    /// An error if the device could not read a page on which the next prepare of the chain may be:
    /// a page that cannot be read is never taken as one that was never written. Elsewhere it does
    /// no harm: the header area is written again, the rest of the ring overwritten.
    fn check_unreadable(&self) -> Result<(), JournalError> {
        let (_, end) = self.before(self.joined.len());
        let ring_end = self.start.journal_offset + self.ring.bytes();
        let ring_start = end.next_multiple_of(self.ring.bytes());
        let may_wrap = !self.ring.fits_at(end, PREPARE_SIZE_MAX as u64);
        let places = [Some(end), may_wrap.then_some(ring_start)];
        for offset in places.into_iter().flatten().filter(|offset| *offset < ring_end) {
            let mut bytes = PAGE_SIZE as u64;
            for header in [self.in_ring(offset), self.slot(self.ring.slot_offset(offset))] {
                if let Some(header) = header
                    && header.journal_offset == offset
                    && self.joins(&header)
                {
                    bytes = bytes.max(header.padded_bytes());
                }
            }
            if let Some((offset, error)) = self.first_unreadable(offset, bytes) {
                return Err(JournalError::Io { error, what: "read", offset });
            }
        }
        Ok(())
    }

    /// The good header of the last prepare that joined and was not whole, if it begins here.
    fn in_ring(&self, offset: u64) -> Option<PrepareHeader> {
        self.broken.filter(|header| header.journal_offset == offset)
    }

    /// An error if anything proves that a prepare which did not join was acknowledged.
    fn check_rotten(&self) -> Result<(), JournalError> {
        #[cfg(verity_zoo)]
        if crate::zoo::is("rotten_taken_as_torn") {
            return Ok(());
        }
        let head = self.head_op();
        let (_, end) = self.before(self.joined.len());
        // A redundant header of the next prepare: it was durable, and is no longer.
        let ring_start = self.start.journal_offset.next_multiple_of(self.ring.bytes());
        for offset in [end, ring_start] {
            if let Some(header) = self.slot(self.ring.slot_offset(offset))
                && header.journal_offset == offset
                && self.joins(&header)
            {
                let op = header.op;
                return Err(JournalError::Rotten { op, offset, evidence: Evidence::Header });
            }
        }
        let (op, offset) = (head.next(), end);
        if self.newest.next() < self.start.op {
            let evidence = Evidence::Checkpoint { op: self.start.op, newest: self.newest };
            return Err(JournalError::Rotten { op, offset, evidence });
        }
        if let Some(witness) = self.commit_witness
            && witness.commit > head
        {
            let evidence = Evidence::Later { op: witness.op, commit: witness.commit };
            return Err(JournalError::Rotten { op, offset, evidence });
        }
        if self.start.committed > head {
            let evidence = Evidence::Superblock { committed: self.start.committed };
            return Err(JournalError::Rotten { op, offset, evidence });
        }
        Ok(())
    }

    /// What was written after the chain's end in its last view, and is dropped.
    fn torn_tail(&self) -> Option<TornTail> {
        let op = self.head_op().next();
        let view = self.joined.last().map_or(self.start.view, |header| header.view);
        let seen = self.dropped.filter(|dropped| dropped.op >= op && dropped.view >= view);
        let damaged = self.resembled == Some(op);
        if seen.is_none() && !damaged {
            return None;
        }
        Some(TornTail { op, op_max_seen: seen.map_or(op, |seen| seen.op), damaged })
    }

    /// The header area as it should be: the chain's headers and nothing else. Sectors where a
    /// header of the chain was missing or damaged are dirty.
    fn rebuild_slots(&self) -> (Slots, u32) {
        let mut slots = Slots::new(self.ring, self.start.cluster, vacant_area(self.ring));
        let mut repaired = 0;
        for header in &self.joined {
            let found = self.slot(self.ring.slot_offset(header.journal_offset));
            if found == Some(*header) {
                slots.set_clean(header);
            } else {
                slots.set(header);
                repaired += 1;
            }
        }
        (slots, repaired)
    }
}

/// How many bytes of the ring to read at `offset`: not over its end, not past one whole round.
#[must_use]
pub(super) fn chunk_at(start: &JournalStart, offset: u64) -> Option<(u64, usize)> {
    let ring = Ring::new(start.ring_bytes);
    let left = (start.journal_offset + ring.bytes()).checked_sub(offset)?;
    let to_end = ring.bytes() - ring.position(offset);
    let bytes = left.min(to_end).min(JOURNAL_CHUNK_BYTES as u64);
    (bytes > 0).then(|| (offset, to_usize(bytes)))
}

/// The whole scan over bytes that the caller reads: `read(file_offset, buffer)`.
pub fn walk<E>(
    start: JournalStart,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Result<Recovered, JournalError>, E> {
    let mut scan = Scan::new(start);
    let mut buffer = Pages::zeroed(JOURNAL_CHUNK_BYTES / PAGE_SIZE);
    let mut area_offset = 0;
    let area_bytes = scan.ring.header_area_bytes();
    while area_offset < area_bytes {
        let size = to_usize((area_bytes - area_offset).min(JOURNAL_CHUNK_BYTES as u64));
        let bytes = &mut buffer.as_bytes_mut()[..size];
        read(area_offset, bytes)?;
        scan.feed_headers(area_offset, bytes);
        area_offset += size as u64;
    }
    while let Some((offset, size)) = scan.wants() {
        let bytes = &mut buffer.as_bytes_mut()[..size];
        read(scan.ring.address(offset).offset, bytes)?;
        scan.feed(bytes);
    }
    Ok(scan.finish())
}
