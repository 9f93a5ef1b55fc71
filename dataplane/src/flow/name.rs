//! What a flow is found by.

use std::hash::{BuildHasher, RandomState};

use crate::types::{Address, Tuple};

/// A tuple with its two ends in order, so that packets of both directions have the same, in as many
/// bytes as it takes: 13 for IPv4, 37 for IPv6.
///
/// As words, little-endian: whole ones, then what is left with the number of bytes in the highest
/// byte, which is also how [`Key`] hashes it. IPv4 has two words and zeros behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Name([u64; 5]);

const V4_BYTES: u64 = 13;
const V6_BYTES: u64 = 37;

impl Name {
    /// The tuple's name, and whether its source is the end that comes second.
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> (Self, bool) {
        if let (Some(src), Some(dst)) = (tuple.src.as_v4_bits(), tuple.dst.as_v4_bits()) {
            let ends = [(src, tuple.src_port), (dst, tuple.dst_port)];
            let (NameV4([a, b]), swapped) = NameV4::of(ends, tuple.protocol);
            return (Self([a, b, 0, 0, 0]), swapped);
        }
        let one = (tuple.src.bits(), tuple.src_port);
        let other = (tuple.dst.bits(), tuple.dst_port);
        let swapped = one > other;
        let ((low, low_port), (high, high_port)) =
            if swapped { (other, one) } else { (one, other) };
        let ports = u64::from(low_port) << 16 | u64::from(high_port);
        let [a, b, c, d] = [low, low >> 64, high, high >> 64].map(|half| half as u64);
        let last = V6_BYTES << 56 | u64::from(tuple.protocol) << 32 | ports;
        (Self([a, b, c, d, last]), swapped)
    }

    const fn is_v4(&self) -> bool {
        self.0[4] == 0
    }

    /// Brings it into the cache.
    #[inline]
    pub(super) const fn touch(&self) -> u32 {
        self.0[0] as u32
    }

    /// The tuple again; `swapped` as [`Name::of`] gave it.
    pub(super) fn tuple(&self, swapped: bool) -> Tuple {
        let [a, b, c, d, e] = self.0;
        let (low, high, protocol) = if self.is_v4() {
            let high = a >> 48 | b << 16;
            let end = |bits: u64| (Address::v4(((bits >> 16) as u32).to_be_bytes()), bits as u16);
            (end(a), end(high), (b >> 32) as u8)
        } else {
            let address = |low, high| Address::from_bits(u128::from(low) | u128::from(high) << 64);
            ((address(a, b), (e >> 16) as u16), (address(c, d), e as u16), (e >> 32) as u8)
        };
        let ((src, src_port), (dst, dst_port)) = if swapped { (high, low) } else { (low, high) };
        Tuple { src, dst, src_port, dst_port, protocol }
    }
}

/// The words of an IPv4 name that are not always zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NameV4([u64; 2]);

impl NameV4 {
    /// A name that no tuple has.
    pub(super) const NOBODYS: Self = Self([0; 2]);

    /// As [`Name::of`].
    #[inline]
    pub(super) fn of([src, dst]: [(u32, u16); 2], protocol: u8) -> (Self, bool) {
        let end = |(address, port): (u32, u16)| u64::from(address) << 16 | u64::from(port);
        let (one, other) = (end(src), end(dst));
        let (low, high) = (one.min(other), one.max(other));
        let last = V4_BYTES << 56 | u64::from(protocol) << 32 | high >> 16;
        (Self([low | high << 48, last]), one > other)
    }
}

impl PartialEq<NameV4> for Name {
    #[inline]
    fn eq(&self, NameV4([a, b]): &NameV4) -> bool {
        self.0[0] == *a && self.0[1] == *b && self.is_v4()
    }
}

/// The key of the hash: SipHash-1-3 (Aumasson, Bernstein, "SipHash: a fast short-input PRF", §2).
///
/// Pods choose their ports and often their peers, so a weaker hash would let one of them pile its
/// flows on one place of the index; conntrack uses SipHash for the same reason
/// (`net/netfilter/nf_conntrack_core.c`, `hash_conntrack_raw`). The standard library's is the same
/// function behind a buffer for input of any length, at twice the cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key([u64; 2]);

impl Key {
    /// A new one: nobody else can know it.
    pub(super) fn random() -> Self {
        // The one source of randomness in the standard library: SipHash of a random key is as hard
        // to foretell as the key.
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1)])
    }

    /// The name's hash.
    #[inline]
    pub(super) fn hash(&self, Name(words): &Name) -> u64 {
        let [hash] = match words {
            [a, b, _, _, 0] => self.sip([[*a], [*b]]),
            all => self.sip(all.map(|word| [word])),
        };
        hash
    }

    /// The same for several of IPv4.
    #[inline]
    pub(super) fn hash_v4<const L: usize>(&self, names: &[NameV4; L]) -> [u64; L] {
        self.sip([names.map(|NameV4([a, _])| a), names.map(|NameV4([_, b])| b)])
    }

    /// Hashes `L` messages of `N` words each. One hash is a chain of steps that wait for each other;
    /// side by side, the steps of others fill the waits.
    #[inline]
    fn sip<const N: usize, const L: usize>(&self, words: [[u64; L]; N]) -> [u64; L] {
        let [k0, k1] = self.0;
        let mut v = [
            [k0 ^ 0x736f_6d65_7073_6575; L],
            [k1 ^ 0x646f_7261_6e64_6f6d; L],
            [k0 ^ 0x6c79_6765_6e65_7261; L],
            [k1 ^ 0x7465_6462_7974_6573; L],
        ];
        for word in words {
            v[3] = xor(v[3], word);
            v = round(v);
            v[0] = xor(v[0], word);
        }
        v[2] = xor(v[2], [0xff; L]);
        let [a, b, c, d] = round(round(round(v)));
        xor(xor(a, b), xor(c, d))
    }
}

#[inline]
fn round<const L: usize>([mut a, mut b, mut c, mut d]: [[u64; L]; 4]) -> [[u64; L]; 4] {
    a = add(a, b);
    c = add(c, d);
    b = xor(rotate(b, 13), a);
    d = xor(rotate(d, 16), c);
    a = rotate(a, 32);
    c = add(c, b);
    a = add(a, d);
    b = xor(rotate(b, 17), c);
    d = xor(rotate(d, 21), a);
    c = rotate(c, 32);
    [a, b, c, d]
}

#[inline]
fn add<const L: usize>(a: [u64; L], b: [u64; L]) -> [u64; L] {
    std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
}

#[inline]
fn xor<const L: usize>(a: [u64; L], b: [u64; L]) -> [u64; L] {
    std::array::from_fn(|lane| a[lane] ^ b[lane])
}

#[inline]
fn rotate<const L: usize>(a: [u64; L], bits: u32) -> [u64; L] {
    a.map(|lane| lane.rotate_left(bits))
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use proptest::prelude::*;

    use super::*;
    use crate::flow::tests::any_tuple;

    proptest! {
        #[test]
        fn both_ends_make_one_name_and_it_makes_them_again(tuple in any_tuple()) {
            let (name, swapped) = Name::of(&tuple);
            prop_assert_eq!(name.tuple(swapped), tuple);
            prop_assert_eq!(name.tuple(!swapped), tuple.reversed());
            prop_assert_eq!(Name::of(&tuple.reversed()), (name, !swapped));
        }

        #[test]
        fn the_hash_is_siphash_1_3_of_the_names_bytes(tuple in any_tuple()) {
            let Name(name) = Name::of(&tuple).0;
            let (words, len) = if name[4] == 0 { (2, 13) } else { (5, 37) };
            let bytes: Vec<u8> = name[..words].iter().flat_map(|w| w.to_le_bytes()).collect();
            // `DefaultHasher` is SipHash-1-3 with a key of zeros.
            let mut expected = DefaultHasher::new();
            expected.write(&bytes[..len]);
            prop_assert_eq!(Key([0; 2]).hash(&Name(name)), expected.finish());
            if len == 13 {
                let names = [[1, 2], [name[0], name[1]], [3, 4]].map(NameV4);
                prop_assert_eq!(Key([0; 2]).hash_v4(&names)[1], expected.finish());
            }
        }
    }
}
