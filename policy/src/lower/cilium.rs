//! Lowering of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy
//! (cilium `pkg/k8s/apis/cilium.io/utils/utils.go`, `pkg/policy/rule.go`).

use std::sync::Arc;

use ipnet::IpNet;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, KafkaRule, KafkaRuleSpec, L7Rules, NamePattern};
use podgate_tables::policy::Action;

use super::{in_namespace, is_pod, requirements, reserved, sorted};
use crate::directory::Directory;
use crate::labels::LabelKey;
use crate::model::{
    CiliumPeer, CiliumPolicy, CiliumRule, CiliumSpec, Entity, LabelSelector, PortRule, Ports,
    RuleSection, ServiceReference,
};
use crate::rules::{
    AddressScope, NetworkPeer, PeerSelector, PerDirection, Precedence, Rule, RulePorts, RuleSet,
};
use crate::selector::{Requirement, Selector};

/// Lowers a policy of `namespace`, or a cluster-wide one.
pub(crate) fn lower_cilium(
    policy: &CiliumPolicy,
    namespace: Option<&str>,
    directory: &Directory,
) -> Vec<RuleSet> {
    let scope = Scope { namespace, directory };
    policy.specs.iter().map(|spec| scope.lower_spec(spec)).collect()
}

/// The namespace of a policy, and the objects that it may refer to.
#[derive(Clone, Copy)]
struct Scope<'a> {
    namespace: Option<&'a str>,
    directory: &'a Directory,
}

impl Scope<'_> {
    fn lower_spec(self, spec: &CiliumSpec) -> RuleSet {
        let mut rules = Vec::new();
        for section in RuleSection::ALL {
            let lower_l7 = match spec.isolates(section.direction()) {
                true => Arc::clone,
                false => allow_every_request,
            };
            for (index, rule) in spec.section(section).iter().enumerate() {
                let field = format!("{}.{}[{index}]", spec.field, section.field());
                rules.push(self.lower_rule(rule, section, field, lower_l7));
            }
        }
        RuleSet {
            endpoint_selector: lower_endpoint_selector(&spec.endpoint_selector, self.namespace),
            default_deny: PerDirection::new(|direction| spec.isolates(direction)),
            rules,
        }
    }

    /// A rule without matching peers still counts for the default deny.
    fn lower_rule(
        self,
        rule: &CiliumRule,
        section: RuleSection,
        field: String,
        lower_l7: fn(&Arc<L7Rules>) -> Arc<L7Rules>,
    ) -> Rule {
        let peers = match &rule.peers {
            // A rule that names neither peers nor ports allows nothing (unlike NetworkPolicy's).
            None if rule.ports == Ports::All => Some(Vec::new()),
            None => None,
            // Any peer may be among those of unknown objects, so a deny rule denies all peers. An
            // allow rule allows none of them.
            Some(_) if section.is_deny() && self.directory.unread_by(rule).is_some() => None,
            Some(peers) => self.lower_peers(peers),
        };
        let ports = match &rule.ports {
            Ports::All => None,
            Ports::ToPorts(list) => {
                Some(list.iter().flat_map(|element| lower_ports(element, lower_l7)).collect())
            }
            Ports::Icmps(fields) => {
                let plain = |ports: &_| RulePorts { ports: Clone::clone(ports), l7: None };
                Some(fields.iter().map(plain).collect())
            }
        };
        Rule {
            direction: section.direction(),
            precedence: Precedence::NORMAL,
            action: if section.is_deny() { Action::Deny } else { Action::Allow },
            field,
            peers,
            ports,
        }
    }

    /// `None` is anyone.
    fn lower_peers(self, peers: &[CiliumPeer]) -> Option<Vec<PeerSelector>> {
        let mut lowered = Vec::new();
        for peer in peers {
            match peer {
                CiliumPeer::Entity(Entity::All) => return None,
                CiliumPeer::Entity(entity) => lowered.extend(self.lower_entity(*entity)),
                CiliumPeer::Endpoints(selector) => {
                    lowered.push(PeerSelector::Labels(lower_endpoints(selector, self.namespace)));
                }
                CiliumPeer::Cidr { cidr, except } => {
                    lowered.push(world(*cidr, except.clone()));
                }
                CiliumPeer::CidrGroups { groups, except } => {
                    let networks = self.directory.networks(groups);
                    lowered
                        .extend(networks.filter_map(|network| without_excepted(network, except)));
                }
                CiliumPeer::Services(services) => {
                    lowered.extend(self.lower_services(services));
                }
                CiliumPeer::Name(pattern) => lowered.push(PeerSelector::Name(pattern.clone())),
            }
        }
        Some(sorted(lowered))
    }

    fn lower_services(self, reference: &ServiceReference) -> Vec<PeerSelector> {
        let mut peers = Vec::new();
        for (name, service) in self.directory.services(reference) {
            if service.selector.is_empty() {
                let addresses = self.directory.addresses(name);
                peers.extend(addresses.map(|address| world(address.into(), Vec::new())));
            } else {
                let labels = service.selector.iter();
                let mut conditions: Vec<_> = labels
                    .map(|(key, value)| Requirement::equals(LabelKey::Pod(key.clone()), value))
                    .collect();
                conditions.push(in_namespace(&name.0));
                peers.push(PeerSelector::Labels(Selector::new(conditions)));
            }
        }
        peers
    }

    fn lower_entity(self, entity: Entity) -> Vec<PeerSelector> {
        match entity {
            Entity::World => vec![reserved("world")],
            Entity::WorldIpv4 => vec![reserved("world-ipv4")],
            Entity::WorldIpv6 => vec![reserved("world-ipv6")],
            Entity::Host => vec![reserved("host")],
            Entity::RemoteNode => vec![reserved("remote-node")],
            Entity::KubeApiserver => self.api_server().collect(),
            Entity::Cluster | Entity::ClusterMesh => {
                let pods = Selector::new([Requirement::exists(LabelKey::Cluster)]);
                let own = [PeerSelector::Labels(pods), reserved("host"), reserved("remote-node")];
                own.into_iter().chain(self.api_server()).collect()
            }
            Entity::All
            | Entity::Init
            | Entity::Ingress
            | Entity::Unmanaged
            | Entity::Health
            | Entity::None => Vec::new(),
        }
    }

    /// Cilium adds the label of the API server to nodes and to addresses outside of the cluster,
    /// and to no pod.
    fn api_server(self) -> impl Iterator<Item = PeerSelector> {
        self.directory.api_server().into_iter().map(|address| {
            PeerSelector::Network(NetworkPeer {
                network: address.into(),
                except: Vec::new(),
                scope: AddressScope::WorldAndNodes,
            })
        })
    }
}

/// Addresses outside of the cluster, in `network` and not in `except`.
fn world(network: IpNet, except: Vec<IpNet>) -> PeerSelector {
    PeerSelector::Network(NetworkPeer { network, except, scope: AddressScope::World })
}

/// A network of a group without the networks that the group excludes (`except`); `None` if nothing
/// is left of it.
fn without_excepted(network: IpNet, except: &[IpNet]) -> Option<PeerSelector> {
    if except.iter().any(|out| out.contains(&network)) {
        return None;
    }
    let within = except.iter().filter(|out| network.contains(*out)).copied();
    Some(world(network, within.collect()))
}

/// A namespaced policy selects in its own namespace only. It selects nothing if its selector asks
/// for another one.
fn lower_endpoint_selector(selector: &LabelSelector, namespace: Option<&str>) -> Selector {
    let mut conditions = requirements(selector, LabelKey::cilium);
    conditions.extend(namespace.map(in_namespace));
    Selector::new(conditions)
}

/// Peers by labels are pods of the policy's namespace, or of all namespaces for a cluster-wide
/// policy, unless the selector itself has labels of namespaces or reserved labels.
fn lower_endpoints(selector: &LabelSelector, namespace: Option<&str>) -> Selector {
    let mut conditions = requirements(selector, LabelKey::cilium);
    let names = |wanted: fn(&LabelKey) -> bool| {
        conditions.iter().any(|requirement| wanted(&requirement.key))
    };
    let is_reserved = names(|key| matches!(key, LabelKey::Reserved(_)));
    let names_namespace = names(|key| *key == LabelKey::Namespace);
    let names_namespace_labels = names(|key| matches!(key, LabelKey::NamespaceLabel(_)));
    if !is_reserved && !names_namespace {
        match namespace {
            None => conditions.push(is_pod()),
            Some(namespace) if !names_namespace_labels => conditions.push(in_namespace(namespace)),
            Some(_) => {}
        }
    }
    Selector::new(conditions)
}

fn lower_ports(element: &PortRule, lower_l7: fn(&Arc<L7Rules>) -> Arc<L7Rules>) -> Vec<RulePorts> {
    let l7 = element.l7.as_ref().map(lower_l7);
    let with_l7 = |ports: &_| RulePorts { ports: Clone::clone(ports), l7: l7.clone() };
    element.ports.iter().map(with_l7).collect()
}

/// Rules of the same protocol that allow every request: in a specification that doesn't isolate,
/// L7 rules see requests but deny none (cilium `pkg/policy/l4.go`, `ensureWildcard`). Their
/// patterns are always accepted.
fn allow_every_request(rules: &Arc<L7Rules>) -> Arc<L7Rules> {
    Arc::new(match &**rules {
        L7Rules::Http(_) => {
            L7Rules::http(HttpRule::new(HttpRuleSpec::default()).into_iter().collect())
        }
        L7Rules::Kafka(_) => {
            L7Rules::Kafka(KafkaRule::new(KafkaRuleSpec::default()).into_iter().collect())
        }
        L7Rules::Dns(_) => L7Rules::Dns(NamePattern::dns("*").into_iter().collect()),
        L7Rules::ServerNames(names) => L7Rules::ServerNames(names.clone()),
    })
}
