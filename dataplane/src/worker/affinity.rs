//! (2) Session affinity: which backend of a service each client had last (`sessionAffinity:
//! ClientIP`).
//!
//! A choice without a record depends on the client and the backends only, so that clients keep
//! their backend without any state as long as the backends are the same. Records matter for clients
//! that would now get another backend, because others were added since. A client's packets are
//! steered to workers by its ports, so each worker reports to the others what it records
//! ([`Notice`](super::notice::Notice)): at once if the backend is another one, and else at most
//! [`PUBLISH_MILLIS`] later.
//!
//! When there are [`RECORDS`] records, a new one replaces the least recently used record of the
//! link with the most records; of the client's link, if no other one has more. So a link that
//! records more than others replaces its own, and none loses a record while it has fewer than an
//! equal share. A record is not sent if the ring is full, or the link's share of it is used up. The
//! client then gets the backend that is chosen without a record.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;

/// Records per worker.
const RECORDS: usize = 16_384;

/// Time after which the use of a record is published again, at most; one eighth of the timeout, if
/// that is shorter.
const PUBLISH_MILLIS: u64 = 1000;
const PUBLISH_SHARE: u64 = 8;

/// End of a list of records.
const NONE: u32 = u32::MAX;

/// Key of a record: a client, and the service that it sends to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct AffinityKey {
    pub(super) client: Address,
    /// The service's address and port.
    pub(super) frontend: L4Addr,
    pub(super) protocol: u8,
}

/// The backend that a client had last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AffinityRecord {
    pub(super) key: AffinityKey,
    pub(super) backend: L4Addr,
    /// When the client's last flow was opened.
    pub(super) used: Nanos,
    /// How long after that it is valid.
    pub(super) seconds: u32,
    /// The client's link.
    pub(super) link: LinkId,
}

impl AffinityRecord {
    fn is_valid(&self, seconds: u32, now: Nanos) -> bool {
        now < self.used.plus_secs(seconds.into())
    }
}

/// What storing a record has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Recorded {
    /// Whether to notify the other workers.
    pub(super) publish: bool,
    /// The link that lost a valid record to make room for it.
    pub(super) lost: Option<LinkId>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    record: AffinityRecord,
    /// [`AffinityRecord::used`] as other workers know it.
    published: Nanos,
    /// Neighbours in the list of its link.
    before: u32,
    after: u32,
}

/// The records of one link, the least recently used one first.
#[derive(Clone, Copy, Debug)]
struct OfLink {
    first: u32,
    last: u32,
    count: u32,
}

impl OfLink {
    const NONE: Self = Self { first: NONE, last: NONE, count: 0 };
}

/// One worker's records.
#[derive(Debug)]
pub(super) struct Affinities {
    /// Without memory until there is a record.
    entries: Vec<Entry>,
    /// Positions of entries, by key.
    index: HashTable<u32>,
    /// By the number of the link.
    links: Vec<OfLink>,
    /// Keyed: pods choose the services that they send to.
    hasher: RandomState,
}

impl Affinities {
    pub(super) fn new() -> Self {
        let (entries, index, links) = (Vec::new(), HashTable::new(), Vec::new());
        Self { entries, index, links, hasher: RandomState::new() }
    }

    fn find(&self, key: &AffinityKey) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let is_its = |at: &u32| self.entries[*at as usize].record.key == *key;
        self.index.find(self.hasher.hash_one(key), is_its).copied()
    }

    /// The backend that a client had last, not longer than `seconds` ago.
    pub(super) fn backend(&self, key: &AffinityKey, seconds: u32, now: Nanos) -> Option<L4Addr> {
        let record = self.entries[self.find(key)? as usize].record;
        record.is_valid(seconds, now).then_some(record.backend)
    }

    /// Stores a record of this worker, which is used now.
    pub(super) fn record(&mut self, record: AffinityRecord) -> Recorded {
        let period = (u64::from(record.seconds) * 1000 / PUBLISH_SHARE).min(PUBLISH_MILLIS);
        let published = self
            .find(&record.key)
            .map(|at| self.entries[at as usize])
            .filter(|former| former.record.backend == record.backend)
            .map(|former| former.published)
            .filter(|published| record.used < published.plus_millis(period));
        let lost = self.store(record, published.unwrap_or(record.used), record.used);
        Recorded { publish: published.is_none(), lost }
    }

    /// Stores a record of another worker, unless ours is newer. Returns the link that lost a valid
    /// record to make room for it.
    pub(super) fn learn(&mut self, record: AffinityRecord, now: Nanos) -> Option<LinkId> {
        let own = self.find(&record.key).map(|at| self.entries[at as usize].record);
        match own.is_some_and(|own| own.used > record.used) {
            true => None,
            false => self.store(record, record.used, now),
        }
    }

    /// Stores a record in place of the former one of its key, or else in a free entry, or else in
    /// place of another record. Returns the link of this other record if it was valid.
    fn store(&mut self, record: AffinityRecord, published: Nanos, now: Nanos) -> Option<LinkId> {
        let entry = Entry { record, published, before: NONE, after: NONE };
        if let Some(at) = self.find(&record.key) {
            self.unlink(at);
            self.entries[at as usize] = entry;
            self.link(at);
            return None;
        }
        if self.entries.is_empty() {
            self.entries.reserve_exact(RECORDS);
            // Twice as many, so that it never grows because of removed ones.
            self.index.reserve(2 * RECORDS, |_| 0);
        }
        let (at, lost) = match self.entries.len() < RECORDS {
            true => {
                self.entries.push(entry);
                (self.entries.len() as u32 - 1, None)
            }
            false => {
                let at = self.remove_oldest(record.link);
                let former = std::mem::replace(&mut self.entries[at as usize], entry).record;
                (at, former.is_valid(former.seconds, now).then_some(former.link))
            }
        };
        let Self { entries, index, hasher, .. } = self;
        let hash_of = |at: &u32| hasher.hash_one(entries[*at as usize].record.key);
        index.insert_unique(hasher.hash_one(record.key), at, hash_of);
        self.link(at);
        lost
    }

    /// Removes a record for a new one of `link`, from the index and its list. Returns the entry.
    fn remove_oldest(&mut self, link: LinkId) -> u32 {
        let most = self.links.iter().map(|of| of.count).max().unwrap_or_default();
        let own = self.links.get(link.index()).filter(|own| own.count == most);
        let of = own.or_else(|| self.links.iter().find(|of| of.count == most));
        let at = of.map_or(0, |of| of.first);
        let key = self.entries[at as usize].record.key;
        let found = self.index.find_entry(self.hasher.hash_one(key), |other| *other == at);
        if let Ok(found) = found {
            found.remove();
        }
        self.unlink(at);
        at
    }

    /// Appends an entry to the list of its link.
    fn link(&mut self, at: u32) {
        let slot = self.entries[at as usize].record.link.index();
        if self.links.len() <= slot {
            self.links.resize(slot + 1, OfLink::NONE);
        }
        let of = &mut self.links[slot];
        of.count += 1;
        let before = std::mem::replace(&mut of.last, at);
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = at,
            None => of.first = at,
        }
        let entry = &mut self.entries[at as usize];
        (entry.before, entry.after) = (before, NONE);
    }

    /// Takes an entry out of the list of its link.
    fn unlink(&mut self, at: u32) {
        let Entry { record, before, after, .. } = self.entries[at as usize];
        let of = &mut self.links[record.link.index()];
        of.count -= 1;
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = after,
            None => of.first = after,
        }
        match self.entries.get_mut(after as usize) {
            Some(entry) => entry.before = before,
            None => of.last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1_000_000_000_000);
    const LINK: LinkId = LinkId(3);

    fn address(number: u32) -> Address {
        Address::v4(number.to_be_bytes())
    }

    fn record(client: u32, backend: u32, used: Nanos, seconds: u32) -> AffinityRecord {
        let frontend = L4Addr { address: address(0x0a60_0001), port: 80 };
        let key = AffinityKey { client: address(client), frontend, protocol: 6 };
        let backend = L4Addr { address: address(backend), port: 8080 };
        AffinityRecord { key, backend, used, seconds, link: LINK }
    }

    fn publishes(all: &mut Affinities, record: AffinityRecord) -> bool {
        let Recorded { publish, lost } = all.record(record);
        assert_eq!(lost, None);
        publish
    }

    #[test]
    fn a_record_is_valid_until_its_timeout_after_the_last_use() {
        let mut all = Affinities::new();
        let one = record(1, 7, NOW, 10);
        assert_eq!(all.backend(&one.key, 10, NOW), None);
        assert!(publishes(&mut all, one));
        assert_eq!(all.backend(&one.key, 10, NOW.plus_millis(9_999)), Some(one.backend));
        assert_eq!(all.backend(&one.key, 10, NOW.plus_secs(10)), None);
        let other = AffinityKey { protocol: 17, ..one.key };
        assert_eq!(all.backend(&other, 10, NOW), None);
        publishes(&mut all, record(1, 7, NOW.plus_secs(9), 10));
        assert_eq!(all.backend(&one.key, 10, NOW.plus_secs(18)), Some(one.backend));
    }

    #[test]
    fn what_others_should_know_is_published() {
        let mut all = Affinities::new();
        let mut publishes = |record| publishes(&mut all, record);
        assert!(publishes(record(1, 7, NOW, 100)));
        assert!(!publishes(record(1, 7, NOW.plus_millis(999), 100)));
        assert!(publishes(record(1, 8, NOW.plus_millis(999), 100)), "another backend");
        assert!(!publishes(record(1, 8, NOW.plus_millis(1_998), 100)));
        assert!(publishes(record(1, 8, NOW.plus_millis(1_999), 100)), "a second later");
        assert!(publishes(record(2, 7, NOW, 1)));
        assert!(publishes(record(2, 7, NOW.plus_millis(125), 1)), "an eighth of the timeout");
        all.learn(record(1, 9, NOW, 100), NOW);
        let key = record(1, 0, NOW, 100).key;
        assert_eq!(all.backend(&key, 100, NOW), Some(record(0, 8, NOW, 0).backend), "older");
        all.learn(record(1, 9, NOW.plus_secs(5), 100), NOW);
        assert_eq!(all.backend(&key, 100, NOW), Some(record(0, 9, NOW, 0).backend));
    }

    /// Asserts that the lists and the index have each record once.
    fn check(all: &Affinities) {
        let mut listed = 0;
        for (link, of) in all.links.iter().enumerate() {
            let (mut before, mut at, mut count) = (NONE, of.first, 0);
            while at != NONE {
                let entry = &all.entries[at as usize];
                assert_eq!((entry.record.link.index(), entry.before), (link, before));
                assert_eq!(all.find(&entry.record.key), Some(at));
                (before, at, count) = (at, entry.after, count + 1);
            }
            assert_eq!((of.last, of.count), (before, count));
            listed += count as usize;
        }
        assert_eq!((listed, all.index.len()), (all.entries.len(), all.entries.len()));
    }

    fn known(all: &Affinities, clients: std::ops::Range<u32>, now: Nanos) -> usize {
        let is_known = |client: &u32| {
            let record = record(*client, *client, now, 10_800);
            all.backend(&record.key, 10_800, now) == Some(record.backend)
        };
        clients.filter(is_known).count()
    }

    #[test]
    fn a_link_alone_has_all_records_and_replaces_those_that_were_used_least_recently() {
        let mut all = Affinities::new();
        let clients = RECORDS as u32;
        let at = |client: u32| NOW.plus_millis(client.into());
        for client in 0..clients {
            assert_eq!(all.record(record(client, client, at(client), 10_800)).lost, None);
        }
        all.record(record(0, 0, at(clients), 10_800));
        for client in clients..clients + 100 {
            let recorded = all.record(record(client, client, at(client), 10_800));
            assert_eq!(recorded.lost, Some(LINK));
        }
        check(&all);
        let now = at(clients + 100);
        assert_eq!(known(&all, 101..clients + 100, now), RECORDS - 1);
        assert_eq!(known(&all, 0..101, now), 1, "the one that was used again");
        let late = NOW.plus_secs(100_000);
        let recorded = all.record(record(u32::MAX, 1, late, 10_800));
        assert_eq!(recorded.lost, None, "it replaces one that is no longer valid");
    }

    #[test]
    fn one_link_with_many_services_replaces_its_own_records() {
        let mut all = Affinities::new();
        let [victim, late] = [LinkId(0), LinkId(9)];
        let of = |link, client| AffinityRecord { link, ..record(client, client, NOW, 10_800) };
        for client in 0..1000 {
            assert_eq!(all.record(of(victim, client)).lost, None);
        }
        for client in 1000..1000 + 2 * RECORDS as u32 {
            // Also with notices of other workers.
            let lost = match client % 2 {
                0 => all.record(of(LINK, client)).lost,
                _ => all.learn(of(LINK, client), NOW),
            };
            assert!(lost.is_none_or(|link| link == LINK));
        }
        assert_eq!(known(&all, 0..1000, NOW), 1000);
        // Others get as many as they need, up to an equal share.
        for client in 1_000_000..1_005_000 {
            assert_eq!(all.record(of(late, client)).lost, Some(LINK));
        }
        assert_eq!(known(&all, 0..1000, NOW), 1000);
        assert_eq!(known(&all, 1_000_000..1_005_000, NOW), 5000);
        check(&all);
    }
}
