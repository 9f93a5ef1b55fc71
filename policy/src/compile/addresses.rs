//! Who is behind an address.

use hashbrown::HashMap;
use podgate_dataplane::policy::{AddressRow, AddressTable, NamedPorts, PolicyTables, PortNameId};
use podgate_dataplane::types::Address;

use super::identities::Identities;
use crate::catalog::PodName;
use crate::store::Store;

/// Addresses of pods and nodes. An address that several pods claim belongs to the youngest of them
/// (the others are about to go); a node's own address is never a pod's.
pub(super) fn addresses(
    store: &Store,
    identities: &Identities,
    port_names: &HashMap<&str, PortNameId>,
) -> (AddressTable, HashMap<Address, PodName>) {
    let mut table = AddressTable::default();
    let mut owners: HashMap<Address, PodName> = HashMap::new();
    let mut pods: Vec<_> = store.pods().zip(&identities.of_pods).collect();
    pods.sort_by_key(|((_, pod), _)| &pod.created);
    for ((name, pod), identity) in pods {
        let Some(identity) = *identity else { continue };
        let named = pod.ports.iter().filter_map(|port| {
            port_names.get(port.name.as_str()).map(|name| (*name, port.protocol, port.port))
        });
        let named_ports = NamedPorts::new(named);
        for ip in pod.addresses() {
            let address = Address::from(*ip);
            let row = AddressRow { identity, named_ports: named_ports.clone() };
            table.insert(address, row);
            owners.insert(address, name.clone());
        }
    }
    let plain = |identity| AddressRow { identity, named_ports: NamedPorts::default() };
    for ip in store.nodes().flat_map(|node| &node.addresses) {
        table.insert((*ip).into(), plain(PolicyTables::REMOTE_NODE));
        owners.remove(&Address::from(*ip));
    }
    for ip in store.host_addresses() {
        table.insert((*ip).into(), plain(PolicyTables::HOST));
        owners.remove(&Address::from(*ip));
    }
    (table, owners)
}
