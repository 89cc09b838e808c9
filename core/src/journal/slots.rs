//! The redundant headers: their sectors in memory, and their way to the disk.
//!
//! One 256-byte slot for each page of the ring; slot i holds the header of the prepare that begins
//! at page i. Sixteen slots share a sector, so the image of each sector is kept here and is the
//! truth; a slot changes only when its prepare is durable, so that a header on disk always proves
//! that its prepare once was.
//!
//! A slot without a header says so, and which slot it is: zeros, and the sector of other slots, are
//! what damage leaves, never what was not used.
//!
//! Invariants: never two writes of one sector in flight; at most `JOURNAL_HEADER_WRITES_MAX` in
//! all; a sector that changed while it was being written is written again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::prepare::PrepareHeader;
use super::ring::{Ring, SectorIndex};
use crate::ids::ClusterId;
use crate::io::Pages;
use crate::limits::{JOURNAL_HEADER_WRITES_MAX, PAGE_SIZE, PREPARE_HEADER_SIZE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectorState {
    Clean,
    /// In the queue.
    Dirty,
    Writing,
    /// Changed since its write began.
    WritingDirty,
}

/// What is in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Never used, or erased.
    Vacant,
    /// A good header of ours, of whatever op.
    Good,
    /// Neither: torn or rotten.
    Damaged,
}

impl SlotState {
    /// Of the slot at an offset of the header area. Headers of other clusters are damage, and those
    /// of other places.
    pub fn at(area: &[u8], offset: usize, ring: Ring, cluster: ClusterId) -> SlotState {
        let slot = &area[offset..offset + PREPARE_HEADER_SIZE];
        if *slot == vacant(offset) {
            return SlotState::Vacant;
        }
        let ours = |header: PrepareHeader| {
            header.cluster == cluster && ring.slot_offset(header.journal_offset) == offset
        };
        if PrepareHeader::decode(slot).is_ok_and(ours) {
            SlotState::Good
        } else {
            #[cfg(verity_zoo)]
            if crate::zoo::is("slot_of_another_place") && PrepareHeader::decode(slot).is_ok() {
                return SlotState::Vacant;
            }
            SlotState::Damaged
        }
    }
}

/// What says that a slot holds no header: its number, sixteen times.
fn vacant(offset: usize) -> [u8; PREPARE_HEADER_SIZE] {
    assert!(offset.is_multiple_of(PREPARE_HEADER_SIZE));
    let number = (offset / PREPARE_HEADER_SIZE) as u64;
    let mut slot = [0; PREPARE_HEADER_SIZE];
    for unit in slot.chunks_exact_mut(16) {
        unit[..8].copy_from_slice(b"vacant\0\0");
        unit[8..].copy_from_slice(&number.to_le_bytes());
    }
    slot
}

/// Writes over this part of the header area that no slot holds a header.
pub fn fill_vacant(area: &mut [u8], first_offset: usize) {
    for (slot, bytes) in area.chunks_exact_mut(PREPARE_HEADER_SIZE).enumerate() {
        bytes.copy_from_slice(&vacant(first_offset + slot * PREPARE_HEADER_SIZE));
    }
}

/// The header area of a ring that holds nothing.
pub fn vacant_area(ring: Ring) -> Pages {
    let mut area = Pages::zeroed(ring.sectors());
    fill_vacant(area.as_bytes_mut(), 0);
    area
}

#[derive(Debug)]
pub struct Slots {
    ring: Ring,
    cluster: ClusterId,
    image: Pages,
    states: Vec<SectorState>,
    dirty: VecDeque<SectorIndex>,
    buffers: Vec<Pages>,
}

impl Slots {
    /// Takes the header area as it should be; nothing dirty.
    pub fn new(ring: Ring, cluster: ClusterId, image: Pages) -> Slots {
        assert_eq!(image.count(), ring.sectors());
        let mut states = Vec::with_capacity(ring.sectors());
        states.resize(ring.sectors(), SectorState::Clean);
        let mut buffers = Vec::with_capacity(JOURNAL_HEADER_WRITES_MAX);
        buffers.resize_with(JOURNAL_HEADER_WRITES_MAX, || Pages::zeroed(1));
        let dirty = VecDeque::with_capacity(ring.sectors());
        Slots { ring, cluster, image, states, dirty, buffers }
    }

    pub fn memory_bytes(&self) -> usize {
        let buffers = JOURNAL_HEADER_WRITES_MAX * crate::limits::PAGE_SIZE;
        self.image.size_bytes() + self.states.len() * (1 + size_of::<SectorIndex>()) + buffers
    }

    /// Puts the header of a durable prepare in its slot, to be written.
    pub fn set(&mut self, header: &PrepareHeader) {
        self.set_clean(header);
        self.mark_dirty(self.ring.sector_of(header.journal_offset));
    }

    /// Puts a header in its slot that the disk holds already.
    pub fn set_clean(&mut self, header: &PrepareHeader) {
        let at = self.ring.slot_offset(header.journal_offset);
        let slot = &mut self.image.as_bytes_mut()[at..at + PREPARE_HEADER_SIZE];
        slot.copy_from_slice(&header.encode());
    }

    /// No header is in this slot any more; to be written.
    pub fn erase(&mut self, offset: u64) {
        let at = self.ring.slot_offset(offset);
        fill_vacant(&mut self.image.as_bytes_mut()[at..at + PREPARE_HEADER_SIZE], at);
        self.mark_dirty(self.ring.sector_of(offset));
    }

    pub fn state(&self, offset: u64) -> SlotState {
        let at = self.ring.slot_offset(offset);
        SlotState::at(self.image.as_bytes(), at, self.ring, self.cluster)
    }

    fn mark_dirty(&mut self, sector: SectorIndex) {
        let state = &mut self.states[sector as usize];
        *state = match *state {
            SectorState::Clean => {
                self.dirty.push_back(sector);
                SectorState::Dirty
            }
            SectorState::Writing => SectorState::WritingDirty,
            SectorState::Dirty => SectorState::Dirty,
            SectorState::WritingDirty => SectorState::WritingDirty,
        };
    }

    /// The header in the slot for the prepare that begins at `offset`.
    pub fn header(&self, offset: u64) -> Option<PrepareHeader> {
        let at = self.ring.slot_offset(offset);
        PrepareHeader::decode(&self.image.as_bytes()[at..at + PREPARE_HEADER_SIZE]).ok()
    }

    /// Whether something waits to be written or is being written.
    pub fn unwritten(&self) -> bool {
        !self.dirty.is_empty() || self.writing() > 0
    }

    fn writing(&self) -> usize {
        JOURNAL_HEADER_WRITES_MAX - self.buffers.len()
    }

    /// Takes the next dirty sector to write, with its bytes. `held_back` stays where it is.
    pub fn start_write(&mut self, held_back: Option<SectorIndex>) -> Option<(SectorIndex, Pages)> {
        let index = self.dirty.iter().position(|&sector| Some(sector) != held_back)?;
        let mut pages = self.buffers.pop()?;
        let Some(sector) = self.dirty.remove(index) else { unreachable!("just found") };
        assert_eq!(self.states[sector as usize], SectorState::Dirty);
        self.states[sector as usize] = SectorState::Writing;
        let at = sector as usize * PAGE_SIZE;
        pages.as_bytes_mut().copy_from_slice(&self.image.as_bytes()[at..at + PAGE_SIZE]);
        Some((sector, pages))
    }

    pub fn finish_write(&mut self, sector: SectorIndex, pages: Pages) {
        self.buffers.push(pages);
        let state = &mut self.states[sector as usize];
        *state = match *state {
            SectorState::Writing => SectorState::Clean,
            SectorState::WritingDirty => {
                self.dirty.push_back(sector);
                SectorState::Dirty
            }
            SectorState::Clean | SectorState::Dirty => unreachable!("no write was in flight"),
        };
    }
}
