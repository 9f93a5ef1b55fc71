//! Encoding and decoding of netlink messages (netlink(7)) that rtnetlink doesn't parse: requests,
//! the messages of an answer, attributes. Damaged bytes are an error: an incomplete answer must not
//! pass for a complete one.

use std::io;

/// Bytes of `struct nlmsghdr`, and of `struct nlattr`.
const HEADER: usize = size_of::<libc::nlmsghdr>();
const ATTRIBUTE_HEADER: usize = 4;
/// `NLM_F_DUMP_INTR`: the table changed during the dump, so entries may be missing.
const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
/// Types of control messages.
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
/// The bits of an attribute's type without flags.
const TYPE_MASK: u16 = (libc::NLA_TYPE_MASK & 0xffff) as u16;
/// Flag of attributes that contain attributes.
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// A request: `kind` is the message's type, `flags` are `NLM_F_…`, `body` is the family's header
/// with its attributes, a multiple of 4 bytes.
pub(super) fn request(kind: u16, flags: libc::c_int, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let flags = flags as u16 | libc::NLM_F_REQUEST as u16;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    request
}

/// An attribute that contains `attributes`.
pub(crate) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(NESTED | kind, &attributes.concat())
}

/// An attribute, padded to a multiple of 4 bytes.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Calls `take` with the body of each message of `datagram` that answers the request `sequence`.
/// Returns whether the answer is complete.
///
/// # Errors
/// The kernel's error, `EINTR` if the dump is not consistent, `InvalidData` for damaged bytes.
pub(super) fn messages(
    mut datagram: &[u8],
    sequence: u32,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    while !datagram.is_empty() {
        let length = number(datagram, 0, u32::from_ne_bytes)? as usize;
        let kind = number(datagram, 4, u16::from_ne_bytes)?;
        let flags = number(datagram, 6, u16::from_ne_bytes)?;
        let answers = number(datagram, 8, u32::from_ne_bytes)?;
        let body = datagram.get(HEADER..length).ok_or_else(damaged)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        if answers != sequence {
            continue;
        }
        if flags & DUMP_INTERRUPTED != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        match kind {
            // The body begins with the negative error number, zero for success; the end of a dump
            // may have none.
            ERROR | DONE => {
                let code = match body {
                    [] => 0,
                    _ => number(body, 0, i32::from_ne_bytes)?,
                };
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            _ => take(body)?,
        }
    }
    Ok(false)
}

/// The attributes in `bytes`, each with its type without flags.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parsed = first_attribute(bytes);
        match &parsed {
            Ok((_, value)) => {
                let length = (ATTRIBUTE_HEADER + value.len()).next_multiple_of(4);
                bytes = bytes.get(length..).unwrap_or_default();
            }
            Err(_) => bytes = &[],
        }
        Some(parsed)
    })
}

fn first_attribute(bytes: &[u8]) -> io::Result<(u16, &[u8])> {
    let length = usize::from(number(bytes, 0, u16::from_ne_bytes)?);
    let kind = number(bytes, 2, u16::from_ne_bytes)? & TYPE_MASK;
    Ok((kind, bytes.get(ATTRIBUTE_HEADER..length).ok_or_else(damaged)?))
}

/// The value of the attribute `kind` in `bytes`, if it is there.
///
/// # Errors
/// `InvalidData` for damaged bytes.
pub(crate) fn find(bytes: &[u8], kind: u16) -> io::Result<Option<&[u8]>> {
    for parsed in attributes(bytes) {
        let (found, value) = parsed?;
        if found == kind {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The number at offset `at` of `bytes`.
///
/// # Errors
/// `InvalidData` if `bytes` are too short.
pub(crate) fn number<const N: usize, T>(
    bytes: &[u8],
    at: usize,
    decode: fn([u8; N]) -> T,
) -> io::Result<T> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.first_chunk().copied().map(decode).ok_or_else(damaged)
}

/// The text of an attribute without its terminating zero.
pub(crate) fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is damaged")
}
