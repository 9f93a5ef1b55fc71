//! The name table, on a clock of its own.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const POD: &str = "shop/web";

fn at(seconds: u64) -> Nanos {
    Nanos(1_000_000_000).plus_secs(seconds)
}

fn ip(last: u8) -> IpAddr {
    [203, 0, 113, last].into()
}

fn table(per_name: usize, deferred: usize, addresses: usize) -> NameTable {
    NameTable::new(NameLimits {
        ttl_min_s: 0,
        per_name,
        deferred,
        addresses,
        places: 2 * addresses,
    })
}

/// `NAME LAST-BYTE`, with a `-` after it if it is deferred.
fn shown(table: &NameTable) -> Vec<String> {
    let entries = table.iter().map(|(name, address, entry)| {
        let IpAddr::V4(v4) = address else { return format!("{name} {address}") };
        let mark = if entry.deferred { "-" } else { "" };
        format!("{name} {}{mark}", v4.octets()[3])
    });
    entries.collect()
}

/// A check that finds connections of all pods to `alive` only.
fn check(table: &mut NameTable, alive: &[u8], now: Nanos) {
    let is_alive = |address| alive.iter().any(|last| ip(*last) == address);
    let asked = table.deferred().into_iter();
    let checked = asked.map(|(pod, addresses)| {
        (pod, addresses.into_iter().map(|address| (address, is_alive(address))).collect())
    });
    table.end_check(&checked.collect(), now);
}

#[test]
fn an_address_is_live_for_its_ttl_and_at_least_for_the_minimum() {
    let mut table = NameTable::new(NameLimits { ttl_min_s: 30, ..NameLimits::default() });
    let ttls = [(ip(1), 0), (ip(2), 60), (ip(3), u32::MAX), (ip(4), i32::MAX as u32)];
    table.learn(POD, "A.example.", ttls, at(0));
    let expires = table.iter().map(|(_, _, entry)| entry.expires);
    let week = 7 * 24 * 60 * 60;
    assert_eq!(expires.collect::<Vec<_>>(), [at(30), at(60), at(30), at(week)]);
    table.expire(at(29));
    assert_eq!(table.counts().deferred, 0);
    table.expire(at(30));
    assert_eq!(shown(&table), ["a.example 1-", "a.example 2", "a.example 3-", "a.example 4"]);
}

#[test]
fn an_answer_prolongs_and_never_shortens() {
    let mut table = NameTable::default();
    table.learn(POD, "a", [(ip(1), 60)], at(0));
    assert_eq!(table.take_changes(), [("a".into(), vec![ip(1)])]);
    table.learn(POD, "a", [(ip(1), 10)], at(1));
    assert!(!table.has_changes(), "nothing is new");
    table.expire(at(59));
    assert_eq!(shown(&table), ["a 1"]);
    table.learn(POD, "a", [(ip(1), 10)], at(59));
    table.expire(at(68));
    assert_eq!(shown(&table), ["a 1"]);
    table.expire(at(69));
    assert_eq!(shown(&table), ["a 1-"]);
    table.learn(POD, "a", [(ip(1), 10)], at(70));
    assert_eq!(shown(&table), ["a 1"]);
    assert!(!table.has_changes(), "it was usable all the time");
}

#[test]
fn an_expired_address_stays_while_a_connection_is_alive() {
    let mut table = NameTable::default();
    table.learn(POD, "a", [(ip(1), 1), (ip(2), 1)], at(0));
    table.take_changes();
    for minute in 1..9 {
        table.expire(at(60 * minute));
        check(&mut table, &[1], at(60 * minute));
    }
    assert_eq!(shown(&table), ["a 1-"], "two checks found no connection to the other");
    assert_eq!(table.take_changes(), [("a".into(), vec![ip(1)])]);
    check(&mut table, &[], at(600));
    assert_eq!(shown(&table), ["a 1-"], "one check may miss a connection");
    check(&mut table, &[], at(660));
    assert_eq!(shown(&table), [""; 0]);
    assert_eq!(table.take_changes(), [("a".into(), vec![])]);
    assert_eq!(table.counts(), NameCounts::default());
}

#[test]
fn an_address_that_was_not_asked_about_stays() {
    let mut table = NameTable::default();
    table.learn(POD, "a", [(ip(1), 1)], at(0));
    table.expire(at(60));
    for second in 0..5 {
        let others = BTreeMap::from([(ip(9), false)]);
        table.end_check(&BTreeMap::from([(POD.into(), others)]), at(60 + second));
    }
    assert_eq!(shown(&table), ["a 1-"]);
}

#[test]
fn connections_of_one_pod_keep_no_address_of_another() {
    const OTHER: &str = "other/pod";
    let mut table = NameTable::default();
    table.learn(POD, "a", [(ip(1), 1), (ip(2), 1)], at(0));
    table.learn(OTHER, "a", [(ip(1), 1), (ip(3), 1)], at(0));
    table.expire(at(60));
    assert_eq!(table.deferred()[OTHER], BTreeSet::from([ip(1), ip(3)]));
    for minute in 1..3 {
        let of_pod = BTreeMap::from([(ip(1), false), (ip(2), true)]);
        let of_other = BTreeMap::from([(ip(1), true), (ip(3), false)]);
        let checked = BTreeMap::from([(POD.into(), of_pod), (OTHER.into(), of_other)]);
        table.end_check(&checked, at(60 * minute));
    }
    assert_eq!(shown(&table), ["a 1-", "a 2-"]);
    assert_eq!(table.pods_of("a", ip(1)), [OTHER.into()]);
}

#[test]
fn too_many_addresses_of_a_name_are_deferred_those_that_expire_first() {
    let mut table = table(2, 2, 100);
    table.learn(POD, "a", [(ip(1), 50), (ip(2), 40)], at(0));
    table.learn(POD, "b", [(ip(9), 1)], at(0));
    table.learn(POD, "a", [(ip(3), 5)], at(1));
    assert_eq!(shown(&table), ["a 1", "a 2-", "a 3", "b 9"], "the new one stays");
    table.learn(POD, "a", [(ip(4), 5), (ip(5), 60)], at(2));
    assert_eq!(table.counts().deferred, 2, "the bound of deferred ones");
    assert_eq!(shown(&table), ["a 1-", "a 3-", "a 4", "a 5", "b 9"]);
    assert_eq!(table.counts().evicted, 4);
}

#[test]
fn a_full_table_removes_deferred_addresses_and_then_those_that_expire_first() {
    let mut table = table(10, 10, 3);
    table.learn(POD, "a", [(ip(1), 5), (ip(2), 5), (ip(3), 100)], at(0));
    table.expire(at(10));
    check(&mut table, &[1], at(10));
    table.learn(POD, "b", [(ip(4), 20)], at(11));
    assert_eq!(shown(&table), ["a 1-", "a 3", "b 4"], "it was alive later");
    table.learn(POD, "b", [(ip(5), 1)], at(12));
    table.learn(POD, "b", [(ip(6), 1)], at(13));
    assert_eq!(shown(&table), ["a 3", "b 4", "b 6"], "5 expired first");
    table.learn(POD, "c", [(ip(1), 9), (ip(2), 9), (ip(3), 9), (ip(4), 9)], at(14));
    assert_eq!(shown(&table), ["c 1", "c 2", "c 3"], "an answer doesn't evict itself");
    assert_eq!(table.counts().evicted, 7);
}

#[test]
fn names_that_nobody_wants_are_removed() {
    let mut table = NameTable::default();
    for name in ["a.x", "b.x", "c.y"] {
        table.learn(POD, name, [(ip(1), 60), (ip(2), 60)], at(0));
    }
    table.take_changes();
    assert_eq!(table.retain(|name| name.ends_with(".x")), 2);
    assert_eq!(table.take_changes(), [("c.y".into(), vec![])]);
    assert_eq!(table.counts().names, 2);
}

#[test]
fn an_ipv4_address_in_an_aaaa_record_is_an_ipv4_address() {
    let mut table = NameTable::default();
    table.learn(POD, "a", [("::ffff:203.0.113.1".parse().unwrap(), 60), (ip(1), 60)], at(0));
    assert_eq!(shown(&table), ["a 1"]);
}

/// `count` addresses with the same TTL.
fn many(first: u8, count: u8, ttl_s: u32) -> impl Iterator<Item = (IpAddr, u32)> {
    (first..first + count).map(move |last| (ip(last), ttl_s))
}

#[test]
fn a_full_table_removes_from_the_pod_that_has_most() {
    let mut table = table(10, 10, 8);
    table.learn("x/honest", "good", [(ip(1), 30), (ip(2), 30)], at(0));
    for second in 1..9 {
        let addresses = many(10 + 9 * second, 9, 600_000);
        table.learn("x/hostile", &format!("evil{second}"), addresses, at(second.into()));
    }
    assert_eq!(table.pods_of("good", ip(1)), ["x/honest".into()]);
    assert_eq!(shown(&table)[6..], ["good 1", "good 2"]);
    let of_hostile = table.counts().evicted;
    assert!(of_hostile > 50, "8 rounds of 9 addresses had 6 places: {of_hostile}");
    assert_eq!(table.evicted().collect::<Vec<_>>(), [(&"x/hostile".into(), of_hostile)]);
    // A pod that comes late gets its share, of what was learned at the same time too.
    table.learn("x/late", "late", many(100, 9, 1), at(8));
    let of_pod = |pod| table.places().filter(|(of, ..)| *of == pod).count();
    assert_eq!(["x/honest", "x/hostile", "x/late"].map(of_pod), [2, 3, 3]);
    assert_eq!(table.counts().addresses, 8);
}

#[test]
fn an_address_stays_for_each_pod_that_asked_for_it() {
    let mut table = table(10, 10, 3);
    table.learn("x/hostile", "good", [(ip(1), 9)], at(0));
    table.learn("x/honest", "good", [(ip(1), 30)], at(0));
    assert_eq!(table.take_changes(), [("good".into(), vec![ip(1)])]);
    assert_eq!(table.pods_of("good", ip(1)).len(), 2);
    let counts = table.counts();
    assert_eq!((counts.addresses, counts.places), (1, 2), "one address, twice");
    for second in 1..5 {
        table.learn("x/hostile", "evil", many(10 * second, 3, 60), at(second.into()));
    }
    assert_eq!(table.pods_of("good", ip(1)), ["x/honest".into()]);
    assert_eq!(table.iter().last().map(|(_, _, it)| it.expires), Some(at(30)));
    table.expire(at(30));
    assert_eq!(shown(&table).last().map(String::as_str), Some("good 1-"));
    table.learn("x/hostile", "good", [(ip(1), 60)], at(31));
    table.expire(at(40));
    assert_eq!(shown(&table).last().map(String::as_str), Some("good 1"), "live for one of them");
}

#[test]
fn places_of_the_same_addresses_are_bounded_too() {
    let limits = NameLimits { addresses: 10, places: 5, ..NameLimits::default() };
    let mut table = NameTable::new(limits);
    for pod in ["a", "b", "c"] {
        table.learn(pod, "same", many(1, 3, 60), at(0));
    }
    assert_eq!((table.counts().addresses, table.counts().places), (3, 5));
    let of_pod = |pod| table.places().filter(|(of, ..)| *of == pod).count();
    assert_eq!(["a", "b", "c"].map(of_pod), [2, 2, 1]);
}

#[test]
fn too_many_deferred_addresses_are_removed_from_the_pod_that_has_most() {
    let mut table = table(10, 4, 100);
    table.learn("x/honest", "good", [(ip(1), 1)], at(0));
    table.expire(at(1));
    for second in 2..9 {
        table.learn("x/hostile", "evil", many(10 * second, 5, 0), at(second.into()));
        table.expire(at(second.into()));
    }
    assert_eq!((table.counts().deferred, shown(&table).len()), (4, 4));
    assert_eq!(shown(&table).last().map(String::as_str), Some("good 1-"));
}

#[test]
fn too_many_addresses_of_a_name_are_those_of_one_pod() {
    let mut table = table(2, 100, 100);
    table.learn("x/honest", "good", [(ip(1), 5), (ip(2), 5)], at(0));
    table.learn("x/hostile", "good", many(10, 4, 600), at(1));
    let shown = shown(&table);
    assert_eq!(shown[..2], ["good 1", "good 2"]);
    assert_eq!(shown.iter().filter(|entry| entry.ends_with('-')).count(), 2);
}

#[test]
fn a_ttl_ends_with_its_pod() {
    let mut table = table(10, 10, 3);
    table.learn("x/hostile", "evil", many(10, 9, 600_000), at(0));
    table.learn("", "outside", [(ip(1), 600)], at(0));
    table.end_pods(|pod| pod == "x/hostile", at(1));
    assert_eq!(shown(&table), ["evil 11", "evil 12", "outside 1"]);
    let evicted = table.counts().evicted;
    assert_eq!(table.evicted().collect::<Vec<_>>(), [(&"x/hostile".into(), evicted)]);
    table.end_pods(|_| false, at(2));
    assert_eq!(shown(&table), ["evil 11-", "evil 12-", "outside 1"]);
    // Nobody else takes over its count, which was counted already.
    assert_eq!((table.evicted().count(), table.counts().evicted), (0, evicted));
    check(&mut table, &[11], at(60));
    check(&mut table, &[11], at(120));
    assert_eq!(shown(&table), ["evil 11-", "outside 1"], "a connection is alive");
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u8, Vec<(u8, u32)>),
    Expire,
    Check(Vec<u8>),
    Retain(u8),
    Restore(u8, u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, vec((0..12u8, 0..90u32), 0..6)).prop_map(|(name, list)| Step::Learn(name, list)),
        2 => Just(Step::Expire),
        2 => vec(0..12u8, 0..6).prop_map(Step::Check),
        1 => (0..4u8).prop_map(Step::Retain),
        1 => (0..4u8, 0..12u8, 0..90u64).prop_map(|(name, last, at)| Step::Restore(name, last, at)),
    ]
}

proptest! {
    #[test]
    fn bounds_hold_and_changes_are_complete(steps in vec((step(), 0..40u64), 1..60)) {
        let mut table = table(5, 4, 9);
        let (mut seconds, mut sent) = (0, BTreeMap::new());
        for (step, pause) in steps {
            seconds += pause;
            let now = at(seconds);
            match step {
                Step::Learn(name, addresses) => {
                    let list = addresses.iter().map(|(last, ttl)| (ip(*last), *ttl));
                    table.learn(POD, &format!("n{name}"), list, now);
                }
                Step::Expire => table.expire(now),
                Step::Check(alive) => check(&mut table, &alive, now),
                Step::Retain(name) => _ = table.retain(|other| other != format!("n{name}")),
                Step::Restore(name, last, expires) => {
                    table.restore(POD, &format!("n{name}"), ip(last), at(expires), now);
                }
            }
            for (name, addresses) in table.take_changes() {
                match addresses.is_empty() {
                    true => drop(sent.remove(&name)),
                    false => drop(sent.insert(name, addresses)),
                }
            }
            let mut now_there: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
            for (name, address, _) in table.iter() {
                now_there.entry(name.into()).or_default().push(address);
            }
            prop_assert_eq!(&now_there, &sent);
            let counts = table.counts();
            prop_assert!(counts.addresses <= 9 && counts.deferred <= 4, "{:?}", counts);
            prop_assert_eq!(counts.addresses, table.iter().count());
        }
    }

    /// Of five pods, one has no more than a fifth of each bound: it loses nothing, whatever answers
    /// the others get.
    #[test]
    fn a_pod_within_its_share_loses_nothing(
        steps in vec((0..5u8, step(), 0..40u64), 1..80),
        begin in 0..20usize,
    ) {
        let mut table = table(3, 5, 10);
        let (mut seconds, mut of_gone) = (0, 0);
        for (index, (pod, step, pause)) in steps.into_iter().enumerate() {
            seconds += pause;
            let now = at(seconds);
            if index == begin {
                table.learn(POD, "n0", [(ip(0), 1)], now);
                table.learn(POD, "n1", [(ip(1), 90_000)], now);
            }
            // The empty name stands for clients that are no pods of the node.
            let pod = ["", "x/a", "x/b", "x/c"][usize::from(pod.min(3))];
            match step {
                Step::Learn(name, addresses) => {
                    let list = addresses.iter().map(|(last, ttl)| (ip(*last), *ttl * 9000));
                    table.learn(pod, &format!("n{name}"), list, now);
                }
                Step::Restore(name, last, expires) => {
                    table.restore(pod, &format!("n{name}"), ip(last), at(expires * 9000), now);
                }
                Step::Expire => table.expire(now),
                Step::Check(alive) => check(&mut table, &[&[0][..], &alive].concat(), now),
                Step::Retain(_) => {
                    let gone = table.evicted().filter(|(pod, _)| !["", POD].contains(&&***pod));
                    of_gone += gone.map(|(_, evicted)| evicted).sum::<u64>();
                    table.end_pods(|other| other == POD, now);
                }
            }
            if index >= begin {
                prop_assert!(table.pods_of("n0", ip(0)).contains(&POD.into()));
                prop_assert!(table.pods_of("n1", ip(1)).contains(&POD.into()));
                let live = table.iter().any(|(name, address, entry)| {
                    (name, address, entry.deferred) == ("n1", ip(1), false)
                });
                prop_assert!(live);
            }
            let counts = table.counts();
            prop_assert!(counts.addresses <= 10 && counts.deferred <= 5, "{:?}", counts);
            prop_assert_eq!(counts.addresses, table.iter().count());
            prop_assert!(counts.places <= 20);
            prop_assert_eq!(counts.places, table.places().count());
            let of_pods = table.iter().map(|(name, address, _)| table.pods_of(name, address).len());
            prop_assert_eq!(counts.places, of_pods.sum::<usize>());
            let evicted = table.evicted().map(|(_, evicted)| evicted);
            prop_assert_eq!(counts.evicted, of_gone + evicted.sum::<u64>());
        }
    }
}
