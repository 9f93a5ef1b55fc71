//! `podgate monitor`: arguments.

use clap::{Args, ValueEnum};

use super::{SocketArgs, examples};

pub(super) const MONITOR_ABOUT: &str = "\
Show what the workers report, as it happens: drops, policy verdicts, requests, ends of flows.

The lines are like those of `cilium-dbg monitor`. They are made from the same records as those of \
`podgate observe`, which has more filters and also shows past flows.";

pub(super) const MONITOR_EXAMPLES: &str = examples! {
    "podgate monitor"
    "podgate monitor -t drop -t policy-verdict"
    "podgate monitor --related-to shop/cart-0 -v"
    "podgate monitor --json | jq 'select(.drop_reason != null)'"
};

/// Arguments of `podgate monitor`.
#[derive(Args, Debug, Clone)]
pub struct MonitorArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Only events of this type; may be repeated.
    #[arg(short = 't', long = "type", value_enum, value_name = "TYPE")]
    pub types: Vec<MonitorType>,
    /// Only flows opened by this pod, or by this identity (a number); may be repeated.
    #[arg(long, value_name = "NS/POD|ID")]
    pub from: Vec<String>,
    /// Only flows opened to this pod, or to this identity (a number); may be repeated.
    #[arg(long, value_name = "NS/POD|ID")]
    pub to: Vec<String>,
    /// Only flows with this pod or identity (a number) at either end; may be repeated.
    #[arg(long, value_name = "NS/POD|ID", conflicts_with_all = ["from", "to"])]
    pub related_to: Vec<String>,
    /// Print each record as a line of JSON.
    #[arg(short, long, conflicts_with = "verbose")]
    pub json: bool,
    /// Print pods, labels and rules, too.
    #[arg(short, long)]
    pub verbose: bool,
    /// Print this many past events first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub last: u32,
}

/// Types of events.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MonitorType {
    /// Packets and requests that were dropped.
    Drop,
    /// Ends of flows, with their packets and bytes.
    Trace,
    /// What policy decided on flows.
    PolicyVerdict,
    /// Requests and responses.
    L7,
}
