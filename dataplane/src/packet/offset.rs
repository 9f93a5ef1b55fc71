//! Offsets of header fields, bytes from the start of their header.

/// IPv4 (RFC 791 §3.1).
pub mod ipv4 {
    /// Version, and header length in words.
    pub const VERSION_IHL: usize = 0;
    /// DSCP and ECN (RFC 3168 §5).
    pub const TOS: usize = 1;
    /// Length of header and payload.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags ("don't fragment", "more fragments") and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// TTL.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTOCOL: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
    /// "Don't fragment", in the byte at [`FRAGMENT`].
    pub const DONT_FRAGMENT: u8 = 0x40;
    /// Length of a header without options.
    pub const HEADER_LEN: usize = 20;
}

/// IPv6 (RFC 8200 §3).
pub mod ipv6 {
    /// Length of what follows this header.
    pub const PAYLOAD_LEN: usize = 4;
    /// Next header.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
    /// Length of a header without extension headers.
    pub const HEADER_LEN: usize = 40;
    /// Length of a fragment header (RFC 8200 §4.5).
    pub const FRAGMENT_HEADER_LEN: usize = 8;
}

/// TCP (RFC 9293 §3.1).
pub mod tcp {
    /// Sequence number.
    pub const SEQ: usize = 4;
    /// Acknowledgement number.
    pub const ACK: usize = 8;
    /// Header length in words, in the high half of the byte.
    pub const DATA_OFFSET: usize = 12;
    /// Flags, see [`tcp_flags`](crate::packet::tcp_flags).
    pub const FLAGS: usize = 13;
    /// Window.
    pub const WINDOW: usize = 14;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
    /// Urgent pointer.
    pub const URGENT: usize = 18;
    /// Length of a header without options.
    pub const HEADER_LEN: usize = 20;
    /// Maximum length of the options.
    pub const OPTIONS_MAX: usize = 40;
}

/// UDP (RFC 768).
pub mod udp {
    /// Length of header and payload.
    pub const LEN: usize = 4;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}

/// SCTP's common header (RFC 9260 §3.1).
pub mod sctp {
    /// CRC32c checksum, 4 bytes.
    pub const CHECKSUM: usize = 8;
}
