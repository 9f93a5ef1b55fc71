//! (3) A cache of decisions on new flows.
//!
//! Policy evaluates the addresses, the protocol, and the destination port or ICMP type of a flow;
//! not the source port. Pods open flows to the same few servers again and again, so nearly every
//! new flow differs only by its source port from one that was just decided.
//!
//! An entry holds the result of
//! [`PolicyTables::decide_from`](podgate_tables::policy::PolicyTables::decide_from) with its
//! causes, and the links of both ends. It is valid for one epoch. Flows to be inspected are always
//! decided again, since their rules are part of the decision. So are flows of
//! [`ProvenSender::Node`] and [`ProvenSender::Destination`]: nearly all of them are exempt from
//! policy, and finding that out evaluates no rule.
//!
//! A pod that scans may displace other pods' entries. That costs them time and nothing else, so
//! there are no fair shares of the cache and no counters.

use podgate_tables::address::Address;
use podgate_tables::ids::{LinkId, ShortEpoch};
use podgate_tables::l7::L7Policy;
use podgate_tables::policy::{
    Cause, Decision, LocalEnds, ProvenSender, Snapshot, Subject, Verdict,
};

use crate::flow::{HashKey, LookupKey};
use crate::mem::{prefer_huge_pages, prefetch};

/// Entries of a worker's flow table per cache entry, except for rounding up to a power of two: 2¹⁸
/// flows make a cache of 4 MiB.
const FLOWS_PER_ENTRY: u32 = 4;

/// Entries in which a decision may be stored (associativity): its home, and the home's neighbours.
const WAYS: usize = 4;
const _: () = assert!(WAYS.is_power_of_two());

/// The links of a flow's source and destination, where they are local endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ends {
    pub(super) src: Option<LinkId>,
    pub(super) dst: Option<LinkId>,
}

impl Ends {
    fn of(snapshot: &Snapshot, subject: &Subject) -> Self {
        let (routes, tuple) = (&snapshot.routes, &subject.tuple);
        Self { src: routes.local_link(tuple.src), dst: routes.local_link(tuple.dst) }
    }

    /// Which ends are local endpoints.
    pub(super) const fn local(self) -> LocalEnds {
        LocalEnds { source: self.src.is_some(), destination: self.dst.is_some() }
    }

    /// The ends of a flow in the opposite direction.
    pub(super) const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

/// What policy evaluates of a flow, and the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CacheKey {
    src: Address,
    dst: Address,
    port: u16,
    protocol: u8,
    epoch: ShortEpoch,
}

impl CacheKey {
    fn new(subject: &Subject, epoch: ShortEpoch) -> Self {
        let tuple = &subject.tuple;
        let (port, protocol) = (subject.policy_port(), tuple.protocol);
        Self { src: tuple.src, dst: tuple.dst, port, protocol, epoch }
    }

    fn hash(&self, key: &HashKey) -> u64 {
        if let Some(addresses) = Address::v4_header_bits(self.src, self.dst) {
            return hash_v4(key, addresses, self.port, self.protocol);
        }
        let [src, dst] = [self.src, self.dst].map(Address::bits);
        let [a, b, c, d] = [src, src >> 64, dst, dst >> 64].map(|half| half as u64);
        key.hash_words(&[a, b, c, d, port_word(self.port, self.protocol)])
    }
}

/// The hash of an IPv4 key, from addresses as in the packet, little-endian.
#[inline]
fn hash_v4(key: &HashKey, addresses: u64, port: u16, protocol: u8) -> u64 {
    key.hash_words(&[addresses, port_word(port, protocol)])
}

fn port_word(port: u16, protocol: u8) -> u64 {
    u64::from(protocol) << 16 | u64::from(port)
}

/// A decision without L7 rules, and its key. One cache line: with a nested [`CacheKey`] it would be
/// larger.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct CachedDecision {
    src: Address,
    dst: Address,
    port: u16,
    protocol: u8,
    verdict: Verdict,
    epoch: ShortEpoch,
    ends: Ends,
    egress: Cause,
    ingress: Cause,
}

const _: () = assert!(size_of::<Option<CachedDecision>>() == 64);

impl CachedDecision {
    fn new(key: &CacheKey, ends: Ends, decision: &Decision) -> Self {
        let CacheKey { src, dst, port, protocol, epoch } = *key;
        let Decision { verdict, egress, ingress, .. } = *decision;
        Self { src, dst, port, protocol, verdict, epoch, ends, egress, ingress }
    }

    #[inline]
    fn matches(&self, key: &CacheKey) -> bool {
        let Self { src, dst, port, protocol, epoch, .. } = *self;
        CacheKey { src, dst, port, protocol, epoch } == *key
    }

    #[inline]
    fn decision(&self) -> (Ends, Decision) {
        let Self { verdict, egress, ingress, .. } = *self;
        (self.ends, Decision { verdict, egress, ingress, l7: L7Policy::default() })
    }
}

/// One worker's cache.
#[derive(Debug)]
pub(super) struct DecisionCache {
    hash_key: HashKey,
    /// A power of two of entries.
    entries: Box<[Option<CachedDecision>]>,
    /// The upper half of the epochs of all entries, which have no timeout.
    upper_epoch: u32,
}

impl DecisionCache {
    /// An empty cache for a worker with `flows` entries in its flow table.
    pub(super) fn new(flows: u32) -> Self {
        let capacity = ((flows / FLOWS_PER_ENTRY) as usize).next_power_of_two().max(WAYS);
        let mut entries = Vec::with_capacity(capacity);
        prefer_huge_pages(entries.spare_capacity_mut());
        entries.resize(capacity, None);
        Self { hash_key: HashKey::random(), entries: entries.into(), upper_epoch: 0 }
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    /// Prefetches the first two entries for an IPv4 packet that opens a flow: rarely are more
    /// needed.
    #[inline]
    pub(super) fn prefetch(&self, key: &LookupKey) {
        let (addresses, port, protocol) = key.policy_fields();
        let home = self.home(hash_v4(&self.hash_key, addresses, port, protocol));
        prefetch(&raw const self.entries[home]);
        prefetch(&raw const self.entries[home ^ 1]);
    }

    /// The decision of the current tables, and the links of both ends.
    pub(super) fn decide(
        &mut self,
        snapshot: &Snapshot,
        subject: &Subject,
        sender: ProvenSender,
    ) -> (Ends, Decision) {
        if sender != ProvenSender::Unknown {
            let ends = Ends::of(snapshot, subject);
            return (ends, snapshot.policy.decide_from(subject, ends.local(), sender));
        }
        let upper_epoch = (snapshot.epoch.0 >> u32::BITS) as u32;
        if upper_epoch != self.upper_epoch {
            self.entries.fill(None);
            self.upper_epoch = upper_epoch;
        }
        let key = CacheKey::new(subject, snapshot.epoch.short());
        let home = self.home(key.hash(&self.hash_key));
        let mut free = None;
        for at in (0..WAYS).map(|way| home ^ way) {
            match &self.entries[at] {
                Some(cached) if cached.matches(&key) => return cached.decision(),
                Some(cached) if cached.epoch == key.epoch => {}
                Some(_) | None => free = free.or(Some(at)),
            }
        }
        let ends = Ends::of(snapshot, subject);
        let decision = snapshot.policy.decide_from(subject, ends.local(), sender);
        if decision.verdict != Verdict::Inspect {
            self.entries[free.unwrap_or(home)] = Some(CachedDecision::new(&key, ends, &decision));
        }
        (ends, decision)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podgate_tables::ids::{DenySetId, Epoch, RuleId};
    use podgate_tables::l7::L7Rules;
    use podgate_tables::policy::{
        Action, AddressRow, Entry, IdentityRow, PeerMatch, PolicyTables, PortClasses, Rank,
        RuleTable,
    };
    use podgate_tables::proto;
    use podgate_tables::route::{Endpoint, NextHop, RouteTable};
    use podgate_tables::tuple::Tuple;
    use proptest::prelude::*;

    use super::*;
    use crate::flow::tests::lookup_key_v4;

    const CLIENT: Address = Address::v4([10, 0, 0, 1]);
    const SERVER: Address = Address::v4([10, 0, 0, 2]);
    const NODE: Address = Address::v4([10, 0, 0, 3]);

    /// A server, 10.0.0.2, with these entries for ingress on every TCP port and ICMP type, a
    /// client, 10.0.0.1, and this node, 10.0.0.3.
    fn tables(entries: Vec<Entry>, default_deny: DenySetId) -> PolicyTables {
        let class_0 = |protocol| PortClasses { protocol, ranges: vec![(0, 0)] };
        let ingress = RuleTable {
            protocols: vec![class_0(proto::TCP), class_0(proto::ICMP)],
            other: None,
            classes: vec![entries.into()],
            default_deny: Some(default_deny),
        };
        let mut tables = PolicyTables::default();
        for reserved_or_client in 0..5 {
            let row = IdentityRow { number: reserved_or_client, ..IdentityRow::default() };
            tables.identities.set(reserved_or_client, row);
        }
        let server = IdentityRow { number: 5, ingress: ingress.into(), ..IdentityRow::default() };
        tables.identities.set(5, server);
        for (address, identity) in [(NODE, PolicyTables::HOST), (CLIENT, 4), (SERVER, 5)] {
            tables.addresses.set(address, Some(AddressRow { identity, named_ports: None }));
        }
        tables
    }

    /// Tables and routes that differ from those of the next epochs: open TCP ports and ICMP types
    /// of the server, their rule, the inspected port, and the server's link, if any.
    fn snapshot(epoch: u32) -> Snapshot {
        let first = epoch as u16 % 5;
        let allow = |ports, l7| Entry {
            rank: Rank::NORMAL,
            action: Action::Allow,
            peer: PeerMatch::Any,
            port_name: None,
            ports,
            l7,
            rule: RuleId(epoch),
        };
        let inspected = allow((8, 8), Some(Arc::new(L7Rules::http(Vec::new()))));
        let entries = vec![allow((first, first + 3), None), inspected];
        let policy = tables(entries, DenySetId(epoch));
        let link = LinkId(1 + first);
        let next_hop = NextHop { link, mac: [2; 6], link_mac: [4; 6], mtu: 1500, path_mtu: 1500 };
        let server = Endpoint { next_hop, addresses: vec![SERVER] };
        let there = !epoch.is_multiple_of(3);
        let routes = Arc::new(RouteTable::new(there.then_some(server), None).unwrap());
        Snapshot { epoch: Epoch(epoch.into()), policy: policy.into(), routes }
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        let mapped = |last: u8| Address::v4([10, 0, 0, last]);
        let any_address = prop_oneof![
            (1..4_u8).prop_map(mapped),
            (1..3_u8).prop_map(move |last| Address::from_bits(mapped(last).bits() | 1 << 64)),
        ];
        let protocol = prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP)];
        let ends = (any_address.clone(), any_address, any::<u16>(), 0..9_u16);
        (ends, protocol, 0..9_u8).prop_map(
            |((src, dst, src_port, dst_port), protocol, icmp_type)| Subject {
                tuple: Tuple { src, dst, src_port, dst_port, protocol },
                icmp_type,
            },
        )
    }

    fn any_sender() -> impl Strategy<Value = ProvenSender> {
        prop::sample::select(vec![
            ProvenSender::Node,
            ProvenSender::Destination,
            ProvenSender::Unknown,
        ])
    }

    proptest! {
        /// With few entries, so that keys displace each other.
        #[test]
        fn a_decision_is_that_of_the_current_tables(
            capacity in prop_oneof![Just(0), Just(64), Just(4096)],
            steps in prop::collection::vec((any_subject(), any_sender(), 0..10_u32), 0..300),
        ) {
            let mut decisions = DecisionCache::new(capacity);
            let mut epoch = 1;
            for (subject, sender, step) in steps {
                epoch += u32::from(step == 0);
                let snapshot = snapshot(epoch);
                let (ends, decision) = decisions.decide(&snapshot, &subject, sender);
                let tuple = &subject.tuple;
                let local = |address| snapshot.routes.local_link(address);
                prop_assert_eq!(ends, Ends { src: local(tuple.src), dst: local(tuple.dst) });
                let expected = snapshot.policy.decide_from(&subject, ends.local(), sender);
                prop_assert_eq!(decision.verdict, expected.verdict);
                prop_assert_eq!(decision.egress, expected.egress);
                prop_assert_eq!(decision.ingress, expected.ingress);
                if expected.verdict == Verdict::Inspect {
                    prop_assert_eq!(decision.l7.ingress.len(), expected.l7.ingress.len());
                }
            }
        }

        /// A difference would only cost time, and no other test would fail.
        #[test]
        fn prefetch_hash_equals_lookup_hash(subject in any_subject()) {
            prop_assume!(subject.tuple.protocol != proto::ICMP);
            let Some(lookup) = lookup_key_v4(&subject.tuple) else { return Ok(()) };
            let (addresses, port, protocol) = lookup.policy_fields();
            let key = HashKey::random();
            let cache_key = CacheKey::new(&subject, Epoch(1).short());
            prop_assert_eq!(hash_v4(&key, addresses, port, protocol), cache_key.hash(&key));
        }
    }

    /// Decisions are cached for the epoch: different tables of the same epoch are not consulted.
    #[test]
    fn a_flow_with_another_source_port_is_not_decided_again() {
        let tuple = |src_port| Tuple {
            src: CLIENT,
            dst: SERVER,
            src_port,
            dst_port: 2,
            protocol: proto::TCP,
        };
        let subject = |src_port| Subject { tuple: tuple(src_port), icmp_type: 0 };
        let mut decisions = DecisionCache::new(64);
        let mut rule_of = |src_port, snapshot: &Snapshot| {
            decisions.decide(snapshot, &subject(src_port), ProvenSender::Unknown).1.ingress
        };
        let rule = |number| Cause::Allowed(RuleId(number));
        assert_eq!(rule_of(40_000, &snapshot(1)), rule(1));
        let other = Snapshot { epoch: Epoch(1), ..snapshot(2) };
        assert_eq!(rule_of(40_001, &other), rule(1));
        assert_eq!(rule_of(40_001, &snapshot(2)), rule(2));
        let much_later = Snapshot { epoch: Epoch((1 << 32) + 2), ..snapshot(7) };
        assert_eq!(rule_of(40_001, &much_later), rule(7), "the lower half of epoch 2");
    }
}
