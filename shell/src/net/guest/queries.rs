//! Queries of one client: a few at a time, each on a thread that they have for themselves.
//!
//! Invariants: at most `CLIENT_QUERIES_MAX` of a client run at the same time, `QUERIES_MAX` of all
//! clients, and `CLIENT_QUERIES_WAITING_MAX` of a client wait, at the cost of the budget that the
//! buffers share; what is beyond is refused, and may be asked again. A linearizable query runs
//! after a quorum has confirmed that this replica leads. A thread that has nothing to do for
//! `IDLE_MAX` ends.
//!
//! Fault model: queries that take for ever, answers that nobody reads, a lead that is lost.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use verity_core::ids::{IdempotencyId, TenantId};
use verity_core::kernel::{RequestError, RetryReason};
use verity_core::limits::{
    ANSWER_ROWS_BYTES, CLIENT_QUERIES_MAX, CLIENT_QUERIES_WAITING_MAX, LEAD_CONFIRM_NS, QUERIES_MAX,
};
use verity_core::node::{CommitmentRead, Read, ReadError};
use verity_core::query::Value;

use super::pacing::Turn;
use super::{Guest, PROGRESS_EVERY, answer_too_long, retry};
use crate::driver::Driver;
use crate::error::Error;
use crate::net::Broken;
use crate::net::budget::Charge;
use crate::net::payload::{Answer, Prove, Query, RowsPart};
use crate::stream::Head;

/// How long a query waits for this replica to reach what its client has seen, and between looks.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(2);
/// How long a query waits until fewer run, before it is refused.
const PERMIT_MAX: Duration = Duration::from_secs(2);
const IDLE_MAX: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Debug)]
pub(super) enum Job {
    Query(Query),
    Commitment { tenant: TenantId, of: IdempotencyId },
    Prove(Prove),
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    job: Job,
    _held: Charge,
}

#[derive(Debug, Default)]
pub(super) struct Queries {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Threads, and those of them that look for work.
    threads: usize,
    idle: usize,
    ended: bool,
}

impl Queries {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client is gone.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// The client is gone.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// What a thread does next; `None`: it ends.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.lock();
        state.idle += 1;
        let nothing = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let waited = self.changed.wait_timeout_while(state, IDLE_MAX, nothing);
        (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        let next = state.waiting.pop_front();
        state.threads -= usize::from(next.is_none());
        next
    }
}

/// How many queries of all clients run.
#[derive(Debug, Default)]
pub(super) struct Permits {
    running: Mutex<usize>,
    fewer: Condvar,
}

#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.fewer.notify_one();
    }
}

impl Permits {
    /// `None`: not in this time.
    pub fn take(&self, longest: Duration) -> Option<Permit<'_>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |running: &mut usize| *running >= QUERIES_MAX;
        let waited = self.fewer.wait_timeout_while(running, longest, full);
        let (mut running, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *running += 1;
        Some(Permit(self))
    }
}

impl Guest {
    /// Something of so many bytes is asked: it runs when its turn comes.
    pub(super) fn ask(self: &Arc<Guest>, id: u64, job: Job, bytes: usize) -> Result<(), Broken> {
        let held = Charge::of(&self.host.budget, bytes);
        let mut state = self.queries.lock();
        let room = state.waiting.len() < CLIENT_QUERIES_WAITING_MAX;
        let Some(_held) = held.filter(|_| room) else {
            drop(state);
            return self.refuse(id, &retry(RetryReason::QueueFull));
        };
        if let Job::Query(Query { window: 1.., .. }) = job {
            self.pace.begin(id);
        }
        state.waiting.push_back(Waiting { id, job, _held });
        if state.waiting.len() <= state.idle || state.threads == CLIENT_QUERIES_MAX {
            self.queries.changed.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let guest = Arc::clone(self);
        let thread = std::thread::Builder::new().name("verity-query".to_string());
        if let Err(error) = thread.spawn(move || guest.run_queries()) {
            self.queries.lock().threads -= 1;
            return Err(Broken::Io(error));
        }
        Ok(())
    }

    fn run_queries(&self) {
        while let Some(Waiting { id, job, _held }) = self.queries.next() {
            if self.run_job(id, &job).is_err() {
                self.hang_up();
            }
        }
    }

    fn run_job(&self, id: u64, job: &Job) -> Result<(), Broken> {
        let outcome = self.run_in_turn(id, job);
        self.pace.forget(id);
        outcome
    }

    fn run_in_turn(&self, id: u64, job: &Job) -> Result<(), Broken> {
        let mut progress = Progress { last: Instant::now() };
        let end = Instant::now() + PERMIT_MAX;
        let permit = loop {
            if let Some(permit) = self.host.permits.take(PROGRESS_EVERY) {
                break permit;
            }
            if Instant::now() >= end {
                return self.refuse(id, &retry(RetryReason::QueueFull));
            }
            progress.tell(self, id)?;
        };
        let mut turn = Turn::new(self, id, permit, progress);
        match job {
            Job::Query(query) => match self.query(id, query, &mut turn)? {
                Ok(()) => Ok(()),
                Err(error) => self.refuse(id, &error),
            },
            Job::Prove(asked) => match self.prove(id, asked, &mut turn.progress)? {
                Ok(()) => Ok(()),
                Err(error) => self.refuse(id, &error),
            },
            Job::Commitment { tenant, of } => {
                let mut read = CommitmentRead::new(*tenant, *of);
                let found = self.confirm_lead().and_then(|()| {
                    self.host.driver.read_commitment(&mut read)?;
                    read.finish().map_err(read_error)
                });
                match found {
                    Ok(Some(commitment)) => self.send(id, &Answer::Commitment(commitment)),
                    Ok(None) => self.send(id, &Answer::Unknown),
                    Err(error) => self.refuse(id, &error),
                }
            }
        }
    }

    /// Refuses what only the primary may answer: all that was acknowledged before this call is
    /// there to be read after it.
    pub(super) fn confirm_lead(&self) -> Result<(), Error> {
        if self.host.driver.confirm_lead(Duration::from_nanos(LEAD_CONFIRM_NS))? {
            return Ok(());
        }
        match self.host.me.replica_count {
            1 => Err(retry(RetryReason::NotReady)),
            _ => Err(retry(RetryReason::NotPrimary)),
        }
    }

    fn query(
        &self,
        id: u64,
        query: &Query,
        turn: &mut Turn<'_>,
    ) -> Result<Result<(), Error>, Broken> {
        if !query.anywhere
            && let Err(error) = self.confirm_lead()
        {
            return Ok(Err(error));
        }
        if let Err(error) = self.catch_up(id, query, &mut turn.progress)? {
            return Ok(Err(error));
        }
        let driver = &self.host.driver;
        let read = match query.returning {
            0 => Read::sql(query.tenant, &query.text, query.params.clone()),
            count => match self.returned(query, count) {
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            },
        };
        turn.within(query.window);
        let mut running = Running { driver, read: Some(read) };
        let mut rows = RowBuffer::default();
        loop {
            let Some(read) = &mut running.read else { unreachable!("taken at the end") };
            let ready = match driver.read_slice(read).and_then(|ready| turn.check().map(|()| ready))
            {
                Ok(ready) => ready,
                Err(error) => return Ok(Err(error)),
            };
            if ready {
                break;
            }
            for row in read.take_rows() {
                if let Some(full) = rows.push(row)
                    && let Err(error) = self.send_part(id, head_of(read), full, true, turn)?
                {
                    return Ok(Err(error));
                }
            }
            // Rows that are few and far between, too, go as they come.
            if turn.progress.is_due() && !rows.rows.is_empty() && turn.may_send() {
                let few = rows.take();
                if let Err(error) = self.send_part(id, head_of(read), few, true, turn)? {
                    return Ok(Err(error));
                }
            }
            turn.tell()?;
        }
        let Some(read) = running.read.take() else { unreachable!("taken once, here") };
        let head = head_of(&read);
        let result = match read.finish() {
            Ok(result) => result,
            Err(error) => return Ok(Err(read_error(error))),
        };
        for row in result.rows {
            if let Some(full) = rows.push(row)
                && let Err(error) = self.send_part(id, head.clone(), full, true, turn)?
            {
                return Ok(Err(error));
            }
        }
        self.send_part(id, head, rows.rows, false, turn)
    }

    /// The read of the rows that a write with RETURNING made, where so many records were the log.
    fn returned(&self, query: &Query, count: u64) -> Result<Read, Error> {
        let driver = &self.host.driver;
        let mut running = Running { driver, read: Some(Read::bind(query.tenant, &query.text)) };
        if let Some(read) = &mut running.read {
            driver.read(read)?;
        }
        let Some(read) = running.read.take() else { unreachable!("taken once, here") };
        let prepared = read.finish().map_err(read_error)?.prepared;
        let Some(returning) = prepared.returning.as_ref().filter(|_| prepared.is_write()) else {
            return Err(Error::WrongKind("the statement has no RETURNING"));
        };
        let mut params = query.params.clone();
        params.resize(usize::from(prepared.parameters), Value::Null);
        params.push(Value::Integer(i64::try_from(count - 1).unwrap_or(i64::MAX)));
        Ok(Read::prepared(query.tenant, Arc::clone(returning), params))
    }

    /// A part of an answer, when the client has room for it. The error within: a row that fits into
    /// no frame, or a client that wants no more; with it the answer ends.
    fn send_part(
        &self,
        id: u64,
        head: Option<Head>,
        rows: Vec<Vec<Value>>,
        more: bool,
        turn: &mut Turn<'_>,
    ) -> Result<Result<(), Error>, Broken> {
        if let Err(error) = turn.wait_for_client()? {
            return Ok(Err(error));
        }
        let head = head.filter(|_| turn.is_first());
        match Answer::Rows(RowsPart { head, rows, more }).encode(id) {
            Ok(frame) => {
                self.send_frame(&frame)?;
                turn.has_sent();
                Ok(Ok(()))
            }
            Err(too_long) => Ok(Err(answer_too_long(too_long.size))),
        }
    }

    /// Waits until this replica has what the client has seen.
    fn catch_up(
        &self,
        id: u64,
        query: &Query,
        progress: &mut Progress,
    ) -> Result<Result<(), Error>, Broken> {
        if query.seen == 0 {
            return Ok(Ok(()));
        }
        let end = Instant::now() + CATCH_UP_MAX;
        loop {
            match self.positions(query.tenant) {
                Ok(count) if count >= query.seen => return Ok(Ok(())),
                // The tenant may be one of those things.
                Ok(_) | Err(Error::Request(RequestError::TenantUnknown(_))) => {}
                Err(error) => return Ok(Err(error)),
            }
            if Instant::now() >= end {
                return Ok(Err(retry(RetryReason::NotReady)));
            }
            progress.tell(self, id)?;
            std::thread::sleep(CATCH_UP_PAUSE);
        }
    }

    fn positions(&self, tenant: TenantId) -> Result<u64, Error> {
        let driver = &self.host.driver;
        let mut running = Running { driver, read: Some(Read::sql(tenant, "SELECT 1", Vec::new())) };
        if let Some(read) = &mut running.read {
            driver.read(read)?;
        }
        let Some(read) = running.read.take() else { unreachable!("taken once, here") };
        Ok(read.finish().map_err(read_error)?.position.get() + 1)
    }
}

/// Says that something is being done, now and then.
pub(super) struct Progress {
    pub last: Instant,
}

impl Progress {
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= PROGRESS_EVERY
    }

    pub fn tell(&mut self, guest: &Guest, id: u64) -> Result<(), Broken> {
        if !self.is_due() {
            return Ok(());
        }
        self.last = Instant::now();
        guest.tell_progress(id)
    }
}

/// Rows until there are enough of them for a frame.
#[derive(Default)]
struct RowBuffer {
    rows: Vec<Vec<Value>>,
    bytes: usize,
}

impl RowBuffer {
    /// Adds a row; what was there before, when it is time to send it.
    fn push(&mut self, row: Vec<Value>) -> Option<Vec<Vec<Value>>> {
        let value = |value: &Value| size_of::<Value>() + value.heap_bytes();
        let bytes = size_of::<Vec<Value>>() + row.iter().map(value).sum::<usize>();
        let full = !self.rows.is_empty() && self.bytes + bytes > ANSWER_ROWS_BYTES;
        let part = full.then(|| self.take());
        self.bytes += bytes;
        self.rows.push(row);
        part
    }

    fn take(&mut self) -> Vec<Vec<Value>> {
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }
}

/// What goes with the first part.
fn head_of(read: &Read) -> Option<Head> {
    let (prepared, position, asked) = read.begun()?;
    let columns = prepared.columns.iter().map(|column| column.name.clone()).collect();
    Some(Head { columns, position, asked })
}

/// A read that is cancelled when it is given up.
struct Running<'a> {
    driver: &'a Driver,
    read: Option<Read>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(read) = &mut self.read {
            self.driver.cancel(read);
        }
    }
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Sql(error) => Error::Request(RequestError::Sql(error)),
        ReadError::TenantUnknown(tenant) => Error::Request(RequestError::TenantUnknown(tenant)),
        ReadError::NotReady => retry(RetryReason::NotReady),
        error @ (ReadError::Store(_) | ReadError::Log(_)) => Error::Unreadable(error.to_string()),
    }
}
