//! What policies refer to: groups of networks, services, the addresses behind services, nodes by
//! their labels, and which policies refer to which of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::key::{Kind, ObjectKey};
use crate::model::{
    CidrGroup, CiliumPeer, CiliumPolicy, CiliumRule, ClusterNetworkPolicy, ClusterPeer,
    EndpointSlice, Entity, GroupReference, LabelSelector, Node, Policy, Service, ServiceReference,
    ServiceSelection,
};

/// Name of a namespaced object: namespace, then name.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// The service whose EndpointSlices have the addresses of the API server.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// The objects that policies refer to, and which policies refer to them.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) nodes: BTreeMap<Arc<str>, Node>,
    pub(crate) groups: BTreeMap<Arc<str>, CidrGroup>,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) slices: BTreeMap<Name, EndpointSlice>,
    /// Service and name of each slice.
    slices_by_service: BTreeSet<(Name, Arc<str>)>,
    /// What each policy refers to; only policies that refer to anything are here.
    references: BTreeMap<ObjectKey, Vec<Reference>>,
    /// Policies by the keys of their references.
    referring: BTreeMap<ReferenceKey, BTreeSet<ObjectKey>>,
    /// Kinds whose objects are unknown, and why.
    unread: BTreeMap<Kind, String>,
}

/// One thing that a policy looks up.
#[derive(Debug)]
enum Reference {
    Groups(GroupReference),
    Services(ServiceReference),
    ApiServer,
    Nodes(LabelSelector),
}

/// The key by which the references to a changed object are found.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
enum ReferenceKey {
    /// The group of this name.
    Group(Arc<str>),
    /// Groups by labels.
    Groups,
    /// Services of this name, in one namespace or all.
    Service(Arc<str>),
    /// Services by labels.
    Services,
    ApiServer,
    Nodes,
}

impl Reference {
    /// The kinds of objects that it looks up.
    const fn kinds(&self) -> &'static [Kind] {
        match self {
            Self::Groups(_) => &[Kind::CiliumCidrGroup],
            Self::Services(_) => &[Kind::Service, Kind::EndpointSlice],
            Self::ApiServer => &[Kind::EndpointSlice],
            Self::Nodes(_) => &[Kind::Node],
        }
    }

    fn reference_key(&self) -> ReferenceKey {
        match self {
            Self::Groups(GroupReference::Name(name)) => ReferenceKey::Group(name.as_str().into()),
            Self::Groups(GroupReference::Labels(_)) => ReferenceKey::Groups,
            Self::Services(reference) => match &reference.services {
                ServiceSelection::Name(name) => ReferenceKey::Service(name.as_str().into()),
                ServiceSelection::Labels(_) => ReferenceKey::Services,
            },
            Self::ApiServer => ReferenceKey::ApiServer,
            Self::Nodes(_) => ReferenceKey::Nodes,
        }
    }

    /// References of a policy.
    fn of(policy: &Policy) -> Vec<Self> {
        match policy {
            Policy::NetworkPolicy(_) => Vec::new(),
            Policy::CiliumNetworkPolicy(policy)
            | Policy::CiliumClusterwideNetworkPolicy(policy) => Self::of_cilium(policy),
            Policy::ClusterNetworkPolicy(policy) => Self::of_cluster(policy),
        }
    }

    fn of_cluster(policy: &ClusterNetworkPolicy) -> Vec<Self> {
        let peers = policy.egress.iter().flat_map(|rule| &rule.peers);
        peers
            .filter_map(|peer| match peer {
                ClusterPeer::Nodes(selector) => Some(Self::Nodes(selector.clone())),
                ClusterPeer::Pods(_)
                | ClusterPeer::Networks(_)
                | ClusterPeer::DomainNames(_)
                | ClusterPeer::Unknown => None,
            })
            .collect()
    }

    fn of_cilium(policy: &CiliumPolicy) -> Vec<Self> {
        let rules = policy.specs.iter().flat_map(|spec| {
            spec.ingress
                .iter()
                .chain(&spec.ingress_deny)
                .chain(&spec.egress)
                .chain(&spec.egress_deny)
        });
        rules.flat_map(|rule| rule.peers.iter().flatten()).filter_map(Self::of_peer).collect()
    }

    fn of_peer(peer: &CiliumPeer) -> Option<Self> {
        match peer {
            CiliumPeer::CidrGroups { groups, .. } => Some(Self::Groups(groups.clone())),
            CiliumPeer::Services(services) => Some(Self::Services(services.clone())),
            CiliumPeer::Entity(Entity::KubeApiserver | Entity::Cluster | Entity::ClusterMesh) => {
                Some(Self::ApiServer)
            }
            CiliumPeer::Entity(_)
            | CiliumPeer::Endpoints(_)
            | CiliumPeer::Cidr { .. }
            | CiliumPeer::Name(_) => None,
        }
    }
}

impl Directory {
    /// Replaces the references of a policy. Returns whether it has any now.
    pub(crate) fn set_references(&mut self, key: &ObjectKey, policy: Option<&Policy>) -> bool {
        for former in self.references.remove(key).into_iter().flatten() {
            let reference_key = former.reference_key();
            if let Some(policies) = self.referring.get_mut(&reference_key) {
                policies.remove(key);
                if policies.is_empty() {
                    self.referring.remove(&reference_key);
                }
            }
        }
        let references = policy.map(Reference::of).unwrap_or_default();
        if references.is_empty() {
            return false;
        }
        for reference in &references {
            self.referring.entry(reference.reference_key()).or_default().insert(key.clone());
        }
        self.references.insert(key.clone(), references);
        true
    }

    /// Sets why the objects of a kind are unknown; `None` if they are known. Returns the policies
    /// that refer to the kind, if that changed.
    pub(crate) fn set_unread(&mut self, kind: Kind, reason: Option<&str>) -> Vec<ObjectKey> {
        if self.unread.get(&kind).map(String::as_str) == reason {
            return Vec::new();
        }
        match reason {
            Some(reason) => self.unread.insert(kind, reason.to_owned()),
            None => self.unread.remove(&kind),
        };
        let refers = |references: &[Reference]| {
            references.iter().any(|reference| reference.kinds().contains(&kind))
        };
        let referring = self.references.iter().filter(|(_, references)| refers(references));
        referring.map(|(key, _)| key.clone()).collect()
    }

    /// Whether the objects of the kind are unknown.
    pub(crate) fn is_unread(&self, kind: Kind) -> bool {
        self.unread.contains_key(&kind)
    }

    /// A kind that a peer of the rule refers to and whose objects are unknown, and why.
    pub(crate) fn unread_by(&self, rule: &CiliumRule) -> Option<(Kind, &str)> {
        if self.unread.is_empty() {
            return None;
        }
        let references = rule.peers.iter().flatten().filter_map(Reference::of_peer);
        let kinds = references.flat_map(|reference| reference.kinds());
        let mut unread = kinds.filter_map(|kind| Some((*kind, self.unread.get(kind)?.as_str())));
        unread.next()
    }

    /// Sets or removes a node. Returns the policies that it concerns.
    pub(crate) fn set_node(&mut self, name: &Arc<str>, node: Option<Node>) -> Vec<ObjectKey> {
        let former = replace(&mut self.nodes, Arc::clone(name), node);
        let present = self.nodes.get(name);
        if former.as_ref() == present {
            return Vec::new();
        }
        let versions = || former.iter().chain(present);
        self.affected(&[ReferenceKey::Nodes], |reference| {
            let Reference::Nodes(selector) = reference else { return false };
            versions().any(|node| selector.matches(&node.labels))
        })
    }

    /// Sets or removes a group. Returns the policies that it concerns.
    pub(crate) fn set_group(
        &mut self,
        name: &Arc<str>,
        group: Option<CidrGroup>,
    ) -> Vec<ObjectKey> {
        let former = replace(&mut self.groups, Arc::clone(name), group);
        let present = self.groups.get(name);
        if former.as_ref() == present {
            return Vec::new();
        }
        let versions = || former.iter().chain(present);
        self.affected(&[ReferenceKey::Group(Arc::clone(name)), ReferenceKey::Groups], |reference| {
            let Reference::Groups(groups) = reference else { return false };
            versions().any(|group| refers_to_group(groups, name, group))
        })
    }

    /// Sets or removes a service. Returns the policies that it concerns.
    pub(crate) fn set_service(&mut self, name: &Name, service: Option<Service>) -> Vec<ObjectKey> {
        let former = replace(&mut self.services, name.clone(), service);
        let present = self.services.get(name);
        if former.as_ref() == present {
            return Vec::new();
        }
        let versions: Vec<&Service> = former.iter().chain(present).collect();
        self.affected_by_service(name, &versions)
    }

    /// Sets or removes an EndpointSlice. Returns the policies that it concerns.
    pub(crate) fn set_slice(
        &mut self,
        name: &Name,
        slice: Option<EndpointSlice>,
    ) -> Vec<ObjectKey> {
        let former = replace(&mut self.slices, name.clone(), slice);
        let present = self.slices.get(name);
        if former.as_ref() == present {
            return Vec::new();
        }
        let place = |slice: &EndpointSlice| {
            ((Arc::clone(&name.0), slice.service.as_str().into()), Arc::clone(&name.1))
        };
        if let Some(former) = &former {
            self.slices_by_service.remove(&place(former));
        }
        if let Some(present) = present {
            self.slices_by_service.insert(place(present));
        }
        let places: BTreeSet<(Name, Arc<str>)> = former.iter().chain(present).map(place).collect();
        places.iter().flat_map(|(service, _)| self.affected_by_slices(service)).collect()
    }

    /// The policies that look up the addresses of a service.
    fn affected_by_slices(&self, name: &Name) -> Vec<ObjectKey> {
        let mut policies = Vec::new();
        if (&*name.0, &*name.1) == API_SERVER {
            policies = self.affected(&[ReferenceKey::ApiServer], |_| true);
        }
        // A service with a selector stands for the pods that it selects, not for addresses.
        if let Some(service) = self.services.get(name).filter(|known| known.selector.is_empty()) {
            policies.extend(self.affected_by_service(name, &[service]));
        }
        policies
    }

    fn affected_by_service(&self, name: &Name, versions: &[&Service]) -> Vec<ObjectKey> {
        self.affected(
            &[ReferenceKey::Service(Arc::clone(&name.1)), ReferenceKey::Services],
            |reference| {
                let Reference::Services(services) = reference else { return false };
                versions.iter().any(|service| refers_to_service(services, name, service))
            },
        )
    }

    /// The policies filed under one of these topics that have such a reference.
    fn affected(
        &self,
        topics: &[ReferenceKey],
        is_it: impl Fn(&Reference) -> bool,
    ) -> Vec<ObjectKey> {
        let filed =
            topics.iter().filter_map(|reference_key| self.referring.get(reference_key)).flatten();
        let refers = |policy: &&ObjectKey| {
            self.references.get(*policy).is_some_and(|references| references.iter().any(&is_it))
        };
        filed.filter(refers).cloned().collect()
    }

    /// The addresses of nodes.
    pub(crate) fn node_addresses(&self, nodes: &LabelSelector) -> impl Iterator<Item = IpAddr> {
        let found = self.nodes.values().filter(|node| nodes.matches(&node.labels));
        found.flat_map(|node| node.addresses.iter().copied())
    }

    /// The networks of groups.
    pub(crate) fn networks(&self, groups: &GroupReference) -> impl Iterator<Item = IpNet> {
        let found = self.groups.iter().filter(|(name, group)| refers_to_group(groups, name, group));
        found.flat_map(|(_, group)| group.networks.iter().copied())
    }

    /// Services, with their namespaces and names.
    pub(crate) fn services(
        &self,
        services: &ServiceReference,
    ) -> impl Iterator<Item = (&Name, &Service)> {
        self.services.iter().filter(|(name, service)| refers_to_service(services, name, service))
    }

    /// Addresses behind a service.
    pub(crate) fn addresses(&self, service: &Name) -> impl Iterator<Item = IpAddr> {
        self.slices_of(service).flat_map(|slice| slice.addresses.iter().copied())
    }

    /// The EndpointSlices of a service.
    pub(crate) fn slices_of(&self, service: &Name) -> impl Iterator<Item = &EndpointSlice> {
        let first = (service.clone(), Arc::from(""));
        let slices = self.slices_by_service.range(first..).take_while(move |(of, _)| of == service);
        slices.filter_map(|((namespace, _), name)| {
            self.slices.get(&(namespace.clone(), name.clone()))
        })
    }

    /// Addresses of the API server.
    pub(crate) fn api_server(&self) -> Vec<IpAddr> {
        self.addresses(&(API_SERVER.0.into(), API_SERVER.1.into())).collect()
    }
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

fn refers_to_group(reference: &GroupReference, name: &str, group: &CidrGroup) -> bool {
    match reference {
        GroupReference::Name(wanted) => wanted == name,
        GroupReference::Labels(selector) => selector.matches(&group.labels),
    }
}

fn refers_to_service(reference: &ServiceReference, name: &Name, service: &Service) -> bool {
    let in_namespace = reference.namespace.as_deref().is_none_or(|wanted| *wanted == *name.0);
    in_namespace
        && match &reference.services {
            ServiceSelection::Name(wanted) => **wanted == *name.1,
            ServiceSelection::Labels(selector) => selector.matches(&service.labels),
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::key::{Kind, ObjectKey};
    use crate::store::Store;

    fn policy(name: &str, peers: &Value) -> Value {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
               "metadata": {"namespace": "red", "name": name},
               "spec": {"endpointSelector": {}, "egressDeny": [peers]}})
    }

    fn group(name: &str, label: &str, networks: &[&str]) -> Value {
        json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
               "metadata": {"name": name, "labels": {"of": label}},
               "spec": {"externalCIDRs": networks}})
    }

    fn service(namespace: &str, name: &str, label: &str, selector: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"namespace": namespace, "name": name, "labels": {"of": label}},
               "spec": {"selector": selector}})
    }

    fn slice(namespace: &str, name: &str, service: &str, address: &str) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"namespace": namespace, "name": name,
                            "labels": {"kubernetes.io/service-name": service}},
               "endpoints": [{"addresses": [address]}]})
    }

    fn store() -> Store {
        let by_label = json!({"selector": {"matchLabels": {"of": "x"}}});
        let policies = [
            ("group-a", json!({"toCIDRSet": [{"cidrGroupRef": "a"}]})),
            (
                "groups-x",
                json!({"toCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"of": "x"}}}]}),
            ),
            ("service-a", json!({"toServices": [{"k8sService": {"serviceName": "a"}}]})),
            (
                "service-blue-a",
                json!({"toServices": [{"k8sService": {"serviceName": "a", "namespace": "blue"}}]}),
            ),
            ("services-x", json!({"toServices": [{"k8sServiceSelector": by_label}]})),
            ("api-server", json!({"toEntities": ["kube-apiserver"]})),
            ("none", json!({"toCIDR": ["10.0.0.0/8"]})),
        ];
        let mut store = Store::new();
        for (name, peers) in &policies {
            store.apply(&policy(name, peers), None).unwrap();
        }
        store
    }

    /// Names of the policies that a step concerns.
    #[track_caller]
    fn affected(store: &mut Store, step: impl FnOnce(&mut Store)) -> Vec<String> {
        let before = store.cursor();
        step(store);
        let changed = store.changes_since(before).expect("the log is short").policies;
        let mut names: Vec<String> = changed.iter().map(|key| key.name.clone()).collect();
        names.sort_unstable();
        names
    }

    fn apply(object: Value) -> impl FnOnce(&mut Store) {
        move |store| {
            store.apply(&object, None).unwrap();
        }
    }

    fn delete(kind: Kind, namespace: Option<&str>, name: &str) -> impl FnOnce(&mut Store) {
        let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
        move |store| store.delete(&ObjectKey { kind, namespace, name })
    }

    #[test]
    fn a_group_concerns_policies_that_name_it_or_select_its_labels_before_or_after() {
        let store = &mut store();
        assert_eq!(affected(store, apply(group("a", "y", &["10.0.0.0/8"]))), ["group-a"]);
        assert_eq!(affected(store, apply(group("a", "y", &["10.0.0.0/8"]))), [""; 0]);
        assert_eq!(affected(store, apply(group("b", "x", &[]))), ["groups-x"]);
        assert_eq!(affected(store, apply(group("b", "y", &[]))), ["groups-x"]);
        assert_eq!(affected(store, apply(group("b", "z", &[]))), [""; 0]);
        assert_eq!(affected(store, delete(Kind::CiliumCidrGroup, None, "a")), ["group-a"]);
        assert_eq!(affected(store, delete(Kind::CiliumCidrGroup, None, "a")), [""; 0]);
    }

    #[test]
    fn a_service_concerns_policies_that_name_it_or_select_its_labels() {
        let store = &mut store();
        let (none, pods) = (json!({}), json!({"app": "a"}));
        let step = affected(store, apply(service("blue", "a", "y", &none)));
        assert_eq!(step, ["service-a", "service-blue-a"]);
        assert_eq!(affected(store, apply(service("red", "a", "y", &pods))), ["service-a"]);
        assert_eq!(affected(store, apply(service("red", "b", "x", &none))), ["services-x"]);
        assert_eq!(affected(store, delete(Kind::Service, Some("red"), "b")), ["services-x"]);
    }

    #[test]
    fn a_slice_concerns_policies_only_if_its_service_has_no_selector() {
        let store = &mut store();
        let (none, pods) = (json!({}), json!({"app": "a"}));
        assert_eq!(affected(store, apply(slice("blue", "s", "a", "10.0.0.1"))), [""; 0]);
        affected(store, apply(service("blue", "a", "y", &none)));
        affected(store, apply(service("blue", "b", "x", &none)));
        affected(store, apply(service("red", "a", "y", &pods)));
        let step = affected(store, apply(slice("blue", "s", "a", "10.0.0.2")));
        assert_eq!(step, ["service-a", "service-blue-a"]);
        assert_eq!(affected(store, apply(slice("red", "s", "a", "10.0.0.2"))), [""; 0]);
        let moved = affected(store, apply(slice("blue", "s", "b", "10.0.0.2")));
        assert_eq!(moved, ["service-a", "service-blue-a", "services-x"]);
        let gone = affected(store, delete(Kind::EndpointSlice, Some("blue"), "s"));
        assert_eq!(gone, ["services-x"]);
    }

    #[test]
    fn the_api_server_is_where_its_slices_say() {
        let store = &mut store();
        let slice = |address| slice("default", "kubernetes", "kubernetes", address);
        assert_eq!(affected(store, apply(slice("10.0.0.1"))), ["api-server"]);
        assert_eq!(affected(store, apply(slice("10.0.0.1"))), [""; 0]);
        assert_eq!(affected(store, apply(slice("10.0.0.2"))), ["api-server"]);
    }

    #[test]
    fn a_kind_that_can_not_be_read_concerns_policies_that_refer_to_it() {
        let store = &mut store();
        let unread = |kind, reason: Option<&'static str>| {
            move |store: &mut Store| _ = store.set_unread(kind, reason)
        };
        let groups = ["group-a", "groups-x"];
        assert_eq!(affected(store, unread(Kind::CiliumCidrGroup, Some("why"))), groups);
        assert_eq!(affected(store, unread(Kind::CiliumCidrGroup, Some("why"))), [""; 0]);
        let with_services = ["service-a", "service-blue-a", "services-x"];
        assert_eq!(affected(store, unread(Kind::Service, Some("why"))), with_services);
        let with_slices = ["api-server", "service-a", "service-blue-a", "services-x"];
        assert_eq!(affected(store, unread(Kind::EndpointSlice, Some("why"))), with_slices);
        assert_eq!(store.rejected_objects(), 6);
        assert_eq!(affected(store, unread(Kind::CiliumCidrGroup, None)), groups);
        assert_eq!(store.rejected_objects(), 4);
    }

    #[test]
    fn a_policy_that_refers_to_something_no_more_is_concerned_no_more() {
        let store = &mut store();
        affected(store, apply(policy("group-a", &json!({"toCIDR": ["10.0.0.0/8"]}))));
        assert_eq!(affected(store, apply(group("a", "y", &["10.0.0.0/8"]))), [""; 0]);
        affected(store, delete(Kind::CiliumNetworkPolicy, Some("red"), "groups-x"));
        assert_eq!(affected(store, apply(group("b", "x", &[]))), [""; 0]);
    }
}
