//! Which addresses are destinations of live flows, and whose: asked by the control thread, answered
//! by each worker from its own flow table, some slots between two rounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use podgate_tables::address::Address;
use podgate_tables::time::Nanos;

use crate::flow::FlowTable;

/// Slots of the flow table that are read between two rounds.
const SLOTS: u32 = 256;

/// A destination, and the address from which flows to it are opened; `None` for any. It is not the
/// link: an idle flow keeps the link that its pod had before it was attached again.
pub type Destination = (Address, Option<Address>);

/// A question about destinations, and the answers of all workers together.
#[derive(Debug)]
pub struct LiveCheck {
    /// Sorted.
    destinations: Vec<Destination>,
    /// One for each destination, in the same order.
    live: Vec<AtomicBool>,
    /// Workers that have not read all of their flows yet.
    waiting: AtomicU16,
}

impl LiveCheck {
    /// Asks `workers` workers.
    pub(super) fn new(mut destinations: Vec<Destination>, workers: u16) -> Self {
        destinations.sort_unstable();
        destinations.dedup();
        let live = destinations.iter().map(|_| AtomicBool::new(false)).collect();
        Self { destinations, live, waiting: AtomicU16::new(workers) }
    }

    /// The destinations, each with whether a live flow leads to it; `None` until all workers have
    /// answered.
    #[must_use]
    pub fn result(&self) -> Option<impl Iterator<Item = (Destination, bool)>> {
        let is_done = self.waiting.load(Ordering::Acquire) == 0;
        let live = self.live.iter().map(|live| live.load(Ordering::Relaxed));
        is_done.then(|| self.destinations.iter().copied().zip(live))
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
        let LiveCheck { destinations, live, waiting } = &*self.check;
        for flow in flows.in_slots(self.next, SLOTS) {
            if flow.revoked() || flow.is_expired(now) {
                continue;
            }
            let tuple = flow.tuple();
            for source in [None, Some(tuple.src)] {
                if let Ok(at) = destinations.binary_search(&(tuple.dst, source)) {
                    live[at].store(true, Ordering::Relaxed);
                }
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

#[cfg(test)]
mod tests {
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::policy::ProvenSender;
    use podgate_tables::proto;
    use podgate_tables::tuple::Tuple;

    use super::*;
    use crate::flow::{FlowLinks, Permission, SavedFlow, tcp};

    const NOW: Nanos = Nanos(1 << 50);

    fn address(last: u8) -> Address {
        Address::v4([192, 0, 2, last])
    }

    /// The client of all flows, behind whatever link.
    const CLIENT: Address = Address::v4([10, 0, 0, 1]);

    /// Adds `count` flows to `dst`, idle for `idle_s` seconds.
    fn add(flows: &mut FlowTable, count: u16, dst: Address, idle_s: u32) {
        for src_port in 1..=count {
            let saved = SavedFlow {
                tuple: Tuple { src: CLIENT, dst, src_port, dst_port: 443, protocol: proto::TCP },
                links: FlowLinks { opener: LinkId(1), responder: LinkId(2) },
                frontend: None,
                tcp: tcp::State::Established,
                picked_up: false,
                detached: None,
                sender: ProvenSender::Unknown,
                idle_ms: 0,
                packets: [1; 2],
                bytes: [60; 2],
            };
            let begin = Nanos(NOW.0 - u64::from(idle_s) * 1_000_000_000);
            flows.insert(saved.restored(Epoch(1), begin).unwrap()).unwrap();
        }
    }

    #[test]
    fn an_address_is_live_if_a_flow_of_any_worker_leads_to_it() {
        let mut tables = [FlowTable::new(2000), FlowTable::new(2000)];
        add(&mut tables[0], 600, address(9), 0);
        add(&mut tables[0], 1, address(1), 0);
        add(&mut tables[1], 1, address(2), 0);
        // Established connections time out after 124 minutes.
        add(&mut tables[1], 1, address(3), 500_000);
        add(&mut tables[1], 1, address(4), 0);
        let (index, _) = tables[1].iter().find(|(_, f)| f.tuple().dst == address(4)).unwrap();
        tables[1].get_mut(index).set_permission(Epoch(2), Permission::Revoked);
        let asked = [2, 1, 3, 4, 5].map(|last| (address(last), Some(CLIENT)));
        // Opened from another address, and from any.
        let other = Some(Address::v4([10, 0, 0, 2]));
        let others = [(address(1), other), (address(1), None), (address(5), None)];
        let check = Arc::new(LiveCheck::new([&asked[..], &others].concat(), 2));
        for flows in &tables {
            assert!(check.result().is_none());
            let mut scan = LiveScan::new(Arc::clone(&check));
            let steps = (1..).find(|_| scan.advance(flows, NOW)).unwrap();
            assert_eq!(steps, flows.slots().div_ceil(SLOTS).max(1));
        }
        let live: Vec<_> = check.result().unwrap().collect();
        let one = Some(CLIENT);
        let expected = [
            (1, None, true),
            (1, one, true),
            (1, other, false),
            (2, one, true),
            (3, one, false),
            (4, one, false),
            (5, None, false),
            (5, one, false),
        ];
        assert_eq!(live, expected.map(|(last, source, live)| ((address(last), source), live)));
    }

    #[test]
    fn a_worker_without_flows_answers_at_once() {
        let check = Arc::new(LiveCheck::new(vec![(address(1), None)], 1));
        let mut scan = LiveScan::new(Arc::clone(&check));
        assert!(scan.advance(&FlowTable::new(16), NOW));
        assert_eq!(check.result().unwrap().collect::<Vec<_>>(), [((address(1), None), false)]);
    }
}
