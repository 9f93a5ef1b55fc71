//! The third executor: synthesised packets through a whole worker, on the compiled tables.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use podgate_dataplane::mem::Umem;
use podgate_dataplane::packet::HostFrame;
use podgate_dataplane::packet::checksum::{self, Sum};
use podgate_dataplane::packet::icmp::{self, Role};
use podgate_dataplane::worker::{Shared, SharedConfig, Worker};
use podgate_dataplane::xsk::RingSizes;
use podgate_dataplane::xsk::memory::{self, MemoryLink};
use podgate_policy::Compiled;
use podgate_policy::oracle::{HttpRequest, KafkaRequest, OracleRequest};
use podgate_policy::truth::Row;
use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::l7::L7Protocol;
use podgate_tables::policy::{Snapshot, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::route::{Endpoint, NextHop, RouteTable};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use podgate_test_support::{client_hello, kafka_request};

use crate::support::Answer;

const HOST: LinkId = LinkId(0);
const RINGS: RingSizes = RingSizes { fill: 8, idle: 8, completion: 8, rx: 8, tx: 8 };
/// Longer than any idle timeout, so that earlier questions leave no trace.
const BETWEEN_QUESTIONS_SECS: u64 = 3 * 3600;

const CLIENT_ISN: u32 = 1_000;
const SERVER_ISN: u32 = 9_000;
/// Of Kafka requests.
const CORRELATION_ID: i32 = 0x5eed_cafe;

/// Whether packets can ask this at all: traffic of a pod with itself and between two addresses
/// outside never comes to a worker, and an ICMP error or reply has no flow of its own.
pub(crate) fn can_ask(row: &Row) -> bool {
    let Row { subject, local, service, .. } = row;
    let is_icmp = matches!(subject.tuple.protocol, proto::ICMP | proto::ICMPV6);
    let alone = matches!(
        icmp::role(subject.tuple.protocol, subject.icmp_type),
        Role::Reply { .. } | Role::Error
    );
    (service.is_some() || subject.tuple.src != subject.tuple.dst)
        && (local.source || local.destination)
        && !(is_icmp && alone)
}

/// A row's flow as its destination sees it: a pod that reaches itself through a service has the
/// service's address there.
fn at_destination(row: &Row) -> Subject {
    let mut subject = row.subject;
    if let Some(call) = row.service.as_ref().filter(|_| subject.tuple.src == subject.tuple.dst) {
        subject.tuple.src = call.frontend.address;
    }
    subject
}

fn next_hop(link: LinkId) -> NextHop {
    NextHop {
        link,
        mac: [2, 0, 0, 0, 0, link.0 as u8],
        link_mac: [2, 0, 0, 0, 1, 0],
        mtu: 1500,
        path_mtu: 1500,
    }
}

/// One worker without a thread, the host's link, and one link for each local address.
pub(crate) struct Bench {
    shared: Arc<Shared>,
    worker: Worker,
    kernel: Vec<MemoryLink>,
    links: HashMap<Address, LinkId>,
    now: Nanos,
}

impl Bench {
    /// A worker that enforces `compiled`, and the links that these rows need.
    pub(crate) fn new(compiled: &Compiled, rows: &[Row]) -> Self {
        let mut links = HashMap::new();
        for Row { subject: Subject { tuple, .. }, local, .. } in rows {
            for (address, _) in [tuple.src, tuple.dst]
                .iter()
                .zip([local.source, local.destination])
                .filter(|end| end.1)
            {
                let next = LinkId(links.len() as u16 + 1);
                links.entry(*address).or_insert(next);
            }
        }
        let endpoints = links.iter().map(|(address, link)| Endpoint {
            next_hop: next_hop(*link),
            addresses: vec![*address],
        });
        let routes = RouteTable::new(endpoints, Some(next_hop(HOST))).unwrap();
        let config = SharedConfig {
            workers: 1,
            flows_per_worker: 16,
            inspected_per_worker: 16,
            events_per_worker: 64,
            ..SharedConfig::default()
        };
        let shared = Shared::new(config);
        shared.publish(Snapshot {
            epoch: Epoch(1),
            policy: Arc::clone(&compiled.tables),
            routes: Arc::new(routes),
        });
        let umem = Umem::new(16 * (links.len() as u32 + 1) + 64).unwrap();
        let mut worker = Worker::new(&shared, 0, umem.pool());
        let kernel = (0..=links.len()).map(|link| {
            let (ports, memory) = memory::link(&umem, LinkId(link as u16), 1, RINGS);
            ports.into_iter().for_each(|port| worker.add_queue(port));
            memory
        });
        let kernel = kernel.collect();
        Self { shared, worker, kernel, links, now: Nanos(1) }
    }

    /// What the worker does with a row's first packet, and with its request if [`is_sent`];
    /// `protocol` is that of the flow's L7 rules. On a flow whose requests no inspector can read,
    /// nothing passes at all.
    pub(crate) fn ask(&mut self, row: &Row, protocol: Option<L7Protocol>) -> Answer {
        self.forget();
        let Row { local, request, text, .. } = row;
        let (subject, sent) = (&at_destination(row), &row.as_sent());
        let ends = [(sent.tuple.src, local.source), (subject.tuple.dst, local.destination)];
        let links = ends.map(|(address, local)| if local { self.links[&address] } else { HOST });
        let name = match request {
            Some(OracleRequest::Dns(name)) => name,
            _ => "name.test",
        };
        let opened = match subject.tuple.protocol {
            proto::UDP => self.send(links[0], &udp(sent.tuple, &query(name))),
            _ => self.send(links[0], &opening(sent)),
        };
        let (verdict, is_readable) = self.reported();
        let passes = verdict != Verdict::Deny && is_readable;
        let forwarded: Vec<LinkId> = opened.iter().map(|(link, _)| *link).collect();
        if passes && verdict == Verdict::Inspect && subject.tuple.protocol == proto::UDP {
            let (passed, denied) = query_outcome(links, &opened, &query(name));
            assert_ne!(passed, denied, "{name} either passes or is denied");
            return Answer { verdict, request: request.as_ref().map(|_| passed) };
        }
        let expected = if passes { vec![links[1]] } else { vec![] };
        assert_eq!(forwarded, expected, "{verdict:?}: {text}");
        if passes {
            assert_eq!(ends_of(&opened[0].1), ends_of(&opening(subject)), "{text}");
            self.answer(links, subject, sent, text);
        }
        let request = match request {
            Some(_) if verdict == Verdict::Inspect && !passes => Some(false),
            Some(request) if is_sent(request, verdict, protocol) => {
                let (passed, denied) = match request {
                    OracleRequest::Http(request) => self.request(links, sent.tuple, request),
                    OracleRequest::ServerName(name) => self.greet(links, sent.tuple, name),
                    OracleRequest::Dns(name) => self.query_over_tcp(links, sent.tuple, name),
                    OracleRequest::Kafka(request) => self.kafka(links, sent.tuple, request),
                };
                // The inspector of another protocol may also wait for more.
                let is_read = verdict == Verdict::Allow || protocol == Some(protocol_of(request));
                assert!(!(passed && denied), "{text} both passes and is denied");
                assert!(passed || denied || !is_read, "{text} neither passes nor is denied");
                Some(passed)
            }
            _ => None,
        };
        Answer { verdict, request }
    }

    /// Sends a packet to a service that has no backend. Whether the source is notified.
    pub(crate) fn ask_without_backend(&mut self, row: &Row) -> bool {
        self.forget();
        let sent = row.as_sent();
        let link = self.links[&sent.tuple.src];
        let left = self.send(link, &opening(&sent));
        let told = left.iter().filter(|(to, ip)| {
            let is_error = matches!(protocol_at(ip), proto::ICMP | proto::ICMPV6);
            *to == link && (is_error || is_reset(ip))
        });
        assert_eq!(told.count(), left.len(), "{}: nothing else is sent", row.text);
        !left.is_empty()
    }

    /// Sends what the destination may answer: an ICMP error about the first packet, and a reply.
    /// Both belong to the flow, so both must come to the source whatever rules say of them.
    fn answer(&mut self, links: [LinkId; 2], subject: &Subject, sent: &Subject, text: &str) {
        let answers = |of: &Subject| [Some(unreachable(of)), reply(of)].into_iter().flatten();
        for (answer, expected) in answers(subject).zip(answers(sent)) {
            let left = self.send(links[1], &answer);
            let left: Vec<_> = left.iter().map(|(link, ip)| (*link, ends_of(ip))).collect();
            assert_eq!(left, [(links[0], ends_of(&expected))], "an answer: {text}");
        }
    }

    /// Lets time pass until the worker knows of no flow.
    fn forget(&mut self) {
        self.now = self.now.plus_secs(BETWEEN_QUESTIONS_SECS);
        self.worker.round(self.now);
        assert_eq!(self.worker.flows(), 0, "flows last longer than they should");
        // Inspected flows end with resets.
        self.kernel.iter_mut().for_each(|link| {
            link.transmitted(0, &mut |_| ());
        });
        while self.shared.events[0].pop().is_some() {}
    }

    /// Sends an IP packet from the pod of `link`, or from the node on the host link. Returns the
    /// packets that were forwarded, with their links.
    fn send(&mut self, link: LinkId, ip: &[u8]) -> Vec<(LinkId, Vec<u8>)> {
        let ethertype = if ip[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let NextHop { mac, link_mac, .. } = next_hop(link);
        // Without this mark, the node's address is `world`.
        let source = if link == HOST { HostFrame::Local.mac() } else { mac };
        let frame = [&link_mac[..], &source[..], &ethertype, ip].concat();
        assert!(self.kernel[link.index()].inject(0, &frame));
        while self.worker.round(self.now) > 0 {}
        let mut left = Vec::new();
        for (link, kernel) in self.kernel.iter_mut().enumerate() {
            let mut take = |frame: &[u8]| left.push((LinkId(link as u16), frame[14..].to_vec()));
            kernel.transmitted(0, &mut take);
        }
        left
    }

    /// The verdict that the worker reported, and whether it has an inspector for the flow.
    fn reported(&self) -> (Verdict, bool) {
        let (mut reported, mut is_readable) = (None, true);
        while let Some(event) = self.shared.events[0].pop() {
            match event.kind {
                EventKind::Verdict { verdict, .. } => reported = Some(verdict),
                EventKind::Drop { reason: DropReason::L7Unsupported } => is_readable = false,
                _ => {}
            }
        }
        (reported.expect("a worker reports what it decides"), is_readable)
    }

    /// Ends the handshake, which was answered already, and sends the request. Whether it reached
    /// the destination, and whether the source had its 403.
    fn request(&mut self, links: [LinkId; 2], tuple: Tuple, request: &HttpRequest) -> (bool, bool) {
        self.send(links[0], &tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, b""));
        let HttpRequest { method, path, host, headers } = request;
        let host = if host.is_empty() { "host" } else { host };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let segment = tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, text.as_bytes());
        let left = self.send(links[0], &segment);
        let reached = |link: LinkId, text: &[u8]| {
            left.iter().any(|(at, ip)| *at == link && ip.windows(text.len()).any(|w| w == text))
        };
        (reached(links[1], text.as_bytes()), reached(links[0], b"HTTP/1.1 403 Forbidden\r\n"))
    }

    /// Ends the handshake, and sends a TLS ClientHello with this server name; without one, if it is
    /// empty. Whether it reached the destination, and whether both ends were reset.
    fn greet(&mut self, links: [LinkId; 2], tuple: Tuple, name: &str) -> (bool, bool) {
        self.send(links[0], &tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, b""));
        let hello = client_hello(name);
        let left =
            self.send(links[0], &tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, &hello));
        let passed = left
            .iter()
            .any(|(at, ip)| *at == links[1] && ip.windows(hello.len()).any(|w| w == hello));
        let reset = links.map(|link| left.iter().any(|(at, ip)| *at == link && is_reset(ip)));
        assert_eq!(reset[0], reset[1], "{name:?} resets both ends or none");
        (passed, reset[0])
    }

    /// Ends the handshake, and sends a Kafka request. Whether it reached the destination, and
    /// whether the source had its denial; of an API or version whose layout is not known, whether
    /// both ends were reset.
    fn kafka(&mut self, links: [LinkId; 2], tuple: Tuple, request: &KafkaRequest) -> (bool, bool) {
        self.send(links[0], &tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, b""));
        let KafkaRequest { api_key, api_version, client_id, topics } = request;
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let api = (*api_key, *api_version);
        let frame = kafka_request(api, CORRELATION_ID, client_id.as_deref(), &topics);
        let segment = tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, &frame);
        let left = self.send(links[0], &segment);
        let reached = |link: LinkId, part: &[u8]| {
            left.iter().any(|(at, ip)| *at == link && ip.windows(part.len()).any(|w| w == part))
        };
        let reset = links.map(|link| left.iter().any(|(at, ip)| *at == link && is_reset(ip)));
        assert_eq!(reset[0], reset[1], "{request:?} resets both ends or none");
        let answered = reached(links[0], &CORRELATION_ID.to_be_bytes());
        (reached(links[1], &frame), answered || reset[0])
    }

    /// Ends the handshake and sends a DNS query, see [`query_outcome`].
    fn query_over_tcp(&mut self, links: [LinkId; 2], tuple: Tuple, name: &str) -> (bool, bool) {
        self.send(links[0], &tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, b""));
        let query = query(name);
        let message = [&(query.len() as u16).to_be_bytes(), &query[..]].concat();
        let segment = tcp(tuple, CLIENT_ISN + 1, Some(SERVER_ISN + 1), false, &message);
        query_outcome(links, &self.send(links[0], &segment), &query)
    }
}

/// Length of the IP header.
const fn ip_header_len(ip: &[u8]) -> usize {
    if ip[0] >> 4 == 4 { 20 } else { 40 }
}

const fn protocol_at(ip: &[u8]) -> u8 {
    ip[if ip[0] >> 4 == 4 { 9 } else { 6 }]
}

fn is_reset(ip: &[u8]) -> bool {
    protocol_at(ip) == proto::TCP && ip[ip_header_len(ip) + 13] & 0x04 != 0
}

/// Addresses and ports of a packet; of ICMP and others, the first byte of the message.
fn ends_of(ip: &[u8]) -> Vec<u8> {
    let at = ip_header_len(ip);
    let addresses = if at == 20 { &ip[12..20] } else { &ip[8..40] };
    let ports = match protocol_at(ip) {
        proto::TCP | proto::UDP | proto::SCTP => &ip[at..at + 4],
        _ => &ip[at..at + 1],
    };
    [addresses, ports].concat()
}

/// Whether a DNS query reached the destination, and whether the source had its REFUSED.
fn query_outcome(links: [LinkId; 2], left: &[(LinkId, Vec<u8>)], query: &[u8]) -> (bool, bool) {
    let reached = |link: LinkId, part: &[u8]| {
        left.iter().any(|(at, ip)| *at == link && ip.windows(part.len()).any(|w| w == part))
    };
    let mut refused = query.to_vec();
    refused[2..4].copy_from_slice(&[0x81, 0x85]);
    (reached(links[1], query), reached(links[0], &refused))
}

const fn protocol_of(request: &OracleRequest) -> L7Protocol {
    match request {
        OracleRequest::Http(_) => L7Protocol::Http,
        OracleRequest::Kafka(_) => L7Protocol::Kafka,
        OracleRequest::Dns(_) => L7Protocol::Dns,
        OracleRequest::ServerName(_) => L7Protocol::Tls,
    }
}

/// Whether a request is sent on a flow with this verdict and L7 rules of this protocol.
pub(crate) fn is_sent(
    request: &OracleRequest,
    verdict: Verdict,
    protocol: Option<L7Protocol>,
) -> bool {
    match (verdict, request) {
        (Verdict::Deny, _) => false,
        (Verdict::Allow, request) => {
            matches!(request, OracleRequest::Http(_) | OracleRequest::Kafka(_))
        }
        // The length and the header of a query over TCP are those of a Kafka request of an unknown
        // API, too.
        (Verdict::Inspect, OracleRequest::Dns(_)) => protocol != Some(L7Protocol::Kafka),
        (Verdict::Inspect, _) => true,
    }
}

/// Whether a request can be sent: a DNS name on the wire has no empty label.
pub(crate) fn can_send(request: Option<&OracleRequest>) -> bool {
    let Some(OracleRequest::Dns(name)) = request else { return true };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.is_empty() || name.split('.').all(|label| (1..64).contains(&label.len()))
}

/// A DNS query for the addresses of a name.
fn query(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let wire = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    let header = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    header.into_iter().chain(wire).chain([0, 0, 1, 0, 1]).collect()
}

fn udp(tuple: Tuple, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let mut datagram = [tuple.src_port, tuple.dst_port, len, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    let mut sum = Sum::pseudo_header(tuple.src, tuple.dst, proto::UDP, u32::from(len));
    sum.add(&datagram);
    datagram[6..8].copy_from_slice(&sum.checksum().to_be_bytes());
    ip(tuple, &datagram, false)
}

/// The first packet of the flow.
fn opening(subject: &Subject) -> Vec<u8> {
    let Tuple { src_port, dst_port, protocol, .. } = subject.tuple;
    let ports = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    match protocol {
        proto::TCP => tcp(subject.tuple, CLIENT_ISN, None, true, b""),
        proto::UDP => ip(subject.tuple, &[&ports[..], &[0, 8, 0, 0]].concat(), false),
        proto::SCTP => ip(subject.tuple, &[&ports[..], &[0; 8]].concat(), false),
        proto::ICMP | proto::ICMPV6 => {
            ip(subject.tuple, &[subject.icmp_type, 0, 0, 0, 0, 1, 0, 1], true)
        }
        _ => ip(subject.tuple, &[0; 16], false),
    }
}

/// What the destination replies to the first packet, if it is of a kind that has replies.
fn reply(subject: &Subject) -> Option<Vec<u8>> {
    let Subject { tuple, icmp_type } = *subject;
    let back = tuple.reversed();
    match (tuple.protocol, icmp_type) {
        (proto::TCP, _) => Some(tcp(back, SERVER_ISN, Some(CLIENT_ISN + 1), true, b"")),
        (proto::ICMP, 8) => Some(ip(back, &[0, 0, 0, 0, 0, 1, 0, 1], true)),
        (proto::ICMP, 13) => Some(ip(back, &[14, 0, 0, 0, 0, 1, 0, 1], true)),
        (proto::ICMPV6, 128) => Some(ip(back, &[129, 0, 0, 0, 0, 1, 0, 1], true)),
        (proto::ICMP | proto::ICMPV6, _) => None,
        _ => Some(opening(&Subject { tuple: back, icmp_type })),
    }
}

/// "Destination unreachable" about the first packet (RFC 792, RFC 4443 §3.1).
fn unreachable(subject: &Subject) -> Vec<u8> {
    let Tuple { src, dst, .. } = subject.tuple;
    let (protocol, kind) = if src.is_v4() { (proto::ICMP, 3) } else { (proto::ICMPV6, 1) };
    let tuple = Tuple { src: dst, dst: src, src_port: 0, dst_port: 0, protocol };
    ip(tuple, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &opening(subject)[..]].concat(), true)
}

fn tcp(tuple: Tuple, seq: u32, ack: Option<u32>, syn: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(tuple.src_port, tuple.dst_port, seq, 64_000);
    (header.syn, header.ack, header.acknowledgment_number) = (syn, ack.is_some(), ack.unwrap_or(0));
    let sum = match (tuple.src.ip(), tuple.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), payload)
        }
        _ => unreachable!("a tuple has one family"),
    };
    header.checksum = sum.unwrap();
    let mut segment = Vec::new();
    header.write(&mut segment).unwrap();
    segment.extend(payload);
    ip(tuple, &segment, false)
}

/// An IP packet around an L4 message; an ICMP message gets its checksum here.
fn ip(tuple: Tuple, message: &[u8], is_icmp: bool) -> Vec<u8> {
    let number = IpNumber(tuple.protocol);
    let mut message = message.to_vec();
    if is_icmp {
        let sum = icmp_checksum(tuple.src, tuple.dst, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let header = match (tuple.src.ip(), tuple.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => etherparse::IpHeaders::Ipv4(
            Ipv4Header::new(0, 64, number, src.octets(), dst.octets()).unwrap(),
            Default::default(),
        ),
        (IpAddr::V6(src), IpAddr::V6(dst)) => etherparse::IpHeaders::Ipv6(
            Ipv6Header {
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
                ..Default::default()
            },
            Default::default(),
        ),
        _ => unreachable!("a tuple has one family"),
    };
    let mut packet = Vec::new();
    PacketBuilder::ip(header).write(&mut packet, number, &message).unwrap();
    packet
}

fn icmp_checksum(src: Address, dst: Address, message: &[u8]) -> u16 {
    if src.is_v4() {
        return checksum::of(message);
    }
    let mut sum = Sum::pseudo_header(src, dst, proto::ICMPV6, message.len() as u32);
    sum.add(message);
    sum.checksum()
}
