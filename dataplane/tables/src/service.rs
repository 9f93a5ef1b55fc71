//! Compiled services: their addresses, the ports at each address, and the backends of each port.
//!
//! A worker translates a pod's packet to a service before policy decides on it, so policy sees the
//! backend. There are three kinds of addresses:
//! - A *cluster IP* belongs to one service. Packets to a port that the service lacks are rejected.
//! - An *external address*, of a load balancer or from `spec.externalIPs`, may belong to several
//!   services, and be a node's address, too. Packets to other ports are not translated.
//! - *Node ports* are ports of all addresses of the node. Packets to other ports are not
//!   translated.
//!
//! Which of them applies depends on whose address it is, see
//! [`PolicyTables::service`](crate::policy::PolicyTables::service).

use std::sync::Arc;

use crate::address::Address;
use crate::policy::AddressMap;
use crate::proto;

/// Backends of one port, at most.
pub const BACKENDS_MAX: usize = 16_384;
/// Ports of one service, at most: as many as an object of the API server can have.
pub const PORTS_MAX: usize = 4096;
/// Cluster IPs, at most.
pub const CLUSTER_IPS_MAX: usize = 131_072;
/// External addresses and the ports at them, counted together, at most.
pub const EXTERNAL_MAX: usize = 262_144;

/// An address and an L4 port: of a service, of a backend, or of one end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct L4Addr {
    /// Address.
    pub address: Address,
    /// Port, host byte order.
    pub port: u16,
}

/// A backend: an endpoint's address and target port, without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Backend {
    address: [u8; 16],
    port: u16,
}

const _: () = assert!(size_of::<Backend>() == 18);

impl Backend {
    /// A backend.
    #[must_use]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address: address.bits().to_be_bytes(), port }
    }

    /// Its address.
    #[must_use]
    #[inline]
    pub const fn address(&self) -> Address {
        Address::from_bits(u128::from_be_bytes(self.address))
    }

    /// Its port, host byte order.
    #[must_use]
    #[inline]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What a packet's destination is replaced by.
    #[must_use]
    #[inline]
    pub const fn target(&self) -> L4Addr {
        L4Addr { address: self.address(), port: self.port }
    }
}

/// How a new flow's backend is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Affinity {
    /// By the flow's tuple.
    #[default]
    None,
    /// By the client's address: a client gets the backend that it had last, as long as the port
    /// still has that backend (`sessionAffinity: ClientIP`).
    ClientIp {
        /// How long after a client's last flow, seconds.
        seconds: u32,
    },
}

/// What happens to packets while a port has no backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WithoutBackends {
    /// They are rejected: TCP is reset, others get an ICMP error.
    #[default]
    Reject,
    /// They are dropped: there are backends, but none on this node, and
    /// `internalTrafficPolicy: Local` requires one here.
    Drop,
    /// The node's kernel may translate them: which backends there are is not known. Policy decides
    /// on them as they are.
    LeaveToKernel,
}

/// One port of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Port, host byte order.
    pub port: u16,
    /// How backends are chosen.
    pub affinity: Affinity,
    /// What happens while there is no backend.
    pub without_backends: WithoutBackends,
    /// The backends, sorted, without duplicates.
    pub backends: Arc<[Backend]>,
}

/// The services' ports at one address, sorted by protocol and port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicePorts {
    ports: Arc<[ServicePort]>,
}

impl ServicePorts {
    /// Sorts the ports. Of several with one protocol and port the first stays.
    #[must_use]
    pub fn new(mut ports: Vec<ServicePort>) -> Self {
        ports.sort_by_key(|port| (port.protocol, port.port));
        ports.dedup_by_key(|port| (port.protocol, port.port));
        Self { ports: ports.into() }
    }

    /// The port of this protocol and number.
    #[must_use]
    pub fn port(&self, protocol: u8, port: u16) -> Option<&ServicePort> {
        let at = self.ports.binary_search_by_key(&(protocol, port), |p| (p.protocol, p.port));
        Some(&self.ports[at.ok()?])
    }

    /// All ports.
    #[must_use]
    pub fn ports(&self) -> &[ServicePort] {
        &self.ports
    }
}

/// Where pods reach services: a row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum ServiceAddress {
    /// A cluster IP.
    ClusterIp(Address),
    /// An address of a load balancer, or of `spec.externalIPs`.
    External(Address),
    /// All addresses of the node of one family; its ports are the node ports.
    Node {
        /// Whether the family is IPv4.
        v4: bool,
    },
}

/// A service has the packet's address, but not its port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPort;

/// All services. Copies are cheap: they share unchanged rows.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    cluster_ips: AddressMap<ServicePorts>,
    cluster_ips_count: usize,
    external: AddressMap<ServicePorts>,
    /// Ports of all rows of `external`, and one for each row.
    external_size: usize,
    /// For IPv4 and IPv6.
    node_ports: [Option<ServicePorts>; 2],
    /// Whether the node's kernel translates, and not workers.
    pub left_to_kernel: bool,
    /// Whether there are external addresses for which the table has no room, or services can't be
    /// read. Any address and port may be a service's then, also the node's.
    pub is_incomplete: bool,
}

/// There is no room for a row: see [`CLUSTER_IPS_MAX`] and [`EXTERNAL_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are too many addresses and ports of services")]
pub struct TooManyServices;

impl ServiceTable {
    /// The ports at an address.
    #[must_use]
    #[inline]
    pub fn at(&self, address: ServiceAddress) -> Option<&ServicePorts> {
        match address {
            ServiceAddress::ClusterIp(address) => self.cluster_ips.get(address),
            ServiceAddress::External(address) => self.external.get(address),
            ServiceAddress::Node { v4 } => self.node_ports[usize::from(!v4)].as_ref(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cluster_ips_count == 0
            && self.external_size == 0
            && self.node_ports[0].is_none()
            && self.node_ports[1].is_none()
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceAddress, &ServicePorts)> {
        let cluster_ips = self.cluster_ips.iter();
        let external = self.external.iter();
        let node_ports = [true, false].into_iter().filter_map(|v4| {
            let at = ServiceAddress::Node { v4 };
            Some((at, self.at(at)?))
        });
        cluster_ips
            .map(|(address, row)| (ServiceAddress::ClusterIp(address), row))
            .chain(external.map(|(address, row)| (ServiceAddress::External(address), row)))
            .chain(node_ports)
    }

    /// What the row of an external address counts.
    fn size_at(&self, address: Address) -> usize {
        self.external.get(address).map_or(0, |row| 1 + row.ports.len())
    }

    /// Whether there is room for a row with this number of ports at an address.
    #[must_use]
    pub fn has_room(&self, address: ServiceAddress, ports: usize) -> bool {
        match address {
            ServiceAddress::ClusterIp(address) => {
                self.cluster_ips_count < CLUSTER_IPS_MAX || self.cluster_ips.get(address).is_some()
            }
            ServiceAddress::External(address) => {
                self.external_size - self.size_at(address) + 1 + ports <= EXTERNAL_MAX
            }
            ServiceAddress::Node { .. } => true,
        }
    }

    /// Sets a row, or removes it if `row` is `None`. Returns whether that changed it.
    ///
    /// # Errors
    /// When there is no room; the table is unchanged.
    pub fn set(
        &mut self,
        address: ServiceAddress,
        row: Option<ServicePorts>,
    ) -> Result<bool, TooManyServices> {
        let ports = row.as_ref().map(|row| row.ports.len());
        if ports.is_some_and(|ports| !self.has_room(address, ports)) {
            return Err(TooManyServices);
        }
        match address {
            ServiceAddress::ClusterIp(at) => {
                let before = self.cluster_ips.get(at).is_some();
                self.cluster_ips_count =
                    self.cluster_ips_count + usize::from(row.is_some()) - usize::from(before);
                Ok(self.cluster_ips.set(at, row))
            }
            ServiceAddress::External(at) => {
                let after = ports.map_or(0, |ports| 1 + ports);
                self.external_size = self.external_size - self.size_at(at) + after;
                Ok(self.external.set(at, row))
            }
            ServiceAddress::Node { v4 } => {
                let changed = self.at(address) != row.as_ref();
                self.node_ports[usize::from(!v4)] = row;
                Ok(changed)
            }
        }
    }
}

/// Whether packets of this protocol are translated.
#[must_use]
#[inline]
pub const fn is_translated(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP)
}

/// Chooses among backends. The choice depends only on the arguments, so every worker makes the same
/// one, also after a restart of the agent: a choice that was lost is made again.
impl ServicePort {
    /// Whether workers don't translate packets to it.
    #[must_use]
    #[inline]
    pub fn is_left_to_kernel(&self) -> bool {
        self.without_backends == WithoutBackends::LeaveToKernel && self.backends.is_empty()
    }

    /// Whether this is one of the backends.
    #[must_use]
    pub fn has(&self, backend: L4Addr) -> bool {
        self.backends.binary_search(&Backend::new(backend.address, backend.port)).is_ok()
    }

    /// The backend for a client with this address and port, which had none before; `None` if there
    /// is none.
    ///
    /// With affinity it is the one with the highest hash of client and backend (rendezvous
    /// hashing): when backends come and go, only clients of those change. Without affinity, the
    /// hash of client and port chooses up to [`CANDIDATES`] backends; it is the first of them that
    /// is `preferred`, or else the first.
    #[must_use]
    pub fn choose(&self, client: L4Addr, preferred: impl Fn(L4Addr) -> bool) -> Option<L4Addr> {
        let address = client.address.bits();
        let of_client = mix(address as u64 ^ mix((address >> 64) as u64));
        if matches!(self.affinity, Affinity::ClientIp { .. }) {
            let weight = |backend: &&Backend| {
                let bits = backend.address().bits();
                let of_backend =
                    mix(bits as u64 ^ mix((bits >> 64) as u64 ^ u64::from(backend.port)));
                (mix(of_client ^ of_backend.rotate_left(17)), **backend)
            };
            return self.backends.iter().max_by_key(weight).map(Backend::target);
        }
        let mut hash = mix(of_client ^ u64::from(client.port));
        let mut first = None;
        for _ in 0..CANDIDATES.min(self.backends.len()) {
            let at = (u128::from(hash) * self.backends.len() as u128) >> 64;
            let candidate = self.backends[at as usize].target();
            if preferred(candidate) {
                return Some(candidate);
            }
            first = first.or(Some(candidate));
            hash = mix(hash);
        }
        first
    }
}

/// Backends that are tried for one that is preferred, at most.
pub const CANDIDATES: usize = 8;

/// The finalizer of splitmix64: each bit of the input changes each bit of the output with about
/// even odds.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn port(affinity: Affinity, backends: impl IntoIterator<Item = u8>) -> ServicePort {
        let mut backends: Vec<_> = backends
            .into_iter()
            .map(|last| Backend::new(Address::v4([10, 0, 0, last]), 8080))
            .collect();
        backends.sort_unstable();
        backends.dedup();
        ServicePort {
            protocol: proto::TCP,
            port: 80,
            affinity,
            without_backends: WithoutBackends::Reject,
            backends: backends.into(),
        }
    }

    fn client(number: u32) -> L4Addr {
        L4Addr { address: Address::v4((0x0a01_0000 + number).to_be_bytes()), port: 40_000 }
    }

    const AFFINITY: Affinity = Affinity::ClientIp { seconds: 10_800 };
    const ANY: fn(L4Addr) -> bool = |_| true;

    #[test]
    fn without_backends_there_is_no_choice() {
        for affinity in [Affinity::None, AFFINITY] {
            assert_eq!(port(affinity, []).choose(client(1), ANY), None);
        }
    }

    /// Of 10,000 clients, or ports of one client, each of ten backends has a thousand, give or take
    /// six standard deviations.
    #[test]
    fn clients_are_spread_evenly() {
        let by_port = |number: u32| L4Addr { port: number as u16, ..client(1) };
        let of: [(_, &dyn Fn(u32) -> L4Addr); 3] =
            [(AFFINITY, &client), (Affinity::None, &client), (Affinity::None, &by_port)];
        for (affinity, client) in of {
            let port = port(affinity, 1..=10);
            let mut counts: HashMap<L4Addr, u32> = HashMap::new();
            for number in 0..10_000 {
                *counts.entry(port.choose(client(number), ANY).unwrap()).or_default() += 1;
            }
            assert_eq!(counts.len(), 10);
            assert!(counts.values().all(|count| (820..1180).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn a_preferred_backend_is_chosen_if_it_is_among_the_candidates() {
        let port = port(Affinity::None, 1..=4);
        let odd = |backend: L4Addr| backend.address.bits() % 2 == 1;
        let chosen: Vec<_> = (0..1000).map(|n| port.choose(client(n), odd).unwrap()).collect();
        let preferred = chosen.iter().filter(|backend| odd(**backend)).count();
        // Four candidates, each with an odd number with probability 1/2.
        assert!(preferred > 880, "{preferred}");
        assert_eq!(chosen.into_iter().collect::<HashSet<_>>().len(), 4);
    }

    proptest! {
        /// A client whose backend stays has it after others come and go.
        #[test]
        fn affinity_outlives_other_backends(
            stay in prop::collection::btree_set(1..100_u8, 1..10),
            gone in prop::collection::btree_set(100..200_u8, 0..10),
            number in 0..5000_u32,
        ) {
            let before = port(AFFINITY, stay.iter().chain(&gone).copied());
            let after = port(AFFINITY, stay.iter().copied());
            let chosen = before.choose(client(number), ANY).unwrap();
            if after.has(chosen) {
                prop_assert_eq!(after.choose(client(number), ANY), Some(chosen));
            }
            let other_port = L4Addr { port: 1, ..client(number) };
            prop_assert_eq!(before.choose(other_port, |_| false), Some(chosen));
        }

        #[test]
        fn a_table_behaves_like_a_map(
            steps in prop::collection::vec((0..20_u8, prop::option::of(1..5_u16)), 0..100),
        ) {
            let mut table = ServiceTable::default();
            let mut model: HashMap<ServiceAddress, ServicePorts> = HashMap::new();
            let address = |last: u8| match (last, Address::v4([10, 96, 0, last / 2])) {
                (0 | 1, _) => ServiceAddress::Node { v4: last == 0 },
                (_, address) if last.is_multiple_of(2) => ServiceAddress::ClusterIp(address),
                (_, address) => ServiceAddress::External(address),
            };
            for (last, number) in steps {
                let at = address(last);
                let row = number.map(|number| {
                    let port = ServicePort { port: number, ..port(Affinity::None, [1]) };
                    ServicePorts::new(vec![port])
                });
                let changed = model.get(&at) != row.as_ref();
                prop_assert_eq!(table.set(at, row.clone()), Ok(changed));
                match row {
                    Some(row) => drop(model.insert(at, row)),
                    None => drop(model.remove(&at)),
                }
                prop_assert_eq!(table.is_empty(), model.is_empty());
                for last in 0..20 {
                    prop_assert_eq!(table.at(address(last)), model.get(&address(last)));
                }
                let rows: HashMap<_, _> = table.iter().map(|(at, row)| (at, row.clone())).collect();
                prop_assert_eq!(&rows, &model);
            }
        }
    }

    /// Addresses without ports count, too; an external one that grows beyond the room is refused.
    #[test]
    fn external_addresses_and_their_ports_are_bounded() {
        let row = |ports: u16| {
            let ports =
                (1..=ports).map(|port| ServicePort { port, ..self::port(Affinity::None, []) });
            Some(ServicePorts::new(ports.collect()))
        };
        let address = |number: u32| ServiceAddress::External(Address::v4(number.to_be_bytes()));
        let mut table = ServiceTable::default();
        let full = (EXTERNAL_MAX / 4096) as u32;
        for number in 0..full {
            assert_eq!(table.set(address(number), row(4095)), Ok(true));
        }
        assert_eq!(table.set(address(full), row(1)), Err(TooManyServices));
        assert_eq!(table.set(address(0), row(4096)), Err(TooManyServices));
        assert_eq!(table.at(address(0)), row(4095).as_ref());
        assert_eq!(table.set(address(0), row(4093)), Ok(true));
        assert_eq!(table.set(address(full), row(1)), Ok(true));
        for number in 0..=full {
            assert_eq!(table.set(address(number), None), Ok(true));
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_port_is_found_by_protocol_and_number() {
        let udp = ServicePort { protocol: proto::UDP, ..port(Affinity::None, [2]) };
        let other = ServicePort { port: 81, ..port(Affinity::None, [3]) };
        let row = ServicePorts::new(vec![udp.clone(), other.clone(), port(Affinity::None, [1])]);
        assert_eq!(row.port(proto::UDP, 80), Some(&udp));
        assert_eq!(row.port(proto::TCP, 81), Some(&other));
        assert_eq!(row.port(proto::UDP, 81), None);
        assert_eq!(row.port(proto::SCTP, 80), None);
    }
}
