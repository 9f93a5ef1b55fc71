//! Follows the TCP stream of one flow, and lets only decided bytes reach the server.
//!
//! # The rule behind everything here
//! The server must not read a stream that differs from the inspected one where it decides
//! something. Four things make sure of that:
//!
//! 1. Only bytes in order advance the inspector. A segment that arrives early waits in a bounded
//!    queue; body bytes alone may be skipped, because they decide nothing.
//! 2. A segment that ends in undecided bytes (an incomplete head, say) is cut: what is decided
//!    goes on, and the rest stays in memory until the segment that completes it, which then
//!    goes on behind them. A segment of decided bytes goes on as it came.
//! 3. Bytes that decided something stay in memory until the server has acknowledged them, and a
//!    segment that contradicts them is dropped. So it does not matter which packets the server
//!    ignores for reasons that we can't see.
//! 4. Following begins with the SYN and the SYN-ACK that answers it, and never anywhere else.
//!
//! # Undecided bytes are acknowledged
//! A client may not send the rest of a head before the first part is acknowledged (Nagle's
//! algorithm, a congestion window of one segment after a timeout). So when a unit stays incomplete
//! for some milliseconds, we acknowledge what is there. From then on these bytes are ours to
//! deliver, and are sent again from memory until the server has them.
//!
//! # Refusing
//! The refused request is never forwarded. Responses that the server still owes to earlier
//! requests come first; then the answer is put where the server's next byte would be, with a FIN,
//! and the server gets a reset (module `refuse`). The two streams keep their own sequence numbers
//! up to that point; a later version that keeps the connection has to translate them from there on.

mod arrived;
mod memory;
mod open;
mod queue;
mod refuse;
mod requests;
mod responses;
mod seq;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::L7Policy;
use podgate_tables::l7::http1::Denial;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use smoltcp::wire::TcpControl;

use super::http1::Http1;
use super::io::FlowIo;
use super::reply::{Segment, Template};
use crate::mem::Packet;
use crate::packet::{L4, View, edit};
use arrived::Arrived;
use refuse::Answered;
use requests::Requests;
use responses::Responses;
use seq::Seq;

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
    /// Whether it takes selective acknowledgements (RFC 2018), if both ends do.
    sack: bool,
}

impl Peer {
    fn of_syn(arrived: &Arrived, io: &impl FlowIo) -> (Self, Option<u8>) {
        let options = arrived.options(io.umem());
        let mss = options.max_segment_size().unwrap_or(MSS_DEFAULT).max(MSS_MIN);
        let window = arrived.tcp.window;
        let (timestamp, sack) = (options.timestamp(), options.sack_permitted());
        (Self { mss, scale: 0, window, timestamp, sack }, options.window_scale())
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

/// How far an inspected connection has come, as far as its place in the flow table depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The client has sent no whole request that may go on.
    Opened,
    /// It has.
    Requested,
    /// A request was refused. The server was reset and the client has the answer, but has not
    /// closed its side yet.
    Answered,
    /// Both ends were reset by us. What they have under way is answered by resets.
    Reset,
    /// A request was refused, and both ends know that the connection is over: nothing more will
    /// come.
    Over,
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
    /// Bytes of memory that it has the worker's leave to take for the streams.
    kept: usize,
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

    /// Bytes of memory that are taken for the streams, with the worker's leave ([`FlowIo::keep`]).
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept
    }

    /// Whether both ends were reset, or the connection is over for another reason: nothing of it is
    /// sent on any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// How far the connection has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        match &self.stage {
            Stage::Answered(_) if self.is_over() => Progress::Over,
            Stage::Closed if self.aborted => Progress::Over,
            Stage::Answered(answered)
                if answered.server_reset && self.responses.acked == answered.end() =>
            {
                Progress::Answered
            }
            Stage::Closed => Progress::Reset,
            Stage::Opening => Progress::Opened,
            _ if self.requests.has_decided() => Progress::Requested,
            _ => Progress::Opened,
        }
    }

    /// Whether it may take so many bytes from here on, all in all. What it needs less in the end is
    /// given back by [`Self::settle`].
    fn may_keep(&mut self, bytes: usize, io: &mut impl FlowIo) -> bool {
        let more = bytes.saturating_sub(self.kept);
        let may = more == 0 || io.keep(more);
        self.kept += if may { more } else { 0 };
        may
    }

    /// Gives back what it may take and hasn't, and what a connection that is over needs no more.
    fn settle(&mut self, io: &mut impl FlowIo) {
        if self.is_closed() {
            (self.requests.memory, self.http) = Default::default();
        }
        let kept = self.requests.memory.heap() + self.http.heap();
        debug_assert!(kept <= self.kept, "{kept} bytes are kept, and {} may be", self.kept);
        io.forget(self.kept.saturating_sub(kept));
        self.kept = self.kept.min(kept);
    }

    /// Takes one segment of the flow. Its checksum must be complete
    /// ([`edit::complete_checksum`]); if it is wrong, the segment is dropped.
    ///
    /// Requests are held against `policy`, so a change holds from the next request on.
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
            return io.discard(packet, DropReason::Malformed);
        };
        if !edit::l4_checksum_is_right(io.umem().bytes(&packet), view) {
            return io.discard(packet, DropReason::BadChecksum);
        }
        let arrived = Arrived { view: *view, tcp, packet };
        match direction {
            FlowDirection::Original => self.client_segment(now, arrived, policy, io),
            FlowDirection::Reply => self.server_segment(now, arrived, io),
        }
        self.take_waiting(now, policy, io);
        self.settle(io);
    }

    /// Lets time pass: acknowledges, sends again, gives up. Call it every few milliseconds while
    /// the flow lives; being late only delays.
    pub fn tick(&mut self, now: Nanos, io: &mut impl FlowIo) {
        self.tick_waiting(now, io);
        match self.stage {
            Stage::Opening | Stage::Closed => {}
            Stage::Following => {
                self.tick_undecided(now, io);
                self.tick_owned(now, io);
            }
            Stage::Refusing { .. } => self.tick_owned(now, io),
            Stage::Answered(_) => self.tick_answered(now, io),
        }
        self.settle(io);
    }

    /// Sends a segment of ours. To the client it acknowledges all that was inspected, to the server
    /// what the client has acknowledged itself.
    fn send(
        &self,
        direction: FlowDirection,
        seq: Seq,
        control: TcpControl,
        window: Option<u16>,
        payload: &[u8],
        io: &mut impl FlowIo,
    ) {
        let (speaker, listener, ack) = match direction {
            FlowDirection::Original => (self.client, self.server, self.responses.acked),
            FlowDirection::Reply => (self.server, self.client, self.requests.next),
        };
        let segment = Segment {
            direction,
            seq: seq.0,
            ack: Some(ack.0),
            window: window.or(speaker.map(|peer| peer.window)).unwrap_or(0),
            control,
            timestamps: timestamps(speaker, listener),
            sack: None,
            payload,
        };
        self.send_segment(&segment, io);
    }

    fn send_segment(&self, segment: &Segment<'_>, io: &mut impl FlowIo) {
        let packet = self.template.as_ref().and_then(|template| template.build(segment, io));
        if let Some(packet) = packet {
            io.originate(segment.direction, packet);
        }
    }
}

/// Latest timestamps of the sender and of the receiver, if the connection uses them.
fn timestamps(sender: Option<Peer>, receiver: Option<Peer>) -> Option<(u32, u32)> {
    sender?.timestamp.zip(receiver?.timestamp)
}

/// Bytes of a timestamp option, padded.
const TIMESTAMP_LEN: usize = 12;

/// Tells of a denial that is not about a request that could be read.
fn tell(denial: Denial, io: &mut impl FlowIo) {
    io.event(EventKind::Drop { reason: denial.reason });
}

#[cfg(test)]
mod tests;
