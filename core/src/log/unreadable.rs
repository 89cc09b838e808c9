//! Blocks that the device does not give (EIO): damage like any other, where there are peers.
//!
//! Purpose: a read of segment or index that ends with a device error is made again block by block;
//! what stays unreadable does not verify, so it is repaired as what rotted is: an index from its
//! segment, a segment from a peer, and the write takes the place of what could not be read.
//! Invariant: only reads. A write or a sync that fails is never made again: it ends the process,
//! whose next one replays what was not durable.
//!
//! Fault model: alone a replica has nobody to ask, and stops, as on every device error.

use super::flush::Purpose;
use super::{LogError, Logs};
use crate::event::Event;
use crate::io::{Address, BlockByBlock, Effect, Effects, FileId, IoError, IoId, Pages};
use crate::limits::PAGE_SIZE;

impl Purpose {
    /// What a read is of.
    fn is_read_of(&self) -> Address {
        let at = |file, number: u64| Address::new(file, number * PAGE_SIZE as u64);
        match *self {
            Purpose::ReadBlocks { file, first } => at(file, first),
            Purpose::LoadPage { tenant, segment, number } => {
                at(FileId::Index { tenant, number: segment }, u64::from(number))
            }
            Purpose::RebuildRead { at, .. } | Purpose::ScrubRead { at } => at,
            Purpose::Create(_)
            | Purpose::Sync(_)
            | Purpose::WriteRun { .. }
            | Purpose::WritePages { .. }
            | Purpose::RebuildWrite { .. }
            | Purpose::MendWrite { .. }
            | Purpose::OneBlock => unreachable!("only reads complete here"),
        }
    }
}

impl Logs {
    fn survives_eio(&self) -> bool {
        #[cfg(verity_zoo)]
        if crate::zoo::is("segment_eio_stops") {
            return false;
        }
        self.repairs_are_possible()
    }

    /// What a read was for, and what came of it; none: it is being made again.
    pub(super) fn read_again(
        &mut self,
        io: IoId,
        pages: Pages,
        result: Result<(), IoError>,
        effects: &mut Effects,
    ) -> Result<Option<(Purpose, Pages)>, LogError> {
        let purpose = self.take_purpose(io);
        let alone = match purpose {
            Purpose::OneBlock => self.block_by_block.remove(&io.slot),
            _whole => None,
        };
        let (purpose, blocks) = match (alone, result) {
            (None, Ok(())) => return Ok(Some((purpose, pages))),
            (None, Err(IoError::Device)) if self.survives_eio() => {
                let at = purpose.is_read_of();
                (purpose, BlockByBlock::new(at, pages))
            }
            (Some((purpose, mut blocks)), Ok(()) | Err(IoError::Device)) => {
                blocks.take(&pages, result);
                self.give_back(pages);
                (purpose, blocks)
            }
            (None, Err(error)) => {
                return Err(LogError { file: purpose.is_read_of().file, error });
            }
            (Some((purpose, _)), Err(error)) => {
                return Err(LogError { file: purpose.is_read_of().file, error });
            }
        };
        if let Some(at) = blocks.next() {
            let io = self.io(Purpose::OneBlock);
            self.block_by_block.insert(io.slot, (purpose, blocks));
            let pages = self.pages(1);
            effects.push(Effect::Read { io, at, pages });
            return Ok(None);
        }
        let (pages, unreadable) = blocks.finish();
        if unreadable > 0 {
            let at = purpose.is_read_of();
            if let FileId::Segment { tenant, number } | FileId::Index { tenant, number } = at.file {
                let (number, blocks) = (number.get(), unreadable as u64);
                effects.event(Event::BlocksUnreadable { tenant, number, blocks });
            }
        }
        Ok(Some((purpose, pages)))
    }
}
