//! Resource records (RFC 1035 §4.1.3).

use std::ops::Range;

use super::{DnsName, Malformed, word};

/// The fixed part of a record, and where the rest lies.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Where its owner's name starts.
    pub(super) owner: usize,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// Seconds for which it may be cached.
    pub(super) ttl: u32,
    /// Where its data lies. It ends the record.
    pub(super) data: Range<usize>,
}

impl Record {
    /// The record at `at`.
    pub(super) fn read(message: &[u8], owner: usize) -> Result<Self, Malformed> {
        let at = DnsName::skip(message, owner)?;
        let (kind, class) = (word(message, at)?, word(message, at + 2)?);
        let ttl = u32::from(word(message, at + 4)?) << 16 | u32::from(word(message, at + 6)?);
        // RFC 2181 §8: the most significant bit is not used, and then the value is zero.
        let ttl = if ttl > i32::MAX as u32 && kind != super::kind::OPT { 0 } else { ttl };
        let start = at + 10;
        let data = start..start + usize::from(word(message, at + 8)?);
        if data.end > message.len() {
            return Err(Malformed);
        }
        Ok(Self { owner, kind, class, ttl, data })
    }
}

/// The next `left` records of a message, from the offset `at` on.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    pub(super) message: &'a [u8],
    pub(super) at: usize,
    pub(super) left: u32,
}

impl Records<'_> {
    /// The next record, or `None` after the last one. An error if it is not well formed.
    pub(super) fn next(&mut self) -> Result<Option<Record>, Malformed> {
        if self.left == 0 {
            return Ok(None);
        }
        let record = Record::read(self.message, self.at)?;
        self.left -= 1;
        self.at = record.data.end;
        Ok(Some(record))
    }
}
