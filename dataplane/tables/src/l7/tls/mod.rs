//! The plaintext start of a TLS connection (RFC 8446, RFC 5246), as far as server names are
//! concerned: the client's ClientHello, and whether the server's first message asks for another.
//!
//! # Strictness
//! What two TLS libraries could read in two ways is rejected: a ClientHello that does not end with
//! its record, handshake records with other records between them or without content, several
//! `server_name` extensions, a list of names that does not have exactly one entry. A name is a host
//! name of ASCII letters, digits, hyphens and underscores, in any case, without a trailing dot, and
//! no IP address (RFC 6066 §3); see [`is_server_name`].
//!
//! With Encrypted ClientHello, the name is that of the outer hello, which is the one on the wire.

mod hello;
mod record;

use std::borrow::Cow;

pub use hello::{NameError, is_server_name};
pub use record::{ContentType, RECORD_HEADER, Record};

use crate::drop_reason::DropReason;
use record::Fragments;

/// Longest ClientHello, bytes: several times what clients send, key shares of post-quantum
/// algorithms included.
pub const HELLO_MAX: usize = 16 * 1024;
/// Longest ClientHello with the headers of the records that it is cut into, bytes.
pub const HELLO_RECORDS_MAX: usize = 2 * HELLO_MAX;

/// Type and length in front of a handshake message, bytes (RFC 8446 §4).
const HANDSHAKE_HEADER: usize = 4;
/// Handshake types (RFC 8446 §B.3).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Bytes of a ServerHello up to the end of its random.
const SERVER_RANDOM_END: usize = HANDSHAKE_HEADER + 2 + 32;
/// The random of a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Why the server name of a stream can't be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// It is no TLS, or SSL 2.0.
    NotTls,
    /// It is malformed or ambiguous.
    Malformed,
    /// The ClientHello exceeds [`HELLO_MAX`] or [`HELLO_RECORDS_MAX`].
    TooLong,
}

impl Invalid {
    /// The reason to drop such a stream.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::NotTls => DropReason::L7Unsupported,
            Self::Malformed => DropReason::L7Malformed,
            Self::TooLong => DropReason::L7Limit,
        }
    }
}

/// A complete ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// Bytes of the stream that it takes up, record headers included.
    pub len: usize,
    /// Its body, put together if it spans several records.
    body: Cow<'a, [u8]>,
}

impl ClientHello<'_> {
    /// The server name; `None` if the client names none.
    ///
    /// # Errors
    /// [`NameError`] if the ClientHello is malformed, or if it is ambiguous which server it names.
    pub fn server_name(&self) -> Result<Option<&[u8]>, NameError> {
        hello::server_name(&self.body)
    }
}

/// Reads the ClientHello at the front of a client's stream; `None` if more bytes are needed.
///
/// # Errors
/// [`Invalid`], as soon as it is known.
pub fn client_hello(stream: &[u8]) -> Result<Option<ClientHello<'_>>, Invalid> {
    let Some((len, message)) = whole_message(stream, CLIENT_HELLO)? else { return Ok(None) };
    let body = match message {
        Cow::Borrowed(message) => Cow::Borrowed(&message[HANDSHAKE_HEADER..]),
        Cow::Owned(message) => Cow::Owned(message[HANDSHAKE_HEADER..].to_vec()),
    };
    Ok(Some(ClientHello { len, body }))
}

/// The message at the front of a server's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerMessage {
    /// A ServerHello: the client's next messages follow the handshake that it chose.
    Hello,
    /// A HelloRetryRequest (RFC 8446 §4.1.4): the client sends another ClientHello.
    RetryRequest {
        /// Bytes of the stream that it takes up, record headers included.
        len: usize,
    },
    /// A record that is no handshake message: an alert or a change of cipher specification.
    Other(Record),
}

/// Reads as much of the message at the front of a server's stream as shows which message it is;
/// `None` if more bytes are needed.
///
/// # Errors
/// [`Invalid`], as soon as it is known.
pub fn server_message(stream: &[u8]) -> Result<Option<ServerMessage>, Invalid> {
    let Some(record) = Record::read(stream)? else { return Ok(None) };
    match record.content {
        ContentType::Handshake => {}
        ContentType::Alert | ContentType::ChangeCipherSpec => {
            return Ok(Some(ServerMessage::Other(record)));
        }
        ContentType::ApplicationData => return Err(Invalid::Malformed),
    }
    let mut start = [0; SERVER_RANDOM_END];
    let mut filled = 0;
    for fragment in Fragments::new(stream) {
        let bytes = fragment?.bytes;
        let taken = bytes.len().min(SERVER_RANDOM_END - filled);
        start[filled..filled + taken].copy_from_slice(&bytes[..taken]);
        filled += taken;
        if filled > 0 && start[0] != SERVER_HELLO {
            return Err(Invalid::Malformed);
        }
        if filled == SERVER_RANDOM_END {
            break;
        }
    }
    if filled < SERVER_RANDOM_END {
        return Ok(None);
    }
    if start[SERVER_RANDOM_END - RETRY_RANDOM.len()..] != RETRY_RANDOM {
        return Ok(Some(ServerMessage::Hello));
    }
    let message = whole_message(stream, SERVER_HELLO)?;
    Ok(message.map(|(len, _)| ServerMessage::RetryRequest { len }))
}

/// The bytes of the stream that a handshake message takes up, and its content.
type Message<'a> = (usize, Cow<'a, [u8]>);

/// The handshake message of this type at the front of a stream, which must end with its record, and
/// the bytes of the stream that it takes up; `None` if more bytes are needed.
fn whole_message(stream: &[u8], wanted: u8) -> Result<Option<Message<'_>>, Invalid> {
    let mut header = [0; HANDSHAKE_HEADER];
    // Bytes of the message in the records so far, which may not have arrived completely.
    let mut announced = 0;
    let mut filled = 0;
    for fragment in Fragments::new(stream) {
        let fragment = fragment?;
        let taken = fragment.bytes.len().min(HANDSHAKE_HEADER - filled);
        header[filled..filled + taken].copy_from_slice(&fragment.bytes[..taken]);
        filled += taken;
        announced += fragment.len;
        if filled > 0 && header[0] != wanted {
            return Err(Invalid::Malformed);
        }
        if filled == HANDSHAKE_HEADER {
            let [_, len @ ..] = header;
            let len = HANDSHAKE_HEADER + u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize;
            if len > HELLO_MAX {
                return Err(Invalid::TooLong);
            }
            if announced > len {
                return Err(Invalid::Malformed);
            }
            if announced == len && fragment.is_whole() {
                return Ok(Some((fragment.end, contiguous(stream, fragment.end, len))));
            }
        }
    }
    match stream.len() > HELLO_RECORDS_MAX {
        true => Err(Invalid::TooLong),
        false => Ok(None),
    }
}

/// The message of `len` bytes in the records up to `end`.
fn contiguous(stream: &[u8], end: usize, len: usize) -> Cow<'_, [u8]> {
    if end == RECORD_HEADER + len {
        return Cow::Borrowed(&stream[RECORD_HEADER..end]);
    }
    let mut message = Vec::with_capacity(len);
    for fragment in Fragments::new(&stream[..end]).flatten() {
        message.extend_from_slice(fragment.bytes);
    }
    Cow::Owned(message)
}

#[cfg(test)]
mod tests;
