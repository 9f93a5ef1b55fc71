//! Kinds of objects, and the key of an object.

use std::fmt;

use crate::kinds::for_each_kind;

/// Whether objects of a kind have a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    ClusterWide,
    Namespaced,
}

/// Where a kind comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Api {
    /// Kubernetes itself: each API server has it.
    BuiltIn,
    /// A CustomResourceDefinition: a cluster may lack it.
    Custom,
}

/// What is the same for all objects of a kind.
#[derive(Debug)]
struct Row {
    name: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
    scope: Scope,
    api: Api,
    is_policy: bool,
}

macro_rules! row {
    ($is_policy:literal, {
        name: $name:literal, plural: $plural:literal, versions: $versions:tt,
        scope: $scope:ident, api: $api:ident
    }) => {
        Row {
            name: $name,
            plural: $plural,
            versions: &$versions,
            scope: Scope::$scope,
            api: Api::$api,
            is_policy: $is_policy,
        }
    };
}

macro_rules! define_kinds {
    (
        objects { $($(#[$doc:meta])* $kind:ident {
            resource: $resource:tt, model: $model:ident, set: $set:ident
        })+ }
        policies { $($(#[$policy_doc:meta])* $policy:ident {
            resource: $policy_resource:tt, model: $policy_model:ident
        })+ }
    ) => {
        /// The kinds of objects that verdicts depend on.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
            $($(#[$policy_doc])* $policy,)+
        }

        /// By [`Kind`], in the same order.
        const TABLE: &[Row] = &[
            $(row!(false, $resource),)+
            $(row!(true, $policy_resource),)+
        ];

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)+ $(Self::$policy,)+];
        }
    };
}

for_each_kind!(define_kinds);

impl Kind {
    const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The `kind` field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The resource's name in the API server's paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        self.row().plural
    }

    /// The preferred `apiVersion`.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        self.api_versions()[0]
    }

    /// Every `apiVersion` in which objects of this kind are read, the preferred one first.
    #[must_use]
    pub const fn api_versions(self) -> &'static [&'static str] {
        self.row().versions
    }

    /// Whether objects of this kind have a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        matches!(self.row().scope, Scope::Namespaced)
    }

    /// Whether the kind is defined by a CustomResourceDefinition, so that a cluster may lack it.
    #[must_use]
    pub const fn is_custom(self) -> bool {
        matches!(self.row().api, Api::Custom)
    }

    /// Whether objects of this kind are policies.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        self.row().is_policy
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

/// Identifies one object. Shown as `NetworkPolicy shop/allow-web`.
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
