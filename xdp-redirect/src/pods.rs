//! The programs' maps of MAC and IP addresses of the pods behind links.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use aya::maps::{HashMap, MapData, MapError};

use crate::Error;

/// The pod of a link. Without one, the programs pass only IP from the link to the workers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// MAC address of its end of the link.
    pub mac: [u8; 6],
    /// Its addresses as 128-bit numbers, IPv4 as IPv4-mapped IPv6.
    pub addresses: Vec<u128>,
}

/// `struct link_address`: ifindex in the byte order of this machine, address as in a header.
type AddressKey = [u8; 20];

/// The two maps.
pub(crate) struct Pods {
    /// ifindex → MAC, and two bytes of padding.
    macs: HashMap<MapData, u32, [u8; 8]>,
    addresses: HashMap<MapData, AddressKey, u8>,
}

/// What the maps have of a netdev, or may have: a failed write leaves that open.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct PodEntries {
    mac: Option<[u8; 6]>,
    addresses: BTreeSet<u128>,
    /// Whether a write failed since the maps had exactly this.
    uncertain: bool,
}

/// Entries of netdevs that were detached, by ifindex: they could not be removed.
#[derive(Debug, Default)]
pub(crate) struct StaleEntries(BTreeMap<u32, PodEntries>);

impl StaleEntries {
    pub(crate) fn insert(&mut self, ifindex: u32, entries: PodEntries) {
        self.0.insert(ifindex, entries);
    }

    /// Takes the entries of a netdev that is attached again.
    pub(crate) fn take(&mut self, ifindex: u32) -> PodEntries {
        self.0.remove(&ifindex).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes what can be removed. Returns an error for each netdev that still has entries.
    fn remove(
        &mut self,
        mut apply: impl FnMut(u32, Change) -> Result<(), Error>,
    ) -> Vec<(u32, Error)> {
        let mut failed = Vec::new();
        self.0.retain(|ifindex, entries| match entries.clear(|change| apply(*ifindex, change)) {
            Ok(()) => false,
            Err(error) => {
                failed.push((*ifindex, error));
                true
            }
        });
        failed
    }
}

/// A change of one entry of a netdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    SetMac([u8; 6]),
    RemoveMac,
    Add(u128),
    Remove(u128),
}

impl Pods {
    pub(crate) const fn new(
        macs: HashMap<MapData, u32, [u8; 8]>,
        addresses: HashMap<MapData, AddressKey, u8>,
    ) -> Self {
        Self { macs, addresses }
    }

    /// Makes `now` the pod of a netdev; `entries` is what the maps have of it. If that fails, the
    /// netdev has no pod afterwards; what can't be removed either stays in `entries`.
    pub(crate) fn replace(
        &mut self,
        ifindex: u32,
        entries: &mut PodEntries,
        now: Option<Pod>,
    ) -> Result<(), Error> {
        entries.replace(now, |change| self.apply(ifindex, change))
    }

    /// Removes entries of netdevs that were detached. Returns an error for each netdev that still
    /// has entries.
    pub(crate) fn remove_stale(&mut self, stale: &mut StaleEntries) -> Vec<(u32, Error)> {
        stale.remove(|ifindex, change| self.apply(ifindex, change))
    }

    fn apply(&mut self, ifindex: u32, change: Change) -> Result<(), Error> {
        let (map, changed) = match change {
            Change::SetMac([a, b, c, d, e, f]) => {
                ("PODS", self.macs.insert(ifindex, [a, b, c, d, e, f, 0, 0], 0))
            }
            Change::RemoveMac => ("PODS", absent_is_fine(self.macs.remove(&ifindex))),
            Change::Add(address) => {
                ("ADDRESSES", self.addresses.insert(address_key(ifindex, address), 1, 0))
            }
            Change::Remove(address) => {
                ("ADDRESSES", absent_is_fine(self.addresses.remove(&address_key(ifindex, address))))
            }
        };
        changed.map_err(|cause| Error::Map { map, cause })
    }
}

impl PodEntries {
    fn replace(
        &mut self,
        now: Option<Pod>,
        mut apply: impl FnMut(Change) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(pod) = now else { return self.clear(apply) };
        if !self.uncertain && self.is(&pod) {
            return Ok(());
        }
        let result = self.set(pod, &mut apply);
        self.uncertain = result.is_err();
        if result.is_err() {
            return result.and(self.clear(apply));
        }
        result
    }

    /// Whether the maps have this pod.
    fn is(&self, pod: &Pod) -> bool {
        // A pod has few addresses, perhaps one of them twice.
        self.mac == Some(pod.mac)
            && pod.addresses.iter().all(|address| self.addresses.contains(address))
            && self.addresses.iter().all(|address| pod.addresses.contains(address))
    }

    fn set(
        &mut self,
        Pod { mac, addresses }: Pod,
        mut apply: impl FnMut(Change) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let wanted = BTreeSet::from_iter(addresses);
        for address in self.addresses.difference(&wanted) {
            apply(Change::Remove(*address))?;
        }
        let former = mem::replace(&mut self.addresses, wanted);
        for address in &self.addresses {
            if self.uncertain || !former.contains(address) {
                apply(Change::Add(*address))?;
            }
        }
        if self.mac.replace(mac) != Some(mac) || self.uncertain {
            apply(Change::SetMac(mac))?;
        }
        Ok(())
    }

    /// Removes everything that can be removed, and returns the first error.
    fn clear(&mut self, mut apply: impl FnMut(Change) -> Result<(), Error>) -> Result<(), Error> {
        let mut result = Ok(());
        // First, since without it no address counts.
        if let Some(mac) = self.mac.take()
            && let Err(error) = apply(Change::RemoveMac)
        {
            self.mac = Some(mac);
            result = Err(error);
        }
        for address in mem::take(&mut self.addresses) {
            if let Err(error) = apply(Change::Remove(address)) {
                self.addresses.insert(address);
                result = result.and(Err(error));
            }
        }
        self.uncertain = result.is_err();
        result
    }
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn address_key(ifindex: u32, address: u128) -> AddressKey {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&ifindex.to_ne_bytes());
    key[4..].copy_from_slice(&address.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maps in memory; a change that is in `fails` is not made.
    #[derive(Default)]
    struct Maps {
        entries: PodEntries,
        fails: Vec<Change>,
    }

    impl Maps {
        fn apply(&mut self, change: Change) -> Result<(), Error> {
            if self.fails.contains(&change) {
                return Err(Error::Map { map: "PODS", cause: MapError::ElementNotFound });
            }
            match change {
                Change::SetMac(mac) => self.entries.mac = Some(mac),
                Change::RemoveMac => self.entries.mac = None,
                Change::Add(address) => _ = self.entries.addresses.insert(address),
                Change::Remove(address) => _ = self.entries.addresses.remove(&address),
            }
            Ok(())
        }
    }

    fn pod(mac: u8, addresses: &[u128]) -> Pod {
        Pod { mac: [mac; 6], addresses: addresses.to_vec() }
    }

    fn entries(mac: Option<u8>, addresses: &[u128]) -> PodEntries {
        let addresses = BTreeSet::from_iter(addresses.iter().copied());
        PodEntries { mac: mac.map(|mac| [mac; 6]), addresses, uncertain: false }
    }

    #[test]
    fn a_pod_that_is_half_replaced_is_removed() {
        let every_step =
            [Change::Remove(1), Change::Add(3), Change::Add(4), Change::SetMac([2; 6])];
        for failing in every_step {
            let (mut maps, mut known) = (Maps::default(), PodEntries::default());
            known.replace(Some(pod(1, &[1, 2])), |change| maps.apply(change)).unwrap();
            maps.fails = vec![failing];
            let now = pod(2, &[2, 3, 4]);
            known.replace(Some(now.clone()), |change| maps.apply(change)).unwrap_err();
            assert_eq!(maps.entries.mac, None, "{failing:?}");
            assert_eq!((known.mac, &known.addresses), (None, &maps.entries.addresses));
            // What could not be removed is removed later, if no pod takes its place.
            maps.fails.clear();
            known.replace(None, |change| maps.apply(change)).unwrap();
            assert_eq!(maps.entries, PodEntries::default(), "{failing:?}");
            known.replace(Some(now.clone()), |change| maps.apply(change)).unwrap();
            assert_eq!(maps.entries.mac, Some([2; 6]));
            assert_eq!(maps.entries.addresses, BTreeSet::from([2, 3, 4]));
        }
    }

    #[test]
    fn what_two_failed_writes_leave_open_is_written_again() {
        let (before, now) = (pod(1, &[1, 2]), pod(2, &[2, 3]));
        let removals = [Change::RemoveMac, Change::Remove(2), Change::Remove(3)];
        for failing in [Change::Add(3), Change::SetMac([2; 6])] {
            for (failed_mac, wanted) in [(true, &now), (false, &now), (true, &before)] {
                let (mut maps, mut known) = (Maps::default(), PodEntries::default());
                known.replace(Some(before.clone()), |change| maps.apply(change)).unwrap();
                maps.fails = removals[usize::from(!failed_mac)..].to_vec();
                maps.fails.push(failing);
                known.replace(Some(now.clone()), |change| maps.apply(change)).unwrap_err();
                // Twice, so that a failure in between changes nothing.
                known.replace(Some(wanted.clone()), |change| maps.apply(change)).unwrap_err();
                maps.fails.clear();
                known.replace(Some(wanted.clone()), |change| maps.apply(change)).unwrap();
                assert_eq!(maps.entries.mac, Some(wanted.mac), "{failing:?}");
                let addresses = BTreeSet::from_iter(wanted.addresses.clone());
                assert_eq!(maps.entries.addresses, addresses, "{failing:?}");
            }
        }
    }

    #[test]
    fn what_can_not_be_removed_is_not_forgotten() {
        let (mut maps, mut known) = (Maps::default(), PodEntries::default());
        known.replace(Some(pod(1, &[1, 2])), |change| maps.apply(change)).unwrap();
        maps.fails = vec![Change::RemoveMac, Change::Remove(1)];
        known.replace(None, |change| maps.apply(change)).unwrap_err();
        assert_eq!(maps.entries, entries(Some(1), &[1]));
        assert_eq!((known.mac, &known.addresses), (maps.entries.mac, &maps.entries.addresses));
        maps.fails.clear();
        known.replace(None, |change| maps.apply(change)).unwrap();
        assert_eq!(maps.entries, PodEntries::default());
    }

    #[test]
    fn what_is_left_of_detached_netdevs_is_removed_once_that_is_possible() {
        let mut maps = Maps::default();
        let (mut known, mut stale) = (PodEntries::default(), StaleEntries::default());
        known.replace(Some(pod(1, &[1, 2])), |change| maps.apply(change)).unwrap();
        stale.insert(7, known);
        maps.fails = vec![Change::Remove(2)];
        let failed = stale.remove(|_, change| maps.apply(change));
        assert!(matches!(failed[..], [(7, _)]) && !stale.is_empty(), "{failed:?}");
        assert_eq!(maps.entries, entries(None, &[2]));
        maps.fails.clear();
        assert!(stale.remove(|_, change| maps.apply(change)).is_empty() && stale.is_empty());
        assert_eq!(maps.entries, PodEntries::default());
    }

    #[test]
    fn the_same_pod_changes_nothing() {
        let (mut maps, mut known) = (Maps::default(), PodEntries::default());
        known.replace(Some(pod(1, &[1, 2])), |change| maps.apply(change)).unwrap();
        let none = |change| panic!("{change:?}");
        known.replace(Some(pod(1, &[2, 1])), none).unwrap();
        known.replace(Some(pod(1, &[1, 2, 2])), none).unwrap();
        for other in [pod(2, &[1, 2]), pod(2, &[1, 1]), pod(2, &[1])] {
            known.replace(Some(other.clone()), |change| maps.apply(change)).unwrap();
            assert_eq!(maps.entries.addresses, BTreeSet::from_iter(other.addresses));
        }
    }
}
