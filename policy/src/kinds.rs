//! The table of the kinds of objects that verdicts depend on: one row for each kind.
//!
//! [`crate::key`], [`crate::model`] and [`crate::store`] make their code from it. A row says:
//!
//! | column | what it is |
//! |---|---|
//! | `resource: name` | the `kind` field |
//! | `resource: plural` | the resource's name in the API server's paths |
//! | `resource: versions` | each `apiVersion` that is read, the preferred one first |
//! | `resource: scope` | whether objects have a namespace |
//! | `resource: api` | whether each cluster knows the kind, or only those where it was installed |
//! | `model` | the type in [`crate::model`] that it is read as |
//! | `set` | the method of the store that adds, replaces and removes an object |
//!
//! Policies have no `set`: the store keeps all of them alike.

/// Calls a macro with the table.
macro_rules! for_each_kind {
    ($generate:ident) => {
        $generate! {
            objects {
                /// `v1` Namespace: its labels.
                Namespace {
                    resource: {
                        name: "Namespace", plural: "namespaces", versions: ["v1"],
                        scope: ClusterWide, api: BuiltIn
                    },
                    model: Namespace, set: set_namespace
                }
                /// `v1` Node: its labels and addresses.
                Node {
                    resource: {
                        name: "Node", plural: "nodes", versions: ["v1"],
                        scope: ClusterWide, api: BuiltIn
                    },
                    model: Node, set: set_node
                }
                /// `v1` Pod: its labels, addresses and named ports.
                Pod {
                    resource: {
                        name: "Pod", plural: "pods", versions: ["v1"],
                        scope: Namespaced, api: BuiltIn
                    },
                    model: Pod, set: set_pod
                }
                /// `cilium.io/v2` CiliumCIDRGroup: networks that Cilium policies refer to. Cilium
                /// up to 1.17 has the older version only.
                CiliumCidrGroup {
                    resource: {
                        name: "CiliumCIDRGroup", plural: "ciliumcidrgroups",
                        versions: ["cilium.io/v2", "cilium.io/v2alpha1"],
                        scope: ClusterWide, api: Custom
                    },
                    model: CidrGroup, set: set_group
                }
                /// `v1` Service: its addresses and ports, and what Cilium's `toServices` refers to.
                Service {
                    resource: {
                        name: "Service", plural: "services", versions: ["v1"],
                        scope: Namespaced, api: BuiltIn
                    },
                    model: Service, set: set_service
                }
                /// `discovery.k8s.io/v1` EndpointSlice: addresses of a service's backends.
                /// Kubernetes before 1.21 has the older version only.
                EndpointSlice {
                    resource: {
                        name: "EndpointSlice", plural: "endpointslices",
                        versions: ["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"],
                        scope: Namespaced, api: BuiltIn
                    },
                    model: EndpointSlice, set: set_slice
                }
            }
            policies {
                /// `networking.k8s.io/v1` NetworkPolicy.
                NetworkPolicy {
                    resource: {
                        name: "NetworkPolicy", plural: "networkpolicies",
                        versions: ["networking.k8s.io/v1"],
                        scope: Namespaced, api: BuiltIn
                    },
                    model: NetworkPolicy
                }
                /// `cilium.io/v2` CiliumNetworkPolicy.
                CiliumNetworkPolicy {
                    resource: {
                        name: "CiliumNetworkPolicy", plural: "ciliumnetworkpolicies",
                        versions: ["cilium.io/v2"],
                        scope: Namespaced, api: Custom
                    },
                    model: CiliumPolicy
                }
                /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
                CiliumClusterwideNetworkPolicy {
                    resource: {
                        name: "CiliumClusterwideNetworkPolicy", plural: "ciliumclusterwidenetworkpolicies",
                        versions: ["cilium.io/v2"],
                        scope: ClusterWide, api: Custom
                    },
                    model: CiliumPolicy
                }
                /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
                ClusterNetworkPolicy {
                    resource: {
                        name: "ClusterNetworkPolicy", plural: "clusternetworkpolicies",
                        versions: ["policy.networking.k8s.io/v1alpha2"],
                        scope: ClusterWide, api: Custom
                    },
                    model: ClusterNetworkPolicy
                }
            }
        }
    };
}

pub(crate) use for_each_kind;
