//! One TCP segment as it arrived: where its bytes lie, and how to send on only some of them.

use std::ops::Range;

use podgate_tables::{proto, tcp_flags};

use super::seq::Seq;
use crate::l7::io::FlowIo;
use crate::mem::{Packet, Umem};
use crate::packet::checksum::{self, Sum};
use crate::packet::offset::{ipv4, ipv6, tcp};
use crate::packet::tcp_options::{self, TcpOptions};
use crate::packet::{Tcp, View, edit};

/// A segment with its parsed headers.
#[derive(Debug)]
pub(super) struct TcpSegment {
    pub(super) view: View,
    pub(super) tcp: Tcp,
    pub(super) packet: Packet,
    pub(super) checksum: Checksum,
    /// What was decided of it has been forwarded, and it waits for the rest.
    pub(super) is_rest: bool,
}

/// What the checksum field covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checksum {
    /// The whole segment.
    Complete,
    /// The pseudo-header: the sender's stack left the rest to its device. The worker leaves it to
    /// the kernel or completes it.
    Partial,
}

impl TcpSegment {
    /// Position of the first payload byte.
    pub(super) const fn start(&self) -> Seq {
        Seq(self.tcp.seq)
    }

    /// Payload bytes.
    pub(super) fn len(&self) -> u32 {
        self.view.payload_len()
    }

    /// Position after the last payload byte, where a FIN would be.
    pub(super) fn end(&self) -> Seq {
        self.start().plus(self.len())
    }

    pub(super) const fn has_fin(&self) -> bool {
        self.tcp.has(tcp_flags::FIN)
    }

    /// Position after everything, the FIN included.
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

    /// Payload bytes from `position` on, as [`Self::bytes`]; none if the segment begins after it.
    pub(super) fn fresh<'a>(&'a self, position: Seq, umem: &'a Umem) -> &'a [u8] {
        if self.start().is_after(position) {
            return &[];
        }
        match position.count_since(self.start()) {
            offset if offset < self.len() => self.bytes(umem, offset),
            _ => &[],
        }
    }

    /// The TCP options.
    pub(super) fn options<'a>(&'a self, umem: &'a Umem) -> TcpOptions<'a> {
        let (l4, payload) = (usize::from(self.view.l4), usize::from(self.view.payload));
        TcpOptions::new(&umem.data(&self.packet.head)[l4 + tcp::HEADER_LEN..payload])
    }

    fn tcp_header<'a>(&'a mut self, umem: &'a Umem) -> &'a mut [u8] {
        let (l4, payload) = (usize::from(self.view.l4), usize::from(self.view.payload));
        &mut umem.data_mut(&mut self.packet.head)[l4..payload]
    }

    /// Replaces the sender's timestamp, if the segment has one. A receiver drops a segment with an
    /// older one than it has seen (RFC 7323 §5.3), as it would a segment that was queued.
    pub(super) fn set_timestamp(&mut self, value: u32, umem: &Umem) {
        if let Some(at) = self.options(umem).timestamp_offset() {
            self.replace(tcp::HEADER_LEN + at, &value.to_be_bytes(), umem);
        }
    }

    /// Replaces options of a SYN that are not of a known kind with padding, so that the ends don't
    /// negotiate them ([`TcpOptions::not_inspectable`]).
    pub(super) fn remove_unknown_options(&mut self, umem: &Umem) {
        while let Some(option) = { self.options(umem).not_inspectable().next() } {
            self.pad(tcp::HEADER_LEN + option.start..tcp::HEADER_LEN + option.end, umem);
        }
    }

    /// Replaces bytes of the TCP options with padding. The range is in the TCP header.
    fn pad(&mut self, range: Range<usize>, umem: &Umem) {
        const PADDING: [u8; tcp::OPTIONS_MAX] = [tcp_options::NO_OPERATION; tcp::OPTIONS_MAX];
        self.replace(range.start, &PADDING[..range.len()], umem);
    }

    /// Replaces bytes at offset `at` of the TCP header, after its ports and before its end.
    fn replace(&mut self, at: usize, bytes: &[u8], umem: &Umem) {
        let checksum = self.checksum;
        let header = self.tcp_header(umem);
        match checksum {
            Checksum::Complete => edit::replace_in_tcp_header(header, at, bytes),
            Checksum::Partial => header[at..at + bytes.len()].copy_from_slice(bytes),
        }
    }

    /// Writes positions and window.
    pub(super) fn renumber(&mut self, seq: Seq, ack: Seq, window: u16, umem: &Umem) {
        let old = self.tcp;
        if seq.0 != old.seq {
            self.replace(tcp::SEQ, &seq.0.to_be_bytes(), umem);
        }
        if ack.0 != old.ack {
            self.replace(tcp::ACK, &ack.0.to_be_bytes(), umem);
        }
        if window != old.window {
            self.replace(tcp::WINDOW, &window.to_be_bytes(), umem);
        }
        (self.tcp.seq, self.tcp.ack, self.tcp.window) = (seq.0, ack.0, window);
    }

    /// Replaces the edges of a selective acknowledgement's blocks. If `translate` has none for a
    /// block, the whole option becomes padding.
    pub(super) fn translate_sack(
        &mut self,
        translate: impl Fn((Seq, Seq)) -> Option<(Seq, Seq)>,
        umem: &Umem,
    ) {
        let Some(blocks) = self.options(umem).sack_blocks() else { return };
        let header = self.tcp_header(umem);
        let blocks = tcp::HEADER_LEN + blocks.start..tcp::HEADER_LEN + blocks.end;
        let word = |at: usize| Seq(u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i])));
        let mut translated = [0; 32];
        let mut len = 0;
        for at in blocks.clone().step_by(8) {
            let Some((from, to)) = translate((word(at), word(at + 4))) else {
                len = 0;
                break;
            };
            translated[len..len + 4].copy_from_slice(&from.0.to_be_bytes());
            translated[len + 4..len + 8].copy_from_slice(&to.0.to_be_bytes());
            len += 8;
        }
        if len > 0 {
            self.replace(blocks.start, &translated[..len], umem);
        } else {
            self.pad(blocks.start - 2..blocks.end, umem);
        }
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
        // What a sender with checksum offload leaves.
        header[tcp::CHECKSUM..][..2].copy_from_slice(&pseudo.folded().to_be_bytes());
        if self.checksum == Checksum::Complete {
            edit::complete_checksum(umem.bytes_mut(&mut self.packet), &self.view);
        }
    }
}
