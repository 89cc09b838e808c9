//! What a replica's journal knows of each op, in the order of ops.
//!
//! Invariant: which ops are being written for the first time, and which are rotten, is known
//! without a look at all: there may be a quarter of a million, and both are asked for at every
//! turn. States change in [`Entries::set_state`] alone.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::State;
use crate::crypto::hash::InternalHash;
use crate::ids::Op;
use crate::journal::PrepareHeader;
use crate::journal::ring::to_usize;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// `None` in a hole between holes, until headers are repaired.
    pub checksum: Option<InternalHash>,
    /// `None` in a hole: only what the next op says of it is known.
    pub header: Option<PrepareHeader>,
    pub state: State,
}

#[derive(Debug)]
pub(super) struct Entries {
    /// Op of the first entry.
    first: Op,
    entries: VecDeque<Entry>,
    /// Ops in state [`State::Writing`], lowest first.
    writing: VecDeque<Op>,
    rotten: BTreeSet<Op>,
}

impl Entries {
    /// `first` is the op of the first entry, also while there is none.
    pub fn new(first: Op, entries: Vec<Entry>) -> Entries {
        let mut all = Entries {
            first,
            entries: VecDeque::with_capacity(entries.len()),
            writing: VecDeque::new(),
            rotten: BTreeSet::new(),
        };
        for entry in entries {
            all.push_back(entry);
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn first(&self) -> Op {
        self.first
    }

    /// `None`: there is no entry.
    pub fn last(&self) -> Option<Op> {
        let count = self.entries.len() as u64;
        (count > 0).then(|| Op::new(self.first.get() + count - 1))
    }

    pub fn get(&self, op: Op) -> Option<&Entry> {
        self.entries.get(self.index(op)?)
    }

    fn index(&self, op: Op) -> Option<usize> {
        op.get().checked_sub(self.first.get()).map(to_usize)
    }

    pub fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub fn back(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// An entry's state aside.
    pub fn set_known(&mut self, op: Op, checksum: InternalHash, header: Option<PrepareHeader>) {
        let index = self.index(op);
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            unreachable!("asked by the caller")
        };
        assert!(entry.checksum.is_none_or(|known| known == checksum));
        entry.checksum = Some(checksum);
        entry.header = header.or(entry.header);
    }

    pub fn set_state(&mut self, op: Op, state: State) {
        let index = self.index(op);
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            unreachable!("asked by the caller")
        };
        let before = core::mem::replace(&mut entry.state, state);
        self.forget(op, before);
        self.note(op, state);
    }

    pub fn push_back(&mut self, entry: Entry) {
        let op = Op::new(self.first.get() + self.entries.len() as u64);
        self.entries.push_back(entry);
        self.note(op, entry.state);
    }

    /// As [`Entries::push_back`]; of an empty list, `op` is the first.
    pub fn append(&mut self, op: Op, entry: Entry) {
        if self.entries.is_empty() {
            self.first = op;
        }
        self.push_back(entry);
        assert_eq!(self.last(), Some(op), "appended in the order of ops");
    }

    pub fn push_front(&mut self, op: Op, entry: Entry) {
        assert!(self.is_empty() || op.next() == self.first, "below the first");
        assert!(entry.state == State::Held, "what lies below is judged when it is read");
        self.entries.push_front(entry);
        self.first = op;
    }

    pub fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.forget(self.first, entry.state);
            self.first = self.first.next();
        }
    }

    pub fn pop_back(&mut self) -> Option<Entry> {
        let last = self.last()?;
        let entry = self.entries.pop_back()?;
        self.forget(last, entry.state);
        Some(entry)
    }

    /// The lowest op that is being written for the first time.
    pub fn first_writing(&self) -> Option<Op> {
        self.writing.front().copied()
    }

    /// From `from` on, lowest first.
    pub fn rotten(&self, from: Op) -> impl Iterator<Item = Op> + '_ {
        self.rotten.range(from..).copied()
    }

    fn note(&mut self, op: Op, state: State) {
        match state {
            State::Writing => {
                assert!(self.writing.back().is_none_or(|last| *last < op), "written in order");
                self.writing.push_back(op);
            }
            State::Rotten => {
                self.rotten.insert(op);
            }
            State::Held | State::Rewriting => {}
        }
    }

    fn forget(&mut self, op: Op, state: State) {
        match state {
            State::Writing => self.writing.retain(|writing| *writing != op),
            State::Rotten => {
                self.rotten.remove(&op);
            }
            State::Held | State::Rewriting => {}
        }
    }
}

#[cfg(test)]
mod tests;
