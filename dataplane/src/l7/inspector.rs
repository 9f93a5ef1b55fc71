//! What a protocol inspector is: bytes of both directions in, operations out.
//!
//! An inspector knows nothing of TCP. It is shown the bytes of each direction in order, and answers
//! with one [`Op`] at a time, which says what happens to the first of them. The
//! [`editor`](super::editor) executes the operations on the TCP stream. More, Pass and Drop are as
//! in Cilium's proxylib (`proxylib/types/types.h`, `FilterOpType`).

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::l7::L7Policy;
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

/// What happens to the next bytes of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// More bytes are needed to decide. Those shown are shown again, with more after them.
    More,
    /// That many of the shown bytes pass. They decided something, so a retransmission that differs
    /// from them is dropped.
    Pass(usize),
    /// That many bytes pass without being shown; they may not have arrived yet. `u64::MAX` is all
    /// that follows.
    Skip(u64),
    /// That many bytes are not forwarded, and are acknowledged to their sender; they may not have
    /// arrived yet. `u64::MAX` is all that follows.
    Drop(u64),
    /// Nothing more of this direction is read until the other direction has made progress.
    Stall,
    /// The rest of both directions passes without being shown.
    Detach,
    /// Both ends are reset, for this reason.
    Reset(DropReason),
}

/// An operation, and the event to report with it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens to the next bytes.
    pub op: Op,
    /// What to report.
    pub event: Option<EventKind>,
}

impl Step {
    /// Both ends are reset, with an event.
    #[must_use]
    pub const fn reset(reason: DropReason) -> Self {
        Self { op: Op::Reset(reason), event: Some(EventKind::Drop { reason }) }
    }
}

impl From<Op> for Step {
    fn from(op: Op) -> Self {
        Self { op, event: None }
    }
}

/// Bytes of the inspector's own, to be inserted into a direction at the point that it has reached.
#[derive(Clone, Copy, Debug)]
pub struct Injection<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// What follows.
    pub then: AfterInjection,
}

/// What follows injected bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterInjection {
    /// The connection continues.
    Continue,
    /// Both directions are closed by FIN, and what arrives from now on is dropped.
    Close,
}

/// What an inspector needs to know besides the bytes.
#[derive(Clone, Copy, Debug)]
pub struct InspectCtx<'a> {
    /// The time.
    pub now: Nanos,
    /// The rules of the flow, as of now.
    pub policy: &'a L7Policy,
    /// Limits of HTTP/1.
    pub http: HttpLimits,
    /// Whether the inspector may buffer bytes of its own. If not, it answers [`Op::Stall`] where it
    /// would have to.
    pub may_buffer: bool,
}

/// A protocol inspector.
pub trait Inspector: Default {
    /// Forgets the connection: another one begins, or both ends were reset.
    fn restart(&mut self) {
        *self = Self::default();
    }

    /// Decides about the bytes at the front of a direction, of which there is at least one.
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step;

    /// What happens to the next bytes of a direction, if that is known before any of them has
    /// arrived: [`Op::Skip`] or [`Op::Drop`].
    fn ahead(&mut self, direction: FlowDirection) -> Option<Op>;

    /// The direction ends here by FIN. `undecided` is how many of its bytes were shown and not
    /// decided.
    fn end(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step;

    /// Other rules apply from now on than those that earlier requests were decided by.
    fn policy_changed(&mut self) {}

    /// A client's bytes have been undecided for too long.
    fn timed_out(&mut self) -> Step;

    /// What is to be inserted into a direction at the point that it has reached, if anything.
    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>>;

    /// [`Self::injection`] was inserted.
    fn injected(&mut self, direction: FlowDirection);

    /// Bytes on the heap that depend on the streams.
    fn heap(&self) -> usize;

    /// Whether it waits for something that comes from outside of the connection.
    fn waits_for_others(&self) -> bool {
        false
    }

    /// Upper bound of [`Self::heap`] after [`Self::inspect`] has seen `bytes` more of a direction.
    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize;

    /// Releases unused capacity: the connection is idle.
    fn shrink_to_fit(&mut self) {}
}
