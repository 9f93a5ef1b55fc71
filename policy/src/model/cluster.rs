//! Namespaces, nodes and pods: what policies select.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_tables::proto;
use serde_json::Value;

use super::metadata::parse_labels;
use super::ports::parse_transport;
use super::workload::Workload;
use crate::fields::{Field, quote};
use crate::labels::Labels;

/// A namespace: the labels of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Labels as written; the API's own `kubernetes.io/metadata.name` is added where it is used.
    pub labels: Labels,
}

impl Namespace {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        Some(Self { labels: parse_labels(root)? })
    }
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Labels.
    pub labels: Labels,
    /// Addresses of type `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// Those of them that are of type `InternalIP`: what the node has on its own interfaces.
    pub internal: Vec<IpAddr>,
}

impl Node {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut node = Self { labels: parse_labels(root).unwrap_or_default(), ..Self::default() };
        let mut object = root.object()?;
        let Some(status) = object.take("status") else { return Some(node) };
        let mut status = status.object()?;
        let Some(addresses) = status.take("addresses") else { return Some(node) };
        let addresses = addresses.list(|field| {
            let mut object = field.object()?;
            let (kind, address) = (object.take("type")?, object.take("address")?);
            let is_internal = match kind.value().as_str() {
                Some("InternalIP") => true,
                Some("ExternalIP") => false,
                _ => return None,
            };
            Some((is_internal, parse_address(&address)?))
        });
        let addresses = addresses?;
        node.addresses = sorted(addresses.iter().map(|(_, address)| *address));
        let internal = addresses.iter().filter(|(is_internal, _)| *is_internal);
        node.internal = sorted(internal.map(|(_, address)| *address));
        Some(node)
    }
}

/// A named port of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerPort {
    /// Name that policies may use.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Labels.
    pub labels: Arc<Labels>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Whether the pod shares its node's network: then its addresses are the node's, and no policy
    /// selects it.
    pub host_network: bool,
    /// Whether all containers ended for good: then the addresses may be another pod's by now.
    pub terminated: bool,
    /// Addresses of the object's status, sorted. See [`Pod::addresses`] for those that count.
    pub ips: Vec<IpAddr>,
    /// Addresses that this node's network plugin assigned, sorted: the pod's before its status
    /// names any.
    pub assigned: Vec<IpAddr>,
    /// `spec.nodeName`: the node that it runs on; empty if that isn't known.
    pub node: Arc<str>,
    /// `status.hostIPs`, or `status.hostIP`: addresses of that node; sorted.
    pub host_ips: Vec<IpAddr>,
    /// Named container ports.
    pub ports: Vec<ContainerPort>,
    /// `metadata.creationTimestamp`; RFC 3339 in UTC, so that text order is time order.
    pub created: String,
    /// What made it, from `metadata.ownerReferences`.
    pub workload: Option<Arc<Workload>>,
}

impl Pod {
    /// The addresses that belong to this pod alone.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        match self.ips.as_slice() {
            _ if self.host_network || self.terminated => &[],
            [] => &self.assigned,
            ips => ips,
        }
    }

    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let labels = Arc::new(parse_labels(root).unwrap_or_default());
        let text = |path: &str| root.value().pointer(path).and_then(Value::as_str);
        let mut pod = Self {
            labels,
            service_account: text("/spec/serviceAccountName").unwrap_or("default").into(),
            host_network: root.value().pointer("/spec/hostNetwork") == Some(&Value::Bool(true)),
            terminated: matches!(text("/status/phase"), Some("Succeeded" | "Failed")),
            ips: Vec::new(),
            assigned: Vec::new(),
            node: text("/spec/nodeName").unwrap_or_default().into(),
            host_ips: Vec::new(),
            ports: Vec::new(),
            created: text("/metadata/creationTimestamp").unwrap_or_default().to_owned(),
            workload: Workload::of(root.value()).map(Arc::new),
        };
        let mut object = root.object()?;
        if let Some(spec) = object.take("spec") {
            pod.ports = parse_containers(&spec).unwrap_or_default();
        }
        if let Some(status) = object.take("status") {
            pod.ips = parse_ips(&status, ["podIPs", "podIP"]).unwrap_or_default();
            pod.host_ips = parse_ips(&status, ["hostIPs", "hostIP"]).unwrap_or_default();
        }
        Some(pod)
    }
}

/// Addresses of a list such as `status.podIPs`, or the one of the older field such as
/// `status.podIP` if that is all there is; sorted.
fn parse_ips(status: &Field<'_>, names: [&'static str; 2]) -> Option<Vec<IpAddr>> {
    let mut object = status.object()?;
    let ips = match names.map(|name| object.take(name)) {
        [Some(list), _] => list.list(|field| {
            let mut object = field.object()?;
            parse_address(&object.take("ip")?)
        })?,
        [None, Some(ip)] if ip.value().as_str() != Some("") => vec![parse_address(&ip)?],
        _ => Vec::new(),
    };
    Some(sorted(ips.into_iter()))
}

fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Named ports of all containers that run as long as the pod does: ordinary ones, and init
/// containers that are restarted always (sidecars, KEP-753).
fn parse_containers(spec: &Field<'_>) -> Option<Vec<ContainerPort>> {
    let mut spec = spec.object()?;
    let mut ports = Vec::new();
    if let Some(containers) = spec.take("containers") {
        containers.list(|container| parse_ports(container, &mut ports));
    }
    if let Some(containers) = spec.take("initContainers") {
        containers.list(|container| {
            let policy = container.value().get("restartPolicy").and_then(Value::as_str);
            if policy == Some("Always") { parse_ports(container, &mut ports) } else { None }
        });
    }
    Some(ports)
}

fn parse_ports(container: &Field<'_>, ports: &mut Vec<ContainerPort>) -> Option<()> {
    let mut container = container.object()?;
    let list = container.take("ports")?;
    let found = list.list(|field| {
        let mut object = field.object()?;
        let (name, port) = (object.take("name")?, object.take("containerPort")?);
        let (name, port) = (name.string(), port.integer(1, u16::MAX));
        let protocol = object.take("protocol");
        let protocol = protocol.map_or(Some(proto::TCP), |field| parse_transport(&field));
        Some(ContainerPort { name: name?.to_owned(), protocol: protocol?, port: port? })
    })?;
    ports.extend(found);
    Some(())
}

fn parse_address(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.string()?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            field.reject_with_fix("is an IPv4 address in IPv6 form", "write it as IPv4");
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            field.reject(format!("{} is no IP address", quote(text)));
            None
        }
    }
}
