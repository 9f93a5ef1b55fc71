//! Who is at the other end, as Cilium policies write it
//! (cilium `pkg/policy/api/{ingress,egress,cidr,entity,service,fqdn}.go`).

use ipnet::IpNet;
use podgate_tables::l7::NamePattern;

use super::RuleSection;
use crate::fields::{Field, Object, quote};
use crate::model::cidr::{EmptyBlock, parse_block, parse_network_or_address, parse_networks};
use crate::model::metadata::{is_dns_label, is_subdomain};
use crate::model::names::parse_name_match;
use crate::model::selector::{KeySyntax, LabelSelector};
use crate::rules::TrafficDirection;

/// One peer of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CiliumPeer {
    /// Pods by labels.
    Endpoints(LabelSelector),
    /// Addresses that are no pod's and no node's.
    Cidr {
        /// These addresses…
        cidr: IpNet,
        /// …but not these; sorted.
        except: Vec<IpNet>,
    },
    /// Addresses of groups, unless they are a pod's or a node's.
    CidrGroups {
        /// The addresses of these groups…
        groups: GroupReference,
        /// …but not these; sorted. They may lie anywhere.
        except: Vec<IpNet>,
    },
    /// A class of peers.
    Entity(Entity),
    /// Backends of services.
    Services(ServiceReference),
    /// Addresses that a DNS name was seen to resolve to, unless they are a pod's or a node's.
    Name(NamePattern),
}

/// CiliumCIDRGroups that a policy refers to. Groups that don't exist match no peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupReference {
    /// `cidrGroupRef`: the one of this name.
    Name(String),
    /// `cidrGroupSelector`: all that have such labels.
    Labels(LabelSelector),
}

/// Services that a policy refers to. Services that don't exist match no peer.
///
/// A service with a selector stands for the pods of its namespace that the selector matches,
/// whatever the state of its endpoints; one without stands for the addresses of its
/// EndpointSlices, unless they are a pod's or a node's (cilium `pkg/policy/k8s/service.go`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceReference {
    /// Namespace of the services; `None` is every namespace, for namespaced policies too.
    pub namespace: Option<String>,
    /// Which services of it.
    pub services: ServiceSelection,
}

/// Which services of a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceSelection {
    /// `k8sService`: the one of this name.
    Name(String),
    /// `k8sServiceSelector`: all that have such labels.
    Labels(LabelSelector),
}

/// Classes of peers that have a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// Everything.
    All,
    /// Addresses of neither pods nor nodes.
    World,
    /// The IPv4 part of it.
    WorldIpv4,
    /// The IPv6 part of it.
    WorldIpv6,
    /// Pods and nodes of this cluster, and its API server wherever that is.
    Cluster,
    /// Pods and nodes of all clusters of a mesh. No other cluster is known here, so
    /// [`Entity::Cluster`].
    ClusterMesh,
    /// This node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// The addresses of the API server, which are those of the EndpointSlices of the service
    /// `default/kubernetes`, unless they are a pod's. They belong to nodes or to the world too.
    KubeApiserver,
    /// Pods before their identity is known. A pod is attached only when it is known, so this
    /// matches none.
    Init,
    /// Cilium's ingress proxy. Matches no peer.
    Ingress,
    /// Pods that Cilium doesn't manage. Their labels are known here, so this matches none.
    Unmanaged,
    /// Cilium's health endpoints. Matches no peer.
    Health,
    /// Matches no peer.
    None,
}

impl Entity {
    /// All of them, by their names in policies.
    const NAMES: [(&str, Self); 14] = [
        ("all", Self::All),
        ("world", Self::World),
        ("world-ipv4", Self::WorldIpv4),
        ("world-ipv6", Self::WorldIpv6),
        ("cluster", Self::Cluster),
        ("cluster-mesh", Self::ClusterMesh),
        ("host", Self::Host),
        ("remote-node", Self::RemoteNode),
        ("kube-apiserver", Self::KubeApiserver),
        ("init", Self::Init),
        ("ingress", Self::Ingress),
        ("unmanaged", Self::Unmanaged),
        ("health", Self::Health),
        ("none", Self::None),
    ];
}

type ReadPeer = fn(&Field<'_>) -> Option<CiliumPeer>;

const INGRESS_PEERS: &[(&str, ReadPeer)] = &[
    ("fromEndpoints", parse_endpoints),
    ("fromCIDR", parse_cidr),
    ("fromCIDRSet", parse_cidr_rule),
    ("fromEntities", parse_entity),
];

const EGRESS_PEERS: &[(&str, ReadPeer)] = &[
    ("toEndpoints", parse_endpoints),
    ("toCIDR", parse_cidr),
    ("toCIDRSet", parse_cidr_rule),
    ("toEntities", parse_entity),
    ("toServices", parse_service),
];

const NOT_NODES: &str = "peers by node labels are not enforced";
const NOT_GROUPS: &str = "peers by cloud provider groups are not enforced";
const NOT_REQUIRES: &str =
    "was removed from Cilium in 1.19 and is not enforced; put the labels into the peers";

const INGRESS_REJECTED: &[(&str, &str)] =
    &[("fromNodes", NOT_NODES), ("fromGroups", NOT_GROUPS), ("fromRequires", NOT_REQUIRES)];

const EGRESS_REJECTED: &[(&str, &str)] =
    &[("toNodes", NOT_NODES), ("toGroups", NOT_GROUPS), ("toRequires", NOT_REQUIRES)];

/// Parses the field for peers. More than one that is not empty is rejected, as by Cilium.
pub(super) fn parse_peers(rule: &mut Object<'_>, section: RuleSection) -> Option<Vec<CiliumPeer>> {
    let (readers, rejected) = match section.direction() {
        TrafficDirection::Ingress => (INGRESS_PEERS, INGRESS_REJECTED),
        TrafficDirection::Egress => (EGRESS_PEERS, EGRESS_REJECTED),
    };
    rule.reject_fields(rejected);
    let mut peers: Option<Vec<CiliumPeer>> = None;
    let mut filled: Option<&str> = None;
    let names: &[(&str, ReadPeer)] = match section {
        RuleSection::Egress => &[("toFQDNs", parse_name)],
        RuleSection::EgressDeny => {
            rule.reject_fields(&[("toFQDNs", "deny rules have no DNS names")]);
            &[]
        }
        RuleSection::Ingress | RuleSection::IngressDeny => &[],
    };
    for (name, read) in readers.iter().chain(names) {
        let Some(field) = rule.take(name) else { continue };
        let mut found = field.list(read).unwrap_or_default();
        if !found.is_empty() {
            if let Some(other) = filled {
                field.reject_with_fix(
                    format!("can't be combined with {other} in one rule"),
                    "write two rules, of which either may match",
                );
            }
            filled = Some(name);
        }
        peers.get_or_insert_default().append(&mut found);
    }
    peers
}

fn parse_endpoints(field: &Field<'_>) -> Option<CiliumPeer> {
    LabelSelector::parse(field, KeySyntax::Cilium).map(CiliumPeer::Endpoints)
}

fn parse_cidr(field: &Field<'_>) -> Option<CiliumPeer> {
    let cidr = parse_network_or_address(field)?;
    Some(CiliumPeer::Cidr { cidr, except: Vec::new() })
}

fn parse_cidr_rule(field: &Field<'_>) -> Option<CiliumPeer> {
    let mut object = field.object()?;
    let cidr = object.take("cidr");
    let (name, labels) = (object.take("cidrGroupRef"), object.take("cidrGroupSelector"));
    let except = object.take("except");
    object.finish();
    let is_alone = [&cidr, &name, &labels].into_iter().flatten().count() == 1;
    match (&cidr, &name, &labels) {
        (None, None, None) => {
            field.reject("needs a cidr, a cidrGroupRef or a cidrGroupSelector");
        }
        (_, Some(extra), None) | (_, _, Some(extra)) if !is_alone => {
            // Of the fields that are present, the last one in the order of the API is rejected.
            extra.reject_with_fix(
                "can't be combined in one element with another of cidr, cidrGroupRef and \
                 cidrGroupSelector",
                "write two elements, of which either may match",
            );
        }
        _ => {}
    }
    if let Some(cidr) = cidr {
        let (cidr, except) = parse_block(&cidr, except.as_ref(), EmptyBlock::Allowed)?;
        return Some(CiliumPeer::Cidr { cidr, except });
    }
    let except = except.and_then(|except| parse_networks(&except)).unwrap_or_default();
    let name = name.and_then(|name| checked(&name, is_subdomain, "the name of a CiliumCIDRGroup"));
    let name = name.map(|name| GroupReference::Name(name.to_owned()));
    let labels = labels.and_then(|field| LabelSelector::parse(&field, KeySyntax::Kubernetes));
    let groups = name.or(labels.map(GroupReference::Labels))?;
    Some(CiliumPeer::CidrGroups { groups, except })
}

fn parse_entity(field: &Field<'_>) -> Option<CiliumPeer> {
    let name = field.string()?;
    let known = Entity::NAMES.iter().find(|known| known.0 == name);
    if known.is_none() {
        field.reject(format!("{} is not an entity", quote(name)));
    }
    known.map(|(_, entity)| CiliumPeer::Entity(*entity))
}

fn parse_service(field: &Field<'_>) -> Option<CiliumPeer> {
    let mut object = field.object()?;
    let (by_name, by_labels) = (object.take("k8sService"), object.take("k8sServiceSelector"));
    object.finish();
    let (reference, what) = match (by_name, by_labels) {
        (Some(field), None) => (field, "serviceName"),
        (None, Some(field)) => (field, "selector"),
        (None, None) => {
            field.reject("needs a k8sService or a k8sServiceSelector");
            return None;
        }
        (Some(_), Some(labels)) => {
            labels.reject_with_fix(
                "can't be combined with k8sService in one element",
                "write two elements, of which either may match",
            );
            return None;
        }
    };
    let mut object = reference.object()?;
    let (services, namespace) = (object.take(what), object.take("namespace"));
    object.finish();
    // Cilium takes an empty name for a missing one.
    let namespace = namespace.filter(|field| field.value() != "");
    let namespace = namespace
        .and_then(|field| checked(&field, is_dns_label, "the name of a namespace"))
        .map(str::to_owned);
    let Some(services) = services else {
        reference.reject(format!("has no {what}"));
        return None;
    };
    let services = match what {
        "selector" => {
            ServiceSelection::Labels(LabelSelector::parse(&services, KeySyntax::Kubernetes)?)
        }
        _ => ServiceSelection::Name(
            checked(&services, is_dns_label, "the name of a service")?.to_owned(),
        ),
    };
    Some(CiliumPeer::Services(ServiceReference { namespace, services }))
}

fn parse_name(field: &Field<'_>) -> Option<CiliumPeer> {
    parse_name_match(field).map(CiliumPeer::Name)
}

fn checked<'a>(field: &Field<'a>, is_valid: fn(&str) -> bool, what: &str) -> Option<&'a str> {
    let text = field.string()?;
    if !is_valid(text) {
        field.reject(format!("{} is not {what}", quote(text)));
        return None;
    }
    Some(text)
}
