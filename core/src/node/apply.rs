//! Applying committed prepares, one after the other, whatever pages they miss.

use alloc::vec::Vec;

use crate::event::Event;
use crate::ids::Op;
use crate::io::Effects;
use crate::journal::{Operation, PrepareHeader};
use crate::kernel::{Prepare as KernelPrepare, PrepareKind, Reply, RequestError, Stall, World};
use crate::node::api::Halt;
use crate::node::checkpoint::CheckpointTask;
use crate::node::halt::{kernel_halt, store_halt};
use crate::node::running::Running;
use crate::store::Pins;
use crate::time::Clock;
use crate::vsr::Committed;

/// A prepare on its way into state.
#[derive(Debug)]
pub(super) struct Applying {
    committed: Committed,
    pins: Pins,
    /// The kernel's progress at the last stall: when it grew, old pins are of no use any more.
    progress: (u64, u64),
}

impl Applying {
    /// Nobody waits for its outcome any more.
    pub fn disown(&mut self) {
        self.committed.replay = true;
    }
}

/// Runs of the kernel in one turn that found what they missed in memory.
const STALLS_MAX: u32 = 64;

impl Running {
    /// Applies what is committed until a page is missing. True: something moved.
    pub(super) fn apply_committed(
        &mut self,
        now: Clock,
        effects: &mut Effects,
    ) -> Result<bool, Halt> {
        let (mut moved, mut stalls) = (false, 0);
        self.paused_at = None;
        loop {
            // What a tenant's keys seal or salt waits for them.
            if !self.keys_are_here() {
                return Ok(moved);
            }
            // A checkpoint op freezes the state after it: the one before must be out of the way,
            // which consensus sees to; ops after it may go on at once.
            if self.applying.is_none() {
                if self.proofs_hold() {
                    return Ok(moved);
                }
                // Whoever is answered comes back while the next prepare is applied.
                let status = self.vsr.status();
                let answers = self.kernel.is_sliced() && !self.replies.is_empty();
                if moved && answers && status.applied < status.commit {
                    self.pause(now, status.applied.next(), effects);
                    return Ok(moved);
                }
                let Some(committed) = self.vsr.next_committed(effects) else { return Ok(moved) };
                let durable = self.vsr.status().checkpoint_durable;
                assert!(
                    committed.header.checkpoint_durable <= durable,
                    "what applying frees, a restart here would not need"
                );
                let progress = self.kernel.progress();
                self.applying = Some(Applying { committed, pins: Pins::new(), progress });
            }
            let op = self.vsr.status().applied;
            if !self.apply_stage(now, effects)? {
                return Ok(moved);
            }
            moved = true;
            // Pages that other tasks pin may stay out of reach for now: the next input goes on.
            stalls = if op == self.vsr.status().applied { stalls + 1 } else { 0 };
            if stalls > STALLS_MAX {
                return Ok(false);
            }
        }
    }

    fn pause(&mut self, now: Clock, op: Op, effects: &mut Effects) {
        self.paused_at = Some(now.monotonic);
        effects.event(Event::ApplyPaused { op });
    }

    /// One run of the kernel on the prepare at hand. False: it waits.
    fn apply_stage(&mut self, now: Clock, effects: &mut Effects) -> Result<bool, Halt> {
        let Some(mut applying) = self.applying.take() else { unreachable!("set by the caller") };
        if !self.store.ready(&applying.pins).map_err(store_halt)? {
            self.applying = Some(applying);
            return Ok(false);
        }
        let header = applying.committed.header;
        let mut world = World { store: &mut self.store, logs: &mut self.logs, keys: &self.keyring };
        let prepare = kernel_prepare(&header, applying.committed.prepare.body());
        #[cfg(verity_zoo)]
        let prepare = if self.vsr.is_cluster() && crate::zoo::is("cluster_times_differ") {
            let own_ns = u64::from(self.config.replica.get());
            KernelPrepare { timestamp: header.timestamp.plus_ns(own_ns), ..prepare }
        } else {
            prepare
        };
        match self.kernel.apply(&mut world, &prepare, effects) {
            Ok(applied) => {
                self.store.unpin(&mut applying.pins);
                let writes = self.kernel.take_found_stale();
                if writes > 0 {
                    effects.event(Event::RowsFoundStale { op: header.op, writes });
                }
                self.answer_applied(&applying, applied.replies);
                let left = self.proposed.remove(&header.op).unwrap_or_default();
                assert!(applying.committed.replay || left.is_empty(), "a reply for each request");
                if header.operation == Operation::Recovery {
                    self.keyring.enter(self.kernel.generation());
                }
                #[cfg(verity_zoo)]
                if applied.checkpoint && crate::zoo::is("checkpoint_includes_later_ops") {
                    self.checkpoint_due = Some(CheckpointTask::after(&header));
                    self.vsr.applied(header.op, applying.committed.prepare);
                    return Ok(true);
                }
                if applied.checkpoint {
                    self.begin_checkpoint(CheckpointTask::after(&header), effects);
                }
                self.note_attested(now, &header);
                self.vsr.applied(header.op, applying.committed.prepare);
                Ok(true)
            }
            Err(Stall::Slice) => {
                let replies = self.kernel.take_replies();
                self.answer_applied(&applying, replies);
                self.applying = Some(applying);
                self.pause(now, header.op, effects);
                Ok(false)
            }
            Err(Stall::Created) => {
                let created = self.kernel.take_created();
                self.tenants_decided(&created, effects);
                self.applying = Some(applying);
                Ok(true)
            }
            Err(stall) => {
                let writes = stall == Stall::PageRoom;
                self.on_stall(stall, &mut applying, effects)?;
                // Another task's read may have brought the page already: then no completion comes.
                let again = !writes
                    && self.store.ready(&applying.pins).map_err(store_halt)?
                    && self.logs.room() > 0;
                self.applying = Some(applying);
                Ok(again)
            }
        }
    }

    /// Answers the next requests of a prepare: what is applied of it is committed, and shown.
    fn answer_applied(
        &mut self,
        applying: &Applying,
        mut replies: Vec<Result<Reply, RequestError>>,
    ) {
        let Committed { header, replay, .. } = &applying.committed;
        if *replay || header.operation != Operation::Requests {
            return;
        }
        let Some(tickets) = self.proposed.get_mut(&header.op) else {
            unreachable!("somebody waits for what was proposed here")
        };
        assert!(replies.len() <= tickets.len(), "a ticket for each reply");
        let mut tickets = core::mem::take(tickets);
        let answered = tickets.drain(..replies.len());
        for (ticket, reply) in answered.zip(replies.drain(..)) {
            self.answer(ticket, reply);
        }
        self.proposed.insert(header.op, tickets);
        self.kernel.reuse_replies(replies);
    }

    fn on_stall(
        &mut self,
        stall: Stall,
        applying: &mut Applying,
        effects: &mut Effects,
    ) -> Result<(), Halt> {
        let op = applying.committed.header.op;
        match stall {
            Stall::Fault(_) => {
                effects.event(Event::ApplyStalled { op });
                let progress = self.kernel.progress();
                if progress != applying.progress {
                    applying.progress = progress;
                    self.store.unpin(&mut applying.pins);
                }
                self.store.fetch(&mut applying.pins, effects);
                Ok(())
            }
            // Writes in flight make room; their completions bring the next turn.
            Stall::LogRoom => {
                self.logs.flush_step(effects);
                Ok(())
            }
            // The checkpoint under way is written by this turn and those after it.
            Stall::PageRoom => {
                // Those may need room to pin themselves.
                self.store.unpin(&mut applying.pins);
                effects.event(Event::CheckpointAwaited { op });
                Ok(())
            }
            Stall::Slice | Stall::Created => unreachable!("handled by the caller"),
            Stall::Halt(error) => Err(kernel_halt(&error)),
        }
    }
}

/// What of a prepare the kernel may know.
pub(super) fn kernel_prepare<'a>(header: &PrepareHeader, body: &'a [u8]) -> KernelPrepare<'a> {
    KernelPrepare {
        op: header.op,
        kind: kind_of(header.operation),
        timestamp: header.timestamp,
        checkpoint_durable: header.checkpoint_durable,
        seed: header.checksum_body.0,
        requests: u32::from(header.requests),
        body,
    }
}

fn kind_of(operation: Operation) -> PrepareKind {
    match operation {
        Operation::Requests => PrepareKind::Requests,
        Operation::Recovery => PrepareKind::Recovery,
        Operation::Checkpoint => PrepareKind::Checkpoint,
        Operation::Shutdown => PrepareKind::Shutdown,
        Operation::Root => unreachable!("the root is never committed"),
    }
}
