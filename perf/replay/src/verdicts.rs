//! The first pass: one packet a round, so that everything that happens belongs to a packet.

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
use super::report::{Flow, REQUESTS_MAX, Request, Summary, Tally, Verdicts};
use crate::progress;
use crate::rig::{Rig, START};

/// Replays `steps` once, and tells what became of its flows.
pub(super) fn replay(
    capture: &Capture,
    steps: &[Step],
    compiled: &Compiled,
    rig: &mut Rig,
) -> (Vec<Flow>, Summary) {
    let mut book = Book::new(compiled, capture.start());
    let mut events = Vec::new();
    for step in progress::over("replaying", steps) {
        let frame = capture.frame(&step.packet);
        rig.pass(step.time, &mut |event| book.note(event));
        let before = drops(rig.stats());
        if !rig.deliver(step.link, frame) {
            book.undelivered += 1;
            continue;
        }
        rig.round();
        rig.collect(&mut |event| events.push(*event));
        events.drain(..).for_each(|event| book.note(&event));
        book.note_packet(frame, &before, &drops(rig.stats()));
    }
    book.close(rig.stats())
}

/// Packets dropped up to now, by reason.
type Drops = [u64; DropReason::COUNT];

fn drops(stats: &WorkerStats) -> Drops {
    std::array::from_fn(|reason| stats.dropped[reason].packets.get())
}

/// Flows by what is told of them.
struct Book<'a> {
    compiled: &'a Compiled,
    /// Wall-clock time at [`START`], nanoseconds since the epoch.
    start: u64,
    flows: Vec<(Tuple, Flow)>,
    by_key: HashMap<Key, usize>,
    /// The flow that was last opened between two ends, by [`either_way`].
    latest: HashMap<Tuple, usize>,
    requests: Verdicts,
    undelivered: u64,
}

/// What tells flows apart: the opener's tuple, and the ICMP type of its packet.
type Key = (Tuple, u8);

/// One of the tuple and its reverse, the same for both.
fn either_way(tuple: Tuple) -> Tuple {
    let end = |tuple: Tuple| (tuple.src, tuple.src_port);
    let reversed = tuple.reversed();
    if end(tuple) <= end(reversed) { tuple } else { reversed }
}

impl<'a> Book<'a> {
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

    fn record(&self, event: &Event) -> FlowRecord {
        let nanos = i128::from(self.start) + i128::from(event.time.since(START));
        let time = Timestamp::from_nanosecond(nanos).unwrap_or(Timestamp::MAX);
        FlowRecord::new(event, time, self.compiled)
    }

    fn note(&mut self, event: &Event) {
        match event.kind {
            EventKind::Verdict { verdict, icmp_type, tcp_flags, .. } => {
                if !self.is_stray(&event.tuple, verdict, tcp_flags) {
                    self.note_verdict(event, icmp_type);
                }
            }
            EventKind::Drop { .. } => {
                if !self.latest.contains_key(&either_way(event.tuple)) {
                    self.open(event, 0);
                }
            }
            EventKind::HttpRequest { .. } => self.note_request(event),
            EventKind::HttpResponse { .. } | EventKind::End { .. } => {}
        }
    }

    /// Whether a verdict is about a late segment of a connection that is known: the segment is
    /// judged by itself because its flow is gone, but opens none.
    fn is_stray(&self, tuple: &Tuple, verdict: Verdict, flags: u8) -> bool {
        let opens = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
        tuple.protocol == proto::TCP
            && !opens
            && self.latest.get(&either_way(*tuple)).is_some_and(|index| {
                verdict == Verdict::Deny || self.flows[*index].1.egress.is_some()
            })
    }

    fn note_verdict(&mut self, event: &Event, icmp_type: u8) {
        let known = self.by_key.get(&(event.tuple, icmp_type)).copied();
        let Some(index) = known else { return self.open(event, icmp_type) };
        self.latest.insert(either_way(event.tuple), index);
        // Its packets were dropped before policy was asked, up to now.
        if self.flows[index].1.egress.is_none() {
            let Flow { packets, bytes, dropped, time, .. } = self.flows[index].1.clone();
            self.flows[index].1 = Flow { packets, bytes, dropped, time, ..self.flow(event) };
        }
    }

    fn open(&mut self, event: &Event, icmp_type: u8) {
        let index = self.flows.len();
        self.by_key.insert((event.tuple, icmp_type), index);
        self.latest.insert(either_way(event.tuple), index);
        self.flows.push((event.tuple, self.flow(event)));
    }

    fn flow(&self, event: &Event) -> Flow {
        let record = self.record(event);
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
            packets: [0; 2],
            bytes: [0; 2],
            dropped: BTreeMap::new(),
        }
    }

    fn note_request(&mut self, event: &Event) {
        let FlowRecord { verdict, drop_reason, detail, .. } = self.record(event);
        let Detail::HttpRequest { method, path, host, rule } = detail else { return };
        self.requests.count(verdict);
        let Some(index) = self.by_key.get(&(event.tuple, 0)) else { return };
        let flow = &mut self.flows[*index].1;
        let request = Request { verdict, drop_reason, method, path, host, rule, count: 1 };
        let known = flow.requests.iter().position(|known| known.equals(&request));
        match known {
            Some(known) => flow.requests[known].count += 1,
            None if flow.requests.len() < REQUESTS_MAX => flow.requests.push(request),
            None => flow.more_requests += 1,
        }
    }

    /// Counts a packet for its flow, and what was dropped in its round.
    fn note_packet(&mut self, frame: &[u8], before: &Drops, after: &Drops) {
        let Ok(view) = parse(frame, frame.len() as u32) else { return };
        let about = match view.l4_kind {
            L4::IcmpError { .. } => quoted(frame, &view),
            _ => None,
        };
        let about = about.filter(|about| self.latest.contains_key(&either_way(*about)));
        // An error goes against the direction of what it is about.
        let tuple = about.map_or(view.tuple, Tuple::reversed);
        let Some(index) = self.latest.get(&either_way(tuple)) else { return };
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

    fn close(self, stats: &WorkerStats) -> (Vec<Flow>, Summary) {
        let flows: Vec<_> = self.flows.into_iter().map(|(_, flow)| flow).collect();
        let mut verdicts = Verdicts::default();
        flows.iter().for_each(|flow| verdicts.count(flow.verdict));
        let dropped = DropReason::ALL
            .iter()
            .map(|reason| (reason.label().to_owned(), tally(&stats.dropped[*reason as usize])))
            .filter(|(_, tally)| tally.packets > 0)
            .collect();
        let summary = Summary {
            flows: verdicts,
            requests: self.requests,
            undelivered: self.undelivered,
            received: tally(&stats.received),
            forwarded: tally(&stats.forwarded),
            originated: tally(&stats.originated),
            held: stats.held_frames.get(),
            dropped,
        };
        (flows, summary)
    }
}

fn tally(counted: &stats::PacketCounter) -> Tally {
    Tally { packets: counted.packets.get(), bytes: counted.bytes.get() }
}
