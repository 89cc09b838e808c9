//! The node: what ties journal, consensus, log, store and kernel into one database.
//!
//! Start reading at `docs/NODE.md` (phases, order of a turn, invariants), then [`Node::step`],
//! `opening`, `running`, `apply`, `checkpoint`, `requests`, `reads`.
//!
//! Architecture Invariant: a node does nothing but in a call: no callback, no thread, no clock.

pub mod api;
mod apply;
mod attesting;
mod checkpoint;
mod cluster;
mod consensus;
mod cosigning;
mod finding;
pub mod format;
mod halt;
mod jobs;
mod leading;
pub mod memory;
mod opening;
mod pacing;
mod past;
mod proofs;
mod reads;
mod requests;
mod running;
mod scrubbing;
mod serving;
mod syncing;
mod tenants;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::event::Event;
use crate::ids::{Generation, Op, TenantId, View};
use crate::io::{Effects, Input};
use crate::kernel::{Reply, Request, RequestError, RetryReason, SealedRequest, Sealer};
use crate::keyring::Keyring;
use crate::limits::REQUEST_QUEUE_MAX;
use crate::query::{PointScratch, Prepared, Value};
use crate::superblock::{Superblock, SuperblockState};
use crate::time::{Clock, Instant, Timestamp};

pub use api::{CURRENT_RELEASE, Config, GridStatus, Halt, Progress, Seed, Status, Ticket};
pub use format::{Format, FormatOptions};
pub use leading::{LeadAnswer, LeadAsked};
pub use memory::{Memory, MemoryPlan, MemoryTooSmall, MemoryUse};
pub use proofs::{ProofError, ProofOf, ProofRead, Proved};
pub use reads::{CommitmentRead, PointRead, Read, ReadError, ReadResult};
pub use scrubbing::ScrubStatus;

use opening::Opening;
use requests::Work;
use running::{Phase, Running};
use syncing::Syncing;

/// One replica of a Verity database.
#[derive(Debug)]
pub struct Node {
    config: Config,
    state: State,
    next_ticket: u64,
    /// Submitted before the node was open.
    early: VecDeque<(Ticket, Request)>,
    /// Replies that no running part gives: it is not there yet, or no more.
    replies: VecDeque<(Ticket, Result<Reply, RequestError>)>,
    /// Names boots, the first and those after a sync.
    boots: ChaCha20Rng,
    /// Effects without a completion yet.
    in_flight: u64,
    /// Grows when a running part ends and another may follow: what reads hold is of one.
    incarnation: u64,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum State {
    Opening(Box<Opening>, ChaCha20Rng),
    Running(Box<Running>),
    /// A running part, or a sync, is over; what it had in flight is waited for.
    Draining(Draining),
    Syncing(Box<Syncing>, ChaCha20Rng),
    Halted(Halt),
}

/// Between two parts.
#[derive(Debug)]
struct Draining {
    state: SuperblockState,
    random: ChaCha20Rng,
    /// A checkpoint is to be fetched; else the directory is opened as it is.
    sync: bool,
}

impl Node {
    /// Starts to open what the data directory holds. Nothing is known to be good until
    /// [`Node::is_ready`]; an error shows as [`Node::halted`].
    #[must_use]
    pub fn open(config: &Config, seed: &Seed, effects: &mut Effects) -> Node {
        // A stream of its own: what a single replica draws does not depend on it.
        let mut boots = ChaCha20Rng::from_seed(seed.0);
        boots.set_stream(1);
        let before = effects.len();
        let opening = Box::new(Opening::start(config, boots.next_u64() | 1, false, effects));
        Node {
            config: config.clone(),
            state: State::Opening(opening, ChaCha20Rng::from_seed(seed.0)),
            next_ticket: 0,
            early: VecDeque::new(),
            replies: VecDeque::new(),
            boots,
            in_flight: effects.completions_from(before),
            incarnation: 1,
        }
    }

    /// Takes one input and does all that can be done.
    pub fn step(&mut self, now: Clock, input: Input, effects: &mut Effects) {
        let before = effects.len();
        if input.is_completion() {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let outcome = match &mut self.state {
            State::Opening(opening, _) => opening.step(now, &self.config, input, effects),
            State::Running(running) => running.step(now, input, effects),
            State::Syncing(syncing, _) => syncing.step(now, input, effects),
            // Completions of what was in flight when it ended.
            State::Draining(_) | State::Halted(_) => Ok(()),
        };
        self.settle(outcome, now, before, effects);
    }

    /// Asks for a transaction. The reply comes with [`Node::next_reply`]; a node that halts gives
    /// none, and the outcome is then unknown until it is asked by its idempotency id.
    pub fn submit(&mut self, now: Clock, request: Request, effects: &mut Effects) -> Ticket {
        let ticket = self.enqueue(request);
        self.run(now, effects);
        ticket
    }

    /// As `submit`, without doing anything yet: for many at once, then [`Node::run`].
    pub fn enqueue(&mut self, request: Request) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        match &mut self.state {
            State::Opening(..) if self.early.len() < REQUEST_QUEUE_MAX => {
                self.early.push_back((ticket, request));
            }
            State::Opening(..) => {
                let error = RequestError::Retry(RetryReason::QueueFull);
                self.replies.push_back((ticket, Err(error)));
            }
            State::Draining(_) | State::Syncing(..) => {
                let error = RequestError::Retry(RetryReason::NotPrimary);
                self.replies.push_back((ticket, Err(error)));
            }
            State::Running(running) => running.submit(ticket, Work::Request(request)),
            State::Halted(_) => {
                let error = RequestError::Retry(RetryReason::NotReady);
                self.replies.push_back((ticket, Err(error)));
            }
        }
        ticket
    }

    /// As `enqueue`, for a request that its caller has sealed with [`Node::sealer`].
    pub fn enqueue_sealed(&mut self, sealed: SealedRequest) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        match &mut self.state {
            State::Running(running) => running.submit(ticket, Work::Sealed(sealed)),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                let error = RequestError::Retry(RetryReason::NotReady);
                self.replies.push_back((ticket, Err(error)));
            }
        }
        ticket
    }

    /// With it callers seal their own requests, beside the node. `None`: not at hand, submit the
    /// request itself. Never needed.
    #[must_use]
    pub fn sealer(&self, tenant: TenantId) -> Option<Sealer> {
        match &self.state {
            State::Running(running) if running.phase == Phase::Serving => {
                running.kernel.sealer(&running.keyring, tenant)
            }
            State::Running(_)
            | State::Opening(..)
            | State::Draining(_)
            | State::Syncing(..)
            | State::Halted(_) => None,
        }
    }

    /// False: the schema or the keys have changed; ask for another one. A caller that was answered
    /// may not use an older one.
    #[must_use]
    pub fn sealer_holds(&self, sealer: &Sealer) -> bool {
        match &self.state {
            State::Running(running) => running.kernel.sealer_holds(&running.keyring, sealer),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                false
            }
        }
    }

    /// Does what can be done without a new input.
    pub fn run(&mut self, now: Clock, effects: &mut Effects) {
        if let State::Running(running) = &mut self.state {
            let before = effects.len();
            let outcome = running.turn(now, effects);
            self.settle(outcome, now, before, effects);
        }
    }

    /// The next reply, in the order in which they came about.
    pub fn next_reply(&mut self) -> Option<(Ticket, Result<Reply, RequestError>)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        match &mut self.state {
            State::Running(running) => running.replies.pop_front(),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => None,
        }
    }

    /// The hot path of a SELECT of plain columns by the whole primary key, at the newest snapshot:
    /// the row into `out`. `None`: it is no such statement, or what it needs is not at hand; then
    /// [`Node::read`] gives the answer.
    pub fn read_point(
        &mut self,
        tenant: TenantId,
        prepared: &Prepared,
        parameters: &[Value],
        scratch: &mut PointScratch,
        out: &mut Vec<Value>,
    ) -> Option<PointRead> {
        match &mut self.state {
            State::Running(running) if running.serves_reads() => {
                running.read_point(tenant, prepared, parameters, scratch, out)
            }
            State::Running(_)
            | State::Opening(..)
            | State::Draining(_)
            | State::Syncing(..)
            | State::Halted(_) => None,
        }
    }

    /// Does a slice of a read. [`Progress::Waiting`]: call again after the next completion.
    /// A read that is given up must be given to [`Node::cancel`].
    pub fn read(&mut self, now: Clock, read: &mut Read, effects: &mut Effects) -> Progress {
        if !read.is_of(self.incarnation) {
            return read.forget();
        }
        let before = effects.len();
        let progress = match &mut self.state {
            State::Running(running) if running.serves_reads() => running.read(now, read, effects),
            State::Running(_)
            | State::Opening(..)
            | State::Draining(_)
            | State::Syncing(..)
            | State::Halted(_) => read.refuse(),
        };
        self.in_flight += effects.completions_from(before);
        progress
    }

    /// Looks up what an idempotency id remembers, as [`Node::read`] reads rows.
    pub fn read_commitment(
        &mut self,
        read: &mut CommitmentRead,
        effects: &mut Effects,
    ) -> Progress {
        if !read.is_of(self.incarnation) {
            return read.forget();
        }
        let before = effects.len();
        let progress = match &mut self.state {
            State::Running(running) if running.serves_reads() => {
                running.read_commitment(read, effects)
            }
            State::Running(_)
            | State::Opening(..)
            | State::Draining(_)
            | State::Syncing(..)
            | State::Halted(_) => read.refuse(),
        };
        self.in_flight += effects.completions_from(before);
        progress
    }

    /// Does a slice of a proof, as [`Node::read`] does of a read. A proof that is given up must be
    /// given to [`Node::cancel_proof`].
    pub fn read_proof(
        &mut self,
        now: Clock,
        read: &mut ProofRead,
        effects: &mut Effects,
    ) -> Progress {
        if !read.is_of(self.incarnation) {
            return read.forget();
        }
        let before = effects.len();
        let (progress, outcome) = match &mut self.state {
            State::Running(running) if running.serves_reads() => {
                running.read_proof(now, read, effects)
            }
            State::Running(_)
            | State::Opening(..)
            | State::Draining(_)
            | State::Syncing(..)
            | State::Halted(_) => return read.refuse(),
        };
        self.settle(outcome, now, before, effects);
        progress
    }

    /// Gives back what an unfinished proof holds.
    pub fn cancel_proof(&mut self, read: &mut ProofRead) {
        if !read.is_of(self.incarnation) {
            read.forget();
            return;
        }
        if let State::Running(running) = &mut self.state {
            running.end_proof(read, Err(ProofError::NotReady));
        }
    }

    /// Gives back what an unfinished read holds.
    pub fn cancel(&mut self, read: &mut Read) {
        if !read.is_of(self.incarnation) {
            read.forget();
            return;
        }
        if let State::Running(running) = &mut self.state {
            running.end_read(read, Err(ReadError::NotReady));
        }
    }

    /// Begins a graceful end: what was submitted is answered, then a last checkpoint is taken.
    /// [`Node::halted`] gives [`Halt::Shutdown`] when the process may exit. Without effect until
    /// the node is ready.
    pub fn shutdown(&mut self, now: Clock, effects: &mut Effects) {
        if let State::Running(running) = &mut self.state {
            running.shut_down();
        }
        self.run(now, effects);
    }

    /// Whether requests are served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.state {
            State::Running(running) => running.phase == Phase::Serving,
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                false
            }
        }
    }

    /// Why the node has stopped.
    #[must_use]
    pub fn halted(&self) -> Option<&Halt> {
        match &self.state {
            State::Halted(halt) => Some(halt),
            State::Opening(..) | State::Running(_) | State::Draining(_) | State::Syncing(..) => {
                None
            }
        }
    }

    /// When `step` wants an `Input::Tick`, if nothing else comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Running(running) => {
                let own = running.attestation_due().into_iter().chain(running.search_due());
                let own = own.chain(running.job_due()).chain(running.scrub_due());
                let own = own.chain(running.paused_at).chain(running.cosigning_due());
                running.vsr.deadline().into_iter().chain(own).min()
            }
            State::Syncing(syncing, _) => syncing.deadline(),
            State::Opening(..) | State::Draining(_) | State::Halted(_) => None,
        }
    }

    /// The time of the newest op: what judges idempotency ids, and never goes back, whatever the
    /// clock of the machine does. Zero while it is not running.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match &self.state {
            State::Running(running) => running.vsr.status().timestamp,
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                Timestamp(0)
            }
        }
    }

    /// What is known of this replica; `None` until the superblock is read.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match &self.state {
            State::Opening(opening, _) => Some(not_running(opening.state()?, None)),
            State::Draining(draining) => Some(not_running(&draining.state, None)),
            State::Syncing(syncing, _) => {
                let target = syncing.target().unwrap_or(Op::ZERO);
                Some(not_running(syncing.state(), Some(target)))
            }
            State::Running(running) => {
                let (state, vsr) = (running.superblock_state(), running.vsr.status());
                Some(Status {
                    cluster: state.cluster,
                    origin: state.origin,
                    replica: state.replica,
                    release: state.release,
                    view: vsr.view,
                    generation: vsr.generation,
                    op: vsr.op,
                    commit: vsr.commit,
                    applied: vsr.applied,
                    checkpoint: vsr.checkpoint_durable,
                    checkpoint_begun: running.checkpoint_begun(),
                    journal_used_bytes: vsr.journal_used_bytes,
                    journal_ring_bytes: vsr.journal_ring_bytes,
                    torn_tail: vsr.torn_tail,
                    grid: GridStatus {
                        pages_in_use: running.store.pages_in_use(),
                        clean_pages_max: running.memory.clean_pages,
                        pages_read: running.store.pages_read(),
                    },
                    free_bytes: running.free_bytes,
                    ready: running.phase == Phase::Serving,
                    reads: running.serves_reads(),
                    replica_status: running.vsr.replica_status(),
                    syncing: None,
                    replaced: state.replaced,
                    scrub: running.scrub_status(),
                    halted: None,
                })
            }
            State::Halted(halt) => Some(Status {
                cluster: crate::ids::ClusterId::ZERO,
                origin: crate::ids::OriginId::ZERO,
                replica: self.config.replica,
                release: self.config.release,
                view: View::ZERO,
                generation: Generation::ZERO,
                op: Op::ZERO,
                commit: Op::ZERO,
                applied: Op::ZERO,
                checkpoint: Op::ZERO,
                checkpoint_begun: Op::ZERO,
                journal_used_bytes: 0,
                journal_ring_bytes: 0,
                torn_tail: None,
                grid: GridStatus::default(),
                free_bytes: None,
                ready: false,
                reads: false,
                replica_status: None,
                syncing: None,
                replaced: false,
                scrub: ScrubStatus::default(),
                halted: Some(halt.clone()),
            }),
        }
    }

    /// Nothing is left for jobs to do, as far as is known.
    #[must_use]
    pub fn jobs_idle(&self) -> bool {
        match &self.state {
            State::Running(running) => running.jobs_idle(),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                false
            }
        }
    }

    /// What memory is divided into; `None` until the superblock is read.
    #[must_use]
    pub fn memory_plan(&self) -> Option<MemoryPlan> {
        match &self.state {
            State::Running(running) => Some(running.memory),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => None,
        }
    }

    /// What is held now of each part.
    #[must_use]
    pub fn memory_use(&self) -> MemoryUse {
        match &self.state {
            State::Running(running) => running.memory_use(),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {
                MemoryUse::default()
            }
        }
    }

    /// After every call: on to the next part, or to a halt.
    fn settle(
        &mut self,
        outcome: Result<(), Halt>,
        now: Clock,
        before: usize,
        effects: &mut Effects,
    ) {
        self.in_flight += effects.completions_from(before);
        if let Err(halt) = outcome {
            self.halt(halt, effects);
            return;
        }
        match &mut self.state {
            State::Opening(opening, random) => {
                if let Some((superblock, keyring, nonce)) = opening.finish_to_sync() {
                    let random = random.clone();
                    self.begin_sync(now, superblock, keyring, nonce, random, effects);
                } else if let Some(opened) = opening.finish() {
                    let running = Running::new(&self.config, random.clone(), opened);
                    self.begin_running(now, running, effects);
                }
            }
            State::Running(running) if running.phase == Phase::Stopped => {
                self.halt(Halt::Shutdown, effects);
            }
            State::Running(running) if running.sync_offered => {
                let (state, random) = (running.superblock_state(), running.random.clone());
                running.refuse_all(RetryReason::NotReady);
                running.interrupt_proposed();
                self.replies.append(&mut running.replies);
                self.drain(Draining { state, random, sync: true }, effects);
            }
            State::Syncing(syncing, random) if syncing.outcome().is_some() => {
                let (state, random) = (*syncing.state(), random.clone());
                self.drain(Draining { state, random, sync: false }, effects);
            }
            State::Draining(_) if self.in_flight == 0 => self.open_again(effects),
            State::Running(_) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => {}
        }
    }

    fn begin_running(&mut self, now: Clock, mut running: Running, effects: &mut Effects) {
        for (ticket, request) in self.early.drain(..) {
            running.submit(ticket, Work::Request(request));
        }
        let status = running.vsr.status();
        if let Some(to) = status.replaying_to {
            effects.event(Event::ReplayStarted { from: status.applied, to });
        }
        self.state = State::Running(Box::new(running));
        self.run(now, effects);
    }

    fn begin_sync(
        &mut self,
        now: Clock,
        superblock: Superblock,
        keyring: Keyring,
        nonce: u64,
        random: ChaCha20Rng,
        effects: &mut Effects,
    ) {
        let before = effects.len();
        // Of each part its own: what is drawn here is drawn nowhere else.
        let mut own = self.boots.clone();
        own.set_stream(2 + self.incarnation);
        let started = Syncing::start(&self.config, superblock, keyring, nonce, own, effects);
        let outcome = started.and_then(|mut syncing| {
            let outcome = syncing.run(now, effects);
            self.state = State::Syncing(Box::new(syncing), random);
            outcome
        });
        self.in_flight += effects.completions_from(before);
        if let Err(halt) = outcome {
            self.halt(halt, effects);
        }
    }

    /// What is in flight must end before anything else touches the same places.
    fn drain(&mut self, draining: Draining, effects: &mut Effects) {
        self.incarnation += 1;
        self.state = State::Draining(draining);
        if self.in_flight == 0 {
            self.open_again(effects);
        }
    }

    fn open_again(&mut self, effects: &mut Effects) {
        let State::Draining(Draining { random, sync, .. }) = &self.state else {
            unreachable!("asked by the caller")
        };
        let (before, nonce) = (effects.len(), self.boots.next_u64() | 1);
        let opening = Opening::start(&self.config, nonce, *sync, effects);
        self.state = State::Opening(Box::new(opening), random.clone());
        self.in_flight += effects.completions_from(before);
    }

    fn halt(&mut self, halt: Halt, effects: &mut Effects) {
        if let State::Running(running) = &mut self.state {
            // Replies of applied ops are durable truth; they may still be taken. Nobody else hears.
            running.refuse_all(RetryReason::NotReady);
            self.replies.append(&mut running.replies);
        }
        effects.event(Event::Halted);
        self.state = State::Halted(halt);
    }
}

/// A read is of the part of the node that it was first driven with. False: of another one.
fn bind_to(of: &mut u64, incarnation: u64) -> bool {
    if *of == 0 {
        *of = incarnation;
    }
    *of == incarnation
}

/// Of a replica that has no running part: what its superblock says.
fn not_running(state: &SuperblockState, syncing: Option<Op>) -> Status {
    Status {
        cluster: state.cluster,
        origin: state.origin,
        replica: state.replica,
        release: state.release,
        view: state.view,
        generation: state.generation,
        op: Op::ZERO,
        commit: state.committed,
        applied: Op::ZERO,
        checkpoint: state.checkpoint.op,
        checkpoint_begun: state.checkpoint.op,
        journal_used_bytes: 0,
        journal_ring_bytes: state.constants.journal_ring_bytes,
        torn_tail: None,
        grid: GridStatus::default(),
        free_bytes: None,
        ready: false,
        reads: false,
        replica_status: None,
        syncing,
        replaced: state.replaced,
        scrub: ScrubStatus::default(),
        halted: None,
    }
}
