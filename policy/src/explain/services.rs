//! Services: the destination of a query, its backends, and the list of all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use podgate_tables::address::Address;
use podgate_tables::policy::Subject;
use podgate_tables::proto;
use podgate_tables::service::{
    Affinity, L4Addr, NoPort, ServiceAddress, ServicePort, ServicePorts, WithoutBackends,
};
use podgate_tables::tuple::Tuple;
use serde::{Deserialize, Serialize};

use super::query::{EndName, Query, Transport, has_ports};
use super::resolve::{QueryError, find_service};
use super::{End, Outcome};
use crate::directory::Name;
use crate::{Compiled, Store};

/// A port of a service that packets are translated for.
pub(super) struct Called<'a> {
    pub(super) frontend: L4Addr,
    pub(super) protocol: u8,
    pub(super) name: String,
    pub(super) port: &'a ServicePort,
}

/// The service that the destination of a query is.
pub(super) enum Callee<'a> {
    /// Workers translate packets to it.
    Translated(Called<'a>),
    /// Workers reject or drop packets to it, for this reason.
    Rejected { frontend: L4Addr, protocol: u8, name: String, reason: String },
}

/// The outcome of a flow to a service, for one of its backends.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct BackendVerdict {
    /// The backend.
    #[serde(flatten)]
    pub backend: End,
    /// The outcome of a flow to it.
    pub verdict: Outcome,
}

/// A service's address and port, as workers translate it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// Position in the list.
    pub id: usize,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// A cluster IP or an external address; of a node port the unspecified address, which stands
    /// for all addresses of the node.
    pub address: IpAddr,
    /// The service's port, or the node port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `spec.type`.
    pub service_type: String,
    /// Whether a client has the same backend each time (`sessionAffinity: ClientIP`).
    pub client_ip_affinity: bool,
    /// The backends, each with its port.
    pub backends: Vec<SocketAddr>,
}

/// All services that workers translate, by address, protocol and port.
#[must_use]
pub fn service_list(store: &Store, compiled: &Compiled) -> Vec<ServiceEntry> {
    let services = &compiled.tables.services;
    let rows = services.iter().filter(|_| !services.left_to_kernel);
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable_by_key(|(at, _)| (shown(*at), *at));
    let ports =
        rows.into_iter().flat_map(|(at, row)| row.ports().iter().map(move |port| (at, port)));
    let ports = ports.filter(|(_, port)| !port.is_left_to_kernel());
    let entry = |(id, (at, port)): (usize, (ServiceAddress, &ServicePort))| {
        let name = compiled.catalog.service_of(at, port.protocol, port.port)?;
        let key: Name = (name.namespace.as_str().into(), name.name.as_str().into());
        Some(ServiceEntry {
            id: id + 1,
            namespace: name.namespace,
            name: name.name,
            address: shown(at),
            port: port.port,
            protocol: proto::name(port.protocol).into_owned(),
            service_type: store.service(&key).map_or("", |it| it.kind.name()).to_owned(),
            client_ip_affinity: matches!(port.affinity, Affinity::ClientIp { .. }),
            backends: port
                .backends
                .iter()
                .map(|backend| SocketAddr::new(backend.address().ip(), backend.port()))
                .collect(),
        })
    };
    ports.enumerate().filter_map(entry).collect()
}

/// The address of a row, in the list.
fn shown(at: ServiceAddress) -> IpAddr {
    match at {
        ServiceAddress::ClusterIp(address) | ServiceAddress::External(address) => address.ip(),
        ServiceAddress::Node { v4: true } => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ServiceAddress::Node { v4: false } => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The service that a query's destination is, if workers handle packets to it. `source` has
/// addresses of the calling end, and `transport` is the flow's protocol and port.
pub(super) fn called<'a>(
    query: &Query,
    transport: Transport,
    store: &Store,
    compiled: &'a Compiled,
    source: &[IpAddr],
) -> Result<Option<Callee<'a>>, QueryError> {
    let Transport { protocol, number: Some(number) } = transport else { return Ok(None) };
    let addresses = match &query.to {
        EndName::Pod { .. } => return Ok(None),
        EndName::Address(_) if !has_ports(protocol) => return Ok(None),
        EndName::Address(address) => vec![*address],
        EndName::Service { namespace, name, .. } => {
            find_service(namespace.as_deref(), name, store)?.1.cluster_ips.clone()
        }
    };
    let has_family = |ip: &&IpAddr| source.iter().any(|from| from.is_ipv4() == ip.is_ipv4());
    let mut usable: Vec<_> = addresses.iter().filter(has_family).collect();
    usable.sort_unstable_by_key(|address| address.is_ipv6());
    let Some(address) = usable.first() else { return Ok(None) };
    let address = Address::from(**address);
    let frontend = L4Addr { address, port: number };
    let Some((at, _)) = compiled.tables.find_service(frontend, protocol) else { return Ok(None) };
    let is_pod = |ip: &IpAddr| compiled.tables.is_pod(Address::from(*ip));
    if !matches!(at, ServiceAddress::ClusterIp(_)) && !source.iter().any(is_pod) {
        // The node translates packets of others.
        return Ok(None);
    }
    let (Some(service), Some(name)) = (
        compiled.tables.service(frontend, protocol),
        compiled.catalog.service_of(at, protocol, number),
    ) else {
        return Ok(None);
    };
    let name = name.to_string();
    let reason = match service {
        Ok(port) if !port.backends.is_empty() => {
            return Ok(Some(Callee::Translated(Called { frontend, protocol, name, port })));
        }
        Ok(port) if port.without_backends == WithoutBackends::Drop => format!(
            "Service {name} has no ready backend on this node for port {transport}, and its \
             internalTrafficPolicy is Local"
        ),
        Ok(_) => format!("Service {name} has no ready backend for port {transport}"),
        Err(NoPort) => {
            let has = |port: &ServicePort| format!("{}/{}", port.port, proto::name(port.protocol));
            let row = compiled.tables.services.at(ServiceAddress::ClusterIp(address));
            match row.map_or(&[][..], ServicePorts::ports) {
                [] => format!("Service {name} has no ports"),
                ports => {
                    let ports: Vec<_> = ports.iter().map(has).collect();
                    format!("Service {name} has no such port; it has {}", ports.join(", "))
                }
            }
        }
    };
    Ok(Some(Callee::Rejected { frontend, protocol, name, reason }))
}

impl Called<'_> {
    /// The flows that a flow to the service may be translated to.
    pub(super) fn subjects(&self, source: &[IpAddr]) -> Vec<Subject> {
        let Some(src) = source_for(self.frontend, source) else { return Vec::new() };
        let backends = self.port.backends.iter();
        let to = |backend: L4Addr| subject(src, backend, self.protocol);
        backends
            .map(|backend| to(L4Addr { address: backend.address(), port: backend.port() }))
            .collect()
    }
}

/// The flow to a service's address, before translation.
pub(super) fn untranslated(frontend: L4Addr, protocol: u8, source: &[IpAddr]) -> Option<Subject> {
    Some(subject(source_for(frontend, source)?, frontend, protocol))
}

/// The address of the calling end that packets to `frontend` have.
fn source_for(frontend: L4Addr, source: &[IpAddr]) -> Option<IpAddr> {
    source.iter().copied().find(|from| from.is_ipv4() == frontend.address.is_v4())
}

fn subject(src: IpAddr, to: L4Addr, protocol: u8) -> Subject {
    Subject {
        tuple: Tuple {
            src: Address::from(src),
            dst: to.address,
            src_port: super::resolve::SOURCE_PORT,
            dst_port: to.port,
            protocol,
        },
        icmp_type: 0,
    }
}
