//! No packet reaches a pod without passing a worker, whichever path the kernel has to the pod: a
//! route of the CNI plugin, a table of an `ip rule`, a bridge port.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use etherparse::PacketBuilder;
use podgate_tests::lab::{
    Agent, Capture, Family, Get, Host, Lab, Outcome, Stream, bounded, run, wait_for,
};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(10);

/// A path to a pod that the kernel prefers to podgate's route.
#[derive(Clone, Copy, Debug)]
enum KernelPath {
    Route,
    Rule,
}

impl KernelPath {
    const BOTH: [Self; 2] = [Self::Route, Self::Rule];

    fn set(self, lab: &Lab, pod: &Host, action: &str) -> Result<()> {
        let (v4, v6, link) = (pod.addresses.v4, pod.addresses.v6, &pod.link);
        let node = &lab.node().netns;
        match self {
            Self::Route => {
                // Over IPv6 podgate's route has metric 1, the most preferred. A route of the same
                // metric after it is used once podgate has removed its own.
                let (v4_action, v6_action) =
                    if action == "add" { ("prepend", "append") } else { (action, action) };
                node.ip(&format!(
                    "route {v4_action} {v4} dev {link} scope link\n\
                     route {v6_action} {v6} dev {link} metric 1\n"
                ))
            }
            Self::Rule => {
                node.ip(&format!(
                    "route {action} {v4} dev {link} scope link table 99\n\
                     route {action} {v6} dev {link} table 99\n"
                ))?;
                for (family, to) in [("-4", v4.to_string()), ("-6", v6.to_string())] {
                    let mut rule = bounded("ip", BOUND);
                    rule.args(["-n", node.name(), family, "rule", action, "pref", "99"]);
                    run(rule.args(["to", &to, "lookup", "99"]))?;
                }
                Ok(())
            }
        }
    }
}

fn answered(seen: &Outcome) -> bool {
    matches!(seen, Outcome::Echo(_))
        || matches!(seen, Outcome::Answer(answer) if answer.status == 200)
}

/// Runs `ask` for both families at the same time, to wait for timeouts only once.
fn both(ask: impl Fn(Family) -> Result<Outcome> + Sync) -> Result<[Outcome; 2]> {
    thread::scope(|scope| {
        let v6 = scope.spawn(|| ask(Family::V6));
        let v4 = ask(Family::V4)?;
        Ok([v4, v6.join().map_err(|_| anyhow!("a client's thread panicked"))??])
    })
}

fn get_8080(from: &Host, to: &Host) -> Result<[Outcome; 2]> {
    both(|family| Get { port: 8080, ..Get::path("/items") }.fetch(from, to, family))
}

#[test]
fn policy_applies_to_a_ready_pod_whichever_route_the_kernel_takes() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut agent = Agent::start(&lab, 2)?;
    let (store, office, guest) =
        (lab.host("backend/store")?, lab.host("office")?, lab.host("guest")?);
    for path in KernelPath::BOTH {
        path.set(&lab, store, "add")?;
        let before = lab.drops("policy_denied")?;
        let seen = get_8080(office, store)?;
        ensure!(seen.iter().all(answered), "{path:?}: {seen:?}");
        let seen = get_8080(lab.node(), store)?;
        ensure!(seen.iter().all(answered), "the node by {path:?}: {seen:?}");
        let seen = get_8080(guest, store)?;
        assert_eq!(seen, [Outcome::NoAnswer, Outcome::NoAnswer], "{path:?}");
        ensure!(lab.drops("policy_denied")? >= before + 2);
        path.set(&lab, store, "del")?;
    }
    agent.assert_alive()
}

/// Removes one pod from the manifest of pods.
fn forget(lab: &Lab, pod: &str) -> Result<()> {
    let text = fs::read_to_string(lab.manifests().join("pods.yaml"))?;
    let others =
        text.split("---\n").filter(|pod_text| !pod_text.contains(&format!("name: {pod}\n")));
    lab.write_manifest("pods.yaml", &others.collect::<Vec<_>>().join("---\n"))
}

#[test]
fn a_pod_that_is_not_ready_is_unreachable() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    let (user, office) = (lab.host("user/userapp")?, lab.host("office")?);
    let assert_unreachable = |what: &str, path: KernelPath| -> Result<()> {
        path.set(&lab, user, "add")?;
        let at_user = Capture::start(&lab, user)?;
        for from in [office, lab.node()] {
            let seen = both(|family| from.ping(user, family))?;
            ensure!(!seen.iter().any(answered), "{what}, {path:?}, {}: {seen:?}", from.name);
        }
        let arrived = at_user.stop()?.packets("icmp or (icmp6 and ip6[40] = 128)")?;
        assert_eq!(arrived, [""; 0], "{what}, {path:?}");
        path.set(&lab, user, "del")
    };
    let seen = both(|family| office.ping(user, family))?;
    ensure!(seen.iter().all(answered), "{seen:?}");
    forget(&lab, "userapp")?;
    lab.wait_for_endpoint(user, "waiting")?;
    for path in KernelPath::BOTH {
        let before = lab.drops("to_pod_not_ready")?;
        assert_unreachable("its object is gone", path)?;
        ensure!(lab.drops("to_pod_not_ready")? > before);
    }
    agent.kill()?;
    assert_unreachable("the agent is dead", KernelPath::Route)?;
    lab.node().netns.ip("link del pg-host\n")?;
    assert_unreachable("pg-host is gone, too", KernelPath::Route)?;
    // The endpoint was ready and saved when the agent died.
    let admin = lab.host("admin/adminapp")?;
    KernelPath::Route.set(&lab, admin, "add")?;
    let seen = both(|family| office.ping(admin, family))?;
    ensure!(!seen.iter().any(answered), "{seen:?}");
    Ok(())
}

/// Makes the pods' links ports of one bridge, as the CNI plugin `bridge` does.
fn bridge(lab: &Lab) -> Result<()> {
    let node = &lab.node().netns;
    node.ip("link add cni0 type bridge\nlink set cni0 up\n")?;
    for pod in lab.pods() {
        let link = &pod.link;
        node.ip(&format!("addr flush dev {link}\nlink set {link} master cni0\n"))?;
        pod.netns
            .ip("route add 10.77.0.0/24 dev eth0 scope link\nroute add fd77::/64 dev eth0\n")?;
    }
    node.ip("addr add 10.77.0.1/24 dev cni0\naddr add fd77::1/64 dev cni0 nodad\n\
         addr add 169.254.1.1/32 dev cni0\naddr add fe80::1/64 dev cni0 nodad\n")
}

pub(crate) fn bridged_lab(attached: &[&str]) -> Result<Lab> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    bridge(&lab)?;
    ensure!(!attached.is_empty());
    Ok(lab)
}

pub(crate) fn attach(lab: &Lab, pods: &[&str]) -> Result<()> {
    for pod in pods {
        lab.add_endpoint(lab.host(pod)?)?;
        lab.wait_for_endpoint(lab.host(pod)?, "ready")?;
    }
    Ok(())
}

#[test]
fn policy_applies_between_pods_of_a_bridge_while_some_are_not_attached() -> Result<()> {
    let attached = ["backend/store", "user/userapp"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (store, user) = (lab.host("backend/store")?, lab.host("user/userapp")?);
    let (admin, stranger) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    for call_iptables in ["0", "1"] {
        lab.node().netns.sysctl(&[
            ("bridge/bridge-nf-call-iptables", call_iptables),
            ("bridge/bridge-nf-call-ip6tables", call_iptables),
        ])?;
        // Under policy, which allows one and not the other.
        let seen = get_8080(admin, store)?;
        ensure!(seen.iter().all(answered), "{seen:?}");
        let before = lab.drops("policy_denied")?;
        let seen = get_8080(stranger, store)?;
        assert_eq!(seen, [Outcome::NoAnswer, Outcome::NoAnswer]);
        ensure!(lab.drops("policy_denied")? >= before + 2);
        // Without policy, both directions; between attached pods, and from outside and the node.
        for family in Family::BOTH {
            for (from, to) in [(stranger, user), (user, stranger), (user, lab.host("office")?)] {
                let stream = Stream::start(from, to, 5001, family)?;
                stream.wait_for_more()?;
                stream.finish()?;
            }
            for from in [lab.node(), lab.host("office")?, store] {
                let seen = from.ping(user, family)?;
                ensure!(answered(&seen), "{} {family}: {seen:?}", from.name);
            }
        }
    }
    agent.assert_alive()?;
    agent.kill()?;
    for from in [stranger, lab.node()] {
        let seen = both(|family| from.ping(user, family))?;
        ensure!(!seen.iter().any(answered), "{}: {seen:?}", from.name);
    }
    Ok(())
}

#[test]
fn a_flooded_frame_reaches_a_pod_of_the_bridge_once() -> Result<()> {
    let attached = ["backend/store", "user/userapp", "admin/adminapp"];
    let lab = bridged_lab(&attached)?;
    let _agent = Agent::start_bare(&lab, 1, &[])?;
    attach(&lab, &attached)?;
    let (user, stranger) = (lab.host("user/userapp")?, lab.host("other/stranger")?);
    for family in Family::BOTH {
        ensure!(answered(&stranger.ping(user, family)?));
        let at_user = Capture::start(&lab, user)?;
        for pod in lab.pods() {
            let netns = &lab.node().netns;
            netns.ip(&format!("link set {} type bridge_slave fdb_flush\n", pod.link))?;
        }
        let before = lab.drops("to_pod_other_mac")?;
        ensure!(answered(&stranger.ping(user, family)?));
        let asked = at_user.stop()?.packets("icmp[0] = 8 or (icmp6 and ip6[40] = 128)")?;
        assert_eq!(asked.len(), 1, "{asked:?}");
        ensure!(lab.drops("to_pod_other_mac")? > before, "it was flooded");
    }
    Ok(())
}

#[test]
fn non_ip_frames_neither_reach_nor_leave_a_pod() -> Result<()> {
    let attached = ["user/userapp", "admin/adminapp"];
    let lab = bridged_lab(&attached)?;
    let _agent = Agent::start_bare(&lab, 1, &[])?;
    attach(&lab, &attached)?;
    let (user, admin) = (lab.host("user/userapp")?, lab.host("admin/adminapp")?);
    let stranger = lab.host("other/stranger")?;
    for (from, to) in [(stranger, user), (user, stranger), (user, admin)] {
        let (source, destination) = (from.mac("eth0")?, to.mac("eth0")?);
        let frame = |ethertype: [u8; 2], body: &[u8]| -> Vec<u8> {
            [&destination[..], &source, &ethertype, body].concat()
        };
        let arp_to = |payload: &[u8]| {
            let head = [0, 1, 8, 0, 6, 4, 0, 1];
            let addresses = [from.addresses.v4.octets(), to.addresses.v4.octets()];
            let body = [&head[..], &source, &addresses[0], &[0; 6], &addresses[1], payload];
            frame([0x08, 0x06], &body.concat())
        };
        // Local experimental (RFC 5342), EAPOL, PPPoE, an LLC frame, ARP with a payload, RARP.
        let frames = [
            frame([0x88, 0xb5], b"a secret that goes past every policy of the cluster"),
            frame([0x88, 0x8e], &[0x5a; 64]),
            frame([0x88, 0x64], &[0x5a; 64]),
            frame([0, 46], &[0x42; 46]),
            arp_to(b"a secret"),
            arp_to(&[0x5a; 400]),
            frame([0x80, 0x35], &[0; 46]),
        ];
        let at_target = Capture::start(&lab, to)?;
        let reason = if from.name == stranger.name { "to_pod_not_ip" } else { "not_ip" };
        let before = lab.drops(reason)?;
        from.inject(frames.iter().map(Vec::as_slice))?;
        // Address resolution works meanwhile, and shows that the capture is past the frames.
        from.netns.ip("neigh flush dev eth0\n")?;
        to.netns.ip("neigh flush dev eth0\n")?;
        let seen = both(|family| from.ping(to, family))?;
        ensure!(seen.iter().all(answered), "{seen:?}");
        wait_for("the drops", BOUND, || {
            Ok((lab.drops(reason)? >= before + frames.len() as u64).then_some(()))
        })?;
        let captured = at_target.stop()?;
        let others = captured.packets("not ip and not ip6 and not (arp and len <= 42)")?;
        assert_eq!(others, [""; 0], "{} {}", from.name, to.name);
    }
    Ok(())
}

#[test]
fn a_pod_cannot_fill_the_neighbour_table() -> Result<()> {
    let attached = ["user/userapp"];
    let lab = bridged_lab(&attached)?;
    let _agent = Agent::start_bare(&lab, 1, &[])?;
    attach(&lab, &attached)?;
    let (user, node) = (lab.host("user/userapp")?, lab.node());
    let source = user.mac("eth0")?;
    let request = |sender: [u8; 4], target: [u8; 4]| {
        let head = [&[0xff; 6][..], &source, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        [&head[..], &source, &sender, &[0; 6], &target].concat()
    };
    // As many other addresses as the table has entries (`gc_thresh3`), and its own as often.
    let spoofed =
        (0..1024_u16).map(|n| request([10, 77, 1 + (n >> 8) as u8, n as u8], [10, 77, 0, 1]));
    let own = (0..1024).map(|_| request(user.addresses.v4.octets(), [10, 77, 0, 1]));
    let frames: Vec<_> = spoofed.chain(own).collect();
    user.inject(frames.iter().map(Vec::as_slice))?;
    wait_for("the drops", BOUND, || {
        let enough = lab.drops("arp_nd_spoofed")? >= 1024 && lab.drops("arp_nd_rate_limit")? > 0;
        Ok(enough.then_some(()))
    })?;
    let mut show = bounded("ip", BOUND);
    let known = run(show.args(["-n", node.netns.name(), "neigh", "show", "dev", "cni0"]))?;
    ensure!(!known.contains("10.77.1."), "{known}");
    Ok(())
}

/// An ARP request for `target`, and a neighbour solicitation for it, as the pod `from` sends them
/// to all and to the solicited-node group (RFC 826, RFC 4861 section 4.3).
fn requests_for(from: &Host, target: &Host) -> Result<[Vec<u8>; 2]> {
    let source = from.mac("eth0")?;
    let addresses = [from, target].map(|host| host.addresses.v4.octets());
    let arp = [&[0xff; 6][..], &source, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &source, &addresses[0]];
    let arp = [&arp.concat()[..], &[0; 6], &addresses[1]].concat();
    let wanted = target.addresses.v6.octets();
    let last = [wanted[13], wanted[14], wanted[15]];
    let group = [&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff][..], &last].concat();
    let group: [u8; 16] = group.try_into().map_err(|_| anyhow!("an address of 16 bytes"))?;
    let to = [0x33, 0x33, 0xff, last[0], last[1], last[2]];
    let step = PacketBuilder::ethernet2(source, to);
    let step = step.ipv6(from.addresses.v6.octets(), group, 255);
    let (mut solicitation, options) = (Vec::new(), [&[1, 1][..], &source].concat());
    step.icmpv6_raw(135, 0, [0; 4]).write(&mut solicitation, &[&wanted[..], &options].concat())?;
    Ok([arp, solicitation])
}

/// Pings to and from a pod of the bridge, each after all ends have forgotten their neighbours.
fn ping_with_new_neighbours(lab: &Lab, user: &Host) -> Result<Vec<Outcome>> {
    let (store, admin) = (lab.host("backend/store")?, lab.host("admin/adminapp")?);
    let (office, node) = (lab.host("office")?, lab.node());
    let mut all = Vec::new();
    for _ in 0..5 {
        for (from, to) in
            [(store, user), (node, user), (office, user), (user, office), (user, admin)]
        {
            node.netns.ip("neigh flush dev cni0\n")?;
            for pod in [store, user, admin] {
                pod.netns.ip("neigh flush dev eth0\n")?;
            }
            all.extend(both(|family| from.ping(to, family))?);
        }
    }
    Ok(all)
}

/// Two pods send ARP requests, or neighbour solicitations, for a third one, 600 a second each.
#[test]
fn requests_of_two_pods_of_a_bridge_do_not_cut_off_a_third() -> Result<()> {
    const EACH: usize = 30;
    const PAUSE: Duration = Duration::from_millis(50);
    /// What a pod sends at least, however soon the third has its answers.
    const LEAST: usize = 300;
    let attached = ["user/userapp", "backend/store", "admin/adminapp"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (user, stranger) = (lab.host("user/userapp")?, lab.host("other/stranger")?);
    // One of them is not attached, and no program limits what it sends.
    let flooders = [lab.host("admin/adminapp")?, stranger];
    for kind in [0, 1] {
        let stop = AtomicBool::new(false);
        let flood = |from: &Host| -> Result<usize> {
            let frame = &requests_for(from, user)?[kind];
            let (injector, mut sent) = (from.injector()?, 0);
            while !stop.load(Ordering::Relaxed) || sent < LEAST {
                injector.send((0..EACH).map(|_| &frame[..]))?;
                sent += EACH;
                thread::sleep(PAUSE);
            }
            Ok(sent)
        };
        let at_user = Capture::start(&lab, user)?;
        let (seen, sent) = thread::scope(|scope| {
            let floods = flooders.map(|from| scope.spawn(move || flood(from)));
            let seen = ping_with_new_neighbours(&lab, user);
            stop.store(true, Ordering::Relaxed);
            let mut sent = 0;
            for flood in floods {
                sent += flood.join().map_err(|_| anyhow!("a flood panicked"))??;
            }
            Ok::<_, anyhow::Error>((seen?, sent))
        })?;
        ensure!(seen.iter().all(answered), "{seen:?}");
        let filter = if kind == 0 { "arp[6:2] = 1" } else { "icmp6 and ip6[40] = 135" };
        let arrived = at_user.stop()?.packets(filter)?.len();
        ensure!(arrived > 100 && sent > 500, "{arrived} of {sent} arrive");
    }
    agent.assert_alive()
}

/// A SYN to port 9090 of `to` from `source`, in a frame for `destination`.
fn forged_syn(macs: [[u8; 6]; 2], source: IpAddr, to: &Host) -> Result<Vec<u8>> {
    let step = PacketBuilder::ethernet2(macs[0], macs[1]);
    let step = match source {
        IpAddr::V4(source) => step.ipv4(source.octets(), to.addresses.v4.octets(), 64),
        IpAddr::V6(source) => step.ipv6(source.octets(), to.addresses.v6.octets(), 64),
    };
    let mut frame = Vec::new();
    step.tcp(7777, 9090, 1, 64_000).syn().write(&mut frame, &[])?;
    Ok(frame)
}

#[test]
fn the_nodes_address_from_a_pod_that_is_not_attached_is_not_the_node() -> Result<()> {
    let attached = ["backend/store"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (store, stranger) = (lab.host("backend/store")?, lab.host("other/stranger")?);
    let source = stranger.mac("eth0")?;
    let addresses = Family::BOTH.map(|family| lab.node().addresses.of(family));
    let at_store = Capture::start(&lab, store)?;
    // Through the bridge; over IPv6 also through the node, which forwards such packets.
    let to_store = [source, store.mac("eth0")?];
    let by_bridge = addresses.map(|node| forged_syn(to_store, node, store));
    let by_node = forged_syn([source, lab.node().mac("cni0")?], addresses[1], store);
    let frames = by_bridge.into_iter().chain([by_node]).collect::<Result<Vec<_>>>()?;
    let before = lab.drops("policy_denied")?;
    stranger.inject(frames.iter().map(Vec::as_slice))?;
    wait_for("the forged packets to be denied", BOUND, || {
        Ok((lab.drops("policy_denied")? == before + 3).then_some(()))
    })?;
    for family in Family::BOTH {
        let get = Get { port: 9090, ..Get::path("/probe") };
        let seen = get.fetch(lab.node(), store, family)?;
        ensure!(answered(&seen), "the node's probe over {family}: {seen:?}");
    }
    assert_eq!(at_store.stop()?.packets("tcp src port 7777")?, [""; 0]);
    agent.assert_alive()
}

#[test]
fn the_nodes_address_from_a_macvlan_device_of_its_bridge_is_not_the_node() -> Result<()> {
    let attached = ["backend/store"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (store, stranger) = (lab.host("backend/store")?, lab.host("other/stranger")?);
    stranger.netns.ip("link del eth0")?;
    let netns = stranger.netns.path();
    let netns = netns.file_name().and_then(|name| name.to_str()).context("no name")?;
    lab.node().netns.ip(&format!(
        "link add mv0 link cni0 type macvlan mode bridge\nlink set mv0 netns {netns} name eth0\n"
    ))?;
    stranger.netns.ip("link set eth0 up")?;
    let at_store = Capture::start(&lab, store)?;
    let macs = [stranger.mac("eth0")?, store.mac("eth0")?];
    let forge = |family| forged_syn(macs, lab.node().addresses.of(family), store);
    let frames = Family::BOTH.into_iter().map(forge).collect::<Result<Vec<_>>>()?;
    let before = lab.drops("policy_denied")?;
    stranger.inject(frames.iter().map(Vec::as_slice))?;
    wait_for("the forged packets to be denied", BOUND, || {
        Ok((lab.drops("policy_denied")? == before + 2).then_some(()))
    })?;
    assert_eq!(at_store.stop()?.packets("tcp src port 7777")?, [""; 0]);
    agent.assert_alive()
}

#[test]
fn a_neighbour_on_the_bridge_gives_a_pod_no_route() -> Result<()> {
    let attached = ["user/userapp"];
    let lab = bridged_lab(&attached)?;
    let mut agent = Agent::start_bare(&lab, 2, &[])?;
    attach(&lab, &attached)?;
    let (user, stranger) = (lab.host("user/userapp")?, lab.host("other/stranger")?);
    let (office, gateway) = (lab.host("office")?, [169, 254, 1, 1]);
    user.netns.sysctl(&[
        ("ipv6/conf/eth0/accept_ra", "2"),
        ("ipv6/conf/eth0/accept_redirects", "1"),
        ("ipv4/conf/eth0/accept_redirects", "1"),
        ("ipv4/conf/eth0/secure_redirects", "0"),
    ])?;
    let routes = || -> Result<String> {
        let mut show = bounded("ip", BOUND);
        let v6 = run(show.args(["-n", user.netns.name(), "-6", "route", "show"]))?;
        let mut get = bounded("ip", BOUND);
        let v4 = run(get.args(["-n", user.netns.name(), "route", "get"]).arg("192.0.2.10"))?;
        Ok(v6 + v4.lines().next().unwrap_or(""))
    };
    // The flow that the redirects quote.
    for family in Family::BOTH {
        ensure!(answered(&user.ping(office, family)?));
    }
    let before = routes()?;
    let ethernet = || {
        Ok::<_, anyhow::Error>(PacketBuilder::ethernet2(stranger.mac("eth0")?, user.mac("eth0")?))
    };
    let link_local = |last: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last).octets();
    let user_v6 = user.addresses.v6.octets();
    let mut frames = vec![Vec::new(); 3];
    // Lifetime 1800 s (RFC 4861 section 4.2).
    let advertisement = [64, 0, 0x07, 0x08];
    let times = [0; 8];
    let step = ethernet()?.ipv6(link_local(7), user_v6, 255);
    step.icmpv6_raw(134, 0, advertisement).write(&mut frames[0], &times)?;
    // A redirect: to the office through the stranger, in the gateway's name (section 4.5; RFC 792).
    let redirect = [stranger.addresses.v6.octets(), office.addresses.v6.octets()].concat();
    let step = ethernet()?.ipv6(link_local(1), user_v6, 255);
    step.icmpv6_raw(137, 0, [0; 4]).write(&mut frames[1], &redirect)?;
    let mut about = Vec::new();
    let (from, to) = (user.addresses.v4.octets(), office.addresses.v4.octets());
    PacketBuilder::ipv4(from, to, 64).icmpv4_echo_request(7, 1).write(&mut about, &[])?;
    let step = ethernet()?.ipv4(gateway, from, 64);
    let by = stranger.addresses.v4.octets();
    step.icmpv4_raw(5, 1, by).write(&mut frames[2], &about)?;

    let at_user = Capture::start(&lab, user)?;
    let dropped = lab.drops("link_scope_icmp")?;
    stranger.inject(frames.iter().map(Vec::as_slice))?;
    wait_for("the drops", BOUND, || {
        Ok((lab.drops("link_scope_icmp")? == dropped + 3).then_some(()))
    })?;
    for family in Family::BOTH {
        ensure!(answered(&user.ping(office, family)?));
    }
    assert_eq!(routes()?, before);
    let filter = "icmp[0] = 5 or (icmp6 and (ip6[40] = 134 or ip6[40] = 137))";
    assert_eq!(at_user.stop()?.packets(filter)?, [""; 0]);
    agent.assert_alive()
}
