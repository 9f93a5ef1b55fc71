//! Atomics and queues: loom's in a model, the real ones otherwise.

#[cfg(not(all(test, loom)))]
pub(crate) use crossbeam::queue::ArrayQueue;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

/// A bounded queue with the interface of crossbeam's.
#[cfg(all(test, loom))]
#[derive(Debug)]
pub(crate) struct ArrayQueue<T> {
    items: loom::sync::Mutex<std::collections::VecDeque<T>>,
    capacity: usize,
}

#[cfg(all(test, loom))]
impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { items: loom::sync::Mutex::default(), capacity }
    }

    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut items = self.items.lock().expect("no model panics with the lock held");
        if items.len() == self.capacity {
            return Err(item);
        }
        items.push_back(item);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.items.lock().expect("no model panics with the lock held").pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.lock().expect("no model panics with the lock held").len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }
}
