//! Names in DNS messages.

use std::fmt;

use super::{HEADER_LEN, Malformed};

/// Longest name on the wire, bytes (RFC 1035 §2.3.4).
const WIRE_MAX: usize = 255;
/// Longest text of a name, bytes: without the first length and the root label.
const TEXT_MAX: usize = WIRE_MAX - 2;

#[cfg(test)]
std::thread_local! {
    /// How many names this thread has read.
    pub(super) static READS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A name as text, in lower case.
#[derive(Clone, Copy)]
pub struct DnsName {
    len: u8,
    is_text: bool,
    text: [u8; TEXT_MAX],
}

impl DnsName {
    pub(super) const ROOT: Self = Self { len: 0, is_text: true, text: [0; TEXT_MAX] };

    /// Labels separated by dots, without a trailing dot; empty for the root. Bytes are as on the
    /// wire, except that letters are in lower case.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }

    /// Whether the text means no other name: no label contains a dot.
    #[must_use]
    pub const fn is_unambiguous(&self) -> bool {
        self.is_text
    }

    /// Whether both are the same name, which is never so if one of them is ambiguous.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_text && other.is_text && self.text() == other.text()
    }

    /// The name at `at`, and where the message continues after it.
    pub(super) fn read(message: &[u8], at: usize) -> Result<(Self, usize), Malformed> {
        #[cfg(test)]
        READS.set(READS.get() + 1);
        let mut name = Self::ROOT;
        // Pointers lead only to places before all that was read, so there are no loops.
        let (mut at, mut before, mut end) = (at, at, None);
        loop {
            let len = *message.get(at).ok_or(Malformed)?;
            match len & 0xc0 {
                0 if len == 0 => return Ok((name, end.unwrap_or(at + 1))),
                0 => {
                    let label = message.get(at + 1..at + 1 + usize::from(len)).ok_or(Malformed)?;
                    name.push(label)?;
                    at += 1 + label.len();
                }
                0xc0 => {
                    let low = *message.get(at + 1).ok_or(Malformed)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(len & 0x3f) << 8 | usize::from(low);
                    if at < HEADER_LEN || at >= before {
                        return Err(Malformed);
                    }
                    before = at;
                }
                _ => return Err(Malformed),
            }
        }
    }

    /// Where the message continues after the name at `at`, whose pointer is not followed.
    pub(super) fn skip(message: &[u8], mut at: usize) -> Result<usize, Malformed> {
        loop {
            let len = *message.get(at).ok_or(Malformed)?;
            match len & 0xc0 {
                0 if len == 0 => return Ok(at + 1),
                0 => at += 1 + usize::from(len),
                0xc0 if at + 2 <= message.len() => return Ok(at + 2),
                _ => return Err(Malformed),
            }
        }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), Malformed> {
        let start = match self.len {
            0 => 0,
            len => usize::from(len) + 1,
        };
        let end = start + label.len();
        if end > TEXT_MAX {
            return Err(Malformed);
        }
        if start > 0 {
            self.text[start - 1] = b'.';
        }
        for (place, byte) in self.text[start..end].iter_mut().zip(label) {
            *place = byte.to_ascii_lowercase();
            self.is_text &= *byte != b'.';
        }
        self.len = end as u8;
        Ok(())
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text().escape_ascii())
    }
}
