//! One node on one disk, one request after the other: for directed tests and for twins.
//!
//! No faults happen by themselves, time moves only as far as it must, and the wall clock stands
//! still unless it is set: so what two of these do differs only in what they are given.

use std::collections::{BTreeMap, VecDeque};

use verity_core::ids::TenantId;
use verity_core::io::{Effect, Effects, Input};
use verity_core::kernel::{Reply, Request, RequestError};
use verity_core::node::{
    Format, FormatOptions, Halt, Progress, ProofOf, ProofRead, Proved, Read, Seed, Ticket,
};
use verity_core::query::Value;
use verity_core::time::{Clock, Instant, SECOND_NS, Timestamp};

use crate::disk::{Disk, Keep, Request as DiskRequest};
use crate::keys::MasterKey;
use crate::replica::{BootOptions, Replica};

/// Rows of a read and the position they are of, or why there are none.
pub type Answer = Result<(u64, Vec<Vec<Value>>), String>;

#[derive(Debug)]
pub struct Solo {
    pub disk: Disk,
    pub master: MasterKey,
    pub wall: Timestamp,
    /// Requests are executed while their prepare is being written.
    pub ahead: bool,
    /// Marks seen since the start.
    pub events: BTreeMap<&'static str, u64>,
    now_ns: u64,
    node: Option<Replica>,
    effects: Effects,
    keys: VecDeque<Input>,
    replies: BTreeMap<Ticket, Result<Reply, RequestError>>,
}

const TURNS_MAX: u64 = 5_000_000;

impl Solo {
    #[must_use]
    pub fn new(disk: Disk, master: MasterKey) -> Solo {
        Solo {
            disk,
            master,
            wall: Timestamp(1_800_000_000 * SECOND_NS),
            ahead: false,
            events: BTreeMap::new(),
            now_ns: 0,
            node: None,
            effects: Effects::new(),
            keys: VecDeque::new(),
            replies: BTreeMap::new(),
        }
    }

    pub fn format(&mut self, options: FormatOptions, seed: [u8; 32]) -> Result<(), Halt> {
        let mut effects = Effects::new();
        let mut format = Format::start(options, &Seed(seed), &mut effects)?;
        loop {
            for effect in effects.drain() {
                self.execute(effect);
            }
            if format.is_done() {
                return Ok(());
            }
            let Some(input) = self.next_completion() else {
                unreachable!("a format that is not done waits for something")
            };
            format.step(input, &mut effects)?;
        }
    }

    /// Begins to open, without waiting.
    pub fn boot(&mut self, options: BootOptions, seed: [u8; 32]) {
        assert!(self.node.is_none(), "one process at a time");
        self.node = Some(Replica::open(options, seed, &mut self.effects));
        self.drain();
    }

    /// Opens and waits until requests are served.
    pub fn open(&mut self, options: BootOptions, seed: [u8; 32]) -> Result<(), Halt> {
        self.boot(options, seed);
        self.pump(|solo| solo.node.as_ref().is_some_and(Replica::is_ready))
    }

    /// One transaction, and everything it leaves to be done.
    pub fn request(&mut self, request: Request) -> Result<Result<Reply, RequestError>, Halt> {
        let ticket = self.send(request);
        self.pump(|solo| solo.replies.contains_key(&ticket))?;
        self.settle()?;
        let Some(reply) = self.replies.remove(&ticket) else { unreachable!("pumped until then") };
        Ok(reply)
    }

    /// Sends without waiting.
    pub fn send(&mut self, request: Request) -> Ticket {
        let clock = self.clock();
        let Some(node) = &mut self.node else { unreachable!("a process runs") };
        let ticket = node.submit(clock, request, &mut self.effects);
        if self.ahead {
            node.work_ahead();
        }
        self.drain();
        ticket
    }

    /// Lets exactly one completion happen; false when nothing is in flight.
    pub fn step(&mut self) -> bool {
        let Some(input) = self.next_completion() else { return false };
        let clock = self.clock();
        if let Some(node) = &mut self.node {
            node.step(clock, input, &mut self.effects);
            if self.ahead {
                node.work_ahead();
            }
        }
        self.drain();
        true
    }

    #[must_use]
    pub fn reply(&self, ticket: Ticket) -> Option<&Result<Reply, RequestError>> {
        self.replies.get(&ticket)
    }

    pub fn query(&mut self, tenant: TenantId, text: &str, parameters: Vec<Value>) -> Answer {
        let mut read = Read::sql(tenant, text, parameters);
        for _ in 0..TURNS_MAX {
            let clock = self.clock();
            let Some(node) = &mut self.node else { unreachable!("a process runs") };
            let progress = node.read(clock, &mut read, &mut self.effects);
            self.drain();
            match progress {
                Progress::Ready => {
                    let result = read.finish().map_err(|error| error.to_string())?;
                    return Ok((result.position.get(), result.rows));
                }
                Progress::Yielded | Progress::Behind => {}
                Progress::Waiting => {
                    if !self.step() {
                        return Err("the read waits for nothing".to_owned());
                    }
                }
            }
            if let Some(halt) = self.halted() {
                return Err(halt.to_string());
            }
        }
        Err("the read never ends".to_owned())
    }

    /// A proof; `since` as in [`ProofRead::since`].
    pub fn prove(
        &mut self,
        tenant: TenantId,
        of: ProofOf,
        since: Option<u64>,
    ) -> Result<Proved, String> {
        let mut read = ProofRead::new(tenant, of).since(since);
        for _ in 0..TURNS_MAX {
            let clock = self.clock();
            let Some(node) = &mut self.node else { unreachable!("a process runs") };
            let progress = node.read_proof(clock, &mut read, &mut self.effects);
            self.drain();
            match progress {
                Progress::Ready => return read.finish().map_err(|error| error.to_string()),
                Progress::Yielded | Progress::Behind => {}
                Progress::Waiting => {
                    if !self.step() {
                        return Err("the proof waits for nothing".to_owned());
                    }
                }
            }
            if let Some(halt) = self.halted() {
                return Err(halt.to_string());
            }
        }
        Err("the proof never ends".to_owned())
    }

    /// Until nothing is in flight.
    pub fn settle(&mut self) -> Result<(), Halt> {
        self.pump(|solo| solo.disk.idle() && solo.keys.is_empty())
    }

    /// Asks for a shutdown without waiting for it.
    pub fn begin_shutdown(&mut self) {
        let clock = self.clock();
        if let Some(node) = &mut self.node {
            node.shutdown(clock, &mut self.effects);
        }
        self.drain();
    }

    pub fn shutdown(&mut self) -> Result<(), Halt> {
        self.begin_shutdown();
        let ended = self.pump(|_| false);
        self.crash(Keep::Nothing);
        match ended {
            Err(Halt::Shutdown) => Ok(()),
            Err(halt) => Err(halt),
            Ok(()) => unreachable!("pumped until it halts"),
        }
    }

    pub fn crash(&mut self, keep: Keep) {
        self.disk.crash(keep);
        self.node = None;
        self.effects = Effects::new();
        self.keys.clear();
        self.replies.clear();
    }

    #[must_use]
    pub fn halted(&self) -> Option<Halt> {
        self.node.as_ref().and_then(Replica::halted)
    }

    #[must_use]
    pub fn seen(&self, event: &str) -> u64 {
        self.events.get(event).copied().unwrap_or(0)
    }

    fn node(&mut self) -> &mut Replica {
        let Some(node) = &mut self.node else { unreachable!("a process runs") };
        node
    }

    fn clock(&self) -> Clock {
        Clock { monotonic: Instant(self.now_ns), wall: self.wall }
    }

    fn pump(&mut self, done: impl Fn(&Solo) -> bool) -> Result<(), Halt> {
        self.drain();
        for _ in 0..TURNS_MAX {
            if let Some(halt) = self.halted() {
                return Err(halt);
            }
            if done(self) {
                return Ok(());
            }
            if self.step() {
                continue;
            }
            let Some(deadline) = self.node().deadline() else {
                return Err(Halt::Data { what: "simulator", detail: "nothing moves".to_owned() });
            };
            self.now_ns = self.now_ns.max(deadline.0);
            let clock = self.clock();
            if let Some(node) = &mut self.node {
                node.step(clock, Input::Tick, &mut self.effects);
            }
            self.drain();
        }
        Err(Halt::Data { what: "simulator", detail: "it never ends".to_owned() })
    }

    fn next_completion(&mut self) -> Option<Input> {
        if let Some(input) = self.keys.pop_front() {
            return Some(input);
        }
        let due_ns = self.disk.next_due_ns()?;
        self.now_ns = self.now_ns.max(due_ns);
        self.disk.complete(self.now_ns)
    }

    fn drain(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            self.execute(effect);
        }
        self.effects = effects;
        while let Some((ticket, reply)) = self.node.as_mut().and_then(Replica::next_reply) {
            self.replies.insert(ticket, reply);
        }
    }

    fn execute(&mut self, effect: Effect) {
        let now_ns = self.now_ns;
        let request = match effect {
            Effect::Read { io, at, pages } => DiskRequest::Read { io, at, pages },
            Effect::Write { io, at, pages, durable } => {
                DiskRequest::Write { io, at, pages, durable }
            }
            Effect::Sync { io, file } => DiskRequest::Sync { io, file },
            Effect::Create { io, file } => DiskRequest::Create { io, file },
            Effect::Remove { io, file } => DiskRequest::Remove { io, file },
            Effect::Wrap { io, purpose, key } => {
                let key = Ok(self.master.wrap(purpose, &key));
                self.keys.push_back(Input::Wrapped { io, key });
                return;
            }
            Effect::Unwrap { io, purpose, key } => {
                let key = self.master.unwrap(purpose, &key);
                self.keys.push_back(Input::Unwrapped { io, key });
                return;
            }
            Effect::Send { .. } => unreachable!("one replica has no peers"),
            Effect::Event(event) => {
                *self.events.entry(event.name()).or_default() += 1;
                return;
            }
        };
        self.disk.submit(now_ns, request);
    }
}
