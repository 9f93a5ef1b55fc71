//! `podgate table flow`: arguments.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use podgate_api::{FlowSelector, protocol_number};

use super::{ClientArgs, examples};

/// `podgate table flow …`.
#[derive(Subcommand, Debug)]
pub enum TableFlowCommand {
    /// List the entries of the workers' flow tables: connections that are tracked.
    #[command(after_help = LIST_EXAMPLES)]
    List(TableFlowListArgs),
    /// Remove entries of the workers' flow tables.
    #[command(long_about = FLUSH_ABOUT, after_help = FLUSH_EXAMPLES)]
    Flush(TableFlowFlushArgs),
}

const LIST_EXAMPLES: &str = examples! {
    "podgate table flow list"
    "podgate table flow list shop/cart-0 --port 5432"
    "podgate table flow list -o json | jq '.flows[] | select(.verdict == \"inspected\")'"
};

const FLUSH_ABOUT: &str = "\
Remove entries of the workers' flow tables.

It is as if the agent had started without them: the next packet of a connection without L7 \
inspection is decided by policy again, and the connection continues if policy allows it in both \
directions; connections with L7 inspection are reset at both ends. Nothing passes that policy \
doesn't allow.";

const FLUSH_EXAMPLES: &str = examples! {
    "podgate table flow flush shop/cart-0"
    "podgate table flow flush --ip 192.0.2.7 --port 443"
    "podgate table flow flush --all"
};

/// Which flows.
#[derive(Args, Debug, Clone)]
pub struct FlowSelectorArgs {
    /// Only those of this endpoint: its pod or its link.
    #[arg(value_name = "NS/POD|LINK")]
    pub endpoint: Option<String>,
    /// Only those with this address, of either end or of the service.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// Only those with this port, of either end or of the service.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Only those of this protocol: tcp, udp, sctp, icmp, or a number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol_number)]
    pub protocol: Option<u8>,
}

impl FlowSelectorArgs {
    /// The same for the agent.
    #[must_use]
    pub fn selector(&self) -> FlowSelector {
        FlowSelector {
            endpoint: self.endpoint.clone(),
            address: self.ip,
            port: self.port,
            protocol: self.protocol,
        }
    }
}

/// Arguments of `podgate table flow list`.
#[derive(Args, Debug, Clone)]
pub struct TableFlowListArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Which.
    #[command(flatten)]
    pub which: FlowSelectorArgs,
}

/// Arguments of `podgate table flow flush`.
#[derive(Args, Debug, Clone)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
          .args(["endpoint", "ip", "port", "protocol", "all"]))]
pub struct TableFlowFlushArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Which.
    #[command(flatten)]
    pub which: FlowSelectorArgs,
    /// All of them.
    #[arg(long, conflicts_with_all = ["endpoint", "ip", "port", "protocol"])]
    pub all: bool,
}
