//! The owner of each address.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use podgate_tables::address::Address;
use podgate_tables::ids::PortNameId;
use podgate_tables::policy::{AddressRow, NamedPorts, PolicyTables};

use super::table_builder::TableBuilder;
use crate::PodName;
use crate::catalog::PodInfo;
use crate::model::{Pod, Workload};
use crate::store::Store;

/// A pod as it is in the tables.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) identity: u32,
    pub(super) addresses: Vec<Address>,
    /// Names of its ports, in the order of the pod's ports.
    pub(super) port_names: Vec<PortNameId>,
    pub(super) named_ports: Option<NamedPorts>,
    /// When the pod was created.
    pub(super) created: String,
    pub(super) workload: Option<Arc<Workload>>,
}

impl PodEntry {
    pub(super) fn new(identity: u32, pod: &Pod, port_names: Vec<PortNameId>) -> Self {
        let ports = pod.ports.iter().zip(&port_names);
        let named = ports.map(|(port, name)| (*name, port.protocol, port.port));
        Self {
            identity,
            addresses: pod.addresses().iter().map(|ip| Address::from(*ip)).collect(),
            named_ports: (!pod.ports.is_empty()).then(|| NamedPorts::new(named)),
            created: pod.created.clone(),
            workload: pod.workload.clone(),
            port_names,
        }
    }
}

/// The claims on each address.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Most addresses have one claimant.
    pods: HashMap<Address, Claimants>,
    /// Addresses of nodes, with the identity: this node's or another's.
    nodes: HashMap<Address, u32>,
}

#[derive(Debug)]
enum Claimants {
    One(PodName),
    Several(Vec<PodName>),
}

impl Claimants {
    fn as_slice(&self) -> &[PodName] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl Claims {
    pub(super) fn add(&mut self, address: Address, pod: &PodName) {
        match self.pods.get_mut(&address) {
            None => {
                self.pods.insert(address, Claimants::One(pod.clone()));
            }
            Some(claimants) => {
                let mut names = claimants.as_slice().to_vec();
                names.push(pod.clone());
                *claimants = Claimants::Several(names);
            }
        }
    }

    pub(super) fn remove(&mut self, address: Address, pod: &PodName) {
        let Some(claimants) = self.pods.get_mut(&address) else { return };
        let mut names = claimants.as_slice().to_vec();
        names.retain(|name| name != pod);
        match names.len() {
            0 => drop(self.pods.remove(&address)),
            _ => *claimants = Claimants::Several(names),
        }
    }

    /// Takes over the addresses of nodes. Returns those whose owner may have changed.
    pub(super) fn set_nodes(&mut self, store: &Store) -> HashSet<Address> {
        let mut nodes = HashMap::new();
        for ip in store.nodes().flat_map(|node| &node.addresses) {
            nodes.insert(Address::from(*ip), PolicyTables::REMOTE_NODE);
        }
        for ip in store.host_addresses() {
            nodes.insert(Address::from(*ip), PolicyTables::HOST);
        }
        let former = std::mem::replace(&mut self.nodes, nodes);
        let (former, now) = (&former, &self.nodes);
        let all = former.keys().chain(now.keys()).copied();
        all.filter(|address| former.get(address) != now.get(address)).collect()
    }

    /// Writes the row of an address. One that several pods claim belongs to the youngest of them
    /// (the others are about to be removed); a node's address is never a pod's.
    pub(super) fn write_address(
        &self,
        address: Address,
        pods: &HashMap<PodName, PodEntry>,
        builder: &mut TableBuilder,
    ) {
        let claimants = self.pods.get(&address).map_or(&[][..], Claimants::as_slice);
        let placed = claimants.iter().filter_map(|name| Some((name, pods.get(name)?)));
        let youngest = placed.max_by_key(|(name, pod)| (&pod.created, *name));
        let (row, owner) = match (self.nodes.get(&address), youngest) {
            (Some(identity), _) => {
                (Some(AddressRow { identity: *identity, named_ports: None }), None)
            }
            (None, Some((name, pod))) => {
                let named_ports = pod.named_ports.clone();
                let former = builder.catalog.pods.get(address);
                let former = former.filter(|former| former.name == *name);
                let since = former.map_or(builder.epoch, |former| former.since);
                let (name, workload) = (name.clone(), pod.workload.clone());
                let owner = PodInfo { name, workload, since };
                (Some(AddressRow { identity: pod.identity, named_ports }), Some(owner))
            }
            (None, None) => (None, None),
        };
        builder.changed |= builder.tables.addresses.set(address, row);
        builder.changed |= builder.catalog.pods.set(address, owner);
    }
}
