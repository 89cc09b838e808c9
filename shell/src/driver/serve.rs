//! A node that is served to others: frames of its peers come in, and somebody always drives it.
//!
//! Purpose: a replica has something to do when nobody calls: heartbeats, views, what its peers ask.
//! So the background thread drives it from start to end, and the thread that reads a peer's link
//! steps it with what came, without a hop to another thread. Invariant: as elsewhere, the lock is
//! never held in a system call that waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use verity_core::ids::ReplicaId;
use verity_core::io::Input;
use verity_core::node::{Halt, LeadAnswer};

use super::{Driver, Role, Slot};
use crate::error::Error;

/// How often a node that is told to end is told again: it hears it only when it has opened.
const TELL_AGAIN: Duration = Duration::from_millis(50);

impl Driver {
    /// From now on the background thread drives, until the end. Opening goes on behind this call.
    pub fn serve(&self) {
        let mut inner = self.lock();
        inner.serves = true;
        inner.role = Role::Background;
        self.gathered.set_driven(true);
        inner.turn(self.now());
        self.unlock(inner);
    }

    /// Frames of a peer, in the order they came.
    pub fn receive(&self, from: ReplicaId, frames: &mut Vec<Vec<u8>>) {
        let mut inner = self.lock_first();
        if inner.stop {
            frames.clear();
            return;
        }
        let now = self.now();
        for frame in frames.drain(..) {
            inner.step(now, Input::Received { from, frame });
        }
        inner.turn(now);
        // What gathered waited for a commit, and that may just have come.
        self.take_left(&mut inner);
        self.gathered.may_gather(inner.node.gathers());
        self.unlock(inner);
    }

    /// A peer closed the link on which it sends to us.
    pub fn link_closed(&self, peer: ReplicaId) {
        let mut inner = self.lock();
        if !inner.stop {
            let now = self.now();
            inner.step(now, Input::LinkClosed { peer });
            inner.turn(now);
        }
        self.unlock(inner);
    }

    /// Waits until a quorum has said that this replica leads: a read that begins then sees all that
    /// was acknowledged before this call. False: it does not lead, or nobody said so in this time.
    pub fn confirm_lead(&self, longest: Duration) -> Result<bool, Error> {
        let end = Instant::now() + longest;
        let mut inner = self.lock();
        let Some(asked) = inner.ask_lead(self.now())? else {
            self.unlock(inner);
            return Ok(false);
        };
        loop {
            let confirmed = match inner.node.lead(&asked) {
                LeadAnswer::Confirmed => Some(true),
                LeadAnswer::Lost => Some(false),
                LeadAnswer::Waiting if Instant::now() >= end => Some(false),
                LeadAnswer::Waiting => None,
            };
            if let Some(confirmed) = confirmed {
                self.unlock(inner);
                return Ok(confirmed);
            }
            let slot = Slot::for_this_thread();
            inner.confirming.push((asked, Arc::clone(&slot)));
            self.unlock(inner);
            let told = slot.park_until(end);
            inner = self.lock();
            if !told {
                inner.confirming.retain(|(_, other)| !Arc::ptr_eq(other, &slot));
            }
        }
    }

    /// Whether a write that waits here is worth waiting for.
    pub fn leads_lately(&self) -> bool {
        let now = self.now();
        self.with_node(|node| node.leads_lately(now))
    }

    /// Ends the node: what was asked is answered. `Ok(false)`: not in this time, so that it ends as
    /// in a crash.
    pub fn shut_down_within(&self, longest: Duration) -> Result<bool, Error> {
        let end = Instant::now() + longest;
        loop {
            let mut inner = self.lock();
            if inner.node.halted().is_none() && Instant::now() < end {
                inner.shut_down(self.now());
                self.unlock(inner);
                std::thread::sleep(TELL_AGAIN);
                continue;
            }
            self.end(&mut inner);
            return match inner.node.halted() {
                Some(Halt::Shutdown) => Ok(true),
                None => Ok(false),
                Some(_) => Err(inner.why_halted()),
            };
        }
    }

    /// Why the node has halted, when it has.
    pub fn halted(&self) -> Option<Error> {
        let inner = self.lock();
        inner.node.halted().is_some().then(|| inner.why_halted())
    }
}
