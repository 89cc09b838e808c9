//! Reads on their callers' threads: a bounded slice under the lock, then the next.

use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use verity_core::ids::TenantId;
use verity_core::io::Effects;
use verity_core::node::{CommitmentRead, Node, PointRead, Progress, ProofRead, Read};
use verity_core::query::{PointScratch, Prepared, Value};
use verity_core::time::Clock;

use super::slot::{Slot, Wake};
use super::{Driver, Role};
use crate::error::Error;

/// Longest sleep of a proof behind another one.
const BEHIND_MAX: Duration = Duration::from_millis(10);
/// Longest sleep of a slice of a proof whose caller looks at other things in between.
const SLICE_WAIT_MAX: Duration = Duration::from_millis(250);

impl Driver {
    /// The hot path of a lookup by primary key; `None`: run a [`Read`].
    pub fn read_point(
        &self,
        tenant: TenantId,
        prepared: &Prepared,
        params: &[Value],
        scratch: &mut PointScratch,
        row: &mut Vec<Value>,
    ) -> Option<PointRead> {
        let mut inner = self.lock_first();
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

    pub fn read_proof(&self, read: &mut ProofRead) -> Result<(), Error> {
        let result = self.slices(|node, now, effects| node.read_proof(now, read, effects));
        self.proof_has_ended();
        result
    }

    /// One slice of a proof, on this thread; true: it is done. What is given up is cancelled.
    pub fn proof_slice(&self, read: &mut ProofRead) -> Result<bool, Error> {
        let mut inner = self.lock();
        match inner.slice(self.now(), |node, now, effects| node.read_proof(now, read, effects))? {
            Progress::Ready => {
                self.unlock(inner);
                self.proof_has_ended();
                return Ok(true);
            }
            Progress::Yielded => {
                self.unlock(inner);
                std::thread::yield_now();
            }
            Progress::Behind => {
                inner.proofs_behind += 1;
                let seen = inner.proofs_ended;
                self.unlock(inner);
                self.wait_behind(seen);
            }
            Progress::Waiting => {
                let slot = Slot::for_this_thread();
                inner.readers.push(Arc::clone(&slot));
                self.background_drives(&mut inner);
                self.unlock(inner);
                let _or_time_to_look = slot.park_until(Instant::now() + SLICE_WAIT_MAX);
            }
        }
        Ok(false)
    }

    /// Gives up a proof: what it pins is free again, and whoever waits behind it goes on.
    pub fn cancel_proof(&self, read: &mut ProofRead) {
        self.lock().node.cancel_proof(read);
        self.after_unlock();
        self.proof_has_ended();
    }

    fn proof_has_ended(&self) {
        let mut inner = self.lock();
        if inner.proofs_behind > 0 {
            inner.proofs_ended += 1;
            self.proof_ended.notify_all();
        }
        drop(inner);
        self.after_unlock();
    }

    /// Sleeps until a proof has ended since `seen`.
    fn wait_behind(&self, seen: u64) {
        let mut inner = self.lock();
        if inner.proofs_ended == seen && !inner.stop {
            // What it waits for may give up what it holds without an end.
            (inner, _) = self
                .proof_ended
                .wait_timeout(inner, BEHIND_MAX)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inner.proofs_behind -= 1;
        drop(inner);
        self.after_unlock();
    }

    fn slices(
        &self,
        mut slice: impl FnMut(&mut Node, Clock, &mut Effects) -> Progress,
    ) -> Result<(), Error> {
        loop {
            let mut inner = self.lock();
            match inner.slice(self.now(), &mut slice)? {
                Progress::Ready => {
                    self.unlock(inner);
                    return Ok(());
                }
                Progress::Yielded => {
                    self.unlock(inner);
                    self.let_go_first();
                }
                Progress::Behind => {
                    inner.proofs_behind += 1;
                    let seen = inner.proofs_ended;
                    self.unlock(inner);
                    self.wait_behind(seen);
                }
                Progress::Waiting if inner.role == Role::Nobody => {
                    inner.role = Role::Caller;
                    self.gathered.set_driven(true);
                    let seen = inner.progress;
                    let inner = self.drive(inner, |inner| inner.progress != seen);
                    self.leave(inner);
                }
                Progress::Waiting => {
                    let slot = Slot::for_this_thread();
                    inner.readers.push(Arc::clone(&slot));
                    self.unlock(inner);
                    slot.park();
                }
            }
        }
    }

    /// One slice of a read, on this thread; true: it is done. Rows may be taken in between.
    pub fn read_slice(&self, read: &mut Read) -> Result<bool, Error> {
        let mut inner = self.lock();
        match inner.slice(self.now(), |node, now, effects| node.read(now, read, effects))? {
            Progress::Ready => {
                self.unlock(inner);
                Ok(true)
            }
            Progress::Yielded | Progress::Behind => {
                self.unlock(inner);
                std::thread::yield_now();
                Ok(false)
            }
            Progress::Waiting => {
                let slot = Slot::for_this_thread();
                inner.readers.push(Arc::clone(&slot));
                self.background_drives(&mut inner);
                self.unlock(inner);
                slot.park();
                Ok(false)
            }
        }
    }

    /// One slice of a read; `Some` when it is done. The waker is called when it is worth trying on.
    pub fn poll_read(&self, read: &mut Read, waker: &Waker) -> Option<Result<(), Error>> {
        let mut inner = self.lock();
        match inner.slice(self.now(), |node, now, effects| node.read(now, read, effects)) {
            Err(error) => Some(Err(error)),
            Ok(Progress::Ready) => {
                self.unlock(inner);
                Some(Ok(()))
            }
            Ok(Progress::Yielded | Progress::Behind) => {
                self.unlock(inner);
                waker.wake_by_ref();
                None
            }
            Ok(Progress::Waiting) => {
                inner.readers.push(Slot::new(Wake::Task(waker.clone())));
                self.background_drives(&mut inner);
                self.unlock(inner);
                None
            }
        }
    }

    /// Gives up a read: what it pins is free again.
    pub fn cancel(&self, read: &mut Read) {
        self.lock().node.cancel(read);
        self.after_unlock();
    }
}
