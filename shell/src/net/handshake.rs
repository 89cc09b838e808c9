//! Both sides of a handshake: a hello each, before anything else.
//!
//! Invariant: before it is done a frame has at most the size of a hello, and all of it takes at
//! most `HANDSHAKE_NS`, however slowly the bytes come.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use verity_core::limits::{HANDSHAKE_NS, HELLO_SIZE};
use verity_core::wire::frame;
use verity_core::wire::hello::{Hello, Refused, Role};

use super::Broken;
use super::frames::{FrameReader, payload};

/// A stream that is given up at a moment, not after a silence.
struct Until<'a> {
    stream: &'a TcpStream,
    end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(out)
    }
}

/// How long a handshake may take.
pub const LONGEST: Duration = Duration::from_nanos(HANDSHAKE_NS);

fn send(mut stream: &TcpStream, hello: &Hello) -> Result<(), Broken> {
    stream.set_write_timeout(Some(LONGEST))?;
    stream.write_all(&frame::encode(&hello.encode()))?;
    Ok(())
}

fn receive(from: &mut Until<'_>, reader: &mut FrameReader) -> Result<Hello, Broken> {
    let frame = reader.next(from)?;
    Hello::decode(payload(frame)).map_err(Broken::Hello)
}

/// The side that dialled: says who it is, and hears who listens. What the other side sent already
/// is in the reader.
pub fn greet(
    stream: &TcpStream,
    me: &Hello,
    longest: Duration,
) -> Result<(Hello, FrameReader), Broken> {
    let mut reader = FrameReader::new(HELLO_SIZE);
    send(stream, me)?;
    let answer = receive(&mut Until { stream, end: Instant::now() + longest }, &mut reader)?;
    match answer.role {
        Role::Welcome if me.cluster.get() != 0 && answer.cluster != me.cluster => {
            Err(Broken::Protocol("a welcome of another cluster"))
        }
        Role::Welcome => Ok((answer, reader)),
        Role::Refusal(why) => Err(Broken::Refused(why)),
        Role::Replica | Role::Client => Err(Broken::Protocol("a hello where a welcome was due")),
    }
}

/// The side that listens: hears who it is, and lets it in or not.
pub fn welcome(
    stream: &TcpStream,
    me: &Hello,
    has_room: impl FnOnce(&Hello) -> bool,
) -> Result<(Hello, FrameReader), Broken> {
    let mut reader = FrameReader::new(HELLO_SIZE);
    let hello = receive(&mut Until { stream, end: Instant::now() + LONGEST }, &mut reader)?;
    let mut answer = hello.answer(me);
    if answer.role == Role::Welcome && !has_room(&hello) {
        answer.role = Role::Refusal(Refused::TooMany);
    }
    send(stream, &answer)?;
    match answer.role {
        Role::Refusal(why) => Err(Broken::Refused(why)),
        Role::Welcome | Role::Replica | Role::Client => Ok((hello, reader)),
    }
}
