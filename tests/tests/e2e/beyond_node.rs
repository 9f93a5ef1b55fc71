//! Pods of other nodes behind VXLAN, source address translation by the node's kernel, and pods in
//! the node's own network.

use anyhow::{Result, ensure};
use podgate_tests::lab::{
    Addresses, Agent, Capture, Family, Get, Host, Lab, Netns, Outcome, Stream,
};

use super::client_server::pod;
use super::hairpin::nft;

/// Policies of pods of this node, with peers on another one.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: peers}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: peers}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to:
    - podSelector: {matchLabels: {app: friend}}
    - ipBlock: {cidr: 192.0.2.10/32}
    - ipBlock: {cidr: \"2001:db8::10/128\"}
";

/// A port that each server listens on.
const PORT: u16 = 8080;

/// Pods `peers/web`, with a server, and `peers/client`.
fn lab() -> Result<Lab> {
    let web = pod("peers", "web", ["10.66.2.10", "fd66:2::10"]).replace(
        "status:",
        "spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 8080}]}]}\nstatus:",
    );
    let client = pod("peers", "client", ["10.66.2.11", "fd66:2::11"]);
    Lab::of(&[&web, &client, POLICIES].concat())
}

/// A pod of another node, behind the outside host `node`, as `peers/NAME` with that label.
fn pod_behind(lab: &Lab, node: &Host, name: &str, addresses: Addresses) -> Result<Host> {
    let netns = Netns::create(&format!("far-{name}"))?;
    netns.sysctl(&[("ipv6/conf/default/accept_dad", "0")])?;
    let (link, Addresses { v4, v6 }) = (format!("far-{name}"), addresses);
    node.netns.ip(&format!(
        "link add {link} type veth peer name eth0 netns {}\n\
         addr add 169.254.1.1/32 scope link dev {link}\n\
         addr add fe80::1/64 dev {link} nodad\n\
         link set {link} up\n\
         route add {v4} dev {link} scope link\n\
         route add {v6} dev {link}\n",
        netns.name()
    ))?;
    netns.ip(&format!(
        "link set lo up\n\
         link set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n"
    ))?;
    let object = pod("peers", name, [&v4.to_string(), &v6.to_string()]);
    lab.write_manifest(&format!("{name}.yaml"), &object)?;
    Ok(Host { name: format!("peers/{name}"), addresses, netns, link })
}

/// Connects two nodes as Flannel does: a VXLAN device on each, with the other's pods behind it.
fn connect_by_vxlan(lab: &Lab, other: &Host) -> Result<()> {
    let ends = [(lab.node(), other, 2, 9), (other, lab.node(), 9, 2)];
    for (node, peer, own, peers) in ends {
        node.netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        node.netns.ip(&format!(
            "link add flannel.1 type vxlan id 1 local {} remote {} dstport 8472 nolearning\n\
             link set flannel.1 up mtu 1450\n\
             addr add 10.66.{own}.0/32 dev flannel.1\n\
             addr add fd66:{own}::ff/128 dev flannel.1 nodad\n\
             route add 10.66.{peers}.0/24 via 10.66.{peers}.0 dev flannel.1 onlink\n\
             route add fd66:{peers}::/64 via fd66:{peers}::ff dev flannel.1 onlink\n",
            node.addresses.v4, peer.addresses.v4
        ))?;
    }
    Ok(())
}

fn is_answered(seen: &Outcome) -> bool {
    matches!(seen, Outcome::Answer(answer) if answer.status == 200)
}

fn get() -> Get<'static> {
    Get { port: PORT, ..Get::path("/") }
}

#[test]
fn policy_applies_between_pods_of_two_nodes_behind_vxlan() -> Result<()> {
    let lab = lab()?;
    let other_node = lab.host("office")?;
    connect_by_vxlan(&lab, other_node)?;
    let pods = [("friend", "10.66.9.7", "fd66:9::7"), ("stranger", "10.66.9.8", "fd66:9::8")];
    let [friend, stranger] = pods.map(|(name, v4, v6)| {
        pod_behind(&lab, other_node, name, Addresses { v4: v4.parse()?, v6: v6.parse()? })
    });
    let (friend, stranger) = (friend?, stranger?);
    let _servers = [lab.serve(&friend, &[PORT])?, lab.serve(&stranger, &[PORT])?];
    let mut agent = Agent::start_with(&lab, 2, &["--pod-mtu", "65000"])?;
    let (web, client) = (lab.host("peers/web")?, lab.host("peers/client")?);
    for family in Family::BOTH {
        for (from, to, is_allowed) in [
            (&friend, web, true),
            (&stranger, web, false),
            (client, &friend, true),
            (client, &stranger, false),
        ] {
            let seen = get().fetch(from, to, family)?;
            let case = format!("{family}, {} to {}: {seen:?}", from.name, to.name);
            ensure!(is_answered(&seen) == is_allowed, "{case}");
            ensure!(is_allowed || matches!(seen, Outcome::NoAnswer), "{case}");
        }
        // Large packets inside, 1450 bytes on the way.
        for (port, [from, to]) in (5001..).zip([[client, &friend], [&friend, web]]) {
            let stream = Stream::start(from, to, port, family)?;
            stream.wait_for_more()?;
            stream.finish()?;
        }
    }
    agent.assert_alive()
}

#[test]
fn the_kernel_translates_sources_of_packets_that_policy_allowed() -> Result<()> {
    let lab = lab()?;
    let (office, guest) = (lab.host("office")?, lab.host("guest")?);
    let _servers = [lab.serve(office, &[PORT])?, lab.serve(guest, &[PORT])?];
    nft(
        &lab,
        "table inet egress {
            chain postrouting {
                type nat hook postrouting priority srcnat;
                oifname \"out-*\" ip saddr 10.66.0.0/16 snat ip to 192.0.2.1
                oifname \"out-*\" ip6 saddr fd66::/16 snat ip6 to 2001:db8::1
            }
        }",
    )?;
    let mut agent = Agent::start(&lab, 2)?;
    let client = lab.host("peers/client")?;
    let captures = [Capture::start(&lab, office)?, Capture::start(&lab, guest)?];
    for family in Family::BOTH {
        let seen = get().fetch(client, office, family)?;
        ensure!(is_answered(&seen), "{family}: {seen:?}");
        let seen = get().fetch(client, guest, family)?;
        ensure!(matches!(seen, Outcome::NoAnswer), "{family}: {seen:?}");
    }
    let [at_office, at_guest] = captures.map(Capture::stop);
    let (at_office, at_guest) = (at_office?, at_guest?);
    let requests = format!("tcp dst port {PORT}");
    for node in ["192.0.2.1", "2001:db8::1"] {
        let translated = at_office.packets(&format!("{requests} and src host {node}"))?;
        ensure!(!translated.is_empty(), "nothing comes from {node}");
    }
    let own = format!("{requests} and (src net 10.66.0.0/16 or src net fd66::/16)");
    assert_eq!(at_office.packets(&own)?, [""; 0]);
    assert_eq!(at_guest.packets(&requests)?, [""; 0]);
    agent.assert_alive()
}

#[test]
fn a_pod_in_the_nodes_network_is_the_node() -> Result<()> {
    let lab = lab()?;
    let node = lab.node();
    // Its labels make no difference, and no policy selects it.
    let object = pod("peers", "agent", ["192.0.2.1", "2001:db8::1"])
        .replace("app: agent", "app: friend")
        .replace("status:", "spec: {hostNetwork: true}\nstatus:");
    lab.write_manifest("agent.yaml", &object)?;
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
               metadata: {name: all, namespace: peers}\nspec: {podSelector: {}}\n";
    lab.write_manifest("all.yaml", all)?;
    let _server = lab.serve(node, &[PORT])?;
    let mut agent = Agent::start(&lab, 2)?;
    let (web, client) = (lab.host("peers/web")?, lab.host("peers/client")?);
    for family in Family::BOTH {
        // As kubelet's probes, and to a server of the node, which no policy protects.
        for (from, to) in [(node, web), (web, node)] {
            let seen = get().fetch(from, to, family)?;
            ensure!(is_answered(&seen), "{family}, {} to {}: {seen:?}", from.name, to.name);
        }
        let seen = get().fetch(client, lab.host("guest")?, family)?;
        ensure!(matches!(seen, Outcome::NoAnswer), "{family}: {seen:?}");
    }
    assert_eq!(lab.metric("podgate_objects_rejected")?, 0);
    agent.assert_alive()
}
