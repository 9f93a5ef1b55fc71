//! Netlink messages as bytes (netlink(7)), for what rtnetlink doesn't parse: requests, the messages
//! of a dump, attributes. What is damaged is an error, since whoever asks must not take half of an
//! answer for the whole.

use std::io;

use nix::libc;

/// `NLM_F_REQUEST | NLM_F_DUMP` of `include/uapi/linux/netlink.h`.
const DUMP: u16 = 0x1 | 0x300;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile, so that something may be missing.
const INTERRUPTED: u16 = 0x10;
/// Types of control messages.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`, and of `struct nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The bits of an attribute's type that are no flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// The request for a dump: `kind` is the message's type, `body` the header behind it with its
/// attributes, a multiple of 4 bytes.
pub(super) fn dump_request(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    request
}

/// An attribute, padded to a multiple of 4 bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Hands the body of each message of `datagram` that answers the request `sequence` to `take`.
/// Returns whether the dump has ended.
///
/// # Errors
/// What the kernel said, `EINTR` if the dump is not consistent, `InvalidData` for damaged bytes.
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
        if flags & INTERRUPTED != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        match kind {
            // The number is what went wrong, negative; of a dump's end it may be left out.
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

/// The attributes in `bytes`, each with its type, without flags.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, &[u8])>> {
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
pub(super) fn find(bytes: &[u8], kind: u16) -> io::Result<Option<&[u8]>> {
    for parsed in attributes(bytes) {
        let (found, value) = parsed?;
        if found == kind {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// A number at the offset `at` of `bytes`.
///
/// # Errors
/// `InvalidData` if it isn't there.
pub(super) fn number<const N: usize, T>(
    bytes: &[u8],
    at: usize,
    decode: fn([u8; N]) -> T,
) -> io::Result<T> {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.first_chunk().copied().map(decode).ok_or_else(damaged)
}

/// The text of an attribute, without the zero that ends it.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer can't be read")
}
