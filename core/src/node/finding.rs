//! Large UPDATEs and DELETEs: their rows are looked for before they are proposed.
//!
//! Such a request leaves the line of those that wait to be sealed, so nobody waits behind it; one
//! slice of one of them runs in each step (`kernel/finding.rs`), then it is sealed with the keys of
//! its rows. When a row of its table changes meanwhile it begins again, `FIND_TRIES_MAX` times at
//! most; then it goes as it is, and apply does what its limits allow.
//!
//! Invariants: one search at a time has keys in memory, within the share of reads; every request
//! that came here leaves with an answer or into the queue.

use crate::event::Event;
use crate::io::Effects;
use crate::kernel::{FindStep, Finding, Found, Request, RequestError, RetryReason};
use crate::limits::{FIND_PAUSE_NS, FIND_TRIES_MAX, REQUEST_SIZE_MAX};
use crate::node::api::{Halt, Ticket};
use crate::node::halt::store_halt;
use crate::node::requests::SealStep;
use crate::node::running::{Phase, Running};
use crate::store::Pins;
use crate::time::{Clock, Instant};

/// A request with a write whose rows must be found.
#[derive(Debug)]
pub(super) struct Search {
    pub ticket: Ticket,
    request: Request,
    pins: Pins,
    /// What the request takes in memory.
    pub bytes: usize,
    found: Found,
    /// The write at hand; `None`: all are found.
    finding: Option<Finding>,
    tries: u32,
    /// Of keys, counted among what reads hold.
    held: usize,
}

impl Search {
    pub fn new(
        ticket: Ticket,
        request: Request,
        bytes: usize,
        found: Found,
        finding: Finding,
    ) -> Search {
        let (pins, finding) = (Pins::new(), Some(finding));
        Search { ticket, request, pins, bytes, found, finding, tries: 0, held: 0 }
    }
}

impl Running {
    pub(super) fn begin_search(&mut self, search: Search, now: Clock) {
        if self.searches.is_empty() {
            self.search_at = Some(now.monotonic);
        }
        self.searches.push_back(search);
    }

    /// When the search at hand wants its next slice; `None`: it waits for pages, or there is none.
    pub(super) fn search_due(&self) -> Option<Instant> {
        self.search_at.filter(|_| !self.searches.is_empty())
    }

    /// What the requests take that look for their rows.
    pub(super) fn searches_bytes(&self) -> usize {
        self.searches.iter().map(|search| search.bytes).sum()
    }

    /// One slice of the first search.
    pub(super) fn drive_search(&mut self, now: Clock, effects: &mut Effects) -> Result<(), Halt> {
        match self.phase {
            Phase::Serving | Phase::ShuttingDown { op: None } => {}
            Phase::Replay
            | Phase::Following
            | Phase::View
            | Phase::Recovery { .. }
            | Phase::ShuttingDown { op: Some(_) }
            | Phase::Stopped => return Ok(()),
        }
        let Some(mut search) = self.searches.pop_front() else { return Ok(()) };
        if !self.store.ready(&search.pins).map_err(store_halt)? {
            self.search_at = None;
            self.searches.push_front(search);
            return Ok(());
        }
        self.search_at = Some(now.monotonic.plus_ns(FIND_PAUSE_NS));
        let Some(finding) = &mut search.finding else {
            return self.seal_found(search, now, effects);
        };
        let others = self.reads_bytes - search.held;
        let room =
            (self.memory.reads as usize).saturating_sub(others + search.found.memory_bytes());
        let before = finding.progress();
        let step =
            self.kernel.find_step(&self.store, &self.logs, finding, room.min(2 * REQUEST_SIZE_MAX));
        let moved = finding.progress() != before;
        match step {
            Err(_fault) => {
                // What it has passed need not stay.
                if moved {
                    self.store.unpin(&mut search.pins);
                }
                self.store.fetch(&mut search.pins, effects);
                if !self.store.ready(&search.pins).map_err(store_halt)? {
                    self.search_at = None;
                }
            }
            Ok(step) => {
                self.store.unpin(&mut search.pins);
                search.after(step, effects);
            }
        }
        search.held =
            search.found.memory_bytes() + search.finding.as_ref().map_or(0, Finding::memory_bytes);
        self.reads_bytes = others + search.held;
        self.searches.push_front(search);
        Ok(())
    }

    /// All is found, as far as is known: seals it, or looks for what comes next.
    fn seal_found(
        &mut self,
        mut search: Search,
        now: Clock,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let Search { request, pins, found, .. } = &mut search;
        let step = self.seal(request, pins, found, now, effects)?;
        match step {
            SealStep::Later => {
                if !self.store.ready(&search.pins).map_err(store_halt)? {
                    self.search_at = None;
                }
                self.searches.push_front(search);
                return Ok(());
            }
            SealStep::Find(finding) => {
                search.finding = Some(*finding);
                self.searches.push_front(search);
                return Ok(());
            }
            SealStep::Sealed(sealed) => self.enqueue(search.ticket, sealed),
            SealStep::Answered(answer) => self.answer(search.ticket, answer),
        }
        self.end_search(&mut search);
        Ok(())
    }

    fn end_search(&mut self, search: &mut Search) {
        self.store.unpin(&mut search.pins);
        self.reads_bytes -= core::mem::take(&mut search.held);
    }

    pub(super) fn refuse_searches(&mut self, reason: RetryReason) {
        while let Some(mut search) = self.searches.pop_front() {
            self.end_search(&mut search);
            self.answer(search.ticket, Err(RequestError::Retry(reason)));
        }
    }
}

impl Search {
    fn after(&mut self, step: FindStep, effects: &mut Effects) {
        match step {
            FindStep::More => {}
            FindStep::Done => {
                let Some(finding) = self.finding.take() else { unreachable!("it ran") };
                let rows = finding.into_rows();
                effects.event(Event::RowsFound { rows: rows.keys.len() as u64 });
                self.found.push(rows);
            }
            FindStep::Changed => {
                self.tries += 1;
                effects.event(Event::RowsChangedMeanwhile { tries: self.tries });
                if self.tries >= FIND_TRIES_MAX {
                    self.found.give_up();
                    self.finding = None;
                } else if let Some(finding) = &mut self.finding {
                    finding.restart();
                }
            }
            FindStep::Hopeless => {
                self.found.give_up();
                self.finding = None;
            }
        }
    }
}
