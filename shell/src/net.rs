//! Sockets: frames on streams, handshakes, links between replicas, clients that are served.
//!
//! Purpose: carries frames between processes and knows nothing of what they decide. Start reading
//! at `docs/NETWORK.md`, then [`links`] (what goes out to replicas), [`listen`] (who comes in),
//! [`guest`] (a client that is served).
//!
//! Invariants: nothing that came from outside makes this process panic, or allocate what a length
//! claims and no byte filled. Whoever speaks no protocol, or another than the handshake named, is
//! hung up on. Every queue has a bound in `limits.rs`.
//!
//! Fault model: streams end, stall and deliver anything at any moment.

pub mod budget;
pub mod frames;
pub mod guest;
pub mod handshake;
pub mod links;
pub mod listen;
pub mod payload;
#[rustfmt::skip]
#[allow(
    clippy::all,
    clippy::unwrap_used,
    missing_debug_implementations,
    reason = "it is generated"
)]
mod schema;

use std::fmt;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use verity_core::wire::frame::FrameError;
use verity_core::wire::hello::{HelloError, Refused};

/// A peer that takes no byte for so long is gone.
const STALL_MAX: Duration = Duration::from_secs(3);

/// Why a connection ended.
#[derive(Debug)]
pub enum Broken {
    Io(std::io::Error),
    Frame(FrameError),
    /// Longer than this side takes.
    TooLong {
        length: usize,
        max: usize,
    },
    Hello(HelloError),
    Refused(Refused),
    /// Frames that are in order and say what this connection cannot mean.
    Protocol(&'static str),
    /// The buffers of all clients together have no room for this frame.
    Crowded,
    /// A frame that began and does not come to its end.
    Stalled,
    /// The other side closed it.
    Closed,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Io(error) => write!(f, "{error}"),
            Broken::Frame(error) => write!(f, "{error}"),
            Broken::TooLong { length, max } => {
                write!(f, "a frame of {length} bytes where at most {max} may come")
            }
            Broken::Hello(error) => write!(f, "{error}"),
            Broken::Refused(why) => write!(f, "refused: {why}"),
            Broken::Protocol(what) => f.write_str(what),
            Broken::Crowded => f.write_str(
                "the server holds as many unfinished requests as it may; connect and send again",
            ),
            Broken::Stalled => f.write_str("a request did not come to its end in time"),
            Broken::Closed => f.write_str("closed by the other side"),
        }
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        Broken::Io(error)
    }
}

/// Options that every connection has: small frames leave at once, and silence is noticed.
pub fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let stall_ms = u32::try_from(STALL_MAX.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, stall_ms)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// Dials the first address of a name that answers.
pub fn dial(address: &str, longest: Duration) -> std::io::Result<TcpStream> {
    let mut failed = std::io::Error::new(
        std::io::ErrorKind::AddrNotAvailable,
        format!("{address} names no address; write host:port"),
    );
    let resolved: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    for address in resolved {
        match TcpStream::connect_timeout(&address, longest) {
            Ok(stream) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
