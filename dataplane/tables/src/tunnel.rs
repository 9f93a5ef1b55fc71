//! Tunnel packets that a node would decapsulate.
//!
//! A node's kernel treats what it decapsulates as traffic of its overlay network and trusts the
//! inner addresses. A pod that sends such a packet to a node could forge its source, so the workers
//! drop it: by IP protocol, by well-known UDP port, and by the ports on which this node's own
//! tunnel devices receive.

use hashbrown::{HashMap, HashSet};

use crate::address::Address;
use crate::proto;
use crate::tuple::Tuple;

/// IP protocols that a node's kernel decapsulates, always dropped: IPv4 in IP (RFC 2003), IPv6 in
/// IP (RFC 4213), GRE (RFC 2784), L2TPv3 over IP (RFC 3931), MPLS in IP (RFC 4023), Ethernet
/// in IPv6 (RFC 8986).
const PROTOCOLS: [u8; 6] = [4, 41, 47, 115, 137, 143];

/// UDP ports of overlay networks, always dropped: VXLAN (RFC 7348), VXLAN-GPE, Linux's former VXLAN
/// port, Geneve (RFC 8926) and GUE (IANA "Service Name and Transport Protocol Port Number
/// Registry").
pub const WELL_KNOWN_PORTS: [u16; 5] = [4789, 4790, 8472, 6081, 6080];

/// Which of a pod's packets a node would decapsulate.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tunnels {
    ports: Ports,
    local: Prefixes,
}

/// UDP ports on which tunnel devices of this node receive, in addition to [`WELL_KNOWN_PORTS`].
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ports {
    Known(HashSet<u16>),
    /// The kernel could not be queried: any port may be one.
    Unknown,
}

impl Default for Ports {
    fn default() -> Self {
        Self::Known(HashSet::new())
    }
}

impl Tunnels {
    /// Tunnels that receive on the UDP ports `ports`; on every port if `None`. `local` are the
    /// prefixes that this node's kernel delivers to itself, in addition to the node addresses that
    /// policy knows.
    #[must_use]
    pub fn new(ports: Option<&[u16]>, local: impl IntoIterator<Item = (Address, u8)>) -> Self {
        let ports = match ports {
            Some(ports) => Ports::Known(ports.iter().copied().collect()),
            None => Ports::Unknown,
        };
        Self { ports, local: local.into_iter().collect() }
    }

    /// Whether a packet of the original direction would be decapsulated if its destination is a
    /// node.
    #[must_use]
    #[inline]
    pub fn would_decapsulate(&self, tuple: &Tuple) -> bool {
        if tuple.protocol != proto::UDP {
            return PROTOCOLS.contains(&tuple.protocol);
        }
        WELL_KNOWN_PORTS.contains(&tuple.dst_port)
            || match &self.ports {
                Ports::Known(ports) => ports.contains(&tuple.dst_port),
                Ports::Unknown => true,
            }
    }

    /// Whether this node's kernel delivers packets for `address` to itself.
    #[must_use]
    #[inline]
    pub fn is_local(&self, address: Address) -> bool {
        self.local.contain(address)
    }
}

/// A set of prefixes by length, in bits: a lookup probes each length that occurs once. Lengths of
/// IPv4 prefixes are 96 bits larger, since [`Address`] stores IPv4-mapped addresses.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Prefixes(HashMap<u8, HashSet<u128>>);

impl Prefixes {
    fn contain(&self, address: Address) -> bool {
        self.0.iter().any(|(length, set)| set.contains(&(address.bits() & mask(*length))))
    }
}

impl FromIterator<(Address, u8)> for Prefixes {
    fn from_iter<T: IntoIterator<Item = (Address, u8)>>(prefixes: T) -> Self {
        let mut by_length: HashMap<u8, HashSet<u128>> = HashMap::new();
        for (address, length) in prefixes {
            let length = if address.is_v4() { length.min(32) + 96 } else { length.min(128) };
            by_length.entry(length).or_default().insert(address.bits() & mask(length));
        }
        Self(by_length)
    }
}

/// A netmask of `length` bits, 0 to 128.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(dst_port: u16) -> Tuple {
        let [src, dst] = [Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2])];
        Tuple { src, dst, src_port: 1, dst_port, protocol: proto::UDP }
    }

    #[test]
    fn well_known_ports_and_the_nodes_own_ports_are_tunnels_and_all_are_if_unknown() {
        let tunnels = Tunnels::new(Some(&[5555]), []);
        for port in [5555, 4789, 4790, 8472, 6081, 6080] {
            assert!(tunnels.would_decapsulate(&udp(port)), "{port}");
            assert!(!tunnels.would_decapsulate(&Tuple { protocol: proto::TCP, ..udp(port) }));
        }
        assert!(!tunnels.would_decapsulate(&udp(53)));
        assert!(Tunnels::new(None, []).would_decapsulate(&udp(53)));
        for protocol in [4, 41, 47, 115, 137, 143] {
            assert!(Tunnels::default().would_decapsulate(&Tuple { protocol, ..udp(0) }));
        }
    }

    #[test]
    fn an_address_is_local_if_a_prefix_of_its_family_contains_it() {
        let local = [
            (Address::v4([10, 1, 0, 0]), 16),
            (Address::v4([192, 0, 2, 255]), 32),
            (Address::from("fd00::".parse::<std::net::IpAddr>().unwrap()), 64),
        ];
        let tunnels = Tunnels::new(Some(&[]), local);
        let is_local =
            |text: &str| tunnels.is_local(Address::from(text.parse::<std::net::IpAddr>().unwrap()));
        assert!(is_local("10.1.2.3") && is_local("192.0.2.255") && is_local("fd00::7"));
        assert!(!is_local("10.2.0.0") && !is_local("192.0.2.254") && !is_local("fd00:0:0:1::"));
        let everything = Tunnels::new(Some(&[]), [(Address::v4([0; 4]), 0)]);
        assert!(everything.is_local(Address::v4([8, 8, 8, 8])));
        assert!(!everything.is_local(Address::v6([0xfd; 16])));
        assert!(!Tunnels::default().is_local(Address::v4([10, 1, 0, 0])));
    }
}
