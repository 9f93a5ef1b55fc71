//! Inspectors of a worker's flows, by the slot number in the flow; bounded. Their timers are in a
//! wheel, so flows that wait for nothing cost no time, however many there are.

use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;

use super::timer_wheel::TimerWheel;
use crate::flow::FlowIx;
use crate::l7::editor::Editor;
use crate::l7::inspector::Inspector;
use crate::l7::protocol::FlowInspector;

/// State of an inspected flow in addition to its [`Flow`](crate::flow::Flow).
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) flow: FlowIx,
    pub(super) editor: Editor<FlowInspector>,
    /// Changed by [`Self::set_policy`].
    pub(super) policy: L7Policy,
}

impl Inspected {
    /// Sets the rules of a new epoch.
    pub(super) fn set_policy(&mut self, policy: L7Policy) {
        if !self.policy.has_same_rules(&policy) {
            self.editor.inspector_mut().policy_changed();
        }
        self.policy = policy;
    }
}

// With its slot, its timer and the policy's list of rules, 1 KiB: the help of `--inspected` says
// so.
const _: () = assert!(size_of::<Inspected>() <= 896);

/// All inspectors of one worker.
#[derive(Debug)]
pub(super) struct Inspectors {
    slots: Vec<Option<Box<Inspected>>>,
    unused: Vec<u32>,
    timers: TimerWheel,
    limit: usize,
}

impl Inspectors {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            unused: Vec::new(),
            timers: TimerWheel::new(),
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
            self.timers.unset(slot);
            self.unused.push(slot);
        }
        taken
    }

    /// Flows with an inspector.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.unused.len()
    }

    /// Flows that may be inspected in addition.
    pub(super) fn free(&self) -> usize {
        self.limit - self.len()
    }

    pub(super) fn held_frames(&self) -> usize {
        self.slots.iter().flatten().map(|inspected| inspected.editor.held_frames()).sum()
    }

    /// Bytes that the flows buffer.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.slots.iter().flatten().map(|inspected| inspected.editor.buffered_bytes()).sum()
    }

    /// Sets a flow's timer by its editor's deadline.
    pub(super) fn set_timer(&mut self, slot: u32) {
        let inspected = self.slots[slot as usize].as_ref();
        if let Some(deadline) = inspected.and_then(|inspected| inspected.editor.deadline()) {
            self.timers.set(slot, deadline);
        }
    }

    /// A flow whose timer is due. Its timer is to be set again ([`Self::set_timer`]).
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<u32> {
        loop {
            let slot = self.timers.pop(now)?;
            let inspected = self.slots[slot as usize].as_ref();
            match inspected.and_then(|inspected| inspected.editor.deadline()) {
                Some(deadline) if deadline <= now => return Some(slot),
                // The deadline was moved to a later time since the timer was set.
                Some(deadline) => self.timers.set(slot, deadline),
                None => {}
            }
        }
    }

    /// When [`Self::pop_due`] has something to do; `None` if never.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.timers.next_visit()
    }
}
