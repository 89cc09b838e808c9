//! Scrubbing: what nobody reads is read now and then, so that its damage does not wait until the
//! other copies are damaged, too.
//!
//! Purpose: a *tour* goes through all logs, tenant by tenant, and begins anew when it has ended, or
//! when a process begins. Invariants: at most one read every `SCRUB_TICK_NS`; while there is other
//! work, every `SCRUB_SKIPS_MAX`th time only, so that it never stops and never is in the way.
//!
//! Fault model: that of `log::scrub`. A page that a tour needs and nobody has ends the tour.

use alloc::collections::VecDeque;

use crate::ids::TenantId;
use crate::io::Effects;
use crate::limits::{SCRUB_SKIPS_MAX, SCRUB_TICK_NS};
use crate::log::ScrubStep;
use crate::node::running::{Phase, Running};
use crate::store::{Fault, Pins};
use crate::time::{Clock, Instant};

#[derive(Debug, Default)]
pub(super) struct Scrubbing {
    due: Option<Instant>,
    skipped: u32,
    /// Whose logs are still to be read; none: a tour begins.
    tenants: Option<VecDeque<TenantId>>,
    pins: Pins,
    tours: u64,
}

/// What scrubbing came to since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Tours through all logs that ended.
    pub tours: u64,
    /// Blocks that were read, and how often one was found damaged.
    pub blocks: u64,
    pub damaged: u64,
}

impl Running {
    pub(super) fn scrub_status(&self) -> ScrubStatus {
        let (blocks, damaged) = self.logs.scrubbed();
        ScrubStatus { tours: self.scrubbing.tours, blocks, damaged }
    }

    pub(super) fn scrub_due(&self) -> Option<Instant> {
        self.scrubbing.due.filter(|_| self.scrubs())
    }

    fn scrubs(&self) -> bool {
        let works = match self.phase {
            Phase::Following | Phase::Serving => true,
            Phase::Replay
            | Phase::View
            | Phase::Recovery { .. }
            | Phase::ShuttingDown { .. }
            | Phase::Stopped => false,
        };
        works && self.config.scrub && !self.sync_offered
    }

    pub(super) fn drive_scrub(&mut self, now: Clock, effects: &mut Effects) {
        if !self.scrubs() {
            return;
        }
        let next = now.monotonic.plus_ns(SCRUB_TICK_NS);
        if now.monotonic < *self.scrubbing.due.get_or_insert(next) {
            return;
        }
        self.scrubbing.due = Some(next);
        let works = !self.is_idle() || self.applying.is_some() || self.checkpoint.is_some();
        if works && self.scrubbing.skipped < SCRUB_SKIPS_MAX {
            self.scrubbing.skipped += 1;
            return;
        }
        self.scrubbing.skipped = 0;
        match self.store.ready(&self.scrubbing.pins) {
            Ok(false) => {}
            Ok(true) => match self.scrub_slice(effects) {
                Ok(()) => self.store.unpin(&mut self.scrubbing.pins),
                Err(_fault) => self.store.fetch(&mut self.scrubbing.pins, effects),
            },
            Err(_damaged) => {
                self.store.unpin(&mut self.scrubbing.pins);
                self.scrubbing.tenants = None;
            }
        }
    }

    fn scrub_slice(&mut self, effects: &mut Effects) -> Result<(), Fault> {
        if self.scrubbing.tenants.is_none() {
            let mut tenants: VecDeque<TenantId> = self.kernel.tenants(&self.store)?.into();
            tenants.retain(|tenant| *tenant != TenantId::SYSTEM);
            tenants.push_front(TenantId::SYSTEM);
            self.scrubbing.tenants = Some(tenants);
        }
        let tenant = self.scrubbing.tenants.as_ref().and_then(VecDeque::front).copied();
        let Some(tenant) = tenant else {
            self.scrubbing.tours += 1;
            self.scrubbing.tenants = None;
            return Ok(());
        };
        let head = self.kernel.log_head(&self.store, &self.logs, tenant)?;
        match self.logs.scrub_step(tenant, &head, effects) {
            ScrubStep::More => {}
            ScrubStep::Done => {
                if let Some(tenants) = &mut self.scrubbing.tenants {
                    tenants.pop_front();
                }
            }
        }
        Ok(())
    }
}
