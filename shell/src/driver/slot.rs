//! Where one caller waits for its answer.
//!
//! Callers whose requests gathered together sleep in one group (a futex of the kernel), because
//! they are answered together: one call wakes them all, where waking them one by one would cost the
//! driver more than applying what they asked.
//!
//! Invariants: a slot is answered once, and before its group is woken. Whoever is woken too early
//! sleeps again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use rustix::thread::futex;
use verity_core::kernel::{Reply, RequestError};

#[derive(Debug)]
pub struct Slot {
    state: Mutex<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    wake: Wake,
    answer: Option<Answer>,
}

/// Threads that wait for answers of one moment.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Counts the calls of `wake`.
    woken: AtomicU32,
}

impl Group {
    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        // It fails only where there are no futexes, and then nobody sleeps on one.
        let _nobody_slept = futex::wake(&self.woken, futex::Flags::PRIVATE, i32::MAX as u32);
    }
}

#[derive(Debug)]
pub(super) enum Wake {
    Nobody,
    Thread(Thread),
    Group(Arc<Group>),
    Task(Waker),
}

#[derive(Debug)]
pub(super) enum Answer {
    Reply(Result<Reply, RequestError>),
    /// For readers: try again.
    LookAgain,
    Halted,
}

impl Slot {
    pub(super) fn new(wake: Wake) -> Arc<Slot> {
        let state = SlotState { wake, answer: None };
        Arc::new(Slot { state: Mutex::new(state) })
    }

    pub(super) fn for_this_thread() -> Arc<Slot> {
        Slot::new(Wake::Thread(std::thread::current()))
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        assert!(state.answer.is_none(), "a slot is answered once");
        state.answer = Some(answer);
    }

    pub(super) fn is_mine(&self) -> bool {
        match &self.lock().wake {
            Wake::Thread(thread) => thread.id() == std::thread::current().id(),
            Wake::Nobody | Wake::Task(_) | Wake::Group(_) => false,
        }
    }

    pub(super) fn is_of_group(&self) -> bool {
        matches!(self.lock().wake, Wake::Group(_))
    }

    /// The answer, if it is there.
    pub(super) fn take(&self) -> Option<Answer> {
        self.lock().answer.take()
    }

    /// The answer, or a promise to call the waker when it is there.
    pub(super) fn poll(&self, waker: &Waker) -> Option<Answer> {
        let mut state = self.lock();
        let answer = state.answer.take();
        // Whoever has the answer needs no waker; one that holds this slot would hold it for ever.
        state.wake = match &answer {
            Some(_) => Wake::Nobody,
            None => Wake::Task(waker.clone()),
        };
        answer
    }

    /// Calls the waker when the answer is there: now, if it is.
    pub(super) fn tell(&self, waker: &Waker) {
        let mut state = self.lock();
        if state.answer.is_none() {
            state.wake = Wake::Task(waker.clone());
            return;
        }
        drop(state);
        waker.wake_by_ref();
    }

    /// Sleeps until the answer is there, or the moment; whether it is. For the thread that made the
    /// slot, and not of a group.
    pub(super) fn park_until(&self, end: Instant) -> bool {
        loop {
            if self.take().is_some() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left);
        }
    }

    /// Sleeps until the answer is there. For the thread that made the slot.
    pub(super) fn park(&self) -> Answer {
        let group = match &self.lock().wake {
            Wake::Group(group) => Some(Arc::clone(group)),
            Wake::Nobody | Wake::Thread(_) | Wake::Task(_) => None,
        };
        loop {
            let woken = group.as_ref().map(|group| group.woken.load(Ordering::SeqCst));
            if let Some(answer) = self.take() {
                return answer;
            }
            match (&group, woken) {
                (Some(group), Some(woken)) => {
                    // Interrupted, or woken before it slept: it looks again.
                    let flags = futex::Flags::PRIVATE;
                    let _look_again = futex::wait(&group.woken, flags, woken, None);
                }
                (None, _) | (Some(_), None) => std::thread::park(),
            }
        }
    }
}

/// Wakes all of them, whose answers are there.
pub(super) fn wake_all(slots: Vec<Arc<Slot>>) {
    let mut groups: Vec<Arc<Group>> = Vec::new();
    for slot in slots {
        // Whoever is woken takes this lock at once, on this processor perhaps: it is not held.
        let wake = std::mem::replace(&mut slot.lock().wake, Wake::Nobody);
        match wake {
            Wake::Nobody => {}
            Wake::Thread(thread) => thread.unpark(),
            Wake::Task(waker) => waker.wake(),
            Wake::Group(group) => {
                if !groups.iter().any(|other| Arc::ptr_eq(other, &group)) {
                    groups.push(group);
                }
            }
        }
    }
    groups.iter().for_each(|group| group.wake());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    struct Sleeper;

    impl std::task::Wake for Sleeper {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_slot_that_was_emptied_holds_nobody() {
        let sleeper = Arc::new(Sleeper);
        let slot = Slot::new(Wake::Nobody);
        let waker = Waker::from(Arc::clone(&sleeper));
        assert!(slot.poll(&waker).is_none());
        assert_eq!(Arc::strong_count(&sleeper), 3);
        slot.answer(Answer::LookAgain);
        assert!(slot.poll(&waker).is_some());
        drop(waker);
        assert_eq!(Arc::strong_count(&sleeper), 1);
    }

    /// All wake when their answers are there, whatever group they are in, and none before.
    #[test]
    fn everybody_is_woken_once_answered() {
        let (done, woken) = channel();
        let groups = [Arc::new(Group::default()), Arc::new(Group::default())];
        let waiting = |at: usize| {
            let (done, group) = (done.clone(), Arc::clone(&groups[at % 2]));
            let (sender, receiver) = channel();
            std::thread::spawn(move || {
                let slot = match at {
                    7 => Slot::for_this_thread(),
                    _ => Slot::new(Wake::Group(group)),
                };
                sender.send(Arc::clone(&slot)).unwrap();
                slot.park();
                done.send(at).unwrap();
            });
            receiver.recv().unwrap()
        };
        let slots: Vec<Arc<Slot>> = (0..8).map(waiting).collect();
        let (first, second) = slots.split_at(3);
        for half in [first, second] {
            half.iter().for_each(|slot| slot.answer(Answer::LookAgain));
            wake_all(half.to_vec());
            let mut heard: Vec<usize> =
                half.iter().map(|_| woken.recv_timeout(Duration::from_secs(20)).unwrap()).collect();
            heard.sort_unstable();
            let expected = if half.len() == 3 { 0..3 } else { 3..8 };
            assert_eq!(heard, expected.collect::<Vec<_>>());
        }
    }
}
