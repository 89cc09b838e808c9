//! Bounded containers that are the same everywhere: no random seeds, no growth, no surprises.
//!
//! Invariants: capacities are fixed at creation; nothing here allocates afterwards. [`PageMap`] has
//! no iteration, so the order of its slots can never steer state.

pub mod base64;
mod bit_set;
pub mod cbor;
mod page_map;
mod queue;

pub use bit_set::BitSet;
pub use page_map::PageMap;
pub use queue::Queue;
