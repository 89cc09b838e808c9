//! Reading the two copies, and writing them one after the other.
//!
//! Invariants: one effect is in flight at a time. A copy is written durably and read back before
//! the other is touched, so that at every instant one of them is whole.

use alloc::vec::Vec;

use super::format::{EXTENT_SIZE, Image, extent_offset};
use super::{CopyFault, KeyringError};
use crate::event::Event;
use crate::io::{Address, Effect, Effects, FileId, IoError, IoId, Pages};
use crate::limits::{KEYS_EXTENT_PAGES, PAGE_SIZE};

/// Reads copy 0, then copy 1, extent by extent.
#[derive(Debug)]
pub(super) struct Loading {
    bytes: Vec<u8>,
    /// The first copy's outcome, while the second is read.
    first: Option<Result<Image, CopyFault>>,
}

/// What both copies together say.
#[derive(Debug)]
pub(super) struct Loaded {
    pub image: Image,
    /// The copy that is to be overwritten first.
    pub copy_older: usize,
    /// One copy is stale or bad.
    pub heal_wanted: bool,
}

impl Loading {
    pub fn start(io: IoId, effects: &mut Effects) -> Loading {
        read_extent(0, 0, KEYS_EXTENT_PAGES, io, effects);
        Loading { bytes: Vec::new(), first: None }
    }

    /// `io` names the next effect, if there is one; else the outcome is told.
    pub fn on_read_done(
        &mut self,
        pages: Pages,
        result: Result<(), IoError>,
        io: IoId,
        effects: &mut Effects,
    ) -> Option<Result<Loaded, KeyringError>> {
        let copy = usize::from(self.first.is_some());
        let outcome = match self.collect(&pages, result) {
            Ok(Some(image)) => Ok(image),
            Ok(None) => {
                let extent = self.bytes.len() / EXTENT_SIZE;
                read_extent(copy, extent, KEYS_EXTENT_PAGES, io, effects);
                return None;
            }
            Err(fault) => Err(fault),
        };
        self.bytes.clear();
        match self.first.take() {
            None => {
                self.first = Some(outcome);
                read_extent(1, 0, KEYS_EXTENT_PAGES, io, effects);
                None
            }
            Some(first) => {
                let bad = [first.is_err(), outcome.is_err()];
                let chosen = choose(first, outcome);
                for copy in [0, 1].into_iter().filter(|copy| bad[usize::from(*copy)]) {
                    if chosen.is_ok() {
                        effects.event(Event::KeyringCopyBad { copy });
                    }
                }
                Some(chosen)
            }
        }
    }

    /// The image, once all of it is there.
    fn collect(
        &mut self,
        pages: &Pages,
        result: Result<(), IoError>,
    ) -> Result<Option<Image>, CopyFault> {
        result.map_err(CopyFault::Unreadable)?;
        self.bytes.extend_from_slice(pages.as_bytes());
        let size = Image::peek_size(&self.bytes)?;
        if self.bytes.len() < size {
            return Ok(None);
        }
        Image::decode(&self.bytes[..size]).map(Some)
    }
}

fn choose(
    first: Result<Image, CopyFault>,
    second: Result<Image, CopyFault>,
) -> Result<Loaded, KeyringError> {
    for (copy, outcome) in [(0, &first), (1, &second)] {
        // Rights are missing: nothing is known of the disk, and nothing is written over.
        if let Err(CopyFault::Unreadable(error)) = *outcome
            && error != IoError::Device
        {
            return Err(KeyringError::Unreadable { copy, error });
        }
        // The other copy may be older and readable: to go on with it would lose what is newer.
        if let Err(CopyFault::NewerFormat { version }) = outcome {
            return Err(KeyringError::NewerFormat { version: *version });
        }
    }
    match (first, second) {
        (Ok(first), Ok(second)) => {
            let heal_wanted = first.sequence != second.sequence;
            if first.sequence >= second.sequence {
                Ok(Loaded { image: first, copy_older: 1, heal_wanted })
            } else {
                Ok(Loaded { image: second, copy_older: 0, heal_wanted })
            }
        }
        (Ok(image), Err(_)) => Ok(Loaded { image, copy_older: 1, heal_wanted: true }),
        (Err(_), Ok(image)) => Ok(Loaded { image, copy_older: 0, heal_wanted: true }),
        (Err(CopyFault::Unreadable(error)), Err(_)) => {
            Err(KeyringError::Unreadable { copy: 0, error })
        }
        (Err(_), Err(CopyFault::Unreadable(error))) => {
            Err(KeyringError::Unreadable { copy: 1, error })
        }
        (Err(first), Err(second)) => Err(KeyringError::BothCopiesBad { faults: [first, second] }),
    }
}

/// Writes and reads back one copy, then the other.
#[derive(Debug)]
pub(super) struct Saving {
    image: Vec<u8>,
    copy: usize,
    /// Copies done.
    done: usize,
    extent: usize,
}

impl Saving {
    pub fn start(image: &Image, copy: usize, io: IoId, effects: &mut Effects) -> Saving {
        let saving = Saving { image: image.encode(), copy, done: 0, extent: 0 };
        saving.write(Pages::default(), io, effects);
        saving
    }

    /// The extents are written one by one, then read back one by one.
    pub fn on_write_done(mut self, pages: Pages, io: IoId, effects: &mut Effects) -> Saving {
        self.extent += 1;
        if self.extent < self.extents() {
            self.write(pages, io, effects);
        } else {
            self.extent = 0;
            self.read_back(io, effects);
        }
        self
    }

    /// Nothing when both copies are written and read back.
    pub fn on_read_done(
        mut self,
        pages: &Pages,
        io: IoId,
        effects: &mut Effects,
    ) -> Result<Option<Saving>, KeyringError> {
        if pages.as_bytes() != self.slice() {
            return Err(KeyringError::NotKept { copy: self.copy as u8 });
        }
        self.extent += 1;
        if self.extent < self.extents() {
            self.read_back(io, effects);
            return Ok(Some(self));
        }
        self.done += 1;
        #[cfg(verity_zoo)]
        if crate::zoo::is("keys_one_copy") {
            self.done = 2;
        }
        if self.done == 2 {
            return Ok(None);
        }
        self.copy = 1 - self.copy;
        self.extent = 0;
        self.write(Pages::default(), io, effects);
        Ok(Some(self))
    }

    fn write(&self, pages: Pages, io: IoId, effects: &mut Effects) {
        let slice = self.slice();
        let mut pages = pages;
        if pages.size_bytes() == slice.len() {
            pages.as_bytes_mut().copy_from_slice(slice);
        } else {
            pages = Pages::from_bytes(slice);
        }
        let at = Address::new(FileId::Keys, extent_offset(self.copy, self.extent));
        effects.push(Effect::Write { io, at, pages, durable: true });
    }

    fn read_back(&self, io: IoId, effects: &mut Effects) {
        read_extent(self.copy, self.extent, self.slice().len() / PAGE_SIZE, io, effects);
    }

    /// The current extent's part of the image.
    fn slice(&self) -> &[u8] {
        let begin = self.extent * EXTENT_SIZE;
        let end = self.image.len().min(begin + EXTENT_SIZE);
        &self.image[begin..end]
    }

    fn extents(&self) -> usize {
        self.image.len().div_ceil(EXTENT_SIZE)
    }
}

fn read_extent(copy: usize, extent: usize, pages: usize, io: IoId, effects: &mut Effects) {
    let at = Address::new(FileId::Keys, extent_offset(copy, extent));
    effects.push(Effect::Read { io, at, pages: Pages::zeroed(pages) });
}
