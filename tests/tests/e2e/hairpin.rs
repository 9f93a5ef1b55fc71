//! Packets that come from the kernel with a local source address: that of a pod, which called a
//! service whose backend is on the same node, or spoofed; and that of the node: translated, spoofed
//! or genuine.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Agent, Capture, Family, Get, Host, Lab, Outcome, output, wait_for};
use podgate_tests::scenario::{DENIED_BODY, MANIFESTS};

const BOUND: Duration = Duration::from_secs(10);

/// The rules of kube-proxy for two services: one with the pod nginx as its backend, and source
/// address translation where a pod calls itself.
const SERVICES: &str = "
table ip services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.1 tcp dport 80 dnat to 10.77.0.30:80
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.77.0.30 ip daddr 10.77.0.30 masquerade
    }
}
table ip6 services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr fd96::1 tcp dport 80 dnat to [fd77::30]:80
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip6 saddr fd77::30 ip6 daddr fd77::30 masquerade
    }
}
";

/// Adds rules to the node's nftables.
pub(super) fn nft(lab: &Lab, rules: &str) -> Result<()> {
    let mut command = lab.node().netns.bounded("nft", BOUND);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    child.stdin.take().map_or(Ok(()), |mut input| input.write_all(rules.as_bytes()))?;
    ensure!(child.wait()?.success(), "nft rejects the rules");
    Ok(())
}

/// HTTP status and body for a call of the first service; status 0 for no answer.
fn call(from: &Host, family: Family, path: &str) -> Result<(u16, String)> {
    let service = if family == Family::V4 { "10.96.0.1" } else { "[fd96::1]" };
    call_at(from, service, path)
}

fn call_at(from: &Host, service: &str, path: &str) -> Result<(u16, String)> {
    let mut command = from.netns.bounded("curl", BOUND);
    command.args([
        "--silent",
        "--noproxy",
        "*",
        "--max-time",
        "2",
        "--write-out",
        "\n%{http_code}",
    ]);
    let output = output(command.arg(format!("http://{service}{path}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    Ok((status.parse()?, body.to_owned()))
}

#[test]
fn policy_applies_to_a_service_with_a_backend_on_the_same_node() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    nft(&lab, SERVICES)?;
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let nginx = lab.host("backend/nginx")?;
    for family in Family::BOTH {
        // Decided by the caller's address, not by the translated one.
        let seen = call(admin, family, "/docs")?;
        ensure!(seen.0 == 200, "{family}: {seen:?}");
        assert_eq!(call(admin, family, "/secret")?, (403, DENIED_BODY.to_owned()), "{family}");
        assert_eq!(call(stranger, family, "/docs")?.0, 0, "{family}");
        // To itself with the node's address as source; nginx allows only some other pods.
        assert_eq!(call(nginx, family, "/docs")?.0, 200, "{family}");
    }
    assert_eq!(lab.drops("spoofed_source")?, 0);
    agent.assert_alive()
}

#[test]
fn packets_from_outside_with_a_local_pods_address_are_dropped() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (admin, store) = (lab.host("admin/adminapp")?, lab.host("backend/store")?);
    let (guest, user) = (lab.host("guest")?, lab.host("user/userapp")?);
    let (source, gateway) = (guest.mac("eth0")?, lab.node().mac(&guest.link)?);
    for rp_filter in ["0", "2"] {
        lab.node().netns.sysctl(&[
            ("ipv4/conf/all/rp_filter", rp_filter),
            ("ipv4/conf/out-guest/rp_filter", rp_filter),
        ])?;
        let captures = [Capture::start(&lab, store)?, Capture::start(&lab, user)?];
        let mut frames = Vec::new();
        // To a pod whose policy allows the claimed source, and to a pod without policy.
        for (to, port) in [(store, 8080), (user, 8080)] {
            let step = PacketBuilder::ethernet2(source, gateway).ipv4(
                admin.addresses.v4.octets(),
                to.addresses.v4.octets(),
                64,
            );
            let mut frame = Vec::new();
            step.tcp(7777, port, 1, 64_000).syn().write(&mut frame, &[])?;
            frames.push(frame);
            let step = PacketBuilder::ethernet2(source, gateway).ipv6(
                admin.addresses.v6.octets(),
                to.addresses.v6.octets(),
                64,
            );
            let mut frame = Vec::new();
            step.tcp(7777, port, 1, 64_000).syn().write(&mut frame, &[])?;
            frames.push(frame);
        }
        let before = lab.drops("spoofed_source")?;
        guest.inject(frames.iter().map(Vec::as_slice))?;
        wait_for("the drops", BOUND, || {
            Ok((lab.drops("spoofed_source")? == before + frames.len() as u64).then_some(()))
        })?;
        for capture in captures {
            assert_eq!(capture.stop()?.packets("port 7777 or (ip6 and tcp)")?, [""; 0]);
        }
    }
    agent.assert_alive()
}

/// What kube-proxy does for a service of type NodePort with the pod store as its backend, and
/// with `masqueradeAll`.
const MASQUERADED: &str = "
table ip masqueraded {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 192.0.2.1 tcp dport 30090 dnat to 10.77.0.40:9090
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade
    }
}
table ip6 masqueraded {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr 2001:db8::1 tcp dport 30090 dnat to [fd77::40]:9090
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade
    }
}
";

/// A SYN from the node's address to port 9090 of `to`.
fn forged_syn(lab: &Lab, macs: [[u8; 6]; 2], to: &Host, family: Family) -> Result<Vec<u8>> {
    let (node, to) = (lab.node().addresses, to.addresses);
    let step = PacketBuilder::ethernet2(macs[0], macs[1]);
    let step = match family {
        Family::V4 => step.ipv4(node.v4.octets(), to.v4.octets(), 64),
        Family::V6 => step.ipv6(node.v6.octets(), to.v6.octets(), 64),
    };
    let mut frame = Vec::new();
    step.tcp(7777, 9090, 1, 64_000).syn().write(&mut frame, &[])?;
    Ok(frame)
}

/// The node's probe of a pod that no rule lets it reach.
fn probe(lab: &Lab, store: &Host, family: Family) -> Result<()> {
    let get = Get { port: 9090, ..Get::path("/probe") };
    let seen = get.fetch(lab.node(), store, family)?;
    let passes = matches!(&seen, Outcome::Answer(answer) if answer.status == 200);
    ensure!(passes, "the node's probe over {family}: {seen:?}");
    Ok(())
}

/// Sends forged SYNs from a host and waits until each is denied.
fn assert_denied(lab: &Lab, from: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let before = lab.drops("policy_denied")?;
    from.inject(frames.iter().map(Vec::as_slice))?;
    wait_for("the forged packets to be denied", BOUND, || {
        Ok((lab.drops("policy_denied")? == before + frames.len() as u64).then_some(()))
    })
}

#[test]
fn the_nodes_address_from_outside_is_not_the_node() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (store, guest) = (lab.host("backend/store")?, lab.host("guest")?);
    // Over IPv4 the kernel drops such packets unless it is configured otherwise.
    lab.node().netns.sysctl(&[
        ("ipv4/conf/all/accept_local", "1"),
        ("ipv4/conf/out-guest/accept_local", "1"),
    ])?;
    let at_store = Capture::start(&lab, store)?;
    let macs = [guest.mac("eth0")?, lab.node().mac(&guest.link)?];
    let frames = Family::BOTH.map(|family| forged_syn(&lab, macs, store, family));
    let frames: Vec<_> = frames.into_iter().collect::<Result<_>>()?;
    for _ in 0..2 {
        assert_denied(&lab, guest, &frames)?;
        for family in Family::BOTH {
            probe(&lab, store, family)?;
        }
    }
    assert_eq!(at_store.stop()?.packets("port 7777 or (ip6 and tcp src port 7777)")?, [""; 0]);
    agent.assert_alive()
}

#[test]
fn a_masqueraded_caller_is_not_the_node() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    nft(&lab, MASQUERADED)?;
    let (store, guest) = (lab.host("backend/store")?, lab.host("guest")?);
    let stranger = lab.host("other/stranger")?;
    for (family, service) in Family::BOTH.into_iter().zip(["192.0.2.1", "[2001:db8::1]"]) {
        let service = format!("{service}:30090");
        for from in [guest, stranger] {
            let before = lab.drops("policy_denied")?;
            assert_eq!(call_at(from, &service, "/probe")?.0, 0, "{} over {family}", from.name);
            ensure!(lab.drops("policy_denied")? > before);
        }
        // The pod itself gets through, by the same rules.
        assert_eq!(call_at(store, &service, "/probe")?.0, 200, "{family}");
        probe(&lab, store, family)?;
    }
    agent.assert_alive()
}
