//! What kind of silence a flow may keep: its timeout, and whether it yields to a new flow when the
//! table is full.

use podgate_tables::proto;

use super::tcp::State;
use super::{Flow, Moment};

/// Flows of one class share a timeout and a place in the order of eviction. Declared in that order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Class {
    /// Inspected, and reset at both ends by podgate.
    TcpReset,
    TcpClosed,
    TcpTimeWait,
    TcpSynSent,
    TcpSynReceived,
    /// UDP that was not answered yet, and all ICMP.
    Unanswered,
    TcpHalfClosed,
    /// UDP that was answered.
    Answered,
    /// SCTP and what has no ports.
    Other,
    /// Inspected, and its client has not sent a whole request yet.
    TcpNoRequest,
    TcpEstablished,
}

/// Seconds without a packet after which a flow is forgotten. Unless said otherwise the values are
/// conntrack's (`Documentation/networking/nf_conntrack-sysctl.rst`).
mod timeout {
    /// What the ends still have under way is answered by resets for so long.
    pub(super) const TCP_RESET: u64 = 1;
    /// `nf_conntrack_tcp_timeout_close`.
    pub(super) const TCP_CLOSED: u64 = 10;
    /// `nf_conntrack_tcp_timeout_time_wait`.
    pub(super) const TCP_TIME_WAIT: u64 = 120;
    /// `nf_conntrack_tcp_timeout_syn_sent`.
    pub(super) const TCP_SYN_SENT: u64 = 120;
    /// `nf_conntrack_tcp_timeout_syn_recv`.
    pub(super) const TCP_SYN_RECEIVED: u64 = 60;
    /// Four minutes (RFC 7857 §2.1, "partially open or closed"): a server may think for longer
    /// than conntrack's `…_fin_wait` after its client has closed its side.
    pub(super) const TCP_HALF_CLOSED: u64 = 240;
    /// Two hours and four minutes (RFC 5382 REQ-5), so that keepalives sent every two hours (RFC
    /// 9293 §3.8.4) hold a connection. Conntrack's five days would let dead flows fill the table.
    pub(super) const TCP_ESTABLISHED: u64 = 2 * 3600 + 4 * 60;
    /// `nf_conntrack_udp_timeout` and `nf_conntrack_icmp_timeout`.
    pub(super) const UNANSWERED: u64 = 30;
    /// `nf_conntrack_udp_timeout_stream`, also the least that RFC 4787 REQ-5 allows.
    pub(super) const ANSWERED: u64 = 120;
    /// `nf_conntrack_generic_timeout`.
    pub(super) const OTHER: u64 = 600;
}

/// Seconds of silence after which a flow that may still be in use yields to a new one.
const IDLE: u64 = 10;

/// The same of an inspected connection without a request: longer than a first request takes as a
/// rule.
const NO_REQUEST: u64 = 2;

/// How often a flow is looked at in the time of its timeout.
const LOOKS: u32 = 4;

impl Class {
    pub(super) const ALL: [Self; 11] = [
        Self::TcpReset,
        Self::TcpClosed,
        Self::TcpTimeWait,
        Self::TcpSynSent,
        Self::TcpSynReceived,
        Self::Unanswered,
        Self::TcpHalfClosed,
        Self::Answered,
        Self::Other,
        Self::TcpNoRequest,
        Self::TcpEstablished,
    ];

    #[inline]
    pub(super) fn of(flow: &Flow) -> Self {
        match flow.protocol {
            proto::TCP => match flow.tcp {
                State::SynSent => Self::TcpSynSent,
                // Anybody can send a segment to nowhere.
                State::Established if flow.picked_up() && flow.packets[1] == 0 => Self::TcpSynSent,
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
            proto::UDP if flow.packets[1] > 0 => Self::Answered,
            proto::UDP | proto::ICMP | proto::ICMPV6 => Self::Unanswered,
            _ => Self::Other,
        }
    }

    /// Time without a packet after which a flow is forgotten, in the unit of [`Moment::since`].
    #[inline]
    pub(super) const fn timeout(self) -> u32 {
        let seconds = match self {
            Self::TcpReset => timeout::TCP_RESET,
            Self::TcpClosed => timeout::TCP_CLOSED,
            Self::TcpTimeWait => timeout::TCP_TIME_WAIT,
            Self::TcpSynSent => timeout::TCP_SYN_SENT,
            Self::TcpSynReceived => timeout::TCP_SYN_RECEIVED,
            Self::Unanswered => timeout::UNANSWERED,
            Self::TcpHalfClosed => timeout::TCP_HALF_CLOSED,
            Self::Answered => timeout::ANSWERED,
            Self::Other => timeout::OTHER,
            Self::TcpNoRequest | Self::TcpEstablished => timeout::TCP_ESTABLISHED,
        };
        Moment::span(seconds)
    }

    /// Time between two looks at a flow, in the same unit.
    pub(super) const fn look_interval(self) -> u32 {
        self.timeout() / LOOKS
    }

    /// The same after which a flow yields to a new one if the table is full; `None` for never
    /// before its timeout.
    #[inline]
    pub(super) const fn yields_after(self) -> Option<u32> {
        match self {
            Self::TcpReset
            | Self::TcpClosed
            | Self::TcpTimeWait
            | Self::TcpSynSent
            | Self::TcpSynReceived
            | Self::Unanswered => Some(0),
            Self::TcpHalfClosed | Self::Answered | Self::Other => Some(Moment::span(IDLE)),
            Self::TcpNoRequest => Some(Moment::span(NO_REQUEST)),
            Self::TcpEstablished => None,
        }
    }
}
