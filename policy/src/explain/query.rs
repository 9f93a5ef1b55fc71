//! The query: a flow, as a person names it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use podgate_tables::proto;
use serde::{Deserialize, Serialize};

use super::request::RequestSpec;

/// A flow, and perhaps a request on it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The end that opens the flow.
    pub from: EndName,
    /// The end that it is opened to.
    pub to: EndName,
    /// Protocol and port. It may be left out if [`Self::to`] is a service's port: then it is that
    /// port, of TCP if the service has several of that number or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Transport>,
    /// The request that is sent once the flow is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestSpec>,
    /// Most misses to list for each direction.
    pub misses_max: usize,
}

/// One end of a flow: `NAMESPACE/POD`, `POD` if only one namespace has it, an address, or for the
/// destination a service's port, `NAMESPACE/SERVICE:PORT`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "String")]
pub enum EndName {
    /// The owner of this address.
    Address(IpAddr),
    /// A pod.
    Pod {
        /// Its namespace; `None` if it may be any.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// A service.
    Service {
        /// Its namespace; `None` if it may be any.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// Number or name of its port.
        port: String,
    },
}

impl FromStr for EndName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let (text, port) = match text.split_once(':') {
            Some((text, port)) => (text, Some(port)),
            None => (text, None),
        };
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let is_name = |text: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            !text.is_empty() && text.bytes().all(|b| inner(b) || matches!(b, b'-' | b'.'))
        };
        let is_valid = namespace.is_none_or(is_name) && is_name(name) && port.is_none_or(is_name);
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        match port {
            _ if !is_valid => Err("write NAMESPACE/POD, NAMESPACE/SERVICE:PORT or an IP address"),
            Some(port) => Ok(Self::Service { namespace, name, port: port.to_owned() }),
            None => Ok(Self::Pod { namespace, name }),
        }
    }
}

impl fmt::Display for EndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod { namespace: Some(namespace), name } => write!(f, "{namespace}/{name}"),
            Self::Pod { namespace: None, name } => f.write_str(name),
            Self::Service { namespace: Some(namespace), name, port } => {
                write!(f, "{namespace}/{name}:{port}")
            }
            Self::Service { namespace: None, name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// A protocol, and a port of it or an ICMP type.
///
/// Written `80/TCP`, `80` (which is TCP), `icmp/8`, `icmp` (an echo request), `icmpv6/128`, `gre`,
/// or `proto/47`.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct Transport {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type. `None` for protocols without either, and for an ICMP echo
    /// request of the family that the addresses are of.
    pub number: Option<u16>,
}

const FORM: &str = "write PORT/TCP, PORT/UDP, PORT/SCTP, icmp/TYPE, icmpv6/TYPE or proto/NUMBER";

fn protocol_by_name(name: &str) -> Option<u8> {
    Some(match name.to_ascii_lowercase().as_str() {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "sctp" => proto::SCTP,
        "icmp" | "icmpv4" => proto::ICMP,
        "icmpv6" => proto::ICMPV6,
        "gre" => 47,
        "esp" => 50,
        _ => return None,
    })
}

pub(super) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP)
}

impl FromStr for Transport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((first, second)) = text.split_once('/') else {
            return match protocol_by_name(text) {
                Some(protocol) if has_ports(protocol) => {
                    Err("this protocol has ports: write PORT/PROTOCOL, such as 80/TCP")
                }
                Some(protocol) => Ok(Self { protocol, number: None }),
                // As where a policy names no protocol.
                None => {
                    let port = text.parse().map_err(|_| FORM)?;
                    Ok(Self { protocol: proto::TCP, number: Some(port) })
                }
            };
        };
        if let Some(number) = text.strip_prefix("proto/") {
            let protocol: u8 = number.parse().map_err(|_| FORM)?;
            let needs_more = has_ports(protocol) || proto::is_icmp(protocol);
            return if needs_more { Err(FORM) } else { Ok(Self { protocol, number: None }) };
        }
        // `80/TCP`, but `icmp/8`: whichever is the number.
        let (number, name) = match first.parse::<u16>() {
            Ok(number) => (number, second),
            Err(_) => (second.parse().map_err(|_| FORM)?, first),
        };
        let protocol = protocol_by_name(name).ok_or(FORM)?;
        let fits =
            has_ports(protocol) || (proto::is_icmp(protocol) && number <= u16::from(u8::MAX));
        if fits { Ok(Self { protocol, number: Some(number) }) } else { Err(FORM) }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = proto::name(self.protocol);
        match self.number {
            Some(number) if proto::is_icmp(self.protocol) => write!(f, "{name}/{number}"),
            Some(number) => write!(f, "{number}/{name}"),
            None if proto::is_icmp(self.protocol) => f.write_str(&name),
            None => write!(f, "proto/{name}"),
        }
    }
}

/// Conversions to and from text, for serde.
macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

as_text!(EndName);
as_text!(Transport);
