//! Damaged pages, repaired from peers.
//!
//! Purpose: a page that does not verify is asked of a peer by number and checkpoint op; what comes
//! is checked by the tag that the parent holds, as what is read from the own disk, and written in
//! place. Tasks that need the page wait meanwhile. Invariants: a page is repaired only while its
//! number still names it: given to a new page, its repair is off; and no new page is written while
//! the write of a repair is in flight.
//!
//! Fault model: nobody may have the page any more; the node sees how long it is waited for, and
//! takes a whole checkpoint.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::fetch::{Miss, open_page};
use super::{PageKeys, Store};
use crate::event::Event;
use crate::ids::PageNumber;
use crate::io::{Effect, Effects, Page, Pages};
use crate::limits::STORE_REPAIRS_MAX;
use crate::superblock::PageRef;
use crate::time::Instant;

/// Pages that are being repaired.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// There are peers to repair from.
    pub(super) possible: bool,
    pages: BTreeMap<PageNumber, Repair>,
}

#[derive(Debug)]
struct Repair {
    miss: Miss,
    /// Tasks that wait for it.
    tasks: Vec<u32>,
    since: Option<Instant>,
    asked_at: Option<Instant>,
    /// The effect that writes it.
    writing: Option<u64>,
    /// The number names another page by now.
    abandoned: bool,
}

impl Repairs {
    /// Takes over a page that did not verify; false: it cannot be repaired.
    pub(super) fn take(&mut self, miss: Miss, tasks: &[u32]) -> bool {
        if !self.possible || self.pages.len() >= STORE_REPAIRS_MAX {
            return false;
        }
        let repair = Repair {
            miss,
            tasks: tasks.to_vec(),
            since: None,
            asked_at: None,
            writing: None,
            abandoned: false,
        };
        let other = self.pages.insert(miss.at.page, repair);
        assert!(other.is_none(), "a page under repair is not read");
        true
    }

    /// A task waits for a page under repair; false: it is not.
    pub(super) fn join(&mut self, page: PageNumber, task: u32) -> bool {
        match self.pages.get_mut(&page) {
            Some(repair) if !repair.abandoned => {
                repair.tasks.push(task);
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn leave(&mut self, task: u32) {
        for repair in self.pages.values_mut() {
            repair.tasks.retain(|other| *other != task);
        }
    }

    pub(super) fn is_writing(&self, page: PageNumber) -> bool {
        self.pages.get(&page).is_some_and(|repair| repair.writing.is_some())
    }

    /// The number now names another page. Who waited for the old one runs again.
    pub(super) fn abandon(&mut self, page: PageNumber) -> Vec<u32> {
        let Some(repair) = self.pages.get_mut(&page) else { return Vec::new() };
        repair.abandoned = true;
        let tasks = core::mem::take(&mut repair.tasks);
        if repair.writing.is_none() {
            self.pages.remove(&page);
        }
        tasks
    }
}

impl Store {
    /// From now on damaged pages are repaired from peers.
    pub fn repair_from_peers(&mut self) {
        self.repairs.possible = true;
    }

    /// Pages to be asked for now; each of them not again before `again_ns` have passed.
    pub fn repairs_wanted(&mut self, now: Instant, again_ns: u64) -> Vec<PageRef> {
        let mut wanted = Vec::new();
        for repair in self.repairs.pages.values_mut() {
            let due = repair.asked_at.is_none_or(|at| now.since_ns(at) >= again_ns);
            if due && repair.writing.is_none() {
                repair.since = repair.since.or(Some(now));
                repair.asked_at = Some(now);
                wanted.push(repair.miss.at);
            }
        }
        wanted
    }

    /// A page from a peer, as it lies on its disk. True: it is the one, and is being written.
    pub fn repair(
        &mut self,
        keys: &dyn PageKeys,
        number: PageNumber,
        page: &Page,
        effects: &mut Effects,
    ) -> bool {
        let Some(repair) = self.repairs.pages.get(&number) else { return false };
        let mut clear = page.clone();
        let miss = repair.miss;
        let good = open_page(keys, miss.tree, &miss.at, &mut clear).is_ok();
        if repair.writing.is_some() || !good || self.is_being_served(number) {
            return false;
        }
        let io = self.take_io();
        let Some(repair) = self.repairs.pages.get_mut(&number) else { return false };
        repair.writing = Some(io.slot);
        let mut pages = Pages::zeroed(1);
        pages.as_bytes_mut().copy_from_slice(&page.0);
        let at = self.address(number);
        effects.push(Effect::Write { io, at, pages, durable: true });
        true
    }

    /// The write of this effect, if it was one of a repair, is done.
    pub(super) fn repaired(&mut self, slot: u64) -> bool {
        let found = self
            .repairs
            .pages
            .iter()
            .find_map(|(page, repair)| (repair.writing == Some(slot)).then_some(*page));
        let Some(number) = found else { return false };
        let Some(repair) = self.repairs.pages.remove(&number) else { return false };
        if !repair.abandoned {
            self.mark(Event::PageRepaired { page: number.get() });
            #[cfg(verity_zoo)]
            if crate::zoo::is("repair_to_nobody") {
                return true;
            }
            // They miss it once more, and find it on the disk.
            self.fetches.run_again(&repair.tasks);
        }
        true
    }

    #[must_use]
    pub fn is_repairing(&self) -> bool {
        !self.repairs.pages.is_empty()
    }

    /// A page is waited for for longer than this.
    #[must_use]
    pub fn repairs_overdue(&self, now: Instant, patience_ns: u64) -> bool {
        self.repairs.pages.values().any(|repair| {
            let since = repair.since;
            repair.writing.is_none() && since.is_some_and(|at| now.since_ns(at) >= patience_ns)
        })
    }
}
