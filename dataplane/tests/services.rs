//! Services: pods' packets to cluster IPs, node ports and external addresses, on memory links.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::collections::HashSet;
use std::sync::Arc;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header};
use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::packet::edit::l4_checksum_is_right;
use podgate_dataplane::packet::{L4, View, parse, quoted};
use podgate_dataplane::worker::Worker;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Rules};
use podgate_tables::policy::{Snapshot, Verdict};
use podgate_tables::service::{
    Affinity, Backend, L4Addr, PORTS_MAX, ServiceAddress, ServicePort, ServicePorts, ServiceTable,
    WithoutBackends,
};
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};
use podgate_test_support::*;
use podgate_xdp_redirect::{FIRST_EPHEMERAL_PORT, flow_hash, worker_of};

use tcp_flags::{ACK, FIN, RST, SYN};

/// Port of every service.
const PORT: u16 = 8000;
/// No ephemeral port, so that the hash of a translated packet is another one, and some packets are
/// handed off.
const CLIENT: u16 = 20_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

use Family::{V4, V6};

const FAMILIES: [Family; 2] = [V4, V6];

fn pod(family: Family, link: LinkId) -> Address {
    match family {
        V4 => Address::v4(ADDRESSES[link.index()]),
        V6 => Address::v6(ADDRESSES_V6[link.index()]),
    }
}

fn cluster_ip(family: Family) -> Address {
    match family {
        V4 => Address::v4([10, 96, 0, 1]),
        V6 => Address::from_bits(0xfd96 << 112 | 1),
    }
}

/// An address outside of the node.
fn outside(family: Family, last: u8) -> Address {
    match family {
        V4 => Address::v4([192, 0, 2, last]),
        V6 => Address::from_bits(0x2001_0db8 << 96 | u128::from(last)),
    }
}

fn port(protocol: u8, backends: &[(Address, u16)]) -> ServicePort {
    let mut backends: Vec<_> =
        backends.iter().map(|(address, port)| Backend::new(*address, *port)).collect();
    backends.sort_unstable();
    ServicePort {
        protocol,
        port: PORT,
        affinity: Affinity::None,
        without_backends: WithoutBackends::Reject,
        backends: backends.into(),
    }
}

/// The snapshot with these ports at the cluster IP of a family.
fn with_ports(mut snapshot: Snapshot, family: Family, ports: Vec<ServicePort>) -> Snapshot {
    let services = &mut Arc::make_mut(&mut snapshot.policy).services;
    services
        .set(ServiceAddress::ClusterIp(cluster_ip(family)), Some(ServicePorts::new(ports)))
        .unwrap();
    snapshot
}

/// TCP, UDP and SCTP to these backends, in both families where there are such backends.
fn with_backends(
    mut snapshot: Snapshot,
    backends: impl Fn(Family) -> Vec<(Address, u16)>,
) -> Snapshot {
    for family in FAMILIES {
        let ports = [proto::TCP, proto::UDP, proto::SCTP];
        let ports = ports.map(|protocol| port(protocol, &backends(family)));
        snapshot = with_ports(snapshot, family, ports.to_vec());
    }
    snapshot
}

/// The service's backend is port 80 of pod B.
fn to_b(snapshot: Snapshot) -> Snapshot {
    with_backends(snapshot, |family| vec![(pod(family, B), 80)])
}

/// A packet as the pod behind `from` sends it.
fn packet(from: LinkId, tuple: &Tuple, flags: u8, payload: &[u8]) -> Vec<u8> {
    let step = ethernet(from);
    let step = match tuple.src.is_v4() {
        true => {
            let [src, dst] = [tuple.src, tuple.dst].map(|a| (a.bits() as u32).to_be_bytes());
            let mut header = Ipv4Header::new(0, 64, IpNumber(0), src, dst).unwrap();
            header.dont_fragment = true;
            step.ip(IpHeaders::Ipv4(header, Default::default()))
        }
        false => {
            let [source, destination] = [tuple.src, tuple.dst].map(|a| a.bits().to_be_bytes());
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Ipv6Header::default() };
            step.ip(IpHeaders::Ipv6(header, Default::default()))
        }
    };
    let mut bytes = Vec::new();
    match tuple.protocol {
        proto::TCP => {
            let mut header = etherparse::TcpHeader::new(tuple.src_port, tuple.dst_port, 100, 9000);
            set_flags(&mut header, flags);
            if header.ack {
                header.acknowledgment_number = 901;
            }
            step.tcp_header(header).write(&mut bytes, payload).unwrap();
        }
        proto::UDP => {
            step.udp(tuple.src_port, tuple.dst_port).write(&mut bytes, payload).unwrap();
        }
        _ => {
            let mut sctp = vec![0; 12];
            sctp[..2].copy_from_slice(&tuple.src_port.to_be_bytes());
            sctp[2..4].copy_from_slice(&tuple.dst_port.to_be_bytes());
            sctp.extend(payload);
            let crc = crc32c::crc32c(&sctp);
            sctp[8..12].copy_from_slice(&crc.to_le_bytes());
            step.write(&mut bytes, IpNumber::SCTP, &sctp).unwrap();
        }
    }
    bytes
}

fn view(bytes: &[u8]) -> View {
    let view = parse(bytes, bytes.len() as u32).unwrap();
    assert!(l4_checksum_is_right((bytes, std::iter::empty()), &view), "{view:?}");
    if view.tuple.protocol == proto::SCTP {
        let mut sctp = bytes[usize::from(view.l4)..].to_vec();
        let crc = sctp[8..12].to_vec();
        sctp[8..12].fill(0);
        assert_eq!(crc, crc32c::crc32c(&sctp).to_le_bytes());
    }
    view
}

/// The tuple of a packet of A to the service.
fn to_service(family: Family, protocol: u8, client: u16) -> Tuple {
    Tuple {
        src: pod(family, A),
        dst: cluster_ip(family),
        src_port: client,
        dst_port: PORT,
        protocol,
    }
}

/// The same with a backend.
fn to_backend(tuple: Tuple, (dst, dst_port): (Address, u16)) -> Tuple {
    Tuple { dst, dst_port, ..tuple }
}

/// The worker that the XDP program steers a packet to.
fn steered(rig: &Rig, bytes: &[u8]) -> usize {
    let view = parse(bytes, bytes.len() as u32).unwrap();
    let Tuple { src, dst, src_port, dst_port, protocol } = view.tuple;
    let ported = matches!(view.l4_kind, L4::Tcp(_) | L4::Udp | L4::Sctp);
    let (protocol, ports) = if ported { (protocol, [src_port, dst_port]) } else { (0, [0; 2]) };
    let hash = flow_hash(src.bits(), dst.bits(), protocol, ports[0], ports[1]);
    worker_of(hash, rig.workers.len() as u16).into()
}

/// Sends a packet as the XDP program would steer it. Returns what leaves.
fn send(rig: &mut Rig, link: LinkId, bytes: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
    let worker = steered(rig, bytes);
    assert!(rig.links[link.index()].inject(worker, bytes), "{link:?} takes no packet");
    rig.run()
}

/// The same for a packet that leaves as one.
#[track_caller]
fn send_one(rig: &mut Rig, link: LinkId, bytes: &[u8]) -> (LinkId, Vec<u8>) {
    let mut out = send(rig, link, bytes);
    assert_eq!(out.len(), 1, "{:?}", rig.counts());
    out.remove(0)
}

fn rig(workers: u16, snapshot: Snapshot) -> Rig {
    let rig = Rig::of(RigConfig { workers, ..RigConfig::default() });
    rig.shared.publish(snapshot);
    rig
}

/// Sends a SYN or the first datagram, and returns the tuple that it leaves with.
#[track_caller]
fn open(rig: &mut Rig, tuple: &Tuple) -> Tuple {
    let (_, bytes) = send_one(rig, A, &packet(A, tuple, SYN, b"first"));
    view(&bytes).tuple
}

/// Opens a TCP connection completely, and returns the tuple that B sees.
#[track_caller]
fn connect(rig: &mut Rig, tuple: &Tuple) -> Tuple {
    let at_b = open(rig, tuple);
    let (link, bytes) = send_one(rig, B, &packet(B, &at_b.reversed(), SYN | ACK, b""));
    assert_eq!((link, view(&bytes).tuple), (A, tuple.reversed()));
    send_one(rig, A, &packet(A, tuple, ACK, b""));
    at_b
}

const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

#[test]
fn packets_to_a_service_reach_its_backend_and_replies_come_from_the_service() {
    for workers in 1..=3 {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        let mut handed_off = HashSet::new();
        for family in FAMILIES {
            for protocol in PROTOCOLS {
                for client in CLIENT..CLIENT + 8 {
                    let tuple = to_service(family, protocol, client);
                    let expected = to_backend(tuple, (pod(family, B), 80));
                    let handed = rig.counts().get(Count::HandedOff);
                    for (flags, payload) in [(SYN, &b"first"[..]), (ACK, b"second, odd")] {
                        let sent = packet(A, &tuple, flags, payload);
                        let (link, bytes) = send_one(&mut rig, A, &sent);
                        assert_eq!((link, view(&bytes).tuple), (B, expected));
                        assert_eq!(view(&bytes).ttl, 63);
                        let reply = packet(B, &expected.reversed(), flags | ACK, b"reply");
                        let (link, bytes) = send_one(&mut rig, B, &reply);
                        assert_eq!((link, view(&bytes).tuple), (A, tuple.reversed()));
                        assert_eq!(view(&bytes).ttl, 63);
                    }
                    // Only the client's packets, once each.
                    let handed = rig.counts().get(Count::HandedOff) - handed;
                    assert!(handed == 0 || handed == 2, "{handed}");
                    handed_off.insert(handed);
                }
            }
        }
        assert_eq!(handed_off.len(), if workers > 1 { 2 } else { 1 });
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn packets_from_ephemeral_ports_are_not_handed_off() {
    for (workers, family) in (1..=3).flat_map(|workers| FAMILIES.map(|family| (workers, family))) {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        for (protocol, number) in PROTOCOLS.into_iter().flat_map(|p| (0..20).map(move |n| (p, n))) {
            let tuple = to_service(family, protocol, FIRST_EPHEMERAL_PORT + number);
            let at_b = open(&mut rig, &tuple);
            assert_eq!(at_b, to_backend(tuple, (pod(family, B), 80)));
            let reply = packet(B, &at_b.reversed(), SYN | ACK, b"reply");
            let (link, bytes) = send_one(&mut rig, B, &reply);
            assert_eq!((link, view(&bytes).tuple), (A, tuple.reversed()));
        }
        assert_eq!(rig.counts().get(Count::HandedOff), 0);
        let busy = rig.workers.iter().filter(|worker| worker.flows() > 0).count();
        assert_eq!(busy, usize::from(workers), "flows are spread over all workers");
    }
}

/// Packets of established flows, which take the fast path: what both ends see is as with the first
/// ones, whichever worker has the flow, and also after a change of the tables.
#[test]
fn packets_of_established_flows_are_translated_like_the_first_ones() {
    for (workers, family) in (1..=3).flat_map(|workers| FAMILIES.map(|family| (workers, family))) {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        let clients = (CLIENT..CLIENT + 12).map(|client| {
            let protocol = if client % 3 == 0 { proto::UDP } else { proto::TCP };
            to_service(family, protocol, client)
        });
        let clients: Vec<Tuple> = clients.collect();
        for tuple in &clients {
            connect(&mut rig, tuple);
        }
        for epoch in 1..=2 {
            rig.shared.publish(to_b(snapshot(epoch, IngressOfB::Open)));
            for number in 0..20_u8 {
                let payload = vec![number; usize::from(number) * 7 % 90];
                let handed = rig.counts().get(Count::HandedOff);
                let mut expected = HashSet::new();
                for tuple in &clients {
                    let at_b = to_backend(*tuple, (pod(family, B), 80));
                    for (link, sent, to, seen) in
                        [(A, *tuple, B, at_b), (B, at_b.reversed(), A, tuple.reversed())]
                    {
                        let bytes = packet(link, &sent, ACK, &payload);
                        let worker = steered(&rig, &bytes);
                        assert!(rig.links[link.index()].inject(worker, &bytes));
                        expected.insert((to, seen));
                    }
                }
                let left = rig.run();
                assert_eq!(left.len(), expected.len());
                for (link, bytes) in left {
                    let view = view(&bytes);
                    assert!(expected.remove(&(link, view.tuple)), "{link:?} {view:?}");
                    assert_eq!((view.ttl, &bytes[view.payload as usize..]), (63, &payload[..]));
                }
                let handed = rig.counts().get(Count::HandedOff) - handed;
                assert!(handed < 12 && (handed > 0) == (workers > 1), "{handed}");
            }
        }
        assert_eq!(rig.counts().get(Count::FlowsOpened), 12);
        // The client uses its port for the backend itself.
        for tuple in &clients {
            let direct = to_backend(*tuple, (pod(family, B), 80));
            let is_tcp = tuple.protocol == proto::TCP;
            let conflicts = rig.dropped(DropReason::ServiceConflict);
            let left = send(&mut rig, A, &packet(A, &direct, ACK, b"direct"));
            assert_eq!(left.len(), usize::from(!is_tcp));
            let conflicts = rig.dropped(DropReason::ServiceConflict) - conflicts;
            assert_eq!(conflicts, u64::from(is_tcp));
            if !is_tcp {
                let (_, bytes) = send_one(&mut rig, B, &packet(B, &direct.reversed(), 0, b"r"));
                assert_eq!(view(&bytes).tuple, direct.reversed(), "the last way has the replies");
            }
            let (_, bytes) = send_one(&mut rig, A, &packet(A, tuple, ACK, b"again"));
            assert_eq!(view(&bytes).tuple, direct);
            let (_, bytes) = send_one(&mut rig, B, &packet(B, &direct.reversed(), ACK, b"r"));
            assert_eq!(view(&bytes).tuple, tuple.reversed());
        }
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn policy_decides_on_the_backend() {
    let [allowed, denied] = [80, 81].map(|port| {
        let snapshot = snapshot(1, IngressOfB::FromA(None));
        with_backends(snapshot, move |family| vec![(pod(family, B), port)])
    });
    let tuple = to_service(V4, proto::TCP, CLIENT);
    let syn = packet(A, &tuple, SYN, b"");
    let mut rig = rig(1, allowed);
    assert_eq!(send(&mut rig, A, &syn).len(), 1);
    let event = &rig.events()[0];
    assert_eq!(event.tuple, to_backend(tuple, (pod(V4, B), 80)));
    assert_eq!(event.frontend, Some(L4Addr { address: cluster_ip(V4), port: PORT }));
    assert!(matches!(event.kind, EventKind::Verdict { verdict: Verdict::Allow, .. }));

    let mut rig = self::rig(1, denied);
    assert!(send(&mut rig, A, &syn).is_empty());
    rig.expect_counters(&[
        (Count::Received, 1),
        (Count::Dropped(DropReason::PolicyDenied), 1),
        (Count::Flows, 1),
    ]);
    assert_eq!(rig.events()[0].tuple, to_backend(tuple, (pod(V4, B), 81)));
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_denied_request_to_a_service_is_answered_from_its_address() {
    let spec = HttpRuleSpec { path: Some("/docs".to_owned()), ..HttpRuleSpec::default() };
    let rules = || L7Rules::Http(vec![HttpRule::new(spec.clone()).unwrap()].into());
    for workers in [1, 2] {
        for client in CLIENT..CLIENT + 4 {
            let ingress = IngressOfB::FromA(Some(rules()));
            let mut rig = rig(workers, to_b(snapshot(1, ingress)));
            let tuple = to_service(V4, proto::TCP, client);
            let segment = |from, tuple: &Tuple, [seq, ack]: [u32; 2], flags, payload| {
                let [src, dst] = [tuple.src, tuple.dst].map(|a| (a.bits() as u32).to_be_bytes());
                let ports = [tuple.src_port, tuple.dst_port];
                let ack = (ack > 0).then_some(ack);
                tcp(from, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
            };
            let syn = segment(A, &tuple, [100, 0], "S", b"");
            let at_b = view(&send_one(&mut rig, A, &syn).1).tuple;
            let answer = segment(B, &at_b.reversed(), [900, 101], "S", b"");
            assert_eq!(view(&send_one(&mut rig, B, &answer).1).tuple, tuple.reversed());
            send_one(&mut rig, A, &segment(A, &tuple, [101, 901], "", b""));
            let request = b"GET /docs HTTP/1.1\r\nHost: b\r\n\r\n";
            let out = send(&mut rig, A, &segment(A, &tuple, [101, 901], "P", request));
            assert!(out.iter().any(|(link, bytes)| *link == B && bytes.ends_with(request)));
            let next = 101 + request.len() as u32;
            let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            send(&mut rig, B, &segment(B, &at_b.reversed(), [901, next], "P", response));
            let request = b"GET /admin HTTP/1.1\r\nHost: b\r\n\r\n";
            let acked = 901 + response.len() as u32;
            let out = send(&mut rig, A, &segment(A, &tuple, [next, acked], "P", request));
            let to_a: Vec<_> = out.iter().filter(|(link, _)| *link == A).collect();
            assert!(!to_a.is_empty());
            for (_, bytes) in &to_a {
                assert_eq!(view(bytes).tuple, tuple.reversed());
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("403 Forbidden");
            assert!(to_a.iter().any(|(_, bytes)| text(bytes)));
            let denied = rig
                .events()
                .into_iter()
                .find(|event| matches!(event.kind, EventKind::Request { allowed: false, .. }));
            assert_eq!(denied.unwrap().frontend.unwrap().address, cluster_ip(V4));
        }
    }
}

/// Checks that packets of A with `tuple` reach A itself as `at_server`, and the replies A again.
#[track_caller]
fn assert_reaches_itself(rig: &mut Rig, tuple: &Tuple, at_server: &Tuple) {
    for flags in [SYN, ACK] {
        let (link, bytes) = send_one(rig, A, &packet(A, tuple, flags, b"q"));
        assert_eq!((link, view(&bytes).tuple), (A, *at_server));
        let reply = packet(A, &at_server.reversed(), flags | ACK, b"reply");
        let (link, bytes) = send_one(rig, A, &reply);
        assert_eq!((link, view(&bytes).tuple), (A, tuple.reversed()));
    }
}

#[test]
fn a_pod_reaches_itself_by_its_service() {
    for workers in 1..=2 {
        for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
            for client in CLIENT..CLIENT + 4 {
                // Closed: a pod may always reach itself.
                let snapshot = guarded(1, IngressOfB::Closed);
                let snapshot = with_backends(snapshot, |family| vec![(pod(family, A), 80)]);
                let mut rig = rig(workers, snapshot);
                let tuple = to_service(family, protocol, client);
                let at_server =
                    Tuple { src: cluster_ip(family), dst: pod(family, A), dst_port: 80, ..tuple };
                assert_reaches_itself(&mut rig, &tuple, &at_server);
                let event = &rig.events()[0];
                let ends = (event.tuple.src, event.tuple.dst, event.tuple.dst_port);
                assert_eq!(ends, (pod(family, A), pod(family, A), 80));
                // A new epoch changes nothing.
                let snapshot = guarded(2, IngressOfB::Closed);
                let snapshot = with_backends(snapshot, |family| vec![(pod(family, A), 80)]);
                rig.shared.publish(snapshot);
                send_one(&mut rig, A, &packet(A, &tuple, ACK, b"q"));
                send_one(&mut rig, A, &packet(A, &at_server.reversed(), ACK, b"r"));
                rig.expire_all();
                rig.assert_no_frame_is_lost();
            }
        }
    }
}

#[test]
fn a_service_without_backends_rejects() {
    for family in FAMILIES {
        let mut rig = rig(1, with_backends(snapshot(1, IngressOfB::Open), |_| Vec::new()));
        let tuple = to_service(family, proto::TCP, CLIENT);
        let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, SYN, b""));
        let reset = view(&bytes);
        assert_eq!((link, reset.tuple), (A, tuple.reversed()));
        assert!(matches!(reset.l4_kind, L4::Tcp(segment) if segment.has(RST)));
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(DropReason::ServiceNoBackend), 1),
            (Count::Originated, 1),
            (Count::ResetsSent, 1),
        ]);
        for protocol in [proto::UDP, proto::SCTP] {
            let tuple = to_service(family, protocol, CLIENT);
            let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, 0, b"q"));
            let error = parse(&bytes, bytes.len() as u32).unwrap();
            let expected = if family == V4 { (3, 3) } else { (1, 4) };
            assert!(
                matches!(error.l4_kind, L4::IcmpError { kind, code } if (kind, code) == expected)
            );
            assert_eq!((link, quoted(&bytes, &error)), (A, Some(tuple)));
            rig.expect_counters(&[
                (Count::Received, 1),
                (Count::Dropped(DropReason::ServiceNoBackend), 1),
                (Count::Originated, 1),
            ]);
        }
        let reason = DropReason::ServiceNoPort;
        let tuple = Tuple { dst_port: PORT + 1, ..to_service(family, proto::TCP, CLIENT) };
        assert_eq!(send(&mut rig, A, &packet(A, &tuple, SYN, b"")).len(), 1);
        rig.expect_counters(&[
            (Count::Received, 1),
            (Count::Dropped(reason), 1),
            (Count::Originated, 1),
            (Count::ResetsSent, 1),
        ]);
        assert!(rig.events().iter().any(
            |event| matches!(event.kind, EventKind::Drop { reason: found } if found == reason)
        ));
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn without_a_backend_on_this_node_packets_are_dropped_silently_if_it_must_be_one() {
    let local = ServicePort { without_backends: WithoutBackends::Drop, ..port(proto::TCP, &[]) };
    let mut rig = rig(1, with_ports(snapshot(1, IngressOfB::Open), V4, vec![local]));
    let syn = packet(A, &to_service(V4, proto::TCP, CLIENT), SYN, b"");
    assert!(send(&mut rig, A, &syn).is_empty());
    rig.expect_counters(&[(Count::Received, 1), (Count::Dropped(DropReason::ServiceNoBackend), 1)]);
}

#[test]
fn other_packets_to_a_cluster_ip_are_as_to_any_address() {
    let mut rig = rig(1, to_b(snapshot(1, IngressOfB::Open)));
    let ip = [10, 96, 0, 1];
    assert_eq!(send(&mut rig, A, &echo(A, ADDRESSES[1], ip, 8, 1))[0].0, HOST);
    // From the kernel, which has no route for it: it isn't translated.
    let tuple = Tuple { src: outside(V4, 7), ..to_service(V4, proto::UDP, CLIENT) };
    assert!(send(&mut rig, HOST, &packet(HOST, &tuple, 0, b"")).is_empty());
    rig.assert_no_frame_is_lost();
}

fn outside_backends(range: std::ops::Range<u8>) -> impl Fn(Family) -> Vec<(Address, u16)> {
    move |family| range.clone().map(|last| (outside(family, last), 80)).collect()
}

#[test]
fn connections_keep_a_backend_that_is_gone_and_datagrams_get_another() {
    for (family, workers) in [(V4, 1), (V6, 2)] {
        let first = with_backends(snapshot(1, IngressOfB::Open), outside_backends(1..5));
        let mut rig = rig(workers, first);
        let of = |protocol| -> Vec<_> {
            (0..8).map(|n| to_service(family, protocol, CLIENT + n)).collect()
        };
        let before: Vec<Vec<Tuple>> = PROTOCOLS
            .map(|protocol| of(protocol).iter().map(|tuple| open(&mut rig, tuple)).collect())
            .to_vec();
        for at_server in &before[0] {
            let answer = packet(HOST, &at_server.reversed(), SYN | ACK, b"");
            assert_eq!(send_one(&mut rig, HOST, &answer).0, A);
        }
        for tuple in of(proto::TCP) {
            send_one(&mut rig, A, &packet(A, &tuple, ACK, b""));
        }
        let later = with_backends(snapshot(2, IngressOfB::Open), outside_backends(5..9));
        rig.shared.publish(later);
        for (protocol, before) in PROTOCOLS.into_iter().zip(&before) {
            for (tuple, before) in of(protocol).iter().zip(before) {
                let (_, bytes) = send_one(&mut rig, A, &packet(A, tuple, ACK, b"again"));
                let after = view(&bytes).tuple;
                let moved = protocol == proto::UDP;
                assert_eq!(after != *before, moved, "{before:?} {after:?}");
                let listed = (5..9).any(|last| after.dst == outside(family, last));
                assert_eq!(listed, moved);
            }
        }
        // A new connection of the same port.
        let tuple = of(proto::TCP)[0];
        send(&mut rig, A, &packet(A, &tuple, RST | ACK, b""));
        let after = open(&mut rig, &tuple);
        assert!((5..9).any(|last| after.dst == outside(family, last)));
        // Without a service, the address is like any other.
        let mut none = snapshot(3, IngressOfB::Open);
        Arc::make_mut(&mut none.policy).services = ServiceTable::default();
        rig.shared.publish(none);
        let tuple = of(proto::UDP)[0];
        let (_, bytes) = send_one(&mut rig, A, &packet(A, &tuple, 0, b"q"));
        assert_eq!(view(&bytes).tuple, tuple);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_syn_that_is_not_answered_gets_another_backend_when_its_own_is_gone() {
    let mut rig = rig(1, with_backends(snapshot(1, IngressOfB::Open), outside_backends(1..2)));
    let tuple = to_service(V4, proto::TCP, CLIENT);
    assert_eq!(open(&mut rig, &tuple).dst, outside(V4, 1));
    rig.shared.publish(with_backends(snapshot(2, IngressOfB::Open), outside_backends(2..3)));
    assert_eq!(open(&mut rig, &tuple).dst, outside(V4, 2));
}

#[test]
fn with_affinity_a_client_has_one_backend_on_every_worker() {
    let ports = |affinity| {
        let with = |protocol| {
            let backends = outside_backends(1..9)(V4);
            ServicePort { affinity, ..port(protocol, &backends) }
        };
        vec![with(proto::TCP), with(proto::UDP)]
    };
    let by_client = Affinity::ClientIp { seconds: 10_800 };
    for (affinity, backends) in [(by_client, 1), (Affinity::None, 8)] {
        let mut rig = rig(3, with_ports(snapshot(1, IngressOfB::Open), V4, ports(affinity)));
        let mut seen = HashSet::new();
        for client in CLIENT..CLIENT + 64 {
            for protocol in [proto::TCP, proto::UDP] {
                seen.insert(open(&mut rig, &to_service(V4, protocol, client)).dst);
            }
        }
        assert_eq!(seen.len(), backends);
    }
}

/// As kube-proxy: a client keeps its backend until the timeout after it last opened a flow,
/// although others would be chosen by now; on every worker.
#[test]
fn with_affinity_a_client_keeps_its_backend_until_the_timeout() {
    const SECONDS: u64 = 100;
    let with = |epoch, backends: std::ops::Range<u8>| {
        let affinity = Affinity::ClientIp { seconds: SECONDS as u32 };
        let ports = [proto::TCP, proto::UDP].map(|protocol| {
            let backends = outside_backends(backends.clone())(V4);
            ServicePort { affinity, ..port(protocol, &backends) }
        });
        with_ports(snapshot(epoch, IngressOfB::Open), V4, ports.to_vec())
    };
    for (workers, protocol) in (1..=3).flat_map(|n| [(n, proto::TCP), (n, proto::UDP)]) {
        let mut rig = rig(workers, with(1, 1..2));
        let mut clients = CLIENT..;
        // From as many ports as reach every worker.
        let mut backend = |rig: &mut Rig| {
            let mut seen = HashSet::new();
            for client in clients.by_ref().take(16) {
                seen.insert(open(rig, &to_service(V4, protocol, client)).dst);
            }
            assert_eq!(seen.len(), 1, "one backend on every worker");
            seen.into_iter().next().unwrap()
        };
        let one = backend(&mut rig);
        rig.shared.publish(with(2, 1..100));
        for _ in 0..3 {
            rig.now = rig.now.plus_secs(SECONDS - 1);
            assert_eq!(backend(&mut rig), one);
        }
        rig.now = rig.now.plus_secs(SECONDS);
        let chosen = backend(&mut rig);
        assert_ne!(chosen, one, "another of 99 is chosen");
        // The backend is gone, and comes back.
        rig.shared.publish(with(3, 1..2));
        assert_eq!(backend(&mut rig), one);
        rig.shared.publish(with(4, 1..100));
        assert_eq!(backend(&mut rig), one);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn one_pod_with_many_services_leaves_session_affinity_to_others() {
    let affinity = Affinity::ClientIp { seconds: 10_800 };
    let with = |epoch, backends| {
        let snapshot = with_many(snapshot(epoch, IngressOfB::Open), 2..8, affinity);
        let port = ServicePort { affinity, ..port(proto::UDP, &outside_backends(backends)(V4)) };
        with_ports(snapshot, V4, vec![port])
    };
    let of_b = |client| Tuple { src: pod(V4, B), ..to_service(V4, proto::UDP, client) };
    for workers in 1..=2 {
        let mut rig = rig(workers, with(1, 200..201));
        let backend_of_b = |rig: &mut Rig, client| {
            let (_, bytes) = send_one(rig, B, &packet(B, &of_b(client), 0, b""));
            view(&bytes).tuple.dst
        };
        let one = backend_of_b(&mut rig, CLIENT);
        rig.shared.publish(with(2, 100..201));
        for tuple in to_many(2..8) {
            send(&mut rig, A, &packet(A, &tuple, 0, b""));
            let _ = rig.events();
        }
        for client in CLIENT + 1..CLIENT + 17 {
            assert_eq!(backend_of_b(&mut rig, client), one);
        }
        let lost = rig.counts().get(Count::AffinityLost);
        assert!(lost >= 24_576 - 16_384, "{lost}");
        let over = |link: LinkId| {
            let of_worker = |worker: &Worker| worker.link_statistics()[link.index()];
            rig.workers.iter().map(|worker| of_worker(worker).over_quota.affinity).sum::<u64>()
        };
        assert_eq!([over(A), over(B)], [lost, 0]);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

/// What only one worker has seen is known to the others.
#[test]
fn workers_tell_each_other_of_affinity() {
    let with = |epoch, backends| {
        let affinity = Affinity::ClientIp { seconds: 100 };
        let port = ServicePort { affinity, ..port(proto::TCP, &outside_backends(backends)(V4)) };
        with_ports(snapshot(epoch, IngressOfB::Open), V4, vec![port])
    };
    let mut rig = rig(4, with(1, 1..2));
    let one = open(&mut rig, &to_service(V4, proto::TCP, CLIENT)).dst;
    rig.shared.publish(with(2, 1..100));
    for client in CLIENT + 1..CLIENT + 32 {
        assert_eq!(open(&mut rig, &to_service(V4, proto::TCP, client)).dst, one);
    }
}

#[test]
fn with_many_backends_few_packets_are_handed_off() {
    let mut rig = rig(2, with_backends(snapshot(1, IngressOfB::Open), outside_backends(1..9)));
    for client in CLIENT..CLIENT + 50 {
        open(&mut rig, &to_service(V4, proto::TCP, client));
    }
    // One in 256.
    assert!(rig.counts().get(Count::HandedOff) <= 3);
}

#[test]
fn a_lost_translation_is_made_again() {
    let config = RigConfig { flows_per_worker: 64, ..RigConfig::default() };
    let mut rig = Rig::of(config);
    rig.shared.publish(with_backends(snapshot(1, IngressOfB::Open), outside_backends(1..9)));
    let tuple = |client| to_service(V4, proto::UDP, client);
    let first = open(&mut rig, &tuple(CLIENT));
    for client in 1..200 {
        open(&mut rig, &tuple(client));
    }
    assert!(rig.counts().get(Count::FlowsEvicted) > 100);
    assert!(rig.workers[0].flows() <= 64);
    assert_eq!(open(&mut rig, &tuple(CLIENT)), first);
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

#[test]
fn at_the_bound_a_new_connection_is_dropped_and_counted() {
    let config = RigConfig { flows_per_worker: 16, ..RigConfig::default() };
    let mut rig = Rig::of(config);
    rig.shared.publish(to_b(snapshot(1, IngressOfB::Open)));
    // Established connections are never evicted: eight entries are A's share.
    for client in 0..4 {
        connect(&mut rig, &to_service(V4, proto::TCP, CLIENT + client));
    }
    let syn = packet(A, &to_service(V4, proto::TCP, 1), SYN, b"");
    assert!(send(&mut rig, A, &syn).is_empty());
    assert_eq!(rig.dropped(DropReason::FlowTableFull), 1);
    assert_eq!(rig.workers[0].link_statistics()[A.index()].over_quota.flows, 1);
    let other = Tuple { src: pod(V4, B), ..to_service(V4, proto::UDP, CLIENT) };
    assert_eq!(send(&mut rig, B, &packet(B, &other, 0, b"")).len(), 1, "B has its share");
}

#[test]
fn a_connection_does_not_evict_its_own_translation_nor_the_other_way() {
    let config = RigConfig { flows_per_worker: 16, ..RigConfig::default() };
    let mut rig = Rig::of(config);
    rig.shared.publish(to_b(snapshot(1, IngressOfB::FromA(None))));
    // Eight entries are A's share, of which one can be evicted.
    for client in 0..3 {
        connect(&mut rig, &to_service(V4, proto::TCP, CLIENT + client));
    }
    let direct = |client| to_backend(to_service(V4, proto::TCP, client), (pod(V4, B), 80));
    connect(&mut rig, &direct(1));
    open(&mut rig, &direct(2));
    let new = to_service(V4, proto::TCP, 3);
    for _ in 0..3 {
        assert!(send(&mut rig, A, &packet(A, &new, SYN, b"")).is_empty());
    }
    assert_eq!(rig.dropped(DropReason::FlowTableFull), 3);
    assert_eq!(rig.counts().get(Count::FlowsEvicted), 1, "that of the half-open one");
    assert_eq!(rig.workers[0].link_statistics()[A.index()].over_quota.flows, 3);
    // With room for both, the connection opens and stays.
    send_one(&mut rig, B, &packet(B, &direct(1).reversed(), RST, b""));
    connect(&mut rig, &new);
    for _ in 0..3 {
        send_one(&mut rig, A, &packet(A, &new, ACK, b"data"));
    }
    assert_eq!(rig.counts().get(Count::FlowsEvicted), 2);
    assert_eq!(rig.dropped(DropReason::FlowTableFull), 3);
}

#[test]
fn a_lost_translation_does_not_evict_its_flow() {
    let config = RigConfig { flows_per_worker: 16, ..RigConfig::default() };
    let mut rig = Rig::of(config);
    rig.shared.publish(to_b(snapshot(1, IngressOfB::FromA(None))));
    let tuple = to_service(V4, proto::TCP, CLIENT);
    let at_b = open(&mut rig, &tuple);
    // Eight entries are A's share. Of the half-open ones, the translation is the oldest.
    let direct = |client| to_backend(to_service(V4, proto::TCP, client), (pod(V4, B), 80));
    for client in 1..8 {
        connect(&mut rig, &direct(client));
    }
    assert_eq!((flows(&rig), rig.counts().get(Count::FlowsEvicted)), (8, 1));
    for retry in 1..4 {
        assert!(send(&mut rig, A, &packet(A, &tuple, SYN, b"")).is_empty());
        assert_eq!(rig.dropped(DropReason::FlowTableFull), retry);
    }
    assert_eq!((flows(&rig), rig.counts().get(Count::FlowsEvicted)), (8, 1));
    let (link, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), SYN | ACK, b""));
    assert_eq!((link, view(&bytes).tuple), (A, tuple.reversed()), "the flow is there");
    // With room for the translation, the connection continues.
    send_one(&mut rig, B, &packet(B, &direct(1).reversed(), RST, b""));
    let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, ACK, b"data"));
    assert_eq!((link, view(&bytes).tuple), (B, at_b));
}

/// Runs timers until nothing more expires.
fn run_timers(rig: &mut Rig) {
    (0..500).for_each(|_| assert!(rig.run().is_empty()));
}

fn flows(rig: &Rig) -> usize {
    rig.workers.iter().map(Worker::flows).sum()
}

/// ACKs alone, which the other end may never have seen, occupy no entry for long and evict no
/// connection. Only the worker that has the flow knows that the other end has answered.
#[test]
fn acks_alone_leave_the_entries_of_connections() {
    for (workers, family) in [(1, V4), (2, V4), (2, V6)] {
        let config = RigConfig { workers, flows_per_worker: 1024, ..RigConfig::default() };
        let mut rig = Rig::of(config);
        rig.shared.publish(to_b(snapshot(1, IngressOfB::Open)));
        let tuple = |client| to_service(family, proto::TCP, client);
        for client in CLIENT..CLIENT + 16 {
            connect(&mut rig, &tuple(client));
        }
        for client in 1..10_000 {
            for _ in 0..10 {
                let out = send(&mut rig, A, &packet(A, &tuple(client), ACK, b""));
                assert_eq!(out.len(), 1, "each has room");
            }
            let _ = rig.events();
        }
        assert_eq!(rig.dropped(DropReason::FlowTableFull), 0);
        // Connections keep their backend only as long as they have their entries.
        rig.shared.publish(with_backends(snapshot(2, IngressOfB::Open), outside_backends(1..9)));
        let go_on = |rig: &mut Rig| {
            for client in CLIENT..CLIENT + 16 {
                assert_eq!(send_one(rig, A, &packet(A, &tuple(client), ACK, b"on")).0, B);
            }
        };
        go_on(&mut rig);
        rig.now = rig.now.plus_secs(160);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), 32, "connections and their translations");
        rig.now = rig.now.plus_secs(7000);
        run_timers(&mut rig);
        go_on(&mut rig);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_reset_of_the_backend_ends_the_translation_too() {
    for (workers, client) in (1..=3).flat_map(|n| (CLIENT..CLIENT + 8).map(move |c| (n, c))) {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        let tuple = to_service(V4, proto::TCP, client);
        let at_b = connect(&mut rig, &tuple);
        rig.now = rig.now.plus_secs(600);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), 2);
        send_one(&mut rig, B, &packet(B, &at_b.reversed(), RST, b""));
        rig.now = rig.now.plus_secs(160);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), 0);
    }
}

#[test]
fn datagrams_of_the_client_alone_are_kept_for_as_short_as_without_a_service() {
    for (workers, answered) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        for client in CLIENT..CLIENT + 8 {
            let tuple = to_service(V4, proto::UDP, client);
            let at_b = open(&mut rig, &tuple);
            (0..3).for_each(|_| assert_eq!(open(&mut rig, &tuple), at_b));
            if answered {
                send_one(&mut rig, B, &packet(B, &at_b.reversed(), 0, b"answer"));
            }
        }
        rig.now = rig.now.plus_secs(45);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), if answered { 16 } else { 0 });
    }
}

/// The translation expires while only the server sends. When it is made again, the flow's worker
/// has reported the answer long ago.
#[test]
fn a_translation_that_is_made_again_asks_whether_its_flow_was_answered() {
    for workers in 1..=3 {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        let clients = (CLIENT..CLIENT + 8).map(|client| to_service(V4, proto::UDP, client));
        let clients: Vec<(Tuple, Tuple)> = clients.map(|it| (it, open(&mut rig, &it))).collect();
        let answer = |rig: &mut Rig| {
            for (tuple, at_b) in &clients {
                let reply = packet(B, &at_b.reversed(), 0, b"answer");
                assert_eq!(view(&send_one(rig, B, &reply).1).tuple, tuple.reversed());
            }
        };
        for _ in 0..8 {
            answer(&mut rig);
            rig.now = rig.now.plus_secs(20);
            run_timers(&mut rig);
        }
        assert_eq!(flows(&rig), 8, "translations have expired");
        for (tuple, at_b) in &clients {
            assert_eq!([open(&mut rig, tuple), open(&mut rig, tuple)], [*at_b; 2]);
        }
        rig.now = rig.now.plus_secs(60);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), 16, "they are kept as long as those of other answered flows");
    }
}

/// Every UDP port of a cluster IP, each with a backend of its own.
fn with_many(mut snapshot: Snapshot, ips: std::ops::Range<u8>, affinity: Affinity) -> Snapshot {
    let table = &mut Arc::make_mut(&mut snapshot.policy).services;
    for last in ips {
        let ports = (1..=PORTS_MAX as u16).map(|number| ServicePort {
            port: number,
            affinity,
            ..port(proto::UDP, &[(outside(V4, last), number)])
        });
        let address = ServiceAddress::ClusterIp(Address::v4([10, 96, 0, last]));
        table.set(address, Some(ServicePorts::new(ports.collect()))).unwrap();
    }
    snapshot
}

/// The tuples of datagrams of A to all of them.
fn to_many(ips: std::ops::Range<u8>) -> impl Iterator<Item = Tuple> {
    let ports = |last| (1..=PORTS_MAX as u16).map(move |port| (last, port));
    ips.flat_map(ports).map(|(last, dst_port)| {
        let dst = Address::v4([10, 96, 0, last]);
        Tuple { dst, dst_port, ..to_service(V4, proto::UDP, CLIENT) }
    })
}

/// The addresses and ports of services that a worker knows are numbered by two bytes.
#[test]
fn one_pod_with_many_services_leaves_numbers_to_others() {
    let mut rig = Rig::of(RigConfig { flows_per_worker: 1 << 18, ..RigConfig::default() });
    let services = with_many(snapshot(1, IngressOfB::Open), 2..10, Affinity::None);
    rig.shared.publish(with_backends(services, outside_backends(200..201)));
    let mut forwarded = 0;
    for tuple in to_many(2..10) {
        forwarded += send(&mut rig, A, &packet(A, &tuple, 0, b"")).len();
        let _ = rig.events();
    }
    let refused = rig.dropped(DropReason::ServiceFull);
    assert_eq!((forwarded, refused), (16_384, 16_384), "half of them, a service and its backend");
    let of_a = rig.workers[0].link_statistics()[A.index()];
    assert_eq!((of_a.over_quota.services, of_a.over_quota.flows), (refused, 0));
    for client in CLIENT..CLIENT + 16 {
        let of_b = Tuple { src: pod(V4, B), ..to_service(V4, proto::UDP, client) };
        assert_eq!(send(&mut rig, B, &packet(B, &of_b, 0, b"")).len(), 1, "B has its share");
    }
    assert_eq!(rig.workers[0].link_statistics()[B.index()].over_quota.services, 0);
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

#[test]
fn the_client_of_a_service_and_its_backend_directly() {
    for workers in 1..=2 {
        let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
        let tuple = to_service(V4, proto::TCP, CLIENT);
        let at_b = connect(&mut rig, &tuple);
        // The same port directly: another connection, which has the same tuple at the backend.
        assert!(send(&mut rig, A, &packet(A, &at_b, SYN, b"")).is_empty());
        assert_eq!(rig.dropped(DropReason::ServiceConflict), 1);
        let (_, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), ACK, b"x"));
        assert_eq!(view(&bytes).tuple, tuple.reversed());
        // After the end of the first connection it may.
        send_one(&mut rig, A, &packet(A, &tuple, RST | ACK, b""));
        send_one(&mut rig, A, &packet(A, &at_b, SYN, b""));
        let (_, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), SYN | ACK, b""));
        assert_eq!(view(&bytes).tuple, at_b.reversed());

        let tuple = to_service(V4, proto::UDP, CLIENT);
        let at_b = open(&mut rig, &tuple);
        for sent in [at_b, tuple, at_b] {
            send_one(&mut rig, A, &packet(A, &sent, 0, b"q"));
            let (_, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), 0, b"a"));
            assert_eq!(view(&bytes).tuple, sent.reversed(), "the last way that was used");
        }
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

/// An ICMP error "port unreachable" or "too big" about a frame.
fn error_about(from: LinkId, (src, dst): (Address, Address), about: &[u8], mtu: bool) -> Vec<u8> {
    let step = ethernet(from);
    let mut bytes = Vec::new();
    let quote = &about[14..about.len().min(14 + 128)];
    match src.is_v4() {
        true => {
            let [src, dst] = [src, dst].map(|a| (a.bits() as u32).to_be_bytes());
            let (code, word) = if mtu { (4, [0, 0, 5, 0x78]) } else { (3, [0; 4]) };
            step.ipv4(src, dst, 64).icmpv4_raw(3, code, word).write(&mut bytes, quote).unwrap();
        }
        false => {
            let [src, dst] = [src, dst].map(|a| a.bits().to_be_bytes());
            let (kind, code, word) = if mtu { (2, 0, [0, 0, 5, 0x78]) } else { (1, 4, [0; 4]) };
            let step = step.ipv6(src, dst, 64).icmpv6_raw(kind, code, word);
            step.write(&mut bytes, quote).unwrap();
        }
    }
    bytes
}

/// Sends an ICMP error to every worker that it may be steered to, which is by its own addresses.
#[track_caller]
fn expect_error(
    rig: &mut Rig,
    link: LinkId,
    bytes: &[u8],
    expected: (LinkId, (Address, Address), Tuple),
) {
    let (to, ends, about) = expected;
    let (link, bytes) = send_one(rig, link, bytes);
    let view = parse(&bytes, bytes.len() as u32).unwrap();
    assert_eq!((link, (view.tuple.src, view.tuple.dst)), (to, ends));
    assert_eq!(quoted(&bytes, &view), Some(about));
    let l4 = usize::from(view.l4);
    match view.is_v4() {
        true => assert_eq!(podgate_dataplane::packet::checksum::of(&bytes[l4..]), 0),
        false => {
            let slice = etherparse::Icmpv6Slice::from_slice(&bytes[l4..]).unwrap();
            let [src, dst] = [ends.0, ends.1].map(|a| a.bits().to_be_bytes());
            assert!(slice.is_checksum_valid(src, dst));
        }
    }
}

#[test]
fn icmp_errors_are_about_what_their_receiver_sent() {
    for workers in 1..=3 {
        for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
            for client in CLIENT..CLIENT + 4 {
                let mut rig = rig(workers, to_b(snapshot(1, IngressOfB::Open)));
                let tuple = to_service(family, protocol, client);
                let (a, b, ip) = (pod(family, A), pod(family, B), cluster_ip(family));
                let (_, forwarded) = send_one(&mut rig, A, &packet(A, &tuple, SYN, &[7; 100]));
                let at_b = view(&forwarded).tuple;
                let about_request = error_about(B, (b, a), &forwarded, false);
                expect_error(&mut rig, B, &about_request, (A, (ip, a), tuple));
                let reply = packet(B, &at_b.reversed(), SYN | ACK, &[8; 100]);
                let (_, reply) = send_one(&mut rig, B, &reply);
                let about_reply = error_about(A, (a, ip), &reply, false);
                expect_error(&mut rig, A, &about_reply, (B, (a, b), at_b.reversed()));
                // About a service that the pod has not called.
                let other = Tuple { src_port: 1, ..tuple }.reversed();
                let about = error_about(A, (a, ip), &packet(B, &other, 0, b"12345678"), false);
                assert!(send(&mut rig, A, &about).is_empty());
                assert_eq!(rig.dropped(DropReason::IcmpUnrelated), 1);
                rig.expire_all();
                rig.assert_no_frame_is_lost();
            }
        }
    }
}

#[test]
fn a_router_on_the_way_to_a_backend_reports_the_path_mtu_of_the_service() {
    for family in FAMILIES {
        let backends = outside_backends(7..8);
        let mut rig = rig(2, with_backends(snapshot(1, IngressOfB::Open), backends));
        let tuple = to_service(family, proto::TCP, CLIENT);
        let (link, forwarded) = send_one(&mut rig, A, &packet(A, &tuple, SYN, &[7; 100]));
        assert_eq!(link, HOST);
        let router = outside(family, 200);
        let error = error_about(HOST, (router, pod(family, A)), &forwarded, true);
        expect_error(&mut rig, HOST, &error, (A, (router, pod(family, A)), tuple));
    }
}

#[test]
fn errors_of_podgate_quote_what_their_receiver_sent() {
    for family in FAMILIES {
        let mut rig = rig(2, to_b(snapshot_with(1, IngressOfB::Open, [9000, 9000, 1500])));
        let tuple = to_service(family, proto::UDP, CLIENT);
        let sent = packet(A, &tuple, 0, &[7; 3000]);
        let (link, bytes) = send_one(&mut rig, A, &sent);
        let error = parse(&bytes, bytes.len() as u32).unwrap();
        assert_eq!((link, quoted(&bytes, &error)), (A, Some(tuple)));
        let quote = &bytes[usize::from(error.payload)..];
        assert_eq!(quote, &sent[14..14 + quote.len()]);
        assert_eq!(rig.dropped(DropReason::PacketTooBig), 1);
        let mut rig = self::rig(2, to_b(snapshot_with(1, IngressOfB::Open, [9000, 1500, 9000])));
        let at_b = open(&mut rig, &tuple);
        let sent = packet(B, &at_b.reversed(), 0, &[7; 3000]);
        let (link, bytes) = send_one(&mut rig, B, &sent);
        let error = parse(&bytes, bytes.len() as u32).unwrap();
        assert_eq!((link, quoted(&bytes, &error)), (B, Some(at_b.reversed())));
    }
}

#[test]
fn fragments_to_a_service_are_translated_as_one_datagram() {
    for workers in 1..=3 {
        for family in FAMILIES {
            for client in CLIENT..CLIENT + 4 {
                let small = [9000, 1500, 1500];
                let mut rig = rig(workers, to_b(snapshot_with(1, IngressOfB::Open, small)));
                let tuple = to_service(family, proto::UDP, client);
                let at_b = to_backend(tuple, (pod(family, B), 80));
                let ways = [(A, tuple, B, at_b), (B, at_b.reversed(), A, tuple.reversed())];
                for (from, sent, to, expected) in ways {
                    let fragments = cut(&packet(from, &sent, 0, &[7; 3000]), 9, 1400);
                    let mut out = Vec::new();
                    for fragment in &fragments {
                        out.extend(send(&mut rig, from, fragment));
                    }
                    assert_eq!(out.len(), fragments.len());
                    let mut body: Vec<u8> = Vec::new();
                    for (link, bytes) in &out {
                        let view = parse(bytes, bytes.len() as u32).unwrap();
                        assert_eq!(*link, to);
                        assert_eq!(view.tuple.src, expected.src);
                        assert_eq!(view.tuple.dst, expected.dst);
                        body.extend(&bytes[usize::from(view.l4)..]);
                    }
                    let whole = packet(from, &expected, 0, &[7; 3000]);
                    assert_eq!(body, whole[whole.len() - body.len()..]);
                }
                rig.expire_all();
                rig.assert_no_frame_is_lost();
            }
        }
    }
}

#[test]
fn partial_checksums_are_completed_on_both_ways() {
    for protocol in [proto::TCP, proto::UDP] {
        for family in FAMILIES {
            let mut rig = rig(2, to_b(snapshot(1, IngressOfB::Open)));
            let tuple = to_service(family, protocol, CLIENT);
            let mut syn = packet(A, &tuple, SYN, b"odd");
            make_partial(&mut syn);
            let (_, bytes) = send_one(&mut rig, A, &syn);
            let at_b = view(&bytes).tuple;
            let mut reply = packet(B, &at_b.reversed(), SYN | ACK, b"even");
            make_partial(&mut reply);
            let (_, bytes) = send_one(&mut rig, B, &reply);
            assert_eq!(view(&bytes).tuple, tuple.reversed());
        }
    }
}

#[test]
fn flows_to_services_outlive_a_restart_and_a_change_of_backends() {
    for (before, after) in [(1, 2), (2, 1), (2, 3)] {
        let first = with_backends(snapshot(1, IngressOfB::Open), outside_backends(1..9));
        let mut rig = rig(before, first);
        let tuples: Vec<_> = (0..16)
            .map(|n| to_service(if n % 2 == 0 { V4 } else { V6 }, proto::TCP, CLIENT + n))
            .collect();
        let at_servers: Vec<_> = tuples
            .iter()
            .map(|tuple| {
                let at_server = open(&mut rig, tuple);
                let answer = packet(HOST, &at_server.reversed(), SYN | ACK, b"");
                send_one(&mut rig, HOST, &answer);
                send_one(&mut rig, A, &packet(A, tuple, ACK, b""));
                at_server
            })
            .collect();
        let now = rig.now;
        let saved: Vec<SavedFlow> =
            rig.workers.iter().flat_map(|worker| worker.saved_flows(now)).collect();
        assert_eq!(saved.len(), tuples.len());
        let mut rig = Rig::new(after);
        let next = with_backends(snapshot(2, IngressOfB::Open), outside_backends(20..30));
        let next = Arc::new(next);
        let now = rig.now;
        let restored: usize =
            rig.workers.iter_mut().map(|w| w.restore_flows(now, &next, &saved)).sum();
        assert_eq!(restored, saved.len());
        rig.shared.publish(next);
        for (tuple, at_server) in tuples.iter().zip(&at_servers) {
            let (_, bytes) = send_one(&mut rig, A, &packet(A, tuple, ACK, b"x"));
            assert_eq!(view(&bytes).tuple, *at_server);
            let reply = packet(HOST, &at_server.reversed(), FIN | ACK, b"y");
            let (_, bytes) = send_one(&mut rig, HOST, &reply);
            assert_eq!(view(&bytes).tuple, tuple.reversed());
        }
        // The servers reset the connections, which the clients' entries do not outlive.
        assert_eq!(flows(&rig), 32);
        for at_server in &at_servers {
            send_one(&mut rig, HOST, &packet(HOST, &at_server.reversed(), RST, b""));
        }
        rig.now = rig.now.plus_secs(160);
        run_timers(&mut rig);
        assert_eq!(flows(&rig), 0);
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_segment_of_a_lost_connection_resets_its_sender() {
    // Policy allows the connection in one direction only, so it isn't picked up.
    let mut rig = rig(2, to_b(guarded(1, IngressOfB::FromA(None))));
    let tuple = to_service(V4, proto::TCP, CLIENT);
    let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, ACK, b"x"));
    let reset = view(&bytes);
    assert_eq!((link, reset.tuple), (A, tuple.reversed()));
    assert!(matches!(reset.l4_kind, L4::Tcp(segment) if segment.has(RST)));
}

#[test]
fn a_segment_of_a_lost_inspected_connection_resets_the_backend_too() {
    let inspected = IngressOfB::FromA(Some(L7Rules::http(Vec::new())));
    let mut rig = rig(2, to_b(snapshot(1, inspected)));
    let tuple = to_service(V4, proto::TCP, CLIENT);
    let left = send(&mut rig, A, &packet(A, &tuple, ACK, b"x"));
    let mut resets = left.iter().map(|(link, bytes)| (*link, view(bytes))).collect::<Vec<_>>();
    resets.sort_by_key(|(link, _)| *link);
    let to = resets.iter().map(|(link, reset)| (*link, reset.tuple)).collect::<Vec<_>>();
    assert_eq!(to, [(A, tuple.reversed()), (B, to_backend(tuple, (pod(V4, B), 80)))]);
    let is_reset = |view: &View| matches!(view.l4_kind, L4::Tcp(tcp) if tcp.has(RST));
    assert!(resets.iter().all(|(_, reset)| is_reset(reset)));
}

#[test]
fn flows_to_an_address_that_becomes_a_cluster_ip() {
    let mut rig = rig(1, snapshot(1, IngressOfB::Open));
    let [connection, datagrams] =
        [proto::TCP, proto::UDP].map(|protocol| to_service(V4, protocol, CLIENT));
    for tuple in [connection, datagrams] {
        assert_eq!(open(&mut rig, &tuple), tuple);
        let answer = packet(HOST, &tuple.reversed(), SYN | ACK, b"");
        send_one(&mut rig, HOST, &answer);
        send_one(&mut rig, A, &packet(A, &tuple, ACK, b""));
    }
    rig.shared.publish(to_b(snapshot(2, IngressOfB::Open)));
    for (tuple, link) in [(connection, HOST), (datagrams, B)] {
        assert_eq!(send_one(&mut rig, A, &packet(A, &tuple, ACK, b"x")).0, link);
    }
}

/// Services with each other's addresses as backends don't make a packet loop.
#[test]
fn a_backend_that_is_a_cluster_ip_is_not_translated_again() {
    let second = Address::v4([10, 96, 0, 2]);
    let mut snapshot =
        with_ports(snapshot(1, IngressOfB::Open), V4, vec![port(proto::UDP, &[(second, PORT)])]);
    let services = &mut Arc::make_mut(&mut snapshot.policy).services;
    let back = ServicePorts::new(vec![port(proto::UDP, &[(cluster_ip(V4), PORT)])]);
    services.set(ServiceAddress::ClusterIp(second), Some(back)).unwrap();
    let mut rig = rig(1, snapshot);
    let first = to_service(V4, proto::UDP, CLIENT);
    let other = Tuple { dst: second, ..first };
    for tuple in [first, other, first, other] {
        let out = send(&mut rig, A, &packet(A, &tuple, 0, b"q"));
        assert!(out.iter().all(|(link, _)| *link == HOST));
    }
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

/// An address of a pod is not a service's, and that of a node is no cluster IP, whatever the tables
/// say.
#[test]
fn a_pods_address_is_never_translated() {
    let mut snapshot = snapshot(1, IngressOfB::Open);
    let services = &mut Arc::make_mut(&mut snapshot.policy).services;
    let stolen = ServicePorts::new(vec![port(proto::TCP, &[(outside(V4, 9), 80)])]);
    for at in [
        ServiceAddress::ClusterIp(pod(V4, HOST)),
        ServiceAddress::ClusterIp(pod(V4, B)),
        ServiceAddress::External(pod(V4, B)),
    ] {
        services.set(at, Some(stolen.clone())).unwrap();
    }
    let mut rig = rig(1, snapshot);
    for link in [HOST, B] {
        let tuple = Tuple { dst: pod(V4, link), ..to_service(V4, proto::TCP, CLIENT) };
        assert_eq!(send_one(&mut rig, A, &packet(A, &tuple, SYN, b"")).0, link);
    }
}

/// The service's backend is port 80 of pod B. Pods reach it by a node port, and by external
/// addresses, one of which is the node's.
fn external_to_b(mut snapshot: Snapshot) -> Snapshot {
    let services = &mut Arc::make_mut(&mut snapshot.policy).services;
    for family in FAMILIES {
        let ports = |number| {
            let ports = PROTOCOLS.map(|protocol| ServicePort {
                port: number,
                ..port(protocol, &[(pod(family, B), 80)])
            });
            Some(ServicePorts::new(ports.to_vec()))
        };
        services.set(ServiceAddress::Node { v4: family == V4 }, ports(NODE_PORT)).unwrap();
        for address in [outside(family, 50), pod(family, HOST)] {
            services.set(ServiceAddress::External(address), ports(PORT)).unwrap();
        }
    }
    snapshot
}

const NODE_PORT: u16 = 30_080;

/// The tuples of A to the service of [`external_to_b`].
fn to_external(protocol: u8, client: u16) -> impl Iterator<Item = (Family, Tuple)> {
    let with = move |family| {
        let to = |dst, dst_port| Tuple { dst, dst_port, ..to_service(family, protocol, client) };
        let node = pod(family, HOST);
        let all = [to(node, NODE_PORT), to(node, PORT), to(outside(family, 50), PORT)];
        all.map(|tuple| (family, tuple))
    };
    FAMILIES.into_iter().flat_map(with)
}

#[test]
fn node_ports_and_external_addresses_are_translated_for_pods() {
    for (workers, protocol) in (1..=2).flat_map(|n| PROTOCOLS.map(|protocol| (n, protocol))) {
        let mut rig = rig(workers, external_to_b(snapshot(1, IngressOfB::Open)));
        for client in CLIENT..CLIENT + 4 {
            for (number, (family, tuple)) in to_external(protocol, client * 2).enumerate() {
                // Else the flows have one tuple at the backend.
                let tuple = Tuple { src_port: tuple.src_port + number as u16 * 100, ..tuple };
                let at_b = connect(&mut rig, &tuple);
                assert_eq!(at_b, to_backend(tuple, (pod(family, B), 80)));
                let verdict = rig.events().remove(0);
                let frontend = L4Addr { address: tuple.dst, port: tuple.dst_port };
                assert_eq!((verdict.tuple, verdict.frontend), (at_b, Some(frontend)));
            }
        }
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

/// The node may always be sent to, and its kernel would translate and masquerade what policy
/// denies.
#[test]
fn policy_of_the_client_decides_on_the_backend_of_a_node_port() {
    let mut rig = rig(1, without_egress_of_a(external_to_b(snapshot(1, IngressOfB::Open))));
    let mut sent = 0;
    for protocol in PROTOCOLS {
        for (family, tuple) in to_external(protocol, CLIENT) {
            assert!(send(&mut rig, A, &packet(A, &tuple, SYN, b"q")).is_empty(), "{tuple:?}");
            sent += 1;
            assert_eq!(rig.dropped(DropReason::PolicyDenied), sent);
            assert_eq!(rig.events()[0].tuple, to_backend(tuple, (pod(family, B), 80)));
        }
    }
    // What the node itself serves.
    for (protocol, dst_port) in [(proto::TCP, 10_250), (proto::UDP, 53)] {
        let tuple = Tuple { dst: pod(V4, HOST), dst_port, ..to_service(V4, protocol, CLIENT) };
        let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, SYN, b""));
        assert_eq!((link, view(&bytes).tuple), (HOST, tuple));
    }
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

#[test]
fn packets_from_the_host_link_to_node_ports_are_not_translated() {
    let mut rig = rig(1, external_to_b(snapshot(1, IngressOfB::Open)));
    let tuple = Tuple { src: outside(V4, 9), ..to_service(V4, proto::TCP, CLIENT) };
    for (number, (dst, dst_port)) in
        [(pod(V4, HOST), NODE_PORT), (outside(V4, 50), PORT)].into_iter().enumerate()
    {
        // It is for neither pod, as it would be once it were translated.
        let tuple = Tuple { dst, dst_port, ..tuple };
        assert!(send(&mut rig, HOST, &packet(HOST, &tuple, SYN, b"")).is_empty());
        assert_eq!(rig.dropped(DropReason::Unroutable), number as u64 + 1);
        assert_eq!(rig.events()[0].tuple, tuple);
    }
}

/// Nothing is allowed to pod A.
fn without_egress_of_a(mut snapshot: Snapshot) -> Snapshot {
    const POD_A: u32 = 4;
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut row = policy.identities.get(POD_A).unwrap().clone();
    row.egress = Arc::new(closed());
    policy.identities.set(POD_A, row);
    snapshot
}

/// A connection to the node, which the kernel translates, from before the service was known.
#[test]
fn a_connection_to_what_becomes_a_node_port_is_decided_again() {
    let open = || without_egress_of_a(snapshot(1, IngressOfB::Open));
    let mut rig = rig(1, open());
    let to_node = to_service(V4, proto::TCP, CLIENT);
    let tuple = Tuple { dst: pod(V4, HOST), dst_port: NODE_PORT, ..to_node };
    assert_eq!(connect_to_host(&mut rig, &tuple), tuple);
    let now = rig.now;
    let saved: Vec<SavedFlow> =
        rig.workers.iter().flat_map(|worker| worker.saved_flows(now)).collect();
    assert_eq!(saved.len(), 1);
    let next = || {
        let next = snapshot(2, IngressOfB::Open);
        without_egress_of_a(external_to_b(next))
    };
    rig.shared.publish(next());
    assert!(send(&mut rig, A, &packet(A, &tuple, ACK, b"x")).is_empty());
    // The node could open this connection, so its segment is reset, and not forwarded.
    let (link, bytes) = send_one(&mut rig, HOST, &packet(HOST, &tuple.reversed(), ACK, b"y"));
    assert_eq!((link, view(&bytes).tuple), (HOST, tuple));
    assert_eq!(view(&bytes).tcp().unwrap().flags & RST, RST);
    // Nor is it taken over by the next agent.
    let mut restarted = Rig::new(1);
    let next = Arc::new(next());
    let now = restarted.now;
    assert_eq!(restarted.workers[0].restore_flows(now, &next, &saved), 0);
}

/// Opens a TCP connection to the host link completely, and returns the tuple there.
#[track_caller]
fn connect_to_host(rig: &mut Rig, tuple: &Tuple) -> Tuple {
    let there = open(rig, tuple);
    let (link, _) = send_one(rig, HOST, &packet(HOST, &there.reversed(), SYN | ACK, b""));
    assert_eq!(link, A);
    assert_eq!(send_one(rig, A, &packet(A, tuple, ACK, b"")).0, HOST);
    there
}

/// The cluster IP's backend is a port of the node, which is what the snapshot says.
fn to_node_at(snapshot: Snapshot, number: u16) -> Snapshot {
    let ports = vec![port(proto::TCP, &[(pod(V4, HOST), number)])];
    with_ports(snapshot, V4, ports)
}

#[test]
fn a_backend_that_is_another_services_node_port_gets_nothing() {
    let snapshot_with = external_to_b(snapshot(1, IngressOfB::Open));
    let mut rig = rig(1, to_node_at(snapshot_with, NODE_PORT));
    let tuple = to_service(V4, proto::TCP, CLIENT);
    assert!(send(&mut rig, A, &packet(A, &tuple, SYN, b"")).is_empty());
    assert_eq!(rig.dropped(DropReason::ServiceConflict), 1);
    // A port that the node itself serves.
    rig.shared.publish(to_node_at(snapshot(2, IngressOfB::Open), 10_250));
    let tuple = to_service(V4, proto::TCP, CLIENT + 1);
    let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, SYN, b""));
    assert_eq!((link, view(&bytes).tuple.dst_port), (HOST, 10_250));
}

/// A process of the node that listens where its service is offered, such as an ingress proxy in the
/// node's network.
#[test]
fn a_backend_at_the_services_own_address_gets_the_packet_as_it_is() {
    let with = |epoch| {
        let mut snapshot = snapshot(epoch, IngressOfB::Open);
        let services = &mut Arc::make_mut(&mut snapshot.policy).services;
        let ports = vec![port(proto::TCP, &[(pod(V4, HOST), PORT)])];
        let at = ServiceAddress::External(pod(V4, HOST));
        services.set(at, Some(ServicePorts::new(ports))).unwrap();
        snapshot
    };
    let mut rig = rig(1, with(1));
    let tuple = Tuple { dst: pod(V4, HOST), ..to_service(V4, proto::TCP, CLIENT) };
    assert_eq!(connect_to_host(&mut rig, &tuple), tuple);
    rig.shared.publish(with(2));
    assert_eq!(send_one(&mut rig, A, &packet(A, &tuple, ACK, b"x")).0, HOST);
    // The kernel may choose another backend, so the pod needs to be allowed to send there.
    rig.shared.publish(without_egress_of_a(with(3)));
    assert!(send(&mut rig, A, &packet(A, &tuple, ACK, b"x")).is_empty());
}

#[test]
fn without_room_for_all_external_addresses_the_node_is_an_address_like_any_other() {
    let mut snapshot = without_egress_of_a(snapshot(1, IngressOfB::Open));
    Arc::make_mut(&mut snapshot.policy).services.is_incomplete = true;
    let mut rig = rig(1, snapshot);
    for protocol in PROTOCOLS {
        let tuple = Tuple { dst: pod(V4, HOST), ..to_service(V4, protocol, CLIENT) };
        assert!(send(&mut rig, A, &packet(A, &tuple, SYN, b"")).is_empty());
    }
    assert_eq!(rig.dropped(DropReason::PolicyDenied), 3);
}

#[test]
fn a_pod_reaches_itself_by_a_node_port() {
    for workers in 1..=2 {
        let mut snapshot = guarded(1, IngressOfB::Closed);
        let services = &mut Arc::make_mut(&mut snapshot.policy).services;
        for family in FAMILIES {
            let to_a = port(proto::TCP, &[(pod(family, A), 80)]);
            let ports = ServicePorts::new(vec![ServicePort { port: NODE_PORT, ..to_a }]);
            services.set(ServiceAddress::Node { v4: family == V4 }, Some(ports)).unwrap();
        }
        let mut rig = rig(workers, snapshot);
        for family in FAMILIES {
            let node = pod(family, HOST);
            let to_node = to_service(family, proto::TCP, CLIENT);
            let tuple = Tuple { dst: node, dst_port: NODE_PORT, ..to_node };
            let at_server = Tuple { src: node, dst: pod(family, A), dst_port: 80, ..tuple };
            assert_reaches_itself(&mut rig, &tuple, &at_server);
        }
        rig.expire_all();
        rig.assert_no_frame_is_lost();
    }
}

#[test]
fn a_node_port_without_backends_rejects() {
    let mut snapshot = snapshot(1, IngressOfB::Open);
    let services = &mut Arc::make_mut(&mut snapshot.policy).services;
    let ports = [proto::TCP, proto::UDP]
        .map(|protocol| ServicePort { port: NODE_PORT, ..port(protocol, &[]) });
    let ports = ServicePorts::new(ports.to_vec());
    services.set(ServiceAddress::Node { v4: true }, Some(ports)).unwrap();
    let mut rig = rig(1, snapshot);
    for protocol in [proto::TCP, proto::UDP] {
        let to_node = to_service(V4, protocol, CLIENT);
        let tuple = Tuple { dst: pod(V4, HOST), dst_port: NODE_PORT, ..to_node };
        let (link, bytes) = send_one(&mut rig, A, &packet(A, &tuple, SYN, b""));
        assert_eq!(link, A);
        let answer = parse(&bytes, bytes.len() as u32).unwrap();
        let is_icmp = matches!(answer.l4_kind, L4::IcmpError { .. });
        assert_eq!(is_icmp, protocol == proto::UDP, "{answer:?}");
    }
    assert_eq!(rig.dropped(DropReason::ServiceNoBackend), 2);
}

#[test]
fn connections_to_node_ports_outlive_a_restart() {
    let mut rig = rig(1, external_to_b(snapshot(1, IngressOfB::Open)));
    let tuples: Vec<_> = to_external(proto::TCP, CLIENT)
        .enumerate()
        .map(|(number, (_, tuple))| Tuple { src_port: CLIENT + number as u16, ..tuple })
        .collect();
    let at_b: Vec<_> = tuples.iter().map(|tuple| connect(&mut rig, tuple)).collect();
    let now = rig.now;
    let saved: Vec<SavedFlow> =
        rig.workers.iter().flat_map(|worker| worker.saved_flows(now)).collect();
    assert_eq!(saved.len(), tuples.len());
    // Also if the service has no node port any more.
    for next in [external_to_b(snapshot(2, IngressOfB::Open)), snapshot(2, IngressOfB::Open)] {
        let mut rig = Rig::new(2);
        let next = Arc::new(next);
        let now = rig.now;
        let restored: usize =
            rig.workers.iter_mut().map(|w| w.restore_flows(now, &next, &saved)).sum();
        assert_eq!(restored, saved.len());
        rig.shared.publish(next);
        for (tuple, at_b) in tuples.iter().zip(&at_b) {
            let (_, bytes) = send_one(&mut rig, A, &packet(A, tuple, ACK, b"x"));
            assert_eq!(view(&bytes).tuple, *at_b);
            let (_, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), ACK, b"y"));
            assert_eq!(view(&bytes).tuple, tuple.reversed());
        }
    }
}

#[test]
fn nobody_can_send_into_a_translated_flow_from_the_wrong_side() {
    let mut rig = rig(2, to_b(snapshot(1, IngressOfB::Open)));
    let tuple = to_service(V4, proto::UDP, CLIENT);
    let at_b = open(&mut rig, &tuple);
    // From outside, with the service's address as the source.
    assert!(send(&mut rig, HOST, &packet(HOST, &tuple.reversed(), 0, b"x")).is_empty());
    assert_eq!(rig.dropped(DropReason::ServiceConflict), 1);
    // B, with the client's tuple.
    assert!(send(&mut rig, B, &packet(B, &tuple, 0, b"x")).is_empty());
    assert_eq!(rig.dropped(DropReason::SpoofedSource), 1);
    let (_, bytes) = send_one(&mut rig, B, &packet(B, &at_b.reversed(), 0, b"x"));
    assert_eq!(view(&bytes).tuple, tuple.reversed());
}
