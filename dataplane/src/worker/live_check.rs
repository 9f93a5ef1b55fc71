//! Which addresses are destinations of live flows: asked by the control thread, answered by each
//! worker from its own flow table, some slots between two rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use podgate_tables::address::Address;
use podgate_tables::time::Nanos;

use crate::flow::FlowTable;

/// Slots of the flow table that are read between two rounds.
const SLOTS: u32 = 256;

/// A question about addresses, and the answers of all workers together.
#[derive(Debug)]
pub struct LiveCheck {
    /// Sorted.
    addresses: Vec<Address>,
    /// In step with the addresses.
    live: Vec<AtomicBool>,
    /// Workers that have not read all of their flows yet.
    waiting: AtomicU16,
}

impl LiveCheck {
    /// Asks `workers` workers.
    pub(super) fn new(mut addresses: Vec<Address>, workers: u16) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        let live = addresses.iter().map(|_| AtomicBool::new(false)).collect();
        Self { addresses, live, waiting: AtomicU16::new(workers) }
    }

    /// The addresses, each with whether it is the destination of a live flow; `None` until all
    /// workers have answered.
    #[must_use]
    pub fn result(&self) -> Option<impl Iterator<Item = (Address, bool)>> {
        let is_done = self.waiting.load(Ordering::Acquire) == 0;
        let live = self.live.iter().map(|live| live.load(Ordering::Relaxed));
        is_done.then(|| self.addresses.iter().copied().zip(live))
    }
}

/// One worker's part of a [`LiveCheck`].
#[derive(Debug)]
pub(super) struct LiveScan {
    check: Arc<LiveCheck>,
    /// The first slot that was not read yet.
    next: u32,
}

impl LiveScan {
    pub(super) fn new(check: Arc<LiveCheck>) -> Self {
        Self { check, next: 0 }
    }

    /// Reads some more flows. Returns whether that was all; then the answer is complete.
    pub(super) fn advance(&mut self, flows: &FlowTable, now: Nanos) -> bool {
        let LiveCheck { addresses, live, waiting } = &*self.check;
        for flow in flows.in_slots(self.next, SLOTS) {
            if let Ok(at) = addresses.binary_search(&flow.tuple().dst)
                && !flow.revoked()
                && !flow.is_expired(now)
            {
                live[at].store(true, Ordering::Relaxed);
            }
        }
        self.next += SLOTS;
        let is_done = self.next >= flows.slots();
        if is_done {
            waiting.fetch_sub(1, Ordering::Release);
        }
        is_done
    }
}
