//! (2) Session affinity: which backend of a service each client had last (`sessionAffinity:
//! ClientIP`).
//!
//! A choice without a record depends on the client and the backends only, so that clients keep
//! their backend without any state as long as the backends are the same. Records are for clients
//! whose backend is not the one that would be chosen now, because others were added since. A
//! client's packets are steered to workers by its ports, so each worker tells the others what it
//! records ([`Shared::publish_affinity`](super::Shared::publish_affinity)): at once if the backend
//! is another one, and else at most [`PUBLISH_MILLIS`] later.
//!
//! A set that is full replaces the record that was used least recently, and a record is lost if the
//! ring to another worker is full. The client then gets the backend that is chosen without a
//! record.

use std::hash::{BuildHasher, RandomState};

use podgate_tables::address::Address;
use podgate_tables::service::L4Addr;
use podgate_tables::time::Nanos;

/// Records per worker: this many sets of [`WAYS`].
const SETS: usize = 2048;
const WAYS: usize = 8;
/// Time after which the use of a record is published again, at most; one eighth of the timeout, if
/// that is shorter.
const PUBLISH_MILLIS: u64 = 1000;
const PUBLISH_SHARE: u64 = 8;

/// Whose affinity it is, and to what.
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
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    record: AffinityRecord,
    /// [`AffinityRecord::used`] as other workers know it.
    published: Nanos,
}

/// One worker's records.
#[derive(Debug)]
pub(super) struct Affinities {
    /// Empty until there is a record.
    sets: Vec<[Option<Entry>; WAYS]>,
    /// Keyed: pods choose the services that they send to.
    hasher: RandomState,
}

impl Affinities {
    pub(super) fn new() -> Self {
        Self { sets: Vec::new(), hasher: RandomState::new() }
    }

    fn set_of(&mut self, key: &AffinityKey) -> &mut [Option<Entry>; WAYS] {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [None; WAYS]);
        }
        let at = self.hasher.hash_one(key) as usize % SETS;
        &mut self.sets[at]
    }

    /// The backend that a client had last, not longer than `seconds` ago.
    pub(super) fn backend(
        &mut self,
        key: &AffinityKey,
        seconds: u32,
        now: Nanos,
    ) -> Option<L4Addr> {
        if self.sets.is_empty() {
            return None;
        }
        let mut entries = self.set_of(key).iter().flatten();
        let record = entries.find(|entry| entry.record.key == *key)?.record;
        let is_valid = now < record.used.plus_secs(seconds.into());
        is_valid.then_some(record.backend)
    }

    /// Stores a record of this worker. Returns whether to publish it.
    pub(super) fn record(&mut self, record: AffinityRecord, seconds: u32) -> bool {
        let period = (u64::from(seconds) * 1000 / PUBLISH_SHARE).min(PUBLISH_MILLIS);
        let former = self.place(&record.key);
        let published = former
            .filter(|former| former.record.key == record.key)
            .filter(|former| former.record.backend == record.backend)
            .map(|former| former.published)
            .filter(|published| record.used < published.plus_millis(period));
        *former = Some(Entry { record, published: published.unwrap_or(record.used) });
        published.is_none()
    }

    /// Stores a record of another worker, unless ours is newer.
    pub(super) fn learn(&mut self, record: AffinityRecord) {
        let place = self.place(&record.key);
        let is_newer =
            |entry: &Entry| entry.record.key == record.key && entry.record.used > record.used;
        if !place.as_ref().is_some_and(is_newer) {
            *place = Some(Entry { record, published: record.used });
        }
    }

    /// The entry of a key, or else the one that it replaces.
    fn place(&mut self, key: &AffinityKey) -> &mut Option<Entry> {
        let set = self.set_of(key);
        let is_own = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.record.key == *key);
        let at = set.iter().position(is_own).unwrap_or_else(|| {
            let age = |(_, entry): &(usize, &Option<Entry>)| entry.map(|entry| entry.record.used);
            set.iter().enumerate().min_by_key(age).map_or(0, |(at, _)| at)
        });
        &mut set[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1_000_000_000_000);

    fn address(number: u32) -> Address {
        Address::v4(number.to_be_bytes())
    }

    fn record(client: u32, backend: u32, used: Nanos) -> AffinityRecord {
        let frontend = L4Addr { address: address(0x0a60_0001), port: 80 };
        let key = AffinityKey { client: address(client), frontend, protocol: 6 };
        let backend = L4Addr { address: address(backend), port: 8080 };
        AffinityRecord { key, backend, used }
    }

    #[test]
    fn a_record_is_valid_until_its_timeout_after_the_last_use() {
        let mut all = Affinities::new();
        let one = record(1, 7, NOW);
        assert_eq!(all.backend(&one.key, 10, NOW), None);
        assert!(all.record(one, 10));
        assert_eq!(all.backend(&one.key, 10, NOW.plus_millis(9_999)), Some(one.backend));
        assert_eq!(all.backend(&one.key, 10, NOW.plus_secs(10)), None);
        let other = AffinityKey { protocol: 17, ..one.key };
        assert_eq!(all.backend(&other, 10, NOW), None);
        all.record(record(1, 7, NOW.plus_secs(9)), 10);
        assert_eq!(all.backend(&one.key, 10, NOW.plus_secs(18)), Some(one.backend));
    }

    #[test]
    fn what_others_should_know_is_published() {
        let mut all = Affinities::new();
        assert!(all.record(record(1, 7, NOW), 100));
        assert!(!all.record(record(1, 7, NOW.plus_millis(999)), 100));
        assert!(all.record(record(1, 8, NOW.plus_millis(999)), 100), "another backend");
        assert!(!all.record(record(1, 8, NOW.plus_millis(1_998)), 100));
        assert!(all.record(record(1, 8, NOW.plus_millis(1_999)), 100), "a second later");
        assert!(all.record(record(2, 7, NOW), 1));
        assert!(all.record(record(2, 7, NOW.plus_millis(125)), 1), "an eighth of the timeout");
        all.learn(record(1, 9, NOW));
        let key = record(1, 0, NOW).key;
        assert_eq!(all.backend(&key, 100, NOW), Some(record(0, 8, NOW).backend), "older");
        all.learn(record(1, 9, NOW.plus_secs(5)));
        assert_eq!(all.backend(&key, 100, NOW), Some(record(0, 9, NOW).backend));
    }

    #[test]
    fn the_least_recently_used_records_are_replaced() {
        let mut all = Affinities::new();
        let clients = (SETS * WAYS * 4) as u32;
        for client in 0..clients {
            all.record(record(client, client, NOW.plus_millis(client.into())), 10_800);
        }
        assert_eq!(all.sets.len(), SETS);
        let now = NOW.plus_millis(clients.into());
        let known = |all: &mut Affinities, clients: std::ops::Range<u32>| {
            let found = clients.filter(|client| {
                let record = record(*client, *client, now);
                all.backend(&record.key, 10_800, now) == Some(record.backend)
            });
            found.count()
        };
        assert_eq!(known(&mut all, clients - 100..clients), 100);
        assert!(known(&mut all, 0..1000) < 50);
    }
}
