//! Looking at copies of the disk: rebuild equals live, and what became of transactions without an
//! idempotency id that a crash took the answer of.
//!
//! At most one such transaction of a tenant is in doubt at a time, so the log tells: it is the one
//! that nobody was told of, or there is none.

use super::World;
use super::audit::read_log;
use super::clients::tenant_id;
use crate::atlas::Mode;
use crate::disk::DiskFaults;
use crate::ledger::Committed;
use crate::overrides::Switch;
use crate::rebuild;
use crate::replica::BootOptions;
use crate::report::{Failure, FailureKind};
use crate::solo::Solo;
use verity_core::ids::IdempotencyId;

impl World {
    /// Another machine with what a power cut at this moment leaves; its process has opened, and has
    /// shut down again. `None`: what one replica cannot repair is damaged.
    fn power_cut_copy(&mut self) -> Result<Option<Solo>, Failure> {
        if self.disk.atlas.fatal_zones().next().is_some() {
            return Ok(None);
        }
        let disk = self.disk.fork(self.random.stream("copy"), DiskFaults::NONE);
        let mut solo = Solo::new(disk, self.master.clone());
        solo.wall = self.clock.clock().wall;
        let evict_everything = self.random.coin();
        let options = BootOptions::new(512, evict_everything);
        let seed = self.random.seed_bytes();
        let halted = |halt| Failure::new(FailureKind::Halted, format!("copy of the disk: {halt}"));
        solo.open(options, seed).map_err(halted)?;
        solo.shutdown().map_err(halted)?;
        Ok(Some(solo))
    }

    /// Segments, and the journal after the checkpoint, give the state that is live.
    pub(super) fn rebuild_copy(&mut self) -> Result<(), Failure> {
        let Some(solo) = self.power_cut_copy()? else { return Ok(()) };
        self.compare_rebuilt(solo)
    }

    /// The same of the process that has just shut down here.
    pub(super) fn rebuild_final(&mut self) -> Result<(), Failure> {
        let disk = self.disk.fork(self.random.stream("copy"), DiskFaults::NONE);
        let solo = Solo::new(disk, self.master.clone());
        self.compare_rebuilt(solo)
    }

    fn compare_rebuilt(&mut self, solo: Solo) -> Result<(), Failure> {
        let report = rebuild::check(solo.disk, solo.master)
            .map_err(|text| Failure::new(FailureKind::Rebuild, text))?;
        self.note(|| format!("rebuilt {} records: {:?}", report.records, report.digest));
        self.count(|counts| counts.rebuilds += 1);
        Ok(())
    }

    pub(super) fn may_be_anonymous(&mut self, tenant: usize) -> bool {
        self.plan.mode == Mode::Safety
            && self.random.chance(self.plan.anonymous_ppm)
            && self.board.lets(Switch::Anonymous)
            && self.doubts[tenant].is_none()
            && !self
                .pending
                .values()
                .any(|pending| pending.tenant == tenant && pending.request.idempotency.is_none())
    }

    /// The process died: of what was on its way without an id nobody knows.
    pub(super) fn doubt_anonymous(&mut self) {
        let lost: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.request.idempotency.is_none() && pending.copies > 0)
            .map(|(serial, _)| *serial)
            .collect();
        for serial in lost {
            let Some(pending) = self.pending.remove(&serial) else { continue };
            self.release(pending.client);
            self.doubts[pending.tenant] = Some(pending.statements);
        }
    }

    /// Nothing is pending: the log tells what became of the transactions in doubt.
    pub(super) fn resolve_doubts(&mut self) -> Result<(), Failure> {
        if self.doubts.iter().all(Option::is_none) {
            return Ok(());
        }
        let Some(solo) = self.power_cut_copy()? else { return Ok(()) };
        for tenant in 0..self.doubts.len() {
            let Some(statements) = self.doubts[tenant].take() else { continue };
            let found = read_log(&solo.disk, tenant_id(tenant)).map_err(|(_, failure)| failure)?;
            let ledger = &mut self.ledgers[tenant];
            let unknown = found.into_iter().filter(|(position, entry)| {
                entry.id == [0; 16] && entry.events > 0 && !ledger.knows(*position)
            });
            let unknown: Vec<_> = unknown.collect();
            let wrong = |detail| Failure::new(FailureKind::Wrong, detail);
            match &unknown[..] {
                [] => {}
                [(position, entry)] => {
                    let committed = Committed {
                        id: IdempotencyId::NONE,
                        statements,
                        effects: None,
                        op: entry.op,
                        timestamp_ns: entry.timestamp_ns,
                    };
                    ledger.commit(*position, committed).map_err(wrong)?;
                }
                more => {
                    let detail = format!("one transaction in doubt, these in the log: {more:?}");
                    return Err(wrong(detail));
                }
            }
            self.count(|report| report.doubts += 1);
        }
        Ok(())
    }
}
