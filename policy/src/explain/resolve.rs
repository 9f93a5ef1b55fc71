//! Resolves the names in a query to the addresses that the tables are looked up by.

use std::net::IpAddr;

use podgate_tables::address::Address;
use podgate_tables::policy::Subject;
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

use super::query::{EndName, Query, Transport, has_ports};
use crate::directory::Name;
use crate::model::{Service, ServicePort};
use crate::{Catalog, PodName, Store};

/// Source port of the queried flow; policies don't depend on it.
pub(super) const SOURCE_PORT: u16 = 40_000;

/// Most names that an error proposes.
const PROPOSED_MAX: usize = 3;

/// Why a query has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueryError {
    /// No pod has this name.
    UnknownPod {
        /// What was asked for.
        name: String,
        /// Pods with a name like it, the most similar first.
        similar: Vec<PodName>,
        /// What to ask for in place of a service of that name, if there is one.
        service: Option<String>,
    },
    /// Several pods have this name.
    AmbiguousPod {
        /// What was asked for.
        name: String,
        /// The pods.
        pods: Vec<PodName>,
    },
    /// The pod has no address of its own.
    NoAddress {
        /// The pod.
        pod: PodName,
        /// Why, for people.
        reason: &'static str,
    },
    /// Another pod has the address by now.
    AddressTaken {
        /// The pod that was asked for.
        pod: PodName,
        /// Its address.
        address: IpAddr,
        /// Whose the address is; `None` if it is a node's.
        owner: Option<PodName>,
    },
    /// No service has this name.
    UnknownService {
        /// What was asked for.
        name: String,
    },
    /// Several services have this name.
    AmbiguousService {
        /// What was asked for.
        name: String,
        /// The services.
        services: Vec<String>,
    },
    /// The service has no cluster IP.
    NoClusterIp {
        /// The service.
        name: String,
    },
    /// The service has no port of this name.
    UnknownServicePort {
        /// The service.
        service: String,
        /// What was asked for.
        port: String,
        /// The ports that it has.
        ports: Vec<String>,
    },
    /// The query has no port, and its destination is no service's port.
    NoPort,
    /// The destination is a service's port, and the query has another port.
    PortConflict {
        /// The service's port, as it was asked for.
        to: EndName,
        /// Which port that is.
        is: Transport,
        /// The other port.
        port: Transport,
    },
    /// The source is a service.
    FromService,
    /// There is no IP version that both ends and the protocol have.
    NoCommonFamily,
}

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |pods: &[PodName]| {
            pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
        };
        match self {
            Self::UnknownPod { name, service: Some(service), .. } => {
                write!(f, "there is no pod {name}, but a Service: {service}")
            }
            Self::UnknownPod { name, similar, .. } if similar.is_empty() => {
                write!(f, "there is no pod {name}")
            }
            Self::UnknownPod { name, similar, .. } => {
                write!(f, "there is no pod {name}; is {} meant?", list(similar))
            }
            Self::AmbiguousPod { name, pods } => {
                write!(f, "several pods are called {name}: write {}", list(pods))
            }
            Self::NoAddress { pod, reason } => write!(f, "pod {pod} {reason}"),
            Self::AddressTaken { pod, address, owner } => {
                write!(f, "address {address} of pod {pod} belongs to ")?;
                match owner {
                    Some(owner) => write!(f, "pod {owner} by now"),
                    None => f.write_str("a node"),
                }
            }
            Self::UnknownService { name } => write!(f, "there is no Service {name}"),
            Self::AmbiguousService { name, services } => {
                write!(f, "several Services are called {name}: write {}", services.join(" or "))
            }
            Self::NoClusterIp { name } => write!(
                f,
                "Service {name} has no cluster IP (it is headless or of type ExternalName): ask \
                 for a pod behind it"
            ),
            Self::UnknownServicePort { service, port, ports } if ports.is_empty() => {
                write!(f, "Service {service} has no port {port}, and no others")
            }
            Self::UnknownServicePort { service, port, ports } => {
                write!(f, "Service {service} has no port {port}; it has {}", ports.join(", "))
            }
            Self::NoPort => f.write_str("give --port, such as --port 80/TCP"),
            Self::PortConflict { to, is, port } => write!(
                f,
                "--to {to} is port {is} of the Service, but --port is {port}: leave out --port, or \
                 give the same port"
            ),
            Self::FromService => {
                f.write_str("a Service opens no flows: ask for a pod as the source")
            }
            Self::NoCommonFamily => f.write_str(
                "the two ends and the protocol have no IP version in common (icmp is of IPv4, \
                 icmpv6 of IPv6)",
            ),
        }
    }
}

impl std::error::Error for QueryError {}

/// Protocol and port of a query's flow, before translation.
pub(super) fn transport(query: &Query, store: &Store) -> Result<Transport, QueryError> {
    let EndName::Service { namespace, name, port: wanted } = &query.to else {
        return query.port.ok_or(QueryError::NoPort);
    };
    let (service_name, service) = find_service(namespace.as_deref(), name, store)?;
    let mut ports: Vec<_> = service.ports.iter().collect();
    ports.sort_by_key(|port| (port.protocol, port.port));
    let to_transport =
        |port: &ServicePort| Transport { protocol: port.protocol, number: Some(port.port) };
    let number = wanted.parse().ok();
    let is_wanted = |port: &&&ServicePort| *port.name == **wanted || Some(port.port) == number;
    let fitting: Vec<_> = ports.iter().filter(is_wanted).map(|port| to_transport(port)).collect();
    let of_tcp = fitting.iter().find(|fits| fits.protocol == proto::TCP);
    // Packets have a number: without one, nothing is sent.
    let unknown = number.map(|number| Transport { protocol: proto::TCP, number: Some(number) });
    let unknown_port = || QueryError::UnknownServicePort {
        service: format!("{}/{}", service_name.0, service_name.1),
        port: wanted.clone(),
        ports: ports.iter().map(|port| to_transport(port).to_string()).collect(),
    };
    let Some(is) = of_tcp.or(fitting.first()).copied().or(unknown) else {
        return Err(unknown_port());
    };
    match query.port {
        None => Ok(is),
        Some(port) if fitting.contains(&port) => Ok(port),
        // Another protocol of the same number, which the service doesn't have.
        Some(port) if has_ports(port.protocol) && number.is_some() && port.number == number => {
            Ok(port)
        }
        Some(_) if fitting.is_empty() => Err(unknown_port()),
        Some(port) => Err(QueryError::PortConflict { to: query.to.clone(), is, port }),
    }
}

/// The flow of a query, whose protocol and port are `port`. Where there is a choice, it is over
/// IPv4.
pub(super) fn subject(
    query: &Query,
    port: Transport,
    store: &Store,
    catalog: &Catalog,
) -> Result<Subject, QueryError> {
    let sources = addresses(&query.from, store, catalog)?;
    let destinations = addresses(&query.to, store, catalog)?;
    let pair = |v4: bool| {
        let of_family = |list: &[IpAddr]| list.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let fits = match port {
            Transport { protocol: proto::ICMP, number: Some(_) } => v4,
            Transport { protocol: proto::ICMPV6, .. } => !v4,
            _ => true,
        };
        of_family(&sources).zip(of_family(&destinations)).filter(|_| fits)
    };
    let (src, dst) = pair(true).or_else(|| pair(false)).ok_or(QueryError::NoCommonFamily)?;
    Ok(of_addresses(src, dst, port))
}

fn of_addresses(src: IpAddr, dst: IpAddr, port: Transport) -> Subject {
    let protocol = match port {
        Transport { protocol: proto::ICMP, .. } if dst.is_ipv6() => proto::ICMPV6,
        Transport { protocol, .. } => protocol,
    };
    let echo_request = if dst.is_ipv6() { 128 } else { 8 };
    let (src_port, dst_port, icmp_type) = match (proto::is_icmp(protocol), port.number) {
        (true, Some(number)) => (0, 0, number as u8),
        (true, None) => (0, 0, echo_request),
        (false, Some(number)) => (SOURCE_PORT, number, 0),
        (false, None) => (0, 0, 0),
    };
    let (src, dst) = (Address::from(src), Address::from(dst));
    Subject { tuple: Tuple { src, dst, src_port, dst_port, protocol }, icmp_type }
}

pub(super) fn addresses(
    name: &EndName,
    store: &Store,
    catalog: &Catalog,
) -> Result<Vec<IpAddr>, QueryError> {
    let (namespace, name) = match name {
        EndName::Address(address) => return Ok(vec![*address]),
        EndName::Pod { namespace, name } => (namespace.as_deref(), name),
        EndName::Service { namespace, name, .. } => {
            let (_, service) = find_service(namespace.as_deref(), name, store)?;
            return Ok(service.cluster_ips.clone());
        }
    };
    let pod = find_pod(namespace, name, store)?;
    let Some(object) = store.pod(&pod.namespace, &pod.name) else {
        return Err(unknown(namespace, name, store));
    };
    let reason = if object.host_network {
        Some(
            "shares its node's network, so policies see the node and not the pod; ask for the \
              node's address",
        )
    } else if object.terminated {
        Some("has ended, so its addresses are not its own any more")
    } else if object.addresses().is_empty() {
        Some("has no address yet (status.podIPs)")
    } else {
        None
    };
    if let Some(reason) = reason {
        return Err(QueryError::NoAddress { pod, reason });
    }
    for address in object.addresses() {
        let owner = catalog.pod_at(*address).cloned();
        if owner.as_ref() != Some(&pod) {
            return Err(QueryError::AddressTaken { pod, address: *address, owner });
        }
    }
    Ok(object.addresses().to_vec())
}

/// The only service of this name, which has a cluster IP.
pub(super) fn find_service<'s>(
    namespace: Option<&str>,
    name: &str,
    store: &'s Store,
) -> Result<(&'s Name, &'s Service), QueryError> {
    let mut found: Vec<_> = store.services_called(namespace, name).collect();
    let asked = match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    match found.len() {
        0 => Err(QueryError::UnknownService { name: asked }),
        1 if found[0].1.cluster_ips.is_empty() => Err(QueryError::NoClusterIp { name: asked }),
        1 => Ok(found.remove(0)),
        _ => {
            let services = found.iter().map(|(name, _)| format!("{}/{}", name.0, name.1));
            Err(QueryError::AmbiguousService { name: asked, services: services.collect() })
        }
    }
}

fn find_pod(namespace: Option<&str>, name: &str, store: &Store) -> Result<PodName, QueryError> {
    if let Some(namespace) = namespace {
        return match store.pod(namespace, name) {
            Some(_) => Ok(PodName { namespace: namespace.into(), name: name.into() }),
            None => Err(unknown(Some(namespace), name, store)),
        };
    }
    let called = store.pods().map(|(pod, _)| pod).filter(|pod| *pod.name == *name);
    let mut called: Vec<PodName> = called.cloned().collect();
    match called.len() {
        0 => Err(unknown(None, name, store)),
        1 => Ok(called.remove(0)),
        _ => Err(QueryError::AmbiguousPod { name: name.to_owned(), pods: called }),
    }
}

fn unknown(namespace: Option<&str>, name: &str, store: &Store) -> QueryError {
    let asked = EndName::Pod { namespace: namespace.map(str::to_owned), name: name.to_owned() };
    let asked = asked.to_string();
    let text = |pod: &PodName| match namespace {
        Some(_) => pod.to_string(),
        None => pod.name.to_string(),
    };
    // Pods of a Deployment have its name and a suffix.
    let begins = |pod: &str| pod.strip_prefix(&asked).is_some_and(|rest| rest.starts_with('-'));
    let pods = || store.pods().map(|(pod, _)| (text(pod), pod));
    let mut similar: Vec<PodName> =
        pods().filter(|(text, _)| begins(text)).map(|(_, pod)| pod.clone()).collect();
    if similar.is_empty() {
        similar = most_similar(&asked, pods()).into_iter().cloned().collect();
    }
    similar.truncate(PROPOSED_MAX);
    let service = store.services_called(namespace, name).next().map(|(name, service)| {
        let mut instead: Vec<String> =
            service.cluster_ips.iter().map(|ip| format!("its cluster IP {ip}")).collect();
        let backends = store.behind(name, service).into_iter().take(PROPOSED_MAX);
        instead.extend(backends.map(|backend| format!("{backend} behind it")));
        match instead.is_empty() {
            true => "it has no known backend".to_owned(),
            false => format!("ask for {}", instead.join(" or ")),
        }
    });
    QueryError::UnknownPod { name: asked, similar, service }
}

/// The pods of a query: its first end that is one. The other end, if that is a pod too, is no
/// address of a node, so it need not be known which node this is.
#[must_use]
pub fn pods_in_question(query: &Query, store: &Store) -> Vec<PodName> {
    let pod = |end: &EndName| match end {
        EndName::Pod { namespace, name } => find_pod(namespace.as_deref(), name, store).ok(),
        EndName::Service { .. } => None,
        EndName::Address(address) => {
            let mut pods = store.pods();
            let found = pods.find(|(_, pod)| pod.addresses().contains(address));
            found.map(|(name, _)| name.clone())
        }
    };
    [&query.from, &query.to].into_iter().find_map(pod).into_iter().collect()
}

/// The things whose names are most like `asked`, a few at most, none that is quite different.
pub fn most_similar<T>(asked: &str, named: impl Iterator<Item = (String, T)>) -> Vec<T> {
    // A third of the name proper may be mistyped; its namespace adds nothing to that.
    let name = asked.rsplit('/').next().unwrap_or(asked);
    let limit = (name.len() / 3).max(1);
    let close = named.filter(|(name, _)| name.len().abs_diff(asked.len()) <= limit);
    let measured = close.map(|(name, thing)| (strsim::osa_distance(asked, &name), name, thing));
    let mut near: Vec<_> = measured.filter(|(distance, ..)| *distance <= limit).collect();
    near.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    near.into_iter().take(PROPOSED_MAX).map(|(_, _, thing)| thing).collect()
}
