//! The Internet checksum (RFC 1071), over parts of any length, and its incremental update.

use podgate_tables::address::Address;

use super::offset::{tcp, udp};

/// Offset of the checksum in a TCP header, bytes.
pub const TCP_FIELD: u8 = tcp::CHECKSUM as u8;
/// Offset of the checksum in a UDP header, bytes.
pub const UDP_FIELD: u8 = udp::CHECKSUM as u8;

/// A running ones' complement sum.
///
/// Bytes may be added in parts of any length, as a packet's frames are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Sum of 16-bit words in host byte order, folded at the end. Each call adds less than 2^34, so
    /// it can't overflow.
    words: u64,
    /// Whether the next byte is the low half of a word.
    odd: bool,
}

impl Sum {
    /// The pseudo-header that TCP and UDP checksums cover (RFC 9293 §3.1, RFC 8200 §8.1).
    /// `len` is the length of the L4 header and payload, bytes.
    ///
    /// One formula serves both families: the two layouts have the same words, and the prefix of a
    /// mapped IPv4 address adds 0xffff, which is zero in ones' complement.
    #[must_use]
    #[inline]
    pub fn pseudo_header(src: Address, dst: Address, protocol: u8, len: u32) -> Self {
        let words = fold_u128(src.bits()) + fold_u128(dst.bits()) + u64::from(protocol);
        Self { words: words + u64::from(len), odd: false }
    }

    /// The folded sum of the pseudo-header without its length: equal for all packets of a flow, in
    /// both directions. [`is_pseudo_header`] adds the length.
    #[must_use]
    pub fn of_flow(src: Address, dst: Address, protocol: u8) -> u16 {
        Self::pseudo_header(src, dst, protocol, 0).folded()
    }

    /// Adds `bytes`.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        // Byte order matters only for the result (RFC 1071 §2 (B)), so words are added as they are
        // in memory, four bytes at a time.
        let (chunks, rest) = bytes.as_chunks::<4>();
        let mut words: u64 = chunks.iter().map(|chunk| u64::from(u32::from_ne_bytes(*chunk))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words += u64::from(u32::from_ne_bytes(last));
        let part = u16::from_be(fold(words));
        self.words += u64::from(if self.odd { part.swap_bytes() } else { part });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// The sum in 16 bits, not complemented. That of a pseudo-header is the field's value in a
    /// `CHECKSUM_PARTIAL` packet (`include/linux/skbuff.h`).
    #[must_use]
    #[inline]
    pub fn folded(self) -> u16 {
        fold(self.words)
    }

    /// The checksum for a header, in host byte order.
    #[must_use]
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The checksum of `bytes`. Zero if they contain their own, right checksum.
#[must_use]
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.checksum()
}

/// Whether a checksum field holds only the folded pseudo-header sum: that of [`Sum::of_flow`] and
/// of `len`, the length of L4 header and payload.
#[must_use]
#[inline]
pub const fn is_pseudo_header(field: u16, of_flow: u16, len: u16) -> bool {
    let (sum, carry) = of_flow.overflowing_add(len);
    sum.wrapping_add(carry as u16) == field
}

/// Whether bytes contain their own, correct checksum. `words` is the sum of their 32-bit words as
/// they are in memory.
#[must_use]
#[inline]
pub(super) const fn is_right(words: u64) -> bool {
    // The folded sum is 0xffff for exactly the nonzero multiples of 0xffff. Multiplied by the
    // inverse of the divisor modulo 2^64, a multiple yields its quotient and any other number
    // something larger.
    const DIVISOR: u64 = 0xffff;
    const INVERSE: u64 = {
        // Each step of Newton's method doubles the correct bits; an odd number starts with three.
        let (mut inverse, mut step) = (DIVISOR, 0);
        while step < 5 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(DIVISOR.wrapping_mul(inverse)));
            step += 1;
        }
        inverse
    };
    words.wrapping_mul(INVERSE).wrapping_sub(1) < u64::MAX / DIVISOR
}

/// The checksum after one covered 16-bit word changed from `old` to `new` (RFC 1624 §3, eqn. 3).
#[must_use]
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// The checksum of an IPv4 header after its TTL was decremented (RFC 1141; `include/net/ip.h`,
/// `ip_decrease_ttl`).
#[must_use]
#[inline]
pub const fn of_decremented_ttl(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100;
    (sum + (sum >= 0xffff) as u32) as u16
}

const fn fold_u128(value: u128) -> u64 {
    (value as u32 as u64)
        + ((value >> 32) as u32 as u64)
        + ((value >> 64) as u32 as u64)
        + ((value >> 96) as u32 as u64)
}

/// The sum of words in 16 bits.
pub(super) const fn fold(words: u64) -> u16 {
    let words = (words >> 32) + (words & 0xffff_ffff);
    let words = (words >> 16) + (words & 0xffff);
    let words = (words >> 16) + (words & 0xffff);
    let words = (words >> 16) + (words & 0xffff);
    words as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv4Header, TcpHeader, UdpHeader};
    use proptest::prelude::*;

    /// The definition, one word at a time.
    fn by_definition(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn v4(bytes: [u8; 4]) -> Address {
        Address::v4(bytes)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let mut sum = Sum::default();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_to_zero() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_megabyte_of_ones_does_not_overflow() {
        assert_eq!(of(&vec![0xff; 1 << 20]), 0);
    }

    #[test]
    fn multiples_of_ones_are_right_but_for_zero() {
        for right in [0xffff, 0x1_fffe, 0xffff_0000, 0xffff_ffff, u64::MAX] {
            assert!(is_right(right), "{right:#x}");
        }
        for wrong in [0, 1, 0xfffe, 0x1_0000, u64::MAX - 1, u64::MAX - 0xfffe] {
            assert!(!is_right(wrong), "{wrong:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_sum_is_right_if_its_folded_one_is(words: u64, quotient in 0..=u64::MAX / 0xffff) {
            prop_assert_eq!(is_right(words), fold(words) == 0xffff);
            prop_assert_eq!(is_right(quotient * 0xffff), quotient > 0);
        }

        #[test]
        fn a_pseudo_headers_sum_is_the_flows_and_the_length(of_flow: u16, len: u16, other: u16) {
            let sum = fold(u64::from(of_flow) + u64::from(len));
            prop_assert!(is_pseudo_header(sum, of_flow, len));
            prop_assert_eq!(is_pseudo_header(other, of_flow, len), other == sum);
        }

        #[test]
        fn any_cut_gives_the_sum_of_the_definition(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..5),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut sum = Sum::default();
            for pair in cuts.windows(2) {
                sum.add(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(sum.checksum(), by_definition(&bytes));
            prop_assert_eq!(of(&bytes), by_definition(&bytes));
        }

        #[test]
        fn an_update_equals_summing_again(
            mut words in proptest::collection::vec(any::<u16>(), 1..40),
            at in any::<prop::sample::Index>(),
            new in any::<u16>(),
        ) {
            // A header is never all zeros; there alone the two zeros of ones' complement differ.
            prop_assume!(new != 0 || words.iter().any(|word| *word != 0));
            words.push(0x4500);
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let before = of(&bytes(&words));
            let at = at.index(words.len() - 1);
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(update(before, old, new), of(&bytes(&words)));
        }

        #[test]
        fn ipv4_headers_agree_with_etherparse(
            src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), ttl in any::<u8>(), len in 0u16..1400,
        ) {
            let header = Ipv4Header::new(len, ttl, etherparse::IpNumber::TCP, src, dst).unwrap();
            prop_assert_eq!(of(&header.to_bytes()), header.calc_header_checksum());
        }

        #[test]
        fn tcp_and_udp_over_both_families_agree_with_etherparse(
            src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), ports in any::<(u16, u16)>(),
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let short = |a: [u8; 16]| [a[0], a[1], a[2], a[3]];
            let tcp = TcpHeader::new(ports.0, ports.1, 7, 1000);
            let tcp_sum = |src, dst| {
                let len = 20 + payload.len() as u32;
                let mut sum = Sum::pseudo_header(src, dst, podgate_tables::proto::TCP, len);
                sum.add(&tcp.to_bytes());
                sum.add(&payload);
                sum.checksum()
            };
            prop_assert_eq!(
                tcp_sum(v4(short(src)), v4(short(dst))),
                tcp.calc_checksum_ipv4_raw(short(src), short(dst), &payload).unwrap()
            );
            prop_assert_eq!(
                tcp_sum(Address::v6(src), Address::v6(dst)),
                tcp.calc_checksum_ipv6_raw(src, dst, &payload).unwrap()
            );
            let udp = UdpHeader::without_ipv4_checksum(ports.0, ports.1, payload.len()).unwrap();
            let mut sum = Sum::pseudo_header(
                v4(short(src)), v4(short(dst)), podgate_tables::proto::UDP, 8 + payload.len() as u32,
            );
            sum.add(&udp.to_bytes());
            sum.add(&payload);
            let expected =
                udp.calc_checksum_ipv4_raw(short(src), short(dst), &payload).unwrap();
            // UDP writes a zero as all ones (RFC 768), which is done where the header is written.
            prop_assert_eq!(if sum.checksum() == 0 { 0xffff } else { sum.checksum() }, expected);
        }
    }
}
