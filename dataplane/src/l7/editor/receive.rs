//! Receiving: acknowledgements, bytes in order, the inspector's operations.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::half::{Half, Mode};
use super::segment::TcpSegment;
use super::seq::Seq;
use super::{DIRECTIONS, Editor, FlowIo, InspectCtx, Inspector, Op, Stage};
use crate::l7::inspector::{AfterInjection, Step};

/// Limit of one direction's history, bytes (undecided ones not counted): what a client may have in
/// flight in heads. Beyond it, segments wait for the receiver's acknowledgements, as they do when
/// all flows together have reserved as much as they may ([`FlowIo::reserve_bytes`]).
pub const HISTORY_MAX: usize = 64 * 1024;
/// Limit of one direction's inserted and unacknowledged bytes (and one injection).
const INSERTED_MAX: usize = 16 * 1024;
/// Bytes that are appended to undecided ones at a time.
const APPEND_MAX: usize = 2 * 1024;
/// Time after which undecided bytes are acknowledged: long enough for the rest of a head that is
/// on its way, a tenth of the least retransmission timeout (RFC 6298 §2.4 in Linux: 200 ms).
const ACK_DELAY_MS: u64 = 20;
/// Time in which undecided bytes must be decided. nginx gives a head 60 s, Apache 20.
pub const UNDECIDED_MS: u64 = 30_000;
/// Time that a segment may wait for those in front of it; its sender retransmits it.
pub const QUEUE_MS: u64 = 1_000;
/// Rounds of injections and resumed reading after one segment, at most; the rest follows at the
/// next tick.
const ROUNDS_MAX: usize = 16;

impl<I: Inspector> Editor<I> {
    /// Checks what a segment acknowledges, and applies it to the other direction. Returns whether
    /// it acknowledges more than before.
    pub(super) fn update_ack(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        segment: &TcpSegment,
        io: &mut impl FlowIo,
    ) -> Result<bool, DropReason> {
        let ack = Seq(segment.tcp.ack);
        let half = &self.halves[direction.reverse()];
        let opened = half.acked != half.isn;
        if !segment.tcp.has(tcp_flags::ACK)
            || ack.is_after(half.sent)
            || (!opened && !ack.is_after(half.isn))
            || (!opened && segment.start() != self.halves[direction].isn.plus(1))
        {
            return Err(DropReason::Malformed);
        }
        let scale = self.halves[direction].sender.scale;
        let half = &mut self.halves[direction.reverse()];
        let progress = ack.is_after(half.acked);
        if progress {
            half.acked = ack;
            // A sender that waits for the receiver's window is not slow.
            half.undecided_since = now;
            half.history.discard_before(half.splices.to_in(ack));
            half.inserted.discard_before(ack);
            half.splices.collapse(ack);
        }
        // A receiver that answers is not given up, though its window is closed.
        if progress || segment.tcp.window == 0 {
            half.retransmit = None;
        }
        let edge = ack.plus(u32::from(segment.tcp.window) << scale);
        let opens = edge.is_after(half.edge);
        // What was sent beyond the window was a probe.
        let unsent = half.inserted_sent.earlier(half.edge).later(ack);
        half.edge = half.edge.later(edge);
        half.only_window_update = opens && !progress;
        let has_unsent = half.inserted.first_from(unsent).is_some();
        self.halves[direction].sender.update_timestamp(segment, io);
        if has_unsent && (progress || opens) {
            self.send_inserted(direction.reverse(), unsent, 0, io);
        }
        if opens && let Some((from, to)) = self.halves[direction.reverse()].to_retransmit() {
            self.send_from_history(direction.reverse(), from, to, io);
        }
        Ok(progress)
    }

    /// Receives a segment that arrived at `since`: checks its position and window, and queues it if
    /// it is out of order.
    pub(super) fn receive_data(
        &mut self,
        cx: &InspectCtx<'_>,
        since: Nanos,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let half = &self.halves[direction];
        let (start, end) = (segment.start(), segment.end_with_fin());
        if start == end {
            let at = half.splices.to_out(start);
            return self.forward(direction, segment, at, io);
        }
        if half.fin.is_some_and(|fin| end.is_after(fin.plus(1))) {
            return io.drop_packet(direction, segment.packet, DropReason::Malformed);
        }
        // One byte more is a zero-window probe. The receiver ignores what lies beyond its window,
        // so it must not be taken for part of the stream.
        let is_new = segment.len() > 0 && segment.end().is_after(half.next);
        let is_beyond = is_new && segment.end().since(half.edge_in()) > 1;
        if is_beyond && !matches!(half.mode, Mode::Drop(_)) {
            return io.drop_packet(direction, segment.packet, DropReason::L7Limit);
        }
        // Acknowledged bytes are not forwarded again, except the one byte of a keep-alive probe.
        // The receiver would not acknowledge what we dropped or acknowledged early.
        let is_ours = !half.splices.is_identity() || half.early_acked.is_after(half.acked);
        let is_acked = segment.len() > 1 && !end.is_after(half.acked_in());
        if is_acked || is_ours && !end.is_after(half.ack()) {
            io.drop_counted(segment.packet, DropReason::L7Closed);
            return self.send_duplicate_ack(direction, io);
        }
        let gap = start.count_since(half.next);
        if gap > 0 && !self.skip_gap(direction, gap) {
            if matches!(self.halves[direction].mode, Mode::Drop(_)) {
                io.drop_counted(segment.packet, DropReason::L7Closed);
                return self.send_ack(direction, io);
            }
            return self.enqueue(direction, since, segment, io);
        }
        if self.differs(direction, &segment, io) {
            return io.drop_packet(direction, segment.packet, DropReason::L7RetransmissionMismatch);
        }
        self.inspect_segment(cx, since, direction, segment, io);
    }

    /// Repeats the acknowledgement: retransmits inserted bytes of the other direction that carry
    /// it, and sends a bare one.
    fn send_duplicate_ack(&mut self, direction: FlowDirection, io: &mut impl FlowIo) {
        let from = self.halves[direction.reverse()].acked;
        self.send_inserted(direction.reverse(), from, 0, io);
        self.send_ack(direction, io);
    }

    /// Inspects a segment that does not lie after a gap, and forwards what is decided.
    fn inspect_segment(
        &mut self,
        cx: &InspectCtx<'_>,
        since: Nanos,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let half = &self.halves[direction];
        let (start, end) = (segment.start(), segment.end_with_fin());
        let (decided, next) = (half.decided, half.next);
        let outcome = self.inspect(cx, direction, Some(&segment), io);
        let half = &mut self.halves[direction];
        let progress = half.decided != decided;
        if half.undecided() > 0 && (decided == next || progress) {
            half.undecided_since = cx.now;
        }
        let nothing_to_send = !progress && (segment.is_rest || !start.is_before(decided));
        // Where there is no room for an edit, no memory or no verdict, and the FIN after that.
        let has_rest = end.is_after(half.next) && matches!(self.stage, Stage::Open);
        match outcome {
            Err(reason) => {
                if nothing_to_send {
                    io.drop_counted(segment.packet, reason);
                } else {
                    self.flush_decided(direction, decided, segment, io);
                }
                self.reset(io);
            }
            Ok(()) if nothing_to_send && half.next == next && end.is_after(next) => {
                self.enqueue(direction, since, segment, io);
            }
            Ok(()) if has_rest => {
                self.flush_and_hold(direction, since, decided, segment, io);
            }
            Ok(()) => self.flush_decided(direction, decided, segment, io),
        }
    }

    /// Skips the bytes in front of a segment, if none of them decides anything.
    fn skip_gap(&mut self, direction: FlowDirection, gap: u32) -> bool {
        let half = &mut self.halves[direction];
        match half.mode {
            Mode::Skip(left) if u64::from(gap) <= left && half.undecided() == 0 => {
                half.advance(gap);
                true
            }
            _ => false,
        }
    }

    /// Whether a segment has other bytes than those that were inspected at its place.
    fn differs(&self, direction: FlowDirection, segment: &TcpSegment, io: &impl FlowIo) -> bool {
        let half = &self.halves[direction];
        let mut offset = 0;
        // Most segments are new, and most old ones lie after the history.
        let known = half.next.count_since(segment.start()).min(segment.len());
        while half.history.len() > 0 && offset < known {
            let bytes = segment.bytes(io.umem(), offset);
            if half.history.contradicts(segment.start().plus(offset), bytes) {
                return true;
            }
            offset += bytes.len() as u32;
        }
        false
    }

    /// Advances the inspector over undecided bytes and over the new bytes of `segment`, as far as
    /// it goes.
    ///
    /// # Errors
    /// When both ends are to be reset. The event was sent.
    fn inspect(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        segment: Option<&TcpSegment>,
        io: &mut impl FlowIo,
    ) -> Result<(), DropReason> {
        while self.inspect_once(cx, direction, segment, io)? {}
        match segment {
            Some(segment) if segment.has_fin() => self.receive_fin(cx, direction, segment, io),
            _ => Ok(()),
        }
    }

    /// One operation. False if nothing more can be done now.
    fn inspect_once(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        segment: Option<&TcpSegment>,
        io: &mut impl FlowIo,
    ) -> Result<bool, DropReason> {
        let half = &mut self.halves[direction];
        let end = segment.map_or(half.next, |segment| segment.end().later(half.next));
        if half.mode != Mode::Inspect {
            let available = end.count_since(half.decided);
            return Ok(available > 0 && half.advance(available) > 0);
        }
        let needs_more = half.undecided() > 0 && half.needs_more;
        if !needs_more && self.inject(cx.now, direction, io) {
            return Ok(true);
        }
        if !needs_more && let Some(op) = self.inspector.ahead(direction) {
            self.halves[direction].apply(op, b"");
            return Ok(true);
        }
        let half = &self.halves[direction];
        let from_history = half.undecided() > 0;
        let fresh = segment.map_or(&b""[..], |segment| segment.fresh(half.next, io.umem()));
        let appended = match (from_history, needs_more) {
            (true, false) => 0,
            (true, true) => fresh.len().min(APPEND_MAX),
            (false, _) => fresh.len(),
        };
        if appended == 0 && (needs_more || !from_history) {
            return Ok(false);
        }
        let is_reply = direction.is_reply();
        if appended > 0
            && !is_reply
            && half.history.len() >= HISTORY_MAX + half.undecided() as usize
        {
            return Ok(false);
        }
        let may_buffer = self.reserve_for(direction, appended, io);
        if !may_buffer && !is_reply {
            return Ok(false);
        }
        let cx = &InspectCtx { may_buffer, ..*cx };
        let half = &mut self.halves[direction];
        let fresh = segment.map_or(&b""[..], |segment| segment.fresh(half.next, io.umem()));
        let fresh = &fresh[..appended];
        let step = if from_history {
            half.history.append(half.next, fresh);
            half.next = half.next.plus(fresh.len() as u32);
            let bytes = half.history.slice(half.decided, half.next);
            self.inspector.inspect(cx, direction, bytes)
        } else {
            self.inspector.inspect(cx, direction, fresh)
        };
        half.apply(step.op, if from_history || !may_buffer { b"" } else { fresh });
        self.finish_step(step, io)?;
        Ok(!self.halves[direction].stalled)
    }

    /// Reserves memory to append `bytes` to the undecided ones of a direction, and for what the
    /// inspector may buffer of them.
    fn reserve_for(
        &mut self,
        direction: FlowDirection,
        bytes: usize,
        io: &mut impl FlowIo,
    ) -> bool {
        let half = &self.halves[direction];
        let others = self.heap() - half.heap() - self.inspector.heap();
        let shown = half.undecided() as usize + bytes;
        let inspector = self.inspector.heap_with(direction, shown);
        self.reserve(others + half.heap_with(bytes) + inspector, io)
    }

    /// Effects of an operation other than on its own direction.
    fn finish_step(&mut self, step: Step, io: &mut impl FlowIo) -> Result<(), DropReason> {
        if let Some(event) = step.event {
            io.event(event);
        }
        match step.op {
            Op::Reset(reason) => Err(reason),
            Op::Detach => {
                for direction in DIRECTIONS {
                    self.halves[direction].mode = Mode::Skip(u64::MAX);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Processes the FIN after a segment's bytes, if they are all decided.
    fn receive_fin(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        segment: &TcpSegment,
        io: &mut impl FlowIo,
    ) -> Result<(), DropReason> {
        let half = &mut self.halves[direction];
        if half.next != segment.end() || half.fin.is_some() {
            return Ok(());
        }
        if half.mode == Mode::Inspect {
            let undecided = half.undecided();
            if half.stalled && undecided > 0 {
                return Ok(());
            }
            let step = self.inspector.end(cx, direction, undecided as usize);
            self.halves[direction].apply(step.op, b"");
            self.finish_step(step, io)?;
            while self.inject(cx.now, direction, io) {}
            if self.inspector.injection(direction).is_some() {
                // It has to stand before the FIN, which is retransmitted.
                return Ok(());
            }
        }
        let half = &mut self.halves[direction];
        half.advance(half.undecided());
        if half.undecided() > 0 {
            return Ok(());
        }
        half.fin = Some(half.next);
        if half.our_fin.is_some() || matches!(half.mode, Mode::Drop(_)) {
            half.drop_bytes(1);
        } else {
            half.next = half.next.plus(1);
            half.decided = half.next;
        }
        Ok(())
    }

    /// Inserts what the inspector has to insert into a direction at the point that it has reached.
    /// Returns whether it did.
    fn inject(&mut self, now: Nanos, direction: FlowDirection, io: &mut impl FlowIo) -> bool {
        let Some(injection) = self.inspector.injection(direction) else { return false };
        let (len, then) = (injection.bytes.len(), injection.then);
        // Our segment would complete the handshake in place of the client.
        let is_open = self.halves.reply.acked != self.halves.reply.isn;
        let half = &self.halves[direction];
        let is_full = half.inserted.len() >= INSERTED_MAX || !half.splices.has_room(half.decided);
        if !is_open || half.has_ended() || is_full {
            return false;
        }
        let heap = self.heap() - half.inserted.heap() + half.inserted.heap_with(len);
        if !self.reserve(heap, io) {
            return false;
        }
        let half = &mut self.halves[direction];
        let at = half.decided_out();
        half.splices.edit(half.decided, 0, len as u32);
        if let Some(injection) = self.inspector.injection(direction) {
            half.inserted.append(at, injection.bytes);
        }
        half.inserted_sent = half.inserted_sent.later(at);
        self.inspector.injected(direction);
        if then == AfterInjection::Close {
            self.close_by_fin(now);
        }
        for each in DIRECTIONS {
            let from = self.halves[each].inserted_sent;
            let is_closing = matches!(self.stage, Stage::Closing { .. });
            if each == direction || is_closing {
                self.send_inserted(each, from, 0, io);
            }
        }
        true
    }

    /// Resumes both directions as far as is possible now, and acknowledges what was dropped.
    pub(super) fn resume_all(&mut self, cx: &InspectCtx<'_>, io: &mut impl FlowIo) {
        self.unfinished = true;
        for _ in 0..ROUNDS_MAX {
            let mut progress = false;
            for direction in DIRECTIONS {
                progress |= self.is_live() && self.resume(cx, direction, io);
            }
            if !progress {
                self.unfinished = false;
                break;
            }
        }
        for direction in DIRECTIONS {
            let half = &self.halves[direction];
            let is_open = half.acked != half.isn;
            if self.is_live() && is_open && half.ack().is_after(half.acked_to_sender) {
                self.send_ack(direction, io);
            }
        }
        self.reset_unread_server(io);
    }

    fn resume(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        io: &mut impl FlowIo,
    ) -> bool {
        let half = &mut self.halves[direction];
        let (decided, next, queued) = (half.decided, half.next, half.queue.len());
        half.stalled &= half.undecided() > 0;
        let is_readable = half.undecided() > 0 && (half.mode != Mode::Inspect || !half.needs_more);
        if is_readable || self.inspector.injection(direction).is_some() {
            let outcome = self.inspect(cx, direction, None, io);
            let to = self.halves[direction].decided;
            self.send_from_history(direction, decided, to, io);
            if outcome.is_err() {
                self.reset(io);
                return true;
            }
        }
        if self.inspector.injection(direction).is_some() && self.halves[direction].has_ended() {
            // It can't be inserted any more, and its receiver must not wait for it.
            self.reset(io);
            return true;
        }
        self.receive_queued(cx, direction, io);
        let half = &self.halves[direction];
        half.decided != decided || half.next != next || half.queue.len() != queued
    }

    /// Receives the queued segments that are in order now.
    fn receive_queued(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        io: &mut impl FlowIo,
    ) {
        for _ in 0..self.halves[direction].queue.len() {
            let half = &mut self.halves[direction];
            if !matches!(self.stage, Stage::Open) || half.stalled {
                return;
            }
            let reach = match half.mode {
                Mode::Skip(count) => half.next.plus(count.min(i32::MAX as u64) as u32),
                _ => half.next,
            };
            let (next, waiting) = (half.next, half.queue.len());
            let Some((since, mut segment)) = half.queue.pop_up_to(reach, io) else { return };
            if let Some(latest) = half.sender.timestamp {
                segment.set_timestamp(latest, io.umem());
            }
            self.receive_data(cx, since, direction, segment, io);
            let half = &self.halves[direction];
            if (next, waiting) == (half.next, half.queue.len()) {
                // It waits again, for memory.
                return;
            }
        }
    }

    fn enqueue(
        &mut self,
        direction: FlowDirection,
        since: Nanos,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        let start = segment.start();
        match self.halves[direction].queue.push(since, segment, io) {
            Some(segment) => io.drop_packet(direction, segment.packet, DropReason::L7Limit),
            None => self.acknowledge_out_of_order(direction, since, start, io),
        }
    }

    /// Drops segments that were queued too long, with one event for all of them.
    pub(super) fn tick_queue(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        io: &mut impl FlowIo,
    ) {
        let half = &mut self.halves[direction];
        let old = Nanos(now.0.saturating_sub(QUEUE_MS * 1_000_000));
        if half.queue.oldest().is_none_or(|oldest| oldest > old) {
            return;
        }
        let reason = DropReason::L7Limit;
        if half.queue.drop_older_than(old, reason, io) > 0 {
            io.event(EventKind::Drop { reason });
        }
    }

    /// When [`Self::tick_undecided`] does something; [`None`] if never.
    pub(super) fn undecided_deadline(&self, direction: FlowDirection) -> Option<Nanos> {
        let half = &self.halves[direction];
        let waits = half.undecided() > 0 && half.needs_more && half.mode == Mode::Inspect;
        let millis = if half.must_acknowledge() { ACK_DELAY_MS } else { UNDECIDED_MS };
        waits.then(|| half.undecided_since.plus_millis(millis))
    }

    /// Acknowledges bytes that stay undecided, and ends the connection after [`UNDECIDED_MS`].
    pub(super) fn tick_undecided(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        io: &mut impl FlowIo,
    ) {
        let half = &mut self.halves[direction];
        if half.undecided() == 0 || !half.needs_more || half.mode != Mode::Inspect {
            return;
        }
        let waited = now.since(half.undecided_since) / 1_000_000;
        if waited >= UNDECIDED_MS {
            let step = self.inspector.timed_out();
            self.halves[direction].apply(step.op, b"");
            if self.finish_step(step, io).is_err() {
                self.reset(io);
            }
        } else if waited >= ACK_DELAY_MS && half.must_acknowledge() {
            half.early_acked = half.next;
            self.send_ack(direction, io);
        }
    }
}

impl Half {
    /// Executes an operation on the bytes from `decided` on. `fresh` are those of these bytes that
    /// are not in the history: all or none.
    fn apply(&mut self, op: Op, fresh: &[u8]) {
        (self.stalled, self.needs_more) = (op == Op::Stall, op == Op::More);
        match op {
            Op::More | Op::Stall => {
                self.history.append(self.next, fresh);
                self.next = self.next.plus(fresh.len() as u32);
            }
            Op::Pass(len) => {
                if !fresh.is_empty() {
                    self.history.append(self.next, &fresh[..len]);
                    self.next = self.next.plus(len as u32);
                }
                self.decided = self.decided.plus(len as u32);
                debug_assert!(!self.decided.is_after(self.next));
            }
            Op::Skip(count) => self.mode = Mode::Skip(count),
            Op::Drop(count) => self.mode = Mode::Drop(count),
            Op::Detach | Op::Reset(_) => {}
        }
    }

    /// Whether undecided bytes are to be acknowledged by us, if they stay undecided. Only bytes in
    /// the history can be retransmitted, so the receiver must have all bytes before them.
    fn must_acknowledge(&self) -> bool {
        self.early_acked != self.next && !self.acked.is_before(self.decided_out())
    }

    /// Upper bound of [`Self::heap`] after `bytes` more are in the history.
    fn heap_with(&self, bytes: usize) -> usize {
        let history = if bytes > 0 { self.history.heap_with(bytes) } else { self.history.heap() };
        history + self.inserted.heap()
    }
}
