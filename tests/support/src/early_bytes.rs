//! How the receiver of a stream treats bytes that arrive before it can read them.

use std::collections::BTreeMap;

/// Bytes of a stream after a gap.
#[derive(Clone, Debug, Default)]
pub struct EarlyBytes {
    bytes: BTreeMap<usize, u8>,
    /// Which bytes count when one position arrives twice before it can be read.
    pub last_wins: bool,
}

impl EarlyBytes {
    /// Takes a segment whose first byte is at `offset` of the stream, as far as it lies below
    /// `limit`, and appends to `read` what can be read now. Bytes before the end of `read` are
    /// ignored.
    pub fn deliver(&mut self, read: &mut Vec<u8>, offset: i64, payload: &[u8], limit: usize) {
        for (index, byte) in payload.iter().enumerate() {
            let Ok(at) = usize::try_from(offset + index as i64) else { continue };
            if (read.len()..limit).contains(&at) {
                let slot = self.bytes.entry(at).or_insert(*byte);
                if self.last_wins {
                    *slot = *byte;
                }
            }
        }
        while let Some(byte) = self.bytes.remove(&read.len()) {
            read.push(byte);
        }
    }
}
