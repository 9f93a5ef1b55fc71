//! What DNS names were seen to resolve to, and for how long: the table behind
//! [`Store::learn`](crate::Store::learn).
//!
//! An address of a name is *live* until its TTL is over, and then *deferred*: it stays usable as
//! long as a connection to it is alive. The caller asks the workers' flow tables which of the
//! deferred addresses are ([`NameTable::deferred`]) and reports the answer
//! ([`NameTable::end_check`]). A deferred address that was not alive in [`CHECKS_MIN`] checks in a
//! row, nor refreshed since, is removed (cilium `pkg/fqdn/cache.go`, `DNSZombieMappings`).
//!
//! # Bounds
//! - 1,000 live addresses of one name: those beyond that expire first are deferred.
//! - 10,000 deferred addresses: removed are those that were alive the longest ago (never comes
//!   first), then those deferred first.
//! - 65,536 addresses: removed are deferred ones in that order, then the live ones that expire
//!   first.
//!
//! What is learned at one point in time is never removed for more of the same time; if there is
//! nothing else to remove, the new address is left out.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use podgate_tables::time::Nanos;

/// Longest TTL, seconds: 7 days (RFC 8767 §4). A longer one counts as this.
const TTL_MAX_S: u32 = 7 * 24 * 60 * 60;

/// Checks in a row that must find no connection to a deferred address before it is removed. A check
/// may miss a connection that is opened while it runs.
const CHECKS_MIN: u32 = 2;

/// Bounds of a [`NameTable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameLimits {
    /// Least TTL, seconds: a shorter one counts as this.
    pub ttl_min_s: u32,
    /// Most live addresses of one name.
    pub per_name: usize,
    /// Most deferred addresses.
    pub deferred: usize,
    /// Most addresses.
    pub addresses: usize,
}

impl Default for NameLimits {
    fn default() -> Self {
        Self { ttl_min_s: 0, per_name: 1000, deferred: 10_000, addresses: 1 << 16 }
    }
}

/// What a [`NameTable`] has, and what it removed for its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameCounts {
    /// Names.
    pub names: usize,
    /// Addresses of all names, deferred ones included.
    pub addresses: usize,
    /// Deferred addresses.
    pub deferred: usize,
    /// Addresses that were removed, left out or deferred early because a bound was reached.
    pub evicted: u64,
}

/// An address of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameAddress {
    /// When its TTL is over.
    pub expires: Nanos,
    /// Whether it is used only as long as a connection to it is alive.
    pub deferred: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    /// When it was seen in an answer last.
    learned: Nanos,
    expires: Nanos,
    deferred: Option<Deferred>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Deferred {
    since: Nanos,
    /// When a check found a connection to it last; zero for never.
    alive: Nanos,
    /// Checks since it was deferred or found alive last.
    checks: u32,
}

/// Which address of which name.
type Key = (Arc<str>, IpAddr);

/// DNS names and the addresses that they resolve to. Names are in lower case, without a dot at the
/// end.
#[derive(Debug, Default)]
pub struct NameTable {
    limits: NameLimits,
    names: BTreeMap<Arc<str>, BTreeMap<IpAddr, Record>>,
    /// Live addresses by the end of their TTL.
    live: BTreeSet<(Nanos, Key)>,
    /// Deferred addresses in the order of their removal: last found alive, deferred since.
    deferred: BTreeSet<(Nanos, Nanos, Key)>,
    /// Names whose addresses changed since the last [`Self::take_changes`].
    changed: BTreeSet<Arc<str>>,
    evicted: u64,
}

impl NameTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: NameLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Its bounds.
    #[must_use]
    pub const fn limits(&self) -> &NameLimits {
        &self.limits
    }

    /// Adds addresses of a name, each with its TTL in seconds.
    pub fn learn(
        &mut self,
        name: &str,
        addresses: impl IntoIterator<Item = (IpAddr, u32)>,
        now: Nanos,
    ) {
        let name = self.name(name);
        for (address, ttl_s) in addresses {
            // RFC 2181 §8: a TTL with the most significant bit set counts as zero.
            let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s.min(TTL_MAX_S) };
            let expires = now.plus_secs(ttl_s.max(self.limits.ttl_min_s).into());
            self.insert((Arc::clone(&name), address.to_canonical()), expires, now);
        }
        self.bound_name(&name, now);
    }

    /// Adds an address whose TTL is over at `expires`, which may be in the past: one that was in
    /// the table before a restart.
    pub fn restore(&mut self, name: &str, address: IpAddr, expires: Nanos, now: Nanos) {
        let name = self.name(name);
        let latest = now.plus_secs(TTL_MAX_S.into());
        self.insert((Arc::clone(&name), address.to_canonical()), expires.min(latest), now);
    }

    /// The name as it is shared, if it is in the table.
    fn name(&self, name: &str) -> Arc<str> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.names.get_key_value(name.as_str()) {
            Some((shared, _)) => Arc::clone(shared),
            None => name.into(),
        }
    }

    fn insert(&mut self, key: Key, expires: Nanos, now: Nanos) {
        let former = self.record(&key).copied();
        let expires = former.map_or(expires, |former| expires.max(former.expires));
        match former {
            Some(former) => self.unlink(&key, &former),
            None if self.len() >= self.limits.addresses && !self.evict_before(now) => {
                self.evicted += 1;
                return;
            }
            None => drop(self.changed.insert(Arc::clone(&key.0))),
        }
        let record = Record { learned: now, expires, deferred: None };
        self.live.insert((expires, key.clone()));
        self.names.entry(key.0).or_default().insert(key.1, record);
    }

    /// Defers the live addresses of a name that are too many.
    fn bound_name(&mut self, name: &Arc<str>, now: Nanos) {
        let Some(records) = self.names.get(name) else { return };
        let live = records.iter().filter(|(_, record)| record.deferred.is_none());
        let mut live: Vec<_> =
            live.map(|(address, record)| (record.learned, record.expires, *address)).collect();
        let excess = live.len().saturating_sub(self.limits.per_name);
        if excess == 0 {
            return;
        }
        live.sort_unstable_by_key(|(learned, expires, _)| (*learned == now, *expires));
        for (_, _, address) in live.into_iter().take(excess) {
            self.evicted += 1;
            self.defer(&(Arc::clone(name), address), now);
        }
        self.bound_deferred();
    }

    fn bound_deferred(&mut self) {
        while self.deferred.len() > self.limits.deferred {
            let Some((_, _, key)) = self.deferred.first().cloned() else { return };
            self.evicted += 1;
            self.remove(&key);
        }
    }

    /// Removes an address that was not learned `now`. Returns whether there was one.
    fn evict_before(&mut self, now: Nanos) -> bool {
        let deferred = self.deferred.iter().map(|(_, _, key)| key);
        let mut candidates = deferred.chain(self.live.iter().map(|(_, key)| key));
        let older = |key: &&Key| self.record(key).is_some_and(|record| record.learned != now);
        let Some(key) = candidates.find(older).cloned() else { return false };
        self.evicted += 1;
        self.remove(&key);
        true
    }

    /// Defers live addresses whose TTL is over.
    pub fn expire(&mut self, now: Nanos) {
        while let Some((expires, key)) = self.live.first().cloned()
            && expires <= now
        {
            self.defer(&key, now);
        }
        self.bound_deferred();
    }

    /// The deferred addresses, sorted, for a check.
    #[must_use]
    pub fn deferred(&self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> =
            self.deferred.iter().map(|(_, _, (_, address))| *address).collect();
        addresses.into_iter().collect()
    }

    /// Takes the result of a check: for each address, whether a connection to it is alive.
    pub fn end_check(&mut self, checked: &BTreeMap<IpAddr, bool>, now: Nanos) {
        let keys: Vec<Key> = self.deferred.iter().map(|(_, _, key)| key.clone()).collect();
        for key in keys {
            let Some(alive) = checked.get(&key.1) else { continue };
            let Some(record) = self.record(&key).copied() else { continue };
            let Some(mut deferred) = record.deferred else { continue };
            deferred.checks += 1;
            if *alive {
                (deferred.alive, deferred.checks) = (now, 0);
            } else if deferred.checks >= CHECKS_MIN {
                self.remove(&key);
                continue;
            }
            self.unlink(&key, &record);
            self.deferred.insert((deferred.alive, deferred.since, key.clone()));
            self.set(&key, Record { deferred: Some(deferred), ..record });
        }
    }

    /// Removes the names that `keep` is false for. Returns the number of their addresses.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) -> usize {
        let removed = self.names.iter().filter(|(name, _)| !keep(name));
        let keys = removed
            .flat_map(|(name, records)| records.keys().map(|address| (Arc::clone(name), *address)));
        let keys: Vec<Key> = keys.collect();
        keys.iter().for_each(|key| self.remove(key));
        keys.len()
    }

    /// The names whose addresses changed since the last call, each with its addresses.
    pub fn take_changes(&mut self) -> Vec<(Arc<str>, Vec<IpAddr>)> {
        let changed = mem::take(&mut self.changed);
        let with_addresses = |name: Arc<str>| {
            let records = self.names.get(&name);
            let addresses = records.map(|records| records.keys().copied().collect());
            (name, addresses.unwrap_or_default())
        };
        changed.into_iter().map(with_addresses).collect()
    }

    /// Whether a name's addresses changed since the last [`Self::take_changes`].
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// All names with their addresses, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, NameAddress)> {
        self.names.iter().flat_map(|(name, records)| {
            records.iter().map(|(address, record)| {
                let Record { expires, deferred, .. } = *record;
                (&**name, *address, NameAddress { expires, deferred: deferred.is_some() })
            })
        })
    }

    /// What the table has.
    #[must_use]
    pub fn counts(&self) -> NameCounts {
        NameCounts {
            names: self.names.len(),
            addresses: self.len(),
            deferred: self.deferred.len(),
            evicted: self.evicted,
        }
    }

    fn len(&self) -> usize {
        self.live.len() + self.deferred.len()
    }

    fn record(&self, (name, address): &Key) -> Option<&Record> {
        self.names.get(name)?.get(address)
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

    fn remove(&mut self, key: &Key) {
        let Some(record) = self.record(key).copied() else { return };
        self.unlink(key, &record);
        let (name, address) = key;
        if let Some(records) = self.names.get_mut(name) {
            records.remove(address);
            if records.is_empty() {
                self.names.remove(name);
            }
        }
        self.changed.insert(Arc::clone(name));
    }
}
