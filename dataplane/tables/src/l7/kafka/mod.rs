//! Kafka's wire protocol (<https://kafka.apache.org/protocol>), as far as rules need it: which
//! topics a request names, and how a broker denies it.
//!
//! [`schema`] has the layout of every API and version that clients of Kafka 4 and before send,
//! apart from those of share groups. Topic names within other data are not read: subscriptions and
//! assignments in the metadata of JoinGroup and SyncGroup, positions at which a describe request
//! resumes, topics that a fetch session forgets.

mod answer;
mod names;
pub mod schema;
pub mod versions;
mod walk;

pub use answer::{ANSWER_HEAP, answer, error_code, session_ended};
pub use names::{FetchSession, RequestNames, TooMany, TopicRef};
pub use walk::{Found, Walker};

use schema::Api;

/// Length of the length in front of a frame, bytes.
pub const PREFIX: usize = 4;
/// Longest frame, bytes: a broker's default (`socket.request.max.bytes`). The first bytes of TLS
/// and HTTP, read as a length, exceed it.
pub const FRAME_MAX: usize = 100 * 1024 * 1024;
/// Longest client id, bytes.
const CLIENT_ID_MAX: usize = 4096;

/// A frame that does not have the layout of its API and version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The header of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Length of the frame, its prefix included.
    pub frame: usize,
    /// API key.
    pub api_key: i16,
    /// API version.
    pub api_version: i16,
    /// Chosen by the client, and repeated in the response.
    pub correlation_id: i32,
    /// Client id.
    pub client_id: Option<&'a [u8]>,
    /// Where the request begins in the frame.
    pub len: usize,
}

/// Reads the length of the frame at the front of a stream, its prefix included; `None` if more
/// bytes are needed.
///
/// # Errors
/// [`Malformed`] if no frame can have this length, as soon as that is known.
pub fn frame_len(stream: &[u8]) -> Result<Option<usize>, Malformed> {
    match stream {
        // The first byte of TLS, HTTP and other text is already too large.
        [first, ..] if usize::from(*first) > FRAME_MAX >> 24 => Err(Malformed),
        _ => match stream.first_chunk::<PREFIX>() {
            None => Ok(None),
            Some(prefix) => {
                let len = u32::from_be_bytes(*prefix) as usize;
                if len > FRAME_MAX { Err(Malformed) } else { Ok(Some(PREFIX + len)) }
            }
        },
    }
}

/// Reads the header of the request at the front of a stream; `None` if more bytes are needed.
///
/// # Errors
/// [`Malformed`] if it is not a request.
pub fn header(stream: &[u8]) -> Result<Option<Header<'_>>, Malformed> {
    let Some(frame) = frame_len(stream)? else { return Ok(None) };
    if frame < PREFIX + 8 {
        return Err(Malformed);
    }
    let Some(&[_, _, _, _, k0, k1, v0, v1, c0, c1, c2, c3]) = stream.first_chunk::<12>() else {
        return Ok(None);
    };
    let (api_key, api_version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
    let correlation_id = i32::from_be_bytes([c0, c1, c2, c3]);
    let mut header =
        Header { frame, api_key, api_version, correlation_id, client_id: None, len: 12 };
    // Only inter-broker requests have a header without client id.
    if frame < 14 {
        return Err(Malformed);
    }
    let Some(&[high, low]) = stream.get(12..14).and_then(<[u8]>::first_chunk) else {
        return Ok(None);
    };
    header.len = 14;
    match i16::from_be_bytes([high, low]) {
        -1 => {}
        len => {
            let len = usize::try_from(len).map_err(|_| Malformed)?;
            if len > CLIENT_ID_MAX || 14 + len > frame {
                return Err(Malformed);
            }
            let Some(client_id) = stream.get(14..14 + len) else { return Ok(None) };
            (header.client_id, header.len) = (Some(client_id), 14 + len);
        }
    }
    let known = Api::of(api_key).filter(|api| api.has_version(api_version));
    if known.is_some_and(|api| api_version >= api.flexible) {
        return tagged_header(stream, header);
    }
    Ok(Some(header))
}

/// Reads the tagged fields after a header.
fn tagged_header<'a>(
    stream: &'a [u8],
    mut header: Header<'a>,
) -> Result<Option<Header<'a>>, Malformed> {
    let mut walker = Walker::of_tags(header.len, header.frame);
    match walker.read(stream, 0)? {
        Some(_) => {
            header.len = walker.at();
            Ok(Some(header))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
