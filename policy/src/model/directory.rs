//! Objects that policies refer to: groups of networks, services, and the addresses behind them.
//!
//! They are read leniently: their authors are not authors of policies, and only a few of their
//! fields matter here.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::cidr::parse_network_or_address;
use super::metadata::parse_labels;
use crate::fields::Field;
use crate::labels::Labels;

/// Most networks of one group. An object of the API server holds at most 1.5 MB, which is fewer.
const NETWORKS_MAX: usize = 100_000;

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
    /// EndpointSlices that somebody else maintains.
    pub selector: Labels,
    /// `spec.clusterIPs`, or `spec.clusterIP`: addresses that the node's kernel translates to those
    /// of a pod behind the service; sorted. None for a headless service.
    pub cluster_ips: Vec<IpAddr>,
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
        // An empty one is one to come, and `None` says that there is to be none.
        service.cluster_ips = list.chain(one.iter().map(Field::value)).filter_map(text).collect();
        service.cluster_ips.sort_unstable();
        service.cluster_ips.dedup();
        Some(service)
    }
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSlice {
    /// Name of the service, from the label `kubernetes.io/service-name`; empty if there is none.
    pub service: String,
    /// Addresses of all endpoints, sorted. Those that are not ready too: they may still end
    /// connections.
    pub addresses: Vec<IpAddr>,
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
        Some(Self { service: service.unwrap_or_default(), addresses })
    }
}
