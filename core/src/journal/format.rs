//! A new journal: vacant slots, and zeros over the whole ring.
//!
//! Every page is written once, so that no later write meets a never-written block (which costs the
//! disk more) or runs out of space in the middle of the ring. Zeros are no prepare.
//! Bounded: `JOURNAL_CHUNKS_IN_FLIGHT_MAX` writes in flight, one sync at the end.

use super::slots::fill_vacant;
use super::{JournalError, Ring, to_usize};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Owner, Pages};
use crate::limits::{JOURNAL_CHUNK_BYTES, JOURNAL_CHUNKS_IN_FLIGHT_MAX, PAGE_SIZE};

#[derive(Debug)]
pub struct JournalFormat {
    ring: Ring,
    issued_bytes: u64,
    written_bytes: u64,
    in_flight: usize,
    next_slot: u64,
}

impl JournalFormat {
    /// Starts to write; the file must exist.
    #[must_use]
    pub fn start(ring_bytes: u64, effects: &mut Effects) -> JournalFormat {
        let ring = Ring::new(ring_bytes);
        let mut format =
            JournalFormat { ring, issued_bytes: 0, written_bytes: 0, in_flight: 0, next_slot: 0 };
        for _ in 0..JOURNAL_CHUNKS_IN_FLIGHT_MAX {
            format.issue(Pages::zeroed(JOURNAL_CHUNK_BYTES / PAGE_SIZE), effects);
        }
        format
    }

    /// Bytes written so far, and bytes in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.written_bytes, self.ring.file_bytes())
    }

    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        assert_eq!(io.owner, Owner::Journal);
        let offset = self.written_bytes;
        result.map_err(|error| JournalError::Io { error, what: "format", offset })?;
        self.written_bytes += pages.size_bytes() as u64;
        self.in_flight -= 1;
        self.issue(pages, effects);
        if self.in_flight == 0 {
            assert_eq!(self.written_bytes, self.ring.file_bytes());
            effects.push(Effect::Sync { io: self.next_io(), file: FileId::Journal });
        }
        Ok(())
    }

    /// The sync is done, and with it the format.
    pub fn on_done(&mut self, io: IoId, result: Result<(), IoError>) -> Result<(), JournalError> {
        assert_eq!(io.owner, Owner::Journal);
        assert_eq!(self.written_bytes, self.ring.file_bytes());
        result.map_err(|error| JournalError::Io { error, what: "format", offset: 0 })
    }

    fn issue(&mut self, mut pages: Pages, effects: &mut Effects) {
        let left = self.ring.file_bytes() - self.issued_bytes;
        let size = left.min(JOURNAL_CHUNK_BYTES as u64);
        if size == 0 {
            return;
        }
        pages.resize(to_usize(size) / PAGE_SIZE);
        let slots = self.ring.header_area_bytes().saturating_sub(self.issued_bytes).min(size);
        let (slots, zeros) = pages.as_bytes_mut().split_at_mut(to_usize(slots));
        fill_vacant(slots, to_usize(self.issued_bytes));
        zeros.fill(0);
        let at = Address::new(FileId::Journal, self.issued_bytes);
        effects.push(Effect::Write { io: self.next_io(), at, pages, durable: false });
        self.issued_bytes += size;
        self.in_flight += 1;
    }

    fn next_io(&mut self) -> IoId {
        self.next_slot += 1;
        IoId { owner: Owner::Journal, slot: self.next_slot }
    }
}
