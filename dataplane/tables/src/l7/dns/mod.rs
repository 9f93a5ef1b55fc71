//! DNS messages (RFC 1035 §4), read strictly: a message that two parsers could read in two ways is
//! malformed.
//!
//! A message is malformed if it ends early or has bytes after its last record, or if one of its
//! names has a reserved label type, more than 255 bytes, or a compression pointer that does not
//! point to a place between the header and the name itself. So no name loops.
//!
//! A [`Query`] has exactly one question, and no records but additional ones. A [`Response`] has at
//! most one question.

mod name;
mod query;
mod records;
mod response;

pub use name::DnsName;
pub use query::{Edns, Query, QueryError, decide};
pub use response::{Addresses, Response};

/// Longest message over UDP or TCP, bytes (RFC 1035 §4.2.2).
pub const MESSAGE_MAX: usize = 65_535;
/// Length of a header, bytes.
pub const HEADER_LEN: usize = 12;

/// Response codes (RFC 1035 §4.1.1).
pub mod rcode {
    /// No error.
    pub const NO_ERROR: u8 = 0;
    /// The query was malformed.
    pub const FORMAT_ERROR: u8 = 1;
    /// The name doesn't exist.
    pub const NAME_ERROR: u8 = 3;
    /// The kind of query is not supported.
    pub const NOT_IMPLEMENTED: u8 = 4;
    /// Denied by policy.
    pub const REFUSED: u8 = 5;
}

/// Types of records (IANA "Resource Record (RR) TYPEs").
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Another name of the owner.
    pub const CNAME: u16 = 5;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Servers of a service (RFC 2782).
    pub const SRV: u16 = 33;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// Service binding for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
}

/// The Internet class.
pub const CLASS_IN: u16 = 1;

/// A message that is not well formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The header of a message (RFC 1035 §4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Identifier that a response shares with its query.
    pub id: u16,
    flags: u16,
    /// Numbers of questions, answers, authority and additional records.
    counts: [u16; 4],
}

impl Header {
    /// The first bytes of a message, or `None` if it is shorter than a header.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<HEADER_LEN>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// Whether it is a response.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Kind of query; zero is a standard query.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        (self.flags >> 11 & 0xf) as u8
    }

    /// Whether the message was truncated.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// Whether the client asks the server to query other ones.
    #[must_use]
    pub const fn recursion_desired(&self) -> bool {
        self.flags & 0x0100 != 0
    }

    /// Whether the client disables the checking of signatures (RFC 4035 §3.2.2).
    #[must_use]
    pub const fn checking_disabled(&self) -> bool {
        self.flags & 0x0010 != 0
    }

    /// Response code, without EDNS's upper bits ([`rcode`]).
    #[must_use]
    pub const fn rcode(&self) -> u8 {
        (self.flags & 0xf) as u8
    }
}

/// A question (RFC 1035 §4.1.2).
#[derive(Clone, Debug)]
pub struct Question {
    /// The name that is asked for.
    pub name: DnsName,
    /// Type of the records that are asked for ([`kind`]), or a type of queries only.
    pub kind: u16,
    /// Class.
    pub class: u16,
    /// Where it ends in the message.
    pub end: usize,
}

impl Question {
    /// The question of a message with one, which follows the header.
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let (name, at) = DnsName::read(message, HEADER_LEN)?;
        let (kind, class) = (word(message, at)?, word(message, at + 2)?);
        Ok(Self { name, kind, class, end: at + 4 })
    }
}

fn word(message: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = message.get(at..at + 2).ok_or(Malformed)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests;
