//! Answers about addresses, identities and nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podgate_api::{ApiError, IdentityEntry, IpEntry, NodeEntry};
use podgate_policy::Compiled;
use podgate_tables::address::Address;

use super::super::Agent;

impl Agent {
    /// The identity of an address, or those of all addresses of pods and nodes.
    pub(super) fn ip_list(&self, address: Option<IpAddr>) -> Result<Vec<IpEntry>, ApiError> {
        let compiled = self.in_force()?;
        if let Some(address) = address {
            return Ok(vec![ip_entry(compiled, address.into())]);
        }
        let known = compiled.tables.addresses.iter().map(|(address, _)| address);
        let mut entries: Vec<_> = known.map(|address| ip_entry(compiled, address)).collect();
        entries.sort_by_key(|entry| entry.address);
        Ok(entries)
    }

    /// All identities, by number.
    pub(super) fn identity_list(&self) -> Result<Vec<IdentityEntry>, ApiError> {
        let identities = self.in_force()?.catalog.identities();
        // Two may, rarely, share a number.
        let mut entries: Vec<_> = identities
            .map(|info| IdentityEntry { identity: info.number, labels: info.labels().to_vec() })
            .collect();
        entries.sort_by(|a, b| (a.identity, &a.labels).cmp(&(b.identity, &b.labels)));
        Ok(entries)
    }

    /// Numbers of reserved identities, and of those of pods.
    pub(super) fn identity_counts(&self) -> [u64; 2] {
        let identities = self.in_force().ok().map(|compiled| compiled.catalog.identities());
        identities.into_iter().flatten().fold([0; 2], |mut counts, identity| {
            counts[usize::from(!identity.is_reserved())] += 1;
            counts
        })
    }

    /// The nodes that objects name.
    pub(super) fn node_list(&self) -> Vec<NodeEntry> {
        let nodes = self.plane.store().named_nodes();
        let nodes: BTreeMap<_, _> =
            nodes.map(|(name, node)| (name.to_string(), node.internal.clone())).collect();
        let entry = |(name, addresses)| NodeEntry { name, addresses };
        nodes.into_iter().map(entry).collect()
    }
}

fn ip_entry(compiled: &Compiled, address: Address) -> IpEntry {
    let resolved = compiled.tables.resolve(address);
    let info = compiled.catalog.identity(resolved.identity_index);
    IpEntry {
        address: address.ip(),
        identity: resolved.identity.number,
        pod: compiled.catalog.pod_at(address.ip()).map(ToString::to_string),
        labels: info.map(|info| info.labels().to_vec()).unwrap_or_default(),
    }
}
