//! Fragmentation of packets (RFC 791 §3.2, RFC 8200 §4.5).

use podgate_tables::drop_reason::DropReason;

use super::offset::{ipv4, ipv6};
use super::{View, checksum, ip};
use crate::mem::{FRAME_HEADROOM, FRAME_SIZE, Frame, FramePool, Packet, Umem};

/// Fragments of one packet, at most: enough for 65,535 bytes at the minimum IPv4 MTU, 576 bytes,
/// with all options.
pub const FRAGMENTS_MAX: u32 = 128;

/// Longest IPv4 header.
const V4_HEADER_MAX: usize = 60;

/// Splits a packet into fragments, one at a time.
#[derive(Debug)]
pub struct Fragmenter<'p> {
    packet: &'p Packet,
    view: &'p View,
    /// Offset of the fragmentable part in the packet, bytes.
    body: u32,
    /// IPv4 header of all fragments but the first, and its length, bytes: only some options are
    /// copied.
    later_v4: ([u8; V4_HEADER_MAX], u8),
    /// Length of the headers that a fragment adds to those of the packet: of its IPv6 fragment
    /// header, bytes.
    added: usize,
    /// Longest IP packet to build, bytes.
    size: u32,
    /// Bytes of the fragmentable part in the fragments so far.
    done: u32,
}

impl<'p> Fragmenter<'p> {
    /// Fragments of at most `size` bytes of a packet whose L4 checksum is complete and whose TTL is
    /// decremented.
    ///
    /// # Errors
    /// [`DropReason::PacketTooBig`] if there would be too many, or the headers are too long.
    pub fn new(
        umem: &Umem,
        packet: &'p Packet,
        view: &'p View,
        size: u32,
    ) -> Result<Self, DropReason> {
        let header = &umem.data(&packet.head)[usize::from(view.l3)..];
        let (headers, added) = match view.is_v4() {
            true => (usize::from(view.l4 - view.l3), 0),
            false => (ip::v6_per_fragment_headers(header), ipv6::FRAGMENT_HEADER_LEN),
        };
        let headers_end = usize::from(view.l3) + headers + added;
        let room = size.saturating_sub((headers + added) as u32) / 8 * 8;
        let body = u32::from(view.l3) + headers as u32;
        if headers_end > (FRAME_SIZE - FRAME_HEADROOM) as usize
            || room == 0
            || (view.end - body).div_ceil(room) > FRAGMENTS_MAX
        {
            return Err(DropReason::PacketTooBig);
        }
        let later_v4 = match view.is_v4() {
            true => later_v4_header(&header[..headers]),
            false => ([0; V4_HEADER_MAX], 0),
        };
        Ok(Self { packet, view, body, later_v4, added, size, done: 0 })
    }

    /// The next fragment; `None` after the last.
    ///
    /// # Errors
    /// [`DropReason::NoFrame`] if no frame is free.
    pub fn next(
        &mut self,
        umem: &Umem,
        pool: &mut FramePool,
    ) -> Option<Result<Packet, DropReason>> {
        let left = self.view.end - self.body - self.done;
        if left == 0 {
            return None;
        }
        let l3 = usize::from(self.view.l3);
        let head = umem.data(&self.packet.head);
        let (later, later_len) = &self.later_v4;
        let header = match self.view.is_v4() && self.done > 0 {
            true => &later[..usize::from(*later_len)],
            false => &head[l3..self.body as usize],
        };
        let header_len = header.len() + self.added;
        let room = (self.size - header_len as u32) / 8 * 8;
        let len = left.min(room);
        let Some(mut fragment) = Builder::new(pool) else {
            return Some(Err(DropReason::NoFrame));
        };
        let mut fits = fragment.append(umem, pool, &head[..l3]);
        fits &= fragment.append(umem, pool, header);
        fits &= fragment.append(umem, pool, &[0; ipv6::FRAGMENT_HEADER_LEN][..self.added]);
        for bytes in parts(umem, self.packet, self.body + self.done, len) {
            fits &= fragment.append(umem, pool, bytes);
        }
        let mut fragment = fragment.finish();
        if !fits {
            pool.free_packet(fragment);
            return Some(Err(DropReason::NoFrame));
        }
        let bytes = &mut umem.data_mut(&mut fragment.head)[l3..l3 + header_len];
        let position = Position { offset: self.done, len, is_last: len == left };
        match self.view.is_v4() {
            true => set_fields_v4(bytes, position),
            false => set_fields_v6(bytes, position, self.packet.fragment_id),
        }
        self.done += len;
        Some(Ok(fragment))
    }
}

/// Position of a fragment in the fragmentable part, bytes.
#[derive(Clone, Copy)]
struct Position {
    offset: u32,
    len: u32,
    is_last: bool,
}

/// The header with the options that all fragments have (RFC 791 §3.1, "copied"), and its length.
fn later_v4_header(first: &[u8]) -> ([u8; V4_HEADER_MAX], u8) {
    const COPIED: u8 = 0x80;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut header = [0; V4_HEADER_MAX];
    header[..ipv4::HEADER_LEN].copy_from_slice(&first[..ipv4::HEADER_LEN]);
    let (mut len, mut options) = (ipv4::HEADER_LEN, &first[ipv4::HEADER_LEN..]);
    // The parser has checked the lengths of the options.
    while let [kind, ..] = *options
        && kind != END
    {
        let size = if kind == NO_OPERATION { 1 } else { usize::from(options[1]) };
        if kind & COPIED != 0 {
            header[len..len + size].copy_from_slice(&options[..size]);
            len += size;
        }
        options = &options[size..];
    }
    // The padding is zero: "end of options".
    let len = len.next_multiple_of(4);
    header[0] = 0x40 | (len / 4) as u8;
    (header, len as u8)
}

fn set_fields_v4(header: &mut [u8], position: Position) {
    let total = (header.len() as u32 + position.len) as u16;
    header[ipv4::TOTAL_LEN..][..2].copy_from_slice(&total.to_be_bytes());
    let fragment = (position.offset / 8) as u16 | u16::from(!position.is_last) << 13;
    let dont_fragment = header[ipv4::FRAGMENT] & ipv4::DONT_FRAGMENT;
    header[ipv4::FRAGMENT..][..2].copy_from_slice(&fragment.to_be_bytes());
    header[ipv4::FRAGMENT] |= dont_fragment;
    header[ipv4::CHECKSUM..][..2].fill(0);
    let sum = checksum::of(header);
    header[ipv4::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// The fragment header is the last one of `header`.
fn set_fields_v6(header: &mut [u8], position: Position, id: u32) {
    let payload = ((header.len() - ipv6::HEADER_LEN) as u32 + position.len) as u16;
    header[ipv6::PAYLOAD_LEN..][..2].copy_from_slice(&payload.to_be_bytes());
    let fragment = position.offset as u16 | u16::from(!position.is_last);
    let (headers, fragment_header) = header.split_at_mut(header.len() - ipv6::FRAGMENT_HEADER_LEN);
    fragment_header[0] = ip::v6_link_fragment_header(headers);
    fragment_header[2..4].copy_from_slice(&fragment.to_be_bytes());
    fragment_header[4..8].copy_from_slice(&id.to_be_bytes());
}

/// Removes the fragment header from a first IPv6 fragment; `view` has it as the last IP header. The
/// headers before it move, and with them the start of the packet.
pub fn remove_fragment_header(umem: &Umem, frame: &mut Frame, view: &View) {
    const REMOVED: usize = ipv6::FRAGMENT_HEADER_LEN;
    let headers = &mut umem.data_mut(frame)[..usize::from(view.l4)];
    ip::v6_unlink_fragment_header(&mut headers[usize::from(view.l3)..]);
    headers.copy_within(..headers.len() - REMOVED, REMOVED);
    frame.set_extent(frame.offset() + REMOVED as u32, frame.len() - REMOVED as u32);
}

/// `len` bytes of a packet from byte `from` on, frame by frame.
fn parts<'p>(
    umem: &'p Umem,
    packet: &'p Packet,
    from: u32,
    len: u32,
) -> impl Iterator<Item = &'p [u8]> {
    let (mut skip, mut left) = (from as usize, len as usize);
    std::iter::once(&packet.head).chain(&packet.tail).map(move |frame| {
        let bytes = umem.data(frame);
        let bytes = &bytes[skip.min(bytes.len())..];
        skip = skip.saturating_sub(frame.len() as usize);
        let bytes = &bytes[..left.min(bytes.len())];
        left -= bytes.len();
        bytes
    })
}

/// Builds a packet by appending bytes.
struct Builder {
    packet: Packet,
}

impl Builder {
    fn new(pool: &mut FramePool) -> Option<Self> {
        Some(Self { packet: Packet::single(pool.alloc()?) })
    }

    /// Appends bytes. Returns false if no frame is free.
    fn append(&mut self, umem: &Umem, pool: &mut FramePool, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let room = |frame: &Frame| frame.capacity() - frame.len();
            if self.packet.tail.last().map_or_else(|| room(&self.packet.head), room) == 0 {
                let Some(frame) = pool.alloc() else { return false };
                if self.packet.tail.is_empty() {
                    self.packet.tail = pool.tail();
                }
                self.packet.tail.push(frame);
            }
            let frame = match self.packet.tail.last_mut() {
                Some(frame) => frame,
                None => &mut self.packet.head,
            };
            let (len, fits) = (frame.len(), room(frame).min(bytes.len() as u32));
            frame.set_len(len + fits);
            let (now, later) = bytes.split_at(fits as usize);
            umem.data_mut(frame)[len as usize..].copy_from_slice(now);
            bytes = later;
        }
        true
    }

    fn finish(self) -> Packet {
        self.packet
    }
}
