//! Idle timeout and eviction class of a flow.

use podgate_tables::proto;

use super::tcp::State;
use super::{Flow, Moment};

/// Flows of one class share a timeout and a rank in the eviction order. Declared in that order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Class {
    /// Inspected, and reset at both ends by podgate.
    TcpReset,
    TcpClosed,
    TcpTimeWait,
    TcpSynSent,
    TcpSynReceived,
    /// UDP without a reply, and all ICMP.
    NoReply,
    TcpHalfClosed,
    /// UDP with a reply.
    Replied,
    /// SCTP and protocols without ports.
    Other,
    /// Inspected, and its client has not sent a complete request yet.
    TcpNoRequest,
    TcpEstablished,
}

/// Idle timeouts, seconds. Unless noted otherwise the values are conntrack's
/// (`Documentation/networking/nf_conntrack-sysctl.rst`).
mod timeout {
    /// How long segments in flight are replied to with resets.
    pub(super) const TCP_RESET: u64 = 1;
    /// `nf_conntrack_tcp_timeout_close`.
    pub(super) const TCP_CLOSED: u64 = 10;
    /// `nf_conntrack_tcp_timeout_time_wait`.
    pub(super) const TCP_TIME_WAIT: u64 = 120;
    /// `nf_conntrack_tcp_timeout_syn_sent`.
    pub(super) const TCP_SYN_SENT: u64 = 120;
    /// `nf_conntrack_tcp_timeout_syn_recv`.
    pub(super) const TCP_SYN_RECEIVED: u64 = 60;
    /// Four minutes (RFC 7857 §2.1, "partially open or closed"): after its client has closed its
    /// side, a server may take longer than conntrack's `…_fin_wait`.
    pub(super) const TCP_HALF_CLOSED: u64 = 240;
    /// Two hours and four minutes (RFC 5382 REQ-5), so that keepalives sent every two hours (RFC
    /// 9293 §3.8.4) keep a connection alive. With conntrack's five days, dead flows would fill the
    /// table.
    pub(super) const TCP_ESTABLISHED: u64 = 2 * 3600 + 4 * 60;
    /// `nf_conntrack_udp_timeout` and `nf_conntrack_icmp_timeout`.
    pub(super) const NO_REPLY: u64 = 30;
    /// `nf_conntrack_udp_timeout_stream`, also the minimum of RFC 4787 REQ-5.
    pub(super) const REPLIED: u64 = 120;
    /// `nf_conntrack_generic_timeout`.
    pub(super) const OTHER: u64 = 600;
}

/// Idle time after which a flow that may still be in use can be evicted, seconds.
const EVICTABLE_AFTER: u64 = 10;

/// The same for an inspected connection without a request, seconds: longer than a first request
/// usually takes.
const NO_REQUEST_EVICTABLE_AFTER: u64 = 2;

/// Expiry checks of a flow per timeout.
const CHECKS: u32 = 4;

impl Class {
    pub(super) const ALL: [Self; 11] = [
        Self::TcpReset,
        Self::TcpClosed,
        Self::TcpTimeWait,
        Self::TcpSynSent,
        Self::TcpSynReceived,
        Self::NoReply,
        Self::TcpHalfClosed,
        Self::Replied,
        Self::Other,
        Self::TcpNoRequest,
        Self::TcpEstablished,
    ];

    #[inline]
    pub(super) fn of(flow: &Flow) -> Self {
        match flow.protocol() {
            proto::TCP => match flow.tcp {
                State::SynSent => Self::TcpSynSent,
                // Without a reply there may be no such connection. A translation's state follows
                // from its opener's segments alone.
                State::Established | State::HalfClosed(_)
                    if (flow.picked_up() || flow.is_translation()) && !flow.is_answered() =>
                {
                    Self::TcpSynSent
                }
                State::SynReceived => Self::TcpSynReceived,
                State::Established if flow.inspector().is_some() && !flow.requested() => {
                    Self::TcpNoRequest
                }
                State::Established => Self::TcpEstablished,
                State::HalfClosed(_) => Self::TcpHalfClosed,
                State::TimeWait => Self::TcpTimeWait,
                State::Closed if flow.inspector().is_some() => Self::TcpReset,
                State::Reset(_) | State::Closed => Self::TcpClosed,
            },
            proto::UDP if flow.is_answered() => Self::Replied,
            proto::UDP | proto::ICMP | proto::ICMPV6 => Self::NoReply,
            _ => Self::Other,
        }
    }

    /// Idle timeout, in units of [`Moment::since`].
    #[inline]
    pub(super) const fn timeout(self) -> u32 {
        let seconds = match self {
            Self::TcpReset => timeout::TCP_RESET,
            Self::TcpClosed => timeout::TCP_CLOSED,
            Self::TcpTimeWait => timeout::TCP_TIME_WAIT,
            Self::TcpSynSent => timeout::TCP_SYN_SENT,
            Self::TcpSynReceived => timeout::TCP_SYN_RECEIVED,
            Self::NoReply => timeout::NO_REPLY,
            Self::TcpHalfClosed => timeout::TCP_HALF_CLOSED,
            Self::Replied => timeout::REPLIED,
            Self::Other => timeout::OTHER,
            Self::TcpNoRequest | Self::TcpEstablished => timeout::TCP_ESTABLISHED,
        };
        Moment::span(seconds)
    }

    /// Time between two expiry checks of a flow, in the same units.
    pub(super) const fn check_interval(self) -> u32 {
        self.timeout() / CHECKS
    }

    /// Idle time after which a flow can be evicted, in the same units; `None` if it can't.
    #[inline]
    pub(super) const fn evictable_after(self) -> Option<u32> {
        match self {
            Self::TcpReset
            | Self::TcpClosed
            | Self::TcpTimeWait
            | Self::TcpSynSent
            | Self::TcpSynReceived
            | Self::NoReply => Some(0),
            Self::TcpHalfClosed | Self::Replied | Self::Other => {
                Some(Moment::span(EVICTABLE_AFTER))
            }
            Self::TcpNoRequest => Some(Moment::span(NO_REQUEST_EVICTABLE_AFTER)),
            Self::TcpEstablished => None,
        }
    }
}
