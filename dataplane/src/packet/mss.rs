//! Clamping of TCP's maximum segment size in SYNs (RFC 9293 §3.7.1).
//!
//! An end announces what fits its own link. Where the path MTU is smaller, large segments of the
//! other end would cause ICMP errors, or be lost without notice where those are filtered. So the
//! option is lowered to the path MTU, as routers do (`net/netfilter/xt_TCPMSS.c`). It is never
//! raised.

use super::offset::{ipv4, ipv6, tcp};
use super::tcp_options::TcpOptions;
use super::{View, checksum};

/// Length of the IP and TCP headers without options or extension headers, bytes: the difference
/// between an MTU and a maximum segment size (RFC 6691 §2).
const fn headers(view: &View) -> u32 {
    let ip = if view.is_v4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    (ip + tcp::HEADER_LEN) as u32
}

/// Lowers the maximum segment size of a SYN to what fits IP packets of `mtu` bytes, and updates the
/// TCP checksum, which must be complete. Returns whether it did.
///
/// A SYN without the option is left unchanged: its sender accepts 536 or 1220 bytes (RFC 9293
/// §3.7.1). So are malformed options.
pub fn clamp(head: &mut [u8], view: &View, mtu: u32) -> bool {
    if !view.is_syn() {
        return false;
    }
    let limit = mtu.saturating_sub(headers(view));
    let Ok(limit @ 1..) = u16::try_from(limit) else { return false };
    let header = &mut head[usize::from(view.l4)..usize::from(view.payload)];
    let options = TcpOptions::new(&header[tcp::HEADER_LEN..]);
    let Some(at) = options.max_segment_size_offset().map(|at| tcp::HEADER_LEN + at) else {
        return false;
    };
    let old = [header[at], header[at + 1]];
    if u16::from_be_bytes(old) <= limit {
        return false;
    }
    let new = limit.to_be_bytes();
    header[at..at + 2].copy_from_slice(&new);
    // The bytes of a value at an odd offset lie in two words of the sum. Byte-swapped, it adds the
    // same (RFC 1071 §2 (B)).
    let word = |bytes: [u8; 2]| {
        let word = u16::from_be_bytes(bytes);
        if at % 2 == 1 { word.swap_bytes() } else { word }
    };
    let field = tcp::CHECKSUM;
    let sum = u16::from_be_bytes([header[field], header[field + 1]]);
    let sum = checksum::update(sum, word(old), word(new));
    header[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use std::iter;

    use etherparse::{PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{edit, parse};

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
        let view = parse(bytes, bytes.len() as u32).unwrap();
        edit::l4_checksum_is_right((bytes, iter::empty()), &view)
    }

    #[test]
    fn a_syn_is_clamped_to_the_mtu() {
        for (v4, limit) in [(true, 1460_u16), (false, 1440)] {
            let [high, low] = limit.to_be_bytes();
            // First, at an odd offset, and after another option.
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
    fn a_smaller_or_missing_option_is_unchanged() {
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
    fn malformed_options_are_unchanged() {
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
        fn clamping_any_options_keeps_the_checksum_right(
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
