//! The name of an object.

use std::fmt;

/// The kinds of objects that verdicts depend on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace: its labels.
    Namespace,
    /// `v1` Node: its addresses.
    Node,
    /// `v1` Pod: its labels, addresses and named ports.
    Pod,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `cilium.io/v2` CiliumCIDRGroup: networks that Cilium policies refer to.
    CiliumCidrGroup,
    /// `v1` Service: what Cilium's `toServices` refers to.
    Service,
    /// `discovery.k8s.io/v1` (or `v1beta1`) EndpointSlice: addresses behind a service.
    EndpointSlice,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::CiliumCidrGroup,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// The `kind` field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CiliumCidrGroup => "CiliumCIDRGroup",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// The `apiVersion` field, as it should be.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        self.api_versions()[0]
    }

    /// Every `apiVersion` that objects of this kind are read in, the one to prefer first.
    #[must_use]
    pub const fn api_versions(self) -> &'static [&'static str] {
        match self {
            // Up to 1.17, Cilium knows groups in the older version only.
            Self::CiliumCidrGroup => &["cilium.io/v2", "cilium.io/v2alpha1"],
            Self::Namespace | Self::Node | Self::Pod | Self::Service => &["v1"],
            Self::NetworkPolicy => &["networking.k8s.io/v1"],
            Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy => &["cilium.io/v2"],
            Self::ClusterNetworkPolicy => &["policy.networking.k8s.io/v1alpha2"],
            // Before 1.21, Kubernetes knows slices in the older version only.
            Self::EndpointSlice => &["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"],
        }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        matches!(
            self,
            Self::Pod
                | Self::NetworkPolicy
                | Self::CiliumNetworkPolicy
                | Self::Service
                | Self::EndpointSlice
        )
    }

    /// Whether objects of this kind are policies.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::CiliumNetworkPolicy
                | Self::CiliumClusterwideNetworkPolicy
                | Self::ClusterNetworkPolicy
        )
    }

    /// The kind called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What tells one object from all others. Shown as `NetworkPolicy shop/allow-web`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
