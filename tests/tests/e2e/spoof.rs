//! Pods that send with others' addresses.
//!
//! A pod sends IP packets from its own MAC address and its own addresses only; all others are
//! dropped and counted as `spoofed_source`. ARP and neighbour discovery, which go to the node's
//! kernel, must name the pod's own, too (`arp_nd_spoofed`); all else that is not IP is dropped.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{Icmpv6Type, PacketBuilder, icmpv6};
use podgate_tests::lab::{Agent, Capture, Family, Lab, Outcome, wait_for};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(10);

/// A UDP packet from any MAC address and any IP address.
fn packet(source_mac: [u8; 6], gateway: [u8; 6], from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(source_mac, gateway);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => anyhow::bail!("{from} and {to} are of two families"),
    };
    let mut frame = Vec::new();
    builder.udp(7777, 7777).write(&mut frame, b"it's me")?;
    Ok(frame)
}

#[test]
fn only_packets_with_the_pods_own_mac_and_address_pass() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let stranger = lab.host("other/stranger")?;
    let (own_mac, other_mac) = (stranger.mac("eth0")?, admin.mac("eth0")?);
    let node_mac = lab.node().mac(&stranger.link)?;
    let at_user = Capture::start(&lab, user)?;
    let mut forged = Vec::new();
    for family in Family::BOTH {
        let (own, to) = (stranger.addresses.of(family), user.addresses.of(family));
        let strange: [IpAddr; 4] = match family {
            // Another pod's, the node's, an unused one, and one that is not routed.
            Family::V4 => ["10.77.0.10", "192.0.2.1", "0.0.0.0", "169.254.1.1"],
            Family::V6 => ["fd77::10", "2001:db8::1", "::", "fe80::1"],
        }
        .map(|text| text.parse().expect("an address"));
        for source in strange {
            forged.push(packet(own_mac, node_mac, source, to)?);
            forged.push(packet(other_mac, node_mac, source, to)?);
        }
        forged.push(packet(other_mac, node_mac, own, to)?);
        forged.push(packet(node_mac, node_mac, own, to)?);
    }
    let before = lab.drops("spoofed_source")? + lab.drops("invalid_packet")?;
    let count = stranger.inject(forged.iter().map(Vec::as_slice))?.sent;
    assert_eq!(count, 20);
    wait_for("the drops", BOUND, || {
        let now = lab.drops("spoofed_source")? + lab.drops("invalid_packet")?;
        Ok((now == before + count).then_some(()))
    })?;
    // Its own passes, and shows that the capture is past the others.
    for family in Family::BOTH {
        let (own, to) = (stranger.addresses.of(family), user.addresses.of(family));
        stranger.inject([&packet(own_mac, node_mac, own, to)?[..]].into_iter())?;
        assert!(matches!(user.ping(stranger, family)?, Outcome::Echo(_)));
    }
    assert_eq!(at_user.stop()?.packets("udp port 7777")?.len(), 2);
    agent.assert_alive()
}

/// A gratuitous ARP reply: `address` is at `mac` (RFC 826).
pub(crate) fn gratuitous_arp(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &mac, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]].concat();
    [&head[..], &mac, &address, &[0xff; 6], &address, &[0; 18]].concat()
}

/// An unsolicited neighbour advertisement that overrides: `address` is at `mac` (RFC 4861).
fn unsolicited_advertisement(mac: [u8; 6], address: [u8; 16]) -> Result<Vec<u8>> {
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let header =
        icmpv6::NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
    let builder = PacketBuilder::ethernet2(mac, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(address, all_nodes, 255)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header));
    let target = [&address[..], &[2, 1], &mac].concat();
    let mut frame = Vec::new();
    builder.write(&mut frame, &target)?;
    Ok(frame)
}

#[test]
fn spoofed_arp_and_neighbour_discovery_redirect_no_traffic() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, user) = (lab.host("admin/adminapp")?, lab.host("user/userapp")?);
    let (stranger, office) = (lab.host("other/stranger")?, lab.host("office")?);
    let mac = stranger.mac("eth0")?;
    let at_stranger = Capture::start(&lab, stranger)?;
    let claims = [
        gratuitous_arp(mac, admin.addresses.v4.octets()),
        gratuitous_arp(mac, office.addresses.v4.octets()),
        unsolicited_advertisement(mac, admin.addresses.v6.octets())?,
        unsolicited_advertisement(mac, office.addresses.v6.octets())?,
    ];
    for _ in 0..3 {
        stranger.inject(claims.iter().map(Vec::as_slice))?;
        for family in Family::BOTH {
            for (from, to) in [(user, admin), (lab.node(), admin), (admin, office)] {
                let seen = from.ping(to, family)?;
                ensure!(matches!(seen, Outcome::Echo(_)), "{} {}: {seen:?}", from.name, to.name);
            }
        }
    }
    assert_eq!(lab.drops("arp_nd_spoofed")?, 3 * claims.len() as u64);
    let astray = at_stranger.stop()?.packets("icmp or (icmp6 and ip6[40] = 128)")?;
    assert_eq!(astray, [""; 0], "nothing of it came to the pod that claimed the addresses");
    agent.assert_alive()
}
