//! How a flow is refused, and how it ends.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::l7::http1::Denial;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use super::super::io::FlowIo;
use super::super::reply::{self, PAYLOAD_MAX};
use super::arrived::Arrived;
use super::requests::Requests;
use super::responses::Responses;
use super::seq::Seq;
use super::{Follower, MSS_DEFAULT, Retry, Stage, TIMESTAMP_LEN};

/// Time after which an answered flow ends, whatever the client does. By then the answer was sent
/// again for the last time, and a large request body has been swallowed.
const ANSWERED_MS: u64 = 30_000;

/// An answer of ours in the server's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    text: &'static [u8],
    /// Position of its first byte.
    start: Seq,
    /// A FIN of ours follows; not if the server's own stands before.
    fin: bool,
    /// The client's FIN was taken.
    client_fin: bool,
    /// The server was reset. It is left alone until the client has everything that the server
    /// sent, so that it can send lost segments again.
    pub(super) server_reset: bool,
    retry: Retry,
    until: Nanos,
}

impl Answered {
    /// Position behind the answer and its FIN.
    pub(super) const fn end(&self) -> Seq {
        self.start.plus(self.text.len() as u32 + self.fin as u32)
    }
}

impl Follower {
    /// A RST of the client. Nothing ends by it here: if its receiver does not believe it, the
    /// connection lives and is followed.
    pub(super) fn client_aborts(&mut self, mut arrived: Arrived, io: &mut impl FlowIo) {
        let at = arrived.start();
        let Requests { acked, decided, next, edge, .. } = self.requests;
        if at.is_before(acked) || at.is_after(edge.later(next)) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        self.aborted |= at == decided || at == next;
        if let Stage::Answered(answered) = self.stage {
            if self.aborted {
                if !answered.server_reset {
                    self.reset_server(io);
                }
                self.stage = Stage::Closed;
            }
            return io.discard(arrived.packet, DropReason::L7Closed);
        }
        if arrived.len() > 0 {
            arrived.cut(at, 0, io);
        }
        io.forward(FlowDirection::Original, arrived.packet);
    }

    /// A RST of the server; as for the client's.
    pub(super) fn server_aborts(&mut self, arrived: Arrived, io: &mut impl FlowIo) {
        let at = arrived.start();
        let Responses { acked, end, edge, .. } = self.responses;
        if at.is_before(acked) || at.is_after(edge.later(end)) {
            return io.discard(arrived.packet, DropReason::Malformed);
        }
        if let Stage::Answered(answered) = &mut self.stage {
            // The client shall read its answer.
            answered.server_reset = true;
            return io.discard(arrived.packet, DropReason::L7Closed);
        }
        self.aborted |= at == end;
        io.forward(FlowDirection::Reply, arrived.packet);
    }

    /// Ends the client's stream before something that must not go on.
    pub(super) fn refuse(&mut self, now: Nanos, denial: Denial, io: &mut impl FlowIo) {
        self.drop_waiting(DropReason::L7Closed, io);
        let text = reply::text(denial);
        if text.is_empty() || self.responses.fin.is_some() {
            return self.reset(io);
        }
        self.stage = Stage::Refusing { text };
        self.answer_when_due(now, io);
    }

    /// Puts an answer where the server's next byte would be.
    pub(super) fn answer(
        &mut self,
        now: Nanos,
        text: &'static [u8],
        fin: bool,
        io: &mut impl FlowIo,
    ) {
        let answered = Answered {
            text,
            start: self.responses.end,
            fin,
            client_fin: false,
            server_reset: false,
            retry: Retry::after(now),
            until: now.plus_millis(ANSWERED_MS),
        };
        self.stage = Stage::Answered(answered);
        self.send_answer(&answered, 0, io);
        self.release_server(io);
    }

    /// Sends what the client has not acknowledged of the answer, as its window allows, but at
    /// least `probe` bytes.
    fn send_answer(&self, answered: &Answered, probe: usize, io: &mut impl FlowIo) {
        let mss = usize::from(self.client.map_or(MSS_DEFAULT, |client| client.mss));
        let mss = mss.min(PAYLOAD_MAX).saturating_sub(TIMESTAMP_LEN);
        let mut at = self.responses.acked.later(answered.start);
        while at.is_before(answered.end()) {
            let sent = at.count_since(answered.start) as usize;
            let rest = answered.text.get(sent..).unwrap_or_default();
            let room = (self.responses.edge.count_since(at) as usize).max(probe);
            let bytes = &rest[..rest.len().min(mss).min(room)];
            let last = bytes.len() == rest.len();
            if bytes.is_empty() && !last {
                return;
            }
            let control = if last && answered.fin { TcpControl::Fin } else { TcpControl::Psh };
            self.send(FlowDirection::Reply, at, control, None, bytes, io);
            at = at.plus(bytes.len() as u32 + u32::from(last));
        }
    }

    /// Resets the server once the client has all that the server sent.
    fn release_server(&mut self, io: &mut impl FlowIo) {
        let Stage::Answered(answered) = &mut self.stage else { return };
        if !answered.server_reset && !self.responses.acked.is_before(answered.start) {
            answered.server_reset = true;
            self.reset_server(io);
        }
    }

    /// A segment of the client behind an answer. `moved` says whether it acknowledges more or
    /// opens the window.
    pub(super) fn swallow(&mut self, arrived: Arrived, moved: bool, io: &mut impl FlowIo) {
        self.release_server(io);
        let Stage::Answered(answered) = &mut self.stage else { return };
        let (start, end) = (arrived.start(), arrived.end_with_fin());
        let is_new = end.is_after(self.requests.next);
        if is_new && !start.is_after(self.requests.next) {
            self.requests.next = end;
            answered.client_fin |= arrived.has_fin();
        }
        let answered = *answered;
        let takes_space = start != end;
        if self.responses.acked != answered.end() && (moved || takes_space && !is_new) {
            self.send_answer(&answered, 0, io);
        } else if takes_space {
            self.send(FlowDirection::Reply, answered.end(), TcpControl::None, None, b"", io);
        }
        if answered.server_reset {
            io.discard(arrived.packet, DropReason::L7Closed);
        } else {
            self.send_decided(arrived, io);
        }
    }

    /// A segment of the server behind an answer of ours.
    pub(super) fn after_answer(&mut self, arrived: Arrived, io: &mut impl FlowIo) {
        match self.stage {
            Stage::Answered(answered) if !answered.server_reset => {
                if arrived.end_with_fin().is_after(answered.start) {
                    io.discard(arrived.packet, DropReason::L7Closed);
                } else {
                    io.forward(FlowDirection::Reply, arrived.packet);
                }
            }
            _ => self.reset_sender(FlowDirection::Reply, arrived, io),
        }
    }

    pub(super) fn tick_answered(&mut self, now: Nanos, io: &mut impl FlowIo) {
        let Stage::Answered(answered) = &mut self.stage else { return };
        if now >= answered.until {
            return self.close(io);
        }
        if self.responses.acked == answered.end() || !answered.retry.is_due(now) {
            return;
        }
        if answered.retry.is_hopeless() {
            return self.close(io);
        }
        let answered = *answered;
        self.send_answer(&answered, 1, io);
    }

    /// Resets both ends. What they send afterwards is answered by a reset with the number that
    /// they say they expect.
    pub(super) fn reset(&mut self, io: &mut impl FlowIo) {
        self.drop_waiting(DropReason::L7Closed, io);
        self.reset_client(io);
        self.reset_server(io);
        self.stage = Stage::Closed;
    }

    /// The client expects the byte behind the last one that was sent on, or an earlier one if
    /// some were lost; only the exact number ends a connection at once (RFC 5961 §3.2).
    fn reset_client(&mut self, io: &mut impl FlowIo) {
        let end = match &self.stage {
            Stage::Answered(answered) => answered.end(),
            _ => self.responses.end,
        };
        let acked = self.responses.acked.later(self.responses.isn.plus(1)).earlier(end);
        for seq in [Some(end), (acked != end).then_some(acked)].into_iter().flatten() {
            self.send(FlowDirection::Reply, seq, TcpControl::Rst, Some(0), b"", io);
        }
    }

    /// As for the client.
    fn reset_server(&self, io: &mut impl FlowIo) {
        let Requests { decided, acked, .. } = self.requests;
        for seq in [Some(decided), (acked != decided).then_some(acked)].into_iter().flatten() {
            self.send(FlowDirection::Original, seq, TcpControl::Rst, Some(0), b"", io);
        }
    }

    /// Answers a segment on a connection that is no more (RFC 9293 §3.5.2).
    pub(super) fn reset_sender(
        &mut self,
        direction: FlowDirection,
        arrived: Arrived,
        io: &mut impl FlowIo,
    ) {
        if arrived.tcp.has(tcp_flags::ACK) && !arrived.tcp.has(tcp_flags::RST) {
            let seq = Seq(arrived.tcp.ack);
            self.send(direction.reverse(), seq, TcpControl::Rst, Some(0), b"", io);
        }
        io.discard(arrived.packet, DropReason::L7Closed);
    }

    pub(super) fn drop_waiting(&mut self, reason: DropReason, io: &mut impl FlowIo) {
        while let Some(arrived) = self.requests.queue.pop(io) {
            io.discard(arrived.packet, reason);
        }
    }

    /// Ends the flow: gives back everything held, and resets the ends that don't know yet.
    pub fn close(&mut self, io: &mut impl FlowIo) {
        match &self.stage {
            _ if self.syn.is_none() || self.is_over() => {
                self.drop_waiting(DropReason::L7Closed, io);
            }
            Stage::Closed => {}
            Stage::Answered(answered) if answered.server_reset => self.reset_client(io),
            _ => self.reset(io),
        }
        self.stage = Stage::Closed;
        self.settle(io);
    }

    /// Whether both ends know that the connection is over.
    pub(super) fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Answered(answered) => {
                answered.client_fin
                    && answered.server_reset
                    && self.responses.acked == answered.end()
            }
            _ => {
                let closed_by_client =
                    self.requests.fin && self.requests.acked == self.requests.next;
                let closed_by_server =
                    self.responses.fin.is_some_and(|fin| self.responses.acked.is_after(fin));
                self.aborted || closed_by_client && closed_by_server
            }
        }
    }
}
