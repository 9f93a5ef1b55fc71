//! Ports that a rule matches.

use std::fmt;
use std::ops::RangeInclusive;

use podgate_tables::proto;

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
