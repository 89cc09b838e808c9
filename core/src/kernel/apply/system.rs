//! Work without requests: recovery, checkpoint records, the round of a shutdown.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::event::Event;
use crate::ids::{IdempotencyId, PrincipalId, TenantId};
use crate::io::Effects;
use crate::kernel::payload::{Payload, STREAM_SYSTEM};
use crate::kernel::recovery::RecoveryRecord;
use crate::kernel::transaction::{Origin, Transaction};
use crate::kernel::trees::{self, TENANTS_TREE};
use crate::kernel::{Kernel, Prepare, Stall, World};
use crate::log::CheckpointRecord;
use crate::store::Cursor;

/// Checkpoint records for every log with news, tenant by tenant, the system's last.
#[derive(Debug)]
pub(super) struct Visit {
    pub cursor: Cursor,
    pub tenant: Option<TenantId>,
    pub committing: Option<Transaction>,
    pub visited: u64,
    /// Tenants whose logs got a record.
    pub recorded: u32,
}

impl Kernel {
    /// Runs a transaction against the tenant's catalog in memory.
    pub(super) fn commit(
        &mut self,
        transaction: &mut Transaction,
        world: &mut World<'_>,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        let tenant = transaction.tenant();
        let Some(state) = self.tenants.get_mut(&tenant) else {
            unreachable!("the tenant was entered before its transaction began");
        };
        transaction.run(world, &mut state.catalogs, &mut self.scratch, effects)?;
        self.note_jobs(tenant);
        Ok(())
    }

    /// Appends a checkpoint record when one is due, or when `news` is enough of a reason.
    pub(super) fn commit_checkpoint_record(
        &mut self,
        tenant: TenantId,
        news: bool,
        committing: &mut Option<Transaction>,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        if committing.is_none() {
            let head = self.head(world, tenant);
            let due = head.checkpoint_record_due(self.constants.checkpoint_record_interval);
            #[cfg(verity_zoo)]
            let due = due && !crate::zoo::is("checkpoint_records_forgotten");
            if !(due || news && head.has_news()) {
                return Ok(());
            }
            let record = CheckpointRecord::of(head, prepare.timestamp, None);
            let mut drafts = core::mem::take(&mut self.scratch.drafts);
            let schema_version = self.catalog_in_memory(tenant).version;
            drafts.push(&Payload::Checkpoint(record), STREAM_SYSTEM, schema_version);
            let origin = self.system_origin(tenant, prepare);
            *committing = Some(Transaction::new(origin, head.next, drafts));
        }
        let Some(transaction) = committing else { unreachable!("just set") };
        self.commit(transaction, world, effects)?;
        if let Some(transaction) = committing.take() {
            self.scratch.drafts = transaction.into_drafts();
        }
        Ok(())
    }

    pub(super) fn system_origin(&self, tenant: TenantId, prepare: &Prepare<'_>) -> Origin {
        Origin {
            tenant,
            op: prepare.op,
            generation: self.generation,
            timestamp: prepare.timestamp,
            principal: PrincipalId::ZERO,
            idempotency: IdempotencyId::NONE,
        }
    }

    pub(super) fn run_recovery(
        &mut self,
        record: &RecoveryRecord,
        committing: &mut Option<Transaction>,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        let tenant = TenantId::SYSTEM;
        if committing.is_none() {
            self.enter_tenant(world, tenant)?;
            let mut missing = Vec::new();
            let first_ever = !world.store.tree_exists(TENANTS_TREE)?;
            for (tenant, kek_hash) in &record.evidence.tenants {
                if first_ever || !world.store.contains(TENANTS_TREE, &trees::tenant_key(*tenant))? {
                    missing.push((*tenant, *kek_hash));
                }
            }
            let mut drafts = core::mem::take(&mut self.scratch.drafts);
            let schema_version = self.catalog_in_memory(tenant).version;
            let payload = Payload::Recovery(record.clone());
            drafts.push(&payload, STREAM_SYSTEM, schema_version);
            for (tenant, kek_hash) in missing {
                let payload = Payload::TenantCreated { tenant, kek_hash };
                drafts.push(&payload, STREAM_SYSTEM, schema_version);
            }
            let first = self.head(world, tenant).next;
            let origin = self.system_origin(tenant, prepare);
            *committing = Some(Transaction::new(origin, first, drafts));
        }
        if let Some(transaction) = committing {
            self.commit(transaction, world, effects)?;
        }
        if let Some(transaction) = committing.take() {
            self.scratch.drafts = transaction.into_drafts();
        }
        effects.event(Event::RecoveryRecorded { op: prepare.op });
        Ok(())
    }

    pub(super) fn run_visit(
        &mut self,
        visit: &mut Visit,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        loop {
            let Some(tenant) = visit.tenant else {
                let mut next = None;
                let _ = world.store.scan(TENANTS_TREE, &mut visit.cursor, |key, _| {
                    next = Some(trees::tenant_of_key(key));
                    ControlFlow::Break(())
                })?;
                // The system's own log comes last.
                visit.tenant = Some(next.unwrap_or(TenantId::SYSTEM));
                continue;
            };
            let system = tenant == TenantId::SYSTEM;
            let may = system || visit.recorded < self.constants.shutdown_records_max;
            let begun = visit.committing.is_some();
            if begun || may && self.has_news(world, tenant)? {
                if !begun {
                    self.enter_tenant(world, tenant)?;
                }
                let committing = &mut visit.committing;
                self.commit_checkpoint_record(tenant, true, committing, world, prepare, effects)?;
                visit.recorded += 1;
            }
            if system {
                return Ok(());
            }
            visit.tenant = None;
            visit.visited += 1;
        }
    }

    /// Has the log of the tenant records after its last checkpoint record?
    fn has_news(&self, world: &World<'_>, tenant: TenantId) -> Result<bool, Stall> {
        if let Some(head) = world.logs.head(tenant) {
            return Ok(head.has_news());
        }
        Ok(self.stored_head(world.store, tenant)?.has_news())
    }
}
