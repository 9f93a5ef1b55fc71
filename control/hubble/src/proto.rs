//! Messages and services: generated from `proto/`, and committed, so that building needs no
//! protocol buffer compiler. `tests/generated.rs` compares, and writes them after a change.

use std::pin::Pin;

use futures_util::Stream;
use tonic::Status;

/// A stream of responses.
pub(crate) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Packages, with the names that generated code uses for each other.
macro_rules! packages {
    ($($(#[doc = $doc:literal])+ $name:ident = $file:literal,)+) => {$(
        $(#[doc = $doc])+
        #[allow(missing_docs, unreachable_pub, unused_qualifications)]
        #[allow(clippy::all, clippy::semicolon_if_nothing_returned, clippy::needless_pass_by_value)]
        #[rustfmt::skip]
        #[path = $file]
        pub mod $name;
    )+};
}

packages! {
    /// Flows and filters.
    flow = "generated/flow.rs",
    /// The service of flows.
    observer = "generated/observer.rs",
    /// Nodes that serve flows.
    peer = "generated/peer.rs",
    /// State of nodes.
    relay = "generated/relay.rs",
    /// Health of services.
    health = "generated/grpc_health_v1.rs",
}

#[rustfmt::skip]
#[path = "generated/fields.rs"]
pub(crate) mod fields;
