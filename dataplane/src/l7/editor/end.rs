//! How a connection ends.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::half::{Half, Mode};
use super::segment::TcpSegment;
use super::seq::Seq;
use super::{DIRECTIONS, Editor, FlowIo, Inspector, Stage};

/// Time after which a connection that we close ends, whatever the ends do. By then the last bytes
/// were retransmitted for the last time, and a large request body has been dropped.
const CLOSING_MS: u64 = 30_000;

impl<I: Inspector> Editor<I> {
    /// A RST. It does not end the flow here: if its receiver does not accept it, the connection
    /// stays open and is followed.
    pub(super) fn receive_rst(
        &mut self,
        direction: FlowDirection,
        mut segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let at = segment.start();
        let half = &self.halves[direction];
        let first = half.splices.to_in(half.acked);
        if at.is_before(first) || at.is_after(half.edge_in().later(half.next)) {
            return io.drop_packet(direction, segment.packet, DropReason::Malformed);
        }
        let is_exact = at == half.decided || at == half.next;
        if let Stage::Closing { until, .. } = self.stage {
            match direction {
                // The client must still get its answer.
                FlowDirection::Reply => self.stage = Stage::Closing { until, server_gone: true },
                FlowDirection::Original if is_exact => {
                    self.aborted = true;
                    self.reset_receiver(FlowDirection::Original, io);
                    self.stage = Stage::Closed;
                }
                FlowDirection::Original => {}
            }
            return io.drop_counted(segment.packet, DropReason::L7Closed);
        }
        self.aborted |= is_exact;
        // The receiver expects the first byte that was not forwarded; only the exact number ends a
        // connection at once (RFC 5961 §3.2).
        let half = &self.halves[direction];
        let at_out = if at == half.next { half.decided_out() } else { half.splices.to_out(at) };
        if segment.len() > 0 {
            segment.cut(at, 0, io);
        }
        self.forward(direction, segment, at_out, io);
    }

    /// Ends both directions by FIN at their current position, unless a FIN was forwarded, and drops
    /// what arrives from now on.
    pub(super) fn close_by_fin(&mut self, now: Nanos) {
        for direction in DIRECTIONS {
            self.halves[direction].close();
        }
        self.stage = Stage::Closing { until: now.plus_millis(CLOSING_MS), server_gone: false };
    }

    /// Resets a server that has not closed, though the client has and got everything: no one reads
    /// what the server still sends.
    pub(super) fn reset_unread_server(&mut self, io: &mut impl FlowIo) {
        if let Stage::Closing { until, server_gone: false } = self.stage
            && self.client_is_finished()
            && !self.is_over()
        {
            self.reset_receiver(FlowDirection::Original, io);
            self.stage = Stage::Closing { until, server_gone: true };
        }
    }

    fn client_is_finished(&self) -> bool {
        self.halves.original.fin.is_some() && self.halves.reply.is_finished()
    }

    /// Resets both ends. What they send afterwards is answered by a reset with the number that
    /// they say they expect.
    pub(super) fn reset(&mut self, io: &mut impl FlowIo) {
        self.drop_queued(DropReason::L7Closed, io);
        self.reset_receiver(FlowDirection::Reply, io);
        if !matches!(self.stage, Stage::Closing { server_gone: true, .. }) {
            self.reset_receiver(FlowDirection::Original, io);
        }
        self.stage = Stage::Closed;
    }

    /// Resets the receiver of a direction. It expects the byte after the last one that was sent,
    /// or an earlier one if some were lost; only the exact number ends a connection at once (RFC
    /// 5961 §3.2).
    fn reset_receiver(&mut self, direction: FlowDirection, io: &mut impl FlowIo) {
        let half = &self.halves[direction];
        let sent = half.sent;
        let acked = half.acked.later(half.isn.plus(1)).earlier(sent);
        self.send_reset(direction, sent, io);
        if acked != sent {
            self.send_reset(direction, acked, io);
        }
    }

    /// Answers a segment of a connection that no longer exists (RFC 9293 §3.5.2).
    pub(super) fn reset_sender(
        &mut self,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        if segment.tcp.has(tcp_flags::ACK) && !segment.tcp.has(tcp_flags::RST) {
            self.send_reset(direction.reverse(), Seq(segment.tcp.ack), io);
        }
        io.drop_counted(segment.packet, DropReason::L7Closed);
    }

    /// Drops the queued segments without an event of their own: that of the connection's end
    /// suffices.
    fn drop_queued(&mut self, reason: DropReason, io: &mut impl FlowIo) {
        for direction in DIRECTIONS {
            while let Some(segment) = self.halves[direction].queue.pop(io) {
                io.drop_counted(segment.packet, reason);
            }
        }
    }

    /// Ends the flow: releases all frames and bytes, and resets the ends that don't know yet.
    pub fn close(&mut self, io: &mut impl FlowIo) {
        match self.stage {
            Stage::Closed => {}
            // An end that was sent a reset may not have accepted it.
            _ if self.syn.is_none() || self.is_finished() || self.was_reset_by_server() => {
                self.drop_queued(DropReason::L7Closed, io);
            }
            _ => self.reset(io),
        }
        self.stage = Stage::Closed;
        self.trim(io);
    }

    /// Whether the server answered the SYN by a reset, or the client reset the connection before it
    /// was open.
    fn was_reset_by_server(&self) -> bool {
        self.aborted && matches!(self.stage, Stage::Opening)
    }

    /// Whether both ends know that the connection is over.
    pub(super) fn is_over(&self) -> bool {
        self.aborted || self.is_finished()
    }

    /// Whether both ends have closed, and know that the other one has.
    pub(super) fn is_finished(&self) -> bool {
        let super::Halves { original, reply } = &self.halves;
        let server_is_finished = match self.stage {
            Stage::Closing { server_gone: true, .. } => true,
            Stage::Opening => false,
            _ => reply.fin.is_some() && original.is_finished(),
        };
        self.client_is_finished() && server_is_finished
    }
}

impl Half {
    /// Ends the stream at its current position, unless it has ended, and drops what follows.
    fn close(&mut self) {
        if !self.has_ended() {
            self.our_fin = Some(self.decided_out());
            self.splices.edit(self.decided, 0, 1);
        }
        self.mode = Mode::Drop(u64::MAX);
        (self.stalled, self.needs_more) = (false, false);
    }
}
