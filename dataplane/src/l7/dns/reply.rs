//! Responses of our own, to queries that are denied.

use podgate_tables::l7::dns::{HEADER_LEN, Header, Query, kind};

/// Longest question on the wire, bytes: a name, type and class.
const QUESTION_MAX: usize = 255 + 4;
/// OPT record without options (RFC 6891 §6.1.2).
const OPT_LEN: usize = 11;
/// Cookie option (RFC 7873 §4): header, and 40 bytes at most.
const COOKIE_MAX: usize = 4 + 40;
/// Extended error option (RFC 8914 §2) without text.
const ERROR_LEN: usize = 6;
/// Longest reply, bytes.
pub const REPLY_MAX: usize = HEADER_LEN + QUESTION_MAX + OPT_LEN + COOKIE_MAX + ERROR_LEN;

/// Largest datagram that we advertise to accept (DNS flag day 2020).
const PAYLOAD_SIZE: u16 = 1232;
/// EDNS options.
const OPTION_COOKIE: u16 = 10;
const OPTION_ERROR: u16 = 15;
/// "Prohibited": the client is not authorized (RFC 8914 §4.19).
const PROHIBITED: u16 = 18;

/// Our response.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Length of the message.
    len: u16,
    /// Its length as TCP has it in front (RFC 1035 §4.2.2), and the message.
    bytes: [u8; 2 + REPLY_MAX],
}

impl Default for Reply {
    fn default() -> Self {
        Self { len: 0, bytes: [0; 2 + REPLY_MAX] }
    }
}

impl Reply {
    /// A response without a question, for a query whose question can't be read.
    #[must_use]
    pub fn bare(header: &Header, rcode: u8) -> Self {
        Self::start(header, rcode, [0, 0]).finish()
    }

    /// A response to a query with its question, and with EDNS if the query has it: the cookie, so
    /// that the client takes the response for one to its query, and why it was denied.
    #[must_use]
    pub fn new(query: &Query, message: &[u8], rcode: u8) -> Self {
        let mut reply = Self::start(&query.header, rcode, [1, u16::from(query.edns.is_some())]);
        reply.push(&message[HEADER_LEN..query.question.end]);
        let Some(edns) = &query.edns else { return reply.finish() };
        let cookie = edns.cookie.clone().map(|cookie| &message[cookie]);
        let options = cookie.map_or(0, |cookie| 4 + cookie.len()) + ERROR_LEN;
        reply.push(&[0]);
        reply.push_words(&[kind::OPT, PAYLOAD_SIZE, 0]);
        reply.push_words(&[u16::from(edns.dnssec_ok) << 15, options as u16]);
        if let Some(cookie) = cookie {
            reply.push_words(&[OPTION_COOKIE, cookie.len() as u16]);
            reply.push(cookie);
        }
        reply.push_words(&[OPTION_ERROR, 2, PROHIBITED]);
        reply.finish()
    }

    /// A header with these numbers of questions and additional records.
    fn start(header: &Header, rcode: u8, [questions, additionals]: [u16; 2]) -> Self {
        let mut reply = Self::default();
        let flags = 0x8000
            | u16::from(header.opcode()) << 11
            | u16::from(header.recursion_desired()) << 8
            // Recursion is available: a client must not take us for a lame server.
            | 0x0080
            | u16::from(header.checking_disabled()) << 4
            | u16::from(rcode);
        reply.push_words(&[header.id, flags, questions, 0, 0, additionals]);
        reply
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = 2 + usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u16;
    }

    fn push_words(&mut self, words: &[u16]) {
        for word in words {
            self.push(&word.to_be_bytes());
        }
    }

    fn finish(mut self) -> Self {
        self.bytes[..2].copy_from_slice(&self.len.to_be_bytes());
        self
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.with_length()[2..]
    }

    /// The message with its length in front, as TCP has it.
    #[must_use]
    pub fn with_length(&self) -> &[u8] {
        &self.bytes[..2 + usize::from(self.len)]
    }
}
