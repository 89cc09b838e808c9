//! One thing at a time: completions, clients, ticks, boots and crashes, in order of time.

use verity_core::io::{Effect, Input};
use verity_core::node::Halt;

use super::{STUCK_NS, TURNS_MAX, World};
use crate::disk::{Keep, Request as DiskRequest};
use crate::overrides::Switch;
use crate::report::{Failure, FailureKind};

/// Crashes in a row without any answer between them before the rate goes down.
const FRUITLESS_BOOTS: u32 = 12;
/// What is due next. The order breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Disk,
    Key,
    Boot,
    Client(usize),
    Retry(u64),
    Poke,
    Tick,
}

impl World {
    /// Runs until nothing is left to send, pending or being read.
    pub(super) fn drive_until_settled(&mut self) -> Result<(), Failure> {
        self.last_progress_ns = self.clock.now_ns();
        self.drive(|world| {
            world.quota == 0
                && world.pending.is_empty()
                && world.readings.is_empty()
                && world.askings.is_empty()
                && world.provings.is_empty()
                && world.node.is_some()
        })
    }

    pub(super) fn drive(&mut self, done: impl Fn(&World) -> bool) -> Result<(), Failure> {
        for _ in 0..TURNS_MAX {
            if self.ended_by_damage || done(self) {
                return Ok(());
            }
            self.turn()?;
            if let Some(complaint) = self.disk.misuse() {
                return Err(Failure::new(FailureKind::Misuse, complaint));
            }
            if self.clock.now_ns().saturating_sub(self.last_progress_ns) > STUCK_NS {
                return Err(self.stuck("no request was answered for ten minutes"));
            }
        }
        Err(self.stuck("too many turns"))
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let Some((at_ns, due)) = self.next_due() else {
            return Err(self.stuck("nothing will ever happen again"));
        };
        self.clock.advance_to(at_ns.max(self.clock.now_ns()));
        self.wall_ms_max = self.wall_ms_max.max(self.clock.clock().wall.as_ms());
        if !self.healed {
            self.disk.decay();
            if let Some(fault) = self.clock.misbehave() {
                self.count_fault(fault);
                self.note(|| fault.to_owned());
                self.record(|timeline| timeline.fault(0, fault, ""));
            }
        }
        match due {
            Due::Disk => {
                let now_ns = self.clock.now_ns();
                if let Some(input) = self.disk.complete(now_ns) {
                    self.give(input)?;
                }
            }
            Due::Key => {
                if let Some((_, input)) = self.key_answers.pop_first() {
                    self.give(input)?;
                }
            }
            Due::Boot => {
                self.boot_at_ns = None;
                if std::mem::take(&mut self.rebuild_wanted) {
                    self.rebuild_copy()?;
                }
                self.boot();
            }
            Due::Client(index) => self.client_turn(index)?,
            Due::Retry(serial) => self.send(serial),
            Due::Poke => {
                self.poke_at_ns = None;
                self.drive_reads()?;
            }
            Due::Tick => self.give(Input::Tick)?,
        }
        self.after_step()
    }

    fn next_due(&self) -> Option<(u64, Due)> {
        let mut best: Option<(u64, Due)> = None;
        let mut offer = |at_ns: u64, due: Due| {
            if best.is_none_or(|best| (at_ns, due) < best) {
                best = Some((at_ns, due));
            }
        };
        if let Some(due_ns) = self.disk.next_due_ns() {
            offer(due_ns, Due::Disk);
        }
        if let Some(((due_ns, _), _)) = self.key_answers.first_key_value() {
            offer(*due_ns, Due::Key);
        }
        if let Some(due_ns) = self.boot_at_ns {
            offer(due_ns, Due::Boot);
        }
        let Some(node) = &self.node else { return best };
        if let Some(deadline) = node.deadline() {
            offer(self.clock.true_time_of(deadline), Due::Tick);
        }
        if let Some(due_ns) = self.poke_at_ns {
            offer(due_ns, Due::Poke);
        }
        for (serial, pending) in &self.pending {
            if let Some(due_ns) = pending.send_at_ns {
                offer(due_ns, Due::Retry(*serial));
            }
        }
        if self.quota > 0 {
            for (index, client) in self.clients.iter().enumerate() {
                if !client.busy {
                    offer(client.next_at_ns, Due::Client(index));
                }
            }
        }
        best
    }

    /// Hands an input to the node.
    pub(super) fn give(&mut self, input: Input) -> Result<(), Failure> {
        let now_ns = self.clock.now_ns();
        self.progress.borrow_mut().trace.input(now_ns, &input);
        self.watch_input(&input);
        let clock = self.clock.clock();
        let Some(node) = &mut self.node else {
            unreachable!("a dead process has nothing in flight")
        };
        // Some callers let the next write go out before they hand over what is finished.
        if now_ns.is_multiple_of(3) {
            node.hurry(clock, &mut self.effects);
        }
        // And some let a prepare be applied in slices: the deadline, which is now, goes on.
        node.slice(now_ns.is_multiple_of(2));
        node.step(clock, input, &mut self.effects);
        Ok(())
    }

    /// Effects, replies, reads, and what a halted node means.
    pub(super) fn after_step(&mut self) -> Result<(), Failure> {
        self.execute_effects()?;
        if self.crashed {
            self.crash();
            return Ok(());
        }
        self.record_node();
        self.take_replies()?;
        self.drive_reads()?;
        self.check_memory()?;
        self.execute_effects()?;
        if self.crashed {
            self.crash();
            return Ok(());
        }
        // The end of a proof lets the ops go on that waited for it.
        self.take_replies()?;
        if self.clock.now_ns().is_multiple_of(2)
            && let Some(node) = &mut self.node
        {
            node.work_ahead();
            node.give_chunk();
        }
        self.check_halt()
    }

    /// What a page shows of the node.
    fn record_node(&self) {
        let Some(node) = self.node.as_ref().filter(|_| self.recorder.is_on()) else { return };
        let (status, leads) = (node.status(), node.is_ready());
        self.record(|timeline| {
            timeline.status(0, status.as_ref(), leads);
            timeline.disk_faults(0, &self.disk.stats().faults);
        });
    }

    pub(super) fn execute_effects(&mut self) -> Result<(), Failure> {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            let due = self.crash_is_due();
            if due && !self.crash_amid_write {
                self.strike();
            }
            if self.crashed {
                break;
            }
            let writes = matches!(effect, Effect::Write { .. } | Effect::Sync { .. });
            self.execute(effect)?;
            // Not always the first: then those of a batch that follow would never be in flight.
            if due && writes && self.crash_amid_write && self.amid_random.coin() {
                self.strike();
                if self.crashed {
                    break;
                }
            }
        }
        if !self.crashed {
            // Keeps its memory.
            self.effects = effects;
        }
        Ok(())
    }

    /// Whether the crash that was drawn is due, counted in effects.
    fn crash_is_due(&mut self) -> bool {
        match &mut self.crash_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// The crash that is due happens, if crashes do.
    fn strike(&mut self) {
        if self.board.lets(Switch::Crash) {
            self.crashed = true;
        } else {
            self.crash_in = None;
        }
    }

    /// Every part of the memory plan: pages (clean, changed, under checkpoint), what is on its way
    /// to and from the disk, log, journal, requests, reads.
    fn check_memory(&mut self) -> Result<(), Failure> {
        let Some(node) = &self.node else { return Ok(()) };
        if let Some((part, holds, bound)) = node.memory_exceeded() {
            let detail = format!("{holds} bytes of {part}, the budget is {bound}");
            return Err(Failure::new(FailureKind::Budget, detail));
        }
        Ok(())
    }

    fn execute(&mut self, effect: Effect) -> Result<(), Failure> {
        let now_ns = self.clock.now_ns();
        self.progress.borrow_mut().trace.effect(now_ns, &effect);
        match effect {
            Effect::Read { io, at, pages } => {
                self.disk.submit(now_ns, DiskRequest::Read { io, at, pages });
            }
            Effect::Write { io, at, pages, durable } => {
                if let Some(offset) = self.search.find(pages.as_bytes()) {
                    let detail = format!("plaintext in a write at {at:?}, byte {offset} of it");
                    return Err(Failure::new(FailureKind::Canary, detail));
                }
                self.watch_write(io, at, pages.as_bytes())?;
                self.disk.submit(now_ns, DiskRequest::Write { io, at, pages, durable });
            }
            Effect::Sync { io, file } => {
                self.disk.submit(now_ns, DiskRequest::Sync { io, file });
            }
            Effect::Create { io, file } => {
                self.disk.submit(now_ns, DiskRequest::Create { io, file });
            }
            Effect::Remove { io, file } => {
                self.disk.submit(now_ns, DiskRequest::Remove { io, file });
            }
            Effect::Wrap { io, purpose, key } => {
                let key = Ok(self.master.wrap(purpose, &key));
                self.answer_key(Input::Wrapped { io, key });
            }
            Effect::Unwrap { io, purpose, key } => {
                let key = self.master.unwrap(purpose, &key);
                self.answer_key(Input::Unwrapped { io, key });
            }
            Effect::Send { .. } => unreachable!("one replica has no peers"),
            Effect::Event(event) => {
                self.record(|timeline| timeline.event(0, &event));
                let noted = self.histories.note(&event);
                noted.map_err(|detail| Failure::new(FailureKind::Log, detail))?;
            }
        }
        Ok(())
    }

    pub(super) fn answer_key(&mut self, input: Input) {
        self.serial += 1;
        let due_ns = self.clock.now_ns() + 1 + self.random.exponential(50_000);
        self.key_answers.insert((due_ns, self.serial), input);
    }

    /// When the next crash comes. A process that never lives long enough to answer anything is
    /// given twice as long each time, so that no rate of crashes can keep a run from its end.
    pub(super) fn draw_crash(&mut self) {
        let mean = self.plan.crash_every_effects;
        if mean == 0 || self.crashes_drawn >= self.plan.crashes_max {
            self.crash_in = None;
            return;
        }
        self.crashes_drawn += 1;
        let patience = self.fruitless_boots.saturating_sub(FRUITLESS_BOOTS) / 4;
        self.crash_in = Some(self.crash_random.exponential(mean << patience.min(16)));
        let waits = self.amid_random.chance(self.plan.crash_amid_write_ppm);
        self.crash_amid_write = self.board.also(Switch::CrashAmidWrite, waits);
    }

    /// The process, and perhaps the machine, dies here.
    pub(super) fn crash(&mut self) {
        self.crashed = false;
        let keep = if self.crash_random.chance(self.plan.kill_ppm) {
            Keep::Process
        } else if self.crash_random.chance(self.plan.keep_nothing_ppm) {
            Keep::Nothing
        } else {
            Keep::Any
        };
        let report = self.disk.crash(keep);
        self.note(|| format!("crash {keep:?} {report:?}"));
        let text = format!("{keep:?}, {} writes in flight", report.writes_in_flight);
        self.record(|timeline| timeline.life(0, "crash", text));
        self.count(|counts| {
            counts.crashes += 1;
            counts.crashes_in_flight += u64::from(report.writes_in_flight > 0);
        });
        self.damage_ring();
        self.lose_process();
        self.rebuild_wanted = keep == Keep::Nothing
            && !self.healed
            && self.crash_random.chance(self.plan.rebuild_at_crash_ppm)
            && self.board.lets(Switch::Rebuild);
        let pause_ns = self.crash_random.exponential(20_000_000);
        self.boot_at_ns = Some(self.clock.now_ns() + 1 + pause_ns);
        self.fruitless_boots += 1;
        if self.healed {
            self.crash_in = None;
        } else {
            self.draw_crash();
        }
    }

    /// Everything in memory is gone.
    pub(super) fn lose_process(&mut self) {
        self.node = None;
        self.effects = verity_core::io::Effects::new();
        self.key_answers.clear();
        self.poke_at_ns = None;
        self.clients_lose_node();
    }

    /// A node that halts on a fault is restarted, as an operator would; one that halts without a
    /// fault to blame is a bug.
    fn check_halt(&mut self) -> Result<(), Failure> {
        let Some(halt) = self.node.as_ref().and_then(|node| node.halted()) else { return Ok(()) };
        self.note(|| format!("halted: {halt}"));
        self.record(|timeline| timeline.fault(0, "halt", format!("{halt}")));
        self.count(|report| report.halts += 1);
        match halt {
            Halt::Shutdown if self.shutting_down => {
                self.end_process();
                return Ok(());
            }
            Halt::Shutdown => {
                let detail = "shut down without being asked";
                return Err(Failure::new(FailureKind::Halted, detail));
            }
            Halt::Key(error) => {
                let detail = format!("the master key is right, but: {error:?}");
                return Err(Failure::new(FailureKind::Halted, detail));
            }
            Halt::Clock { .. } => {
                let detail = format!("the simulator's operator accepts the clock, but: {halt}");
                return Err(Failure::new(FailureKind::Halted, detail));
            }
            Halt::Memory(error) => {
                return Err(Failure::new(FailureKind::Halted, error.to_string()));
            }
            Halt::Syncing => {
                let detail = "one replica alone has no peers to fetch a checkpoint from";
                return Err(Failure::new(FailureKind::Halted, detail));
            }
            Halt::Io { .. } | Halt::Data { .. } => {}
        }
        let fatal: Vec<String> =
            self.disk.atlas.fatal_zones().map(|zone| format!("{zone:?}")).collect();
        if !fatal.is_empty() {
            // Damage that one replica cannot repair, and it was found: that is the promise.
            self.ended_by_damage = true;
            let text = format!("{halt}, after damage in {}", fatal.join(", "));
            self.count(|report| report.damage_detected = Some(text));
            return Ok(());
        }
        if self.blamable_faults() == self.faults_at_boot {
            let detail = format!("{halt}, without a fault since the last boot");
            return Err(Failure::new(FailureKind::Halted, detail));
        }
        self.crash();
        Ok(())
    }

    /// Faults that may stop a node for good reason.
    pub(super) fn blamable_faults(&self) -> u64 {
        let harmless = ["torn_at_crash", "slow_spell"];
        let faults = &self.disk.stats().faults;
        faults.iter().filter(|fault| !harmless.contains(fault.0)).map(|fault| fault.1).sum()
    }

    /// Why nothing moves, in words: which part waits for what.
    pub(super) fn stuck(&self, why: &str) -> Failure {
        let node = match &self.node {
            None => "no process runs".to_owned(),
            Some(node) => format!("{:?}", node.status()),
        };
        let oldest = self.pending.values().next().map(|pending| pending.describe());
        Failure::new(
            FailureKind::Stuck,
            format!(
                "{why}; {} requests pending, {} reads; disk {}; key answers {}; next due {:?}; \
                 oldest request {oldest:?}; node {node}",
                self.pending.len(),
                self.readings.len(),
                if self.disk.idle() { "idle" } else { "busy" },
                self.key_answers.len(),
                self.next_due(),
            ),
        )
    }
}
