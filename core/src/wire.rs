//! The wire: frames that carry bytes between processes, and the messages of replicas in them.
//!
//! Purpose: one place that turns bytes from outside into plain values or a typed refusal. Client
//! payloads and replica messages travel in the same frame ([`frame`]); a replica message is a fixed
//! header and a body ([`replica`]); the first frames of a connection say who is there ([`hello`]).
//! What the numbers of a message mean is the protocol's business (`vsr::message`): here is decided
//! only whether bytes are a message at all.
//!
//! Invariants: decode and encode are inverse; nothing is allocated before the size that the sender
//! names was held against a limit; a field that a kind of message does not use is zero.
//!
//! Fault model: any bytes. A flipped bit anywhere in a frame is noticed: by the frame's CRC, or by
//! the checksums of header and body, which also hold when the CRC was right by chance.
//!
//! Start reading at [`replica::decode`].

pub mod frame;
pub mod hello;
pub mod replica;
#[cfg(test)]
mod tests;
