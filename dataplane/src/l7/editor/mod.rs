//! Executes an inspector's operations on the TCP stream of one flow.
//!
//! Both directions are the same type, [`half::Half`]: what arrives in order is shown to the
//! inspector, what it passes is forwarded, what it drops is acknowledged to its sender, and what it
//! inserts is sent and retransmitted by us. Sequence numbers after an edit are translated
//! ([`splice`]).
//!
//! # What the receiver gets
//! The receiver must not read a stream that differs from the inspected one where it decides
//! something. Five things make sure of that:
//!
//! 1. Only bytes in order are inspected. A segment that arrives out of order waits in a bounded
//!    queue; only bytes that decide nothing ([`Op::Skip`]) may be passed over.
//! 2. A segment that ends in undecided bytes (an incomplete head, say) is cut: what is decided is
//!    forwarded, and the rest is buffered until the segment that completes it arrives, and is
//!    forwarded before that. A segment of decided bytes is forwarded unchanged. Where there is no
//!    room for an edit, or no memory, the segment waits in the queue for the rest of it.
//! 3. Bytes that decided something stay in the history until the receiver has acknowledged them,
//!    and a segment that differs from them is dropped. So it does not matter which packets the
//!    receiver ignores for reasons that we can't see.
//! 4. Following begins with the SYN and the SYN-ACK that answers it, and never anywhere else.
//! 5. TCP options of unknown kinds are removed from both, so that the ends don't agree on another
//!    order of the bytes, as multipath TCP would (RFC 8684; both ends then use plain TCP, §3.7).
//!
//! # What we acknowledge
//! A client may not send the rest of a head before the first part is acknowledged (Nagle's
//! algorithm, a congestion window of one segment after a timeout). So when bytes stay undecided for
//! some milliseconds, we acknowledge them. From then on we have to deliver them, and retransmit
//! them from the history until the receiver has acknowledged them. Dropped bytes are acknowledged
//! at once, but not before the forwarded bytes in front of them.

mod emit;
mod end;
mod half;
mod open;
mod queue;
mod receive;
mod segment;
mod seq;
mod splice;
mod stream_buffer;
mod unedited;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::L7Policy;
use podgate_tables::tcp_flags;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

use super::inspector::{InspectCtx, Inspector, Op};
use super::io::FlowIo;
use super::reply::Template;
use crate::mem::Packet;
use crate::packet::{L4, View, edit};
pub use receive::{HISTORY_MAX, QUEUE_MS, UNDECIDED_MS};

use half::{Halves, TcpEnd};
use segment::{Checksum, TcpSegment};
use seq::Seq;

/// Both directions, the client's first.
const DIRECTIONS: [FlowDirection; 2] = [FlowDirection::Original, FlowDirection::Reply];

/// The client's SYN that was forwarded last.
#[derive(Clone, Copy, Debug)]
struct Syn {
    isn: Seq,
    client: TcpEnd,
    /// The client's window field, which is not scaled in a SYN.
    window: u16,
    scale: Option<u8>,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// No SYN was answered yet.
    #[default]
    Opening,
    /// Both directions are followed.
    Open,
    /// We close the connection: each end got our FIN, unless the other end's was forwarded.
    Closing {
        /// When both are reset if they have not closed by then.
        until: Nanos,
        /// The server has reset the connection, or was reset.
        server_gone: bool,
    },
    /// Both ends were reset.
    Closed,
}

/// How far an inspected connection has come, as far as its place in the flow table depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing that the client sent was forwarded.
    Opened,
    /// Something was.
    Requested,
    /// Nothing more of it is inspected or edited: a plain flow would be forwarded alike.
    Detached,
    /// We are closing the connection, and the client has all that it gets.
    Answered,
    /// Both ends were reset by us. What they have under way is answered by resets.
    Reset,
    /// Both ends know that the connection is over: nothing more will come.
    Over,
}

/// The stream editor of one inspected flow.
#[derive(Debug, Default)]
pub struct Editor<I> {
    stage: Stage,
    syn: Option<Syn>,
    template: Option<Template>,
    halves: Halves,
    inspector: I,
    /// A RST was forwarded that its receiver accepts.
    aborted: bool,
    /// Bytes of memory that are reserved for the streams.
    buffered: usize,
    /// When the last segment came.
    active: Nanos,
    /// Unused capacity was released since then, because the connection was idle.
    shrunk: bool,
    /// A reservation of memory failed, so something is retried.
    out_of_memory: bool,
    /// More can be done, beyond the bound of work for one segment.
    unfinished: bool,
    /// When to retry what lacked memory, is unfinished or stalled.
    retry: Option<Nanos>,
}

/// Time without a segment after which memory that is not in use is released.
const IDLE_MS: u64 = 1_000;
/// Time until the next attempt of what lacked memory, or of what the inspector has stalled: at
/// least [`RETRY_MS`], then as long as no segment came, so that connections that stay stalled cost
/// little. A segment that ends the wait is not delayed: each runs an attempt.
const RETRY_MS: u64 = 20;
/// Upper bound of that time, if only a segment is likely to end the wait.
const RETRY_MAX_MS: u64 = 640;
/// The same, if it waits for memory or anything else from outside of the connection.
const RETRY_FOR_OTHERS_MS: u64 = 160;

impl<I: Inspector> Editor<I> {
    /// An editor that waits for the opener's SYN.
    #[must_use]
    pub fn new(inspector: I) -> Self {
        Self { inspector, ..Self::default() }
    }

    /// The inspector.
    #[must_use]
    pub const fn inspector(&self) -> &I {
        &self.inspector
    }

    /// The inspector, to tell it something. What that changes is done by [`Self::tick`].
    pub const fn inspector_mut(&mut self) -> &mut I {
        &mut self.inspector
    }

    /// Frames held: segments that wait for those in front of them.
    #[must_use]
    pub fn held_frames(&self) -> usize {
        DIRECTIONS.iter().map(|direction| self.halves[*direction].queue.frames()).sum()
    }

    /// Bytes of memory that are reserved for the streams ([`FlowIo::reserve_bytes`]).
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffered
    }

    /// Bytes of the client's stream in the history ([`HISTORY_MAX`]).
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.halves.original.history.len()
    }

    /// Whether both ends were reset: nothing of it is forwarded any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// How far the connection has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match self.stage {
            Stage::Closing { .. } if self.is_over() => Progress::Over,
            Stage::Closed if self.aborted => Progress::Over,
            Stage::Closing { .. } if self.halves.reply.is_finished() => Progress::Answered,
            Stage::Closed => Progress::Reset,
            Stage::Opening => Progress::Opened,
            Stage::Open if self.is_detached() => Progress::Detached,
            _ if self.halves.original.has_forwarded() => Progress::Requested,
            _ => Progress::Opened,
        }
    }

    fn is_detached(&self) -> bool {
        DIRECTIONS.iter().all(|direction| {
            self.halves[*direction].is_plain() && self.inspector.injection(*direction).is_none()
        })
    }

    /// Ends the editor of a detached connection, which continues as a plain flow.
    pub fn detach(self, io: &mut impl FlowIo) {
        debug_assert!(self.progress() == Progress::Detached && self.held_frames() == 0);
        io.release_bytes(self.buffered);
    }

    const fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Closing { .. })
    }

    fn heap(&self) -> usize {
        self.halves.original.heap() + self.halves.reply.heap() + self.inspector.heap()
    }

    /// Reserves memory for `bytes` in total. [`Self::trim`] releases what is not used.
    fn reserve(&mut self, bytes: usize, io: &mut impl FlowIo) -> bool {
        let more = bytes.saturating_sub(self.buffered);
        let reserved = more == 0 || io.reserve_bytes(more);
        self.buffered += if reserved { more } else { 0 };
        self.out_of_memory |= !reserved;
        reserved
    }

    /// Releases memory that was reserved and not used, and that of a closed connection.
    fn trim(&mut self, io: &mut impl FlowIo) {
        if self.is_closed() {
            for direction in DIRECTIONS {
                let half = &mut self.halves[direction];
                (half.history, half.inserted) = Default::default();
            }
            self.inspector.restart();
        }
        let heap = self.heap();
        debug_assert!(heap <= self.buffered, "{heap} bytes are used of {}", self.buffered);
        io.release_bytes(self.buffered.saturating_sub(heap));
        self.buffered = self.buffered.min(heap);
    }

    /// Processes one segment of the flow. If its checksum is wrong, it is dropped; if it is partial
    /// ([`edit::csum_partial`]), it stays so.
    ///
    /// Requests are decided by `policy`, so a change applies from the next request on.
    pub fn segment(
        &mut self,
        now: Nanos,
        direction: FlowDirection,
        view: &View,
        packet: Packet,
        policy: &L7Policy,
        io: &mut impl FlowIo,
    ) {
        let L4::Tcp(tcp) = view.l4_kind else {
            return io.drop_packet(direction, packet, DropReason::Malformed);
        };
        let checksum = if edit::is_csum_partial(io.umem().data(&packet.head), view) {
            Checksum::Partial
        } else if edit::l4_checksum_is_right(io.umem().bytes(&packet), view) {
            Checksum::Complete
        } else {
            return io.drop_packet(direction, packet, DropReason::BadChecksum);
        };
        let segment = TcpSegment { view: *view, tcp, packet, checksum, is_rest: false };
        (self.active, self.shrunk) = (now, false);
        let Some(segment) = self.forward_unedited(now, direction, segment, io) else { return };
        let cx = InspectCtx { now, policy, http: io.http_limits(), may_buffer: true };
        self.receive(&cx, direction, segment, io);
        self.resume_all(&cx, io);
        self.set_timers(now);
        self.trim(io);
    }

    fn set_timers(&mut self, now: Nanos) {
        if self.is_live() {
            for direction in DIRECTIONS {
                self.halves[direction].set_retransmit(now);
            }
        }
        // What an inspector waits for may come from outside of the connection.
        let waits = self.out_of_memory || self.halves.original.stalled || self.halves.reply.stalled;
        self.retry = match (self.unfinished, waits) {
            (true, _) => Some(now),
            (false, true) => {
                let for_others = self.out_of_memory || self.inspector.waits_for_others();
                let most = if for_others { RETRY_FOR_OTHERS_MS } else { RETRY_MAX_MS };
                let idle_ms = now.since(self.active) / 1_000_000;
                Some(now.plus_millis(idle_ms.clamp(RETRY_MS, most)))
            }
            (false, false) => None,
        };
        (self.unfinished, self.out_of_memory) = (false, false);
    }

    fn receive(
        &mut self,
        cx: &InspectCtx<'_>,
        direction: FlowDirection,
        segment: TcpSegment,
        io: &mut impl FlowIo,
    ) {
        if segment.tcp.has(tcp_flags::SYN) {
            return match direction {
                FlowDirection::Original => self.receive_syn(segment, io),
                FlowDirection::Reply => self.receive_syn_ack(segment, io),
            };
        }
        match self.stage {
            Stage::Opening => return self.receive_before_open(direction, segment, io),
            Stage::Closed => return self.reset_sender(direction, segment, io),
            _ => {}
        }
        if segment.tcp.has(tcp_flags::RST) {
            return self.receive_rst(direction, segment, io);
        }
        let progress = match self.update_ack(cx.now, direction, &segment, io) {
            Ok(progress) => progress,
            Err(reason) => return io.drop_packet(direction, segment.packet, reason),
        };
        let inspected = matches!(self.stage, Stage::Open) && direction == FlowDirection::Original;
        if inspected && segment.tcp.has(tcp_flags::URG) {
            // Whether the urgent byte is part of the stream depends on the server's program.
            io.drop_counted(segment.packet, DropReason::L7Unsupported);
            return self.reset_with_event(DropReason::L7Unsupported, io);
        }
        self.receive_data(cx, cx.now, direction, segment, io);
        if progress && self.is_live() {
            self.acknowledge_deferred(direction.reverse(), io);
        }
    }

    /// When [`Self::tick`] is to be called next; [`None`] if only a segment can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        if !self.is_live() {
            return None;
        }
        let mut earliest = Nanos(u64::MAX);
        let mut at = |deadline: Nanos| earliest = earliest.min(deadline);
        if !self.shrunk {
            at(self.active.plus_millis(IDLE_MS));
        }
        for direction in DIRECTIONS {
            let half = &self.halves[direction];
            if let Some(oldest) = half.queue.oldest() {
                at(oldest.plus_millis(QUEUE_MS));
            }
            if let Some(deadline) = self.undecided_deadline(direction) {
                at(deadline);
            }
            if let Some(timer) = &half.retransmit {
                at(timer.at());
            }
        }
        if let Stage::Closing { until, .. } = self.stage {
            at(until);
        }
        if let Some(retry) = self.retry {
            at(retry);
        }
        (earliest != Nanos(u64::MAX)).then_some(earliest)
    }

    /// Runs timers: acknowledges, retransmits, gives up. To be called at [`Self::deadline`]; being
    /// late only delays.
    pub fn tick(&mut self, now: Nanos, policy: &L7Policy, io: &mut impl FlowIo) {
        for direction in DIRECTIONS {
            self.tick_queue(now, direction, io);
            if self.is_live() {
                self.tick_undecided(now, direction, io);
            }
            if self.is_live() {
                self.tick_retransmit(now, direction, io);
            }
        }
        match self.stage {
            Stage::Closing { until, .. } if now >= until => self.close(io),
            Stage::Open | Stage::Closing { .. } => {
                let http = io.http_limits();
                self.resume_all(&InspectCtx { now, policy, http, may_buffer: true }, io);
            }
            _ => {}
        }
        if now >= self.active.plus_millis(IDLE_MS) {
            self.halves.original.shrink_to_fit();
            self.halves.reply.shrink_to_fit();
            self.inspector.shrink_to_fit();
            self.shrunk = true;
        }
        self.set_timers(now);
        self.trim(io);
    }

    fn reset_with_event(&mut self, reason: DropReason, io: &mut impl FlowIo) {
        io.event(EventKind::Drop { reason });
        self.reset(io);
    }
}
