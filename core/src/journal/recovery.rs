//! Opening a journal: sync, then read the header area and the whole ring in bounded chunks.
//!
//! The sync comes first. A process that was killed (and not the machine) leaves writes that can be
//! read but are not durable yet; what recovery builds on must not vanish at the next power cut.
//!
//! Invariants: at most `JOURNAL_CHUNKS_IN_FLIGHT_MAX` reads in flight; completions may come in any
//! order, the scan sees them in order of issue. A read error ends the open: an EIO never decides
//! what counts.

use super::scan::{Scan, chunk_at};
use super::{Journal, JournalError, JournalStart, Recovered, Ring, to_usize};
use crate::io::{Effect, Effects, FileId, IoError, IoId, Owner, Pages};
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
    in_flight: [Option<Chunk>; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
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
            in_flight: [None; JOURNAL_CHUNKS_IN_FLIGHT_MAX],
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
        let Some(chunk) = self.in_flight[lane].take() else {
            unreachable!("a read that was not asked for")
        };
        if let Err(error) = result {
            let offset = self.file_offset(chunk);
            return Err(JournalError::Io { error, what: "read", offset });
        }
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
        let journal = Journal::recovered(&self.start, self.headers_before_ack, slots, &recovered);
        Ok(Some((journal, recovered)))
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
        self.in_flight[lane] = Some(chunk);
        let at = crate::io::Address::new(FileId::Journal, self.file_offset(chunk));
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
