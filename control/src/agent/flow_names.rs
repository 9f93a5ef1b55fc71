//! DNS names of the ends of flows: those that the other end asked for, as Hubble has them
//! (cilium `pkg/hubble/parser`, `GetNamesOf`).
//!
//! Inspected answers say which addresses a name has, and inspected queries who asked for it. If the
//! event of one is lost, a flow lacks that name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_policy::{Compiled, PodName};
use podgate_tables::address::Address;
use podgate_tables::event::{Event, EventKind, QUERIED_NAME_MAX, RequestRecord};

/// Most names of an address: the last ones.
const NAMES_MAX: usize = 8;
/// Half of the maximum number of addresses with names that are stored, and of queries.
const HALF: usize = 1 << 12;
/// Least time for which an address has a name: connections outlive the TTLs of names.
const LEAST: Duration = Duration::from_secs(60 * 60);

/// What a DNS answer said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Learned {
    /// The name: lower case, without a dot at the end.
    pub(super) name: Arc<str>,
    /// Its addresses.
    pub(super) addresses: Vec<LearnedAddress>,
}

/// An address of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LearnedAddress {
    pub(super) address: Address,
    /// TTL, seconds.
    pub(super) ttl_s: u32,
    /// The pod that has the address, if it is known.
    pub(super) pod: Option<PodName>,
}

/// A name of an address.
#[derive(Clone, Debug)]
struct AddressName {
    name: Arc<str>,
    /// The time until which it counts.
    until: Instant,
    /// The pod that had the address then: the name is not that of another one.
    pod: Option<PodName>,
}

/// Names of the source and of the destination of a flow; most flows have none.
pub(crate) type EndNames = Option<Box<[Vec<Arc<str>>; 2]>>;

/// Which names addresses have, and who asked for them.
#[derive(Debug, Default)]
pub(super) struct FlowNames {
    by_address: Recent<Address, Vec<AddressName>>,
    /// Client and name, as long as events have it.
    asked: Recent<(Address, Box<[u8]>), ()>,
}

impl FlowNames {
    /// Takes an answer.
    pub(super) fn learn(&mut self, learned: &Learned, now: Instant) {
        for LearnedAddress { address, ttl_s, pod } in &learned.addresses {
            let until = now + LEAST.max(Duration::from_secs((*ttl_s).into()));
            let names = self.by_address.entry(*address);
            names.retain(|known| known.name != learned.name && known.until > now);
            if names.len() == NAMES_MAX {
                names.remove(0);
            }
            let (name, pod) = (Arc::clone(&learned.name), pod.clone());
            names.push(AddressName { name, until, pod });
        }
    }

    /// Takes an event, which may be a query, and returns the names of its flow's ends. `tables` are
    /// those of its epoch.
    pub(super) fn take(
        &mut self,
        event: &Event,
        tables: Option<&Compiled>,
        now: Instant,
    ) -> EndNames {
        let (source, destination) = (event.tuple.src, event.tuple.dst);
        if let EventKind::Request { allowed: true, request: RequestRecord::Dns(question), .. } =
            &event.kind
        {
            self.asked.entry((source, question.name.bytes().into()));
        }
        let of = |end, client| self.of(end, client, tables, now);
        let names = [of(source, destination), of(destination, source)];
        names.iter().any(|names| !names.is_empty()).then(|| Box::new(names))
    }

    /// The names of `end` that `client` asked for, sorted.
    fn of(
        &self,
        end: Address,
        client: Address,
        tables: Option<&Compiled>,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let Some(names) = self.by_address.get(&end) else { return Vec::new() };
        let pod = tables.and_then(|tables| tables.catalog.pod_at(end.ip()));
        let is_current = |known: &&AddressName| {
            let other = known.pod.as_ref().zip(pod).is_some_and(|(then, now)| then != now);
            known.until > now && !other
        };
        let asked = |name: &str| {
            let queried = &name.as_bytes()[..name.len().min(QUERIED_NAME_MAX)];
            self.asked.get(&(client, queried.into())).is_some()
        };
        let names = names.iter().filter(is_current).map(|known| &known.name);
        let mut names: Vec<_> = names.filter(|name| asked(name)).cloned().collect();
        names.sort_unstable();
        names
    }
}

/// A bounded map, from which entries are evicted that were not added again lately.
#[derive(Debug)]
struct Recent<K, V> {
    new: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { new: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash, V: Default> Recent<K, V> {
    /// The entry; a new one if there is none.
    fn entry(&mut self, key: K) -> &mut V {
        if self.new.len() == HALF && !self.new.contains_key(&key) {
            self.old = mem::take(&mut self.new);
        }
        match self.new.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let former = self.old.remove(entry.key());
                entry.insert(former.unwrap_or_default())
            }
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.new.get(key).or_else(|| self.old.get(key))
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::event::{DnsQuestion, Text};
    use podgate_tables::ids::{Epoch, LinkId};
    use podgate_tables::time::Nanos;
    use podgate_tables::tuple::Tuple;

    use super::*;

    fn event(src: u8, dst: u8, kind: EventKind) -> Event {
        let [src, dst] = [src, dst].map(|last| Address::v4([10, 0, 0, last]));
        let tuple = Tuple { src, dst, protocol: 17, src_port: 1, dst_port: 53 };
        let (time, epoch, link) = (Nanos(1), Epoch(1), LinkId(1));
        Event { time, epoch, link, tuple, frontend: None, kind }
    }

    fn query(client: u8, name: &str, allowed: bool) -> Event {
        let request = RequestRecord::Dns(DnsQuestion { name: Text::new(name.as_bytes()), kind: 1 });
        event(client, 53, EventKind::Request { allowed, rule: None, reason: None, request })
    }

    fn flow(src: u8, dst: u8) -> Event {
        let (original, reply, decided) = Default::default();
        event(src, dst, EventKind::End { original, reply, decided })
    }

    fn learned(name: &str, last: u8, ttl_s: u32) -> Learned {
        let address = Address::v4([10, 0, 0, last]);
        let addresses = vec![LearnedAddress { address, ttl_s, pod: None }];
        Learned { name: name.into(), addresses }
    }

    /// The names of both ends, with commas.
    fn names(names: &mut FlowNames, event: &Event, now: Instant) -> [String; 2] {
        let names = names.take(event, None, now).unwrap_or_default();
        names.map(|names| names.join(","))
    }

    #[test]
    fn an_end_has_the_names_that_the_other_end_asked_for() {
        let (mut table, now) = (FlowNames::default(), Instant::now());
        for name in ["b.example", "a.example", "not.asked", "denied.example"] {
            table.learn(&learned(name, 9, 5), now);
        }
        for event in [
            query(1, "a.example", true),
            query(1, "b.example", true),
            query(1, "denied.example", false),
            query(2, "b.example", true),
        ] {
            assert_eq!(table.take(&event, None, now), None);
        }
        assert_eq!(names(&mut table, &flow(1, 9), now), ["", "a.example,b.example"]);
        assert_eq!(names(&mut table, &flow(2, 9), now), ["", "b.example"]);
        assert_eq!(names(&mut table, &flow(9, 2), now), ["b.example", ""]);
        assert_eq!(table.take(&flow(3, 9), None, now), None);
        assert_eq!(table.take(&flow(1, 8), None, now), None);
    }

    #[test]
    fn a_name_of_a_deleted_pod_is_not_that_of_the_pod_that_got_its_address() {
        let tables = |name: &str| {
            let mut store = podgate_policy::Store::new();
            let pod = serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": "shop", "name": name},
                "status": {"podIPs": [{"ip": "10.0.0.9"}]},
            });
            store.apply(&pod, None).unwrap();
            podgate_policy::compile(&store)
        };
        let (first, other) = (tables("db-0"), tables("db-1"));
        let (mut table, now) = (FlowNames::default(), Instant::now());
        let mut learned = learned("db-0.db.shop", 9, 5);
        learned.addresses[0].pod = first.catalog.pod_at([10, 0, 0, 9].into()).cloned();
        table.learn(&learned, now);
        table.take(&query(1, "db-0.db.shop", true), None, now);
        let mut named = |tables| table.take(&flow(1, 9), tables, now).is_some();
        assert!(named(Some(&first)) && named(None));
        assert!(!named(Some(&other)));
        assert!(named(Some(&first)), "an event of before");
    }

    #[test]
    fn a_name_counts_for_its_ttl_and_for_an_hour() {
        let (mut table, now) = (FlowNames::default(), Instant::now());
        for (name, ttl_s) in [("short.example", 1), ("long.example", 7200)] {
            table.learn(&learned(name, 9, ttl_s), now);
            table.take(&query(1, name, true), None, now);
        }
        let mut at = |s| names(&mut table, &flow(1, 9), now + Duration::from_secs(s))[1].clone();
        assert_eq!(at(3599), "long.example,short.example");
        assert_eq!(at(3600), "long.example");
        assert_eq!(at(7200), "");
    }

    #[test]
    fn a_name_that_events_have_a_part_of_is_found() {
        let (mut table, now) = (FlowNames::default(), Instant::now());
        let name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(60)].join(".");
        table.learn(&learned(&name, 9, 5), now);
        table.take(&query(1, &name, true), None, now);
        assert_eq!(names(&mut table, &flow(1, 9), now)[1], name);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_last() {
        let (mut table, now) = (FlowNames::default(), Instant::now());
        for number in 0..20 {
            table.learn(&learned(&format!("n{number:02}"), 9, 5), now);
            table.take(&query(1, &format!("n{number:02}"), true), None, now);
        }
        let [_, last] = names(&mut table, &flow(1, 9), now);
        assert_eq!(last, "n12,n13,n14,n15,n16,n17,n18,n19");
        for number in 0..3 * HALF {
            table.take(&query(2, &format!("other{number}"), true), None, now);
            if number % HALF == 0 {
                table.take(&query(1, "n19", true), None, now);
            }
        }
        assert!(table.asked.new.len() + table.asked.old.len() <= 2 * HALF);
        assert_eq!(names(&mut table, &flow(1, 9), now)[1], "n19");
    }
}
