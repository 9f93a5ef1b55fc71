//! What policies refer to: groups of networks, services and nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{CidrGroup, EndpointSlice, Node, Service};

/// Name of a namespaced object: namespace, then name.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// The objects that lowering looks up. Policies that refer to one are lowered again when it changes.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) nodes: BTreeMap<Arc<str>, Node>,
    pub(crate) cidr_groups: BTreeMap<Arc<str>, CidrGroup>,
    pub(crate) services: BTreeMap<Name, Service>,
    pub(crate) slices: BTreeMap<Name, EndpointSlice>,
}
