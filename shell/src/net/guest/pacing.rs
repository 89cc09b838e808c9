//! How far an answer may run ahead of its client: queries with a window.
//!
//! Invariants: of such a query no more parts were sent and not taken than its window has; a query
//! that waits for its client holds none of the permits of those that run, and says that it lives. A
//! number that was not begun, or has ended, is remembered by nothing: what is said of it is
//! ignored.
//!
//! Fault model: a client that takes nothing for `PAUSE_MAX`, that says what is not so (it gets at
//! most what it would have got without a window), or goes away.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use verity_core::kernel::RetryReason;

use super::queries::{Permit, Progress};
use super::{Guest, PROGRESS_EVERY, retry};
use crate::error::Error;
use crate::net::Broken;

/// Who takes no part of an answer for so long gets no more of it: people read in between.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Of one client, by the numbers of its queries.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeMap<u64, Taken>,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    parts: u32,
    cancelled: bool,
}

/// What a query that wants to send may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Send,
    Wait,
    /// Nobody wants it.
    End,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, id: u64) {
        self.lock().taken.insert(id, Taken::default());
    }

    pub fn forget(&self, id: u64) {
        self.lock().taken.remove(&id);
    }

    pub fn taken(&self, id: u64, parts: u32) {
        if let Some(taken) = self.lock().taken.get_mut(&id) {
            taken.parts = taken.parts.max(parts);
            self.moved.notify_all();
        }
    }

    pub fn cancel(&self, id: u64) {
        if let Some(taken) = self.lock().taken.get_mut(&id) {
            taken.cancelled = true;
            self.moved.notify_all();
        }
    }

    /// The client is gone.
    pub fn end(&self) {
        self.lock().ended = true;
        self.moved.notify_all();
    }

    /// Whether a query that has sent so many parts may send one more, looked at until it may or so
    /// long.
    fn wait(&self, id: u64, sent: u32, window: u32, longest: Duration) -> May {
        let may = |state: &State| {
            // Another request with the same number has ended.
            let taken = state.taken.get(&id).copied().unwrap_or_default();
            match (taken.cancelled || state.ended, sent.saturating_sub(taken.parts) < window) {
                (true, _) => May::End,
                (false, true) => May::Send,
                (false, false) => May::Wait,
            }
        };
        let waited =
            self.moved.wait_timeout_while(self.lock(), longest, |state| may(state) == May::Wait);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        may(&state)
    }
}

/// The turn of a query that runs, and how far it has come.
pub(super) struct Turn<'a> {
    guest: &'a Guest,
    id: u64,
    /// 0: none.
    window: u32,
    sent: u32,
    permit: Option<Permit<'a>>,
    pub progress: Progress,
}

impl<'a> Turn<'a> {
    pub fn new(guest: &'a Guest, id: u64, permit: Permit<'a>, progress: Progress) -> Turn<'a> {
        Turn { guest, id, window: 0, sent: 0, permit: Some(permit), progress }
    }

    pub fn within(&mut self, window: u32) {
        self.window = window;
    }

    pub fn tell(&mut self) -> Result<(), Broken> {
        self.progress.tell(self.guest, self.id)
    }

    pub fn is_first(&self) -> bool {
        self.sent == 0
    }

    pub fn has_sent(&mut self) {
        self.sent = self.sent.saturating_add(1);
        self.progress.last = Instant::now();
    }

    /// Whether a part may be sent at once.
    pub fn may_send(&self) -> bool {
        self.window == 0
            || self.guest.pace.wait(self.id, self.sent, self.window, Duration::ZERO) == May::Send
    }

    /// Refuses to go on with what nobody wants any more.
    pub fn check(&self) -> Result<(), Error> {
        let (sent, window) = (self.sent, self.window);
        if window > 0 && self.guest.pace.wait(self.id, sent, window, Duration::ZERO) == May::End {
            return Err(cancelled("the client wants no more of it"));
        }
        Ok(())
    }

    /// Waits until a part may be sent.
    pub fn wait_for_client(&mut self) -> Result<Result<(), Error>, Broken> {
        if self.window == 0 {
            return Ok(Ok(()));
        }
        let end = Instant::now() + PAUSE_MAX;
        loop {
            let (sent, window) = (self.sent, self.window);
            match self.guest.pace.wait(self.id, sent, window, PROGRESS_EVERY) {
                May::Send => break,
                May::Wait => {}
                May::End => return Ok(Err(cancelled("the client wants no more of it"))),
            }
            // Others may run meanwhile.
            self.permit = None;
            if Instant::now() >= end {
                return Ok(Err(cancelled("the client took nothing of it for 10 minutes")));
            }
            self.tell()?;
        }
        while self.permit.is_none() {
            self.permit = self.guest.host.permits.take(PROGRESS_EVERY);
            if Instant::now() >= end {
                return Ok(Err(retry(RetryReason::QueueFull)));
            }
            self.tell()?;
        }
        Ok(Ok(()))
    }
}

fn cancelled(why: &str) -> Error {
    Error::RowsCut { why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_query_counts_while_it_runs() {
        let (pace, at_once) = (Pace::default(), Duration::ZERO);
        let may = |sent| pace.wait(7, sent, 2, at_once);
        pace.taken(7, 9);
        assert_eq!((may(1), may(2)), (May::Send, May::Wait));
        pace.begin(7);
        assert_eq!(may(2), May::Wait);
        pace.taken(7, 1);
        // It cannot take back what it took.
        pace.taken(7, 0);
        assert_eq!((may(2), may(3)), (May::Send, May::Wait));
        pace.taken(7, u32::MAX);
        assert_eq!(may(u32::MAX), May::Send);
        pace.cancel(8);
        assert_eq!(may(2), May::Send);
        pace.cancel(7);
        assert_eq!(may(0), May::End);
        pace.forget(7);
        assert_eq!(may(0), May::Send);
        pace.end();
        assert_eq!(may(0), May::End);
    }
}
