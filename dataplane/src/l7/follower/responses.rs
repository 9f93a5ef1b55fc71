//! The server's stream: sent on right away, and followed to know what is answered.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::http1::Denial;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::super::http1::ResponseState;
use super::super::io::FlowIo;
use super::arrived::Arrived;
use super::seq::Seq;
use super::{Follower, Stage, tell};

/// The stream from the server to the client.
#[derive(Debug, Default)]
pub(super) struct Responses {
    pub(super) isn: Seq,
    /// Acknowledged by the client; `isn` until it has acknowledged the SYN.
    pub(super) acked: Seq,
    /// Everything before was followed, or skipped as body.
    pub(super) next: Seq,
    /// Behind the last byte (or FIN) that was sent on.
    pub(super) end: Seq,
    /// Right edge of the widest window that the client has announced.
    pub(super) edge: Seq,
    /// Position of the server's FIN.
    pub(super) fin: Option<Seq>,
}

impl Follower {
    pub(super) fn server_segment(&mut self, now: Nanos, arrived: Arrived, io: &mut impl FlowIo) {
        if arrived.tcp.has(tcp_flags::SYN) {
            return self.server_opens(arrived, io);
        }
        match self.stage {
            Stage::Opening => return self.before_opening(FlowDirection::Reply, arrived, io),
            Stage::Closed => return self.reset_sender(FlowDirection::Reply, arrived, io),
            _ => {}
        }
        if arrived.tcp.has(tcp_flags::RST) {
            return self.server_aborts(arrived, io);
        }
        let acked = self.requests.acked;
        if !self.note_server(&arrived, io) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        if let Stage::Answered(_) = self.stage {
            return self.after_answer(arrived, io);
        }
        match self.follow(now, &arrived, io) {
            Ok(true) => {}
            Ok(false) => return io.discard(arrived.packet, DropReason::L7Limit),
            Err(denial) => {
                io.discard(arrived.packet, denial.reason);
                tell(denial, io);
                return self.reset(io);
            }
        }
        if arrived.start() != arrived.end_with_fin() {
            self.responses.end = self.responses.end.later(arrived.end_with_fin());
        }
        io.forward(FlowDirection::Reply, arrived.packet);
        if self.requests.acked != acked && self.requests.queue.len() > 0 {
            self.acknowledge_out_of_order(self.requests.edge, io);
        }
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
    /// missing and needed, or if nothing more of it may be kept; the server will send it again.
    fn follow(
        &mut self,
        now: Nanos,
        arrived: &Arrived,
        io: &mut impl FlowIo,
    ) -> Result<bool, Denial> {
        if arrived.len() == 0 && !arrived.has_fin() {
            return Ok(true);
        }
        let gap = arrived.start().count_since(self.responses.next);
        if gap > 0 {
            if u64::from(gap) > self.http.opaque_response_bytes() {
                return Ok(false);
            }
            self.http.skip_response_bytes(u64::from(gap));
            self.responses.next = arrived.start();
        }
        loop {
            let offset = self.responses.next.count_since(arrived.start());
            if offset >= arrived.len() {
                break;
            }
            let mut len = arrived.bytes(io.umem(), offset).len();
            let heap = self.requests.memory.heap() + self.http.heap_with_response(len);
            if !self.may_keep(heap, io) {
                len = self.http.followed_in_place(arrived.bytes(io.umem(), offset));
            }
            if len == 0 {
                return Ok(false);
            }
            let bytes = &arrived.bytes(io.umem(), offset)[..len];
            let (taken, head) = self.http.respond(now, bytes)?;
            self.responses.next = self.responses.next.plus(taken as u32);
            if let Some(head) = head {
                let (status, latency_ns) = (head.status, head.latency_ns);
                io.event(EventKind::HttpResponse { status, latency_ns });
            }
        }
        if arrived.has_fin() && self.responses.next == arrived.end() {
            self.responses.fin = Some(arrived.end());
            self.responses.next = arrived.end_with_fin();
        }
        Ok(true)
    }

    /// A refused request is answered once the server has answered those before it.
    pub(super) fn answer_when_due(&mut self, now: Nanos, io: &mut impl FlowIo) {
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
}
