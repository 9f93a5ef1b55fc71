//! A node with eight pods under policy: four clients, and four servers that only clients may call.

use std::sync::Arc;

use crate::pods::{self, link_of, write_frame};
use anyhow::{Result, anyhow, ensure};
use podgate_policy::{Store, compile};
use podgate_replay::rig::Rig;
use podgate_tables::address::Address;
use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::policy::Snapshot;
use podgate_tables::proto;
use podgate_tables::tcp_flags::{ACK, SYN};
use podgate_tables::tuple::Tuple;
use serde_json::{Value, json};

use super::BUSY_LINKS;

const CLIENTS: usize = BUSY_LINKS / 2;
const SERVERS: usize = BUSY_LINKS / 2;

/// Number of server ports that are used once all client ports are.
const SERVER_PORTS: u16 = 16;
const FIRST_SERVER_PORT: u16 = 8000;
const FIRST_CLIENT_PORT: u16 = 1024;
const CLIENT_PORTS: usize = (u16::MAX - FIRST_CLIENT_PORT) as usize;

/// Protocols of the flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Protocols {
    /// TCP and UDP, alternating.
    TcpAndUdp,
    /// TCP only: established connections don't time out during a measurement.
    TcpOnly,
}

/// What clients send to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Via {
    /// The server's address.
    Pod,
    /// The cluster IP of a service whose only backend is the server.
    Service,
}

/// The end of a flow that sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// The link on which a packet of flow number `flow` arrives, and its tuple.
pub(super) fn packet_of(protocols: Protocols, flow: usize, sender: Sender) -> (LinkId, Tuple) {
    let (pair, rest) = (flow % (CLIENTS * SERVERS), flow / (CLIENTS * SERVERS));
    let (client, server) = (pair % CLIENTS, CLIENTS + pair / CLIENTS);
    let is_udp = protocols == Protocols::TcpAndUdp && rest % 2 == 1;
    let tuple = Tuple {
        src: Address::v4(address(client)),
        dst: Address::v4(address(server)),
        src_port: FIRST_CLIENT_PORT + (rest % CLIENT_PORTS) as u16,
        dst_port: FIRST_SERVER_PORT + (rest / CLIENT_PORTS) as u16 % SERVER_PORTS,
        protocol: if is_udp { proto::UDP } else { proto::TCP },
    };
    match sender {
        Sender::Client => (link_of(client), tuple),
        Sender::Server => (link_of(server), tuple.reversed()),
    }
}

/// A rig with established flows.
pub(super) struct SmallNode {
    pub(super) rig: Rig,
    flows: usize,
    protocols: Protocols,
    via: Via,
    frame: Vec<u8>,
}

fn address(pod: usize) -> [u8; 4] {
    [10, 64, 0, 10 + pod as u8]
}

/// The cluster IP of the service of a server with this address.
fn cluster_ip([_, _, c, d]: [u8; 4]) -> [u8; 4] {
    [10, 96, c, d]
}

impl SmallNode {
    /// A worker with a flow table for `capacity` flows, and `flows` established ones.
    ///
    /// # Errors
    /// When there is no memory, or the flows can't be established.
    pub(super) fn new(flows: usize, capacity: u32, protocols: Protocols, via: Via) -> Result<Self> {
        let rig = Rig::with_flows(snapshot(via)?, BUSY_LINKS as u16 + 1, capacity)?;
        let mut node = Self { rig, flows, protocols, via, frame: Vec::new() };
        for first in (0..flows).step_by(super::BATCH) {
            let some = first..(first + super::BATCH).min(flows);
            for (flags, sender) in
                [(SYN, Sender::Client), (SYN | ACK, Sender::Server), (ACK, Sender::Client)]
            {
                for flow in some.clone() {
                    let delivered = node.deliver(flow, sender, flags);
                    ensure!(delivered, "the rings have no space for a batch");
                }
                node.rig.round();
                node.rig.collect(&mut |_| {});
            }
        }
        let (opened, sent) = (node.rig.stats().flows_opened.get(), 3 * flows as u64);
        let forwarded = node.rig.stats().forwarded.packets.get();
        ensure!(
            opened == flows as u64 && forwarded == sent,
            "{opened} of {flows} flows, {forwarded} of {sent} packets"
        );
        Ok(node)
    }

    /// Writes a packet of a flow, `len` bytes long; returns the link on which it arrives.
    pub(super) fn write(
        &self,
        frame: &mut Vec<u8>,
        flow: usize,
        sender: Sender,
        flags: u8,
        len: usize,
    ) -> LinkId {
        let (from, mut tuple) = packet_of(self.protocols, flow, sender);
        if let (Via::Service, Sender::Client, Some(server)) =
            (self.via, sender, tuple.dst.as_v4_bits())
        {
            tuple.dst = Address::v4(cluster_ip(server.to_be_bytes()));
        }
        write_frame(frame, from, &tuple, flags, len);
        from
    }

    /// Delivers a packet of a flow without payload; false if the link's rings are full.
    pub(super) fn deliver(&mut self, flow: usize, sender: Sender, flags: u8) -> bool {
        let mut frame = std::mem::take(&mut self.frame);
        let link = self.write(&mut frame, flow, sender, flags, 0);
        let delivered = self.rig.deliver(link, &frame);
        self.frame = frame;
        delivered
    }

    /// Number of flows.
    pub(super) fn flows(&self) -> usize {
        self.flows
    }
}

/// The objects of a server's service.
fn service(server: usize) -> [Value; 2] {
    let [a, b, c, d] = address(server);
    let [e, f, g, h] = cluster_ip(address(server));
    let name = format!("server-{server}");
    let ports: Vec<Value> = (0..SERVER_PORTS)
        .flat_map(|port| ["TCP", "UDP"].map(|protocol| (protocol, FIRST_SERVER_PORT + port)))
        .map(|(protocol, port)| {
            let name = format!("{}-{port}", protocol.to_lowercase());
            json!({"name": name, "port": port, "protocol": protocol})
        })
        .collect();
    [
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"name": name, "namespace": "shop"},
               "spec": {"clusterIP": format!("{e}.{f}.{g}.{h}"), "ports": ports}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"name": name, "namespace": "shop",
                            "labels": {"kubernetes.io/service-name": name}},
               "addressType": "IPv4", "ports": ports,
               "endpoints": [{"addresses": [format!("{a}.{b}.{c}.{d}")]}]}),
    ]
}

/// Tables compiled from the objects of such a node, and its routes.
fn snapshot(via: Via) -> Result<Snapshot> {
    let mut store = Store::new();
    let pods = (0..BUSY_LINKS).map(|pod| {
        let role = if pod < CLIENTS { "client" } else { "server" };
        let [a, b, c, d] = address(pod);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{role}-{pod}"), "namespace": "shop",
                         "labels": {"role": role}},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("{a}.{b}.{c}.{d}")}]},
        })
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let last_port = FIRST_SERVER_PORT + SERVER_PORTS - 1;
    let ports = ["TCP", "UDP"].map(
        |protocol| json!({"protocol": protocol, "port": FIRST_SERVER_PORT, "endPort": last_port}),
    );
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "servers", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"role": "server"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}],
                         "ports": ports}],
        },
    });
    let services = (CLIENTS..BUSY_LINKS).filter(|_| via == Via::Service).flat_map(service);
    let objects = [namespace].into_iter().chain(pods).chain([policy]).chain(services);
    let objects: Vec<Value> = objects.collect();
    for object in &objects {
        store.apply(object, None).map_err(|rejections| anyhow!("rejected: {rejections:?}"))?;
    }
    let addresses = (0..BUSY_LINKS).map(|pod| vec![Address::v4(address(pod))]);
    let routes = Arc::new(pods::routes(addresses)?);
    Ok(Snapshot { epoch: Epoch(1), policy: compile(&store).tables, routes })
}
