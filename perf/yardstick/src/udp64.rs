//! UDP of 64 bytes from pod to pod, through podgate and through each forwarder.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::forwarders::{Bare, Filter, ForwarderPath, Kernel, Ovs, podgate};
use crate::measure::{Limit, Measurement};

pub(crate) const VS_BARE: &str = "xsk.udp64.vs_bare";
pub(crate) const VS_OVS: &str = "xsk.udp64.vs_ovs";
pub(crate) const VS_NFT_10: &str = "xsk.udp64.vs_nft.10";
pub(crate) const VS_NFT_1K: &str = "xsk.udp64.vs_nft.1k";
pub(crate) const VS_NFT_10K: &str = "xsk.udp64.vs_nft.10k";
pub(crate) const VS_NFT_CT_10K: &str = "xsk.udp64.vs_nft_ct.10k";

const WINDOW: Duration = Duration::from_millis(1000);
const WINDOW_QUICK: Duration = Duration::from_millis(500);

/// A comparison of podgate with a forwarder that has as many rules.
struct Comparison {
    id: &'static str,
    /// Number of rules of podgate, and of the forwarder if it has any.
    rules: u32,
    forwarder: ForwarderKind,
    bar: Option<Limit>,
    note: &'static str,
}

#[derive(Clone, Copy)]
enum ForwarderKind {
    Bare,
    Ovs,
    Stateless,
    Stateful,
}

const COMPARISONS: &[Comparison] = &[
    Comparison {
        id: VS_BARE,
        rules: 10,
        forwarder: ForwarderKind::Bare,
        bar: Some(Limit::AtLeast(0.95)),
        note: "the forwarder on xsk-rs parses no packet and has no rules",
    },
    Comparison {
        id: VS_OVS,
        rules: 10,
        forwarder: ForwarderKind::Ovs,
        bar: Some(Limit::AtLeast(1.5)),
        note: "Open vSwitch with as many OpenFlow rules and one PMD thread",
    },
    Comparison {
        id: VS_NFT_10,
        rules: 10,
        forwarder: ForwarderKind::Stateless,
        bar: Some(Limit::AtLeast(1.0)),
        note: "the kernel's rules are stateless and evaluated in sequence",
    },
    Comparison {
        id: VS_NFT_1K,
        rules: 1_000,
        forwarder: ForwarderKind::Stateless,
        bar: None,
        note: "the kernel's rules are stateless and evaluated in sequence",
    },
    Comparison {
        id: VS_NFT_10K,
        rules: 10_000,
        forwarder: ForwarderKind::Stateless,
        bar: Some(Limit::AtLeast(5.0)),
        note: "the kernel's rules are stateless and evaluated in sequence",
    },
    Comparison {
        id: VS_NFT_CT_10K,
        rules: 10_000,
        forwarder: ForwarderKind::Stateful,
        bar: None,
        note: "with connection tracking (br_netfilter) the kernel evaluates its rules once per flow",
    },
];

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_BARE, VS_OVS, VS_NFT_10, VS_NFT_1K, VS_NFT_10K, VS_NFT_CT_10K];

/// Measures the wanted ids, all in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let wanted: Vec<_> = COMPARISONS.iter().filter(|one| context.wants(one.id)).collect();
    let mut rules: Vec<u32> = wanted.iter().map(|one| one.rules).collect();
    rules.sort_unstable();
    rules.dedup();

    context.status("podgate and its pods");
    let lab = podgate::lab(&rules)?;
    let agent = podgate::start(&lab)?;
    let forwarders =
        wanted.iter().map(|one| Forwarder::start(one, context)).collect::<Result<Vec<_>>>()?;
    let ours = rules.iter().map(|rules| podgate::path(&lab, *rules)).collect::<Result<Vec<_>>>()?;
    let theirs = forwarders.iter().map(Forwarder::path).collect::<Result<Vec<_>>>()?;
    for path in &ours {
        path.check(true)?;
    }
    for (path, forwarder) in theirs.iter().zip(&forwarders) {
        path.check(!matches!(forwarder, Forwarder::Bare(_)))?;
    }

    let paths: Vec<&ForwarderPath<'_>> = ours.iter().chain(&theirs).collect();
    let values = rounds(context, &paths)?;
    agent.stop()?;
    let (ours, theirs) = values.split_at(rules.len());
    let measurement = |(comparison, theirs): (&&Comparison, &Vec<f64>)| {
        let Comparison { id, rules: count, bar, note, .. } = **comparison;
        let at = rules.iter().position(|rules| *rules == count).context("no such path")?;
        let measured = Measurement::new(id, "Mpps", ours[at].clone())
            .compared_with(comparison.forwarder.name(), theirs.clone())
            .note(note);
        anyhow::Ok(match bar {
            Some(bar) => measured.ratio_bar(bar),
            None => measured,
        })
    };
    wanted.iter().zip(theirs).map(measurement).collect()
}

/// Values of each path, one for each round. Every other round has the reverse order.
fn rounds(context: &Context, paths: &[&ForwarderPath<'_>]) -> Result<Vec<Vec<f64>>> {
    let window = if context.quick { WINDOW_QUICK } else { WINDOW };
    let mut values = vec![Vec::new(); paths.len()];
    for round in 0..context.rounds {
        let mut order: Vec<usize> = (0..paths.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for path in order {
            let name = paths[path].name();
            context.status(format!("xsk.udp64: round {} of {}: {name}", round + 1, context.rounds));
            values[path].push(paths[path].rate(window)? / 1e6);
        }
    }
    Ok(values)
}

impl ForwarderKind {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare AF_XDP forwarder",
            Self::Ovs => "OVS afxdp",
            Self::Stateless => "bridge + nftables",
            Self::Stateful => "bridge + nftables + conntrack",
        }
    }
}

enum Forwarder {
    Bare(Bare),
    Ovs(Ovs),
    Kernel(Kernel, &'static str),
}

impl Forwarder {
    fn start(comparison: &Comparison, context: &Context) -> Result<Self> {
        let Comparison { rules, forwarder, .. } = *comparison;
        context.status(forwarder.name());
        // Short, because link names contain it.
        let name = |prefix: &str| format!("{prefix}{rules}");
        Ok(match forwarder {
            ForwarderKind::Bare => Self::Bare(Bare::start()?),
            ForwarderKind::Ovs => Self::Ovs(Ovs::start("ovs", rules)?),
            ForwarderKind::Stateless => Self::Kernel(
                Kernel::start(&name("nft"), Filter::Stateless(rules))?,
                forwarder.name(),
            ),
            ForwarderKind::Stateful => {
                Self::Kernel(Kernel::start(&name("ct"), Filter::Stateful(rules))?, forwarder.name())
            }
        })
    }

    fn path(&self) -> Result<ForwarderPath<'_>> {
        match self {
            Self::Bare(bare) => bare.path(),
            Self::Ovs(ovs) => ovs.path(),
            Self::Kernel(kernel, name) => kernel.path(name),
        }
    }
}
