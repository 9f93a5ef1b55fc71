//! Flow keys and their hash.

use std::hash::{BuildHasher, RandomState};

use podgate_tables::address::Address;
use podgate_tables::tuple::Tuple;

/// A tuple with its two ends in canonical order, so that packets of both directions have the same
/// key: addresses, then protocol and ports in one word. An IPv4 key is two words, after zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlowKey([u64; 5]);

/// One of the two ends of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyEnd {
    First,
    Second,
}

impl KeyEnd {
    #[inline]
    const fn second_if(is_second: bool) -> Self {
        if is_second { Self::Second } else { Self::First }
    }

    /// Whether both are the same end.
    #[inline]
    pub(super) const fn is(self, other: Self) -> bool {
        self as u8 == other as u8
    }

    #[cfg(test)]
    const fn other(self) -> Self {
        Self::second_if(self.is(Self::First))
    }
}

/// Distinguishes the last word of an IPv6 key from that of an IPv4 key.
const IS_V6: u64 = 1 << 40;

impl FlowKey {
    /// The tuple's key, and which of its ends is the tuple's source.
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> (Self, KeyEnd) {
        if let Some(addresses) = Address::v4_header_bits(tuple.src, tuple.dst) {
            let [sport, dport] = [tuple.src_port, tuple.dst_port].map(u16::swap_bytes);
            let ports = u32::from(sport) | u32::from(dport) << 16;
            let (FlowKeyV4([a, b]), source) = FlowKeyV4::of(addresses, ports, tuple.protocol);
            return (Self([0, 0, 0, a, b]), source);
        }
        let one = (tuple.src.bits(), tuple.src_port);
        let other = (tuple.dst.bits(), tuple.dst_port);
        let swapped = one > other;
        let ((low, low_port), (high, high_port)) =
            if swapped { (other, one) } else { (one, other) };
        let ports = u64::from(low_port) << 16 | u64::from(high_port);
        let [a, b, c, d] = [low, low >> 64, high, high >> 64].map(|half| half as u64);
        let last = IS_V6 | u64::from(tuple.protocol) << 32 | ports;
        (Self([a, b, c, d, last]), KeyEnd::second_if(swapped))
    }

    /// Offset of the words of an IPv4 key, bytes.
    pub(super) const V4_OFFSET: usize = 3 * size_of::<u64>();

    const fn is_v4(&self) -> bool {
        self.0[4] & IS_V6 == 0
    }

    /// The protocol.
    #[inline]
    pub(super) const fn protocol(&self) -> u8 {
        (self.0[4] >> 32) as u8
    }

    /// Loads the first word of an IPv4 key into the cache.
    #[inline]
    pub(super) const fn touch(&self) -> u32 {
        self.0[3] as u32
    }

    /// The tuple whose source is this end.
    pub(super) fn tuple(&self, source: KeyEnd) -> Tuple {
        let [a, b, c, d, e] = self.0;
        let (low, high, protocol) = if self.is_v4() {
            let end = |address: u64, port: u64| {
                (Address::v4((address as u32).to_le_bytes()), (port as u16).swap_bytes())
            };
            (end(d, e), end(d >> 32, e >> 16), (e >> 32) as u8)
        } else {
            let address = |low, high| Address::from_bits(u128::from(low) | u128::from(high) << 64);
            ((address(a, b), (e >> 16) as u16), (address(c, d), e as u16), (e >> 32) as u8)
        };
        let ((src, src_port), (dst, dst_port)) = match source {
            KeyEnd::First => (low, high),
            KeyEnd::Second => (high, low),
        };
        Tuple { src, dst, src_port, dst_port, protocol }
    }
}

/// The two words of an IPv4 key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlowKeyV4([u64; 2]);

impl FlowKeyV4 {
    /// A key that no flow has: its addresses are invalid.
    pub(super) const NONE: Self = Self([0; 2]);

    /// As [`FlowKey::of`], from addresses and ports as in the packet, little-endian. Called for
    /// each packet.
    #[inline]
    pub(super) const fn of(addresses: u64, ports: u32, protocol: u8) -> (Self, KeyEnd) {
        let (swapped_addresses, swapped_ports) = (addresses.rotate_left(32), ports.rotate_left(16));
        let swapped = order(swapped_addresses, swapped_ports) < order(addresses, ports);
        let (addresses, ports) =
            if swapped { (swapped_addresses, swapped_ports) } else { (addresses, ports) };
        let last = (protocol as u64) << 32 | ports as u64;
        (Self([addresses, last]), KeyEnd::second_if(swapped))
    }

    /// Addresses and ports of the packet with this key, as in the packet, source first,
    /// little-endian. Its source is this end.
    #[inline]
    pub(super) const fn ends(&self, source: KeyEnd) -> (u64, u32) {
        let Self([addresses, last]) = *self;
        match source {
            KeyEnd::First => (addresses, last as u32),
            KeyEnd::Second => (addresses.rotate_left(32), (last as u32).rotate_left(16)),
        }
    }

    /// The protocol.
    #[inline]
    pub(super) const fn protocol(&self) -> u8 {
        (self.0[1] >> 32) as u8
    }

    /// What policy evaluates of the packet with this key: its addresses as in the packet,
    /// little-endian, its destination port, and the protocol. Its source is this end.
    #[inline]
    pub(super) const fn policy_fields(&self, source: KeyEnd) -> (u64, u16, u8) {
        let Self([addresses, last]) = *self;
        let (addresses, port) = match source {
            KeyEnd::First => (addresses, last >> 16),
            KeyEnd::Second => (addresses.rotate_left(32), last),
        };
        (addresses, (port as u16).swap_bytes(), (last >> 32) as u8)
    }
}

/// A number by which a tuple and its reverse are ordered.
const fn order(addresses: u64, ports: u32) -> u128 {
    (addresses as u128) << 64 | ports as u128
}

impl PartialEq<FlowKeyV4> for FlowKey {
    #[inline]
    fn eq(&self, FlowKeyV4([a, b]): &FlowKeyV4) -> bool {
        self.0[3] == *a && self.0[4] == *b
    }
}

/// The key of the hash function: a chain of multiplications to 128 bits whose halves are folded, as
/// in wyhash and in hashbrown's default.
///
/// Pods choose their ports and often their peers. A pod can't aim its flows at one bucket of the
/// index because the key is random and nothing that a pod can observe depends on the hash, except
/// for nanoseconds. SipHash, which conntrack uses (`net/netfilter/nf_conntrack_core.c`,
/// `hash_conntrack_raw`), is stronger, and cost a tenth of an established packet's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashKey([u64; 3]);

impl HashKey {
    /// A random key.
    pub(crate) fn random() -> Self {
        // The only source of randomness in the standard library: SipHash with a random key is as
        // unpredictable as the key.
        let random = RandomState::new();
        let [start, step, end] = [0, 1, 2].map(|number| random.hash_one(number));
        // Multiplication by an odd number loses no bits.
        Self([start, step | 1, end | 1])
    }

    /// The key's hash.
    #[inline]
    pub(super) fn hash(&self, flow: &FlowKey) -> u64 {
        let words = &flow.0;
        if flow.is_v4() { self.hash_words(&words[3..]) } else { self.hash_words(words) }
    }

    /// The same for an IPv4 key.
    #[inline]
    pub(super) fn hash_v4(&self, FlowKeyV4(words): &FlowKeyV4) -> u64 {
        self.hash_words(words)
    }

    /// The hash of any words.
    #[inline]
    pub(crate) fn hash_words(&self, words: &[u64]) -> u64 {
        let [start, step, end] = self.0;
        mix(words.iter().fold(start, |hash, word| mix(hash ^ word, step)), end)
    }
}

/// The folded product.
#[inline]
const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::tests::any_tuple;

    proptest! {
        #[test]
        fn both_directions_have_one_key_which_yields_the_tuple(tuple in any_tuple()) {
            let (key, source) = FlowKey::of(&tuple);
            prop_assert_eq!(key.tuple(source), tuple);
            prop_assert_eq!(key.tuple(source.other()), tuple.reversed());
            prop_assert_eq!(FlowKey::of(&tuple.reversed()), (key, source.other()));
        }
    }

    /// Keys that differ in few bits and in regular steps hash like random ones: in the bits that
    /// select a bucket of the index, and in those that an entry stores.
    #[test]
    fn hashes_of_regular_keys_are_uniform() {
        const KEYS: u32 = 1 << 16;
        let v4 = |src: u32, sport: u32, dst: u32, dport: u32| {
            let address = |bits: u32| Address::v4(bits.to_be_bytes());
            let (src, dst) = (address(src), address(dst));
            Tuple { src, dst, src_port: sport as u16, dst_port: dport as u16, protocol: 6 }
        };
        let v6 = |tuple: Tuple| {
            let wide = |address: Address| Address::from_bits(address.bits() << 64 | 0xfd << 120);
            Tuple { src: wide(tuple.src), dst: wide(tuple.dst), ..tuple }
        };
        let (pod, server) = (0x0a40_0102, 0x0a40_0203);
        let patterns: [&dyn Fn(u32) -> Tuple; 5] = [
            &|n| v4(pod, n, server, 80),
            &|n| v4(pod, n % 256 + 1024, server, n / 256 * 256),
            &|n| v4(pod + n % 16, 1000 + n / 16 * 4, server, 53),
            &|n| v4(pod, 40_000, n << 12, 443),
            &|n| v4(n << 16, 123, server, 123),
        ];
        for pattern in patterns {
            for key in [HashKey::random(), HashKey::random()] {
                for is_v6 in [false, true] {
                    let tuple = |n| if is_v6 { v6(pattern(n)) } else { pattern(n) };
                    let hashes: Vec<_> =
                        (0..KEYS).map(|n| key.hash(&FlowKey::of(&tuple(n)).0)).collect();
                    for shift in [0, 32, 48] {
                        let places = hashes.iter().map(|hash| (hash >> shift) as u16);
                        let taken = places.collect::<HashSet<_>>().len();
                        // Of as many buckets as keys, 1 - 1/e are used: 41,427, with a standard
                        // deviation of about 80.
                        assert!((40_600..42_300).contains(&taken), "{taken}, {:?}", tuple(1));
                    }
                }
            }
        }
    }
}
