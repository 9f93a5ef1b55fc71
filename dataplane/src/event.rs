//! Events: what a worker tells the control thread, fixed in size, through a bounded ring.
//!
//! An event carries numbers only. Whoever compiled the tables of [`Event::epoch`] turns rule ids
//! into names.

use crossbeam::queue::ArrayQueue;

use crate::drop_reason::DropReason;
use crate::policy::{Cause, RuleId, Verdict};
use crate::types::{Epoch, LinkId, Nanos, Tuple};

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

/// One worker's events on their way to the control thread: a bounded ring with one writer and one
/// reader.
///
/// Request lines have a ring of their own beside it, in the order of their events. They are most of
/// an event's bytes, and most events have none.
#[derive(Debug)]
pub struct EventRing {
    events: ArrayQueue<Event<()>>,
    requests: ArrayQueue<RequestLine>,
}

impl EventRing {
    /// Room for so many events.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn new(events: usize) -> Self {
        // One line more: the reader takes an event first, and then its line.
        Self { events: ArrayQueue::new(events), requests: ArrayQueue::new(events + 1) }
    }

    /// Events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events that may wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.events.capacity()
    }

    /// Puts an event on the ring that is about no request. False, and it is lost, if there is no
    /// room.
    #[must_use]
    pub fn push(&self, event: Event<()>) -> bool {
        debug_assert!(!matches!(event.kind, EventKind::HttpRequest { .. }), "its line is missing");
        self.events.push(event).is_ok()
    }

    /// The same for any event.
    #[must_use]
    pub fn push_with_request(&self, Event { time, epoch, link, tuple, kind }: Event) -> bool {
        // With one writer, what is not full now will not be full then.
        if self.events.is_full() {
            return false;
        }
        // The line first: who finds the event finds it. There is room: no more lines wait than
        // events, and one whose event was just taken.
        let kind = kind.map_request(|line| {
            let pushed = self.requests.push(line);
            debug_assert!(pushed.is_ok(), "there is room for a line of each event");
        });
        self.events.push(Event { time, epoch, link, tuple, kind }).is_ok()
    }

    /// Takes the event that has waited longest.
    #[must_use]
    pub fn pop(&self) -> Option<Event> {
        let Event { time, epoch, link, tuple, kind } = self.events.pop()?;
        let kind = kind.map_request(|()| self.requests.pop().unwrap_or_default());
        Some(Event { time, epoch, link, tuple, kind })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Address, proto};

    fn event<R>(number: u64, kind: EventKind<R>) -> Event<R> {
        let [src, dst] = [Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 2])];
        let tuple = Tuple { src, dst, src_port: 1, dst_port: 2, protocol: proto::TCP };
        Event { time: Nanos(number), epoch: Epoch(1), link: LinkId(1), tuple, kind }
    }

    fn request(number: u64) -> EventKind {
        let path = Text::new(number.to_string().as_bytes());
        let request = RequestLine { path, ..RequestLine::default() };
        EventKind::HttpRequest { allowed: true, rule: None, malformed: None, request }
    }

    #[test]
    fn each_request_comes_with_its_own_line_and_what_finds_no_room_leaves_none() {
        let ring = EventRing::new(4);
        for turn in 0..5 {
            let numbers = turn * 10..turn * 10 + 6;
            let pushed = numbers.clone().filter(|number| {
                if number % 2 == 0 {
                    return ring.push_with_request(event(*number, request(*number)));
                }
                ring.push(event(*number, EventKind::Drop { reason: DropReason::Malformed }))
            });
            assert_eq!(pushed.collect::<Vec<_>>(), numbers.clone().take(4).collect::<Vec<_>>());
            assert_eq!(ring.len(), 4);
            for number in numbers.take(4) {
                let event = ring.pop().unwrap();
                assert_eq!(event.time, Nanos(number));
                match event.kind {
                    EventKind::HttpRequest { request, .. } => {
                        assert_eq!(request.path.bytes(), number.to_string().as_bytes());
                    }
                    kind => assert!(matches!(kind, EventKind::Drop { .. })),
                }
            }
            assert!(ring.is_empty() && ring.pop().is_none());
        }
    }

    /// Between taking an event and its line the reader may be late: the writer goes on meanwhile.
    #[test]
    fn a_line_is_not_lost_while_the_reader_has_only_its_event() {
        let ring = EventRing::new(4);
        let push = |number| ring.push_with_request(event(number, request(number)));
        assert!((0..4).all(push));
        assert!(ring.events.pop().is_some());
        assert!(push(4));
        assert!(ring.requests.pop().is_some());
        for number in 1..=4 {
            let Some(EventKind::HttpRequest { request, .. }) = ring.pop().map(|event| event.kind)
            else {
                panic!("event {number} is missing");
            };
            assert_eq!(request.path.bytes(), number.to_string().as_bytes());
        }
        assert!(ring.requests.is_empty());
    }
}
