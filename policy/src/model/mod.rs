//! The API objects as types: what is left of a document once it was checked.
//!
//! Policies are read strictly. Every field of a specification is either understood or rejected by
//! name, because ignoring a field that narrows a rule would allow what its author denied. Pods,
//! namespaces and nodes are read leniently: only a few of their many fields matter here.

mod cidr;
mod cilium;
mod cluster;
mod cluster_network_policy;
mod directory;
mod metadata;
mod names;
mod network_policy;
mod ports;
mod selector;
mod workload;

use serde_json::Value;

pub use cilium::{
    CiliumPeer, CiliumPolicy, CiliumRule, CiliumSpec, Entity, GroupReference, PortRule, Ports,
    RuleSection, ServiceReference, ServiceSelection,
};
pub use cluster::{ContainerPort, Namespace, Node, Pod};
pub use cluster_network_policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, DomainName, PodSelection,
};
pub use directory::{
    CidrGroup, EndpointSlice, InternalTraffic, Service, ServiceKind, ServicePort, SliceEndpoint,
};
pub use network_policy::{IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule};
pub use selector::{LabelExpression, LabelSelector, Operator};
pub use workload::Workload;

pub(crate) use metadata::Header;

use crate::fields::{Field, Problem, Problems};
use crate::key::Kind;
use crate::kinds::for_each_kind;

macro_rules! define_objects {
    (
        objects { $($(#[$doc:meta])* $kind:ident {
            resource: $resource:tt, model: $model:ident, set: $set:ident
        })+ }
        policies { $($(#[$policy_doc:meta])* $policy:ident {
            resource: $policy_resource:tt, model: $policy_model:ident
        })+ }
    ) => {
        /// An object that verdicts depend on.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Object {
            $($(#[$doc])* $kind($model),)+
            /// A policy.
            Policy(Policy),
        }

        /// A policy as written.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Policy {
            $($(#[$policy_doc])* $policy($policy_model),)+
        }

        /// Reads an object of a kind, without its name. Readers continue after a problem, with
        /// a substitute for the bad value, so that all problems of an object are reported at once:
        /// what they return counts only if there was none.
        fn parse_body(kind: Kind, root: &Field<'_>) -> Option<Object> {
            match kind {
                $(Kind::$kind => $model::parse(root).map(Object::$kind),)+
                $(Kind::$policy => {
                    $policy_model::parse(root).map(|policy| Object::Policy(Policy::$policy(policy)))
                })+
            }
        }
    };
}

for_each_kind!(define_objects);

impl Policy {
    /// Parts of the policy that are enforced as written, but probably not what its author meant.
    pub(crate) fn hints(&self, namespace: Option<&str>) -> Vec<Problem> {
        match self {
            Self::NetworkPolicy(policy) => policy.hints(),
            Self::CiliumNetworkPolicy(policy) | Self::CiliumClusterwideNetworkPolicy(policy) => {
                policy.hints(namespace)
            }
            Self::ClusterNetworkPolicy(_) => Vec::new(),
        }
    }

    /// Parts of the policy that are not enforced as written.
    pub(crate) fn warnings(&self) -> Vec<Problem> {
        match self {
            Self::ClusterNetworkPolicy(policy) => policy.warnings(),
            Self::NetworkPolicy(_)
            | Self::CiliumNetworkPolicy(_)
            | Self::CiliumClusterwideNetworkPolicy(_) => Vec::new(),
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
                root.reject("can't be read");
            }
            Err(problems.into_inner())
        }
    }
}
