//! The API objects as types: what is left of a document once it was checked.
//!
//! Policies are read strictly. Every field of a specification is either understood or refused by
//! name, because ignoring a field that narrows a rule would allow what its author forbade. Pods,
//! namespaces and nodes are read leniently: only a few of their many fields matter here.

mod cidr;
mod cilium;
mod cilium_l7;
mod cilium_peers;
mod cilium_ports;
mod cluster;
mod cluster_network_policy;
mod directory;
mod metadata;
mod names;
mod network_policy;
mod ports;
mod selector;

use serde_json::Value;

pub use cilium::{CiliumPolicy, CiliumRule, CiliumSpec, RuleSection};
pub use cilium_peers::{CiliumPeer, Entity, GroupReference, ServiceReference, ServiceSelection};
pub use cilium_ports::{PortRule, Ports};
pub use cluster::{ContainerPort, Namespace, Node, Pod};
pub use cluster_network_policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, DomainName, PodSelection,
};
pub use directory::{CidrGroup, EndpointSlice, Service};
pub use network_policy::{IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule};
pub use ports::{PortMatch, PortNumbers};
pub use selector::{LabelExpression, LabelSelector, Operator};

pub(crate) use metadata::Header;

use crate::fields::{Field, Problem, Problems};
use crate::key::Kind;

/// An object that verdicts depend on.
#[derive(Clone, PartialEq, Debug)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A Kubernetes NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A CiliumNetworkPolicy or a CiliumClusterwideNetworkPolicy.
    Cilium(CiliumPolicy),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A CiliumCIDRGroup.
    CidrGroup(CidrGroup),
    /// A service.
    Service(Service),
    /// Addresses behind a service.
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// What of a policy of a namespace is enforced as it is written, and hardly meant.
    pub(crate) fn hints(&self, namespace: Option<&str>) -> Vec<Problem> {
        match self {
            Self::NetworkPolicy(policy) => policy.hints(),
            Self::Cilium(policy) => policy.hints(namespace),
            _ => Vec::new(),
        }
    }

    /// What of a policy in force is not enforced as it is written.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        match self {
            Self::ClusterNetworkPolicy(policy) => policy.warnings(),
            _ => Vec::new(),
        }
    }
}

/// Reads the object whose header was read already.
pub(crate) fn parse(value: &Value, header: &Header) -> Result<Object, Vec<Problem>> {
    let problems = Problems::default();
    let root = Field::root(value, &problems);
    match parse_body(header.key.kind, &root) {
        Some(object) if problems.is_empty() => Ok(object),
        _ => {
            if problems.is_empty() {
                root.refuse("can't be read");
            }
            Err(problems.into_inner())
        }
    }
}

/// Reads an object of a kind, whatever its name. Readers go on after a problem, with some other
/// value in the place of the bad one, so that all problems of an object are told at once: what they
/// return counts only if there was none.
fn parse_body(kind: Kind, root: &Field<'_>) -> Option<Object> {
    match kind {
        Kind::Namespace => Namespace::parse(root).map(Object::Namespace),
        Kind::Node => Node::parse(root).map(Object::Node),
        Kind::Pod => Pod::parse(root).map(Object::Pod),
        Kind::NetworkPolicy => NetworkPolicy::parse(root).map(Object::NetworkPolicy),
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy => {
            CiliumPolicy::parse(root).map(Object::Cilium)
        }
        Kind::ClusterNetworkPolicy => {
            ClusterNetworkPolicy::parse(root).map(Object::ClusterNetworkPolicy)
        }
        Kind::CiliumCidrGroup => CidrGroup::parse(root).map(Object::CidrGroup),
        Kind::Service => Service::parse(root).map(Object::Service),
        Kind::EndpointSlice => EndpointSlice::parse(root).map(Object::EndpointSlice),
    }
}
