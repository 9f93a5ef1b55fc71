//! Precedence, on tables made by hand.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::l7::L7Rules;
use crate::types::{Address, Tuple, proto};

const CLIENT: SelectorId = SelectorId(7);

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn entry(tier: Tier, order: u32, action: Action, rule: u32) -> Entry {
    let rank = Rank { tier, order };
    Entry { rank, action, peer: None, port_name: None, l7: None, rule: RuleId(rule) }
}

/// A server, 10.0.0.2, with these entries for ingress on every port, and a client, 10.0.0.1.
fn tables(entries: Vec<Entry>, default_deny: Option<u32>) -> PolicyTables {
    assert!(entries.is_sorted_by_key(|entry| (entry.rank, entry.action)));
    let ingress = DirectionTable {
        protocols: vec![PortClasses { protocol: proto::TCP, ranges: vec![(0, 0)] }],
        other: None,
        classes: vec![entries.into()],
        default_deny: default_deny.map(DenySetId),
    };
    let open = Arc::new(DirectionTable::default());
    let row = |number, selectors: SelectorSet, ingress: &Arc<DirectionTable>| {
        let (egress, ingress) = (Arc::clone(&open), Arc::clone(ingress));
        Arc::new(IdentityRow { number, selectors, egress, ingress })
    };
    let none = SelectorSet::default;
    let identities = vec![
        row(9, none(), &open),
        row(10, none(), &open),
        row(1, none(), &open),
        row(6, none(), &open),
        row(256, SelectorSet::new([CLIENT]), &open),
        row(257, none(), &Arc::new(ingress)),
    ];
    let mut addresses = AddressTable::default();
    let named_ports = NamedPorts::new([(PortNameId(0), proto::TCP, 80)]);
    addresses.insert(
        address("10.0.0.1"),
        AddressRow { identity: 4, named_ports: NamedPorts::default() },
    );
    addresses.insert(address("10.0.0.2"), AddressRow { identity: 5, named_ports });
    PolicyTables { addresses, networks: NetworkTable::default(), identities }
}

fn decide_from(tables: &PolicyTables, src: &str, dst_port: u16, protocol: u8) -> Decision {
    let (src, dst) = (address(src), address("10.0.0.2"));
    let tuple = Tuple { src, dst, src_port: 1, dst_port, protocol };
    tables.decide(&Subject { tuple, icmp_type: 0 }, [true, true])
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
fn pass_leaves_its_tier_and_no_other() {
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
fn pass_out_of_the_last_tier_is_open() {
    assert_eq!(cause(vec![entry(Baseline, 0, Pass, 1)], None), Cause::Unenforced);
}

#[test]
fn entries_ask_for_peer_and_port_name() {
    let mut by_peer = entry(Normal, 0, Allow, 1);
    by_peer.peer = Some(CLIENT);
    let mut by_name = entry(Normal, 0, Allow, 2);
    by_name.port_name = Some(PortNameId(0));
    let tables = tables(vec![by_peer, by_name], Some(0));
    let cause = |src, port| decide_from(&tables, src, port, proto::TCP).ingress;
    assert_eq!(cause("10.0.0.1", 81), Cause::Allowed(RuleId(1)));
    assert_eq!(cause("10.0.0.9", 80), Cause::Allowed(RuleId(2)));
    assert_eq!(cause("10.0.0.9", 81), Cause::DefaultDeny(DenySetId(0)));
}

#[test]
fn protocols_that_no_entry_names_have_no_entries() {
    let tables = tables(vec![entry(Normal, 0, Allow, 1)], Some(0));
    let decision = decide_from(&tables, "10.0.0.1", 80, proto::UDP);
    assert_eq!(decision.verdict, Verdict::Deny);
}

#[test]
fn requests_are_held_against_every_allow_of_the_rank_that_matches() {
    let rules = Arc::new(L7Rules::http(Vec::new()));
    let mut inspected = entry(Normal, 0, Allow, 2);
    inspected.l7 = Some(rules);
    let mut elsewhere = entry(Normal, 0, Allow, 3);
    elsewhere.peer = Some(SelectorId(99));
    let later = entry(Baseline, 0, Allow, 4);
    let entries = vec![entry(Normal, 0, Allow, 1), inspected, elsewhere, later];
    let decision = decide_from(&tables(entries, None), "10.0.0.1", 80, proto::TCP);
    assert_eq!(decision.verdict, Verdict::Inspect);
    let held: Vec<(u32, bool)> =
        decision.l7.ingress.iter().map(|held| (held.rule.0, held.rules.is_some())).collect();
    assert_eq!(held, [(1, false), (2, true)]);
}
