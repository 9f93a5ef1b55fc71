//! The inspectors that a flow may have, one for each protocol of L7 rules.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::{L7Policy, L7Protocol};
use podgate_tables::tuple::FlowDirection;

use super::dns::{DnsContext, DnsStream};
use super::http1::Http1;
use super::http2::{Http2, PREFACE};
use super::inspector::{Injection, InspectCtx, Inspector, Op, Step};
use super::kafka::Kafka;
use super::tls::Tls;

/// The inspector of a flow.
#[derive(Debug, Default)]
pub enum FlowInspector {
    /// HTTP, before the client's first bytes show the version.
    #[default]
    Http,
    /// HTTP/1.0 and HTTP/1.1.
    Http1(Http1),
    /// HTTP/2. Its state is several times as large as that of the others.
    Http2(Box<Http2>),
    /// Kafka. Its state is several times as large as that of the others.
    Kafka(Box<Kafka>),
    /// TLS server names.
    Tls(Tls),
    /// DNS over TCP.
    Dns(DnsStream),
}

impl FlowInspector {
    /// The inspector of flows with these rules over TCP, of clients of link `client`. `None` if
    /// there is none ([`L7Policy::has_inspector`]).
    #[must_use]
    pub fn for_rules(policy: &L7Policy, dns: &DnsContext, client: LinkId) -> Option<Self> {
        match policy.protocol().ok()?? {
            L7Protocol::Http => Some(Self::default()),
            L7Protocol::Dns => Some(Self::Dns(DnsStream::new(dns, client))),
            L7Protocol::Tls => Some(Self::Tls(Tls::default())),
            L7Protocol::Kafka => Some(Self::Kafka(Box::default())),
        }
    }

    /// The protocol of the rules that the inspector applies.
    #[must_use]
    pub const fn of_rules(&self) -> L7Protocol {
        match self {
            Self::Http | Self::Http1(_) | Self::Http2(_) => L7Protocol::Http,
            Self::Dns(_) => L7Protocol::Dns,
            Self::Kafka(_) => L7Protocol::Kafka,
            Self::Tls(_) => L7Protocol::Tls,
        }
    }

    /// The ticket of the DNS answer that the flow waits for.
    #[must_use]
    pub fn awaited_answer(&self) -> Option<u64> {
        match self {
            Self::Dns(stream) => stream.awaited(),
            _ => None,
        }
    }

    /// Entries of the ring to the control thread that a DNS answer of the flow waits for; see
    /// [`Self::grant_room`].
    #[must_use]
    pub fn wanted_room(&self) -> Option<usize> {
        match self {
            Self::Dns(stream) => stream.wanted_room(),
            _ => None,
        }
    }

    /// The DNS answer that waits for room may be put on the ring, when the flow goes on.
    pub fn grant_room(&mut self) {
        if let Self::Dns(stream) = self {
            stream.grant_room();
        }
    }
}

impl FlowInspector {
    /// Chooses the version of HTTP by the client's first bytes. False if there are too few: they
    /// may be the start of HTTP/2's preface (RFC 9113 §3.4).
    fn choose_version(&mut self, bytes: &[u8]) -> bool {
        if !PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
            *self = Self::Http1(Http1::default());
        } else if bytes.len() >= PREFACE.len() {
            *self = Self::Http2(Box::default());
        } else {
            return false;
        }
        true
    }

    /// What has come is not enough for HTTP/2, and nothing more will.
    fn exclude_http2(&mut self) {
        if matches!(self, Self::Http) {
            *self = Self::Http1(Http1::default());
        }
    }
}

/// Calls a method of the variant's inspector; the result is `before` while HTTP's version is
/// unknown.
macro_rules! dispatch {
    ($self:ident, $before:expr, $inspector:ident => $call:expr) => {
        match $self {
            FlowInspector::Http => $before,
            FlowInspector::Http1($inspector) => $call,
            FlowInspector::Http2($inspector) => $call,
            FlowInspector::Kafka($inspector) => $call,
            FlowInspector::Tls($inspector) => $call,
            FlowInspector::Dns($inspector) => $call,
        }
    };
}

impl Inspector for FlowInspector {
    /// A DNS answer does, for room on the ring to the control thread.
    fn waits_for_others(&self) -> bool {
        self.wanted_room().is_some()
    }

    /// The protocol stays the same.
    fn restart(&mut self) {
        match self {
            Self::Http1(_) | Self::Http2(_) => *self = Self::Http,
            other => dispatch!(other, (), inspector => inspector.restart()),
        }
    }

    #[inline]
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        if matches!(self, Self::Http) {
            match direction {
                FlowDirection::Original if !self.choose_version(bytes) => return Op::More.into(),
                FlowDirection::Original => {}
                // A server may send SETTINGS first (RFC 9113 §3.4). They begin with a zero,
                // as they are shorter than 64 KiB; no HTTP/1 response does.
                FlowDirection::Reply if bytes.first() == Some(&0) => {
                    if !cx.may_buffer {
                        return Op::Stall.into();
                    }
                    *self = Self::Http2(Box::default());
                }
                FlowDirection::Reply => *self = Self::Http1(Http1::default()),
            }
        }
        let step =
            dispatch!(self, Op::More.into(), inspector => inspector.inspect(cx, direction, bytes));
        if direction.is_reply()
            && let Self::Http1(http1) = self
            && let Some(upgrade) = http1.take_upgrade()
        {
            *self = Self::Http2(Box::new(Http2::after_upgrade(&upgrade)));
        }
        step
    }

    #[inline]
    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        dispatch!(self, None, inspector => inspector.ahead(direction))
    }

    fn end(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        self.exclude_http2();
        dispatch!(self, Op::Pass(0).into(), inspector => inspector.end(cx, direction, undecided))
    }

    fn policy_changed(&mut self) {
        dispatch!(self, (), inspector => inspector.policy_changed());
    }

    fn timed_out(&mut self) -> Step {
        self.exclude_http2();
        dispatch!(self, Op::Reset(DropReason::L7Timeout).into(), inspector => inspector.timed_out())
    }

    #[inline]
    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        dispatch!(self, None, inspector => inspector.injection(direction))
    }

    fn injected(&mut self, direction: FlowDirection) {
        dispatch!(self, (), inspector => inspector.injected(direction));
    }

    #[inline]
    fn heap(&self) -> usize {
        match self {
            Self::Http2(http2) => size_of::<Http2>() + http2.heap(),
            other => dispatch!(other, 0, inspector => inspector.heap()),
        }
    }

    #[inline]
    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        match self {
            Self::Http => {
                let version_1 = Http1::default().heap_with(direction, bytes);
                let version_2 = match direction {
                    // The preface is a step of its own.
                    FlowDirection::Original => 0,
                    FlowDirection::Reply => Http2::default().heap_with(direction, bytes),
                };
                version_1.max(size_of::<Http2>() + version_2)
            }
            Self::Http1(http1) if direction.is_reply() && http1.offers_http2() => {
                let version_2 = size_of::<Http2>() + Http2::heap_after_upgrade();
                http1.heap_with(direction, bytes).max(version_2)
            }
            Self::Http2(http2) => size_of::<Http2>() + http2.heap_with(direction, bytes),
            other => dispatch!(other, 0, inspector => inspector.heap_with(direction, bytes)),
        }
    }

    fn shrink_to_fit(&mut self) {
        dispatch!(self, (), inspector => inspector.shrink_to_fit());
    }
}
