//! Driving: steps the node and sleeps in the kernel until a completion is there.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::slot::wake_all;
use super::{Driver, Inner, Role};

/// Longest sleep in the kernel while something is awaited: a completion that got lost in a bug of
/// ours must not hang a caller for ever without a tick.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Pause of the background thread between looks at writes that no caller waits for, when no caller
/// looks either.
const QUIET_PAUSE: Duration = Duration::from_millis(1);
/// The same while callers come and go: they take such completions along.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Longest sleep of the background thread when nothing is in flight.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

impl Driver {
    /// What the background thread runs.
    pub fn run_background(&self) {
        std::thread::scope(|scope| {
            let chunks = std::thread::Builder::new().name("verity-memory".to_string());
            if let Err(error) = chunks.spawn_scoped(scope, || self.make_chunks()) {
                tracing::debug!("memory is not made ready ahead: {error}");
            }
            self.run_until_stopped();
            self.chunks.end();
        });
    }

    fn run_until_stopped(&self) {
        let mut inner = self.lock();
        let mut seen = 0;
        while !inner.stop {
            if inner.role == Role::Background {
                inner = self.drive(inner, |inner| {
                    let idle = inner.waiting.is_empty() && inner.readers.is_empty();
                    inner.stop || (idle && !inner.serves)
                });
                if self.gathered.set_driven(false) {
                    inner.role = Role::Nobody;
                }
                continue;
            }
            if inner.role == Role::Nobody && inner.node.halted().is_none() {
                inner.turn(self.now());
                let started_io = inner.disk.take_unsubmitted();
                if started_io || !inner.answered.is_empty() {
                    let answered = std::mem::take(&mut inner.answered);
                    drop(inner);
                    if started_io {
                        self.bell.submit();
                    }
                    wake_all(answered);
                    inner = self.lock_first();
                    continue;
                }
            }
            let moved = std::mem::replace(&mut seen, inner.progress) != inner.progress;
            let quiet = inner.disk.in_flight() == 0 && inner.role == Role::Nobody;
            let pause = match (moved, quiet) {
                (true, _) => BUSY_PAUSE,
                (false, false) => QUIET_PAUSE,
                (false, true) => self.until_deadline(&inner, IDLE_PAUSE),
            };
            inner.background_idles = quiet && !moved;
            (inner, _) =
                self.background.wait_timeout(inner, pause).unwrap_or_else(PoisonError::into_inner);
            inner.background_idles = false;
        }
    }

    /// Steps and waits until `done`, or the node has halted.
    pub(super) fn drive<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        mut done: impl FnMut(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        loop {
            self.hurry(&mut inner);
            inner.node.slice(true);
            inner.turn(self.now());
            inner.node.slice(false);
            let paused = inner.node.is_paused();
            if !paused {
                self.take_left(&mut inner);
            }
            if done(&inner) || inner.stop || inner.node.halted().is_some() {
                // What was pushed now leaves with the next write, or when the background thread
                // looks: nobody waits for it.
                if inner.answered.iter().any(|slot| !slot.is_mine()) {
                    let answered = std::mem::take(&mut inner.answered);
                    inner.disk.take_unsubmitted();
                    drop(inner);
                    self.bell.submit();
                    wake_all(answered);
                    inner = self.lock_first();
                } else {
                    inner.answered.clear();
                }
                return inner;
            }
            let ready = paused || inner.disk.has_ready();
            let timeout = self.until_deadline(&inner, WAIT_MAX);
            let amid = inner.node.is_paused_amid();
            let answered = inner.take_answered(amid);
            let started_io = inner.disk.take_unsubmitted();
            self.gathered.may_gather(paused || inner.node.gathers());
            drop(inner);
            if !answered.is_empty() {
                // The disk works while they are woken.
                if started_io {
                    self.bell.submit();
                }
                wake_all(answered);
                // Some of them were woken on this processor, and would else wait for its next tick.
                if !amid {
                    std::thread::yield_now();
                }
            }
            if ready || self.gathered.wants_a_hand() {
                self.bell.submit();
            } else {
                self.bell.submit_and_wait(timeout);
            }
            inner = self.lock_first();
        }
    }

    /// The driving caller has its answer.
    pub(super) fn leave(&self, mut inner: MutexGuard<'_, Inner>) {
        let idle = inner.waiting.is_empty() && inner.readers.is_empty();
        if idle && self.gathered.set_driven(false) {
            inner.role = Role::Nobody;
            if inner.background_idles && inner.disk.in_flight() > 0 {
                self.background.notify_one();
            }
        } else {
            inner.role = Role::Background;
            self.background.notify_one();
        }
    }

    pub(super) fn background_drives(&self, inner: &mut Inner) {
        if inner.role == Role::Nobody {
            inner.role = Role::Background;
            self.gathered.set_driven(true);
            self.background.notify_one();
        }
    }

    fn until_deadline(&self, inner: &Inner, longest: Duration) -> Duration {
        match inner.node.deadline() {
            None => longest,
            Some(deadline) => {
                let ns = deadline.since_ns(self.now().monotonic);
                Duration::from_nanos(ns).min(longest)
            }
        }
    }

    /// Requests that gathered while a write was under way go to the disk before what the write
    /// brought is applied, or before the rest of a prepare is: disk and processor work at the same
    /// time.
    fn hurry(&self, inner: &mut Inner) {
        let Inner { disk, inputs, .. } = inner;
        disk.poll(inputs);
        let idle = inner.node.is_paused() && !inner.node.gathers();
        if inner.inputs.is_empty() && !idle {
            return;
        }
        self.enqueue_left(inner);
        inner.hurry(self.now());
        if inner.disk.take_unsubmitted() {
            self.bell.submit();
        }
    }
}
