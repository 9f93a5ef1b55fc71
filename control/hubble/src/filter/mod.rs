//! Filters of flows: the fields of a `FlowFilter` must all match, and of each field one value.
//!
//! Values mean what they mean to Hubble's own server (cilium `pkg/hubble/filters`).

mod budget;
mod http;
mod labels;
mod names;

use std::net::IpAddr;

use ipnet::IpNet;

use self::budget::Budget;
use self::labels::LabelSelector;
use self::names::{NamePattern, NamespacedPrefix, NodePattern};
use crate::proto::flow::layer4::Protocol;
use crate::proto::flow::layer7::Record;
use crate::proto::flow::{
    Endpoint, Flow, FlowFilter, Layer4, NetworkInterface, Service, TcpFlags, Workload,
};

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
    /// For a value that can't be understood, or one too many: one line that names the field.
    pub(crate) fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, String> {
        let bytes = allow.iter().chain(deny).map(prost::Message::encoded_len).sum();
        let mut budget = Budget::new(allow.len() + deny.len(), bytes)?;
        let mut compile = |filters: &[FlowFilter]| -> Result<Vec<_>, String> {
            filters.iter().map(|filter| Filter::new(filter, &mut budget)).collect()
        };
        Ok(Self { allow: compile(allow)?, deny: compile(deny)? })
    }

    /// Checks the number of a request's filters, which [`Self::new`] does too.
    ///
    /// # Errors
    /// For too many.
    pub(crate) fn check_count(filters: usize) -> Result<(), String> {
        budget::check_count(filters)
    }

    /// Whether the client wants the flow.
    pub(crate) fn match_flow(&self, flow: &Flow) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(flow));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

impl Filter {
    fn new(filter: &FlowFilter, budget: &mut Budget) -> Result<Self, String> {
        let expressions = filter.experimental.iter().flat_map(|e| &e.cel_expression);
        if expressions.count() > 0 {
            return Err("cel_expression is not supported; use the other fields".to_owned());
        }
        let mut tests = Tests { tests: Vec::new(), budget };
        ends(filter, &mut tests)?;
        kinds(filter, &mut tests)?;
        layers(filter, &mut tests)?;
        http::tests(filter, &mut tests)?;
        Ok(Self(tests.tests))
    }

    fn matches(&self, flow: &Flow) -> bool {
        self.0.iter().all(|test| test(flow))
    }
}

/// Makes the tests of a filter, one for each field that has values.
struct Tests<'b> {
    tests: Vec<Test>,
    budget: &'b mut Budget,
}

impl Tests<'_> {
    /// Adds a field whose values are compared as they are.
    fn add<T: Clone + Send + Sync + 'static>(
        &mut self,
        field: &str,
        values: &[T],
        matches: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.budget.take_values(field, values.len())?;
        self.push(values.to_vec(), matches);
        Ok(())
    }

    /// Adds a field whose values are parsed.
    fn add_parsed<T: Send + Sync + 'static>(
        &mut self,
        field: &str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
        matches: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.budget.take_values(field, values.len())?;
        self.push(parse_all(field, values, parse)?, matches);
        Ok(())
    }

    /// Adds a field of label selectors; `labels` are those that a flow has.
    fn add_labels(
        &mut self,
        field: &str,
        values: &[String],
        labels: impl Fn(&Flow) -> Option<&[String]> + Send + Sync + 'static,
    ) -> Result<(), String> {
        let commas = values.iter().map(|value| value.matches(',').count()).sum();
        self.budget.take_values(field, commas)?;
        self.add_parsed(field, values, LabelSelector::parse, move |flow, selector| {
            labels(flow).is_some_and(|labels| selector.matches(labels))
        })
    }

    /// Adds a field of patterns of names.
    fn add_names<T: Send + Sync + 'static>(
        &mut self,
        field: &str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, String>,
        matches: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.budget.take_names(field, values.len())?;
        self.add_parsed(field, values, parse, matches)
    }

    /// Adds a field of regular expressions; `text` is what a flow has for them.
    fn add_patterns(
        &mut self,
        field: &str,
        values: &[String],
        text: impl Fn(&Flow) -> Option<&str> + Send + Sync + 'static,
    ) -> Result<(), String> {
        self.budget.take_values(field, values.len())?;
        self.budget.take_patterns(field, values)?;
        let patterns = parse_all(field, values, |text| self.budget.compile(text))?;
        self.push(patterns, move |flow, pattern| {
            text(flow).is_some_and(|text| pattern.is_match(text))
        });
        Ok(())
    }

    fn push<T: Send + Sync + 'static>(
        &mut self,
        values: Vec<T>,
        matches: impl Fn(&Flow, &T) -> bool + Send + Sync + 'static,
    ) {
        if !values.is_empty() {
            let test = move |flow: &Flow| values.iter().any(|value| matches(flow, value));
            self.tests.push(Box::new(test));
        }
    }
}

/// Parses all values of a field.
fn parse_all<T>(
    field: &str,
    values: &[String],
    mut parse: impl FnMut(&str) -> Result<T, String>,
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

fn ends(filter: &FlowFilter, tests: &mut Tests<'_>) -> Result<(), String> {
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
    let address = |flow: &Flow| flow.ip.as_ref().and_then(|ip| ip.source_xlated.parse().ok());
    tests.add_parsed("source_ip_xlated", &filter.source_ip_xlated, network, move |flow, network| {
        contains(*network, address(flow))
    })
}

fn end(end: &End<'_>, tests: &mut Tests<'_>) -> Result<(), String> {
    let field = |what: &str| format!("{}_{what}", end.name);
    let (endpoint, service, names) = (end.endpoint, end.service, end.names);
    let (address, port) = (end.address, end.port);

    tests.add_parsed(&field("ip"), end.ips, network, move |flow, network| {
        contains(*network, address(flow).parse().ok())
    })?;
    tests.add_parsed(&field("pod"), end.pods, NamespacedPrefix::parse, move |flow, pod| {
        endpoint(flow).is_some_and(|end| pod.matches(&end.namespace, &end.pod_name))
    })?;
    let parse = NamespacedPrefix::parse;
    tests.add_parsed(&field("service"), end.services, parse, move |flow, wanted| {
        service(flow).is_some_and(|service| wanted.matches(&service.namespace, &service.name))
    })?;
    tests.add_names(&field("fqdn"), end.fqdns, NamePattern::parse, move |flow, pattern| {
        names(flow).iter().any(|name| pattern.matches(name.trim_end_matches('.')))
    })?;
    tests.add_labels(&field("label"), end.labels, move |flow| {
        endpoint(flow).map(|end| &*end.labels)
    })?;
    let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    tests.add(&field("workload"), end.workloads, move |flow, wanted| {
        let mut workloads = endpoint(flow).into_iter().flat_map(|end| &end.workloads);
        workloads.any(|found| same(&wanted.name, &found.name) && same(&wanted.kind, &found.kind))
    })?;
    tests.add(&field("cluster_name"), end.clusters, move |flow, name| {
        endpoint(flow).is_some_and(|end| end.cluster_name == *name)
    })?;
    let parse = |text: &str| text.parse::<u16>().map_err(|_| "is not a port number".to_owned());
    tests.add_parsed(&field("port"), end.ports, parse, move |flow, wanted| {
        flow.l4.as_ref().and_then(port) == Some(u32::from(*wanted))
    })?;
    tests.add(&field("identity"), end.identities, move |flow, identity| {
        endpoint(flow).is_some_and(|end| end.identity == *identity)
    })
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
fn kinds(filter: &FlowFilter, tests: &mut Tests<'_>) -> Result<(), String> {
    tests.add("uuid", &filter.uuid, |flow, uuid| flow.uuid == *uuid)?;
    tests.add("verdict", &filter.verdict, |flow, verdict| flow.verdict == *verdict)?;
    tests.add("drop_reason_desc", &filter.drop_reason_desc, |flow, reason| {
        flow.drop_reason_desc == *reason
    })?;
    tests.add("traffic_direction", &filter.traffic_direction, |flow, direction| {
        flow.traffic_direction == *direction
    })?;
    tests.add("event_type", &filter.event_type, |flow, wanted| {
        flow.event_type.as_ref().is_some_and(|found| {
            (wanted.r#type == 0 || wanted.r#type == found.r#type)
                && (!wanted.match_sub_type || wanted.sub_type == found.sub_type)
        })
    })?;
    tests.add("reply", &filter.reply, |flow, reply| flow.is_reply == Some(*reply))?;
    tests.add_names("node_name", &filter.node_name, NodePattern::parse, |flow, pattern| {
        pattern.matches(&flow.node_name)
    })?;
    tests.add_labels("node_labels", &filter.node_labels, |flow| Some(&flow.node_labels))?;
    tests.add("interface", &filter.interface, |flow, wanted| {
        flow.interface.as_ref().is_some_and(|found| same_interface(wanted, found))
    })?;
    tests.add("trace_id", &filter.trace_id, |flow, id| {
        let parent = flow.trace_context.as_ref().and_then(|context| context.parent.as_ref());
        parent.is_some_and(|parent| parent.trace_id == *id)
    })
}

fn same_interface(wanted: &NetworkInterface, found: &NetworkInterface) -> bool {
    (wanted.index == 0 || wanted.index == found.index)
        && (wanted.name.is_empty() || wanted.name == found.name)
}

/// Fields about packets.
fn layers(filter: &FlowFilter, tests: &mut Tests<'_>) -> Result<(), String> {
    tests.add_parsed("protocol", &filter.protocol, protocol, |flow, matches| matches(flow))?;
    tests.add("tcp_flags", &filter.tcp_flags, |flow, wanted| match l4(flow) {
        Some(Protocol::Tcp(tcp)) => tcp.flags.as_ref().is_some_and(|found| has(found, wanted)),
        _ => false,
    })?;
    tests.add("ip_version", &filter.ip_version, |flow, version| {
        flow.ip.as_ref().is_some_and(|ip| ip.ip_version == *version)
    })?;
    tests.add("encrypted", &filter.encrypted, |flow, encrypted| {
        flow.ip.as_ref().is_some_and(|ip| ip.encrypted == *encrypted)
    })?;
    tests.add("ip_trace_id", &filter.ip_trace_id, |flow, id| {
        flow.ip_trace_id.as_ref().is_some_and(|found| found.trace_id == *id)
    })
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
