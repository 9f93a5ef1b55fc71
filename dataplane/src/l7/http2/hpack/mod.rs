//! HPACK, the header compression of HTTP/2 (RFC 7541).
//!
//! A [`Decoder`] reads the header blocks of one direction of a connection, in their order: each may
//! change the dynamic table, which later ones refer to. It hands out fields as slices, and
//! allocates only to grow its table and its buffer for Huffman-coded strings. A small block can
//! refer to large entries many times; that costs the decoder nothing, and a user that copies fields
//! must bound the sum.
//!
//! [`encode`] writes fields that refer to no dynamic table.
//!
//! - [`integer`] and [`huffman`]: the parts of a field's representation.
//! - [`table`]: the static table and the dynamic one.

mod decoder;
pub mod encode;
mod huffman;
mod integer;
mod table;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use decoder::Decoder;

/// Size of a dynamic table until SETTINGS_HEADER_TABLE_SIZE sets another one, bytes (RFC 9113
/// §6.5.2).
pub const DEFAULT_TABLE_SIZE: u32 = 4096;

/// How a field is represented in a header block (RFC 7541 §6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Representation {
    /// The index of an entry of a table.
    Indexed,
    /// A literal that becomes an entry of the dynamic table.
    Incremental,
    /// A literal that does not become an entry.
    WithoutIndexing,
    /// A literal that must not become one in any encoder on the way (RFC 7541 §7.1.3).
    NeverIndexed,
}

/// A part of a header block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    /// A header field.
    Field {
        /// Name: any bytes, as only HTTP restricts them.
        name: &'a [u8],
        /// Value: any bytes.
        value: &'a [u8],
        /// How the field is represented in the block.
        representation: Representation,
        /// The name, or the whole field, is one of an entry of the dynamic table.
        is_dynamic: bool,
    },
    /// The encoder changes the size of its table, bytes (RFC 7541 §6.3).
    TableSize(u32),
}

/// Why a header block can't be decoded. Each is a connection error of type COMPRESSION_ERROR
/// (RFC 9113 §4.3), since the tables of both ends differ from there on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HpackError {
    /// The block ends within a field.
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer is larger than any that a block can need.
    #[error("an integer of the header block is too large")]
    IntegerTooLarge,
    /// No table has an entry with this index.
    #[error("the header block refers to an entry that no table has")]
    NoSuchEntry,
    /// A Huffman code is incomplete, or is the one of the end of a string.
    #[error("a string of the header block is not Huffman-coded as it says")]
    InvalidHuffman,
    /// The encoder chose a larger table than the decoder allows.
    #[error("the header block makes the table larger than is allowed")]
    TableTooLarge,
    /// The size of the table changes after a field.
    #[error("the size of the table changes within a header block")]
    TableSizeWithinBlock,
    /// The decoder's limit is lower than the table, and the block does not begin with a size.
    #[error("the header block does not make the table as small as is required")]
    TableSizeMissing,
}
