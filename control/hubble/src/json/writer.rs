//! From an encoded message to JSON, field by field, without a value of each in memory: clients
//! that follow flows print thousands of them a second.

use std::collections::HashMap;
use std::io::Write as _;

use prost::Message as _;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};

/// The first and the last second that a timestamp may have
/// (`google/protobuf/timestamp.proto`).
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Writes the messages of a pool, by the names and types of their fields.
#[derive(Debug)]
pub(super) struct Writer {
    messages: Vec<HashMap<u32, Field>>,
    by_name: HashMap<String, usize>,
}

/// How a field is written.
#[derive(Debug)]
struct Field {
    /// Its name as a key, with the colon.
    key: String,
    /// Whether it is repeated.
    list: bool,
    form: Form,
}

/// The form of a field's value.
#[derive(Debug)]
enum Form {
    Scalar(Scalar),
    Text,
    /// A message, by its index.
    Message(usize),
    /// `google.protobuf.Timestamp`.
    Time,
    /// One of the messages in `google/protobuf/wrappers.proto`.
    Wrapped(Scalar),
    /// Of a type that flows hardly have.
    Other,
}

/// A value that is encoded as one number.
#[derive(Debug)]
enum Scalar {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    /// An enumeration: the quoted names by number.
    Enum(HashMap<i32, String>),
}

impl Writer {
    /// Writes messages of `pool`.
    pub(super) fn new(pool: &DescriptorPool) -> Self {
        let names = pool.all_messages().enumerate();
        let by_name: HashMap<_, _> =
            names.map(|(index, message)| (message.full_name().to_owned(), index)).collect();
        let messages = pool.all_messages().map(|message| {
            let fields = message.fields().map(|field| {
                let (key, list) = (format!("\"{}\":", field.name()), field.is_list());
                (field.number(), Field { key, list, form: Form::of(&field, &by_name) })
            });
            fields.collect()
        });
        Self { messages: messages.collect(), by_name }
    }

    /// The JSON of the message `name`, which `encoded` is. `None` where a field is of a type that
    /// has no form here, or a value has none in JSON.
    pub(super) fn write(&self, name: &str, encoded: &[u8]) -> Option<String> {
        let mut out = Vec::with_capacity(2 * encoded.len());
        self.message(*self.by_name.get(name)?, encoded, &mut out)?;
        String::from_utf8(out).ok()
    }

    fn message(&self, index: usize, mut message: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let fields = self.messages.get(index)?;
        let (mut comma, mut list) = (false, None);
        out.push(b'{');
        while message.has_remaining() {
            let (number, wire_type) = decode_key(&mut message).ok()?;
            let field = fields.get(&number)?;
            if list == Some(number) {
                out.push(b',');
            } else {
                end_list(&mut list, out);
                if comma {
                    out.push(b',');
                }
                out.extend_from_slice(field.key.as_bytes());
                if field.list {
                    out.push(b'[');
                    list = Some(number);
                }
            }
            comma = true;
            self.value(&field.form, wire_type, &mut message, out)?;
        }
        end_list(&mut list, out);
        out.push(b'}');
        Some(())
    }

    /// Writes a value, which `message` begins with.
    fn value(
        &self,
        form: &Form,
        wire_type: WireType,
        message: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Option<()> {
        if let (Form::Scalar(scalar), WireType::Varint) = (form, wire_type) {
            return scalar.write(decode_varint(message).ok()?, out);
        }
        if wire_type != WireType::LengthDelimited {
            return None;
        }
        let length = usize::try_from(decode_varint(message).ok()?).ok()?;
        let (mut content, rest) = message.split_at_checked(length)?;
        *message = rest;
        match form {
            // The items of a list.
            Form::Scalar(scalar) => {
                scalar.write(decode_varint(&mut content).ok()?, out)?;
                while content.has_remaining() {
                    out.push(b',');
                    scalar.write(decode_varint(&mut content).ok()?, out)?;
                }
                Some(())
            }
            Form::Text => serde_json::to_writer(out, std::str::from_utf8(content).ok()?).ok(),
            Form::Message(index) => self.message(*index, content, out),
            Form::Time => {
                let time = prost_types::Timestamp::decode(content).ok()?;
                let valid =
                    SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
                valid.then(|| write!(out, "\"{time}\"").ok())?
            }
            Form::Wrapped(scalar) => {
                let value = match content.has_remaining() {
                    true => {
                        decode_key(&mut content).ok()?;
                        decode_varint(&mut content).ok()?
                    }
                    false => 0,
                };
                scalar.write(value, out)
            }
            Form::Other => None,
        }
    }
}

/// Ends a list, if one has begun.
fn end_list(list: &mut Option<u32>, out: &mut Vec<u8>) {
    if list.take().is_some() {
        out.push(b']');
    }
}

impl Form {
    fn of(field: &FieldDescriptor, messages: &HashMap<String, usize>) -> Self {
        match field.kind() {
            Kind::Bool => Self::Scalar(Scalar::Bool),
            Kind::Int32 => Self::Scalar(Scalar::Int32),
            Kind::Int64 => Self::Scalar(Scalar::Int64),
            Kind::Uint32 => Self::Scalar(Scalar::Uint32),
            Kind::Uint64 => Self::Scalar(Scalar::Uint64),
            Kind::String => Self::Text,
            Kind::Enum(names) => Self::Scalar(Scalar::Enum(
                names.values().map(|it| (it.number(), format!("\"{}\"", it.name()))).collect(),
            )),
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => Self::Time,
                "google.protobuf.BoolValue" => Self::Wrapped(Scalar::Bool),
                "google.protobuf.Int32Value" => Self::Wrapped(Scalar::Int32),
                "google.protobuf.UInt32Value" => Self::Wrapped(Scalar::Uint32),
                name if name.starts_with("google.") || message.is_map_entry() => Self::Other,
                name => messages.get(name).map_or(Self::Other, |index| Self::Message(*index)),
            },
            _ => Self::Other,
        }
    }
}

impl Scalar {
    fn write(&self, number: u64, out: &mut Vec<u8>) -> Option<()> {
        // Numbers of fewer bits are their low bits, negative ones are extended to 64 bits.
        let (signed, unsigned) = (number as i32, number as u32);
        let written = match self {
            Self::Bool => write!(out, "{}", number != 0),
            Self::Int32 => write!(out, "{signed}"),
            Self::Uint32 => write!(out, "{unsigned}"),
            Self::Int64 => write!(out, "\"{}\"", number as i64),
            Self::Uint64 => write!(out, "\"{number}\""),
            Self::Enum(names) => match names.get(&signed) {
                Some(name) => {
                    out.extend_from_slice(name.as_bytes());
                    Ok(())
                }
                None => write!(out, "{signed}"),
            },
        };
        written.ok()
    }
}
