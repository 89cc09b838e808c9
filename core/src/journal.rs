//! The journal: the ring of prepares that consensus writes ahead.
//!
//! Purpose: a prepare is durable here before it counts. The file is a *header area* (one 256-byte
//! slot for each 4 KiB of ring: slot i holds the redundant header of the prepare that begins at
//! page i) and the *ring*. Bytes are drawn in `journal/prepare.rs` and `docs/DATA_FILE.md`.
//!
//! **Live.** [`Journal::write`] writes a prepare durably at `journal_offset`. When that is done its
//! header goes to its slot in memory, and the slot's sector to the disk. With one replica the
//! prepare counts as durable at once and the sector follows: when the ring has moved past it, or
//! after `JOURNAL_HEADER_DELAY_NS` of quiet. With more replicas it counts when the sector is
//! durable too. Ring space above the durable checkpoint is never overwritten.
//!
//! **Recovery.** From the checkpoint on, prepares must chain: op + 1, `parent` = checksum of the
//! one before, at one of the two places where it can begin, header, body and padding right. The
//! walk ends at the first op n that is not there. Then one question is left: was n ever
//! acknowledged?
//!
//! - A crash keeps any subset of what was not durable, and several prepares are in flight at once.
//!   So n may be torn or missing though later ones are whole. None of these was acknowledged,
//!   because acknowledgement goes in op order. n is a *torn tail*: it and all after it are dropped.
//! - If anything proves that n was durable or committed, the disk lost it: it is *rotten*. With one
//!   replica that is the end: [`JournalError::Rotten`], never silence. The proofs:
//!   1. a redundant header for n, joined to n - 1: it is written only after n was durable;
//!   2. any good header in ring or slots, whatever its op, with `commit >= n`;
//!   3. the superblock's `committed >= n` (written before an opened journal serves anybody);
//!   4. no header in the whole file, of our cluster, comes near the checkpoint: then this is not
//!      the journal that the checkpoint was taken of, and what that held above it is lost. (One op
//!      is allowed for: the checkpoint's own prepare may have rotted without any harm.)
//! - If nothing proves it, and what is found where n could begin is not what a journal holds there
//!   without it, nobody can tell: it is dropped as a torn tail that is *damaged*, with a warning,
//!   and `verify` says so. That is a page that looks like n, or a slot that holds neither a header
//!   of its own place nor the mark of a vacant one.
//!
//! **Why dropped prepares do no harm later.** Let d be the first op dropped in some open. No header
//! in the file then had `commit >= d`, else d was rotten. So what is left of the dropped future
//! proves nothing about any op >= d, ever (proof 2). The next op d is the recovery op of a new
//! view, which the superblock holds before it is used; its bytes, hence its checksum, differ from
//! every older d. An old d + 1 names the old d as its parent and never joins, neither as a prepare
//! nor as a redundant header (proof 1). The old d itself had no redundant header on disk, else it
//! was rotten. By induction over opens, all crashes later.
//!
//! **Header damaged, body whole.** A prepare that joins by its redundant header and has the body
//! that header names was durable and is whole but for its header: it counts, and its first page is
//! written again (only header bytes change, so a crash in that write harms nothing) before anything
//! else is read or written.
//!
//! **Unreadable pages.** A device error is narrowed to pages. One on which the next prepare of the
//! chain might be stops the open as that error: it may have been acknowledged, and it may be read
//! next time. Elsewhere it decides nothing: a slot's sector is written again, dead ring space will
//! be. (Two faults at once, a lost prepare *and* an unreadable page with the only proof of it, are
//! beyond one replica.)
//!
//! **Two places.** A larger new d may not fit where the old d was and begin at the ring's start;
//! the bytes of the old d then survive, and could even be whole (a disk that misread them once; in
//! a cluster, a prepare that a view change replaced). If both join, the later view wins.
//!
//! **Ahead of the superblock.** A header with a view above the superblock's, or with a
//! `checkpoint_durable` above its checkpoint, proves that the newest superblock copies are lost:
//! [`JournalError::SuperblockStale`], because pages of the older checkpoint may have been reused.
//!
//! What remains, with one replica: an acknowledged prepare that rots before its redundant header is
//! on disk and before any later prepare that knows it committed. It looks like a torn tail. While
//! the
//! process lives, the window is a few milliseconds; if it dies within them, it lasts until the next
//! open, which writes the redundant header. A cluster does not have it.
//!
//! Fault model: torn, lost, misdirected writes and rot in ring and header area, alone or together.
//! Read errors of what counts stop the open (they never decide what counts); write errors stop the
//! replica.
//!
//! Start reading at [`Journal::write`], then `journal/scan.rs`.

#[cfg(test)]
pub(crate) mod fake_disk;
mod format;
mod prepare;
mod recovery;
mod replicated;
mod ring;
mod scan;
mod slots;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::crypto::hash::InternalHash;
use crate::event::Event;
use crate::ids::{ClusterId, Op, Release, View};
use crate::io::{Effect, Effects, IoError, IoId, Owner, Pages};
use crate::limits::{
    JOURNAL_HEADER_WRITES_MAX, PAGE_SIZE, PIPELINE_MAX, PREPARE_BUFFERS_MAX, REPLAY_AHEAD_MAX,
};

pub use format::JournalFormat;
pub use prepare::{Operation, Prepare, PrepareBuffer, PrepareError, PrepareHeader, check_body};
pub use recovery::JournalRecovery;
pub use replicated::{
    ReadBack, RecoveredReplica, ReplicaJournal, ReplicaJournalRecovery, State as EntryState,
};
pub use ring::Ring;
pub use scan::{Scan, walk};

use ring::{SectorIndex, to_usize};
use scan::RestoredPage;
use slots::Slots;

/// What the superblock (and this software) know of the journal before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStart {
    pub cluster: ClusterId,
    pub ring_bytes: u64,
    /// Release of this software.
    pub release: Release,
    /// Op of the checkpoint.
    pub op: Op,
    /// Header checksum of that op's prepare.
    pub prepare_checksum: InternalHash,
    /// Where that op's prepare ends.
    pub journal_offset: u64,
    /// View of the superblock.
    pub view: View,
    /// The superblock's word that these ops are committed.
    pub committed: Op,
}

/// What proves that a damaged prepare was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Its redundant header.
    Header,
    /// The header of `op`, which was proposed when `commit` was committed.
    Later { op: Op, commit: Op },
    /// The superblock.
    Superblock { committed: Op },
    /// It was whole when the journal was opened.
    Opened,
    /// The superblock's checkpoint is of `op`, and the newest header in the whole journal is of
    /// `newest`: another file was put in its place, or all of it was lost.
    Checkpoint { op: Op, newest: Op },
}

/// Why the journal cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalError {
    Io {
        error: IoError,
        what: &'static str,
        /// In the file.
        offset: u64,
    },
    /// An acknowledged prepare is damaged.
    Rotten {
        op: Op,
        /// Journal offset.
        offset: u64,
        evidence: Evidence,
    },
    /// The journal knows a newer view or checkpoint than the superblock.
    SuperblockStale { op: Op, view: View, checkpoint_durable: Op },
    /// A prepare of a newer release.
    NewerRelease { op: Op, found: Release, known: Release },
}

impl core::fmt::Display for JournalError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            JournalError::Io { error, what, offset } => {
                write!(f, "journal: {what} at byte {offset}: {error}")
            }
            JournalError::Rotten { op, offset, evidence } => {
                write!(
                    f,
                    "journal: prepare of op {op} at journal offset {offset} is damaged, and "
                )?;
                match evidence {
                    Evidence::Header => f.write_str("its redundant header shows"),
                    Evidence::Later { op, commit } => {
                        write!(f, "op {op}, which knew {commit} as committed, shows")
                    }
                    Evidence::Superblock { committed } => {
                        write!(f, "the superblock, which knows {committed} as committed, shows")
                    }
                    Evidence::Opened => f.write_str("that it was whole at open shows"),
                    Evidence::Checkpoint { op, newest } => write!(
                        f,
                        "the checkpoint of op {op} is newer than all that this journal holds (up \
                         to op {newest}; an older file, or that of another directory?): nothing \
                         shows"
                    ),
                }?;
                f.write_str(
                    " that it was acknowledged: nothing is dropped silently. Restore this \
                     directory from a backup, or copy the file `journal` from an intact image",
                )
            }
            JournalError::SuperblockStale { op, view, checkpoint_durable } => write!(
                f,
                "journal: op {op} knows view {view} and durable checkpoint {checkpoint_durable}, \
                 newer than the superblock: an older superblock was put back, or its newest copies \
                 are lost. Restore this directory as a whole from a backup",
            ),
            JournalError::NewerRelease { op, found, known } => write!(
                f,
                "journal: op {op} was written by release {found}, this is release {known}: use \
                 the newer release",
            ),
        }
    }
}

/// A tail of which nothing shows that it was ever acknowledged; it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The first op that is dropped.
    pub op: Op,
    /// The highest one of which anything was seen.
    pub op_max_seen: Op,
    /// Some of `op` is there: torn by a crash before it was acknowledged, or damaged after. Else
    /// nothing of it is.
    pub damaged: bool,
}

/// What a journal holds above the checkpoint.
#[derive(Debug)]
pub struct Recovered {
    /// In op order, without a gap, from the checkpoint's op + 1.
    pub headers: Vec<PrepareHeader>,
    pub torn: Option<TornTail>,
    /// Redundant headers that were missing or damaged and are being written again.
    pub slots_repaired: u32,
    /// Pages that the device could not read, none of which matters.
    pub pages_unreadable: u32,
    /// First pages of prepares whose header was damaged and is being written again.
    restored: Vec<RestoredPage>,
    slots: Option<Slots>,
}

impl Recovered {
    /// Ops whose header in the ring was damaged and is taken from the redundant one.
    pub fn restored(&self) -> impl Iterator<Item = Op> {
        self.restored.iter().map(|restored| restored.op)
    }

    fn take_slots(&mut self) -> Slots {
        let Some(slots) = self.slots.take() else { unreachable!("taken once, by the recovery") };
        slots
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    ring: Ring,
    headers_before_ack: bool,
    slots: Slots,
    /// Journal offsets of the ops above the durable checkpoint; the first is that of
    /// `checkpoint_op` + 1.
    offsets: VecDeque<u64>,
    checkpoint_op: Op,
    /// Content at or above is never overwritten.
    checkpoint_offset: u64,
    head_op: Op,
    head_checksum: InternalHash,
    /// Where the last prepare ends.
    head_end: u64,
    in_flight: Vec<Option<InFlight>>,
    /// Pages to write again before anything else happens, one after the other.
    restoring: VecDeque<RestoredPage>,
    prepares_in_flight: usize,
    /// Durable prepares that wait for their redundant header.
    waiting: Vec<Waiting>,
    durable: VecDeque<Prepare>,
    read: VecDeque<Prepare>,
}

#[derive(Clone, Copy, Debug)]
enum InFlight {
    Prepare(PrepareHeader),
    Sector(SectorIndex),
    Read(PrepareHeader),
    /// The first page of a prepare, at this journal offset.
    Restore(u64),
}

#[derive(Debug)]
struct Waiting {
    prepare: Prepare,
    sector: SectorIndex,
    /// A write that includes its header has begun.
    covered: bool,
}

/// The last one restores a page.
const IN_FLIGHT_MAX: usize = PIPELINE_MAX + JOURNAL_HEADER_WRITES_MAX + REPLAY_AHEAD_MAX + 1;

impl Journal {
    fn recovered(
        start: &JournalStart,
        headers_before_ack: bool,
        slots: Slots,
        recovered: &mut Recovered,
    ) -> Journal {
        let ring = Ring::new(start.ring_bytes);
        let prepares_max = to_usize(ring.bytes()) / PAGE_SIZE;
        let mut offsets = VecDeque::with_capacity(prepares_max);
        offsets.extend(recovered.headers.iter().map(|header| header.journal_offset));
        let last = recovered.headers.last();
        let mut in_flight = Vec::with_capacity(IN_FLIGHT_MAX);
        in_flight.resize(IN_FLIGHT_MAX, None);
        Journal {
            ring,
            headers_before_ack,
            slots,
            offsets,
            checkpoint_op: start.op,
            checkpoint_offset: start.journal_offset,
            head_op: last.map_or(start.op, |header| header.op),
            head_checksum: last.map_or(start.prepare_checksum, |header| header.checksum),
            head_end: last.map_or(start.journal_offset, PrepareHeader::journal_end),
            in_flight,
            restoring: core::mem::take(&mut recovered.restored).into(),
            prepares_in_flight: 0,
            waiting: Vec::with_capacity(PIPELINE_MAX),
            durable: VecDeque::with_capacity(PREPARE_BUFFERS_MAX),
            read: VecDeque::with_capacity(PREPARE_BUFFERS_MAX),
        }
    }

    /// Whether damaged headers are being written again; until then nothing may be read or written.
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }

    /// Writes the next page to be restored; it leaves the list when it is durable.
    pub fn restore_next(&mut self, effects: &mut Effects) {
        let Some(restored) = self.restoring.front() else { return };
        let (offset, pages) = (restored.journal_offset, restored.page.clone());
        let io = self.io_of(InFlight::Restore(offset));
        effects.push(Effect::Write { io, at: self.ring.address(offset), pages, durable: true });
    }

    /// Op of the last prepare written or being written.
    #[must_use]
    pub fn head_op(&self) -> Op {
        self.head_op
    }

    /// What the next prepare names as its parent.
    #[must_use]
    pub fn head_checksum(&self) -> InternalHash {
        self.head_checksum
    }

    /// Where a prepare of `size` bytes (header and body) would begin.
    #[must_use]
    pub fn place(&self, size: usize) -> u64 {
        self.ring.place(self.head_end, padded(size))
    }

    /// Ring bytes that stay free when a prepare of `size` bytes is written; `None` if it does not
    /// fit above the durable checkpoint.
    #[must_use]
    pub fn free_after(&self, size: usize) -> Option<u64> {
        let end = self.place(size) + padded(size);
        (self.checkpoint_offset + self.ring.bytes()).checked_sub(end)
    }

    /// Ring bytes between the durable checkpoint and the end of the last prepare.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.head_end - self.checkpoint_offset
    }

    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
    }

    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Prepares being written, or durable and waiting for their redundant header.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.prepares_in_flight + self.waiting.len()
    }

    /// Whether a redundant header is not on disk yet.
    #[must_use]
    pub fn headers_unwritten(&self) -> bool {
        self.slots.unwritten()
    }

    /// Starts the durable write of the next prepare. [`Journal::next_durable`] gives it back.
    pub fn write(&mut self, prepare: Prepare, effects: &mut Effects) {
        let header = *prepare.header();
        assert_eq!(header.op, self.head_op.next(), "prepares are written in op order");
        assert_eq!(header.parent, self.head_checksum, "each names the one before");
        assert_eq!(header.journal_offset, self.place(header.size as usize));
        assert!(
            header.journal_end() <= self.checkpoint_offset + self.ring.bytes(),
            "ring content above the durable checkpoint is never overwritten"
        );
        assert_eq!(prepare.pages().size_bytes() as u64, header.padded_bytes());
        assert!(self.prepares_in_flight < PIPELINE_MAX);
        let start_of_ring = self.ring.position(header.journal_offset) == 0;
        if start_of_ring && header.journal_offset > 0 {
            effects.event(Event::JournalWrapped { op: header.op });
        }
        self.head_op = header.op;
        self.head_checksum = header.checksum;
        self.head_end = header.journal_end();
        self.offsets.push_back(header.journal_offset);
        self.prepares_in_flight += 1;
        let io = self.io_of(InFlight::Prepare(header));
        let at = self.ring.address(header.journal_offset);
        let durable = true;
        #[cfg(verity_zoo)]
        let durable = durable && !crate::zoo::is("ack_before_durable");
        effects.push(Effect::Write { io, at, pages: prepare.into_pages(), durable });
    }

    /// Starts to read a prepare above the durable checkpoint. [`Journal::next_read`] gives it.
    pub fn read(&mut self, op: Op, pages: Pages, effects: &mut Effects) {
        let Some(header) = self.header(op) else {
            unreachable!("only durable prepares above the checkpoint are read")
        };
        let mut pages = pages;
        pages.resize(to_usize(header.padded_bytes()) / PAGE_SIZE);
        let io = self.io_of(InFlight::Read(header));
        let at = self.ring.address(header.journal_offset);
        effects.push(Effect::Read { io, at, pages });
    }

    /// The header of a durable prepare above the durable checkpoint.
    #[must_use]
    pub fn header(&self, op: Op) -> Option<PrepareHeader> {
        let index = op.get().checked_sub(self.checkpoint_op.get() + 1)?;
        let offset = *self.offsets.get(to_usize(index))?;
        self.slots.header(offset).filter(|header| header.op == op)
    }

    /// Prepares that became durable, in any order.
    pub fn next_durable(&mut self) -> Option<Prepare> {
        self.durable.pop_front()
    }

    /// Prepares that were read, in any order.
    pub fn next_read(&mut self) -> Option<Prepare> {
        self.read.pop_front()
    }

    /// The state after `op` is durable elsewhere: ring space up to its end is free.
    pub fn checkpoint_durable(&mut self, op: Op) {
        assert!(op > self.checkpoint_op && op <= self.head_op);
        let Some(header) = self.header(op) else {
            unreachable!("a checkpoint follows a committed prepare, which is in the ring")
        };
        let freed = to_usize(op.get() - self.checkpoint_op.get());
        self.offsets.drain(..freed);
        self.checkpoint_op = op;
        self.checkpoint_offset = header.journal_end();
    }

    /// Writes what is left of the redundant headers, the sector being filled included.
    pub fn flush_headers(&mut self, effects: &mut Effects) {
        self.write_headers(true, effects);
    }

    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), JournalError> {
        match self.take_in_flight(io) {
            InFlight::Prepare(header) => {
                let offset = self.ring.address(header.journal_offset).offset;
                result.map_err(|error| JournalError::Io { error, what: "write", offset })?;
                self.prepare_durable(Prepare::written(header, pages));
            }
            InFlight::Sector(sector) => {
                let offset = self.ring.sector_address(sector).offset;
                result.map_err(|error| JournalError::Io { error, what: "write", offset })?;
                self.slots.finish_write(sector, pages);
                self.sector_durable(sector);
            }
            InFlight::Restore(journal_offset) => {
                let offset = self.ring.address(journal_offset).offset;
                result.map_err(|error| JournalError::Io { error, what: "write", offset })?;
                let Some(restored) = self.restoring.pop_front() else {
                    unreachable!("it is in the list until it is durable")
                };
                effects.event(Event::JournalHeaderRepaired { op: restored.op });
                self.restore_next(effects);
            }
            InFlight::Read(_) => unreachable!("a read does not complete as a write"),
        }
        self.write_headers(false, effects);
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
        let Ok(prepare) = Prepare::from_pages(&header, pages) else {
            effects.event(Event::JournalRottenPrepare { op: header.op });
            let (op, offset) = (header.op, header.journal_offset);
            return Err(JournalError::Rotten { op, offset, evidence: Evidence::Opened });
        };
        self.read.push_back(prepare);
        Ok(())
    }

    fn prepare_durable(&mut self, prepare: Prepare) {
        self.prepares_in_flight -= 1;
        let header = prepare.header();
        let sector = self.ring.sector_of(header.journal_offset);
        self.slots.set(header);
        if self.headers_before_ack {
            self.waiting.push(Waiting { prepare, sector, covered: false });
        } else {
            self.durable.push_back(prepare);
        }
    }

    fn sector_durable(&mut self, sector: SectorIndex) {
        let mut index = 0;
        while index < self.waiting.len() {
            let waiting = &self.waiting[index];
            if waiting.covered && waiting.sector == sector {
                self.durable.push_back(self.waiting.remove(index).prepare);
            } else {
                index += 1;
            }
        }
    }

    /// Starts writes of dirty sectors. With one replica the sector where the next prepare becomes
    /// durable waits for company, unless `all`: under load each sector is then written once, not
    /// sixteen times.
    fn write_headers(&mut self, all: bool, effects: &mut Effects) {
        let lazy = !self.headers_before_ack && !all;
        let held_back = lazy.then(|| self.ring.sector_of(self.first_in_flight()));
        while let Some((sector, pages)) = self.slots.start_write(held_back) {
            for waiting in &mut self.waiting {
                waiting.covered |= waiting.sector == sector;
            }
            let io = self.io_of(InFlight::Sector(sector));
            let at = self.ring.sector_address(sector);
            effects.push(Effect::Write { io, at, pages, durable: true });
        }
    }

    /// Journal offset of the first prepare that is being written, or of the next one.
    fn first_in_flight(&self) -> u64 {
        let offset = |what: &Option<InFlight>| match what {
            Some(InFlight::Prepare(header)) => Some(header.journal_offset),
            Some(InFlight::Sector(_) | InFlight::Read(_) | InFlight::Restore(_)) | None => None,
        };
        self.in_flight.iter().filter_map(offset).min().unwrap_or(self.head_end)
    }

    fn io_of(&mut self, what: InFlight) -> IoId {
        let Some(slot) = self.in_flight.iter().position(Option::is_none) else {
            unreachable!("writes, header writes and reads are each bounded")
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

fn padded(size: usize) -> u64 {
    size.next_multiple_of(PAGE_SIZE) as u64
}
