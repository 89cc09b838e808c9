//! One call: where its caller waits, and what the agent knows of it.
//!
//! Invariant: what an earlier try may have done is never denied. When one may have been applied and
//! a later one is refused, the refusal is of that try alone: the id is looked up, and what is on
//! record is the answer; when nothing is, nobody knows. A write without an id is sent once. Of a
//! stream of rows no more than `STREAM_WINDOW` parts wait here, whatever the server sends; from its
//! first part on it is not asked for again, for rows of two tries must not mix.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use verity_core::ids::{IdempotencyId, TenantId};
use verity_core::kernel::{Commitment, Reply, RequestError, RetryReason};
use verity_core::limits::PROOF_SERVED_BYTES_MAX;
use verity_core::query::Value;

use crate::database::Rows;
use crate::error::Error;
use crate::net::payload::{Answer, Ask, Asked, ProofPart, Refusal, Retry, RowsPart};
use crate::stream::Head;

/// Parts of a stream that are on their way or wait to be taken: each is a frame.
pub const STREAM_WINDOW: u32 = 4;

/// Before a request is sent again to the same server: doubled from the first to the last.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(5);
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(320);

/// How a call ended.
#[derive(Debug)]
pub enum Done {
    Answer(Answer),
    Rows(Rows),
    /// Of a stream: all of its parts were given.
    Streamed,
    Failed(Error),
}

/// What the caller of a stream gets.
#[derive(Debug)]
pub enum Next {
    Part(RowsPart),
    Done(Done),
}

/// Ended once, by the agent; taken once, by the caller.
#[derive(Debug)]
pub struct Call {
    /// What its answers repeat.
    pub number: u64,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    /// Of a stream, in order; they come before the end.
    parts: VecDeque<RowsPart>,
    /// Of a stream: parts that the caller took, and when one last came or went.
    taken: u32,
    moved: Instant,
    done: Option<Done>,
    waker: Option<Waker>,
}

impl State {
    fn next(&mut self) -> Option<Next> {
        let Some(part) = self.parts.pop_front() else { return self.done.take().map(Next::Done) };
        (self.taken, self.moved) = (self.taken.saturating_add(1), Instant::now());
        Some(Next::Part(part))
    }
}

impl Call {
    pub fn new(number: u64) -> Call {
        let (parts, moved) = (VecDeque::new(), Instant::now());
        let state = State { parts, taken: 0, moved, done: None, waker: None };
        Call { number, state: Mutex::new(state), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn end(&self, done: Done) {
        let mut state = self.lock();
        state.done = Some(done);
        let waker = state.waker.take();
        drop(state);
        self.ended.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// False: the server sends more than it was asked for.
    fn push(&self, part: RowsPart) -> bool {
        let mut state = self.lock();
        if state.parts.len() >= STREAM_WINDOW as usize {
            return false;
        }
        state.parts.push_back(part);
        state.moved = Instant::now();
        let waker = state.waker.take();
        drop(state);
        self.ended.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Parts of a stream that the caller took.
    pub fn taken(&self) -> u32 {
        self.lock().taken
    }

    /// How long a stream has been without a part for its caller.
    fn idle_for(&self) -> Duration {
        let state = self.lock();
        if state.parts.is_empty() { state.moved.elapsed() } else { Duration::ZERO }
    }

    /// As [`Call::wait_until`], of a stream.
    pub fn next_until(&self, end: Instant) -> Option<Next> {
        let waiting = |state: &mut State| state.done.is_none() && state.parts.is_empty();
        let left = end.saturating_duration_since(Instant::now());
        let ended = self.ended.wait_timeout_while(self.lock(), left, waiting);
        let (mut state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        state.next()
    }

    /// As [`Call::poll`], of a stream.
    pub fn poll_next(&self, waker: &Waker) -> Option<Next> {
        let mut state = self.lock();
        let next = state.next();
        if next.is_none() {
            state.waker = Some(waker.clone());
        }
        next
    }

    /// `None`: not by this moment.
    pub fn wait_until(&self, end: Instant) -> Option<Done> {
        let waiting = |state: &mut State| state.done.is_none();
        let left = end.saturating_duration_since(Instant::now());
        let ended = self.ended.wait_timeout_while(self.lock(), left, waiting);
        let (mut state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        state.done.take()
    }

    pub fn poll(&self, waker: &Waker) -> Option<Done> {
        let mut state = self.lock();
        let done = state.done.take();
        if done.is_none() {
            state.waker = Some(waker.clone());
        }
        done
    }
}

/// A call that has not ended.
#[derive(Debug)]
pub struct Pending {
    pub frame: Arc<Vec<u8>>,
    pub call: Arc<Call>,
    deadline: Instant,
    /// On the connection of now, and when.
    pub sent: Option<Instant>,
    /// Not to be sent again before.
    pub not_before: Option<Instant>,
    kind: Kind,
    /// A try of a write may have been done, and nobody said.
    unknown: bool,
    refused: Option<Refusal>,
    /// What is asked now is what became of the id, because of this refusal.
    looking_up: Option<Refusal>,
    /// Refused, to be sent again here, so often in a row.
    again: u32,
    head: Option<Head>,
    rows: Vec<Vec<Value>>,
    /// Of a proof, as far as it has come.
    file: Vec<u8>,
}

/// What a call is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Write(Write),
    /// Answered once, or gathered.
    Read,
    /// Its parts go to the caller as they come; of this one some have.
    Stream {
        begun: bool,
    },
}

/// Which write a call is.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub tenant: TenantId,
    pub id: IdempotencyId,
}

/// What an answer means for its call.
#[derive(Debug)]
pub enum Verdict {
    Done(Done),
    /// More of the answer follows.
    More,
    /// Again, here.
    Again,
    /// Again, at another replica.
    Elsewhere(Refusal),
}

impl Pending {
    pub fn new(frame: Vec<u8>, call: Arc<Call>, deadline: Instant, kind: Kind) -> Pending {
        Pending {
            frame: Arc::new(frame),
            call,
            deadline,
            sent: None,
            not_before: None,
            kind,
            unknown: false,
            refused: None,
            looking_up: None,
            again: 0,
            head: None,
            rows: Vec::new(),
            file: Vec::new(),
        }
    }

    /// The connection is gone. Some: so is the call, for it must not be sent again.
    pub fn lost(&mut self, why: Option<&str>) -> Option<Done> {
        self.sent.take()?;
        self.forget_parts();
        let why = why.unwrap_or("the connection was lost");
        match self.kind {
            Kind::Write(write) => {
                self.unknown = true;
                write.id.is_none().then(|| outcome_unknown(write, why))
            }
            Kind::Stream { begun: true } => {
                Some(Done::Failed(Error::RowsCut { why: why.to_string() }))
            }
            Kind::Read | Kind::Stream { begun: false } => None,
        }
    }

    /// Whether its time is up: of a stream that has begun, whether nothing came for so long.
    pub fn is_late(&self, now: Instant, longest: Duration) -> bool {
        match self.kind {
            Kind::Stream { begun: true } => self.call.idle_for() >= longest,
            Kind::Write(_) | Kind::Read | Kind::Stream { begun: false } => self.deadline <= now,
        }
    }

    fn write(&self) -> Option<Write> {
        match self.kind {
            Kind::Write(write) => Some(write),
            Kind::Read | Kind::Stream { .. } => None,
        }
    }

    pub fn take(&mut self, answer: Answer) -> Verdict {
        if !matches!(answer, Answer::Rows(_) | Answer::Refused(_))
            && let (Some(refusal), Some(write)) = (&self.looking_up, self.write())
        {
            return Verdict::Done(match answer {
                Answer::Commitment(found) => on_record(found),
                answer => {
                    tracing::debug!("of the id of a refused write it was said: {answer:?}");
                    outcome_unknown(write, &refusal.message)
                }
            });
        }
        match answer {
            Answer::Rows(part) => self.take_rows(part),
            Answer::Refused(refusal) => {
                self.sent = None;
                self.forget_parts();
                self.refuse(refusal)
            }
            Answer::Proof(part) => self.take_part(part),
            answer @ (Answer::Reply(_)
            | Answer::Commitment(_)
            | Answer::Unknown
            | Answer::Status(_)) => Verdict::Done(Done::Answer(answer)),
        }
    }

    fn take_rows(&mut self, part: RowsPart) -> Verdict {
        if part.is_sign_of_life() {
            return Verdict::More;
        }
        let begun = match self.kind {
            Kind::Write(_) | Kind::Read => self.head.is_some(),
            Kind::Stream { begun } => begun,
        };
        if part.head.is_some() == begun {
            return unfit("parts of two answers");
        }
        let more = part.more;
        if let Kind::Stream { begun } = &mut self.kind {
            *begun = true;
            return match (self.call.push(part), more) {
                (false, _) => unfit("more rows than it was asked for"),
                (true, true) => Verdict::More,
                (true, false) => Verdict::Done(Done::Streamed),
            };
        }
        let RowsPart { head, mut rows, .. } = part;
        self.head = self.head.take().or(head);
        self.rows.append(&mut rows);
        if more {
            return Verdict::More;
        }
        let rows = std::mem::take(&mut self.rows);
        let Head { columns, position, asked } = self.head.take().unwrap_or_default();
        Verdict::Done(Done::Rows(Rows { columns, rows, position, asked }))
    }

    /// What came of an answer that will be given anew.
    fn forget_parts(&mut self) {
        self.head = None;
        self.rows.clear();
        self.file.clear();
    }

    fn take_part(&mut self, part: ProofPart) -> Verdict {
        if self.file.len() + part.file.len() > PROOF_SERVED_BYTES_MAX {
            return unfit("more than a proof may have");
        }
        self.file.extend_from_slice(&part.file);
        if part.more {
            return Verdict::More;
        }
        let file = std::mem::take(&mut self.file);
        Verdict::Done(Done::Answer(Answer::Proof(ProofPart { file, ..part })))
    }

    fn refuse(&mut self, refusal: Refusal) -> Verdict {
        if let Kind::Stream { begun: true } = self.kind {
            return Verdict::Done(Done::Failed(to_error(refusal)));
        }
        let next = what_next(&refusal);
        if let (Retry::ById, Some(write)) = (next, self.write()) {
            self.unknown = true;
            if write.id.is_none() {
                return Verdict::Done(outcome_unknown(write, &refusal.message));
            }
        }
        match (next, self.write()) {
            // Of the question what became of it.
            (Retry::Never, Some(write)) if self.looking_up.is_some() => {
                Verdict::Done(outcome_unknown(write, &refusal.message))
            }
            (Retry::Never, Some(write)) if self.unknown && !denies_for_good(&refusal) => {
                self.look_up(write, refusal)
            }
            (Retry::Never, _) => Verdict::Done(Done::Failed(to_error(refusal))),
            (Retry::Same, _) => {
                let pause = AGAIN_AFTER_MIN * 2_u32.saturating_pow(self.again.min(16));
                self.not_before = Some(Instant::now() + pause.min(AGAIN_AFTER_MAX));
                self.again += 1;
                self.refused = Some(refusal);
                Verdict::Again
            }
            (Retry::Elsewhere | Retry::ById, _) => {
                self.refused = Some(refusal.clone());
                Verdict::Elsewhere(refusal)
            }
        }
    }

    /// From now on what became of the id is asked instead.
    fn look_up(&mut self, write: Write, refusal: Refusal) -> Verdict {
        let ask = Ask::Commitment { tenant: write.tenant, id: write.id };
        let Ok(frame) = (Asked { id: self.call.number, ask }).encode() else {
            unreachable!("it is short")
        };
        self.frame = Arc::new(frame);
        (self.looking_up, self.not_before) = (Some(refusal), None);
        Verdict::Again
    }

    /// Its time is up.
    pub fn too_late(self, why: Option<&str>) -> Done {
        if let Kind::Stream { begun: true } = self.kind {
            let why = "no more of them came in time".to_string();
            return Done::Failed(Error::RowsCut { why });
        }
        let write = self.write();
        let refused = self.looking_up.or(self.refused);
        let why = match (&refused, why) {
            (Some(refusal), _) => refusal.message.clone(),
            (None, Some(why)) => why.to_string(),
            (None, None) => "no replica answered in time".to_string(),
        };
        match (write, refused) {
            (Some(write), _) if self.unknown || self.sent.is_some() => outcome_unknown(write, &why),
            (_, Some(refusal)) => Done::Failed(to_error(refusal)),
            (_, None) => Done::Failed(Error::Unreachable { why }),
        }
    }
}

/// A server that does not keep to the protocol.
fn unfit(what: &str) -> Verdict {
    let why = format!("the server sends {what}");
    Verdict::Done(Done::Failed(Error::Unreachable { why }))
}

fn outcome_unknown(write: Write, why: &str) -> Done {
    Done::Failed(Error::OutcomeUnknown { id: write.id, why: why.to_string() })
}

/// What the first try that was applied was answered with. That it asked the same is for sure: the
/// id of another body would have been refused as such.
fn on_record(found: Commitment) -> Done {
    match found.outcome.result {
        Ok(results) => Done::Answer(Answer::Reply(Reply {
            op: found.op,
            timestamp: found.time,
            position: Some(found.position),
            results,
            replayed: true,
        })),
        Err(error) => Done::Failed(Error::Request(error)),
    }
}

/// A refusal which says that no try of this write was or will be applied: its id is another's.
fn denies_for_good(refusal: &Refusal) -> bool {
    matches!(refusal.typed(), Some(RequestError::IdempotencyReused { .. }))
}

/// Some of what may succeed later is for the caller to judge: a full disk, a full grid, an order
/// that is not met.
fn what_next(refusal: &Refusal) -> Retry {
    match (refusal.retry, refusal.typed()) {
        (Retry::Same, Some(RequestError::Retry(reason))) => match reason {
            RetryReason::DiskFull => Retry::Never,
            RetryReason::SchemaChanged
            | RetryReason::QueueFull
            | RetryReason::NotReady
            | RetryReason::CheckpointBehind
            | RetryReason::NotPrimary
            | RetryReason::Interrupted => Retry::Same,
        },
        (Retry::Same, Some(RequestError::Sql(_))) => Retry::Same,
        (Retry::Same, Some(_)) => Retry::Never,
        (retry, _) => retry,
    }
}

fn to_error(refusal: Refusal) -> Error {
    match refusal.typed() {
        Some(error) => Error::Request(error),
        None => Error::Server { sqlstate: refusal.sqlstate, message: refusal.message },
    }
}
