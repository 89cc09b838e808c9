//! Opening a journal: sync, then read the header area and the whole ring in bounded chunks.
//!
//! The sync comes first. A process that was killed (and not the machine) leaves writes that can be
//! read but are not durable yet; what recovery builds on must not vanish at the next power cut.
//!
//! Invariants: at most `JOURNAL_CHUNKS_IN_FLIGHT_MAX` reads in flight; completions may come in any
//! order, the scan sees them in order of issue. A chunk that cannot be read is read page by page;
//! the scan judges what the pages that fail mean.

use super::scan::{Scan, chunk_at};
use super::{Journal, JournalError, JournalStart, Recovered, Ring, to_usize};
use crate::event::Event;
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Owner, Pages};
use crate::limits::{JOURNAL_CHUNK_BYTES, JOURNAL_CHUNKS_IN_FLIGHT_MAX, PAGE_SIZE};

#[derive(Debug)]
pub struct JournalRecovery {
    start: JournalStart,
    headers_before_ack: bool,
    ring: Ring,
    scan: Option<Scan>,
    /// Next chunk to ask for.
    next: Chunk,
    issued: u64,
    fed: u64,
    arrived: [Option<(Chunk, Pages)>; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
    in_flight: [Option<Reading>; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
}

#[derive(Debug)]
enum Reading {
    Whole(Chunk),
    /// The chunk failed as a whole: its pages before `next` were read one by one, or are zeros.
    Paged {
        chunk: Chunk,
        pages: Pages,
        next: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Offset in the header area.
    Headers(u64),
    /// Journal offset.
    Ring(u64),
    End,
}

impl JournalRecovery {
    /// Starts with a sync. `replica_count` decides what an acknowledgement waits for.
    pub fn start(start: JournalStart, replica_count: u8, effects: &mut Effects) -> JournalRecovery {
        effects.push(Effect::Sync { io: io_id(0), file: FileId::Journal });
        JournalRecovery {
            start,
            headers_before_ack: replica_count > 1,
            ring: Ring::new(start.ring_bytes),
            scan: Some(Scan::new(start)),
            next: Chunk::Headers(0),
            issued: 0,
            fed: 0,
            arrived: [const { None }; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
            in_flight: [const { None }; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
        }
    }

    /// Bytes judged so far, and bytes in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let total = self.ring.file_bytes();
        (total.min(self.fed * JOURNAL_CHUNK_BYTES as u64), total)
    }

    /// The sync is done: reading starts.
    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        assert_eq!(io, io_id(0));
        result.map_err(|error| JournalError::Io { error, what: "sync", offset: 0 })?;
        for _ in 0..JOURNAL_CHUNKS_IN_FLIGHT_MAX {
            self.issue(Pages::zeroed(JOURNAL_CHUNK_BYTES / PAGE_SIZE), effects);
        }
        Ok(())
    }

    /// A chunk arrived. The journal and what it holds, once all is judged.
    pub fn on_read_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<(Journal, Recovered)>, JournalError> {
        assert_eq!(io.owner, Owner::Journal);
        let lane = to_usize(io.slot % JOURNAL_CHUNKS_IN_FLIGHT_MAX as u64);
        let Some(reading) = self.in_flight[lane].take() else {
            unreachable!("a read that was not asked for")
        };
        let Some((chunk, pages)) = self.take_read(io, reading, pages, result, effects) else {
            return Ok(None);
        };
        assert!(self.arrived[lane].is_none());
        self.arrived[lane] = Some((chunk, pages));
        loop {
            let lane = to_usize(self.fed % JOURNAL_CHUNKS_IN_FLIGHT_MAX as u64);
            let Some((chunk, pages)) = self.arrived[lane].take() else {
                break;
            };
            self.feed(chunk, &pages);
            self.fed += 1;
            self.issue(pages, effects);
        }
        if self.next != Chunk::End || self.fed < self.issued {
            return Ok(None);
        }
        let Some(scan) = self.scan.take() else { unreachable!("finished once") };
        let mut recovered = scan.finish()?;
        let slots = recovered.take_slots();
        let journal =
            Journal::recovered(&self.start, self.headers_before_ack, slots, &mut recovered);
        Ok(Some((journal, recovered)))
    }

    /// What a completed read gives: its chunk, or nothing while its pages are read one by one.
    fn take_read(
        &mut self,
        io: IoId,
        reading: Reading,
        mut found: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Option<(Chunk, Pages)> {
        let (chunk, pages, next) = match (reading, result) {
            (Reading::Whole(chunk), Ok(())) => return Some((chunk, found)),
            (Reading::Whole(chunk), Err(_)) => {
                let pages = Pages::zeroed(found.count());
                found.resize(1);
                (chunk, pages, 0)
            }
            (Reading::Paged { chunk, mut pages, next }, result) => {
                match result {
                    Ok(()) => pages.as_mut_slice()[next].0.copy_from_slice(found.as_bytes()),
                    Err(error) => {
                        let offset = self.file_offset(chunk) + (next * PAGE_SIZE) as u64;
                        effects.event(Event::JournalPageUnreadable { offset });
                        let Some(scan) = &mut self.scan else { unreachable!("not finished yet") };
                        scan.unreadable(offset, error);
                    }
                }
                (chunk, pages, next + 1)
            }
        };
        if next == pages.count() {
            return Some((chunk, pages));
        }
        let offset = self.file_offset(chunk) + (next * PAGE_SIZE) as u64;
        let at = Address::new(FileId::Journal, offset);
        effects.push(Effect::Read { io, at, pages: found });
        let lane = to_usize(io.slot % JOURNAL_CHUNKS_IN_FLIGHT_MAX as u64);
        self.in_flight[lane] = Some(Reading::Paged { chunk, pages, next });
        None
    }

    fn feed(&mut self, chunk: Chunk, pages: &Pages) {
        let Some(scan) = &mut self.scan else { unreachable!("not finished yet") };
        match chunk {
            Chunk::Headers(offset) => scan.feed_headers(offset, pages.as_bytes()),
            Chunk::Ring(offset) => {
                assert_eq!(scan.wants(), Some((offset, pages.size_bytes())));
                scan.feed(pages.as_bytes());
            }
            Chunk::End => unreachable!("nothing is read at the end"),
        }
    }

    fn issue(&mut self, mut pages: Pages, effects: &mut Effects) {
        let chunk = self.next;
        let size = match chunk {
            Chunk::Headers(offset) => {
                let left = self.ring.header_area_bytes() - offset;
                let size = left.min(JOURNAL_CHUNK_BYTES as u64);
                self.next = if left > size {
                    Chunk::Headers(offset + size)
                } else {
                    Chunk::Ring(self.start.journal_offset)
                };
                to_usize(size)
            }
            Chunk::Ring(offset) => {
                let Some((_, size)) = chunk_at(&self.start, offset) else {
                    unreachable!("the end is told apart below")
                };
                let after = offset + size as u64;
                let more = chunk_at(&self.start, after).is_some();
                self.next = if more { Chunk::Ring(after) } else { Chunk::End };
                size
            }
            Chunk::End => return,
        };
        pages.resize(size / PAGE_SIZE);
        let lane = to_usize(self.issued % JOURNAL_CHUNKS_IN_FLIGHT_MAX as u64);
        assert!(self.in_flight[lane].is_none() && self.arrived[lane].is_none());
        self.in_flight[lane] = Some(Reading::Whole(chunk));
        let at = Address::new(FileId::Journal, self.file_offset(chunk));
        effects.push(Effect::Read { io: io_id(self.issued), at, pages });
        self.issued += 1;
    }

    fn file_offset(&self, chunk: Chunk) -> u64 {
        match chunk {
            Chunk::Headers(offset) => offset,
            Chunk::Ring(offset) => self.ring.address(offset).offset,
            Chunk::End => unreachable!("the end is not read"),
        }
    }
}

fn io_id(slot: u64) -> IoId {
    IoId { owner: Owner::Journal, slot }
}
