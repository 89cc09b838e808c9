//! What a power cut leaves: any subset of what was not durable.

use std::sync::Arc;

use verity_core::limits::PAGE_SIZE;

use super::{Disk, Operation, Sector, SectorId, TEAR_UNIT};
use crate::overrides::Switch;

/// How kind the cut is, drawn per crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// A killed process on a machine that stays up: completed writes can still be read and are no
    /// more durable than before; those in flight may arrive or not.
    Process,
    /// Nothing that was not durable survives.
    Nothing,
    /// Each sector on its own: any version, or a mix of two.
    Any,
}

/// What a crash hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    pub writes_in_flight: u64,
    pub sectors_undecided: u64,
    pub sectors_torn: u64,
}

impl Disk {
    /// The machine stops: in-flight operations are never answered, and every undecided sector is
    /// decided.
    pub fn crash(&mut self, keep: Keep) -> CrashReport {
        let mut report = CrashReport::default();
        let inflight = std::mem::take(&mut self.inflight);
        self.queue.clear();
        for operation in inflight.into_values() {
            match operation {
                Operation::Write { at, pages, .. } => {
                    report.writes_in_flight += 1;
                    let first = at.offset / PAGE_SIZE as u64;
                    for (index, page) in pages.as_slice().iter().enumerate() {
                        let id = (at.file, first + index as u64);
                        self.decide_inflight(id, Arc::new(page.0), keep, &mut report);
                    }
                }
                Operation::Create { file, .. } => {
                    if self.random.coin() {
                        self.files.insert(file);
                    }
                }
                Operation::Remove { file, .. } => {
                    if self.random.coin() {
                        self.erase(file);
                    }
                }
                Operation::Read { .. } | Operation::Sync { .. } => {}
            }
        }
        if keep == Keep::Process {
            return report;
        }
        let volatile = std::mem::take(&mut self.volatile);
        for (id, versions) in volatile {
            if !self.files.contains(&id.0) {
                continue;
            }
            report.sectors_undecided += 1;
            match keep {
                Keep::Nothing => {}
                Keep::Process => unreachable!("returned above"),
                Keep::Any => {
                    let choice = self.random.index(versions.len() + 1);
                    if choice < versions.len() {
                        let sector = Arc::clone(&versions[choice].sector);
                        self.settle_perhaps_torn(id, sector, &mut report);
                    }
                }
            }
        }
        self.slow_until_ns = 0;
        report
    }

    /// A write that was never answered: kept, lost or torn, sector by sector.
    fn decide_inflight(
        &mut self,
        id: SectorId,
        sector: Sector,
        keep: Keep,
        report: &mut CrashReport,
    ) {
        report.sectors_undecided += 1;
        if keep == Keep::Nothing || self.random.coin() {
            return;
        }
        if keep == Keep::Process {
            self.store(id, sector, false);
            return;
        }
        // What completed before on this sector is older than what was in flight.
        self.volatile.remove(&id);
        self.settle_perhaps_torn(id, sector, report);
        self.unreadable.remove(&id);
        self.atlas.rewritten(id);
    }

    fn settle_perhaps_torn(&mut self, id: SectorId, sector: Sector, report: &mut CrashReport) {
        // One copy of several may tear only while enough others are good.
        let tears = self.random.chance(self.faults.torn_at_crash_ppm);
        if !self.board.also(Switch::TornAtCrash, tears) || !self.atlas.allows_tear(id) {
            self.settle(id, sector);
            return;
        }
        report.sectors_torn += 1;
        self.count("torn_at_crash");
        let mut mixed = match self.platter.get(&id) {
            Some(old) => **old,
            None => [0; PAGE_SIZE],
        };
        let units = (PAGE_SIZE / TEAR_UNIT) as u64;
        let border = self.random.range(1, units - 1) as usize * TEAR_UNIT;
        if self.random.coin() {
            mixed[..border].copy_from_slice(&sector[..border]);
        } else {
            mixed[border..].copy_from_slice(&sector[border..]);
        }
        self.settle(id, Arc::new(mixed));
    }
}
