//! Lowering of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy
//! (cilium `pkg/k8s/apis/cilium.io/utils/utils.go`, `pkg/policy/rule.go`).

use std::sync::Arc;

use podgate_dataplane::l7::{HttpRule, HttpRuleSpec, L7Rules};
use podgate_dataplane::policy::Action;

use super::{in_namespace, is_pod, reserved, sorted};
use crate::directory::Directory;
use crate::labels::LabelKey;
use crate::model::{
    CiliumPeer, CiliumPolicy, CiliumRule, CiliumSpec, Entity, LabelSelector, PortRule, Ports,
    RuleSection,
};
use crate::rules::{Covers, NetworkPeer, Peer, Precedence, Rule, RulePorts, RuleSet, Side};
use crate::selector::{Requirement, Selector};

/// Lowers a policy of `namespace`, or a cluster-wide one.
pub(crate) fn lower_cilium(
    policy: &CiliumPolicy,
    namespace: Option<&str>,
    _directory: &Directory,
) -> Vec<RuleSet> {
    policy.specs.iter().map(|spec| lower_spec(spec, namespace)).collect()
}

fn lower_spec(spec: &CiliumSpec, namespace: Option<&str>) -> RuleSet {
    let mut rules = Vec::new();
    for section in RuleSection::ALL {
        let default_deny = spec.default_deny(section.is_ingress());
        for (index, rule) in spec.section(section).iter().enumerate() {
            let field = format!("{}.{}[{index}]", spec.field, section.field());
            rules.extend(lower_rule(rule, section, field, namespace, default_deny));
        }
    }
    RuleSet {
        subject: lower_subject(&spec.endpoint_selector, namespace),
        default_deny: [spec.default_deny(false), spec.default_deny(true)],
        rules,
    }
}

/// A namespaced policy selects in its own namespace only, whatever its `matchLabels` say.
fn lower_subject(selector: &LabelSelector, namespace: Option<&str>) -> Selector {
    let Some(namespace) = namespace else {
        return Selector::new(Selector::requirements(selector, LabelKey::cilium));
    };
    let mut selector = selector.clone();
    selector.match_labels.retain(|key, _| LabelKey::cilium(key) != LabelKey::Namespace);
    let mut conditions = Selector::requirements(&selector, LabelKey::cilium);
    conditions.push(in_namespace(namespace));
    Selector::new(conditions)
}

/// `None` for rules that match nothing: they count for the default deny only.
fn lower_rule(
    rule: &CiliumRule,
    section: RuleSection,
    field: String,
    namespace: Option<&str>,
    default_deny: bool,
) -> Option<Rule> {
    let peers = match &rule.peers {
        None => None,
        Some(peers) => lower_peers(peers, namespace)?,
    };
    let ports = match &rule.ports {
        // A rule that names neither peers nor ports allows nothing (unlike NetworkPolicy's).
        Ports::All if rule.peers.is_none() => return None,
        Ports::All => None,
        Ports::ToPorts(list) => {
            Some(list.iter().flat_map(|element| lower_ports(element, default_deny)).collect())
        }
        Ports::Icmps(fields) => {
            let plain = |ports: &_| RulePorts { ports: Clone::clone(ports), l7: None };
            Some(fields.iter().map(plain).collect())
        }
    };
    Some(Rule {
        side: if section.is_ingress() { Side::Ingress } else { Side::Egress },
        precedence: Precedence::NORMAL,
        action: if section.is_deny() { Action::Deny } else { Action::Allow },
        field,
        peers,
        ports,
    })
}

/// The outer `None` is nobody, the inner one anyone.
#[expect(clippy::option_option, reason = "nobody and anyone are not the same")]
fn lower_peers(peers: &[CiliumPeer], namespace: Option<&str>) -> Option<Option<Vec<Peer>>> {
    let mut lowered = Vec::new();
    for peer in peers {
        match peer {
            CiliumPeer::Entity(Entity::All) => return Some(None),
            CiliumPeer::Entity(entity) => lowered.extend(lower_entity(*entity)),
            CiliumPeer::Endpoints(selector) => {
                lowered.push(Peer::Labels(lower_endpoints(selector, namespace)));
            }
            CiliumPeer::Cidr { cidr, except } => lowered.push(Peer::Network(NetworkPeer {
                network: *cidr,
                except: except.clone(),
                covers: Covers::Outsiders,
            })),
        }
    }
    (!lowered.is_empty()).then(|| Some(sorted(lowered)))
}

/// Peers by labels are pods of the policy's namespace, or pods of all for a cluster-wide policy,
/// unless the selector itself speaks of namespaces or of reserved labels.
fn lower_endpoints(selector: &LabelSelector, namespace: Option<&str>) -> Selector {
    let mut conditions = Selector::requirements(selector, LabelKey::cilium);
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

fn lower_entity(entity: Entity) -> Vec<Peer> {
    match entity {
        Entity::World => vec![reserved("world")],
        Entity::WorldIpv4 => vec![reserved("world-ipv4")],
        Entity::WorldIpv6 => vec![reserved("world-ipv6")],
        Entity::Host => vec![reserved("host")],
        Entity::RemoteNode => vec![reserved("remote-node")],
        Entity::Cluster => vec![
            Peer::Labels(Selector::new([Requirement::exists(LabelKey::Cluster)])),
            reserved("host"),
            reserved("remote-node"),
        ],
        Entity::All
        | Entity::Init
        | Entity::Ingress
        | Entity::Unmanaged
        | Entity::Health
        | Entity::None => Vec::new(),
    }
}

/// In a specification that doesn't isolate, L7 rules see requests but refuse none (cilium
/// `pkg/policy/l4.go`, `ensureWildcard`).
fn lower_ports(element: &PortRule, default_deny: bool) -> Vec<RulePorts> {
    let l7 = element.http.as_ref().map(|rules| match default_deny {
        true => Arc::clone(&rules.compiled),
        false => allow_every_request(),
    });
    let with_l7 = |ports: &_| RulePorts { ports: Clone::clone(ports), l7: l7.clone() };
    element.ports.iter().map(with_l7).collect()
}

fn allow_every_request() -> Arc<L7Rules> {
    // The empty rule has no pattern that could be at fault.
    let rules = HttpRule::new(HttpRuleSpec::default()).into_iter().collect();
    Arc::new(L7Rules::http(rules))
}
