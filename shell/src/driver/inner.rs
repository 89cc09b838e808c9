//! What the lock guards: the node, its disk, and who waits for what.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use verity_core::ids::TenantId;
use verity_core::io::{Effects, Input};
use verity_core::node::{Halt, LeadAnswer, LeadAsked, Node, Progress, Ticket};
use verity_core::time::{self, Clock};

use super::chunks::Chunks;
use super::sealers::{Asked, Sealers};
use super::slot::{Answer, Slot};
use crate::disk::Disk;
use crate::error::Error;

/// How often the node is told of the free space.
const SPACE_EVERY_NS: u64 = time::SECOND_NS;

/// Who steps the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nobody,
    Caller,
    Background,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub node: Node,
    pub disk: Disk,
    pub effects: Effects,
    pub inputs: Vec<Input>,
    pub waiting: Waiters,
    /// Readers that wait for pages; all look again after any completion.
    pub readers: Vec<Arc<Slot>>,
    /// Proofs that wait for another one, and how many have ended.
    pub proofs_behind: u32,
    pub proofs_ended: u64,
    /// Reads that wait until a quorum has confirmed the lead.
    pub confirming: Vec<(LeadAsked, Arc<Slot>)>,
    /// Buffer of `Driver::take_left`.
    pub taken: Vec<(Asked, Arc<Slot>)>,
    /// As the driver has it.
    pub node_time: Arc<AtomicU64>,
    pub sealers: Arc<Sealers>,
    pub chunks: Arc<Chunks>,
    /// Whose request came unsealed: the next ones need not.
    pub unsealed: Option<TenantId>,
    /// Answered in this turn; woken after the lock is released.
    pub answered: Vec<Arc<Slot>>,
    pub role: Role,
    /// The background thread drives until the end.
    pub serves: bool,
    pub background_idles: bool,
    /// Turns in which a completion came in.
    pub progress: u64,
    /// When, and whether the node was ready then.
    pub space_told: Option<(time::Instant, bool)>,
    pub stop: bool,
}

/// Tickets that are not answered, and who waits for them. Tickets are dense.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Ticket of the first slot.
    first: u64,
    slots: VecDeque<Option<Arc<Slot>>>,
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn insert(&mut self, ticket: Ticket, slot: Arc<Slot>) {
        if self.slots.is_empty() {
            self.first = ticket.0;
        }
        assert_eq!(ticket.0, self.first + self.slots.len() as u64, "tickets are dense");
        self.slots.push_back(Some(slot));
    }

    fn remove(&mut self, ticket: Ticket) -> Arc<Slot> {
        let at = ticket.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(slot) = at.and_then(|at| self.slots.get_mut(at)).and_then(Option::take) else {
            unreachable!("every ticket has a slot");
        };
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        slot
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Arc<Slot>> {
        self.slots.drain(..).flatten()
    }
}

impl Inner {
    pub fn submit(
        &mut self,
        now: Clock,
        asked: Asked,
        slot: Arc<Slot>,
    ) -> Result<Arc<Slot>, Error> {
        if self.stop || self.node.halted().is_some() {
            return Err(self.why_halted());
        }
        self.enqueue(asked, Arc::clone(&slot));
        self.run(now);
        Ok(slot)
    }

    pub fn enqueue(&mut self, asked: Asked, slot: Arc<Slot>) {
        if self.stop || self.node.halted().is_some() {
            slot.answer(Answer::Halted);
            self.answered.push(slot);
            return;
        }
        let ticket = match asked {
            Asked::Sealed(sealed) => self.node.enqueue_sealed(sealed),
            Asked::Request(request) => {
                self.unsealed = Some(request.tenant);
                self.node.enqueue(request)
            }
        };
        self.waiting.insert(ticket, slot);
    }

    /// Who is to be woken now. While a prepare is applied in slices, a group that is woken as one
    /// is not yet: most of it would sleep again.
    pub fn take_answered(&mut self, amid: bool) -> Vec<Arc<Slot>> {
        if !amid {
            return std::mem::take(&mut self.answered);
        }
        self.answered.extract_if(.., |slot| !slot.is_of_group()).collect()
    }

    /// What was enqueued goes its way.
    pub fn run(&mut self, now: Clock) {
        self.node.run(now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        self.learn();
    }

    /// What was enqueued goes its way before what has come is looked at.
    pub fn hurry(&mut self, now: Clock) {
        self.node.hurry(now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        self.learn();
    }

    /// The next requests of this tenant may come sealed.
    fn learn(&mut self) {
        if let Some(tenant) = self.unsealed.take() {
            self.sealers.learn(&self.node, tenant);
        }
    }

    pub fn slice(
        &mut self,
        now: Clock,
        slice: impl FnOnce(&mut Node, Clock, &mut Effects) -> Progress,
    ) -> Result<Progress, Error> {
        if self.stop || self.node.halted().is_some() {
            return Err(self.why_halted());
        }
        let progress = slice(&mut self.node, now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        // The end of a proof lets the ops go on that waited for it.
        self.deliver();
        Ok(progress)
    }

    /// A linearizable read comes in; `None`: this node does not lead.
    pub fn ask_lead(&mut self, now: Clock) -> Result<Option<LeadAsked>, Error> {
        if self.stop || self.node.halted().is_some() {
            return Err(self.why_halted());
        }
        let asked = self.node.ask_lead(now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        self.deliver();
        Ok(asked)
    }

    /// Wakes the reads that need not wait any more.
    fn tell_confirmed(&mut self) {
        let Inner { node, confirming, answered, .. } = self;
        confirming.retain(|(asked, slot)| {
            let waits = node.lead(asked) == LeadAnswer::Waiting;
            if !waits {
                slot.answer(Answer::LookAgain);
                answered.push(Arc::clone(slot));
            }
            waits
        });
    }

    /// One input that is no completion; `turn` says what came of it.
    pub fn step(&mut self, now: Clock, input: Input) {
        self.node.step(now, input, &mut self.effects);
        self.disk.execute(&mut self.effects);
    }

    /// Tells the node to end when it has answered what it was asked.
    pub fn shut_down(&mut self, now: Clock) {
        self.node.shutdown(now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        self.deliver();
    }

    /// Completions in, effects out, replies to their slots. Never waits.
    pub fn turn(&mut self, now: Clock) {
        self.disk.poll(&mut self.inputs);
        if !self.inputs.is_empty() {
            self.progress += 1;
            self.answered.extend(self.readers.drain(..).inspect(|slot| {
                slot.answer(Answer::LookAgain);
            }));
        }
        for input in self.inputs.drain(..) {
            self.node.step(now, input, &mut self.effects);
        }
        // What it is told while it opens is lost: once more before it takes its first request.
        let ready = self.node.is_ready();
        let due = |(told, was_ready): (time::Instant, bool)| {
            was_ready != ready || now.monotonic.since_ns(told) >= SPACE_EVERY_NS
        };
        if self.space_told.is_none_or(due) {
            self.space_told = Some((now.monotonic, ready));
            if let Some(free_bytes) = self.disk.free_bytes() {
                self.node.step(now, Input::Space { free_bytes }, &mut self.effects);
            }
        }
        if self.node.deadline().is_some_and(|deadline| deadline <= now.monotonic) {
            self.node.step(now, Input::Tick, &mut self.effects);
        }
        self.disk.execute(&mut self.effects);
        self.deliver();
        self.tell_confirmed();
        if let Some(pages) = self.node.chunk_wanted() {
            self.chunks.ask(pages);
        }
    }

    /// Replies to their slots.
    fn deliver(&mut self) {
        // Whoever is answered below may seal at once, under an id that was just made.
        self.sealers.check(&self.node);
        self.node_time.fetch_max(self.node.time().0, Ordering::Relaxed);
        while let Some((ticket, reply)) = self.node.next_reply() {
            let slot = self.waiting.remove(ticket);
            slot.answer(Answer::Reply(reply));
            self.answered.push(slot);
        }
        if self.node.halted().is_some() {
            for slot in self.waiting.drain() {
                slot.answer(Answer::Halted);
                self.answered.push(slot);
            }
        }
    }

    pub fn why_halted(&self) -> Error {
        match self.node.halted() {
            None | Some(Halt::Shutdown) => Error::Closed,
            Some(halt) => Error::Halted {
                halt: halt.clone(),
                problem: self.disk.problem().map(str::to_string),
            },
        }
    }
}
