//! Kafka requests of any API and version, by their layout.

use podgate_tables::l7::kafka::schema::{Api, Field, Kind, List, Role};

struct Encoder<'a> {
    out: Vec<u8>,
    version: i16,
    flexible: bool,
    topics: &'a [&'a str],
}

/// A request with this correlation id for partition 0 of each of these topics, all else zero, empty
/// or null. A Produce waits for its response. Without a body if the layout of this version is not
/// known.
#[must_use]
pub fn kafka_request(
    (key, version): (i16, i16),
    correlation_id: i32,
    client_id: Option<&str>,
    topics: &[&str],
) -> Vec<u8> {
    let api = Api::of(key).filter(|api| api.has_version(version));
    let mut out = [0; 4].to_vec();
    out.extend([key, version].map(i16::to_be_bytes).concat());
    out.extend(correlation_id.to_be_bytes());
    let mut encoder = Encoder { out, version, flexible: false, topics };
    encoder.string(client_id);
    if let Some(api) = api {
        encoder.flexible = version >= api.flexible;
        if encoder.flexible {
            encoder.out.push(0);
        }
        encoder.structure(api.request, None);
    }
    let mut out = encoder.out;
    let len = out.len() as u32 - 4;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

impl Encoder<'_> {
    fn structure(&mut self, fields: &[Field], topic: Option<&str>) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.field(field, topic);
        }
        if self.flexible {
            self.out.push(0);
        }
    }

    fn field(&mut self, field: &Field, topic: Option<&str>) {
        match field.kind {
            Kind::Fixed(len) => {
                let value: i64 = match field.role {
                    Role::Acks => 1,
                    Role::ResourceType => 2,
                    _ => 0,
                };
                let bytes = [[0; 8], value.to_be_bytes()].concat();
                self.out.extend(&bytes[16 - usize::from(len)..]);
            }
            Kind::String if field.role == Role::Topic => self.string(topic),
            Kind::String => self.string(Some("")),
            Kind::Bytes | Kind::Unread => self.count(0),
            Kind::UnreadStruct => self.out.push(0xff),
            Kind::Array { fields, list, scalars } => self.array(fields, list, scalars, topic),
        }
    }

    fn array(&mut self, fields: &[Field], list: List, scalars: bool, topic: Option<&str>) {
        let elements: Vec<Option<&str>> = match list {
            List::Topics => self.topics.iter().copied().map(Some).collect(),
            List::Partitions => vec![topic],
            List::Keys => vec![None],
            List::Other => vec![],
        };
        self.count(elements.len());
        for topic in elements {
            match scalars {
                true => self.field(&fields[0], topic),
                false => self.structure(fields, topic),
            }
        }
    }

    fn count(&mut self, count: usize) {
        match self.flexible {
            true => self.out.push(u8::try_from(count + 1).unwrap()),
            false => self.out.extend((count as u32).to_be_bytes()),
        }
    }

    fn string(&mut self, text: Option<&str>) {
        match (self.flexible, text) {
            (true, text) => self.out.push(text.map_or(0, |text| text.len() as u8 + 1)),
            (false, text) => {
                self.out.extend(text.map_or(-1, |text| text.len() as i16).to_be_bytes());
            }
        }
        self.out.extend(text.unwrap_or_default().as_bytes());
    }
}
