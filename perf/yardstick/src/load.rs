//! A peer under load for as long as you like: for profilers.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::peers::{BARE_READY, Bare, Filter, Kernel, Lane, Ovs, podgate};
use crate::traffic::{self, PodLink};

/// How often a rate is printed.
const WINDOW: Duration = Duration::from_secs(1);

/// Options of `yardstick load`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Through whom the frames go.
    #[arg(long, value_enum, default_value_t = Through::Podgate)]
    through: Through,
    /// Rules that don't match the flow.
    #[arg(long, value_name = "N", default_value_t = 10)]
    rules: u32,
    /// Send by an AF_XDP socket in the pod, which is slower than frames made by the kernel.
    #[arg(long)]
    socket: bool,
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// Who can be loaded.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    /// The agent that PODGATE_BIN names, or cargo builds.
    Podgate,
    /// The bare forwarder on xsk-rs.
    Bare,
    /// Open vSwitch with AF_XDP ports.
    Ovs,
    /// A bridge with stateless nftables rules.
    Nft,
    /// A bridge with nftables rules and connection tracking.
    NftCt,
}

/// Options of `yardstick forward`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ForwardArgs {
    /// The node's end of each pod's veth: its name, its Ethernet address and the pod's.
    #[arg(value_name = "LINK,MAC,POD_MAC", num_args = 2, required = true, value_parser = link)]
    links: Vec<PodLink>,
}

/// Loads a peer, and prints once a second what arrives.
pub(crate) fn load(args: &LoadArgs) -> Result<()> {
    let rules = args.rules;
    match args.through {
        Through::Podgate => {
            let lab = podgate::lab(&[rules])?;
            let agent = podgate::start(&lab)?;
            drive(args, &podgate::lane(&lab, rules)?)?;
            agent.stop()
        }
        Through::Bare => drive(args, &Bare::start()?.lane()?),
        Through::Ovs => drive(args, &Ovs::start("ovs", rules)?.lane()?),
        Through::Nft => drive(args, &Kernel::start("nft", Filter::Stateless(rules))?.lane("nft")?),
        Through::NftCt => {
            drive(args, &Kernel::start("ct", Filter::Stateful(rules))?.lane("nft-ct")?)
        }
    }
}

fn drive(args: &LoadArgs, lane: &Lane<'_>) -> Result<()> {
    lane.check(args.through != Through::Bare)?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(args.seconds) {
        let rate = if args.socket { lane.rate_by_socket(WINDOW)? } else { lane.rate(WINDOW)? };
        println!("{} {:.3} Mpps", lane.name(), rate / 1e6);
    }
    Ok(())
}

/// Forwards, in this process and its namespace, until it is killed.
pub(crate) fn forward(args: &ForwardArgs) -> Result<()> {
    let [a, b] = args.links.as_slice() else { bail!("two links") };
    let ready = || println!("{BARE_READY}");
    traffic::forward(&[a.clone(), b.clone()], &AtomicBool::new(false), ready)
}

fn link(text: &str) -> Result<PodLink> {
    let parts: Vec<_> = text.split(',').collect();
    let [name, mac, pod_mac] = parts.as_slice() else { bail!("it has three parts") };
    Ok(PodLink { name: (*name).into(), mac: ethernet(mac)?, pod_mac: ethernet(pod_mac)? })
}

fn ethernet(text: &str) -> Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<_> = bytes.collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is no Ethernet address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_with_both_its_addresses() {
        let link = link("veth0,02:00:00:00:01:0a,02:00:00:00:02:ff").unwrap();
        assert_eq!((link.name.as_str(), link.mac[5], link.pod_mac[5]), ("veth0", 0x0a, 0xff));
        for wrong in ["veth0", "veth0,02:00,02:00:00:00:02:01", "a,02:00:00:00:01:xx,b", "a,b,c,d"]
        {
            assert!(super::link(wrong).is_err(), "{wrong}");
        }
    }
}
