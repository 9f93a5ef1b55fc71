//! The first pass, with one packet per round, so that every event and drop belongs to a packet.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use podgate_dataplane::packet::{L4, parse, quoted};
use podgate_dataplane::stats::{self, WorkerStats};
use podgate_policy::Compiled;
use podgate_policy::observe::{Detail, FlowRecord};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{Event, EventKind};
use podgate_tables::policy::Verdict;
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};

use super::capture::Capture;
use super::plan::Step;
use super::report::{Flow, PacketCount, REQUESTS_MAX, RequestGroup, Summary, Verdicts};
use crate::progress;
use crate::rig::{Rig, START};

/// Replays `steps` once, and returns the flows and their summary.
pub(super) fn replay(
    capture: &Capture,
    steps: &[Step],
    compiled: &Compiled,
    rig: &mut Rig,
) -> (Vec<Flow>, Summary) {
    let mut recorder = FlowRecorder::new(compiled, capture.start());
    let mut events = Vec::new();
    for step in progress::over("replaying", steps) {
        let frame = capture.frame(&step.packet);
        rig.advance_to(step.time, &mut |event| recorder.record_event(event));
        let before = drops(rig.stats());
        if !rig.deliver(step.link, frame) {
            recorder.undelivered += 1;
            continue;
        }
        rig.round();
        rig.collect(&mut |event| events.push(*event));
        events.drain(..).for_each(|event| recorder.record_event(&event));
        recorder.record_packet(frame, &before, &drops(rig.stats()));
    }
    recorder.finish(rig.stats())
}

/// Whether L7 inspection ends connections for this reason.
const fn is_denial(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::L7Denied
            | DropReason::L7Malformed
            | DropReason::L7Unsupported
            | DropReason::L7Limit
            | DropReason::L7Timeout
    )
}

/// Packets dropped so far, by reason.
type Drops = [u64; DropReason::COUNT];

fn drops(stats: &WorkerStats) -> Drops {
    std::array::from_fn(|reason| stats.dropped[reason].packets.get())
}

/// Builds the flows from the worker's events.
struct FlowRecorder<'a> {
    compiled: &'a Compiled,
    /// Wall-clock time at [`START`], nanoseconds since the epoch.
    start: u64,
    flows: Vec<(Tuple, Flow)>,
    by_key: HashMap<Key, usize>,
    /// The last flow that was opened between two ends, by [`canonical`].
    latest: HashMap<Tuple, usize>,
    requests: Verdicts,
    undelivered: u64,
}

/// Identifies a flow: the opener's tuple, and the ICMP type of its packet.
type Key = (Tuple, u8);

/// The smaller one of the tuple and its reverse, so that both directions map to the same.
fn canonical(tuple: Tuple) -> Tuple {
    let end = |tuple: Tuple| (tuple.src, tuple.src_port);
    let reversed = tuple.reversed();
    if end(tuple) <= end(reversed) { tuple } else { reversed }
}

impl<'a> FlowRecorder<'a> {
    fn new(compiled: &'a Compiled, start: u64) -> Self {
        Self {
            compiled,
            start,
            flows: Vec::new(),
            by_key: HashMap::new(),
            latest: HashMap::new(),
            requests: Verdicts::default(),
            undelivered: 0,
        }
    }

    fn flow_record(&self, event: &Event) -> FlowRecord {
        let nanos = i128::from(self.start) + i128::from(event.time.since(START));
        let time = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX);
        FlowRecord::new(event, time, self.compiled)
    }

    fn record_event(&mut self, event: &Event) {
        match event.kind {
            EventKind::Verdict { verdict, icmp_type, tcp_flags, .. } => {
                if !self.is_late_segment(&event.tuple, verdict, tcp_flags) {
                    self.record_verdict(event, icmp_type);
                }
            }
            EventKind::Drop { reason } => match self.latest.get(&canonical(event.tuple)) {
                None => self.open(event, 0),
                Some(index) if is_denial(reason) => {
                    let denials = &mut self.flows[*index].1.denials;
                    *denials.entry(reason.label().to_owned()).or_default() += 1;
                }
                Some(_) => {}
            },
            EventKind::Request { .. } => self.record_request(event),
            EventKind::Unparsed { .. }
            | EventKind::ProgramDrop { .. }
            | EventKind::Response { .. }
            | EventKind::End { .. } => {}
        }
    }

    /// Whether a verdict is on a late segment of a known connection. Policy is evaluated for the
    /// segment because its flow has expired, but it opens no flow.
    fn is_late_segment(&self, tuple: &Tuple, verdict: Verdict, flags: u8) -> bool {
        let opens = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
        tuple.protocol == proto::TCP
            && !opens
            && self.latest.get(&canonical(*tuple)).is_some_and(|index| {
                verdict == Verdict::Deny || self.flows[*index].1.egress.is_some()
            })
    }

    fn record_verdict(&mut self, event: &Event, icmp_type: u8) {
        let known = self.by_key.get(&(event.tuple, icmp_type)).copied();
        let Some(index) = known else { return self.open(event, icmp_type) };
        self.latest.insert(canonical(event.tuple), index);
        // So far its packets were dropped before a policy lookup.
        if self.flows[index].1.egress.is_none() {
            let Flow { packets, bytes, dropped, time, .. } = self.flows[index].1.clone();
            self.flows[index].1 = Flow { packets, bytes, dropped, time, ..self.flow(event) };
        }
    }

    fn open(&mut self, event: &Event, icmp_type: u8) {
        let index = self.flows.len();
        self.by_key.insert((event.tuple, icmp_type), index);
        self.latest.insert(canonical(event.tuple), index);
        self.flows.push((event.tuple, self.flow(event)));
    }

    fn flow(&self, event: &Event) -> Flow {
        let record = self.flow_record(event);
        let (egress, ingress, icmp_type) = match record.detail {
            Detail::PolicyVerdict { egress, ingress, icmp_type, .. } => {
                (Some(egress), Some(ingress), icmp_type)
            }
            _ => (None, None, None),
        };
        Flow {
            verdict: record.verdict,
            drop_reason: record.drop_reason,
            source: record.source,
            destination: record.destination,
            protocol: record.protocol,
            icmp_type,
            time: record.time,
            egress,
            ingress,
            requests: Vec::new(),
            more_requests: 0,
            denials: BTreeMap::new(),
            packets: [0; 2],
            bytes: [0; 2],
            dropped: BTreeMap::new(),
        }
    }

    fn record_request(&mut self, event: &Event) {
        let FlowRecord { verdict, drop_reason, detail, .. } = self.flow_record(event);
        let Detail::HttpRequest { version, method, path, host, rule } = detail else { return };
        self.requests.count(verdict);
        let Some(index) = self.by_key.get(&(event.tuple, 0)) else { return };
        let flow = &mut self.flows[*index].1;
        let request =
            RequestGroup { verdict, drop_reason, version, method, path, host, rule, count: 1 };
        let known = flow.requests.iter().position(|known| known.equals(&request));
        match known {
            Some(known) => flow.requests[known].count += 1,
            None if flow.requests.len() < REQUESTS_MAX => flow.requests.push(request),
            None => flow.more_requests += 1,
        }
    }

    /// Adds a packet, and the drops of its round, to its flow.
    fn record_packet(&mut self, frame: &[u8], before: &Drops, after: &Drops) {
        let Ok(view) = parse(frame, frame.len() as u32) else { return };
        let about = match view.l4_kind {
            L4::IcmpError { .. } => quoted(frame, &view),
            _ => None,
        };
        let about = about.filter(|about| self.latest.contains_key(&canonical(*about)));
        // An ICMP error goes in the opposite direction of the packet that it quotes.
        let tuple = about.map_or(view.tuple, Tuple::reversed);
        let Some(index) = self.latest.get(&canonical(tuple)) else { return };
        let (opener, flow) = &mut self.flows[*index];
        let direction = usize::from(tuple != *opener);
        flow.packets[direction] += 1;
        flow.bytes[direction] += u64::from(view.ip_len());
        for (reason, (before, after)) in DropReason::ALL.iter().zip(before.iter().zip(after)) {
            if after > before {
                *flow.dropped.entry(reason.label().to_owned()).or_default() += after - before;
            }
        }
    }

    fn finish(self, stats: &WorkerStats) -> (Vec<Flow>, Summary) {
        let flows: Vec<_> = self.flows.into_iter().map(|(_, flow)| flow).collect();
        let mut verdicts = Verdicts::default();
        flows.iter().for_each(|flow| verdicts.count(flow.verdict));
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| {
                (reason.label().to_owned(), packet_count(&stats.dropped[*reason as usize]))
            })
            .filter(|(_, count)| count.packets > 0)
            .collect();
        let summary = Summary {
            flows: verdicts,
            requests: self.requests,
            undelivered: self.undelivered,
            received: packet_count(&stats.received),
            forwarded: packet_count(&stats.forwarded),
            originated: packet_count(&stats.originated),
            held: stats.held_frames.get(),
            dropped,
        };
        (flows, summary)
    }
}

fn packet_count(counted: &stats::PacketCounter) -> PacketCount {
    PacketCount { packets: counted.packets.get(), bytes: counted.bytes.get() }
}
