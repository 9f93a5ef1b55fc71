//! A node of a synthetic cluster: its pods, and the tables of its workers.
//!
//! Between two pods of one node the policies of the cluster allow almost nothing: the pods are of
//! different namespaces, and most may only send DNS queries. So most namespaces get another policy,
//! which allows traffic between their pods and those of all namespaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use podgate_policy::compile;
use podgate_tables::address::Address;
use podgate_tables::ids::Epoch;
use podgate_tables::policy::{PolicyTables, Snapshot};
use podgate_tables::proto;
use podgate_tables::route::RouteTable;
use podgate_tables::tuple::Tuple;

use super::Error;
use super::cluster::{Cluster, Labels, PodSpec, Size};
use super::control::rejected;
use super::decisions::service_port;
use super::policies::broadest;
use super::policy::load;
use crate::pods;

/// One in this number of namespaces gets no such policy.
const CLOSED: u32 = 16;

/// Node number 0 of a cluster, with the compiled policies of the whole cluster.
pub struct Node {
    pods: Vec<PodSpec>,
    tables: Arc<PolicyTables>,
    routes: Arc<RouteTable>,
}

impl Node {
    /// The node of a cluster with shared labels, generated from this size and seed.
    ///
    /// # Errors
    /// When no pod is on the node.
    pub fn new(size: Size, seed: u64) -> Result<Self, Error> {
        let cluster = Cluster { size, labels: Labels::Shared, seed };
        let (mut store, _) = load(&cluster)?;
        let pods = cluster.local_pods();
        if pods.is_empty() {
            return Err(Error::NoLocalPod);
        }
        let namespaces: BTreeSet<u32> = pods.iter().map(|pod| pod.namespace).collect();
        for namespace in namespaces.into_iter().filter(|number| !number.is_multiple_of(CLOSED)) {
            let policy = broadest(namespace, 0);
            store.apply(&policy, None).map_err(|rejections| rejected(&rejections))?;
        }
        let routes = Arc::new(pods::routes(pods.iter().map(PodSpec::addresses))?);
        Ok(Self { pods, tables: compile(&store).tables, routes })
    }

    /// Number of pods, each with its own link.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// The tables and routes of workers.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (policy, routes) = (Arc::clone(&self.tables), Arc::clone(&self.routes));
        Snapshot { epoch: Epoch(1), policy, routes }
    }

    /// Draws a random flow from pod number `from` to another one of the node, over IPv4 and either
    /// TCP or UDP, to a plausible port.
    pub fn draw(&self, from: usize, rng: &mut Rng) -> Tuple {
        let to = (from + rng.usize(1..self.pods.len().max(2))) % self.pods.len();
        let [src, dst] = [from, to].map(|pod| Address::v4(self.pods[pod].v4().octets()));
        let protocol = if rng.bool() { proto::TCP } else { proto::UDP };
        let (src_port, dst_port) = (rng.u16(32_768..61_000), service_port(rng));
        Tuple { src, dst, src_port, dst_port, protocol }
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::policy::{LocalEnds, Subject, Verdict};

    use super::*;

    #[test]
    fn most_flows_between_its_pods_are_allowed() {
        let node = Node::new(Size { namespaces: 100, pods: 500, policies: 1000 }, 1).unwrap();
        let (mut rng, snapshot) = (Rng::with_seed(1), node.snapshot());
        let mut allowed = 0;
        for number in 0..1000 {
            let from = number % node.pods();
            let tuple = node.draw(from, &mut rng);
            assert_ne!(tuple.src, tuple.dst);
            assert_eq!(snapshot.routes.local_link(tuple.src), Some(pods::link_of(from)));
            let decision =
                snapshot.policy.decide(&Subject { tuple, icmp_type: 0 }, LocalEnds::BOTH);
            allowed += u32::from(decision.verdict == Verdict::Allow);
        }
        assert!((700..1000).contains(&allowed), "{allowed}");
    }
}
