//! Writes header blocks that use no dynamic table, so that they mean the same to any decoder.

use super::integer;
use super::table::STATIC;

/// Whether an encoder on the way may index a field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Indexing {
    /// It may ([`super::Representation::WithoutIndexing`]).
    Allowed,
    /// It must not ([`super::Representation::NeverIndexed`]).
    Never,
}

/// Appends a field: the index of an entry of the static table where one is equal, and otherwise a
/// literal without Huffman code, whose name may be of the static table.
pub fn field(block: &mut Vec<u8>, name: &[u8], value: &[u8], indexing: Indexing) {
    let same_name = |entry: &(&str, &str)| entry.0.as_bytes() == name;
    let same = |entry: &(&str, &str)| same_name(entry) && entry.1.as_bytes() == value;
    let index = |position: Option<usize>| position.map_or(0, |position| position as u32 + 1);
    let whole = index(STATIC.iter().position(same));
    if whole > 0 && indexing == Indexing::Allowed {
        return integer::encode(block, 0x80, 7, whole);
    }
    let pattern = match indexing {
        Indexing::Allowed => 0,
        Indexing::Never => 0x10,
    };
    let name_index = index(STATIC.iter().position(same_name));
    integer::encode(block, pattern, 4, name_index);
    if name_index == 0 {
        string(block, name);
    }
    string(block, value);
}

/// Appends a size of the table, bytes. It must stand before all fields of a block.
pub fn table_size(block: &mut Vec<u8>, size: u32) {
    integer::encode(block, 0x20, 5, size);
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer::encode(block, 0, 7, text.len() as u32);
    block.extend_from_slice(text);
}
