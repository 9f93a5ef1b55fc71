//! Tunnels that end at nodes: packets that a node's kernel would decapsulate, and so take what is
//! inside for traffic of its overlay network, whatever the inner addresses say.

use hashbrown::{HashMap, HashSet};

use crate::address::Address;
use crate::proto;
use crate::tuple::Tuple;

/// IP protocols that a node's kernel decapsulates, always refused: IPv4 in IP (RFC 2003), IPv6 in
/// IP (RFC 4213), GRE (RFC 2784), L2TPv3 over IP (RFC 3931), MPLS in IP (RFC 4023), Ethernet
/// in IPv6 (RFC 8986).
const PROTOCOLS: [u8; 6] = [4, 41, 47, 115, 137, 143];

/// UDP ports of overlay networks, always refused: VXLAN (RFC 7348), VXLAN-GPE, Linux's former VXLAN
/// port, Geneve (RFC 8926) and GUE (IANA "Service Name and Transport Protocol Port Number
/// Registry").
pub const WELL_KNOWN_PORTS: [u16; 5] = [4789, 4790, 8472, 6081, 6080];

/// What of a pod's packets a node would decapsulate.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tunnels {
    ports: Ports,
    local: Prefixes,
}

/// The UDP ports beside [`WELL_KNOWN_PORTS`] that tunnels of this node receive on.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ports {
    Known(HashSet<u16>),
    /// The kernel could not be asked, so it may be any port.
    Unknown,
}

impl Default for Ports {
    fn default() -> Self {
        Self::Known(HashSet::new())
    }
}

impl Tunnels {
    /// Tunnels on the UDP ports `ports`; every port, if they are not known. `local` are the
    /// prefixes that this node's kernel delivers to itself beside the addresses that policy knows
    /// as nodes'.
    #[must_use]
    pub fn new(ports: Option<&[u16]>, local: impl IntoIterator<Item = (Address, u8)>) -> Self {
        let ports = match ports {
            Some(ports) => Ports::Known(ports.iter().copied().collect()),
            None => Ports::Unknown,
        };
        Self { ports, local: local.into_iter().collect() }
    }

    /// Whether a packet from a flow's source would be decapsulated if its destination is a node.
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

/// A set of prefixes, by length: a lookup takes at most one step for each length that occurs. IPv4
/// ones are 96 bits longer, as [`Address`] stores them.
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

/// The first `length` of 128 bits, 0 to 128.
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
    fn ports_of_the_node_count_beside_the_well_known_ones_and_all_if_they_are_unknown() {
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
    fn an_address_is_local_by_a_prefix_of_its_family() {
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
