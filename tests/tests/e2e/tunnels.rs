//! Tunnels that end at the node: a pod can't send into one, on any port and to any of the node's
//! addresses.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Agent, Capture, Family, Host, Lab, Netns, wait_for};
use podgate_tests::scenario::MANIFESTS;
use serde_json::Value;

use super::hairpin::nft;

const BOUND: Duration = Duration::from_secs(10);
const PORT: u16 = 5555;

/// A VXLAN packet (RFC 7348) from `from` to an address of the node. The inner frame claims to come
/// from the pod `claimed` and goes to UDP port `inner_port`.
fn vxlan(lab: &Lab, from: &Host, to: IpAddr, claimed: &Host, inner_port: u16) -> Result<Vec<u8>> {
    vxlan_from_port(lab, from, 40_000, to, claimed, inner_port)
}

/// As [`vxlan`], from UDP port `src_port`.
fn vxlan_from_port(
    lab: &Lab,
    from: &Host,
    src_port: u16,
    to: IpAddr,
    claimed: &Host,
    inner_port: u16,
) -> Result<Vec<u8>> {
    let victim = lab.host("user/userapp")?;
    let inner = PacketBuilder::ethernet2([2; 6], [0xff; 6])
        .ipv4(claimed.addresses.v4.octets(), victim.addresses.v4.octets(), 64)
        .udp(7000, inner_port);
    let mut payload = vec![0x08, 0, 0, 0, 0, 0, 7, 0];
    inner.write(&mut payload, b"in another's name")?;
    let outer = PacketBuilder::ethernet2(from.mac("eth0")?, lab.node().mac(&from.link)?);
    let outer = match to {
        IpAddr::V4(to) => outer.ipv4(from.addresses.v4.octets(), to.octets(), 64),
        IpAddr::V6(to) => outer.ipv6(from.addresses.v6.octets(), to.octets(), 64),
    };
    let mut frame = Vec::new();
    outer.udp(src_port, PORT).write(&mut frame, &payload)?;
    Ok(frame)
}

/// Frames that the node's tunnel device received.
fn received(lab: &Lab) -> Result<u64> {
    let links = lab.node().netns.ip_json(&["-s", "link", "show", "vx-t"])?;
    Ok(links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0))
}

/// Waits until a pod's packet to the tunnel's port at `to` is dropped. Each attempt is a flow of
/// its own: one from before the agent knew the tunnel is dropped as a revoked flow. The next one is
/// made when the verdict of the last is known, so that none is on its way at the end.
fn wait_for_drop(lab: &Lab, from: &Host, to: IpAddr) -> Result<()> {
    let before = lab.drops("tunnel_to_node")?;
    let deadline = Instant::now() + BOUND;
    for port in 42_000..=u16::MAX {
        from.inject([&vxlan_from_port(lab, from, port, to, from, 7776)?[..]].into_iter())?;
        let is_of_attempt = |record: &Value| {
            let [source, destination] = [&record["source"], &record["destination"]];
            source["port"] == port && destination["port"] == PORT
        };
        wait_for("the verdict of an attempt", BOUND, || {
            let records = lab.podgate_json_lines(&["flows", "--last", "100"])?;
            Ok(records.iter().any(is_of_attempt).then_some(()))
        })?;
        if lab.drops("tunnel_to_node")? > before {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "packets to {to} are not dropped");
    }
    bail!("no port is left")
}

#[test]
fn a_pod_cannot_send_into_a_tunnel_of_the_node_on_any_port_or_address() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (stranger, admin) = (lab.host("other/stranger")?, lab.host("admin/adminapp")?);
    let office = lab.host("office")?;
    // The node's own addresses, the pods' gateways, broadcast, anycast, and a prefix that is routed
    // to the node itself.
    lab.node().netns.ip("addr add 10.98.0.1/24 broadcast 10.98.0.255 dev out-office\n\
         addr add fd98::1/64 dev out-office nodad\n\
         route add local 10.97.0.0/16 dev lo\n\
         route add local fd97::/32 dev lo\n\
         link add vx-t type vxlan external dstport 5555\n\
         link set vx-t up\n")?;
    let addresses: [IpAddr; 10] = [
        "192.0.2.1",
        "169.254.1.1",
        "10.98.0.1",
        "10.98.0.255",
        "10.97.1.2",
        "2001:db8::1",
        "fe80::1",
        "fd98::1",
        "fd98::",
        "fd97::7",
    ]
    .map(|text| text.parse().expect("an address"));
    let frames = addresses.map(|to| vxlan(&lab, stranger, to, admin, 7777));
    let frames = frames.into_iter().collect::<Result<Vec<_>>>()?;
    // The address that was added last is the last of which the agent is notified.
    wait_for_drop(&lab, stranger, addresses[9])?;

    let mut agents = 0;
    while agents < 2 {
        let (at_tunnel, before) =
            (Capture::start_on(&lab, lab.node(), "vx-t")?, lab.drops("tunnel_to_node")?);
        let sent = stranger.inject(frames.iter().map(Vec::as_slice))?.sent;
        wait_for("the drops", BOUND, || {
            Ok((lab.drops("tunnel_to_node")? == before + sent).then_some(()))
        })?;
        // From outside the same packet passes, which shows that the device works.
        let already = received(&lab)?;
        for family in Family::BOTH {
            let to = lab.node().addresses.of(family);
            office.inject([&vxlan(&lab, office, to, admin, 7778)?[..]].into_iter())?;
        }
        wait_for("the frames from outside", BOUND, || {
            Ok((received(&lab)? == already + 2).then_some(()))
        })?;
        let seen = at_tunnel.stop()?;
        assert_eq!(seen.packets("udp port 7777")?, [""; 0]);
        assert_eq!(seen.packets("udp port 7778")?.len(), 2);
        agent.assert_alive()?;
        agents += 1;
        if agents < 2 {
            // An agent that starts when the device exists.
            agent.stop()?;
            agent = Agent::restart(&lab, 1)?;
            wait_for_drop(&lab, stranger, addresses[0])?;
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_device_in_another_namespace_is_out_of_a_pods_reach_too() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (stranger, admin) = (lab.host("other/stranger")?, lab.host("admin/adminapp")?);
    let office = lab.host("office")?;
    // Its socket stays where it was made: at the node.
    let elsewhere = Netns::create("moved")?;
    lab.node().netns.ip(&format!(
        "link add vx-t type vxlan external dstport {PORT}\nlink set vx-t netns {}\n",
        elsewhere.name()
    ))?;
    elsewhere.ip("link set vx-t up\n")?;
    let received = || -> Result<u64> {
        let links = elsewhere.ip_json(&["-s", "link", "show", "vx-t"])?;
        links[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
    };
    for family in Family::BOTH {
        let to = lab.node().addresses.of(family);
        wait_for_drop(&lab, stranger, to)?;
        let (already, before) = (received()?, lab.drops("tunnel_to_node")?);
        stranger.inject([&vxlan(&lab, stranger, to, admin, 7777)?[..]].into_iter())?;
        wait_for("the drop", BOUND, || {
            Ok((lab.drops("tunnel_to_node")? == before + 1).then_some(()))
        })?;
        assert_eq!(received()?, already, "{family}");
        // From outside it comes through: the device works.
        office.inject([&vxlan(&lab, office, to, admin, 7778)?[..]].into_iter())?;
        wait_for("the frame from outside", BOUND, || {
            Ok((received()? == already + 1).then_some(()))
        })?;
    }
    agent.assert_alive()
}

/// What kube-proxy does for a UDP service whose backend is the node's tunnel.
const SERVICE: &str = "
table ip services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.1 udp dport 53 dnat to 192.0.2.1:5555
        ip daddr 10.96.0.1 udp dport 54 dnat to 192.0.2.1:4789
        ip daddr 10.96.0.1 udp dport 55 dnat to 192.0.2.1:5557
    }
}
table ip6 services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr fd96::1 udp dport 53 dnat to [2001:db8::1]:5555
        ip6 daddr fd96::1 udp dport 54 dnat to [2001:db8::1]:4789
        ip6 daddr fd96::1 udp dport 55 dnat to [2001:db8::1]:5557
    }
}
";

/// A datagram to `port` of the service from UDP port `src_port`, with a VXLAN header.
fn to_service(lab: &Lab, from: &Host, family: Family, ports: [u16; 2]) -> Result<Vec<u8>> {
    let to = if family == Family::V4 { "10.96.0.1" } else { "fd96::1" };
    let inner = vxlan(lab, from, to.parse()?, from, 7777)?;
    let udp = if family == Family::V4 { 34 } else { 54 };
    let outer = PacketBuilder::ethernet2(from.mac("eth0")?, lab.node().mac(&from.link)?);
    let outer = match to.parse()? {
        IpAddr::V4(to) => outer.ipv4(from.addresses.v4.octets(), to.octets(), 64),
        IpAddr::V6(to) => outer.ipv6(from.addresses.v6.octets(), to.octets(), 64),
    };
    let mut frame = Vec::new();
    outer.udp(ports[0], ports[1]).write(&mut frame, &inner[udp + 8..])?;
    Ok(frame)
}

#[test]
fn a_service_is_no_way_into_a_tunnel_of_the_node() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    nft(&lab, SERVICE)?;
    lab.node().netns.ip("link add vx-t type vxlan external dstport 5555\nlink set vx-t up\n\
         link add vx-w type vxlan external gpe dstport 4789\nlink set vx-w up\n")?;
    let (stranger, office) = (lab.host("other/stranger")?, lab.host("office")?);
    for (number, family) in (0..).zip(Family::BOTH) {
        wait_for_drop(&lab, stranger, lab.node().addresses.of(family))?;
        let (already, before) = (received(&lab)?, lab.drops("to_node_tunnel")?);
        let frames = [53, 54].map(|port| to_service(&lab, stranger, family, [41_000, port]));
        let frames = frames.into_iter().collect::<Result<Vec<_>>>()?;
        stranger.inject(frames.iter().map(Vec::as_slice))?;
        wait_for("the drops", BOUND, || {
            Ok((lab.drops("to_node_tunnel")? == before + 2).then_some(()))
        })?;
        assert_eq!(received(&lab)?, already, "{family}");
        let records = wait_for("the records", BOUND, || {
            let mut records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
            records.retain(|record| record["drop_reason"] == "to_node_tunnel");
            Ok((records.len() as u64 == before + 2).then_some(records))
        })?;
        for record in records {
            let (source, port) = (&record["source"]["pod"], &record["source"]["port"]);
            ensure!((source, port) == (&"stranger".into(), &41_000.into()), "{record}");
        }
        // From outside it comes through, and so does a pod's to another port of the node.
        office.inject([&to_service(&lab, office, family, [41_000, 53])?[..]].into_iter())?;
        wait_for("the frame from outside", BOUND, || {
            Ok((received(&lab)? == already + 1).then_some(()))
        })?;
        let any: IpAddr = if family == Family::V4 { [0; 4].into() } else { [0; 16].into() };
        let server = lab.node().netns.inside(|| Ok(UdpSocket::bind((any, 5557))?))?;
        server.set_read_timeout(Some(BOUND))?;
        let frame = to_service(&lab, stranger, family, [41_001 + number, 55])?;
        stranger.inject([&frame[..]].into_iter())?;
        assert!(server.recv(&mut [0; 200])? > 0);
    }
    agent.assert_alive()
}
