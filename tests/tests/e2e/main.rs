//! The real `podgate` between pods in network namespaces, end to end.
//!
//! Each test builds its own lab, which takes half a second. Only one lab exists at a time.

mod beyond_node;
mod capture;
mod client_server;
mod cni;
mod confined;
mod cut_off;
mod dns;
mod dropped_frames;
mod explain;
mod flood;
mod fqdn;
mod hairpin;
mod hostile;
mod http;
mod http2;
mod http_interop;
mod hubble;
mod isolation;
mod kafka;
mod kube;
mod lifecycle;
mod limits;
mod links;
mod manifest_files;
mod manifests;
mod memory;
mod metrics;
mod mtu;
mod network_changes;
mod node;
mod operate;
mod packets;
mod policy_change;
mod replay;
mod restart;
mod scenario;
mod services;
mod spoof;
mod state;
mod tls;
mod tunnels;
mod ui;
mod workers;
