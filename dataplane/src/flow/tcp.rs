//! TCP state tracking by flags: enough for timeouts, eviction, and to drop segments that can't
//! belong to the connection.
//!
//! Sequence numbers are not tracked here: the senders of plain flows are known by their links. A
//! reset that the connection survives, because it was forged or outside of the window (RFC 5961
//! §3.2: the receiver replies with a challenge ACK and continues), is reverted by the next segment
//! of its alleged sender. An attacker outside of the node who can spoof a host's address and knows
//! the ports can still end a flow with a reset and a SYN. For inspected flows the editor checks
//! sequence numbers, and a SYN that reopens the flow has no effect while the server still has the
//! old connection: before the server's SYN-ACK, only a SYN or an RST of the client is valid.

use podgate_tables::tcp_flags::{ACK, FIN, RST, SYN};
use podgate_tables::tuple::FlowDirection;

/// State of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// The opener's SYN was seen.
    SynSent,
    /// The other end's SYN was seen too, with ACK, or without in a simultaneous open (RFC 9293
    /// §3.5).
    SynReceived,
    /// The handshake is complete, or the flow was picked up in mid-stream.
    Established,
    /// The sender of this direction has sent its FIN; the other end may still send.
    HalfClosed(FlowDirection),
    /// Both FINs were seen.
    TimeWait,
    /// A reset was seen after the handshake, apparently from the sender of this direction.
    Reset(FlowDirection),
    /// The handshake ended in a reset, or both ends have sent one.
    Closed,
}

/// Whether a segment with these flags is the first of a connection.
#[must_use]
#[inline]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether a segment with these flags opens a new connection on the tuple of a closed one. The flow
/// must then be decided again, in the direction of this segment.
#[must_use]
#[inline]
pub const fn reopens(state: State, flags: u8) -> bool {
    matches!(state, State::TimeWait | State::Reset(_) | State::Closed) && opens(flags)
}

/// The state after a segment with these flags; `None` if the segment is invalid in this state.
/// [`reopens`] must be checked before.
///
/// The transitions are conntrack's (`net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_conntracks`),
/// with its three states between the first FIN and the end merged into one.
#[must_use]
#[inline]
pub const fn advance(state: State, direction: FlowDirection, flags: u8) -> Option<State> {
    if flags & RST != 0 {
        return Some(after_reset(state, direction));
    }
    match state {
        State::SynSent => in_syn_sent(direction, flags),
        State::SynReceived => Some(in_syn_received(direction, flags)),
        State::Established if flags & FIN != 0 => Some(State::HalfClosed(direction)),
        State::HalfClosed(first) if flags & FIN != 0 && direction as u8 != first as u8 => {
            Some(State::TimeWait)
        }
        // An end that has reset the connection would send only resets.
        State::Reset(by) if flags & (SYN | ACK) == ACK && direction as u8 == by as u8 => {
            Some(if flags & FIN != 0 { State::HalfClosed(by) } else { State::Established })
        }
        State::Established
        | State::HalfClosed(_)
        | State::TimeWait
        | State::Reset(_)
        | State::Closed => Some(state),
    }
}

/// The state after a segment of the opener with these flags, where only the opener's segments are
/// seen: what the other end has sent is not known, so no segment is invalid.
#[must_use]
pub const fn advance_alone(state: State, flags: u8) -> State {
    let by = FlowDirection::Original;
    match state {
        _ if flags & RST != 0 => State::Reset(by),
        _ if flags & FIN != 0 => State::HalfClosed(by),
        State::SynSent | State::SynReceived | State::Reset(_) if flags & (SYN | ACK) == ACK => {
            State::Established
        }
        _ => state,
    }
}

const fn after_reset(state: State, direction: FlowDirection) -> State {
    match state {
        State::Established | State::HalfClosed(_) => State::Reset(direction),
        State::Reset(by) if direction as u8 == by as u8 => state,
        _ => State::Closed,
    }
}

const fn in_syn_sent(direction: FlowDirection, flags: u8) -> Option<State> {
    match (direction, flags & (SYN | ACK | FIN)) {
        (FlowDirection::Original, SYN) => Some(State::SynSent),
        (FlowDirection::Reply, SYN) => Some(State::SynReceived),
        (FlowDirection::Reply, flags) if flags == SYN | ACK => Some(State::SynReceived),
        // A challenge ACK (RFC 5961 §4): the other end still has an older connection.
        (FlowDirection::Reply, ACK) => Some(State::SynSent),
        _ => None,
    }
}

const fn in_syn_received(direction: FlowDirection, flags: u8) -> State {
    match (direction, flags & (SYN | ACK | FIN)) {
        (_, flags) if flags & FIN != 0 => State::HalfClosed(direction),
        (FlowDirection::Original, ACK) => State::Established,
        _ => State::SynReceived,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FlowDirection::{Original, Reply};
    use proptest::prelude::*;

    const SYN_ACK: u8 = SYN | ACK;
    const FIN_ACK: u8 = FIN | ACK;

    /// The state after a SYN of the opener and then `segments`.
    fn after(segments: &[(FlowDirection, u8)]) -> Option<State> {
        segments.iter().try_fold(State::SynSent, |state, (direction, flags)| {
            advance(state, *direction, *flags)
        })
    }

    const HANDSHAKE: [(FlowDirection, u8); 2] = [(Reply, SYN_ACK), (Original, ACK)];

    fn established_then(segments: &[(FlowDirection, u8)]) -> Option<State> {
        after(&[&HANDSHAKE[..], segments].concat())
    }

    #[test]
    fn a_handshake_establishes() {
        assert_eq!(after(&HANDSHAKE[..1]), Some(State::SynReceived));
        assert_eq!(after(&HANDSHAKE), Some(State::Established));
        assert_eq!(established_then(&[(Reply, ACK), (Original, ACK)]), Some(State::Established));
    }

    #[test]
    fn retransmitted_handshakes_change_nothing() {
        assert_eq!(after(&[(Original, SYN)]), Some(State::SynSent));
        assert_eq!(after(&[(Reply, SYN_ACK), (Original, SYN)]), Some(State::SynReceived));
        assert_eq!(after(&[(Reply, SYN_ACK), (Reply, SYN_ACK)]), Some(State::SynReceived));
        assert_eq!(established_then(&[(Reply, SYN_ACK)]), Some(State::Established));
    }

    #[test]
    fn a_simultaneous_open_establishes() {
        let crossing = [(Reply, SYN), (Original, SYN_ACK), (Reply, SYN_ACK), (Original, ACK)];
        assert_eq!(after(&crossing), Some(State::Established));
    }

    #[test]
    fn either_end_may_close_first_and_the_other_later() {
        for first in [Original, Reply] {
            let half = established_then(&[(first, FIN_ACK), (first.reverse(), ACK)]);
            assert_eq!(half, Some(State::HalfClosed(first)));
            let again = established_then(&[(first, FIN_ACK), (first, FIN_ACK)]);
            assert_eq!(again, Some(State::HalfClosed(first)), "retransmitted");
            let closed = [(first, FIN_ACK), (first.reverse(), FIN_ACK), (first, ACK)];
            assert_eq!(established_then(&closed), Some(State::TimeWait));
        }
    }

    #[test]
    fn a_fin_in_the_handshake_half_closes() {
        assert_eq!(
            after(&[(Reply, SYN_ACK), (Original, FIN_ACK)]),
            Some(State::HalfClosed(Original))
        );
    }

    #[test]
    fn a_challenge_ack_passes_and_its_reset_closes() {
        assert_eq!(after(&[(Reply, ACK)]), Some(State::SynSent));
        assert_eq!(after(&[(Reply, ACK), (Original, RST)]), Some(State::Closed));
    }

    #[test]
    fn a_reset_is_reverted_by_its_senders_next_segment() {
        for by in [Original, Reply] {
            let reset = established_then(&[(by, RST)]);
            assert_eq!(reset, Some(State::Reset(by)));
            // The other end's challenge ACK (RFC 5961 §3.2), and a segment in flight.
            let challenged = [(by, RST), (by.reverse(), ACK), (by.reverse(), ACK)];
            assert_eq!(established_then(&challenged), Some(State::Reset(by)));
            let continued = [&challenged[..], &[(by, ACK)]].concat();
            assert_eq!(established_then(&continued), Some(State::Established));
            let repeated = [&challenged[..], &[(by, RST)]].concat();
            assert_eq!(established_then(&repeated), Some(State::Reset(by)));
            let by_both = [(by, RST), (by.reverse(), RST), (by, ACK)];
            assert_eq!(established_then(&by_both), Some(State::Closed));
        }
    }

    #[test]
    fn a_rejected_connection_stays_closed() {
        let reset = [(Reply, RST | ACK), (Reply, ACK), (Original, ACK)];
        assert_eq!(after(&reset), Some(State::Closed));
    }

    #[test]
    fn a_syn_reopens_only_closed_connections() {
        for state in [State::TimeWait, State::Closed, State::Reset(Original)] {
            assert!(reopens(state, SYN));
            for flags in [SYN_ACK, ACK, FIN_ACK, RST] {
                assert!(!reopens(state, flags));
            }
        }
        for state in [
            State::SynSent,
            State::SynReceived,
            State::Established,
            State::HalfClosed(Original),
            State::HalfClosed(Reply),
        ] {
            assert!(!reopens(state, SYN), "{state:?}");
        }
    }

    fn any_segments() -> impl Strategy<Value = Vec<(FlowDirection, u8)>> {
        let flags = prop::sample::select(&[SYN, SYN_ACK, ACK, FIN_ACK, RST, RST | ACK][..]);
        let direction = prop::sample::select(&[Original, Reply][..]);
        proptest::collection::vec((direction, flags), 0..12)
    }

    proptest! {
        #[test]
        fn a_reset_closes_from_anywhere(segments in any_segments(), by_opener in any::<bool>()) {
            let Some(state) = after(&segments) else { return Ok(()) };
            let direction = if by_opener { Original } else { Reply };
            let state = advance(state, direction, RST);
            prop_assert!(matches!(state, Some(State::Closed | State::Reset(_))));
        }

        #[test]
        fn the_opener_sends_no_data_before_a_syn_of_the_other_end(
            challenges in proptest::collection::vec(
                prop::sample::select(&[(Original, SYN), (Reply, ACK)][..]), 0..8
            ),
            data in prop::sample::select(&[ACK, FIN_ACK, SYN_ACK][..]),
        ) {
            let state = after(&challenges).unwrap();
            prop_assert_eq!(advance(state, Original, data), None);
        }

        #[test]
        fn a_closed_connection_stays_closed(segments in any_segments()) {
            for over in [State::TimeWait, State::Closed] {
                for state in segments.iter().scan(over, |state, (direction, flags)| {
                    *state = advance(*state, *direction, *flags)?;
                    Some(*state)
                }) {
                    prop_assert!(matches!(state, State::TimeWait | State::Closed));
                }
            }
        }
    }
}
