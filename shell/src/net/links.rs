//! What a replica sends to the others: one connection to each, dialled from here, only written.
//!
//! Invariants: frames of one link never mix: whoever writes has the link's lock, or the link says
//! that its thread writes. A frame that finds no connection, or a full queue, is dropped; after a
//! new connect nothing of before is sent. Nobody waits here but the link's own thread.
//!
//! Fault model: a peer that is gone, stopped, slow, or of another cluster.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;
use verity_core::ids::ReplicaId;
use verity_core::limits::LINK_QUEUE_BYTES_MAX;
use verity_core::wire::hello::{Hello, Role};

use super::{Broken, dial, handshake};
use crate::disk::master_key;

const DIAL_MAX: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// How long the link's thread may wait for room in the socket before it dials anew.
const WRITE_MAX: Duration = Duration::from_secs(3);

/// The links of one replica to all others.
#[derive(Debug)]
pub struct Links {
    /// By number; none at our own place.
    links: Vec<Option<Arc<Link>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Link {
    address: String,
    /// What we say of ourselves when we dial.
    hello: Hello,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<Arc<TcpStream>>,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    /// The link's thread is writing, with the lock released.
    writing: bool,
    dropped: u64,
    stop: bool,
}

#[derive(Debug)]
struct Waiting {
    frame: Vec<u8>,
    /// So many bytes of it are in the socket already.
    sent: usize,
}

/// How a link stands, for `verity status` and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    pub connected: bool,
    pub dropped: u64,
}

impl Links {
    /// Starts to dial all others. `addresses` are in the order of the replicas' numbers.
    pub fn start(me: ReplicaId, hello: &Hello, addresses: &[String]) -> std::io::Result<Links> {
        let mut links = Vec::new();
        let mut threads = Vec::new();
        for (number, address) in (0..).zip(addresses) {
            let to = ReplicaId::new(number);
            if to == me {
                links.push(None);
                continue;
            }
            let hello = Hello { role: Role::Replica, meant: Some(to), ..*hello };
            let link = Arc::new(Link {
                address: address.clone(),
                hello,
                state: Mutex::default(),
                changed: Condvar::new(),
            });
            links.push(Some(Arc::clone(&link)));
            let name = format!("verity-link-{number}");
            match std::thread::Builder::new().name(name).spawn(move || link.run()) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    Links { links, threads: Mutex::new(threads) }.stop();
                    return Err(error);
                }
            }
        }
        Ok(Links { links, threads: Mutex::new(threads) })
    }

    /// Sends a frame, or drops it. Never waits.
    pub fn send(&self, to: ReplicaId, frame: Vec<u8>) {
        if let Some(Some(link)) = self.links.get(usize::from(to.get())) {
            link.send(frame);
        }
    }

    #[must_use]
    pub fn status(&self) -> Vec<Option<LinkStatus>> {
        let of = |link: &Arc<Link>| {
            let state = link.lock();
            LinkStatus { connected: state.stream.is_some(), dropped: state.dropped }
        };
        self.links.iter().map(|link| link.as_ref().map(of)).collect()
    }

    /// Ends all links.
    pub fn stop(&self) {
        for link in self.links.iter().flatten() {
            let mut state = link.lock();
            state.stop = true;
            state.hang_up();
            link.changed.notify_all();
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _panicked_already = thread.join();
        }
    }
}

impl State {
    fn hang_up(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
        self.queue.clear();
        self.queued_bytes = 0;
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, frame: Vec<u8>) {
        let mut state = self.lock();
        let Some(stream) = &state.stream else {
            state.dropped += 1;
            return;
        };
        let mut sent = 0;
        if state.queue.is_empty() && !state.writing {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(stream, &frame, flags) {
                Ok(count) if count == frame.len() => return,
                Ok(count) => sent = count,
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
                Err(_gone) => {
                    state.dropped += 1;
                    state.hang_up();
                    self.changed.notify_all();
                    return;
                }
            }
        }
        if sent == 0 && state.queued_bytes + frame.len() > LINK_QUEUE_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.queued_bytes += frame.len();
        state.queue.push_back(Waiting { frame, sent });
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut backoff = BACKOFF_MIN;
        let mut said = false;
        loop {
            match self.connect() {
                Ok(stream) => {
                    tracing::info!("linked to {}", self.address);
                    (backoff, said) = (BACKOFF_MIN, false);
                    if !self.write_until_broken(&stream) {
                        return;
                    }
                    tracing::info!("the link to {} is broken", self.address);
                }
                Err(why) => {
                    // Once, not for each try: a peer may be away for a day.
                    match (&why, said) {
                        (Broken::Refused(_), false) => {
                            tracing::warn!("{} does not let us in: {why}", self.address);
                        }
                        (_, false) => tracing::info!("cannot reach {}: {why}", self.address),
                        (_, true) => {}
                    }
                    said = true;
                }
            }
            let jitter = master_key::random::<1>().map_or(0, |[byte]| u32::from(byte));
            if self.pause(backoff + backoff * jitter / 512) {
                return;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// True: the links end.
    fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let ends = |state: &mut State| !state.stop;
        let waited = self.changed.wait_timeout_while(state, time, ends);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.stop
    }

    fn connect(&self) -> Result<Arc<TcpStream>, Broken> {
        let stream = dial(&self.address, DIAL_MAX)?;
        handshake::greet(&stream, &self.hello, handshake::LONGEST)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        let stream = Arc::new(stream);
        let mut state = self.lock();
        if !state.stop {
            state.stream = Some(Arc::clone(&stream));
        }
        Ok(stream)
    }

    /// Empties the queue until the connection is gone; false: the links end.
    fn write_until_broken(&self, stream: &Arc<TcpStream>) -> bool {
        let mut state = self.lock();
        loop {
            if state.stop {
                return false;
            }
            if state.stream.is_none() {
                return true;
            }
            let Some(waiting) = state.queue.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.writing = true;
            drop(state);
            let written = (&**stream).write_all(&waiting.frame[waiting.sent..]);
            state = self.lock();
            state.writing = false;
            match written {
                Ok(()) => {
                    let left = state.queued_bytes.checked_sub(waiting.frame.len());
                    // Hung up meanwhile: the queue was emptied.
                    state.queued_bytes = left.unwrap_or(0);
                }
                Err(_gone) => state.hang_up(),
            }
        }
    }
}
