//! A worker on memory links, with tables made by hand: pods A and B, the node behind the host link.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::sync::Arc;

use etherparse::{Ethernet2Header, IpHeaders, PacketBuilder, PacketBuilderStep};
use podgate_dataplane::packet::LOCAL_MAC;
use podgate_dataplane::worker::{Shared, SharedConfig, Worker};
use podgate_dataplane::xsk::memory::{self, MemoryLink};
use podgate_dataplane::xsk::{RingSizes, Umem};
use podgate_tables::address::{Address, Mac};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::Event;
use podgate_tables::ids::{DenySetId, Epoch, LinkId, RuleId, SelectorId};
use podgate_tables::l7::L7Rules;
use podgate_tables::policy::{
    Action, AddressRow, DirectionTable, Entry, IdentityRow, Peer, PolicyTables, PortClasses, Rank,
    SelectorSet, Snapshot,
};
use podgate_tables::proto;
use podgate_tables::route::{Endpoint, Outlet, RouteTable};
use podgate_tables::time::Nanos;

pub(crate) const HOST: LinkId = LinkId(0);
pub(crate) const A: LinkId = LinkId(1);
pub(crate) const B: LinkId = LinkId(2);
/// Address of the pod behind link 1 or 2, or of the node for link 0.
pub(crate) const ADDRESSES: [[u8; 4]; 3] = [[10, 9, 0, 1], [10, 1, 0, 1], [10, 1, 0, 2]];
/// The same, IPv6.
pub(crate) const ADDRESSES_V6: [[u8; 16]; 3] = [v6(9), v6(1), v6(2)];
pub(crate) const OUTSIDE: [u8; 4] = [192, 0, 2, 7];
pub(crate) const MTU: u32 = 65_535;

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(crate) const fn pod_mac(link: LinkId) -> Mac {
    [2, 0, 0, 0, 0, link.0 as u8]
}

pub(crate) const fn link_mac(link: LinkId) -> Mac {
    [2, 0, 0, 0, 1, link.0 as u8]
}

/// Selector that matches pod A's labels.
pub(crate) const LABELS_OF_A: SelectorId = SelectorId(1);
pub(crate) const RULE: RuleId = RuleId(7);
pub(crate) const DENY_SET: DenySetId = DenySetId(3);

/// Who may open flows to pod B.
pub(crate) enum IngressOfB {
    Open,
    Closed,
    /// Pod A may call TCP port 80, with these requests if there are rules.
    FromA(Option<L7Rules>),
    /// Pod A may use port 80 of this protocol.
    FromAAt(u8),
    /// Everyone may call TCP port 80, with these requests.
    FromAnyone(L7Rules),
    /// Pod A may use port 80 of this protocol, with these requests.
    FromAOver(u8, L7Rules),
}

impl IngressOfB {
    fn table(self) -> DirectionTable {
        let peer = match self {
            Self::FromAnyone(_) => Peer::Anyone,
            _ => Peer::Labels(LABELS_OF_A),
        };
        let (protocol, l7) = match self {
            Self::Open => return DirectionTable::default(),
            Self::Closed => {
                return DirectionTable { default_deny: Some(DENY_SET), ..Default::default() };
            }
            Self::FromA(l7) => (proto::TCP, l7),
            Self::FromAAt(protocol) => (protocol, None),
            Self::FromAnyone(l7) => (proto::TCP, Some(l7)),
            Self::FromAOver(protocol, l7) => (protocol, Some(l7)),
        };
        let entry = Entry {
            rank: Rank::NORMAL,
            action: Action::Allow,
            peer,
            port_name: None,
            ports: Entry::ALL_PORTS,
            l7: l7.map(Arc::new),
            rule: RULE,
        };
        DirectionTable {
            protocols: vec![PortClasses { protocol, ranges: vec![(0, 0), (80, 1), (81, 0)] }],
            other: None,
            classes: vec![Arc::from([]), Arc::from([entry])],
            default_deny: Some(DENY_SET),
        }
    }
}

pub(crate) fn snapshot(epoch: u32, ingress_of_b: IngressOfB) -> Snapshot {
    snapshot_with(epoch, ingress_of_b, [MTU; 3])
}

/// A direction in which nothing is allowed.
pub(crate) fn closed() -> DirectionTable {
    DirectionTable { default_deny: Some(DENY_SET), ..Default::default() }
}

/// [`snapshot`], with nobody allowed to open flows to pod A: so what pod A opens has no second way.
pub(crate) fn guarded(epoch: u32, ingress_of_b: IngressOfB) -> Snapshot {
    const POD_A: u32 = 4;
    let mut snapshot = snapshot(epoch, ingress_of_b);
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut row = policy.identities.get(POD_A).unwrap().clone();
    row.ingress = Arc::new(closed());
    policy.identities.set(POD_A, row);
    snapshot
}

/// [`snapshot`], with links of these MTUs: the host's, A's and B's. The node's ways out take 1500.
pub(crate) fn snapshot_with(epoch: u32, ingress_of_b: IngressOfB, mtus: [u32; 3]) -> Snapshot {
    let identity = |number, selectors: &[SelectorId], ingress: DirectionTable| IdentityRow {
        number,
        namespace: 0,
        selectors: SelectorSet::new(selectors.iter().copied()),
        egress: Arc::default(),
        ingress: Arc::new(ingress),
    };
    let mut policy = PolicyTables::default();
    let identities = [
        identity(9, &[], DirectionTable::default()),
        identity(10, &[], DirectionTable::default()),
        identity(1, &[], DirectionTable::default()),
        identity(6, &[], DirectionTable::default()),
        identity(256, &[LABELS_OF_A], DirectionTable::default()),
        identity(257, &[], ingress_of_b.table()),
    ];
    for (index, identity) in identities.into_iter().enumerate() {
        policy.identities.set(index as u32, identity);
    }
    let both = |at: usize| [Address::v4(ADDRESSES[at]), Address::v6(ADDRESSES_V6[at])];
    for (at, identity) in [PolicyTables::HOST, 4, 5].into_iter().enumerate() {
        for address in both(at) {
            let row = AddressRow { identity, named_ports: None };
            policy.addresses.set(address, Some(row.clone()));
        }
    }
    let outlet = |link: LinkId| {
        let mtu = mtus[link.index()];
        let path_mtu = if link == HOST { mtu.min(1500) } else { mtu };
        Outlet { link, mac: pod_mac(link), link_mac: link_mac(link), mtu, path_mtu }
    };
    let endpoints = [A, B]
        .map(|link| Endpoint { outlet: outlet(link), addresses: both(link.index()).to_vec() });
    let node = both(0).map(Some);
    Snapshot {
        epoch: Epoch(epoch),
        policy: Arc::new(policy),
        routes: Arc::new(RouteTable::new(endpoints, Some(outlet(HOST))).unwrap().with_node(node)),
    }
}

/// Workers without threads, and the links' kernel side.
pub(crate) struct Bench {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) links: Vec<MemoryLink>,
    pub(crate) now: Nanos,
    pub(crate) umem: Arc<Umem>,
}

impl Bench {
    pub(crate) fn new(workers: u16) -> Self {
        let config = SharedConfig {
            workers,
            flows_per_worker: 256,
            inspected_per_worker: 64,
            events_per_worker: 4096,
        };
        let shared = Shared::new(config);
        let umem = Umem::new(2048).unwrap();
        let mut all: Vec<_> =
            (0..workers).map(|index| Worker::new(&shared, index, umem.pool())).collect();
        let sizes = RingSizes { fill: 128, completion: 128, rx: 128, tx: 128 };
        let links = [HOST, A, B].map(|link| {
            let (ports, kernel) = memory::link(&umem, link, usize::from(workers), sizes);
            all.iter_mut().zip(ports).for_each(|(worker, port)| worker.add_port(port));
            kernel
        });
        Self { shared, workers: all, links: links.into(), now: Nanos(1_000_000), umem }
    }

    pub(crate) fn with(ingress_of_b: IngressOfB) -> Self {
        let bench = Self::new(1);
        bench.shared.publish(snapshot(1, ingress_of_b));
        bench
    }

    /// Sends `packet` into `link` at worker 0 and returns what left by each link.
    pub(crate) fn send(&mut self, link: LinkId, packet: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
        assert!(self.links[link.index()].inject(0, packet));
        self.run()
    }

    /// Lets all workers run until nothing is left to do.
    pub(crate) fn run(&mut self) -> Vec<(LinkId, Vec<u8>)> {
        let mut left = Vec::new();
        loop {
            let now = self.now;
            let processed: usize = self.workers.iter_mut().map(|w| w.round(now)).sum();
            for link in [HOST, A, B] {
                for worker in 0..self.workers.len() {
                    self.links[link.index()]
                        .transmitted(worker, &mut |bytes| left.push((link, bytes.to_vec())));
                }
            }
            if processed == 0 {
                return left;
            }
        }
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        let of = |worker: &Worker| worker.stats().dropped[reason as usize].packets.get();
        self.workers.iter().map(of).sum()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.shared.events.iter().flat_map(|q| std::iter::from_fn(|| q.pop())).collect()
    }

    /// Ends everything and counts frames: each must be spare again.
    pub(crate) fn assert_no_frame_is_lost(self) {
        let Self { workers, links, umem, shared, .. } = self;
        for mut worker in workers {
            worker.close_ports();
        }
        drop((links, shared));
        let mut pool = umem.pool();
        let free = std::iter::from_fn(|| pool.alloc()).count();
        assert_eq!(free, umem.frames() as usize);
    }
}

/// From the host link as if the node itself sent it.
fn ethernet(from: LinkId) -> PacketBuilderStep<Ethernet2Header> {
    let source = if from == HOST { LOCAL_MAC } else { pod_mac(from) };
    PacketBuilder::ethernet2(source, link_mac(from))
}

pub(crate) struct TcpPacket<'p> {
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
    pub(crate) ports: [u16; 2],
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) flags: &'p str,
    pub(crate) payload: &'p [u8],
}

/// A TCP packet as the pod (or node) behind `from` would send it. Flags: any of `SFRP`.
pub(crate) fn tcp(from: LinkId, packet: &TcpPacket<'_>) -> Vec<u8> {
    let [sport, dport] = packet.ports;
    let mut step =
        ethernet(from).ipv4(packet.src, packet.dst, 64).tcp(sport, dport, packet.seq, 64_000);
    for flag in packet.flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'F' => step.fin(),
            'R' => step.rst(),
            'P' => step.psh(),
            other => panic!("no flag {other}"),
        };
    }
    if let Some(ack) = packet.ack {
        step = step.ack(ack);
    }
    let mut bytes = Vec::new();
    step.write(&mut bytes, packet.payload).unwrap();
    bytes
}

pub(crate) fn udp(
    from: LinkId,
    src: [u8; 4],
    dst: [u8; 4],
    ports: [u16; 2],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64).udp(ports[0], ports[1]);
    step.write(&mut bytes, payload).unwrap();
    bytes
}

/// An SCTP packet with nothing but its header.
pub(crate) fn sctp(from: LinkId, src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&ports[0].to_be_bytes());
    header[2..4].copy_from_slice(&ports[1].to_be_bytes());
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64);
    step.write(&mut bytes, etherparse::IpNumber::SCTP, &header).unwrap();
    bytes
}

/// An ICMP message of type `kind` with an identifier.
pub(crate) fn echo(from: LinkId, src: [u8; 4], dst: [u8; 4], kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut bytes = Vec::new();
    let step = ethernet(from).ipv4(src, dst, 64).icmpv4_raw(kind, 0, [high, low, 0, 0]);
    step.write(&mut bytes, b"").unwrap();
    bytes
}

/// An ICMP "port unreachable" from `src` to `dst` that quotes `about` (an Ethernet frame).
pub(crate) fn unreachable(from: LinkId, src: [u8; 4], dst: [u8; 4], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = etherparse::icmpv4::DestUnreachableHeader::Port;
    let step = ethernet(from)
        .ipv4(src, dst, 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(kind));
    step.write(&mut bytes, &about[14..14 + 28]).unwrap();
    bytes
}

/// Cuts a frame into fragments of at most `size` bytes of IP.
pub(crate) fn cut(frame: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (ip, rest) = IpHeaders::from_slice(&frame[14..]).unwrap();
    let body = rest.payload;
    let header = if matches!(ip, IpHeaders::Ipv4(..)) { 20 } else { 48 };
    let room = (size - header) / 8 * 8;
    let parts = body.chunks(room).enumerate();
    let fragment = |(index, part): (usize, &[u8])| {
        let (offset, more) = (index * room, (index + 1) * room < body.len());
        let mut bytes = frame[..14].to_vec();
        match ip.clone() {
            IpHeaders::Ipv4(mut header, _) => {
                header.identification = id;
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset = ((offset / 8) as u16).try_into().unwrap();
                header.total_len = 20 + part.len() as u16;
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).unwrap();
            }
            IpHeaders::Ipv6(mut header, _) => {
                let next = std::mem::replace(&mut header.next_header, etherparse::IpNumber(44));
                header.payload_length = 8 + part.len() as u16;
                header.write(&mut bytes).unwrap();
                bytes.extend([next.0, 0]);
                bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
                bytes.extend(u32::from(id).to_be_bytes());
            }
        }
        bytes.extend(part);
        bytes
    };
    parts.map(fragment).collect()
}
