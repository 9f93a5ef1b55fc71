//! The HTTP inspectors by themselves: time per request head, and memory of idle connections.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use etherparse::PacketBuilder;
use podgate_dataplane::l7::http1::Http1;
use podgate_dataplane::l7::http2::{Http2, PREFACE};
use podgate_dataplane::l7::inspector::{InspectCtx, Inspector, Op};
use podgate_policy::{Store, compile};
use podgate_replay::rig::Rig;
use podgate_tables::address::Address;
use podgate_tables::ids::{Epoch, LinkId, RuleId};
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::policy::Snapshot;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use serde_json::{Value, json};

use super::pinned;
use crate::alloc;
use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::pods::{self, link_of, mac_of};

pub(crate) const HEAD: &str = "l7.head";
pub(crate) const H2_HEAD: &str = "l7.h2_head";
pub(crate) const RULES: &str = "l7.rules.1k";
pub(crate) const IDLE: &str = "l7.idle";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[HEAD, H2_HEAD, RULES, IDLE];

const BAR_HEAD_NS: f64 = 1000.0;
const BAR_RULES: f64 = 1.5;
const BAR_IDLE: f64 = 1024.0;

/// Rules of [`HEAD`], and fields of its request.
const RULES_OF_HEAD: usize = 50;
const FIELDS: usize = 20;
/// Requests of one value.
const REQUESTS: usize = 200_000;
const REQUESTS_QUICK: usize = 50_000;
/// Requests of one connection that get no response.
const PIPELINED: usize = 64;
/// Connections of [`IDLE`].
const CONNECTIONS: u16 = 5_000;

/// Measures the wanted ids.
///
/// # Errors
/// When a request is denied, or a connection can't be opened.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let requests = if context.quick { REQUESTS_QUICK } else { REQUESTS };
    let mut all = Vec::new();
    if context.wants(HEAD) {
        context.status(HEAD);
        let policy = policy(RULES_OF_HEAD)?;
        let values = pinned(|| {
            let each = || ns_per_head(&policy, RULES_OF_HEAD, requests);
            (0..context.rounds).map(|_| each()).collect::<Result<Vec<_>>>()
        })?;
        all.push(Measurement::new(HEAD, "ns", values).bar(Limit::AtMost(BAR_HEAD_NS)).note(
            format!(
                "a request head of {FIELDS} fields; the last of {RULES_OF_HEAD} path rules matches"
            ),
        ));
    }
    if context.wants(H2_HEAD) {
        context.status(H2_HEAD);
        let policy = policy(RULES_OF_HEAD)?;
        let values = pinned(|| {
            let each = || ns_per_h2_head(&policy, RULES_OF_HEAD, requests);
            (0..context.rounds).map(|_| each()).collect::<Result<Vec<_>>>()
        })?;
        all.push(Measurement::new(H2_HEAD, "ns", values).bar(Limit::AtMost(BAR_HEAD_NS)).note(
            format!(
                "a header block of {FIELDS} fields beside the pseudo-header fields, which are \
                 entries of the table but for the path; the last of {RULES_OF_HEAD} path rules \
                 matches"
            ),
        ));
    }
    if context.wants(RULES) {
        let (few, many) = (policy(10)?, policy(1000)?);
        let [many, few] = pinned(|| {
            context.interleave(
                RULES,
                || ns_per_head(&many, 1000, requests),
                || ns_per_head(&few, 10, requests),
            )
        })?;
        all.push(
            Measurement::new(RULES, "ns", many)
                .compared_with("10 rules", few)
                .ratio_bar(Limit::AtMost(BAR_RULES))
                .note("the same request under 1,000 regular expressions of paths"),
        );
    }
    if context.wants(IDLE) {
        context.status(IDLE);
        let [plain, inspected] = [idle_bytes(None)?, idle_bytes(Some("/docs"))?];
        all.push(
            Measurement::new(IDLE, "B", vec![inspected - plain]).bar(Limit::AtMost(BAR_IDLE)).note(
                format!(
                    "memory of each of {CONNECTIONS} connections a few seconds after its request, \
                     beyond that of a flow that is not inspected"
                ),
            ),
        );
    }
    Ok(all)
}

/// Rules that differ in the first segment of the path.
fn policy(rules: usize) -> Result<L7Policy> {
    let rules = (0..rules).map(|rule| {
        let path = Some(format!("/service-{rule}/v[0-9]+/items(/.*)?"));
        HttpRule::new(HttpRuleSpec { path, ..HttpRuleSpec::default() })
    });
    let rules: Result<Vec<HttpRule>, _> = rules.collect();
    let rules = Some(Arc::new(L7Rules::http(rules.map_err(|error| anyhow!("{error:?}"))?)));
    Ok(L7Policy { ingress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() })
}

/// A head that the last of this many rules allows.
fn head(rules: usize) -> Vec<u8> {
    let mut head = format!("GET /service-{}/v1/items/4711 HTTP/1.1\r\nHost: shop\r\n", rules - 1);
    for field in 1..FIELDS {
        head += &format!("X-Field-{field}: some value of this field\r\n");
    }
    (head + "\r\n").into_bytes()
}

fn ns_per_head(policy: &L7Policy, rules: usize, requests: usize) -> Result<f64> {
    let head = head(rules);
    let cx = InspectCtx { now: Nanos(1), policy, http: HttpLimits::DEFAULT, may_buffer: true };
    let begin = Instant::now();
    for _ in 0..requests / PIPELINED {
        let mut inspector = Http1::default();
        for _ in 0..PIPELINED {
            let step = inspector.inspect(&cx, FlowDirection::Original, black_box(&head));
            ensure!(step.op == Op::Pass(head.len()), "a request is not allowed: {:?}", step.op);
        }
    }
    Ok(begin.elapsed().as_nanos() as f64 / (requests / PIPELINED * PIPELINED) as f64)
}

/// A literal of a header block: after `prefix`, name and value (RFC 7541 §6.2) without Huffman
/// code.
fn literal(block: &mut Vec<u8>, prefix: u8, strings: &[&[u8]]) -> Result<()> {
    block.push(prefix);
    for string in strings {
        let len = u8::try_from(string.len())?;
        ensure!(len < 127, "the string is too long");
        block.push(len);
        block.extend_from_slice(string);
    }
    Ok(())
}

/// A HEADERS frame that ends its stream.
fn headers_frame(stream: u32, block: &[u8]) -> Result<Vec<u8>> {
    let mut frame = vec![0];
    frame.extend(u16::try_from(block.len())?.to_be_bytes());
    frame.extend([1, 5]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(block);
    Ok(frame)
}

/// The header blocks of a client's first request, which adds its fields to the table, and of later
/// ones, which refer to them.
fn h2_blocks(rules: usize) -> Result<[Vec<u8>; 2]> {
    let path = format!("/service-{}/v1/items/4711", rules - 1);
    // `:method: GET`, `:scheme: http`, and a literal `:path` that is not added.
    let mut start = vec![0x82, 0x86];
    literal(&mut start, 0x04, &[path.as_bytes()])?;
    let (mut first, mut later) = (start.clone(), start);
    // `:authority`, added; then the fields.
    literal(&mut first, 0x41, &[b"shop"])?;
    later.push(0x80 | (62 + FIELDS as u8));
    for field in 1..=FIELDS {
        let name = format!("x-field-{field}");
        literal(&mut first, 0x40, &[name.as_bytes(), b"some value of this field"])?;
        later.push(0x80 | (62 + (FIELDS - field) as u8));
    }
    Ok([first, later])
}

fn ns_per_h2_head(policy: &L7Policy, rules: usize, requests: usize) -> Result<f64> {
    let [first, later] = h2_blocks(rules)?;
    let mut frames = vec![headers_frame(1, &first)?];
    for request in 1..PIPELINED as u32 {
        frames.push(headers_frame(2 * request + 1, &later)?);
    }
    let cx = InspectCtx { now: Nanos(1), policy, http: HttpLimits::DEFAULT, may_buffer: true };
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let begin = Instant::now();
    for _ in 0..requests / PIPELINED {
        let mut inspector = Http2::default();
        let start = [&PREFACE[..], &settings].map(|bytes| {
            inspector.inspect(&cx, FlowDirection::Original, bytes).op == Op::Pass(bytes.len())
        });
        ensure!(start == [true; 2], "the connection does not begin");
        for frame in &frames {
            let step = inspector.inspect(&cx, FlowDirection::Original, black_box(frame));
            ensure!(step.op == Op::Pass(frame.len()), "a request is not allowed: {:?}", step.op);
        }
    }
    Ok(begin.elapsed().as_nanos() as f64 / (requests / PIPELINED * PIPELINED) as f64)
}

/// Memory of each of many connections after a request and its response, and some idle time.
fn idle_bytes(path: Option<&str>) -> Result<f64> {
    if !alloc::is_installed() {
        bail!("this program doesn't count its allocations");
    }
    let mut rig = Rig::with_flows(snapshot(path)?, 3, 1 << 15)?;
    let mut frame = Vec::new();
    // What all connections share.
    exchange(&mut rig, &mut frame, 1)?;
    rest(&mut rig);
    let before = alloc::live_bytes();
    for port in 2..2 + CONNECTIONS {
        exchange(&mut rig, &mut frame, port)?;
    }
    rest(&mut rig);
    Ok(alloc::live_bytes().saturating_sub(before) as f64 / f64::from(CONNECTIONS))
}

/// Lets some seconds pass.
fn rest(rig: &mut Rig) {
    for _ in 0..200 {
        rig.advance(20_000_000);
        rig.round();
        rig.collect(&mut |_| {});
    }
}

const REQUEST: &[u8] = b"GET /docs HTTP/1.1\r\nHost: shop\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Opens a connection, and sends a request and its response.
fn exchange(rig: &mut Rig, frame: &mut Vec<u8>, port: u16) -> Result<()> {
    let (asked, answered) = (1 + REQUEST.len() as u32, 1 + RESPONSE.len() as u32);
    let forwarded = rig.stats().forwarded.packets.get();
    for (pod, seq, ack, payload) in [
        (0, 0, None, &b""[..]),
        (1, 0, Some(1), b""),
        (0, 1, Some(1), b""),
        (0, 1, Some(1), REQUEST),
        (1, 1, Some(asked), RESPONSE),
        (0, asked, Some(answered), b""),
    ] {
        let link = write_segment(frame, pod, port, (seq, ack), payload)?;
        ensure!(rig.deliver(link, frame), "the rings have no space");
        rig.round();
        rig.collect(&mut |_| {});
    }
    let forwarded = rig.stats().forwarded.packets.get() - forwarded;
    ensure!(forwarded == 6, "{forwarded} of 6 packets were forwarded");
    Ok(())
}

/// Addresses of the client's pod and of the server's.
const ADDRESSES: [[u8; 4]; 2] = [[10, 64, 0, 10], [10, 64, 0, 11]];

/// Writes a segment of the client's pod, 0, or of the server's, 1; a SYN if its number is zero.
/// Returns the pod's link.
fn write_segment(
    frame: &mut Vec<u8>,
    pod: usize,
    port: u16,
    (seq, ack): (u32, Option<u32>),
    payload: &[u8],
) -> Result<LinkId> {
    let link = link_of(pod);
    let ports = if pod == 0 { (port, 80) } else { (80, port) };
    let mut builder = PacketBuilder::ethernet2(mac_of(link), pods::LINK_MAC)
        .ipv4(ADDRESSES[pod], ADDRESSES[1 - pod], 64)
        .tcp(ports.0, ports.1, seq, 64_000);
    if seq == 0 {
        builder = builder.syn();
    }
    if let Some(ack) = ack {
        builder = builder.ack(ack);
    }
    frame.clear();
    builder.write(frame, payload).context("can't build a segment")?;
    Ok(link)
}

/// Two pods: the first may connect to the second, with requests of this path only.
fn snapshot(path: Option<&str>) -> Result<Snapshot> {
    let mut store = Store::new();
    let pod = |name: &str, [a, b, c, d]: [u8; 4]| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"role": name}},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("{a}.{b}.{c}.{d}")}]},
        })
    };
    let mut to_port = json!({"ports": [{"port": "80", "protocol": "TCP"}]});
    if let Some(path) = path {
        to_port["rules"] = json!({"http": [{"method": "GET", "path": path}]});
    }
    let objects: [Value; 4] = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        pod("client", ADDRESSES[0]),
        pod("server", ADDRESSES[1]),
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "server", "namespace": "shop"},
            "spec": {
                "endpointSelector": {"matchLabels": {"role": "server"}},
                "ingress": [{
                    "fromEndpoints": [{"matchLabels": {"role": "client"}}],
                    "toPorts": [to_port],
                }],
            },
        }),
    ];
    for object in &objects {
        store.apply(object, None).map_err(|rejections| anyhow!("rejected: {rejections:?}"))?;
    }
    let routes = Arc::new(pods::routes(ADDRESSES.map(|address| vec![Address::v4(address)]))?);
    Ok(Snapshot { epoch: Epoch(1), policy: compile(&store).tables, routes })
}
