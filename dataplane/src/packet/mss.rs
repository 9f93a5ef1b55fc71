//! Clamping of TCP's maximum segment size in SYNs (RFC 9293 §3.7.1).
//!
//! What either end announces is what its own link takes. Where a link on the way takes less, the
//! other end's large segments would each meet an ICMP error first, or nothing at all where those
//! are filtered; so the announcement is lowered to what the way takes, as routers do
//! (`net/netfilter/xt_TCPMSS.c`). It is never raised.

use super::{View, checksum};

/// Kinds of TCP options (RFC 9293 §3.2).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MAX_SEGMENT_SIZE: u8 = 2;
}

/// Bytes of an IP header without options or extension headers, and of a TCP header without
/// options: what a maximum segment size leaves out (RFC 6691 §2).
const fn headers(v4: bool) -> u32 {
    if v4 { 20 + 20 } else { 40 + 20 }
}

/// Lowers the maximum segment size that a SYN announces to what IP packets of `mtu` bytes take,
/// and keeps the TCP checksum right, which must be whole already. Returns whether it did.
///
/// A SYN without the option is left alone: its sender accepts 536 or 1220 bytes (RFC 9293
/// §3.7.1). So are options that don't fit.
pub fn clamp(head: &mut [u8], view: &View, mtu: u32) -> bool {
    if !view.is_syn() {
        return false;
    }
    let limit = mtu.saturating_sub(headers(view.is_v4()));
    let Ok(limit @ 1..) = u16::try_from(limit) else { return false };
    let header = &mut head[usize::from(view.l4)..usize::from(view.payload)];
    let Some(at) = find(&header[20..]).map(|at| 20 + at) else { return false };
    let old = [header[at], header[at + 1]];
    if u16::from_be_bytes(old) <= limit {
        return false;
    }
    let new = limit.to_be_bytes();
    header[at..at + 2].copy_from_slice(&new);
    // A value at an odd offset has its bytes in two words of the sum. Swapped, it adds the same
    // (RFC 1071 §2 (B)).
    let word = |bytes: [u8; 2]| {
        let word = u16::from_be_bytes(bytes);
        if at % 2 == 1 { word.swap_bytes() } else { word }
    };
    let sum = u16::from_be_bytes([header[16], header[17]]);
    let sum = checksum::update(sum, word(old), word(new));
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Where the value of the option lies in `options`.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match options[at..] {
            [option::NO_OPERATION, ..] => at += 1,
            [option::MAX_SEGMENT_SIZE, 4, _, _, ..] => return Some(at + 2),
            [] | [option::END, ..] | [_] | [option::MAX_SEGMENT_SIZE, ..] => return None,
            [_, len, ..] if len < 2 || at + usize::from(len) > options.len() => return None,
            [_, len, ..] => at += usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{edit, parse};
    use crate::xsk::{Packet, Umem};

    /// A segment with these options, padded to a multiple of four.
    fn segment(v4: bool, syn: bool, options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(40_000, 80, 1, 64_000);
        (header.syn, header.ack) = (syn, !syn);
        header.set_options_raw(options).unwrap();
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let step = match v4 {
            true => link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64),
            false => link.ipv6([0x20; 16], [0x21; 16], 64),
        };
        let mut bytes = Vec::new();
        step.tcp_header(header).write(&mut bytes, b"").unwrap();
        bytes
    }

    fn clamped(bytes: &[u8], mtu: u32) -> (bool, Vec<u8>) {
        let mut bytes = bytes.to_vec();
        let view = parse(&bytes, bytes.len() as u32).unwrap();
        let done = clamp(&mut bytes, &view, mtu);
        (done, bytes)
    }

    fn checksum_is_right(bytes: &[u8]) -> bool {
        let umem = Umem::new(1).unwrap();
        let mut pool = umem.pool();
        let mut packet = Packet::single(pool.alloc().unwrap());
        packet.head.set_len(bytes.len() as u32);
        umem.data_mut(&mut packet.head).copy_from_slice(bytes);
        let view = parse(bytes, bytes.len() as u32).unwrap();
        let right = edit::l4_checksum_is_right(&umem, &packet, &view);
        pool.free_packet(packet);
        right
    }

    #[test]
    fn a_syn_announces_no_more_than_the_way_takes() {
        for (v4, limit) in [(true, 1460_u16), (false, 1440)] {
            let [high, low] = limit.to_be_bytes();
            // Plainly, at an odd offset, and behind another option.
            for (before, at) in [(&[][..], 2), (&[1], 3), (&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0], 12)] {
                let mut options = before.to_vec();
                options.extend([2, 4, 0xfd, 0xc0]);
                let sent = segment(v4, true, &options);
                let (done, left) = clamped(&sent, 1500);
                assert!(done);
                let options = sent.len() - options.len().next_multiple_of(4);
                assert_eq!(left[options + at..options + at + 2], [high, low]);
                assert!(checksum_is_right(&left), "{before:?}");
            }
        }
    }

    #[test]
    fn what_announces_little_or_nothing_is_left_alone() {
        for options in [&[2, 4, 0x05, 0xb4][..], &[2, 4, 0, 100], &[1, 1], &[]] {
            let sent = segment(true, true, options);
            assert_eq!(clamped(&sent, 1500), (false, sent.clone()), "{options:?}");
        }
        let data = segment(true, false, &[2, 4, 0xff, 0xff]);
        assert_eq!(clamped(&data, 1500), (false, data.clone()), "only in SYNs");
        let tiny = segment(true, true, &[2, 4, 0xff, 0xff]);
        assert_eq!(clamped(&tiny, 40), (false, tiny.clone()), "no segment would fit");
    }

    #[test]
    fn options_that_do_not_fit_are_left_alone() {
        for options in [&[8, 0, 2, 4, 0xff, 0xff][..], &[2, 3, 0xff], &[8, 40, 2, 4], &[2, 4, 0xff]]
        {
            let mut sent = segment(true, true, &[1; 8]);
            let at = sent.len() - options.len();
            sent[at..].copy_from_slice(options);
            assert_eq!(clamped(&sent, 1500), (false, sent.clone()), "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_options_keep_the_checksum_as_right_as_it_was(
            options in prop::collection::vec(any::<u8>(), 0..=40), mtu in 0u32..70_000, v4: bool,
        ) {
            let mut options = options;
            options.truncate(options.len() / 4 * 4);
            let (done, left) = clamped(&segment(v4, true, &options), mtu);
            if done {
                prop_assert!(checksum_is_right(&left));
            }
        }
    }
}
