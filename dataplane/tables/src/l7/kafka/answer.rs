//! The response to a denied request: that of a broker which does not authorize it, or which expects
//! another epoch of the fetch session.

use super::names::RequestNames;
use super::schema::{Api, Denial, Field, Kind, List, Role, TOPIC_RESOURCE};

/// Error codes (<https://kafka.apache.org/protocol#protocol_error_codes>).
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;

/// Longest response, bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Bytes on the heap while a response is built, at most: a vector grows by doubling, and one
/// element is beyond the limit.
pub const ANSWER_HEAP: usize = 2 * ANSWER_MAX + 8 * 1024;

/// The error of a denied request.
#[must_use]
pub fn error_code(api: &Api, names: &RequestNames) -> i16 {
    let is_topic = (0..names.len()).any(|index| names.topic(index).resource == TOPIC_RESOURCE);
    match api.denial {
        _ if is_topic => TOPIC_AUTHORIZATION_FAILED,
        Denial::Topic => TOPIC_AUTHORIZATION_FAILED,
        Denial::Group => GROUP_AUTHORIZATION_FAILED,
        Denial::Transaction if api.key != 22 || names.has_transaction() => {
            TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        }
        Denial::Transaction | Denial::Cluster => CLUSTER_AUTHORIZATION_FAILED,
    }
}

/// The response of `api` that denies a request: the frame, from its length on. `None` if it would
/// be longer than 64 KiB.
#[must_use]
pub fn answer(
    api: &Api,
    version: i16,
    correlation_id: i32,
    names: &RequestNames,
) -> Option<Vec<u8>> {
    encode(api, version, correlation_id, names, error_code(api, names))
}

/// The response of `api` (Fetch) to a request that continues a fetch session at another epoch than
/// the broker expects: the frame, from its length on. The client names its topics again, in a
/// request that closes the session at the broker (KIP-227).
///
/// If the session were unknown (`FETCH_SESSION_ID_NOT_FOUND`), Kafka's own client would not close
/// it (`clients/FetchSessionHandler.java`, `handleResponse`), and the broker would keep it in one
/// of its places for sessions, for minutes.
#[must_use]
pub fn session_ended(api: &Api, version: i16, correlation_id: i32) -> Option<Vec<u8>> {
    let nothing = RequestNames::default();
    encode(api, version, correlation_id, &nothing, INVALID_FETCH_SESSION_EPOCH)
}

fn encode(
    api: &Api,
    version: i16,
    correlation_id: i32,
    names: &RequestNames,
    error: i16,
) -> Option<Vec<u8>> {
    let flexible = version >= api.flexible;
    let mut encoder = Encoder { out: vec![0; 4], version, flexible, names, error };
    encoder.out.extend_from_slice(&correlation_id.to_be_bytes());
    // The header of an ApiVersions response has no tagged fields (KIP-511); it is never denied.
    if encoder.flexible {
        encoder.out.push(0);
    }
    encoder.structure(api.response, Position::default());
    let len = encoder.out.len();
    let prefix = u32::try_from(len - 4).ok()?.to_be_bytes();
    encoder.out[..4].copy_from_slice(&prefix);
    encoder.out.shrink_to_fit();
    (len <= ANSWER_MAX).then_some(encoder.out)
}

/// The elements of lists that the encoder is in.
#[derive(Clone, Copy, Default)]
struct Position {
    topic: Option<usize>,
    partition: Option<i32>,
    key: Option<usize>,
}

/// Which structures of an answer have the error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Errors {
    /// This one.
    Here,
    /// Those in its lists.
    Deeper,
}

struct Encoder<'a> {
    out: Vec<u8>,
    version: i16,
    flexible: bool,
    names: &'a RequestNames,
    error: i16,
}

impl Encoder<'_> {
    fn structure(&mut self, fields: &[Field], position: Position) {
        let version = self.version;
        let fields = fields.iter().filter(|field| field.is_in(version));
        // The innermost structures that the request names have the error.
        let is_deeper = fields.clone().any(|field| match field.kind {
            Kind::Array { list, fields, .. } => {
                self.elements(list, position) > 0 && self.can_carry_error(list, fields)
            }
            _ => false,
        });
        let errors = if is_deeper { Errors::Deeper } else { Errors::Here };
        for field in fields {
            self.field(field, position, errors);
        }
        if self.flexible {
            self.out.push(0);
        }
    }

    fn field(&mut self, field: &Field, position: Position, errors: Errors) {
        match field.kind {
            Kind::Fixed(len) => self.fixed(field, usize::from(len), position, errors),
            Kind::String => {
                let names = self.names;
                let text = match field.role {
                    Role::Topic => position.topic.map(|index| names.topic(index).name),
                    Role::Key => position.key.map(|index| names.keys().nth(index)),
                    _ => None,
                };
                match text {
                    Some(text) => self.string(Some(text.unwrap_or_default())),
                    None => self.string((!field.is_null).then_some(b"")),
                }
            }
            Kind::Bytes => self.count((!field.is_null).then_some(0)),
            Kind::Array { fields, list, .. } => self.list(fields, list, position),
            Kind::Unread => self.count((!field.is_null).then_some(0)),
            Kind::UnreadStruct => self.out.push(0xff),
        }
    }

    fn fixed(&mut self, field: &Field, len: usize, position: Position, errors: Errors) {
        let topic = position.topic.map(|index| self.names.topic(index));
        let value = match field.role {
            Role::TopicId => {
                let id = topic.and_then(|topic| topic.id).unwrap_or_default();
                return self.out.extend_from_slice(&id);
            }
            Role::Error if errors == Errors::Here => i64::from(self.error),
            Role::Partition => position.partition.map_or(0, i64::from),
            Role::ResourceType => topic.map_or(0, |topic| i64::from(topic.resource)),
            _ => field.default,
        };
        self.out.extend(std::iter::repeat_n(0, len.saturating_sub(8)));
        self.out.extend_from_slice(&value.to_be_bytes()[8 - len.min(8)..]);
    }

    /// Whether the elements of a list, or structures in them, can carry the error. With several
    /// keys, the elements of a list of keys must have an error code of their own.
    fn can_carry_error(&self, list: List, fields: &[Field]) -> bool {
        let has_error = |field: &Field| field.role == Role::Error && field.is_in(self.version);
        list != List::Keys || self.names.keys().len() == 1 || fields.iter().any(has_error)
    }

    /// Elements that a list gets here.
    fn elements(&self, list: List, position: Position) -> usize {
        match list {
            // With several keys, it is not known to which of them a topic belongs.
            List::Topics if self.names.keys().len() > 1 && position.key.is_some() => 0,
            List::Topics => self.names.len(),
            List::Partitions => {
                position.topic.map_or(0, |index| self.names.topic(index).partitions.len())
            }
            List::Keys => self.names.keys().len(),
            List::Other => 0,
        }
    }

    fn list(&mut self, fields: &[Field], list: List, position: Position) {
        let elements = self.elements(list, position);
        self.count(Some(elements as u32));
        for index in 0..elements {
            if self.out.len() > ANSWER_MAX {
                return;
            }
            let position = match list {
                List::Topics => Position { topic: Some(index), ..position },
                List::Partitions => {
                    let topic = position.topic.map(|topic| self.names.topic(topic));
                    Position { partition: topic.map(|topic| topic.partitions[index]), ..position }
                }
                List::Keys => Position { key: Some(index), ..position },
                List::Other => position,
            };
            self.structure(fields, position);
        }
    }

    /// The length of an array or of bytes; `None` is null.
    fn count(&mut self, count: Option<u32>) {
        match self.flexible {
            true => self.varint(count.map_or(0, |count| count + 1)),
            false => {
                let count = count.map_or(-1, |count| count as i32);
                self.out.extend_from_slice(&count.to_be_bytes());
            }
        }
    }

    fn string(&mut self, text: Option<&[u8]>) {
        let text_bytes = text.unwrap_or_default();
        match self.flexible {
            true => self.varint(text.map_or(0, |text| text.len() as u32 + 1)),
            false => {
                let len = text.map_or(-1, |text| text.len() as i16);
                self.out.extend_from_slice(&len.to_be_bytes());
            }
        }
        self.out.extend_from_slice(text_bytes);
    }

    fn varint(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }
}
