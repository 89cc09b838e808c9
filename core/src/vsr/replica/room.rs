//! Rule 17: a primary whose disk has no room for requests makes way for one whose disk has.

use super::Replica;
use crate::limits::{VSR_ABDICATE_NS, VSR_PING_NS};
use crate::time::Clock;

/// A peer that has not said for so many pings that it has room may be gone.
const PINGS_MISSED_MAX: u64 = 5;

impl Replica {
    /// Whether our own disk has no room for requests. What is decided already is still written.
    pub fn set_full(&mut self, now: Clock, full: bool) {
        self.full_since = full.then(|| self.full_since.unwrap_or(now.monotonic));
    }

    /// Where nobody has room nobody moves: a view costs a record, and would help nobody.
    pub(super) fn stands_down(&self, now: Clock) -> bool {
        #[cfg(verity_zoo)]
        if crate::zoo::is("full_disk_keeps_lead") {
            return false;
        }
        let long = |since| now.monotonic.since_ns(since) > VSR_ABDICATE_NS;
        let lately = |at| now.monotonic.since_ns(at) < PINGS_MISSED_MAX * VSR_PING_NS;
        self.full_since.is_some_and(long)
            && self.peers.iter().any(|peer| peer.room_at.is_some_and(lately))
    }
}
