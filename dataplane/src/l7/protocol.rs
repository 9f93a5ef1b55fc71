//! The inspectors that a flow may have, one for each protocol of L7 rules.

use podgate_tables::l7::{L7Policy, L7Protocol};
use podgate_tables::tuple::FlowDirection;

use super::dns::{DnsContext, DnsStream};
use super::http1::Http1;
use super::inspector::{Injection, InspectCtx, Inspector, Op, Step};

/// The inspector of a flow.
#[derive(Debug)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1(Http1),
    /// DNS over TCP.
    Dns(DnsStream),
}

impl Protocol {
    /// The inspector of flows with these rules over TCP. `None` if there is none
    /// ([`L7Policy::has_inspector`]).
    #[must_use]
    pub fn for_rules(policy: &L7Policy, dns: &DnsContext) -> Option<Self> {
        match policy.protocol().ok()?? {
            L7Protocol::Http => Some(Self::default()),
            L7Protocol::Dns => Some(Self::Dns(DnsStream::new(dns))),
            L7Protocol::Kafka | L7Protocol::Tls => None,
        }
    }

    /// The protocol of the rules that the inspector applies.
    #[must_use]
    pub const fn of_rules(&self) -> L7Protocol {
        match self {
            Self::Http1(_) => L7Protocol::Http,
            Self::Dns(_) => L7Protocol::Dns,
        }
    }

    /// The ticket of the DNS answer that the flow waits for.
    #[must_use]
    pub fn awaited_answer(&self) -> Option<u64> {
        match self {
            Self::Dns(stream) => stream.awaited(),
            Self::Http1(_) => None,
        }
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Http1(Http1::default())
    }
}

/// Calls a method of the inspector that the enum has.
macro_rules! dispatch {
    ($self:ident, $inspector:ident => $call:expr) => {
        match $self {
            Protocol::Http1($inspector) => $call,
            Protocol::Dns($inspector) => $call,
        }
    };
}

impl Inspector for Protocol {
    fn restarted(&self) -> Self {
        match self {
            Self::Http1(inspector) => Self::Http1(inspector.restarted()),
            Self::Dns(inspector) => Self::Dns(inspector.restarted()),
        }
    }

    #[inline]
    fn inspect(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        dispatch!(self, inspector => inspector.inspect(cx, direction, bytes))
    }

    #[inline]
    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        dispatch!(self, inspector => inspector.ahead(direction))
    }

    fn end(&mut self, cx: &InspectCtx<'_>, direction: FlowDirection, undecided: usize) -> Step {
        dispatch!(self, inspector => inspector.end(cx, direction, undecided))
    }

    fn timed_out(&mut self) -> Step {
        dispatch!(self, inspector => inspector.timed_out())
    }

    #[inline]
    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        dispatch!(self, inspector => inspector.injection(direction))
    }

    fn injected(&mut self, direction: FlowDirection) {
        dispatch!(self, inspector => inspector.injected(direction));
    }

    #[inline]
    fn heap(&self) -> usize {
        dispatch!(self, inspector => inspector.heap())
    }

    #[inline]
    fn heap_with(&self, direction: FlowDirection, bytes: usize) -> usize {
        dispatch!(self, inspector => inspector.heap_with(direction, bytes))
    }
}
