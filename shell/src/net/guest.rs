//! One client that is served: requests in, answers out, in any order.
//!
//! Two threads. This one reads, submits writes, and runs reads; the other answers writes when they
//! commit. Invariants: every request that was understood is answered once, or the connection ends.
//! At most `CLIENT_REQUESTS_MAX` writes wait; then no more is read. A query says at least every
//! `PROGRESS_EVERY` that it is being worked on, so that a silent server is a dead one.
//!
//! Fault model: a client that sends anything, reads nothing, or goes away at any moment. A message
//! that cannot be understood ends the connection.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use verity_core::ids::{ReplicaId, TenantId};
use verity_core::kernel::{Request, RequestError, RetryReason};
use verity_core::limits::{ANSWER_ROWS_BYTES, CLIENT_REQUESTS_MAX, FRAME_PAYLOAD_SIZE_MAX};
use verity_core::node::{CommitmentRead, Node, Read, ReadError, Status};
use verity_core::query::Value;
use verity_core::vsr::replica::Phase;
use verity_core::wire::hello::Hello;

use super::Broken;
use super::frames::{FrameReader, payload};
use super::links::Links;
use super::payload::{
    Answer, Ask, Asked, LinkReport, Query, Refusal, ReplicaReport, Retry, RowsPart,
};
use crate::driver::{Driver, Slot};
use crate::error::Error;

/// Who does not take its answers for so long is let go.
const WRITE_MAX: Duration = Duration::from_secs(10);
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long a query waits for this replica to reach what its client has seen, and between looks.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(2);

/// What serves all clients of one replica.
#[derive(Debug)]
pub struct Host {
    pub me: Hello,
    pub driver: Arc<Driver>,
    pub links: Arc<Links>,
}

impl Host {
    /// Who leads, as far as this replica knows.
    fn primary(&self) -> Option<ReplicaId> {
        self.driver.with_node(|node| {
            let status = node.status()?;
            primary_of(&status, self.me.replica_count)
        })
    }

    fn report(&self) -> ReplicaReport {
        let (status, ready) = self.driver.with_node(|node| (node.status(), node.is_ready()));
        let links = (0..).zip(self.links.status()).filter_map(|(number, link)| {
            let link = link?;
            let replica = ReplicaId::new(number);
            Some(LinkReport { replica, connected: link.connected, dropped: link.dropped })
        });
        let mut report = ReplicaReport {
            cluster: self.me.cluster,
            replica: self.me.from.unwrap_or_default(),
            replica_count: self.me.replica_count,
            release: self.me.release,
            phase: "opening".to_string(),
            view: Default::default(),
            primary: None,
            op: Default::default(),
            commit: Default::default(),
            applied: Default::default(),
            checkpoint: Default::default(),
            generation: Default::default(),
            missing: None,
            free_bytes: None,
            links: links.collect(),
        };
        let Some(status) = status else { return report };
        report.phase = phase_of(&status, ready).to_string();
        report.primary = primary_of(&status, self.me.replica_count);
        report.view = status.view;
        report.op = status.op;
        report.commit = status.commit;
        report.applied = status.applied;
        report.checkpoint = status.checkpoint;
        report.generation = status.generation;
        report.missing = status.replica_status.and_then(|replica| replica.missing);
        report.free_bytes = status.free_bytes;
        report
    }
}

fn phase_of(status: &Status, ready: bool) -> &'static str {
    if status.halted.is_some() {
        return "stopped";
    }
    match status.replica_status {
        None if ready => "primary",
        None => "opening",
        Some(replica) => match replica.phase {
            Phase::Recovering => "recovering",
            Phase::Boot => "boot",
            Phase::ViewChange => "view change",
            Phase::Normal if ready => "primary",
            Phase::Normal if replica.primary => "taking the lead",
            Phase::Normal => "following",
            Phase::Failed => "failed",
        },
    }
}

fn primary_of(status: &Status, replica_count: u8) -> Option<ReplicaId> {
    match status.replica_status {
        None => status.ready.then_some(status.replica),
        Some(replica) if replica.phase == Phase::Normal => {
            let number = replica.view.get() % u64::from(replica_count);
            u8::try_from(number).ok().map(ReplicaId::new)
        }
        Some(_) => None,
    }
}

/// What the two threads of a connection share.
#[derive(Debug)]
struct Guest {
    host: Arc<Host>,
    stream: TcpStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
    /// Writes that were submitted and not answered.
    waiting: Mutex<usize>,
    fewer: Condvar,
}

/// A write that was submitted.
struct Submitted {
    id: u64,
    slot: Arc<Slot>,
    done: Sender<Arc<Submitted>>,
}

impl Wake for Submitted {
    fn wake(self: Arc<Self>) {
        // When nobody listens any more, nobody waits for it either.
        let _nobody_listens = self.done.clone().send(self);
    }
}

/// Serves until the connection ends.
pub fn serve(host: Arc<Host>, stream: &TcpStream, mut reader: FrameReader) -> Result<(), Broken> {
    reader.allow(FRAME_PAYLOAD_SIZE_MAX);
    let mut from = stream;
    from.set_read_timeout(None)?;
    from.set_write_timeout(Some(WRITE_MAX))?;
    let (writing, waiting) = (Mutex::default(), Mutex::default());
    let stream = stream.try_clone()?;
    let guest = Arc::new(Guest { host, stream, writing, waiting, fewer: Condvar::new() });
    let (done, answered) = channel();
    let answering = Arc::clone(&guest);
    let name = "verity-answers".to_string();
    std::thread::Builder::new().name(name).spawn(move || answering.answer_writes(&answered))?;
    loop {
        let frame = reader.next(&mut from)?;
        let asked = Asked::decode(payload(frame))
            .map_err(|_| Broken::Protocol("a request that cannot be understood"))?;
        guest.take(asked, &done)?;
    }
}

impl Guest {
    fn send(&self, id: u64, answer: &Answer) -> Result<(), Broken> {
        let frame = match answer.encode(id) {
            Ok(frame) => frame,
            Err(too_long) => {
                let max = FRAME_PAYLOAD_SIZE_MAX;
                let error = RequestError::TooLarge { size: too_long.size, max };
                let Ok(frame) = Answer::Refused(Refusal::of(&error, None)).encode(id) else {
                    unreachable!("a refusal is short")
                };
                frame
            }
        };
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.stream).write_all(&frame)?;
        Ok(())
    }

    fn refuse(&self, id: u64, error: &Error) -> Result<(), Broken> {
        self.send(id, &Answer::Refused(self.refusal(error)))
    }

    fn refusal(&self, error: &Error) -> Refusal {
        if let Error::Request(error) = error {
            let elsewhere = matches!(
                error,
                RequestError::Retry(
                    RetryReason::NotPrimary | RetryReason::NotReady | RetryReason::Interrupted
                )
            );
            return Refusal::of(error, elsewhere.then(|| self.host.primary()).flatten());
        }
        // A node that stopped may have done what it was asked.
        let stopped = matches!(error, Error::Halted { .. } | Error::Closed);
        Refusal {
            sqlstate: error.sqlstate().to_string(),
            message: error.to_string(),
            retry: if stopped { Retry::ById } else { Retry::Never },
            primary: None,
            facts: Vec::new(),
        }
    }

    fn take(&self, asked: Asked, done: &Sender<Arc<Submitted>>) -> Result<(), Broken> {
        let Asked { id, ask } = asked;
        match ask {
            Ask::Execute(request) => self.execute(id, request, done),
            Ask::Query(query) => match self.query(id, &query)? {
                Ok(()) => Ok(()),
                Err(error) => self.refuse(id, &error),
            },
            Ask::Commitment { tenant, id: of } => {
                let mut read = CommitmentRead::new(tenant, of);
                let found = self.lead().and_then(|()| {
                    self.host.driver.read_commitment(&mut read)?;
                    read.finish().map_err(read_error)
                });
                match found {
                    Ok(Some(commitment)) => self.send(id, &Answer::Commitment(commitment)),
                    Ok(None) => self.send(id, &Answer::Unknown),
                    Err(error) => self.refuse(id, &error),
                }
            }
            Ask::Status => self.send(id, &Answer::Status(self.host.report())),
        }
    }

    // ---- writes

    fn execute(
        &self,
        id: u64,
        request: Request,
        done: &Sender<Arc<Submitted>>,
    ) -> Result<(), Broken> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self
            .fewer
            .wait_while(waiting, |waiting| *waiting >= CLIENT_REQUESTS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        let slot = match self.host.driver.call_async(request) {
            Ok(slot) => slot,
            Err(error) => {
                drop(waiting);
                return self.refuse(id, &error);
            }
        };
        *waiting += 1;
        drop(waiting);
        // The other thread asks for the answer, and is told when it is there.
        let submitted = Arc::new(Submitted { id, slot, done: done.clone() });
        submitted.wake();
        Ok(())
    }

    /// What the second thread does. It ends with the connection, when all that was submitted is
    /// answered.
    fn answer_writes(&self, answered: &Receiver<Arc<Submitted>>) {
        while let Ok(submitted) = answered.recv() {
            let waker = Waker::from(Arc::clone(&submitted));
            let Some(reply) = self.host.driver.poll_reply(&submitted.slot, &waker) else {
                continue;
            };
            let answer = match reply {
                Ok(reply) => Answer::Reply(reply),
                Err(error) => Answer::Refused(self.refusal(&error)),
            };
            if self.send(submitted.id, &answer).is_err() {
                // Whoever reads hears of it, too.
                let _gone_already = self.stream.shutdown(std::net::Shutdown::Both);
            }
            *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            self.fewer.notify_one();
        }
    }

    // ---- reads

    /// Refuses what only the primary may answer.
    fn lead(&self) -> Result<(), Error> {
        match self.host.driver.with_node(Node::is_ready) {
            true => Ok(()),
            false if self.host.me.replica_count == 1 => Err(retry(RetryReason::NotReady)),
            false => Err(retry(RetryReason::NotPrimary)),
        }
    }

    fn query(&self, id: u64, query: &Query) -> Result<Result<(), Error>, Broken> {
        if !query.anywhere
            && let Err(error) = self.lead()
        {
            return Ok(Err(error));
        }
        let mut progress = Progress { last: Instant::now() };
        if let Err(error) = self.catch_up(id, query, &mut progress)? {
            return Ok(Err(error));
        }
        let driver = &self.host.driver;
        let read = Read::sql(query.tenant, &query.text, query.params.clone());
        let mut running = Running { driver, read: Some(read) };
        let mut rows = RowBuffer::default();
        loop {
            let Some(read) = &mut running.read else { unreachable!("taken at the end") };
            let ready = match driver.read_slice(read) {
                Ok(ready) => ready,
                Err(error) => return Ok(Err(error)),
            };
            if ready {
                break;
            }
            for row in read.take_rows() {
                if let Some(part) = rows.push(row) {
                    self.send(id, &Answer::Rows(part))?;
                    progress.last = Instant::now();
                }
            }
            progress.tell(self, id)?;
        }
        let Some(read) = running.read.take() else { unreachable!("taken once, here") };
        let result = match read.finish() {
            Ok(result) => result,
            Err(error) => return Ok(Err(read_error(error))),
        };
        for row in result.rows {
            if let Some(part) = rows.push(row) {
                self.send(id, &Answer::Rows(part))?;
            }
        }
        let names = result.prepared.columns.iter().map(|column| column.name.clone());
        let last = RowsPart {
            rows: rows.rows,
            more: false,
            columns: names.collect(),
            position: result.position,
            asked: result.asked,
        };
        self.send(id, &Answer::Rows(last))?;
        Ok(Ok(()))
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
struct Progress {
    last: Instant,
}

impl Progress {
    fn tell(&mut self, guest: &Guest, id: u64) -> Result<(), Broken> {
        if self.last.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        guest.send(id, &Answer::Rows(RowsPart { more: true, ..RowsPart::default() }))
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
    fn push(&mut self, row: Vec<Value>) -> Option<RowsPart> {
        let value = |value: &Value| size_of::<Value>() + value.heap_bytes();
        let bytes = size_of::<Vec<Value>>() + row.iter().map(value).sum::<usize>();
        let full = !self.rows.is_empty() && self.bytes + bytes > ANSWER_ROWS_BYTES;
        let part = full.then(|| {
            self.bytes = 0;
            let rows = std::mem::take(&mut self.rows);
            RowsPart { rows, more: true, ..RowsPart::default() }
        });
        self.bytes += bytes;
        self.rows.push(row);
        part
    }
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

fn retry(reason: RetryReason) -> Error {
    Error::Request(RequestError::Retry(reason))
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::Sql(error) => Error::Request(RequestError::Sql(error)),
        ReadError::TenantUnknown(tenant) => Error::Request(RequestError::TenantUnknown(tenant)),
        ReadError::NotReady => retry(RetryReason::NotReady),
        error @ (ReadError::Store(_) | ReadError::Log(_)) => Error::Unreadable(error.to_string()),
    }
}
