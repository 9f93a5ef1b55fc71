//! Cutting a packet into fragments (RFC 791 §3.2, RFC 8200 §4.5).

use podgate_tables::drop_reason::DropReason;

use super::{View, checksum, ip};
use crate::xsk::{Frame, FramePool, Packet, Umem};

/// Fragments that we make of one packet, at most: 65,535 bytes for the least that every IPv4 host
/// takes, 576 bytes, with all options.
const FRAGMENTS_MAX: u32 = 128;

/// Longest IPv4 header.
const V4_HEADER_MAX: usize = 60;

/// Makes a packet's fragments, one after the other.
#[derive(Debug)]
pub struct Cut<'p> {
    packet: &'p Packet,
    view: &'p View,
    /// Where the part begins that is cut up, bytes from the start of the packet.
    body: u32,
    /// The IPv4 header of all fragments but the first: only some options are repeated.
    later_v4: ([u8; V4_HEADER_MAX], u8),
    /// Largest IP packet to make.
    size: u32,
    /// Bytes of the body that the fragments so far have.
    done: u32,
}

impl<'p> Cut<'p> {
    /// Prepares fragments of at most `size` bytes from a packet that is parsed and, for its
    /// checksum and its hop count, ready to go.
    ///
    /// # Errors
    /// [`DropReason::TooBig`] if it would take too many, and for an IPv6 packet without a fragment
    /// header: only its sender may fragment it.
    pub fn new(
        umem: &Umem,
        packet: &'p Packet,
        view: &'p View,
        size: u32,
    ) -> Result<Self, DropReason> {
        let header = &umem.data(&packet.head)[usize::from(view.l3)..];
        let body = match view.is_v4() {
            true => view.l4,
            false => view.l3 + ip::v6_fragmentable(header).ok_or(DropReason::TooBig)?,
        };
        let headers = u32::from(body - view.l3);
        let room = size.saturating_sub(headers) / 8 * 8;
        let body = u32::from(body);
        if room == 0 || (view.end - body).div_ceil(room) > FRAGMENTS_MAX {
            return Err(DropReason::TooBig);
        }
        let later_v4 = match view.is_v4() {
            true => later_v4_header(&header[..headers as usize]),
            false => ([0; V4_HEADER_MAX], 0),
        };
        Ok(Self { packet, view, body, later_v4, size, done: 0 })
    }

    /// The next fragment; `None` after the last.
    ///
    /// # Errors
    /// [`DropReason::NoFrame`] if there is no frame to build it in.
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
        let room = (self.size - header.len() as u32) / 8 * 8;
        let len = left.min(room);
        let Some(mut fragment) = Growing::new(pool) else {
            return Some(Err(DropReason::NoFrame));
        };
        let mut fits = fragment.append(umem, pool, &head[..l3]);
        fits &= fragment.append(umem, pool, header);
        let header_len = header.len();
        for bytes in pieces(umem, self.packet, self.body + self.done, len) {
            fits &= fragment.append(umem, pool, bytes);
        }
        let mut fragment = fragment.finish();
        if !fits {
            pool.free_packet(fragment);
            return Some(Err(DropReason::NoFrame));
        }
        let bytes = &mut umem.data_mut(&mut fragment.head)[l3..l3 + header_len];
        let more = len < left;
        match self.view.is_v4() {
            true => number_v4(bytes, len, self.done, more),
            false => number_v6(bytes, len, self.done, more),
        }
        self.done += len;
        Some(Ok(fragment))
    }
}

/// The header with those options only that all fragments have (RFC 791 §3.1, "copied").
fn later_v4_header(first: &[u8]) -> ([u8; V4_HEADER_MAX], u8) {
    const COPIED: u8 = 0x80;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut header = [0; V4_HEADER_MAX];
    header[..20].copy_from_slice(&first[..20]);
    let (mut len, mut options) = (20, &first[20..]);
    // The parser has checked that the options fit.
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
    // What is left of the last word are zeros: "end of options".
    let len = len.next_multiple_of(4);
    header[0] = 0x40 | (len / 4) as u8;
    (header, len as u8)
}

fn number_v4(header: &mut [u8], len: u32, offset: u32, more: bool) {
    let total = (header.len() as u32 + len) as u16;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    let position = (offset / 8) as u16 | u16::from(more) << 13;
    let dont_fragment = header[6] & 0x40;
    header[6..8].copy_from_slice(&position.to_be_bytes());
    header[6] |= dont_fragment;
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The fragment header is the last of the headers that each fragment has.
fn number_v6(header: &mut [u8], len: u32, offset: u32, more: bool) {
    let payload = (header.len() as u32 - 40 + len) as u16;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    let position = offset as u16 | u16::from(more);
    let at = header.len() - 6;
    header[at..at + 2].copy_from_slice(&position.to_be_bytes());
}

/// `len` bytes of a packet from byte `from` on, frame by frame.
fn pieces<'p>(
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

/// A packet that is written from its start to its end.
struct Growing {
    packet: Packet,
}

impl Growing {
    fn new(pool: &mut FramePool) -> Option<Self> {
        Some(Self { packet: Packet::single(pool.alloc()?) })
    }

    /// Appends bytes. False if frames ran out.
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
