//! DNS rules between a real resolver (dnsmasq) in a pod and real clients (dig, Python).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Family, Host, Lab, output, run, wait_for};

use crate::client_server::pod;
use crate::hairpin::nft;

const BOUND: Duration = Duration::from_secs(20);
const ADDRESS: &str = "198.51.100.7";

/// A client whose queries are restricted at its egress, and a resolver whose ingress is restricted
/// to the client's port 53.
const POLICIES: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: dns}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: dns}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: resolver}}]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules: {dns: [{matchPattern: \"*.allowed.test\"}]}
  - toCIDR: [10.96.0.10/32]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules: {dns: [{matchPattern: \"*.allowed.test\"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: resolver, namespace: dns}
spec:
  endpointSelector: {matchLabels: {app: resolver}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: \"53\", protocol: ANY}]}]
";

/// kube-proxy's translation of a DNS service with the resolver as its backend.
const SERVICE: &str = "
table ip services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.10 udp dport 53 dnat to 10.66.1.53:53
        ip daddr 10.96.0.10 tcp dport 53 dnat to 10.66.1.53:53
    }
}
";

/// Two queries over TCP in one segment, the first one denied, then an allowed one byte by byte.
/// Prints the identifier and response code of each answer, by identifier.
const PIPELINED: &str = "
import socket, struct, sys
def query(ident, name):
    labels = b''.join(bytes([len(label)]) + label.encode() for label in name.split('.'))
    message = struct.pack('>6H', ident, 0x0100, 1, 0, 0, 0) + labels + b'\\0\\0\\1\\0\\1'
    return struct.pack('>H', len(message)) + message
s = socket.create_connection((sys.argv[1], 53))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.sendall(query(1, 'evil.test') + query(2, 'www.allowed.test'))
for byte in query(3, 'www.allowed.test'):
    s.sendall(bytes([byte]))
f = s.makefile('rb')
seen = []
for _ in range(3):
    message = f.read(struct.unpack('>H', f.read(2))[0])
    ident, flags = struct.unpack('>2H', message[:4])
    seen.append((ident, flags & 15))
print(sorted(seen))
";

struct Dns {
    resolver: Daemon,
    lab: Lab,
}

impl Dns {
    fn new() -> Result<Self> {
        let client = pod("dns", "client", ["10.66.1.1", "fd66::1"]);
        let resolver = pod("dns", "resolver", ["10.66.1.53", "fd66::53"]);
        let lab = Lab::of(&[&client, &resolver, POLICIES].concat())?;
        let mut command = lab.host("dns/resolver")?.netns.daemon("dnsmasq".as_ref());
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
        ]);
        command.args(["--no-resolv", "--no-hosts", "--log-queries", "--log-facility=-"]);
        command.args([
            "--local-ttl=30",
            "--local=/test/",
            "--cname=alias.allowed.test,www.allowed.test",
        ]);
        command.arg(format!("--host-record=www.allowed.test,{ADDRESS},2001:db8::7"));
        command.arg(format!("--host-record=evil.test,{ADDRESS}"));
        for part in ["a", "b", "c", "d", "e", "f"] {
            command.arg(format!("--txt-record=big.allowed.test,{}", part.repeat(250)));
        }
        let resolver = Daemon::start("dnsmasq", command, lab.file("dnsmasq.log"))?;
        let mut dns = Self { resolver, lab };
        let ready = "the resolver to answer";
        let probe = || dig(dns.lab.host("dns/resolver")?, "127.0.0.1", &["www.allowed.test"]);
        wait_for(ready, BOUND, || Ok(probe()?.contains("status: NOERROR").then_some(())))?;
        ensure!(dns.resolver.exited()?.is_none(), "{}", dns.resolver.log());
        Ok(dns)
    }

    fn client(&self) -> Result<&Host> {
        self.lab.host("dns/client")
    }

    fn resolver_at(&self, family: Family) -> Result<String> {
        Ok(self.lab.host("dns/resolver")?.addresses.of(family).to_string())
    }
}

/// What dig prints for these arguments.
fn dig(from: &Host, server: &str, arguments: &[&str]) -> Result<String> {
    let mut command: Command = from.netns.bounded("dig", BOUND);
    command.arg(format!("@{server}")).args(["+tries=1", "+time=4"]).args(arguments);
    Ok(String::from_utf8_lossy(&output(&mut command)?.stdout).into_owned())
}

#[test]
fn real_clients_get_what_rules_allow_and_are_refused_the_rest() -> Result<()> {
    let dns = Dns::new()?;
    let mut agent = Agent::start(&dns.lab, 2)?;
    let client = dns.client()?;
    for (family, transport) in
        Family::BOTH.into_iter().flat_map(|family| [(family, "+notcp"), (family, "+tcp")])
    {
        let server = dns.resolver_at(family)?;
        let ask = |arguments: &[&str]| dig(client, &server, &[&[transport], arguments].concat());
        let answer = ask(&["WWW.allowed.test"])?;
        ensure!(answer.contains("status: NOERROR") && answer.contains(ADDRESS), "{answer}");
        let alias = ask(&["alias.allowed.test", "AAAA"])?;
        ensure!(alias.contains("CNAME") && alias.contains("2001:db8::7"), "{alias}");
        let missing = ask(&["none.allowed.test"])?;
        ensure!(missing.contains("status: NXDOMAIN"), "{missing}");
        let denied = ask(&["evil.test"])?;
        for part in ["status: REFUSED", "EDNS: version: 0", "EDE: 18", "evil.test."] {
            ensure!(denied.contains(part), "{part}: {denied}");
        }
        ensure!(!denied.contains("COOKIE mismatch") && !denied.contains("Warning"), "{denied}");
        let without = ask(&["+noedns", "evil.test"])?;
        ensure!(without.contains("status: REFUSED") && !without.contains("EDNS:"), "{without}");
        let chaos = ask(&["version.bind", "TXT", "CH"])?;
        ensure!(chaos.contains("status: REFUSED"), "{chaos}");
        let transfer = ask(&["www.allowed.test", "AXFR"])?;
        ensure!(transfer.contains("Transfer failed"), "{transfer}");
    }
    let big = dig(client, &dns.resolver_at(Family::V4)?, &["+noedns", "big.allowed.test", "TXT"])?;
    ensure!(big.contains("retrying in TCP mode") && big.contains(&"f".repeat(250)), "{big}");
    let log = dns.resolver.log();
    ensure!(log.contains("www.allowed.test") && !log.contains("evil.test"), "{log}");
    assert_eq!(dns.lab.drops("dns_unreleased")?, 0);
    agent.assert_alive()
}

#[test]
fn queries_of_one_connection_are_decided_one_by_one() -> Result<()> {
    let dns = Dns::new()?;
    let mut agent = Agent::start(&dns.lab, 1)?;
    for family in Family::BOTH {
        let mut command = dns.client()?.netns.bounded("python3", BOUND);
        let seen = run(command.args(["-c", PIPELINED, &dns.resolver_at(family)?]))?;
        assert_eq!(seen.trim(), "[(1, 5), (2, 0), (3, 0)]", "{family}");
    }
    ensure!(!dns.resolver.log().contains("evil.test"));
    agent.assert_alive()
}

#[test]
fn a_service_that_the_kernel_translates_is_inspected() -> Result<()> {
    let dns = Dns::new()?;
    let mut agent = Agent::start(&dns.lab, 2)?;
    nft(&dns.lab, SERVICE)?;
    for transport in ["+notcp", "+tcp"] {
        let answer = dig(dns.client()?, "10.96.0.10", &[transport, "www.allowed.test"])?;
        ensure!(answer.contains("status: NOERROR") && answer.contains(ADDRESS), "{answer}");
        let denied = dig(dns.client()?, "10.96.0.10", &[transport, "evil.test"])?;
        ensure!(denied.contains("status: REFUSED"), "{denied}");
    }
    ensure!(!dns.resolver.log().contains("evil.test"));
    agent.assert_alive()
}

#[test]
fn a_denied_name_does_not_exist_if_the_agent_is_told_so() -> Result<()> {
    let dns = Dns::new()?;
    let mut agent = Agent::start_with(&dns.lab, 1, &["--dns-denied", "nxdomain"])?;
    let denied = dig(dns.client()?, &dns.resolver_at(Family::V4)?, &["evil.test"])?;
    ensure!(denied.contains("status: NXDOMAIN"), "{denied}");
    agent.assert_alive()
}

#[test]
fn flow_records_say_what_was_asked_and_answered() -> Result<()> {
    let dns = Dns::new()?;
    let _agent = Agent::start(&dns.lab, 1)?;
    let server = dns.resolver_at(Family::V4)?;
    for name in ["www.allowed.test", "evil.test", "none.allowed.test"] {
        dig(dns.client()?, &server, &[name])?;
    }
    let expected = [
        "dns-request proxy FORWARDED (DNS Query www.allowed.test. A)",
        "dns-response proxy FORWARDED (DNS Answer \"198.51.100.7\" TTL: 30 (A ",
        "dns-request proxy DROPPED (DNS Query evil.test. A)",
        "dns-response proxy FORWARDED (DNS Answer RCode: Non-Existent Domain (A ",
    ];
    let mut seen = String::new();
    let listed = wait_for("the records", BOUND, || {
        seen = String::from_utf8_lossy(&dns.lab.podgate(&["observe"])?.stdout).into_owned();
        Ok(expected.iter().all(|line| seen.contains(line)).then_some(()))
    });
    listed.with_context(|| seen)
}
