//! The name table, on a clock of its own.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Nanos {
    Nanos(1_000_000_000).plus_secs(seconds)
}

fn ip(last: u8) -> IpAddr {
    [203, 0, 113, last].into()
}

fn table(per_name: usize, deferred: usize, addresses: usize) -> NameTable {
    NameTable::new(NameLimits { ttl_min_s: 0, per_name, deferred, addresses })
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

/// A check that finds connections to `alive` only.
fn check(table: &mut NameTable, alive: &[u8], now: Nanos) {
    let asked = table.deferred().into_iter();
    let checked = asked.map(|address| (address, alive.iter().any(|last| ip(*last) == address)));
    table.end_check(&checked.collect(), now);
}

#[test]
fn an_address_is_live_for_its_ttl_and_at_least_for_the_minimum() {
    let mut table = NameTable::new(NameLimits { ttl_min_s: 30, ..NameLimits::default() });
    let ttls = [(ip(1), 0), (ip(2), 60), (ip(3), u32::MAX), (ip(4), i32::MAX as u32)];
    table.learn("A.example.", ttls, at(0));
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
    table.learn("a", [(ip(1), 60)], at(0));
    assert_eq!(table.take_changes(), [("a".into(), vec![ip(1)])]);
    table.learn("a", [(ip(1), 10)], at(1));
    assert!(!table.has_changes(), "nothing is new");
    table.expire(at(59));
    assert_eq!(shown(&table), ["a 1"]);
    table.learn("a", [(ip(1), 10)], at(59));
    table.expire(at(68));
    assert_eq!(shown(&table), ["a 1"]);
    table.expire(at(69));
    assert_eq!(shown(&table), ["a 1-"]);
    table.learn("a", [(ip(1), 10)], at(70));
    assert_eq!(shown(&table), ["a 1"]);
    assert!(!table.has_changes(), "it was usable all the time");
}

#[test]
fn an_expired_address_stays_while_a_connection_is_alive() {
    let mut table = NameTable::default();
    table.learn("a", [(ip(1), 1), (ip(2), 1)], at(0));
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
    table.learn("a", [(ip(1), 1)], at(0));
    table.expire(at(60));
    for second in 0..5 {
        table.end_check(&BTreeMap::from([(ip(9), false)]), at(60 + second));
    }
    assert_eq!(shown(&table), ["a 1-"]);
}

#[test]
fn too_many_addresses_of_a_name_are_deferred_those_that_expire_first() {
    let mut table = table(2, 2, 100);
    table.learn("a", [(ip(1), 50), (ip(2), 40)], at(0));
    table.learn("b", [(ip(9), 1)], at(0));
    table.learn("a", [(ip(3), 5)], at(1));
    assert_eq!(shown(&table), ["a 1", "a 2-", "a 3", "b 9"], "the new one stays");
    table.learn("a", [(ip(4), 5), (ip(5), 60)], at(2));
    assert_eq!(table.counts().deferred, 2, "the bound of deferred ones");
    assert_eq!(shown(&table), ["a 1-", "a 3-", "a 4", "a 5", "b 9"]);
    assert_eq!(table.counts().evicted, 4);
}

#[test]
fn a_full_table_removes_deferred_addresses_and_then_those_that_expire_first() {
    let mut table = table(10, 10, 3);
    table.learn("a", [(ip(1), 5), (ip(2), 5), (ip(3), 100)], at(0));
    table.expire(at(10));
    check(&mut table, &[1], at(10));
    table.learn("b", [(ip(4), 20)], at(11));
    assert_eq!(shown(&table), ["a 1-", "a 3", "b 4"], "it was alive later");
    table.learn("b", [(ip(5), 1)], at(12));
    table.learn("b", [(ip(6), 1)], at(13));
    assert_eq!(shown(&table), ["a 3", "b 4", "b 6"], "5 expired first");
    table.learn("c", [(ip(1), 9), (ip(2), 9), (ip(3), 9), (ip(4), 9)], at(14));
    assert_eq!(shown(&table), ["c 1", "c 2", "c 3"], "an answer doesn't evict itself");
    assert_eq!(table.counts().evicted, 7);
}

#[test]
fn names_that_nobody_wants_are_removed() {
    let mut table = NameTable::default();
    for name in ["a.x", "b.x", "c.y"] {
        table.learn(name, [(ip(1), 60), (ip(2), 60)], at(0));
    }
    table.take_changes();
    assert_eq!(table.retain(|name| name.ends_with(".x")), 2);
    assert_eq!(table.take_changes(), [("c.y".into(), vec![])]);
    assert_eq!(table.counts().names, 2);
}

#[test]
fn an_ipv4_address_in_an_aaaa_record_is_an_ipv4_address() {
    let mut table = NameTable::default();
    table.learn("a", [("::ffff:203.0.113.1".parse().unwrap(), 60), (ip(1), 60)], at(0));
    assert_eq!(shown(&table), ["a 1"]);
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
                    table.learn(&format!("n{name}"), list, now);
                }
                Step::Expire => table.expire(now),
                Step::Check(alive) => check(&mut table, &alive, now),
                Step::Retain(name) => _ = table.retain(|other| other != format!("n{name}")),
                Step::Restore(name, last, expires) => {
                    table.restore(&format!("n{name}"), ip(last), at(expires), now);
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
}
