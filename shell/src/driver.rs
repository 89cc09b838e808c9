//! Who runs the node: whoever waits for it.
//!
//! A blocking caller that submits a request while nobody drives becomes the driver: it steps the
//! node and waits in the kernel itself, so a lone client pays no thread hop. Others submit under
//! the same lock and sleep on a slot of their own; the requests that gather while a write is in
//! flight share the next one. When the driver has its own reply and others still wait, the
//! background thread takes over and drives until nobody waits. It also does what is due when nobody
//! calls: ticks, and the completions of writes that no caller waits for.
//!
//! Invariants: the lock is never held in a system call that waits. Every slot is completed exactly
//! once: with its reply, or with the reason why the node stopped. Only those are woken whose answer
//! is there.
//!
//! Fault model: the node halts (disk, keys, corruption); then every waiting and every later call
//! gets the reason, with the file system's words where there are some.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use verity_core::ids::TenantId;
use verity_core::io::{Effects, Input};
use verity_core::kernel::{Reply, Request, RequestError};
use verity_core::node::{CommitmentRead, Halt, Node, PointRead, Progress, Read, Status, Ticket};
use verity_core::query::{PointScratch, Prepared, Value};
use verity_core::time::{self, Clock, Timestamp};

use crate::disk::{Disk, Doorbell};
use crate::error::Error;

/// Longest sleep in the kernel while something is awaited: a completion that got lost in a bug of
/// ours must not hang a caller for ever without a tick.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Pause of the background thread between looks at writes that no caller waits for, when no caller
/// looks either.
const QUIET_PAUSE: Duration = Duration::from_millis(1);
/// The same while callers come and go: they take such completions along.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// How often the node is told of the free space.
const SPACE_EVERY_NS: u64 = time::SECOND_NS;
/// Longest sleep of the background thread when nothing is in flight.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Driver {
    inner: Mutex<Inner>,
    /// Left here by callers that would have had to wait for the lock only to submit.
    left: Mutex<Left>,
    /// Requests in `left`.
    left_count: AtomicUsize,
    bell: Doorbell,
    background: Condvar,
    started: Instant,
}

/// Requests for whoever drives. Its lock is held for moments only, and after that of `Inner`.
#[derive(Debug, Default)]
struct Left {
    /// Somebody drives, and will look here before it ends.
    driven: bool,
    requests: Vec<(Request, Arc<Slot>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Nobody,
    Caller,
    Background,
}

#[derive(Debug)]
struct Inner {
    node: Node,
    disk: Disk,
    effects: Effects,
    inputs: Vec<Input>,
    waiting: HashMap<Ticket, Arc<Slot>>,
    /// Readers that wait for pages; all look again after any completion.
    readers: Vec<Arc<Slot>>,
    /// Buffer of `Driver::take_left`.
    taken: Vec<(Request, Arc<Slot>)>,
    /// Answered in this turn; woken after the lock is released.
    answered: Vec<Arc<Slot>>,
    role: Role,
    background_idles: bool,
    /// Turns in which a completion came in.
    progress: u64,
    space_told: Option<time::Instant>,
    stop: bool,
}

/// Where one caller waits.
#[derive(Debug)]
pub struct Slot {
    state: Mutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    wake: Wake,
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Wake {
    Nobody,
    Thread(Thread),
    Task(Waker),
}

#[derive(Debug)]
enum Answer {
    Reply(Result<Reply, RequestError>),
    /// For readers: try again.
    LookAgain,
    Halted,
}

impl Slot {
    fn new(wake: Wake) -> Arc<Slot> {
        Arc::new(Slot { state: Mutex::new(SlotState { wake, answer: None }) })
    }

    fn for_this_thread() -> Arc<Slot> {
        Slot::new(Wake::Thread(std::thread::current()))
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        assert!(state.answer.is_none(), "a slot is answered once");
        state.answer = Some(answer);
    }

    fn wake(&self) {
        let state = self.lock();
        match &state.wake {
            Wake::Nobody => {}
            Wake::Thread(thread) => thread.unpark(),
            Wake::Task(waker) => waker.wake_by_ref(),
        }
    }

    fn is_mine(&self) -> bool {
        match &self.lock().wake {
            Wake::Thread(thread) => thread.id() == std::thread::current().id(),
            Wake::Nobody | Wake::Task(_) => false,
        }
    }

    fn take(&self) -> Option<Answer> {
        self.lock().answer.take()
    }

    fn park(&self) -> Answer {
        loop {
            if let Some(answer) = self.take() {
                return answer;
            }
            std::thread::park();
        }
    }
}

impl Driver {
    #[must_use]
    /// `effects` are those of the node's opening.
    pub fn new(node: Node, disk: Disk, effects: Effects) -> Driver {
        let bell = disk.doorbell();
        let inner = Inner {
            node,
            disk,
            effects,
            inputs: Vec::new(),
            waiting: HashMap::new(),
            readers: Vec::new(),
            taken: Vec::new(),
            answered: Vec::new(),
            role: Role::Nobody,
            background_idles: false,
            progress: 0,
            space_told: None,
            stop: false,
        };
        Driver {
            inner: Mutex::new(inner),
            left: Mutex::default(),
            left_count: AtomicUsize::new(0),
            bell,
            background: Condvar::new(),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Clock { monotonic: time::Instant(ns(self.started.elapsed())), wall: Timestamp(ns(wall)) }
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
        let mut inner = match self.try_lock() {
            Some(inner) => inner,
            // Somebody steps the node: it takes the request along, if it drives.
            None => match self.leave_request(request) {
                Ok(slot) => {
                    self.after_unlock();
                    return self.reply(Some(slot.park()));
                }
                Err(request) => return self.call_with(self.lock(), request),
            },
        };
        self.take_left(&mut inner);
        self.call_with(inner, request)
    }

    fn reply(&self, answer: Option<Answer>) -> Result<Reply, Error> {
        match answer {
            Some(Answer::Reply(reply)) => reply.map_err(Error::Request),
            Some(Answer::Halted | Answer::LookAgain) | None => Err(self.lock().why_halted()),
        }
    }

    fn call_with(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        request: Request,
    ) -> Result<Reply, Error> {
        let slot = inner.submit(self.now(), request, Slot::for_this_thread())?;
        let answer = if inner.role == Role::Nobody {
            inner.role = Role::Caller;
            self.set_driven(true);
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
            let started_io = inner.disk.take_unsubmitted();
            drop(inner);
            if started_io {
                self.bell.submit();
            }
            self.after_unlock();
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

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request to the one who drives; gives it back when nobody does.
    fn leave_request(&self, request: Request) -> Result<Arc<Slot>, Request> {
        let mut left = self.left();
        if !left.driven {
            return Err(request);
        }
        let slot = Slot::for_this_thread();
        left.requests.push((request, Arc::clone(&slot)));
        self.left_count.store(left.requests.len(), Ordering::SeqCst);
        Ok(slot)
    }

    /// Submits what was left.
    fn take_left(&self, inner: &mut Inner) {
        if self.left_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut left = self.left();
        std::mem::swap(&mut inner.taken, &mut left.requests);
        self.left_count.store(0, Ordering::SeqCst);
        drop(left);
        let now = self.now();
        let mut taken = std::mem::take(&mut inner.taken);
        for (request, slot) in taken.drain(..) {
            inner.enqueue(request, slot);
        }
        inner.taken = taken;
        if inner.node.halted().is_some() {
            inner.answered.drain(..).for_each(|slot| slot.wake());
        } else {
            inner.run(now);
        }
    }

    /// Whoever held the lock while the driver sleeps in the kernel hands over what was left to it
    /// meanwhile.
    fn after_unlock(&self) {
        if self.left_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let Some(mut inner) = self.try_lock() else { return };
        self.take_left(&mut inner);
        let started_io = inner.disk.take_unsubmitted();
        drop(inner);
        if started_io {
            self.bell.submit();
        }
    }

    /// Requests that gathered while a write was under way go to the disk before what the write
    /// brought is applied: disk and processor work at the same time.
    fn hurry(&self, inner: &mut Inner) {
        let Inner { disk, inputs, .. } = inner;
        disk.poll(inputs);
        if inner.inputs.is_empty() {
            return;
        }
        self.take_left(inner);
        let now = self.now();
        inner.node.hurry(now, &mut inner.effects);
        inner.disk.execute(&mut inner.effects);
        if inner.disk.take_unsubmitted() {
            self.bell.submit();
        }
    }

    /// From now on somebody drives, or nobody; false: requests came in that must be driven first.
    fn set_driven(&self, driven: bool) -> bool {
        let mut left = self.left();
        if !driven && !left.requests.is_empty() {
            return false;
        }
        left.driven = driven;
        true
    }

    /// Submits; the reply is fetched with [`Driver::poll_reply`].
    pub fn call_async(&self, request: Request) -> Result<Arc<Slot>, Error> {
        let mut inner = self.lock();
        let slot = inner.submit(self.now(), request, Slot::new(Wake::Nobody))?;
        self.background_drives(&mut inner);
        let started_io = inner.disk.take_unsubmitted();
        drop(inner);
        if started_io {
            self.bell.submit();
        }
        self.after_unlock();
        Ok(slot)
    }

    pub fn poll_reply(&self, slot: &Slot, waker: &Waker) -> Option<Result<Reply, Error>> {
        let mut state = slot.lock();
        match state.answer.take() {
            Some(Answer::Reply(reply)) => Some(reply.map_err(Error::Request)),
            Some(Answer::Halted | Answer::LookAgain) => Some(Err(self.lock().why_halted())),
            None => {
                state.wake = Wake::Task(waker.clone());
                None
            }
        }
    }

    /// The hot path of a lookup by primary key; `None`: run a [`Read`].
    pub fn read_point(
        &self,
        tenant: TenantId,
        prepared: &Prepared,
        params: &[Value],
        scratch: &mut PointScratch,
        row: &mut Vec<Value>,
    ) -> Option<PointRead> {
        let mut inner = self.lock();
        if inner.stop {
            return None;
        }
        let read = inner.node.read_point(tenant, prepared, params, scratch, row);
        drop(inner);
        self.after_unlock();
        read
    }

    /// Runs a read to its end, slice by slice, on this thread.
    pub fn read(&self, read: &mut Read) -> Result<(), Error> {
        self.slices(|node, now, effects| node.read(now, read, effects))
    }

    pub fn read_commitment(&self, read: &mut CommitmentRead) -> Result<(), Error> {
        self.slices(|node, _, effects| node.read_commitment(read, effects))
    }

    fn slices(
        &self,
        mut slice: impl FnMut(&mut Node, Clock, &mut Effects) -> Progress,
    ) -> Result<(), Error> {
        loop {
            let mut inner = self.lock();
            match inner.slice(self.now(), &mut slice)? {
                Progress::Ready => {
                    drop(inner);
                    self.after_unlock();
                    return Ok(());
                }
                Progress::Yielded => {
                    drop(inner);
                    self.after_unlock();
                    std::thread::yield_now();
                }
                Progress::Waiting if inner.role == Role::Nobody => {
                    inner.role = Role::Caller;
                    self.set_driven(true);
                    let seen = inner.progress;
                    let inner = self.drive(inner, |inner| inner.progress != seen);
                    self.leave(inner);
                }
                Progress::Waiting => {
                    let slot = Slot::for_this_thread();
                    inner.readers.push(Arc::clone(&slot));
                    let started_io = inner.disk.take_unsubmitted();
                    drop(inner);
                    if started_io {
                        self.bell.submit();
                    }
                    slot.park();
                }
            }
        }
    }

    /// One slice of a read; `Some` when it is done. The waker is called when it is worth trying on.
    pub fn poll_read(&self, read: &mut Read, waker: &Waker) -> Option<Result<(), Error>> {
        let mut inner = self.lock();
        match inner.slice(self.now(), |node, now, effects| node.read(now, read, effects)) {
            Err(error) => Some(Err(error)),
            Ok(Progress::Ready) => Some(Ok(())),
            Ok(Progress::Yielded) => {
                waker.wake_by_ref();
                None
            }
            Ok(Progress::Waiting) => {
                inner.readers.push(Slot::new(Wake::Task(waker.clone())));
                self.background_drives(&mut inner);
                let started_io = inner.disk.take_unsubmitted();
                drop(inner);
                if started_io {
                    self.bell.submit();
                }
                None
            }
        }
    }

    /// Gives up a read: what it pins is free again.
    pub fn cancel(&self, read: &mut Read) {
        self.lock().node.cancel(read);
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
        let mut left = self.left();
        left.driven = false;
        let requests = left.requests.drain(..).map(|(_, slot)| slot);
        for slot in inner.waiting.drain().map(|(_, slot)| slot).chain(requests) {
            slot.answer(Answer::Halted);
            inner.answered.push(slot);
        }
        for slot in inner.readers.drain(..) {
            slot.answer(Answer::LookAgain);
            inner.answered.push(slot);
        }
        self.left_count.store(0, Ordering::SeqCst);
        inner.answered.drain(..).for_each(|slot| slot.wake());
        self.background.notify_all();
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

    /// What the background thread runs.
    pub fn run_background(&self) {
        let mut inner = self.lock();
        let mut seen = 0;
        while !inner.stop {
            if inner.role == Role::Background {
                inner = self.drive(inner, |inner| {
                    inner.stop || (inner.waiting.is_empty() && inner.readers.is_empty())
                });
                if self.set_driven(false) {
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
                    answered.iter().for_each(|slot| slot.wake());
                    inner = self.lock();
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
    fn drive<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        mut done: impl FnMut(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        loop {
            self.hurry(&mut inner);
            inner.turn(self.now());
            self.take_left(&mut inner);
            if done(&inner) || inner.stop || inner.node.halted().is_some() {
                // What was pushed now leaves with the next write, or when the background thread
                // looks: nobody waits for it.
                if inner.answered.iter().any(|slot| !slot.is_mine()) {
                    let answered = std::mem::take(&mut inner.answered);
                    inner.disk.take_unsubmitted();
                    drop(inner);
                    self.bell.submit();
                    answered.iter().for_each(|slot| slot.wake());
                    inner = self.lock();
                } else {
                    inner.answered.clear();
                }
                return inner;
            }
            let ready = inner.disk.has_ready();
            let timeout = self.until_deadline(&inner, WAIT_MAX);
            let answered = std::mem::take(&mut inner.answered);
            inner.disk.take_unsubmitted();
            drop(inner);
            if !answered.is_empty() {
                self.bell.submit();
                answered.iter().for_each(|slot| slot.wake());
            }
            if ready || self.left_count.load(Ordering::SeqCst) > 0 {
                self.bell.submit();
            } else {
                self.bell.submit_and_wait(timeout);
            }
            inner = self.lock();
        }
    }

    /// The driving caller has its answer.
    fn leave(&self, mut inner: MutexGuard<'_, Inner>) {
        let idle = inner.waiting.is_empty() && inner.readers.is_empty();
        if idle && self.set_driven(false) {
            inner.role = Role::Nobody;
            if inner.background_idles && inner.disk.in_flight() > 0 {
                self.background.notify_one();
            }
        } else {
            inner.role = Role::Background;
            self.background.notify_one();
        }
    }

    fn background_drives(&self, inner: &mut Inner) {
        if inner.role == Role::Nobody {
            inner.role = Role::Background;
            self.set_driven(true);
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
}

impl Inner {
    fn submit(
        &mut self,
        now: Clock,
        request: Request,
        slot: Arc<Slot>,
    ) -> Result<Arc<Slot>, Error> {
        if self.stop || self.node.halted().is_some() {
            return Err(self.why_halted());
        }
        self.enqueue(request, Arc::clone(&slot));
        self.run(now);
        Ok(slot)
    }

    fn enqueue(&mut self, request: Request, slot: Arc<Slot>) {
        if self.stop || self.node.halted().is_some() {
            slot.answer(Answer::Halted);
            self.answered.push(slot);
            return;
        }
        let ticket = self.node.enqueue(request);
        self.waiting.insert(ticket, slot);
    }

    /// What was enqueued goes its way.
    fn run(&mut self, now: Clock) {
        self.node.run(now, &mut self.effects);
        self.disk.execute(&mut self.effects);
    }

    fn slice(
        &mut self,
        now: Clock,
        slice: impl FnOnce(&mut Node, Clock, &mut Effects) -> Progress,
    ) -> Result<Progress, Error> {
        if self.stop || self.node.halted().is_some() {
            return Err(self.why_halted());
        }
        let progress = slice(&mut self.node, now, &mut self.effects);
        self.disk.execute(&mut self.effects);
        Ok(progress)
    }

    /// Completions in, effects out, replies to their slots. Never waits.
    fn turn(&mut self, now: Clock) {
        self.disk.poll(&mut self.inputs);
        if !self.inputs.is_empty() {
            self.progress += 1;
            self.answered.extend(self.readers.drain(..).inspect(|slot| {
                slot.answer(Answer::LookAgain);
            }));
        }
        for input in self.inputs.drain(..) {
            self.node.step(now, input, &mut self.effects);
        }
        let due = |told: time::Instant| now.monotonic.since_ns(told) >= SPACE_EVERY_NS;
        if self.space_told.is_none_or(due) {
            self.space_told = Some(now.monotonic);
            if let Some(free_bytes) = self.disk.free_bytes() {
                self.node.step(now, Input::Space { free_bytes }, &mut self.effects);
            }
        }
        if self.node.deadline().is_some_and(|deadline| deadline <= now.monotonic) {
            self.node.step(now, Input::Tick, &mut self.effects);
        }
        self.disk.execute(&mut self.effects);
        while let Some((ticket, reply)) = self.node.next_reply() {
            let Some(slot) = self.waiting.remove(&ticket) else {
                unreachable!("every ticket has a slot");
            };
            slot.answer(Answer::Reply(reply));
            self.answered.push(slot);
        }
        if self.node.halted().is_some() {
            for (_, slot) in self.waiting.drain() {
                slot.answer(Answer::Halted);
                self.answered.push(slot);
            }
        }
    }

    fn why_halted(&self) -> Error {
        match self.node.halted() {
            None | Some(Halt::Shutdown) => Error::Closed,
            Some(halt) => Error::Halted {
                halt: halt.clone(),
                problem: self.disk.problem().map(str::to_string),
            },
        }
    }
}
