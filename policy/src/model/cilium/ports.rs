//! `toPorts` and `icmps` of Cilium policies (cilium `pkg/policy/api/{l4,icmp,rule_validation}.go`).

use std::sync::Arc;

use podgate_tables::l7::L7Rules;
use podgate_tables::proto;
use serde_json::Value;

use super::RuleSection;
use super::l7::{ElementL7, parse_l7};
use crate::fields::{Field, Object, quote};
use crate::model::ports::{is_service_name, with_end_port};
use crate::rules::{PortMatch, PortNumbers};

/// Most elements of one `ports` and of one `icmps[].fields` list.
const PORTS_MAX: usize = 40;

/// What a Cilium rule says about ports.
#[derive(Clone, PartialEq, Debug)]
pub enum Ports {
    /// Neither `toPorts` nor `icmps`: every port of every protocol.
    All,
    /// `toPorts`: what any of these matches.
    ToPorts(Vec<PortRule>),
    /// `icmps`: protocol and message type of each field.
    Icmps(Vec<PortMatch>),
}

/// One element of `toPorts`.
#[derive(Clone, PartialEq, Debug)]
pub struct PortRule {
    /// Ports; ANY is one element for each protocol that it stands for. None matches nothing.
    pub ports: Vec<PortMatch>,
    /// `rules` or `serverNames`: requests must match one of these. `None` is no restriction.
    pub l7: Option<Arc<L7Rules>>,
}

impl Ports {
    pub(super) fn parse(rule: &mut Object<'_>, section: RuleSection) -> Option<Self> {
        let (to_ports, icmps) = (rule.take("toPorts"), rule.take("icmps"));
        let to_ports = match &to_ports {
            Some(field) => {
                let elements = field.list(|field| PortRule::parse(field, section));
                let elements = elements.unwrap_or_default();
                reject_two_protocols(field, &elements);
                elements
            }
            None => Vec::new(),
        };
        let Some(icmps) = icmps else {
            return Some(if to_ports.is_empty() { Self::All } else { Self::ToPorts(to_ports) });
        };
        let lists = icmps.list(parse_icmp_rule).unwrap_or_default();
        match (to_ports.is_empty(), lists.is_empty()) {
            (true, true) => Some(Self::All),
            (false, true) => Some(Self::ToPorts(to_ports)),
            (true, false) => Some(Self::Icmps(lists.concat())),
            (false, false) => {
                icmps.reject_with_fix(
                    "can't be combined with toPorts in one rule",
                    "write two rules, of which either may match",
                );
                None
            }
        }
    }
}

impl PortRule {
    fn parse(field: &Field<'_>, section: RuleSection) -> Option<Self> {
        let mut object = field.object()?;
        let before = field.problems();
        let ports = object.take("ports").and_then(|field| parse_ports(&field));
        let mut ports = ports.unwrap_or_default();
        if field.problems() > before {
            // Conflicts with L7 rules are reported once the ports are valid.
            ports = vec![PortMatch { protocol: proto::TCP, ports: PortNumbers::Range(1..=1) }];
        }
        let l7 = if section.is_deny() {
            object.reject_fields(&[("rules", "deny rules have ports, but no L7 rules")]);
            ElementL7::Unrestricted
        } else {
            object.reject_fields(&[
                ("terminatingTLS", "TLS is not terminated"),
                ("originatingTLS", "TLS is not originated"),
                ("listener", "there is no proxy to which a listener could belong"),
            ]);
            parse_l7(field, &mut object, section, &mut ports)
        };
        object.finish();
        match l7 {
            ElementL7::Unrestricted => Some(Self { ports, l7: None }),
            ElementL7::Rules(rules) => Some(Self { ports, l7: Some(Arc::new(rules)) }),
            ElementL7::Rejected => None,
        }
    }
}

/// A flow can't be inspected for two L7 protocols at once.
fn reject_two_protocols(field: &Field<'_>, elements: &[PortRule]) {
    for (index, element) in elements.iter().enumerate() {
        let Some(own) = &element.l7 else { continue };
        let before = elements[..index].iter().enumerate();
        let conflict = before.filter_map(|(other, before)| {
            let rules = before.l7.as_ref().filter(|rules| rules.protocol() != own.protocol())?;
            before.overlaps(element).then(|| (other, rules.protocol()))
        });
        for (other, protocol) in conflict.take(1) {
            field.reject_with_fix(
                format!(
                    "elements {other} and {index} have {protocol} and {} rules for one port",
                    own.protocol()
                ),
                "give each port rules of one protocol",
            );
        }
    }
}

impl PortRule {
    fn overlaps(&self, other: &Self) -> bool {
        let overlap = |a: &PortMatch, b: &PortMatch| {
            a.protocol == b.protocol
                && match (&a.ports, &b.ports) {
                    (PortNumbers::All, _) | (_, PortNumbers::All) => true,
                    (PortNumbers::Range(a), PortNumbers::Range(b)) => {
                        a.start() <= b.end() && b.start() <= a.end()
                    }
                    (PortNumbers::Named(a), PortNumbers::Named(b)) => a == b,
                    // A name may be any number. Such a conflict is found when a flow matches both.
                    _ => false,
                }
        };
        self.ports.iter().any(|a| other.ports.iter().any(|b| overlap(a, b)))
    }
}

/// The protocols of `ANY`.
const EVERY_TRANSPORT: &[u8] = &[proto::TCP, proto::UDP, proto::SCTP];

/// Protocols by their names in `toPorts[].ports[].protocol`, with their IANA numbers and whether
/// they have ports.
const PROTOCOLS: &[(&str, &[u8], bool)] = &[
    ("TCP", &[proto::TCP], true),
    ("UDP", &[proto::UDP], true),
    ("SCTP", &[proto::SCTP], true),
    ("VRRP", &[112], false),
    ("IGMP", &[2], false),
    ("GRE", &[47], false),
    ("IPIP", &[4], false),
    ("IPV6", &[41], false),
    ("ESP", &[50], false),
    ("AH", &[51], false),
];

fn parse_ports(field: &Field<'_>) -> Option<Vec<PortMatch>> {
    let ports = field.list(parse_port)?;
    if ports.len() > PORTS_MAX {
        field.reject(format!("has {} ports, at most {PORTS_MAX} fit", ports.len()));
    }
    Some(ports.concat())
}

fn parse_port(field: &Field<'_>) -> Option<Vec<PortMatch>> {
    let mut object = field.object()?;
    let (port, end) = (object.take("port"), object.take("endPort"));
    let protocol = object.take("protocol");
    object.finish();
    let protocol = protocol.map_or(Some((EVERY_TRANSPORT, true)), |field| parse_protocol(&field));
    let (protocols, has_ports) = protocol.unwrap_or((EVERY_TRANSPORT, true));
    // To Cilium, an empty string is no port.
    let port = port.filter(|port| port.value() != "");
    let ports = match &port {
        Some(port) => {
            let ports = parse_port_text(port);
            if !has_ports && ports.as_ref().is_some_and(|ports| *ports != PortNumbers::All) {
                port.reject_with_fix("the protocol has no ports", "write \"0\"");
            }
            ports
        }
        None if !has_ports => Some(PortNumbers::All),
        None => {
            field.reject_with_fix("has no port", "write \"0\" for all ports");
            None
        }
    };
    // Cilium's own way to write "no range" is an endPort of zero.
    let end = end.filter(|end| end.value() != &Value::from(0));
    let ports = with_end_port(ports, end.as_ref())?;
    let one = |protocol: &u8| PortMatch { protocol: *protocol, ports: ports.clone() };
    Some(protocols.iter().map(one).collect())
}

/// Reads a protocol: the numbers that it stands for, and whether it has ports.
fn parse_protocol(field: &Field<'_>) -> Option<(&'static [u8], bool)> {
    let name = field.string()?;
    if matches!(name, "" | "ANY") {
        return Some((EVERY_TRANSPORT, true));
    }
    let Some((_, number, has_ports)) = PROTOCOLS.iter().find(|known| known.0 == name) else {
        let names: Vec<&str> = PROTOCOLS.iter().map(|known| known.0).collect();
        field.reject(format!("must be ANY, {}, but is {}", names.join(", "), quote(name)));
        return None;
    };
    Some((number, *has_ports))
}

fn parse_port_text(field: &Field<'_>) -> Option<PortNumbers> {
    let text = field.string()?;
    if is_service_name(text) {
        return Some(PortNumbers::Named(text.to_ascii_lowercase()));
    }
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        // A leading zero would mean octal to Cilium.
        Ok(number) if is_decimal && (text == "0" || !text.starts_with('0')) => Some(match number {
            0 => PortNumbers::All,
            _ => PortNumbers::Range(number..=number),
        }),
        _ => {
            field.reject(format!("{} is neither a port number nor a port name", quote(text)));
            None
        }
    }
}

fn parse_icmp_rule(field: &Field<'_>) -> Option<Vec<PortMatch>> {
    let mut object = field.object()?;
    let fields = object.take("fields");
    object.finish();
    let Some(list) = fields else { return Some(Vec::new()) };
    let fields = list.list(parse_icmp_field)?;
    if fields.len() > PORTS_MAX {
        list.reject(format!("has {} elements, at most {PORTS_MAX} fit", fields.len()));
    }
    Some(fields)
}

fn parse_icmp_field(field: &Field<'_>) -> Option<PortMatch> {
    let mut object = field.object()?;
    let (family, kind) = (object.take("family"), object.take("type"));
    object.finish();
    let family = family.map_or(Some((proto::ICMP, ICMP_TYPES)), |family| parse_family(&family));
    let Some(kind) = kind else {
        field.reject("has no type");
        return None;
    };
    // Without a family, nothing is known of its types.
    let (protocol, names) = family?;
    let number = match kind.value() {
        Value::String(text) => {
            let named = names.iter().find(|(name, _)| name == text).map(|known| known.1);
            let number = named.or_else(|| text.parse::<u8>().ok().map(u16::from));
            if number.is_none() {
                kind.reject(format!("{} is not a message type of this family", quote(text)));
            }
            number?
        }
        _ => kind.integer(0, u16::from(u8::MAX))?,
    };
    Some(PortMatch { protocol, ports: PortNumbers::Range(number..=number) })
}

/// A family's protocol, and the names of its message types.
fn parse_family(field: &Field<'_>) -> Option<(u8, &'static [(&'static str, u16)])> {
    match field.string()? {
        "IPv6" => Some((proto::ICMPV6, ICMPV6_TYPES)),
        "IPv4" | "" => Some((proto::ICMP, ICMP_TYPES)),
        other => {
            field.reject(format!("must be IPv4 or IPv6, but is {}", quote(other)));
            None
        }
    }
}

/// Names of ICMP types (IANA "ICMP Type Numbers", as Cilium spells them).
const ICMP_TYPES: &[(&str, u16)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEcho", 42),
    ("ExtendedEchoReply", 43),
];

/// Names of ICMPv6 types (IANA "ICMPv6 type Numbers", as Cilium spells them).
const ICMPV6_TYPES: &[(&str, u16)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
