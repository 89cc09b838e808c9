//! Pages for peers: read from the disk as they are, sealed.
//!
//! Purpose: a peer that fetches a checkpoint, or has lost a page, asks for pages by number; it
//! holds their tags, so nothing is checked here. Invariants: only pages in use that no checkpoint
//! is going to write are read, and none of them is written while it is being read; so a page never
//! travels half old and half new.
//!
//! Fault model: what the disk gives is passed on; whoever asked checks it. What the device does not
//! give (EIO) the peer does not get.

use super::Store;
use super::cache::State;
use crate::ids::PageNumber;
use crate::io::{Effect, Effects, IoError, IoId, Pages};
use crate::store::StoreError;

impl Store {
    /// Starts to read a page for a peer. `None`: it is free, or its content is not on the disk.
    pub fn serve_page(&mut self, page: PageNumber, effects: &mut Effects) -> Option<IoId> {
        if page == PageNumber::ZERO || !self.free_set.is_acquired(page) {
            return None;
        }
        let in_memory_only = match self.cache.state(page) {
            Some(State::Dirty | State::Frozen | State::Writing) => true,
            Some(State::Clean | State::Free) | None => false,
        };
        let busy = self.checkpoints.is_to_be_written(page) || self.repairs.is_writing(page);
        if in_memory_only || busy {
            return None;
        }
        let io = self.take_io();
        self.served.insert(io.slot, page);
        let (at, pages) = (self.address(page), Pages::zeroed(1));
        effects.push(Effect::Read { io, at, pages });
        Some(io)
    }

    /// Whether this read is one for a peer.
    #[must_use]
    pub fn is_served(&self, io: IoId) -> bool {
        self.served.contains_key(&io.slot)
    }

    /// The read is done; false: the device does not give it.
    pub fn served(&mut self, io: IoId, result: Result<(), IoError>) -> Result<bool, StoreError> {
        let page = self.served.remove(&io.slot);
        assert!(page.is_some(), "asked for by the caller");
        match result {
            Ok(()) => Ok(true),
            Err(IoError::Device) => Ok(false),
            Err(error) => Err(StoreError::Io(error)),
        }
    }

    /// A page that is to be written is being read, or written by a repair: its write waits.
    pub(super) fn is_being_served(&self, page: PageNumber) -> bool {
        self.served.values().any(|served| *served == page) || self.repairs.is_writing(page)
    }
}
