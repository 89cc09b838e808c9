//! Writing: runs and index pages behind the appends, everything at a checkpoint.
//!
//! A checkpoint: `checkpoint_begin` pads the unfinished block of each log that changed, so that
//! what it covers is whole blocks; `checkpoint_step` writes them, then the index pages that
//! changed, then syncs every file written since the last checkpoint; `checkpoint_done` forgets the
//! logs that fell quiet. Appends go on meanwhile, into new blocks, and are no part of it.
//!
//! Invariants: a file is created, durably, before its first write. A block is written once between
//! two checkpoints. A checkpoint is durable only when every write that it covers has completed and
//! was synced afterwards.
//!
//! Fault model: any completion may be an error: it surfaces as `LogError`, nothing is retried, the
//! node halts. An index page that is to be completed from disk and is damaged there is rebuilt from
//! the segment; if that is damaged too, the page is written with the slots at hand, and reads of
//! the others report the damage.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use super::index;
use super::read::Header;
use super::tail::{Covered, PageBase, RunState};
use super::{LogError, LogHead, Logs};
use crate::ids::{Op, SegmentNumber, TenantId};
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Pages};
use crate::limits::{LOG_BUFFER_SIZE_MAX, LOG_IO_IN_FLIGHT_MAX, LOG_WRITING_BYTES_MAX, PAGE_SIZE};

/// Full index pages that gather before they are written, outside of a checkpoint.
const PAGES_GATHERED: usize = 16;

/// What an effect in flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Create(FileId),
    Sync(FileId),
    WriteRun {
        tenant: TenantId,
        sequence: u64,
        file: FileId,
    },
    WritePages {
        tenant: TenantId,
        segment: SegmentNumber,
        first: u32,
        count: u32,
    },
    LoadPage {
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
    },
    ReadBlocks {
        file: FileId,
        first: u64,
    },
    RebuildRead {
        tenant: TenantId,
        segment: SegmentNumber,
        at: Address,
    },
    RebuildWrite {
        tenant: TenantId,
        segment: SegmentNumber,
    },
    MendWrite {
        tenant: TenantId,
        segment: SegmentNumber,
    },
    ScrubRead {
        at: Address,
    },
    /// Of a read that ended with EIO.
    OneBlock,
}

#[derive(Debug, Default)]
pub(super) struct FileState {
    existence: Existence,
    /// A write completed since the last sync was issued.
    pub dirty: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Existence {
    #[default]
    Unknown,
    Creating,
    Exists,
}

/// A checkpoint on its way to disk.
#[derive(Debug)]
pub(super) struct CheckpointWork {
    op: Op,
    /// Runs with a lower sequence belong to it.
    runs_below: u64,
    runs_left: u64,
    /// Pages it must wait for; true: a write that covers it has been issued.
    pages_left: BTreeMap<(TenantId, SegmentNumber, u32), bool>,
    /// None while writing.
    syncs: Option<VecDeque<FileId>>,
    syncs_in_flight: u32,
}

/// How far a checkpoint of the logs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogCheckpoint {
    Working,
    /// All that `checkpoint_begin` covered is durable.
    Durable,
}

impl Logs {
    /// Issues writes of what is complete, as many as may be in flight. Call it every turn.
    pub fn flush_step(&mut self, effects: &mut Effects) {
        self.drain_events(effects);
        self.flush_runs(effects);
        let gathered = self.pages_queued.len() >= PAGES_GATHERED;
        let short_of_room = self.buffered_bytes > LOG_BUFFER_SIZE_MAX / 2;
        if self.checkpoint.is_some() || gathered || short_of_room {
            self.flush_pages(effects);
        }
    }

    /// Starts a checkpoint: pads the unfinished blocks. Gives the heads that changed since the last
    /// one, for the tree of heads; they stay right until the next append.
    pub fn checkpoint_begin(&mut self, op: Op) -> Vec<(TenantId, LogHead)> {
        assert!(self.checkpoint.is_none(), "one checkpoint at a time");
        let mut heads = Vec::new();
        let changed: Vec<TenantId> =
            self.open.iter().filter(|(_, log)| log.changed).map(|(tenant, _)| *tenant).collect();
        for tenant in changed {
            self.pad_and_queue(tenant);
            let Some(log) = self.open.get_mut(&tenant) else { unreachable!("it is in the list") };
            log.changed = false;
            log.covering = Some(Covered::of(&log.head));
            assert!(log.head.segment_offset.is_multiple_of(PAGE_SIZE as u64));
            heads.push((tenant, log.head.clone()));
        }
        let mut pages_left = BTreeMap::new();
        for (tenant, log) in &mut self.open {
            for ((segment, number), page) in &mut log.pages {
                if page.dirty && !page.queued {
                    page.queued = true;
                    self.pages_queued.push_back((*tenant, *segment, *number));
                }
                if page.dirty || page.writing {
                    pages_left.insert((*tenant, *segment, *number), !page.dirty);
                }
            }
        }
        self.appended = 0;
        self.checkpoint = Some(CheckpointWork {
            op,
            runs_below: self.run_sequence + 1,
            runs_left: self.open.values().map(|log| log.runs.len() as u64).sum(),
            pages_left,
            syncs: None,
            syncs_in_flight: 0,
        });
        heads
    }

    /// Goes on with a checkpoint. Call it every turn until it is durable.
    pub fn checkpoint_step(&mut self, effects: &mut Effects) -> LogCheckpoint {
        self.flush_step(effects);
        let Some(work) = &mut self.checkpoint else { unreachable!("checkpoint_begin comes first") };
        if work.syncs.is_none() {
            if work.runs_left > 0 || !work.pages_left.is_empty() {
                return LogCheckpoint::Working;
            }
            let dirty = self.files.iter_mut().filter(|(_, state)| state.dirty);
            work.syncs = Some(dirty.map(|(file, _)| *file).collect());
            #[cfg(verity_zoo)]
            if crate::zoo::is("log_not_synced") {
                work.syncs = Some(VecDeque::new());
            }
        }
        while self.in_flight.len() < LOG_IO_IN_FLIGHT_MAX {
            let Some(work) = &mut self.checkpoint else { unreachable!("checked above") };
            let Some(file) = work.syncs.as_mut().and_then(VecDeque::pop_front) else { break };
            work.syncs_in_flight += 1;
            if let Some(state) = self.files.get_mut(&file) {
                // Writes that complete from now on are not covered.
                state.dirty = false;
            }
            let io = self.io(Purpose::Sync(file));
            effects.push(Effect::Sync { io, file });
        }
        let Some(work) = &self.checkpoint else { unreachable!("checked above") };
        if work.syncs_in_flight == 0 && work.syncs.as_ref().is_some_and(VecDeque::is_empty) {
            LogCheckpoint::Durable
        } else {
            LogCheckpoint::Working
        }
    }

    /// The checkpoint that was durable here is durable as a whole: forgets the logs that are quiet.
    pub fn checkpoint_done(&mut self, op: Op) {
        let Some(work) = self.checkpoint.take() else {
            unreachable!("checkpoint_begin comes first")
        };
        assert!(work.op == op && work.runs_left == 0 && work.pages_left.is_empty());
        assert!(work.syncs_in_flight == 0 && work.syncs.is_some_and(|left| left.is_empty()));
        let mut forgotten = 0;
        self.open.retain(|_, log| {
            log.covered = log.covering.take().unwrap_or(log.covered);
            let busy = log.changed
                || !log.runs.is_empty()
                || log.pages.values().any(|page| page.dirty || page.writing || page.queued);
            if !busy {
                forgotten += log.pages.len() * PAGE_SIZE;
            }
            busy
        });
        self.buffered_bytes -= forgotten;
        let open = &self.open;
        self.files.retain(|file, state| {
            let (tenant, number) = match file {
                FileId::Segment { tenant, number } | FileId::Index { tenant, number } => {
                    (tenant, *number)
                }
                FileId::Superblock
                | FileId::Journal
                | FileId::Grid
                | FileId::Keys
                | FileId::Scratch => unreachable!("not a file of the log"),
            };
            // Of an open log, the segment it appends to.
            let current = open.get(tenant).is_some_and(|log| log.head.segment == number);
            state.dirty || state.existence == Existence::Creating || current
        });
    }

    pub fn on_done(
        &mut self,
        io: IoId,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), LogError> {
        match self.take_purpose(io) {
            Purpose::Create(file) => {
                result.map_err(|error| LogError { file, error })?;
                self.files.entry(file).or_default().existence = Existence::Exists;
                self.flush_step(effects);
                self.rebuild_step(effects);
            }
            Purpose::Sync(file) => {
                result.map_err(|error| LogError { file, error })?;
                let Some(work) = &mut self.checkpoint else {
                    unreachable!("only a checkpoint syncs")
                };
                work.syncs_in_flight -= 1;
            }
            Purpose::WriteRun { .. }
            | Purpose::WritePages { .. }
            | Purpose::LoadPage { .. }
            | Purpose::ReadBlocks { .. }
            | Purpose::RebuildRead { .. }
            | Purpose::RebuildWrite { .. }
            | Purpose::MendWrite { .. }
            | Purpose::ScrubRead { .. }
            | Purpose::OneBlock => unreachable!("reads and writes complete otherwise"),
        }
        Ok(())
    }

    pub fn on_write_done(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), LogError> {
        match self.take_purpose(io) {
            Purpose::WriteRun { tenant, sequence, file } => {
                self.writing_bytes -= pages.size_bytes();
                self.give_back(pages);
                result.map_err(|error| LogError { file, error })?;
                self.run_written(tenant, sequence, file);
            }
            Purpose::WritePages { tenant, segment, first, count } => {
                let file = FileId::Index { tenant, number: segment };
                result.map_err(|error| LogError { file, error })?;
                assert!(pages.count() == count as usize);
                self.pages_written(tenant, segment, first, &pages);
                self.give_back(pages);
            }
            Purpose::RebuildWrite { tenant, segment } => {
                let file = FileId::Index { tenant, number: segment };
                self.give_back(pages);
                result.map_err(|error| LogError { file, error })?;
                self.files.entry(file).or_default().dirty = true;
                self.rebuild_written(tenant, segment, effects);
            }
            Purpose::MendWrite { tenant, segment } => {
                let file = FileId::Segment { tenant, number: segment };
                self.give_back(pages);
                result.map_err(|error| LogError { file, error })?;
                self.mend_written(tenant, segment, effects);
            }
            Purpose::Create(_)
            | Purpose::Sync(_)
            | Purpose::LoadPage { .. }
            | Purpose::ReadBlocks { .. }
            | Purpose::RebuildRead { .. }
            | Purpose::ScrubRead { .. }
            | Purpose::OneBlock => unreachable!("only writes complete here"),
        }
        self.flush_step(effects);
        Ok(())
    }

    fn run_written(&mut self, tenant: TenantId, sequence: u64, file: FileId) {
        let Some(log) = self.open.get_mut(&tenant) else {
            unreachable!("a log with runs stays open")
        };
        let Some(at) = log.runs.iter().position(|run| run.sequence == sequence) else {
            unreachable!("a run stays until it is written")
        };
        let Some(run) = log.runs.remove(at) else { unreachable!("position found it") };
        assert!(run.state == RunState::Writing);
        self.buffered_bytes -= run.bytes.len();
        self.files.entry(file).or_default().dirty = true;
        if let Some(work) = &mut self.checkpoint
            && sequence < work.runs_below
        {
            work.runs_left -= 1;
        }
    }

    fn pages_written(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        first: u32,
        pages: &Pages,
    ) {
        let file = FileId::Index { tenant, number: segment };
        self.files.entry(file).or_default().dirty = true;
        for (nth, written) in pages.as_slice().iter().enumerate() {
            let number = first + nth as u32;
            self.cache.replace(file, u64::from(number), written);
            let Some(log) = self.open.get_mut(&tenant) else {
                unreachable!("a log with pages in flight stays open")
            };
            let Some(page) = log.pages.get_mut(&(segment, number)) else {
                unreachable!("a page stays until it is written")
            };
            assert!(page.writing);
            page.writing = false;
            if page.full && !page.dirty {
                log.pages.remove(&(segment, number));
                self.buffered_bytes -= PAGE_SIZE;
            }
            if let Some(work) = &mut self.checkpoint
                && work.pages_left.get(&(tenant, segment, number)) == Some(&true)
            {
                work.pages_left.remove(&(tenant, segment, number));
            }
        }
    }

    fn flush_runs(&mut self, effects: &mut Effects) {
        for _ in 0..self.runs_queued.len() {
            if self.in_flight.len() >= LOG_IO_IN_FLIGHT_MAX {
                return;
            }
            let Some((tenant, sequence)) = self.runs_queued.pop_front() else { return };
            let Some(log) = self.open.get(&tenant) else {
                unreachable!("a log with runs stays open")
            };
            // Writes that make the same file longer wait for one another in the file system, and
            // burn the processor while they do.
            if log.runs.iter().any(|run| run.state == RunState::Writing) {
                self.runs_queued.push_back((tenant, sequence));
                continue;
            }
            let Some(run) = log.runs.iter().find(|run| run.sequence == sequence) else {
                unreachable!("a queued run is in its log")
            };
            assert!(run.state == RunState::Queued && run.bytes.len().is_multiple_of(PAGE_SIZE));
            let (number, start, size) = (run.segment, run.start, run.bytes.len());
            if self.writing_bytes > 0 && self.writing_bytes + size > LOG_WRITING_BYTES_MAX {
                self.runs_queued.push_front((tenant, sequence));
                return;
            }
            let file = FileId::Segment { tenant, number };
            if start > 0 {
                // A segment that has begun was created before.
                let state = self.files.entry(file).or_default();
                if state.existence == Existence::Unknown {
                    state.existence = Existence::Exists;
                }
            }
            if !self.file_exists(file, effects) {
                self.runs_queued.push_back((tenant, sequence));
                continue;
            }
            let mut pages = self.pages(size / PAGE_SIZE);
            let Some(run) = self
                .open
                .get_mut(&tenant)
                .and_then(|log| log.runs.iter_mut().find(|run| run.sequence == sequence))
            else {
                unreachable!("found above")
            };
            // Readers use the run until the write is done: the write takes a copy.
            pages.as_bytes_mut().copy_from_slice(&run.bytes);
            run.state = RunState::Writing;
            self.writing_bytes += size;
            let io = self.io(Purpose::WriteRun { tenant, sequence, file });
            effects.push(Effect::Write {
                io,
                at: Address::new(file, start),
                pages,
                durable: false,
            });
        }
    }

    fn flush_pages(&mut self, effects: &mut Effects) {
        for _ in 0..self.pages_queued.len() {
            if self.in_flight.len() >= LOG_IO_IN_FLIGHT_MAX {
                return;
            }
            let Some((tenant, segment, number)) = self.pages_queued.pop_front() else { return };
            match self.page_ready(tenant, segment, number, effects) {
                Ready::Yes => {}
                Ready::Wait => {
                    self.pages_queued.push_back((tenant, segment, number));
                    continue;
                }
                Ready::Nothing => continue,
            }
            let mut images = Vec::from([self.take_image(tenant, segment, number)]);
            // Neighbours that are next in the queue go along.
            while images.len() < PAGES_GATHERED
                && self.pages_queued.front()
                    == Some(&(tenant, segment, number + images.len() as u32))
                && self.page_ready(tenant, segment, number + images.len() as u32, effects)
                    == Ready::Yes
            {
                self.pages_queued.pop_front();
                images.push(self.take_image(tenant, segment, number + images.len() as u32));
            }
            let mut pages = self.pages(images.len());
            for (page, image) in pages.as_mut_slice().iter_mut().zip(&images) {
                page.0.copy_from_slice(image);
            }
            let file = FileId::Index { tenant, number: segment };
            let count = images.len() as u32;
            let io = self.io(Purpose::WritePages { tenant, segment, first: number, count });
            let at = Address::new(file, u64::from(number) * PAGE_SIZE as u64);
            effects.push(Effect::Write { io, at, pages, durable: false });
        }
    }

    /// Can a queued page be written now? Starts what it waits for.
    fn page_ready(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
        effects: &mut Effects,
    ) -> Ready {
        let key = (tenant, segment);
        let Some(log) = self.open.get_mut(&tenant) else { return Ready::Nothing };
        let Some(page) = log.pages.get_mut(&(segment, number)) else { return Ready::Nothing };
        let file = FileId::Index { tenant, number: segment };
        let reading = self.cache.is_reading(file, u64::from(number));
        // A rebuild may have been faster than a load of the page, which is still being read.
        if page.writing || page.loading || reading || self.rebuilds.contains_key(&key) {
            return Ready::Wait;
        }
        if !page.dirty {
            page.queued = false;
            if page.full {
                log.pages.remove(&(segment, number));
                self.buffered_bytes -= PAGE_SIZE;
            }
            return Ready::Nothing;
        }
        if page.base != PageBase::Whole {
            self.load_page(tenant, segment, number, effects);
            return Ready::Wait;
        }
        if self.file_exists(file, effects) { Ready::Yes } else { Ready::Wait }
    }

    /// Reads what the disk has of a page that is to be completed; before the first of an index, its
    /// header: once the page is written, nobody would wait for that.
    fn load_page(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
        effects: &mut Effects,
    ) {
        let key = (tenant, segment);
        let header = self.headers.borrow().get(&key).copied();
        let number = match header {
            Some(Header::Loading) => return,
            Some(Header::Good) => number,
            None if self.header_is_known(tenant, segment) => number,
            None => {
                self.headers.borrow_mut().insert(key, Header::Loading);
                0
            }
        };
        if number > 0 {
            let page =
                self.open.get_mut(&tenant).and_then(|log| log.pages.get_mut(&(segment, number)));
            let Some(page) = page else { unreachable!("the caller has it") };
            if core::mem::replace(&mut page.loading, true) {
                return;
            }
        }
        let io = self.io(Purpose::LoadPage { tenant, segment, number });
        let file = FileId::Index { tenant, number: segment };
        let at = Address::new(file, u64::from(number) * PAGE_SIZE as u64);
        let pages = self.pages(1);
        effects.push(Effect::Read { io, at, pages });
    }

    /// The bytes to write of a page that is ready; it counts as being written from now on.
    fn take_image(
        &mut self,
        tenant: TenantId,
        segment: SegmentNumber,
        number: u32,
    ) -> [u8; PAGE_SIZE] {
        let of = self.index_of(tenant, segment);
        let Some(page) =
            self.open.get_mut(&tenant).and_then(|log| log.pages.get_mut(&(segment, number)))
        else {
            unreachable!("a page that is ready is there")
        };
        page.dirty = false;
        page.queued = false;
        page.writing = true;
        let mut image = page.image.0;
        index::stamp(of, number, &mut image);
        if let Some(work) = &mut self.checkpoint
            && let Some(covered) = work.pages_left.get_mut(&(tenant, segment, number))
        {
            *covered = true;
        }
        image
    }

    /// Is the file there? Else it is being created.
    pub(super) fn file_exists(&mut self, file: FileId, effects: &mut Effects) -> bool {
        let state = self.files.entry(file).or_default();
        match state.existence {
            Existence::Exists => true,
            Existence::Creating => false,
            Existence::Unknown => {
                state.existence = Existence::Creating;
                let io = self.io(Purpose::Create(file));
                effects.push(Effect::Create { io, file });
                false
            }
        }
    }
}

/// What can be done with a queued page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Yes,
    /// Something is under way.
    Wait,
    /// There is nothing to write.
    Nothing,
}
