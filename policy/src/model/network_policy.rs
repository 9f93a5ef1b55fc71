//! Kubernetes NetworkPolicy (`staging/src/k8s.io/api/networking/v1/types.go`, validation in
//! `pkg/apis/networking/validation/validation.go`).

use ipnet::IpNet;
use podgate_tables::proto;
use serde_json::Value;

use super::cidr::{EmptyBlock, parse_block};
use super::ports::{is_port_name, parse_transport, with_end_port};
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, FieldPath, Fix, Problem, Step, quote};
use crate::rules::{PortMatch, PortNumbers};

/// Most elements of `policyTypes`.
const TYPES_MAX: usize = 2;

const ONLY_ALLOWS: &str = "a NetworkPolicy only allows; a CiliumNetworkPolicy can deny";

/// Fields of other kinds of policies, and what to do with them here.
const SPEC_ADVICE: &[(&str, &str)] = &[
    ("endpointSelector", "write podSelector"),
    ("selector", "write podSelector"),
    ("types", "write policyTypes"),
    ("ingressDeny", ONLY_ALLOWS),
    ("egressDeny", ONLY_ALLOWS),
    ("specs", "write one NetworkPolicy for each"),
];
const INGRESS_ADVICE: &[(&str, &str)] = &[
    ("to", "in ingress, write from"),
    ("fromEndpoints", "write from, with a podSelector or a namespaceSelector in each element"),
    ("fromCIDR", "write from, with an ipBlock in each element"),
    ("fromCIDRSet", "write from, with an ipBlock in each element"),
    ("toPorts", "write ports"),
];
const EGRESS_ADVICE: &[(&str, &str)] = &[
    ("from", "in egress, write to"),
    ("toEndpoints", "write to, with a podSelector or a namespaceSelector in each element"),
    ("toCIDR", "write to, with an ipBlock in each element"),
    ("toCIDRSet", "write to, with an ipBlock in each element"),
    ("toPorts", "write ports"),
];
const PEER_ADVICE: &[(&str, &str)] = &[
    ("matchLabels", "put it into a podSelector or a namespaceSelector"),
    ("matchExpressions", "put it into a podSelector or a namespaceSelector"),
    ("cidr", "put it into an ipBlock"),
    ("endpointSelector", "write podSelector"),
];

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
    /// `from` or `to`; none is any peer. (The API makes no difference between missing and empty.)
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

    /// Labels that pods are selected by, and that no pod has of its own.
    pub(crate) fn hints(&self) -> Vec<Problem> {
        let spec = || vec![Step::from("spec")];
        let mut selectors =
            vec![(&self.pod_selector, [spec(), vec!["podSelector".into()]].concat())];
        for (section, end, rules) in
            [("ingress", "from", &self.ingress), ("egress", "to", &self.egress)]
        {
            for (rule_index, rule) in rules.iter().flatten().enumerate() {
                for (peer_index, peer) in rule.peers.iter().enumerate() {
                    let NetworkPolicyPeer::Pods { namespaces, pods } = peer else { continue };
                    let rule = [section.into(), rule_index.into(), end.into(), peer_index.into()];
                    let way = |name: &str| [&spec()[..], &rule[..], &[name.into()][..]].concat();
                    let namespaces = namespaces.iter().map(|it| (it, way("namespaceSelector")));
                    let pods = pods.iter().map(|it| (it, way("podSelector")));
                    selectors.extend(namespaces.chain(pods));
                }
            }
        }
        let hints = selectors.iter().flat_map(|(selector, way)| {
            let derived = selector.keys().filter(|(key, _)| is_derived(key));
            derived.map(|(_, key)| Problem {
                field: FieldPath::new([way.as_slice(), &key].concat()),
                reason: DERIVED.to_owned(),
                fix: Some(Fix::Text(SELECT_DERIVED.to_owned())),
            })
        });
        hints.collect()
    }

    fn parse_spec(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        let pod_selector = spec.take("podSelector");
        let pod_selector =
            pod_selector.and_then(|field| parse_selector(&field)).unwrap_or_default();
        let mut rules = |section, parse: fn(&Field<'_>) -> Option<NetworkPolicyRule>| {
            let rules = spec.take(section).and_then(|field| field.list(parse));
            rules.unwrap_or_default()
        };
        let ingress = rules("ingress", NetworkPolicyRule::parse_ingress);
        let egress = rules("egress", NetworkPolicyRule::parse_egress);
        let types = spec.take("policyTypes").and_then(|field| {
            let count = field.value().as_array().map_or(0, Vec::len);
            if count > TYPES_MAX {
                field.reject(format!("has {count} elements, but may have at most {TYPES_MAX}"));
            }
            field.list(PolicyType::parse)
        });
        let types = types.unwrap_or_default();
        spec.finish_with(SPEC_ADVICE);
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

/// Labels that Cilium derives from a pod's namespace and service account, for its own policies
/// only.
fn is_derived(key: &str) -> bool {
    key.starts_with("io.cilium.k8s.") || key == "io.kubernetes.pod.namespace"
}

const DERIVED: &str = "Cilium gives this label to pods for its own kinds of policies; a \
                       NetworkPolicy sees the labels of objects only, and selects no pod by it";
const SELECT_DERIVED: &str = "select namespaces by a namespaceSelector (a namespace's name is its \
                              label kubernetes.io/metadata.name), and service accounts in a \
                              CiliumNetworkPolicy";

fn parse_selector(field: &Field<'_>) -> Option<LabelSelector> {
    LabelSelector::parse(field, KeySyntax::Kubernetes)
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
                field.reject(format!("must be Ingress or Egress, but is {}", quote(other)));
                None
            }
        }
    }
}

impl NetworkPolicyRule {
    fn parse_ingress(field: &Field<'_>) -> Option<Self> {
        Self::parse(field, "from", INGRESS_ADVICE)
    }

    fn parse_egress(field: &Field<'_>) -> Option<Self> {
        Self::parse(field, "to", EGRESS_ADVICE)
    }

    fn parse(field: &Field<'_>, peers: &'static str, advice: &[(&str, &str)]) -> Option<Self> {
        let mut object = field.object()?;
        let peers = object.take(peers).and_then(|peers| peers.list(NetworkPolicyPeer::parse));
        let ports = object.take("ports").and_then(|ports| ports.list(parse_port));
        object.finish_with(advice);
        Some(Self { peers: peers.unwrap_or_default(), ports: ports.unwrap_or_default() })
    }
}

impl NetworkPolicyPeer {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let block = object.take("ipBlock");
        let (namespaces, pods) = (object.take("namespaceSelector"), object.take("podSelector"));
        let has_selectors = namespaces.is_some() || pods.is_some();
        let is_empty = !has_selectors && block.is_none() && !object.has_unknown();
        object.finish_with(PEER_ADVICE);
        if is_empty {
            field.reject("needs a podSelector, a namespaceSelector or an ipBlock");
        }
        let selector = |field: Option<Field<'_>>| field.and_then(|field| parse_selector(&field));
        let (namespaces, pods) = (selector(namespaces), selector(pods));
        let Some(block) = block else { return Some(Self::Pods { namespaces, pods }) };
        if has_selectors {
            block.reject("must be alone in its element, without podSelector and namespaceSelector");
        }
        IpBlock::parse(&block).map(Self::Block)
    }
}

impl IpBlock {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut object = field.object()?;
        let (cidr, except) = (object.take("cidr"), object.take("except"));
        object.finish();
        let Some(cidr) = cidr else {
            field.reject("needs a cidr");
            return None;
        };
        let (cidr, except) = parse_block(&cidr, except.as_ref(), EmptyBlock::Rejected)?;
        Some(Self { cidr, except })
    }
}

fn parse_port(field: &Field<'_>) -> Option<PortMatch> {
    let mut object = field.object()?;
    let (port, end) = (object.take("port"), object.take("endPort"));
    let protocol = object.take("protocol");
    object.finish();
    let protocol = protocol.map_or(Some(proto::TCP), |field| parse_transport(&field));
    let ports = port.map_or(Some(PortNumbers::All), |field| parse_int_or_name(&field));
    let ports = with_end_port(ports, end.as_ref());
    Some(PortMatch { protocol: protocol?, ports: ports? })
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
        Ok(number) if *name == number.to_string() => field.reject_with_fix(
            format!("{} is text, and no port name", quote(name)),
            format!("write the number {number} without quotes"),
        ),
        _ => field.reject(format!(
            "{} is not a port name (lower-case letters, digits and '-', at most 15, with a letter)",
            quote(name)
        )),
    }
    None
}
