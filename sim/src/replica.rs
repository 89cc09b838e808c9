//! The one door from the simulator to the core's node: its calls, and nothing of its inside.

use verity_core::ids::ReplicaId;
use verity_core::io::{Effects, Input};
use verity_core::kernel::{Reply, Request, RequestError};
use verity_core::node::{
    CommitmentRead, Config, Halt, LeadAnswer, LeadAsked, Memory, Node, Progress, ProofRead, Read,
    Seed, Status, Ticket,
};
use verity_core::store::Chunk;
use verity_core::time::{Clock, Instant};

/// What may differ from boot to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootOptions {
    pub cache_pages: u32,
    pub evict_everything: bool,
    pub attest_after_ns: Option<u64>,
}

impl BootOptions {
    /// Attests only when it is asked to.
    #[must_use]
    pub const fn new(cache_pages: u32, evict_everything: bool) -> BootOptions {
        BootOptions { cache_pages, evict_everything, attest_after_ns: None }
    }
}

/// Which one of how many it is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub replica: ReplicaId,
    pub serves_cluster: bool,
}

#[derive(Debug)]
pub struct Replica {
    node: Node,
}

impl Replica {
    #[must_use]
    pub fn open(options: BootOptions, seed: [u8; 32], effects: &mut Effects) -> Replica {
        let alone = Place { replica: ReplicaId::ZERO, serves_cluster: false };
        Replica::open_at(alone, options, seed, effects)
    }

    #[must_use]
    pub fn open_at(
        place: Place,
        options: BootOptions,
        seed: [u8; 32],
        effects: &mut Effects,
    ) -> Replica {
        let mut config = Config::new(place.replica);
        config.serves_cluster = place.serves_cluster;
        config.scrub = place.serves_cluster;
        config.memory = Memory::CleanPages(options.cache_pages);
        config.evict_everything = options.evict_everything;
        config.attest_after_ns = options.attest_after_ns;
        // Jumps of the wall clock add up over a run; the directed tests know the refusal.
        config.accept_clock = true;
        Replica { node: Node::open(&config, &Seed(seed), effects) }
    }

    pub fn step(&mut self, now: Clock, input: Input, effects: &mut Effects) {
        self.node.step(now, input, effects);
    }

    pub fn submit(&mut self, now: Clock, request: Request, effects: &mut Effects) -> Ticket {
        self.node.submit(now, request, effects)
    }

    /// As `submit`, by a caller that seals for itself. `None`: it cannot, or not such a request.
    pub fn submit_sealed(
        &mut self,
        now: Clock,
        request: &Request,
        nonce: [u8; 12],
        effects: &mut Effects,
    ) -> Option<Ticket> {
        let sealer = self.node.sealer(request.tenant)?;
        let sealed = sealer.seal(request, now.wall, nonce)?;
        let ticket = self.node.enqueue_sealed(sealed);
        self.node.run(now, effects);
        Some(ticket)
    }

    pub fn hurry(&mut self, now: Clock, effects: &mut Effects) {
        self.node.hurry(now, effects);
    }

    pub fn slice(&mut self, sliced: bool) {
        self.node.slice(sliced);
    }

    pub fn work_ahead(&mut self) {
        self.node.work_ahead();
    }

    /// Memory that the node wants ahead of its use.
    pub fn give_chunk(&mut self) {
        if let Some(pages) = self.node.chunk_wanted() {
            self.node.give_chunk(Chunk::zeroed(pages));
        }
    }

    pub fn next_reply(&mut self) -> Option<(Ticket, Result<Reply, RequestError>)> {
        self.node.next_reply()
    }

    pub fn read_proof(
        &mut self,
        now: Clock,
        read: &mut ProofRead,
        effects: &mut Effects,
    ) -> Progress {
        self.node.read_proof(now, read, effects)
    }

    /// Gives back what an unfinished proof holds.
    pub fn cancel_proof(&mut self, read: &mut ProofRead) {
        self.node.cancel_proof(read);
    }

    pub fn read(&mut self, now: Clock, read: &mut Read, effects: &mut Effects) -> Progress {
        self.node.read(now, read, effects)
    }

    /// Gives back what an unfinished read holds.
    pub fn cancel(&mut self, read: &mut Read) {
        self.node.cancel(read);
    }

    /// A linearizable read comes in; `None`: this node does not lead.
    pub fn ask_lead(&mut self, now: Clock, effects: &mut Effects) -> Option<LeadAsked> {
        self.node.ask_lead(now, effects)
    }

    #[must_use]
    pub fn lead(&self, asked: &LeadAsked) -> LeadAnswer {
        self.node.lead(asked)
    }

    pub fn read_commitment(
        &mut self,
        read: &mut CommitmentRead,
        effects: &mut Effects,
    ) -> Progress {
        self.node.read_commitment(read, effects)
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.node.deadline()
    }

    pub fn shutdown(&mut self, now: Clock, effects: &mut Effects) {
        self.node.shutdown(now, effects);
    }

    #[must_use]
    pub fn halted(&self) -> Option<Halt> {
        self.node.halted().cloned()
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.node.is_ready()
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.node.status()
    }

    #[must_use]
    pub fn jobs_idle(&self) -> bool {
        self.node.jobs_idle()
    }

    /// The part of the memory plan that holds more than it may: name, what it holds, its bound.
    #[must_use]
    pub fn memory_exceeded(&self) -> Option<(&'static str, u64, u64)> {
        self.node.memory_plan()?.exceeded_by(&self.node.memory_use())
    }
}
