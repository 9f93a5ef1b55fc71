//! One direction of a connection: what its sender sent, and what its receiver gets.

use std::ops::{Index, IndexMut};

use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::queue::OutOfOrderQueue;
use super::segment::TcpSegment;
use super::seq::Seq;
use super::splice::Splices;
use super::stream_buffer::{LazyStreamBuffer, StreamBuffer};
use crate::l7::io::FlowIo;

/// Payload of a segment when the receiver named no maximum (RFC 9293 §3.7.1).
pub(super) const MSS_DEFAULT: u16 = 536;
/// Least maximum that we accept (Linux `TCP_MIN_MSS`).
const MSS_MIN: u16 = 88;
/// Time after which we first retransmit; doubles each time.
const RETRANSMIT_MS: u64 = 200;
/// Times that we retransmit before the connection is given up.
const RETRANSMITS_MAX: u32 = 6;

/// Window after undecided bytes that we have acknowledged, whatever the receiver's is.
const ROOM_FOR_UNDECIDED: u32 = 4 * 1024;

/// One end of the connection, as its headers describe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpEnd {
    /// Largest payload that it accepts, bytes.
    pub(super) mss: u16,
    /// Shift of its window field.
    pub(super) scale: u8,
    /// Its latest timestamp, if both ends use them.
    pub(super) timestamp: Option<u32>,
    /// Whether it accepts selective acknowledgements (RFC 2018), if both ends do.
    pub(super) sack: bool,
}

impl Default for TcpEnd {
    fn default() -> Self {
        Self { mss: MSS_DEFAULT, scale: 0, timestamp: None, sack: false }
    }
}

impl TcpEnd {
    /// From a SYN. The window scale is returned separately, because it counts only if both ends
    /// have it.
    pub(super) fn of_syn(segment: &TcpSegment, io: &impl FlowIo) -> (Self, Option<u8>) {
        let options = segment.options(io.umem());
        let mss = options.max_segment_size().unwrap_or(MSS_DEFAULT).max(MSS_MIN);
        let (timestamp, sack) = (options.timestamp(), options.sack_permitted());
        (Self { mss, scale: 0, timestamp, sack }, options.window_scale())
    }

    pub(super) fn update_timestamp(&mut self, segment: &TcpSegment, io: &impl FlowIo) {
        if let Some(latest) = self.timestamp
            && let Some(value) = segment.options(io.umem()).timestamp()
        {
            self.timestamp = Some(Seq(latest).later(Seq(value)).0);
        }
    }
}

/// What happens to the next bytes of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mode {
    /// The inspector decides.
    #[default]
    Inspect,
    /// This many bytes pass; `u64::MAX` is all.
    Skip(u64),
    /// This many bytes are dropped and acknowledged; `u64::MAX` is all.
    Drop(u64),
}

/// A retransmission timer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retransmit {
    at: Nanos,
    done: u32,
}

impl Retransmit {
    pub(super) const fn after(now: Nanos) -> Self {
        Self { at: now.plus_millis(RETRANSMIT_MS), done: 0 }
    }

    /// Whether it has expired; if so, it is set again.
    pub(super) fn is_due(&mut self, now: Nanos) -> bool {
        let due = now >= self.at;
        if due {
            self.done += 1;
            self.at = now.plus_millis(RETRANSMIT_MS << self.done.min(RETRANSMITS_MAX));
        }
        due
    }

    /// When it expires.
    pub(super) const fn at(&self) -> Nanos {
        self.at
    }

    /// Whether the retransmissions are used up without an answer of the receiver.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.done > RETRANSMITS_MAX
    }
}

/// One direction. Positions are in the sender's sequence space (*in*) or in the receiver's (*out*),
/// see [`Splices`].
///
/// In the sender's space `decided <= next` and `early_acked <= next`.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The sender.
    pub(super) sender: TcpEnd,
    /// In both spaces: the sender's initial sequence number.
    pub(super) isn: Seq,
    /// In: everything before has arrived in order, or was skipped.
    pub(super) next: Seq,
    /// In: everything before was decided: forwarded or dropped.
    pub(super) decided: Seq,
    /// In: everything before was acknowledged by us, ahead of the receiver.
    pub(super) early_acked: Seq,
    /// In: the highest acknowledgement that the sender was sent.
    pub(super) acked_to_sender: Seq,
    /// In: position of the sender's FIN, once it has arrived in order.
    pub(super) fin: Option<Seq>,
    /// Out: acknowledged by the receiver; `isn` until it has acknowledged the SYN.
    pub(super) acked: Seq,
    /// Out: after the last byte (or FIN) that was sent to the receiver.
    pub(super) sent: Seq,
    /// Out: right edge of the widest window that the receiver has announced.
    pub(super) edge: Seq,
    /// In: right edge of the widest window that was advertised to the sender.
    pub(super) advertised_edge: Seq,
    /// The receiver's last segment was a window update: it acknowledged nothing new.
    pub(super) only_window_update: bool,
    /// Out: position of the FIN that we sent in the sender's place.
    pub(super) our_fin: Option<Seq>,
    /// Out: inserted bytes before were sent at least once.
    pub(super) inserted_sent: Seq,
    pub(super) splices: Splices,
    /// In: undecided bytes, and bytes that decided something and are not acknowledged.
    pub(super) history: StreamBuffer,
    /// Out: inserted bytes that are not acknowledged, which we have to retransmit.
    pub(super) inserted: LazyStreamBuffer,
    pub(super) queue: OutOfOrderQueue,
    pub(super) mode: Mode,
    /// Since when there are undecided bytes.
    pub(super) undecided_since: Nanos,
    /// The inspector waits for the other direction.
    pub(super) stalled: bool,
    /// The undecided bytes were shown to the inspector, which needs more of them.
    pub(super) needs_more: bool,
    /// The retransmission timer of what we inserted or acknowledged early.
    pub(super) retransmit: Option<Retransmit>,
}

impl Half {
    /// A direction that begins with `isn`; its receiver's window ends at `edge`.
    pub(super) fn new(isn: Seq, acked: Seq, edge: Seq, sender: TcpEnd) -> Self {
        let first = isn.plus(1);
        Self {
            sender,
            isn,
            next: first,
            decided: first,
            early_acked: first,
            acked_to_sender: first,
            acked,
            sent: first,
            edge,
            advertised_edge: edge,
            inserted_sent: first,
            splices: Splices::new(first),
            ..Self::default()
        }
    }

    /// Bytes that have arrived in order and are not decided.
    pub(super) const fn undecided(&self) -> u32 {
        self.next.count_since(self.decided)
    }

    /// Out: after the last byte that was decided.
    pub(super) fn decided_out(&self) -> Seq {
        self.splices.to_out(self.decided)
    }

    /// In: the acknowledgement number that the sender gets.
    pub(super) fn ack(&self) -> Seq {
        self.acked_in().later(self.early_acked)
    }

    /// In: the first byte that the receiver has not acknowledged.
    pub(super) fn acked_in(&self) -> Seq {
        self.splices.to_in(self.acked.later(self.isn.plus(1)))
    }

    /// In: right edge of the window that the sender is advertised. It is that of the receiver's
    /// window, or further to the right, since bytes that have to be decided together need not fit
    /// into that window. It never moves back, even where inserted bytes take up room: the receiver
    /// drops what it has no room for.
    pub(super) fn edge_in(&self) -> Seq {
        let edge = self.splices.to_in(self.edge).later(self.advertised_edge);
        let is_ours = self.needs_more && self.undecided() > 0 && self.early_acked == self.next;
        if is_ours { edge.later(self.next.plus(ROOM_FOR_UNDECIDED)) } else { edge }
    }

    /// In: after the last byte that may be forwarded now. The receiver's window counts only where
    /// the sender was advertised another one; one byte is always allowed, as a probe.
    pub(super) fn limit(&self) -> Seq {
        match self.is_over_advertised() {
            true => self.splices.to_in(self.edge).later(self.acked_in().plus(1)),
            false => self.decided,
        }
    }

    /// Whether the sender was advertised a larger window than the receiver's.
    pub(super) fn is_over_advertised(&self) -> bool {
        self.advertised_edge.is_after(self.splices.to_in(self.edge))
    }

    /// In: the bytes that we have to retransmit, as far as the receiver's window lets them: those
    /// that we acknowledged; where the sender was advertised a larger window, all of the history.
    pub(super) fn to_retransmit(&self) -> Option<(Seq, Seq)> {
        let from = self.acked_in();
        let in_history = match self.is_over_advertised().then(|| self.history.first_from(from)) {
            Some(Some((start, bytes))) if start == from => start.plus(bytes.len() as u32),
            _ => from,
        };
        let to = self.early_acked.later(in_history).earlier(self.decided);
        let edge = self.splices.to_in(self.edge).later(from.plus(1));
        to.is_after(from).then(|| (from, to.earlier(edge)))
    }

    /// Starts the retransmission timer if some of our bytes are not acknowledged, or stops it.
    pub(super) fn set_retransmit(&mut self, now: Nanos) {
        if self.is_next_inserted() || self.to_retransmit().is_some() {
            self.retransmit.get_or_insert(Retransmit::after(now));
        } else {
            self.retransmit = None;
        }
    }

    /// The window advertised to the sender, for a window field with this shift.
    pub(super) fn window(&self, scale: u8) -> u16 {
        u16::try_from(self.edge_in().count_since(self.ack()) >> scale).unwrap_or(u16::MAX)
    }

    /// Whether anything of the sender's was forwarded, or anything inserted.
    pub(super) fn has_forwarded(&self) -> bool {
        self.decided_out() != self.isn.plus(1)
    }

    /// Records that the sender was sent `ack` and the window.
    pub(super) fn record_ack_sent(&mut self, ack: Seq) {
        self.acked_to_sender = self.acked_to_sender.later(ack);
        self.advertised_edge = self.advertised_edge.later(self.edge_in());
    }

    /// Whether the first byte that the receiver lacks is an inserted one, or our FIN.
    pub(super) fn is_next_inserted(&self) -> bool {
        let acked = self.acked.later(self.isn.plus(1));
        let is_inserted = self.inserted.first_from(acked).is_some_and(|(start, _)| start == acked);
        is_inserted || self.our_fin == Some(acked)
    }

    /// Whether the receiver has acknowledged the end of the stream.
    pub(super) fn is_finished(&self) -> bool {
        match (self.our_fin, self.fin) {
            (Some(fin), _) => self.acked.is_after(fin),
            (None, Some(fin)) => self.acked.is_after(self.splices.to_out(fin)),
            (None, None) => false,
        }
    }

    /// Whether nothing may be inserted: a FIN was forwarded or sent.
    pub(super) fn has_ended(&self) -> bool {
        self.our_fin.is_some() || self.fin.is_some_and(|fin| self.decided.is_after(fin))
    }

    /// Whether nothing of the direction needs the editor any more: all that follows passes, as it
    /// came, and nothing before is left to deliver or to compare.
    pub(super) fn is_plain(&self) -> bool {
        self.mode == Mode::Skip(u64::MAX)
            && self.splices.is_identity()
            && self.history.len() + self.inserted.len() + self.queue.len() == 0
            && !self.early_acked.is_after(self.acked)
            && self.undecided() == 0
            && !self.is_over_advertised()
            && self.fin.is_none()
            && self.our_fin.is_none()
    }

    /// Releases unused capacity.
    pub(super) fn shrink_to_fit(&mut self) {
        self.history.shrink_to_fit();
        self.inserted.shrink_to_fit();
        self.queue.shrink_to_fit();
        self.splices.shrink_to_fit();
    }

    /// Bytes on the heap that depend on the stream.
    pub(super) fn heap(&self) -> usize {
        self.history.heap() + self.inserted.heap()
    }

    /// Advances over up to `count` bytes, as `mode` allows. They must begin at `next`, or follow a
    /// gap of skipped bytes. Returns how many.
    pub(super) fn advance(&mut self, count: u32) -> u32 {
        match &mut self.mode {
            Mode::Inspect => 0,
            Mode::Skip(left) => {
                let taken = count_down(left, count);
                self.decided = self.decided.plus(taken);
                self.next = self.next.later(self.decided);
                self.inspect_when_done();
                taken
            }
            Mode::Drop(left) if self.splices.has_room(self.decided) => {
                let taken = count_down(left, count);
                self.drop_bytes(taken);
                self.inspect_when_done();
                taken
            }
            Mode::Drop(_) => 0,
        }
    }

    fn inspect_when_done(&mut self) {
        if matches!(self.mode, Mode::Skip(0) | Mode::Drop(0)) {
            self.mode = Mode::Inspect;
        }
    }

    /// Removes `count` bytes (or a FIN) from `decided` on. There must be room for the edit.
    pub(super) fn drop_bytes(&mut self, count: u32) {
        self.splices.edit(self.decided, count, 0);
        self.decided = self.decided.plus(count);
        self.next = self.next.later(self.decided);
        self.splices.collapse(self.acked);
        self.history.discard_before(self.acked_in());
    }
}

/// Subtracts up to `count` from `left`, where `u64::MAX` is unlimited.
fn count_down(left: &mut u64, count: u32) -> u32 {
    let taken = u64::from(count).min(*left);
    if *left != u64::MAX {
        *left -= taken;
    }
    taken as u32
}

/// Both directions.
#[derive(Debug, Default)]
pub(super) struct Halves {
    pub(super) original: Half,
    pub(super) reply: Half,
}

impl Halves {
    /// A direction and the other one.
    pub(super) fn both(&mut self, direction: FlowDirection) -> [&mut Half; 2] {
        match direction {
            FlowDirection::Original => [&mut self.original, &mut self.reply],
            FlowDirection::Reply => [&mut self.reply, &mut self.original],
        }
    }
}

impl Index<FlowDirection> for Halves {
    type Output = Half;

    fn index(&self, direction: FlowDirection) -> &Half {
        if direction.is_reply() { &self.reply } else { &self.original }
    }
}

impl IndexMut<FlowDirection> for Halves {
    fn index_mut(&mut self, direction: FlowDirection) -> &mut Half {
        if direction.is_reply() { &mut self.reply } else { &mut self.original }
    }
}
