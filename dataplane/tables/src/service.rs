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
/// Cluster IPs and external addresses together, at most.
pub const ADDRESSES_MAX: usize = 131_072;

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

/// A kind of addresses of services.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum AddressKind {
    /// Cluster IPs.
    ClusterIp,
    /// Addresses of load balancers and `spec.externalIPs`. The unspecified address of a family
    /// stands for all addresses of the node, and has the node ports.
    External,
}

/// A service's address, as the table's rows are found by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceAddress {
    /// Its kind.
    pub kind: AddressKind,
    /// The address.
    pub address: Address,
}

impl ServiceAddress {
    /// A cluster IP.
    #[must_use]
    pub const fn cluster_ip(address: Address) -> Self {
        Self { kind: AddressKind::ClusterIp, address }
    }

    /// An external address.
    #[must_use]
    pub const fn external(address: Address) -> Self {
        Self { kind: AddressKind::External, address }
    }

    /// All addresses of the node that are of one family.
    #[must_use]
    pub const fn node(is_v4: bool) -> Self {
        Self::external(if is_v4 { Address::v4([0; 4]) } else { Address::v6([0; 16]) })
    }
}

/// A service has the packet's address, but not its port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoPort;

/// All services. Copies are cheap: they share unchanged rows.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {
    cluster_ips: AddressMap<ServicePorts>,
    external: AddressMap<ServicePorts>,
    count: usize,
    /// Whether the node's kernel translates, and not workers.
    pub left_to_kernel: bool,
}

/// There are [`ADDRESSES_MAX`] addresses already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there are {ADDRESSES_MAX} addresses of services already")]
pub struct TooManyAddresses;

impl ServiceTable {
    /// The ports at an address.
    #[must_use]
    #[inline]
    pub fn at(&self, address: ServiceAddress) -> Option<&ServicePorts> {
        if self.count == 0 {
            return None;
        }
        self.of_kind(address.kind).get(address.address)
    }

    const fn of_kind(&self, kind: AddressKind) -> &AddressMap<ServicePorts> {
        match kind {
            AddressKind::ClusterIp => &self.cluster_ips,
            AddressKind::External => &self.external,
        }
    }

    /// Addresses.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceAddress, &ServicePorts)> {
        let cluster_ips = self.cluster_ips.iter();
        let external = self.external.iter();
        cluster_ips
            .map(|(address, row)| (ServiceAddress::cluster_ip(address), row))
            .chain(external.map(|(address, row)| (ServiceAddress::external(address), row)))
    }

    /// Sets a row, or removes it if `row` is `None`. Returns whether that changed it.
    ///
    /// # Errors
    /// When the table is full; it is unchanged.
    pub fn set(
        &mut self,
        address: ServiceAddress,
        row: Option<ServicePorts>,
    ) -> Result<bool, TooManyAddresses> {
        let (before, after) = (self.at(address).is_some(), row.is_some());
        if after && !before && self.count >= ADDRESSES_MAX {
            return Err(TooManyAddresses);
        }
        self.count = self.count + usize::from(after) - usize::from(before);
        let rows = match address.kind {
            AddressKind::ClusterIp => &mut self.cluster_ips,
            AddressKind::External => &mut self.external,
        };
        Ok(rows.set(address.address, row))
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
            let address = |last: u8| match Address::v4([10, 96, 0, last / 2]) {
                address if last.is_multiple_of(2) => ServiceAddress::cluster_ip(address),
                address => ServiceAddress::external(address),
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
                prop_assert_eq!(table.len(), model.len());
                for last in 0..20 {
                    prop_assert_eq!(table.at(address(last)), model.get(&address(last)));
                }
                let rows: HashMap<_, _> = table.iter().map(|(at, row)| (at, row.clone())).collect();
                prop_assert_eq!(&rows, &model);
            }
        }
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
