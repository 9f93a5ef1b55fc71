//! Ports as policies write them.

use std::fmt;
use std::ops::RangeInclusive;

use podgate_tables::proto;

use crate::fields::{Field, quote};

/// Ports of one protocol.
#[derive(Clone, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PortMatch {
    /// IP protocol number.
    pub protocol: u8,
    /// Which of its ports.
    pub ports: PortNumbers,
}

/// `80/TCP`, `8000-8080/TCP`, `web/TCP`, `UDP` for all its ports, `ICMPv4/8` for a message type.
impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = proto::name(self.protocol);
        match &self.ports {
            PortNumbers::All => f.write_str(&protocol),
            PortNumbers::Range(range) if proto::is_icmp(self.protocol) => {
                write!(f, "{protocol}/{}", numbers(range))
            }
            PortNumbers::Range(range) => write!(f, "{}/{protocol}", numbers(range)),
            PortNumbers::Named(name) => write!(f, "{name}/{protocol}"),
        }
    }
}

fn numbers(range: &RangeInclusive<u16>) -> String {
    match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    }
}

/// Which ports of a protocol. For ICMP and ICMPv6 the numbers are message types.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum PortNumbers {
    /// Every port, and packets that have none.
    All,
    /// These numbers.
    Range(RangeInclusive<u16>),
    /// The ports that the destination pod's containers give this name.
    Named(String),
}

impl PartialOrd for PortNumbers {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PortNumbers {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let rank = |ports: &Self| match ports {
            Self::All => (0, 0, 0, String::new()),
            Self::Range(range) => (1, *range.start(), *range.end(), String::new()),
            Self::Named(name) => (2, 0, 0, name.clone()),
        };
        rank(self).cmp(&rank(other))
    }
}

/// Longest port name (RFC 6335 §5.1).
const NAME_MAX: usize = 15;

/// Whether `text` is a service name (RFC 6335 §5.1): letters, digits and single hyphens inside,
/// with at least one letter.
pub(super) fn is_service_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_alphabetic)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// Whether `text` is a name that a container's port can have.
pub(super) fn is_port_name(text: &str) -> bool {
    is_service_name(text) && !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// Adds an optional `endPort` to the port that it belongs to, if that could be read.
pub(super) fn with_end_port(
    ports: Option<PortNumbers>,
    end: Option<&Field<'_>>,
) -> Option<PortNumbers> {
    let Some(end) = end else { return ports };
    let last = end.integer(1, u16::MAX);
    match ports? {
        PortNumbers::Range(range) => {
            let last = last?;
            if last < *range.start() {
                end.refuse(format!("must not be less than the port, {}", range.start()));
                return None;
            }
            Some(PortNumbers::Range(*range.start()..=last))
        }
        PortNumbers::Named(name) => {
            end.refuse(format!("needs a port number, but the port is the name {}", quote(&name)));
            None
        }
        PortNumbers::All => {
            end.refuse_with_fix("needs a port number to begin at", "write a port from 1");
            None
        }
    }
}

/// Reads one of the three protocols that every policy kind knows.
pub(super) fn parse_transport(field: &Field<'_>) -> Option<u8> {
    match field.string()? {
        "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        "SCTP" => Some(proto::SCTP),
        other => {
            field.refuse(format!("must be TCP, UDP or SCTP, but is {}", quote(other)));
            None
        }
    }
}
