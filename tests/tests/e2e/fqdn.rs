//! `toFQDNs`: a pod queries a resolver for a name and connects to the address at once.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Lab, wait_for};

use crate::client_server::pod;

/// Rounds of query and connection, unless [`ROUNDS_VARIABLE`] says otherwise.
const ROUNDS: u16 = 300;
const ROUNDS_VARIABLE: &str = "PODGATE_FQDN_ROUNDS";
/// Timeout of whatever should happen.
const BOUND: Duration = Duration::from_secs(20);
/// How long a client waits for an answer before it asks again (resolv.conf(5)).
const RETRY: Duration = Duration::from_secs(5);
/// The addresses of names: `guest` has all of them.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const CLIENT: &str = "names/client";

const POLICY: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: names}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: names}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toCIDR: [192.0.2.10/32]
    toPorts:
    - ports: [{port: \"53\", protocol: ANY}]
      rules: {dns: [{matchPattern: \"*.fresh.example\"}, {matchPattern: \"*.other.example\"}]}
  - toFQDNs: [{matchPattern: \"*.fresh.example\"}]
    toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]
";

const HOSTILE: &str = "names/hostile";

/// `hostile` may ask its name server for everything, by TCP: long messages need no fragments.
const HOSTILE_POLICY: &str = "\
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: hostile, namespace: names}
spec:
  endpointSelector: {matchLabels: {app: hostile}}
  egress:
  - toCIDR: [192.0.2.10/32]
    toPorts:
    - ports: [{port: \"53\", protocol: TCP}]
      rules: {dns: [{matchPattern: \"*\"}]}
  - toFQDNs: [{matchPattern: \"*.evil.example\"}]
";
/// Addresses in each answer to `hostile`, and queries that fill a table of 65,536.
const HOSTILE_ADDRESSES: u16 = 1000;
const HOSTILE_QUERIES: u16 = 70;

/// The address that the resolver has for `nNUMBER.fresh.example`.
fn address(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(NETWORK.to_bits() + 256 + u32::from(number))
}

fn query(id: u16, number: u16, domain: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in format!("n{number}.{domain}").split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// One A record with a TTL of a minute for the number in the first label.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let len = usize::from(*query.get(12)?);
    let label = std::str::from_utf8(query.get(14..13 + len)?).ok()?;
    let address = address(label.parse().ok()?);
    let mut answer = query.to_vec();
    answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(address.octets());
    Some(answer)
}

/// Answers queries and accepts connections until `stop`.
fn serve(resolver: &UdpSocket, server: &TcpListener, stop: &AtomicBool) -> Result<()> {
    resolver.set_read_timeout(Some(Duration::from_millis(100)))?;
    server.set_nonblocking(true)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut accepted = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match server.accept() {
                    Ok((stream, _)) => accepted.push(stream),
                    Err(_) => thread::park_timeout(Duration::from_millis(1)),
                }
            }
        });
        let mut buffer = [0; 512];
        while !stop.load(Ordering::Relaxed) {
            let Ok((len, from)) = resolver.recv_from(&mut buffer) else { continue };
            if let Some(answer) = answer(&buffer[..len]) {
                resolver.send_to(&answer, from)?;
            }
        }
        Ok(())
    })
}

/// A lab in which [`NETWORK`] is behind `guest`.
struct Names {
    lab: Lab,
    resolver: UdpSocket,
    server: TcpListener,
}

impl Names {
    fn new() -> Result<Self> {
        Self::with("")
    }

    /// One with further objects.
    fn with(objects: &str) -> Result<Self> {
        let client = pod("names", "client", ["10.65.1.1", "fd65::1"]);
        let lab = Lab::of(&[&client, POLICY, objects].concat())?;
        let (office, guest) = (lab.host("office")?, lab.host("guest")?);
        guest.netns.ip(&format!("route add local {NETWORK}/15 dev lo\n"))?;
        let (via, link) = (guest.addresses.v4, &guest.link);
        lab.node().netns.ip(&format!("route add {NETWORK}/15 via {via} dev {link} onlink\n"))?;
        let resolver = office.netns.inside(|| Ok(UdpSocket::bind((office.addresses.v4, 53))?))?;
        let server = guest.netns.inside(|| Ok(TcpListener::bind("0.0.0.0:80")?))?;
        Ok(Self { lab, resolver, server })
    }

    /// Runs `client` with the servers running.
    fn with_servers(&self, client: impl FnOnce(&Client) -> Result<()> + Send) -> Result<()> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let servers = scope.spawn(|| serve(&self.resolver, &self.server, &stop));
            let resolver = self.lab.host("office")?.addresses.v4;
            let outcome = self.lab.host(CLIENT)?.netns.inside(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect((resolver, 53))?;
                socket.set_read_timeout(Some(RETRY))?;
                client(&Client { socket })
            });
            stop.store(true, Ordering::Relaxed);
            let served = servers.join();
            served.map_err(|_| anyhow::anyhow!("the servers panicked")).flatten().and(outcome)
        })
    }

    /// What `fqdn list` has, as `NAME ADDRESS`.
    fn listed(&self, options: &[&str]) -> Result<Vec<String>> {
        let list = self.lab.podgate_json(&[&["fqdn", "list"], options].concat())?;
        let list = list.as_array().context("no list")?.iter();
        let text = |entry: &serde_json::Value, field: &str| {
            entry[field].as_str().map(str::to_owned).context("no text")
        };
        list.map(|entry| Ok(format!("{} {}", text(entry, "name")?, text(entry, "address")?)))
            .collect()
    }
}

/// The client pod, inside its namespace.
struct Client {
    socket: UdpSocket,
}

impl Client {
    /// Asks for a name. The resolver's answer must be the next datagram.
    fn resolve(&self, number: u16, domain: &str) -> Result<()> {
        let query = query(number, number, domain);
        self.socket.send(&query)?;
        let mut buffer = [0; 512];
        let len = self.socket.recv(&mut buffer).with_context(|| format!("no answer {number}"))?;
        ensure!(Some(&buffer[..len]) == answer(&query).as_deref(), "another answer");
        Ok(())
    }

    fn connect(&self, number: u16, timeout: Duration) -> Result<TcpStream> {
        let to = SocketAddr::from((address(number), 80));
        TcpStream::connect_timeout(&to, timeout).with_context(|| format!("connection {number}"))
    }
}

fn rounds() -> Result<u16> {
    match env::var(ROUNDS_VARIABLE) {
        Ok(rounds) => rounds.parse().with_context(|| format!("{ROUNDS_VARIABLE}={rounds}")),
        Err(_) => Ok(ROUNDS),
    }
}

fn no_first_syn_is_dropped(workers: u16) -> Result<()> {
    let names = Names::new()?;
    let mut agent = Agent::start(&names.lab, workers)?;
    let rounds = rounds()?;
    names.with_servers(|client| {
        for number in 0..rounds {
            client.resolve(number, "fresh.example")?;
            client.connect(number, BOUND)?;
        }
        Ok(())
    })?;
    assert_eq!(names.lab.drops("policy_denied")?, 0, "no SYN was dropped");
    assert_eq!(names.listed(&[])?.len(), usize::from(rounds));
    agent.assert_alive()?;
    agent.stop()
}

#[test]
fn the_first_syn_after_an_answer_passes_with_one_worker() -> Result<()> {
    no_first_syn_is_dropped(1)
}

#[test]
fn the_first_syn_after_an_answer_passes_with_two_workers() -> Result<()> {
    no_first_syn_is_dropped(2)
}

#[test]
fn names_are_listed_survive_a_restart_and_can_be_cleaned() -> Result<()> {
    let names = Names::new()?;
    let agent = Agent::start(&names.lab, 1)?;
    names.with_servers(|client| {
        client.resolve(1, "fresh.example")?;
        client.resolve(2, "fresh.example")?;
        // No rule has the name, so that its address is not known.
        client.resolve(3, "other.example")
    })?;
    let [first, second] =
        [1, 2].map(|number| format!("n{number}.fresh.example {}", address(number)));
    assert_eq!(names.listed(&[])?, [&*first, &*second]);
    assert_eq!(names.listed(&["--name", "n2.*.example"])?, [&*second]);
    flows_have_the_names_that_their_pod_asked_for(&names)?;
    let to = address(1).to_string();
    let flow = ["--from", CLIENT, "--to", &to, "--port", "80/TCP"];
    let explained = names.lab.podgate(&[&["policy", "explain"], &flow[..]].concat())?;
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("DNS name n1.fresh.example\n"), "{explained}");
    agent.stop()?;
    let mut agent = Agent::restart(&names.lab, 1)?;
    assert_eq!(names.listed(&[])?, [&*first, &*second]);
    names.with_servers(|client| client.connect(1, BOUND).map(drop))?;
    let cleaned = names.lab.podgate(&["fqdn", "clean", "--name", "n1.fresh.example"])?;
    assert_eq!(String::from_utf8_lossy(&cleaned.stdout), "1 addresses removed\n");
    assert_eq!(names.listed(&[])?, [&*second]);
    names.with_servers(|client| {
        client.connect(2, BOUND)?;
        ensure!(client.connect(1, Duration::from_secs(1)).is_err(), "the name is forgotten");
        client.resolve(1, "fresh.example")?;
        client.connect(1, BOUND).map(drop)
    })?;
    assert!(names.lab.drops("policy_denied")? > 0, "the SYNs to the forgotten name are counted");
    agent.assert_alive()?;
    agent.stop()
}

/// A denied connection has the name of its address too, though no rule has that name.
fn flows_have_the_names_that_their_pod_asked_for(names: &Names) -> Result<()> {
    names.with_servers(|client| {
        client.connect(1, BOUND)?;
        ensure!(client.connect(3, Duration::from_millis(500)).is_err(), "no rule allows it");
        Ok(())
    })?;
    let observed = |filters: &[&str]| {
        let printed = names.lab.podgate(&[&["observe", "--all"], filters].concat())?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&printed.stdout).into_owned())
    };
    for (filters, end) in [
        (["--to-fqdn", "n1.*.example", "--verdict", "FORWARDED"], "n1.fresh.example:80 ("),
        (["--to-fqdn", "*.other.example", "--verdict", "DROPPED"], "n3.other.example:80 ("),
    ] {
        wait_for("the flow of the name", BOUND, || {
            let lines = observed(&filters)?;
            let to = format!(" -> {end}");
            Ok(lines.lines().any(|line| line.contains(CLIENT) && line.contains(&to)).then_some(()))
        })?;
    }
    assert_eq!(observed(&["--to-fqdn", "n2.fresh.example"])?, "", "nobody connected to it");
    Ok(())
}

#[test]
fn names_survive_a_crash_once_they_are_written_and_a_damaged_file_is_set_aside() -> Result<()> {
    let names = Names::new()?;
    let agent = Agent::start(&names.lab, 1)?;
    names.with_servers(|client| client.resolve(1, "fresh.example"))?;
    let file = names.lab.state_dir().join("names.json");
    wait_for("the names to be written", BOUND, || Ok(file.exists().then_some(())))?;
    agent.kill()?;
    let agent = Agent::restart(&names.lab, 1)?;
    assert_eq!(names.listed(&[])?.len(), 1);
    agent.kill()?;
    fs::write(&file, "{\"version\":1,")?;
    let agent = Agent::restart(&names.lab, 1)?;
    assert_eq!(names.listed(&[])?.len(), 0);
    let status = names.lab.podgate_json(&["status"])?.to_string();
    assert!(status.contains("names.json.bad-"), "{status}");
    agent.stop()
}

/// Answers the queries of one connection, each with [`HOSTILE_ADDRESSES`] of its own and a TTL of
/// seven days.
fn serve_hostile(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    let accept = || Ok(listener.accept().ok());
    let (mut stream, _) = wait_for("a connection to the name server", BOUND, accept)?;
    for number in 0..HOSTILE_QUERIES {
        let query = read_message(&mut stream)?;
        let mut answer = query;
        let [high, low] = HOSTILE_ADDRESSES.to_be_bytes();
        answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, high, low]);
        for index in 0..HOSTILE_ADDRESSES {
            let offset = u32::from(number) * u32::from(HOSTILE_ADDRESSES) + u32::from(index);
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(20, 0, 0, 0).to_bits() + offset);
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(604_800_u32.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        write_message(&mut stream, &answer)?;
    }
    Ok(())
}

fn read_message(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).context("no message")?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    let len = u16::try_from(message.len())?.to_be_bytes();
    Ok(stream.write_all(&[&len, message].concat())?)
}

#[test]
fn a_pod_with_endless_names_loses_its_own_addresses_only() -> Result<()> {
    let hostile = pod("names", "hostile", ["10.65.1.2", "fd65::2"]);
    let names = Names::with(&["---\n", &hostile, HOSTILE_POLICY].concat())?;
    let mut agent = Agent::start(&names.lab, 1)?;
    let office = names.lab.host("office")?;
    let server = SocketAddr::from((office.addresses.v4, 53));
    let listener = office.netns.inside(|| Ok(TcpListener::bind(server)?))?;
    names.with_servers(|client| {
        client.resolve(1, "fresh.example")?;
        let mut established = client.connect(1, BOUND)?;
        thread::scope(|scope| {
            let served = scope.spawn(|| serve_hostile(&listener));
            names.lab.host(HOSTILE)?.netns.inside(|| {
                let mut stream = TcpStream::connect_timeout(&server, BOUND)?;
                stream.set_read_timeout(Some(BOUND))?;
                for number in 0..HOSTILE_QUERIES {
                    write_message(&mut stream, &query(number, number, "evil.example"))?;
                    read_message(&mut stream).with_context(|| format!("answer {number}"))?;
                }
                Ok(())
            })?;
            served.join().map_err(|_| anyhow::anyhow!("the name server panicked"))?
        })?;
        ensure!(names.lab.metric("podgate_fqdn_evicted_total")? > 0, "the table is full");
        established.write_all(b"x").context("the established connection")?;
        client.connect(1, BOUND).map(drop)
    })?;
    assert_eq!(names.lab.drops("policy_denied")?, 0, "the address counted all the time");
    let known = format!("n1.fresh.example {}", address(1));
    assert_eq!(names.listed(&["--name", "*.fresh.example"])?, [&*known]);
    agent.assert_alive()?;
    agent.stop()?;
    let agent = Agent::restart(&names.lab, 1)?;
    assert_eq!(names.listed(&["--name", "*.fresh.example"])?, [&*known]);
    let list = names.lab.podgate_json(&["fqdn", "list", "--name", "n1.fresh.example"])?;
    assert_eq!(list[0]["pods"], serde_json::json!([CLIENT]));
    agent.stop()
}
