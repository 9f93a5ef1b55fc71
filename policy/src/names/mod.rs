//! What DNS names were seen to resolve to, and for how long: the table behind
//! [`Store::learn`](crate::Store::learn).
//!
//! An address of a name is *live* until its TTL is over, and then *deferred*: it stays usable as
//! long as a connection to it is alive. The caller asks the workers' flow tables which of the
//! deferred addresses are ([`NameTable::deferred`]) and reports the answer
//! ([`NameTable::end_check`]). A deferred address that was not alive in two checks in a row, nor
//! refreshed since, is removed (cilium `pkg/fqdn/cache.go`, `DNSZombieMappings`).
//!
//! # Pods
//! Each pod that asked has a *place* of its own for an address, with the TTL of its own answer. An
//! address is usable, by every pod, as long as one pod has a place for it. So what a pod asked for
//! stays, whatever becomes of the places of others.
//!
//! A connection counts for the pod that opened it: it keeps no address of another pod.
//!
//! # Bounds
//! - 1,000 live places of one pod for one name: those beyond that expire first are deferred.
//! - 10,000 deferred places.
//! - 65,536 addresses, and 131,072 places.
//!
//! At a bound that all pods share, the pod with the most places, or the most deferred ones, yields.
//! It loses deferred places first, in the order in which they were last alive (never comes first)
//! and then in which they were deferred; after them live places, in the order in which they expire.
//! A pod that has no more than its share, the bound divided by the number of pods with places,
//! never loses any for others.
//!
//! An address is never removed for another one that the same pod learned at the same time; if all
//! the first to go are of that time, the new address is left out.

mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use podgate_tables::time::Nanos;

use self::places::{Key, Places};

/// Longest TTL, seconds: 7 days (RFC 8767 §4). A longer one counts as this.
const TTL_MAX_S: u32 = 7 * 24 * 60 * 60;

/// Bounds of a [`NameTable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameLimits {
    /// Least TTL, seconds: a shorter one counts as this.
    pub ttl_min_s: u32,
    /// Most live places of one pod for one name.
    pub per_name: usize,
    /// Most deferred places.
    pub deferred: usize,
    /// Most addresses.
    pub addresses: usize,
    /// Most places: an address has one for each pod that asked for it.
    pub places: usize,
}

impl Default for NameLimits {
    fn default() -> Self {
        Self { ttl_min_s: 0, per_name: 1000, deferred: 10_000, addresses: 1 << 16, places: 1 << 17 }
    }
}

/// What a [`NameTable`] has, and what it removed for its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameCounts {
    /// Names.
    pub names: usize,
    /// Addresses of all names, deferred ones included.
    pub addresses: usize,
    /// Addresses, each counted once for each pod that asked for it.
    pub places: usize,
    /// Deferred addresses, each counted once for each pod for which it is deferred.
    pub deferred: usize,
    /// Places that were removed, left out or deferred early because a bound was reached.
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

/// DNS names and the addresses that they resolve to. Names are in lower case, without a dot at the
/// end. Pods are `NAMESPACE/NAME`; the empty name stands for all clients that are no pods of the
/// node.
#[derive(Debug, Default)]
pub struct NameTable {
    limits: NameLimits,
    /// What each pod asked for.
    pods: BTreeMap<Arc<str>, Places>,
    /// Which pods have a place for an address: one at least.
    names: BTreeMap<Arc<str>, BTreeMap<IpAddr, Vec<Arc<str>>>>,
    addresses: usize,
    places: usize,
    /// What pods that no longer exist had lost at a bound.
    evicted_gone: u64,
    /// Names whose addresses changed since the last [`Self::take_changes`].
    changed: BTreeSet<Arc<str>>,
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

    /// Adds addresses of a name that `pod` asked for, each with its TTL in seconds.
    pub fn learn(
        &mut self,
        pod: &str,
        name: &str,
        addresses: impl IntoIterator<Item = (IpAddr, u32)>,
        now: Nanos,
    ) {
        let (pod, name) = (self.pod(pod), self.name(name));
        for (address, ttl_s) in addresses {
            // RFC 2181 §8: a TTL with the most significant bit set counts as zero.
            let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s.min(TTL_MAX_S) };
            let expires = now.plus_secs(ttl_s.max(self.limits.ttl_min_s).into());
            self.insert(&pod, (Arc::clone(&name), address.to_canonical()), expires, now);
        }
        if let Some(places) = self.pods.get_mut(&pod) {
            places.bound_name(&name, self.limits.per_name, now);
        }
        self.bound_deferred();
    }

    /// Adds an address that `pod` asked for and whose TTL is over at `expires`, which may be in the
    /// past: one that was in the table before a restart.
    pub fn restore(&mut self, pod: &str, name: &str, address: IpAddr, expires: Nanos, now: Nanos) {
        let (pod, name) = (self.pod(pod), self.name(name));
        let latest = now.plus_secs(TTL_MAX_S.into());
        self.insert(&pod, (name, address.to_canonical()), expires.min(latest), now);
    }

    /// The name as it is shared, if it is in the table.
    fn name(&self, name: &str) -> Arc<str> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.names.get_key_value(name.as_str()) {
            Some((shared, _)) => Arc::clone(shared),
            None => name.into(),
        }
    }

    /// The pod as it is shared. It is in the table from now on.
    fn pod(&mut self, pod: &str) -> Arc<str> {
        if let Some((shared, _)) = self.pods.get_key_value(pod) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = pod.into();
        self.pods.insert(Arc::clone(&shared), Places::default());
        shared
    }

    fn insert(&mut self, pod: &Arc<str>, key: Key, expires: Nanos, now: Nanos) {
        let is_new = self.pods.get(pod).is_none_or(|places| places.record(&key).is_none());
        let has_room = !is_new || self.make_room(pod, &key, now);
        let Some(places) = self.pods.get_mut(pod) else { return };
        if !has_room {
            places.evicted += 1;
            return;
        }
        places.learn(key.clone(), expires, now);
        if is_new {
            self.add_place(pod, key);
        }
    }

    /// Removes places until there is room for one of `pod` for this address. Returns whether there
    /// is.
    fn make_room(&mut self, pod: &Arc<str>, (name, address): &Key, now: Nanos) -> bool {
        loop {
            let is_known = self.names.get(name).is_some_and(|known| known.contains_key(address));
            let has_room = self.places < self.limits.places
                && (is_known || self.addresses < self.limits.addresses);
            if has_room || !self.evict_for(pod, now) {
                return has_room;
            }
        }
    }

    /// Removes a place of the pod that would have the most places after `pod` got one more; of
    /// `pod` itself if it would have as many. Returns whether there was one to remove.
    fn evict_for(&mut self, pod: &Arc<str>, now: Nanos) -> bool {
        let most = self.pods.iter_mut().max_by_key(|(of, places)| {
            let is_own = *of == pod;
            (places.len() + usize::from(is_own), is_own)
        });
        let Some((most, places)) = most else { return false };
        let Some(key) = places.next_to_evict(most == pod, now).cloned() else { return false };
        places.evicted += 1;
        let most = Arc::clone(most);
        self.remove(&most, &key);
        true
    }

    /// Removes deferred places that are too many.
    fn bound_deferred(&mut self) {
        let deferred: usize = self.pods.values().map(Places::deferred_len).sum();
        for _ in self.limits.deferred..deferred {
            let most = self.pods.iter_mut().max_by_key(|(_, places)| places.deferred_len());
            let Some((most, places)) = most else { return };
            let Some(key) = places.deferred().next().cloned() else { return };
            places.evicted += 1;
            let most = Arc::clone(most);
            self.remove(&most, &key);
        }
    }

    /// Defers live addresses whose TTL is over.
    pub fn expire(&mut self, now: Nanos) {
        self.pods.values_mut().for_each(|places| places.expire(now));
        self.bound_deferred();
    }

    /// Defers all places of pods that no longer exist, so that a TTL ends with its pod.
    pub fn end_pods(&mut self, is_there: impl Fn(&str) -> bool, now: Nanos) {
        for (pod, places) in &mut self.pods {
            if !pod.is_empty() && !is_there(pod) {
                places.defer_all(now);
                self.evicted_gone += mem::take(&mut places.evicted);
            }
        }
        self.pods.retain(|_, places| places.len() > 0 || places.evicted > 0);
        self.bound_deferred();
    }

    /// The deferred addresses of each pod, for a check.
    #[must_use]
    pub fn deferred(&self) -> BTreeMap<Arc<str>, BTreeSet<IpAddr>> {
        let deferred = self.pods.iter().map(|(pod, places)| {
            (Arc::clone(pod), places.deferred().map(|(_, address)| *address).collect())
        });
        deferred.filter(|(_, addresses): &(_, BTreeSet<_>)| !addresses.is_empty()).collect()
    }

    /// Takes the result of a check: for each address of a pod, whether a connection of that pod to
    /// it is alive.
    pub fn end_check(&mut self, checked: &BTreeMap<Arc<str>, BTreeMap<IpAddr, bool>>, now: Nanos) {
        let ended = self.pods.iter_mut().filter_map(|(pod, places)| {
            let unused = places.end_check(checked.get(pod)?, now);
            Some((Arc::clone(pod), unused))
        });
        for (pod, unused) in ended.collect::<Vec<_>>() {
            unused.iter().for_each(|key| self.remove(&pod, key));
        }
    }

    /// Removes the names that `keep` is false for. Returns the number of their addresses.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) -> usize {
        let before = self.addresses;
        let removed = self.names.iter().filter(|(name, _)| !keep(name));
        let places = removed.flat_map(|(name, addresses)| {
            addresses.iter().flat_map(move |(address, pods)| {
                pods.iter().map(move |pod| (Arc::clone(pod), (Arc::clone(name), *address)))
            })
        });
        for (pod, key) in places.collect::<Vec<_>>() {
            self.remove(&pod, &key);
        }
        before - self.addresses
    }

    /// The names whose addresses changed since the last call, each with its addresses.
    pub fn take_changes(&mut self) -> Vec<(Arc<str>, Vec<IpAddr>)> {
        let changed = mem::take(&mut self.changed);
        let with_addresses = |name: Arc<str>| {
            let addresses = self.names.get(&name);
            let addresses = addresses.map(|addresses| addresses.keys().copied().collect());
            (name, addresses.unwrap_or_default())
        };
        changed.into_iter().map(with_addresses).collect()
    }

    /// Whether a name's addresses changed since the last [`Self::take_changes`].
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// All names with their addresses, sorted. Of several pods, the last TTL counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, NameAddress)> {
        self.names.iter().flat_map(move |(name, addresses)| {
            addresses.iter().map(move |(address, pods)| {
                let key = (Arc::clone(name), *address);
                let records = pods.iter().filter_map(|pod| self.pods.get(pod)?.record(&key));
                let none = NameAddress { expires: Nanos(0), deferred: true };
                let entry = records.fold(none, |entry, record| NameAddress {
                    expires: entry.expires.max(record.expires),
                    deferred: entry.deferred && record.deferred.is_some(),
                });
                (&**name, *address, entry)
            })
        })
    }

    /// The pods that asked for an address of a name, sorted.
    #[must_use]
    pub fn pods_of(&self, name: &str, address: IpAddr) -> &[Arc<str>] {
        self.names
            .get(name)
            .and_then(|addresses| addresses.get(&address))
            .map_or(&[], Vec::as_slice)
    }

    /// All places, sorted: the pod, the name, the address, and when its TTL is over.
    pub fn places(&self) -> impl Iterator<Item = (&str, &str, IpAddr, Nanos)> {
        self.pods.iter().flat_map(|(pod, places)| {
            places
                .iter()
                .map(move |(name, address, record)| (&**pod, &**name, address, record.expires))
        })
    }

    /// The pods that lost places because a bound was reached, sorted, with the number as in
    /// [`NameCounts::evicted`]. Pods that no longer exist are not among them.
    pub fn evicted(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let evicted = self.pods.iter().map(|(pod, places)| (pod, places.evicted));
        evicted.filter(|(_, evicted)| *evicted > 0)
    }

    /// What the table has.
    #[must_use]
    pub fn counts(&self) -> NameCounts {
        NameCounts {
            names: self.names.len(),
            addresses: self.addresses,
            places: self.places,
            deferred: self.pods.values().map(Places::deferred_len).sum(),
            evicted: self.evicted_gone + self.pods.values().map(|it| it.evicted).sum::<u64>(),
        }
    }

    /// Notes that `pod` has a place for an address.
    fn add_place(&mut self, pod: &Arc<str>, (name, address): Key) {
        self.places += 1;
        let pods = self.names.entry(Arc::clone(&name)).or_default().entry(address).or_default();
        if let Err(at) = pods.binary_search(pod) {
            pods.insert(at, Arc::clone(pod));
        }
        if pods.len() == 1 {
            self.addresses += 1;
            self.changed.insert(name);
        }
    }

    fn remove(&mut self, pod: &Arc<str>, key: &Key) {
        if !self.pods.get_mut(pod).is_some_and(|places| places.remove(key)) {
            return;
        }
        self.places -= 1;
        let (name, address) = key;
        let Some(addresses) = self.names.get_mut(name) else { return };
        let Some(pods) = addresses.get_mut(address) else { return };
        pods.retain(|of| of != pod);
        if !pods.is_empty() {
            return;
        }
        addresses.remove(address);
        if addresses.is_empty() {
            self.names.remove(name);
        }
        self.addresses -= 1;
        self.changed.insert(Arc::clone(name));
    }
}
