//! Who runs the node: whoever waits for it.
//!
//! A blocking caller that submits a request while nobody drives becomes the driver: it steps the
//! node and waits in the kernel itself, so a lone client pays no thread hop. Others seal their
//! requests, leave them (`gathered`) and sleep on a slot of their own (`slot`); the requests that
//! gather while a write is in flight share the next one. When the driver has its own reply and
//! others still wait, the background thread takes over and drives (`drive`) until nobody waits. It
//! also does what is due when nobody calls: ticks, and the completions of writes that no caller
//! waits for. Those who left their requests together are woken together.
//!
//! Invariants: the lock is never held in a system call that waits. Every slot is completed exactly
//! once: with its reply, or with the reason why the node stopped. Nobody is woken without need, but
//! for one that gathered with others and fell into the next prepare.
//!
//! Fault model: the node halts (disk, keys, corruption); then every waiting and every later call
//! gets the reason, with the file system's words where there are some.

mod chunks;
mod drive;
mod gathered;
mod inner;
mod reads;
mod sealers;
mod serve;
mod slot;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use verity_core::io::Effects;
use verity_core::kernel::{Reply, Request};
use verity_core::node::{Halt, Node, Status};
use verity_core::time::{self, Clock, Timestamp};

use crate::disk::{Disk, Doorbell};
use crate::error::Error;

use chunks::Chunks;
use gathered::{Gathered, Sleeper};
use inner::{Inner, Role, Waiters};
use sealers::{Asked, Sealers};
use slot::{Answer, Wake, wake_all};

pub use slot::Slot;

#[derive(Debug)]
pub struct Driver {
    inner: Mutex<Inner>,
    /// Left here by callers that would have had to wait for the lock only to submit.
    gathered: Gathered,
    /// The newest time of the node's that was seen, in nanoseconds.
    node_time: Arc<AtomicU64>,
    sealers: Arc<Sealers>,
    chunks: Arc<Chunks>,
    bell: Doorbell,
    background: Condvar,
    /// A proof has ended: those behind it may go on.
    proof_ended: Condvar,
    /// Threads that wait for the lock and hold it for a moment only: slices of long reads let them
    /// go first.
    hasty: AtomicUsize,
    started: Instant,
}

/// How long a read waits between two slices for those who want the lock for a moment. Then it goes
/// on, whoever waits: commits must not starve it either.
const LET_GO_FIRST_MAX: Duration = Duration::from_micros(200);

impl Driver {
    #[must_use]
    /// `effects` are those of the node's opening.
    pub fn new(node: Node, disk: Disk, effects: Effects) -> Driver {
        let bell = disk.doorbell();
        let sealers = Arc::new(Sealers::default());
        let node_time = Arc::default();
        let chunks = Arc::new(Chunks::default());
        let inner = Inner {
            node,
            disk,
            effects,
            inputs: Vec::new(),
            waiting: Waiters::default(),
            readers: Vec::new(),
            proofs_behind: 0,
            proofs_ended: 0,
            confirming: Vec::new(),
            taken: Vec::new(),
            node_time: Arc::clone(&node_time),
            sealers: Arc::clone(&sealers),
            chunks: Arc::clone(&chunks),
            unsealed: None,
            answered: Vec::new(),
            role: Role::Nobody,
            serves: false,
            background_idles: false,
            progress: 0,
            space_told: None,
            stop: false,
        };
        Driver {
            inner: Mutex::new(inner),
            gathered: Gathered::default(),
            node_time,
            sealers,
            chunks,
            bell,
            background: Condvar::new(),
            proof_ended: Condvar::new(),
            hasty: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, before any read that is between two slices. It is not fair by itself: who gives it
    /// back and takes it again at once mostly gets it, and a scan does that all the time.
    fn lock_first(&self) -> MutexGuard<'_, Inner> {
        if let Some(inner) = self.try_lock() {
            return inner;
        }
        self.hasty.fetch_add(1, Ordering::SeqCst);
        let inner = self.lock();
        self.hasty.fetch_sub(1, Ordering::SeqCst);
        inner
    }

    /// Between two slices of a read, the lock not held.
    fn let_go_first(&self) {
        if self.hasty.load(Ordering::SeqCst) == 0 {
            return;
        }
        let begun = Instant::now();
        while self.hasty.load(Ordering::SeqCst) > 0 && begun.elapsed() < LET_GO_FIRST_MAX {
            std::thread::yield_now();
        }
    }

    pub fn now(&self) -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Clock { monotonic: time::Instant(ns(self.started.elapsed())), wall: Timestamp(ns(wall)) }
    }

    /// Now, as the node judges ids: its own time never goes back, though this machine's clock may.
    pub fn now_for_ids(&self) -> Timestamp {
        self.now().wall.max(Timestamp(self.node_time.load(Ordering::Relaxed)))
    }

    #[cfg(test)]
    pub fn see_time(&self, time: Timestamp) {
        self.node_time.fetch_max(time.0, Ordering::Relaxed);
    }

    /// Runs the node from open to ready.
    pub fn start(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        let Inner { effects, disk, .. } = &mut *inner;
        disk.execute(effects);
        inner.role = Role::Caller;
        let mut inner = self.drive(inner, |inner| inner.node.is_ready());
        inner.role = Role::Nobody;
        match inner.node.halted() {
            None => Ok(()),
            Some(_) => Err(inner.why_halted()),
        }
    }

    /// Submits and waits for the reply.
    pub fn call(&self, request: Request) -> Result<Reply, Error> {
        let asked = self.sealers.seal(request, self.now_for_ids());
        match self.gathered.leave(asked, Sleeper::Thread) {
            Ok(slot) => {
                self.after_unlock();
                self.reply(Some(slot.park()))
            }
            Err(asked) => self.call_with(self.lock_first(), asked),
        }
    }

    fn reply(&self, answer: Option<Answer>) -> Result<Reply, Error> {
        match answer {
            Some(Answer::Reply(reply)) => reply.map_err(Error::Request),
            Some(Answer::Halted | Answer::LookAgain) | None => Err(self.lock().why_halted()),
        }
    }

    fn call_with(&self, mut inner: MutexGuard<'_, Inner>, asked: Asked) -> Result<Reply, Error> {
        let slot = inner.submit(self.now(), asked, Slot::for_this_thread())?;
        let answer = if inner.role == Role::Nobody {
            inner.role = Role::Caller;
            self.gathered.set_driven(true);
            let mut answer = None;
            if inner.disk.take_unsubmitted() {
                // The disk works while this thread does what can be done ahead.
                self.bell.submit();
                inner.node.work_ahead();
            }
            let inner = self.drive(inner, |_| {
                answer = slot.take();
                answer.is_some()
            });
            self.leave(inner);
            answer
        } else {
            self.unlock(inner);
            Some(slot.park())
        };
        self.reply(answer)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Inner>> {
        match self.inner.try_lock() {
            Ok(inner) => Some(inner),
            Err(TryLockError::Poisoned(inner)) => Some(inner.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Hands what was left to the node, which does nothing with it yet. True: there was something.
    fn enqueue_left(&self, inner: &mut Inner) -> bool {
        if self.gathered.is_empty() {
            return false;
        }
        let mut taken = std::mem::take(&mut inner.taken);
        self.gathered.take(&mut taken);
        for (asked, slot) in taken.drain(..) {
            inner.enqueue(asked, slot);
        }
        inner.taken = taken;
        true
    }

    /// Submits what was left.
    fn take_left(&self, inner: &mut Inner) {
        if !self.enqueue_left(inner) {
            return;
        }
        let now = self.now();
        if inner.node.halted().is_some() {
            wake_all(std::mem::take(&mut inner.answered));
        } else {
            inner.run(now);
        }
    }

    /// What was started goes to the disk, who was answered is woken.
    fn unlock(&self, mut inner: MutexGuard<'_, Inner>) {
        let answered = std::mem::take(&mut inner.answered);
        let started_io = inner.disk.take_unsubmitted();
        drop(inner);
        if started_io {
            self.bell.submit();
        }
        wake_all(answered);
        self.after_unlock();
    }

    /// Whoever held the lock while the driver sleeps in the kernel hands over what was left to it
    /// meanwhile.
    fn after_unlock(&self) {
        // Others may leave more while the lock is held here, and count on a look after it.
        while self.gathered.wants_a_hand() {
            let Some(mut inner) = self.try_lock() else { return };
            self.take_left(&mut inner);
            self.gathered.may_gather(inner.node.gathers());
            let started_io = inner.disk.take_unsubmitted();
            drop(inner);
            if started_io {
                self.bell.submit();
            }
        }
    }

    /// Submits; the reply is fetched with [`Driver::poll_reply`].
    pub fn call_async(&self, request: Request) -> Result<Arc<Slot>, Error> {
        let asked = self.sealers.seal(request, self.now_for_ids());
        let asked = match self.gathered.leave(asked, Sleeper::Task) {
            Ok(slot) => {
                self.after_unlock();
                return Ok(slot);
            }
            Err(asked) => asked,
        };
        let mut inner = self.lock_first();
        let slot = inner.submit(self.now(), asked, Slot::new(Wake::Nobody))?;
        self.background_drives(&mut inner);
        self.unlock(inner);
        Ok(slot)
    }

    /// Calls the waker once [`Driver::poll_reply`] has the reply.
    pub fn tell_when_answered(&self, slot: &Slot, waker: &Waker) {
        slot.tell(waker);
    }

    pub fn poll_reply(&self, slot: &Slot, waker: &Waker) -> Option<Result<Reply, Error>> {
        match slot.poll(waker)? {
            Answer::Reply(reply) => Some(reply.map_err(Error::Request)),
            Answer::Halted | Answer::LookAgain => Some(Err(self.lock().why_halted())),
        }
    }

    /// Why nothing is served.
    pub fn why_halted(&self) -> Error {
        self.lock().why_halted()
    }

    /// Looks at the node while nothing moves.
    pub fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> T {
        let seen = look(&self.lock().node);
        self.after_unlock();
        seen
    }

    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.with_node(Node::status)
    }

    /// Ends everything at once, without a checkpoint.
    pub fn stop(&self) {
        let mut inner = self.lock();
        self.end(&mut inner);
    }

    /// Nobody drives any more: all who wait are told.
    fn end(&self, inner: &mut Inner) {
        inner.stop = true;
        let requests = self.gathered.end().into_iter().map(|(_, slot)| slot);
        for slot in inner.waiting.drain().chain(requests) {
            slot.answer(Answer::Halted);
            inner.answered.push(slot);
        }
        let confirming = inner.confirming.drain(..).map(|(_, slot)| slot);
        for slot in inner.readers.drain(..).chain(confirming) {
            slot.answer(Answer::LookAgain);
            inner.answered.push(slot);
        }
        wake_all(std::mem::take(&mut inner.answered));
        self.chunks.end();
        self.background.notify_all();
        self.proof_ended.notify_all();
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    /// Takes a last checkpoint and stops the node.
    pub fn shutdown(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        let now = self.now();
        if inner.node.halted().is_none() {
            let Inner { node, effects, disk, .. } = &mut *inner;
            node.shutdown(now, effects);
            disk.execute(effects);
        }
        inner = self.drive(inner, |inner| inner.node.halted().is_some());
        self.end(&mut inner);
        match inner.node.halted() {
            Some(Halt::Shutdown) => Ok(()),
            Some(_) | None => Err(inner.why_halted()),
        }
    }
}
