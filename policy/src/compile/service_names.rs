//! Names of services by their cluster IPs, for flow records.

use hashbrown::HashMap;
use podgate_tables::address::Address;

use super::table_builder::TableBuilder;
use crate::catalog::ServiceName;
use crate::directory;
use crate::store::Store;

/// The cluster IPs of each service in the catalog.
#[derive(Debug, Default)]
pub(super) struct ServiceNames(HashMap<directory::Name, Vec<Address>>);

impl ServiceNames {
    /// Brings the catalog up to date with a service.
    pub(super) fn change(
        &mut self,
        name: &directory::Name,
        store: &Store,
        builder: &mut TableBuilder,
    ) {
        let ips = store.cluster_ips(name).iter().map(|ip| Address::from(*ip));
        let now: Vec<_> = ips.collect();
        for former in self.0.remove(name).into_iter().flatten() {
            if !now.contains(&former) {
                builder.changed |= builder.catalog.services.set(former, None);
            }
        }
        for address in &now {
            let (namespace, service) = name;
            let service =
                ServiceName { namespace: namespace.to_string(), name: service.to_string() };
            builder.changed |= builder.catalog.services.set(*address, Some(service));
        }
        if !now.is_empty() {
            self.0.insert(name.clone(), now);
        }
    }
}
