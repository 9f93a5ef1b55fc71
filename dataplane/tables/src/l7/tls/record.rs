//! TLS records (RFC 8446 §5.1).

use super::Invalid;

/// Type, version and length in front of a record, bytes.
pub const RECORD_HEADER: usize = 5;
/// Longest content of a plaintext record, bytes.
const PLAINTEXT_MAX: usize = 1 << 14;
/// Longest content of an encrypted record, bytes: the most that a version allows (RFC 5246 §6.2.3).
const CIPHERTEXT_MAX: usize = PLAINTEXT_MAX + 2048;

/// What a record contains (RFC 8446 §B.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentType {
    /// `change_cipher_spec`.
    ChangeCipherSpec,
    /// `alert`.
    Alert,
    /// `handshake`.
    Handshake,
    /// `application_data`: early data, while the handshake is in plaintext.
    ApplicationData,
}

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it contains.
    pub content: ContentType,
    /// Bytes after the header.
    pub len: usize,
}

impl Record {
    /// Reads the header at the front of a stream; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`Invalid`] if it is no TLS record, as soon as that is known.
    pub fn read(stream: &[u8]) -> Result<Option<Self>, Invalid> {
        let Some(first) = stream.first() else { return Ok(None) };
        let content = match first {
            20 => ContentType::ChangeCipherSpec,
            21 => ContentType::Alert,
            22 => ContentType::Handshake,
            23 => ContentType::ApplicationData,
            _ => return Err(Invalid::NotTls),
        };
        // The minor version means nothing (RFC 8446 §5.1).
        if stream.get(1).is_some_and(|major| *major != 3) {
            return Err(Invalid::NotTls);
        }
        let Some(&[_, _, _, high, low]) = stream.first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        let is_valid = match content {
            ContentType::ChangeCipherSpec => len == 1,
            ContentType::Alert => len == 2,
            ContentType::Handshake => 0 < len && len <= PLAINTEXT_MAX,
            ContentType::ApplicationData => len <= CIPHERTEXT_MAX,
        };
        if is_valid { Ok(Some(Self { content, len })) } else { Err(Invalid::Malformed) }
    }
}

/// The part of a handshake message that one record contains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    /// Its bytes, as far as they have arrived.
    pub(super) bytes: &'a [u8],
    /// Its length.
    pub(super) len: usize,
    /// Bytes of the stream up to where it ends.
    pub(super) end: usize,
}

impl Fragment<'_> {
    /// Whether all its bytes have arrived.
    pub(super) const fn is_whole(&self) -> bool {
        self.bytes.len() == self.len
    }
}

/// The handshake records at the front of a stream.
#[derive(Debug)]
pub(super) struct Fragments<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Fragments<'a> {
    pub(super) const fn new(stream: &'a [u8]) -> Self {
        Self { stream, at: 0 }
    }
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Result<Fragment<'a>, Invalid>;

    /// The next record whose header has arrived.
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.stream.get(self.at..)?;
        let Record { content, len } = match Record::read(rest) {
            Ok(record) => record?,
            Err(invalid) => return Some(Err(invalid)),
        };
        if content != ContentType::Handshake {
            return Some(Err(Invalid::Malformed));
        }
        let content = &rest[RECORD_HEADER..];
        let bytes = &content[..len.min(content.len())];
        self.at += RECORD_HEADER + len;
        Some(Ok(Fragment { bytes, len, end: self.at }))
    }
}
