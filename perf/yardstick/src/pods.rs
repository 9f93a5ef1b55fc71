//! The pods of a rig: their links, MAC addresses, routes and frames.

use etherparse::PacketBuilder;
use podgate_tables::address::{Address, Mac};
use podgate_tables::ids::LinkId;
use podgate_tables::route::{AddressTaken, Endpoint, NextHop, RouteTable};
use podgate_tables::tuple::Tuple;
use podgate_tables::{proto, tcp_flags};

/// The link to the node's kernel.
pub(crate) const HOST: LinkId = LinkId(0);

const HOST_MAC: Mac = [2, 0, 0, 0, 0xff, 0];
/// MAC address of the node at the link of a pod.
pub(crate) const LINK_MAC: Mac = [2, 0, 0, 0, 0xfe, 0];
const MTU: u32 = 1500;

/// The link of pod number `index`.
#[must_use]
pub(crate) fn link_of(index: usize) -> LinkId {
    LinkId(index as u16 + 1)
}

/// MAC address of the pod, or the node, at `link`.
pub(crate) fn mac_of(link: LinkId) -> Mac {
    let [high, low] = link.0.to_be_bytes();
    if link == HOST { HOST_MAC } else { [2, 0, 0, 0, high, low] }
}

/// Routes to pods with these addresses, in the order of their numbers, and to the node.
///
/// # Errors
/// When two pods have one address.
pub(crate) fn routes(
    pods: impl IntoIterator<Item = Vec<Address>>,
) -> Result<RouteTable, AddressTaken> {
    let next_hop =
        |link| NextHop { link, mac: mac_of(link), link_mac: LINK_MAC, mtu: MTU, path_mtu: MTU };
    let pods = pods.into_iter().enumerate();
    let endpoints =
        pods.map(|(index, addresses)| Endpoint { next_hop: next_hop(link_of(index)), addresses });
    RouteTable::new(endpoints, Some(next_hop(HOST)))
}

/// Writes an IPv4 frame with this tuple, as the pod (or the node) at `from` sends it: a TCP segment
/// with the SYN and ACK of `flags`, or a UDP datagram. It has `len` bytes, or as many as its
/// headers need. Unlike the builders of `tests/support`, it reuses `frame` and sets the frame's
/// length.
pub(crate) fn write_frame(frame: &mut Vec<u8>, from: LinkId, tuple: &Tuple, flags: u8, len: usize) {
    const PAYLOAD: [u8; MTU as usize] = [0x5a; MTU as usize];
    let [src, dst] = [tuple.src, tuple.dst].map(|end| {
        let [.., a, b, c, d] = end.bits().to_be_bytes();
        [a, b, c, d]
    });
    let builder = PacketBuilder::ethernet2(mac_of(from), LINK_MAC).ipv4(src, dst, 64);
    let payload = |headers: usize| &PAYLOAD[..len.saturating_sub(headers).min(PAYLOAD.len())];
    frame.clear();
    let written = if tuple.protocol == proto::TCP {
        let mut builder = builder.tcp(tuple.src_port, tuple.dst_port, 1, 64_000);
        if flags & tcp_flags::SYN != 0 {
            builder = builder.syn();
        }
        if flags & tcp_flags::ACK != 0 {
            builder = builder.ack(1);
        }
        let payload = payload(builder.size(0));
        builder.write(frame, payload)
    } else {
        let builder = builder.udp(tuple.src_port, tuple.dst_port);
        let payload = payload(builder.size(0));
        builder.write(frame, payload)
    };
    written.expect("writing to memory succeeds, and no packet is longer than the MTU");
}

#[cfg(test)]
mod tests {
    use podgate_dataplane::packet::parse;

    use super::*;

    #[test]
    fn a_frame_has_the_given_length_and_tuple() {
        let [src, dst] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Address::v4);
        for protocol in [proto::TCP, proto::UDP] {
            let tuple = Tuple { src, dst, src_port: 40_000, dst_port: 80, protocol };
            let mut frame = Vec::new();
            for len in [64, 594, 1514] {
                write_frame(&mut frame, link_of(3), &tuple, tcp_flags::ACK, len);
                assert_eq!(frame.len(), len);
                let view = parse(&frame, len as u32).unwrap();
                assert_eq!((view.tuple, view.eth_src), (tuple, mac_of(LinkId(4))));
            }
            write_frame(&mut frame, HOST, &tuple, tcp_flags::SYN, 0);
            assert!(frame.len() < 60, "headers only");
        }
    }
}
