//! Client payloads: Cap'n Proto messages to plain values and back. The schema is
//! `docs/verity.capnp`; `schema.rs` is generated from it.
//!
//! Purpose: [`Ask`] and [`Answer`] are what a server and a client of this crate work with; any
//! language can speak the same with its own Cap'n Proto. Invariants: decode and encode are inverse;
//! reading is bounded by the size of the frame: what is looked at by the traversal limit, what is
//! allocated by [`Room`], which counts the elements of lists before they are made. So nothing that
//! the sender wrote allocates more than a small multiple of what it sent.

mod answer;
mod ask;
mod proofs;
#[cfg(test)]
mod tests;
mod values;

use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp::serialize;
use verity_core::limits::FRAME_PAYLOAD_SIZE_MAX;
use verity_core::wire::frame::{self, FRAME_HEADER_SIZE};

pub use answer::{Answer, LinkReport, Refusal, ReplicaReport, Retry, RowsPart};
pub use ask::{Ask, Asked, Query};
pub use proofs::{ProofPart, Prove};

/// Structures within structures: the deepest of the schema are five.
const NESTING_MAX: i32 = 16;
const WORD_SIZE: usize = 8;
/// So many elements may be without size: an encoder may leave out what is zero.
const FREE_ELEMENTS: usize = 1_024;

/// Longer than any frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    pub size: usize,
}

fn to_frame(message: &Builder<HeapAllocator>) -> Result<Vec<u8>, TooLong> {
    let size = serialize::compute_serialized_size_in_words(message) * WORD_SIZE;
    if size > FRAME_PAYLOAD_SIZE_MAX {
        return Err(TooLong { size });
    }
    let mut bytes = frame::begin(size);
    if serialize::write_message(&mut bytes, message).is_err() {
        unreachable!("a vector takes what is written to it");
    }
    assert_eq!(bytes.len(), FRAME_HEADER_SIZE + size);
    frame::seal(&mut bytes);
    Ok(bytes)
}

fn options(payload: &[u8]) -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.nesting_limit(NESTING_MAX);
    // Twice: a reader may look at a thing again.
    options.traversal_limit_in_words(Some(2 * payload.len() / WORD_SIZE + 64));
    options
}

/// Elements that the lists of a message may still have together. Whoever fills lists with values
/// pays a word for each at least; a list may also claim a million that have no size.
#[derive(Debug)]
struct Room {
    elements: usize,
}

impl Room {
    fn of(payload: &[u8]) -> Room {
        Room { elements: payload.len() / WORD_SIZE + FREE_ELEMENTS }
    }

    /// Asked before anything is made of a list.
    fn take(&mut self, elements: u32) -> capnp::Result<()> {
        let left = self.elements.checked_sub(elements as usize);
        self.elements = left.ok_or_else(|| bad("lists with more elements than bytes"))?;
        Ok(())
    }
}

fn bad(what: &str) -> capnp::Error {
    capnp::Error::failed(what.to_string())
}

/// Lists of a message that fits into a frame have fewer entries.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
