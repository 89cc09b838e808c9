//! Birth, death and rebirth of the process: format, boot, graceful restart, tenants.

use verity_core::crypto::KekHash;
use verity_core::ids::{IdempotencyId, PrincipalId, ReplicaId, TenantId};
use verity_core::io::{Effect, Effects};
use verity_core::kernel::{Operation, Request};
use verity_core::node::{CURRENT_RELEASE, Format, FormatOptions, Seed};

use super::World;
use super::clients::{Pending, tenant_id};
use crate::disk::{Keep, Request as DiskRequest};
use crate::overrides::Switch;
use crate::replica::{BootOptions, Replica};
use crate::report::{Failure, FailureKind};

impl World {
    /// From an empty disk to one that opens; in peace.
    pub(super) fn format(&mut self) -> Result<(), Failure> {
        let failed = |halt| Failure::new(FailureKind::Halted, format!("format: {halt}"));
        let options = FormatOptions {
            cluster: None,
            replica: ReplicaId::ZERO,
            replica_count: 1,
            release: CURRENT_RELEASE,
            constants: self.plan.constants,
        };
        let seed = Seed(self.random.seed_bytes());
        let mut effects = Effects::new();
        let mut format = Format::start(options, &seed, &mut effects).map_err(failed)?;
        loop {
            for effect in effects.drain() {
                self.format_effect(effect);
            }
            if format.is_done() {
                return Ok(());
            }
            let disk_due_ns = self.disk.next_due_ns();
            let key_due_ns = self.key_answers.first_key_value().map(|((due_ns, _), _)| *due_ns);
            let Some(due_ns) = disk_due_ns.into_iter().chain(key_due_ns).min() else {
                return Err(Failure::new(FailureKind::Stuck, "format waits for nothing"));
            };
            self.clock.advance_to(due_ns.max(self.clock.now_ns()));
            let input = if key_due_ns == Some(due_ns) {
                self.key_answers.pop_first().map(|(_, input)| input)
            } else {
                self.disk.complete(due_ns)
            };
            let Some(input) = input else { unreachable!("it was due") };
            self.progress.borrow_mut().trace.input(due_ns, &input);
            format.step(input, &mut effects).map_err(failed)?;
        }
    }

    fn format_effect(&mut self, effect: Effect) {
        let now_ns = self.clock.now_ns();
        self.progress.borrow_mut().trace.effect(now_ns, &effect);
        match effect {
            Effect::Read { io, at, pages } => {
                self.disk.submit(now_ns, DiskRequest::Read { io, at, pages });
            }
            Effect::Write { io, at, pages, durable } => {
                self.disk.submit(now_ns, DiskRequest::Write { io, at, pages, durable });
            }
            Effect::Sync { io, file } => self.disk.submit(now_ns, DiskRequest::Sync { io, file }),
            Effect::Create { io, file } => {
                self.disk.submit(now_ns, DiskRequest::Create { io, file });
            }
            Effect::Remove { io, file } => {
                self.disk.submit(now_ns, DiskRequest::Remove { io, file });
            }
            Effect::Wrap { io, purpose, key } => {
                let key = Ok(self.master.wrap(purpose, &key));
                self.answer_key(verity_core::io::Input::Wrapped { io, key });
            }
            Effect::Unwrap { io, purpose, key } => {
                let key = self.master.unwrap(purpose, &key);
                self.answer_key(verity_core::io::Input::Unwrapped { io, key });
            }
            Effect::Send { .. } => unreachable!("a format sends nothing"),
            Effect::Event(_) => {}
        }
    }

    /// A new process on whatever the disk holds.
    pub(super) fn boot(&mut self) {
        self.clock.reboot();
        let attest_after_ns = self.plan.attest_after_ns;
        let options = BootOptions {
            cache_pages: self.random.range(self.plan.cache_pages_min, self.plan.cache_pages_max)
                as u32,
            evict_everything: self.random.chance(self.plan.evict_everything_ppm)
                && self.board.lets(Switch::EvictEverything),
            attest_after_ns: attest_after_ns.filter(|_| self.board.lets(Switch::Attest)),
        };
        self.faults_at_boot = self.blamable_faults();
        self.note(|| format!("boot {options:?}"));
        self.record(|timeline| timeline.life(0, "boot", format!("{options:?}")));
        let seed = self.random.seed_bytes();
        self.node = Some(Replica::open(options, seed, &mut self.effects));
        self.count(|report| report.restarts += 1);
        self.wake_clients();
    }

    /// Asks the system tenant for one more tenant.
    pub(super) fn request_tenant(&mut self, client: usize, tenant: usize) {
        let mut random_bytes = [0; 10];
        self.random.fill(&mut random_bytes);
        let not_after = self.clock.clock().wall.as_ms() + 3 * 24 * 3_600_000;
        let request = Request {
            tenant: TenantId::SYSTEM,
            principal: PrincipalId::new(1),
            idempotency: IdempotencyId::new(not_after, random_bytes),
            after: None,
            operations: vec![Operation::CreateTenant {
                tenant: tenant_id(tenant),
                // The node fills in the hash of the key it mints.
                kek_hash: KekHash([0; 32]),
            }],
        };
        self.tenants_asked.insert(tenant);
        self.clients[client].busy = true;
        self.serial += 1;
        let mut pending = Pending::new(tenant, Some(client), Vec::new(), request);
        pending.creates_tenant = true;
        self.pending.insert(self.serial, pending);
        let serial = self.serial;
        self.send(serial);
    }

    /// Everything pending is answered: shut down, lose what was not durable, and come back.
    pub(super) fn restart_gracefully(&mut self) -> Result<(), Failure> {
        self.shut_down()?;
        self.drive(|world| world.node.as_ref().is_some_and(Replica::is_ready))
    }

    /// Ends with no process running, unless damage ended the run.
    pub(super) fn shut_down(&mut self) -> Result<(), Failure> {
        self.last_progress_ns = self.clock.now_ns();
        // A shutdown may crash half way; then the next process tries again.
        for _ in 0..10_000 {
            self.drive(|world| world.node.as_ref().is_some_and(Replica::is_ready))?;
            if self.ended_by_damage {
                return Ok(());
            }
            self.note(|| "shutdown".to_owned());
            self.record(|timeline| timeline.note("shutdown"));
            self.shutting_down = true;
            let clock = self.clock.clock();
            if let Some(node) = &mut self.node {
                node.shutdown(clock, &mut self.effects);
            }
            self.after_step()?;
            self.drive(|world| !world.shutting_down || world.node.is_none())?;
            if !self.shutting_down || self.ended_by_damage {
                self.shutting_down = false;
                return Ok(());
            }
            self.shutting_down = false;
        }
        Err(self.stuck("no shutdown came to its end"))
    }

    /// The node says that all is durable: whatever is not is lost on purpose.
    pub(super) fn end_process(&mut self) {
        self.disk.crash(Keep::Nothing);
        self.record(|timeline| timeline.life(0, "shutdown", "what was not durable is lost"));
        self.lose_process();
        self.shutting_down = false;
        self.boot_at_ns = Some(self.clock.now_ns() + 1_000_000);
    }
}

#[cfg(test)]
mod tests {
    use verity_core::io::FileId;
    use verity_core::limits::SUPERBLOCK_COPY_SPACING;
    use verity_core::superblock::decode_copies;

    use crate::swarm::Options;
    use crate::timeline::Recorder;
    use crate::world::World;

    #[test]
    fn a_formatted_disk_has_four_good_superblocks_and_survives_a_power_cut() {
        let mut world = World::new(1, &Options::default(), Recorder::OFF);
        world.format().unwrap();
        world.disk.crash(crate::disk::Keep::Nothing);
        assert_eq!(world.disk.misuse(), None);
        let bytes = world.disk.contents(FileId::Superblock);
        let copy = |number: usize| {
            let start = number * SUPERBLOCK_COPY_SPACING as usize;
            &bytes[start..start + 4096]
        };
        let report = decode_copies(&[copy(0), copy(1), copy(2), copy(3)]);
        assert!(report.verdicts.iter().all(|verdict| verdict.is_good()), "{report:?}");
    }
}
