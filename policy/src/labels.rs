//! Labels, and properties of a pod that Cilium treats as labels.
//!
//! Cilium gives every label a source (cilium `pkg/labels/labels.go`) and derives labels from the
//! pod's namespace, service account and cluster (`pkg/k8s/apis/cilium.io/const.go`). Here each such
//! label is a variant of its own, answered from the object it comes from, so that a pod can't claim
//! a namespace or a service account by labelling itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels of one object, sorted.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// The name of this cluster, as `io.cilium.k8s.policy.cluster` has it by default.
pub(crate) const CLUSTER_NAME: &str = "default";

/// Label that the API server gives each namespace: its name.
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// The label that a requirement of a selector tests.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LabelKey {
    /// The name of the pod's namespace. Nothing but pods has one.
    Namespace,
    /// A label of the pod's namespace.
    NamespaceLabel(Arc<str>),
    /// A label of the pod.
    Pod(Arc<str>),
    /// A label of the pod, or a reserved one.
    Any(Arc<str>),
    /// The pod's service account.
    ServiceAccount,
    /// The pod's cluster.
    Cluster,
    /// A reserved label: `host`, `world`, `remote-node` and so on.
    Reserved(Arc<str>),
    /// A label of a source that nothing here has.
    Foreign(Arc<str>),
}

impl LabelKey {
    /// From a key in a Cilium selector, `source:key` or `key` (which is any source).
    #[must_use]
    pub fn cilium(text: &str) -> Self {
        match split_source(text) {
            (Some("k8s"), key) => Self::derived(key).unwrap_or_else(|| Self::Pod(key.into())),
            (Some("any") | None, key) => {
                Self::derived(key).unwrap_or_else(|| Self::Any(key.into()))
            }
            (Some("reserved"), key) => Self::Reserved(key.into()),
            (Some(_), _) => Self::Foreign(text.into()),
        }
    }

    /// Keys that Cilium derives from a pod's namespace, service account and cluster.
    fn derived(key: &str) -> Option<Self> {
        match key {
            POD_NAMESPACE => Some(Self::Namespace),
            SERVICE_ACCOUNT => Some(Self::ServiceAccount),
            CLUSTER => Some(Self::Cluster),
            _ => {
                let label = key.strip_prefix(NAMESPACE_LABELS)?;
                Some(Self::NamespaceLabel(label.into()))
            }
        }
    }

    /// The labels that the key can name: one, or two for [`LabelKey::Any`], or none.
    pub(crate) fn label_refs(&self) -> impl Iterator<Item = LabelRef<'_>> {
        let label_refs = match self {
            Self::Namespace => [Some(LabelRef::Namespace), None],
            Self::NamespaceLabel(key) => [Some(LabelRef::NamespaceLabel(key)), None],
            Self::Pod(key) => [Some(LabelRef::Pod(key)), None],
            Self::Any(key) => [Some(LabelRef::Pod(key)), Some(LabelRef::Reserved(key))],
            Self::ServiceAccount => [Some(LabelRef::ServiceAccount), None],
            Self::Cluster => [Some(LabelRef::Cluster), None],
            Self::Reserved(key) => [Some(LabelRef::Reserved(key)), None],
            Self::Foreign(_) => [None, None],
        };
        label_refs.into_iter().flatten()
    }
}

/// As people read it: `app`, `namespace`, `reserved:world`.
impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => f.write_str("namespace"),
            Self::NamespaceLabel(key) => write!(f, "namespace:{key}"),
            Self::Pod(key) | Self::Any(key) | Self::Foreign(key) => f.write_str(key),
            Self::ServiceAccount => f.write_str("serviceaccount"),
            Self::Cluster => f.write_str("cluster"),
            Self::Reserved(key) => write!(f, "reserved:{key}"),
        }
    }
}

/// Splits `source:key`. Label keys have no colon, so the text before one is a source.
pub(crate) fn split_source(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((source, key)) => (Some(source), key),
        None => (None, text),
    }
}

/// A label by its source and key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum LabelRef<'a> {
    Namespace,
    NamespaceLabel(&'a str),
    Pod(&'a str),
    ServiceAccount,
    Cluster,
    Reserved(&'a str),
}

/// FNV-1a, 64 bits (RFC 9923): short, and the same everywhere.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The labels of one identity, from all sources.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LabelContext {
    /// Pods with the same labels, namespace and service account.
    Pod {
        /// Namespace.
        namespace: Arc<str>,
        /// Service account.
        service_account: Arc<str>,
        /// Labels of the pod.
        labels: Arc<Labels>,
        /// Labels of the namespace.
        namespace_labels: Arc<Labels>,
    },
    /// The labels of a reserved identity.
    Reserved(&'static [&'static str]),
}

impl LabelContext {
    /// The value of a label, if there is one.
    #[must_use]
    pub fn get(&self, key: &LabelKey) -> Option<&str> {
        match (self, key) {
            (Self::Pod { namespace, .. }, LabelKey::Namespace) => Some(namespace),
            (Self::Pod { namespace_labels, .. }, LabelKey::NamespaceLabel(key)) => {
                namespace_labels.get(key).map(AsRef::as_ref)
            }
            (Self::Pod { labels, .. }, LabelKey::Pod(key) | LabelKey::Any(key)) => {
                labels.get(key).map(AsRef::as_ref)
            }
            (Self::Pod { service_account, .. }, LabelKey::ServiceAccount) => Some(service_account),
            (Self::Pod { .. }, LabelKey::Cluster) => Some(CLUSTER_NAME),
            (Self::Reserved(names), LabelKey::Reserved(key) | LabelKey::Any(key)) => {
                names.contains(&key.as_ref()).then_some("")
            }
            _ => None,
        }
    }

    /// Calls `see` with every label and its value.
    pub(crate) fn for_each<'a>(&'a self, mut see: impl FnMut(LabelRef<'a>, &'a str)) {
        match self {
            Self::Pod { namespace, service_account, labels, namespace_labels } => {
                see(LabelRef::Namespace, namespace);
                see(LabelRef::ServiceAccount, service_account);
                see(LabelRef::Cluster, CLUSTER_NAME);
                for (key, value) in labels.iter() {
                    see(LabelRef::Pod(key), value);
                }
                for (key, value) in namespace_labels.iter() {
                    see(LabelRef::NamespaceLabel(key), value);
                }
            }
            Self::Reserved(names) => {
                for name in *names {
                    see(LabelRef::Reserved(name), "");
                }
            }
        }
    }

    /// A number that depends on the labels only: the same on every machine and in every release.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut sum = 0u64;
        self.for_each(|label_ref, value| {
            let (kind, key) = match label_ref {
                LabelRef::Namespace => (0, ""),
                LabelRef::NamespaceLabel(key) => (1, key),
                LabelRef::Pod(key) => (2, key),
                LabelRef::ServiceAccount => (3, ""),
                LabelRef::Cluster => (4, ""),
                LabelRef::Reserved(key) => (5, key),
            };
            let bytes = [&[kind][..], key.as_bytes(), &[0], value.as_bytes()];
            let hash = bytes
                .into_iter()
                .flatten()
                .fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
            sum = sum.wrapping_add(hash);
        });
        sum
    }

    /// The labels as Cilium and Hubble write them, `source:key=value`, sorted.
    #[must_use]
    pub fn to_labels(&self) -> Vec<String> {
        let mut labels = Vec::new();
        self.for_each(|key, value| {
            labels.push(match key {
                LabelRef::Namespace => format!("k8s:{POD_NAMESPACE}={value}"),
                LabelRef::NamespaceLabel(key) => {
                    format!("k8s:{NAMESPACE_LABELS}{key}={value}")
                }
                LabelRef::Pod(key) => format!("k8s:{key}={value}"),
                LabelRef::ServiceAccount => format!("k8s:{SERVICE_ACCOUNT}={value}"),
                LabelRef::Cluster => format!("k8s:{CLUSTER}={value}"),
                LabelRef::Reserved(key) => format!("reserved:{key}"),
            });
        });
        labels.sort_unstable();
        labels
    }
}
