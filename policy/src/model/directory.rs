//! Objects that policies refer to, and that workers translate: groups of networks, services, and
//! the addresses behind them.
//!
//! They are read leniently: their authors are not authors of policies, and only a few of their
//! fields matter here.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_tables::proto;
use podgate_tables::service::{Affinity, ServiceAddress};
use serde_json::Value;

use super::cidr::parse_network_or_address;
use super::metadata::parse_labels;
use crate::fields::Field;
use crate::labels::Labels;

/// Most networks of one group. An object of the API server holds at most 1.5 MB, which is fewer.
const NETWORKS_MAX: usize = 100_000;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set, or not valid, and its
/// largest value (`DefaultClientIPServiceAffinitySeconds` and `MaxClientIPServiceAffinitySeconds`
/// in `pkg/apis/core/types.go` of Kubernetes).
const AFFINITY_SECONDS: u32 = 10_800;
const AFFINITY_SECONDS_MAX: u32 = 86_400;

/// A CiliumCIDRGroup (cilium `pkg/k8s/apis/cilium.io/v2/cidrgroups_types.go`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CidrGroup {
    /// Labels, which `cidrGroupSelector` asks for.
    pub labels: Labels,
    /// `spec.externalCIDRs`, sorted.
    pub networks: Vec<IpNet>,
}

impl CidrGroup {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let labels = parse_labels(root).unwrap_or_default();
        let mut object = root.object()?;
        let mut networks = match object.take("spec") {
            Some(spec) => match spec.object()?.take("externalCIDRs") {
                Some(list) => parse_networks_or_addresses(&list)?,
                None => Vec::new(),
            },
            None => Vec::new(),
        };
        networks.sort_unstable();
        networks.dedup();
        Some(Self { labels, networks })
    }
}

fn parse_networks_or_addresses(field: &Field<'_>) -> Option<Vec<IpNet>> {
    let count = field.value().as_array().map_or(0, Vec::len);
    if count > NETWORKS_MAX {
        field.reject_with_fix(
            format!("has {count} networks, at most {NETWORKS_MAX} fit"),
            "make several groups with one label, and select them by cidrGroupSelector",
        );
        return None;
    }
    field.list(parse_network_or_address)
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// Labels, which `k8sServiceSelector` asks for.
    pub labels: Labels,
    /// `spec.selector`: the pods behind it; empty for a service whose addresses are given by
    /// EndpointSlices that another controller maintains.
    pub selector: Labels,
    /// `spec.clusterIPs`, or `spec.clusterIP`: addresses that are translated to those of a backend;
    /// sorted. None for a headless service, and for one of type ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`, and of `status.loadBalancer.ingress` the addresses that a node may
    /// translate (`ipMode: VIP`); sorted. None for a service without cluster IPs, as kube-proxy
    /// ignores it.
    pub external_addresses: Vec<IpAddr>,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity`, with the timeout of `spec.sessionAffinityConfig`.
    pub affinity: Affinity,
    /// `spec.internalTrafficPolicy`.
    pub traffic: InternalTraffic,
}

impl Service {
    /// Where pods reach a port of this service by addresses of one family (IPv4 or not) that are
    /// not its cluster IPs: its external addresses and all of the node, each with the number there.
    /// As with kube-proxy, there are those of families that it has a cluster IP of.
    pub(crate) fn external_ports(
        &self,
        port: &ServicePort,
        v4: bool,
    ) -> impl Iterator<Item = (ServiceAddress, u16)> {
        let of_family = move |ip: &&IpAddr| ip.is_ipv4() == v4;
        let has_family = self.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let external = self.external_addresses.iter().filter(of_family);
        let number = port.port;
        let external = external.map(move |ip| (ServiceAddress::External((*ip).into()), number));
        let of_node = port.node_port.map(|number| (ServiceAddress::Node { v4 }, number));
        external.chain(of_node).filter(move |_| has_family)
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceKind {
    /// `ClusterIP`, also where nothing is written.
    #[default]
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`.
    ExternalName,
}

impl ServiceKind {
    /// As written in a Service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

/// `spec.internalTrafficPolicy` of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InternalTraffic {
    /// `Cluster`: to any backend.
    #[default]
    Cluster,
    /// `Local`: to a backend on the client's node.
    Local,
}

/// A port of a Service, or of the endpoints in an EndpointSlice: the two belong together by name
/// and protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Name; empty if there is none.
    pub name: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// `nodePort` of a Service, if it has one.
    pub node_port: Option<u16>,
}

impl ServicePort {
    /// The ports of a list; those that can't be read are left out.
    fn parse_all(list: Option<&Value>) -> Vec<Self> {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Self::parse).collect()
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |key| value.get(key).and_then(Value::as_str);
        let protocol = match text("protocol").unwrap_or("TCP") {
            "TCP" => proto::TCP,
            "UDP" => proto::UDP,
            "SCTP" => proto::SCTP,
            _ => return None,
        };
        let number = |key| u16::try_from(value.get(key)?.as_u64()?).ok().filter(|port| *port > 0);
        Some(Self {
            name: text("name").unwrap_or_default().into(),
            protocol,
            port: number("port")?,
            node_port: number("nodePort"),
        })
    }
}

impl Service {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let labels = parse_labels(root).unwrap_or_default();
        let mut service = Self { labels, ..Self::default() };
        let Some(spec) = root.object()?.take("spec") else { return Some(service) };
        let mut spec = spec.object()?;
        if let Some(selector) = spec.take("selector") {
            let selector = selector
                .entries(|key, field| Some((Arc::from(key), Arc::from(field.label_value()?))));
            service.selector = selector.into_iter().flatten().collect();
        }
        let text = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let list = spec.take("clusterIPs");
        let list = list.iter().filter_map(|field| field.value().as_array()).flatten();
        let one = spec.take("clusterIP");
        // An empty text means that the address is still to be assigned, and `None` that there is
        // none.
        service.cluster_ips = list.chain(one.iter().map(Field::value)).filter_map(text).collect();
        service.cluster_ips.sort_unstable();
        service.cluster_ips.dedup();
        let spec = root.value().get("spec");
        let field = |name| spec.and_then(|spec| spec.get(name));
        service.ports = ServicePort::parse_all(field("ports"));
        service.kind = match field("type").and_then(Value::as_str) {
            Some("NodePort") => ServiceKind::NodePort,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            Some("ExternalName") => ServiceKind::ExternalName,
            _ => ServiceKind::ClusterIp,
        };
        if field("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
            let config = field("sessionAffinityConfig");
            let seconds = config.and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
            let seconds = seconds.and_then(Value::as_u64).and_then(|value| value.try_into().ok());
            let valid = seconds.filter(|seconds| (1..=AFFINITY_SECONDS_MAX).contains(seconds));
            let seconds = valid.unwrap_or(AFFINITY_SECONDS);
            service.affinity = Affinity::ClientIp { seconds };
        }
        if field("internalTrafficPolicy").and_then(Value::as_str) == Some("Local") {
            service.traffic = InternalTraffic::Local;
        }
        if service.kind == ServiceKind::ExternalName {
            service.cluster_ips.clear();
        }
        service.external_addresses = external_addresses(root.value());
        if service.cluster_ips.is_empty() {
            service.external_addresses.clear();
            service.ports.iter_mut().for_each(|port| port.node_port = None);
        }
        Some(service)
    }
}

/// Addresses outside of the cluster at which nodes offer a Service.
fn external_addresses(service: &Value) -> Vec<IpAddr> {
    let list = |path| service.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let is_translated = |ingress: &&Value| {
        let mode = ingress.get("ipMode").and_then(Value::as_str);
        mode.is_none_or(|mode| mode == "VIP")
    };
    let of_load_balancers =
        list("/status/loadBalancer/ingress").filter(is_translated).filter_map(|it| it.get("ip"));
    let all = list("/spec/externalIPs").chain(of_load_balancers);
    let mut addresses: Vec<IpAddr> =
        all.filter_map(|text| text.as_str()?.parse().ok()).filter(is_ordinary).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Whether an endpoint or a Service can have an address (`ValidateEndpointIP` in
/// `pkg/apis/core/validation` of Kubernetes rejects the others).
fn is_ordinary(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSlice {
    /// Name of the service, from the label `kubernetes.io/service-name`; empty if there is none.
    pub service: String,
    /// Addresses of all endpoints, sorted. Also of endpoints that are not ready: they may still
    /// have connections.
    pub addresses: Vec<IpAddr>,
    /// Ports of the endpoints. A named target port has its number here.
    pub ports: Vec<ServicePort>,
    /// The endpoints that may be sent new connections.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SliceEndpoint {
    /// Its address: the first one, as its others are equivalent (and kube-proxy uses no other).
    pub address: IpAddr,
    /// Whether it is terminating and still serves; it is used while no endpoint is ready. Else it
    /// is ready.
    pub terminating: bool,
    /// Its node; empty if that isn't known.
    pub node: Arc<str>,
}

impl SliceEndpoint {
    /// `None` if it takes no connections, or has no address that an endpoint can have.
    fn parse(value: &Value) -> Option<Self> {
        let address: IpAddr = value.get("addresses")?.get(0)?.as_str()?.parse().ok()?;
        if !is_ordinary(&address) {
            return None;
        }
        let condition = |name| value.pointer("/conditions").and_then(|c| c.get(name)?.as_bool());
        let ready = condition("ready").unwrap_or(true);
        let is_last_resort =
            condition("terminating").unwrap_or(false) && condition("serving").unwrap_or(false);
        if !(ready || is_last_resort) {
            return None;
        }
        let node = value.get("nodeName").or_else(|| {
            // v1beta1.
            value.get("topology")?.get("kubernetes.io/hostname")
        });
        let node = node.and_then(Value::as_str).unwrap_or_default().into();
        Some(Self { address, terminating: !ready, node })
    }
}

impl EndpointSlice {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let labels = parse_labels(root).unwrap_or_default();
        let service = labels.get("kubernetes.io/service-name").map(|name| name.to_string());
        let endpoints = root.value().get("endpoints").and_then(Value::as_array);
        let addresses = endpoints
            .into_iter()
            .flatten()
            .filter_map(|endpoint| endpoint.get("addresses").and_then(Value::as_array));
        // Slices of type FQDN have names here, which are no addresses.
        let mut addresses: Vec<IpAddr> =
            addresses.flatten().filter_map(|a| a.as_str()?.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let endpoints = root.value().get("endpoints").and_then(Value::as_array);
        let mut endpoints: Vec<_> =
            endpoints.into_iter().flatten().filter_map(SliceEndpoint::parse).collect();
        endpoints.shrink_to_fit();
        let ports = ServicePort::parse_all(root.value().get("ports"));
        Some(Self { service: service.unwrap_or_default(), addresses, ports, endpoints })
    }
}
