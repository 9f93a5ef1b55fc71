//! The steering hash, as `redirect.bpf.c` computes it.

/// Hash of a flow; both directions have the same one.
///
/// `src` and `dst` are addresses as 128-bit numbers, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
/// Ports are L4 ports in host byte order. The program gives `protocol` and ports only to TCP, UDP
/// and SCTP that is no fragment, or an "atomic" one, and stands behind at most eight extension
/// headers other than ESP; everything else, ICMP and first fragments included, is hashed with all
/// three zero.
#[must_use]
pub const fn flow_hash(src: u128, dst: u128, protocol: u8, sport: u16, dport: u16) -> u32 {
    // The sum is commutative, so both directions have the same hash.
    let ends = hash_end(src, sport).wrapping_add(hash_end(dst, dport));
    (mix(ends.wrapping_add(protocol as u64)) >> 32) as u32
}

/// The worker that owns flows of this hash, below `workers`.
#[must_use]
pub const fn worker_of(hash: u32, workers: u16) -> u16 {
    ((hash as u64 * workers as u64) >> 32) as u16
}

const fn hash_end(address: u128, port: u16) -> u64 {
    let (high, low) = ((address >> 64) as u64, address as u64);
    mix(high ^ mix(low ^ (port as u64) << 48))
}

/// The 64-bit finalizer of MurmurHash3.
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_directions_have_one_hash(
            src: u128, dst: u128, protocol: u8, sport: u16, dport: u16
        ) {
            prop_assert_eq!(
                flow_hash(src, dst, protocol, sport, dport),
                flow_hash(dst, src, protocol, dport, sport)
            );
        }

        #[test]
        fn worker_is_in_range(hash: u32, workers in 1u16..) {
            prop_assert!(worker_of(hash, workers) < workers);
        }
    }

    #[test]
    fn neighbouring_flows_spread_evenly() {
        const WORKERS: u16 = 7;
        const FLOWS: u16 = 7000;
        let (client, server) = (0xffff_0a00_0001, 0xffff_0a00_0002);
        let mut share = [0_u32; WORKERS as usize];
        for sport in 32768..32768 + FLOWS {
            let hash = flow_hash(client, server, 6, sport, 80);
            share[usize::from(worker_of(hash, WORKERS))] += 1;
        }
        // 1000 each on average, standard deviation about 29: five of them are allowed.
        assert!(share.iter().all(|n| (850..1150).contains(n)), "{share:?}");
    }

    #[test]
    fn swapping_only_the_ports_changes_the_hash() {
        assert_ne!(flow_hash(1, 2, 6, 1000, 80), flow_hash(1, 2, 6, 80, 1000));
    }
}
