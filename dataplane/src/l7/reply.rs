//! Segments of our own: answers, resets, acknowledgements.
//!
//! A segment looks as if the end that it speaks for had sent it. The Ethernet header is that of the
//! opener's SYN, VLAN tags included, with the two MAC addresses swapped for segments that speak for
//! the server. That is only a plausible start: the worker writes both addresses again for the link
//! that the packet leaves by, as for any packet.

use podgate_tables::tuple::{FlowDirection, Tuple};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use super::io::FlowIo;
use crate::mem::{FRAME_HEADROOM, FRAME_SIZE, Frame, Packet, Umem};
use crate::packet::View;

/// Longest Ethernet header: with two VLAN tags.
const L2_MAX: usize = 22;
/// IPv6 header, and TCP header with timestamps.
const HEADERS_MAX: usize = 40 + 32;
/// Hop limit of our segments; the default of every current stack.
const HOP_LIMIT: u8 = 64;

/// Payload that fits into one of our segments, bytes.
pub const PAYLOAD_MAX: usize = FRAME_SIZE as usize - FRAME_HEADROOM as usize - L2_MAX - HEADERS_MAX;

/// A segment to be built.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The direction it goes in, and so the end that it speaks for.
    pub direction: FlowDirection,
    /// Position of its first byte.
    pub seq: u32,
    /// Acknowledgement, if it has one.
    pub ack: Option<u32>,
    /// Window field, unscaled.
    pub window: u16,
    /// PSH, FIN, RST, or none of them.
    pub control: TcpControl,
    /// Timestamps of the sender and of the receiver (RFC 7323), if the connection uses them.
    pub timestamps: Option<(u32, u32)>,
    /// A block of bytes that arrived out of order: its first position, and the one after its last
    /// (RFC 2018 §3).
    pub sack: Option<(u32, u32)>,
    /// At most [`PAYLOAD_MAX`] bytes.
    pub payload: &'a [u8],
}

/// What all segments of a flow have in common.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    tuple: Tuple,
    l2: [u8; L2_MAX],
    l2_len: u8,
}

impl Template {
    /// From a packet of the flow that goes in `direction`; `head` is its first frame.
    #[must_use]
    pub fn new(direction: FlowDirection, view: &View, head: &[u8]) -> Self {
        let l2_len = usize::from(view.l3).min(L2_MAX);
        let mut template = Self { tuple: view.tuple, l2: [0; L2_MAX], l2_len: l2_len as u8 };
        template.l2[..l2_len].copy_from_slice(&head[..l2_len]);
        match direction {
            FlowDirection::Original => template,
            FlowDirection::Reply => template.reversed(),
        }
    }

    fn reversed(mut self) -> Self {
        self.tuple = self.tuple.reversed();
        self.l2[..12].rotate_left(6);
        self
    }

    /// Builds a segment in a free frame; `None` if there is none.
    pub fn build(&self, segment: &Segment<'_>, io: &mut impl FlowIo) -> Option<Packet> {
        let frame = io.alloc()?;
        Some(self.write(segment, io.umem(), frame))
    }

    /// Builds a segment in `frame`.
    pub fn write(&self, segment: &Segment<'_>, umem: &Umem, mut frame: Frame) -> Packet {
        let Self { tuple, l2, l2_len } = match segment.direction {
            FlowDirection::Original => *self,
            FlowDirection::Reply => self.reversed(),
        };
        let tcp = TcpRepr {
            src_port: tuple.src_port,
            dst_port: tuple.dst_port,
            control: segment.control,
            seq_number: TcpSeqNumber(segment.seq as i32),
            ack_number: segment.ack.map(|ack| TcpSeqNumber(ack as i32)),
            window_len: segment.window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [segment.sack, None, None],
            timestamp: segment.timestamps.map(|(own, other)| TcpTimestampRepr::new(own, other)),
            payload: &segment.payload[..segment.payload.len().min(PAYLOAD_MAX)],
        };
        let l2 = &l2[..usize::from(l2_len)];
        let ip_header = if tuple.src.is_v4() { 20 } else { 40 };
        frame.set_extent(FRAME_HEADROOM, (l2.len() + ip_header + tcp.buffer_len()) as u32);
        let bytes = umem.data_mut(&mut frame);
        bytes[..l2.len()].copy_from_slice(l2);
        emit_ip(&tuple, &tcp, &mut bytes[l2.len()..]);
        debug_assert!(EthernetFrame::new_checked(&*bytes).is_ok());
        Packet::single(frame)
    }
}

fn emit_ip(tuple: &Tuple, tcp: &TcpRepr<'_>, buffer: &mut [u8]) {
    let checksums = ChecksumCapabilities::default();
    let (src, dst): (IpAddress, IpAddress) = (tuple.src.ip().into(), tuple.dst.ip().into());
    let (next_header, payload_len, hop_limit) = (IpProtocol::Tcp, tcp.buffer_len(), HOP_LIMIT);
    let payload = match (src, dst) {
        (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) => {
            let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut *buffer), &checksums);
            &mut buffer[repr.buffer_len()..]
        }
        (IpAddress::Ipv6(src_addr), IpAddress::Ipv6(dst_addr)) => {
            let repr = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut *buffer));
            &mut buffer[repr.buffer_len()..]
        }
        // A tuple's addresses are of one family: they come from one packet.
        _ => return,
    };
    tcp.emit(&mut TcpPacket::new_unchecked(payload), &src, &dst, &checksums);
}
