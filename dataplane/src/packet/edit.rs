//! Edits of packets in place. All functions work on byte slices.

use podgate_tables::address::Mac;
use podgate_tables::drop_reason::DropReason;

use super::checksum::{self, Sum};
use super::offset::{ipv4, ipv6, sctp, udp};
use super::{L4, View};
use crate::mem::CsumPartial;

/// Writes the Ethernet addresses of the next hop into the first frame of a packet.
#[inline]
pub fn set_macs(head: &mut [u8], dst: Mac, src: Mac) {
    head[..6].copy_from_slice(&dst);
    head[6..12].copy_from_slice(&src);
}

/// Whether an IPv4 packet has the "don't fragment" flag (RFC 791 §3.1).
#[must_use]
pub fn dont_fragment(head: &[u8], view: &View) -> bool {
    head[usize::from(view.l3) + ipv4::FRAGMENT] & ipv4::DONT_FRAGMENT != 0
}

/// Decrements the TTL or hop limit in the first frame, and updates the IPv4 header checksum.
///
/// # Errors
/// [`DropReason::TtlExceeded`] if it would become zero (RFC 1812 §5.3.1); the packet is unchanged.
#[inline]
pub fn decrement_ttl(head: &mut [u8], view: &View) -> Result<(), DropReason> {
    const SUM: usize = ipv4::CHECKSUM;
    let ip = &mut head[usize::from(view.l3)..];
    if !view.is_v4() {
        ip[ipv6::HOP_LIMIT] = decremented(ip[ipv6::HOP_LIMIT])?;
        return Ok(());
    }
    ip[ipv4::TTL] = decremented(ip[ipv4::TTL])?;
    let sum = checksum::of_decremented_ttl(u16::from_be_bytes([ip[SUM], ip[SUM + 1]]));
    ip[SUM..SUM + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[inline]
const fn decremented(ttl: u8) -> Result<u8, DropReason> {
    match ttl {
        0 | 1 => Err(DropReason::TtlExceeded),
        more => Ok(more - 1),
    }
}

/// Completes a TCP, UDP or SCTP checksum that the sender's stack left to its device, and returns
/// whether it did. The packet is given as its first frame's data and that of each further frame
/// ([`Umem::bytes_mut`](crate::mem::Umem::bytes_mut)).
///
/// A stack with transmit offload writes the folded pseudo-header sum, not complemented, into the
/// field (`CHECKSUM_PARTIAL`, `include/linux/skbuff.h`), and the device adds the rest. If a
/// complete checksum happens to equal that sum, it is rewritten unchanged. Zero, a UDP datagram
/// without checksum, is left unchanged: the sum is never zero. For SCTP, whose checksum covers no
/// pseudo-header, the stack writes zero (`net/sctp/output.c`, `sctp_packet_pack`).
#[inline]
pub fn complete_checksum<'a>(
    (head, tail): (&mut [u8], impl Iterator<Item = &'a [u8]>),
    view: &View,
) -> bool {
    if view.l4_kind == L4::Sctp {
        return complete_crc32c((head, tail), view);
    }
    let Some(field) = Field::of(head, view) else { return false };
    let pseudo = field.pseudo_header(view);
    if field.value != pseudo.folded() {
        return false;
    }
    let at = usize::from(view.l4) + usize::from(field.offset);
    head[at..at + 2].fill(0);
    let mut sum = pseudo;
    each_l4_part((&*head, tail), view, field.covered, |bytes| sum.add(bytes));
    let sum = match (sum.checksum(), view.l4_kind) {
        // Zero would mean "no checksum" (RFC 768).
        (0, L4::Udp) => 0xffff,
        (sum, _) => sum,
    };
    head[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Writes `bytes` at offset `at` of a TCP header, whose checksum is complete, and updates the
/// checksum (RFC 1624).
pub fn replace_in_tcp_header(header: &mut [u8], at: usize, bytes: &[u8]) {
    const CHECKSUM: usize = checksum::TCP_FIELD as usize;
    let words = at & !1..(at + bytes.len()).next_multiple_of(2);
    let sum = |words: &[u8]| {
        let mut sum = Sum::default();
        sum.add(words);
        sum.folded()
    };
    let old = sum(&header[words.clone()]);
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let new = sum(&header[words]);
    let field = u16::from_be_bytes([header[CHECKSUM], header[CHECKSUM + 1]]);
    let field = checksum::update(field, old, new);
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&field.to_be_bytes());
}

/// The partial checksum of a packet that the kernel can complete in place of [`complete_checksum`];
/// `None` if the checksum is complete or the kernel can't.
#[must_use]
pub fn csum_partial(head: &[u8], view: &View) -> Option<CsumPartial> {
    let field = partial_field(head, view)?;
    // After many extension headers it is completed here.
    let start = u8::try_from(view.l4).ok()?;
    Some(CsumPartial::new(start, field.offset))
}

/// Whether the checksum is partial: of the pseudo header only.
#[must_use]
pub fn is_csum_partial(head: &[u8], view: &View) -> bool {
    partial_field(head, view).is_some()
}

fn partial_field(head: &[u8], view: &View) -> Option<Field> {
    let field = Field::of(head, view)?;
    // The kernel sums up to the end of the packet.
    let to_the_end = field.covered == view.end - u32::from(view.l4);
    let is_partial = field.value == field.pseudo_header(view).folded();
    (to_the_end && is_partial).then_some(field)
}

/// RFC 9260 §6.8 and appendix A: CRC32c of the SCTP packet with zeros in the field, least
/// significant byte first.
#[cold]
fn complete_crc32c<'a>(
    (head, tail): (&mut [u8], impl Iterator<Item = &'a [u8]>),
    view: &View,
) -> bool {
    let field = usize::from(view.l4) + sctp::CHECKSUM;
    if head[field..field + 4] != [0; 4] {
        return false;
    }
    let mut crc = 0;
    each_l4_part((&*head, tail), view, view.end - u32::from(view.l4), |bytes| {
        crc = crc32c::crc32c_append(crc, bytes);
    });
    head[field..field + 4].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Edits the header of an SCTP packet by `edit`, and recomputes its CRC32c. A partial one stays
/// partial, and a wrong one wrong. The packet is given as for [`complete_checksum`].
pub(super) fn with_crc32c<'a>(
    (head, tail): (&mut [u8], impl Iterator<Item = &'a [u8]>),
    view: &View,
    edit: impl FnOnce(&mut [u8]),
) {
    let (l4, len) = (usize::from(view.l4), view.end - u32::from(view.l4));
    let field = l4 + sctp::CHECKSUM;
    let former = [head[field], head[field + 1], head[field + 2], head[field + 3]];
    if former == [0; 4] {
        return edit(&mut head[l4..]);
    }
    // The header is summed twice, before and after the edit, and the rest with both.
    let first = head.len().min(view.end as usize) - l4;
    head[field..field + 4].fill(0);
    let mut before = crc32c::crc32c(&head[l4..l4 + first]);
    edit(&mut head[l4..]);
    let mut after = crc32c::crc32c(&head[l4..l4 + first]);
    let mut left = len as usize - first;
    for bytes in tail {
        let bytes = &bytes[..bytes.len().min(left)];
        left -= bytes.len();
        before = crc32c::crc32c_append(before, bytes);
        after = crc32c::crc32c_append(after, bytes);
    }
    let is_right = u32::from_le_bytes(former) == before;
    let crc = if is_right { after.to_le_bytes() } else { former };
    head[field..field + 4].copy_from_slice(&crc);
}

/// Whether a TCP or UDP checksum is partial: [`complete_checksum`] would complete it.
pub(super) fn csum_is_partial(head: &[u8], view: &View) -> bool {
    let field = Field::of(head, view);
    field.is_some_and(|field| field.value == field.pseudo_header(view).folded())
}

/// Bytes that the checksum of a TCP or UDP packet covers, from its L4 header on; zero for others.
pub(super) fn l4_covered(head: &[u8], view: &View) -> u32 {
    Field::of(head, view).map_or(0, |field| field.covered)
}

/// Whether the TCP or UDP checksum is right. True for a UDP datagram over IPv4 without checksum
/// (RFC 768), and for other protocols. The packet is given as for [`complete_checksum`].
#[must_use]
pub fn l4_checksum_is_right<'a>(
    (head, tail): (&[u8], impl Iterator<Item = &'a [u8]>),
    view: &View,
) -> bool {
    let Some(field) = Field::of(head, view) else { return true };
    if field.value == 0 && view.l4_kind == L4::Udp {
        return view.is_v4();
    }
    let mut sum = field.pseudo_header(view);
    each_l4_part((head, tail), view, field.covered, |bytes| sum.add(bytes));
    sum.checksum() == 0
}

/// The checksum field of a TCP or UDP header.
struct Field {
    /// From the start of the L4 header, bytes.
    offset: u8,
    value: u16,
    /// Bytes that it covers, from the start of the L4 header.
    covered: u32,
}

impl Field {
    #[inline]
    fn of(head: &[u8], view: &View) -> Option<Self> {
        let l4 = usize::from(view.l4);
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (offset, covered) = match view.l4_kind {
            L4::Tcp(_) => (checksum::TCP_FIELD, view.end - u32::from(view.l4)),
            L4::Udp => (checksum::UDP_FIELD, u32::from(word(l4 + udp::LEN))),
            _ => return None,
        };
        Some(Self { offset, value: word(l4 + usize::from(offset)), covered })
    }

    #[inline]
    fn pseudo_header(&self, view: &View) -> Sum {
        let tuple = &view.tuple;
        Sum::pseudo_header(tuple.src, tuple.dst, tuple.protocol, self.covered)
    }
}

/// Calls `each` with the first `covered` bytes from the L4 header on, frame by frame.
#[inline]
fn each_l4_part<'a>(
    (head, tail): (&[u8], impl Iterator<Item = &'a [u8]>),
    view: &View,
    covered: u32,
    mut each: impl FnMut(&[u8]),
) {
    let mut left = covered as usize;
    let mut part = |bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(left)];
        left -= bytes.len();
        each(bytes);
    };
    part(&head[usize::from(view.l4)..]);
    tail.for_each(part);
}
