//! IPv4 and IPv6 headers, of a packet itself and of one that an ICMP error quotes.

use crate::drop_reason::DropReason;
use crate::types::Address;

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
    /// Of the first header that is no IPv6 extension; of a fragment: what its fragment header
    /// names.
    pub(super) protocol: u8,
    /// TTL or hop limit.
    pub(super) ttl: u8,
    /// With options or extension headers, bytes.
    pub(super) header_len: usize,
    /// Of the whole packet, headers included, bytes. At least `header_len`.
    pub(super) total_len: u32,
    /// Any fragment, "atomic" ones too (RFC 6946): the XDP program steers all of them alike.
    pub(super) fragment: bool,
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
        total_len,
        // More fragments, or an offset.
        fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0,
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
        total_len,
        fragment: false,
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

/// Moves `ip` past the extension headers, up to and including a fragment header.
#[cold]
fn skip_extensions(ip: &mut Ip, bytes: &[u8]) -> Result<(), DropReason> {
    for _ in 0..MAX_EXTENSIONS {
        let first = ip.header_len == 40;
        let rest = bytes.get(ip.header_len..).ok_or(DropReason::Truncated)?;
        let [next, len, ..] = *rest else { return Err(DropReason::Truncated) };
        let header_len = match ip.protocol {
            extension::AUTHENTICATION => (usize::from(len) + 2) * 4,
            extension::FRAGMENT => 8,
            _ => (usize::from(len) + 1) * 8,
        };
        if ip.header_len + header_len > ip.total_len as usize {
            return Err(DropReason::Malformed);
        }
        let header = rest.get(..header_len).ok_or(DropReason::Truncated)?;
        match ip.protocol {
            // Only the first header may be hop-by-hop (RFC 8200 §4.1).
            extension::HOP_BY_HOP if first => refuse_jumbo(&header[2..])?,
            extension::HOP_BY_HOP => return Err(DropReason::Malformed),
            extension::ROUTING => refuse_source_route(header)?,
            extension::AUTHENTICATION if header_len < 12 => return Err(DropReason::Malformed),
            extension::FRAGMENT => ip.fragment = true,
            _ => {}
        }
        ip.protocol = next;
        ip.header_len += header_len;
        if ip.fragment || !is_extension(next) {
            return Ok(());
        }
    }
    Err(DropReason::Malformed)
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
pub(super) fn has_martian(ip: &Ip) -> bool {
    match (ip.src.as_v4_bits(), ip.dst.as_v4_bits()) {
        (Some(src), Some(dst)) => {
            let local = |address: u32| matches!(address >> 24, 0 | 127);
            local(src) || local(dst) || src >> 28 == 0xe || src == u32::MAX
        }
        // `::` and `::1`; ff00::/8.
        _ => ip.src.bits() <= 1 || ip.dst.bits() <= 1 || ip.src.bits() >> 120 == 0xff,
    }
}
