//! The names behind the numbers of the tables.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use podgate_names::PodName;
use podgate_tables::address::Address;
use podgate_tables::ids::{DenySetId, Epoch, PortNameId, RuleId};
use podgate_tables::policy::{AddressMap, PeerMatch, Rows};
use podgate_tables::service::ServiceAddress;
use serde::{Deserialize, Serialize};

use crate::directory::Name;
use crate::key::ObjectKey;
use crate::labels::LabelContext;
use crate::model::Workload;
use crate::rules::{self, TrafficDirection};
use crate::selector::Selector;

/// Names of everything that one set of tables refers to. Copies are cheap.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub(crate) rules: Rows<Option<Arc<RuleOrigin>>>,
    pub(crate) deny_sets: Rows<Arc<[ObjectKey]>>,
    pub(crate) identities: Rows<Option<IdentityInfo>>,
    pub(crate) selectors: Rows<Option<Arc<Selector>>>,
    pub(crate) address_sets: Rows<Arc<[rules::PeerSelector]>>,
    pub(crate) port_names: Rows<Arc<str>>,
    pub(crate) pods: AddressMap<PodInfo>,
    /// Services by their cluster IPs.
    pub(crate) cluster_ips: AddressMap<ServiceName>,
    /// Services by their external addresses.
    pub(crate) external: AddressMap<ExternalNames>,
    /// Services by their node ports, for IPv4 and IPv6.
    pub(crate) node_ports: [Option<ExternalNames>; 2],
}

/// The services at an external address, or with node ports, by protocol and port, sorted.
pub(crate) type ExternalNames = Arc<[((u8, u16), Name)]>;

/// The peers that an entry of the tables matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerName<'c> {
    /// Anyone.
    Anyone,
    /// Peers with these labels.
    Selector(&'c Selector),
    /// Addresses of these networks or DNS names.
    Addresses(&'c [rules::PeerSelector]),
}

/// The name of a rule: its policy and its path there. Shown as `NetworkPolicy shop/web
/// spec.ingress[0]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleOrigin {
    /// The policy.
    pub key: Arc<ObjectKey>,
    /// Ingress or egress.
    pub direction: TrafficDirection,
    /// Path of the rule in the policy.
    pub field: String,
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.field)
    }
}

/// One identity.
#[derive(Clone, Debug)]
pub struct IdentityInfo {
    /// The number that people and Hubble see: Cilium's for reserved identities, else one from 256
    /// to 2^24 - 1 that the labels determine. Two identities may, rarely, share one.
    pub number: u32,
    label_context: LabelContext,
    /// [`Self::labels`], made when they are read first.
    labels: Arc<OnceLock<Arc<[String]>>>,
}

/// The labels are those of the context.
impl PartialEq for IdentityInfo {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && self.label_context == other.label_context
    }
}

impl Eq for IdentityInfo {}

impl IdentityInfo {
    pub(crate) fn new(number: u32, label_context: LabelContext) -> Self {
        Self { number, label_context, labels: Arc::default() }
    }

    /// Whether it is a reserved identity: not that of pods.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        matches!(self.label_context, LabelContext::Reserved(_))
    }

    /// The labels as Cilium writes them, `source:key=value`, sorted.
    #[must_use]
    pub fn labels(&self) -> &Arc<[String]> {
        self.labels.get_or_init(|| self.label_context.to_labels().into())
    }
}

/// The pod that has an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodInfo {
    pub(crate) name: PodName,
    pub(crate) workload: Option<Arc<Workload>>,
    /// The first epoch in which it has the address.
    pub(crate) since: Epoch,
}

/// A service's name.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl From<&Name> for ServiceName {
    fn from((namespace, name): &Name) -> Self {
        Self { namespace: namespace.to_string(), name: name.to_string() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Catalog {
    /// Where a rule was written. `None` for numbers of other tables than this catalogue's.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&RuleOrigin> {
        self.rules.get(id.0)?.as_deref()
    }

    /// The same, to be stored.
    #[must_use]
    pub fn shared_rule(&self, id: RuleId) -> Option<Arc<RuleOrigin>> {
        self.rules.get(id.0)?.clone()
    }

    /// The policies that together put an endpoint into default deny, sorted. Empty when it is the
    /// enforcement mode that does.
    #[must_use]
    pub fn deny_set(&self, id: DenySetId) -> &[ObjectKey] {
        self.deny_sets.get(id.0).map_or(&[], |policies| policies)
    }

    /// An identity by its index in the tables.
    #[must_use]
    pub fn identity(&self, index: u32) -> Option<&IdentityInfo> {
        self.identities.get(index)?.as_ref()
    }

    /// All identities.
    pub fn identities(&self) -> impl Iterator<Item = &IdentityInfo> {
        self.identities.iter().filter_map(|(_, info)| info.as_ref())
    }

    /// The peers that an entry matches. `None` for numbers of other tables than this catalogue's.
    #[must_use]
    pub fn peer(&self, peer: PeerMatch) -> Option<PeerName<'_>> {
        Some(match peer {
            PeerMatch::Any => PeerName::Anyone,
            PeerMatch::Namespaces(id) | PeerMatch::Labels(id) => {
                PeerName::Selector(self.selectors.get(id.0)?.as_deref()?)
            }
            PeerMatch::Addresses(id) => PeerName::Addresses(self.address_sets.get(id.0)?),
        })
    }

    /// The name of a container port.
    #[must_use]
    pub fn port_name(&self, id: PortNameId) -> &str {
        self.port_names.get(id.0).map_or("", |name| name)
    }

    /// The name of every rule, default deny, selector, list of networks and port that has a number.
    pub fn everything(&self) -> impl Iterator<Item = String> {
        let rules = self.rules.iter().filter_map(|(_, rule)| Some(rule.as_ref()?.to_string()));
        let denies = self.deny_sets.iter().filter(|(_, policies)| !policies.is_empty());
        let selectors = self.selectors.iter().filter_map(|(_, selector)| selector.as_ref());
        let networks = self.address_sets.iter().filter(|(_, peers)| !peers.is_empty());
        let ports = self.port_names.iter().filter(|(_, name)| !name.is_empty());
        rules
            .chain(denies.map(|(_, policies)| format!("{policies:?}")))
            .chain(selectors.map(|selector| format!("{selector:?}")))
            .chain(networks.map(|(_, peers)| format!("{peers:?}")))
            .chain(ports.map(|(_, name)| name.to_string()))
    }

    /// What selectors can ask about an identity of the tables.
    pub(crate) fn label_context(&self, index: u32) -> &LabelContext {
        const NOBODY: &LabelContext = &LabelContext::Reserved(&[]);
        self.identity(index).map_or(NOBODY, |identity| &identity.label_context)
    }

    /// The pod that an address belongs to.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.pods.get(Address::from(address)).map(|pod| &pod.name)
    }

    /// Whether the pod that an address belongs to did not have it in `epoch` yet.
    #[must_use]
    pub fn is_newer(&self, address: IpAddr, epoch: Epoch) -> bool {
        self.pods.get(Address::from(address)).is_some_and(|pod| pod.since > epoch)
    }

    /// The workload of the pod that an address belongs to.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&Workload> {
        self.pods.get(Address::from(address))?.workload.as_deref()
    }

    /// The service that has a cluster IP.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceName> {
        self.cluster_ips.get(Address::from(address))
    }

    /// The service that a port in a row of [`ServiceTable`](podgate_tables::service::ServiceTable)
    /// belongs to.
    #[must_use]
    pub fn service_of(&self, at: ServiceAddress, protocol: u8, port: u16) -> Option<ServiceName> {
        let names = match at {
            ServiceAddress::ClusterIp(address) => return self.cluster_ips.get(address).cloned(),
            ServiceAddress::External(address) => self.external.get(address)?,
            ServiceAddress::Node { v4 } => self.node_ports[usize::from(!v4)].as_ref()?,
        };
        let at = names.binary_search_by_key(&(protocol, port), |(port, _)| *port).ok()?;
        Some(ServiceName::from(&names[at].1))
    }
}
