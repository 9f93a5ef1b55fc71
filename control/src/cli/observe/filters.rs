//! Filters of `podgate observe`, with the meaning that `hubble observe` gives them
//! (cilium `hubble/cmd/observe/flows_filter.go`).
//!
//! A filter about either end makes two: one of the source (left), one of the destination (right),
//! of which a flow must match one. `--not` inverts only the filter after it, so the order of the
//! arguments matters, and their positions are read from clap.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use podgate_hubble::json::filter_from_json;
use podgate_hubble::names::{event_type, reserved_identity, trace_point};
use podgate_hubble::proto::flow::{
    DropReason, EventTypeFilter, FlowFilter, HttpHeader, IpVersion, NetworkInterface, TcpFlags,
    TrafficDirection, Verdict, Workload,
};

/// A filter's flag.
struct Flag {
    name: &'static str,
    short: Option<char>,
    /// Name of its value; none for a flag without.
    value: Option<&'static str>,
    help: &'static str,
}

macro_rules! flags {
    ($($name:literal $(/ $short:literal)? $(= $value:literal)?: $help:literal,)+) => {
        &[$(Flag {
            name: $name,
            short: flags!(@optional $($short)?),
            value: flags!(@optional $($value)?),
            help: $help,
        },)+]
    };
    (@optional) => { None };
    (@optional $value:literal) => { Some($value) };
}

const FLAGS: &[Flag] = flags! {
    "not": "Invert the filter after it",
    "namespace" / 'n' = "NAME": "Either end is in this namespace",
    "from-namespace" = "NAME": "The source is in this namespace",
    "to-namespace" = "NAME": "The destination is in this namespace",
    "all-namespaces" / 'A': "Either end is a pod, in any namespace",
    "from-all-namespaces": "The source is a pod, in any namespace",
    "to-all-namespaces": "The destination is a pod, in any namespace",
    "pod" = "[NS/]PREFIX": "Either end is a pod with this prefix",
    "from-pod" = "[NS/]PREFIX": "The source is a pod with this prefix",
    "to-pod" = "[NS/]PREFIX": "The destination is a pod with this prefix",
    "label" / 'l' = "SELECTOR": "Either end has these labels: `a=b,c`, `reserved:world`",
    "from-label" = "SELECTOR": "The source has these labels",
    "to-label" = "SELECTOR": "The destination has these labels",
    "ip" = "ADDRESS": "Either end has this address, or one of this network",
    "from-ip" = "ADDRESS": "The source has this address",
    "to-ip" = "ADDRESS": "The destination has this address",
    "port" = "N": "Either port",
    "from-port" = "N": "The source port",
    "to-port" = "N": "The destination port",
    "service" = "[NS/]PREFIX": "Either end is a service with this prefix",
    "from-service" = "[NS/]PREFIX": "The source is a service with this prefix",
    "to-service" = "[NS/]PREFIX": "The destination is a service with this prefix",
    "workload" = "[KIND/]NAME": "Either end belongs to this workload, such as Deployment/web",
    "from-workload" = "[KIND/]NAME": "The source belongs to this workload",
    "to-workload" = "[KIND/]NAME": "The destination belongs to this workload",
    "identity" = "ID": "Either end has this identity: a number, or a reserved name such as world",
    "from-identity" = "ID": "The source has this identity",
    "to-identity" = "ID": "The destination has this identity",
    "fqdn" = "PATTERN": "Either end has such a DNS name: `*.example.org`",
    "from-fqdn" = "PATTERN": "The source has such a DNS name",
    "to-fqdn" = "PATTERN": "The destination has such a DNS name",
    "from-cluster" = "NAME": "The source is in this cluster",
    "to-cluster" = "NAME": "The destination is in this cluster",
    "cluster" = "NAME": "The node is in this cluster",
    "protocol" = "NAME": "L4 or L7 protocol: tcp, udp, sctp, icmp, icmpv4, icmpv6, http, dns, kafka",
    "verdict" = "VERDICT": "FORWARDED, DROPPED, REDIRECTED, AUDIT, ERROR, TRACED or TRANSLATED",
    "drop-reason-desc" = "REASON": "Why it was dropped: POLICY_DENIED, POLICY_DENY, …",
    "type" / 't' = "TYPE[:SUBTYPE]": "drop, trace[:to-endpoint, …], policy-verdict, l7, or numbers",
    "traffic-direction" = "DIRECTION": "ingress or egress",
    "http-method" = "METHOD": "HTTP method",
    "http-path" = "REGEX": "Path of HTTP requests",
    "http-url" = "REGEX": "URL of HTTP requests",
    "http-status" = "CODE": "HTTP status: 404, or 4+",
    "http-header" = "NAME:VALUE": "Header of HTTP requests",
    "tcp-flags" = "FLAGS": "All these TCP flags: `syn,ack`",
    "node-name" = "PATTERN": "The node: `node-*`, `cluster/node`",
    "node-label" = "SELECTOR": "The node has these labels",
    "interface" = "NAME": "The link that received it",
    "ip-version" = "VERSION": "v4, v6 or none",
    "ipv4" / '4': "IPv4 only",
    "ipv6" / '6': "IPv6 only",
    "snat-ip" = "ADDRESS": "The source address after translation",
    "uuid" = "ID": "The flow with this id",
};

/// Filters of `hubble observe` for fields that podgate's flows do not have, with the reason.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("trace-id", "podgate does not read trace headers of requests"),
    ("ip-trace-id", "podgate does not read trace ids in IP options"),
    ("encrypted", "podgate does not encrypt packets"),
    ("unencrypted", "podgate does not encrypt packets"),
    ("cel-expression", "combine the other filters, or use --allowlist and --denylist"),
];

/// Filters that can't be combined.
const CONFLICTS: [&[&str]; 19] = [
    &[
        "from-fqdn",
        "from-ip",
        "ip",
        "fqdn",
        "from-namespace",
        "namespace",
        "from-all-namespaces",
        "all-namespaces",
    ],
    &["from-fqdn", "from-ip", "ip", "fqdn", "from-pod", "pod"],
    &[
        "to-fqdn",
        "to-ip",
        "ip",
        "fqdn",
        "to-namespace",
        "namespace",
        "to-all-namespaces",
        "all-namespaces",
    ],
    &["to-fqdn", "to-ip", "ip", "fqdn", "to-pod", "pod"],
    &["to-pod", "namespace", "all-namespaces"],
    &["from-pod", "namespace", "all-namespaces"],
    &["to-service", "namespace", "all-namespaces"],
    &["from-service", "namespace", "all-namespaces"],
    &["label", "from-label"],
    &["label", "to-label"],
    &["service", "from-service"],
    &["service", "to-service"],
    &["port", "to-port"],
    &["port", "from-port"],
    &["identity", "to-identity"],
    &["identity", "from-identity"],
    &["workload", "to-workload"],
    &["workload", "from-workload"],
    &["node-name", "cluster"],
];

/// The filters of a command line, in its order, and those that are written as JSON.
#[derive(Clone, Debug, Default)]
pub struct FilterArgs {
    given: Vec<(&'static str, String)>,
    allowlist: Vec<String>,
    denylist: Vec<String>,
}

/// A list of filters: those of which a flow must match one, and those of which none.
pub(super) type Lists = (Vec<FlowFilter>, Vec<FlowFilter>);

impl Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("Filters");
        let command = FLAGS.iter().fold(command, |command, flag| {
            let mut arg =
                Arg::new(flag.name).long(flag.name).help(flag.help).action(ArgAction::Append);
            if let Some(short) = flag.short {
                arg = arg.short(short);
            }
            command.arg(match flag.value {
                Some(value) => arg.value_name(value),
                None => arg.num_args(0).default_missing_value(""),
            })
        });
        let command = UNSUPPORTED.iter().fold(command, |command, (name, _)| {
            let arg = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            command.arg(arg.num_args(0..=1).default_missing_value(""))
        });
        let json = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name("JSON").help(help).action(ArgAction::Append)
        };
        command
            .next_help_heading("Raw filters")
            .arg(json("allowlist", "Filters (FlowFilter) of which one must match"))
            .arg(json("denylist", "Filters (FlowFilter) of which none may match"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let names = FLAGS.iter().map(|flag| flag.name);
        let mut placed = Vec::new();
        for name in names.chain(UNSUPPORTED.iter().map(|(name, _)| *name)) {
            let places = matches.indices_of(name).into_iter().flatten();
            let values = matches.get_many::<String>(name).into_iter().flatten();
            placed.extend(places.zip(values).map(|(place, value)| (place, name, value.clone())));
        }
        placed.sort();
        let given = placed.into_iter().map(|(_, name, value)| (name, value)).collect();
        let json = |name| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
        Ok(Self { given, allowlist: json("allowlist"), denylist: json("denylist") })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Reads the options of `podgate observe` that filter flows.
///
/// # Errors
/// For options that are no filters, can't be combined, or can't be understood; one line.
pub fn read_filters(options: Vec<String>) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), String> {
    let command = Command::new("filter").no_binary_name(true).disable_help_flag(true);
    let first_line = |error: clap::Error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    };
    let command = FilterArgs::augment_args(command);
    let matches = command.try_get_matches_from(options).map_err(first_line)?;
    FilterArgs::from_arg_matches(&matches).map_err(first_line)?.lists()
}

impl FilterArgs {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.allowlist.is_empty() && self.denylist.is_empty()
    }

    /// The lists of a request.
    pub(super) fn lists(&self) -> Result<Lists, String> {
        let (mut allow, mut deny) = (Pair::default(), Pair::default());
        let mut inverted = false;
        for (name, value) in &self.given {
            match (*name, inverted) {
                ("not", true) => return Err("--not --not: a filter must follow --not".to_owned()),
                ("not", false) => inverted = true,
                (name, _) => {
                    let pair = if inverted { &mut deny } else { &mut allow };
                    pair.add(name, value)?;
                    inverted = false;
                }
            }
        }
        if inverted {
            return Err("--not at the end: a filter must follow it".to_owned());
        }
        let raw = |name: &str, texts: &[String]| {
            let filter = |text: &String| {
                filter_from_json(text).map_err(|error| format!("--{name} {text}: {error}"))
            };
            texts.iter().map(filter).collect::<Result<Vec<_>, _>>()
        };
        let allow = [allow.filters()?, raw("allowlist", &self.allowlist)?].concat();
        Ok((allow, [deny.filters()?, raw("denylist", &self.denylist)?].concat()))
    }
}

/// The end that a filter applies to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Either,
    From,
    To,
}

/// A field of filters with a list of values.
type Values<T> = fn(&mut FlowFilter) -> &mut Vec<T>;

/// Filters of which a flow must match one: of the source, and of the destination.
#[derive(Default)]
struct Pair {
    left: FlowFilter,
    right: FlowFilter,
    /// Namespaces of either end, of the source, and of the destination.
    namespaces: [Vec<String>; 3],
    given: Vec<&'static str>,
}

impl Pair {
    /// Adds a value to the field of both.
    fn both<T: Clone>(&mut self, value: T, field: Values<T>) {
        field(&mut self.left).push(value.clone());
        field(&mut self.right).push(value);
    }

    /// Adds a value to the fields of the end.
    fn end<T: Clone>(&mut self, side: Side, value: T, [source, destination]: [Values<T>; 2]) {
        match side {
            Side::Either => {
                source(&mut self.left).push(value.clone());
                destination(&mut self.right).push(value);
            }
            Side::From => self.both(value, source),
            Side::To => self.both(value, destination),
        }
    }

    /// Adds a filter of the command line.
    fn add(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        if let Some((_, reason)) = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == name)
        {
            return Err(format!("--{name} is not supported: {reason}"));
        }
        for conflicting in CONFLICTS.iter().filter(|group| group.contains(&name)) {
            let other = conflicting.iter().find(|o| **o != name && self.given.contains(o));
            if let Some(other) = other {
                return Err(format!("filters --{other} and --{name} cannot be combined"));
            }
        }
        self.given.push(name);
        let wrong = |why: String| format!("--{name} {value:?}: {why}");
        let (side, topic) = match (name.strip_prefix("from-"), name.strip_prefix("to-")) {
            (Some(topic), _) => (Side::From, topic),
            (_, Some(topic)) => (Side::To, topic),
            _ => (Side::Either, name),
        };
        match self.add_of_end(side, topic, value).map_err(wrong)? {
            Added::Yes => Ok(()),
            Added::OtherTopic => self.add_of_flow(name, value).map_err(wrong),
        }
    }

    fn add_of_end(&mut self, side: Side, topic: &str, value: &str) -> Result<Added, String> {
        let text = value.to_owned();
        match topic {
            "namespace" => self.namespaces[side as usize].push(text),
            "all-namespaces" => self.namespaces[side as usize].push(String::new()),
            "pod" => self.end(side, text, [|f| &mut f.source_pod, |f| &mut f.destination_pod]),
            "label" => {
                self.end(side, text, [|f| &mut f.source_label, |f| &mut f.destination_label]);
            }
            "ip" => self.end(side, text, [|f| &mut f.source_ip, |f| &mut f.destination_ip]),
            "port" => {
                let port: u16 = value.parse().map_err(|_| "is not a port from 0 to 65535")?;
                let port = port.to_string();
                self.end(side, port, [|f| &mut f.source_port, |f| &mut f.destination_port]);
            }
            "service" => {
                self.end(side, text, [|f| &mut f.source_service, |f| &mut f.destination_service]);
            }
            "fqdn" => self.end(side, text, [|f| &mut f.source_fqdn, |f| &mut f.destination_fqdn]),
            "workload" => self.end(
                side,
                workload(value),
                [|f| &mut f.source_workload, |f| &mut f.destination_workload],
            ),
            "identity" => self.end(
                side,
                identity(value)?,
                [|f| &mut f.source_identity, |f| &mut f.destination_identity],
            ),
            "cluster" if side == Side::Either => {
                self.both(format!("{value}/"), |f| &mut f.node_name);
            }
            "cluster" => self.end(
                side,
                text,
                [|f| &mut f.source_cluster_name, |f| &mut f.destination_cluster_name],
            ),
            _ => return Ok(Added::OtherTopic),
        }
        Ok(Added::Yes)
    }

    fn add_of_flow(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = value.to_owned();
        match name {
            "protocol" => self.both(text, |f| &mut f.protocol),
            "verdict" => {
                let verdict = Verdict::from_str_name(value).ok_or("is not a verdict")?;
                self.both(verdict.into(), |f| &mut f.verdict);
            }
            "drop-reason-desc" => {
                let reason = DropReason::from_str_name(value).ok_or("is not a drop reason")?;
                self.both(reason.into(), |f| &mut f.drop_reason_desc);
            }
            "type" => self.both(event_type_filter(value)?, |f| &mut f.event_type),
            "traffic-direction" => {
                let direction = match value.to_lowercase().as_str() {
                    "ingress" => TrafficDirection::Ingress,
                    "egress" => TrafficDirection::Egress,
                    _ => return Err("is neither ingress nor egress".to_owned()),
                };
                self.both(direction.into(), |f| &mut f.traffic_direction);
            }
            "http-method" => self.both(text, |f| &mut f.http_method),
            "http-path" => self.both(text, |f| &mut f.http_path),
            "http-url" => self.both(text, |f| &mut f.http_url),
            "http-status" => self.both(text, |f| &mut f.http_status_code),
            "http-header" => {
                let (key, value) = value.split_once(':').ok_or("is not NAME:VALUE")?;
                let header = HttpHeader { key: key.to_owned(), value: value.to_owned() };
                self.both(header, |f| &mut f.http_header);
            }
            "tcp-flags" => self.both(tcp_flags(value)?, |f| &mut f.tcp_flags),
            "node-name" => self.both(text, |f| &mut f.node_name),
            "node-label" => self.both(text, |f| &mut f.node_labels),
            "interface" => {
                self.both(NetworkInterface { index: 0, name: text }, |f| &mut f.interface);
            }
            "ip-version" => self.both(ip_version(value)?.into(), |f| &mut f.ip_version),
            "ipv4" => self.both(IpVersion::IPv4.into(), |f| &mut f.ip_version),
            "ipv6" => self.both(IpVersion::IPv6.into(), |f| &mut f.ip_version),
            "snat-ip" => self.both(text, |f| &mut f.source_ip_xlated),
            "uuid" => self.both(text, |f| &mut f.uuid),
            _ => return Err("is not a filter".to_owned()),
        }
        Ok(())
    }

    /// The filters; none if none was given.
    fn filters(mut self) -> Result<Vec<FlowFilter>, String> {
        if self.given.is_empty() {
            return Ok(Vec::new());
        }
        let [either, from, to] = std::mem::take(&mut self.namespaces);
        for filter in [&mut self.left, &mut self.right] {
            in_namespaces(&from, [&mut filter.source_pod, &mut filter.source_service])?;
            in_namespaces(&to, [&mut filter.destination_pod, &mut filter.destination_service])?;
        }
        let Self { left, right, .. } = &mut self;
        in_namespaces(&either, [&mut left.source_pod, &mut left.source_service])?;
        in_namespaces(&either, [&mut right.destination_pod, &mut right.destination_service])?;
        let Self { left, right, .. } = self;
        Ok(if left == right { vec![left] } else { vec![left, right] })
    }
}

/// Whether a filter applied to an end.
enum Added {
    Yes,
    OtherTopic,
}

/// Puts the pods and services of a filter into namespaces; a filter without any gets all pods of
/// the namespaces.
fn in_namespaces(
    namespaces: &[String],
    [pods, services]: [&mut Vec<String>; 2],
) -> Result<(), String> {
    if namespaces.is_empty() {
        return Ok(());
    }
    if pods.is_empty() && services.is_empty() {
        pods.push(String::new());
    }
    for names in [pods, services] {
        let mut placed = Vec::new();
        for name in names.drain(..) {
            match name.split_once('/') {
                Some((namespace, _)) if namespaces.iter().any(|wanted| wanted == namespace) => {
                    placed.push(name);
                }
                Some(_) => {
                    let wanted = namespaces.join(", ");
                    return Err(format!("namespace conflict: {name:?} is not in {wanted:?}"));
                }
                None => placed.extend(namespaces.iter().map(|space| format!("{space}/{name}"))),
            }
        }
        *names = placed;
    }
    Ok(())
}

fn workload(value: &str) -> Workload {
    let (kind, name) = value.split_once('/').unwrap_or(("", value));
    Workload { name: name.to_owned(), kind: kind.to_owned() }
}

fn identity(value: &str) -> Result<u32, String> {
    let name = value.strip_prefix("reserved:").unwrap_or(value);
    reserved_identity(name)
        .or_else(|| value.parse().ok())
        .ok_or_else(|| "is neither a number nor a reserved identity, such as world".to_owned())
}

fn event_type_filter(value: &str) -> Result<EventTypeFilter, String> {
    let (name, sub_name) = match value.split_once(':') {
        Some((name, sub_name)) => (name, Some(sub_name)),
        None => (value, None),
    };
    let number = |text: &str| text.parse::<u16>().ok().map(i32::from);
    let r#type = event_type(name).or_else(|| number(name));
    let r#type = r#type.ok_or("is not a type: drop, trace, policy-verdict, l7, or a number")?;
    let Some(sub_name) = sub_name else {
        return Ok(EventTypeFilter { r#type, ..EventTypeFilter::default() });
    };
    let named = trace_point(sub_name).filter(|_| Some(r#type) == event_type("trace"));
    let sub_type = named.or_else(|| number(sub_name)).ok_or("has no such subtype")?;
    Ok(EventTypeFilter { r#type, match_sub_type: true, sub_type })
}

fn tcp_flags(value: &str) -> Result<TcpFlags, String> {
    let mut flags = TcpFlags::default();
    for name in value.split(',') {
        let flag = match name.to_uppercase().as_str() {
            "FIN" => &mut flags.fin,
            "SYN" => &mut flags.syn,
            "RST" => &mut flags.rst,
            "PSH" => &mut flags.psh,
            "ACK" => &mut flags.ack,
            "URG" => &mut flags.urg,
            "ECE" => &mut flags.ece,
            "CWR" => &mut flags.cwr,
            "NS" => &mut flags.ns,
            _ => return Err(format!("{name:?} is no TCP flag")),
        };
        *flag = true;
    }
    Ok(flags)
}

fn ip_version(value: &str) -> Result<IpVersion, String> {
    match value.to_lowercase().as_str() {
        "4" | "v4" | "ipv4" | "ip4" => Ok(IpVersion::IPv4),
        "6" | "v6" | "ipv6" | "ip6" => Ok(IpVersion::IPv6),
        "none" => Ok(IpVersion::IpNotUsed),
        _ => Err("is none of v4, v6, none".to_owned()),
    }
}
