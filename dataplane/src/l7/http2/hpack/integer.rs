//! Integers with a prefix (RFC 7541 §5.1).

use super::HpackError;

/// Most bytes after the prefix: enough for 28 bits, which no string or index of a block exceeds.
const CONTINUATION_MAX: u32 = 4;

/// Reads an integer whose first `prefix` bits are the last ones of the first byte, and what follows
/// it.
pub(super) fn decode(block: &[u8], prefix: u32) -> Result<(u32, &[u8]), HpackError> {
    let (first, mut rest) = block.split_first().ok_or(HpackError::Truncated)?;
    let largest = (1 << prefix) - 1;
    let mut value = u32::from(*first) & largest;
    if value < largest {
        return Ok((value, rest));
    }
    for index in 0..CONTINUATION_MAX {
        let (byte, after) = rest.split_first().ok_or(HpackError::Truncated)?;
        rest = after;
        value += u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, rest));
        }
    }
    Err(HpackError::IntegerTooLarge)
}

/// Writes an integer after the `pattern` of the bits before the prefix.
pub(super) fn encode(block: &mut Vec<u8>, pattern: u8, prefix: u32, value: u32) {
    let largest = (1 << prefix) - 1;
    if value < largest {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | largest as u8);
    let mut rest = value - largest;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}
