//! A node of a made-up cluster: its pods, and the tables that a worker there judges by.

use std::sync::Arc;

use fastrand::Rng;
use podgate_dataplane::policy::{PolicyTables, Snapshot, Subject, Verdict};
use podgate_dataplane::route::RouteTable;
use podgate_dataplane::types::{Address, Epoch, Tuple, proto};
use podgate_policy::compile;

use super::Error;
use super::cluster::{Cluster, Labels, PodSpec, Size};
use super::decisions::service_port;
use super::policy::load;
use crate::pods;

/// Node number 0 of a cluster, with the policies of all of it compiled.
pub struct Node {
    pods: Vec<PodSpec>,
    tables: Arc<PolicyTables>,
    routes: Arc<RouteTable>,
}

/// A flow that somebody might open, from one pod of the node to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Number of the pod that opens it; [`pods::link_of`] says which link it is behind.
    pub from: usize,
    /// The flow, without a source port.
    pub tuple: Tuple,
    /// Whether policy lets it pass.
    pub allowed: bool,
}

impl Node {
    /// The node of a cluster with shared labels, of this size and drawn with this seed.
    ///
    /// # Errors
    /// When no pod is on the node.
    pub fn new(size: Size, seed: u64) -> Result<Self, Error> {
        let cluster = Cluster { size, labels: Labels::Shared, seed };
        let (store, _) = load(&cluster)?;
        let pods = cluster.local_pods();
        if pods.is_empty() {
            return Err(Error::NoLocalPod);
        }
        let routes = Arc::new(pods::routes(pods.iter().map(PodSpec::addresses))?);
        Ok(Self { pods, tables: compile(&store).tables, routes })
    }

    /// Number of pods, each behind a link of its own.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// What workers judge and send by.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (policy, routes) = (Arc::clone(&self.tables), Arc::clone(&self.routes));
        Snapshot { epoch: Epoch(1), policy, routes }
    }

    /// Draws a flow between two pods, over IPv4 and either TCP or UDP, to a port that somebody
    /// might serve.
    pub fn draw(&self, rng: &mut Rng) -> Opening {
        let from = rng.usize(..self.pods.len());
        // Any other one.
        let to = (from + rng.usize(1..self.pods.len().max(2))) % self.pods.len();
        let [src, dst] = [from, to].map(|pod| Address::v4(self.pods[pod].v4().octets()));
        let protocol = if rng.bool() { proto::TCP } else { proto::UDP };
        let tuple = Tuple { src, dst, src_port: 0, dst_port: service_port(rng), protocol };
        let decision = self.tables.decide(&Subject { tuple, icmp_type: 0 }, [true; 2]);
        Opening { from, tuple, allowed: decision.verdict == Verdict::Allow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_pods_talk_to_each_other_and_some_may() {
        let node = Node::new(Size { namespaces: 20, pods: 500, policies: 40 }, 1).unwrap();
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<_> = (0..2000).map(|_| node.draw(&mut rng)).collect();
        assert!(drawn.iter().any(|opening| opening.allowed));
        assert!(drawn.iter().any(|opening| !opening.allowed));
        let routes = node.snapshot().routes;
        for Opening { from, tuple, .. } in drawn {
            assert_ne!(tuple.src, tuple.dst);
            assert_eq!(routes.towards(tuple.src), Some(pods::link_of(from)));
        }
    }
}
