//! Jobs go on: one slice at a time is asked for, as a request of the node's own.
//!
//! A slice is an ordinary request of the tenant, without an id and without anybody who waits for
//! its answer; what it does is decided when it is applied. So a job survives whatever requests
//! survive: after a restart the tenants' catalogs are looked through once, and what was under way
//! goes on.
//!
//! Invariants: at most one slice is on its way; clients come first, but for one turn in
//! `JOB_TURNS_WAITED_MAX`; a slice that was refused (a checkpoint is behind, the grid is full) is
//! asked for again after a while, which doubles with each refusal: a try may be an op in the
//! journal, though nothing becomes of it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::event::Event;
use crate::ids::{IdempotencyId, PrincipalId, TenantId, TreeId};
use crate::io::Effects;
use crate::kernel::{Operation, Reply, Request, RequestError};
use crate::limits::{JOB_PAUSE_MAX_NS, JOB_PAUSE_NS, JOB_SWEEP_TENANTS, JOB_TURNS_WAITED_MAX};
use crate::node::api::{Halt, Ticket};
use crate::node::attesting;
use crate::node::halt::store_halt;
use crate::node::requests::{Waiting, Work};
use crate::node::running::{Phase, Running};
use crate::store::Pins;
use crate::time::{Clock, Instant};

/// Of requests that are the node's own; callers' tickets begin at 1.
pub(super) const TICKET: Ticket = Ticket(0);

#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// Tenants whose catalogs were not looked at since the node opened; `None`: not begun.
    unseen: Option<VecDeque<TenantId>>,
    pins: Pins,
    in_flight: bool,
    /// Slices refused since one was done.
    pub refusals: u32,
    pause: Pause,
    /// The last one, so that the next is another's turn.
    last: Option<(TenantId, TreeId)>,
    /// Turns in which clients came first.
    waited: u32,
}

/// Whether a try must wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pause {
    #[default]
    None,
    /// The last slice was refused; the time is told with the next turn.
    Begins,
    Until(Instant),
}

impl Jobs {
    fn answered(&mut self, refused: bool) {
        self.in_flight = false;
        self.refusals = if refused { self.refusals + 1 } else { 0 };
        self.pause = if refused { Pause::Begins } else { Pause::None };
    }

    fn may_try(&mut self, now: Clock) -> bool {
        if self.pause == Pause::Begins {
            let doublings = self.refusals.saturating_sub(1).min(20);
            let pause_ns = (JOB_PAUSE_NS << doublings).min(JOB_PAUSE_MAX_NS);
            self.pause = Pause::Until(now.monotonic.plus_ns(pause_ns));
        }
        if matches!(self.pause, Pause::Until(end) if end <= now.monotonic) {
            self.pause = Pause::None;
        }
        self.pause == Pause::None
    }
}

impl Running {
    /// An answer, for whoever waits for it.
    pub(super) fn answer(&mut self, ticket: Ticket, answer: Result<Reply, RequestError>) {
        if ticket == TICKET {
            self.jobs.answered(answer.is_err());
        } else if ticket == attesting::TICKET {
            self.on_attest_answer(answer);
        } else {
            self.replies.push_back((ticket, answer));
        }
    }

    pub(super) fn jobs_idle(&self) -> bool {
        let seen = self.jobs.unseen.as_ref().is_some_and(VecDeque::is_empty);
        seen && self.phase == Phase::Serving && self.kernel.next_job(None).is_none()
    }

    /// Asks for the next slice, if there is a job. True: something moved.
    pub(super) fn drive_jobs(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        if self.phase != Phase::Serving || self.jobs.in_flight || !self.jobs.may_try(now) {
            return Ok(false);
        }
        let more = self.look_for_jobs(effects)?;
        let Some((tenant, job)) = self.kernel.next_job(self.jobs.last) else { return Ok(more) };
        let clients = !self.waiting.is_empty() || !self.queue.is_empty();
        if clients && self.jobs.waited < JOB_TURNS_WAITED_MAX {
            self.jobs.waited += 1;
            return Ok(false);
        }
        let request = Request {
            tenant,
            principal: PrincipalId::ZERO,
            idempotency: IdempotencyId::NONE,
            after: None,
            operations: Vec::from([Operation::JobStep { job }]),
        };
        self.jobs.in_flight = true;
        self.jobs.last = Some((tenant, job));
        self.jobs.waited = 0;
        let work = Work::Request(request);
        let bytes = work.memory_bytes();
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting::new(TICKET, work, bytes));
        Ok(true)
    }

    /// When a slice that was refused is due again.
    pub(super) fn job_due(&self) -> Option<Instant> {
        match self.jobs.pause {
            Pause::Until(end) if self.phase == Phase::Serving && !self.jobs.in_flight => Some(end),
            Pause::Until(_) | Pause::Begins | Pause::None => None,
        }
    }

    /// Jobs that an earlier process left, a few tenants at a time. True: there are more to look at,
    /// and nothing keeps from it.
    fn look_for_jobs(&mut self, effects: &mut Effects) -> Result<bool, Halt> {
        if self.jobs.unseen.as_ref().is_some_and(VecDeque::is_empty)
            || !self.store.ready(&self.jobs.pins).map_err(store_halt)?
        {
            return Ok(false);
        }
        for _ in 0..JOB_SWEEP_TENANTS {
            let looked = match self.jobs.unseen.as_mut().map(|unseen| unseen.front().copied()) {
                None => self.kernel.tenants(&self.store).map(|tenants| {
                    self.jobs.unseen = Some(tenants.into());
                }),
                Some(None) => break,
                Some(Some(tenant)) => self.kernel.find_jobs(&self.store, tenant).map(|found| {
                    if found {
                        effects.event(Event::JobResumed { tenant });
                    }
                    if let Some(unseen) = &mut self.jobs.unseen {
                        unseen.pop_front();
                    }
                }),
            };
            if looked.is_err() {
                self.store.fetch(&mut self.jobs.pins, effects);
                return Ok(false);
            }
        }
        self.store.unpin(&mut self.jobs.pins);
        Ok(self.jobs.unseen.as_ref().is_some_and(|unseen| !unseen.is_empty()))
    }
}
