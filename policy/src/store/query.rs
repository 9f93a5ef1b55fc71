//! What the store knows, by name, by label and by address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{EnforcementMode, FormerPort, Store, Translation, pod_name};
use crate::PodName;
use crate::directory;
use crate::key::ObjectKey;
use crate::labels::{LabelContext, Labels, NAMESPACE_NAME_LABEL};
use crate::model::{EndpointSlice, Node, Pod, Policy, Service};
use crate::rules::RuleSet;

impl Store {
    /// The enforcement mode.
    #[must_use]
    pub const fn mode(&self) -> EnforcementMode {
        self.mode
    }

    /// A pod by its name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&pod_name(namespace, name))
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = (&PodName, &Pod)> {
        self.pods.iter()
    }

    /// The pods that a policy in force selects. A namespaced one selects in its own namespace only.
    pub fn selected_pods<'s>(&'s self, key: &ObjectKey) -> impl Iterator<Item = &'s PodName> + 's {
        let sets = self.rule_sets(key).map_or(&[][..], |sets| sets);
        let namespace: Option<Arc<str>> = key.namespace.as_deref().map(Into::into);
        let first = pod_name(key.namespace.as_deref().unwrap_or_default(), "");
        let pods = self.pods.range(first..).take_while(move |(name, _)| {
            namespace.as_ref().is_none_or(|namespace| name.namespace == *namespace)
        });
        // Pods are sorted by namespace: the labels of each namespace are collected once.
        let mut last: Option<(&Arc<str>, Arc<Labels>)> = None;
        pods.filter_map(move |(name, pod)| {
            let namespace_labels = match &last {
                Some((of, labels)) if **of == name.namespace => Arc::clone(labels),
                _ => {
                    let labels = Arc::new(self.namespace_labels(&name.namespace));
                    last = Some((&name.namespace, Arc::clone(&labels)));
                    labels
                }
            };
            selects(sets, name, pod, namespace_labels).then_some(name)
        })
    }

    /// Whether policies in force select the pod, as [`Self::selected_pods`] has it.
    pub fn selecting(&self, pod: &PodName) -> impl Fn(&ObjectKey) -> bool {
        let known = self.pods.get_key_value(pod);
        let namespace_labels = Arc::new(self.namespace_labels(&pod.namespace));
        move |key| {
            let Some((name, pod)) = known else { return false };
            let is_elsewhere = |namespace: &str| *namespace != *name.namespace;
            let sets = self.rule_sets(key).map_or(&[][..], |sets| sets);
            !key.namespace.as_deref().is_some_and(is_elsewhere)
                && selects(sets, name, pod, Arc::clone(&namespace_labels))
        }
    }

    /// Labels of a namespace, with the one that the API server adds; just that one for a namespace
    /// that isn't known.
    pub(crate) fn namespace_labels(&self, namespace: &Arc<str>) -> Labels {
        let known = self.namespaces.get(namespace);
        let mut labels = known.map(|known| known.labels.clone()).unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.into(), Arc::clone(namespace));
        labels
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.directory.nodes.values()
    }

    /// Whether any node is known.
    #[must_use]
    pub fn has_nodes(&self) -> bool {
        !self.directory.nodes.is_empty()
    }

    /// Nodes with their names.
    pub fn named_nodes(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Node)> {
        self.directory.nodes.iter()
    }

    /// The name of the first node whose object has this address.
    #[must_use]
    pub fn node_with(&self, address: IpAddr) -> Option<&Arc<str>> {
        let mut nodes = self.directory.nodes.iter();
        nodes.find(|(_, node)| node.addresses.contains(&address)).map(|(name, _)| name)
    }

    /// Whether there is a node of this name.
    #[must_use]
    pub fn has_node(&self, name: &str) -> bool {
        self.directory.nodes.contains_key(name)
    }

    /// How often a node was added, changed or removed.
    #[must_use]
    pub fn node_changes(&self) -> u64 {
        self.node_changes
    }

    /// DNS names with the addresses that they resolve to.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[IpAddr]>)> {
        self.learned.iter()
    }

    /// The addresses that a DNS name resolves to; `name` as in [`Self::learned`].
    pub(crate) fn addresses_of(&self, name: &str) -> Option<&Arc<[IpAddr]>> {
        self.learned.get(name)
    }

    /// Whether packets to services are translated.
    #[must_use]
    pub const fn translation(&self) -> Translation {
        self.translation
    }

    /// A service by its name.
    pub(crate) fn service(&self, name: &directory::Name) -> Option<&Service> {
        self.directory.services.get(name)
    }

    /// Names of all services, and of those of [`Self::former_ports`].
    pub(crate) fn service_names(&self) -> BTreeSet<directory::Name> {
        self.directory.services.keys().chain(self.former_services.names()).cloned().collect()
    }

    /// The ports at addresses of this node that the service of this name was the last to have,
    /// until shortly before.
    pub(crate) fn former_ports(&self, name: &directory::Name) -> impl Iterator<Item = FormerPort> {
        self.former_services.of(name)
    }

    /// Whether there were more of [`Self::former_ports`] than are known.
    pub(crate) const fn is_service_forgotten(&self) -> bool {
        self.former_services.is_incomplete()
    }

    /// The EndpointSlices of a service.
    pub(crate) fn slices_of(
        &self,
        service: &directory::Name,
    ) -> impl Iterator<Item = &EndpointSlice> {
        self.directory.slices_of(service)
    }

    /// Whether the node of this name is this one, by the addresses of its object.
    pub(crate) fn is_this_node(&self, name: &str) -> bool {
        let node = self.directory.nodes.get(name);
        node.is_some_and(|node| node.addresses.iter().any(|ip| self.host_addresses.contains(ip)))
    }

    /// The service that has a cluster IP, and its name.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<(&directory::Name, &Service)> {
        let services = self.directory.services.iter();
        let mut found = services.filter(|(_, service)| service.cluster_ips.contains(&address));
        found.next()
    }

    /// Services of a name, in one namespace or in all.
    pub(crate) fn services_called(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> impl Iterator<Item = (&directory::Name, &Service)> {
        self.directory.services.iter().filter(move |(known, _)| {
            *known.1 == *name && namespace.is_none_or(|namespace| namespace == &*known.0)
        })
    }

    /// The backends of a service: pods by its selector, or else addresses of its EndpointSlices.
    pub(crate) fn behind(&self, name: &directory::Name, service: &Service) -> Vec<String> {
        if service.selector.is_empty() {
            return self.directory.addresses(name).map(|address| address.to_string()).collect();
        }
        let is_behind = |(pod, object): &(&PodName, &Pod)| {
            let mut wanted = service.selector.iter();
            *pod.namespace == *name.0
                && !object.addresses().is_empty()
                && wanted.all(|(key, value)| object.labels.get(key) == Some(value))
        };
        self.pods.iter().filter(is_behind).map(|(pod, _)| pod.to_string()).collect()
    }

    pub(crate) fn host_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.host_addresses.iter()
    }

    /// The normal form of a policy in force.
    #[must_use]
    pub fn rule_sets(&self, key: &ObjectKey) -> Option<&Arc<[RuleSet]>> {
        self.policies.get(key).map(|policy| policy.rule_sets(key, &self.directory))
    }

    /// Groups, services and the addresses behind services.
    pub(crate) const fn directory(&self) -> &directory::Directory {
        &self.directory
    }

    /// Policies in force, by name, in normal form.
    pub fn all_rule_sets(&self) -> impl Iterator<Item = (&ObjectKey, &[RuleSet])> {
        self.policies
            .iter()
            .map(|(key, policy)| (key.as_ref(), &policy.rule_sets(key, &self.directory)[..]))
    }

    /// Policies in force, by name, as written.
    pub fn policy_objects(&self) -> impl Iterator<Item = (&ObjectKey, &Policy)> {
        self.policies.iter().map(|(key, policy)| (key.as_ref(), &policy.policy))
    }
}

/// Whether one of the rule sets selects a pod that has an address.
fn selects(sets: &[RuleSet], name: &PodName, pod: &Pod, namespace_labels: Arc<Labels>) -> bool {
    let context = label_context(name, pod, namespace_labels);
    let selected = sets.iter().any(|set| set.endpoint_selector.matches(&context));
    selected && !pod.addresses().is_empty()
}

/// What selectors match against for a pod.
fn label_context(name: &PodName, pod: &Pod, namespace_labels: Arc<Labels>) -> LabelContext {
    LabelContext::Pod {
        namespace: Arc::clone(&name.namespace),
        service_account: Arc::clone(&pod.service_account),
        labels: Arc::clone(&pod.labels),
        namespace_labels,
    }
}
