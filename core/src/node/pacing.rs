//! What makes better use of time: calls that a driver may make between two inputs.
//!
//! Invariant: none of them is ever needed, and none changes a result. The simulator makes them at
//! some turns and not at others.

use super::{Node, State};
use crate::io::Effects;
use crate::store::Chunk;
use crate::time::Clock;

impl Node {
    /// A prepare is on its way to the disk: requests gather until it is there, so whoever leaves
    /// one need not hurry.
    #[must_use]
    pub fn gathers(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.vsr.status().in_flight > 0)
    }

    /// Worth a call before the completion of a write is handed to [`Node::step`], if what this
    /// emits reaches the disk before that: requests that gathered meanwhile are proposed at once,
    /// and their write overlaps with applying what has just become durable.
    pub fn hurry(&mut self, now: Clock, effects: &mut Effects) {
        if let State::Running(running) = &mut self.state {
            let before = effects.len();
            let outcome = running.hurry(now, effects);
            self.settle(outcome, now, before, effects);
        }
    }

    /// Whether a prepare of many requests is applied in slices: between two of them apply pauses,
    /// [`Node::deadline`] is now, and the caller may let gathered requests go out by
    /// [`Node::hurry`], if none is being written, before [`Node::run`] or `step` goes on. Changes
    /// no result.
    pub fn slice(&mut self, sliced: bool) {
        if let State::Running(running) = &mut self.state {
            running.kernel.slice(sliced);
        }
    }

    /// Apply pauses: see [`Node::slice`].
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(&self.state, State::Running(running) if running.paused_at.is_some())
    }

    /// Apply pauses amid a prepare: more answers come soon.
    #[must_use]
    pub fn is_paused_amid(&self) -> bool {
        let State::Running(running) = &self.state else { return false };
        running.paused_at.is_some() && running.applying.is_some()
    }

    /// Worth a call while the caller would only wait for the disk: does what can be done ahead of a
    /// commit.
    pub fn work_ahead(&mut self) {
        if let State::Running(running) = &mut self.state {
            running.work_ahead();
        }
    }

    /// Memory for the page cache that will be used soon, in pages: worth making where nobody waits,
    /// and handing in by [`Node::give_chunk`].
    #[must_use]
    pub fn chunk_wanted(&self) -> Option<usize> {
        match &self.state {
            State::Running(running) => running.store.chunk_wanted(),
            State::Opening(..) | State::Draining(_) | State::Syncing(..) | State::Halted(_) => None,
        }
    }

    /// What [`Node::chunk_wanted`] asked for.
    pub fn give_chunk(&mut self, chunk: Chunk) {
        if let State::Running(running) = &mut self.state {
            running.store.give_chunk(chunk);
        }
    }
}
