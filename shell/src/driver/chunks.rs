//! Memory of the page cache, made ready by a thread of its own before anybody needs it.
//!
//! Whoever writes first to fresh memory waits for the kernel, and on a virtual machine for the host
//! too: 6 to 9 ms for 2 MiB were seen, some ten times a second, in the middle of commits.
//!
//! Invariants: at most one chunk is asked for at a time; the lock of the driver is not held while
//! it is made. Fault model: without the thread nothing is asked for, and the node makes its chunks
//! itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use verity_core::store::Chunk;

use super::Driver;

/// The highest nice value.
const LEAST_PRIORITY: i32 = 19;

#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// One is being made: nobody needs to ask.
    asked: AtomicBool,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Pages of the chunk that is asked for.
    wanted: Option<usize>,
    stop: bool,
}

impl Chunks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ask(&self, pages: usize) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            self.state().wanted = Some(pages);
            self.bell.notify_one();
        }
    }

    pub fn end(&self) {
        self.state().stop = true;
        self.bell.notify_one();
    }

    /// The next chunk that is wanted; `None` at the end.
    fn next(&self) -> Option<usize> {
        let waits = |state: &mut State| !state.stop && state.wanted.is_none();
        let state = self.bell.wait_while(self.state(), waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.stop { None } else { state.wanted.take() }
    }
}

impl Driver {
    /// What the thread runs.
    pub(super) fn make_chunks(&self) {
        // Else what wakes on this processor meanwhile, a thread of the kernel that ends a durable
        // write among others, waits for the 3 to 4 ms that this takes. (Of the calling thread, on
        // Linux.)
        if let Err(error) = rustix::process::setpriority_process(None, LEAST_PRIORITY) {
            tracing::debug!("memory is made ready at the usual priority: {error}");
        }
        while let Some(pages) = self.chunks.next() {
            let mut chunk = Chunk::zeroed(pages);
            chunk.touch();
            self.lock().node.give_chunk(chunk);
            self.chunks.asked.store(false, Ordering::SeqCst);
        }
    }
}
