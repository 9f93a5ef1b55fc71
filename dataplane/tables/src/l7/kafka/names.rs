//! What a request names: topics with their partitions, and keys.

use super::schema::{List, Role, TOPIC_RESOURCE};
use super::walk::Found;

/// Topics of a request, at most.
const TOPICS_MAX: usize = 4096;
/// Partitions of all of them, at most.
const PARTITIONS_MAX: usize = 16 * 1024;
/// Keys of a request, at most.
const KEYS_MAX: usize = 1024;
/// Bytes of all names, at most.
const BYTES_MAX: usize = 128 * 1024;

/// The names of a request, in order. The memory is used again for the next request.
#[derive(Debug, Default)]
pub struct RequestNames {
    bytes: Vec<u8>,
    topics: Vec<Topic>,
    partitions: Vec<i32>,
    keys: Vec<Range>,
    /// Elements that the list of topics has, once that is known.
    announced: Option<u32>,
    acks: Option<i16>,
    has_transaction: bool,
    session_id: i32,
    session_epoch: Option<i32>,
}

/// What a Fetch does with a fetch session (KIP-227).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchSession {
    /// It names all of its topics. The broker closes the session `closed`, if it is not 0, and
    /// opens another one if `opens`.
    Full {
        /// Id of a session.
        closed: i32,
        /// Whether the client wants a session.
        opens: bool,
    },
    /// It is also for the topics of this session, which it does not name.
    Continued(i32),
}

/// A part of [`RequestNames::bytes`].
#[derive(Clone, Copy, Debug)]
struct Range {
    at: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Topic {
    name: Option<Range>,
    id: Option<[u8; 16]>,
    resource: u8,
    /// Where its partitions begin.
    partitions: u32,
}

/// A topic that a request names, or another resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicRef<'a> {
    /// Its name, if the request has the name.
    pub name: Option<&'a [u8]>,
    /// Its id.
    pub id: Option<[u8; 16]>,
    /// `resource_type`: [`TOPIC_RESOURCE`] of a topic.
    pub resource: u8,
    /// Partitions.
    pub partitions: &'a [i32],
}

impl TopicRef<'_> {
    /// Whether it has an id, which is not zero.
    #[must_use]
    pub fn has_id(&self) -> bool {
        self.id.is_some_and(|id| id != [0; 16])
    }
}

/// A request exceeds one of the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

impl RequestNames {
    /// Removes all names, but keeps the allocations.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.topics.clear();
        self.partitions.clear();
        self.keys.clear();
        (self.announced, self.acks, self.has_transaction) = (None, None, false);
        (self.session_id, self.session_epoch) = (0, None);
    }

    /// Adds what was found in the request.
    ///
    /// # Errors
    /// [`TooMany`] at the bounds.
    pub fn add(&mut self, found: Found<'_>) -> Result<(), TooMany> {
        match found {
            Found::List(List::Topics, count) => {
                *self.announced.get_or_insert(0) += count;
            }
            Found::Element(List::Topics) => {
                if self.topics.len() >= TOPICS_MAX {
                    return Err(TooMany);
                }
                let partitions = self.partitions.len() as u32;
                let resource = TOPIC_RESOURCE;
                self.topics.push(Topic { name: None, id: None, resource, partitions });
            }
            Found::Value(Role::Topic, Some(name)) => {
                let name = self.text(name)?;
                if let Some(topic) = self.topics.last_mut() {
                    topic.name = Some(name);
                }
            }
            Found::Value(Role::TopicId, Some(id)) => {
                if let (Some(topic), Some(id)) = (self.topics.last_mut(), id.first_chunk()) {
                    topic.id = Some(*id);
                }
            }
            Found::Value(Role::ResourceType, Some(&[kind])) => {
                if let Some(topic) = self.topics.last_mut() {
                    topic.resource = kind;
                }
            }
            Found::Value(Role::Partition, Some(number)) => {
                if self.partitions.len() >= PARTITIONS_MAX {
                    return Err(TooMany);
                }
                self.partitions.push(int32(number));
            }
            Found::Value(Role::Key, key) => {
                if self.keys.len() >= KEYS_MAX {
                    return Err(TooMany);
                }
                let key = self.text(key.unwrap_or_default())?;
                self.keys.push(key);
            }
            Found::Value(Role::Acks, Some(acks)) => {
                self.acks = acks.first_chunk().map(|two| i16::from_be_bytes(*two));
            }
            Found::Value(Role::TransactionalId, id) => self.has_transaction = id.is_some(),
            Found::Value(Role::SessionId, Some(id)) => self.session_id = int32(id),
            Found::Value(Role::SessionEpoch, Some(epoch)) => {
                self.session_epoch = Some(int32(epoch));
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &[u8]) -> Result<Range, TooMany> {
        if self.bytes.len() + text.len() > BYTES_MAX {
            return Err(TooMany);
        }
        let range = Range { at: self.bytes.len() as u32, len: text.len() as u32 };
        self.bytes.extend_from_slice(text);
        Ok(range)
    }

    fn slice(&self, range: Range) -> &[u8] {
        &self.bytes[range.at as usize..][..range.len as usize]
    }

    /// Topics and other resources that were added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there are no topics and no other resources.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// One of the topics.
    #[must_use]
    pub fn topic(&self, index: usize) -> TopicRef<'_> {
        let topic = &self.topics[index];
        let end = self
            .topics
            .get(index + 1)
            .map_or(self.partitions.len(), |next| next.partitions as usize);
        TopicRef {
            name: topic.name.map(|name| self.slice(name)),
            id: topic.id,
            resource: topic.resource,
            partitions: &self.partitions[topic.partitions as usize..end],
        }
    }

    /// Whether the last topic that the request announced has its name or its id.
    #[must_use]
    pub fn has_last_topic(&self) -> bool {
        let is_named = |topic: &Topic| topic.name.is_some() || topic.id.is_some();
        self.announced == Some(self.topics.len() as u32) && self.topics.last().is_some_and(is_named)
    }

    /// Keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.iter().map(|key| self.slice(*key))
    }

    /// Whether the client waits for a response.
    #[must_use]
    pub fn wants_response(&self) -> bool {
        self.acks != Some(0)
    }

    /// Whether the request has a transactional id.
    #[must_use]
    pub const fn has_transaction(&self) -> bool {
        self.has_transaction
    }

    /// What the request does with a fetch session, if it is a Fetch of a version with sessions.
    #[must_use]
    pub fn fetch_session(&self) -> Option<FetchSession> {
        let closed = self.session_id;
        Some(match self.session_epoch? {
            0 => FetchSession::Full { closed, opens: true },
            -1 => FetchSession::Full { closed, opens: false },
            _ => FetchSession::Continued(self.session_id),
        })
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap(&self) -> usize {
        self.bytes.capacity()
            + self.topics.capacity() * size_of::<Topic>()
            + self.partitions.capacity() * size_of::<i32>()
            + self.keys.capacity() * size_of::<Range>()
    }

    /// Upper bound of [`Self::heap`] after the names in `bytes` more bytes of the request are
    /// added.
    #[must_use]
    pub fn heap_with(&self, bytes: usize) -> usize {
        // An element has at least one byte.
        grown(&self.bytes, bytes, BYTES_MAX)
            + grown(&self.topics, bytes, TOPICS_MAX)
            + grown(&self.partitions, bytes / size_of::<i32>() + 1, PARTITIONS_MAX)
            + grown(&self.keys, bytes, KEYS_MAX)
    }
}

fn int32(bytes: &[u8]) -> i32 {
    bytes.first_chunk().map_or(0, |four| i32::from_be_bytes(*four))
}

/// Bytes that a vector takes with `more` more elements, but at most `max` in all: at most twice
/// what it needs.
fn grown<T>(vec: &Vec<T>, more: usize, max: usize) -> usize {
    let len = (vec.len() + more).min(max);
    let capacity = if len <= vec.capacity() { vec.capacity() } else { 2 * len.max(8) };
    capacity * size_of::<T>()
}
