//! `yardstick`: podgate measured beside its peers.

mod peers;
mod traffic;

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use peers::{Bare, Filter, Kernel, Lane, Ovs, podgate};
use traffic::PodLink;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Forward between two pods' links of this network namespace, on AF_XDP, with no policy.
    Bare {
        /// LINK,MAC,POD_MAC of each: the node's end of its veth, and the Ethernet addresses of both ends.
        #[arg(num_args = 2, required = true)]
        links: Vec<String>,
    },
    /// Measure.
    Udp {
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        #[arg(long, default_value_t = 400)]
        window: u64,
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yardstick: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Cmd) -> Result<()> {
    match command {
        Cmd::Bare { links } => {
            let links: Vec<_> = links.iter().map(|text| link(text)).collect::<Result<_>>()?;
            let [a, b] = links.as_slice() else { anyhow::bail!("two links") };
            traffic::forward(&[a.clone(), b.clone()], &AtomicBool::new(false), || {
                println!("{}", peers::BARE_READY);
            })
        }
        Cmd::Udp { rounds, window, only } => udp(rounds, Duration::from_millis(window), &only),
    }
}

fn link(text: &str) -> Result<PodLink> {
    let parts: Vec<_> = text.split(',').collect();
    let [name, mac, pod_mac] = parts.as_slice() else { anyhow::bail!("{text}: LINK,MAC,MAC") };
    Ok(PodLink { name: (*name).into(), mac: parse_mac(mac)?, pod_mac: parse_mac(pod_mac)? })
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<_> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is no Ethernet address"))
}

fn udp(rounds: u32, window: Duration, only: &[String]) -> Result<()> {
    let wants = |name: &str| only.is_empty() || only.iter().any(|o| name.starts_with(o.as_str()));
    let start = std::time::Instant::now();
    let at = |what: &str| eprintln!("{:6.2} {what}", start.elapsed().as_secs_f64());
    let lab = podgate::lab(&[10, 10_000])?;
    at("lab");
    let mut lanes: Vec<(Lane<'_>, bool)> = Vec::new();
    let _agent = podgate::start(&lab)?;
    at("agent");
    let bare = wants("bare").then(Bare::start).transpose()?;
    at("bare");
    let ovs = wants("ovs").then(|| Ovs::start("ovs", 10)).transpose()?;
    at("ovs");
    let mut kernels = Vec::new();
    for (name, filter) in [
        ("bridge", Filter::None),
        ("nft10", Filter::Stateless(10)),
        ("nft1k", Filter::Stateless(1000)),
        ("nft10k", Filter::Stateless(10_000)),
        ("nftct10k", Filter::Stateful(10_000)),
    ] {
        if wants(name) {
            kernels.push((name, Kernel::start(name, filter)?, filter != Filter::None));
        }
        at(name);
    }
    for rules in [10, 10_000] {
        if wants("podgate") {
            lanes.push((podgate::lane(&lab, rules)?, true));
        }
    }
    if let Some(bare) = &bare {
        lanes.push((bare.lane()?, false));
    }
    if let Some(ovs) = &ovs {
        lanes.push((ovs.lane()?, true));
    }
    for (name, kernel, enforces) in &kernels {
        lanes.push((kernel.lane(name)?, *enforces));
    }
    for (lane, enforces) in &lanes {
        lane.check(*enforces)?;
        at(lane.name());
    }
    ensure!(!lanes.is_empty(), "nothing to measure");
    for _ in 0..rounds {
        for (lane, _) in &lanes {
            println!("{:14} {:.3} Mpps", lane.name(), lane.rate(window)? / 1e6);
        }
    }
    at("end");
    Ok(())
}
