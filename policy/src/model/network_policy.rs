//! Kubernetes NetworkPolicy (`staging/src/k8s.io/api/networking/v1/types.go`, validation in
//! `pkg/apis/networking/validation/validation.go`).

use ipnet::IpNet;
use podgate_dataplane::types::proto;
use serde_json::Value;

use super::cidr::parse_block;
use super::ports::{PortMatch, PortNumbers, is_port_name, transport_by_name, with_end_port};
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, quote};

/// A NetworkPolicy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkPolicy {
    /// Which pods of the policy's namespace.
    pub pod_selector: LabelSelector,
    /// Rules on flows to the pods; `None` when `policyTypes` leaves ingress out.
    pub ingress: Option<Vec<NetworkPolicyRule>>,
    /// Rules on flows from the pods; `None` when `policyTypes` leaves egress out.
    pub egress: Option<Vec<NetworkPolicyRule>>,
}

/// One element of `ingress` or `egress`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkPolicyRule {
    /// `from` or `to`; none is everyone. (The API makes no difference between missing and empty.)
    pub peers: Vec<NetworkPolicyPeer>,
    /// `ports`; none is every port of every protocol.
    pub ports: Vec<PortMatch>,
}

/// One element of `from` or `to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetworkPolicyPeer {
    /// Pods by their labels and those of their namespace.
    Pods {
        /// Which namespaces; `None` is the policy's own.
        namespaces: Option<LabelSelector>,
        /// Which pods of them; `None` is all.
        pods: Option<LabelSelector>,
    },
    /// Addresses, be they of pods or not.
    Block(IpBlock),
}

/// `ipBlock`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpBlock {
    /// These addresses…
    pub cidr: IpNet,
    /// …but not these; sorted.
    pub except: Vec<IpNet>,
}

impl NetworkPolicy {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut object = root.object()?;
        object.skip(&["apiVersion", "kind", "metadata", "status"]);
        let spec = object.take("spec");
        object.finish();
        match spec {
            Some(spec) => Self::parse_spec(&spec),
            // The API takes a missing specification for an empty one.
            None => Some(Self { ingress: Some(Vec::new()), ..Self::default() }),
        }
    }

    fn parse_spec(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        let pod_selector = match spec.take("podSelector") {
            Some(field) => LabelSelector::parse(&field, KeySyntax::Kubernetes)?,
            None => LabelSelector::default(),
        };
        let ingress = match spec.take("ingress") {
            Some(field) => field.list(|rule| NetworkPolicyRule::parse(rule, "from"))?,
            None => Vec::new(),
        };
        let egress = match spec.take("egress") {
            Some(field) => field.list(|rule| NetworkPolicyRule::parse(rule, "to"))?,
            None => Vec::new(),
        };
        let types = match spec.take("policyTypes") {
            Some(field) => field.list(PolicyType::parse)?,
            None => Vec::new(),
        };
        spec.finish();
        // The default is the API server's; objects from files never passed one.
        let (has_ingress, has_egress) = if types.is_empty() {
            (true, !egress.is_empty())
        } else {
            (types.contains(&PolicyType::Ingress), types.contains(&PolicyType::Egress))
        };
        Some(Self {
            pod_selector,
            ingress: has_ingress.then_some(ingress),
            egress: has_egress.then_some(egress),
        })
    }
}

#[derive(PartialEq)]
enum PolicyType {
    Ingress,
    Egress,
}

impl PolicyType {
    fn parse(field: &Field<'_>) -> Option<Self> {
        match field.string()? {
            "Ingress" => Some(Self::Ingress),
            "Egress" => Some(Self::Egress),
            other => {
                field.refuse(format!("must be Ingress or Egress, but is {}", quote(other)));
                None
            }
        }
    }
}

impl NetworkPolicyRule {
    fn parse(field: &Field<'_>, peers: &'static str) -> Option<Self> {
        let mut object = field.object()?;
        let mut rule = Self::default();
        if let Some(peers) = object.take(peers) {
            rule.peers = peers.list(NetworkPolicyPeer::parse)?;
        }
        if let Some(ports) = object.take("ports") {
            rule.ports = ports.list(parse_port)?;
        }
        object.finish();
        Some(rule)
    }
}

impl NetworkPolicyPeer {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let block = object.take("ipBlock");
        let (namespaces, pods) = (object.take("namespaceSelector"), object.take("podSelector"));
        object.finish();
        let selector = |field: &Field<'_>| LabelSelector::parse(field, KeySyntax::Kubernetes);
        match (block, namespaces, pods) {
            (Some(block), None, None) => IpBlock::parse(&block).map(Self::Block),
            (Some(block), _, _) => {
                block.refuse("must stand alone, without podSelector and namespaceSelector");
                None
            }
            (None, None, None) => {
                field.refuse("needs a podSelector, a namespaceSelector or an ipBlock");
                None
            }
            (None, namespaces, pods) => {
                let namespaces = match &namespaces {
                    Some(field) => Some(selector(field)?),
                    None => None,
                };
                let pods = match &pods {
                    Some(field) => Some(selector(field)?),
                    None => None,
                };
                Some(Self::Pods { namespaces, pods })
            }
        }
    }
}

impl IpBlock {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let (cidr, except) = (object.take("cidr"), object.take("except"));
        object.finish();
        let Some(cidr) = cidr else {
            field.refuse("needs a cidr");
            return None;
        };
        let (cidr, except) = parse_block(&cidr, except.as_ref(), true)?;
        Some(Self { cidr, except })
    }
}

fn parse_port(field: &Field<'_>) -> Option<PortMatch> {
    let mut object = field.object()?;
    let (port, end) = (object.take("port"), object.take("endPort"));
    let protocol = object.take("protocol");
    object.finish();
    let protocol = match protocol {
        None => proto::TCP,
        Some(field) => {
            let name = field.string()?;
            let Some(protocol) = transport_by_name(name) else {
                field.refuse(format!("must be TCP, UDP or SCTP, but is {}", quote(name)));
                return None;
            };
            protocol
        }
    };
    let ports = match &port {
        None => PortNumbers::All,
        Some(field) => parse_int_or_name(field)?,
    };
    Some(PortMatch { protocol, ports: with_end_port(ports, end.as_ref())? })
}

fn parse_int_or_name(field: &Field<'_>) -> Option<PortNumbers> {
    let Value::String(name) = field.value() else {
        let port = field.integer(1, u16::MAX)?;
        return Some(PortNumbers::Range(port..=port));
    };
    if is_port_name(name) {
        return Some(PortNumbers::Named(name.clone()));
    }
    match name.parse::<u16>() {
        Ok(number) => field.refuse_with_fix(
            format!("{} is text, and no port name", quote(name)),
            format!("write the number {number} without quotes"),
        ),
        Err(_) => field.refuse(format!(
            "{} is no port name (lower-case letters, digits and '-', at most 15, with a letter)",
            quote(name)
        )),
    }
    None
}
