//! The editor's fast path: a segment in the middle of a long body, or a bare acknowledgement, on a
//! connection in which nothing is edited and nothing queued.

use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::half::{Half, Mode};
use super::segment::TcpSegment;
use super::seq::Seq;
use super::{Editor, FlowIo, Inspector, Stage};

impl<I: Inspector> Editor<I> {
    /// Forwards a segment unchanged, if it has no bytes, or the next ones in order, all of which
    /// are skipped, and nothing else of the connection needs the editor. Returns it otherwise.
    /// The effect is that of [`Self::receive`].
    pub(super) fn forward_unedited(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) -> Option<TcpSegment> {
        let flags = segment.tcp.flags & !tcp_flags::PSH;
        let is_plain = matches!(self.stage, Stage::Open) && flags == tcp_flags::ACK;
        let ack = Seq(segment.tcp.ack);
        let [half, other] = self.halves.both(direction);
        if !is_plain
            || self.retry.is_some()
            || !half.passes(&segment)
            || !other.is_acknowledged_only(ack)
        {
            return Some(segment);
        }
        half.pass(segment.len());
        half.sender.update_timestamp(&segment, io);
        let window = u32::from(segment.tcp.window) << half.sender.scale;
        let len = other.history.len();
        other.apply_plain_ack(now, ack, window);
        let has_discarded = other.history.len() < len;
        io.forward(direction, segment.packet, &segment.view);
        if has_discarded {
            self.trim(io);
        }
        None
    }
}

impl Half {
    /// Whether nothing of the direction is edited, queued, undecided or ours.
    fn is_unedited(&self) -> bool {
        self.splices.is_identity()
            && !self.stalled
            && self.fin.is_none()
            && self.our_fin.is_none()
            && !self.early_acked.is_after(self.acked)
            && !self.is_over_advertised()
            && self.inserted.len() == 0
            && self.queue.len() == 0
            && self.undecided() == 0
    }

    /// Whether a segment consists of the next bytes in order, and they are skipped.
    fn passes(&self, segment: &TcpSegment) -> bool {
        let len = segment.len();
        let is_skipped = match self.mode {
            Mode::Skip(left) => u64::from(len) < left,
            Mode::Inspect | Mode::Drop(_) => len == 0,
        };
        is_skipped
            && segment.start() == self.next
            && !segment.end().is_after(self.edge)
            && self.is_unedited()
    }

    /// Advances over skipped bytes in order.
    fn pass(&mut self, len: u32) {
        if len > 0 {
            self.advance(len);
            self.sent = self.sent.later(self.decided);
        }
    }

    /// Whether a segment of the other end with this acknowledgement changes nothing but what is
    /// acknowledged, and the window.
    fn is_acknowledged_only(&self, ack: Seq) -> bool {
        self.acked != self.isn
            && !ack.is_before(self.acked)
            && !ack.is_after(self.sent)
            && self.is_unedited()
    }

    /// What [`Editor::update_ack`] does for such an acknowledgement.
    fn apply_plain_ack(&mut self, now: Nanos, ack: Seq, window: u32) {
        let progress = ack.is_after(self.acked);
        if progress {
            self.acked = ack;
            self.undecided_since = now;
            self.history.discard_before(ack);
        }
        let edge = ack.plus(window);
        self.only_window_update = edge.is_after(self.edge) && !progress;
        self.edge = self.edge.later(edge);
        self.record_ack_sent(ack);
    }
}
