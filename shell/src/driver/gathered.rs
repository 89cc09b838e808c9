//! Requests that gather for whoever drives, so that callers need not wait for its lock.
//!
//! While a prepare is on its way to the disk there is nothing to do with a new request but to keep
//! it: it is left here, and its caller sleeps. Invariants: a request is only left while somebody
//! drives, who looks here before it ends and before it sleeps. Fault model: when nothing is in
//! flight that would wake the driver, or very much has gathered, the caller hands it over itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use verity_core::limits::PREPARE_EAGER_BYTES;

use super::sealers::Asked;
use super::slot::{Group, Slot, Wake};

#[derive(Debug, Default)]
pub(super) struct Gathered {
    state: Mutex<State>,
    /// Bytes of the requests here; see `weight`.
    bytes: AtomicUsize,
    /// With more than this, somebody must look.
    bytes_max: AtomicUsize,
}

/// Who will wait for the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sleeper {
    Thread,
    /// Says how to wake it when it first asks for the answer.
    Task,
}

/// Locked for moments only, and after the lock of `Inner`.
#[derive(Debug, Default)]
struct State {
    /// Somebody drives, and will look here before it ends.
    driven: bool,
    requests: Vec<(Asked, Arc<Slot>)>,
    /// Of those who left them.
    group: Arc<Group>,
}

/// What is not sealed yet is sealed while the disk works: at once.
fn weight(asked: &Asked) -> usize {
    match asked {
        Asked::Request(_) => PREPARE_EAGER_BYTES + 1,
        Asked::Sealed(sealed) => sealed.size(),
    }
}

impl Gathered {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request to the one who drives; gives it back when nobody does.
    pub fn leave(&self, asked: Asked, sleeper: Sleeper) -> Result<Arc<Slot>, Asked> {
        let bytes = weight(&asked);
        let mut state = self.state();
        if !state.driven {
            return Err(asked);
        }
        let slot = Slot::new(match sleeper {
            Sleeper::Thread => Wake::Group(Arc::clone(&state.group)),
            Sleeper::Task => Wake::Nobody,
        });
        state.requests.push((asked, Arc::clone(&slot)));
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        Ok(slot)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) == 0
    }

    /// Takes all that is here into `taken`, which is empty.
    pub fn take(&self, taken: &mut Vec<(Asked, Arc<Slot>)>) {
        assert!(taken.is_empty());
        let mut state = self.state();
        std::mem::swap(taken, &mut state.requests);
        state.group = Arc::default();
        self.bytes.store(0, Ordering::SeqCst);
    }

    /// Said before the driver sleeps: whether requests may gather until something wakes it.
    pub fn may_gather(&self, may: bool) {
        self.bytes_max.store(if may { PREPARE_EAGER_BYTES } else { 0 }, Ordering::SeqCst);
    }

    /// What gathered must not wait for the driver to wake.
    pub fn wants_a_hand(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) > self.bytes_max.load(Ordering::SeqCst)
    }

    /// From now on somebody drives, or nobody; false: requests came in that must be driven first.
    pub fn set_driven(&self, driven: bool) -> bool {
        let mut state = self.state();
        if !driven && !state.requests.is_empty() {
            return false;
        }
        state.driven = driven;
        true
    }

    /// Nobody drives any more; what was left is given back.
    pub fn end(&self) -> Vec<(Asked, Arc<Slot>)> {
        let mut state = self.state();
        state.driven = false;
        self.bytes.store(0, Ordering::SeqCst);
        std::mem::take(&mut state.requests)
    }
}
