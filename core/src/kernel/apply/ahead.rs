//! Work ahead: the only request of a prepare is executed while that is on its way to the disk.
//!
//! Invariants: nothing that counts is changed before the prepare is committed; what was made is
//! used if this very prepare is applied next, and else forgotten.

use super::super::execute::Execution;
use super::{Running, Stage, room_for};
use crate::ids::Op;
use crate::io::Effects;
use crate::kernel::envelope::Work;
use crate::kernel::{Kernel, Prepare, PrepareKind, Stall, World};
use crate::limits::PAGES_DIRTIED_MARGIN;
use crate::store::Store;
use crate::time::Timestamp;

/// The only request of a prepare that is still being written, executed as far as nothing is changed
/// by it.
#[derive(Debug)]
pub(in crate::kernel) struct Ahead {
    op: Op,
    timestamp: Timestamp,
    seed: [u8; 32],
    running: Running,
    next: usize,
    /// Sealed already: what must fit when it is applied, or all of this is forgotten.
    pages_dirtied: Option<u32>,
}

impl Kernel {
    /// Executes the only request of a prepare that is on its way to the disk, so that little is
    /// left when it commits. All ops before it must be applied. Changes nothing that counts: what
    /// it made is used if this very prepare is applied next, else forgotten; what it misses is left
    /// to apply.
    pub fn look_ahead(&mut self, world: &mut World<'_>, prepare: &Prepare<'_>) {
        assert!(prepare.kind == PrepareKind::Requests && prepare.requests == 1);
        if self.task.is_some() || self.ahead.is_some() {
            return;
        }
        let Ok((mut running, next)) = self.open_request(world, prepare, 0) else { return };
        if let Ok(true) = self.execute_ahead(&mut running, world, prepare) {
            let Prepare { op, timestamp, seed, .. } = *prepare;
            let pages_dirtied = self.seal_ahead(&mut running, world, prepare);
            self.ahead = Some(Ahead { op, timestamp, seed, running, next, pages_dirtied });
            return;
        }
        world.store.forget_misses();
        self.envelope = running.envelope;
        self.envelope.clear();
        if let Stage::Execute(Execution { mut drafts, scratch, .. }) = running.stage {
            drafts.clear();
            self.scratch.drafts = drafts;
            self.execution.insert(scratch).clear();
        }
    }

    /// False: there is something about the request that only apply can judge.
    fn execute_ahead(
        &mut self,
        running: &mut Running,
        world: &mut World<'_>,
        prepare: &Prepare<'_>,
    ) -> Result<bool, Stall> {
        let tenant = running.header.tenant;
        let quiet = &mut Effects::new();
        let attests = matches!(running.envelope.work.as_slice(), [(_, Work::Attest)]);
        if attests
            || world.logs.room() == 0
            || !self.enter_tenant(world, tenant)?
            || self.answer_early(running, world, prepare, quiet)?.is_some()
        {
            return Ok(false);
        }
        self.begin_execution(running, prepare, 0);
        self.execute(running, world)?;
        Ok(true)
    }

    /// Seals the record of a request that was executed ahead: its place is known. Gives the pages
    /// that it can dirty. What was refused, or leaves no record, is left as it is. What is sealed
    /// here and not used after all leaves the process with nobody: its nonce counts as unused.
    fn seal_ahead(
        &mut self,
        running: &mut Running,
        world: &World<'_>,
        prepare: &Prepare<'_>,
    ) -> Option<u32> {
        let stage = core::mem::replace(&mut running.stage, Stage::Lookup);
        let (drafts, pages_dirtied, answer) = match stage {
            Stage::Executed { drafts, pages_dirtied, answer: Ok(results) }
                if !drafts.is_empty() =>
            {
                (drafts, pages_dirtied, Ok(results))
            }
            other => {
                running.stage = other;
                return None;
            }
        };
        let mut stage = self.conclude(running, drafts, answer, world, prepare, &mut Effects::new());
        if let Stage::Commit { transaction, .. } = &mut stage
            && let Some(keys) = world.keys.newest(running.header.tenant)
        {
            transaction.estimated(pages_dirtied.saturating_add(PAGES_DIRTIED_MARGIN));
            transaction.seal_ahead(keys, &mut self.scratch);
        }
        running.stage = stage;
        Some(pages_dirtied)
    }

    /// What was executed ahead, if it was this request of this prepare, and it fits.
    pub(super) fn take_ahead(
        &mut self,
        store: &Store,
        prepare: &Prepare<'_>,
    ) -> Option<(Running, usize)> {
        let ahead = self.ahead.take()?;
        let same = ahead.op == prepare.op
            && ahead.timestamp == prepare.timestamp
            && ahead.seed == prepare.seed;
        let fits = ahead.pages_dirtied.is_none_or(|pages| room_for(store, pages).is_ok());
        (same && fits).then_some((ahead.running, ahead.next))
    }
}
