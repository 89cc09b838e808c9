//! One call: where its caller waits, and what the agent knows of it.
//!
//! Invariant: what an earlier try may have done is never denied. When one may have been applied and
//! a later one is refused, the refusal is of that try alone: the id is looked up, and what is on
//! record is the answer; when nothing is, nobody knows. A write without an id is sent once.

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

/// Before a request is sent again to the same server: doubled from the first to the last.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(5);
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(320);

/// How a call ended.
#[derive(Debug)]
pub enum Done {
    Answer(Answer),
    Rows(Rows),
    Failed(Error),
}

/// Ended once, by the agent; taken once, by the caller.
#[derive(Debug, Default)]
pub struct Call {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: Option<Done>,
    waker: Option<Waker>,
}

impl Call {
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
    pub deadline: Instant,
    /// On the connection of now, and when.
    pub sent: Option<Instant>,
    /// Not to be sent again before.
    pub not_before: Option<Instant>,
    /// What its answers repeat.
    number: u64,
    write: Option<Write>,
    /// A try of a write may have been done, and nobody said.
    unknown: bool,
    refused: Option<Refusal>,
    /// What is asked now is what became of the id, because of this refusal.
    looking_up: Option<Refusal>,
    /// Refused, to be sent again here, so often in a row.
    again: u32,
    rows: Vec<Vec<Value>>,
    /// Of a proof, as far as it has come.
    file: Vec<u8>,
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
    pub fn new(
        number: u64,
        frame: Vec<u8>,
        call: Arc<Call>,
        deadline: Instant,
        write: Option<Write>,
    ) -> Pending {
        Pending {
            frame: Arc::new(frame),
            call,
            deadline,
            sent: None,
            not_before: None,
            number,
            write,
            unknown: false,
            refused: None,
            looking_up: None,
            again: 0,
            rows: Vec::new(),
            file: Vec::new(),
        }
    }

    /// The connection is gone. Some: so is the call, for it must not be sent again.
    pub fn lost(&mut self, why: Option<&str>) -> Option<Done> {
        self.sent.take()?;
        self.forget_parts();
        let write = self.write?;
        self.unknown = true;
        let why = why.unwrap_or("the connection was lost");
        write.id.is_none().then(|| outcome_unknown(write, why))
    }

    pub fn take(&mut self, answer: Answer) -> Verdict {
        if !matches!(answer, Answer::Rows(_) | Answer::Refused(_))
            && let (Some(refusal), Some(write)) = (&self.looking_up, self.write)
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
            Answer::Rows(RowsPart { mut rows, more, columns, position, asked }) => {
                self.rows.append(&mut rows);
                if more {
                    return Verdict::More;
                }
                let rows = std::mem::take(&mut self.rows);
                Verdict::Done(Done::Rows(Rows { columns, rows, position, asked }))
            }
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

    /// What came of an answer that will be given anew.
    fn forget_parts(&mut self) {
        self.rows.clear();
        self.file.clear();
    }

    fn take_part(&mut self, part: ProofPart) -> Verdict {
        if self.file.len() + part.file.len() > PROOF_SERVED_BYTES_MAX {
            let why = "the server sends more than a proof may have".to_string();
            return Verdict::Done(Done::Failed(Error::Unreachable { why }));
        }
        self.file.extend_from_slice(&part.file);
        if part.more {
            return Verdict::More;
        }
        let file = std::mem::take(&mut self.file);
        Verdict::Done(Done::Answer(Answer::Proof(ProofPart { file, ..part })))
    }

    fn refuse(&mut self, refusal: Refusal) -> Verdict {
        let next = what_next(&refusal);
        if let (Retry::ById, Some(write)) = (next, self.write) {
            self.unknown = true;
            if write.id.is_none() {
                return Verdict::Done(outcome_unknown(write, &refusal.message));
            }
        }
        match (next, self.write) {
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
        let Ok(frame) = (Asked { id: self.number, ask }).encode() else {
            unreachable!("it is short")
        };
        self.frame = Arc::new(frame);
        (self.looking_up, self.not_before) = (Some(refusal), None);
        Verdict::Again
    }

    /// Its time is up.
    pub fn too_late(self, why: Option<&str>) -> Done {
        let refused = self.looking_up.or(self.refused);
        let why = match (&refused, why) {
            (Some(refusal), _) => refusal.message.clone(),
            (None, Some(why)) => why.to_string(),
            (None, None) => "no replica answered in time".to_string(),
        };
        match (self.write, refused) {
            (Some(write), _) if self.unknown || self.sent.is_some() => outcome_unknown(write, &why),
            (_, Some(refusal)) => Done::Failed(to_error(refusal)),
            (_, None) => Done::Failed(Error::Unreachable { why }),
        }
    }
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
