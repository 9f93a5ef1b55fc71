//! The network stack of the node, as podgate reads and changes it.
//!
//! [`Netlink`] reads and changes links, addresses and routes, [`changes`] reports changes that
//! others make, [`TunnelReader`] lists the UDP ports that the kernel receives tunnels on. Work in
//! another network namespace runs on a thread of its own ([`netns`]). [`offload`] switches TX
//! checksum offload.
#![forbid(unsafe_code)]

mod netlink;
pub mod netns;
pub mod offload;

pub use netlink::{
    Change, GATEWAY_V4, GATEWAY_V6, Link, Netlink, NetlinkError, ROUTE_MTU_MAX, Route, RouteMode,
    Routes, TunnelReader, changes, gateway_for, path_mtu,
};
