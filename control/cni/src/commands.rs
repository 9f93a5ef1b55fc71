//! The commands of the specification.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podgate_hostnet::gateway_for;
use podgate_socket::{EndpointSpec, EndpointStatus, MacAddress, PodMtu};
use serde_json::{Value, json};

use crate::call::{Call, Command, Ipam};
use crate::error::{CniError, Code};
use crate::pod_link::{self, Ends, PodEnd};
use crate::result::{CniResult, Interface, Ip, Route};
use crate::version::{LATEST, SUPPORTED};
use crate::{agent, ipam};

/// Carries out a call. Returns what to print, if anything.
///
/// # Errors
/// To be printed, too.
pub(crate) fn run(call: &Call) -> Result<Option<Value>, CniError> {
    match call.command {
        Command::Add => add(call).map(|result| Some(result.to_json(&call.config.cni_version))),
        Command::Del => del(call).map(|()| None),
        Command::Check => check(call).map(|()| None),
        Command::Status => status(call).map(|()| None),
        Command::Gc => gc(call).map(|()| None),
        Command::Version => {
            Ok(Some(json!({ "cniVersion": LATEST, "supportedVersions": SUPPORTED })))
        }
    }
}

fn add(call: &Call) -> Result<CniResult, CniError> {
    let netns = netns(call)?;
    match call.prev_result()? {
        Some(result) => add_chained(call, netns, result),
        None => add_alone(call, netns),
    }
}

/// Creates the pod's link and puts it under policy.
fn add_alone(call: &Call, netns: &Path) -> Result<CniResult, CniError> {
    let ipam = ipam_of(call)?;
    // Nothing is created that no agent would put under policy.
    let mut agent = agent::connect(call)?;
    agent::status(&mut agent)?;
    let assigned = ipam::add(call, &ipam.plugin)?;
    let host_name = host_name(call);
    let created = create(call, netns, ipam, &assigned, &host_name, &mut agent);
    if created.is_err() {
        // If this fails, the runtime's DEL deletes the link.
        let _ = pod_link::delete(&host_name);
        let _ = agent::remove(&mut agent, &host_name);
        let _ = ipam::other(call, &ipam.plugin, "DEL");
    }
    created
}

fn create(
    call: &Call,
    netns: &Path,
    ipam: &Ipam,
    assigned: &CniResult,
    host_name: &str,
    agent: &mut podgate_socket::Client,
) -> Result<CniResult, CniError> {
    let addresses = assigned.addresses();
    let routes = routes(ipam, assigned);
    let mtu = call.config.mtu.unwrap_or(PodMtu::MAX);
    let end =
        PodEnd { name: &call.interface, addresses: &addresses, routes: &routes, mtu: mtu.into() };
    let ends = pod_link::create(host_name, netns, &end)?;
    // The link is under policy before its ends are up, so no packet passes without policy.
    let spec = EndpointSpec {
        link: host_name.to_owned(),
        pod: call.pod()?.clone(),
        netns: Some(netns.into()),
        mac: None,
        mtu: Some(mtu),
        assigned: addresses.clone(),
    };
    agent::add(agent, spec)?;
    pod_link::configure(&ends, netns, &end)?;
    Ok(result_of(&ends, netns, assigned, &routes))
}

/// Default routes of the families that the pod has an address of, unless routes are configured.
fn routes(ipam: &Ipam, assigned: &CniResult) -> Vec<IpNet> {
    let configured = ipam.routes.iter().map(|route| route.dst);
    let routes: BTreeSet<_> =
        configured.chain(assigned.routes.iter().map(|route| route.dst)).collect();
    if !routes.is_empty() {
        return routes.into_iter().collect();
    }
    let default = |ip: &Ip| match ip.address {
        IpNet::V4(_) => IpNet::from(Ipv4Net::default()),
        IpNet::V6(_) => IpNet::from(Ipv6Net::default()),
    };
    let defaults: BTreeSet<_> = assigned.ips.iter().map(default).collect();
    defaults.into_iter().collect()
}

fn result_of(ends: &Ends, netns: &Path, assigned: &CniResult, routes: &[IpNet]) -> CniResult {
    let sandbox = netns.display().to_string();
    let interface = |name: &str, mac, sandbox| Interface {
        name: name.to_owned(),
        mac: Some(MacAddress(mac).to_string()),
        sandbox,
    };
    let ip = |ip: &Ip| {
        let host = IpNet::from(ip.address.addr());
        Ip { address: host, gateway: Some(gateway_for(host.addr())), interface: Some(1) }
    };
    let route = |dst: &IpNet| Route { dst: *dst, gw: Some(gateway_for(dst.addr())) };
    CniResult {
        interfaces: vec![
            interface(&ends.host.name, ends.host.mac, None),
            interface(&ends.pod.name, ends.pod.mac, Some(sandbox)),
        ],
        ips: assigned.ips.iter().map(ip).collect(),
        routes: routes.iter().map(route).collect(),
        dns: assigned.dns.clone(),
    }
}

/// Takes over the link that the plugins before this one have created.
fn add_chained(call: &Call, netns: &Path, result: CniResult) -> Result<CniResult, CniError> {
    let mut agent = agent::connect(call)?;
    let ends = pod_link::find(netns, &call.interface)?;
    let spec = EndpointSpec {
        link: ends.host.name,
        pod: call.pod()?.clone(),
        netns: Some(netns.into()),
        mac: None,
        // `None` leaves the choice to the agent: by default the other plugin's MTU stays.
        mtu: call.config.mtu,
        assigned: result.addresses(),
    };
    agent::add(&mut agent, spec)?;
    Ok(result)
}

/// Policy ends after the link, and the addresses are released after policy has ended, so that
/// another pod with one of them never inherits a verdict.
fn del(call: &Call) -> Result<(), CniError> {
    let prev_result = call.prev_result()?;
    let is_chained = call.config.ipam.is_none();
    let host_name = host_name(call);
    if !is_chained {
        pod_link::delete(&host_name)?;
    }
    let mut agent = agent::connect(call)?;
    let is_this = |endpoint: &EndpointStatus| match is_chained {
        false => endpoint.spec.link == host_name,
        true => is_chained_endpoint(call, prev_result.as_ref(), endpoint),
    };
    for endpoint in agent::list(&mut agent)?.into_iter().filter(is_this) {
        agent::remove(&mut agent, &endpoint.spec.link)?;
    }
    match &call.config.ipam {
        Some(ipam) => ipam::other(call, &ipam.plugin, "DEL"),
        None => Ok(()),
    }
}

/// Whether an endpoint is the one that ADD added to a link of another plugin.
fn is_chained_endpoint(
    call: &Call,
    prev_result: Option<&CniResult>,
    endpoint: &EndpointStatus,
) -> bool {
    let same_netns = call.netns.is_some() && endpoint.spec.netns == call.netns;
    let interfaces = prev_result.map_or(&[][..], |result| &result.interfaces);
    let mut on_node = interfaces.iter().filter(|interface| interface.sandbox.is_none());
    let same_link = on_node.any(|interface| interface.name == endpoint.spec.link);
    let same_pod = call.pod.is_none() || endpoint.spec.pod == call.pod;
    same_pod && (same_netns || same_link)
}

fn check(call: &Call) -> Result<(), CniError> {
    let netns = netns(call)?;
    let failed = |message: String| Err(CniError::new(Code::Failed, message));
    let Some(expected) = call.prev_result()? else {
        return Err(CniError::new(Code::Config, "CHECK needs the prevResult of ADD"));
    };
    let ends = pod_link::find(netns, &call.interface)?;
    let present = pod_link::addresses(netns, &call.interface)?;
    if let Some(missing) = expected.addresses().iter().find(|address| !present.contains(address)) {
        return failed(format!("interface {} lost its address {missing}", call.interface));
    }
    let mut agent = agent::connect(call)?;
    let endpoints = agent::list(&mut agent)?;
    let endpoint = endpoints.iter().find(|endpoint| endpoint.spec.link == ends.host.name);
    match endpoint {
        Some(endpoint) if endpoint.spec.pod == call.pod || call.pod.is_none() => {}
        Some(_) => return failed(format!("link {} is another pod's endpoint", ends.host.name)),
        None => return failed(format!("link {} is not an endpoint of the agent", ends.host.name)),
    }
    match &call.config.ipam {
        Some(ipam) => ipam::other(call, &ipam.plugin, "CHECK"),
        None => Ok(()),
    }
}

/// Whether an ADD would succeed.
fn status(call: &Call) -> Result<(), CniError> {
    let unavailable = |error: CniError| CniError { code: Code::Unavailable as u32, ..error };
    let status = agent::connect(call)
        .and_then(|mut agent| agent::status(&mut agent))
        .map_err(unavailable)?;
    if !status.source.synced {
        let message = format!("the agent has not read all objects of {} yet", status.source.name);
        return Err(CniError::new(Code::Unavailable, message));
    }
    Ok(())
}

/// Removes links that this plugin created for the network and that no container has any more, and
/// their endpoints.
fn gc(call: &Call) -> Result<(), CniError> {
    let mut agent = agent::connect(call)?;
    let endpoints = agent::list(&mut agent)?;
    for link in stale_links(call, endpoints.iter().map(|endpoint| endpoint.spec.link.as_str())) {
        pod_link::delete(link)?;
        agent::remove(&mut agent, link)?;
    }
    match &call.config.ipam {
        Some(ipam) => ipam::other(call, &ipam.plugin, "GC"),
        None => Ok(()),
    }
}

/// The links of the call's network that are not among its valid attachments.
fn stale_links<'l>(call: &Call, links: impl Iterator<Item = &'l str>) -> Vec<&'l str> {
    let network = &call.config.name;
    let valid: BTreeSet<_> = call
        .config
        .valid_attachments
        .iter()
        .map(|attachment| pod_link::host_name(network, &attachment.container, &attachment.ifname))
        .collect();
    let prefix = pod_link::prefix(network);
    links.filter(|link| link.starts_with(&prefix) && !valid.contains(*link)).collect()
}

/// Name of the node's end of the call's link.
fn host_name(call: &Call) -> String {
    pod_link::host_name(&call.config.name, &call.container, &call.interface)
}

fn netns(call: &Call) -> Result<&Path, CniError> {
    let missing = || CniError::new(Code::Environment, "CNI_NETNS is not set, or empty");
    call.netns.as_deref().ok_or_else(missing)
}

fn ipam_of(call: &Call) -> Result<&Ipam, CniError> {
    call.config.ipam.as_ref().ok_or_else(|| {
        let message = format!(
            "network {:?} has neither `ipam` nor a plugin before podgate-cni: name the plugin that \
             assigns addresses, like {{\"type\": \"host-local\", \"subnet\": \"10.1.0.0/24\"}}, or \
             chain podgate-cni after the plugin that creates the pods' links",
            call.config.name
        );
        CniError::new(Code::Config, message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn gc_removes_links_of_its_own_network_only() {
        let config = r#"{"cniVersion": "1.1.0", "name": "pods",
            "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}"#;
        let variable = |name: &str| (name == "CNI_COMMAND").then(|| "GC".to_owned());
        let call = Call::parse(&variable, config.as_bytes().to_vec()).unwrap();
        let name = |network, container| pod_link::host_name(network, container, "eth0");
        let links = [
            name("pods", "c1"),
            name("pods", "c2"),
            name("storage", "c1"),
            name("storage", "c2"),
            "veth7".to_owned(),
        ];
        let stale = stale_links(&call, links.iter().map(String::as_str));
        assert_eq!(stale, [name("pods", "c2")]);
    }
}
