//! Whether the XDP program gives a frame to a worker, as in `redirect.bpf.c`. Of other frames it
//! drops those that are neither ARP nor neighbour discovery; here all count as the kernel's.

use std::net::IpAddr;

/// EtherTypes (IANA "IEEE 802 Numbers").
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const PROVIDER_VLAN: u16 = 0x88a8;

/// VLAN tags that the program skips.
const MAX_VLAN_TAGS: usize = 2;

const ICMPV6: u8 = 58;

/// Receiver of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiver {
    /// The kernel: it is not IP, or it is neighbour discovery.
    Kernel,
    /// A worker. Has the source and destination address, unless the frame ends before them.
    Worker(Option<[IpAddr; 2]>),
}

/// Decides on a frame.
pub(super) fn receiver_of(frame: &[u8]) -> Receiver {
    let mut at = 12;
    for _ in 0..=MAX_VLAN_TAGS {
        let Some(&[high, low]) = frame.get(at..at + 2) else { return Receiver::Worker(None) };
        let packet = &frame[at + 2..];
        match u16::from_be_bytes([high, low]) {
            IPV4 => return Receiver::Worker(v4_ends(packet)),
            IPV6 if at == 12 && is_neighbour_discovery(packet) => return Receiver::Kernel,
            IPV6 => return Receiver::Worker(v6_ends(packet)),
            VLAN | PROVIDER_VLAN => at += 4,
            _ => return Receiver::Kernel,
        }
    }
    Receiver::Worker(None)
}

/// RFC 791 §3.1.
fn v4_ends(packet: &[u8]) -> Option<[IpAddr; 2]> {
    let header = packet.first_chunk::<20>()?;
    let end = |at: usize| header[at..at + 4].first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
    Some([end(12)?, end(16)?])
}

/// RFC 8200 §3.
fn v6_ends(packet: &[u8]) -> Option<[IpAddr; 2]> {
    let header = packet.first_chunk::<40>()?;
    let end = |at: usize| header[at..at + 16].first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
    Some([end(8)?, end(24)?])
}

/// Solicitations and neighbour advertisements (RFC 4861) by the rule of `neighbours.bpf.h`, except
/// that the state of neighbours is not known here: messages to addresses of a wider than link-local
/// scope go to workers.
fn is_neighbour_discovery(packet: &[u8]) -> bool {
    let Some((header, message)) = packet.split_first_chunk::<40>() else { return false };
    let Some((&[kind, code, ..], rest)) = message.split_first_chunk::<8>() else { return false };
    let options = match kind {
        133 => Some(rest),
        135 | 136 => rest.get(16..),
        _ => None,
    };
    let destination = [header[24], header[25]];
    let link_scope = (destination[0] == 0xfe && destination[1] & 0xc0 == 0x80)
        || (destination[0] == 0xff && destination[1] & 0x0f == 0x02);
    header[0] >> 4 == 6
        && usize::from(u16::from_be_bytes([header[4], header[5]])) == message.len()
        && header[6] == ICMPV6
        && header[7] == 255
        && link_scope
        && code == 0
        && options.is_some_and(are_options_of_discovery)
}

/// At most two options of 8 bytes each: equal link-layer addresses, or a nonce.
fn are_options_of_discovery(options: &[u8]) -> bool {
    let (options, rest) = options.as_chunks::<8>();
    let mut macs = options.iter().filter(|option| option[0] != 14).map(|option| &option[2..]);
    let first = macs.next();
    rest.is_empty()
        && options.len() <= 2
        && options.iter().all(|option| matches!(option[..2], [1 | 2 | 14, 1]))
        && macs.all(|mac| Some(mac) == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertypes: &[u16], packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for (index, ethertype) in ethertypes.iter().enumerate() {
            if index > 0 {
                frame.extend([0, 1]);
            }
            frame.extend(ethertype.to_be_bytes());
        }
        frame.extend(packet);
        frame
    }

    #[test]
    fn only_non_ip_and_neighbour_discovery_go_to_the_kernel() {
        let mut discovery = [0; 72];
        discovery[5] = 32;
        discovery[64..66].copy_from_slice(&[1, 1]);
        (discovery[0], discovery[6], discovery[7], discovery[40]) = (0x60, ICMPV6, 255, 135);
        (discovery[24], discovery[25]) = (0xfe, 0x80);
        let mut forwarded = discovery;
        forwarded[7] = 64;
        let mut global = discovery;
        (global[24], global[25]) = (0xfd, 0);
        let mut router = discovery;
        router[40] = 134;
        let mut option = discovery;
        option[64] = 5;
        let mut longer = discovery;
        longer[5] = 24;
        assert_eq!(receiver_of(&frame(&[0x0806], &[0; 28])), Receiver::Kernel);
        assert_eq!(receiver_of(&frame(&[VLAN, 0x0806], &[0; 28])), Receiver::Kernel);
        assert_eq!(receiver_of(&frame(&[IPV6], &discovery)), Receiver::Kernel);
        for policed in [forwarded, global, router, option, longer] {
            assert!(matches!(receiver_of(&frame(&[IPV6], &policed)), Receiver::Worker(Some(_))));
        }
        assert_eq!(
            receiver_of(&frame(&[VLAN, VLAN, VLAN, 0x0806], &[0; 28])),
            Receiver::Worker(None)
        );
        assert_eq!(receiver_of(&[0; 9]), Receiver::Worker(None));
    }

    #[test]
    fn addresses_are_found_after_vlan_tags_and_missing_in_truncated_frames() {
        let mut packet = [0; 20];
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let ends: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(receiver_of(&frame(&[IPV4], &packet)), Receiver::Worker(Some(ends)));
        assert_eq!(
            receiver_of(&frame(&[PROVIDER_VLAN, VLAN, IPV4], &packet)),
            Receiver::Worker(Some(ends))
        );
        assert_eq!(receiver_of(&frame(&[IPV4], &packet[..19])), Receiver::Worker(None));
    }
}
