//! The time that a message needs to another thread of this machine and back, over loopback TCP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use crate::error::Error;

/// About what a row and its frame take.
const MESSAGE_BYTES: usize = 256;

/// Mean time of one round trip, of so many one after the other, µs.
pub fn round_trip_us(count: u32) -> Result<f64, Error> {
    ping(count.max(1)).map_err(|error| Error::Options(format!("loopback: {error}")))
}

fn ping(count: u32) -> std::io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_nodelay(true)?;
    let (mut other, _) = listener.accept()?;
    other.set_nodelay(true)?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut message = [0; MESSAGE_BYTES];
        for _ in 0..count {
            other.read_exact(&mut message)?;
            other.write_all(&message)?;
        }
        Ok(())
    });
    let mut message = [0; MESSAGE_BYTES];
    let started = Instant::now();
    for _ in 0..count {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
    }
    let elapsed = started.elapsed();
    match echo.join() {
        Ok(result) => result?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(elapsed.as_secs_f64() * 1e6 / f64::from(count))
}
