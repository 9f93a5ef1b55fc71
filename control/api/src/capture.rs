//! Messages about captured packets.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use podgate_policy::PodName;
use serde::{Deserialize, Serialize};

/// Most pods of one capture.
pub const CAPTURE_PODS_MAX: usize = 16;

/// Most filters of one capture.
pub const CAPTURE_FILTERS_MAX: usize = 16;

/// Longest capture, seconds.
pub const CAPTURE_SECONDS_MAX: u32 = 3600;

/// Most bytes of one packet: the largest IP packet, after an Ethernet header.
pub const SNAP_LEN_MAX: u32 = 65_535 + 14;

/// What is captured, and how much.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Packets from and to these pods of the node.
    pub pods: Vec<PodName>,
    /// Those of them that match one of these; without any, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<PacketFilter>,
    /// Bytes of each packet.
    pub snap_len: u32,
    /// Copies of packets, at most.
    pub packets: u64,
    /// Bytes of all copies, at most.
    pub bytes: u64,
    /// Seconds, at most.
    pub seconds: u32,
}

impl CaptureRequest {
    /// Checks its bounds.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let pods = self.pods.len();
        if pods == 0 || pods > CAPTURE_PODS_MAX {
            return Err(format!("a capture is of 1 to {CAPTURE_PODS_MAX} pods, not {pods}"));
        }
        if self.filters.len() > CAPTURE_FILTERS_MAX {
            return Err(format!("a capture has at most {CAPTURE_FILTERS_MAX} filters"));
        }
        if !(1..=CAPTURE_SECONDS_MAX).contains(&self.seconds) {
            return Err(format!("a capture takes 1 to {CAPTURE_SECONDS_MAX} seconds"));
        }
        if !(64..=SNAP_LEN_MAX).contains(&self.snap_len) {
            return Err(format!("the snap length is 64 to {SNAP_LEN_MAX} bytes"));
        }
        Ok(())
    }
}

/// Which packets are captured: those that match all of what is set.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct PacketFilter {
    /// IP protocol number; that of ICMP stands for ICMPv6, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// L4 port of either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Address of either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Whether the packet was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<bool>,
}

/// Protocols with their names.
const PROTOCOLS: [(&str, u8); 4] = [("icmp", 1), ("tcp", 6), ("udp", 17), ("sctp", 132)];

/// Reads a protocol's name or number.
///
/// # Errors
/// When it is neither.
pub fn protocol_number(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    match named {
        Some((_, number)) => Ok(*number),
        None => text.parse().map_err(|_| {
            format!("{text} is not a protocol: tcp, udp, sctp, icmp, or a number up to 255")
        }),
    }
}

impl FromStr for PacketFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for part in text.split(',') {
            let Some((name, value)) = part.split_once('=') else {
                let hint = "protocol=tcp, port=80, ip=192.0.2.1, verdict=dropped";
                return Err(format!("{part} has no value; a filter has parts such as {hint}"));
            };
            let again = match name {
                "protocol" => filter.protocol.replace(protocol_number(value)?).is_some(),
                "port" => {
                    let port = value.parse().map_err(|_| format!("{value} is not a port"))?;
                    filter.port.replace(port).is_some()
                }
                "ip" => {
                    let address =
                        value.parse().map_err(|_| format!("{value} is not an address"))?;
                    filter.address.replace(address).is_some()
                }
                "verdict" => {
                    let dropped = match value.to_ascii_lowercase().as_str() {
                        "dropped" => true,
                        "forwarded" => false,
                        _ => return Err(format!("{value} is neither dropped nor forwarded")),
                    };
                    filter.dropped.replace(dropped).is_some()
                }
                _ => return Err(format!("{name} is none of protocol, port, ip, verdict")),
            };
            if again {
                return Err(format!("{name} is given twice; repeat the option for another filter"));
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for PacketFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |dropped| if dropped { "dropped" } else { "forwarded" };
        let parts = [
            self.protocol.map(|protocol| format!("protocol={protocol}")),
            self.port.map(|port| format!("port={port}")),
            self.address.map(|address| format!("ip={address}")),
            self.dropped.map(|dropped| format!("verdict={}", verdict(dropped))),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

/// One item of the answer to [`Request::Capture`](crate::Request::Capture).
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureItem {
    /// Packets are captured from here on.
    Started {},
    /// A packet.
    Packet(Box<PacketCopy>),
    /// The capture has ended; nothing follows.
    Ended {
        /// Why.
        reason: String,
        /// Packets that were lost, because they came faster than they were read.
        lost: u64,
    },
}

/// A copy of a packet.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PacketCopy {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Name of the link that it was received from or transmitted to.
    pub link: String,
    /// The link's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Whether it was received, before policy, or transmitted, after policy.
    pub side: CaptureSide,
    /// Verdict, reason and rules, in words.
    pub comment: String,
    /// Its length, bytes.
    pub len: u32,
    /// Its first bytes, in Base64.
    pub data: String,
    /// Packets that were lost so far.
    pub lost: u64,
}

/// Where a copy was made.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureSide {
    /// As the packet was received.
    Before,
    /// As it was transmitted.
    After,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_back_as_itself() {
        for text in ["protocol=6,port=80,ip=192.0.2.1,verdict=dropped", "verdict=forwarded"] {
            let filter: PacketFilter = text.parse().unwrap();
            assert_eq!(filter.to_string(), text);
        }
        let filter: PacketFilter = "protocol=TCP".parse().unwrap();
        assert_eq!(filter.protocol, Some(6));
    }

    #[test]
    fn a_wrong_filter_says_what_is_wrong() {
        let wrong = [
            ("port", "port has no value"),
            ("port=x", "x is not a port"),
            ("ip=x", "x is not an address"),
            ("port=1,port=2", "port is given twice"),
            ("verdict=audit", "audit is neither"),
            ("protocol=300", "300 is not a protocol"),
            ("host=a", "host is none of"),
        ];
        for (text, expected) in wrong {
            let error = text.parse::<PacketFilter>().unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_capture_is_bounded() {
        let pods = vec!["a/b".parse().unwrap()];
        let (filters, packets, bytes) = (Vec::new(), 1, 1);
        let good = CaptureRequest { pods, filters, snap_len: 64, packets, bytes, seconds: 1 };
        assert_eq!(good.check(), Ok(()));
        let none = CaptureRequest { pods: Vec::new(), ..good.clone() };
        let long = CaptureRequest { seconds: CAPTURE_SECONDS_MAX + 1, ..good.clone() };
        let large = CaptureRequest { snap_len: SNAP_LEN_MAX + 1, ..good.clone() };
        let many = CaptureRequest { filters: vec![PacketFilter::default(); 17], ..good };
        assert!([none, long, large, many].iter().all(|request| request.check().is_err()));
    }
}
