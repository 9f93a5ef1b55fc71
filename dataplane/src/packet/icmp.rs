//! ICMP message types: queries, replies and errors.

use podgate_tables::proto;

/// Role of a message in its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A query with an identifier, which its reply echoes.
    Query,
    /// The reply to a query; opens no flow.
    Reply {
        /// Type of the query.
        query: u8,
    },
    /// An error; belongs to the flow of the packet that it quotes.
    Error,
    /// Any other message: it has no reply and quotes no packet.
    Other,
}

/// The role of a message of `protocol` (ICMP or ICMPv6) with type `kind`.
///
/// The queries are echo and timestamp; the others of RFC 792 and RFC 950 are deprecated (RFC 6918)
/// and have [`Role::Other`]. Errors are those of `nf_conntrack_icmpv4_error`
/// (`net/netfilter/nf_conntrack_proto_icmp.c`), and every ICMPv6 type below 128 (RFC 4443 §2.1).
#[must_use]
#[inline]
pub const fn role(protocol: u8, kind: u8) -> Role {
    match (protocol, kind) {
        (proto::ICMP, 8 | 13) | (proto::ICMPV6, 128) => Role::Query,
        (proto::ICMP, 0) => Role::Reply { query: 8 },
        (proto::ICMP, 14) => Role::Reply { query: 13 },
        (proto::ICMPV6, 129) => Role::Reply { query: 128 },
        (proto::ICMP, 3 | 4 | 5 | 11 | 12) | (proto::ICMPV6, 0..128) => Role::Error,
        _ => Role::Other,
    }
}

/// Whether a message is a reply to a query.
#[must_use]
#[inline]
pub const fn is_reply(protocol: u8, kind: u8) -> bool {
    matches!(role(protocol, kind), Role::Reply { .. })
}

/// Whether a message is valid on one link only, so that no router forwards it: a redirect
/// (RFC 1122 §3.2.2.2), router discovery (RFC 1256 §5.2), or neighbour discovery (RFC 4861 §4).
#[must_use]
#[inline]
pub const fn is_link_scope(protocol: u8, kind: u8) -> bool {
    matches!((protocol, kind), (proto::ICMP, 5 | 9 | 10) | (proto::ICMPV6, 133..=137))
}

/// Source and destination "port" of a message that is not an error, from its type and identifier.
///
/// The querier's port is the identifier, the responder's is the query's type. So a reply has the
/// reversed tuple of its query, as for TCP; a flow that was allowed for one type carries no other;
/// and two hosts that ping each other with the same identifier have two flows.
#[inline]
pub(super) const fn ports(protocol: u8, kind: u8, identifier: u16) -> (u16, u16) {
    match role(protocol, kind) {
        Role::Query => (identifier, kind as u16),
        Role::Reply { query } => (query as u16, identifier),
        Role::Error | Role::Other => (0, kind as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_its_queries_ports_reversed() {
        for (protocol, query, reply) in
            [(proto::ICMP, 8, 0), (proto::ICMP, 13, 14), (proto::ICMPV6, 128, 129)]
        {
            assert_eq!(role(protocol, query), Role::Query);
            assert_eq!(role(protocol, reply), Role::Reply { query });
            let (a, b) = ports(protocol, query, 77);
            assert_eq!(ports(protocol, reply, 77), (b, a));
        }
    }

    #[test]
    fn only_queries_and_their_replies_share_ports() {
        for protocol in [proto::ICMP, proto::ICMPV6] {
            let all: Vec<_> = (0..=255).map(|kind| ports(protocol, kind, 0x4000)).collect();
            for (kind, one) in all.iter().enumerate() {
                assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "type {kind}");
            }
        }
    }

    #[test]
    fn errors_are_those_that_quote_a_packet() {
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(role(proto::ICMP, kind), Role::Error);
        }
        for kind in 1..128 {
            assert_eq!(role(proto::ICMPV6, kind), Role::Error);
        }
        assert_eq!(role(proto::ICMP, 9), Role::Other);
        assert_eq!(role(proto::ICMPV6, 135), Role::Other);
    }
}
