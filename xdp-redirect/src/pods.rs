//! The programs' maps of MAC and IP addresses of the pods behind links.

use aya::maps::{HashMap, MapData, MapError};

/// The pod of a link. Without one, the programs pass only IP from the link to the workers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// MAC address of its end of the link.
    pub mac: [u8; 6],
    /// Its addresses as 128-bit numbers, IPv4 as IPv4-mapped IPv6.
    pub addresses: Vec<u128>,
}

/// `struct link_address`: ifindex in the byte order of this machine, address as in a header.
type Place = [u8; 20];

/// The two maps.
pub(crate) struct Pods {
    /// ifindex → MAC, and two bytes of padding.
    macs: HashMap<MapData, u32, [u8; 8]>,
    addresses: HashMap<MapData, Place, u8>,
}

impl Pods {
    pub(crate) const fn new(
        macs: HashMap<MapData, u32, [u8; 8]>,
        addresses: HashMap<MapData, Place, u8>,
    ) -> Self {
        Self { macs, addresses }
    }

    /// Replaces the pod `before` of a netdev by `now`.
    pub(crate) fn replace(
        &mut self,
        ifindex: u32,
        before: Option<&Pod>,
        now: Option<&Pod>,
    ) -> Result<(), MapError> {
        let addresses = |pod: Option<&Pod>| pod.map_or(Vec::new(), |pod| pod.addresses.clone());
        let (old, new) = (addresses(before), addresses(now));
        if now.is_none() && before.is_some() {
            absent_is_fine(self.macs.remove(&ifindex))?;
        }
        for address in old.iter().filter(|address| !new.contains(address)) {
            absent_is_fine(self.addresses.remove(&place(ifindex, *address)))?;
        }
        for address in new.iter().filter(|address| !old.contains(address)) {
            self.addresses.insert(place(ifindex, *address), 1, 0)?;
        }
        if let Some(Pod { mac: [a, b, c, d, e, f], .. }) = now {
            self.macs.insert(ifindex, [*a, *b, *c, *d, *e, *f, 0, 0], 0)?;
        }
        Ok(())
    }
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn place(ifindex: u32, address: u128) -> Place {
    let mut place = [0; 20];
    place[..4].copy_from_slice(&ifindex.to_ne_bytes());
    place[4..].copy_from_slice(&address.to_be_bytes());
    place
}
