//! Sending: received segments with translated numbers, and segments of our own.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use super::queue::Deferred;
use super::segment::TcpSegment;
use super::seq::Seq;
use super::{Editor, FlowIo, Inspector};
use crate::l7::reply::{PAYLOAD_MAX, Segment};

/// Segments of inserted bytes that are sent at a time. An acknowledgement releases the next.
const INSERTED_SEGMENTS_MAX: usize = 8;
/// Bytes of a timestamp option, padded.
const TIMESTAMP_LEN: usize = 12;

impl<I: Inspector> Editor<I> {
    /// Forwards the decided part of a segment, and before it the buffered bytes from `decided` on.
    pub(super) fn flush_decided(
        &mut self,
        direction: FlowDirection,
        decided: Seq,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        self.flush_before(direction, decided, segment.start(), io);
        if segment.is_rest {
            self.forward_rest(direction, decided, segment, io);
        } else {
            self.forward_decided(direction, segment, io);
        }
    }

    /// As [`Self::flush_decided`], and queues the segment until the rest of it can be decided. If
    /// there is no room, its sender retransmits the rest.
    pub(super) fn flush_and_hold(
        &mut self,
        direction: FlowDirection,
        since: Nanos,
        decided: Seq,
        mut segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        self.flush_before(direction, decided, segment.start(), io);
        let to = segment.end().earlier(self.halves[direction].decided);
        let start = segment.start();
        let from = if segment.is_rest { decided.later(start) } else { start };
        self.send_pieces(direction, from, to, Some(&segment), None, io);
        segment.is_rest = true;
        if let Some(segment) = self.halves[direction].queue.push(since, segment, io) {
            io.drop_counted(segment.packet, DropReason::L7Limit);
        }
    }

    /// Forwards the buffered bytes from `decided` on, up to a segment's `start`.
    fn flush_before(
        &mut self,
        direction: FlowDirection,
        decided: Seq,
        start: Seq,
        io: &mut impl FlowIo,
    ) {
        if start.is_after(decided) {
            let to = start.earlier(self.halves[direction].decided);
            self.send_from_history(direction, decided, to, io);
        }
    }

    /// Forwards what was decided from `decided` on of a segment whose beginning was forwarded.
    fn forward_rest(
        &mut self,
        direction: FlowDirection,
        decided: Seq,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let (to, with_fin) = self.decided_part(direction, &segment);
        let from = decided.later(segment.start());
        let fin_at = with_fin.then(|| self.halves[direction].splices.to_out(segment.end()));
        self.send_pieces(direction, from, to, Some(&segment), fin_at, io);
        io.drop_counted(segment.packet, DropReason::L7Closed);
    }

    /// In: the end of what may be forwarded now of a segment, and whether its FIN may.
    fn decided_part(&self, direction: FlowDirection, segment: &TcpSegment) -> (Seq, bool) {
        let half = &self.halves[direction];
        let end = segment.end();
        let to = end.earlier(half.decided).earlier(half.limit());
        let with_fin = half.our_fin.is_none()
            && segment.has_fin()
            && to == end
            && !half.decided.is_before(segment.end_with_fin());
        (to, with_fin)
    }

    /// Forwards the decided part of a segment; a bare acknowledgement if there is none.
    fn forward_decided(
        &mut self,
        direction: FlowDirection,
        mut segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let half = &self.halves[direction];
        let (start, end) = (segment.start(), segment.end());
        let (to, with_fin) = self.decided_part(direction, &segment);
        match half.splices.first_piece(start, to) {
            None if with_fin && segment.len() == 0 => {
                let at = half.splices.to_out(end);
                self.forward(direction, segment, at, io);
            }
            None if with_fin => {
                let at = half.splices.to_out(end);
                io.drop_counted(segment.packet, DropReason::L7Closed);
                self.send(direction, at, TcpControl::Fin, b"", io);
            }
            None if segment.len() > 0 && !half.decided.is_before(end) => {
                let is_open = matches!(self.stage, super::Stage::Open);
                let reason = if is_open { DropReason::L7Denied } else { DropReason::L7Closed };
                io.drop_counted(segment.packet, reason);
            }
            None => {
                let at = half.decided_out();
                segment.cut(start, 0, io);
                self.forward(direction, segment, at, io);
            }
            Some(piece) if piece == (start, to) => {
                let at = half.splices.to_out(start);
                let fin_at = half.splices.to_out(end);
                // Bytes may be inserted between the payload and the FIN.
                let fin_follows = fin_at == at.plus(segment.len());
                if to != end || segment.has_fin() && !(with_fin && fin_follows) {
                    segment.cut(start, to.count_since(start), io);
                }
                self.forward(direction, segment, at, io);
                if with_fin && !fin_follows {
                    self.send(direction, fin_at, TcpControl::Fin, b"", io);
                }
            }
            Some(_) => {
                let fin_at = with_fin.then(|| half.splices.to_out(end));
                self.send_pieces(direction, start, to, Some(&segment), fin_at, io);
                io.drop_counted(segment.packet, DropReason::L7Closed);
            }
        }
    }

    /// Forwards a received segment with its first byte at `at` of the receiver's space.
    pub(super) fn forward(
        &mut self,
        direction: FlowDirection,
        mut segment: TcpSegment,
        at: Seq,
        io: &mut impl FlowIo,
    ) {
        let scale = self.halves[direction].sender.scale;
        let other = &self.halves[direction.reverse()];
        let mut ack = Seq(segment.tcp.ack);
        let mut window = segment.tcp.window;
        let is_identity = other.splices.is_identity();
        if segment.tcp.has(super::tcp_flags::ACK)
            && self.is_live()
            && (!is_identity || other.early_acked.is_after(ack) || other.is_over_advertised())
        {
            (ack, window) = (other.ack(), other.window(scale));
            if !is_identity {
                let splices = &other.splices;
                segment.translate_sack(|block| splices.block_to_in(block), io.umem());
            }
        }
        if self.is_misleading_duplicate(direction, &segment, ack, io) {
            return io.drop_counted(segment.packet, DropReason::L7Closed);
        }
        segment.renumber(at, ack, window, io.umem());
        self.halves[direction.reverse()].record_ack_sent(ack);
        if segment.start() != segment.end_with_fin() {
            let half = &mut self.halves[direction];
            half.sent = half.sent.later(segment.end_with_fin());
        }
        io.forward(direction, segment.packet, &segment.view);
    }

    /// Whether a bare acknowledgement, translated to `ack`, says nothing new while the sender has
    /// bytes in flight: a window update below the window that the sender was advertised. The
    /// sender would take it for a sign of loss (RFC 5681 §3.2).
    fn is_misleading_duplicate(
        &self,
        direction: FlowDirection,
        segment: &TcpSegment,
        ack: Seq,
        io: &impl FlowIo,
    ) -> bool {
        let other = &self.halves[direction.reverse()];
        segment.start() == segment.end_with_fin()
            && !segment.tcp.has(super::tcp_flags::RST)
            && other.only_window_update
            && other.is_over_advertised()
            && ack == other.acked_to_sender
            && ack != other.next
            && segment.options(io.umem()).sack_blocks().is_none()
    }

    /// Sends a segment of our own, which acknowledges what is to be acknowledged.
    pub(super) fn send(
        &mut self,
        direction: FlowDirection,
        at: Seq,
        control: TcpControl,
        payload: &[u8],
        io: &mut impl FlowIo,
    ) {
        let segment = Segment { seq: at.0, control, payload, ..self.blank(direction) };
        self.send_segment(&segment, io);
        self.was_sent(direction, at, payload.len() as u32, control);
    }

    fn was_sent(&mut self, direction: FlowDirection, at: Seq, len: u32, control: TcpControl) {
        let end = at.plus(len + u32::from(control == TcpControl::Fin));
        let half = &mut self.halves[direction];
        if end != at {
            half.sent = half.sent.later(end);
        }
        let other = &mut self.halves[direction.reverse()];
        other.record_ack_sent(other.ack());
    }

    /// A segment without payload that acknowledges what is to be acknowledged.
    fn blank(&self, direction: FlowDirection) -> Segment<'static> {
        let (half, other) = (&self.halves[direction], &self.halves[direction.reverse()]);
        Segment {
            direction,
            seq: half.sent.0,
            ack: Some(other.ack().0),
            window: other.window(half.sender.scale),
            control: TcpControl::None,
            timestamps: half.sender.timestamp.zip(other.sender.timestamp),
            sack: None,
            payload: b"",
        }
    }

    pub(super) fn send_reset(&mut self, direction: FlowDirection, at: Seq, io: &mut impl FlowIo) {
        let control = TcpControl::Rst;
        let segment = Segment { seq: at.0, control, window: 0, ..self.blank(direction) };
        self.send_segment(&segment, io);
    }

    /// Returns false if there is no free frame.
    fn send_segment(&self, segment: &Segment<'_>, io: &mut impl FlowIo) -> bool {
        let packet = self.template.as_ref().and_then(|template| template.build(segment, io));
        let is_sent = packet.is_some();
        if let Some(packet) = packet {
            io.originate(segment.direction, packet);
        }
        is_sent
    }

    /// Payload of our own segments in a direction, at most.
    fn payload_max(&self, direction: FlowDirection) -> usize {
        let mss = usize::from(self.halves[direction.reverse()].sender.mss);
        mss.min(PAYLOAD_MAX).saturating_sub(TIMESTAMP_LEN)
    }

    /// Sends bytes of the sender from the history, as far as they may be forwarded now.
    pub(super) fn send_from_history(
        &mut self,
        direction: FlowDirection,
        from: Seq,
        to: Seq,
        io: &mut impl FlowIo,
    ) {
        self.send_pieces(direction, from, to, None, None, io);
    }

    /// Sends the forwarded parts of the sender's bytes from `from` to `to` in segments of our own,
    /// as far as they may be forwarded now. The bytes lie in `segment`, or else in the history. A
    /// FIN at `fin_at` of the receiver's space follows them.
    fn send_pieces(
        &mut self,
        direction: FlowDirection,
        mut from: Seq,
        to: Seq,
        segment: Option<&TcpSegment>,
        fin_at: Option<Seq>,
        io: &mut impl FlowIo,
    ) {
        let max = self.payload_max(direction);
        let to = to.earlier(self.halves[direction].limit());
        let mut sent_fin = false;
        while let Some((mut at, end)) = self.halves[direction].splices.first_piece(from, to) {
            while at.is_before(end) {
                let Some(frame) = io.alloc() else { return };
                let Some(template) = &self.template else { return io.free(frame) };
                let half = &self.halves[direction];
                let bytes = match segment {
                    Some(segment) => segment.bytes(io.umem(), at.count_since(segment.start())),
                    None => half.history.slice(at, end),
                };
                let len = bytes.len().min(max).min(end.count_since(at) as usize);
                if len == 0 {
                    debug_assert!(false, "undecided bytes are in the history");
                    return io.free(frame);
                }
                let at_out = half.splices.to_out(at);
                sent_fin = fin_at == Some(at_out.plus(len as u32));
                let control = if sent_fin { TcpControl::Fin } else { TcpControl::Psh };
                let own = Segment {
                    seq: at_out.0,
                    control,
                    payload: &bytes[..len],
                    ..self.blank(direction)
                };
                let packet = template.write(&own, io.umem(), frame);
                io.originate(direction, packet);
                self.was_sent(direction, at_out, len as u32, control);
                at = at.plus(len as u32);
            }
            from = end;
        }
        if let Some(at) = fin_at.filter(|_| !sent_fin) {
            self.send(direction, at, TcpControl::Fin, b"", io);
        }
    }

    /// Sends inserted bytes from `from` on, and our FIN, as far as the receiver's window allows,
    /// but at least `probe` bytes; a few segments at a time.
    pub(super) fn send_inserted(
        &mut self,
        direction: FlowDirection,
        from: Seq,
        probe: usize,
        io: &mut impl FlowIo,
    ) {
        let max = self.payload_max(direction);
        let mut at = from.later(self.halves[direction].acked);
        for _ in 0..INSERTED_SEGMENTS_MAX {
            let half = &self.halves[direction];
            // Forwarded bytes may lie between, which their sender retransmits.
            let fin = half.our_fin.filter(|fin| !fin.is_before(at)).unwrap_or(at);
            let (start, bytes) = half.inserted.first_from(at).unwrap_or((fin, b""));
            let room = (half.edge.count_since(start) as usize).max(probe);
            let len = bytes.len().min(max).min(room);
            let end = start.plus(len as u32);
            let is_fin = half.our_fin == Some(end);
            if len == 0 && !is_fin {
                return;
            }
            let control = if is_fin { TcpControl::Fin } else { TcpControl::Psh };
            let payload = &bytes[..len];
            let segment = Segment { seq: start.0, control, payload, ..self.blank(direction) };
            if !self.send_segment(&segment, io) {
                return;
            }
            self.was_sent(direction, start, len as u32, control);
            at = end.plus(u32::from(is_fin));
            let half = &mut self.halves[direction];
            half.inserted_sent = half.inserted_sent.later(at);
            if is_fin {
                return;
            }
        }
    }

    /// Acknowledges to the sender of a direction.
    pub(super) fn send_ack(&mut self, direction: FlowDirection, io: &mut impl FlowIo) {
        let at = self.halves[direction.reverse()].sent;
        self.send(direction.reverse(), at, TcpControl::None, b"", io);
    }

    /// Reports the out-of-order segment at `start`, which arrived at `since`, to its sender by
    /// SACK, as the receiver would (RFC 2018 §4): otherwise the sender detects the loss only by its
    /// retransmission timeout.
    pub(super) fn acknowledge_out_of_order(
        &mut self,
        direction: FlowDirection,
        since: Nanos,
        start: Seq,
        io: &mut impl FlowIo,
    ) {
        let half = &mut self.halves[direction];
        let forwarded = half.decided_out();
        if half.acked.is_before(forwarded) {
            return half.queue.defer(Deferred { acked: forwarded, arrived: since });
        }
        let block = half.queue.block_at(start);
        self.acknowledge_blocks(direction, block, io);
    }

    /// Sends the deferred SACKs of out-of-order segments, once the receiver has acknowledged what
    /// was forwarded before them.
    pub(super) fn acknowledge_deferred(&mut self, direction: FlowDirection, io: &mut impl FlowIo) {
        let half = &mut self.halves[direction];
        let Some(Deferred { acked, arrived }) = half.queue.deferred() else { return };
        if half.acked.is_before(acked) {
            return;
        }
        let blocks = half.queue.blocks(arrived);
        let forwarded = half.decided_out();
        half.queue.end_deferral(arrived, forwarded);
        self.acknowledge_blocks(direction, blocks.into_iter().flatten(), io);
    }

    fn acknowledge_blocks(
        &mut self,
        direction: FlowDirection,
        blocks: impl IntoIterator<Item = (Seq, Seq)>,
        io: &mut impl FlowIo,
    ) {
        if !self.halves[direction].sender.sack {
            return;
        }
        for (from, to) in blocks {
            // Only a gap in front of them makes them out of order: undecided bytes have arrived.
            if from.is_after(self.halves[direction].next) {
                let sack = Some((from.0, to.0));
                let segment = Segment { sack, ..self.blank(direction.reverse()) };
                self.send_segment(&segment, io);
            }
        }
    }

    /// Retransmits inserted bytes, and those that we acknowledged early, until the receiver has
    /// acknowledged them.
    pub(super) fn tick_retransmit(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        io: &mut impl FlowIo,
    ) {
        let half = &mut self.halves[direction];
        half.set_retransmit(now);
        let Some(timer) = &mut half.retransmit else { return };
        let (due, exhausted) = (timer.is_due(now), timer.is_exhausted());
        if exhausted {
            return self.reset_with_event(DropReason::L7Timeout, io);
        }
        if due {
            if let Some((from, to)) = self.halves[direction].to_retransmit() {
                self.send_from_history(direction, from, to, io);
            }
            let from = self.halves[direction].acked;
            self.send_inserted(direction, from, 1, io);
        }
    }
}
