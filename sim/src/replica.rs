//! The one door from the simulator to the core's node: its calls, and nothing of its inside.

use verity_core::ids::{ReplicaId, TenantId};
use verity_core::io::{Effects, Input};
use verity_core::kernel::{Reply, Request, RequestError};
use verity_core::node::{Config, Halt, Progress, Seed, Status, Ticket};
#[derive(Debug)]
pub struct Node;
#[derive(Debug)]
pub struct ReadTask;
impl ReadTask {
    pub fn new(_: TenantId, _: String, _: Vec<Value>) -> ReadTask {
        ReadTask
    }
    pub fn into_answer(self) -> Result<(u64, Vec<Vec<Value>>), String> {
        Err(String::new())
    }
}
impl Node {
    fn open(_: &Config, _: &Seed, _: &mut Effects) -> Node {
        Node
    }
    fn step(&mut self, _: Clock, _: Input, _: &mut Effects) {}
    fn submit(&mut self, _: Clock, _: Request, _: &mut Effects) -> Ticket {
        Ticket(0)
    }
    fn next_reply(&mut self) -> Option<(Ticket, Result<Reply, RequestError>)> {
        None
    }
    fn read(&mut self, _: Clock, _: &mut ReadTask, _: &mut Effects) -> Progress {
        Progress::Ready
    }
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn shutdown(&mut self, _: Clock, _: &mut Effects) {}
    fn halted(&self) -> Option<&Halt> {
        None
    }
    fn is_ready(&self) -> bool {
        true
    }
    fn status(&self) -> Option<Status> {
        None
    }
    fn memory_bytes(&self) -> usize {
        0
    }
}

use verity_core::query::Value;
use verity_core::time::{Clock, Instant};

/// What may differ from boot to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootOptions {
    pub cache_pages: u32,
    pub evict_everything: bool,
}

#[derive(Debug)]
pub struct Replica {
    node: Node,
}

impl Replica {
    #[must_use]
    pub fn open(options: BootOptions, seed: [u8; 32], effects: &mut Effects) -> Replica {
        let mut config = Config::new(ReplicaId::ZERO);
        config.cache_pages = options.cache_pages;
        config.evict_everything = options.evict_everything;
        Replica { node: Node::open(&config, &Seed(seed), effects) }
    }

    pub fn step(&mut self, now: Clock, input: Input, effects: &mut Effects) {
        self.node.step(now, input, effects);
    }

    pub fn submit(&mut self, now: Clock, request: Request, effects: &mut Effects) -> Ticket {
        self.node.submit(now, request, effects)
    }

    pub fn next_reply(&mut self) -> Option<(Ticket, Result<Reply, RequestError>)> {
        self.node.next_reply()
    }

    pub fn read(&mut self, now: Clock, task: &mut ReadTask, effects: &mut Effects) -> Progress {
        self.node.read(now, task, effects)
    }

    #[must_use]
    pub fn begin_read(&self, tenant: TenantId, text: String, parameters: Vec<Value>) -> ReadTask {
        ReadTask::new(tenant, text, parameters)
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
    pub fn memory_bytes(&self) -> u64 {
        self.node.memory_bytes() as u64
    }
}
