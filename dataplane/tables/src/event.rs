//! Events: what a worker tells the control thread, fixed in size, through a bounded ring.
//!
//! An event carries numbers only. Whoever compiled the tables of [`Event::epoch`] turns rule ids
//! into names.

use crate::drop_reason::DropReason;
use crate::ids::RuleId;
use crate::ids::{Epoch, LinkId};
use crate::policy::{Cause, Verdict};
use crate::time::Nanos;
use crate::tuple::Tuple;

/// Something worth telling about one flow. `R` is what is known of a request: nothing, while the
/// event is on a ring.
#[derive(Clone, Copy, Debug)]
pub struct Event<R = RequestLine> {
    /// When, on the worker's clock.
    pub time: Nanos,
    /// Tables that were in force.
    pub epoch: Epoch,
    /// Link the packet came in by.
    pub link: LinkId,
    /// The flow, in the direction of its opener.
    pub tuple: Tuple,
    /// What happened.
    pub kind: EventKind<R>,
}

/// The kinds of events. `R` as in [`Event`].
#[derive(Clone, Copy, Debug)]
pub enum EventKind<R = RequestLine> {
    /// A flow was opened, refused, or judged again under a new epoch.
    Verdict {
        /// Forwarded, inspected or dropped, with what decided each direction.
        verdict: Verdict,
        /// What decided at the source's egress.
        egress: Cause,
        /// What decided at the destination's ingress.
        ingress: Cause,
        /// TCP flags of the packet, or zero.
        tcp_flags: u8,
        /// ICMP type, or zero.
        icmp_type: u8,
        /// Whether this judged a live flow again after a policy change.
        reevaluated: bool,
    },
    /// A packet was dropped for another reason than policy.
    Drop {
        /// Why.
        reason: DropReason,
    },
    /// An HTTP request was allowed or refused.
    HttpRequest {
        /// Whether it went on to the server.
        allowed: bool,
        /// The rule that allowed it, or `None` when no rule matched.
        rule: Option<RuleId>,
        /// `Some` when it was refused for its form and not by rules.
        malformed: Option<DropReason>,
        /// The request line, cut to fit.
        request: R,
    },
    /// An HTTP response head passed.
    HttpResponse {
        /// Status code.
        status: u16,
        /// From the request's release to the response's head.
        latency_ns: u64,
    },
    /// The flow ended or timed out.
    End {
        /// Packets from the opener and to it.
        packets: [u64; 2],
        /// Bytes from the opener and to it.
        bytes: [u64; 2],
    },
}

impl<R> EventKind<R> {
    /// The same with something else in place of what is known of a request.
    pub fn map_request<S>(self, map: impl FnOnce(R) -> S) -> EventKind<S> {
        match self {
            Self::Verdict { verdict, egress, ingress, tcp_flags, icmp_type, reevaluated } => {
                EventKind::Verdict { verdict, egress, ingress, tcp_flags, icmp_type, reevaluated }
            }
            Self::Drop { reason } => EventKind::Drop { reason },
            Self::HttpRequest { allowed, rule, malformed, request } => {
                EventKind::HttpRequest { allowed, rule, malformed, request: map(request) }
            }
            Self::HttpResponse { status, latency_ns } => {
                EventKind::HttpResponse { status, latency_ns }
            }
            Self::End { packets, bytes } => EventKind::End { packets, bytes },
        }
    }
}

/// Bytes kept of a request's path, at most.
pub const PATH_MAX: usize = 128;
/// Bytes kept of a request's host, at most.
pub const HOST_MAX: usize = 64;
/// Bytes kept of a request's method, at most.
pub const METHOD_MAX: usize = 16;

/// A bounded copy of a short string from the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The first `N` bytes of `bytes` (`N` is at most 255).
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        const { assert!(N <= u8::MAX as usize) };
        let len = bytes.len().min(N);
        let mut text = Self { len: len as u8, bytes: [0; N] };
        text.bytes[..len].copy_from_slice(&bytes[..len]);
        text
    }

    /// What was kept. Not necessarily UTF-8 and not escaped: it came from a pod.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { len: 0, bytes: [0; N] }
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.bytes().escape_ascii())
    }
}

/// Method, path and host of a request, each cut to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RequestLine {
    /// Method.
    pub method: Text<METHOD_MAX>,
    /// Request target as on the wire.
    pub path: Text<PATH_MAX>,
    /// Host header.
    pub host: Text<HOST_MAX>,
}
