//! IPv4 and IPv6 headers, of a packet itself and of one that an ICMP error quotes.

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;

use super::Piece;

/// IPv6 extension header numbers (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// IPv6 extension headers that we look through at most. RFC 8200 §4.1 recommends an order in which
/// there are at most six before the upper layer; the kernel's own bound for destination options is
/// eight as well (`IP6_DEFAULT_MAX_DST_OPTS_CNT`).
const MAX_EXTENSIONS: usize = 8;

/// What an IP header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub(super) src: Address,
    pub(super) dst: Address,
    /// Of the first header that is no IPv6 extension; of an IPv6 fragment that is not the first:
    /// what its fragment header names.
    pub(super) protocol: u8,
    /// TTL or hop limit.
    pub(super) ttl: u8,
    /// With options or extension headers, bytes. Of an IPv6 fragment: up to and including its
    /// fragment header.
    pub(super) header_len: usize,
    /// Where the L4 header begins: behind `header_len` bytes, but for a first IPv6 fragment with
    /// extension headers behind its fragment header.
    pub(super) l4: usize,
    /// Of the whole packet, headers included, bytes. At least `header_len`.
    pub(super) total_len: u32,
    /// Which part of a datagram this is. `None` for a whole one, also if an IPv6 fragment header
    /// says so (an "atomic" fragment, RFC 6946).
    pub(super) fragment: Option<Piece>,
}

/// Reads an IPv4 header (RFC 791 §3.1) at the start of `bytes`. What follows the header may be cut
/// off.
#[inline]
pub(super) fn v4(bytes: &[u8]) -> Result<Ip, DropReason> {
    let fixed = bytes.first_chunk::<20>().ok_or(DropReason::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total_len = u32::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if fixed[0] >> 4 != 4 || header_len < 20 || (total_len as usize) < header_len {
        return Err(DropReason::Malformed);
    }
    if header_len > 20 {
        v4_options(bytes.get(20..header_len).ok_or(DropReason::Truncated)?)?;
    }
    Ok(Ip {
        src: Address::v4([fixed[12], fixed[13], fixed[14], fixed[15]]),
        dst: Address::v4([fixed[16], fixed[17], fixed[18], fixed[19]]),
        protocol: fixed[9],
        ttl: fixed[8],
        header_len,
        l4: header_len,
        total_len,
        fragment: v4_piece(u16::from_be_bytes([fixed[6], fixed[7]]), [fixed[4], fixed[5]]),
    })
}

/// From the flags and the offset, and the identification, of an IPv4 header.
#[inline]
fn v4_piece(flags_and_offset: u16, id: [u8; 2]) -> Option<Piece> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    if flags_and_offset & (MORE_FRAGMENTS | OFFSET) == 0 {
        return None;
    }
    Some(Piece {
        id: u16::from_be_bytes(id).into(),
        offset: (flags_and_offset & OFFSET) * 8,
        more: flags_and_offset & MORE_FRAGMENTS != 0,
    })
}

/// Refuses options that don't fit, and source routes: with one, the address that policy judges is
/// not where the packet ends up.
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

/// Reads an IPv6 header (RFC 8200 §3) and its extension headers at the start of `bytes`. What
/// follows them may be cut off.
#[inline]
pub(super) fn v6(bytes: &[u8]) -> Result<Ip, DropReason> {
    let (fixed, _) = bytes.split_first_chunk::<40>().ok_or(DropReason::Truncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        Address::v6(octets)
    };
    let (src, dst) = (address(8), address(24));
    // Such an address would be taken for the IPv4 one. It has no place on the wire, and the kernel
    // refuses it too (`net/ipv6/ip6_input.c`, `ip6_rcv_core`).
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::Malformed);
    }
    // A jumbogram (RFC 2675) has length zero here; its hop-by-hop header then lies outside.
    let total_len = 40 + u32::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let mut ip = Ip {
        src,
        dst,
        protocol: fixed[6],
        ttl: fixed[7],
        header_len: 40,
        l4: 40,
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

/// Moves `ip` past the extension headers.
///
/// Those of a first fragment have to be all in it (RFC 7112): without them its ports can't be told.
#[cold]
fn skip_extensions(ip: &mut Ip, bytes: &[u8]) -> Result<(), DropReason> {
    let mut seen_fragment_header = false;
    for _ in 0..MAX_EXTENSIONS {
        let at = ip.l4;
        let (cut, overrun) = match ip.fragment {
            None => (DropReason::Truncated, DropReason::Malformed),
            Some(_) => (DropReason::FragmentTiny, DropReason::FragmentTiny),
        };
        let rest = bytes.get(at..).ok_or(cut)?;
        let [next, len, ..] = *rest else { return Err(cut) };
        let header_len = match ip.protocol {
            extension::AUTHENTICATION => (usize::from(len) + 2) * 4,
            extension::FRAGMENT => 8,
            _ => (usize::from(len) + 1) * 8,
        };
        if at + header_len > ip.total_len as usize {
            return Err(overrun);
        }
        let header = rest.get(..header_len).ok_or(cut)?;
        match ip.protocol {
            // Only the first header may be hop-by-hop (RFC 8200 §4.1).
            extension::HOP_BY_HOP if at == 40 => refuse_jumbo(&header[2..])?,
            extension::HOP_BY_HOP => return Err(DropReason::Malformed),
            extension::ROUTING => refuse_source_route(header)?,
            extension::AUTHENTICATION if header_len < 12 => return Err(DropReason::Malformed),
            extension::FRAGMENT if seen_fragment_header => return Err(DropReason::Malformed),
            extension::FRAGMENT => {
                seen_fragment_header = true;
                ip.fragment = v6_piece(header);
            }
            _ => {}
        }
        let part_of_the_rest = ip.fragment.is_some() && ip.protocol != extension::FRAGMENT;
        ip.protocol = next;
        ip.l4 += header_len;
        if !part_of_the_rest {
            ip.header_len = ip.l4;
        }
        if ip.fragment.is_some_and(|piece| piece.offset > 0) || !is_extension(next) {
            return Ok(());
        }
    }
    Err(DropReason::Malformed)
}

/// From a fragment header (RFC 8200 §4.5).
fn v6_piece(header: &[u8]) -> Option<Piece> {
    let offset_and_flag = u16::from_be_bytes([header[2], header[3]]);
    let (offset, more) = (offset_and_flag & 0xfff8, offset_and_flag & 1 != 0);
    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    (offset > 0 || more).then_some(Piece { id, offset, more })
}

/// Where the part of an IPv6 packet begins that its fragment header is about: bytes from the start
/// of `packet`, which was parsed before. `None` without a fragment header.
pub(super) fn v6_fragmentable(packet: &[u8]) -> Option<u16> {
    let (mut at, mut next) = (40, *packet.get(6)?);
    while is_extension(next) {
        let [following, len, ..] = *packet.get(at..)? else { return None };
        at += match next {
            extension::AUTHENTICATION => (usize::from(len) + 2) * 4,
            extension::FRAGMENT => return u16::try_from(at + 8).ok(),
            _ => (usize::from(len) + 1) * 8,
        };
        next = following;
    }
    None
}

/// Type 0 is deprecated (RFC 5095). Any other with segments left leads on from the address that
/// policy judges; with none left it says nothing (RFC 8200 §4.4).
fn refuse_source_route(header: &[u8]) -> Result<(), DropReason> {
    let (kind, segments_left) = (header[2], header[3]);
    if kind == 0 || segments_left != 0 { Err(DropReason::Malformed) } else { Ok(()) }
}

/// Refuses hop-by-hop options that don't fit, and a jumbo payload length beside a length that is
/// not zero (RFC 2675 §3).
fn refuse_jumbo(mut options: &[u8]) -> Result<(), DropReason> {
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

/// Whether an address is where it can't be: a source that is multicast, broadcast, unspecified or
/// loopback, or a destination that is unspecified or loopback.
///
/// The rules are the kernel's (`net/ipv4/route.c`, `ip_route_input_slow`; `net/ipv6/ip6_input.c`,
/// `ip6_rcv_core`; RFC 4291 §2.5.2 and §2.5.3), and loopback destinations are refused even where
/// `route_localnet` is on: no pod reaches the node's own loopback. The unspecified source of
/// duplicate address detection never comes here, since the XDP program leaves neighbour discovery
/// to the kernel.
#[inline]
pub(super) fn is_martian(src: Address, dst: Address) -> bool {
    match (src.as_v4_bits(), dst.as_v4_bits()) {
        (Some(src), Some(dst)) => {
            let local = |address: u32| matches!(address >> 24, 0 | 127);
            local(src) || local(dst) || src >> 28 == 0xe || src == u32::MAX
        }
        // `::` and `::1`; ff00::/8.
        _ => src.bits() <= 1 || dst.bits() <= 1 || src.bits() >> 120 == 0xff,
    }
}
