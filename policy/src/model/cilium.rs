//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, `cilium.io/v2`
//! (cilium `pkg/policy/api/{rule,ingress,egress,cidr,entity,rule_validation}.go`).
//!
//! Where Cilium's documentation and its code differ, the code is followed.

use ipnet::IpNet;

use super::cidr::{parse_block, parse_network_or_address};
use super::cilium_ports::Ports;
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, Object, quote};

/// A Cilium policy: its `spec` and the elements of its `specs`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CiliumPolicy {
    /// In the order of the document, `spec` first.
    pub specs: Vec<CiliumSpec>,
}

/// One rule of Cilium's API: who is selected and what applies to them.
#[derive(Clone, PartialEq, Debug)]
pub struct CiliumSpec {
    /// Path of this specification, `spec` or `specs[i]`.
    pub field: String,
    /// Which endpoints (of the policy's namespace, if it has one).
    pub endpoint_selector: LabelSelector,
    /// `enableDefaultDeny.ingress`; the default is whether there are rules for ingress.
    pub default_deny_ingress: Option<bool>,
    /// `enableDefaultDeny.egress`; the default is whether there are rules for egress.
    pub default_deny_egress: Option<bool>,
    /// `ingress`.
    pub ingress: Vec<CiliumRule>,
    /// `ingressDeny`.
    pub ingress_deny: Vec<CiliumRule>,
    /// `egress`.
    pub egress: Vec<CiliumRule>,
    /// `egressDeny`.
    pub egress_deny: Vec<CiliumRule>,
}

/// One element of the four lists of rules.
#[derive(Clone, PartialEq, Debug)]
pub struct CiliumRule {
    /// Who may be at the other end. `None` when no field names peers; an empty list when one does
    /// and lists nobody, which matches nobody.
    pub peers: Option<Vec<CiliumPeer>>,
    /// On which ports.
    pub ports: Ports,
}

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
    /// A class of peers.
    Entity(Entity),
}

/// Classes of peers that have a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// Everything.
    All,
    /// What is no pod and no node.
    World,
    /// The IPv4 part of it.
    WorldIpv4,
    /// The IPv6 part of it.
    WorldIpv6,
    /// Pods and nodes of this cluster.
    Cluster,
    /// This node.
    Host,
    /// Other nodes.
    RemoteNode,
    /// Pods before their identity is known. A pod is attached here only once it is, so nobody.
    Init,
    /// Cilium's ingress proxy. Nobody.
    Ingress,
    /// Pods that Cilium doesn't manage. Their labels are known here, so nobody.
    Unmanaged,
    /// Cilium's health endpoints. Nobody.
    Health,
    /// Nobody.
    None,
}

/// The four lists of rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleSection {
    /// `ingress`.
    Ingress,
    /// `ingressDeny`.
    IngressDeny,
    /// `egress`.
    Egress,
    /// `egressDeny`.
    EgressDeny,
}

impl RuleSection {
    /// All sections.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::IngressDeny, Self::Egress, Self::EgressDeny];

    /// Name of the field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::IngressDeny => "ingressDeny",
            Self::Egress => "egress",
            Self::EgressDeny => "egressDeny",
        }
    }

    /// Whether it is about flows to the selected endpoints.
    #[must_use]
    pub const fn is_ingress(self) -> bool {
        matches!(self, Self::Ingress | Self::IngressDeny)
    }

    /// Whether its rules deny.
    #[must_use]
    pub const fn is_deny(self) -> bool {
        matches!(self, Self::IngressDeny | Self::EgressDeny)
    }
}

impl CiliumPolicy {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut object = root.object()?;
        object.skip(&["apiVersion", "kind", "metadata", "status"]);
        let (spec, specs) = (object.take("spec"), object.take("specs"));
        object.finish();
        if spec.is_none() && specs.is_none() {
            root.refuse("needs a spec or specs");
        }
        let mut policy = Self::default();
        if let Some(spec) = spec {
            policy.specs.extend(CiliumSpec::parse(&spec));
        }
        if let Some(specs) = specs {
            policy.specs.extend(specs.list(CiliumSpec::parse)?);
        }
        Some(policy)
    }
}

impl CiliumSpec {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        spec.skip(&["labels", "description", "log"]);
        spec.refuse_fields(&[("nodeSelector", "policies for nodes are not enforced")]);
        let endpoint_selector = match spec.take("endpointSelector") {
            Some(field) => LabelSelector::parse(&field, KeySyntax::Cilium)?,
            None => {
                field.refuse_with_fix("has no endpointSelector", "write {} to select every pod");
                return None;
            }
        };
        let (default_deny_ingress, default_deny_egress) = match spec.take("enableDefaultDeny") {
            Some(field) => parse_default_deny(&field)?,
            None => (None, None),
        };
        let mut present = false;
        let mut section = |section: RuleSection| {
            let Some(field) = spec.take(section.field()) else { return Vec::new() };
            present = true;
            field.list(|rule| CiliumRule::parse(rule, section)).unwrap_or_default()
        };
        let parsed = Self {
            field: field.path(),
            endpoint_selector,
            default_deny_ingress,
            default_deny_egress,
            ingress: section(RuleSection::Ingress),
            ingress_deny: section(RuleSection::IngressDeny),
            egress: section(RuleSection::Egress),
            egress_deny: section(RuleSection::EgressDeny),
        };
        if !present {
            field.refuse("needs one of ingress, ingressDeny, egress and egressDeny");
        }
        spec.finish();
        Some(parsed)
    }

    /// The rules of one section.
    #[must_use]
    pub fn section(&self, section: RuleSection) -> &[CiliumRule] {
        match section {
            RuleSection::Ingress => &self.ingress,
            RuleSection::IngressDeny => &self.ingress_deny,
            RuleSection::Egress => &self.egress,
            RuleSection::EgressDeny => &self.egress_deny,
        }
    }

    /// Whether this specification isolates the endpoints that it selects, for ingress or egress:
    /// what is not allowed is then denied.
    #[must_use]
    pub fn default_deny(&self, ingress: bool) -> bool {
        let (explicit, allow, deny) = match ingress {
            true => (self.default_deny_ingress, &self.ingress, &self.ingress_deny),
            false => (self.default_deny_egress, &self.egress, &self.egress_deny),
        };
        explicit.unwrap_or(!allow.is_empty() || !deny.is_empty())
    }
}

fn parse_default_deny(field: &Field<'_>) -> Option<(Option<bool>, Option<bool>)> {
    let mut object = field.object()?;
    let (ingress, egress) = (object.take("ingress"), object.take("egress"));
    object.finish();
    let read = |field: Option<Field<'_>>| field.as_ref().and_then(Field::boolean);
    Some((read(ingress), read(egress)))
}

impl CiliumRule {
    fn parse(field: &Field<'_>, section: RuleSection) -> Option<Self> {
        let mut rule = field.object()?;
        if !section.is_deny()
            && let Some(authentication) = rule.take("authentication")
        {
            refuse_authentication(&authentication);
        }
        let peers = parse_peers(&mut rule, section.is_ingress());
        let ports = Ports::parse(&mut rule, section);
        rule.finish();
        Some(Self { peers, ports: ports? })
    }
}

fn refuse_authentication(field: &Field<'_>) {
    let is_disabled = field.value().get("mode").is_some_and(|mode| mode == "disabled");
    if !is_disabled {
        field.refuse("mutual authentication is not enforced");
    }
}

/// Names of the fields that name peers, for one direction.
struct PeerFields {
    endpoints: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    entities: &'static str,
    refused: &'static [(&'static str, &'static str)],
}

const NOT_NODES: &str = "peers by node labels are not enforced";
const NOT_GROUPS: &str = "peers by cloud provider groups are not enforced";
const NOT_REQUIRES: &str =
    "was removed from Cilium in 1.19 and is not enforced; put the labels into the peers";

const INGRESS_PEERS: PeerFields = PeerFields {
    endpoints: "fromEndpoints",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    entities: "fromEntities",
    refused: &[
        ("fromNodes", NOT_NODES),
        ("fromGroups", NOT_GROUPS),
        ("fromRequires", NOT_REQUIRES),
    ],
};

const EGRESS_PEERS: PeerFields = PeerFields {
    endpoints: "toEndpoints",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    entities: "toEntities",
    refused: &[
        ("toNodes", NOT_NODES),
        ("toGroups", NOT_GROUPS),
        ("toRequires", NOT_REQUIRES),
        ("toServices", "peers by service are not enforced yet"),
        ("toFQDNs", "peers by DNS name are not enforced yet"),
    ],
};

type ReadPeer = fn(&Field<'_>) -> Option<CiliumPeer>;

/// Reads whichever field names peers. More than one that is not empty is refused, as Cilium does.
fn parse_peers(rule: &mut Object<'_>, ingress: bool) -> Option<Vec<CiliumPeer>> {
    let names = if ingress { &INGRESS_PEERS } else { &EGRESS_PEERS };
    rule.refuse_fields(names.refused);
    let mut peers: Option<Vec<CiliumPeer>> = None;
    let mut filled: Option<&str> = None;
    let readers: [(&'static str, ReadPeer); 4] = [
        (names.endpoints, parse_endpoints),
        (names.cidr, parse_cidr),
        (names.cidr_set, parse_cidr_rule),
        (names.entities, parse_entity),
    ];
    for (name, read) in readers {
        let Some(field) = rule.take(name) else { continue };
        let mut found = field.list(read).unwrap_or_default();
        if !found.is_empty() {
            if let Some(other) = filled {
                field.refuse_with_fix(
                    format!("can't stand in one rule with {other}"),
                    "write two rules",
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
    object.refuse_fields(&[
        ("cidrGroupRef", "CiliumCIDRGroup references are not enforced yet"),
        ("cidrGroupSelector", "CiliumCIDRGroup references are not enforced yet"),
    ]);
    let (cidr, except) = parse_block(field, object, false)?;
    Some(CiliumPeer::Cidr { cidr, except })
}

fn parse_entity(field: &Field<'_>) -> Option<CiliumPeer> {
    let name = field.string()?;
    let entity = match name {
        "all" => Entity::All,
        "world" => Entity::World,
        "world-ipv4" => Entity::WorldIpv4,
        "world-ipv6" => Entity::WorldIpv6,
        "cluster" => Entity::Cluster,
        "host" => Entity::Host,
        "remote-node" => Entity::RemoteNode,
        "init" => Entity::Init,
        "ingress" => Entity::Ingress,
        "unmanaged" => Entity::Unmanaged,
        "health" => Entity::Health,
        "none" => Entity::None,
        "kube-apiserver" => {
            field.refuse("the addresses of the API server are not known, so it can't be enforced");
            return None;
        }
        _ => {
            field.refuse(format!("{} is no entity", quote(name)));
            return None;
        }
    };
    Some(CiliumPeer::Entity(entity))
}
