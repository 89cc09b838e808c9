//! Frames: magic, version, length, CRC32, payload.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 4 | magic `VDB ` |
//! | 4 | 2 | version of the frame |
//! | 6 | 4 | length of the payload |
//! | 10 | 4 | CRC32 of bytes 0..10 and the payload |
//! | 14 | | payload |
//!
//! Little endian but for the magic. A stream is cut into frames by [`decode`]; after an error the
//! connection is closed: where the next frame begins can no longer be known.

use alloc::vec::Vec;

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::FRAME_PAYLOAD_SIZE_MAX;

pub const FRAME_HEADER_SIZE: usize = 14;
pub const FRAME_VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"VDB ";
const CRC_OFFSET: usize = 10;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not a frame of this protocol at all.
    Magic { found: [u8; 4] },
    /// Another version of the protocol: upgrade the older side.
    Version { found: u16, known: u16 },
    /// Longer than any frame may be.
    TooLong { length: u32, max: u32 },
    /// Damaged on the way.
    Crc { found: u32, computed: u32 },
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FrameError::Magic { found } => {
                let found = u32::from_be_bytes(*found);
                write!(f, "no frame of Verity: begins with the bytes {found:08x}")
            }
            FrameError::Version { found, known } => {
                write!(f, "frame version {found}, this side speaks {known}: upgrade the older side")
            }
            FrameError::TooLong { length, max } => {
                write!(f, "a frame of {length} bytes, more than {max}")
            }
            FrameError::Crc { found, computed } => {
                write!(f, "frame crc32 is {computed:08x}, recorded {found:08x}")
            }
        }
    }
}

/// A whole frame at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub payload: &'a [u8],
    /// Bytes of header and payload: where the next frame begins.
    pub size: usize,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFrame {
    magic: [u8; 4],
    version: U16,
    length: U32,
    crc32: U32,
}

const_assert_eq!(size_of::<RawFrame>(), FRAME_HEADER_SIZE);
const_assert_eq!(core::mem::offset_of!(RawFrame, crc32), CRC_OFFSET);

/// A frame with room for a payload of `size` bytes, to be filled and then [`seal`]ed.
#[must_use]
pub fn begin(size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_SIZE + size);
    bytes.resize(FRAME_HEADER_SIZE, 0);
    bytes
}

/// Completes a frame whose payload is in place.
pub fn seal(frame: &mut [u8]) {
    let payload = frame.len() - FRAME_HEADER_SIZE;
    assert!(payload <= FRAME_PAYLOAD_SIZE_MAX, "no frame is longer");
    let raw = RawFrame {
        magic: MAGIC,
        version: U16::new(FRAME_VERSION),
        length: U32::new(payload as u32),
        crc32: U32::new(0),
    };
    frame[..FRAME_HEADER_SIZE].copy_from_slice(raw.as_bytes());
    let crc = crc_of(&frame[..CRC_OFFSET], &frame[FRAME_HEADER_SIZE..]);
    frame[CRC_OFFSET..FRAME_HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
}

/// A frame around a payload.
#[must_use]
pub fn encode(payload: &[u8]) -> Vec<u8> {
    let mut bytes = begin(payload.len());
    bytes.extend_from_slice(payload);
    seal(&mut bytes);
    bytes
}

/// The frame at the beginning of `bytes`; `None`: more bytes are needed.
pub fn decode(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    // What is wrong already is said at once, not after a length that cannot be trusted.
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        let mut found = [0; 4];
        found[..seen].copy_from_slice(&bytes[..seen]);
        return Err(FrameError::Magic { found });
    }
    let Ok((raw, rest)) = RawFrame::ref_from_prefix(bytes) else { return Ok(None) };
    if raw.version.get() != FRAME_VERSION {
        return Err(FrameError::Version { found: raw.version.get(), known: FRAME_VERSION });
    }
    let length = raw.length.get();
    if length as usize > FRAME_PAYLOAD_SIZE_MAX {
        return Err(FrameError::TooLong { length, max: FRAME_PAYLOAD_SIZE_MAX as u32 });
    }
    let Some(payload) = rest.get(..length as usize) else { return Ok(None) };
    let computed = crc_of(&bytes[..CRC_OFFSET], payload);
    if computed != raw.crc32.get() {
        return Err(FrameError::Crc { found: raw.crc32.get(), computed });
    }
    Ok(Some(Frame { payload, size: FRAME_HEADER_SIZE + payload.len() }))
}

fn crc_of(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}
