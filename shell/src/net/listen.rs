//! Who comes in: the listening port, handshakes, and the links on which peers send to us.
//!
//! Invariants: at most `HANDSHAKES_MAX` handshakes run at a time, each for a bounded time; at most
//! one link of each peer is read. Each connection has a thread of its own, which ends with it.
//!
//! Fault model: anybody may connect, say anything, and stay silent.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use verity_core::ids::ReplicaId;
use verity_core::limits::{CLIENTS_MAX, FRAME_PAYLOAD_SIZE_MAX, HANDSHAKES_MAX};
use verity_core::wire::hello::{Hello, Role};
use verity_core::wire::replica;

use super::frames::{FrameReader, payload};
use super::guest::{self, Host};
use super::{Broken, handshake, tune};

/// Pings come ten times a second: a link so silent is dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Frames that are handed to the node at once.
const FRAMES_AT_ONCE_MAX: usize = 64;
/// Pause after an accept that failed (no descriptors left): it will fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Listener {
    door: Arc<Door>,
    address: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Door {
    host: Arc<Host>,
    handshakes: AtomicUsize,
    closed: AtomicBool,
    guests: Mutex<Guests>,
}

/// Connections that are open, to be hung up on when the process ends.
#[derive(Debug, Default)]
struct Guests {
    next: u64,
    streams: BTreeMap<u64, TcpStream>,
    /// Whose link is which.
    peers: BTreeMap<ReplicaId, u64>,
}

impl Listener {
    /// Serves whoever comes to `listener`, until [`Listener::stop`].
    pub fn start(listener: TcpListener, host: Host) -> std::io::Result<Listener> {
        let address = listener.local_addr()?;
        let door = Arc::new(Door {
            host: Arc::new(host),
            handshakes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            guests: Mutex::default(),
        });
        let serving = Arc::clone(&door);
        let thread = std::thread::Builder::new()
            .name("verity-listen".to_string())
            .spawn(move || serving.accept(&listener))?;
        Ok(Listener { door, address, thread: Mutex::new(Some(thread)) })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[cfg(test)]
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.door.host)
    }

    /// Lets nobody in any more and hangs up on everybody.
    pub fn stop(&self) {
        self.door.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; it looks at the flag.
        let _wakes = super::dial(&self.address.to_string(), Duration::from_secs(1));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _panicked_already = thread.join();
        }
        for stream in self.door.guests().streams.values() {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Door {
    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Door>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    std::thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            if self.handshakes.fetch_add(1, Ordering::SeqCst) >= HANDSHAKES_MAX {
                self.handshakes.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let door = Arc::clone(self);
            let thread = std::thread::Builder::new().name("verity-guest".to_string());
            if let Err(error) = thread.spawn(move || door.receive(stream, from)) {
                self.handshakes.fetch_sub(1, Ordering::SeqCst);
                tracing::warn!("cannot start a thread for a connection: {error}");
            }
        }
    }

    fn receive(self: &Arc<Door>, stream: TcpStream, from: SocketAddr) {
        let greeted = tune(&stream).map_err(Broken::Io).and_then(|()| {
            handshake::welcome(&stream, &self.host.me, |hello| self.has_room(hello))
        });
        self.handshakes.fetch_sub(1, Ordering::SeqCst);
        let (hello, reader) = match greeted {
            Ok(greeted) => greeted,
            Err(why @ Broken::Refused(_)) => {
                tracing::warn!("a connection from {from} is not let in: {why}");
                return;
            }
            Err(why) => {
                tracing::debug!("a connection from {from} ended before its handshake: {why}");
                return;
            }
        };
        let peer = match hello.role {
            Role::Replica => hello.from,
            Role::Client | Role::Welcome | Role::Refusal(_) => None,
        };
        let Ok(number) = self.enter(&stream, peer) else { return };
        let ended = match peer {
            Some(peer) => self.read_link(peer, &stream, reader),
            None => guest::serve(Arc::clone(&self.host), &stream, reader),
        };
        let was_its_link = self.leave(number);
        if let Some(peer) = peer
            && was_its_link
            && ended.as_ref().is_err_and(is_hung_up)
        {
            self.host.link_closed(peer);
        }
        let _gone_already = stream.shutdown(Shutdown::Both);
        match ended {
            Ok(()) | Err(Broken::Closed) => {}
            Err(why) => tracing::info!("the connection from {from} ended: {why}"),
        }
    }

    /// Peers always have room: there are few of them.
    fn has_room(&self, hello: &Hello) -> bool {
        let guests = self.guests();
        hello.role == Role::Replica || guests.streams.len() - guests.peers.len() < CLIENTS_MAX
    }

    fn enter(&self, stream: &TcpStream, peer: Option<ReplicaId>) -> std::io::Result<u64> {
        let kept = stream.try_clone()?;
        let mut guests = self.guests();
        // `stop` may have hung up on all already.
        if self.closed.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        let number = guests.next;
        guests.next += 1;
        guests.streams.insert(number, kept);
        if let Some(peer) = peer
            && let Some(before) = guests.peers.insert(peer, number)
            && let Some(stream) = guests.streams.get(&before)
        {
            let _gone_already = stream.shutdown(Shutdown::Both);
        }
        Ok(number)
    }

    /// Whether it was a peer's link, and no newer one had taken its place.
    fn leave(&self, number: u64) -> bool {
        let mut guests = self.guests();
        guests.streams.remove(&number);
        let peers = guests.peers.len();
        guests.peers.retain(|_, link| *link != number);
        guests.peers.len() < peers && !self.closed.load(Ordering::SeqCst)
    }

    /// Hands the node what a peer says.
    fn read_link(
        &self,
        peer: ReplicaId,
        mut stream: &TcpStream,
        mut reader: FrameReader,
    ) -> Result<(), Broken> {
        reader.allow(FRAME_PAYLOAD_SIZE_MAX);
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        let mut frames = Vec::new();
        loop {
            while frames.len() < FRAMES_AT_ONCE_MAX
                && let Some(frame) = reader.take()?
            {
                if replica::claimed_sender(payload(frame)) != Some(peer) {
                    return Err(Broken::Protocol("a message of another replica than its link's"));
                }
                frames.push(frame.to_vec());
            }
            if frames.is_empty() {
                reader.fill(&mut stream)?;
            } else {
                self.host.receive(peer, &mut frames);
            }
        }
    }
}

/// Whether the other side ended the connection: its process, mostly, and not a silence or our own
/// doing.
fn is_hung_up(why: &Broken) -> bool {
    match why {
        Broken::Closed => true,
        Broken::Io(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        Broken::Frame(_)
        | Broken::TooLong { .. }
        | Broken::Hello(_)
        | Broken::Refused(_)
        | Broken::Protocol(_)
        | Broken::Crowded
        | Broken::Stalled => false,
    }
}
