//! The forwarders that are compared: podgate and others. Each has its own pair of pods in its
//! own namespaces.
//!
//! | name | forwarder | rule set |
//! |---|---|---|
//! | [`podgate`] | the release agent, one worker | N + 1 NetworkPolicies for the receiving pod |
//! | [`Bare`] | [`forward`](crate::traffic::forward) on xsk-rs | none |
//! | [`Kernel`] | bridge and nftables | N + 1 rules, default drop |
//! | [`Ovs`] | Open vSwitch, `netdev` datapath, native `afxdp` ports | N + 1 rules, default drop |
//!
//! # How the comparison is kept fair
//!
//! - **Rules.** N rules that the measured flow doesn't match (each names another source address and
//!   port) and then the one that it does; what no rule names is dropped. nftables gets them as a
//!   sequence of rules, as from agents that translate policies one by one.
//! - **State.** NetworkPolicy allows replies. podgate tracks flows for that, and so does Open
//!   vSwitch's cache in effect. The kernel's bridge family can't (CONFIG_NF_CONNTRACK_BRIDGE is off
//!   in many kernels): its rules are stateless, which is *less* work. [`Filter::Stateful`] is the
//!   kernel with connection tracking (br_netfilter), which evaluates its rules once per flow, like
//!   podgate.
//! - **Cores.** The generator has core 0 and the forwarder core 1. Behind AF_XDP the softirq that
//!   puts frames into the socket runs on the generator's core, with any forwarder. The kernel gets
//!   a threaded NAPI on core 1 for its receiving link, so that it has a core to itself, too.
//! - **Links.** All are veth pairs with one queue. TX checksum offload is off in the pods behind
//!   AF_XDP, as AF_XDP on a veth needs it (podgate turns it off itself). Pods have the MTU that
//!   serves their forwarder best: 65,000 bytes with podgate, which has no TSO but large packets;
//!   1,500 with the bridge, which forwards TSO packets of 64 kB, and with Open vSwitch, whose
//!   AF_XDP ports take no packet larger than a page.
//! - **Check.** Before a forwarder is measured, [`ForwarderPath::check`] checks that it forwards
//!   and drops what it must.
//! - **One at a time.** All pods exist for the whole run. Forwarders that spin are suspended
//!   (SIGSTOP) while others are measured.

mod bare;
mod kernel;
mod ovs;
mod pair;
mod path;
pub(crate) mod podgate;

pub(crate) use bare::{Bare, READY as BARE_READY};
pub(crate) use kernel::{Filter, Kernel};
pub(crate) use ovs::Ovs;
pub(crate) use pair::{Pair, Pod};
pub(crate) use path::ForwarderPath;

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use podgate_tests::lab::{Netns, run};

use crate::traffic::{FORWARDER_CORE, pin};

/// UDP port of the measured flow.
pub(crate) const MEASURED_PORT: u16 = 9000;
/// UDP port that no rule allows.
pub(crate) const DENIED_PORT: u16 = 9001;
/// TCP port of throughput measurements.
pub(crate) const BULK_PORT: u16 = 5201;
/// TCP port of latency measurements.
pub(crate) const ECHO_PORT: u16 = 5202;

/// Source address and port of non-matching rule number `index`.
fn other_rule(index: u32) -> (Ipv4Addr, u16) {
    const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 200, 0, 1]);
    const FIRST_PORT: u32 = 10_000;
    const PORTS: u32 = 50_000;
    let port = FIRST_PORT + index % PORTS;
    (Ipv4Addr::from(FIRST_ADDRESS + index), port as u16)
}

/// Timeout of an administrative command.
const COMMAND_BOUND: Duration = Duration::from_secs(30);

/// Runs a program in a namespace to its end, and returns its output.
fn run_in(netns: &Netns, program: &str, args: &[&str]) -> Result<String> {
    run(netns.bounded(program, COMMAND_BOUND).args(args))
}

/// Runs `work` on the forwarders' core, to which the processes that it starts are pinned, too.
pub(crate) fn on_forwarder_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let outcome = thread::scope(|scope| {
        let pinned = || {
            pin(FORWARDER_CORE)?;
            work()
        };
        scope.spawn(pinned).join()
    });
    outcome.map_err(|_| anyhow!("a thread on the forwarders' core panicked"))?
}
