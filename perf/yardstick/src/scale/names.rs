//! DNS answers in a cluster of full size: from the worker's offer to the answer's release.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use podgate_dataplane::l7::dns::learned::{AnswerAddress, DnsAnswer};
use podgate_dataplane::worker::{Shared, SharedConfig};
use podgate_policy::{Compiled, Compiler, NameTable, Store};
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::Snapshot;
use podgate_tables::route::RouteTable;
use podgate_tables::time::Nanos;
use serde_json::json;

use super::Error;
use super::cluster::{Cluster, Labels, Size};
use super::control::rejected;
use super::policy::load;
use super::swaps;

/// Policies with `toFQDNs`, in addition to those of the cluster.
const POLICIES: u32 = 1000;
/// Names that are known from the start.
const NAMES: u32 = 10_000;
/// The pod that asks, and its link.
const POD: &str = "ns-0/client";
const CLIENT: LinkId = LinkId(1);
/// Tables of past epochs that an agent keeps for flow records.
const EPOCHS: usize = 256;

/// The control thread of an agent, as far as DNS answers are concerned.
pub(crate) struct NameControl {
    store: Store,
    compiler: Compiler,
    table: NameTable,
    epochs: VecDeque<Compiled>,
    routes: Arc<RouteTable>,
    shared: Arc<Shared>,
    epoch: Epoch,
    next: u32,
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number).into()
}

/// Every other policy has a rule for one name, and the rest for all names of a domain.
fn policy(number: u32) -> serde_json::Value {
    let name = match number.is_multiple_of(2) {
        true => json!({"matchName": format!("n{number}.bench.example")}),
        false => json!({"matchPattern": format!("*{}.bench.example", number % 10)}),
    };
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
           "metadata": {"namespace": "ns-0", "name": format!("names-{number}")},
           "spec": {"endpointSelector": {"matchLabels": {"names": number.to_string()}},
                    "egress": [{"toFQDNs": [name]}, {"toFQDNs": [{"matchPattern": "**.example"}]}]}})
}

impl NameControl {
    /// The control thread of node number 0 of a cluster, with names in its table.
    ///
    /// # Errors
    /// When no pod is on the node.
    pub(crate) fn new(size: Size, seed: u64) -> Result<Self, Error> {
        let cluster = Cluster { size, labels: Labels::Shared, seed };
        let (mut store, _) = load(&cluster)?;
        for number in 0..POLICIES {
            store.apply(&policy(number), None).map_err(|rejections| rejected(&rejections))?;
        }
        let local = cluster.local_pods();
        if local.is_empty() {
            return Err(Error::NoLocalPod);
        }
        let mut compiler = Compiler::new();
        compiler.update(&store);
        let mut this = Self {
            store,
            compiler,
            table: NameTable::default(),
            epochs: VecDeque::new(),
            routes: Arc::new(swaps::routes(&local)?),
            shared: Shared::new(SharedConfig { flows_per_worker: 16, ..SharedConfig::default() }),
            epoch: Epoch(0),
            next: NAMES,
        };
        for number in 0..NAMES {
            let name = format!("n{number}.bench.example");
            this.table.learn(POD, &name, [(address(number), 3600)], Nanos(1));
        }
        this.publish();
        Ok(this)
    }

    /// Offers `count` answers for fresh names one after the other, as a worker does that polls
    /// without sleep. Returns the time that each waited.
    pub(crate) fn release(&mut self, count: u32) -> Vec<Duration> {
        let (shared, stop) = (Arc::clone(&self.shared), AtomicBool::new(false));
        let first = self.next;
        self.next += count;
        thread::scope(|scope| {
            let control = scope.spawn(|| self.run(&stop));
            let ring = shared.answers.ring(0);
            let wait = |number: u32| {
                let name = format!("n{number}.bench.example");
                let begin = Instant::now();
                let address = AnswerAddress { address: address(number).into(), ttl: 3600 };
                let ticket = ring.offer(CLIENT, name.as_bytes(), 1, [address]).unwrap_or(u64::MAX);
                while ring.released() < ticket {
                    std::hint::spin_loop();
                }
                begin.elapsed()
            };
            let times = (first..first + count).map(wait).collect();
            stop.store(true, Ordering::Relaxed);
            control.thread().unpark();
            times
        })
    }

    /// Sleeps until answers come, admits and releases them.
    fn run(&mut self, stop: &AtomicBool) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let shared = Arc::clone(&self.shared);
        while !stop.load(Ordering::Relaxed) {
            if shared.answers.poll_waiting(&mut cx).is_pending() {
                thread::park();
                continue;
            }
            let mut last = 0;
            shared.answers.drain(|_, answer| {
                self.learn(&answer);
                last = answer.ticket;
            });
            self.publish();
            shared.release_answers(0, last);
        }
    }

    fn learn(&mut self, answer: &DnsAnswer) {
        let name = String::from_utf8_lossy(answer.name.bytes());
        if self.compiler.is_wanted(&name) {
            let addresses = answer.addresses().iter().map(|a| (a.address.ip(), a.ttl));
            self.table.learn(POD, &name, addresses, Nanos(2));
        }
    }

    fn publish(&mut self) {
        for (name, addresses) in self.table.take_changes() {
            self.store.learn(&name, addresses);
        }
        if !self.compiler.update_names(&self.store) {
            return;
        }
        self.epoch.0 += 1;
        let compiled = self.compiler.compiled();
        let (policy, routes) = (Arc::clone(&compiled.tables), Arc::clone(&self.routes));
        self.epochs.push_back(compiled);
        if self.epochs.len() > EPOCHS {
            self.epochs.pop_front();
        }
        self.shared.publish(Snapshot { epoch: self.epoch, policy, routes });
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::address::Address;

    use super::*;

    /// Whether the tables have the address of name `number` for several patterns.
    fn admits(control: &NameControl, number: u32) -> bool {
        let address = Address::from(address(number));
        let tables = &control.epochs.back().unwrap().tables;
        tables.address_sets.iter().filter(|(_, set)| set.contains(address)).count() >= 2
    }

    #[test]
    fn released_answers_are_admitted() {
        let size = Size { namespaces: 20, pods: 200, policies: 50 };
        let mut control = NameControl::new(size, 1).unwrap();
        assert_eq!(control.release(5).len(), 5);
        assert!((NAMES..NAMES + 5).all(|number| admits(&control, number)));
        assert!(!admits(&control, NAMES + 5));
    }
}
