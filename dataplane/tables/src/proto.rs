//! IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the dataplane knows.

use std::borrow::Cow;

/// ICMP, RFC 792.
pub const ICMP: u8 = 1;
/// TCP, RFC 9293.
pub const TCP: u8 = 6;
/// UDP, RFC 768.
pub const UDP: u8 = 17;
/// ICMPv6, RFC 4443.
pub const ICMPV6: u8 = 58;
/// SCTP, RFC 9260.
pub const SCTP: u8 = 132;

/// Whether the protocol is ICMP or ICMPv6.
#[must_use]
#[inline]
pub const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMPV6)
}

/// Name of the protocol as Hubble prints it (cilium `api/v1/flow/flow.proto`, message `Layer4`), or
/// its number.
#[must_use]
pub fn name(protocol: u8) -> Cow<'static, str> {
    match protocol {
        TCP => "TCP".into(),
        UDP => "UDP".into(),
        SCTP => "SCTP".into(),
        ICMP => "ICMPv4".into(),
        ICMPV6 => "ICMPv6".into(),
        other => other.to_string().into(),
    }
}
