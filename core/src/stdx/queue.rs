//! A first-in first-out queue that can be full.
//!
//! Invariant: never more than the capacity it was created with; a full queue gives the item back.

use alloc::collections::VecDeque;

#[derive(Debug)]
pub struct Queue<T> {
    items: VecDeque<T>,
    length_max: usize,
}

impl<T> Queue<T> {
    #[must_use]
    pub fn new(length_max: usize) -> Queue<T> {
        Queue { items: VecDeque::with_capacity(length_max), length_max }
    }

    /// At the end of the queue; a full one hands the item back.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(())
    }

    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.items.front_mut()
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.iter()
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.items.iter_mut()
    }

    pub fn clear(&mut self) {
        self.items.clear();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    #[must_use]
    pub fn length_max(&self) -> usize {
        self.length_max
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() == self.length_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_refuses_when_full() {
        let mut queue = Queue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert!(queue.is_full());
        assert_eq!(queue.front(), Some(&1));
        assert!(queue.iter().eq(&[1, 2]));
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.push(3), Ok(()));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(2), Some(3), None));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_queue_of_nothing_takes_nothing() {
        assert_eq!(Queue::new(0).push(1), Err(1));
    }
}
