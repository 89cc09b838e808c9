//! The agent: one thread, one connection, all calls that wait.
//!
//! Invariants: a call that waits is sent again whenever the connection it was sent on is gone, with
//! the same bytes, until its deadline. Callers write their own requests to the connection when
//! there is one; the agent reads all answers, and while it takes those that came together, whoever
//! they wake leaves what it asks next to the agent, which sends it in one piece. At most `WINDOW`
//! requests are on their way, so that the server never stops reading while this side waits to
//! write. Deadlines are looked at every `LOOK_EVERY`, whatever comes in; a caller that sleeps looks
//! at its own.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use verity_core::ids::ReplicaId;
use verity_core::kernel::RequestError;
use verity_core::limits::{CLIENT_REQUESTS_MAX, FRAME_PAYLOAD_SIZE_MAX};
use verity_core::node::CURRENT_RELEASE;
use verity_core::wire::hello::Hello;

use super::call::{Call, Done, Kind, Next, Pending, Verdict, Write as WriteCall};
use crate::error::Error;
use crate::net::frames::{FrameReader, payload};
use crate::net::guest::GOODBYE;
use crate::net::payload::{Answer, Ask, Asked, RowsPart};
use crate::net::{Broken, dial, handshake};

const WINDOW: usize = CLIENT_REQUESTS_MAX / 2;
/// Requests that are due together go out in pieces of about this size.
const TOGETHER_BYTES: usize = 64 << 10;
const DIAL_MAX: Duration = Duration::from_secs(1);
/// A server that takes longer to say who it is may be stopped.
const GREET_MAX: Duration = Duration::from_millis(500);
/// A server that says nothing for so long, though it was asked, is not waited for: twice what it
/// lets pass between two signs of life.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Who could not be reached is not tried again on another's word for so long.
const AVOIDED: Duration = Duration::from_millis(500);
/// How often the agent looks at the time while it reads.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After all servers were tried in vain: doubled from the first to the last.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(20);
const ROUND_PAUSE_MAX: Duration = Duration::from_millis(80);

#[derive(Debug)]
pub struct Agent {
    addresses: Vec<String>,
    deadline: Duration,
    state: Mutex<State>,
    /// Something to do, or the end.
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    on_their_way: usize,
    /// The agent takes answers, and sends what is left here when it has none.
    answering: bool,
    link: Option<Arc<Link>>,
    failure: Option<String>,
}

/// Says something of a request to the server that it was sent to, if any.
fn say(link: Option<Arc<Link>>, number: u64, ask: Ask) {
    let Some(link) = link else { return };
    let Ok(frame) = (Asked { id: number, ask }).encode() else { unreachable!("it is short") };
    link.write(&frame, &link.lock());
}

impl State {
    /// Where a request was sent that is not answered yet.
    fn link_of(&self, number: u64) -> Option<Arc<Link>> {
        self.pending.get(&number)?.sent?;
        self.link.clone()
    }

    /// Frames that are to be sent now, oldest first, up to about [`TOGETHER_BYTES`]: none, none is.
    fn take_due(&mut self) -> Vec<u8> {
        let State { pending, on_their_way, .. } = self;
        let mut frames = Vec::new();
        if *on_their_way == pending.len() {
            return frames;
        }
        let now = Instant::now();
        let due = |pending: &&mut Pending| {
            pending.sent.is_none() && pending.not_before.is_none_or(|at| at <= now)
        };
        for pending in pending.values_mut().filter(due) {
            if *on_their_way >= WINDOW || frames.len() >= TOGETHER_BYTES {
                break;
            }
            pending.sent = Some(now);
            frames.extend_from_slice(&pending.frame);
            *on_their_way += 1;
        }
        frames
    }
}

/// A connection; one writes at a time.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    writing: Mutex<()>,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `_one_at_a_time`: of this link. When it fails, whoever reads will see it.
    fn write(&self, frame: &[u8], _one_at_a_time: &MutexGuard<'_, ()>) {
        if (&self.stream).write_all(frame).is_err() {
            let _gone_already = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Where to go next.
struct Route {
    at: usize,
    /// Tries since the last one that brought an answer.
    in_vain: usize,
    known: BTreeMap<ReplicaId, usize>,
    /// When one could last not be reached, or said nothing.
    failed: BTreeMap<usize, Instant>,
}

impl Route {
    /// Round the list, but for those that failed lately, if there are others.
    fn go_on(&mut self, count: usize) {
        let others = (1..=count).map(|step| (self.at + step) % count);
        let worth = others.clone().find(|at| !self.has_failed_lately(*at));
        self.at = worth.or_else(|| others.clone().next()).unwrap_or(0);
    }

    /// A refusal may name a primary whose loss nobody has noticed yet: it is not asked at once.
    fn has_failed_lately(&self, at: usize) -> bool {
        self.failed.get(&at).is_some_and(|failed| failed.elapsed() < AVOIDED)
    }

    fn has_failed(&mut self) {
        self.failed.insert(self.at, Instant::now());
    }
}

impl Agent {
    pub fn new(addresses: Vec<String>, deadline: Duration) -> Agent {
        Agent { addresses, deadline, state: Mutex::default(), called: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn submit(&self, ask: Ask) -> Result<Arc<Call>, Error> {
        let kind = match &ask {
            Ask::Execute(request) => {
                Kind::Write(WriteCall { tenant: request.tenant, id: request.idempotency })
            }
            Ask::Query(query) if query.window > 0 => Kind::Stream { begun: false },
            Ask::Query(_) | Ask::Commitment { .. } | Ask::Status | Ask::Prove(_) => Kind::Read,
            Ask::Taken(_) | Ask::Cancel => unreachable!("said of a query, not asked"),
        };
        let id = {
            let mut state = self.lock();
            state.next_id += 1;
            state.next_id
        };
        let frame = Asked { id, ask }.encode().map_err(|too_long| {
            let max = FRAME_PAYLOAD_SIZE_MAX;
            Error::Request(RequestError::TooLarge { size: too_long.size, max })
        })?;
        let (call, now) = (Arc::new(Call::new(id)), Instant::now());
        let deadline = now + self.deadline;
        let mut pending = Pending::new(frame, Arc::clone(&call), deadline, kind);
        let mut state = self.lock();
        let direct = state.on_their_way < WINDOW && !state.answering;
        let is_linked = state.link.is_some();
        let Some(link) = state.link.clone().filter(|_| direct) else {
            state.pending.insert(id, pending);
            drop(state);
            if !is_linked {
                self.called.notify_one();
            }
            return Ok(call);
        };
        pending.sent = Some(now);
        state.on_their_way += 1;
        let frame = Arc::clone(&pending.frame);
        state.pending.insert(id, pending);
        drop(state);
        link.write(&frame, &link.lock());
        Ok(call)
    }

    /// The end of a call that began just now, waited for.
    pub fn wait(&self, call: &Call) -> Done {
        // The agent may be busy with a server that does not answer.
        let mut end = Instant::now() + self.deadline;
        loop {
            if let Some(done) = call.wait_until(end) {
                return done;
            }
            self.expire();
            end = Instant::now() + LOOK_EVERY;
        }
    }

    /// What a stream brings next, waited for.
    pub fn wait_next(&self, call: &Call) -> Next {
        let mut end = Instant::now() + self.deadline;
        loop {
            if let Some(next) = call.next_until(end) {
                self.has_taken(call, &next);
                return next;
            }
            self.expire();
            end = Instant::now() + LOOK_EVERY;
        }
    }

    pub fn poll_next(&self, call: &Call, waker: &Waker) -> Option<Next> {
        let next = call.poll_next(waker)?;
        self.has_taken(call, &next);
        Some(next)
    }

    /// The server may send more.
    fn has_taken(&self, call: &Call, next: &Next) {
        if let Next::Part(RowsPart { more: true, .. }) = next {
            let link = self.lock().link_of(call.number);
            say(link, call.number, Ask::Taken(call.taken()));
        }
    }

    /// Nobody wants the rest of a stream.
    pub fn give_up(&self, call: &Call) {
        let mut state = self.lock();
        let link = state.link_of(call.number);
        if let Some(pending) = state.pending.remove(&call.number) {
            state.on_their_way -= usize::from(pending.sent.is_some());
        }
        drop(state);
        say(link, call.number, Ask::Cancel);
    }

    pub fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        if let Some(link) = &state.link {
            let _gone_already = link.stream.shutdown(Shutdown::Both);
        }
        self.called.notify_one();
    }

    pub fn run(&self) {
        let mut route =
            Route { at: 0, in_vain: 0, known: BTreeMap::new(), failed: BTreeMap::new() };
        while self.wait_for_work() {
            let failure = match self.connect(&mut route) {
                Ok((link, reader)) => self.converse(&link, reader, &mut route),
                Err(why) => {
                    route.has_failed();
                    route.go_on(self.addresses.len());
                    Some(why)
                }
            };
            route.in_vain += 1;
            self.hang_up(failure);
            self.expire();
            let rounds = route.in_vain / self.addresses.len();
            if rounds > 0 {
                let doubled = 2_u32.saturating_pow(rounds.min(8) as u32 - 1);
                self.pause((ROUND_PAUSE_MIN * doubled).min(ROUND_PAUSE_MAX));
            }
        }
        // Nobody is left who could wait, but for tasks that were given up.
        let pending = std::mem::take(&mut self.lock().pending);
        for (_, pending) in pending {
            pending.call.end(Done::Failed(Error::Closed));
        }
    }

    /// False: the end.
    fn wait_for_work(&self) -> bool {
        let idle = |state: &mut State| !state.stop && state.pending.is_empty();
        let state = self.called.wait_while(self.lock(), idle);
        !state.unwrap_or_else(PoisonError::into_inner).stop
    }

    fn pause(&self, time: Duration) {
        let going_on = |state: &mut State| !state.stop;
        let waited = self.called.wait_timeout_while(self.lock(), time, going_on);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn connect(&self, route: &mut Route) -> Result<(Arc<Link>, FrameReader), String> {
        let address = &self.addresses[route.at];
        let reach = || -> Result<(TcpStream, Hello, FrameReader), Broken> {
            let stream = dial(address, DIAL_MAX)?;
            let me = Hello::of_client(CURRENT_RELEASE);
            let (hello, mut reader) = handshake::greet(&stream, &me, GREET_MAX)?;
            reader.allow(FRAME_PAYLOAD_SIZE_MAX);
            stream.set_write_timeout(Some(SILENCE_MAX))?;
            Ok((stream, hello, reader))
        };
        let (stream, hello, reader) = reach().map_err(|why| format!("{address}: {why}"))?;
        if let Some(replica) = hello.from {
            route.known.insert(replica, route.at);
            // The list is probably that of the servers.
            if self.addresses.len() == usize::from(hello.replica_count) {
                for (number, at) in (0..hello.replica_count).zip(0..) {
                    route.known.entry(ReplicaId::new(number)).or_insert(at);
                }
            }
        }
        let link = Arc::new(Link { stream, writing: Mutex::default() });
        let mut state = self.lock();
        if state.stop {
            return Err("the client ends".to_string());
        }
        state.link = Some(Arc::clone(&link));
        Ok((link, reader))
    }

    /// Until the connection ends or should; why, if not for a reason of ours.
    fn converse(&self, link: &Link, mut reader: FrameReader, route: &mut Route) -> Option<String> {
        let address = &self.addresses[route.at];
        let failed = |why: Broken| Some(format!("{address}: {why}"));
        if let Err(error) = link.stream.set_read_timeout(Some(LOOK_EVERY)) {
            return failed(error.into());
        }
        let mut heard = Instant::now();
        let mut looked = heard;
        loop {
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if self.lock().stop {
                    return None;
                }
                self.expire();
                if self.is_unanswered_since(heard) {
                    route.has_failed();
                    route.go_on(self.addresses.len());
                    return failed(Broken::Protocol("no answer"));
                }
            }
            match reader.take() {
                Ok(Some(frame)) => {
                    heard = Instant::now();
                    let decoded = Answer::decode(payload(frame));
                    let Ok((id, answer)) = decoded else {
                        route.go_on(self.addresses.len());
                        return failed(Broken::Protocol("an answer that cannot be understood"));
                    };
                    if let (GOODBYE, Answer::Refused(why)) = (id, &answer) {
                        route.go_on(self.addresses.len());
                        return Some(format!("{address}: {}", why.message));
                    }
                    if let Some(primary) = self.take(id, answer, route) {
                        self.redirect(primary, route);
                        return None;
                    }
                    continue;
                }
                Ok(None) => self.send_due(link),
                Err(why) => return failed(why),
            }
            match reader.fill(&mut &link.stream) {
                Ok(()) => {}
                Err(Broken::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(why) => {
                    route.go_on(self.addresses.len());
                    return failed(why);
                }
            }
        }
    }

    /// Was asked something, and has said nothing since.
    fn is_unanswered_since(&self, heard: Instant) -> bool {
        let state = self.lock();
        let oldest = state.pending.values().filter_map(|pending| pending.sent).min();
        oldest.is_some_and(|sent| sent.max(heard).elapsed() >= SILENCE_MAX)
    }

    fn redirect(&self, primary: Option<ReplicaId>, route: &mut Route) {
        let known = primary.and_then(|primary| route.known.get(&primary)).copied();
        match known.filter(|at| *at != route.at && !route.has_failed_lately(*at)) {
            Some(at) => route.at = at,
            None => route.go_on(self.addresses.len()),
        }
    }

    /// Sends what was not sent on this connection, oldest first.
    fn send_due(&self, link: &Link) {
        // Held first: a caller that may write for itself from here on does so behind what is due.
        let one_at_a_time = link.lock();
        let mut state = self.lock();
        state.answering = false;
        loop {
            let frames = state.take_due();
            drop(state);
            if frames.is_empty() {
                return;
            }
            link.write(&frames, &one_at_a_time);
            state = self.lock();
        }
    }

    /// What an answer brings; `Some`: another replica is to be asked, perhaps this one.
    fn take(&self, id: u64, answer: Answer, route: &mut Route) -> Option<Option<ReplicaId>> {
        let mut state = self.lock();
        state.answering = true;
        // An answer to what was given up.
        let pending = state.pending.get_mut(&id)?;
        let was_sent = pending.sent.is_some();
        let verdict = pending.take(answer);
        match verdict {
            Verdict::More => None,
            Verdict::Done(done) => {
                let Some(pending) = state.pending.remove(&id) else { unreachable!("seen above") };
                state.on_their_way -= usize::from(was_sent);
                drop(state);
                route.in_vain = 0;
                pending.call.end(done);
                None
            }
            Verdict::Again => {
                state.on_their_way -= usize::from(was_sent);
                None
            }
            Verdict::Elsewhere(refusal) => {
                state.on_their_way -= usize::from(was_sent);
                Some(refusal.primary)
            }
        }
    }

    fn hang_up(&self, failure: Option<String>) {
        let mut state = self.lock();
        if let Some(link) = state.link.take() {
            let _gone_already = link.stream.shutdown(Shutdown::Both);
        }
        (state.on_their_way, state.answering) = (0, false);
        let mut ended = Vec::new();
        state.pending.retain(|_, pending| {
            let done = pending.lost(failure.as_deref());
            let stays = done.is_none();
            ended.extend(done.map(|done| (Arc::clone(&pending.call), done)));
            stays
        });
        if failure.is_some() {
            state.failure = failure;
        }
        drop(state);
        for (call, done) in ended {
            call.end(done);
        }
    }

    /// Ends the calls whose time is up.
    fn expire(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let late =
            |(id, pending): (&u64, &Pending)| pending.is_late(now, self.deadline).then_some(*id);
        let late: Vec<u64> = state.pending.iter().filter_map(late).collect();
        for id in late {
            let Some(pending) = state.pending.remove(&id) else { unreachable!("seen above") };
            state.on_their_way -= usize::from(pending.sent.is_some());
            let call = Arc::clone(&pending.call);
            call.end(pending.too_late(state.failure.as_deref()));
        }
    }
}
