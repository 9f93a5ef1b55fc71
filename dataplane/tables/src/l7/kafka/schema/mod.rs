//! The layout of requests and responses: facts of the protocol's message definitions
//! (<https://kafka.apache.org/protocol>), as far as topics, denials and error codes need them.
//!
//! A message is a list of fields, each in a range of versions. Arrays whose elements are topics,
//! partitions, or keys (groups, transactions) are marked, as are the fields that name them.

mod admin;
mod groups;
mod records;
mod transactions;

/// [`Field::until`] of a field that is still in use.
pub const MAX: i16 = i16::MAX;

/// One API.
#[derive(Debug)]
pub struct Api {
    /// API key.
    pub key: i16,
    /// The versions that are known, first and last.
    pub versions: (i16, i16),
    /// First version with compact lengths and tagged fields.
    pub flexible: i16,
    /// The error of a denied request that names no topic.
    pub denial: Denial,
    /// Fields of the request, after its header.
    pub request: &'static [Field],
    /// Fields of the response, after its header.
    pub response: &'static [Field],
}

/// What a client is not authorized for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// A topic.
    Topic,
    /// A group.
    Group,
    /// The cluster.
    Cluster,
    /// A transactional id; the cluster, if the request has none.
    Transaction,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it means here.
    pub role: Role,
    /// First version that has it.
    pub since: i16,
    /// Last version that has it.
    pub until: i16,
    /// Its value in our responses.
    pub default: i64,
    /// Whether it is null in our responses.
    pub is_null: bool,
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A fixed number of bytes.
    Fixed(u8),
    /// A string, which may be null.
    String,
    /// Bytes or records, which may be null.
    Bytes,
    /// An array, which may be null.
    Array {
        /// Fields of an element.
        fields: &'static [Field],
        /// What the elements are.
        list: List,
        /// Elements are single values, and not structures.
        scalars: bool,
    },
    /// An array that is not read: reading stops at one with elements.
    Unread,
    /// A structure that may be null, and is not read otherwise.
    UnreadStruct,
}

/// What the elements of an array are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// Topics, or other resources.
    Topics,
    /// Partitions of a topic.
    Partitions,
    /// Groups, transactions, or what else has a key.
    Keys,
    /// Anything else.
    Other,
}

/// What a field means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Nothing.
    None,
    /// The name of a topic, or of a resource.
    Topic,
    /// The id of a topic.
    TopicId,
    /// The type of a resource.
    ResourceType,
    /// The number of a partition.
    Partition,
    /// The key of a group or of a transaction.
    Key,
    /// A transactional id.
    TransactionalId,
    /// What a producer waits for; 0 is no response.
    Acks,
    /// The id of a fetch session.
    SessionId,
    /// The epoch of a fetch session.
    SessionEpoch,
    /// An error code.
    Error,
}

/// `resource_type` of a topic.
pub const TOPIC_RESOURCE: u8 = 2;

impl Api {
    /// The API with this key.
    #[must_use]
    pub fn of(key: i16) -> Option<&'static Self> {
        Self::all().find(|api| api.key == key)
    }

    /// All APIs.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let all = [records::APIS, groups::APIS, transactions::APIS, admin::APIS];
        all.into_iter().flatten()
    }

    /// Whether the layout of this version is known.
    #[must_use]
    pub const fn has_version(&self, version: i16) -> bool {
        self.versions.0 <= version && version <= self.versions.1
    }
}

impl Field {
    /// Whether a version of the message has the field.
    #[must_use]
    pub const fn is_in(&self, version: i16) -> bool {
        self.since <= version && version <= self.until
    }

    const fn new(name: &'static str, kind: Kind) -> Self {
        let (role, since, until) = (Role::None, 0, MAX);
        Self { name, kind, role, since, until, default: 0, is_null: false }
    }

    const fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    const fn since(self, since: i16) -> Self {
        Self { since, ..self }
    }

    const fn until(self, until: i16) -> Self {
        Self { until, ..self }
    }

    const fn or(self, default: i64) -> Self {
        Self { default, ..self }
    }

    const fn or_null(self) -> Self {
        Self { is_null: true, ..self }
    }

    const fn of_scalars(self) -> Self {
        match self.kind {
            Kind::Array { fields, list, .. } => {
                Self { kind: Kind::Array { fields, list, scalars: true }, ..self }
            }
            _ => self,
        }
    }
}

const fn int8(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(1))
}

const fn int16(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(2))
}

const fn int32(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(4))
}

const fn int64(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(8))
}

const fn uuid(name: &'static str) -> Field {
    Field::new(name, Kind::Fixed(16))
}

const fn string(name: &'static str) -> Field {
    Field::new(name, Kind::String)
}

const fn bytes(name: &'static str) -> Field {
    Field::new(name, Kind::Bytes)
}

const fn list(name: &'static str, list: List, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::Array { fields, list, scalars: false })
}

const fn array(name: &'static str, fields: &'static [Field]) -> Field {
    list(name, List::Other, fields)
}

const fn topics(name: &'static str, fields: &'static [Field]) -> Field {
    list(name, List::Topics, fields)
}

const fn partitions(name: &'static str, fields: &'static [Field]) -> Field {
    list(name, List::Partitions, fields)
}

const fn keys(name: &'static str, fields: &'static [Field]) -> Field {
    list(name, List::Keys, fields)
}

const fn unread(name: &'static str) -> Field {
    Field::new(name, Kind::Unread)
}

const fn unread_struct(name: &'static str) -> Field {
    Field::new(name, Kind::UnreadStruct).or_null()
}
