//! Policy: what the API objects mean, and how they become the tables that the dataplane looks up.
//!
//! The path of an object: [`manifest`] (or an API server's watch) gives JSON; [`Store::apply`]
//! checks it by [`model`], which rejects everything that can't be enforced, with the name of the
//! field; [`rules`] is the normal form that every kind of policy is lowered to; [`compile()`] turns
//! all of them and the pods into [`podgate_tables::policy::PolicyTables`] and a [`Catalog`] of the
//! names behind the tables' numbers.
//!
//! The tables depend only on the objects in the store and on what it knows of DNS names, not on the
//! order of changes. [`NameTable`] knows how long a name resolves to an address.

#![forbid(unsafe_code)]

mod catalog;
mod compile;
mod directory;
pub mod explain;
mod fields;
mod key;
mod kinds;
mod labels;
mod lower;
pub mod manifest;
pub mod model;
mod names;
pub mod observe;
#[cfg(feature = "oracle")]
pub mod oracle;
mod rejection;
mod relevance;
pub mod rules;
mod selector;
mod store;
pub mod terminal;
mod this_node;
#[cfg(feature = "oracle")]
pub mod truth;

pub use catalog::{Catalog, IdentityInfo, PeerName, RuleOrigin, ServiceName};
pub use compile::{Compiled, Compiler, ServicesLeftOut, compile};
pub use key::{Kind, ObjectKey};
pub use labels::{LabelContext, LabelKey, Labels};
pub use names::{NameAddress, NameCounts, NameLimits, NameTable};
pub use podgate_names::PodName;
pub use rejection::{Rejection, SourceLocation, line as rejection_line};
pub use selector::{Requirement, Selector, Test};
pub use store::{
    DocumentKind, EnforcementMode, FileSync, Missing, ObjectCounts, PolicyState, PolicyStatus,
    Store, Translation,
};
pub use this_node::{Reason, ThisNode, UnknownNode};
