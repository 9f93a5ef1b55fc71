//! Which node is this one, and which addresses nodes have, where no agent runs on it.
//!
//! An agent asks its kernel for the node's addresses ([`Store::set_host_addresses`]). Without one,
//! they are taken from the objects: a Node has its addresses (those of type `InternalIP` are taken
//! to be on its own interfaces), and a pod its node (`spec.nodeName`) with an address or two
//! (`status.hostIPs`). As with an agent, these addresses are the host's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::PodName;
use crate::explain::most_similar;
use crate::model::Pod;
use crate::store::Store;

/// A node that is taken to be this one, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ThisNode {
    /// Its name; an address of it where the objects have none.
    pub name: Arc<str>,
    /// Why.
    pub reason: Reason,
}

/// Why a node is taken to be this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// By its name, which was given.
    Asked,
    /// The pod of the query runs there.
    RunsOn(PodName),
    /// It is the only node.
    Only,
}

/// As a note on an answer.
impl fmt::Display for ThisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.reason {
            Reason::Asked => write!(f, "this node is {name}"),
            Reason::RunsOn(pod) => write!(f, "this node is {name}, where pod {pod} runs"),
            Reason::Only => write!(f, "this node is {name}, the only one that is known"),
        }
    }
}

/// There is no node of this name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownNode {
    /// The name.
    pub name: String,
    /// Nodes with a name like it, the most similar first.
    pub similar: Vec<Arc<str>>,
}

impl fmt::Display for UnknownNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no Node and no pod's spec.nodeName is called {}", self.name)?;
        match self.similar.is_empty() {
            true => Ok(()),
            false => write!(f, "; is {} meant?", self.similar.join(" or ")),
        }
    }
}

impl std::error::Error for UnknownNode {}

/// A node's addresses by the objects.
#[derive(Default)]
struct KnownAddresses {
    /// On its own interfaces.
    own: BTreeSet<IpAddr>,
    /// Of its pods' `status.hostIPs`.
    by_pods: BTreeSet<IpAddr>,
}

impl Store {
    /// Takes the nodes' addresses from what is in the store, and those of one node for this node's:
    /// the one called `asked`, else the one on which all of `pods`, those of a query, run, else the
    /// only one. If that leaves none, no address is this node's.
    ///
    /// # Errors
    /// When there is no node called `asked`.
    pub fn assume_node(
        &mut self,
        asked: Option<&str>,
        pods: &[PodName],
    ) -> Result<Option<ThisNode>, UnknownNode> {
        let nodes = self.known_nodes();
        let this = match asked {
            Some(name) => match nodes.get_key_value(name) {
                Some((name, _)) => Some(ThisNode { name: Arc::clone(name), reason: Reason::Asked }),
                None => return Err(unknown(name, &nodes)),
            },
            None => self.node_of_all(pods).or_else(|| only(&nodes)),
        };
        for (name, known) in &nodes {
            self.add_node_addresses(name, known.by_pods.iter().copied());
        }
        let own = this.iter().filter_map(|this| nodes.get(&this.name)).flat_map(|known| &known.own);
        self.set_host_addresses(own.copied());
        Ok(this)
    }

    /// The node of a pod, as far as the objects say.
    #[must_use]
    pub fn node_of(&self, pod: &PodName) -> Option<Arc<str>> {
        self.node_of_pod(self.pod(&pod.namespace, &pod.name)?)
    }

    fn node_of_pod(&self, pod: &Pod) -> Option<Arc<str>> {
        if !pod.node.is_empty() {
            return Some(Arc::clone(&pod.node));
        }
        let address = pod.host_ips.first()?;
        let named = self.named_nodes().find(|(_, node)| node.addresses.contains(address));
        Some(named.map_or_else(|| address.to_string().into(), |(name, _)| Arc::clone(name)))
    }

    fn node_of_all(&self, pods: &[PodName]) -> Option<ThisNode> {
        let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| self.node_of(pod)).collect();
        let name = nodes.first().filter(|_| nodes.len() == 1)?;
        let pod = pods.iter().find(|pod| self.node_of(pod).is_some())?;
        Some(ThisNode { name: Arc::clone(name), reason: Reason::RunsOn(pod.clone()) })
    }

    fn known_nodes(&self) -> BTreeMap<Arc<str>, KnownAddresses> {
        let mut nodes: BTreeMap<Arc<str>, KnownAddresses> = BTreeMap::new();
        for (name, node) in self.named_nodes() {
            nodes.entry(Arc::clone(name)).or_default().own.extend(&node.internal);
        }
        for (_, pod) in self.pods() {
            let Some(name) = self.node_of_pod(pod) else { continue };
            let known = nodes.entry(name).or_default();
            // The addresses of a pod in its node's network are its node's.
            let ips = if pod.host_network { pod.ips.as_slice() } else { &[] };
            known.by_pods.extend(pod.host_ips.iter().chain(ips));
            known.own.extend(pod.host_ips.iter().chain(ips));
        }
        nodes
    }
}

fn only(nodes: &BTreeMap<Arc<str>, KnownAddresses>) -> Option<ThisNode> {
    let name = nodes.keys().next().filter(|_| nodes.len() == 1)?;
    Some(ThisNode { name: Arc::clone(name), reason: Reason::Only })
}

fn unknown(name: &str, nodes: &BTreeMap<Arc<str>, KnownAddresses>) -> UnknownNode {
    let known = nodes.keys().map(|name| (name.to_string(), Arc::clone(name)));
    UnknownNode { name: name.to_owned(), similar: most_similar(name, known) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::compile;

    fn node(name: &str, internal: &str, external: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
               "status": {"addresses": [{"type": "InternalIP", "address": internal},
                                        {"type": "ExternalIP", "address": external},
                                        {"type": "Hostname", "address": name}]}})
    }

    fn pod(name: &str, ip: &str, node: &str, host_ip: &str, host_network: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
               "spec": {"nodeName": node, "hostNetwork": host_network},
               "status": {"hostIP": host_ip, "podIPs": [{"ip": ip}]}})
    }

    fn name(pod: &str) -> PodName {
        PodName { namespace: "shop".into(), name: pod.into() }
    }

    fn store(objects: &[Value]) -> Store {
        let mut store = Store::new();
        for object in objects {
            store.apply(object, None).unwrap();
        }
        store
    }

    fn numbers<const N: usize>(store: &Store, addresses: [&str; N]) -> [u32; N] {
        let compiled = compile(store);
        addresses.map(|address| {
            let address: IpAddr = address.parse().unwrap();
            compiled.tables.resolve(address.into()).identity.number
        })
    }

    const HOST: u32 = 1;
    const WORLD: u32 = 9;
    const REMOTE: u32 = 6;

    fn two_nodes() -> Store {
        store(&[
            node("one", "192.168.0.1", "203.0.113.1"),
            pod("a", "10.0.1.1", "one", "192.168.0.1", false),
            pod("b", "10.0.2.1", "two", "192.168.0.2", false),
            pod("agent", "192.168.0.22", "two", "", true),
        ])
    }

    const ADDRESSES: [&str; 5] =
        ["192.168.0.1", "203.0.113.1", "192.168.0.2", "192.168.0.22", "192.168.0.3"];

    #[test]
    fn the_node_of_the_pod_in_question_is_this_one() {
        let mut store = two_nodes();
        let this = store.assume_node(None, &[name("a")]).unwrap().unwrap();
        assert_eq!(this.to_string(), "this node is one, where pod shop/a runs");
        assert_eq!(numbers(&store, ADDRESSES), [HOST, REMOTE, REMOTE, REMOTE, WORLD]);
        let this = store.assume_node(None, &[name("b")]).unwrap().unwrap();
        assert_eq!(&*this.name, "two");
        assert_eq!(numbers(&store, ADDRESSES), [REMOTE, REMOTE, HOST, HOST, WORLD]);
    }

    #[test]
    fn what_is_asked_for_counts_and_must_exist() {
        let mut store = two_nodes();
        let this = store.assume_node(Some("two"), &[name("a")]).unwrap().unwrap();
        assert_eq!(this, ThisNode { name: "two".into(), reason: Reason::Asked });
        assert_eq!(numbers(&store, ADDRESSES), [REMOTE, REMOTE, HOST, HOST, WORLD]);
        let error = store.assume_node(Some("tow"), &[]).unwrap_err().to_string();
        assert_eq!(error, "no Node and no pod's spec.nodeName is called tow; is two meant?");
    }

    #[test]
    fn of_several_nodes_none_is_guessed() {
        let mut store = two_nodes();
        assert_eq!(store.assume_node(None, &[name("a"), name("b")]).unwrap(), None);
        assert_eq!(store.assume_node(None, &[]).unwrap(), None);
        assert_eq!(numbers(&store, ADDRESSES), [REMOTE, REMOTE, REMOTE, REMOTE, WORLD]);
    }

    #[test]
    fn the_only_node_is_this_one_even_without_a_name() {
        let mut store = store(&[pod("a", "10.0.1.1", "", "192.168.0.1", false)]);
        let this = store.assume_node(None, &[]).unwrap().unwrap();
        assert_eq!(this, ThisNode { name: "192.168.0.1".into(), reason: Reason::Only });
        assert_eq!(numbers(&store, ["192.168.0.1"]), [HOST]);
    }
}
