//! Whole frames from a stream of bytes.
//!
//! Invariants: the buffer grows when what has arrived fills it, at most to the longest frame that
//! may come; what a length claims allocates nothing. Where a budget is shared, what the buffer has
//! beyond its first size is charged to it.

use std::io::Read;
use std::sync::Arc;

use verity_core::limits::CLIENT_BUFFER_BYTES;
use verity_core::wire::frame::{self, FRAME_HEADER_SIZE};

use super::Broken;
use super::budget::{Budget, Charge};

/// The buffer at first, and what is kept of it between frames.
const BUFFER_BYTES: usize = CLIENT_BUFFER_BYTES;
/// Where the header of a frame has its length.
const LENGTH_AT: std::ops::Range<usize> = 6..10;

#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// What has arrived and was not taken.
    start: usize,
    end: usize,
    payload_max: usize,
    /// For what the buffer has beyond its first size; none: it is its owner's own.
    charge: Option<Charge>,
}

impl FrameReader {
    #[must_use]
    pub fn new(payload_max: usize) -> FrameReader {
        FrameReader { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, payload_max, charge: None }
    }

    /// From now on the buffer grows at the cost of this budget.
    pub fn charge_to(&mut self, budget: &Arc<Budget>) {
        assert_eq!(self.buffer.len(), BUFFER_BYTES, "nothing long was allowed yet");
        self.charge = Some(Charge::none(budget));
    }

    /// Whether all that has arrived was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// From now on payloads may be so long.
    pub fn allow(&mut self, payload_max: usize) {
        self.payload_max = payload_max;
    }

    /// The next frame, header and payload, if all of it has arrived.
    pub fn take(&mut self) -> Result<Option<&[u8]>, Broken> {
        let arrived = &self.buffer[self.start..self.end];
        if let Some(length) = arrived.get(LENGTH_AT) {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(length);
            let length = u32::from_le_bytes(bytes) as usize;
            // Another protocol's bytes are told as that.
            if length > self.payload_max && arrived.starts_with(b"VDB ") {
                return Err(Broken::TooLong { length, max: self.payload_max });
            }
        }
        let Some(frame) = frame::decode(arrived).map_err(Broken::Frame)? else { return Ok(None) };
        let at = self.start;
        self.start += frame.size;
        Ok(Some(&self.buffer[at..self.start]))
    }

    /// Waits for more bytes.
    pub fn fill(&mut self, stream: &mut impl Read) -> Result<(), Broken> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to(BUFFER_BYTES);
            if let Some(charge) = &mut self.charge {
                assert!(charge.set(0), "less is always granted");
            }
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.end == self.buffer.len() {
                let most = FRAME_HEADER_SIZE + self.payload_max;
                assert!(self.end < most, "a whole frame was there to be taken");
                let size = (2 * self.end).min(most);
                if let Some(charge) = &mut self.charge
                    && !charge.set(size - BUFFER_BYTES)
                {
                    return Err(Broken::Crowded);
                }
                self.buffer.reserve_exact(size - self.end);
                self.buffer.resize(size, 0);
            }
        }
        loop {
            match stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Io(error)),
            }
        }
    }

    /// The next frame, waited for.
    pub fn next(&mut self, stream: &mut impl Read) -> Result<&[u8], Broken> {
        // Twice, because a borrow that is returned cannot end in a loop.
        while !self.is_whole()? {
            self.fill(stream)?;
        }
        match self.take()? {
            Some(frame) => Ok(frame),
            None => unreachable!("it is whole"),
        }
    }

    /// Whether the next frame has arrived whole.
    pub fn is_whole(&mut self) -> Result<bool, Broken> {
        let start = self.start;
        let whole = self.take()?.is_some();
        self.start = start;
        Ok(whole)
    }
}

/// The payload of a frame that was taken whole.
#[must_use]
pub fn payload(frame: &[u8]) -> &[u8] {
    &frame[FRAME_HEADER_SIZE..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes a call.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn frames_arrive_whole_however_the_bytes_are_cut() {
        let payloads: Vec<Vec<u8>> =
            [0, 1, 50, 16_370, 16_384, 40_000, 3].iter().map(|size| vec![7; *size]).collect();
        let bytes: Vec<u8> = payloads.iter().flat_map(|one| frame::encode(one)).collect();
        for step in [1, 2, 13, 14, 15, 4_000, 1 << 20] {
            let mut reader = FrameReader::new(40_000);
            let mut stream = Dribble(&bytes, step);
            for expected in &payloads {
                assert_eq!(payload(reader.next(&mut stream).unwrap()), expected, "{step}");
            }
            assert!(matches!(reader.next(&mut stream), Err(Broken::Closed)));
            assert!(reader.buffer.len() <= BUFFER_BYTES);
        }
    }

    #[test]
    fn a_length_allocates_nothing() {
        let mut frame = frame::encode(&[1; 100]);
        frame[6..10].copy_from_slice(&1_000_000_u32.to_le_bytes());
        let mut reader = FrameReader::new(1_000_000);
        let ended = reader.next(&mut Dribble(&frame, 1_000));
        assert!(matches!(ended, Err(Broken::Closed)));
        assert_eq!(reader.buffer.capacity(), BUFFER_BYTES);
        let mut reader = FrameReader::new(999_999);
        let ended = reader.next(&mut Dribble(&frame, 10));
        assert!(matches!(ended, Err(Broken::TooLong { length: 1_000_000, max: 999_999 })));
    }

    #[test]
    fn buffers_together_stay_within_their_budget() {
        let budget = Budget::new(100_000);
        let long = frame::encode(&[7; 60_000]);
        let read = |bytes: &[u8]| {
            let mut reader = FrameReader::new(1 << 20);
            reader.charge_to(&budget);
            let ended = reader.next(&mut Dribble(bytes, 1_000)).map(<[u8]>::len);
            (reader, ended)
        };
        // One that stalls amid its frame holds what has come, and nothing of what was claimed.
        let (stalled, ended) = read(&long[..50_000]);
        assert!(matches!(ended, Err(Broken::Closed)));
        assert_eq!(stalled.buffer.capacity(), 65_536);
        assert_eq!(budget.left(), 100_000 - (65_536 - BUFFER_BYTES));
        let (other, ended) = read(&long);
        assert!(matches!(ended, Err(Broken::Crowded)));
        drop((stalled, other));
        let (mut reader, ended) = read(&long);
        assert_eq!(ended.unwrap(), long.len());
        assert!(matches!(reader.fill(&mut Dribble(&[], 1)), Err(Broken::Closed)));
        assert_eq!((reader.buffer.capacity(), budget.left()), (BUFFER_BYTES, 100_000));
    }

    #[test]
    fn what_is_no_frame_ends_it() {
        let mut frame = frame::encode(&[1; 100]);
        frame[50] ^= 1;
        let mut reader = FrameReader::new(1_000);
        assert!(matches!(reader.next(&mut Dribble(&frame, 7)), Err(Broken::Frame(_))));
        let http = b"GET / HTTP/1.1\r\n\r\n";
        let mut reader = FrameReader::new(64);
        assert!(matches!(reader.next(&mut Dribble(http, 100)), Err(Broken::Frame(_))));
    }
}
