//! Memory that many connections share: what one holds, the others cannot.
//!
//! Invariant: the charges of a budget together are never above it, and each is given back when it
//! is dropped. Nobody waits here: who gets nothing must do without.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicUsize::new(bytes) })
    }

    #[cfg(test)]
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

/// Bytes of a budget.
#[derive(Debug)]
pub struct Charge {
    of: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    #[must_use]
    pub fn none(of: &Arc<Budget>) -> Charge {
        Charge { of: Arc::clone(of), bytes: 0 }
    }

    /// `None`: there is no room for it.
    #[must_use]
    pub fn of(budget: &Arc<Budget>, bytes: usize) -> Option<Charge> {
        let mut charge = Charge::none(budget);
        charge.set(bytes).then_some(charge)
    }

    /// From now on so many; false: there is no room, and nothing changes.
    #[must_use]
    pub fn set(&mut self, bytes: usize) -> bool {
        let (before, order) = (self.bytes, Ordering::SeqCst);
        let taken = self
            .of
            .left
            .fetch_update(order, order, |left| (left + before).checked_sub(bytes))
            .is_ok();
        if taken {
            self.bytes = bytes;
        }
        taken
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.left.fetch_add(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_together_stay_within_the_budget() {
        let budget = Budget::new(100);
        let mut first = Charge::of(&budget, 60).unwrap();
        assert!(Charge::of(&budget, 41).is_none());
        let second = Charge::of(&budget, 40).unwrap();
        assert!(!first.set(61) && first.set(60) && first.set(20));
        assert_eq!(budget.left(), 40);
        drop(second);
        assert!(first.set(100) && !first.set(101));
        drop(first);
        assert_eq!(budget.left(), 100);
    }
}
