//! One TCP segment as it arrived: where its bytes lie, and how to send on only some of them.

use podgate_tables::{proto, tcp_flags};

use super::super::io::FlowIo;
use super::seq::Seq;
use crate::packet::checksum::{self, Sum};
use crate::packet::{Tcp, View, edit};
use crate::xsk::{Packet, Umem};

/// A segment with its parsed headers.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) view: View,
    pub(super) tcp: Tcp,
    pub(super) packet: Packet,
}

impl Arrived {
    /// Position of the first payload byte.
    pub(super) const fn start(&self) -> Seq {
        Seq(self.tcp.seq)
    }

    /// Payload bytes.
    pub(super) fn len(&self) -> u32 {
        self.view.payload_len()
    }

    /// Position behind the last payload byte, where a FIN would be.
    pub(super) fn end(&self) -> Seq {
        self.start().plus(self.len())
    }

    pub(super) const fn has_fin(&self) -> bool {
        self.tcp.has(tcp_flags::FIN)
    }

    /// Position behind everything, the FIN included.
    pub(super) fn end_with_fin(&self) -> Seq {
        self.end().plus(u32::from(self.has_fin()))
    }

    /// Payload bytes from `offset` to the end of the frame that they lie in; not empty before the
    /// end of the payload.
    pub(super) fn bytes<'a>(&'a self, umem: &'a Umem, offset: u32) -> &'a [u8] {
        let mut at = u32::from(self.view.payload) + offset;
        let mut left = self.view.end.saturating_sub(at);
        for frame in std::iter::once(&self.packet.head).chain(&self.packet.tail) {
            if at < frame.len() {
                left = left.min(frame.len() - at);
                return &umem.data(frame)[at as usize..(at + left) as usize];
            }
            at -= frame.len();
        }
        &[]
    }

    /// The TCP options.
    pub(super) fn options<'a>(&'a self, umem: &'a Umem) -> Options<'a> {
        let (l4, payload) = (usize::from(self.view.l4), usize::from(self.view.payload));
        Options(&umem.data(&self.packet.head)[l4 + 20..payload])
    }

    /// Writes the sender's timestamp anew, if the segment has one. A receiver drops a segment with
    /// an older one than it has seen (RFC 7323 §5.3), as it would one that was put off.
    pub(super) fn set_timestamp(&mut self, value: u32, umem: &Umem) {
        let Some(at) = self.options(umem).find(TIMESTAMP, 10) else { return };
        let at = usize::from(self.view.l4) + 20 + at + 2;
        umem.data_mut(&mut self.packet.head)[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self.write_headers(umem);
    }

    /// Cuts the payload down to its first `len` bytes, takes the FIN off, and moves the segment to
    /// `start` (which only makes sense if nothing of the payload is left).
    pub(super) fn cut(&mut self, start: Seq, len: u32, io: &mut impl FlowIo) {
        debug_assert!(len <= self.len() && (len == 0 || start == self.start()));
        let end = u32::from(self.view.payload) + len;
        let mut before = self.packet.head.len();
        self.packet.head.set_len(before.min(end));
        let mut kept = 0;
        for frame in &mut self.packet.tail {
            if before >= end {
                break;
            }
            let whole = frame.len();
            frame.set_len(whole.min(end - before));
            before += whole;
            kept += 1;
        }
        for frame in self.packet.tail.drain(kept..) {
            io.free(frame);
        }
        self.view.end = end;
        self.tcp.seq = start.0;
        self.tcp.flags &= !(tcp_flags::FIN | tcp_flags::PSH | tcp_flags::URG);
        self.write_headers(io.umem());
    }

    /// Writes lengths, position, flags and checksums back into the first frame.
    fn write_headers(&mut self, umem: &Umem) {
        let (l3, l4) = (usize::from(self.view.l3), usize::from(self.view.l4));
        let ip_len = self.view.ip_len();
        let is_v4 = self.view.is_v4();
        let head = umem.data_mut(&mut self.packet.head);
        if is_v4 {
            head[l3 + 2..l3 + 4].copy_from_slice(&(ip_len as u16).to_be_bytes());
            head[l3 + 10..l3 + 12].fill(0);
            let header_len = usize::from(head[l3] & 0x0f) * 4;
            let sum = checksum::of(&head[l3..l3 + header_len]);
            head[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        } else {
            head[l3 + 4..l3 + 6].copy_from_slice(&((ip_len - 40) as u16).to_be_bytes());
        }
        head[l4 + 4..l4 + 8].copy_from_slice(&self.tcp.seq.to_be_bytes());
        head[l4 + 13] = self.tcp.flags;
        head[l4 + 18..l4 + 20].fill(0);
        let tuple = &self.view.tuple;
        let segment_len = self.view.end - u32::from(self.view.l4);
        let pseudo = Sum::pseudo_header(tuple.src, tuple.dst, proto::TCP, segment_len);
        // What a sender with checksum offload leaves, which is then completed as for any packet.
        head[l4 + 16..l4 + 18].copy_from_slice(&pseudo.folded().to_be_bytes());
        edit::complete_checksum(umem, &mut self.packet, &self.view);
    }
}

/// TCP options (RFC 9293 §3.2, RFC 7323).
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a>(&'a [u8]);

const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMP: u8 = 8;

impl Options<'_> {
    /// Offset of the first option of this kind and length.
    fn find(&self, kind: u8, len: u8) -> Option<usize> {
        // How nearly every segment carries its timestamp (RFC 7323 appendix A).
        if kind == TIMESTAMP && self.0.starts_with(&[1, 1, TIMESTAMP, 10]) && self.0.len() >= 12 {
            return Some(2);
        }
        let mut at = 0;
        while let Some([found, rest @ ..]) = self.0.get(at..) {
            match (*found, rest.first()) {
                (1, _) => at += 1,
                (0, _) | (_, None | Some(0 | 1)) => return None,
                (found, Some(size)) => {
                    let fits = at + usize::from(*size) <= self.0.len();
                    if found == kind {
                        return (*size == len && fits).then_some(at);
                    }
                    at += usize::from(*size);
                }
            }
        }
        None
    }

    fn value<const N: usize>(&self, kind: u8) -> Option<[u8; N]> {
        let at = self.find(kind, N as u8 + 2)? + 2;
        self.0[at..at + N].try_into().ok()
    }

    /// Maximum segment size, bytes.
    pub(super) fn mss(&self) -> Option<u16> {
        self.value(MSS).map(u16::from_be_bytes)
    }

    /// Window scale shift, at most 14.
    pub(super) fn window_scale(&self) -> Option<u8> {
        self.value(WINDOW_SCALE).map(|[shift]| shift.min(14))
    }

    /// Whether the sender takes selective acknowledgements (RFC 2018 §2).
    pub(super) fn sack_permitted(&self) -> bool {
        self.find(SACK_PERMITTED, 2).is_some()
    }

    /// The sender's timestamp.
    pub(super) fn timestamp(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.value::<8>(TIMESTAMP)?;
        Some(u32::from_be_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_found_behind_others() {
        let options = Options(&[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7]);
        assert_eq!(options.mss(), Some(1460));
        assert_eq!(options.window_scale(), Some(7));
        assert!(options.sack_permitted());
        assert_eq!(options.timestamp(), Some(7));
        assert_eq!(Options(&[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 0, 9]).timestamp(), Some(256));
        assert_eq!(Options(&[3, 3, 99, 0]).window_scale(), Some(14));
        assert!(!Options(&[3, 3, 99, 0]).sack_permitted());
        assert_eq!(Options(&[0, 2, 4, 5, 6]).mss(), None);
    }

    proptest! {
        #[test]
        fn no_options_panic(bytes in proptest::collection::vec(0u8..12, 0..40)) {
            let options = Options(&bytes);
            let _ = (options.mss(), options.window_scale(), options.timestamp());
        }
    }
}
