//! Fragments, packets that are too big for a link, expired TTLs, VLAN tags.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, PacketBuilder};
use podgate_tests::lab::{Agent, Capture, Family, Host, Lab, Outcome, Stream, wait_for};
use podgate_tests::scenario::MANIFESTS;

/// The policy that lets admin send datagrams to the user's pod.
const DATAGRAMS_FROM_ADMIN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: datagrams-from-admin, namespace: user }
spec:
  podSelector: {}
  ingress:
    - from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: admin } } }]
      ports: [{ port: 5000, protocol: UDP }]
";

const PATIENCE: Duration = Duration::from_secs(20);

/// What ping prints for an echo reply of this many bytes.
fn echo_of(bytes: usize) -> String {
    format!("{} bytes from", bytes + 8)
}

#[test]
fn fragmented_pings_pass_where_policy_allows_them() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let nginx = lab.host("backend/nginx")?;
    for family in Family::BOTH {
        for size in [2000, 8000, 60_000] {
            let said = stranger.ping_with(admin, family, &["-s", &size.to_string()])?;
            assert!(said.contains(&echo_of(size)), "{size} over {family}: {said}");
        }
        // No fragment of a denied datagram arrives.
        let at_server = Capture::start(&lab, nginx)?;
        let denied = lab.drops("policy_denied")?;
        let said = stranger.ping_with(nginx, family, &["-s", "8000"])?;
        assert!(said.contains("100% packet loss"), "{said}");
        assert_eq!(lab.drops("policy_denied")?, denied + 1, "it is one packet to policy");
        let seen = at_server.stop()?.packets("icmp or icmp6[0] == 128 or ip6 proto 44")?;
        assert_eq!(seen, [""; 0]);
        let outcome = stranger.ping(admin, family)?;
        assert!(matches!(outcome, Outcome::Echo(_)), "{outcome:?}");
    }
    assert!(lab.metric("podgate_worker_fragments_joined_total")? > 150);
    assert_eq!(lab.metric("podgate_worker_fragments_waiting")?, 0);
    agent.assert_alive()?;
    agent.stop()
}

/// A UDP packet between two pods, in fragments of at most 1500 bytes.
fn fragments(
    lab: &Lab,
    from: &Host,
    to: &Host,
    family: Family,
    port: u16,
    id: u16,
) -> Result<Vec<Vec<u8>>> {
    let link = PacketBuilder::ethernet2(from.mac("eth0")?, lab.node().mac(&from.link)?);
    let step = match family {
        Family::V4 => link.ipv4(from.addresses.v4.octets(), to.addresses.v4.octets(), 64),
        Family::V6 => link.ipv6(from.addresses.v6.octets(), to.addresses.v6.octets(), 64),
    };
    let mut frame = Vec::new();
    step.udp(40_000, port).write(&mut frame, &payload())?;
    let (ip, rest) = IpHeaders::from_slice(&frame[14..])?;
    let headers = if family == Family::V4 { 20 } else { 48 };
    let room = (1500 - headers) / 8 * 8;
    let mut all = Vec::new();
    for (index, part) in rest.payload.chunks(room).enumerate() {
        let (at, more) = (index * room, (index + 1) * room < rest.payload.len());
        let mut bytes = frame[..14].to_vec();
        match ip.clone() {
            IpHeaders::Ipv4(mut header, _) => {
                (header.identification, header.dont_fragment) = (id, false);
                header.more_fragments = more;
                header.fragment_offset = IpFragOffset::try_new((at / 8) as u16)?;
                header.total_len = 20 + part.len() as u16;
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes)?;
            }
            IpHeaders::Ipv6(mut header, _) => {
                header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                header.payload_length = 8 + part.len() as u16;
                header.write(&mut bytes)?;
                bytes.extend([IpNumber::UDP.0, 0]);
                bytes.extend((at as u16 | u16::from(more)).to_be_bytes());
                bytes.extend(u32::from(id).to_be_bytes());
            }
        }
        bytes.extend(part);
        all.push(bytes);
    }
    Ok(all)
}

/// Payload of each datagram.
fn payload() -> Vec<u8> {
    (0..8000_u32).map(|at| (at * 7 + at / 256) as u8).collect()
}

fn receiver(host: &Host, port: u16) -> Result<UdpSocket> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let socket = host.netns.inside(|| UdpSocket::bind(any).context("can't bind"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    let (len, _) = socket.recv_from(&mut buffer).context("no datagram")?;
    assert_eq!(buffer[..len], payload());
    Ok(())
}

#[test]
fn fragmented_datagrams_are_matched_by_port_in_any_order() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("datagrams.yaml", DATAGRAMS_FROM_ADMIN)?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (allowed, denied) = (receiver(user, 5000)?, receiver(user, 5001)?);
    for family in Family::BOTH {
        // In the order in which the kernel sends them.
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let sender = admin.netns.inside(|| UdpSocket::bind(any).context("can't bind"))?;
        let to = |port| -> SocketAddr {
            match family {
                Family::V4 => (user.addresses.v4.to_ipv6_mapped(), port).into(),
                Family::V6 => (user.addresses.v6, port).into(),
            }
        };
        let before = lab.drops("policy_denied")?;
        sender.send_to(&payload(), to(5001))?;
        sender.send_to(&payload(), to(5000))?;
        receive(&allowed)?;
        // In other orders: reversed, and with the first fragment next to last.
        let mut sent = 1;
        for (id, port) in [(1, 5001), (2, 5000)] {
            let mut reversed = fragments(&lab, admin, user, family, port, id)?;
            reversed.reverse();
            let mut mixed = fragments(&lab, admin, user, family, port, id + 100)?;
            let last = mixed.len() - 2;
            mixed.swap(0, last);
            admin.inject(reversed.iter().chain(&mixed).map(Vec::as_slice))?;
            sent += if port == 5001 { 2 } else { 0 };
        }
        receive(&allowed)?;
        receive(&allowed)?;
        wait_for("the denied datagrams", PATIENCE, || {
            Ok((lab.drops("policy_denied")? == before + sent).then_some(()))
        })?;
    }
    denied.set_nonblocking(true)?;
    let nothing = denied.recv_from(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(nothing.unwrap_err(), std::io::ErrorKind::WouldBlock);
    agent.assert_alive()
}

#[test]
fn packets_too_big_for_the_receivers_link_are_fragmented_or_answered() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    lab.set_mtu(admin, 9000)?;
    let mut agent = Agent::start(&lab, 2)?;
    let node = lab.node().addresses;
    // Over IPv4 a packet without Don't Fragment is fragmented, and so is its answer.
    let made = lab.metric("podgate_worker_fragments_made_total")?;
    let said = admin.ping_with(stranger, Family::V4, &["-M", "dont", "-s", "8000"])?;
    assert!(said.contains(&echo_of(8000)), "{said}");
    assert!(lab.metric("podgate_worker_fragments_made_total")? >= made + 5);

    let said = admin.ping_with(stranger, Family::V4, &["-M", "do", "-s", "8000"])?;
    assert!(said.contains(&format!("From {} ", node.v4)), "{said}");
    assert!(said.contains("Frag needed and DF set (mtu = 1500)"), "{said}");
    let said = admin.ping_with(stranger, Family::V6, &["-M", "do", "-s", "8000"])?;
    assert!(said.contains("Packet too big: mtu=1500"), "{said}");
    for family in Family::BOTH {
        // The pod's kernel accepted the error, and fragments its packets itself from now on.
        let to = stranger.addresses.of(family).to_string();
        let route = admin.netns.ip_json(&["route", "get", &to])?;
        assert_eq!(route[0]["metrics"][0]["mtu"], 1500, "{route}");
        let said = admin.ping_with(stranger, family, &["-s", "8000"])?;
        assert!(said.contains(&echo_of(8000)), "{said}");
    }
    assert_eq!(lab.drops("packet_too_big")?, 2);
    agent.assert_alive()
}

#[test]
fn an_expired_ttl_is_answered() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 1)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let node = lab.node().addresses;
    let said = stranger.ping_with(admin, Family::V4, &["-t", "1"])?;
    assert!(said.contains(&format!("From {} icmp_seq=1 Time to live exceeded", node.v4)), "{said}");
    let said = stranger.ping_with(admin, Family::V6, &["-t", "1"])?;
    assert!(said.contains("Time exceeded: Hop limit"), "{said}");
    for family in Family::BOTH {
        let said = stranger.ping_with(admin, family, &["-t", "2"])?;
        assert!(said.contains(&echo_of(56)), "{said}");
    }
    agent.assert_alive()
}

#[test]
fn vlan_tagged_packets_reach_nobody() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let at_admin = Capture::start(&lab, admin)?;
    for family in Family::BOTH {
        let mut frame = fragments(&lab, stranger, admin, family, 5000, 1)?.swap_remove(0);
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        let before = lab.drops("vlan_tagged")?;
        // Shorter by the size of the tag, so that the frame fits the link.
        stranger.inject([&frame[..1400]].into_iter())?;
        wait_for("the drop", PATIENCE, || {
            Ok((lab.drops("vlan_tagged")? == before + 1).then_some(()))
        })?;
        let outcome = stranger.ping(admin, family)?;
        assert!(matches!(outcome, Outcome::Echo(_)), "{outcome:?}");
    }
    assert_eq!(at_admin.stop()?.packets("vlan or udp or ip6 proto 44")?, [""; 0]);
    agent.assert_alive()
}

/// Filter for SYNs, of which tcpdump prints the MSS.
const SYNS: &str = "tcp[tcpflags] & tcp-syn != 0 or ip6[53] & 2 != 0";

#[test]
fn streams_use_large_segments_where_both_links_carry_them() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (stranger, office) = (lab.host("other/stranger")?, lab.host("office")?);
    lab.set_mtu(admin, 65_000)?;
    lab.set_mtu(user, 65_000)?;
    let mut agent = Agent::start(&lab, 2)?;
    for family in Family::BOTH {
        let capture = Capture::start(&lab, user)?;
        let stream = Stream::start(admin, user, 5001, family)?;
        stream.wait_for_more()?;
        stream.finish()?;
        assert!(!capture.stop()?.packets("greater 60000")?.is_empty(), "{family}: all are small");

        let limit = if family == Family::V4 { 1460 } else { 1440 };
        for (large, small) in [(admin, stranger), (admin, office)] {
            let captures = [Capture::start(&lab, large)?, Capture::start(&lab, small)?];
            for (from, to, port) in [(large, small, 5002), (small, large, 5003)] {
                let stream = Stream::start(from, to, port, family)?;
                stream.wait_for_more()?;
                stream.finish()?;
            }
            // Each SYN and SYN-ACK, as it arrives at the other end.
            let [at_large, at_small] = captures;
            for (capture, host) in [(at_large, large), (at_small, small)] {
                let to = host.addresses.of(family);
                let syns = capture.stop()?.packets(&format!("({SYNS}) and dst host {to}"))?;
                assert_eq!(syns.len(), 2, "{syns:#?}");
                for syn in syns {
                    assert!(
                        syn.contains(&format!("mss {limit},")),
                        "{} {family}: {syn}",
                        host.name
                    );
                }
            }
        }
    }
    assert_eq!(lab.drops("packet_too_big")?, 0, "nothing had to be learned by errors");
    agent.assert_alive()?;
    agent.stop()
}
