//! The tables and their catalogue while they are changed.

use std::sync::Arc;

use hashbrown::HashSet;
use podgate_tables::address::Address;
use podgate_tables::ids::{DenySetId, Epoch, PortNameId, RuleId, SelectorId};
use podgate_tables::policy::{AddressSet, IdentityRow, PolicyTables, SelectorSet};
use podgate_tables::service::{ServiceAddress, ServicePorts, TooManyServices};

use crate::catalog::{Catalog, ExternalNames, IdentityInfo, RuleOrigin, ServiceName};
use crate::key::ObjectKey;
use crate::rules::PeerSelector;
use crate::selector::Selector;

/// Tables and names, always changed together.
#[derive(Debug, Default)]
pub(super) struct TableBuilder {
    pub(super) tables: PolicyTables,
    pub(super) catalog: Catalog,
    /// Identities whose rows have to be written again.
    pub(super) dirty: HashSet<u32>,
    /// Addresses of services for which there was no room.
    pub(super) services_left_out: HashSet<ServiceAddress>,
    /// Rules whose names were set or cleared since [`Compiler::take_renamed_rules`].
    ///
    /// [`Compiler::take_renamed_rules`]: super::Compiler::take_renamed_rules
    pub(super) renamed_rules: HashSet<RuleId>,
    /// Whether anything changed since the last snapshot.
    pub(super) changed: bool,
    /// The epoch that the tables will be published as.
    pub(super) epoch: Epoch,
}

impl TableBuilder {
    pub(super) fn name_selector(&mut self, number: SelectorId, selector: Option<&Selector>) {
        let selector = selector.cloned().map(Arc::new);
        self.changed |= self.catalog.selectors.set(number.0, selector);
    }

    pub(super) fn name_rule(&mut self, id: RuleId, origin: Option<RuleOrigin>) {
        self.renamed_rules.insert(id);
        self.changed |= self.catalog.rules.set(id.0, origin.map(Arc::new));
    }

    pub(super) fn name_deny_set(&mut self, id: DenySetId, policies: Arc<[ObjectKey]>) {
        self.changed |= self.catalog.deny_sets.set(id.0, policies);
    }

    pub(super) fn name_port(&mut self, id: PortNameId, name: Arc<str>) {
        self.changed |= self.catalog.port_names.set(id.0, name);
    }

    /// Names the service that has a cluster IP.
    pub(super) fn name_cluster_ip(&mut self, address: Address, name: Option<ServiceName>) {
        self.changed |= self.catalog.cluster_ips.set(address, name);
    }

    /// Sets whether the node's kernel translates, and not workers.
    pub(super) fn leave_services_to_kernel(&mut self, left: bool) {
        self.changed |= self.tables.services.left_to_kernel != left;
        self.tables.services.left_to_kernel = left;
    }

    /// Sets the services' ports at an address. A row beyond the limit is left out.
    pub(super) fn set_service(&mut self, address: ServiceAddress, row: Option<ServicePorts>) {
        match self.tables.services.set(address, row) {
            Ok(changed) => {
                self.changed |= changed;
                self.services_left_out.remove(&address);
            }
            Err(TooManyServices) => self.leave_out(address),
        }
    }

    /// Leaves an address out, for which there is no room.
    fn leave_out(&mut self, address: ServiceAddress) {
        self.changed |= self.tables.services.set(address, None) != Ok(false);
        self.services_left_out.insert(address);
    }

    /// External addresses for which there was no room.
    pub(super) fn external_left_out(&self) -> impl Iterator<Item = ServiceAddress> {
        let is_external = |at: &&ServiceAddress| matches!(at, ServiceAddress::External(_));
        self.services_left_out.iter().filter(is_external).copied()
    }

    /// Sets whether external addresses are left out; `unread` if the objects can't be read.
    pub(super) fn note_left_out(&mut self, unread: bool) {
        let is_incomplete = unread || self.external_left_out().next().is_some();
        self.changed |= self.tables.services.is_incomplete != is_incomplete;
        self.tables.services.is_incomplete = is_incomplete;
    }

    /// Sets the services' ports at an external address, or the node ports, and their names. There
    /// are at most `size` ports; `row` is not called if there is no room for as many.
    pub(super) fn set_external(
        &mut self,
        address: ServiceAddress,
        size: usize,
        row: impl FnOnce() -> (ServicePorts, ExternalNames),
    ) {
        if !self.tables.services.has_room(address, size) {
            self.leave_out(address);
            return self.name_external(address, None);
        }
        let (row, names) = row();
        self.set_service(address, Some(row));
        self.name_external(address, Some(names));
    }

    /// Removes the row of an external address, or of the node ports.
    pub(super) fn remove_external(&mut self, address: ServiceAddress) {
        self.set_service(address, None);
        self.name_external(address, None);
    }

    fn name_external(&mut self, address: ServiceAddress, names: Option<ExternalNames>) {
        match address {
            ServiceAddress::ClusterIp(_) => {}
            ServiceAddress::External(address) => {
                self.changed |= self.catalog.external.set(address, names);
            }
            ServiceAddress::Node { v4 } => {
                let former = &mut self.catalog.node_ports[usize::from(!v4)];
                self.changed |= *former != names;
                *former = names;
            }
        }
    }

    pub(super) fn change_namespace(
        &mut self,
        row: u32,
        change: impl FnOnce(&SelectorSet) -> SelectorSet,
    ) {
        let set = match self.tables.namespaces.get(row) {
            Some(set) => change(set),
            None => change(&SelectorSet::default()),
        };
        self.changed |= self.tables.namespaces.set(row, set);
    }

    pub(super) fn write_identity(&mut self, id: u32, row: IdentityRow, info: Option<IdentityInfo>) {
        self.changed |= self.tables.identities.set(id, row);
        self.changed |= self.catalog.identities.set(id, info);
    }

    /// Sets the addresses of an address set, and the peers that it was made from.
    pub(super) fn set_addresses(
        &mut self,
        id: SelectorId,
        peers: Arc<[PeerSelector]>,
        set: AddressSet,
    ) {
        self.changed |= self.catalog.address_sets.set(id.0, peers);
        self.change_addresses(id, set);
    }

    pub(super) fn change_addresses(&mut self, id: SelectorId, set: AddressSet) {
        self.changed |= self.tables.address_sets.set(id.0, Arc::new(set));
    }
}
