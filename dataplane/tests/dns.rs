//! DNS in a complete worker: over UDP and TCP, denied, held, released, forged.

#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::sync::Arc;

use etherparse::{SlicedPacket, TransportSlice};
use podgate_dataplane::l7::dns::{FRESH_MS, HOLD_MS, QUERY_MS};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, RequestRecord, ResponseStatus};
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{L7Rules, NamePattern};
use podgate_tables::policy::{PeerMatch, RuleTable, Snapshot};
use podgate_tables::proto;
use podgate_test_support::*;

/// The port that rules of [`IngressOfB`] name.
const PORT: u16 = 80;
const CLIENT: u16 = 40_000;
const ID: u16 = 0x1234;

fn rules() -> L7Rules {
    L7Rules::Dns(vec![NamePattern::dns("*.example.com").unwrap()])
}

/// A worker whose pod B takes DNS queries of pod A, over this protocol.
fn rig(protocol: u8) -> Rig {
    Rig::with(IngressOfB::FromAOver(protocol, rules()))
}

/// A name on the wire.
fn wire(name: &str) -> Vec<u8> {
    let labels =
        name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

fn message(id: u16, flags: u16, name: &str, answers: &[Vec<u8>]) -> Vec<u8> {
    let header = [id, flags, 1, answers.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
    [header, wire(name), vec![0, 1, 0, 1], answers.concat()].concat()
}

fn query(name: &str) -> Vec<u8> {
    message(ID, 0x0100, name, &[])
}

/// An address record of the queried name.
fn address(last: u8) -> Vec<u8> {
    [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2][..], &[last]].concat()
}

fn response(name: &str, answers: &[Vec<u8>]) -> Vec<u8> {
    message(ID, 0x8180, name, answers)
}

fn from_client(message: &[u8]) -> Vec<u8> {
    udp(A, ADDRESSES[1], ADDRESSES[2], [CLIENT, PORT], message)
}

fn from_server(message: &[u8]) -> Vec<u8> {
    udp(B, ADDRESSES[2], ADDRESSES[1], [PORT, CLIENT], message)
}

/// Payload of a datagram whose checksums are right, and its ports.
fn datagram(frame: &[u8]) -> (Vec<u8>, [u16; 2]) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no datagram") };
    let ip = sliced.net.unwrap();
    let header = udp.to_header();
    let checksum = match ip {
        etherparse::NetSlice::Ipv4(ip) => {
            let header_v4 = ip.header();
            assert_eq!(header_v4.header_checksum(), header_v4.to_header().calc_header_checksum());
            header.calc_checksum_ipv4(&header_v4.to_header(), udp.payload()).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => {
            header.calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
        }
        etherparse::NetSlice::Arp(_) => panic!("no IP"),
    };
    assert_eq!(header.checksum, checksum, "the checksum of UDP");
    (udp.payload().to_vec(), [udp.source_port(), udp.destination_port()])
}

/// Where packets went, and their DNS messages.
fn messages(left: &[(LinkId, Vec<u8>)]) -> Vec<(LinkId, Vec<u8>)> {
    left.iter().map(|(link, frame)| (*link, datagram(frame).0)).collect()
}

/// The addresses that the control thread would learn, and the last ticket.
fn learned(rig: &Rig) -> (Vec<(String, Vec<String>)>, u64) {
    let (mut all, mut last) = (Vec::new(), 0);
    rig.shared.answers.drain(|_, answer| {
        let addresses = answer.addresses().iter().map(|one| format!("{}/{}", one.address, one.ttl));
        let name = String::from_utf8(answer.name.bytes().to_vec()).unwrap();
        all.push((name, addresses.collect()));
        last = answer.ticket;
    });
    (all, last)
}

#[test]
fn a_denied_query_is_answered_refused_by_the_server_that_never_sees_it() {
    let mut rig = rig(proto::UDP);
    let left = rig.send(A, &from_client(&query("evil.test")));
    let [(A, frame)] = &left[..] else { panic!("one packet to A: {left:?}") };
    let (payload, ports) = datagram(frame);
    assert_eq!(ports, [PORT, CLIENT]);
    assert_eq!(payload, message(ID, 0x8185, "evil.test", &[]));
    assert_eq!(rig.dropped(DropReason::L7Denied), 1);
    let denied = rig.events().into_iter().find_map(|event| match event.kind {
        EventKind::Request { allowed: false, request: RequestRecord::Dns(asked), .. } => {
            Some((asked.name.bytes().to_vec(), asked.kind))
        }
        _ => None,
    });
    assert_eq!(denied, Some((b"evil.test".to_vec(), 1)));
    rig.assert_no_frame_is_lost();
}

#[test]
fn queries_over_ipv6_are_denied_alike() {
    let mut rig = rig(proto::UDP);
    let [a, b] = [ADDRESSES_V6[1], ADDRESSES_V6[2]];
    let left = rig.send(A, &udp_v6(A, a, b, [CLIENT, PORT], &query("evil.test")));
    assert_eq!(messages(&left), [(A, message(ID, 0x8185, "evil.test", &[]))]);
    let left = rig.send(A, &udp_v6(A, a, b, [CLIENT, PORT], &query("www.example.com")));
    assert_eq!(messages(&left), [(B, query("www.example.com"))]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_answer_to_a_denied_query_has_its_edns_with_the_cookie() {
    let mut rig = rig(proto::UDP);
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let opt = [&[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 12][..], &cookie].concat();
    let mut asked = [query("evil.test"), opt].concat();
    asked[11] = 1;
    let left = rig.send(A, &from_client(&asked));
    let mut expected = message(ID, 0x8185, "evil.test", &[]);
    expected[11] = 1;
    expected.extend([0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 18]);
    expected.extend(cookie);
    expected.extend([0, 15, 0, 2, 0, 18]);
    assert_eq!(messages(&left), [(A, expected)]);
}

#[test]
fn an_answer_with_addresses_waits_until_they_are_admitted() {
    let mut rig = rig(proto::UDP);
    let left = rig.send(A, &from_client(&query("WWW.example.com")));
    assert_eq!(messages(&left), [(B, query("WWW.example.com"))]);
    let answer = response("www.EXAMPLE.com", &[address(1), address(2)]);
    assert_eq!(rig.send(B, &from_server(&answer)), []);
    let (names, ticket) = learned(&rig);
    let addresses = vec!["192.0.2.1/30".to_owned(), "192.0.2.2/30".to_owned()];
    assert_eq!(names, [("www.example.com".to_owned(), addresses)]);
    assert_eq!(rig.run(), [], "it is not released");
    rig.now = rig.now.plus_millis(3);
    rig.shared.publish(snapshot(2, IngressOfB::FromAOver(proto::UDP, rules())));
    rig.shared.release_answers(0, ticket);
    assert_eq!(messages(&rig.run()), [(A, answer)]);
    let seen = rig.events().into_iter().find_map(|event| match event.kind {
        EventKind::Response { status: ResponseStatus::Dns(result), latency_ns } => {
            Some((result.rcode, result.addresses, result.first.to_string(), result.ttl, latency_ns))
        }
        _ => None,
    });
    assert_eq!(seen, Some((0, 2, "192.0.2.1".to_owned(), 30, 3_000_000)));
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_answer_without_addresses_passes_at_once() {
    let mut rig = rig(proto::UDP);
    rig.send(A, &from_client(&query("www.example.com")));
    let answer = message(ID, 0x8183, "www.example.com", &[]);
    assert_eq!(messages(&rig.send(B, &from_server(&answer))), [(A, answer)]);
    rig.send(A, &from_client(&query("www.example.com")));
    let bare = [ID, 0x8181, 0, 0, 0, 0].map(u16::to_be_bytes).concat();
    assert_eq!(messages(&rig.send(B, &from_server(&bare))), [(A, bare)]);
    assert_eq!(learned(&rig).0, []);
}

/// A server that doesn't know the version of EDNS, or could not read the query (RFC 6891 §6.1.3).
#[test]
fn an_error_without_a_question_passes_with_its_edns() {
    let opt = |extended: u8| [0, 0, 41, 4, 208, extended, 0, 0, 0, 0, 0];
    let error = |id: u16, flags: u16, extended| {
        let header = [id, flags, 0, 0, 0, 1].map(u16::to_be_bytes).concat();
        [&header[..], &opt(extended)].concat()
    };
    for (flags, extended) in [(0x8101, 0), (0x8100, 1)] {
        let mut rig = rig(proto::UDP);
        rig.send(A, &from_client(&query("www.example.com")));
        assert_eq!(rig.send(B, &from_server(&error(ID + 1, flags, extended))), []);
        assert_eq!(rig.dropped(DropReason::DnsUnsolicited), 1);
        let answer = error(ID, flags, extended);
        assert_eq!(messages(&rig.send(B, &from_server(&answer))), [(A, answer.clone())]);
        assert_eq!(rig.send(B, &from_server(&answer)), [], "the query is answered");
        assert_eq!(rig.dropped(DropReason::DnsUnsolicited), 2);
        assert_eq!(learned(&rig), (vec![], 0));
    }
}

#[test]
fn what_answers_no_query_is_dropped_and_nothing_is_learned() {
    let mut rig = rig(proto::UDP);
    rig.send(A, &from_client(&query("www.example.com")));
    let forged = [
        message(ID + 1, 0x8180, "www.example.com", &[address(1)]),
        message(ID, 0x8180, "ftp.example.com", &[address(1)]),
        message(ID, 0x8180, "evil.test", &[address(1)]),
    ];
    for answer in &forged {
        assert_eq!(rig.send(B, &from_server(answer)), []);
    }
    assert_eq!(rig.dropped(DropReason::DnsUnsolicited), 3);
    assert_eq!(rig.send(B, &from_server(&[&forged[0][..], b"x"].concat())), []);
    assert_eq!(rig.send(B, &from_server(&query("www.example.com"))), []);
    assert_eq!(rig.dropped(DropReason::L7Malformed), 2);
    assert_eq!(learned(&rig).0, []);
    let good = response("www.example.com", &[address(1)]);
    rig.send(B, &from_server(&good));
    rig.send(B, &from_server(&good));
    assert_eq!(learned(&rig).0.len(), 1, "one query has one answer");
    rig.now = rig.now.plus_millis(HOLD_MS);
    rig.run();
    rig.send(A, &from_client(&query("www.example.com")));
    rig.now = rig.now.plus_secs(30);
    rig.send(B, &from_server(&good));
    assert_eq!(learned(&rig).0, [], "the query is too old");
}

#[test]
fn a_denied_query_is_never_outstanding() {
    let mut rig = rig(proto::UDP);
    rig.send(A, &from_client(&query("evil.test")));
    assert_eq!(rig.send(B, &from_server(&response("evil.test", &[address(1)]))), []);
    assert_eq!(rig.dropped(DropReason::DnsUnsolicited), 1);
    assert_eq!(learned(&rig).0, []);
}

#[test]
fn an_answer_that_is_not_released_in_time_is_dropped() {
    let mut rig = rig(proto::UDP);
    rig.send(A, &from_client(&query("www.example.com")));
    rig.send(B, &from_server(&response("www.example.com", &[address(1)])));
    rig.now = rig.now.plus_millis(HOLD_MS - 1);
    assert!(rig.workers[0].has_waiting_answers(), "it needs a round in time");
    assert_eq!((rig.run(), rig.dropped(DropReason::DnsUnreleased)), (vec![], 0));
    rig.now = rig.now.plus_millis(1);
    assert_eq!((rig.run(), rig.dropped(DropReason::DnsUnreleased)), (vec![], 1));
    assert_eq!(rig.counts().get(Count::DnsUnreleased), 1);
    rig.assert_no_frame_is_lost();
}

/// Rows of the pods' identities in the tables of [`snapshot`].
const POD_A: u32 = 4;
const POD_B: u32 = 5;

/// Tables in which anyone may query pod B over UDP.
fn open_resolver(epoch: u64) -> Snapshot {
    open_resolver_over(proto::UDP, epoch)
}

/// The same over another protocol.
fn open_resolver_over(protocol: u8, epoch: u64) -> Snapshot {
    let mut snapshot = snapshot(epoch, IngressOfB::FromAOver(protocol, rules()));
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut b = policy.identities.get(POD_B).unwrap().clone();
    b.ingress = Arc::new(for_any_peer(&b.ingress));
    policy.identities.set(POD_B, b);
    snapshot
}

/// These rules, for every peer.
fn for_any_peer(rules: &RuleTable) -> RuleTable {
    let mut table = rules.clone();
    let mut entry = table.classes[1][0].clone();
    entry.peer = PeerMatch::Any;
    table.classes[1] = Arc::from([entry]);
    table
}

/// Entries of the ring of DNS answers to the control thread.
const RING: u64 = 512;

/// Answers that the control thread was not given at once, because `link` had used up its share.
fn answers_over_quota(rig: &Rig, link: LinkId) -> u64 {
    let links = rig.workers[0].link_statistics();
    links.iter().find(|of| of.link == link).unwrap().over_quota.dns_answers
}

#[test]
fn answers_wait_in_order_and_one_pod_leaves_slots_and_the_ring_to_others() {
    const SLOTS: u16 = 1024;
    const OF_OTHERS: u16 = 100;
    let mut rig = Rig::of(RigConfig { frames: 16_384, ring: 2048, ..RigConfig::default() });
    rig.shared.publish(open_resolver(1));
    let one = |id, flags, answers: &[Vec<u8>]| message(id, flags, "www.example.com", answers);
    for id in 0..SLOTS {
        rig.send(A, &from_client(&one(id, 0x0100, &[])));
        rig.send(B, &from_server(&one(id, 0x8180, &[address(1)])));
    }
    let held = rig.counts().get(Count::DnsHeld) as u16;
    assert_eq!(held, SLOTS / 2);
    assert_eq!(rig.dropped(DropReason::DnsHeldFull), u64::from(SLOTS - held));
    for id in SLOTS..SLOTS + OF_OTHERS {
        let query = udp(HOST, OUTSIDE, ADDRESSES[2], [CLIENT, PORT], &one(id, 0x0100, &[]));
        rig.send(HOST, &query);
        let answer = one(id, 0x8180, &[address(1)]);
        rig.send(B, &udp(B, ADDRESSES[2], OUTSIDE, [PORT, CLIENT], &answer));
    }
    assert_eq!(rig.counts().get(Count::DnsHeld) as u16, held + OF_OTHERS);
    let (names, first) = learned(&rig);
    let share = RING as u16 / 2;
    assert_eq!(names.len() as u16, share + OF_OTHERS, "what others ask for does not wait");
    assert_eq!(answers_over_quota(&rig, A), u64::from(held - share));
    assert_eq!(answers_over_quota(&rig, HOST), 0);
    rig.shared.release_answers(0, first);
    let mut forwarded = messages(&rig.run());
    let (rest, last) = learned(&rig);
    assert_eq!(rest.len() as u16, held - share, "none is lost");
    rig.shared.release_answers(0, last);
    forwarded.extend(messages(&rig.run()));
    for (link, expected) in [(A, 0..held), (HOST, SLOTS..SLOTS + OF_OTHERS)] {
        let to_link = forwarded.iter().filter(|(to, _)| *to == link);
        let ids = to_link.map(|(_, message)| u16::from_be_bytes([message[0], message[1]]));
        assert_eq!(ids.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_answer_without_room_on_the_ring_is_dropped_in_time() {
    let mut rig = Rig::of(RigConfig { frames: 16_384, ring: 2048, ..RigConfig::default() });
    rig.shared.publish(open_resolver(1));
    for id in 0..=RING as u16 / 2 {
        rig.send(A, &from_client(&message(id, 0x0100, "www.example.com", &[])));
        let answer = message(id, 0x8180, "www.example.com", &[address(1)]);
        rig.send(B, &from_server(&answer));
    }
    assert_eq!(answers_over_quota(&rig, A), 1);
    rig.now = rig.now.plus_millis(HOLD_MS);
    assert_eq!((rig.run(), rig.dropped(DropReason::DnsUnreleased)), (vec![], RING / 2 + 1));
    assert!(!rig.workers[0].has_waiting_answers());
    rig.assert_no_frame_is_lost();
}

#[test]
fn an_answer_that_the_tables_in_use_admit_is_not_held() {
    let mut rig = rig(proto::UDP);
    let answer = |last: &[u8]| {
        let all: Vec<_> = last.iter().map(|last| address(*last)).collect();
        response("www.example.com", &all)
    };
    let ask = |rig: &mut Rig, answer: &[u8]| {
        rig.send(A, &from_client(&query("www.example.com")));
        messages(&rig.send(B, &from_server(answer))) == [(A, answer.to_vec())]
    };
    let release = |rig: &mut Rig| {
        let (_, ticket) = learned(rig);
        rig.shared.release_answers(0, ticket);
        assert_eq!(rig.run().len(), 1);
    };
    assert!(!ask(&mut rig, &answer(&[1, 2])));
    release(&mut rig);
    rig.now = rig.now.plus_millis(FRESH_MS - 1);
    assert!(ask(&mut rig, &answer(&[1, 2])));
    assert_eq!(learned(&rig).0, [], "the control thread has no work with it");
    for others in [&[1][..], &[1, 3], &[1, 2, 3]] {
        assert!(!ask(&mut rig, &answer(others)), "{others:?}");
        release(&mut rig);
    }
    rig.now = rig.now.plus_millis(1);
    assert!(!ask(&mut rig, &answer(&[1, 2])), "its TTL has to be seen again");
    release(&mut rig);
    assert!(ask(&mut rig, &answer(&[1, 2])));
    rig.shared.publish(snapshot(2, IngressOfB::FromAOver(proto::UDP, rules())));
    assert!(!ask(&mut rig, &answer(&[1, 2])), "other tables may not admit it");
    rig.now = rig.now.plus_millis(HOLD_MS);
    assert_eq!(rig.run(), []);
    assert!(!ask(&mut rig, &answer(&[1, 2])), "it was not released");
    release(&mut rig);
    rig.assert_no_frame_is_lost();
}

#[test]
fn malformed_queries_are_answered_as_servers_do() {
    let mut rig = rig(proto::UDP);
    let mut twice = query("www.example.com");
    twice[5] = 2;
    let formerr = [ID, 0x8181, 0, 0, 0, 0].map(u16::to_be_bytes).concat();
    assert_eq!(messages(&rig.send(A, &from_client(&twice))), [(A, formerr)]);
    let update = message(ID, 0x2800, "www.example.com", &[]);
    let notimp = [ID, 0xa884, 0, 0, 0, 0].map(u16::to_be_bytes).concat();
    assert_eq!(messages(&rig.send(A, &from_client(&update))), [(A, notimp)]);
    assert_eq!(rig.send(A, &from_client(b"short")), []);
    let answer = response("www.example.com", &[]);
    assert_eq!(rig.send(A, &from_client(&answer)), [], "a response as a query");
    let mut chaos = query("www.example.com");
    let class = chaos.len() - 1;
    chaos[class] = 3;
    let mut refused = message(ID, 0x8185, "www.example.com", &[]);
    refused[class] = 3;
    assert_eq!(messages(&rig.send(A, &from_client(&chaos))), [(A, refused)]);
}

#[test]
fn an_answer_in_fragments_and_several_frames_is_held_and_forwarded_whole() {
    let mut rig = rig(proto::UDP);
    rig.send(A, &from_client(&query("www.example.com")));
    let answers: Vec<_> = (0..=255).map(address).collect();
    let answer = response("www.example.com", &answers);
    assert!(answer.len() > 4096);
    for fragment in cut(&from_server(&answer), 9, 1500) {
        assert_eq!(rig.send(B, &fragment), []);
    }
    let (names, ticket) = learned(&rig);
    assert_eq!(names.iter().map(|(_, addresses)| addresses.len()).sum::<usize>(), 256);
    rig.shared.release_answers(0, ticket);
    let left = rig.run();
    assert!(left.len() > 1 && left.iter().all(|(link, _)| *link == A));
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_plain_flow_becomes_an_inspected_one() {
    let mut rig = Rig::with(IngressOfB::FromAAt(proto::UDP));
    let denied = query("evil.test");
    assert_eq!(messages(&rig.send(A, &from_client(&denied))), [(B, denied.clone())]);
    rig.shared.publish(snapshot(2, IngressOfB::FromAOver(proto::UDP, rules())));
    let answer = response("evil.test", &[address(1)]);
    assert_eq!(rig.send(B, &from_server(&answer)), [], "the query is not known");
    let refused = message(ID, 0x8185, "evil.test", &[]);
    assert_eq!(messages(&rig.send(A, &from_client(&denied))), [(A, refused)]);
    let allowed = query("www.example.com");
    assert_eq!(messages(&rig.send(A, &from_client(&allowed))), [(B, allowed)]);
    rig.assert_no_frame_is_lost();
}

#[test]
fn a_changed_policy_decides_the_next_query() {
    let mut rig = rig(proto::UDP);
    let asked = query("www.example.com");
    rig.send(A, &from_client(&asked));
    let none = L7Rules::Dns(vec![NamePattern::name("other.test").unwrap()]);
    rig.shared.publish(snapshot(2, IngressOfB::FromAOver(proto::UDP, none)));
    let refused = message(ID, 0x8185, "www.example.com", &[]);
    assert_eq!(messages(&rig.send(A, &from_client(&asked))), [(A, refused)]);
    rig.shared.publish(snapshot(3, IngressOfB::Closed));
    assert_eq!(rig.send(A, &from_client(&asked)), []);
    assert_eq!(rig.dropped(DropReason::PolicyRevoked), 1);
}

#[test]
fn a_server_can_not_open_the_flow_that_lets_queries_pass_as_replies() {
    let mut rig = rig(proto::UDP);
    assert_eq!(rig.send(B, &from_server(&response("evil.test", &[]))), []);
    assert_eq!(rig.dropped(DropReason::DnsUnsolicited), 1);
    assert_eq!(rig.workers[0].flows(), 0);
}

/// Pod A may query a service's address outside of the node; B is open.
fn egress_of_a(epoch: u64) -> Snapshot {
    let mut snapshot = snapshot(epoch, IngressOfB::FromAOver(proto::UDP, rules()));
    let policy = Arc::make_mut(&mut snapshot.policy);
    let mut b = policy.identities.get(POD_B).unwrap().clone();
    let table = for_any_peer(&b.ingress);
    b.ingress = Arc::default();
    policy.identities.set(POD_B, b);
    let mut a = policy.identities.get(POD_A).unwrap().clone();
    a.egress = Arc::new(table);
    policy.identities.set(POD_A, a);
    snapshot
}

#[test]
fn a_service_that_the_kernel_translates_answers_from_its_own_address() {
    let mut rig = Rig::new(1);
    rig.shared.publish(egress_of_a(1));
    let asked = query("www.example.com");
    let left = rig.send(A, &udp(A, ADDRESSES[1], OUTSIDE, [CLIENT, PORT], &asked));
    assert_eq!(messages(&left), [(HOST, asked)]);
    let answer = response("www.example.com", &[address(1)]);
    let from_service = udp(HOST, OUTSIDE, ADDRESSES[1], [PORT, CLIENT], &answer);
    assert_eq!(rig.send(HOST, &from_service), []);
    let (names, ticket) = learned(&rig);
    assert_eq!(names.len(), 1);
    rig.shared.release_answers(0, ticket);
    assert_eq!(messages(&rig.run()), [(A, answer)]);
    let denied = udp(A, ADDRESSES[1], OUTSIDE, [CLIENT, PORT], &query("evil.test"));
    assert_eq!(messages(&rig.send(A, &denied)), [(A, message(ID, 0x8185, "evil.test", &[]))]);
}

#[test]
fn more_queries_than_a_flow_may_have_forget_the_oldest() {
    let mut rig = rig(proto::UDP);
    for id in 0..=128 {
        rig.now = rig.now.plus_millis(1);
        rig.send(A, &from_client(&message(id, 0x0100, "www.example.com", &[])));
    }
    assert_eq!(rig.counts().get(Count::DnsReplaced), 1);
    let answer = |id| from_server(&message(id, 0x8183, "www.example.com", &[]));
    assert_eq!(rig.send(B, &answer(0)), []);
    assert_eq!(rig.send(B, &answer(1)).len(), 1);
    assert_eq!(rig.send(B, &answer(128)).len(), 1);
}

/// A segment of the connection from pod A to pod B.
fn segment(from: LinkId, seq: u32, ack: Option<u32>, flags: &str, payload: &[u8]) -> Vec<u8> {
    let [a, b] = [ADDRESSES[1], ADDRESSES[2]];
    let (src, dst, ports) = if from == A { (a, b, [CLIENT, PORT]) } else { (b, a, [PORT, CLIENT]) };
    tcp(from, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
}

fn with_length(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// What segments to a link carry.
fn stream_to(link: LinkId, left: &[(LinkId, Vec<u8>)]) -> Vec<u8> {
    let to_link = left.iter().filter(|(to, _)| *to == link);
    let payload = |frame: &[u8]| match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.payload().to_vec(),
        _ => panic!("no segment"),
    };
    to_link.flat_map(|(_, frame)| payload(frame)).collect()
}

#[test]
fn over_tcp_denied_queries_are_answered_and_answers_wait_for_their_release() {
    let mut rig = rig(proto::TCP);
    rig.send(A, &segment(A, 1_000, None, "S", b""));
    rig.send(B, &segment(B, 9_000, Some(1_001), "S", b""));
    rig.send(A, &segment(A, 1_001, Some(9_001), "", b""));
    let (allowed, denied) =
        (with_length(&query("www.example.com")), with_length(&query("evil.test")));
    let both = [&allowed[..], &denied].concat();
    let left = rig.send(A, &segment(A, 1_001, Some(9_001), "P", &both));
    assert_eq!(stream_to(B, &left), allowed);
    let refused = with_length(&message(ID, 0x8185, "evil.test", &[]));
    assert_eq!(stream_to(A, &left), refused);
    let (client, injected) = (1_001 + both.len() as u32, refused.len() as u32);
    rig.send(A, &segment(A, client, Some(9_001 + injected), "", b""));
    let answer = with_length(&response("www.example.com", &[address(1)]));
    let acked = Some(1_001 + allowed.len() as u32);
    let left = rig.send(B, &segment(B, 9_001, acked, "P", &answer[..20]));
    assert_eq!(stream_to(A, &left), b"");
    let left = rig.send(B, &segment(B, 9_021, acked, "P", &answer[20..]));
    assert_eq!(stream_to(A, &left), b"", "it is not released");
    let (names, ticket) = learned(&rig);
    assert_eq!(names.len(), 1);
    rig.shared.release_answers(0, ticket);
    assert!(rig.workers[0].has_releases());
    assert_eq!(stream_to(A, &rig.run()), answer);
    assert!(!rig.workers[0].has_releases());
}

#[test]
fn over_tcp_queries_that_stay_unanswered_make_room_in_time() {
    let mut rig = rig(proto::TCP);
    rig.send(A, &segment(A, 1_000, None, "S", b""));
    rig.send(B, &segment(B, 9_000, Some(1_001), "S", b""));
    rig.send(A, &segment(A, 1_001, Some(9_001), "", b""));
    let query = |id| with_length(&message(id, 0x0100, "www.example.com", &[]));
    let mut seq = 1_001;
    let mut ask = |rig: &mut Rig, id: u16| {
        let left = rig.send(A, &segment(A, seq, Some(9_001), "P", &query(id)));
        seq += query(id).len() as u32;
        stream_to(B, &left)
    };
    for id in 0..128 {
        assert_eq!(ask(&mut rig, id), query(id));
        rig.send(
            B,
            &segment(B, 9_001, Some(1_001 + query(0).len() as u32 * u32::from(id + 1)), "", b""),
        );
    }
    assert_eq!(ask(&mut rig, 128), b"", "all are waited for");
    rig.now = rig.now.plus_millis(QUERY_MS - 1);
    assert_eq!(stream_to(B, &rig.run()), b"");
    let mut passed = Vec::new();
    // The connection is looked at again at some time.
    for _ in 0..100 {
        rig.now = rig.now.plus_millis(100);
        passed.extend(stream_to(B, &rig.run()));
    }
    assert_eq!(passed, query(128));
    // One is late, and the other is not.
    for (id, expected) in [(5, false), (128, true)] {
        let answer = with_length(&message(id, 0x8183, "www.example.com", &[]));
        let (at, acked) = if id == 5 { (9_001, seq) } else { (9_001 + answer.len() as u32, seq) };
        let left = rig.send(B, &segment(B, at, Some(acked), "P", &answer));
        assert_eq!(!stream_to(A, &left).is_empty(), expected, "{id}");
    }
}

/// A worker whose pod B takes DNS queries over TCP, of many connections at a time.
fn rig_with_many_connections() -> Rig {
    let (flows_per_worker, inspected_per_worker) = (2048, 1024);
    let config = RigConfig { frames: 16_384, ring: 2048, ..RigConfig::default() };
    let rig = Rig::of(RigConfig { flows_per_worker, inspected_per_worker, ..config });
    rig.shared.publish(open_resolver_over(proto::TCP, 1));
    rig
}

/// Connects a client port over TCP, and has its query answered. Returns the answer.
fn ask_over_tcp(rig: &mut Rig, client: (LinkId, [u8; 4], u16)) -> Vec<u8> {
    let (link, address_of_client, port) = client;
    let segment = |from: LinkId, seq, ack, flags, payload: &[u8]| {
        let ends = [(address_of_client, port), (ADDRESSES[2], PORT)];
        let [(src, sport), (dst, dport)] = if from == B { [ends[1], ends[0]] } else { ends };
        let ports = [sport, dport];
        tcp(from, &TcpPacket { src, dst, ports, seq, ack, flags, payload })
    };
    rig.send(link, &segment(link, 1_000, None, "S", b""));
    rig.send(B, &segment(B, 9_000, Some(1_001), "S", b""));
    rig.send(link, &segment(link, 1_001, Some(9_001), "", b""));
    let query = with_length(&query("www.example.com"));
    rig.send(link, &segment(link, 1_001, Some(9_001), "P", &query));
    let answer = with_length(&response("www.example.com", &[address(1)]));
    let acked = Some(1_001 + query.len() as u32);
    let left = rig.send(B, &segment(B, 9_001, acked, "P", &answer));
    assert_eq!(stream_to(link, &left), b"", "it is not released");
    answer
}

#[test]
fn answers_over_tcp_of_one_pod_leave_the_ring_to_others() {
    let mut rig = rig_with_many_connections();
    let share = RING as u16 / 2;
    for port in 0..share + 3 {
        ask_over_tcp(&mut rig, (A, ADDRESSES[1], CLIENT + port));
    }
    assert_eq!(answers_over_quota(&rig, A), 3);
    let answer = ask_over_tcp(&mut rig, (HOST, OUTSIDE, CLIENT));
    assert_eq!(answers_over_quota(&rig, HOST), 0);
    let (names, first) = learned(&rig);
    assert_eq!(names.len() as u16, share + 1);
    rig.shared.release_answers(0, first);
    let left = rig.run();
    assert_eq!(stream_to(HOST, &left), answer, "it goes on without its timer");
    assert_eq!(stream_to(A, &left), answer.repeat(usize::from(share)));
    rig.now = rig.now.plus_millis(100);
    rig.run();
    let (rest, last) = learned(&rig);
    assert_eq!(rest.len(), 3, "those that waited for room are offered later");
    rig.shared.release_answers(0, last);
    assert_eq!(stream_to(A, &rig.run()), answer.repeat(3));
}

#[test]
fn segments_of_a_waiting_connection_take_no_places_of_others() {
    const SEGMENTS: u32 = 2_000;
    let mut rig = rig_with_many_connections();
    for port in [CLIENT, CLIENT + 1] {
        ask_over_tcp(&mut rig, (A, ADDRESSES[1], port));
    }
    for _ in 0..SEGMENTS {
        for port in [CLIENT, CLIENT + 1] {
            let (src, dst, ports) = (ADDRESSES[1], ADDRESSES[2], [port, PORT]);
            let (seq, ack) =
                (1_001 + with_length(&query("www.example.com")).len() as u32, Some(9_001));
            rig.send(A, &tcp(A, &TcpPacket { src, dst, ports, seq, ack, flags: "", payload: b"" }));
        }
    }
    let answer = ask_over_tcp(&mut rig, (HOST, OUTSIDE, CLIENT));
    let (_, last) = learned(&rig);
    rig.shared.release_answers(0, last);
    assert_eq!(stream_to(HOST, &rig.run()), answer, "it goes on without its timer");
}
