//! Sleep and wake-up without a lost wake-up.

use crate::atomic::{AtomicBool, Ordering, fence};

/// Whether a worker is asleep, or about to be.
///
/// The worker announces that it will sleep and then checks for work once more; a thread that queues
/// work then asks whether to wake it. The two fences order the store before the load on each side,
/// so at least one of the two sees the other (Dekker's algorithm).
#[derive(Debug, Default)]
pub struct SleepFlag {
    asleep: AtomicBool,
}

impl SleepFlag {
    /// Announces sleep. The worker must look for work after this, and sleep only if there is none.
    pub fn announce(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn clear(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether the worker has to be woken for work that was queued before this call.
    #[must_use]
    #[inline]
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed)
    }
}
