//! From a fault to pages in memory: misses, reads in flight, pins of tasks.
//!
//! A *task* is one stage of work that may run several times ([`Pins`] names it). What it missed is
//! read in one batch, neighbours in one read, and stays pinned for it until it unpins: so every run
//! gets further, even if all else is evicted at once. A page that two tasks miss is read once.
//! A stage must need less than 7/8 of the clean frames at once; a scan, which moves on with its
//! cursor, may pass over any number: its oldest pins go when the room for pins runs out. What is
//! read ahead must not push out what the stage needs at once: a page that it misses again comes
//! alone.
//!
//! Fault model: a read returns anything. A page enters the cache only if its tag opens it and its
//! header names the tree that asked; else every task that waits gets [`StoreError::Corrupt`], and
//! nothing is cached. A page that the device does not give (EIO) is one that does not verify, where
//! there are peers to repair it from; alone a replica stops. A page number that is given to a new
//! page while an old read of it is in flight makes that read *abandoned*: its bytes are dropped,
//! its tasks simply run again.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::RefCell;

use super::cache::{Pin, State};
use super::page;
use super::{Fault, PageKeys, Store, StoreError, TreeRef};
use crate::crypto::Tag;
use crate::event::Event;
use crate::ids::PageNumber;
use crate::io::{Address, Effect, Effects, IoError, IoId, Owner, Page, Pages};
use crate::limits::{PAGE_SIZE, STORE_IO_PAGES_MAX, STORE_MISSES_MAX, STORE_READS_IN_FLIGHT_MAX};
use crate::superblock::PageRef;

/// Pages that a task remembers to have let go.
const LET_GO_MAX: usize = 16 * STORE_MISSES_MAX;

/// What a task holds in memory. Give it back with [`Store::unpin`].
#[derive(Debug, Default)]
pub struct Pins {
    task: Option<u32>,
}

impl Pins {
    #[must_use]
    pub const fn new() -> Pins {
        Pins { task: None }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Miss {
    pub at: PageRef,
    pub tree: TreeRef,
}

#[derive(Debug, Default)]
struct Task {
    live: bool,
    /// Oldest first.
    pins: VecDeque<Pin>,
    waiting: u32,
    /// Fetches for which pages of its own had to go.
    squeezed: u32,
    /// Pages that had to go then, and were not missed since.
    let_go: BTreeSet<PageNumber>,
    error: Option<StoreError>,
}

#[derive(Debug)]
struct Reading {
    miss: Miss,
    tasks: Vec<u32>,
    abandoned: bool,
}

#[derive(Debug, Default)]
pub(super) struct Fetches {
    misses: RefCell<Vec<Miss>>,
    tasks: Vec<Task>,
    /// By I/O slot; the pages of one read are neighbours.
    reads: BTreeMap<u64, Vec<Reading>>,
    /// The read that will bring a page, unless abandoned.
    by_page: BTreeMap<PageNumber, u64>,
    in_flight: usize,
    pub(super) pages_read: u64,
}

impl Fetches {
    /// The number now names another page: what is on its way is of no use.
    pub(super) fn abandon(&mut self, page: PageNumber) {
        let Some(slot) = self.by_page.remove(&page) else { return };
        let Some(reads) = self.reads.get_mut(&slot) else {
            unreachable!("`by_page` names reads in flight");
        };
        for read in reads {
            if read.miss.at.page == page {
                read.abandoned = true;
            }
        }
    }

    /// What these tasks waited for is needed no more.
    pub(super) fn run_again(&mut self, tasks: &[u32]) {
        for &task in tasks {
            self.tasks[task as usize].waiting -= 1;
        }
    }

    pub(super) fn pages_in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn missed(&self) -> usize {
        self.misses.borrow().len()
    }

    pub(super) fn forget_misses(&self) {
        self.misses.borrow_mut().clear();
    }

    fn task(&mut self, pins: &mut Pins) -> u32 {
        if let Some(task) = pins.task {
            return task;
        }
        let free = self.tasks.iter().position(|task| !task.live);
        let task = free.unwrap_or(self.tasks.len());
        if task == self.tasks.len() {
            self.tasks.push(Task::default());
        }
        self.tasks[task].live = true;
        pins.task = Some(task as u32);
        task as u32
    }
}

impl Store {
    /// Notes that `at` is not in memory. More misses than fit are noted on the next run.
    #[cold]
    pub(super) fn miss(&self, tree: TreeRef, at: PageRef) -> Fault {
        let at = self.resolve(at);
        assert_ne!(at.checkpoint_op.get(), 0, "an unsealed page left memory: {at:?}");
        let mut misses = self.fetches.misses.borrow_mut();
        let last = misses.last().map(|miss| miss.at.page);
        if misses.len() < STORE_MISSES_MAX && last != Some(at.page) {
            misses.push(Miss { at, tree });
        }
        Fault(())
    }

    /// Reads what was missed and pins it for the task. Wait until [`Store::ready`], then run the
    /// stage again.
    pub fn fetch(&mut self, pins: &mut Pins, effects: &mut Effects) {
        self.flush_marks(effects);
        self.trim_roots();
        let task = self.fetches.task(pins);
        let mut misses = core::mem::take(self.fetches.misses.get_mut());
        // What was missed first is needed first; the rest is read-ahead.
        let mut first = 0;
        while first < misses.len() {
            let page = misses[first].at.page;
            if misses[..first].iter().any(|miss| miss.at.page == page) {
                misses.swap_remove(first);
            } else {
                first += 1;
            }
        }
        misses.truncate(self.cache.pinned_max().div_ceil(2));
        if let Some(needed) = misses.first()
            && self.fetches.tasks[task as usize].let_go.remove(&needed.at.page)
        {
            misses.truncate(1);
        }
        misses.sort_unstable_by_key(|miss| miss.at.page);
        self.make_room_to_pin(task, misses.len());
        let mut run: Vec<Reading> = Vec::new();
        for &miss in &misses {
            let page = miss.at.page;
            if let Some(pin) = self.cache.pin(page) {
                self.fetches.tasks[task as usize].pins.push_back(pin);
                continue;
            }
            if self.repairs.join(page, task) {
                self.fetches.tasks[task as usize].waiting += 1;
                continue;
            }
            if let Some(slot) = self.fetches.by_page.get(&page) {
                let Some(reads) = self.fetches.reads.get_mut(slot) else {
                    unreachable!("`by_page` names reads in flight");
                };
                for read in reads.iter_mut().filter(|read| read.miss.at.page == page) {
                    read.tasks.push(task);
                    self.fetches.tasks[task as usize].waiting += 1;
                }
                continue;
            }
            let planned = self.fetches.in_flight + run.len();
            if planned >= self.cache.room_to_pin().min(STORE_READS_IN_FLIGHT_MAX) {
                break; // Others hold the cache; this task asks again when they are done.
            }
            effects.event(Event::PageFault { page: page.get() });
            let follows = run.last().is_some_and(|last| last.miss.at.page.get() + 1 == page.get());
            if !run.is_empty() && (!follows || run.len() == STORE_IO_PAGES_MAX) {
                self.start_read(core::mem::take(&mut run), effects);
            }
            run.push(Reading { miss, tasks: alloc::vec![task], abandoned: false });
        }
        if !run.is_empty() {
            self.start_read(run, effects);
        }
        misses.clear();
        *self.fetches.misses.get_mut() = misses;
    }

    /// A long scan needs its first pages no more: what the task pinned longest ago goes, if the
    /// room that all tasks share demands it.
    fn make_room_to_pin(&mut self, task: u32, pages: usize) {
        let mut squeezed = false;
        while self.fetches.in_flight + pages > self.cache.room_to_pin() {
            let task = &mut self.fetches.tasks[task as usize];
            let Some(pin) = task.pins.pop_front() else { break };
            if task.let_go.len() == LET_GO_MAX {
                task.let_go.clear();
            }
            task.let_go.extend(self.cache.unpin(pin));
            squeezed = true;
        }
        self.fetches.tasks[task as usize].squeezed += u32::from(squeezed);
    }

    fn start_read(&mut self, reads: Vec<Reading>, effects: &mut Effects) {
        let io = self.take_io();
        let pages = self.checkpoints.take_buffer(reads.len());
        for read in &reads {
            let other = self.fetches.by_page.insert(read.miss.at.page, io.slot);
            assert!(other.is_none(), "a page is read once at a time");
            for &task in &read.tasks {
                self.fetches.tasks[task as usize].waiting += 1;
            }
        }
        self.fetches.in_flight += reads.len();
        let at = self.address(reads[0].miss.at.page);
        self.fetches.reads.insert(io.slot, reads);
        effects.push(Effect::Read { io, at, pages });
    }

    pub(super) fn take_io(&mut self) -> IoId {
        self.next_io += 1;
        IoId { owner: Owner::Store, slot: self.next_io }
    }

    pub(super) fn address(&self, page: PageNumber) -> Address {
        assert_ne!(page, PageNumber::ZERO);
        Address::new(self.config.file, u64::from(page.get()) * PAGE_SIZE as u64)
    }

    /// May the task run again? An error says what it needs and cannot have.
    pub fn ready(&self, pins: &Pins) -> Result<bool, StoreError> {
        let Some(task) = pins.task else { return Ok(true) };
        let task = &self.fetches.tasks[task as usize];
        match task.error {
            Some(error) => Err(error),
            None => Ok(task.waiting == 0),
        }
    }

    /// Whether a read is in flight, once all is open.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        self.fetches.in_flight > 0
    }

    /// How often pages of the task had to go for others of its own: one that needs all of them at
    /// once will not end if that goes on.
    #[must_use]
    pub fn squeezed(&self, pins: &Pins) -> u32 {
        pins.task.map_or(0, |task| self.fetches.tasks[task as usize].squeezed)
    }

    /// The task is done, or given up.
    pub fn unpin(&mut self, pins: &mut Pins) {
        let Some(id) = pins.task.take() else { return };
        let task = &mut self.fetches.tasks[id as usize];
        assert!(task.live);
        for pin in task.pins.drain(..) {
            self.cache.unpin(pin);
        }
        if task.waiting > 0 {
            for read in self.fetches.reads.values_mut().flatten() {
                read.tasks.retain(|&task| task != id);
            }
            self.repairs.leave(id);
        }
        task.live = false;
        task.waiting = 0;
        task.squeezed = 0;
        task.let_go.clear();
        task.error = None;
    }

    /// Takes back the buffer of a read, checks every page and wakes who waits. An error stops the
    /// replica; a damaged page does not, it is told to the tasks that need it (`ready`).
    pub fn on_read_done(
        &mut self,
        keys: &dyn PageKeys,
        io: IoId,
        mut pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<(), StoreError> {
        assert_eq!(io.owner, Owner::Store);
        if self.opening.is_some() {
            return self.on_open_read(keys, io, pages, result, effects);
        }
        let Some(reads) = self.fetches.reads.remove(&io.slot) else {
            unreachable!("a completion answers a read in flight");
        };
        assert_eq!(reads.len(), pages.count());
        self.fetches.in_flight -= reads.len();
        let can_be_repaired = result == Err(IoError::Device) && self.repairs.possible;
        if can_be_repaired && reads.len() > 1 {
            self.checkpoints.give_buffer(pages);
            self.read_alone(reads, effects);
            return Ok(());
        }
        self.fetches.pages_read += reads.len() as u64;
        for (read, bytes) in reads.iter().zip(pages.as_mut_slice()) {
            let outcome = match result {
                Ok(()) if read.abandoned => Ok(()),
                Ok(()) => self.admit(keys, &read.miss, bytes),
                Err(_) if can_be_repaired && read.abandoned => Ok(()),
                Err(_) if can_be_repaired => Err(corrupt(read.miss.tree, &read.miss.at)),
                Err(error) => Err(StoreError::Io(error)),
            };
            if !read.abandoned {
                self.fetches.by_page.remove(&read.miss.at.page);
            }
            if let Err(StoreError::Corrupt { page, .. }) = outcome {
                effects.event(Event::PageCorrupt { page: page.get() });
                if self.repairs.take(read.miss, &read.tasks) {
                    continue;
                }
            }
            for &task in &read.tasks {
                let task = &mut self.fetches.tasks[task as usize];
                task.waiting -= 1;
                match outcome {
                    Ok(()) if read.abandoned => {}
                    Ok(()) => task.pins.extend(self.cache.pin(read.miss.at.page)),
                    Err(error) => task.error = Some(error),
                }
            }
        }
        self.checkpoints.give_buffer(pages);
        if can_be_repaired { Ok(()) } else { result.map_err(StoreError::Io) }
    }

    /// EIO on a read of many pages says nothing of each of them.
    fn read_alone(&mut self, reads: Vec<Reading>, effects: &mut Effects) {
        for read in reads {
            for &task in &read.tasks {
                self.fetches.tasks[task as usize].waiting -= 1;
            }
            if !read.abandoned {
                self.fetches.by_page.remove(&read.miss.at.page);
                self.start_read(Vec::from([read]), effects);
            }
        }
    }

    fn admit(
        &mut self,
        keys: &dyn PageKeys,
        miss: &Miss,
        from: &mut Page,
    ) -> Result<(), StoreError> {
        open_page(keys, miss.tree, &miss.at, from)?;
        let bytes = self.cache.insert(miss.at.page, State::Clean);
        bytes.copy_from_slice(&from.0);
        Ok(())
    }
}

fn corrupt(tree: TreeRef, at: &PageRef) -> StoreError {
    StoreError::Corrupt {
        tenant: tree.tenant,
        tree: tree.tree,
        page: at.page,
        checkpoint_op: at.checkpoint_op,
    }
}

/// Decrypts a page in place and checks that it is the one its parent named.
pub(super) fn open_page(
    keys: &dyn PageKeys,
    tree: TreeRef,
    at: &PageRef,
    page: &mut Page,
) -> Result<(), StoreError> {
    let corrupt = corrupt(tree, at);
    let Some(key) = keys.page_key(tree.tenant) else {
        return Err(StoreError::KeyMissing { tenant: tree.tenant });
    };
    let tag: &Tag = &at.tag;
    key.open(at.page, at.checkpoint_op, page, tag).map_err(|_| corrupt)?;
    match page::header(&page.0) {
        Some(header)
            if header.page == at.page
                && header.tenant == tree.tenant
                && header.tree == tree.tree =>
        {
            Ok(())
        }
        Some(_) | None => Err(corrupt),
    }
}
