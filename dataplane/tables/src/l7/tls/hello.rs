//! The body of a ClientHello (RFC 8446 §4.1.2), and the name in it (RFC 6066 §3).

/// Longest host name, bytes (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;
/// Extension `server_name`.
const SERVER_NAME: u16 = 0;
/// `NameType` of a host name.
const HOST_NAME: u8 = 0;

/// The ClientHello is malformed, or it is ambiguous which server it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("is malformed or ambiguous")]
pub struct NameError;

/// The server name in the body of a ClientHello; `None` if it has none.
pub(super) fn server_name(body: &[u8]) -> Result<Option<&[u8]>, NameError> {
    let mut body = Reader(body);
    let [major, _] = body.array()?;
    let _random: [u8; 32] = body.array()?;
    let session_id = body.with_len_u8()?;
    let suites = body.with_len_u16()?;
    let compressions = body.with_len_u8()?;
    let is_valid = major == 3
        && session_id.len() <= 32
        && !suites.is_empty()
        && suites.len().is_multiple_of(2)
        && !compressions.is_empty();
    if !is_valid {
        return Err(NameError);
    }
    if body.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(body.with_len_u16()?);
    body.end()?;
    let mut name = None;
    while !extensions.is_empty() {
        let number = u16::from_be_bytes(extensions.array()?);
        let data = extensions.with_len_u16()?;
        if number == SERVER_NAME && name.replace(single_name(data)?).is_some() {
            return Err(NameError);
        }
    }
    Ok(name)
}

/// The name in a list that must have exactly one.
fn single_name(extension: &[u8]) -> Result<&[u8], NameError> {
    let mut extension = Reader(extension);
    let mut list = Reader(extension.with_len_u16()?);
    extension.end()?;
    let [kind] = list.array()?;
    let name = list.with_len_u16()?;
    list.end()?;
    if kind == HOST_NAME && !name.is_empty() { Ok(name) } else { Err(NameError) }
}

/// Whether a name is one that a client may send: labels of ASCII letters, digits, hyphens and
/// underscores, at most 255 bytes in all, no trailing dot, and not an IPv4 address, which is a name
/// whose last label is a number.
#[must_use]
pub fn is_server_name(name: &[u8]) -> bool {
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let mut labels = name.split(|b| *b == b'.');
    let is_number = |label: &[u8]| label.iter().all(u8::is_ascii_digit);
    let is_address = labels.clone().next_back().is_none_or(is_number);
    let are_labels = labels.all(|label| !label.is_empty() && label.iter().all(is_inner));
    name.len() <= NAME_MAX && are_labels && !is_address
}

/// Reads fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    const fn end(&self) -> Result<(), NameError> {
        if self.is_empty() { Ok(()) } else { Err(NameError) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NameError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(NameError)?;
        self.0 = rest;
        Ok(*array)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], NameError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(NameError)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn with_len_u8(&mut self) -> Result<&'a [u8], NameError> {
        let [len] = self.array()?;
        self.bytes(usize::from(len))
    }

    fn with_len_u16(&mut self) -> Result<&'a [u8], NameError> {
        let len = u16::from_be_bytes(self.array()?);
        self.bytes(usize::from(len))
    }
}
