//! Bounded rings between workers.

use crossbeam::queue::ArrayQueue;

/// A ring for each pair of workers. So each ring has one producer, which knows the links' shares of
/// it ([`crate::share`]).
#[derive(Debug)]
pub(super) struct PairRings<T> {
    workers: u16,
    /// Those to the first worker, by source worker, then those to the second, and so on.
    rings: Vec<ArrayQueue<T>>,
}

impl<T> PairRings<T> {
    /// Rings of `workers` workers: `to_one` entries in all rings to one worker, divided equally
    /// among them, but at least `min` in each.
    pub(super) fn new(workers: u16, to_one: usize, min: usize) -> Self {
        let count = usize::from(workers);
        let each_way = (to_one / count).max(min);
        // A worker has none to itself, but a queue can't be empty.
        let room = |pair| if pair / count == pair % count { 1 } else { each_way };
        let rings = (0..count * count).map(room).map(ArrayQueue::new);
        Self { workers, rings: rings.collect() }
    }

    /// The ring from worker `from` to worker `to`.
    pub(super) fn ring(&self, from: u16, to: u16) -> &ArrayQueue<T> {
        &self.rings[usize::from(to) * usize::from(self.workers) + usize::from(from)]
    }

    /// Entries that wait on the ring from worker `from` to worker `to`, and free ones.
    pub(super) fn waiting_and_free(&self, from: u16, to: u16) -> (usize, usize) {
        let ring = self.ring(from, to);
        let waiting = ring.len();
        (waiting, ring.capacity() - waiting)
    }

    /// Takes what has waited longest on the ring from worker `from` to worker `to`.
    pub(super) fn take(&self, from: u16, to: u16) -> Option<T> {
        self.ring(from, to).pop()
    }

    /// Whether something waits for worker `to`.
    pub(super) fn has_any(&self, to: u16) -> bool {
        (0..self.workers).any(|from| !self.ring(from, to).is_empty())
    }
}
