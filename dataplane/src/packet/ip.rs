//! Parses IPv4 and IPv6 headers, of a packet and of one that an ICMP error quotes.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;

use super::FragmentInfo;
use super::offset::{ipv4, ipv6};

/// IPv6 extension header numbers (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// IPv6 extension headers that are parsed, at most. The order that RFC 8200 §4.1 recommends has at
/// most six; the kernel's limit for destination options is eight as well
/// (`IP6_DEFAULT_MAX_DST_OPTS_CNT`).
const MAX_EXTENSIONS: usize = 8;

/// A parsed IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub(super) src: Address,
    pub(super) dst: Address,
    /// Number of the first header that is not an IPv6 extension header; of a later IPv6 fragment,
    /// the number in its fragment header.
    pub(super) protocol: u8,
    /// TTL or hop limit.
    pub(super) ttl: u8,
    /// Length with options or extension headers, bytes. Of an IPv6 fragment: up to and including
    /// the fragment header.
    pub(super) header_len: usize,
    /// Offset of the L4 header, bytes: `header_len`, except for a first IPv6 fragment with
    /// extension headers after its fragment header.
    pub(super) l4: usize,
    /// Length of the whole packet with headers, bytes. At least `header_len`.
    pub(super) total_len: u32,
    /// Fragmentation fields; `None` for an unfragmented packet, including an IPv6 "atomic" fragment
    /// (RFC 6946).
    pub(super) fragment: Option<FragmentInfo>,
}

/// Reads an IPv4 header (RFC 791 §3.1) at the start of `bytes`, which may end after the
/// header.
#[inline]
pub(super) fn v4(bytes: &[u8]) -> Result<Ip, DropReason> {
    let fixed = bytes.first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::TruncatedHeader)?;
    let header_len = usize::from(fixed[ipv4::VERSION_IHL] & 0x0f) * 4;
    let total_len = u32::from(be16(fixed, ipv4::TOTAL_LEN));
    let version = fixed[ipv4::VERSION_IHL] >> 4;
    if version != 4 || header_len < ipv4::HEADER_LEN || (total_len as usize) < header_len {
        return Err(DropReason::Malformed);
    }
    if header_len > ipv4::HEADER_LEN {
        v4_options(bytes.get(ipv4::HEADER_LEN..header_len).ok_or(DropReason::TruncatedHeader)?)?;
    }
    Ok(Ip {
        src: Address::v4(octets(fixed, ipv4::SRC)),
        dst: Address::v4(octets(fixed, ipv4::DST)),
        protocol: fixed[ipv4::PROTOCOL],
        ttl: fixed[ipv4::TTL],
        header_len,
        l4: header_len,
        total_len,
        fragment: v4_fragment(fixed),
    })
}

#[inline]
const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

#[inline]
const fn octets<const N: usize>(h: &[u8; N], at: usize) -> [u8; 4] {
    [h[at], h[at + 1], h[at + 2], h[at + 3]]
}

/// The fragmentation fields of an IPv4 header.
#[inline]
fn v4_fragment(header: &[u8; ipv4::HEADER_LEN]) -> Option<FragmentInfo> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let flags_and_offset = be16(header, ipv4::FRAGMENT);
    if flags_and_offset & (MORE_FRAGMENTS | OFFSET) == 0 {
        return None;
    }
    Some(FragmentInfo {
        id: be16(header, ipv4::ID).into(),
        offset: (flags_and_offset & OFFSET) * 8,
        more: flags_and_offset & MORE_FRAGMENTS != 0,
    })
}

/// Rejects malformed options and source routes: a source-routed packet ends up at another address
/// than the one that policy decides on.
#[cold]
fn v4_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    loop {
        options = match options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::Malformed),
            [_, len, ..] if *len >= 2 => {
                options.get(usize::from(*len)..).ok_or(DropReason::Malformed)?
            }
            _ => return Err(DropReason::Malformed),
        };
    }
}

/// Reads an IPv6 header (RFC 8200 §3) and its extension headers at the start of `bytes`, which
/// may end after them.
#[inline]
pub(super) fn v6(bytes: &[u8]) -> Result<Ip, DropReason> {
    let (fixed, _) =
        bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>().ok_or(DropReason::TruncatedHeader)?;
    if fixed[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        Address::v6(octets)
    };
    let (src, dst) = (address(ipv6::SRC), address(ipv6::DST));
    // IPv4-mapped addresses would be confused with IPv4 ones. They are invalid on the wire, and the
    // kernel drops them, too (`net/ipv6/ip6_input.c`, `ip6_rcv_core`).
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::Malformed);
    }
    // A jumbogram (RFC 2675) has length zero here, so that its hop-by-hop header is out of bounds.
    let total_len = ipv6::HEADER_LEN as u32 + u32::from(be16(fixed, ipv6::PAYLOAD_LEN));
    let mut ip = Ip {
        src,
        dst,
        protocol: fixed[ipv6::NEXT_HEADER],
        ttl: fixed[ipv6::HOP_LIMIT],
        header_len: ipv6::HEADER_LEN,
        l4: ipv6::HEADER_LEN,
        total_len,
        fragment: None,
    };
    if is_extension(ip.protocol) {
        skip_extensions(&mut ip, bytes)?;
    }
    Ok(ip)
}

#[inline]
const fn is_extension(number: u8) -> bool {
    use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// Advances `ip` past the extension headers.
///
/// A first fragment must contain all of them (RFC 7112), since its ports come after them.
#[cold]
fn skip_extensions(ip: &mut Ip, bytes: &[u8]) -> Result<(), DropReason> {
    let mut seen_fragment_header = false;
    for _ in 0..MAX_EXTENSIONS {
        let at = ip.l4;
        let (cut, overrun) = match ip.fragment {
            None => (DropReason::TruncatedHeader, DropReason::Malformed),
            Some(_) => (DropReason::FragmentTiny, DropReason::FragmentTiny),
        };
        let rest = bytes.get(at..).ok_or(cut)?;
        let [next, len, ..] = *rest else { return Err(cut) };
        let header_len = extension_len(ip.protocol, len);
        if at + header_len > ip.total_len as usize {
            return Err(overrun);
        }
        let header = rest.get(..header_len).ok_or(cut)?;
        match ip.protocol {
            // Only the first header may be hop-by-hop (RFC 8200 §4.1).
            extension::HOP_BY_HOP if at == ipv6::HEADER_LEN => check_hop_by_hop(&header[2..])?,
            extension::HOP_BY_HOP => return Err(DropReason::Malformed),
            extension::ROUTING => check_routing_header(header)?,
            extension::AUTHENTICATION if header_len < 12 => return Err(DropReason::Malformed),
            extension::FRAGMENT if seen_fragment_header => return Err(DropReason::Malformed),
            extension::FRAGMENT => {
                seen_fragment_header = true;
                ip.fragment = v6_fragment(header);
            }
            _ => {}
        }
        let in_fragmentable_part = ip.fragment.is_some() && ip.protocol != extension::FRAGMENT;
        ip.protocol = next;
        ip.l4 += header_len;
        if !in_fragmentable_part {
            ip.header_len = ip.l4;
        }
        if ip.fragment.is_some_and(|fragment| fragment.offset > 0) || !is_extension(next) {
            return Ok(());
        }
    }
    Err(DropReason::Malformed)
}

/// The fields of a fragment header (RFC 8200 §4.5).
fn v6_fragment(header: &[u8]) -> Option<FragmentInfo> {
    let offset_and_flag = u16::from_be_bytes([header[2], header[3]]);
    let (offset, more) = (offset_and_flag & 0xfff8, offset_and_flag & 1 != 0);
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    (offset > 0 || more).then_some(FragmentInfo { id, offset, more })
}

/// Length of an extension header of type `number` whose length field is `len`, bytes.
#[inline]
fn extension_len(number: u8, len: u8) -> usize {
    match number {
        extension::AUTHENTICATION => (usize::from(len) + 2) * 4,
        extension::FRAGMENT => ipv6::FRAGMENT_HEADER_LEN,
        _ => (usize::from(len) + 1) * 8,
    }
}

/// An extension header. Offsets are from the start of the packet, bytes.
#[derive(Clone, Copy, Debug)]
struct ExtensionHeader {
    number: u8,
    /// Offset of the header before its number: the "next header" field of the header before it.
    number_at: usize,
    at: usize,
    end: usize,
}

/// The extension headers of an IPv6 packet, which was parsed before.
fn v6_extensions(packet: &[u8]) -> impl Iterator<Item = ExtensionHeader> {
    let (mut number_at, mut at) = (ipv6::NEXT_HEADER, ipv6::HEADER_LEN);
    std::iter::from_fn(move || {
        let number = *packet.get(number_at)?;
        if !is_extension(number) {
            return None;
        }
        let end = at + extension_len(number, *packet.get(at + 1)?);
        let header = ExtensionHeader { number, number_at, at, end };
        (number_at, at) = (at, end);
        Some(header)
    })
}

/// Takes the fragment header out of the chain of a first fragment's headers, of which it is the
/// last. Its bytes stay in place.
pub(super) fn v6_unlink_fragment_header(headers: &mut [u8]) {
    let header = v6_extensions(headers).find(|header| header.number == extension::FRAGMENT);
    if let Some(ExtensionHeader { number_at, at, .. }) = header {
        headers[number_at] = headers[at];
    }
}

/// Inserts the number of a fragment header into the chain of the headers that a fragment begins
/// with: the fragment header is to follow them. Returns the number of the header that followed them
/// before.
pub(super) fn v6_link_fragment_header(headers: &mut [u8]) -> u8 {
    let last = v6_extensions(headers).map(|header| header.at).last();
    std::mem::replace(&mut headers[last.unwrap_or(ipv6::NEXT_HEADER)], extension::FRAGMENT)
}

/// Length of the headers of an IPv6 packet that each of its fragments begins with: those which
/// routers process. These are all up to the routing header, or else the hop-by-hop options (RFC
/// 8200 §4.5).
pub(super) fn v6_per_fragment_headers(packet: &[u8]) -> usize {
    use extension::{DESTINATION, HOP_BY_HOP, ROUTING};
    v6_extensions(packet)
        .take_while(|header| matches!(header.number, HOP_BY_HOP | DESTINATION | ROUTING))
        .filter(|header| header.number != DESTINATION)
        .last()
        .map_or(ipv6::HEADER_LEN, |header| header.end)
}

/// Rejects type 0 (deprecated, RFC 5095) and any type with segments left, which is forwarded beyond
/// the address that policy decides on. Without segments left it has no effect (RFC 8200 §4.4).
fn check_routing_header(header: &[u8]) -> Result<(), DropReason> {
    let (kind, segments_left) = (header[2], header[3]);
    if kind == 0 || segments_left != 0 { Err(DropReason::Malformed) } else { Ok(()) }
}

/// Rejects malformed hop-by-hop options, and a jumbo payload length with a payload length that is
/// not zero (RFC 2675 §3).
fn check_hop_by_hop(mut options: &[u8]) -> Result<(), DropReason> {
    const PAD1: u8 = 0;
    const JUMBO_PAYLOAD: u8 = 0xc2;
    loop {
        options = match options {
            [] => return Ok(()),
            [PAD1, rest @ ..] => rest,
            [JUMBO_PAYLOAD, ..] => return Err(DropReason::Malformed),
            [_, len, rest @ ..] => rest.get(usize::from(*len)..).ok_or(DropReason::Malformed)?,
            [_] => return Err(DropReason::Malformed),
        };
    }
}
