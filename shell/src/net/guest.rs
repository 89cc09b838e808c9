//! One client that is served: requests in, answers out, in any order.
//!
//! This thread reads and submits writes; a second one answers writes when they commit; queries have
//! threads of their own (`queries`), so that nothing waits behind one. Invariants: every request
//! that was understood is answered once, or the connection ends. At most `CLIENT_REQUESTS_MAX`
//! writes wait; then no more is read. What is being worked on is said at least every
//! `PROGRESS_EVERY`, so that a silent server is a dead one: of a write only while a quorum follows
//! this replica, for another one may lead by now.
//!
//! Fault model: a client that sends anything, reads nothing, stalls amid a frame, or goes away at
//! any moment. What cannot be understood ends the connection, and is told before.

mod pacing;
mod proving;
mod queries;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use verity_core::ids::ReplicaId;
use verity_core::kernel::{Request, RequestError, RetryReason};
use verity_core::limits::{CLIENT_BUFFERS_BYTES_MAX, CLIENT_REQUESTS_MAX, FRAME_PAYLOAD_SIZE_MAX};
use verity_core::node::Status;
use verity_core::query::{SqlError, SqlState};
use verity_core::vsr::replica::Phase;
use verity_core::wire::hello::Hello;

use super::Broken;
use super::budget::Budget;
use super::frames::{FrameReader, payload};
use super::links::Links;
use super::payload::{Answer, Ask, Asked, LinkReport, Refusal, ReplicaReport, Retry, RowsPart};
use crate::driver::{Driver, Slot};
use crate::error::Error;

use pacing::Pace;
use queries::{Job, Permits, Queries};

/// Who does not take its answers for so long is let go.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// A frame that has begun must be there whole in this time.
const FRAME_MAX: Duration = Duration::from_secs(10);
/// Answers of writes that are ready at the same time go out together, up to about this size.
const ANSWERS_TOGETHER_BYTES: usize = 64 << 10;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// The number of an answer that is about the connection: it ends.
pub const GOODBYE: u64 = 0;

/// What serves all clients of one replica.
#[derive(Debug)]
pub struct Host {
    pub me: Hello,
    driver: Arc<Driver>,
    links: Arc<Links>,
    /// For what clients have sent and nobody has worked on.
    budget: Arc<Budget>,
    permits: Permits,
}

impl Host {
    #[must_use]
    pub fn new(me: Hello, driver: Arc<Driver>, links: Arc<Links>) -> Host {
        let budget = Budget::new(CLIENT_BUFFERS_BYTES_MAX);
        Host { me, driver, links, budget, permits: Permits::default() }
    }

    /// Hands the node what a peer says.
    pub fn receive(&self, from: ReplicaId, frames: &mut Vec<Vec<u8>>) {
        self.driver.receive(from, frames);
    }

    /// Tells the node that a peer has closed its link.
    pub fn link_closed(&self, peer: ReplicaId) {
        self.driver.link_closed(peer);
    }

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
        report.phase = phase_of(&status, ready, self.me.replica_count);
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

fn phase_of(status: &Status, ready: bool, replica_count: u8) -> String {
    if status.halted.is_some() {
        return "stopped".to_string();
    }
    if status.replaced {
        return replaced(status, replica_count);
    }
    let phase = match status.replica_status {
        None if ready => "primary",
        None if status.syncing.is_some() => "fetching a checkpoint",
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
    };
    phase.to_string()
}

/// Of a directory that took the place of a lost one: what it waits for.
fn replaced(status: &Status, replica_count: u8) -> String {
    let why = match status.replica_status {
        None if status.syncing.is_some() => "fetching a checkpoint".to_string(),
        None => "opening".to_string(),
        Some(replica) if matches!(replica.phase, Phase::Recovering | Phase::Boot) => {
            let (answers, wanted) = (replica.boot_answers, replica_count / 2 + 1);
            format!("{answers} of {wanted} certain replicas answered")
        }
        Some(_) => "fetching the log".to_string(),
    };
    format!("replaced: not certain yet ({why})")
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

/// What the threads of a connection share.
#[derive(Debug)]
struct Guest {
    host: Arc<Host>,
    stream: TcpStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
    writes: Mutex<Writes>,
    fewer: Condvar,
    queries: Queries,
    pace: Pace,
}

/// Writes that were submitted and not answered.
#[derive(Debug, Default)]
struct Writes {
    /// Their numbers, as the client gave them.
    waiting: Vec<u64>,
    /// The client is gone: nobody is to be answered.
    ended: bool,
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
    reader.charge_to(&host.budget);
    reader.allow(FRAME_PAYLOAD_SIZE_MAX);
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    let guest = Arc::new(Guest::new(host, stream.try_clone()?));
    let (done, answered) = channel();
    let answering = Arc::clone(&guest);
    let name = "verity-answers".to_string();
    std::thread::Builder::new().name(name).spawn(move || answering.answer_writes(&answered))?;
    let Err(why) = guest.read(stream, &mut reader, &done);
    guest.say_goodbye(&why);
    guest.lock_writes().ended = true;
    guest.queries.end();
    guest.pace.end();
    Err(why)
}

/// The next frame; one that has begun has this long to come whole.
fn next_frame<'a>(
    reader: &'a mut FrameReader,
    mut stream: &TcpStream,
    longest: Duration,
) -> Result<&'a [u8], Broken> {
    let mut end = None;
    while !reader.is_whole()? {
        if !reader.is_empty() {
            let end = *end.get_or_insert_with(|| Instant::now() + longest);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Broken::Stalled);
            }
            stream.set_read_timeout(Some(left))?;
        }
        reader.fill(&mut stream).map_err(|why| match why {
            Broken::Io(error) if is_timeout(&error) => Broken::Stalled,
            why => why,
        })?;
    }
    if end.is_some() {
        stream.set_read_timeout(None)?;
    }
    match reader.take()? {
        Some(frame) => Ok(frame),
        None => unreachable!("it is whole"),
    }
}

/// Writes all of it, however slowly it is taken, but not for longer than twice this time, which is
/// the stream's own for each piece.
fn write_in_time(
    mut stream: &TcpStream,
    mut bytes: &[u8],
    longest: Duration,
) -> Result<(), Broken> {
    let end = Instant::now() + longest;
    loop {
        match stream.write(bytes) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Io(error)),
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Broken::Io(std::io::ErrorKind::TimedOut.into()));
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

impl Guest {
    fn new(host: Arc<Host>, stream: TcpStream) -> Guest {
        Guest {
            host,
            stream,
            writing: Mutex::default(),
            writes: Mutex::default(),
            fewer: Condvar::new(),
            queries: Queries::default(),
            pace: Pace::default(),
        }
    }

    fn read(
        self: &Arc<Guest>,
        stream: &TcpStream,
        reader: &mut FrameReader,
        done: &Sender<Arc<Submitted>>,
    ) -> Result<std::convert::Infallible, Broken> {
        loop {
            let payload = payload(next_frame(reader, stream, FRAME_MAX)?);
            let asked = Asked::decode(payload)
                .map_err(|_| Broken::Protocol("a request that cannot be understood"))?;
            self.take(asked, payload.len(), done)?;
        }
    }

    /// Why the server hangs up, when it is for something that came.
    fn say_goodbye(&self, why: &Broken) {
        let retry = match why {
            Broken::Crowded | Broken::Stalled => Retry::ById,
            Broken::Frame(_) | Broken::TooLong { .. } | Broken::Protocol(_) => Retry::Never,
            Broken::Io(_) | Broken::Hello(_) | Broken::Refused(_) | Broken::Closed => return,
        };
        let refusal = Refusal {
            sqlstate: "08P01".to_string(),
            message: why.to_string(),
            retry,
            primary: None,
            facts: Vec::new(),
        };
        let _gone_already = self.send(GOODBYE, &Answer::Refused(refusal));
    }

    fn send(&self, id: u64, answer: &Answer) -> Result<(), Broken> {
        self.send_frame(&self.encode(id, answer))
    }

    fn encode(&self, id: u64, answer: &Answer) -> Vec<u8> {
        answer
            .encode(id)
            .unwrap_or_else(|too_long| self.refusal_frame(id, &answer_too_long(too_long.size)))
    }

    fn send_frame(&self, frame: &[u8]) -> Result<(), Broken> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_in_time(&self.stream, frame, WRITE_MAX)
    }

    fn refuse(&self, id: u64, error: &Error) -> Result<(), Broken> {
        self.send_frame(&self.refusal_frame(id, error))
    }

    fn refusal_frame(&self, id: u64, error: &Error) -> Vec<u8> {
        let Ok(frame) = Answer::Refused(self.refusal(error)).encode(id) else {
            unreachable!("a refusal is short")
        };
        frame
    }

    /// It is being worked on.
    fn tell_progress(&self, id: u64) -> Result<(), Broken> {
        self.send(id, &Answer::Rows(RowsPart { more: true, ..RowsPart::default() }))
    }

    fn hang_up(&self) {
        // Whoever reads hears of it, too.
        let _gone_already = self.stream.shutdown(std::net::Shutdown::Both);
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

    /// A request of so many bytes.
    fn take(
        self: &Arc<Guest>,
        asked: Asked,
        bytes: usize,
        done: &Sender<Arc<Submitted>>,
    ) -> Result<(), Broken> {
        let Asked { id, ask } = asked;
        match ask {
            Ask::Execute(request) => self.execute(id, request, done),
            Ask::Query(query) => self.ask(id, Job::Query(query), bytes),
            Ask::Taken(parts) => {
                self.pace.taken(id, parts);
                Ok(())
            }
            Ask::Cancel => {
                self.pace.cancel(id);
                Ok(())
            }
            Ask::Commitment { tenant, id: of } => {
                self.ask(id, Job::Commitment { tenant, of }, bytes)
            }
            Ask::Prove(asked) => self.ask(id, Job::Prove(asked), bytes),
            Ask::Status => self.send(id, &Answer::Status(self.host.report())),
        }
    }

    // ---- writes

    fn lock_writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(
        &self,
        id: u64,
        request: Request,
        done: &Sender<Arc<Submitted>>,
    ) -> Result<(), Broken> {
        let full = |writes: &mut Writes| writes.waiting.len() >= CLIENT_REQUESTS_MAX;
        let writes = self.fewer.wait_while(self.lock_writes(), full);
        let mut writes = writes.unwrap_or_else(PoisonError::into_inner);
        let slot = match self.host.driver.call_async(request) {
            Ok(slot) => slot,
            Err(error) => {
                drop(writes);
                return self.refuse(id, &error);
            }
        };
        writes.waiting.push(id);
        drop(writes);
        // The other thread is told when the answer is there, and not before.
        let submitted = Arc::new(Submitted { id, slot, done: done.clone() });
        let waker = Waker::from(Arc::clone(&submitted));
        self.host.driver.tell_when_answered(&submitted.slot, &waker);
        Ok(())
    }

    /// What the second thread does, until the connection has ended. Writes that commit together are
    /// answered together, in one piece.
    fn answer_writes(&self, answered: &Receiver<Arc<Submitted>>) {
        let (mut frames, mut ids) = (Vec::new(), Vec::new());
        loop {
            let first = match answered.recv_timeout(PROGRESS_EVERY) {
                Ok(submitted) => submitted,
                Err(RecvTimeoutError::Timeout) => {
                    if !self.tell_of_writes() {
                        return;
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut next = Some(first);
            while let Some(submitted) = next {
                if let Some(frame) = self.answer_frame(&submitted) {
                    frames.extend_from_slice(&frame);
                    ids.push(submitted.id);
                }
                let room = frames.len() < ANSWERS_TOGETHER_BYTES;
                next = if room { answered.try_recv().ok() } else { None };
            }
            if !frames.is_empty() && self.send_frame(&frames).is_err() {
                self.hang_up();
            }
            frames.clear();
            self.lock_writes().waiting.retain(|id| !ids.contains(id));
            ids.clear();
            self.fewer.notify_one();
        }
    }

    /// `None`: it was woken too early.
    fn answer_frame(&self, submitted: &Arc<Submitted>) -> Option<Vec<u8>> {
        let waker = Waker::from(Arc::clone(submitted));
        let answer = match self.host.driver.poll_reply(&submitted.slot, &waker)? {
            Ok(reply) => Answer::Reply(reply),
            Err(error) => Answer::Refused(self.refusal(&error)),
        };
        Some(self.encode(submitted.id, &answer))
    }

    /// No write was answered for a while: says that those which wait are worth waiting for, if they
    /// are. False: nobody waits any more.
    fn tell_of_writes(&self) -> bool {
        let writes = self.lock_writes();
        let (ended, waiting) = (writes.ended, writes.waiting.first().copied());
        drop(writes);
        if let Some(id) = waiting.filter(|_| !ended)
            && self.host.driver.leads_lately()
            && self.tell_progress(id).is_err()
        {
            self.hang_up();
        }
        !ended
    }
}

/// An answer that no frame can hold: its request is at fault.
fn answer_too_long(size: usize) -> Error {
    let max = FRAME_PAYLOAD_SIZE_MAX;
    let sql = SqlError::new(
        SqlState::LimitExceeded,
        format!("a row of the answer takes {size} bytes, at most {max} fit into a frame"),
    );
    let sql = sql.hint("select fewer columns of it, or its parts one by one");
    Error::Request(RequestError::Sql(sql))
}

fn retry(reason: RetryReason) -> Error {
    Error::Request(RequestError::Retry(reason))
}
