//! The decoder of header blocks (RFC 7541 §3).

use super::table::{DynamicTable, Name, STATIC};
use super::{DEFAULT_TABLE_SIZE, HpackError, Part, Representation, huffman, integer};

/// A decoder of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// Largest table that the encoder may choose, bytes.
    limit: u32,
    /// Largest limit that there may ever be, bytes.
    quota: u32,
    /// The next block must begin with a size of the table that is at most this, bytes.
    required: Option<u32>,
}

/// A string of a block.
#[derive(Clone, Copy)]
enum Text<'a> {
    Plain(&'a [u8]),
    /// Decoded bytes in the buffer, from and to.
    Decoded(usize, usize),
}

impl<'a> Text<'a> {
    fn get(self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(text) => text,
            Self::Decoded(from, to) => &buffer[from..to],
        }
    }
}

impl Decoder {
    /// A decoder whose table has at most `quota` bytes, or the default size if that is more.
    #[must_use]
    pub fn new(quota: u32) -> Self {
        Self {
            table: DynamicTable::new(DEFAULT_TABLE_SIZE as usize),
            limit: DEFAULT_TABLE_SIZE,
            quota: quota.max(DEFAULT_TABLE_SIZE),
            required: None,
        }
    }

    /// Changes the limit of the table's size, when the encoder has acknowledged
    /// SETTINGS_HEADER_TABLE_SIZE (bytes). If the table is larger, the next block must begin with a
    /// smaller size (RFC 7541 §4.2). A setting above the quota must not reach the encoder, or its
    /// blocks may fail to decode.
    pub fn set_limit(&mut self, setting: u32) {
        self.limit = setting.min(self.quota);
        if (self.limit as usize) < self.table.size_max() {
            self.required = Some(self.required.map_or(self.limit, |least| least.min(self.limit)));
        }
    }

    /// Bytes on the heap. They are at most three times the quota.
    #[must_use]
    pub fn heap(&self) -> usize {
        self.table.heap()
    }

    /// Frees all memory that is not in use.
    pub fn shrink_to_fit(&mut self) {
        self.table.shrink_to_fit();
    }

    /// Upper bound of [`Self::heap`] after any block.
    #[must_use]
    pub fn heap_max(&self) -> usize {
        self.heap().max(3 * (self.limit as usize).max(self.table.size_max()))
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &DynamicTable {
        &self.table
    }

    /// Decodes a whole header block, the fragments of a HEADERS or PUSH_PROMISE frame and its
    /// CONTINUATION frames put together, and shows `on_part` its parts in their order.
    ///
    /// `buffer` is for Huffman-coded strings. It may be one for many decoders: what it has is
    /// overwritten. It grows to less than twice the block.
    ///
    /// # Errors
    /// [`HpackError`]: the decoder can't be used any more, and the connection must be closed. Parts
    /// before the error were shown.
    pub fn decode(
        &mut self,
        block: &[u8],
        buffer: &mut Vec<u8>,
        mut on_part: impl FnMut(Part<'_>),
    ) -> Result<(), HpackError> {
        let mut rest = block;
        while let Some(0x20..=0x3f) = rest.first() {
            let (size, after) = integer::decode(rest, 5)?;
            self.resize(size)?;
            on_part(Part::TableSize(size));
            rest = after;
        }
        if self.required.is_some() && !block.is_empty() {
            return Err(HpackError::TableSizeMissing);
        }
        while !rest.is_empty() {
            rest = self.field(rest, buffer, &mut on_part)?;
        }
        Ok(())
    }

    fn resize(&mut self, size: u32) -> Result<(), HpackError> {
        if size > self.limit {
            return Err(HpackError::TableTooLarge);
        }
        if self.required.take().is_some_and(|least| size > least) {
            return Err(HpackError::TableSizeMissing);
        }
        self.table.resize(size as usize);
        Ok(())
    }

    /// Decodes the first field of `block`. Returns what follows it.
    fn field<'b>(
        &mut self,
        block: &'b [u8],
        buffer: &mut Vec<u8>,
        on_part: &mut impl FnMut(Part<'_>),
    ) -> Result<&'b [u8], HpackError> {
        let (representation, prefix) = match block.first() {
            Some(0x80..) => (Representation::Indexed, 7),
            Some(0x40..) => (Representation::Incremental, 6),
            Some(0x20..) => return Err(HpackError::TableSizeWithinBlock),
            Some(0x10..) => (Representation::NeverIndexed, 4),
            _ => (Representation::WithoutIndexing, 4),
        };
        let (index, rest) = integer::decode(block, prefix)?;
        let is_dynamic = index as usize > STATIC.len();
        if representation == Representation::Indexed {
            let (name, value) = self.entry(index)?;
            on_part(Part::Field { name, value, representation, is_dynamic });
            return Ok(rest);
        }
        buffer.clear();
        let (name, rest) = match index {
            0 => string(rest, buffer).map(|(name, rest)| (Some(name), rest))?,
            _ => (None, rest),
        };
        let (value, rest) = string(rest, buffer)?;
        let value = value.get(buffer);
        let literal = name.map(|name| name.get(buffer));
        let name = match literal {
            Some(name) => name,
            None => self.entry(index)?.0,
        };
        on_part(Part::Field { name, value, representation, is_dynamic });
        if representation == Representation::Incremental {
            let name = match (literal, (index as usize).checked_sub(STATIC.len() + 1)) {
                (None, Some(entry)) => Name::Entry(entry),
                (None, None) => Name::Literal(STATIC[index as usize - 1].0.as_bytes()),
                (Some(name), _) => Name::Literal(name),
            };
            self.table.insert(name, value);
        }
        Ok(rest)
    }

    /// Name and value of an entry of either table (RFC 7541 §2.3.3).
    fn entry(&self, index: u32) -> Result<(&[u8], &[u8]), HpackError> {
        let index = (index as usize).checked_sub(1).ok_or(HpackError::NoSuchEntry)?;
        match STATIC.get(index) {
            Some((name, value)) => Ok((name.as_bytes(), value.as_bytes())),
            None => self.table.get(index - STATIC.len()).ok_or(HpackError::NoSuchEntry),
        }
    }
}

/// Reads a string (RFC 7541 §5.2), and what follows it. A Huffman-coded one is appended to the
/// buffer.
fn string<'b>(block: &'b [u8], buffer: &mut Vec<u8>) -> Result<(Text<'b>, &'b [u8]), HpackError> {
    let is_coded = block.first().is_some_and(|byte| byte & 0x80 != 0);
    let (length, rest) = integer::decode(block, 7)?;
    let (text, rest) = rest.split_at_checked(length as usize).ok_or(HpackError::Truncated)?;
    if !is_coded {
        return Ok((Text::Plain(text), rest));
    }
    let from = buffer.len();
    huffman::decode(text, buffer)?;
    Ok((Text::Decoded(from, buffer.len()), rest))
}
