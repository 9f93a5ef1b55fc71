//! The steering hash, as `redirect.bpf.c` computes it.

/// L4 ports from this one on are ephemeral: clients' ports, by Linux's default
/// (`net.ipv4.ip_local_port_range`). `redirect.bpf.c` has the same constant.
pub const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// Hash of a flow; both directions have the same one.
///
/// If one of the ports is ephemeral and the other is not, only the address and port of that end,
/// the client, take part. So a client's packets to a service's cluster IP have the hash of its
/// packets to the backend, and one worker translates them and owns their flow.
///
/// `src` and `dst` are addresses as 128-bit numbers, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
/// Ports are L4 ports in host byte order. The program sets `protocol` and ports only for TCP, UDP
/// and SCTP, in a packet that is no fragment, or an "atomic" one, and after at most eight extension
/// headers other than ESP. For everything else, ICMP and first fragments included, all three are
/// zero.
#[must_use]
pub const fn flow_hash(src: u128, dst: u128, protocol: u8, sport: u16, dport: u16) -> u32 {
    let ends = match (sport >= FIRST_EPHEMERAL_PORT, dport >= FIRST_EPHEMERAL_PORT) {
        (true, false) => hash_end(src, sport),
        (false, true) => hash_end(dst, dport),
        // The sum is commutative, so both directions have the same hash.
        _ => hash_end(src, sport).wrapping_add(hash_end(dst, dport)),
    };
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

        #[test]
        fn a_client_with_an_ephemeral_port_has_one_hash_whatever_the_server(
            client: u128, protocol: u8, sport in FIRST_EPHEMERAL_PORT..,
            servers: [u128; 2], ports in [0..FIRST_EPHEMERAL_PORT, 0..FIRST_EPHEMERAL_PORT]
        ) {
            let [one, other] = [0, 1].map(|n| {
                flow_hash(client, servers[n], protocol, sport, ports[n])
            });
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn neighbouring_flows_spread_evenly() {
        const WORKERS: u16 = 7;
        const FLOWS: u16 = 7000;
        let (client, server) = (0xffff_0a00_0001, 0xffff_0a00_0002);
        // By the client's end, by both ends, and by both if both ports are ephemeral.
        for (first, dport) in [(FIRST_EPHEMERAL_PORT, 80), (20_000, 80), (40_000, 50_051)] {
            let mut share = [0_u32; WORKERS as usize];
            for sport in first..first + FLOWS {
                let hash = flow_hash(client, server, 6, sport, dport);
                share[usize::from(worker_of(hash, WORKERS))] += 1;
            }
            // 1000 each on average, standard deviation about 29: five of them are allowed.
            assert!(share.iter().all(|n| (850..1150).contains(n)), "{first} {dport}: {share:?}");
        }
    }

    #[test]
    fn clients_of_one_port_spread_evenly() {
        const WORKERS: u16 = 7;
        let mut share = [0_u32; WORKERS as usize];
        for client in 0xffff_0a00_0001..=0xffff_0a00_1b58 {
            let hash = flow_hash(client, 0xffff_0a80_0001, 17, 40_000, 53);
            share[usize::from(worker_of(hash, WORKERS))] += 1;
        }
        assert!(share.iter().all(|n| (850..1150).contains(n)), "{share:?}");
    }

    #[test]
    fn swapping_only_the_ports_changes_the_hash() {
        assert_ne!(flow_hash(1, 2, 6, 1000, 80), flow_hash(1, 2, 6, 80, 1000));
    }
}
