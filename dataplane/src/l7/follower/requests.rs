//! The client's stream: inspected, remembered, sent on.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::L7Policy;
use podgate_tables::l7::http1::{Denial, DenialResponse};
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use super::super::http1::Next;
use super::super::io::FlowIo;
use super::super::reply::{PAYLOAD_MAX, Segment};
use super::arrived::Arrived;
use super::memory::Memory;
use super::queue::Queue;
use super::seq::Seq;
use super::{Follower, MSS_DEFAULT, Retry, Stage, TIMESTAMP_LEN, tell, timestamps};

/// Remembered bytes of one flow, at most (and one unit more): what a client may have in flight in
/// heads. Beyond it, segments wait for the server's acknowledgements, as they do when all flows
/// together keep as much as they may ([`FlowIo::keep`]).
pub(super) const MEMORY_MAX: usize = 64 * 1024;
/// Time after which undecided bytes are acknowledged: long enough for the rest of a head that is
/// on its way, a tenth of the least retransmission timeout (RFC 6298 §2.4 in Linux: 200 ms).
const ACK_DELAY_MS: u64 = 20;
/// Time in which a unit must be complete. nginx gives a head 60 s, Apache 20.
pub(super) const UNIT_MS: u64 = 30_000;
/// Time that an early segment may wait for those in front of it; the client sends it again.
pub(super) const QUEUE_MS: u64 = 1_000;

/// The stream from the client to the server.
///
/// `acked <= decided <= next`, and `acked <= owned <= next`.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) isn: Seq,
    /// Acknowledged by the server.
    pub(super) acked: Seq,
    /// Everything before was allowed and sent on.
    pub(super) decided: Seq,
    /// Everything before was inspected, or skipped as body.
    pub(super) next: Seq,
    /// Acknowledged to the client by us.
    pub(super) owned: Seq,
    /// Right edge of the widest window that the server has announced.
    pub(super) edge: Seq,
    /// The client's FIN was taken; it counts in `next`.
    pub(super) fin: bool,
    /// When the unit between `decided` and `next` began.
    pub(super) since: Nanos,
    /// When to send owned bytes again that the server has not acknowledged.
    pub(super) retry: Option<Retry>,
    pub(super) memory: Memory,
    pub(super) queue: Queue,
}

impl Requests {
    pub(super) fn new(isn: Seq, edge: Seq) -> Self {
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

    /// Whether something of the client's stream may go on.
    pub(super) fn has_decided(&self) -> bool {
        self.decided != self.isn.plus(1)
    }

    fn has_undecided(&self) -> bool {
        self.decided != self.next
    }
}

impl Follower {
    pub(super) fn client_segment(
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
            Stage::Opening => return self.before_opening(FlowDirection::Original, arrived, io),
            Stage::Closed => return self.reset_sender(FlowDirection::Original, arrived, io),
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
                let denial = Denial::new(DropReason::L7Unsupported, DenialResponse::Reset);
                io.discard(arrived.packet, denial.reason);
                tell(denial, io);
                self.refuse(now, denial, io);
            }
            Stage::Following => self.take(now, now, arrived, policy, io),
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
        // it must not be taken for part of the stream. Behind an answer we take what comes.
        let beyond = arrived.len() > 0 && arrived.end().since(self.requests.edge) > 1;
        if beyond && !matches!(self.stage, Stage::Answered(_)) {
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
    pub(super) fn take_waiting(&mut self, now: Nanos, policy: &L7Policy, io: &mut impl FlowIo) {
        for _ in 0..self.requests.queue.len() {
            let reach = match (&self.stage, self.http.next_request_bytes()) {
                (Stage::Following, Next::Decide) => self.requests.next,
                (Stage::Following, Next::Pass(count)) => {
                    self.requests.next.plus(count.min(i32::MAX as u64) as u32)
                }
                _ => return,
            };
            let (next, waiting) = (self.requests.next, self.requests.queue.len());
            let Some((since, mut arrived)) = self.requests.queue.pop_up_to(reach, io) else {
                return;
            };
            if let Some(latest) = self.client.and_then(|client| client.timestamp) {
                arrived.set_timestamp(latest, io.umem());
            }
            self.take(now, since, arrived, policy, io);
            if (next, waiting) == (self.requests.next, self.requests.queue.len()) {
                // It waits again, for leave to keep what it has.
                return;
            }
        }
    }

    /// Inspects a segment of the client that came at `since`, and sends on what is decided.
    fn take(
        &mut self,
        now: Nanos,
        since: Nanos,
        arrived: Arrived,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) {
        if arrived.len() == 0 && !arrived.has_fin() {
            return io.forward(FlowDirection::Original, arrived.packet);
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
                _ => return self.hold(since, arrived, io),
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
                self.hold(since, arrived, io);
            }
            Ok(()) => {
                self.send_on(decided, arrived, io);
                if !end.is_after(self.requests.owned) && end.is_after(self.requests.acked) {
                    // Our acknowledgement was lost.
                    self.acknowledge(io);
                }
            }
            Err(denial) => {
                if nothing_to_send {
                    io.discard(arrived.packet, denial.reason);
                } else {
                    self.send_on(decided, arrived, io);
                }
                self.requests.next = self.requests.next.later(end);
                self.refuse(now, denial, io);
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
    ) -> Result<(), Denial> {
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
                    let len = arrived.bytes(io.umem(), offset).len();
                    let heap = self.requests.memory.heap_with(len) + self.http.heap();
                    if !self.may_keep(heap, io) {
                        return Ok(());
                    }
                    let ended = self.remember(arrived.bytes(io.umem(), offset));
                    if ended.inspect_err(|denial| tell(*denial, io))? {
                        self.decide(now, policy, io)?;
                    }
                }
            }
        }
        if arrived.has_fin() && self.requests.next == arrived.end() {
            self.http.end_requests().inspect_err(|denial| tell(*denial, io))?;
            self.requests.fin = true;
            self.requests.next = arrived.end_with_fin();
            self.requests.decided = self.requests.next;
        }
        Ok(())
    }

    /// Remembers the bytes that belong to the current unit. True if it ends with them.
    fn remember(&mut self, bytes: &[u8]) -> Result<bool, Denial> {
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
    ) -> Result<(), Denial> {
        let Requests { memory, decided, next, .. } = &self.requests;
        let judged = self.http.decide(now, memory.slice(*decided, *next), policy);
        if let Some(judged) = judged.inspect_err(|denial| tell(*denial, io))? {
            let denial = judged.verdict.err();
            io.event(EventKind::HttpRequest {
                allowed: denial.is_none(),
                rule: judged.verdict.ok().flatten(),
                malformed: denial
                    .map(|denial| denial.reason)
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
    pub(super) fn send_decided(&mut self, arrived: Arrived, io: &mut impl FlowIo) {
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
        io.forward(FlowDirection::Original, arrived.packet);
    }

    /// Sends remembered bytes to the server.
    fn send_remembered(&mut self, from: Seq, to: Seq, io: &mut impl FlowIo) {
        let mss = self.server.map_or(MSS_DEFAULT, |server| server.mss);
        let mss = usize::from(mss).min(PAYLOAD_MAX).saturating_sub(TIMESTAMP_LEN);
        let mut at = from;
        for bytes in self.requests.memory.slice(from, to).chunks(mss) {
            self.send(FlowDirection::Original, at, TcpControl::Psh, None, bytes, io);
            at = at.plus(bytes.len() as u32);
        }
    }

    fn hold(&mut self, since: Nanos, arrived: Arrived, io: &mut impl FlowIo) {
        let start = arrived.start();
        match self.requests.queue.push(since, arrived, io) {
            Some(arrived) => io.discard(arrived.packet, DropReason::L7Limit),
            None => self.acknowledge_out_of_order(start, io),
        }
    }

    /// Tells the client which bytes wait for others, as the server would if it had them (RFC 2018
    /// §4): otherwise the client learns only from its retransmission timeout that it has to
    /// retransmit those in front of them. Not while the server owes acknowledgements of bytes that
    /// were sent on: the client would take these bytes for lost, too.
    pub(super) fn acknowledge_out_of_order(&mut self, start: Seq, io: &mut impl FlowIo) {
        let Requests { acked, owned, decided, edge, .. } = self.requests;
        let (Some(client), Some(server)) = (self.client, self.server) else { return };
        if !client.sack || acked.is_before(decided) {
            return;
        }
        let Some((from, to)) = self.requests.queue.block_at(start) else { return };
        let ack = acked.later(owned);
        // Only a gap in front of them makes them out of order.
        if from.is_after(ack) {
            let segment = Segment {
                direction: FlowDirection::Reply,
                seq: self.responses.end.0,
                ack: Some(ack.0),
                window: u16::try_from(edge.count_since(ack) >> server.scale).unwrap_or(u16::MAX),
                control: TcpControl::None,
                timestamps: timestamps(Some(server), Some(client)),
                sack: Some((from.0, to.0)),
                payload: b"",
            };
            self.send_segment(&segment, io);
        }
    }

    /// Gives up segments that waited too long.
    pub(super) fn tick_waiting(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let old = Nanos(now.0.saturating_sub(QUEUE_MS * 1_000_000));
        while let Some(arrived) = self.requests.queue.pop_older_than(old, io) {
            io.discard(arrived.packet, DropReason::L7Limit);
        }
    }

    /// Acknowledges a unit that stays incomplete, and at last gives it up.
    pub(super) fn tick_undecided(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let requests = &self.requests;
        if !requests.has_undecided() {
            return;
        }
        let waited = now.since(requests.since) / 1_000_000;
        if waited >= UNIT_MS {
            let denial = Denial::new(DropReason::L7Timeout, DenialResponse::Reset);
            tell(denial, io);
            self.refuse(now, denial, io);
        } else if waited >= ACK_DELAY_MS
            && requests.owned != requests.next
            // Only bytes in memory can be sent again, so what lies before them must have arrived.
            && !requests.acked.is_before(requests.decided)
        {
            self.requests.owned = requests.next;
            self.acknowledge(io);
        }
    }

    /// Sends bytes again that we acknowledged and the server has not.
    pub(super) fn tick_owned(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let Requests { acked, owned, decided, .. } = self.requests;
        if !owned.is_after(acked) || !decided.is_after(acked) {
            self.requests.retry = None;
            return;
        }
        let retry = self.requests.retry.get_or_insert(Retry::after(now));
        let (due, hopeless) = (retry.is_due(now), retry.is_hopeless());
        if hopeless {
            let denial = Denial::new(DropReason::L7Timeout, DenialResponse::Reset);
            tell(denial, io);
            self.refuse(now, denial, io);
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
        self.send(FlowDirection::Reply, seq, TcpControl::None, Some(window), b"", io);
    }
}
