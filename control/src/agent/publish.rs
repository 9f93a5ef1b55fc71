//! Publication: compiled tables and routes, to workers, host network and observers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use podgate_hostnet::ROUTE_MTU_MAX;

use super::Agent;

impl Agent {
    /// Compiles what changed and publishes it, unless nothing did.
    pub(super) fn publish(&mut self) {
        self.plane.set_assigned_addresses(self.endpoints.iter());
        let Some(begun) = self.plane.begin() else { return };
        let policy_changed = self.plane.compile();
        let (routes, not_ready) = self.plane.route_table(&self.endpoints, self.host.next_hop());
        let routes = Arc::new(self.host.complete(routes));
        let Some(snapshot) = self.plane.next_snapshot(policy_changed, &routes, not_ready) else {
            self.endpoints.set_pods(&routes);
            self.latency.without_effect();
            return self.plane.end(begun);
        };
        let dataplane = self.endpoints.links().dataplane();
        self.names.policies_changed();
        self.earlier_flows.take_over(&snapshot, &self.endpoints, dataplane);
        dataplane.publish(snapshot);
        self.endpoints.set_pods(&routes);
        self.plane.end(begun);
        self.latency.published(self.plane.epoch());
        let (epoch, policies) = (self.plane.epoch().0, self.policies_in_force());
        self.observer.agent_events().policy_updated(Timestamp::now(), epoch, policies);
        self.peers.update(self.plane.store());
        self.host.set_routes(self.addresses_of_ready_endpoints());
    }

    /// Publishes what is due, so that objects and tables are of one time.
    pub(super) fn catch_up(&mut self) {
        if self.plane.due().is_some() {
            self.publish();
        }
    }

    /// Addresses of pods that are served, with the MTUs of the routes to them, bytes.
    fn addresses_of_ready_endpoints(&self) -> BTreeMap<IpAddr, u32> {
        let mut addresses = BTreeMap::new();
        for (link, endpoint) in self.endpoints.iter() {
            if self.plane.not_ready(link).is_some() {
                continue;
            }
            if let Ok(route) = endpoint.route(self.plane.store()) {
                let mtu = route.next_hop.mtu.min(ROUTE_MTU_MAX);
                addresses.extend(route.addresses.iter().map(|address| (address.ip(), mtu)));
            }
        }
        addresses
    }
}
