//! Precedence and matching, on hand-made tables.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::address::Address;
use crate::ids::{PortNameId, SelectorId};
use crate::l7::L7Rules;
use crate::proto;
use crate::tuple::Tuple;

const CLIENT: SelectorId = SelectorId(7);

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn entry(tier: Tier, order: u32, action: Action, rule: u32) -> Entry {
    let rank = Rank { tier, order };
    Entry {
        rank,
        action,
        peer: PeerMatch::Any,
        port_name: None,
        ports: Entry::ALL_PORTS,
        l7: None,
        rule: RuleId(rule),
    }
}

/// A server, 10.0.0.2, with these ingress entries for every TCP port, and a client, 10.0.0.1.
fn tables(entries: Vec<Entry>, default_deny: Option<u32>) -> PolicyTables {
    assert!(entries.is_sorted_by_key(|entry| (entry.rank, entry.action)));
    let ingress = RuleTable {
        protocols: vec![PortClasses { protocol: proto::TCP, ranges: vec![(0, 0)] }],
        other: None,
        classes: vec![entries.into()],
        default_deny: default_deny.map(DenySetId),
    };
    let open = Arc::new(RuleTable::default());
    let row = |number, selectors: SelectorSet, ingress: &Arc<RuleTable>| {
        let (egress, ingress) = (Arc::clone(&open), Arc::clone(ingress));
        IdentityRow { number, namespace: 0, selectors, egress, ingress }
    };
    let none = SelectorSet::default;
    let mut tables = PolicyTables::default();
    let rows = [
        row(9, none(), &open),
        row(10, none(), &open),
        row(1, none(), &open),
        row(6, none(), &open),
        row(256, SelectorSet::new([CLIENT]), &open),
        row(257, none(), &Arc::new(ingress)),
    ];
    for (index, row) in rows.into_iter().enumerate() {
        tables.identities.set(index as u32, row);
    }
    let named_ports = Some(NamedPorts::new([(PortNameId(0), proto::TCP, 80)]));
    let client = AddressRow { identity: 4, named_ports: None };
    tables.addresses.set(address("10.0.0.1"), Some(client));
    tables.addresses.set(address("10.0.0.2"), Some(AddressRow { identity: 5, named_ports }));
    tables
}

fn decide_from(tables: &PolicyTables, src: &str, dst_port: u16, protocol: u8) -> Decision {
    let (src, dst) = (address(src), address("10.0.0.2"));
    let tuple = Tuple { src, dst, src_port: 1, dst_port, protocol };
    tables.decide(&Subject { tuple, icmp_type: 0 }, LocalEnds::BOTH)
}

fn cause(entries: Vec<Entry>, default_deny: Option<u32>) -> Cause {
    decide_from(&tables(entries, default_deny), "10.0.0.1", 80, proto::TCP).ingress
}

use Action::{Allow, Deny, Pass};
use Tier::{Admin, Baseline, Normal};

#[test]
fn an_earlier_tier_wins_over_a_later_one_and_over_default_deny() {
    let entries = vec![entry(Admin, 9, Allow, 1), entry(Normal, 0, Deny, 2)];
    assert_eq!(cause(entries, Some(0)), Cause::Allowed(RuleId(1)));
}

#[test]
fn the_lower_order_wins_inside_a_tier_whatever_the_action() {
    let entries = vec![entry(Admin, 1, Allow, 1), entry(Admin, 2, Deny, 2)];
    assert_eq!(cause(entries, None), Cause::Allowed(RuleId(1)));
}

#[test]
fn deny_wins_inside_one_rank() {
    let entries = vec![entry(Normal, 0, Deny, 2), entry(Normal, 0, Allow, 1)];
    assert_eq!(cause(entries, None), Cause::Denied(RuleId(2)));
}

#[test]
fn pass_skips_its_own_tier_only() {
    let entries =
        vec![entry(Admin, 1, Pass, 1), entry(Admin, 2, Deny, 2), entry(Normal, 0, Allow, 3)];
    assert_eq!(cause(entries, None), Cause::Allowed(RuleId(3)));
    let entries = vec![entry(Admin, 1, Pass, 1), entry(Baseline, 0, Deny, 2)];
    assert_eq!(cause(entries, None), Cause::Denied(RuleId(2)));
}

#[test]
fn default_deny_comes_before_baseline() {
    let entries = vec![entry(Baseline, 0, Allow, 1)];
    assert_eq!(cause(entries.clone(), Some(3)), Cause::DefaultDeny(DenySetId(3)));
    assert_eq!(cause(entries, None), Cause::Allowed(RuleId(1)));
}

#[test]
fn pass_in_the_last_tier_allows() {
    assert_eq!(cause(vec![entry(Baseline, 0, Pass, 1)], None), Cause::Unenforced);
}

#[test]
fn an_entry_matches_by_peer_and_by_port_name() {
    let mut by_peer = entry(Normal, 0, Allow, 1);
    by_peer.peer = PeerMatch::Labels(CLIENT);
    let mut by_name = entry(Normal, 0, Allow, 2);
    by_name.port_name = Some(PortNameId(0));
    let tables = tables(vec![by_peer, by_name], Some(0));
    let cause = |src, port| decide_from(&tables, src, port, proto::TCP).ingress;
    assert_eq!(cause("10.0.0.1", 81), Cause::Allowed(RuleId(1)));
    assert_eq!(cause("10.0.0.9", 80), Cause::Allowed(RuleId(2)));
    assert_eq!(cause("10.0.0.9", 81), Cause::DefaultDeny(DenySetId(0)));
}

#[test]
fn a_protocol_without_entries_gets_the_default_deny() {
    let tables = tables(vec![entry(Normal, 0, Allow, 1)], Some(0));
    let decision = decide_from(&tables, "10.0.0.1", 80, proto::UDP);
    assert_eq!(decision.verdict, Verdict::Deny);
}

#[test]
fn l7_rules_of_every_matching_allow_of_the_rank_apply() {
    let rules = Arc::new(L7Rules::http(Vec::new()));
    let mut inspected = entry(Normal, 0, Allow, 2);
    inspected.l7 = Some(rules);
    let mut other_peer = entry(Normal, 0, Allow, 3);
    other_peer.peer = PeerMatch::Labels(SelectorId(99));
    let later = entry(Baseline, 0, Allow, 4);
    let entries = vec![entry(Normal, 0, Allow, 1), inspected, other_peer, later];
    let decision = decide_from(&tables(entries, None), "10.0.0.1", 80, proto::TCP);
    assert_eq!(decision.verdict, Verdict::Inspect);
    let applied: Vec<(u32, bool)> =
        decision.l7.ingress.iter().map(|entry| (entry.rule.0, entry.rules.is_some())).collect();
    assert_eq!(applied, [(1, false), (2, true)]);
}

#[test]
fn an_address_set_matches_addresses_in_its_scope() {
    let mut by_network = entry(Normal, 0, Allow, 1);
    by_network.peer = PeerMatch::Addresses(SelectorId(2));
    let mut tables = tables(vec![by_network], Some(0));
    let mut allows = |scope, src| {
        let range = (u32::from_be_bytes([10, 0, 0, 0]), u32::from_be_bytes([10, 0, 0, 99]));
        let set = AddressSet::new(scope, vec![range], vec![]);
        tables.address_sets.set(2, Arc::new(set));
        let node = AddressRow { identity: PolicyTables::REMOTE_NODE, named_ports: None };
        tables.addresses.set(address("10.0.0.50"), Some(node));
        decide_from(&tables, src, 80, proto::TCP).ingress.allows()
    };
    for (src, world, nodes, all) in [
        ("10.0.0.99", true, true, true),
        ("10.0.0.100", false, false, false),
        ("10.0.0.50", false, true, true),
        ("10.0.0.1", false, false, true),
    ] {
        assert_eq!(allows(AddressScope::World, src), world, "{src}");
        assert_eq!(allows(AddressScope::WorldAndNodes, src), nodes, "{src}");
        assert_eq!(allows(AddressScope::All, src), all, "{src}");
    }
}

#[test]
fn overlapping_ranges_are_merged() {
    let set = AddressSet::new(AddressScope::All, vec![(5, 9), (1, 2), (7, 20), (30, 30)], vec![]);
    let contained: Vec<u32> =
        (0..40u32).filter(|bits| set.contains(Address::v4(bits.to_be_bytes()))).collect();
    let expected: Vec<u32> = (1..=2).chain(5..=20).chain(30..=30).collect();
    assert_eq!(contained, expected);
}

#[test]
fn changes_of_rows_do_not_affect_a_copy() {
    let mut rows = Rows::default();
    assert!(rows.set(1_000, 7));
    let copy = rows.clone();
    assert!(!rows.set(1_000, 7), "nothing changed");
    assert!(rows.set(1_000, 8) && rows.set(0, 1));
    assert_eq!((copy.get(1_000), copy.get(0), copy.get(5_000)), (Some(&7), Some(&0), None));
    assert_eq!((rows.get(1_000), rows.get(0)), (Some(&8), Some(&1)));
}

#[test]
fn changes_of_an_address_map_do_not_affect_a_copy() {
    let mut map = AddressMap::default();
    let (a, b) = (address("10.0.0.1"), address("fd00::1"));
    assert!(map.set(a, Some(1)) && map.set(b, Some(2)));
    let copy = map.clone();
    assert!(!map.set(a, Some(1)), "nothing changed");
    assert!(map.set(a, None) && !map.set(a, None) && map.set(b, Some(3)));
    assert_eq!((copy.get(a), copy.get(b)), (Some(&1), Some(&2)));
    assert_eq!((map.get(a), map.get(b), map.iter().count()), (None, Some(&3), 1));
}

#[test]
fn an_entry_may_have_its_own_port_range() {
    let mut one = entry(Normal, 0, Allow, 1);
    one.ports = (80, 81);
    let tables = tables(vec![one], Some(0));
    let allowed = |port| decide_from(&tables, "10.0.0.1", port, proto::TCP).ingress.allows();
    assert_eq!([79, 80, 81, 82].map(allowed), [false, true, true, false]);
}
