//! Services: the destination of a query, its backends, and the list of all.

use std::net::{IpAddr, SocketAddr};

use podgate_tables::address::Address;
use podgate_tables::policy::Subject;
use podgate_tables::proto;
use podgate_tables::service::{Affinity, L4Addr, ServicePort};
use podgate_tables::tuple::Tuple;
use serde::{Deserialize, Serialize};

use super::query::{EndName, Query, Transport, has_ports};
use super::resolve::QueryError;
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
    /// Workers reject packets to it, for this reason.
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
    /// The cluster IP.
    pub address: IpAddr,
    /// The service's port.
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
    let mut rows: Vec<_> = compiled.tables.services.iter().collect();
    rows.sort_unstable_by_key(|(address, _)| address.ip());
    let ports = rows
        .into_iter()
        .flat_map(|(address, row)| row.ports().iter().map(move |port| (address.ip(), port)));
    let entry = |(id, (address, port)): (usize, (IpAddr, &ServicePort))| {
        let name = compiled.catalog.service_at(address)?;
        let key: Name = (name.namespace.as_str().into(), name.name.as_str().into());
        Some(ServiceEntry {
            id: id + 1,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            address,
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

/// The service that a query's destination is, if workers handle packets to it. `source` has
/// addresses of the calling end.
pub(super) fn called<'a>(
    query: &Query,
    store: &Store,
    compiled: &'a Compiled,
    source: &[IpAddr],
) -> Result<Option<Callee<'a>>, QueryError> {
    let (addresses, wanted) = match &query.to {
        EndName::Pod { .. } => return Ok(None),
        EndName::Address(address) => {
            let number = query.port.number.filter(|_| has_ports(query.port.protocol));
            let Some(number) = number else { return Ok(None) };
            (vec![*address], number.to_string())
        }
        EndName::Service { namespace, name, port } => {
            (cluster_ips(namespace.as_deref(), name, store)?, port.clone())
        }
    };
    let has_family = |ip: &&IpAddr| source.iter().any(|from| from.is_ipv4() == ip.is_ipv4());
    let mut usable: Vec<_> = addresses.iter().filter(has_family).collect();
    usable.sort_unstable_by_key(|address| address.is_ipv6());
    let Some(address) = usable.first() else { return Ok(None) };
    let address = Address::from(**address);
    let (Some(row), Some(name)) =
        (compiled.tables.services.at(address), compiled.catalog.service_at(address.ip()))
    else {
        return Ok(None);
    };
    let spec = store.service(&(name.namespace.as_str().into(), name.name.as_str().into()));
    let is_wanted = |port: &&ServicePort| {
        let named = spec.into_iter().flat_map(|spec| &spec.ports).any(|spec| {
            (spec.port, spec.protocol) == (port.port, port.protocol) && *spec.name == *wanted
        });
        named || port.port.to_string() == wanted
    };
    let mut fitting: Vec<_> = row.ports().iter().filter(is_wanted).collect();
    if matches!(query.to, EndName::Address(_)) {
        fitting.retain(|port| port.protocol == query.port.protocol);
    }
    let preferred = fitting.iter().find(|port| port.protocol == query.port.protocol);
    let name = name.to_string();
    let Some(port) = preferred.or(fitting.first()) else {
        let has = |port: &ServicePort| format!("{}/{}", port.port, proto::name(port.protocol));
        let ports: Vec<_> = row.ports().iter().map(has).collect();
        // Packets have a number: without one, nothing is sent.
        let Ok(port) = wanted.parse() else {
            return Err(QueryError::UnknownServicePort { service: name, port: wanted, ports });
        };
        let has = match ports.as_slice() {
            [] => "no ports".to_owned(),
            ports => format!("no such port; it has {}", ports.join(", ")),
        };
        return Ok(Some(Callee::Rejected {
            frontend: L4Addr { address, port },
            protocol: query.port.protocol,
            reason: format!("Service {name} has {has}"),
            name,
        }));
    };
    let (frontend, protocol) = (L4Addr { address, port: port.port }, port.protocol);
    Ok(Some(if port.backends.is_empty() {
        let transport = Transport { protocol, number: Some(port.port) };
        let reason = format!("Service {name} has no ready backend for port {transport}");
        Callee::Rejected { frontend, protocol, name, reason }
    } else {
        Callee::Translated(Called { frontend, protocol, name, port })
    }))
}

/// The addresses of a service.
pub(super) fn cluster_ips(
    namespace: Option<&str>,
    name: &str,
    store: &Store,
) -> Result<Vec<IpAddr>, QueryError> {
    let mut found: Vec<_> = store.services_called(namespace, name).collect();
    let asked = match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    match found.len() {
        0 => Err(QueryError::UnknownService { name: asked }),
        1 => {
            let (_, service) = found.remove(0);
            match service.cluster_ips.is_empty() {
                true => Err(QueryError::NoClusterIp { name: asked }),
                false => Ok(service.cluster_ips.clone()),
            }
        }
        _ => {
            let services = found.iter().map(|(name, _)| format!("{}/{}", name.0, name.1));
            Err(QueryError::AmbiguousService { name: asked, services: services.collect() })
        }
    }
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
