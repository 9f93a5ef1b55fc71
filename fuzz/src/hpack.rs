//! The HPACK decoder over the header blocks of a connection.

use podgate_dataplane::l7::http2::hpack::encode::{self, Indexing};
use podgate_dataplane::l7::http2::hpack::{Decoder, HpackError, Part, Representation};

use crate::input::Input;

/// Largest table, bytes.
const QUOTA: u32 = 8192;

/// Name, value, and whether the field must never be indexed.
type Field = (Vec<u8>, Vec<u8>, bool);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, &mut Vec::new(), |part| {
        if let Part::Field { name, value, representation, .. } = part {
            let is_never = representation == Representation::NeverIndexed;
            fields.push((name.to_vec(), value.to_vec(), is_never));
        }
    })?;
    Ok(fields)
}

/// Input: blocks, each after a byte (how the table's limit changes) and its length.
///
/// The fields of a block, written without a dynamic table, decode to themselves.
pub fn hpack(data: &[u8]) {
    let mut input = Input::new(data);
    let mut decoder = Decoder::new(QUOTA);
    while !input.is_empty() {
        match input.u8() {
            limit @ 1..=15 => decoder.set_limit(u32::from(limit) * 1000),
            16 => decoder.set_limit(0),
            _ => {}
        }
        let Ok(fields) = decode(&mut decoder, input.long_string()) else { return };
        assert!(decoder.heap() <= 3 * QUOTA as usize, "{} bytes", decoder.heap());
        let mut written = Vec::new();
        for (name, value, is_never) in &fields {
            let indexing = if *is_never { Indexing::Never } else { Indexing::Allowed };
            encode::field(&mut written, name, value, indexing);
        }
        assert_eq!(decode(&mut Decoder::new(0), &written).as_ref(), Ok(&fields));
    }
}
