//! The addresses of names that one pod asked for, and the order in which it loses them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podgate_tables::time::Nanos;

/// Checks in a row that must find no connection to a deferred address before it is removed. A check
/// may miss a connection that is opened while it runs.
const CHECKS_MIN: u32 = 2;

/// How many of the next to evict are examined for one that was not learned just now. More would let
/// an answer take as much time as the pod has addresses.
const EXAMINED_MAX: usize = 64;

/// Which address of which name.
pub(super) type Key = (Arc<str>, IpAddr);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// When it was seen in an answer last.
    pub(super) learned: Nanos,
    pub(super) expires: Nanos,
    pub(super) deferred: Option<Deferred>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Deferred {
    since: Nanos,
    /// When a check found a connection to it last; zero for never.
    alive: Nanos,
    /// Checks since it was deferred or found alive last.
    checks: u32,
}

/// The addresses of one pod.
#[derive(Debug, Default)]
pub(super) struct Places {
    names: BTreeMap<Arc<str>, BTreeMap<IpAddr, Record>>,
    /// Live addresses by the end of their TTL.
    live: BTreeSet<(Nanos, Key)>,
    /// Deferred addresses in the order of their removal: last found alive, deferred since.
    deferred: BTreeSet<(Nanos, Nanos, Key)>,
    /// Addresses that were removed, left out or deferred early because a bound was reached.
    pub(super) evicted: u64,
}

impl Places {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.live.len() + self.deferred.len()
    }

    /// How many are deferred.
    pub(super) fn deferred_len(&self) -> usize {
        self.deferred.len()
    }

    /// The deferred ones, the next to evict first.
    pub(super) fn deferred(&self) -> impl Iterator<Item = &Key> {
        self.deferred.iter().map(|(_, _, key)| key)
    }

    /// All of them, sorted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, IpAddr, &Record)> {
        self.names.iter().flat_map(|(name, records)| {
            records.iter().map(move |(address, record)| (name, *address, record))
        })
    }

    pub(super) fn record(&self, (name, address): &Key) -> Option<&Record> {
        self.names.get(name)?.get(address)
    }

    /// Adds an address, or prolongs its TTL.
    pub(super) fn learn(&mut self, key: Key, expires: Nanos, now: Nanos) {
        let former = self.record(&key).copied();
        if let Some(former) = &former {
            self.unlink(&key, former);
        }
        let expires = former.map_or(expires, |former| expires.max(former.expires));
        let record = Record { learned: now, expires, deferred: None };
        self.live.insert((expires, key.clone()));
        self.names.entry(key.0).or_default().insert(key.1, record);
    }

    /// Defers the live addresses of a name beyond `max` of them, the first to expire first. What
    /// was learned `now` comes last.
    pub(super) fn bound_name(&mut self, name: &Arc<str>, max: usize, now: Nanos) {
        let Some(records) = self.names.get(name) else { return };
        let live = records.iter().filter(|(_, record)| record.deferred.is_none());
        let mut live: Vec<_> =
            live.map(|(address, record)| (record.learned, record.expires, *address)).collect();
        let excess = live.len().saturating_sub(max);
        if excess == 0 {
            return;
        }
        live.sort_unstable_by_key(|(learned, expires, _)| (*learned == now, *expires));
        for (_, _, address) in live.into_iter().take(excess) {
            self.evicted += 1;
            self.defer(&(Arc::clone(name), address), now);
        }
    }

    /// The next to evict: a deferred one, or the live one that expires first. Those learned `now`
    /// come last, and not at all if `keep_new`.
    pub(super) fn next_to_evict(&self, keep_new: bool, now: Nanos) -> Option<&Key> {
        let candidates = || self.deferred().chain(self.live.iter().map(|(_, key)| key));
        let older = |key: &&Key| self.record(key).is_some_and(|record| record.learned != now);
        let first = candidates().take(EXAMINED_MAX).find(older);
        first.or_else(|| candidates().next().filter(|_| !keep_new))
    }

    /// Defers live addresses whose TTL is over by `now`.
    pub(super) fn expire(&mut self, now: Nanos) {
        while let Some((expires, key)) = self.live.first().cloned()
            && expires <= now
        {
            self.defer(&key, now);
        }
    }

    /// Defers all live addresses.
    pub(super) fn defer_all(&mut self, now: Nanos) {
        while let Some((_, key)) = self.live.first().cloned() {
            self.defer(&key, now);
        }
    }

    /// Takes the result of a check. Returns the addresses that are to be removed.
    pub(super) fn end_check(&mut self, checked: &BTreeMap<IpAddr, bool>, now: Nanos) -> Vec<Key> {
        let mut unused = Vec::new();
        for key in self.deferred().cloned().collect::<Vec<_>>() {
            let Some(alive) = checked.get(&key.1) else { continue };
            let Some(record) = self.record(&key).copied() else { continue };
            let Some(mut deferred) = record.deferred else { continue };
            deferred.checks += 1;
            if *alive {
                (deferred.alive, deferred.checks) = (now, 0);
            } else if deferred.checks >= CHECKS_MIN {
                unused.push(key);
                continue;
            }
            self.unlink(&key, &record);
            self.deferred.insert((deferred.alive, deferred.since, key.clone()));
            self.set(&key, Record { deferred: Some(deferred), ..record });
        }
        unused
    }

    /// Removes an address. Returns whether it was there.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let Some(record) = self.record(key).copied() else { return false };
        self.unlink(key, &record);
        let (name, address) = key;
        if let Some(records) = self.names.get_mut(name) {
            records.remove(address);
            if records.is_empty() {
                self.names.remove(name);
            }
        }
        true
    }

    fn set(&mut self, (name, address): &Key, record: Record) {
        if let Some(place) = self.names.get_mut(name).and_then(|records| records.get_mut(address)) {
            *place = record;
        }
    }

    fn defer(&mut self, key: &Key, now: Nanos) {
        let Some(record) = self.record(key).copied() else { return };
        self.unlink(key, &record);
        let deferred = Deferred { since: now, alive: Nanos(0), checks: 0 };
        self.deferred.insert((deferred.alive, deferred.since, key.clone()));
        self.set(key, Record { deferred: Some(deferred), ..record });
    }

    /// Takes an address out of the order that it is in.
    fn unlink(&mut self, key: &Key, record: &Record) {
        let was_there = match record.deferred {
            Some(Deferred { since, alive, .. }) => {
                self.deferred.remove(&(alive, since, key.clone()))
            }
            None => self.live.remove(&(record.expires, key.clone())),
        };
        debug_assert!(was_there, "each address is in one of the orders");
    }
}
