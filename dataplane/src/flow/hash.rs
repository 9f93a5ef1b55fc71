//! The hash that flows are found by: SipHash-1-3 with a random key of the table's own.
//!
//! Pods choose their ports and often their peers, so a weaker hash would let one of them pile its
//! flows on one place of the index; conntrack uses SipHash for the same reason
//! (`net/netfilter/nf_conntrack_core.c`, `hash_conntrack_raw`). The standard library's is the same
//! function behind a buffer for input of any length; a tuple is three words, or five.

use std::hash::{BuildHasher, RandomState};

use crate::types::Tuple;

/// The key.
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

    /// The same for both directions: the ends are put in order. IPv4 takes fewer rounds.
    #[inline]
    pub(super) fn hash(&self, tuple: &Tuple) -> u64 {
        let one = (tuple.src.bits(), tuple.src_port);
        let other = (tuple.dst.bits(), tuple.dst_port);
        let ((low, low_port), (high, high_port)) =
            if one <= other { (one, other) } else { (other, one) };
        let ports = u64::from(low_port) << 16 | u64::from(high_port);
        let last = u64::from(tuple.protocol) << 32 | ports;
        if tuple.src.is_v4() {
            return self.sip([(low as u64) << 32 | high as u64 & 0xffff_ffff, last]);
        }
        self.sip([low as u64, (low >> 64) as u64, high as u64, (high >> 64) as u64, last])
    }

    /// SipHash-1-3 of whole words (Aumasson, Bernstein, "SipHash: a fast short-input PRF", §2).
    #[inline]
    fn sip<const N: usize>(&self, words: [u64; N]) -> u64 {
        let [k0, k1] = self.0;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        // The last word of the input holds its length in bytes.
        for word in words.into_iter().chain([(8 * N as u64) << 56]) {
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        round(&mut v);
        round(&mut v);
        round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline]
const fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_standard_librarys_function(words in any::<[u64; 3]>()) {
            // `DefaultHasher` is SipHash-1-3 with a key of zeros.
            let mut expected = std::hash::DefaultHasher::new();
            words.iter().for_each(|word| expected.write_u64(*word));
            prop_assert_eq!(Key([0; 2]).sip(words), expected.finish());
        }
    }
}
