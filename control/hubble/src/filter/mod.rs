//! Filters of flows: the fields of a `FlowFilter` must all match, and of each field one value.
//!
//! Values mean what they mean to Hubble's own server (cilium `pkg/hubble/filters`).

mod http;
mod labels;
mod names;

use std::net::IpAddr;

use ipnet::IpNet;

use self::labels::LabelSelector;
use self::names::{NamespacedPrefix, fqdn_pattern, node_pattern};
use crate::proto::flow::layer4::Protocol;
use crate::proto::flow::layer7::Record;
use crate::proto::flow::{
    Endpoint, Flow, FlowFilter, Layer4, NetworkInterface, Service, TcpFlags, Workload,
};

/// Most filters of one request.
const FILTERS_MAX: usize = 256;
/// Most values of one filter, in all of its fields.
const VALUES_MAX: usize = 4096;

/// Condition of one field of a filter.
type Test = Box<dyn Fn(&Flow) -> bool + Send + Sync>;

/// Which flows a client wants: those of the allowlist, without those of the denylist.
pub(crate) struct Filters {
    allow: Vec<Filter>,
    deny: Vec<Filter>,
}

/// One filter.
struct Filter(Vec<Test>);

impl Filters {
    /// The filters of a request.
    ///
    /// # Errors
    /// For a value that can't be understood: one line that names the field.
    pub(crate) fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, String> {
        if allow.len() + deny.len() > FILTERS_MAX {
            return Err(format!("a request has at most {FILTERS_MAX} filters"));
        }
        let compile = |filters: &[FlowFilter]| -> Result<Vec<_>, String> {
            filters.iter().map(Filter::new).collect()
        };
        Ok(Self { allow: compile(allow)?, deny: compile(deny)? })
    }

    /// Whether the client wants the flow.
    pub(crate) fn match_flow(&self, flow: &Flow) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(flow));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

impl Filter {
    fn new(filter: &FlowFilter) -> Result<Self, String> {
        if prost::Message::encoded_len(filter) > 16 * VALUES_MAX {
            return Err(format!("a filter has at most {} bytes", 16 * VALUES_MAX));
        }
        let expressions = filter.experimental.iter().flat_map(|e| &e.cel_expression);
        if expressions.count() > 0 {
            return Err("cel_expression is not supported; use the other fields".to_owned());
        }
        let mut tests = Vec::new();
        ends(filter, &mut tests)?;
        kinds(filter, &mut tests)?;
        layers(filter, &mut tests)?;
        http::tests(filter, &mut tests)?;
        Ok(Self(tests))
    }

    fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|test| test(flow))
    }
}

/// Adds a test, if its field has values.
fn add<T: Send + Sync + 'static>(
    tests: &mut Vec<Test>,
    values: Vec<T>,
    matches: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
) {
    if !values.is_empty() {
        tests.push(Box::new(move |flow| values.iter().any(|value| matches(flow, value))));
    }
}

/// Parses all values of a field.
fn parse_all<T>(
    field: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let parse = |value: &String| parse(value).map_err(|why| format!("{field} {value:?}: {why}"));
    values.iter().map(parse).collect()
}

/// One end of a flow, and the fields of a filter that apply to it.
struct End<'f> {
    name: &'static str,
    endpoint: fn(&Flow) -> Option<&Endpoint>,
    service: fn(&Flow) -> Option<&Service>,
    address: fn(&Flow) -> &str,
    names: fn(&Flow) -> &[String],
    port: fn(&Layer4) -> Option<u32>,
    ips: &'f [String],
    pods: &'f [String],
    fqdns: &'f [String],
    labels: &'f [String],
    services: &'f [String],
    workloads: &'f [Workload],
    clusters: &'f [String],
    ports: &'f [String],
    identities: &'f [u32],
}

fn ends(filter: &FlowFilter, tests: &mut Vec<Test>) -> Result<(), String> {
    let source = End {
        name: "source",
        endpoint: |flow| flow.source.as_ref(),
        service: |flow| flow.source_service.as_ref(),
        address: |flow| flow.ip.as_ref().map_or("", |ip| &ip.source),
        names: |flow| &flow.source_names,
        port: |l4| ports(l4).map(|ports| ports[0]),
        ips: &filter.source_ip,
        pods: &filter.source_pod,
        fqdns: &filter.source_fqdn,
        labels: &filter.source_label,
        services: &filter.source_service,
        workloads: &filter.source_workload,
        clusters: &filter.source_cluster_name,
        ports: &filter.source_port,
        identities: &filter.source_identity,
    };
    let destination = End {
        name: "destination",
        endpoint: |flow| flow.destination.as_ref(),
        service: |flow| flow.destination_service.as_ref(),
        address: |flow| flow.ip.as_ref().map_or("", |ip| &ip.destination),
        names: |flow| &flow.destination_names,
        port: |l4| ports(l4).map(|ports| ports[1]),
        ips: &filter.destination_ip,
        pods: &filter.destination_pod,
        fqdns: &filter.destination_fqdn,
        labels: &filter.destination_label,
        services: &filter.destination_service,
        workloads: &filter.destination_workload,
        clusters: &filter.destination_cluster_name,
        ports: &filter.destination_port,
        identities: &filter.destination_identity,
    };
    end(&source, tests)?;
    end(&destination, tests)?;
    let translated = parse_all("source_ip_xlated", &filter.source_ip_xlated, network)?;
    let address = |flow: &Flow| flow.ip.as_ref().and_then(|ip| ip.source_xlated.parse().ok());
    add(tests, translated, move |flow, network| contains(*network, address(flow)));
    Ok(())
}

fn end(end: &End<'_>, tests: &mut Vec<Test>) -> Result<(), String> {
    let field = |what: &str| format!("{}_{what}", end.name);
    let (endpoint, service, names) = (end.endpoint, end.service, end.names);
    let (address, port) = (end.address, end.port);

    let networks = parse_all(&field("ip"), end.ips, network)?;
    add(tests, networks, move |flow, network| contains(*network, address(flow).parse().ok()));
    let pods = parse_all(&field("pod"), end.pods, NamespacedPrefix::parse)?;
    add(tests, pods, move |flow, pod| {
        endpoint(flow).is_some_and(|end| pod.matches(&end.namespace, &end.pod_name))
    });
    let services = parse_all(&field("service"), end.services, NamespacedPrefix::parse)?;
    add(tests, services, move |flow, wanted| {
        service(flow).is_some_and(|service| wanted.matches(&service.namespace, &service.name))
    });
    let patterns = parse_all(&field("fqdn"), end.fqdns, fqdn_pattern)?;
    add(tests, patterns, move |flow, pattern| {
        names(flow).iter().any(|name| pattern.is_match(name.trim_end_matches('.')))
    });
    let selectors = parse_all(&field("label"), end.labels, LabelSelector::parse)?;
    add(tests, selectors, move |flow, selector| {
        endpoint(flow).is_some_and(|end| selector.matches(&end.labels))
    });
    let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    add(tests, end.workloads.to_vec(), move |flow, wanted| {
        let mut workloads = endpoint(flow).into_iter().flat_map(|end| &end.workloads);
        workloads.any(|found| same(&wanted.name, &found.name) && same(&wanted.kind, &found.kind))
    });
    add(tests, end.clusters.to_vec(), move |flow, name| {
        endpoint(flow).is_some_and(|end| end.cluster_name == *name)
    });
    let wanted = parse_all(&field("port"), end.ports, |text| {
        text.parse::<u16>().map_err(|_| "is not a port number".to_owned())
    })?;
    add(tests, wanted, move |flow, wanted| {
        flow.l4.as_ref().and_then(port) == Some(u32::from(*wanted))
    });
    add(tests, end.identities.to_vec(), move |flow, identity| {
        endpoint(flow).is_some_and(|end| end.identity == *identity)
    });
    Ok(())
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "is not an address or network".to_owned())
}

fn contains(network: IpNet, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| network.contains(&address))
}

/// Source and destination port.
pub(crate) fn ports(l4: &Layer4) -> Option<[u32; 2]> {
    Some(match l4.protocol.as_ref()? {
        Protocol::Tcp(tcp) => [tcp.source_port, tcp.destination_port],
        Protocol::Udp(udp) => [udp.source_port, udp.destination_port],
        Protocol::Sctp(sctp) => [sctp.source_port, sctp.destination_port],
        _ => return None,
    })
}

/// Fields about what happened, and where.
fn kinds(filter: &FlowFilter, tests: &mut Vec<Test>) -> Result<(), String> {
    add(tests, filter.uuid.clone(), |flow, uuid| flow.uuid == *uuid);
    add(tests, filter.verdict.clone(), |flow, verdict| flow.verdict == *verdict);
    add(tests, filter.drop_reason_desc.clone(), |flow, reason| flow.drop_reason_desc == *reason);
    add(tests, filter.traffic_direction.clone(), |flow, direction| {
        flow.traffic_direction == *direction
    });
    add(tests, filter.event_type.clone(), |flow, wanted| {
        flow.event_type.as_ref().is_some_and(|found| {
            (wanted.r#type == 0 || wanted.r#type == found.r#type)
                && (!wanted.match_sub_type || wanted.sub_type == found.sub_type)
        })
    });
    add(tests, filter.reply.clone(), |flow, reply| flow.is_reply == Some(*reply));
    let nodes = parse_all("node_name", &filter.node_name, node_pattern)?;
    add(tests, nodes, |flow, pattern| match flow.node_name.contains('/') {
        true => pattern.is_match(&flow.node_name),
        // A node without a cluster is one of the default cluster.
        false => pattern.is_match(&format!("default/{}", flow.node_name)),
    });
    let selectors = parse_all("node_labels", &filter.node_labels, LabelSelector::parse)?;
    add(tests, selectors, |flow, selector| selector.matches(&flow.node_labels));
    add(tests, filter.interface.clone(), |flow, wanted| {
        flow.interface.as_ref().is_some_and(|found| same_interface(wanted, found))
    });
    add(tests, filter.trace_id.clone(), |flow, id| {
        let parent = flow.trace_context.as_ref().and_then(|context| context.parent.as_ref());
        parent.is_some_and(|parent| parent.trace_id == *id)
    });
    Ok(())
}

fn same_interface(wanted: &NetworkInterface, found: &NetworkInterface) -> bool {
    (wanted.index == 0 || wanted.index == found.index)
        && (wanted.name.is_empty() || wanted.name == found.name)
}

/// Fields about packets.
fn layers(filter: &FlowFilter, tests: &mut Vec<Test>) -> Result<(), String> {
    let protocols = parse_all("protocol", &filter.protocol, protocol)?;
    add(tests, protocols, |flow, matches| matches(flow));
    add(tests, filter.tcp_flags.clone(), |flow, wanted| match l4(flow) {
        Some(Protocol::Tcp(tcp)) => tcp.flags.as_ref().is_some_and(|found| has(found, wanted)),
        _ => false,
    });
    add(tests, filter.ip_version.clone(), |flow, version| {
        flow.ip.as_ref().is_some_and(|ip| ip.ip_version == *version)
    });
    add(tests, filter.encrypted.clone(), |flow, encrypted| {
        flow.ip.as_ref().is_some_and(|ip| ip.encrypted == *encrypted)
    });
    add(tests, filter.ip_trace_id.clone(), |flow, id| {
        flow.ip_trace_id.as_ref().is_some_and(|found| found.trace_id == *id)
    });
    Ok(())
}

fn l4(flow: &Flow) -> Option<&Protocol> {
    flow.l4.as_ref()?.protocol.as_ref()
}

fn l7(flow: &Flow) -> Option<&Record> {
    flow.l7.as_ref()?.record.as_ref()
}

/// Whether a flow is of the protocol with this name.
fn protocol(name: &str) -> Result<fn(&Flow) -> bool, String> {
    Ok(match name.to_lowercase().as_str() {
        "icmp" => |flow| matches!(l4(flow), Some(Protocol::IcmPv4(_) | Protocol::IcmPv6(_))),
        "icmpv4" => |flow| matches!(l4(flow), Some(Protocol::IcmPv4(_))),
        "icmpv6" => |flow| matches!(l4(flow), Some(Protocol::IcmPv6(_))),
        "tcp" => |flow| matches!(l4(flow), Some(Protocol::Tcp(_))),
        "udp" => |flow| matches!(l4(flow), Some(Protocol::Udp(_))),
        "sctp" => |flow| matches!(l4(flow), Some(Protocol::Sctp(_))),
        "vrrp" => |flow| matches!(l4(flow), Some(Protocol::Vrrp(_))),
        "igmp" => |flow| matches!(l4(flow), Some(Protocol::Igmp(_))),
        "dns" => |flow| matches!(l7(flow), Some(Record::Dns(_))),
        "http" => |flow| matches!(l7(flow), Some(Record::Http(_))),
        "kafka" => |flow| matches!(l7(flow), Some(Record::Kafka(_))),
        _ => return Err("is not a known protocol".to_owned()),
    })
}

/// Whether all flags of `wanted` are set.
fn has(found: &TcpFlags, wanted: &TcpFlags) -> bool {
    let pairs = [
        (wanted.fin, found.fin),
        (wanted.syn, found.syn),
        (wanted.rst, found.rst),
        (wanted.psh, found.psh),
        (wanted.ack, found.ack),
        (wanted.urg, found.urg),
        (wanted.ece, found.ece),
        (wanted.cwr, found.cwr),
        (wanted.ns, found.ns),
    ];
    pairs.iter().all(|(wanted, found)| !wanted || *found)
}

#[cfg(test)]
mod tests;
