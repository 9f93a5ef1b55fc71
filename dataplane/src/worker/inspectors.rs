//! Inspectors of a worker's flows, by the slot number in the flow; bounded.

use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;

use crate::flow::FlowIx;
use crate::l7::editor::Editor;
use crate::l7::protocol::Protocol;

/// Time between two checks of timers, milliseconds.
const TICK_MS: u64 = 5;
/// Inspected flows whose timers are checked at a time, at most.
const TICK_BUDGET: usize = 1024;

/// State of an inspected flow in addition to its [`Flow`](crate::flow::Flow).
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) flow: FlowIx,
    pub(super) editor: Editor<Protocol>,
    pub(super) policy: L7Policy,
}

// The help of `--inspected` says so.
const _: () = assert!(size_of::<Inspected>() <= 1024);

/// All inspectors of one worker.
#[derive(Debug)]
pub(super) struct Inspectors {
    slots: Vec<Option<Box<Inspected>>>,
    unused: Vec<u32>,
    /// Where the next check of timers begins, and when.
    cursor: usize,
    next_tick: Nanos,
    limit: usize,
}

impl Inspectors {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            unused: Vec::new(),
            cursor: 0,
            next_tick: Nanos::default(),
            limit: limit as usize,
        }
    }

    /// Reserves a slot, to be filled by [`Self::put`] or released by [`Self::cancel`].
    pub(super) fn reserve(&mut self) -> Option<u32> {
        if let Some(slot) = self.unused.pop() {
            return Some(slot);
        }
        if self.slots.len() >= self.limit {
            return None;
        }
        self.slots.push(None);
        Some(self.slots.len() as u32 - 1)
    }

    pub(super) fn put(&mut self, slot: u32, inspected: Inspected) {
        self.slots[slot as usize] = Some(Box::new(inspected));
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        self.unused.push(slot);
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Inspected> {
        self.slots[slot as usize].as_deref_mut()
    }

    pub(super) fn take(&mut self, slot: u32) -> Option<Box<Inspected>> {
        let taken = self.slots[slot as usize].take();
        if taken.is_some() {
            self.unused.push(slot);
        }
        taken
    }

    /// Flows that may be inspected in addition.
    pub(super) fn free(&self) -> usize {
        self.limit - (self.slots.len() - self.unused.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unused.len() == self.slots.len()
    }

    pub(super) fn held_frames(&self) -> usize {
        self.slots.iter().flatten().map(|inspected| inspected.editor.held_frames()).sum()
    }

    /// Bytes that the flows buffer.
    pub(super) fn kept_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|inspected| inspected.editor.buffered_bytes()).sum()
    }

    /// Calls `check` with the inspected flows whose timers are due for a check: a bounded number
    /// every few milliseconds, round robin.
    pub(super) fn tick(&mut self, now: Nanos, mut check: impl FnMut(&mut Inspected)) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now.plus_millis(TICK_MS);
        for _ in 0..TICK_BUDGET.min(self.slots.len()) {
            self.cursor = (self.cursor + 1) % self.slots.len();
            if let Some(inspected) = &mut self.slots[self.cursor] {
                check(inspected);
            }
        }
    }
}
