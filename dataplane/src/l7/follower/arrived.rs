//! One TCP segment as it arrived: where its bytes lie, and how to send on only some of them.

use podgate_tables::{proto, tcp_flags};

use super::super::io::FlowIo;
use super::seq::Seq;
use crate::mem::{Packet, Umem};
use crate::packet::checksum::{self, Sum};
use crate::packet::offset::{ipv4, ipv6, tcp};
use crate::packet::tcp_options::TcpOptions;
use crate::packet::{Tcp, View, edit};

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
    pub(super) fn options<'a>(&'a self, umem: &'a Umem) -> TcpOptions<'a> {
        let (l4, payload) = (usize::from(self.view.l4), usize::from(self.view.payload));
        TcpOptions::new(&umem.data(&self.packet.head)[l4 + tcp::HEADER_LEN..payload])
    }

    /// Writes the sender's timestamp anew, if the segment has one. A receiver drops a segment with
    /// an older one than it has seen (RFC 7323 §5.3), as it would one that was put off.
    pub(super) fn set_timestamp(&mut self, value: u32, umem: &Umem) {
        let Some(at) = self.options(umem).timestamp_offset() else { return };
        let at = usize::from(self.view.l4) + tcp::HEADER_LEN + at;
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
            let ip = &mut head[l3..];
            ip[ipv4::TOTAL_LEN..][..2].copy_from_slice(&(ip_len as u16).to_be_bytes());
            ip[ipv4::CHECKSUM..][..2].fill(0);
            let header_len = usize::from(ip[ipv4::VERSION_IHL] & 0x0f) * 4;
            let sum = checksum::of(&ip[..header_len]);
            ip[ipv4::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
        } else {
            let payload_len = (ip_len - ipv6::HEADER_LEN as u32) as u16;
            head[l3 + ipv6::PAYLOAD_LEN..][..2].copy_from_slice(&payload_len.to_be_bytes());
        }
        let header = &mut head[l4..];
        header[tcp::SEQ..][..4].copy_from_slice(&self.tcp.seq.to_be_bytes());
        header[tcp::FLAGS] = self.tcp.flags;
        header[tcp::URGENT..][..2].fill(0);
        let tuple = &self.view.tuple;
        let segment_len = self.view.end - u32::from(self.view.l4);
        let pseudo = Sum::pseudo_header(tuple.src, tuple.dst, proto::TCP, segment_len);
        // What a sender with checksum offload leaves, which is then completed as for any packet.
        header[tcp::CHECKSUM..][..2].copy_from_slice(&pseudo.folded().to_be_bytes());
        edit::complete_checksum(umem.bytes_mut(&mut self.packet), &self.view);
    }
}
