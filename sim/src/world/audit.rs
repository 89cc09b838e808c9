//! What must hold at the end: everything can be read, and the log alone tells the same story.

use std::collections::{BTreeMap, BTreeSet};

use verity_core::ids::{Generation, SegmentNumber, TenantId};
use verity_core::io::FileId;
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{RecordKind, SegmentEnd, SegmentExtent, SegmentStart, SegmentVerifier};

use super::World;
use super::clients::{Ask, tenant_id};
use crate::disk::Disk;
use crate::overrides::Switch;
use crate::report::{Failure, FailureKind};
use crate::workload::Workload;

/// What the log says of one transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub id: [u8; 16],
    pub op: u64,
    pub timestamp_ns: u64,
    /// Row changes and appended records.
    pub events: u64,
    pub refused: bool,
}

impl World {
    /// Reads every table whole, now and at past positions, and compares.
    pub(super) fn final_reads(&mut self) -> Result<(), Failure> {
        for tenant in 0..self.ledgers.len() {
            for table in self.ledgers[tenant].model.table_names() {
                let model = &self.ledgers[tenant].model;
                let (Some(spec), Some(created)) = (model.spec(&table), model.created_at(&table))
                else {
                    unreachable!("the name came from the model")
                };
                let spec = spec.clone();
                let head = self.ledgers[tenant].head().unwrap_or(created);
                let mut positions = vec![None];
                positions.extend((0..3).map(|_| Some(self.random.range(created, head))));
                let whole = |position| (tenant, Workload::whole(&spec, position));
                self.unread.extend(positions.into_iter().map(whole));
            }
            for (table, created, dropped) in self.ledgers[tenant].model.gone() {
                let last = dropped - 1;
                for position in [self.random.range(created, last), last] {
                    let model = &self.ledgers[tenant].model;
                    let Some(spec) = model.spec_at(&table, Some(position)) else {
                        unreachable!("it was there then")
                    };
                    let whole = Workload::whole(spec, Some(position));
                    self.unread.push((tenant, whole));
                }
            }
        }
        while let Some((tenant, query)) = self.unread.pop() {
            self.drive(|world| world.node.as_ref().is_some_and(|node| node.is_ready()))?;
            if self.ended_by_damage {
                return Ok(());
            }
            self.ask(Ask::Audit, tenant, query)?;
            self.after_step()?;
            self.drive_until_settled()?;
        }
        self.settle()
    }

    /// Shutdown, an offline audit of what is on the disk, and one more open.
    pub(super) fn last_restart_and_audit(&mut self) -> Result<(), Failure> {
        self.drive(|world| world.node.as_ref().is_some_and(|node| node.jobs_idle()))?;
        self.shut_down()?;
        if self.ended_by_damage {
            return Ok(());
        }
        self.search_disk()?;
        self.audit_logs()?;
        if self.disk.atlas.fatal_zones().next().is_none() {
            self.rebuild_final()?;
        }
        if self.plan.twin && self.board.lets(Switch::Twin) {
            self.compare_twins()?;
        }
        self.drive(|world| world.node.as_ref().is_some_and(|node| node.is_ready()))?;
        self.final_reads()
    }

    /// No plaintext on the disk, also across the borders of sectors that were written apart.
    fn search_disk(&mut self) -> Result<(), Failure> {
        for file in self.disk.files() {
            let mut window = vec![0; 2 * PAGE_SIZE];
            let mut before = None;
            for (number, sector) in self.disk.sectors_of(file) {
                window.copy_within(PAGE_SIZE.., 0);
                if before != number.checked_sub(1) {
                    window[..PAGE_SIZE].fill(0);
                }
                window[PAGE_SIZE..].copy_from_slice(&sector[..]);
                before = Some(number);
                if let Some(offset) = self.search.find(&window) {
                    let detail = format!("plaintext in {file:?}, sector {number}, byte {offset}");
                    return Err(Failure::new(FailureKind::Canary, detail));
                }
            }
        }
        Ok(())
    }

    /// Every tenant's log verifies from its bytes alone, and holds each acknowledged transaction
    /// once, and nothing else but what was in doubt.
    fn audit_logs(&mut self) -> Result<(), Failure> {
        self.audit_log(TenantId::SYSTEM)?;
        for tenant in 0..self.ledgers.len() {
            if !self.tenants_ready.contains(&tenant) {
                continue;
            }
            if let Some(found) = self.audit_log(tenant_id(tenant))? {
                self.compare_log(tenant, &found)?;
            }
        }
        Ok(())
    }

    /// `None`: damage of the world's own making was found, which is all that can be asked.
    fn audit_log(&mut self, tenant: TenantId) -> Result<Option<BTreeMap<u64, Found>>, Failure> {
        match read_log(&self.disk, tenant) {
            Ok(found) => Ok(Some(found)),
            Err((file, _)) if self.disk.atlas.is_damaged(file) => {
                self.count(|report| {
                    report.damage_detected = Some(format!("the audit found damage in {file:?}"));
                });
                Ok(None)
            }
            Err((_, failure)) => Err(failure),
        }
    }

    fn compare_log(&self, tenant: usize, found: &BTreeMap<u64, Found>) -> Result<(), Failure> {
        let ledger = &self.ledgers[tenant];
        let mut ids = BTreeSet::new();
        for (position, entry) in found {
            if entry.id != [0; 16] && !ids.insert(entry.id) {
                let detail = format!("tenant {}: the id at {position} is twice", tenant + 1);
                return Err(Failure::new(FailureKind::Log, detail));
            }
        }
        for (position, acknowledged) in &ledger.acknowledged {
            let lost = |why: &str| {
                let detail = format!(
                    "tenant {}: transaction {} acknowledged at {position} (op {}): {why}",
                    tenant + 1,
                    acknowledged.id,
                    acknowledged.op
                );
                Err(Failure::new(FailureKind::Lost, detail))
            };
            let Some(entry) = found.get(position) else { return lost("the log has no end there") };
            if entry.id != acknowledged.id.0 {
                return lost("the log holds another id there");
            }
            if entry.op != acknowledged.op || entry.refused {
                return lost("the log holds another outcome there");
            }
            if entry.events > acknowledged.events {
                return lost("the log holds more records than it has changes");
            }
        }
        for (position, entry) in found {
            let known = ledger.acknowledged.contains_key(position) || entry.refused;
            if !known && entry.events > 0 {
                let detail = format!(
                    "tenant {}: the log holds a transaction at {position} (op {}) that nobody was \
                     told of, though every request was answered",
                    tenant + 1,
                    entry.op
                );
                return Err(Failure::new(FailureKind::Log, detail));
            }
        }
        Ok(())
    }
}

/// Reads and verifies a whole log as it is on a disk.
pub(super) fn read_log(
    disk: &Disk,
    tenant: TenantId,
) -> Result<BTreeMap<u64, Found>, (FileId, Failure)> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    let mut before = SegmentEnd::genesis();
    let mut commitments = BTreeSet::new();
    let mut generation = Generation::ZERO;
    let mut complaint = None;
    for number in 0.. {
        let number = SegmentNumber::new(number);
        let file = FileId::Segment { tenant, number };
        if !disk.exists(file) {
            break;
        }
        let start = SegmentStart { tenant, number, before: Some(before.clone()) };
        let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
        let bytes = disk.contents(file);
        let broken = |damage| (file, Failure::new(FailureKind::Log, format!("{file:?}: {damage}")));
        let pushed = verifier.push(&bytes, |view| {
            let metadata = &view.record.metadata;
            // Each has salts of its own: equal contents must not show as equal commitments.
            if !commitments.insert(metadata.commitment.0) {
                complaint = Some(format!("{}: a commitment twice", metadata.position));
            }
            // The nonce of a record is its position, under a key of the generation. Positions
            // that a crash took back are used again, so no two views may share one.
            let recovery = metadata.kind == RecordKind::RecoveryRecord;
            let raised = metadata.generation > generation;
            if metadata.generation < generation || (recovery && !raised) {
                let now = metadata.generation;
                complaint = Some(format!("{}: {now:?} after {generation:?}", metadata.position));
            }
            generation = metadata.generation;
            let entry = found.entry(metadata.transaction_last.get()).or_default();
            entry.op = metadata.op.get();
            entry.timestamp_ns = metadata.timestamp.0;
            match metadata.kind {
                RecordKind::RowPut | RecordKind::RowDelete | RecordKind::Append => {
                    entry.events += 1;
                }
                RecordKind::Refused => entry.refused = true,
                _ => {}
            }
            if !metadata.idempotency.is_none() {
                entry.id = metadata.idempotency.0;
            }
            Ok(())
        });
        // After a graceful shutdown nothing may follow the last record but zeros.
        pushed.map_err(broken)?;
        if let Some(complaint) = &complaint {
            let detail = format!("tenant {tenant}, position {complaint}");
            return Err((file, Failure::new(FailureKind::Log, detail)));
        }
        before = verifier.finish().map_err(broken)?;
    }
    Ok(found)
}
