//! `toPorts` and `icmps` of Cilium policies (cilium `pkg/policy/api/{l4,icmp,rule_validation}.go`).

use podgate_dataplane::types::proto;
use serde_json::Value;

use super::cilium::RuleSection;
use super::http::HttpRules;
use super::ports::{PortMatch, PortNumbers, is_service_name, transport_by_name, with_end_port};
use crate::fields::{Field, Object, quote};

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
    /// `rules.http`: requests must match one of these. `None` is no restriction.
    pub http: Option<HttpRules>,
}

impl Ports {
    pub(super) fn parse(rule: &mut Object<'_>, section: RuleSection) -> Option<Self> {
        let (to_ports, icmps) = (rule.take("toPorts"), rule.take("icmps"));
        let to_ports = match &to_ports {
            Some(field) => field.list(|field| PortRule::parse(field, section))?,
            None => Vec::new(),
        };
        let Some(icmps) = icmps else {
            return Some(if to_ports.is_empty() { Self::All } else { Self::ToPorts(to_ports) });
        };
        let lists = icmps.list(parse_icmp_rule)?;
        match (to_ports.is_empty(), lists.is_empty()) {
            (true, true) => Some(Self::All),
            (false, true) => Some(Self::ToPorts(to_ports)),
            (true, false) => Some(Self::Icmps(lists.concat())),
            (false, false) => {
                icmps.refuse_with_fix("can't stand in one rule with toPorts", "write two rules");
                None
            }
        }
    }
}

impl PortRule {
    fn parse(field: &Field<'_>, section: RuleSection) -> Option<Self> {
        let mut object = field.object()?;
        let ports_field = object.take("ports");
        let rules = if section.is_deny() {
            object.refuse_fields(&[("rules", "deny rules know ports, but no L7 rules")]);
            None
        } else {
            object.refuse_fields(&[
                ("terminatingTLS", "TLS is not terminated"),
                ("originatingTLS", "TLS is not originated"),
                ("serverNames", "TLS server names are not enforced yet"),
                ("listener", "there is no proxy that a listener could stand for"),
            ]);
            object.take("rules")
        };
        object.finish();
        let ports = match &ports_field {
            Some(field) => {
                let ports = field.list(parse_port)?;
                if ports.len() > PORTS_MAX {
                    field.refuse(format!("has {} ports, at most {PORTS_MAX} fit", ports.len()));
                }
                ports.concat()
            }
            None => Vec::new(),
        };
        let http = match &rules {
            Some(rules) => parse_l7_rules(rules, section, &ports)?,
            None => None,
        };
        Some(Self { ports, http })
    }
}

/// Reads `rules`; the outer `None` is an error, the inner one no restriction.
#[expect(clippy::option_option, reason = "an error and no restriction are not the same")]
fn parse_l7_rules(
    field: &Field<'_>,
    section: RuleSection,
    ports: &[PortMatch],
) -> Option<Option<HttpRules>> {
    let mut rules = field.object()?;
    let http = rules.take("http");
    let others = ["kafka", "dns", "l7proto", "l7"].map(|name| (name, rules.take(name)));
    rules.finish();
    let mut protocols = usize::from(http.is_some());
    for (name, rule) in &others {
        let Some(rule) = rule else { continue };
        protocols += usize::from(*name != "l7");
        match *name {
            "dns" if section == RuleSection::Ingress => {
                rule.refuse("DNS rules belong into egress");
            }
            _ => rule.refuse(format!("{name} rules are not enforced yet")),
        }
    }
    if protocols > 1 {
        field.refuse_with_fix("names more than one L7 protocol", "write one element for each");
    }
    let Some(http_field) = http else { return Some(None) };
    let http = HttpRules::parse(&http_field)?;
    for port in ports {
        if port.protocol != proto::TCP {
            field.refuse_with_fix(
                "HTTP rules need TCP, but a port of this element has another protocol or ANY",
                "write protocol: TCP",
            );
            break;
        }
    }
    if ports.iter().any(|port| port.ports == PortNumbers::All) {
        field.refuse_with_fix("L7 rules can't stand with port 0", "list the ports");
    }
    Some(Some(http))
}

/// Protocols that have no ports, by their names in `toPorts[].ports[].protocol`, with their IANA
/// numbers.
const PORTLESS: &[(&str, u8)] =
    &[("VRRP", 112), ("IGMP", 2), ("GRE", 47), ("IPIP", 4), ("IPV6", 41), ("ESP", 50), ("AH", 51)];

fn parse_port(field: &Field<'_>) -> Option<Vec<PortMatch>> {
    let mut object = field.object()?;
    let (port, end) = (object.take("port"), object.take("endPort"));
    let protocol = object.take("protocol");
    object.finish();
    let Some(port_field) = port else {
        field.refuse_with_fix("has no port", "write \"0\" for all ports");
        return None;
    };
    let ports = parse_port_text(&port_field)?;
    // Cilium's own way to write "no range" is an endPort of zero.
    let end = end.filter(|end| end.value() != &Value::from(0));
    let ports = with_end_port(ports, end.as_ref())?;
    let name = match &protocol {
        Some(field) => field.string()?,
        None => "",
    };
    let protocols = match (name, &protocol) {
        ("" | "ANY", _) => vec![proto::TCP, proto::UDP, proto::SCTP],
        (name, Some(protocol_field)) => {
            let portless = PORTLESS.iter().find(|known| known.0 == name);
            match (transport_by_name(name), portless) {
                (Some(protocol), _) => vec![protocol],
                (None, Some((_, protocol))) => {
                    if ports != PortNumbers::All {
                        port_field.refuse_with_fix(format!("{name} has no ports"), "write \"0\"");
                    }
                    vec![*protocol]
                }
                (None, None) => {
                    protocol_field.refuse(format!(
                        "must be TCP, UDP, SCTP, ANY, VRRP, IGMP, GRE, IPIP, IPV6, ESP or AH, but \
                         is {}",
                        quote(name)
                    ));
                    return None;
                }
            }
        }
        (_, None) => Vec::new(),
    };
    Some(
        protocols
            .into_iter()
            .map(|protocol| PortMatch { protocol, ports: ports.clone() })
            .collect(),
    )
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
            field.refuse(format!("{} is no port number and no port name", quote(text)));
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
        list.refuse(format!("has {} elements, at most {PORTS_MAX} fit", fields.len()));
    }
    Some(fields)
}

fn parse_icmp_field(field: &Field<'_>) -> Option<PortMatch> {
    let mut object = field.object()?;
    let (family, kind) = (object.take("family"), object.take("type"));
    object.finish();
    let family = match &family {
        None => "IPv4",
        Some(field) => field.string()?,
    };
    let (protocol, names) = match family {
        "IPv4" | "" => (proto::ICMP, ICMP_TYPES),
        "IPv6" => (proto::ICMPV6, ICMPV6_TYPES),
        other => {
            field.refuse(format!("family must be IPv4 or IPv6, but is {}", quote(other)));
            return None;
        }
    };
    let Some(kind) = kind else {
        field.refuse("has no type");
        return None;
    };
    let number = match kind.value() {
        Value::String(text) => {
            let named = names.iter().find(|(name, _)| name == text).map(|known| known.1);
            let number = named.or_else(|| text.parse::<u8>().ok().map(u16::from));
            if number.is_none() {
                kind.refuse(format!("{} is no {family} message type", quote(text)));
            }
            number?
        }
        _ => kind.integer(0, u16::from(u8::MAX))?,
    };
    Some(PortMatch { protocol, ports: PortNumbers::Range(number..=number) })
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
