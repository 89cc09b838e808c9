//! One call: where its caller waits, and what the agent knows of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use verity_core::ids::IdempotencyId;
use verity_core::kernel::{RequestError, RetryReason};
use verity_core::query::Value;

use crate::database::Rows;
use crate::error::Error;
use crate::net::payload::{Answer, Refusal, Retry, RowsPart};

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

    pub fn wait(&self) -> Done {
        let waiting = |state: &mut State| state.done.is_none();
        let ended = self.ended.wait_while(self.lock(), waiting);
        let mut state = ended.unwrap_or_else(PoisonError::into_inner);
        let Some(done) = state.done.take() else { unreachable!("waited for") };
        done
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
    /// Of a write.
    pub id: Option<IdempotencyId>,
    /// A try of a write may have been done, and nobody said.
    pub unknown: bool,
    pub refused: Option<Refusal>,
    pub rows: Vec<Vec<Value>>,
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
        frame: Vec<u8>,
        call: Arc<Call>,
        deadline: Instant,
        id: Option<IdempotencyId>,
    ) -> Pending {
        Pending {
            frame: Arc::new(frame),
            call,
            deadline,
            sent: None,
            not_before: None,
            id,
            unknown: false,
            refused: None,
            rows: Vec::new(),
        }
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        if self.sent.take().is_some() {
            self.unknown |= self.id.is_some();
            self.rows.clear();
        }
    }

    pub fn take(&mut self, answer: Answer) -> Verdict {
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
                self.rows.clear();
                self.unknown |= refusal.retry == Retry::ById && self.id.is_some();
                match what_next(&refusal) {
                    Retry::Never => Verdict::Done(Done::Failed(to_error(refusal))),
                    Retry::Same => {
                        self.refused = Some(refusal);
                        Verdict::Again
                    }
                    Retry::Elsewhere | Retry::ById => {
                        self.refused = Some(refusal.clone());
                        Verdict::Elsewhere(refusal)
                    }
                }
            }
            answer @ (Answer::Reply(_)
            | Answer::Commitment(_)
            | Answer::Unknown
            | Answer::Status(_)) => Verdict::Done(Done::Answer(answer)),
        }
    }

    /// Its time is up.
    pub fn too_late(self, why: Option<&str>) -> Done {
        let why = match (&self.refused, why) {
            (Some(refusal), _) => refusal.message.clone(),
            (None, Some(why)) => why.to_string(),
            (None, None) => "no replica answered in time".to_string(),
        };
        Done::Failed(match (self.id, self.refused) {
            (Some(id), _) if self.unknown || self.sent.is_some() => {
                Error::OutcomeUnknown { id, why }
            }
            (_, Some(refusal)) => to_error(refusal),
            (_, None) => Error::Unreachable { why },
        })
    }
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
