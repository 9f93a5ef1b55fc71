//! Follows the TCP stream of one flow, and lets only decided bytes reach the server.
//!
//! # The rule behind everything here
//! The server must not read a stream that differs from the inspected one where it decides
//! something. Four things make sure of that:
//!
//! 1. Only bytes in order advance the inspector. A segment that arrives early waits in a bounded
//!    [`Queue`]; body bytes alone may be skipped, because they decide nothing.
//! 2. A segment that ends in undecided bytes (an incomplete head, say) is cut: what is decided
//!    goes on, and the rest stays in [`Memory`] until the segment that completes it, which then
//!    goes on behind them. A segment of decided bytes goes on as it came.
//! 3. Bytes that decided something stay in memory until the server has acknowledged them, and a
//!    segment that contradicts them is dropped. So it does not matter which packets the server
//!    ignores for reasons that we can't see.
//! 4. Following begins with the SYN and the SYN-ACK that answers it, and never anywhere else.
//!
//! # Undecided bytes are acknowledged
//! A client may not send the rest of a head before the first part is acknowledged (Nagle's
//! algorithm, a congestion window of one segment after a timeout). So when a unit stays incomplete
//! for [`ACK_DELAY_MS`], we acknowledge what is there. From then on these bytes are ours to
//! deliver, and are sent again from memory until the server has them.
//!
//! # Refusing
//! The refused request is never forwarded. Responses that the server still owes to earlier
//! requests come first; then the answer is put where the server's next byte would be, with a FIN,
//! and the server gets a reset (module [`refuse`]). The two streams keep their own sequence numbers
//! up to that point; a later version that keeps the connection has to translate them from there on.

mod arrived;
mod memory;
mod queue;
mod refuse;
mod seq;

use smoltcp::wire::TcpControl;

use super::L7Policy;
use super::http1::{Answer, Http1, Next, Refusal, ResponseState};
use super::io::FlowIo;
use super::reply::{PAYLOAD_MAX, Segment, Template};
use crate::drop_reason::DropReason;
use crate::event::EventKind;
use crate::packet::{L4, View, edit, tcp_flags};
use crate::types::{Direction, Nanos};
use crate::xsk::Packet;
use arrived::Arrived;
use memory::Memory;
use queue::Queue;
use refuse::Answered;
use seq::Seq;

/// Remembered bytes of one flow, at most (and one unit more): what a client may have in flight in
/// heads. Beyond it, segments wait for the server's acknowledgements.
const MEMORY_MAX: usize = 64 * 1024;
/// Time after which undecided bytes are acknowledged: long enough for the rest of a head that is
/// on its way, a tenth of the least retransmission timeout (RFC 6298 §2.4 in Linux: 200 ms).
const ACK_DELAY_MS: u64 = 20;
/// Time in which a unit must be complete. nginx gives a head 60 s, Apache 20.
const UNIT_MS: u64 = 30_000;
/// Time that an early segment may wait for those in front of it; the client sends it again.
const QUEUE_MS: u64 = 1_000;
/// Time after which we first send something of ours again; doubles each time.
const RESEND_MS: u64 = 200;
/// Times that we send something of ours again before the flow is given up.
const RESENDS_MAX: u32 = 6;
/// Payload of a segment when the receiver named no maximum (RFC 9293 §3.7.1).
const MSS_DEFAULT: u16 = 536;
/// Least maximum that we believe in (Linux `TCP_MIN_MSS`).
const MSS_MIN: u16 = 88;

/// One end of the connection, as its headers tell.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Largest payload that it takes, bytes.
    mss: u16,
    /// Shift of its window field.
    scale: u8,
    /// Its last window field.
    window: u16,
    /// Its latest timestamp, if both ends use them.
    timestamp: Option<u32>,
}

impl Peer {
    fn of_syn(arrived: &Arrived, io: &impl FlowIo) -> (Self, Option<u8>) {
        let options = arrived.options(io.umem());
        let mss = options.mss().unwrap_or(MSS_DEFAULT).max(MSS_MIN);
        let window = arrived.tcp.window;
        (Self { mss, scale: 0, window, timestamp: options.timestamp() }, options.window_scale())
    }

    /// Right edge of the window that a segment of this end announces.
    fn edge(&self, arrived: &Arrived) -> Seq {
        Seq(arrived.tcp.ack).plus(u32::from(arrived.tcp.window) << self.scale)
    }

    fn note(&mut self, arrived: &Arrived, io: &impl FlowIo) {
        self.window = arrived.tcp.window;
        if let Some(latest) = self.timestamp
            && let Some(value) = arrived.options(io.umem()).timestamp()
        {
            self.timestamp = Some(Seq(latest).later(Seq(value)).0);
        }
    }
}

/// When to send something of ours again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Nanos,
    done: u32,
}

impl Retry {
    const fn after(now: Nanos) -> Self {
        Self { at: now.plus_millis(RESEND_MS), done: 0 }
    }

    /// Whether it is time; sets the next one.
    fn is_due(&mut self, now: Nanos) -> bool {
        let due = now >= self.at;
        if due {
            self.done += 1;
            self.at = now.plus_millis(RESEND_MS << self.done.min(RESENDS_MAX));
        }
        due
    }

    const fn is_hopeless(&self) -> bool {
        self.done > RESENDS_MAX
    }
}

/// The client's SYN that was forwarded last.
#[derive(Clone, Copy, Debug)]
struct Syn {
    isn: Seq,
    client: Peer,
    scale: Option<u8>,
}

/// The stream from the client to the server.
///
/// `acked <= decided <= next`, and `acked <= owned <= next`.
#[derive(Debug, Default)]
struct Requests {
    isn: Seq,
    /// Acknowledged by the server.
    acked: Seq,
    /// Everything before was allowed and sent on.
    decided: Seq,
    /// Everything before was inspected, or skipped as body.
    next: Seq,
    /// Acknowledged to the client by us.
    owned: Seq,
    /// Right edge of the widest window that the server has announced.
    edge: Seq,
    /// The client's FIN was taken; it counts in `next`.
    fin: bool,
    /// When the unit between `decided` and `next` began.
    since: Nanos,
    /// When to send owned bytes again that the server has not acknowledged.
    retry: Option<Retry>,
    memory: Memory,
    queue: Queue,
}

impl Requests {
    fn new(isn: Seq, edge: Seq) -> Self {
        let first = isn.plus(1);
        Self {
            isn,
            acked: first,
            decided: first,
            next: first,
            owned: first,
            edge,
            ..Self::default()
        }
    }

    fn has_undecided(&self) -> bool {
        self.decided != self.next
    }
}

/// The stream from the server to the client.
#[derive(Debug, Default)]
struct Responses {
    isn: Seq,
    /// Acknowledged by the client; `isn` until it has acknowledged the SYN.
    acked: Seq,
    /// Everything before was followed, or skipped as body.
    next: Seq,
    /// Behind the last byte (or FIN) that was sent on.
    end: Seq,
    /// Right edge of the widest window that the client has announced.
    edge: Seq,
    /// Position of the server's FIN.
    fin: Option<Seq>,
}

/// What a flow is at.
#[derive(Debug, Default)]
enum Stage {
    /// No SYN was answered yet.
    #[default]
    Opening,
    /// Requests are inspected.
    Following,
    /// A request was refused; the answer waits for responses that the server owes.
    Refusing { text: &'static [u8] },
    /// The answer is on its way; the client's stream is swallowed.
    Answered(Answered),
    /// Both ends were reset.
    Closed,
}

/// The follower of one inspected flow.
#[derive(Debug, Default)]
pub struct Follower {
    stage: Stage,
    syn: Option<Syn>,
    template: Option<Template>,
    client: Option<Peer>,
    server: Option<Peer>,
    requests: Requests,
    responses: Responses,
    http: Http1,
    /// A RST went by that its receiver accepts.
    aborted: bool,
}

impl Follower {
    /// A follower that waits for the opener's SYN.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Frames held: segments that wait for those in front of them.
    #[must_use]
    pub fn held_frames(&self) -> usize {
        self.requests.queue.frames()
    }

    /// Takes one segment of the flow. Its checksum must be complete
    /// ([`edit::complete_checksum`]); if it is wrong, the segment is dropped.
    ///
    /// Requests are held against `policy`, so a change holds from the next request on.
    pub fn segment(
        &mut self,
        now: Nanos,
        direction: Direction,
        view: &View,
        packet: Packet,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) {
        let L4::Tcp(tcp) = view.l4_kind else {
            return io.discard(packet, DropReason::Malformed);
        };
        if !edit::l4_checksum_is_right(io.umem(), &packet, view) {
            return io.discard(packet, DropReason::BadChecksum);
        }
        let arrived = Arrived { view: *view, tcp, packet };
        match direction {
            Direction::Original => self.client_segment(now, arrived, policy, io),
            Direction::Reply => self.server_segment(now, arrived, io),
        }
        self.take_waiting(now, policy, io);
    }

    /// Lets time pass: acknowledges, sends again, gives up. Call it every few milliseconds while
    /// the flow lives; being late only delays.
    pub fn tick(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let old = Nanos(now.0.saturating_sub(QUEUE_MS * 1_000_000));
        while let Some(arrived) = self.requests.queue.pop_older_than(old) {
            io.discard(arrived.packet, DropReason::L7Limit);
        }
        match self.stage {
            Stage::Opening | Stage::Closed => {}
            Stage::Following => {
                self.tick_undecided(now, io);
                self.tick_owned(now, io);
            }
            Stage::Refusing { .. } => self.tick_owned(now, io),
            Stage::Answered(_) => self.tick_answered(now, io),
        }
    }

    fn tick_undecided(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let requests = &self.requests;
        if !requests.has_undecided() {
            return;
        }
        let waited = now.since(requests.since) / 1_000_000;
        if waited >= UNIT_MS {
            let refusal = Refusal::new(DropReason::L7Timeout, Answer::Reset);
            tell(refusal, io);
            self.refuse(now, refusal, io);
        } else if waited >= ACK_DELAY_MS
            && requests.owned != requests.next
            // Only bytes in memory can be sent again, so what lies before them must have arrived.
            && !requests.acked.is_before(requests.decided)
        {
            self.requests.owned = requests.next;
            self.acknowledge(io);
        }
    }

    fn tick_owned(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let Requests { acked, owned, decided, .. } = self.requests;
        if !owned.is_after(acked) || !decided.is_after(acked) {
            self.requests.retry = None;
            return;
        }
        let retry = self.requests.retry.get_or_insert(Retry::after(now));
        let (due, hopeless) = (retry.is_due(now), retry.is_hopeless());
        if hopeless {
            self.reset(io);
        } else if due {
            self.send_remembered(acked, owned.earlier(decided), io);
        }
    }

    /// Tells the client that we have its bytes up to `requests.next`. The window keeps its edge.
    fn acknowledge(&mut self, io: &mut impl FlowIo) {
        let Some(server) = self.server else { return };
        let room = self.requests.edge.count_since(self.requests.next) >> server.scale;
        let window = u16::try_from(room).unwrap_or(u16::MAX);
        let seq = self.responses.end;
        self.send(Direction::Reply, seq, TcpControl::None, Some(window), b"", io);
    }

    fn client_segment(
        &mut self,
        now: Nanos,
        arrived: Arrived,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) {
        if arrived.tcp.has(tcp_flags::SYN) {
            return self.client_opens(arrived, io);
        }
        match self.stage {
            Stage::Opening => return self.before_opening(Direction::Original, arrived, io),
            Stage::Closed => return self.reset_sender(Direction::Original, arrived, io),
            _ => {}
        }
        if arrived.tcp.has(tcp_flags::RST) {
            return self.client_aborts(arrived, io);
        }
        let before = (self.responses.acked, self.responses.edge);
        if let Err(reason) = self.note_client(&arrived, io) {
            return io.discard(arrived.packet, reason);
        }
        match self.stage {
            Stage::Following | Stage::Refusing { .. } if arrived.tcp.has(tcp_flags::URG) => {
                // The urgent byte leaves the stream, or not, as the server's program likes.
                let reason = DropReason::L7Unsupported;
                io.discard(arrived.packet, reason);
                io.event(EventKind::Drop { reason });
                self.refuse(now, Refusal::new(reason, Answer::Reset), io);
            }
            Stage::Following => self.take(now, arrived, policy, io),
            Stage::Answered(_) => {
                let moved = before != (self.responses.acked, self.responses.edge);
                self.swallow(arrived, moved, io);
            }
            _ => self.send_decided(arrived, io),
        }
    }

    /// Checks what a segment of the client acknowledges and where it lies, and notes both.
    fn note_client(&mut self, arrived: &Arrived, io: &impl FlowIo) -> Result<(), DropReason> {
        let ack = Seq(arrived.tcp.ack);
        let sent = match &self.stage {
            Stage::Answered(answered) => answered.end(),
            _ => self.responses.end,
        };
        let opened = self.responses.acked != self.responses.isn;
        if !arrived.tcp.has(tcp_flags::ACK)
            || ack.is_after(sent)
            || (!opened && !ack.is_after(self.responses.isn))
        {
            return Err(DropReason::Malformed);
        }
        // One byte more is a zero-window probe. The server ignores what lies beyond its window, so
        // it must not be taken for part of the stream.
        if arrived.len() > 0 && arrived.end().since(self.requests.edge) > 1 {
            return Err(DropReason::L7Limit);
        }
        self.responses.acked = self.responses.acked.later(ack);
        if let Some(client) = &mut self.client {
            client.note(arrived, io);
            self.responses.edge = self.responses.edge.later(client.edge(arrived));
        }
        Ok(())
    }

    /// Takes the segments that had to wait, as far as they are in order now.
    fn take_waiting(&mut self, now: Nanos, policy: &L7Policy, io: &mut impl FlowIo) {
        for _ in 0..self.requests.queue.len() {
            let reach = match (&self.stage, self.http.next_request_bytes()) {
                (Stage::Following, Next::Decide) => self.requests.next,
                (Stage::Following, Next::Pass(count)) => {
                    self.requests.next.plus(count.min(i32::MAX as u64) as u32)
                }
                _ => return,
            };
            let Some(mut arrived) = self.requests.queue.pop_up_to(reach) else { return };
            if let Some(latest) = self.client.and_then(|client| client.timestamp) {
                arrived.set_timestamp(latest, io.umem());
            }
            self.take(now, arrived, policy, io);
        }
    }

    /// Inspects a segment of the client and sends on what is decided.
    fn take(&mut self, now: Nanos, arrived: Arrived, policy: &L7Policy, io: &mut impl FlowIo) {
        if arrived.len() == 0 && !arrived.has_fin() {
            return io.forward(Direction::Original, arrived.packet);
        }
        let (start, end) = (arrived.start(), arrived.end_with_fin());
        if self.requests.fin && end.is_after(self.requests.next) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        let gap = start.count_since(self.requests.next);
        if gap > 0 {
            match self.http.next_request_bytes() {
                Next::Pass(count) if u64::from(gap) <= count => {
                    self.http.pass_request_bytes(u64::from(gap));
                    self.requests.next = start;
                    self.requests.decided = start;
                }
                _ => return self.hold(now, arrived, io),
            }
        }
        if self.contradicts(&arrived, io) {
            return io.discard(arrived.packet, DropReason::L7Mismatch);
        }
        let (decided, next) = (self.requests.decided, self.requests.next);
        let outcome = self.inspect(now, &arrived, policy, io);
        let progress = self.requests.decided != decided;
        if self.requests.has_undecided() && (decided == next || progress) {
            self.requests.since = now;
        }
        let nothing_to_send = !progress && !start.is_before(decided);
        match outcome {
            Ok(()) if nothing_to_send && self.requests.next == next && end.is_after(next) => {
                self.hold(now, arrived, io);
            }
            Ok(()) => {
                self.send_on(decided, arrived, io);
                if !end.is_after(self.requests.owned) && end.is_after(self.requests.acked) {
                    // Our acknowledgement was lost.
                    self.acknowledge(io);
                }
            }
            Err(refusal) => {
                if nothing_to_send {
                    io.discard(arrived.packet, refusal.reason);
                } else {
                    self.send_on(decided, arrived, io);
                }
                self.requests.next = self.requests.next.later(end);
                self.refuse(now, refusal, io);
            }
        }
    }

    /// Whether a segment has other bytes than those that were inspected at its place.
    fn contradicts(&self, arrived: &Arrived, io: &impl FlowIo) -> bool {
        let mut offset = 0;
        // Most segments are new, and most old ones lie behind everything remembered.
        let known = self.requests.next.count_since(arrived.start()).min(arrived.len());
        while self.requests.memory.len() > 0 && offset < known {
            let bytes = arrived.bytes(io.umem(), offset);
            if self.requests.memory.contradicts(arrived.start().plus(offset), bytes) {
                return true;
            }
            offset += bytes.len() as u32;
        }
        false
    }

    /// Advances the inspector over the segment's new bytes, as far as it goes.
    fn inspect(
        &mut self,
        now: Nanos,
        arrived: &Arrived,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) -> Result<(), Refusal> {
        loop {
            let offset = self.requests.next.count_since(arrived.start());
            if offset >= arrived.len() {
                break;
            }
            match self.http.next_request_bytes() {
                Next::Wait => return Ok(()),
                Next::Pass(count) => {
                    let count = count.min(u64::from(arrived.len() - offset));
                    self.http.pass_request_bytes(count);
                    self.requests.next = self.requests.next.plus(count as u32);
                    self.requests.decided = self.requests.next;
                }
                Next::Decide if self.requests.memory.len() >= MEMORY_MAX => return Ok(()),
                Next::Decide => {
                    let ended = self.remember(arrived.bytes(io.umem(), offset));
                    if ended.inspect_err(|refusal| tell(*refusal, io))? {
                        self.decide(now, policy, io)?;
                    }
                }
            }
        }
        if arrived.has_fin() && self.requests.next == arrived.end() {
            self.http.end_requests().inspect_err(|refusal| tell(*refusal, io))?;
            self.requests.fin = true;
            self.requests.next = arrived.end_with_fin();
            self.requests.decided = self.requests.next;
        }
        Ok(())
    }

    /// Remembers the bytes that belong to the current unit. True if it ends with them.
    fn remember(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        let (taken, ended) = self.http.scan(bytes)?;
        self.requests.memory.append(self.requests.next, &bytes[..taken]);
        self.requests.next = self.requests.next.plus(taken as u32);
        Ok(ended)
    }

    /// Decides the unit that ends at `requests.next`.
    fn decide(
        &mut self,
        now: Nanos,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) -> Result<(), Refusal> {
        let Requests { memory, decided, next, .. } = &self.requests;
        let judged = self.http.decide(now, memory.slice(*decided, *next), policy);
        if let Some(judged) = judged.inspect_err(|refusal| tell(*refusal, io))? {
            let refusal = judged.verdict.err();
            io.event(EventKind::HttpRequest {
                allowed: refusal.is_none(),
                rule: judged.verdict.ok().flatten(),
                malformed: refusal
                    .map(|refusal| refusal.reason)
                    .filter(|reason| *reason != DropReason::L7Denied),
                request: judged.line,
            });
            judged.verdict?;
        }
        self.requests.decided = self.requests.next;
        Ok(())
    }

    /// Sends on what this segment decided: bytes before it that had waited since `decided`, and
    /// its own.
    fn send_on(&mut self, decided: Seq, arrived: Arrived, io: &mut impl FlowIo) {
        if self.requests.decided.is_after(decided) && arrived.start().is_after(decided) {
            self.send_remembered(decided, arrived.start(), io);
        }
        self.forward_decided(arrived, io);
    }

    /// Sends on a segment that the inspector does not look at any more.
    fn send_decided(&mut self, arrived: Arrived, io: &mut impl FlowIo) {
        if self.contradicts(&arrived, io) {
            return io.discard(arrived.packet, DropReason::L7Mismatch);
        }
        self.forward_decided(arrived, io);
    }

    /// Sends on the decided part of a segment; a bare acknowledgement if there is none.
    fn forward_decided(&mut self, mut arrived: Arrived, io: &mut impl FlowIo) {
        let decided = self.requests.decided;
        if arrived.end_with_fin().is_after(decided) {
            let kept = decided.count_since(arrived.start()).min(arrived.len());
            let start = if kept == 0 { decided } else { arrived.start() };
            arrived.cut(start, kept, io);
        }
        io.forward(Direction::Original, arrived.packet);
    }

    /// Sends remembered bytes to the server.
    fn send_remembered(&mut self, from: Seq, to: Seq, io: &mut impl FlowIo) {
        let mss = self.server.map_or(MSS_DEFAULT, |server| server.mss);
        let mss = usize::from(mss).min(PAYLOAD_MAX).saturating_sub(TIMESTAMP_LEN);
        let mut at = from;
        for bytes in self.requests.memory.slice(from, to).chunks(mss) {
            self.send(Direction::Original, at, TcpControl::Psh, None, bytes, io);
            at = at.plus(bytes.len() as u32);
        }
    }

    fn hold(&mut self, now: Nanos, arrived: Arrived, io: &mut impl FlowIo) {
        if let Some(arrived) = self.requests.queue.push(now, arrived) {
            io.discard(arrived.packet, DropReason::L7Limit);
        }
    }

    fn server_segment(&mut self, now: Nanos, arrived: Arrived, io: &mut impl FlowIo) {
        if arrived.tcp.has(tcp_flags::SYN) {
            return self.server_opens(arrived, io);
        }
        match self.stage {
            Stage::Opening => return self.before_opening(Direction::Reply, arrived, io),
            Stage::Closed => return self.reset_sender(Direction::Reply, arrived, io),
            _ => {}
        }
        if arrived.tcp.has(tcp_flags::RST) {
            return self.server_aborts(arrived, io);
        }
        if !self.note_server(&arrived, io) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        if let Stage::Answered(_) = self.stage {
            return self.after_answer(arrived, io);
        }
        match self.follow(now, &arrived, io) {
            Ok(true) => {}
            Ok(false) => return io.discard(arrived.packet, DropReason::L7Limit),
            Err(refusal) => {
                io.discard(arrived.packet, refusal.reason);
                tell(refusal, io);
                return self.reset(io);
            }
        }
        self.responses.end = self.responses.end.later(arrived.end_with_fin());
        io.forward(Direction::Reply, arrived.packet);
        self.answer_when_due(now, io);
    }

    /// Checks what a segment of the server acknowledges and where it lies, and notes the first.
    fn note_server(&mut self, arrived: &Arrived, io: &impl FlowIo) -> bool {
        let ack = Seq(arrived.tcp.ack);
        let behind_fin = self.responses.fin.is_some_and(|fin| arrived.end().is_after(fin));
        if !arrived.tcp.has(tcp_flags::ACK)
            || ack.is_after(self.requests.decided)
            || (behind_fin && arrived.len() > 0)
        {
            return false;
        }
        if ack.is_after(self.requests.acked) {
            self.requests.acked = ack;
            self.requests.memory.forget_before(ack);
        }
        if let Some(server) = &mut self.server {
            server.note(arrived, io);
            self.requests.edge = self.requests.edge.later(server.edge(arrived));
        }
        true
    }

    /// Follows the responses in a segment of the server. False if it begins behind bytes that are
    /// missing and needed; the server will send it again.
    fn follow(
        &mut self,
        now: Nanos,
        arrived: &Arrived,
        io: &mut impl FlowIo,
    ) -> Result<bool, Refusal> {
        let Self { responses, http, .. } = self;
        if arrived.len() == 0 && !arrived.has_fin() {
            return Ok(true);
        }
        let gap = arrived.start().count_since(responses.next);
        if gap > 0 {
            if u64::from(gap) > http.opaque_response_bytes() {
                return Ok(false);
            }
            http.skip_response_bytes(u64::from(gap));
            responses.next = arrived.start();
        }
        loop {
            let offset = responses.next.count_since(arrived.start());
            if offset >= arrived.len() {
                break;
            }
            let (taken, head) = http.respond(now, arrived.bytes(io.umem(), offset))?;
            responses.next = responses.next.plus(taken as u32);
            if let Some(head) = head {
                let (status, latency_ns) = (head.status, head.latency_ns);
                io.event(EventKind::HttpResponse { status, latency_ns });
            }
        }
        if arrived.has_fin() && responses.next == arrived.end() {
            responses.fin = Some(arrived.end());
            responses.next = arrived.end_with_fin();
        }
        Ok(true)
    }

    /// A refused request is answered once the server has answered those before it.
    fn answer_when_due(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let Stage::Refusing { text } = self.stage else { return };
        if self.responses.fin.is_some() {
            // The server has closed; there is no place left for an answer.
            return self.answer(now, b"", false, io);
        }
        match self.http.responses() {
            ResponseState::Owed => {}
            ResponseState::Complete if self.responses.next == self.responses.end => {
                self.answer(now, text, true, io);
            }
            ResponseState::Complete | ResponseState::Unknown => self.reset(io),
        }
    }

    /// Sends a segment of ours. To the client it acknowledges all that was inspected, to the server
    /// what the client has acknowledged itself.
    fn send(
        &self,
        direction: Direction,
        seq: Seq,
        control: TcpControl,
        window: Option<u16>,
        payload: &[u8],
        io: &mut impl FlowIo,
    ) {
        let (speaker, listener, ack) = match direction {
            Direction::Original => (self.client, self.server, self.responses.acked),
            Direction::Reply => (self.server, self.client, self.requests.next),
        };
        let timestamp = |peer: Option<Peer>| peer.and_then(|peer| peer.timestamp);
        let segment = Segment {
            direction,
            seq: seq.0,
            ack: Some(ack.0),
            window: window.or(speaker.map(|peer| peer.window)).unwrap_or(0),
            control,
            timestamps: timestamp(speaker).zip(timestamp(listener)),
            payload,
        };
        let packet = self.template.as_ref().and_then(|template| template.build(&segment, io));
        if let Some(packet) = packet {
            io.originate(direction, packet);
        }
    }
}

/// Bytes of a timestamp option, padded.
const TIMESTAMP_LEN: usize = 12;

/// Tells of a refusal that is not about a request that could be read.
fn tell(refusal: Refusal, io: &mut impl FlowIo) {
    io.event(EventKind::Drop { reason: refusal.reason });
}

#[cfg(test)]
mod tests;
