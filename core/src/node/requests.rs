//! From a submitted request to a place in a prepare: bind, seal, pack, propose.

use alloc::boxed::Box;
use alloc::vec::Vec;

use rand_core::Rng;

use crate::event::Event;
use crate::ids::{IdempotencyId, TenantId};
use crate::io::Effects;
use crate::journal::Operation as PrepareOperation;
use crate::kernel::{
    Finding, Found, PrepareError, Reply, Request, RequestError, RetryReason, SealedRequest, World,
};
use crate::limits::{PREPARE_BODY_SIZE_MAX, PREPARE_EAGER_BYTES, PREPARE_REQUESTS_MAX};
use crate::node::api::{Halt, Ticket};
use crate::node::apply::kernel_prepare;
use crate::node::finding::Search;
use crate::node::halt::store_halt;
use crate::node::running::{Phase, Running};
use crate::node::tenants::KeysStep;
use crate::store::Pins;
use crate::time::Clock;
use crate::vsr::Busy;

/// A request that is not in the queue yet.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: Ticket,
    work: Work,
    pins: Pins,
    /// What it takes in memory.
    pub bytes: usize,
}

/// What was submitted.
#[derive(Debug)]
pub(super) enum Work {
    Request(Request),
    /// By its caller, with a [`crate::kernel::Sealer`].
    Sealed(SealedRequest),
}

impl Work {
    pub fn idempotency(&self) -> IdempotencyId {
        match self {
            Work::Request(request) => request.idempotency,
            Work::Sealed(sealed) => sealed.idempotency(),
        }
    }

    pub fn tenant(&self) -> TenantId {
        match self {
            Work::Request(request) => request.tenant,
            Work::Sealed(sealed) => sealed.tenant(),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        match self {
            Work::Request(request) => request.memory_bytes(),
            Work::Sealed(sealed) => sealed.size(),
        }
    }
}

impl Waiting {
    pub fn new(ticket: Ticket, work: Work, bytes: usize) -> Waiting {
        Waiting { ticket, work, pins: Pins::new(), bytes }
    }
}

/// A sealed request that waits for a prepare.
#[derive(Debug)]
pub(super) struct Queued {
    ticket: Ticket,
    sealed: SealedRequest,
}

/// What gathered goes out in a hurry when it is at least this part of what is being written: one
/// number of so many.
const HURRY_SHARE: (usize, usize) = (1, 4);

/// The same between two slices of a prepare.
const PAUSED_SHARE: (usize, usize) = (3, 4);

/// Fewer requests are not worth two prepares.
const CROWD_MIN: usize = 8;

/// Tries to seal one request in one turn.
const SEAL_TRIES_MAX: usize = 16;

pub(super) enum SealStep {
    Sealed(SealedRequest),
    Answered(Result<Reply, RequestError>),
    /// The rows of a write are to be found first.
    Find(Box<Finding>),
    Later,
}

impl Running {
    /// Seals the requests that wait, in order, as far as pages and keys are at hand. One that must
    /// wait keeps those behind it waiting: a client's order is kept without a word.
    pub(super) fn seal_waiting(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        match self.phase {
            Phase::Serving | Phase::ShuttingDown { op: None } => {}
            Phase::Replay
            | Phase::View
            | Phase::Following
            | Phase::Recovery { .. }
            | Phase::ShuttingDown { op: Some(_) }
            | Phase::Stopped => return Ok(false),
        }
        let mut moved = false;
        while self.queue_bytes < 2 * PREPARE_BODY_SIZE_MAX {
            let Some(Waiting { ticket, work, mut pins, bytes }) = self.waiting.pop_front() else {
                break;
            };
            if self.disk_is_full() {
                let Some(answer) = self.answer_from_record(&work, &mut pins, effects)? else {
                    self.waiting.push_front(Waiting { ticket, work, pins, bytes });
                    break;
                };
                self.answer(ticket, answer);
                self.store.unpin(&mut pins);
                self.waiting_bytes -= bytes;
                moved = true;
                continue;
            }
            let step = match work {
                Work::Sealed(sealed) => self.take_sealed(sealed),
                Work::Request(mut request) => {
                    let mut found = Found::default();
                    match self.seal(&mut request, &mut pins, &mut found, now, effects)? {
                        SealStep::Later => {
                            let work = Work::Request(request);
                            self.waiting.push_front(Waiting { ticket, work, pins, bytes });
                            break;
                        }
                        SealStep::Find(finding) => {
                            self.store.unpin(&mut pins);
                            self.waiting_bytes -= bytes;
                            let search = Search::new(ticket, request, bytes, found, *finding);
                            self.begin_search(search, now);
                            moved = true;
                            continue;
                        }
                        step @ (SealStep::Sealed(_) | SealStep::Answered(_)) => step,
                    }
                }
            };
            match step {
                SealStep::Sealed(sealed) => self.enqueue(ticket, sealed),
                SealStep::Answered(answer) => self.answer(ticket, answer),
                SealStep::Later | SealStep::Find(_) => unreachable!("put away above"),
            }
            self.store.unpin(&mut pins);
            self.waiting_bytes -= bytes;
            moved = true;
        }
        Ok(moved)
    }

    /// What a request is answered with when nothing may be written: the outcome of an earlier try,
    /// if its id has one on record. `None`: pages are missing to tell.
    fn answer_from_record(
        &mut self,
        work: &Work,
        pins: &mut Pins,
        effects: &mut Effects,
    ) -> Result<Option<Result<Reply, RequestError>>, Halt> {
        // As in `seal`: what another task has read already brings no completion.
        for _ in 0..SEAL_TRIES_MAX {
            if !self.store.ready(pins).map_err(store_halt)? {
                return Ok(None);
            }
            let Running { kernel, store, keyring, .. } = self;
            let found = match work {
                Work::Request(request) => kernel.remembered(store, keyring, request),
                Work::Sealed(sealed) => kernel.remembered_sealed(store, keyring, sealed),
            };
            match found {
                // What is applied now is not whole: neither is what it remembers.
                Ok(_) if self.kernel.is_amid(work.tenant()) => return Ok(None),
                Ok(Some(answer)) => return Ok(Some(answer)),
                // An earlier try may be on its way; nothing is added to what is.
                Ok(None) if self.has_requests_on_their_way() => return Ok(None),
                Ok(None) => {
                    return Ok(Some(Err(RequestError::Retry(RetryReason::DiskFull))));
                }
                Err(_fault) => self.store.fetch(pins, effects),
            }
        }
        Ok(None)
    }

    fn has_requests_on_their_way(&self) -> bool {
        let status = self.vsr.status();
        !self.queue.is_empty() || !self.searches.is_empty() || status.applied < status.op
    }

    pub(super) fn enqueue(&mut self, ticket: Ticket, sealed: SealedRequest) {
        self.queue_bytes += sealed.size();
        self.queue.push_back(Queued { ticket, sealed });
    }

    /// A request is sealed with a key that apply will find, or it halts every replica.
    fn take_sealed(&self, sealed: SealedRequest) -> SealStep {
        let (tenant, key) = sealed.sealed_with();
        match self.keyring.tenant_key(tenant, key) {
            Some(_) => SealStep::Sealed(sealed),
            None => SealStep::Answered(Err(RequestError::KeyMissing(tenant))),
        }
    }

    pub(super) fn seal(
        &mut self,
        request: &mut Request,
        pins: &mut Pins,
        found: &mut Found,
        now: Clock,
        effects: &mut Effects,
    ) -> Result<SealStep, Halt> {
        // A miss that another task's read has cured brings no completion: look again at once.
        for _ in 0..SEAL_TRIES_MAX {
            match self.try_seal(request, pins, found, now, effects)? {
                // What it is bound to was there before the transaction under way, or will be behind
                // it, not only amid it.
                SealStep::Sealed(sealed) if !self.kernel.is_amid_schema(request.tenant) => {
                    return Ok(SealStep::Sealed(sealed));
                }
                // It may be a retry: of its first copy a part is applied, which refuses it, and the
                // outcome that it is to get is not there yet, or there before a read can see what
                // it acknowledges. What is being applied waits for completions, and so do we.
                _ if self.kernel.is_amid(request.tenant) => return Ok(SealStep::Later),
                SealStep::Later if self.store.ready(pins).map_err(store_halt)? => {}
                step => return Ok(step),
            }
        }
        Ok(SealStep::Later)
    }

    fn try_seal(
        &mut self,
        request: &mut Request,
        pins: &mut Pins,
        found: &mut Found,
        now: Clock,
        effects: &mut Effects,
    ) -> Result<SealStep, Halt> {
        if !self.store.ready(pins).map_err(store_halt)? {
            return Ok(SealStep::Later);
        }
        match self.keys_for(request, pins, now, effects)? {
            KeysStep::Ready => {}
            KeysStep::Later => return Ok(SealStep::Later),
            KeysStep::Refused(error) => return Ok(SealStep::Answered(Err(error))),
        }
        let mut nonce = [0; 12];
        self.random.fill_bytes(&mut nonce);
        #[cfg(verity_zoo)]
        if crate::zoo::is("request_nonce_reused") {
            nonce = [0; 12];
            nonce[..8].copy_from_slice(&self.vsr.status().op.get().to_le_bytes());
        }
        // Of the two clocks that will judge it, the later: the prepare's time never goes back.
        let wall = now.wall.max(self.vsr.status().timestamp);
        let Running { kernel, store, keyring, .. } = self;
        let sealed = kernel.prepare_request(store, keyring, request, wall, nonce, found);
        Ok(match sealed {
            Ok(sealed) => SealStep::Sealed(sealed),
            Err(PrepareError::Refused(error)) => SealStep::Answered(Err(error)),
            Err(PrepareError::Remembered(answer)) => SealStep::Answered(*answer),
            Err(PrepareError::Find(finding)) => SealStep::Find(finding),
            Err(PrepareError::Fault(_)) => {
                self.store.fetch(pins, effects);
                SealStep::Later
            }
        })
    }

    /// Proposes a checkpoint if wanted, else a prepare of the requests that wait.
    pub(super) fn propose(&mut self, now: Clock, effects: &mut Effects) -> bool {
        if self.propose_checkpoint(now, effects) {
            return true;
        }
        if self.queue.is_empty() || !self.may_propose_requests() {
            return false;
        }
        let Some(mut buffer) = self.vsr.buffer() else { return false };
        let most = self.share_of_queue();
        let mut tickets = Vec::with_capacity(most);
        let size_first = self.queue.front().map_or(0, |queued| queued.sealed.size());
        let mut last = None;
        while let Some(queued) = self.queue.front() {
            let size = queued.sealed.size();
            let fits = tickets.len() < most
                && buffer.room() >= size
                && self.vsr.can_propose(PrepareOperation::Requests, buffer.len() + size);
            if !fits {
                break;
            }
            buffer.push(queued.sealed.as_bytes());
            tickets.push(queued.ticket);
            self.queue_bytes -= size;
            last = self.queue.pop_front();
        }
        if tickets.is_empty() {
            let op = self.vsr.status().op;
            match self.vsr.check_propose(PrepareOperation::Requests, size_first) {
                Err(Busy::PipelineFull) => effects.event(Event::PipelineFull { op }),
                Err(Busy::JournalFull) => effects.event(Event::JournalFull { op }),
                Err(Busy::NotReady | Busy::RecoveryFirst | Busy::CheckpointPending) | Ok(()) => {}
            }
            self.vsr.recycle(buffer);
            return false;
        }
        let requests = tickets.len() as u16;
        let op = self.vsr.propose(now, PrepareOperation::Requests, buffer, requests, effects);
        self.ahead = None;
        if let ([_], Some(queued)) = (tickets.as_slice(), last)
            && self.vsr.status().applied.next() == op
            && !self.vsr.is_cluster()
        {
            self.ahead = Some((op, queued.sealed));
        }
        self.proposed.insert(op, tickets);
        true
    }

    /// Of requests that were proposed, how many are not answered yet.
    fn requests_proposed(&self) -> usize {
        self.proposed.values().map(Vec::len).sum()
    }

    /// How many of the queue the next prepare takes. Many clients that were answered at once come
    /// back at once; in one prepare they would leave the disk idle while they are applied, and the
    /// processor while they are written. So no prepare takes more than half of those on their way.
    fn share_of_queue(&self) -> usize {
        let waiting = self.queue.len();
        let half = (waiting + self.requests_proposed()).div_ceil(2);
        let most = if waiting < CROWD_MIN { waiting } else { waiting.min(half) };
        most.min(PREPARE_REQUESTS_MAX)
    }

    /// Proposes what has gathered, although a prepare counts as in flight: its write is known to be
    /// done, and applying it can overlap with the next write.
    pub(super) fn hurry(&mut self, now: Clock, effects: &mut Effects) -> Result<(), Halt> {
        self.seal_waiting(now, effects)?;
        // A few that are ahead of a crowd wait for it: else the crowd waits for their write. There
        // will be a better moment soon while apply pauses, and only then.
        let (share, of) = if self.paused_at.is_some() { PAUSED_SHARE } else { HURRY_SHARE };
        if self.queue.len() * of >= self.requests_proposed() * share {
            self.hurry = true;
            self.propose(now, effects);
            self.hurry = false;
        }
        Ok(())
    }

    /// While the disk is at work: executes the request that is being written, as far as nothing of
    /// it counts before it commits.
    pub(super) fn work_ahead(&mut self) {
        self.look_ahead();
        self.hash_ahead();
    }

    fn look_ahead(&mut self) {
        let Some((op, sealed)) = self.ahead.take() else { return };
        let Some(header) = self.vsr.head_header() else { unreachable!("a request was proposed") };
        let next = self.vsr.status().applied.next();
        if self.applying.is_some() || next != op || header.op != op {
            return;
        }
        let prepare = kernel_prepare(&header, sealed.as_bytes());
        let mut world = World { store: &mut self.store, logs: &mut self.logs, keys: &self.keyring };
        self.kernel.look_ahead(&mut world, &prepare);
    }

    /// A lone client's request goes at once; while a prepare is in flight requests gather, unless
    /// there are enough to keep the disk busy. Nothing is proposed into a dirty budget that only a
    /// checkpoint can relieve, or onto a disk that is nearly full.
    fn may_propose_requests(&self) -> bool {
        let status = self.vsr.status();
        if status.in_flight > 0 && !self.hurry && self.queue_bytes < PREPARE_EAGER_BYTES {
            return false;
        }
        let dirty_max = self.superblock_state().constants.dirty_pages_max;
        self.store.dirty_pages() < dirty_max / 4 * 3
    }

    /// Everybody who waits is told to ask again.
    pub(super) fn refuse_all(&mut self, reason: RetryReason) {
        let mut tickets = Vec::with_capacity(self.waiting.len() + self.queue.len());
        for mut waiting in self.waiting.drain(..) {
            self.store.unpin(&mut waiting.pins);
            tickets.push(waiting.ticket);
        }
        tickets.extend(self.queue.drain(..).map(|queued| queued.ticket));
        for ticket in tickets {
            self.answer(ticket, Err(RequestError::Retry(reason)));
        }
        self.refuse_searches(reason);
        self.queue_bytes = 0;
        self.waiting_bytes = 0;
    }
}
