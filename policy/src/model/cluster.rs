//! Namespaces, nodes and pods: what policies select.

use std::net::IpAddr;
use std::sync::Arc;

use podgate_dataplane::types::proto;
use serde_json::Value;

use super::metadata::parse_labels;
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
}

impl Node {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut node = Self { labels: parse_labels(root)?, addresses: Vec::new() };
        let mut object = root.object()?;
        let Some(status) = object.take("status") else { return Some(node) };
        let mut status = status.object()?;
        let Some(addresses) = status.take("addresses") else { return Some(node) };
        let addresses = addresses.list(|field| {
            let mut object = field.object()?;
            let (kind, address) = (object.take("type")?, object.take("address")?);
            matches!(kind.value().as_str(), Some("InternalIP" | "ExternalIP"))
                .then(|| parse_address(&address))?
        });
        node.addresses = addresses?;
        node.addresses.sort_unstable();
        node.addresses.dedup();
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
    /// Addresses, sorted. See [`Pod::addresses`] for those that count.
    pub ips: Vec<IpAddr>,
    /// Named container ports.
    pub ports: Vec<ContainerPort>,
    /// `metadata.creationTimestamp`; RFC 3339 in UTC, so that text order is time order.
    pub created: String,
}

impl Pod {
    /// The addresses that belong to this pod alone.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        if self.host_network || self.terminated { &[] } else { &self.ips }
    }

    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let labels = Arc::new(parse_labels(root)?);
        let text = |path: &str| root.value().pointer(path).and_then(Value::as_str);
        let mut pod = Self {
            labels,
            service_account: text("/spec/serviceAccountName").unwrap_or("default").into(),
            host_network: root.value().pointer("/spec/hostNetwork") == Some(&Value::Bool(true)),
            terminated: matches!(text("/status/phase"), Some("Succeeded" | "Failed")),
            ips: Vec::new(),
            ports: Vec::new(),
            created: text("/metadata/creationTimestamp").unwrap_or_default().to_owned(),
        };
        let mut object = root.object()?;
        if let Some(spec) = object.take("spec") {
            pod.ports = parse_containers(&spec)?;
        }
        if let Some(status) = object.take("status") {
            pod.ips = parse_pod_ips(&status)?;
        }
        Some(pod)
    }
}

/// `status.podIPs`, or the older `status.podIP` if that is all there is.
fn parse_pod_ips(status: &Field<'_>) -> Option<Vec<IpAddr>> {
    let mut object = status.object()?;
    let mut ips = match (object.take("podIPs"), object.take("podIP")) {
        (Some(list), _) => list.list(|field| {
            let mut object = field.object()?;
            parse_address(&object.take("ip")?)
        })?,
        (None, Some(ip)) if ip.value().as_str() != Some("") => vec![parse_address(&ip)?],
        _ => Vec::new(),
    };
    ips.sort_unstable();
    ips.dedup();
    Some(ips)
}

/// Named ports of all containers that run as long as the pod does: ordinary ones, and init
/// containers that are restarted always (sidecars, KEP-753).
fn parse_containers(spec: &Field<'_>) -> Option<Vec<ContainerPort>> {
    let mut spec = spec.object()?;
    let mut ports = Vec::new();
    if let Some(containers) = spec.take("containers") {
        containers.list(|container| parse_ports(container, &mut ports))?;
    }
    if let Some(containers) = spec.take("initContainers") {
        containers.list(|container| {
            let policy = container.value().get("restartPolicy").and_then(Value::as_str);
            if policy == Some("Always") { parse_ports(container, &mut ports) } else { None }
        })?;
    }
    Some(ports)
}

fn parse_ports(container: &Field<'_>, ports: &mut Vec<ContainerPort>) -> Option<()> {
    let mut container = container.object()?;
    let list = container.take("ports")?;
    let found = list.list(|field| {
        let mut object = field.object()?;
        let name = object.take("name")?.string()?.to_owned();
        let port = object.take("containerPort")?.integer(1, u16::MAX)?;
        let protocol = match object.take("protocol") {
            None => proto::TCP,
            Some(field) => match field.string()? {
                "TCP" => proto::TCP,
                "UDP" => proto::UDP,
                "SCTP" => proto::SCTP,
                other => {
                    field.refuse(format!("must be TCP, UDP or SCTP, but is {}", quote(other)));
                    return None;
                }
            },
        };
        Some(ContainerPort { name, protocol, port })
    })?;
    ports.extend(found);
    Some(())
}

fn parse_address(field: &Field<'_>) -> Option<IpAddr> {
    let text = field.string()?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            field.refuse_with_fix("is an IPv4 address in IPv6 form", "write it as IPv4");
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            field.refuse(format!("{} is no IP address", quote(text)));
            None
        }
    }
}
