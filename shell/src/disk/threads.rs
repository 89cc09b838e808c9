//! The plain backend: the same jobs through `preadv2`, `pwritev2` and `fdatasync`.
//!
//! Purpose: io_uring is forbidden in many containers. Whoever waits carries out a queued job itself
//! (no thread hop when one caller is alone); a few workers take what is queued beyond that.
//!
//! Invariants: a job belongs to exactly one of: the queue, a thread that runs it, the finished
//! list. The pool is dropped only after its workers have stopped.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::job::{Job, Kind, Step};

/// Threads beside the one that waits.
const WORKERS: usize = 4;

#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    running: usize,
    finished: Vec<(Job, Result<(), Errno>)>,
    closing: bool,
}

/// Starts work and waits for it, from any thread.
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<Shared>);

impl Doorbell {
    /// Hands queued jobs to the workers.
    pub fn submit(&self) {
        let queued = self.0.lock().queue.len();
        for _ in 0..queued.min(WORKERS) {
            self.0.work.notify_one();
        }
    }

    /// Runs one queued job here, the others on workers; or sleeps until something is finished.
    pub fn submit_and_wait(&self, timeout: Duration) {
        let mut state = self.0.lock();
        if !state.finished.is_empty() {
            return;
        }
        for _ in 1..state.queue.len().min(WORKERS) {
            self.0.work.notify_one();
        }
        if let Some(job) = state.take() {
            drop(state);
            let finished = run(job);
            let mut state = self.0.lock();
            state.running -= 1;
            state.finished.push(finished);
            return;
        }
        drop(self.0.done.wait_timeout(state, timeout));
    }
}

impl Pool {
    pub fn new() -> std::io::Result<Pool> {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::with_capacity(WORKERS);
        for number in 0..WORKERS {
            let shared = Arc::clone(&shared);
            let name = format!("verity-io-{number}");
            workers.push(std::thread::Builder::new().name(name).spawn(move || work(&shared))?);
        }
        Ok(Pool { shared, workers })
    }

    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        Doorbell(Arc::clone(&self.shared))
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        let state = self.shared.lock();
        state.queue.len() + state.running + state.finished.len()
    }

    pub fn push(&mut self, job: Job) {
        self.shared.lock().queue.push_back(job);
    }

    pub fn reap(&mut self, finished: &mut Vec<(Job, Result<(), Errno>)>) {
        finished.append(&mut self.shared.lock().finished);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.queue.clear();
        state.closing = true;
        drop(state);
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            let _worker_panicked = worker.join();
        }
    }
}

impl Shared {
    /// A thread that panicked while holding this lock left a list in order: carry on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.running += 1;
        Some(job)
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closing {
        let Some(job) = state.take() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let finished = run(job);
        state = shared.lock();
        state.running -= 1;
        state.finished.push(finished);
        shared.done.notify_one();
    }
}

fn run(mut job: Job) -> (Job, Result<(), Errno>) {
    loop {
        let result = attempt(&mut job);
        if let Step::Finished(result) = job.advance(result) {
            return (job, result);
        }
    }
}

fn attempt(job: &mut Job) -> Result<usize, Errno> {
    let offset = job.rest_offset();
    let moved = job.moved;
    match job.kind {
        Kind::Sync => rustix::fs::fdatasync(&job.file.fd).map(|()| 0),
        Kind::Read => {
            let rest = IoSliceMut::new(&mut job.pages.as_bytes_mut()[moved..]);
            preadv2(&job.file.fd, &mut [rest], offset, ReadWriteFlags::empty())
        }
        Kind::Write { .. } | Kind::Zeros => {
            let rest = IoSlice::new(&job.pages.as_bytes()[moved..]);
            pwritev2(&job.file.fd, &[rest], offset, job.kind.flags())
        }
    }
}
