//! What passes the boundary is watched: prepares on their way to the ring.
//!
//! Two uses: no nonce of a sealed request is ever used for two texts; and the world learns which
//! prepares have a witness, so that in damage mode it can rot one that was surely acknowledged.

use std::collections::BTreeMap;

use verity_core::ids::TenantId;
use verity_core::io::{Address, FileId, Input, IoId};
use verity_core::journal::{Operation, PrepareHeader};
use verity_core::kernel::batch::unpack_at;
use verity_core::limits::{PAGE_SIZE, PREPARE_HEADER_SIZE};

use super::World;
use crate::atlas::{Mode, Zone};
use crate::disk::SectorId;
use crate::overrides::Switch;
use crate::report::{Failure, FailureKind};

#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    op: u64,
    commit: u64,
    first_sector: u64,
    sectors: u64,
}

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Tenant and nonce → hash of the sealed text.
    nonces: BTreeMap<(TenantId, [u8; 12]), [u8; 32]>,
    in_flight: BTreeMap<IoId, Written>,
    /// The last few prepares whose write was answered.
    written: Vec<Written>,
}

/// Prepares that are remembered.
const WRITTEN_MAX: usize = 32;

impl World {
    pub(super) fn watch_write(
        &mut self,
        io: IoId,
        at: Address,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        if at.file != FileId::Journal || bytes.len() < PREPARE_HEADER_SIZE {
            return Ok(());
        }
        let Ok(header) = PrepareHeader::decode(bytes) else { return Ok(()) };
        let first_sector = at.offset / PAGE_SIZE as u64;
        if !self.in_ring(first_sector) {
            return Ok(());
        }
        if (bytes.len() as u64) < header.padded_bytes() {
            // Recovery restores a first page alone; its prepare was watched when it was written.
            assert_eq!(bytes.len(), PAGE_SIZE, "a prepare is written whole, or its first page is");
            return Ok(());
        }
        let written = Written {
            op: header.op.get(),
            commit: header.commit.get(),
            first_sector,
            sectors: (bytes.len() / PAGE_SIZE) as u64,
        };
        self.watch.in_flight.insert(io, written);
        if header.operation == Operation::Requests {
            let body = &bytes[PREPARE_HEADER_SIZE..header.size as usize];
            self.watch_nonces(body)?;
        }
        Ok(())
    }

    fn in_ring(&self, sector: u64) -> bool {
        self.disk.atlas.zone((FileId::Journal, sector)) == Zone::JournalRing
    }

    fn watch_nonces(&mut self, body: &[u8]) -> Result<(), Failure> {
        let mut offset = 0;
        while offset < body.len() {
            let Ok((header, sealed, next)) = unpack_at(body, offset) else {
                let detail = format!("a prepare with a body that is no batch, at byte {offset}");
                return Err(Failure::new(FailureKind::Log, detail));
            };
            let hash = *blake3::hash(sealed).as_bytes();
            let key = (header.tenant, header.nonce);
            if self.watch.nonces.insert(key, hash).is_some_and(|before| before != hash) {
                let detail = format!("tenant {}: nonce {:02x?}", header.tenant, header.nonce);
                return Err(Failure::new(FailureKind::Nonce, detail));
            }
            offset = next;
        }
        Ok(())
    }

    pub(super) fn watch_input(&mut self, input: &Input) {
        if let Input::WriteDone { io, result, .. } = input
            && let Some(written) = self.watch.in_flight.remove(io)
            && result.is_ok()
        {
            self.watch.written.push(written);
            if self.watch.written.len() > WRITTEN_MAX {
                self.watch.written.remove(0);
            }
        }
    }

    /// After a crash in damage mode: perhaps rots a prepare that a later one proves committed.
    pub(super) fn damage_ring(&mut self) {
        self.watch.in_flight.clear();
        if self.disk.atlas.mode() != Mode::Damage || self.healed || !self.crash_random.coin() {
            return;
        }
        let Some(witness) = self.watch.written.iter().max_by_key(|written| written.commit).copied()
        else {
            return;
        };
        let proven: Vec<Written> = self
            .watch
            .written
            .iter()
            .filter(|written| written.op <= witness.commit && written.op < witness.op)
            .copied()
            .collect();
        // The newest ones: replay still needs them.
        let Some(newest) = proven.iter().max_by_key(|written| written.op) else { return };
        let nth = self.crash_random.below(newest.sectors);
        let id: SectorId = (FileId::Journal, newest.first_sector + nth);
        if !self.board.lets(Switch::RotOfPrepares) {
            return;
        }
        self.disk.atlas.force(id);
        self.disk.rot(id);
        self.note(|| format!("rot of a committed prepare at {id:?}"));
    }
}
