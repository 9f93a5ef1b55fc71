//! Changes to a packet on its way, in place.

use podgate_tables::address::Mac;
use podgate_tables::drop_reason::DropReason;

use super::checksum::{self, Sum};
use super::{L4, View};
use crate::xsk::{Packet, Umem, Unfinished};

/// Writes the Ethernet addresses of the next hop into the first frame of a parsed packet.
#[inline]
pub fn set_macs(head: &mut [u8], dst: Mac, src: Mac) {
    head[..6].copy_from_slice(&dst);
    head[6..12].copy_from_slice(&src);
}

/// Whether an IPv4 packet's sender forbids to fragment it (RFC 791 §3.1).
#[must_use]
pub fn dont_fragment(head: &[u8], view: &View) -> bool {
    head[usize::from(view.l3) + 6] & 0x40 != 0
}

/// Takes one off the TTL or hop limit in the first frame, and keeps the IPv4 header checksum
/// right.
///
/// # Errors
/// [`DropReason::TtlExceeded`] if none would be left (RFC 1812 §5.3.1); the packet is unchanged.
#[inline]
pub fn decrement_ttl(head: &mut [u8], view: &View) -> Result<(), DropReason> {
    let ip = &mut head[usize::from(view.l3)..];
    if !view.is_v4() {
        ip[7] = hop(ip[7])?;
        return Ok(());
    }
    ip[8] = hop(ip[8])?;
    let sum = checksum::of_one_hop_less(u16::from_be_bytes([ip[10], ip[11]]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

#[inline]
const fn hop(ttl: u8) -> Result<u8, DropReason> {
    match ttl {
        0 | 1 => Err(DropReason::TtlExceeded),
        more => Ok(more - 1),
    }
}

/// Completes the TCP, UDP or SCTP checksum if the sender's stack left that to its device, and
/// returns whether it did.
///
/// A stack with transmit offload writes the folded pseudo-header sum, not complemented, into the
/// field (`CHECKSUM_PARTIAL`, `include/linux/skbuff.h`), and expects the device to add the rest.
/// A field that happens to hold this number though it is complete is written again unchanged. The
/// zero of a UDP datagram without a checksum is left alone: the sum is never zero. Of SCTP, whose
/// checksum covers no pseudo-header, the stack leaves zero (`net/sctp/output.c`,
/// `sctp_packet_pack`).
#[inline]
pub fn complete_checksum(umem: &Umem, packet: &mut Packet, view: &View) -> bool {
    if view.l4_kind == L4::Sctp {
        return complete_crc32c(umem, packet, view);
    }
    let Some(field) = Field::of(umem.data(&packet.head), view) else { return false };
    let pseudo = field.pseudo_header(view);
    if field.value != pseudo.folded() {
        return false;
    }
    let at = usize::from(view.l4 + field.offset);
    umem.data_mut(&mut packet.head)[at..at + 2].fill(0);
    let mut sum = pseudo;
    add_segment(&mut sum, umem, packet, view, field.covered);
    let sum = match (sum.checksum(), view.l4_kind) {
        // Zero would say "no checksum" (RFC 768).
        (0, L4::Udp) => 0xffff,
        (sum, _) => sum,
    };
    umem.data_mut(&mut packet.head)[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Leaves a TCP or UDP checksum that [`complete_checksum`] would complete to the kernel, and
/// returns whether it did.
pub fn leave_checksum(umem: &Umem, packet: &mut Packet, view: &View) -> bool {
    let Some(field) = Field::of(umem.data(&packet.head), view) else { return false };
    // The kernel sums up to the end of the packet.
    let to_the_end = field.covered == view.end - u32::from(view.l4);
    if !to_the_end || field.value != field.pseudo_header(view).folded() {
        return false;
    }
    packet.unfinished = Unfinished::new(view.l4, field.offset);
    true
}

/// RFC 9260 §6.8 and appendix A: CRC32c of the SCTP packet with zeros in the field, least
/// significant byte first.
#[cold]
fn complete_crc32c(umem: &Umem, packet: &mut Packet, view: &View) -> bool {
    let field = usize::from(view.l4) + 8;
    if umem.data(&packet.head)[field..field + 4] != [0; 4] {
        return false;
    }
    let mut crc = 0;
    each_piece(umem, packet, view, view.end - u32::from(view.l4), |bytes| {
        crc = crc32c::crc32c_append(crc, bytes);
    });
    umem.data_mut(&mut packet.head)[field..field + 4].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Whether the TCP or UDP checksum is right, over all frames. True for a UDP datagram over IPv4
/// that has none (RFC 768), and for other protocols.
#[must_use]
pub fn l4_checksum_is_right(umem: &Umem, packet: &Packet, view: &View) -> bool {
    let Some(field) = Field::of(umem.data(&packet.head), view) else { return true };
    if field.value == 0 && view.l4_kind == L4::Udp {
        return view.is_v4();
    }
    let mut sum = field.pseudo_header(view);
    add_segment(&mut sum, umem, packet, view, field.covered);
    sum.checksum() == 0
}

/// The checksum field of a TCP or UDP header.
struct Field {
    /// From the L4 header on, bytes.
    offset: u16,
    value: u16,
    /// Bytes that it covers, from the L4 header on.
    covered: u32,
}

impl Field {
    #[inline]
    fn of(head: &[u8], view: &View) -> Option<Self> {
        let l4 = usize::from(view.l4);
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (offset, covered) = match view.l4_kind {
            L4::Tcp(_) => (checksum::TCP_FIELD, view.end - u32::from(view.l4)),
            L4::Udp => (checksum::UDP_FIELD, u32::from(word(l4 + 4))),
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

/// Adds the first `covered` bytes from the L4 header on, through all frames.
fn add_segment(sum: &mut Sum, umem: &Umem, packet: &Packet, view: &View, covered: u32) {
    each_piece(umem, packet, view, covered, |bytes| sum.add(bytes));
}

/// Shows `look` the first `covered` bytes from the L4 header on, in pieces.
#[inline]
fn each_piece(
    umem: &Umem,
    packet: &Packet,
    view: &View,
    covered: u32,
    mut look: impl FnMut(&[u8]),
) {
    let mut left = covered as usize;
    let mut skip = usize::from(view.l4);
    for frame in std::iter::once(&packet.head).chain(&packet.tail) {
        let bytes = &umem.data(frame)[skip..];
        let bytes = &bytes[..bytes.len().min(left)];
        look(bytes);
        left -= bytes.len();
        skip = 0;
    }
}
