//! UDP of 64 bytes from pod to pod, through podgate and through each peer.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::peers::{Bare, Filter, Kernel, Lane, Ovs, podgate};

pub(crate) const VS_BARE: &str = "xsk.udp64.vs_bare";
pub(crate) const VS_OVS: &str = "xsk.udp64.vs_ovs";
pub(crate) const VS_NFT_10: &str = "xsk.udp64.vs_nft.10";
pub(crate) const VS_NFT_1K: &str = "xsk.udp64.vs_nft.1k";
pub(crate) const VS_NFT_10K: &str = "xsk.udp64.vs_nft.10k";
pub(crate) const VS_NFT_CT_10K: &str = "xsk.udp64.vs_nft_ct.10k";

const WINDOW: Duration = Duration::from_millis(1000);
const WINDOW_QUICK: Duration = Duration::from_millis(500);

/// What podgate is measured against, with as many rules.
struct Comparison {
    id: &'static str,
    /// Of podgate, and of the peer if it has rules.
    rules: u32,
    peer: PeerKind,
    bar: Option<Limit>,
    note: &'static str,
}

#[derive(Clone, Copy)]
enum PeerKind {
    Bare,
    Ovs,
    Stateless,
    Stateful,
}

const COMPARISONS: &[Comparison] = &[
    Comparison {
        id: VS_BARE,
        rules: 10,
        peer: PeerKind::Bare,
        bar: Some(Limit::AtLeast(0.95)),
        note: "the forwarder on xsk-rs looks at no packet and has no rules",
    },
    Comparison {
        id: VS_OVS,
        rules: 10,
        peer: PeerKind::Ovs,
        bar: Some(Limit::AtLeast(1.5)),
        note: "Open vSwitch with as many OpenFlow rules, one PMD thread",
    },
    Comparison {
        id: VS_NFT_10,
        rules: 10,
        peer: PeerKind::Stateless,
        bar: Some(Limit::AtLeast(1.0)),
        note: "the kernel's rules are stateless, one behind the other",
    },
    Comparison {
        id: VS_NFT_1K,
        rules: 1_000,
        peer: PeerKind::Stateless,
        bar: None,
        note: "the kernel's rules are stateless, one behind the other",
    },
    Comparison {
        id: VS_NFT_10K,
        rules: 10_000,
        peer: PeerKind::Stateless,
        bar: Some(Limit::AtLeast(5.0)),
        note: "the kernel's rules are stateless, one behind the other",
    },
    Comparison {
        id: VS_NFT_CT_10K,
        rules: 10_000,
        peer: PeerKind::Stateful,
        bar: None,
        note: "with connection tracking (br_netfilter) the kernel walks its rules once per flow",
    },
];

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_BARE, VS_OVS, VS_NFT_10, VS_NFT_1K, VS_NFT_10K, VS_NFT_CT_10K];

/// Measures what is asked for, all of it in the same rounds.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let wanted: Vec<_> = COMPARISONS.iter().filter(|one| context.wants(one.id)).collect();
    let mut rules: Vec<u32> = wanted.iter().map(|one| one.rules).collect();
    rules.sort_unstable();
    rules.dedup();

    context.doing("podgate and its pods");
    let lab = podgate::lab(&rules)?;
    let agent = podgate::start(&lab)?;
    let peers = wanted.iter().map(|one| Peer::start(one, context)).collect::<Result<Vec<_>>>()?;
    let ours = rules.iter().map(|rules| podgate::lane(&lab, *rules)).collect::<Result<Vec<_>>>()?;
    let theirs = peers.iter().map(Peer::lane).collect::<Result<Vec<_>>>()?;
    for lane in &ours {
        lane.check(true)?;
    }
    for (lane, peer) in theirs.iter().zip(&peers) {
        lane.check(!matches!(peer, Peer::Bare(_)))?;
    }

    let lanes: Vec<&Lane<'_>> = ours.iter().chain(&theirs).collect();
    let values = rounds(context, &lanes)?;
    agent.stop()?;
    let (ours, theirs) = values.split_at(rules.len());
    let measurement = |(comparison, theirs): (&&Comparison, &Vec<f64>)| {
        let Comparison { id, rules: count, bar, note, .. } = **comparison;
        let at = rules.iter().position(|rules| *rules == count).context("no such lane")?;
        let measured = Measurement::new(id, "Mpps", ours[at].clone())
            .against(comparison.peer.name(), theirs.clone())
            .note(note);
        anyhow::Ok(match bar {
            Some(bar) => measured.ratio_held_to(bar),
            None => measured,
        })
    };
    wanted.iter().zip(theirs).map(measurement).collect()
}

/// Values of each lane, one for each round. Every other round goes through the lanes backwards.
fn rounds(context: &Context, lanes: &[&Lane<'_>]) -> Result<Vec<Vec<f64>>> {
    let window = if context.quick { WINDOW_QUICK } else { WINDOW };
    let mut values = vec![Vec::new(); lanes.len()];
    for round in 0..context.rounds {
        let mut order: Vec<usize> = (0..lanes.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for lane in order {
            let name = lanes[lane].name();
            context.doing(format!("xsk.udp64: round {} of {}: {name}", round + 1, context.rounds));
            values[lane].push(lanes[lane].rate(window)? / 1e6);
        }
    }
    Ok(values)
}

impl PeerKind {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare AF_XDP forwarder",
            Self::Ovs => "OVS afxdp",
            Self::Stateless => "bridge + nftables",
            Self::Stateful => "bridge + nftables + conntrack",
        }
    }
}

enum Peer {
    Bare(Bare),
    Ovs(Ovs),
    Kernel(Kernel, &'static str),
}

impl Peer {
    fn start(comparison: &Comparison, context: &Context) -> Result<Self> {
        let Comparison { rules, peer, .. } = *comparison;
        context.doing(peer.name());
        // Short: they are in the names of links.
        let name = |prefix: &str| format!("{prefix}{rules}");
        Ok(match peer {
            PeerKind::Bare => Self::Bare(Bare::start()?),
            PeerKind::Ovs => Self::Ovs(Ovs::start("ovs", rules)?),
            PeerKind::Stateless => {
                Self::Kernel(Kernel::start(&name("nft"), Filter::Stateless(rules))?, peer.name())
            }
            PeerKind::Stateful => {
                Self::Kernel(Kernel::start(&name("ct"), Filter::Stateful(rules))?, peer.name())
            }
        })
    }

    fn lane(&self) -> Result<Lane<'_>> {
        match self {
            Self::Bare(bare) => bare.lane(),
            Self::Ovs(ovs) => ovs.lane(),
            Self::Kernel(kernel, name) => kernel.lane(name),
        }
    }
}
