//! The io_uring backend: the only unsafe code of the project.
//!
//! Invariants: a job sits in a slot from submission to completion, so its pages and its descriptor
//! outlive the kernel's use of them; the slot number is the `user_data`. At most `ENTRIES` jobs are
//! in flight, so neither queue overflows; the rest wait in order. Only the holder of `&mut Ring`
//! touches the queues; a [`Doorbell`] may enter the kernel from any thread meanwhile.
//!
//! Fault model: completions come in any order; an attempt may be short or interrupted (`Job`
//! decides what follows). A ring that is dropped waits for what is in flight; buffers that the
//! kernel will not give back are leaked, never freed under it.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use super::job::{Job, Kind, Step};

/// Jobs in flight at a time.
const ENTRIES: u32 = 256;

pub struct Ring {
    uring: Arc<IoUring>,
    slots: Vec<Option<Job>>,
    free: Vec<usize>,
    waiting: VecDeque<Job>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// Enters the kernel to submit and to wait; usable while another thread fills the queue.
#[derive(Clone)]
pub struct Doorbell(Arc<IoUring>);

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Doorbell")
    }
}

impl Doorbell {
    /// Hands the kernel what was pushed. A transient refusal is made good by the next call.
    pub fn submit(&self) {
        let _transient = self.0.submit();
    }

    /// Submits, then sleeps until a completion is there or the time is up.
    pub fn submit_and_wait(&self, timeout: Duration) {
        let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
        let args = SubmitArgs::new().timespec(&timespec);
        // Time out, interruption and a busy kernel all mean: look again.
        let _look_again = self.0.submitter().submit_with_args(1, &args);
    }
}

impl Ring {
    /// Refused where containers or administrators forbid io_uring.
    pub fn new() -> std::io::Result<Ring> {
        let uring = IoUring::builder().dontfork().build(ENTRIES)?;
        if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "io_uring of this kernel is too old (5.11 is needed)",
            ));
        }
        let slots = (0..ENTRIES).map(|_| None).collect();
        let free = (0..ENTRIES as usize).rev().collect();
        Ok(Ring { uring: Arc::new(uring), slots, free, waiting: VecDeque::new() })
    }

    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        Doorbell(Arc::clone(&self.uring))
    }

    /// Jobs not yet reaped.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.waiting.len()
    }

    /// Puts the job in the queue; the kernel sees it with the next ring of the doorbell.
    pub fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.fill();
    }

    /// Takes finished jobs. Those with work left go back in the queue.
    pub fn reap(&mut self, finished: &mut Vec<(Job, Result<(), Errno>)>) {
        let mut again = false;
        // SAFETY: `&mut self` is the only way to the queues of this ring (a `Doorbell` never makes
        // a queue object), so no second completion queue exists while this one lives.
        let completions = unsafe { self.uring.completion_shared() };
        for completion in completions {
            let Ok(slot) = usize::try_from(completion.user_data()) else {
                unreachable!("user_data is a slot number");
            };
            let Some(mut job) = self.slots[slot].take() else {
                unreachable!("one completion for each submission");
            };
            self.free.push(slot);
            let result = match usize::try_from(completion.result()) {
                Ok(count) => Ok(count),
                Err(_) => Err(Errno::from_raw_os_error(-completion.result())),
            };
            match job.advance(result) {
                Step::Finished(result) => finished.push((job, result)),
                Step::Again => {
                    self.waiting.push_front(job);
                    again = true;
                }
            }
        }
        if again || !self.waiting.is_empty() {
            self.fill();
            self.doorbell().submit();
        }
    }

    fn fill(&mut self) {
        while let Some(slot) = self.free.last().copied() {
            let Some(job) = self.waiting.pop_front() else { return };
            let job = self.slots[slot].insert(job);
            let entry = entry(job).user_data(slot as u64);
            // SAFETY: as in `reap`, `&mut self` makes this the only submission queue object. The
            // entry points into pages and names a descriptor that the slot owns until its
            // completion is reaped.
            let pushed = unsafe { self.uring.submission_shared().push(&entry) };
            if pushed.is_err() {
                // The kernel has not taken earlier entries yet: hand them over, try later.
                let Some(job) = self.slots[slot].take() else {
                    unreachable!("it was put there above");
                };
                self.waiting.push_front(job);
                self.doorbell().submit();
                // SAFETY: as above.
                if unsafe { self.uring.submission_shared() }.is_full() {
                    return;
                }
                continue;
            }
            self.free.pop();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.waiting.clear();
        let mut finished = Vec::new();
        for _ in 0..100 {
            if self.in_flight() == 0 {
                return;
            }
            self.doorbell().submit_and_wait(Duration::from_millis(100));
            self.reap(&mut finished);
            self.waiting.clear();
        }
        // The kernel still owns these buffers after ten seconds: never free them.
        std::mem::forget(std::mem::take(&mut self.slots));
    }
}

/// What to ask of the kernel for the rest of a job.
fn entry(job: &mut Job) -> squeue::Entry {
    let fd = Fd(job.file.fd.as_raw_fd());
    let offset = job.rest_offset();
    let moved = job.moved;
    match job.kind {
        Kind::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Kind::Read => {
            let rest = &mut job.pages.as_bytes_mut()[moved..];
            opcode::Read::new(fd, rest.as_mut_ptr(), length(rest.len())).offset(offset).build()
        }
        Kind::Write { .. } | Kind::Zeros => {
            let rest = &job.pages.as_bytes()[moved..];
            let flags = job.kind.flags();
            let Ok(flags) = i32::try_from(flags.bits()) else {
                unreachable!("RWF flags are small");
            };
            opcode::Write::new(fd, rest.as_ptr(), length(rest.len()))
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
    }
}

/// One attempt moves at most 1 GiB; `Job::advance` asks for the rest.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes.min(1 << 30)).unwrap_or(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use verity_core::io::{FileId, IoId, Owner, Pages};

    /// What the kernel is asked, as it reads it: opcode and flags of `struct io_uring_sqe`.
    fn asked(kind: Kind) -> (u8, u32) {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut job = Job {
            io: IoId { owner: Owner::Store, slot: 0 },
            kind,
            file: Arc::new(super::super::files::OpenFile { fd: file.into() }),
            offset: 0,
            pages: Pages::zeroed(1),
            moved: 0,
            name: FileId::Journal,
        };
        let entry = entry(&mut job);
        const { assert!(size_of::<squeue::Entry>() == 64) };
        // SAFETY: an entry is `struct io_uring_sqe` and nothing more, 64 bytes that began as zeros.
        let bytes: [u8; 64] = unsafe { std::mem::transmute_copy(&entry) };
        (bytes[0], u32::from_le_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]))
    }

    #[test]
    fn the_kernel_is_asked_for_what_is_durable() {
        const DSYNC: u32 = 2;
        const DATASYNC: u32 = 1;
        assert_eq!(asked(Kind::Write { durable: true }), (opcode::Write::CODE, DSYNC));
        assert_eq!(asked(Kind::Write { durable: false }), (opcode::Write::CODE, 0));
        assert_eq!(asked(Kind::Zeros), (opcode::Write::CODE, 0));
        assert_eq!(asked(Kind::Read), (opcode::Read::CODE, 0));
        assert_eq!(asked(Kind::Sync), (opcode::Fsync::CODE, DATASYNC));
    }
}
